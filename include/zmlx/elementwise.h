// Elementwise operations beyond the arithmetic of array.h, by the names and rules of MLX: operands are broadcast and promoted, functions
// of integers are of float32, float results are computed in float32 and rounded once. Rules of ownership and errors: array.h.
#ifndef ZMLX_ELEMENTWISE_H
#define ZMLX_ELEMENTWISE_H

#include <stdbool.h>
#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

// Arithmetic. Of integers: power wraps around and is 0 for negative exponents; quotients and remainders by 0 are 0.
ZM_API zm_array *zm_power(zm_array *a, zm_array *b);
ZM_API zm_array *zm_remainder(zm_array *a, zm_array *b);    // of the sign of b, as in Python
ZM_API zm_array *zm_floor_divide(zm_array *a, zm_array *b); // toward minus infinity
ZM_API zm_status zm_divmod(zm_array *a, zm_array *b, zm_array **quotient, zm_array **rest);
ZM_API zm_array *zm_positive(zm_array *a); // as it is
ZM_API zm_array *zm_square(zm_array *a);
ZM_API zm_array *zm_reciprocal(zm_array *a);
ZM_API zm_array *zm_sign(zm_array *a); // -1, 0 or 1; 0 of NaN
ZM_API zm_array *zm_floor(zm_array *a);
ZM_API zm_array *zm_ceil(zm_array *a);
ZM_API zm_array *zm_trunc(zm_array *a);
ZM_API zm_array *zm_round(zm_array *a, int decimals); // ties to even
ZM_API zm_array *zm_degrees(zm_array *a);
ZM_API zm_array *zm_radians(zm_array *a);
// Between low and high, either of which may be NULL.
ZM_API zm_array *zm_clip(zm_array *a, zm_array *low, zm_array *high);

// Functions.
ZM_API zm_array *zm_exp2(zm_array *a);
ZM_API zm_array *zm_expm1(zm_array *a);
ZM_API zm_array *zm_log2(zm_array *a);
ZM_API zm_array *zm_log10(zm_array *a);
ZM_API zm_array *zm_log1p(zm_array *a);
ZM_API zm_array *zm_sin(zm_array *a);
ZM_API zm_array *zm_cos(zm_array *a);
ZM_API zm_array *zm_tan(zm_array *a);
ZM_API zm_array *zm_arcsin(zm_array *a);
ZM_API zm_array *zm_arccos(zm_array *a);
ZM_API zm_array *zm_arctan(zm_array *a);
ZM_API zm_array *zm_arctan2(zm_array *a, zm_array *b);
ZM_API zm_array *zm_sinh(zm_array *a);
ZM_API zm_array *zm_cosh(zm_array *a);
ZM_API zm_array *zm_arcsinh(zm_array *a);
ZM_API zm_array *zm_arccosh(zm_array *a);
ZM_API zm_array *zm_arctanh(zm_array *a);
ZM_API zm_array *zm_erf(zm_array *a);
ZM_API zm_array *zm_erfinv(zm_array *a);
ZM_API zm_array *zm_softplus(zm_array *a);               // log(1 + exp(a))
ZM_API zm_array *zm_logaddexp(zm_array *a, zm_array *b); // log(exp(a) + exp(b))

// Questions, of dtype bool.
ZM_API zm_array *zm_isnan(zm_array *a);
ZM_API zm_array *zm_isinf(zm_array *a);
ZM_API zm_array *zm_isfinite(zm_array *a);
ZM_API zm_array *zm_isneginf(zm_array *a);
ZM_API zm_array *zm_isposinf(zm_array *a);
ZM_API zm_array *zm_logical_and(zm_array *a, zm_array *b); // of any dtypes: not zero is true
ZM_API zm_array *zm_logical_or(zm_array *a, zm_array *b);
ZM_API zm_array *zm_logical_xor(zm_array *a, zm_array *b);
ZM_API zm_array *zm_logical_not(zm_array *a);
// |a - b| <= atol + rtol |b|; infinities are close to themselves, NaN to NaN if equal_nan.
ZM_API zm_array *zm_isclose(zm_array *a, zm_array *b, double rtol, double atol, bool equal_nan);
ZM_API zm_array *zm_allclose(zm_array *a, zm_array *b, double rtol, double atol, bool equal_nan); // one element
// NaN and infinities replaced; posinf or neginf NULL: by the largest and the lowest number of the dtype.
ZM_API zm_array *zm_nan_to_num(zm_array *a, double nan, const double *posinf, const double *neginf);

// Bits of integers and bool. Shift counts are taken modulo 32, of 64-bit integers modulo 64.
ZM_API zm_array *zm_bitwise_and(zm_array *a, zm_array *b);
ZM_API zm_array *zm_bitwise_or(zm_array *a, zm_array *b);
ZM_API zm_array *zm_bitwise_xor(zm_array *a, zm_array *b);
ZM_API zm_array *zm_bitwise_invert(zm_array *a);
ZM_API zm_array *zm_left_shift(zm_array *a, zm_array *b);
ZM_API zm_array *zm_right_shift(zm_array *a, zm_array *b);

#ifdef __cplusplus
}
#endif
#endif
