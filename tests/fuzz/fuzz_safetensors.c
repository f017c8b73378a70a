// Any bytes as a .safetensors file, and as the header of one: refused with one sentence, or every tensor lies inside the file, apart from
// all others, in order of name, and is found by its name.
#include "array/array.h"

#include <stdlib.h>
#include <string.h>

enum { DATA_BYTES = 64 };

static int by_place(const void *a, const void *b) {
  const zmi_tensor *x = *(const zmi_tensor *const *)a, *y = *(const zmi_tensor *const *)b;
  return x->data < y->data ? -1 : x->data > y->data;
}

// The tensors with data, in order of place, must not share a byte.
static void check_places(const zmi_tensors *tensors) {
  size_t count = 0;
  const zmi_tensor **filled = malloc((zmi_tensors_count(tensors) + 1) * sizeof *filled);
  if (filled == NULL) return;
  for (size_t i = 0; i < zmi_tensors_count(tensors); i++) {
    const zmi_tensor *t = zmi_tensors_at(tensors, i);
    if (t->bytes > 0) filled[count++] = t;
  }
  qsort(filled, count, sizeof *filled, by_place);
  for (size_t i = 1; i < count; i++)
    if (filled[i - 1]->data + filled[i - 1]->bytes > filled[i]->data) abort();
  free(filled);
}

static void check(const uint8_t *data, size_t size) {
  zmi_error_clear();
  zmi_tensors *tensors = zmi_tensors_parse(data, size, "fuzz.safetensors");
  if (tensors == NULL) {
    const char *message = zm_last_error();
    if (zm_last_status() != ZM_ERROR_FORMAT || strncmp(message, "fuzz.safetensors: ", 18) != 0 || strchr(message, '\n') != NULL) abort();
    return;
  }
  for (size_t i = 0; i < zmi_tensors_count(tensors); i++) {
    const zmi_tensor *t = zmi_tensors_at(tensors, i);
    if (t->bytes > size || t->data < data || t->data + t->bytes > data + size) abort();
    if (zmi_tensors_find(tensors, t->name) != t || (i > 0 && strcmp(t[-1].name, t->name) >= 0)) abort();
    size_t bytes = 0;
    zmi_type type = zmi_type_of(t->dtype, t->rank, t->shape);
    if (!zmi_type_bytes(&type, &bytes) || bytes != t->bytes) abort();
  }
  check_places(tensors);
  zmi_tensors_close(tensors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  check(data, size);
  // A header of the right size before some data: changes of the text are not lost to a wrong size. Seeds are files, so theirs is cut off.
  const uint8_t *header = size >= 8 && data[0] != '{' ? data + 8 : data;
  size_t header_size = size - (size_t)(header - data);
  uint8_t *file = malloc(8 + header_size + DATA_BYTES);
  if (file == NULL) return 0;
  for (size_t i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)header_size >> (8 * i));
  if (header_size > 0) memcpy(file + 8, header, header_size);
  memset(file + 8 + header_size, 1, DATA_BYTES);
  check(file, 8 + header_size + DATA_BYTES);
  free(file);
  return 0;
}
