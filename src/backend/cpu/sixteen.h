// float16, and the sixteen lanes of a reduction as vectors of the tier's own size: neither compiler is good at larger ones.
#ifndef ZMI_SIXTEEN_H
#define ZMI_SIXTEEN_H

#include "backend/cpu/cpu.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANE_BYTES 64
#elif defined(__AVX2__)
#define LANE_BYTES 32
#else
#define LANE_BYTES 16
#endif
enum { WIDTH = LANE_BYTES / 4, PARTS = 16 / WIDTH };
typedef float lanes __attribute__((vector_size(LANE_BYTES), aligned(4), may_alias));
typedef int32_t masks __attribute__((vector_size(LANE_BYTES), aligned(4), may_alias));

ZMI_INLINE lanes load_lanes(const float *x) {
  return *(const lanes *)(const void *)x;
}

// acc = fma(x, x, acc)
ZMI_INLINE lanes add_squares(const float *x, lanes acc) {
#if defined(__AVX512F__)
  return (lanes)_mm512_fmadd_ps(_mm512_loadu_ps(x), _mm512_loadu_ps(x), (__m512)acc);
#elif defined(__AVX2__)
  return (lanes)_mm256_fmadd_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(x), (__m256)acc);
#elif defined(__aarch64__) && defined(ZMI_TIER)
  return (lanes)vfmaq_f32((float32x4_t)acc, vld1q_f32(x), vld1q_f32(x));
#else
  for (int i = 0; i < WIDTH; i++) acc[i] = __builtin_fmaf(x[i], x[i], acc[i]);
  return acc;
#endif
}

ZMI_INLINE void load_f16(const uint16_t *src, int64_t n, float *out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(src + i))));
#endif
#if defined(__aarch64__) && defined(ZMI_TIER)
  for (; i + 4 <= n; i += 4) vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(src + i))));
#endif
  for (; i < n; i++) out[i] = zmi_f16_to_f32(src[i]);
}

ZMI_INLINE void store_f16(const float *x, int64_t n, uint16_t *dst) {
  int64_t i = 0;
#if defined(__F16C__)
  const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
  for (; i + 8 <= n; i += 8) {
    __m256 v = _mm256_loadu_ps(x + i);
    v = _mm256_blendv_ps(v, nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    _mm_storeu_si128((__m128i *)(void *)(dst + i), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
#endif
#if defined(__aarch64__) && defined(ZMI_TIER)
  for (; i + 4 <= n; i += 4) {
    const float32x4_t v = vld1q_f32(x + i), one = vbslq_f32(vceqq_f32(v, v), v, vdupq_n_f32(__builtin_nanf("")));
    vst1_u16(dst + i, vreinterpret_u16_f16(vcvt_f16_f32(one)));
  }
#endif
  for (; i < n; i++) dst[i] = zmi_f32_to_f16(x[i]);
}

#endif
