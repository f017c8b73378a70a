// Errors of the library's own mathematics against the platform's long double functions: over every bfloat16 number, over a dense sweep of
// float32, and over random doubles. The bounds are those that docs/numerics.md states.
#include "backend/prelude/numbers.h"
// numbers.h first
#include "backend/prelude/functions.h"
#include "backend/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static float float_of(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

static uint64_t state = 88172645463325252ull;
static uint64_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

// ---- float32 ----

static long double true_sigmoid(long double x) {
  return 1 / (1 + expl(-x));
}

static long double true_silu(long double x) {
  return x / (1 + expl(-x));
}

static long double true_softplus(long double x) {
  return (x > 0 ? x : 0) + log1pl(expl(-fabsl(x)));
}

static long double true_rsqrt(long double x) {
  return 1 / sqrtl(x);
}

static long double true_round(long double x) {
  return rintl(x);
}

// Newton on erfc from our own result, which is near.
static long double true_erfinv(long double x) {
  long double a = fabsl(x), y = (long double)zk_erfinv((float)a);
  if (!(a < 1)) return a == 1 ? x * (long double)INFINITY : (long double)NAN;
  for (int i = 0; i < 3; i++) {
    long double error = a < 0.5L ? erfl(y) - a : (1 - a) - erfcl(y);
    y -= error / (1.12837916709551257390L * expl(-y * y));
  }
  return copysignl(y, x);
}

// The functions of the prelude as functions that can be pointed to.
#define ONE(name)                                                                                                                          \
  static float our_##name(float x) {                                                                                                       \
    return zk_##name(x);                                                                                                                   \
  }
ONE(exp2)
ONE(expm1)
ONE(log2)
ONE(log10)
ONE(log1p) ONE(sin) ONE(cos) ONE(tan) ONE(asin) ONE(acos) ONE(atan) ONE(sinh) ONE(cosh) ONE(asinh) ONE(acosh) ONE(atanh) ONE(erf)
    ONE(erfinv) ONE(softplus) ONE(rsqrt) ONE(floor) ONE(ceil) ONE(round) ONE(trunc)

        typedef struct function {
  const char *name;
  float (*ours)(float x);
  long double (*theirs)(long double x);
  double ulp; // the largest error where the result is not flushed
  float from; // below this input the error is measured absolutely (results that leave the normal range on the way)
  double absolute;
} function;

static const function functions[] = {
    {"exp", zmi_expf, expl, 1.05, -INFINITY, 0},
    {"log", zmi_logf, logl, 1.0, -INFINITY, 0},
    {"sigmoid", zmi_sigmoidf, true_sigmoid, 2.5, -87.0f, 1.2e-38},
    {"silu", zmi_siluf, true_silu, 3.0, -87.0f, 1.1e-36},
    {"tanh", zmi_tanhf, tanhl, 1.5, -INFINITY, 0},
    {"exp2", our_exp2, exp2l, 1.0, -INFINITY, 0},
    {"expm1", our_expm1, expm1l, 1.0, -INFINITY, 0},
    {"log2", our_log2, log2l, 1.0, -INFINITY, 0},
    {"log10", our_log10, log10l, 1.0, -INFINITY, 0},
    {"log1p", our_log1p, log1pl, 1.0, -INFINITY, 0},
    {"sin", our_sin, sinl, 1.0, -INFINITY, 0},
    {"cos", our_cos, cosl, 1.0, -INFINITY, 0},
    {"tan", our_tan, tanl, 1.5, -INFINITY, 0},
    {"asin", our_asin, asinl, 1.0, -INFINITY, 0},
    {"acos", our_acos, acosl, 1.0, -INFINITY, 0},
    {"atan", our_atan, atanl, 1.0, -INFINITY, 0},
    {"sinh", our_sinh, sinhl, 2.0, -INFINITY, 0},
    {"cosh", our_cosh, coshl, 2.0, -INFINITY, 0},
    {"asinh", our_asinh, asinhl, 1.0, -INFINITY, 0},
    {"acosh", our_acosh, acoshl, 1.0, -INFINITY, 0},
    {"atanh", our_atanh, atanhl, 1.0, -INFINITY, 0},
    {"erf", our_erf, erfl, 1.5, -INFINITY, 0},
    {"erfinv", our_erfinv, true_erfinv, 2.5, -INFINITY, 0},
    {"softplus", our_softplus, true_softplus, 2.0, -INFINITY, 0},
    {"rsqrt", our_rsqrt, true_rsqrt, 1.5, -INFINITY, 0},
    {"floor", our_floor, floorl, 0, -INFINITY, 0},
    {"ceil", our_ceil, ceill, 0, -INFINITY, 0},
    {"round", our_round, true_round, 0, -INFINITY, 0},
    {"trunc", our_trunc, truncl, 0, -INFINITY, 0},
};

