// Functions that are one node for transforms: zm_checkpoint and zm_custom_vjp, and zm_stop_gradient. All are aliases: what f gives is
// computed by the graph that f builds; the node over it says how cotangents get past.
//
// Operands of the node: the results of f (which gradients do not enter: f gets its inputs through a stop), then f's inputs.
#include "transform/transform.h"

#include <string.h>

// ---- stop_gradient ----

static zm_status stop_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)n, (void)given, (void)wanted, (void)gradient;
  return ZM_OK;
}

static zm_status stop_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  (void)n, (void)tangent, (void)result;
  return ZM_OK;
}

static zm_status stop_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  (void)size, (void)batched;
  return zmi_apply_alias(n->op, NULL, 1, in, 1, out);
}

static const zmi_rules stop_rules = {.vjp = stop_vjp, .jvp = stop_jvp, .vmap = stop_vmap, .gradient = "zero"};
static const zmi_op stop_op = {
    .name = "stop_gradient", .operands = "x", .rounding = "exact", .flags = ZMI_OP_ALIAS | ZMI_OP_HIDDEN, .rules = &stop_rules};

zm_array *zm_stop_gradient(zm_array *a) {
  zm_array *out[1] = {NULL};
  return zmi_apply_alias(&stop_op, NULL, 1, &a, 1, out) == ZM_OK ? out[0] : NULL;
}

// ---- closures ----

typedef struct closure {
  zmi_owner owner;
  zm_function f;
  zm_vjp_function vjp; // NULL: f is differentiated where it is needed (checkpoint)
  void *user;          // of both; the caller's
  int nin, nout;
  // The closure for each slice of a batch: which of its operands are batched.
  struct closure *of;
  int64_t size;
  bool batched[];
} closure;

static void free_closure(zmi_owner *owner) {
  closure *c = (closure *)owner;
  if (c->of) zmi_owner_release(&c->of->owner);
  zmi_free(c);
}

static closure *new_closure(int nin, int nout) {
  closure *c = zmi_calloc(1, sizeof *c + (size_t)nin + (size_t)nout);
  if (!c) return NULL;
  c->owner.refs = 1;
  c->owner.free = free_closure;
  c->nin = nin;
  c->nout = nout;
  return c;
}

// What a call of a closure's vjp works on: in[0..nout) the results of f, then its inputs, then the cotangents.
typedef struct call {
  const zmi_op *op;
  closure *c;
} call;

static zm_status batched_vjp(const call *k, zm_array *const *in, zm_array **gradients);

// A fresh node over the same operands gives the results as arrays of the graph, so that a gradient that uses them can be differentiated.
static zm_status authors_vjp(const call *k, zm_array *const *in, zm_array **gradients) {
  closure *c = k->c;
  zm_array **out = zmi_calloc((size_t)c->nout, sizeof *out);
  zm_status status = out ? zmi_apply_alias(k->op, &c->owner, c->nout + c->nin, in, c->nout, out) : ZM_ERROR_MEMORY;
  if (status == ZM_OK) {
    zmi_error_clear();
    status = c->vjp(c->user, in + c->nout, c->nin, out, in + c->nout + c->nin, c->nout, gradients);
    if (status == ZM_OK)
      zmi_error_clear(); // what failed inside and was dealt with there is no failure
    else if (zm_last_status() == ZM_OK)
      zmi_fail(status, "the author's vjp failed without a message");
  }
  zmi_free(out);
  return status;
}

static zm_status checkpoint_vjp(const call *k, zm_array *const *in, zm_array **gradients) {
  const closure *c = k->c;
  zm_array **out = zmi_calloc((size_t)c->nout, sizeof *out);
  zm_status status = out ? zm_vjp(c->f, c->user, in + c->nout, c->nin, in + c->nout + c->nin, out, c->nout, gradients) : ZM_ERROR_MEMORY;
  if (status == ZM_OK) zmi_error_clear();
  zmi_free(out);
  return status;
}

// gradients[i] of input i; NULL is zero.
static zm_status closure_gradients(const call *k, zm_array *const *in, zm_array **gradients) {
  if (k->c->of) return batched_vjp(k, in, gradients);
  return k->c->vjp ? authors_vjp(k, in, gradients) : checkpoint_vjp(k, in, gradients);
}

static zm_status for_one_slice(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const call *k = user;
  (void)nin;
  zm_status status = closure_gradients(k, in, out);
  for (int i = 0; i < nout && status == ZM_OK; i++) {
    if (!out[i] && !(out[i] = zmi_full_like(in[k->c->nout + i], 0))) status = zm_last_status();
  }
  return status;
}

