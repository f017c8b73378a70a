// The vector tiers: dot products, digits and attention for 256 and 512 bits, with the bits of scalar.c. Compiled once for each tier with
// that tier's flags; what the flags allow (VNNI, BF16) is used.
#include "backend/cpu/few.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd.h"

// How far ahead of its reads a kernel asks for memory: far enough for the latency under load, near enough to stay in the second-level
// cache.
#ifndef AHEAD
#define AHEAD 24576
#endif

ZMI_INLINE void prefetch(const char *p, int lines) {
  for (int i = 0; i < lines; i++) _mm_prefetch(p + AHEAD + 64 * i, _MM_HINT_T0);
}

#include "backend/cpu/codes.h"
#include "backend/cpu/fp8.h"

// ---- float dot products ----

// One range of one block for `rows` rows of x.
ZMI_INLINE void float_range(int rows, bool w_wide, const char *w, int64_t pairs, const float *const *x, vf acc[ZMI_ROWS][ZMI_HALVES]) {
  for (int64_t j = 0; j < pairs; j++) {
    pair p[ZMI_HALVES];
    prefetch(w, w_wide ? 2 : 1);
    ZMI_UNROLL
    for (int h = 0; h < ZMI_HALVES; h++) {
      p[h] = w_wide ? pair_of_two(vf_load(w + 64 * h), vf_load(w + 64 * h + 4 * ZMI_WIDE)) : pair_of_bf16(vu_load(w + 32 * h));
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      vf odd = vf_set1(x[m][2 * j + 1]), even = vf_set1(x[m][2 * j]);
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) acc[m][h] = vf_fma(p[h].even, even, vf_fma(p[h].odd, odd, acc[m][h]));
    }
    w += w_wide ? 128 : 64;
  }
}

ZMI_INLINE void float_blocks(int rows, bool w_wide, const void *block, int64_t blocks, int64_t k, const void *const *x, zm_dtype x_dtype,
                             float *y, int64_t ldy) {
  const int64_t pair_bytes = w_wide ? 128 : 64;
  float part[ZMI_ROWS][ZMI_RANGE];
  const float *from[ZMI_ROWS];
  const char *w = block;
  for (int64_t b = 0; b < blocks; b++) {
    vf total[ZMI_ROWS][ZMI_HALVES];
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) total[m][h] = vf_zero();
    }
    for (int64_t begin = 0; begin < k; begin += ZMI_RANGE) {
      int64_t count = ZMI_MIN(k - begin, ZMI_RANGE), pairs = (count + 1) / 2;
      vf acc[ZMI_ROWS][ZMI_HALVES];
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) {
        ZMI_UNROLL
        for (int h = 0; h < ZMI_HALVES; h++) acc[m][h] = vf_zero();
        from[m] = (const float *)x[m] + begin;
        if (x_dtype != ZM_F32 || count % 2) {
          row_load((const char *)x[m] + begin * (x_dtype == ZM_F32 ? 4 : 2), x_dtype, count, part[m]);
          if (count % 2) part[m][count] = 0;
          from[m] = part[m];
        }
      }
      float_range(rows, w_wide, w, pairs, from, acc);
      w += pairs * pair_bytes;
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) {
        ZMI_UNROLL
        for (int h = 0; h < ZMI_HALVES; h++) total[m][h] += acc[m][h];
      }
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) {
        vf_store(y + m * ldy + b * ZMI_LANES + h * ZMI_WIDE, w_wide ? pair_order(total[m][h]) : total[m][h]);
      }
    }
  }
}

