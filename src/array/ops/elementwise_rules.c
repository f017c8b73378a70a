// Rules of the elementwise ops. Derivatives of one place by its operands are written once: gradients and tangents are both products with
// them.
#include "array/ops/ops.h"

#include <zmlx/elementwise.h>

// v times the derivative of n's result by operand i.
typedef zm_array *(*times_fn)(const zmi_node *n, int i, zm_array *v);

static zm_status back(times_fn times, const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  for (int i = 0; i < n->nin; i++) {
    if (wanted[i]) gradient[i] = times(n, i, given[0]);
  }
  return ZM_OK;
}

static zm_status forward(times_fn times, const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  for (int i = 0; i < n->nin; i++) {
    if (!tangent[i]) continue;
    zm_array *part = times(n, i, tangent[i]);
    result[0] = result[0] ? zm_add(result[0], part) : part;
  }
  return ZM_OK;
}

static zm_array *scaled(zm_array *a, double by) {
  return zm_multiply(a, zmi_scalar_like(a, by));
}

// v where the condition holds, else 0.
static zm_array *masked(zm_array *condition, zm_array *v) {
  return zm_where(condition, v, zmi_scalar_like(v, 0));
}

static zm_array *add_times(const zmi_node *n, int i, zm_array *v) {
  (void)n, (void)i;
  return v;
}

static zm_array *subtract_times(const zmi_node *n, int i, zm_array *v) {
  (void)n;
  return i ? zm_negative(v) : v;
}

static zm_array *multiply_times(const zmi_node *n, int i, zm_array *v) {
  return zm_multiply(v, n->in[1 - i]);
}

static zm_array *divide_times(const zmi_node *n, int i, zm_array *v) {
  if (i == 0) return zm_divide(v, n->in[1]);
  return zm_negative(zm_divide(zm_multiply(v, zmi_result(n, 0)), n->in[1]));
}

// Of two equal operands the second one gets it all.
static zm_array *maximum_times(const zmi_node *n, int i, zm_array *v) {
  return masked(i ? zm_less_equal(n->in[0], n->in[1]) : zm_greater(n->in[0], n->in[1]), v);
}

static zm_array *minimum_times(const zmi_node *n, int i, zm_array *v) {
  return masked(i ? zm_greater_equal(n->in[0], n->in[1]) : zm_less(n->in[0], n->in[1]), v);
}

static zm_array *negative_times(const zmi_node *n, int i, zm_array *v) {
  (void)n, (void)i;
  return zm_negative(v);
}

static zm_array *abs_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  zm_array *x = n->in[0], *zero = zmi_scalar_like(x, 0);
  return zm_where(zm_greater(x, zero), v, masked(zm_less(x, zero), zm_negative(v)));
}

static zm_array *exp_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  return zm_multiply(v, zmi_result(n, 0));
}

static zm_array *log_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  return zm_divide(v, n->in[0]);
}

static zm_array *sqrt_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  return zm_divide(scaled(v, 0.5), zmi_result(n, 0));
}

static zm_array *rsqrt_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  return zm_divide(zm_multiply(scaled(v, -0.5), zmi_result(n, 0)), n->in[0]);
}

// y (1 - y): not from y, which is rounded, and 1 where the slope still has all its digits
static zm_array *sigmoid_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  return zm_multiply(v, zm_multiply(zmi_result(n, 0), zm_sigmoid(zm_negative(n->in[0]))));
}

// s (1 + x (1 - s)) with s = sigmoid(x)
static zm_array *silu_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  zm_array *s = zm_sigmoid(n->in[0]), *one = zmi_scalar_like(v, 1);
  return zm_multiply(v, zm_multiply(s, zm_add(one, zm_multiply(n->in[0], zm_subtract(one, s)))));
}

// 1 - y^2 as 4 sigmoid(2x) sigmoid(-2x), for the same reason
static zm_array *tanh_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  zm_array *x = n->in[0];
  return zm_multiply(v, zm_multiply(scaled(zm_sigmoid(scaled(x, 2)), 4), zm_sigmoid(scaled(x, -2))));
}

