// Attention (array/ops/attention.c): ranges of 128 positions, joined from left to right. Device text.
//
// A block goes through a range for up to 8 query heads of one kv head. Keys come into shared memory in parts as they lie in the cache, by
// loads of 16 bytes that are all under way at once; while scores are computed from them, the values are under way to registers.
// Scores: a thread has a position and half of the heads. Values: a thread has a pair of elements and one or two heads. So every sum runs
// in one thread, in the written order.

enum { ZMI_GPU_PART_LOADS = ZMI_GPU_PART / 16 / ZMI_GPU_THREADS };

// What a block works on.
typedef struct zmi_gpu_attend {
  const zmi_gpu_attention *a;
  int row, kv, first_head, heads; // heads: of the row, at most ZMI_GPU_QUERIES
  int range, count;               // count: positions of it that the row sees
  int size, part_pairs;           // bytes of an element; pairs of a part
  zmi_gpu_address keys, values;   // of the range
  char *part;
  float *queries, *p, *results, *running; // [pairs of a part][2][4][2], [8][128], [8][8]: maximum, sum, weights; [8][dim]
} zmi_gpu_attend;

typedef struct zmi_gpu_loads {
  zmi_gpu_words word[ZMI_GPU_PART_LOADS];
} zmi_gpu_loads;

ZMI_INLINE zmi_gpu_words zmi_gpu_no_words() {
  const zmi_gpu_words none = {{0, 0, 0, 0}};
  return none;
}

// ---- parts on their way ----

// u / units by a product, exact for u < 2048 and units <= 256: a quotient of integers takes as long as a load from shared memory.
ZMI_INLINE unsigned zmi_gpu_inverse(int units) {
  return ((1u << 20) + (unsigned)units - 1u) / (unsigned)units;
}
ZMI_INLINE int zmi_gpu_quotient(int u, unsigned inverse) {
  return (int)((unsigned)u * inverse >> 20);
}

ZMI_INLINE int zmi_gpu_part_pairs(const zmi_gpu_attend *w, int first) {
  const int left = w->a->dim / 2 - first;
  return left < w->part_pairs ? left : w->part_pairs;
}

// A part of the keys: of each block of 16 positions the pairs from `first` on, one after another.
ZMI_INLINE void zmi_gpu_keys_load(const zmi_gpu_attend *w, int first, zmi_gpu_loads *l) {
  const int line = 2 * ZMI_GPU_BLOCK * w->size, units = zmi_gpu_part_pairs(w, first) * line / 16; // of a block
  const int blocks = (w->count + ZMI_GPU_BLOCK - 1) / ZMI_GPU_BLOCK;
  const zmi_gpu_address from = w->keys + (zmi_gpu_address)(first * line);
  const unsigned inverse = zmi_gpu_inverse(units);
#pragma unroll
  for (int i = 0; i < ZMI_GPU_PART_LOADS; i++) {
    const int u = i * ZMI_GPU_THREADS + zmi_thread(), block = zmi_gpu_quotient(u, inverse);
    l->word[i] = zmi_gpu_no_words();
    if (block < blocks)
      l->word[i] = zmi_gpu_at<const zmi_gpu_words>(from + (zmi_gpu_address)block *
                                                              (zmi_gpu_address)(w->a->dim * ZMI_GPU_BLOCK * w->size))[u - block * units];
  }
}

ZMI_INLINE void zmi_gpu_keys_put(const zmi_gpu_attend *w, int first, const zmi_gpu_loads *l) {
  const int units = zmi_gpu_part_pairs(w, first) * 2 * ZMI_GPU_BLOCK * w->size / 16;
  const unsigned inverse = zmi_gpu_inverse(units);
#pragma unroll
  for (int i = 0; i < ZMI_GPU_PART_LOADS; i++) {
    const int u = i * ZMI_GPU_THREADS + zmi_thread(), block = zmi_gpu_quotient(u, inverse);
    if (block < ZMI_GPU_KEYS / ZMI_GPU_BLOCK) *(zmi_gpu_words *)(void *)(w->part + u * 16 + block * ZMI_GPU_SKEW) = l->word[i];
  }
}

