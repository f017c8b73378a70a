// Distinct values, and equality of whole arrays: made of sorting, running sums and scattering.
#include "array/ops/index.h"

#include <string.h>

zm_array *zm_array_equal(zm_array *a, zm_array *b, bool equal_nan) {
  zm_array *in[2] = {a, b};
  if (!zmi_present("array_equal", 2, in)) return NULL;
  zmi_type t = b->type;
  t.dtype = a->type.dtype;
  if (!zmi_type_equal(&a->type, &t)) return zm_full(0, ZM_BOOL, NULL, 0);
  zm_array *same = zm_equal(a, b);
  if (equal_nan) same = zm_maximum(same, zm_multiply(zm_not_equal(a, a), zm_not_equal(b, b)));
  return zm_all(same, NULL, 0, false);
}

// Element i set at place[i] of `base`; places out of range take nothing.
static zm_array *put(zm_array *base, zm_array *place, zm_array *values, zm_scatter_mode mode) {
  return zm_scatter(base, &place, (const int[]){0}, 1, values, mode);
}

static zm_array *part(zm_array *a, int64_t first, int64_t last) {
  return a ? zm_slice(a, &first, &last, NULL) : NULL;
}

zm_array *zm_unique(zm_array *a, int64_t size, const double *fill, zm_array **index, zm_array **inverse, zm_array **counts) {
  const int64_t n = a ? zmi_type_count(&a->type) : 0;
  if (!zmi_present("unique", 1, &a)) return NULL;
  if (size < 0 || size > INT32_MAX || n > INT32_MAX) {
    zmi_fail(ZM_ERROR_ARGUMENT, "unique: %lld values of %lld elements; both are at least 0 and below 2^31", (long long)size, (long long)n);
    return NULL;
  }
  zm_array *flat = zm_reshape(a, &n, 1), *order = flat ? zm_argsort(flat, 0) : NULL;
  zm_array *sorted = zm_take_along_axis(flat, order, 0);
  // Which of the sorted elements is the first of its value; which value it has.
  zm_array *first = n ? zm_full(1, ZM_BOOL, (int64_t[]){1}, 1) : zm_full(1, ZM_BOOL, (int64_t[]){0}, 1);
  if (n > 1) {
    zm_array *parts[2] = {first, zm_not_equal(part(sorted, 1, n), part(sorted, 0, n - 1))};
    first = zm_concatenate(parts, 2, 0);
  }
  zm_array *number = first ? zm_cumsum(zm_astype(first, ZM_I32), 0, false, true) : NULL;
  number = zm_subtract(number, zm_full(1, ZM_I32, NULL, 0));
  zm_array *place = zm_where(first, number, zm_full((double)size, ZM_I32, NULL, 0));
  zm_array *base = fill || n == 0 ? zm_full(fill ? *fill : 0, a->type.dtype, &size, 1) : zm_broadcast_to(part(sorted, 0, 1), &size, 1);
  zm_array *values = put(base, place, sorted, ZM_SCATTER_SET);
  if (!values) return NULL;
  zm_array *at = NULL, *which = NULL, *often = NULL;
  if (index) {
    base = n ? zm_broadcast_to(part(order, 0, 1), &size, 1) : zm_full(0, ZM_U32, &size, 1);
    if (!(at = put(base, place, order, ZM_SCATTER_SET))) return NULL;
  }
  if (inverse) {
    zm_array *most = zm_full((double)ZMI_MAX(size - 1, 0), ZM_I32, NULL, 0);
    which = put(zm_full(0, ZM_U32, &n, 1), order, zm_minimum(number, most), ZM_SCATTER_SET);
    if (!which || !(which = zm_reshape(which, a->type.shape, a->type.rank))) return NULL;
  }
  if (counts && !(often = put(zm_full(0, ZM_I32, &size, 1), number, zm_full(1, ZM_I32, NULL, 0), ZM_SCATTER_ADD))) return NULL;
  if (index) *index = at;
  if (inverse) *inverse = which;
  if (counts) *counts = often;
  return values;
}
