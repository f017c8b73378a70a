// READY: what products take, made by every block for itself. That costs a block what a step of its own would cost them all, and saves the
// wait between the two. What takes time is the way to memory, so a thread asks for all of its elements, eight side by side, before it uses
// the first.

// ---- eight elements ----

// As they came: of two bytes, two in a word.
typedef struct zmi_gpu_eight {
  unsigned word[8];
} zmi_gpu_eight;

ZMI_INLINE zmi_gpu_eight zmi_gpu_no_eight() {
  const zmi_gpu_eight none = {{0, 0, 0, 0, 0, 0, 0, 0}};
  return none;
}

// Whether eight elements may come together from a: every address and distance between rows is a multiple of them.
ZMI_INLINE bool zmi_gpu_is_wide(zmi_gpu_address a, long long elements) {
  return a % 16 == 0 && elements % 8 == 0;
}

// Elements first .. of which `there` are there (the others are zeros).
template <bool FLOAT> ZMI_INLINE zmi_gpu_eight zmi_gpu_ask(zmi_gpu_address a, long long first, int there, bool wide) {
  zmi_gpu_eight e = zmi_gpu_no_eight();
  const zmi_gpu_address at = a + (zmi_gpu_address)first * (FLOAT ? 4 : 2);
  if (there <= 0) return e;
  if (wide) {
    for (int i = 0; i < (FLOAT ? 2 : 1); i++) {
      const zmi_gpu_words w = zmi_gpu_at<const zmi_gpu_words>(at)[i];
      for (int j = 0; j < 4; j++) e.word[4 * i + j] = w.w[j];
    }
    return e;
  }
#pragma unroll
  for (int j = 0; j < 8; j++) {
    if (j >= there) continue;
    if (FLOAT)
      e.word[j] = zmi_gpu_at<const unsigned>(at)[j];
    else
      e.word[j / 2] |= (unsigned)zmi_gpu_at<const unsigned short>(at)[j] << j % 2 * 16;
  }
  return e;
}

// Element j as it came, and as float.
ZMI_INLINE unsigned zmi_gpu_eight_bits(const zmi_gpu_eight *e, int dtype, int j) {
  return dtype == ZMI_GPU_F32 ? e->word[j] : e->word[j / 2] >> j % 2 * 16 & 0xffffu;
}
ZMI_INLINE float zmi_gpu_eight_at(const zmi_gpu_eight *e, int dtype, int j) {
  return zmi_gpu_value(zmi_gpu_eight_bits(e, dtype, j), dtype);
}

// Eight numbers to memory, rounded.
template <int DTYPE> ZMI_INLINE void zmi_gpu_put(zmi_gpu_address a, long long first, int there, bool wide, const float v[8]) {
  if (!wide || there < 8) {
    for (int j = 0; j < 8 && j < there; j++) zmi_gpu_store(a, DTYPE, first + j, v[j]);
    return;
  }
  unsigned word[8];
#pragma unroll
  for (int j = 0; j < 8; j++) {
    if (DTYPE == ZMI_GPU_F32)
      word[j] = zk_bits(v[j]);
    else if (j % 2 == 0)
      word[j / 2] = DTYPE == ZMI_GPU_BF16 ? zk_store_bfloat16_float(v[j]) : zk_store_float16_float(v[j]);
    else
      word[j / 2] |= (unsigned)(DTYPE == ZMI_GPU_BF16 ? zk_store_bfloat16_float(v[j]) : zk_store_float16_float(v[j])) << 16;
  }
  zmi_gpu_words *to = zmi_gpu_at<zmi_gpu_words>(a + (zmi_gpu_address)first * (DTYPE == ZMI_GPU_F32 ? 4 : 2));
  to[0] = {{word[0], word[1], word[2], word[3]}};
  if (DTYPE == ZMI_GPU_F32) to[1] = {{word[4], word[5], word[6], word[7]}};
}

