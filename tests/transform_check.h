// Checks of transforms that know nothing of the function: gradients against finite differences, tangents against gradients, batches
// against slices, and the same again for the gradient itself.
#ifndef ZMLX_TEST_TRANSFORM_CHECK_H
#define ZMLX_TEST_TRANSFORM_CHECK_H

#include "array/array.h"
#include "transform/transform.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { CHECK_MOST = 16, CHECK_BATCH = 3 };

// An input: dtype, shape, and the numbers it is filled with: floats between low and high, integers from low up to below high.
typedef struct check_input {
  zm_dtype dtype;
  int rank;
  int64_t shape[6];
  float low, high;
} check_input;

typedef struct check_case {
  const char *name, *op; // op: the row of the table that the function must use; NULL: none
  zm_function f;
  int nout;
  void *user;
  double step, tolerance; // 0: 1/128, 2e-3; of finite differences
  double agreement;       // 0: 1e-5; between tangents and gradients
  bool flat;              // no gradient: only batches are checked
  bool refuses_vmap;      // batches are refused
  check_input in[CHECK_MOST];
} check_case;

static uint64_t check_seed = 88172645463325252u;

static double check_uniform(void) { // [0, 1)
  check_seed ^= check_seed << 13;
  check_seed ^= check_seed >> 7;
  check_seed ^= check_seed << 17;
  return (double)(check_seed >> 40) / (1 << 24);
}

static bool check_is_float(zm_dtype dtype) {
  return dtype == ZM_F32 || dtype == ZM_BF16 || dtype == ZM_F16;
}

static int check_inputs(const check_case *c) {
  int n = 0;
  while (n < CHECK_MOST && c->in[n].dtype != ZM_DTYPE_DEFAULT) n++;
  return n;
}

#define MUST(status, ...)                                                                                                                  \
  do {                                                                                                                                     \
    if ((status) != ZM_OK) {                                                                                                               \
      char what[256];                                                                                                                      \
      snprintf(what, sizeof what, __VA_ARGS__);                                                                                            \
      fail_msg("%s: %s", what, zm_last_error());                                                                                           \
    }                                                                                                                                      \
  } while (0)

static int64_t check_count(const zm_array *a) {
  return zm_array_size(a);
}

// Values of an evaluated array as doubles, from malloc.
static double *check_values(zm_array *a) {
  const int64_t n = check_count(a);
  const void *data = zm_array_data(a);
  if (!data) fail_msg("%s", zm_last_error());
  double *v = malloc((size_t)n * sizeof *v + 1);
  for (int64_t i = 0; i < n; i++) {
    switch (a->type.dtype) {
    case ZM_F32:
      v[i] = ((const float *)data)[i];
      break;
    case ZM_BF16:
      v[i] = zmi_bf16_to_f32(((const uint16_t *)data)[i]);
      break;
    case ZM_F16:
      v[i] = zmi_f16_to_f32(((const uint16_t *)data)[i]);
      break;
    default:
      v[i] = 0;
    }
  }
  return v;
}

static zm_array *check_fill(const check_input *in, bool batched) {
  int64_t shape[7], n = 1;
  int rank = 0;
  if (batched) shape[rank++] = CHECK_BATCH;
  for (int i = 0; i < in->rank; i++) shape[rank++] = in->shape[i];
  for (int i = 0; i < rank; i++) n *= shape[i];
  float *x = malloc((size_t)n * sizeof *x + 1);
  for (int64_t i = 0; i < n; i++) {
    const double v = in->low + (in->high - in->low) * check_uniform();
    x[i] = (float)(check_is_float(in->dtype) ? v : floor(v));
  }
  zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, shape, rank), in->dtype);
  free(x);
  MUST(zm_eval(&a, 1), "filling");
  return a;
}

static zm_array *check_noise(const zmi_type *t) {
  check_input in = {.dtype = t->dtype, .rank = t->rank, .low = -1, .high = 1};
  for (int i = 0; i < t->rank; i++) in.shape[i] = t->shape[i];
  return check_fill(&in, false);
}

static double check_dot(zm_array *a, zm_array *b, double *magnitude) {
  double *x = check_values(a), *y = check_values(b), sum = 0;
  for (int64_t i = 0; i < check_count(a); i++) {
    sum += x[i] * y[i];
    if (magnitude) *magnitude += fabs(x[i] * y[i]);
  }
  free(x);
  free(y);
  return sum;
}

