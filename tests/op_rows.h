// Operations of the op table, and functions made of them, as rows like the catalog's: a call, and the shapes that it takes and gives.
#ifndef ZMLX_TEST_OP_ROWS_H
#define ZMLX_TEST_OP_ROWS_H

#include "array/ops/ops.h"
#include "catalog/catalog.h"

#include <zmlx/zmlx.h>

// clang-format off
#define F(word)                                                                                                                            \
  static zm_status call_##word(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)in, (void)nin, (void)params;
#define END return out[0] ? ZM_OK : zm_last_status(); }
#define OP(word, value) F(word) out[0] = value; END
#define LONG(...) (int64_t[]){__VA_ARGS__}
#define AT(...) (int[]){__VA_ARGS__}
#define DIM(k, axis) in[k]->type.shape[axis]

#define UNARY_LIST(X) X(exp) X(log) X(sqrt) X(rsqrt) X(sigmoid) X(silu) X(tanh) X(negative) X(abs) X(square) X(reciprocal) \
  X(sign) X(floor) X(ceil) X(trunc) X(degrees) X(radians) X(exp2) X(expm1) X(log2) X(log10) X(log1p) X(sin) X(cos) X(tan) \
  X(arcsin) X(arccos) X(arctan) X(sinh) X(cosh) X(arcsinh) X(arccosh) X(arctanh) X(erf) X(erfinv) X(softplus) X(isnan) X(isinf) \
  X(isfinite) X(isneginf) X(isposinf) X(logical_not)
#define BINARY_LIST(X) X(add) X(subtract) X(multiply) X(divide) X(maximum) X(minimum) X(equal) X(not_equal) X(less) \
  X(less_equal) X(greater) X(greater_equal) X(power) X(remainder) X(floor_divide) X(arctan2) X(logaddexp) X(logical_and) \
  X(logical_or)
#define INTEGER_LIST(X) X(bitwise_and) X(bitwise_or) X(bitwise_xor) X(left_shift) X(right_shift)
#define X(word) OP(word, zm_##word(in[0]))
UNARY_LIST(X)
#undef X
#define X(word) OP(word, zm_##word(in[0], in[1]))
BINARY_LIST(X) INTEGER_LIST(X)
#undef X

OP(bitwise_invert, zm_bitwise_invert(in[0]))
OP(where, zm_where(in[0], in[1], in[2]))
OP(round, zm_round(in[0], 0))
OP(replace_nonfinite, zm_nan_to_num(in[0], 3, NULL, NULL))
OP(astype, zm_astype(in[0], ZM_I16))

OP(reshape, zm_reshape(in[0], LONG(DIM(0, 0), DIM(0, 1) * DIM(0, 2)), 2))
OP(transpose, zm_transpose(in[0], AT(2, 0, 1)))
OP(broadcast_to, zm_broadcast_to(in[0], LONG(DIM(0, 0), 5), 2))
OP(slice, zm_slice(in[0], LONG(0, 1), LONG(DIM(0, 0), DIM(0, 1)), LONG(1, 2)))
OP(copy, zm_contiguous(zm_transpose(in[0], NULL)))
OP(concatenate, zm_concatenate(in, 2, 1))
OP(take, zm_take(in[0], in[1]))
OP(cumsum, zm_cumsum(in[0], 1, false, true))
OP(cumprod, zm_cumprod(in[0], 1, true, true))
OP(cummax, zm_cummax(in[0], 1, false, false))
OP(cummin, zm_cummin(in[0], 1, false, true))
OP(logcumsumexp, zm_logcumsumexp(in[0], 1, false, true))
OP(linear_scan, zm_linear_scan(in[0], in[1], 1, false))
OP(sort, zm_sort(in[0], 1))
OP(argsort, zm_argsort(in[0], 1))
OP(partition, zm_partition(in[0], DIM(0, 1) / 2, 1))
OP(argpartition, zm_argpartition(in[0], DIM(0, 1) / 2, 1))
F(topk) out[0] = zm_topk(in[0], 3, 1, &out[1]); END
OP(searchsorted, zm_searchsorted(zm_sort(in[1], 0), in[0], false))
OP(gather, zm_take_axis(in[0], in[1], 1))
OP(scatter, zm_scatter(in[0], in + 2, AT(1), 1, in[1], ZM_SCATTER_ADD))
OP(take_along_axis, zm_take_along_axis(in[0], in[1], 1))
OP(put_along_axis, zm_put_along_axis(in[0], in[1], in[2], 1))
OP(slice_at, zm_slice_at(in[0], in[1], AT(1), 1, LONG(DIM(0, 0), 2)))
OP(slice_update, zm_slice_update(in[0], in[1], LONG(0, 1), LONG(DIM(0, 0), 7), LONG(1, 2)))
OP(diagonal, zm_diagonal(in[0], 0, 1, 2))
OP(as_strided, zm_as_strided(in[0], LONG(DIM(0, 0), 2), LONG(4, 2), 2, 0))
OP(view, zm_view(in[0], ZM_I32))
OP(prod, zm_prod(in[0], AT(1), 1, false))
OP(var, zm_var(in[0], AT(1), 1, false, 0))
OP(logsumexp, zm_logsumexp(in[0], AT(1), 1, false))
OP(argmin, zm_argmin(in[0], 1, false))
OP(argmax, zm_argmax(in[0], 1, false))
OP(any, zm_any(in[0], AT(1), 1, false))
OP(all, zm_all(in[0], AT(1), 1, false))
OP(sum, zm_sum(in[0], 1, false))
OP(mean, zm_mean(in[0], 1, false))
OP(max, zm_max(in[0], 1, false))
OP(min, zm_min(in[0], 1, false))
OP(softmax, zm_softmax(in[0]))
F(place)
  const zmi_type t = zmi_type_of(in[0]->type.dtype, 2, LONG(DIM(0, 0), 2 * DIM(0, 1)));
  out[0] = zmi_place(in[0], &t, LONG(0, 0), LONG(1, 2));
