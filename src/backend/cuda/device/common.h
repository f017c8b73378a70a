// Elements of device memory by dtype, as float32. Device text: files stand one after another, none includes another (meson.build).

template <typename T> ZMI_INLINE T *zmi_gpu_at(zmi_gpu_address a) {
  return (T *)a;
}

ZMI_INLINE int zmi_gpu_size(int dtype) {
  return dtype == ZMI_GPU_F32 ? 4 : 2;
}

// An element's bits, and later the element: several can be on their way before the first is waited for.
ZMI_INLINE unsigned zmi_gpu_bits(zmi_gpu_address a, int dtype, long long i) {
  return dtype == ZMI_GPU_F32 ? zmi_gpu_at<const unsigned>(a)[i] : zmi_gpu_at<const unsigned short>(a)[i];
}

ZMI_INLINE float zmi_gpu_value(unsigned bits, int dtype) {
  if (dtype == ZMI_GPU_F32) return zk_of_bits(bits);
  return dtype == ZMI_GPU_BF16 ? zk_of_bits(bits << 16) : zk_load_float16((unsigned short)bits);
}

// The word of four bytes in which an element lies, and the element of it: a load without a branch before it, whatever the dtype.
ZMI_INLINE unsigned zmi_gpu_word(zmi_gpu_address a, int dtype, long long i) {
  const zmi_gpu_address at = a + (zmi_gpu_address)(i * zmi_gpu_size(dtype));
  return *zmi_gpu_at<const unsigned>(at & ~(zmi_gpu_address)3);
}

ZMI_INLINE float zmi_gpu_of_word(unsigned word, zmi_gpu_address a, int dtype, long long i) {
  if (dtype == ZMI_GPU_F32) return zk_of_bits(word);
  return zmi_gpu_value((a >> 1 ^ (zmi_gpu_address)i) & 1u ? word >> 16 : word & 0xffffu, dtype);
}

ZMI_INLINE float zmi_gpu_load(zmi_gpu_address a, int dtype, long long i) {
  if (dtype == ZMI_GPU_F32) return zmi_gpu_at<const float>(a)[i];
  const unsigned short v = zmi_gpu_at<const unsigned short>(a)[i];
  return dtype == ZMI_GPU_BF16 ? zk_load_bfloat16(v) : zk_load_float16(v);
}

ZMI_INLINE void zmi_gpu_store(zmi_gpu_address a, int dtype, long long i, float x) {
  if (dtype == ZMI_GPU_F32)
    zmi_gpu_at<float>(a)[i] = x;
  else
    zmi_gpu_at<unsigned short>(a)[i] = dtype == ZMI_GPU_BF16 ? zk_store_bfloat16_float(x) : zk_store_float16_float(x);
}

// Through the dtype and back.
ZMI_INLINE float zmi_gpu_round(float x, int dtype) {
  return dtype == ZMI_GPU_F32 ? x : dtype == ZMI_GPU_BF16 ? zk_round_bf16(x) : zk_load_float16(zk_store_float16_float(x));
}

ZMI_INLINE float zmi_shuffle_float(float x, int lane) {
  return zk_of_bits(zmi_shuffle(zk_bits(x), lane));
}

// Does `call`, in which DTYPE is a constant, for the dtype at hand: decided once, not before each load.
#define ZMI_GPU_BY_DTYPE(dtype, call)                                                                                                      \
  do {                                                                                                                                     \
    if ((dtype) == ZMI_GPU_BF16) {                                                                                                         \
      constexpr int DTYPE = ZMI_GPU_BF16;                                                                                                  \
      call;                                                                                                                                \
    } else if ((dtype) == ZMI_GPU_F32) {                                                                                                   \
      constexpr int DTYPE = ZMI_GPU_F32;                                                                                                   \
      call;                                                                                                                                \
    } else {                                                                                                                               \
      constexpr int DTYPE = ZMI_GPU_F16;                                                                                                   \
      call;                                                                                                                                \
    }                                                                                                                                      \
  } while (0)
