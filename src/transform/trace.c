// Traces: calling a function so that its graph can be followed, and the walk from its results back to its inputs.
#include "transform/transform.h"

#include <string.h>

// ---- identity ----

static zm_status identity_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)n, (void)wanted;
  gradient[0] = given[0];
  return ZM_OK;
}

static zm_status identity_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  (void)n;
  result[0] = tangent[0];
  return ZM_OK;
}

static zm_status identity_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  (void)size, (void)batched;
  return zmi_apply_alias(n->op, NULL, 1, in, 1, out);
}

static const zmi_rules identity_rules = {.vjp = identity_vjp, .jvp = identity_jvp, .vmap = identity_vmap, .gradient = "x"};
static const zmi_op identity_op = {.name = "identity",
                                   .operands = "x",
                                   .rounding = "exact",
                                   .flags = ZMI_OP_ALIAS | ZMI_OP_TRACE | ZMI_OP_HIDDEN,
                                   .rules = &identity_rules};

zm_array *zmi_identity(zm_array *a) {
  zm_array *out[1] = {NULL};
  return zmi_apply_alias(&identity_op, NULL, 1, &a, 1, out) == ZM_OK ? out[0] : NULL;
}

// ---- calls ----

zm_status zmi_check_call(const char *who, zm_function f, zm_array *const *in, int nin, zm_array *const *out, int nout) {
  if (!f) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: the function is NULL", who);
  if (nin < 0 || nout < 1)
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: %d inputs and %d results; there must be at least one result", who, nin, nout);
  if ((nin > 0 && !in) || !out) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: the list of %s is NULL", who, out ? "inputs" : "results");
  for (int i = 0; i < nin; i++) {
    if (in[i]) continue;
    zm_status first = zm_last_status();
    return first != ZM_OK ? first : zmi_fail(ZM_ERROR_ARGUMENT, "%s: input %d is NULL", who, i);
  }
  return ZM_OK;
}

zm_status zmi_call_traced(const char *who, zm_function f, void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  for (int o = 0; o < nout; o++) out[o] = NULL;
  zmi_error_clear();
  zmi_trace_begin();
  zm_status status = f(user, in, nin, out, nout);
  zmi_trace_end();
  if (status != ZM_OK) {
    return zm_last_status() != ZM_OK ? status : zmi_fail(status, "%s: the function failed without a message", who);
  }
  for (int o = 0; o < nout; o++) {
    if (out[o]) continue;
    zm_status first = zm_last_status();
    return first != ZM_OK ? first : zmi_fail(ZM_ERROR_ARGUMENT, "%s: the function left result %d NULL", who, o);
  }
  return ZM_OK;
}

zm_status zmi_leave(zm_scope *scope, zm_status status, zm_array **a, int na, zm_array **b, int nb) {
  for (int i = 0; i < na && status == ZM_OK; i++) {
    if (!zm_scope_return(scope, a[i])) status = zm_last_status();
  }
  for (int i = 0; i < nb && status == ZM_OK; i++) {
    if (!zm_scope_return(scope, b[i])) status = zm_last_status();
  }
  zm_scope_close(scope);
  return status;
}

// ---- the walk ----
// While it runs, node->mark says how far a node has come and array->mark holds an array's number + 1. No rule and no function of the
// caller runs meanwhile; afterwards all marks are as other walks expect them.

enum { UNSEEN = -1, OPEN = -2, DONE = -3 };

typedef struct visit {
  zmi_node *node;
  int next;
} visit;

typedef struct walk {
  visit *stack;
  size_t depth, depth_capacity;
  zmi_node **order; // inputs first
  size_t count, capacity;
  uint64_t since;
} walk;

static bool open(walk *w, const zm_array *a) {
  zmi_node *n = a ? a->node : NULL;
  if (!n || n->serial <= w->since || n->mark == OPEN || n->mark == DONE) return true;
  if (!ZMI_GROW(w->stack, w->depth_capacity, w->depth + 1)) return false;
  n->mark = OPEN;
  w->stack[w->depth++] = (visit){n, 0};
  return true;
}

