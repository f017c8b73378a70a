// Mathematics outside of the kernels: the float32 functions of functions.h, and double ones for tables and sampling, near one ulp, from
// IEEE operations only. Doubles are split into sums of two where one is not enough.
#include "backend/cpu/functions.h"

#include <string.h>

float zmi_expf(float x) {
  return zmi_exp1(x);
}

float zmi_logf(float x) {
  return zmi_log1(x);
}

float zmi_sigmoidf(float x) {
  return zmi_sigmoid1(x);
}

float zmi_siluf(float x) {
  return zmi_silu1(x);
}

float zmi_tanhf(float x) {
  return zmi_tanh1(x);
}

static uint64_t double_bits(double v) {
  uint64_t u;
  memcpy(&u, &v, sizeof u);
  return u;
}

static double double_of(uint64_t u) {
  double v;
  memcpy(&v, &u, sizeof v);
  return v;
}

// A number as an unevaluated sum.
typedef struct two {
  double hi, lo;
} two;

static const double round_even = 0x1.8p52; // adding it leaves the nearest integer in the low bits
static const two ln2 = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56};

// e^(x + tail), tail tiny.
static double exp_parts(double x, double tail) {
  if (x != x) return x;
  if (x > 709.79) return double_of(0x7ff0000000000000ull);
  if (x < -708.39) return 0; // below 2^-1022
  double t = __builtin_fma(x, 0x1.71547652b82fep0, round_even), n = t - round_even;
  double r = __builtin_fma(-n, ln2.hi, x); // exact
  tail = __builtin_fma(-n, ln2.lo, tail);
  double s = r + tail, q = 1.0 / 6227020800.0; // 1 / 13!
  static const double factorial[] = {479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0};
  for (size_t i = 0; i < ZMI_COUNT(factorial); i++) q = __builtin_fma(q, s, 1.0 / factorial[i]);
  double low = __builtin_fma(s * s, q, tail + (r - s)), y = 1.0 + (s + low); // s + low = r + tail + s^2 q
  int64_t i = (int64_t)(double_bits(t) - double_bits(round_even)), half = i >> 1;
  return y * double_of((uint64_t)(half + 1023) << 52) * double_of((uint64_t)(i - half + 1023) << 52);
}

double zmi_exp(double x) {
  return exp_parts(x, 0);
}

// log(x) of a normal x > 0. x = 2^n m, m in [sqrt(1/2), sqrt(2)), s = (m - 1) / (m + 1): n ln2 + 2 (s + s^3/3 + s^5/5 + ...).
static two log_parts(double x) {
  uint64_t u = double_bits(x);
  int64_t k = (int64_t)(u - 0x3fe6a09e667f3bcdull) >> 52;
  double m = double_of(u - ((uint64_t)k << 52)), n = (double)k;
  double above = m - 1, below = m + 1, lost = m - (below - 1); // below + lost = m + 1
  double s = above / below;
  double rest = (__builtin_fma(-s, below, above) - s * lost) / below;
  double z = s * s, q = 1.0 / 25;
  for (int i = 23; i >= 3; i -= 2) q = __builtin_fma(q, z, 1.0 / i);
  double tail = 2 * __builtin_fma(s * z, q, rest);
  double hi = n * ln2.hi, error = __builtin_fma(n, ln2.hi, -hi), first = 2 * s;
  double sum = hi + first; // |hi| > |first| or hi = 0
  double low = (n != 0 ? first - (sum - hi) : 0) + error + __builtin_fma(n, ln2.lo, tail);
  two y = {sum + low, 0};
  y.lo = low - (y.hi - sum);
  return y;
}

double zmi_log(double x) {
  uint64_t u = double_bits(x);
  if (x != x) return x;
  if ((u & 0x7fffffffffffffffull) < 0x0010000000000000ull) return double_of(0xfff0000000000000ull); // zero; denormals count as zero
  if (u >> 63) return double_of(0x7ff8000000000000ull);
  if (u == 0x7ff0000000000000ull) return x;
  return log_parts(x).hi;
}

double zmi_pow(double base, double exponent) {
  if (exponent == 0 || base == 1) return 1;
  double plain = zmi_log(base);
  if (!(base > 0) || plain - plain != 0) return zmi_exp(exponent * plain);
  two log = log_parts(base);
  double hi = exponent * log.hi;
  if (!(hi > -800 && hi < 800)) return zmi_exp(hi);
  return exp_parts(hi, __builtin_fma(exponent, log.hi, -hi) + exponent * log.lo);
}

// sin and cos of r + tail, |r| <= pi / 4.
static void sincos_near(double r, double tail, double *sine, double *cosine) {
  static const double sine_terms[] = {-1307674368000.0, 6227020800.0, -39916800.0, 362880.0, -5040.0, 120.0, -6.0};
  static const double cosine_terms[] = {20922789888000.0, -87178291200.0, 479001600.0, -3628800.0, 40320.0, -720.0, 24.0};
  double z = r * r, s = 1.0 / 355687428096000.0, c = -1.0 / 6402373705728000.0; // 1 / 17!, -1 / 18!
  for (size_t i = 0; i < ZMI_COUNT(sine_terms); i++) {
    s = __builtin_fma(s, z, 1.0 / sine_terms[i]);
    c = __builtin_fma(c, z, 1.0 / cosine_terms[i]);
  }
  *sine = r + __builtin_fma(r * z, s, __builtin_fma(-0.5 * z, tail, tail));
  double half = 0.5 * z, w = 1.0 - half;
  *cosine = w + ((1.0 - w - half) + __builtin_fma(z * z, c, -r * tail));
}

void zmi_sincos(double x, double *sine, double *cosine) {
  static const double half_pi[3] = {0x1.921fb54442d18p0, 0x1.1a62633145c07p-54, -0x1.f1976b7ed8fbcp-110};
  double t = __builtin_fma(x, 0x1.45f306dc9c883p-1, round_even), n = t - round_even; // x = n pi/2 + r
  double product = n * half_pi[0], r = x - product;                                  // exact: the two are close
  double less = __builtin_fma(n, half_pi[0], -product) + n * half_pi[1], error = __builtin_fma(n, half_pi[0], -product);
  double low = n * half_pi[1];
  less = error + low;
  low = (low - (less - error)) + __builtin_fma(n, half_pi[1], -low) + n * half_pi[2];
  double near = r - less, tail = ((r - near) - less) - low, s, c;
  sincos_near(near, tail, &s, &c);
  uint64_t quarter = double_bits(t) & 3;
  *sine = quarter & 1 ? c : s;
  *cosine = quarter & 1 ? s : c;
  if (quarter & 2) *sine = -*sine;
  if ((quarter + 1) & 2) *cosine = -*cosine;
}