static zm_array *power_times(const zmi_node *n, int i, zm_array *v) {
  zm_array *a = n->in[0], *b = n->in[1], *y = zmi_result(n, 0);
  if (i == 0) { // b a^(b - 1), which is 0 where b is 0, also where 1 / a is not finite: a^0 stands in for it
    zm_array *constant = zm_logical_and(zm_equal(b, zmi_scalar_like(b, 0)), zm_logical_not(zm_isfinite(zm_reciprocal(a))));
    zm_array *rest = zm_where(constant, zmi_scalar_like(b, 0), zm_subtract(b, zmi_scalar_like(b, 1)));
    return zm_multiply(v, zm_multiply(b, zm_power(a, rest)));
  }
  // y log(a), which is 0 where y is 0: log(1) stands in for it, so that the slope of log stays out of further derivatives
  return zm_multiply(v, zm_multiply(y, zm_log(zm_where(zm_equal(y, zmi_scalar_like(y, 0)), zmi_scalar_like(a, 1), a))));
}

static zm_array *remainder_times(const zmi_node *n, int i, zm_array *v) {
  return i ? zm_negative(zm_multiply(v, zm_floor_divide(n->in[0], n->in[1]))) : v;
}

// v / (a^2 + b^2) times the other operand
static zm_array *arctan2_times(const zmi_node *n, int i, zm_array *v) {
  zm_array *a = n->in[0], *b = n->in[1], *scale = zm_divide(v, zm_add(zm_square(a), zm_square(b)));
  return i ? zm_negative(zm_multiply(scale, a)) : zm_multiply(scale, b);
}

static zm_array *logaddexp_times(const zmi_node *n, int i, zm_array *v) {
  return zm_multiply(v, zm_sigmoid(zm_subtract(n->in[i], n->in[1 - i])));
}

static zm_array *replace_nonfinite_times(const zmi_node *n, int i, zm_array *v) {
  static zm_array *(*const questions[])(zm_array *) = {zm_isfinite, zm_isnan, zm_isposinf, zm_isneginf};
  return masked(questions[i](n->in[0]), v);
}

// Of one operand x with the result y.
#define ONE(word, expression)                                                                                                              \
  static zm_array *word##_times(const zmi_node *n, int i, zm_array *v) {                                                                   \
    zm_array *x = n->in[0];                                                                                                                \
    (void)i, (void)x;                                                                                                                      \
    return expression;                                                                                                                     \
  }
#define RESULT zmi_result(n, 0)
#define PLUS(a, number) zm_add(a, zmi_scalar_like(x, number))
#define ONE_MINUS_SQUARE zm_multiply(zm_subtract(zmi_scalar_like(x, 1), x), PLUS(x, 1)) // by factors: nothing is lost near 1
ONE(square, zm_multiply(v, scaled(x, 2)))
ONE(reciprocal, zm_negative(zm_multiply(v, zm_square(RESULT))))
ONE(degrees, scaled(v, 57.29577951308232))
ONE(radians, scaled(v, 0.017453292519943295))
ONE(exp2, zm_multiply(v, scaled(RESULT, 0.6931471805599453)))
ONE(expm1, zm_multiply(v, zm_exp(x))) // not y + 1: y is rounded, and -1 where e^x still has all its digits
ONE(log2, zm_divide(scaled(v, 1.4426950408889634), x))
ONE(log10, zm_divide(scaled(v, 0.4342944819032518), x))
ONE(log1p, zm_divide(v, PLUS(x, 1)))
ONE(sin, zm_multiply(v, zm_cos(x)))
ONE(cos, zm_negative(zm_multiply(v, zm_sin(x))))
ONE(tan, zm_multiply(v, PLUS(zm_square(RESULT), 1)))
ONE(arcsin, zm_multiply(v, zm_rsqrt(ONE_MINUS_SQUARE)))
ONE(arccos, zm_negative(zm_multiply(v, zm_rsqrt(ONE_MINUS_SQUARE))))
ONE(arctan, zm_divide(v, PLUS(zm_square(x), 1)))
ONE(sinh, zm_multiply(v, zm_cosh(x)))
ONE(cosh, zm_multiply(v, zm_sinh(x)))
ONE(arcsinh, zm_multiply(v, zm_rsqrt(PLUS(zm_square(x), 1))))
ONE(arccosh, zm_multiply(v, zm_rsqrt(zm_multiply(PLUS(x, -1), PLUS(x, 1)))))
ONE(arctanh, zm_divide(v, ONE_MINUS_SQUARE))
ONE(erf, zm_multiply(v, scaled(zm_exp(zm_negative(zm_square(x))), 1.1283791670955126)))
ONE(erfinv, zm_multiply(v, scaled(zm_exp(zm_square(RESULT)), 0.8862269254527580)))
ONE(softplus, zm_multiply(v, zm_sigmoid(x)))

