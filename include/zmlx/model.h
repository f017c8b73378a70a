// Models, sessions, generation and patching.
//
// A model is a loaded checkpoint: weights, a family, the chosen patterns. It can be shared by several sessions. A session holds the
// caches of one or more sequences. Calls on one model from several threads take turns. Only zm_smart_patch and validation need the model
// for themselves: they change its patterns while they run, so no other thread may use the model or its sessions until they return.
#ifndef ZMLX_MODEL_H
#define ZMLX_MODEL_H

#include <zmlx/array.h>
#include <zmlx/kernel.h>
#include <zmlx/tokenizer.h>
#include <zmlx/transform.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zm_model zm_model;
typedef struct zm_session zm_session;

// How products with quantized weights take activations. Either way the bits depend on neither patches, threads, tiers, chunks nor batches.
typedef enum zm_activations {
  ZM_ACTIVATIONS_EXACT, // three signed bytes an element: what bfloat16 holds, and more, within each group of weights
  ZM_ACTIVATIONS_INT8   // one signed byte: prompts are read faster; docs/numerics.md states the error. Routers stay exact, and so do
                        // products with weights that are not quantized, or mxfp8
} zm_activations;

// Where steps are played. On every device, and by every executor of a GPU, results have the same bits.
typedef enum zm_model_device { ZM_MODEL_CPU, ZM_MODEL_CUDA } zm_model_device; // ZM_MODEL_CUDA: NVIDIA GPU 0
typedef enum zm_executor {
  ZM_EXECUTOR_AUTO,       // what is fastest here
  ZM_EXECUTOR_STREAM,     // a launch for each instruction
  ZM_EXECUTOR_GRAPH,      // the same launches, captured once
  ZM_EXECUTOR_PERSISTENT, // one launch plays a step
} zm_executor;

typedef struct zm_model_options {
  zm_dtype dtype;          // ZM_BF16 or ZM_F32: dtype of activations and caches; 0: as the checkpoint says
  int threads;             // 0: one for each CPU this process may use
  const char *isa;         // highest CPU tier: "scalar", "avx2", "avx512", ...; NULL: the best this machine has (or ZMLX_ISA)
  uint64_t memory_limit;   // bytes; opening fails with the plan if more would be needed; 0: what the machine has
  int32_t context;         // positions that the caller means to use, for the memory check; 0: the smaller of 4096 and what the model allows
  zm_progress_fn progress; // may be NULL
  void *progress_user;
  zm_activations activations;
  zm_model_device device;
  zm_executor executor; // of a GPU
} zm_model_options;

// Opens the checkpoint folder `path` (config.json, *.safetensors, tokenizer.json). options may be NULL. NULL on failure.
ZM_API zm_model *zm_model_open(const char *path, const zm_model_options *options);
ZM_API void zm_model_close(zm_model *m); // NULL is ignored; every session must be closed first

typedef struct zm_model_info {
  const char *family; // "lfm2_moe"; storage of the model, as are all strings here
  const char *path;
  const char *quantization;               // "affine 4-bit g64", "none"
  zm_dtype dtype;                         // of activations
  int32_t layers, hidden, vocab, context; // context: the longest the checkpoint was made for
  uint64_t file_bytes;                    // tensors in the checkpoint
  uint64_t weight_bytes;                  // memory that holds the weights
  uint64_t bytes_per_token;               // weight bytes that decoding one token at batch 1 reads
  uint64_t cache_bytes_per_token;         // key/value cache that one more position of one sequence takes
  int threads;
  const char *isa; // the tier in use
  zm_activations activations;
  zm_model_device device;
  double load_seconds; // that opening took, packing the weights included
} zm_model_info;
// m NULL: *info is all zero.
ZM_API void zm_model_get_info(const zm_model *m, zm_model_info *info);

// The checkpoint's tokenizer (owned by the model), opened on first use; NULL on failure.
ZM_API const zm_tokenizer *zm_model_tokenizer(zm_model *m);

// End-of-text ids named by the checkpoint's configuration (and tokenizer). Storage of the model. m NULL: there are none.
ZM_API size_t zm_model_eos(const zm_model *m, const int32_t **ids);

