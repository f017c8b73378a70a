// Quantized arrays: the codes of MLX, values, products against the models' op, against plain products and among each other, gradients.
#include "cases.h"

#include <zmlx/zmlx.h>

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

static json_t *root;

static zm_quant format_of(const json_t *c) {
  const char *mode = json_string_value(json_object_get(c, "mode"));
  zm_quant q = {(zm_quant_mode)(zmi_quant_mode_find(mode) - ZMI_QUANT_AFFINE), (int)json_integer_value(json_object_get(c, "bits")),
                (int)json_integer_value(json_object_get(c, "group"))};
  return q;
}

static void the_codes_of_mlx(void **state) {
  (void)state;
  const json_t *cases = json_object_get(root, "quantize");
  assert_true(json_array_size(cases) > 30);
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *c = json_array_get(cases, i), *out = json_object_get(c, "out");
    const zm_quant q = format_of(c);
    zm_scope *scope = zm_scope_open();
    zm_array *made[3];
    char what[64];
    assert_int_equal(zm_quantize(cases_array(json_object_get(c, "w")), &q, NULL, &made[0], &made[1], &made[2]), ZM_OK);
    assert_true((made[2] != NULL) == (json_array_size(out) == 3));
    for (size_t k = 0; k < json_array_size(out); k++) {
      snprintf(what, sizeof what, "case %zu (%s), output %zu", i, json_string_value(json_object_get(c, "mode")), k);
      cases_compare(what, made[k], json_array_get(out, k), 0, 0);
    }
    // MLX rounds the product and the sum of affine values each.
    zm_array *values = zm_dequantize(made[0], made[1], made[2], &q, NULL, ZM_F32);
    double largest = 0;
    const float *v = zm_array_data(values);
    for (int64_t k = 0; k < zm_array_size(values); k++) largest = fmax(largest, fabs((double)v[k]));
    cases_compare(what, values, json_object_get(c, "values"), q.mode == ZM_AFFINE ? 2e-7 : 0, largest);
    zm_scope_close(scope);
  }
}

static void float8_of_mlx(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  const json_t *c = json_object_get(root, "fp8");
  cases_compare("to_fp8", zm_to_fp8(cases_array(json_object_get(c, "x"))), json_object_get(c, "codes"), 0, 0);
  cases_compare("from_fp8", zm_from_fp8(cases_array(json_object_get(c, "all")), ZM_F32), json_object_get(c, "values"), 0, 0);
  zm_scope_close(scope);
}

// ---- products ----

static uint64_t seed = 88172645463325252u;

static float uniform(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (float)(seed >> 40) / (1 << 23) - 1.0f;
}

static zm_array *noise(zm_dtype dtype, const int64_t *shape, int rank) {
  int64_t n = 1;
  for (int i = 0; i < rank; i++) n *= shape[i];
  float *data = calloc((size_t)n + 1, sizeof *data);
  for (int64_t i = 0; i < n; i++) data[i] = uniform();
  zm_array *a = zm_array_from_data(data, ZM_F32, shape, rank);
  free(data);
  a = zm_astype(a, dtype);
  assert_int_equal(zm_eval(&a, 1), ZM_OK);
  return a;
}

typedef struct matrix {
  zm_quant q;
  zm_array *codes, *scales, *biases;
} matrix;

static matrix quantized(zm_quant q, zm_dtype dtype, const int64_t *shape, int rank) {
  matrix m = {.q = q};
  assert_int_equal(zm_quantize(noise(dtype, shape, rank), &q, NULL, &m.codes, &m.scales, &m.biases), ZM_OK);
  zm_array *all[3] = {m.codes, m.scales, m.biases};
  assert_int_equal(zm_eval(all, m.biases ? 3 : 2), ZM_OK);
  return m;
}

static const zm_quant formats[] = {{ZM_AFFINE, 2, 32}, {ZM_AFFINE, 3, 64}, {ZM_AFFINE, 4, 64}, {ZM_AFFINE, 5, 128}, {ZM_AFFINE, 6, 64},
                                   {ZM_AFFINE, 8, 32}, {ZM_MXFP4, 0, 0},   {ZM_MXFP8, 0, 0},   {ZM_NVFP4, 0, 0}};

