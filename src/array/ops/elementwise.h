// The rows of elementwise_table.h as data: for fusion, which needs an operation's definition.
#ifndef ZMI_ELEMENTWISE_H
#define ZMI_ELEMENTWISE_H

#include "array/ops/ops.h"

typedef struct zmi_elementwise {
  const char *word, *operands;
  bool truth; // the result is bool
  const char *floats, *integers, *bools;
} zmi_elementwise;

const zmi_elementwise *zmi_elementwise_row(const zmi_op *op);                 // NULL of other ops
const char *zmi_elementwise_source(const zmi_elementwise *r, zm_dtype dtype); // "": has no such form

size_t zmi_elementwise_index(const zmi_elementwise *r);
zm_dtype zmi_astype_dtype(const zmi_node *n); // cast.c
// The code of an elementwise node: a row of the table, where, astype or kernel_elements. NULL of other nodes, or with a message.
const zmi_code *zmi_elementwise_code(const zmi_node *n);
bool zmi_elementwise_kernel(const zmi_call *c, zmi_op_kernel *k); // of such a call: zmi_op.kernel

#endif
