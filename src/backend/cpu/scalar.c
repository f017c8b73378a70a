// The scalar tier: the definition of what every kernel computes (docs/numerics.md has it in formulas). All other tiers are tested against
// it bit by bit. It relies on the float rule of zmi_pool_run (denormals count as zero, round to nearest even) as they do.
#include "backend/cpu/rows.h"

// ---- affine dot products ----

// The code of k (inside a group) of one lane; `plane` from zmi_planes.
static int code_at(const int *plane, int64_t bits, const uint32_t *lane, int64_t k) {
  const uint32_t *unit = lane + k / 32 * bits * ZMI_LANES;
  int code = 0, done = 0, i = (int)(k % 32);
  for (; *plane; plane++) {
    int p = *plane, per_word = 32 / p;
    uint32_t word = unit[i / per_word * ZMI_LANES];
    code |= (int)(word >> (i % 4 * 8 + i % per_word / 4 * p) & ((1u << p) - 1)) << done;
    done += p;
    unit += p * ZMI_LANES;
  }
  return code;
}

static float scale_at(const void *p, int64_t dtype, int64_t lane) {
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(((const uint16_t *)p)[lane]) : ((const float *)p)[lane];
}

// Of one digit an activation: one exact sum a group.
static float affine_range_short(const zmi_format *f, const uint8_t *codes, const char *scales, size_t group_bytes, int64_t lane,
                                int64_t begin, int64_t end, int64_t k, const void *digits) {
  const float *scale = zmi_digits_scale(digits, k, 1), *sum = zmi_digits_sum(digits, k, f->group, 1);
  const size_t scale_bytes = ZMI_LANES * zm_dtype_size((zm_dtype)f->dtype);
  float acc = 0;
  for (int64_t at = begin; at < end; at += f->group, scales += group_bytes, codes += f->group) {
    int64_t g = at / f->group;
    int32_t D = 0;
    for (int64_t i = 0; i < f->group; i++) D += codes[i] * ((const int8_t *)digits + at)[i];
    acc = __builtin_fmaf(scale_at(scales, f->dtype, lane) * scale[g], (float)D, acc);
    acc = __builtin_fmaf(scale_at(scales + scale_bytes, f->dtype, lane), sum[g], acc);
  }
  return acc;
}

// What one range [begin, end) of k adds to y. codes: those of the lane, from `begin` on. scales: those of the range's first group.
static float affine_range(const zmi_format *f, const uint8_t *codes, const char *scales, size_t group_bytes, int64_t lane, int64_t begin,
                          int64_t end, int64_t k, const void *digits) {
  if (f->digits == 1) return affine_range_short(f, codes, scales, group_bytes, lane, begin, end, k, digits);
  const float *scale = zmi_digits_scale(digits, k, 3), *sum = zmi_digits_sum(digits, k, f->group, 3);
  const size_t scale_bytes = ZMI_LANES * zm_dtype_size((zm_dtype)f->dtype);
  float hi = 0, lo = 0;
  for (int64_t at = begin; at < end; at += f->group, scales += group_bytes, codes += f->group) {
    int64_t g = at / f->group;
    const int8_t *d = (const int8_t *)digits + 3 * at;
    int32_t D0 = 0, D1 = 0, D2 = 0;
    for (int64_t i = 0; i < f->group; i++) {
      D0 += codes[i] * d[i];
      D1 += codes[i] * d[f->group + i];
      D2 += codes[i] * d[2 * f->group + i];
    }
    float s = scale_at(scales, f->dtype, lane), b = scale_at(scales + scale_bytes, f->dtype, lane);
    hi = __builtin_fmaf(s * (scale[g] * 256.0f), __builtin_fmaf((float)D0, 256.0f, (float)D1), hi);
    lo = __builtin_fmaf(s * scale[g], (float)D2, lo);
    hi = __builtin_fmaf(b, sum[g], hi);
  }
  return hi + lo;
}

