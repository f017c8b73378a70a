// zmlx kernel: the catalog of ready kernels, the source that a kernel becomes for each target, their times, a test of what they compute
// here, and the cache of compiled kernels.
#include "cli/kernel.h"

#include <stdio.h>
#include <string.h>

static const cli_option options[] = {
    {"target", 0, CLI_CHOICE, "c|cuda|metal|ir", 0, 0, "c", "show: what to print; ir is the typed program"},
    {"expr", 0, CLI_STRING, "EXPR", 0, 0, NULL, "show: of an expression instead of NAME"},
    {"rows", 0, CLI_STRING, "SOURCE", 0, 0, NULL, "show: of row statements, results named y"},
    {"inputs", 0, CLI_STRING, "NAMES", 0, 0, NULL, "show: operands of --expr or --rows"},
    {"vjp", 0, CLI_FLAG, NULL, 0, 0, NULL, "show: the gradients instead"},
    {"full", 0, CLI_FLAG, NULL, 0, 0, NULL, "show: with the functions in front"},
    {"dtype", 0, CLI_CHOICE, "float32|float16|bfloat16", 0, 0, "float32", "of float operands"},
    {"elements", 0, CLI_INT, "N", 1, 1 << 28, "1000000", "bench: elements of an operand, about"},
    {"runs", 0, CLI_INT, "N", 1, 1000, "9", "bench: measured runs"},
    {"clear", 0, CLI_FLAG, NULL, 0, 0, NULL, "cache: remove what it holds"},
    {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print one JSON object"},
    CLI_END,
};

// The actions, whether they take a NAME, and the options that mean something to them besides --json.
static const struct action {
  const char *name, *arguments, *options, *summary;
} actions[] = {
    {"list", "[NAME]", "", "The ready kernels, those of a group, or all that is known of one"},
    {"show", "[NAME]", " target expr rows inputs vjp full dtype ",
     "What a kernel becomes: one of the catalog, an expression or row statements.\nOf what is made of operations in C, the file is named"},
    {"bench", "[NAME]", " dtype elements runs ", "Times kernels: all, those of a group, or one; low and high from 6 runs up"},
    {"test", "[NAME]", " dtype ", "Compares bits of kernels: compiled, interpreted, stored"},
    {"cache", "", " clear ", "The folder of compiled kernels"},
};

const char *cli_kernel_action(size_t i) {
  return i < ZMI_COUNT(actions) ? actions[i].name : NULL;
}

// ---- show ----

// Named after where its source stands on the command line, for messages.
static zmi_kernel *define(const cli_args *args, const char *text, bool rows) {
  const char *inputs = cli_text(args, "inputs");
  return zmi_kernel_define(&(zmi_kernel_text){.name = rows ? "--rows" : "--expr",
                                              .form = rows ? ZMI_FORM_ROWS : ZMI_FORM_ELEMENTS,
                                              .source = text,
                                              .inputs = rows && !inputs ? "x" : inputs,
                                              .outputs = rows ? "y" : NULL});
}

// The code for float operands of one dtype, or that of its gradients.
static zmi_code *code_of(const zmi_kernel *k, zm_dtype dtype, bool vjp) {
  const zmi_kernel_facts *f = zmi_kernel_facts_of(k);
  zm_dtype in[ZMI_KERNEL_IN], result[ZMI_KERNEL_OUT] = {ZM_DTYPE_DEFAULT};
  bool every[ZMI_KERNEL_IN + ZMI_KERNEL_OUT];
  for (int i = 0; i < f->nin; i++) in[i] = dtype;
  for (size_t i = 0; i < ZMI_COUNT(every); i++) every[i] = true;
  zmi_code *code = zmi_kernel_code(k, in, result);
  if (!code || !vjp) return code;
  zmi_code *gradients = zmi_code_vjp(code, every, every);
  zmi_code_free(code);
  return gradients;
}

zm_status cli_kernel_print(const zmi_code *code, const cli_args *args, zmi_text *out) {
  const char *target = cli_text(args, "target");
  const bool full = cli_flag(args, "full");
  if (strcmp(target, "ir") == 0) return zmi_code_print(code, out);
  for (int t = 0; t < ZMI_TARGET_COUNT; t++)
    if (strcmp(target, zmi_target_names[t]) == 0) return zmi_emit(code, (zmi_target)t, !full, out);
  return zmi_fail(ZM_ERROR_ARGUMENT, "there is no target %s", target);
}

static int show_text(const cli_args *args, const char *text, bool rows) {
  zmi_text out = {0};
  zmi_kernel *k = define(args, text, rows);
  zmi_code *code = k ? code_of(k, zm_dtype_from_name(cli_text(args, "dtype")), cli_flag(args, "vjp")) : NULL;
  zm_status status = code ? cli_kernel_print(code, args, &out) : zm_last_status();
  zmi_code_free(code);
  zmi_kernel_release(k);
  if (status == ZM_OK) {
    if (cli_flag(args, "json"))
      cli_print_json(json_pack("{s:s, s:s}", "target", cli_text(args, "target"), "source", zmi_text_str(&out)));
    else
      cli_write(zmi_text_str(&out), out.size);
  }
  zmi_text_release(&out);
  return status == ZM_OK ? CLI_OK : cli_failed();
}

static int show(const cli_args *args, const char *name) {
  const char *text = cli_text(args, "expr"), *rows = cli_text(args, "rows");
  if ((name != NULL) + (text != NULL) + (rows != NULL) != 1) return cli_usage("kernel show needs one of NAME, --expr EXPR, --rows SOURCE");
  if (!name) return show_text(args, text ? text : rows, rows != NULL);
  if (cli_given(args, "inputs")) return cli_usage("--inputs goes with --expr or --rows, not with NAME");
  return cli_kernel_show(args, name);
}

// ---- cache ----

static int show_cache(const cli_args *args) {
  zmi_kernel_cache c;
  char size[32], limit[32];
  const size_t removed = cli_flag(args, "clear") ? zmi_kernel_cache_clear() : 0;
  zmi_kernel_cache_look(&c);
  if (cli_flag(args, "json")) {
    cli_print_json(json_pack("{s:s?, s:s?, s:I, s:I, s:I, s:I, s:s?, s:s?}", "folder", c.folder[0] ? c.folder : NULL, "why_not",
                             c.folder[0] ? NULL : c.why_not, "entries", (json_int_t)c.entries, "bytes", (json_int_t)c.bytes, "limit",
                             (json_int_t)c.limit, "removed", (json_int_t)removed, "compiler", c.compiler_found ? c.compiler : NULL,
                             "no_compiler", c.compiler_found ? NULL : c.compiler));
    return CLI_OK;
  }
  if (c.folder[0])
    cli_print("folder    %s\n", c.folder);
  else
    cli_print("folder    none: %s\n", c.why_not);
  if (cli_flag(args, "clear")) cli_print("removed   %zu\n", removed);
  cli_print("entries   %zu, %s", c.entries, cli_bytes((double)c.bytes, size));
  cli_print(" of at most %s\n", cli_bytes((double)c.limit, limit));
  cli_print("compiler  %s\n", c.compiler);
  return CLI_OK;
}

// ---- the command ----

static const char *action_name(const void *list, size_t i) {
  (void)list;
  return i < ZMI_COUNT(actions) ? actions[i].name : NULL;
}

static const struct action *find_action(const char *name) {
  for (size_t i = 0; i < ZMI_COUNT(actions); i++)
    if (strcmp(actions[i].name, name) == 0) return &actions[i];
  const char *nearest = cli_nearest(name, action_name, NULL);
  if (nearest)
    cli_usage("kernel has no action %s: did you mean %s?", name, nearest);
  else
    cli_usage("kernel has no action %s: choose list, show, bench, test or cache", name);
  return NULL;
}

static bool takes(const struct action *action, const char *option) {
  char word[64];
  snprintf(word, sizeof word, " %s ", option);
  return strcmp(option, "json") == 0 || strstr(action->options, word);
}

// An option that the action does not look at is a misunderstanding: an error rather than silence.
static int check_options(const cli_args *args, const struct action *action) {
  for (size_t i = 0; i < args->use_count; i++) {
    const char *option = args->uses[i].option->name;
    if (takes(action, option)) continue;
    for (size_t k = 0; k < ZMI_COUNT(actions); k++)
      if (takes(&actions[k], option)) return cli_usage("--%s goes with kernel %s, not with %s", option, actions[k].name, action->name);
  }
  return CLI_OK;
}

// Of the action that was named with --help: its own options only.
static void help_kernel(const cli_args *args, zmi_text *out) {
  const struct action *action = actions;
  while (action < actions + ZMI_COUNT(actions) && (!args->count || strcmp(action->name, args->positional[0]) != 0)) action++;
  if (action == actions + ZMI_COUNT(actions)) {
    cli_help_command(args->command, out);
    return;
  }
  zmi_text_add(out, "Usage: zmlx kernel %s%s%s [OPTION]...  (defaults in parentheses)\n%s.\n", action->name, *action->arguments ? " " : "",
               action->arguments, action->summary);
  for (const cli_option *o = options; o->name; o++) {
    if (!takes(action, o->name)) continue;
    cli_option mine = *o;
    const char *colon = strstr(o->help, ": "); // "show: what to print": the action is known here
    const size_t size = strlen(action->name);
    if (colon && (size_t)(colon - o->help) == size && memcmp(o->help, action->name, size) == 0) mine.help = colon + 2;
    cli_help_option_line(&mine, out);
  }
}

static int run_kernel(const cli_args *args) {
  const char *name = args->count > 1 ? args->positional[1] : NULL;
  const struct action *action = find_action(args->positional[0]);
  if (!action) return CLI_USAGE;
  if (name && !*action->arguments) return cli_usage("kernel %s takes no NAME, but %s was given", action->name, name);
  const int status = check_options(args, action);
  if (status != CLI_OK) return status;
  if (strcmp(action->name, "show") == 0) return show(args, name);
  if (strcmp(action->name, "bench") == 0) return cli_kernel_bench(args, name);
  if (strcmp(action->name, "test") == 0) return cli_kernel_test(args, name);
  return strcmp(action->name, "list") == 0 ? cli_kernel_list(args, name) : show_cache(args);
}

const cli_command cli_kernel = {
    .name = "kernel",
    .summary = "Lists, shows, times and tests kernels; their cache",
    .arguments = "ACTION [NAME]",
    .options = options,
    .notes = "ACTION: list [NAME], show NAME, bench [NAME], test [NAME], cache; list, bench\n"
             "and test also take a group. test compares bits: compiled, interpreted, stored;\n"
             "without NAME it compiles for float32 only. Operands of --rows are x unless\n"
             "--inputs says. show names the file of what is made of operations in C.\n"
             "  zmlx kernel show --expr 'x * sigmoid(x)' --target metal\n"
             "  zmlx kernel show --help     the options of show alone",
    .run = run_kernel,
    .help = help_kernel,
};
