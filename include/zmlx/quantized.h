// Quantized arrays in MLX's layout: codes in uint32 words along the last axis, one scale (and bias) for each group.
//
//   mode      bits            groups         scales            value
//   affine    2 3 4 5 6 8     32 64 128      dtype of w        code * scale + bias, biases of the dtype of w
//   mxfp4     4               32             uint8 (e8m0)      e2m1 * 2^(scale - 127)
//   mxfp8     8               32             uint8 (e8m0)      e4m3 * 2^(scale - 127)
//   nvfp4     4               16             uint8 (e4m3)      e2m1 * scale
#ifndef ZMLX_QUANTIZED_H
#define ZMLX_QUANTIZED_H

#include <stdbool.h>
#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum zm_quant_mode { ZM_AFFINE, ZM_MXFP4, ZM_MXFP8, ZM_NVFP4 } zm_quant_mode;

typedef struct zm_quant {
  zm_quant_mode mode;
  int bits, group; // 0: 4 and 64 for affine; what the mode has for the others
} zm_quant;

// Quantizes along the last axis of a float array [..., K], K a multiple of the group, by MLX's rule for the CPU: the same codes. *biases is
// set to NULL in modes without them. global_scale: float32 of one element, nvfp4 only, or NULL. format NULL: affine, 4 bits, groups of 64.
ZM_API zm_status zm_quantize(zm_array *w, const zm_quant *format, zm_array *global_scale, zm_array **codes, zm_array **scales,
                             zm_array **biases);
// The values, each rounded once to `dtype` (ZM_DTYPE_DEFAULT: that of the scales; bfloat16 in modes with uint8 scales).
ZM_API zm_array *zm_dequantize(zm_array *codes, zm_array *scales, zm_array *biases, const zm_quant *format, zm_array *global_scale,
                               zm_dtype dtype);

// x [..., M, K] times a quantized matrix: codes of [..., N, K], transposed, or of [..., K, N]. Batch dimensions broadcast. Affine
// transposed products run in the order of the quantized dot product of docs/numerics.md, the others in that of matmul with the values in
// float32.
ZM_API zm_array *zm_quantized_matmul(zm_array *x, zm_array *codes, zm_array *scales, zm_array *biases, const zm_quant *format,
                                     bool transpose);
// Products of chosen matrices: result [indices..., M, N] is x[lhs] times the matrix rhs, both counted over flattened batch dimensions. lhs
// and rhs are integer arrays that broadcast against each other; NULL: all in order. An index out of range gives zeros. `sorted` says that
// indices rise; it changes no result.
ZM_API zm_array *zm_gather_qmm(zm_array *x, zm_array *codes, zm_array *scales, zm_array *biases, zm_array *lhs, zm_array *rhs,
                               const zm_quant *format, bool transpose, bool sorted);

// float8 e4m3 in uint8 and back: to nearest even, saturating at 448.
ZM_API zm_array *zm_to_fp8(zm_array *a);
ZM_API zm_array *zm_from_fp8(zm_array *a, zm_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
