// zm_vmap: f is called once with placeholders of the types of slices; its graph is built again with the batch as one more axis.
#include "transform/transform.h"

#include <string.h>

typedef struct batch {
  zm_array **in, **placeholders, **front; // what f gets; the placeholders, and what they stand for with the batch in front
  int count;
  int64_t size; // -1 until the first batched input is seen
} batch;

static bool axis_of(int axis, int rank, int *at) {
  *at = axis < 0 ? axis + rank : axis;
  return *at >= 0 && *at < rank;
}

static zm_status add_input(batch *b, zm_array *const *in, int i, int axis) {
  const zmi_type *t = &in[i]->type;
  char text[128];
  int at;
  b->in[i] = in[i];
  if (axis == ZM_NO_AXIS) return ZM_OK;
  if (!axis_of(axis, t->rank, &at))
    return zmi_fail(ZM_ERROR_ARGUMENT, "zm_vmap: axis %d of input %d, which is %s, is out of range", axis, i, zmi_type_text(t, text));
  if (b->size >= 0 && b->size != t->shape[at]) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "zm_vmap: axis %d of input %d has %lld slices, the inputs before have %lld", axis, i,
                    (long long)t->shape[at], (long long)b->size);
  }
  b->size = t->shape[at];
  zmi_type slice = *t;
  slice.rank--;
  for (int k = at; k < slice.rank; k++) slice.shape[k] = t->shape[k + 1];
  for (int k = slice.rank; k < ZM_MAX_RANK; k++) slice.shape[k] = 0;
  b->front[b->count] = zmi_move_axis(in[i], at, 0);
  b->in[i] = b->placeholders[b->count] = zmi_placeholder("zm_vmap", &slice);
  return b->front[b->count] && b->placeholders[b->count++] ? ZM_OK : zm_last_status();
}

static zm_status add_inputs(batch *b, zm_array *const *in, int nin, const int *in_axes) {
  b->size = -1;
  b->in = zmi_calloc((size_t)nin + 1, sizeof *b->in);
  b->placeholders = zmi_calloc((size_t)nin + 1, sizeof *b->placeholders);
  b->front = zmi_calloc((size_t)nin + 1, sizeof *b->front);
  if (!b->in || !b->placeholders || !b->front) return ZM_ERROR_MEMORY;
  zm_status status = ZM_OK;
  for (int i = 0; i < nin && status == ZM_OK; i++) status = add_input(b, in, i, in_axes ? in_axes[i] : 0);
  if (status == ZM_OK && b->count == 0) status = zmi_fail(ZM_ERROR_ARGUMENT, "zm_vmap: no input is batched, so there are no slices");
  return status;
}

// The batch in front, or none at all, to where the caller wants it.
static zm_status place_batch(int64_t size, int o, int axis, zm_array *plain, zm_array **result) {
  char text[128];
  int at;
  if (!axis_of(axis, plain->type.rank + 1, &at)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "zm_vmap: axis %d for the batch of result %d, which is %s for each, is out of range", axis, o,
                    zmi_type_text(&plain->type, text));
  }
  *result = zmi_move_axis(zmi_batch(*result ? *result : plain, *result != NULL, size), 0, at);
  return *result ? ZM_OK : zm_last_status();
}

zm_status zm_vmap(zm_function f, void *user, zm_array *const *in, int nin, const int *in_axes, zm_array **out, int nout,
                  const int *out_axes) {
  zm_status status = zmi_check_call("zm_vmap", f, in, nin, out, nout);
  if (status != ZM_OK) return status;
  zm_scope *scope = zm_scope_open();
  zm_array **plain = zmi_calloc((size_t)nout * 2, sizeof *plain), **result = plain ? plain + nout : NULL;
  batch b = {0};
  zmi_trace trace = {0};
  if (!scope || !plain) status = ZM_ERROR_MEMORY;
  if (status == ZM_OK) status = add_inputs(&b, in, nin, in_axes);
  const uint64_t since = zmi_node_serial();
  if (status == ZM_OK) status = zmi_call_traced("zm_vmap", f, user, b.in, nin, plain, nout);
  if (status == ZM_OK) status = zmi_trace_walk(&trace, b.placeholders, b.count, plain, nout, since);
  if (status == ZM_OK) status = zmi_rebuild(&trace, b.size, b.front, result);
  for (int o = 0; o < nout && status == ZM_OK; o++) status = place_batch(b.size, o, out_axes ? out_axes[o] : 0, plain[o], &result[o]);
  zmi_trace_free(&trace);
  if (scope) status = zmi_leave(scope, status, result, nout, NULL, 0);
  for (int o = 0; o < nout && status == ZM_OK; o++) out[o] = result[o];
  zmi_free(b.in);
  zmi_free(b.placeholders);
  zmi_free(b.front);
  zmi_free(plain);
  return status;
}
