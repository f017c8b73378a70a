// The vector operations that the kernels of vector.c need, for 256 and 512 bits; neon.h has them for 128. ZMI_WIDE is the number of 32-bit
// lanes of a vector; a block of 16 rows has ZMI_HALVES vectors. Integer logic is written with operators, which both gcc and clang know for
// these types.
#ifndef ZMI_SIMD_H
#define ZMI_SIMD_H

#include "backend/cpu/cpu.h"

#if defined(__aarch64__)
#include "backend/cpu/neon.h"
#else

#include <immintrin.h>
#include <string.h>

#if defined(__AVX512F__)
enum { ZMI_WIDE = 16, ZMI_HALVES = 1, ZMI_REGISTERS = 32 };
typedef __m512 vf;
typedef uint32_t vu __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
#define ZMI_SIMD(name) _mm512_##name
#else
enum { ZMI_WIDE = 8, ZMI_HALVES = 2, ZMI_REGISTERS = 16 };
typedef __m256 vf;
typedef uint32_t vu __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));
#define ZMI_SIMD(name) _mm256_##name
#endif
#define ZMI_GEMM_VECTORS 2 // of columns in a tile of a matrix product; it becomes a part of names

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

// The first lanes of a vector: what is not there is neither read nor written.
#if defined(__AVX512F__)
typedef __mmask16 vmask;
ZMI_INLINE vmask vmask_of(int64_t lanes) {
  return (vmask)(lanes >= ZMI_WIDE ? 0xffffu : lanes <= 0 ? 0u : (1u << lanes) - 1);
}
ZMI_INLINE vf vf_load_some(const float *p, vmask there) {
  return _mm512_maskz_loadu_ps(there, p);
}
#else
typedef __m256i vmask;
ZMI_INLINE vmask vmask_of(int64_t lanes) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)ZMI_MAX(ZMI_MIN(lanes, ZMI_WIDE), 0)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
ZMI_INLINE vf vf_load_some(const float *p, vmask there) {
  return _mm256_maskload_ps(p, there);
}
#endif

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

// ---- parts of four lanes ----

// A vector has ZMI_WIDE / 4 parts of four numbers; part p is at p * step.
ZMI_INLINE vf vf_load_parts(const float *p, int64_t step) {
  const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + step), 1);
#if defined(__AVX512F__)
  const __m512 three = _mm512_insertf32x4(_mm512_castps256_ps512(low), _mm_loadu_ps(p + 2 * step), 2);
  return _mm512_insertf32x4(three, _mm_loadu_ps(p + 3 * step), 3);
#else
  return low;
#endif
}

ZMI_INLINE void vf_store_parts(float *p, int64_t step, vf v) {
#if defined(__AVX512F__)
  _mm_storeu_ps(p, _mm512_castps512_ps128(v));
  _mm_storeu_ps(p + step, _mm512_extractf32x4_ps(v, 1));
  _mm_storeu_ps(p + 2 * step, _mm512_extractf32x4_ps(v, 2));
  _mm_storeu_ps(p + 3 * step, _mm512_extractf32x4_ps(v, 3));
#else
  _mm_storeu_ps(p, _mm256_castps256_ps128(v));
  _mm_storeu_ps(p + step, _mm256_extractf128_ps(v, 1));
#endif
}

// Four vectors, of each part the rows and columns.
ZMI_INLINE void vf_turn_parts(vf v[4]) {
  const vf a = ZMI_SIMD(unpacklo_ps)(v[0], v[1]), b = ZMI_SIMD(unpacklo_ps)(v[2], v[3]);
  const vf c = ZMI_SIMD(unpackhi_ps)(v[0], v[1]), d = ZMI_SIMD(unpackhi_ps)(v[2], v[3]);
  v[0] = ZMI_SIMD(shuffle_ps)(a, b, 0x44);
  v[1] = ZMI_SIMD(shuffle_ps)(a, b, 0xee);
  v[2] = ZMI_SIMD(shuffle_ps)(c, d, 0x44);
  v[3] = ZMI_SIMD(shuffle_ps)(c, d, 0xee);
}

// Past the caches, where there are such stores; p is aligned to the vector.
ZMI_INLINE void vf_stream(float *p, vf v) {
  ZMI_SIMD(stream_ps)(p, v);
}

// ---- scales that are bytes ----

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

// A block's: ZMI_HALVES vectors.
ZMI_INLINE void vf_load_e4m3_block(const void *p, vf *out) {
#if defined(__AVX512F__)
  out[0] = vf_load_e4m3(p);
#else
  const __m256i b = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128(p)), 7);
  const __m256i h = _mm256_and_si256(b, _mm256_set1_epi16((short)0xbf80));
  out[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
  out[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
#endif
}

// ---- codes (unsigned bytes) times digits (signed bytes): vectors of integers ----

#if defined(__AVX512F__)
typedef __m512i vw;
#else
typedef __m256i vw;
#endif

// Twice the value of an e2m1 code plus 16.
ZMI_INLINE vu fp4_codes(vu nibbles) {
  const __m128i table = _mm_setr_epi8(16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4);
#if defined(__AVX512F__)
  return (vu)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), (__m512i)nibbles);
#else
  return (vu)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), (__m256i)nibbles);
#endif
}

