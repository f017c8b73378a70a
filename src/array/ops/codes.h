// What the ops on quantized arrays share. Private to the ops of the array room.
#ifndef ZMI_CODES_H
#define ZMI_CODES_H

#include "array/kernels.h"
#include "array/ops/ops.h"
#include <zmlx/quantized.h>

// The format of arrays as an attribute. format.dtype is not used.
#define ZMI_CODES_FIELDS(type, member)                                                                                                     \
  {"mode", ZMI_FIELD_WORD, offsetof(type, member.mode), zmi_mode_words}, {"bits", ZMI_FIELD_INT, offsetof(type, member.bits), NULL}, {     \
    "group", ZMI_FIELD_INT, offsetof(type, member.group), NULL                                                                             \
  }

// From the public description; false with a message.
bool zmi_codes_of(const char *op, const zm_quant *q, zmi_format *f);
// Checks codes, scales and biases of a format against each other; dtype: of scales and biases, or 0 for uint8. Gives the values of a row.
zm_status zmi_want_codes(const zmi_format *f, const zmi_type *codes, const zmi_type *scales, const zmi_type *biases, int64_t *k);
// Values [k, k + n) of a row, k and n multiples of the group.
void zmi_codes_values(const zmi_kernels *kn, const zmi_format *f, const zmi_stored_matrix *m, int64_t row, int64_t k, int64_t n,
                      float *out);
// Gradients of scales and biases from the gradient g of the values [..., K]: sums over groups of g * code and of g.
zm_status zmi_codes_gradient(const zmi_format *f, zm_array *codes, zm_array *scales, zm_array *g, const bool *wanted, zm_array **of_scales,
                             zm_array **of_biases);

#endif
