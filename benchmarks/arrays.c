// The rows of the speed table of array operations (docs/array-speed.md): name, operands, call. The same functions in MLX and NumPy:
// benchmarks/peers/array_functions.py.
#include "arrays.h"

#include <string.h>
#include <zmlx/zmlx.h>

#define ROW(word, call)                                                                                                                    \
  static zm_status word(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                           \
    (void)in, (void)nin, (void)params;                                                                                                     \
    out[0] = call;                                                                                                                         \
    return out[0] ? ZM_OK : zm_last_status();                                                                                              \
  }

static const int first_axis[] = {0}, middle_axis[] = {1}, last_axis[] = {-1}, both_axes[] = {0, 1}, heads[] = {0, 2, 1, 3};
static const zm_quant affine4 = {ZM_AFFINE, 4, 64};

ROW(small_add, zm_add(in[0], in[1]))
ROW(small_matmul, zm_matmul(in[0], in[1]))
ROW(small_softmax, zm_softmax(in[0]))
ROW(add, zm_add(in[0], in[1]))
ROW(where, zm_where(in[0], in[1], in[2]))
ROW(sort_last, zm_sort(in[0], -1))
ROW(sort_first, zm_sort(in[0], 0))
ROW(argsort_last, zm_argsort(in[0], -1))
ROW(partition_last, zm_partition(in[0], 8000, -1))
ROW(topk_last, zm_topk(in[0], 40, -1, NULL))
ROW(search, zm_searchsorted(in[0], in[1], false))
ROW(cumsum_last, zm_cumsum(in[0], -1, false, true))
ROW(cumsum_first, zm_cumsum(in[0], 0, false, true))
ROW(cumsum_reverse, zm_cumsum(in[0], -1, true, true))
ROW(cummax_last, zm_cummax(in[0], -1, false, true))
ROW(cummax_first, zm_cummax(in[0], 0, false, true))
ROW(sum_all, zm_sum_axes(in[0], both_axes, 2, false))
ROW(sum_last, zm_sum(in[0], -1, false))
ROW(sum_first, zm_sum_axes(in[0], first_axis, 1, false))
ROW(sum_middle, zm_sum_axes(in[0], middle_axis, 1, false))
ROW(max_first, zm_max_axes(in[0], first_axis, 1, false))
ROW(argmax_last, zm_argmax(in[0], -1, false))
ROW(argmax_first, zm_argmax(in[0], 0, false))
ROW(concatenate_first, zm_concatenate(in, 2, 0))
ROW(concatenate_last, zm_concatenate(in, 2, -1))
ROW(transpose_copy, zm_contiguous(zm_transpose(in[0], NULL)))
ROW(heads_copy, zm_contiguous(zm_transpose(in[0], heads)))
ROW(take_rows, zm_take(in[0], in[1]))
ROW(take_along, zm_take_along_axis(in[0], in[1], -1))
ROW(gather_elements, zm_gather(in[0], in + 1, both_axes, 2))
ROW(scatter_add, zm_scatter(in[0], in + 1, first_axis, 1, in[2], ZM_SCATTER_ADD))
ROW(einsum_scores, zm_einsum("bqhd,bkhd->bhqk", in, 2))
ROW(einsum_mix, zm_einsum("bhqk,bkhd->bqhd", in, 2))
ROW(einsum_all, zm_einsum("abcd,abcd->", in, 2))
ROW(einsum_first, zm_einsum("abcd,abcd->ad", in, 2))
ROW(inner, zm_inner(in[0], in[1]))
ROW(matmul, zm_matmul(in[0], in[1]))
ROW(matmul_turned, zm_matmul(in[0], zm_transpose(in[1], NULL)))
ROW(logsumexp_last, zm_logsumexp(in[0], last_axis, 1, false))
ROW(softmax, zm_softmax(in[0]))
ROW(max_last, zm_max(in[0], -1, false))
ROW(min_last, zm_min(in[0], -1, false))
ROW(mean_last, zm_mean(in[0], -1, false))
ROW(var_last, zm_var(in[0], last_axis, 1, false, 0))
ROW(prod_last, zm_prod(in[0], last_axis, 1, false))
ROW(argmin_last, zm_argmin(in[0], -1, false))
ROW(any_last, zm_any(in[0], last_axis, 1, false))
ROW(logsumexp_first, zm_logsumexp(in[0], first_axis, 1, false))
ROW(var_first, zm_var(in[0], first_axis, 1, false, 0))
ROW(prod_first, zm_prod(in[0], first_axis, 1, false))
ROW(argmin_first, zm_argmin(in[0], 0, false))
ROW(cumprod_last, zm_cumprod(in[0], -1, false, true))
ROW(logcumsumexp_last, zm_logcumsumexp(in[0], -1, false, true))
ROW(tril, zm_tril(in[0], 0))
ROW(triu, zm_triu(in[0], 1))
ROW(kron, zm_kron(in[0], in[1]))
ROW(outer, zm_outer(in[0], in[1]))
ROW(add_turned, zm_add(in[0], zm_transpose(in[1], NULL)))
ROW(sum_turned, zm_sum(zm_transpose(in[0], NULL), -1, false))
ROW(every_second, zm_contiguous(zm_slice(in[0], (int64_t[]){0, 0}, (int64_t[]){2048, 2048}, (int64_t[]){2, 2})))
ROW(flip_last, zm_contiguous(zm_flip(in[0], last_axis, 1)))
ROW(roll_last, zm_contiguous(zm_roll(in[0], (int64_t[]){5}, last_axis, 1)))
ROW(pad, zm_pad(in[0], (int64_t[]){1, 1}, (int64_t[]){1, 1}, ZM_PAD_CONSTANT, 0))
ROW(tile, zm_contiguous(zm_tile(in[0], (int64_t[]){2, 3}, 2)))
ROW(repeat_first, zm_contiguous(zm_repeat(in[0], 3, 0)))
ROW(repeat_last, zm_contiguous(zm_repeat(in[0], 3, -1)))
ROW(stack_first, zm_stack(in, 2, 0))
ROW(stack_last, zm_stack(in, 2, -1))
ROW(less, zm_less(in[0], in[1]))
ROW(exponential, zm_exp(in[0]))
ROW(error_function, zm_erf(in[0]))
ROW(sine, zm_sin(in[0]))
ROW(power, zm_power(in[0], in[1]))
ROW(divide, zm_divide(in[0], in[1]))
ROW(rest, zm_remainder(in[0], in[1]))
ROW(floor_divide, zm_floor_divide(in[0], in[1]))
ROW(square_root, zm_sqrt(in[0]))
ROW(to_bfloat16, zm_astype(in[0], ZM_BF16))
ROW(to_float16, zm_astype(in[0], ZM_F16))
ROW(to_int32, zm_astype(in[0], ZM_I32))
ROW(to_float32, zm_astype(in[0], ZM_F32))
ROW(trace, zm_trace(in[0], 0, 0, 1))
ROW(median_last, zm_median(in[0], last_axis, 1, false))
ROW(take_columns, zm_take_axis(in[0], in[1], 1))
ROW(put_along, zm_put_along_axis(in[0], in[1], in[2], -1))
ROW(slice_update, zm_slice_update(in[0], in[1], (int64_t[]){1, 1}, (int64_t[]){1025, 1025}, NULL))
ROW(conv1d, zm_conv1d(in[0], in[1], 1, 2, 1, 1))
ROW(conv2d, zm_conv2d(in[0], in[1], NULL, (int64_t[]){1, 1}, NULL, 1))
ROW(convolve, zm_convolve(in[0], in[1], ZM_CONVOLVE_SAME))
ROW(random_normal, zm_random_normal(zm_random_key(7), NULL, NULL, ZM_F32, (int64_t[]){1024, 1024}, 2))
ROW(random_uniform, zm_random_uniform(zm_random_key(7), NULL, NULL, ZM_F32, (int64_t[]){1024, 1024}, 2))
ROW(dequantize, zm_dequantize(in[0], in[1], in[2], &affine4, NULL, ZM_DTYPE_DEFAULT))
ROW(quantized, zm_quantized_matmul(in[0], in[1], in[2], in[3], &affine4, true))
ROW(gather_mm, zm_gather_mm(in[0], in[1], NULL, in[2], false))
ROW(gather_qmm, zm_gather_qmm(in[0], in[1], in[2], in[3], NULL, in[4], &affine4, true, false))

