// The op table's declarations and what the files of ops/ share. A new op is one file with a row `const zmi_op zmi_op_<name>` and one
// entry of ZMI_OP_LIST.
#ifndef ZMI_OPS_H
#define ZMI_OPS_H

#include "array/array.h"

// clang-format off
#define ZMI_OP_LIST(X)                                                                                                \
  /* operations of models */                                                                                          \
  X(embed) X(linear) X(gather_linear) X(rms_norm) X(rope_table) X(rope) X(write_keys) X(write_values) X(attention)    \
  X(short_conv) X(route) X(combine)                                                                                   \
  /* shapes and memory: views.c, copy.c, join.c, take.c, fill.c */                                                    \
  X(reshape) X(transpose) X(broadcast_to) X(slice) X(copy) X(concatenate) X(take) X(arange)                           \
  /* running results, sorting, indices: cumulative.c, linear_scan.c, sort.c, search.c, gather.c, along_axis.c */      \
  X(cumsum) X(cumprod) X(cummax) X(cummin) X(logcumsumexp) X(linear_scan)                                             \
  X(sort) X(argsort) X(partition) X(argpartition) X(topk) X(searchsorted)                                             \
  X(gather) X(scatter) X(take_along_axis) X(put_along_axis) X(slice_at) X(slice_update)                               \
  X(diagonal) X(as_strided) X(view) X(prod) X(var) X(logsumexp) X(argmin) X(any) X(all)                               \
  /* element by element: elementwise.c, cast.c */                                                                     \
  X(add) X(subtract) X(multiply) X(divide) X(maximum) X(minimum)                                                      \
  X(equal) X(not_equal) X(less) X(less_equal) X(greater) X(greater_equal) X(where)                                    \
  X(negative) X(abs) X(exp) X(log) X(sqrt) X(rsqrt) X(sigmoid) X(silu) X(tanh) X(astype)                              \
  X(kernel_elements) X(kernel_rows) X(kernel_tiles)                                                                   \
  X(power) X(remainder) X(floor_divide) X(square) X(reciprocal) X(sign) X(floor) X(ceil) X(round) X(trunc)            \
  X(degrees) X(radians) X(exp2) X(expm1) X(log2) X(log10) X(log1p) X(sin) X(cos) X(tan) X(arcsin) X(arccos)           \
  X(arctan) X(arctan2) X(sinh) X(cosh) X(arcsinh) X(arccosh) X(arctanh) X(erf) X(erfinv) X(softplus) X(logaddexp)     \
  X(isnan) X(isinf) X(isfinite) X(isneginf) X(isposinf) X(logical_and) X(logical_or) X(logical_not)                   \
  X(replace_nonfinite) X(bitwise_and) X(bitwise_or) X(bitwise_xor) X(bitwise_invert) X(left_shift) X(right_shift)     \
  /* along axes: reduce.c, softmax.c, matmul.c */                                                                     \
  X(sum) X(mean) X(max) X(min) X(argmax) X(softmax)                                                                   \
  /* what gradients need besides: place.c, take_add.c, linear_back.c */                                               \
  X(place) X(take_add) X(linear_back)                                                                                 \
  /* symmetric matrices: symmetric.c */                                                                               \
  X(symmetric_root) X(symmetric_solve)                                                                                \
  /* products, convolutions, random numbers, quantization: matmul.c, random.c */                                      \
  X(matmul) X(addmm) X(gather_mm) X(gather_outer) X(conv) X(random_bits)                                                  \
  X(quantize) X(dequantize) X(quantized_matmul) X(to_fp8) X(from_fp8)
// clang-format on

#define X(name) extern const zmi_op zmi_op_##name;
ZMI_OP_LIST(X)
#undef X

