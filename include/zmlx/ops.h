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

// Shapes. Lists of axes have `count` entries.
ZM_API zm_array *zm_swapaxes(zm_array *a, int axis1, int axis2);
ZM_API zm_array *zm_moveaxis(zm_array *a, int from, int to);
ZM_API zm_array *zm_flatten(zm_array *a, int first, int last); // axes first to last, both included, become one
ZM_API zm_array *zm_unflatten(zm_array *a, int axis, const int64_t *shape, int rank);
ZM_API zm_array *zm_expand_dims_axes(zm_array *a, const int *axes, int count); // axes of the result
ZM_API zm_array *zm_squeeze_axes(zm_array *a, const int *axes, int count);     // axes NULL: all of size 1
ZM_API zm_array *zm_atleast(zm_array *a, int rank);                            // 1, 2 or 3, as NumPy's atleast_3d puts new axes
ZM_API zm_array *zm_stack(zm_array *const *arrays, size_t count, int axis);
ZM_API zm_status zm_unstack(zm_array *a, int axis, zm_array **out);                                // as many results as the axis is long
ZM_API zm_status zm_split(zm_array *a, int parts, int axis, zm_array **out);                       // `parts` of one size
ZM_API zm_status zm_split_at(zm_array *a, const int64_t *at, int count, int axis, zm_array **out); // count + 1 parts, cut before at[i]
ZM_API zm_array *zm_tile(zm_array *a, const int64_t *times, int count);                            // count and rank may differ, as in NumPy
ZM_API zm_array *zm_repeat(zm_array *a, int64_t times, int axis);
ZM_API zm_array *zm_roll(zm_array *a, const int64_t *shifts, const int *axes, int count);
ZM_API zm_array *zm_flip(zm_array *a, const int *axes, int count); // axes NULL: all
typedef enum zm_pad_mode { ZM_PAD_CONSTANT, ZM_PAD_EDGE, ZM_PAD_REFLECT, ZM_PAD_SYMMETRIC } zm_pad_mode;
// before, after: an entry for each axis. value: of CONSTANT.
ZM_API zm_array *zm_pad(zm_array *a, const int64_t *before, const int64_t *after, zm_pad_mode mode, double value);
ZM_API zm_status zm_broadcast_arrays(zm_array *const *arrays, int count, zm_array **out);
// Coordinates of a grid from `count` arrays [n]. sparse: axes that do not matter have size 1. xy: the first two axes change places.
ZM_API zm_status zm_meshgrid(zm_array *const *arrays, int count, bool sparse, bool xy, zm_array **out);
// Any strides over the elements of a in row-major order, counted in elements, from element `offset` on. A view if a is contiguous.
ZM_API zm_array *zm_as_strided(zm_array *a, const int64_t *shape, const int64_t *strides, int rank, int64_t offset);
ZM_API zm_array *zm_masked_fill(zm_array *a, zm_array *mask, double value); // value where the mask is true; the dtype of a

// New arrays.
ZM_API zm_array *zm_zeros(zm_dtype dtype, const int64_t *shape, int rank);
ZM_API zm_array *zm_ones(zm_dtype dtype, const int64_t *shape, int rank);
ZM_API zm_array *zm_full_like(zm_array *a, double value);
ZM_API zm_array *zm_zeros_like(zm_array *a);
ZM_API zm_array *zm_ones_like(zm_array *a);
ZM_API zm_array *zm_linspace(double start, double stop, int64_t count, zm_dtype dtype); // both ends included
ZM_API zm_array *zm_eye(int64_t n, int64_t m, int64_t k, zm_dtype dtype);               // ones on diagonal k
ZM_API zm_array *zm_identity(int64_t n, zm_dtype dtype);
ZM_API zm_array *zm_tri(int64_t n, int64_t m, int64_t k, zm_dtype dtype); // ones on and below diagonal k

// Diagonals and triangles. Diagonal k > 0 lies above the main one.
ZM_API zm_array *zm_diagonal(zm_array *a, int64_t k, int axis1, int axis2); // a view; the diagonal is the last axis
ZM_API zm_array *zm_diag(zm_array *a, int64_t k);                           // of a matrix, or the matrix of a diagonal [n]
ZM_API zm_array *zm_tril(zm_array *a, int64_t k);                           // zeros above diagonal k of the last two axes
ZM_API zm_array *zm_triu(zm_array *a, int64_t k);
ZM_API zm_array *zm_trace(zm_array *a, int64_t k, int axis1, int axis2);

