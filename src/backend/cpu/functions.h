// exp, log, sigmoid, silu and tanh of one float32: own polynomials, IEEE operations and explicit fused multiply-adds, no branches, so
// that each tier's compiler makes vector code of them with the same bits. Denormals count as zero. docs/numerics.md has the errors,
// measured by tests/test_math.c.
#ifndef ZMI_FUNCTIONS_H
#define ZMI_FUNCTIONS_H

#include "backend/cpu/cpu.h"

// x = n ln2 + r with |r| <= ln2 / 2, e^x = 2^n (1 + r + r^2 q(r)). Zero where the result is below 2^-126, infinity above the largest float.
ZMI_INLINE float zmi_exp1(float x) {
  const float round = 0x1.8p23f; // adding it leaves the integer nearest to a small number in the low bits
  float z = x > 89.0f ? 89.0f : x;
  z = z < -88.0f ? -88.0f : z;
  float t = __builtin_fmaf(z, 0x1.715476p+0f, round), n = t - round;
  float r = __builtin_fmaf(n, -0x1.62e43p-1f, z);
  r = __builtin_fmaf(n, 0x1.05c61p-29f, r);
  float q = __builtin_fmaf(0x1.6a2436p-10f, r, 0x1.1239e2p-7f);
  q = __builtin_fmaf(q, r, 0x1.5558f2p-5f);
  q = __builtin_fmaf(q, r, 0x1.555492p-3f);
  q = __builtin_fmaf(q, r, 0x1.fffffcp-2f);
  float y = __builtin_fmaf(r * r, q, r) + 1.0f;
  int32_t i = (int32_t)(zmi_bits(t) - zmi_bits(round)), half = i >> 1; // 2^n in two factors: n reaches 128
  y = y * zmi_float((uint32_t)(half + 127) << 23) * zmi_float((uint32_t)(i - half + 127) << 23);
  return x < -0x1.5d589ep+6f ? 0.0f : y;
}

ZMI_INLINE float zmi_sigmoid1(float x) {
  return 1.0f / (1.0f + zmi_exp1(-x));
}

ZMI_INLINE float zmi_silu1(float x) {
  return x * zmi_sigmoid1(x);
}

// |x| < 0.625: x + x^3 P(x^2); above: 1 - 2 / (e^2|x| + 1); the sign of x.
ZMI_INLINE float zmi_tanh1(float x) {
  float a = __builtin_fabsf(x), z = a * a;
  float p = __builtin_fmaf(-0x1.75da26p-8f, z, 0x1.5224f6p-6f);
  p = __builtin_fmaf(p, z, -0x1.b83c1cp-5f);
  p = __builtin_fmaf(p, z, 0x1.110726p-3f);
  p = __builtin_fmaf(p, z, -0x1.555532p-2f);
  float small = __builtin_fmaf(z * a, p, a);
  float large = 1.0f - 2.0f / (zmi_exp1(2.0f * a) + 1.0f);
  return __builtin_copysignf(a < 0.625f ? small : large, x);
}

// x = 2^k m with m in [sqrt(1/2), sqrt(2)), f = m - 1: k ln2 + f - f^2/2 + f^3 P(f). Zero gives -infinity, negative numbers NaN.
ZMI_INLINE float zmi_log1(float x) {
  uint32_t u = zmi_bits(x);
  int32_t k = (int32_t)(u - 0x3f3504f3u) >> 23;
  float f = zmi_float(u - ((uint32_t)k << 23)) - 1.0f, n = (float)k;
  float p = __builtin_fmaf(-0x1.38b57cp-4f, f, 0x1.055b68p-3f);
  p = __builtin_fmaf(p, f, -0x1.0d8542p-3f);
  p = __builtin_fmaf(p, f, 0x1.22da1ep-3f);
  p = __builtin_fmaf(p, f, -0x1.547244p-3f);
  p = __builtin_fmaf(p, f, 0x1.99a008p-3f);
  p = __builtin_fmaf(p, f, -0x1.000226p-2f);
  p = __builtin_fmaf(p, f, 0x1.555554p-2f);
  float y = __builtin_fmaf(n, 0x1.7f7d1cp-20f, f * f * f * p);
  y = f + __builtin_fmaf(-0.5f * f, f, y);
  y = __builtin_fmaf(n, 0x1.62e4p-1f, y);
  uint32_t a = u & 0x7fffffffu;
  y = u >> 31 ? zmi_float(0x7fc00000u) : y;
  y = a < 0x00800000u ? zmi_float(0xff800000u) : y;
  y = a > 0x7f800000u || u == 0x7f800000u ? x : y;
  return y;
}

#endif