// ---- for shape rules (the caller puts the op's name before their messages) ----
// Checks that exactly n operands are there and none is absent.
zm_status zmi_check_operands(int nin, const zmi_type *in, int n);
// Gives the only output.
zm_status zmi_give(int *nout, zmi_type *out, zm_dtype dtype, int rank, const int64_t *shape);
bool zmi_dtype_is_known(int64_t dtype);     // for attributes, which may come from a text
extern const char *const zmi_dtype_words[]; // for ZMI_FIELD_WORD fields that hold a zm_dtype
// Eight fields for an array of ZM_MAX_RANK int64_t: ZMI_FIELDS8("shape", struct, member).
// clang-format off
#define ZMI_FIELDS8(text, type, member)                                                                                      \
  {text "0", ZMI_FIELD_INT, offsetof(type, member), NULL}, {text "1", ZMI_FIELD_INT, offsetof(type, member) + 8, NULL},     \
  {text "2", ZMI_FIELD_INT, offsetof(type, member) + 16, NULL}, {text "3", ZMI_FIELD_INT, offsetof(type, member) + 24, NULL}, \
  {text "4", ZMI_FIELD_INT, offsetof(type, member) + 32, NULL}, {text "5", ZMI_FIELD_INT, offsetof(type, member) + 40, NULL}, \
  {text "6", ZMI_FIELD_INT, offsetof(type, member) + 48, NULL}, {text "7", ZMI_FIELD_INT, offsetof(type, member) + 56, NULL}
// clang-format on

// ---- for builders ----
// False if an array is NULL: keeps the first error, or sets one if there is none.
bool zmi_present(const char *op, int n, zm_array *const *arrays);
// An axis of rank `rank`, negative from the end; false with a message if out of range.
bool zmi_axis(const char *op, int axis, int rank, int *result);
// Elements of [start, stop) of one axis as NumPy reads it: negative numbers count from the end, then both are limited to what is there.
int64_t zmi_slice_range(int64_t size, int64_t *start, int64_t stop, int64_t step);
zm_dtype zmi_at_least_float(zm_dtype dtype); // float32 for bool and integers
// The shape that two shapes broadcast to; false with a message if they do not.
bool zmi_broadcast_shape(const char *op, const zmi_type *a, const zmi_type *b, int *rank, int64_t *shape);

// ---- places of arrays, for rules ----
// The axes of what a is a transpose of, a->node->in[0], in their order in a; NULL if it is none. (views.c)
const int64_t *zmi_transposed(const zm_array *a);
// Elements start[i] + step[i] * j, j < count[i], of each axis: all of them must be there. (views.c)
zm_array *zmi_slice_exactly(zm_array *a, const int64_t *start, const int64_t *step, const int64_t *count);
// Zeros of the shape of `whole` with a at those places: what takes slices back. (place.c)
zm_array *zmi_place(zm_array *a, const zmi_type *whole, const int64_t *start, const int64_t *step);
// Zeros [rows, ...] to whose rows indices[r] the rows of a [indices..., ...] are added in rising order: what takes zm_take back. Indices
// out of range add nothing. (take_add.c)
zm_array *zmi_take_add(zm_array *a, zm_array *indices, int64_t rows);
// Of symmetric float32 matrices [..., n, n]: R with R R = a (negative eigenvalues count as 0), X with r X + X r = g. (symmetric.c)
zm_array *zmi_symmetric_root(zm_array *a);
zm_array *zmi_symmetric_solve(zm_array *r, zm_array *g);
// Indices [size, ...] (batched: they have that axis) into `size` arrays of `rows` rows that lie one after another; -1 for those out of
// range. (take.c)
zm_array *zmi_shift_rows(zm_array *indices, bool batched, int64_t size, int64_t rows);
// ---- for rules ----
zm_array *zmi_matrix_transpose(zm_array *a);      // the last two axes change places
zm_array *zmi_scaled(zm_array *a, double factor); // a * factor, a itself if the factor is 1

// ---- for kernels of ops on a GPU (op_kernel.c) ----
// Code of a source for these dtypes, made at its first need and kept; of bool as uint8. op: whose it is. NULL: it has no such form.
const zmi_code *zmi_op_source_code(const zmi_op *op, const zmi_kernel_text *text, int nin, const zm_dtype *in, int nout,
                                   const zm_dtype *out);
// A reduction of `axis` of the only operand, from x to y by rows (kernel/kernel.h); n: the value of its parameter, if it has one.
bool zmi_reduction_kernel(const zmi_call *c, const char *source, int64_t axis, const char *parameter, double n, zmi_op_kernel *k);

