// Element by element: sums, products, activations; weighted sums of rows; angles of the rotary embedding. Device text.

// ---- ELEMENTS ----

ZMI_INLINE float zmi_gpu_element_of(int what, int dtype, float a, float b) {
  if (what == ZMI_GPU_ADD) return a + b;
  if (what == ZMI_GPU_MULTIPLY) return a * b;
  const float silu = zk_silu(a); // once: it is long
  return what == ZMI_GPU_SILU ? silu : zmi_gpu_round(silu, dtype) * b;
}

// Where element `at` of a matrix from the middle of a row on lies: `row` and column `begin` come first.
// 64-bit quotients are long functions: columns are few enough for 32 bits, or else a piece crosses one end of a row at most.
ZMI_INLINE void zmi_gpu_element_place(const zmi_gpu_elements *e, long long row, unsigned long long at, long long *r, long long *c) {
  const unsigned long long cols = (unsigned long long)e->cols;
  const long long down = at < cols ? 0 : cols < 0x7fffffffull ? (long long)((unsigned)at / (unsigned)cols) : 1;
  *r = row + down;
  *c = (long long)at - down * e->cols;
}

template <int DTYPE> ZMI_INLINE void zmi_gpu_elements_tile(const zmi_gpu_elements *e, long long first) {
  enum { EACH = ZMI_GPU_PIECE / ZMI_GPU_THREADS };
  const long long count = e->rows * e->cols, row = first < e->cols ? 0 : first / e->cols;
  const bool two = e->what != ZMI_GPU_SILU;
  unsigned a[EACH], b[EACH];
#pragma unroll
  for (int j = 0; j < EACH; j++) {
    const int i = zmi_thread() + j * ZMI_GPU_THREADS;
    const bool there = first + i < count;
    long long r = 0, c = 0;
    zmi_gpu_element_place(e, row, (unsigned long long)(first - row * e->cols + i), &r, &c);
    a[j] = there ? zmi_gpu_bits(e->a, DTYPE, r * e->a_stride + c) : 0u;
    b[j] = there && two ? zmi_gpu_bits(e->b, DTYPE, r * e->b_stride + c) : 0u;
  }
#pragma unroll
  for (int j = 0; j < EACH; j++) {
    const long long i = first + zmi_thread() + j * ZMI_GPU_THREADS;
    const float y = zmi_gpu_element_of(e->what, DTYPE, zmi_gpu_value(a[j], DTYPE), zmi_gpu_value(b[j], DTYPE));
    if (i < count) zmi_gpu_store(e->out, DTYPE, i, y);
  }
}

template <int DTYPE> ZMI_INLINE void zmi_gpu_elements_tiles(const zmi_gpu_elements *e, int tiles, int worker, int workers) {
#pragma unroll 1
  for (int t = worker; t < tiles; t += workers) zmi_gpu_elements_tile<DTYPE>(e, (long long)t * ZMI_GPU_PIECE);
}

ZMI_INLINE void zmi_gpu_elements_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_elements e = in->as.elements;
  (void)shared;
  ZMI_GPU_BY_DTYPE(e.dtype, zmi_gpu_elements_tiles<DTYPE>(&e, in->tiles, worker, workers));
}

// ---- COMBINE ----

