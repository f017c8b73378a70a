// Packed blocks of mxfp4, nvfp4 and mxfp8: codes are numbers of 4 and 8 bits, scales are bytes (quant.h has the layout).
#include "quant/packing.h"

#include <string.h>

static float scale_of(const zmi_format *f, uint8_t code) {
  if (f->mode == ZMI_QUANT_NVFP4) return zmi_e4m3_to_f32(code);
  return code ? zmi_e8m0_to_f32(code) : 0.0f; // 2^-127 is a denormal number
}

// Scales of all groups, which follow the codes of a block: out[g][lane].
static void pack_scales(const zmi_format *f, const zmi_stored_matrix *m, void *block, int64_t first, int64_t rows) {
  const int64_t groups = m->k / f->group;
  uint8_t *out = (uint8_t *)block + zmi_packed_code_bytes(f, m->k);
  const uint8_t *scales = (const uint8_t *)m->scales + (size_t)(first * groups);
  for (int64_t lane = 0; lane < rows; lane++, scales += groups) {
    for (int64_t g = 0; g < groups; g++) out[g * ZMI_LANES + lane] = scales[g];
  }
}

static int64_t rows_of(const zmi_format *f, const zmi_stored_matrix *m, void *block, int64_t first) {
  const int64_t rows = ZMI_MIN(m->n - first, (int64_t)ZMI_LANES);
  const size_t whole = zmi_packed_block_bytes(f, m->k), used = zmi_packed_code_bytes(f, m->k) + (size_t)(m->k / f->group * ZMI_LANES);
  if (rows < ZMI_LANES)
    memset(block, 0, whole);
  else
    memset((char *)block + used, 0, whole - used);
  return rows;
}

void zmi_pack_fp4(const zmi_format *f, const zmi_stored_matrix *m, void *block, int64_t first) {
  const int64_t rows = rows_of(f, m, block, first), words = m->k / 8;
  const size_t row_bytes = (size_t)m->k / 2;
  const uint8_t *source = (const uint8_t *)m->weight + (size_t)first * row_bytes;
  if (rows == ZMI_LANES) zmi_turn_words(source, row_bytes, words, true, block);
  for (int64_t w = 0; w < words && rows < ZMI_LANES; w++) {
    uint32_t x[ZMI_LANES] = {0};
    for (int64_t lane = 0; lane < rows; lane++) memcpy(&x[lane], source + (size_t)lane * row_bytes + 4 * w, 4);
    for (int lane = 0; lane < ZMI_LANES; lane++) x[lane] = zmi_turn_nibbles(x[lane]);
    memcpy((uint32_t *)block + w * ZMI_LANES, x, sizeof x);
  }
  pack_scales(f, m, block, first, rows);
}

void zmi_unpack_fp4(const zmi_format *f, const void *block, int64_t k, int64_t lane, float *out) {
  const uint8_t *codes = block, *scales = codes + zmi_packed_code_bytes(f, k);
  for (int64_t i = 0; i < k; i++) {
    const int byte = codes[(i / 8 * ZMI_LANES + lane) * 4 + i % 4];
    out[i] = zmi_e2m1_values[i % 8 < 4 ? byte & 15 : byte >> 4] * scale_of(f, scales[i / f->group * ZMI_LANES + lane]);
  }
}

void zmi_pack_fp8(const zmi_format *f, const zmi_stored_matrix *m, void *block, int64_t first) {
  const int64_t rows = rows_of(f, m, block, first), pairs = m->k / 2;
  for (int64_t at = 0; at < pairs; at += 16) { // tiles, so that each line of the block is written once
    for (int64_t lane = 0; lane < rows; lane++) {
      const uint8_t *source = (const uint8_t *)m->weight + (size_t)((first + lane) * m->k);
      for (int64_t p = at; p < ZMI_MIN(at + 16, pairs); p++) memcpy((uint8_t *)block + (p * ZMI_LANES + lane) * 2, source + 2 * p, 2);
    }
  }
  pack_scales(f, m, block, first, rows);
}

void zmi_unpack_fp8(const zmi_format *f, const void *block, int64_t k, int64_t lane, float *out) {
  const uint8_t *codes = block, *scales = codes + zmi_packed_code_bytes(f, k);
  for (int64_t i = 0; i < k; i++)
    out[i] = zmi_e4m3_to_f32(codes[(i / 2 * ZMI_LANES + lane) * 2 + i % 2]) * scale_of(f, scales[i / f->group * ZMI_LANES + lane]);
}

// ---- refusing what is not a number ----

static bool is_nan(const uint8_t *codes, int64_t n) {
  unsigned found = 0;
  for (int64_t i = 0; i < n; i++) found |= (codes[i] & 127u) == 127;
  return found;
}

zm_status zmi_check_numbers(const zmi_format *f, const zmi_stored_matrix *m) {
  const int64_t groups = m->k / f->group;
  const uint8_t *scales = m->scales, *codes = m->weight;
  for (int64_t row = 0; row < m->n; row++) {
    if (f->mode == ZMI_QUANT_MXFP8 && is_nan(codes + row * m->k, m->k)) {
      return zmi_fail(ZM_ERROR_FORMAT, "a value of row %lld is NaN: the checkpoint is damaged, download or convert it again",
                      (long long)row);
    }
    for (int64_t g = 0; g < groups; g++) {
      const uint8_t s = scales[row * groups + g];
      if (f->mode == ZMI_QUANT_NVFP4 ? (s & 127u) != 127 : s != 255) continue;
      return zmi_fail(ZM_ERROR_FORMAT, "the scale of row %lld, group %lld is NaN: the checkpoint is damaged, download or convert it again",
                      (long long)row, (long long)g);
    }
  }
  return ZM_OK;
}
