// Whole models against what mlx-lm computes with the same checkpoints (tests/oracles, made by scripts/make_oracles.py): float32 to
// rounding, bfloat16 no worse than MLX itself. Also: chunking changes no bit, checkpoints that lie are refused, plans, random checkpoints.
#include "models/models.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

// ---- a session of one sequence, made of nothing but programs ----

typedef struct runner {
  zm_model *model;
  zmi_state_set states;
  int32_t length, vocab;
} runner;

static void runner_open(runner *r, zm_model *model, int32_t context) {
  *r = (runner){.model = model, .vocab = zmi_model_vocab(model)};
  assert_int_equal(zmi_model_states(model, 1, context, &r->states), ZM_OK);
  for (size_t i = 0; i < r->states.count; i++) {
    size_t bytes;
    assert_true(zmi_type_bytes(&r->states.slots[i].type, &bytes));
    r->states.slots[i].data = zmi_block_alloc(bytes);
    assert_non_null(r->states.slots[i].data);
    memset(r->states.slots[i].data, 0xff, bytes); // NaN: what was not written must not be read
  }
}

static void runner_close(runner *r) {
  for (size_t i = 0; i < r->states.count; i++) {
    size_t bytes;
    assert_true(zmi_type_bytes(&r->states.slots[i].type, &bytes));
    zmi_block_free(r->states.slots[i].data, bytes);
  }
  zmi_state_set_release(&r->states);
}

// Feeds tokens in chunks; logits (may be NULL) gets float32 [count, vocab].
static void feed(runner *r, const int32_t *tokens, size_t count, size_t chunk, float *logits) {
  for (size_t at = 0; at < count; at += chunk) {
    const int32_t n = (int32_t)ZMI_MIN(chunk, count - at);
    zmi_model_lock(r->model);
    zmi_program *p = zmi_model_compile(r->model, n, logits ? n : 0, &r->states, NULL);
    if (!p) fail_msg("%s", zm_last_error());
    for (int32_t i = 0; i < n; i++) {
      ((int32_t *)zmi_program_slot(p, "tokens"))[i] = tokens[at + (size_t)i];
      ((int32_t *)zmi_program_slot(p, "position"))[i] = r->length + i;
      ((int32_t *)zmi_program_slot(p, "sequence"))[i] = 0;
      if (logits) ((int32_t *)zmi_program_slot(p, "select"))[i] = i;
    }
    zmi_program_play(p, zmi_model_pool(r->model));
    if (logits)
      zmi_model_kernels(r->model)->load(zmi_program_slot(p, "logits"), zmi_model_dtype(r->model), (int64_t)n * r->vocab,
                                        logits + at * (size_t)r->vocab);
    zmi_program_free(p);
    zmi_model_unlock(r->model);
    r->length += n;
  }
}

static zm_model *open_model(const char *name, zm_dtype dtype) {
  char path[256];
  snprintf(path, sizeof path, "checkpoints/%s", name);
  zm_model *m = zm_model_open(path, &(zm_model_options){.dtype = dtype, .threads = 2});
  if (!m) fail_msg("%s", zm_last_error());
  return m;
}

// ---- oracles ----

typedef struct oracle {
  zmi_tensors *tensors;
  json_t *facts;
} oracle;

static void oracle_open(oracle *o, const char *name) {
  char path[256];
  snprintf(path, sizeof path, "tests/oracles/%s.safetensors", name);
  o->tensors = zmi_tensors_open(path);
  if (!o->tensors) fail_msg("%s", zm_last_error());
  snprintf(path, sizeof path, "tests/oracles/%s.json", name);
  o->facts = json_load_file(path, 0, NULL);
  assert_non_null(o->facts);
}

static void oracle_close(oracle *o) {
  zmi_tensors_close(o->tensors);
  json_decref(o->facts);
}

static bool oracle_has(const oracle *o, int text) {
  char name[16];
  snprintf(name, sizeof name, "t%d", text);
  return json_object_get(json_object_get(o->facts, "texts"), name) != NULL;
}

static double oracle_fact(const oracle *o, int text, const char *format, const char *dtype) {
  char name[16], field[64];
  snprintf(name, sizeof name, "t%d", text);
  snprintf(field, sizeof field, format, dtype);
  const json_t *value = json_object_get(json_object_get(json_object_get(o->facts, "texts"), name), field);
  if (!json_is_number(value)) fail_msg("the oracle has no %s", field);
  return json_number_value(value);
}

