// First part of the prelude: the scalar functions of the kernel language, one text for C17, C++, CUDA C and Metal. The library's CPU tiers
// compile it, and emitters put it in front of what they print. Here: types, bits, integers, conversions and formats; functions.h has the
// float functions.
//
// IEEE operations and explicit fused multiply-adds only, compiled without contraction, denormals counting as zero (docs/numerics.md).
// Moves, signs and choices never flush: where a device might do either, the bits are handled as integers.
//
//   zk_float zk_int zk_uint zk_long zk_ulong zk_bool   types of values
//   zk_<function>(...)                                 float functions
//   zk_<function>_<type>(...)                          arithmetic and comparisons, which every type has
//   zk_<to>_of_<from>(x)                               conversions of values; zk_load_<dtype>(stored), zk_store_<dtype>_<type>(value)
//   zk_stored_<dtype>                                  what an array of a dtype is made of
#ifndef ZK_NUMBERS
#define ZK_NUMBERS

#if defined(__METAL_VERSION__)
#define ZK_FN static inline
typedef int zk_int;
typedef uint zk_uint;
typedef long zk_long;
typedef ulong zk_ulong;
#define zk_bits(x) (as_type<uint>((float)(x)))
#define zk_of_bits(u) (as_type<float>((uint)(u)))
#define zk_fma(a, b, c) (metal::fma((float)(a), (float)(b), (float)(c)))
#define zk_sqrt(x) (metal::precise::sqrt((float)(x)))
#elif defined(__CUDACC__)
#define ZK_FN static __device__ __forceinline__
typedef int zk_int;
typedef unsigned int zk_uint;
typedef long long zk_long;
typedef unsigned long long zk_ulong;
#define zk_bits(x) (__float_as_uint(x))
#define zk_of_bits(u) (__uint_as_float(u))
#define zk_fma(a, b, c) (__fmaf_rn(a, b, c))
#define zk_sqrt(x) (__fsqrt_rn(x))
#else
#if !defined(__cplusplus)
#include <stdbool.h>
#endif
#include <stdint.h>
#define ZK_FN static inline __attribute__((always_inline, unused))
typedef int32_t zk_int;
typedef uint32_t zk_uint;
typedef int64_t zk_long;
typedef uint64_t zk_ulong;
typedef union zkp_word {
  float f;
  zk_uint u;
} zkp_word;
ZK_FN zk_uint zk_bits(float x) {
  zkp_word w;
  w.f = x;
  return w.u;
}
ZK_FN float zk_of_bits(zk_uint u) {
  zkp_word w;
  w.u = u;
  return w.f;
}
#define zk_fma(a, b, c) (__builtin_fmaf(a, b, c))
#define zk_sqrt(x) (__builtin_sqrtf(x))
#endif
typedef float zk_float;
typedef bool zk_bool;

// ---- bits of floats ----

ZK_FN zk_float zkp_nan(void) {
  return zk_of_bits(0x7fc00000u);
}

ZK_FN zk_float zkp_infinity(void) {
  return zk_of_bits(0x7f800000u);
}

ZK_FN zk_float zk_abs_float(zk_float x) {
  return zk_of_bits(zk_bits(x) & 0x7fffffffu);
}

ZK_FN zk_float zk_neg_float(zk_float x) {
  return zk_of_bits(zk_bits(x) ^ 0x80000000u);
}

// |x| with the sign bit of y, and x with its sign bit flipped where y has one.
ZK_FN zk_float zkp_signed(zk_float x, zk_float y) {
  return zk_of_bits((zk_bits(x) & 0x7fffffffu) | (zk_bits(y) & 0x80000000u));
}

ZK_FN zk_float zkp_flip(zk_float x, zk_float y) {
  return zk_of_bits(zk_bits(x) ^ (zk_bits(y) & 0x80000000u));
}

// A denormal becomes a zero of its sign.
ZK_FN zk_float zk_flush(zk_float x) {
  zk_uint u = zk_bits(x);
  return zk_of_bits((u & 0x7f800000u) == 0u ? u & 0x80000000u : u);
}

ZK_FN zk_bool zk_isnan(zk_float x) {
  return (zk_bits(x) & 0x7fffffffu) > 0x7f800000u;
}

ZK_FN zk_bool zk_isinf(zk_float x) {
  return (zk_bits(x) & 0x7fffffffu) == 0x7f800000u;
}

ZK_FN zk_bool zk_isfinite(zk_float x) {
  return (zk_bits(x) & 0x7fffffffu) < 0x7f800000u;
}

