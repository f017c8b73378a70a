// Chains of array operations as users write them, to be compiled by zm_compile into one kernel each.
#include "bench.h"

#include <string.h>

static zm_array *number(double v, const zm_array *like) {
  return zm_full(v, zm_array_dtype(like), NULL, 0);
}

static zm_array *times(double v, zm_array *a) {
  return zm_multiply(number(v, a), a);
}

static zm_status result(zm_array **out, zm_array *y) {
  *out = y;
  return y ? ZM_OK : zm_last_status();
}

#define CHAIN(word) static zm_status word(void *user, zm_array *const *in, int nin, zm_array **out, int nout)
#define UNUSED (void)user, (void)nin, (void)nout

CHAIN(scale_shift_relu) {
  UNUSED;
  return result(out, zm_maximum(zm_add(times(1.5, in[0]), number(0.25, in[0])), number(0, in[0])));
}

CHAIN(clip_normalized) {
  UNUSED;
  zm_array *y = times(2.5, zm_subtract(in[0], number(0.125, in[0])));
  return result(out, zm_minimum(zm_maximum(y, number(-1, in[0])), number(1, in[0])));
}

CHAIN(leaky_relu) {
  UNUSED;
  return result(out, zm_where(zm_greater(in[0], number(0, in[0])), in[0], times(0.01, in[0])));
}

CHAIN(multiply_add) {
  UNUSED;
  return result(out, zm_add(zm_multiply(in[0], in[1]), in[2]));
}

CHAIN(scaled_residual) {
  UNUSED;
  return result(out, zm_add(in[0], times(0.5, in[1])));
}

CHAIN(squared_error) {
  UNUSED;
  return result(out, zm_square(zm_subtract(in[0], in[1])));
}

CHAIN(silu_multiply) {
  UNUSED;
  return result(out, zm_multiply(zm_multiply(in[0], zm_sigmoid(in[0])), in[1]));
}

CHAIN(silu_multiply_residual) {
  UNUSED;
  return result(out, zm_add(zm_multiply(zm_multiply(in[0], zm_sigmoid(in[0])), in[1]), in[2]));
}

CHAIN(bias_relu) {
  UNUSED;
  return result(out, zm_maximum(zm_add(in[0], in[1]), number(0, in[0])));
}

CHAIN(bias_gelu) { // by tanh
  UNUSED;
  zm_array *x = zm_add(in[0], in[1]), *cube = zm_multiply(zm_square(x), x);
  zm_array *t = zm_tanh(times(0.7978845608, zm_add(x, times(0.044715, cube))));
  return result(out, zm_multiply(times(0.5, x), zm_add(number(1, x), t)));
}

CHAIN(soft_cap) {
  UNUSED;
  return result(out, times(30, zm_tanh(times(1.0 / 30, in[0]))));
}

CHAIN(adamw) { // p g m v
  UNUSED;
  zm_array *m = zm_add(times(0.9, in[2]), times(0.1, in[1]));
  zm_array *v = zm_add(times(0.999, in[3]), times(0.001, zm_square(in[1])));
  zm_array *step = zm_divide(m, zm_add(zm_sqrt(v), number(1e-8, v)));
  out[0] = zm_subtract(times(0.99999, in[0]), times(1e-3, step));
  out[1] = m;
  out[2] = v;
  return out[0] && m && v ? ZM_OK : zm_last_status();
}

CHAIN(momentum) { // p g m
  UNUSED;
  out[1] = zm_add(times(0.9, in[2]), in[1]);
  out[0] = zm_subtract(in[0], times(0.01, out[1]));
  return out[0] ? ZM_OK : zm_last_status();
}

const bench_chain bench_chains[] = {
    {"scale_shift_relu", "max(a x + b, 0)", 1, 0, 1, scale_shift_relu},
    {"clip_normalized", "min(max((x - a) b, -1), 1)", 1, 0, 1, clip_normalized},
    {"leaky_relu", "x > 0 ? x : a x", 1, 0, 1, leaky_relu},
    {"bias_relu", "max(x + bias, 0)", 1, 1, 1, bias_relu},
    {"scaled_residual", "x + a y", 2, 0, 1, scaled_residual},
    {"squared_error", "(x - y)^2", 2, 0, 1, squared_error},
    {"multiply_add", "x y + z", 3, 0, 1, multiply_add},
    {"silu_multiply", "silu(x) y", 2, 0, 1, silu_multiply},
    {"silu_multiply_residual", "silu(x) y + z", 3, 0, 1, silu_multiply_residual},
    {"bias_gelu", "gelu(x + bias), by tanh", 1, 1, 1, bias_gelu},
    {"soft_cap", "c tanh(x / c)", 1, 0, 1, soft_cap},
    {"momentum", "m' = b m + g; p' = p - a m'", 3, 0, 2, momentum},
    {"adamw", "one step for p, g, m, v", 4, 0, 3, adamw},
};
const size_t bench_chain_count = ZMI_COUNT(bench_chains);

const bench_chain *bench_chain_find(const char *name) {
  for (size_t i = 0; i < bench_chain_count; i++) {
    if (strcmp(bench_chains[i].name, name) == 0) return &bench_chains[i];
  }
  return NULL;
}
