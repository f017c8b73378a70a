// zmlx generate: continues a prompt and streams the text.
#include "cli/cli.h"

#include <errno.h>
#include <math.h> // INFINITY
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const cli_option options[] = {
  {"prompt", 'p', CLI_STRING, "TEXT", 0, 0, NULL, "text to continue"},
  {"prompt-file", 'f', CLI_PATH, "FILE", 0, 0, NULL, "read the prompt from FILE, - for stdin"},
  {"tokens-file", 0, CLI_PATH, "FILE", 0, 0, NULL, "prompt as token ids, separated by blanks"},
  {"max-tokens", 'n', CLI_INT, "N", 1, 1 << 30, "256", "most new tokens"},
  {"temperature", 0, CLI_FLOAT, "T", 0, 1000, "0", "0: always the best token"},
  {"top-k", 0, CLI_INT, "K", 0, 1 << 30, "0", "only the K best tokens; 0: off"},
  {"top-p", 0, CLI_FLOAT, "P", 0, 1, "1", "only the best that add up to P; 1: off"},
  {"min-p", 0, CLI_FLOAT, "P", 0, 1, "0", "only those with P times the best's chance"},
  {"repetition-penalty", 0, CLI_FLOAT, "R", 0.001, 1000, "1", "against tokens seen; 1: off"},
  {"presence-penalty", 0, CLI_FLOAT, "P", -1000, 1000, "0", "against tokens generated; 0: off"},
  {"logit-bias", 0, CLI_LIST, "ID=V", 0, 0, NULL, "add V to a token's logit; -inf forbids it"},
  {"seed", 's', CLI_INT, "N", 0, 9007199254740992.0, "0", "same seed, same text"},
  {"stop", 0, CLI_LIST, "TEXT", 0, 0, NULL, "end before TEXT; may be repeated"},
  {"ignore-eos", 0, CLI_FLAG, NULL, 0, 0, NULL, "go on after an end-of-text token"},
  {"print-tokens", 0, CLI_FLAG, NULL, 0, 0, NULL, "print the new token ids on one line"},
  {"context", 0, CLI_INT, "N", 1, 1 << 30, "as needed", "positions of the cache"},
  {"chunk", 0, CLI_INT, "N", 1, ZMI_STEP_ROWS, "128", "prompt tokens in one step"},
  {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print one JSON object instead of the text"},
  {"quiet", 'q', CLI_FLAG, NULL, 0, 0, NULL, "no statistics on stderr"},
  CLI_END,
};

// What the statistics need; also read by the thread that ends the process when a step takes too long.
static struct {
  atomic_size_t prompt_tokens, prompt_done, new_tokens;
  _Atomic(double) start, prompt_end, first_token, last_token;
  atomic_bool quiet, text_open; // text_open: the streamed text stands in an unfinished line of a terminal
} stats;

typedef struct run {
  const cli_args *args;
  bool stream; // text goes to stdout as it comes
  char last;   // byte of the streamed text
  float *logprobs;
  size_t count, capacity;
} run;

// ---- statistics ----

static double rate(double items, double seconds) { return seconds > 0 && items > 0 ? items / seconds : 0; }

static void print_stats(void) {
  if (stats.quiet) return;
  double prompt_end = stats.prompt_end > 0 ? stats.prompt_end : zmi_now();
  size_t done = stats.prompt_done, count = stats.new_tokens;
  zmi_text line = {0};
  zmi_text_add(&line, "prompt %zu tokens, %.1f tok/s", done, rate((double)done, prompt_end - stats.start));
  if (count) zmi_text_add(&line, "; new %zu tokens", count);
  if (count > 1) zmi_text_add(&line, ", %.1f tok/s", rate((double)(count - 1), stats.last_token - stats.first_token));
  if (count) zmi_text_add(&line, "; first token after %.0f ms", 1e3 * (stats.first_token - stats.start));
  cli_note("%s%s", done || count ? zmi_text_str(&line) : "nothing generated", cli_interrupted() ? "; interrupted" : "");
  zmi_text_release(&line);
}

// On the thread that ends the process: standard output may be held by a write that waits for its reader, so it is left alone.
static void last_words(void) {
  if (stats.text_open && isatty(STDOUT_FILENO)) fputc('\n', stderr);
  print_stats();
}

static bool on_prompt(void *user, const char *what, uint64_t done, uint64_t total) {
  stats.prompt_done = (size_t)done;
  if (done == total) stats.prompt_end = zmi_now();
  return cli_progress(user, what, done, total);
}

static bool on_token(void *user, const zm_token_event *e) {
  run *r = user;
  double now = zmi_now();
  if (!stats.new_tokens) stats.first_token = now;
  stats.last_token = now;
  stats.new_tokens++;
  cli_progress_end();
  if (r->stream && e->text_size) {
    cli_write(e->text, e->text_size);
    cli_flush();
    r->last = e->text[e->text_size - 1];
    stats.text_open = r->last != '\n';
  }
  if (!ZMI_GROW(r->logprobs, r->capacity, r->count + 1)) return false;
  r->logprobs[r->count++] = e->logprob;
  return !cli_interrupted() && !cli_output_failed();
}

// ---- options ----

static zm_status parse_bias(const char *text, zm_logit_bias *b) {
  char *end;
  errno = 0;
  long id = strtol(text, &end, 10);
  if (end == text || *end != '=' || errno || id < 0 || id > INT32_MAX)
    return zmi_fail(ZM_ERROR_ARGUMENT, "--logit-bias: '%s' is not of the form ID=VALUE, such as 42=-1.5 or 42=-inf", text);
  const char *value = end + 1;
  double v = strcmp(value, "-inf") == 0 ? -INFINITY : strtod(value, &end);
  bool plain = v == -INFINITY || (end != value && !*end && v >= -1e30 && v <= 1e30);
  if (!plain) return zmi_fail(ZM_ERROR_ARGUMENT, "--logit-bias: '%s' is not a number between -1e30 and 1e30, nor -inf", value);
  *b = (zm_logit_bias){(int32_t)id, (float)v};
  return ZM_OK;
}

static zm_status read_lists(const cli_args *args, zm_generate_options *o) {
  size_t biases = 0, stops = 0;
  while (cli_item(args, "logit-bias", biases)) biases++;
  while (cli_item(args, "stop", stops)) stops++;
  zm_logit_bias *bias = zmi_calloc(biases + 1, sizeof *bias);
  const char **stop = zmi_calloc(stops + 1, sizeof *stop);
  o->logit_bias = bias;
  o->logit_bias_count = biases;
  o->stop = stop;
  o->stop_count = stops;
  if (!bias || !stop) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < stops; i++) {
    stop[i] = cli_item(args, "stop", i);
    if (!*stop[i]) return zmi_fail(ZM_ERROR_ARGUMENT, "--stop: an empty text would end every answer at once");
  }
  for (size_t i = 0; i < biases; i++)
    if (parse_bias(cli_item(args, "logit-bias", i), &bias[i])) return zm_last_status();
  return ZM_OK;
}

