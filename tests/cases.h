// Arrays of tests/data/*.json, where expected values are stored as {"t": dtype, "s": shape, "x": bytes in hex}, and their comparison.
#ifndef ZMLX_TEST_CASES_H
#define ZMLX_TEST_CASES_H

#include "play.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static inline json_t *cases_load(const char *path) {
  json_error_t error;
  json_t *root = json_load_file(path, 0, &error);
  if (!root) fprintf(stderr, "%s: %s\n", path, error.text);
  return root;
}

static inline int64_t cases_shape(const json_t *list, int64_t *shape) {
  int64_t count = 1;
  for (size_t i = 0; i < json_array_size(list); i++) {
    shape[i] = json_integer_value(json_array_get(list, i));
    count *= shape[i];
  }
  return count;
}

static inline zm_array *cases_array(const json_t *array) {
  int64_t shape[ZM_MAX_RANK];
  const char *hex = json_string_value(json_object_get(array, "x"));
  const json_t *dims = json_object_get(array, "s");
  const zm_dtype dtype = zm_dtype_from_name(json_string_value(json_object_get(array, "t")));
  size_t size = strlen(hex) / 2;
  assert_int_equal(size, (size_t)cases_shape(dims, shape) * zm_dtype_size(dtype));
  uint8_t *bytes = malloc(size + 1);
  for (size_t i = 0; i < size; i++) {
    const char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
    bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
  }
  zm_array *a = zm_array_from_data(bytes, dtype, shape, (int)json_array_size(dims));
  free(bytes);
  assert_non_null(a);
  return a;
}

static inline double cases_value(const void *data, zm_dtype dtype, int64_t i) {
  switch (dtype) {
  case ZM_F32:
    return ((const float *)data)[i];
  case ZM_BF16:
    return zmi_bf16_to_f32(((const uint16_t *)data)[i]);
  case ZM_F16:
    return zmi_f16_to_f32(((const uint16_t *)data)[i]);
  case ZM_U32:
    return ((const uint32_t *)data)[i];
  case ZM_I32:
    return ((const int32_t *)data)[i];
  case ZM_U8:
  case ZM_BOOL:
    return ((const uint8_t *)data)[i];
  default:
    return 0;
  }
}

// y, played everywhere, against the stored array: the same type, and the same bits or (tolerance above 0) a distance of at most
// tolerance * max(|wanted|, floor).
static inline void cases_compare(const char *what, zm_array *y, const json_t *stored, double tolerance, double floor) {
  char a[128], b[128];
  if (!y) fail_msg("%s: %s", what, zm_last_error());
  zm_array *wanted = cases_array(stored);
  if (!zmi_type_equal(&y->type, &wanted->type)) {
    fail_msg("%s: is %s, wanted %s", what, zmi_type_text(&y->type, a), zmi_type_text(&wanted->type, b));
  }
  void *found = play_everywhere(what, y);
  const zm_dtype dtype = y->type.dtype;
  const size_t size = zm_dtype_size(dtype);
  for (int64_t i = 0; i < zmi_type_count(&y->type); i++) {
    if (memcmp((const char *)found + (size_t)i * size, (const char *)wanted->data + (size_t)i * size, size) == 0) continue;
    double f = cases_value(found, dtype, i), w = cases_value(wanted->data, dtype, i);
    if ((isnan(f) && isnan(w)) || (tolerance > 0 && fabs(f - w) <= tolerance * fmax(fabs(w), floor))) continue;
    fail_msg("%s: element %lld of %s is %.9g, wanted %.9g", what, (long long)i, zmi_type_text(&y->type, a), f, w);
  }
  zmi_free(found);
}

#endif
