// Norms over the last axis, their gradients, with dropout and with a residual sum.
#include "catalog/catalog.h"

// Sums of squares are by fma in the lane order, those of the models' rms_norm. The variance of a layer norm is the mean of squared
// distances from the mean, so that a large mean does not cancel.
#define INV_RMS "elements { q = sumsq(x); }\nlet r = 1.0f / sqrt(q / D + eps);\n"
#define MEAN_VAR "elements { s = sum(x); }\nlet mean = s / D;\nelements { q = sumsq(x - mean); }\nlet r = 1.0f / sqrt(q / D + eps);\n"

ZMI_ROWS(rmsnorm, "x w", "y", "eps", INV_RMS "elements { y = x * r * w; }")
ZMI_ROWS(rms_norm_no_weight, "x", "y", "eps", INV_RMS "elements { y = x * r; }")
// The gradient by x of sum(cotan * rmsnorm(x)).
ZMI_ROWS(rmsnorm_grad, "x w cotan", "dx", "eps",
         INV_RMS "elements { d = sum(cotan * w * x); }\n"
                 "let k = d * r * r * r / D;\n"
                 "elements { dx = cotan * w * r - x * k; }")
ZMI_ROWS(layernorm, "x gamma beta", "y", "eps", MEAN_VAR "elements { y = (x - mean) * r * gamma + beta; }")
ZMI_ROWS(layer_norm_no_weight, "x", "y", "eps", MEAN_VAR "elements { y = (x - mean) * r; }")

// One step of a linear congruential generator on seed + index; its low 24 bits are the random number.
#define DRAW                                                                                                                               \
  "let u = (seed + start + uint(i)) * 1664525u + 1013904223u; let keep = float(u & 16777215u) * 0x1p-24f >= p; let c = 1.0f / (1.0f - p);"
ZMI_ROWS(layer_norm_dropout, "x gamma beta start seed", "y", "p eps",
         MEAN_VAR "elements { " DRAW " y = keep ? ((x - mean) * r * gamma + beta) * c : 0.0f; }")
ZMI_ROWS(rms_norm_dropout, "x w start seed", "y", "p eps", INV_RMS "elements { " DRAW " y = keep ? x * r * w * c : 0.0f; }")
ZMI_ROWS(dropout, "x start seed", "y", "p", "elements { " DRAW " y = keep ? x * c : 0.0f; }")

// h is the sum in float32, as the norm sees it; as a result it is rounded once.
ZMI_ROWS(residual_rmsnorm, "x res w", "y", "eps",
         "elements { let h = x + res; q = sumsq(h); }\n"
         "let r = 1.0f / sqrt(q / D + eps);\n"
         "elements { y = (x + res) * r * w; }")
ZMI_ROWS(add_rms_norm, "x res w", "y h", "eps", ZMI_ADD_RMS_NORM)

// x [..., D] and vectors of its last axis.
static bool good(const char *name, zm_array *x, int count, zm_array *const *vectors, const char *const *names) {
  if (!zmi_cat_want_float(name, "x", x) || !zmi_cat_want_rank(name, "x", x, 1)) return false;
  for (int i = 0; i < count; i++) {
    if (!zmi_cat_want_float(name, names[i], vectors[i]) || !zmi_cat_want(name, names[i], vectors[i], 1, zmi_cat_last(x))) return false;
  }
  return true;
}

static bool same(const char *name, const char *operand, zm_array *a, zm_array *x) {
  char expected[128], found[128];
  if (!zmi_cat_want_float(name, operand, a)) return false;
  zmi_type t = a->type;
  t.dtype = x->type.dtype;
  if (zmi_type_equal(&t, &x->type)) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected the shape of x, %s, found %s", name, operand, zmi_type_text(&x->type, expected),
           zmi_type_text(&a->type, found));
  return false;
}

// The same of a norm.
static bool good_norm(const char *name, zm_array *x, int count, zm_array *const *vectors, const char *const *names, double eps) {
  return zmi_cat_want_eps(name, eps) && good(name, x, count, vectors, names);
}

static const char *const weight_name[] = {"weight"}, *const affine_names[] = {"gamma", "beta"};

zm_array *zm_rmsnorm(zm_array *x, zm_array *weight, double eps) {
  if (!good_norm("rmsnorm", x, 1, &weight, weight_name, eps)) return NULL;
  return zmi_definition_apply1(&rmsnorm_def, (zm_array *[]){x, weight}, 2, &eps, 1);
}

zm_array *zm_rmsnorm_grad(zm_array *x, zm_array *weight, zm_array *cotan, double eps) {
  if (!good_norm("rmsnorm_grad", x, 1, &weight, weight_name, eps) || !same("rmsnorm_grad", "cotan", cotan, x)) return NULL;
  return zmi_definition_apply1(&rmsnorm_grad_def, (zm_array *[]){x, weight, cotan}, 3, &eps, 1);
}

