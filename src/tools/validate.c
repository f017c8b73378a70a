// validate: the stock model against the patched one. Every position of several prompts and of their greedy continuations: tokens, bits of
// logits, KL divergence; then interleaved timings of prompt reading and decoding.
#include "tools/tools.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const built_in[] = {
    "The old lighthouse keeper climbed the stairs every evening before the sun went down. He had done so for thirty years, and in all that "
    "time he had never once seen the lamp fail. But on the night of the great storm, as he reached the last step, he found",
    "My dear sister, I write to you in some haste, for the coach leaves within the hour. You will have heard by now that the house is to "
    "be "
    "sold, and the garden with it. What you cannot have heard, because I learned it only this morning, is that the buyer",
    "Chapter 2. On the 14th day of March, at a quarter past 6 in the morning, 27 men and 3 boys went down to the harbour; only 12 of them "
    "came back. The captain said nothing at first, then he opened the book, wrote the names one under another, and",
};

enum { CHUNK = 16, STOCK = 0, PATCHED = 1, RANDOM_TOKENS = 64 };

typedef struct prompt {
  int32_t *ids; // prompt, then the greedy continuation of the stock model
  int32_t count, capacity;
} prompt;

typedef struct validator {
  zm_model *model;
  const zmi_validate_options *o;
  zmi_validation *out;
  zm_session *session; // sequence 0: stock, 1: patched
  prompt *prompts;
  size_t prompt_count;
  int32_t vocab, max_tokens, rounds;
  zmi_patterns patterns[2];
  float *logits[2]; // [CHUNK, vocab]
  uint64_t done, total;
} validator;

// ---- prompts ----

// Whether the checkpoint has no tokenizer at all; a damaged one is an error, not a reason to do without.
static zm_status no_tokenizer(zm_model *m, bool *none) {
  char *path = zmi_path_join(zmi_model_path(m), "tokenizer.json");
  if (!path) return ZM_ERROR_MEMORY;
  *none = !zmi_path_exists(path);
  zmi_free(path);
  return ZM_OK;
}

// Checkpoints without a tokenizer (random ones) are tried on random ids.
static zm_status random_prompt(validator *v, size_t index, prompt *p) {
  p->ids = zmi_calloc((size_t)(RANDOM_TOKENS + v->max_tokens), sizeof *p->ids);
  if (!p->ids) return ZM_ERROR_MEMORY;
  for (int i = 0; i < RANDOM_TOKENS; i++) p->ids[i] = (int32_t)(zmi_uniform(index + 1, (uint64_t)i) * v->vocab);
  p->count = RANDOM_TOKENS;
  return ZM_OK;
}

static zm_status text_prompt(validator *v, const zm_tokenizer *t, const char *text, prompt *p) {
  int32_t *ids = NULL;
  size_t count = 0;
  zm_status status = zm_tokenizer_encode(t, text, strlen(text), &(zm_encode_options){.add_special = true}, &ids, &count);
  if (status != ZM_OK) return status;
  if (count == 0)
    status = zmi_fail(ZM_ERROR_ARGUMENT, "a prompt is empty: validate needs at least one token");
  else if (count > (size_t)(INT32_MAX - v->max_tokens))
    status = zmi_fail(ZM_ERROR_LIMIT, "a prompt of %zu tokens is too long", count);
  if (status == ZM_OK) {
    p->ids = zmi_calloc(count + (size_t)v->max_tokens, sizeof *p->ids);
    if (!p->ids)
      status = ZM_ERROR_MEMORY;
    else
      memcpy(p->ids, ids, count * sizeof *ids);
    p->count = (int32_t)count;
  }
  zm_tokens_free(ids);
  return status;
}

