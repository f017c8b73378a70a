// Sessions and generation on the shipped checkpoint: streaming, stops, errors that leave a session as it was, and the same bits for any
// chunking, any number of threads, alone or in a batch.
#include "lm/lm.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char folder[] = "checkpoints/storyteller-4bit";
static zm_model *model;
static int32_t vocab;
// "Once upon a time there was" or so: any ids do.
static const int32_t prompt[] = {486, 316, 263, 575, 681, 443, 16, 285, 349, 480, 575};
enum { PROMPT = sizeof prompt / sizeof *prompt };

static int open_model(void **state) {
  (void)state;
  model = zm_model_open(folder, NULL);
  if (!model) return print_error("%s\n", zm_last_error()), -1;
  vocab = zmi_model_vocab(model);
  return 0;
}

static int close_model(void **state) {
  (void)state;
  zm_model_close(model);
  return 0;
}

static zm_session *open_session(int32_t context, int32_t sequences, int32_t chunk) {
  zm_session *s = zm_session_open(model, &(zm_session_options){.context = context, .sequences = sequences, .chunk = chunk});
  if (!s) fail_msg("%s", zm_last_error());
  return s;
}

static zm_generate_result generate_in(zm_session *s, const zm_generate_options *o) {
  zm_generate_result r;
  if (zm_generate(s, prompt, PROMPT, o, &r)) fail_msg("%s", zm_last_error());
  return r;
}

static zm_generate_result generate(const zm_generate_options *o) {
  zm_session *s = open_session(200, 1, 0);
  zm_generate_result r = generate_in(s, o);
  zm_session_close(s);
  return r;
}

static void assert_same_tokens(const zm_generate_result *a, const zm_generate_result *b) {
  assert_int_equal(a->count, b->count);
  assert_memory_equal(a->tokens, b->tokens, a->count * sizeof *a->tokens);
}

static float *new_logits(size_t rows) {
  float *x = malloc(rows * (size_t)vocab * sizeof *x);
  assert_non_null(x);
  return x;
}

static void feed(zm_session *s, int32_t sequence, const int32_t *tokens, size_t count, float *logits) {
  if (zm_session_feed(s, sequence, tokens, count, logits, logits != NULL, NULL, NULL)) fail_msg("%s", zm_last_error());
}

// ---- streaming ----

typedef struct heard {
  zmi_text text;
  size_t count, stop_at; // 0: never
  int32_t tokens[300];
  float logprob[300];
} heard;

static bool hear(void *user, const zm_token_event *e) {
  heard *h = user;
  assert_int_equal(e->index, h->count);
  h->tokens[h->count] = e->token;
  h->logprob[h->count++] = e->logprob;
  zmi_text_add_bytes(&h->text, e->text, e->text_size);
  return h->count != h->stop_at;
}

