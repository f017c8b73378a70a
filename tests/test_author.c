// Kernels of users: results against plain loops and against the library's own operations, on every tier and with any number of workers;
// broadcast and strided operands, empty arrays, results of several forms; errors; tapes; gradients by the author.
#include "array/ops/ops.h"
#include "play.h"
#include "transform_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <zmlx/zmlx.h>

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

static uint32_t seed = 1;

static float uniform(void) {
  seed = seed * 1664525u + 1013904223u;
  return (float)(int32_t)seed * 0x1p-30f;
}

static zm_array *noise(zm_dtype dtype, const int64_t *shape, int rank) {
  int64_t n = 1;
  for (int i = 0; i < rank; i++) n *= shape[i];
  float *x = malloc((size_t)n * sizeof *x + 1);
  for (int64_t i = 0; i < n; i++) x[i] = uniform();
  zm_array *a = zm_array_from_data(x, ZM_F32, shape, rank);
  free(x);
  a = zm_astype(a, dtype);
  assert_non_null(zm_array_data(a));
  return a;
}

static void same(const char *what, zm_array *found, zm_array *wanted) {
  char a[128], b[128];
  if (!found || !wanted) fail_msg("%s: %s", what, zm_last_error());
  if (!zmi_type_equal(&found->type, &wanted->type))
    fail_msg("%s: is %s, wanted %s", what, zmi_type_text(&found->type, a), zmi_type_text(&wanted->type, b));
  void *x = play_everywhere(what, found);
  const void *y = zm_array_data(wanted);
  assert_non_null(y);
  size_t bytes;
  assert_true(zmi_type_bytes(&found->type, &bytes));
  if (bytes && memcmp(x, y, bytes) != 0) fail_msg("%s: the bits differ", what);
  zmi_free(x);
}

static zm_op *must(zm_op *op) {
  if (!op) fail_msg("%s", zm_last_error());
  return op;
}

// ---- elementwise ----

static void elementwise_is_like_the_ops(void **state) {
  (void)state;
  static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16, ZM_F16};
  zm_op *op = must(zm_elementwise("silu(gate) * up", NULL)), *twice = must(zm_elementwise("x + x", NULL));
  assert_non_null(zm_op_name(op));
  for (size_t d = 0; d < ZMI_COUNT(dtypes); d++) {
    zm_scope *scope = zm_scope_open();
    zm_array *x = noise(dtypes[d], SHAPE(37, 1031)), *row = noise(dtypes[d], SHAPE(1031)), *col = noise(dtypes[d], SHAPE(37, 1));
    zm_array *one = noise(dtypes[d], NULL, 0), *small = noise(dtypes[d], SHAPE(1031, 37)), *none = noise(dtypes[d], SHAPE(0, 5));
    same("x + x", zm_op_apply1(twice, x, NULL), zm_add(x, x));
    same("of a view", zm_op_apply1(twice, zm_transpose(x, NULL), NULL), zm_contiguous(zm_transpose(zm_add(x, x), NULL)));
    same("of one element", zm_op_apply1(twice, one, NULL), zm_add(one, one));
    same("of none", zm_op_apply1(twice, none, NULL), zm_add(none, none));
    if (dtypes[d] == ZM_F32) { // one rounding, not two
      zm_array *pairs[][2] = {{x, row}, {row, x}, {x, col}, {col, row}, {one, x}, {x, zm_transpose(small, NULL)}, {x, x}};
      for (size_t i = 0; i < ZMI_COUNT(pairs); i++)
        same("silu(gate) * up", zm_op_apply1(op, pairs[i][0], pairs[i][1], NULL), zm_multiply(zm_silu(pairs[i][0]), pairs[i][1]));
    }
    zm_scope_close(scope);
  }
  zm_op_free(op);
  zm_op_free(twice);
}

static void several_results_and_dtypes(void **state) {
  (void)state;
  zm_op *op = must(zm_elementwise(
      "s = a + b; big = a > b; n = i32;",
      &(zm_elementwise_options){.name = "three", .inputs = "a b i32", .outputs = "s big n", .result = {ZM_BF16, ZM_BOOL, ZM_F32}}));
  assert_string_equal(zm_op_name(op), "three");
  zm_scope *scope = zm_scope_open();
  zm_array *a = noise(ZM_F32, SHAPE(3, 50)), *b = noise(ZM_F32, SHAPE(50)),
           *i = zm_astype(zm_multiply(a, zm_full(100, ZM_F32, NULL, 0)), ZM_I32);
  zm_array *out[3];
  assert_int_equal(zm_op_apply(op, (zm_array *[]){a, b, i}, 3, out, 3), ZM_OK);
  same("s", out[0], zm_astype(zm_add(a, b), ZM_BF16));
  same("big", out[1], zm_greater(a, b));
  same("n", out[2], zm_astype(i, ZM_F32));
  zm_scope_close(scope);
  zm_op_free(op);
}

static void places_are_those_of_the_array(void **state) {
  (void)state;
  zm_op *op = zm_elementwise("x + (float)i", &(zm_elementwise_options){.inputs = "x"});
  if (!op) return; // the language may not know the place here
  zm_scope *scope = zm_scope_open();
  zm_array *x = noise(ZM_F32, SHAPE(101, 90)), *at = zm_reshape(zm_arange(0, 9090, 1, ZM_F32), SHAPE(90, 101));
  same("places", zm_op_apply1(op, zm_transpose(x, NULL), NULL), zm_add(zm_transpose(x, NULL), at));
  zm_scope_close(scope);
  zm_op_free(op);
}

