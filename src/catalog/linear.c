// A linear layer with what follows it, rounded once at the end: the product is taken in float32.
#include "catalog/catalog.h"

ZMI_ELEMENTS(fused_linear_bias_silu, "product bias", NULL, "silu(product + bias)")
ZMI_ELEMENTS(fused_linear_bias_gelu, "product bias", NULL, "gelu_tanh(product + bias)")
ZMI_ROWS(fused_linear_rmsnorm, "product gamma", "y", "eps",
         "elements { q = sumsq(product); }\nlet r = 1.0f / sqrt(q / D + eps);\nelements { y = product * r * gamma; }")

// x [..., K], w [N, K] -> float32 [..., N]; vector [N]
static zm_array *product(const char *name, zm_array *x, zm_array *w, zm_array *vector, const char *operand) {
  if (!zmi_cat_want_float(name, "x", x) || !zmi_cat_want_rank(name, "x", x, 1) || !zmi_cat_want_float(name, "w", w)) return NULL;
  if (!zmi_cat_want(name, "w", w, 2, (int64_t)-1, zmi_cat_last(x)) || !zmi_cat_want_float(name, operand, vector)) return NULL;
  int64_t n = w->type.shape[0];
  if (!zmi_cat_want(name, operand, vector, 1, n)) return NULL;
  zm_array *rows = zmi_cat_rows(zm_astype(x, ZM_F32));
  return zmi_cat_like(zmi_cat_matmul_t(rows, zm_astype(w, ZM_F32)), x, 1, 1, n);
}

static zm_array *activated(zmi_definition *d, zm_array *x, zm_array *w, zm_array *bias) {
  zm_array *y = product(d->name, x, w, bias, "bias");
  return y ? zm_astype(zmi_definition_apply1(d, (zm_array *[]){y, bias}, 2, NULL, 0), x->type.dtype) : NULL;
}

zm_array *zm_fused_linear_bias_silu(zm_array *x, zm_array *w, zm_array *bias) {
  return activated(&fused_linear_bias_silu_def, x, w, bias);
}

zm_array *zm_fused_linear_bias_gelu(zm_array *x, zm_array *w, zm_array *bias) {
  return activated(&fused_linear_bias_gelu_def, x, w, bias);
}

zm_array *zm_fused_linear_rmsnorm(zm_array *x, zm_array *w, zm_array *gamma, double eps) {
  if (!zmi_cat_want_eps("fused_linear_rmsnorm", eps)) return NULL;
  zm_array *y = product("fused_linear_rmsnorm", x, w, gamma, "gamma");
  if (!y) return NULL;
  return zm_astype(zmi_definition_apply1(&fused_linear_rmsnorm_def, (zm_array *[]){y, gamma}, 2, &eps, 1), x->type.dtype);
}

#define CALL(word, ...)                                                                                                                    \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin, (void)params;                                                                                                               \
    out[0] = zm_##word(__VA_ARGS__);                                                                                                       \
    return out[0] ? ZM_OK : zm_last_status();                                                                                              \
  }
CALL(fused_linear_bias_silu, in[0], in[1], in[2])
CALL(fused_linear_bias_gelu, in[0], in[1], in[2])
CALL(fused_linear_rmsnorm, in[0], in[1], in[2], params[0].real)

#define ROW(word, text, vector, options)                                                                                                   \
  {                                                                                                                                        \
    .name = #word, .formula = text, .shapes = "x [..., K], w [N, K], " vector " [N] -> [..., N]", .gradient = "x w " vector,               \
    .parameters = options, .definition = &word##_def, .sample = "x 64 1024; w 1024 1024; " vector " 1024", .call = word##_call             \
  }

static const zmi_entry entries[] = {
    ROW(fused_linear_bias_silu, "silu(x w^T + bias)", "bias", NULL),
    ROW(fused_linear_bias_gelu, "gelu_tanh(x w^T + bias)", "bias", NULL),
    ROW(fused_linear_rmsnorm, "rmsnorm(x w^T, gamma)", "gamma", "eps=1e-6"),
};

ZMI_GROUP(linear, "A linear layer with what follows it.");
