// The host side of the CUDA backend without a GPU: models, sessions and executors on an imitated driver (shim/fake_cuda.c) that runs the
// device code on a simulated machine. Logits have the bits of the CPU; each failure of the driver is one clear sentence and leaves nothing
// behind.
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
                      {.executor = ZM_EXECUTOR_PERSISTENT, .chunk = 3, .others = 1},
                      {.executor = ZM_EXECUTOR_PERSISTENT, .chunk = count, .patched = true},
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
  for (size_t i = 0; i < ZMI_COUNT(tiny); i += WATCHED ? 3 : 1) {
    char path[64];
    snprintf(path, sizeof path, "checkpoints/%s", tiny[i]);
    check_checkpoint(path, ZM_BF16, 4);
    check_checkpoint(path, ZM_F32, 3);
  }
}

// Larger matrices and more experts; more positions than one range of attention has; and rows enough to share weights (many.h).
static void larger_models_and_prompts(void **state) {
  (void)state;
  const way ways[] = {{.path = "checkpoints/tiny-qwen3_moe", .executor = ZM_EXECUTOR_GRAPH, .chunk = 141},
                      {.path = "checkpoints/tiny-lfm2", .executor = ZM_EXECUTOR_GRAPH, .chunk = 137, .patched = true},
                      {.path = "checkpoints/storyteller-4bit", .executor = ZM_EXECUTOR_GRAPH, .chunk = 3, .patched = true},
                      {.path = "checkpoints/qwen3_moe-4bit", .executor = ZM_EXECUTOR_STREAM, .chunk = 3},
                      {.path = "checkpoints/llama-8bit-g128", .executor = ZM_EXECUTOR_GRAPH, .chunk = 2, .patched = true},
                      {.path = "checkpoints/llama-bf16", .executor = ZM_EXECUTOR_STREAM, .chunk = 2, .patched = true},
                      {.path = "checkpoints/qwen3_moe-4bit", .executor = ZM_EXECUTOR_PERSISTENT, .chunk = 1, .patched = true},
                      {.path = "checkpoints/qwen3_moe-4bit", .executor = ZM_EXECUTOR_PERSISTENT, .chunk = 3, .others = 1, .patched = true},
                      {.path = "checkpoints/storyteller-4bit", .executor = ZM_EXECUTOR_PERSISTENT, .chunk = 1, .patched = true},
                      {.path = "checkpoints/llama-8bit-g128", .executor = ZM_EXECUTOR_PERSISTENT, .chunk = 2},
                      {.path = "checkpoints/llama-bf16", .executor = ZM_EXECUTOR_PERSISTENT, .chunk = 1, .patched = true},
                      {.path = "checkpoints/lfm2-3bit-g32", .executor = ZM_EXECUTOR_PERSISTENT, .chunk = 1, .patched = true},
                      {.path = "checkpoints/lfm2-3bit-g32", .executor = ZM_EXECUTOR_PERSISTENT, .chunk = 2},
                      {.path = "checkpoints/qwen3-5bit-g128", .executor = ZM_EXECUTOR_PERSISTENT, .chunk = 1, .patched = true},
                      {.path = "checkpoints/storyteller-4bit", .executor = ZM_EXECUTOR_PERSISTENT, .chunk = 40, .patched = true},
                      {.path = "checkpoints/lfm2-3bit-g32", .executor = ZM_EXECUTOR_STREAM, .chunk = 20}};
  for (size_t i = 0; i < (WATCHED ? 1 : ZMI_COUNT(ways)); i++) {
    way w = ways[i];
    const int count = w.chunk + 3; // the rest decodes, or is a smaller chunk
    w.dtype = ZM_BF16;
    float *plain = play(&(way){.path = w.path, .dtype = w.dtype, .chunk = 64}, count);
    w.device = ZM_MODEL_CUDA;
    compare(plain, &w, count);
    free(plain);
  }
}

// ---- failures ----

// ZMLX_FAKE_CUDA, or nothing.
static void imitate(const char *options) {
  if (options)
    setenv("ZMLX_FAKE_CUDA", options, 1);
  else
    unsetenv("ZMLX_FAKE_CUDA");
}

// A GPU whose blocks have less shared memory plays products of many rows in another way.
static void less_shared_memory(void **state) {
  (void)state;
  way w = {.path = "checkpoints/storyteller-4bit", .dtype = ZM_BF16, .executor = ZM_EXECUTOR_STREAM, .chunk = 40, .patched = true};
  float *plain = play(&w, w.chunk);
  imitate("shared=101376");
  w.device = ZM_MODEL_CUDA;
  compare(plain, &w, w.chunk);
  imitate(NULL);
  free(plain);
}

