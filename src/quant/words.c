// Sixteen rows turned into lanes: what packing a whole block moves most. In vectors of 16 bytes, which every processor has that the
// library runs on; the loops at the ends say the same plainly.
#include "quant/packing.h"

#include <string.h>

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define TURNS 1
#endif
#endif

// Packing reads 16 rows at once, too many streams for a processor to foresee: the same place of the next block's rows is asked for.
static inline void ask(const uint8_t *row, size_t row_bytes) {
  __builtin_prefetch((const void *)((uintptr_t)row + ZMI_LANES * row_bytes), 0, 2);
}

#if defined(TURNS)
typedef uint32_t word4 __attribute__((vector_size(16)));
typedef uint16_t half8 __attribute__((vector_size(16)));

#define LOW4(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH4(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define LOW8(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH8(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)

// zmi_turn_nibbles of each lane.
static inline word4 turn_nibbles(word4 x) {
  const word4 even = x & 0x0f0f0f0fu, odd = x >> 4 & 0x0f0f0f0fu; // a byte each: codes 0, 2, 4, 6 and 1, 3, 5, 7
  const word4 e = even | even >> 12, o = odd | odd >> 12;         // their low bytes: 0 and 4, 2 and 6; 1 and 5, 3 and 7
  return (e & 0xffu) | (o & 0xffu) << 8 | (e & 0xff00u) << 8 | (o & 0xff00u) << 16;
}

// Words w to w + 3 of 16 rows.
static inline void turn_words(const uint8_t *source, size_t row_bytes, bool nibbles, uint32_t *out) {
  for (int j = 0; j < ZMI_LANES; j += 4, source += 4 * row_bytes) {
    word4 r[4];
    for (int i = 0; i < 4; i++) {
      memcpy(&r[i], source + (size_t)i * row_bytes, sizeof r[i]);
      if (nibbles) r[i] = turn_nibbles(r[i]);
    }
    const word4 a = LOW4(r[0], r[2]), b = HIGH4(r[0], r[2]), c = LOW4(r[1], r[3]), d = HIGH4(r[1], r[3]);
    const word4 t[4] = {LOW4(a, c), HIGH4(a, c), LOW4(b, d), HIGH4(b, d)};
    for (int w = 0; w < 4; w++) memcpy(out + w * ZMI_LANES + j, &t[w], sizeof t[w]);
  }
}

// Halves h to h + 7 of 16 rows.
static inline void turn_halves(const uint8_t *source, size_t row_bytes, char *out, size_t step) {
  for (int j = 0; j < ZMI_LANES; j += 8, source += 8 * row_bytes) {
    half8 r[8], s[8];
    for (int i = 0; i < 8; i++) memcpy(&r[i], source + (size_t)i * row_bytes, sizeof r[i]);
    for (int turn = 0; turn < 3; turn++) { // rows i and i + 4 side by side, three times
      for (int i = 0; i < 4; i++) {
        s[2 * i] = LOW8(r[i], r[i + 4]);
        s[2 * i + 1] = HIGH8(r[i], r[i + 4]);
      }
      memcpy(r, s, sizeof r);
    }
    for (int h = 0; h < 8; h++) memcpy(out + (size_t)h * step + 2 * j, &r[h], sizeof r[h]);
  }
}
#endif

void zmi_turn_words(const uint8_t *source, size_t row_bytes, int64_t words, bool nibbles, uint32_t *out) {
  int64_t w = 0;
#if defined(TURNS)
  for (; w + 4 <= words; w += 4, out += 4 * ZMI_LANES) {
    const uint8_t *at = source + 4 * w;
    for (int lane = 0; lane < ZMI_LANES && w % 16 == 0; lane++) ask(at + (size_t)lane * row_bytes, row_bytes);
    if (nibbles)
      turn_words(at, row_bytes, true, out);
    else
      turn_words(at, row_bytes, false, out);
  }
#endif
  for (; w < words; w++, out += ZMI_LANES) {
    uint32_t x[ZMI_LANES];
    for (int lane = 0; lane < ZMI_LANES; lane++) memcpy(&x[lane], source + (size_t)lane * row_bytes + 4 * w, 4);
    for (int lane = 0; lane < ZMI_LANES && nibbles; lane++) x[lane] = zmi_turn_nibbles(x[lane]);
    memcpy(out, x, sizeof x);
  }
}

void zmi_turn_halves(const uint8_t *source, size_t row_bytes, int64_t halves, char *out, size_t step) {
  int64_t h = 0;
#if defined(TURNS)
  for (; h + 8 <= halves; h += 8) turn_halves(source + 2 * h, row_bytes, out + (size_t)h * step, step);
#endif
  for (; h < halves; h++) {
    for (int lane = 0; lane < ZMI_LANES; lane++) memcpy(out + (size_t)h * step + 2 * lane, source + (size_t)lane * row_bytes + 2 * h, 2);
  }
}
