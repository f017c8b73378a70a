// Reductions of the last axis.
#include "catalog/catalog.h"

ZMI_ROWS(sum_lastdim, "x", "y", NULL, "elements { s = sum(x); }\ny = s;")
ZMI_ROWS(mean_lastdim, "x", "y", NULL, "elements { s = sum(x); }\ny = s / D;")
// Kahan's sum visits the places in rising order and carries what rounding lost.
ZMI_ROWS(mean_kahan_lastdim, "x", "y", NULL,
         "float total = 0.0f;\nfloat lost = 0.0f;\n"
         "elements { let v = x - lost; let t = total + v; lost = (t - total) - v; total = t; }\n"
         "y = total / D;")
ZMI_ROWS(max_lastdim, "x", "y", NULL, "elements { m = max(x); }\ny = m;")
ZMI_ROWS(var_lastdim, "x", "y", NULL,
         "elements { s = sum(x); }\nlet mean = s / D;\nelements { q = sum((x - mean) * (x - mean)); }\ny = q / D;")
ZMI_ROWS(std_lastdim, "x", "y", "eps",
         "elements { s = sum(x); }\nlet mean = s / D;\nelements { q = sum((x - mean) * (x - mean)); }\ny = sqrt(q / D + eps);")
static zmi_definition argmax_lastdim_def = {.name = "argmax_lastdim",
                                            .form = ZMI_FORM_ROWS,
                                            .inputs = "x",
                                            .outputs = "y",
                                            .source = "elements { a = argmax(x); }\ny = uint(a);",
                                            .result = {ZM_U32}};

static bool good(const char *name, zm_array *x) {
  char found[128];
  if (!zmi_cat_want_float(name, "x", x) || !zmi_cat_want_rank(name, "x", x, 1)) return false;
  if (zmi_cat_last(x) > 0) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: x: the last axis is empty, found %s", name, zmi_type_text(&x->type, found));
  return false;
}

zm_array *zm_sum_lastdim(zm_array *x) {
  if (!zmi_cat_want_float("sum_lastdim", "x", x) || !zmi_cat_want_rank("sum_lastdim", "x", x, 1)) return NULL;
  return zmi_definition_apply1(&sum_lastdim_def, &x, 1, NULL, 0);
}

zm_array *zm_mean_lastdim(zm_array *x, bool kahan) {
  if (!good("mean_lastdim", x)) return NULL;
  return zmi_definition_apply1(kahan ? &mean_kahan_lastdim_def : &mean_lastdim_def, &x, 1, NULL, 0);
}

zm_array *zm_max_lastdim(zm_array *x) {
  return good("max_lastdim", x) ? zmi_definition_apply1(&max_lastdim_def, &x, 1, NULL, 0) : NULL;
}

zm_array *zm_var_lastdim(zm_array *x) {
  return good("var_lastdim", x) ? zmi_definition_apply1(&var_lastdim_def, &x, 1, NULL, 0) : NULL;
}

zm_array *zm_std_lastdim(zm_array *x, double eps) {
  return zmi_cat_want_eps("std_lastdim", eps) && good("std_lastdim", x) ? zmi_definition_apply1(&std_lastdim_def, &x, 1, &eps, 1) : NULL;
}

zm_array *zm_argmax_lastdim(zm_array *x) {
  return good("argmax_lastdim", x) ? zmi_definition_apply1(&argmax_lastdim_def, &x, 1, NULL, 0) : NULL;
}

static zm_status mean_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  out[0] = zm_mean_lastdim(in[0], params[0].whole != 0);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status topk_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  return zm_topk_lastdim(in[0], (int)params[0].whole, &out[0], &out[1]);
}

// The public functions, so that the table refuses what they refuse.
#define CALL(word)                                                                                                                         \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin, (void)params;                                                                                                               \
    out[0] = zm_##word(in[0]);                                                                                                             \
    return out[0] ? ZM_OK : zm_last_status();                                                                                              \
  }
CALL(sum_lastdim)
CALL(max_lastdim)
CALL(var_lastdim)
CALL(argmax_lastdim)

static zm_status std_lastdim_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  out[0] = zm_std_lastdim(in[0], params[0].real);
  return out[0] ? ZM_OK : zm_last_status();
}

#define ONE(word, text, grad)                                                                                                              \
  {                                                                                                                                        \
    .name = #word, .formula = text, .shapes = "x [..., D] -> [...]", .gradient = grad, .definition = &word##_def, .sample = "x 1024 2048", \
    .call = word##_call                                                                                                                    \
  }

static const zmi_entry entries[] = {
    ONE(sum_lastdim, "sum x", "x"),
    {.name = "mean_lastdim",
     .formula = "sum x / D; with kahan a compensated sum in rising order",
     .shapes = "x [..., D] -> [...]",
     .gradient = "x",
     .parameters = "kahan=0 integer 0..1",
     .definition = &mean_lastdim_def,
     .sample = "x 1024 2048",
     .call = mean_call},
    ONE(max_lastdim, "max x; NaN if one is NaN", "x"),
    ONE(var_lastdim, "mean (x - mean x)^2", "x"),
    {.name = "std_lastdim",
     .formula = "sqrt(mean (x - mean x)^2 + eps)",
     .shapes = "x [..., D] -> [...]",
     .gradient = "x",
     .parameters = "eps=1e-6",
     .definition = &std_lastdim_def,
     .sample = "x 1024 2048",
     .call = std_lastdim_call},
    ONE(argmax_lastdim, "place of the largest x, uint32: the lowest among equals, the first NaN if there is one",
        "none: results are integers"),
    {.name = "topk_lastdim",
     .formula = "the k largest x in falling order and their places (uint32): NaN below everything, the lowest place among equals",
     .shapes = "x [..., D] -> values [..., k], places [..., k]",
     .gradient = "x",
     .parameters = "k=4 integer 1..",
     .outputs = 2,
     .sample = "x 1024 2048",
     .call = topk_call},
};

ZMI_GROUP(reductions, "Reductions of the last axis.");
