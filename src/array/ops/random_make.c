// Random numbers of the distributions, made of the words and uniform numbers of random.c by the formulas of MLX.
#include "array/ops/ops.h"
#include "array/ops/random.h"
#include <zmlx/elementwise.h>
#include <zmlx/ops.h>
#include <zmlx/random.h>

#include <string.h>

static zm_array *numbers(const char *name, zm_array *key, zm_dtype dtype, const int64_t *shape, int rank) {
  zmi_random_attrs a = {.dtype = dtype, .rank = rank};
  if (!zmi_present(name, 1, &key)) return NULL;
  if (rank < 0 || rank > ZM_MAX_RANK || (rank > 0 && !shape)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: a shape of rank %d, expected 0 to %d dimensions", name, rank, ZM_MAX_RANK);
    return NULL;
  }
  for (int i = 0; i < rank; i++) a.shape[i] = shape[i];
  return zmi_apply1(&zmi_op_random_bits, &a, sizeof a, 1, &key);
}

// Whether y has the shape that was asked for: operands must not have made it larger.
static zm_array *of_shape(const char *name, zm_array *y, const zm_array *plain) {
  char found[128], wanted[128];
  if (!y) return NULL;
  if (y->type.rank == plain->type.rank && memcmp(y->type.shape, plain->type.shape, (size_t)y->type.rank * sizeof(int64_t)) == 0) return y;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: operands make the result %s, asked for is %s", name, zmi_type_text(&y->type, found),
           zmi_type_text(&plain->type, wanted));
  return NULL;
}

static bool want_float(const char *name, zm_dtype dtype) {
  if (zmi_dtype_is_float(dtype)) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: the dtype must be float16, bfloat16 or float32, not %s", name, zm_dtype_name(dtype));
  return false;
}

static bool one_key(const char *name, const zm_array *key) {
  if (key->type.rank == 1) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: takes one key, uint32 [2], not a batch of rank %d", name, key->type.rank);
  return false;
}

static zm_array *number(double v, zm_dtype dtype) {
  return zm_full(v, dtype, NULL, 0);
}

zm_array *zm_random_key(uint64_t seed) {
  const uint32_t words[2] = {(uint32_t)(seed >> 32), (uint32_t)seed};
  return zm_array_from_data(words, ZM_U32, (int64_t[]){2}, 1);
}

zm_array *zm_random_split(zm_array *key, int64_t count) {
  return numbers("random_split", key, ZM_U32, (int64_t[]){count, 2}, 2);
}

zm_status zm_random_split2(zm_array *key, zm_array **first, zm_array **second) {
  zm_array *both = zm_random_split(key, 2);
  if (!both) return zm_last_status();
  if (both->type.rank != 2) return zmi_fail(ZM_ERROR_ARGUMENT, "random_split2: takes one key, uint32 [2]");
  *first = zm_squeeze(zm_slice(both, (int64_t[]){0, 0}, (int64_t[]){1, 2}, NULL), 0);
  *second = zm_squeeze(zm_slice(both, (int64_t[]){1, 0}, (int64_t[]){2, 2}, NULL), 0);
  return *first && *second ? ZM_OK : zm_last_status();
}

zm_array *zm_random_bits(zm_array *key, int width, const int64_t *shape, int rank) {
  static const zm_dtype dtypes[] = {[1] = ZM_U8, [2] = ZM_U16, [4] = ZM_U32};
  if (width != 1 && width != 2 && width != 4) {
    zmi_fail(ZM_ERROR_ARGUMENT, "random_bits: a width of %d bytes, expected 1, 2 or 4", width);
    return NULL;
  }
  return numbers("random_bits", key, dtypes[width], shape, rank);
}

zm_array *zm_random_uniform(zm_array *key, zm_array *low, zm_array *high, zm_dtype dtype, const int64_t *shape, int rank) {
  if (!want_float("random_uniform", dtype)) return NULL;
  zm_array *u = numbers("random_uniform", key, dtype, shape, rank);
  if (!u || (!low && !high)) return u;
  low = low ? zm_astype(low, dtype) : number(0, dtype);
  high = high ? zm_astype(high, dtype) : number(1, dtype);
  return of_shape("random_uniform", zm_add(zm_multiply(zm_subtract(high, low), u), low), u);
}

zm_array *zm_random_bernoulli(zm_array *key, zm_array *p, const int64_t *shape, int rank) {
  if (!p) p = number(0.5, ZM_F32);
  if (p && !want_float("random_bernoulli", p->type.dtype)) return NULL;
  zm_array *bits = numbers("random_bernoulli", key, ZM_U32, shape, rank);
  // p on a scale that ends just above the largest word, so that 1 is always and 0 never.
  return bits ? of_shape("random_bernoulli", zm_less(bits, zm_multiply(p, number(0x1.000002p32, ZM_F32))), bits) : NULL;
}

