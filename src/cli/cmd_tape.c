// zmlx tape: the tape of one step, before and after patching; or a check of a printed one.
#include "cli/cli.h"

#include <string.h>

static const cli_option options[] = {
  {"rows", 'r', CLI_INT, "N", 1, ZMI_STEP_ROWS, "1", "rows of the step"},
  {"show", 0, CLI_CHOICE, "both|stock|patched", 0, 0, "both", "which tapes to print"},
  {"counts", 0, CLI_FLAG, NULL, 0, 0, NULL, "print instructions counted by op instead"},
  {"parse", 0, CLI_PATH, "FILE", 0, 0, NULL, "check a printed tape and print it again"},
  CLI_END,
};

// ---- printing ----

static void count_ops(const zmi_tape *t, zmi_text *out) {
  zmi_text rows = {0};
  zmi_text_add(&rows, "op\t>count\n");
  for (size_t k = 0; k < zmi_op_count() + zmi_patch_op_count(); k++) {
    const zmi_op *op = k < zmi_op_count() ? zmi_op_at(k) : zmi_patch_op_at(k - zmi_op_count());
    size_t n = 0;
    for (size_t i = 0; i < t->instr_count; i++) n += t->instrs[i].op == op;
    if (n) zmi_text_add(&rows, "%s\t%zu\n", op->name, n);
  }
  zmi_text_add(&rows, "all\t%zu\n", t->instr_count);
  cli_table(zmi_text_str(&rows), out);
  zmi_text_release(&rows);
}

static zm_status print_tape(const cli_args *args, zmi_tape *t) {
  zmi_text out = {0};
  zm_status status = ZM_OK;
  if (cli_flag(args, "counts")) count_ops(t, &out);
  else status = zmi_tape_print(t, &out);
  if (status) zmi_text_release(&out);
  else cli_print_text(&out);
  return status;
}

static zm_status print_model(const cli_args *args, zm_model *m) {
  const char *show = cli_text(args, "show");
  static const char *const kinds[] = {"stock", "patched"};
  for (size_t i = 0; i < ZMI_COUNT(kinds); i++) {
    if (strcmp(show, "both") != 0 && strcmp(show, kinds[i]) != 0) continue;
    zmi_model_program_options o = {.stock = i == 0, .plan_only = true};
    int32_t rows = (int32_t)cli_int(args, "rows");
    zmi_model_lock(m);
    zmi_program *p = zmi_model_compile(m, rows, 1, NULL, &o);
    zmi_model_unlock(m);
    if (!p) return zm_last_status();
    cli_print("# %s\n", kinds[i]);
    zm_status status = print_tape(args, zmi_program_tape(p));
    zmi_program_free(p);
    if (status) return status;
  }
  return ZM_OK;
}

// ---- parsing ----

// A file may hold several tapes; each begins behind a line that starts with '#'.
static zm_status parse_file(const cli_args *args, const char *text, size_t size) {
  for (size_t at = 0; at < size;) {
    if (text[at] == '#') {
      size_t line = strcspn(text + at, "\n") + 1;
      line = ZMI_MIN(line, size - at);
      cli_write(text + at, line);
      at += line;
      continue;
    }
    const char *next = strstr(text + at, "\n#");
    size_t end = next ? (size_t)(next - text) + 1 : size;
    zmi_tape *t = zmi_tape_parse(text + at, end - at, zmi_patch_op_find);
    if (!t) return zm_last_status();
    zm_status status = print_tape(args, t);
    zmi_tape_free(t);
    if (status) return status;
    at = end;
  }
  return ZM_OK;
}

static int run_tape(const cli_args *args) {
  const char *file = cli_text(args, "parse");
  if (file && args->count) return cli_usage("tape takes either MODEL or --parse FILE");
  if (!file && !args->count) return cli_usage("tape needs MODEL, or --parse FILE");
  int status = CLI_OK;
  if (file) {
    char *text;
    size_t size;
    if (cli_read_input(file, &text, &size)) return cli_failed();
    if (!size) cli_error("%s: the file is empty", file), status = CLI_FAILURE;
    else if (parse_file(args, text, size)) zmi_fail_within("%s", file), status = cli_failed();
    zmi_free(text);
    return status;
  }
  zm_model *m = cli_open_model(args, &status);
  if (m && print_model(args, m)) status = cli_failed();
  zm_model_close(m);
  return status;
}

const cli_command cli_tape = {
  .name = "tape",
  .summary = "Prints the tape of one step, before and after patching",
  .arguments = "[MODEL]",
  .options = options,
  .model_options = true,
  .run = run_tape,
};