// ---- rows ----

static const char softmax_source[] = "elements { m = max(x); } elements { e = exp(x - m); s = sum(e); } elements { y = exp(x - m) / s; }";

static void rows_are_like_the_ops(void **state) {
  (void)state;
  zm_op *softmax = must(zm_kernel(&(zm_kernel_options){.name = "softmax", .inputs = "x", .outputs = "y", .source = softmax_source}));
  zm_op *sum = must(zm_reduce(&(zm_reduce_options){.update = "acc + v"}));
  static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16, ZM_F16};
  for (size_t d = 0; d < ZMI_COUNT(dtypes); d++) {
    zm_scope *scope = zm_scope_open();
    zm_array *list[] = {noise(dtypes[d], SHAPE(5, 3, 100)), noise(dtypes[d], SHAPE(1)),       noise(dtypes[d], SHAPE(3, 1)),
                        noise(dtypes[d], SHAPE(0, 7)),      noise(dtypes[d], SHAPE(2, 5000)), noise(dtypes[d], SHAPE(300, 17))};
    for (size_t i = 0; i < ZMI_COUNT(list); i++) {
      same("softmax", zm_op_apply1(softmax, list[i], NULL), zm_softmax(list[i]));
      same("sum", zm_op_apply1(sum, list[i], NULL), zm_sum(list[i], -1, false));
    }
    zm_array *turned = zm_transpose(list[0], (int[]){1, 2, 0}), *swapped = zm_transpose(list[0], (int[]){1, 0, 2});
    same("rows that stride", zm_op_apply1(softmax, turned, NULL), zm_softmax(turned));
    same("rows in another order", zm_op_apply1(softmax, swapped, NULL), zm_softmax(swapped));
    zm_array *wide = zm_broadcast_to(list[2], SHAPE(4, 3, 9));
    same("rows of one element each", zm_op_apply1(softmax, wide, NULL), zm_softmax(wide));
    zm_scope_close(scope);
  }
  zm_op_free(sum);
  zm_op_free(softmax);
}

static void map_reduce_normalizes(void **state) {
  (void)state;
  zm_op *norm = must(zm_map_reduce(
      &(zm_map_reduce_options){.name = "norm",
                               .inputs = "x w",
                               .pass1 = {.init = "0", .update = "acc + x", .finalize = "acc / D"},
                               .pass2 = {.init = "0", .update = "acc + (x - s1) * (x - s1)", .finalize = "rsqrt(acc / D + 1e-5f)"},
                               .write = "(x - s1) * s2 * w"}));
  zm_scope *scope = zm_scope_open();
  zm_array *x = noise(ZM_F32, SHAPE(7, 200)), *w = noise(ZM_F32, SHAPE(200));
  zm_array *centered = zm_subtract(x, zm_mean(x, -1, true)), *eps = zm_full(1e-5, ZM_F32, NULL, 0);
  zm_array *scale = zm_rsqrt(zm_add(zm_mean(zm_multiply(centered, centered), -1, true), eps));
  same("layer norm", zm_op_apply1(norm, x, w, NULL), zm_multiply(zm_multiply(centered, scale), w));
  zm_scope_close(scope);
  zm_op_free(norm);
}

static void parameters_are_given_to_each_application(void **state) {
  (void)state;
  zm_op *op = must(zm_kernel(
      &(zm_kernel_options){.name = "scaled", .inputs = "x", .outputs = "y", .parameters = "by", .source = "elements { y = x * by; }"}));
  zm_scope *scope = zm_scope_open();
  zm_array *x = noise(ZM_F32, SHAPE(4, 9)), *y = NULL, *z = NULL;
  assert_int_equal(zm_op_apply_with(op, &x, 1, (double[]){3}, 1, &y, 1), ZM_OK);
  assert_int_equal(zm_op_apply_with(op, &x, 1, (double[]){-0.5}, 1, &z, 1), ZM_OK);
  same("by 3", y, zm_multiply(x, zm_full(3, ZM_F32, NULL, 0)));
  same("by -0.5", z, zm_multiply(x, zm_full(-0.5, ZM_F32, NULL, 0)));
  assert_int_equal(zm_op_apply(op, &x, 1, &y, 1), ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "parameters"));
  zm_scope_close(scope);
  zm_op_free(op);
}

// ---- tiles ----

static void tiles_reverse_with_shared_memory(void **state) {
  (void)state;
  zm_op *op = must(zm_kernel(
      &(zm_kernel_options){.name = "reverse_blocks",
                           .form = ZM_KERNEL_TILES,
                           .inputs = "x",
                           .outputs = "y",
                           .source = "shared float buf[64]; let at = group * 64 + thread; if (at < x.0) { buf[thread] = x[at]; } barrier();"
                                     "if (at < x.0) { y[at] = buf[63 - thread]; }",
                           .shape = {"x.0"},
                           .groups = "x.0 / 64",
                           .threads = "64"}));
  zm_scope *scope = zm_scope_open();
  float *x = malloc(6400 * sizeof *x), *wanted = malloc(6400 * sizeof *wanted);
  for (int i = 0; i < 6400; i++) x[i] = (float)i;
  for (int i = 0; i < 6400; i++) wanted[i] = (float)(i / 64 * 64 + 63 - i % 64);
  zm_array *a = zm_array_from_data(x, ZM_F32, SHAPE(6400)), *b = zm_array_from_data(wanted, ZM_F32, SHAPE(6400));
  same("blocks", zm_op_apply1(op, a, NULL), b);
  free(x);
  free(wanted);
  zm_scope_close(scope);
  zm_op_free(op);
}

