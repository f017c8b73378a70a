// Derivatives and batches of kernels. Gradients and tangents are kernels themselves, made from the typed code (or given by the author),
// and kept with the kernel that they belong to, as training asks for the same ones in each step.
#include "array/ops/kernel.h"

#include <string.h>

// ---- kernels of derivatives ----

struct zmi_derived {
  zmi_derived *next;
  bool tangent;           // jvp, not vjp
  uint64_t given, wanted; // bits
  zmi_bound *bound;       // one reference
  zmi_bound *traces;      // gives the operands that `bound` takes between the inputs and the cotangents; NULL: none
  zmi_bound *part[2];     // instead of `bound`: the function in two, whose gradients are taken one after the other
  zmi_parts parts;        // how these are made, without the codes
};

static void release(zmi_bound *b) {
  if (b) zmi_owner_release(&b->owner);
}

void zmi_derived_free(zmi_derived *d) {
  while (d) {
    zmi_derived *next = d->next;
    release(d->bound), release(d->traces), release(d->part[0]), release(d->part[1]);
    zmi_free(d);
    d = next;
  }
}

// The gradient of the function in two, after an error that says that it cannot be taken at once; that error stays where there is one part.
static zmi_derived *make_parts(const zmi_code *code, const bool *wanted) {
  zmi_parts parts;
  if (zmi_code_parts(code, wanted, &parts) != ZM_OK || !parts.first) return NULL;
  zmi_derived *d = zmi_calloc(1, sizeof *d);
  if (d) {
    d->parts = parts;
    d->parts.first = d->parts.rest = NULL;
    d->part[0] = zmi_bound_new(parts.first, NULL);
    d->part[1] = d->part[0] ? zmi_bound_new(parts.rest, NULL) : NULL;
    if (!d->part[1]) zmi_derived_free(d), d = NULL;
  }
  zmi_parts_release(&parts);
  if (d) zmi_error_clear();
  return d;
}

static zmi_derived *make_derived(const zmi_code *code, bool tangent, uint64_t given, uint64_t wanted) {
  bool g[ZMI_CODE_MAX] = {false}, w[ZMI_CODE_MAX] = {false};
  for (int i = 0; i < ZMI_CODE_MAX; i++) {
    g[i] = given >> i & 1;
    w[i] = wanted >> i & 1;
  }
  zmi_code *traces = NULL, *made = tangent ? zmi_code_jvp(code, w) : zmi_code_vjp_traced(code, g, w, &traces);
  const zm_status why = made ? ZM_OK : zm_last_status();
  zmi_derived *d = NULL;
  if (!tangent && (why == ZM_ERROR_UNSUPPORTED || why == ZM_ERROR_LIMIT)) {
    d = make_parts(code, w);
  } else if (made && (d = zmi_calloc(1, sizeof *d))) {
    d->bound = zmi_bound_new(made, NULL);
    d->traces = d->bound && traces ? zmi_bound_new(traces, NULL) : NULL;
    if (!d->bound || (traces && !d->traces)) zmi_derived_free(d), d = NULL;
  }
  if (d) d->tangent = tangent, d->given = given, d->wanted = wanted;
  zmi_code_free(made);
  zmi_code_free(traces);
  return d;
}

// The kernel of a derivative, which belongs to `b`.
static const zmi_derived *derived_of(zmi_bound *b, bool tangent, uint64_t given, uint64_t wanted) {
  pthread_mutex_lock(&b->lock);
  zmi_derived *d = b->derived;
  while (d && (d->tangent != tangent || d->given != given || d->wanted != wanted)) d = d->next;
  if (!d && (d = make_derived(zmi_instance_code(b->instance), tangent, given, wanted))) {
    d->next = b->derived;
    b->derived = d;
  }
  pthread_mutex_unlock(&b->lock);
  return d;
}

// Applies it to the inputs and, after what they were at each place if it asks for that, to the cotangents or tangents.
static zm_status derived_apply(const zmi_derived *d, const zmi_node *n, int count, zm_array *const *moved, zm_array **results) {
  const double *params = ((const zmi_kernel_attrs *)(const void *)n->attrs.bytes)->param;
  zm_array *operands[3 * ZMI_CODE_MAX], *traces[ZMI_MAX_OUT];
  int nin = 0;
  for (int i = 0; i < n->nin; i++) operands[nin++] = n->in[i];
  if (d->traces) {
    zm_status status = zmi_bound_apply(d->traces, n->nin, n->in, params, NULL, traces);
    if (status != ZM_OK) return status;
    for (int i = 0; i < zmi_instance_code(d->traces->instance)->nout; i++) operands[nin++] = traces[i];
  }
  for (int i = 0; i < count; i++) operands[nin++] = moved[i];
  return zmi_bound_apply(d->bound, nin, operands, params, NULL, results);
}