// ---- for stages ----
enum { ZMI_TILE = 4096 }; // elements of one tile of an elementwise op
int64_t zmi_tiles_of(int64_t count, int64_t tile);
// The elementwise tiling: of the elements of the first output.
int64_t zmi_element_tiles(const zmi_call *c);

// Dimensions of a strided operand after those that step together are merged (and those of size 1 dropped): size[0] outermost.
typedef struct zmi_walk {
  int rank;
  int64_t size[ZM_MAX_RANK], stride[ZM_MAX_RANK];
} zmi_walk;
zmi_walk zmi_walk_of(const zmi_slot *slot);
bool zmi_walk_is_contiguous(const zmi_walk *w);
// Copies elements [begin, begin + n) in row-major order to dst. `size` is that of an element: 1, 2, 4 or 8 bytes.
void zmi_gather(const zmi_walk *w, const void *src, size_t size, int64_t begin, int64_t n, void *dst);

// Short rows side by side (turn.c). Whether results of [outer, k, inner] go better in groups of outer indices whose elements stand as
// [k * inner][group]; the size of a group, whose results fit `width` and whose elements fit ZMI_SIDE.
enum { ZMI_SIDE = 4096 };
bool zmi_side_by_side(int64_t outer, int64_t k, int64_t inner);
int64_t zmi_side_rows(int64_t k, int64_t inner, int64_t width);
// to[j * rows + i] = from[i * cols + j], elements of 1, 2, 4 or 8 bytes; floats of any dtype made float32, rows * cols <= ZMI_SIDE.
void zmi_turn(const void *from, size_t size, int64_t rows, int64_t cols, void *to);
void zmi_turn_floats(const zmi_kernels *kernels, const void *from, zm_dtype dtype, int64_t rows, int64_t cols, float *to);
// One result for each column of [k, width] at src: float32 where the operand has floats, else its own dtype. dst [width].
typedef void (*zmi_columns_fn)(void *user, const void *src, int64_t width, void *dst);
// A reduction of groups of outer indices [first, last) of c's operand [outer, k, inner], as columns; results are turned back. width: the
// most columns of a call, of results of at most 8 bytes, <= ZMI_SIDE_COLUMNS.
enum { ZMI_SIDE_COLUMNS = 256 };
void zmi_reduce_side_by_side(const zmi_call *c, int64_t k, int64_t inner, int64_t width, int64_t first, int64_t last, zmi_columns_fn fn,
                             void *user);

// An operand read in row-major order, chunk by chunk.
enum { ZMI_CHUNK = 1024 };
typedef struct zmi_reader {
  zmi_walk walk;
  const char *src;
  size_t size; // of an element
  bool direct; // contiguous: no copies
} zmi_reader;
zmi_reader zmi_reader_of(const zmi_call *c, int operand);
// Elements [begin, begin + n), n <= ZMI_CHUNK: where they are, or copied to `buffer` of ZMI_CHUNK * 8 bytes.
const void *zmi_read(const zmi_reader *r, int64_t begin, int64_t n, void *buffer);

// The elements of a call whose operands all have the shape of its results, for a function that computes n of them at a time: operands are
// given where they are if their innermost steps are 0 or 1 (step[i]) over long runs, and gathered otherwise. (kernel_run.c)
typedef void (*zmi_elements_fn)(const void *user, const zmi_call *c, int64_t n, const void *const *in, const int *step, void *const *out);
void zmi_run_elements(const zmi_call *c, int64_t first, int64_t last, zmi_elements_fn run, const void *user);

// Conversion of one number: to floats through float32, to integers toward zero and limited to the range, NaN to 0, to bool: not zero.
void zmi_store_double(double value, zm_dtype dtype, void *dst);
// A denormal becomes a zero of its sign.
static inline float zmi_flush(float v) {
  union {
    float f;
    uint32_t u;
  } c = {.f = v};
  if ((c.u & 0x7f800000u) == 0) c.u &= 0x80000000u;
  return c.f;
}

#endif
