// Views with strides of their own: diagonal (two axes become one that steps along both) and as_strided (any strides over the elements of
// an array in row-major order).
#include "array/ops/index.h"

#include <string.h>

// ---- diagonal: the diagonal is the last axis of the result ----

typedef struct diagonal_attrs {
  int64_t offset, axis1, axis2;
} diagonal_attrs;

static const zmi_field diagonal_fields[] = {{"offset", ZMI_FIELD_INT, offsetof(diagonal_attrs, offset), NULL},
                                            {"axis1", ZMI_FIELD_INT, offsetof(diagonal_attrs, axis1), NULL},
                                            {"axis2", ZMI_FIELD_INT, offsetof(diagonal_attrs, axis2), NULL},
                                            {0}};

static int64_t length_of(const diagonal_attrs *a, int64_t rows, int64_t cols) {
  if (a->offset >= 0) return a->offset >= cols ? 0 : ZMI_MIN(rows, cols - a->offset);
  return a->offset <= -rows ? 0 : ZMI_MIN(rows + a->offset, cols);
}

static zm_status diagonal_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const diagonal_attrs *a = attrs;
  int64_t shape[ZM_MAX_RANK];
  char text[128];
  int n = 0;
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (a->axis1 < 0 || a->axis2 < 0 || a->axis1 >= in[0].rank || a->axis2 >= in[0].rank || a->axis1 == a->axis2)
    return zmi_fail(ZM_ERROR_ARGUMENT, "axes %lld and %lld are no two axes of %s", (long long)a->axis1, (long long)a->axis2,
                    zmi_type_text(&in[0], text));
  for (int i = 0; i < in[0].rank; i++) {
    if (i != a->axis1 && i != a->axis2) shape[n++] = in[0].shape[i];
  }
  shape[n++] = length_of(a, in[0].shape[a->axis1], in[0].shape[a->axis2]);
  return zmi_give(nout, out, in[0].dtype, n, shape);
}

static bool diagonal_view(const void *attrs, const zmi_slot *in, const zmi_type *out, int64_t *stride, int64_t *shift) {
  const diagonal_attrs *a = attrs;
  int n = 0;
  for (int i = 0; i < in->type.rank; i++) {
    if (i != a->axis1 && i != a->axis2) stride[n++] = in->stride[i];
  }
  stride[n] = in->stride[a->axis1] + in->stride[a->axis2];
  *shift = 0;
  if (zmi_type_count(out) > 0) *shift = a->offset >= 0 ? a->offset * in->stride[a->axis2] : -a->offset * in->stride[a->axis1];
  return true;
}

static diagonal_attrs diagonal_of(const zmi_node *n) {
  diagonal_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return a;
}

// g [..., length] on the diagonal of zeros.
static zm_status diagonal_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const diagonal_attrs a = diagonal_of(n);
  const zmi_type *x = &n->in[0]->type;
  const int64_t rows = x->shape[a.axis1], cols = x->shape[a.axis2], length = length_of(&a, rows, cols);
  int64_t before[ZM_MAX_RANK] = {0}, after[ZM_MAX_RANK] = {0}, shape[ZM_MAX_RANK];
  const int rank = x->rank;
  (void)wanted;
  // Element i of row i, the row's place in front of the column: [..., rows, cols].
  before[rank - 2] = a.offset < 0 ? ZMI_MIN(-a.offset, rows) : 0;
  after[rank - 2] = rows - length - before[rank - 2];
  zm_array *g = zm_pad(given[0], before, after, ZM_PAD_CONSTANT, 0);
  if (!g) return zm_last_status();
  memcpy(shape, g->type.shape, sizeof shape);
  shape[rank - 1] = cols;
  g = zm_broadcast_to(zm_expand_dims(g, -1), shape, rank);
  g = zm_where(zm_eye(rows, cols, a.offset, ZM_BOOL), g, zmi_scalar_like(g, 0));
  // Axes back to their places.
  int order[ZM_MAX_RANK], next = 0;
  for (int i = 0; i < rank; i++) order[i] = i == a.axis1 ? rank - 2 : i == a.axis2 ? rank - 1 : next++;
  gradient[0] = g ? zm_transpose(g, order) : NULL;
  return ZM_OK;
}

static zm_status diagonal_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  return tangent[0] ? zmi_reapply(n, tangent, result) : ZM_OK;
}

static zm_status diagonal_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  diagonal_attrs a = diagonal_of(n);
  zm_array *x = in[0];
  (void)size, (void)batched;
  a.axis1++;
  a.axis2++;
  out[0] = zmi_apply1(n->op, &a, sizeof a, 1, &x);
  return ZM_OK;
}

static const zmi_rules diagonal_rules = {.vjp = diagonal_vjp, .jvp = diagonal_jvp, .vmap = diagonal_vmap, .gradient = "x"};

const zmi_op zmi_op_diagonal = {.name = "diagonal",
                                .operands = "x",
                                .fields = diagonal_fields,
                                .rounding = "exact",
                                .flags = ZMI_OP_VIEW,
                                .infer = diagonal_infer,
                                .view = diagonal_view,
                                .rules = &diagonal_rules};

zm_array *zm_diagonal(zm_array *a, int64_t k, int axis1, int axis2) {
  int one, two;
  if (!zmi_present("diagonal", 1, &a)) return NULL;
  if (!zmi_axis("diagonal", axis1, a->type.rank, &one) || !zmi_axis("diagonal", axis2, a->type.rank, &two)) return NULL;
  // Beyond the corners a diagonal is empty, whatever its number.
  const int64_t most = a->type.shape[one] + a->type.shape[two];
  k = ZMI_MAX(-most, ZMI_MIN(k, most));
  return zmi_apply1(&zmi_op_diagonal, &(diagonal_attrs){k, one, two}, sizeof(diagonal_attrs), 1, &a);
}

