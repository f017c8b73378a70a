// Kernels of recurrent latent reasoning.
#include "catalog/catalog.h"

ZMI_ROWS(fused_recurrent_step, "h w gate alpha", "y", "eps",
         "elements { q = sumsq(h); }\n"
         "let r = 1.0f / sqrt(q / D + eps);\n"
         "elements { y = h + alpha * silu(h * r * w) * gate; }")
ZMI_ELEMENTS(depth_gate_sigmoid, "x", "k_max", "sigmoid(x) * k_max")
ZMI_ROWS(grpo_advantage_norm, "r", "a", "eps",
         "elements { s = sum(r); }\nlet mean = s / D;\nelements { q = sumsq(r - mean); }\n"
         "let k = 1.0f / sqrt(q / D + eps);\nelements { a = (r - mean) * k; }")
ZMI_ELEMENTS(silu_mul_residual, "gate up residual", NULL, "silu(gate) * up + residual")

zm_array *zm_fused_recurrent_step(zm_array *h, zm_array *weight, zm_array *gate, zm_array *alpha, double eps) {
  const char *name = "fused_recurrent_step";
  if (!zmi_cat_want_eps(name, eps)) return NULL;
  if (!zmi_cat_want_float(name, "h", h) || !zmi_cat_want_rank(name, "h", h, 1) || !zmi_cat_want_float(name, "gate", gate)) return NULL;
  if (!zmi_cat_want_float(name, "weight", weight) || !zmi_cat_want(name, "weight", weight, 1, zmi_cat_last(h))) return NULL;
  if (!zmi_cat_want_float(name, "alpha", alpha)) return NULL;
  if (zm_array_size(alpha) != 1) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: alpha: expected one number, found %lld", name, (long long)zm_array_size(alpha));
    return NULL;
  }
  return zmi_definition_apply1(&fused_recurrent_step_def, (zm_array *[]){h, weight, gate, zmi_cat_reshape(alpha, 1, (int64_t)1)}, 4, &eps,
                               1);
}

zm_array *zm_depth_gate_sigmoid(zm_array *x, double k_max) {
  return zmi_cat_want_float("depth_gate_sigmoid", "x", x) ? zmi_definition_apply1(&depth_gate_sigmoid_def, &x, 1, &k_max, 1) : NULL;
}

zm_array *zm_grpo_advantage_norm(zm_array *rewards, double eps) {
  if (!zmi_cat_want_eps("grpo_advantage_norm", eps)) return NULL;
  if (!zmi_cat_want_float("grpo_advantage_norm", "rewards", rewards) || !zmi_cat_want_rank("grpo_advantage_norm", "rewards", rewards, 1))
    return NULL;
  return zmi_definition_apply1(&grpo_advantage_norm_def, &rewards, 1, &eps, 1);
}

zm_array *zm_silu_mul_residual(zm_array *gate, zm_array *up, zm_array *residual) {
  if (!zmi_cat_want_float("silu_mul_residual", "gate", gate) || !zmi_cat_want_float("silu_mul_residual", "up", up)) return NULL;
  if (!zmi_cat_want_float("silu_mul_residual", "residual", residual)) return NULL;
  return zmi_definition_apply1(&silu_mul_residual_def, (zm_array *[]){gate, up, residual}, 3, NULL, 0);
}

static zm_status step_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  out[0] = zm_fused_recurrent_step(in[0], in[1], in[2], in[3], params[0].real);
  return out[0] ? ZM_OK : zm_last_status();
}

static const zmi_entry entries[] = {
    {.name = "fused_recurrent_step",
     .formula = "h + alpha silu(rmsnorm(h, weight)) gate",
     .shapes = "h [..., D], weight [D], gate [..., D], alpha [1] -> [..., D]",
     .gradient = "h weight gate alpha",
     .parameters = "eps=1e-6",
     .definition = &fused_recurrent_step_def,
     .sample = "h 512 2048 grows; weight 2048; gate 512 2048 grows; alpha 1",
     .call = step_call},
    {.name = "depth_gate_sigmoid",
     .formula = "k_max sigmoid(x)",
     .shapes = "x [...] -> [...]",
     .gradient = "x",
     .parameters = "k_max=8",
     .definition = &depth_gate_sigmoid_def,
     .sample = "x 1024 1024"},
    {.name = "grpo_advantage_norm",
     .formula = "(r - mean r) / sqrt(mean (r - mean r)^2 + eps)",
     .shapes = "r [..., G] -> [..., G]",
     .gradient = "r",
     .parameters = "eps=1e-6",
     .definition = &grpo_advantage_norm_def,
     .sample = "r 4096 64"},
    {.name = "silu_mul_residual",
     .formula = "silu(gate) up + residual",
     .shapes = "gate [...], up [...], residual [...] -> [...]",
     .gradient = "gate up residual",
     .definition = &silu_mul_residual_def,
     .sample = "gate 1024 1024; up 1024 1024; residual 1024 1024"},
};

ZMI_GROUP(vlsp, "Kernels of recurrent latent reasoning.");
