// The three walks over a trace, each node by its op's rules. They loop, they do not recurse: depth costs nothing but the list of steps.
#include "transform/transform.h"

#include <string.h>

// Room for one step's operands and results.
typedef struct room {
  zm_array **in, **out;
  bool *flags;
} room;

static zm_status make_room(const zmi_trace *t, room *r) {
  r->in = zmi_calloc((size_t)ZMI_MAX(t->most_in, 1), sizeof *r->in);
  r->out = zmi_calloc((size_t)ZMI_MAX(t->most_out, 1), sizeof *r->out);
  r->flags = zmi_calloc((size_t)ZMI_MAX(t->most_in, 1), sizeof *r->flags);
  return r->in && r->out && r->flags ? ZM_OK : ZM_ERROR_MEMORY;
}

static void free_room(room *r) {
  zmi_free(r->in);
  zmi_free(r->out);
  zmi_free(r->flags);
}

static zm_status no_rule(const char *what, const zmi_node *n) {
  const char *why = n->op->rules && n->op->rules->gradient ? n->op->rules->gradient : "it has no rules";
  return zmi_fail(ZM_ERROR_UNSUPPORTED, "%s: no gradient goes through %s (%s)%s%s", what, n->op->name, why, n->label ? ", at " : "",
                  n->label ? n->label : "");
}

// An error that was set while a rule ran fails it.
static zm_status outcome(const zmi_node *n, const char *what, zm_status status) {
  if (status == ZM_OK) status = zm_last_status();
  if (status != ZM_OK) zmi_fail_within("%s of %s", what, n->op->name);
  return status;
}

static zm_status check_type(const zmi_node *n, const char *what, int i, const zm_array *a, const zmi_type *wanted) {
  char found[128], text[128];
  if (!a || zmi_type_equal(&a->type, wanted)) return ZM_OK;
  return zmi_fail(ZM_ERROR_MISMATCH, "%s of %s gave %s for %d, which is %s", what, n->op->name, zmi_type_text(&a->type, found), i,
                  zmi_type_text(wanted, text));
}

static zm_status accumulate(zm_array **sum, zm_array *part) {
  *sum = *sum ? zm_add(*sum, part) : part;
  return *sum ? ZM_OK : zm_last_status();
}

// ---- pull ----

static zm_status pull_step(const zmi_trace *t, const zmi_step *s, room *r, zm_array **values) {
  const zmi_node *n = s->node;
  const int *in = t->numbers + s->in;
  bool any = false, some = false;
  for (int o = 0; o < n->nout; o++) any = any || values[s->first + o];
  for (int k = 0; k < n->nin; k++) {
    r->flags[k] = in[k] >= 0 && zmi_dtype_is_float(n->in[k]->type.dtype);
    r->in[k] = NULL;
    some = some || r->flags[k];
  }
  if (!any || !some) return ZM_OK;
  if (!n->op->rules || !n->op->rules->vjp) return no_rule("vjp", n);
  zmi_error_clear();
  zm_status status = outcome(n, "vjp", n->op->rules->vjp(n, values + s->first, r->flags, r->in));
  for (int k = 0; k < n->nin && status == ZM_OK; k++) {
    if (!r->flags[k] || !r->in[k]) continue;
    status = check_type(n, "vjp", k, r->in[k], &n->in[k]->type);
    if (status == ZM_OK) status = accumulate(&values[in[k]], r->in[k]);
  }
  return status;
}

zm_status zmi_pull(const zmi_trace *t, zm_array *const *cotangents, zm_array **gradients) {
  room r = {0};
  zm_array **values = zmi_calloc((size_t)ZMI_MAX(t->values, 1), sizeof *values);
  zm_status status = make_room(t, &r);
  if (!values) status = ZM_ERROR_MEMORY;
  for (size_t o = 0; o + (size_t)t->inputs < t->held_count && status == ZM_OK; o++) {
    const zm_array *result = t->held[(size_t)t->inputs + o];
    if (t->results[o] >= 0 && cotangents[o] && zmi_dtype_is_float(result->type.dtype))
      status = accumulate(&values[t->results[o]], cotangents[o]);
  }
  const bool before = zmi_mark_back(true);
  for (size_t i = t->count; i-- > 0 && status == ZM_OK;) status = pull_step(t, &t->steps[i], &r, values);
  zmi_mark_back(before);
  for (int i = 0; i < t->inputs && status == ZM_OK; i++) gradients[i] = values[i];
  free_room(&r);
  zmi_free(values);
  return status;
}

// ---- push ----

// J t through the vjp alone: g(u) = J^T u is linear in u, so its own vjp at t is J t.
static zm_status twice(const zmi_node *n, zm_array *const *tangent, const bool *wanted, zm_array **result) {
  zm_status status = ZM_OK;
  zmi_trace t = {0};
  const size_t outs = (size_t)n->nout, ins = (size_t)n->nin;
  zm_array **memory = zmi_calloc(3 * outs + 3 * ins, sizeof *memory);
  if (!memory) return ZM_ERROR_MEMORY;
  zm_array **given = memory, **u = given + outs, **back = u + outs, **gradient = back + outs, **parts = gradient + ins, **by = parts + ins;
  int floats = 0, count = 0;
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    const zm_array *out = n->out[o];
    if (!out || !zmi_dtype_is_float(out->type.dtype)) continue;
    given[o] = u[floats] = zmi_identity(zmi_full_like(out, 0));
    if (!u[floats++]) status = zm_last_status();
  }
  const uint64_t since = zmi_node_serial();
  if (status == ZM_OK) status = n->op->rules->vjp(n, given, wanted, gradient);
  if (status == ZM_OK) status = zm_last_status();
  for (int k = 0; k < n->nin && status == ZM_OK; k++) {
    if (!wanted[k] || !gradient[k]) continue;
    parts[count] = gradient[k];
    by[count++] = tangent[k];
    status = check_type(n, "vjp", k, gradient[k], &n->in[k]->type);
  }
  if (status == ZM_OK && count > 0) {
    status = zmi_trace_walk(&t, u, floats, parts, count, since);
    if (status == ZM_OK) status = zmi_pull(&t, by, back);
    zmi_trace_free(&t);
  }
  floats = 0;
  for (int o = 0; o < n->nout; o++) result[o] = given[o] ? back[floats++] : NULL;
  zmi_free(memory);
  return status;
}