#if defined(__AVX512BF16__)
// Weights and activations both in bfloat16: vdpbf16ps is the two multiply-adds, the odd one first.
ZMI_INLINE void bf16_blocks(int rows, const void *block, int64_t blocks, int64_t k, const void *const *x, float *y, int64_t ldy) {
  const char *w = block;
  for (int64_t b = 0; b < blocks; b++) {
    __m512 total[ZMI_ROWS];
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) total[m] = _mm512_setzero_ps();
    for (int64_t begin = 0; begin < k; begin += ZMI_RANGE) {
      int64_t count = ZMI_MIN(k - begin, ZMI_RANGE);
      __m512 acc[ZMI_ROWS];
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) acc[m] = _mm512_setzero_ps();
      for (int64_t j = 0; j < count / 2; j++, w += 64) {
        prefetch(w, 1);
        __m512bh v = (__m512bh)_mm512_loadu_si512(w);
        ZMI_UNROLL
        for (int m = 0; m < rows; m++)
          acc[m] = _mm512_dpbf16_ps(acc[m], v, (__m512bh)vi_broadcast4((const uint16_t *)x[m] + begin + 2 * j));
      }
      if (count % 2) {
        __m512bh v = (__m512bh)_mm512_loadu_si512(w);
        ZMI_UNROLL
        for (int m = 0; m < rows; m++) acc[m] = _mm512_dpbf16_ps(acc[m], v, (__m512bh)_mm512_set1_epi32(((const uint16_t *)x[m])[k - 1]));
        w += 64;
      }
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) total[m] += acc[m];
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) _mm512_storeu_ps(y + m * ldy + b * ZMI_LANES, total[m]);
  }
}
#endif

static void vector_dot_float(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *x,
                             zm_dtype x_dtype, float *y, int64_t ldy) {
#define ROWS(call)                                                                                                                         \
  do {                                                                                                                                     \
    if (rows == 1) call(1);                                                                                                                \
    if (rows == 2) call(2);                                                                                                                \
    if (rows == 3) call(3);                                                                                                                \
    if (rows == 4) call(4);                                                                                                                \
  } while (0)
#define BF16(m) bf16_blocks(m, block, blocks, k, x, y, ldy)
#define NARROW(m) float_blocks(m, false, block, blocks, k, x, x_dtype, y, ldy)
#define WIDE(m) float_blocks(m, true, block, blocks, k, x, x_dtype, y, ldy)
  if (f->dtype == ZM_F32) {
    ROWS(WIDE);
    return;
  }
#if defined(__AVX512BF16__)
  if (x_dtype == ZM_BF16) {
    ROWS(BF16);
    return;
  }
#endif
  ROWS(NARROW);
#undef WIDE
#undef NARROW
#undef BF16
#undef ROWS
}

// ---- attention over one range of positions ----

// How keys and values stand in memory. BF16_PAIRS: bfloat16 where the processor multiplies pairs of them.
typedef enum store_kind { BF16_PAIRS, BF16, F16, F32 } store_kind;

enum { KEY_BLOCKS = ZMI_KEY_RANGE / ZMI_KEY_BLOCK, TOGETHER = 4 /* key blocks whose sums run side by side */ };

// Adds `pairs` products of q and the keys of n blocks to acc. keys: the first block's first pair; blocks are `stride` bytes apart.
ZMI_INLINE void score_blocks(store_kind kind, int n, const char *keys, int64_t stride, const void *q, int64_t pairs, vf acc[][ZMI_HALVES]) {
  for (int64_t j = 0; j < pairs; j++) {
#if defined(__AVX512BF16__)
    if (kind == BF16_PAIRS) {
      __m512bh x = (__m512bh)vi_broadcast4((const uint16_t *)q + 2 * j);
      for (int b = 0; b < n; b++) acc[b][0] = _mm512_dpbf16_ps(acc[b][0], (__m512bh)_mm512_loadu_si512(keys + b * stride + 64 * j), x);
      continue;
    }
#endif
    vf even = vf_set1(((const float *)q)[2 * j]), odd = vf_set1(((const float *)q)[2 * j + 1]);
    for (int b = 0; b < n; b++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) {
        pair p;
        const char *at = keys + b * stride + (kind == F32 ? 128 : 64) * j + (kind == F32 ? 64 : 32) * h;
        if (kind == F32) {
          p = pair_of_two(vf_load(at), vf_load(at + 4 * ZMI_WIDE));
        } else if (kind == F16) {
          p = pair_of_two(vf_load_f16(at), vf_load_f16(at + 2 * ZMI_WIDE));
        } else {
          p = pair_of_bf16(vu_load(at));
        }
        acc[b][h] = vf_fma(p.odd, odd, acc[b][h]);
        acc[b][h] = vf_fma(p.even, even, acc[b][h]);
      }
    }
  }
}

