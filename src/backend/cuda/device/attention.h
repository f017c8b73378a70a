// Attention (array/ops/attention.c): ranges of 128 positions, joined from left to right. Device text.
//
// A block goes through a range for up to 8 query heads of one kv head. Keys and values come to shared memory in stages by asynchronous
// copies: first pairs [0, n) of all keys, and so on, then values of some positions, and so on. If there is room for all of them they are
// asked for at once, else two are on their way or at hand.
// Scores: a thread has a position and half of the heads. Values: a thread has a pair of elements and one or two heads. So every sum runs
// in one thread, in the written order. WIDE: elements are float32, else bfloat16.

enum {
  ZMI_GPU_STAGE = ZMI_GPU_PART / 2,
  ZMI_GPU_SKEWS = ZMI_GPU_KEYS / ZMI_GPU_BLOCK / 2 * ZMI_GPU_SKEW, // bytes of them in a stage of keys
  ZMI_GPU_ROOM = ZMI_GPU_PART + 2 * ZMI_GPU_SKEWS,
  ZMI_GPU_QUERY_ROW = 2 * ZMI_GPU_QUERIES, // floats from a pair of the queries to the next one
  ZMI_GPU_FEWEST = 1                       // a block takes 2^1 heads at least: one alone would not be sooner ready
};

template <bool WIDE> constexpr int zmi_gpu_wide_size = WIDE ? 4 : 2;          // bytes of an element
template <bool WIDE> constexpr int zmi_gpu_key_most = 64 / (WIDE ? 4 : 2);    // pairs of a stage of keys
template <bool WIDE> constexpr int zmi_gpu_value_most = 128 / (WIDE ? 4 : 2); // pairs of a stage of values
template <bool WIDE> constexpr int zmi_gpu_wide_dtype = WIDE ? ZMI_GPU_F32 : ZMI_GPU_BF16;

// What a block works on. Stages of values: columns of pairs, each in one turn or (halved = 1) two of `each` positions.
typedef struct zmi_gpu_attend {
  const zmi_gpu_attention *a;
  int row, sequence, kv, first_head, heads; // heads: of the row, at most ZMI_GPU_QUERIES
  int range, count;                         // count: positions of it that the row sees
  int asked, key_stages, stages, key_bytes; // stages asked for, of keys, all; bytes of a stage of keys if there is room for all, else 0
  int halved, each;
  zmi_gpu_address keys, values; // of the range
  char *part;
  float *queries, *p, *results, *running; // [pairs of two stages][8][2], [8][128], [8][8]: maximum, sum, weights; [8][dim]
} zmi_gpu_attend;

typedef struct alignas(16) zmi_gpu_quad {
  float f[4];
} zmi_gpu_quad;
typedef struct alignas(8) zmi_gpu_couple {
  float f[2];
} zmi_gpu_couple;

// ---- stages on their way ----

// Of stage i of `most` pairs each: how many pairs it has.
ZMI_INLINE int zmi_gpu_stage_pairs(const zmi_gpu_attention *a, int i, int most) {
  const int left = a->dim / 2 - i * most;
  return left < most ? left : most;
}

ZMI_INLINE int zmi_gpu_key_blocks(const zmi_gpu_attend *w) {
  return (w->count + ZMI_GPU_BLOCK - 1) / ZMI_GPU_BLOCK;
}

// Where stage s lies.
ZMI_INLINE char *zmi_gpu_stage_at(const zmi_gpu_attend *w, int s) {
  if (!w->key_bytes) return w->part + s % 2 * (ZMI_GPU_STAGE + ZMI_GPU_SKEWS);
  return w->part + (s < w->key_stages ? s * w->key_bytes : w->key_stages * w->key_bytes + (s - w->key_stages) * ZMI_GPU_STAGE);
}

// Bytes before a block of 16 positions of keys, besides the blocks: neighbours, which a warp reads together, lie in different banks.
ZMI_INLINE int zmi_gpu_skew(int block) {
  return (block + 1) / 2 * ZMI_GPU_SKEW;
}

// Pairs of all keys: of each block of 16 positions one pair after another. 128 threads take a block, without a quotient.
template <bool WIDE> ZMI_INLINE void zmi_gpu_keys_ask(const zmi_gpu_attend *w, int s) {
  enum { TOGETHER = ZMI_GPU_THREADS / 128 };
  const int most = zmi_gpu_key_most<WIDE>, line = 2 * ZMI_GPU_BLOCK * zmi_gpu_wide_size<WIDE>, blocks = zmi_gpu_key_blocks(w);
  const int bytes = zmi_gpu_stage_pairs(w->a, s, most) * line, at = zmi_thread() % 128 * 16; // of a block; at most 128 copies
  const zmi_gpu_address step = (zmi_gpu_address)(w->a->dim / 2 * line), from = w->keys + (zmi_gpu_address)(s * most * line + at);
  char *to = zmi_gpu_stage_at(w, s) + at;
#pragma unroll
  for (int i = 0; i < ZMI_GPU_KEYS / ZMI_GPU_BLOCK / TOGETHER; i++) {
    const int block = zmi_thread() / 128 + TOGETHER * i;
    if (block < blocks && at < bytes)
      zmi_copy_async(to + block * bytes + zmi_gpu_skew(block), zmi_gpu_at<const char>(from + (zmi_gpu_address)block * step));
  }
}

// Stage s, a turn of a column of the values: 8 or 16 threads take a position. Rows that are no multiples of 16 bytes come in words.
template <bool WIDE> ZMI_INLINE void zmi_gpu_values_ask(const zmi_gpu_attend *w, int s) {
  const int most = zmi_gpu_value_most<WIDE>, size = zmi_gpu_wide_size<WIDE>, column = (s - w->key_stages) >> w->halved;
  const int first = ((s - w->key_stages) & w->halved) * w->each, left = w->count - first, rows = left < w->each ? left : w->each;
  const int bytes = zmi_gpu_stage_pairs(w->a, column, most) * 2 * size, width = w->a->dim * size;
  const zmi_gpu_address from = w->values + (zmi_gpu_address)(first * width + column * most * 2 * size);
  char *to = zmi_gpu_stage_at(w, s);
  if (width % 16 != 0) {
#pragma unroll 1
    for (int row = zmi_thread() >> 4; row < rows; row += ZMI_GPU_THREADS / 16) {
#pragma unroll 1
      for (int at = (zmi_thread() & 15) * 4; at < bytes; at += 64)
        zmi_copy_word_async(to + row * bytes + at, zmi_gpu_at<const char>(from + (zmi_gpu_address)(row * width + at)));
    }
    return;
  }
  const int shift = w->each == ZMI_GPU_KEYS ? 3 : 4, at = (zmi_thread() & ((1 << shift) - 1)) * 16;
#pragma unroll
  for (int i = 0; i < ZMI_GPU_STAGE / 16 / ZMI_GPU_THREADS; i++) {
    const int row = (i * ZMI_GPU_THREADS + zmi_thread()) >> shift;
    if (row < rows && at < bytes) zmi_copy_async(to + row * bytes + at, zmi_gpu_at<const char>(from + (zmi_gpu_address)(row * width + at)));
  }
}

