// Rules of the elementwise ops. Derivatives of one place by its operands are written once: gradients and tangents are both products with
// them.
#include "array/ops/ops.h"

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

static zm_array *sigmoid_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  zm_array *y = zmi_result(n, 0);
  return zm_multiply(v, zm_multiply(y, zm_subtract(zmi_scalar_like(y, 1), y)));
}

// s (1 + x (1 - s)) with s = sigmoid(x)
static zm_array *silu_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  zm_array *s = zm_sigmoid(n->in[0]), *one = zmi_scalar_like(v, 1);
  return zm_multiply(v, zm_multiply(s, zm_add(one, zm_multiply(n->in[0], zm_subtract(one, s)))));
}

static zm_array *tanh_times(const zmi_node *n, int i, zm_array *v) {
  (void)i;
  zm_array *y = zmi_result(n, 0);
  return zm_multiply(v, zm_subtract(zmi_scalar_like(y, 1), zm_multiply(y, y)));
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
// clang-format off
RULES(add, "all operands") RULES(subtract, "all operands") RULES(multiply, "all operands") RULES(divide, "all operands")
RULES(maximum, "all operands; of two equal ones the second") RULES(minimum, "all operands; of two equal ones the second")
RULES(negative, "x") RULES(abs, "x; 0 at 0") RULES(exp, "x") RULES(log, "x") RULES(sqrt, "x") RULES(rsqrt, "x")
RULES(sigmoid, "x") RULES(silu, "x") RULES(tanh, "x")
NO_GRADIENT(equal) NO_GRADIENT(not_equal) NO_GRADIENT(less) NO_GRADIENT(less_equal) NO_GRADIENT(greater) NO_GRADIENT(greater_equal)
    // clang-format on
