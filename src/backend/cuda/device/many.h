// Products of many rows: a block takes 256 rows of weights and up to 32 rows of x, in steps of 128 or 256 k that come to shared memory
// while the steps before are multiplied, and integer tensor cores make the sums of each group. Those are exact in any order; what is done
// with them is done for each result as docs/numerics.md has it.
//
// A warp takes four blocks of 16 rows of weights and two tiles of 8 rows of x: eight warps are four by two. Where an instruction would have
// few tiles they take half as many rows of weights: two by four warps, a tile of x each. In fragments, row r of weights is row r / 2 of the
// first half of a tile, or (odd ones) of the second, so that a lane has two neighbours; and lane l has k 8 (l % 4) .. + 7 of each 32, as it
// finds them in the words of packed codes: with the same k of weights and of x any order will do.

// M: zmi_gpu_mode; UNITS: of 32 k in a group. SCALES: bytes of shared memory for those of a block and group.
template <int M, int B, int D, int UNITS_OF_GROUP> struct zmi_gpu_form {
  enum {
    AFFINE = M == ZMI_GPU_AFFINE,
    NV = M == ZMI_GPU_NVFP4,
    BITS = B,
    DIGITS = D,
    UNITS = UNITS_OF_GROUP,
    GROUP = NV ? 16 : 32 * UNITS_OF_GROUP,
    STEP = ZMI_GPU_MANY_STEP(B, GROUP),
    GROUPS = STEP / GROUP,
    ROW = ZMI_GPU_MANY_ROW(STEP, D),
    CODES = STEP * 2 * B,
    SCALES = ZMI_GPU_MANY_SCALES(GROUP),
    // Where the parts of a stage begin.
    SCALES_AT = ZMI_GPU_MANY_BLOCKS * CODES,
    DIGITS_AT = SCALES_AT + ZMI_GPU_MANY_BLOCKS * GROUPS * SCALES,
    FACTORS_AT = DIGITS_AT + ZMI_GPU_MANY_COLUMNS * ROW,
    // A warp brings 32 pieces of 16 bytes of codes at a time, which are so many units; 0: not whole ones.
    CHUNKS = 4 * BITS,
    AT_A_TIME = 32 % CHUNKS == 0 ? 32 / CHUNKS : 0
  };
};

// Of a warp: blocks of 16 rows of weights, tiles of 8 rows of x.
// OUT: from one row of results to the next in shared memory: four of them lie in different banks.
enum { ZMI_GPU_MANY_HIGH = 4, ZMI_GPU_MANY_WIDE = 2, ZMI_GPU_MANY_OUT = ZMI_GPU_MANY_BLOCKS * ZMI_GPU_LANES + 4 };

// A tile of the instruction, as a thread sees it: in registers, as what lies in memory would be read again after every copy.
typedef struct zmi_gpu_many_tile {
  // What this thread brings of the first step: of its block of weights and of its row of digits, absent if there are none; and where that
  // goes in a stage.
  const char *weights, *code_scales, *x;
  unsigned weights_to, x_to, factors; // factors: from x to the first scale or sum
  unsigned group_bytes;               // of weights
  unsigned long long eight;           // bytes of eight blocks: a warp brings every eighth
  int mine;                           // how many
  int k, first, count, dtype;         // first: block of 16 rows; count: rows of x; dtype: of scales
  // Warps above one another: four, or two, whose neighbours take the other tiles of x. The first block and row of x that this one takes.
  int up, block, column;
} zmi_gpu_many_tile;

ZMI_INLINE unsigned zmi_gpu_many_lane() {
  return (unsigned)zmi_thread() & 31u;
}
ZMI_INLINE unsigned zmi_gpu_many_warp() {
  return (unsigned)zmi_thread() / 32u;
}

// ---- bringing a step ----

