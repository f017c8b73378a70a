// New arrays, diagonals and triangles, and products made of matmul, multiply and sum.
#include "array/ops/index.h"

#include <inttypes.h>

#include <string.h>

// ---- new arrays ----

zm_array *zm_zeros(zm_dtype dtype, const int64_t *shape, int rank) {
  return zm_full(0, dtype, shape, rank);
}

zm_array *zm_ones(zm_dtype dtype, const int64_t *shape, int rank) {
  return zm_full(1, dtype, shape, rank);
}

zm_array *zm_full_like(zm_array *a, double value) {
  return zmi_present("full_like", 1, &a) ? zmi_full_like(a, value) : NULL;
}

zm_array *zm_zeros_like(zm_array *a) {
  return zm_full_like(a, 0);
}

zm_array *zm_ones_like(zm_array *a) {
  return zm_full_like(a, 1);
}

// Column numbers [1, m], and in `diagonal` [n, 1] those of diagonal k in each row.
static zm_array *columns(const char *op, int64_t n, int64_t m, int64_t k, zm_array **diagonal) {
  if (n < 0 || m < 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: %lld rows of %lld", op, (long long)n, (long long)m);
    return NULL;
  }
  const int64_t most = n > INT64_MAX - m ? INT64_MAX : n + m;
  const zm_dtype dtype = most <= INT32_MAX / 2 ? ZM_I32 : ZM_I64; // narrow ones are compared faster
  zm_array *row = zm_arange(0, (double)n, 1, dtype), *col = zm_arange(0, (double)m, 1, dtype);
  *diagonal = zm_add(row, zm_full((double)ZMI_MAX(-most, ZMI_MIN(k, most)), dtype, NULL, 0));
  if (!*diagonal || !col) return NULL;
  *diagonal = zm_reshape(*diagonal, (int64_t[]){n, 1}, 2);
  return zm_reshape(col, (int64_t[]){1, m}, 2);
}

zm_array *zm_eye(int64_t n, int64_t m, int64_t k, zm_dtype dtype) {
  zm_array *diagonal, *col = columns("eye", n, m, k, &diagonal);
  return col ? zm_astype(zm_equal(col, diagonal), dtype) : NULL;
}

zm_array *zm_identity(int64_t n, zm_dtype dtype) {
  return zm_eye(n, n, 0, dtype);
}

zm_array *zm_tri(int64_t n, int64_t m, int64_t k, zm_dtype dtype) {
  zm_array *diagonal, *col = columns("tri", n, m, k, &diagonal);
  return col ? zm_astype(zm_less_equal(col, diagonal), dtype) : NULL;
}

// ---- triangles and diagonals ----

static zm_array *triangle(const char *op, zm_array *a, int64_t k, bool lower) {
  char text[128];
  if (!zmi_present(op, 1, &a)) return NULL;
  if (a->type.rank < 2) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s has no matrices", op, zmi_type_text(&a->type, text));
    return NULL;
  }
  const int64_t n = a->type.shape[a->type.rank - 2], m = a->type.shape[a->type.rank - 1];
  zm_array *below = zm_tri(n, m, lower ? k : k - (k > INT64_MIN), ZM_BOOL), *zero = zmi_scalar_like(a, 0);
  return zm_where(below, lower ? a : zero, lower ? zero : a);
}

zm_array *zm_tril(zm_array *a, int64_t k) {
  return triangle("tril", a, k, true);
}

zm_array *zm_triu(zm_array *a, int64_t k) {
  return triangle("triu", a, k, false);
}

zm_array *zm_diag(zm_array *a, int64_t k) {
  char text[128];
  if (!zmi_present("diag", 1, &a)) return NULL;
  if (a->type.rank == 2) return zm_diagonal(a, k, 0, 1);
  if (a->type.rank != 1 || k < -(INT64_C(1) << 31) || k > INT64_C(1) << 31) {
    zmi_fail(ZM_ERROR_ARGUMENT, "diag: expected a matrix or a vector, found %s, diagonal %lld", zmi_type_text(&a->type, text),
             (long long)k);
    return NULL;
  }
  // Row i holds element i less what the diagonal lies below.
  const int64_t more = k < 0 ? -k : k, n = a->type.shape[0] + more;
  const int64_t before = k < 0 ? more : 0, after = k < 0 ? 0 : more;
  zm_array *rows = zm_pad(a, &before, &after, ZM_PAD_CONSTANT, 0);
  return zm_where(zm_eye(n, n, k, ZM_BOOL), rows ? zm_expand_dims(rows, 1) : NULL, zmi_scalar_like(a, 0));
}

zm_array *zm_trace(zm_array *a, int64_t k, int axis1, int axis2) {
  zm_array *d = zm_diagonal(a, k, axis1, axis2);
  return d ? zm_sum(d, -1, false) : NULL;
}

zm_array *zm_masked_fill(zm_array *a, zm_array *mask, double value) {
  zm_array *in[2] = {a, mask};
  return zmi_present("masked_fill", 2, in) ? zm_where(mask, zmi_scalar_like(a, value), a) : NULL;
}