// A part of the values: of each position the pairs from `first` on. Rows that are no multiples of 16 bytes come in words.
ZMI_INLINE bool zmi_gpu_values_wide(const zmi_gpu_attend *w) {
  return w->a->dim * w->size % 16 == 0;
}

ZMI_INLINE void zmi_gpu_values_load(const zmi_gpu_attend *w, int first, zmi_gpu_loads *l) {
  const int units = zmi_gpu_part_pairs(w, first) * 2 * w->size / 16;
  const zmi_gpu_address from = w->values + (zmi_gpu_address)(first * 2 * w->size);
  if (!zmi_gpu_values_wide(w)) return;
  const unsigned inverse = zmi_gpu_inverse(units);
#pragma unroll
  for (int i = 0; i < ZMI_GPU_PART_LOADS; i++) {
    const int u = i * ZMI_GPU_THREADS + zmi_thread(), position = zmi_gpu_quotient(u, inverse);
    l->word[i] = zmi_gpu_no_words();
    if (position < w->count)
      l->word[i] =
          zmi_gpu_at<const zmi_gpu_words>(from + (zmi_gpu_address)position * (zmi_gpu_address)(w->a->dim * w->size))[u - position * units];
  }
}

ZMI_INLINE void zmi_gpu_values_put(const zmi_gpu_attend *w, int first, const zmi_gpu_loads *l) {
  const int bytes = zmi_gpu_part_pairs(w, first) * 2 * w->size, units = bytes / 4;
  if (zmi_gpu_values_wide(w)) {
#pragma unroll
    for (int i = 0; i < ZMI_GPU_PART_LOADS; i++) {
      const int u = i * ZMI_GPU_THREADS + zmi_thread();
      if (u * 16 < w->count * bytes) *(zmi_gpu_words *)(void *)(w->part + u * 16) = l->word[i];
    }
    return;
  }
  const zmi_gpu_address from = w->values + (zmi_gpu_address)(first * 2 * w->size);
  for (int u = zmi_thread(); u < w->count * units; u += ZMI_GPU_THREADS) {
    const zmi_gpu_address row = from + (zmi_gpu_address)(u / units) * (zmi_gpu_address)(w->a->dim * w->size);
    ((unsigned *)(void *)w->part)[u] = zmi_gpu_at<const unsigned>(row)[u % units];
  }
}

// ---- scores ----

// Query heads that a half of the block has.
ZMI_INLINE int zmi_gpu_half_heads(const zmi_gpu_attend *w) {
  return (w->heads + 1) / 2;
}

// The part's pairs of the queries as floats; heads that are not there are zeros.
ZMI_INLINE void zmi_gpu_queries_put(const zmi_gpu_attend *w, int first) {
  const zmi_gpu_attention *a = w->a;
  const int pairs = zmi_gpu_part_pairs(w, first), per = zmi_gpu_half_heads(w);
  const unsigned inverse = zmi_gpu_inverse(2 * pairs);
  for (int i = zmi_thread(); i < pairs * 2 * ZMI_GPU_QUERIES; i += ZMI_GPU_THREADS) {
    const int slot = zmi_gpu_quotient(i, inverse), element = i - slot * 2 * pairs, head = slot / 4 * per + slot % 4;
    const bool there = slot % 4 < per && head < w->heads;
    const long long at = ((long long)w->row * a->heads + w->first_head + head) * a->dim + 2 * first + element;
    w->queries[element / 2 * 16 + slot * 2 + element % 2] = there ? zmi_gpu_load(a->q, a->dtype, at) : 0.0f;
  }
}

ZMI_INLINE float zmi_gpu_low(unsigned pair) {
  return zk_of_bits(pair << 16);
}
ZMI_INLINE float zmi_gpu_high(unsigned pair) {
  return zk_of_bits(pair & 0xffff0000u);
}

// COUNT heads of the thread's half go on with pairs [0, n) of the part.
template <bool WIDE, int COUNT> ZMI_INLINE void zmi_gpu_score_pairs(const char *keys, const float *queries, int n, float acc[4]) {
#pragma unroll 8
  for (int j = 0; j < n; j++) {
    float low, high;
    if (WIDE) {
      low = ((const float *)(const void *)keys)[j * 2 * ZMI_GPU_BLOCK];
      high = ((const float *)(const void *)keys)[j * 2 * ZMI_GPU_BLOCK + 1];
    } else {
      const unsigned pair = ((const unsigned *)(const void *)keys)[j * ZMI_GPU_BLOCK];
      low = zmi_gpu_low(pair);
      high = zmi_gpu_high(pair);
    }
#pragma unroll
    for (int q = 0; q < COUNT; q++) {
      acc[q] = zk_fma(high, queries[j * 16 + 2 * q + 1], acc[q]);
      acc[q] = zk_fma(low, queries[j * 16 + 2 * q], acc[q]);
    }
  }
}

