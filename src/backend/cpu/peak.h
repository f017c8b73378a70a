// The fastest exact products of bytes that a vector tier has, from registers: the peak that reading prompts is measured against. Included
// once by vector.c.
#ifndef ZMI_PEAK_H
#define ZMI_PEAK_H

// The value, of which the compiler knows nothing: products of what does not change would be made once.
#define unknown(v) __asm__("" : "+v"(v))

ZMI_INLINE vi sum_of_products(vi sum, vu codes, vu digits) {
#if defined(__AVX512VNNI__)
  return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, (__m512i)digits);
#else
  return (vi)ZMI_SIMD(add_epi16)((vw)sum, ZMI_SIMD(maddubs_epi16)((vw)codes, (vw)digits));
#endif
}

static int64_t vector_products(int64_t rounds, int32_t sink[ZMI_LANES]) {
  enum { CHAINS = 12 }; // enough for any latency, and for 16 registers
  vi sum[CHAINS] = {{0}}, all = {0};
  vu codes = (vu){0} + 0x0f0e0d0cu, digits = (vu){0} + 0x7f81017fu;
  for (int64_t r = 0; r < rounds; r++) {
    ZMI_UNROLL
    for (int i = 0; i < CHAINS; i++) {
      unknown(codes);
      sum[i] = sum_of_products(sum[i], codes, digits);
    }
  }
  for (int i = 0; i < CHAINS; i++) all ^= sum[i];
  memset(sink, 0, ZMI_LANES * sizeof *sink);
  memcpy(sink, &all, sizeof all);
  return rounds * CHAINS * (int64_t)sizeof codes;
}

#undef unknown

#endif
