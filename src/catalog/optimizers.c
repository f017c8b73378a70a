// One step of AdamW.
#include "catalog/catalog.h"

#include <float.h>

// One number for all elements.
static zmi_definition adamw_rest_def = {.name = "adamw_rest",
                                        .form = ZMI_FORM_ELEMENTS,
                                        .inputs = "step",
                                        .outputs = "y",
                                        .parameters = "beta",
                                        .source = "y = 1.0f - pow(beta, step);",
                                        .result = {ZM_F32}};

static zmi_definition adamw_def = {.name = "adamw_step",
                                   .form = ZMI_FORM_ELEMENTS,
                                   .inputs = "p g m v lr rest1 rest2",
                                   .outputs = "p_new m_new v_new",
                                   .parameters = "beta1 beta2 eps decay",
                                   .source = "let a = beta1 * m + (1.0f - beta1) * g;\n"
                                             "let b = beta2 * v + (1.0f - beta2) * g * g;\n"
                                             "let m_hat = a / rest1;\n"
                                             "let v_hat = b / rest2;\n"
                                             "p_new = p - lr * (m_hat / (sqrt(v_hat) + eps) + decay * p);\n"
                                             "m_new = a;\n"
                                             "v_new = b;"};

// 0 is what was not said, ZM_NONE is 0. False where the number is of no use.
static bool option(double given, double usual, double below, double *value) {
  *value = given == 0 ? usual : given == ZM_NONE ? 0 : given;
  return *value >= 0 && *value < below;
}

static zm_status read_options(const zm_adamw_options *options, double params[4]) {
  const zm_adamw_options o = options ? *options : (zm_adamw_options){0};
  const struct {
    const char *name;
    double given, usual, below;
  } rows[] = {{"beta1", o.beta1, 0.9, 1},
              {"beta2", o.beta2, 0.999, 1},
              {"eps", o.eps, 1e-8, DBL_MAX},
              {"weight_decay", o.no_decay ? ZM_NONE : o.weight_decay, 0.01, DBL_MAX}};
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    if (option(rows[i].given, rows[i].usual, rows[i].below, &params[i])) continue;
    return zmi_fail(ZM_ERROR_ARGUMENT, "adamw_step: %s is %g: expected 0 for the usual value, ZM_NONE, or a positive number%s",
                    rows[i].name, rows[i].given, rows[i].below == 1 ? " below 1" : "");
  }
  return ZM_OK;
}

zm_status zm_adamw_step(zm_array *p, zm_array *g, zm_array *m, zm_array *v, zm_array *lr, zm_array *step, const zm_adamw_options *options,
                        zm_array **p_new, zm_array **m_new, zm_array **v_new) {
  double params[4];
  if (read_options(options, params) != ZM_OK) return zm_last_status();
  zm_array *in[7] = {p, g, m, v, lr, step}, *out[3];
  static const char *const names[] = {"p", "g", "m", "v", "lr", "step"};
  for (int i = 0; i < 6; i++) {
    if (!zmi_cat_want_float("adamw_step", names[i], in[i])) return zm_last_status();
    if (i > 0 && i < 4 && (in[i]->type.rank != p->type.rank || zm_array_size(in[i]) != zm_array_size(p))) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "adamw_step: %s: expected the shape of p", names[i]);
    }
    if (i >= 4 && zm_array_size(in[i]) != 1) return zmi_fail(ZM_ERROR_ARGUMENT, "adamw_step: %s: expected one number", names[i]);
    if (i >= 4) in[i] = zm_reshape(in[i], NULL, 0);
  }
  in[6] = zmi_definition_apply1(&adamw_rest_def, &in[5], 1, &params[1], 1);
  in[5] = zmi_definition_apply1(&adamw_rest_def, &in[5], 1, &params[0], 1);
  if (!in[5] || !in[6]) return zm_last_status();
  zm_status status = zmi_definition_apply(&adamw_def, in, 7, params, 4, out, 3);
  if (status == ZM_OK) *p_new = out[0], *m_new = out[1], *v_new = out[2];
  return status;
}

static zm_status adamw_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  if (!(params[1].real >= 1)) return zmi_fail(ZM_ERROR_ARGUMENT, "adamw_step: step: expected a number from 1 up, found %g", params[1].real);
#define EXACT(v) ((v) == 0 ? ZM_NONE : (v))
  zm_adamw_options o = {
      .beta1 = EXACT(params[2].real), .beta2 = EXACT(params[3].real), .eps = EXACT(params[4].real), .weight_decay = EXACT(params[5].real)};
#undef EXACT
  return zm_adamw_step(in[0], in[1], in[2], in[3], zmi_cat_scalar(params[0].real), zmi_cat_scalar(params[1].real), &o, &out[0], &out[1],
                       &out[2]);
}

static const zmi_entry entries[] = {
    {.name = "adamw_step",
     .formula = "m' = b1 m + (1 - b1) g; v' = b2 v + (1 - b2) g^2; p' = p - lr (m'/(1 - b1^step) / (sqrt(v'/(1 - b2^step)) + eps) + wd p)",
     .shapes = "p [...], g [...], m [...], v [...], lr [], step [] -> p' [...], m' [...], v' [...]",
     .gradient = "p g m v: lr and step too",
     .parameters = "lr=0.01, step=3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01",
     .definition = &adamw_def,
     .outputs = 3,
     .sample = "p 1024 1024; g 1024 1024; m 1024 1024; v 1024 1024 positive",
     .call = adamw_call},
};

ZMI_GROUP(optimizers, "Steps of optimizers.");
