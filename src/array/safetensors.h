// What the reader and the writer of safetensors share.
#ifndef ZMI_SAFETENSORS_H
#define ZMI_SAFETENSORS_H

#include "array/array.h"

enum { ZMI_TENSORS_HEADER_LIMIT = 100000000, ZMI_SHOWN_NAME = 160 };

// One row a dtype of the format; ends with a NULL name. Where several become one dtype here, the first is written.
typedef struct zmi_tensor_kind {
  const char *name;
  zm_dtype dtype;
} zmi_tensor_kind;
extern const zmi_tensor_kind zmi_tensor_kinds[];

// Bytes of a tensor; false if a dim is negative or the product too large.
bool zmi_tensor_bytes(zm_dtype dtype, int rank, const int64_t *shape, size_t *bytes);

// Names come from files: shortened, and without bytes that a terminal would act on.
const char *zmi_tensor_shown(const char *name, char buffer[ZMI_SHOWN_NAME]);
#define ZMI_SHOWN(name) zmi_tensor_shown((name), (char[ZMI_SHOWN_NAME]){0})

// Metadata: the texts of the headers, in the order of the files; of equal keys the first counts. `take`: they become the caller's.
typedef struct zmi_tensor_note {
  char *key, *text;
} zmi_tensor_note;
zmi_tensor_note *zmi_tensors_take_notes(zmi_tensors *t, size_t *count);
void zmi_tensor_notes_free(zmi_tensor_note *notes, size_t count);
// As zmi_tensors_writer_open, with metadata of its own: keys and texts in turn, then NULL. NULL: {"format":"mlx"}.
zmi_tensors_writer *zmi_tensors_writer_open_with(const char *path, size_t count, const zmi_tensor *tensors, const char *const *metadata);

#endif