static void streaming_equals_final(void **state) {
  (void)state;
  const char *const stop[] = {"zzzz", ". T"};
  const zm_generate_options cases[] = {
    {.max_tokens = 60},
    {.max_tokens = 60, .temperature = 1.5f, .seed = 3, .ignore_eos = true},
    {.max_tokens = 60, .temperature = 1.5f, .seed = 4, .ignore_eos = true, .keep_special = true},
    {.max_tokens = 60, .stop = stop, .stop_count = 2},
    {.max_tokens = 1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    heard h = {0};
    zm_generate_options o = cases[i];
    o.on_token = hear;
    o.user = &h;
    zm_generate_result r = generate(&o);
    assert_int_equal(r.count, h.count);
    assert_memory_equal(r.tokens, h.tokens, r.count * sizeof *r.tokens);
    assert_string_equal(r.text, zmi_text_str(&h.text));
    assert_int_equal(strlen(r.text), r.text_size);
    assert_int_equal(r.prompt_tokens, PROMPT);
    assert_true(r.prompt_seconds > 0 && r.first_token_seconds >= r.prompt_seconds && r.decode_seconds >= 0);
    if (!o.stop_count && r.stop == ZM_STOP_LENGTH) { // the text is what the tokenizer makes of all tokens at once
      char *text;
      size_t size;
      assert_int_equal(r.count, o.max_tokens);
      assert_int_equal(zm_tokenizer_decode(zm_model_tokenizer(model), r.tokens, r.count,
                                           &(zm_decode_options){.skip_special = !o.keep_special}, &text, &size), ZM_OK);
      assert_string_equal(text, r.text);
      zm_text_free(text);
    }
    zm_generate_result_free(&r);
    zmi_text_release(&h.text);
  }
}

// Each stop string is a piece of the text that comes without one, at an offset that has nothing to do with tokens.
static void stop_strings_end_the_text(void **state) {
  (void)state;
  zm_generate_result whole = generate(&(zm_generate_options){.max_tokens = 30, .ignore_eos = true});
  assert_true(whole.text_size > 50);
  for (size_t at = 1; at + 12 < whole.text_size; at += 7) {
    char piece[8] = {0};
    memcpy(piece, whole.text + at, 4 + at % 4);
    const char *const stop[] = {"\x01", piece};
    zm_generate_result r = generate(&(zm_generate_options){.max_tokens = 30, .ignore_eos = true, .stop = stop, .stop_count = 2});
    size_t expected = (size_t)(strstr(whole.text, piece) - whole.text);
    assert_int_equal(r.stop, ZM_STOP_STRING);
    assert_int_equal(r.text_size, expected);
    assert_memory_equal(r.text, whole.text, expected);
    assert_true(r.count < whole.count || expected + strlen(piece) > whole.text_size - 12);
    zm_generate_result_free(&r);
  }
  zm_generate_result_free(&whole);
}

static void stop_tokens_end_the_text(void **state) {
  (void)state;
  zm_generate_result whole = generate(&(zm_generate_options){.max_tokens = 12, .ignore_eos = true});
  int32_t stop = whole.tokens[6];
  size_t first = 0;
  while (whole.tokens[first] != stop) first++;
  zm_generate_result r =
      generate(&(zm_generate_options){.max_tokens = 12, .ignore_eos = true, .stop_tokens = &stop, .stop_token_count = 1});
  assert_int_equal(r.stop, ZM_STOP_TOKEN);
  assert_int_equal(r.count, first + 1); // the token is among the new tokens, its text is not
  assert_int_equal(r.tokens[first], stop);
  char *text;
  size_t size;
  assert_int_equal(zm_tokenizer_decode(zm_model_tokenizer(model), r.tokens, first, NULL, &text, &size), ZM_OK);
  assert_string_equal(text, r.text);
  zm_text_free(text);
  zm_generate_result_free(&r);
  zm_generate_result_free(&whole);
}

static void eos_ends_the_text(void **state) {
  (void)state;
  const int32_t *eos;
  assert_true(zm_model_eos(model, &eos) >= 1);
  zm_logit_bias bias = {eos[0], 1000};
  zm_generate_options o = {.max_tokens = 5, .logit_bias = &bias, .logit_bias_count = 1};
  zm_generate_result r = generate(&o);
  assert_int_equal(r.stop, ZM_STOP_EOS);
  assert_int_equal(r.count, 1);
  assert_string_equal(r.text, "");
  zm_generate_result_free(&r);
  o.ignore_eos = true;
  r = generate(&o);
  assert_int_equal(r.stop, ZM_STOP_LENGTH);
  assert_int_equal(r.count, 5);
  zm_generate_result_free(&r);
}

static void callback_stops(void **state) {
  (void)state;
  heard h = {.stop_at = 5};
  zm_generate_result r = generate(&(zm_generate_options){.max_tokens = 50, .on_token = hear, .user = &h});
  assert_int_equal(r.stop, ZM_STOP_CALLBACK);
  assert_int_equal(r.count, 5);
  assert_string_equal(r.text, zmi_text_str(&h.text));
  zm_generate_result_free(&r);
  zmi_text_release(&h.text);
}

static void log_probabilities(void **state) {
  (void)state;
  heard h = {0};
  zm_generate_result r = generate(&(zm_generate_options){.max_tokens = 6, .temperature = 2, .seed = 9, .on_token = hear, .user = &h});
  zm_session *s = open_session(64, 1, 0);
  float *x = new_logits(1);
  feed(s, 0, prompt, PROMPT, x);
  for (size_t i = 0; i < r.count; i++) {
    double sum = 0;
    for (int32_t k = 0; k < vocab; k++) sum += exp((double)x[k]);
    assert_true(fabs((double)x[r.tokens[i]] - log(sum) - (double)h.logprob[i]) < 1e-5);
    assert_int_equal(zm_session_step(s, &(zm_row){0, r.tokens[i]}, 1, x, 1), ZM_OK);
  }
  free(x);
  zm_session_close(s);
  zmi_text_release(&h.text);
  // Whoever wants none has the same tokens.
  heard plain = {0};
  const zm_generate_options o = {.max_tokens = 6, .temperature = 2, .seed = 9, .skip_logprobs = true, .on_token = hear, .user = &plain};
  zm_generate_result without = generate(&o);
  assert_same_tokens(&r, &without);
  for (size_t i = 0; i < without.count; i++) assert_true(isnan(plain.logprob[i]));
  zm_generate_result_free(&r);
  zm_generate_result_free(&without);
  zmi_text_release(&plain.text);
}

// ---- context ----

static void context_full(void **state) {
  (void)state;
  zm_session *s = open_session(PROMPT + 5, 1, 0);
  zm_generate_result r = generate_in(s, &(zm_generate_options){.max_tokens = 50, .ignore_eos = true});
  assert_int_equal(r.stop, ZM_STOP_CONTEXT);
  assert_int_equal(r.count, 6); // the last one needs no position
  assert_int_equal(zm_session_length(s, 0), PROMPT + 5);
  assert_int_equal(zm_session_step(s, &(zm_row){0, 5}, 1, NULL, 0), ZM_ERROR_LIMIT);
  assert_non_null(strstr(zm_last_error(), "0 of 16 positions are left"));
  zm_generate_result_free(&r);
  assert_int_equal(zm_generate(s, prompt, PROMPT, NULL, &r), ZM_ERROR_LIMIT);
  assert_null(r.tokens);
  zm_generate_result_free(&r);
  assert_int_equal(zm_session_reset(s, 0), ZM_OK);
  zm_generate_result again = generate_in(s, &(zm_generate_options){.max_tokens = 6, .ignore_eos = true});
  zm_generate_result fresh = generate(&(zm_generate_options){.max_tokens = 6, .ignore_eos = true});
  assert_same_tokens(&again, &fresh);
  zm_generate_result_free(&again);
  zm_generate_result_free(&fresh);
  zm_session_close(s);
}

// A second call goes on where the first ended: its prompt begins with the last token, which has no position yet.
static void continues(void **state) {
  (void)state;
  const zm_generate_options o = {.max_tokens = 5, .ignore_eos = true, .temperature = 1, .seed = 77};
  zm_session *s = open_session(100, 1, 0);
  zm_generate_result a = generate_in(s, &o), b;
  assert_int_equal(zm_generate(s, &a.tokens[4], 1, &o, &b), ZM_OK);
  zm_generate_result whole = generate(&(zm_generate_options){.max_tokens = 10, .ignore_eos = true, .temperature = 1, .seed = 77});
  assert_memory_equal(whole.tokens, a.tokens, 5 * sizeof(int32_t));
  assert_memory_equal(whole.tokens + 5, b.tokens, 5 * sizeof(int32_t));
  zm_generate_result_free(&a);
  zm_generate_result_free(&b);
  zm_generate_result_free(&whole);
  zm_session_close(s);
}

// ---- errors leave a session as it was ----

static bool refuse(void *user, const char *what, uint64_t done, uint64_t total) {
  assert_non_null(what);
  assert_int_equal(total, PROMPT);
  return done < *(const uint64_t *)user;
}

static void cancelled_prompt(void **state) {
  (void)state;
  float *x = new_logits(1), *y = new_logits(1);
  zm_session *s = open_session(100, 2, 3);
  feed(s, 1, prompt, 7, x); // something that must survive
  for (uint64_t stop = 1; stop <= PROMPT; stop += 5) {
    assert_int_equal(zm_session_feed(s, 1, prompt, PROMPT, NULL, 0, refuse, &stop), ZM_ERROR_CANCELLED);
    assert_int_equal(zm_session_length(s, 1), 7);
    zm_generate_result r;
    zm_generate_options o = {.on_prompt = refuse, .user = &stop};
    assert_int_equal(zm_generate(s, prompt, PROMPT, &o, &r), ZM_ERROR_CANCELLED);
    assert_int_equal(zm_session_length(s, 0), 0);
    zm_generate_result_free(&r);
  }
  zm_session *fresh = open_session(100, 1, 0);
  feed(fresh, 0, prompt, 7, NULL);
  feed(fresh, 0, prompt, PROMPT, y);
  feed(s, 1, prompt, PROMPT, x);
  assert_memory_equal(x, y, (size_t)vocab * sizeof *x);
  zm_session_close(s);
  zm_session_close(fresh);
  free(x);
  free(y);
}

static void assert_refused(zm_status got, zm_status status, const char *says) {
  if (got != status || !strstr(zm_last_error(), says)) fail_msg("expected \"%s\", got %d: %s", says, got, zm_last_error());
}

static void bad_steps(void **state) {
  (void)state;
  zm_session *s = open_session(20, 3, 0);
  float *x = new_logits(1);
  feed(s, 1, prompt, 4, NULL);
  const zm_row apart[] = {{0, 1}, {1, 1}, {0, 1}}, outside[] = {{0, 1}, {0, vocab}}, below[] = {{0, -1}}, nobody[] = {{3, 1}};
  assert_refused(zm_session_step(s, apart, 3, NULL, 0), ZM_ERROR_ARGUMENT, "row 2 belongs to sequence 0");
  assert_refused(zm_session_step(s, outside, 2, NULL, 0), ZM_ERROR_ARGUMENT,
                 "row 1: token id 8192 is out of range: ids run from 0 to 8191");
  assert_refused(zm_session_step(s, below, 1, NULL, 0), ZM_ERROR_ARGUMENT, "token id -1");
  assert_refused(zm_session_step(s, nobody, 1, NULL, 0), ZM_ERROR_ARGUMENT, "sequence 3 does not exist");
  assert_refused(zm_session_step(s, apart, 1, x, 2), ZM_ERROR_ARGUMENT, "last 2 rows");
  assert_refused(zm_session_step(s, apart, 0, NULL, 0), ZM_ERROR_ARGUMENT, "at least one row");
  assert_refused(zm_session_step(s, NULL, 1, NULL, 0), ZM_ERROR_ARGUMENT, "at least one row");
  assert_refused(zm_session_step(s, apart, 5000, NULL, 0), ZM_ERROR_LIMIT, "5000 rows are too many");
  int32_t tokens[32] = {0};
  assert_refused(zm_session_feed(s, 1, tokens, 17, NULL, 0, NULL, NULL), ZM_ERROR_LIMIT, "16 of the 20 positions");
  tokens[3] = 9000;
  assert_refused(zm_session_feed(s, 0, tokens, 5, NULL, 0, NULL, NULL), ZM_ERROR_ARGUMENT, "token 3 of the prompt is 9000");
  assert_refused(zm_session_feed(s, 0, tokens, 0, NULL, 0, NULL, NULL), ZM_ERROR_ARGUMENT, "the prompt is empty");
  assert_refused(zm_session_feed(s, -1, tokens, 1, NULL, 0, NULL, NULL), ZM_ERROR_ARGUMENT, "sequence -1");
  assert_refused(zm_session_feed(s, 0, tokens, 1, x, 2, NULL, NULL), ZM_ERROR_ARGUMENT, "last 2 tokens");
  assert_refused(zm_session_reset(s, 3), ZM_ERROR_ARGUMENT, "sequence 3");
  assert_refused(zmi_session_rewind(s, 1, 2), ZM_ERROR_UNSUPPORTED, "from 4 to 2 positions");
  assert_refused(zmi_session_rewind(s, 1, 5), ZM_ERROR_ARGUMENT, "cannot go back to 5");
  assert_int_equal(zm_session_length(s, 0), 0);
  assert_int_equal(zm_session_length(s, 1), 4);
  assert_int_equal(zm_session_length(s, 9), 0);
  zm_session_close(s);
  free(x);
}

static void bad_sessions_and_options(void **state) {
  (void)state;
  const struct {
    zm_session_options o;
    const char *says;
  } sessions[] = {
    {{.context = -1}, "context is -1"},     {{.context = 1 << 30}, "the 32768 positions"},
    {{.sequences = -2}, "sequences is -2"}, {{.chunk = 1 << 20}, "chunk is 1048576"},
    {{.context = 32768, .sequences = 1024}, "ask for a smaller context"}, // tens of GB
  };
  size_t count = sizeof sessions / sizeof *sessions;
  if (zmi_memory_available() > (uint64_t)40 << 30) count--; // a machine that can hold them
  for (size_t i = 0; i < count; i++) {
    zm_session *s = zm_session_open(model, &sessions[i].o);
    if (s || !strstr(zm_last_error(), sessions[i].says)) fail_msg("case %zu says: %s", i, zm_last_error());
  }
  assert_null(zm_session_open(NULL, NULL));
  zm_session *s = open_session(0, 0, 0);
  assert_int_equal(zm_session_context(s), 4096);
  zm_generate_result r;
  const char *const empty[] = {""};
  int32_t outside = 8192;
  assert_refused(zm_generate(s, prompt, 0, NULL, &r), ZM_ERROR_ARGUMENT, "the prompt is empty");
  assert_refused(zm_generate(s, NULL, 3, NULL, &r), ZM_ERROR_ARGUMENT, "the prompt is empty");
  assert_refused(zm_generate(s, prompt, 3, &(zm_generate_options){.top_p = 2}, &r), ZM_ERROR_ARGUMENT, "top_p is 2");
  assert_refused(zm_generate(s, prompt, 3, &(zm_generate_options){.stop = empty, .stop_count = 1}, &r), ZM_ERROR_ARGUMENT, "empty");
  assert_refused(zm_generate(s, prompt, 3, &(zm_generate_options){.stop_tokens = &outside, .stop_token_count = 1}, &r), ZM_ERROR_ARGUMENT,
                 "stop token 8192");
  assert_refused(zm_generate(NULL, prompt, 3, NULL, &r), ZM_ERROR_ARGUMENT, "no session");
  assert_refused(zm_generate(s, prompt, 3, NULL, NULL), ZM_ERROR_ARGUMENT, "no result");
  assert_int_equal(zm_session_length(s, 0), 0);
  zm_session_close(s);
}

// ---- the same bits ----

static void any_chunking(void **state) {
  (void)state;
  enum { N = 70 };
  int32_t tokens[N];
  for (int i = 0; i < N; i++) tokens[i] = (i * 7919 + 13) % vocab;
  float *whole = new_logits(N), *x = new_logits(N);
  zm_session *s = open_session(N, 1, N);
  assert_int_equal(zm_session_feed(s, 0, tokens, N, whole, N, NULL, NULL), ZM_OK);
  zm_session_close(s);
  const int32_t chunks[] = {1, 3, 16, 33, 64};
  for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
    s = open_session(N + 30, 1, chunks[i]);
    assert_int_equal(zm_session_feed(s, 0, tokens, N, x, N, NULL, NULL), ZM_OK);
    assert_memory_equal(x, whole, (size_t)N * (size_t)vocab * sizeof *x);
    assert_int_equal(zm_session_reset(s, 0), ZM_OK); // logits of the last 20 only, across chunks
    assert_int_equal(zm_session_feed(s, 0, tokens, N, x, 20, NULL, NULL), ZM_OK);
    assert_memory_equal(x, whole + (size_t)(N - 20) * (size_t)vocab, 20 * (size_t)vocab * sizeof *x);
    zm_session_close(s);
  }
  free(whole);
  free(x);
}

