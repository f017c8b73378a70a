// Numbers of 4 and 8 bits: e2m1, e4m3 and e8m0, and the block formats made of them (mxfp4, mxfp8, nvfp4), by the rules of MLX on the CPU.
#include "quant/half.h"
#include "quant/quant.h"

#include <string.h>

typedef union word {
  float f;
  uint32_t u;
} word;

const float zmi_e2m1_values[16] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

float zmi_e4m3_to_f32(uint8_t v) {
  const float magnitude = (v & 127u) == 127 ? __builtin_nanf("") : zmi_half_to_float((uint16_t)((v & 127u) << 7)) * 256.0f;
  return v & 128u ? -magnitude : magnitude;
}

uint8_t zmi_f32_to_e4m3(float v) {
  const word base = {.u = 141u << 23}; // 2^14: a number below 2^-6 added to it leaves its code in the low bits
  word w = {.f = v}, low;
  const uint32_t sign = w.u >> 24 & 0x80u;
  w.u &= 0x7fffffffu;
  if (w.u >= 543u << 21) return (uint8_t)(sign | 0x7e); // 464 and above, NaN too
  if (w.u < 121u << 23) {
    low.f = w.f + base.f;
    return (uint8_t)(sign | (low.u - base.u));
  }
  return (uint8_t)(sign | (w.u + ((uint32_t)(7 - 127) << 23) + 0x7ffffu + (w.u >> 20 & 1u)) >> 20);
}

// 2^(v - 127): code 0 is 2^-127, a denormal.
float zmi_e8m0_to_f32(uint8_t v) {
  word w = {.u = v ? (uint32_t)v << 23 : 0x00400000u};
  return w.f;
}

// The nearest in the order of the table: ties to the smaller magnitude, what becomes zero is +0.
static uint8_t e2m1_of(float v) {
  static const float above[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float m = __builtin_fabsf(v);
  uint8_t code = 0;
  if (m <= 64) {
    for (int i = 0; i < 7; i++) code = (uint8_t)(code + (m > above[i]));
  } else { // so far out distances may round to the same number: the first of them. NaN and infinity: the first of all
    float best = __builtin_inff();
    for (uint8_t i = 0; i < 8; i++) {
      float d = m - zmi_e2m1_values[i];
      if (d < best) {
        best = d;
        code = i;
      }
    }
  }
  return code && v < 0 ? code | 8 : code;
}

static float rounded(float v, zm_dtype dtype) {
  if (dtype == ZM_F32) return v;
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(zmi_f32_to_bf16(v)) : zmi_f16_to_f32(zmi_f32_to_f16(v));
}

// v / 2^e, in two steps where the power is no normal number.
static float scaled_down(float v, int e) {
  const int half = e / 2;
  word a = {.u = (uint32_t)(127 - half) << 23}, b = {.u = (uint32_t)(127 - (e - half)) << 23};
  return v * a.f * b.f;
}

// ---- mx: a power of two for 32 numbers. log2 computes base-2 logarithms in double ----

static int power_of_group(float scale, double (*log2)(double)) {
  if (scale == 0) return 0;
  const float l = (float)log2((double)scale);
  int e = (int)l;
  if (l > (float)e) e++; // upwards: no number exceeds the largest code
  return e < -127 ? -127 : e > 127 ? 127 : e;
}

static void quantize_mx(const zmi_float_quantizer *q, const float *w, uint8_t *codes, uint8_t *scale) {
  const float most = q->bits == 4 ? 6.0f : 448.0f;
  float amax = 0;
  for (int i = 0; i < 32; i++) amax = __builtin_fabsf(w[i]) > amax || w[i] != w[i] ? __builtin_fabsf(w[i]) : amax;
  const float s = rounded(amax / most, q->dtype);
  if (s - s != 0) { // NaN or infinite: no scale fits
    memset(codes, 0, 32);
    *scale = 0xff;
    return;
  }
  int e = power_of_group(s, q->log2);
  *scale = (uint8_t)(e + 127);
  for (int i = 0; i < 32; i++) {
    float v = rounded(scaled_down(w[i], e), q->dtype);
    codes[i] = q->bits == 4 ? e2m1_of(v) : zmi_f32_to_e4m3(v);
  }
}

// ---- nv: an e4m3 scale for 16 numbers ----

static void quantize_nv(const zmi_float_quantizer *q, const float *w, uint8_t *codes, uint8_t *scale) {
  float amax = 0;
  for (int i = 0; i < 16; i++) amax = __builtin_fabsf(w[i]) > amax || w[i] != w[i] ? __builtin_fabsf(w[i]) : amax;
  *scale = zmi_f32_to_e4m3(rounded(amax / 6.0f, q->dtype) * q->encode);
  const float s = rounded(zmi_e4m3_to_f32(*scale), q->dtype);
  for (int i = 0; i < 16; i++) codes[i] = e2m1_of(rounded(w[i] / s, q->dtype) * q->encode);
}

void zmi_quantize_floats(const zmi_float_quantizer *q, const float *w, int64_t groups, uint32_t *weight, uint8_t *scales) {
  const int64_t group = q->group;
  uint8_t codes[32], *out = (uint8_t *)weight;
  for (int64_t g = 0; g < groups; g++, w += group) {
    if (group == 16)
      quantize_nv(q, w, codes, scales + g);
    else
      quantize_mx(q, w, codes, scales + g);
    if (q->bits == 8) {
      memcpy(out, codes, (size_t)group);
      out += group;
      continue;
    }
    for (int64_t i = 0; i < group; i += 2) *out++ = (uint8_t)(codes[i] | codes[i + 1] << 4);
  }
}
