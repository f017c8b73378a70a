// Reductions over several axes: the axes become one, which is reduced by an op.
#include "array/ops/index.h"
#include <zmlx/elementwise.h>

#include <string.h>

// a with the axes merged to one, `at`; axes NULL: all. Neighbours are merged where they are, others become the last axis.
typedef struct merged {
  zm_array *a;
  int at;
  int rank; // of the operand
  bool reduced[ZM_MAX_RANK];
  int64_t shape[ZM_MAX_RANK]; // of the operand
} merged;

static bool merge(const char *op, zm_array *a, const int *axes, int count, merged *m) {
  int list[ZM_MAX_RANK], n = 0, first = -1, last = -1;
  int64_t shape[ZM_MAX_RANK + 1], size = 1;
  *m = (merged){.a = NULL};
  if (!zmi_present(op, 1, &a)) return false;
  m->rank = a->type.rank;
  memcpy(m->shape, a->type.shape, sizeof m->shape);
  if (axes && count > ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: %d axes of an array of rank %d", op, count, m->rank);
    return false;
  }
  for (int i = 0; i < m->rank; i++) m->reduced[i] = !axes;
  for (int i = 0; axes && i < count; i++) {
    int at;
    if (!zmi_axis(op, axes[i], m->rank, &at)) return false;
    if (m->reduced[at]) {
      zmi_fail(ZM_ERROR_ARGUMENT, "%s: axis %d is there twice", op, axes[i]);
      return false;
    }
    m->reduced[at] = true;
  }
  for (int i = 0; i < m->rank; i++) {
    if (!m->reduced[i]) continue;
    if (first < 0) first = i;
    last = i;
    list[n++] = i;
    size *= m->shape[i];
  }
  int rank = 0;
  if (n == 0) { // over nothing: each element alone
    if (m->rank == ZM_MAX_RANK) {
      zmi_fail(ZM_ERROR_LIMIT, "%s: no axes of an array of rank %d", op, ZM_MAX_RANK);
      return false;
    }
    first = m->rank;
  } else if (last - first + 1 != n) {
    int order[ZM_MAX_RANK], kept = 0;
    for (int i = 0; i < m->rank; i++) {
      if (!m->reduced[i]) order[kept++] = i;
    }
    memcpy(order + kept, list, (size_t)n * sizeof *order);
    a = zm_transpose(a, order);
    first = kept;
  }
  for (int i = 0; i < m->rank; i++) {
    if (rank == first) shape[rank++] = size;
    if (!m->reduced[i]) shape[rank++] = m->shape[i];
  }
  if (rank == first) shape[rank++] = size;
  m->at = first;
  m->a = a ? zm_reshape(a, shape, rank) : NULL;
  return m->a != NULL;
}

// A result without the merged axis gets its axes of size 1 back, if they are to be kept.
static zm_array *shaped(const merged *m, zm_array *y, bool keepdims) {
  int64_t shape[ZM_MAX_RANK];
  if (!y || !keepdims) return y;
  for (int i = 0; i < m->rank; i++) shape[i] = m->reduced[i] ? 1 : m->shape[i];
  return zm_reshape(y, shape, m->rank);
}

#define BY_AXIS(name, word, one)                                                                                                           \
  zm_array *name(zm_array *a, const int *axes, int count, bool keepdims) {                                                                 \
    merged m;                                                                                                                              \
    return merge(word, a, axes, count, &m) ? shaped(&m, one(m.a, m.at, false), keepdims) : NULL;                                           \
  }
BY_AXIS(zm_sum_axes, "sum", zm_sum)
BY_AXIS(zm_mean_axes, "mean", zm_mean)
BY_AXIS(zm_max_axes, "max", zm_max)
BY_AXIS(zm_min_axes, "min", zm_min)

static zm_array *more(const zmi_op *op, zm_array *a, const int *axes, int count, bool keepdims, int64_t ddof) {
  merged m;
  return merge(op->name, a, axes, count, &m) ? shaped(&m, zmi_reduce_more(op, m.a, m.at, false, ddof), keepdims) : NULL;
}

static zm_array *floats(zm_array *a) {
  return a ? zm_astype(a, zmi_at_least_float(a->type.dtype)) : NULL;
}

zm_array *zm_prod(zm_array *a, const int *axes, int count, bool keepdims) {
  return more(&zmi_op_prod, a, axes, count, keepdims, 0);
}

zm_array *zm_any(zm_array *a, const int *axes, int count, bool keepdims) {
  return more(&zmi_op_any, a ? zm_astype(a, ZM_BOOL) : NULL, axes, count, keepdims, 0);
}

