// Products with packed matrices. A half-warp takes a unit: a range of k of a tile, a lane a row of the block. Its parts go through shared
// memory and are added from left to right. Loops are made for each format, so that there is nothing to decide inside.

enum { ZMI_GPU_UNITS = ZMI_GPU_DOT_SHARED / (4 * ZMI_GPU_LANES) }; // parts of 16 lanes in shared memory

// A unit of work as a lane sees it.
typedef struct zmi_gpu_unit {
  const zmi_gpu_matrix *m;
  const char *block, *x; // of 16 rows; the row of digits or of floats
  int lane, begin, end, x_dtype;
} zmi_gpu_unit;

// ---- digits ----

// Sums of products with 32 k, whose digits are d, d + group and d + 2 group.
template <int DIGITS, bool SIGNED> ZMI_INLINE void zmi_gpu_products(const unsigned code[8], const signed char *d, int group, int D[3]) {
  for (int p = 0; p < DIGITS; p++) {
    for (int h = 0; h < 2; h++) {
      const zmi_gpu_four x = ((const zmi_gpu_four *)(d + p * group))[h];
      for (int j = 0; j < 4; j++) {
        const unsigned c = code[4 * h + j];
        D[p] = SIGNED ? zmi_dot_ss((int)c, x.a[j], D[p]) : zmi_dot_us(c, x.a[j], D[p]);
      }
    }
  }
}

// What a group of affine weights adds: sums of digits D, scale e of the digits and `sum` of their x, scale and bias of the weights.
template <int DIGITS> ZMI_INLINE void zmi_gpu_add_group(const int D[3], float e, float sum, float scale, float bias, float *hi, float *lo) {
  if (DIGITS == 1) {
    *hi = zk_fma(scale * e, (float)D[0], *hi);
  } else {
    *hi = zk_fma(scale * (e * 256.0f), zk_fma((float)D[0], 256.0f, (float)D[1]), *hi);
    *lo = zk_fma(scale * e, (float)D[2], *lo);
  }
  *hi = zk_fma(bias, sum, *hi);
}

// Some units of 32 k of a range are asked for together: what takes time is the way to memory, so many requests have to be on it at once.
// MOST: units of up to 4 bits.
template <int BITS, int DIGITS, int MOST> ZMI_INLINE float zmi_gpu_affine_range(const zmi_gpu_unit *u) {
  enum { WORDS = BITS * ZMI_GPU_LANES, AHEAD = BITS <= 4 ? MOST : MOST / 2 };
  const zmi_gpu_matrix *m = u->m;
  const int group = m->group, shift = group == 32 ? 0 : group == 64 ? 1 : 2, scale_bytes = ZMI_GPU_LANES * zmi_gpu_size(m->dtype);
  const int code_bytes = WORDS * 4 << shift, group_bytes = code_bytes + 2 * scale_bytes;
  const float *scale = (const float *)(u->x + (long long)DIGITS * m->k), *sum = scale + (m->k >> (shift + 5));
  float hi = 0.0f, lo = 0.0f;
  int D[3] = {0, 0, 0};
  for (int k = u->begin; k < u->end; k += 32 * AHEAD) {
    unsigned word[AHEAD][BITS];
    unsigned s[AHEAD], b[AHEAD];
    for (int i = 0; i < AHEAD; i++) {
      const int unit = (k + 32 * i < u->end ? k : u->end - 32 * (i + 1)) / 32 + i; // past the end: what is there, again
      const char *at = u->block + (long long)(unit >> shift) * group_bytes;
      const unsigned *w = (const unsigned *)at + (unit & ((1 << shift) - 1)) * WORDS + u->lane;
      for (int j = 0; j < BITS; j++) word[i][j] = w[j * ZMI_GPU_LANES];
      s[i] = zmi_gpu_bits((zmi_gpu_address)(at + code_bytes), m->dtype, u->lane);
      b[i] = zmi_gpu_bits((zmi_gpu_address)(at + code_bytes + scale_bytes), m->dtype, u->lane);
    }
    for (int i = 0; i < AHEAD; i++) {
      const int at = k + 32 * i, g = at >> (shift + 5);
      unsigned code[8];
      if (at >= u->end) break;
      zmi_gpu_codes<BITS>(word[i], code);
      zmi_gpu_products<DIGITS, false>(code, (const signed char *)u->x + (long long)DIGITS * (g * group) + (at & (group - 1)), group, D);
      if (((at + 32) & (group - 1)) != 0) continue; // the group goes on
      zmi_gpu_add_group<DIGITS>(D, scale[g], sum[g], zmi_gpu_value(s[i], m->dtype), zmi_gpu_value(b[i], m->dtype), &hi, &lo);
      D[0] = D[1] = D[2] = 0;
    }
  }
  return DIGITS == 1 ? hi : hi + lo;
}