// Asks for further stages: those in front of `last`, or all if there is room for them.
template <bool WIDE> ZMI_INLINE void zmi_gpu_stages_ask(zmi_gpu_attend *w, int last) {
  const int end = w->key_bytes || last > w->stages ? w->stages : last;
  for (; w->asked < end; w->asked++) {
    if (w->asked < w->key_stages)
      zmi_gpu_keys_ask<WIDE>(w, w->asked);
    else
      zmi_gpu_values_ask<WIDE>(w, w->asked);
    zmi_copy_commit();
  }
}

// Stage s is here for all threads, and they are done with the stage before.
ZMI_INLINE void zmi_gpu_stage_wait(const zmi_gpu_attend *w, int s) {
  zmi_copy_wait((unsigned)(w->asked - s - 1));
  zmi_sync();
}

// ---- scores ----

// Query heads that a half of the block has.
ZMI_INLINE int zmi_gpu_half_heads(const zmi_gpu_attend *w) {
  return (w->heads + 1) / 2;
}

// The query head in slot zmi_thread() / 32 of 8, four of each half; -1 if it has none.
ZMI_INLINE int zmi_gpu_slot_head(const zmi_gpu_attend *w) {
  const int slot = zmi_thread() / 32, per = zmi_gpu_half_heads(w), head = slot / 4 * per + slot % 4;
  return slot % 4 < per && head < w->heads ? head : -1;
}

ZMI_INLINE float zmi_gpu_low(unsigned pair) {
  return zk_of_bits(pair << 16);
}
ZMI_INLINE float zmi_gpu_high(unsigned pair) {
  return zk_of_bits(pair & 0xffff0000u);
}

// Pairs [first, last) of the queries, at most those of two stages: a warp has a head, a lane every 32nd pair.
template <bool WIDE> ZMI_INLINE void zmi_gpu_queries_put(const zmi_gpu_attend *w, int first, int last) {
  enum { MOST = WIDE ? 1 : 2, KEPT = 2 * zmi_gpu_key_most<WIDE> };
  const zmi_gpu_attention *a = w->a;
  const int head = zmi_gpu_slot_head(w), end = last < a->dim / 2 ? last : a->dim / 2;
  const long long at = (((long long)w->row * a->heads + w->first_head + head) * a->dim / 2) * (WIDE ? 2 : 1);
  const unsigned *from = zmi_gpu_at<const unsigned>(a->q) + at;
  unsigned low[MOST], high[MOST]; // low: both elements of a pair, if they are narrow
#pragma unroll
  for (int j = 0; j < MOST; j++) {
    const int pair = first + zmi_thread() % 32 + 32 * j;
    const bool there = head >= 0 && pair < end;
    low[j] = there ? from[WIDE ? 2 * pair : pair] : 0u;
    high[j] = WIDE && there ? from[2 * pair + 1] : 0u;
  }
#pragma unroll
  for (int j = 0; j < MOST; j++) {
    const int pair = first + zmi_thread() % 32 + 32 * j;
    const zmi_gpu_couple both = {{WIDE ? zk_of_bits(low[j]) : zmi_gpu_low(low[j]), WIDE ? zk_of_bits(high[j]) : zmi_gpu_high(low[j])}};
    if (head >= 0 && pair < end) *(zmi_gpu_couple *)(void *)(w->queries + pair % KEPT * ZMI_GPU_QUERY_ROW + zmi_thread() / 32 * 2) = both;
  }
}

// COUNT heads of the thread's half go on with pairs [0, n) of the part.
template <bool WIDE, int COUNT> ZMI_INLINE void zmi_gpu_score_pairs(const char *keys, const float *queries, int n, float acc[4]) {
#pragma unroll(COUNT == 4 ? 4 : 8)
  for (int j = 0; j < n; j++) {
    float low, high, q[8];
    if (WIDE) {
      const zmi_gpu_couple pair = *(const zmi_gpu_couple *)(const void *)(keys + j * 8 * ZMI_GPU_BLOCK);
      low = pair.f[0];
      high = pair.f[1];
    } else {
      const unsigned pair = ((const unsigned *)(const void *)keys)[j * ZMI_GPU_BLOCK];
      low = zmi_gpu_low(pair);
      high = zmi_gpu_high(pair);
    }
    const float *at = queries + j * ZMI_GPU_QUERY_ROW;
#pragma unroll
    for (int i = 0; i < (COUNT + 1) / 2; i++) {
      if (COUNT == 1)
        *(zmi_gpu_couple *)(void *)q = *(const zmi_gpu_couple *)(const void *)at;
      else
        *(zmi_gpu_quad *)(void *)(q + 4 * i) = *(const zmi_gpu_quad *)(const void *)(at + 4 * i);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      acc[i] = zk_fma(high, q[2 * i + 1], acc[i]);
      acc[i] = zk_fma(low, q[2 * i], acc[i]);
    }
  }
}

