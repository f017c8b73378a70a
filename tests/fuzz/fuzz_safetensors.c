// Any bytes as a .safetensors file: refused with a message, or every tensor lies inside the file and is found by its name.
#include "array/array.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  zmi_tensors *tensors = zmi_tensors_parse(data, size, "fuzz.safetensors");
  if (tensors == NULL) {
    if (zm_last_status() == ZM_OK || zm_last_error()[0] == 0) abort();
    return 0;
  }
  for (size_t i = 0; i < zmi_tensors_count(tensors); i++) {
    const zmi_tensor *t = zmi_tensors_at(tensors, i);
    if (t->bytes > size || (t->bytes > 0 && (t->data < data || t->data + t->bytes > data + size))) abort();
    if (zmi_tensors_find(tensors, t->name) != t) abort();
    size_t bytes = 0;
    zmi_type type = zmi_type_of(t->dtype, t->rank, t->shape);
    if (!zmi_type_bytes(&type, &bytes) || bytes != t->bytes) abort();
  }
  zmi_tensors_close(tensors);
  return 0;
}
