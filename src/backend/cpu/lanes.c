// The loops of lanes.h, compiled once for each CPU tier: plain loops over the functions of the prelude, which the tier's compiler turns
// into vector code.
#include "backend/cpu/functions.h"
#include "backend/cpu/sixteen.h"

#undef bool // a type instead of a macro, so that its name can be pasted below
typedef _Bool bool;

#ifndef ZMI_TIER
#define ZMI_TIER scalar
#endif

// Registers are memory that is used again for other types, and a result may be an operand, lane by lane.
typedef int32_t r_bool __attribute__((may_alias));
typedef int32_t r_int __attribute__((may_alias));
typedef uint32_t r_uint __attribute__((may_alias));
typedef int64_t r_long __attribute__((may_alias));
typedef uint64_t r_ulong __attribute__((may_alias));
typedef float r_float __attribute__((may_alias));
typedef uint8_t m_uint8 __attribute__((may_alias));
typedef int8_t m_int8 __attribute__((may_alias));
typedef uint16_t m_uint16 __attribute__((may_alias));
typedef int16_t m_int16 __attribute__((may_alias));

#if defined(__clang__)
#define LANES _Pragma("clang loop vectorize(assume_safety)") for (int64_t i = 0; i < n; i++)
#else
#define LANES _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++)
#endif
#define ONE_BY_ONE for (int64_t i = 0; i < n; i++)

#define DEFINE(name, every, R, A, value)                                                                                                   \
  static void name(int64_t n, void *out, const void *a, const void *b, const void *c) {                                                    \
    R *z = out;                                                                                                                            \
    const A *x = a;                                                                                                                        \
    const A *y = b;                                                                                                                        \
    (void)y;                                                                                                                               \
    (void)c;                                                                                                                               \
    every z[i] = (R)(value);                                                                                                               \
  }

#define ONE(name, T) DEFINE(name##_##T, LANES, r_##T, r_##T, zk_##name##_##T(x[i]))
#define TWO(name, T) DEFINE(name##_##T, LANES, r_##T, r_##T, zk_##name##_##T(x[i], y[i]))
#define TWO_SLOW(name, T) DEFINE(name##_##T, ONE_BY_ONE, r_##T, r_##T, zk_##name##_##T(x[i], y[i]))
#define TEST(name, T) DEFINE(name##_##T, LANES, r_bool, r_##T, zk_##name##_##T(x[i], y[i]))

// ---- every type but bool ----

#define FOR_INTEGERS(M, name) M(name, int) M(name, uint) M(name, long) M(name, ulong)
#define FOR_NUMBERS(M, name) FOR_INTEGERS(M, name) M(name, float)

#define X(NAME, name) FOR_NUMBERS(ONE, name)
ZMI_LANE_ONE(X)
#undef X
#define X(NAME, name) FOR_NUMBERS(TWO, name)
ZMI_LANE_TWO(X)
#undef X
#define X(NAME, name) FOR_INTEGERS(TWO_SLOW, name)
ZMI_LANE_QUOTIENT(X)
#undef X
TWO(div, float)
TWO_SLOW(rem, float)
#define X(NAME, name) FOR_INTEGERS(TWO, name)
ZMI_LANE_BITS(X)
ZMI_LANE_SHIFT(X)
#undef X
#define X(NAME, name) FOR_NUMBERS(TEST, name)
ZMI_LANE_COMPARE(X)
#undef X
FOR_INTEGERS(ONE, bit_not)
FOR_INTEGERS(ONE, popcount)

// ---- bool: 0 or 1 ----

#define BOOL(name, value) DEFINE(name##_bool, LANES, r_bool, r_bool, value)
BOOL(neg, x[i])
BOOL(abs, x[i])
BOOL(sign, x[i])
BOOL(add, x[i] | y[i])
BOOL(sub, x[i] ^ y[i])
BOOL(mul, x[i] & y[i])
BOOL(min, x[i] & y[i])
BOOL(max, x[i] | y[i])
BOOL(div, x[i] & y[i])
BOOL(rem, 0 & x[i])
BOOL(bit_and, x[i] & y[i])
BOOL(bit_or, x[i] | y[i])
BOOL(bit_xor, x[i] ^ y[i])
BOOL(bit_not, 1 - x[i])
BOOL(not, 1 - x[i])
BOOL(and, x[i] & y[i])
BOOL(or, x[i] | y[i])
BOOL(eq, x[i] == y[i])
BOOL(ne, x[i] != y[i])
BOOL(lt, x[i] < y[i])
BOOL(le, x[i] <= y[i])
BOOL(gt, x[i] > y[i])
BOOL(ge, x[i] >= y[i])