static zm_status quantize(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  return zm_quantize(in[0], &affine4, NULL, &out[0], &out[1], &out[2]);
}

// The kernel of examples/norm, as its author gives it. One a process, as users keep theirs.
static zm_status author_norm(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  static zm_op *norm;
  (void)params;
  if (!norm) {
    norm = zm_kernel(&(zm_kernel_options){.name = "author_norm",
                                          .form = ZM_KERNEL_ROWS,
                                          .inputs = "x residual w",
                                          .outputs = "y stream",
                                          .source = "elements { h = x + residual; q = sum(h * h); }"
                                                    "let r = rsqrt(q / D + 1e-5);"
                                                    "elements { let s = x + residual; y = s * r * w; stream = s; }"});
  }
  return norm ? zm_op_apply(norm, in, nin, out, 2) : zm_last_status();
}

// clang-format off
#define MATMUL(m, dtype)                                                                                                                   \
  {.name = "matmul_" #m "_" #dtype, .sample = "a " #m " 1024 " #dtype "; b 1024 1024 " #dtype, .call = matmul}, \
  {.name = "matmul_turned_" #m "_" #dtype, .sample = "a " #m " 1024 " #dtype "; b 1024 1024 " #dtype, .call = matmul_turned}

static const zmi_entry rows[] = {
    {.name = "small_add", .sample = "a 16 16; b 16 16", .call = small_add},
    {.name = "small_matmul", .sample = "a 16 16; b 16 16", .call = small_matmul},
    {.name = "small_softmax", .sample = "a 16 16", .call = small_softmax},
    {.name = "add", .sample = "a 2048 2048; b 2048 2048", .call = add},
    {.name = "where", .sample = "c 1024 1024 bool; a 1024 1024; b 1024 1024", .call = where},
    {.name = "sort_last", .sample = "a 64 16384", .call = sort_last},
    {.name = "sort_first", .sample = "a 4096 128", .call = sort_first},
    {.name = "argsort_last", .sample = "a 64 16384", .call = argsort_last},
    {.name = "partition_last", .sample = "a 64 16384", .call = partition_last},
    {.name = "topk_last", .sample = "a 64 32000", .call = topk_last},
    {.name = "searchsorted", .sample = "a 65536; b 262144", .parameters = "sorted=1", .call = search},
    {.name = "cumsum_last", .sample = "a 1024 1024", .call = cumsum_last},
    {.name = "cumsum_long", .sample = "a 1 4194304", .call = cumsum_last},
    {.name = "cumsum_first", .sample = "a 1024 1024", .call = cumsum_first},
    {.name = "cumsum_reverse", .sample = "a 1024 1024", .call = cumsum_reverse},
    {.name = "cummax_last", .sample = "a 1024 1024", .call = cummax_last},
    {.name = "cummax_first", .sample = "a 1024 1024", .call = cummax_first},
    {.name = "sum_all", .sample = "a 2048 2048", .call = sum_all},
    {.name = "sum_last", .sample = "a 2048 2048", .call = sum_last},
    {.name = "sum_first", .sample = "a 2048 2048", .call = sum_first},
    {.name = "sum_middle", .sample = "a 64 512 128", .call = sum_middle},
    {.name = "max_first", .sample = "a 2048 2048", .call = max_first},
    {.name = "argmax_last", .sample = "a 1024 4096", .call = argmax_last},
    {.name = "argmax_first", .sample = "a 4096 1024", .call = argmax_first},
    {.name = "sum_rows_4", .sample = "a 1000000 4", .call = sum_last},
    {.name = "sum_rows_16", .sample = "a 250000 16", .call = sum_last},
    {.name = "sum_rows_33", .sample = "a 100000 33", .call = sum_last},
    {.name = "sum_rows_128", .sample = "a 32768 128", .call = sum_last},
    {.name = "sum_rows_16_bfloat16", .sample = "a 250000 16 bfloat16", .call = sum_last},
    {.name = "sum_rows_16_int32", .sample = "a 250000 16 int32 < 1000", .call = sum_last},
    {.name = "sum_last_bfloat16", .sample = "a 2048 2048 bfloat16", .call = sum_last},
    {.name = "sum_first_bfloat16", .sample = "a 2048 2048 bfloat16", .call = sum_first},
    {.name = "sum_last_int32", .sample = "a 2048 2048 int32 < 1000", .call = sum_last},
    {.name = "sum_first_int32", .sample = "a 2048 2048 int32 < 1000", .call = sum_first},
    {.name = "sum_middle_7", .sample = "a 4096 64 7", .call = sum_middle},
    {.name = "sum_middle_3", .sample = "a 4096 64 3", .call = sum_middle},
    {.name = "sum_middle_4_16", .sample = "a 65536 4 16", .call = sum_middle},
    {.name = "sum_turned", .sample = "a 2048 2048", .call = sum_turned},
    {.name = "mean_rows_3", .sample = "a 1000000 3", .call = mean_last},
    {.name = "var_rows_16", .sample = "a 250000 16", .call = var_last},
    {.name = "var_last", .sample = "a 2048 2048", .call = var_last},
    {.name = "var_first", .sample = "a 2048 2048", .call = var_first},
    {.name = "prod_rows_4", .sample = "a 1000000 4", .call = prod_last},
    {.name = "prod_first", .sample = "a 2048 2048", .call = prod_first},
    {.name = "any_rows_4", .sample = "a 1000000 4 bool", .call = any_last},
    {.name = "max_rows_4", .sample = "a 1000000 4", .call = max_last},
    {.name = "min_rows_4", .sample = "a 1000000 4", .call = min_last},
    {.name = "max_rows_33", .sample = "a 100000 33", .call = max_last},
    {.name = "max_rows_128", .sample = "a 32768 128", .call = max_last},
    {.name = "max_rows_4_float16", .sample = "a 1000000 4 float16", .call = max_last},
    {.name = "max_rows_4_int32", .sample = "a 1000000 4 int32", .call = max_last},
    {.name = "max_last", .sample = "a 2048 2048", .call = max_last},
    {.name = "argmax_rows_4", .sample = "a 1000000 4", .call = argmax_last},
    {.name = "argmax_rows_33", .sample = "a 100000 33", .call = argmax_last},
    {.name = "argmax_rows_128", .sample = "a 32768 128", .call = argmax_last},
    {.name = "argmax_rows_10_int32", .sample = "a 300000 10 int32", .call = argmax_last},
    {.name = "argmin_rows_4", .sample = "a 1000000 4", .call = argmin_last},
    {.name = "argmin_last", .sample = "a 1024 4096", .call = argmin_last},
    {.name = "argmin_first", .sample = "a 4096 1024", .call = argmin_first},
    {.name = "logsumexp_rows_10", .sample = "a 200000 10", .call = logsumexp_last},
    {.name = "logsumexp_last", .sample = "a 1024 4096", .call = logsumexp_last},
    {.name = "logsumexp_first", .sample = "a 2048 1024", .call = logsumexp_first},
    {.name = "softmax_rows_4", .sample = "a 500000 4", .call = softmax},
    {.name = "softmax_rows_10", .sample = "a 200000 10", .call = softmax},
    {.name = "softmax_rows_33", .sample = "a 100000 33", .call = softmax},
    {.name = "softmax_rows_10_bfloat16", .sample = "a 200000 10 bfloat16", .call = softmax},
    {.name = "softmax_last", .sample = "a 1024 4096", .call = softmax},
    {.name = "cumsum_rows_4", .sample = "a 1000000 4", .call = cumsum_last},
    {.name = "cumsum_rows_33", .sample = "a 100000 33", .call = cumsum_last},
    {.name = "cumsum_rows_4_int32", .sample = "a 1000000 4 int32", .call = cumsum_last},
    {.name = "cumsum_rows_10_bfloat16", .sample = "a 300000 10 bfloat16", .call = cumsum_last},
    {.name = "cumsum_first_large", .sample = "a 2048 2048", .call = cumsum_first},
    {.name = "cumsum_first_tall", .sample = "a 1000000 4", .call = cumsum_first},
    {.name = "cummax_rows_4", .sample = "a 1000000 4", .call = cummax_last},
    {.name = "cumprod_rows_4", .sample = "a 1000000 4", .call = cumprod_last},
    {.name = "cumprod_last", .sample = "a 1024 1024", .call = cumprod_last},
    {.name = "logcumsumexp_last", .sample = "a 1024 1024", .call = logcumsumexp_last},
    {.name = "logcumsumexp_rows_4", .sample = "a 500000 4", .call = logcumsumexp_last},
    {.name = "sort_rows_8", .sample = "a 200000 8", .call = sort_last},
    {.name = "sort_rows_100", .sample = "a 10000 100", .call = sort_last},
    {.name = "sort_last_int32", .sample = "a 64 16384 int32", .call = sort_last},
    {.name = "argsort_rows_8", .sample = "a 200000 8", .call = argsort_last},
    {.name = "median_rows_9", .sample = "a 100000 9", .call = median_last},
    {.name = "tril", .sample = "a 2048 2048", .call = tril},
    {.name = "triu", .sample = "a 2048 2048", .call = triu},
    {.name = "tril_batch", .sample = "a 1024 64 64", .call = tril},
    {.name = "kron", .sample = "a 64 64; b 32 32", .call = kron},
    {.name = "kron_small", .sample = "a 512 512; b 4 4", .call = kron},
    {.name = "outer", .sample = "a 2048; b 2048", .call = outer},
    {.name = "trace", .sample = "a 2048 2048", .call = trace},
    {.name = "add_row", .sample = "a 2048 2048; b 2048", .call = add},
    {.name = "add_column", .sample = "a 2048 2048; b 2048 1", .call = add},
    {.name = "add_both", .sample = "a 2048 1; b 1 2048", .call = add},
    {.name = "add_short_rows", .sample = "a 1000000 3; b 3", .call = add},
    {.name = "add_short_columns", .sample = "a 1000000 3; b 1000000 1", .call = add},
    {.name = "add_middle", .sample = "a 256 64 128; b 256 1 128", .call = add},
    {.name = "add_turned", .sample = "a 2048 2048; b 2048 2048", .call = add_turned},
    {.name = "add_bfloat16", .sample = "a 2048 2048 bfloat16; b 2048 2048 bfloat16", .call = add},
    {.name = "add_float16", .sample = "a 2048 2048 float16; b 2048 2048 float16", .call = add},
    {.name = "add_int32", .sample = "a 2048 2048 int32; b 2048 2048 int32", .call = add},
    {.name = "less", .sample = "a 2048 2048; b 2048 2048", .call = less},
    {.name = "divide", .sample = "a 1024 1024; b 1024 1024", .call = divide},
    {.name = "remainder", .sample = "a 1024 1024; b 1024 1024", .call = rest},
    {.name = "floor_divide", .sample = "a 1024 1024; b 1024 1024", .call = floor_divide},
    {.name = "power", .sample = "a 1024 1024 positive; b 1024 1024", .call = power},
    {.name = "exp", .sample = "a 1024 1024", .call = exponential},
    {.name = "erf", .sample = "a 1024 1024", .call = error_function},
    {.name = "sin", .sample = "a 1024 1024", .call = sine},
    {.name = "sqrt", .sample = "a 2048 2048 positive", .call = square_root},
    {.name = "to_bfloat16", .sample = "a 2048 2048", .call = to_bfloat16},
    {.name = "to_float16", .sample = "a 2048 2048", .call = to_float16},
    {.name = "to_int32", .sample = "a 2048 2048", .call = to_int32},
    {.name = "from_bfloat16", .sample = "a 2048 2048 bfloat16", .call = to_float32},
    {.name = "from_float16", .sample = "a 2048 2048 float16", .call = to_float32},
    {.name = "from_int32", .sample = "a 2048 2048 int32", .call = to_float32},
    {.name = "every_second", .sample = "a 2048 2048", .call = every_second},
    {.name = "flip_last", .sample = "a 1024 1024", .call = flip_last},
    {.name = "roll_last", .sample = "a 1024 1024", .call = roll_last},
    {.name = "pad", .sample = "a 1024 1024", .call = pad},
    {.name = "tile", .sample = "a 512 512", .call = tile},
    {.name = "repeat_first", .sample = "a 512 1024", .call = repeat_first},
    {.name = "repeat_last", .sample = "a 512 1024", .call = repeat_last},
    {.name = "stack_first", .sample = "a 1024 1024; b 1024 1024", .call = stack_first},
    {.name = "stack_last", .sample = "a 1024 1024; b 1024 1024", .call = stack_last},
    {.name = "concatenate_3", .sample = "a 300000 3; b 300000 3", .call = concatenate_last},
    {.name = "transpose_short", .sample = "a 1000000 3", .call = transpose_copy},
    {.name = "transpose_bfloat16", .sample = "a 2048 2048 bfloat16", .call = transpose_copy},
    {.name = "take_columns", .sample = "a 1024 1024; i 512 int32 < 1024", .call = take_columns},
    {.name = "put_along_axis", .sample = "a 1024 1024; i 1024 64 int32 < 1024; v 1024 64", .call = put_along},
    {.name = "slice_update", .sample = "a 2048 2048; u 1024 1024", .call = slice_update},
    {.name = "concatenate_first", .sample = "a 1024 1024; b 1024 1024", .call = concatenate_first},
    {.name = "concatenate_last", .sample = "a 1024 1024; b 1024 1024", .call = concatenate_last},
    {.name = "transpose_copy", .sample = "a 2048 2048", .call = transpose_copy},
    {.name = "heads_copy", .sample = "a 4 512 16 64", .call = heads_copy},
    {.name = "take_rows", .sample = "a 32000 512; i 2048 int32 < 32000", .call = take_rows},
    {.name = "take_along_axis", .sample = "a 1024 1024; i 1024 512 int32 < 1024", .call = take_along},
    {.name = "gather", .sample = "a 1024 1024; i 262144 int32 < 1024; j 262144 int32 < 1024", .call = gather_elements},
    {.name = "scatter_add", .sample = "a 4096 256; i 8192 int32 < 4096; u 8192 256", .call = scatter_add},
    {.name = "einsum_scores", .sample = "q 2 128 8 64; k 2 128 8 64", .call = einsum_scores},
    {.name = "einsum_all", .sample = "a 32 32 32 32; b 32 32 32 32", .call = einsum_all},
    {.name = "einsum_first", .sample = "a 32 32 32 32; b 32 32 32 32", .call = einsum_first},
    {.name = "inner", .sample = "a 1000000; b 1000000", .call = inner},
    {.name = "einsum_mix", .sample = "p 2 8 128 128; v 2 128 8 64", .call = einsum_mix},
    MATMUL(1, float32), MATMUL(2, float32), MATMUL(4, float32), MATMUL(16, float32), MATMUL(256, float32), MATMUL(1024, float32),
    MATMUL(1, bfloat16), MATMUL(2, bfloat16), MATMUL(4, bfloat16), MATMUL(16, bfloat16), MATMUL(256, bfloat16),
    {.name = "matmul_batched", .sample = "a 64 32 32; b 64 32 32", .call = matmul},
    {.name = "matmul_64", .sample = "a 64 64; b 64 64", .call = matmul},
    {.name = "matmul_column", .sample = "a 1024 1024; b 1024 1", .call = matmul},
    {.name = "matmul_narrow", .sample = "a 4096 64; b 64 16", .call = matmul},
    {.name = "conv1d", .sample = "x 8 512 64; w 64 5 64", .call = conv1d},
    {.name = "conv2d", .sample = "x 4 64 64 32; w 64 3 3 32", .call = conv2d},
    {.name = "conv2d_first_layer", .sample = "x 8 28 28 1; w 6 5 5 1", .call = conv2d},
    {.name = "conv2d_one_channel", .sample = "x 1 128 128 1; w 1 5 5 1", .call = conv2d},
    {.name = "conv2d_one_filter", .sample = "x 1 64 64 16; w 1 3 3 16", .call = conv2d},
    {.name = "convolve", .sample = "a 20000; v 500", .call = convolve},
    {.name = "random_normal", .sample = "none 1", .call = random_normal},
    {.name = "random_uniform", .sample = "none 1", .call = random_uniform},
    {.name = "author_norm_64x1024", .sample = "x 64 1024; residual 64 1024; w 1024", .call = author_norm, .outputs = 2},
    {.name = "author_norm_2048x2048", .sample = "x 2048 2048; residual 2048 2048; w 2048", .call = author_norm, .outputs = 2},
    {.name = "quantize", .sample = "w 1024 2048", .outputs = 3, .call = quantize},
    {.name = "dequantize", .sample = "w 1024 256 uint32; s 1024 32; b 1024 32", .call = dequantize},
    {.name = "quantized_matmul_1", .sample = "x 1 2048; w 2048 256 uint32; s 2048 32; b 2048 32", .call = quantized},
    {.name = "quantized_matmul_64", .sample = "x 64 2048; w 2048 256 uint32; s 2048 32; b 2048 32", .call = quantized},
    {.name = "gather_mm", .sample = "x 16 1 512; w 16 512 512; i 16 int32 < 16", .call = gather_mm},
    {.name = "gather_qmm", .sample = "x 16 1 1024; w 16 512 128 uint32; s 16 512 16; b 16 512 16; i 16 int32 < 16", .call = gather_qmm},
};
// clang-format on

size_t array_row_count(void) {
  return ZMI_COUNT(rows);
}

const zmi_entry *array_row(size_t i) {
  return i < ZMI_COUNT(rows) ? &rows[i] : NULL;
}

int array_row_operands(const zmi_entry *row, zm_array **in) {
  const int nin = zmi_entry_sample(row, ZM_F32, 0, in);
  for (int i = 0; i < nin; i++) {
    const zm_dtype dtype = zm_array_dtype(in[i]);
    int64_t shape[ZM_MAX_RANK];
    if ((dtype != ZM_F32 && dtype != ZM_F16 && dtype != ZM_BF16) || strstr(row->sample, "positive")) continue;
    for (int k = 0; k < zm_array_rank(in[i]); k++) shape[k] = zm_array_dim(in[i], k);
    in[i] = zm_random_uniform(zm_random_key((uint64_t)i + 1), zm_full(-1, ZM_F32, NULL, 0), NULL, ZM_F32, shape, zm_array_rank(in[i]));
    if (i == 0 && row->parameters) in[i] = zm_sort(in[i], -1);
    if (!(in[i] = zm_astype(in[i], dtype))) return -1;
  }
  return nin;
}
