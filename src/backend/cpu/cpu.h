// Private to the CPU backend: the tiers' tables and what the kernels of all tiers share.
#ifndef ZMI_CPU_H
#define ZMI_CPU_H

#include "backend/backend.h"

#define ZMI_INLINE static inline __attribute__((always_inline, unused))

// Before a loop of a constant number of turns over arrays of vectors: gcc makes registers of such arrays only if the loop is unrolled
// early. clang does by itself, and does worse when it is told to. ZMI_SHAPED: before a function that is compiled once for each set of its
// constant arguments. With the checks of a sanitizer both would take minutes over code so large.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ZMI_CHECKED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ZMI_CHECKED
#endif
#if defined(ZMI_CHECKED)
#define ZMI_SHAPED static __attribute__((noinline, unused))
#define ZMI_UNROLL
#define ZMI_UNROLL_FULL
#else
#define ZMI_SHAPED ZMI_INLINE
#if defined(__clang__)
#define ZMI_UNROLL
#define ZMI_UNROLL_FULL _Pragma("unroll")
#else
#define ZMI_UNROLL_FULL ZMI_UNROLL
#define ZMI_UNROLL _Pragma("GCC unroll 16")
#endif
#endif

extern const zmi_kernels zmi_kernels_scalar;
extern const zmi_lanes zmi_lanes_scalar;
#if defined(__x86_64__)
extern const zmi_kernels zmi_kernels_avx2;
extern const zmi_kernels zmi_kernels_avx2vnni;
extern const zmi_kernels zmi_kernels_avx512;
extern const zmi_kernels zmi_kernels_avx512vnni;
extern const zmi_lanes zmi_lanes_avx2;
extern const zmi_lanes zmi_lanes_avx512;
#elif defined(__aarch64__)
extern const zmi_kernels zmi_kernels_neon;
extern const zmi_kernels zmi_kernels_neondot;
extern const zmi_lanes zmi_lanes_neon;
#endif

// Digits of one row: `count` of each element (backend.h has the layout).
enum { ZMI_DIGIT_MAX = 8355711 }; // 127 * 65536 + 127 * 256 + 127: the largest integer that three signed bytes hold in both signs

ZMI_INLINE float *zmi_digits_scale(const void *digits, int64_t k, int count) {
  return (float *)(void *)((char *)(uintptr_t)digits + count * k);
}

ZMI_INLINE float *zmi_digits_sum(const void *digits, int64_t k, int64_t group, int count) {
  return zmi_digits_scale(digits, k, count) + k / group;
}

ZMI_INLINE int32_t *zmi_digits_parts(const void *digits, int64_t k, int64_t group, int count) {
  return (int32_t *)(void *)(zmi_digits_sum(digits, k, group, count) + k / group);
}

ZMI_INLINE uint32_t zmi_bits(float v) {
  union {
    float f;
    uint32_t u;
  } c = {.f = v};
  return c.u;
}

ZMI_INLINE float zmi_float(uint32_t v) {
  union {
    uint32_t u;
    float f;
  } c = {.u = v};
  return c.f;
}

// The exponent of a group, biased by 127 as in a float32: from the bits of its largest magnitude, which is a normal number. 2^e is
// zmi_float(b << 23) and 2^-e is zmi_float((254 - b) << 23). Adding 0x10101 carries into the exponent where the fraction is above that of
// 2 * ZMI_DIGIT_MAX, whose half still fits three digits.
ZMI_INLINE uint32_t zmi_digits_exponent(uint32_t largest) {
  uint32_t biased = (largest + 0x10101u) >> 23;
  return biased > 23 ? biased - 22 : 1;
}

#endif