// ---- float functions ----

#define X(NAME, name) DEFINE(name##_float, LANES, r_float, r_float, zk_##name(x[i]))
ZMI_LANE_FUNCTION(X)
#undef X
#define X(NAME, name) DEFINE(name##_float, LANES, r_float, r_float, zk_##name(x[i], y[i]))
ZMI_LANE_FUNCTION2(X)
#undef X
#define X(NAME, name) DEFINE(name##_float, LANES, r_bool, r_float, zk_##name(x[i]))
ZMI_LANE_TEST(X)
#undef X

static void fma_float(int64_t n, void *out, const void *a, const void *b, const void *c) {
  r_float *z = out;
  const r_float *x = a, *y = b, *w = c;
  LANES z[i] = zk_fma(x[i], y[i], w[i]);
}

// Angles are small nearly always: then the cheap reduction is enough, which is what the function chooses for them anyway.
static bool near(int64_t n, const r_uint *bits) {
  uint32_t most = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t magnitude = bits[i] & 0x7fffffffu;
    most = magnitude > most ? magnitude : most;
  }
  return most < 0x47800000u; // 2^16
}

#define X(NAME, name)                                                                                                                      \
  DEFINE(near_##name, LANES, r_float, r_float, zkp_near_##name(x[i]))                                                                      \
  DEFINE(far_##name, LANES, r_float, r_float, zk_##name(x[i]))                                                                             \
  static void name##_float(int64_t n, void *out, const void *a, const void *b, const void *c) {                                            \
    (near(n, a) ? near_##name : far_##name)(n, out, a, b, c);                                                                              \
  }
ZMI_LANE_CIRCULAR(X)
#undef X

// ---- float16, by the processor where it can ----

static void load_float16(int64_t n, void *out, const void *a, const void *b, const void *c) {
  (void)b;
  (void)c;
  load_f16(a, n, out);
}

static void store_float16_float(int64_t n, void *out, const void *a, const void *b, const void *c) {
  (void)b;
  (void)c;
  store_f16(a, n, out);
}

// ---- the table of loops ----

#define INTEGER_ROW(name)                                                                                                                  \
  [ZMI_LANE_INT] = name##_int, [ZMI_LANE_UINT] = name##_uint, [ZMI_LANE_LONG] = name##_long, [ZMI_LANE_ULONG] = name##_ulong
#define X_ALL(NAME, name) [ZMI_LANE_##NAME] = {[ZMI_LANE_BOOL] = name##_bool, INTEGER_ROW(name), [ZMI_LANE_FLOAT] = name##_float},
#define X_BITS(NAME, name) [ZMI_LANE_##NAME] = {[ZMI_LANE_BOOL] = name##_bool, INTEGER_ROW(name)},
#define X_INTEGERS(NAME, name) [ZMI_LANE_##NAME] = {INTEGER_ROW(name)},
#define X_FLOAT(NAME, name) [ZMI_LANE_##NAME] = {[ZMI_LANE_FLOAT] = name##_float},
#define X_BOOL(NAME, name) [ZMI_LANE_##NAME] = {[ZMI_LANE_BOOL] = name##_bool},

// clang-format off
static const zmi_loop loops[ZMI_LANE_COUNT][ZMI_LANE_TYPES] = {
  ZMI_LANE_ONE(X_ALL) ZMI_LANE_TWO(X_ALL) ZMI_LANE_QUOTIENT(X_ALL) ZMI_LANE_COMPARE(X_ALL) ZMI_LANE_BITS(X_BITS) ZMI_LANE_SHIFT(X_INTEGERS)
  ZMI_LANE_CIRCULAR(X_FLOAT) ZMI_LANE_FUNCTION(X_FLOAT) ZMI_LANE_FUNCTION2(X_FLOAT) ZMI_LANE_TEST(X_FLOAT)
  X_FLOAT(FMA, fma) X_BITS(BIT_NOT, bit_not) X_INTEGERS(POPCOUNT, popcount) X_BOOL(NOT, not) X_BOOL(AND, and) X_BOOL(OR, or)
};

// ---- conversions ----

#define CONVERT(to, from) DEFINE(to##_of_##from, LANES, r_##to, r_##from, zk_##to##_of_##from(x[i]))
#define CONVERT_WIDE(to, from) DEFINE(to##_of_##from, ONE_BY_ONE, r_##to, r_##from, zk_##to##_of_##from(x[i]))
#define CONVERTS(to) CONVERT(to, int) CONVERT(to, uint) CONVERT(to, long) CONVERT(to, ulong)
CONVERTS(int) CONVERTS(uint) CONVERTS(long) CONVERTS(ulong) CONVERTS(bool)
CONVERT(float, int) CONVERT(float, uint) CONVERT_WIDE(float, long) CONVERT_WIDE(float, ulong) CONVERT(float, float)
CONVERT(int, float) CONVERT(uint, float) CONVERT_WIDE(long, float) CONVERT_WIDE(ulong, float) CONVERT(bool, float)
#define BOOL_TO(to) DEFINE(to##_of_bool, LANES, r_##to, r_bool, x[i])
BOOL_TO(bool) BOOL_TO(int) BOOL_TO(uint) BOOL_TO(long) BOOL_TO(ulong) BOOL_TO(float)

#define CONVERT_ROW(NAME, to) [ZMI_LANE_##NAME] = {[ZMI_LANE_BOOL] = to##_of_bool, [ZMI_LANE_INT] = to##_of_int, \
  [ZMI_LANE_UINT] = to##_of_uint, [ZMI_LANE_LONG] = to##_of_long, [ZMI_LANE_ULONG] = to##_of_ulong, [ZMI_LANE_FLOAT] = to##_of_float}
static const zmi_loop converts[ZMI_LANE_TYPES][ZMI_LANE_TYPES] = {
  CONVERT_ROW(BOOL, bool), CONVERT_ROW(INT, int), CONVERT_ROW(UINT, uint), CONVERT_ROW(LONG, long), CONVERT_ROW(ULONG, ulong),
  CONVERT_ROW(FLOAT, float)};

DEFINE(bits_of_float, LANES, r_uint, r_float, zk_bitcast_uint_float(x[i]))
DEFINE(copy4, LANES, r_uint, r_uint, x[i])
DEFINE(copy8, LANES, r_ulong, r_ulong, x[i])

// ---- formats ----

DEFINE(load_bool, LANES, r_bool, m_uint8, x[i] != 0)
DEFINE(load_uint8, LANES, r_uint, m_uint8, x[i])
DEFINE(load_uint16, LANES, r_uint, m_uint16, x[i])
DEFINE(load_int8, LANES, r_int, m_int8, x[i])
DEFINE(load_int16, LANES, r_int, m_int16, x[i])
DEFINE(load_bfloat16, LANES, r_float, m_uint16, zk_load_bfloat16(x[i]))
static const zmi_loop loads[ZM_DTYPE_COUNT] = {
  [ZM_BOOL] = load_bool, [ZM_U8] = load_uint8, [ZM_U16] = load_uint16, [ZM_U32] = copy4, [ZM_U64] = copy8, [ZM_I8] = load_int8,
  [ZM_I16] = load_int16, [ZM_I32] = copy4, [ZM_I64] = copy8, [ZM_F16] = load_float16, [ZM_BF16] = load_bfloat16, [ZM_F32] = copy4};

#define STORE(dtype, M, T) DEFINE(store_##dtype##_##T, LANES, M, r_##T, zk_store_##dtype##_##T(x[i]))
#define STORES(T) STORE(bool, m_uint8, T) STORE(uint8, m_uint8, T) STORE(uint16, m_uint16, T) STORE(int8, m_int8, T) \
  STORE(int16, m_int16, T) STORE(bfloat16, m_uint16, T)
STORES(int) STORES(uint) STORES(long) STORES(ulong) STORES(float)
STORE(float16, m_uint16, int) STORE(float16, m_uint16, uint) STORE(float16, m_uint16, long) STORE(float16, m_uint16, ulong)
#define STORE_ROW(NAME, dtype) [ZM_##NAME] = {[ZMI_LANE_BOOL] = store_##dtype##_int, [ZMI_LANE_INT] = store_##dtype##_int, \
  [ZMI_LANE_UINT] = store_##dtype##_uint, [ZMI_LANE_LONG] = store_##dtype##_long, [ZMI_LANE_ULONG] = store_##dtype##_ulong, \
  [ZMI_LANE_FLOAT] = store_##dtype##_float}
#define STORE_AS(NAME, to) [ZM_##NAME] = {[ZMI_LANE_BOOL] = to##_of_bool, [ZMI_LANE_INT] = to##_of_int, [ZMI_LANE_UINT] = to##_of_uint, \
  [ZMI_LANE_LONG] = to##_of_long, [ZMI_LANE_ULONG] = to##_of_ulong, [ZMI_LANE_FLOAT] = to##_of_float}
static const zmi_loop stores[ZM_DTYPE_COUNT][ZMI_LANE_TYPES] = {
  STORE_ROW(BOOL, bool), STORE_ROW(U8, uint8), STORE_ROW(U16, uint16), STORE_AS(U32, uint), STORE_AS(U64, ulong), STORE_ROW(I8, int8),
  STORE_ROW(I16, int16), STORE_AS(I32, int), STORE_AS(I64, long), STORE_ROW(F16, float16), STORE_ROW(BF16, bfloat16), STORE_AS(F32, float)};
// clang-format on

// ---- choice, places, masks ----

#define FILL(size, T)                                                                                                                      \
  static void fill##size(int64_t n, void *out, const void *a, const void *b, const void *c) {                                              \
    T *z = out, value = *(const T *)a;                                                                                                     \
    (void)b;                                                                                                                               \
    (void)c;                                                                                                                               \
    LANES z[i] = value;                                                                                                                    \
  }                                                                                                                                        \
  static void choose##size(int64_t n, void *out, const void *a, const void *b, const void *c) {                                            \
    T *z = out;                                                                                                                            \
    const r_bool *condition = a;                                                                                                           \
    const T *x = b, *y = c;                                                                                                                \
    LANES {                                                                                                                                \
      T v = x[i], w = y[i];                                                                                                                \
      z[i] = condition[i] != 0 ? v : w;                                                                                                    \
    }                                                                                                                                      \
  }
