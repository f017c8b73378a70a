// zmlx bench: tokens a second beside the memory bandwidth that the same process measures.
#include "cli/cli.h"

static const cli_option options[] = {
    {"prompt-tokens", 'p', CLI_INT, "N", 1, 1000000, "128", "tokens of the prompt"},
    {"decode-tokens", 'n', CLI_INT, "N", 1, 1000000, "32", "tokens decoded in a run"},
    {"depth", 0, CLI_INT, "N", 0, 1000000, "0", "positions filled before decoding"},
    {"runs", 0, CLI_INT, "N", 1, 1000, "5", "repetitions"},
    {"chunk", 0, CLI_INT, "N", 1, 1024, "128", "prompt tokens in one step"},
    {"profile", 0, CLI_FLAG, NULL, 0, 0, NULL, "time of each op in decoding"},
    {"capsule", 0, CLI_PATH, "FILE", 0, 0, NULL, "write a capsule (docs/capsules.md)"},
    {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print one JSON object"},
    CLI_END,
};

static void print_profile(const zmi_bench *b, zmi_text *out) {
  zmi_text rows = {0};
  double total = 0;
  for (size_t i = 0; i < b->op_count; i++) total += b->ops[i].seconds;
  zmi_text_add(&rows, "op\t>calls a token\t>microseconds a token\t>share\n");
  for (size_t i = 0; i < b->op_count; i++) {
    zmi_text_add(&rows, "%s\t%zu\t%.1f\t%.1f%%\n", b->ops[i].name, b->ops[i].calls, b->ops[i].seconds * 1e6,
                 100 * b->ops[i].seconds / total);
  }
  zmi_text_add(out, "\n");
  cli_table(zmi_text_str(&rows), out);
  zmi_text_release(&rows);
}

static void print_table(const zmi_bench *b, zm_model *m) {
  char size[32];
  zm_model_info info;
  zm_model_get_info(m, &info);
  zmi_text rows = {0}, out = {0};
  zmi_text_add(&out, "%s %s, %s, %d threads, %s\n\n", info.family, info.quantization, zm_dtype_name(info.dtype), info.threads, info.isa);
  zmi_text_add(&rows, "\t>tokens a second\trange of %zu runs\n", b->runs);
  zmi_text_add(&rows, "prompt of %d\t%.1f\t%.1f to %.1f\n", b->prompt_tokens, b->prefill.median, b->prefill.low, b->prefill.high);
  zmi_text_add(&rows, "decode at depth %d\t%.1f\t%.1f to %.1f\n", b->depth, b->decode.median, b->decode.low, b->decode.high);
  cli_table(zmi_text_str(&rows), &out);
  zmi_text_release(&rows);
  double mb = (double)(b->bytes_per_token + b->cache_bytes) / 1e6;
  zmi_text_add(&out, "\na token reads %.1f MB of weights and caches: %.1f GB/s, %.0f%% of the %.1f GB/s measured; peak memory %s\n", mb,
               mb * b->decode.median / 1e3, 100 * b->share, b->bandwidth, cli_bytes((double)b->peak_memory, size));
  if (b->share > 1) zmi_text_add(&out, "(above 100%%: so small a model stays in the caches)\n");
  if (b->op_count) print_profile(b, &out);
  cli_print_text(&out);
}

static json_t *bench_json(const zmi_bench *b, const zm_model *m) {
  json_t *j = zmi_bench_json(b, m);
  if (j) json_object_set_new(j, "machine", zmi_machine_json(zmi_model_kernels(m)));
  return j;
}

static int run_bench(const cli_args *args) {
  int status = CLI_OK;
  if (cli_given(args, "capsule") && zmi_capsule_check(cli_text(args, "capsule")) != ZM_OK) return cli_failed();
  zm_model *m = cli_open_model(args, &status);
  if (!m) return status;
  zmi_bench b;
  zm_status failed = zmi_bench_run(m,
                                   &(zmi_bench_options){.prompt_tokens = (int32_t)cli_int(args, "prompt-tokens"),
                                                        .decode_tokens = (int32_t)cli_int(args, "decode-tokens"),
                                                        .depth = (int32_t)cli_int(args, "depth"),
                                                        .rounds = (int32_t)cli_int(args, "runs"),
                                                        .chunk = (int32_t)cli_int(args, "chunk"),
                                                        .profile = cli_flag(args, "profile"),
                                                        .progress = cli_progress},
                                   &b);
  cli_progress_end();
  if (failed != ZM_OK) {
    status = cli_interrupted() ? cli_interrupt_status() : cli_failed();
  } else {
    if (cli_flag(args, "json")) cli_print_json(bench_json(&b, m));
    else print_table(&b, m);
    if (cli_given(args, "capsule") &&
        zmi_capsule_write(cli_text(args, "capsule"), "bench", args->argc, args->argv, m, zmi_bench_json(&b, m)) != ZM_OK) {
      status = cli_failed();
    }
    zmi_bench_release(&b);
  }
  zm_model_close(m);
  return status;
}

const cli_command cli_bench = {
    .name = "bench",
    .summary = "Measures prompt reading and decoding beside memory bandwidth",
    .arguments = "MODEL",
    .options = options,
    .model_options = true,
    .run = run_bench,
};
