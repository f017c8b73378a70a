// Views: reshape, transpose, broadcast_to and slice change shapes and strides, never data. Where strides cannot express a result (some
// reshapes of strided arrays) the lowering copies first.
#include "array/ops/ops.h"

#include <string.h>

typedef struct shape_attrs {
  int64_t rank, shape[ZM_MAX_RANK];
} shape_attrs;

typedef struct slice_attrs {
  int64_t rank, start[ZM_MAX_RANK], step[ZM_MAX_RANK], count[ZM_MAX_RANK];
} slice_attrs;

static const zmi_field shape_fields[] = {
    {"rank", ZMI_FIELD_INT, offsetof(shape_attrs, rank), NULL}, ZMI_FIELDS8("dim", shape_attrs, shape), {0}};
static const zmi_field slice_fields[] = {{"rank", ZMI_FIELD_INT, offsetof(slice_attrs, rank), NULL},
                                         ZMI_FIELDS8("start", slice_attrs, start),
                                         ZMI_FIELDS8("step", slice_attrs, step),
                                         ZMI_FIELDS8("count", slice_attrs, count),
                                         {0}};

static zm_status check_rank(int64_t rank) {
  if (rank >= 0 && rank <= ZM_MAX_RANK) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "rank %lld is not between 0 and %d", (long long)rank, ZM_MAX_RANK);
}

static bool check_public_shape(const char *op, const int64_t *shape, int rank) {
  zm_status status = check_rank(rank);
  if (status == ZM_OK && rank > 0 && !shape) status = zmi_fail(ZM_ERROR_ARGUMENT, "shape is NULL although the rank is %d", rank);
  if (status == ZM_OK) return true;
  zmi_fail_within("%s", op);
  return false;
}

static const shape_attrs *shape_of(const zmi_node *n) {
  return (const shape_attrs *)(const void *)n->attrs.bytes;
}

static zm_status too_deep(int rank) {
  return zmi_fail(ZM_ERROR_LIMIT, "vmap: an array of rank %d has no room for the axis of the batch", rank);
}

// Applies the op of n to an operand and its cotangent or tangent alike: for views, which move elements and compute nothing.
static zm_status view_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  return zmi_reapply(n, tangent, result);
}

// ---- reshape ----

static zm_status reshape_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const shape_attrs *a = attrs;
  char from[128], to[128];
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status == ZM_OK) status = check_rank(a->rank);
  if (status == ZM_OK) status = zmi_give(nout, out, in[0].dtype, (int)a->rank, a->shape);
  if (status != ZM_OK || zmi_type_count(out) == zmi_type_count(&in[0])) return status;
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s has %lld elements, %s has %lld", zmi_type_text(&in[0], from), (long long)zmi_type_count(&in[0]),
                  zmi_type_text(out, to), (long long)zmi_type_count(out));
}

// The input's dimensions, merged where they step together, are cut up again into the output's: each output dimension must fall inside
// one of them.
static bool reshape_view(const void *attrs, const zmi_slot *in, const zmi_type *out, int64_t *stride, int64_t *shift) {
  (void)attrs;
  *shift = 0;
  int64_t step = 1;
  if (zmi_type_count(out) == 0) {
    for (int i = out->rank - 1; i >= 0; i--) stride[i] = 1;
    return true;
  }
  zmi_walk w = zmi_walk_of(in);
  int group = w.rank - 1;
  int64_t left = group >= 0 ? w.size[group] : 1; // elements of the group not yet given out
  step = group >= 0 ? w.stride[group] : 1;
  for (int i = out->rank - 1; i >= 0; i--) {
    int64_t size = out->shape[i];
    if (left == 1 && size > 1 && group > 0) {
      group--;
      left = w.size[group];
      step = w.stride[group];
    }
    if (size != 1 && left % size != 0) return false;
    stride[i] = step;
    step *= size;
    left /= size;
  }
  return true;
}