FILL(4, r_uint)
FILL(8, r_ulong)

static void places(int64_t n, int32_t *out, int64_t first) {
  uint32_t from = (uint32_t)(uint64_t)first;
  for (int64_t i = 0; i < n; i++) out[i] = (int32_t)(from + (uint32_t)i);
}

static int64_t mask(int64_t n, int32_t *out, const int32_t *condition, const int32_t *parent, bool invert) {
  const int32_t flip = invert ? 1 : 0;
  int32_t count = 0; // lanes are few
  if (parent) {
    LANES count += out[i] = (condition[i] ^ flip) & parent[i];
  } else {
    LANES count += out[i] = condition[i] ^ flip;
  }
  return count;
}

// ---- reductions ----

static void sum_float(zmi_sixteen *r, const void *values, int64_t n) {
  const float *x = values;
  lanes acc[PARTS];
  int64_t k = 0;
  memcpy(acc, r->f, sizeof acc);
  for (; k + 16 <= n; k += 16) {
    ZMI_UNROLL
    for (int i = 0; i < PARTS; i++) acc[i] += load_lanes(x + k + i * WIDTH);
  }
  memcpy(r->f, acc, sizeof acc);
  for (int i = 0; k + i < n; i++) r->f[i] += x[k + i];
}

static void sumsq_float(zmi_sixteen *r, const void *values, int64_t n) {
  const float *x = values;
  lanes acc[PARTS];
  int64_t k = 0;
  memcpy(acc, r->f, sizeof acc);
  for (; k + 16 <= n; k += 16) {
    ZMI_UNROLL
    for (int i = 0; i < PARTS; i++) acc[i] = add_squares(x + k + i * WIDTH, acc[i]);
  }
  memcpy(r->f, acc, sizeof acc);
  for (int i = 0; k + i < n; i++) r->f[i] = __builtin_fmaf(x[k + i], x[k + i], r->f[i]);
}

