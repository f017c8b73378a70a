// Windows of signal processing, computed in double and rounded once.
#include "array/ops/index.h"

typedef double (*window_fn)(double cosine, double twice, double place);

static double bartlett(double cosine, double twice, double place) {
  (void)cosine, (void)twice;
  return place < 0.5 ? 2 * place : 2 - 2 * place;
}

static double blackman(double cosine, double twice, double place) {
  (void)place;
  return 0.42 - 0.5 * cosine + 0.08 * twice;
}

static double hamming(double cosine, double twice, double place) {
  (void)twice, (void)place;
  return 0.54 - 0.46 * cosine;
}

static double hanning(double cosine, double twice, double place) {
  (void)twice, (void)place;
  return 0.5 - 0.5 * cosine;
}

static zm_array *window(const char *op, int64_t n, window_fn fn) {
  if (n < 0 || n > INT32_MAX) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: %lld is no number of points", op, (long long)n);
    return NULL;
  }
  const size_t bytes = (size_t)n * sizeof(float);
  float *w = zmi_buffer_alloc(bytes); // what the memory limit does not allow is not begun
  if (!w) return NULL;
  for (int64_t i = 0; i < n; i++) {
    const double place = n > 1 ? (double)i / (double)(n - 1) : 0.5;
    double sine, cosine, twice;
    zmi_sincos(6.283185307179586477 * place, &sine, &cosine);
    zmi_sincos(12.566370614359172954 * place, &sine, &twice);
    w[i] = (float)fn(cosine, twice, place);
    if (w[i] < 1e-16f && w[i] > -1e-16f) w[i] = 0; // the ends, where terms cancel
  }
  const zmi_type type = zmi_type_of(ZM_F32, 1, &n);
  zm_array *a = zmi_buffer_leaf(&type, w);
  if (!a) zmi_buffer_free(w, bytes);
  return a;
}

zm_array *zm_bartlett(int64_t n) {
  return window("bartlett", n, bartlett);
}

zm_array *zm_blackman(int64_t n) {
  return window("blackman", n, blackman);
}

zm_array *zm_hamming(int64_t n) {
  return window("hamming", n, hamming);
}

zm_array *zm_hanning(int64_t n) {
  return window("hanning", n, hanning);
}