// Three sequences of different lengths advance in common steps, several rows each, in changing order.
static void batch_equals_alone(void **state) {
  (void)state;
  static const int32_t text[3][9] = {
      {486, 316, 263, 575, 681, 443, 16, 285, 349}, {16, 285, 5, 480, 99, 1061, 284, 7, 8}, {1, 2, 3, 4, 5, 6, 7, 8, 9}};
  float *alone[3], *x = new_logits(9);
  for (int q = 0; q < 3; q++) {
    alone[q] = new_logits(9);
    zm_session *s = open_session(32, 1, 0);
    assert_int_equal(zm_session_feed(s, 0, text[q], 9, alone[q], 9, NULL, NULL), ZM_OK);
    zm_session_close(s);
  }
  static const struct {
    int sequence, rows;
  } steps[][3] = {
      {{0, 1}, {1, 2}, {2, 4}}, {{2, 1}, {0, 3}, {1, 1}}, {{1, 1}, {2, 1}, {0, 1}}, {{0, 4}, {1, 5}, {2, 0}}, {{2, 3}, {0, 0}, {1, 0}}};
  zm_session *s = open_session(48, 3, 0);
  int at[3] = {0};
  for (size_t k = 0; k < sizeof steps / sizeof *steps; k++) {
    zm_row rows[9];
    const float *expected[9];
    size_t count = 0;
    for (int part = 0; part < 3; part++) {
      int q = steps[k][part].sequence;
      for (int i = 0; i < steps[k][part].rows; i++) {
        expected[count] = alone[q] + (size_t)at[q] * (size_t)vocab;
        rows[count++] = (zm_row){q, text[q][at[q]++]};
      }
    }
    if (zm_session_step(s, rows, count, x, count)) fail_msg("%s", zm_last_error());
    for (size_t i = 0; i < count; i++) assert_memory_equal(x + i * (size_t)vocab, expected[i], (size_t)vocab * sizeof *x);
  }
  for (int q = 0; q < 3; q++) {
    assert_int_equal(at[q], 9);
    assert_int_equal(zm_session_length(s, q), 9);
    free(alone[q]);
  }
  zm_session_close(s);
  free(x);
}