// ---- sessions ----

typedef struct zm_session_options {
  int32_t context;   // positions for each sequence; 0: the smaller of 4096 and what the model allows
  int32_t sequences; // independent sequences, 0: 1
  int32_t chunk;     // most rows in one step while a prompt is read; 0: 128. Never changes a bit of any result
} zm_session_options;

ZM_API zm_session *zm_session_open(zm_model *m, const zm_session_options *options);
ZM_API void zm_session_close(zm_session *s); // NULL is ignored

// One row of a step: the token that comes next in a sequence.
typedef struct zm_row {
  int32_t sequence, token;
} zm_row;

// Runs `count` rows in one step. Rows of one sequence must stand together, in order. logits (may be NULL) receives float32
// [last, vocab]: those of the last `last` rows (0 <= last <= count). A row's bits do not depend on the other rows.
ZM_API zm_status zm_session_step(zm_session *s, const zm_row *rows, size_t count, float *logits, size_t last);

// Appends `count` tokens to one sequence in chunks. logits as above, of the last `last` tokens.
ZM_API zm_status zm_session_feed(zm_session *s, int32_t sequence, const int32_t *tokens, size_t count, float *logits, size_t last,
                                 zm_progress_fn progress, void *user);

ZM_API int32_t zm_session_length(const zm_session *s, int32_t sequence); // positions filled
ZM_API int32_t zm_session_context(const zm_session *s);
ZM_API zm_status zm_session_reset(zm_session *s, int32_t sequence); // forgets the sequence

// ---- generation ----

typedef enum zm_stop_reason {
  ZM_STOP_NONE,
  ZM_STOP_EOS,
  ZM_STOP_TOKEN,
  ZM_STOP_STRING,
  ZM_STOP_LENGTH,
  ZM_STOP_CONTEXT,
  ZM_STOP_CALLBACK
} zm_stop_reason;

typedef struct zm_token_event {
  int32_t token;
  size_t index;     // 0 for the first new token
  float logprob;    // natural log probability of the token before any penalty, temperature or cut; NaN with skip_logprobs
  const char *text; // complete UTF-8 that this token finished, possibly empty; not zero-terminated
  size_t text_size;
} zm_token_event;

// Called for each new token, on the thread that generates. Return false to stop.
typedef bool (*zm_token_fn)(void *user, const zm_token_event *event);

typedef struct zm_logit_bias {
  int32_t token;
  float bias; // added to the token's logit; -INFINITY forbids it
} zm_logit_bias;

typedef struct zm_generate_options {
  size_t max_tokens;        // 0: 256
  float temperature;        // 0: greedy
  int32_t top_k;            // 0: off
  float top_p;              // 0 or 1: off
  float min_p;              // 0: off
  float repetition_penalty; // 0 or 1: off; divides positive logits of seen tokens, multiplies negative ones
  float presence_penalty;   // subtracted once from the logit of each token already generated
  int32_t penalty_window;   // tokens that penalties look back on; 0: 64
  uint64_t seed;            // same seed, same text, whatever the threads, chunks and batch
  const zm_logit_bias *logit_bias;
  size_t logit_bias_count;
  const char *const *stop; // strings that end the text; they are not part of it
  size_t stop_count;
  const int32_t *stop_tokens;
  size_t stop_token_count;
  bool ignore_eos;
  bool keep_special;        // show special tokens in the text
  bool skip_logprobs;       // events need none: greedy tokens may then be chosen where steps are played, several before the host is asked
  zm_token_fn on_token;     // may be NULL
  zm_progress_fn on_prompt; // progress of the prompt, in tokens; may be NULL; return false to cancel
  void *user;               // for both callbacks
} zm_generate_options;

typedef struct zm_generate_result {
  int32_t *tokens; // new tokens, with the end-of-text or stop token that ended them
  size_t count;
  char *text; // their text, zero-terminated: what the events said, one after another; NULL after some failures
  size_t text_size;
  zm_stop_reason stop;
  size_t prompt_tokens;
  double prompt_seconds, first_token_seconds, decode_seconds;
} zm_generate_result;

