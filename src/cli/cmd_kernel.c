// zmlx kernel: the catalog of ready kernels, the source that a kernel becomes for each target, their times, a check of compiled code
// against the interpreter, and the cache of compiled kernels.
#include "cli/kernel.h"

#include <string.h>

static const cli_option options[] = {
    {"target", 0, CLI_CHOICE, "c|cuda|metal|ir", 0, 0, "c", "show: what to print; ir is the typed program"},
    {"expr", 0, CLI_STRING, "EXPR", 0, 0, NULL, "show: of an expression instead of NAME"},
    {"rows", 0, CLI_STRING, "SOURCE", 0, 0, NULL, "show: of row statements, results named y"},
    {"inputs", 0, CLI_STRING, "NAMES", 0, 0, "x", "show: operands of --rows"},
    {"vjp", 0, CLI_FLAG, NULL, 0, 0, NULL, "show: the gradients of --expr or --rows"},
    {"full", 0, CLI_FLAG, NULL, 0, 0, NULL, "show: with the functions in front"},
    {"dtype", 0, CLI_CHOICE, "float32|float16|bfloat16", 0, 0, "float32", "of float operands"},
    {"elements", 0, CLI_INT, "N", 1, 1 << 28, "1000000", "bench: elements of an operand, about"},
    {"runs", 0, CLI_INT, "N", 1, 1000, "9", "bench: measured runs"},
    {"clear", 0, CLI_FLAG, NULL, 0, 0, NULL, "cache: remove what it holds"},
    {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print one JSON object"},
    CLI_END,
};

// ---- show ----

static zmi_kernel *define(const cli_args *args, const char *text, bool rows) {
  return zmi_kernel_define(&(zmi_kernel_text){.name = "kernel",
                                              .form = rows ? ZMI_FORM_ROWS : ZMI_FORM_ELEMENTS,
                                              .source = text,
                                              .inputs = rows ? cli_text(args, "inputs") : NULL,
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

static zm_status print_code(const zmi_code *code, const char *target, bool full, zmi_text *out) {
  if (strcmp(target, "ir") == 0) return zmi_code_print(code, out);
  for (int t = 0; t < ZMI_TARGET_COUNT; t++)
    if (strcmp(target, zmi_target_names[t]) == 0) return zmi_emit(code, (zmi_target)t, !full, out);
  return zmi_fail(ZM_ERROR_ARGUMENT, "there is no target %s", target);
}

static int show_text(const cli_args *args, const char *text, bool rows) {
  zmi_text out = {0};
  zmi_kernel *k = define(args, text, rows);
  zmi_code *code = k ? code_of(k, zm_dtype_from_name(cli_text(args, "dtype")), cli_flag(args, "vjp")) : NULL;
  zm_status status = code ? print_code(code, cli_text(args, "target"), cli_flag(args, "full"), &out) : zm_last_status();
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
  if (cli_flag(args, "vjp")) return cli_usage("--vjp goes with --expr or --rows");
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

static const char *const actions[] = {"list", "show", "bench", "test", "cache", NULL};

static const char *action_name(const void *list, size_t i) {
  return ((const char *const *)list)[i];
}

static int run_kernel(const cli_args *args) {
  const char *action = args->positional[0], *name = args->count > 1 ? args->positional[1] : NULL;
  if (strcmp(action, "show") == 0) return show(args, name);
  if (strcmp(action, "bench") == 0) return cli_kernel_bench(args, name);
  if (strcmp(action, "test") == 0) return cli_kernel_test(args, name);
  if (name) return cli_usage("kernel %s takes no NAME", action);
  if (strcmp(action, "list") == 0) return cli_kernel_list(args);
  if (strcmp(action, "cache") == 0) return show_cache(args);
  const char *nearest = cli_nearest(action, action_name, actions);
  return cli_usage("kernel has no action %s: %s%s", action, nearest ? "did you mean " : "choose list, show, bench, test or cache",
                   nearest ? nearest : "");
}

const cli_command cli_kernel = {
    .name = "kernel",
    .summary = "Lists, shows, times and tests kernels; their cache",
    .arguments = "ACTION [NAME]",
    .options = options,
    .notes = "ACTION: list, show NAME, bench [NAME], test [NAME] (compiled code against the\n"
             "interpreter, bit by bit), cache. bench and test also take a group. Example:\n"
             "  zmlx kernel show --expr 'x * sigmoid(x)' --target metal",
    .run = run_kernel,
};
