// Blocks of float32 matrix products in vector tiers: 6 rows by two vectors of columns in registers, or by four of 128 bits. backend.h has
// the form of the operands; scalar.c the definition.
#ifndef ZMI_GEMM_H
#define ZMI_GEMM_H

#include "backend/cpu/simd.h"

// Columns of a whole tile.
enum { ZMI_GEMM_WIDE = ZMI_GEMM_VECTORS * ZMI_WIDE };

// `rows` by `vectors` vectors of columns, of which only `cols` columns are there with `part`; rows, vectors and part are constants at each
// call. Row i of k stands at a + i * line + q * a_k, columns of k at b + q * b_k and, for vector v, b + q * b_k + v * second.
ZMI_INLINE void gemm_tile(const int rows, const int vectors, const bool part, const zmi_panels *pa, const float *a, const zmi_panels *pb,
                          const float *b, int64_t second, int64_t cols, int64_t k, float *c, int64_t ldc, bool add) {
  vf acc[ZMI_GEMM_ROWS][ZMI_GEMM_VECTORS];
  vmask there[ZMI_GEMM_VECTORS];
  const int64_t line = pa->by_line, a_k = pa->by_k, b_k = pb->by_k;
  const float *a3 = a + 3 * line;
  ZMI_UNROLL_FULL
  for (int i = 0; i < rows; i++) {
    ZMI_UNROLL_FULL
    for (int v = 0; v < vectors; v++) acc[i][v] = vf_zero();
    // Results are needed last, and are asked for first.
    if (!part) __builtin_prefetch(c + i * ldc), __builtin_prefetch(c + i * ldc + vectors * ZMI_WIDE - 1);
  }
  ZMI_UNROLL_FULL
  for (int v = 0; v < vectors && part; v++) there[v] = vmask_of(cols - v * ZMI_WIDE);
  for (int64_t q = 0; q < k; q++, a += a_k, a3 += a_k, b += b_k) {
    vf w[ZMI_GEMM_VECTORS];
    ZMI_UNROLL_FULL
    for (int v = 0; v < vectors; v++) w[v] = part ? vf_load_some(b + v * second, there[v]) : vf_load(b + v * second);
    ZMI_UNROLL_FULL
    for (int i = 0; i < rows; i++) {
      vf x = vf_set1(i < 3 ? a[i * line] : a3[(i - 3) * line]);
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

typedef void gemm_function(const zmi_panels *pa, const float *a, const zmi_panels *pb, const float *b, int64_t second, int64_t cols,
                           int64_t k, float *c, int64_t ldc, bool add);

#define GEMM_TILE(rows, vectors, part)                                                                                                     \
  static void gemm_##rows##_##vectors##_##part(const zmi_panels *pa, const float *a, const zmi_panels *pb, const float *b, int64_t second, \
                                               int64_t cols, int64_t k, float *c, int64_t ldc, bool add) {                                 \
    gemm_tile(rows, vectors, part, pa, a, pb, b, second, cols, k, c, ldc, add);                                                            \
  }
#define GEMM_TILES(name, vectors, part)                                                                                                    \
  GEMM_TILE(1, vectors, part)                                                                                                              \
  GEMM_TILE(2, vectors, part)                                                                                                              \
  GEMM_TILE(3, vectors, part)                                                                                                              \
  GEMM_TILE(4, vectors, part)                                                                                                              \
  GEMM_TILE(5, vectors, part)                                                                                                              \
  GEMM_TILE(6, vectors, part)                                                                                                              \
  static gemm_function *const gemm_##name[] = {gemm_1_##vectors##_##part, gemm_2_##vectors##_##part, gemm_3_##vectors##_##part,            \
                                               gemm_4_##vectors##_##part, gemm_5_##vectors##_##part, gemm_6_##vectors##_##part};
#define GEMM_TILES_OF(name, vectors, part) GEMM_TILES(name, vectors, part)
GEMM_TILES_OF(whole, ZMI_GEMM_VECTORS, 0)
GEMM_TILES_OF(part, ZMI_GEMM_VECTORS, 1)
GEMM_TILES_OF(vector, 1, 0)
GEMM_TILES_OF(part_of_vector, 1, 1)
#undef GEMM_TILES_OF
#undef GEMM_TILES
#undef GEMM_TILE

// One tile of at most 6 rows and `cols` columns, not all of a whole tile: what is not there is neither read nor written.
static void gemm_edge(int64_t rows, int64_t cols, const zmi_panels *pa, const float *a, const zmi_panels *pb, const float *b,
                      int64_t second, int64_t k, float *c, int64_t ldc, bool add) {
  _Alignas(64) float whole[ZMI_GEMM_ROWS * ZMI_GEMM_WIDE];
  if (cols == ZMI_WIDE) {
    gemm_vector[rows - 1](pa, a, pb, b, second, cols, k, c, ldc, add);
    return;
  }
  (cols < ZMI_WIDE ? gemm_part_of_vector : gemm_part)[rows - 1](pa, a, pb, b, second, cols, k, whole, ZMI_GEMM_WIDE, false);
  for (int64_t i = 0; i < rows; i++) {
    for (int64_t j = 0; j < cols; j++) {
      float v = whole[i * ZMI_GEMM_WIDE + j];
      c[i * ldc + j] = add ? c[i * ldc + j] + v : v;
    }
  }
}

static void vector_gemm(const zmi_panels *a, int64_t rows, const zmi_panels *b, int64_t cols, int64_t k, float *c, int64_t ldc, bool add) {
  const int64_t second = ZMI_HALVES == 1 ? b->by_panel : ZMI_WIDE; // a tile is one panel, or two
  for (int64_t j = 0; j < cols; j += ZMI_GEMM_WIDE) {
    const float *columns = b->data + j / ZMI_GEMM_COLS * b->by_panel;
    const int64_t wide = ZMI_MIN(cols - j, ZMI_GEMM_WIDE);
    for (int64_t i = 0; i < rows; i += ZMI_GEMM_ROWS) {
      const int64_t high = ZMI_MIN(rows - i, ZMI_GEMM_ROWS);
      const float *x = a->data + i / ZMI_GEMM_ROWS * a->by_panel;
      float *y = c + i * ldc + j;
      // A part of the next panel while this one is worked on.
      if (b->by_k == ZMI_GEMM_COLS && j + ZMI_GEMM_WIDE < cols) {
        const int64_t from = k * i / rows, to = k * (i + high) / rows;
        for (int64_t q = from; q < to; q++)
          __builtin_prefetch(columns + ZMI_GEMM_WIDE / ZMI_GEMM_COLS * b->by_panel + q * ZMI_GEMM_COLS, 0, 2);
      }
      if (wide == ZMI_GEMM_WIDE)
        gemm_whole[high - 1](a, x, b, columns, second, wide, k, y, ldc, add);
      else
        gemm_edge(high, wide, a, x, b, columns, second, k, y, ldc, add);
    }
  }
}

// ---- panels of columns that are neighbours ----

// Rows of b that are asked for before they are copied: their runs are too short for the processor to see.
enum { GEMM_AHEAD = 8 };

static void vector_gemm_across(const float *b, int64_t ldb, int64_t cols, int64_t k, float *out, int64_t pitch) {
  for (int64_t q = 0; q < k; q++, b += ldb, out += ZMI_GEMM_COLS) {
    float *to = out;
    int64_t j = 0;
    for (int64_t i = 0; i < cols && q + GEMM_AHEAD < k; i += 16) __builtin_prefetch(b + GEMM_AHEAD * ldb + i);
    for (; j + ZMI_GEMM_COLS <= cols; j += ZMI_GEMM_COLS, to += pitch) {
      ZMI_UNROLL_FULL
      for (int v = 0; v < ZMI_GEMM_COLS; v += ZMI_WIDE) vf_store(to + v, vf_load(b + j + v));
    }
    for (int v = 0; v < ZMI_GEMM_COLS && j < cols; v += ZMI_WIDE) vf_store(to + v, vf_load_some(b + j + v, vmask_of(cols - j - v)));
  }
}

// ---- panels of rows from lines that are contiguous along k ----

static void vector_gemm_rows(const float *const *line, int64_t k, float *out) {
  int64_t q = 0;
#if defined(__aarch64__)
  for (; q + 4 <= k; q += 4, out += 4 * ZMI_GEMM_ROWS) {
    vf word[4];
    turn4((const void *const[]){line[0] + q, line[1] + q, line[2] + q, line[3] + q}, word);
    for (int i = 0; i < 4; i++) {
      vf_store(out + i * ZMI_GEMM_ROWS, word[i]);
      out[i * ZMI_GEMM_ROWS + 4] = line[4][q + i];
      out[i * ZMI_GEMM_ROWS + 5] = line[5][q + i];
    }
  }
#else
  for (; q + 4 <= k; q += 4, out += 4 * ZMI_GEMM_ROWS) {
    __m128 r[4];
    for (int i = 0; i < 4; i++) r[i] = _mm_loadu_ps(line[i] + q);
    const __m128 e = _mm_loadu_ps(line[4] + q), f = _mm_loadu_ps(line[5] + q), low = _mm_unpacklo_ps(e, f), high = _mm_unpackhi_ps(e, f);
    _MM_TRANSPOSE4_PS(r[0], r[1], r[2], r[3]);
    for (int i = 0; i < 4; i++) _mm_storeu_ps(out + i * ZMI_GEMM_ROWS, r[i]);
    _mm_storel_pi((__m64 *)(void *)(out + 4), low);
    _mm_storeh_pi((__m64 *)(void *)(out + ZMI_GEMM_ROWS + 4), low);
    _mm_storel_pi((__m64 *)(void *)(out + 2 * ZMI_GEMM_ROWS + 4), high);
    _mm_storeh_pi((__m64 *)(void *)(out + 3 * ZMI_GEMM_ROWS + 4), high);
  }
#endif
  for (; q < k; q++) {
    for (int i = 0; i < ZMI_GEMM_ROWS; i++) *out++ = line[i][q];
  }
}

// ---- panels of columns from lines that are contiguous along k ----

// Eight k of eight lines.
ZMI_INLINE void turn8(const float *const line[8], float *out) {
#if defined(__aarch64__)
  for (int k = 0; k < 8; k += 4) {
    for (int i = 0; i < 8; i += 4) {
      vf word[4];
      turn4((const void *const[]){line[i] + k, line[i + 1] + k, line[i + 2] + k, line[i + 3] + k}, word);
      for (int w = 0; w < 4; w++) vf_store(out + (k + w) * ZMI_GEMM_COLS + i, word[w]);
    }
  }
#else
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
#endif
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
