// The host side of the CUDA backend without a GPU: models, sessions and executors on an imitated driver (shim/fake_cuda.c) that runs the
// device code on a simulated machine. Logits have the bits of the CPU; each failure of the driver is one clear sentence and leaves nothing
// behind.
#include "lm/lm.h"
#include "shim/fake_cuda.h"
#include "temp.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
static const bool watched = true;
#else
static const bool watched = false;
#endif

enum { MOST_ROWS = 160 };

static temp_folder cache, nothing;
static char libraries[600];

// ---- what the imitation counted ----

static void *symbol_of(const char *library, const char *name) {
  char path[700];
  void *at = NULL;
  snprintf(path, sizeof path, "%s/%s", libraries, library);
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle || !(at = dlsym(handle, name))) fail_msg("%s: no %s", path, name);
  return at;
}

static fake_cuda_facts *driver(void) {
  fake_cuda_facts *(*look)(void);
  void *at = symbol_of("libcuda.so.1", "fake_cuda_look");
  memcpy(&look, &at, sizeof look);
  return look();
}

static fake_nvrtc_facts *compiler(void) {
  fake_nvrtc_facts *(*look)(void);
  void *at = symbol_of("libnvrtc.so.13", "fake_nvrtc_look");
  memcpy(&look, &at, sizeof look);
  return look();
}

static void nothing_is_left(void) {
  const fake_cuda_facts *f = driver();
  if (f->wrong[0]) fail_msg("the driver is misused: %s", f->wrong);
  const int alive = f->memories + f->host_memories + f->streams + f->events + f->modules + f->graphs + f->execs + f->contexts;
  if (alive || f->bytes || compiler()->programs) {
    fail_msg("left: %d memories (%zu bytes), %d of the host, %d streams, %d events, %d modules, %d graphs, %d of them playable, %d "
             "contexts, %d programs",
             f->memories, f->bytes, f->host_memories, f->streams, f->events, f->modules, f->graphs, f->execs, f->contexts,
             compiler()->programs);
  }
}

// ---- playing ----

typedef struct way {
  const char *path;
  zm_dtype dtype;
  zm_model_device device;
  zm_executor executor;
  bool patched;
  int chunk, others; // rows of a step of sequence 0; whether sequence 1 has a row in each step
} way;

static zm_model *open_model(const way *w) {
  return zm_model_open(
      w->path, &(zm_model_options){.dtype = w->dtype, .threads = 1, .context = MOST_ROWS, .device = w->device, .executor = w->executor});
}

static zm_session *open_session(zm_model *m, const way *w) {
  return zm_session_open(m, &(zm_session_options){.context = MOST_ROWS, .sequences = 1 + w->others});
}

static int32_t token_of(int sequence, int position, int32_t vocab) {
  return (int32_t)(zmi_uniform((uint64_t)sequence + 7, (uint64_t)position) * vocab);
}

static void must(zm_status status) {
  if (status != ZM_OK) fail_msg("%s: %s %s", zm_status_name(status), zm_last_error(), driver()->wrong);
}

// Logits of `count` positions of sequence 0, then of the last rows of sequence 1; from calloc.
static float *play(const way *w, int count) {
  zm_row rows[MOST_ROWS];
  zm_model *m = open_model(w);
  if (!m) fail_msg("%s: %s", w->path, zm_last_error());
  must(w->patched ? zm_patch(m, NULL, NULL) : zm_unpatch(m));
  const size_t vocab = (size_t)zmi_model_vocab(m);
  zm_session *s = open_session(m, w);
  if (!s) fail_msg("%s: %s", w->path, zm_last_error());
  float *logits = calloc((size_t)count * vocab, sizeof *logits), *out = calloc((size_t)(w->chunk + 1) * vocab, sizeof *out);
  for (int i = 0; i < count; i += w->chunk) {
    const int n = ZMI_MIN(w->chunk, count - i);
    for (int k = 0; k < n; k++) rows[k + w->others] = (zm_row){0, token_of(0, i + k, (int32_t)vocab)};
    if (w->others) rows[0] = (zm_row){1, token_of(1, i, (int32_t)vocab)};
    must(zm_session_step(s, rows, (size_t)(n + w->others), out, (size_t)n));
    memcpy(logits + (size_t)i * vocab, out, (size_t)n * vocab * sizeof *out);
  }
  free(out);
  zm_session_close(s);
  zm_model_close(m);
  return logits;
}