// ---- gradients by the author ----

static zm_array *zeros_like(const zmi_type *t) {
  return zm_full(0, t->dtype, t->shape, t->rank);
}

static zm_status results_of(const zmi_node *n, zm_array **out) {
  for (int o = 0; o < n->nout; o++) {
    if (!(out[o] = zmi_result(n, o))) return zm_last_status();
  }
  return ZM_OK;
}

// Types of results without making them.
static zm_status result_types(const zmi_node *n, zmi_type *types) {
  zmi_type in[ZMI_MAX_IN];
  int nout = 0;
  for (int i = 0; i < n->nin; i++) in[i] = n->in[i]->type;
  memset(types, 0, ZMI_MAX_OUT * sizeof *types);
  return n->op->infer(n->attrs.bytes, n->nin, in, &nout, types);
}

// The author's gradient of input i for the cotangents, which are all there; as its kernel gives it.
static zm_array *apply_gradient(const zmi_author *a, int i, const zmi_node *n, zm_array *const *out, zm_array *const *cotangents) {
  zm_array *operands[ZMI_MAX_IN], *result = NULL;
  int count = 0;
  for (int k = 0; k < n->nin; k++) operands[count++] = n->in[k];
  const zmi_code *code = zmi_node_code(n);
  const bool rows = code->form == ZMI_FORM_ROWS;
  for (int o = 0; o < n->nout; o++) operands[count++] = rows && code->per_row[o] ? zm_expand_dims(out[o], -1) : out[o];
  for (int o = 0; o < n->nout; o++) operands[count++] = rows && code->per_row[o] ? zm_expand_dims(cotangents[o], -1) : cotangents[o];
  return zm_op_apply_with(a->gradient[i], operands, count, NULL, 0, &result, 1) == ZM_OK ? result : NULL;
}

static zm_array *author_gradient(const zmi_author *a, int i, const zmi_node *n, zm_array *const *out, zm_array *const *cotangents) {
  zm_array *result = apply_gradient(a, i, n, out, cotangents);
  return result ? zm_broadcast_to(zm_astype(result, n->in[i]->type.dtype), n->in[i]->type.shape, n->in[i]->type.rank) : NULL;
}

static zm_status author_vjp(const zmi_author *a, const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient,
                            bool *left) {
  zm_array *out[ZMI_MAX_OUT] = {NULL}, *cotangents[ZMI_MAX_OUT];
  zm_status status = results_of(n, out);
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    cotangents[o] = given[o] ? given[o] : zeros_like(&out[o]->type);
    if (!cotangents[o]) status = zm_last_status();
  }
  if (status != ZM_OK) return status;
  if (a->vjp) {
    const double *params = ((const zmi_kernel_attrs *)(const void *)n->attrs.bytes)->param;
    status = a->vjp(a->user, params, n->in, n->nin, out, cotangents, n->nout, gradient);
    for (int i = 0; i < n->nin && status == ZM_OK; i++) {
      char found[128], expected[128];
      if (gradient[i] && !zmi_type_equal(&gradient[i]->type, &n->in[i]->type))
        status = zmi_fail(ZM_ERROR_ARGUMENT, "the author's gradient of operand %d is %s, the operand is %s", i + 1,
                          zmi_type_text(&gradient[i]->type, found), zmi_type_text(&n->in[i]->type, expected));
    }
    return status;
  }
  for (int i = 0; i < n->nin; i++) {
    if (!wanted[i]) continue;
    if (i >= ZMI_KERNEL_IN || !a->gradient[i]) {
      left[i] = true;
    } else {
      gradient[i] = author_gradient(a, i, n, out, cotangents);
      if (!gradient[i]) return zm_last_status();
    }
  }
  return ZM_OK;
}

// ---- vjp ----

static zm_status kernel_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient);

static bool reads(const zmi_code *c, int operand) {
  for (size_t i = 0; i < c->count; i++) {
    if (c->insts[i].op == ZMI_K_INPUT && c->insts[i].index == operand) return true;
  }
  return false;
}

