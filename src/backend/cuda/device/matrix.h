// Packed matrices (the layout is in quant.h): codes of a lane as bytes, numbers of 4 and 8 bits, and single weights as floats.

struct alignas(16) zmi_gpu_four {
  int a[4];
};
struct alignas(8) zmi_gpu_two {
  unsigned a[2];
};

ZMI_INLINE const char *zmi_gpu_block_of(const zmi_gpu_matrix *m, int expert, int block) {
  return zmi_gpu_at<const char>(m->packed) + (unsigned long long)expert * m->matrix_bytes + (unsigned long long)block * m->block_bytes;
}

// Adds the part of a plane of P bits, which begins at bit `done`, to the codes of 32 k: code[q] holds those of k = 4 q .. 4 q + 3.
template <int P> ZMI_INLINE void zmi_gpu_plane(const unsigned *word, int done, unsigned code[8]) {
  for (int q = 0; q < 8; q++) code[q] |= (word[q / (8 / P)] >> q % (8 / P) * P & ((1u << P) - 1u) * 0x01010101u) << done;
}

template <int BITS> ZMI_INLINE void zmi_gpu_codes(const unsigned word[BITS], unsigned code[8]) {
  for (int q = 0; q < 8; q++) code[q] = 0;
  if (BITS >= 8)
    zmi_gpu_plane<8>(word, 0, code);
  else if (BITS >= 4)
    zmi_gpu_plane<4>(word, 0, code);
  else
    zmi_gpu_plane<2>(word, 0, code);
  if (BITS == 6) zmi_gpu_plane<2>(word + 4, 4, code);
  if (BITS == 5) zmi_gpu_plane<1>(word + 4, 4, code);
  if (BITS == 3) zmi_gpu_plane<1>(word + 2, 2, code);
}

// Four codes of e2m1, one a byte, become twice their values as signed bytes. With an exponent e > 0 that is (2 + fraction) 2^(e - 1).
ZMI_INLINE int zmi_gpu_twice(unsigned c) {
  const unsigned ones = 0x01010101u, low = c >> 1 & ones, high = c >> 2 & ones;
  unsigned v = (c & ones) + (low | high) * 2u;
  const unsigned negative = c >> 3 & (v | v >> 1) & ones; // a zero has no sign: it would carry into the next byte
  v += v & high * 255u;
  v += v & (low & high) * 255u;
  return (int)((v ^ negative * 255u) + negative);
}

ZMI_INLINE float zmi_gpu_e2m1(unsigned code) {
  const int twice = (int)(signed char)(unsigned char)zmi_gpu_twice(code);
  return zkp_signed((float)twice * 0.5f, zk_of_bits(code << 28));
}

// A number of e4m3 times 2^shift; 2^shift times it is normal or zero.
ZMI_INLINE float zmi_gpu_e4m3(unsigned code, int shift) {
  const unsigned magnitude = code & 127u;
  const float small = (float)(int)magnitude * zk_of_bits((unsigned)(118 + shift) << 23); // below 2^-6: units of 2^-9
  const float v = magnitude < 8u ? small : zk_of_bits((magnitude << 20) + ((unsigned)(120 + shift) << 23));
  return magnitude == 127u ? zkp_nan() : zkp_signed(v, zk_of_bits(code << 24));
}

// Scale or bias (or a float weight) of a block, by dtype.
ZMI_INLINE float zmi_gpu_scale(const char *p, int dtype, int i) {
  return dtype == ZMI_GPU_BF16 ? zk_load_bfloat16(((const unsigned short *)p)[i]) : ((const float *)p)[i];
}

ZMI_INLINE unsigned zmi_gpu_code_at(int bits, const unsigned *unit, int i) {
  unsigned code = 0;
  int done = 0;
  while (done < bits) {
    const int left = bits - done, p = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1, each = 32 / p;
    code |= (unit[i / each * ZMI_GPU_LANES] >> (i % 4 * 8 + i % each / 4 * p) & ((1u << p) - 1u)) << done;
    done += p;
    unit += p * ZMI_GPU_LANES;
  }
  return code;
}

ZMI_INLINE float zmi_gpu_affine_at(const zmi_gpu_matrix *m, const char *block, int lane, int k) {
  const int code_bytes = m->group * m->bits * ZMI_GPU_LANES / 8, scale_bytes = ZMI_GPU_LANES * zmi_gpu_size(m->dtype), i = k % m->group;
  const char *group = block + (long long)(k / m->group) * (code_bytes + 2 * scale_bytes);
  const unsigned code = zmi_gpu_code_at(m->bits, (const unsigned *)group + i / 32 * m->bits * ZMI_GPU_LANES + lane, i % 32);
  return zk_fma((float)(int)code, zmi_gpu_scale(group + code_bytes, m->dtype, lane),
                zmi_gpu_scale(group + code_bytes + scale_bytes, m->dtype, lane));
}

// Weight k of a lane as zmi_unpack_row has it.
ZMI_DEVICE float zmi_gpu_weight(const zmi_gpu_matrix *m, const char *block, int lane, int k) {
  if (m->mode == ZMI_GPU_FLOATS) return zmi_gpu_scale(block, m->dtype, (k / 2 * ZMI_GPU_LANES + lane) * 2 + k % 2);
  if (m->mode == ZMI_GPU_AFFINE) return zmi_gpu_affine_at(m, block, lane, k);
  const unsigned char *codes = (const unsigned char *)block;
  const unsigned s = codes[m->code_bytes + (unsigned)(k / m->group * ZMI_GPU_LANES + lane)];
  const float scale = m->mode == ZMI_GPU_NVFP4 ? zmi_gpu_e4m3(s, 0) : s == 255u ? zkp_nan() : zk_of_bits(s << 23);
  if (m->mode == ZMI_GPU_MXFP8) return zmi_gpu_e4m3(codes[(k / 2 * ZMI_GPU_LANES + lane) * 2 + k % 2], 0) * scale;
  const unsigned byte = codes[(k / 8 * ZMI_GPU_LANES + lane) * 4 + k % 4];
  return zmi_gpu_e2m1(k % 8 < 4 ? byte & 15u : byte >> 4) * scale;
}
