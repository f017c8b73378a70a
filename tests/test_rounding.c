// Rounding points of the catalog, on operands with all the bits of a float32: where a row rounds is seen by what it gives beside the same
// row on the same numbers as float32, and the stored digests of rows that round at other points are others. Then those points that no
// dtype shows: Kahan's sum, the edge of a dropout, the fma of a dequantized number.
#include "catalog/catalog.h"
#include "cli/kernel.h"
#include <zmlx/elementwise.h>

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void same_bits(const char *what, zm_dtype dtype, zm_array *a, zm_array *b, bool same) {
  char ta[128], tb[128];
  size_t bytes;
  if (!a || !b) fail_msg("%s (%s): %s", what, zm_dtype_name(dtype), zm_last_error());
  if (!zmi_type_equal(&a->type, &b->type))
    fail_msg("%s (%s): %s and %s", what, zm_dtype_name(dtype), zmi_type_text(&a->type, ta), zmi_type_text(&b->type, tb));
  assert_true(zmi_type_bytes(&a->type, &bytes));
  const void *x = zm_array_data(a), *y = zm_array_data(b);
  if (!x || !y) fail_msg("%s (%s): %s", what, zm_dtype_name(dtype), zm_last_error());
  if ((memcmp(x, y, bytes) == 0) != same) fail_msg("%s (%s): %s bits", what, zm_dtype_name(dtype), same ? "other" : "the same");
}

static zm_array *wide(zm_array *a) {
  return zm_astype(a, ZM_F32);
}

// ---- sums and norms ----

// rmsnorm_residual and layernorm_residual see the sum rounded to the dtype, the others the one in float32: each is the composition that
// says so, bit by bit, and in the small dtypes the two are not the same.
static void residual_norms(void **state) {
  (void)state;
  static const zm_dtype dtypes[] = {ZM_F32, ZM_F16, ZM_BF16};
  const double eps = 1e-5;
  for (int t = 0; t < 3; t++) {
    const zm_dtype d = dtypes[t];
    zm_scope *scope = zm_scope_open();
    zm_array *in[ZMI_CATALOG_IN], *y, *h, *y32, *h32, *narrow, *sum32;
    assert_int_equal(zmi_entry_sample(zmi_catalog_find("layernorm_residual"), d, 60000, in), 4);
    zm_array *x = in[0], *r = in[1], *g = in[2], *b = in[3];
    narrow = zm_add(x, r);
    sum32 = zm_add(wide(x), wide(r));
    assert_int_equal(zm_rmsnorm_residual(x, r, g, eps, &y, &h), ZM_OK);
    same_bits("rmsnorm_residual", d, y, zm_rmsnorm(narrow, g, eps), true);
    same_bits("rmsnorm_residual: the sum", d, h, narrow, true);
    zm_array *of32 = zm_astype(zm_rmsnorm(sum32, wide(g), eps), d);
    same_bits("two ways to round a sum", d, y, of32, d == ZM_F32);
    same_bits("residual_rmsnorm", d, zm_residual_rmsnorm(x, r, g, eps), of32, true);
    assert_int_equal(zm_add_rms_norm(x, r, g, eps, &y32, &h32), ZM_OK);
    same_bits("add_rms_norm", d, y32, of32, true);
    same_bits("add_rms_norm: the sum", d, h32, narrow, true);
    assert_int_equal(zm_fused_add_rmsnorm(x, r, g, eps, &y32, &h32), ZM_OK);
    same_bits("fused_add_rmsnorm", d, y32, of32, true);
    same_bits("fused_add_rmsnorm: the sum", d, h32, narrow, true);
    assert_int_equal(zm_layernorm_residual(x, r, g, b, eps, &y, &h), ZM_OK);
    same_bits("layernorm_residual", d, y, zm_layernorm(narrow, g, b, eps), true);
    same_bits("layernorm_residual: the sum", d, h, narrow, true);
    of32 = zm_astype(zm_layernorm(sum32, wide(g), wide(b), eps), d);
    same_bits("two ways to round a sum", d, y, of32, d == ZM_F32);
    assert_int_equal(zm_fused_add_layernorm(x, r, g, b, eps, &y32, &h32), ZM_OK);
    same_bits("fused_add_layernorm", d, y32, of32, true);
    same_bits("fused_add_layernorm: the sum", d, h32, narrow, true);
    zm_scope_close(scope);
  }
}

// ---- every row ----

// Rows whose results in a small dtype are not those of float32 rounded once, and why.
#define SILU "silu(gate) is rounded, as by the ops silu and multiply"
#define SUM "the sum is rounded before it is normalized"
#define SLOTS "what an expert gives is rounded before it is combined"
static const struct {
  const char *row, *why;
} rounds_inside[] = {
    {"swiglu", SILU},
    {"swiglu2", SILU},
    {"gather_qmm_swiglu", SILU},
    {"fused_swiglu_gather_qmv", SILU},
    {"rmsnorm_residual", SUM},
    {"layernorm_residual", SUM},
    {"moe_combine_exact", "each product and sum is rounded"},
    {"glm_moe_combine", "each product and sum is rounded"},
    {"gather_mmk_combine", SLOTS},
    {"gather_qmm_combine", SLOTS},
    {"gather_qmmk_combine_quantized", SLOTS},
    {"gather_qmm_combine_quantized", SLOTS},
};

