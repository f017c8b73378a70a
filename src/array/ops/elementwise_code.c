// The typed code of elementwise ops: what fusion puts together, and what GPUs run. Made from the rows of elementwise_table.h at the first
// need and kept.
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

// x, y: dtypes of the first two operands; out: of the result.
static const zmi_code *code_of(const zmi_op *op, zm_dtype x, zm_dtype y, zm_dtype out) {
  const zmi_elementwise *row = zmi_elementwise_row(op);
  const size_t index = row ? zmi_elementwise_index(row) : 0;
  if ((!row && op != &zmi_op_where && op != &zmi_op_astype) || index >= ROWS_MOST) return NULL;
  zm_dtype in[4] = {x, x, x, x};
  const char *name = "astype", *operands = "x", *source = "x";
  zmi_code **place;
  if (row) {
    place = &kept.rows[index][x];
    name = row->word;
    operands = row->operands;
    source = zmi_elementwise_source(row, x);
  } else if (op == &zmi_op_where) {
    in[1] = in[2] = y;
    place = &kept.where[y];
    name = "where";
    operands = "condition a b";
    source = "condition ? a : b";
  } else {
    place = &kept.astype[x][out];
  }
  pthread_mutex_lock(&kept.lock);
  if (!*place) *place = make(name, operands, source, in, out);
  const zmi_code *code = *place;
  pthread_mutex_unlock(&kept.lock);
  return code;
}

const zmi_code *zmi_elementwise_code(const zmi_node *n) {
  if (n->op == &zmi_op_kernel_elements) return zmi_node_code(n);
  if (n->nin < 1) return NULL;
  const zm_dtype x = n->in[0]->type.dtype, y = n->nin > 1 ? n->in[1]->type.dtype : x;
  const zmi_elementwise *row = zmi_elementwise_row(n->op);
  return code_of(n->op, x, y, row ? (row->truth ? ZM_BOOL : x) : n->op == &zmi_op_astype ? zmi_astype_dtype(n) : y);
}

bool zmi_elementwise_kernel(const zmi_call *c, zmi_op_kernel *k) {
  const zm_dtype x = c->in[0]->type.dtype;
  k->code = code_of(c->op, x, c->nin > 1 ? c->in[1]->type.dtype : x, c->out[0]->type.dtype);
  if (!k->code) zmi_error_clear();
  return k->code != NULL;
}
