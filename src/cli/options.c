// Reads a command line by a command's rows of options. Everything that help, completion and documents show comes from the same rows.
#include "cli/cli.h"

#include <errno.h>
#include <math.h> // isfinite
#include <stdlib.h>
#include <string.h>

const cli_option cli_help_option = {"help", 'h', CLI_FLAG, NULL, 0, 0, NULL, "show this help"};

const cli_command *cli_find_command(const char *name) {
  for (size_t i = 0; cli_commands[i]; i++)
    if (strcmp(cli_commands[i]->name, name) == 0) return cli_commands[i];
  return NULL;
}

const cli_option *cli_option_at(const cli_command *command, size_t i) {
  for (const cli_option *o = command->options; o && o->name; o++)
    if (i-- == 0) return o;
  for (const cli_option *o = cli_model_options; command->model_options && o->name; o++)
    if (i-- == 0) return o;
  return i == 0 ? &cli_help_option : NULL;
}

static const cli_option *find_long(const cli_command *c, const char *name, size_t size) {
  const cli_option *o;
  for (size_t i = 0; (o = cli_option_at(c, i)); i++)
    if (strlen(o->name) == size && memcmp(o->name, name, size) == 0) return o;
  return NULL;
}

static const cli_option *find_letter(const cli_command *c, char letter) {
  const cli_option *o;
  for (size_t i = 0; (o = cli_option_at(c, i)); i++)
    if (o->letter && o->letter == letter) return o;
  return NULL;
}

// ---- misspelt names ----

enum { LONGEST_WORD = 40 };

// Insertions, deletions, replacements and swaps of neighbours between two words of at most LONGEST_WORD letters.
static size_t distance(const char *a, const char *b) {
  size_t n = strlen(a), m = strlen(b), d[LONGEST_WORD + 1][LONGEST_WORD + 1];
  if (n > LONGEST_WORD || m > LONGEST_WORD) return LONGEST_WORD;
  for (size_t i = 0; i <= n; i++) d[i][0] = i;
  for (size_t j = 0; j <= m; j++) d[0][j] = j;
  for (size_t i = 1; i <= n; i++) {
    for (size_t j = 1; j <= m; j++) {
      size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      best = ZMI_MIN(best, d[i - 1][j] + 1);
      best = ZMI_MIN(best, d[i][j - 1] + 1);
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) best = ZMI_MIN(best, d[i - 2][j - 2] + 1);
      d[i][j] = best;
    }
  }
  return d[n][m];
}

const char *cli_nearest(const char *word, const char *(*name)(const void *list, size_t i), const void *list) {
  const char *nearest = NULL, *candidate;
  size_t least = ZMI_MAX(strlen(word) / 3, (size_t)1) + 1;
  for (size_t i = 0; (candidate = name(list, i)); i++) {
    // The beginning of a name is near whatever its rest: --temp means --temperature.
    size_t far = strlen(word) >= 3 && strncmp(candidate, word, strlen(word)) == 0 ? 1 : distance(word, candidate);
    if (far < least) {
      least = far;
      nearest = candidate;
    }
  }
  return nearest;
}

static const char *option_name(const void *command, size_t i) {
  const cli_option *o = cli_option_at(command, i);
  return o ? o->name : NULL;
}

static zm_status unknown_option(const cli_command *c, const char *name, size_t size) {
  char word[LONGEST_WORD + 1];
  size_t n = ZMI_MIN(size, (size_t)LONGEST_WORD);
  memcpy(word, name, n);
  word[n] = 0;
  const char *nearest = cli_nearest(word, option_name, c);
  if (nearest) return zmi_fail(ZM_ERROR_ARGUMENT, "%s has no option --%.*s: did you mean --%s?", c->name, (int)size, name, nearest);
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s has no option --%.*s: see zmlx help %s", c->name, (int)size, name, c->name);
}

// ---- values ----

static bool among(const char *words, const char *text) {
  size_t n = strlen(text);
  for (const char *w = words; *w;) {
    size_t size = strcspn(w, "|");
    if (size == n && memcmp(w, text, n) == 0) return true;
    w += size + (w[size] == '|');
  }
  return false;
}

static zm_status check_number(const cli_option *o, const char *text, double *number) {
  bool whole = o->kind == CLI_INT;
  char *end;
  errno = 0;
  double v = strtod(text, &end);
  bool plain = text[strspn(text, whole ? "+-0123456789" : "+-.eE0123456789")] == 0; // neither hexadecimal nor nan nor blanks
  if (end == text || *end || !plain || !isfinite(v))
    return zmi_fail(ZM_ERROR_ARGUMENT, "--%s: '%s' is not %s; allowed are %.10g to %.10g", o->name, text,
                    whole ? "a whole number" : "a number", o->low, o->high);
  if (v < o->low || v > o->high)
    return zmi_fail(ZM_ERROR_ARGUMENT, "--%s: %s is out of range; allowed are %.16g to %.16g", o->name, text, o->low, o->high);
  if (number) *number = v;
  return ZM_OK;
}

zm_status cli_check_value(const cli_option *o, const char *text, double *number) {
  if (o->kind == CLI_INT || o->kind == CLI_FLOAT) return check_number(o, text, number);
  if (o->kind == CLI_CHOICE && !among(o->value, text))
    return zmi_fail(ZM_ERROR_ARGUMENT, "--%s: '%s' is none of %s", o->name, text, o->value);
  if (o->kind == CLI_PATH && !*text) return zmi_fail(ZM_ERROR_ARGUMENT, "--%s: the path is empty", o->name);
  return ZM_OK;
}

// ---- parsing ----

typedef struct parser {
  cli_args *args;
  int argc, at;
  char **argv;
} parser;

