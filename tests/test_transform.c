// Transforms: nesting in any order, values inside functions, functions of many inputs and of great depth, compiled functions, checkpoints,
// gradients of the author's, errors, memory that runs out.
#include "transform_check.h"

#include <pthread.h>

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

static zm_array *vector(int64_t n, double low, double high) {
  check_input in = {.dtype = ZM_F32, .rank = 1, .shape = {n}, .low = (float)low, .high = (float)high};
  return check_fill(&in, false);
}

static zm_array *scalar(double v) {
  return zm_full(v, ZM_F32, NULL, 0);
}

static void same_bits(const char *what, zm_array *a, zm_array *b) {
  size_t bytes;
  assert_true(zmi_type_equal(&a->type, &b->type));
  assert_true(zmi_type_bytes(&a->type, &bytes));
  const void *x = zm_array_data(a), *y = zm_array_data(b);
  if (!x || !y) fail_msg("%s: %s", what, zm_last_error());
  if (memcmp(x, y, bytes) != 0) fail_msg("%s: other bits", what);
}

static void close_to(const char *what, zm_array *a, zm_array *b, double tolerance) {
  assert_true(zmi_type_equal(&a->type, &b->type));
  double *x = check_values(a), *y = check_values(b);
  for (int64_t i = 0; i < zm_array_size(a); i++) {
    if (!(fabs(x[i] - y[i]) <= tolerance * (1 + fabs(y[i])))) fail_msg("%s: %.9g and %.9g at %d", what, x[i], y[i], (int)i);
  }
  free(x);
  free(y);
}

static void fails(zm_status status, zm_status wanted, const char *part) {
  assert_int_equal(status, wanted);
  if (!strstr(zm_last_error(), part)) fail_msg("\"%s\" does not say \"%s\"", zm_last_error(), part);
}

// ---- functions, and transforms of functions as functions ----

// sum(tanh(x) exp(x / 2)), a function of one vector
static zm_status smooth(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_sum(zm_multiply(zm_tanh(in[0]), zm_exp(zm_multiply(in[0], scalar(0.5)))), -1, false);
  return out[0] ? ZM_OK : zm_last_status();
}

// The loss of a small network: mean over rows of -log softmax(silu(x w) v)[0]; inputs x [R, 3] (or [3]), w [3, 4], v [4, 5]
static zm_status network(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  zm_array *p = zm_log(zm_softmax(zm_matmul(zm_silu(zm_matmul(in[0], in[1])), in[2])));
  if (!p) return zm_last_status();
  int64_t start[2] = {0}, stop[2] = {zm_array_dim(p, 0), 1};
  if (zm_array_rank(p) == 1) stop[0] = 1;
  p = zm_negative(zm_slice(p, start, stop, NULL));
  out[0] = p ? zm_mean(zm_reshape(p, (int64_t[]){-1}, 1), 0, false) : NULL;
  return out[0] ? ZM_OK : zm_last_status();
}

typedef struct wrapped {
  zm_function f;
  void *user;
  int nin;
} wrapped;

static zm_status grad_of(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const wrapped *w = user;
  int by[CHECK_MOST];
  for (int i = 0; i < nout; i++) by[i] = i;
  return zm_grad(w->f, w->user, in, nin, by, nout, out);
}

static zm_status sum_of(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const wrapped *w = user;
  zm_status status = w->f(w->user, in, nin, out, nout);
  while (status == ZM_OK && out[0] && zm_array_rank(out[0]) > 0) out[0] = zm_sum(out[0], 0, false);
  return status == ZM_OK && !out[0] ? zm_last_status() : status;
}

static zm_status vmap_of(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const wrapped *w = user;
  return zm_vmap(w->f, w->user, in, nin, (int[]){0, ZM_NO_AXIS, ZM_NO_AXIS}, out, nout, NULL);
}

static zm_status vmap_all_of(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const wrapped *w = user;
  return zm_vmap(w->f, w->user, in, nin, NULL, out, nout, NULL);
}

// in: the inputs of f, then a tangent for each
static zm_status jvp_of(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const wrapped *w = user;
  zm_array *values[CHECK_MOST];
  return zm_jvp(w->f, w->user, in, nin / 2, in + nin / 2, values, nout, out);
}

// in: the inputs of f, then the cotangent of its only result
static zm_status vjp_of(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const wrapped *w = user;
  zm_array *value;
  (void)nout;
  return zm_vjp(w->f, w->user, in, nin - 1, in + nin - 1, &value, 1, out);
}

static zm_status checkpoint_of(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const wrapped *w = user;
  return zm_checkpoint(w->f, w->user, in, nin, out, nout);
}

static zm_status compiled_of(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return zm_compiled_call(user, in, nin, out, nout);
}

// ---- nesting ----

static void gradients_of_gradients(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  wrapped f = {smooth, NULL, 1}, first = {grad_of, &f, 1}, first_sum = {sum_of, &first, 1}, second = {grad_of, &first_sum, 1},
          second_sum = {sum_of, &second, 1}, third = {grad_of, &second_sum, 1};
  zm_array *in[1] = {vector(5, -1, 1)};
  check_gradient("grad of grad", second.f, second.user, in, 1, 1, &(check_case){0});
  check_gradient("grad of grad of grad", third.f, third.user, in, 1, 1, &(check_case){0});
  zm_scope_close(scope);
}

static void batches_of_gradients(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  wrapped net = {network, NULL, 3}, back = {grad_of, &net, 3}, each = {vmap_of, &net, 3}, total = {sum_of, &each, 3};
  check_input x = {ZM_F32, 1, {3}, -1, 1}, w = {ZM_F32, 2, {3, 4}, -1, 1}, v = {ZM_F32, 2, {4, 5}, -1, 1};
  zm_array *in[3] = {check_fill(&x, false), check_fill(&w, false), check_fill(&v, false)};
  zm_array *many[3] = {check_fill(&x, true), check_fill(&w, true), check_fill(&v, true)};
  check_batches("vmap of grad", back.f, back.user, in, many, 3, 3);
  in[0] = many[0];
  check_gradient("grad of vmap", total.f, total.user, in, 3, 1, &(check_case){0});
  // The gradient of the sum over a batch is the sum of the gradients of each.
  zm_array *together[3], *apart[3];
  MUST(grad_of(&total, in, 3, together, 3), "grad of vmap");
  MUST(zm_vmap(back.f, back.user, in, 3, (int[]){0, ZM_NO_AXIS, ZM_NO_AXIS}, apart, 3, NULL), "vmap of grad");
  close_to("by x", together[0], apart[0], 1e-5);
  for (int i = 1; i < 3; i++) close_to("by weights", together[i], zm_sum(apart[i], 0, false), 1e-5);
  zm_scope_close(scope);
}

