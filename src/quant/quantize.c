// Affine quantization by MLX's CPU rule: the extreme of larger magnitude is kept exactly, zero lies on the grid.
#include "quant/quant.h"

#include <string.h>

// To the nearest integer, ties to even.
static float round_even(float v) {
  float big = __builtin_copysignf(8388608.0f, v);
  return __builtin_fabsf(v) < 8388608.0f ? (v + big) - big : v;
}

enum { WIDE = 8 };

// The least and the largest of a group (a multiple of WIDE). In lanes, for vector compilers; which of two zeros is found changes nothing.
static void extremes(const float *w, int64_t group, float *low, float *high) {
  float l[WIDE], h[WIDE];
  int nan = 0;
  for (int i = 0; i < WIDE; i++) l[i] = h[i] = w[i];
  for (int64_t at = 0; at < group; at += WIDE) {
    for (int i = 0; i < WIDE; i++) {
      const float v = w[at + i];
      nan |= v != v;
      l[i] = v < l[i] ? v : l[i];
      h[i] = v > h[i] ? v : h[i];
    }
  }
  *low = nan ? w[0] : l[0];
  *high = nan ? w[0] : h[0];
  for (int64_t i = 1; i < (nan ? group : WIDE); i++) { // one after another, a NaN in front stays
    const float least = nan ? w[i] : l[i], most = nan ? w[i] : h[i];
    *low = least < *low ? least : *low;
    *high = most > *high ? most : *high;
  }
}

// One group: scale and bias as stored, codes by the scale and bias before rounding to a checkpoint's dtype.
static void quantize_group(const float *restrict w, int64_t group, float levels, float *scale, float *bias, uint8_t *restrict codes) {
  float low, high;
  extremes(w, group, &low, &high);
  bool low_side = __builtin_fabsf(low) > __builtin_fabsf(high);
  float s = (high - low) / levels, edge = low_side ? low : high, b = 0;
  s = s > 1e-7f ? s : 1e-7f;
  if (!low_side) s = -s;
  float q0 = round_even(edge / s);
  if (q0 != 0) {
    s = edge / q0;
    b = edge;
  }
  int32_t q[128];
  for (int64_t i = 0; i < group; i++) {
    const float at = (w[i] - b) / s, big = __builtin_copysignf(8388608.0f, at);
    float v = (at + big) - big; // to the nearest, ties to even; what is too large for that is above all levels, or below
    v = v > 0 ? v : 0;          // NaN becomes 0
    v = v < levels ? v : levels;
    q[i] = (int32_t)v;
  }
  for (int64_t i = 0; i < group; i++) codes[i] = (uint8_t)q[i];
  *scale = s;
  *bias = b;
}

void zmi_quantize_affine(int64_t bits, int64_t group, const float *w, int64_t n, int64_t k, uint32_t *weight, float *scales,
                         float *biases) {
  const float levels = (float)((1 << bits) - 1);
  const size_t unit_bytes = (size_t)bits; // eight codes
  uint8_t codes[128], *out = (uint8_t *)weight;
  for (int64_t g = 0; g < n * k / group; g++) {
    quantize_group(w + g * group, group, levels, scales + g, biases + g, codes);
    for (int64_t i = 0; i < group; i += 8, out += unit_bytes) {
      uint64_t x = 0;
      for (int j = 0; j < 8; j++) x |= (uint64_t)codes[i + j] << j * bits;
      memcpy(out, &x, unit_bytes); // little-endian, as the format is
    }
  }
}
