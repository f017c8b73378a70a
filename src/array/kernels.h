// Row computations of the operations of models, on the kernels of the CPU tier in use. The ops of array/ops and the fused ops of the patch
// room are made of the same functions: that is why patching keeps every bit.
//
// Nothing here looks at more than the rows that it is given, and no result depends on how tiles are cut or on who computes them.
#ifndef ZMI_ARRAY_KERNELS_H
#define ZMI_ARRAY_KERNELS_H

#include "array/array.h"

// ---- shape rules (ops/check.c). Messages lack the op's name: the caller of the rule puts it in front ----
// The number of operands, the first `least` of which must be there. First thing in a rule: it makes in[0..least) safe to read.
zm_status zmi_want_operands(int nin, const zmi_type *in, int least, int most);
// form says what the dims are, for the message: "[rows, hidden]".
zm_status zmi_want_rank(const char *operand, const zmi_type *t, int rank, const char *form);
zm_status zmi_want_dtype(const char *operand, const zmi_type *t, zm_dtype dtype);
zm_status zmi_want_float(const char *operand, const zmi_type *t);
zm_status zmi_want_dim(const char *operand, const zmi_type *t, int axis, int64_t expected, const char *meaning);
// An int32 [rows] operand.
zm_status zmi_want_index(const char *operand, const zmi_type *t, int64_t rows);
bool zmi_absent(const zmi_type *types, int nin, int i);

// ---- attributes of matrices ----
extern const char *const zmi_mode_words[]; // names of zmi_quant_mode
extern const char *const zmi_dtype_words[];
// clang-format off
// Five fields of a zmi_format member of an attribute struct, each name with a prefix.
#define ZMI_FORMAT_FIELDS(prefix, type, member)                                      \
  {prefix "mode", ZMI_FIELD_WORD, offsetof(type, member.mode), zmi_mode_words},      \
  {prefix "bits", ZMI_FIELD_INT, offsetof(type, member.bits), NULL},                 \
  {prefix "group", ZMI_FIELD_INT, offsetof(type, member.group), NULL},               \
  {prefix "dtype", ZMI_FIELD_WORD, offsetof(type, member.dtype), zmi_dtype_words},   \
  {prefix "digits", ZMI_FIELD_INT, offsetof(type, member.digits), NULL}
// Eight fields of a zmi_matrix_attrs member.
#define ZMI_MATRIX_FIELDS(prefix, type, member)                                      \
  ZMI_FORMAT_FIELDS(prefix, type, member.format),                                    \
  {prefix "n", ZMI_FIELD_INT, offsetof(type, member.n), NULL},                       \
  {prefix "k", ZMI_FIELD_INT, offsetof(type, member.k), NULL},                       \
  {prefix "experts", ZMI_FIELD_INT, offsetof(type, member.experts), NULL}
// clang-format on

// A packed matrix as an attribute: `experts` matrices [n, k] one after another.
typedef struct zmi_matrix_attrs {
  zmi_format format;
  int64_t n, k, experts;
} zmi_matrix_attrs;
zmi_matrix_attrs zmi_matrix_attrs_of(const zmi_matrix *m);
// Checks the attributes, the packed bytes and the bias (operands `weight` and `bias` of the types; bias may be absent).
zm_status zmi_want_matrix(const zmi_matrix_attrs *m, int nin, const zmi_type *in, int weight, int bias);

// ---- scratch ----
static inline size_t zmi_align64(size_t bytes) {
  return (bytes + 63) & ~(size_t)63;
}
// Rows shared out to at most ZMI_LANES_MAX tiles, so that tiles can have buffers of their own in little scratch.
enum { ZMI_LANES_MAX = 64 };
static inline int64_t zmi_lane_count(int64_t rows) {
  return rows < ZMI_LANES_MAX ? rows : ZMI_LANES_MAX;
}
static inline int64_t zmi_lane_begin(int64_t rows, int64_t lane) { // up to zmi_lane_begin(rows, lane + 1)
  return rows * lane / zmi_lane_count(rows);
}

