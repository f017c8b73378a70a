// Weight formats: what a matrix looks like in a checkpoint, and the packed form that the kernels read.
//
// A packed matrix is a run of blocks of 16 output rows, padded to multiples of 64 bytes. Inside a block, k goes up group by group; a lane
// (0..15) is a row. Rows past N are zero.
//
// affine, b bits, group g (32, 64 or 128): per group the code words, then 16 scales, then 16 biases (bf16, 2 bytes, or f32, 4 bytes).
//   Codes are cut into bit planes of 8, 4, 2 or 1 bits: 8 = {8}, 6 = {4,2}, 5 = {4,1}, 4 = {4}, 3 = {2,1}, 2 = {2}; the first plane holds
//   the low bits. Per 32 k, plane after plane: a plane of p bits has p words a lane, word w of all 16 lanes side by side (64 bytes).
//   Byte j of word w, field f (bits f*p .. f*p+p-1, f < 8/p) is the plane's part of the code of k = w*(32/p) + 4*f + j.
//
// mxfp4, nvfp4 (4 bits): all code words, as those of affine 4 bits, 32 k (a rest of 16 k: half the words); then per group 16 scale bytes,
//   the last ones padded to 64 bytes. Codes are e2m1, scales e8m0 (mxfp4, groups of 32) or e4m3 (nvfp4, groups of 16), as stored.
// mxfp8 (8 bits): per pair of k 16 lanes side by side, each {code of 2j, code of 2j + 1}, e4m3; then scale bytes (e8m0) in the same way.
//
// float (bf16, f16 or f32 stored): per pair of k 16 lanes side by side, each {w[2j], w[2j+1]}, in bf16 (4 bytes a lane) or f32 (8 bytes a
//   lane). f16 is widened to f32. Odd K is padded with a zero.
#ifndef ZMI_QUANT_H
#define ZMI_QUANT_H

#include "base/base.h"
#include <zmlx/array.h>

typedef enum zmi_quant_mode {
  ZMI_QUANT_NONE,
  ZMI_QUANT_AFFINE,
  ZMI_QUANT_MXFP4,
  ZMI_QUANT_MXFP8,
  ZMI_QUANT_NVFP4,
  ZMI_QUANT_MODE_COUNT
} zmi_quant_mode;

// How a matrix is stored in a checkpoint.
typedef struct zmi_format {
  int64_t mode;   // zmi_quant_mode
  int64_t bits;   // affine: 2, 3, 4, 5, 6, 8; mxfp4, nvfp4: 4; mxfp8: 8
  int64_t group;  // affine: 32, 64, 128; mxfp4, mxfp8: 32; nvfp4: 16
  int64_t dtype;  // zm_dtype of packed scales and biases (affine) or weights (none): ZM_BF16 or ZM_F32; of no meaning elsewhere
  int64_t digits; // of an activation in products, where they take digits: 0: three, which are exact; 1: the one-byte activations
} zmi_format;

const char *zmi_quant_mode_name(int64_t mode); // "affine"
int zmi_quant_mode_find(const char *name);     // -1 if unknown
// Checks bits and group of a mode; the message lists what is allowed.
zm_status zmi_format_check(const zmi_format *f);
bool zmi_format_takes_digits(const zmi_format *f); // products take activations as integers (docs/numerics.md), else as floats
int zmi_format_digits(const zmi_format *f);        // digits of an activation: 3 or 1
const char *zmi_format_text(const zmi_format *f, char buffer[64]); // "affine 4-bit g64", "bfloat16"

enum { ZMI_LANES = 16 };
size_t zmi_packed_block_bytes(const zmi_format *f, int64_t k);                   // one block of 16 rows
size_t zmi_packed_code_bytes(const zmi_format *f, int64_t k);                    // of them, codes (not of mode none)
bool zmi_packed_bytes(const zmi_format *f, int64_t n, int64_t k, size_t *bytes); // one matrix [n, k]; false on overflow

// The planes of a bit width, low bits first, ending with 0.
const int *zmi_planes(int64_t bits);