ZMI_INLINE void zmi_gpu_score_part(const zmi_gpu_attend *w, int n, float acc[4]) {
  const int position = zmi_thread() % ZMI_GPU_KEYS, half = zmi_thread() / ZMI_GPU_KEYS, block = position / ZMI_GPU_BLOCK;
  const int per = zmi_gpu_half_heads(w);
  const char *keys = w->part + block * (n * 2 * ZMI_GPU_BLOCK * w->size + ZMI_GPU_SKEW) + position % ZMI_GPU_BLOCK * 2 * w->size;
  const float *queries = w->queries + half * 8;
  if (position >= w->count || half * per >= w->heads) return;
  if (w->size == 4)
    zmi_gpu_score_pairs<true, 4>(keys, queries, n, acc);
  else if (per == 1)
    zmi_gpu_score_pairs<false, 1>(keys, queries, n, acc);
  else if (per == 2)
    zmi_gpu_score_pairs<false, 2>(keys, queries, n, acc);
  else
    zmi_gpu_score_pairs<false, 4>(keys, queries, n, acc);
}

// p[head][position] = the scores. The loads of the first part of the values begin in between.
ZMI_INLINE void zmi_gpu_scores(const zmi_gpu_attend *w, zmi_gpu_loads *l) {
  const int pairs = w->a->dim / 2, position = zmi_thread() % ZMI_GPU_KEYS, half = zmi_thread() / ZMI_GPU_KEYS, per = zmi_gpu_half_heads(w);
  float acc[4] = {0, 0, 0, 0}, sum[4] = {0, 0, 0, 0};
  for (int first = 0; first < pairs; first += w->part_pairs) {
    const int n = zmi_gpu_part_pairs(w, first);
    zmi_gpu_keys_load(w, first, l);
    zmi_sync(); // what was there has been read
    zmi_gpu_keys_put(w, first, l);
    zmi_gpu_queries_put(w, first);
    zmi_sync();
    if (first + n == pairs) zmi_gpu_values_load(w, 0, l);
    zmi_gpu_score_part(w, n, acc);
    if ((first + n) % (ZMI_GPU_RANGE / 2) != 0 && first + n < pairs) continue;
#pragma unroll
    for (int q = 0; q < 4; q++) {
      sum[q] = sum[q] + acc[q];
      acc[q] = 0.0f;
    }
  }
#pragma unroll
  for (int q = 0; q < 4; q++) {
    const int head = half * per + q;
    if (q < per && head < w->heads) w->p[head * ZMI_GPU_KEYS + position] = position < w->count ? w->a->scale * sum[q] : 0.0f;
  }
  zmi_sync();
}

// A warp for each head: p = exp(p - the maximum), and the sum in the lane order.
ZMI_INLINE void zmi_gpu_range_softmax(const zmi_gpu_attend *w) {
  const int lane = zmi_thread() % 32, head = zmi_thread() / 32;
  float *p = w->p + head * ZMI_GPU_KEYS, most = zk_neg_float(zkp_infinity());
  bool nan = false;
  if (head < w->heads) {
    for (int t = lane; t < w->count; t += 32) {
      nan = nan || p[t] != p[t];
      most = p[t] > most ? p[t] : most;
    }
    most = zmi_gpu_warp_max(most, nan);
    for (int t = lane; t < w->count; t += 32) p[t] = zk_exp(p[t] - most);
    const float sum = zmi_gpu_warp_sum(p, w->count);
    if (lane == 0) {
      w->results[head * 8] = most;
      w->results[head * 8 + 1] = sum;
    }
  }
  zmi_sync();
}

// ---- values ----

