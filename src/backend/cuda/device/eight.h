// Eight elements side by side: what a thread takes of a row at a time, and what it makes of them: floats, rounded numbers, digits.
//
// WIDE: addresses and distances between rows are multiples of eight elements (zmi_gpu_is_wide), and the elements are of DTYPE: they come
// together, and nothing about them is decided at run time. Else they come one by one and are of `dtype`.

typedef struct alignas(16) zmi_gpu_words {
  unsigned w[4];
} zmi_gpu_words;

// As they came: WIDE, of two bytes, two in a word; else one in a word.
typedef struct zmi_gpu_eight {
  unsigned word[8];
} zmi_gpu_eight;

ZMI_INLINE bool zmi_gpu_is_wide(zmi_gpu_address a, long long elements) {
  return a % 16 == 0 && elements % 8 == 0;
}

// Elements first .. of which `there` are there: the others are zeros. WIDE, either all are there or none is.
template <int DTYPE, bool WIDE> ZMI_INLINE zmi_gpu_eight zmi_gpu_ask(zmi_gpu_address a, int dtype, long long first, int there) {
  zmi_gpu_eight e = {{0, 0, 0, 0, 0, 0, 0, 0}};
  if (!WIDE) {
    for (int j = 0; j < 8 && j < there; j++) e.word[j] = zmi_gpu_bits(a, dtype, first + j);
  } else if (there > 0) {
    const zmi_gpu_words *from = zmi_gpu_at<const zmi_gpu_words>(a + (zmi_gpu_address)first * (DTYPE == ZMI_GPU_F32 ? 4 : 2));
#pragma unroll
    for (int h = 0; h < (DTYPE == ZMI_GPU_F32 ? 2 : 1); h++) {
      const zmi_gpu_words w = from[h];
      for (int j = 0; j < 4; j++) e.word[4 * h + j] = w.w[j];
    }
  }
  return e;
}

template <int DTYPE, bool WIDE> ZMI_INLINE void zmi_gpu_given(const zmi_gpu_eight *e, int dtype, float v[8]) {
#pragma unroll
  for (int j = 0; j < 8; j++) {
    if (!WIDE)
      v[j] = zmi_gpu_value(e->word[j], dtype);
    else if (DTYPE == ZMI_GPU_F32)
      v[j] = zk_of_bits(e->word[j]);
    else if (DTYPE == ZMI_GPU_BF16)
      v[j] = zk_of_bits(j % 2 ? e->word[j / 2] & 0xffff0000u : e->word[j / 2] << 16);
    else
      v[j] = zmi_gpu_value(e->word[j / 2] >> j % 2 * 16 & 0xffffu, DTYPE);
  }
}

// Through the dtype and back. A NaN stays one, but not the one that is stored.
template <int DTYPE> ZMI_INLINE void zmi_gpu_rounded(float v[8]) {
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    if (DTYPE == ZMI_GPU_BF16) {
      const unsigned both = zmi_pair_bf16(v[j], v[j + 1]);
      v[j] = zk_of_bits(both << 16);
      v[j + 1] = zk_of_bits(both & 0xffff0000u);
    } else {
      v[j] = zmi_gpu_round(v[j], DTYPE);
      v[j + 1] = zmi_gpu_round(v[j + 1], DTYPE);
    }
  }
}

// Two numbers in a word, as they are stored.
template <int DTYPE> ZMI_INLINE unsigned zmi_gpu_pair_stored(float low, float high) {
  if (DTYPE == ZMI_GPU_F16) return zk_store_float16_float(low) | (unsigned)zk_store_float16_float(high) << 16;
  const unsigned nan = zk_store_bfloat16_float(zkp_nan()), both = zmi_pair_bf16(low, high);
  return (high == high ? both & 0xffff0000u : nan << 16) | (low == low ? both & 0xffffu : nan);
}

// Eight numbers to memory, rounded. Wide.
template <int DTYPE> ZMI_INLINE void zmi_gpu_put(zmi_gpu_address a, long long first, const float v[8]) {
  zmi_gpu_words *to = zmi_gpu_at<zmi_gpu_words>(a + (zmi_gpu_address)first * (DTYPE == ZMI_GPU_F32 ? 4 : 2));
#pragma unroll
  for (int h = 0; h < (DTYPE == ZMI_GPU_F32 ? 2 : 1); h++) {
    zmi_gpu_words w;
#pragma unroll
    for (int j = 0; j < 4; j++) w.w[j] = DTYPE == ZMI_GPU_F32 ? zk_bits(v[4 * h + j]) : zmi_gpu_pair_stored<DTYPE>(v[2 * j], v[2 * j + 1]);
    to[h] = w;
  }
}

// Eight floats to shared memory, to an address that is a multiple of 16, and from there.
ZMI_INLINE void zmi_gpu_keep(float *to, const float v[8]) {
  for (int h = 0; h < 2; h++)
    ((zmi_gpu_words *)(void *)to)[h] = {{zk_bits(v[4 * h]), zk_bits(v[4 * h + 1]), zk_bits(v[4 * h + 2]), zk_bits(v[4 * h + 3])}};
}
ZMI_INLINE void zmi_gpu_kept(const float *from, float v[8]) {
  for (int h = 0; h < 2; h++) {
    const zmi_gpu_words w = ((const zmi_gpu_words *)(const void *)from)[h];
    for (int j = 0; j < 4; j++) v[4 * h + j] = zk_of_bits(w.w[j]);
  }
}
