// Ops whose rows give their computation in the kernel language, for GPUs: the source's typed code, kept for each list of dtypes.
#include "array/ops/ops.h"

#include <limits.h>
#include <pthread.h>
#include <string.h>

enum { OPERANDS = 4, MOST = 512 };

typedef struct entry {
  const zmi_op *op;
  zm_dtype types[2 * OPERANDS];
  zmi_code *code; // NULL: there is no such form
} entry;

// For the process, under its lock.
static struct {
  pthread_mutex_t lock;
  entry entries[MOST];
  int count;
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER};

static zmi_code *make(const zmi_kernel_text *text, const zm_dtype *in, const zm_dtype *out, int nout) {
  zmi_kernel_text t = *text;
  zm_dtype result[ZMI_KERNEL_OUT] = {ZM_DTYPE_DEFAULT};
  for (int o = 0; o < nout; o++) t.result[o] = result[o] = out[o];
  zmi_kernel *kernel = zmi_kernel_define(&t);
  zmi_code *code = kernel ? zmi_kernel_code(kernel, in, result) : NULL;
  zmi_kernel_release(kernel);
  return code;
}

// A bool is a byte that is 0 or 1.
static zm_dtype stored(zm_dtype dtype) {
  return dtype == ZM_BOOL ? ZM_U8 : dtype;
}

const zmi_code *zmi_op_source_code(const zmi_op *op, const zmi_kernel_text *text, int nin, const zm_dtype *in, int nout,
                                   const zm_dtype *out) {
  entry e = {.op = op};
  const zmi_code *found = NULL;
  int i = 0;
  if (nin > OPERANDS || nout > OPERANDS) return NULL;
  for (int k = 0; k < nin; k++) e.types[k] = stored(in[k]);
  for (int o = 0; o < nout; o++) e.types[OPERANDS + o] = stored(out[o]);
  pthread_mutex_lock(&kept.lock);
  while (i < kept.count && (kept.entries[i].op != op || memcmp(kept.entries[i].types, e.types, sizeof e.types) != 0)) i++;
  if (i == kept.count && i < MOST) {
    e.code = make(text, e.types, e.types + OPERANDS, nout);
    if (!e.code) zmi_error_clear();
    kept.entries[kept.count++] = e;
  }
  if (i < MOST) found = kept.entries[i].code;
  pthread_mutex_unlock(&kept.lock);
  return found;
}

bool zmi_reduction_kernel(const zmi_call *c, const char *source, int64_t axis, const char *parameter, double n, zmi_op_kernel *k) {
  const zmi_type *x = &c->in[0]->type;
  const zmi_kernel_text text = {
      .name = c->op->name, .form = ZMI_FORM_ROWS, .inputs = "x", .outputs = "y", .parameters = parameter, .source = source};
  if (x->shape[axis] > INT_MAX) return false; // places are counted in int
  k->code = zmi_op_source_code(c->op, &text, 1, &x->dtype, 1, &c->out[0]->type.dtype);
  k->values[0] = n;
  k->along = true;
  k->axis = (int)axis;
  return k->code != NULL;
}