// Eight floats of shared memory, whose address is a multiple of 16, and back.
ZMI_INLINE void zmi_gpu_keep(float *to, int there, const float v[8]) {
  if (there >= 8) {
    for (int h = 0; h < 2; h++)
      ((zmi_gpu_words *)(void *)to)[h] = {{zk_bits(v[4 * h]), zk_bits(v[4 * h + 1]), zk_bits(v[4 * h + 2]), zk_bits(v[4 * h + 3])}};
    return;
  }
  for (int j = 0; j < 8 && j < there; j++) to[j] = v[j];
}
ZMI_INLINE void zmi_gpu_kept(const float *from, int there, float v[8]) {
  if (there >= 8) {
    for (int h = 0; h < 2; h++) {
      const zmi_gpu_words w = ((const zmi_gpu_words *)(const void *)from)[h];
      for (int j = 0; j < 4; j++) v[4 * h + j] = zk_of_bits(w.w[j]);
    }
    return;
  }
  for (int j = 0; j < 8; j++) v[j] = j < there ? from[j] : 0.0f;
}

// ---- rows ----

typedef struct zmi_gpu_rows {
  const zmi_gpu_ready *r;
  bool wide, writes;
  float *part, *lane; // a row as floats, and 16 floats behind it
} zmi_gpu_rows;

// Eight elements of row `row` from i on as digits: all lanes of a warp take part, also those of rows' ends (i >= k). Eight times the lanes
// that stand side by side make a group.
ZMI_INLINE void zmi_gpu_ready_digits(const zmi_gpu_ready *r, const float x[8], char *row, int i) {
  const int shift = r->group == 64 ? 6 : r->group == 32 ? 5 : r->group == 128 ? 7 : 4; // a quotient takes longer
  const int lanes = r->group / 8, lane = zmi_thread() & 31, g = i >> shift, at = i & (r->group - 1);
  unsigned most = 0u;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const unsigned u = zk_bits(x[j]) & 0x7fffffffu;
    most = u > most ? u : most;
  }
  for (int step = 1; step < lanes; step *= 2) {
    const unsigned other = zmi_shuffle(most, lane ^ step);
    most = other > most ? other : most;
  }
  const bool none = most < (r->digits == 1 ? 0x0d800000u : 0x00800000u), broken = most >= 0x7f800000u;
  float to_integer = 0.0f, scale = 0.0f;
  if (!none && !broken) zmi_gpu_digit_scale(most, r->digits, &to_integer, &scale);
  unsigned low[2] = {0, 0}, middle[2] = {0, 0}, high[2] = {0, 0};
  int total = 0;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const float v = x[j] * to_integer, big = zkp_signed(0x1p23f, v);
    int q = none || broken ? 0 : (int)((v + big) - big);
    total += q;
    low[j / 4] |= ((unsigned)q & 255u) << j % 4 * 8;
    q = (q + 128) >> 8;
    middle[j / 4] |= ((unsigned)q & 255u) << j % 4 * 8;
    high[j / 4] |= ((unsigned)((q + 128) >> 8) & 255u) << j % 4 * 8;
  }
  for (int step = 1; step < lanes; step *= 2) total += (int)zmi_shuffle((unsigned)total, lane ^ step);
  if (i >= r->k) return;
  zmi_gpu_two *out = (zmi_gpu_two *)(void *)(row + g * r->group * r->digits + at);
  const int plane = r->group / 8;
  if (r->digits == 1) {
    out[0] = {{low[0], low[1]}};
  } else {
    out[0] = {{high[0], high[1]}};
    out[plane] = {{middle[0], middle[1]}};
    out[2 * plane] = {{low[0], low[1]}};
  }
  if (at > 0) return;
  float *scales = (float *)(void *)(row + r->k * r->digits);
  scales[g] = broken ? zkp_nan() : scale;
  scales[(r->k >> shift) + g] = broken ? zkp_nan() : (float)total * scale;
}

