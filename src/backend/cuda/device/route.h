// The router: a warp takes a row. Device text.

// Floats as words of the same order, negative zero below the other; the way back.
ZMI_INLINE unsigned zmi_gpu_order_of(float v) {
  const unsigned u = zk_bits(v);
  return u >> 31 ? ~u : u | 0x80000000u;
}
ZMI_INLINE float zmi_gpu_of_order(unsigned key) {
  return zk_of_bits(key >> 31 ? key ^ 0x80000000u : ~key);
}

// Keys in the order of the choice, none of them 0: NaN is lowest, zeros of either sign are equal.
ZMI_INLINE unsigned zmi_gpu_key_of(float v) {
  const unsigned magnitude = zk_bits(v) & 0x7fffffffu;
  const unsigned key = magnitude < 0x00800000u ? 0x80000000u : zmi_gpu_order_of(v);
  return magnitude > 0x7f800000u ? 1u : key;
}

// Numbers in that order: a key above, the complement of the index below.
ZMI_INLINE unsigned long long zmi_gpu_rank_of(float v, int i) {
  return (unsigned long long)zmi_gpu_key_of(v) << 32 | (unsigned)~i;
}

ZMI_INLINE unsigned long long zmi_gpu_largest_rank(unsigned long long rank) {
  for (int step = 16; step > 0; step /= 2) {
    const int from = (zmi_thread() % 32) ^ step;
    const unsigned high = zmi_shuffle((unsigned)(rank >> 32), from), low = zmi_shuffle((unsigned)rank, from);
    const unsigned long long other = (unsigned long long)high << 32 | low;
    rank = other > rank ? other : rank;
  }
  return rank;
}

// The largest of such keys, or all ones, which no number has, for a NaN, as a number: a zero is +0.
ZMI_INLINE float zmi_gpu_of_most(unsigned key) {
  return key == ~0u ? zkp_nan() : zmi_gpu_of_order(key) + 0.0f;
}

// Of all lanes' numbers: NaN if one is NaN.
ZMI_INLINE float zmi_gpu_warp_max(float most, bool nan) {
  return zmi_gpu_of_most(zmi_most(nan ? ~0u : zmi_gpu_order_of(most)));
}

// Sum in the lane order of n numbers that the warp has written.
ZMI_INLINE float zmi_gpu_warp_sum(const float *x, int n) {
  float sum = 0.0f;
  zmi_sync_warp();
#pragma unroll 8
  for (int i = zmi_thread() % 16; i < n; i += 16) sum = sum + x[i];
  return zmi_gpu_fold(sum);
}

// The same of numbers that lanes have: x[j] is number lane + 32 j.
template <int N> ZMI_INLINE float zmi_gpu_lane_sum(const float x[N], int n) {
  const int lane = zmi_thread() % 32;
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float other = zmi_shuffle_float(x[j], lane ^ 16);
    const int i = lane % 16 + 32 * j;
    if (i < n) sum = sum + (lane < 16 ? x[j] : other);
    if (i + 16 < n) sum = sum + (lane < 16 ? other : x[j]);
  }
  return zmi_gpu_fold(sum);
}

ZMI_DEVICE void zmi_gpu_route_softmax(float *p, int n) {
  const int lane = zmi_thread() % 32;
  float most = zk_neg_float(zkp_infinity());
  bool nan = false;
  for (int e = lane; e < n; e += 32) {
    nan = nan || p[e] != p[e];
    most = p[e] > most ? p[e] : most;
  }
  most = zmi_gpu_warp_max(most, nan);
  for (int e = lane; e < n; e += 32) p[e] = zk_exp(p[e] - most);
  const float sum = zmi_gpu_warp_sum(p, n);
  for (int e = lane; e < n; e += 32) p[e] = p[e] / sum;
}

// What an expert's share becomes as a weight.
ZMI_INLINE float zmi_gpu_route_weight(const zmi_gpu_route *r, float share, float divisor) {
  float w = share;
  if (r->norm) w = w / divisor;
  return r->sigmoid && r->scale != 1.0f ? w * r->scale : w;
}

// ---- up to 32 N experts: lanes have them in registers ----

// x[j] of expert lane + 32 j becomes its share: numbers behind the last expert stay what they are.
template <int N> ZMI_INLINE void zmi_gpu_route_shares(const zmi_gpu_route *r, float x[N]) {
  const int lane = zmi_thread() % 32, n = r->experts;
  if (r->sigmoid) {
#pragma unroll
    for (int j = 0; j < N; j++) x[j] = zk_sigmoid(x[j]);
    return;
  }
  float most = zk_neg_float(zkp_infinity());
  bool nan = false;
#pragma unroll
  for (int j = 0; j < N; j++) {
    const bool there = lane + 32 * j < n;
    nan = nan || (there && x[j] != x[j]);
    most = there && x[j] > most ? x[j] : most;
  }
  most = zmi_gpu_warp_max(most, nan);
#pragma unroll
  for (int j = 0; j < N; j++) x[j] = zk_exp(x[j] - most);
  const float sum = zmi_gpu_lane_sum<N>(x, n);
#pragma unroll
  for (int j = 0; j < N; j++) x[j] = x[j] / sum;
}

