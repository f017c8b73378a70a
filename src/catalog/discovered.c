// Kernels that were once found by search for one shape of one model; here for any shape.
#include "catalog/ops.h"

ZMI_ELEMENTS(glm_fused_swiglu, "gate up", NULL, "silu(gate) * up")
ZMI_ROWS(glm_rmsnorm, "x w", "y", "eps", "elements { q = sumsq(x); }\nlet r = 1.0f / sqrt(q / D + eps);\nelements { y = x * r * w; }")

zm_array *zm_glm_fused_swiglu(zm_array *gate, zm_array *up) {
  if (!zmi_cat_want_float("glm_fused_swiglu", "gate", gate) || !zmi_cat_want_float("glm_fused_swiglu", "up", up)) return NULL;
  return zmi_definition_apply1(&glm_fused_swiglu_def, (zm_array *[]){gate, up}, 2, NULL, 0);
}

zm_array *zm_glm_rmsnorm(zm_array *x, zm_array *weight, double eps) {
  if (!zmi_cat_want_eps("glm_rmsnorm", eps) || !zmi_cat_want_float("glm_rmsnorm", "x", x) || !zmi_cat_want_rank("glm_rmsnorm", "x", x, 1))
    return NULL;
  if (!zmi_cat_want_float("glm_rmsnorm", "weight", weight) || !zmi_cat_want("glm_rmsnorm", "weight", weight, 1, zmi_cat_last(x)))
    return NULL;
  return zmi_definition_apply1(&glm_rmsnorm_def, (zm_array *[]){x, weight}, 2, &eps, 1);
}

zm_status zm_glm_topk_gating(zm_array *logits, int k, zm_array **weights, zm_array **indices) {
  return zm_topk_gating_softmax(logits, k, NULL, true, weights, indices);
}

static zm_status combine_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_glm_moe_combine(in[0], in[1]);
  return zmi_cat_status(out[0]);
}

static zm_status rmsnorm_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  out[0] = zm_glm_rmsnorm(in[0], in[1], params[0].real);
  return zmi_cat_status(out[0]);
}

static zm_status topk_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  return zm_glm_topk_gating(in[0], (int)params[0].whole, &out[0], &out[1]);
}

static const zmi_entry entries[] = {
    {.name = "glm_moe_combine",
     .formula = "((w[0] y[0] + w[1] y[1]) + w[2] y[2]) + ..., products and sums rounded to the dtype",
     .shapes = "y [..., K, D], weights [..., K] -> [..., D]",
     .gradient = "y weights",
     .sample = "y 64 4 2048; weights 64 4",
     .call = combine_call},
    {.name = "glm_fused_swiglu",
     .formula = "silu(gate) up, rounded once",
     .shapes = "gate [...], up [...] -> [...]",
     .gradient = "gate up",
     .definition = &glm_fused_swiglu_def,
     .sample = "gate 512 1536; up 512 1536"},
    {.name = "glm_rmsnorm",
     .formula = "x / sqrt(mean x^2 + eps) weight",
     .shapes = "x [..., D], weight [D] -> [..., D]",
     .gradient = "x weight",
     .parameters = "eps=1e-5",
     .definition = &glm_rmsnorm_def,
     .sample = "x 1024 2048; weight 2048",
     .call = rmsnorm_call},
    {.name = "glm_topk_gating",
     .formula = "the k largest logits in falling order, softmax over them",
     .shapes = "logits [..., E] -> weights [..., k], indices [..., k]",
     .dtypes = "logits any float, computed in float32 -> float32, uint32",
     .gradient = "logits",
     .parameters = "k=4 integer 1..",
     .outputs = 2,
     .sample = "logits 256 64",
     .call = topk_call},
};

ZMI_GROUP(discovered, "Kernels that were once found by search for one shape; here for any.");