// A function in two: both are applied, and what goes back through the rest goes on through the first.
static zm_status parts_vjp(const zmi_derived *d, const zmi_node *n, zm_array *const *given, zm_array **gradient) {
  const zmi_code *code[2] = {zmi_instance_code(d->part[0]->instance), zmi_instance_code(d->part[1]->instance)};
  const double *params = zmi_node_params(n);
  const int own = code[0]->nout - d->parts.passed; // results of the first that are results of the function
  zm_array *in[ZMI_CODE_MAX], *out[2][ZMI_MAX_OUT], *to[2][ZMI_MAX_OUT] = {{NULL}}, *by[2][ZMI_CODE_MAX] = {{NULL}};
  bool want[2][ZMI_CODE_MAX] = {{false}}, any[2] = {false};
  for (int i = 0; i < n->nin; i++) {
    if (!(in[i] = zm_astype(n->in[i], code[0]->in[i]))) return zm_last_status();
    for (int p = 0; p < 2; p++) want[p][i] = d->wanted >> i & 1 && reads(code[p], i);
  }
  if (zmi_bound_apply(d->part[0], n->nin, in, params, NULL, out[0]) != ZM_OK) return zm_last_status();
  for (int k = 0; k < d->parts.passed; k++) in[n->nin + k] = out[0][own + k], want[1][n->nin + k] = d->parts.active[k];
  if (zmi_bound_apply(d->part[1], code[1]->nin, in, params, NULL, out[1]) != ZM_OK) return zm_last_status();
  for (int o = 0; o < n->nout; o++) {
    const int at = d->parts.result[o];
    if (given[o]) to[at < 0][at < 0 ? ~at : at] = given[o], any[at < 0] = true;
  }
  if (any[1] && kernel_vjp(out[1][0]->node, to[1], want[1], by[1]) != ZM_OK) return zm_last_status();
  for (int k = 0; k < d->parts.passed; k++) {
    if ((to[0][own + k] = by[1][n->nin + k])) any[0] = true;
  }
  if (any[0] && kernel_vjp(out[0][0]->node, to[0], want[0], by[0]) != ZM_OK) return zm_last_status();
  for (int i = 0; i < n->nin; i++) {
    zm_array *sum = by[0][i] && by[1][i] ? zm_add(by[0][i], by[1][i]) : by[0][i] ? by[0][i] : by[1][i];
    if (!by[0][i] && !by[1][i]) continue;
    if (!(gradient[i] = zm_astype(sum, n->in[i]->type.dtype))) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status kernel_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  zmi_bound *b = zmi_bound_of(n->owner);
  bool left[ZMI_MAX_IN] = {false};
  zm_array *cotangents[ZMI_MAX_OUT], *results[ZMI_MAX_OUT] = {NULL};
  uint64_t given_bits = 0, wanted_bits = 0;
  int count = 0, at = 0;
  if (b->author) {
    zm_status status = author_vjp(b->author, n, given, wanted, gradient, left);
    if (status != ZM_OK || b->author->vjp) return status;
  } else {
    for (int i = 0; i < n->nin; i++) left[i] = wanted[i];
  }
  for (int i = 0; i < n->nin; i++) {
    if (!left[i] || !zmi_dtype_is_float(n->in[i]->type.dtype)) continue;
    wanted_bits |= (uint64_t)1 << i;
  }
  if (!wanted_bits) return ZM_OK;
  // A node has at most ZMI_MAX_OUT results: more gradients than that are taken in turns.
  for (int o = 0; o < n->nout; o++) {
    if (!given[o]) continue;
    given_bits |= (uint64_t)1 << o;
    cotangents[count++] = given[o];
  }
  if (!given_bits) return ZM_OK;
  for (int first = 0; first < n->nin;) {
    uint64_t part = 0;
    int taken = 0, last = first;
    for (; last < n->nin && taken < ZMI_MAX_OUT; last++) {
      if (!(wanted_bits >> last & 1)) continue;
      part |= (uint64_t)1 << last;
      taken++;
    }
    if (part) {
      const zmi_derived *d = derived_of(b, false, given_bits, part);
      if (!d) return zm_last_status();
      zm_status status = d->bound ? derived_apply(d, n, count, cotangents, results) : parts_vjp(d, n, given, gradient);
      if (status != ZM_OK) return status;
      at = 0;
      for (int i = first; i < last && d->bound; i++) {
        if (part >> i & 1) gradient[i] = results[at++];
      }
    }
    first = last;
  }
  return ZM_OK;
}

// ---- jvp ----

// By the author's gradients: element by element, the gradient for the cotangent t_i is t_i times the derivative.
static zm_status author_jvp(const zmi_author *a, const zmi_node *n, zm_array *const *tangent, const zmi_type *types, zm_array **result) {
  zm_array *out[ZMI_MAX_OUT] = {NULL}, *cotangents[ZMI_MAX_OUT];
  zm_status status = results_of(n, out);
  if (status != ZM_OK) return status;
  for (int o = 0; o < n->nout; o++) {
    if (!zmi_dtype_is_float(types[o].dtype)) continue;
    for (int i = 0; i < n->nin; i++) {
      if (!tangent[i]) continue;
      for (int k = 0; k < n->nout; k++) cotangents[k] = k == o ? zm_astype(tangent[i], types[o].dtype) : zeros_like(&types[k]);
      zm_array *part = zm_astype(author_gradient(a, i, n, out, cotangents), types[o].dtype);
      result[o] = result[o] ? zm_add(result[o], part) : part;
      if (!result[o]) return zm_last_status();
    }
  }
  return ZM_OK;
}

// Rows: the gradient is linear in the cotangents, so that what they receive from a tangent is the tangent of the results.
static zm_status author_jvp_rows(const zmi_author *a, const zmi_node *n, zm_array *const *tangent, const zmi_type *types,
                                 zm_array **result) {
  zm_array *out[ZMI_MAX_OUT] = {NULL}, *cotangents[ZMI_MAX_OUT];
  zm_status status = results_of(n, out);
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    if (!(cotangents[o] = zeros_like(&types[o]))) status = zm_last_status();
  }
  for (int i = 0; i < n->nin && status == ZM_OK; i++) {
    bool wanted[ZMI_MAX_IN] = {false};
    zm_array *received[ZMI_MAX_IN] = {NULL}, *made = tangent[i] ? apply_gradient(a, i, n, out, cotangents) : NULL;
    if (!tangent[i]) continue;
    zm_array *given = made ? zm_broadcast_to(zm_astype(tangent[i], made->type.dtype), made->type.shape, made->type.rank) : NULL;
    if (!given) return zm_last_status();
    for (int o = 0; o < n->nout; o++) wanted[n->nin + n->nout + o] = zmi_dtype_is_float(types[o].dtype);
    status = kernel_vjp(made->node, &given, wanted, received);
    for (int o = 0; o < n->nout && status == ZM_OK; o++) {
      zm_array *part = received[n->nin + n->nout + o];
      if (part && zmi_node_code(n)->per_row[o]) part = zm_sum(part, -1, false);
      if (part) result[o] = result[o] ? zm_add(result[o], part) : part;
      if (part && !result[o]) status = zm_last_status();
    }
  }
  return status;
}

