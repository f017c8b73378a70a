// What rules of ops are written with: builders that keep dtypes, and the ways in which ops take a batch.
#include "array/ops/ops.h"

zm_array *zmi_scalar_like(const zm_array *a, double value) {
  return a ? zm_full(value, a->type.dtype, NULL, 0) : NULL;
}

zm_array *zmi_full_like(const zm_array *a, double value) {
  return a ? zm_full(value, a->type.dtype, a->type.shape, a->type.rank) : NULL;
}

zm_array *zmi_sum_to(zm_array *a, const zmi_type *t) {
  if (!a) return NULL;
  const int more = a->type.rank - t->rank;
  for (int i = a->type.rank - 1; i >= 0 && a; i--) {
    const bool spread = i < more || (t->shape[i - more] == 1 && a->type.shape[i] != 1);
    if (spread) a = zm_sum(a, i, i >= more);
  }
  return a ? zm_astype(a, t->dtype) : NULL;
}

zm_array *zmi_move_axis(zm_array *a, int from, int to) {
  int axes[ZM_MAX_RANK], n = 0;
  if (!a || from == to) return a;
  for (int i = 0; i < a->type.rank; i++) {
    if (i != from) axes[n++] = i;
  }
  for (int i = a->type.rank - 1; i > to; i--) axes[i] = axes[i - 1];
  axes[to] = from;
  return zm_transpose(a, axes);
}

zm_array *zmi_spread(zm_array *reduced, int axis, bool keepdims, const zmi_type *t) {
  if (!reduced) return NULL;
  if (!keepdims) reduced = zm_expand_dims(reduced, axis);
  return reduced ? zm_broadcast_to(reduced, t->shape, t->rank) : NULL;
}

zm_status zmi_reapply(const zmi_node *n, zm_array *const *in, zm_array **out) {
  if (n->op->flags & ZMI_OP_ALIAS) return zmi_apply_alias(n->op, n->owner, n->nin, in, n->nout, out);
  return zmi_apply_owned(n->op, n->attrs.bytes, sizeof n->attrs, n->owner, n->nin, in, out);
}

zm_array *zmi_result(const zmi_node *n, int o) {
  zm_array *out[ZMI_MAX_OUT] = {NULL};
  if (n->out[o] || n->op->flags & ZMI_OP_ALIAS) return n->out[o];
  return zmi_reapply(n, n->in, out) == ZM_OK ? out[o] : NULL;
}

// ---- batches ----

// [size, shape...] of a type; false with a message if that is one dimension too many.
static bool batched_shape(const zmi_type *t, int64_t size, int64_t *shape) {
  if (t->rank == ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_LIMIT, "vmap: an array of rank %d has no room for the axis of the batch", t->rank);
    return false;
  }
  shape[0] = size;
  for (int i = 0; i < t->rank; i++) shape[i + 1] = t->shape[i];
  return true;
}

zm_array *zmi_batch(zm_array *a, bool batched, int64_t size) {
  int64_t shape[ZM_MAX_RANK];
  if (!a || batched) return a;
  return batched_shape(&a->type, size, shape) ? zm_broadcast_to(a, shape, a->type.rank + 1) : NULL;
}

zm_status zmi_vmap_elementwise(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  zm_array *all[ZMI_MAX_IN];
  for (int i = 0; i < n->nin; i++) {
    if (!(all[i] = zmi_batch(in[i], batched[i], size)) && in[i]) return zm_last_status();
  }
  return zmi_reapply(n, all, out);
}

// The first two axes as one.
static zm_array *fold(zm_array *a) {
  int64_t shape[ZM_MAX_RANK];
  if (!a) return NULL;
  shape[0] = a->type.shape[0] * a->type.shape[1];
  for (int i = 2; i < a->type.rank; i++) shape[i - 1] = a->type.shape[i];
  return zm_reshape(a, shape, a->type.rank - 1);
}

