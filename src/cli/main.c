// zmlx: finds the command, reads its options, runs it.
#include "cli/cli.h"

#include <string.h>

extern char **environ;

static const char *env_name(const void *list, size_t i) { return ((const zmi_env_var *)list)[i].name; }
static const char *command_name(const void *list, size_t i) {
  const cli_command *c = ((const cli_command *const *)list)[i];
  return c ? c->name : NULL;
}

// A misspelt variable, or value, would otherwise be ignored in silence.
static void warn_environment(void) {
  for (char **e = environ; *e; e++) {
    if (strncmp(*e, "ZMLX_", 5) != 0) continue;
    size_t size = strcspn(*e, "=");
    bool known = false;
    for (const zmi_env_var *v = zmi_env_table; v->name; v++) known = known || (strlen(v->name) == size && strncmp(v->name, *e, size) == 0);
    if (known) continue;
    char name[41];
    snprintf(name, sizeof name, "%.*s", (int)size, *e);
    const char *nearest = cli_nearest(name, env_name, zmi_env_table);
    cli_warn("the environment variable %s is unknown%s%s", name, nearest ? ": did you mean " : "", nearest ? nearest : " and ignored");
  }
  for (const zmi_env_var *v = zmi_env_table; v->name; v++) {
    if (zmi_env_fits(v)) continue;
    if (v->words)
      cli_warn("the environment variable %s is \"%.40s\", which is ignored: give one of %s", v->name, zmi_env(v->name), v->words);
    else
      cli_warn("the environment variable %s is \"%.40s\", which is ignored: give a number from %g to %g", v->name,
               zmi_env(v->name), v->least, v->most);
  }
}

static int print_help(const cli_command *c, const cli_args *args) {
  zmi_text out = {0};
  if (c && c->help) c->help(args, &out);
  else if (c) cli_help_command(c, &out);
  else cli_help_overview(&out);
  cli_print_text(&out);
  return CLI_OK;
}

static int run_command(const cli_command *c, int argc, char **argv) {
  cli_args args;
  if (cli_parse(c, argc, argv, &args)) {
    int status = zm_last_status() == ZM_ERROR_ARGUMENT ? cli_usage("%s", zm_last_error()) : cli_failed();
    cli_args_release(&args);
    return status;
  }
  int status = args.help ? print_help(c, &args) : c->run(&args);
  cli_args_release(&args);
  return status;
}

int main(int argc, char **argv) {
  cli_interrupt_start();
  warn_environment();
  const char *name = argc > 1 ? argv[1] : NULL;
  if (!name) {
    zmi_text out = {0};
    cli_help_overview(&out);
    fputs(zmi_text_str(&out), stderr);
    zmi_text_release(&out);
    return CLI_USAGE;
  }
  if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return cli_finish_output(print_help(NULL, NULL));
  if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) name = "version";
  const cli_command *c = cli_find_command(name);
  if (!c) {
    const char *nearest = cli_nearest(name, command_name, cli_commands);
    if (nearest) return cli_usage("there is no command %s: did you mean %s?", name, nearest);
    return cli_usage("there is no command %s: zmlx help lists them", name);
  }
  int status = run_command(c, argc - 2, argv + 2);
  cli_progress_end();
  return cli_finish_output(status);
}
