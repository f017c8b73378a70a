// The array room, as seen by the rooms above it: graph nodes, leaves, the operations that models are written in, graph surgery for
// patterns, and compilation of a graph to a program (tape + arena + player).
#ifndef ZMI_ARRAY_H
#define ZMI_ARRAY_H

#include "kernel/kernel.h"

// ---- nodes and arrays (graph.c) ----
typedef struct zmi_node zmi_node;

typedef enum zmi_leaf {
  ZMI_LEAF_NONE /* made by an op */,
  ZMI_LEAF_DATA /* owns its data */,
  ZMI_LEAF_WEIGHT,
  ZMI_LEAF_INPUT,
  ZMI_LEAF_STATE,
  ZMI_LEAF_PLACEHOLDER /* stands for values to come while a function is traced; its name says by whom */
} zmi_leaf;

typedef struct zmi_there zmi_there; // values in a GPU's memory (on_device.c)

struct zm_array {
  int refs;
  zmi_type type;
  zmi_leaf leaf;
  zmi_node *node; // the op application that makes it; NULL for leaves. An array evaluated inside a trace has both node and data
  int index;      // which output of node
  char *name;     // WEIGHT, INPUT, STATE
  void *data;       // leaves; after evaluation: row-major contiguous values
  zmi_there *there; // the same on a GPU: beside `data`, or instead of it (zmi_fetch)
  bool owns_data;
  bool is_buffer;  // owned data is from zmi_buffer_alloc, of the size of the type
  bool traced;     // depends on what a transform follows: see "traces" below
  zm_scope *scope; // holds one reference while not NULL
  size_t scope_index;
  zm_array *next_dead; // while a release runs
  int64_t mark;        // scratch of graph walks: its slot while a graph is lowered
};

struct zmi_node {
  int refs;
  const zmi_op *op;
  zmi_attrs attrs;
  zmi_owner *owner; // one reference; may be NULL
  int nin, nout;    // of ops of a tape at most ZMI_MAX_IN, ZMI_MAX_OUT; aliases have any number
  zm_array **in;    // NULL = absent optional operand
  zm_array **out;   // not counted; NULL once released
  char *label;      // place in the model
  int64_t mark;
  bool back;       // made by a gradient: see zmi_mark_back
  uint64_t serial; // rises with every node: a node's operands are older than it is, unless a pattern replaced them
  zm_array *places[];
};

// Applies an op: checks operands by its shape rule and makes the outputs (out[0..nout-1], all in the current scope). attrs: the op's
// attribute struct or NULL. An in[i] that is NULL is an absent optional operand: allowed only where op->operands says so; otherwise the
// call fails keeping the first error.
zm_status zmi_apply(const zmi_op *op, const void *attrs, size_t attrs_size, int nin, zm_array *const *in, zm_array **out);
// The same with an owner, of which the node takes a reference of its own.
zm_status zmi_apply_owned(const zmi_op *op, const void *attrs, size_t attrs_size, zmi_owner *owner, int nin, zm_array *const *in,
                          zm_array **out);
// The same for ops with one output.
zm_array *zmi_apply1(const zmi_op *op, const void *attrs, size_t attrs_size, int nin, zm_array *const *in);
// Aliases (ZMI_OP_ALIAS): nodes that stand in graphs only. Output o is operand o, nothing is computed and no tape has them; operands from
// nout on are what transforms need to know of. They carry what a transform must see: where a trace begins, where gradients stop, a
// function with its own gradient.
zm_status zmi_apply_alias(const zmi_op *op, zmi_owner *owner, int nin, zm_array *const *in, int nout, zm_array **out);

// ---- traces (graph.c): for transforms, which follow the arrays that a function makes ----
// Between begin and end (they nest; this thread only) arrays that depend on a traced one keep their graph when they are evaluated.
void zmi_trace_begin(void);
void zmi_trace_end(void);
bool zmi_is_tracing(void);
bool zmi_is_traced(const zm_array *a); // and a trace is going on
// A traced leaf without values; evaluating what depends on it is an error that names `name`.
zm_array *zmi_placeholder(const char *name, const zmi_type *type);
uint64_t zmi_node_serial(void); // of the newest node
// From now on new nodes are (or are not) those of a gradient, which are computed in the order in which they were made. Returns what was.
bool zmi_mark_back(bool back);

