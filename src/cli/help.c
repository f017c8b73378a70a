// Help and docs/cli.md, made from the option table.
#include "cli/cli.h"

#include <string.h>

enum { HELP_COLUMN = 31 }; // where an option's explanation begins; lines end before column 80

static void add_value(const cli_option *o, zmi_text *out) {
  if (o->kind != CLI_FLAG) zmi_text_add(out, " %s", o->value);
}

void cli_option_usage(const cli_option *o, zmi_text *out) {
  if (o->letter) zmi_text_add(out, "-%c, ", o->letter);
  zmi_text_add(out, "--%s", o->name);
  add_value(o, out);
}

void cli_help_option_line(const cli_option *o, zmi_text *out) {
  size_t start = out->size;
  zmi_text_add(out, o->letter ? "  " : "      ");
  cli_option_usage(o, out);
  size_t used = out->size - start;
  if (used < HELP_COLUMN) zmi_text_add(out, "%*s", (int)(HELP_COLUMN - used), "");
  else zmi_text_add(out, " ");
  zmi_text_add(out, "%s", o->help);
  if (o->fallback) zmi_text_add(out, " (%s)", o->fallback);
  zmi_text_add(out, "\n");
}

static void option_lines(const cli_option *o, zmi_text *out) {
  for (; o && o->name; o++) cli_help_option_line(o, out);
}

static void usage_line(const cli_command *c, zmi_text *out) {
  zmi_text_add(out, "zmlx %s%s%s%s", c->name, c->arguments ? " " : "", c->arguments ? c->arguments : "",
               c->options || c->model_options ? " [OPTION]..." : "");
}