// The sign of a NaN is no part of any result: it counts as plus.
ZK_FN zk_float zk_copysign(zk_float x, zk_float y) {
  return zk_of_bits((zk_bits(x) & 0x7fffffffu) | (zk_isnan(y) ? 0u : zk_bits(y) & 0x80000000u));
}

// ---- rounding to integers ----

ZK_FN zk_float zk_round(zk_float x) { // to nearest even
  zk_float a = zk_abs_float(x), t = (a + 0x1p23f) - 0x1p23f;
  return a < 0x1p23f ? zkp_signed(t, x) : x;
}

ZK_FN zk_float zk_trunc(zk_float x) {
  zk_float a = zk_abs_float(x), t = (a + 0x1p23f) - 0x1p23f;
  t = t > a ? t - 1.0f : t;
  return a < 0x1p23f ? zkp_signed(t, x) : x;
}

ZK_FN zk_float zk_floor(zk_float x) {
  zk_float a = zk_abs_float(x), t = zkp_signed((a + 0x1p23f) - 0x1p23f, x);
  t = t > x ? t - 1.0f : t;
  return a < 0x1p23f ? zkp_signed(t, x) : x;
}

ZK_FN zk_float zk_ceil(zk_float x) {
  zk_float a = zk_abs_float(x), t = zkp_signed((a + 0x1p23f) - 0x1p23f, x);
  t = t < x ? t + 1.0f : t;
  return a < 0x1p23f ? zkp_signed(t, x) : x;
}

// ---- arithmetic ----

ZK_FN zk_float zk_add_float(zk_float x, zk_float y) {
  return x + y;
}

ZK_FN zk_float zk_sub_float(zk_float x, zk_float y) {
  return x - y;
}

ZK_FN zk_float zk_mul_float(zk_float x, zk_float y) {
  return x * y;
}

ZK_FN zk_float zk_div_float(zk_float x, zk_float y) {
  return x / y;
}

// NaN if one is NaN; of two zeros the second.
ZK_FN zk_float zk_max_float(zk_float x, zk_float y) {
  return x != x ? x : zk_flush(x > y ? x : y);
}

ZK_FN zk_float zk_min_float(zk_float x, zk_float y) {
  return x != x ? x : zk_flush(x < y ? x : y);
}

// 1, -1, or the zero or NaN itself.
ZK_FN zk_float zk_sign_float(zk_float x) {
  return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : zk_flush(x);
}

// The exact remainder of |x| / |y| with the sign of x: mantissas as integers, 40 bits of the quotient at a time.
ZK_FN zk_float zk_rem_float(zk_float x, zk_float y) {
  zk_uint a = zk_bits(x) & 0x7fffffffu, b = zk_bits(y) & 0x7fffffffu;
  if (a >= 0x7f800000u || b > 0x7f800000u || b < 0x00800000u) return zkp_nan();
  if (a < b) return zk_flush(x);
  zk_uint m = (b & 0x7fffffu) | 0x800000u;
  zk_ulong r = (zk_ulong)((a & 0x7fffffu) | 0x800000u) % m;
  zk_int more = (zk_int)(a >> 23) - (zk_int)(b >> 23);
  while (more > 0) {
    zk_int step = more < 40 ? more : 40;
    r = (r << step) % m;
    more -= step;
  }
  return zkp_flip((zk_float)(zk_int)r * 0x1p-23f * zk_of_bits(b & 0x7f800000u), x);
}

