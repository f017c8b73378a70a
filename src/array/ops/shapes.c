// Shapes: rearranging, joining, cutting and padding, made of views and a few ops that copy.
#include "array/ops/index.h"

#include <string.h>

// ---- axes ----

zm_array *zm_swapaxes(zm_array *a, int axis1, int axis2) {
  int one, two, order[ZM_MAX_RANK];
  if (!zmi_present("swapaxes", 1, &a)) return NULL;
  if (!zmi_axis("swapaxes", axis1, a->type.rank, &one) || !zmi_axis("swapaxes", axis2, a->type.rank, &two)) return NULL;
  if (one == two) return a;
  for (int i = 0; i < a->type.rank; i++) order[i] = i == one ? two : i == two ? one : i;
  return zm_transpose(a, order);
}

zm_array *zm_moveaxis(zm_array *a, int from, int to) {
  int one, two;
  if (!zmi_present("moveaxis", 1, &a)) return NULL;
  if (!zmi_axis("moveaxis", from, a->type.rank, &one) || !zmi_axis("moveaxis", to, a->type.rank, &two)) return NULL;
  return zmi_move_axis(a, one, two);
}

zm_array *zm_flatten(zm_array *a, int first, int last) {
  int from, to;
  int64_t shape[ZM_MAX_RANK], size = 1;
  if (!zmi_present("flatten", 1, &a)) return NULL;
  const int rank = a->type.rank;
  if (rank == 0) return zm_reshape(a, (int64_t[]){1}, 1);
  if (!zmi_axis("flatten", first, rank, &from) || !zmi_axis("flatten", last, rank, &to)) return NULL;
  if (from > to) {
    zmi_fail(ZM_ERROR_ARGUMENT, "flatten: axis %d comes after axis %d", first, last);
    return NULL;
  }
  int n = 0;
  for (int i = 0; i < rank; i++) {
    if (i >= from && i <= to && __builtin_mul_overflow(size, a->type.shape[i], &size)) { // beside a dim of 0
      zmi_fail(ZM_ERROR_LIMIT, "flatten: axes %d to %d make a dim of more than can be counted", from, to);
      return NULL;
    }
    if (i < from || i > to) shape[n++] = a->type.shape[i];
    if (i == to) shape[n++] = size;
  }
  return zm_reshape(a, shape, n);
}

zm_array *zm_unflatten(zm_array *a, int axis, const int64_t *shape, int rank) {
  int at, unknown = -1, n = 0;
  int64_t whole[ZM_MAX_RANK], known = 1;
  char text[128];
  if (!zmi_present("unflatten", 1, &a) || !zmi_axis("unflatten", axis, a->type.rank, &at)) return NULL;
  if (rank < 1 || rank + a->type.rank - 1 > ZM_MAX_RANK || !shape) {
    zmi_fail(ZM_ERROR_ARGUMENT, "unflatten: %d axes in place of one of %s; the most in all are %d", rank, zmi_type_text(&a->type, text),
             ZM_MAX_RANK);
    return NULL;
  }
  for (int i = 0; i < at; i++) whole[n++] = a->type.shape[i];
  for (int i = 0; i < rank; i++) {
    bool good = shape[i] >= 0 ? !__builtin_mul_overflow(known, shape[i], &known) : shape[i] == -1 && unknown < 0;
    if (!good) {
      zmi_fail(ZM_ERROR_ARGUMENT, "unflatten: dimension %d is %lld; one dimension may be -1, others at least 0", i, (long long)shape[i]);
      return NULL;
    }
    if (shape[i] < 0) unknown = n;
    whole[n++] = shape[i];
  }
  for (int i = at + 1; i < a->type.rank; i++) whole[n++] = a->type.shape[i];
  const int64_t size = a->type.shape[at];
  if (unknown >= 0 && known > 0 && size % known == 0) {
    whole[unknown] = size / known;
    known = size;
  }
  if (known != size || (unknown >= 0 && whole[unknown] < 0)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "unflatten: axis %d of %s has %lld elements, not a multiple of or equal to %lld", axis,
             zmi_type_text(&a->type, text), (long long)size, (long long)known);
    return NULL;
  }
  return zm_reshape(a, whole, n);
}