// p[t] = scale * (q . key t); p has room for whole blocks.
ZMI_INLINE void scores(store_kind kind, const void *q, zm_dtype dtype, const char *keys, int64_t dim, int64_t count, float scale,
                       float *p) {
  const int64_t size = kind == F32 ? 4 : 2, stride = dim * ZMI_KEY_BLOCK * size;
  const int blocks = (int)((count + ZMI_KEY_BLOCK - 1) / ZMI_KEY_BLOCK);
  vf total[KEY_BLOCKS][ZMI_HALVES];
  float part[ZMI_RANGE];
  for (int b = 0; b < blocks; b++) {
    ZMI_UNROLL
    for (int h = 0; h < ZMI_HALVES; h++) total[b][h] = vf_zero();
  }
  for (int64_t begin = 0; begin < dim; begin += ZMI_RANGE) {
    const int64_t pairs = ZMI_MIN(dim - begin, ZMI_RANGE) / 2;
    const void *x = (const char *)q + begin * size;
    if (kind == BF16 || kind == F16) {
      row_load(x, dtype, 2 * pairs, part);
      x = part;
    }
    for (int b = 0; b < blocks;) {
      const char *first = keys + b * stride + begin * ZMI_KEY_BLOCK * size;
      vf acc[TOGETHER][ZMI_HALVES];
      int n = blocks - b >= TOGETHER ? TOGETHER : 1;
      ZMI_UNROLL
      for (int i = 0; i < n; i++) {
        ZMI_UNROLL
        for (int h = 0; h < ZMI_HALVES; h++) acc[i][h] = vf_zero();
      }
      if (n == TOGETHER) {
        score_blocks(kind, TOGETHER, first, stride, x, pairs, acc);
      } else {
        score_blocks(kind, 1, first, stride, x, pairs, acc);
      }
      ZMI_UNROLL
      for (int i = 0; i < n; i++, b++) {
        ZMI_UNROLL
        for (int h = 0; h < ZMI_HALVES; h++) total[b][h] += acc[i][h];
      }
    }
  }
  for (int b = 0; b < blocks; b++) {
    ZMI_UNROLL
    for (int h = 0; h < ZMI_HALVES; h++) {
      vf v = kind == F16 || kind == F32 ? pair_order(total[b][h]) : total[b][h];
      vf_store(p + b * ZMI_KEY_BLOCK + h * ZMI_WIDE, vf_set1(scale) * v);
    }
  }
}

// acc[0 .. 2 n ZMI_WIDE) = the sum over t of p[t] values[t], from d = 0 of `values` on. Even and odd elements of bfloat16 rows are summed
// apart.
ZMI_INLINE void value_columns(store_kind kind, int n, const float *p, int64_t count, const char *values, int64_t dim, float *acc) {
  const int64_t size = kind == F32 ? 4 : 2;
  vf even[4], odd[4];
  ZMI_UNROLL
  for (int i = 0; i < n; i++) even[i] = odd[i] = vf_zero();
  for (int64_t t = 0; t < count; t++, values += dim * size) {
    vf w = vf_set1(p[t]);
    ZMI_UNROLL
    for (int i = 0; i < n; i++) {
      const char *at = values + 2 * ZMI_WIDE * size * i;
      pair v;
      if (kind == F32) {
        v = (pair){vf_load(at), vf_load(at + 4 * ZMI_WIDE)};
      } else if (kind == F16) {
        v = (pair){vf_load_f16(at), vf_load_f16(at + 2 * ZMI_WIDE)};
      } else {
        v = pair_of_bf16(vu_load(at));
      }
      even[i] = vf_fma(w, v.even, even[i]);
      odd[i] = vf_fma(w, v.odd, odd[i]);
    }
  }
  ZMI_UNROLL
  for (int i = 0; i < n; i++) {
    pair v = {even[i], odd[i]};
    if (kind == BF16 || kind == BF16_PAIRS) v = pair_interleave(v);
    vf_store(acc + 2 * i * ZMI_WIDE, v.even);
    vf_store(acc + (2 * i + 1) * ZMI_WIDE, v.odd);
  }
}