static const way lfm2 = {
    .path = "checkpoints/tiny-lfm2_moe", .dtype = ZM_BF16, .device = ZM_MODEL_CUDA, .executor = ZM_EXECUTOR_STREAM, .patched = true};

// One sentence: it names the device, ends without a line of its own and says what is asked for.
static void expect_failure(zm_status status, zm_status expected, const char *words) {
  const char *said = zm_last_error();
  if (status != expected || zm_last_status() != expected || !strstr(said, words) || !strstr(said, "device cuda: ") || strchr(said, '\n')) {
    fail_msg("expected %s with \"%s\", found %s: %s (%s)", zm_status_name(expected), words, zm_status_name(status), said, driver()->wrong);
  }
}

static void does_not_open(zm_status expected, const char *words) {
  zm_model *m = open_model(&lfm2);
  assert_null(m);
  expect_failure(zm_last_status(), expected, words);
  nothing_is_left();
}

static void without_a_driver(void **state) {
  (void)state;
  setenv("ZMLX_CUDA_PATH", nothing.path, 1);
  zm_model *m = open_model(&lfm2);
  assert_null(m);
  expect_failure(zm_last_status(), ZM_ERROR_UNSUPPORTED, "no NVIDIA driver is installed here");
  zmi_device_facts facts;
  zmi_device_look(&facts);
  assert_false(facts.usable);
  assert_non_null(strstr(facts.why, "no NVIDIA driver"));
  setenv("ZMLX_CUDA_PATH", libraries, 1);
}

// The driver is asked again as long as it does not start, so that these come before all tests that use it.
static void a_driver_that_does_not_do(void **state) {
  (void)state;
  static const char *const rows[][2] = {{"init=100", "the NVIDIA driver finds no GPU"},
                                        {"init=802", "does not start: CUDA_ERROR_SYSTEM_NOT_READY (802): system not yet initialized"},
                                        {"init=12345", "does not start: unknown error (12345)"},
                                        {"driver=11080", "is for CUDA 11.8: CUDA 12.0 or newer is needed"},
                                        {"devices=0", "the NVIDIA driver finds no GPU"},
                                        {"capability=75", "Imitated GPU is of compute capability 7.5; 8.0 or newer is needed"}};
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    imitate(rows[i][0]);
    does_not_open(ZM_ERROR_UNSUPPORTED, rows[i][1]);
    zmi_device_facts facts;
    zmi_device_look(&facts);
    assert_false(facts.usable);
    assert_non_null(strstr(facts.why, rows[i][1]));
  }
  imitate(NULL);
  zmi_device_facts facts;
  zmi_device_look(&facts);
  assert_true(facts.usable);
  assert_string_equal(facts.name, "Imitated GPU");
  assert_int_equal(facts.major * 10 + facts.minor, 90);
  assert_int_equal(facts.driver, 13000);
  assert_int_equal(facts.memory, 256 << 20);
  nothing_is_left();
}

static bool refuse(void *user, const char *what, uint64_t done, uint64_t of) {
  (void)done, (void)of;
  *(int *)user += strstr(what, "compiling for Imitated GPU") != NULL;
  return false;
}

static int images(void) {
  int count = 0;
  DIR *folder = opendir(temp_path(&cache, "kernels"));
  for (struct dirent *e; folder && (e = readdir(folder)) != NULL;) {
    count += strncmp(e->d_name, "cuda-", 5) == 0 && strstr(e->d_name, ".cubin");
  }
  if (folder) closedir(folder);
  return count;
}

static void code_is_compiled_once(void **state) {
  (void)state;
  const int before = compiler()->compiles;
  assert_int_equal(images(), 0);
  imitate("compile=0");
  does_not_open(
      ZM_ERROR_UNSUPPORTED,
      "NVRTC cannot compile the device code with --gpu-architecture=sm_90a: zmlx.cu(7): error: identifier \"zebra\" is undefined");
  assert_int_equal(images(), 0);
  imitate(NULL);
  int asked = 0;
  zmi_cuda *d = zmi_device_open(refuse, &asked);
  assert_null(d);
  assert_int_equal(zm_last_status(), ZM_ERROR_CANCELLED);
  assert_int_equal(asked, 1);
  assert_int_equal(compiler()->compiles, before + 1);
  for (int i = 0; i < 3; i++) { // the second from the cache, and the third
    zm_model *m = open_model(&lfm2);
    if (!m) fail_msg("%s", zm_last_error());
    assert_int_equal(driver()->contexts, 1);
    zm_model_close(m);
    nothing_is_left();
    assert_int_equal(compiler()->compiles, before + 2);
    assert_int_equal(images(), 1);
  }
  imitate("capability=80"); // another card, other code
  zm_model *m = open_model(&lfm2);
  assert_non_null(m);
  zm_model_close(m);
  imitate(NULL);
  assert_int_equal(compiler()->compiles, before + 3);
  assert_int_equal(images(), 2);
}