static bool order_from(walk *w, const zm_array *result) {
  if (!open(w, result)) return false;
  while (w->depth > 0) {
    visit *v = &w->stack[w->depth - 1];
    if (v->next < v->node->nin) {
      if (!open(w, v->node->in[v->next++])) return false;
      continue;
    }
    if (!ZMI_GROW(w->order, w->capacity, w->count + 1)) return false;
    w->order[w->count++] = v->node;
    v->node->mark = DONE;
    w->depth--;
  }
  return true;
}

static int number_of(const zm_array *a) {
  return a && a->mark > 0 ? (int)(a->mark - 1) : -1;
}

static void clear_marks(const walk *w, zm_array *const *inputs, int nin, zm_array *const *results, int nout) {
  for (size_t i = 0; i < w->count; i++) {
    const zmi_node *n = w->order[i];
    for (int k = 0; k < n->nin; k++) {
      if (n->in[k]) n->in[k]->mark = 0;
    }
    for (int o = 0; o < n->nout; o++) {
      if (n->out[o]) n->out[o]->mark = 0;
    }
  }
  for (int i = 0; i < nin; i++) inputs[i]->mark = 0;
  for (int i = 0; i < nout; i++) results[i]->mark = 0;
}

// Gives numbers; keeps the nodes that depend on an input.
static bool number(zmi_trace *t, const walk *w) {
  for (size_t i = 0; i < w->count; i++) {
    zmi_node *n = w->order[i];
    bool depends = false;
    for (int k = 0; k < n->nin; k++) depends = depends || number_of(n->in[k]) >= 0;
    if (!depends) continue;
    if (t->values > INT32_MAX - n->nout) {
      zmi_fail(ZM_ERROR_LIMIT, "a function of more than 2^31 arrays cannot be followed");
      return false;
    }
    if (!ZMI_GROW(t->steps, t->capacity, t->count + 1)) return false;
    if (!ZMI_GROW(t->numbers, t->number_capacity, t->number_count + (size_t)n->nin)) return false;
    t->steps[t->count++] = (zmi_step){.node = n, .first = t->values, .in = t->number_count};
    for (int k = 0; k < n->nin; k++) t->numbers[t->number_count++] = number_of(n->in[k]);
    for (int o = 0; o < n->nout; o++) {
      if (n->out[o]) n->out[o]->mark = t->values + o + 1;
    }
    t->values += n->nout;
    t->most_in = ZMI_MAX(t->most_in, n->nin);
    t->most_out = ZMI_MAX(t->most_out, n->nout);
  }
  return true;
}

zm_status zmi_trace_walk(zmi_trace *t, zm_array *const *inputs, int nin, zm_array *const *results, int nout, uint64_t since) {
  *t = (zmi_trace){.inputs = nin, .values = nin};
  walk w = {.since = since};
  t->results = zmi_calloc((size_t)nout, sizeof *t->results);
  t->held = zmi_calloc((size_t)nin + (size_t)nout, sizeof *t->held);
  bool good = t->results && t->held;
  for (int o = 0; o < nout && good; o++) good = order_from(&w, results[o]);
  for (size_t i = 0; i < w.depth; i++) w.stack[i].node->mark = UNSEEN;
  for (size_t i = 0; i < w.count; i++) w.order[i]->mark = UNSEEN;
  if (good) {
    clear_marks(&w, inputs, nin, results, nout);
    for (int i = 0; i < nin; i++) inputs[i]->mark = i + 1;
    good = number(t, &w);
    for (int o = 0; o < nout; o++) t->results[o] = number_of(results[o]);
    clear_marks(&w, inputs, nin, results, nout);
    for (int i = 0; i < nin; i++) t->held[t->held_count++] = zmi_array_retain(inputs[i]);
    for (int o = 0; o < nout; o++) t->held[t->held_count++] = zmi_array_retain(results[o]);
  }
  zmi_free(w.stack);
  zmi_free(w.order);
  return good ? ZM_OK : zm_last_status();
}

void zmi_trace_free(zmi_trace *t) {
  for (size_t i = 0; i < t->held_count; i++) zmi_array_release(t->held[i]);
  zmi_free(t->held);
  zmi_free(t->results);
  zmi_free(t->numbers);
  zmi_free(t->steps);
  *t = (zmi_trace){0};
}
