// bench: how fast a model reads prompts and decodes, beside what the machine's memory can give, measured in the same process between the
// runs.
#include "tools/tools.h"

#include <string.h>

typedef struct bencher {
  zm_model *model;
  zmi_bench *out;
  const zmi_bench_options *o;
  zm_session *session;
  int32_t *tokens; // [batch, depth]
  zm_row *rows;    // [batch], the next step
  float *logits;   // [batch, vocab]
  int32_t vocab;
  bool filled; // the caches have been filled up to the depth once
} bencher;

static const int32_t *tokens_of(const bencher *b, int32_t sequence) {
  return b->tokens + (size_t)sequence * (size_t)b->out->depth;
}

static zm_status tick(const bencher *b, uint64_t done, uint64_t total) {
  if (!b->o->progress || b->o->progress(b->o->user, "measuring", done, total)) return ZM_OK;
  return zmi_fail(ZM_ERROR_CANCELLED, "the benchmark was cancelled");
}

// Fills up to the depth: for the first time by reading tokens, later by taking the caches as they were left, since the tokens are the same.
static zm_status fill(bencher *b, int32_t sequence) {
  zmi_bench *out = b->out;
  if (out->depth <= out->prompt_tokens) return ZM_OK;
  if (b->filled) return zmi_session_resume(b->session, sequence, out->depth);
  for (int32_t at = out->prompt_tokens, n; at < out->depth; at += n) {
    n = ZMI_MIN(out->depth - at, 512);
    zm_status status = zm_session_feed(b->session, sequence, tokens_of(b, sequence) + at, (size_t)n, b->logits, 1, NULL, NULL);
    if (status == ZM_OK && b->o->progress && !b->o->progress(b->o->user, "filling the caches", (uint64_t)(at + n), (uint64_t)out->depth))
      status = zmi_fail(ZM_ERROR_CANCELLED, "the benchmark was cancelled");
    if (status != ZM_OK) return status;
  }
  return ZM_OK;
}

// Reads the prompts, one after another, and fills up to the depth. The next tokens are those after the prompts, whatever was filled in.
static zm_status begin(bencher *b, double *prefill) {
  zmi_bench *out = b->out;
  zm_status status = ZM_OK;
  for (int32_t s = 0; s < out->batch && status == ZM_OK; s++) status = zm_session_reset(b->session, s);
  double start = zmi_now();
  for (int32_t s = 0; s < out->batch && status == ZM_OK; s++) {
    status = zm_session_feed(b->session, s, tokens_of(b, s), (size_t)out->prompt_tokens, b->logits, 1, NULL, NULL);
    b->rows[s] = (zm_row){s, zmi_best_token(zmi_model_kernels(b->model), b->logits, b->vocab)};
  }
  *prefill = out->batch * out->prompt_tokens / (zmi_now() - start);
  for (int32_t s = 0; s < out->batch && status == ZM_OK; s++) status = fill(b, s);
  b->filled = true;
  return status;
}

static void choose_next(bencher *b) {
  for (int32_t s = 0; s < b->out->batch; s++)
    b->rows[s].token = zmi_best_token(zmi_model_kernels(b->model), b->logits + (size_t)s * (size_t)b->vocab, b->vocab);
}

static bool take_next(void *user, int32_t token) {
  bencher *b = user;
  b->rows[0].token = token;
  return true;
}

// Some more tokens of each sequence. One sequence on a GPU needs nothing of the host in between.
static zm_status decode_some(bencher *b, size_t most, size_t *made) {
  const zmi_run run = {.token = b->rows[0].token, .most = most, .on_next = take_next, .user = b};
  *made = 0;
  zm_status status = b->out->batch == 1 ? zmi_session_run(b->session, &run, b->logits, made) : ZM_OK;
  if (status != ZM_OK || *made) return status;
  status = zm_session_step(b->session, b->rows, (size_t)b->out->batch, b->logits, (size_t)b->out->batch);
  if (status == ZM_OK && most > 1) choose_next(b);
  *made = 1;
  return status;
}

// One repetition: read the prompts, fill up to the depth, decode greedily as a user's generation would.
static zm_status run_once(bencher *b, double *prefill, double *decode) {
  zmi_bench *out = b->out;
  zm_status status = begin(b, prefill);
  double start = zmi_now();
  for (size_t i = 0, made; i < (size_t)out->decode_tokens && status == ZM_OK; i += made)
    status = decode_some(b, (size_t)out->decode_tokens - i, &made);
  *decode = out->batch * out->decode_tokens / (zmi_now() - start);
  return status;
}

