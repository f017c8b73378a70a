// zm_generate: reads the prompt in chunks, then samples one token after another, turns them into text as it goes, and stops for the
// reasons that the options give. Sampling is in sampling.c, stop strings are in stop.c.
#include "lm/lm.h"

#include <math.h> // NAN
#include <string.h>

typedef struct generation {
  zm_session *session;
  const zm_generate_options *options;
  const zm_tokenizer *tokenizer; // NULL: the checkpoint has none; there is no text then
  zm_detokenizer *detokenizer;
  zmi_sampler *sampler;
  zmi_stopper stopper;
  zmi_text text;
  float *logits; // [vocab]
  int32_t vocab;
  int32_t *end; // tokens that end the text
  size_t ends;
  zm_status failed; // in a token that was made elsewhere
  int32_t *tokens;
  size_t count, capacity;
  double start, prompt_end, first_token;
  zm_stop_reason stop;
} generation;

// ---- making ----

static zm_status check_stop_tokens(const zm_generate_options *o, int32_t vocab) {
  if (o->stop_token_count && !o->stop_tokens)
    return zmi_fail(ZM_ERROR_ARGUMENT, "stop_tokens is NULL although stop_token_count is %zu", o->stop_token_count);
  for (size_t i = 0; i < o->stop_token_count; i++)
    if (o->stop_tokens[i] < 0 || o->stop_tokens[i] >= vocab)
      return zmi_fail(ZM_ERROR_ARGUMENT, "stop token %d is out of range: ids run from 0 to %d", o->stop_tokens[i], vocab - 1);
  return ZM_OK;
}

// Text is made where the checkpoint has a tokenizer; stop strings need one.
static zm_status open_text(generation *g) {
  zm_model *m = zmi_session_model(g->session);
  char *path = zmi_path_join(zmi_model_path(m), "tokenizer.json");
  if (!path) return ZM_ERROR_MEMORY;
  bool exists = zmi_path_exists(path);
  zmi_free(path);
  if (!exists && !g->options->stop_count) return ZM_OK;
  g->tokenizer = zm_model_tokenizer(m);
  if (!g->tokenizer) return zm_last_status();
  g->detokenizer = zm_detokenizer_new(g->tokenizer, &(zm_decode_options){.skip_special = !g->options->keep_special});
  return g->detokenizer ? ZM_OK : zm_last_status();
}

// All of them in one list.
static zm_status list_ends(generation *g) {
  const zm_generate_options *o = g->options;
  const int32_t *eos = NULL;
  const size_t count = o->ignore_eos ? 0 : zm_model_eos(zmi_session_model(g->session), &eos);
  g->end = zmi_calloc(o->stop_token_count + count + 1, sizeof *g->end);
  if (!g->end) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < o->stop_token_count; i++) g->end[g->ends++] = o->stop_tokens[i];
  for (size_t i = 0; i < count; i++) g->end[g->ends++] = eos[i];
  if (!o->ignore_eos && g->tokenizer) g->end[g->ends++] = zm_tokenizer_eos(g->tokenizer);
  return ZM_OK;
}

static zm_status begin(generation *g, const int32_t *prompt, size_t count) {
  const zm_generate_options *o = g->options;
  zm_model *m = zmi_session_model(g->session);
  g->vocab = zmi_model_vocab(m);
  if (!prompt || !count) return zmi_fail(ZM_ERROR_ARGUMENT, "the prompt is empty: generation needs at least one token to continue");
  zm_status status = check_stop_tokens(o, g->vocab);
  if (!status) status = zmi_stopper_init(&g->stopper, o->stop, o->stop_count);
  if (status) return status;
  g->sampler = zmi_sampler_new(o, g->vocab, zmi_model_kernels(m));
  if (!g->sampler) return zm_last_status();
  g->logits = zmi_malloc((size_t)g->vocab * sizeof *g->logits);
  if (!g->logits) return ZM_ERROR_MEMORY;
  status = open_text(g);
  return status ? status : list_ends(g);
}

static void end(generation *g) {
  zm_detokenizer_free(g->detokenizer);
  zmi_sampler_free(g->sampler);
  zmi_stopper_release(&g->stopper);
  zmi_text_release(&g->text);
  zmi_free(g->logits);
  zmi_free(g->tokens);
  zmi_free(g->end);
}

// ---- one token ----

static bool contains(const int32_t *ids, size_t count, int32_t id) {
  for (size_t i = 0; i < count; i++)
    if (ids[i] == id) return true;
  return false;
}

static zm_stop_reason ends_text(const generation *g, int32_t token) {
  if (!contains(g->end, g->ends, token)) return ZM_STOP_NONE;
  return contains(g->options->stop_tokens, g->options->stop_token_count, token) ? ZM_STOP_TOKEN : ZM_STOP_EOS;
}

// Text of one token through the detokenizer and the stop strings. A model's vocabulary may be padded beyond the tokenizer's: no text there.
static zm_status add_text(generation *g, int32_t token) {
  if (!g->tokenizer || token >= zm_tokenizer_size(g->tokenizer)) return ZM_OK;
  const char *text;
  size_t size;
  zm_status status = zm_detokenizer_add(g->detokenizer, token, &text, &size);
  if (status) return status;
  bool stopped;
  status = zmi_stopper_add(&g->stopper, text, size, &g->text, &stopped);
  if (stopped) g->stop = ZM_STOP_STRING;
  return status;
}

// What detokenizer and stop strings still hold back.
static zm_status flush_text(generation *g) {
  if (!g->tokenizer) return ZM_OK;
  const char *text;
  size_t size;
  zm_status status = zm_detokenizer_finish(g->detokenizer, &text, &size);
  if (status) return status;
  bool stopped;
  status = zmi_stopper_add(&g->stopper, text, size, &g->text, &stopped);
  if (status || stopped) return status;
  return zmi_stopper_finish(&g->stopper, &g->text);
}

