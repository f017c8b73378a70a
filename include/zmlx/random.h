// Random numbers from counter-based keys (Threefry 2x32): a key and a shape give the same numbers on every machine, with any number of
// threads. Bits, uniform numbers and integers are those that MLX gives for the same key.
//
// A key is uint32 [2]. There is no hidden state: split a key for each use. Leading dimensions of a key [..., 2] are a batch: every key
// makes numbers of `shape` of its own, and the result is [..., shape] (categorical and permutation_of take one key).
#ifndef ZMLX_RANDOM_H
#define ZMLX_RANDOM_H

#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

ZM_API zm_array *zm_random_key(uint64_t seed);
// uint32 [count, 2]: new keys, independent of each other and of `key`.
ZM_API zm_array *zm_random_split(zm_array *key, int64_t count);
// Two new keys: of zm_random_split(key, 2).
ZM_API zm_status zm_random_split2(zm_array *key, zm_array **first, zm_array **second);
// Unsigned integers of `width` bytes (1, 2 or 4), all values alike.
ZM_API zm_array *zm_random_bits(zm_array *key, int width, const int64_t *shape, int rank);
// Numbers in [low, high); low and high broadcast to the result and may be NULL for 0 and 1. dtype: of floats.
ZM_API zm_array *zm_random_uniform(zm_array *key, zm_array *low, zm_array *high, zm_dtype dtype, const int64_t *shape, int rank);
// Integers in [low, high), of an integer dtype.
ZM_API zm_array *zm_random_randint(zm_array *key, zm_array *low, zm_array *high, zm_dtype dtype, const int64_t *shape, int rank);
// The numbers 0 to n - 1 in random order, uint32 [n] (a batch of keys: one order each).
ZM_API zm_array *zm_random_permutation(zm_array *key, int64_t n);
// The slices of a along an axis in random order, that of zm_random_permutation.
ZM_API zm_array *zm_random_permutation_of(zm_array *key, zm_array *a, int axis);
// true with probability p (floats, which broadcast to the shape; NULL for 1/2).
ZM_API zm_array *zm_random_bernoulli(zm_array *key, zm_array *p, const int64_t *shape, int rank);
// Standard Gumbel numbers, -log(-log(u)).
ZM_API zm_array *zm_random_gumbel(zm_array *key, zm_dtype dtype, const int64_t *shape, int rank);
// Normal numbers, scale * sqrt(2) erfinv(u) + loc; loc and scale broadcast to the result and may be NULL for 0 and 1.
ZM_API zm_array *zm_random_normal(zm_array *key, zm_array *loc, zm_array *scale, zm_dtype dtype, const int64_t *shape, int rank);
// Of the standard normal distribution what lies in [lower, upper], which broadcast to the shape.
ZM_API zm_array *zm_random_truncated_normal(zm_array *key, zm_array *lower, zm_array *upper, zm_dtype dtype, const int64_t *shape,
                                            int rank);
// Normal numbers with a mean [..., n] and a covariance [..., n, n], symmetric and without negative eigenvalues: mean + z R, with R R the
// covariance. The result is [shape and the leading dimensions of both, broadcast to each other, n]; takes one key.
ZM_API zm_array *zm_random_multivariate_normal(zm_array *key, zm_array *mean, zm_array *covariance, zm_dtype dtype, const int64_t *shape,
                                               int rank);
ZM_API zm_array *zm_random_laplace(zm_array *key, double loc, double scale, zm_dtype dtype, const int64_t *shape, int rank);
// Indices along `axis` (uint32), drawn with the probabilities softmax(logits): the argmax of logits plus Gumbel numbers in float32. The
// result is of the shape to which the logits without that axis broadcast; shape NULL: just that shape.
ZM_API zm_array *zm_random_categorical(zm_array *key, zm_array *logits, int axis, const int64_t *shape, int rank);
// `count` of them for each place, along a new last axis.
ZM_API zm_array *zm_random_categorical_many(zm_array *key, zm_array *logits, int axis, int64_t count);

#ifdef __cplusplus
}
#endif
#endif