static const char *inside(const char *row) {
  for (size_t i = 0; i < ZMI_COUNT(rounds_inside); i++)
    if (strcmp(rounds_inside[i].row, row) == 0) return rounds_inside[i].why;
  return NULL;
}

static bool is_float(zm_dtype d) {
  return d == ZM_F16 || d == ZM_BF16 || d == ZM_F32;
}

// Whether all results of a row on operands of the dtype are those on the same numbers in float32, rounded once.
static bool rounds_once(const zmi_entry *e, zm_dtype dtype) {
  zm_array *in[ZMI_CATALOG_IN], *out[ZMI_CATALOG_OUT], *in32[ZMI_CATALOG_IN], *out32[ZMI_CATALOG_OUT];
  const int n = zmi_entry_sample(e, dtype, 20000, in), nout = e->outputs ? e->outputs : 1;
  bool same = true;
  if (n < 0 || zmi_entry_call(e, in, n, NULL, out) != ZM_OK) fail_msg("%s: %s", e->name, zm_last_error());
  for (int i = 0; i < n; i++) in32[i] = is_float(zm_array_dtype(in[i])) ? wide(in[i]) : in[i];
  if (zmi_entry_call(e, in32, n, NULL, out32) != ZM_OK) fail_msg("%s: %s", e->name, zm_last_error());
  for (int o = 0; o < nout; o++) {
    size_t bytes;
    zm_array *rounded = zm_astype(out32[o], zm_array_dtype(out[o]));
    const void *a = zm_array_data(out[o]), *b = rounded ? zm_array_data(rounded) : NULL;
    if (!a || !b || !zmi_type_bytes(&out[o]->type, &bytes)) fail_msg("%s: %s", e->name, zm_last_error());
    same = same && memcmp(a, b, bytes) == 0;
  }
  return same;
}

static void every_row_rounds_where_it_says(void **state) {
  (void)state;
  static const zm_dtype dtypes[] = {ZM_F16, ZM_BF16};
  const zmi_entry *e;
  int wrong = 0;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    const char *why = inside(e->name);
    for (int t = 0; t < 2; t++) {
      zm_scope *scope = zm_scope_open();
      const bool once = rounds_once(e, dtypes[t]);
      if (once == (why != NULL)) {
        wrong++;
        print_message("%s (%s): %s\n", e->name, zm_dtype_name(dtypes[t]), once ? "rounded once, and should not be" : "rounded inside");
      }
      zm_scope_close(scope);
    }
  }
  assert_int_equal(wrong, 0);
}

// ---- stored digests ----

static const cli_kernel_result *stored(const char *name) {
  const cli_kernel_result *r = cli_kernel_results;
  while (r->name && strcmp(r->name, name) != 0) r++;
  if (!r->name) fail_msg("%s: no stored results", name);
  return r;
}

// Dtypes 0 to 2 are float32, float16, bfloat16. In float32 a sum that is rounded to the dtype is no other sum; products of two numbers of
// a small dtype are exact in float32, so that an fma is no other way there.
static void other_roundings_have_other_digests(void **state) {
  (void)state;
  static const struct {
    const char *a, *b;
    bool differ[CLI_KERNEL_DTYPES];
  } pairs[] = {
      {"moe_combine", "moe_combine_no_fma", {true, false, false}},
      {"moe_combine", "moe_combine_exact", {true, true, true}},
      {"moe_combine_no_fma", "moe_combine_exact", {false, true, true}},
      {"moe_combine_fp32", "moe_combine_fp32_no_fma", {true, false, false}},
      {"rmsnorm_residual", "add_rms_norm", {false, true, true}},
      {"layernorm_residual", "fused_add_layernorm", {false, true, true}},
      {"add_rms_norm", "fused_add_rmsnorm", {false, false, false}},
  };
  for (size_t i = 0; i < ZMI_COUNT(pairs); i++)
    for (int d = 0; d < CLI_KERNEL_DTYPES; d++)
      if ((stored(pairs[i].a)->digest[d] != stored(pairs[i].b)->digest[d]) != pairs[i].differ[d])
        fail_msg("%s and %s, dtype %d: %s digests", pairs[i].a, pairs[i].b, d, pairs[i].differ[d] ? "the same" : "other");
}

// ---- what no dtype shows ----