zm_array *zm_random_gumbel(zm_array *key, zm_dtype dtype, const int64_t *shape, int rank) {
  if (!want_float("random_gumbel", dtype)) return NULL;
  zm_array *u = numbers("random_gumbel", key, dtype, shape, rank);
  return zm_negative(zm_log(zm_negative(zm_log(u))));
}

// u toward minus infinity, as an integer of the dtype.
static zm_array *floor_of(zm_array *u, zm_dtype dtype) {
  zm_array *whole = zm_astype(u, ZM_I64); // toward zero
  zm_array *below = whole ? zm_less(u, zm_astype(whole, ZM_F32)) : NULL;
  return below ? zm_astype(zm_subtract(whole, zm_astype(below, ZM_I64)), dtype) : NULL;
}

zm_array *zm_random_randint(zm_array *key, zm_array *low, zm_array *high, zm_dtype dtype, const int64_t *shape, int rank) {
  zm_array *in[2] = {low, high};
  if (!zmi_present("random_randint", 2, in)) return NULL;
  for (int i = 0; i < 3; i++) {
    const zm_dtype t = i < 2 ? in[i]->type.dtype : dtype;
    if (zmi_dtype_is_known(t) && !zmi_dtype_is_float(t)) continue;
    zmi_fail(ZM_ERROR_ARGUMENT, "random_randint: %s must be of an integer dtype, not %s", i < 2 ? "a limit" : "the result",
             zm_dtype_name(t));
    return NULL;
  }
  zm_array *u = zm_random_uniform(key, low, high, ZM_F32, shape, rank);
  if (!u) return NULL;
  // Limits that float32 cannot hold would let numbers through that lie outside.
  zm_array *most = zm_astype(zm_subtract(high, number(1, high->type.dtype)), dtype);
  return zm_maximum(zm_minimum(floor_of(u, dtype), most), zm_astype(low, dtype));
}

zm_array *zm_random_permutation(zm_array *key, int64_t n) {
  zm_array *bits = numbers("random_permutation", key, ZM_U32, &n, 1);
  return bits ? zm_argsort(bits, -1) : NULL;
}

zm_array *zm_random_permutation_of(zm_array *key, zm_array *a, int axis) {
  zm_array *in[2] = {key, a};
  if (!zmi_present("random_permutation_of", 2, in) || !one_key("random_permutation_of", key)) return NULL;
  if (!zmi_axis("random_permutation_of", axis, a->type.rank, &axis)) return NULL;
  return zm_take_axis(a, zm_random_permutation(key, a->type.shape[axis]), axis);
}

// ---- distributions ----

// In (-1, 1), float32.
static zm_array *signed_uniform(const char *name, zm_array *key, zm_dtype dtype, const int64_t *shape, int rank) {
  return want_float(name, dtype) ? zm_random_uniform(key, number(-0x1.fffffep-1, ZM_F32), number(1, ZM_F32), ZM_F32, shape, rank) : NULL;
}

zm_array *zm_random_normal(zm_array *key, zm_array *loc, zm_array *scale, zm_dtype dtype, const int64_t *shape, int rank) {
  zm_array *u = signed_uniform("random_normal", key, dtype, shape, rank), *width = number(0x1.6a09e667f3bcdp0, dtype);
  if (!u) return NULL;
  if (scale) width = zm_multiply(width, zm_astype(scale, dtype));
  zm_array *y = zm_multiply(width, zm_astype(zm_erfinv(u), dtype));
  return of_shape("random_normal", loc ? zm_add(zm_astype(loc, dtype), y) : y, u);
}

zm_array *zm_random_truncated_normal(zm_array *key, zm_array *lower, zm_array *upper, zm_dtype dtype, const int64_t *shape, int rank) {
  zm_array *limit[2] = {lower, upper}, *edge[2], *root = number(0x1.6a09e667f3bcdp0, dtype);
  if (!want_float("random_truncated_normal", dtype) || !zmi_present("random_truncated_normal", 2, limit)) return NULL;
  for (int i = 0; i < 2; i++) {
    limit[i] = zm_astype(limit[i], dtype);
    edge[i] = zm_erf(zm_divide(limit[i], root));
  }
  zm_array *u = edge[0] && edge[1] ? zm_random_uniform(key, edge[0], edge[1], dtype, shape, rank) : NULL;
  zm_array *y = u ? zm_multiply(root, zm_erfinv(u)) : NULL;
  return y ? zm_maximum(zm_minimum(limit[1], y), limit[0]) : NULL;
}