// Where 16 bytes of codes go within a unit of 32 k: words of 16 rows that the lanes of a half-warp read at a time, of four words and four
// pairs of rows, lie in different banks. word: of the unit; part: which four rows.
template <int BITS> ZMI_INLINE unsigned zmi_gpu_many_place(unsigned word, unsigned part) {
  enum { P = BITS >= 8 ? 8 : BITS >= 4 ? 4 : 2, REST = BITS - P };
  const unsigned half = part / 2, side = part % 2 * 16;
  if (P == 8) return word % 2 * 256 + half * 128 + word / 2 * 32 + side;
  if (REST == 0 || word < P) return half * (32 * P) + word * 32 + side;
  return P * 64 + half * (32 * REST) + (word - P) * 32 + side;
}

// Piece j of the codes of a block and step: where it is in the matrix, and where it goes.
template <typename F> ZMI_INLINE unsigned zmi_gpu_many_from(unsigned j, unsigned group_bytes) {
  const unsigned unit = j / F::CHUNKS;
  return unit / F::UNITS * group_bytes + unit % F::UNITS * (64 * F::BITS) + j % F::CHUNKS * 16;
}
template <typename F> ZMI_INLINE unsigned zmi_gpu_many_to(unsigned j) {
  return j / F::CHUNKS * (64 * F::BITS) + zmi_gpu_many_place<F::BITS>(j % F::CHUNKS / 4, j % 4);
}

// A warp brings a block of weights, from its thread's place `from`, to `to`. n: k of the step.
template <typename F> ZMI_INLINE void zmi_gpu_many_ask_codes(unsigned group_bytes, const char *from, int n, char *to) {
  enum { ALL = F::STEP / 32 * F::CHUNKS, EACH = F::AT_A_TIME };
  const unsigned lane = zmi_gpu_many_lane();
#pragma unroll
  for (int i = 0; i < (ALL + 31) / 32; i++) {
    const unsigned j = lane + 32u * (unsigned)i, unit = j / F::CHUNKS;
    if ((ALL % 32 != 0 && j >= ALL) || (int)(unit * 32 + (F::NV ? j % F::CHUNKS / 4 * 8 : 0)) >= n) continue;
    if (EACH > 0)
      zmi_copy_async(to + i * EACH * 64 * F::BITS, from + i * EACH / F::UNITS * group_bytes + i * EACH % F::UNITS * 64 * F::BITS);
    else
      zmi_copy_async(to + zmi_gpu_many_to<F>(j), from + zmi_gpu_many_from<F>(j, group_bytes));
  }
}

// Its scales and biases, or scales of one byte. half: pieces of 16 bytes that 16 of them take.
template <typename F> ZMI_INLINE void zmi_gpu_many_ask_scales(unsigned group_bytes, unsigned half, const char *from, int n, char *to) {
  const unsigned lane = zmi_gpu_many_lane();
  if (!F::AFFINE) {
    if ((int)lane * F::GROUP < n) zmi_copy_async(to + lane * F::SCALES, from + lane * 16);
    return;
  }
  if (lane >= 2 * half) return;
  to += lane * 16 + (lane >= half ? 64 - half * 16 : 0);
#pragma unroll
  for (int g = 0; g < F::GROUPS; g++) {
    if (g * F::GROUP < n) zmi_copy_async(to + g * F::SCALES, from + (unsigned)g * group_bytes);
  }
}

template <typename F> ZMI_INLINE void zmi_gpu_many_ask_weights(const zmi_gpu_many_tile *w, int k, int n, char *stage) {
  enum { CODES = F::UNITS * 64 * F::BITS };
  const unsigned half = w->dtype == ZMI_GPU_F32 ? 4u : 2u;
  const unsigned long long step = (unsigned long long)((unsigned)k / (32 * F::UNITS)) * w->group_bytes;
  const char *from = w->weights + step;
  char *scales = stage + F::SCALES_AT + zmi_gpu_many_warp() * (F::GROUPS * F::SCALES);
#pragma unroll
  for (int b = 0; b < ZMI_GPU_MANY_BLOCKS / 8; b++) {
    if (b && b >= w->mine) break;
    zmi_gpu_many_ask_codes<F>(w->group_bytes, from, n, stage + w->weights_to + b * 8 * F::CODES);
    const char *at = F::AFFINE ? from + CODES + (F::AT_A_TIME > 0 ? 0 : zmi_gpu_many_lane() * 16)
                               : w->code_scales + b * w->eight + (unsigned)k / F::GROUP * 16;
    zmi_gpu_many_ask_scales<F>(w->group_bytes, half, at, n, scales + b * 8 * F::GROUPS * F::SCALES);
    from += w->eight;
  }
}