static zm_status kernel_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  zmi_bound *b = zmi_bound_of(n->owner);
  zm_array *tangents[ZMI_CODE_MAX], *results[ZMI_MAX_OUT] = {NULL};
  zmi_type types[ZMI_MAX_OUT];
  uint64_t wanted = 0;
  int count = 0;
  bool by_author = b->author && b->author->has_gradient;
  zm_status status = result_types(n, types);
  if (status != ZM_OK) return status;
  for (int i = 0; i < n->nin; i++) {
    if (tangent[i] && !(by_author && i < ZMI_KERNEL_IN && b->author->gradient[i])) by_author = false;
  }
  if (by_author && zmi_node_code(n)->form == ZMI_FORM_ROWS) return author_jvp_rows(b->author, n, tangent, types, result);
  if (by_author) return author_jvp(b->author, n, tangent, types, result);
  for (int i = 0; i < n->nin && count < ZMI_CODE_MAX; i++) {
    if (!tangent[i]) continue;
    wanted |= (uint64_t)1 << i;
    tangents[count++] = tangent[i];
  }
  if (!wanted) return ZM_OK;
  const zmi_derived *d = derived_of(b, true, 0, wanted);
  if (!d) return zm_last_status();
  status = derived_apply(d, n, count, tangents, results);
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    if (zmi_dtype_is_float(types[o].dtype)) result[o] = results[o];
  }
  return status;
}

// ---- batches ----

static zm_status kernel_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  zm_array *operands[ZMI_MAX_IN];
  const zmi_code *code = zmi_node_code(n);
  for (size_t i = 0; i < code->count && code->form == ZMI_FORM_ELEMENTS && size > 0; i++) {
    if (code->insts[i].op == ZMI_K_PLACE) return zmi_vmap_slices(n, size, in, batched, out); // it asks where it is
  }
  for (int k = 0; k < n->nin; k++) operands[k] = zmi_batch(in[k], batched[k], size);
  return zmi_reapply(n, operands, out);
}

static zm_status tiles_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const zmi_bound *b = zmi_bound_of(n->owner);
  bool left[ZMI_MAX_IN] = {false};
  if (b->author && b->author->vjp) return author_vjp(b->author, n, given, wanted, gradient, left);
  return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s is made of threadgroups and has no gradient: give zm_kernel_options.vjp",
                  zmi_instance_code(b->instance)->name);
}

const zmi_rules zmi_kernel_elements_rules = {
    .vjp = kernel_vjp, .jvp = kernel_jvp, .vmap = kernel_vmap, .gradient = "all operands, by the author or taken from the source"};
const zmi_rules zmi_kernel_rows_rules = {
    .vjp = kernel_vjp, .jvp = kernel_jvp, .vmap = kernel_vmap, .gradient = "all operands, by the author or taken from the source"};
const zmi_rules zmi_kernel_tiles_rules = {.vjp = tiles_vjp, .gradient = "by the author's function only"};
