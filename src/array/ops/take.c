// take: rows of an array chosen by integer indices. An index out of range gives zeros.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <string.h>

static int64_t row_elements(const zmi_type *t) {
  int64_t n = 1;
  for (int i = 1; i < t->rank; i++) n *= t->shape[i];
  return n;
}

// Rows of a tile: about ZMI_TILE elements.
static int64_t tile_rows(const zmi_call *c) {
  int64_t n = row_elements(&c->in[0]->type);
  return n > ZMI_TILE ? 1 : ZMI_TILE / ZMI_MAX(n, 1);
}

// -1 if negative or too large for int64.
#define INDEX(T)                                                                                                                           \
  static int64_t index_##T(const void *src, int64_t i) {                                                                                   \
    T v = ((const T *)src)[i];                                                                                                             \
    return v < 0 || (uint64_t)v > INT64_MAX ? -1 : (int64_t)v;                                                                             \
  }
#define UNSIGNED_INDEX(T)                                                                                                                  \
  static int64_t index_##T(const void *src, int64_t i) {                                                                                   \
    uint64_t v = ((const T *)src)[i];                                                                                                      \
    return v > INT64_MAX ? -1 : (int64_t)v;                                                                                                \
  }
INDEX(int8_t)
INDEX(int16_t)
INDEX(int32_t)
INDEX(int64_t)
UNSIGNED_INDEX(uint8_t)
UNSIGNED_INDEX(uint16_t)
UNSIGNED_INDEX(uint32_t)
UNSIGNED_INDEX(uint64_t)

static int64_t (*const index_of[ZM_DTYPE_COUNT])(const void *src, int64_t i) = {
    [ZM_U8] = index_uint8_t, [ZM_U16] = index_uint16_t, [ZM_U32] = index_uint32_t, [ZM_U64] = index_uint64_t,
    [ZM_I8] = index_int8_t,  [ZM_I16] = index_int16_t,  [ZM_I32] = index_int32_t,  [ZM_I64] = index_int64_t,
};

// Rows of four or eight bytes: tables of numbers, or of pairs of them.
#define LOOK(T, W)                                                                                                                         \
  static void look_##T##_##W(const void *src, int64_t n, const void *from, int64_t there, void *to) {                                      \
    const T *index = src;                                                                                                                  \
    const uint##W##_t *table = from;                                                                                                       \
    uint##W##_t *dst = to;                                                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                                                                      \
      const bool good = (uint64_t)index[i] < (uint64_t)there;                                                                              \
      dst[i] = good ? table[index[i]] : 0;                                                                                                 \
    }                                                                                                                                      \
  }
LOOK(uint8_t, 32)
LOOK(uint16_t, 32)
LOOK(uint32_t, 32)
LOOK(int32_t, 32)
LOOK(uint8_t, 64)
LOOK(uint32_t, 64)
LOOK(int32_t, 64)

typedef void (*look_fn)(const void *src, int64_t n, const void *table, int64_t there, void *dst);

static const look_fn look4[ZM_DTYPE_COUNT] = {
    [ZM_U8] = look_uint8_t_32, [ZM_U16] = look_uint16_t_32, [ZM_U32] = look_uint32_t_32, [ZM_I32] = look_int32_t_32};
static const look_fn look8[ZM_DTYPE_COUNT] = {[ZM_U8] = look_uint8_t_64, [ZM_U32] = look_uint32_t_64, [ZM_I32] = look_int32_t_64};

static int64_t take_tiles(const zmi_call *c) {
  return row_elements(&c->in[0]->type) == 0 ? 0 : zmi_tiles_of(zmi_type_count(&c->in[1]->type), tile_rows(c));
}

