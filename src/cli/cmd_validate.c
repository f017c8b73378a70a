// zmlx validate: proves that the patched model gives the stock model's tokens and bits, and times both, interleaved.
#include "cli/cli.h"

#include <string.h>

static const cli_option options[] = {
    {"prompts", 0, CLI_PATH, "FILE", 0, 0, NULL, "prompts, one a line (default: three built in)"},
    {"max-tokens", 'n', CLI_INT, "N", 1, 100000, "64", "new tokens for each prompt"},
    {"runs", 0, CLI_INT, "N", 1, 1000, "8", "ABBA rounds of timing"},
    {"capsule", 0, CLI_PATH, "FILE", 0, 0, NULL, "write a capsule (docs/capsules.md)"},
    {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print one JSON object"},
    CLI_END,
};

// Lines of a file; empty ones are skipped. *lines points into *text.
static zm_status read_prompts(const char *path, char **text, const char ***lines, size_t *count) {
  size_t size, capacity = 0;
  zm_status status = cli_read_input(path, text, &size);
  if (status != ZM_OK) return status;
  char *rest = NULL;
  for (char *line = strtok_r(*text, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest)) {
    if (!ZMI_GROW(*lines, capacity, *count + 1)) return ZM_ERROR_MEMORY;
    (*lines)[(*count)++] = line;
  }
  return *count ? ZM_OK : zmi_fail(ZM_ERROR_FORMAT, "%s: there is no prompt in it", path);
}

static void prompt_row(zmi_text *rows, const zmi_prompt_check *c) {
  size_t size = strlen(c->prompt), shown = ZMI_MIN(size, (size_t)32);
  while (shown < size && shown > 0 && ((unsigned char)c->prompt[shown] & 0xC0) == 0x80) shown--; // not within a character
  zmi_text_add(rows, "%.*s%s\t%d\t%d of %d\t%lld of %lld\t", (int)shown, c->prompt, shown < size ? "..." : "", c->prompt_tokens,
               c->equal_tokens, c->new_tokens, (long long)(c->positions - c->differing), (long long)c->positions);
  if (c->differing == 0) zmi_text_add(rows, "0\t0\t\n");
  else
    zmi_text_add(rows, "%.3g\t%.3g\t%s at position %d\n", c->kl_mean, c->max_difference, c->first_place ? c->first_place : "?",
                 c->first_position);
}

static void time_row(zmi_text *rows, const char *what, const zmi_abba *t, double items) {
  zmi_text_add(rows, "%s\t%.1f\t%.1f\t%.3f\t%.3f to %.3f\n", what, items / t->seconds_a.median, items / t->seconds_b.median,
               t->speedup.median, t->speedup.low, t->speedup.high);
}

static void print_table(const zmi_validation *v) {
  char size[32];
  zmi_text rows = {0}, out = {0};
  zmi_text_add(&out, "patterns: %s\n\n", v->patterns);
  zmi_text_add(&rows, "prompt\t>tokens\t>equal new tokens\t>equal logits rows\t>KL mean\t>max difference\tfirst difference\n");
  for (size_t i = 0; i < v->prompt_count; i++) prompt_row(&rows, &v->prompts[i]);
  cli_table(zmi_text_str(&rows), &out);
  zmi_text_release(&rows);
  zmi_text_add(&rows, "tokens a second\t>stock\t>patched\t>ratio\t%s\n", v->decode.rounds < 6 ? "range" : "95% interval");
  time_row(&rows, "decode", &v->decode, v->decode_tokens);
  time_row(&rows, "prompt", &v->prefill, v->prefill_tokens);
  zmi_text_add(&out, "\n");
  cli_table(zmi_text_str(&rows), &out);
  zmi_text_release(&rows);
  double read = (double)v->bytes_per_token * v->decode_tokens / v->decode.seconds_b.median / 1e9;
  zmi_text_add(&out, "\npatched decode reads %.1f GB/s of weights, %.0f%% of the %.1f GB/s measured; ", read, 100 * read / v->bandwidth,
               v->bandwidth);
  zmi_text_add(&out, "peak memory %s\n", cli_bytes((double)v->peak_memory, size));
  zmi_text_add(&out, "%s%s%s\n", cli_style(stdout, v->passed ? "green" : "red"),
               v->passed ? "PASS: every token and every bit of every logit is the same" : "FAIL: patched and stock differ",
               cli_style(stdout, "reset"));
  cli_print_text(&out);
}

static int report(const cli_args *args, zm_model *m, const zmi_validation *v) {
  if (cli_flag(args, "json")) cli_print_json(zmi_validation_json(v));
  else print_table(v);
  if (cli_given(args, "capsule") &&
      zmi_capsule_write(cli_text(args, "capsule"), "validate", args->argc, args->argv, m, zmi_validation_json(v)) != ZM_OK) {
    return cli_failed();
  }
  return v->passed ? CLI_OK : CLI_FAILURE;
}

static int run_validate(const cli_args *args) {
  char *text = NULL;
  const char **prompts = NULL;
  size_t count = 0;
  int status = CLI_OK;
  if (cli_given(args, "capsule") && zmi_capsule_check(cli_text(args, "capsule")) != ZM_OK) return cli_failed();
  if (cli_given(args, "prompts") && read_prompts(cli_text(args, "prompts"), &text, &prompts, &count) != ZM_OK) status = cli_failed();
  zm_model *m = status == CLI_OK ? cli_open_model(args, &status) : NULL;
  if (m) {
    zmi_validation v;
    zm_status failed = zmi_validate(m,
                                    &(zmi_validate_options){.prompts = prompts,
                                                            .prompt_count = count,
                                                            .max_tokens = (int32_t)cli_int(args, "max-tokens"),
                                                            .rounds = (int32_t)cli_int(args, "runs"),
                                                            .patterns = zmi_model_patterns(m),
                                                            .progress = cli_progress},
                                    &v);
    cli_progress_end();
    if (failed == ZM_OK) {
      status = report(args, m, &v);
      zmi_validation_release(&v);
    } else {
      status = cli_interrupted() ? cli_interrupt_status() : cli_failed();
    }
    zm_model_close(m);
  }
  zmi_free(prompts);
  zmi_free(text);
  return status;
}

const cli_command cli_validate = {
    .name = "validate",
    .summary = "Proves that patched and stock give the same bits; times both",
    .arguments = "MODEL",
    .options = options,
    .model_options = true,
    .notes = "Exit status 0: every bit is the same. 1: a difference, or an error.",
    .run = run_validate,
};