static void any_number_of_threads(void **state) {
  (void)state;
  const zm_generate_options o = {.max_tokens = 24, .temperature = 0.9f, .top_p = 0.95f, .seed = 42, .ignore_eos = true};
  zm_generate_result first = generate(&o);
  zm_model *kept = model;
  for (int threads = 1; threads <= 3; threads++) {
    model = zm_model_open(folder, &(zm_model_options){.threads = threads});
    assert_non_null(model);
    zm_generate_result r = generate(&o);
    assert_same_tokens(&r, &first);
    zm_generate_result_free(&r);
    zm_model_close(model);
  }
  model = kept;
  zm_generate_options other = o;
  other.seed = 43;
  zm_generate_result r = generate(&other);
  assert_true(memcmp(r.tokens, first.tokens, 24 * sizeof *r.tokens) != 0);
  zm_generate_result_free(&r);
  zm_generate_result_free(&first);
}

// Two threads generate with one model while a third changes its patterns: they take turns, and each gets what it would get alone.
typedef struct sharer {
  const zm_generate_options *options;
  zm_generate_result result;
  zm_status status;
} sharer;

static void *share(void *user) {
  sharer *s = user;
  zm_session *session = zm_session_open(model, &(zm_session_options){.context = 64, .chunk = 3});
  s->status = session ? zm_generate(session, prompt, PROMPT, s->options, &s->result) : zm_last_status();
  zm_session_close(session);
  return NULL;
}

