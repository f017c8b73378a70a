// The host side of the CUDA backend without a GPU: models, sessions and executors on an imitated driver (shim/fake_cuda.c) that runs the
// device code on a simulated machine. Logits have the bits of the CPU; each failure of the driver is one clear sentence and leaves nothing
// behind.
#include "fake_gpu.h"

// ---- playing ----

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

// What each kind of instruction touches is what flow.c says, as a launch and within the resident kernel, whose barriers stand by it; READY
// comes with all that it can make its rows of.
static void what_launches_touch(void **state) {
  (void)state;
  static const struct {
    const char *path;
    int chunk;
  } rows[] = {{"checkpoints/tiny-lfm2_moe", 1},
              {"checkpoints/tiny-lfm2", 1},
              {"checkpoints/tiny-qwen3_moe", 3},
              {"checkpoints/tiny-lfm2_moe", 20},
              {"checkpoints/tiny-llama-biases", 2}};
  imitate("flow=1");
  for (size_t i = 0; i < (WATCHED ? 1 : ZMI_COUNT(rows)); i++) {
    for (int patched = 0; patched < 2; patched++) {
      way w = {.path = rows[i].path, .dtype = ZM_BF16, .chunk = rows[i].chunk, .patched = patched != 0};
      float *plain = play(&w, 2 * w.chunk);
      w.device = ZM_MODEL_CUDA;
      w.executor = ZM_EXECUTOR_STREAM;
      compare(plain, &w, 2 * w.chunk);
      w.executor = ZM_EXECUTOR_PERSISTENT; // of 20 rows a graph
      compare(plain, &w, 2 * w.chunk);
      free(plain);
    }
  }
  imitate(NULL);
  if (!WATCHED) assert_int_equal(driver()->sources, FAKE_READY_ALL);
}

// Launches may begin before the ones before them are over, where GPU and driver can do that; where one of them cannot, or declines, they
// follow one another. (What an early launch may touch is looked at with its flow.)
static void launches_that_begin_early(void **state) {
  (void)state;
  static const struct {
    const char *options;
    zm_executor executor;
    bool some, all; // early launches were put into the stream; no other ones followed them
  } rows[] = {{NULL, ZM_EXECUTOR_STREAM, true, true},
              {NULL, ZM_EXECUTOR_GRAPH, true, true},
              {"early=1", ZM_EXECUTOR_STREAM, false, false},
              {"early=1", ZM_EXECUTOR_GRAPH, false, false},
              {"early=2", ZM_EXECUTOR_GRAPH, true, false},
              {"driver=12020", ZM_EXECUTOR_GRAPH, false, false},
              {"capability=80", ZM_EXECUTOR_STREAM, false, false}};
  way w = lfm2;
  w.device = ZM_MODEL_CPU;
  w.chunk = 1;
  float *plain = play(&w, 2);
  w.device = ZM_MODEL_CUDA;
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    imitate(rows[i].options);
    w.executor = rows[i].executor;
    const unsigned long early = driver()->early, launches = driver()->launches;
    compare(plain, &w, 2);
    const unsigned long began = driver()->early - early, put = driver()->launches - launches;
    const unsigned long steps = w.executor == ZM_EXECUTOR_STREAM ? 2 : 1; // a graph's launches are put into the stream once, played twice
    const bool all = began == (w.executor == ZM_EXECUTOR_STREAM ? put : put / 2) - steps; // but the first of a step
    if ((began > 0) != rows[i].some || (rows[i].all && !all)) fail_msg("row %zu: %lu early launches of %lu", i, began, put);
  }
  imitate(NULL);
  free(plain);
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
}

// NVRTC is not beside the driver.
static void without_a_compiler(void **state) {
  (void)state;
  char driver_file[700];
  snprintf(driver_file, sizeof driver_file, "%s/libcuda.so.1", libraries);
  char *real = realpath(driver_file, NULL);
  assert_non_null(real);
  assert_int_equal(symlink(real, temp_path(&nothing, "libcuda.so.1")), 0);
  free(real);
  setenv("ZMLX_CUDA_PATH", nothing.path, 1);
  does_not_open(ZM_ERROR_UNSUPPORTED, "NVRTC, which compiles the kernels, is not installed");
  zmi_device_facts facts;
  zmi_device_look(&facts);
  assert_false(facts.usable);
  assert_non_null(strstr(facts.why, "NVRTC"));
  setenv("ZMLX_CUDA_PATH", libraries, 1);
}