static zm_status reshape_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)wanted;
  gradient[0] = zm_reshape(given[0], n->in[0]->type.shape, n->in[0]->type.rank);
  return ZM_OK;
}

static zm_status reshape_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  const shape_attrs *a = shape_of(n);
  (void)batched;
  int64_t shape[ZM_MAX_RANK];
  if (a->rank == ZM_MAX_RANK) return too_deep(ZM_MAX_RANK);
  shape[0] = size;
  for (int i = 0; i < a->rank; i++) shape[i + 1] = a->shape[i];
  out[0] = zm_reshape(in[0], shape, (int)a->rank + 1);
  return ZM_OK;
}

static const zmi_rules reshape_rules = {.vjp = reshape_vjp, .jvp = view_jvp, .vmap = reshape_vmap, .gradient = "x"};

const zmi_op zmi_op_reshape = {.name = "reshape",
                               .operands = "x",
                               .fields = shape_fields,
                               .rounding = "exact",
                               .flags = ZMI_OP_VIEW,
                               .infer = reshape_infer,
                               .view = reshape_view,
                               .rules = &reshape_rules};

// Fills in one dimension of -1.
static bool complete_shape(const zmi_type *t, shape_attrs *a) {
  int64_t known = 1, unknown = -1, count = zmi_type_count(t);
  char text[128];
  for (int i = 0; i < a->rank; i++) {
    if (a->shape[i] == -1 && unknown < 0)
      unknown = i;
    else if (a->shape[i] < 0 || __builtin_mul_overflow(known, a->shape[i], &known)) {
      zmi_fail(ZM_ERROR_ARGUMENT, "reshape: dimension %d is %lld; one dimension may be -1, others at least 0", i, (long long)a->shape[i]);
      return false;
    }
  }
  if (unknown < 0) return true;
  if (known == 0 || count % known != 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "reshape: the %lld elements of %s cannot be shared out to a dimension of -1 beside %lld", (long long)count,
             zmi_type_text(t, text), (long long)known);
    return false;
  }
  a->shape[unknown] = count / known;
  return true;
}

zm_array *zm_reshape(zm_array *a, const int64_t *shape, int rank) {
  shape_attrs attrs = {.rank = rank};
  if (!zmi_present("reshape", 1, &a) || !check_public_shape("reshape", shape, rank)) return NULL;
  for (int i = 0; i < rank; i++) attrs.shape[i] = shape[i];
  if (!complete_shape(&a->type, &attrs)) return NULL;
  zmi_type to = zmi_type_of(a->type.dtype, rank, attrs.shape);
  if (zmi_type_equal(&to, &a->type)) return a;
  return zmi_apply1(&zmi_op_reshape, &attrs, sizeof attrs, 1, &a);
}

zm_array *zm_expand_dims(zm_array *a, int axis) {
  int at;
  int64_t shape[ZM_MAX_RANK + 1];
  if (!zmi_present("expand_dims", 1, &a) || !zmi_axis("expand_dims", axis, a->type.rank + 1, &at)) return NULL;
  for (int i = 0; i < a->type.rank; i++) shape[i + (i >= at)] = a->type.shape[i];
  shape[at] = 1;
  return zm_reshape(a, shape, a->type.rank + 1);
}

zm_array *zm_squeeze(zm_array *a, int axis) {
  int at;
  int64_t shape[ZM_MAX_RANK];
  char text[128];
  if (!zmi_present("squeeze", 1, &a) || !zmi_axis("squeeze", axis, a->type.rank, &at)) return NULL;
  if (a->type.shape[at] != 1) {
    zmi_fail(ZM_ERROR_ARGUMENT, "squeeze: axis %d of %s is not of size 1", axis, zmi_type_text(&a->type, text));
    return NULL;
  }
  for (int i = 0; i < a->type.rank; i++) {
    if (i != at) shape[i - (i > at)] = a->type.shape[i];
  }
  return zm_reshape(a, shape, a->type.rank - 1);
}

// ---- transpose: shape holds the axes ----

