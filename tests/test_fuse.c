// Fusion of elementwise operations, also around kernels of rows: random graphs of every dtype give the same bits fused and unfused, from
// fewer nodes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "array/array.h"
#include <zmlx/zmlx.h>

static uint32_t state = 7;
static uint32_t below(uint32_t n) {
  state = state * 1664525u + 1013904223u;
  return (state >> 10) % n;
}

static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16, ZM_F16, ZM_I32, ZM_I8, ZM_U16, ZM_I64, ZM_BOOL};

static zm_array *operand(const int64_t *shape) {
  static float x[64 * 128];
  int64_t dims[2] = {below(3) ? shape[0] : 1, below(3) ? shape[1] : 1};
  for (int64_t i = 0; i < dims[0] * dims[1]; i++) x[i] = (float)((int)below(2001) - 1000) / 100.0f;
  zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, dims, 2), dtypes[below(8)]);
  assert_non_null(zm_array_data(a));
  return a;
}

static zm_array *apply(zm_array *a, zm_array *b) {
  switch (below(13)) {
  case 0:
    return zm_add(a, b);
  case 1:
    return zm_multiply(a, b);
  case 2:
    return zm_subtract(a, b);
  case 3:
    return zm_maximum(a, b);
  case 4:
    return zm_tanh(a);
  case 5:
    return zm_astype(a, dtypes[below(8)]);
  case 6:
    return zm_where(zm_less(a, b), a, b);
  case 7:
    return zm_sigmoid(a);
  case 8:
    return zm_abs(a);
  case 9:
    return zm_square(a);
  case 10:
    return zm_divide(a, b);
  case 11:
    return zm_equal(a, b);
  default:
    return zm_remainder(a, b);
  }
}

// Kernels of rows: several blocks, branches and loops around what is read, running sums, joined lanes, falling places, results per row.
static const char *const row_sources[] = {
    "let r = rsqrt(sum(a * a) / D + p); elements { y = a * r * b; } z = r;",
    "elements { m = max(a); } elements { e = exp(a - m); s = sum(e); } elements { y = exp(a - m) / s + b; } z = s;",
    "elements { y = cumsum(a) * p + b; } z = p;",
    "acc = 0; elements reverse { acc = acc * 0.5f + a; y = acc - b; } z = acc;",
    "acc = 0; elements { let t = a; if (t > 0) { for (int k = 0; k < 2; k++) acc = acc + t * b; } else { acc += b; } y = acc; } z = acc;",
    "float s = 0; elements { s = s + a * b; y = s; } join { s = s + right.s; } z = s;",
    "elements { y = a * p; } z = sum(b);",
    "elements { y = a * p; m = max(b); } elements { z = b - m; }", // results of several blocks
};
enum { ROW_KERNELS = sizeof row_sources / sizeof *row_sources };
static zm_op *row_kernels[ROW_KERNELS];

static int make_row_kernels(void **unused) {
  (void)unused;
  for (int i = 0; i < ROW_KERNELS; i++) {
    row_kernels[i] = zm_kernel(&(zm_kernel_options){.inputs = "a b", .outputs = "y z", .parameters = "float p", .source = row_sources[i]});
    if (!row_kernels[i]) fail_msg("%s: %s", row_sources[i], zm_last_error());
  }
  return 0;
}

static int free_row_kernels(void **unused) {
  (void)unused;
  for (int i = 0; i < ROW_KERNELS; i++) zm_op_free(row_kernels[i]);
  return 0;
}

static zm_array *apply_rows(zm_array *a, zm_array *b) {
  zm_array *in[] = {a, b}, *out[2];
  const double p = 0.25 * (1 + below(4));
  if (zm_op_apply_with(row_kernels[below(ROW_KERNELS)], in, 2, &p, 1, out, 2) != ZM_OK) fail_msg("%s", zm_last_error());
  return below(5) ? out[0] : zm_array_rank(out[1]) == 2 ? out[1] : zm_expand_dims(out[1], -1);
}

static zm_status fuse(void *user, zmi_graph *g) {
  zm_status status = zmi_fuse_elementwise(g);
  *(size_t *)user = g->count;
  return status;
}

