// The op table: every operation that a tape can contain.
#include "array/ops/ops.h"

#include <string.h>

#define X(name) &zmi_op_##name,
static const zmi_op *const table[] = {ZMI_OP_LIST(X)};
#undef X

const zmi_op *zmi_op_find(const char *name) {
  for (size_t i = 0; i < ZMI_COUNT(table); i++) {
    if (strcmp(table[i]->name, name) == 0) return table[i];
  }
  return NULL;
}

size_t zmi_op_count(void) {
  return ZMI_COUNT(table);
}

const zmi_op *zmi_op_at(size_t i) {
  return i < ZMI_COUNT(table) ? table[i] : NULL;
}