// Stage s of the keys, n pairs.
template <bool WIDE> ZMI_INLINE void zmi_gpu_score_stage(const zmi_gpu_attend *w, int s, int n, float acc[4]) {
  const int position = zmi_thread() % ZMI_GPU_KEYS, half = zmi_thread() / ZMI_GPU_KEYS, block = position / ZMI_GPU_BLOCK;
  const int size = zmi_gpu_wide_size<WIDE>, per = zmi_gpu_half_heads(w);
  const char *keys =
      zmi_gpu_stage_at(w, s) + block * n * 2 * ZMI_GPU_BLOCK * size + zmi_gpu_skew(block) + position % ZMI_GPU_BLOCK * 2 * size;
  const float *queries = w->queries + s % 2 * zmi_gpu_key_most<WIDE> * ZMI_GPU_QUERY_ROW + half * 8;
  if (position >= w->count || half * per >= w->heads) return;
  if (per == 1)
    zmi_gpu_score_pairs<WIDE, 1>(keys, queries, n, acc);
  else if (per == 2)
    zmi_gpu_score_pairs<WIDE, 2>(keys, queries, n, acc);
  else
    zmi_gpu_score_pairs<WIDE, 4>(keys, queries, n, acc);
}

// p[head][position] = the scores.
template <bool WIDE> ZMI_INLINE void zmi_gpu_scores(zmi_gpu_attend *w) {
  const int most = zmi_gpu_key_most<WIDE>, pairs = w->a->dim / 2;
  const int position = zmi_thread() % ZMI_GPU_KEYS, half = zmi_thread() / ZMI_GPU_KEYS, per = zmi_gpu_half_heads(w);
  float acc[4] = {0, 0, 0, 0}, sum[4] = {0, 0, 0, 0};
  for (int s = 0; s < w->key_stages; s++) {
    const int n = zmi_gpu_stage_pairs(w->a, s, most), end = s * most + n;
    zmi_gpu_stage_wait(w, s);
    if (s > 0) {
      zmi_gpu_stages_ask<WIDE>(w, s + 2);
      if (end < pairs) zmi_gpu_queries_put<WIDE>(w, end, end + most);
    }
    zmi_gpu_score_stage<WIDE>(w, s, n, acc);
    if (end % (ZMI_GPU_RANGE / 2) != 0 && end < pairs) continue;
#pragma unroll
    for (int q = 0; q < 4; q++) {
      sum[q] = sum[q] + acc[q];
      acc[q] = 0.0f;
    }
  }
#pragma unroll
  for (int q = 0; q < 4; q++) {
    const int head = half * per + q;
    if (q < per && head < w->heads) w->p[head * ZMI_GPU_KEYS + position] = w->a->scale * sum[q];
  }
  zmi_sync();
}

// The partial result of a range of a head of a row.
ZMI_INLINE float *zmi_gpu_partial_at(const zmi_gpu_attention *a, int row, int head, int range) {
  return zmi_gpu_at<float>(a->partial) + (long long)((row * a->heads + head) * a->ranges + range) * (ZMI_GPU_HEAD + a->dim);
}

ZMI_INLINE float *zmi_gpu_partial_of(const zmi_gpu_attend *w, int head) {
  return zmi_gpu_partial_at(w->a, w->row, w->first_head + head, w->range);
}

// A warp for each head: p = exp(p - the maximum), and the sum in the lane order.
template <bool SPLIT> ZMI_INLINE void zmi_gpu_range_softmax(const zmi_gpu_attend *w) {
  enum { EACH = ZMI_GPU_KEYS / 32 };
  const int lane = zmi_thread() % 32, head = zmi_thread() / 32;
  float *p = w->p + head * ZMI_GPU_KEYS, x[EACH], most = zk_neg_float(zkp_infinity());
  bool nan = false;
  if (head >= w->heads) return;
#pragma unroll
  for (int j = 0; j < EACH; j++) x[j] = p[lane + 32 * j];
#pragma unroll
  for (int j = 0; j < EACH; j++) {
    const bool there = lane + 32 * j < w->count;
    nan = nan || (there && x[j] != x[j]);
    most = there && x[j] > most ? x[j] : most;
  }
  most = zmi_gpu_warp_max(most, nan);
#pragma unroll
  for (int j = 0; j < EACH; j++) {
    x[j] = zk_exp(x[j] - most);
    p[lane + 32 * j] = x[j];
  }
  const float sum = zmi_gpu_lane_sum<EACH>(x, w->count);
  if (lane > 0) return;
  float *to = SPLIT ? zmi_gpu_partial_of(w, head) : w->results + head * 8;
  to[0] = most;
  to[1] = sum;
}

// ---- values ----

// A position of COUNT heads with these p: acc += p * v for a pair of elements.
template <bool WIDE, int COUNT> ZMI_INLINE void zmi_gpu_value_pair(const char *value, const float p[COUNT], float acc[4]) {
  float low, high;
  if (WIDE) {
    const zmi_gpu_couple pair = *(const zmi_gpu_couple *)(const void *)value;
    low = pair.f[0];
    high = pair.f[1];
  } else {
    const unsigned pair = *(const unsigned *)(const void *)value;
    low = zmi_gpu_low(pair);
    high = zmi_gpu_high(pair);
  }
#pragma unroll
  for (int q = 0; q < COUNT; q++) {
    acc[2 * q] = zk_fma(p[q], low, acc[2 * q]);
    acc[2 * q + 1] = zk_fma(p[q], high, acc[2 * q + 1]);
  }
}

// All positions, `stride` bytes apart; the second head's p are `apart` floats behind the first one's.
template <bool WIDE, int COUNT>
ZMI_INLINE void zmi_gpu_value_pairs(const char *values, int stride, const float *p, int apart, int count, float acc[4]) {
  int t = 0;
#pragma unroll 4
  for (; t + 4 <= count; t += 4) {
    zmi_gpu_quad four[COUNT];
#pragma unroll
    for (int q = 0; q < COUNT; q++) four[q] = *(const zmi_gpu_quad *)(const void *)(p + q * apart + t);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float each[COUNT];
#pragma unroll
      for (int q = 0; q < COUNT; q++) each[q] = four[q].f[i];
      zmi_gpu_value_pair<WIDE, COUNT>(values + (t + i) * stride, each, acc);
    }
  }
#pragma unroll 1
  for (; t < count; t++) {
    float each[COUNT];
#pragma unroll
    for (int q = 0; q < COUNT; q++) each[q] = p[q * apart + t];
    zmi_gpu_value_pair<WIDE, COUNT>(values + t * stride, each, acc);
  }
}