// Simdgroups of 32, the last one of fewer; arrays of threads; grids of two dims: against the same in C.
static void tiles_have_simdgroups_arrays_and_grids(void **state) {
  (void)state;
  enum { N = 75 };
  zm_op *simd = must(zm_kernel(
      &(zm_kernel_options){.form = ZM_KERNEL_TILES,
                           .inputs = "x",
                           .outputs = "total most running before turned moved",
                           .source = "float v = x[thread]; total[thread] = simd_sum(v); most[thread] = simd_max(v);"
                                     "running[thread] = simd_prefix_inclusive_sum(v); before[thread] = simd_prefix_exclusive_sum(v);"
                                     "turned[thread] = simd_shuffle_xor(v, 1); moved[thread] = metal::simd_shuffle_down(v, 4u);",
                           .shape = {"x.0", "x.0", "x.0", "x.0", "x.0", "x.0"},
                           .groups = "1",
                           .threads = "x.0"}));
  zm_scope *scope = zm_scope_open();
  float x[N], wanted[6][N];
  for (int i = 0; i < N; i++) x[i] = (float)(i * 37 % 101 - 50); // whole numbers: sums are exact
  for (int i = 0; i < N; i++) {
    const int first = i / 32 * 32, end = first + 32 < N ? first + 32 : N;
    wanted[0][i] = wanted[2][i] = wanted[3][i] = 0, wanted[1][i] = -1e9f;
    for (int k = first; k < end; k++) {
      wanted[0][i] += x[k];
      wanted[1][i] = fmaxf(wanted[1][i], x[k]);
      if (k <= i) wanted[2][i] += x[k];
      if (k < i) wanted[3][i] += x[k];
    }
    wanted[4][i] = (i ^ 1) < N ? x[i ^ 1] : x[i];
    wanted[5][i] = i + 4 < end ? x[i + 4] : x[i];
  }
  zm_array *in = zm_array_from_data(x, ZM_F32, SHAPE(N)), *out[6];
  if (zm_op_apply(simd, &in, 1, out, 6) != ZM_OK) fail_msg("%s", zm_last_error());
  for (int o = 0; o < 6; o++) same("a function of simdgroups", out[o], zm_array_from_data(wanted[o], ZM_F32, SHAPE(N)));
  zm_scope_close(scope);
  zm_op_free(simd);
  // A transposition with a tile of 4 rows of 8, in a grid of two dims, and each thread's own array of what it read.
  zm_op *turn =
      must(zm_kernel(&(zm_kernel_options){.form = ZM_KERNEL_TILES,
                                          .inputs = "x",
                                          .outputs = "y",
                                          .source = "float own[2]; own[0] = x[thread_position_in_grid.y * x.1 + thread_position_in_grid.x];"
                                                    "own[1] = own[0] * 2; let col = group.x * threads.x + thread.x;"
                                                    "let row = group.y * threads.y + thread.y;"
                                                    "if (row < x.0 && col < x.1) y[col * x.0 + row] = own[1] + own[2] + own[-1];",
                                          .shape = {"x.1 x.0"},
                                          .groups = "(x.1 + 7) / 8, (x.0 + 3) / 4",
                                          .threads = "8, 4"}));
  scope = zm_scope_open();
  zm_array *a = noise(ZM_F32, SHAPE(10, 21));
  same("turned", zm_op_apply1(turn, a, NULL), zm_transpose(zm_add(a, a), (int[]){1, 0}));
  zm_scope_close(scope);
  zm_op_free(turn);
}

// ---- errors ----

static void errors_name_what_is_wrong(void **state) {
  (void)state;
  assert_null(zm_elementwise("x + ", NULL));
  assert_non_null(strchr(zm_last_error(), '^'));
  assert_null(zm_elementwise(NULL, NULL));
  zm_op *op = must(zm_elementwise("a * b", &(zm_elementwise_options){.name = "product"}));
  zm_scope *scope = zm_scope_open();
  zm_array *x = noise(ZM_F32, SHAPE(2, 3)), *y = noise(ZM_F32, SHAPE(4)), *out[2];
  zm_clear_error();
  assert_null(zm_op_apply1(op, x, NULL));
  assert_non_null(strstr(zm_last_error(), "got 1 operands"));
  zm_clear_error();
  assert_null(zm_op_apply1(op, x, y, NULL));
  assert_non_null(strstr(zm_last_error(), "do not broadcast"));
  zm_clear_error();
  assert_int_equal(zm_op_apply(op, (zm_array *[]){x, NULL}, 2, out, 1), ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "operand b"));
  assert_int_equal(zm_op_apply(NULL, &x, 1, out, 1), ZM_ERROR_ARGUMENT);
  zm_op *rows = must(zm_reduce(&(zm_reduce_options){.update = "max(acc, v)", .init = "-1e30f"}));
  zm_clear_error();
  assert_null(zm_op_apply1(rows, noise(ZM_F32, NULL, 0), NULL));
  assert_non_null(strstr(zm_last_error(), "last axis"));
  assert_null(zm_op_source(op, (zm_dtype[]){ZM_F32, ZM_F32}, 2, "fortran"));
  char *text = zm_op_source(op, (zm_dtype[]){ZM_F32, ZM_F32}, 2, "c");
  assert_non_null(text);
  assert_non_null(strstr(text, "zk_elements"));
  zm_free_text(text);
  text = zm_op_source(op, (zm_dtype[]){ZM_F32, ZM_F32}, 2, "ir");
  assert_non_null(text);
  zm_free_text(text);
  zm_op_free(rows);
  zm_scope_close(scope);
  zm_op_free(op);
}