static void prod_float(zmi_sixteen *r, const void *values, int64_t n) {
  const float *x = values;
  lanes acc[PARTS];
  int64_t k = 0;
  memcpy(acc, r->f, sizeof acc);
  for (; k + 16 <= n; k += 16) {
    ZMI_UNROLL
    for (int i = 0; i < PARTS; i++) acc[i] *= load_lanes(x + k + i * WIDTH);
  }
  memcpy(r->f, acc, sizeof acc);
  for (int i = 0; k + i < n; i++) r->f[i] *= x[k + i];
}

// The lanes hold the largest of v and themselves; NaNs are noted beside.
#define WINNER(name, sign)                                                                                                                 \
  static void name##_float_lanes(zmi_sixteen *r, const void *values, int64_t n) {                                                          \
    const float *x = values;                                                                                                               \
    lanes most[PARTS];                                                                                                                     \
    masks nan[PARTS] = {{0}};                                                                                                              \
    int64_t k = 0;                                                                                                                         \
    memcpy(most, r->f, sizeof most);                                                                                                       \
    for (; k + 16 <= n; k += 16) {                                                                                                         \
      ZMI_UNROLL                                                                                                                           \
      for (int i = 0; i < PARTS; i++) {                                                                                                    \
        lanes v = load_lanes(x + k + i * WIDTH);                                                                                           \
        masks better = v sign most[i];                                                                                                     \
        most[i] = (lanes)(((masks)v & better) | ((masks)most[i] & ~better));                                                               \
        nan[i] |= v != v;                                                                                                                  \
      }                                                                                                                                    \
    }                                                                                                                                      \
    memcpy(r->f, most, sizeof most);                                                                                                       \
    for (int i = 0; i < 16; i++) r->nan |= nan[i / WIDTH][i % WIDTH];                                                                      \
    for (; k < n; k++) {                                                                                                                   \
      r->f[0] = x[k] sign r->f[0] ? x[k] : r->f[0];                                                                                        \
      r->nan |= x[k] != x[k];                                                                                                              \
    }                                                                                                                                      \
  }
