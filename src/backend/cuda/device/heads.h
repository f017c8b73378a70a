// Heads of attention before it: norm and rotary embedding, and the way into the caches. A warp takes a head of a row, and asks for all of
// it before it uses any. Device text.

// The first tile of this warp: the first warp of every block before the second, so that few heads spread over many multiprocessors.
// Worker `away` takes the first tile: instructions that do not depend on each other keep different workers busy. Keys are written by the
// worker that has turned them, so that `away` is the same for both.
ZMI_INLINE int zmi_gpu_first_of_warps(int worker, int workers, int away) {
  const int place = worker - (away < workers ? away : away % workers);
  return (place < 0 ? place + workers : place) + zmi_thread() / 32 * workers;
}

// The row of a tile (row, i) of n tiles a row: without a quotient where there is one row.
ZMI_INLINE int zmi_gpu_row_of(int tile, int rows, int n) {
  return rows == 1 ? 0 : tile / n;
}

// Lane 0 .. 15 have lanes of a sum: the whole of it, for all lanes of the warp.
ZMI_INLINE float zmi_gpu_fold(float sum) {
  const int lane = zmi_thread() % 32;
  for (int half = 8; half > 0; half /= 2) sum = sum + zmi_shuffle_float(sum, (lane + half) & 15);
  return zmi_shuffle_float(sum, 0);
}

// ---- ROTATE ----

enum { ZMI_GPU_TERMS = 8, ZMI_GPU_PAIRS = 2, ZMI_GPU_RESTS = 4 }; // of a lane, asked for together

// Bits of elements of a head, words of the weights of its norm.
template <int N> struct zmi_gpu_elements_of { unsigned x[N], weight[N]; };

// Pairs i, i + 32, ... of a head with what turns them, and the rest of a head behind its pairs.
typedef struct zmi_gpu_pairs {
  zmi_gpu_elements_of<ZMI_GPU_PAIRS> first, second;
  float cosine[ZMI_GPU_PAIRS], sine[ZMI_GPU_PAIRS];
} zmi_gpu_pairs;
typedef zmi_gpu_elements_of<ZMI_GPU_RESTS> zmi_gpu_rests;

// A head of a row.
typedef struct zmi_gpu_head {
  long long from, to, turn; // elements of x, of out, and of the cosines
  int pairs;
  float inverse; // of the root mean square
} zmi_gpu_head;

// ALIKE: weights of the norm are of DTYPE, too; else of any.
template <int DTYPE, bool ALIKE, int N>
ZMI_INLINE void zmi_gpu_head_load(const zmi_gpu_rotate *r, const zmi_gpu_head *h, bool there, int i, int j, zmi_gpu_elements_of<N> *to) {
  to->x[j] = there ? zmi_gpu_bits(r->x, DTYPE, h->from + i) : 0u;
  to->weight[j] = !there || !r->norm ? 0u : ALIKE ? zmi_gpu_bits(r->norm, DTYPE, i) : zmi_gpu_word(r->norm, r->norm_dtype, i);
}

template <int DTYPE, bool ALIKE, int N>
ZMI_INLINE float zmi_gpu_head_value(const zmi_gpu_rotate *r, const zmi_gpu_head *h, int i, int j, const zmi_gpu_elements_of<N> *of) {
  const float x = zmi_gpu_value(of->x[j], DTYPE);
  if (!r->norm) return x;
  const unsigned bits = of->weight[j];
  return zmi_gpu_round(x * h->inverse * (ALIKE ? zmi_gpu_value(bits, DTYPE) : zmi_gpu_of_word(bits, r->norm, r->norm_dtype, i)), DTYPE);
}

ZMI_INLINE int zmi_gpu_first_of(const zmi_gpu_rotate *r, int i) {
  return r->traditional ? 2 * i : i;
}
ZMI_INLINE int zmi_gpu_second_of(const zmi_gpu_rotate *r, const zmi_gpu_head *h, int i) {
  return r->traditional ? 2 * i + 1 : i + h->pairs;
}