// Products.
ZM_API zm_array *zm_outer(zm_array *a, zm_array *b); // of all elements: [size of a, size of b]
ZM_API zm_array *zm_inner(zm_array *a, zm_array *b); // over the last axes
ZM_API zm_array *zm_vecdot(zm_array *a, zm_array *b, int axis);
ZM_API zm_array *zm_kron(zm_array *a, zm_array *b);
ZM_API zm_array *zm_tensordot(zm_array *a, zm_array *b, const int *a_axes, const int *b_axes, int count);
// "ij,jk->ik": letters name axes, "..." stands for others, a letter that the result lacks is summed over. Without "->" the result has the
// letters that occur once, in order. Operands are joined two at a time, the pair first whose product is smallest: a
// product of matrices, or where neither has an axis to itself products in float32 that zm_sum_axes adds up.
ZM_API zm_array *zm_einsum(const char *subscripts, zm_array *const *arrays, int count);

// Reductions over `count` axes; axes NULL: all of them. Sums and products of integers are of int32 or uint32 at least, as in array.h.
ZM_API zm_array *zm_sum_axes(zm_array *a, const int *axes, int count, bool keepdims);
ZM_API zm_array *zm_mean_axes(zm_array *a, const int *axes, int count, bool keepdims);
ZM_API zm_array *zm_prod(zm_array *a, const int *axes, int count, bool keepdims);
ZM_API zm_array *zm_max_axes(zm_array *a, const int *axes, int count, bool keepdims);
ZM_API zm_array *zm_min_axes(zm_array *a, const int *axes, int count, bool keepdims);
ZM_API zm_array *zm_any(zm_array *a, const int *axes, int count, bool keepdims);
ZM_API zm_array *zm_all(zm_array *a, const int *axes, int count, bool keepdims);
ZM_API zm_array *zm_count_nonzero(zm_array *a, const int *axes, int count, bool keepdims); // int32
// Two passes: the mean, then the sum of squared differences divided by the number of elements less ddof >= 0.
ZM_API zm_array *zm_var(zm_array *a, const int *axes, int count, bool keepdims, int64_t ddof);
ZM_API zm_array *zm_std(zm_array *a, const int *axes, int count, bool keepdims, int64_t ddof);
ZM_API zm_array *zm_logsumexp(zm_array *a, const int *axes, int count, bool keepdims);
ZM_API zm_array *zm_median(zm_array *a, const int *axes, int count, bool keepdims);
ZM_API zm_array *zm_argmin(zm_array *a, int axis, bool keepdims); // uint32; lowest index wins
ZM_API zm_array *zm_argmax_all(zm_array *a);                      // of the flattened array
ZM_API zm_array *zm_argmin_all(zm_array *a);
ZM_API zm_array *zm_diff(zm_array *a, int n, int axis); // n times the difference of neighbours
// The number of elements along axes (NULL: all), as a rank 0 array of dtype; inverse: 1 divided by it.
ZM_API zm_array *zm_number_of_elements(zm_array *a, const int *axes, int count, bool inverse, zm_dtype dtype);

// Whether a and b have one shape and equal values: a bool of rank 0. equal_nan: NaN equals NaN.
ZM_API zm_array *zm_array_equal(zm_array *a, zm_array *b, bool equal_nan);
// The first `size` distinct values of the flattened array in rising order, then *fill (NULL: the first of them). index, inverse and counts
// may be NULL: where each value is first, uint32 [size]; which one each element of a is, uint32 of the shape of a, at most size - 1; how
// often each occurs, int32 [size].
ZM_API zm_array *zm_unique(zm_array *a, int64_t size, const double *fill, zm_array **index, zm_array **inverse, zm_array **counts);
// The bits of a as another dtype; the last axis becomes shorter or longer with its size.
ZM_API zm_array *zm_view(zm_array *a, zm_dtype dtype);
// Windows of signal processing, float32 [n].
ZM_API zm_array *zm_bartlett(int64_t n);
ZM_API zm_array *zm_blackman(int64_t n);
ZM_API zm_array *zm_hamming(int64_t n);
ZM_API zm_array *zm_hanning(int64_t n);

#ifdef __cplusplus
}
#endif
#endif