// The products of half a unit of nvfp4, whose group is 16 k: two words.
template <int DIGITS> ZMI_INLINE void zmi_gpu_products_16(const unsigned code[4], const signed char *d, int D[3]) {
  for (int p = 0; p < DIGITS; p++) {
    const zmi_gpu_four x = *(const zmi_gpu_four *)(d + 16 * p);
    for (int j = 0; j < 4; j++) D[p] = zmi_dot_ss((int)code[j], x.a[j], D[p]);
  }
}

template <bool NV, int DIGITS> ZMI_INLINE float zmi_gpu_fp4_range(const zmi_gpu_unit *u) {
  enum { GROUP = NV ? 16 : 32, WORDS = GROUP / 8 };
  const float high = NV ? 32768.0f : 128.0f, low = NV ? 128.0f : 0.5f;
  const zmi_gpu_matrix *m = u->m;
  const float *scale = (const float *)(u->x + (long long)DIGITS * m->k);
  const unsigned char *scales = (const unsigned char *)u->block + m->code_bytes + u->lane;
  float hi = 0.0f, lo = 0.0f;
  for (int k = u->begin; k < u->end; k += GROUP) {
    const unsigned *word = (const unsigned *)u->block + (long long)(k / 8) * ZMI_GPU_LANES + u->lane;
    const signed char *d = (const signed char *)u->x + (long long)DIGITS * k;
    const unsigned v = scales[k / GROUP * ZMI_GPU_LANES];
    const float s = NV ? zmi_gpu_e4m3(v, -8) : zk_of_bits(v << 23), e = scale[k / GROUP];
    unsigned code[2 * WORDS], w[WORDS];
    int D[3] = {0, 0, 0};
    for (int i = 0; i < WORDS; i++) w[i] = word[i * ZMI_GPU_LANES];
    for (int i = 0; i < WORDS; i++) {
      code[2 * i] = (unsigned)zmi_gpu_twice(w[i] & 0x0f0f0f0fu);
      code[2 * i + 1] = (unsigned)zmi_gpu_twice(w[i] >> 4 & 0x0f0f0f0fu);
    }
    if (NV)
      zmi_gpu_products_16<DIGITS>(code, d, D);
    else
      zmi_gpu_products<DIGITS, true>(code, d, GROUP, D);
    if (DIGITS == 1) {
      lo = zk_fma(s * (e * low), (float)D[0], lo);
    } else {
      hi = zk_fma(s * (e * high), zk_fma((float)D[0], 256.0f, (float)D[1]), hi);
      lo = zk_fma(s * (e * low), (float)D[2], lo);
    }
  }
  return hi + lo;
}

// ---- floats ----