static void what_a_gpu_is(void **state) {
  (void)state;
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
  does_not_open(ZM_ERROR_UNSUPPORTED, "NVRTC cannot compile the device code with --gpu-architecture=sm_90a (error 6): zmlx.cu(7): error: "
                                      "identifier \"zebra\" is undefined");
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

static bool take_words(void *user, const char *what, uint64_t done, uint64_t of) {
  (void)done, (void)of;
  snprintf(user, 400, "%s", what);
  return true;
}

// What was kept may be for another driver: it is compiled once more, and only then it is the driver that is to blame.
static void an_image_that_the_driver_refuses(void **state) {
  (void)state;
  const int before = compiler()->compiles;
  imitate("load=200");
  zm_model *m = open_model(&lfm2);
  if (!m) fail_msg("%s", zm_last_error());
  zm_model_close(m);
  nothing_is_left();
  assert_int_equal(compiler()->compiles, before + 1);
  imitate("load=200,loads=9");
  does_not_open(ZM_ERROR_DEVICE, "loading device code: CUDA_ERROR_INVALID_IMAGE (200): device kernel image is invalid; the driver does not "
                                 "take what NVRTC compiles: it is older than NVRTC");
  assert_int_equal(compiler()->compiles, before + 2);
  imitate(NULL);
}

// Where nothing can be kept, models open all the same, and it is said why that takes so long.
static void a_cache_that_cannot_be_written(void **state) {
  (void)state;
  char words[400] = "";
  const int before = compiler()->compiles;
  assert_int_equal(temp_write(temp_path(&nothing, "file"), "x", 1), 0);
  setenv("ZMLX_CACHE_DIR", temp_path(&nothing, "file"), 1);
  for (int i = 1; i <= 2; i++) {
    zmi_cuda *d = zmi_device_open(take_words, words);
    if (!d) fail_msg("%s", zm_last_error());
    zmi_device_close(d);
    assert_int_equal(compiler()->compiles, before + i);
  }
  if (!strstr(words, "compiling for Imitated GPU (each time: ") || !strstr(words, "is not a folder)")) fail_msg("%s", words);
  setenv("ZMLX_CACHE_DIR", cache.path, 1);
  nothing_is_left();
}

static void gpus_that_cannot_be_had(void **state) {
  (void)state;
  static const struct {
    const char *options, *words;
    zm_status status;
  } rows[] = {
      {"retain=46", "taking GPU 0: unknown error (46); another process has the GPU for itself", ZM_ERROR_DEVICE},
      {"retain=2", "taking GPU 0: the GPU's memory is full: ask for", ZM_ERROR_MEMORY},
      {"retain=999", "taking GPU 0: CUDA_ERROR_UNKNOWN (999): unknown error; the GPU does not answer any more", ZM_ERROR_DEVICE},
      {"mode=2", "Imitated GPU is closed to all programs (its compute mode is \"prohibited\"); use --device cpu", ZM_ERROR_UNSUPPORTED},
      {"memory=1000", "the weights need 0.00 GB, and 0.00 of the 0.00 GB of Imitated GPU are left: free its memory, or use",
       ZM_ERROR_MEMORY}};
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    imitate(rows[i].options);
    does_not_open(rows[i].status, rows[i].words);
  }
  imitate(NULL);
}

// Weights are on the GPU alone: parts of what is there are found there.
static void what_is_there_is_not_kept(void **state) {
  (void)state;
  enum { BYTES = 5 << 20, PART = 1 << 20 };
  zmi_cuda *d = zmi_device_open(NULL, NULL);
  assert_non_null(d);
  uint8_t *host = zmi_block_alloc(BYTES), back[200];
  for (int i = 0; i < BYTES; i++) host[i] = (uint8_t)(i * 7 + i / 251);
  zmi_gpu_address all = 0, part = 0, end = 0;
  must(zmi_device_resident(d, host, BYTES, &all));
  const int memories = driver()->memories;
  zmi_block_forget(host + 100, BYTES - 200);
  assert_int_equal(host[PART], 0);
  assert_int_equal(host[99], (uint8_t)(99 * 7));
  must(zmi_device_resident(d, host + PART, sizeof back, &part));
  must(zmi_device_resident(d, host + BYTES - 1, 1, &end));
  assert_int_equal(part, all + PART);
  assert_int_equal(end, all + BYTES - 1);
  assert_int_equal(driver()->memories, memories);
  must(zmi_device_download(d, back, part, sizeof back));
  for (int i = 0; i < (int)sizeof back; i++) assert_int_equal(back[i], (uint8_t)((PART + i) * 7 + (PART + i) / 251));
  zmi_block_free(host, BYTES);
  zmi_device_close(d);
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
    const char *words = strstr(zm_last_error(), "the weights need") ? " are left: free its memory" : "the GPU's memory is full (0.";
    if (status != ZM_OK) expect_failure(status, ZM_ERROR_MEMORY, words);
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(without_a_driver),
      cmocka_unit_test(a_driver_that_does_not_do),
      cmocka_unit_test(without_a_compiler),
      cmocka_unit_test(what_a_gpu_is),
      cmocka_unit_test(code_is_compiled_once),
      cmocka_unit_test(a_damaged_image_is_compiled_anew),
      cmocka_unit_test(an_image_that_the_driver_refuses),
      cmocka_unit_test(a_cache_that_cannot_be_written),
      cmocka_unit_test(gpus_that_cannot_be_had),
      cmocka_unit_test(what_is_there_is_not_kept),
      cmocka_unit_test(memory_that_is_not_enough),
      cmocka_unit_test(allocations_of_the_host_that_fail),
      cmocka_unit_test(launches_that_are_refused),
      cmocka_unit_test(faults_on_the_gpu),
      cmocka_unit_test(logits_have_the_bits_of_the_cpu),
      cmocka_unit_test(larger_models_and_prompts),
      cmocka_unit_test(less_shared_memory),
      cmocka_unit_test(what_launches_touch),
      cmocka_unit_test(launches_that_begin_early),
  };
  return cmocka_run_group_tests(tests, enter, leave);
}