// Error of one result in units of the last place of the true value; 0 where both are NaN, infinite or flushed.
static double error_ulp(float y, long double t) {
  if (isnan(t)) return isnan(y) ? 0 : INFINITY;
  long double limit = 0x1.ffffffp127L; // from here on a float32 rounds to infinity
  if (fabsl(t) >= limit) return isinf(y) && (y > 0) == (t > 0) ? 0 : fabsl(t) < limit * 1.0000001L && y > 3.4e38f ? 1 : INFINITY;
  if (fabsl(t) < 0x1p-126L) return fabsf(y) < 0x1.00001p-126f ? 0 : INFINITY;
  if (isinf(y)) return fabsl(t) > limit * 0.9999999L ? 1 : INFINITY;
  int e = (int)ilogbl(t);
  return (double)(fabsl((long double)y - t) / ldexpl(1, e - 23));
}

static void check_function(const function *f, uint32_t step) {
  double worst = 0, worst_absolute = 0;
  float at = 0;
  for (uint64_t u = 0; u < 0x100000000ull; u += step) {
    float x = float_of((uint32_t)u);
    if (fabsf(x) < 0x1p-126f || (bits_of(x) & 0x7fffffffu) < 0x800000u) x = x * 0.0f; // denormals count as zero
    float y = f->ours(x);
    long double t = f->theirs((long double)x);
    if (x < f->from) {
      if (isinf(x)) continue;
      double d = (double)fabsl((long double)y - t);
      assert_true(!isnan(y));
      worst_absolute = d > worst_absolute ? d : worst_absolute;
      continue;
    }
    double e = error_ulp(y, t);
    if (e > worst) worst = e, at = x;
  }
  print_message("# %-8s step %u: %.3f ulp at %a; %.2g absolute below %g\n", f->name, step, worst, (double)at, worst_absolute,
                (double)f->from);
  assert_true(worst <= f->ulp);
  assert_true(worst_absolute <= f->absolute);
}

static void every_bfloat16(void **context) {
  (void)context;
  unsigned saved = zmi_float_rule_enter();
  for (size_t i = 0; i < ZMI_COUNT(functions); i++) check_function(&functions[i], 0x10000);
  zmi_float_rule_leave(saved);
}

static void dense_float32(void **context) {
  (void)context;
  unsigned saved = zmi_float_rule_enter();
  const char *all = getenv("ZMLX_TEST_STEP"); // 1 walks all 2^32 numbers
  uint32_t step = all && atoi(all) > 0 ? (uint32_t)atoi(all) : 1021;
  for (size_t i = 0; i < ZMI_COUNT(functions); i++) check_function(&functions[i], step);
  zmi_float_rule_leave(saved);
}

// ---- two operands ----

static float random_float(int kind) {
  uint64_t r = next_random();
  float near_one = 1 + ((float)(r >> 40) - 0x1p23f) * 0x1p-24f, any = float_of((uint32_t)(r >> 20));
  float moderate = ldexpf(near_one, (int)(r % 60) - 30) * (r & 1024 ? 1.0f : -1.0f);
  return kind == 0 ? near_one : kind == 1 ? moderate : kind == 2 ? (float)((int)(r >> 30 & 63) - 32) : fabsf(any) < 0x1p-126f ? 0 : any;
}