// ---- rules of an op: what transforms need to know of it. In the op's own file, named by its row (docs/transforms.md) ----
// Everything they make is graph: rules are written with the operations of zmlx/array.h and the builders below, never with values.
// A rule need not check what builders return: NULL goes on through the next builder, and an error that is set while a rule runs fails it.
typedef struct zmi_rules {
  // given[o]: cotangent of output o, of its type; NULL = zero. wanted[i]: whether operand i's gradient is asked for (floats only). Sets
  // gradient[i], of the operand's type (dtype too), or leaves it NULL = zero: no dependence. All are linear in `given`.
  // vjp NULL: no gradient goes through, and `gradient` below says why in a form "none: results are integers".
  zm_status (*vjp)(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient);
  // tangent[i]: of operand i, of its type; NULL = zero. Sets result[o], of the output's type, or leaves it NULL = zero. jvp NULL: vjp is
  // applied twice, which is right for every vjp made of differentiable ops.
  zm_status (*jvp)(const zmi_node *n, zm_array *const *tangent, zm_array **result);
  // in[i]: the operand, with one more dimension `size` in front where batched[i]; at least one is. Sets every out[o], batched in front.
  // vmap NULL: the op is applied to each slice and the results are stacked.
  zm_status (*vmap)(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out);
  const char *gradient; // for the tables: "all operands", "x", "none: results are integers"
} zmi_rules;

// ---- builders for rules (ops/rules.c). NULL operands give NULL and keep the first error ----
bool zmi_dtype_is_float(zm_dtype dtype);
zm_array *zmi_scalar_like(const zm_array *a, double value); // rank 0, dtype of a: broadcasts without changing dtypes
zm_array *zmi_full_like(const zm_array *a, double value);
zm_array *zmi_sum_to(zm_array *a, const zmi_type *t); // sums over the axes along which shape t was broadcast to a's, dtype of t
zm_array *zmi_move_axis(zm_array *a, int from, int to);
zm_array *zmi_spread(zm_array *reduced, int axis, bool keepdims, const zmi_type *t); // a reduction's result, or its cotangent, again over t
// Output o of n; made once more if nobody kept it.
zm_array *zmi_result(const zmi_node *n, int o);
// The op of n with its attributes and owner, on other operands.
zm_status zmi_reapply(const zmi_node *n, zm_array *const *in, zm_array **out);
// Rules of vmap. An operand that is not batched is broadcast along a new first axis.
zm_array *zmi_batch(zm_array *a, bool batched, int64_t size);
// For ops that treat all places alike, whatever the shape.
zm_status zmi_vmap_elementwise(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out);
// For ops whose results have a first axis of independent rows, like those operands whose bit is set in `rows`: the batch becomes more
// rows. Batches of other operands go slice by slice.
zm_status zmi_vmap_rows(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, unsigned rows, zm_array **out);
// Slice by slice, then stacked: right for every op, what is done where a row has no rule.
zm_status zmi_vmap_slices(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out);
// vmap of ops that update a state in place: refused with the reason.
zm_status zmi_vmap_refused(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out);

