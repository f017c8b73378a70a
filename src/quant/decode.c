// Codes of the block formats of floats to numbers, any stretch of a row: code * scale in float32.
#include "quant/quant.h"

static void e2m1_group(const uint8_t *codes, int64_t n, float scale, float *out) {
  for (int64_t i = 0; i < n; i += 2) {
    out[i] = zmi_e2m1_values[codes[i / 2] & 15] * scale;
    out[i + 1] = zmi_e2m1_values[codes[i / 2] >> 4] * scale;
  }
}

void zmi_decode_floats(const zmi_format *f, const zmi_stored_matrix *m, int64_t row, int64_t k, int64_t n, float *out) {
  const uint8_t *codes = (const uint8_t *)m->weight + (row * m->k + k) * f->bits / 8;
  const int64_t groups = m->k / f->group, bytes = f->group * f->bits / 8;
  for (int64_t g = k / f->group; n > 0; g++, n -= f->group, out += f->group, codes += bytes) {
    const uint8_t code = ((const uint8_t *)m->scales)[row * groups + g];
    const float scale = f->mode == ZMI_QUANT_NVFP4 ? zmi_e4m3_to_f32(code) : zmi_e8m0_to_f32(code);
    if (f->bits == 4) {
      e2m1_group(codes, f->group, scale, out);
    } else {
      for (int64_t i = 0; i < f->group; i++) out[i] = zmi_e4m3_to_f32(codes[i]) * scale;
    }
  }
}