// ---- rows made ready for the dot kernels (ops/dot.c) ----
enum { ZMI_PIECE = 512 }; // k of one piece of a row, made ready by one tile; a multiple of every group size
typedef struct zmi_ready {
  int64_t k;
  int64_t group;  // above 0: digits of that group size; 0: float rows
  int digits;     // of an element: 3 or 1
  zm_dtype dtype; // of float rows
  bool direct;    // rows of x can be used as they are
  size_t bytes;   // of one row made ready, a multiple of 64
} zmi_ready;
zmi_ready zmi_ready_of(const zmi_format *f, zm_dtype x, int64_t k);
bool zmi_ready_same(const zmi_ready *a, const zmi_ready *b); // rows made ready for one serve the other
static inline int64_t zmi_ready_pieces(const zmi_ready *f) {
  return (f->k + ZMI_PIECE - 1) / ZMI_PIECE;
}
// Piece `piece` of the row that starts at x (dtype), or of which the piece's values are given, to the row at `ready`.
void zmi_ready_piece(const zmi_kernels *kn, const zmi_ready *f, int64_t piece, const void *x, zm_dtype dtype, void *ready);
void zmi_ready_values(const zmi_kernels *kn, const zmi_ready *f, int64_t piece, const float *values, void *ready);
// Tiles [begin, end) of rows * pieces: whole rows of x (row after row) made ready.
void zmi_ready_tiles(const zmi_kernels *kn, const zmi_ready *f, const void *x, zm_dtype dtype, void *ready, int64_t begin, int64_t end);

// ---- products with packed matrices (ops/dot.c) ----
typedef struct zmi_weights {
  zmi_format format;
  int64_t n, k, experts, blocks; // blocks of one matrix
  const unsigned char *packed;
  const void *bias; // [experts, n] or NULL
  zm_dtype bias_dtype;
  size_t block_bytes, matrix_bytes;
} zmi_weights;
// Operands `weight` and `bias` of the call.
zmi_weights zmi_weights_of(const zmi_call *c, const zmi_matrix_attrs *m, int weight, int bias);

enum { ZMI_DOT_BLOCKS = 16, ZMI_DOT_VALUES = ZMI_DOT_BLOCKS * ZMI_LANES };
// y[m][0..16 * blocks) = float32 products of count <= ZMI_ROWS ready rows with blocks [first, first + blocks) of an expert, bias added, not
// rounded. blocks <= ZMI_DOT_BLOCKS. Values past n are meaningless.
void zmi_dot_values(const zmi_kernels *kn, const zmi_weights *w, int64_t expert, int64_t first, int64_t blocks, const zmi_ready *f,
                    int count, const void *const *rows, float y[][ZMI_DOT_VALUES]);
// The same rounded to dtype: out[m] is the place of n values.
void zmi_dot_blocks(const zmi_kernels *kn, const zmi_weights *w, int64_t expert, int64_t first, int64_t blocks, const zmi_ready *f,
                    int count, const void *const *rows, void *const *out, zm_dtype dtype);

// Dense rows: ready rows at `ready` (stride bytes apart) times a matrix, to rows of `out`.
typedef struct zmi_rows {
  const zmi_ready *form;
  const void *ready;
  size_t stride; // bytes from one ready row to the next
  int64_t count;
} zmi_rows;
// Blocks that go together over all rows: several rows pass over weights that stay in the second-level cache, few rows stream them.
int64_t zmi_run_blocks(const zmi_weights *w, int64_t rows, int matrices);
int64_t zmi_dense_tiles(const zmi_weights *w, const zmi_rows *rows);
void zmi_dense_run(const zmi_kernels *kn, const zmi_weights *w, const zmi_rows *rows, void *out, size_t out_stride, zm_dtype dtype,
                   int64_t begin, int64_t end);
// The work of dense tiles [begin, end): runs of blocks [first, first + blocks) for rows [row, last), one after another. `matrices` of the
// shape of w are used together.
typedef struct zmi_dense_walk {
  int64_t all, rows, panel, most, next, end;
  int64_t first, blocks, row, last;
} zmi_dense_walk;
zmi_dense_walk zmi_dense_walk_of(const zmi_weights *w, const zmi_rows *rows, int matrices, int64_t begin, int64_t end);
bool zmi_dense_walk_next(zmi_dense_walk *at);

// out[m] = silu(gate row) * (up row) for blocks [first, first + blocks) <= ZMI_DOT_BLOCKS of two matrices of one shape; all four steps are
// rounded to dtype.
void zmi_gated_blocks(const zmi_kernels *kn, const zmi_weights *gate, const zmi_weights *up, int64_t expert, int64_t first, int64_t blocks,
                      const zmi_ready *gate_form, const zmi_ready *up_form, int count, const void *const *gate_rows,
                      const void *const *up_rows, void *const *out, zm_dtype dtype);