zm_array *zm_all(zm_array *a, const int *axes, int count, bool keepdims) {
  return more(&zmi_op_all, a ? zm_astype(a, ZM_BOOL) : NULL, axes, count, keepdims, 0);
}

zm_array *zm_count_nonzero(zm_array *a, const int *axes, int count, bool keepdims) {
  return zm_sum_axes(a ? zm_astype(a, ZM_BOOL) : NULL, axes, count, keepdims);
}

zm_array *zm_var(zm_array *a, const int *axes, int count, bool keepdims, int64_t ddof) {
  return more(&zmi_op_var, floats(a), axes, count, keepdims, ddof);
}

zm_array *zm_std(zm_array *a, const int *axes, int count, bool keepdims, int64_t ddof) {
  return zm_sqrt(zm_var(a, axes, count, keepdims, ddof));
}

zm_array *zm_logsumexp(zm_array *a, const int *axes, int count, bool keepdims) {
  return more(&zmi_op_logsumexp, floats(a), axes, count, keepdims, 0);
}

zm_array *zm_argmax_all(zm_array *a) {
  return zmi_present("argmax", 1, &a) ? zm_argmax(zm_reshape(a, (int64_t[]){-1}, 1), 0, false) : NULL;
}

zm_array *zm_argmin_all(zm_array *a) {
  return zmi_present("argmin", 1, &a) ? zm_argmin(zm_reshape(a, (int64_t[]){-1}, 1), 0, false) : NULL;
}

// The middle of the sorted elements, or the mean of the two in the middle; NaN if one is NaN: those are sorted last.
zm_array *zm_median(zm_array *a, const int *axes, int count, bool keepdims) {
  merged m;
  char text[128];
  if (!merge("median", floats(a), axes, count, &m)) return NULL;
  const int64_t n = m.a->type.shape[m.at];
  if (n == 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "median: %s has no elements to choose from", zmi_type_text(&a->type, text));
    return NULL;
  }
  int64_t start[ZM_MAX_RANK] = {0}, stop[ZM_MAX_RANK];
  memcpy(stop, m.a->type.shape, sizeof stop);
  start[m.at] = (n - 1) / 2;
  stop[m.at] = n / 2 + 1;
  zm_array *sorted = zm_sort(m.a, m.at), *middle = sorted ? zm_slice(sorted, start, stop, NULL) : NULL;
  zm_array *mean = middle ? zm_mean(middle, m.at, false) : NULL;
  start[m.at] = n - 1;
  stop[m.at] = n;
  zm_array *last = mean ? zm_squeeze(zm_slice(sorted, start, stop, NULL), m.at) : NULL;
  return last ? shaped(&m, zm_where(zm_isnan(last), last, mean), keepdims) : NULL;
}

enum { MOST_DIFFERENCES = 1 << 16 };

zm_array *zm_diff(zm_array *a, int n, int axis) {
  int at;
  if (!zmi_present("diff", 1, &a) || !zmi_axis("diff", axis, a->type.rank, &at)) return NULL;
  n = (int)ZMI_MIN((int64_t)n, a->type.shape[at] + 1); // nothing is left sooner or later
  if (n < 0 || n > MOST_DIFFERENCES) {
    zmi_fail(ZM_ERROR_ARGUMENT, "diff: %d times, expected 0 to %d", n, MOST_DIFFERENCES);
    return NULL;
  }
  for (; n > 0 && a; n--) {
    int64_t start[ZM_MAX_RANK] = {0}, stop[ZM_MAX_RANK], zero[ZM_MAX_RANK] = {0};
    memcpy(stop, a->type.shape, sizeof stop);
    const int64_t size = stop[at];
    start[at] = ZMI_MIN(size, 1);
    zm_array *later = zm_slice(a, start, stop, NULL);
    stop[at] = ZMI_MAX(size - 1, 0);
    zm_array *sooner = zm_slice(a, zero, stop, NULL);
    a = a->type.dtype == ZM_BOOL ? zm_not_equal(later, sooner) : zm_subtract(later, sooner);
  }
  return a;
}

zm_array *zm_number_of_elements(zm_array *a, const int *axes, int count, bool inverse, zm_dtype dtype) {
  double n = 1;
  if (!zmi_present("number_of_elements", 1, &a)) return NULL;
  for (int i = 0; i < (axes ? count : a->type.rank); i++) {
    int at = i;
    if (axes && !zmi_axis("number_of_elements", axes[i], a->type.rank, &at)) return NULL;
    n *= (double)a->type.shape[at];
  }
  return zm_full(inverse ? 1 / n : n, dtype, NULL, 0);
}