static zm_status transpose_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const shape_attrs *a = attrs;
  unsigned seen = 0;
  int64_t shape[ZM_MAX_RANK];
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (a->rank != in[0].rank) return zmi_fail(ZM_ERROR_ARGUMENT, "%lld axes for an array of rank %d", (long long)a->rank, in[0].rank);
  for (int i = 0; i < in[0].rank; i++) {
    int64_t axis = a->shape[i];
    if (axis < 0 || axis >= in[0].rank || (seen & 1u << axis)) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %lld at place %d: the axes must be a permutation of 0 to %d", (long long)axis, i,
                      in[0].rank - 1);
    }
    seen |= 1u << axis;
    shape[i] = in[0].shape[axis];
  }
  return zmi_give(nout, out, in[0].dtype, in[0].rank, shape);
}

static bool transpose_view(const void *attrs, const zmi_slot *in, const zmi_type *out, int64_t *stride, int64_t *shift) {
  const shape_attrs *a = attrs;
  *shift = 0;
  for (int i = 0; i < out->rank; i++) stride[i] = in->stride[a->shape[i]];
  return true;
}

static const zmi_field transpose_fields[] = {
    {"rank", ZMI_FIELD_INT, offsetof(shape_attrs, rank), NULL}, ZMI_FIELDS8("axis", shape_attrs, shape), {0}};

static zm_status transpose_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const shape_attrs *a = shape_of(n);
  int back[ZM_MAX_RANK];
  (void)wanted;
  for (int i = 0; i < a->rank; i++) back[a->shape[i]] = i;
  gradient[0] = zm_transpose(given[0], back);
  return ZM_OK;
}

static zm_status transpose_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  const shape_attrs *a = shape_of(n);
  int axes[ZM_MAX_RANK] = {0};
  (void)size, (void)batched;
  for (int i = 0; i < a->rank; i++) axes[i + 1] = (int)a->shape[i] + 1; // a batch of the highest rank cannot be made
  out[0] = zm_transpose(in[0], axes);
  return ZM_OK;
}

static const zmi_rules transpose_rules = {.vjp = transpose_vjp, .jvp = view_jvp, .vmap = transpose_vmap, .gradient = "x"};

const zmi_op zmi_op_transpose = {.name = "transpose",
                                 .operands = "x",
                                 .fields = transpose_fields,
                                 .rounding = "exact",
                                 .flags = ZMI_OP_VIEW,
                                 .infer = transpose_infer,
                                 .view = transpose_view,
                                 .rules = &transpose_rules};

zm_array *zm_transpose(zm_array *a, const int *axes) {
  if (!zmi_present("transpose", 1, &a)) return NULL;
  shape_attrs attrs = {.rank = a->type.rank};
  for (int i = 0; i < a->type.rank; i++) {
    int axis = axes ? axes[i] : a->type.rank - 1 - i;
    attrs.shape[i] = axis < 0 ? axis + a->type.rank : axis;
  }
  return zmi_apply1(&zmi_op_transpose, &attrs, sizeof attrs, 1, &a);
}

const int64_t *zmi_transposed(const zm_array *a) {
  return a && a->node && a->node->op == &zmi_op_transpose ? shape_of(a->node)->shape : NULL;
}

// ---- broadcast_to ----

static zm_status broadcast_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const shape_attrs *a = attrs;
  char from[128], to[128];
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status == ZM_OK) status = check_rank(a->rank);
  if (status == ZM_OK) status = zmi_give(nout, out, in[0].dtype, (int)a->rank, a->shape);
  if (status != ZM_OK) return status;
  bool fits = in[0].rank <= out->rank;
  for (int i = 0; fits && i < in[0].rank; i++) {
    int64_t size = in[0].shape[i];
    fits = size == 1 || size == out->shape[i + out->rank - in[0].rank];
  }
  if (fits) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s does not broadcast to %s", zmi_type_text(&in[0], from), zmi_type_text(out, to));
}