// Each time the largest that is left, of equal ones the first: its key by one maximum of the warp, its number by another. Key 0: taken.
template <int N> ZMI_INLINE void zmi_gpu_route_few(const zmi_gpu_route *r, long long row, float *p) {
  const int lane = zmi_thread() % 32;
  unsigned word[N], key[N];
  float x[N], bias[N], total = 0.0f;
#pragma unroll
  for (int j = 0; j < N; j++) {
    const int e = lane + 32 * j;
    word[j] = e < r->experts ? zmi_gpu_word(r->logits, r->dtype, row * r->experts + e) : 0u;
    bias[j] = r->bias && e < r->experts ? zmi_gpu_at<const float>(r->bias)[e] : 0.0f;
  }
#pragma unroll
  for (int j = 0; j < N; j++) x[j] = zmi_gpu_of_word(word[j], r->logits, r->dtype, row * r->experts + lane + 32 * j);
  zmi_gpu_route_shares<N>(r, x);
#pragma unroll
  for (int j = 0; j < N; j++) {
    const int e = lane + 32 * j;
    x[j] = zmi_gpu_round(x[j], r->dtype);
    key[j] = e < r->experts ? zmi_gpu_key_of(r->bias ? x[j] + bias[j] : x[j]) : 0u;
    if (e < r->experts) p[e] = x[j];
  }
  zmi_sync_warp();
  int mine = 0; // the choice that this lane writes
  for (int s = 0; s < r->k; s++) {
    unsigned best = 0, first = 0; // first: the complement of the number of the first expert of that key
#pragma unroll
    for (int j = 0; j < N; j++) best = key[j] > best ? key[j] : best;
    best = zmi_most(best);
#pragma unroll
    for (int j = N - 1; j >= 0; j--) first = key[j] == best ? ~(unsigned)(lane + 32 * j) : first;
    const int e = (int)~zmi_most(first);
#pragma unroll
    for (int j = 0; j < N; j++) key[j] = e == lane + 32 * j ? 0u : key[j];
    total = total + p[e];
    mine = lane == s % 32 ? e : mine;
    if (s % 32 == 31 || s + 1 == r->k) {
      const int at = s - s % 32 + lane;
      if (at <= s) zmi_gpu_at<int>(r->chosen)[row * r->k + at] = mine;
    }
  }
  const float divisor = total + (r->sigmoid ? r->eps : 0.0f);
  zmi_sync_warp();
  for (int s = lane; s < r->k; s += 32) {
    const int e = r->k <= 32 ? mine : zmi_gpu_at<const int>(r->chosen)[row * r->k + s];
    zmi_gpu_store(r->weights, r->dtype, row * r->k + s, zmi_gpu_route_weight(r, p[e], divisor));
  }
  zmi_sync_warp(); // the next row overwrites p
}

// ---- any number of experts ----

ZMI_DEVICE void zmi_gpu_route_many(const zmi_gpu_route *r, long long row, float *p, float *score) {
  const int lane = zmi_thread() % 32;
  int *chosen = zmi_gpu_at<int>(r->chosen) + row * r->k;
  for (int e = lane; e < r->experts; e += 32) {
    const float x = zmi_gpu_load(r->logits, r->dtype, row * r->experts + e);
    p[e] = r->sigmoid ? zk_sigmoid(x) : x;
  }
  zmi_sync_warp();
  if (!r->sigmoid) zmi_gpu_route_softmax(p, r->experts);
  for (int e = lane; e < r->experts; e += 32) {
    p[e] = zmi_gpu_round(p[e], r->dtype);
    score[e] = r->bias ? p[e] + zmi_gpu_at<const float>(r->bias)[e] : p[e];
  }
  zmi_sync_warp();
  unsigned long long last = ~0ull;
  float total = 0.0f;
  for (int s = 0; s < r->k; s++) { // each time the largest below the last: no two are equal
    unsigned long long best = 0;
    for (int e = lane; e < r->experts; e += 32) {
      const unsigned long long rank = zmi_gpu_rank_of(score[e], e);
      if (rank < last && rank > best) best = rank;
    }
    last = zmi_gpu_largest_rank(best);
    const int e = (int)~(unsigned)last;
    total = total + p[e];
    if (lane == 0) chosen[s] = e;
  }
  zmi_sync_warp();
  const float divisor = total + (r->sigmoid ? r->eps : 0.0f);
  for (int s = lane; s < r->k; s += 32) {
    zmi_gpu_store(r->weights, r->dtype, row * r->k + s, zmi_gpu_route_weight(r, p[chosen[s]], divisor));
  }
  zmi_sync_warp(); // the next row overwrites p
}

// p: experts floats, score: as many.
ZMI_INLINE void zmi_gpu_route_row(const zmi_gpu_route *r, long long row, float *p, float *score) {
  if (r->experts <= 32)
    zmi_gpu_route_few<1>(r, row, p);
  else if (r->experts <= 128)
    zmi_gpu_route_few<4>(r, row, p);
  else if (r->experts <= 256)
    zmi_gpu_route_few<8>(r, row, p);
  else
    zmi_gpu_route_many(r, row, p, score);
}

ZMI_INLINE void zmi_gpu_route_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_route r = in->as.route;
  const int warps = ZMI_GPU_ROUTE_WARPS(r.experts), warp = zmi_thread() / 32;
  float *p = (float *)(void *)shared + (long long)warp * 2 * r.experts;
  for (int t = worker + warp * workers; warp < warps && t < in->tiles; t += workers * warps) zmi_gpu_route_row(&r, t, p, p + r.experts);
}
