// zmlx inspect: the tensors of a checkpoint or of one safetensors file.
#include "cli/cli.h"

#include <string.h>

static const cli_option options[] = {
  {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print one JSON object"},
  {"match", 'm', CLI_STRING, "TEXT", 0, 0, NULL, "only tensors whose names contain TEXT"},
  CLI_END,
};

static bool matches(const cli_args *args, const zmi_tensor *t) {
  const char *text = cli_text(args, "match");
  return !text || strstr(t->name, text);
}

static void print_table(const cli_args *args, const zmi_tensors *tensors) {
  zmi_text rows = {0}, out = {0};
  zmi_text_add(&rows, "tensor\tdtype\tshape\t>bytes\n");
  size_t count = 0;
  uint64_t bytes = 0;
  for (size_t i = 0; i < zmi_tensors_count(tensors); i++) {
    const zmi_tensor *t = zmi_tensors_at(tensors, i);
    if (!matches(args, t)) continue;
    zmi_text_add(&rows, "%s\t%s\t[", t->name, zm_dtype_name(t->dtype));
    for (int d = 0; d < t->rank; d++) zmi_text_add(&rows, d ? ", %lld" : "%lld", (long long)t->shape[d]);
    zmi_text_add(&rows, "]\t%zu\n", t->bytes);
    count++;
    bytes += t->bytes;
  }
  cli_table(zmi_text_str(&rows), &out);
  char size[32];
  zmi_text_add(&out, "%zu %s, %s\n", count, count == 1 ? "tensor" : "tensors", cli_bytes((double)bytes, size));
  zmi_text_release(&rows);
  cli_print_text(&out);
}

static void print_json(const cli_args *args, const zmi_tensors *tensors) {
  json_t *list = json_array();
  uint64_t bytes = 0;
  for (size_t i = 0; i < zmi_tensors_count(tensors); i++) {
    const zmi_tensor *t = zmi_tensors_at(tensors, i);
    if (!matches(args, t)) continue;
    json_t *shape = json_array();
    for (int d = 0; d < t->rank; d++) json_array_append_new(shape, json_integer((json_int_t)t->shape[d]));
    json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "dtype", zm_dtype_name(t->dtype), "shape", shape,
                                          "bytes", (json_int_t)t->bytes));
    bytes += t->bytes;
  }
  cli_print_json(json_pack("{s:s, s:I, s:o}", "path", args->positional[0], "bytes", (json_int_t)bytes, "tensors", list));
}

static int run_inspect(const cli_args *args) {
  zmi_tensors *tensors = zmi_tensors_open(args->positional[0]);
  if (!tensors) return cli_failed();
  if (cli_flag(args, "json")) print_json(args, tensors);
  else print_table(args, tensors);
  zmi_tensors_close(tensors);
  return CLI_OK;
}

const cli_command cli_inspect = {
  .name = "inspect",
  .summary = "Lists tensors: names, dtypes, shapes, sizes",
  .arguments = "PATH",
  .options = options,
  .notes = "PATH is a checkpoint folder or one .safetensors file.",
  .run = run_inspect,
};