void cli_help_overview(zmi_text *out) {
  zmi_text_add(out, "zmlx COMMAND ...: language models from MLX checkpoints, faster, same bits\n\n");
  for (size_t i = 0; cli_commands[i]; i++) zmi_text_add(out, "  %-12s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
  zmi_text_add(out, "\nzmlx help COMMAND explains one of them. MODEL is a folder with config.json,\n*.safetensors and tokenizer.json.\n");
}

void cli_help_command(const cli_command *c, zmi_text *out) {
  zmi_text_add(out, "Usage: ");
  usage_line(c, out);
  zmi_text_add(out, "%s\n%s.\n", c->options || c->model_options ? "  (defaults in parentheses)" : "", c->summary);
  option_lines(c->options, out);
  if (c->model_options) {
    size_t count = 0;
    while (cli_model_options[count].name) count++;
    zmi_text_add(out, "  and %zu options of models, --%s to --%s: zmlx help model\n", count, cli_model_options[0].name,
                 cli_model_options[count - 1].name);
  }
  if (c->notes) zmi_text_add(out, "%s\n", c->notes);
}

// Words in lines that end before column 80, after `indent` columns, of which the first line's are there already.
static void wrapped(const char *text, size_t indent, zmi_text *out) {
  size_t column = indent;
  while (*text) {
    size_t word = strcspn(text, " ");
    if (column + 1 + word > 79) {
      zmi_text_add(out, "\n%*s", (int)indent, "");
      column = indent;
    }
    zmi_text_add(out, " %.*s", (int)word, text);
    column += 1 + word;
    text += word;
    text += strspn(text, " ");
  }
  zmi_text_add(out, "\n");
}

void cli_help_model_options(zmi_text *out) {
  zmi_text_add(out, "Options of every command that opens a model. Defaults in parentheses.\n");
  option_lines(cli_model_options, out);
  zmi_text_add(out, "\nPatterns, in the order in which they are tried:\n");
  for (size_t i = 0; i < zm_pattern_count(); i++) {
    zmi_text_add(out, "  %-18s", zm_pattern_name(i));
    wrapped(zm_pattern_summary(i), 20, out);
  }
}

static const char sampling[] =
  "How a token is chosen, in this order. The definitions are those of mlx-lm and\n"
  "llama.cpp: cuts look at probabilities before the temperature.\n\n"
  "  1. --logit-bias is added; -inf forbids a token.\n"
  "  2. --repetition-penalty R: of each of the latest 64 tokens of prompt and\n"
  "     answer, a positive logit is divided by R, any other multiplied by R.\n"
  "  3. --presence-penalty P is subtracted from each of those that were generated.\n"
  "  4. --temperature 0: the largest logit, the lowest id among equals. Done.\n"
  "  5. --top-k K keeps the K most probable tokens, --top-p P the fewest most\n"
  "     probable ones that add up to P, --min-p P those at least P times as\n"
  "     probable as the best. A token stays if all of them keep it.\n"
  "  6. Of those kept, one is drawn with weight exp(logit / temperature).\n\n"
  "Random numbers depend on --seed and the token's position only (Philox4x32-10),\n"
  "so threads, CPU, chunks and batches never change a text.\n";

void cli_help_sampling(zmi_text *out) { zmi_text_add_bytes(out, sampling, sizeof sampling - 1); }

// ---- docs/cli.md ----

static void markdown_options(const cli_option *o, zmi_text *out) {
  zmi_text_add(out, "| option | meaning | default | allowed |\n|---|---|---|---|\n");
  for (; o && o->name; o++) {
    zmi_text_add(out, "| `");
    if (o->letter) zmi_text_add(out, "-%c`, `", o->letter);
    zmi_text_add(out, "--%s", o->name);
    if (o->kind == CLI_CHOICE) zmi_text_add(out, "` | %s | %s | `", o->help, o->fallback ? o->fallback : "");
    else {
      add_value(o, out);
      zmi_text_add(out, "` | %s | %s | ", o->help, o->fallback ? o->fallback : "");
    }
    if (o->kind == CLI_INT || o->kind == CLI_FLOAT) zmi_text_add(out, "%.16g to %.16g", o->low, o->high);
    for (const char *w = o->kind == CLI_CHOICE ? o->value : ""; *w; w++) zmi_text_add(out, *w == '|' ? "`, `" : "%c", *w);
    zmi_text_add(out, o->kind == CLI_CHOICE ? "` |\n" : o->kind == CLI_LIST ? "may be repeated |\n" : " |\n");
  }
}

void cli_help_markdown(zmi_text *out) {
  zmi_text_add(out, "# The command line\n\nThis page is made by `make docs` from the option table in `src/cli`.\n\n");
  zmi_text_add(
      out,
      "Exit status: 0 success, 1 failure, 2 wrong usage, 130 interrupted. Results go to standard output; statistics, warnings and\n"
      "errors (`zmlx: one sentence`) to standard error. Colours and progress appear on terminals only, and no colours with `NO_COLOR`.\n\n"
      "| command | what it does |\n|---|---|\n");
  for (size_t i = 0; cli_commands[i]; i++)
    zmi_text_add(out, "| [`%s`](#%s) | %s |\n", cli_commands[i]->name, cli_commands[i]->name, cli_commands[i]->summary);
  for (size_t i = 0; cli_commands[i]; i++) {
    const cli_command *c = cli_commands[i];
    zmi_text_add(out, "\n## %s\n\n`", c->name);
    usage_line(c, out);
    zmi_text_add(out, "`\n\n%s.\n", c->summary);
    if (c->options) {
      zmi_text_add(out, "\n");
      markdown_options(c->options, out);
    }
    if (c->model_options) zmi_text_add(out, "\nAlso the [model options](#model-options).\n");
    if (c->notes) zmi_text_add(out, "\n```\n%s\n```\n", c->notes);
  }
  zmi_text_add(out, "\n## Model options\n\nOptions of every command that opens a model.\n\n");
  markdown_options(cli_model_options, out);
  zmi_text_add(out,
               "\n## Patterns\n\nIn the order in which they are tried; names for `--patch`.\n\n| pattern | what it fuses |\n|---|---|\n");
  for (size_t i = 0; i < zm_pattern_count(); i++) zmi_text_add(out, "| `%s` | %s |\n", zm_pattern_name(i), zm_pattern_summary(i));
  zmi_text_add(out, "\n## Sampling\n\n```\n%s```\n", sampling);
  zmi_text_add(out, "\n## Environment\n\n| variable | meaning |\n|---|---|\n");
  for (const zmi_env_var *v = zmi_env_table; v->name; v++) zmi_text_add(out, "| `%s` | %s |\n", v->name, v->meaning);
}