// An entry of the cache that is damaged counts as none.
static void a_damaged_image_is_compiled_anew(void **state) {
  (void)state;
  const int before = compiler()->compiles;
  temp_folder kernels = {.next = 0};
  snprintf(kernels.path, sizeof kernels.path, "%s", temp_path(&cache, "kernels"));
  DIR *folder = opendir(kernels.path);
  assert_non_null(folder);
  for (struct dirent *e; (e = readdir(folder)) != NULL;) {
    if (strstr(e->d_name, ".cubin")) assert_int_equal(temp_write(temp_path(&kernels, e->d_name), "FAKE CUBIN, torn", 16), 0);
  }
  closedir(folder);
  for (int i = 0; i < 2; i++) {
    zm_model *m = open_model(&lfm2);
    assert_non_null(m);
    zm_model_close(m);
    assert_int_equal(compiler()->compiles, before + 1);
  }
  nothing_is_left();
}

static zm_status open_and_step(const way *w, float *logits) {
  zm_model *m = open_model(w);
  zm_session *s = m ? open_session(m, w) : NULL;
  zm_status status = s ? zm_session_step(s, &(zm_row){0, 5}, 1, logits, 1) : zm_last_status();
  zm_session_close(s);
  zm_model_close(m);
  return status;
}

// With more and more memory, until there is enough: what fails is the next allocation each time.
static void memory_that_is_not_enough(void **state) {
  (void)state;
  float *logits = calloc(vocab_of(lfm2.path), sizeof *logits);
  zm_status status = ZM_ERROR_MEMORY;
  int failures = 0;
  for (size_t bytes = 1000; status != ZM_OK && bytes < (size_t)64 << 20; bytes += WATCHED ? bytes : bytes / 4) {
    char options[64];
    snprintf(options, sizeof options, "memory=%zu", bytes);
    imitate(options);
    status = open_and_step(&lfm2, logits);
    if (status != ZM_OK) expect_failure(status, ZM_ERROR_MEMORY, "the GPU's memory is full");
    failures += status != ZM_OK;
    nothing_is_left();
  }
  imitate(NULL);
  assert_int_equal(status, ZM_OK);
  assert_true(failures > 3);
  free(logits);
}

static void allocations_of_the_host_that_fail(void **state) {
  (void)state;
  float *logits = calloc(vocab_of(lfm2.path), sizeof *logits);
  int failures = 0;
  const uint64_t before = zmi_alloc_count();
  zm_status status = open_and_step(&lfm2, logits);
  const uint64_t all = zmi_alloc_count() - before;
  assert_int_equal(status, ZM_OK);
  for (uint64_t n = 1; n <= all; n += 1 + all / (WATCHED ? 20 : 100)) {
    zmi_alloc_fail_at(n);
    status = open_and_step(&lfm2, logits);
    zmi_alloc_fail_at(0);
    if (status != ZM_OK && status != ZM_ERROR_MEMORY) fail_msg("allocation %d: %s", (int)n, zm_last_error());
    failures += status != ZM_OK;
    nothing_is_left();
  }
  assert_true(failures > 3);
  free(logits);
}

static const int32_t prompt[] = {3, 1, 4, 1, 5, 9, 2, 6};
enum { PROMPT = 8 };

static float *prompt_on_the_cpu(void) {
  way w = lfm2;
  w.device = ZM_MODEL_CPU;
  zm_model *m = open_model(&w);
  assert_non_null(m);
  zm_session *s = open_session(m, &w);
  assert_non_null(s);
  float *logits = calloc(vocab_of(w.path) * PROMPT, sizeof *logits);
  must(zm_session_feed(s, 0, prompt, PROMPT, logits, PROMPT, NULL, NULL));
  zm_session_close(s);
  zm_model_close(m);
  return logits;
}