static zm_status push_step(const zmi_trace *t, const zmi_step *s, room *r, zm_array **values) {
  const zmi_node *n = s->node;
  const int *in = t->numbers + s->in;
  bool any = false, floats = false;
  for (int k = 0; k < n->nin; k++) {
    r->in[k] = in[k] >= 0 ? values[in[k]] : NULL;
    r->flags[k] = r->in[k] != NULL;
    any = any || r->in[k];
  }
  for (int o = 0; o < n->nout; o++) {
    r->out[o] = NULL;
    floats = floats || (n->out[o] && zmi_dtype_is_float(n->out[o]->type.dtype));
  }
  if (!any || !floats) return ZM_OK;
  const zmi_rules *rules = n->op->rules;
  if (!rules || (!rules->jvp && !rules->vjp)) return no_rule("jvp", n);
  zmi_error_clear();
  zm_status status = outcome(n, "jvp", rules->jvp ? rules->jvp(n, r->in, r->out) : twice(n, r->in, r->flags, r->out));
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    if (n->out[o]) status = check_type(n, "jvp", o, r->out[o], &n->out[o]->type);
    values[s->first + o] = r->out[o];
  }
  return status;
}

zm_status zmi_push(const zmi_trace *t, zm_array *const *tangents, zm_array **results) {
  room r = {0};
  zm_array **values = zmi_calloc((size_t)ZMI_MAX(t->values, 1), sizeof *values);
  zm_status status = make_room(t, &r);
  if (!values) status = ZM_ERROR_MEMORY;
  for (int i = 0; i < t->inputs && status == ZM_OK; i++) values[i] = zmi_dtype_is_float(t->held[i]->type.dtype) ? tangents[i] : NULL;
  for (size_t i = 0; i < t->count && status == ZM_OK; i++) status = push_step(t, &t->steps[i], &r, values);
  for (size_t o = 0; o + (size_t)t->inputs < t->held_count && status == ZM_OK; o++)
    results[o] = t->results[o] >= 0 ? values[t->results[o]] : NULL;
  free_room(&r);
  zmi_free(values);
  return status;
}

// ---- rebuild ----

// Whether a is what `before` is for each slice.
static zm_status check_batch(const zmi_node *n, int64_t size, int o, const zm_array *a) {
  char found[128], text[128];
  if (!n->out[o]) return ZM_OK;
  const zmi_type *t = &n->out[o]->type;
  bool good = a && a->type.dtype == t->dtype && a->type.rank == t->rank + 1 && a->type.shape[0] == size;
  for (int i = 0; good && i < t->rank; i++) good = a->type.shape[i + 1] == t->shape[i];
  if (good) return ZM_OK;
  return zmi_fail(ZM_ERROR_MISMATCH, "vmap of %s gave %s for result %d, which is %s for each of %lld", n->op->name,
                  a ? zmi_type_text(&a->type, found) : "nothing", o, zmi_type_text(t, text), (long long)size);
}

static zm_status rebuild_step(const zmi_trace *t, const zmi_step *s, int64_t size, room *r, zm_array **values) {
  const zmi_node *n = s->node;
  const int *in = t->numbers + s->in;
  for (int k = 0; k < n->nin; k++) {
    r->flags[k] = in[k] >= 0;
    r->in[k] = r->flags[k] ? values[in[k]] : n->in[k];
  }
  for (int o = 0; o < n->nout; o++) r->out[o] = NULL;
  const zmi_rules *rules = n->op->rules;
  zmi_error_clear();
  const bool before = zmi_mark_back(n->back);
  zm_status status =
      rules && rules->vmap ? rules->vmap(n, size, r->in, r->flags, r->out) : zmi_vmap_slices(n, size, r->in, r->flags, r->out);
  zmi_mark_back(before);
  status = outcome(n, "vmap", status);
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    status = check_batch(n, size, o, r->out[o]);
    values[s->first + o] = r->out[o];
  }
  return status;
}

zm_status zmi_rebuild(const zmi_trace *t, int64_t size, zm_array *const *in, zm_array **results) {
  room r = {0};
  zm_array **values = zmi_calloc((size_t)ZMI_MAX(t->values, 1), sizeof *values);
  zm_status status = make_room(t, &r);
  if (!values) status = ZM_ERROR_MEMORY;
  for (int i = 0; i < t->inputs && status == ZM_OK; i++) values[i] = in[i];
  for (size_t i = 0; i < t->count && status == ZM_OK; i++) status = rebuild_step(t, &t->steps[i], size, &r, values);
  for (size_t o = 0; o + (size_t)t->inputs < t->held_count && status == ZM_OK; o++)
    results[o] = t->results[o] >= 0 ? values[t->results[o]] : NULL;
  free_room(&r);
  zmi_free(values);
  return status;
}
