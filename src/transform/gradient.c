// zm_vjp, zm_jvp, zm_grad, zm_value_and_grad.
#include "transform/transform.h"

#include <string.h>

// A call of f that is followed: identities of the inputs that matter, f's own results.
typedef struct call {
  zm_array **in, **traced; // what f gets; the identities, `count` of them
  int count;
  zmi_trace trace;
} call;

// followed[k] = the input that identity k stands for; all inputs if NULL.
static zm_status follow(call *c, const char *who, zm_function f, void *user, zm_array *const *in, int nin, const int *followed, int count,
                        zm_array **out, int nout) {
  *c = (call){.count = followed ? count : nin};
  c->in = zmi_calloc((size_t)nin + 1, sizeof *c->in);
  c->traced = zmi_calloc((size_t)c->count + 1, sizeof *c->traced);
  if (!c->in || !c->traced) return ZM_ERROR_MEMORY;
  for (int i = 0; i < nin; i++) c->in[i] = in[i];
  for (int k = 0; k < c->count; k++) {
    const int i = followed ? followed[k] : k;
    if (!(c->traced[k] = zmi_identity(in[i]))) return zm_last_status();
    c->in[i] = c->traced[k];
  }
  const uint64_t since = zmi_node_serial();
  zm_status status = zmi_call_traced(who, f, user, c->in, nin, out, nout);
  return status == ZM_OK ? zmi_trace_walk(&c->trace, c->traced, c->count, out, nout, since) : status;
}

static void end(call *c) {
  zmi_trace_free(&c->trace);
  zmi_free(c->in);
  zmi_free(c->traced);
}

// The cotangents that are pulled: those given, ones where there are none. Types must be those of the results.
static zm_status seeds(const char *who, zm_array *const *given, zm_array *const *out, int nout, zm_array **seed) {
  char a[128], b[128];
  for (int o = 0; o < nout; o++) {
    if (!zmi_dtype_is_float(out[o]->type.dtype)) continue;
    seed[o] = given && given[o] ? given[o] : NULL;
    if (!seed[o] && !(seed[o] = zmi_full_like(out[o], 1))) return zm_last_status();
    if (!zmi_type_equal(&seed[o]->type, &out[o]->type)) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "%s: the cotangent of result %d is %s, the result is %s: they must have one type", who, o,
                      zmi_type_text(&seed[o]->type, a), zmi_type_text(&out[o]->type, b));
    }
  }
  return ZM_OK;
}

// gradient k of input followed[k] (k itself if NULL); zeros where nothing came back.
static zm_status fill(zm_array *const *in, const int *followed, int count, zm_array **gradients) {
  for (int k = 0; k < count; k++) {
    if (!gradients[k] && !(gradients[k] = zmi_full_like(in[followed ? followed[k] : k], 0))) return zm_last_status();
  }
  return ZM_OK;
}

// Results and gradients go to lists of this file first: the caller's stay untouched on failure.
static zm_status pull_through(const char *who, zm_function f, void *user, zm_array *const *in, int nin, const int *followed, int count,
                              zm_array *const *cotangents, bool scalar, zm_array **out, int nout, zm_array **gradients) {
  zm_status status = zmi_check_call(who, f, in, nin, out, nout);
  if (status != ZM_OK) return status;
  zm_scope *scope = zm_scope_open();
  zm_array **made = zmi_calloc((size_t)nout * 2 + (size_t)count + 1, sizeof *made);
  zm_array **seed = made ? made + nout : NULL, **gradient = made ? seed + nout : NULL;
  call c = {0};
  char text[128];
  if (!scope || !made) status = ZM_ERROR_MEMORY;
  if (status == ZM_OK) status = follow(&c, who, f, user, in, nin, followed, count, made, nout);
  if (status == ZM_OK && scalar && (zmi_type_count(&made[0]->type) != 1 || !zmi_dtype_is_float(made[0]->type.dtype))) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "%s: the first result is %s; it must be one float, to be differentiated", who,
                      zmi_type_text(&made[0]->type, text));
  }
  // Of several results of zm_value_and_grad only the first counts.
  if (status == ZM_OK) status = seeds(who, cotangents, made, scalar ? 1 : nout, seed);
  if (status == ZM_OK) status = zmi_pull(&c.trace, seed, gradient);
  if (status == ZM_OK) status = fill(in, followed, count, gradient);
  end(&c);
  if (scope) status = zmi_leave(scope, status, made, nout, gradient, count);
  for (int o = 0; o < nout && status == ZM_OK; o++) out[o] = made[o];
  for (int k = 0; k < count && status == ZM_OK; k++) gradients[k] = gradient[k];
  zmi_free(made);
  return status;
}