// ---- products ----

zm_array *zm_outer(zm_array *a, zm_array *b) {
  zm_array *in[2] = {a, b};
  if (!zmi_present("outer", 2, in)) return NULL;
  return zm_multiply(zm_reshape(a, (int64_t[]){-1, 1}, 2), zm_reshape(b, (int64_t[]){1, -1}, 2));
}

zm_array *zm_vecdot(zm_array *a, zm_array *b, int axis) {
  zm_array *product = zm_multiply(a, b);
  return product ? zm_sum(product, axis, false) : NULL;
}

zm_array *zm_inner(zm_array *a, zm_array *b) {
  zm_array *in[2] = {a, b};
  if (!zmi_present("inner", 2, in)) return NULL;
  if (a->type.rank == 0 || b->type.rank == 0) return zm_multiply(a, b);
  return zm_tensordot(a, b, (const int[]){-1}, (const int[]){-1}, 1);
}

zm_array *zm_kron(zm_array *a, zm_array *b) {
  zm_array *in[2] = {a, b};
  int64_t x[ZM_MAX_RANK], y[ZM_MAX_RANK], shape[ZM_MAX_RANK];
  if (!zmi_present("kron", 2, in)) return NULL;
  const int rank = ZMI_MAX(a->type.rank, b->type.rank);
  if (2 * rank > ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_LIMIT, "kron: arrays of rank %d need products of rank %d, the most is %d", rank, 2 * rank, ZM_MAX_RANK);
    return NULL;
  }
  for (int i = 0; i < rank; i++) {
    const int ia = i - (rank - a->type.rank), ib = i - (rank - b->type.rank);
    x[2 * i] = ia < 0 ? 1 : a->type.shape[ia];
    y[2 * i + 1] = ib < 0 ? 1 : b->type.shape[ib];
    x[2 * i + 1] = y[2 * i] = 1;
    if (__builtin_mul_overflow(x[2 * i], y[2 * i + 1], &shape[i])) {
      zmi_fail(ZM_ERROR_LIMIT, "kron: dims of %" PRId64 " and %" PRId64 " make one of more than can be counted", x[2 * i], y[2 * i + 1]);
      return NULL;
    }
  }
  zm_array *product = zm_multiply(zm_reshape(a, x, 2 * rank), zm_reshape(b, y, 2 * rank));
  return product ? zm_reshape(product, shape, rank) : NULL;
}

zm_array *zm_tensordot(zm_array *a, zm_array *b, const int *a_axes, const int *b_axes, int count) {
  zm_array *in[2] = {a, b};
  char left[2 * ZM_MAX_RANK + 1], right[2 * ZM_MAX_RANK + 1], text[128], other[128];
  if (!zmi_present("tensordot", 2, in)) return NULL;
  if (count < 0 || count > a->type.rank || count > b->type.rank) {
    zmi_fail(ZM_ERROR_ARGUMENT, "tensordot: %d axes of %s and %s", count, zmi_type_text(&a->type, text), zmi_type_text(&b->type, other));
    return NULL;
  }
  // As letters: a's axes a, b, ...; b's axes m, n, ..., but those that meet are called alike.
  for (int i = 0; i < a->type.rank; i++) left[i] = (char)('a' + i);
  for (int i = 0; i < b->type.rank; i++) right[i] = (char)('m' + i);
  for (int i = 0; i < count; i++) {
    int x, y;
    if (!zmi_axis("tensordot", a_axes[i], a->type.rank, &x) || !zmi_axis("tensordot", b_axes[i], b->type.rank, &y)) return NULL;
    if (right[y] < 'm' || memchr(right, left[x], (size_t)b->type.rank)) {
      zmi_fail(ZM_ERROR_ARGUMENT, "tensordot: axis %d or %d is there twice", a_axes[i], b_axes[i]);
      return NULL;
    }
    if (a->type.shape[x] != b->type.shape[y]) {
      zmi_fail(ZM_ERROR_ARGUMENT, "tensordot: axis %d of %s does not meet axis %d of %s", a_axes[i], zmi_type_text(&a->type, text),
               b_axes[i], zmi_type_text(&b->type, other));
      return NULL;
    }
    right[y] = left[x];
  }
  char all[8 * ZM_MAX_RANK + 8];
  size_t n = 0;
  memcpy(all, left, (size_t)a->type.rank);
  n += (size_t)a->type.rank;
  all[n++] = ',';
  memcpy(all + n, right, (size_t)b->type.rank);
  n += (size_t)b->type.rank;
  all[n++] = '-';
  all[n++] = '>';
  for (int i = 0; i < a->type.rank; i++) {
    if (!memchr(right, left[i], (size_t)b->type.rank)) all[n++] = left[i];
  }
  for (int i = 0; i < b->type.rank; i++) {
    if (right[i] >= 'm') all[n++] = right[i];
  }
  all[n] = 0;
  zm_array *y = zm_einsum(all, in, 2);
  if (!y) zmi_fail_within("tensordot");
  return y;
}
