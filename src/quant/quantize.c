// Affine quantization by MLX's CPU rule: the extreme of larger magnitude is kept exactly, zero lies on the grid.
#include "quant/quant.h"

#include <string.h>

// To the nearest integer, ties to even.
static float round_even(float v) {
  float big = __builtin_copysignf(8388608.0f, v);
  return __builtin_fabsf(v) < 8388608.0f ? (v + big) - big : v;
}

// One group: scale and bias as stored, codes by the scale and bias before rounding to a checkpoint's dtype.
static void quantize_group(const float *w, int64_t group, float levels, float *scale, float *bias, uint8_t *codes) {
  float low = w[0], high = w[0];
  for (int64_t i = 1; i < group; i++) {
    low = w[i] < low ? w[i] : low;
    high = w[i] > high ? w[i] : high;
  }
  bool low_side = __builtin_fabsf(low) > __builtin_fabsf(high);
  float s = (high - low) / levels, edge = low_side ? low : high, b = 0;
  s = s > 1e-7f ? s : 1e-7f;
  if (!low_side) s = -s;
  float q0 = round_even(edge / s);
  if (q0 != 0) {
    s = edge / q0;
    b = edge;
  }
  for (int64_t i = 0; i < group; i++) {
    float q = round_even((w[i] - b) / s);
    q = q > 0 ? q : 0; // NaN becomes 0
    codes[i] = (uint8_t)(q < levels ? q : levels);
  }
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