END
OP(take_add, zmi_take_add(in[0], in[1], 4))
OP(rms_norm, zmi_rms_norm(in[0], in[1], 1e-5))
F(rope_table) if (zmi_rope_table(in[0], in[1], &out[0], &out[1]) != ZM_OK) return zm_last_status(); END
OP(rope, zmi_rope(in[0], in[1], in[2], false))
F(route)
  const zmi_route_attrs a = {ZMI_ROUTE_SOFTMAX, 2, 1, 0, 1};
  out[0] = NULL;
  zmi_route(in[0], NULL, &a, &out[0], &out[1]);
END
OP(combine, zmi_combine(in[0], in[1]))
OP(matmul, zm_matmul(in[0], in[1]))
OP(addmm, zm_addmm(in[0], in[1], in[2], 0.5, 2))
OP(gather_mm, zm_gather_mm(in[0], in[1], NULL, in[2], false))
OP(conv, zm_conv2d(in[0], in[1], LONG(1, 1), LONG(1, 1), LONG(1, 1), 1))
static const zm_quant four = {.bits = 4, .group = 32};
F(quantize) out[0] = NULL; zm_quantize(in[0], &four, NULL, &out[0], &out[1], &out[2]); END
OP(dequantize, zm_dequantize(in[0], in[1], in[2], &four, NULL, ZM_DTYPE_DEFAULT))
OP(quantized_matmul, zm_quantized_matmul(in[0], in[1], in[2], in[3], &four, true))
OP(to_fp8, zm_to_fp8(in[0]))
OP(from_fp8, zm_from_fp8(in[0], ZM_BF16))

// Functions that are made of operations.
OP(einsum, zm_einsum("abc,acd->abd", in, 2))
OP(tensordot, zm_tensordot(in[0], in[1], AT(1), AT(0), 1))
OP(inner, zm_inner(in[0], in[1]))
OP(vecdot, zm_vecdot(in[0], in[1], 1))
OP(trace, zm_trace(in[0], 0, 1, 2))
OP(stack, zm_stack(in, 2, 1))
F(split) out[0] = NULL; zm_split(in[0], 3, 1, out); END
OP(tile, zm_tile(in[0], LONG(1, 2), 2))
OP(repeat, zm_repeat(in[0], 2, 1))
OP(roll, zm_roll(in[0], LONG(2), AT(1), 1))
OP(flip, zm_flip(in[0], AT(1), 1))
OP(pad, zm_pad(in[0], LONG(0, 1), LONG(0, 2), ZM_PAD_CONSTANT, 3))
OP(tril, zm_tril(in[0], 1))
OP(triu, zm_triu(in[0], -1))
OP(kron, zm_kron(in[0], in[1]))
OP(outer, zm_outer(in[0], in[1]))
OP(diff, zm_diff(in[0], 1, 1))
OP(median, zm_median(in[0], AT(1), 1, false))
OP(std, zm_std(in[0], AT(1), 1, false, 0))
OP(clip, zm_clip(in[0], in[1], in[2]))
OP(masked_fill, zm_masked_fill(in[0], in[1], 3))
OP(count_nonzero, zm_count_nonzero(in[0], AT(1), 1, false))
OP(moveaxis, zm_moveaxis(in[0], 0, 2))
OP(flatten, zm_flatten(in[0], 1, 2))
OP(conv1d, zm_conv1d(in[0], in[1], 1, 1, 1, 1))
OP(gather_qmm, zm_gather_qmm(in[0], in[1], in[2], in[3], NULL, in[4], &four, true, false))