// A tensor of a text, copied (the file gives no alignment); *count elements of 4 bytes.
static void *oracle_data(const oracle *o, int text, const char *what, size_t *count) {
  char name[32];
  snprintf(name, sizeof name, "t%d.%s", text, what);
  const zmi_tensor *t = zmi_tensors_find(o->tensors, name);
  assert_non_null(t);
  void *copy = malloc(t->bytes);
  memcpy(copy, t->data, t->bytes);
  *count = t->bytes / 4;
  return copy;
}

static double largest_difference(const float *a, const float *b, size_t n) {
  double most = 0;
  for (size_t i = 0; i < n; i++) {
    const double d = __builtin_fabs((double)a[i] - (double)b[i]);
    if (!(d <= most)) most = d; // NaN too
  }
  return most;
}

static double rms_difference(const float *a, const float *b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
  return __builtin_sqrt(sum / (double)n);
}

static double nll(const float *logits, int32_t vocab, int32_t token) {
  double most = logits[0], sum = 0;
  for (int32_t i = 0; i < vocab; i++) most = ZMI_MAX(most, (double)logits[i]);
  for (int32_t i = 0; i < vocab; i++) sum += zmi_exp((double)logits[i] - most);
  return most + zmi_log(sum) - (double)logits[token];
}

static int32_t argmax(const float *logits, int32_t vocab) {
  int32_t best = 0;
  for (int32_t i = 1; i < vocab; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}

typedef struct subject {
  const char *name;
  double share;  // of the spread of the logits that the RMS error of bfloat16 may reach
  bool worse_ok; // than MLX
} subject;

// Float32: logits, likelihoods and greedy choices. Returns all logits of the text.
static float *check_float32(const oracle *o, int text, runner *r, const int32_t *tokens, size_t count) {
  size_t n, vocab = (size_t)r->vocab;
  float *logits = malloc(count * vocab * sizeof *logits);
  feed(r, tokens, count, 32, logits);
  const double spread = oracle_fact(o, text, "logit_std", "");
  float *want = oracle_data(o, text, "logits", &n);
  const double worst = largest_difference(logits + count * vocab - n, want, n) / spread;
  if (!(worst <= 2e-4)) fail_msg("text %d: a logit is off by %g of the spread", text, worst);
  free(want);

  float *likelihood = oracle_data(o, text, "nll", &n);
  assert_int_equal(n, count - 1);
  double most = 0;
  for (size_t i = 0; i < n; i++)
    most = ZMI_MAX(most, __builtin_fabs(nll(logits + i * vocab, r->vocab, tokens[i + 1]) - (double)likelihood[i]));
  if (!(most <= 1e-4)) fail_msg("text %d: a likelihood is off by %g", text, most);
  free(likelihood);

  int32_t *greedy = oracle_data(o, text, "greedy", &n);
  float *margin = oracle_data(o, text, "margin", &n), *row = malloc(vocab * sizeof *row);
  memcpy(row, logits + (count - 1) * vocab, vocab * sizeof *row);
  for (size_t i = 0; i < n; i++) {
    if (margin[i] > 1e-3f && argmax(row, r->vocab) != greedy[i])
      fail_msg("text %d: greedy token %zu is %d, expected %d (margin %g)", text, i, argmax(row, r->vocab), greedy[i], (double)margin[i]);
    feed(r, &greedy[i], 1, 1, row);
  }
  free(row);
  free(margin);
  free(greedy);
  printf("# %s text %d: float32 logits within %.2g of the spread, likelihoods within %.2g\n",
         json_string_value(json_object_get(o->facts, "model")), text, worst, most);
  return logits;
}

static void check_stored(const subject *s, const oracle *o, int text, runner *r, const int32_t *tokens, size_t count, const float *exact) {
  const char *dtype = zm_dtype_name(zmi_model_dtype(r->model));
  size_t n, vocab = (size_t)r->vocab;
  float *logits = malloc(count * vocab * sizeof *logits);
  feed(r, tokens, count, 32, logits);
  float *want = oracle_data(o, text, "logits", &n);
  const double spread = oracle_fact(o, text, "logit_std", ""), all = rms_difference(logits, exact, count * vocab);
  const double last = rms_difference(logits + count * vocab - n, want, n);
  const double mlx_all = oracle_fact(o, text, "%s_rms_error", dtype), mlx_last = oracle_fact(o, text, "%s_rms_error_last4", dtype);
  printf("# %s text %d: %s RMS error %.4f of the spread (last rows %.4f); MLX %.4f (%.4f)\n", s->name, text, dtype, all / spread,
         last / spread, mlx_all / spread, mlx_last / spread);
  if (!(all <= s->share * spread)) fail_msg("text %d: RMS error %g of the spread, allowed %g", text, all / spread, s->share);
  if (!s->worse_ok && !(all <= mlx_all && last <= mlx_last))
    fail_msg("text %d: RMS error %g (last rows %g), MLX has %g (%g)", text, all, last, mlx_all, mlx_last);
  free(want);
  free(logits);
}

static void numbers(void **state) {
  const subject *s = *state;
  oracle o;
  oracle_open(&o, s->name);
  zm_model *exact = open_model(s->name, ZM_F32), *stored = open_model(s->name, ZM_DTYPE_DEFAULT);
  for (int text = 0; oracle_has(&o, text); text++) {
    size_t count;
    int32_t *tokens = oracle_data(&o, text, "tokens", &count);
    runner r;
    runner_open(&r, exact, (int32_t)count + 64);
    float *logits = check_float32(&o, text, &r, tokens, count);
    runner_close(&r);
    if (zmi_model_dtype(stored) != ZM_F32) {
      runner_open(&r, stored, (int32_t)count + 64);
      check_stored(s, &o, text, &r, tokens, count, logits);
      runner_close(&r);
    }
    free(logits);
    free(tokens);
  }
  zm_model_close(exact);
  zm_model_close(stored);
  oracle_close(&o);
}

// Any chunking gives the same bits, and so does a prefix that was read without asking for logits.
static void chunking(void **state) {
  const subject *s = *state;
  oracle o;
  oracle_open(&o, s->name);
  zm_model *m = open_model(s->name, ZM_DTYPE_DEFAULT);
  size_t count, vocab = (size_t)zmi_model_vocab(m);
  int32_t *tokens = oracle_data(&o, 1, "tokens", &count);
  count = ZMI_MIN(count, (size_t)40);
  float *whole = malloc(count * vocab * sizeof *whole), *part = malloc(count * vocab * sizeof *part);
  runner r;
  runner_open(&r, m, 64);
  feed(&r, tokens, count, count, whole);
  static const size_t chunks[] = {1, 3, 5, 16, 17};
  for (size_t i = 0; i < ZMI_COUNT(chunks); i++) {
    r.length = 0;
    feed(&r, tokens, count, chunks[i], part);
    for (size_t row = 0; row < count; row++)
      if (memcmp(whole + row * vocab, part + row * vocab, vocab * sizeof *part) != 0)
        fail_msg("chunks of %zu: row %zu differs", chunks[i], row);
  }
  r.length = 0;
  feed(&r, tokens, count - 2, 7, NULL);
  feed(&r, tokens + count - 2, 2, 2, part);
  assert_memory_equal(part, whole + (count - 2) * vocab, 2 * vocab * sizeof *part);
  runner_close(&r);

  // A session is the same programs.
  zm_session *session = zm_session_open(m, &(zm_session_options){.context = 64, .chunk = 9});
  assert_non_null(session);
  assert_int_equal(zm_session_feed(session, 0, tokens, count, part, count, NULL, NULL), ZM_OK);
  assert_memory_equal(part, whole, count * vocab * sizeof *part);
  zm_session_close(session);
  free(whole);
  free(part);
  free(tokens);
  zm_model_close(m);
  oracle_close(&o);
}

int main(void) {
  static subject subjects[] = {
      {"storyteller-4bit", 0.02, false}, {"qwen3_moe-4bit", 0.02, false}, {"llama-bf16", 0.01, false},
      {"llama-8bit-g128", 0.02, false},  {"lfm2-3bit-g32", 0.02, false},  {"qwen3-5bit-g128", 0.02, false},
      {"tiny-llama-biases", 0, false}, // float16: computed in float32
      {"tiny-llama-f32", 0, false},      {"tiny-mistral", 0.02, false},   {"tiny-qwen3_moe", 0.02, false},
      {"tiny-floats", 0.02, false},
      {"tiny-lfm2_moe", 0.12, true}, // its random router chooses between experts that are nearly equal
      {"tiny-lfm2", 0.02, false},        {"tiny-lfm2_moe-hf", 0, false},
  };
  struct CMUnitTest tests[2 * ZMI_COUNT(subjects)];
  char names[2 * ZMI_COUNT(subjects)][64];
  for (size_t i = 0; i < ZMI_COUNT(subjects); i++) {
    snprintf(names[2 * i], sizeof names[0], "numbers of %s", subjects[i].name);
    tests[2 * i] = (struct CMUnitTest){names[2 * i], numbers, NULL, NULL, &subjects[i]};
    snprintf(names[2 * i + 1], sizeof names[0], "chunking of %s", subjects[i].name);
    tests[2 * i + 1] = (struct CMUnitTest){names[2 * i + 1], chunking, NULL, NULL, &subjects[i]};
  }
  return cmocka_run_group_tests(tests, NULL, NULL);
}
