// The operations of simd.h for 64-bit ARM: vectors of 128 bits, of which a block of 16 rows has four.
#ifndef ZMI_NEON_H
#define ZMI_NEON_H

#include "backend/cpu/cpu.h"

#include <arm_neon.h>
#include <string.h>

enum { ZMI_WIDE = 4, ZMI_HALVES = 4, ZMI_REGISTERS = 32 };
#define ZMI_GEMM_VECTORS 4
typedef float32x4_t vf;
typedef uint32x4_t vu;
typedef int32x4_t vi;

// ---- memory, any alignment ----

ZMI_INLINE vu vu_load(const void *p) {
  vu v;
  memcpy(&v, p, sizeof v);
  return v;
}

ZMI_INLINE vf vf_load(const void *p) {
  vf v;
  memcpy(&v, p, sizeof v);
  return v;
}

ZMI_INLINE void vf_store(float *p, vf v) {
  memcpy(p, &v, sizeof v);
}

// The first lanes of a vector, by their number: what is not there is neither read nor written.
typedef int64_t vmask;
ZMI_INLINE vmask vmask_of(int64_t lanes) {
  return lanes;
}

ZMI_INLINE vf vf_load_some(const float *p, vmask there) {
  vf v = vdupq_n_f32(0);
  if (there >= 4) return vf_load(p);
  if (there > 0) v = vsetq_lane_f32(p[0], v, 0);
  if (there > 1) v = vsetq_lane_f32(p[1], v, 1);
  if (there > 2) v = vsetq_lane_f32(p[2], v, 2);
  return v;
}

ZMI_INLINE vf vf_set1(float v) {
  return vdupq_n_f32(v);
}

ZMI_INLINE vf vf_zero(void) {
  return vdupq_n_f32(0);
}

ZMI_INLINE vf vf_fma(vf a, vf b, vf c) {
  return vfmaq_f32(c, a, b);
}

// The four bytes at p in every lane.
ZMI_INLINE vi vi_broadcast4(const void *p) {
  int32_t v;
  memcpy(&v, p, 4);
  return vdupq_n_s32(v);
}

ZMI_INLINE vf vf_from_int(vi v) {
  return vcvtq_f32_s32(v);
}

// ZMI_WIDE numbers of a dtype as float32.
ZMI_INLINE vf vf_load_bf16(const void *p) {
  uint16x4_t v;
  memcpy(&v, p, sizeof v);
  return vreinterpretq_f32_u32(vshll_n_u16(v, 16));
}

ZMI_INLINE vf vf_load_f16(const void *p) {
  uint16x4_t v;
  memcpy(&v, p, sizeof v);
  return vcvt_f32_f16(vreinterpret_f16_u16(v));
}

// ---- pairs: {even, odd} elements of ZMI_WIDE lanes ----

typedef struct pair {
  vf even, odd;
} pair;

ZMI_INLINE pair pair_of_bf16(vu v) {
  return (pair){vreinterpretq_f32_u32(v << 16), vreinterpretq_f32_u32(v & vdupq_n_u32(0xffff0000u))};
}

// From 2 * ZMI_WIDE numbers side by side, in order.
ZMI_INLINE pair pair_of_two(vf a, vf b) {
  return (pair){vuzp1q_f32(a, b), vuzp2q_f32(a, b)};
}

ZMI_INLINE vf pair_order(vf v) {
  return v;
}

ZMI_INLINE pair pair_interleave(pair v) {
  return (pair){vzip1q_f32(v.even, v.odd), vzip2q_f32(v.even, v.odd)};
}

// ---- scales that are bytes ----

ZMI_INLINE uint8x8_t four_bytes(const void *p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return vcreate_u8(v);
}

// ZMI_WIDE bytes of e8m0 as 2^(v - 127 + up); 0 for 2^-127, infinity above the largest float32.
ZMI_INLINE vf vf_load_e8m0(const void *p, int up) {
  vu v = vmovl_u16(vget_low_u16(vmovl_u8(four_bytes(p))));
  if (up) v = vminq_u32(vaddq_u32(v, vdupq_n_u32((uint32_t)up)), vdupq_n_u32(255));
  return vreinterpretq_f32_u32(vshlq_n_u32(v, 23));
}

// ZMI_WIDE bytes of e4m3 divided by 256: the bits of a float16 with a smaller exponent. There is no NaN among them.
ZMI_INLINE vf vf_load_e4m3(const void *p) {
  const int16x4_t b = vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four_bytes(p))));
  return vcvt_f32_f16(vreinterpret_f16_s16(vand_s16(vshl_n_s16(b, 7), vdup_n_s16((int16_t)0xbf80))));
}

// A block's: ZMI_HALVES vectors.
ZMI_INLINE void vf_load_e4m3_block(const void *p, vf *out) {
  for (int h = 0; h < ZMI_HALVES; h++) out[h] = vf_load_e4m3((const char *)p + h * ZMI_WIDE);
}

// ---- codes (unsigned bytes) times digits (signed bytes): vectors of integers ----

typedef int8x16_t vw;