// Marks axes of an array of `rank`; false if one is out of range or there twice.
static bool mark_axes(const char *op, const int *axes, int count, int rank, bool *marked) {
  memset(marked, 0, (size_t)ZM_MAX_RANK * sizeof *marked);
  for (int i = 0; i < count; i++) {
    int at;
    if (!zmi_axis(op, axes[i], rank, &at)) return false;
    if (marked[at]) {
      zmi_fail(ZM_ERROR_ARGUMENT, "%s: axis %d is there twice", op, axes[i]);
      return false;
    }
    marked[at] = true;
  }
  return true;
}

zm_array *zm_expand_dims_axes(zm_array *a, const int *axes, int count) {
  bool added[ZM_MAX_RANK];
  int64_t shape[ZM_MAX_RANK];
  if (!zmi_present("expand_dims", 1, &a)) return NULL;
  const int rank = a->type.rank + count;
  if (count < 0 || rank > ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_ARGUMENT, "expand_dims: the result would have rank %d, the most is %d", rank, ZM_MAX_RANK);
    return NULL;
  }
  if (!mark_axes("expand_dims", axes, count, rank, added)) return NULL;
  for (int i = 0, from = 0; i < rank; i++) shape[i] = added[i] ? 1 : a->type.shape[from++];
  return zm_reshape(a, shape, rank);
}

zm_array *zm_squeeze_axes(zm_array *a, const int *axes, int count) {
  bool dropped[ZM_MAX_RANK];
  int64_t shape[ZM_MAX_RANK];
  char text[128];
  int rank = 0;
  if (!zmi_present("squeeze", 1, &a) || !mark_axes("squeeze", axes, axes ? count : 0, a->type.rank, dropped)) return NULL;
  for (int i = 0; i < a->type.rank; i++) {
    if (!axes) dropped[i] = a->type.shape[i] == 1;
    if (dropped[i] && a->type.shape[i] != 1) {
      zmi_fail(ZM_ERROR_ARGUMENT, "squeeze: axis %d of %s is not of size 1", i, zmi_type_text(&a->type, text));
      return NULL;
    }
    if (!dropped[i]) shape[rank++] = a->type.shape[i];
  }
  return zm_reshape(a, shape, rank);
}

zm_array *zm_atleast(zm_array *a, int rank) {
  if (!zmi_present("atleast", 1, &a)) return NULL;
  if (rank < 1 || rank > 3) {
    zmi_fail(ZM_ERROR_ARGUMENT, "atleast: rank %d is not 1, 2 or 3", rank);
    return NULL;
  }
  if (a->type.rank >= rank) return a;
  const int64_t n = a->type.rank > 0 ? a->type.shape[0] : 1, m = a->type.rank > 1 ? a->type.shape[1] : 1;
  const int64_t shapes[4][3] = {{0}, {n}, {1, n}, {a->type.rank == 2 ? n : 1, a->type.rank == 2 ? m : n, 1}};
  return zm_reshape(a, shapes[rank], rank);
}

// ---- joining and cutting ----

zm_array *zm_stack(zm_array *const *arrays, size_t count, int axis) {
  int at;
  char one[128], other[128];
  if (count == 0 || !arrays) {
    zmi_fail(ZM_ERROR_ARGUMENT, "stack: takes at least one array");
    return NULL;
  }
  if (!zmi_present("stack", 1, arrays) || !zmi_axis("stack", axis, arrays[0]->type.rank + 1, &at)) return NULL;
  zm_array **parts = zmi_calloc(count, sizeof *parts), *result = NULL;
  size_t ready = 0;
  for (; parts && ready < count; ready++) {
    if (!zmi_present("stack", 1, &arrays[ready])) break;
    zmi_type t = arrays[ready]->type;
    t.dtype = arrays[0]->type.dtype;
    if (!zmi_type_equal(&t, &arrays[0]->type)) {
      zmi_fail(ZM_ERROR_ARGUMENT, "stack: array %zu is %s, the first is %s: all need one shape", ready,
               zmi_type_text(&arrays[ready]->type, other), zmi_type_text(&arrays[0]->type, one));
      break;
    }
    if (!(parts[ready] = zm_expand_dims(arrays[ready], at))) break;
  }
  if (parts && ready == count) result = zm_concatenate(parts, count, at);
  zmi_free(parts);
  return result;
}

