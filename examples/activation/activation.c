// Your own activation: one line in the kernel language is an operation with gradients of any order.
// docs/tutorial.md walks through this program.
#include <stdio.h>
#include <zmlx/zmlx.h>

static zm_op *mish;

// The sum of mish over all elements: what is differentiated.
static zm_status total(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_sum(zm_op_apply1(mish, in[0], NULL), 0, false);
  return out[0] ? ZM_OK : zm_last_status();
}

// The sum of the gradient of that, for the second derivative.
static zm_status total_gradient(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *gradient;
  (void)nout;
  zm_status status = zm_grad(total, user, in, nin, NULL, 1, &gradient);
  if (status == ZM_OK) out[0] = zm_sum(gradient, 0, false);
  return status == ZM_OK && !out[0] ? zm_last_status() : status;
}

static bool show(void) {
  const float values[] = {-2, -0.5f, 0, 0.5f, 2};
  zm_array *x = zm_array_from_data(values, ZM_F32, (int64_t[]){5}, 1), *first = NULL, *second = NULL;
  zm_array *y = zm_op_apply1(mish, x, NULL);
  if (zm_grad(total, NULL, &x, 1, NULL, 1, &first) != ZM_OK || zm_grad(total_gradient, NULL, &x, 1, NULL, 1, &second) != ZM_OK)
    return false;
  if (zm_eval((zm_array *[]){y, first, second}, 3) != ZM_OK) return false; // together: what they share is computed once
  const float *a = zm_array_data(y), *b = zm_array_data(first), *c = zm_array_data(second);
  printf("%6s %10s %10s %10s\n", "x", "mish", "mish'", "mish''");
  for (int i = 0; i < 5; i++) printf("%6.2f %10.6f %10.6f %10.6f\n", values[i], a[i], b[i], c[i]);
  return true;
}

int main(void) {
  zm_scope *scope = zm_scope_open();
  mish = zm_elementwise("x * tanh(softplus(x))", &(zm_elementwise_options){.name = "mish"});
  bool ok = scope && mish && show();
  if (!ok) fprintf(stderr, "%s\n", zm_last_error());
  zm_op_free(mish);
  zm_scope_close(scope);
  return ok ? 0 : 1;
}