static void powers_and_angles(void **context) {
  (void)context;
  unsigned saved = zmi_float_rule_enter();
  double worst[2] = {0}, at[4] = {0};
  for (int i = 0; i < 2000000; i++) {
    float x = random_float(i % 4), y = random_float(i / 4 % 4);
    if (i % 3 == 0 && x > 0)
      y = (float)(88.0 * ((double)(next_random() >> 11) * 0x1p-52 - 1) / (double)logl((long double)x)); // all magnitudes
    double e = error_ulp(zk_pow(x, y), powl((long double)x, (long double)y));
    if (e > worst[0]) worst[0] = e, at[0] = (double)x, at[1] = (double)y;
    e = error_ulp(zk_atan2(y, x), atan2l((long double)y, (long double)x));
    if (e > worst[1]) worst[1] = e, at[2] = (double)x, at[3] = (double)y;
  }
  print_message("# pow %.3f ulp at %a, %a; atan2 %.3f ulp at x %a, y %a\n", worst[0], at[0], at[1], worst[1], at[2], at[3]);
  assert_true(worst[0] <= 1.5 && worst[1] <= 1.0);
  // Every pair of special values as in C.
  static const float special[] = {
      0.0f,    -0.0f,          0.5f,          -0.5f, 1,      -1,       2,         -2,  3,          -3,          1.5f, -2.5f,
      0x1p24f, -0x1p24f,       16777215.0f,   3e38f, -3e38f, INFINITY, -INFINITY, NAN, 1e-38f * 2, -1e-38f * 2, 100,  101,
      -101,    0x1.fffffep-1f, 0x1.000002p+0f};
  for (size_t i = 0; i < ZMI_COUNT(special); i++) {
    for (size_t j = 0; j < ZMI_COUNT(special); j++) {
      float x = special[i], y = special[j], power = zk_pow(x, y), angle = zk_atan2(x, y);
      long double t = powl((long double)x, (long double)y), a = atan2l((long double)x, (long double)y);
      if (error_ulp(power, t) > 1.5 || error_ulp(angle, a) > 1)
        fail_msg("%a, %a: pow %a, atan2 %a", (double)x, (double)y, (double)power, (double)angle);
      if (!isnan(t) && (signbit(t) != 0) != (signbit(power) != 0)) fail_msg("sign of pow(%a, %a)", (double)x, (double)y);
      if (!isnan(a) && (signbit(a) != 0) != (signbit(angle) != 0)) fail_msg("sign of atan2(%a, %a)", (double)x, (double)y);
    }
  }
  assert_true(isinf(zk_pow(float_of(1), -1)) && zk_pow(2, float_of(0x7fffff)) == 1 && zk_pow(float_of(1), 1) == 0); // denormals are zeros
  zmi_float_rule_leave(saved);
}

// Remainders are exact; so are the circular functions next to multiples of pi / 2, as far as their bound goes.
static void remainders_and_reduction(void **context) {
  (void)context;
  unsigned saved = zmi_float_rule_enter();
  for (int i = 0; i < 400000; i++) {
    float x = random_float(i % 2 ? 3 : 1), y = random_float(i % 3 ? 3 : 1), r = zk_rem_float(x, y), t = fmodf(x, y);
    if (isnan(t)) {
      assert_true(isnan(r));
    } else {
      if (fabsf(t) < 0x1p-126f) t = copysignf(0, t);
      if (bits_of(r) != bits_of(t)) fail_msg("%a mod %a: %a, not %a", (double)x, (double)y, (double)r, (double)t);
    }
  }
  double worst = 0;
  for (int i = 0; i < 400000; i++) {
    float n = floorf(ldexpf(1 + (float)(next_random() >> 40) * 0x1p-24f, i % 100)), x = (float)((long double)n * 1.57079632679489661923L);
    double e[3] = {error_ulp(zk_sin(x), sinl((long double)x)), error_ulp(zk_cos(x), cosl((long double)x)),
                   error_ulp(zk_tan(x), tanl((long double)x)) / 1.5};
    for (int j = 0; j < 3; j++) worst = e[j] > worst ? e[j] : worst;
  }
  print_message("# sin, cos, tan near multiples of pi / 2: %.3f of the bound\n", worst);
  assert_true(worst <= 1);
  zmi_float_rule_leave(saved);
}

