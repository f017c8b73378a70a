// The models room: configurations, checkpoints, families. What the rooms above see of a model: programs for any number of rows, the states
// that a session gives memory to, plans before loading, and random checkpoints.
//
// A family (llama.c, qwen3.c, ...) describes its graph once. The same description loads a checkpoint, counts its memory, lists its states
// and makes random checkpoints, because it asks a source for each weight by name and shape (build.h).
#ifndef ZMI_MODELS_H
#define ZMI_MODELS_H

#include "patch/patch.h"
#include <zmlx/model.h>

// ---- states: caches, owned by a session ----
enum { ZMI_STATE_NAME = 96 };
typedef struct zmi_state_slot {
  char name[ZMI_STATE_NAME]; // "model.layers.2.self_attn.keys"
  zmi_type type;
  void *data; // given by the session, on a GPU an address there: zmi_type_bytes(&type) bytes, 64-byte aligned
} zmi_state_slot;

typedef struct zmi_state_set {
  zmi_state_slot *slots;
  size_t count, capacity;
  int32_t sequences, context; // context: positions of each sequence, a multiple of ZMI_KEY_BLOCK
} zmi_state_set;

// Lists the states of `sequences` sequences of `context` positions (rounded up to a multiple of ZMI_KEY_BLOCK); data is NULL. *set is
// released by zmi_state_set_release (which leaves data alone).
zm_status zmi_model_states(zm_model *m, int32_t sequences, int32_t context, zmi_state_set *set);
void zmi_state_set_release(zmi_state_set *set);
bool zmi_state_set_bytes(const zmi_state_set *set, size_t *bytes); // each slot rounded up to 64; false on overflow

// ---- programs ----
typedef struct zmi_model_program_options {
  bool stock;              // leave the model's patterns out
  bool plan_only;          // not playable: for printing and planning; states may be NULL then (one sequence of 4,096 positions)
  zm_patch_report *report; // told about each place of each pattern; may be NULL
} zmi_model_program_options;

// The program of one step of `rows` rows, of which `selected` get logits (0 <= selected <= rows).
// Inputs, int32: "tokens" [rows], "position" [rows], "sequence" [rows] (rows of one sequence stand together, positions rising by one) and,
// if selected > 0, "select" [selected]: the rows whose logits are wanted.
// Output: "logits" [selected, vocab] in the model's dtype (zmi_model_dtype), or "hidden" [rows, hidden] if selected is 0.
// options may be NULL. The program borrows the memory of the model and of the states. Callers hold the model's lock.
zmi_program *zmi_model_compile(zm_model *m, int32_t rows, int32_t selected, const zmi_state_set *states,
                               const zmi_model_program_options *options);

// ---- facts ----
// The chosen patterns. A cache of programs may be keyed by them: equal patterns, rows and states give equal programs.
zmi_patterns zmi_model_patterns(const zm_model *m);
uint64_t zmi_model_own_version(const zm_model *m); // changes with the patterns behind ZMI_PATTERNS_OWN
// Sets the choice directly (zm_patch, zm_unpatch and zm_smart_patch end here). Takes the lock.
void zmi_model_set_patterns(zm_model *m, zmi_patterns patterns);

// One thread at a time: everything that compiles or plays a program of the model happens between these two. Not recursive.
void zmi_model_lock(zm_model *m);
void zmi_model_unlock(zm_model *m);

zmi_pool *zmi_model_pool(const zm_model *m);
const zmi_kernels *zmi_model_kernels(const zm_model *m);
zmi_cuda *zmi_model_gpu(const zm_model *m);        // NULL: the CPU plays
const char *zmi_model_executor(const zm_model *m); // as it was asked for: "auto", "stream", "graph", "persistent"
zm_dtype zmi_model_dtype(const zm_model *m);       // of activations, caches and logits
int32_t zmi_model_vocab(const zm_model *m);
int32_t zmi_model_context(const zm_model *m); // the longest that the checkpoint was made for
const char *zmi_model_path(const zm_model *m);

// A slot for the lm room's tokenizer: *slot starts as NULL; zm_model_close calls release(*slot) if both are set.
void **zmi_model_text(zm_model *m, void (*release)(void *));

// ---- plans (plan.c) ----
typedef struct zmi_model_plan_request {
  int32_t context;   // 0: the smaller of 4096 and what the model allows
  int32_t sequences; // 0: 1
  int32_t chunk;     // 0: 128
  zm_dtype dtype;    // 0: as the checkpoint says
} zmi_model_plan_request;

typedef struct zmi_model_plan {
  char family[32];
  char quantization[64];
  zm_dtype dtype;
  int32_t layers, hidden, vocab, context, sequences, chunk;
  int32_t model_context;     // the longest that the checkpoint was made for
  uint64_t file_bytes;       // tensors of the checkpoint (0 if there are none yet: config.json alone)
  uint64_t weight_bytes;     // packed weights
  uint64_t bytes_per_token;  // weight bytes that decoding one token reads
  double products_per_token; // multiply-adds of a prompt's token with quantized weights that take activations as digits, but the head
  uint64_t cache_bytes;      // key/value caches and other states of all sequences
  uint64_t cache_bytes_per_token;
  uint64_t scratch_bytes; // arenas of the decode program and of the prompt program
  uint64_t load_bytes;    // the most that loading needs beside the weights
  uint64_t total_bytes;   // peak: weights + the larger of loading and (cache + scratch)
} zmi_model_plan;

const zmi_model_plan *zmi_model_plan_of(const zm_model *m); // the plan it was opened by

// Plans a checkpoint folder, or a folder with config.json alone, without loading weights. request may be NULL.
zm_status zmi_model_plan_path(const char *path, const zmi_model_plan_request *request, zmi_model_plan *plan);
// Fails if the plan needs more than `limit` bytes (0: what the machine has now), saying by how much.
zm_status zmi_model_plan_check(const zmi_model_plan *plan, uint64_t limit);

// ---- random checkpoints (synth.c) ----
// Writes a checkpoint of the shapes of config_folder/config.json to the new folder out_folder: config.json, safetensors shards below 5 GB
// and their index. The bytes depend on seed and configuration only. progress may be NULL.
zm_status zmi_synth(const char *config_folder, const char *out_folder, uint64_t seed, zm_progress_fn progress, void *user);

// ---- families (families.c), for help texts ----
size_t zmi_family_count(void);
const char *zmi_family_name(size_t i);

#endif
