// Running sums.
#include "catalog/catalog.h"

#include <zmlx/ops.h>

ZMI_ROWS(cumsum_lastdim, "x", "y", NULL, "elements { y = cumsum(x); }")

zm_array *zm_cumsum_lastdim(zm_array *x) {
  if (!zmi_cat_want_float("cumsum_lastdim", "x", x) || !zmi_cat_want_rank("cumsum_lastdim", "x", x, 1)) return NULL;
  return zmi_definition_apply1(&cumsum_lastdim_def, &x, 1, NULL, 0);
}

// The sums from each place to the end: the running sum of the row read backwards.
static zm_array *backwards(zm_array *x) {
  return zm_flip(x, (const int[]){-1}, 1);
}

zm_array *zm_cumsum_grad(zm_array *g) {
  if (!zmi_cat_want_float("cumsum_grad", "g", g) || !zmi_cat_want_rank("cumsum_grad", "g", g, 1)) return NULL;
  zm_array *y = backwards(g);
  return y ? backwards(zm_cumsum_lastdim(y)) : NULL;
}

static zm_status grad_call(zm_array *const *in, int nin, const double *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_cumsum_grad(in[0]);
  return out[0] ? ZM_OK : zm_last_status();
}

static const zmi_entry entries[] = {
    {.name = "cumsum_lastdim",
     .formula = "y[i] = x[0] + ... + x[i]",
     .shapes = "x [..., D] -> [..., D]",
     .gradient = "x",
     .definition = &cumsum_lastdim_def,
     .sample = "x 1024 2048"},
    {.name = "cumsum_grad",
     .formula = "y[i] = g[i] + ... + g[D - 1]",
     .shapes = "g [..., D] -> [..., D]",
     .gradient = "g",
     .sample = "g 1024 2048",
     .call = grad_call},
};

ZMI_GROUP(scan, "Running sums.");
