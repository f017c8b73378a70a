// rms_norm of rows, of sums if there is something to add.

// AHEAD: elements of a thread that are asked for before the first is used. Stores stand behind all of them, as a load cannot pass a store.
enum { ZMI_GPU_NORM_PART = ZMI_GPU_NORM_SHARED / 4 - ZMI_GPU_LANES, ZMI_GPU_AHEAD = 8 };

// Of lane t % 16: the squares of elements t, t + 16, ... of n in shared memory, added to acc. A chain of multiply-adds is what takes time:
// the next elements come while it goes on.
ZMI_INLINE float zmi_gpu_lane_squares(const float *part, int n, float acc) {
  enum { EACH = 16, STEP = EACH * ZMI_GPU_LANES };
  int i = zmi_thread() % ZMI_GPU_LANES;
#pragma unroll 4
  for (int steps = n / STEP; steps > 0; steps--) {
    float v[EACH];
    for (int j = 0; j < EACH; j++) v[j] = part[i + j * ZMI_GPU_LANES];
    for (int j = 0; j < EACH; j++) acc = zk_fma(v[j], v[j], acc);
    i += STEP;
  }
  for (; i < n; i += ZMI_GPU_LANES) acc = zk_fma(part[i], part[i], acc);
  return acc;
}

// The sum of 16 lanes in shared memory; every thread for itself.
ZMI_INLINE float zmi_gpu_lane_total(const float *lane) {
  float v[ZMI_GPU_LANES];
  for (int i = 0; i < ZMI_GPU_LANES; i++) v[i] = lane[i];
  for (int h = ZMI_GPU_LANES / 2; h > 0; h /= 2) {
    for (int i = 0; i < h; i++) v[i] = v[i] + v[i + h];
  }
  return v[0];
}

// The sum of squares in the lane order. Writes the sums of x and add. `lane` is 16 floats behind the elements in shared memory.
ZMI_INLINE float zmi_gpu_squares(const zmi_gpu_norm *m, long long first, float *part, float *lane) {
  const int t = zmi_thread();
  float acc = 0.0f;
  for (int from = 0; from < m->n; from += ZMI_GPU_NORM_PART) {
    const int n = m->n - from < ZMI_GPU_NORM_PART ? m->n - from : ZMI_GPU_NORM_PART;
    for (int begin = t; begin < n; begin += ZMI_GPU_AHEAD * ZMI_GPU_THREADS) {
      unsigned x[ZMI_GPU_AHEAD], y[ZMI_GPU_AHEAD];
      for (int j = 0; j < ZMI_GPU_AHEAD; j++) {
        const int i = begin + j * ZMI_GPU_THREADS;
        x[j] = i < n ? zmi_gpu_bits(m->x, m->dtype, first + from + i) : 0u;
        y[j] = i < n && m->add ? zmi_gpu_bits(m->add, m->dtype, first + from + i) : 0u;
      }
      for (int j = 0; j < ZMI_GPU_AHEAD; j++) {
        const int i = begin + j * ZMI_GPU_THREADS;
        if (i >= n) break;
        float v = zmi_gpu_value(x[j], m->dtype);
        if (m->add) {
          v = zmi_gpu_round(v + zmi_gpu_value(y[j], m->dtype), m->dtype);
          zmi_gpu_store(m->sum, m->dtype, first + from + i, v);
        }
        part[i] = v;
      }
    }
    zmi_sync();
    if (t < ZMI_GPU_LANES) acc = zmi_gpu_lane_squares(part, n, acc);
    zmi_sync();
  }
  if (t < ZMI_GPU_LANES) lane[t] = acc;
  zmi_sync();
  return zmi_gpu_lane_total(lane);
}

ZMI_INLINE void zmi_gpu_norm_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_norm *m = &in->as.norm;
  float *part = (float *)shared;
  for (int row = worker; row < m->rows; row += workers) {
    const long long first = (long long)row * m->n;
    const float q = zmi_gpu_squares(m, first, part, part + ZMI_GPU_NORM_PART);
    const float r = 1.0f / zk_sqrt(q / (float)m->n + m->eps);
    for (int begin = zmi_thread(); begin < m->n; begin += ZMI_GPU_AHEAD * ZMI_GPU_THREADS) {
      float x[ZMI_GPU_AHEAD];
      unsigned w[ZMI_GPU_AHEAD];
      for (int j = 0; j < ZMI_GPU_AHEAD; j++) {
        const int i = begin + j * ZMI_GPU_THREADS;
        w[j] = i < m->n ? zmi_gpu_bits(m->weight, m->weight_dtype, i) : 0u;
        x[j] = i >= m->n ? 0.0f : m->n <= ZMI_GPU_NORM_PART ? part[i] : zmi_gpu_load(m->add ? m->sum : m->x, m->dtype, first + i);
      }
      for (int j = 0; j < ZMI_GPU_AHEAD; j++) {
        const int i = begin + j * ZMI_GPU_THREADS;
        if (i < m->n) zmi_gpu_store(m->out, m->dtype, first + i, x[j] * r * zmi_gpu_value(w[j], m->weight_dtype));
      }
    }
    zmi_sync();
  }
}