// ---- tapes ----

static void tapes_name_kernels_by_content(void **state) {
  (void)state;
  zm_op *op = must(zm_elementwise("x * x - 1", NULL));
  zm_op *rows =
      must(zm_kernel(&(zm_kernel_options){.inputs = "x", .outputs = "y", .parameters = "p", .source = "elements { y = x * p; }"}));
  zm_scope *scope = zm_scope_open();
  zm_array *x = noise(ZM_F32, SHAPE(3, 4)), *y = zm_op_apply1(op, x, NULL), *z = NULL;
  assert_int_equal(zm_op_apply_with(rows, &y, 1, (double[]){0.25}, 1, &z, 1), ZM_OK);
  zmi_program *p = zmi_compile(&z, (const char *[]){"z"}, 1, NULL);
  assert_non_null(p);
  zmi_text first = {0}, second = {0};
  assert_int_equal(zmi_tape_print(zmi_program_tape(p), &first), ZM_OK);
  assert_non_null(strstr(zmi_text_str(&first), "p0=0.25"));
  zmi_tape *again = zmi_tape_parse(first.data, first.size, zmi_op_find);
  if (!again) fail_msg("%s", zm_last_error());
  assert_int_equal(zmi_tape_print(again, &second), ZM_OK);
  assert_string_equal(zmi_text_str(&first), zmi_text_str(&second));
  zmi_tape_free(again);
  // Another key is of a kernel that nobody has.
  char *key = strstr(first.data, "key0=");
  assert_non_null(key);
  key[5] = key[5] == '-' ? '1' : '9';
  key[6] = key[6] == '1' ? '2' : '1';
  assert_null(zmi_tape_parse(first.data, first.size, zmi_op_find));
  assert_non_null(strstr(zm_last_error(), "kernel"));
  zmi_text_release(&first);
  zmi_text_release(&second);
  zmi_program_free(p);
  zm_scope_close(scope);
  zm_op_free(rows);
  zm_op_free(op);
}

// ---- arrays outlive the op; gradients by the author ----

static zm_status apply_op(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return zm_op_apply(user, in, nin, out, nout);
}

static void authors_gradients_are_used(void **state) {
  (void)state;
  // Not the true gradients, so that it is seen whose they are.
  zm_op *op = must(zm_elementwise("a * b", &(zm_elementwise_options){.gradient = {"g * 3", "g * y + a"}}));
  zm_scope *scope = zm_scope_open();
  zm_array *in[2] = {noise(ZM_F32, SHAPE(2, 5)), noise(ZM_F32, SHAPE(5))}, *out[1], *gradient[2];
  assert_int_equal(zm_vjp(apply_op, op, in, 2, NULL, out, 1, gradient), ZM_OK);
  zm_op_free(op);
  same("of a", gradient[0], zm_full(3, ZM_F32, SHAPE(2, 5)));
  same("of b", gradient[1], zm_sum(zm_add(zm_multiply(in[0], in[1]), in[0]), 0, false));
  zm_scope_close(scope);
  op = must(zm_reduce(&(zm_reduce_options){.update = "acc + v * v", .gradient = {"g * v + y + acc"}}));
  scope = zm_scope_open();
  zm_array *x = noise(ZM_F32, SHAPE(3, 8));
  if (zm_vjp(apply_op, op, &x, 1, NULL, out, 1, gradient) != ZM_OK) fail_msg("%s", zm_last_error());
  zm_array *norm = zm_sum(zm_multiply(x, x), -1, true);
  same("of a sum of squares", gradient[0], zm_add(zm_add(x, norm), norm));
  zm_op_free(op);
  zm_scope_close(scope);
}