// Continues `prompt` (count > 0 token ids) in sequence 0 of a session, after what it already holds. options may be NULL.
// The last new token has been chosen but not read by the model: who goes on begins the next prompt with it.
// *result is to be released with zm_generate_result_free, after failure too (it then holds what was generated before).
// A checkpoint without tokenizer.json generates tokens and no text. How a token is chosen: docs/cli.md, "Sampling".
ZM_API zm_status zm_generate(zm_session *s, const int32_t *prompt, size_t count, const zm_generate_options *options,
                             zm_generate_result *result);
ZM_API void zm_generate_result_free(zm_generate_result *result);

// ---- patching ----

typedef struct zm_patch_report zm_patch_report;

typedef struct zm_patch_options {
  const char *const *patterns; // names; NULL: all
  size_t count;
  const char *const *exclude; // names left out
  size_t exclude_count;
} zm_patch_options;

// Chooses patterns for the model; sessions use them from their next step on. Replaces an earlier choice. An unknown name is an error that
// lists the known ones. options may be NULL (all patterns); report may be NULL, else *report is owned by the caller.
ZM_API zm_status zm_patch(zm_model *m, const zm_patch_options *options, zm_patch_report **report);
// A pattern of your own: wherever the model's graph computes what `replaces` builds, `op` computes it instead. `replaces` is called with
// arrays that stand for the operands and builds one result from them; it is looked for op by op, with operands in the order that it gives
// them. The stock graph rounds each op's result to the model's dtype: a kernel that keeps its bits does so too (the cast T(...) of the
// kernel language).
typedef struct zm_own_pattern {
  const char *name; // for reports
  zm_function replaces;
  void *user;       // for replaces
  int operands;     // 1 to ZM_MAX_OPERANDS
  uint32_t vectors; // bit i: operand i is a vector [last dimension of the result]; other operands have the result's shape
  const zm_op *op;  // takes the operands in the same order and gives the same result
} zm_own_pattern;
// Sets the model's own patterns (count 0: none); they are tried before those of zm_patch, which stay as chosen. Names are copied; ops,
// functions and users must outlive their use: until zm_unpatch, another call, or the end of the model. report as in zm_patch.
ZM_API zm_status zm_patch_with(zm_model *m, const zm_own_pattern *patterns, size_t count, zm_patch_report **report);
// Back to the stock graph, exactly.
ZM_API zm_status zm_unpatch(zm_model *m);

typedef struct zm_smart_patch_options {
  const char *const *candidates; // NULL: all
  size_t count;
  int32_t rounds;     // ABBA rounds for each pattern; 0: 12
  int32_t tokens;     // decode steps in one timing; 0: 16
  bool measure_again; // do not use what is remembered; what is measured replaces it
  zm_progress_fn progress;
  void *progress_user;
} zm_smart_patch_options;

// Times decoding with and without each pattern, interleaved, checks the logits bit by bit, and keeps a pattern only if its gain is beyond
// the noise (lower end of the 95% interval of the paired ratio above 1). The choice is remembered in the cache folder for this device,
// build, kind of model and request: the next call checks the logits only, and the report's reasons name the file. Where nothing can be
// written, each call measures.
ZM_API zm_status zm_smart_patch(zm_model *m, const zm_smart_patch_options *options, zm_patch_report **report);

typedef struct zm_patch_entry {
  const char *pattern;
  const char *place; // "model.layers.3.mlp"
  bool matched;
  const char *reason;                        // why it was left alone, or what was fused
  double speedup, speedup_low, speedup_high; // decode ratio with its 95% interval; 0 unless zm_smart_patch measured it
} zm_patch_entry;
ZM_API size_t zm_patch_report_size(const zm_patch_report *r);
ZM_API const zm_patch_entry *zm_patch_report_entry(const zm_patch_report *r, size_t i); // NULL if out of range
ZM_API void zm_patch_report_free(zm_patch_report *r);

// The patterns this build knows, in the order in which they are tried.
ZM_API size_t zm_pattern_count(void);
ZM_API const char *zm_pattern_name(size_t i);
ZM_API const char *zm_pattern_summary(size_t i);

#ifdef __cplusplus
}
#endif
#endif
