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

// A range at hand. The next one, `next` bytes behind it (0: there is none), is asked for meanwhile, evenly and from front to back, as
// memory likes it: all that is read for some of the queries, keys or values, asks for a part of it. ask: where that goes on; ask_step:
// bytes for each line that is read.
typedef struct key_range {
  const char *keys, *values, *ask;
  zm_dtype dtype;
  int64_t dim, count, next, ask_step;
  int part, parts;
} key_range;

// From here on the next part is asked for; the first half of them is keys.
ZMI_INLINE void ask_part(key_range *r) {
  const int64_t at = 2 * r->next / r->parts * r->part++;
  r->ask = r->next == 0 ? r->keys : at < r->next ? r->keys + r->next + at : r->values + at;
  r->ask_step = r->next == 0 ? 0 : 128 / r->parts;
}

ZMI_INLINE const char *ask_for(const char *ask, int64_t step, int64_t lines) {
  ZMI_UNROLL_FULL
  for (int64_t i = 0; i < lines; i++) __builtin_prefetch(ask + i * step, 0, 2);
  return ask + lines * step;
}

// total[block * queries + query] (+= if `add`) the sum of `pairs` products of each query and the keys of n blocks. keys: the first block's
// first pair; blocks are `stride` bytes apart.
ZMI_INLINE void score_blocks(store_kind kind, int queries, int n, const char *keys, int64_t stride, key_range *r, const void *const *q,
                             int64_t pairs, bool add, vf total[][ZMI_HALVES]) {
  const int64_t ask_step = r->ask_step;
  const char *ask = r->ask;
  vf acc[SIDE_BY_SIDE][ZMI_HALVES];
  ZMI_UNROLL
  for (int i = 0; i < n * queries; i++) {
    ZMI_UNROLL
    for (int h = 0; h < ZMI_HALVES; h++) acc[i][h] = vf_zero();
  }
  for (int64_t j = 0; j < pairs; j++) {
    ask = ask_for(ask, ask_step, kind == F32 ? 2 * n : n);
#if defined(__AVX512BF16__)
    if (kind == BF16_PAIRS) {
      ZMI_UNROLL
      for (int b = 0; b < n; b++) {
        const char *at = keys + b * stride + 64 * j;
        __m512bh v = (__m512bh)_mm512_loadu_si512(at);
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
  r->ask = ask;
}

// p[i][t] = scale * (q_i . key t); each p[i] has room for whole blocks.
ZMI_INLINE void scores(store_kind kind, int queries, const zmi_query *query, key_range *r, float scale, float p[][ZMI_KEY_RANGE]) {
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
      score_blocks(kind, queries, together, first + b * stride, stride, r, x, pairs, begin > 0, total + b * queries);
    for (; b < blocks; b++) score_blocks(kind, queries, 1, first + b * stride, stride, r, x, pairs, begin > 0, total + b * queries);
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
ZMI_INLINE void value_columns(store_kind kind, int queries, int n, float p[][ZMI_KEY_RANGE], key_range *r, int64_t d,
                              const zmi_query *query) {
  const int64_t size = kind == F32 ? 4 : 2;
  const char *values = r->values + d * size, *ask = r->ask;
  const int64_t bytes = 2 * ZMI_WIDE * size * n, lines = ZMI_MAX(bytes / 64, 1), ask_step = r->ask_step * bytes / (64 * lines);
  vf even[ZMI_QUERIES][4], odd[ZMI_QUERIES][4];
  ZMI_UNROLL
  for (int i = 0; i < queries; i++) {
    ZMI_UNROLL
    for (int c = 0; c < n; c++) even[i][c] = odd[i][c] = vf_zero();
  }
  for (int64_t t = 0; t < r->count; t++, values += r->dim * size) {
    ask = ask_for(ask, ask_step, lines);
    ZMI_UNROLL
    for (int c = 0; c < n; c++) {
      const char *at = values + 2 * ZMI_WIDE * size * c;
      pair v;
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
  r->ask = ask;
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

ZMI_INLINE void attend_some(store_kind kind, int queries, const zmi_query *query, key_range *r, float scale) {
  const int64_t size = kind == F32 ? 4 : 2, step = 2 * ZMI_WIDE, dim = r->dim;
  // Sums a query: even and odd of n columns. More would not fit the registers.
  const int wide = ZMI_REGISTERS == 32 ? (queries == 4 ? 2 : 4) : 4 / queries;
  float p[ZMI_QUERIES][ZMI_KEY_RANGE];
  ask_part(r);
  scores(kind, queries, query, r, scale, p);
  for (int i = 0; i < queries; i++) {
    *query[i].max = row_max(p[i], r->count);
    *query[i].sum = exp_sum(p[i], r->count, *query[i].max);
  }
  ask_part(r);
  int64_t d = 0;
  for (; d + wide * step <= dim; d += wide * step) value_columns(kind, queries, wide, p, r, d, query);
  for (; d + step <= dim; d += step) value_columns(kind, queries, 1, p, r, d, query);
  for (int i = 0; i < queries && d < dim; i++) {
    memset(query[i].acc + d, 0, (size_t)(dim - d) * sizeof(float));
    for (int64_t t = 0; t < r->count; t++) row_axpy(p[i][t], r->values + (t * dim + d) * size, r->dtype, dim - d, query[i].acc + d);
  }
}

#define ATTEND(kind)                                                                                                                       \
  static void attend_##kind(const zmi_query *query, int queries, key_range *r, float scale) {                                              \
    for (int done = 0; done < queries;) {                                                                                                  \
      const int left = queries - done, n = left >= 4 ? 4 : left >= 2 ? 2 : 1;                                                              \
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
  const int times = (queries + ZMI_QUERIES - 1) / ZMI_QUERIES + (queries % ZMI_QUERIES == 3); // that it is read
  const int64_t next = more ? ZMI_KEY_RANGE * dim * (dtype == ZM_F32 ? 4 : 2) : 0;
  key_range r = {keys, values, NULL, dtype, dim, count, next, 0, 0, times == 1 ? 2 : times == 2 ? 4 : 8};
  (dtype == ZM_BF16 ? ATTEND_BF16 : dtype == ZM_F16 ? attend_F16 : attend_F32)(query, queries, &r, scale);
}

#endif