static void scalar_dot_affine(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *digits,
                              zm_dtype x_dtype, float *y, int64_t ldy) {
  (void)x_dtype;
  const size_t code_bytes = (size_t)(f->group * f->bits) * ZMI_LANES / 8;
  const size_t group_bytes = code_bytes + 2 * ZMI_LANES * zm_dtype_size((zm_dtype)f->dtype);
  const int *plane = zmi_planes(f->bits);
  uint8_t codes[ZMI_RANGE];
  for (int64_t row = 0; row < blocks * ZMI_LANES; row++) {
    const char *rows16 = (const char *)block + (size_t)(row / ZMI_LANES) * zmi_packed_block_bytes(f, k);
    int64_t lane = row % ZMI_LANES;
    float sum[ZMI_ROWS] = {0};
    for (int64_t begin = 0; begin < k; begin += ZMI_RANGE) {
      int64_t end = ZMI_MIN(begin + ZMI_RANGE, k);
      for (int64_t i = begin; i < end; i++) {
        const char *group = rows16 + (size_t)(i / f->group) * group_bytes;
        codes[i - begin] = (uint8_t)code_at(plane, f->bits, (const uint32_t *)(const void *)group + lane, i % f->group);
      }
      const char *scales = rows16 + (size_t)(begin / f->group) * group_bytes + code_bytes;
      for (int m = 0; m < rows; m++) sum[m] += affine_range(f, codes, scales, group_bytes, lane, begin, end, k, digits[m]);
    }
    for (int m = 0; m < rows; m++) y[m * ldy + row] = sum[m];
  }
}

// ---- dot products of 4-bit numbers: as affine ones, with twice the value for a code and without biases ----

// Scales of a group as the sums take them: 2^(v-127), 0 for the denormal 2^-127; of nvfp4 the value / 256.
static float number_scale(const zmi_format *f, uint8_t v) {
  if (f->mode == ZMI_QUANT_NVFP4) return zmi_e4m3_to_f32(v) * 0x1p-8f;
  return zmi_float((uint32_t)v << 23);
}

static void scalar_dot_fp4(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *digits,
                           zm_dtype x_dtype, float *y, int64_t ldy) {
  static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const float high = f->mode == ZMI_QUANT_NVFP4 ? 32768.0f : 128.0f, low = f->mode == ZMI_QUANT_NVFP4 ? 128.0f : 0.5f;
  const int count = zmi_format_digits(f);
  (void)x_dtype;
  for (int64_t row = 0; row < blocks * ZMI_LANES; row++) {
    const uint8_t *codes = (const uint8_t *)block + (size_t)(row / ZMI_LANES) * zmi_packed_block_bytes(f, k);
    const uint8_t *scales = codes + zmi_packed_code_bytes(f, k);
    const int64_t lane = row % ZMI_LANES;
    for (int m = 0; m < rows; m++) {
      float sum = 0;
      for (int64_t begin = 0; begin < k; begin += ZMI_RANGE) {
        float hi = 0, lo = 0;
        for (int64_t at = begin; at < ZMI_MIN(begin + ZMI_RANGE, k); at += f->group) {
          const int8_t *d = (const int8_t *)digits[m] + count * at;
          int32_t D[3] = {0};
          for (int64_t i = 0; i < f->group; i++) {
            const int byte = codes[((at + i) / 8 * ZMI_LANES + lane) * 4 + i % 4], code = i % 8 < 4 ? byte & 15 : byte >> 4;
            for (int p = 0; p < count; p++) D[p] += twice[code] * d[p * f->group + i];
          }
          const float s = number_scale(f, scales[at / f->group * ZMI_LANES + lane]);
          const float e = zmi_digits_scale(digits[m], k, count)[at / f->group];
          if (count == 1) {
            lo = __builtin_fmaf(s * (e * low), (float)D[0], lo);
            continue;
          }
          hi = __builtin_fmaf(s * (e * high), __builtin_fmaf((float)D[0], 256.0f, (float)D[1]), hi);
          lo = __builtin_fmaf(s * (e * low), (float)D[2], lo);
        }
        sum += hi + lo;
      }
      y[m * ldy + row] = sum;
    }
  }
}

