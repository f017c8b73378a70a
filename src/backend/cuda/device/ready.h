// READY: what products take, made by every block for itself. That costs a block what a step of its own would cost them all, and saves the
// wait between the two. What takes time is the way to memory, so a thread asks for all of its elements, eight side by side, before it uses
// the first.

typedef struct zmi_gpu_rows {
  const zmi_gpu_ready *r, *there; // in registers, but for its conv; in shared memory
  int begin, end;                 // elements of a sum that this worker writes
  float *part, *scale;            // a row as floats, and a number behind it
} zmi_gpu_rows;

// Adds the weighted sum of the slots' elements from i on.
template <int DTYPE> ZMI_INLINE void zmi_gpu_ready_combine(const zmi_gpu_ready *r, int row, int i, float sum[8]) {
  enum { SIZE = DTYPE == ZMI_GPU_F32 ? 4 : 2, TOGETHER = 16 / SIZE };
  const int slots = r->slots;
  const zmi_gpu_address step = (zmi_gpu_address)r->k * SIZE, first = (zmi_gpu_address)row * (unsigned)slots;
  zmi_gpu_address from = r->y + first * step + (zmi_gpu_address)i * SIZE, weights = r->weights + first * SIZE;
  for (int left = slots; left > 0; left -= TOGETHER) {
    zmi_gpu_eight y[TOGETHER];
    unsigned weight[TOGETHER];
#pragma unroll
    for (int s = 0; s < TOGETHER; s++) {
      y[s] = zmi_gpu_ask<DTYPE, true>(from, DTYPE, 0, left - s);
      weight[s] = s < left ? zmi_gpu_bits(weights, DTYPE, s) : 0u;
      from += step;
    }
    weights += TOGETHER * SIZE;
#pragma unroll
    for (int s = 0; s < TOGETHER; s++) {
      float v[8];
      if (s >= left) break;
      zmi_gpu_given<DTYPE, true>(&y[s], DTYPE, v);
      for (int j = 0; j < 8; j++) sum[j] = zk_fma(zmi_gpu_value(weight[s], DTYPE), v[j], sum[j]);
    }
  }
}