zm_status zmi_vmap_rows(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, unsigned rows, zm_array **out) {
  zm_array *all[ZMI_MAX_IN];
  for (int i = 0; i < n->nin; i++) {
    if (batched[i] && !(rows >> i & 1)) return zmi_vmap_slices(n, size, in, batched, out);
  }
  for (int i = 0; i < n->nin; i++) {
    all[i] = in[i];
    if (in[i] && rows >> i & 1 && !(all[i] = fold(zmi_batch(in[i], batched[i], size)))) return zm_last_status();
  }
  zm_status status = zmi_reapply(n, all, out);
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    int64_t shape[ZM_MAX_RANK + 1] = {size, size ? out[o]->type.shape[0] / size : 0};
    for (int i = 1; i < out[o]->type.rank; i++) shape[i + 1] = out[o]->type.shape[i];
    if (!(out[o] = zm_reshape(out[o], shape, out[o]->type.rank + 1))) status = zm_last_status();
  }
  return status;
}

static zm_array *slice_of(zm_array *a, int64_t i) {
  int64_t start[ZM_MAX_RANK] = {i}, stop[ZM_MAX_RANK] = {i + 1};
  if (!a) return NULL;
  for (int k = 1; k < a->type.rank; k++) stop[k] = a->type.shape[k];
  zm_array *s = zm_slice(a, start, stop, NULL);
  return s ? zm_squeeze(s, 0) : NULL;
}

static zm_status apply_slice(const zmi_node *n, int64_t i, zm_array *const *in, const bool *batched, zm_array **parts, int64_t size) {
  zm_array *one[ZMI_MAX_IN], *out[ZMI_MAX_OUT] = {NULL};
  for (int k = 0; k < n->nin; k++) {
    one[k] = batched[k] ? slice_of(in[k], i) : in[k];
    if (in[k] && !one[k]) return zm_last_status();
  }
  zm_status status = zmi_reapply(n, one, out);
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    if (!(parts[o * size + i] = zm_expand_dims(out[o], 0))) status = zm_last_status();
  }
  return status;
}

// The types of the results come from a first application even where the batch is empty.
static zm_status no_slices(const zmi_node *n, zm_array *const *in, const bool *batched, zm_array **out) {
  zm_array *one[ZMI_MAX_IN];
  int64_t shape[ZM_MAX_RANK];
  for (int k = 0; k < n->nin; k++) {
    one[k] = in[k];
    if (in[k] && batched[k] && !(one[k] = zm_full(0, in[k]->type.dtype, in[k]->type.shape + 1, in[k]->type.rank - 1)))
      return zm_last_status();
  }
  zm_status status = zmi_reapply(n, one, out);
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    if (!batched_shape(&out[o]->type, 0, shape)) return zm_last_status();
    if (!(out[o] = zm_full(0, out[o]->type.dtype, shape, out[o]->type.rank + 1))) status = zm_last_status();
  }
  return status;
}

zm_status zmi_vmap_slices(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  if (n->nin > ZMI_MAX_IN || n->nout > ZMI_MAX_OUT) return zmi_fail(ZM_ERROR_UNSUPPORTED, "vmap: %s has too many operands", n->op->name);
  if (size == 0) return no_slices(n, in, batched, out);
  zm_array **parts = zmi_calloc((size_t)size, (size_t)ZMI_MAX(n->nout, 1) * sizeof(zm_array *));
  if (!parts) return ZM_ERROR_MEMORY;
  zm_status status = ZM_OK;
  for (int64_t i = 0; i < size && status == ZM_OK; i++) status = apply_slice(n, i, in, batched, parts, size);
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    if (!(out[o] = zm_concatenate(parts + o * size, (size_t)size, 0))) status = zm_last_status();
  }
  zmi_free(parts);
  return status;
}

zm_status zmi_vmap_refused(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  (void)size, (void)in, (void)batched, (void)out;
  return zmi_fail(ZM_ERROR_UNSUPPORTED,
                  "vmap: %s updates a state in place, and the slices of a batch would share it; give rows of several "
                  "sequences instead",
                  n->op->name);
}
