// What the builders of the catalog share: checks of operands, views, and gradients of ops in C by way of an equal composition.
#include "catalog/catalog.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

// ---- checks ----

static bool given(const char *name, const char *operand, const zm_array *x) {
  if (x) return true;
  if (zm_last_status() == ZM_OK) zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s is NULL", name, operand);
  return false;
}

bool zmi_cat_want(const char *name, const char *operand, zm_array *x, int rank, ...) {
  if (!given(name, operand, x)) return false;
  bool fits = x->type.rank == rank;
  char expected[128] = "", found[128];
  size_t at = 0;
  va_list dims;
  va_start(dims, rank);
  for (int i = 0; i < rank; i++) {
    int64_t want = va_arg(dims, int64_t);
    if (fits && want >= 0 && x->type.shape[i] != want) fits = false;
    if (want < 0)
      at += (size_t)snprintf(expected + at, sizeof expected - at, "%sany", i ? ", " : "");
    else
      at += (size_t)snprintf(expected + at, sizeof expected - at, "%s%lld", i ? ", " : "", (long long)want);
    at = ZMI_MIN(at, sizeof expected - 1);
  }
  va_end(dims);
  if (!fits) zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected shape [%s], found %s", name, operand, expected, zmi_type_text(&x->type, found));
  return fits;
}

bool zmi_cat_want_rank(const char *name, const char *operand, zm_array *x, int least) {
  char found[128];
  if (!given(name, operand, x)) return false;
  if (x->type.rank >= least) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected at least %d dimension%s, found %s", name, operand, least, least == 1 ? "" : "s",
           zmi_type_text(&x->type, found));
  return false;
}

bool zmi_cat_want_float(const char *name, const char *operand, zm_array *x) {
  if (!given(name, operand, x)) return false;
  zm_dtype t = x->type.dtype;
  if (t == ZM_F32 || t == ZM_F16 || t == ZM_BF16) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected a float dtype, found %s", name, operand, zm_dtype_name(t));
  return false;
}

bool zmi_cat_want_dtype(const char *name, const char *operand, zm_array *x, zm_dtype dtype) {
  if (!given(name, operand, x)) return false;
  if (x->type.dtype == dtype) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected dtype %s, found %s", name, operand, zm_dtype_name(dtype), zm_dtype_name(x->type.dtype));
  return false;
}

bool zmi_cat_want_number(const char *name, const char *parameter, double value, bool from_zero) {
  if (value >= (from_zero ? 0 : -DBL_MAX) && value <= DBL_MAX) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected a finite number%s, found %g", name, parameter, from_zero ? " from 0 up" : "", value);
  return false;
}

bool zmi_cat_want_eps(const char *name, double eps) {
  return zmi_cat_want_number(name, "eps", eps, true);
}

int64_t zmi_cat_last(const zm_array *x) {
  return x && x->type.rank > 0 ? x->type.shape[x->type.rank - 1] : 1;
}

int64_t zmi_cat_leading(const zm_array *x, int drop) {
  int64_t n = 1;
  for (int i = 0; i < x->type.rank - drop; i++) n *= x->type.shape[i];
  return n;
}

// ---- views and constants ----

zm_array *zmi_cat_scalar(double value) {
  return zm_full(value, ZM_F32, NULL, 0);
}

zm_array *zmi_cat_uint(uint32_t value) {
  return zm_full((double)value, ZM_U32, NULL, 0);
}

zm_array *zmi_cat_reshape(zm_array *x, int rank, ...) {
  int64_t shape[ZM_MAX_RANK];
  va_list dims;
  va_start(dims, rank);
  for (int i = 0; i < rank; i++) shape[i] = va_arg(dims, int64_t);
  va_end(dims);
  return x ? zm_reshape(x, shape, rank) : NULL;
}

zm_array *zmi_cat_split_last(zm_array *x, int64_t a, int64_t b) {
  if (!x) return NULL;
  int64_t shape[ZM_MAX_RANK + 1];
  int rank = x->type.rank;
  if (rank < 1 || rank + 1 > ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_ARGUMENT, "the operand has rank %d, expected 1 to %d", rank, ZM_MAX_RANK - 1);
    return NULL;
  }
  memcpy(shape, x->type.shape, sizeof x->type.shape);
  shape[rank - 1] = a;
  shape[rank] = b;
  return zm_reshape(x, shape, rank + 1);
}

zm_array *zmi_cat_join_last(zm_array *x) {
  if (!x) return NULL;
  int64_t shape[ZM_MAX_RANK];
  int rank = x->type.rank;
  memcpy(shape, x->type.shape, sizeof shape);
  shape[rank - 2] *= shape[rank - 1];
  return zm_reshape(x, shape, rank - 1);
}

