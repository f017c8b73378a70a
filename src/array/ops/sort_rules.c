// sort, argsort, partition, argpartition, topk: builders and rules. Kernels: sort.c.
#include "array/ops/index.h"
#include "array/ops/sort.h"

#include <string.h>

// ---- rules: the gradient goes where the values came from ----

static zmi_sort_attrs attrs_of(const zmi_node *n) {
  zmi_sort_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return a;
}

static zm_status done(zm_array *a) {
  return a ? ZM_OK : zm_last_status();
}

// The indices that belong to the values of a node.
static zm_array *indices_of(const zmi_node *n) {
  zmi_sort_attrs a = attrs_of(n);
  zm_array *x = n->in[0], *out[ZMI_MAX_OUT] = {NULL};
  const zmi_op *op = a.kind == ZMI_SORT_TOP ? &zmi_op_topk : a.kind == ZMI_SORT_PART ? &zmi_op_argpartition : &zmi_op_argsort;
  a.gives = a.kind == ZMI_SORT_TOP ? ZMI_SORT_BOTH : ZMI_SORT_INDICES;
  if (a.kind == ZMI_SORT_TOP && n->out[1]) return n->out[1];
  return zmi_apply(op, &a, sizeof a, 1, &x, out) == ZM_OK ? out[a.kind == ZMI_SORT_TOP] : NULL;
}

static zm_status values_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (!given[0] || !wanted[0] || !zmi_dtype_is_float(n->in[0]->type.dtype)) return ZM_OK;
  // No index is there twice, so nothing is added up.
  return done(gradient[0] = zm_put_along_axis(zmi_zeros_like(&n->in[0]->type), indices_of(n), given[0], -1));
}

static zm_status values_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  if (!tangent[0]) return ZM_OK;
  return done(result[0] = zm_take_along_axis(tangent[0], indices_of(n), -1));
}

// The last axis stays the last.
static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  zmi_sort_attrs a = attrs_of(n);
  (void)size, (void)batched;
  return zmi_apply(n->op, &a, sizeof a, 1, in, out);
}

#define VALUES                                                                                                                             \
  { .vjp = values_vjp, .jvp = values_jvp, .vmap = vmap, .gradient = "x" }
#define INDICES                                                                                                                            \
  { .vmap = vmap, .gradient = "none: results are integers" }
const zmi_rules zmi_rules_sort = VALUES, zmi_rules_partition = VALUES, zmi_rules_topk = VALUES;
const zmi_rules zmi_rules_argsort = INDICES, zmi_rules_argpartition = INDICES;

// ---- builders ----

// The axis becomes the last one; `at` is where it was.
static zm_array *axis_last(const char *op, zm_array *a, int axis, int *at) {
  if (!zmi_present(op, 1, &a) || !zmi_axis(op, axis, a->type.rank, at)) return NULL;
  return *at == a->type.rank - 1 ? a : zm_swapaxes(a, *at, -1);
}

static zm_array *axis_back(zm_array *a, int at) {
  return !a || at == a->type.rank - 1 ? a : zm_swapaxes(a, at, -1);
}

static zm_array *build(const zmi_op *op, zm_array *a, int axis, zmi_sort_attrs attrs) {
  int at;
  zm_array *x = axis_last(op->name, a, axis, &at);
  if (!x) return NULL;
  const int64_t n = x->type.shape[x->type.rank - 1];
  if (attrs.kind == ZMI_SORT_PART && attrs.k < 0) attrs.k += n;
  return axis_back(zmi_apply1(op, &attrs, sizeof attrs, 1, &x), at);
}

zm_array *zm_sort(zm_array *a, int axis) {
  return build(&zmi_op_sort, a, axis, (zmi_sort_attrs){ZMI_SORT_WHOLE, ZMI_SORT_VALUES, 0});
}

zm_array *zm_argsort(zm_array *a, int axis) {
  return build(&zmi_op_argsort, a, axis, (zmi_sort_attrs){ZMI_SORT_WHOLE, ZMI_SORT_INDICES, 0});
}

zm_array *zm_partition(zm_array *a, int64_t kth, int axis) {
  return build(&zmi_op_partition, a, axis, (zmi_sort_attrs){ZMI_SORT_PART, ZMI_SORT_VALUES, kth});
}

zm_array *zm_argpartition(zm_array *a, int64_t kth, int axis) {
  return build(&zmi_op_argpartition, a, axis, (zmi_sort_attrs){ZMI_SORT_PART, ZMI_SORT_INDICES, kth});
}

zm_array *zm_topk(zm_array *a, int64_t k, int axis, zm_array **indices) {
  int at;
  zm_array *out[ZMI_MAX_OUT] = {NULL}, *x = axis_last("topk", a, axis, &at);
  const zmi_sort_attrs attrs = {ZMI_SORT_TOP, ZMI_SORT_BOTH, k};
  if (!x || zmi_apply(&zmi_op_topk, &attrs, sizeof attrs, 1, &x, out) != ZM_OK) return NULL;
  zm_array *values = axis_back(out[0], at), *index = axis_back(out[1], at);
  if (!values || !index) return NULL;
  if (indices) *indices = index;
  return values;
}