// Elements i .. i + 7 of a row as they are normalized: x, or the rounded sum.
template <int DTYPE> ZMI_INLINE void zmi_gpu_ready_terms(const zmi_gpu_rows *w, int row, int i) {
  const zmi_gpu_ready *r = w->r;
  const long long first = (long long)row * r->k + i;
  const zmi_gpu_eight x = zmi_gpu_ask<DTYPE, true>(r->x, DTYPE, row * r->stride + i, 8);
  float v[8], more[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  if (r->add) {
    const zmi_gpu_eight add = zmi_gpu_ask<DTYPE, true>(r->add, DTYPE, first, 8);
    zmi_gpu_given<DTYPE, true>(&add, DTYPE, more);
  } else if (r->slots) {
    zmi_gpu_ready_combine<DTYPE>(r, row, i, more);
    zmi_gpu_rounded<DTYPE>(more);
  }
  zmi_gpu_given<DTYPE, true>(&x, DTYPE, v);
  if (r->slots || r->add) {
    for (int j = 0; j < 8; j++) v[j] = v[j] + more[j];
    zmi_gpu_rounded<DTYPE>(v);
  }
  zmi_gpu_keep(w->part + i, v);
  if (i >= w->begin && i < w->end) zmi_gpu_put<DTYPE>(r->sum, first, v);
}

// The same of element i, of any dtype and wherever it lies.
ZMI_INLINE void zmi_gpu_ready_term(const zmi_gpu_rows *w, int row, int i) {
  const zmi_gpu_ready *r = w->r;
  const long long at = (long long)row * r->k + i, first = (long long)row * r->slots;
  float v = zmi_gpu_load(r->x, r->dtype, row * r->stride + i), more = r->add ? zmi_gpu_load(r->add, r->dtype, at) : 0.0f;
#pragma unroll 1
  for (int s = 0; s < r->slots; s++)
    more = zk_fma(zmi_gpu_load(r->weights, r->dtype, first + s), zmi_gpu_load(r->y, r->dtype, (first + s) * r->k + i), more);
  if (r->slots || r->add) v = zmi_gpu_round(v + zmi_gpu_round(more, r->dtype), r->dtype);
  w->part[i] = v;
  if (i >= w->begin && i < w->end) zmi_gpu_store(r->sum, r->dtype, at, v);
}

// Weights of the norm: float32, or of the two bytes that go with the rows.
ZMI_INLINE bool zmi_gpu_ready_is_wide(const zmi_gpu_ready *r) {
  const int two = r->dtype == ZMI_GPU_F16 ? ZMI_GPU_F16 : ZMI_GPU_BF16;
  return zmi_gpu_is_wide(r->x | r->add | r->y | r->norm | r->sum, r->k | r->stride) &&
         (!r->norm || r->norm_dtype == ZMI_GPU_F32 || r->norm_dtype == two);
}
ZMI_INLINE zmi_gpu_eight zmi_gpu_ready_weights(const zmi_gpu_ready *r, int i) {
  if (r->norm_dtype == ZMI_GPU_F32) return zmi_gpu_ask<ZMI_GPU_F32, true>(r->norm, 0, i, r->k - i);
  return zmi_gpu_ask<ZMI_GPU_BF16, true>(r->norm, 0, i, r->k - i);
}

// Eight elements of a row, scaled, by those weights.
template <int DTYPE> ZMI_INLINE void zmi_gpu_ready_scaled(const zmi_gpu_ready *r, const zmi_gpu_eight *norm, float scale, float x[8]) {
  float weight[8];
  if (r->norm_dtype == ZMI_GPU_F32)
    zmi_gpu_given<ZMI_GPU_F32, true>(norm, 0, weight);
  else
    zmi_gpu_given<DTYPE == ZMI_GPU_F16 ? ZMI_GPU_F16 : ZMI_GPU_BF16, true>(norm, 0, weight);
  for (int j = 0; j < 8; j++) x[j] = x[j] * scale * weight[j];
  zmi_gpu_rounded<DTYPE>(x);
}

// What the elements of a row in shared memory are scaled by, for all threads; it lies behind the row. (k is read again: what a compiler
// makes of it before the rows would lie in local memory.)
ZMI_INLINE float zmi_gpu_ready_scale(const zmi_gpu_rows *w) {
  zmi_sync();
  if (zmi_thread() < 32) {
    const int k = w->there->k;
    const float squares = zmi_gpu_fold(zmi_gpu_lane_squares(w->part, k, 0.0f));
    if (zmi_thread() == 0) *w->scale = 1.0f / zk_sqrt(squares / (float)k + w->there->eps);
  }
  zmi_sync();
  return *w->scale;
}

// How the rows lie. USUAL: three digits in groups of 64, which then are constants.
template <bool USUAL> ZMI_INLINE zmi_gpu_digit_form zmi_gpu_ready_form(const zmi_gpu_ready *r) {
  return {r->k, USUAL ? 64 : r->group, USUAL ? 3 : r->digits};
}

// A row of sums, normalized.
template <int DTYPE, bool USUAL> ZMI_INLINE void zmi_gpu_ready_wide(const zmi_gpu_rows *w, int row, char *out) {
  enum { EACH = 8 * ZMI_GPU_THREADS };
  const zmi_gpu_ready *r = w->r;
  const zmi_gpu_digit_form form = zmi_gpu_ready_form<USUAL>(r);
  const int at = 8 * zmi_thread();
  for (int i = at; i < r->k; i += EACH) zmi_gpu_ready_terms<DTYPE>(w, row, i);
  zmi_gpu_eight norm = zmi_gpu_ready_weights(r, at); // on their way while the squares are added
  const float scale = zmi_gpu_ready_scale(w);
  for (int begin = 0; begin < r->k; begin += EACH) {
    const int i = begin + at;
    float x[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    if (begin > 0) norm = zmi_gpu_ready_weights(r, i);
    if (i < r->k) {
      zmi_gpu_kept(w->part + i, x);
      zmi_gpu_ready_scaled<DTYPE>(r, &norm, scale, x);
    }
    if (USUAL || r->digits)
      zmi_gpu_digit_eight<false>(&form, x, out, i);
    else if (i < r->k)
      zmi_gpu_put<DTYPE>((zmi_gpu_address)out, i, x);
  }
}

// The same, element by element: of rows that do not lie as others do.
ZMI_INLINE void zmi_gpu_ready_narrow(const zmi_gpu_rows *w, int row, char *out) {
  const zmi_gpu_ready *r = w->r;
  const zmi_gpu_digit_form form = {r->k, r->group, r->digits};
#pragma unroll 1
  for (int i = zmi_thread(); i < r->k; i += ZMI_GPU_THREADS) zmi_gpu_ready_term(w, row, i);
  const float scale = zmi_gpu_ready_scale(w);
#pragma unroll 1
  for (int i = zmi_thread(); i < r->k; i += ZMI_GPU_THREADS) {
    w->part[i] = zmi_gpu_round(w->part[i] * scale * zmi_gpu_load(r->norm, r->norm_dtype, i), r->dtype);
    if (!r->digits) zmi_gpu_store((zmi_gpu_address)out, r->dtype, i, w->part[i]);
  }
  if (!r->digits) return;
  zmi_sync();
  for (int begin = 0; begin < r->k; begin += 8 * ZMI_GPU_THREADS) {
    const int i = begin + 8 * zmi_thread();
    float x[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    if (i < r->k) zmi_gpu_kept(w->part + i, x);
    zmi_gpu_digit_eight<false>(&form, x, out, i);
  }
}

// Rows first .. last - 1 as they are, as digits: a thread has two times eight elements, of any rows, on their way together.
template <int DTYPE, bool WIDE, bool USUAL> ZMI_INLINE void zmi_gpu_ready_plain(const zmi_gpu_ready *r, int first, int last, char *made) {
  enum { TOGETHER = 2 };
  const zmi_gpu_digit_form form = zmi_gpu_ready_form<USUAL>(r);
  const unsigned each = (unsigned)r->k / 8, units = (unsigned)(last - first) * each;
  for (unsigned begin = 0; begin < units; begin += TOGETHER * ZMI_GPU_THREADS) {
    zmi_gpu_eight x[TOGETHER];
    int row[TOGETHER], i[TOGETHER];
#pragma unroll
    for (int a = 0; a < TOGETHER; a++) {
      const unsigned u = begin + (unsigned)(a * ZMI_GPU_THREADS + zmi_thread()), down = u / each;
      row[a] = first + (int)down;
      i[a] = u < units ? (int)(u - down * each) * 8 : r->k;
      x[a] = zmi_gpu_ask<DTYPE, WIDE>(r->x, r->dtype, row[a] * r->stride + i[a], r->k - i[a]);
    }
#pragma unroll
    for (int a = 0; a < TOGETHER; a++) {
      float v[8];
      if (a > 0 && begin + (unsigned)(a * ZMI_GPU_THREADS) >= units) break;
      zmi_gpu_given<DTYPE, WIDE>(&x[a], r->dtype, v);
      zmi_gpu_digit_eight<false>(&form, v, made + row[a] * r->bytes, i[a]);
    }
  }
}

// The only row of a convolution, as digits.
template <int DTYPE, bool USUAL> ZMI_INLINE void zmi_gpu_ready_convolved(const zmi_gpu_rows *w, char *made) {
  const zmi_gpu_ready *r = w->r;
  const zmi_gpu_conv conv = w->there->conv;
  const zmi_gpu_digit_form form = zmi_gpu_ready_form<USUAL>(r);
  for (int begin = 0; begin < r->k; begin += 8 * ZMI_GPU_THREADS) {
    const int i = begin + 8 * zmi_thread();
    float v[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    if (i < r->k) zmi_gpu_conv_eight<DTYPE>(&conv, i, v);
    zmi_gpu_digit_eight<false>(&form, v, made, i);
  }
}

template <int DTYPE, bool WIDE, bool USUAL> ZMI_INLINE void zmi_gpu_ready_rows(const zmi_gpu_rows *w, int first, int last, char *made) {
  if (WIDE && w->there->conv.rows) return zmi_gpu_ready_convolved<DTYPE, USUAL>(w, made);
  if (!w->r->norm) return zmi_gpu_ready_plain<DTYPE, WIDE, USUAL>(w->r, first, last, made);
  for (int row = first; row < last; row++) {
    if (row > first) zmi_sync(); // of the row before `part` has been read
    if (WIDE)
      zmi_gpu_ready_wide<DTYPE, USUAL>(w, row, made + row * w->r->bytes);
    else
      zmi_gpu_ready_narrow(w, row, made + row * w->r->bytes);
  }
}

// A quotient by the number of workers is a product with what zmi_gpu_by makes of it once: of numbers below 2^36 / workers it is exact.
ZMI_INLINE unsigned zmi_gpu_by(int workers) {
  return workers > 16 && workers <= 362 ? (unsigned)((1ull << 36) / (unsigned)workers + 1) : 0u;
}

// A worker takes its tiles of a product in one piece: the first of them.
ZMI_INLINE int zmi_gpu_first_tile(int tiles, int worker, int workers, unsigned by) {
  if (by && tiles < 1 << 19) return (int)((unsigned long long)((unsigned)tiles * (unsigned)worker) * by >> 36);
  return (int)((long long)tiles * worker / workers);
}

// in: in shared memory. shared: room for a row as floats and 16 more, if rows are normalized; made: for what is made.
ZMI_INLINE void zmi_gpu_ready_here(const zmi_gpu_instruction *in, int worker, int workers, unsigned by, char *shared, char *made) {
  const zmi_gpu_ready here = zmi_near(in)->as.ready, *r = &here; // read once
  zmi_gpu_rows w;
  int first = 0, last = r->rows;
  w.r = r;
  w.there = &zmi_near(in)->as.ready;
  w.begin = w.end = 0;
  if (r->sum) { // each worker a piece: one that wrote all would be waited for
    const int units = (r->k + 7) / 8;
    w.begin = 8 * zmi_gpu_first_tile(units, worker, workers, by);
    w.end = 8 * zmi_gpu_first_tile(units, worker + 1, workers, by);
  }
  made = zmi_near(made);
  w.part = (float *)(void *)zmi_near(shared);
  w.scale = w.part + r->k;
  if (r->blocks) {
    first = zmi_gpu_first_tile(r->tiles, worker, workers, by) / r->blocks;
    last = (zmi_gpu_first_tile(r->tiles, worker + 1, workers, by) + r->blocks - 1) / r->blocks;
  }
  if (!zmi_gpu_ready_is_wide(r)) return zmi_gpu_ready_rows<0, false, false>(&w, first, last, made);
  if (r->dtype == ZMI_GPU_BF16 && r->group == 64 && r->digits == 3)
    return zmi_gpu_ready_rows<ZMI_GPU_BF16, true, true>(&w, first, last, made);
  ZMI_GPU_BY_DTYPE(r->dtype, (zmi_gpu_ready_rows<DTYPE, true, false>(&w, first, last, made)));
}

// The instruction of a place.
ZMI_APART void zmi_gpu_ready_run(int place) {
  const zmi_gpu_site *s = zmi_gpu_here();
  zmi_gpu_ready_here(zmi_gpu_code(place), s->worker, s->workers, s->by, zmi_gpu_scratch(), zmi_shared() + s->made);
}
