// Row helpers of a tier: loops that each tier's compiler turns into vector code of its own, all with the bits of the plain loop. Included
// once by the file that defines the tier's table; ZMI_ROW_KERNELS initializes that table's entries.
#ifndef ZMI_ROWS_H
#define ZMI_ROWS_H

#include "backend/cpu/functions.h"
#include "backend/cpu/sixteen.h"

#include <string.h>

// ---- float16 (sixteen.h), bfloat16, float32 ----

static uint16_t to_bf16(float v) {
  uint32_t u = zmi_bits(v), r = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
  return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : r);
}

static void row_load(const void *src, zm_dtype dtype, int64_t n, float *out) {
  if (dtype == ZM_BF16) {
    const uint16_t *p = src;
    for (int64_t i = 0; i < n; i++) out[i] = zmi_float((uint32_t)p[i] << 16);
  } else if (dtype == ZM_F16) {
    load_f16(src, n, out);
  } else {
    const float *p = src;
    for (int64_t i = 0; i < n; i++) out[i] = p[i];
  }
}

static void row_store(const float *x, int64_t n, void *dst, zm_dtype dtype) {
  if (dtype == ZM_BF16) {
    uint16_t *p = dst;
    for (int64_t i = 0; i < n; i++) p[i] = to_bf16(x[i]);
  } else if (dtype == ZM_F16) {
    store_f16(x, n, dst);
  } else {
    float *p = dst;
    for (int64_t i = 0; i < n; i++) p[i] = x[i];
  }
}

static void row_round(float *x, int64_t n, zm_dtype dtype) {
  if (dtype == ZM_BF16) {
    for (int64_t i = 0; i < n; i++) x[i] = zmi_float((uint32_t)to_bf16(x[i]) << 16);
  } else if (dtype == ZM_F16) {
    uint16_t part[256];
    for (int64_t i = 0; i < n; i += 256) {
      int64_t count = ZMI_MIN(n - i, 256);
      store_f16(x + i, count, part);
      load_f16(part, count, x + i);
    }
  }
}

// Four of the 16 lanes below.
typedef float quarter __attribute__((vector_size(16)));
typedef int32_t quarter_masks __attribute__((vector_size(16)));

ZMI_INLINE quarter larger(quarter a, quarter b) {
  const quarter_masks above = a > b;
  return (quarter)(((quarter_masks)a & above) | ((quarter_masks)b & ~above));
}

// ---- reductions in 16 lanes: lane i takes k = i, i + 16, ...; then lanes i and i + 8, i + 4, i + 2, i + 1 are added ----