// The vjp of the closure for one slice, batched; an input that all slices share gets the sum of their gradients.
static zm_status batched_vjp(const call *k, zm_array *const *in, zm_array **gradients) {
  const closure *c = k->c;
  if (c->nin == 0) return ZM_OK;
  const int operands = c->nout + c->nin, all = operands + c->nout;
  int *axes = zmi_calloc((size_t)all, sizeof *axes);
  if (!axes) return ZM_ERROR_MEMORY;
  for (int i = 0; i < all; i++) axes[i] = i >= operands || c->batched[i] ? 0 : ZM_NO_AXIS;
  call one = {k->op, c->of};
  zm_status status = zm_vmap(for_one_slice, &one, in, all, axes, gradients, c->nin, NULL);
  for (int i = 0; i < c->nin && status == ZM_OK; i++) {
    if (c->batched[c->nout + i] || !zmi_dtype_is_float(gradients[i]->type.dtype)) continue;
    if (!(gradients[i] = zm_sum(gradients[i], 0, false))) status = zm_last_status();
  }
  zmi_free(axes);
  return status;
}

static zm_status closure_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  closure *c = (closure *)n->owner;
  (void)wanted;
  zm_array **in = zmi_calloc((size_t)n->nin + (size_t)n->nout, sizeof *in);
  if (!in) return ZM_ERROR_MEMORY;
  zm_status status = ZM_OK;
  memcpy(in, n->in, (size_t)n->nin * sizeof *in);
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    in[n->nin + o] = given[o] ? given[o] : zmi_full_like(n->in[o], 0);
    if (!in[n->nin + o]) status = zm_last_status();
  }
  call k = {n->op, c};
  if (status == ZM_OK) status = closure_gradients(&k, in, gradient + n->nout);
  zmi_free(in);
  return status;
}

static zm_status closure_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  closure *of = (closure *)n->owner, *c = new_closure(of->nin, of->nout);
  zm_array **all = zmi_calloc((size_t)n->nin, sizeof *all);
  zm_status status = c && all ? ZM_OK : ZM_ERROR_MEMORY;
  for (int k = 0; k < n->nin && status == ZM_OK; k++) {
    c->batched[k] = k < n->nout || batched[k];
    all[k] = k < n->nout ? zmi_batch(in[k], batched[k], size) : in[k];
    if (!all[k]) status = zm_last_status();
  }
  if (status == ZM_OK) {
    c->of = (closure *)zmi_owner_retain(&of->owner);
    c->size = size;
    status = zmi_apply_alias(n->op, &c->owner, n->nin, all, n->nout, out);
  }
  if (c) zmi_owner_release(&c->owner);
  zmi_free(all);
  return status;
}

static const zmi_rules closure_rules = {.vjp = closure_vjp, .vmap = closure_vmap, .gradient = "the inputs of the function"};
static const zmi_op checkpoint_op = {
    .name = "checkpoint", .operands = "xs*", .rounding = "exact", .flags = ZMI_OP_ALIAS | ZMI_OP_HIDDEN, .rules = &closure_rules};
static const zmi_op custom_op = {
    .name = "custom_vjp", .operands = "xs*", .rounding = "exact", .flags = ZMI_OP_ALIAS | ZMI_OP_HIDDEN, .rules = &closure_rules};

static zm_status enclose(const char *who, const zmi_op *op, closure *c, zm_array *const *in, zm_array **out) {
  const int nin = c->nin, nout = c->nout;
  zm_scope *scope = zm_scope_open();
  zm_array **operands = zmi_calloc((size_t)nout + 2 * (size_t)nin, sizeof *operands);
  zm_array **stopped = operands ? operands + nout + nin : NULL;
  zm_array **made = zmi_calloc((size_t)nout, sizeof *made);
  zm_status status = scope && operands && made ? ZM_OK : ZM_ERROR_MEMORY;
  for (int i = 0; i < nin && status == ZM_OK; i++) {
    operands[nout + i] = in[i];
    if (!(stopped[i] = zm_stop_gradient(in[i]))) status = zm_last_status();
  }
  if (status == ZM_OK) status = zmi_call_traced(who, c->f, c->user, stopped, nin, operands, nout);
  if (status == ZM_OK) status = zmi_apply_alias(op, &c->owner, nout + nin, operands, nout, made);
  if (scope) status = zmi_leave(scope, status, made, nout, NULL, 0);
  for (int o = 0; o < nout && status == ZM_OK; o++) out[o] = made[o];
  zmi_free(operands);
  zmi_free(made);
  return status;
}

static zm_status apply(const char *who, const zmi_op *op, zm_function f, zm_vjp_function vjp, void *user, zm_array *const *in, int nin,
                       zm_array **out, int nout) {
  zm_status status = zmi_check_call(who, f, in, nin, out, nout);
  if (status != ZM_OK) return status;
  closure *c = new_closure(nin, nout);
  if (!c) return ZM_ERROR_MEMORY;
  c->f = f;
  c->vjp = vjp;
  c->user = user;
  status = enclose(who, op, c, in, out);
  zmi_owner_release(&c->owner);
  return status;
}

zm_status zm_checkpoint(zm_function f, void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return apply("zm_checkpoint", &checkpoint_op, f, NULL, user, in, nin, out, nout);
}

zm_status zm_custom_vjp(zm_function f, zm_vjp_function vjp, void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  if (!vjp) return zmi_fail(ZM_ERROR_ARGUMENT, "zm_custom_vjp: the gradient function is NULL");
  return apply("zm_custom_vjp", &custom_op, f, vjp, user, in, nin, out, nout);
}