static const char made_of_others[] = "made of operations";
#define MADE(word, text, results) {.name = #word, .shapes = text, .outputs = results, .call = call_##word, .formula = made_of_others},
#define ROW(word, text, results) {.name = #word, .shapes = text, .outputs = results, .call = call_##word},
static const zmi_entry entries[] = {
#define X(word) ROW(word, "x [A, B, C] -> [A, B, C]", 1)
UNARY_LIST(X)
#undef X
#define X(word) ROW(word, "a [A, B, C], b [A, B, C] -> [A, B, C]", 1)
BINARY_LIST(X)
#undef X
#define X(word) ROW(word, "a int32 < 30 [A, B, C], b int32 < 30 [A, B, C] -> [A, B, C]", 1)
INTEGER_LIST(X)
#undef X
ROW(bitwise_invert, "a uint16 [A, B] -> [A, B]", 1)
ROW(where, "c bool [A, B], a [A, B], b [A, B] -> [A, B]", 1)
ROW(round, "x [A, B] -> [A, B]", 1)
ROW(replace_nonfinite, "x [A, B] -> [A, B]", 1)
ROW(astype, "x [A, B] -> [A, B]", 1)
ROW(reshape, "x [A, B, 4] -> [A, 4B]", 1)
ROW(transpose, "x [A, B, C] -> [C, A, B]", 1)
ROW(broadcast_to, "x [A, 1] -> [A, 5]", 1)
ROW(slice, "x [A, 2B] -> [A, B]", 1)
ROW(copy, "x [A, B, C] -> [C, B, A]", 1)
ROW(concatenate, "a [A, B], b [A, C] -> [A, B + C]", 1)
ROW(take, "x [N, A], at int32 < 4 [M] -> [M, A]", 1)
ROW(cumsum, "x [A, D] -> [A, D]", 1)
ROW(cumprod, "x [A, D, C] -> [A, D, C]", 1)
ROW(cummax, "x [A, D] -> [A, D]", 1)
ROW(cummin, "x [A, D, C] -> [A, D, C]", 1)
ROW(logcumsumexp, "x [A, D] -> [A, D]", 1)
ROW(linear_scan, "a [A, D], b [A, D] -> [A, D]", 1)
ROW(sort, "x [A, D] -> [A, D]", 1)
ROW(argsort, "x [A, D, C] -> [A, D, C]", 1)
ROW(partition, "x [A, D] -> [A, D]", 1)
ROW(argpartition, "x [A, D] -> [A, D]", 1)
ROW(topk, "x [A, D] -> [A, 3], [A, 3]", 2)
ROW(searchsorted, "x [A, B], sorted [N] -> [A, B]", 1)
ROW(gather, "x [A, N, D], at int32 < 4 [M] -> [A, M, D]", 1)
ROW(scatter, "x [A, N, D], u [A, M, D], at int32 < 4 [M] -> [A, N, D]", 1)
ROW(take_along_axis, "x [A, N], at int32 < 4 [A, M] -> [A, M]", 1)
ROW(put_along_axis, "x [A, N], at int32 < 4 [A, M], v [A, M] -> [A, N]", 1)
ROW(slice_at, "x [A, 7], at int32 < 3 [1] -> [A, 2]", 1)
ROW(slice_update, "x [A, 7], u [A, 3] -> [A, 7]", 1)
ROW(diagonal, "x [A, N, N] -> [A, N]", 1)
ROW(as_strided, "x [A, 4] -> [A, 2]", 1)
ROW(view, "x float32 [A, B] -> [A, B]", 1)
ROW(prod, "x [A, D] -> [A]", 1)
ROW(var, "x [A, D, C] -> [A, C]", 1)
ROW(logsumexp, "x [A, D] -> [A]", 1)
ROW(argmin, "x [A, D] -> [A]", 1)
ROW(argmax, "x [A, D, C] -> [A, C]", 1)
ROW(any, "x [A, D] -> [A]", 1)
ROW(all, "x [A, D, C] -> [A, C]", 1)
ROW(sum, "x [A, D] -> [A]", 1)
ROW(mean, "x [A, D, C] -> [A, C]", 1)
ROW(max, "x [A, D] -> [A]", 1)
ROW(min, "x [A, D, C] -> [A, C]", 1)
ROW(softmax, "x [A, D] -> [A, D]", 1)
ROW(place, "x [A, B] -> [A, 2B]", 1)
ROW(take_add, "x [M, A], at int32 < 5 [M] -> [4, A]", 1)
ROW(rms_norm, "x [A, D], w [D] -> [A, D]", 1)
ROW(rope_table, "positions int32 < 1000 [A], frequencies float32 [F] -> [A, F], [A, F]", 2)
ROW(rope, "x [A, H, 2E], c float32 [A, E], s float32 [A, E] -> [A, H, 2E]", 1)
ROW(route, "logits [A, E] -> [A, 2], [A, 2]", 2)
ROW(combine, "y [A, K, D], w [A, K] -> [A, D]", 1)
ROW(matmul, "a [A, M, K], b [A, K, N] -> [A, M, N]", 1)
ROW(addmm, "c [A, N], a [A, K], b [K, N] -> [A, N]", 1)
ROW(gather_mm, "a [A, M, K], b [E, K, N], at uint32 < 4 [A] -> [A, M, N]", 1)
ROW(conv, "x [A, H, W, C], w [O, 3, 3, C] -> [A, H, W, O]", 1)
ROW(quantize, "w [A, 32W] -> [A, 4W], [A, W], [A, W]", 3)
ROW(dequantize, "words uint32 [A, 4W], s [A, W], b [A, W] -> [A, 32W]", 1)
ROW(quantized_matmul, "x [A, 32W], words uint32 [N, 4W], s [N, W], b [N, W] -> [A, N]", 1)
ROW(to_fp8, "x [A, B] -> [A, B]", 1)
ROW(from_fp8, "x uint8 [A, B] -> [A, B]", 1)
MADE(einsum, "a [A, B, C], b [A, C, D] -> [A, B, D]", 1)
MADE(tensordot, "a [A, C], b [C, D] -> [A, D]", 1)
MADE(inner, "a [A, C], b [D, C] -> [A, D]", 1)
MADE(vecdot, "a [A, C], b [A, C] -> [A]", 1)
MADE(trace, "x [A, N, N] -> [A]", 1)
MADE(stack, "a [A, B], b [A, B] -> [A, 2, B]", 1)
MADE(split, "x [A, 3B] -> [A, B], [A, B], [A, B]", 3)
MADE(tile, "x [A, B] -> [A, 2B]", 1)
MADE(repeat, "x [A, B] -> [A, 2B]", 1)
MADE(roll, "x [A, B] -> [A, B]", 1)
MADE(flip, "x [A, B] -> [A, B]", 1)
MADE(pad, "x [A, B] -> [A, B + 3]", 1)
MADE(tril, "x [A, N, M] -> [A, N, M]", 1)
MADE(triu, "x [A, N, M] -> [A, N, M]", 1)
MADE(kron, "a [A, B], b [2, 3] -> [2A, 3B]", 1)
MADE(outer, "a [A], b [B] -> [A, B]", 1)
MADE(diff, "x [A, B + 1] -> [A, B]", 1)
MADE(median, "x [A, D] -> [A]", 1)
MADE(std, "x [A, D, C] -> [A, C]", 1)
MADE(clip, "x [A, B], low [B], high [B] -> [A, B]", 1)
MADE(masked_fill, "x [A, B], m bool [A, B] -> [A, B]", 1)
MADE(count_nonzero, "x [A, D] -> [A]", 1)
MADE(moveaxis, "x [A, B, C] -> [B, C, A]", 1)
MADE(flatten, "x [A, B, 4] -> [A, 4B]", 1)
MADE(conv1d, "x [A, L, C], w [O, 3, C] -> [A, L, O]", 1)
MADE(gather_qmm, "x [A, M, 32W], words uint32 [E, N, 4W], s [E, N, W], b [E, N, W], at uint32 < 4 [A] -> [A, M, N]", 1)
};
// clang-format on

#endif