ZMI_INLINE float zmi_gpu_fp8_range(const zmi_gpu_unit *u) {
  const zmi_gpu_address x = (zmi_gpu_address)u->x;
  const unsigned char *scales = (const unsigned char *)u->block + u->m->code_bytes + u->lane;
  float acc = 0.0f;
  for (int k = u->begin; k < u->end; k += 32) {
    const unsigned short *pair = (const unsigned short *)u->block + (long long)(k / 2) * ZMI_GPU_LANES + u->lane;
    const unsigned s = scales[k / 32 * ZMI_GPU_LANES] + 8u;
    unsigned codes[16];
    float even = 0.0f, odd = 0.0f;
    for (int i = 0; i < 16; i++) codes[i] = pair[i * ZMI_GPU_LANES];
    for (int i = 0; i < 16; i++) {
      even = zk_fma(zmi_gpu_e4m3(codes[i] & 255u, -8), zmi_gpu_load(x, u->x_dtype, k + 2 * i), even);
      odd = zk_fma(zmi_gpu_e4m3(codes[i] >> 8, -8), zmi_gpu_load(x, u->x_dtype, k + 2 * i + 1), odd);
    }
    acc = zk_fma(zk_of_bits((s > 255u ? 255u : s) << 23), even + odd, acc);
  }
  return acc;
}

// A pair of float weights.
template <bool WIDE> ZMI_INLINE void zmi_gpu_pair(const char *block, long long i, float w[2]) {
  if (WIDE) {
    w[0] = ((const float *)block)[2 * i];
    w[1] = ((const float *)block)[2 * i + 1];
  } else {
    const unsigned both = ((const unsigned *)block)[i];
    w[0] = zk_of_bits(both << 16);
    w[1] = zk_of_bits(both & 0xffff0000u);
  }
}

template <bool WIDE> ZMI_INLINE float zmi_gpu_float_range(const zmi_gpu_unit *u) {
  const zmi_gpu_address x = (zmi_gpu_address)u->x;
  float acc = 0.0f, w[8][2];
  int k = u->begin;
  for (; k + 16 <= u->end; k += 16) {
    for (int i = 0; i < 8; i++) zmi_gpu_pair<WIDE>(u->block, (long long)(k / 2 + i) * ZMI_GPU_LANES + u->lane, w[i]);
    for (int i = 0; i < 8; i++) {
      acc = zk_fma(w[i][1], zmi_gpu_load(x, u->x_dtype, k + 2 * i + 1), acc);
      acc = zk_fma(w[i][0], zmi_gpu_load(x, u->x_dtype, k + 2 * i), acc);
    }
  }
  for (; k < u->end; k += 2) { // of an odd k's last pair both halves are zero
    zmi_gpu_pair<WIDE>(u->block, (long long)(k / 2) * ZMI_GPU_LANES + u->lane, w[0]);
    acc = zk_fma(w[0][1], k + 1 < u->end ? zmi_gpu_load(x, u->x_dtype, k + 1) : 0.0f, acc);
    acc = zk_fma(w[0][0], zmi_gpu_load(x, u->x_dtype, k), acc);
  }
  return acc;
}

// ---- all formats ----

template <int DIGITS, int MOST> ZMI_INLINE float zmi_gpu_digit_range(const zmi_gpu_unit *u) {
  if (u->m->mode == ZMI_GPU_MXFP4) return zmi_gpu_fp4_range<false, DIGITS>(u);
  if (u->m->mode == ZMI_GPU_NVFP4) return zmi_gpu_fp4_range<true, DIGITS>(u);
  switch (u->m->bits) {
  case 2:
    return zmi_gpu_affine_range<2, DIGITS, MOST>(u);
  case 3:
    return zmi_gpu_affine_range<3, DIGITS, MOST>(u);
  case 4:
    return zmi_gpu_affine_range<4, DIGITS, MOST>(u);
  case 5:
    return zmi_gpu_affine_range<5, DIGITS, MOST>(u);
  case 6:
    return zmi_gpu_affine_range<6, DIGITS, MOST>(u);
  default:
    return zmi_gpu_affine_range<8, DIGITS, MOST>(u);
  }
}

template <int MOST> ZMI_INLINE float zmi_gpu_range_of(const zmi_gpu_unit *u) {
  if (u->m->digits == 3) return zmi_gpu_digit_range<3, MOST>(u);
  if (u->m->digits == 1) return zmi_gpu_digit_range<1, MOST>(u);
  if (u->m->mode == ZMI_GPU_MXFP8) return zmi_gpu_fp8_range(u);
  return u->m->dtype == ZMI_GPU_F32 ? zmi_gpu_float_range<true>(u) : zmi_gpu_float_range<false>(u);
}