// Of the memory that weights are read from: of a GPU what copies reach, bytes read and written.
static double bandwidth_of(bencher *b, zmi_bandwidth *memory) {
  zmi_cuda *gpu = zmi_model_gpu(b->model);
  if (gpu) return zmi_device_bandwidth(gpu);
  return memory ? zmi_bandwidth_measure(memory) : 0;
}

// Bandwidth moves with what else the machine does: it is measured before and after each run, and the better one counts.
static zm_status run_all(bencher *b) {
  zmi_bench *out = b->out;
  double unused_prefill, unused_decode;
  zm_status status = run_once(b, &unused_prefill, &unused_decode); // compiles and warms up
  out->peak_memory = zmi_peak_memory();                            // before the memory that measures bandwidth
  const bool gpu = zmi_model_gpu(b->model) != NULL;
  zmi_bandwidth *memory = status == ZM_OK && !gpu ? zmi_bandwidth_new(zmi_model_pool(b->model)) : NULL;
  if (status == ZM_OK && !memory && !gpu) status = ZM_ERROR_MEMORY;
  double before = status == ZM_OK ? bandwidth_of(b, memory) : 0;
  for (size_t i = 0; i < out->runs && status == ZM_OK; i++) {
    status = run_once(b, &out->prefill_runs[i], &out->decode_runs[i]);
    double after = bandwidth_of(b, memory);
    if (status == ZM_OK && after <= 0) status = gpu ? zm_last_status() : ZM_ERROR_MEMORY;
    out->bandwidth_runs[i] = ZMI_MAX(before, after);
    before = after;
    if (!gpu) out->int8_peak = ZMI_MAX(out->int8_peak, zmi_products_measure(zmi_model_pool(b->model), zmi_model_kernels(b->model)));
    if (status == ZM_OK) status = tick(b, i + 1, out->runs);
  }
  zmi_bandwidth_free(memory);
  if (status == ZM_OK) status = zmi_median_interval(out->prefill_runs, out->runs, &out->prefill);
  if (status == ZM_OK) status = zmi_median_interval(out->decode_runs, out->runs, &out->decode);
  return status;
}

// Share of the bandwidth around each run; the median of them.
static zm_status take_share(bencher *b) {
  zmi_bench *out = b->out;
  zm_model_info info;
  zm_model_get_info(b->model, &info);
  const double digits = info.activations == ZM_ACTIVATIONS_INT8 ? 1 : 3;
  if (out->int8_peak > 0)
    out->prefill_share = out->prefill.median * zmi_model_plan_of(b->model)->products_per_token * digits / 1e9 / out->int8_peak;
  double *shares = zmi_calloc(out->runs, sizeof *shares), bytes = out->bytes_per_step / out->batch;
  if (!shares) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < out->runs; i++) shares[i] = bytes * out->decode_runs[i] / 1e9 / out->bandwidth_runs[i];
  out->share = zmi_median(shares, out->runs);
  out->bandwidth = zmi_median(out->bandwidth_runs, out->runs);
  zmi_free(shares);
  return ZM_OK;
}

// ---- bytes of a batch ----

// Decodes as a run does, with the stock program, which has a router of its own in each layer of experts.
static zm_status trace_batch(bencher *b, zmi_step_bytes *sum) {
  zmi_bench *out = b->out;
  zmi_program *p = zmi_model_compile(b->model, out->batch, out->batch, sum->states, &(zmi_model_program_options){.stock = true});
  if (!p) return zm_last_status();
  const zm_dtype dtype = zmi_model_dtype(b->model);
  const void *logits = zmi_program_slot(p, "logits");
  for (int32_t i = 0; i < out->decode_tokens; i++) {
    for (int32_t s = 0; s < out->batch; s++) zmi_program_set_row(p, s, b->rows[s].token, out->depth + i, s);
    zmi_player_trace(zmi_program_player(p), zmi_model_pool(b->model), zmi_step_bytes_add, sum);
    zmi_model_kernels(b->model)->load(logits, dtype, (int64_t)out->batch * b->vocab, b->logits);
    choose_next(b);
  }
  zmi_program_free(p);
  return sum->failed ? ZM_ERROR_MEMORY : ZM_OK;
}

