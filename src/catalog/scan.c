// Running sums.
#include "catalog/catalog.h"

ZMI_ROWS(cumsum_lastdim, "x", "y", NULL, "elements { y = cumsum(x); }")

zm_array *zm_cumsum_lastdim(zm_array *x) {
  if (!zmi_cat_want_float("cumsum_lastdim", "x", x) || !zmi_cat_want_rank("cumsum_lastdim", "x", x, 1)) return NULL;
  return zmi_definition_apply1(&cumsum_lastdim_def, &x, 1, NULL, 0);
}

// The sums from each place to the end: the running sum of the row read backwards.
static zm_array *backwards(zm_array *x) {
  int64_t n = zmi_cat_last(x);
  if (n < 2) return x;
  zm_array *places = zm_arange((double)n - 1, -1, -1, ZM_I32);
  int axes[ZM_MAX_RANK], rank = x->type.rank;
  for (int i = 0; i < rank; i++) axes[i] = i;
  axes[0] = rank - 1;
  axes[rank - 1] = 0;
  return zm_transpose(zm_take(zm_transpose(x, axes), places), axes);
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