// Elements [first, last) of an axis.
static zm_array *part_of(zm_array *a, int axis, int64_t first, int64_t last, int64_t step) {
  int64_t start[ZM_MAX_RANK] = {0}, stop[ZM_MAX_RANK], steps[ZM_MAX_RANK];
  if (!a) return NULL;
  memcpy(stop, a->type.shape, sizeof stop);
  for (int i = 0; i < ZM_MAX_RANK; i++) steps[i] = 1;
  start[axis] = first;
  stop[axis] = last;
  steps[axis] = step;
  return zm_slice(a, start, stop, steps);
}

zm_status zm_split_at(zm_array *a, const int64_t *at, int count, int axis, zm_array **out) {
  int along;
  if (!zmi_present("split", 1, &a) || !zmi_axis("split", axis, a->type.rank, &along)) return zm_last_status();
  if (count < 0 || (count > 0 && !at)) return zmi_fail(ZM_ERROR_ARGUMENT, "split: %d places to cut at", count);
  const int64_t size = a->type.shape[along];
  int64_t first = 0;
  for (int i = 0; i <= count; i++) {
    int64_t last = i < count ? at[i] : size;
    if (last < 0) last += size;
    last = ZMI_MAX(0, ZMI_MIN(last, size));
    out[i] = part_of(a, along, first, ZMI_MAX(first, last), 1);
    if (!out[i]) return zm_last_status();
    first = last;
  }
  return ZM_OK;
}

zm_status zm_split(zm_array *a, int parts, int axis, zm_array **out) {
  int along;
  if (!zmi_present("split", 1, &a) || !zmi_axis("split", axis, a->type.rank, &along)) return zm_last_status();
  const int64_t size = a->type.shape[along];
  if (parts < 1 || size % parts != 0)
    return zmi_fail(ZM_ERROR_ARGUMENT, "split: %lld elements of axis %d do not make %d equal parts", (long long)size, axis, parts);
  for (int i = 0; i < parts; i++) {
    if (!(out[i] = part_of(a, along, size / parts * i, size / parts * (i + 1), 1))) return zm_last_status();
  }
  return ZM_OK;
}

zm_status zm_unstack(zm_array *a, int axis, zm_array **out) {
  int along;
  if (!zmi_present("unstack", 1, &a) || !zmi_axis("unstack", axis, a->type.rank, &along)) return zm_last_status();
  for (int64_t i = 0; i < a->type.shape[along]; i++) {
    zm_array *part = part_of(a, along, i, i + 1, 1);
    if (!(out[i] = part ? zm_squeeze(part, along) : NULL)) return zm_last_status();
  }
  return ZM_OK;
}

// ---- more of the same ----

zm_array *zm_repeat(zm_array *a, int64_t times, int axis) {
  int at;
  int64_t shape[ZM_MAX_RANK + 1];
  if (!zmi_present("repeat", 1, &a) || !zmi_axis("repeat", axis, a->type.rank, &at)) return NULL;
  if (times < 0 || a->type.rank == ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_ARGUMENT, "repeat: %lld times an array of rank %d", (long long)times, a->type.rank);
    return NULL;
  }
  zm_array *wide = zm_expand_dims(a, at + 1);
  if (!wide) return NULL;
  memcpy(shape, wide->type.shape, sizeof wide->type.shape);
  shape[at + 1] = times;
  wide = zm_broadcast_to(wide, shape, wide->type.rank);
  return wide ? zm_flatten(wide, at, at + 1) : NULL;
}