// ---- dot products of 8-bit numbers: sums of even and odd elements for each group, scaled once ----

static void scalar_dot_fp8(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *x,
                           zm_dtype x_dtype, float *y, int64_t ldy) {
  (void)x_dtype;
  for (int64_t row = 0; row < blocks * ZMI_LANES; row++) {
    const uint8_t *codes = (const uint8_t *)block + (size_t)(row / ZMI_LANES) * zmi_packed_block_bytes(f, k);
    const uint8_t *scales = codes + zmi_packed_code_bytes(f, k);
    const int64_t lane = row % ZMI_LANES;
    for (int m = 0; m < rows; m++) {
      float sum = 0, acc = 0;
      for (int64_t at = 0; at < k; at += f->group) {
        const float *v = (const float *)x[m] + at;
        float even = 0, odd = 0;
        for (int64_t i = 0; i < f->group; i += 2) {
          const uint8_t *pair = codes + ((at + i) / 2 * ZMI_LANES + lane) * 2;
          even = __builtin_fmaf(zmi_e4m3_to_f32(pair[0]) * 0x1p-8f, v[i], even);
          odd = __builtin_fmaf(zmi_e4m3_to_f32(pair[1]) * 0x1p-8f, v[i + 1], odd);
        }
        if (at % ZMI_RANGE == 0) acc = 0;
        acc = __builtin_fmaf(zmi_float(ZMI_MIN(scales[at / f->group * ZMI_LANES + lane] + 8u, 255u) << 23), even + odd, acc);
        if ((at + f->group) % ZMI_RANGE == 0 || at + f->group == k) sum += acc;
      }
      y[m * ldy + row] = sum;
    }
  }
}

// ---- float dot products: pairs of k, the odd one first ----

static float float_at(const void *p, zm_dtype dtype, int64_t i) {
  if (dtype == ZM_F32) return ((const float *)p)[i];
  uint16_t v = ((const uint16_t *)p)[i];
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(v) : zmi_f16_to_f32(v);
}

static void scalar_dot_float(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *x,
                             zm_dtype x_dtype, float *y, int64_t ldy) {
  const zm_dtype w_dtype = (zm_dtype)f->dtype;
  for (int64_t row = 0; row < blocks * ZMI_LANES; row++) {
    const char *w = (const char *)block + (size_t)(row / ZMI_LANES) * zmi_packed_block_bytes(f, k);
    int64_t lane = row % ZMI_LANES;
    for (int m = 0; m < rows; m++) {
      float sum = 0;
      for (int64_t begin = 0; begin < k; begin += ZMI_RANGE) {
        float acc = 0;
        for (int64_t i = begin; i < ZMI_MIN(begin + ZMI_RANGE, k); i += 2) {
          float odd = i + 1 < k ? float_at(x[m], x_dtype, i + 1) : 0.0f; // of an odd k's last pair both halves are zero
          acc = __builtin_fmaf(float_at(w, w_dtype, i * ZMI_LANES + 2 * lane + 1), odd, acc);
          acc = __builtin_fmaf(float_at(w, w_dtype, i * ZMI_LANES + 2 * lane), float_at(x[m], x_dtype, i), acc);
        }
        sum += acc;
      }
      y[m * ldy + row] = sum;
    }
  }
}

// ---- products of bytes alone ----

static int64_t scalar_products(int64_t rounds, int32_t sink[ZMI_LANES]) {
  volatile int8_t digit = 127;
  memset(sink, 0, ZMI_LANES * sizeof *sink);
  for (int64_t r = 0; r < rounds; r++) {
    const int32_t d = digit; // read anew, or one product would do for all rounds
    for (int i = 0; i < ZMI_LANES; i++) sink[i] = (int32_t)((uint32_t)sink[i] + (uint32_t)(i * d));
  }
  return rounds * ZMI_LANES;
}

