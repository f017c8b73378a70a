// What the reader and the writer of safetensors share.
#ifndef ZMI_SAFETENSORS_H
#define ZMI_SAFETENSORS_H

#include "array/array.h"

enum { ZMI_TENSORS_HEADER_LIMIT = 100000000 };

// One row a dtype of the format; ends with a NULL name. Where several become one dtype here, the first is written.
typedef struct zmi_tensor_kind {
  const char *name;
  zm_dtype dtype;
} zmi_tensor_kind;
extern const zmi_tensor_kind zmi_tensor_kinds[];

// Bytes of a tensor; false if a dim is negative or the product too large.
bool zmi_tensor_bytes(zm_dtype dtype, int rank, const int64_t *shape, size_t *bytes);

#endif
