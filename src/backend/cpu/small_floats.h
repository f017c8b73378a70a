// Dot products of weights of 4 and 8 bits that are numbers themselves (mxfp4, nvfp4, mxfp8), for the vector tiers. Included once by
// vector.c.
#ifndef ZMI_SMALL_FLOATS_H
#define ZMI_SMALL_FLOATS_H

// ---- scales ----

// ZMI_WIDE bytes of e8m0 as 2^(v - 127 + up); 0 for 2^-127, infinity above the largest float32.
ZMI_INLINE vf vf_load_e8m0(const void *p, int up) {
#if defined(__AVX512F__)
  __m512i v = _mm512_cvtepu8_epi32(_mm_loadu_si128(p));
  if (up) v = _mm512_min_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(up)), _mm512_set1_epi32(255));
  return _mm512_castsi512_ps(_mm512_slli_epi32(v, 23));
#else
  __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p));
  if (up) v = _mm256_min_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(up)), _mm256_set1_epi32(255));
  return _mm256_castsi256_ps(_mm256_slli_epi32(v, 23));
#endif
}

// ZMI_WIDE bytes of e4m3 divided by 256: the bits of a float16 with a smaller exponent. There is no NaN among them.
ZMI_INLINE vf vf_load_e4m3(const void *p) {
#if defined(__AVX512F__)
  const __m256i b = _mm256_cvtepi8_epi16(_mm_loadu_si128(p));
  return _mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(b, 7), _mm256_set1_epi16((short)0xbf80)));
#else
  const __m128i b = _mm_cvtepi8_epi16(_mm_loadl_epi64(p));
  return _mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(b, 7), _mm_set1_epi16((short)0xbf80)));
#endif
}

// ---- 4 bits ----

// Twice the value of a code plus 16: unsigned bytes, as the dot instructions take them. What is too much, 16 times the sums of the digits,
// is taken off the integer sums.
ZMI_INLINE vu fp4_codes(vu nibbles) {
  const __m128i table = _mm_setr_epi8(16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4);
#if defined(__AVX512F__)
  return (vu)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), (__m512i)nibbles);
#else
  return (vu)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), (__m256i)nibbles);
#endif
}

enum { FP4_BITS = 5 }; // of such a byte: at most 28

// One group. at: its first word of this half's lanes.
ZMI_INLINE void fp4_group(int64_t group, int rows, const char *at, const char *scales, const int8_t *const *d, const float *const *scale,
                          const int32_t *const *part, int64_t g, int h, vf hi[ZMI_ROWS], vf lo[ZMI_ROWS]) {
  const int quads = (int)group / 4;
  vi D[ZMI_ROWS][3];
  vu codes[8];
  if (h == 0) prefetch(at, quads / 2);
  if (h == 0 && g % 4 == 0) prefetch(scales, 1);
  ZMI_UNROLL
  for (int t = 0; t < quads; t++) codes[t] = fp4_codes(quad(4, at + 32 * h, t));
  ZMI_UNROLL_FULL
  for (int m = 0; m < rows; m++) {
    ZMI_UNROLL
    for (int p = 0; p < 3; p++)
      D[m][p] = unit_dot(-(vi_broadcast4(part[m] + 3 * g + p) << 4), codes, d[m] + (3 * g + p) * group, FP4_BITS, quads);
  }
  const vf s = group == 16 ? vf_load_e4m3(scales + ZMI_WIDE * h) : vf_load_e8m0(scales + ZMI_WIDE * h, 0);
  const float high = group == 16 ? 32768.0f : 128.0f, low = group == 16 ? 128.0f : 0.5f;
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    const vf f = vf_fma(vf_from_int(D[m][0]), vf_set1(256.0f), vf_from_int(D[m][1]));
    hi[m] = vf_fma(s * vf_set1(scale[m][g] * high), f, hi[m]);
    lo[m] = vf_fma(s * vf_set1(scale[m][g] * low), vf_from_int(D[m][2]), lo[m]);
  }
}

ZMI_INLINE void fp4_blocks(int64_t group, int rows, const void *block, int64_t blocks, int64_t k, const void *const *digits, float *y,
                           int64_t ldy) {
  const int64_t groups = k / group, per_range = ZMI_RANGE / group;
  const size_t code_bytes = (size_t)k * ZMI_LANES / 2, block_bytes = code_bytes + (size_t)(groups * ZMI_LANES + 63) / 64 * 64;
  const int8_t *d[ZMI_ROWS];
  const float *scale[ZMI_ROWS];
  const int32_t *part[ZMI_ROWS];
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    d[m] = digits[m];
    scale[m] = zmi_digits_scale(digits[m], k);
    part[m] = zmi_digits_parts(digits[m], k, group);
  }
  for (int64_t b = 0; b < blocks; b++) {
    const char *codes = (const char *)block + (size_t)b * block_bytes, *scales = codes + code_bytes;
    vf total[ZMI_ROWS][ZMI_HALVES];
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) total[m][h] = vf_zero();
    }
    for (int64_t begin = 0; begin < groups; begin += per_range) {
      const int64_t end = ZMI_MIN(begin + per_range, groups);
      for (int h = 0; h < ZMI_HALVES; h++) {
        vf hi[ZMI_ROWS], lo[ZMI_ROWS];
        ZMI_UNROLL
        for (int m = 0; m < rows; m++) hi[m] = lo[m] = vf_zero();
        for (int64_t g = begin; g < end; g++)
          fp4_group(group, rows, codes + g * group * 8, scales + g * ZMI_LANES, d, scale, part, g, h, hi, lo);
        ZMI_UNROLL
        for (int m = 0; m < rows; m++) total[m][h] += hi[m] + lo[m];
      }
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) vf_store(y + m * ldy + b * ZMI_LANES + h * ZMI_WIDE, total[m][h]);
    }
  }
}