// ---- attention over one range of positions ----

static float score(const void *q, const void *keys, zm_dtype dtype, int64_t dim, int64_t t, float scale) {
  const int64_t first = t / ZMI_KEY_BLOCK * ZMI_KEY_BLOCK * dim + t % ZMI_KEY_BLOCK * 2; // of the pair {0, 1}; pair j stands 32 j further
  float sum = 0;
  for (int64_t begin = 0; begin < dim; begin += ZMI_RANGE) {
    float acc = 0;
    for (int64_t d = begin; d < ZMI_MIN(begin + ZMI_RANGE, dim); d += 2) {
      acc = __builtin_fmaf(float_at(keys, dtype, first + d * ZMI_KEY_BLOCK + 1), float_at(q, dtype, d + 1), acc);
      acc = __builtin_fmaf(float_at(keys, dtype, first + d * ZMI_KEY_BLOCK), float_at(q, dtype, d), acc);
    }
    sum += acc;
  }
  return scale * sum;
}

static void attend_one(const zmi_query *to, const void *keys, const void *values, zm_dtype dtype, int64_t dim, int64_t count, float scale) {
  float p[ZMI_KEY_RANGE] = {0};
  for (int64_t t = 0; t < count; t++) p[t] = score(to->q, keys, dtype, dim, t, scale);
  *to->max = row_max(p, count);
  *to->sum = exp_sum(p, count, *to->max);
  for (int64_t d = 0; d < dim; d++) to->acc[d] = 0;
  for (int64_t t = 0; t < count; t++) {
    for (int64_t d = 0; d < dim; d++) to->acc[d] = __builtin_fmaf(p[t], float_at(values, dtype, t * dim + d), to->acc[d]);
  }
}

static void scalar_attend(const zmi_query *query, int queries, const void *keys, const void *values, zm_dtype dtype, int64_t dim,
                          int64_t count, float scale, bool more) {
  (void)more;
  for (int i = 0; i < queries; i++) attend_one(&query[i], keys, values, dtype, dim, count, scale);
}

// ---- matrix products ----

static void scalar_gemm(const zmi_panels *a, int64_t rows, const zmi_panels *b, int64_t cols, int64_t k, float *c, int64_t ldc, bool add) {
  for (int64_t i = 0; i < rows; i++) {
    const float *x = a->data + i / ZMI_GEMM_ROWS * a->by_panel + i % ZMI_GEMM_ROWS * a->by_line;
    for (int64_t j = 0; j < cols; j += ZMI_GEMM_COLS) {
      const float *w = b->data + j / ZMI_GEMM_COLS * b->by_panel;
      const int64_t wide = ZMI_MIN(cols - j, ZMI_GEMM_COLS);
      float acc[ZMI_GEMM_COLS] = {0};
      for (int64_t q = 0; q < k; q++) {
        for (int64_t n = 0; n < wide; n++) acc[n] = __builtin_fmaf(x[q * a->by_k], w[q * b->by_k + n], acc[n]);
      }
      for (int64_t n = 0; n < wide; n++) {
        float *y = &c[i * ldc + j + n];
        *y = add ? *y + acc[n] : acc[n];
      }
    }
  }
}

static void scalar_gemm_columns(const float *const *line, int64_t k, float *out) {
  for (int64_t q = 0; q < k; q++) {
    for (int64_t i = 0; i < ZMI_GEMM_COLS; i++) out[q * ZMI_GEMM_COLS + i] = line[i][q];
  }
}

static void scalar_gemm_rows(const float *const *line, int64_t k, float *out) {
  for (int64_t q = 0; q < k; q++) {
    for (int64_t i = 0; i < ZMI_GEMM_ROWS; i++) out[q * ZMI_GEMM_ROWS + i] = line[i][q];
  }
}