// Eight threads bring a row of digits.
template <typename F> ZMI_INLINE void zmi_gpu_many_ask(const zmi_gpu_many_tile *w, int k, char *stage) {
  const int left = w->k - k, n = left < F::STEP ? left : F::STEP;
  const unsigned part = (unsigned)zmi_thread() % 8u;
  if (w->weights) zmi_gpu_many_ask_weights<F>(w, k, n, stage);
  if (!w->x) return;
  const char *from = w->x + (unsigned)k * F::DIGITS;
  char *to = stage + w->x_to;
#pragma unroll
  for (int i = 0; i < F::DIGITS * F::STEP / 128; i++) {
    if ((int)part * 16 + i * 128 < n * F::DIGITS) zmi_copy_async(to + i * 128, from + i * 128);
  }
  // Scales and sums of the row's groups: thread 2 g the one, thread 2 g + 1 the other.
  char *factors = stage + F::FACTORS_AT + part * (ZMI_GPU_MANY_COLUMNS * 4) + (unsigned)zmi_thread() / 8u * 4;
#pragma unroll
  for (int i = 0; i < F::GROUPS; i += 4) {
    const int g = (int)part / 2 + i;
    if ((F::GROUPS >= 4 || g < F::GROUPS) && g * F::GROUP < n)
      zmi_copy_word_async(factors + i * 2 * ZMI_GPU_MANY_COLUMNS * 4, w->x + w->factors + (unsigned)k / F::GROUP * 4 + i * 4);
  }
}

// ---- multiplying a group ----

// Codes of a unit that a lane has in its fragment: of two rows, each k 8 (l % 4) .. + 3 and the next four.
template <int BITS> ZMI_INLINE void zmi_gpu_many_affine(const char *unit, unsigned a[4]) {
  enum { P = BITS >= 8 ? 8 : BITS >= 4 ? 4 : 2, REST = BITS - P };
  const int lane = zmi_thread() & 31, c = lane % 4, half = lane / 16, rows = lane / 4 % 4 * 8;
  if (P == 8) {
    const char *at = unit + half * 128 + c * 32 + rows;
    const zmi_gpu_two low = *(const zmi_gpu_two *)(const void *)at, high = *(const zmi_gpu_two *)(const void *)(at + 256);
    for (int r = 0; r < 2; r++) a[r] = low.a[r], a[2 + r] = high.a[r];
    return;
  }
  const int shift = P == 4 ? 0 : c % 2 * 4;
  const unsigned mask = ((1u << P) - 1u) * 0x01010101u;
  const zmi_gpu_two w = *(const zmi_gpu_two *)(const void *)(unit + half * (32 * P) + c * P / 4 * 32 + rows);
  for (int r = 0; r < 2; r++) a[r] = w.a[r] >> shift & mask, a[2 + r] = w.a[r] >> (shift + P) & mask;
  if (REST == 0) return;
  const int more = REST == 2 ? c % 2 * 4 : 2 * c;
  const unsigned bits = ((1u << REST) - 1u) * 0x01010101u;
  const zmi_gpu_two v = *(const zmi_gpu_two *)(const void *)(unit + P * 64 + half * (32 * REST) + (REST == 2 ? c / 2 * 32 : 0) + rows);
  for (int r = 0; r < 2; r++) {
    a[r] |= (v.a[r] >> more & bits) << P;
    a[2 + r] |= (v.a[r] >> (more + REST) & bits) << P;
  }
}

