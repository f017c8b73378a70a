// Blocks of float32 matrix products in vector tiers: 6 rows by two vectors of columns in registers. backend.h has the form of the operands;
// scalar.c the definition.
#ifndef ZMI_GEMM_H
#define ZMI_GEMM_H

#include "backend/cpu/simd.h"

// Panels of 16 columns that two vectors cover.
enum { ZMI_GEMM_PANELS = 2 / ZMI_HALVES };

// `rows` (a constant at each call) by `vectors` vectors of columns. Vector v of k stands at b + k * 16 + step[v].
ZMI_INLINE void gemm_tile(const int rows, const int vectors, const float *a, const float *const b[2], int64_t k, float *c, int64_t ldc,
                          bool add) {
  vf acc[ZMI_GEMM_ROWS][2];
  ZMI_UNROLL_FULL
  for (int i = 0; i < rows; i++) {
    ZMI_UNROLL_FULL
    for (int v = 0; v < vectors; v++) acc[i][v] = vf_zero();
  }
  for (int64_t q = 0; q < k; q++) {
    vf w[2];
    ZMI_UNROLL_FULL
    for (int v = 0; v < vectors; v++) w[v] = vf_load(b[v] + q * ZMI_GEMM_COLS);
    ZMI_UNROLL_FULL
    for (int i = 0; i < rows; i++) {
      vf x = vf_set1(a[q * ZMI_GEMM_ROWS + i]);
      ZMI_UNROLL_FULL
      for (int v = 0; v < vectors; v++) acc[i][v] = vf_fma(x, w[v], acc[i][v]);
    }
  }
  ZMI_UNROLL_FULL
  for (int i = 0; i < rows; i++) {
    ZMI_UNROLL_FULL
    for (int v = 0; v < vectors; v++) {
      float *at = c + i * ldc + v * ZMI_WIDE;
      if (add) acc[i][v] = vf_load(at) + acc[i][v];
      vf_store(at, acc[i][v]);
    }
  }
}

#define GEMM_TILES(vectors)                                                                                                                \
  static void gemm_rows_##vectors(int64_t rows, const float *a, const float *const b[2], int64_t k, float *c, int64_t ldc, bool add) {     \
    switch (rows) {                                                                                                                        \
    case 1:                                                                                                                                \
      gemm_tile(1, vectors, a, b, k, c, ldc, add);                                                                                         \
      break;                                                                                                                               \
    case 2:                                                                                                                                \
      gemm_tile(2, vectors, a, b, k, c, ldc, add);                                                                                         \
      break;                                                                                                                               \
    case 3:                                                                                                                                \
      gemm_tile(3, vectors, a, b, k, c, ldc, add);                                                                                         \
      break;                                                                                                                               \
    case 4:                                                                                                                                \
      gemm_tile(4, vectors, a, b, k, c, ldc, add);                                                                                         \
      break;                                                                                                                               \
    case 5:                                                                                                                                \
      gemm_tile(5, vectors, a, b, k, c, ldc, add);                                                                                         \
      break;                                                                                                                               \
    default:                                                                                                                               \
      gemm_tile(6, vectors, a, b, k, c, ldc, add);                                                                                         \
    }                                                                                                                                      \
  }
GEMM_TILES(2)
#if defined(__AVX512F__)
GEMM_TILES(1)
#endif
#undef GEMM_TILES

// One tile of at most 6 rows and `cols` columns, of which the last panel may be only partly there.
static void gemm_edge(int64_t rows, int64_t cols, const float *a, const float *const b[2], int64_t k, float *c, int64_t ldc, bool add) {
  _Alignas(64) float whole[ZMI_GEMM_ROWS * 2 * ZMI_WIDE];
  gemm_rows_2(rows, a, b, k, whole, 2 * ZMI_WIDE, false);
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t j = 0; j < cols; j++) {
      float v = whole[i * 2 * ZMI_WIDE + j];
      c[i * ldc + j] = add ? c[i * ldc + j] + v : v;
    }
  }
}

static void vector_gemm(const float *a, int64_t rows, const float *b, int64_t cols, int64_t k, float *c, int64_t ldc, bool add) {
  for (int64_t j = 0; j < cols; j += 2 * ZMI_WIDE) {
    const float *panel = b + j * k, *columns[2] = {panel, panel + (ZMI_HALVES == 2 ? ZMI_WIDE : ZMI_GEMM_COLS * k)};
    int64_t wide = ZMI_MIN(cols - j, 2 * ZMI_WIDE);
#if defined(__AVX512F__)
    if (wide <= ZMI_WIDE) columns[1] = panel; // there is no second panel
#endif
    for (int64_t i = 0; i < rows; i += ZMI_GEMM_ROWS) {
      int64_t high = ZMI_MIN(rows - i, ZMI_GEMM_ROWS);
      const float *x = a + i * k;
      float *y = c + i * ldc + j;
      if (wide == 2 * ZMI_WIDE) gemm_rows_2(high, x, columns, k, y, ldc, add);
#if defined(__AVX512F__)
      else if (wide == ZMI_WIDE)
        gemm_rows_1(high, x, columns, k, y, ldc, add);
#endif
      else
        gemm_edge(high, wide, x, columns, k, y, ldc, add);
    }
  }
}

// ---- panels of columns from lines that are contiguous along k ----

ZMI_INLINE void turn8(const float *const line[8], float *out) {
  __m256 r[8], s[8];
  ZMI_UNROLL_FULL
  for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(line[i]);
  ZMI_UNROLL_FULL
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  ZMI_UNROLL_FULL
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
  }
  ZMI_UNROLL_FULL
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(out + i * ZMI_GEMM_COLS, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * ZMI_GEMM_COLS, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

static void vector_gemm_columns(const float *const *line, int64_t k, float *out) {
  int64_t q = 0;
  for (; q + 8 <= k; q += 8) {
    for (int half = 0; half < ZMI_GEMM_COLS; half += 8) {
      const float *from[8];
      for (int i = 0; i < 8; i++) from[i] = line[half + i] + q;
      turn8(from, out + q * ZMI_GEMM_COLS + half);
    }
  }
  for (; q < k; q++) {
    for (int i = 0; i < ZMI_GEMM_COLS; i++) out[q * ZMI_GEMM_COLS + i] = line[i][q];
  }
}

#endif