// T is float16 for float16 operands unless `compute` says otherwise: sums of thirds, in every form and in a gradient of the author's.
static void what_the_type_t_is(void **state) {
  (void)state;
  const zm_dtype types[] = {ZM_DTYPE_DEFAULT, ZM_F16, ZM_F32};
  zm_scope *scope = zm_scope_open();
  zm_array *x = noise(ZM_F16, SHAPE(2, 8)), *wide = zm_astype(x, ZM_F32), *third = zm_multiply(wide, zm_full(1.0 / 3, ZM_F32, NULL, 0));
  zm_array *narrow = zm_astype(zm_astype(third, ZM_F16), ZM_F32), *three = zm_full(3, ZM_F32, NULL, 0);
  for (size_t i = 0; i < ZMI_COUNT(types); i++) {
    zm_array *used = types[i] == ZM_F32 ? third : narrow, *wanted = zm_astype(zm_multiply(used, three), ZM_F16);
    zm_op *op = must(zm_elementwise("T s = x * (1.0f / 3); s * 3",
                                    &(zm_elementwise_options){.compute = types[i], .gradient = {"T s = x * (1.0f / 3); g * s * 3"}}));
    same("elementwise", zm_op_apply1(op, x, NULL), wanted);
    zm_array *gradient, *out;
    assert_int_equal(zm_vjp(apply_op, op, &x, 1, NULL, &out, 1, &gradient), ZM_OK);
    same("a gradient", gradient, wanted);
    zm_op_free(op);
    op = must(zm_map_reduce(&(zm_map_reduce_options){
        .pass1 = {.update = "max(acc1, x)", .init = "-INFINITY"}, .write = "(T)(x * (1.0f / 3)) * 3 + 0 * s1", .compute = types[i]}));
    same("map_reduce", zm_op_apply1(op, x, NULL), wanted);
    zm_op_free(op);
    op = must(zm_reduce(&(zm_reduce_options){.update = "max(acc, T(v * (1.0f / 3)) * 3)", .init = "-INFINITY", .compute = types[i]}));
    same("reduce", zm_op_apply1(op, x, NULL), zm_max(wanted, 1, false));
    zm_op_free(op);
    op = must(
        zm_kernel(&(zm_kernel_options){.form = ZM_KERNEL_TILES,
                                       .inputs = "inp",
                                       .outputs = "out",
                                       .source = "uint elem = thread_position_in_grid.x; T v = inp[elem] * (1.0f / 3); out[elem] = v * 3;",
                                       .shape = {"inp.0 inp.1"},
                                       .groups = "2",
                                       .threads = "8",
                                       .compute = types[i]}));
    same("tiles", zm_op_apply1(op, x, NULL), wanted);
    zm_op_free(op);
  }
  assert_null(zm_elementwise("x + 1", &(zm_elementwise_options){.compute = ZM_I32}));
  assert_non_null(strstr(zm_last_error(), "compute, which T is, is float32, float16 or bfloat16, not int32"));
  assert_null(zm_kernel(&(zm_kernel_options){.form = ZM_KERNEL_RAW, .source_c = "", .compute = ZM_F32}));
  assert_non_null(strstr(zm_last_error(), "the form is raw, which has no `compute`"));
  zm_scope_close(scope);
}

// Reductions and two passes: gradients of any input, per place or by statements; those not given are taken from the source.
static void authors_gradients_of_reductions(void **state) {
  (void)state;
  zm_op *dot = must(zm_reduce(
      &(zm_reduce_options){.inputs = "v w", .update = "acc + v * w", .finalize = "acc * acc", .gradient = {NULL, "3 * g * v + 0 * acc"}}));
  zm_scope *scope = zm_scope_open();
  zm_array *in[2] = {noise(ZM_F32, SHAPE(3, 8)), noise(ZM_F32, SHAPE(8))}, *out[1], *gradient[2];
  if (zm_vjp(apply_op, dot, in, 2, NULL, out, 1, gradient) != ZM_OK) fail_msg("%s", zm_last_error());
  zm_array *sum = zm_sum(zm_multiply(in[0], in[1]), -1, true);
  same("of v, symbolically", gradient[0], zm_multiply(zm_add(sum, sum), zm_broadcast_to(in[1], (int64_t[]){3, 8}, 2)));
  same("of w", gradient[1], zm_sum(zm_multiply(zm_full(3, ZM_F32, NULL, 0), in[0]), 0, false));
  zm_scope_close(scope);
  zm_op_free(dot);
  zm_op *marked =
      must(zm_map_reduce(&(zm_map_reduce_options){.inputs = "x w",
                                                  .pass1 = {.update = "acc + x"},
                                                  .write = "x * s1 * w",
                                                  .gradient = {"g * 2 + s1", "let n = sum(g); elements { gradient = n * y; }"}}));
  scope = zm_scope_open();
  in[0] = noise(ZM_F32, SHAPE(3, 8)), in[1] = noise(ZM_F32, SHAPE(8));
  if (zm_vjp(apply_op, marked, in, 2, NULL, out, 1, gradient) != ZM_OK) fail_msg("%s", zm_last_error());
  zm_array *two = zm_full(2, ZM_F32, SHAPE(3, 8)), *eight = zm_full(8, ZM_F32, NULL, 0);
  same("of x", gradient[0], zm_add(two, zm_sum(in[0], -1, true)));
  same("by statements", gradient[1], zm_sum(zm_multiply(eight, out[0]), 0, false));
  zm_scope_close(scope);
  zm_op_free(marked);
  // The true ones, to the second order.
  zm_op *softmax = must(zm_map_reduce(&(zm_map_reduce_options){.pass1 = {.init = "-INFINITY", .update = "max(acc, x)"},
                                                               .pass2 = {.update = "acc + exp(x - s1)"},
                                                               .write = "exp(x - s1) / s2",
                                                               .gradient = {"let t = sum(g * y); elements { gradient = y * (g - t); }"}}));
  zm_op *norm =
      must(zm_reduce(&(zm_reduce_options){.inputs = "v w",
                                          .update = "acc + v * v * w",
                                          .finalize = "sqrt(acc)",
                                          .gradient = {"g * v * w / y", "let h = 0.5f / y; elements { gradient = g * h * v * v; }"}}));
  const check_input row = {ZM_F32, 2, {2, 6}, 0.3f, 1.3f}, weight = {ZM_F32, 1, {6}, 0.3f, 1.3f};
  check_all(&(check_case){.name = "softmax by hand", .op = "kernel_rows", .f = apply_op, .user = softmax, .in = {row}});
  check_all(&(check_case){.name = "a norm by hand", .op = "kernel_rows", .f = apply_op, .user = norm, .in = {row, weight}});
  zm_op_free(softmax);
  zm_op_free(norm);
  assert_null(zm_reduce(&(zm_reduce_options){.update = "acc + v", .gradient = {"g * u"}}));
  assert_non_null(strstr(zm_last_error(), "gradient of v"));
  assert_non_null(strchr(zm_last_error(), '^'));
  assert_null(zm_map_reduce(&(zm_map_reduce_options){.pass1 = {.update = "acc + x"}, .write = "x", .gradient = {"g", "g"}}));
  assert_non_null(strstr(zm_last_error(), "gradient 1 is given, but there are 1 inputs"));
}