zm_array *zm_tile(zm_array *a, const int64_t *times, int count) {
  int64_t apart[2 * ZM_MAX_RANK], wide[2 * ZM_MAX_RANK], shape[ZM_MAX_RANK];
  int n = 0;
  if (!zmi_present("tile", 1, &a)) return NULL;
  const int rank = ZMI_MAX(a->type.rank, count);
  if (count < 0 || rank > ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_ARGUMENT, "tile: %d axes, the most are %d", count, ZM_MAX_RANK);
    return NULL;
  }
  // Only axes that are repeated need one more dimension; what is left between them is merged.
  for (int i = 0; i < rank; i++) {
    const int from = i - (rank - a->type.rank), by = i - (rank - count);
    const int64_t size = from < 0 ? 1 : a->type.shape[from], t = by < 0 ? 1 : times[by];
    if (t < 0 || __builtin_mul_overflow(size, t, &shape[i])) {
      zmi_fail(ZM_ERROR_ARGUMENT, "tile: %lld times %lld elements", (long long)t, (long long)size);
      return NULL;
    }
    if (t != 1) {
      apart[n] = 1;
      wide[n++] = t;
    }
    if (t == 1 && n > 0 && i > 0) {
      apart[n - 1] *= size;
      wide[n - 1] = apart[n - 1];
    } else {
      apart[n] = wide[n] = size;
      n++;
    }
  }
  if (n > ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_LIMIT, "tile: %d axes in between, the most are %d: tile fewer axes at once", n, ZM_MAX_RANK);
    return NULL;
  }
  zm_array *y = zm_broadcast_to(zm_reshape(a, apart, n), wide, n);
  return y ? zm_reshape(y, shape, rank) : NULL;
}

zm_array *zm_roll(zm_array *a, const int64_t *shifts, const int *axes, int count) {
  if (!zmi_present("roll", 1, &a)) return NULL;
  for (int i = 0; i < count && a; i++) {
    int at;
    if (!zmi_axis("roll", axes[i], a->type.rank, &at)) return NULL;
    const int64_t size = a->type.shape[at];
    int64_t shift = size ? shifts[i] % size : 0;
    if (shift < 0) shift += size;
    if (shift == 0) continue;
    zm_array *parts[2] = {part_of(a, at, size - shift, size, 1), part_of(a, at, 0, size - shift, 1)};
    a = zm_concatenate(parts, 2, at);
  }
  return a;
}

static zm_array *flipped(zm_array *a, int axis) {
  return a && a->type.shape[axis] > 1 ? part_of(a, axis, a->type.shape[axis] - 1, -a->type.shape[axis] - 1, -1) : a;
}

zm_array *zm_flip(zm_array *a, const int *axes, int count) {
  bool turned[ZM_MAX_RANK];
  if (!zmi_present("flip", 1, &a) || !mark_axes("flip", axes, axes ? count : 0, a->type.rank, turned)) return NULL;
  for (int i = 0; a && i < a->type.rank; i++) {
    if (turned[i] || !axes) a = flipped(a, i);
  }
  return a;
}

// ---- padding ----

// What comes before (or after) an axis in the modes that repeat what is there.
static zm_array *edge_of(zm_array *a, int axis, int64_t n, bool before, zm_pad_mode mode) {
  const int64_t size = a->type.shape[axis], skip = mode == ZM_PAD_REFLECT;
  int64_t shape[ZM_MAX_RANK];
  if (mode == ZM_PAD_EDGE) {
    zm_array *last = part_of(a, axis, before ? 0 : size - 1, before ? 1 : size, 1);
    memcpy(shape, a->type.shape, sizeof shape);
    shape[axis] = n;
    return last ? zm_broadcast_to(last, shape, a->type.rank) : NULL;
  }
  return flipped(before ? part_of(a, axis, skip, skip + n, 1) : part_of(a, axis, size - skip - n, size - skip, 1), axis);
}

static zm_array *padded_by_edges(zm_array *a, const int64_t *before, const int64_t *after, zm_pad_mode mode) {
  char text[128];
  for (int i = 0; a && i < a->type.rank; i++) {
    zm_array *parts[3];
    size_t n = 0;
    const int64_t most = mode == ZM_PAD_EDGE ? INT64_MAX : a->type.shape[i] - (mode == ZM_PAD_REFLECT);
    if ((before[i] || after[i]) && (a->type.shape[i] == 0 || before[i] > most || after[i] > most)) {
      zmi_fail(ZM_ERROR_ARGUMENT, "pad: axis %d of %s has too few elements for %lld before and %lld after", i,
               zmi_type_text(&a->type, text), (long long)before[i], (long long)after[i]);
      return NULL;
    }
    if (before[i] && !(parts[n++] = edge_of(a, i, before[i], true, mode))) return NULL;
    parts[n++] = a;
    if (after[i] && !(parts[n++] = edge_of(a, i, after[i], false, mode))) return NULL;
    if (n > 1) a = zm_concatenate(parts, n, i);
  }
  return a;
}