// Numbers of 4 bits, doubled. `half`: of a group of 16 k, which is half a unit, the other half counts nothing.
template <bool NV> ZMI_INLINE void zmi_gpu_many_fp4(const char *unit, int half, unsigned a[4]) {
  const int lane = zmi_thread() & 31, c = lane % 4;
  const zmi_gpu_two w = *(const zmi_gpu_two *)(const void *)(unit + lane / 16 * 128 + c * 32 + lane / 4 % 4 * 8);
  for (int r = 0; r < 2; r++) {
    const bool counts = !NV || c / 2 == half;
    a[r] = counts ? (unsigned)zmi_gpu_twice(w.a[r] & 0x0f0f0f0fu) : 0u;
    a[2 + r] = counts ? (unsigned)zmi_gpu_twice(w.a[r] >> 4 & 0x0f0f0f0fu) : 0u;
  }
}

// What scales the sums of a group: of two rows of weights.
typedef struct zmi_gpu_many_rows {
  float scale[2], bias[2];
} zmi_gpu_many_rows;

// The numbers of a lane's two rows among 16 of a dtype; branches would keep loads from being asked for together.
ZMI_INLINE void zmi_gpu_many_two(const char *at, int dtype, float v[2]) {
  const unsigned pair = zmi_gpu_many_lane() / 4, first = dtype == ZMI_GPU_F32 ? pair * 8 : pair * 4, shift = dtype == ZMI_GPU_F32 ? 0 : 16;
  const unsigned mask = dtype == ZMI_GPU_F32 ? 0xffffffffu : 0xffff0000u, second = dtype == ZMI_GPU_F32 ? first + 4 : first;
  v[0] = zk_of_bits(*(const unsigned *)(const void *)(at + first) << shift);
  v[1] = zk_of_bits(*(const unsigned *)(const void *)(at + second) & mask);
}

template <typename F> ZMI_INLINE void zmi_gpu_many_rows_of(int dtype, const char *scales, zmi_gpu_many_rows *r) {
  if (F::AFFINE) {
    zmi_gpu_many_two(scales, dtype, r->scale);
    zmi_gpu_many_two(scales + 64, dtype, r->bias);
    return;
  }
  for (int i = 0; i < 2; i++) {
    const unsigned v = ((const unsigned char *)scales)[zmi_gpu_many_lane() / 4 * 2 + (unsigned)i];
    r->scale[i] = F::NV ? zmi_gpu_e4m3(v, -8) : zk_of_bits(v << 23);
  }
}

// The last plane's sums begin at the bits of 1.5 2^23 and stay within 2^22 of it: as a float, less that, they are what they are. That is
// cheaper than a conversion.
enum { ZMI_GPU_MANY_ZERO = 0x4b400000 };
ZMI_INLINE float zmi_gpu_many_float(int sum) {
  return zk_of_bits((unsigned)sum) - 12582912.0f;
}

// Results i of a fragment: row i / 2, column i % 2. 256 D0 + D1 is below 2^31: made a float, it is rounded once, as the multiply-add of the
// two is.
template <typename F>
ZMI_INLINE void zmi_gpu_many_add(const int D[F::DIGITS][4], const zmi_gpu_many_rows *r, const float e[2], const float sum[2], float hi[4],
                                 float lo[4]) {
  const bool affine = F::AFFINE != 0;
  const float high = affine ? 256.0f : F::NV ? 32768.0f : 128.0f, low = F::NV ? 128.0f : 0.5f;
  for (int i = 0; i < 4; i++) {
    const float s = r->scale[i / 2], el = affine ? e[i % 2] : e[i % 2] * low;
    if (F::DIGITS == 1) {
      float *to = affine ? &hi[i] : &lo[i];
      *to = zk_fma(s * el, zmi_gpu_many_float(D[0][i]), *to);
    } else {
      hi[i] = zk_fma(s * (e[i % 2] * high), (float)(D[0][i] * 256 + D[F::DIGITS / 2][i]), hi[i]);
      lo[i] = zk_fma(s * el, zmi_gpu_many_float(D[F::DIGITS - 1][i]), lo[i]);
    }
    if (affine) hi[i] = zk_fma(r->bias[i / 2], sum[i % 2], hi[i]);
  }
}