static zm_status apply_by(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return zm_op_apply_with(user, in, nin, (double[]){0.75}, 1, out, nout);
}

static zm_status softmax_of(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  return (out[0] = zm_softmax(in[0])) ? ZM_OK : zm_last_status();
}

// Slopes that need what the variables were at each place: gradients, tangents, batches and the gradient of the gradient.
static void serial_rows_have_gradients(void **state) {
  (void)state;
  static const char online[] = "float m = -3e38f; float s = 0; elements { let n = max(m, x); s = s * exp(m - n) + exp(x - n); m = n; }"
                               "elements { y = exp(x - m) / s; }";
  zm_op *product = must(zm_reduce(&(zm_reduce_options){.init = "1", .update = "acc * 0.5f + v * acc"}));
  zm_op *mapped = must(zm_map_reduce(&(zm_map_reduce_options){
      .inputs = "x w", .pass1 = {.init = "0.5f", .update = "acc * acc * 0.3f + x", .finalize = "acc"}, .write = "x * s1 * w"}));
  zm_op *scaled = must(zm_kernel(&(zm_kernel_options){.inputs = "x w",
                                                      .outputs = "y z",
                                                      .parameters = "by",
                                                      .source = "float a = 1; elements { a = tanh(a * w) + x * by; y = a; } z = a * a;"}));
  zm_op *softmax = must(zm_kernel(&(zm_kernel_options){.inputs = "x", .outputs = "y", .source = online}));
  zm_op *running =
      must(zm_kernel(&(zm_kernel_options){.inputs = "x", .outputs = "y", .source = "elements { y = exp(0.5f * cumsum(sin(x))); }"}));
  const check_input row = {ZM_F32, 2, {2, 6}, 0.3f, 1.3f};
  check_all(&(check_case){.name = "a product", .op = "kernel_rows", .f = apply_op, .user = product, .in = {row}});
  check_all(&(check_case){.name = "a function of a running sum", .op = "kernel_rows", .f = apply_op, .user = running, .in = {row}});
  check_all(&(check_case){.name = "a recurrence", .op = "kernel_rows", .f = apply_by, .user = scaled, .nout = 2, .in = {row, row}});
  check_all(&(check_case){.name = "a sum of squares of sums", .op = "kernel_rows", .f = apply_op, .user = mapped, .in = {row, row}});
  static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16, ZM_F16};
  for (size_t d = 0; d < ZMI_COUNT(dtypes); d++) {
    zm_scope *scope = zm_scope_open();
    zm_array *x = noise(dtypes[d], SHAPE(3, 70)), *g = noise(dtypes[d], SHAPE(3, 70)), *y, *found, *wanted;
    MUST(zm_vjp(apply_op, softmax, &x, 1, &g, &y, 1, &found), "online softmax");
    MUST(zm_vjp(softmax_of, NULL, &x, 1, &g, &y, 1, &wanted), "softmax");
    zmi_free(play_everywhere("online softmax, gradient", found));
    double *a = check_values(found), *b = check_values(wanted), slack = dtypes[d] == ZM_F32 ? 1e-6 : dtypes[d] == ZM_F16 ? 1e-3 : 8e-3;
    for (int i = 0; i < 3 * 70; i++) {
      if (!(fabs(a[i] - b[i]) <= slack * (fabs(b[i]) + 0.1))) fail_msg("online softmax: gradient %d: %.9g, wanted %.9g", i, a[i], b[i]);
    }
    free(a);
    free(b);
    zm_scope_close(scope);
  }
  zm_op_free(product);
  zm_op_free(mapped);
  zm_op_free(running);
  zm_op_free(scaled);
  zm_op_free(softmax);
}