// Where a pair of elements of a head's values goes: to its partial result, or joined with what the ranges before came to.
template <bool SPLIT> ZMI_INLINE void zmi_gpu_value_give(const zmi_gpu_attend *w, int head, int pair, const float *acc) {
  if (SPLIT) {
    const zmi_gpu_couple both = {{acc[0], acc[1]}};
    *(zmi_gpu_couple *)(void *)(zmi_gpu_partial_of(w, head) + ZMI_GPU_HEAD + 2 * pair) = both;
    return;
  }
  float *to = w->running + head * w->a->dim + 2 * pair;
  const float wa = w->results[head * 8 + 4], wb = w->results[head * 8 + 5];
  for (int i = 0; i < 2; i++) to[i] = w->range == 0 ? acc[i] : zk_fma(wb, acc[i], to[i] * wa);
}

template <bool WIDE, bool SPLIT> ZMI_INLINE void zmi_gpu_values_column(zmi_gpu_attend *w, int column) {
  // Slots: as many heads at a time as there are threads for. A thread has a second head where there are four slots.
  const int most = zmi_gpu_value_most<WIDE>, slots = ZMI_GPU_THREADS / most, pair = zmi_thread() % most, head = zmi_thread() / most;
  const int size = zmi_gpu_wide_size<WIDE>, n = zmi_gpu_stage_pairs(w->a, column, most);
  const bool there = pair < n && head < w->heads, two = !WIDE && head + slots < w->heads;
  float acc[4] = {0, 0, 0, 0};
  for (int turn = 0; turn <= w->halved; turn++) {
    const int s = w->key_stages + (column << w->halved) + turn, first = turn * w->each, left = w->count - first;
    const int count = left < w->each ? left : w->each;
    const float *p = w->p + head * ZMI_GPU_KEYS + first;
    zmi_gpu_stage_wait(w, s);
    if (s > w->key_stages) zmi_gpu_stages_ask<WIDE>(w, s + 2);
    const char *values = zmi_gpu_stage_at(w, s) + pair * 2 * size;
    if (there && two)
      zmi_gpu_value_pairs<WIDE, 2>(values, n * 2 * size, p, slots * ZMI_GPU_KEYS, count, acc);
    else if (there)
      zmi_gpu_value_pairs<WIDE, 1>(values, n * 2 * size, p, 0, count, acc);
  }
  if (there) zmi_gpu_value_give<SPLIT>(w, head, column * most + pair, acc);
  if (there && two) zmi_gpu_value_give<SPLIT>(w, head + slots, column * most + pair, acc + 2);
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
  float *r = w->results + zmi_thread() * 8;
  zmi_sync();
  if (zmi_thread() < w->heads && w->range == 0) {
    r[2] = r[0];
    r[3] = r[1];
  } else if (zmi_thread() < w->heads) {
    const float max = zmi_gpu_join_max(r[2], r[0]);
    r[4] = zmi_gpu_join_weight(r[2], max);
    r[5] = zmi_gpu_join_weight(r[0], max);
    r[3] = zk_fma(r[5], r[1], r[4] * r[3]);
    r[2] = max;
  }
  zmi_sync();
}

// ---- ATTEND ----

// How a range comes: which stages, and where they lie.
template <bool WIDE> ZMI_INLINE void zmi_gpu_attend_plan(zmi_gpu_attend *w) {
  const int size = zmi_gpu_wide_size<WIDE>, pairs = w->a->dim / 2, key_most = zmi_gpu_key_most<WIDE>, most = zmi_gpu_value_most<WIDE>;
  const int columns = (pairs + most - 1) / most;
  const int key_bytes = zmi_gpu_key_blocks(w) * (pairs < key_most ? pairs : key_most) * 2 * ZMI_GPU_BLOCK * size + ZMI_GPU_SKEWS;
  w->each = pairs * 2 <= most ? ZMI_GPU_KEYS : ZMI_GPU_KEYS / 2;
  w->halved = w->count > w->each;
  w->key_stages = (pairs + key_most - 1) / key_most;
  w->stages = w->key_stages + (columns << w->halved);
  w->key_bytes = w->key_stages * key_bytes + (columns << w->halved) * ZMI_GPU_STAGE <= ZMI_GPU_ROOM ? key_bytes : 0;
  w->asked = 0;
}

// seen: positions that the row sees, more than there are before the range.
template <bool WIDE, bool SPLIT> ZMI_INLINE void zmi_gpu_attend_range(zmi_gpu_attend *w, int seen, int range) {
  const zmi_gpu_attention *a = w->a;
  const int first = range * ZMI_GPU_KEYS, most = zmi_gpu_value_most<WIDE>;
  const zmi_gpu_address at =
      (((zmi_gpu_address)w->sequence * (zmi_gpu_address)a->kv_heads + (zmi_gpu_address)w->kv) * (zmi_gpu_address)a->context +
       (zmi_gpu_address)first) *
      (zmi_gpu_address)(a->dim * zmi_gpu_wide_size<WIDE>);
  w->range = range;
  w->count = seen - first < ZMI_GPU_KEYS ? seen - first : ZMI_GPU_KEYS;
  w->keys = a->keys + at;
  w->values = a->values + at;
  zmi_gpu_attend_plan<WIDE>(w);
  zmi_sync(); // what was there has been read
  zmi_gpu_stages_ask<WIDE>(w, 2);
  zmi_gpu_queries_put<WIDE>(w, 0, 2 * zmi_gpu_key_most<WIDE>);
  zmi_gpu_scores<WIDE>(w);
  zmi_gpu_stages_ask<WIDE>(w, w->key_stages + 2);
  zmi_gpu_range_softmax<SPLIT>(w);
  if (!SPLIT) zmi_gpu_range_join(w);
  for (int column = 0; column * most < a->dim / 2; column++) zmi_gpu_values_column<WIDE, SPLIT>(w, column);
}

// Positions that a row sees; 0 if its position or sequence is out of range.
ZMI_INLINE int zmi_gpu_seen(const zmi_gpu_attention *a, int position, int sequence) {
  return position < 0 || position >= a->context || sequence < 0 || sequence >= a->sequences ? 0 : position + 1;
}

// Heads [q, q + most) of a kv head's group.
ZMI_INLINE void zmi_gpu_attend_heads(zmi_gpu_attend *w, int group, int q, int most) {
  w->first_head = w->kv * group + q;
  w->heads = group - q < most ? group - q : most;
}