// 3 bits: of four quads, whose low two bits are in the fields of a word and whose third ones are four bits of `third` (in its low half of
// each byte), first those of fields 0 and 2, or of 1 and 3, as the two halves of bytes.
#define ZMI_THIRDS
ZMI_INLINE vu with_thirds(vu fields, vu third, int odd) {
  const __m128i even_table = _mm_setr_epi8(0, 4, 0, 4, 64, 68, 64, 68, 0, 4, 0, 4, 64, 68, 64, 68);
  const __m128i odd_table = _mm_setr_epi8(0, 0, 4, 4, 0, 0, 4, 4, 64, 64, 68, 68, 64, 64, 68, 68);
  const __m128i table = odd ? odd_table : even_table;
  const vu low = (odd ? fields >> 2 : fields) & 0x33333333u;
#if defined(__AVX512F__)
  return low | (vu)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), (__m512i)third);
#else
  return low | (vu)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), (__m256i)third);
#endif
}

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(ZMI_DOT_DEFINED)
// The products of each lane's four bytes added to it.
#define ZMI_DOT
ZMI_INLINE vi vi_dot(vi sum, vw codes, vw digits) {
#if defined(__AVX512VNNI__)
  return (vi)_mm512_dpbusd_epi32((__m512i)sum, codes, digits);
#elif defined(__AVXVNNI__)
  return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, codes, digits);
#else // what vpdpbusd does, for tests on processors without it
  const __m256i even = _mm256_and_si256(codes, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(codes, 8);
  sum += (vi)_mm256_madd_epi16(even, _mm256_srai_epi16(_mm256_slli_epi16(digits, 8), 8));
  return sum + (vi)_mm256_madd_epi16(odd, _mm256_srai_epi16(digits, 8));
#endif
}
#else
// Sums of products in 16 bits, two bytes of a lane together, which cannot overflow: a code of 6 bits twice, of 5 bits four times, others
// eight times. In the order written and in place: gcc would add in pairs, for which no registers are left, and copy each sum.
enum { ZMI_SUM_RUNS = 1 };
typedef vw vsum;
ZMI_INLINE vsum vsum_of(vw codes, vw digits) {
  return ZMI_SIMD(maddubs_epi16)(codes, digits);
}
ZMI_INLINE vsum vsum_add(vsum s, vw codes, vw digits) {
  const vw products = ZMI_SIMD(maddubs_epi16)(codes, digits);
  __asm__("vpaddw %1, %0, %0" : "+v"(s) : "v"(products));
  return s;
}
// Their sums a lane, `times` as much.
ZMI_INLINE vi vsum_wide(vsum s, short times) {
  return (vi)ZMI_SIMD(madd_epi16)(s, ZMI_SIMD(set1_epi16)(times));
}
#endif

// ---- eight lanes, and lines of memory that become lanes ----

typedef __m256 v8;

ZMI_INLINE v8 v8_zero(void) {
  return _mm256_setzero_ps();
}

ZMI_INLINE v8 v8_load(const float *p) {
  return _mm256_loadu_ps(p);
}

ZMI_INLINE void v8_store(float *p, v8 v) {
  _mm256_storeu_ps(p, v);
}

ZMI_INLINE v8 v8_fma(float x, v8 w, v8 acc) {
  return _mm256_fmadd_ps(_mm256_set1_ps(x), w, acc);
}

// Word w of eight lines, `ld` bytes apart, for w = 0..3: lines 0..3 in the low half, 4..7 in the high one.
ZMI_INLINE void v8_turn(const char *at, int64_t ld, v8 word[4]) {
  const char *third = at + 3 * ld, *sixth = at + 6 * ld; // so that a scaled index reaches all others
  const char *low[4] = {at, at + ld, at + 2 * ld, third}, *high[4] = {at + 4 * ld, third + 2 * ld, sixth, third + 4 * ld};
  __m256 r[4];
  ZMI_UNROLL_FULL
  for (int i = 0; i < 4; i++) {
    // Not an insertion: that takes the units that shuffle, which are busy.
    r[i] = _mm256_blend_ps(_mm256_castps128_ps256(_mm_loadu_ps((const float *)(const void *)low[i])),
                           _mm256_broadcast_ps((const __m128 *)(const void *)high[i]), 0xf0);
  }
  const __m256 a = _mm256_unpacklo_ps(r[0], r[1]), b = _mm256_unpackhi_ps(r[0], r[1]);
  const __m256 c = _mm256_unpacklo_ps(r[2], r[3]), d = _mm256_unpackhi_ps(r[2], r[3]);
  word[0] = _mm256_shuffle_ps(a, c, 0x44);
  word[1] = _mm256_shuffle_ps(a, c, 0xee);
  word[2] = _mm256_shuffle_ps(b, d, 0x44);
  word[3] = _mm256_shuffle_ps(b, d, 0xee);
}

// The first and the second of the two numbers in each lane.
ZMI_INLINE void v8_pairs_bf16(v8 pairs, v8 *even, v8 *odd) {
  const __m256i v = _mm256_castps_si256(pairs);
  *even = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
  *odd = _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000u)));
}

ZMI_INLINE void v8_pairs_f16(v8 pairs, v8 *even, v8 *odd) {
  const __m256i apart =
      _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  const __m256i v = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(_mm256_castps_si256(pairs), apart), 0xd8);
  *even = _mm256_cvtph_ps(_mm256_castsi256_si128(v));
  *odd = _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));
}

#endif // x86
#endif
