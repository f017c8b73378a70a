// Codes of checkpoints and arrays to numbers, any stretch of a row. The values are exact for block formats of floats, and
// fma(code, scale, bias) in float32 for affine ones.
#include "quant/half.h"
#include "quant/quant.h"

#include <string.h>

static float element(const void *p, zm_dtype dtype, int64_t i) {
  if (dtype == ZM_F32) {
    float v;
    memcpy(&v, (const char *)p + 4 * i, 4);
    return v;
  }
  uint16_t h;
  memcpy(&h, (const char *)p + 2 * i, 2);
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(h) : zmi_half_to_float(h);
}

// Eight codes of `bits` bits from `at` (bits bytes), one to a byte.
static inline uint64_t eight(const uint8_t *at, int64_t bits) {
  uint64_t x = 0;
  memcpy(&x, at, (size_t)bits);
  if (bits == 8) return x;
  uint64_t m4 = (1ull << 4 * bits) - 1;
  uint64_t m2 = ((1ull << 2 * bits) - 1) * 0x0000000100000001ull;
  uint64_t m1 = ((1ull << bits) - 1) * 0x0001000100010001ull;
  x = (x & m4) | (x >> 4 * bits & m4) << 32;
  x = (x & m2) | (x >> 2 * bits & m2) << 16;
  return (x & m1) | (x >> bits & m1) << 8;
}

static void affine_group(const uint8_t *codes, int64_t bits, int64_t n, float scale, float bias, float *out) {
  for (int64_t i = 0; i < n; i += 8, codes += bits) {
    uint64_t x = eight(codes, bits);
    for (int j = 0; j < 8; j++) out[i + j] = __builtin_fmaf((float)(int)(x >> 8 * j & 255u), scale, bias);
  }
}

static void e2m1_group(const uint8_t *codes, int64_t n, float scale, float *out) {
  for (int64_t i = 0; i < n; i += 2) {
    out[i] = zmi_e2m1_values[codes[i / 2] & 15] * scale;
    out[i + 1] = zmi_e2m1_values[codes[i / 2] >> 4] * scale;
  }
}

void zmi_decode(const zmi_format *f, const zmi_stored_matrix *m, int64_t row, int64_t k, int64_t n, float *out) {
  const uint8_t *codes = (const uint8_t *)m->weight + (row * m->k + k) * f->bits / 8;
  const int64_t groups = m->k / f->group, bytes = f->group * f->bits / 8;
  for (int64_t g = k / f->group; n > 0; g++, n -= f->group, out += f->group, codes += bytes) {
    const int64_t at = row * groups + g;
    if (f->mode == ZMI_QUANT_AFFINE) {
      affine_group(codes, f->bits, f->group, element(m->scales, m->stored, at), element(m->biases, m->stored, at), out);
      continue;
    }
    const uint8_t code = ((const uint8_t *)m->scales)[at];
    const float scale = f->mode == ZMI_QUANT_NVFP4 ? zmi_e4m3_to_f32(code) : zmi_e8m0_to_f32(code);
    if (f->bits == 4) {
      e2m1_group(codes, f->group, scale, out);
    } else {
      for (int64_t i = 0; i < f->group; i++) out[i] = zmi_e4m3_to_f32(codes[i]) * scale;
    }
  }
}