zm_array *zm_random_multivariate_normal(zm_array *key, zm_array *mean, zm_array *covariance, zm_dtype dtype, const int64_t *shape,
                                        int rank) {
  static const char name[] = "random_multivariate_normal";
  zm_array *in[3] = {key, mean, covariance};
  char found[128], other[128];
  if (!want_float(name, dtype) || !zmi_present(name, 3, in) || !one_key(name, key)) return NULL;
  const zmi_type *m = &mean->type, *c = &covariance->type;
  const int64_t n = m->rank ? m->shape[m->rank - 1] : 0;
  if (m->rank < 1 || c->rank < 2 || c->shape[c->rank - 1] != n || c->shape[c->rank - 2] != n) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: expected a mean [..., n] and a covariance [..., n, n], found %s and %s", name, zmi_type_text(m, found),
             zmi_type_text(c, other));
    return NULL;
  }
  if (rank < 0 || rank >= ZM_MAX_RANK || (rank > 0 && !shape)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: a shape of rank %d, expected 0 to %d dimensions", name, rank, ZM_MAX_RANK - 1);
    return NULL;
  }
  zmi_type of_mean = *m, of_covariance = *c, both = {0}, wanted = {.rank = rank};
  of_mean.rank--;
  of_covariance.rank -= 2;
  for (int i = 0; i < rank; i++) wanted.shape[i] = shape[i];
  int64_t whole[ZM_MAX_RANK + 1];
  if (!zmi_broadcast_shape(name, &of_mean, &of_covariance, &both.rank, both.shape)) return NULL;
  if (!zmi_broadcast_shape(name, &both, &wanted, &rank, whole)) return NULL;
  if (rank >= ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: a result of more than %d dimensions", name, ZM_MAX_RANK);
    return NULL;
  }
  whole[rank] = n;
  zm_array *root = zmi_symmetric_root(zm_astype(covariance, ZM_F32)), *z = zm_random_normal(key, NULL, NULL, ZM_F32, whole, rank + 1);
  zm_array *scaled = root && z ? zm_squeeze(zm_matmul(zm_expand_dims(z, -2), root), -2) : NULL;
  return scaled ? zm_astype(zm_add(zm_astype(mean, ZM_F32), scaled), dtype) : NULL;
}

zm_array *zm_random_laplace(zm_array *key, double loc, double scale, zm_dtype dtype, const int64_t *shape, int rank) {
  zm_array *u = signed_uniform("random_laplace", key, dtype, shape, rank);
  if (!u) return NULL;
  zm_array *y = zm_astype(zm_multiply(zm_sign(u), zm_log1p(zm_negative(zm_abs(u)))), dtype);
  if (scale != 1) y = zm_multiply(number(scale, dtype), y);
  return loc != 0 ? zm_add(number(loc, dtype), y) : y;
}

// The argmax over axis `at` of Gumbel numbers of `shape` plus the logits.
static zm_array *chosen(zm_array *key, zm_array *logits, int at, const int64_t *shape, int rank) {
  zm_array *g = zm_random_gumbel(key, ZM_F32, shape, rank), *sum = g ? zm_add(g, logits) : NULL;
  return of_shape("random_categorical", sum, g) ? zm_argmax(sum, at, false) : NULL;
}

static bool ready(zm_array *key, zm_array *logits, int *axis) {
  zm_array *in[2] = {key, logits};
  return zmi_present("random_categorical", 2, in) && one_key("random_categorical", key) &&
         zmi_axis("random_categorical", *axis, logits->type.rank, axis);
}

zm_array *zm_random_categorical(zm_array *key, zm_array *logits, int axis, const int64_t *shape, int rank) {
  int64_t whole[ZM_MAX_RANK];
  if (!ready(key, logits, &axis)) return NULL;
  const zmi_type *t = &logits->type;
  if (!shape) rank = t->rank - 1;
  const int at = axis + rank - t->rank + 1; // of the axis in the numbers that are drawn
  if (rank < t->rank - 1 || rank >= ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_ARGUMENT, "random_categorical: a result of rank %d from logits of rank %d, expected %d to %d", rank, t->rank,
             t->rank - 1, ZM_MAX_RANK - 1);
    return NULL;
  }
  for (int i = 0; i <= rank; i++) {
    const int from = i < at ? i : i - 1;
    whole[i] = i == at ? t->shape[axis] : shape ? shape[from] : t->shape[i];
  }
  return chosen(key, logits, at, whole, rank + 1);
}

zm_array *zm_random_categorical_many(zm_array *key, zm_array *logits, int axis, int64_t count) {
  int64_t whole[ZM_MAX_RANK];
  if (!ready(key, logits, &axis)) return NULL;
  const int rank = logits->type.rank;
  if (rank == ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_ARGUMENT, "random_categorical_many: logits of rank %d leave no room for one more axis", rank);
    return NULL;
  }
  for (int i = 0; i < rank; i++) whole[i] = logits->type.shape[i];
  whole[rank] = count;
  return chosen(key, zm_expand_dims(logits, -1), axis, whole, rank + 1);
}
