// The rows of the op table, private to the array room. Each row is defined in the file of its subject in src/array/ops/.
#ifndef ZMI_ARRAY_OPS_H
#define ZMI_ARRAY_OPS_H

#include "array/array.h"

// ---- operations of models ----
extern const zmi_op zmi_op_embed, zmi_op_linear, zmi_op_gather_linear, zmi_op_rms_norm, zmi_op_rope_table, zmi_op_rope, zmi_op_write_keys,
    zmi_op_write_values, zmi_op_attention, zmi_op_short_conv, zmi_op_route, zmi_op_combine;

#endif
