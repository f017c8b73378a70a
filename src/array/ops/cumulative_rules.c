// Rules of running results. Gradients of an exclusive scan are those of the inclusive one for a cotangent moved back by one place.
#include "array/ops/cumulative.h"
#include "array/ops/index.h"

#include <string.h>

typedef struct scan_node {
  zmi_scan_attrs attrs;
  int axis;
  int64_t k;
  zm_array *x; // float32
  zm_array *g; // float32, of the inclusive scan
} scan_node;

static zm_status done(zm_array *a) {
  return a ? ZM_OK : zm_last_status();
}

// Every element is the one `by` places later in the direction of the scan (by = 1) or earlier (-1); zero where there is none.
static zm_array *moved(zm_array *a, int axis, bool forward) {
  int64_t start[ZM_MAX_RANK] = {0}, stop[ZM_MAX_RANK], edge[ZM_MAX_RANK];
  if (!a) return NULL;
  memcpy(stop, a->type.shape, sizeof stop);
  memcpy(edge, a->type.shape, sizeof edge);
  if (stop[axis] == 0) return a;
  edge[axis] = 1;
  if (forward)
    start[axis] = 1;
  else
    stop[axis]--;
  zm_array *rest = zm_slice(a, start, stop, NULL), *zero = zm_full(0, a->type.dtype, edge, a->type.rank);
  zm_array *parts[2] = {forward ? rest : zero, forward ? zero : rest};
  return zm_concatenate(parts, 2, axis);
}

static zm_array *next(const scan_node *s, zm_array *a) {
  return moved(a, s->axis, !s->attrs.reverse);
}

static zm_array *before(const scan_node *s, zm_array *a) {
  return moved(a, s->axis, s->attrs.reverse);
}

static scan_node read_node(const zmi_node *n, zm_array *g) {
  scan_node s = {.x = zm_astype(n->in[0], ZM_F32)};
  memcpy(&s.attrs, n->attrs.bytes, sizeof s.attrs);
  s.axis = (int)s.attrs.axis;
  s.k = n->in[0]->type.shape[s.axis];
  s.g = g ? zm_astype(g, ZM_F32) : NULL;
  if (g && !s.attrs.inclusive) s.g = next(&s, s.g);
  return s;
}

static zm_status scan_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  zmi_scan_attrs a;
  zm_array *all[2] = {NULL};
  memcpy(&a, n->attrs.bytes, sizeof a);
  a.axis++;
  for (int i = 0; i < n->nin; i++) all[i] = zmi_batch(in[i], batched[i], size);
  return done(out[0] = zmi_apply1(n->op, &a, sizeof a, n->nin, all));
}

static bool no_gradient(const zmi_node *n, zm_array *const *given, const bool *wanted) {
  return !given[0] || !wanted[0] || !zmi_dtype_is_float(n->in[0]->type.dtype);
}

// ---- cumsum ----

static zm_status sum_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (no_gradient(n, given, wanted)) return ZM_OK;
  zmi_scan_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  a.reverse = !a.reverse;
  zm_array *g = given[0];
  return done(gradient[0] = zmi_apply1(n->op, &a, sizeof a, 1, &g));
}

static zm_status sum_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  zm_array *t = tangent[0];
  if (!t) return ZM_OK;
  return done(result[0] = zmi_apply1(n->op, n->attrs.bytes, sizeof(zmi_scan_attrs), 1, &t));
}

// ---- cumprod: what came before an element times what its result is multiplied with later; right for zeros too ----

static zm_status prod_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (no_gradient(n, given, wanted)) return ZM_OK;
  scan_node s = read_node(n, given[0]);
  zm_array *earlier = zm_cumprod(s.x, s.axis, s.attrs.reverse, false);
  zm_array *later = zm_linear_scan(next(&s, s.x), s.g, s.axis, !s.attrs.reverse);
  return done(gradient[0] = zm_astype(zm_multiply(earlier, later), n->in[0]->type.dtype));
}

// ---- cummax, cummin: to the element that the result is, the first among equals ----