ZMI_INLINE void attend_kind(store_kind kind, const void *q, const void *keys, const char *values, zm_dtype dtype, int64_t dim,
                            int64_t count, float scale, float *max, float *sum, float *acc) {
  const int64_t size = kind == F32 ? 4 : 2, step = 2 * ZMI_WIDE;
  float p[ZMI_KEY_RANGE] = {0};
  scores(kind, q, dtype, keys, dim, count, scale, p);
  *max = row_max(p, count);
  *sum = exp_sum(p, count, *max);
  int64_t d = 0;
  for (; d + 4 * step <= dim; d += 4 * step) value_columns(kind, 4, p, count, values + d * size, dim, acc + d);
  for (; d + 2 * step <= dim; d += 2 * step) value_columns(kind, 2, p, count, values + d * size, dim, acc + d);
  for (; d + step <= dim; d += step) value_columns(kind, 1, p, count, values + d * size, dim, acc + d);
  if (d == dim) return;
  for (int64_t i = d; i < dim; i++) acc[i] = 0;
  for (int64_t t = 0; t < count; t++) row_axpy(p[t], values + (t * dim + d) * size, dtype, dim - d, acc + d);
}

#define ATTEND(kind)                                                                                                                       \
  static void attend_##kind(const void *q, const void *keys, const void *values, zm_dtype dtype, int64_t dim, int64_t count, float scale,  \
                            float *max, float *sum, float *acc) {                                                                          \
    attend_kind(kind, q, keys, values, dtype, dim, count, scale, max, sum, acc);                                                           \
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

static void vector_attend(const void *q, const void *keys, const void *values, zm_dtype dtype, int64_t dim, int64_t count, float scale,
                          float *max, float *sum, float *acc) {
  (dtype == ZM_BF16 ? ATTEND_BF16 : dtype == ZM_F16 ? attend_F16 : attend_F32)(q, keys, values, dtype, dim, count, scale, max, sum, acc);
}

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define JOIN_OF(a, b) a##b
#define JOIN(a, b) JOIN_OF(a, b)

const zmi_kernels JOIN(zmi_kernels_, ZMI_TIER) = {
    .name = TEXT(ZMI_TIER),
    .dot = {[ZMI_QUANT_NONE] = vector_dot_float,
            [ZMI_QUANT_AFFINE] = vector_dot_affine,
            [ZMI_QUANT_MXFP4] = vector_dot_fp4,
            [ZMI_QUANT_MXFP8] = vector_dot_fp8,
            [ZMI_QUANT_NVFP4] = vector_dot_fp4},
    ZMI_ROW_KERNELS,
    .attend = vector_attend,
    .gemm = vector_gemm,
    .gemm_columns = vector_gemm_columns,
    .gemm_rows = vector_gemm_rows,
    .gemm_across = vector_gemm_across,
    .few_rows = vector_few_rows,
    .few_lines = vector_few_lines,
#if defined(__AVX512F__)
    .lanes = &zmi_lanes_avx512,
#else
    .lanes = &zmi_lanes_avx2,
#endif
};