// Running sums of a lane.
typedef struct zmi_gpu_many_sums {
  float hi[ZMI_GPU_MANY_WIDE][ZMI_GPU_MANY_HIGH][4], lo[ZMI_GPU_MANY_WIDE][ZMI_GPU_MANY_HIGH][4],
      y[ZMI_GPU_MANY_WIDE][ZMI_GPU_MANY_HIGH][4];
} zmi_gpu_many_sums;

template <typename F> ZMI_INLINE void zmi_gpu_many_codes(const char *stage, int block, int g, int u, unsigned a[4]) {
  const int unit = F::NV ? g / 2 : g * F::UNITS + u;
  const char *at = stage + block * F::CODES + unit * (64 * F::BITS);
  if (F::AFFINE)
    zmi_gpu_many_affine<F::BITS>(at, a);
  else
    zmi_gpu_many_fp4<F::NV != 0>(at, g % 2, a);
}

// Digits of a unit of group g: a lane has column l / 4 of a tile.
template <typename F> ZMI_INLINE zmi_gpu_two zmi_gpu_many_x(const char *row, int g, int u, int p) {
  const int c = zmi_thread() & 3;
  const char *at = row + g * F::GROUP * F::DIGITS + p * F::GROUP + u * 32 + c * 8;
  if (F::NV) at = row + (g / 2 * 2 + c / 2) * 16 * F::DIGITS + p * 16 + c % 2 * 8;
  return *(const zmi_gpu_two *)(const void *)at;
}

// Group g of a step. tiles: of 8 rows of x.
template <typename F>
ZMI_INLINE void zmi_gpu_many_group(const zmi_gpu_many_tile *w, const char *stage, int g, int tiles, zmi_gpu_many_sums *sums) {
  const unsigned lane = zmi_gpu_many_lane(), column = (unsigned)w->column;
  const int block = w->block, dtype = w->dtype;
  const char *digits = stage + F::DIGITS_AT + (column + lane / 4) * F::ROW;
  const float *factors = (const float *)(const void *)(stage + F::FACTORS_AT + (column + lane % 4 * 2) * 4) + g * 2 * ZMI_GPU_MANY_COLUMNS;
  zmi_gpu_many_rows rows[ZMI_GPU_MANY_HIGH];
  for (int r = 0; r < ZMI_GPU_MANY_HIGH; r++)
    zmi_gpu_many_rows_of<F>(dtype, stage + F::SCALES_AT + ((block + r) * F::GROUPS + g) * F::SCALES, &rows[r]);
#pragma unroll
  for (int c = 0; c < ZMI_GPU_MANY_WIDE; c++) {
    if (c >= tiles) break;
    int D[ZMI_GPU_MANY_HIGH][F::DIGITS][4] = {};
    for (int r = 0; r < ZMI_GPU_MANY_HIGH; r++) {
      for (int i = 0; i < 4; i++) D[r][F::DIGITS - 1][i] = ZMI_GPU_MANY_ZERO;
    }
#pragma unroll
    for (int u = 0; u < F::UNITS; u++) {
      zmi_gpu_two x[F::DIGITS];
      for (int p = 0; p < F::DIGITS; p++) x[p] = zmi_gpu_many_x<F>(digits + c * 8 * F::ROW, g, u, p);
      for (int r = 0; r < ZMI_GPU_MANY_HIGH; r++) {
        unsigned a[4];
        zmi_gpu_many_codes<F>(stage, block + r, g, u, a);
        for (int p = 0; p < F::DIGITS; p++) {
          if (F::AFFINE)
            zmi_tile_us(D[r][p], a, x[p].a);
          else
            zmi_tile_ss(D[r][p], a, x[p].a);
        }
      }
    }
    const float e[2] = {factors[c * 8], factors[c * 8 + 1]};
    const float sum[2] = {factors[ZMI_GPU_MANY_COLUMNS + c * 8], factors[ZMI_GPU_MANY_COLUMNS + c * 8 + 1]};
    for (int r = 0; r < ZMI_GPU_MANY_HIGH; r++) zmi_gpu_many_add<F>(D[r], &rows[r], e, sum, sums->hi[c][r], sums->lo[c][r]);
  }
}