#define FP4(group, rows)                                                                                                                   \
  static void fp4_##group##_##rows(const void *block, int64_t blocks, int64_t k, const void *const *digits, float *y, int64_t ldy) {       \
    fp4_blocks(group, rows, block, blocks, k, digits, y, ldy);                                                                             \
  }
FP4(16, 1)
FP4(16, 2)
FP4(16, 4)
FP4(32, 1)
FP4(32, 2)
FP4(32, 4)
#undef FP4

static void vector_dot_fp4(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *digits,
                           zm_dtype x_dtype, float *y, int64_t ldy) {
  typedef void (*fp4_fn)(const void *block, int64_t blocks, int64_t k, const void *const *digits, float *y, int64_t ldy);
  static const fp4_fn table[2][ZMI_ROWS + 1] = {{[1] = fp4_16_1, [2] = fp4_16_2, [4] = fp4_16_4},
                                                {[1] = fp4_32_1, [2] = fp4_32_2, [4] = fp4_32_4}};
  (void)x_dtype;
  for (int m = 0; m < rows;) {
    const int n = rows - m >= 4 ? 4 : rows - m >= 2 ? 2 : 1;
    table[f->group == 32][n](block, blocks, k, digits + m, y + m * ldy, ldy);
    m += n;
  }
}

// ---- 8 bits ----

// One group of 16 pairs. The lanes of the sums come in the order of pair_of_two.
ZMI_INLINE void fp8_group(int rows, const char *at, const float *const *x, int h, vf q[ZMI_ROWS]) {
  for (int64_t j = 0; j < 16; j++, at += 32) {
    if (h == 0 && j % 2 == 0) prefetch(at, 1);
    const char *half = at + 2 * ZMI_WIDE * h;
    const pair p = pair_of_two(vf_load_e4m3(half), vf_load_e4m3(half + ZMI_WIDE));
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) q[m] = vf_fma(p.even, vf_set1(x[m][2 * j]), vf_fma(p.odd, vf_set1(x[m][2 * j + 1]), q[m]));
  }
}

ZMI_INLINE void fp8_blocks(int rows, const void *block, int64_t blocks, int64_t k, const void *const *x, float *y, int64_t ldy) {
  const int64_t groups = k / 32, per_range = ZMI_RANGE / 32;
  const size_t code_bytes = (size_t)k * ZMI_LANES, block_bytes = code_bytes + (size_t)(groups * ZMI_LANES + 63) / 64 * 64;
  for (int64_t b = 0; b < blocks; b++) {
    const char *codes = (const char *)block + (size_t)b * block_bytes, *scales = codes + code_bytes;
    vf total[ZMI_ROWS][ZMI_HALVES], acc[ZMI_ROWS][ZMI_HALVES];
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) total[m][h] = acc[m][h] = vf_zero();
    }
    for (int64_t g = 0; g < groups; g++) {
      const bool last = (g + 1) % per_range == 0 || g + 1 == groups; // of a range
      const float *from[ZMI_ROWS];
      for (int m = 0; m < rows; m++) from[m] = (const float *)x[m] + 32 * g;
      if (g % 4 == 0) prefetch(scales + g * ZMI_LANES, 1);
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) {
        vf q[ZMI_ROWS];
        ZMI_UNROLL
        for (int m = 0; m < rows; m++) q[m] = vf_zero();
        fp8_group(rows, codes + g * 512, from, h, q);
        const vf s = vf_load_e8m0(scales + g * ZMI_LANES + ZMI_WIDE * h, 8);
        ZMI_UNROLL
        for (int m = 0; m < rows; m++) {
          acc[m][h] = vf_fma(s, pair_order(q[m]), acc[m][h]);
          if (!last) continue;
          total[m][h] += acc[m][h];
          acc[m][h] = vf_zero();
        }
      }
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) vf_store(y + m * ldy + b * ZMI_LANES + h * ZMI_WIDE, total[m][h]);
    }
  }
}

static void vector_dot_fp8(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *x,
                           zm_dtype x_dtype, float *y, int64_t ldy) {
  (void)f, (void)x_dtype;
  if (rows == 1) fp8_blocks(1, block, blocks, k, x, y, ldy);
  if (rows == 2) fp8_blocks(2, block, blocks, k, x, y, ldy);
  if (rows == 3) fp8_blocks(3, block, blocks, k, x, y, ldy);
  if (rows == 4) fp8_blocks(4, block, blocks, k, x, y, ldy);
}

#endif