static void tangents_and_gradients(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  wrapped f = {smooth, NULL, 1}, back = {grad_of, &f, 1}, forward = {jvp_of, &f, 1};
  zm_array *x = vector(5, -1, 1), *t = vector(5, -1, 1), *a[1], *b[1], *c[1], *d[2], *value[1];
  // The product of the second derivative with t in three ways.
  MUST(zm_jvp(back.f, back.user, &x, 1, &t, value, 1, a), "jvp of grad");
  MUST(zm_vjp(back.f, back.user, &x, 1, &t, value, 1, b), "vjp of grad");
  zm_array *in[2] = {x, t};
  MUST(zm_grad(forward.f, forward.user, in, 2, (int[]){0}, 1, c), "grad of jvp");
  close_to("jvp and vjp of grad", a[0], b[0], 1e-5);
  close_to("grad of jvp", c[0], b[0], 1e-5);
  // A jvp of a jvp.
  wrapped twice = {jvp_of, &forward, 2};
  zm_array *quad[4] = {x, t, t, zm_full(0, ZM_F32, SHAPE(5))};
  MUST(twice.f(twice.user, quad, 4, d, 1), "jvp of jvp");
  close_to("t H t", d[0], zm_sum(zm_multiply(t, b[0]), 0, false), 1e-5);
  zm_scope_close(scope);
}