static void *repatch(void *user) {
  zm_status *status = user;
  for (int i = 0; i < 20 && *status == ZM_OK; i++) *status = i % 2 ? zm_unpatch(model) : zm_patch(model, NULL, NULL);
  return NULL;
}

static void threads_share_a_model(void **state) {
  (void)state;
  const zm_generate_options o = {.max_tokens = 24, .temperature = 0.9f, .seed = 7, .ignore_eos = true};
  zm_generate_result alone = generate(&o);
  sharer sharers[2] = {{.options = &o}, {.options = &o}};
  zm_status patched = ZM_OK;
  pthread_t threads[3];
  for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, share, &sharers[i]), 0);
  assert_int_equal(pthread_create(&threads[2], NULL, repatch, &patched), 0);
  for (int i = 0; i < 3; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
  assert_int_equal(patched, ZM_OK);
  for (int i = 0; i < 2; i++) {
    assert_int_equal(sharers[i].status, ZM_OK);
    assert_same_tokens(&sharers[i].result, &alone);
    zm_generate_result_free(&sharers[i].result);
  }
  zm_generate_result_free(&alone);
}

// The choice of patterns may change under an open session; no bit does.
static void patching_in_between(void **state) {
  (void)state;
  float *x = new_logits(1), *y = new_logits(1);
  zm_session *a = open_session(64, 1, 0), *b = open_session(64, 1, 0);
  assert_int_equal(zm_unpatch(model), ZM_OK);
  feed(a, 0, prompt, PROMPT, x);
  assert_int_equal(zm_patch(model, NULL, NULL), ZM_OK);
  feed(b, 0, prompt, PROMPT, y);
  assert_memory_equal(x, y, (size_t)vocab * sizeof *x);
  for (int i = 0; i < 6; i++) {
    if (i % 2) assert_int_equal(zm_patch(model, NULL, NULL), ZM_OK);
    else assert_int_equal(zm_unpatch(model), ZM_OK);
    assert_int_equal(zm_session_step(a, &(zm_row){0, prompt[i]}, 1, x, 1), ZM_OK);
    assert_int_equal(zm_patch(model, NULL, NULL), ZM_OK);
    assert_int_equal(zm_session_step(b, &(zm_row){0, prompt[i]}, 1, y, 1), ZM_OK);
    assert_memory_equal(x, y, (size_t)vocab * sizeof *x);
  }
  assert_int_equal(zm_unpatch(model), ZM_OK);
  zm_session_close(a);
  zm_session_close(b);
  free(x);
  free(y);
}