// ---- a tile ----

// The end of a range.
template <typename F> ZMI_INLINE void zmi_gpu_many_part(zmi_gpu_many_sums *s) {
#pragma unroll
  for (int c = 0; c < ZMI_GPU_MANY_WIDE; c++) {
#pragma unroll
    for (int r = 0; r < ZMI_GPU_MANY_HIGH; r++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const bool one = F::AFFINE && F::DIGITS == 1;
        s->y[c][r][i] = s->y[c][r][i] + (one ? s->hi[c][r][i] : s->hi[c][r][i] + s->lo[c][r][i]);
        s->hi[c][r][i] = s->lo[c][r][i] = 0.0f;
      }
    }
  }
}

// Results go through shared memory, where they take the place of the steps: whole rows of them are stored side by side.
ZMI_INLINE void zmi_gpu_many_lay(const zmi_gpu_many_tile *w, const zmi_gpu_many_sums *sums, char *shared) {
  const unsigned lane = zmi_gpu_many_lane(), column = (unsigned)w->column + lane % 4 * 2;
  float *to = (float *)(void *)shared + column * ZMI_GPU_MANY_OUT + w->block * ZMI_GPU_LANES + lane / 4 * 2;
#pragma unroll
  for (int c = 0; c < 2 * ZMI_GPU_MANY_WIDE; c++) {
    if (c >= w->up) break; // the next warp's
#pragma unroll
    for (int r = 0; r < ZMI_GPU_MANY_HIGH; r++) {
      const float *y = sums->y[c / 2][r] + c % 2;
      const zmi_gpu_two rows = {{zk_bits(y[0]), zk_bits(y[2])}};
      *(zmi_gpu_two *)(void *)(to + (c / 2 * 8 + c % 2) * ZMI_GPU_MANY_OUT + r * ZMI_GPU_LANES) = rows;
    }
  }
}

// A warp stores a row of results at a time, a lane two neighbours. pair_at: in shared memory, which pairs they are of.
ZMI_APART void zmi_gpu_many_store(const zmi_gpu_dot *d, int first, int rows, int count, int expert, int pair_at) {
  const int n = d->matrix.n, left = n - first * ZMI_GPU_LANES, dtype = d->dtype;
  const int *pair = (const int *)(const void *)(zmi_shared() + pair_at);
  for (int column = zmi_thread() / 32; column < count; column += ZMI_GPU_THREADS / 32) {
    const float *y = (const float *)(const void *)zmi_shared() + column * ZMI_GPU_MANY_OUT;
    const long long at = pair[column] * d->out_stride + first * ZMI_GPU_LANES;
    for (int row = (zmi_thread() & 31) * 2; row < left && row < rows; row += 64) {
      const zmi_gpu_address here = d->out + 2 * (zmi_gpu_address)(at + row);
      float v[2] = {0.0f, 0.0f};
      for (int i = 0; i < 2 && expert >= 0; i++) {
        const long long of = (long long)expert * n + first * ZMI_GPU_LANES + row + i;
        v[i] = y[row + i];
        if (d->matrix.bias && row + i < left) v[i] = v[i] + zmi_gpu_load(d->matrix.bias, d->matrix.bias_dtype, of);
      }
      if (dtype == ZMI_GPU_BF16 && row + 1 < left && here % 4 == 0) {
        *zmi_gpu_at<unsigned>(here) = (unsigned)zk_store_bfloat16_float(v[0]) | (unsigned)zk_store_bfloat16_float(v[1]) << 16;
        continue;
      }
      for (int i = 0; i < 2 && row + i < left; i++) zmi_gpu_store(d->out, dtype, at + row + i, v[i]);
    }
  }
}