// COUNT heads, the second of them `apart` heads further: sums of p * v over positions, for a pair of elements.
template <bool WIDE, int COUNT>
ZMI_INLINE void zmi_gpu_value_pairs(const char *values, int stride, const float *p, int apart, int count, float acc[4]) {
#pragma unroll 4
  for (int t = 0; t < count; t++) {
    float low, high;
    if (WIDE) {
      low = ((const float *)(const void *)(values + t * stride))[0];
      high = ((const float *)(const void *)(values + t * stride))[1];
    } else {
      const unsigned pair = *(const unsigned *)(const void *)(values + t * stride);
      low = zmi_gpu_low(pair);
      high = zmi_gpu_high(pair);
    }
#pragma unroll
    for (int q = 0; q < COUNT; q++) {
      acc[2 * q] = zk_fma(p[q * apart * ZMI_GPU_KEYS + t], low, acc[2 * q]);
      acc[2 * q + 1] = zk_fma(p[q * apart * ZMI_GPU_KEYS + t], high, acc[2 * q + 1]);
    }
  }
}

// Where a pair of elements of a head's values goes: to its partial result, or joined with what the ranges before came to.
ZMI_INLINE void zmi_gpu_value_give(const zmi_gpu_attend *w, int head, int pair, const float *acc) {
  const zmi_gpu_attention *a = w->a;
  if (a->split) {
    const long long at = ((long long)w->row * a->heads + w->first_head + head) * a->ranges + w->range;
    float *to = zmi_gpu_at<float>(a->partial) + at * (ZMI_GPU_HEAD + a->dim) + ZMI_GPU_HEAD + 2 * pair;
    to[0] = acc[0];
    to[1] = acc[1];
    return;
  }
  float *to = w->running + head * a->dim + 2 * pair;
  const float wa = w->results[head * 8 + 4], wb = w->results[head * 8 + 5];
  for (int i = 0; i < 2; i++) to[i] = w->range == 0 ? acc[i] : zk_fma(wb, acc[i], to[i] * wa);
}

ZMI_INLINE void zmi_gpu_values_part(const zmi_gpu_attend *w, int first, int n) {
  // Slots: as many heads at a time as there are threads for. A thread has a second head where there are four slots.
  const int wide = w->part_pairs, slots = ZMI_GPU_THREADS / wide, pair = zmi_thread() % wide, head = zmi_thread() / wide;
  const char *values = w->part + pair * 2 * w->size;
  const float *p = w->p + head * ZMI_GPU_KEYS;
  const bool two = head + slots < w->heads;
  float acc[4] = {0, 0, 0, 0};
  if (pair >= n || head >= w->heads) return;
  if (w->size == 4)
    zmi_gpu_value_pairs<true, 1>(values, n * 8, p, slots, w->count, acc);
  else if (two)
    zmi_gpu_value_pairs<false, 2>(values, n * 4, p, slots, w->count, acc);
  else
    zmi_gpu_value_pairs<false, 1>(values, n * 4, p, slots, w->count, acc);
  zmi_gpu_value_give(w, head, first + pair, acc);
  if (two) zmi_gpu_value_give(w, head + slots, first + pair, acc + 2);
}

ZMI_INLINE void zmi_gpu_values_all(const zmi_gpu_attend *w, zmi_gpu_loads *l) {
  const int pairs = w->a->dim / 2;
  for (int first = 0; first < pairs; first += w->part_pairs) {
    if (first > 0) {
      zmi_gpu_values_load(w, first, l);
      zmi_sync(); // the part before has been read
    }
    zmi_gpu_values_put(w, first, l);
    zmi_sync();
    zmi_gpu_values_part(w, first, zmi_gpu_part_pairs(w, first));
  }
}

// ---- joining ----

// Of maxima, the left one first.
ZMI_INLINE float zmi_gpu_join_max(float a, float b) {
  return b > a || b != b ? b : a;
}

ZMI_INLINE float zmi_gpu_join_weight(float max, float joined) {
  return joined == max ? 1.0f : zk_exp(max - joined);
}