// A gradient in two parts, of 16 bits: computed in float32, added, and rounded then.
static void gradients_in_parts_are_rounded_once(void **state) {
  (void)state;
  zm_op *op = must(zm_kernel(&(zm_kernel_options){
      .inputs = "x w", .outputs = "y", .source = "a = 0; elements { a = a * w + x; } elements reverse { a = a * x + w; y = a * x; }"}));
  static const zm_dtype dtypes[] = {ZM_BF16, ZM_F16};
  for (size_t d = 0; d < ZMI_COUNT(dtypes); d++) {
    zm_scope *scope = zm_scope_open();
    zm_array *in[3], *wide[3], *y, *found[2], *exact[2];
    for (int i = 0; i < 3; i++) in[i] = zm_multiply(noise(dtypes[d], SHAPE(3, 70)), zm_full(0.5, dtypes[d], NULL, 0));
    for (int i = 0; i < 3; i++) wide[i] = zm_astype(in[i], ZM_F32);
    MUST(zm_vjp(apply_op, op, in, 2, &in[2], &y, 1, found), "of 16 bits");
    MUST(zm_vjp(apply_op, op, wide, 2, &wide[2], &y, 1, exact), "of 32 bits");
    for (int i = 0; i < 2; i++) {
      const void *a = zm_array_data(found[i]), *b = zm_array_data(zm_astype(exact[i], dtypes[d]));
      assert_int_equal(zm_array_dtype(found[i]), dtypes[d]);
      assert_memory_equal(a, b, 3 * 70 * 2);
    }
    zm_scope_close(scope);
  }
  zm_op_free(op);
}

static zm_status product_gradient(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *y;
  (void)nin, (void)nout;
  return user ? zm_vjp(apply_op, user, in, 1, NULL, &y, 1, out) : ZM_ERROR_ARGUMENT;
}

// Zeros in a product: each second derivative is the product of what two places leave over.
static void products_have_second_derivatives_at_zeros(void **state) {
  (void)state;
  zm_op *op = must(zm_reduce(&(zm_reduce_options){.init = "1", .update = "acc * v"}));
  for (int pattern = 0; pattern < 32; pattern++) {
    enum { D = 5 };
    float x[D];
    for (int i = 0; i < D; i++) x[i] = pattern >> i & 1 ? 0 : (float)(i - 2) + 0.5f;
    for (int k = 0; k < D; k++) {
      zm_scope *scope = zm_scope_open();
      float unit[D] = {0}, tangent_row[D];
      unit[k] = 1;
      zm_array *in = zm_array_from_data(x, ZM_F32, SHAPE(D)), *g = zm_array_from_data(unit, ZM_F32, SHAPE(D)), *first, *second, *forward;
      MUST(zm_vjp(product_gradient, op, &in, 1, &g, &first, 1, &second), "the second gradient of a product");
      MUST(zm_jvp(product_gradient, op, &in, 1, &g, &first, 1, &forward), "the tangent of its gradient");
      memcpy(tangent_row, zm_array_data(forward), sizeof tangent_row);
      for (int j = 0; j < D; j++) {
        double wanted = j != k, slope = 1;
        for (int i = 0; i < D; i++) wanted *= i == j || i == k ? 1 : (double)x[i], slope *= i == j ? 1 : (double)x[i];
        const double found = ((const float *)zm_array_data(second))[j], one = ((const float *)zm_array_data(first))[j];
        if (fabs(found - wanted) > 1e-5 || fabs((double)tangent_row[j] - wanted) > 1e-5 || fabs(one - slope) > 1e-5)
          fail_msg("zeros %d: second derivative by %d and %d: %g, %g forwards, wanted %g; first %g, wanted %g", pattern, k, j, found,
                   (double)tangent_row[j], wanted, one, slope);
      }
      zm_scope_close(scope);
    }
  }
  zm_op_free(op);
}

// Joined lanes, each with several places or none, loops in serial blocks, loops and branches between blocks, serial blocks of both
// directions: to the second order.
static void lanes_and_loops_have_gradients(void **state) {
  (void)state;
  static const char *const sources[] = {
      "float m = -3e38f; float s = 0; elements { let n = max(m, x * w); s = s * exp(m - n) + exp(x * w - n); m = n; }"
      "join { let n = max(m, right.m); s = s * exp(m - n) + right.s * exp(right.m - n); m = n; } y = m + log(s);",
      "float m = -3e38f; float s = 0; elements { let n = max(m, x); s = s * exp(m - n) + exp(x - n); m = n; }"
      "join { let n = max(m, right.m); s = s * exp(m - n) + right.s * exp(right.m - n); m = n; } elements { y = exp(x - m) / s * w; }",
      "float a = 1; elements { a = a * (0.5f + 0.5f * x) + 0.1f * w; } join { a = a * right.a; } y = a;",
      "acc = 0.5f; elements { for (int j = 0; j < 2; j++) { acc = sin(acc) * w + 0.3f * x; } y = acc; }",
      "float r = sum(x * x) / D; float z = 1; for (int j = 0; j < 5; j++) { z = 0.5f * (z + r / z); } elements { y = x / z * w; }",
      "let r = sum(x) / D; float z = r; if (r > 0.7f) { for (int j = 0; j < 2; j++) z = sin(z) + r; } else { z = r * r; } y = z * sum(w);",
      "float s = 0; elements { s = s * 0.9f + x * w * 0.3f; } y = s * s;",
      "float s = 0; elements { s = s * 0.9f + x * w * 0.3f; } elements { y = s * x; }",
      "float s = 0; elements reverse { s = s * 0.9f + x * w * 0.3f; } elements { y = s * x; }",
      "float s = 0; elements { s = s + x * w * 0.2f; } join { s = s + right.s; } y = s * s;",
      "float s = 0; elements { s = s * 0.9f + x * w * 0.2f; } join { s = s + right.s; } elements { y = sqrt(s + 1) * x; }",
      "a = 0; b = 0; elements { a = a * 0.8f + x * 0.3f; } elements reverse { b = b * 0.5f * x + a * w; } y = b;",
      "a = 0; elements { a = a * 0.5f + x; } elements { a = a * 0.3f + x * w; } join { a = a * 0.5f + right.a; } y = a;",
  };
  for (size_t i = 0; i < ZMI_COUNT(sources); i++) {
    zm_op *op = must(zm_kernel(&(zm_kernel_options){.inputs = "x w", .outputs = "y", .source = sources[i]}));
    for (int64_t d = 5; d <= 37; d += 32) {
      const check_input row = {ZM_F32, 2, {2, d}, 0.3f, 1.3f};
      check_all(&(check_case){.name = sources[i], .op = "kernel_rows", .f = apply_op, .user = op, .in = {row, row}, .agreement = 3e-5});
    }
    zm_op_free(op);
  }
}