static bool broadcast_view(const void *attrs, const zmi_slot *in, const zmi_type *out, int64_t *stride, int64_t *shift) {
  (void)attrs;
  *shift = 0;
  int more = out->rank - in->type.rank;
  for (int i = 0; i < out->rank; i++) {
    bool repeated = i < more || (in->type.shape[i - more] == 1 && out->shape[i] != 1);
    stride[i] = repeated ? 0 : in->stride[i - more];
  }
  return true;
}

static zm_status broadcast_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)wanted;
  gradient[0] = zmi_sum_to(given[0], &n->in[0]->type);
  return ZM_OK;
}

// The axes that the operand lacks come between the batch and its own.
static zm_status broadcast_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  const shape_attrs *a = shape_of(n);
  const zmi_type *x = &n->in[0]->type;
  int64_t from[ZM_MAX_RANK], to[ZM_MAX_RANK];
  (void)batched;
  if (a->rank == ZM_MAX_RANK) return too_deep(ZM_MAX_RANK);
  from[0] = to[0] = size;
  for (int i = 0; i < a->rank; i++) {
    const int own = i - ((int)a->rank - x->rank);
    from[i + 1] = own < 0 ? 1 : x->shape[own];
    to[i + 1] = a->shape[i];
  }
  zm_array *y = zm_reshape(in[0], from, (int)a->rank + 1);
  out[0] = y ? zm_broadcast_to(y, to, (int)a->rank + 1) : NULL;
  return ZM_OK;
}

static const zmi_rules broadcast_rules = {.vjp = broadcast_vjp, .jvp = view_jvp, .vmap = broadcast_vmap, .gradient = "x"};

const zmi_op zmi_op_broadcast_to = {.name = "broadcast_to",
                                    .operands = "x",
                                    .fields = shape_fields,
                                    .rounding = "exact",
                                    .flags = ZMI_OP_VIEW,
                                    .infer = broadcast_infer,
                                    .view = broadcast_view,
                                    .rules = &broadcast_rules};

zm_array *zm_broadcast_to(zm_array *a, const int64_t *shape, int rank) {
  shape_attrs attrs = {.rank = rank};
  if (!zmi_present("broadcast_to", 1, &a) || !check_public_shape("broadcast_to", shape, rank)) return NULL;
  for (int i = 0; i < rank; i++) attrs.shape[i] = shape[i];
  zmi_type to = zmi_type_of(a->type.dtype, rank, attrs.shape);
  if (zmi_type_equal(&to, &a->type)) return a;
  return zmi_apply1(&zmi_op_broadcast_to, &attrs, sizeof attrs, 1, &a);
}

// ---- slice ----

static zm_status slice_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const slice_attrs *a = attrs;
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (a->rank != in[0].rank) return zmi_fail(ZM_ERROR_ARGUMENT, "%lld ranges for an array of rank %d", (long long)a->rank, in[0].rank);
  for (int i = 0; i < in[0].rank; i++) {
    int64_t span, last;
    bool good = a->count[i] >= 0;
    if (good && a->count[i] > 0) {
      good = a->start[i] >= 0 && a->start[i] < in[0].shape[i] && !__builtin_mul_overflow(a->count[i] - 1, a->step[i], &span) &&
             !__builtin_add_overflow(a->start[i], span, &last) && last >= 0 && last < in[0].shape[i];
    }
    if (!good) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %d: %lld elements from %lld in steps of %lld leave the %lld that are there", i,
                      (long long)a->count[i], (long long)a->start[i], (long long)a->step[i], (long long)in[0].shape[i]);
    }
  }
  return zmi_give(nout, out, in[0].dtype, in[0].rank, a->count);
}