// Label given to nodes made from now on in the current scope ("model.layers.3.mlp"); NULL ends it.
zm_status zmi_set_label(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Leaves. Memory is borrowed and must outlive every program that uses it. data may be NULL for programs that are only printed or planned.
zm_array *zmi_weight(const char *name, const zmi_type *type, const void *data);
zm_array *zmi_state(const char *name, const zmi_type *type, void *data);
zm_array *zmi_input(const char *name, const zmi_type *type);

// A leaf that owns `data` (from zmi_malloc), row-major contiguous; on failure the data stays the caller's.
zm_array *zmi_data_leaf(const zmi_type *type, void *data);
// The same with data from zmi_buffer_alloc: the better choice, as large memory is used again.
zm_array *zmi_buffer_leaf(const zmi_type *type, void *data);
// What a play gives: values in memory of the host, from zmi_buffer_alloc, on a GPU, or both.
typedef struct zmi_values {
  void *data;
  zmi_there *there;
} zmi_values;
zm_array *zmi_values_leaf(const zmi_type *type, zmi_values v); // as zmi_buffer_leaf
void zmi_values_free(zmi_values v, size_t bytes);
// After evaluation: the array owns the values and forgets the graph behind it (later, if it is traced).
void zmi_array_settle(zm_array *a, zmi_values v);
static inline bool zmi_has_values(const zm_array *a) {
  return a->data || a->there;
}
void zmi_array_forget(zm_array *a); // the graph behind an array that has data

zm_array *zmi_array_retain(zm_array *a);
void zmi_array_release(zm_array *a);

// ---- the op table (ops.c): one row an op ----
const zmi_op *zmi_op_find(const char *name); // NULL if unknown
size_t zmi_op_count(void);
const zmi_op *zmi_op_at(size_t i);

// ---- operations of models (ops/*.c). Shapes: R rows of a step, D hidden, H heads, S chosen experts of a row ----
// A weight matrix as an operand: a WEIGHT array uint8 [bytes] in the packed form of quant.h, experts one after another.
typedef struct zmi_matrix {
  zm_array *packed;
  zm_array *bias; // [n] or [experts, n], any float dtype; NULL = none
  zmi_format format;
  int64_t n, k, experts; // experts: 1 for plain matrices
} zmi_matrix;

// ids int32 [R] -> [R, k] of dtype; an id out of range gives zeros
zm_array *zmi_embed(const zmi_matrix *table, zm_array *ids, zm_dtype dtype);
// [R, K] -> [R, N], dtype of x
zm_array *zmi_linear(const zmi_matrix *w, zm_array *x);
// x [R, K] or [R, S, K], experts int32 [R, S] -> [R, S, N]
zm_array *zmi_gather_linear(const zmi_matrix *w, zm_array *x, zm_array *experts);
// over the last axis
zm_array *zmi_rms_norm(zm_array *x, zm_array *weight, double eps);
// cos and sin [R, F] float32 of position * inv_freq; positions int32 [R], inv_freq float32 [F] weight
zm_status zmi_rope_table(zm_array *positions, zm_array *inv_freq, zm_array **cosine, zm_array **sine);
zm_array *zmi_rope(zm_array *x, zm_array *cosine, zm_array *sine, bool traditional); // x [R, H, D]; rotates the first 2F of D
// Key cache state [sequences, H, blocks, D/2, 16, 2]; value cache state [sequences, H, context, D]; context = 16 * blocks. position,
// sequence int32 [R].
zm_array *zmi_write_keys(zm_array *cache, zm_array *keys, zm_array *position, zm_array *sequence); // keys [R, H, D] -> the updated state
zm_array *zmi_write_values(zm_array *cache, zm_array *values, zm_array *position, zm_array *sequence);
// q [R, Hq, D] -> [R, Hq, D]; causal
zm_array *zmi_attention(zm_array *q, zm_array *keys, zm_array *values, zm_array *position, zm_array *sequence, double scale);
// Depthwise causal convolution: x [R, D], weight [D, L], bias [D] or NULL, state [sequences, L-1, D] (the last inputs, oldest first).
zm_status zmi_short_conv(zm_array *x, zm_array *weight, zm_array *bias, zm_array *state, zm_array *position, zm_array *sequence,
                         zm_array **y, zm_array **new_state);
typedef enum zmi_route_kind {
  ZMI_ROUTE_SOFTMAX, // p = softmax over all experts, rounded to the dtype; choose by p; weights p, divided by their sum if norm
  ZMI_ROUTE_SIGMOID  // p = sigmoid(logits) rounded to the dtype; choose by float32(p) + bias; weights p, / (sum + eps) if norm, * scale
} zmi_route_kind;
typedef struct zmi_route_attrs {
  int64_t kind, top_k, norm;
  double eps, scale;
} zmi_route_attrs;
// logits [R, E], bias float32 [E] or NULL -> experts int32 [R, S] in falling order of score (ties: lowest index), weights [R, S] in the
// dtype of logits
zm_status zmi_route(zm_array *logits, zm_array *bias, const zmi_route_attrs *attrs, zm_array **experts, zm_array **weights);
zm_array *zmi_combine(zm_array *y, zm_array *weights); // [R, S, D], [R, S] -> [R, D]: float32 fma in order of S, rounded once

// ---- kernels as operations (ops/kernel*.c): nodes of kernel_elements, kernel_rows, kernel_tiles ----
// The code of such a node; NULL of others.
const zmi_code *zmi_node_code(const zmi_node *n);
const double *zmi_node_params(const zmi_node *n); // of such a node
// Applies typed code of the form ELEMENTS or ROWS to operands whose shapes are as it wants them: one shape, without its last axis where the
// code says in_per_row.
zm_status zmi_apply_code(const zmi_code *code, int nin, zm_array *const *in, const double *params, zm_array **out);

// ---- graph surgery (rewrite.c): what patterns work on ----
typedef struct zmi_graph {
  zmi_node **nodes; // in an order in which inputs come before users
  size_t count, capacity;
  zm_array **outputs; // counted references
  size_t output_count;
} zmi_graph;
zmi_graph *zmi_graph_collect(zm_array *const *outputs, size_t count);
void zmi_graph_free(zmi_graph *g);
zm_status zmi_graph_refresh(zmi_graph *g); // recomputes nodes after replacements
// Nodes that read a (each once); being an output counts as one more, with no node. Returns their number, fills the first `limit`.
size_t zmi_graph_users(const zmi_graph *g, const zm_array *a, zmi_node **users, size_t limit);
// Every reader of old (and the outputs) reads replacement instead.
zm_status zmi_graph_replace(zmi_graph *g, zm_array *old, zm_array *replacement);

// Elementwise operations that belong together become one kernel each; no bit changes (fuse_chains.c). Refreshes the graph.
zm_status zmi_fuse_elementwise(zmi_graph *g);

// ---- programs (compile.c) ----
typedef struct zmi_program zmi_program;
typedef struct zmi_compile_options {
  const zmi_kernels *kernels;                         // NULL: the best tier
  zm_status (*rewrite)(void *user, zmi_graph *graph); // patterns; may be NULL
  void *user;
  zmi_cuda *gpu;          // the device that plays it; NULL: the CPU
  zmi_executor executor;  // of a GPU
  bool plan_only; // no arena, not playable: for printing and for memory plans
  // Results go to buffers of their own, which are handed over after a play, and INPUT slots are given addresses: nothing is copied, and
  // between plays the program holds no memory but its tape. See zmi_program_begin.
  bool apart;
  bool there; // and played where arrays are on a GPU: see on_device.c. Slots know their arrays
} zmi_compile_options;
// Lowers the graph of `outputs` (named names[i]) to a planned tape. Arrays may be released afterwards; leaf memory must stay.
zmi_program *zmi_compile(zm_array *const *outputs, const char *const *names, size_t count, const zmi_compile_options *options);
void zmi_program_free(zmi_program *p);
zmi_tape *zmi_program_tape(zmi_program *p);
void *zmi_program_slot(zmi_program *p, const char *name); // address of an INPUT, OUTPUT or STATE slot; NULL if there is none
zm_status zmi_program_play(zmi_program *p, zmi_pool *pool); // fails on a GPU only
zmi_device_player *zmi_program_gpu(zmi_program *p);         // NULL on the CPU
zmi_player *zmi_program_player(zmi_program *p);
// Programs that were compiled with `apart`, for each play: feed, begin, play, take, end.
zm_status zmi_program_feed(zmi_program *p, const char *name, const void *data); // the address of an INPUT slot
zm_status zmi_program_begin(zmi_program *p);                                    // gets memory, binds
void *zmi_program_take(zmi_program *p, size_t output); // data of output i, from zmi_buffer_alloc; NULL if it was taken already
zmi_values zmi_program_values(zmi_program *p, size_t output); // the same, wherever it was played
void zmi_program_end(zmi_program *p);                  // gives back the arena and results that nobody took

// ---- sources of users' kernels (author.c) ----
// zm_op_source(), `full` or without the functions that the source calls.
struct zm_op;
char *zmi_op_source(const struct zm_op *op, const zm_dtype *dtypes, int nin, const char *target, bool full);
struct zmi_code *zmi_op_code(const struct zm_op *op, const zm_dtype *dtypes); // of as many operands as the op has; zmi_code_free() it

// ---- the default device (eval.c): made at its first use, kept until the process ends ----
zm_status zmi_device(zmi_pool **pool, const zmi_kernels **kernels);
// Evaluates arrays without a tape if what is behind them is small (direct.c). False: it is not, and nothing was done.
bool zmi_evaluate_directly(zm_array **wanted, size_t count, const zmi_kernels *kernels, zm_status *status);

// ---- arrays on a GPU (on_device.c, on_device_play.c) ----
bool zmi_on_device(void); // whether arrays are evaluated there: zm_set_device
// Brings values to the host: a->data is set then.
zm_status zmi_fetch(zm_array *a);
void zmi_there_free(zmi_there *t); // NULL is ignored
// Plays a tape that was lowered for it. results[i]: of slot outputs[i]; on failure there are none, and all arrays are as they were.
zm_status zmi_play_there(const zmi_tape *t, const int *outputs, size_t count, zmi_pool *pool, const zmi_kernels *kernels,
                         zmi_values *results);
void zmi_device_release(void); // gives the GPU back; values that are there alone are lost. For tests
// The kernel of a tile or raw node can be run by the CPU; else a message.
zm_status zmi_kernel_require(const zmi_op *op, zmi_owner *owner);

// ---- safetensors (safetensors.c) ----
typedef struct zmi_tensor {
  const char *name;
  zm_dtype dtype; // F8 types are uint8
  int rank;
  int64_t shape[ZM_MAX_RANK];
  const uint8_t *data; // into the mapping; any alignment
  size_t bytes;
  int file; // index of the mapped file
} zmi_tensor;
typedef struct zmi_tensors zmi_tensors;
// Opens one .safetensors file, or a folder (model.safetensors, or the shards that model.safetensors.index.json names, all of which must be
// there). Header checks: sizes, overlaps, overflow, duplicates, dtype and shape against byte counts.
zmi_tensors *zmi_tensors_open(const char *path);
void zmi_tensors_close(zmi_tensors *t);
size_t zmi_tensors_count(const zmi_tensors *t);
const zmi_tensor *zmi_tensors_at(const zmi_tensors *t, size_t i);           // in order of name
const zmi_tensor *zmi_tensors_find(const zmi_tensors *t, const char *name); // NULL if there is none (no error set)
const char *zmi_tensors_path(const zmi_tensors *t, int file);               // of a mapped file, for messages; "" if there is none
void zmi_tensors_drop(const zmi_tensors *t, const zmi_tensor *tensor);      // its pages need not stay in memory
// Parses one header in memory (for tests and fuzzing): the whole file's bytes.
zmi_tensors *zmi_tensors_parse(const uint8_t *data, size_t size, const char *name);
// Writes a file (published by rename): add tensors' headers first, then data in the same order.
typedef struct zmi_tensors_writer zmi_tensors_writer;
zmi_tensors_writer *zmi_tensors_writer_open(const char *path, size_t count,
                                            const zmi_tensor *tensors); // data pointers ignored; metadata {"format":"mlx"}
zm_status zmi_tensors_writer_write(zmi_tensors_writer *w, const void *data, size_t size); // bytes of the tensors one after another
zm_status zmi_tensors_writer_publish(zmi_tensors_writer *w);                              // frees w; fails if bytes are missing
void zmi_tensors_writer_abandon(zmi_tensors_writer *w);

// The row functions that the ops of this room and the fused ops of the patch room are made of.
#include "array/kernels.h"

#endif