// ---- the prompt ----

// Text and file are read before the model is opened, so that a wrong name is reported at once.
typedef struct prompt {
  char *text; // NULL: ids were given
  size_t size;
  int32_t *ids;
  size_t count;
} prompt;

static zm_status read_prompt(const cli_args *args, prompt *p) {
  const char *text = cli_text(args, "prompt"), *file = cli_text(args, "prompt-file"), *tokens = cli_text(args, "tokens-file");
  if ((text != NULL) + (file != NULL) + (tokens != NULL) != 1)
    return zmi_fail(ZM_ERROR_ARGUMENT, "give the prompt by exactly one of --prompt TEXT, --prompt-file FILE and --tokens-file FILE");
  if (tokens) return cli_read_tokens(tokens, &p->ids, &p->count);
  if (file) return cli_read_input(file, &p->text, &p->size);
  p->text = zmi_strdup(text);
  p->size = strlen(text);
  return p->text ? ZM_OK : ZM_ERROR_MEMORY;
}

static zm_status encode_prompt(zm_model *m, prompt *p) {
  if (p->text) {
    const zm_tokenizer *t = zm_model_tokenizer(m);
    if (!t) return zm_last_status();
    zm_status status = zm_tokenizer_encode(t, p->text, p->size, &(zm_encode_options){.add_special = true}, &p->ids, &p->count);
    if (status) return zmi_fail_within("the prompt");
  }
  return p->count ? ZM_OK : zmi_fail(ZM_ERROR_ARGUMENT, "the prompt is empty: generation needs at least one token to continue");
}

static void release_prompt(prompt *p) {
  zmi_free(p->text);
  zm_tokens_free(p->ids);
}

// ---- output ----

static const char *stop_name(zm_stop_reason stop) {
  static const char *const names[] = {"none", "eos", "token", "string", "length", "context", "callback"};
  return (size_t)stop < ZMI_COUNT(names) ? names[stop] : "none";
}

