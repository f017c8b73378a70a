// The elementwise operations, one row each: what one element of the result is, in the kernel language. A program that runs while the
// library is built (elementwise_generate.c) compiles the rows for each CPU tier; fusion and derivatives read the same rows.
//
//   word, operands, result, floats, integers, bools, rounding
//
// Operands have one dtype; result is SAME or TRUTH (bool). floats: also for float16 and bfloat16, which are widened before and rounded
// once after it. integers: in the type that the language computes the dtype in, cut to the dtype. "" where the operation has no such form.
// Statements, where one expression is not enough, assign y.
#ifndef ZMI_ELEMENTWISE_TABLE_H
#define ZMI_ELEMENTWISE_TABLE_H

#define ZMI_ONCE "floats in float32, rounded once to the dtype; integers wrap around"
#define ZMI_EXACT "exact"
#define ZMI_FUNCTION "computed in float32 by the library's own function, rounded once to the dtype"
#define ZMI_LARGER "exact; NaN if one is NaN; a denormal counts as zero; of two zeros the second"
#define ZMI_STEPS "each step in float32, the result rounded once to the dtype"

// clang-format off
#define ZMI_ELEMENTWISE_LIST(X)                                                                                                            \
  X(add, "a b", SAME, "a + b", "a + b", "a | b", ZMI_ONCE "; bool: or")                                                                    \
  X(subtract, "a b", SAME, "a - b", "a - b", "a ^ b", ZMI_ONCE "; bool: exclusive or")                                                     \
  X(multiply, "a b", SAME, "a * b", "a * b", "a & b", ZMI_ONCE "; bool: and")                                                              \
  X(divide, "a b", SAME, "a / b", "", "", "quotient in float32, rounded once to the dtype")                                                \
  X(maximum, "a b", SAME, "max(a, b)", "max(a, b)", "a | b", ZMI_LARGER)                                                                   \
  X(minimum, "a b", SAME, "min(a, b)", "min(a, b)", "a & b", ZMI_LARGER)                                                                   \
  X(equal, "a b", TRUTH, "a == b", "a == b", "a == b", ZMI_EXACT)                                                                          \
  X(not_equal, "a b", TRUTH, "a != b", "a != b", "a != b", ZMI_EXACT)                                                                      \
  X(less, "a b", TRUTH, "a < b", "a < b", "!a & b", ZMI_EXACT)                                                                             \
  X(less_equal, "a b", TRUTH, "a <= b", "a <= b", "!a | b", ZMI_EXACT)                                                                     \
  X(greater, "a b", TRUTH, "a > b", "a > b", "a & !b", ZMI_EXACT)                                                                          \
  X(greater_equal, "a b", TRUTH, "a >= b", "a >= b", "a | !b", ZMI_EXACT)                                                                  \
  X(negative, "x", SAME, "-x", "-x", "", "exact; integers wrap around")                                                                    \
  X(abs, "x", SAME, "abs(x)", "abs(x)", "", "exact; integers wrap around")                                                                 \
  X(sqrt, "x", SAME, "sqrt(x)", "", "", "root in float32, rounded once to the dtype")                                                      \
  X(rsqrt, "x", SAME, "rsqrt(x)", "", "", "root in float32, its reciprocal in float32, rounded once to the dtype")                         \
  X(exp, "x", SAME, "exp(x)", "", "", ZMI_FUNCTION)                                                                                        \
  X(log, "x", SAME, "log(x)", "", "", ZMI_FUNCTION)                                                                                        \
  X(sigmoid, "x", SAME, "sigmoid(x)", "", "", ZMI_FUNCTION)                                                                                \
  X(silu, "x", SAME, "silu(x)", "", "", "x * sigmoid(x) in float32, rounded once to the dtype")                                            \
  X(tanh, "x", SAME, "tanh(x)", "", "", ZMI_FUNCTION)                                                                                      \
  /* arithmetic */                                                                                                                         \
  X(power, "a b", SAME, "pow(a, b)",                                                                                                       \
    "let r = a * 0 + 1; let p = a; let e = b; for (int i = 0; i < 64; i += 1) { r = (e & 1) != 0 ? r * p : r; p = p * p; e = e >> 1; } "   \
    "y = b < 0 ? a * 0 : r;",                                                                                                              \
    "a | !b", "the library's own function in float32, rounded once to the dtype; integers wrap around, 0 for exponents below 0")           \
  X(remainder, "a b", SAME, "let r = a % b; y = r != 0.0f && (r < 0.0f) != (b < 0.0f) ? r + b : r;",                                       \
    "let r = a % b; y = r != 0 && (r < 0) != (b < 0) ? r + b : r;", "a & !b",                                                              \
    "the exact remainder, of the sign of b, then rounded once to the dtype; of integers by 0 it is 0")                                     \
  X(floor_divide, "a b", SAME, "floor(a / b)",                                                                                             \
    "let q = a / b; let r = a % b; y = r != 0 && (r < 0) != (b < 0) ? q - 1 : q;", "a & b",                                                \
    "floor of the quotient in float32, rounded once to the dtype; of integers the exact floor, 0 when divided by 0")                       \
  X(square, "x", SAME, "x * x", "x * x", "x & x", ZMI_ONCE)                                                                                \
  X(reciprocal, "x", SAME, "1.0f / x", "", "", "quotient in float32, rounded once to the dtype")                                           \
  X(sign, "x", SAME, "x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f", "x > 0 ? 1 : x < 0 ? -1 : 0", "x & x", "exact; 0 of NaN")                \
  X(floor, "x", SAME, "floor(x)", "", "", ZMI_EXACT)                                                                                       \
  X(ceil, "x", SAME, "ceil(x)", "", "", ZMI_EXACT)                                                                                         \
  X(round, "x", SAME, "round(x)", "", "", "to the nearest integer, ties to even")                                                          \
  X(trunc, "x", SAME, "trunc(x)", "", "", ZMI_EXACT)                                                                                       \
  X(degrees, "x", SAME, "x * 57.29577951308232f", "", "", ZMI_ONCE)                                                                        \
  X(radians, "x", SAME, "x * 0.017453292519943295f", "", "", ZMI_ONCE)                                                                     \
  /* functions */                                                                                                                          \
  X(exp2, "x", SAME, "exp2(x)", "", "", ZMI_FUNCTION)                                                                                      \
  X(expm1, "x", SAME, "expm1(x)", "", "", ZMI_FUNCTION)                                                                                    \
  X(log2, "x", SAME, "log2(x)", "", "", ZMI_FUNCTION)                                                                                      \
  X(log10, "x", SAME, "log10(x)", "", "", ZMI_FUNCTION)                                                                                    \
  X(log1p, "x", SAME, "log1p(x)", "", "", ZMI_FUNCTION)                                                                                    \
  X(sin, "x", SAME, "sin(x)", "", "", ZMI_FUNCTION)                                                                                        \
  X(cos, "x", SAME, "cos(x)", "", "", ZMI_FUNCTION)                                                                                        \
  X(tan, "x", SAME, "tan(x)", "", "", ZMI_FUNCTION)                                                                                        \
  X(arcsin, "x", SAME, "asin(x)", "", "", ZMI_FUNCTION)                                                                                    \
  X(arccos, "x", SAME, "acos(x)", "", "", ZMI_FUNCTION)                                                                                    \
  X(arctan, "x", SAME, "atan(x)", "", "", ZMI_FUNCTION)                                                                                    \
  X(arctan2, "a b", SAME, "atan2(a, b)", "", "", ZMI_FUNCTION)                                                                             \
  X(sinh, "x", SAME, "sinh(x)", "", "", ZMI_FUNCTION)                                                                                      \
  X(cosh, "x", SAME, "cosh(x)", "", "", ZMI_FUNCTION)                                                                                      \
  X(arcsinh, "x", SAME, "asinh(x)", "", "", ZMI_FUNCTION)                                                                                  \
  X(arccosh, "x", SAME, "acosh(x)", "", "", ZMI_FUNCTION)                                                                                  \
  X(arctanh, "x", SAME, "atanh(x)", "", "", ZMI_FUNCTION)                                                                                  \
  X(erf, "x", SAME, "erf(x)", "", "", ZMI_FUNCTION)                                                                                        \
  X(erfinv, "x", SAME, "erfinv(x)", "", "", ZMI_FUNCTION)                                                                                  \
  X(softplus, "x", SAME, "softplus(x)", "", "", ZMI_FUNCTION)                                                                              \
  X(logaddexp, "a b", SAME,                                                                                                                \
    "let m = max(a, b); let n = min(a, b); y = (isinf(n) && n < 0.0f) || (isinf(m) && m > 0.0f) ? m : m + log1p(exp(n - m));", "", "",     \
    "max + log1p(exp(min - max)), " ZMI_STEPS)                                                                                             \
  /* questions and logic */                                                                                                                \
  X(isnan, "x", TRUTH, "isnan(x)", "", "", ZMI_EXACT)                                                                                      \
  X(isinf, "x", TRUTH, "isinf(x)", "", "", ZMI_EXACT)                                                                                      \
  X(isfinite, "x", TRUTH, "isfinite(x)", "", "", ZMI_EXACT)                                                                                \
  X(isneginf, "x", TRUTH, "isinf(x) && x < 0.0f", "", "", ZMI_EXACT)                                                                       \
  X(isposinf, "x", TRUTH, "isinf(x) && x > 0.0f", "", "", ZMI_EXACT)                                                                       \
  X(logical_and, "a b", TRUTH, "", "", "a & b", ZMI_EXACT)                                                                                 \
  X(logical_or, "a b", TRUTH, "", "", "a | b", ZMI_EXACT)                                                                                  \
  X(logical_not, "x", TRUTH, "", "", "!x", ZMI_EXACT)                                                                                      \
  X(replace_nonfinite, "x nan posinf neginf", SAME, "isnan(x) ? nan : isinf(x) ? (x > 0.0f ? posinf : neginf) : x", "", "", ZMI_EXACT)     \
  /* bits */                                                                                                                               \
  X(bitwise_and, "a b", SAME, "", "a & b", "a & b", ZMI_EXACT)                                                                             \
  X(bitwise_or, "a b", SAME, "", "a | b", "a | b", ZMI_EXACT)                                                                              \
  X(bitwise_xor, "a b", SAME, "", "a ^ b", "a ^ b", ZMI_EXACT)                                                                             \
  X(bitwise_invert, "x", SAME, "", "~x", "!x", ZMI_EXACT)                                                                                  \
  X(left_shift, "a b", SAME, "", "a << b", "", "exact; counts are taken modulo 32, of 64-bit integers modulo 64")                          \
  X(right_shift, "a b", SAME, "", "a >> b", "", "exact, the sign moves in; counts are taken modulo 32, of 64-bit integers modulo 64")
// clang-format on

#endif