static size_t nodes_of(zm_array *const *out, size_t count) {
  zmi_graph *g = zmi_graph_collect(out, count);
  assert_non_null(g);
  size_t n = g->count;
  zmi_graph_free(g);
  return n;
}

// Bits, but for NaN in float32, whose payload is not promised.
static void assert_same(const zm_array *a, const unsigned char *x, const unsigned char *y) {
  const size_t size = zm_dtype_size(a->type.dtype);
  for (int64_t i = 0; i < zmi_type_count(&a->type); i++, x += size, y += size) {
    if (memcmp(x, y, size) == 0) continue;
    float u = 0, v = 0;
    if (a->type.dtype == ZM_F32) {
      memcpy(&u, x, size);
      memcpy(&v, y, size);
    }
    if (u == u || v == v) fail_msg("%s element %lld differs: %g and %g", zm_dtype_name(a->type.dtype), (long long)i, (double)u, (double)v);
  }
}

static bool one_graph(zmi_pool *pool, uint32_t rows) {
  static const char *const names[] = {"a", "b", "c"};
  zm_array *v[60];
  int64_t shape[2] = {3 + below(40), 1 + below(90)};
  int n = 0, ops = 3 + (int)below(35);
  size_t count = 1 + below(3), fused = 0;
  zm_scope *scope = zm_scope_open();
  for (int i = 0; i < 5; i++) v[n++] = operand(shape);
  for (int i = 0; i < ops; i++, n++) {
    zm_array *a = v[below((uint32_t)n)], *b = v[below((uint32_t)n)];
    v[n] = rows && below(rows) == 0 ? apply_rows(a, b) : apply(a, b);
    assert_non_null(v[n]);
  }
  zm_array **out = v + n - count;
  const size_t before = nodes_of(out, count);
  zmi_program *plain = zmi_compile(out, names, count, NULL);
  zmi_program *made = zmi_compile(out, names, count, &(zmi_compile_options){.rewrite = fuse, .user = &fused});
  assert_non_null(plain);
  assert_non_null(made);
  zmi_program_play(plain, pool);
  zmi_program_play(made, pool);
  for (size_t i = 0; i < count; i++) assert_same(out[i], zmi_program_slot(plain, names[i]), zmi_program_slot(made, names[i]));
  zmi_program_free(plain);
  zmi_program_free(made);
  zm_scope_close(scope);
  assert_true(fused <= before);
  return fused < before;
}

static void fused_graphs_give_the_same_bits(void **unused) {
  (void)unused;
  zmi_pool *pool = zmi_pool_new(2);
  int fewer = 0;
  for (int i = 0; i < 200; i++) fewer += one_graph(pool, 0);
  for (int i = 0; i < 200; i++) fewer += one_graph(pool, 2 + below(6));
  zmi_pool_free(pool);
  assert_true(fewer > 300);
}

// tanh(x * y + x) is one kernel in a compiled function.
static zm_status chain(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_tanh(zm_add(zm_multiply(in[0], in[1]), in[0]));
  return out[0] ? ZM_OK : zm_last_status();
}

static void a_chain_is_one_kernel(void **unused) {
  (void)unused;
  zm_scope *scope = zm_scope_open();
  const float x[] = {0.5f, -1, 2, 0}, y[] = {1, 2, 3, 4};
  zm_array *in[] = {zm_array_from_data(x, ZM_F32, (int64_t[]){4}, 1), zm_array_from_data(y, ZM_F32, (int64_t[]){4}, 1)}, *out = NULL;
  size_t count = 0;
  assert_int_equal(chain(NULL, in, 2, &out, 1), ZM_OK);
  const char *name = "y";
  zmi_program *p = zmi_compile(&out, &name, 1, &(zmi_compile_options){.rewrite = fuse, .user = &count});
  assert_non_null(p);
  assert_int_equal(count, 1);
  zmi_program_free(p);
  zm_compiled *c = zm_compile(chain, NULL, 1);
  zm_array *made = NULL;
  assert_int_equal(zm_compiled_call(c, in, 2, &made, 1), ZM_OK);
  assert_memory_equal(zm_array_data(made), zm_array_data(out), sizeof x);
  zm_compiled_free(c);
  zm_scope_close(scope);
}

