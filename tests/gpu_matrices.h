// Numbers of all natures and packed matrices of them, for tests of the CUDA backend's device code.
#ifndef ZMLX_TEST_GPU_MATRICES_H
#define ZMLX_TEST_GPU_MATRICES_H

#include "backend/backend.h"
#include "backend/cuda/flow.h"
#include "lm/lm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static uint64_t random_state = 88172645463325252ull;
static inline uint64_t next_random(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

// Natures: plain numbers, any exponents, tiny ones with denormals, some NaN and infinities, all zeros.
enum { PLAIN, WIDE, TINY, BROKEN, ZERO, NATURES };

static inline float number(int nature) {
  const uint64_t r = next_random();
  const uint32_t pick = (uint32_t)(r >> 32) & 0xffffu, sign = (uint32_t)(r >> 63) << 31, fraction = (uint32_t)r & 0x7fffffu;
  uint32_t u = sign;
  if (nature == PLAIN) u |= (117 + pick % 12) << 23 | fraction;
  if (nature == WIDE) u |= (1 + pick % 200) << 23 | fraction;
  if (nature == TINY) u |= (pick % 30) << 23 | fraction;
  if (nature == BROKEN) u |= pick % 301 ? (110 + pick % 20) << 23 | fraction : 0x7f800000u | (pick & 1 ? 0 : fraction);
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16, ZM_F16}; // by zmi_gpu_dtype
static const int gpu_modes[] = {[ZMI_QUANT_NONE] = ZMI_GPU_FLOATS,
                                [ZMI_QUANT_AFFINE] = ZMI_GPU_AFFINE,
                                [ZMI_QUANT_MXFP4] = ZMI_GPU_MXFP4,
                                [ZMI_QUANT_MXFP8] = ZMI_GPU_MXFP8,
                                [ZMI_QUANT_NVFP4] = ZMI_GPU_NVFP4};

static inline void *make(size_t bytes) {
  void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
  assert_non_null(p);
  memset(p, 0xa5, (bytes + 127) / 64 * 64);
  return p;
}

static inline zmi_gpu_address at(const void *p) {
  return (zmi_gpu_address)(uintptr_t)p;
}

// n floats of a nature, in a dtype; what they are as float32 goes to `wide`, if that is wanted.
static inline void *floats(int dtype, int64_t n, int nature, float **wide) {
  float *x = make((size_t)n * 4);
  void *stored = make((size_t)n * 4);
  for (int64_t i = 0; i < n; i++) x[i] = number(nature);
  zmi_tier(0)->store(x, n, stored, dtypes[dtype]);
  zmi_tier(0)->load(stored, dtypes[dtype], n, x);
  if (wide)
    *wide = x;
  else
    free(x);
  return stored;
}

typedef struct matrix {
  zmi_format f;
  zmi_gpu_matrix g;
  char *packed;
  void *bias;
  float *bias_values;
} matrix;

static inline void pack_one(const matrix *m, char *to, int nature) {
  const zmi_format *f = &m->f;
  const int64_t n = m->g.n, k = m->g.k, groups = f->group ? k / f->group : 1;
  zmi_stored_matrix s = {.stored = (zm_dtype)f->dtype, .n = n, .k = k};
  uint8_t *codes = make((size_t)(n * k)), *bytes = make((size_t)(n * groups));
  for (int64_t i = 0; i < n * k; i++) codes[i] = (uint8_t)(next_random() >> 30);
  for (int64_t i = 0; f->mode == ZMI_QUANT_MXFP8 && i < n * k; i++) codes[i] &= (codes[i] & 127) == 127 ? 0x80 : 0xff;
  for (int64_t i = 0; i < n * groups; i++) bytes[i] = (uint8_t)((next_random() >> 30) % (f->mode == ZMI_QUANT_NVFP4 ? 127 : 255));
  const int dtype = f->dtype == ZM_F32 ? ZMI_GPU_F32 : ZMI_GPU_BF16;
  const bool whole = f->mode == ZMI_QUANT_NONE;
  void *a = floats(dtype, n * (whole ? k : groups), nature, NULL), *b = floats(dtype, n * groups, nature, NULL);
  s.weight = whole ? a : codes;
  s.scales = f->mode == ZMI_QUANT_AFFINE ? a : bytes;
  s.biases = b;
  zmi_pack_blocks(f, &s, to, 0, (n + 15) / 16);
  free(codes), free(bytes), free(a), free(b);
}

static inline matrix matrix_make(zmi_format f, int n, int k, int experts, int bias_dtype, int nature) {
  matrix m = {.f = f};
  const size_t block = zmi_packed_block_bytes(&f, k), bytes = block * (size_t)((n + 15) / 16);
  m.g = (zmi_gpu_matrix){.matrix_bytes = bytes,
                         .block_bytes = (unsigned)block,
                         .code_bytes = f.mode == ZMI_QUANT_NONE ? 0 : (unsigned)zmi_packed_code_bytes(&f, k),
                         .n = n,
                         .k = k,
                         .experts = experts,
                         .mode = gpu_modes[f.mode],
                         .bits = (int)f.bits,
                         .group = (int)f.group,
                         .dtype = f.dtype == ZM_F32 ? ZMI_GPU_F32 : ZMI_GPU_BF16,
                         .digits = zmi_format_takes_digits(&f) ? zmi_format_digits(&f) : 0};
  m.packed = make(bytes * (size_t)experts);
  for (int e = 0; e < experts; e++) pack_one(&m, m.packed + (size_t)e * bytes, nature);
  m.g.packed = at(m.packed);
  if (bias_dtype >= 0) {
    m.bias = floats(bias_dtype, n * experts, PLAIN, &m.bias_values);
    m.g.bias = at(m.bias);
    m.g.bias_dtype = bias_dtype;
  }
  return m;
}

static inline void matrix_drop(matrix *m) {
  free(m->packed), free(m->bias), free(m->bias_values);
}

#endif
