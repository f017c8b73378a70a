// Device code of the CUDA backend, without a GPU: every kind of instruction simulated on the CPU against the CPU backend's functions, bit by
// bit, with shuffled threads and blocks and several numbers of workers; and the text through NVRTC, where it is installed.
#include "base/base.h"
#include "gpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- the simulation itself ----

void gpu_probe_sum(void *), gpu_probe_chain(void *), gpu_probe_ended(void *), gpu_probe_divergent(void *), gpu_probe_warp(void *),
    gpu_probe_forever(void *), gpu_probe_behind(void *), gpu_probe_garbage(void *);

static void simulation(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 4; seed++) {
    unsigned sums[20] = {0}, count = 0, first = 0;
    assert_null(gpu_simulate(gpu_probe_sum, sums, 20, 32, seed));
    for (int i = 0; i < 20; i++) assert_int_equal(sums[i], 255 * 128);
    assert_null(gpu_simulate(gpu_probe_chain, &count, GPU_RESIDENT_BLOCKS, 0, seed));
    assert_int_equal(count, GPU_RESIDENT_BLOCKS);
    assert_null(gpu_simulate(gpu_probe_garbage, &first, 1, 64, seed));
    assert_int_not_equal(first, 0);
  }
}

static void simulation_finds_what_hangs(void **state) {
  (void)state;
  static const struct {
    void (*kernel)(void *);
    const char *words;
  } cases[] = {
      {gpu_probe_ended, "255 threads wait for their block"},
      {gpu_probe_divergent, "others of which wait at line"},
      {gpu_probe_warp, "31 for their warp"},
      {gpu_probe_forever, "nothing but wait"},
      {gpu_probe_behind, "wrote behind its shared memory"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    for (uint64_t seed = 0; seed < 3; seed++) {
      const char *wrong = gpu_simulate(cases[i].kernel, NULL, 3, 64, seed);
      if (!wrong || !strstr(wrong, cases[i].words)) fail_msg("%s: %s", cases[i].words, wrong ? wrong : "nothing found");
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(simulation),
      cmocka_unit_test(simulation_finds_what_hangs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