static void scalar_gemm_across(const float *b, int64_t ldb, int64_t cols, int64_t k, float *out, int64_t pitch) {
  for (int64_t j = 0; j < cols; j += ZMI_GEMM_COLS) {
    for (int64_t q = 0; q < k; q++) {
      for (int64_t i = 0; i < ZMI_GEMM_COLS; i++)
        out[j / ZMI_GEMM_COLS * pitch + q * ZMI_GEMM_COLS + i] = j + i < cols ? b[q * ldb + j + i] : 0;
    }
  }
}

static void scalar_few_rows(const float *x, int64_t rows, const void *b, zm_dtype dtype, int64_t ldb, int64_t cols, int64_t k, float *acc,
                            int64_t ld) {
  for (int64_t q = 0; q < k; q++) {
    const char *row = (const char *)b + q * ldb * (int64_t)zm_dtype_size(dtype);
    for (int64_t i = 0; i < rows; i++) row_axpy(x[i * ZMI_RANGE + q], row, dtype, cols, acc + i * ld);
  }
}

static void scalar_few_lines(const float *x, int64_t rows, const void *b, zm_dtype dtype, int64_t ldb, int64_t lines, int64_t k, float *y,
                             int64_t ldy, bool add) {
  const int64_t size = (int64_t)zm_dtype_size(dtype), high = rows <= 2 ? rows : rows <= 4 ? 4 : 8;
  for (int64_t j = 0; j < lines; j++) {
    for (int64_t from = 0; from < k; from += ZMI_RANGE) {
      const int64_t n = ZMI_MIN(k - from, ZMI_RANGE);
      float line[ZMI_RANGE];
      row_load((const char *)b + (j * ldb + from) * size, dtype, n, line);
      for (int64_t i = 0; i < rows; i++) {
        float acc = 0, *at = &y[i * ldy + j];
        for (int64_t q = 0; q < n; q++) acc = __builtin_fmaf(x[from * high + i * ZMI_RANGE + q], line[q], acc);
        *at = from > 0 || add ? *at + acc : acc;
      }
    }
  }
}

// A stretch starts from its first element as it is, and what is not there is not added, in loops apart: of a choice between a sum and its
// term a compiler may make a sum with -0, which makes a denormal 0.
static void scalar_running_sums(const float *x, int64_t n, zmi_running *r, float *y, bool past) {
  enum { SUB = ZMI_RUNNING_SUB };
  (void)past;
  for (int64_t at = 0; at < n; at += SUB, x += SUB, y += SUB) {
    const int64_t places = ZMI_MIN(n - at, SUB);
    float p[SUB];
    p[0] = x[0];
    for (int64_t i = 1; i < places; i++) p[i] = p[i - 1] + x[i];
    const float last = p[places - 1];
    if (r->begun) {
      for (int64_t i = 0; i < places; i++) p[i] = r->chain + p[i];
    }
    if (r->carried) {
      for (int64_t i = 0; i < places; i++) y[i] = r->carry + p[i];
    } else {
      memcpy(y, p, (size_t)places * sizeof *p);
    }
    r->chain = r->begun ? r->chain + last : last;
    r->begun = true;
  }
}

const zmi_kernels zmi_kernels_scalar = {
    .name = "scalar",
    .dot = {[ZMI_QUANT_NONE] = scalar_dot_float,
            [ZMI_QUANT_AFFINE] = scalar_dot_affine,
            [ZMI_QUANT_MXFP4] = scalar_dot_fp4,
            [ZMI_QUANT_MXFP8] = scalar_dot_fp8,
            [ZMI_QUANT_NVFP4] = scalar_dot_fp4},
    .products = scalar_products,
    ZMI_ROW_KERNELS,
    .attend = scalar_attend,
    .gemm = scalar_gemm,
    .gemm_columns = scalar_gemm_columns,
    .gemm_rows = scalar_gemm_rows,
    .gemm_across = scalar_gemm_across,
    .few_rows = scalar_few_rows,
    .few_lines = scalar_few_lines,
    .running_sums = scalar_running_sums,
    .lanes = &zmi_lanes_scalar,
};
