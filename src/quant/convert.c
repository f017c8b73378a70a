// float16 to float32 and back, to nearest even.
#include "quant/half.h"
#include "quant/quant.h"

typedef union word {
  uint32_t u;
  float f;
} word;

float zmi_f16_to_f32(uint16_t v) {
  return zmi_half_to_float(v);
}

uint16_t zmi_f32_to_f16(float v) {
  word w = {.f = v};
  uint32_t sign = w.u >> 16 & 0x8000u, u = w.u & 0x7fffffffu;
  if (u > 0x7f800000u) return 0x7e00;
  if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); // 65520 and above round to infinity
  if (u >= 0x38800000u) {                                  // 2^-14: normal halves
    u += 0xfffu + (u >> 13 & 1u);
    return (uint16_t)(sign | (u - 0x38000000u) >> 13);
  }
  if (u < 0x33000000u) return (uint16_t)sign; // below 2^-25
  uint32_t shift = 126 - (u >> 23);           // 14..24: the fraction counts units of 2^-24
  uint32_t fraction = (u & 0x7fffffu) | 0x800000u;
  uint32_t half = 1u << (shift - 1), kept = fraction >> shift;
  uint32_t rest = fraction & ((1u << shift) - 1);
  if (rest > half || (rest == half && (kept & 1u))) kept++;
  return (uint16_t)(sign | kept);
}
