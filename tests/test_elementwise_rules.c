// Rules of the elementwise ops that are rows of elementwise_table.h, and of kernels: gradients against finite differences, tangents
// against gradients, batches against slices.
#include "transform_ops.h"

#include <zmlx/zmlx.h>

#define F(name)                                                                                                                            \
  static zm_status f_##name(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {                                          \
    (void)user, (void)nin, (void)nout;
#define END                                                                                                                                \
  return out[0] ? ZM_OK : zm_last_status();                                                                                                \
  }
#define ONE(word)                                                                                                                          \
  F(word) out[0] = zm_##word(in[0]);                                                                                                       \
  END
#define TWO(word)                                                                                                                          \
  F(word) out[0] = zm_##word(in[0], in[1]);                                                                                                \
  END
// clang-format off
TWO(power) TWO(remainder) TWO(floor_divide) TWO(arctan2) TWO(logaddexp) TWO(logical_and) TWO(logical_or) TWO(bitwise_and) TWO(bitwise_or)
TWO(bitwise_xor) TWO(left_shift) TWO(right_shift)
ONE(square) ONE(reciprocal) ONE(sign) ONE(floor) ONE(ceil) ONE(trunc) ONE(degrees) ONE(radians) ONE(exp2) ONE(expm1) ONE(log2) ONE(log10)
ONE(log1p) ONE(sin) ONE(cos) ONE(tan) ONE(arcsin) ONE(arccos) ONE(arctan) ONE(sinh) ONE(cosh) ONE(arcsinh) ONE(arccosh) ONE(arctanh)
ONE(erf) ONE(erfinv) ONE(softplus) ONE(isnan) ONE(isinf) ONE(isfinite) ONE(isneginf) ONE(isposinf) ONE(logical_not) ONE(bitwise_invert)
F(round) out[0] = zm_round(in[0], 0); END
F(nan_to_num) out[0] = zm_nan_to_num(in[0], 0.5, NULL, NULL); END
    // clang-format on

    // ---- kernels ----

    static zm_status
    apply(zm_op *op, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_status status = op ? zm_op_apply(op, in, nin, out, nout) : zm_last_status();
  zm_op_free(op); // arrays keep what they need of it
  return status;
}

static zm_status f_elements(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user;
  return apply(zm_elementwise("a = tanh(x) * w + x * x; b = w / (1 + x * x)", &(zm_elementwise_options){.inputs = "x w", .outputs = "a b"}),
               in, nin, out, nout);
}

static zm_status f_rows(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user;
  return apply(zm_kernel(&(zm_kernel_options){.inputs = "x w",
                                              .outputs = "y total",
                                              .source = "elements { q = sum(x * x); } let r = rsqrt(q / D + 1e-5f); total = q * r;"
                                                        "elements { y = x * r * w; }"}),
               in, nin, out, nout);
}

// Twice x in threadgroups, with the gradient beside it.
static zm_status twice_vjp(void *user, const double *parameters, zm_array *const *in, int nin, zm_array *const *out,
                           zm_array *const *cotangents, int nout, zm_array **gradients) {
  (void)user, (void)parameters, (void)in, (void)nin, (void)out, (void)nout;
  gradients[0] = zm_add(cotangents[0], cotangents[0]);
  return gradients[0] ? ZM_OK : zm_last_status();
}

static zm_status f_tiles(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user;
  return apply(zm_kernel(&(zm_kernel_options){.form = ZM_KERNEL_TILES,
                                              .inputs = "x",
                                              .outputs = "y",
                                              .source = "y[group * x.1 + thread] = 2 * x[group * x.1 + thread];",
                                              .shape = {"x.0 x.1"},
                                              .groups = "x.0",
                                              .threads = "x.1",
                                              .vjp = twice_vjp}),
               in, nin, out, nout);
}

#define A(low, high)                                                                                                                       \
  { ZM_F32, 2, {2, 3}, low, high }
#define I(low, high)                                                                                                                       \
  { ZM_I32, 2, {2, 3}, low, high }
#define CASE(name, word, input)                                                                                                            \
  {                                                                                                                                        \
    name, name, f_##word, .in = { input }                                                                                                  \
  }
#define PAIR(name, word, first, second)                                                                                                    \
  {                                                                                                                                        \
    name, name, f_##word, .in = { first, second }                                                                                          \
  }
#define FLAT(name, word, input)                                                                                                            \
  {                                                                                                                                        \
    name, name, f_##word, .flat = true, .in = { input }                                                                                    \
  }
#define FLAT_PAIR(name, word, first, second)                                                                                               \
  {                                                                                                                                        \
    name, name, f_##word, .flat = true, .in = { first, second }                                                                            \
  }