// One matrix as it stands in a checkpoint. weight: none: [n, k] of `stored`; else uint32 [n, k*bits/32], a little-endian bit stream.
// scales, biases: [n, k/group] of `stored` (affine); scales uint8 [n, k/group] (mxfp4, mxfp8, nvfp4).
typedef struct zmi_stored_matrix {
  const void *weight, *scales, *biases;
  zm_dtype stored; // ZM_BF16, ZM_F16 or ZM_F32: dtype of scales and biases, or of a float weight; not of scales that are bytes
  int64_t n, k;
} zmi_stored_matrix;

// Packs rows of blocks [begin, end) (of 16 rows) of a matrix to `packed` (address of block 0). Pointers need no alignment. Blocks are
// independent: callers share them out to workers. NaN or infinite scales are found by zmi_stored_matrix_check.
void zmi_pack_blocks(const zmi_format *f, const zmi_stored_matrix *m, void *packed, int64_t begin, int64_t end);
// Refuses scales, biases and codes of 8-bit numbers that are NaN or infinite: row and group of the first one are in the message.
zm_status zmi_stored_matrix_check(const zmi_format *f, const zmi_stored_matrix *m);

// Row `row` of a packed matrix as float32 [k]: affine: fma(code, scale, bias) in float32, rounded once; numbers of 4 and 8 bits times
// their scales, which is exact (below 2^-126: zero).
void zmi_unpack_row(const zmi_format *f, const void *packed, int64_t k, int64_t row, float *out);

// Quantizes float32 rows [n, k] to the checkpoint's affine form by the CPU rule of MLX (docs/numerics.md): weight uint32 [n, k*bits/32],
// scales and biases float32 [n, k/group] (callers round them to the checkpoint's dtype).
void zmi_quantize_affine(int64_t bits, int64_t group, const float *w, int64_t n, int64_t k, uint32_t *weight, float *scales, float *biases);

// ---- codes of arrays, all modes ----
// Fills in the bits and the group of a mode where they are 0 and checks them; the message lists what is allowed. Not for packing: that
// takes zmi_format_check.
zm_status zmi_codes_complete(zmi_format *f);
// Values [k, k + n) of a row, k and n multiples of the group; modes other than affine, whose scales are uint8, one a group.
void zmi_decode_floats(const zmi_format *f, const zmi_stored_matrix *m, int64_t row, int64_t k, int64_t n, float *out);
// Numbers of 4 and 8 bits. To e4m3: saturates at 448, NaN too, as in MLX.
extern const float zmi_e2m1_values[16];
float zmi_e4m3_to_f32(uint8_t v);
uint8_t zmi_f32_to_e4m3(float v);
float zmi_e8m0_to_f32(uint8_t v);
// Groups of float32 values that were of `dtype` (in which MLX rounds every step) to codes and scales of mxfp4, mxfp8 or nvfp4.
typedef struct zmi_float_quantizer {
  int64_t bits, group;
  zm_dtype dtype;
  float encode;           // nvfp4: 2688 / the global scale, 1 without it
  double (*log2)(double); // mx
} zmi_float_quantizer;
void zmi_quantize_floats(const zmi_float_quantizer *q, const float *w, int64_t groups, uint32_t *weight, uint8_t *scales);

// Scalar conversions, round to nearest even. NaN becomes the quiet NaN 0x7FC0 (bf16) or 0x7E00 (f16). Denormals are kept as they are.
static inline float zmi_bf16_to_f32(uint16_t v) {
  union {
    uint32_t u;
    float f;
  } c = {.u = (uint32_t)v << 16};
  return c.f;
}
static inline uint16_t zmi_f32_to_bf16(float v) {
  union {
    float f;
    uint32_t u;
  } c = {.f = v};
  if ((c.u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return (uint16_t)((c.u + 0x7fffu + ((c.u >> 16) & 1u)) >> 16);
}
float zmi_f16_to_f32(uint16_t v);
uint16_t zmi_f32_to_f16(float v);

#endif