static void take_run(const zmi_call *c, int64_t begin, int64_t end) {
  int64_t rows = tile_rows(c), last = ZMI_MIN(end * rows, zmi_type_count(&c->in[1]->type)), there = c->in[0]->type.shape[0];
  size_t bytes = (size_t)row_elements(&c->in[0]->type) * zm_dtype_size(c->in[0]->type.dtype);
  zm_dtype dtype = c->in[1]->type.dtype;
  const look_fn look = bytes == 4 ? look4[dtype] : bytes == 8 ? look8[dtype] : NULL;
  if (look && (uintptr_t)c->src[0] % bytes == 0) {
    const int64_t first = begin * rows;
    look((const char *)c->src[1] + (size_t)first * zm_dtype_size(dtype), last - first, c->src[0], there,
         (char *)c->dst[0] + (size_t)first * bytes);
    return;
  }
  for (int64_t r = begin * rows; r < last; r++) {
    int64_t i = index_of[dtype](c->src[1], r);
    char *dst = (char *)c->dst[0] + (size_t)r * bytes;
    if (i >= 0 && i < there)
      zmi_copy_piece(dst, (const char *)c->src[0] + (size_t)i * bytes, bytes);
    else
      memset(dst, 0, bytes);
  }
}

static zm_status take_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  char text[128];
  int64_t shape[2 * ZM_MAX_RANK];
  zm_status status = zmi_check_operands(nin, in, 2);
  if (status != ZM_OK) return status;
  if (in[0].rank < 1) return zmi_fail(ZM_ERROR_ARGUMENT, "an array of rank 0 has no rows to take");
  if (!index_of[in[1].dtype]) return zmi_fail(ZM_ERROR_ARGUMENT, "indices must be integers, found %s", zmi_type_text(&in[1], text));
  int rank = in[1].rank + in[0].rank - 1;
  if (rank > ZM_MAX_RANK) return zmi_fail(ZM_ERROR_ARGUMENT, "the result would have rank %d, the most is %d", rank, ZM_MAX_RANK);
  for (int i = 0; i < in[1].rank; i++) shape[i] = in[1].shape[i];
  for (int i = 1; i < in[0].rank; i++) shape[in[1].rank + i - 1] = in[0].shape[i];
  return zmi_give(nout, out, in[0].dtype, rank, shape);
}

static zm_status take_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (wanted[0]) gradient[0] = zmi_take_add(given[0], n->in[1], n->in[0]->type.shape[0]);
  return ZM_OK;
}

static zm_status take_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  if (tangent[0]) result[0] = zm_take(tangent[0], n->in[1]);
  return ZM_OK;
}

// Rows of a batch of arrays as rows of one long array: indices of slice b go up by b times its rows; those out of range stay so.
zm_array *zmi_shift_rows(zm_array *indices, bool batched, int64_t size, int64_t rows) {
  zm_array *i = zmi_batch(indices ? zm_astype(indices, ZM_I64) : NULL, batched, size);
  if (!i) return NULL;
  int64_t shape[ZM_MAX_RANK] = {size};
  for (int k = 1; k < i->type.rank; k++) shape[k] = 1;
  zm_array *from = zm_multiply(zm_arange(0, (double)size, 1, ZM_I64), zm_full((double)rows, ZM_I64, NULL, 0));
  from = from ? zm_reshape(from, shape, i->type.rank) : NULL;
  zm_array *inside = zm_multiply(zm_greater_equal(i, zmi_scalar_like(i, 0)), zm_less(i, zmi_scalar_like(i, (double)rows)));
  return zm_where(inside, zm_add(i, from), zmi_scalar_like(i, -1));
}

static zm_status take_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  zm_array *x = in[0];
  if (batched[0]) {
    int64_t shape[ZM_MAX_RANK] = {size * n->in[0]->type.shape[0]};
    for (int i = 1; i < n->in[0]->type.rank; i++) shape[i] = n->in[0]->type.shape[i];
    x = zm_reshape(x, shape, n->in[0]->type.rank);
  }
  out[0] = zm_take(x, batched[0] ? zmi_shift_rows(in[1], batched[1], size, n->in[0]->type.shape[0]) : in[1]);
  return ZM_OK;
}

static const zmi_rules take_rules = {.vjp = take_vjp, .jvp = take_jvp, .vmap = take_vmap, .gradient = "x"};

const zmi_op zmi_op_take = {.name = "take",
                            .operands = "x indices",
                            .rounding = "exact; zeros for an index out of range",
                            .infer = take_infer,
                            .device = zmi_take_device,
                            .stages = {{take_tiles, take_run}},
                            .rules = &take_rules};

zm_array *zm_take(zm_array *a, zm_array *indices) {
  zm_array *in[2] = {a, indices};
  return zmi_present("take", 2, in) ? zmi_apply1(&zmi_op_take, NULL, 0, 2, in) : NULL;
}