// clang-format off
static const check_case cases[] = {
    PAIR("power", power, A(0.5f, 2), A(-2, 2)),
    PAIR("remainder", remainder, A(2.1f, 2.9f), A(0.9f, 1.04f)),
    {"floor_divide", "floor_divide", f_floor_divide, .in = {A(2.1f, 2.9f), A(0.9f, 1.04f)}},
    PAIR("arctan2", arctan2, A(-1, 1), A(0.5f, 2)),
    PAIR("logaddexp", logaddexp, A(-1, 1), A(-1, 1)),
    CASE("square", square, A(-1, 1)), CASE("reciprocal", reciprocal, A(0.5f, 2)),
    CASE("sign", sign, A(0.1f, 1)), CASE("floor", floor, A(0.1f, 0.9f)), CASE("ceil", ceil, A(0.1f, 0.9f)),
    CASE("trunc", trunc, A(0.1f, 0.9f)), CASE("round", round, A(0.1f, 0.4f)),
    {"degrees", "degrees", f_degrees, .tolerance = 5e-2, .in = {A(-1, 1)}},
    CASE("radians", radians, A(-1, 1)), CASE("exp2", exp2, A(-1, 1)), CASE("expm1", expm1, A(-1, 1)), CASE("log2", log2, A(0.5f, 2)),
    CASE("log10", log10, A(0.5f, 2)),
    CASE("log1p", log1p, A(-0.5f, 2)), CASE("sin", sin, A(-3, 3)), CASE("cos", cos, A(-3, 3)), CASE("tan", tan, A(-1, 1)),
    CASE("arcsin", arcsin, A(-0.7f, 0.7f)),
    CASE("arccos", arccos, A(-0.7f, 0.7f)), CASE("arctan", arctan, A(-2, 2)), CASE("sinh", sinh, A(-1, 1)), CASE("cosh", cosh, A(-1, 1)),
    CASE("arcsinh", arcsinh, A(-2, 2)),
    CASE("arccosh", arccosh, A(1.5f, 4)), CASE("arctanh", arctanh, A(-0.7f, 0.7f)), CASE("erf", erf, A(-1, 1)),
    CASE("erfinv", erfinv, A(-0.7f, 0.7f)), CASE("softplus", softplus, A(-2, 2)),
    {"nan_to_num", "replace_nonfinite", f_nan_to_num, .in = {A(-1, 1)}},
    FLAT("isnan", isnan, A(-1, 1)), FLAT("isinf", isinf, A(-1, 1)), FLAT("isfinite", isfinite, A(-1, 1)),
    FLAT("isneginf", isneginf, A(-1, 1)), FLAT("isposinf", isposinf, A(-1, 1)),
    FLAT("logical_not", logical_not, A(-1, 1)), FLAT_PAIR("logical_and", logical_and, A(-1, 1), I(-1, 2)),
    FLAT_PAIR("logical_or", logical_or, A(-1, 1), I(-1, 2)),
    FLAT("bitwise_invert", bitwise_invert, I(-9, 9)), FLAT_PAIR("bitwise_and", bitwise_and, I(-9, 9), I(-9, 9)),
    FLAT_PAIR("bitwise_or", bitwise_or, I(-9, 9), I(-9, 9)),
    FLAT_PAIR("bitwise_xor", bitwise_xor, I(-9, 9), I(-9, 9)), FLAT_PAIR("left_shift", left_shift, I(-9, 9), I(0, 9)),
    FLAT_PAIR("right_shift", right_shift, I(-9, 9), I(0, 9)),
    {"elements", "kernel_elements", f_elements, .nout = 2, .in = {A(-1, 1), {ZM_F32, 1, {3}, -1, 1}}},
    {"rows", "kernel_rows", f_rows, .nout = 2, .in = {{ZM_F32, 3, {2, 2, 5}, -1, 1}, {ZM_F32, 1, {5}, -1, 1}}},
    {"tiles", "kernel_tiles", f_tiles, .in = {A(-1, 1)}},
};
// clang-format on

static void every_op_of_the_list(void **state) {
  (void)state;
  check_listed("elementwise_rules", cases, ZMI_COUNT(cases));
}

static void every_case(void **state) {
  (void)state;
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) check_all(&cases[i]);
}

// Where 1 - x^2 has lost its digits: slopes beside those in double.
static void slopes_near_one(void **state) {
  (void)state;
  static const struct {
    zm_function f;
    float x;
  } rows[] = {{f_arcsin, 0.9999f},  {f_arcsin, -0.99999f},  {f_arccos, 0.9999f},
              {f_arctanh, 0.9999f}, {f_arctanh, -0.99999f}, {f_arccosh, 1.0001f}};
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    const double x = (double)rows[i].x, rest = fabs((1 - x) * (1 + x));
    const double expected = rows[i].f == f_arctanh ? 1 / rest : (rows[i].f == f_arccos ? -1 : 1) / sqrt(rest);
    zm_scope *scope = zm_scope_open();
    zm_array *in = zm_array_from_data(&rows[i].x, ZM_F32, NULL, 0), *slope = NULL;
    assert_int_equal(zm_grad(rows[i].f, NULL, &in, 1, NULL, 0, &slope), ZM_OK);
    const float *at = zm_array_data(slope);
    assert_non_null(at);
    if (!(fabs((double)*at / expected - 1) < 4e-7)) fail_msg("row %zu: %.9g instead of %.9g", i, (double)*at, expected);
    zm_scope_close(scope);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_op_of_the_list), cmocka_unit_test(every_case),
                                     cmocka_unit_test(slopes_near_one)};
  return cmocka_run_group_tests_name("elementwise_rules", tests, NULL, NULL);
}