template <int DTYPE, bool ALIKE>
ZMI_INLINE void zmi_gpu_pairs_load(const zmi_gpu_rotate *r, const zmi_gpu_head *h, int begin, zmi_gpu_pairs *p) {
#pragma unroll
  for (int j = 0; j < ZMI_GPU_PAIRS; j++) {
    const int i = begin + 32 * j;
    const bool there = i < h->pairs;
    zmi_gpu_head_load<DTYPE, ALIKE>(r, h, there, zmi_gpu_first_of(r, i), j, &p->first);
    zmi_gpu_head_load<DTYPE, ALIKE>(r, h, there, zmi_gpu_second_of(r, h, i), j, &p->second);
    p->cosine[j] = there ? zmi_gpu_at<const float>(r->cosine)[h->turn + i] : 0.0f;
    p->sine[j] = there ? zmi_gpu_at<const float>(r->sine)[h->turn + i] : 0.0f;
  }
}

template <int DTYPE, bool ALIKE>
ZMI_INLINE void zmi_gpu_pairs_turn(const zmi_gpu_rotate *r, const zmi_gpu_head *h, int begin, const zmi_gpu_pairs *p) {
#pragma unroll
  for (int j = 0; j < ZMI_GPU_PAIRS; j++) {
    const int i = begin + 32 * j, first = zmi_gpu_first_of(r, i), second = zmi_gpu_second_of(r, h, i);
    if (i >= h->pairs) break;
    const float a = zmi_gpu_head_value<DTYPE, ALIKE>(r, h, first, j, &p->first),
                b = zmi_gpu_head_value<DTYPE, ALIKE>(r, h, second, j, &p->second);
    zmi_gpu_store(r->out, DTYPE, h->to + first, zk_fma(a, p->cosine[j], zk_neg_float(b * p->sine[j])));
    zmi_gpu_store(r->out, DTYPE, h->to + second, zk_fma(a, p->sine[j], b * p->cosine[j]));
  }
}

template <int DTYPE, bool ALIKE>
ZMI_INLINE void zmi_gpu_rests_load(const zmi_gpu_rotate *r, const zmi_gpu_head *h, int begin, zmi_gpu_rests *q) {
#pragma unroll
  for (int j = 0; j < ZMI_GPU_RESTS; j++) zmi_gpu_head_load<DTYPE, ALIKE>(r, h, begin + 32 * j < r->dim, begin + 32 * j, j, q);
}

template <int DTYPE, bool ALIKE>
ZMI_INLINE void zmi_gpu_rests_give(const zmi_gpu_rotate *r, const zmi_gpu_head *h, int begin, const zmi_gpu_rests *q) {
#pragma unroll
  for (int j = 0; j < ZMI_GPU_RESTS; j++) {
    const int i = begin + 32 * j;
    if (i < r->dim) zmi_gpu_store(r->out, DTYPE, h->to + i, zmi_gpu_head_value<DTYPE, ALIKE>(r, h, i, j, q));
  }
}

// Squares are added in the lane order; those behind the end are zeros, which change nothing.
template <int DTYPE> ZMI_INLINE float zmi_gpu_head_inverse(const zmi_gpu_rotate *r, long long from) {
  float sum = 0.0f;
  for (int begin = zmi_thread() % 16; begin < r->dim; begin += 16 * ZMI_GPU_TERMS) {
    unsigned x[ZMI_GPU_TERMS];
#pragma unroll
    for (int j = 0; j < ZMI_GPU_TERMS; j++) x[j] = begin + 16 * j < r->dim ? zmi_gpu_bits(r->x, DTYPE, from + begin + 16 * j) : 0u;
#pragma unroll
    for (int j = 0; j < ZMI_GPU_TERMS; j++) sum = zk_fma(zmi_gpu_value(x[j], DTYPE), zmi_gpu_value(x[j], DTYPE), sum);
  }
  return 1.0f / zk_sqrt(zmi_gpu_fold(sum) / (float)r->dim + r->eps);
}