zm_status zm_vjp(zm_function f, void *user, zm_array *const *in, int nin, zm_array *const *cotangents, zm_array **out, int nout,
                 zm_array **gradients) {
  if (nin > 0 && !gradients) return zmi_fail(ZM_ERROR_ARGUMENT, "zm_vjp: the list of gradients is NULL");
  return pull_through("zm_vjp", f, user, in, nin, NULL, nin, cotangents, false, out, nout, gradients);
}

static zm_status checked_grad(const char *who, zm_function f, void *user, zm_array *const *in, int nin, const int *by, int count,
                              zm_array **out, int nout, zm_array **gradients) {
  static const int first = 0;
  char text[128];
  if (!by) by = &first, count = 1;
  if (count < 0 || (count > 0 && !gradients)) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: no list for the %d gradients", who, count);
  zm_status status = zmi_check_call(who, f, in, nin, out, nout);
  for (int k = 0; k < count && status == ZM_OK; k++) {
    if (by[k] < 0 || by[k] >= nin) {
      status = zmi_fail(ZM_ERROR_ARGUMENT, "%s: a gradient by input %d is asked for, there are %d inputs", who, by[k], nin);
    } else if (!zmi_dtype_is_float(in[by[k]]->type.dtype)) {
      status =
          zmi_fail(ZM_ERROR_ARGUMENT, "%s: input %d is %s: gradients are by floats", who, by[k], zmi_type_text(&in[by[k]]->type, text));
    }
    for (int j = 0; j < k && status == ZM_OK; j++) {
      if (by[j] == by[k]) status = zmi_fail(ZM_ERROR_ARGUMENT, "%s: the gradient by input %d is asked for twice", who, by[k]);
    }
  }
  return status == ZM_OK ? pull_through(who, f, user, in, nin, by, count, NULL, true, out, nout, gradients) : status;
}

zm_status zm_grad(zm_function f, void *user, zm_array *const *in, int nin, const int *by, int count, zm_array **gradients) {
  zm_array *out = NULL;
  return checked_grad("zm_grad", f, user, in, nin, by, count, &out, 1, gradients);
}

zm_status zm_value_and_grad(zm_function f, void *user, zm_array *const *in, int nin, const int *by, int count, zm_array **out, int nout,
                            zm_array **gradients) {
  return checked_grad("zm_value_and_grad", f, user, in, nin, by, count, out, nout, gradients);
}

static zm_status check_tangents(zm_array *const *in, int nin, zm_array *const *tangents) {
  char a[128], b[128];
  for (int i = 0; i < nin; i++) {
    if (!tangents[i] || !zmi_dtype_is_float(in[i]->type.dtype) || zmi_type_equal(&tangents[i]->type, &in[i]->type)) continue;
    return zmi_fail(ZM_ERROR_ARGUMENT, "zm_jvp: the tangent of input %d is %s, the input is %s: they must have one type", i,
                    zmi_type_text(&tangents[i]->type, a), zmi_type_text(&in[i]->type, b));
  }
  return ZM_OK;
}

zm_status zm_jvp(zm_function f, void *user, zm_array *const *in, int nin, zm_array *const *tangents, zm_array **out, int nout,
                 zm_array **tangents_out) {
  zm_status status = zmi_check_call("zm_jvp", f, in, nin, out, nout);
  if (status == ZM_OK && ((nin > 0 && !tangents) || !tangents_out)) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "zm_jvp: the list of tangents is NULL");
  }
  if (status == ZM_OK) status = check_tangents(in, nin, tangents);
  if (status != ZM_OK) return status;
  zm_scope *scope = zm_scope_open();
  zm_array **made = zmi_calloc((size_t)nout * 2, sizeof *made), **pushed = made ? made + nout : NULL;
  call c = {0};
  if (!scope || !made) status = ZM_ERROR_MEMORY;
  if (status == ZM_OK) status = follow(&c, "zm_jvp", f, user, in, nin, NULL, nin, made, nout);
  if (status == ZM_OK) status = zmi_push(&c.trace, tangents, pushed);
  if (status == ZM_OK) status = fill(made, NULL, nout, pushed);
  end(&c);
  if (scope) status = zmi_leave(scope, status, made, nout, pushed, nout);
  for (int o = 0; o < nout && status == ZM_OK; o++) {
    out[o] = made[o];
    tangents_out[o] = pushed[o];
  }
  zmi_free(made);
  return status;
}