// The weighted sum of the slots' elements from i on.
template <int DTYPE> ZMI_INLINE void zmi_gpu_ready_combine(const zmi_gpu_rows *w, int row, int i, float sum[8]) {
  enum { TOGETHER = 4 };
  const zmi_gpu_ready *r = w->r;
  for (int first = 0; first < r->slots; first += TOGETHER) {
    zmi_gpu_eight y[TOGETHER];
    unsigned weight[TOGETHER];
#pragma unroll
    for (int s = 0; s < TOGETHER; s++) {
      const long long at = (long long)row * r->slots + first + s;
      const bool there = first + s < r->slots;
      y[s] = zmi_gpu_ask<DTYPE == ZMI_GPU_F32>(r->y, at * r->k + i, there ? r->k - i : 0, w->wide);
      weight[s] = there ? zmi_gpu_bits(r->weights, DTYPE, at) : 0u;
    }
#pragma unroll
    for (int s = 0; s < TOGETHER; s++) {
      if (first + s >= r->slots) break;
      for (int j = 0; j < 8; j++) sum[j] = zk_fma(zmi_gpu_value(weight[s], DTYPE), zmi_gpu_eight_at(&y[s], DTYPE, j), sum[j]);
    }
  }
}

// Elements i .. i + 7 of a row as they are normalized: x, or the rounded sum.
template <int DTYPE> ZMI_INLINE void zmi_gpu_ready_terms(const zmi_gpu_rows *w, int row, int i) {
  const zmi_gpu_ready *r = w->r;
  const long long first = (long long)row * r->k + i;
  const int there = r->k - i;
  const zmi_gpu_eight x = zmi_gpu_ask<DTYPE == ZMI_GPU_F32>(r->x, row * r->stride + i, there, w->wide);
  float v[8], more[8];
  if (r->add) {
    const zmi_gpu_eight add = zmi_gpu_ask<DTYPE == ZMI_GPU_F32>(r->add, first, there, w->wide);
    for (int j = 0; j < 8; j++) more[j] = zmi_gpu_eight_at(&add, DTYPE, j);
  } else {
    for (int j = 0; j < 8; j++) more[j] = 0.0f;
    zmi_gpu_ready_combine<DTYPE>(w, row, i, more);
    for (int j = 0; j < 8; j++) more[j] = zmi_gpu_round(more[j], DTYPE);
  }
#pragma unroll
  for (int j = 0; j < 8; j++) {
    v[j] = zmi_gpu_eight_at(&x, DTYPE, j);
    if (r->slots || r->add) v[j] = zmi_gpu_round(v[j] + more[j], DTYPE);
  }
  zmi_gpu_keep(w->part + i, there, v);
  if (w->writes) zmi_gpu_put<DTYPE>(r->sum, first, there, w->wide && r->sum % 16 == 0, v);
}

// A row of sums, normalized.
template <int DTYPE> ZMI_INLINE void zmi_gpu_ready_normalized(const zmi_gpu_rows *w, int row, char *out) {
  enum { EACH = 8 * ZMI_GPU_THREADS };
  const zmi_gpu_ready *r = w->r;
  const int t = zmi_thread(), at = 8 * t;
  for (int i = at; i < r->k; i += EACH) zmi_gpu_ready_terms<DTYPE>(w, row, i);
  // The weights of the norm are on their way while the squares are added.
  const bool wide = zmi_gpu_is_wide(r->norm, r->k);
  zmi_gpu_eight norm =
      r->norm_dtype == ZMI_GPU_F32 ? zmi_gpu_ask<true>(r->norm, at, r->k - at, wide) : zmi_gpu_ask<false>(r->norm, at, r->k - at, wide);
  zmi_sync();
  if (t < ZMI_GPU_LANES) w->lane[t] = zmi_gpu_lane_squares(w->part, r->k, 0.0f);
  zmi_sync();
  const float scale = 1.0f / zk_sqrt(zmi_gpu_lane_total(w->lane) / (float)r->k + r->eps);
  for (int begin = 0; begin < r->k; begin += EACH) {
    const int i = begin + at;
    float x[8];
    zmi_gpu_kept(w->part + i, r->k - i, x);
    if (begin > 0)
      norm = r->norm_dtype == ZMI_GPU_F32 ? zmi_gpu_ask<true>(r->norm, i, r->k - i, wide) : zmi_gpu_ask<false>(r->norm, i, r->k - i, wide);
#pragma unroll
    for (int j = 0; j < 8; j++) x[j] = i + j < r->k ? zmi_gpu_round(x[j] * scale * zmi_gpu_eight_at(&norm, r->norm_dtype, j), DTYPE) : 0.0f;
    if (r->digits) {
      zmi_gpu_ready_digits(r, x, out, i);
      continue;
    }
    for (int j = 0; j < 8 && i + j < r->k; j++) zmi_gpu_store((zmi_gpu_address)out, DTYPE, i + j, x[j]);
  }
}