// ---- as_strided ----

typedef struct strided_attrs {
  int64_t rank, offset, shape[ZM_MAX_RANK], stride[ZM_MAX_RANK];
} strided_attrs;

static const zmi_field strided_fields[] = {{"rank", ZMI_FIELD_INT, offsetof(strided_attrs, rank), NULL},
                                           {"offset", ZMI_FIELD_INT, offsetof(strided_attrs, offset), NULL},
                                           ZMI_FIELDS8("dim", strided_attrs, shape),
                                           ZMI_FIELDS8("stride", strided_attrs, stride),
                                           {0}};

static zm_status strided_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const strided_attrs *a = attrs;
  char text[128];
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (a->rank < 0 || a->rank > ZM_MAX_RANK)
    return zmi_fail(ZM_ERROR_ARGUMENT, "rank %lld is not between 0 and %d", (long long)a->rank, ZM_MAX_RANK);
  status = zmi_give(nout, out, in[0].dtype, (int)a->rank, a->shape);
  if (status != ZM_OK || zmi_type_count(out) == 0) return status;
  int64_t low = a->offset, high = a->offset;
  bool good = true;
  for (int i = 0; i < a->rank && good; i++) {
    int64_t span, *end = a->stride[i] < 0 ? &low : &high;
    good = !__builtin_mul_overflow(a->shape[i] - 1, a->stride[i], &span) && !__builtin_add_overflow(*end, span, end);
  }
  if (good && low >= 0 && high < zmi_type_count(&in[0])) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "elements %lld to %lld are asked for, %s has %lld", (long long)low, (long long)high,
                  zmi_type_text(&in[0], text), (long long)zmi_type_count(&in[0]));
}

static bool strided_view(const void *attrs, const zmi_slot *in, const zmi_type *out, int64_t *stride, int64_t *shift) {
  const strided_attrs *a = attrs;
  const bool empty = zmi_type_count(out) == 0;
  if (!zmi_slot_is_contiguous(in)) return false;
  *shift = empty ? 0 : a->offset;
  for (int i = 0; i < out->rank; i++) stride[i] = empty || out->shape[i] == 1 ? 1 : a->stride[i];
  return true;
}

// Every element of the result adds to the one that it is.
static zm_status strided_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  strided_attrs a;
  const zmi_type *x = &n->in[0]->type;
  const int64_t count = zmi_type_count(x);
  (void)wanted;
  memcpy(&a, n->attrs.bytes, sizeof a);
  zm_array *at = zm_full((double)a.offset, ZM_I64, NULL, 0), *g = given[0];
  for (int i = 0; i < a.rank; i++) {
    int64_t shape[ZM_MAX_RANK];
    for (int k = 0; k < a.rank; k++) shape[k] = k == i ? a.shape[i] : 1;
    zm_array *step = zm_multiply(zm_arange(0, (double)a.shape[i], 1, ZM_I64), zm_full((double)a.stride[i], ZM_I64, NULL, 0));
    at = step ? zm_add(at, zm_reshape(step, shape, (int)a.rank)) : NULL;
  }
  const int64_t all = zmi_type_count(&g->type);
  at = at ? zm_reshape(zm_broadcast_to(at, a.shape, (int)a.rank), &all, 1) : NULL;
  zm_array *zero = zm_full(0, x->dtype, &count, 1);
  zm_array *sum = zm_scatter(zero, &at, (const int[]){0}, 1, zm_reshape(g, &all, 1), ZM_SCATTER_ADD);
  gradient[0] = sum ? zm_reshape(sum, x->shape, x->rank) : NULL;
  return ZM_OK;
}

static zm_status strided_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  strided_attrs a, b = {0};
  memcpy(&a, n->attrs.bytes, sizeof a);
  if (a.rank == ZM_MAX_RANK) return zmi_vmap_slices(n, size, in, batched, out);
  b.rank = a.rank + 1;
  b.offset = a.offset;
  b.shape[0] = size;
  b.stride[0] = zmi_type_count(&n->in[0]->type);
  for (int i = 0; i < a.rank; i++) {
    b.shape[i + 1] = a.shape[i];
    b.stride[i + 1] = a.stride[i];
  }
  out[0] = zmi_apply1(n->op, &b, sizeof b, 1, in);
  return ZM_OK;
}

static const zmi_rules strided_rules = {.vjp = strided_vjp, .jvp = diagonal_jvp, .vmap = strided_vmap, .gradient = "x"};

const zmi_op zmi_op_as_strided = {.name = "as_strided",
                                  .operands = "x",
                                  .fields = strided_fields,
                                  .rounding = "exact",
                                  .flags = ZMI_OP_VIEW,
                                  .infer = strided_infer,
                                  .view = strided_view,
                                  .rules = &strided_rules};

zm_array *zm_as_strided(zm_array *a, const int64_t *shape, const int64_t *strides, int rank, int64_t offset) {
  strided_attrs attrs = {.rank = rank, .offset = offset};
  if (!zmi_present("as_strided", 1, &a)) return NULL;
  if (rank < 0 || rank > ZM_MAX_RANK || (rank > 0 && (!shape || !strides))) {
    zmi_fail(ZM_ERROR_ARGUMENT, "as_strided: rank %d, or no shape or strides", rank);
    return NULL;
  }
  for (int i = 0; i < rank; i++) {
    attrs.shape[i] = shape[i];
    attrs.stride[i] = strides[i];
  }
  return zmi_apply1(&zmi_op_as_strided, &attrs, sizeof attrs, 1, &a);
}