static zm_status make_prompts(validator *v) {
  const char *const *texts = v->o->prompts ? v->o->prompts : built_in;
  v->prompt_count = v->o->prompts ? v->o->prompt_count : ZMI_COUNT(built_in);
  if (v->prompt_count == 0) return zmi_fail(ZM_ERROR_ARGUMENT, "validate needs at least one prompt");
  v->prompts = zmi_calloc(v->prompt_count, sizeof *v->prompts);
  v->out->prompts = zmi_calloc(v->prompt_count, sizeof *v->out->prompts);
  if (!v->prompts || !v->out->prompts) return ZM_ERROR_MEMORY;
  v->out->prompt_count = v->prompt_count;
  const zm_tokenizer *t = NULL;
  bool random;
  if (no_tokenizer(v->model, &random) != ZM_OK) return zm_last_status();
  if (!random || v->o->prompts) t = zm_model_tokenizer(v->model);
  if (!t && (!random || v->o->prompts)) return zm_last_status();
  for (size_t i = 0; i < v->prompt_count; i++) {
    zm_status status = t ? text_prompt(v, t, texts[i], &v->prompts[i]) : random_prompt(v, i, &v->prompts[i]);
    if (status != ZM_OK) return status;
    v->out->prompts[i].prompt = zmi_strdup(t ? texts[i] : "(random tokens)");
    if (!v->out->prompts[i].prompt) return ZM_ERROR_MEMORY;
    v->out->prompts[i].first_position = -1;
  }
  return ZM_OK;
}

// ---- comparing ----

static zm_status tick(validator *v, const char *what) {
  v->done++;
  if (!v->o->progress || v->o->progress(v->o->user, what, v->done, v->total)) return ZM_OK;
  return zmi_fail(ZM_ERROR_CANCELLED, "validation was cancelled");
}

