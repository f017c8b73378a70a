// concatenate: arrays one after another along an axis.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <string.h>

typedef struct join_attrs {
  int64_t axis;
} join_attrs;

static const zmi_field join_fields[] = {{"axis", ZMI_FIELD_INT, offsetof(join_attrs, axis), NULL}, {0}};

static int64_t join_tiles(const zmi_call *c) {
  int64_t tiles = 0;
  for (int i = 0; i < c->nin; i++) tiles += zmi_tiles_of(zmi_type_count(&c->in[i]->type), ZMI_TILE);
  return tiles;
}

// Short rows of an operand, [rows][own], to places `row` elements apart: a call for each would cost more than it copies.
enum { SHORT_ROW = 32 };
#define SPREAD(bits)                                                                                                                       \
  static void spread##bits(const void *src, int64_t rows, int64_t own, void *dst, int64_t row) {                                           \
    typedef uint##bits##_t __attribute__((may_alias)) word;                                                                                \
    const word *x = src;                                                                                                                   \
    word *y = dst;                                                                                                                         \
    for (int64_t r = 0; r < rows && own == 1; r++) y[r * row] = x[r];                                                                      \
    for (int64_t r = 0; r < rows && own != 1; r++) {                                                                                       \
      for (int64_t i = 0; i < own; i++) y[r * row + i] = x[r * own + i];                                                                   \
    }                                                                                                                                      \
  }
SPREAD(8)
SPREAD(16)
SPREAD(32)
SPREAD(64)
static void (*const spread[])(const void *src, int64_t rows, int64_t own, void *dst,
                              int64_t row) = {[1] = spread8, [2] = spread16, [4] = spread32, [8] = spread64};

// Elements [begin, end) of operand i, which start `before` elements into each of the result's rows of `row` elements.
static void join_part(const zmi_call *c, int i, int64_t inner, int64_t before, int64_t row, int64_t begin, int64_t end) {
  size_t size = zm_dtype_size(c->out[0]->type.dtype);
  int64_t own = c->in[i]->type.shape[((const join_attrs *)c->attrs)->axis] * inner; // elements of a row that are operand i's
  zmi_walk w = zmi_walk_of(c->in[i]);
  zmi_reader reader = zmi_reader_of(c, i);
  uint64_t buffer[ZMI_CHUNK];
  while (begin < end) {
    int64_t r = begin / own, at = begin % own, n = ZMI_MIN(own - at, end - begin);
    const int64_t rows = own <= SHORT_ROW && at == 0 ? ZMI_MIN(ZMI_CHUNK, end - begin) / own : 0;
    if (rows > 1) {
      const void *src = zmi_read(&reader, begin, rows * own, buffer);
      spread[size](src, rows, own, (char *)c->dst[0] + (size_t)(r * row + before) * size, row);
      begin += rows * own;
      continue;
    }
    zmi_gather(&w, c->src[i], size, begin, n, (char *)c->dst[0] + (size_t)(r * row + before + at) * size);
    begin += n;
  }
}

static void join_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_type *out = &c->out[0]->type;
  int axis = (int)((const join_attrs *)c->attrs)->axis;
  int64_t inner = 1, before = 0, first = 0; // first: of the tiles of operand i
  for (int i = axis + 1; i < out->rank; i++) inner *= out->shape[i];
  for (int i = 0; i < c->nin; i++) {
    int64_t count = zmi_type_count(&c->in[i]->type), tiles = zmi_tiles_of(count, ZMI_TILE);
    int64_t b = ZMI_MAX(begin - first, 0), e = ZMI_MIN(end - first, tiles);
    if (b < e) join_part(c, i, inner, before, out->shape[axis] * inner, b * ZMI_TILE, ZMI_MIN(e * ZMI_TILE, count));
    first += tiles;
    before += c->in[i]->type.shape[axis] * inner;
  }
}

static zm_status join_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  int64_t axis = ((const join_attrs *)attrs)->axis;
  char first[128], other[128];
  if (nin < 1) return zmi_fail(ZM_ERROR_ARGUMENT, "takes at least one operand");
  zm_status status = zmi_check_operands(nin, in, nin);
  if (status != ZM_OK) return status;
  if (axis < 0 || axis >= in[0].rank)
    return zmi_fail(ZM_ERROR_ARGUMENT, "axis %lld is out of range for rank %d", (long long)axis, in[0].rank);
  zmi_type sum = in[0];
  for (int i = 1; i < nin; i++) {
    zmi_type t = in[i];
    if (t.rank == sum.rank) t.shape[axis] = sum.shape[axis];
    if (!zmi_type_equal(&t, &sum)) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "operand %d is %s and operand 1 is %s: only axis %lld may differ", i + 1,
                      zmi_type_text(&in[i], other), zmi_type_text(&in[0], first), (long long)axis);
    }
    if (__builtin_add_overflow(sum.shape[axis], in[i].shape[axis], &sum.shape[axis]))
      return zmi_fail(ZM_ERROR_ARGUMENT, "the result is too large");
  }
  return zmi_give(nout, out, sum.dtype, sum.rank, sum.shape);
}

