// READY: what products take, made by every block for itself. That costs a block what a step of its own would cost them all, and saves the
// wait between the two.

enum { ZMI_GPU_READY_GROUPS = 4, ZMI_GPU_READY_AHEAD = 4 }; // groups of a warp, elements of a thread, that are asked for together

// The rows that a worker needs of a product whose tiles it takes in one piece.
ZMI_INLINE int zmi_gpu_first_tile(int tiles, int worker, int workers) {
  return (int)((long long)tiles * worker / workers);
}

// Elements i, i + 256, ... of a row as they are normalized: x, or the rounded sum.
ZMI_INLINE void zmi_gpu_ready_terms(const zmi_gpu_ready *r, int row, int begin, bool writes, float *part) {
  const long long first = (long long)row * r->k;
  float v[ZMI_GPU_READY_AHEAD], more[ZMI_GPU_READY_AHEAD];
  for (int j = 0; j < ZMI_GPU_READY_AHEAD; j++) {
    const int i = begin + j * ZMI_GPU_THREADS;
    v[j] = i < r->k ? zmi_gpu_load(r->x, r->dtype, row * r->stride + i) : 0.0f;
    more[j] = i < r->k && r->add ? zmi_gpu_load(r->add, r->dtype, first + i) : 0.0f;
  }
#pragma unroll 4
  for (int s = 0; s < r->slots; s++) {
    const long long at = (long long)row * r->slots + s;
    const float w = zmi_gpu_load(r->weights, r->dtype, at);
    for (int j = 0; j < ZMI_GPU_READY_AHEAD; j++) {
      const int i = begin + j * ZMI_GPU_THREADS;
      more[j] = zk_fma(w, i < r->k ? zmi_gpu_load(r->y, r->dtype, at * r->k + i) : 0.0f, more[j]);
    }
  }
  for (int j = 0; j < ZMI_GPU_READY_AHEAD; j++) {
    const int i = begin + j * ZMI_GPU_THREADS;
    if (i >= r->k) break;
    if (r->slots || r->add) v[j] = zmi_gpu_round(v[j] + (r->slots ? zmi_gpu_round(more[j], r->dtype) : more[j]), r->dtype);
    if (writes) zmi_gpu_store(r->sum, r->dtype, first + i, v[j]);
    part[i] = v[j];
  }
}

// 1 / rms of a row, whose elements are in `part`; `lane` is 16 floats behind them. The sum of squares in the lane order.
ZMI_INLINE float zmi_gpu_ready_scale(const zmi_gpu_ready *r, int row, bool writes, float *part, float *lane) {
  const int t = zmi_thread();
  for (int i = t; i < r->k; i += ZMI_GPU_READY_AHEAD * ZMI_GPU_THREADS) zmi_gpu_ready_terms(r, row, i, writes, part);
  zmi_sync();
  if (t < ZMI_GPU_LANES) lane[t] = zmi_gpu_lane_squares(part, r->k, 0.0f);
  zmi_sync();
  return 1.0f / zk_sqrt(zmi_gpu_lane_total(lane) / (float)r->k + r->eps);
}

ZMI_INLINE float zmi_gpu_ready_value(const zmi_gpu_ready *r, int row, const float *part, float scale, int i) {
  if (!r->norm) return zmi_gpu_load(r->x, r->dtype, row * r->stride + i);
  return zmi_gpu_round(part[i] * scale * zmi_gpu_load(r->norm, r->norm_dtype, i), r->dtype);
}

ZMI_INLINE void zmi_gpu_ready_row(const zmi_gpu_ready *r, int row, const float *part, float scale, char *out) {
  enum { WARPS = ZMI_GPU_THREADS / 32 };
  const zmi_gpu_digit_form form = {r->k, r->group, r->digits};
  const int groups = r->digits ? r->k / r->group : 0, lane = zmi_thread() & 31;
  for (int g = zmi_thread() / 32; g < groups; g += ZMI_GPU_READY_GROUPS * WARPS) {
    float x[ZMI_GPU_READY_GROUPS][4];
    for (int a = 0; a < ZMI_GPU_READY_GROUPS; a++) {
      const int now = g + a * WARPS;
      for (int j = 0; j < 4; j++) {
        const int i = lane + 32 * j;
        x[a][j] = now < groups && i < r->group ? zmi_gpu_ready_value(r, row, part, scale, now * r->group + i) : 0.0f;
      }
    }
    for (int a = 0; a < ZMI_GPU_READY_GROUPS; a++) {
      if (g + a * WARPS < groups) zmi_gpu_digit_group(&form, x[a], out, g + a * WARPS);
    }
  }
  for (int i = zmi_thread(); i < r->k && !r->digits; i += ZMI_GPU_THREADS)
    zmi_gpu_store((zmi_gpu_address)out, r->dtype, i, zmi_gpu_ready_value(r, row, part, scale, i));
}

// shared: room for a row as floats and 16 more, if rows are normalized; made: for what is made.
ZMI_APART void zmi_gpu_ready_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared, char *made) {
  const zmi_gpu_ready *r = &in->as.ready;
  float *part = (float *)(void *)shared;
  int first = 0, last = r->rows;
  if (r->blocks) {
    first = zmi_gpu_first_tile(r->tiles, worker, workers) / r->blocks;
    last = (zmi_gpu_first_tile(r->tiles, worker + 1, workers) + r->blocks - 1) / r->blocks;
  }
  for (int row = first; row < last; row++) {
    const float scale = r->norm ? zmi_gpu_ready_scale(r, row, worker == 0 && r->sum, part, part + r->k) : 0.0f;
    zmi_gpu_ready_row(r, row, part, scale, made + row * r->bytes);
    if (r->norm) zmi_sync(); // the next row overwrites `part`
  }
}
