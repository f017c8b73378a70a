// The tools room: what proves and measures: validate, bench, smart patching, capsules, facts about the machine. Nothing here prints;
// results are structs, and JSON objects (jansson) for machines and capsules.
#ifndef ZMI_TOOLS_H
#define ZMI_TOOLS_H

#include "lm/lm.h"
#include <jansson.h>

// ---- statistics (stats.c) ----
double zmi_median(const double *values, size_t n); // of a copy; 0 if n is 0
// The median and an interval that holds the true median with 95% confidence whatever the distribution: order statistics of the binomial
// (the whole range below six values).
typedef struct zmi_interval {
  double median, low, high;
} zmi_interval;
zm_status zmi_median_interval(const double *values, size_t n, zmi_interval *out);

// A comparison in ABBA rounds: each round times A, B, B, A; its ratio is the time of A over the time of B, so above 1 means that B is
// faster.
typedef struct zmi_abba {
  size_t rounds;
  double *a, *b; // seconds of each A or B block: 2 a round, in order
  double *ratio; // one a round
  zmi_interval seconds_a, seconds_b, speedup;
} zmi_abba;
zm_status zmi_abba_new(zmi_abba *t, size_t rounds);
zm_status zmi_abba_finish(zmi_abba *t); // fills ratio and the intervals from a and b
void zmi_abba_release(zmi_abba *t);
json_t *zmi_abba_json(const zmi_abba *t, double items); // rates are items a second

// ---- machine (machine.c) ----
// Read bandwidth in GB/s (1e9 bytes) of the pool's workers over 512 MB of their own (less where memory is short): the best of several
// passes, about a tenth of a second a measurement. (bandwidth.c)
typedef struct zmi_bandwidth zmi_bandwidth;
zmi_bandwidth *zmi_bandwidth_new(zmi_pool *pool);
double zmi_bandwidth_measure(zmi_bandwidth *b);
void zmi_bandwidth_free(zmi_bandwidth *b);
// Products of bytes, in 1e9 multiply-adds a second, of the pool's workers: the best of several passes, some hundredths of a second.
double zmi_products_measure(zmi_pool *pool, const zmi_kernels *kernels);
// The commit that this was built from, "-dirty" behind it if files had changed since; "unknown" outside of a clone. Made by the build.
extern const char zmi_commit[];
// {"cpu", "cores", "memory_bytes", "system", "isa", "compiler", "version", "commit"}. NULL when memory is short.
json_t *zmi_machine_json(const zmi_kernels *kernels);

// ---- validate (validate.c) ----
typedef struct zmi_validate_options {
  const char *const *prompts; // NULL: the three built-in ones
  size_t prompt_count;
  int32_t max_tokens;    // new tokens for each prompt; 0: 64
  int32_t rounds;        // ABBA rounds; 0: 8
  int32_t context;       // 0: as long as the longest prompt and its answer need
  zmi_patterns patterns; // what "patched" means
  zm_progress_fn progress;
  void *user;
} zmi_validate_options;

typedef struct zmi_prompt_check {
  char *prompt;
  int32_t prompt_tokens, new_tokens;
  int32_t equal_tokens;   // greedy tokens of the patched model that equal the stock model's
  int64_t positions;      // logits rows compared: every position of prompt and answer
  int64_t differing;      // rows with any bit different
  double max_difference;  // largest |stock - patched| of a logit
  double kl_mean, kl_max; // KL(stock || patched) in nats over the compared rows
  int32_t first_position; // of the first differing row; -1
  char *first_place;      // label and op of the first differing result; NULL
} zmi_prompt_check;

typedef struct zmi_validation {
  bool passed;    // every token and every bit of every logit equal
  char *patterns; // names, joined by ","
  zmi_prompt_check *prompts;
  size_t prompt_count;
  zmi_abba decode, prefill;              // A = stock, B = patched
  int32_t decode_tokens, prefill_tokens; // of one block
  double bandwidth;                      // GB/s read, measured in this process
  uint64_t bytes_per_token, peak_memory;
} zmi_validation;
zm_status zmi_validate(zm_model *m, const zmi_validate_options *options, zmi_validation *out);
void zmi_validation_release(zmi_validation *v);
json_t *zmi_validation_json(const zmi_validation *v);

// The inputs of one row of a step's program; its logits, if it has any, are those of the row.
void zmi_program_set_row(zmi_program *p, int32_t row, int32_t token, int32_t position, int32_t sequence);

// Plays one step of stock and patched program from equal states and names the first instruction of the patched tape whose result is not
// among the stock tape's results: "model.layers.3.mlp (moe_mlp)". *place is owned by the caller, NULL if every result is found. The
// session's sequence is left as it was. The two tokens are the same but in tests.
zm_status zmi_locate_difference(zm_session *s, zmi_patterns patterns, int32_t sequence, int32_t stock_token, int32_t patched_token,
                                char **place);

// ---- bench (bench.c) ----
typedef struct zmi_bench_options {
  int32_t prompt_tokens; // 0: 128
  int32_t decode_tokens; // 0: 32, of one repetition
  int32_t rounds;        // 0: 5
  int32_t depth;         // positions filled before decoding; 0: prompt_tokens
  int32_t chunk;         // 0: 128
  int32_t batch;         // independent sequences decoded together; 0: 1
  bool profile;          // per op; not of a batch
  zm_progress_fn progress;
  void *user;
} zmi_bench_options;

