// Rules of products of chosen matrices and of quantized arrays: gradients against finite differences, batches against slices bit by bit.
#include "array/ops/product.h"
#include "transform_ops.h"

#include <zmlx/zmlx.h>

// clang-format off
#define F(name, value)                                                                                            \
  static zm_status name(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {                     \
    (void)user, (void)nin, (void)nout;                                                                            \
    out[0] = value;                                                                                               \
    return out[0] ? ZM_OK : zm_last_status();                                                                     \
  }
#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))
#define FLOATS(rank, ...) {ZM_F32, rank, {__VA_ARGS__}, -1, 1}

// Any codes: what the scales meet must not be all alike.
static zm_array *some_codes(const int64_t *shape, int rank) {
  int64_t words = 1;
  for (int i = 0; i < rank; i++) words *= shape[i];
  zm_array *codes = zm_multiply(zm_arange(1, (double)words + 1, 1, ZM_U32), zm_full(2654435761.0, ZM_U32, NULL, 0));
  return zm_reshape(codes, shape, rank);
}

static const zm_quant two_bits = {ZM_AFFINE, 2, 32};

F(f_gather_mm, zm_gather_mm(in[0], in[1], in[2], in[3], false))
F(f_gather_outer, zmi_gather_outer(in[0], in[1], in[2], in[3], in[4], 3))
F(f_dequantize, zm_dequantize(some_codes(SHAPE(2, 4)), in[0], in[1], &two_bits, NULL, ZM_F32))
F(f_quantized, zm_quantized_matmul(in[0], some_codes(SHAPE(3, 4)), in[1], in[2], &two_bits, true))
F(f_columns, zm_quantized_matmul(in[0], some_codes(SHAPE(3, 4)), in[1], in[2], &two_bits, false))
F(f_gather_qmm, zm_gather_qmm(in[0], some_codes(SHAPE(2, 3, 2)), in[1], in[2], in[3], in[4], &two_bits, true, true))
F(f_fp8, zm_from_fp8(zm_to_fp8(in[0]), ZM_F32))

static zm_array *positive(zm_array *a) { // definite
  return zm_add(zm_matmul(a, zmi_matrix_transpose(a)), zm_eye(3, 3, 0, ZM_F32));
}

F(f_root, zmi_symmetric_root(positive(in[0])))
F(f_solve, zmi_symmetric_solve(positive(in[0]), in[1]))
F(f_convolve, zm_add(zm_convolve(in[0], in[1], ZM_CONVOLVE_FULL), zm_convolve(in[1], in[0], ZM_CONVOLVE_FULL)))
F(f_normal, zm_random_multivariate_normal(zm_random_key(5), in[0], positive(in[1]), ZM_F32, SHAPE(4)))

static zm_status f_quantize(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *biases;
  (void)user, (void)nin, (void)nout;
  return zm_quantize(in[0], &two_bits, NULL, &out[0], &out[1], &biases);
}

static const check_case cases[] = {
    {"gather_mm", "gather_mm", f_gather_mm,
     .in = {FLOATS(3, 2, 2, 3), FLOATS(3, 3, 3, 4), {ZM_I32, 1, {5}, -1, 3}, {ZM_I32, 1, {5}, 0, 4}}},
    {"gather_outer", "gather_outer", f_gather_outer,
     .in = {FLOATS(3, 2, 2, 3), FLOATS(3, 3, 2, 4), {ZM_I32, 1, {5}, -1, 3}, {ZM_I32, 1, {5}, 0, 4}, {ZM_I32, 1, {5}, 0, 4}}},
    {"dequantize", "dequantize", f_dequantize, .in = {FLOATS(2, 2, 2), FLOATS(2, 2, 2)}, .tolerance = 4e-3},
    {"quantized_matmul", "quantized_matmul", f_quantized, .in = {FLOATS(2, 2, 64), FLOATS(2, 3, 2), FLOATS(2, 3, 2)}, .tolerance = 2e-2},
    {"quantized_matmul of columns", "quantized_matmul", f_columns,
     .in = {FLOATS(2, 2, 3), FLOATS(2, 3, 2), FLOATS(2, 3, 2)}, .tolerance = 2e-2},
    {"gather_qmm", "quantized_matmul", f_gather_qmm,
     .in = {FLOATS(3, 2, 2, 32), FLOATS(3, 2, 3, 1), FLOATS(3, 2, 3, 1), {ZM_U32, 1, {4}, 0, 3}, {ZM_I32, 1, {4}, -1, 2}},
     .tolerance = 2e-2},
    {"symmetric_root", "symmetric_root", f_root, .in = {FLOATS(2, 3, 3)}, .tolerance = 4e-3},
    {"symmetric_solve", "symmetric_solve", f_solve, .in = {FLOATS(2, 3, 3), FLOATS(2, 3, 3)}, .tolerance = 4e-3},
    {"convolve", "conv", f_convolve, .in = {FLOATS(1, 5), FLOATS(1, 3)}, .tolerance = 4e-3},
    {"multivariate_normal", "symmetric_root", f_normal, .in = {FLOATS(1, 3), FLOATS(2, 3, 3)}, .tolerance = 1e-2},
    {"quantize", "quantize", f_quantize, .nout = 2, .flat = true, .in = {FLOATS(2, 2, 64)}},
    {"float8", "from_fp8", f_fp8, .flat = true, .in = {FLOATS(2, 2, 3)}},
    {"float8 codes", "to_fp8", f_fp8, .flat = true, .in = {FLOATS(2, 2, 3)}},
};
// clang-format on

static void every_op_of_the_list(void **state) {
  (void)state;
  check_listed("linear_rules", cases, ZMI_COUNT(cases));
}

static void every_case(void **state) {
  (void)state;
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) check_all(&cases[i]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_op_of_the_list), cmocka_unit_test(every_case)};
  return cmocka_run_group_tests_name("linear_rules", tests, NULL, NULL);
}