// Rows first .. last - 1 as they are, as digits: a thread has two times eight elements, of any rows, on their way together.
template <int DTYPE> ZMI_INLINE void zmi_gpu_ready_plain(const zmi_gpu_rows *w, int first, int last, char *made) {
  enum { TOGETHER = 2 };
  const zmi_gpu_ready *r = w->r;
  const int each = r->k / 8, units = (last - first) * each;
  for (int begin = 0; begin < units; begin += TOGETHER * ZMI_GPU_THREADS) {
    zmi_gpu_eight x[TOGETHER];
    int row[TOGETHER], i[TOGETHER];
#pragma unroll
    for (int a = 0; a < TOGETHER; a++) {
      const int u = begin + a * ZMI_GPU_THREADS + zmi_thread();
      row[a] = first + u / each;
      i[a] = u < units ? u % each * 8 : r->k;
      x[a] = zmi_gpu_ask<DTYPE == ZMI_GPU_F32>(r->x, row[a] * r->stride + i[a], r->k - i[a], w->wide);
    }
#pragma unroll
    for (int a = 0; a < TOGETHER; a++) {
      float v[8];
      for (int j = 0; j < 8; j++) v[j] = zmi_gpu_eight_at(&x[a], DTYPE, j);
      zmi_gpu_ready_digits(r, v, made + row[a] * r->bytes, i[a]);
    }
  }
}

template <int DTYPE> ZMI_INLINE void zmi_gpu_ready_rows(const zmi_gpu_rows *w, int first, int last, char *made) {
  if (!w->r->norm) return zmi_gpu_ready_plain<DTYPE>(w, first, last, made);
  for (int row = first; row < last; row++) {
    if (row > first) zmi_sync(); // of the row before `part` has been read
    zmi_gpu_ready_normalized<DTYPE>(w, row, made + row * w->r->bytes);
  }
}

// The rows that a worker needs of a product whose tiles it takes in one piece.
ZMI_INLINE int zmi_gpu_first_tile(int tiles, int worker, int workers) {
  if (tiles < 1 << 20 && workers < 1 << 11) return (int)((unsigned)tiles * (unsigned)worker / (unsigned)workers); // much faster
  return (int)((long long)tiles * worker / workers);
}

// shared: room for a row as floats and 16 more, if rows are normalized; made: for what is made.
ZMI_APART void zmi_gpu_ready_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared, char *made) {
  const zmi_gpu_ready *r = &zmi_near(in)->as.ready;
  zmi_gpu_rows w;
  int first = 0, last = r->rows;
  w.r = r;
  w.wide = zmi_gpu_is_wide(r->x, r->stride) && zmi_gpu_is_wide(r->add | r->y, r->k);
  w.writes = worker == 0 && r->sum;
  made = zmi_near(made);
  w.part = (float *)(void *)zmi_near(shared);
  w.lane = w.part + r->k;
  if (r->blocks) {
    first = zmi_gpu_first_tile(r->tiles, worker, workers) / r->blocks;
    last = (zmi_gpu_first_tile(r->tiles, worker + 1, workers) + r->blocks - 1) / r->blocks;
  }
  if (r->dtype == ZMI_GPU_BF16)
    zmi_gpu_ready_rows<ZMI_GPU_BF16>(&w, first, last, made);
  else if (r->dtype == ZMI_GPU_F32)
    zmi_gpu_ready_rows<ZMI_GPU_F32>(&w, first, last, made);
  else
    zmi_gpu_ready_rows<ZMI_GPU_F16>(&w, first, last, made);
}