// More kinds of steps than programs are kept for, coming back to the first ones.
static void many_kinds_of_steps(void **state) {
  (void)state;
  float *x = new_logits(1), *y = new_logits(1);
  zm_session *s = open_session(256, 1, 0);
  zm_session *one = open_session(256, 1, 1);
  int32_t tokens[20];
  for (int i = 0; i < 20; i++) tokens[i] = 100 + i;
  for (int pass = 0; pass < 2; pass++) {
    for (size_t n = 1; n <= 12; n++) {
      feed(s, 0, tokens, n, x);
      feed(one, 0, tokens, n, y);
      assert_memory_equal(x, y, (size_t)vocab * sizeof *x);
    }
  }
  zm_session_close(s);
  zm_session_close(one);
  free(x);
  free(y);
}

// One call of everything, with the n-th allocation failing (0: none). Returns what it came to.
static zm_status use_all(uint64_t n) {
  static const char *const stop[] = {"zzzz"};
  zm_generate_result r = {0};
  zmi_alloc_fail_at(n);
  zm_session *s = zm_session_open(model, &(zm_session_options){.context = 32, .chunk = 8});
  zm_status status = s ? ZM_OK : zm_last_status();
  if (s) status = zm_generate(s, prompt, PROMPT, &(zm_generate_options){.max_tokens = 3, .stop = stop, .stop_count = 1}, &r);
  if (s && status) assert_true(zm_session_length(s, 0) == 0 || zm_session_length(s, 0) >= PROMPT); // nothing half-read
  zmi_alloc_fail_at(0);
  zm_generate_result_free(&r);
  zm_session_close(s);
  return status;
}