static void special_values(void **context) {
  (void)context;
  unsigned saved = zmi_float_rule_enter();
  assert_true(isnan(zmi_expf(NAN)) && isnan(zmi_logf(NAN)) && isnan(zmi_sigmoidf(NAN)) && isnan(zmi_siluf(NAN)) && isnan(zmi_tanhf(NAN)));
  assert_true(zmi_expf(INFINITY) == INFINITY && bits_of(zmi_expf(-INFINITY)) == 0 && zmi_expf(0) == 1 && zmi_expf(-0.0f) == 1);
  assert_true(zmi_expf(88.8f) == INFINITY && zmi_expf(88.7f) < INFINITY && zmi_expf(-87.4f) == 0 && zmi_expf(-87.3f) > 0);
  assert_true(zmi_logf(INFINITY) == INFINITY && zmi_logf(0) == -INFINITY && zmi_logf(-0.0f) == -INFINITY && isnan(zmi_logf(-1)));
  assert_true(isnan(zmi_logf(-INFINITY)) && zmi_logf(1) == 0 && zmi_logf(float_of(1)) == -INFINITY);
  assert_true(zmi_sigmoidf(0) == 0.5f && zmi_sigmoidf(INFINITY) == 1 && zmi_sigmoidf(-INFINITY) == 0);
  assert_true(zmi_siluf(INFINITY) == INFINITY && isnan(zmi_siluf(-INFINITY)) && zmi_siluf(0) == 0);
  assert_true(zmi_tanhf(INFINITY) == 1 && zmi_tanhf(-INFINITY) == -1 && bits_of(zmi_tanhf(-0.0f)) == 0x80000000u);
  // signs of zero and the ends of domains
  const struct {
    const char *name;
    float (*f)(float x);
  } odd[] = {{"expm1", our_expm1},   {"log1p", our_log1p}, {"sin", our_sin},     {"tan", our_tan},     {"asin", our_asin},
             {"atan", our_atan},     {"sinh", our_sinh},   {"asinh", our_asinh}, {"atanh", our_atanh}, {"erf", our_erf},
             {"erfinv", our_erfinv}, {"floor", our_floor}, {"ceil", our_ceil},   {"round", our_round}, {"trunc", our_trunc}};
  for (size_t i = 0; i < ZMI_COUNT(odd); i++) {
    if (bits_of(odd[i].f(-0.0f)) != 0x80000000u || bits_of(odd[i].f(0.0f)) != 0) fail_msg("%s loses the sign of zero", odd[i].name);
  }
  for (size_t i = 0; i < ZMI_COUNT(functions); i++) assert_true(isnan(functions[i].ours(NAN)));
  assert_true(isnan(zk_sin(INFINITY)) && isnan(zk_cos(-INFINITY)) && isnan(zk_tan(INFINITY)) && isnan(zk_asin(1.0000001f)));
  assert_true(zk_erfinv(1) == INFINITY && zk_erfinv(-1) == -INFINITY && isnan(zk_erfinv(1.5f)) && zk_erf(INFINITY) == 1);
  assert_true(zk_atanh(1) == INFINITY && isnan(zk_atanh(2)) && isnan(zk_acosh(0.9f)) && bits_of(zk_acosh(1)) == 0);
  assert_true(zk_log1p(-1) == -INFINITY && isnan(zk_log1p(-2)) && zk_softplus(INFINITY) == INFINITY);
  assert_true(zk_expm1(-INFINITY) == -1 && zk_sinh(-INFINITY) == -INFINITY && zk_cosh(-INFINITY) == INFINITY);
  assert_true(zk_exp2(-126) == 0x1p-126f && zk_exp2(-127) == 0 && zk_exp2(128) == INFINITY && zk_exp2(10) == 1024 && zk_log2(1024) == 10);
  // Whatever a NaN carries, it stays one: exponents are added to bits.
  static const uint32_t nans[] = {0x7fc001ffu, 0x7f800001u, 0xffffffffu, 0xff8001ffu, 0x7fc00080u};
  for (size_t i = 0; i < ZMI_COUNT(functions); i++) {
    for (size_t j = 0; j < ZMI_COUNT(nans); j++)
      if (!isnan(functions[i].ours(float_of(nans[j])))) fail_msg("%s of the NaN %x is none", functions[i].name, nans[j]);
  }
  const volatile float far[] = {-INFINITY, -3e38f, -88.1f}; // no compiler computes these: it knows nothing of denormals that count as zero
  for (size_t i = 0; i < ZMI_COUNT(far); i++) assert_true(bits_of(our_softplus(far[i])) == 0);
  assert_true(our_softplus(INFINITY) == INFINITY && our_softplus(100) == 100 && our_softplus(-87.3f) > 0);
  assert_true(bits_of(zmi_sigmoidf(-100)) == 0 && bits_of(zmi_siluf(-100)) == 0x80000000u && zmi_sigmoidf(100) == 1);
  zmi_float_rule_leave(saved);
}