static float fold(const lanes acc[PARTS]) {
  quarter lane[4];
  memcpy(lane, acc, sizeof lane);
  const quarter four = (lane[0] + lane[2]) + (lane[1] + lane[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// The last n < 16 elements with zeros behind them: a sum that starts at +0 is never -0, so adding a zero changes nothing.
static void tail(const float *x, int64_t n, float rest[16]) {
  for (int64_t i = 0; i < 16; i++) rest[i] = i < n ? x[i] : 0.0f;
}

static float row_sum(const float *x, int64_t n) {
  lanes acc[PARTS] = {{0}};
  float rest[16];
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    ZMI_UNROLL
    for (int i = 0; i < PARTS; i++) acc[i] += load_lanes(x + k + i * WIDTH);
  }
  tail(x + k, n - k, rest);
  for (int i = 0; i < PARTS; i++) acc[i] += load_lanes(rest + i * WIDTH);
  return fold(acc);
}

static float sum_squares(const float *x, int64_t n) {
  lanes acc[PARTS] = {{0}};
  float rest[16];
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    ZMI_UNROLL
    for (int i = 0; i < PARTS; i++) acc[i] = add_squares(x + k + i * WIDTH, acc[i]);
  }
  tail(x + k, n - k, rest);
  for (int i = 0; i < PARTS; i++) acc[i] = add_squares(rest + i * WIDTH, acc[i]);
  return fold(acc);
}

// NaN if any is NaN; a zero is +0, whichever zeros there were.
static float row_max(const float *x, int64_t n) {
  masks most[PARTS], nan[PARTS] = {{0}};
  quarter lane[4];
  int32_t any = 0;
  int64_t k = 0;
  for (int i = 0; i < PARTS; i++) most[i] = (masks)((lanes){0} - __builtin_inff());
  for (; k + 16 <= n; k += 16) {
    ZMI_UNROLL
    for (int i = 0; i < PARTS; i++) {
      lanes v = load_lanes(x + k + i * WIDTH);
      masks above = v > (lanes)most[i];
      most[i] = ((masks)v & above) | (most[i] & ~above);
      nan[i] |= v != v;
    }
  }
  memcpy(lane, most, sizeof lane);
  const quarter four = larger(larger(lane[0], lane[2]), larger(lane[1], lane[3]));
  float result = ZMI_MAX(ZMI_MAX(four[0], four[2]), ZMI_MAX(four[1], four[3]));
  for (int i = 1; i < PARTS; i++) nan[0] |= nan[i];
  for (int i = 0; i < WIDTH; i++) any |= nan[0][i];
  for (; k < n; k++) {
    result = x[k] > result ? x[k] : result;
    any |= x[k] != x[k];
  }
  return any ? zmi_float(0x7fc00000u) : result + 0.0f;
}

static void row_rms_norm(const float *x, const float *w, int64_t n, float eps, float *y) {
  float r = 1.0f / __builtin_sqrtf(sum_squares(x, n) / (float)n + eps);
  for (int64_t i = 0; i < n; i++) y[i] = x[i] * r * w[i];
}

// x becomes exp(x - most), the largest of x; returns the sum.
static float exp_sum(float *x, int64_t n, float most) {
  for (int64_t i = 0; i < n; i++) x[i] = zk_exp_below(x[i] - most);
  return row_sum(x, n);
}

static void row_softmax(float *x, int64_t n) {
  float sum = exp_sum(x, n, row_max(x, n));
  for (int64_t i = 0; i < n; i++) x[i] = zk_share(x[i], sum);
}

// ---- elementwise ----

static void row_exp(float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = zmi_exp1(x[i]);
}

static void row_sigmoid(float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = zmi_sigmoid1(x[i]);
}

static void row_silu(float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = zmi_silu1(x[i]);
}

static void row_tanh(float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = zmi_tanh1(x[i]);
}

static void row_log(float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = zmi_log1(x[i]);
}

// (a, b) -> (fma(a, cos, -(b sin)), fma(a, sin, b cos))
static void row_rope(float *x, int64_t n, bool traditional, const float *cosine, const float *sine) {
  int64_t half = n / 2;
  for (int64_t i = 0; i < half && traditional; i++) {
    float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = __builtin_fmaf(a, cosine[i], -(b * sine[i]));
    x[2 * i + 1] = __builtin_fmaf(a, sine[i], b * cosine[i]);
  }
  float *restrict first = x, *restrict second = x + half;
  for (int64_t i = 0; i < half && !traditional; i++) {
    float a = first[i], b = second[i];
    first[i] = __builtin_fmaf(a, cosine[i], -(b * sine[i]));
    second[i] = __builtin_fmaf(a, sine[i], b * cosine[i]);
  }
}

static void row_axpy(float a, const void *x, zm_dtype dtype, int64_t n, float *acc) {
  if (dtype == ZM_BF16) {
    const uint16_t *p = x;
    for (int64_t i = 0; i < n; i++) acc[i] = __builtin_fmaf(a, zmi_float((uint32_t)p[i] << 16), acc[i]);
  } else if (dtype == ZM_F16) {
    float part[256];
    for (int64_t i = 0; i < n; i += 256) {
      int64_t count = ZMI_MIN(n - i, 256);
      load_f16((const uint16_t *)x + i, count, part);
      for (int64_t j = 0; j < count; j++) acc[i + j] = __builtin_fmaf(a, part[j], acc[i + j]);
    }
  } else {
    const float *p = x;
    for (int64_t i = 0; i < n; i++) acc[i] = __builtin_fmaf(a, p[i], acc[i]);
  }
}

static void row_multiply_add(const float *a, const float *b, int64_t n, float *acc) {
  for (int64_t i = 0; i < n; i++) acc[i] = __builtin_fmaf(a[i], b[i], acc[i]);
}

// ---- codes of a bit stream ----

// Eight codes of `bits` bits, one to a byte.
static inline uint64_t spread_codes(const uint8_t *at, int64_t bits) {
  uint64_t x = 0, m4 = (1ull << 4 * bits) - 1, m2 = ((1ull << 2 * bits) - 1) * 0x0000000100000001ull,
           m1 = ((1ull << bits) - 1) * 0x0001000100010001ull;
  memcpy(&x, at, (size_t)bits);
  x = (x & m4) | (x >> 4 * bits & m4) << 32;
  x = (x & m2) | (x >> 2 * bits & m2) << 16;
  return (x & m1) | (x >> bits & m1) << 8;
}

static void row_codes(const void *stream, int64_t bits, int64_t n, uint8_t *restrict out) {
  const uint8_t *restrict in = stream;
  if (bits == 8) {
    memcpy(out, in, (size_t)n);
  } else if (bits == 4) {
    for (int64_t i = 0; i < n / 2; i++) {
      out[2 * i] = in[i] & 15u;
      out[2 * i + 1] = in[i] >> 4;
    }
  } else if (bits == 2) {
    for (int64_t i = 0; i < n / 4; i++) {
      out[4 * i] = in[i] & 3u;
      out[4 * i + 1] = in[i] >> 2 & 3u;
      out[4 * i + 2] = in[i] >> 4 & 3u;
      out[4 * i + 3] = in[i] >> 6;
    }
  } else {
    for (int64_t i = 0; i < n; i += 8, in += bits) {
      const uint64_t x = spread_codes(in, bits);
      memcpy(out + i, &x, sizeof x);
    }
  }
}

static void row_affine(const uint8_t *restrict codes, int64_t n, float scale, float bias, float *restrict out) {
  for (int64_t i = 0; i < n; i++) out[i] = __builtin_fmaf((float)(int)codes[i], scale, bias);
}

// ---- activations as digits ----

// Written for vector compilers: integers only after one multiplication, no early exits inside the loops.
static void digits_of_group(const float *x, int64_t group, int8_t *d, float *scale, float *sum, int32_t part[3]) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < group; i++) largest = ZMI_MAX(largest, zmi_bits(x[i]) & 0x7fffffffu);
  if (largest < 0x00800000u || largest >= 0x7f800000u) { // all zero, or a NaN or an infinity among them
    memset(d, 0, (size_t)(3 * group));
    memset(part, 0, 3 * sizeof *part);
    *scale = *sum = largest < 0x00800000u ? 0.0f : zmi_float(0x7fc00000u);
    return;
  }
  uint32_t exponent = zmi_digits_exponent(largest);
  float to_integer = zmi_float((254 - exponent) << 23);
  int32_t total = 0, upper = 0, top = 0; // sums of X = 256 (256 d0 + d1) + d2, of 256 d0 + d1 and of d0
  for (int64_t i = 0; i < group; i++) {
    float v = x[i] * to_integer, big = __builtin_copysignf(0x1p23f, v);
    int32_t q = (int32_t)((v + big) - big); // |v| < 2^23: rounds to nearest even
    total += q;
    d[2 * group + i] = (int8_t)(uint8_t)(q & 255);
    q = (q + 128) >> 8;
    upper += q;
    d[group + i] = (int8_t)(uint8_t)(q & 255);
    q = (q + 128) >> 8;
    top += q;
    d[i] = (int8_t)q;
  }
  *scale = zmi_float(exponent << 23);
  *sum = (float)total * *scale;
  part[0] = top;
  part[1] = upper - 256 * top;
  part[2] = total - 256 * upper;
}

