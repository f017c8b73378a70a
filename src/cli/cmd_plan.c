// zmlx plan: the memory a model needs, computed from config.json and headers before anything is loaded.
#include "cli/cli.h"

static const cli_option options[] = {
    {"context", 'c', CLI_INT, "N", 1, 10000000, NULL, "positions (default: at most 4096)"},
    {"sequences", 0, CLI_INT, "N", 1, 1024, "1", "independent sequences"},
    {"chunk", 0, CLI_INT, "N", 1, 1024, "128", "most rows of a step while a prompt is read"},
    {"dtype", 0, CLI_CHOICE, "bfloat16|float32", 0, 0, NULL, "compute in it (default: as stored)"},
    {"memory-limit", 0, CLI_FLOAT, "GB", 0.001, 1e6, NULL, "refuse what needs more (default: all there is)"},
    {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print one JSON object"},
    CLI_END,
};

static void print_table(const zmi_model_plan *p) {
  char size[32];
  zmi_text rows = {0}, out = {0};
  zmi_text_add(&out, "%s %s, %d layers, hidden %d, vocabulary %d, computing in %s\n\n", p->family, p->quantization, p->layers, p->hidden,
               p->vocab, zm_dtype_name(p->dtype));
  zmi_text_add(&rows, "memory\t>size\n");
  zmi_text_add(&rows, "weights\t%s\n", cli_bytes((double)p->weight_bytes, size));
  zmi_text_add(&rows, "caches, %d positions of %d sequence%s\t%s\n", p->context, p->sequences, p->sequences == 1 ? "" : "s",
               cli_bytes((double)p->cache_bytes, size));
  zmi_text_add(&rows, "scratch\t%s\n", cli_bytes((double)p->scratch_bytes, size));
  zmi_text_add(&rows, "while loading\t%s\n", cli_bytes((double)p->load_bytes, size));
  zmi_text_add(&rows, "peak\t%s\n", cli_bytes((double)p->total_bytes, size));
  cli_table(zmi_text_str(&rows), &out);
  zmi_text_release(&rows);
  zmi_text_add(&out, "\ndecoding a token reads %s of weights", cli_bytes((double)p->bytes_per_token, size));
  zmi_text_add(&out, " and %s for each position in the cache; the model allows %d positions\n",
               cli_bytes((double)p->cache_bytes_per_token, size), p->model_context);
  cli_print_text(&out);
}

static json_t *plan_json(const zmi_model_plan *p) {
  return json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "family", p->family,
                   "quantization", p->quantization, "dtype", zm_dtype_name(p->dtype), "layers", p->layers, "hidden", p->hidden, "vocab",
                   p->vocab, "context", p->context, "sequences", p->sequences, "file_bytes", (json_int_t)p->file_bytes, "weight_bytes",
                   (json_int_t)p->weight_bytes, "bytes_per_token", (json_int_t)p->bytes_per_token, "cache_bytes",
                   (json_int_t)p->cache_bytes, "cache_bytes_per_token", (json_int_t)p->cache_bytes_per_token, "scratch_bytes",
                   (json_int_t)p->scratch_bytes, "load_bytes", (json_int_t)p->load_bytes, "total_bytes", (json_int_t)p->total_bytes);
}

static int run_plan(const cli_args *args) {
  zmi_model_plan plan;
  zmi_model_plan_request request = {
      .context = (int32_t)cli_int(args, "context"),
      .sequences = (int32_t)cli_int(args, "sequences"),
      .chunk = (int32_t)cli_int(args, "chunk"),
      .dtype = cli_given(args, "dtype") ? zm_dtype_from_name(cli_text(args, "dtype")) : ZM_DTYPE_DEFAULT,
  };
  if (zmi_model_plan_path(args->positional[0], &request, &plan) != ZM_OK) return cli_failed();
  if (cli_flag(args, "json")) cli_print_json(plan_json(&plan));
  else print_table(&plan);
  cli_flush();
  return zmi_model_plan_check(&plan, (uint64_t)(cli_float(args, "memory-limit") * 1e9)) == ZM_OK ? CLI_OK : cli_failed();
}

const cli_command cli_plan = {
    .name = "plan",
    .summary = "Says what a model needs in memory before loading it",
    .arguments = "MODEL",
    .options = options,
    .notes = "MODEL is a checkpoint folder, or a folder with a config.json alone.\nExit status 1: it can't fit; by how much is said.",
    .run = run_plan,
};
