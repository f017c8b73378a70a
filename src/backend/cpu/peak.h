// The fastest exact products of bytes that a vector tier has, from registers: the peak that reading prompts is measured against. Included
// once by vector.c.
#ifndef ZMI_PEAK_H
#define ZMI_PEAK_H

// The value, of which the compiler knows nothing: products of what does not change would be made once.
#if defined(__aarch64__)
#define unknown(v) __asm__("" : "+w"(v))
#else
#define unknown(v) __asm__("" : "+v"(v))
#endif

#if defined(ZMI_DOT)
typedef vi peak_sum;
#define more(sum, codes, digits) vi_dot(sum, codes, digits)
#define as_integers(sum) (sum)
#else
typedef vsum peak_sum;
#define more(sum, codes, digits) vsum_add(sum, codes, digits)
#define as_integers(sum) vsum_wide(sum, 1)
#endif

static int64_t vector_products(int64_t rounds, int32_t sink[ZMI_LANES]) {
  enum { CHAINS = 12 }; // enough for any latency, and for 16 registers
  peak_sum sum[CHAINS];
  vi all = {0};
  vu codes = (vu){0} + 0x0f0e0d0cu, digits = (vu){0} + 0x7f81017fu;
  memset(sum, 0, sizeof sum);
  for (int64_t r = 0; r < rounds; r++) {
    ZMI_UNROLL
    for (int i = 0; i < CHAINS; i++) {
      unknown(codes);
      sum[i] = more(sum[i], (vw)codes, (vw)digits);
    }
  }
  for (int i = 0; i < CHAINS; i++) all ^= as_integers(sum[i]);
  memset(sink, 0, ZMI_LANES * sizeof *sink);
  memcpy(sink, &all, sizeof all);
  return rounds * CHAINS * (int64_t)sizeof codes;
}

#undef as_integers
#undef more
#undef unknown

#endif
