// zmlx bench: tokens a second beside the memory bandwidth that the same process measures.
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static const cli_option options[] = {
    {"prompt-tokens", 'p', CLI_INT, "N", 1, 1000000, "128", "tokens of the prompt"},
    {"decode-tokens", 'n', CLI_INT, "N", 1, 1000000, "32", "tokens decoded in a run"},
    {"depth", 0, CLI_INT, "N", 0, 1000000, "0", "positions filled before decoding"},
    {"runs", 0, CLI_INT, "N", 1, 1000, "5", "repetitions"},
    {"batch", 0, CLI_INT, "N", 1, 256, "1", "sequences decoded together"},
    {"chunk", 0, CLI_INT, "N", 1, 1024, "128", "prompt tokens in one step"},
    {"profile", 0, CLI_FLAG, NULL, 0, 0, NULL, "bytes and time of each op; what waits for what"},
    {"compare", 0, CLI_PATH, "FILE", 0, 0, NULL, "beside the runs in a capsule of peers"},
    {"capsule", 0, CLI_PATH, "FILE", 0, 0, NULL, "write a capsule (docs/capsules.md)"},
    {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print one JSON object"},
    CLI_END,
};

static void print_waits(const zmi_bench *b, zmi_text *out) {
  zmi_text rows = {0};
  zmi_text_add(&rows, "op\twaits for\t>barriers\t>us\t>of it for the last worker\n");
  for (size_t i = 0; i < b->wait_count; i++) {
    const zmi_bench_wait *w = &b->waits[i];
    zmi_text_add(&rows, "%s\t%s\t%zu\t%.1f\t%.1f\n", w->op, strcmp(w->op, w->awaited) == 0 ? "its own stage before" : w->awaited, w->count,
                 w->waited * 1e6, w->idle * 1e6);
  }
  zmi_text_add(out, "\n");
  cli_table(zmi_text_str(&rows), out);
  zmi_text_release(&rows);
}

static void add_op(const zmi_bench *b, const zmi_bench_op *op, double total, double seconds, zmi_text *rows) {
  const double rate = seconds > 0 ? (double)op->bytes / seconds / 1e9 : 0;
  zmi_text_add(rows, "%s\t%zu\t%.2f\t%.1f\t%.1f\t%zu\t%.1f%%", op->name, op->calls, (double)op->bytes / 1e6, op->worked * 1e6,
               op->waited * 1e6, op->barriers, 100 * (op->worked + op->waited) / total);
  if (op->bytes)
    zmi_text_add(rows, "\t%.1f\t%.0f%%\n", rate, 100 * rate / b->bandwidth);
  else
    zmi_text_add(rows, "\t\t\n");
}

static void print_kinds(const zmi_bench *b, zmi_text *out) {
  zmi_text rows = {0};
  if (!b->kind_count) return;
  zmi_text_add(&rows, "op\tinstruction\t>tiles\t>count\t>us each\t>us at work\t>us waiting\t>of it for the last\n");
  for (size_t i = 0; i < b->kind_count; i++) {
    const zmi_bench_kind *k = &b->kinds[i];
    zmi_text_add(&rows, "%s\t%s\t%d\t%zu\t%.2f\t%.1f\t%.1f\t%.1f\n", k->op, k->kind, k->tiles, k->count,
                 (k->worked + k->waited) / (double)k->count * 1e6, k->worked * 1e6, k->waited * 1e6, k->idle * 1e6);
  }
  zmi_text_add(out, "\nInstructions of the GPU:\n\n");
  cli_table(zmi_text_str(&rows), out);
  zmi_text_release(&rows);
}

static void print_profile(const zmi_bench *b, zmi_text *out) {
  zmi_text rows = {0};
  zmi_bench_op sum = {.name = "all"};
  const double total = zmi_bench_profile_seconds(b);
  zmi_text_add(&rows, "op\t>calls\t>MB read\t>us at work\t>us waiting\t>barriers\t>of the time\t>GB/s\t>of bandwidth\n");
  for (size_t i = 0; i < b->op_count; i++) {
    const zmi_bench_op *op = &b->ops[i];
    add_op(b, op, total, op->worked, &rows);
    sum.calls += op->calls;
    sum.bytes += op->bytes;
    sum.barriers += op->barriers;
    sum.worked += op->worked;
    sum.waited += op->waited;
  }
  add_op(b, &sum, total, total, &rows);
  zmi_text_add(out,
               "\nA token, op by op (means over the workers; an op waits at the barriers before it; GB/s while at work, of all: of the "
               "whole time):\n\n");
  cli_table(zmi_text_str(&rows), out);
  zmi_text_release(&rows);
  print_kinds(b, out);
  print_waits(b, out);
}

static void add_engine(const json_t *e, zmi_text *rows) {
  const json_t *threads = json_object_get(e, "threads");
  zmi_text_add(rows, "%s\t%s\t", json_string_value(json_object_get(e, "engine")), json_string_value(json_object_get(e, "version")));
  if (json_is_integer(threads)) zmi_text_add(rows, "%lld", (long long)json_integer_value(threads));
  zmi_text_add(rows, "\t%.1f\t%.2fx\t%.1f\t%.2fx\n", json_number_value(json_object_get(e, "prefill_tok_s")),
               json_number_value(json_object_get(e, "prefill_ratio")), json_number_value(json_object_get(e, "decode_tok_s")),
               json_number_value(json_object_get(e, "decode_ratio")));
}

static void print_peers(const zmi_peers *p, const zmi_bench *b, const zm_model *m, zmi_text *out) {
  zmi_text rows = {0}, differs = {0};
  zm_model_info info;
  zm_model_get_info(m, &info);
  zmi_text_add(&rows, "engine\tversion\t>threads\t>prefill tok/s\t>zmlx over it\t>decode tok/s\t>zmlx over it\n");
  zmi_text_add(&rows, "zmlx, this run\t%s %s\t%d\t%.1f\t\t%.1f\t\n", zm_version(), zmi_commit, info.threads, b->prefill.median,
               b->decode.median);
  const json_t *engines = json_object_get(p->comparison, "engines");
  for (size_t i = 0; i < json_array_size(engines); i++) add_engine(json_array_get(engines, i), &rows);
  zmi_text_add(out, "\n");
  cli_table(zmi_text_str(&rows), out);
  zmi_peers_difference(p, &differs);
  if (differs.size) zmi_text_add(out, "\nThe capsule was not made in this setting: %s.\n", zmi_text_str(&differs));
  zmi_text_release(&rows);
  zmi_text_release(&differs);
}

static void print_table(const zmi_bench *b, zm_model *m, const zmi_peers *peers) {
  char size[32];
  zm_model_info info;
  zm_model_get_info(m, &info);
  zmi_text rows = {0}, out = {0};
  char of[32] = "";
  if (b->batch > 1) snprintf(of, sizeof of, " of %d together", b->batch);
  zmi_text_add(&out, "%s %s, %s, %d threads, %s\n\n", info.family, info.quantization, zm_dtype_name(info.dtype), info.threads, info.isa);
  zmi_text_add(&rows, "\t>tokens a second\trange of %zu runs\n", b->runs);
  zmi_text_add(&rows, "prompt of %d\t%.1f\t%.1f to %.1f\n", b->prompt_tokens, b->prefill.median, b->prefill.low, b->prefill.high);
  zmi_text_add(&rows, "decode%s at depth %d\t%.1f\t%.1f to %.1f\n", of, b->depth, b->decode.median, b->decode.low, b->decode.high);
  cli_table(zmi_text_str(&rows), &out);
  zmi_text_release(&rows);
  double mb = b->bytes_per_step / 1e6;
  zmi_text_add(&out, "\na %s reads %.1f MB of weights and caches: %.1f GB/s, %.0f%% of the %.1f GB/s measured\n",
               b->batch > 1 ? "step" : "token", mb, mb * b->decode.median / b->batch / 1e3, 100 * b->share, b->bandwidth);
  zmi_text_add(&out, "loaded in %.3f s; peak memory %s, %.2f of the checkpoint's %.1f MB\n", b->load_seconds,
               cli_bytes((double)b->peak_memory, size), (double)b->peak_memory / (double)info.file_bytes, (double)info.file_bytes / 1e6);
  if (b->chosen_experts > 0)
    zmi_text_add(&out, "%d rows choose %.1f different experts of a layer, each of which is read once\n", b->batch, b->chosen_experts);
  if (b->prefill_share > 0)
    zmi_text_add(&out, "a prompt takes %.0f%% of the %.0f G multiply-adds of bytes a second measured%s\n", 100 * b->prefill_share,
                 b->int8_peak, info.activations == ZM_ACTIVATIONS_INT8 ? "" : ", three for each element of an activation");
  if (b->share > 1) zmi_text_add(&out, "(above 100%%: so small a model stays in the caches)\n");
  if (b->op_count) print_profile(b, &out);
  if (peers->comparison) print_peers(peers, b, m, &out);
  cli_print_text(&out);
}

static json_t *bench_json(const zmi_bench *b, const zm_model *m, const zmi_peers *peers) {
  json_t *j = zmi_bench_json(b, m);
  if (j) json_object_set_new(j, "machine", zmi_machine_json(zmi_model_kernels(m)));
  if (j && peers->comparison) json_object_set(j, "compare", peers->comparison);
  return j;
}

static int measure(const cli_args *args, zm_model *m, zmi_peers *peers) {
  zmi_bench b;
  zm_status failed = zmi_bench_run(m,
                                   &(zmi_bench_options){.prompt_tokens = (int32_t)cli_int(args, "prompt-tokens"),
                                                        .decode_tokens = (int32_t)cli_int(args, "decode-tokens"),
                                                        .depth = (int32_t)cli_int(args, "depth"),
                                                        .rounds = (int32_t)cli_int(args, "runs"),
                                                        .chunk = (int32_t)cli_int(args, "chunk"),
                                                        .batch = (int32_t)cli_int(args, "batch"),
                                                        .profile = cli_flag(args, "profile"),
                                                        .progress = cli_progress},
                                   &b);
  cli_progress_end();
  if (failed != ZM_OK) return cli_interrupted() ? cli_interrupt_status() : cli_failed();
  if (peers->capsule) failed = zmi_peers_compare(peers, &b, m);
  if (failed == ZM_OK && cli_flag(args, "json"))
    cli_print_json(bench_json(&b, m, peers));
  else if (failed == ZM_OK)
    print_table(&b, m, peers);
  if (failed == ZM_OK && cli_given(args, "capsule"))
    failed = zmi_capsule_write(cli_text(args, "capsule"), "bench", args->argc, args->argv, m, zmi_bench_json(&b, m));
  zmi_bench_release(&b);
  return failed == ZM_OK ? CLI_OK : cli_failed();
}

static int run_bench(const cli_args *args) {
  int status = CLI_OK;
  zmi_peers peers = {0};
  if (cli_given(args, "capsule") && zmi_capsule_check(cli_text(args, "capsule")) != ZM_OK) return cli_failed();
  if (cli_given(args, "compare") && zmi_peers_read(cli_text(args, "compare"), &peers) != ZM_OK) return cli_failed();
  zm_model *m = cli_open_model(args, &status);
  if (m) status = measure(args, m, &peers);
  zm_model_close(m);
  zmi_peers_release(&peers);
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