template <bool WIDE> ZMI_INLINE void zmi_gpu_attend_finish(const zmi_gpu_attend *w, int seen) {
  const zmi_gpu_attention *a = w->a;
  zmi_sync();
  for (int i = zmi_thread(); i < w->heads * a->dim; i += ZMI_GPU_THREADS) {
    const float y = seen ? w->running[i] / w->results[i / a->dim * 8 + 3] : 0.0f;
    zmi_gpu_store(a->out, zmi_gpu_wide_dtype<WIDE>, ((long long)w->row * a->heads + w->first_head) * a->dim + i, y);
  }
}

// A block takes all ranges of a kv head of a row.
template <bool WIDE> ZMI_INLINE void zmi_gpu_attend_rows(zmi_gpu_attend *w, int tiles, int worker, int workers) {
  const zmi_gpu_attention *a = w->a;
  const int group = a->heads / a->kv_heads;
  for (int t = worker; t < tiles; t += workers) {
    w->row = t / a->kv_heads;
    w->kv = t - w->row * a->kv_heads;
    w->sequence = zmi_gpu_at<const int>(a->sequence)[w->row];
    const int seen = zmi_gpu_seen(a, zmi_gpu_at<const int>(a->position)[w->row], w->sequence);
    for (int q = 0; q < group; q += ZMI_GPU_QUERIES) {
      zmi_gpu_attend_heads(w, group, q, ZMI_GPU_QUERIES);
      for (int r = 0; r * ZMI_GPU_KEYS < seen; r++) zmi_gpu_attend_range<WIDE, false>(w, seen, r);
      zmi_gpu_attend_finish<WIDE>(w, seen);
    }
  }
}

// A block takes a range of a kv head of a row, for 8 of its heads, or for fewer as long as there are blocks for them. A lane knows where
// its row stands.
template <bool WIDE> ZMI_INLINE void zmi_gpu_attend_ranges(zmi_gpu_attend *w, int worker, int workers) {
  const zmi_gpu_attention *a = w->a;
  const int lane = zmi_thread() % 32, group = a->heads / a->kv_heads;
  const int position = lane < a->rows ? zmi_gpu_at<const int>(a->position)[lane] : -1;
  const int sequence = lane < a->rows ? zmi_gpu_at<const int>(a->sequence)[lane] : -1;
  const int seen = zmi_gpu_seen(a, position, sequence), reach = ((int)zmi_most((unsigned)seen) + ZMI_GPU_KEYS - 1) / ZMI_GPU_KEYS;
  const int tiles = a->rows * a->kv_heads * reach;
  int each = 3, parts = (group + 7) >> 3; // 2^each heads at a time
  for (int less = 2; less >= ZMI_GPU_FEWEST; less--) {
    const int more = (group + (1 << less) - 1) >> less;
    if (tiles * more > workers) break;
    each = less;
    parts = more;
  }
  for (int u = worker; u < tiles * parts; u += workers) {
    const int tile = u / parts, pair = tile / reach, range = tile - pair * reach;
    w->row = zmi_gpu_row_of(pair, a->rows, a->kv_heads);
    w->kv = pair - w->row * a->kv_heads;
    w->sequence = (int)zmi_shuffle((unsigned)sequence, w->row);
    const int sees = (int)zmi_shuffle((unsigned)seen, w->row);
    zmi_gpu_attend_heads(w, group, (u - tile * parts) << each, 1 << each);
    if (range * ZMI_GPU_KEYS < sees) zmi_gpu_attend_range<WIDE, true>(w, sees, range);
  }
}

// One function for each, so that none has the registers of all.
template <bool WIDE, bool SPLIT> ZMI_APART void zmi_gpu_attend_all(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_attention copy = in->as.attention, *a = &copy;
  zmi_gpu_attend w = {};
  w.a = a;
  w.part = zmi_near(shared);
  w.queries = (float *)(void *)(w.part + ZMI_GPU_ROOM);
  w.p = w.queries + 64 * ZMI_GPU_QUERY_ROW;
  w.results = w.p + ZMI_GPU_QUERIES * ZMI_GPU_KEYS;
  w.running = w.results + ZMI_GPU_QUERIES * 8;
  if (SPLIT)
    zmi_gpu_attend_ranges<WIDE>(&w, worker, workers);
  else
    zmi_gpu_attend_rows<WIDE>(&w, in->tiles, worker, workers);
}

// ---- ATTEND of few ranges ----
//
// Where a block has one range of two heads, bytes and sums are little of the time: each instruction is there once or a few times, most of
// them come from behind the caches of instructions, and the block waits. So this is little code, in one piece and without stages. Keys come
// to shared memory by asynchronous copies, values to registers; those take the place of the keys when the scores are there.
//
// Scores: a thread has a position of a head. Values: a thread of the first half of the block has a pair of elements of a head, while warps
// of the second half add up what the positions weigh. Heads are bfloat16.

enum {
  ZMI_GPU_FEW = 2,                                     // heads
  ZMI_GPU_FEW_DIM = 128,                               // elements of a head, at most
  ZMI_GPU_FEW_STEP = 16,                               // positions, or elements of a head, that are there or not
  ZMI_GPU_FEW_ROW = ZMI_GPU_FEW_DIM / 8,               // words of 16 bytes from position to position of the values
  ZMI_GPU_FEW_ROWS = ZMI_GPU_THREADS / ZMI_GPU_FEW_ROW // positions that all threads ask for together
};
enum { ZMI_GPU_FEW_EACH = ZMI_GPU_KEYS / ZMI_GPU_FEW_ROWS };

// What a block works on.
typedef struct zmi_gpu_few {
  int row, kv, first, heads, range, count, pairs; // first: the first head, of those of the row
  char *part;                                     // keys or values
  float *q, *p;                                   // [2][128] each
  unsigned *tops;                                 // of each warp the largest score
} zmi_gpu_few;

// a / b where that is small, and *a becomes the rest: less code than a quotient.
ZMI_INLINE int zmi_gpu_few_times(int *a, int b) {
  int times = 0;
#pragma unroll 1
  for (; *a >= b; *a -= b) times++;
  return times;
}

