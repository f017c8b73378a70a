// float16 to float32 without branches, so that loops over it become vector code. Private to the quant room.
#ifndef ZMI_HALF_H
#define ZMI_HALF_H

#include <stdint.h>

static inline float zmi_half_to_float(uint16_t v) {
  union {
    uint32_t u;
    float f;
  } w, denormal;
  uint32_t magnitude = v & 0x7fffu;
  w.u = (magnitude << 13) + (112u << 23);
  w.u += magnitude >= 0x7c00u ? 112u << 23 : 0;      // infinity and NaN
  w.u |= magnitude > 0x7c00u ? 0x400000u : 0;        // NaN is made quiet
  denormal.f = (float)(int32_t)magnitude * 0x1p-24f; // exact, and a normal float
  w.u = (magnitude < 0x400u ? denormal.u : w.u) | (uint32_t)(v & 0x8000u) << 16;
  return w.f;
}

#endif
