// Pointwise functions of two operands, and bias with an activation.
#include "catalog/catalog.h"

ZMI_ELEMENTS(add, "a b", NULL, "a + b")
ZMI_ELEMENTS(mul, "a b", NULL, "a * b")
ZMI_ELEMENTS(silu_mul, "a b", NULL, "silu(a) * b")
ZMI_ELEMENTS(add_bias, "x bias", NULL, "x + bias")
ZMI_ELEMENTS(bias_gelu_tanh, "x bias", NULL, "gelu_tanh(x + bias)")
ZMI_ELEMENTS(bias_silu, "x bias", NULL, "silu(x + bias)")

zm_array *zm_silu_mul(zm_array *a, zm_array *b) {
  if (!zmi_cat_want_float("silu_mul", "a", a) || !zmi_cat_want_float("silu_mul", "b", b)) return NULL;
  return zmi_definition_apply1(&silu_mul_def, (zm_array *[]){a, b}, 2, NULL, 0);
}

static zm_array *with_bias(zmi_definition *d, zm_array *x, zm_array *bias) {
  if (!zmi_cat_want_float(d->name, "x", x) || !zmi_cat_want_rank(d->name, "x", x, 1) || !zmi_cat_want_float(d->name, "bias", bias))
    return NULL;
  if (!zmi_cat_want(d->name, "bias", bias, 1, zmi_cat_last(x))) return NULL;
  return zmi_definition_apply1(d, (zm_array *[]){x, bias}, 2, NULL, 0);
}

#define BIAS(word)                                                                                                                         \
  zm_array *zm_##word(zm_array *x, zm_array *bias) {                                                                                       \
    return with_bias(&word##_def, x, bias);                                                                                                \
  }                                                                                                                                        \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin, (void)params;                                                                                                               \
    out[0] = zm_##word(in[0], in[1]);                                                                                                      \
    return out[0] ? ZM_OK : zm_last_status();                                                                                              \
  }
BIAS(add_bias)
BIAS(bias_gelu_tanh)
BIAS(bias_silu)

static zm_status add_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_add(in[0], in[1]);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status mul_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_multiply(in[0], in[1]);
  return out[0] ? ZM_OK : zm_last_status();
}

#define TWO(word, public, text, f)                                                                                                         \
  {                                                                                                                                        \
    .name = #word, .function = #public, .formula = text, .shapes = "a [...], b [...] -> [...]", .gradient = "a b",                         \
    .definition = &word##_def, .sample = "a 1024 1024; b 1024 1024", .call = f                                                             \
  }
#define ROW(word, text)                                                                                                                    \
  {                                                                                                                                        \
    .name = #word, .formula = text, .shapes = "x [..., D], bias [D] -> [..., D]", .gradient = "x bias", .definition = &word##_def,         \
    .sample = "x 512 2048; bias 2048", .call = word##_call                                                                                 \
  }

static const zmi_entry entries[] = {
    TWO(add, add, "a + b", add_call), TWO(mul, multiply, "a b", mul_call),        TWO(silu_mul, silu_mul, "silu(a) b", NULL),
    ROW(add_bias, "x + bias"),        ROW(bias_gelu_tanh, "gelu_tanh(x + bias)"), ROW(bias_silu, "silu(x + bias)"),
};

ZMI_GROUP(fused, "Pointwise functions of two operands.");