ZMI_INLINE int zmi_gpu_chosen(const zmi_gpu_dot *d, int pair) {
  const int expert = d->chosen ? zmi_gpu_at<const int>(d->chosen)[pair] : 0;
  return expert >= 0 && expert < d->matrix.experts ? expert : -1;
}

ZMI_INLINE void zmi_gpu_dot_store(const zmi_gpu_dot *d, int tile, int lane, float y) {
  const int pair = tile / d->blocks, row = tile % d->blocks * ZMI_GPU_LANES + lane, expert = zmi_gpu_chosen(d, pair);
  if (row >= d->matrix.n) return;
  if (expert >= 0 && d->matrix.bias) y = y + zmi_gpu_load(d->matrix.bias, d->matrix.bias_dtype, (long long)expert * d->matrix.n + row);
  zmi_gpu_store(d->out, d->dtype, pair * d->out_stride + row, expert < 0 ? 0.0f : y);
}

// The parts of units: unit i is range first + i % ranges of tile `tile` + i / ranges * workers.
ZMI_INLINE void zmi_gpu_dot_parts(const zmi_gpu_dot *d, const char *x, int tile, int workers, int units, int ranges, int first,
                                  float *parts) {
  const int lane = zmi_thread() % ZMI_GPU_LANES;
  for (int i = zmi_thread() / ZMI_GPU_LANES; i < units; i += ZMI_GPU_THREADS / ZMI_GPU_LANES) {
    const int t = tile + i / ranges * workers, pair = t / d->blocks, expert = zmi_gpu_chosen(d, pair);
    if (expert < 0) continue; // its parts are not read
    zmi_gpu_unit u;
    u.m = &d->matrix;
    u.block = zmi_gpu_block_of(&d->matrix, expert, t % d->blocks);
    u.x = x + pair / d->share * d->x_bytes;
    u.lane = lane;
    u.begin = (first + i % ranges) * ZMI_GPU_RANGE;
    u.end = u.begin + ZMI_GPU_RANGE < d->matrix.k ? u.begin + ZMI_GPU_RANGE : d->matrix.k;
    u.x_dtype = d->x_dtype;
    parts[i * ZMI_GPU_LANES + lane] = zmi_gpu_range_of<8>(&u);
  }
}

// With rows at x.
ZMI_INLINE void zmi_gpu_dot_with(const zmi_gpu_instruction *in, const char *x, int worker, int workers, char *shared) {
  const zmi_gpu_dot *d = &in->as.dot;
  const int ranges = (d->matrix.k + ZMI_GPU_RANGE - 1) / ZMI_GPU_RANGE, t = zmi_thread(), lane = t % ZMI_GPU_LANES;
  const int together = ranges > ZMI_GPU_UNITS / 2 ? 1 : ZMI_GPU_UNITS / (ranges > 4 ? ranges : 4); // at most 16: a thread stores one result
  float *parts = (float *)shared;
  for (int tile = worker; tile < in->tiles; tile += together * workers) {
    const int left = (in->tiles - tile + workers - 1) / workers, tiles = left < together ? left : together;
    float y = 0.0f;
    for (int first = 0; first < ranges; first += ZMI_GPU_UNITS) { // more than one turn: of one tile
      const int now = ranges - first < ZMI_GPU_UNITS ? ranges - first : ZMI_GPU_UNITS;
      zmi_gpu_dot_parts(d, x, tile, workers, tiles * now, now, first, parts);
      zmi_sync();
      if (t < tiles * ZMI_GPU_LANES) {
        for (int i = 0; i < now; i++) y = y + parts[(t / ZMI_GPU_LANES * now + i) * ZMI_GPU_LANES + lane];
      }
      zmi_sync();
    }
    if (t < tiles * ZMI_GPU_LANES) zmi_gpu_dot_store(d, tile + t / ZMI_GPU_LANES * workers, lane, y);
  }
}

ZMI_INLINE void zmi_gpu_dot_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  zmi_gpu_dot_with(in, zmi_gpu_at<const char>(in->as.dot.x), worker, workers, shared);
}
