// Running sums.
#include "catalog/catalog.h"

#include <zmlx/ops.h>

ZMI_ROWS(cumsum_lastdim, "x", "y", NULL, "elements { y = cumsum(x); }")

// In the order of running results of arrays, which has several chains of sums at work; the definition above says what is computed.
static zm_array *running(const char *name, const char *operand, zm_array *x, bool reverse) {
  if (!zmi_cat_want_float(name, operand, x) || !zmi_cat_want_rank(name, operand, x, 1)) return NULL;
  return zm_cumsum(x, -1, reverse, true);
}

zm_array *zm_cumsum_lastdim(zm_array *x) {
  return running("cumsum_lastdim", "x", x, false);
}

// The sums from each place to the end.
zm_array *zm_cumsum_grad(zm_array *g) {
  return running("cumsum_grad", "g", g, true);
}

static zm_status lastdim_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_cumsum_lastdim(in[0]);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status grad_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
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
     .sample = "x 1024 2048",
     .call = lastdim_call},
    {.name = "cumsum_grad",
     .formula = "y[i] = g[i] + ... + g[D - 1]",
     .shapes = "g [..., D] -> [..., D]",
     .gradient = "g",
     .sample = "g 1024 2048",
     .call = grad_call},
};

ZMI_GROUP(scan, "Running sums.");