// Both ways of every format, rows alone and together, against products with the values.
static void products_with_the_values(void **state) {
  (void)state;
  static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16, ZM_F16};
  for (size_t f = 0; f < ZMI_COUNT(formats) * 2; f++) {
    const bool transpose = f % 2;
    const zm_dtype t = dtypes[f % 3];
    const double tolerance = t == ZM_F32 ? 1e-6 : t == ZM_F16 ? 1e-3 : 8e-3;
    zm_scope *scope = zm_scope_open();
    const int64_t k = 384, n = 128, m = 7;
    matrix w = transpose ? quantized(formats[f / 2], t, SHAPE(n, k)) : quantized(formats[f / 2], t, SHAPE(k, n));
    zm_array *x = noise(t, SHAPE(m, k)), *values = zm_dequantize(w.codes, w.scales, w.biases, &w.q, NULL, ZM_F32);
    zm_array *y = zm_quantized_matmul(x, w.codes, w.scales, w.biases, &w.q, transpose);
    zm_array *wanted = zm_matmul(zm_astype(x, ZM_F32), transpose ? zm_transpose(values, NULL) : values);
    void *found = play_everywhere("quantized_matmul", y);
    const float *exact = zm_array_data(wanted);
    for (int64_t i = 0; i < m * n; i++) {
      if (fabs(cases_value(found, t, i) - (double)exact[i]) > tolerance * 100) fail_msg("format %zu, element %lld", f, (long long)i);
    }
    for (int64_t r = 0; r < m; r++) { // a row alone
      zm_array *row = zm_slice(x, (int64_t[]){r, 0}, (int64_t[]){r + 1, k}, NULL);
      const char *alone = zm_array_data(zm_quantized_matmul(row, w.codes, w.scales, w.biases, &w.q, transpose));
      assert_memory_equal(alone, (char *)found + (size_t)(r * n) * zm_dtype_size(t), (size_t)n * zm_dtype_size(t));
    }
    zmi_free(found);
    zm_scope_close(scope);
  }
}

// The bits of the op that models use, for the same matrix.
static void the_bits_of_linear(void **state) {
  (void)state;
  for (size_t f = 0; f < 6; f++) {
    zm_scope *scope = zm_scope_open();
    const int64_t n = 50, k = 640, m = 9;
    matrix w = quantized(formats[f], ZM_BF16, SHAPE(n, k));
    zm_array *x = noise(ZM_BF16, SHAPE(m, k));
    zmi_matrix packed = {.format = {ZMI_QUANT_AFFINE, w.q.bits, w.q.group, ZM_BF16, 0}, .n = n, .k = k, .experts = 1};
    size_t bytes;
    assert_true(zmi_packed_bytes(&packed.format, n, k, &bytes));
    void *memory = zmi_block_alloc(bytes);
    zmi_stored_matrix stored = {
        .weight = w.codes->data, .scales = w.scales->data, .biases = w.biases->data, .stored = ZM_BF16, .n = n, .k = k};
    zmi_pack_blocks(&packed.format, &stored, memory, 0, (n + ZMI_LANES - 1) / ZMI_LANES);
    const zmi_type type = zmi_type_of(ZM_U8, 1, (int64_t[]){(int64_t)bytes});
    packed.packed = zmi_weight("w", &type, memory);
    void *wanted = play_everywhere("linear", zmi_linear(&packed, x));
    void *found = play_everywhere("quantized_matmul", zm_quantized_matmul(x, w.codes, w.scales, w.biases, &w.q, true));
    assert_memory_equal(found, wanted, (size_t)(m * n) * 2);
    zmi_free(found);
    zmi_free(wanted);
    zm_scope_close(scope);
    zmi_block_free(memory, bytes);
  }
}