// Work on several things at once: part i has `items` items that cost `weight` each. Of the items in their order, tiles [begin, end) of
// `tiles` own [first[i], last[i]) of part i.
typedef struct zmi_part {
  int64_t items, weight;
} zmi_part;
void zmi_share(const zmi_part *parts, int count, int64_t tiles, int64_t begin, int64_t end, int64_t *first, int64_t *last);

// ---- experts (ops/experts.c) ----
// (row, slot) pairs in order of expert, so that each expert's weights are read once. Lives in scratch.
typedef struct zmi_expert_plan {
  int32_t *count;  // [1]: experts that some pair chose, at most `most`
  int32_t *expert; // [most]: rising; -1 first: pairs whose expert is out of range
  int32_t *start;  // [most + 1]: pairs of entry j are pair[start[j] .. start[j + 1])
  int32_t *groups; // [most + 1]: groups of ZMI_ROWS pairs before entry j
  int32_t *pair;   // [pairs]
  int32_t *first;  // [experts + 1]: workspace
  int64_t most, pairs, experts;
} zmi_expert_plan;
size_t zmi_expert_plan_bytes(int64_t experts, int64_t pairs);
zmi_expert_plan zmi_expert_plan_at(void *memory, int64_t experts, int64_t pairs);
void zmi_expert_plan_make(const zmi_expert_plan *p, const int32_t *chosen);
static inline int64_t zmi_expert_tiles(const zmi_expert_plan *p, int64_t blocks) {
  return p->most * blocks;
}
// The work of tiles [begin, end): runs of blocks of one entry of the plan, one after another. Balanced by rows and bytes.
typedef struct zmi_expert_walk {
  const zmi_expert_plan *plan;
  int64_t blocks, entry, first, last; // blocks [first, last) of the entry
  int64_t next, end;
} zmi_expert_walk;
zmi_expert_walk zmi_expert_walk_of(const zmi_expert_plan *p, int64_t blocks, int64_t begin, int64_t end);
bool zmi_expert_walk_next(zmi_expert_walk *w);
// Tiles of a product: ready row of pair p is row p / share; result p at out + p * n.
void zmi_expert_run(const zmi_kernels *kn, const zmi_weights *w, const zmi_expert_plan *p, const zmi_rows *rows, int64_t share, void *out,
                    zm_dtype dtype, int64_t begin, int64_t end);

// ---- attributes of other operations, which patterns read. Those of linear and gather_linear are a zmi_matrix_attrs ----
typedef struct zmi_rms_attrs {
  double eps;
} zmi_rms_attrs;
typedef struct zmi_attention_attrs {
  double scale;
} zmi_attention_attrs;

// Whether operands and results are more than the caches hold, so that results had better not go through them.
bool zmi_streams(const zmi_call *c);
// Copies what was just computed past the caches, where the machine can; zmi_copied_past comes after the last copy of a worker's stage.
void zmi_copy_past(void *to, const void *from, size_t bytes);
void zmi_copied_past(void);
// memcpy for one of many pieces whose places are as they come.
void zmi_copy_piece(void *to, const void *from, size_t bytes);
// Asks for the lines of `bytes` bytes that stand `ahead` bytes behind p, wherever that is.
void zmi_ask_ahead(const void *p, size_t bytes, size_t ahead);

// ---- rows of other operations ----
typedef struct zmi_rope_attrs {
  int64_t traditional;
} zmi_rope_attrs;
enum { ZMI_MAX_HEAD = 1024 }; // most elements of an attention head
// x float32 [dim]: the first 2 * turned are rotated, then all rounded to dst.
void zmi_rope_head(const zmi_kernels *kn, float *x, int64_t dim, int64_t turned, bool traditional, const float *cosine, const float *sine,
                   void *dst, zm_dtype dtype);

// A row normalized and rounded; w float32 [n], work float32 [n] (may be where float32 dst is).
void zmi_rms_row(const zmi_kernels *kn, const void *x, zm_dtype dtype, const float *w, int64_t n, float eps, float *work, void *dst);

// gate[i] = silu(gate[i]) * up[i] for values already rounded to dtype; both steps are rounded to dtype. In float32.
void zmi_swiglu_values(const zmi_kernels *kn, float *gate, const float *up, int64_t n, zm_dtype dtype);

