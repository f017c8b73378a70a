// Indices: reading them, and copying to strided memory. What the ops that take positions from arrays share.
#ifndef ZMI_INDEX_H
#define ZMI_INDEX_H

#include "array/ops/ops.h"
#include <zmlx/ops.h>

bool zmi_dtype_is_index(zm_dtype dtype); // integers
// n indices from src (of an index dtype, contiguous) for an axis of `size` elements: negative ones count from its end; -1 if out of range.
void zmi_read_indices(const void *src, zm_dtype dtype, int64_t begin, int64_t n, int64_t size, int64_t *out);
// The inverse of zmi_gather: elements [begin, begin + n) of a strided target in row-major order come from src.
void zmi_put_walk(const zmi_walk *w, void *dst, size_t size, int64_t begin, int64_t n, const void *src);
// dst[0..n) = dst joined with src, both of dtype (not float16 or bfloat16 unless mode is SET).
void zmi_join_elements(zm_scatter_mode mode, zm_dtype dtype, void *dst, const void *src, int64_t n);
// dst[at[i]] = or += src[i] where at[i] is not negative, one after another: the usual cases (SET; sums of float32 and of 32-bit integers)
// without a call for each. False for others.
bool zmi_put_elements(zm_scatter_mode mode, zm_dtype dtype, void *dst, const int64_t *at, int64_t n, const void *src);
// Stage of ops that start from a copy of operand 0: tiles of elements.
void zmi_copy_first_run(const zmi_call *c, int64_t begin, int64_t end);
zm_status zmi_check_indices(const char *operand, const zmi_type *t);
extern const char *const zmi_scatter_words[]; // names of zm_scatter_mode

// ---- builders used by rules ----
zm_array *zmi_zeros_like(const zmi_type *type);
// Axes of a to the front (in their order), the others after them; and back.
zm_array *zmi_axes_to_front(zm_array *a, const int *axes, int count);
zm_array *zmi_axes_from_front(zm_array *a, const int *axes, int count);

// prod, var, logsumexp, argmin, any or all over one axis (reduce_more.c).
zm_array *zmi_reduce_more(const zmi_op *op, zm_array *a, int axis, bool keepdims, int64_t ddof);

#endif
