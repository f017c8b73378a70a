// What tests of the CUDA backend's host side have in common: the imitated driver and compiler (shim/fake_cuda.c, shim/fake_nvrtc.c), models
// and sessions on it.
#ifndef ZMLX_TEST_FAKE_GPU_H
#define ZMLX_TEST_FAKE_GPU_H

#include "lm/lm.h"
#include "shim/fake_cuda.h"
#include "temp.h"
#include "watched.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MOST_ROWS = 160 };

static temp_folder cache, nothing;
static char libraries[600];

// ---- what the imitation counted ----

static inline void *symbol_of(const char *library, const char *name) {
  char path[700];
  void *at = NULL;
  snprintf(path, sizeof path, "%s/%s", libraries, library);
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle || !(at = dlsym(handle, name))) fail_msg("%s: no %s", path, name);
  return at;
}

static inline fake_cuda_facts *driver(void) {
  fake_cuda_facts *(*look)(void);
  void *at = symbol_of("libcuda.so.1", "fake_cuda_look");
  memcpy(&look, &at, sizeof look);
  return look();
}

static inline fake_nvrtc_facts *compiler(void) {
  fake_nvrtc_facts *(*look)(void);
  void *at = symbol_of("libnvrtc.so.13", "fake_nvrtc_look");
  memcpy(&look, &at, sizeof look);
  return look();
}

static inline void nothing_is_left(void) {
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

typedef struct way {
  const char *path;
  zm_dtype dtype;
  zm_model_device device;
  zm_executor executor;
  bool patched;
  int chunk, others; // rows of a step of sequence 0; whether sequence 1 has a row in each step
} way;

static inline zm_model *open_model(const way *w) {
  return zm_model_open(w->path, &(zm_model_options){.dtype = w->dtype,
                                                    .threads = 1,
                                                    .context = MOST_ROWS,
                                                    .device = w->device,
                                                    .executor = w->device == ZM_MODEL_CUDA ? w->executor : ZM_EXECUTOR_AUTO});
}

static inline zm_session *open_session(zm_model *m, const way *w) {
  return zm_session_open(m, &(zm_session_options){.context = MOST_ROWS, .sequences = 1 + w->others});
}

static inline int32_t token_of(int sequence, int position, int32_t vocab) {
  return (int32_t)(zmi_uniform((uint64_t)sequence + 7, (uint64_t)position) * vocab);
}

static inline void must(zm_status status) {
  if (status != ZM_OK) fail_msg("%s: %s %s", zm_status_name(status), zm_last_error(), driver()->wrong);
}

static inline size_t vocab_of(const char *path) {
  zmi_model_plan plan;
  must(zmi_model_plan_path(path, NULL, &plan));
  return (size_t)plan.vocab;
}

// ---- failures ----

// ZMLX_FAKE_CUDA, or nothing.
static inline void imitate(const char *options) {
  if (options)
    setenv("ZMLX_FAKE_CUDA", options, 1);
  else
    unsetenv("ZMLX_FAKE_CUDA");
}

// They are read when GPUs are counted.
static inline void driver_reads_options(void) {
  zmi_device_facts facts;
  zmi_device_look(&facts);
}

static const way lfm2 = {
    .path = "checkpoints/tiny-lfm2_moe", .dtype = ZM_BF16, .device = ZM_MODEL_CUDA, .executor = ZM_EXECUTOR_STREAM, .patched = true};

// One sentence: it names the device, ends without a line of its own and says what is asked for.
static inline void expect_failure(zm_status status, zm_status expected, const char *words) {
  const char *said = zm_last_error();
  if (status != expected || zm_last_status() != expected || !strstr(said, words) || !strstr(said, "device cuda: ") || strchr(said, '\n')) {
    fail_msg("expected %s with \"%s\", found %s: %s (%s)", zm_status_name(expected), words, zm_status_name(status), said, driver()->wrong);
  }
}

static inline void does_not_open(zm_status expected, const char *words) {
  zm_model *m = open_model(&lfm2);
  assert_null(m);
  expect_failure(zm_last_status(), expected, words);
  nothing_is_left();
}

// ---- the group ----

static inline int enter(void **state) {
  (void)state;
  const char *build = getenv("TEST_BUILD");
  snprintf(libraries, sizeof libraries, "%s/tests/shim", build ? build : "build");
  unsetenv("ZMLX_FAKE_CUDA");
  if (temp_make(&cache) || temp_make(&nothing)) return -1;
  return setenv("ZMLX_CACHE_DIR", cache.path, 1) || setenv("ZMLX_CUDA_PATH", libraries, 1);
}

static inline int leave(void **state) {
  (void)state;
  temp_remove(&cache);
  temp_remove(&nothing);
  return 0;
}

#endif