// The profile of a token, added up by op. Seconds are means over the workers, so that those of all rows add up to the token's time; after
// the ops stands "(end)": waiting until all workers are done.
typedef struct zmi_bench_op {
  const char *name; // of the op
  size_t calls;     // a token
  uint64_t bytes;   // a token: weights (of experts: the chosen ones) and caches at the depth
  double worked;    // seconds a token
  double waited;    // seconds a token at the barriers before it and between its stages; of the first op: also to wake up
  size_t barriers;
} zmi_bench_op;

// The barriers of a token, added up by the op behind them and the one that it waits for (the same: an earlier stage of it).
typedef struct zmi_bench_wait {
  const char *op, *awaited; // "(end)"; "(start)": until a worker is awake
  size_t count;
  double waited, idle; // seconds a token; idle: of it, until the last worker came
} zmi_bench_wait;

// Instructions of a GPU of one kind and of so many tiles, that ops consist of.
typedef struct zmi_bench_kind {
  const char *op, *kind;
  int tiles;
  size_t count;
  double worked, waited, idle; // seconds a token
} zmi_bench_kind;

typedef struct zmi_bench {
  zmi_interval decode, prefill; // tokens a second
  double *decode_runs, *prefill_runs;
  size_t runs;
  int32_t prompt_tokens, decode_tokens, depth, batch; // of a batch, rates count the tokens of all sequences
  double *bandwidth_runs;                             // GB/s around each run: the better of before and after, in the same process
  double bandwidth;                                   // their median
  double share;                                       // median over the runs of bytes read a second / bandwidth around it
  double int8_peak, prefill_share;       // 1e9 multiply-adds of bytes a second; share of it that prompts take (0: no products of digits)
  uint64_t bytes_per_token, cache_bytes; // weights read for one token; cache read at this depth
  double bytes_per_step;                 // weights and caches read for one token of each sequence, mean; each chosen expert once
  double chosen_experts;                 // different experts chosen in a layer, mean; 0: no routers
  double load_seconds;                   // of opening the model
  uint64_t peak_memory;
  zmi_bench_op *ops; // with profile: by falling time
  size_t op_count;
  zmi_bench_wait *waits; // by falling time
  size_t wait_count;
  zmi_bench_kind *kinds; // by falling time; none on the CPU
  size_t kind_count;
} zmi_bench;
zm_status zmi_bench_run(zm_model *m, const zmi_bench_options *options, zmi_bench *out);
void zmi_bench_release(zmi_bench *b);
json_t *zmi_bench_json(const zmi_bench *b, const zm_model *m);

// ---- profiles (profile.c) ----
// What a step reads for: rows of sequences of their own, each with caches of `depth` positions, which choose so many different experts in
// the layer that an instruction belongs to (0: as many as one row).
typedef struct zmi_step_rows {
  int64_t rows, depth, chosen;
} zmi_step_rows;
// Bytes that an instruction reads: weights, of experts those that are chosen, each once; and caches.
uint64_t zmi_instr_bytes(const zmi_tape *t, const zmi_instr *in, const zmi_state_set *states, const zmi_step_rows *step);
// The bytes of a whole step, added up while it is traced (zmi_player_trace): routers of the stock program say which experts are chosen.
typedef struct zmi_step_bytes {
  const zmi_state_set *states;
  zmi_step_rows step;
  uint64_t bytes;
  uint64_t chosen, routers; // different experts chosen, in all routers
  bool failed;              // memory
} zmi_step_bytes;
void zmi_step_bytes_add(void *sum, const zmi_tape *t, size_t instr);
// Fills ops and waits of *out, whose depth is set.
zm_status zmi_bench_add_profile(zmi_bench *out, const zmi_tape *t, const zmi_profile *p, const zmi_state_set *states);
double zmi_bench_profile_seconds(const zmi_bench *b); // of a token: the sum over all rows
void zmi_bench_profile_json(const zmi_bench *b, json_t *to);

// ---- peers (peers.c) ----
// Runs of other engines in a capsule of kind "peer". Comparing gives {"engines": [{"engine", "version", "threads", "prefill_tok_s",
// "decode_tok_s", "prefill_ratio", "decode_ratio"}], "differences": [{"what", "capsule", "here"}], "machine", "model"}: ratios are rates
// here over those of the engine; differences are what the capsule's machine, threads, model and prompt have otherwise.
typedef struct zmi_peers {
  json_t *capsule, *comparison;
} zmi_peers;
zm_status zmi_peers_read(const char *path, zmi_peers *out);
zm_status zmi_peers_compare(zmi_peers *p, const zmi_bench *b, const zm_model *m);
void zmi_peers_difference(const zmi_peers *p, zmi_text *out); // the differences as text; nothing if there is none
void zmi_peers_release(zmi_peers *p);

// ---- capsules (capsule.c; docs/capsules.md is their schema) ----
// A record of a measurement: {"schema": 1, "kind", "created", "command", "machine": {...}, "model": {...}, "result": {...}}. Takes over
// `result`.
zm_status zmi_capsule_write(const char *path, const char *kind, int argc, char *const *argv, zm_model *m, json_t *result);
// Whether a capsule could be written there: asked before the work that it is to record. Leaves no trace.
zm_status zmi_capsule_check(const char *path);
json_t *zmi_model_json(const zm_model *m);

#endif
