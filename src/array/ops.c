// The op table: one row an op. A new op is one file in src/array/ops/, one declaration in ops/ops.h and one line here.
#include "array/ops/ops.h"

#include <string.h>

static const zmi_op *const table[] = {
    // operations of models
    &zmi_op_embed,      &zmi_op_linear,       &zmi_op_gather_linear, &zmi_op_rms_norm,   &zmi_op_rope_table, &zmi_op_rope,
    &zmi_op_write_keys, &zmi_op_write_values, &zmi_op_attention,     &zmi_op_short_conv, &zmi_op_route,      &zmi_op_combine,
};

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
