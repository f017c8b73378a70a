// The typed code of elementwise ops: what fusion puts together. Made from the rows of elementwise_table.h at the first need and kept.
#include "array/ops/elementwise.h"

#include <pthread.h>
#include <string.h>

enum { ROWS_MOST = 128 };

// One for the process, under its lock.
static struct {
  pthread_mutex_t lock;
  zmi_code *rows[ROWS_MOST][ZM_DTYPE_COUNT];
  zmi_code *where[ZM_DTYPE_COUNT], *astype[ZM_DTYPE_COUNT][ZM_DTYPE_COUNT];
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER};

static zmi_code *make(const char *name, const char *operands, const char *source, const zm_dtype *in, zm_dtype out) {
  const zmi_kernel_text text = {.name = name,
                                .form = ZMI_FORM_ELEMENTS,
                                .inputs = operands,
                                .outputs = strchr(source, ';') ? "y" : NULL,
                                .source = source,
                                .result = {out}};
  zm_dtype result[ZMI_KERNEL_OUT] = {out};
  zmi_kernel *kernel = zmi_kernel_define(&text);
  zmi_code *code = kernel ? zmi_kernel_code(kernel, in, result) : NULL;
  zmi_kernel_release(kernel);
  return code;
}

const zmi_code *zmi_elementwise_code(const zmi_node *n) {
  if (n->op == &zmi_op_kernel_elements) return zmi_node_code(n);
  const zmi_elementwise *row = zmi_elementwise_row(n->op);
  const size_t index = row ? zmi_elementwise_index(row) : 0;
  if ((!row && n->op != &zmi_op_where && n->op != &zmi_op_astype) || index >= ROWS_MOST) return NULL;
  const zm_dtype a = n->in[0]->type.dtype;
  zm_dtype in[4] = {a, a, a, a}, out = a;
  const char *name = "astype", *operands = "x", *source = "x";
  zmi_code **place;
  if (row) {
    place = &kept.rows[index][a];
    name = row->word;
    operands = row->operands;
    source = zmi_elementwise_source(row, a);
    if (row->truth) out = ZM_BOOL;
  } else if (n->op == &zmi_op_where) {
    in[1] = in[2] = out = n->in[1]->type.dtype;
    place = &kept.where[out];
    name = "where";
    operands = "condition a b";
    source = "condition ? a : b";
  } else {
    out = zmi_astype_dtype(n);
    place = &kept.astype[a][out];
  }
  pthread_mutex_lock(&kept.lock);
  if (!*place) *place = make(name, operands, source, in, out);
  const zmi_code *code = *place;
  pthread_mutex_unlock(&kept.lock);
  return code;
}
