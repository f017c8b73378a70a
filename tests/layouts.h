// Arrays whose elements are elsewhere in memory than one after another.
#ifndef ZMLX_TEST_LAYOUTS_H
#define ZMLX_TEST_LAYOUTS_H

#include "array/array.h"

#include <stdlib.h>
#include <string.h>

// Elements of a at base + sum of index * step in memory that is else full of ones bits (NaN, -1).
static zm_array *spread(zm_array *a, const int64_t *shape, const int64_t *base, const int64_t *step) {
  const zmi_type *t = &a->type;
  const size_t size = zm_dtype_size(t->dtype);
  const char *from = zm_array_data(a);
  int64_t n = 1, at[ZM_MAX_RANK] = {0};
  for (int i = 0; i < t->rank; i++) n *= shape[i];
  char *to = malloc((size_t)n * size + 1);
  memset(to, t->dtype == ZM_BOOL ? 1 : 0xff, (size_t)n * size + 1);
  for (int64_t k = 0; k < zm_array_size(a); k++) {
    int64_t place = 0;
    for (int i = 0; i < t->rank; i++) place = place * shape[i] + base[i] + at[i] * step[i];
    memcpy(to + (size_t)place * size, from + (size_t)k * size, size);
    for (int i = t->rank - 1; i >= 0 && ++at[i] == t->shape[i]; i--) at[i] = 0;
  }
  zm_array *made = zm_array_from_data(to, t->dtype, shape, t->rank);
  free(to);
  return made;
}

static zm_array *transposed(zm_array *a) {
  zm_array *t = zm_contiguous(zm_transpose(a, NULL));
  return t && zm_eval(&t, 1) == ZM_OK ? zm_transpose(t, NULL) : NULL;
}

static zm_array *stepped(zm_array *a) {
  int64_t shape[ZM_MAX_RANK], base[ZM_MAX_RANK], step[ZM_MAX_RANK], stop[ZM_MAX_RANK];
  for (int i = 0; i < a->type.rank; i++) {
    shape[i] = 2 * a->type.shape[i] + 2;
    base[i] = 1;
    step[i] = 2;
    stop[i] = 1 + 2 * a->type.shape[i];
  }
  return zm_slice(spread(a, shape, base, step), base, stop, step);
}

static zm_array *reversed(zm_array *a) { // along every axis
  int64_t base[ZM_MAX_RANK], step[ZM_MAX_RANK], stop[ZM_MAX_RANK];
  for (int i = 0; i < a->type.rank; i++) {
    base[i] = a->type.shape[i] - 1;
    step[i] = -1;
    stop[i] = -a->type.shape[i] - 1;
  }
  return zm_slice(spread(a, a->type.shape, base, step), base, stop, step);
}

static zm_array *spread_axis(zm_array *a, int axis) { // the first place of an axis in all its places
  int64_t start[ZM_MAX_RANK] = {0}, stop[ZM_MAX_RANK];
  for (int i = 0; i < a->type.rank; i++) stop[i] = i == axis ? 1 : a->type.shape[i];
  zm_array *one = zm_contiguous(zm_slice(a, start, stop, NULL));
  return one && zm_eval(&one, 1) == ZM_OK ? zm_broadcast_to(one, a->type.shape, a->type.rank) : NULL;
}

static zm_array *of_first(zm_array *a) {
  return a->type.rank > 0 && a->type.shape[0] > 1 ? spread_axis(a, 0) : a;
}

static zm_array *of_last(zm_array *a) {
  const int last = a->type.rank - 1;
  return last >= 0 && a->type.shape[last] > 1 ? spread_axis(a, last) : a;
}

static const struct {
  char letter; // in stored cases
  const char *name;
  zm_array *(*make)(zm_array *);
} layouts[] = {{'t', "transposed", transposed},
               {'s', "stepped", stepped},
               {'r', "reversed", reversed},
               {'f', "broadcast along the first axis", of_first},
               {'l', "broadcast along the last axis", of_last}};

#endif
