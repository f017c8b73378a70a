// Element by element: sums, products, activations; weighted sums of rows; angles of the rotary embedding. Device text.

// ---- ELEMENTS ----

ZMI_INLINE float zmi_gpu_element_of(int what, int dtype, float a, float b) {
  if (what == ZMI_GPU_ADD) return a + b;
  if (what == ZMI_GPU_MULTIPLY) return a * b;
  if (what == ZMI_GPU_SILU) return zk_silu(a);
  return zmi_gpu_round(zk_silu(a), dtype) * b;
}

ZMI_DEVICE void zmi_gpu_elements_tile(const zmi_gpu_elements *e, long long first) {
  const long long count = e->rows * e->cols, row = first / e->cols;
  const unsigned long long begin = (unsigned long long)(first - row * e->cols);
  const bool two = e->what != ZMI_GPU_SILU;
  for (int i = zmi_thread(); i < ZMI_GPU_PIECE && first + i < count; i += ZMI_GPU_THREADS) {
    const unsigned long long at = begin + (unsigned long long)i, cols = (unsigned long long)e->cols;
    // 64-bit quotients are long functions: columns are few enough for 32 bits, or else a piece crosses one end of a row at most.
    const unsigned long long down = cols < 0x7fffffffull ? (unsigned)at / (unsigned)cols : at >= cols;
    const long long r = row + (long long)down, c = (long long)(at - down * cols);
    const float a = zmi_gpu_load(e->a, e->dtype, r * e->a_stride + c), b = two ? zmi_gpu_load(e->b, e->dtype, r * e->b_stride + c) : 0.0f;
    zmi_gpu_store(e->out, e->dtype, first + i, zmi_gpu_element_of(e->what, e->dtype, a, b));
  }
}

ZMI_DEVICE void zmi_gpu_elements_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  (void)shared;
  for (int t = worker; t < in->tiles; t += workers) zmi_gpu_elements_tile(&in->as.elements, (long long)t * ZMI_GPU_PIECE);
}

// ---- COMBINE ----

ZMI_DEVICE void zmi_gpu_combine_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_combine *m = &in->as.combine;
  const int pieces = (m->n + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE;
  (void)shared;
  for (int t = worker; t < in->tiles; t += workers) {
    const long long row = t / pieces;
    const int first = t % pieces * ZMI_GPU_PIECE;
    for (int i = first + zmi_thread(); i < first + ZMI_GPU_PIECE && i < m->n; i += ZMI_GPU_THREADS) {
      float sum = 0.0f;
#pragma unroll 8
      for (int s = 0; s < m->slots; s++) {
        const long long at = row * m->slots + s;
        sum = zk_fma(zmi_gpu_load(m->weights, m->weight_dtype, at), zmi_gpu_load(m->y, m->y_dtype, at * m->n + i), sum);
      }
      zmi_gpu_store(m->out, m->dtype, row * m->n + i, sum);
    }
  }
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

ZMI_DEVICE void zmi_gpu_angles_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_angles *a = &in->as.angles;
  const long long count = (long long)a->rows * a->pairs;
  (void)shared;
  for (int t = worker; t < in->tiles; t += workers) {
    const long long end = (long long)(t + 1) * ZMI_GPU_PIECE;
    for (long long i = (long long)t * ZMI_GPU_PIECE + zmi_thread(); i < end && i < count; i += ZMI_GPU_THREADS) {
      const long long row = i / a->pairs;
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
