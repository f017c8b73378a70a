// Dot products of weights that are numbers of 8 bits (mxfp8) for the vector tiers. Included once by vector.c.
#ifndef ZMI_FP8_H
#define ZMI_FP8_H

// One group of 16 pairs for `halves` halves of a block: sums of even and of odd elements, which need not wait for each other. The lanes of
// the sums come in the order of pair_of_two.
ZMI_SHAPED void fp8_group(int rows, int halves, const char *at, const float *const *x, pair q[ZMI_ROWS][ZMI_HALVES]) {
  for (int64_t j = 0; j < 16; j++, at += 32) {
    ZMI_UNROLL
    for (int h = 0; h < halves; h++) {
      const char *half = at + 2 * ZMI_WIDE * h;
      const pair p = pair_of_two(vf_load_e4m3(half), vf_load_e4m3(half + ZMI_WIDE));
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) {
        q[m][h].even = vf_fma(p.even, vf_set1(x[m][2 * j]), q[m][h].even);
        q[m][h].odd = vf_fma(p.odd, vf_set1(x[m][2 * j + 1]), q[m][h].odd);
      }
    }
  }
}

// Group g: acc = fma(scale, even + odd, acc). More than two rows: some of the block's vectors after the others, as registers are few.
ZMI_SHAPED void fp8_scaled_group(int rows, const char *codes, const char *scales, const float *const *x, vf acc[ZMI_ROWS][ZMI_HALVES]) {
  const int together = rows <= 2 ? ZMI_HALVES : ZMI_HALVES == 4 ? 2 : 1;
  prefetch(codes + AHEAD, 8);
  ZMI_UNROLL
  for (int h = 0; h < ZMI_HALVES; h += together) {
    pair q[ZMI_ROWS][ZMI_HALVES];
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int i = 0; i < together; i++) q[m][i] = (pair){vf_zero(), vf_zero()};
    }
    fp8_group(rows, together, codes + 2 * ZMI_WIDE * h, x, q);
    ZMI_UNROLL
    for (int i = 0; i < together; i++) {
      const vf s = vf_load_e8m0(scales + ZMI_WIDE * (h + i), 8);
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) acc[m][h + i] = vf_fma(s, pair_order(q[m][i].even + q[m][i].odd), acc[m][h + i]);
    }
  }
}

ZMI_SHAPED void fp8_blocks(int rows, const void *block, int64_t blocks, int64_t k, const void *const *x, float *y, int64_t ldy) {
  const int64_t groups = k / 32, per_range = ZMI_RANGE / 32;
  const size_t code_bytes = (size_t)k * ZMI_LANES, block_bytes = code_bytes + (size_t)(groups * ZMI_LANES + 63) / 64 * 64;
  for (int64_t b = 0; b < blocks; b++) {
    const char *codes = (const char *)block + (size_t)b * block_bytes, *scales = codes + code_bytes;
    vf total[ZMI_ROWS][ZMI_HALVES];
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) total[m][h] = vf_zero();
    }
    for (int64_t begin = 0; begin < groups; begin += per_range) {
      vf acc[ZMI_ROWS][ZMI_HALVES];
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) {
        ZMI_UNROLL
        for (int h = 0; h < ZMI_HALVES; h++) acc[m][h] = vf_zero();
      }
      for (int64_t g = begin; g < ZMI_MIN(begin + per_range, groups); g++) {
        const float *from[ZMI_ROWS];
        ZMI_UNROLL
        for (int m = 0; m < rows; m++) from[m] = (const float *)x[m] + 32 * g;
        if (g % 4 == 0) prefetch(scales + g * ZMI_LANES + AHEAD / 32 + (g + AHEAD / 512 < groups ? 0 : code_bytes), 1);
        fp8_scaled_group(rows, codes + g * 512, scales + g * ZMI_LANES, from, acc);
      }
      ZMI_UNROLL
      for (int m = 0; m < rows; m++) {
        ZMI_UNROLL
        for (int h = 0; h < ZMI_HALVES; h++) total[m][h] += acc[m][h];
      }
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int h = 0; h < ZMI_HALVES; h++) vf_store(y + m * ldy + b * ZMI_LANES + h * ZMI_WIDE, total[m][h]);
    }
  }
}

static void vector_dot_fp8(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *x,
                           zm_dtype x_dtype, float *y, int64_t ldy) {
  (void)f, (void)x_dtype;
  if (rows == 1) fp8_blocks(1, block, blocks, k, x, y, ldy);
  if (rows == 2) fp8_blocks(2, block, blocks, k, x, y, ldy);
  if (rows == 3) fp8_blocks(3, block, blocks, k, x, y, ldy);
  if (rows == 4) fp8_blocks(4, block, blocks, k, x, y, ldy);
}

#endif
