// The vector tiers: dot products, digits and attention for 128, 256 and 512 bits, with the bits of scalar.c. Compiled once for each tier
// with that tier's flags; what the flags allow (dot products of bytes, BF16) is used.
#include "backend/cpu/few.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/scan.h"
#include "backend/cpu/simd.h"

// Memory is asked for this many bytes before it is read, of all streams of a strip together: far enough for the latency under load, and no
// farther, as what lies behind the end of a worker's part is read for nothing. It comes to the second-level cache: in the first one it
// would drive out what is in use.
enum { AHEAD = 6144 };

ZMI_INLINE void prefetch(const char *p, int lines) {
  for (int i = 0; i < lines; i++) __builtin_prefetch(p + 64 * i, 0, 2);
}

#include "backend/cpu/attend.h"
#include "backend/cpu/codes.h"
#include "backend/cpu/peak.h"
#include "backend/cpu/fp8.h"

// ---- float dot products ----

// One range of one block for `rows` rows of x.
ZMI_INLINE void float_range(int rows, bool w_wide, const char *w, int64_t pairs, const float *const *x, vf acc[ZMI_ROWS][ZMI_HALVES]) {
  for (int64_t j = 0; j < pairs; j++) {
    pair p[ZMI_HALVES];
    prefetch(w + AHEAD, w_wide ? 2 : 1);
    ZMI_UNROLL
    for (int h = 0; h < ZMI_HALVES; h++) {
      const char *at = w + (w_wide ? 8 : 4) * ZMI_WIDE * h;
      p[h] = w_wide ? pair_of_two(vf_load(at), vf_load(at + 4 * ZMI_WIDE)) : pair_of_bf16(vu_load(at));
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      vf odd = vf_set1(x[m][2 * j + 1]), even = vf_set1(x[m][2 * j]);
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) acc[m][h] = vf_fma(p[h].even, even, vf_fma(p[h].odd, odd, acc[m][h]));
    }
    w += w_wide ? 128 : 64;
  }
}

ZMI_INLINE void float_blocks(int rows, bool w_wide, const void *block, int64_t blocks, int64_t k, const void *const *x, zm_dtype x_dtype,
                             float *y, int64_t ldy) {
  const int64_t pair_bytes = w_wide ? 128 : 64;
  float part[ZMI_ROWS][ZMI_RANGE];
  const float *from[ZMI_ROWS];
  const char *w = block;
  for (int64_t b = 0; b < blocks; b++) {
    vf total[ZMI_ROWS][ZMI_HALVES];
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) total[m][h] = vf_zero();
    }
    for (int64_t begin = 0; begin < k; begin += ZMI_RANGE) {
      int64_t count = ZMI_MIN(k - begin, ZMI_RANGE), pairs = (count + 1) / 2;
      vf acc[ZMI_ROWS][ZMI_HALVES];
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) {
        ZMI_UNROLL
        for (int h = 0; h < ZMI_HALVES; h++) acc[m][h] = vf_zero();
        from[m] = (const float *)x[m] + begin;
        if (x_dtype != ZM_F32 || count % 2) {
          row_load((const char *)x[m] + begin * (x_dtype == ZM_F32 ? 4 : 2), x_dtype, count, part[m]);
          if (count % 2) part[m][count] = 0;
          from[m] = part[m];
        }
      }
      float_range(rows, w_wide, w, pairs, from, acc);
      w += pairs * pair_bytes;
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) {
        ZMI_UNROLL
        for (int h = 0; h < ZMI_HALVES; h++) total[m][h] += acc[m][h];
      }
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) {
        vf_store(y + m * ldy + b * ZMI_LANES + h * ZMI_WIDE, w_wide ? pair_order(total[m][h]) : total[m][h]);
      }
    }
  }
}