// What rows use where they know more of the operands has the bits of the plain function.
static void exponentials_and_quotients_of_rows(void **context) {
  (void)context;
  const unsigned saved = zmi_float_rule_enter();
  for (uint64_t b = 0x80000000u; b <= 0xffffffffu; b += 509) {
    const float x = float_of((uint32_t)b), ours = zk_exp_below(x), plain = zmi_expf(x);
    if (isnan(x) ? !isnan(ours) : bits_of(ours) != bits_of(plain))
      fail_msg("exp of %a: %a, found %a", (double)x, (double)plain, (double)ours);
  }
  assert_true(zk_exp_below(0) == 1 && isnan(zk_exp_below(NAN)) && isnan(zk_exp_below(float_of(0x7f800001u))));
  for (int i = 0; i < 3000000; i++) {
    const uint64_t r = next_random(), q = next_random();
    const uint32_t edge = (uint32_t)(q >> 40) & 7u, top = (uint32_t)r & 0x7fffffu; // mantissas near each other, near 1 and near 2
    const uint32_t at = edge == 0 ? 0x7fffffu - (top & 7u) : edge == 1 ? top & 7u : top;
    const volatile float s = float_of(((uint32_t)(127 + (r >> 23) % 32) << 23) | at);
    const uint32_t m = (q >> 50 & 3u) ? (uint32_t)q & 0x7fffffu : (at + (uint32_t)(q & 3u)) & 0x7fffffu;
    const volatile float p = i % 64 == 0 ? 0.0f : i % 64 == 1 ? 1.0f : float_of(((uint32_t)(1 + (q >> 23) % 126) << 23) | m);
    const volatile float quotient = p / s;
    if (bits_of(zk_share(p, s)) != bits_of(quotient))
      fail_msg("%a / %a: %a, found %a", (double)p, (double)s, (double)quotient, (double)zk_share(p, s));
  }
  assert_true(isnan(zk_share(NAN, 2)) && isnan(zk_share(0.5f, NAN)) && isnan(zk_share(0, 0)));
  zmi_float_rule_leave(saved);
}

static void must_round(uint32_t bits) {
  const float x = float_of(bits);
  if (bits_of(zk_round_f16(x)) != bits_of(zk_load_float16(zk_store_float16_float(x)))) fail_msg("round_f16 of bits %08x", (unsigned)bits);
}

// To float16 and back in one step is what storing and reading give: at every tie, beside it, and over a dense sweep.
static void float16_and_back(void **context) {
  (void)context;
  for (uint32_t h = 0; h < 0x7c01; h++) {
    const float a = zk_load_float16((zk_stored_float16)h), b = h < 0x7bff ? zk_load_float16((zk_stored_float16)(h + 1)) : 65536;
    const uint32_t tie = bits_of(a + (b - a) / 2);
    for (uint32_t sign = 0; sign < 2; sign++)
      for (uint32_t k = 0; k < 3; k++) must_round((tie + k - (tie > 0)) ^ sign << 31), must_round((bits_of(a) + k) ^ sign << 31);
  }
  uint32_t bits = 0;
  do must_round(bits);
  while ((bits += 257) > 256);
  for (uint32_t k = 0; k < 4; k++) must_round(0x7f800000u + k), must_round(0xff800000u + k), must_round(0x7fffffffu - k), must_round(~k);
}