// The steps of a tile, whose stages are `bytes` apart.
template <typename F>
ZMI_INLINE void zmi_gpu_many_steps(const zmi_gpu_many_tile *w, int blocks, int stages, int bytes, char *shared, zmi_gpu_many_sums *sums) {
  const int k = w->k, ahead = (stages - 1) * F::STEP;
  const int left = w->first + w->block < blocks ? (w->count - w->column + 7) / 8 : 0, tiles = left < w->up / 2 ? left : w->up / 2;
  int get = 0, put = 0;
  for (int at = 0; at < ahead; at += F::STEP) {
    if (at < k) zmi_gpu_many_ask<F>(w, at, shared + put);
    zmi_copy_commit();
    put += bytes;
  }
  for (int at = 0; at < k; at += F::STEP) {
    zmi_copy_wait((unsigned)stages - 2);
    zmi_sync();
    if (at + ahead < k) zmi_gpu_many_ask<F>(w, at + ahead, shared + put);
    zmi_copy_commit();
#pragma unroll 2
    for (int g = 0; g < F::GROUPS; g++) {
      if (tiles > 0 && at + g * F::GROUP < k) zmi_gpu_many_group<F>(w, shared + get, g, tiles, sums);
    }
    if ((at + F::STEP) % ZMI_GPU_RANGE == 0 || at + F::STEP >= k) zmi_gpu_many_part<F>(sums);
    get = get + bytes < stages * bytes ? get + bytes : 0;
    put = put + bytes < stages * bytes ? put + bytes : 0;
  }
}

// The piece of a tile: without a choice, rows as they come.
ZMI_INLINE zmi_gpu_piece zmi_gpu_many_piece(const zmi_gpu_many *m, int piece) {
  if (m->pieces) return zmi_gpu_at<const zmi_gpu_piece>(m->pieces)[piece];
  const int first = piece * ZMI_GPU_MANY_COLUMNS, left = m->dot.pairs - first;
  const zmi_gpu_piece p = {0, first, left < ZMI_GPU_MANY_COLUMNS ? left : ZMI_GPU_MANY_COLUMNS, 0};
  return p;
}

// A function of its own for each format, which finds shared memory itself: a pointer that is handed to it could be to any memory.
template <typename F> ZMI_APART void zmi_gpu_many_of(const zmi_gpu_instruction *in, int worker, int workers) {
  char *shared = zmi_shared();
  const zmi_gpu_many *m = &in->as.many;
  const zmi_gpu_dot *d = &m->dot;
  // Blocks of a tile: half as many if there would be few tiles. Their number says it.
  const int groups = in->tiles / m->most, whole = (d->blocks + ZMI_GPU_MANY_BLOCKS - 1) / ZMI_GPU_MANY_BLOCKS, t = zmi_thread();
  const int high = groups == whole ? ZMI_GPU_MANY_BLOCKS : ZMI_GPU_MANY_BLOCKS / 2;
  const int bytes = ZMI_GPU_MANY_STAGE(F::BITS, F::GROUP, F::DIGITS);
  int *pair = (int *)(void *)(shared + m->stages * bytes);
  for (int tile = worker; tile < in->tiles; tile += workers) {
    const zmi_gpu_piece p = zmi_gpu_many_piece(m, tile / groups);
    if (p.count <= 0) return; // and so are all that follow
    const int column = t / 8, first = tile % groups * high, last = first + high < d->blocks ? first + high : d->blocks;
    int mine = 0;
    if (column < p.count) mine = m->order ? zmi_gpu_at<const int>(m->order)[p.first + column] : p.first + column;
    if (t % 8 == 0) pair[column] = mine;
    zmi_gpu_many_tile w = {};
    w.k = d->matrix.k;
    w.first = first;
    w.count = p.count;
    w.dtype = d->matrix.dtype;
    w.up = high / ZMI_GPU_MANY_HIGH;
    w.block = t / 32 % w.up * ZMI_GPU_MANY_HIGH;
    w.column = t / 32 / w.up * w.up * 4;
    w.group_bytes = F::UNITS * 64 * F::BITS + (F::AFFINE ? 2 * ZMI_GPU_LANES * (unsigned)zmi_gpu_size(w.dtype) : 0);
    w.weights_to = zmi_gpu_many_warp() * F::CODES + (F::AT_A_TIME > 0 ? zmi_gpu_many_to<F>(zmi_gpu_many_lane()) : 0);
    w.x_to = F::DIGITS_AT + (unsigned)column * F::ROW + (unsigned)t % 8 * 16;
    w.factors = (unsigned)w.k * F::DIGITS + ((unsigned)t % 2 * ((unsigned)w.k / F::GROUP) + (unsigned)t % 8 / 2) * 4 - (unsigned)t % 8 * 16;
    if (p.expert >= 0 && first + t / 32 < last) {
      w.weights = zmi_gpu_block_of(&d->matrix, p.expert, first + t / 32);
      w.code_scales = w.weights + d->matrix.code_bytes;
      w.eight = 8ull * d->matrix.block_bytes;
      w.mine = (last - first - t / 32 + 7) / 8;
      if (F::AT_A_TIME > 0) w.weights += zmi_gpu_many_from<F>(zmi_gpu_many_lane(), w.group_bytes);
    }
    if (p.expert >= 0 && column < p.count) w.x = zmi_gpu_at<const char>(d->x) + mine / d->share * d->x_bytes + t % 8 * 16;
    zmi_gpu_many_sums sums = {};
    if (p.expert >= 0) {
      zmi_gpu_many_steps<F>(&w, d->blocks, m->stages, bytes, shared, &sums);
      zmi_sync(); // the results overwrite the steps
      zmi_gpu_many_lay(&w, &sums, shared);
    }
    zmi_sync();
    zmi_gpu_many_store(d, first, high * ZMI_GPU_LANES, p.count, p.expert, m->stages * bytes);
    zmi_sync(); // the next tile's steps overwrite these
  }
}