// x + h d, in float64 rounded to float32.
static zm_array *check_moved(zm_array *x, zm_array *d, double h) {
  const int64_t n = check_count(x);
  double *a = check_values(x), *b = check_values(d);
  float *y = malloc((size_t)n * sizeof *y + 1);
  for (int64_t i = 0; i < n; i++) y[i] = (float)(a[i] + h * b[i]);
  zm_array *moved = zm_array_from_data(y, ZM_F32, x->type.shape, x->type.rank);
  free(a);
  free(b);
  free(y);
  return moved;
}

// The sum over results of cotangent times result, in float64.
static double check_loss(const char *name, zm_function f, void *user, zm_array *const *in, int nin, zm_array *const *cotangents, int nout,
                         double *magnitude) {
  zm_array *out[CHECK_MOST];
  double sum = 0;
  MUST(f(user, in, nin, out, nout), "%s", name);
  for (int o = 0; o < nout; o++) {
    if (cotangents[o]) sum += check_dot(out[o], cotangents[o], magnitude);
  }
  return sum;
}

// vjp against central differences along `directions` directions, jvp against vjp along the same. Inputs that move are float32.
static void check_gradient(const char *name, zm_function f, void *user, zm_array *const *in, int nin, int nout, const check_case *c) {
  const double step = c->step > 0 ? c->step : 1.0 / 128, tolerance = c->tolerance > 0 ? c->tolerance : 2e-3;
  const double agreement = c->agreement > 0 ? c->agreement : 1e-5;
  zm_array *out[CHECK_MOST], *gradients[CHECK_MOST], *cotangents[CHECK_MOST] = {NULL}, *tangents[CHECK_MOST], *pushed[CHECK_MOST];
  MUST(f(user, in, nin, out, nout), "%s", name);
  for (int o = 0; o < nout; o++) {
    if (check_is_float(out[o]->type.dtype)) cotangents[o] = check_noise(&out[o]->type);
  }
  MUST(zm_vjp(f, user, in, nin, cotangents, out, nout, gradients), "vjp of %s", name);
  for (int i = 0; i < nin; i++) assert_true(zmi_type_equal(&gradients[i]->type, &in[i]->type));
  // All together, then each input alone: an input whose gradient is wrong cannot hide behind others.
  for (int round = -1; round < nin; round++) {
    zm_array *up[CHECK_MOST], *down[CHECK_MOST];
    double predicted = 0, scale = 0, along = 0, size = 0;
    if (round >= 0 && in[round]->type.dtype != ZM_F32) continue;
    for (int i = 0; i < nin; i++) {
      up[i] = down[i] = in[i];
      tangents[i] = NULL;
      if (in[i]->type.dtype != ZM_F32 || (round >= 0 && round != i)) continue;
      tangents[i] = check_noise(&in[i]->type);
      up[i] = check_moved(in[i], tangents[i], step);
      down[i] = check_moved(in[i], tangents[i], -step);
      predicted += check_dot(gradients[i], tangents[i], &scale);
    }
    const double high = check_loss(name, f, user, up, nin, cotangents, nout, &size);
    const double low = check_loss(name, f, user, down, nin, cotangents, nout, NULL);
    const double found = (high - low) / (2 * step), slack = tolerance * (scale + 1e-2) + size * 4e-7 / step;
    if (!(fabs(found - predicted) <= slack))
      fail_msg("%s: input %d: difference quotient %.9g, gradient %.9g, slack %.3g", name, round, found, predicted, slack);
    MUST(zm_jvp(f, user, in, nin, tangents, out, nout, pushed), "jvp of %s", name);
    double pushed_scale = 0;
    for (int o = 0; o < nout; o++) {
      if (cotangents[o]) along += check_dot(pushed[o], cotangents[o], &pushed_scale);
    }
    if (!(fabs(along - predicted) <= agreement * (scale + pushed_scale) + 1e-6))
      fail_msg("%s: input %d: along the tangent %.9g, gradient %.9g of %.3g", name, round, along, predicted, scale);
  }
}

