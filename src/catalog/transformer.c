// What stands between the matrices of a transformer block: gated activations, residual sums with norms.
#include "catalog/catalog.h"

// silu(gate) is rounded to the dtype before the product, as the ops silu and multiply, and with them the patched models, round.
ZMI_ELEMENTS(swiglu2, "gate up", NULL, "T(silu(gate)) * up")
ZMI_ELEMENTS(geglu2, "gate up", NULL, "gelu_tanh(gate) * up")
ZMI_ELEMENTS(bias_swiglu, "gate up gate_bias up_bias", NULL, "silu(gate + gate_bias) * (up + up_bias)")
ZMI_ELEMENTS(bias_geglu, "gate up gate_bias up_bias", NULL, "gelu_tanh(gate + gate_bias) * (up + up_bias)")

// The sum is rounded to the dtype before it is normalized: what the norm would read if the sum had been stored.
ZMI_ROWS(rmsnorm_residual, "x res w", "y h", "eps",
         "elements { let t = T(x + res); q = sumsq(t); }\n"
         "let r = 1.0f / sqrt(q / D + eps);\n"
         "elements { let t = T(x + res); y = t * r * w; h = t; }")
ZMI_ROWS(layernorm_residual, "x res gamma beta", "y h", "eps",
         "elements { let t = T(x + res); s = sum(t); }\n"
         "let mean = s / D;\n"
         "elements { let t = T(x + res) - mean; q = sumsq(t); }\n"
         "let r = 1.0f / sqrt(q / D + eps);\n"
         "elements { let t = T(x + res); y = (t - mean) * r * gamma + beta; h = t; }")
// The same with the sum kept in float32 inside.
ZMI_ROWS(fused_add_rmsnorm, "x res w", "y h", "eps", ZMI_ADD_RMS_NORM)
ZMI_ROWS(fused_add_layernorm, "x res gamma beta", "y h", "eps",
         "elements { let t = x + res; s = sum(t); }\n"
         "let mean = s / D;\n"
         "elements { let t = (x + res) - mean; q = sumsq(t); }\n"
         "let r = 1.0f / sqrt(q / D + eps);\n"
         "elements { let t = x + res; y = (t - mean) * r * gamma + beta; h = t; }")

static bool equal_shapes(const char *name, const char *operand, zm_array *a, zm_array *x) {
  char expected[128], found[128];
  if (!zmi_cat_want_float(name, operand, a) || !zmi_cat_want_float(name, "x", x)) return false;
  bool same = a->type.rank == x->type.rank;
  for (int i = 0; same && i < a->type.rank; i++) same = a->type.shape[i] == x->type.shape[i];
  if (!same) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected the shape of %s, found %s", name, operand, zmi_type_text(&x->type, expected),
             zmi_type_text(&a->type, found));
  }
  return same;
}

static zm_array *gated(zmi_definition *d, zm_array *gate, zm_array *up) {
  if (!equal_shapes(d->name, "up", up, gate)) return NULL;
  return zmi_definition_apply1(d, (zm_array *[]){gate, up}, 2, NULL, 0);
}

zm_array *zm_swiglu2(zm_array *gate, zm_array *up) {
  return gated(&swiglu2_def, gate, up);
}

zm_array *zm_geglu2(zm_array *gate, zm_array *up) {
  return gated(&geglu2_def, gate, up);
}

zm_array *zm_swiglu(zm_array *x) {
  zm_array *gate, *up;
  return zmi_cat_halves("swiglu", x, &gate, &up) == ZM_OK ? gated(&swiglu2_def, gate, up) : NULL;
}

zm_array *zm_geglu(zm_array *x) {
  zm_array *gate, *up;
  return zmi_cat_halves("geglu", x, &gate, &up) == ZM_OK ? gated(&geglu2_def, gate, up) : NULL;
}