// What stands in results of a head: maximum and sum of the range, maximum and sum so far, weights of what was and of the range.
ZMI_INLINE void zmi_gpu_range_join(const zmi_gpu_attend *w) {
  const zmi_gpu_attention *a = w->a;
  const int head = zmi_thread();
  if (head < w->heads) {
    float *r = w->results + head * 8;
    if (a->split) {
      const long long at = ((long long)w->row * a->heads + w->first_head + head) * a->ranges + w->range;
      zmi_gpu_at<float>(a->partial)[at * (ZMI_GPU_HEAD + a->dim)] = r[0];
      zmi_gpu_at<float>(a->partial)[at * (ZMI_GPU_HEAD + a->dim) + 1] = r[1];
    } else if (w->range == 0) {
      r[2] = r[0];
      r[3] = r[1];
    } else {
      const float max = zmi_gpu_join_max(r[2], r[0]);
      r[4] = zmi_gpu_join_weight(r[2], max);
      r[5] = zmi_gpu_join_weight(r[0], max);
      r[3] = zk_fma(r[5], r[1], r[4] * r[3]);
      r[2] = max;
    }
  }
  zmi_sync();
}

// ---- ATTEND ----

ZMI_DEVICE void zmi_gpu_attend_range(zmi_gpu_attend *w, int seen, int range) {
  const zmi_gpu_attention *a = w->a;
  const int sequence = zmi_gpu_at<const int>(a->sequence)[w->row], first = range * ZMI_GPU_KEYS;
  const zmi_gpu_address at =
      (((zmi_gpu_address)sequence * (zmi_gpu_address)a->kv_heads + (zmi_gpu_address)w->kv) * (zmi_gpu_address)a->context +
       (zmi_gpu_address)first) *
      (zmi_gpu_address)(a->dim * w->size);
  zmi_gpu_loads loads;
  w->range = range;
  w->count = seen - first < ZMI_GPU_KEYS ? seen - first : ZMI_GPU_KEYS;
  w->keys = a->keys + at;
  w->values = a->values + at;
  zmi_gpu_scores(w, &loads);
  zmi_gpu_range_softmax(w);
  zmi_gpu_range_join(w);
  zmi_gpu_values_all(w, &loads);
}

// Positions that a row sees; 0 if its position or sequence is out of range.
ZMI_INLINE int zmi_gpu_seen(const zmi_gpu_attention *a, int row) {
  const int p = zmi_gpu_at<const int>(a->position)[row], s = zmi_gpu_at<const int>(a->sequence)[row];
  return p < 0 || p >= a->context || s < 0 || s >= a->sequences ? 0 : p + 1;
}

ZMI_DEVICE void zmi_gpu_attend_finish(const zmi_gpu_attend *w, int seen) {
  const zmi_gpu_attention *a = w->a;
  zmi_sync();
  for (int i = zmi_thread(); i < w->heads * a->dim; i += ZMI_GPU_THREADS) {
    const float y = seen ? w->running[i] / w->results[i / a->dim * 8 + 3] : 0.0f;
    zmi_gpu_store(a->out, a->dtype, ((long long)w->row * a->heads + w->first_head) * a->dim + i, y);
  }
}

ZMI_DEVICE void zmi_gpu_attend_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_attention *a = &in->as.attention;
  const int ranges = a->split ? a->ranges : 1, group = a->heads / a->kv_heads;
  zmi_gpu_attend w;
  w.a = a;
  w.size = zmi_gpu_size(a->dtype);
  w.part_pairs = 128 / w.size;
  w.part = shared;
  w.queries = (float *)(void *)(shared + ZMI_GPU_PART + ZMI_GPU_KEYS / ZMI_GPU_BLOCK * ZMI_GPU_SKEW);
  w.p = w.queries + 64 * ZMI_GPU_QUERIES * 2;
  w.results = w.p + ZMI_GPU_QUERIES * ZMI_GPU_KEYS;
  w.running = w.results + ZMI_GPU_QUERIES * 8;
  for (int t = worker; t < in->tiles; t += workers) {
    w.row = t / ranges / a->kv_heads;
    w.kv = t / ranges % a->kv_heads;
    const int seen = zmi_gpu_seen(a, w.row), reach = (seen + ZMI_GPU_KEYS - 1) / ZMI_GPU_KEYS, range = t % ranges;
    for (int q = 0; q < group; q += ZMI_GPU_QUERIES) {
      w.first_head = w.kv * group + q;
      w.heads = group - q < ZMI_GPU_QUERIES ? group - q : ZMI_GPU_QUERIES;
      if (a->split) {
        if (range < reach) zmi_gpu_attend_range(&w, seen, range);
        continue;
      }
      for (int r = 0; r < reach; r++) zmi_gpu_attend_range(&w, seen, r);
      zmi_gpu_attend_finish(&w, seen);
    }
  }
}