static bool slice_view(const void *attrs, const zmi_slot *in, const zmi_type *out, int64_t *stride, int64_t *shift) {
  const slice_attrs *a = attrs;
  *shift = 0;
  bool empty = zmi_type_count(out) == 0;
  for (int i = 0; i < out->rank; i++) {
    // A single element needs no stride: a large step times a stride could overflow.
    stride[i] = empty || out->shape[i] == 1 ? 1 : in->stride[i] * a->step[i];
    if (!empty) *shift += in->stride[i] * a->start[i];
  }
  return true;
}

static const slice_attrs *slice_of(const zmi_node *n) {
  return (const slice_attrs *)(const void *)n->attrs.bytes;
}

static zm_status slice_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)wanted;
  gradient[0] = zmi_place(given[0], &n->in[0]->type, slice_of(n)->start, slice_of(n)->step);
  return ZM_OK;
}

static zm_status slice_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  const slice_attrs *a = slice_of(n);
  slice_attrs more = {.rank = a->rank + 1, .step = {1}, .count = {size}}; // a batch of the highest rank cannot be made
  (void)batched;
  for (int i = 0; i < a->rank; i++) {
    more.start[i + 1] = a->start[i];
    more.step[i + 1] = a->step[i];
    more.count[i + 1] = a->count[i];
  }
  return zmi_apply(n->op, &more, sizeof more, 1, in, out);
}

static const zmi_rules slice_rules = {.vjp = slice_vjp, .jvp = view_jvp, .vmap = slice_vmap, .gradient = "x"};

const zmi_op zmi_op_slice = {.name = "slice",
                             .operands = "x",
                             .fields = slice_fields,
                             .rounding = "exact",
                             .flags = ZMI_OP_VIEW,
                             .infer = slice_infer,
                             .view = slice_view,
                             .rules = &slice_rules};

zm_array *zmi_slice_exactly(zm_array *a, const int64_t *start, const int64_t *step, const int64_t *count) {
  if (!zmi_present("slice", 1, &a)) return NULL;
  slice_attrs attrs = {.rank = a->type.rank};
  for (int i = 0; i < a->type.rank; i++) {
    attrs.start[i] = start[i];
    attrs.step[i] = step[i];
    attrs.count[i] = count[i];
  }
  return zmi_apply1(&zmi_op_slice, &attrs, sizeof attrs, 1, &a);
}

// [start, stop) of one axis as NumPy reads it: negative numbers count from the end, then both are limited to what is there.
int64_t zmi_slice_range(int64_t size, int64_t *start, int64_t stop, int64_t step) {
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
  if (*start < 0) *start += size;
  if (stop < 0) stop += size;
  *start = ZMI_MAX(low, ZMI_MIN(*start, high));
  stop = ZMI_MAX(low, ZMI_MIN(stop, high));
  int64_t span = step > 0 ? stop - *start : *start - stop;
  if (span <= 0) return 0;
  uint64_t width = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
  return (int64_t)(((uint64_t)span - 1) / width + 1);
}

zm_array *zm_slice(zm_array *a, const int64_t *start, const int64_t *stop, const int64_t *step) {
  if (!zmi_present("slice", 1, &a)) return NULL;
  slice_attrs attrs = {.rank = a->type.rank};
  bool whole = true;
  if (a->type.rank > 0 && (!start || !stop)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "slice: a start and a stop for each of %d axes must be given", a->type.rank);
    return NULL;
  }
  for (int i = 0; i < a->type.rank; i++) {
    int64_t width = step ? step[i] : 1;
    if (width == 0) {
      zmi_fail(ZM_ERROR_ARGUMENT, "slice: the step of axis %d is 0", i);
      return NULL;
    }
    attrs.start[i] = start[i];
    attrs.step[i] = width;
    attrs.count[i] = zmi_slice_range(a->type.shape[i], &attrs.start[i], stop[i], width);
    if (attrs.count[i] == 0) attrs.start[i] = 0;
    whole = whole && attrs.count[i] == a->type.shape[i] && (width == 1 || attrs.count[i] <= 1);
  }
  return whole ? a : zmi_apply1(&zmi_op_slice, &attrs, sizeof attrs, 1, &a);
}
