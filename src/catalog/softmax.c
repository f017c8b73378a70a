// Softmax of rows and its gradient.
#include "catalog/catalog.h"

ZMI_ROWS(softmax_lastdim, "x", "y", NULL,
         "elements { m = max(x); }\n"
         "elements { s = sum(exp(x - m)); }\n"
         "elements { y = exp(x - m) / s; }")
ZMI_ROWS(log_softmax_lastdim, "x", "y", NULL,
         "elements { m = max(x); }\n"
         "elements { s = sum(exp(x - m)); }\n"
         "let l = log(s);\n"
         "elements { y = x - m - l; }")
ZMI_ROWS(softmax_grad, "y g", "dx", NULL,
         "elements { s = sum(g * y); }\n"
         "elements { dx = y * (g - s); }")

static bool good(const char *name, const char *operand, zm_array *x) {
  return zmi_cat_want_float(name, operand, x) && zmi_cat_want_rank(name, operand, x, 1);
}

zm_array *zm_softmax_lastdim(zm_array *x) {
  return good("softmax_lastdim", "x", x) ? zmi_definition_apply1(&softmax_lastdim_def, &x, 1, NULL, 0) : NULL;
}

zm_array *zm_log_softmax_lastdim(zm_array *x) {
  return good("log_softmax_lastdim", "x", x) ? zmi_definition_apply1(&log_softmax_lastdim_def, &x, 1, NULL, 0) : NULL;
}

zm_array *zm_softmax_grad(zm_array *y, zm_array *g) {
  if (!good("softmax_grad", "y", y) || !good("softmax_grad", "g", g)) return NULL;
  return zmi_definition_apply1(&softmax_grad_def, (zm_array *[]){y, g}, 2, NULL, 0);
}

static const zmi_entry entries[] = {
    {.name = "softmax_lastdim",
     .formula = "e^(x - max x) / sum e^(x - max x)",
     .shapes = "x [..., D] -> [..., D]",
     .gradient = "x",
     .definition = &softmax_lastdim_def,
     .sample = "x 1024 2048"},
    {.name = "log_softmax_lastdim",
     .formula = "x - max x - ln sum e^(x - max x)",
     .shapes = "x [..., D] -> [..., D]",
     .gradient = "x",
     .definition = &log_softmax_lastdim_def,
     .sample = "x 1024 2048"},
    {.name = "softmax_grad",
     .formula = "y (g - sum g y)",
     .shapes = "y [..., D], g [..., D] -> [..., D]",
     .gradient = "y g",
     .definition = &softmax_grad_def,
     .sample = "y 1024 2048; g 1024 2048"},
};

ZMI_GROUP(softmax, "Softmax over the last axis.");
