// What emitted CUDA C needs of CUDA, in C++17 on the CPU: a thread is a fiber of the shim of Metal, which has the threadgroups.
// tests/test_emit.c compiles kernels against it and runs them.
#ifndef ZMLX_SHIM_CUDA
#define ZMLX_SHIM_CUDA

#include <metal_stdlib>

#undef kernel
#undef device
#undef constant
#undef threadgroup
#undef __METAL_VERSION__
#define __CUDACC__ 1

#define __global__
#define __launch_bounds__(threads)
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static // of all fibers: one block runs at a time
#define asm(...) __asm__ volatile("" : "+x"(x)) // the one that there is keeps a float

struct shim_place {
  uint x, y, z;
};
#define threadIdx (shim_place{shim_current->now, 0, 0})
#define blockIdx (shim_place{shim_current->group, 0, 0})
#define blockDim (shim_place{shim_current->threads, 1, 1})
#define gridDim (shim_place{shim_current->groups, 1, 1})

static inline void __syncthreads() { metal::threadgroup_barrier(0); }
static inline uint __float_as_uint(float x) { return metal::as_type<uint>(x); }
static inline float __uint_as_float(uint x) { return metal::as_type<float>(x); }
static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
template <typename T> static inline T atomicAdd(T *p, T v) {
  T old = *p;
  *p = (T)(old + v);
  return old;
}

#endif