zm_array *zm_pad(zm_array *a, const int64_t *before, const int64_t *after, zm_pad_mode mode, double value) {
  int64_t shape[ZM_MAX_RANK], stop[ZM_MAX_RANK];
  bool any = false;
  if (!zmi_present("pad", 1, &a)) return NULL;
  if ((unsigned)mode > ZM_PAD_SYMMETRIC) {
    zmi_fail(ZM_ERROR_ARGUMENT, "pad: %d is no mode", (int)mode);
    return NULL;
  }
  for (int i = 0; i < a->type.rank; i++) {
    int64_t sum;
    if (before[i] < 0 || after[i] < 0 || __builtin_add_overflow(before[i], after[i], &sum) ||
        __builtin_add_overflow(sum, a->type.shape[i], &shape[i])) {
      zmi_fail(ZM_ERROR_ARGUMENT, "pad: %lld elements before and %lld after axis %d", (long long)before[i], (long long)after[i], i);
      return NULL;
    }
    stop[i] = before[i] + a->type.shape[i];
    any = any || sum > 0;
  }
  if (!any) return a;
  if (mode != ZM_PAD_CONSTANT) return padded_by_edges(a, before, after, mode);
  return zm_slice_update(zm_full(value, a->type.dtype, shape, a->type.rank), a, before, stop, NULL);
}

// ---- several arrays ----

zm_status zm_broadcast_arrays(zm_array *const *arrays, int count, zm_array **out) {
  if (count < 1 || !zmi_present("broadcast_arrays", count, arrays)) {
    return count < 1 ? zmi_fail(ZM_ERROR_ARGUMENT, "broadcast_arrays: takes at least one array") : zm_last_status();
  }
  zmi_type t = arrays[0]->type;
  for (int i = 1; i < count; i++) {
    int rank;
    int64_t shape[ZM_MAX_RANK];
    if (!zmi_broadcast_shape("broadcast_arrays", &t, &arrays[i]->type, &rank, shape)) return zm_last_status();
    t = zmi_type_of(t.dtype, rank, shape);
  }
  for (int i = 0; i < count; i++) {
    if (!(out[i] = zm_broadcast_to(arrays[i], t.shape, t.rank))) return zm_last_status();
  }
  return ZM_OK;
}

zm_status zm_meshgrid(zm_array *const *arrays, int count, bool sparse, bool xy, zm_array **out) {
  int64_t shape[ZM_MAX_RANK];
  char text[128];
  if (count < 1 || count > ZM_MAX_RANK) return zmi_fail(ZM_ERROR_ARGUMENT, "meshgrid: takes 1 to %d arrays, got %d", ZM_MAX_RANK, count);
  if (!zmi_present("meshgrid", count, arrays)) return zm_last_status();
  for (int i = 0; i < count; i++) {
    const int axis = xy && count > 1 && i < 2 ? 1 - i : i;
    if (arrays[i]->type.rank > 1)
      return zmi_fail(ZM_ERROR_ARGUMENT, "meshgrid: array %d is %s, expected rank 1", i, zmi_type_text(&arrays[i]->type, text));
    shape[axis] = zmi_type_count(&arrays[i]->type);
  }
  for (int i = 0; i < count; i++) {
    const int axis = xy && count > 1 && i < 2 ? 1 - i : i;
    int64_t own[ZM_MAX_RANK];
    for (int k = 0; k < count; k++) own[k] = k == axis ? shape[k] : 1;
    out[i] = zm_reshape(arrays[i], own, count);
    if (out[i] && !sparse) out[i] = zm_broadcast_to(out[i], shape, count);
    if (!out[i]) return zm_last_status();
  }
  return ZM_OK;
}