// What a step of several rows reads depends on what their tokens choose: a run is repeated with a look at the routers. A row alone always
// chooses the same number of experts.
static zm_status count_bytes(bencher *b) {
  zmi_bench *out = b->out;
  zm_model_info info;
  zm_model_get_info(b->model, &info);
  out->bytes_per_token = info.bytes_per_token;
  out->load_seconds = info.load_seconds;
  out->cache_bytes = info.cache_bytes_per_token * (uint64_t)out->depth;
  out->bytes_per_step = (double)(out->bytes_per_token + out->cache_bytes);
  if (out->batch == 1 || zmi_model_gpu(b->model)) return ZM_OK; // routers are read on the CPU
  double unused;
  zmi_step_bytes sum = {.states = zmi_session_states(b->session), .step = {.rows = out->batch, .depth = out->depth}};
  zm_status status = begin(b, &unused);
  if (status != ZM_OK) return status;
  zmi_model_lock(b->model);
  status = trace_batch(b, &sum);
  zmi_model_unlock(b->model);
  out->bytes_per_step = (double)sum.bytes / out->decode_tokens;
  out->chosen_experts = sum.routers ? (double)sum.chosen / (double)sum.routers : 0;
  return status;
}

// ---- profile ----

// Plays a decode program of its own at the last of the positions that the bench is about; positions are not advanced, so the caches keep
// their meaning.
static zm_status profile_gpu(bencher *b, zmi_program *p, zmi_profile *times) {
  size_t count;
  zmi_device_player *player = zmi_program_gpu(p);
  const zmi_gpu_instruction *code = zmi_device_player_code(player, &count);
  times->steps = zmi_calloc(count + 1, sizeof *times->steps);
  if (!times->steps) return ZM_ERROR_MEMORY;
  zm_status status = ZM_OK;
  for (int32_t i = 0; i < b->out->decode_tokens && status == ZM_OK; i++) {
    zmi_program_set_row(p, 0, b->tokens[i % b->out->prompt_tokens], b->out->depth - 1, 0);
    status = zmi_device_player_profile(player, times->steps);
    times->plays++;
  }
  times->count = count + 1;
  for (size_t i = 0; i < count; i++) {
    const int64_t before = code[i].barrier && i > 0 ? code[i - 1].of_instr : -1;
    times->steps[i].instr = (size_t)code[i].of_instr;
    times->steps[i].waits_for = before;
    times->steps[i].kind = zmi_device_kind_name(code[i].kind);
    times->steps[i].tiles = code[i].tiles;
  }
  times->steps[count] = (zmi_step_time){.instr = zmi_program_tape(p)->instr_count, .waits_for = -1};
  return status;
}

static zm_status profile(bencher *b) {
  const zmi_state_set *states = zmi_session_states(b->session);
  zmi_program *p = zmi_model_compile(b->model, 1, 1, states, NULL);
  if (!p) return zm_last_status();
  zmi_player *player = zmi_program_player(p);
  zmi_pool *pool = zmi_model_pool(b->model);
  zmi_profile times = {0};
  const int32_t last = b->out->depth - 1;
  zmi_program_set_row(p, 0, b->tokens[0], last, 0);
  zm_status status = zmi_program_play(p, pool); // its memory is touched for the first time
  const bool gpu = zmi_program_gpu(p) != NULL;
  if (gpu && status == ZM_OK) status = profile_gpu(b, p, &times);
  for (int32_t i = 0; i < b->out->decode_tokens && status == ZM_OK && !gpu; i++) {
    zmi_program_set_row(p, 0, b->tokens[i % b->out->prompt_tokens], last, 0); // other tokens, other experts
    status = zmi_player_profile(player, pool, &times);
  }
  if (status == ZM_OK) status = zmi_bench_add_profile(b->out, zmi_program_tape(p), &times, states);
  zmi_profile_release(&times);
  zmi_program_free(p);
  return status;
}

// ---- the whole ----

