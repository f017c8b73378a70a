// Any bytes as an .npz, as an .npy, and as the header of one: refused with one sentence, or every array has the bytes that its shape needs.
#include "array/io.h"

#include <stdlib.h>
#include <string.h>

enum { DATA_BYTES = 64 };

static void check_message(const char *name) {
  const char *message = zm_last_error();
  if (zm_last_status() == ZM_OK || strncmp(message, name, strlen(name)) != 0 || strchr(message, '\n') != NULL) abort();
}

static void check_array(zm_array *a) {
  const uint8_t *data = zm_array_data(a);
  size_t bytes = 0, sum = 0;
  if (data == NULL && zm_last_status() == ZM_ERROR_MEMORY) return;
  if (!zmi_type_bytes(&a->type, &bytes) || (bytes > 0 && data == NULL)) abort();
  for (size_t i = 0; i < bytes; i++) sum += data[i];
  if (a->type.dtype == ZM_BOOL && sum > bytes) abort();
}

static void check_npy(const uint8_t *data, size_t size) {
  zmi_error_clear();
  zm_array *a = zmi_npy_parse(data, size, "fuzz.npy");
  if (a == NULL)
    check_message("fuzz.npy: ");
  else
    check_array(a);
}

static void check_npz(const uint8_t *data, size_t size) {
  zmi_error_clear();
  zm_arrays *set = zmi_npz_parse(data, size, "fuzz.npz");
  if (set == NULL) check_message("fuzz.npz: ");
  for (size_t i = 0; i < zm_arrays_count(set); i++) {
    if (zm_arrays_find(set, zm_arrays_name(set, i)) != zm_arrays_at(set, i)) abort();
    check_array(zm_arrays_at(set, i));
  }
  zm_arrays_free(set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  zm_scope *scope = zm_scope_open();
  if (scope == NULL) return 0;
  check_npz(data, size);
  check_npy(data, size);
  // The text of a header behind the right magic and size, before some data.
  const uint8_t *text = size >= 10 && data[0] != '{' ? data + 10 : data;
  size_t text_size = size - (size_t)(text - data);
  uint8_t *file = text_size < 65536 ? malloc(10 + text_size + DATA_BYTES) : NULL;
  if (file != NULL) {
    memcpy(file, "\x93NUMPY\1", 8);
    file[8] = (uint8_t)text_size;
    file[9] = (uint8_t)(text_size >> 8);
    if (text_size > 0) memcpy(file + 10, text, text_size);
    memset(file + 10 + text_size, 1, DATA_BYTES);
    for (size_t n = 0; n <= DATA_BYTES; n += 8) check_npy(file, 10 + text_size + n);
  }
  free(file);
  zm_scope_close(scope);
  return 0;
}