// ---- routers (ops/route.c) ----
// The k largest of n <= INT32_MAX numbers in falling order, NaN below everything, the lowest index among equals (zeros of either sign are).
// best [k]; the index of an entry of it.
void zmi_largest(const float *x, int64_t n, int64_t k, uint64_t *best);
static inline uint32_t zmi_largest_index(uint64_t entry) {
  return ~(uint32_t)entry;
}
enum { ZMI_ROUTE_CHOSEN = ZMI_ROUTE_SIGMOID + 1 }; // a kind that the catalog has: p = logits, weights = softmax of the chosen
// What a router does with a row of logits: the op route of models, the fused op with a router, the routers of the catalog.
typedef struct zmi_route_rule {
  int64_t kind;               // zmi_route_kind or ZMI_ROUTE_CHOSEN
  int64_t k;                  // experts that are chosen, from the top_groups best of `groups` groups
  int64_t groups, top_groups; // 1 and 1: from all
  bool rounds;                // p is rounded to the dtype of the logits
  bool weighs_bias;           // the bias is part of the weights
  bool norm;                  // weights are divided by their sum + eps
  float eps, scale;
} zmi_route_rule;
zmi_route_rule zmi_route_rule_of(const zmi_route_attrs *a);
// work: zmi_route_work bytes, aligned to 64. weights [k] of dtype `to`.
void zmi_route_row(const zmi_kernels *kn, const zmi_route_rule *r, const void *logits, zm_dtype dtype, int64_t experts, const float *bias,
                   void *work, int32_t *chosen, void *weights, zm_dtype to);
size_t zmi_route_work(const zmi_route_rule *r, int64_t experts);
zm_status zmi_want_route(const zmi_route_attrs *a, int64_t experts);

enum { ZMI_COMBINE = 512, ZMI_COMBINE_MOST = 2048 }; // elements of one tile of combine; most that a piece may have
// dst[0..n) = sum over s of weights[s] * y[s * stride .. + n); y, weights and dst each of its dtype. past: zmi_streams.
void zmi_combine_piece(const zmi_kernels *kn, const void *y, zm_dtype dtype, int64_t stride, const void *weights, zm_dtype weight_dtype,
                       int64_t slots, int64_t n, void *dst, zm_dtype to, bool past);

// ---- attention (ops/attention.c, ops/kv_write.c) ----
// What some ranges of one query head came to: a maximum, a sum of exponentials and un-normalized values [dim]. ranges: in decoding, how
// many are joined in the first one's.
typedef struct zmi_partial {
  float max, sum;
  int64_t ranges;
  float unused[12];
  float values[];
} zmi_partial;
static inline size_t zmi_partial_bytes(int64_t dim) {
  return zmi_align64(sizeof(zmi_partial) + (size_t)dim * sizeof(float));
}
void zmi_partial_join(const zmi_kernels *kn, int64_t dim, zmi_partial *a, const zmi_partial *b); // a = a joined with b, which follows
void zmi_partial_finish(const zmi_kernels *kn, int64_t dim, zmi_partial *a, void *dst, zm_dtype dtype);
typedef struct zmi_heads {
  const zmi_kernels *kernels;
  zm_dtype dtype;
  int64_t rows, heads, kv_heads, dim, context, sequences;
  const int32_t *position, *sequence;
  const void *q;
  void *keys, *values;               // caches; written by zmi_keys_run and zmi_values_run only
  const void *new_keys, *new_values; // [rows, kv_heads, dim]
  void *out;
  float scale;
} zmi_heads;
// Writes keys or values of heads [begin, end) of kv_heads.
void zmi_keys_run(const zmi_heads *h, int64_t begin, int64_t end);
void zmi_values_run(const zmi_heads *h, int64_t begin, int64_t end);
size_t zmi_attention_scratch(const zmi_heads *h);
int64_t zmi_attention_tiles(const zmi_heads *h);
void zmi_attention_run(const zmi_heads *h, void *scratch, int64_t begin, int64_t end);
int64_t zmi_attention_finish_tiles(const zmi_heads *h);
void zmi_attention_finish(const zmi_heads *h, void *scratch, int64_t begin, int64_t end);
zm_status zmi_want_attention(const zmi_type *q, const zmi_type *keys, const zmi_type *values);
zm_status zmi_want_cache(const char *operand, const zmi_type *t, bool keys);
zm_status zmi_want_head_dtype(const char *operand, const zmi_type *t);

