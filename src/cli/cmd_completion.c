// zmlx completion: completion scripts for shells, made from the option table.
#include "cli/kernel.h"

#include <string.h>

static const cli_option options[] = {CLI_END};

static void add_names(zmi_text *out) {
  for (size_t i = 0; cli_commands[i]; i++) zmi_text_add(out, i ? " %s" : "%s", cli_commands[i]->name);
}

static void add_actions(zmi_text *out) { // of zmlx kernel
  const char *name;
  for (size_t i = 0; (name = cli_kernel_action(i)); i++) zmi_text_add(out, i ? " %s" : "%s", name);
}

static void add_kernels(zmi_text *out) { // groups of the catalog and its kernels
  const zmi_catalog_group *group, *last = NULL;
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, &group)); i++) {
    if (group != last) zmi_text_add(out, last ? " %s" : "%s", group->name);
    if (strcmp(e->name, group->name) != 0) zmi_text_add(out, " %s", e->name);
    last = group;
  }
}

// Words of a choice, separated by blanks.
static void add_choices(const cli_option *o, zmi_text *out) {
  for (const char *w = o->value; *w; w++) zmi_text_add_bytes(out, *w == '|' ? " " : w, 1);
}

// Text inside single quotes of sh and its kind; `doubled`: quotes and colons as zsh's _arguments wants them inside brackets.
static void add_quoted(const char *text, bool zsh, zmi_text *out) {
  for (; *text; text++) {
    if (*text == '\'') zmi_text_add(out, "'\\''");
    else if (zsh && strchr("[]:", *text)) zmi_text_add(out, "\\%c", *text);
    else zmi_text_add_bytes(out, text, 1);
  }
}

// ---- bash ----

static void bash_command(const cli_command *c, zmi_text *out) {
  const cli_option *o;
  zmi_text_add(out, "    %s)\n      case \"$prev\" in\n", c->name);
  for (size_t i = 0; (o = cli_option_at(c, i)); i++) {
    if (o->kind == CLI_FLAG) continue;
    zmi_text_add(out, "        --%s", o->name);
    if (o->letter) zmi_text_add(out, "|-%c", o->letter);
    zmi_text_add(out, ") ");
    if (o->kind == CLI_CHOICE) {
      zmi_text_add(out, "COMPREPLY=($(compgen -W '");
      add_choices(o, out);
      zmi_text_add(out, "' -- \"$cur\")); ");
    } else if (o->kind == CLI_PATH) {
      zmi_text_add(out, "COMPREPLY=($(compgen -f -- \"$cur\")); ");
    }
    zmi_text_add(out, "return ;;\n");
  }
  zmi_text_add(out, "      esac\n      words='");
  for (size_t i = 0; (o = cli_option_at(c, i)); i++) zmi_text_add(out, i ? " --%s" : "--%s", o->name);
  zmi_text_add(out, "' ;;\n");
}