static double log_sum_exp(const float *x, int32_t n) {
  double max = -INFINITY, sum = 0;
  for (int32_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
  for (int32_t i = 0; i < n; i++) sum += zmi_exp(x[i] - max);
  return max + zmi_log(sum);
}

static double divergence(const float *p, const float *q, int32_t n) {
  double zp = log_sum_exp(p, n), zq = log_sum_exp(q, n), kl = 0;
  for (int32_t i = 0; i < n; i++) {
    double lp = p[i] - zp;
    if (lp > -700) kl += zmi_exp(lp) * (lp - (q[i] - zq));
  }
  return kl < 0 ? 0 : kl;
}

static void compare_row(const validator *v, const float *a, const float *b, int32_t position, zmi_prompt_check *c) {
  c->positions++;
  if (memcmp(a, b, (size_t)v->vocab * sizeof *a) == 0) return;
  if (c->first_position < 0) c->first_position = position;
  c->differing++;
  for (int32_t i = 0; i < v->vocab; i++) {
    double d = fabs((double)a[i] - b[i]);
    if (!(d <= c->max_difference)) c->max_difference = d;
  }
  double kl = divergence(a, b, v->vocab);
  c->kl_mean += kl; // a sum until the end
  if (!(kl <= c->kl_max)) c->kl_max = kl;
}

// Runs tokens [begin, end) of a prompt through one side; logits of all of them.
static zm_status run_side(validator *v, int side, const prompt *p, int32_t begin, int32_t end) {
  zm_row rows[CHUNK];
  for (int32_t i = begin; i < end; i++) rows[i - begin] = (zm_row){side, p->ids[i]};
  zmi_model_set_patterns(v->model, v->patterns[side]);
  return zm_session_step(v->session, rows, (size_t)(end - begin), v->logits[side], (size_t)(end - begin));
}

static zm_status check_rows(validator *v, size_t index, int32_t begin, int32_t end) {
  for (int side = STOCK; side <= PATCHED; side++) {
    zm_status status = run_side(v, side, &v->prompts[index], begin, end);
    if (status != ZM_OK) return status;
  }
  for (int32_t i = begin; i < end; i++) {
    size_t at = (size_t)(i - begin) * (size_t)v->vocab;
    compare_row(v, v->logits[STOCK] + at, v->logits[PATCHED] + at, i, &v->out->prompts[index]);
  }
  return ZM_OK;
}

// Where the first differing row comes from: its beginning is fed again, then both programs are traced over its token.
static zm_status locate(validator *v, size_t index) {
  zmi_prompt_check *c = &v->out->prompts[index];
  const prompt *p = &v->prompts[index];
  zm_status status = zm_session_reset(v->session, STOCK);
  zmi_model_set_patterns(v->model, 0);
  if (status == ZM_OK && c->first_position > 0) {
    status = zm_session_feed(v->session, STOCK, p->ids, (size_t)c->first_position, NULL, 0, NULL, NULL);
  }
  if (status != ZM_OK) return status;
  return zmi_locate_difference(v->session, v->patterns[PATCHED], STOCK, p->ids[c->first_position], p->ids[c->first_position],
                               &c->first_place);
}

static zm_status check_prompt(validator *v, size_t index) {
  prompt *p = &v->prompts[index];
  zmi_prompt_check *c = &v->out->prompts[index];
  c->prompt_tokens = p->count;
  zm_status status = zm_session_reset(v->session, STOCK);
  if (status == ZM_OK) status = zm_session_reset(v->session, PATCHED);
  int32_t rows = 0;
  for (int32_t i = 0; i < p->count && status == ZM_OK; i += rows) {
    rows = ZMI_MIN(CHUNK, p->count - i);
    status = check_rows(v, index, i, i + rows);
    if (status == ZM_OK) status = tick(v, "comparing");
  }
  size_t last = (size_t)(rows - 1) * (size_t)v->vocab; // of the row that the next token follows
  while (status == ZM_OK && c->new_tokens < v->max_tokens) {
    const zmi_kernels *kernels = zmi_model_kernels(v->model);
    int32_t token = zmi_best_token(kernels, v->logits[STOCK] + last, v->vocab);
    c->equal_tokens += token == zmi_best_token(kernels, v->logits[PATCHED] + last, v->vocab);
    c->new_tokens++;
    p->ids[p->count++] = token;
    if (c->new_tokens < v->max_tokens) status = check_rows(v, index, p->count - 1, p->count);
    last = 0;
    if (status == ZM_OK) status = tick(v, "comparing");
  }
  if (status == ZM_OK && c->first_position >= 0) status = locate(v, index);
  c->kl_mean /= c->positions > 0 ? (double)c->positions : 1;
  return status;
}

// ---- timing ----

static zm_status time_feed(validator *v, int side, const prompt *p, int32_t count, double *seconds) {
  zm_status status = zm_session_reset(v->session, side);
  zmi_model_set_patterns(v->model, v->patterns[side]);
  double start = zmi_now();
  if (status == ZM_OK) status = zm_session_feed(v->session, side, p->ids, (size_t)count, v->logits[side], 1, NULL, NULL);
  *seconds = zmi_now() - start;
  return status;
}

static zm_status time_decode(validator *v, int side, const prompt *p, int32_t count, double *seconds) {
  zmi_model_set_patterns(v->model, v->patterns[side]);
  double start = zmi_now();
  zm_status status = ZM_OK;
  for (int32_t i = 0; i < count && status == ZM_OK; i++) {
    zm_row row = {side, p->ids[(p->count - v->max_tokens + i) % p->count]};
    status = zm_session_step(v->session, &row, 1, v->logits[side], 1);
  }
  *seconds = zmi_now() - start;
  return status;
}

static zm_status time_round(validator *v, size_t round) {
  static const int order[4] = {STOCK, PATCHED, PATCHED, STOCK};
  const prompt *p = &v->prompts[round % v->prompt_count];
  zmi_validation *out = v->out;
  int seen[2] = {0, 0};
  zm_status status = ZM_OK;
  for (int i = 0; i < 4 && status == ZM_OK; i++) {
    double *to = order[i] == STOCK ? out->prefill.a : out->prefill.b;
    status = time_feed(v, order[i], p, out->prefill_tokens, &to[2 * round + (size_t)seen[order[i]]++]);
  }
  seen[STOCK] = seen[PATCHED] = 0;
  for (int i = 0; i < 4 && status == ZM_OK; i++) {
    double *to = order[i] == STOCK ? out->decode.a : out->decode.b;
    status = time_decode(v, order[i], p, out->decode_tokens, &to[2 * round + (size_t)seen[order[i]]++]);
  }
  return status == ZM_OK ? tick(v, "timing") : status;
}

static zm_status time_all(validator *v) {
  zmi_validation *out = v->out;
  zm_status status = zmi_abba_new(&out->decode, (size_t)v->rounds);
  if (status == ZM_OK) status = zmi_abba_new(&out->prefill, (size_t)v->rounds);
  if (status != ZM_OK) return status;
  int32_t shortest = INT32_MAX;
  for (size_t i = 0; i < v->prompt_count; i++) shortest = ZMI_MIN(shortest, out->prompts[i].prompt_tokens);
  out->prefill_tokens = shortest;
  out->decode_tokens = ZMI_MAX(1, v->max_tokens / 2);                  // both blocks of a round fit where the answer was
  for (int side = STOCK; side <= PATCHED && status == ZM_OK; side++) { // compile and warm up, untimed
    double seconds;
    status = time_feed(v, side, &v->prompts[0], shortest, &seconds);
    if (status == ZM_OK) status = time_decode(v, side, &v->prompts[0], 1, &seconds);
  }
  for (int32_t i = 0; i < v->rounds && status == ZM_OK; i++) status = time_round(v, (size_t)i);
  if (status == ZM_OK) status = zmi_abba_finish(&out->decode);
  if (status == ZM_OK) status = zmi_abba_finish(&out->prefill);
  return status;
}

// ---- the whole ----

static zm_status pattern_names(zmi_patterns patterns, char **names) {
  zmi_text text = {0};
  for (size_t i = 0; i < zm_pattern_count(); i++) {
    if (patterns >> i & 1) zmi_text_add(&text, text.size ? ",%s" : "%s", zm_pattern_name(i));
  }
  *names = text.failed ? NULL : zmi_strdup(text.size ? zmi_text_str(&text) : "none");
  zmi_text_release(&text);
  return *names ? ZM_OK : ZM_ERROR_MEMORY;
}

static zm_status open_session(validator *v) {
  int32_t longest = 0;
  for (size_t i = 0; i < v->prompt_count; i++) {
    longest = ZMI_MAX(longest, v->prompts[i].count);
    v->total += (uint64_t)((v->prompts[i].count + CHUNK - 1) / CHUNK + v->max_tokens);
  }
  v->total += (uint64_t)v->rounds;
  int32_t need = longest + v->max_tokens + 2, limit = zmi_model_context(v->model);
  int32_t context = v->o->context ? v->o->context : ZMI_MIN(need, limit);
  if (context < need) {
    return zmi_fail(ZM_ERROR_LIMIT, "the longest prompt (%d tokens) and %d new tokens need a context of %d, there are %d: use fewer tokens",
                    longest, v->max_tokens, need, context);
  }
  v->session = zm_session_open(v->model, &(zm_session_options){.context = context, .sequences = 2});
  return v->session ? ZM_OK : zm_last_status();
}

static zm_status validate(validator *v) {
  zmi_validation *out = v->out;
  zm_status status = pattern_names(v->patterns[PATCHED], &out->patterns);
  if (status == ZM_OK) status = make_prompts(v);
  if (status == ZM_OK) status = open_session(v);
  for (int side = STOCK; side <= PATCHED && status == ZM_OK; side++) {
    v->logits[side] = zmi_calloc((size_t)v->vocab * CHUNK, sizeof(float));
    if (!v->logits[side]) status = ZM_ERROR_MEMORY;
  }
  for (size_t i = 0; i < v->prompt_count && status == ZM_OK; i++) status = check_prompt(v, i);
  if (status == ZM_OK) status = time_all(v);
  out->peak_memory = zmi_peak_memory(); // before the memory that measures bandwidth
  zmi_bandwidth *memory = status == ZM_OK ? zmi_bandwidth_new(zmi_model_pool(v->model)) : NULL;
  if (status == ZM_OK && !memory) status = ZM_ERROR_MEMORY;
  if (memory) out->bandwidth = zmi_bandwidth_measure(memory);
  zmi_bandwidth_free(memory);
  if (status != ZM_OK) return status;
  zm_model_info info;
  zm_model_get_info(v->model, &info);
  out->bytes_per_token = info.bytes_per_token;
  out->passed = true;
  for (size_t i = 0; i < v->prompt_count; i++) {
    if (out->prompts[i].differing || out->prompts[i].equal_tokens != out->prompts[i].new_tokens) out->passed = false;
  }
  return ZM_OK;
}

zm_status zmi_validate(zm_model *m, const zmi_validate_options *options, zmi_validation *out) {
  memset(out, 0, sizeof *out);
  validator v = {.model = m, .o = options, .out = out, .vocab = zmi_model_vocab(m)};
  v.max_tokens = options->max_tokens ? options->max_tokens : 64;
  v.rounds = options->rounds ? options->rounds : 8;
  v.patterns[PATCHED] = options->patterns;
  zmi_patterns before = zmi_model_patterns(m);
  zm_status status = validate(&v);
  zmi_model_set_patterns(m, before);
  zm_session_close(v.session);
  for (size_t i = 0; i < v.prompt_count && v.prompts; i++) zmi_free(v.prompts[i].ids);
  zmi_free(v.prompts);
  zmi_free(v.logits[STOCK]);
  zmi_free(v.logits[PATCHED]);
  if (status != ZM_OK) zmi_validation_release(out);
  return status;
}

void zmi_validation_release(zmi_validation *v) {
  for (size_t i = 0; i < v->prompt_count && v->prompts; i++) {
    zmi_free(v->prompts[i].prompt);
    zmi_free(v->prompts[i].first_place);
  }
  zmi_free(v->prompts);
  zmi_free(v->patterns);
  zmi_abba_release(&v->decode);
  zmi_abba_release(&v->prefill);
  memset(v, 0, sizeof *v);
}

// JSON has no NaN or infinity.
static json_t *number(double v) {
  return isfinite(v) ? json_real(v) : json_null();
}

json_t *zmi_validation_json(const zmi_validation *v) {
  json_t *prompts = json_array();
  for (size_t i = 0; i < v->prompt_count && prompts; i++) {
    const zmi_prompt_check *c = &v->prompts[i];
    json_array_append_new(prompts, json_pack("{s:s, s:i, s:i, s:i, s:I, s:I, s:o, s:o, s:o, s:i, s:s?}", "prompt", c->prompt,
                                             "prompt_tokens", c->prompt_tokens, "new_tokens", c->new_tokens, "equal_tokens",
                                             c->equal_tokens, "positions", (json_int_t)c->positions, "differing", (json_int_t)c->differing,
                                             "max_difference", number(c->max_difference), "kl_mean", number(c->kl_mean), "kl_max",
                                             number(c->kl_max), "first_position", c->first_position, "first_place", c->first_place));
  }
  double rate = v->decode.seconds_b.median > 0 ? v->decode_tokens / v->decode.seconds_b.median : 0;
  return json_pack("{s:b, s:s, s:o, s:o, s:o, s:f, s:I, s:f, s:I}", "passed", v->passed, "patterns", v->patterns, "prompts", prompts,
                   "decode", zmi_abba_json(&v->decode, v->decode_tokens), "prefill", zmi_abba_json(&v->prefill, v->prefill_tokens),
                   "read_bandwidth_gb_s", v->bandwidth, "bytes_per_token", (json_int_t)v->bytes_per_token, "share_of_bandwidth",
                   v->bandwidth > 0 ? rate * (double)v->bytes_per_token / 1e9 / v->bandwidth : 0.0, "peak_memory",
                   (json_int_t)v->peak_memory);
}