// ---- JOIN ----

// Ranges [first, first + n) of a head, n <= 256: wa[i] and wb[i], the weights of what stands on the left of range first + i and of it. A
// thread for each range; `before`: the maximum of the ranges before, if there are any. Returns the maximum of all.
ZMI_INLINE float zmi_gpu_join_weights(float own, int n, bool any, float before, float *wa, float *wb, float *tops) {
  const int i = zmi_thread(), lane = i % 32;
  const float none = zk_neg_float(zkp_infinity());
  float max = i < n ? own : none;
  for (int step = 1; step < 32; step *= 2) {
    const float left = zmi_shuffle_float(max, lane >= step ? lane - step : lane);
    if (lane >= step) max = zmi_gpu_join_max(left, max);
  }
  if (lane == 31) tops[i / 32] = max;
  const float beside = zmi_shuffle_float(max, lane ? lane - 1 : 0);
  zmi_sync();
  float left = any ? before : none, all = left;
  for (int k = 0; k < i / 32; k++) left = zmi_gpu_join_max(left, tops[k]);
  for (int k = 0; k < ZMI_GPU_THREADS / 32; k++) all = zmi_gpu_join_max(all, tops[k]);
  max = zmi_gpu_join_max(left, max);
  if (lane > 0) left = zmi_gpu_join_max(left, beside);
  wa[i] = zmi_gpu_join_weight(left, max);
  wb[i] = zmi_gpu_join_weight(own, max);
  zmi_sync();
  return all;
}

ZMI_DEVICE void zmi_gpu_join_head(const zmi_gpu_attention *a, int tile, float *shared) {
  enum { MOST = 4 }; // elements of a thread: heads have at most 1024
  const int seen = zmi_gpu_seen(a, tile / a->heads), ranges = (seen + ZMI_GPU_KEYS - 1) / ZMI_GPU_KEYS;
  const long long step = ZMI_GPU_HEAD + a->dim;
  const float *partial = zmi_gpu_at<const float>(a->partial) + (long long)tile * a->ranges * step;
  float *wa = shared, *wb = wa + ZMI_GPU_THREADS, *sums = wb + ZMI_GPU_THREADS, *tops = sums + ZMI_GPU_THREADS;
  float value[MOST] = {0, 0, 0, 0}, sum = 0.0f, before = 0.0f;
  for (int first = 0; first < ranges; first += ZMI_GPU_THREADS) {
    const int n = ranges - first < ZMI_GPU_THREADS ? ranges - first : ZMI_GPU_THREADS;
    const float own = zmi_thread() < n ? partial[(first + zmi_thread()) * step] : 0.0f;
    zmi_sync(); // what was there has been read
    if (zmi_thread() < n) sums[zmi_thread()] = partial[(first + zmi_thread()) * step + 1];
    before = zmi_gpu_join_weights(own, n, first > 0, before, wa, wb, tops);
#pragma unroll 8
    for (int i = 0; i < n; i++) {
      const bool start = first + i == 0;
      const float *from = partial + (first + i) * step + ZMI_GPU_HEAD + zmi_thread();
      sum = start ? sums[i] : zk_fma(wb[i], sums[i], wa[i] * sum);
#pragma unroll
      for (int e = 0; e < MOST; e++) {
        if (e * ZMI_GPU_THREADS + zmi_thread() >= a->dim) continue;
        const float v = from[e * ZMI_GPU_THREADS];
        value[e] = start ? v : zk_fma(wb[i], v, value[e] * wa[i]);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < MOST; e++) {
    const int i = e * ZMI_GPU_THREADS + zmi_thread();
    if (i < a->dim) zmi_gpu_store(a->out, a->dtype, (long long)tile * a->dim + i, ranges ? value[e] / sum : 0.0f);
  }
}

ZMI_DEVICE void zmi_gpu_join_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  for (int t = worker; t < in->tiles; t += workers) zmi_gpu_join_head(&in->as.attention, t, (float *)(void *)shared);
}