static size_t vocab_of(const char *path) {
  zmi_model_plan plan;
  must(zmi_model_plan_path(path, NULL, &plan));
  return (size_t)plan.vocab;
}

static void compare(const float *plain, const way *w, int count) {
  float *got = play(w, count);
  const size_t vocab = vocab_of(w->path);
  for (int i = 0; i < count; i++) {
    if (memcmp(plain + (size_t)i * vocab, got + (size_t)i * vocab, vocab * sizeof *got) == 0) continue;
    fail_msg("%s %s: position %d differs (executor %d, %s, chunk %d, %d other sequences)", w->path, zm_dtype_name(w->dtype), i,
             (int)w->executor, w->patched ? "patched" : "stock", w->chunk, w->others);
  }
  free(got);
  nothing_is_left();
}

// Chunks of 1, 3 and all rows, each with other executors and patterns; `count` positions.
static void check_checkpoint(const char *path, zm_dtype dtype, int count) {
  float *plain = play(&(way){.path = path, .dtype = dtype, .chunk = 8}, count);
  const way ways[] = {{.executor = ZM_EXECUTOR_STREAM, .chunk = 1},
                      {.executor = ZM_EXECUTOR_GRAPH, .chunk = 1, .patched = true},
                      {.executor = ZM_EXECUTOR_GRAPH, .chunk = 3},
                      {.executor = ZM_EXECUTOR_STREAM, .chunk = 3, .patched = true},
                      {.executor = ZM_EXECUTOR_AUTO, .chunk = 2, .others = 1},
                      {.executor = ZM_EXECUTOR_STREAM, .chunk = 1, .others = 1, .patched = true},
                      {.executor = ZM_EXECUTOR_STREAM, .chunk = count},
                      {.executor = ZM_EXECUTOR_GRAPH, .chunk = count, .patched = true}};
  for (size_t i = 0; i < ZMI_COUNT(ways); i++) {
    way w = ways[i];
    w.path = path;
    w.dtype = dtype;
    w.device = ZM_MODEL_CUDA;
    compare(plain, &w, count);
  }
  free(plain);
}

static void logits_have_the_bits_of_the_cpu(void **state) {
  (void)state;
  static const char *const tiny[] = {"tiny-floats",       "tiny-lfm2",      "tiny-lfm2_moe", "tiny-lfm2_moe-hf",
                                     "tiny-llama-biases", "tiny-llama-f32", "tiny-mistral",  "tiny-qwen3_moe"};
  for (size_t i = 0; i < ZMI_COUNT(tiny); i++) {
    char path[64];
    snprintf(path, sizeof path, "checkpoints/%s", tiny[i]);
    check_checkpoint(path, ZM_BF16, 5);
    check_checkpoint(path, ZM_F32, 4);
  }
}

static int enter(void **state) {
  (void)state;
  const char *build = getenv("TEST_BUILD");
  snprintf(libraries, sizeof libraries, "%s/tests/shim", build ? build : "build");
  unsetenv("ZMLX_FAKE_CUDA");
  if (temp_make(&cache) || temp_make(&nothing)) return -1;
  return setenv("ZMLX_CACHE_DIR", cache.path, 1) || setenv("ZMLX_CUDA_PATH", libraries, 1);
}

static int leave(void **state) {
  (void)state;
  temp_remove(&cache);
  temp_remove(&nothing);
  return 0;
}

int main(void) {
  (void)watched;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(logits_have_the_bits_of_the_cpu),
  };
  return cmocka_run_group_tests(tests, enter, leave);
}