static void print_json(const run *r, const zm_generate_result *g) {
  json_t *tokens = json_array(), *logprobs = json_array();
  for (size_t i = 0; i < g->count; i++) json_array_append_new(tokens, json_integer(g->tokens[i]));
  for (size_t i = 0; i < r->count; i++)
    json_array_append_new(logprobs, r->logprobs[i] > -INFINITY ? json_real((double)r->logprobs[i]) : json_null());
  const char *reason = cli_interrupted() ? "interrupted" : stop_name(g->stop);
  cli_print_json(json_pack("{s:s%, s:o, s:o, s:s, s:I, s:f, s:f, s:f, s:f, s:f}", "text", g->text, g->text_size, "tokens", tokens,
                           "logprobs", logprobs, "stop", reason, "prompt_tokens", (json_int_t)g->prompt_tokens, "prompt_seconds",
                           g->prompt_seconds, "first_token_seconds", g->first_token_seconds, "decode_seconds", g->decode_seconds,
                           "prompt_tok_s", rate((double)g->prompt_tokens, g->prompt_seconds), "decode_tok_s",
                           rate(g->count > 1 ? (double)(g->count - 1) : 0, stats.last_token - stats.first_token)));
}

static void print_tokens(const zm_generate_result *g) {
  for (size_t i = 0; i < g->count; i++) cli_print(i ? " %d" : "%d", g->tokens[i]);
  cli_write("\n", 1);
}

static int generate(run *r, zm_model *m, prompt *p, const zm_generate_options *o) {
  if (encode_prompt(m, p)) return cli_failed();
  stats.prompt_tokens = p->count;
  zm_model_info info;
  zm_model_get_info(m, &info);
  uint64_t needed = (uint64_t)p->count + o->max_tokens;
  int32_t context = cli_given(r->args, "context") ? (int32_t)cli_int(r->args, "context") : (int32_t)ZMI_MIN(needed, (uint64_t)info.context);
  zm_session *s = zm_session_open(m, &(zm_session_options){.context = context, .chunk = (int32_t)cli_int(r->args, "chunk")});
  if (!s) return cli_failed();
  zm_generate_result g;
  stats.start = zmi_now();
  zm_status failed = zm_generate(s, p->ids, p->count, o, &g);
  zm_session_close(s);
  cli_progress_end();
  int status = cli_interrupted() ? cli_interrupt_status() : CLI_OK;
  if (cli_interrupted() && !cli_interrupt_claim()) status = CLI_INTERRUPTED; // the other thread has said it
  else {
    if (failed && !cli_interrupted()) status = cli_failed();
    const bool shows = !failed || (cli_interrupted() && g.count > 0);
    if (cli_flag(r->args, "json") && shows) print_json(r, &g);
    else if (cli_flag(r->args, "print-tokens") && shows) print_tokens(&g);
    else if (r->stream && r->count && r->last != '\n') {
      cli_write("\n", 1);
      stats.text_open = false;
    }
    cli_flush();
    if (!failed || cli_interrupted()) print_stats();
  }
  zm_generate_result_free(&g);
  return status;
}

static int run_generate(const cli_args *args) {
  run r = {.args = args, .stream = !cli_flag(args, "json") && !cli_flag(args, "print-tokens"), .last = '\n'};
  stats.quiet = cli_flag(args, "quiet");
  cli_interrupt_grace(0.05, last_words);
  zm_generate_options o = {
    .max_tokens = (size_t)cli_int(args, "max-tokens"),
    .temperature = (float)cli_float(args, "temperature"),
    .top_k = (int32_t)cli_int(args, "top-k"),
    .top_p = (float)cli_float(args, "top-p"),
    .min_p = (float)cli_float(args, "min-p"),
    .repetition_penalty = (float)cli_float(args, "repetition-penalty"),
    .presence_penalty = (float)cli_float(args, "presence-penalty"),
    .seed = (uint64_t)cli_int(args, "seed"),
    .ignore_eos = cli_flag(args, "ignore-eos"),
    .on_token = on_token,
    .skip_logprobs = !cli_flag(args, "json"), // only there they are shown
    .on_prompt = on_prompt,
    .user = &r,
  };
  prompt p = {0};
  int status = CLI_OK;
  if (read_lists(args, &o) || read_prompt(args, &p))
    status = zm_last_status() == ZM_ERROR_ARGUMENT ? cli_usage("%s", zm_last_error()) : cli_failed();
  zm_model *m = status ? NULL : cli_open_model(args, &status);
  if (m) status = generate(&r, m, &p, &o);
  zm_model_close(m);
  release_prompt(&p);
  zmi_free((void *)(uintptr_t)o.logit_bias);
  zmi_free((void *)(uintptr_t)o.stop);
  zmi_free(r.logprobs);
  return status;
}

const cli_command cli_generate = {
  .name = "generate",
  .summary = "Continues a prompt and streams the text",
  .arguments = "MODEL",
  .options = options,
  .model_options = true,
  .run = run_generate,
};