zm_array *zm_rms_norm_no_weight(zm_array *x, double eps) {
  return good_norm("rms_norm_no_weight", x, 0, NULL, NULL, eps) ? zmi_definition_apply1(&rms_norm_no_weight_def, &x, 1, &eps, 1) : NULL;
}

zm_array *zm_layernorm(zm_array *x, zm_array *gamma, zm_array *beta, double eps) {
  if (!good_norm("layernorm", x, 2, (zm_array *[]){gamma, beta}, affine_names, eps)) return NULL;
  return zmi_definition_apply1(&layernorm_def, (zm_array *[]){x, gamma, beta}, 3, &eps, 1);
}

zm_array *zm_layer_norm_no_weight(zm_array *x, double eps) {
  return good_norm("layer_norm_no_weight", x, 0, NULL, NULL, eps) ? zmi_definition_apply1(&layer_norm_no_weight_def, &x, 1, &eps, 1) : NULL;
}

// The number of the first element of each row, uint32 [..., 1]; it wraps around.
static zm_array *starts(zm_array *x) {
  int64_t rows = zmi_cat_leading(x, 1), shape[ZM_MAX_RANK];
  for (int i = 0; i < x->type.rank; i++) shape[i] = x->type.shape[i];
  shape[x->type.rank - 1] = 1;
  zm_array *row = zm_arange(0, (double)rows, 1, ZM_U32);
  return zm_reshape(zm_multiply(row, zmi_cat_uint((uint32_t)zmi_cat_last(x))), shape, x->type.rank);
}

static bool chance(const char *name, double p) {
  if (p >= 0 && p < 1) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: p: expected a chance in [0, 1), found %g", name, p);
  return false;
}

zm_array *zm_layer_norm_dropout(zm_array *x, zm_array *gamma, zm_array *beta, double p, uint32_t seed, double eps) {
  if (!chance("layer_norm_dropout", p) || !good_norm("layer_norm_dropout", x, 2, (zm_array *[]){gamma, beta}, affine_names, eps))
    return NULL;
  return zmi_definition_apply1(&layer_norm_dropout_def, (zm_array *[]){x, gamma, beta, starts(x), zmi_cat_uint(seed)}, 5,
                               (double[]){p, eps}, 2);
}

zm_array *zm_rms_norm_dropout(zm_array *x, zm_array *weight, double p, uint32_t seed, double eps) {
  if (!chance("rms_norm_dropout", p) || !good_norm("rms_norm_dropout", x, 1, &weight, weight_name, eps)) return NULL;
  return zmi_definition_apply1(&rms_norm_dropout_def, (zm_array *[]){x, weight, starts(x), zmi_cat_uint(seed)}, 4, (double[]){p, eps}, 2);
}

zm_array *zm_dropout(zm_array *x, double p, uint32_t seed) {
  if (!chance("dropout", p) || !good("dropout", x, 0, NULL, NULL)) return NULL;
  return zmi_definition_apply1(&dropout_def, (zm_array *[]){x, starts(x), zmi_cat_uint(seed)}, 3, &p, 1);
}

zm_array *zm_residual_rmsnorm(zm_array *x, zm_array *residual, zm_array *weight, double eps) {
  if (!good_norm("residual_rmsnorm", x, 1, &weight, weight_name, eps) || !same("residual_rmsnorm", "residual", residual, x)) return NULL;
  return zmi_definition_apply1(&residual_rmsnorm_def, (zm_array *[]){x, residual, weight}, 3, &eps, 1);
}

zm_status zm_add_rms_norm(zm_array *x, zm_array *residual, zm_array *weight, double eps, zm_array **normed, zm_array **sum) {
  zm_array *out[2];
  if (!good_norm("add_rms_norm", x, 1, &weight, weight_name, eps) || !same("add_rms_norm", "residual", residual, x))
    return zm_last_status();
  zm_status status = zmi_definition_apply(&add_rms_norm_def, (zm_array *[]){x, residual, weight}, 3, &eps, 1, out, 2);
  if (status == ZM_OK) *normed = out[0], *sum = out[1];
  return status;
}

#define CALL(word, ...)                                                                                                                    \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin;                                                                                                                             \
    out[0] = zm_##word(__VA_ARGS__);                                                                                                       \
    return out[0] ? ZM_OK : zm_last_status();                                                                                              \
  }
CALL(rmsnorm, in[0], in[1], params[0].real)
CALL(rmsnorm_grad, in[0], in[1], in[2], params[0].real)
CALL(layernorm, in[0], in[1], in[2], params[0].real)
CALL(layer_norm_dropout, in[0], in[1], in[2], params[0].real, (uint32_t)params[1].whole, params[2].real)
CALL(rms_norm_dropout, in[0], in[1], params[0].real, (uint32_t)params[1].whole, params[2].real)
CALL(dropout, in[0], params[0].real, (uint32_t)params[1].whole)
CALL(residual_rmsnorm, in[0], in[1], in[2], params[0].real)