// Integers wrap around. By zero both quotient and remainder are 0; the lowest number by -1 is itself.
#define ZKP_WRAPPING(T, U)                                                                                                                 \
  ZK_FN zk_##T zk_add_##T(zk_##T x, zk_##T y) {                                                                                            \
    return (zk_##T)((zk_##U)x + (zk_##U)y);                                                                                                \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_sub_##T(zk_##T x, zk_##T y) {                                                                                            \
    return (zk_##T)((zk_##U)x - (zk_##U)y);                                                                                                \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_mul_##T(zk_##T x, zk_##T y) {                                                                                            \
    return (zk_##T)((zk_##U)x * (zk_##U)y);                                                                                                \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_neg_##T(zk_##T x) {                                                                                                      \
    return (zk_##T)((zk_##U)0 - (zk_##U)x);                                                                                                \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_max_##T(zk_##T x, zk_##T y) {                                                                                            \
    return x > y ? x : y;                                                                                                                  \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_min_##T(zk_##T x, zk_##T y) {                                                                                            \
    return x < y ? x : y;                                                                                                                  \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_bit_and_##T(zk_##T x, zk_##T y) {                                                                                        \
    return x & y;                                                                                                                          \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_bit_or_##T(zk_##T x, zk_##T y) {                                                                                         \
    return x | y;                                                                                                                          \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_bit_xor_##T(zk_##T x, zk_##T y) {                                                                                        \
    return x ^ y;                                                                                                                          \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_bit_not_##T(zk_##T x) {                                                                                                  \
    return ~x;                                                                                                                             \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_shl_##T(zk_##T x, zk_##T y) {                                                                                            \
    return (zk_##T)((zk_##U)x << ((zk_##U)y & (sizeof(zk_##T) * 8 - 1)));                                                                  \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_shr_##T(zk_##T x, zk_##T y) {                                                                                            \
    return x >> ((zk_##U)y & (sizeof(zk_##T) * 8 - 1));                                                                                    \
  }

#define ZKP_SIGNED(T, U)                                                                                                                   \
  ZK_FN zk_##T zk_abs_##T(zk_##T x) {                                                                                                      \
    return x < 0 ? zk_neg_##T(x) : x;                                                                                                      \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_sign_##T(zk_##T x) {                                                                                                     \
    return (zk_##T)((zk_##T)(x > 0) - (zk_##T)(x < 0));                                                                                    \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_div_##T(zk_##T x, zk_##T y) {                                                                                            \
    return y == 0 ? 0 : y == -1 ? zk_neg_##T(x) : x / y;                                                                                   \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_rem_##T(zk_##T x, zk_##T y) {                                                                                            \
    return y == 0 || y == -1 ? 0 : x % y;                                                                                                  \
  }

#define ZKP_UNSIGNED(T)                                                                                                                    \
  ZK_FN zk_##T zk_abs_##T(zk_##T x) {                                                                                                      \
    return x;                                                                                                                              \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_sign_##T(zk_##T x) {                                                                                                     \
    return x > 0 ? 1 : 0;                                                                                                                  \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_div_##T(zk_##T x, zk_##T y) {                                                                                            \
    return y == 0 ? 0 : x / y;                                                                                                             \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_rem_##T(zk_##T x, zk_##T y) {                                                                                            \
    return y == 0 ? 0 : x % y;                                                                                                             \
  }

ZKP_WRAPPING(int, uint)
ZKP_WRAPPING(uint, uint)
ZKP_WRAPPING(long, ulong)
ZKP_WRAPPING(ulong, ulong)
ZKP_SIGNED(int, uint)
ZKP_SIGNED(long, ulong)
ZKP_UNSIGNED(uint)
ZKP_UNSIGNED(ulong)

ZK_FN zk_uint zk_popcount_uint(zk_uint x) {
  x = x - (x >> 1 & 0x55555555u);
  x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0fu;
  x = x + (x >> 8); // sums rather than one product: that would become a call, where there is no instruction for it
  return (x + (x >> 16)) & 0x3fu;
}

ZK_FN zk_int zk_popcount_int(zk_int x) {
  return (zk_int)zk_popcount_uint((zk_uint)x);
}

ZK_FN zk_ulong zk_popcount_ulong(zk_ulong x) {
  return zk_popcount_uint((zk_uint)x) + zk_popcount_uint((zk_uint)(x >> 32));
}

ZK_FN zk_long zk_popcount_long(zk_long x) {
  return (zk_long)zk_popcount_ulong((zk_ulong)x);
}

// ---- bool: sums are "or", differences "exclusive or", products "and" ----

ZK_FN zk_bool zk_add_bool(zk_bool x, zk_bool y) {
  return x || y;
}

ZK_FN zk_bool zk_sub_bool(zk_bool x, zk_bool y) {
  return x != y;
}

ZK_FN zk_bool zk_mul_bool(zk_bool x, zk_bool y) {
  return x && y;
}

ZK_FN zk_bool zk_div_bool(zk_bool x, zk_bool y) {
  return x && y;
}

ZK_FN zk_bool zk_rem_bool(zk_bool x, zk_bool y) {
  return x && !x && y;
}

ZK_FN zk_bool zk_max_bool(zk_bool x, zk_bool y) {
  return x || y;
}

ZK_FN zk_bool zk_min_bool(zk_bool x, zk_bool y) {
  return x && y;
}

ZK_FN zk_bool zk_neg_bool(zk_bool x) {
  return x;
}

ZK_FN zk_bool zk_abs_bool(zk_bool x) {
  return x;
}

ZK_FN zk_bool zk_sign_bool(zk_bool x) {
  return x;
}

ZK_FN zk_bool zk_bit_and_bool(zk_bool x, zk_bool y) {
  return x && y;
}

ZK_FN zk_bool zk_bit_or_bool(zk_bool x, zk_bool y) {
  return x || y;
}

ZK_FN zk_bool zk_bit_xor_bool(zk_bool x, zk_bool y) {
  return x != y;
}

ZK_FN zk_bool zk_bit_not_bool(zk_bool x) {
  return !x;
}

ZK_FN zk_bool zk_and(zk_bool x, zk_bool y) {
  return x && y;
}

ZK_FN zk_bool zk_or(zk_bool x, zk_bool y) {
  return x || y;
}

ZK_FN zk_bool zk_not(zk_bool x) {
  return !x;
}

// ---- comparisons, choice ----

#define ZKP_COMPARE(T)                                                                                                                     \
  ZK_FN zk_bool zk_eq_##T(zk_##T x, zk_##T y) {                                                                                            \
    return x == y;                                                                                                                         \
  }                                                                                                                                        \
  ZK_FN zk_bool zk_ne_##T(zk_##T x, zk_##T y) {                                                                                            \
    return x != y;                                                                                                                         \
  }                                                                                                                                        \
  ZK_FN zk_bool zk_lt_##T(zk_##T x, zk_##T y) {                                                                                            \
    return x < y;                                                                                                                          \
  }                                                                                                                                        \
  ZK_FN zk_bool zk_le_##T(zk_##T x, zk_##T y) {                                                                                            \
    return x <= y;                                                                                                                         \
  }                                                                                                                                        \
  ZK_FN zk_bool zk_gt_##T(zk_##T x, zk_##T y) {                                                                                            \
    return x > y;                                                                                                                          \
  }                                                                                                                                        \
  ZK_FN zk_bool zk_ge_##T(zk_##T x, zk_##T y) {                                                                                            \
    return x >= y;                                                                                                                         \
  }                                                                                                                                        \
  ZK_FN zk_##T zk_select_##T(zk_bool condition, zk_##T x, zk_##T y) {                                                                      \
    return condition ? x : y;                                                                                                              \
  }