static zm_status no_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)n, (void)given, (void)wanted, (void)gradient; // zero: NULL as it was
  return ZM_OK;
}

static zm_status no_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  (void)n, (void)tangent, (void)result;
  return ZM_OK;
}

#define RULES(word, text)                                                                                                                  \
  static zm_status word##_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {                        \
    return back(word##_times, n, given, wanted, gradient);                                                                                 \
  }                                                                                                                                        \
  static zm_status word##_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {                                            \
    return forward(word##_times, n, tangent, result);                                                                                      \
  }                                                                                                                                        \
  const zmi_rules zmi_rules_##word = {.vjp = word##_vjp, .jvp = word##_jvp, .vmap = zmi_vmap_elementwise, .gradient = text};
#define NO_GRADIENT(word) const zmi_rules zmi_rules_##word = {.vmap = zmi_vmap_elementwise, .gradient = "none: results are bool"};
#define STEPS(word)                                                                                                                        \
  const zmi_rules zmi_rules_##word = {                                                                                                     \
      .vjp = no_vjp, .jvp = no_jvp, .vmap = zmi_vmap_elementwise, .gradient = "zero: constant between steps"};
#define NO_GRADIENT_OF_BITS(word)                                                                                                          \
  const zmi_rules zmi_rules_##word = {.vmap = zmi_vmap_elementwise, .gradient = "none: results are integers"};
// clang-format off
RULES(add, "all operands") RULES(subtract, "all operands") RULES(multiply, "all operands") RULES(divide, "all operands")
RULES(maximum, "all operands; of two equal ones the second") RULES(minimum, "all operands; of two equal ones the second")
RULES(negative, "x") RULES(abs, "x; 0 at 0") RULES(exp, "x") RULES(log, "x") RULES(sqrt, "x") RULES(rsqrt, "x")
RULES(sigmoid, "x") RULES(silu, "x") RULES(tanh, "x")
NO_GRADIENT(equal) NO_GRADIENT(not_equal) NO_GRADIENT(less) NO_GRADIENT(less_equal) NO_GRADIENT(greater) NO_GRADIENT(greater_equal)
RULES(power, "all operands; of a 0 where b is 0, of b 0 where the result is 0")
RULES(remainder, "all operands") RULES(arctan2, "all operands") RULES(logaddexp, "all operands")
RULES(replace_nonfinite, "all operands")
RULES(square, "x") RULES(reciprocal, "x") RULES(degrees, "x") RULES(radians, "x") RULES(exp2, "x") RULES(expm1, "x") RULES(log2, "x")
RULES(log10, "x") RULES(log1p, "x") RULES(sin, "x") RULES(cos, "x") RULES(tan, "x") RULES(arcsin, "x") RULES(arccos, "x") RULES(arctan, "x")
RULES(sinh, "x") RULES(cosh, "x") RULES(arcsinh, "x") RULES(arccosh, "x") RULES(arctanh, "x") RULES(erf, "x") RULES(erfinv, "x")
RULES(softplus, "x")
STEPS(floor_divide) STEPS(sign) STEPS(floor) STEPS(ceil) STEPS(round) STEPS(trunc)
NO_GRADIENT(isnan) NO_GRADIENT(isinf) NO_GRADIENT(isfinite) NO_GRADIENT(isneginf) NO_GRADIENT(isposinf)
NO_GRADIENT(logical_and) NO_GRADIENT(logical_or) NO_GRADIENT(logical_not)
NO_GRADIENT_OF_BITS(bitwise_and) NO_GRADIENT_OF_BITS(bitwise_or) NO_GRADIENT_OF_BITS(bitwise_xor) NO_GRADIENT_OF_BITS(bitwise_invert)
NO_GRADIENT_OF_BITS(left_shift) NO_GRADIENT_OF_BITS(right_shift)
    // clang-format on