static zm_array *biased(zmi_definition *d, zm_array *x, zm_array *bias) {
  zm_array *in[4];
  if (!zmi_cat_want_float(d->name, "x", x) || zmi_cat_halves(d->name, x, &in[0], &in[1]) != ZM_OK) return NULL;
  if (!zmi_cat_want_float(d->name, "bias", bias) || !zmi_cat_want(d->name, "bias", bias, 1, zmi_cat_last(x))) return NULL;
  if (zmi_cat_halves(d->name, bias, &in[2], &in[3]) != ZM_OK) return NULL;
  return zmi_definition_apply1(d, in, 4, NULL, 0);
}

zm_array *zm_bias_swiglu(zm_array *x, zm_array *bias) {
  return biased(&bias_swiglu_def, x, bias);
}

zm_array *zm_bias_geglu(zm_array *x, zm_array *bias) {
  return biased(&bias_geglu_def, x, bias);
}

static zm_status two(zmi_definition *d, zm_array *const *in, int nin, double eps, zm_array **y, zm_array **h) {
  zm_array *out[2];
  if (!zmi_cat_want_eps(d->name, eps) || !zmi_cat_want_rank(d->name, "x", in[0], 1) || !equal_shapes(d->name, "residual", in[1], in[0]))
    return zm_last_status();
  for (int i = 2; i < nin; i++) {
    const char *operand = nin == 3 ? "weight" : i == 2 ? "gamma" : "beta";
    if (!zmi_cat_want_float(d->name, operand, in[i]) || !zmi_cat_want(d->name, operand, in[i], 1, zmi_cat_last(in[0])))
      return zm_last_status();
  }
  zm_status status = zmi_definition_apply(d, in, nin, &eps, 1, out, 2);
  if (status == ZM_OK) *y = out[0], *h = out[1];
  return status;
}

zm_status zm_rmsnorm_residual(zm_array *x, zm_array *residual, zm_array *weight, double eps, zm_array **normed, zm_array **sum) {
  return two(&rmsnorm_residual_def, (zm_array *[]){x, residual, weight}, 3, eps, normed, sum);
}

zm_status zm_fused_add_rmsnorm(zm_array *x, zm_array *residual, zm_array *weight, double eps, zm_array **normed, zm_array **sum) {
  return two(&fused_add_rmsnorm_def, (zm_array *[]){x, residual, weight}, 3, eps, normed, sum);
}

zm_status zm_layernorm_residual(zm_array *x, zm_array *residual, zm_array *gamma, zm_array *beta, double eps, zm_array **normed,
                                zm_array **sum) {
  return two(&layernorm_residual_def, (zm_array *[]){x, residual, gamma, beta}, 4, eps, normed, sum);
}

zm_status zm_fused_add_layernorm(zm_array *x, zm_array *residual, zm_array *gamma, zm_array *beta, double eps, zm_array **normed,
                                 zm_array **sum) {
  return two(&fused_add_layernorm_def, (zm_array *[]){x, residual, gamma, beta}, 4, eps, normed, sum);
}

#define CALL(word, ...)                                                                                                                    \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin, (void)params;                                                                                                               \
    out[0] = zm_##word(__VA_ARGS__);                                                                                                       \
    return out[0] ? ZM_OK : zm_last_status();                                                                                              \
  }
#define CALL2(word, ...)                                                                                                                   \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin;                                                                                                                             \
    return zm_##word(__VA_ARGS__, params[0].real, &out[0], &out[1]);                                                                       \
  }
CALL(swiglu, in[0])
CALL(geglu, in[0])
CALL(swiglu2, in[0], in[1])
CALL(geglu2, in[0], in[1])
CALL(bias_swiglu, in[0], in[1])
CALL(bias_geglu, in[0], in[1])
CALL2(rmsnorm_residual, in[0], in[1], in[2])
CALL2(fused_add_rmsnorm, in[0], in[1], in[2])
CALL2(layernorm_residual, in[0], in[1], in[2], in[3])
CALL2(fused_add_layernorm, in[0], in[1], in[2], in[3])