// ---- all formats ----

template <int BITS, int DIGITS> ZMI_INLINE void zmi_gpu_many_bits(const zmi_gpu_instruction *in, int worker, int workers) {
  const int group = in->as.many.dot.matrix.group;
  if (group == 32) return zmi_gpu_many_of<zmi_gpu_form<ZMI_GPU_AFFINE, BITS, DIGITS, 1>>(in, worker, workers);
  if (group == 64) return zmi_gpu_many_of<zmi_gpu_form<ZMI_GPU_AFFINE, BITS, DIGITS, 2>>(in, worker, workers);
  zmi_gpu_many_of<zmi_gpu_form<ZMI_GPU_AFFINE, BITS, DIGITS, 4>>(in, worker, workers);
}

template <int DIGITS> ZMI_INLINE void zmi_gpu_many_digits_of(const zmi_gpu_instruction *in, int worker, int workers) {
  const zmi_gpu_matrix *m = &in->as.many.dot.matrix;
  if (m->mode == ZMI_GPU_MXFP4) return zmi_gpu_many_of<zmi_gpu_form<ZMI_GPU_MXFP4, 4, DIGITS, 1>>(in, worker, workers);
  if (m->mode == ZMI_GPU_NVFP4) return zmi_gpu_many_of<zmi_gpu_form<ZMI_GPU_NVFP4, 4, DIGITS, 1>>(in, worker, workers);
  switch (m->bits) {
  case 2:
    return zmi_gpu_many_bits<2, DIGITS>(in, worker, workers);
  case 3:
    return zmi_gpu_many_bits<3, DIGITS>(in, worker, workers);
  case 4:
    return zmi_gpu_many_bits<4, DIGITS>(in, worker, workers);
  case 5:
    return zmi_gpu_many_bits<5, DIGITS>(in, worker, workers);
  case 6:
    return zmi_gpu_many_bits<6, DIGITS>(in, worker, workers);
  default:
    return zmi_gpu_many_bits<8, DIGITS>(in, worker, workers);
  }
}

ZMI_INLINE void zmi_gpu_many_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  (void)shared;
  if (in->as.many.dot.matrix.digits == 3)
    zmi_gpu_many_digits_of<3>(in, worker, workers);
  else
    zmi_gpu_many_digits_of<1>(in, worker, workers);
}