static void bash_script(zmi_text *out) {
  zmi_text_add(out, "# bash completion of zmlx: eval \"$(zmlx completion bash)\"\n"
                    "_zmlx() {\n"
                    "  local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\" words\n"
                    "  COMPREPLY=()\n"
                    "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                    "    COMPREPLY=($(compgen -W '");
  add_names(out);
  zmi_text_add(out, "' -- \"$cur\"))\n    return\n  fi\n  case \"${COMP_WORDS[1]}\" in\n");
  for (size_t i = 0; cli_commands[i]; i++) bash_command(cli_commands[i], out);
  zmi_text_add(out, "    *) return ;;\n  esac\n"
                    "  case \"$cur\" in\n"
                    "    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")) ;;\n"
                    "    *)\n"
                    "      case \"${COMP_WORDS[1]}\" in\n"
                    "        help) COMPREPLY=($(compgen -W 'model sampling ");
  add_names(out);
  zmi_text_add(out, "' -- \"$cur\")) ;;\n"
                    "        completion) COMPREPLY=($(compgen -W 'bash zsh fish' -- \"$cur\")) ;;\n"
                    "        kernel)\n"
                    "          if [ \"$COMP_CWORD\" -eq 2 ]; then COMPREPLY=($(compgen -W '");
  add_actions(out);
  zmi_text_add(out, "' -- \"$cur\"))\n          else COMPREPLY=($(compgen -W '");
  add_kernels(out);
  zmi_text_add(out, "' -- \"$cur\")); fi ;;\n"
                    "        *) COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n"
                    "      esac ;;\n"
                    "  esac\n"
                    "}\n"
                    "complete -o filenames -F _zmlx zmlx\n");
}

// ---- zsh ----

static void zsh_option(const cli_option *o, zmi_text *out) {
  zmi_text_add(out, " \\\n        '%s--%s[", o->kind == CLI_LIST ? "*" : "", o->name);
  add_quoted(o->help, true, out);
  zmi_text_add(out, "]");
  if (o->kind == CLI_CHOICE) {
    zmi_text_add(out, ":value:(");
    add_choices(o, out);
    zmi_text_add(out, ")");
  } else if (o->kind != CLI_FLAG) {
    zmi_text_add(out, ":%s:%s", o->value, o->kind == CLI_PATH ? "_files" : " ");
  }
  zmi_text_add(out, "'");
}

static void zsh_script(zmi_text *out) {
  zmi_text_add(out, "#compdef zmlx\n"
                    "# zsh completion of zmlx: eval \"$(zmlx completion zsh)\"\n"
                    "_zmlx() {\n"
                    "  if (( CURRENT == 2 )); then\n"
                    "    local -a commands=(");
  for (size_t i = 0; cli_commands[i]; i++) {
    zmi_text_add(out, "\n      '%s:", cli_commands[i]->name);
    add_quoted(cli_commands[i]->summary, true, out);
    zmi_text_add(out, "'");
  }
  zmi_text_add(out, ")\n    _describe command commands\n    return\n  fi\n"
                    "  local command=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $command in\n");
  for (size_t i = 0; cli_commands[i]; i++) {
    const cli_option *o;
    zmi_text_add(out, "    %s)\n      _arguments", cli_commands[i]->name);
    for (size_t k = 0; (o = cli_option_at(cli_commands[i], k)); k++) zsh_option(o, out);
    if (strcmp(cli_commands[i]->name, "help") == 0) {
      zmi_text_add(out, " \\\n        '1:command:(model sampling ");
      add_names(out);
      zmi_text_add(out, ")' ;;\n");
    } else if (strcmp(cli_commands[i]->name, "completion") == 0) {
      zmi_text_add(out, " \\\n        '1:shell:(bash zsh fish)' ;;\n");
    } else if (strcmp(cli_commands[i]->name, "kernel") == 0) {
      zmi_text_add(out, " \\\n        '1:action:(");
      add_actions(out);
      zmi_text_add(out, ")' \\\n        '2:kernel:(");
      add_kernels(out);
      zmi_text_add(out, ")' ;;\n");
    } else {
      zmi_text_add(out, " \\\n        '*:path:_files' ;;\n");
    }
  }
  zmi_text_add(out, "  esac\n}\ncompdef _zmlx zmlx\n");
}

// ---- fish ----

static void fish_option(const cli_command *c, const cli_option *o, zmi_text *out) {
  zmi_text_add(out, "complete -c zmlx -n '__fish_seen_subcommand_from %s' -l %s", c->name, o->name);
  if (o->letter) zmi_text_add(out, " -s %c", o->letter);
  if (o->kind == CLI_CHOICE) {
    zmi_text_add(out, " -x -a '");
    add_choices(o, out);
    zmi_text_add(out, "'");
  } else if (o->kind == CLI_PATH) {
    zmi_text_add(out, " -r -F");
  } else if (o->kind != CLI_FLAG) {
    zmi_text_add(out, " -x");
  }
  zmi_text_add(out, " -d '");
  for (const char *p = o->help; *p; p++) zmi_text_add(out, *p == '\'' || *p == '\\' ? "\\%c" : "%c", *p);
  zmi_text_add(out, "'\n");
}

static void fish_script(zmi_text *out) {
  zmi_text_add(out, "# fish completion of zmlx: zmlx completion fish | source\n");
  for (size_t i = 0; cli_commands[i]; i++) {
    const cli_command *c = cli_commands[i];
    zmi_text_add(out, "complete -c zmlx -f -n __fish_use_subcommand -a %s -d '%s'\n", c->name, c->summary);
    const cli_option *o;
    for (size_t k = 0; (o = cli_option_at(c, k)); k++) fish_option(c, o, out);
  }
  zmi_text_add(out, "complete -c zmlx -f -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n"
                    "complete -c zmlx -f -n '__fish_seen_subcommand_from help' -a 'model sampling ");
  add_names(out);
  zmi_text_add(out, "'\ncomplete -c zmlx -f -n '__fish_seen_subcommand_from kernel; and not __fish_seen_subcommand_from ");
  add_actions(out);
  zmi_text_add(out, "' -a '");
  add_actions(out);
  zmi_text_add(out, "'\ncomplete -c zmlx -f -n '__fish_seen_subcommand_from kernel; and __fish_seen_subcommand_from ");
  add_actions(out);
  zmi_text_add(out, "' -a '");
  add_kernels(out);
  zmi_text_add(out, "'\n");
}

static int run_completion(const cli_args *args) {
  static const struct {
    const char *shell;
    void (*script)(zmi_text *out);
  } shells[] = {{"bash", bash_script}, {"zsh", zsh_script}, {"fish", fish_script}};
  for (size_t i = 0; i < ZMI_COUNT(shells); i++) {
    if (strcmp(args->positional[0], shells[i].shell) != 0) continue;
    zmi_text out = {0};
    shells[i].script(&out);
    cli_print_text(&out);
    return CLI_OK;
  }
  return cli_usage("there is no completion for %s: bash, zsh and fish are known", args->positional[0]);
}

const cli_command cli_completion = {
  .name = "completion",
  .summary = "Prints a completion script: bash, zsh or fish",
  .arguments = "SHELL",
  .options = options,
  .notes = "  eval \"$(zmlx completion bash)\"",
  .run = run_completion,
};