// Neighbouring blocks of 16 positions lie in different banks.
ZMI_INLINE void zmi_gpu_few_keys_ask(const zmi_gpu_few *w, zmi_gpu_address keys) {
  const int line = w->pairs * 4 * ZMI_GPU_BLOCK, at = zmi_thread() * 16;
  const char *from = zmi_gpu_at<const char>(keys) + at;
  char *to = w->part + at;
  if (at < line) {
#pragma unroll 1
    for (int first = 0; first < w->count; first += ZMI_GPU_BLOCK) {
      zmi_copy_async(to, from);
      from += line;
      to += line + ZMI_GPU_SKEW;
    }
  }
  zmi_copy_commit();
}

// A thread has 16 bytes of every 16th position. Behind the end it takes the last of all: that is less code than a choice.
ZMI_INLINE void zmi_gpu_few_values_ask(const zmi_gpu_few *w, zmi_gpu_address values, zmi_gpu_words v[ZMI_GPU_FEW_EACH]) {
  const int row = zmi_thread() >> 4, at = zmi_thread() & 15, last = w->count - 1, end = w->pairs / 4 - 1;
  const zmi_gpu_address from = values + (unsigned)(at < end ? at : end) * 16u;
#pragma unroll
  for (int j = 0; j < ZMI_GPU_FEW_EACH; j++) {
    const int i = row + j * ZMI_GPU_FEW_ROWS;
    v[j] = *zmi_gpu_at<const zmi_gpu_words>(from + (zmi_gpu_address)(unsigned)(i < last ? i : last) * (unsigned)(w->pairs * 4));
  }
}

// Up to the next multiple of 16 positions there are negative zeros: with a weight of zero they change no sum, not even one of -0.
ZMI_INLINE void zmi_gpu_few_values_put(const zmi_gpu_few *w, const zmi_gpu_words v[ZMI_GPU_FEW_EACH]) {
  const int last = (w->count - 1) >> 4;
  zmi_gpu_words *to = (zmi_gpu_words *)(void *)w->part + zmi_thread();
#pragma unroll
  for (int j = 0; j < ZMI_GPU_FEW_EACH; j++) to[j * ZMI_GPU_THREADS] = v[j];
  const zmi_gpu_words none = {{0x80008000u, 0x80008000u, 0x80008000u, 0x80008000u}};
  if (last * ZMI_GPU_FEW_ROWS + (zmi_thread() >> 4) >= w->count) to[last * ZMI_GPU_THREADS] = none;
}

// The score of a position, before it is scaled; q and keys: of the first pair.
ZMI_INLINE float zmi_gpu_few_score(const float *q, const unsigned *keys, int pairs) {
  enum { EACH = ZMI_GPU_FEW_STEP / 2 };
  float acc = 0.0f;
#pragma unroll 1
  for (; pairs > 0; pairs -= EACH) {
#pragma unroll
    for (int i = 0; i < EACH; i += 2) {
      const zmi_gpu_quad two = *(const zmi_gpu_quad *)(const void *)(q + 2 * i);
      const unsigned a = keys[i * ZMI_GPU_BLOCK], b = keys[(i + 1) * ZMI_GPU_BLOCK];
      acc = zk_fma(zmi_gpu_high(a), two.f[1], acc);
      acc = zk_fma(zmi_gpu_low(a), two.f[0], acc);
      acc = zk_fma(zmi_gpu_high(b), two.f[3], acc);
      acc = zk_fma(zmi_gpu_low(b), two.f[2], acc);
    }
    q += 2 * EACH;
    keys += EACH * ZMI_GPU_BLOCK;
  }
  return 0.0f + acc; // parts are added to zero, and this is the only one
}

// The sum over positions of a pair of elements.
ZMI_INLINE zmi_gpu_couple zmi_gpu_few_value(const float *p, const unsigned *values, int count) {
  zmi_gpu_couple acc = {{0.0f, 0.0f}};
#pragma unroll 1
  for (; count > 0; count -= ZMI_GPU_FEW_STEP) {
#pragma unroll
    for (int i = 0; i < ZMI_GPU_FEW_STEP; i += 4) {
      const zmi_gpu_quad four = *(const zmi_gpu_quad *)(const void *)(p + i);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const unsigned pair = values[(i + j) * ZMI_GPU_FEW_ROW * 4];
        acc.f[0] = zk_fma(four.f[j], zmi_gpu_low(pair), acc.f[0]);
        acc.f[1] = zk_fma(four.f[j], zmi_gpu_high(pair), acc.f[1]);
      }
    }
    p += ZMI_GPU_FEW_STEP;
    values += ZMI_GPU_FEW_STEP * ZMI_GPU_FEW_ROW * 4;
  }
  return acc;
}

// The maximum of a head, of what its four warps have found.
ZMI_INLINE float zmi_gpu_few_most(const unsigned *tops) {
  const zmi_gpu_words of = *(const zmi_gpu_words *)(const void *)tops;
  unsigned key = of.w[0];
#pragma unroll
  for (int i = 1; i < 4; i++) key = of.w[i] > key ? of.w[i] : key;
  return zmi_gpu_of_most(key);
}

// The sum in the lane order of the 128 numbers of a head; those behind the last position are zeros.
ZMI_INLINE float zmi_gpu_few_sum(const float *p) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < ZMI_GPU_KEYS; i += 16) sum = sum + p[i + (zmi_thread() & 15)];
  return zmi_gpu_fold(sum);
}

