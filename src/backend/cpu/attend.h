// Attention over one range of positions, for the vector tiers. Several queries share each key and each value that is read: what is stored
// in two bytes is widened once for all of them. The sums of a query are those it has alone. Included by vector.c.
#ifndef ZMI_ATTEND_H
#define ZMI_ATTEND_H

#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"

// How keys and values stand in memory. BF16_PAIRS: bfloat16 where the processor multiplies pairs of them.
typedef enum store_kind { BF16_PAIRS, BF16, F16, F32 } store_kind;

enum {
  KEY_BLOCKS = ZMI_KEY_RANGE / ZMI_KEY_BLOCK,
  SIDE_BY_SIDE = ZMI_HALVES == 1 ? 16 : 4, // sums of key blocks times queries
  MOST_BLOCKS = 4,                         // of those, key blocks
};

// A range at hand. next_keys, next_values: bytes to what is asked for meanwhile, the same place in the next range; 0 if there is none, or
// others ask for it.
typedef struct key_range {
  const char *keys, *values;
  zm_dtype dtype;
  int64_t dim, count, next_keys, next_values;
} key_range;

ZMI_INLINE void ask_for(const char *at, int64_t next) {
  __builtin_prefetch(at + next, 0, 2);
}

// total[block * queries + query] (+= if `add`) the sum of `pairs` products of each query and the keys of n blocks. keys: the first block's
// first pair; blocks are `stride` bytes apart.
ZMI_INLINE void score_blocks(store_kind kind, int queries, int n, const char *keys, int64_t stride, int64_t next, const void *const *q,
                             int64_t pairs, bool add, vf total[][ZMI_HALVES]) {
  vf acc[SIDE_BY_SIDE][ZMI_HALVES];
  ZMI_UNROLL
  for (int i = 0; i < n * queries; i++) {
    ZMI_UNROLL
    for (int h = 0; h < ZMI_HALVES; h++) acc[i][h] = vf_zero();
  }
  for (int64_t j = 0; j < pairs; j++) {
#if defined(__AVX512BF16__)
    if (kind == BF16_PAIRS) {
      ZMI_UNROLL
      for (int b = 0; b < n; b++) {
        const char *at = keys + b * stride + 64 * j;
        __m512bh v = (__m512bh)_mm512_loadu_si512(at);
        ask_for(at, next);
        ZMI_UNROLL
        for (int i = 0; i < queries; i++) {
          vf *to = &acc[b * queries + i][0];
          *to = _mm512_dpbf16_ps(*to, v, (__m512bh)vi_broadcast4((const uint16_t *)q[i] + 2 * j));
        }
      }
      continue;
    }
#endif
    ZMI_UNROLL
    for (int b = 0; b < n; b++) {
      pair p[ZMI_HALVES];
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) {
        const int64_t from = (kind == F32 ? 8 : 4) * ZMI_WIDE * h;
        const char *at = keys + b * stride + (kind == F32 ? 128 : 64) * j + from;
        if (from % 64 == 0) ask_for(at, next);
        if (kind == F32) {
          p[h] = pair_of_two(vf_load(at), vf_load(at + 4 * ZMI_WIDE));
        } else if (kind == F16) {
          p[h] = pair_of_two(vf_load_f16(at), vf_load_f16(at + 2 * ZMI_WIDE));
        } else {
          p[h] = pair_of_bf16(vu_load(at));
        }
      }
      ZMI_UNROLL
      for (int i = 0; i < queries; i++) {
        vf even = vf_set1(((const float *)q[i])[2 * j]), odd = vf_set1(((const float *)q[i])[2 * j + 1]), *to = acc[b * queries + i];
        ZMI_UNROLL
        for (int h = 0; h < ZMI_HALVES; h++) to[h] = vf_fma(p[h].even, even, vf_fma(p[h].odd, odd, to[h]));
      }
    }
  }
  ZMI_UNROLL
  for (int i = 0; i < n * queries; i++) {
    ZMI_UNROLL
    for (int h = 0; h < ZMI_HALVES; h++) total[i][h] = (add ? total[i][h] : vf_zero()) + acc[i][h];
  }
}

