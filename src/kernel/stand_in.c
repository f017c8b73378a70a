// Stands in for the interpreter until it is there.
#include "kernel/kernel.h"

__attribute__((weak)) void zmi_interpret_elements(const zmi_code *code, const zmi_kernels *k, int64_t n, const void *const *in,
                                                  const int *step, const double *params, void *const *out) {
  (void)code, (void)k, (void)n, (void)in, (void)step, (void)params, (void)out;
}
__attribute__((weak)) void zmi_interpret_rows(const zmi_code *code, const zmi_kernels *k, int64_t rows, int64_t d, const void *const *in,
                                              const int64_t *row_stride, const int *step, const double *params, void *const *out) {
  (void)code, (void)k, (void)rows, (void)d, (void)in, (void)row_stride, (void)step, (void)params, (void)out;
}
__attribute__((weak)) void zmi_interpret_groups(const zmi_code *code, const zmi_kernels *k, const zmi_launch *l, int64_t first,
                                                int64_t last) {
  (void)code, (void)k, (void)l, (void)first, (void)last;
}

// And for ops of users.
#include <zmlx/kernel.h>
__attribute__((weak)) const char *zm_op_name(const zm_op *op) {
  (void)op;
  return "op";
}
__attribute__((weak)) zm_status zm_op_apply(const zm_op *op, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)op, (void)in, (void)nin, (void)out, (void)nout;
  return zmi_fail(ZM_ERROR_UNSUPPORTED, "not yet");
}
