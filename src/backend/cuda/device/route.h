// The router: a warp takes a row. Device text.

// Numbers in the order of the choice: a key above, the complement of the index below. NaN is lowest, zeros of either sign are equal.
ZMI_INLINE unsigned long long zmi_gpu_rank_of(float v, int i) {
  const unsigned u = zk_bits(v), magnitude = u & 0x7fffffffu;
  unsigned key = (u >> 31 ? ~u : u | 0x80000000u);
  if (magnitude < 0x00800000u) key = 0x80000000u;
  if (magnitude > 0x7f800000u) key = 0;
  return (unsigned long long)key << 32 | (unsigned)~i;
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

// Of all lanes' numbers: NaN if one is NaN, a zero is +0.
ZMI_INLINE float zmi_gpu_warp_max(float most, bool nan) {
  unsigned any = nan;
  for (int step = 16; step > 0; step /= 2) {
    const int from = (zmi_thread() % 32) ^ step;
    const float other = zmi_shuffle_float(most, from);
    any |= zmi_shuffle(any, from);
    most = other > most ? other : most;
  }
  return any ? zkp_nan() : most + 0.0f;
}

// Sum in the lane order of n numbers that the warp has written.
ZMI_INLINE float zmi_gpu_warp_sum(const float *x, int n) {
  float sum = 0.0f;
  zmi_sync_warp();
#pragma unroll 8
  for (int i = zmi_thread() % 16; i < n; i += 16) sum = sum + x[i];
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

// p: experts floats, score: as many.
ZMI_DEVICE void zmi_gpu_route_row(const zmi_gpu_route *r, long long row, float *p, float *score) {
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
    float w = p[chosen[s]];
    if (r->norm) w = w / divisor;
    if (r->sigmoid && r->scale != 1.0f) w = w * r->scale;
    zmi_gpu_store(r->weights, r->dtype, row * r->k + s, w);
  }
  zmi_sync_warp(); // the next row overwrites p
}

ZMI_DEVICE void zmi_gpu_route_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_route *r = &in->as.route;
  const int warps = ZMI_GPU_ROUTE_WARPS(r->experts), warp = zmi_thread() / 32;
  float *p = (float *)(void *)shared + (long long)warp * 2 * r->experts;
  for (int t = worker + warp * workers; warp < warps && t < in->tiles; t += workers * warps) zmi_gpu_route_row(r, t, p, p + r->experts);
}