ZKP_COMPARE(float)
ZKP_COMPARE(int)
ZKP_COMPARE(uint)
ZKP_COMPARE(long)
ZKP_COMPARE(ulong)
ZKP_COMPARE(bool)

// ---- conversions of values ----

// Toward zero, limited to the range; NaN gives 0.
ZK_FN zk_int zk_int_of_float(zk_float x) {
  zk_float inside = x > -0x1p31f && x < 0x1p31f ? x : 0.0f;
  zk_int i = (zk_int)inside;
  i = x >= 0x1p31f ? 0x7fffffff : i;
  return x <= -0x1p31f ? -0x7fffffff - 1 : i;
}

ZK_FN zk_uint zk_uint_of_float(zk_float x) { // the upper half through signed integers: those convert in vectors
  zk_float low = x > 0.0f && x < 0x1p31f ? x : 0.0f, high = x >= 0x1p31f && x < 0x1p32f ? x - 0x1p31f : 0.0f;
  zk_uint u = (zk_uint)(zk_int)low + (zk_uint)(zk_int)high + (x >= 0x1p31f ? 0x80000000u : 0u);
  return x >= 0x1p32f ? 0xffffffffu : u;
}

ZK_FN zk_long zk_long_of_float(zk_float x) {
  zk_float inside = x > -0x1p63f && x < 0x1p63f ? x : 0.0f;
  zk_long lowest = (zk_long)((zk_ulong)1 << 63), i = (zk_long)inside;
  i = x >= 0x1p63f ? -(lowest + 1) : i;
  return x <= -0x1p63f ? lowest : i;
}

ZK_FN zk_ulong zk_ulong_of_float(zk_float x) {
  zk_float inside = x > 0.0f && x < 0x1p64f ? x : 0.0f;
  zk_ulong u = (zk_ulong)inside;
  return x >= 0x1p64f ? ~(zk_ulong)0 : u;
}

ZK_FN zk_bool zk_bool_of_float(zk_float x) {
  return x != 0.0f;
}

ZK_FN zk_float zk_float_of_float(zk_float x) {
  return x;
}