static zm_status prepare(bencher *b) {
  zmi_bench *out = b->out;
  const zmi_bench_options *o = b->o;
  out->prompt_tokens = o->prompt_tokens ? o->prompt_tokens : 128;
  out->decode_tokens = o->decode_tokens ? o->decode_tokens : 32;
  out->depth = ZMI_MAX(o->depth, out->prompt_tokens);
  out->runs = o->rounds ? (size_t)o->rounds : 5;
  out->batch = o->batch ? o->batch : 1;
  if (out->batch > 1 && o->profile)
    return zmi_fail(ZM_ERROR_ARGUMENT, "a profile is that of one sequence, not of a batch of %d", out->batch);
  int32_t limit = zmi_model_context(b->model);
  if (out->depth > limit - out->decode_tokens) {
    return zmi_fail(ZM_ERROR_LIMIT, "a depth of %d and %d decoded tokens do not fit the model's context of %d", out->depth,
                    out->decode_tokens, limit);
  }
  out->prefill_runs = zmi_calloc(out->runs, sizeof *out->prefill_runs);
  out->decode_runs = zmi_calloc(out->runs, sizeof *out->decode_runs);
  out->bandwidth_runs = zmi_calloc(out->runs, sizeof *out->bandwidth_runs);
  const size_t count = (size_t)out->depth * (size_t)out->batch; // both at most a million
  b->tokens = zmi_calloc(count, sizeof *b->tokens);
  b->logits = zmi_calloc((size_t)b->vocab * (size_t)out->batch, sizeof *b->logits);
  b->rows = zmi_calloc((size_t)out->batch, sizeof *b->rows);
  if (!out->prefill_runs || !out->decode_runs || !out->bandwidth_runs || !b->tokens || !b->logits || !b->rows) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < count; i++) b->tokens[i] = (int32_t)(zmi_uniform(1, i) * b->vocab);
  b->session = zm_session_open(
      b->model, &(zm_session_options){.context = out->depth + out->decode_tokens, .sequences = out->batch, .chunk = o->chunk});
  return b->session ? ZM_OK : zm_last_status();
}

zm_status zmi_bench_run(zm_model *m, const zmi_bench_options *options, zmi_bench *out) {
  memset(out, 0, sizeof *out);
  bencher b = {.model = m, .out = out, .o = options, .vocab = zmi_model_vocab(m)};
  zm_status status = prepare(&b);
  if (status == ZM_OK) status = run_all(&b);
  if (status == ZM_OK) status = count_bytes(&b);
  if (status == ZM_OK && options->profile) {
    zmi_model_lock(m);
    status = profile(&b);
    zmi_model_unlock(m);
  }
  if (status == ZM_OK) status = take_share(&b);
  zm_session_close(b.session);
  zmi_free(b.tokens);
  zmi_free(b.logits);
  zmi_free(b.rows);
  if (status != ZM_OK) zmi_bench_release(out);
  return status;
}

void zmi_bench_release(zmi_bench *b) {
  zmi_free(b->decode_runs);
  zmi_free(b->prefill_runs);
  zmi_free(b->bandwidth_runs);
  zmi_free(b->kinds);
  zmi_free(b->ops);
  zmi_free(b->waits);
  memset(b, 0, sizeof *b);
}

static json_t *list(const double *values, size_t n) {
  json_t *array = json_array();
  for (size_t i = 0; i < n && array; i++) json_array_append_new(array, json_real(values[i]));
  return array;
}

static json_t *gpu_json(const zm_model *m) {
  zmi_device_facts gpu;
  char capability[32];
  zmi_device_look(&gpu);
  snprintf(capability, sizeof capability, "%d.%d", gpu.major, gpu.minor);
  return json_pack("{s:s, s:s, s:i, s:i, s:I, s:s}", "name", gpu.name, "capability", capability, "processors", gpu.processors, "driver",
                   gpu.driver, "memory", (json_int_t)gpu.memory, "executor", zmi_model_executor(m));
}

json_t *zmi_bench_json(const zmi_bench *b, const zm_model *m) {
  json_t *j = json_pack(
      "{s:f, s:f, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:i, s:i, s:i, s:[f, f], s:[f, f], s:o, s:o, s:o, s:f, s:I, s:o}",
      "decode_tok_s", b->decode.median, "prefill_tok_s", b->prefill.median, "bytes_per_token", (json_int_t)b->bytes_per_token,
      "cache_bytes", (json_int_t)b->cache_bytes, "bytes_per_step", b->bytes_per_step, "chosen_experts", b->chosen_experts,
      "read_bandwidth_gb_s", b->bandwidth, "share_of_bandwidth", b->share, "int8_peak_gmac_s", b->int8_peak, "prefill_share_of_int8_peak",
      b->prefill_share, "prompt_tokens", b->prompt_tokens, "decode_tokens", b->decode_tokens, "depth", b->depth, "batch", b->batch,
      "decode_interval", b->decode.low, b->decode.high, "prefill_interval", b->prefill.low, b->prefill.high, "decode_runs",
      list(b->decode_runs, b->runs), "prefill_runs", list(b->prefill_runs, b->runs), "bandwidth_runs", list(b->bandwidth_runs, b->runs),
      "load_seconds", b->load_seconds, "peak_memory", (json_int_t)b->peak_memory, "model", zmi_model_json(m));
  if (j && b->op_count) zmi_bench_profile_json(b, j);
  if (j && zmi_model_gpu(m)) json_object_set_new(j, "gpu", gpu_json(m));
  return j;
}