ZMI_INLINE void zmi_gpu_few_range(const zmi_gpu_attention *a, const zmi_gpu_few *w, int sequence) {
  const int t = zmi_thread(), position = t & (ZMI_GPU_KEYS - 1), half = t >> 7; // of scores
  const int pair = t & (ZMI_GPU_FEW_DIM / 2 - 1), slot = t >> 6;                // of queries and values
  const bool scores = position < w->count && half < w->heads, adds = pair < w->pairs && slot < w->heads;
  const unsigned before = (unsigned)(sequence * a->kv_heads + w->kv) * (unsigned)a->context + (unsigned)(w->range * ZMI_GPU_KEYS);
  const zmi_gpu_address at = (zmi_gpu_address)before * (unsigned)(w->pairs * 4); // positions in memory are fewer than 2^32
  const int step = a->ranges * (ZMI_GPU_HEAD + a->dim);                          // from head to head
  zmi_gpu_words v[ZMI_GPU_FEW_EACH];
  zmi_gpu_few_keys_ask(w, a->keys + at);
  const unsigned q = adds ? zmi_gpu_at<const unsigned>(a->q)[(w->row * a->heads + w->first + slot) * w->pairs + pair] : 0u;
  zmi_gpu_few_values_ask(w, a->values + at, v);
  if (adds) *(zmi_gpu_couple *)(void *)(w->q + slot * ZMI_GPU_FEW_DIM + 2 * pair) = {{zmi_gpu_low(q), zmi_gpu_high(q)}};
  zmi_copy_wait(0);
  zmi_sync();
  const int block = position >> 4, place = block * (w->pairs * ZMI_GPU_BLOCK + ZMI_GPU_SKEW / 4) + (position & 15);
  const unsigned *part = (const unsigned *)(const void *)w->part;
  float s = zk_neg_float(zkp_infinity());
  if (scores) s = a->scale * zmi_gpu_few_score(w->q + half * ZMI_GPU_FEW_DIM, part + place, w->pairs);
  const unsigned top = zmi_most(s != s ? ~0u : zmi_gpu_order_of(s));
  if ((t & 31) == 0) w->tops[t >> 5] = top;
  zmi_sync();
  const float most = zmi_gpu_few_most(w->tops + half * 4);
  w->p[t] = scores ? zk_exp(s - most) : 0.0f;
  zmi_gpu_few_values_put(w, v);
  float *partial = zmi_gpu_partial_at(a, w->row, w->first, w->range);
  if (scores && position == 0) partial[half * step] = most;
  zmi_sync();
  if (adds)
    *(zmi_gpu_couple *)(void *)(partial + slot * step + ZMI_GPU_HEAD + 2 * pair) =
        zmi_gpu_few_value(w->p + slot * ZMI_GPU_KEYS, part + pair, w->count);
  const int adder = (t >> 5) - ZMI_GPU_THREADS / 64;
  if (adder < 0 || adder >= w->heads) return;
  const float sum = zmi_gpu_few_sum(w->p + adder * ZMI_GPU_KEYS);
  if (t % 32 == 0) partial[adder * step + 1] = sum;
}

// Whether heads are such that a block may take a range of two of them so.
ZMI_INLINE bool zmi_gpu_is_few(const zmi_gpu_attention *a) {
  return a->split && a->dtype == ZMI_GPU_BF16 && a->dim % ZMI_GPU_FEW_STEP == 0 && a->dim <= ZMI_GPU_FEW_DIM;
}

// Which range of which heads a worker has does not depend on how far rows reach, so that it is known when that has come.
ZMI_APART void zmi_gpu_attend_few(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_attention copy = in->as.attention, *a = &copy;
  const int lane = zmi_thread() % 32;
  const int position = lane < a->rows ? zmi_gpu_at<const int>(a->position)[lane] : -1;
  const int sequence = lane < a->rows ? zmi_gpu_at<const int>(a->sequence)[lane] : -1;
  const int group = (int)((unsigned)a->heads / (unsigned)a->kv_heads), parts = (group + 1) / 2, wide = a->kv_heads * parts;
  zmi_gpu_few w;
  int turn = worker;
  w.range = zmi_gpu_few_times(&turn, a->rows * wide);
  w.row = zmi_gpu_few_times(&turn, wide);
  w.kv = zmi_gpu_few_times(&turn, parts);
  w.first = w.kv * group + turn * ZMI_GPU_FEW;
  w.heads = group - turn * ZMI_GPU_FEW < ZMI_GPU_FEW ? 1 : ZMI_GPU_FEW;
  w.pairs = a->dim / 2;
  w.part = zmi_near(shared);
  w.q = (float *)(void *)(w.part + ZMI_GPU_ROOM);
  w.p = w.q + ZMI_GPU_FEW * ZMI_GPU_FEW_DIM;
  w.tops = (unsigned *)(void *)(w.p + ZMI_GPU_FEW * ZMI_GPU_KEYS);
  const int seen = zmi_gpu_seen(a, position, sequence), reach = ((int)zmi_most((unsigned)seen) + ZMI_GPU_KEYS - 1) / ZMI_GPU_KEYS;
  if (reach * a->rows * wide > workers) {
    zmi_gpu_attend_all<false, true>(in, worker, workers, shared);
    return;
  }
  const int left = (int)zmi_shuffle((unsigned)seen, w.row) - w.range * ZMI_GPU_KEYS;
  w.count = left < ZMI_GPU_KEYS ? left : ZMI_GPU_KEYS;
  if (left > 0) zmi_gpu_few_range(a, &w, (int)zmi_shuffle((unsigned)sequence, w.row));
}

ZMI_INLINE void zmi_gpu_attend_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const bool wide = in->as.attention.dtype == ZMI_GPU_F32;
  if (zmi_gpu_is_few(&in->as.attention))
    zmi_gpu_attend_few(in, worker, workers, shared);
  else if (in->as.attention.split)
    wide ? zmi_gpu_attend_all<true, true>(in, worker, workers, shared) : zmi_gpu_attend_all<false, true>(in, worker, workers, shared);
  else
    wide ? zmi_gpu_attend_all<true, false>(in, worker, workers, shared) : zmi_gpu_attend_all<false, false>(in, worker, workers, shared);
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

// A thread's element of ranges that stand `step` floats apart; those that are not there are zeros.
enum { ZMI_GPU_JOINED = 16 };
ZMI_INLINE void zmi_gpu_join_load(const float *from, long long step, int n, float v[ZMI_GPU_JOINED]) {
#pragma unroll
  for (int j = 0; j < ZMI_GPU_JOINED; j++) v[j] = j < n ? from[j * step] : 0.0f;
}

// Joins ranges [first, first + n) of an element, n > 0, from the left; v: the first of them. While they are joined the next are on their
// way.
ZMI_INLINE float zmi_gpu_join_values(const float *from, long long step, int first, int n, const float *wa, const float *wb, float value,
                                     float v[ZMI_GPU_JOINED]) {
  for (int i = 0; i < n; i += ZMI_GPU_JOINED) {
    float next[ZMI_GPU_JOINED];
    zmi_gpu_join_load(from + (i + ZMI_GPU_JOINED) * step, step, n - i - ZMI_GPU_JOINED, next);
#pragma unroll
    for (int j = 0; j < ZMI_GPU_JOINED; j++) {
      if (i + j < n) value = first + i + j == 0 ? v[j] : zk_fma(wb[i + j], v[j], value * wa[i + j]);
    }
#pragma unroll
    for (int j = 0; j < ZMI_GPU_JOINED; j++) v[j] = next[j];
  }
  return value;
}