WINNER(max, >)
WINNER(min, <)

#define INTEGER_REDUCE(name, T, field, value)                                                                                              \
  static void reduce_##name##_##T(zmi_sixteen *r, const void *values, int64_t n) {                                                         \
    const r_##T *x = values;                                                                                                               \
    r_##T acc = r->field[0];                                                                                                               \
    for (int64_t i = 0; i < n; i++) acc = (r_##T)(value);                                                                                  \
    r->field[0] = acc;                                                                                                                     \
  }
#define INTEGER_REDUCES(T, field)                                                                                                          \
  INTEGER_REDUCE(sum, T, field, zk_add_##T(acc, x[i]))                                                                                     \
  INTEGER_REDUCE(prod, T, field, zk_mul_##T(acc, x[i]))                                                                                    \
  INTEGER_REDUCE(max, T, field, zk_max_##T(acc, x[i]))                                                                                     \
  INTEGER_REDUCE(min, T, field, zk_min_##T(acc, x[i]))
INTEGER_REDUCES(int, i)
INTEGER_REDUCES(uint, u)
INTEGER_REDUCES(long, l)
INTEGER_REDUCES(ulong, ul)
INTEGER_REDUCE(or, bool, i, acc | x[i])
INTEGER_REDUCE(and, bool, i, acc &x[i])

static float scan_sum(float carry, int64_t n, float *out, const float *x) {
  for (int64_t i = 0; i < n; i++) out[i] = carry = carry + x[i];
  return carry;
}

static float sum_of(const zmi_sixteen *r) {
  float lane[16];
  memcpy(lane, r->f, sizeof lane);
  for (int h = 8; h > 0; h /= 2) {
    for (int i = 0; i < h; i++) lane[i] += lane[i + h];
  }
  return lane[0];
}

static float prod_of(const zmi_sixteen *r) {
  float lane[16];
  memcpy(lane, r->f, sizeof lane);
  for (int h = 8; h > 0; h /= 2) {
    for (int i = 0; i < h; i++) lane[i] *= lane[i + h];
  }
  return lane[0];
}

#define REDUCE_ROW(name, of_bool, of_float)                                                                                                \
  {                                                                                                                                        \
    [ZMI_LANE_BOOL] = reduce_##of_bool##_bool, [ZMI_LANE_INT] = reduce_##name##_int, [ZMI_LANE_UINT] = reduce_##name##_uint,               \
    [ZMI_LANE_LONG] = reduce_##name##_long, [ZMI_LANE_ULONG] = reduce_##name##_ulong, [ZMI_LANE_FLOAT] = of_float                          \
  }
#define NAME_OF(a, b) a##b
#define NAME(a, b) NAME_OF(a, b)

const zmi_lanes NAME(zmi_lanes_, ZMI_TIER) = {
    .loop = loops,
    .convert = converts,
    .load = loads,
    .store = stores,
    .bits_of_float = bits_of_float,
    .copy = {copy4, copy8},
    .fill = {fill4, fill8},
    .choose = {choose4, choose8},
    .places = places,
    .mask = mask,
    .reduce = {[ZMI_REDUCE_SUM] = REDUCE_ROW(sum, or, sum_float),
               [ZMI_REDUCE_SUMSQ] = {[ZMI_LANE_FLOAT] = sumsq_float},
               [ZMI_REDUCE_PROD] = REDUCE_ROW(prod, and, prod_float),
               [ZMI_REDUCE_MAX] = REDUCE_ROW(max, or, max_float_lanes),
               [ZMI_REDUCE_MIN] = REDUCE_ROW(min, and, min_float_lanes)},
    .scan_sum = scan_sum,
    .sum_of = sum_of,
    .prod_of = prod_of,
};