// Chosen products have the bits of each product alone; indices out of range give zeros; batches broadcast.
static void gathered(void **state) {
  (void)state;
  static const int32_t lhs[] = {0, 2, 1, 1, 0, 3, 2, -1}, rhs[] = {4, 0, 0, 4, 2, 1, 9, 1};
  for (size_t f = 0; f <= ZMI_COUNT(formats) * 2; f++) {
    const bool transpose = f % 2, plain = f == ZMI_COUNT(formats) * 2;
    zm_scope *scope = zm_scope_open();
    const int64_t m = 3, k = 128, n = 160, count = 8;
    zm_array *x = noise(ZM_F32, SHAPE(3, m, k)), *l = zm_array_from_data(lhs, ZM_I32, SHAPE(8)),
             *r = zm_array_from_data(rhs, ZM_I32, SHAPE(8));
    matrix w = {0};
    zm_array *b = NULL, *y;
    const int64_t rows = transpose ? n : k, cols = transpose ? k : 256, wide = transpose ? n : 256;
    if (plain) {
      b = noise(ZM_F32, SHAPE(5, k, 256));
      y = zm_gather_mm(x, b, l, r, false);
    } else {
      w = quantized(formats[f / 2], ZM_F32, SHAPE(5, rows, cols));
      y = zm_gather_qmm(x, w.codes, w.scales, w.biases, l, r, &w.q, transpose, false);
    }
    float *found = play_everywhere("gather", y);
    for (int64_t i = 0; i < count; i++) {
      const float *at = found + i * m * wide;
      if (lhs[i] < 0 || lhs[i] >= 3 || rhs[i] >= 5) {
        for (int64_t q = 0; q < m * wide; q++) assert_true(at[q] == 0);
        continue;
      }
      zm_array *one = zm_squeeze(zm_slice(x, (int64_t[]){lhs[i], 0, 0}, (int64_t[]){lhs[i] + 1, m, k}, NULL), 0), *part[3] = {NULL}, *alone;
      zm_array *from[3] = {plain ? b : w.codes, w.scales, w.biases};
      for (int q = 0; q < 3 && from[q]; q++) {
        part[q] = zm_squeeze(zm_slice(from[q], (int64_t[]){rhs[i], 0, 0}, (int64_t[]){rhs[i] + 1, 1 << 20, 1 << 20}, NULL), 0);
      }
      alone = plain ? zm_matmul(one, part[0]) : zm_quantized_matmul(one, part[0], part[1], part[2], &w.q, transpose);
      assert_memory_equal(zm_array_data(alone), at, (size_t)(m * wide) * sizeof *at);
    }
    zmi_free(found);
    if (!plain) { // a batch of matrices by a batch of rows that repeats
      zm_array *few = zm_slice(x, (int64_t[]){0, 0, 0}, (int64_t[]){1, m, k}, NULL);
      zm_array *all = zm_quantized_matmul(few, w.codes, w.scales, w.biases, &w.q, transpose);
      assert_true(zm_array_rank(all) == 3 && zm_array_dim(all, 0) == 5 && zm_array_dim(all, 2) == wide);
      assert_non_null(zm_array_data(all));
    }
    zm_scope_close(scope);
  }
}

static void refusals(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  matrix w = quantized(formats[2], ZM_F32, SHAPE(8, 128));
  zm_array *x = noise(ZM_F32, SHAPE(2, 128)), *out[3];
#define REFUSED(made, words)                                                                                                               \
  zm_clear_error();                                                                                                                        \
  assert_false(made);                                                                                                                      \
  if (!strstr(zm_last_error(), words)) fail_msg("says: %s", zm_last_error())
  REFUSED(zm_quantize(x, &(zm_quant){ZM_AFFINE, 7, 64}, NULL, out, out + 1, out + 2) == ZM_OK,
          "affine quantization with 7 bits does not exist: bits must be 2, 3, 4, 5, 6 or 8");
  REFUSED(zm_quantize(x, &(zm_quant){ZM_MXFP4, 4, 64}, NULL, out, out + 1, out + 2) == ZM_OK,
          "mxfp4 quantization with groups of 64 does not exist: the group size must be 32");
  REFUSED(zm_quantize(noise(ZM_F32, SHAPE(2, 100)), NULL, NULL, out, out + 1, out + 2) == ZM_OK, "a multiple of the group of 64");
  REFUSED(zm_quantize(x, NULL, noise(ZM_F32, SHAPE(1)), out, out + 1, out + 2) == ZM_OK, "a global scale belongs to nvfp4");
  REFUSED(zm_dequantize(w.codes, w.scales, NULL, &w.q, NULL, ZM_F32), "affine needs biases");
  REFUSED(zm_dequantize(w.codes, w.scales, w.biases, &(zm_quant){ZM_AFFINE, 8, 64}, NULL, ZM_F32), "do not belong together");
  REFUSED(zm_dequantize(w.codes, w.scales, w.biases, &w.q, NULL, ZM_I32), "must be of a float dtype");
  REFUSED(zm_dequantize(x, w.scales, w.biases, &w.q, NULL, ZM_F32), "codes must be uint32");
  REFUSED(zm_quantized_matmul(noise(ZM_F32, SHAPE(2, 64)), w.codes, w.scales, w.biases, &w.q, true), "expected float rows [A, M, K]");
  REFUSED(zm_gather_qmm(x, w.codes, w.scales, w.biases, x, NULL, &w.q, true, false), "indices must be integers");
  REFUSED(zm_from_fp8(x, ZM_F32), "expected uint8");
  zm_scope_close(scope);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_codes_of_mlx),   cmocka_unit_test(float8_of_mlx), cmocka_unit_test(products_with_the_values),
      cmocka_unit_test(the_bits_of_linear), cmocka_unit_test(gathered),      cmocka_unit_test(refusals),
  };
  root = cases_load("tests/data/quantized_cases.json");
  if (!root || play_open() != 0) return 1;
  int failed = cmocka_run_group_tests_name("quantized", tests, NULL, NULL);
  play_close();
  json_decref(root);
  return failed;
}