#define ZKP_OF_INTEGER(T)                                                                                                                  \
  ZK_FN zk_float zk_float_of_##T(zk_##T x) {                                                                                               \
    return (zk_float)x;                                                                                                                    \
  }                                                                                                                                        \
  ZK_FN zk_int zk_int_of_##T(zk_##T x) {                                                                                                   \
    return (zk_int)x;                                                                                                                      \
  }                                                                                                                                        \
  ZK_FN zk_uint zk_uint_of_##T(zk_##T x) {                                                                                                 \
    return (zk_uint)x;                                                                                                                     \
  }                                                                                                                                        \
  ZK_FN zk_long zk_long_of_##T(zk_##T x) {                                                                                                 \
    return (zk_long)x;                                                                                                                     \
  }                                                                                                                                        \
  ZK_FN zk_ulong zk_ulong_of_##T(zk_##T x) {                                                                                               \
    return (zk_ulong)x;                                                                                                                    \
  }                                                                                                                                        \
  ZK_FN zk_bool zk_bool_of_##T(zk_##T x) {                                                                                                 \
    return x != 0;                                                                                                                         \
  }

ZKP_OF_INTEGER(int)
ZKP_OF_INTEGER(uint)
ZKP_OF_INTEGER(long)
ZKP_OF_INTEGER(ulong)
ZKP_OF_INTEGER(bool)

// The bits as another type; there is one NaN.
ZK_FN zk_uint zk_bitcast_uint_float(zk_float x) {
  return zk_isnan(x) ? 0x7fc00000u : zk_bits(x);
}

ZK_FN zk_int zk_bitcast_int_float(zk_float x) {
  return (zk_int)zk_bitcast_uint_float(x);
}

ZK_FN zk_float zk_bitcast_float_uint(zk_uint x) {
  return zk_of_bits(x);
}

ZK_FN zk_float zk_bitcast_float_int(zk_int x) {
  return zk_of_bits((zk_uint)x);
}

ZK_FN zk_int zk_bitcast_int_uint(zk_uint x) {
  return (zk_int)x;
}

ZK_FN zk_uint zk_bitcast_uint_int(zk_int x) {
  return (zk_uint)x;
}

// ---- formats ----

typedef unsigned char zk_stored_bool;
typedef unsigned char zk_stored_uint8;
typedef unsigned short zk_stored_uint16;
typedef zk_uint zk_stored_uint32;
typedef zk_ulong zk_stored_uint64;
typedef signed char zk_stored_int8;
typedef short zk_stored_int16;
typedef zk_int zk_stored_int32;
typedef zk_long zk_stored_int64;
typedef unsigned short zk_stored_float16;
typedef unsigned short zk_stored_bfloat16;
typedef zk_float zk_stored_float32;

// To nearest even, overflow to infinity, denormals kept, one NaN.
ZK_FN zk_uint zkp_f16_bits(zk_float x) {
  zk_uint u = zk_bits(x), a = u & 0x7fffffffu, sign = u >> 16 & 0x8000u;
  zk_uint normal = (a - (112u << 23) + 0xfffu + (a >> 13 & 1u)) >> 13;
  zk_uint denormal = zk_bits(zk_of_bits(a) + 0.5f) - 0x3f000000u; // the last place of 0.5 is the smallest float16
  normal = a >= 0x47800000u ? 0x7c00u : normal;
  zk_uint h = (a < 0x38800000u ? denormal : normal) | sign;
  return a > 0x7f800000u ? 0x7e00u : h;
}

ZK_FN zk_float zkp_of_f16_bits(zk_uint h) {
  zk_uint magnitude = h & 0x7fffu, w = (magnitude << 13) + (112u << 23);
  w = w + (magnitude >= 0x7c00u ? 112u << 23 : 0u);
  w = w | (magnitude > 0x7c00u ? 0x400000u : 0u);
  zk_uint denormal = zk_bits((zk_float)(zk_int)magnitude * 0x1p-24f);
  return zk_of_bits((magnitude < 0x400u ? denormal : w) | (h & 0x8000u) << 16);
}

ZK_FN zk_uint zkp_bf16_bits(zk_float x) {
  zk_uint u = zk_bits(x), r = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
  return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : r;
}