// p[i][t] = scale * (q_i . key t); each p[i] has room for whole blocks.
ZMI_INLINE void scores(store_kind kind, int queries, const zmi_query *query, const key_range *r, float scale, float p[][ZMI_KEY_RANGE]) {
  enum { MOST = ZMI_QUERIES };
  const int64_t size = kind == F32 ? 4 : 2, stride = r->dim * ZMI_KEY_BLOCK * size;
  const int blocks = (int)((r->count + ZMI_KEY_BLOCK - 1) / ZMI_KEY_BLOCK), together = ZMI_MIN(SIDE_BY_SIDE / queries, (int)MOST_BLOCKS);
  vf total[KEY_BLOCKS * MOST][ZMI_HALVES];
  float part[MOST][ZMI_RANGE];
  for (int64_t begin = 0; begin < r->dim; begin += ZMI_RANGE) {
    const int64_t pairs = ZMI_MIN(r->dim - begin, ZMI_RANGE) / 2;
    const void *x[MOST];
    ZMI_UNROLL
    for (int i = 0; i < queries; i++) {
      x[i] = (const char *)query[i].q + begin * size;
      if (kind != BF16 && kind != F16) continue;
      row_load(x[i], r->dtype, 2 * pairs, part[i]);
      x[i] = part[i];
    }
    const char *first = r->keys + begin * ZMI_KEY_BLOCK * size;
    int b = 0;
    for (; b + together <= blocks; b += together)
      score_blocks(kind, queries, together, first + b * stride, stride, r->next_keys, x, pairs, begin > 0, total + b * queries);
    for (; b < blocks; b++)
      score_blocks(kind, queries, 1, first + b * stride, stride, r->next_keys, x, pairs, begin > 0, total + b * queries);
  }
  for (int b = 0; b < blocks; b++) {
    for (int i = 0; i < queries; i++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) {
        vf v = total[b * queries + i][h];
        if (kind == F16 || kind == F32) v = pair_order(v);
        vf_store(p[i] + b * ZMI_KEY_BLOCK + h * ZMI_WIDE, vf_set1(scale) * v);
      }
    }
  }
}

// acc[0 .. 2 n ZMI_WIDE) of each query, from element d on = the sum over t of p[t] values[t]. Even and odd elements of bfloat16 rows are
// summed apart.
ZMI_INLINE void value_columns(store_kind kind, int queries, int n, float p[][ZMI_KEY_RANGE], const key_range *r, int64_t d,
                              const zmi_query *query) {
  const int64_t size = kind == F32 ? 4 : 2;
  const char *values = r->values + d * size;
  vf even[ZMI_QUERIES][4], odd[ZMI_QUERIES][4];
  ZMI_UNROLL
  for (int i = 0; i < queries; i++) {
    ZMI_UNROLL
    for (int c = 0; c < n; c++) even[i][c] = odd[i][c] = vf_zero();
  }
  for (int64_t t = 0; t < r->count; t++, values += r->dim * size) {
    ZMI_UNROLL
    for (int c = 0; c < n; c++) {
      const char *at = values + 2 * ZMI_WIDE * size * c;
      pair v;
      if (2 * ZMI_WIDE * size * c % 64 == 0) ask_for(at, r->next_values);
      if (kind == F32) {
        v = (pair){vf_load(at), vf_load(at + 4 * ZMI_WIDE)};
      } else if (kind == F16) {
        v = (pair){vf_load_f16(at), vf_load_f16(at + 2 * ZMI_WIDE)};
      } else {
        v = pair_of_bf16(vu_load(at));
      }
      ZMI_UNROLL
      for (int i = 0; i < queries; i++) {
        vf w = vf_set1(p[i][t]);
        even[i][c] = vf_fma(w, v.even, even[i][c]);
        odd[i][c] = vf_fma(w, v.odd, odd[i][c]);
      }
    }
  }
  ZMI_UNROLL
  for (int i = 0; i < queries; i++) {
    ZMI_UNROLL
    for (int c = 0; c < n; c++) {
      pair v = {even[i][c], odd[i][c]};
      if (kind == BF16 || kind == BF16_PAIRS) v = pair_interleave(v);
      vf_store(query[i].acc + d + 2 * c * ZMI_WIDE, v.even);
      vf_store(query[i].acc + d + (2 * c + 1) * ZMI_WIDE, v.odd);
    }
  }
}

