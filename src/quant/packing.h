// Private to the quant room: how each mode's blocks are packed, and words of codes.
#ifndef ZMI_QUANT_PACKING_H
#define ZMI_QUANT_PACKING_H

#include "quant/quant.h"

// Packing of one block from row `first` on, and one lane of a block back (numbers.c).
void zmi_pack_fp4(const zmi_format *f, const zmi_stored_matrix *m, void *block, int64_t first);
void zmi_unpack_fp4(const zmi_format *f, const void *block, int64_t k, int64_t lane, float *out);
void zmi_pack_fp8(const zmi_format *f, const zmi_stored_matrix *m, void *block, int64_t first);
void zmi_unpack_fp8(const zmi_format *f, const void *block, int64_t k, int64_t lane, float *out);
zm_status zmi_check_numbers(const zmi_format *f, const zmi_stored_matrix *m);

// Rows to lanes (words.c), for 16 rows that stand `row_bytes` apart: word w of lane i at out[16 w + i]; with `nibbles` each word through
// zmi_turn_nibbles. Of two bytes: number h of lane i at out + h step + 2 i.
void zmi_turn_words(const uint8_t *source, size_t row_bytes, int64_t words, bool nibbles, uint32_t *out);
void zmi_turn_halves(const uint8_t *source, size_t row_bytes, int64_t halves, char *out, size_t step);

// Eight codes of 4 bits in their order to the order of a packed word: byte j holds code j and, above it, code j + 4.
static inline uint32_t zmi_turn_nibbles(uint32_t x) {
  const uint32_t even = x & 0x0f0f0f0fu, odd = x >> 4 & 0x0f0f0f0fu;
  const uint32_t u = (even & 0xfu) | (even & 0xf00u) << 8 | (even >> 12 & 0xf0u) | (even >> 4 & 0xf00000u);
  const uint32_t v = (odd & 0xfu) | (odd & 0xf00u) << 8 | (odd >> 12 & 0xf0u) | (odd >> 4 & 0xf00000u);
  return u | v << 8;
}

#endif