// The number that zkp_f16_bits() stands for, without the detour: 11 digits are kept, fewer of what is small.
ZK_FN zk_float zk_round_f16(zk_float x) {
  zk_uint u = zk_bits(x), a = u & 0x7fffffffu;
  zk_float magnitude = zk_of_bits(a), normal = zk_of_bits((u + 0xfffu + (u >> 13 & 1u)) & 0x7fffe000u);
  zk_float denormal = (zk_float)(zk_int)(zk_bits(magnitude + 0.5f) - 0x3f000000u) * 0x1p-24f;
  zk_uint r = zk_bits(magnitude < 0x1p-14f ? denormal : normal);
  r = r >= 0x47800000u ? 0x7f800000u : r;
  return zk_of_bits(a > 0x7f800000u ? 0x7fc00000u : r | (u & 0x80000000u));
}

ZK_FN zk_float zk_round_bf16(zk_float x) {
  return zk_of_bits(zkp_bf16_bits(x) << 16);
}

#define ZKP_LOAD(dtype, T, value)                                                                                                          \
  ZK_FN zk_##T zk_load_##dtype(zk_stored_##dtype x) {                                                                                      \
    return value;                                                                                                                          \
  }
ZKP_LOAD(bool, bool, x != 0)
ZKP_LOAD(uint8, uint, (zk_uint)x)
ZKP_LOAD(uint16, uint, (zk_uint)x)
ZKP_LOAD(uint32, uint, x)
ZKP_LOAD(uint64, ulong, x)
ZKP_LOAD(int8, int, (zk_int)x)
ZKP_LOAD(int16, int, (zk_int)x)
ZKP_LOAD(int32, int, x)
ZKP_LOAD(int64, long, x)
ZKP_LOAD(float16, float, zkp_of_f16_bits((zk_uint)x))
ZKP_LOAD(bfloat16, float, zk_of_bits((zk_uint)x << 16))
ZKP_LOAD(float32, float, x)

// A value in the format of a dtype: integers are cut, floats become integers as above, limited to the range of the dtype.
ZK_FN zk_int zkp_limited(zk_int x, zk_int low, zk_int high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// T with an underscore in front: in C, bool alone may be a macro.
#define ZKP_STORE(dtype, T, value)                                                                                                         \
  ZK_FN zk_stored_##dtype zk_store_##dtype##T(zk##T x) {                                                                                   \
    return (zk_stored_##dtype)(value);                                                                                                     \
  }
ZKP_STORE(bool, _float, x != 0.0f ? 1 : 0)
ZKP_STORE(uint8, _float, zkp_limited(zk_int_of_float(x), 0, 0xff))
ZKP_STORE(uint16, _float, zkp_limited(zk_int_of_float(x), 0, 0xffff))
ZKP_STORE(uint32, _float, zk_uint_of_float(x))
ZKP_STORE(uint64, _float, zk_ulong_of_float(x))
ZKP_STORE(int8, _float, zkp_limited(zk_int_of_float(x), -0x80, 0x7f))
ZKP_STORE(int16, _float, zkp_limited(zk_int_of_float(x), -0x8000, 0x7fff))
ZKP_STORE(int32, _float, zk_int_of_float(x))
ZKP_STORE(int64, _float, zk_long_of_float(x))
ZKP_STORE(float16, _float, zkp_f16_bits(x))
ZKP_STORE(bfloat16, _float, zkp_bf16_bits(x))
ZKP_STORE(float32, _float, x)

#define ZKP_STORE_INTEGER(T)                                                                                                               \
  ZKP_STORE(bool, T, x != 0 ? 1 : 0)                                                                                                       \
  ZKP_STORE(uint8, T, x)                                                                                                                   \
  ZKP_STORE(uint16, T, x)                                                                                                                  \
  ZKP_STORE(uint32, T, x)                                                                                                                  \
  ZKP_STORE(uint64, T, x)                                                                                                                  \
  ZKP_STORE(int8, T, x)                                                                                                                    \
  ZKP_STORE(int16, T, x)                                                                                                                   \
  ZKP_STORE(int32, T, x)                                                                                                                   \
  ZKP_STORE(int64, T, x)                                                                                                                   \
  ZKP_STORE(float16, T, zkp_f16_bits((zk_float)x))                                                                                         \
  ZKP_STORE(bfloat16, T, zkp_bf16_bits((zk_float)x))                                                                                       \
  ZKP_STORE(float32, T, x)
ZKP_STORE_INTEGER(_int)
ZKP_STORE_INTEGER(_uint)
ZKP_STORE_INTEGER(_long)
ZKP_STORE_INTEGER(_ulong)
ZKP_STORE_INTEGER(_bool)

#endif
