// Errors of the library's own mathematics against the platform's long double functions: over every bfloat16 number, over a dense sweep of
// float32, and over random doubles. The bounds are those that docs/numerics.md states.
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

static void special_values(void **context) {
  (void)context;
  assert_true(isnan(zmi_expf(NAN)) && isnan(zmi_logf(NAN)) && isnan(zmi_sigmoidf(NAN)) && isnan(zmi_siluf(NAN)) && isnan(zmi_tanhf(NAN)));
  assert_true(zmi_expf(INFINITY) == INFINITY && bits_of(zmi_expf(-INFINITY)) == 0 && zmi_expf(0) == 1 && zmi_expf(-0.0f) == 1);
  assert_true(zmi_expf(88.8f) == INFINITY && zmi_expf(88.7f) < INFINITY && zmi_expf(-87.4f) == 0 && zmi_expf(-87.3f) > 0);
  assert_true(zmi_logf(INFINITY) == INFINITY && zmi_logf(0) == -INFINITY && zmi_logf(-0.0f) == -INFINITY && isnan(zmi_logf(-1)));
  assert_true(isnan(zmi_logf(-INFINITY)) && zmi_logf(1) == 0 && zmi_logf(float_of(1)) == -INFINITY);
  assert_true(zmi_sigmoidf(0) == 0.5f && zmi_sigmoidf(INFINITY) == 1 && zmi_sigmoidf(-INFINITY) == 0);
  assert_true(zmi_siluf(INFINITY) == INFINITY && isnan(zmi_siluf(-INFINITY)) && zmi_siluf(0) == 0);
  assert_true(zmi_tanhf(INFINITY) == 1 && zmi_tanhf(-INFINITY) == -1 && bits_of(zmi_tanhf(-0.0f)) == 0x80000000u);
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
      cmocka_unit_test(every_bfloat16), cmocka_unit_test(dense_float32),   cmocka_unit_test(special_values),
      cmocka_unit_test(doubles),        cmocka_unit_test(special_doubles),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
