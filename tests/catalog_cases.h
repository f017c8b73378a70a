// The stored cases of the catalog (scripts/make_catalog_cases.py, and make_catalog_mlx_cases.py): the operands that they describe.
#ifndef ZMLX_TEST_CATALOG_CASES_H
#define ZMLX_TEST_CATALOG_CASES_H

#include "catalog/catalog.h"
#include "layouts.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const files[] = {"activations", "rows", "transformer", "reductions", "attention", "quant", "image", "moe", "mlx"};
enum { MLX_FILE = 8 }; // of scripts/make_catalog_mlx_cases.py
static json_t *roots[ZMI_COUNT(files)];

static bool is_float(zm_dtype t) {
  return t == ZM_F32 || t == ZM_F16 || t == ZM_BF16;
}

// ---- operands ----

static uint32_t hashed(uint32_t seed, uint32_t i) { // as in the script
  uint32_t h = i * 2654435761u + seed * 40503u + 12345u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  h *= 3266489917u;
  return h ^ h >> 16;
}

static double number(const json_t *v) {
  if (json_is_number(v)) return json_number_value(v);
  const char *s = json_string_value(v);
  return strcmp(s, "nan") == 0 ? NAN : strcmp(s, "inf") == 0 ? INFINITY : -INFINITY;
}

static int64_t field(const json_t *o, const char *name) {
  return json_integer_value(json_object_get(o, name));
}

static int64_t shape_of(const json_t *list, int64_t *shape) {
  int64_t n = 1;
  for (size_t i = 0; i < json_array_size(list); i++) {
    shape[i] = json_integer_value(json_array_get(list, i));
    n *= shape[i];
  }
  return n;
}

static zm_array *floats_of(const double *x, zm_dtype dtype, const int64_t *shape, int rank, int64_t n) {
  float *data = malloc((size_t)n * sizeof *data + 1);
  for (int64_t i = 0; i < n; i++) data[i] = (float)x[i];
  zm_array *a = zm_array_from_data(data, ZM_F32, shape, rank);
  free(data);
  a = zm_astype(a, dtype);
  assert_non_null(zm_array_data(a));
  return a;
}

static inline zm_array *laid_out(zm_array *a, const json_t *spec) {
  const char *how = json_string_value(json_object_get(spec, "lay"));
  for (size_t i = 0; how && i < ZMI_COUNT(layouts); i++)
    if (layouts[i].letter == *how) return layouts[i].make(a);
  assert_null(how);
  return a;
}

static inline zm_array *operand_of(const json_t *spec, zm_dtype dtype) {
  int64_t shape[ZM_MAX_RANK];
  const json_t *dims = json_object_get(spec, "s"), *given = json_object_get(spec, "x");
  const char *type = json_string_value(json_object_get(spec, "t"));
  int rank = (int)json_array_size(dims);
  int64_t n = shape_of(dims, shape), m = field(spec, "m"), below = field(spec, "below"), add = field(spec, "add");
  uint32_t seed = (uint32_t)field(spec, "seed");
  if (type && strcmp(type, "T") != 0) dtype = zm_dtype_from_name(type);
  if (is_float(dtype)) {
    double *x = malloc((size_t)n * sizeof *x + 1), d = (double)field(spec, "d");
    if (m == 0) m = 64; // what is usual is not always stored
    if (d == 0) d = 32;
    bool odd = field(spec, "odd") != 0;
    for (int64_t i = 0; i < n; i++) {
      double k = (double)(hashed(seed, (uint32_t)i) % (2 * m + 1) - m + add) + (odd ? 0.5 : 0);
      x[i] = given ? number(json_array_get(given, (size_t)i)) : k / d;
    }
    zm_array *a = floats_of(x, dtype, shape, rank, n);
    free(x);
    return laid_out(a, spec);
  }
  size_t size = zm_dtype_size(dtype);
  char *data = malloc((size_t)n * size + 1);
  for (int64_t i = 0; i < n; i++) {
    uint32_t h = hashed(seed, (uint32_t)i);
    int64_t v = given ? json_integer_value(json_array_get(given, (size_t)i)) : dtype == ZM_BOOL ? h >> 31 : below ? h % below + add : h;
    memcpy(data + (size_t)i * size, &v, size);
  }
  zm_array *a = zm_array_from_data(data, dtype, shape, rank);
  free(data);
  return laid_out(a, spec);
}

// ---- files ----

static inline int open_files(void **state) {
  (void)state;
  for (size_t f = 0; f < ZMI_COUNT(files); f++) {
    char path[64];
    json_error_t error;
    snprintf(path, sizeof path, "tests/data/catalog_%s.json", files[f]);
    if (!(roots[f] = json_load_file(path, 0, &error))) {
      print_error("%s: %s\n", path, error.text);
      return -1;
    }
  }
  return 0;
}

static inline int close_files(void **state) {
  (void)state;
  for (size_t f = 0; f < ZMI_COUNT(files); f++) json_decref(roots[f]);
  return 0;
}

#endif
