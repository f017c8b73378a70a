// Operations on arrays beyond those of array.h: shapes, indices, sorting, running results, reductions over several axes, einsum.
// docs/operations.md compares them with MLX's. The rules of array.h about ownership and errors hold; axes count from the end if negative.
#ifndef ZMLX_OPS_H
#define ZMLX_OPS_H

#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

// Running results along an axis. inclusive: element i takes part in result i; reverse: from the end on. Sums of bool are of int32;
// logcumsumexp of integers is of float32.
ZM_API zm_array *zm_cumsum(zm_array *a, int axis, bool reverse, bool inclusive);
ZM_API zm_array *zm_cumprod(zm_array *a, int axis, bool reverse, bool inclusive);
ZM_API zm_array *zm_cummax(zm_array *a, int axis, bool reverse, bool inclusive);
ZM_API zm_array *zm_cummin(zm_array *a, int axis, bool reverse, bool inclusive);
ZM_API zm_array *zm_logcumsumexp(zm_array *a, int axis, bool reverse, bool inclusive);
// y[i] = a[i] y[i - 1] + b[i], nothing before the first (reverse: y[i + 1], nothing after the last); in float32, operands broadcast.
ZM_API zm_array *zm_linear_scan(zm_array *a, zm_array *b, int axis, bool reverse);

// Sorting is stable, rising, with NaN last; indices are uint32. A partition has its kth element where sorting would put it, none larger
// before it and none smaller after it.
ZM_API zm_array *zm_sort(zm_array *a, int axis);
ZM_API zm_array *zm_argsort(zm_array *a, int axis);
ZM_API zm_array *zm_partition(zm_array *a, int64_t kth, int axis);
ZM_API zm_array *zm_argpartition(zm_array *a, int64_t kth, int axis);
// The k largest, the largest first (NaN counts as largest), the lowest index first among equals; *indices (may be NULL): where they are.
ZM_API zm_array *zm_topk(zm_array *a, int64_t k, int axis, zm_array **indices);
// For each value how many elements of `sorted` [n] are smaller (right: not larger): uint32.
ZM_API zm_array *zm_searchsorted(zm_array *sorted, zm_array *values, bool right);

// Indices are integers of any dtype; negative ones count from the end. One out of range gives zeros when it is read and is left out
// when it is written. Where several updates meet one place they are taken in the order of their indices; the last one set stays.
typedef enum zm_scatter_mode { ZM_SCATTER_SET, ZM_SCATTER_ADD, ZM_SCATTER_PROD, ZM_SCATTER_MAX, ZM_SCATTER_MIN } zm_scatter_mode;
// Axis `axis` of a replaced by the shape of the indices: a[:, indices] for axis 1.
ZM_API zm_array *zm_take_axis(zm_array *a, zm_array *indices, int axis);
// a[..., i, j, ...]: index array k for axis axes[k], broadcast to one shape. The shape stands where the axes were if these are neighbours
// in rising order, else in front.
ZM_API zm_array *zm_gather(zm_array *a, zm_array *const *indices, const int *axes, int count);
// A copy of a with updates (broadcast to the shape of zm_gather's result) at those places.
ZM_API zm_array *zm_scatter(zm_array *a, zm_array *const *indices, const int *axes, int count, zm_array *updates, zm_scatter_mode mode);
// result[.., m, ..] = a[.., indices[.., m, ..], ..]; a and indices have one rank and broadcast in the other axes.
ZM_API zm_array *zm_take_along_axis(zm_array *a, zm_array *indices, int axis);
ZM_API zm_array *zm_put_along_axis(zm_array *a, zm_array *indices, zm_array *values, int axis);
ZM_API zm_array *zm_add_along_axis(zm_array *a, zm_array *indices, zm_array *values, int axis); // adds instead of setting
// A copy of a where the slice (as zm_slice reads it) is replaced by update, which is broadcast to it.
ZM_API zm_array *zm_slice_update(zm_array *a, zm_array *update, const int64_t *start, const int64_t *stop, const int64_t *step);
// Slices whose start is computed: element k of `start` (integers) for axis axes[k], others start at 0. size has an entry for each axis.
// A start is moved so that the slice lies inside.
ZM_API zm_array *zm_slice_at(zm_array *a, zm_array *start, const int *axes, int count, const int64_t *size);
ZM_API zm_array *zm_slice_update_at(zm_array *a, zm_array *update, zm_array *start, const int *axes, int count);

// Shapes.
ZM_API zm_array *zm_swapaxes(zm_array *a, int axis1, int axis2);

#ifdef __cplusplus
}
#endif
#endif