zm_array *zmi_cat_part_by(zm_array *x, int axis, int64_t first, int64_t n, int64_t step) {
  if (!x) return NULL;
  int64_t start[ZM_MAX_RANK] = {0}, stop[ZM_MAX_RANK], by[ZM_MAX_RANK];
  int rank = x->type.rank;
  if (axis < 0) axis += rank;
  for (int i = 0; i < rank; i++) stop[i] = x->type.shape[i], by[i] = 1;
  start[axis] = first;
  stop[axis] = first + (n - 1) * step + 1;
  if (n == 0) stop[axis] = first;
  by[axis] = step;
  return zm_slice(x, start, stop, by);
}

zm_array *zmi_cat_part(zm_array *x, int axis, int64_t first, int64_t n) {
  return zmi_cat_part_by(x, axis, first, n, 1);
}

zm_status zmi_cat_halves(const char *name, zm_array *x, zm_array **a, zm_array **b) {
  char found[128];
  if (!zmi_cat_want_rank(name, "x", x, 1)) return zm_last_status();
  int64_t n = zmi_cat_last(x);
  if (n % 2 != 0) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: x: the last axis must be even, found %s", name, zmi_type_text(&x->type, found));
  *a = zmi_cat_part(x, -1, 0, n / 2);
  *b = zmi_cat_part(x, -1, n / 2, n / 2);
  return *a && *b ? ZM_OK : zm_last_status();
}

zm_array *zmi_cat_rows(zm_array *x) {
  return x ? zmi_cat_reshape(x, 2, zmi_cat_leading(x, 1), zmi_cat_last(x)) : NULL;
}

zm_array *zmi_cat_like(zm_array *y, zm_array *x, int drop, int rank, ...) {
  int64_t shape[2 * ZM_MAX_RANK];
  if (!y || !x) return NULL;
  int n = x->type.rank - drop;
  memcpy(shape, x->type.shape, sizeof x->type.shape);
  va_list dims;
  va_start(dims, rank);
  for (int i = 0; i < rank; i++) shape[n + i] = va_arg(dims, int64_t);
  va_end(dims);
  return zm_reshape(y, shape, n + rank);
}

zm_array *zmi_cat_matmul_t(zm_array *x, zm_array *w) {
  if (!x || !w) return NULL;
  int axes[ZM_MAX_RANK], rank = w->type.rank;
  for (int i = 0; i < rank; i++) axes[i] = i;
  axes[rank - 1] = rank - 2;
  axes[rank - 2] = rank - 1;
  return zm_matmul(x, zm_transpose(w, axes));
}

// ---- gradients of ops in C ----

// The function of the float operands only; integers are constants of it.
typedef struct floats {
  zm_function f;
  void *user;
  int nin, count, nout;
  zm_array *in[ZMI_MAX_IN];
  int index[ZMI_MAX_IN];
} floats;

static zm_status of_floats(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const floats *s = user;
  zm_array *all[ZMI_MAX_IN];
  (void)nin;
  memcpy(all, s->in, sizeof all);
  for (int i = 0; i < s->count; i++) all[s->index[i]] = in[i];
  return s->f(s->user, all, s->nin, out, nout);
}

zm_status zmi_cat_vjp_by(zm_function f, void *user, const zmi_node *n, zm_array *const *given_out, const bool *wanted,
                         zm_array **gradient) {
  floats s = {.f = f, .user = user, .nin = n->nin, .nout = n->nout};
  zm_array *in[ZMI_MAX_IN], *out[ZMI_MAX_OUT], *cotangents[ZMI_MAX_OUT], *made[ZMI_MAX_IN];
  for (int i = 0; i < n->nin; i++) {
    s.in[i] = n->in[i];
    zm_dtype t = n->in[i] ? n->in[i]->type.dtype : ZM_BOOL;
    if (!wanted[i] || (t != ZM_F32 && t != ZM_F16 && t != ZM_BF16)) continue;
    in[s.count] = n->in[i];
    s.index[s.count++] = i;
  }
  if (s.count == 0) return ZM_OK;
  for (int o = 0; o < n->nout; o++) {
    cotangents[o] = given_out[o];
    if (!cotangents[o]) {
      zmi_type t = {0};
      if (!n->out[o]) {
        // The result is gone, so nothing depends on it; its type comes from the shape rule.
        zmi_type types[ZMI_MAX_IN], results[ZMI_MAX_OUT];
        int count = 0;
        for (int i = 0; i < n->nin; i++) types[i] = n->in[i] ? n->in[i]->type : (zmi_type){.rank = -1};
        zm_status status = n->op->infer(&n->attrs, n->nin, types, &count, results);
        if (status != ZM_OK) return status;
        t = results[o];
      } else {
        t = n->out[o]->type;
      }
      cotangents[o] = zm_full(0, t.dtype, t.shape, t.rank);
      if (!cotangents[o]) return zm_last_status();
    }
  }
  zm_status status = zm_vjp(of_floats, &s, in, s.count, cotangents, out, n->nout, made);
  for (int i = 0; status == ZM_OK && i < s.count; i++) gradient[s.index[i]] = made[i];
  return status;
}