// Allocations that fail in turn: the first ones all, and enough of the many that compiling makes. Leaks are found by the address sanitizer.
static void failing_allocations(void **state) {
  (void)state;
  assert_int_equal(use_all(0), ZM_OK);
  uint64_t before = zmi_alloc_count();
  assert_int_equal(use_all(0), ZM_OK);
  uint64_t count = zmi_alloc_count() - before, failed = 0;
  for (uint64_t n = 1; n <= count; n += n < 50 || n + 60 > count ? 1 : 1 + count / 100) {
    zm_status status = use_all(n);
    if (status && (status != ZM_ERROR_MEMORY || !*zm_last_error()))
      fail_msg("allocation %d: status %d, %s", (int)n, status, zm_last_error());
    failed += status != ZM_OK;
  }
  assert_true(failed > 100);
  assert_int_equal(use_all(0), ZM_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(streaming_equals_final),    cmocka_unit_test(stop_strings_end_the_text), cmocka_unit_test(stop_tokens_end_the_text),
    cmocka_unit_test(eos_ends_the_text),         cmocka_unit_test(callback_stops),            cmocka_unit_test(log_probabilities),
    cmocka_unit_test(context_full),              cmocka_unit_test(continues),                 cmocka_unit_test(cancelled_prompt),
    cmocka_unit_test(bad_steps),                 cmocka_unit_test(bad_sessions_and_options),  cmocka_unit_test(any_chunking),
    cmocka_unit_test(batch_equals_alone),        cmocka_unit_test(any_number_of_threads),     cmocka_unit_test(patching_in_between),
    cmocka_unit_test(many_kinds_of_steps),       cmocka_unit_test(failing_allocations),
    cmocka_unit_test(threads_share_a_model),
  };
  return cmocka_run_group_tests(tests, open_model, close_model);
}