// Twice the value of an e2m1 code plus 16.
ZMI_INLINE vu fp4_codes(vu nibbles) {
  static const uint8_t twice[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};
  return vreinterpretq_u32_u8(vqtbl1q_u8(vld1q_u8(twice), vreinterpretq_u8_u32(nibbles)));
}

#if defined(__ARM_FEATURE_DOTPROD)
// The products of each lane's four bytes added to it. Both are signed here: codes of 8 bits come as themselves - 128.
#define ZMI_DOT
#define ZMI_DOT_SIGNED
ZMI_INLINE vi vi_dot(vi sum, vw codes, vw digits) {
  return vdotq_s32(sum, codes, digits);
}
#else
// Sums of products of codes below 128 in 16 bits, of each byte of a lane by itself: a code of 6 bits four times, others eight times.
enum { ZMI_SUM_RUNS = 2 };
typedef struct vsum {
  int16x8_t low, high;
} vsum;
ZMI_INLINE vsum vsum_of(vw codes, vw digits) {
  return (vsum){vmull_s8(vget_low_s8(codes), vget_low_s8(digits)), vmull_high_s8(codes, digits)};
}
ZMI_INLINE vsum vsum_add(vsum s, vw codes, vw digits) {
  return (vsum){vmlal_s8(s.low, vget_low_s8(codes), vget_low_s8(digits)), vmlal_high_s8(s.high, codes, digits)};
}
// Their sums a lane, `times` as much.
ZMI_INLINE vi vsum_wide(vsum s, short times) {
  const vi sum = vpaddq_s32(vpaddlq_s16(s.low), vpaddlq_s16(s.high));
  return times == 1 ? sum : vmulq_n_s32(sum, times);
}
#endif

// ---- lines of memory that become lanes ----

// Word w of four lines for w = 0..3.
ZMI_INLINE void turn4(const void *const line[4], vf word[4]) {
  const vf r0 = vf_load(line[0]), r1 = vf_load(line[1]), r2 = vf_load(line[2]), r3 = vf_load(line[3]);
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r0, r1)), b = vreinterpretq_f64_f32(vtrn2q_f32(r0, r1));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r2, r3)), d = vreinterpretq_f64_f32(vtrn2q_f32(r2, r3));
  word[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  word[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  word[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  word[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

// A vector has ZMI_WIDE / 4 parts of four numbers; part p is at p * step.
ZMI_INLINE vf vf_load_parts(const float *p, int64_t step) {
  (void)step;
  return vf_load(p);
}

ZMI_INLINE void vf_store_parts(float *p, int64_t step, vf v) {
  (void)step;
  vf_store(p, v);
}

// Four vectors, of each part the rows and columns.
ZMI_INLINE void vf_turn_parts(vf v[4]) {
  const void *const line[4] = {&v[0], &v[1], &v[2], &v[3]};
  turn4(line, v);
}

// Past the caches, where there are such stores; p is aligned to the vector.
ZMI_INLINE void vf_stream(float *p, vf v) {
  vf_store(p, v);
}

// Eight lanes.
typedef struct v8 {
  vf low, high;
} v8;

ZMI_INLINE v8 v8_zero(void) {
  return (v8){vf_zero(), vf_zero()};
}

ZMI_INLINE v8 v8_load(const float *p) {
  return (v8){vf_load(p), vf_load(p + 4)};
}

ZMI_INLINE void v8_store(float *p, v8 v) {
  vf_store(p, v.low);
  vf_store(p + 4, v.high);
}

ZMI_INLINE v8 v8_fma(float x, v8 w, v8 acc) {
  return (v8){vf_fma(vf_set1(x), w.low, acc.low), vf_fma(vf_set1(x), w.high, acc.high)};
}

// Word w of eight lines, `ld` bytes apart, for w = 0..3.
ZMI_INLINE void v8_turn(const char *at, int64_t ld, v8 word[4]) {
  vf low[4], high[4];
  turn4((const void *const[]){at, at + ld, at + 2 * ld, at + 3 * ld}, low);
  turn4((const void *const[]){at + 4 * ld, at + 5 * ld, at + 6 * ld, at + 7 * ld}, high);
  for (int w = 0; w < 4; w++) word[w] = (v8){low[w], high[w]};
}

// The first and the second of the two numbers in each lane.
ZMI_INLINE void v8_pairs_bf16(v8 pairs, v8 *even, v8 *odd) {
  const pair low = pair_of_bf16(vreinterpretq_u32_f32(pairs.low)), high = pair_of_bf16(vreinterpretq_u32_f32(pairs.high));
  *even = (v8){low.even, high.even};
  *odd = (v8){low.odd, high.odd};
}

ZMI_INLINE vf halves_as_floats(uint16x4_t v) {
  return vcvt_f32_f16(vreinterpret_f16_u16(v));
}

ZMI_INLINE void v8_pairs_f16(v8 pairs, v8 *even, v8 *odd) {
  const vu low = vreinterpretq_u32_f32(pairs.low), high = vreinterpretq_u32_f32(pairs.high);
  *even = (v8){halves_as_floats(vmovn_u32(low)), halves_as_floats(vmovn_u32(high))};
  *odd = (v8){halves_as_floats(vshrn_n_u32(low, 16)), halves_as_floats(vshrn_n_u32(high, 16))};
}

#endif