#if defined(__AVX512BF16__)
// Weights and activations both in bfloat16: vdpbf16ps is the two multiply-adds, the odd one first.
ZMI_INLINE void bf16_blocks(int rows, const void *block, int64_t blocks, int64_t k, const void *const *x, float *y, int64_t ldy) {
  const char *w = block;
  for (int64_t b = 0; b < blocks; b++) {
    __m512 total[ZMI_ROWS];
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) total[m] = _mm512_setzero_ps();
    for (int64_t begin = 0; begin < k; begin += ZMI_RANGE) {
      int64_t count = ZMI_MIN(k - begin, ZMI_RANGE);
      __m512 acc[ZMI_ROWS];
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) acc[m] = _mm512_setzero_ps();
      for (int64_t j = 0; j < count / 2; j++, w += 64) {
        prefetch(w + AHEAD, 1);
        __m512bh v = (__m512bh)_mm512_loadu_si512(w);
        ZMI_UNROLL
        for (int m = 0; m < rows; m++)
          acc[m] = _mm512_dpbf16_ps(acc[m], v, (__m512bh)vi_broadcast4((const uint16_t *)x[m] + begin + 2 * j));
      }
      if (count % 2) {
        __m512bh v = (__m512bh)_mm512_loadu_si512(w);
        ZMI_UNROLL
        for (int m = 0; m < rows; m++) acc[m] = _mm512_dpbf16_ps(acc[m], v, (__m512bh)_mm512_set1_epi32(((const uint16_t *)x[m])[k - 1]));
        w += 64;
      }
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) total[m] += acc[m];
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) _mm512_storeu_ps(y + m * ldy + b * ZMI_LANES, total[m]);
  }
}
#endif

static void vector_dot_float(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *x,
                             zm_dtype x_dtype, float *y, int64_t ldy) {
#define ROWS(call)                                                                                                                         \
  do {                                                                                                                                     \
    if (rows == 1) call(1);                                                                                                                \
    if (rows == 2) call(2);                                                                                                                \
    if (rows == 3) call(3);                                                                                                                \
    if (rows == 4) call(4);                                                                                                                \
  } while (0)
#define BF16(m) bf16_blocks(m, block, blocks, k, x, y, ldy)
#define NARROW(m) float_blocks(m, false, block, blocks, k, x, x_dtype, y, ldy)
#define WIDE(m) float_blocks(m, true, block, blocks, k, x, x_dtype, y, ldy)
  if (f->dtype == ZM_F32) {
    ROWS(WIDE);
    return;
  }
#if defined(__AVX512BF16__)
  if (x_dtype == ZM_BF16) {
    ROWS(BF16);
    return;
  }
#endif
  ROWS(NARROW);
#undef WIDE
#undef NARROW
#undef BF16
#undef ROWS
}

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define JOIN_OF(a, b) a##b
#define JOIN(a, b) JOIN_OF(a, b)

const zmi_kernels JOIN(zmi_kernels_, ZMI_TIER) = {
    .name = TEXT(ZMI_TIER),
    .dot = {[ZMI_QUANT_NONE] = vector_dot_float,
            [ZMI_QUANT_AFFINE] = vector_dot_affine,
            [ZMI_QUANT_MXFP4] = vector_dot_fp4,
            [ZMI_QUANT_MXFP8] = vector_dot_fp8,
            [ZMI_QUANT_NVFP4] = vector_dot_fp4},
    .products = vector_products,
    ZMI_ROW_KERNELS,
    .attend = vector_attend,
    .gemm = vector_gemm,
    .gemm_columns = vector_gemm_columns,
    .gemm_rows = vector_gemm_rows,
    .gemm_across = vector_gemm_across,
    .few_rows = vector_few_rows,
    .few_lines = vector_few_lines,
    .running_sums = vector_running_sums,
#if defined(__aarch64__)
    .lanes = &zmi_lanes_neon,
#elif defined(__AVX512F__)
    .lanes = &zmi_lanes_avx512,
#else
    .lanes = &zmi_lanes_avx2,
#endif
};