static zm_status add_rms_norm_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  return zm_add_rms_norm(in[0], in[1], in[2], params[0].real, &out[0], &out[1]);
}

static const zmi_entry entries[] = {
    {.name = "rmsnorm",
     .formula = "x / sqrt(mean x^2 + eps) weight",
     .shapes = "x [..., D], weight [D] -> [..., D]",
     .gradient = "x weight",
     .parameters = "eps=1e-6",
     .definition = &rmsnorm_def,
     .sample = "x 1024 2048; weight 2048",
     .call = rmsnorm_call},
    {.name = "rmsnorm_grad",
     .formula = "cotan weight r - x r^3 mean(cotan weight x), r = 1 / sqrt(mean x^2 + eps)",
     .shapes = "x [..., D], weight [D], cotan [..., D] -> [..., D]",
     .gradient = "x weight cotan",
     .parameters = "eps=1e-6",
     .definition = &rmsnorm_grad_def,
     .sample = "x 1024 2048; weight 2048; cotan 1024 2048",
     .call = rmsnorm_grad_call},
    {.name = "rms_norm_no_weight",
     .formula = "x / sqrt(mean x^2 + eps)",
     .shapes = "x [..., D] -> [..., D]",
     .gradient = "x",
     .parameters = "eps=1e-6",
     .definition = &rms_norm_no_weight_def,
     .sample = "x 1024 2048"},
    {.name = "layernorm",
     .formula = "(x - mean) / sqrt(mean (x - mean)^2 + eps) gamma + beta",
     .shapes = "x [..., D], gamma [D], beta [D] -> [..., D]",
     .gradient = "x gamma beta",
     .parameters = "eps=1e-5",
     .definition = &layernorm_def,
     .sample = "x 1024 2048; gamma 2048; beta 2048",
     .call = layernorm_call},
    {.name = "layer_norm_no_weight",
     .formula = "(x - mean) / sqrt(mean (x - mean)^2 + eps)",
     .shapes = "x [..., D] -> [..., D]",
     .gradient = "x",
     .parameters = "eps=1e-5",
     .definition = &layer_norm_no_weight_def,
     .sample = "x 1024 2048"},
    {.name = "layer_norm_dropout",
     .formula = "dropout(layernorm(x, gamma, beta))",
     .shapes = "x [..., D], gamma [D], beta [D] -> [..., D]",
     .gradient = "x gamma beta",
     .parameters = "p=0.25, seed=7 integer 0..4294967295, eps=1e-5",
     .definition = &layer_norm_dropout_def,
     .sample = "x 1024 2048; gamma 2048; beta 2048",
     .call = layer_norm_dropout_call},
    {.name = "rms_norm_dropout",
     .formula = "dropout(rmsnorm(x, weight))",
     .shapes = "x [..., D], weight [D] -> [..., D]",
     .gradient = "x weight",
     .parameters = "p=0.25, seed=7 integer 0..4294967295, eps=1e-6",
     .definition = &rms_norm_dropout_def,
     .sample = "x 1024 2048; weight 2048",
     .call = rms_norm_dropout_call},
    {.name = "dropout",
     .formula = "x / (1 - p) where u >= p, else 0; u = ((seed + index) 1664525 + 1013904223) mod 2^24 / 2^24",
     .shapes = "x [..., D] -> [..., D]",
     .gradient = "x",
     .parameters = "p=0.25, seed=7 integer 0..4294967295",
     .definition = &dropout_def,
     .sample = "x 1024 2048",
     .call = dropout_call},
    {.name = "residual_rmsnorm",
     .formula = "rmsnorm(x + residual, weight), the sum in float32",
     .shapes = "x [..., D], residual [..., D], weight [D] -> [..., D]",
     .gradient = "x residual weight",
     .parameters = "eps=1e-6",
     .definition = &residual_rmsnorm_def,
     .sample = "x 1024 2048; residual 1024 2048; weight 2048",
     .call = residual_rmsnorm_call},
    {.name = "add_rms_norm",
     .formula = "h = x + residual; y = rmsnorm(h, weight), h in float32 inside",
     .shapes = "x [..., D], residual [..., D], weight [D] -> y [..., D], h [..., D]",
     .gradient = "x residual weight",
     .parameters = "eps=1e-6",
     .definition = &add_rms_norm_def,
     .outputs = 2,
     .sample = "x 1024 2048; residual 1024 2048; weight 2048",
     .call = add_rms_norm_call},
};

ZMI_GROUP(norms, "Norms over the last axis.");