// Every combination of batched inputs (there are few inputs): zm_vmap gives the bits of one call a slice.
static void check_batches(const char *name, zm_function f, void *user, zm_array *const *in, zm_array *const *many, int nin, int nout) {
  for (unsigned mask = 1; mask < 1u << nin; mask++) {
    zm_array *args[CHECK_MOST], *out[CHECK_MOST], *one[CHECK_MOST], *slices[CHECK_MOST];
    int axes[CHECK_MOST];
    for (int i = 0; i < nin; i++) {
      args[i] = mask >> i & 1 ? many[i] : in[i];
      axes[i] = mask >> i & 1 ? 0 : ZM_NO_AXIS;
    }
    MUST(zm_vmap(f, user, args, nin, axes, out, nout, NULL), "vmap of %s, inputs %#x", name, mask);
    for (int b = 0; b < CHECK_BATCH; b++) {
      for (int i = 0; i < nin; i++) {
        int64_t start[ZM_MAX_RANK] = {b}, stop[ZM_MAX_RANK] = {b + 1};
        slices[i] = args[i];
        if (!(mask >> i & 1)) continue;
        for (int k = 1; k < many[i]->type.rank; k++) stop[k] = many[i]->type.shape[k];
        slices[i] = zm_contiguous(zm_squeeze(zm_slice(many[i], start, stop, NULL), 0));
      }
      MUST(f(user, slices, nin, one, nout), "%s", name);
      for (int o = 0; o < nout; o++) {
        size_t bytes;
        assert_true(zmi_type_bytes(&one[o]->type, &bytes));
        const char *all = zm_array_data(out[o]), *single = zm_array_data(one[o]);
        if (!all || !single) fail_msg("%s: %s", name, zm_last_error());
        assert_int_equal(out[o]->type.rank, one[o]->type.rank + 1);
        if (memcmp(all + (size_t)b * bytes, single, bytes) != 0)
          fail_msg("vmap of %s, inputs %#x: slice %d, result %d: other bits", name, mask, b, o);
      }
    }
  }
}

// The gradients of a function for fixed cotangents, as a function.
typedef struct check_back {
  zm_function f;
  void *user;
  int nout;
  zm_array *const *cotangents;
} check_back;

static zm_status check_back_call(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const check_back *b = user;
  zm_array *values[CHECK_MOST], *gradients[CHECK_MOST];
  zm_status status = zm_vjp(b->f, b->user, in, nin, b->cotangents, values, b->nout, gradients);
  int count = 0;
  for (int i = 0; i < nin && status == ZM_OK; i++) {
    if (check_is_float(in[i]->type.dtype)) out[count++] = gradients[i];
  }
  assert_true(status != ZM_OK || count == nout);
  return status;
}

static bool check_uses(zm_array *const *out, int nout, const char *op) {
  bool found = false;
  zmi_graph *g = zmi_graph_collect(out, (size_t)nout);
  assert_non_null(g);
  for (size_t i = 0; i < g->count; i++) found = found || strcmp(g->nodes[i]->op->name, op) == 0;
  zmi_graph_free(g);
  return found;
}

// Everything, for one case.
static inline void check_all(const check_case *c) {
  void *user = c->user;
  zm_scope *scope = zm_scope_open();
  zm_array *in[CHECK_MOST], *many[CHECK_MOST], *out[CHECK_MOST], *cotangents[CHECK_MOST] = {NULL};
  const int nin = check_inputs(c), nout = c->nout ? c->nout : 1;
  char name[128];
  int floats = 0;
  for (int i = 0; i < nin; i++) {
    in[i] = check_fill(&c->in[i], false);
    many[i] = check_fill(&c->in[i], true);
    floats += check_is_float(c->in[i].dtype);
  }
  MUST(c->f(user, in, nin, out, nout), "%s", c->name);
  if (c->op && !check_uses(out, nout, c->op)) fail_msg("%s: the op %s is not used", c->name, c->op);
  if (c->refuses_vmap) {
    int axes[CHECK_MOST];
    for (int i = 0; i < nin; i++) axes[i] = 0;
    assert_int_equal(zm_vmap(c->f, user, many, nin, axes, out, nout, NULL), ZM_ERROR_UNSUPPORTED);
  } else {
    check_batches(c->name, c->f, user, in, many, nin, nout);
  }
  if (!c->flat) {
    check_gradient(c->name, c->f, user, in, nin, nout, c);
    for (int o = 0; o < nout; o++) {
      if (check_is_float(out[o]->type.dtype)) cotangents[o] = check_noise(&out[o]->type);
    }
    check_back back = {c->f, user, nout, cotangents};
    snprintf(name, sizeof name, "the gradient of %s", c->name);
    check_gradient(name, check_back_call, &back, in, nin, floats, c);
    if (!c->refuses_vmap) check_batches(name, check_back_call, &back, in, many, nin, floats);
  }
  zm_scope_close(scope);
}

#endif
