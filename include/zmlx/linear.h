// Products of matrices and convolutions.
//
// Products are computed in float32 and rounded once. Each sum has the order of docs/numerics.md, so a product has the same bits on every
// machine, in every tier and for any number of threads; docs/architecture.md ("Choices") says what that costs. Batch dimensions broadcast
// without copies. zm_matmul is declared in zmlx/array.h, with what all of them do about vectors, batches and integers.
#ifndef ZMLX_LINEAR_H
#define ZMLX_LINEAR_H

#include <stdbool.h>
#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

// alpha (a b) + beta c, rounded once; c broadcasts to the product.
ZM_API zm_array *zm_addmm(zm_array *c, zm_array *a, zm_array *b, double alpha, double beta);
// Products of chosen matrices: result [indices..., M, N] is a[lhs] b[rhs], both counted over flattened batch dimensions. lhs and rhs are
// integer arrays that broadcast against each other; NULL: all in order. An index out of range gives zeros. `sorted` says that indices rise;
// it changes no result.
ZM_API zm_array *zm_gather_mm(zm_array *a, zm_array *b, zm_array *lhs, zm_array *rhs, bool sorted);

// Convolutions of channels-last arrays, as MLX has them (cross-correlations, unless flipped):
// x [N, spatial..., C], weight [O, kernel..., C / groups] -> [N, out..., O], 1 to 3 spatial dimensions. Where a weight meets no element of
// x, in padding or between elements, it adds nothing, be it NaN.
typedef struct zm_conv_options {
  int64_t stride[3];                       // 0: 1
  int64_t padding_low[3], padding_high[3]; // zeros in front and behind; negative: that much is cut off
  int64_t dilation[3], input_dilation[3];  // of the kernel, of x; 0: 1
  int64_t groups;                          // 0: 1
  bool flip;                               // the kernel is turned around along every axis
} zm_conv_options;
ZM_API zm_array *zm_conv_general(zm_array *x, zm_array *weight, const zm_conv_options *options); // NULL: defaults
// stride, padding (on both sides) and dilation per axis; NULL: 1, 0 and 1.
ZM_API zm_array *zm_conv1d(zm_array *x, zm_array *weight, int64_t stride, int64_t padding, int64_t dilation, int64_t groups);
ZM_API zm_array *zm_conv2d(zm_array *x, zm_array *weight, const int64_t *stride, const int64_t *padding, const int64_t *dilation,
                           int64_t groups);
ZM_API zm_array *zm_conv3d(zm_array *x, zm_array *weight, const int64_t *stride, const int64_t *padding, const int64_t *dilation,
                           int64_t groups);
// The convolution of two vectors, none empty, as NumPy's and MLX's: the shorter one is turned around and slides over the longer one.
// FULL: n + m - 1 places, SAME: as many as the longer one, VALID: those where they overlap whole.
typedef enum zm_convolve_mode { ZM_CONVOLVE_FULL, ZM_CONVOLVE_SAME, ZM_CONVOLVE_VALID } zm_convolve_mode;
ZM_API zm_array *zm_convolve(zm_array *a, zm_array *v, zm_convolve_mode mode);

#ifdef __cplusplus
}
#endif
#endif
