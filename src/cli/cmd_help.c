// zmlx help, zmlx version.
#include "cli/cli.h"

#include <string.h>

static const cli_option options[] = {
  {"markdown", 0, CLI_FLAG, NULL, 0, 0, NULL, "print docs/cli.md"},
  CLI_END,
};

// What else can be explained.
static const struct {
  const char *name;
  void (*help)(zmi_text *out);
} topics[] = {{"model", cli_help_model_options}, {"sampling", cli_help_sampling}};

static bool explain_topic(const char *name, zmi_text *out) {
  for (size_t i = 0; i < ZMI_COUNT(topics); i++) {
    if (strcmp(topics[i].name, name) != 0) continue;
    topics[i].help(out);
    return true;
  }
  return false;
}

static int run_help(const cli_args *args) {
  zmi_text out = {0};
  const char *name = args->count ? args->positional[0] : NULL;
  const cli_command *c = name ? cli_find_command(name) : NULL;
  if (cli_flag(args, "markdown")) cli_help_markdown(&out);
  else if (!name) cli_help_overview(&out);
  else if (c) cli_help_command(c, &out);
  else if (!explain_topic(name, &out)) return cli_usage("there is no command %s: zmlx help lists them", name);
  cli_print_text(&out);
  return CLI_OK;
}

const cli_command cli_help = {
  .name = "help",
  .summary = "Explains a command, or one of: model, sampling",
  .arguments = "[COMMAND]",
  .options = options,
  .run = run_help,
};

static int run_version(const cli_args *args) {
  (void)args;
  cli_print("zmlx %s\n", zm_version());
  return CLI_OK;
}

const cli_command cli_version = {.name = "version", .summary = "Prints the version", .run = run_version};