// DTYPE: of y.
template <int DTYPE> ZMI_INLINE void zmi_gpu_combine_tile(const zmi_gpu_combine *m, long long row, int first) {
  enum { EACH = ZMI_GPU_PIECE / ZMI_GPU_THREADS, AHEAD = 8 };
  float sum[EACH] = {};
  for (int begin = 0; begin < m->slots; begin += AHEAD) {
    unsigned weight[AHEAD], y[EACH][AHEAD];
#pragma unroll
    for (int s = 0; s < AHEAD; s++) {
      const bool there = begin + s < m->slots;
      const long long at = row * m->slots + begin + s;
      weight[s] = there ? zmi_gpu_word(m->weights, m->weight_dtype, at) : 0u;
#pragma unroll
      for (int j = 0; j < EACH; j++) {
        const int i = first + zmi_thread() + j * ZMI_GPU_THREADS;
        y[j][s] = there && i < m->n ? zmi_gpu_bits(m->y, DTYPE, at * m->n + i) : 0u;
      }
    }
#pragma unroll
    for (int s = 0; s < AHEAD; s++) {
      if (begin + s >= m->slots) break;
      const float w = zmi_gpu_of_word(weight[s], m->weights, m->weight_dtype, row * m->slots + begin + s);
#pragma unroll
      for (int j = 0; j < EACH; j++) sum[j] = zk_fma(w, zmi_gpu_value(y[j][s], DTYPE), sum[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < EACH; j++) {
    const int i = first + zmi_thread() + j * ZMI_GPU_THREADS;
    if (i < m->n) zmi_gpu_store(m->out, m->dtype, row * m->n + i, sum[j]);
  }
}

template <int DTYPE> ZMI_INLINE void zmi_gpu_combine_tiles(const zmi_gpu_combine *m, int tiles, int worker, int workers) {
  const int pieces = (m->n + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE;
  for (int t = worker; t < tiles; t += workers) zmi_gpu_combine_tile<DTYPE>(m, t / pieces, t % pieces * ZMI_GPU_PIECE);
}

ZMI_INLINE void zmi_gpu_combine_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_combine m = in->as.combine;
  (void)shared;
  ZMI_GPU_BY_DTYPE(m.y_dtype, zmi_gpu_combine_tiles<DTYPE>(&m, in->tiles, worker, workers));
}

// ---- ANGLES: sines and cosines in double, operation by operation those of zmi_sincos (backend/cpu/math.c) ----

ZMI_INLINE unsigned long long zmi_gpu_double_bits(double x) {
  union {
    double d;
    unsigned long long u;
  } w;
  w.d = x;
  return w.u;
}

ZMI_INLINE double zmi_gpu_less(double a, double b) {
  return zmi_add_double(a, -b);
}

// Of r + tail, |r| <= pi / 4.
ZMI_DEVICE void zmi_gpu_sincos_near(double r, double tail, double *sine, double *cosine) {
  const double sine_terms[7] = {1.0 / -1307674368000.0, 1.0 / 6227020800.0, 1.0 / -39916800.0, 1.0 / 362880.0,
                                1.0 / -5040.0,          1.0 / 120.0,        1.0 / -6.0};
  const double cosine_terms[7] = {1.0 / 20922789888000.0, 1.0 / -87178291200.0, 1.0 / 479001600.0, 1.0 / -3628800.0,
                                  1.0 / 40320.0,          1.0 / -720.0,         1.0 / 24.0};
  const double z = zmi_multiply_double(r, r), rz = zmi_multiply_double(r, z);
  double s = 1.0 / 355687428096000.0, c = -1.0 / 6402373705728000.0;
#pragma unroll
  for (int i = 0; i < 7; i++) {
    s = zmi_fma_double(s, z, sine_terms[i]);
    c = zmi_fma_double(c, z, cosine_terms[i]);
  }
  *sine = zmi_add_double(r, zmi_fma_double(rz, s, zmi_fma_double(zmi_multiply_double(-0.5, z), tail, tail)));
  const double half = zmi_multiply_double(0.5, z), w = zmi_gpu_less(1.0, half);
  const double low = zmi_fma_double(zmi_multiply_double(z, z), c, zmi_multiply_double(-r, tail));
  *cosine = zmi_add_double(w, zmi_add_double(zmi_gpu_less(zmi_gpu_less(1.0, w), half), low));
}

ZMI_DEVICE void zmi_gpu_sincos(double x, double *sine, double *cosine) {
  const double pi0 = 0x1.921fb54442d18p0, pi1 = 0x1.1a62633145c07p-54, pi2 = -0x1.f1976b7ed8fbcp-110, even = 0x1.8p52;
  const double t = zmi_fma_double(x, 0x1.45f306dc9c883p-1, even), n = zmi_gpu_less(t, even);
  const double product = zmi_multiply_double(n, pi0), r = zmi_gpu_less(x, product);
  const double error = zmi_fma_double(n, pi0, -product);
  double low = zmi_multiply_double(n, pi1);
  const double less = zmi_add_double(error, low), rest = zmi_fma_double(n, pi1, -low);
  low = zmi_add_double(zmi_add_double(zmi_gpu_less(low, zmi_gpu_less(less, error)), rest), zmi_multiply_double(n, pi2));
  const double near = zmi_gpu_less(r, less), tail = zmi_gpu_less(zmi_gpu_less(zmi_gpu_less(r, near), less), low);
  double s, c;
  zmi_gpu_sincos_near(near, tail, &s, &c);
  const unsigned quarter = (unsigned)zmi_gpu_double_bits(t) & 3u;
  *sine = quarter & 1u ? c : s;
  *cosine = quarter & 1u ? s : c;
  if (quarter & 2u) *sine = -*sine;
  if ((quarter + 1u) & 2u) *cosine = -*cosine;
}

ZMI_INLINE void zmi_gpu_angles_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_angles copy = in->as.angles, *a = &copy;
  const long long count = (long long)a->rows * a->pairs;
  const int tiles = in->tiles;
  (void)shared;
  for (int t = worker; t < tiles; t += workers) {
    const long long end = (long long)(t + 1) * ZMI_GPU_PIECE;
    for (long long i = (long long)t * ZMI_GPU_PIECE + zmi_thread(); i < end && i < count; i += ZMI_GPU_THREADS) {
      const long long row = i < a->pairs ? 0 : i / a->pairs;
      // A denormal frequency is zero on every machine: conversions flush it on some only.
      const double frequency = (double)zk_flush(zmi_gpu_at<const float>(a->frequency)[i - row * a->pairs]);
      const double angle = zmi_multiply_double((double)zmi_gpu_at<const int>(a->position)[row], frequency);
      double sine = 0, cosine = 0;
      const bool known = angle < 0x1p30 && angle > -0x1p30;
      if (known) zmi_gpu_sincos(angle, &sine, &cosine);
      zmi_gpu_at<float>(a->cosine)[i] = known ? (float)cosine : zkp_nan();
      zmi_gpu_at<float>(a->sine)[i] = known ? (float)sine : zkp_nan();
    }
  }
}