// ---- double ----

static double error_ulp_double(double y, long double t) {
  if (fabsl(t) < 0x1p-1022L) return y == 0 || fabs(y) <= 0x1p-1022 ? 0 : INFINITY;
  if (fabsl(t) > 0x1.fffffffffffffp1023L) return isinf(y) ? 0 : 1;
  return (double)(fabsl((long double)y - t) / ldexpl(1, (int)ilogbl(t) - 52));
}

static double uniform(double from, double to) {
  return from + (to - from) * (double)(next_random() >> 11) * 0x1p-53;
}

static void doubles(void **context) {
  (void)context;
  double worst[5] = {0};
  for (int i = 0; i < 400000; i++) {
    double x = uniform(-708, 709), y[5], s, c, angle = uniform(-1, 1) * ldexp(1, (int)(next_random() % 31));
    if (i % 2) x = uniform(-1, 1);
    double positive = i % 3 ? exp(uniform(-700, 700)) : uniform(0.5, 2), base = i % 2 ? uniform(0.01, 2e6) : uniform(0.9, 1.1);
    double power = i % 2 ? uniform(-1, 1) : uniform(-40, 40);
    zmi_sincos(angle, &s, &c);
    y[0] = error_ulp_double(zmi_exp(x), expl((long double)x));
    y[1] = error_ulp_double(zmi_log(positive), logl((long double)positive));
    y[2] = error_ulp_double(s, sinl((long double)angle));
    y[3] = error_ulp_double(c, cosl((long double)angle));
    y[4] = error_ulp_double(zmi_pow(base, power), powl((long double)base, (long double)power));
    for (int j = 0; j < 5; j++) worst[j] = y[j] > worst[j] ? y[j] : worst[j];
  }
  print_message("# double exp %.3f, log %.3f, sin %.3f, cos %.3f, pow %.3f ulp\n", worst[0], worst[1], worst[2], worst[3], worst[4]);
  for (int j = 0; j < 5; j++) assert_true(worst[j] <= 1.0);
}

static void special_doubles(void **context) {
  (void)context;
  double s, c;
  assert_true(zmi_exp(0) == 1 && isinf(zmi_exp(710)) && zmi_exp(-800) == 0 && isnan(zmi_exp((double)NAN)));
  assert_true(zmi_exp((double)INFINITY) > 0 && isinf(zmi_exp((double)INFINITY)) && zmi_exp(-(double)INFINITY) == 0);
  assert_true(zmi_log(1) == 0 && isinf(zmi_log(0)) && zmi_log(0) < 0 && isnan(zmi_log(-1)) && isnan(zmi_log((double)NAN)));
  assert_true(zmi_pow(10000, 0) == 1 && zmi_pow(2, 10) == 1024 && zmi_pow(1, 77) == 1 && zmi_pow(1000000, -1) == 1e-6);
  zmi_sincos(0, &s, &c);
  assert_true(s == 0 && c == 1);
  for (int n = 1; n < 1000000; n = n * 3 + 1) { // near multiples of pi / 2, where all leading digits cancel
    double x = (double)((long double)n * 1.57079632679489661923132169163975144L);
    zmi_sincos(x, &s, &c);
    assert_true(error_ulp_double(s, sinl((long double)x)) <= 1 && error_ulp_double(c, cosl((long double)x)) <= 1);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_bfloat16),
      cmocka_unit_test(dense_float32),
      cmocka_unit_test(special_values),
      cmocka_unit_test(powers_and_angles),
      cmocka_unit_test(remainders_and_reduction),
      cmocka_unit_test(doubles),
      cmocka_unit_test(special_doubles),
      cmocka_unit_test(float16_and_back),
      cmocka_unit_test(exponentials_and_quotients_of_rows),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