// Makes the text of a token, decides whether it is the last one, and tells the caller.
static zm_status add_token(generation *g, int32_t token, float logprob) {
  const zm_generate_options *o = g->options;
  zm_status status = ZM_OK;
  if (!ZMI_GROW(g->tokens, g->capacity, g->count + 1)) return ZM_ERROR_MEMORY;
  g->tokens[g->count++] = token;
  size_t shown = g->text.size;
  g->stop = ends_text(g, token);
  if (!g->stop) status = add_text(g, token);
  if (status) return status;
  if (!g->stop && g->count == (o->max_tokens ? o->max_tokens : 256)) g->stop = ZM_STOP_LENGTH;
  if (!g->stop && zm_session_length(g->session, 0) == zm_session_context(g->session)) g->stop = ZM_STOP_CONTEXT;
  if (g->stop && g->stop != ZM_STOP_STRING) status = flush_text(g);
  if (status) return status;
  if (g->count == 1) g->first_token = zmi_now();
  if (!o->on_token) return ZM_OK;
  zm_token_event event = {token, g->count - 1, logprob, zmi_text_str(&g->text) + shown, g->text.size - shown};
  if (!o->on_token(o->user, &event) && !g->stop) g->stop = ZM_STOP_CALLBACK;
  return ZM_OK;
}

static zm_status sample_token(generation *g, int32_t *token) {
  float logprob = NAN;
  zm_status status = zmi_sampler_next(g->sampler, g->logits, (uint64_t)zm_session_length(g->session, 0), token,
                                      g->options->skip_logprobs ? NULL : &logprob);
  return status ? status : add_token(g, *token, logprob);
}

static bool on_next(void *user, int32_t token) {
  generation *g = user;
  g->failed = add_token(g, token, NAN);
  return !g->failed && !g->stop;
}

// Tokens that are chosen where steps are played, as many as may be at a time. *token is the last one; *made is 0 if there are none.
static zm_status run_ahead(generation *g, int32_t *token, size_t *made) {
  const size_t most = g->options->max_tokens ? g->options->max_tokens : 256, before = g->count;
  zmi_run run = {.token = *token, .most = most - g->count, .end = g->end, .ends = g->ends, .on_next = on_next, .user = g};
  *made = 0;
  if (!g->options->skip_logprobs || !zmi_sampler_on_a_gpu(g->sampler, &run.sampling)) return ZM_OK;
  zm_status status = zmi_session_run(g->session, &run, g->logits, made);
  if (!status) status = g->failed;
  if (status || !*made) return status;
  const bool all = g->count - before == *made;
  for (size_t i = before; i + all < g->count; i++) zmi_sampler_see(g->sampler, g->tokens[i], true);
  if (!all) return sample_token(g, token); // the last one has no finite logit: the sampler says so
  *token = g->tokens[g->count - 1];
  return ZM_OK;
}

static zm_status run(generation *g, const int32_t *prompt, size_t count) {
  const zm_generate_options *o = g->options;
  zm_status status = zm_session_feed(g->session, 0, prompt, count, g->logits, 1, o->on_prompt, o->user);
  if (status) return status;
  g->prompt_end = zmi_now();
  for (size_t i = 0; i < count; i++) zmi_sampler_see(g->sampler, prompt[i], false);
  int32_t token;
  status = sample_token(g, &token);
  while (!status && !g->stop) {
    size_t made = 0;
    zmi_sampler_see(g->sampler, token, true);
    status = run_ahead(g, &token, &made);
    if (status || made) continue;
    status = zm_session_step(g->session, &(zm_row){0, token}, 1, g->logits, 1);
    if (!status) status = sample_token(g, &token);
  }
  return status;
}

// ---- the whole ----

// Moves what was generated to the caller, after failure too.
static void hand_over(generation *g, size_t prompt_tokens, zm_generate_result *r) {
  double now = zmi_now();
  *r = (zm_generate_result){.tokens = g->tokens,
                            .count = g->count,
                            .text = g->text.data,
                            .text_size = g->text.size,
                            .stop = g->stop,
                            .prompt_tokens = prompt_tokens};
  if (g->prompt_end > 0) r->prompt_seconds = g->prompt_end - g->start;
  if (g->first_token > 0) {
    r->first_token_seconds = g->first_token - g->start;
    r->decode_seconds = now - g->first_token;
  }
  g->tokens = NULL;
  g->text = (zmi_text){0};
}

zm_status zm_generate(zm_session *s, const int32_t *prompt, size_t count, const zm_generate_options *options, zm_generate_result *result) {
  if (!result) return zmi_fail(ZM_ERROR_ARGUMENT, "no result to fill was given");
  *result = (zm_generate_result){0};
  if (!s) return zmi_fail(ZM_ERROR_ARGUMENT, "no session was given");
  zm_generate_options none = {0};
  generation g = {.session = s, .options = options ? options : &none, .start = zmi_now()};
  zm_status status = begin(&g, prompt, count);
  if (!status) {
    zmi_text_add_bytes(&g.text, "", 0); // so that the text of a success is never NULL
    status = g.text.failed ? ZM_ERROR_MEMORY : run(&g, prompt, count);
    hand_over(&g, count, result);
  }
  end(&g);
  return status;
}

void zm_generate_result_free(zm_generate_result *result) {
  if (!result) return;
  zmi_free(result->tokens);
  zmi_free(result->text);
  *result = (zm_generate_result){0};
}