ZMI_INLINE void attend_some(store_kind kind, int queries, const zmi_query *query, const key_range *r, float scale) {
  const int64_t size = kind == F32 ? 4 : 2, step = 2 * ZMI_WIDE, dim = r->dim;
  // Sums a query: even and odd of n columns. More would not fit the registers.
  const int wide = ZMI_REGISTERS == 32 ? (queries == 4 ? 2 : 4) : 4 / queries;
  float p[ZMI_QUERIES][ZMI_KEY_RANGE];
  for (int i = 0; i < queries; i++) memset(p[i], 0, sizeof p[i]);
  scores(kind, queries, query, r, scale, p);
  for (int i = 0; i < queries; i++) {
    *query[i].max = row_max(p[i], r->count);
    *query[i].sum = exp_sum(p[i], r->count, *query[i].max);
  }
  int64_t d = 0;
  for (; d + wide * step <= dim; d += wide * step) value_columns(kind, queries, wide, p, r, d, query);
  for (; d + step <= dim; d += step) value_columns(kind, queries, 1, p, r, d, query);
  for (int i = 0; i < queries && d < dim; i++) {
    memset(query[i].acc + d, 0, (size_t)(dim - d) * sizeof(float));
    for (int64_t t = 0; t < r->count; t++) row_axpy(p[i][t], r->values + (t * dim + d) * size, r->dtype, dim - d, query[i].acc + d);
  }
}

// The first four queries ask for the next range's keys and the second for its values: together they take as long as memory does.
#define ATTEND(kind)                                                                                                                       \
  static void attend_##kind(const zmi_query *query, int queries, key_range *r, int64_t next, float scale) {                                \
    for (int done = 0; done < queries;) {                                                                                                  \
      const int left = queries - done, n = left >= 4 ? 4 : left >= 2 ? 2 : 1;                                                              \
      r->next_keys = done == 0 ? next : 0;                                                                                                 \
      r->next_values = done == 4 || (done == 0 && queries <= 4) ? next : 0;                                                                \
      if (n == 4) attend_some(kind, 4, query + done, r, scale);                                                                            \
      if (n == 2) attend_some(kind, 2, query + done, r, scale);                                                                            \
      if (n == 1) attend_some(kind, 1, query + done, r, scale);                                                                            \
      done += n;                                                                                                                           \
    }                                                                                                                                      \
  }
ATTEND(F16)
ATTEND(F32)
#if defined(__AVX512BF16__)
ATTEND(BF16_PAIRS)
#define ATTEND_BF16 attend_BF16_PAIRS
#else
ATTEND(BF16)
#define ATTEND_BF16 attend_BF16
#endif
#undef ATTEND

static void vector_attend(const zmi_query *query, int queries, const void *keys, const void *values, zm_dtype dtype, int64_t dim,
                          int64_t count, float scale, bool more) {
  key_range r = {.keys = keys, .values = values, .dtype = dtype, .dim = dim, .count = count};
  const int64_t next = more ? ZMI_KEY_RANGE * dim * (dtype == ZM_F32 ? 4 : 2) : 0;
  (dtype == ZM_BF16 ? ATTEND_BF16 : dtype == ZM_F16 ? attend_F16 : attend_F32)(query, queries, &r, next, scale);
}

#endif
