// zmlx kernel: that test and bench say what was not compiled, that names are found, and that what has no source is refused. The command
// itself runs, in a shell, with a cache folder of its own.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "base/base.h"
#include "kernel_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

static char out[1 << 18]; // what the last command wrote, both streams

// Runs `zmlx kernel` with these words behind the environment given; the exit status.
static int run(const char *environment, const char *words) {
  char command[2048];
  const char *build = getenv("TEST_BUILD");
  snprintf(command, sizeof command, "%s %s/zmlx kernel %s 2>&1", environment, build ? build : "build", words);
  fflush(NULL);
  FILE *f = popen(command, "r");
  assert_non_null(f);
  const size_t size = fread(out, 1, sizeof out - 1, f);
  out[size] = 0;
  const int status = pclose(f);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void assert_says(const char *words) {
  if (!strstr(out, words)) fail_msg("\"%s\" is not in: %s", words, out);
}

static void assert_silent(const char *words) {
  if (strstr(out, words)) fail_msg("\"%s\" is in: %s", words, out);
}

static const char *script(const char *name, const char *text) {
  static char environment[1200];
  const char *path = kernel_script(name, text);
  assert_non_null(path);
  snprintf(environment, sizeof environment, "ZMLX_CC=%s ZMLX_CC_SECONDS=1", path);
  return environment;
}

static void a_test_that_compiled_nothing_fails(void **state) {
  (void)state;
  static const struct {
    const char *name, *text, *words;
  } compilers[] = {
      {"fails", "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'error: the moon is full' >&2\nexit 3\n", "error: the moon is full"},
      {"hangs", "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\nsleep 100\n", "had not compiled it after 1 seconds"},
      {"junk", "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = -o ] && echo junk >\"$2\"; shift; done\n", "could not be loaded"},
  };
  assert_int_equal(run("ZMLX_CC=/nonexistent", "test mish"), 1);
  assert_says("FAILED mish: float32: not compiled: ZMLX_CC names /nonexistent");
  assert_says("0 passed, 1 failed");
  for (size_t i = 0; i < ZMI_COUNT(compilers); i++) {
    assert_int_equal(run(script(compilers[i].name, compilers[i].text), "test mish --dtype float32"), 1);
    assert_says("FAILED mish: float32: not compiled: ");
    assert_says(compilers[i].words);
  }
  assert_int_equal(run("ZMLX_CC=/nonexistent", "test mish --dtype float32 --json"), 1);
  assert_says("\"failed\": 1");
  assert_int_equal(run("", "test mish --dtype float32"), 0);
  assert_says("ok     mish\n1 passed, 0 failed\n");
}

// Without any compiler the interpreter alone is tested, and that is said.
static void a_machine_without_a_compiler(void **state) {
  (void)state;
  char environment[1200];
  snprintf(environment, sizeof environment, "PATH=%s", folder.path);
  assert_int_equal(run(environment, "test mish"), 0);
  assert_says("ok     mish\n1 passed, 0 failed; compiled kernels were skipped: no C compiler was found on PATH");
  assert_int_equal(run(environment, "test mish --json"), 0);
  assert_says("\"skipped\": \"no C compiler was found");
}

static void a_bench_says_what_it_times(void **state) {
  (void)state;
  assert_int_equal(run("ZMLX_CC=/nonexistent", "bench mish --runs 1 --elements 1000"), 0);
  assert_says("mish is the time of the interpreter: ZMLX_CC names /nonexistent");
  assert_int_equal(run("ZMLX_CC=/nonexistent", "bench mish --runs 1 --elements 1000 --json"), 0);
  assert_says("\"interpreted\": \"ZMLX_CC names /nonexistent");
  assert_int_equal(run("", "bench mish --runs 1 --elements 1000"), 0);
  assert_silent("interpreter");
}

static void every_row_has_dtypes(void **state) {
  (void)state;
  assert_int_equal(run("", "list --json"), 0);
  assert_silent("\"dtypes\": null");
  assert_says("\"dtypes\": \"float16, bfloat16, float32\"");
}

// A source, or an error: nothing that looks like an empty kernel.
static void what_has_no_source_is_refused(void **state) {
  (void)state;
  static const char *const targets[] = {"c", "cuda", "metal", "ir"};
  char words[200], said[200];
  for (size_t i = 0; i < ZMI_COUNT(targets); i++) {
    snprintf(words, sizeof words, "show zm_moe_dispatch --target %s%s", targets[i], i == 2 ? " --json" : "");
    snprintf(said, sizeof said, "moe_dispatch has no source for %s: it is made of operations in C, in src/catalog/moe.c\n", targets[i]);
    assert_int_equal(run("", words), 1);
    assert_says(said);
    assert_silent("//");
  }
  assert_int_equal(run("", "show attention_tile_proto --vjp"), 1);
  assert_says("the gradients of attention_tile_proto have no source for c: they are made of operations in C, in src/catalog/attention.c");
  assert_int_equal(run("", "show argmax_lastdim --vjp"), 1);
  assert_says("argmax_lastdim has no gradient: results are integers");
  assert_int_equal(run("", "show argmax_lastdim --target cuda"), 0);
  assert_says("__global__");
}

// The page has names of functions.
static void names_of_functions_are_found(void **state) {
  (void)state;
  assert_int_equal(run("", "list mul"), 0);
  char *row = strdup(out);
  assert_int_equal(run("", "list zm_multiply"), 0);
  assert_string_equal(out, row);
  assert_int_equal(run("", "list multiply"), 0);
  assert_string_equal(out, row);
  free(row);
  assert_int_equal(run("", "show multiplt"), 2);
  assert_says("did you mean multiply?");
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, kernel_set_up, kernel_tear_down)
  const struct CMUnitTest tests[] = {
      TEST(a_test_that_compiled_nothing_fails), TEST(a_machine_without_a_compiler),
      TEST(a_bench_says_what_it_times),         TEST(every_row_has_dtypes),
      TEST(what_has_no_source_is_refused),      TEST(names_of_functions_are_found),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