// The index along the axis of the winner at every position of the inclusive scan.
static zm_array *winners(const scan_node *s, bool least) {
  zm_array *best = least ? zm_cummin(s->x, s->axis, s->attrs.reverse, false) : zm_cummax(s->x, s->axis, s->attrs.reverse, false);
  int64_t shape[ZM_MAX_RANK];
  const int rank = s->x ? s->x->type.rank : 0;
  for (int i = 0; i < rank; i++) shape[i] = i == s->axis ? s->k : 1;
  const double last = (double)s->k - 1;
  zm_array *place = zm_reshape(s->attrs.reverse ? zm_arange(last, -1, -1, ZM_I64) : zm_arange(0, last + 1, 1, ZM_I64), shape, rank);
  // A first NaN wins over all numbers, and then nothing wins any more.
  zm_array *is_nan = zm_not_equal(s->x, s->x), *was_nan = zm_not_equal(best, best);
  zm_array *wins = zm_maximum(least ? zm_less(s->x, best) : zm_greater(s->x, best), zm_greater(is_nan, was_nan));
  zm_array *at = zm_cummax(zm_where(wins, place, zm_full(0, ZM_I64, NULL, 0)), s->axis, s->attrs.reverse, true);
  return s->attrs.reverse ? zm_subtract(zm_full(last, ZM_I64, NULL, 0), at) : at;
}

static zm_status winner_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (no_gradient(n, given, wanted)) return ZM_OK;
  scan_node s = read_node(n, given[0]);
  zm_array *zero = zm_full(0, ZM_F32, n->in[0]->type.shape, n->in[0]->type.rank);
  zm_array *sum = zm_add_along_axis(zero, winners(&s, n->op == &zmi_op_cummin), s.g, s.axis);
  return done(gradient[0] = zm_astype(sum, n->in[0]->type.dtype));
}

static zm_status winner_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  if (!tangent[0]) return ZM_OK;
  scan_node s = read_node(n, NULL);
  result[0] = zm_take_along_axis(tangent[0], winners(&s, n->op == &zmi_op_cummin), s.axis);
  if (!s.attrs.inclusive) result[0] = before(&s, result[0]);
  return done(result[0]);
}

// ---- logcumsumexp: the sum of g[i] exp(x[j] - y[i]) over later i, by exp(y[j] - y[j + 1]) <= 1 from the end on ----

static zm_array *weight(zm_array *a, zm_array *b) {
  return zm_where(zm_equal(a, b), zm_full(1, ZM_F32, NULL, 0), zm_exp(zm_subtract(a, b)));
}

static zm_status log_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (no_gradient(n, given, wanted)) return ZM_OK;
  scan_node s = read_node(n, given[0]);
  zm_array *y = zm_logcumsumexp(s.x, s.axis, s.attrs.reverse, true);
  zm_array *sum = zm_linear_scan(weight(y, next(&s, y)), s.g, s.axis, !s.attrs.reverse);
  return done(gradient[0] = zm_astype(zm_multiply(weight(s.x, y), sum), n->in[0]->type.dtype));
}

// ---- linear_scan ----

static zm_status linear_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (!given[0]) return ZM_OK;
  scan_node s = read_node(n, NULL);
  zm_array *g = zmi_linear_scan(next(&s, n->in[0]), given[0], s.axis, !s.attrs.reverse);
  if (wanted[1] && !(gradient[1] = g)) return zm_last_status();
  if (!wanted[0]) return ZM_OK;
  zm_array *y = zmi_linear_scan(n->in[0], n->in[1], s.axis, s.attrs.reverse);
  return done(gradient[0] = zm_multiply(g, before(&s, y)));
}

static zm_status linear_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  scan_node s = read_node(n, NULL);
  zm_array *change = tangent[1];
  if (tangent[0]) {
    zm_array *y = zmi_linear_scan(n->in[0], n->in[1], s.axis, s.attrs.reverse);
    zm_array *by_a = zm_multiply(tangent[0], before(&s, y));
    change = change ? zm_add(change, by_a) : by_a;
    if (!change) return zm_last_status();
  }
  if (!change) return ZM_OK;
  return done(result[0] = zmi_linear_scan(n->in[0], change, s.axis, s.attrs.reverse));
}

const zmi_rules zmi_rules_cumsum = {.vjp = sum_vjp, .jvp = sum_jvp, .vmap = scan_vmap, .gradient = "x"};
const zmi_rules zmi_rules_cumprod = {.vjp = prod_vjp, .vmap = scan_vmap, .gradient = "x"};
const zmi_rules zmi_rules_cummax = {.vjp = winner_vjp, .jvp = winner_jvp, .vmap = scan_vmap, .gradient = "x: the first among equals"};
const zmi_rules zmi_rules_cummin = {.vjp = winner_vjp, .jvp = winner_jvp, .vmap = scan_vmap, .gradient = "x: the first among equals"};
const zmi_rules zmi_rules_logcumsumexp = {.vjp = log_vjp, .vmap = scan_vmap, .gradient = "x"};
const zmi_rules zmi_rules_linear_scan = {.vjp = linear_vjp, .jvp = linear_jvp, .vmap = scan_vmap, .gradient = "a, b"};