// One digit an element: the scale is what makes the largest 127, not a power of two, which would cost up to a bit.
static void digit_of_group(const float *x, int64_t group, int8_t *d, float *scale, float *sum, int32_t *part) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < group; i++) largest = ZMI_MAX(largest, zmi_bits(x[i]) & 0x7fffffffu);
  const bool none = largest < 0x0d800000u; // below 2^-100
  if (none || largest >= 0x7f800000u) {
    for (int64_t i = 0; i < group; i++) d[i] = 0;
    *part = 0;
    *scale = *sum = none ? 0.0f : zmi_float(0x7fc00000u);
    return;
  }
  const float most = zmi_float(largest), to_integer = 127.0f / most;
  int32_t total = 0;
  for (int64_t i = 0; i < group; i++) {
    float v = x[i] * to_integer, big = __builtin_copysignf(0x1p23f, v);
    int32_t q = (int32_t)((v + big) - big); // to nearest even
    total += q;
    d[i] = (int8_t)q;
  }
  *scale = most / 127.0f;
  *sum = (float)total * *scale;
  *part = total;
}

static void row_digits(const float *x, int64_t k, int64_t group, int count, void *digits) {
  float *scale = zmi_digits_scale(digits, k, count), *sum = zmi_digits_sum(digits, k, group, count);
  int32_t *part = zmi_digits_parts(digits, k, group, count);
  for (int64_t at = 0; at < k; at += group, part += count) {
    if (count == 1)
      digit_of_group(x + at, group, (int8_t *)digits + at, scale++, sum++, part);
    else
      digits_of_group(x + at, group, (int8_t *)digits + 3 * at, scale++, sum++, part);
  }
}

#define ZMI_ROW_KERNELS                                                                                                                    \
  .digits = row_digits, .load = row_load, .store = row_store, .round = row_round, .rms_norm = row_rms_norm, .sum = row_sum,                \
  .max = row_max, .softmax = row_softmax, .exp = row_exp, .sigmoid = row_sigmoid, .silu = row_silu, .tanh = row_tanh, .log = row_log,      \
  .rope = row_rope, .axpy = row_axpy, .multiply_add = row_multiply_add, .codes = row_codes, .affine = row_affine

#endif