// Adding a residual, norm, scale, silu; what stands beside: one kernel. The sum is asked for too.
static zm_status block_of_a_model(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin;
  zm_array *sum = zm_add(in[0], in[1]), *y = zm_rmsnorm(sum, in[2], 1e-5);
  out[0] = zm_silu(zm_multiply(zm_add(y, sum), in[3]));
  if (nout > 1) out[1] = sum;
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status row_totals(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  static const double p = 1;
  zm_array *sum = zm_tanh(zm_multiply(in[0], in[1])), *both[2];
  zm_status status = zm_op_apply_with(row_kernels[0], (zm_array *[]){sum, in[3]}, 2, &p, 1, both, 2);
  out[0] = status == ZM_OK ? both[1] : NULL;
  return status;
}

static void kernels_of_rows_take_in_their_neighbours(void **unused) {
  (void)unused;
  static const zm_dtype kinds[] = {ZM_F32, ZM_BF16, ZM_F16};
  static const struct {
    zm_function f;
    int nout;
  } cases[] = {{block_of_a_model, 1}, {block_of_a_model, 2}, {row_totals, 1}};
  for (int t = 0; t < 9; t++) {
    zm_scope *scope = zm_scope_open();
    const int64_t shape[] = {5, 77};
    zm_array *in[4], *out[2], *made[2];
    for (int i = 0; i < 4; i++) {
      float x[5 * 77];
      for (int k = 0; k < 5 * 77; k++) x[k] = (float)((int)below(2001) - 1000) / 300.0f;
      in[i] = zm_astype(i == 2 ? zm_array_from_data(x, ZM_F32, shape + 1, 1) : zm_array_from_data(x, ZM_F32, shape, 2), kinds[t / 3]);
    }
    assert_int_equal(zm_eval(in, 4), ZM_OK);
    const int nout = cases[t % 3].nout;
    assert_int_equal(cases[t % 3].f(NULL, in, 4, out, nout), ZM_OK);
    const char *names[] = {"a", "b"};
    size_t count = 0;
    zmi_program *p = zmi_compile(out, names, (size_t)nout, &(zmi_compile_options){.rewrite = fuse, .user = &count});
    assert_non_null(p);
    const size_t kernels = zmi_program_tape(p)->instr_count;
    if (kernels != 1) fail_msg("case %d is %zu kernels", t, kernels);
    zmi_program_free(p);
    zm_compiled *c = zm_compile(cases[t % 3].f, NULL, nout);
    assert_int_equal(zm_compiled_call(c, in, 4, made, nout), ZM_OK);
    for (int o = 0; o < nout; o++) assert_same(out[o], zm_array_data(made[o]), zm_array_data(out[o]));
    zm_compiled_free(c);
    zm_scope_close(scope);
  }
}

// A kernel with several blocks does not compute costly things once more in each.
static zm_status costly(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  static const double p = 1;
  zm_array *x = in[0], *both[2];
  for (int i = 0; i < 8; i++) x = zm_sin(zm_exp(x));
  zm_status status = zm_op_apply_with(row_kernels[1], (zm_array *[]){x, in[0]}, 2, &p, 1, both, 2);
  out[0] = status == ZM_OK ? zm_tanh(both[0]) : NULL;
  return status;
}

static void costly_things_are_computed_once(void **unused) {
  (void)unused;
  zm_scope *scope = zm_scope_open();
  const float x[] = {0.5f, -1, 2, 0};
  zm_array *in = zm_array_from_data(x, ZM_F32, (int64_t[]){2, 2}, 2), *out = NULL;
  const char *name = "y";
  size_t count = 0;
  assert_int_equal(costly(NULL, &in, 1, &out, 1), ZM_OK);
  zmi_program *p = zmi_compile(&out, &name, 1, &(zmi_compile_options){.rewrite = fuse, .user = &count});
  assert_non_null(p);
  assert_int_equal(count, 2);
  zmi_program_free(p);
  zm_scope_close(scope);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(fused_graphs_give_the_same_bits),
      cmocka_unit_test(a_chain_is_one_kernel),
      cmocka_unit_test(kernels_of_rows_take_in_their_neighbours),
      cmocka_unit_test(costly_things_are_computed_once),
  };
  return cmocka_run_group_tests(tests, make_row_kernels, free_row_kernels);
}