static zm_status outer(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_subtract(zm_multiply(in[0], in[1]), zm_exp(in[1]));
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status rows_of_outer(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return zm_vmap(outer, user, in, nin, (int[]){ZM_NO_AXIS, 0}, out, nout, NULL);
}

// Jacobians of tanh(w x): columns by tangents, rows by cotangents.
static zm_status layer(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  out[0] = zm_tanh(zm_matmul(user, in[0]));
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_array *eye(int64_t n) {
  float data[64] = {0};
  for (int64_t i = 0; i < n; i++) data[i * n + i] = 1;
  return zm_array_from_data(data, ZM_F32, SHAPE(n, n));
}

static void batches_of_batches(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *in[2] = {vector(3, -1, 1), vector(4, -1, 1)}, *out[1], *turned[1];
  MUST(zm_vmap(rows_of_outer, NULL, in, 2, (int[]){0, ZM_NO_AXIS}, out, 1, NULL), "vmap of vmap");
  zm_array *plain = zm_subtract(zm_multiply(zm_expand_dims(in[0], 1), in[1]), zm_exp(zm_broadcast_to(in[1], SHAPE(3, 4))));
  same_bits("vmap of vmap", out[0], plain);
  MUST(zm_vmap(rows_of_outer, NULL, in, 2, (int[]){0, ZM_NO_AXIS}, turned, 1, (int[]){1}), "vmap of vmap");
  same_bits("the batch last", zm_contiguous(zm_transpose(turned[0], NULL)), plain);
  MUST(zm_vmap(rows_of_outer, NULL, in, 2, (int[]){-1, ZM_NO_AXIS}, turned, 1, (int[]){-1}), "negative axes");
  same_bits("negative axes", zm_contiguous(zm_transpose(turned[0], NULL)), plain);

  zm_array *w = zm_reshape(vector(12, -1, 1), SHAPE(4, 3)), *x = vector(3, -1, 1), *columns[1], *rows[1];
  wrapped f = {layer, w, 1};
  zm_array *by_tangents[2] = {x, eye(3)}, *by_cotangents[2] = {x, eye(4)};
  MUST(zm_vmap(jvp_of, &f, by_tangents, 2, (int[]){ZM_NO_AXIS, 0}, columns, 1, (int[]){1}), "columns");
  MUST(zm_vmap(vjp_of, &f, by_cotangents, 2, (int[]){ZM_NO_AXIS, 0}, rows, 1, NULL), "rows");
  close_to("the Jacobian", columns[0], rows[0], 1e-6);
  zm_scope_close(scope);
}

// Batched axes other than the first, and results that no batched input reaches.
static zm_status two_results(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_sum(in[0], 0, false);
  out[1] = zm_exp(in[1]);
  return out[0] && out[1] ? ZM_OK : zm_last_status();
}

static void axes_of_batches(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *a = zm_reshape(vector(24, -1, 1), SHAPE(2, 3, 4)), *b = vector(5, -1, 1), *in[2] = {a, b}, *out[2];
  MUST(zm_vmap(two_results, NULL, in, 2, (int[]){1, ZM_NO_AXIS}, out, 2, (int[]){1, 1}), "axis 1");
  same_bits("axis 1", out[0], zm_contiguous(zm_transpose(zm_sum(a, 0, false), NULL)));
  same_bits("not batched", out[1], zm_contiguous(zm_transpose(zm_broadcast_to(zm_exp(b), SHAPE(3, 5)), NULL)));
  zm_array *none[2] = {zm_full(0, ZM_F32, SHAPE(0, 3)), b};
  MUST(zm_vmap(two_results, NULL, none, 2, (int[]){0, ZM_NO_AXIS}, out, 2, NULL), "an empty batch");
  assert_int_equal(zm_array_dim(out[0], 0), 0);
  assert_int_equal(zm_array_dim(out[1], 0), 0);
  MUST(zm_eval(out, 2), "an empty batch");
  zm_scope_close(scope);
}

// ---- values inside functions ----

// x doubled until it is above 10: how often depends on the value.
static zm_status until_large(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  int *steps = user;
  zm_array *x = in[0];
  for (*steps = 0; x; ++*steps) {
    if (!zm_array_data(x)) return zm_last_status();
    if (zm_array_item(x) > 10) break;
    x = zm_multiply(x, zm_add(x, scalar(1)));
  }
  out[0] = zm_multiply(x, in[0]);
  return out[0] ? ZM_OK : zm_last_status();
}

static void values_inside_functions(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  int steps;
  wrapped f = {until_large, &steps, 1}, back = {grad_of, &f, 1};
  zm_array *x = scalar(1.5), *out[1], *gradient[1], *one[1] = {scalar(1)}, *pushed[1];
  MUST(zm_value_and_grad(until_large, &steps, &x, 1, NULL, 0, out, 1, gradient), "grad");
  assert_int_equal(steps, 2);
  // 1.5 -> 3.75 -> 17.8125; times x. d/dx of x a(a(x)) with a(v) = v v + v.
  const double v = 1.5, a = v * v + v, b = a * a + a, da = 2 * v + 1, db = (2 * a + 1) * da;
  assert_true(fabs(zm_array_item(out[0]) - v * b) < 1e-4);
  assert_true(fabs(zm_array_item(gradient[0]) - (b + v * db)) < 1e-3);
  MUST(zm_jvp(until_large, &steps, &x, 1, one, out, 1, pushed), "jvp");
  assert_true(fabs(zm_array_item(pushed[0]) - (b + v * db)) < 1e-3);
  check_gradient("grad of grad with values", back.f, back.user, &x, 1, 1, &(check_case){.step = 1e-3, .tolerance = 1e-2});
  // Nothing of the graph is kept once results are evaluated outside.
  MUST(zm_eval((zm_array *[]){out[0], gradient[0]}, 2), "eval");
  assert_null(out[0]->node);
  assert_null(gradient[0]->node);
  zm_array *batch = vector(3, 1, 2);
  fails(zm_vmap(until_large, &steps, &batch, 1, NULL, out, 1, NULL), ZM_ERROR_ARGUMENT, "zm_vmap");
  fails(zm_vmap(grad_of, &f, &batch, 1, NULL, out, 1, NULL), ZM_ERROR_ARGUMENT, "zm_vmap");
  zm_compiled *c = zm_compile(until_large, &steps, 1);
  fails(zm_compiled_call(c, &x, 1, out, 1), ZM_ERROR_ARGUMENT, "zm_compile");
  MUST(zm_grad(compiled_of, c, &x, 1, NULL, 0, gradient), "grad of a compiled function is that of the function");
  zm_compiled_free(c);
  zm_scope_close(scope);
}

// The result is evaluated inside and given back: outside it is an array as any other.
static zm_status evaluated(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_status status = smooth(user, in, nin, out, nout);
  return status == ZM_OK ? zm_eval(out, 1) : status;
}

static void results_evaluated_inside(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *x = vector(4, -1, 1), *out[1], *gradient[1], *plain[1];
  MUST(zm_value_and_grad(evaluated, NULL, &x, 1, NULL, 0, out, 1, gradient), "grad");
  MUST(zm_grad(smooth, NULL, &x, 1, NULL, 0, plain), "grad");
  same_bits("gradient", gradient[0], plain[0]);
  assert_non_null(zm_array_data(out[0]));
  assert_null(out[0]->node);
  zm_scope_close(scope);
}

// ---- constants, integers, the same array twice ----

static zm_status with_captured(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  out[0] = zm_sum(zm_multiply(in[0], user), 0, false);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status product(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_sum(zm_multiply(in[0], in[1]), 0, false);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status itself(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user;
  for (int o = 0; o < nout; o++) out[o] = in[o < nin ? o : 0];
  return ZM_OK;
}

static void what_counts_as_an_input(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *x = vector(4, -1, 1), *out[3], *gradients[3], *twice[2] = {x, x};
  // x reached otherwise than as the input is a constant: the gradient is x, not 2 x.
  MUST(zm_grad(with_captured, x, &x, 1, NULL, 0, gradients), "captured");
  same_bits("captured", gradients[0], x);
  MUST(zm_grad(product, NULL, twice, 2, (int[]){1, 0}, 2, gradients), "twice");
  same_bits("twice", gradients[0], x);
  same_bits("twice", gradients[1], x);
  // Integers and what is not used: zeros of the input's type.
  zm_array *mixed[3] = {x, zm_arange(0, 4, 1, ZM_I32), vector(2, -1, 1)};
  MUST(zm_vjp(product, NULL, mixed, 3, NULL, out, 1, gradients), "mixed");
  same_bits("by integers", gradients[1], zm_full(0, ZM_I32, SHAPE(4)));
  same_bits("by what is not used", gradients[2], zm_full(0, ZM_F32, SHAPE(2)));
  close_to("by floats", gradients[0], zm_astype(mixed[1], ZM_F32), 0);
  // Results that are inputs, one of them twice.
  MUST(zm_vjp(itself, NULL, mixed, 2, NULL, out, 3, gradients), "itself");
  same_bits("itself", gradients[0], zm_full(2, ZM_F32, SHAPE(4)));
  same_bits("itself", out[2], x);
  zm_array *batch = zm_reshape(vector(6, -1, 1), SHAPE(2, 3));
  MUST(zm_vmap(itself, NULL, &batch, 1, NULL, out, 2, (int[]){0, 1}), "itself");
  same_bits("itself", out[0], batch);
  // bfloat16: gradients have the dtype of the input, whatever is between.
  zm_array *half = zm_astype(x, ZM_BF16);
  MUST(zm_grad(with_captured, x, &half, 1, NULL, 0, gradients), "bfloat16");
  same_bits("bfloat16", gradients[0], half);
  zm_scope_close(scope);
}

static zm_status stopped(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_sum(zm_multiply(in[0], zm_stop_gradient(zm_exp(in[0]))), 0, false);
  return out[0] ? ZM_OK : zm_last_status();
}

static void stop_gradient(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *x = vector(4, -1, 1), *gradient[1], *out[1], *pushed[1], *t = vector(4, -1, 1);
  MUST(zm_grad(stopped, NULL, &x, 1, NULL, 0, gradient), "stop");
  same_bits("stop", gradient[0], zm_exp(x));
  MUST(zm_jvp(stopped, NULL, &x, 1, &t, out, 1, pushed), "stop");
  close_to("stop", pushed[0], zm_sum(zm_multiply(t, zm_exp(x)), 0, false), 1e-6);
  zm_array *many = zm_reshape(vector(12, -1, 1), SHAPE(3, 4));
  check_batches("stop", stopped, NULL, &x, &many, 1, 1);
  assert_null(zm_stop_gradient(NULL));
  zm_scope_close(scope);
}

// ---- checkpoints ----

typedef struct counted {
  zm_function f;
  void *user;
  int calls;
} counted;

static zm_status count_calls(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  counted *c = user;
  c->calls++;
  return c->f(c->user, in, nin, out, nout);
}

static void checkpoints(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  counted count = {network, NULL, 0};
  wrapped f = {count_calls, &count, 3}, net = {network, NULL, 3}, kept = {checkpoint_of, &f, 3}, inner = {checkpoint_of, &kept, 3};
  wrapped back = {grad_of, &kept, 3}, plain_back = {grad_of, &net, 3};
  check_input x = {ZM_F32, 1, {3}, -1, 1}, w = {ZM_F32, 2, {3, 4}, -1, 1}, v = {ZM_F32, 2, {4, 5}, -1, 1};
  zm_array *in[3] = {check_fill(&x, false), check_fill(&w, false), check_fill(&v, false)}, *a[3], *b[3];
  zm_array *many[3] = {check_fill(&x, true), check_fill(&w, true), check_fill(&v, true)};
  MUST(kept.f(kept.user, in, 3, a, 1), "checkpoint");
  MUST(network(NULL, in, 3, b, 1), "network");
  same_bits("value", a[0], b[0]);
  assert_int_equal(count.calls, 1);
  MUST(back.f(back.user, in, 3, a, 3), "grad of checkpoint");
  MUST(plain_back.f(plain_back.user, in, 3, b, 3), "grad");
  for (int i = 0; i < 3; i++) same_bits("gradient", a[i], b[i]);
  assert_int_equal(count.calls, 3); // once for the value, once more for the gradient
  check_gradient("checkpoint", kept.f, kept.user, in, 3, 1, &(check_case){0});
  check_gradient("grad of checkpoint", back.f, back.user, in, 3, 3, &(check_case){0});
  check_batches("checkpoint", kept.f, kept.user, in, many, 3, 1);
  check_batches("grad of checkpoint", back.f, back.user, in, many, 3, 3);
  // A gradient of a batch of checkpoints, and a checkpoint of a checkpoint.
  wrapped each = {vmap_of, &kept, 3}, total = {sum_of, &each, 3}, plain_each = {vmap_of, &net, 3}, plain_total = {sum_of, &plain_each, 3};
  in[0] = many[0];
  MUST(grad_of(&total, in, 3, a, 3), "grad of vmap of checkpoint");
  MUST(grad_of(&plain_total, in, 3, b, 3), "grad of vmap");
  for (int i = 0; i < 3; i++) close_to("grad of vmap of checkpoint", a[i], b[i], 1e-5);
  check_gradient("vmap of checkpoint", total.f, total.user, in, 3, 1, &(check_case){0});
  MUST(grad_of(&inner, in, 3, a, 3), "grad of checkpoint of checkpoint");
  MUST(grad_of(&net, in, 3, b, 3), "grad");
  for (int i = 0; i < 3; i++) same_bits("twice", a[i], b[i]);
  zm_scope_close(scope);
}

// A chain of layers: the memory that its gradient needs, with a checkpoint around each layer and without.
enum { LAYERS = 12, WIDTH = 512 };

static zm_status one_layer(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  zm_array *y = in[0];
  for (int i = 0; i < 6 && y; i++) y = zm_tanh(zm_multiply(y, in[1]));
  out[0] = y;
  return y ? ZM_OK : zm_last_status();
}

static zm_status layers(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *x = in[0];
  zm_status status = ZM_OK;
  for (int i = 1; i < nin && status == ZM_OK; i++) {
    zm_array *pair[2] = {x, in[i]};
    status = user ? zm_checkpoint(one_layer, NULL, pair, 2, &x, 1) : one_layer(NULL, pair, 2, &x, 1);
  }
  (void)nout;
  out[0] = status == ZM_OK ? zm_sum(x, 0, false) : NULL;
  return out[0] ? ZM_OK : zm_last_status();
}

static size_t arena_of(bool kept, zm_array **gradient) {
  zm_array *in[LAYERS + 1], *out[LAYERS + 1];
  int by[LAYERS + 1], yes = 1;
  const char *names[LAYERS + 1];
  char text[LAYERS + 1][8];
  for (int i = 0; i <= LAYERS; i++) {
    in[i] = zm_full(0.5 + 0.01 * i, ZM_F32, SHAPE(WIDTH));
    by[i] = i;
    snprintf(text[i], sizeof text[i], "%d", i);
    names[i] = text[i];
  }
  MUST(zm_grad(layers, kept ? &yes : NULL, in, LAYERS + 1, by, LAYERS + 1, out), "grad of layers");
  zmi_program *p = zmi_compile(out, names, LAYERS + 1, &(zmi_compile_options){.plan_only = true});
  assert_non_null(p);
  const size_t bytes = zmi_program_tape(p)->arena_bytes;
  zmi_program_free(p);
  *gradient = out[0];
  return bytes;
}

static void checkpoints_save_memory(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *a, *b;
  const size_t plain = arena_of(false, &a), kept = arena_of(true, &b), results = (LAYERS + 1) * WIDTH * sizeof(float);
  same_bits("gradient of layers", a, b);
  // All of 12 * 6 intermediate results or more, against those of one layer and the layers' inputs.
  if ((kept - results) * 3 > plain - results) fail_msg("an arena of %zu bytes with checkpoints, %zu without", kept, plain);
  zm_scope_close(scope);
}

// ---- gradients of the author's ----

// x exp(y), whose gradients are said to be 3 g y (uses an input) and g z (uses the result)
static zm_status forward_only(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_multiply(in[0], zm_exp(in[1]));
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status authors(void *user, zm_array *const *in, int nin, zm_array *const *out, zm_array *const *cotangents, int nout,
                         zm_array **gradients) {
  (void)nin, (void)nout;
  if (user) return zmi_fail(ZM_ERROR_UNSUPPORTED, "not today");
  gradients[0] = zm_multiply(zm_multiply(cotangents[0], in[1]), scalar(3));
  gradients[1] = zm_multiply(cotangents[0], out[0]);
  return gradients[0] && gradients[1] ? ZM_OK : zm_last_status();
}

static zm_status custom(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return zm_custom_vjp(forward_only, authors, user, in, nin, out, nout);
}

static zm_status no_gradients(void *user, zm_array *const *in, int nin, zm_array *const *out, zm_array *const *cotangents, int nout,
                              zm_array **gradients) {
  (void)user, (void)in, (void)nin, (void)out, (void)cotangents, (void)nout, (void)gradients;
  return ZM_OK;
}

static zm_status custom_zero(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return zm_custom_vjp(forward_only, no_gradients, user, in, nin, out, nout);
}

static void gradients_of_the_authors(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  wrapped f = {custom, NULL, 2}, back = {grad_of, &f, 2};
  zm_array *in[2] = {scalar(0.7), scalar(0.3)}, *many[2] = {vector(3, -1, 1), vector(3, -1, 1)}, *out[2], *g[2], *h[2], *t[2];
  MUST(zm_value_and_grad(custom, NULL, in, 2, (int[]){0, 1}, 2, out, 1, g), "custom");
  close_to("value", out[0], zm_multiply(in[0], zm_exp(in[1])), 0);
  close_to("by x", g[0], scalar(0.9), 1e-6);
  close_to("by y", g[1], out[0], 0);
  // Tangents follow the author's gradient too.
  t[0] = scalar(2), t[1] = scalar(-1);
  MUST(zm_jvp(custom, NULL, in, 2, t, out, 1, h), "jvp of custom");
  close_to("tangent", h[0], zm_subtract(scalar(1.8), out[0]), 1e-6);
  // The second order: 3 y by y; z by both, which goes by the author's rule again: (3 y, z).
  zm_array *ones[2] = {scalar(1), scalar(1)};
  MUST(zm_vjp(back.f, back.user, in, 2, ones, out, 2, h), "grad of grad of custom");
  close_to("by x", h[0], scalar(0.9), 1e-6);
  close_to("by y", h[1], zm_add(scalar(3), zm_multiply(in[0], zm_exp(in[1]))), 1e-6);
  check_batches("custom", custom, NULL, in, many, 2, 1);
  check_batches("grad of custom", back.f, back.user, in, many, 2, 2);
  // The gradient of a batch that shares y is the sum over the batch.
  wrapped each = {vmap_of, &f, 2}, total = {sum_of, &each, 2};
  zm_array *shared[2] = {many[0], in[1]};
  MUST(grad_of(&total, shared, 2, g, 2), "grad of vmap of custom");
  close_to("by each x", g[0], zm_full(0.9, ZM_F32, SHAPE(3)), 1e-6);
  close_to("by the shared y", g[1], zm_sum(zm_multiply(many[0], zm_exp(in[1])), 0, false), 1e-6);
  wrapped both = {vmap_all_of, &each, 2}, both_sum = {sum_of, &both, 2};
  zm_array *grid[2] = {zm_reshape(vector(6, -1, 1), SHAPE(2, 3)), vector(2, -1, 1)};
  MUST(grad_of(&both_sum, grid, 2, g, 2), "grad of vmap of vmap of custom");
  close_to("by y", g[1], zm_sum(zm_multiply(grid[0], zm_expand_dims(zm_exp(grid[1]), 1)), 1, false), 1e-5);
  MUST(zm_grad(custom_zero, NULL, in, 2, (int[]){0, 1}, 2, g), "no gradients");
  close_to("zero", g[0], scalar(0), 0);
  fails(zm_grad(custom, &f, in, 2, NULL, 0, g), ZM_ERROR_UNSUPPORTED, "not today");
  fails(zm_custom_vjp(forward_only, NULL, NULL, in, 2, out, 1), ZM_ERROR_ARGUMENT, "NULL");
  zm_scope_close(scope);
}

// ---- compiled functions ----

static void compiled_functions(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  counted count = {network, NULL, 0};
  zm_compiled *c = zm_compile(count_calls, &count, 1);
  check_input x = {ZM_F32, 1, {3}, -1, 1}, w = {ZM_F32, 2, {3, 4}, -1, 1}, v = {ZM_F32, 2, {4, 5}, -1, 1};
  zm_array *in[3] = {check_fill(&x, false), check_fill(&w, false), check_fill(&v, false)}, *a[3], *b[3];
  zm_array *many[3] = {check_fill(&x, true), check_fill(&w, true), check_fill(&v, true)};
  for (int i = 0; i < 4; i++) {
    in[0] = vector(3, -1, 1);
    MUST(zm_compiled_call(c, in, 3, a, 1), "compiled");
    MUST(network(NULL, in, 3, b, 1), "network");
    same_bits("compiled", a[0], b[0]);
  }
  assert_int_equal(count.calls, 1);
  in[0] = many[0];
  MUST(zm_compiled_call(c, in, 3, a, 1), "compiled for a batch");
  assert_int_equal(count.calls, 2);
  in[0] = zm_multiply(in[0], scalar(2)); // lazy inputs
  MUST(zm_compiled_call(c, in, 3, a, 1), "compiled");
  MUST(network(NULL, in, 3, b, 1), "network");
  same_bits("compiled", a[0], b[0]);
  assert_int_equal(count.calls, 2);
  // Inside other transforms, and they inside.
  wrapped net = {network, NULL, 3}, back = {grad_of, &net, 3}, in_grad = {compiled_of, c, 3}, grad_in = {grad_of, &in_grad, 3};
  MUST(grad_in.f(grad_in.user, in, 3, a, 3), "grad of compiled");
  MUST(back.f(back.user, in, 3, b, 3), "grad");
  for (int i = 0; i < 3; i++) same_bits("grad of compiled", a[i], b[i]);
  zm_compiled *inside = zm_compile(grad_of, &net, 3);
  for (int round = 0; round < 2; round++) {
    MUST(zm_compiled_call(inside, in, 3, a, 3), "compiled grad");
    for (int i = 0; i < 3; i++) same_bits("compiled grad", a[i], b[i]);
  }
  in[0] = check_fill(&x, false);
  check_batches("vmap of compiled", in_grad.f, in_grad.user, in, many, 3, 1);
  check_batches("vmap of compiled grad", compiled_of, inside, in, many, 3, 3);
  wrapped kept = {checkpoint_of, &net, 3}, each = {vmap_all_of, &kept, 3};
  zm_compiled *whole = zm_compile(vmap_all_of, &kept, 1);
  MUST(zm_compiled_call(whole, many, 3, a, 1), "compiled vmap of checkpoint");
  MUST(each.f(each.user, many, 3, b, 1), "vmap of checkpoint");
  same_bits("compiled vmap of checkpoint", a[0], b[0]);
  zm_compiled_free(whole);
  zm_compiled_free(inside);
  zm_compiled_free(c);
  zm_compiled_free(NULL);
  zm_scope_close(scope);
}

typedef struct captures {
  zm_array *lazy;
  int calls;
} captures;

// Results of all kinds: computed, the input itself, a constant, one of an array from elsewhere.
static zm_status all_kinds(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  captures *c = user;
  (void)nin, (void)nout;
  c->calls++;
  out[0] = zm_add(in[0], c->lazy);
  out[1] = in[0];
  out[2] = zm_arange(0, 3, 1, ZM_F32);
  out[3] = c->lazy;
  return out[0] && out[2] ? ZM_OK : zm_last_status();
}

static void what_compiled_functions_read(void **state) {
  (void)state;
  zm_scope *outer_scope = zm_scope_open();
  zm_scope *scope = zm_scope_open();
  captures use = {0};
  zm_compiled *c = zm_compile(all_kinds, &use, 4);
  zm_array *out[4], *in[2] = {vector(3, -1, 1), vector(2, -1, 1)};
  use.lazy = zm_multiply(vector(3, -1, 1), scalar(2));
  double *lazy = check_values(zm_contiguous(use.lazy));
  MUST(zm_compiled_call(c, in, 2, out, 4), "compiled");
  assert_null(use.lazy->node); // evaluated once, not in every call
  in[0] = zm_scope_return(scope, in[0]);
  in[1] = zm_scope_return(scope, in[1]);
  zm_scope_close(scope); // what was captured lives on in the compiled function
  scope = zm_scope_open();
  MUST(zm_compiled_call(c, in, 2, out, 4), "compiled again");
  assert_int_equal(use.calls, 1);
  double *sum = check_values(out[0]), *x = check_values(in[0]), *kept = check_values(out[3]);
  for (int i = 0; i < 3; i++) {
    assert_true((float)sum[i] == (float)x[i] + (float)lazy[i]);
    assert_true(kept[i] == lazy[i]);
  }
  same_bits("itself", out[1], in[0]);
  same_bits("a constant", out[2], zm_arange(0, 3, 1, ZM_F32));
  free(sum);
  free(x);
  free(kept);
  free(lazy);
  // A call with other types after many others.
  use.lazy = scalar(1);
  for (int n = 4; n <= 75; n++) {
    in[0] = vector(n, -1, 1);
    MUST(zm_compiled_call(c, in, 2, out, 4), "%d elements", n);
    same_bits("many types", out[0], zm_add(in[0], scalar(1)));
  }
  zm_compiled_free(c);
  zm_scope_close(scope);
  zm_scope_close(outer_scope);
}

static void *call_often(void *user) {
  zm_scope *scope = zm_scope_open();
  zm_array *in[3], *out[1], *plain[1];
  const void *good = user;
  for (int i = 0; i < 20 && good; i++) {
    const int64_t n = 2 + i % 3;
    in[0] = zm_reshape(zm_arange(0, (double)n * 3, 1, ZM_F32), SHAPE(n, 3));
    in[1] = zm_full(0.25, ZM_F32, SHAPE(3, 4));
    in[2] = zm_full(0.5, ZM_F32, SHAPE(4, 5));
    if (zm_compiled_call(user, in, 3, out, 1) != ZM_OK || network(NULL, in, 3, plain, 1) != ZM_OK) good = NULL;
    if (good && zm_array_item(out[0]) != zm_array_item(plain[0])) good = NULL;
  }
  zm_scope_close(scope);
  return (void *)(uintptr_t)good;
}

static void compiled_functions_of_threads(void **state) {
  (void)state;
  zm_compiled *c = zm_compile(network, NULL, 1);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, call_often, c), 0);
  for (int i = 0; i < 4; i++) {
    void *good;
    pthread_join(threads[i], &good);
    assert_non_null(good);
  }
  zm_compiled_free(c);
}

// ---- many inputs ----

enum { MANY = 300, RESULTS = 70 };

// out[o] = the sum over i of in[i] times a number of its own, squared for even o
static zm_status wide(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user;
  for (int o = 0; o < nout; o++) {
    zm_array *sum = NULL;
    for (int i = o; i < nin; i += nout) {
      zm_array *part = zm_multiply(in[i], scalar(1 + i % 5));
      sum = sum ? zm_add(sum, part) : part;
    }
    out[o] = o % 2 ? sum : zm_multiply(sum, sum);
    if (!out[o]) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status wide_back(void *user, zm_array *const *in, int nin, zm_array *const *out, zm_array *const *cotangents, int nout,
                           zm_array **gradients) {
  (void)user, (void)in, (void)out;
  for (int i = 0; i < nin; i++) gradients[i] = zm_multiply(cotangents[i % nout], scalar(i));
  return ZM_OK;
}

static zm_status wide_custom(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return zm_custom_vjp(wide, wide_back, user, in, nin, out, nout);
}

static zm_status wide_kept(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return zm_checkpoint(wide, user, in, nin, out, nout);
}

static void many_inputs(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *in[MANY], *batch[MANY], *out[RESULTS], *gradients[MANY], *kept[MANY], *tangents[RESULTS];
  for (int i = 0; i < MANY; i++) {
    in[i] = vector(2, -1, 1);
    batch[i] = zm_reshape(vector(6, -1, 1), SHAPE(3, 2));
  }
  MUST(zm_vjp(wide, NULL, in, MANY, NULL, out, RESULTS, gradients), "vjp");
  MUST(zm_vjp(wide_kept, NULL, in, MANY, NULL, out, RESULTS, kept), "vjp of checkpoint");
  for (int i = 0; i < MANY; i++) same_bits("many", gradients[i], kept[i]);
  same_bits("odd results are linear", gradients[1], zm_full(2, ZM_F32, SHAPE(2)));
  MUST(zm_vjp(wide_custom, NULL, in, MANY, NULL, out, RESULTS, kept), "vjp of custom");
  same_bits("custom", kept[MANY - 1], zm_full(MANY - 1, ZM_F32, SHAPE(2)));
  MUST(zm_jvp(wide_custom, NULL, in, MANY, in, out, RESULTS, tangents), "jvp of custom");
  MUST(zm_eval(tangents, RESULTS), "jvp of custom");
  MUST(zm_jvp(wide_kept, NULL, in, MANY, in, out, RESULTS, tangents), "jvp of checkpoint");
  close_to("many", tangents[1], out[1], 1e-5);
  MUST(zm_vmap(wide_kept, NULL, batch, MANY, NULL, out, RESULTS, NULL), "vmap");
  zm_array *plain[RESULTS];
  MUST(wide(NULL, batch, MANY, plain, RESULTS), "wide");
  for (int o = 0; o < RESULTS; o++) same_bits("vmap", out[o], plain[o]);
  wrapped f = {wide_custom, NULL, MANY};
  MUST(zm_vjp(vmap_all_of, &f, batch, MANY, NULL, out, RESULTS, kept), "vjp of vmap of custom");
  same_bits("vmap of custom", kept[7], zm_full(7, ZM_F32, SHAPE(3, 2)));
  zm_compiled *c = zm_compile(wide_kept, NULL, RESULTS);
  MUST(zm_compiled_call(c, batch, MANY, out, RESULTS), "compiled");
  for (int o = 0; o < RESULTS; o++) same_bits("compiled", out[o], plain[o]);
  zm_compiled_free(c);
  zm_scope_close(scope);
}

// ---- depth ----

static zm_status deep(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  zm_array *x = in[0];
  for (int i = 0; i < *(int *)user && x; i++) x = zm_negative(x);
  out[0] = x;
  return x ? ZM_OK : zm_last_status();
}

static void great_depth(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  int depth = 100000;
  zm_array *x = vector(2, -1, 1), *out[1], *gradient[1], *pushed[1];
  MUST(zm_vjp(deep, &depth, &x, 1, NULL, out, 1, gradient), "vjp");
  MUST(zm_jvp(deep, &depth, &x, 1, &x, out, 1, pushed), "jvp");
  MUST(zm_vmap(deep, &depth, &x, 1, NULL, out, 1, NULL), "vmap");
  depth = 20000;
  MUST(zm_vjp(deep, &depth, &x, 1, NULL, out, 1, gradient), "vjp");
  same_bits("value", out[0], x);
  same_bits("gradient", gradient[0], zm_full(1, ZM_F32, SHAPE(2)));
  zm_scope_close(scope);
}

// ---- errors ----

static zm_status silent(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)in, (void)nin, (void)out, (void)nout;
  return user ? ZM_ERROR_CANCELLED : ZM_OK;
}

static zm_status keys_written(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  zmi_type t = zmi_type_of(ZM_F32, 6, (int64_t[]){1, 2, 1, 2, 16, 2});
  zm_array *place = zm_arange(0, 2, 1, ZM_I32), *zero = zm_full(0, ZM_I32, SHAPE(2));
  out[0] = zmi_write_keys(zmi_state("state", &t, user), in[0], place, zero);
  return out[0] ? ZM_OK : zm_last_status();
}

static void refusals(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *x = vector(4, -1, 1), *integers = zm_arange(0, 4, 1, ZM_I32), *out[2] = {x, x}, *g[2] = {x, x}, *two[2] = {x, integers};
  zm_array *none[1] = {NULL}, *wrong[1] = {vector(3, -1, 1)}, *keys = zm_reshape(vector(16, -1, 1), SHAPE(2, 2, 4));
  zm_array *many = zm_reshape(vector(32, -1, 1), SHAPE(2, 2, 2, 4));
  int yes = 1;
  fails(zm_vjp(NULL, NULL, &x, 1, NULL, out, 1, g), ZM_ERROR_ARGUMENT, "the function is NULL");
  fails(zm_vjp(smooth, NULL, &x, 1, NULL, out, 0, g), ZM_ERROR_ARGUMENT, "at least one result");
  fails(zm_vjp(smooth, NULL, NULL, 1, NULL, out, 1, g), ZM_ERROR_ARGUMENT, "list of inputs");
  fails(zm_vjp(smooth, NULL, &x, 1, NULL, out, 1, NULL), ZM_ERROR_ARGUMENT, "list of gradients");
  zm_clear_error();
  fails(zm_vjp(smooth, NULL, none, 1, NULL, out, 1, g), ZM_ERROR_ARGUMENT, "input 0 is NULL");
  fails(zm_vjp(silent, NULL, &x, 1, NULL, out, 1, g), ZM_ERROR_ARGUMENT, "left result 0 NULL");
  fails(zm_vjp(silent, &yes, &x, 1, NULL, out, 1, g), ZM_ERROR_CANCELLED, "without a message");
  fails(zm_vjp(itself, NULL, &x, 1, wrong, out, 1, g), ZM_ERROR_ARGUMENT, "cotangent of result 0 is float32[3]");
  fails(zm_jvp(itself, NULL, &x, 1, wrong, out, 1, g), ZM_ERROR_ARGUMENT, "tangent of input 0 is float32[3]");
  fails(zm_jvp(itself, NULL, &x, 1, NULL, out, 1, g), ZM_ERROR_ARGUMENT, "list of tangents");
  fails(zm_grad(itself, NULL, &x, 1, NULL, 0, g), ZM_ERROR_ARGUMENT, "must be one float");
  fails(zm_grad(product, NULL, two, 2, (int[]){1}, 1, g), ZM_ERROR_ARGUMENT, "gradients are by floats");
  fails(zm_grad(product, NULL, two, 2, (int[]){2}, 1, g), ZM_ERROR_ARGUMENT, "there are 2 inputs");
  fails(zm_grad(product, NULL, two, 2, (int[]){0, 0}, 2, g), ZM_ERROR_ARGUMENT, "twice");
  fails(zm_grad(smooth, NULL, &x, 1, NULL, 0, NULL), ZM_ERROR_ARGUMENT, "no list");
  fails(zm_vmap(smooth, NULL, &x, 1, (int[]){1}, out, 1, NULL), ZM_ERROR_ARGUMENT, "axis 1 of input 0");
  fails(zm_vmap(smooth, NULL, &x, 1, (int[]){ZM_NO_AXIS}, out, 1, NULL), ZM_ERROR_ARGUMENT, "no input is batched");
  fails(zm_vmap(itself, NULL, &x, 1, NULL, out, 1, (int[]){2}), ZM_ERROR_ARGUMENT, "axis 2 for the batch of result 0");
  zm_array *uneven[2] = {x, wrong[0]};
  fails(zm_vmap(itself, NULL, uneven, 2, NULL, out, 2, NULL), ZM_ERROR_ARGUMENT, "3 slices");
  float memory[256] = {0};
  fails(zm_vjp(keys_written, memory, &keys, 1, NULL, out, 1, g), ZM_ERROR_UNSUPPORTED, "write_keys");
  fails(zm_vmap(keys_written, memory, &many, 1, NULL, out, 1, NULL), ZM_ERROR_UNSUPPORTED, "updates a state");
  assert_null(zm_compile(NULL, NULL, 1));
  assert_null(zm_compile(smooth, NULL, 0));
  zm_compiled *c = zm_compile(smooth, NULL, 1);
  fails(zm_compiled_call(NULL, &x, 1, out, 1), ZM_ERROR_ARGUMENT, "NULL");
  fails(zm_compiled_call(c, &x, 1, out, 2), ZM_ERROR_ARGUMENT, "compiled with 1");
  zm_compiled_free(c);
  // A failed call leaves its results as they were.
  assert_ptr_equal(out[0], x);
  assert_ptr_equal(g[0], x);
  zm_scope_close(scope);
  fails(zm_vjp(smooth, NULL, none, 0, NULL, out, 1, g), ZM_ERROR_ARGUMENT, "");
}

static zm_status everything(zm_array **result) {
  wrapped net = {network, NULL, 3}, kept = {checkpoint_of, &net, 3}, each = {vmap_of, &kept, 3}, total = {sum_of, &each, 3};
  zm_array *in[3] = {zm_full(0.5, ZM_F32, SHAPE(2, 3)), zm_full(0.25, ZM_F32, SHAPE(3, 4)), zm_full(0.125, ZM_F32, SHAPE(4, 5))}, *g[3];
  zm_array *pair[2] = {zm_full(0.5, ZM_F32, SHAPE(2)), zm_full(0.5, ZM_F32, SHAPE(2))}, *value[1], *pushed[1];
  wrapped author = {custom, NULL, 2};
  if (!in[0] || !in[1] || !in[2] || !pair[0] || !pair[1]) return zm_last_status();
  zm_status status = grad_of(&total, in, 3, g, 3);
  if (status == ZM_OK) status = zm_jvp(vmap_all_of, &author, pair, 2, pair, value, 1, pushed);
  zm_compiled *c = status == ZM_OK ? zm_compile(vmap_of, &kept, 1) : NULL;
  if (status == ZM_OK && !c) status = zm_last_status();
  if (status == ZM_OK) status = zm_compiled_call(c, in, 3, value, 1);
  zm_compiled_free(c);
  if (status == ZM_OK) status = zm_eval((zm_array *[]){g[0], g[1], g[2], pushed[0]}, 4);
  *result = status == ZM_OK ? g[1] : NULL;
  return status;
}

static void memory_that_runs_out(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *whole, *again;
  MUST(everything(&whole), "everything");
  uint64_t count = zmi_alloc_count();
  MUST(everything(&again), "everything");
  count = zmi_alloc_count() - count;
  same_bits("everything", whole, again);
  int failed = 0;
  // Every one of the first allocations, then some of the rest.
  for (uint64_t n = 1; n <= count; n += n < 400 ? 1 : 1 + n % 7) {
    zm_scope *inner = zm_scope_open();
    zm_array *result;
    zmi_alloc_fail_at(n);
    zm_status status = everything(&result);
    zmi_alloc_fail_at(0);
    if (status == ZM_OK)
      same_bits("memory is short", result, whole);
    else
      assert_int_equal(status, ZM_ERROR_MEMORY);
    failed += status != ZM_OK;
    zm_scope_close(inner);
  }
  assert_true(failed > 100);
  zm_scope_close(scope);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gradients_of_gradients),
      cmocka_unit_test(batches_of_gradients),
      cmocka_unit_test(tangents_and_gradients),
      cmocka_unit_test(batches_of_batches),
      cmocka_unit_test(axes_of_batches),
      cmocka_unit_test(values_inside_functions),
      cmocka_unit_test(results_evaluated_inside),
      cmocka_unit_test(what_counts_as_an_input),
      cmocka_unit_test(stop_gradient),
      cmocka_unit_test(checkpoints),
      cmocka_unit_test(checkpoints_save_memory),
      cmocka_unit_test(gradients_of_the_authors),
      cmocka_unit_test(compiled_functions),
      cmocka_unit_test(what_compiled_functions_read),
      cmocka_unit_test(compiled_functions_of_threads),
      cmocka_unit_test(many_inputs),
      cmocka_unit_test(great_depth),
      cmocka_unit_test(refusals),
      cmocka_unit_test(memory_that_runs_out),
  };
  return cmocka_run_group_tests_name("transform", tests, NULL, NULL);
}