static void kahan_keeps_what_is_lost(void **state) {
  (void)state;
  enum { R = 5, D = 3001 };
  zm_scope *scope = zm_scope_open();
  static float x[R * D];
  float want[R];
  for (int r = 0; r < R; r++) {
    volatile float total = 0, lost = 0;
    for (int i = 0; i < D; i++) {
      x[r * D + i] = (float)(i % 7 + 1) / 3.0f + (float)(r + i) * 1e-3f;
      volatile float v = x[r * D + i] - lost, t = total + v, high = t - total;
      lost = high - v;
      total = t;
    }
    want[r] = total / (float)D;
  }
  zm_array *a = zm_array_from_data(x, ZM_F32, (int64_t[]){R, D}, 2), *w = zm_array_from_data(want, ZM_F32, (int64_t[]){R}, 1);
  same_bits("mean_lastdim, kahan", ZM_F32, zm_mean_lastdim(a, true), w, true);
  same_bits("mean_lastdim", ZM_F32, zm_mean_lastdim(a, false), w, false);
  // 1, then many numbers that a plain sum in rising order drops.
  for (int i = 0; i < D; i++) x[i] = i ? 0x1p-25f : 1;
  a = zm_array_from_data(x, ZM_F32, (int64_t[]){D}, 1);
  assert_true((float)zm_array_item(zm_mean_lastdim(a, true)) == (1 + (D - 1) * 0x1p-25f) / D);
  zm_scope_close(scope);
}

// The number of the seed's first element is exactly p: it is kept. One step of the generator taken back says which seed that is.
static void a_dropout_keeps_its_edge(void **state) {
  (void)state;
  uint32_t inverse = 1;
  for (int i = 0; i < 5; i++) inverse *= 2u - 1664525u * inverse; // of the multiplier, modulo 2^32
  const uint32_t edge = ((1u << 22) - 1013904223u) * inverse, below = ((1u << 22) - 1u - 1013904223u) * inverse;
  zm_scope *scope = zm_scope_open();
  const float three = 3, one = 1;
  zm_array *x = zm_array_from_data(&three, ZM_F32, (int64_t[]){1, 1}, 2), *w = zm_array_from_data(&one, ZM_F32, (int64_t[]){1}, 1),
           *b = zm_array_from_data(&one, ZM_F32, (int64_t[]){1}, 1);
  assert_true(zm_array_item(zm_dropout(x, 0.25, edge)) == (float)(3 * (1 / 0.75f)));
  assert_true(zm_array_item(zm_dropout(x, 0.25, below)) == 0);
  assert_true(zm_array_item(zm_rms_norm_dropout(x, w, 0.25, edge, 0)) > 1.3);
  assert_true(zm_array_item(zm_rms_norm_dropout(x, w, 0.25, below, 0)) == 0);
  assert_true(zm_array_item(zm_layer_norm_dropout(x, w, b, 0.25, edge, 1)) > 1.3); // beta / 0.75
  assert_true(zm_array_item(zm_layer_norm_dropout(x, w, b, 0.25, below, 1)) == 0);
  zm_scope_close(scope);
}

// code * scale + bias is rounded once.
static void a_dequantized_number_is_one_fma(void **state) {
  (void)state;
  enum { N = 6, K = 128, GROUP = 64, BITS = 8 };
  zm_scope *scope = zm_scope_open();
  static uint32_t words[N * K / 4];
  float scales[N * K / GROUP], biases[N * K / GROUP], want[N * K];
  int others = 0;
  for (int i = 0; i < N * K / 4; i++) words[i] = (uint32_t)i * 2654435761u ^ 0x9e3779b9u;
  for (int i = 0; i < N * K / GROUP; i++) scales[i] = (float)(i + 1) / 3e3f, biases[i] = -(float)(i + 5) / 7e1f;
  for (int i = 0; i < N * K; i++) {
    const float code = (float)(words[i / 4] >> i % 4 * 8 & 255u);
    volatile float product = code * scales[i / GROUP];
    want[i] = fmaf(code, scales[i / GROUP], biases[i / GROUP]);
    others += want[i] != product + biases[i / GROUP];
  }
  assert_true(others > N * K / 20);
  zm_array *q = zm_array_from_data(words, ZM_U32, (int64_t[]){N, K / 4}, 2),
           *s = zm_array_from_data(scales, ZM_F32, (int64_t[]){N, K / GROUP}, 2),
           *b = zm_array_from_data(biases, ZM_F32, (int64_t[]){N, K / GROUP}, 2),
           *w = zm_array_from_data(want, ZM_F32, (int64_t[]){N, K}, 2);
  same_bits("dequantize_affine_packed", ZM_F32, zm_dequantize_affine_packed(q, s, b, BITS, GROUP), w, true);
  zm_scope_close(scope);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(residual_norms),
      cmocka_unit_test(every_row_rounds_where_it_says),
      cmocka_unit_test(other_roundings_have_other_digests),
      cmocka_unit_test(kahan_keeps_what_is_lost),
      cmocka_unit_test(a_dropout_keeps_its_edge),
      cmocka_unit_test(a_dequantized_number_is_one_fma),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
