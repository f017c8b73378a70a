// Loops over lanes: one for each instruction of the kernel language and each type, compiled in every CPU tier. The interpreter of the
// kernel room runs them over chunks of registers. All give the same bits in every tier; lanes.c is their text.
//
// A register is an array with one number a lane: int32_t (also bool, as 0 or 1), uint32_t, int64_t, uint64_t or float. Results may be
// operands: a loop reads a lane before it writes it.
#ifndef ZMI_LANES_H
#define ZMI_LANES_H

#include <stdbool.h>
#include <stdint.h>

// The order of the kernel room's types of values without "none".
typedef enum zmi_lane_type {
  ZMI_LANE_BOOL,
  ZMI_LANE_INT,
  ZMI_LANE_UINT,
  ZMI_LANE_LONG,
  ZMI_LANE_ULONG,
  ZMI_LANE_FLOAT,
  ZMI_LANE_TYPES
} zmi_lane_type;

// Names as in the list of the kernel room's instructions, and the function of the prelude.
// clang-format off
#define ZMI_LANE_ONE(X) X(NEG, neg) X(ABS, abs) X(SIGN, sign)
#define ZMI_LANE_TWO(X) X(ADD, add) X(SUB, sub) X(MUL, mul) X(MIN, min) X(MAX, max)
#define ZMI_LANE_QUOTIENT(X) X(DIV, div) X(REM, rem)
#define ZMI_LANE_BITS(X) X(BIT_AND, bit_and) X(BIT_OR, bit_or) X(BIT_XOR, bit_xor)
#define ZMI_LANE_SHIFT(X) X(SHL, shl) X(SHR, shr)
#define ZMI_LANE_COMPARE(X) X(EQ, eq) X(NE, ne) X(LT, lt) X(LE, le) X(GT, gt) X(GE, ge)
#define ZMI_LANE_CIRCULAR(X) X(SIN, sin) X(COS, cos) X(TAN, tan)
#define ZMI_LANE_FUNCTION(X)                                                                                    \
  X(SQRT, sqrt) X(RSQRT, rsqrt) X(EXP, exp) X(EXP2, exp2) X(EXPM1, expm1) X(LOG, log) X(LOG2, log2)             \
  X(LOG10, log10) X(LOG1P, log1p) X(ASIN, asin) X(ACOS, acos) X(ATAN, atan) X(SINH, sinh) X(COSH, cosh)         \
  X(TANH, tanh) X(ASINH, asinh) X(ACOSH, acosh) X(ATANH, atanh) X(ERF, erf) X(ERFINV, erfinv)                   \
  X(SIGMOID, sigmoid) X(SILU, silu) X(SOFTPLUS, softplus) X(FLOOR, floor) X(CEIL, ceil) X(ROUND, round)         \
  X(TRUNC, trunc) X(ROUND_F16, round_f16) X(ROUND_BF16, round_bf16)
#define ZMI_LANE_FUNCTION2(X) X(ATAN2, atan2) X(POW, pow) X(COPYSIGN, copysign)
#define ZMI_LANE_TEST(X) X(ISNAN, isnan) X(ISINF, isinf) X(ISFINITE, isfinite)
#define ZMI_LANE_OTHER(X) X(FMA, fma) X(BIT_NOT, bit_not) X(POPCOUNT, popcount) X(NOT, not) X(AND, and) X(OR, or)
#define ZMI_LANE_LIST(X)                                                                                        \
  ZMI_LANE_ONE(X) ZMI_LANE_TWO(X) ZMI_LANE_QUOTIENT(X) ZMI_LANE_BITS(X) ZMI_LANE_SHIFT(X) ZMI_LANE_COMPARE(X)   \
  ZMI_LANE_CIRCULAR(X) ZMI_LANE_FUNCTION(X) ZMI_LANE_FUNCTION2(X) ZMI_LANE_TEST(X) ZMI_LANE_OTHER(X)
// clang-format on

typedef enum zmi_lane_op {
#define X(name, function) ZMI_LANE_##name,
  ZMI_LANE_LIST(X)
#undef X
      ZMI_LANE_COUNT
} zmi_lane_op;

typedef enum zmi_reduction_kind {
  ZMI_REDUCE_SUM,
  ZMI_REDUCE_SUMSQ,
  ZMI_REDUCE_PROD,
  ZMI_REDUCE_MAX,
  ZMI_REDUCE_MIN,
  ZMI_REDUCE_KINDS
} zmi_reduction_kind;

// Sixteen lanes of a reduction over places: lane k % 16 takes place k. Maxima and minima may use their lanes as they like.
typedef struct zmi_sixteen {
  union {
    _Alignas(64) float f[16];
    int32_t i[16];
    uint32_t u[16];
    int64_t l[16];
    uint64_t ul[16];
  };
  int32_t nan; // of maxima and minima: whether one was seen
} zmi_sixteen;

typedef void (*zmi_loop)(int64_t n, void *out, const void *a, const void *b, const void *c);

typedef struct zmi_lanes {
  const zmi_loop (*loop)[ZMI_LANE_TYPES];                 // [ZMI_LANE_COUNT], by the type of the first operand; NULL where there is none
  const zmi_loop (*convert)[ZMI_LANE_TYPES];              // [to][from]
  const zmi_loop *load;                                   // [ZM_DTYPE_COUNT]: from memory to a register, widened
  const zmi_loop (*store)[ZMI_LANE_TYPES];                // [ZM_DTYPE_COUNT][from]: from a register to memory, rounded
  zmi_loop bits_of_float;                                 // one NaN
  zmi_loop copy[2], fill[2], choose[2];                   // of 4 and 8 bytes; fill: all lanes become *a; choose: a (int32) ? b : c
  void (*places)(int64_t n, int32_t *out, int64_t first); // first, first + 1, ...
  // out = condition and parent (NULL: everywhere), or not condition and parent; the number of lanes that are set.
  int64_t (*mask)(int64_t n, int32_t *out, const int32_t *condition, const int32_t *parent, bool invert);
  // n values of places p, p + 1, ... with p % 16 = 0. SUMSQ (lane = fma(x, x, lane)) is there for floats only
  void (*reduce[ZMI_REDUCE_KINDS][ZMI_LANE_TYPES])(zmi_sixteen *r, const void *x, int64_t n);
  float (*scan_sum)(float carry, int64_t n, float *out, const float *x);   // running sums in rising order, from the carry on; the last one
  float (*sum_of)(const zmi_sixteen *r), (*prod_of)(const zmi_sixteen *r); // lanes i and i + 8, then 4, 2, 1
} zmi_lanes;

#endif
