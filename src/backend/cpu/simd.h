// The vector operations that the kernels of vector.c need, for 256 and 512 bits. ZMI_WIDE is the number of 32-bit lanes of a vector; a
// block of 16 rows has ZMI_HALVES vectors. Integer logic is written with operators, which both gcc and clang know for these types.
#ifndef ZMI_SIMD_H
#define ZMI_SIMD_H

#include "backend/cpu/cpu.h"

#include <immintrin.h>
#include <string.h>

#if defined(__AVX512F__)
enum { ZMI_WIDE = 16, ZMI_HALVES = 1 };
typedef __m512 vf;
typedef uint32_t vu __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
#define ZMI_SIMD(name) _mm512_##name
#else
enum { ZMI_WIDE = 8, ZMI_HALVES = 2 };
typedef __m256 vf;
typedef uint32_t vu __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
#define ZMI_SIMD(name) _mm256_##name
#endif

// ---- memory, any alignment ----

ZMI_INLINE vu vu_load(const void *p) {
  vu v;
  memcpy(&v, p, sizeof v);
  return v;
}

ZMI_INLINE vf vf_load(const void *p) {
  return ZMI_SIMD(loadu_ps)(p);
}

ZMI_INLINE void vf_store(float *p, vf v) {
  ZMI_SIMD(storeu_ps)(p, v);
}

ZMI_INLINE vf vf_set1(float v) {
  return ZMI_SIMD(set1_ps)(v);
}

ZMI_INLINE vf vf_zero(void) {
  return ZMI_SIMD(setzero_ps)();
}

ZMI_INLINE vf vf_fma(vf a, vf b, vf c) {
  return ZMI_SIMD(fmadd_ps)(a, b, c);
}

// The four bytes at p in every lane.
ZMI_INLINE vi vi_broadcast4(const void *p) {
  int32_t v;
  memcpy(&v, p, 4);
  return (vi)ZMI_SIMD(set1_epi32)(v);
}

ZMI_INLINE vf vf_from_int(vi v) {
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps((__m512i)v);
#else
  return _mm256_cvtepi32_ps((__m256i)v);
#endif
}

// ZMI_WIDE numbers of a dtype as float32.
ZMI_INLINE vf vf_load_bf16(const void *p) {
#if defined(__AVX512F__)
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
#else
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
#endif
}

ZMI_INLINE vf vf_load_f16(const void *p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(p));
#else
  return _mm256_cvtph_ps(_mm_loadu_si128(p));
#endif
}

// ---- pairs: {even, odd} elements of ZMI_WIDE lanes ----

typedef struct pair {
  vf even, odd;
} pair;

ZMI_INLINE pair pair_of_bf16(vu v) {
  pair p = {(vf)(v << 16), (vf)(v & 0xffff0000u)};
  return p;
}

// From 2 * ZMI_WIDE numbers side by side. Lanes come out in another order, the same for all; pair_order() puts a vector of them right.
ZMI_INLINE pair pair_of_two(vf a, vf b) {
  pair p = {ZMI_SIMD(shuffle_ps)(a, b, 0x88), ZMI_SIMD(shuffle_ps)(a, b, 0xdd)};
  return p;
}

ZMI_INLINE vf pair_order(vf v) {
#if defined(__AVX512F__)
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15), v);
#else
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
#endif
}

// From even and odd elements to the first and the second ZMI_WIDE elements in order.
ZMI_INLINE pair pair_interleave(pair v) {
#if defined(__AVX512F__)
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  pair p = {_mm512_permutex2var_ps(v.even, low, v.odd), _mm512_permutex2var_ps(v.even, high, v.odd)};
#else
  vf low = _mm256_unpacklo_ps(v.even, v.odd), high = _mm256_unpackhi_ps(v.even, v.odd);
  pair p = {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
#endif
  return p;
}

// ---- codes (unsigned bytes) times digits (signed bytes) ----

// acc + the sums over four bytes of codes[0..quads) times the digits d, four a vector. Codes have at most `bits` bits; quads is 8 or 4.
ZMI_INLINE vi unit_dot(vi acc, const vu *codes, const int8_t *d, int bits, int quads) {
#if defined(__AVX512VNNI__)
  (void)bits;
  ZMI_UNROLL
  for (int t = 0; t < quads; t++) acc = (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)codes[t], (__m512i)vi_broadcast4(d + 4 * t));
  return acc;
#else
#if defined(__AVX512F__)
  typedef __m512i word;
#else
  typedef __m256i word;
#endif
  const word one = ZMI_SIMD(set1_epi16)(1);
  if (bits == 8) { // 16-bit sums of pairs would overflow: the low seven bits and the highest one apart
    ZMI_UNROLL
    for (int t = 0; t < quads; t++) {
      word digits = (word)vi_broadcast4(d + 4 * t);
      word low = ZMI_SIMD(maddubs_epi16)((word)(codes[t] & 0x7f7f7f7fu), digits),
           high = ZMI_SIMD(maddubs_epi16)((word)(codes[t] & 0x80808080u), digits);
      acc += (vi)ZMI_SIMD(madd_epi16)(low, one) + (vi)ZMI_SIMD(madd_epi16)(high, one);
    }
    return acc;
  }
  const int run = bits <= 4 ? 8 : bits == 5 ? 4 : 2; // vectors whose 16-bit sums cannot overflow
  ZMI_UNROLL
  for (int t0 = 0; t0 < quads; t0 += run) {
    word sum = ZMI_SIMD(maddubs_epi16)((word)codes[t0], (word)vi_broadcast4(d + 4 * t0));
    ZMI_UNROLL
    for (int t = t0 + 1; t < t0 + run; t++) {
      sum = ZMI_SIMD(add_epi16)(sum, ZMI_SIMD(maddubs_epi16)((word)codes[t], (word)vi_broadcast4(d + 4 * t)));
    }
    acc += (vi)ZMI_SIMD(madd_epi16)(sum, one);
  }
  return acc;
#endif
}

#endif