// A launch that is refused anywhere in a prompt of three chunks: the session is as before, and the prompt can be read again.
static void launches_that_are_refused(void **state) {
  (void)state;
  static const zm_executor executors[] = {ZM_EXECUTOR_STREAM, ZM_EXECUTOR_GRAPH};
  const size_t vocab = vocab_of(lfm2.path);
  float *expected = prompt_on_the_cpu(), *logits = calloc(vocab * PROMPT, sizeof *logits);
  for (size_t e = 0; e < ZMI_COUNT(executors); e++) {
    int failures = 0;
    for (int n = 1; n < 1000; n += WATCHED ? 97 : 37) {
      char options[64];
      snprintf(options, sizeof options, "refuse=%d", n);
      imitate(options);
      way w = lfm2;
      w.executor = executors[e];
      zm_model *m = open_model(&w);
      assert_non_null(m);
      zm_session *s = zm_session_open(m, &(zm_session_options){.context = 32, .sequences = 2, .chunk = 3});
      assert_non_null(s);
      const zm_status status = zm_session_feed(s, 1, prompt, PROMPT, logits, PROMPT, NULL, NULL);
      if (status != ZM_OK) {
        failures++;
        expect_failure(status, ZM_ERROR_DEVICE, "CUDA_ERROR_OPERATING_SYSTEM (304)");
        assert_int_equal(zm_session_length(s, 1), 0);
        must(zm_session_feed(s, 1, prompt, PROMPT, logits, PROMPT, NULL, NULL));
      }
      assert_memory_equal(logits, expected, vocab * PROMPT * sizeof *logits);
      zm_session_close(s);
      zm_model_close(m);
      nothing_is_left();
      if (status == ZM_OK) break;
    }
    assert_true(failures > 1);
  }
  imitate(NULL);
  free(expected);
  free(logits);
}

// After a fault nothing goes on until the model is opened again.
static void faults_on_the_gpu(void **state) {
  (void)state;
  static const int places[] = {1, 2, 9, 40};
  const size_t vocab = vocab_of(lfm2.path);
  float *expected = prompt_on_the_cpu(), *logits = calloc(vocab * PROMPT, sizeof *logits);
  for (size_t i = 0; i <= ZMI_COUNT(places); i++) {
    char options[64];
    snprintf(options, sizeof options, "fault=%d", places[i % ZMI_COUNT(places)]);
    imitate(i < ZMI_COUNT(places) ? options : NULL);
    way w = lfm2;
    w.executor = i % 2 ? ZM_EXECUTOR_STREAM : ZM_EXECUTOR_GRAPH;
    zm_model *m = open_model(&w);
    assert_non_null(m);
    zm_session *s = open_session(m, &w);
    assert_non_null(s);
    zm_status status = zm_session_feed(s, 0, prompt, PROMPT, logits, PROMPT, NULL, NULL);
    if (i < ZMI_COUNT(places)) {
      expect_failure(status, ZM_ERROR_DEVICE, "CUDA_ERROR_ILLEGAL_ADDRESS (700)");
      expect_failure(zm_session_feed(s, 0, prompt, PROMPT, logits, PROMPT, NULL, NULL), ZM_ERROR_DEVICE, "open the model again");
      expect_failure(zm_session_step(s, &(zm_row){0, 5}, 1, logits, 1), ZM_ERROR_DEVICE, "open the model again");
      zm_session *other = open_session(m, &w);
      assert_null(other);
      expect_failure(zm_last_status(), ZM_ERROR_DEVICE, "open the model again");
    } else {
      must(status);
      assert_memory_equal(logits, expected, vocab * PROMPT * sizeof *logits);
    }
    zm_session_close(s);
    zm_model_close(m);
    nothing_is_left();
  }
  free(expected);
  free(logits);
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
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(without_a_driver),
      cmocka_unit_test(a_driver_that_does_not_do),
      cmocka_unit_test(code_is_compiled_once),
      cmocka_unit_test(a_damaged_image_is_compiled_anew),
      cmocka_unit_test(memory_that_is_not_enough),
      cmocka_unit_test(allocations_of_the_host_that_fail),
      cmocka_unit_test(launches_that_are_refused),
      cmocka_unit_test(faults_on_the_gpu),
      cmocka_unit_test(logits_have_the_bits_of_the_cpu),
      cmocka_unit_test(larger_models_and_prompts),
      cmocka_unit_test(less_shared_memory),
  };
  return cmocka_run_group_tests(tests, enter, leave);
}