// Notes one use of an option. `value` is what stood behind "=" or the letter; NULL: the next argument is the value.
static zm_status use_option(parser *p, const cli_option *o, const char *value) {
  cli_args *args = p->args;
  if (o == &cli_help_option) args->help = true;
  if (o->kind == CLI_FLAG) {
    if (value) return zmi_fail(ZM_ERROR_ARGUMENT, "--%s takes no value, but '%s' was given", o->name, value);
  } else if (!value) {
    if (p->at == p->argc) return zmi_fail(ZM_ERROR_ARGUMENT, "--%s needs a value: --%s %s", o->name, o->name, o->value);
    value = p->argv[p->at++];
  }
  cli_use use = {o, value, 0};
  if (value) {
    zm_status status = cli_check_value(o, value, &use.number);
    if (status) return status;
  }
  for (size_t i = 0; i < args->use_count && o->kind != CLI_LIST; i++)
    if (args->uses[i].option == o && o->kind != CLI_FLAG) return zmi_fail(ZM_ERROR_ARGUMENT, "--%s was given twice", o->name);
  args->uses[args->use_count++] = use;
  return ZM_OK;
}

static zm_status parse_long(parser *p, const char *arg) {
  size_t size = strcspn(arg, "=");
  const cli_option *o = find_long(p->args->command, arg, size);
  if (!o) return unknown_option(p->args->command, arg, size);
  return use_option(p, o, arg[size] == '=' ? arg + size + 1 : NULL);
}

// "-q", "-n 5", "-n5", "-qn5"
static zm_status parse_letters(parser *p, const char *arg) {
  for (; *arg; arg++) {
    const cli_option *o = find_letter(p->args->command, *arg);
    if (!o)
      return zmi_fail(ZM_ERROR_ARGUMENT, "%s has no option -%c: see zmlx help %s", p->args->command->name, *arg, p->args->command->name);
    if (o->kind != CLI_FLAG) return use_option(p, o, arg[1] ? arg + 1 : NULL);
    zm_status status = use_option(p, o, NULL);
    if (status) return status;
  }
  return ZM_OK;
}

// The word of `arguments` at index i: its size, 0 at the end.
static size_t argument_word(const char *arguments, size_t i, const char **word) {
  for (const char *w = arguments ? arguments : "";;) {
    w += strspn(w, " ");
    size_t size = strcspn(w, " ");
    if (!size) return 0;
    if (i-- == 0) {
      *word = w;
      return size;
    }
    w += size;
  }
}

static zm_status check_positional(const cli_args *args) {
  const char *word;
  size_t size;
  for (size_t i = 0; (size = argument_word(args->command->arguments, i, &word)); i++)
    if (i >= args->count && *word != '[')
      return zmi_fail(ZM_ERROR_ARGUMENT, "%s needs %.*s: zmlx %s %s; see zmlx help %s", args->command->name, (int)size, word,
                      args->command->name, args->command->arguments, args->command->name);
  size_t most = 0;
  while (argument_word(args->command->arguments, most, &word)) most++;
  if (args->count > most) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: unexpected argument '%s'", args->command->name, args->positional[most]);
  return ZM_OK;
}

zm_status cli_parse(const cli_command *command, int argc, char **argv, cli_args *args) {
  *args = (cli_args){.command = command, .argc = argc, .argv = argv};
  size_t most = 1;
  for (int i = 0; i < argc; i++) most += strlen(argv[i]) + 1; // a letter each at worst
  args->positional = zmi_calloc((size_t)argc + 1, sizeof *args->positional);
  args->uses = zmi_calloc(most, sizeof *args->uses);
  if (!args->positional || !args->uses) return ZM_ERROR_MEMORY;
  parser p = {args, argc, 0, argv};
  bool plain = false; // after "--"
  while (p.at < argc) {
    const char *arg = argv[p.at++];
    zm_status status = ZM_OK;
    if (plain || arg[0] != '-' || !arg[1]) args->positional[args->count++] = arg;
    else if (strcmp(arg, "--") == 0) plain = true;
    else if (arg[1] == '-') status = parse_long(&p, arg + 2);
    else status = parse_letters(&p, arg + 1);
    if (status) return status;
  }
  return args->help ? ZM_OK : check_positional(args);
}

void cli_args_release(cli_args *args) {
  zmi_free(args->positional);
  zmi_free(args->uses);
  *args = (cli_args){0};
}

// ---- values by name ----

static const cli_use *find_use(const cli_args *args, const char *name) {
  for (size_t i = 0; i < args->use_count; i++)
    if (strcmp(args->uses[i].option->name, name) == 0) return &args->uses[i];
  return NULL;
}

static const char *fallback(const cli_args *args, const char *name) {
  const cli_option *o = find_long(args->command, name, strlen(name));
  return o ? o->fallback : NULL;
}

bool cli_given(const cli_args *args, const char *name) { return find_use(args, name) != NULL; }
bool cli_flag(const cli_args *args, const char *name) { return find_use(args, name) != NULL; }

double cli_float(const cli_args *args, const char *name) {
  const cli_use *use = find_use(args, name);
  const char *text = fallback(args, name);
  return use ? use->number : text ? strtod(text, NULL) : 0; // a default in words ("all of them") is 0
}

int64_t cli_int(const cli_args *args, const char *name) { return (int64_t)cli_float(args, name); }

const char *cli_text(const cli_args *args, const char *name) {
  const cli_use *use = find_use(args, name);
  return use ? use->text : fallback(args, name);
}

const char *cli_item(const cli_args *args, const char *name, size_t i) {
  for (size_t k = 0; k < args->use_count; k++)
    if (strcmp(args->uses[k].option->name, name) == 0 && i-- == 0) return args->uses[k].text;
  return NULL;
}