// The first pairs come while the inverse is found: its shuffles stand before the first store, as in place is allowed.
template <int DTYPE, bool ALIKE> ZMI_INLINE void zmi_gpu_rotate_head(const zmi_gpu_rotate *r, int tile) {
  const long long row = zmi_gpu_row_of(tile, r->rows, r->heads), head = tile - row * r->heads;
  const int lane = zmi_thread() % 32, pairs = r->cosine ? r->pairs : 0;
  zmi_gpu_head h = {row * r->x_stride + head * r->dim, (long long)tile * r->dim, row * pairs, pairs, 0.0f};
  int begin = 0;
#pragma unroll 1
  do {
    zmi_gpu_pairs p;
    zmi_gpu_pairs_load<DTYPE, ALIKE>(r, &h, begin + lane, &p);
    if (begin == 0 && r->norm) h.inverse = zmi_gpu_head_inverse<DTYPE>(r, h.from);
    zmi_gpu_pairs_turn<DTYPE, ALIKE>(r, &h, begin + lane, &p);
    begin += 32 * ZMI_GPU_PAIRS;
  } while (begin < pairs);
#pragma unroll 1
  for (int i = 2 * pairs + lane; i < r->dim; i += 32 * ZMI_GPU_RESTS) {
    zmi_gpu_rests q;
    zmi_gpu_rests_load<DTYPE, ALIKE>(r, &h, i, &q);
    zmi_gpu_rests_give<DTYPE, ALIKE>(r, &h, i, &q);
  }
}

template <int DTYPE> ZMI_INLINE void zmi_gpu_rotate_tiles(const zmi_gpu_rotate *r, int tiles, int first, int step) {
#pragma unroll 1
  for (int t = first; t < tiles; t += step) {
    if (r->norm_dtype == DTYPE)
      zmi_gpu_rotate_head<DTYPE, true>(r, t);
    else
      zmi_gpu_rotate_head<DTYPE, false>(r, t);
  }
}

ZMI_INLINE void zmi_gpu_rotate_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_rotate r = in->as.rotate;
  const int first = zmi_gpu_first_of_warps(worker, workers, r.heads);
  (void)shared;
  ZMI_GPU_BY_DTYPE(r.dtype, zmi_gpu_rotate_tiles<DTYPE>(&r, in->tiles, first, workers * (ZMI_GPU_THREADS / 32)));
}

// ---- WRITE ----

// Should rows have one place, the last of them stays.
ZMI_INLINE bool zmi_gpu_is_overwritten(const zmi_gpu_write *w, int row, int position, int sequence) {
  const int *positions = zmi_gpu_at<const int>(w->position), *sequences = zmi_gpu_at<const int>(w->sequence);
  unsigned later = 0;
  for (int r = row + 1 + zmi_thread() % 32; r < w->rows; r += 32) later |= positions[r] == position && sequences[r] == sequence;
  return zmi_most(later) != 0;
}

ZMI_INLINE void zmi_gpu_write_head(const zmi_gpu_write *w, int tile) {
  enum { MOST = 4 }; // words of a lane, asked for together
  const int row = zmi_gpu_row_of(tile, w->rows, w->kv_heads), head = tile - row * w->kv_heads;
  const int p = zmi_gpu_at<const int>(w->position)[row], s = zmi_gpu_at<const int>(w->sequence)[row];
  // A pair of elements is one word of bfloat16, two of float32.
  const int words = zmi_gpu_size(w->dtype) / 2, all = w->dim / 2 * words;
  const unsigned *from = zmi_gpu_at<const unsigned>(w->from) + (long long)tile * all;
  const long long at = ((long long)s * w->kv_heads + head) * w->context + p;
  unsigned *to = zmi_gpu_at<unsigned>(w->cache);
  for (int begin = zmi_thread() % 32; begin - zmi_thread() % 32 < all; begin += 32 * MOST) {
    unsigned v[MOST];
#pragma unroll
    for (int j = 0; j < MOST; j++) v[j] = begin + 32 * j < all ? from[begin + 32 * j] : 0u;
    if (p < 0 || p >= w->context || s < 0 || s >= w->sequences || (w->rows > 1 && zmi_gpu_is_overwritten(w, row, p, s))) return;
    unsigned *place = to + (w->keys ? (at - p % ZMI_GPU_BLOCK) * all + p % ZMI_GPU_BLOCK * words : at * all);
#pragma unroll
    for (int j = 0; j < MOST; j++) {
      const int i = begin + 32 * j, odd = i & (words - 1);
      if (i < all) place[w->keys ? (i - odd) * ZMI_GPU_BLOCK + odd : i] = v[j];
    }
  }
}

ZMI_INLINE void zmi_gpu_write_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_write w = in->as.write;
  const int tiles = in->tiles, step = workers * (ZMI_GPU_THREADS / 32);
  (void)shared;
  for (int t = zmi_gpu_first_of_warps(worker, workers, (w.keys ? 1 : 3) * w.kv_heads); t < tiles; t += step) zmi_gpu_write_head(&w, t);
}