// ---- short convolution (ops/short_conv.c) ----
enum { ZMI_CONV_CHANNELS = 64, ZMI_CONV_TAPS = 64 }; // channels of one tile; most taps
typedef struct zmi_conv {
  const zmi_kernels *kernels;
  zm_dtype dtype, weight_dtype, bias_dtype;
  int64_t rows, channels, taps, sequences;
  const void *x;      // [rows, channels]
  const void *weight; // [channels, taps]
  const void *bias;   // or NULL
  void *state;        // [sequences, taps - 1, channels]
  const int32_t *position, *sequence;
  void *y; // [rows, channels]
} zmi_conv;
// Channels [first, first + n) of all rows, n <= ZMI_CONV_CHANNELS; updates the state.
void zmi_conv_channels(const zmi_conv *v, int64_t first, int64_t n);
zm_status zmi_want_conv(const zmi_type *x, const zmi_type *weight, const zmi_type *bias, const zmi_type *state);

// ---- what ops are on a GPU (ops/device.c) ----
// Rows of activations on the device: floats, or digits once they are made ready for a matrix.
typedef struct zmi_device_rows {
  zmi_gpu_address at;
  int64_t count, k, bytes; // bytes: from row to row
  zm_dtype dtype;          // of floats
  int group, digits;       // 0: floats
} zmi_device_rows;
zmi_gpu_matrix zmi_device_matrix(const zmi_call *c, const zmi_matrix_attrs *m, int weight, int bias); // operands; bias -1: none
zmi_device_rows zmi_device_rows_of(zmi_gpu_address x, int64_t rows, int64_t k, zm_dtype dtype);       // contiguous
// Each adds an instruction or two; flags: ZMI_GPU_TOGETHER. ready: rows become what the matrix takes. dot: row r serves pairs r * share and
// following; out [pairs, n] of dtype.
zm_status zmi_device_ready(zmi_device_code *code, const zmi_gpu_matrix *m, zmi_device_rows *rows, int flags);
zm_status zmi_device_dot(zmi_device_code *code, const zmi_gpu_matrix *m, const zmi_device_rows *rows, zmi_gpu_address chosen, int64_t share,
                         zmi_gpu_address out, zm_dtype dtype, int flags);
// One x for several matrices: rows[i] is what matrix i takes, made once for all that take the same.
zm_status zmi_device_forms(zmi_device_code *code, zmi_device_rows x, int count, const zmi_gpu_matrix *const *matrices,
                           zmi_device_rows *rows);
zm_status zmi_device_gated(zmi_device_code *code, zmi_gpu_address gate, zmi_gpu_address up, int64_t rows, int64_t cols, zm_dtype dtype);
// a * b tiles of a kind, whose operands are set.
zm_status zmi_device_instruction(zmi_device_code *code, zmi_gpu_instruction *in, zmi_gpu_kind kind, int64_t a, int64_t b, int flags);
// What types and attributes say of an attention; addresses follow.
zmi_gpu_attention zmi_device_heads(const zmi_type *q, const zmi_type *values, const zmi_attention_attrs *a);
zm_status zmi_device_norm(zmi_device_code *code, const zmi_gpu_norm *n, int flags);
zm_status zmi_device_elements(zmi_device_code *code, const zmi_gpu_elements *e, int flags);
zm_status zmi_device_rotate(zmi_device_code *code, const zmi_gpu_rotate *r, int flags);
zm_status zmi_device_write(zmi_device_code *code, const zmi_gpu_write *w, int flags);
zm_status zmi_device_attention(zmi_device_code *code, const zmi_gpu_attention *a); // ranges, split and partial are set here
zm_status zmi_device_route(zmi_device_code *code, const zmi_gpu_route *r, int flags);
zm_status zmi_device_combine(zmi_device_code *code, const zmi_gpu_combine *m, int flags);
zm_status zmi_device_conv(zmi_device_code *code, const zmi_gpu_conv *v, int flags);
// Of the ops by name, for their rows.
zm_status zmi_linear_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_gather_linear_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_rms_norm_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_rope_table_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_rope_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_write_keys_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_write_values_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_attention_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_route_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_combine_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_short_conv_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_take_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_copy_device(const zmi_call *c, zmi_device_code *code);
zm_status zmi_device_copy_slot(zmi_device_code *code, const zmi_slot *s, const void *from, zmi_gpu_address to); // made contiguous
zm_status zmi_element_device(const zmi_call *c, zmi_device_code *code);

static inline void *zmi_at(const void *base, zm_dtype dtype, int64_t index) {
  return (char *)(uintptr_t)base + index * (int64_t)zm_dtype_size(dtype);
}

#endif