// Each allocation of a gradient fails once; the sanitizers look for leaks.
static void run_out_of_memory(const char *source, float expected) {
  bool fired = true;
  zmi_instance_forget();
  for (uint64_t n = 1; fired; n++) {
    zm_op *op = must(zm_kernel(&(zm_kernel_options){.inputs = "x", .outputs = "y", .source = source}));
    zm_scope *scope = zm_scope_open();
    zm_array *x = zm_full(1.5, ZM_F32, SHAPE(3)), *y, *gradient = NULL;
    const uint64_t before = zmi_alloc_count();
    zmi_alloc_fail_at(n);
    const bool made = zm_vjp(apply_op, op, &x, 1, NULL, &y, 1, &gradient) == ZM_OK;
    const float *data = made ? zm_array_data(gradient) : NULL;
    if (data ? data[2] != expected : zm_last_status() != ZM_ERROR_MEMORY)
      fail_msg("%s: allocation %llu: %s", source, (unsigned long long)n, zm_last_error());
    fired = zmi_alloc_count() - before >= n && !data;
    zmi_alloc_fail_at(0);
    zm_scope_close(scope);
    zm_op_free(op);
    zmi_instance_forget();
  }
}

static void memory_may_run_out_on_the_way_back(void **state) {
  (void)state;
  run_out_of_memory("a = 1; elements { a = a * 0.5f + x * a; } y = a;", 4);                                        // after one of values
  run_out_of_memory("a = 0; elements { a = a * 0.5f + x; } elements reverse { a = a * x + 1; } y = a;", 9.28125f); // of two parts
}

static void memory_may_run_out(void **state) {
  (void)state;
  bool fired = true;
  for (uint64_t n = 1; fired; n++) {
    uint64_t before = zmi_alloc_count();
    zm_scope *scope = zm_scope_open();
    zm_array *x = zm_full(2, ZM_F32, SHAPE(3));
    zmi_alloc_fail_at(n);
    zm_op *op = zm_elementwise("x * 2 + k", &(zm_elementwise_options){.inputs = "x k", .gradient = {"g * 2"}});
    zm_array *y = op ? zm_op_apply1(op, x, x, NULL) : NULL;
    const float *data = y ? zm_array_data(y) : NULL;
    if (data ? data[2] != 6 : zm_last_status() != ZM_ERROR_MEMORY) fail_msg("allocation %llu: %s", (unsigned long long)n, zm_last_error());
    fired = zmi_alloc_count() - before >= n && !data;
    zmi_alloc_fail_at(0);
    zm_op_free(op);
    zm_scope_close(scope);
  }
}

int main(void) {
  if (play_open() != 0) return 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(elementwise_is_like_the_ops),
      cmocka_unit_test(several_results_and_dtypes),
      cmocka_unit_test(places_are_those_of_the_array),
      cmocka_unit_test(rows_are_like_the_ops),
      cmocka_unit_test(map_reduce_normalizes),
      cmocka_unit_test(parameters_are_given_to_each_application),
      cmocka_unit_test(tiles_reverse_with_shared_memory),
      cmocka_unit_test(tiles_have_simdgroups_arrays_and_grids),
      cmocka_unit_test(errors_name_what_is_wrong),
      cmocka_unit_test(tapes_name_kernels_by_content),
      cmocka_unit_test(authors_gradients_are_used),
      cmocka_unit_test(authors_gradients_of_reductions),
      cmocka_unit_test(serial_rows_have_gradients),
      cmocka_unit_test(lanes_and_loops_have_gradients),
      cmocka_unit_test(gradients_in_parts_are_rounded_once),
      cmocka_unit_test(products_have_second_derivatives_at_zeros),
      cmocka_unit_test(what_the_type_t_is),
      cmocka_unit_test(memory_may_run_out),
      cmocka_unit_test(memory_may_run_out_on_the_way_back),
  };
  int failed = cmocka_run_group_tests_name("author", tests, NULL, NULL);
  play_close();
  return failed;
}
