// A fused norm: the sum with the residual stream, its root mean square and the weight, in one pass over each row, beside the same
// composed of operations.
#include <math.h>
#include <stdio.h>
#include <zmlx/zmlx.h>

enum { ROWS = 64, WIDTH = 1024 };

static const char source[] = "elements { h = x + residual; q = sum(h * h); }"
                             "let r = rsqrt(q / D + 1e-5);"
                             "elements { let s = x + residual; y = s * r * w; stream = s; }";

static zm_array *ramp(int64_t rows, int64_t width, double step) {
  zm_array *a = zm_arange(0, (double)(rows * width), 1, ZM_F32);
  a = zm_multiply(a, zm_full(step, ZM_F32, NULL, 0));
  a = zm_subtract(a, zm_floor(a)); // the fraction
  return zm_reshape(a, (int64_t[]){rows, width}, 2);
}

static zm_array *composed(zm_array *x, zm_array *residual, zm_array *w) {
  zm_array *h = zm_add(x, residual);
  zm_array *mean = zm_mean(zm_multiply(h, h), -1, true);
  return zm_multiply(zm_multiply(h, zm_rsqrt(zm_add(mean, zm_full(1e-5, ZM_F32, NULL, 0)))), w);
}

static bool compare(const zm_op *norm) {
  zm_array *x = ramp(ROWS, WIDTH, 0.37), *residual = ramp(ROWS, WIDTH, 0.11), *out[2] = {NULL};
  zm_array *w = zm_reshape(ramp(1, WIDTH, 0.73), (int64_t[]){WIDTH}, 1);
  if (zm_op_apply(norm, (zm_array *[]){x, residual, w}, 3, out, 2) != ZM_OK) return false;
  zm_array *reference = composed(x, residual, w);
  if (zm_eval((zm_array *[]){out[0], out[1], reference}, 3) != ZM_OK) return false;
  const float *a = zm_array_data(out[0]), *b = zm_array_data(reference);
  double worst = 0;
  for (int i = 0; i < ROWS * WIDTH; i++) worst = fmax(worst, fabs((double)a[i] - b[i]));
  printf("%d rows of %d: largest difference from the composed norm %.2g\n", ROWS, WIDTH, worst);
  return worst < 1e-5;
}

int main(void) {
  zm_scope *scope = zm_scope_open();
  zm_op *norm = zm_kernel(&(zm_kernel_options){
      .name = "add_rms_norm", .form = ZM_KERNEL_ROWS, .inputs = "x residual w", .outputs = "y stream", .source = source});
  bool ok = scope && norm && compare(norm);
  if (!ok) fprintf(stderr, "%s\n", zm_last_error());
  zm_op_free(norm);
  zm_scope_close(scope);
  return ok ? 0 : 1;
}