// Ranges beyond the row's have room, but nothing in it: they may be asked for before it is known how far the row sees. (The sum of the
// first one as a choice, too: then the compiler asks for it with the others, and not when it is known that it is needed.)
template <int DTYPE> ZMI_APART void zmi_gpu_join_head(const zmi_gpu_instruction *in, int tile, char *scratch) {
  enum { MOST = 4 }; // elements of a thread: heads have at most 1024
  const zmi_gpu_attention copy = in->as.attention, *a = &copy;
  float *shared = zmi_near((float *)(void *)scratch);
  const int row = zmi_gpu_row_of(tile, a->rows, a->heads), t = zmi_thread();
  const int position = zmi_gpu_at<const int>(a->position)[row], sequence = zmi_gpu_at<const int>(a->sequence)[row];
  const long long step = ZMI_GPU_HEAD + a->dim;
  const float *partial = zmi_gpu_at<const float>(a->partial) + (long long)tile * a->ranges * step, *mine = partial + ZMI_GPU_HEAD + t;
  float *wa = shared, *wb = wa + ZMI_GPU_THREADS, *sums = wb + ZMI_GPU_THREADS, *tops = sums + ZMI_GPU_THREADS;
  float value[MOST] = {0, 0, 0, 0}, v[ZMI_GPU_JOINED], sum = a->ranges > 0 ? partial[1] : 0.0f, before = 0.0f;
  zmi_gpu_join_load(mine, step, t < a->dim ? a->ranges : 0, v);
  float own = t < a->ranges ? partial[t * step] : 0.0f, own_sum = t < a->ranges ? partial[t * step + 1] : 0.0f;
  const int seen = zmi_gpu_seen(a, position, sequence), ranges = (seen + ZMI_GPU_KEYS - 1) / ZMI_GPU_KEYS;
  for (int first = 0; first < ranges && ranges > 1; first += ZMI_GPU_THREADS) {
    const int n = ranges - first < ZMI_GPU_THREADS ? ranges - first : ZMI_GPU_THREADS;
    if (first > 0 && t < n) {
      own = partial[(first + t) * step];
      own_sum = partial[(first + t) * step + 1];
    }
    zmi_sync(); // what was there has been read
    sums[t] = own_sum;
    before = zmi_gpu_join_weights(own, n, first > 0, before, wa, wb, tops);
#pragma unroll
    for (int e = 0; e < MOST; e++) {
      if (e * ZMI_GPU_THREADS + t >= a->dim) break;
      const float *from = mine + first * step + e * ZMI_GPU_THREADS;
      if (first + e > 0) zmi_gpu_join_load(from, step, n, v);
      value[e] = zmi_gpu_join_values(from, step, first, n, wa, wb, value[e], v);
    }
#pragma unroll 8
    for (int i = first ? 0 : 1; i < n; i++) sum = zk_fma(wb[i], sums[i], wa[i] * sum);
  }
#pragma unroll
  for (int e = 0; e < MOST; e++) {
    const int i = e * ZMI_GPU_THREADS + t;
    if (i >= a->dim) break;
    if (ranges == 1) value[e] = e == 0 ? v[0] : mine[e * ZMI_GPU_THREADS];
    zmi_gpu_store(a->out, DTYPE, (long long)tile * a->dim + i, ranges ? value[e] / sum : 0.0f);
  }
}

// A head of few ranges: a thread joins those of its element alone, in little code and without waiting for others. All that may be needed is
// asked for at once. False if there are more ranges.
template <int DTYPE> ZMI_INLINE bool zmi_gpu_join_few(const zmi_gpu_attention *a, int tile) {
  enum { FEW = 8 };
  const int row = zmi_gpu_row_of(tile, a->rows, a->heads), t = zmi_thread(), i = t < a->dim ? t : a->dim - 1;
  const int position = zmi_gpu_at<const int>(a->position)[row], sequence = zmi_gpu_at<const int>(a->sequence)[row];
  const int step = ZMI_GPU_HEAD + a->dim, last = a->ranges - 1;
  const float *first = zmi_gpu_at<const float>(a->partial) + (long long)(tile * a->ranges) * step;
  zmi_gpu_couple head[FEW]; // maximum, sum
  float v[FEW];
#pragma unroll
  for (int j = 0; j < FEW; j++) {
    const float *from = first + (unsigned)((j < last ? j : last) * step);
    head[j] = *(const zmi_gpu_couple *)(const void *)from;
    v[j] = from[ZMI_GPU_HEAD + i];
  }
  const int ranges = (zmi_gpu_seen(a, position, sequence) + ZMI_GPU_KEYS - 1) / ZMI_GPU_KEYS;
  if (ranges > FEW || a->dim > ZMI_GPU_THREADS) return false;
  float max = head[0].f[0], sum = head[0].f[1], value = v[0];
#pragma unroll
  for (int j = 1; j < FEW; j++) {
    if (j >= ranges) break;
    const float joined = zmi_gpu_join_max(max, head[j].f[0]);
    const float wa = zmi_gpu_join_weight(max, joined), wb = zmi_gpu_join_weight(head[j].f[0], joined);
    value = zk_fma(wb, v[j], value * wa);
    sum = zk_fma(wb, head[j].f[1], wa * sum);
    max = joined;
  }
  if (t < a->dim) zmi_gpu_store(a->out, DTYPE, (long long)tile * a->dim + t, ranges ? value / sum : 0.0f);
  return true;
}

// What many ranges take is apart, so that few do not pass by it.
template <int DTYPE> ZMI_INLINE void zmi_gpu_join_heads(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_attention a = in->as.attention;
  for (int t = worker; t < in->tiles; t += workers) {
    if (!zmi_gpu_join_few<DTYPE>(&a, t)) zmi_gpu_join_head<DTYPE>(in, t, shared);
  }
}

ZMI_INLINE void zmi_gpu_join_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  ZMI_GPU_BY_DTYPE(in->as.attention.dtype, zmi_gpu_join_heads<DTYPE>(in, worker, workers, shared));
}