#define HALVES "x [..., 2D] -> [..., D]"
#define PAIR "gate [...], up [...] -> [...]"
#define SUM3 "x [..., D], residual [..., D], weight [D] -> y [..., D], h [..., D]"
#define SUM4 "x [..., D], residual [..., D], gamma [D], beta [D] -> y [..., D], h [..., D]"

static const zmi_entry entries[] = {
    {.name = "swiglu",
     .formula = "silu(gate) up of the halves of the last axis; silu(gate) is rounded to the dtype",
     .shapes = HALVES,
     .gradient = "x",
     .definition = &swiglu2_def,
     .sample = "x 512 4096",
     .call = swiglu_call},
    {.name = "geglu",
     .formula = "gelu_tanh(gate) up of the halves of the last axis",
     .shapes = HALVES,
     .gradient = "x",
     .definition = &geglu2_def,
     .sample = "x 512 4096",
     .call = geglu_call},
    {.name = "swiglu2",
     .formula = "silu(gate) up; silu(gate) is rounded to the dtype",
     .shapes = PAIR,
     .gradient = "gate up",
     .definition = &swiglu2_def,
     .sample = "gate 512 2048; up 512 2048",
     .call = swiglu2_call},
    {.name = "geglu2",
     .formula = "gelu_tanh(gate) up",
     .shapes = PAIR,
     .gradient = "gate up",
     .definition = &geglu2_def,
     .sample = "gate 512 2048; up 512 2048",
     .call = geglu2_call},
    {.name = "rmsnorm_residual",
     .formula = "h = x + residual rounded to the dtype; y = rmsnorm(h, weight)",
     .shapes = SUM3,
     .gradient = "x residual weight",
     .parameters = "eps=1e-6",
     .definition = &rmsnorm_residual_def,
     .outputs = 2,
     .sample = "x 1024 2048; residual 1024 2048; weight 2048",
     .call = rmsnorm_residual_call},
    {.name = "fused_add_rmsnorm",
     .formula = "h = x + residual; y = rmsnorm(h, weight), h in float32 inside",
     .shapes = SUM3,
     .gradient = "x residual weight",
     .parameters = "eps=1e-6",
     .definition = &fused_add_rmsnorm_def,
     .outputs = 2,
     .sample = "x 1024 2048; residual 1024 2048; weight 2048",
     .call = fused_add_rmsnorm_call},
    {.name = "layernorm_residual",
     .formula = "h = x + residual rounded to the dtype; y = layernorm(h, gamma, beta)",
     .shapes = SUM4,
     .gradient = "x residual gamma beta",
     .parameters = "eps=1e-5",
     .definition = &layernorm_residual_def,
     .outputs = 2,
     .sample = "x 1024 2048; residual 1024 2048; gamma 2048; beta 2048",
     .call = layernorm_residual_call},
    {.name = "fused_add_layernorm",
     .formula = "h = x + residual; y = layernorm(h, gamma, beta), h in float32 inside",
     .shapes = SUM4,
     .gradient = "x residual gamma beta",
     .parameters = "eps=1e-5",
     .definition = &fused_add_layernorm_def,
     .outputs = 2,
     .sample = "x 1024 2048; residual 1024 2048; gamma 2048; beta 2048",
     .call = fused_add_layernorm_call},
    {.name = "bias_swiglu",
     .formula = "silu(gate + gate bias) (up + up bias) of the halves of x + bias",
     .shapes = "x [..., 2D], bias [2D] -> [..., D]",
     .gradient = "x bias",
     .definition = &bias_swiglu_def,
     .sample = "x 512 4096; bias 4096",
     .call = bias_swiglu_call},
    {.name = "bias_geglu",
     .formula = "gelu_tanh(gate + gate bias) (up + up bias) of the halves of x + bias",
     .shapes = "x [..., 2D], bias [2D] -> [..., D]",
     .gradient = "x bias",
     .definition = &bias_geglu_def,
     .sample = "x 512 4096; bias 4096",
     .call = bias_geglu_call},
};

ZMI_GROUP(transformer, "Gated activations and residual sums with norms.");