// The part of a that is operand i's.
static zm_array *part_of(const zmi_node *n, int i, zm_array *a) {
  const int64_t axis = ((const join_attrs *)(const void *)n->attrs.bytes)->axis;
  int64_t start[ZM_MAX_RANK] = {0}, stop[ZM_MAX_RANK];
  if (!a) return NULL;
  for (int k = 0; k < a->type.rank; k++) stop[k] = a->type.shape[k];
  for (int k = 0; k < i; k++) start[axis] += n->in[k]->type.shape[axis];
  stop[axis] = start[axis] + n->in[i]->type.shape[axis];
  return zm_slice(a, start, stop, NULL);
}

static zm_status join_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  for (int i = 0; i < n->nin; i++) {
    if (wanted[i]) gradient[i] = part_of(n, i, given[0]);
  }
  return ZM_OK;
}

static zm_status join_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  zm_array *parts[ZMI_MAX_IN];
  for (int i = 0; i < n->nin; i++) parts[i] = tangent[i] ? tangent[i] : zmi_full_like(n->in[i], 0);
  result[0] = zmi_apply1(n->op, n->attrs.bytes, sizeof(join_attrs), n->nin, parts);
  return ZM_OK;
}

static zm_status join_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  join_attrs a = {((const join_attrs *)(const void *)n->attrs.bytes)->axis + 1};
  zm_array *parts[ZMI_MAX_IN];
  for (int i = 0; i < n->nin; i++) parts[i] = zmi_batch(in[i], batched[i], size);
  return zmi_apply(n->op, &a, sizeof a, n->nin, parts, out);
}

// Each operand is copied to its place in each index of the axes before; of many of those the CPU does it.
static zm_status join_device(const zmi_call *c, zmi_device_code *code) {
  enum { MOST_COPIES = 256 };
  const zmi_type *out = &c->out[0]->type;
  const int axis = (int)((const join_attrs *)c->attrs)->axis;
  const int64_t size = (int64_t)zm_dtype_size(out->dtype);
  int64_t outer = 1, inner = 1, before = 0;
  for (int i = 0; i < axis; i++) outer *= out->shape[i];
  for (int i = axis + 1; i < out->rank; i++) inner *= out->shape[i];
  if (outer > MOST_COPIES / c->nin) return zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: too many pieces are joined");
  zm_status status = ZM_OK;
  for (int i = 0; i < c->nin; i++) {
    zmi_slot piece = *c->in[i];
    piece.type.rank -= axis;
    for (int d = 0; d < piece.type.rank; d++) {
      piece.type.shape[d] = c->in[i]->type.shape[d + axis];
      piece.stride[d] = c->in[i]->stride[d + axis];
    }
    for (int64_t o = 0; o < outer && status == ZM_OK; o++) {
      int64_t from = 0, rest = o;
      for (int d = axis - 1; d >= 0; d--) {
        from += rest % out->shape[d] * c->in[i]->stride[d];
        rest /= out->shape[d];
      }
      status = zmi_device_copy_slot(code, &piece, (const char *)c->src[i] + from * size,
                                    zmi_gpu_at(c->dst[0]) + (zmi_gpu_address)((o * out->shape[axis] + before) * inner * size));
    }
    before += c->in[i]->type.shape[axis];
  }
  return status;
}

static const zmi_rules join_rules = {.vjp = join_vjp, .jvp = join_jvp, .vmap = join_vmap, .gradient = "all operands"};

const zmi_op zmi_op_concatenate = {.name = "concatenate",
                                   .operands = "xs*",
                                   .fields = join_fields,
                                   .rounding = "exact",
                                   .flags = ZMI_OP_STRIDED,
                                   .infer = join_infer,
                                   .device = join_device,
                                   .stages = {{join_tiles, join_run}},
                                   .rules = &join_rules};

// Joins `count` arrays of one dtype; more than an op takes go in groups, level by level, in place in `arrays`.
static zm_array *join_all(zm_array **arrays, size_t count, int axis) {
  join_attrs attrs = {.axis = axis};
  while (count > 1) {
    size_t made = 0;
    for (size_t i = 0; i < count; i += ZMI_MAX_IN) {
      size_t n = ZMI_MIN(count - i, (size_t)ZMI_MAX_IN);
      zm_array *joined = n == 1 ? arrays[i] : zmi_apply1(&zmi_op_concatenate, &attrs, sizeof attrs, (int)n, arrays + i);
      if (!joined) return NULL;
      arrays[made++] = joined;
    }
    count = made;
  }
  return arrays[0];
}

zm_array *zm_concatenate(zm_array *const *arrays, size_t count, int axis) {
  if (count == 0 || !arrays) {
    zmi_fail(ZM_ERROR_ARGUMENT, "concatenate: takes at least one array");
    return NULL;
  }
  zm_dtype dtype = ZM_BOOL;
  for (size_t i = 0; i < count; i++) {
    if (!zmi_present("concatenate", 1, &arrays[i])) return NULL;
    dtype = i == 0 ? arrays[0]->type.dtype : zm_dtype_promote(dtype, arrays[i]->type.dtype);
  }
  int at;
  if (!zmi_axis("concatenate", axis, arrays[0]->type.rank, &at)) return NULL;
  zm_array **parts = zmi_calloc(count, sizeof *parts), *joined = NULL;
  if (!parts) return NULL;
  size_t ready = 0;
  while (ready < count && (parts[ready] = zm_astype(arrays[ready], dtype))) ready++;
  if (ready == count) joined = join_all(parts, count, at);
  zmi_free(parts);
  return joined;
}
