// Constants and functions that kernels bring from Metal: their values.
#include "evaluate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static double value_of(const char *source, double x) {
  double in[ZMI_CODE_MAX][8] = {{x}}, out[ZMI_CODE_MAX][8];
  const zmi_kernel_text t = {.name = "k", .form = ZMI_FORM_ELEMENTS, .inputs = "x", .source = source};
  const zm_dtype dtype = ZM_F32;
  zmi_kernel *k = zmi_kernel_define(&t);
  zmi_code *c = k ? zmi_kernel_code(k, &dtype, NULL) : NULL;
  if (!c) fail_msg("%s: %s", source, zm_last_error());
  evaluate(c, 1, in, out, NULL);
  zmi_code_free(c);
  zmi_kernel_release(k);
  return out[0][0];
}

static void constants_of_metal(void **state) {
  (void)state;
  static const struct {
    const char *name;
    double value;
  } cases[] = {
      {"M_E", 2.71828182845904524},       {"M_LOG2E", 1.44269504088896341},    {"M_LOG10E", 0.43429448190325183},
      {"M_LN2", 0.69314718055994531},     {"M_LN10", 2.30258509299404568},     {"M_PI", 3.14159265358979324},
      {"M_PI_2", 1.57079632679489662},    {"M_PI_4", 0.78539816339744831},     {"M_1_PI", 0.31830988618379067},
      {"M_2_PI", 0.63661977236758134},    {"M_2_SQRTPI", 1.12837916709551257}, {"M_SQRT2", 1.41421356237309505},
      {"M_SQRT1_2", 0.70710678118654752},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++)
    for (int f = 0; f < 2; f++) {
      char source[64];
      snprintf(source, sizeof source, "x * %s%s", cases[i].name, f ? "_F" : "");
      if (value_of(source, 1) != (double)(float)cases[i].value) fail_msg("%s", source);
    }
  assert_true(value_of("x * MAXFLOAT", 1) == 0x1.fffffep127 && isinf(value_of("x + HUGE_VALF", 1)));
}

static void functions_of_metal(void **state) {
  (void)state;
  static const struct {
    const char *source;
    double x, y;
  } cases[] = {
      {"sinpi(x)", 1, 0},
      {"sinpi(x)", 0.5, 1},
      {"sinpi(x)", -0.5, -1},
      {"sinpi(x)", 1.5, -1},
      {"sinpi(x)", 1000000.5, 1},
      {"sinpi(x)", 2.5, 1},
      {"cospi(x)", 0.5, 0},
      {"cospi(x)", 1, -1},
      {"cospi(x)", 2, 1},
      {"cospi(x)", 1000001, -1},
      {"cospi(x)", -1.5, 0},
      {"exp10(x)", 2, 100},
      {"exp10(x)", 0, 1},
      {"fdim(x, 1.0)", 3, 2},
      {"fdim(x, 1.0)", -3, 0},
      {"fdim(x, INFINITY)", 1, 0},
      {"max3(x, 2, 5.0)", 4, 5},
      {"min3(x, 2.0, 5.0)", 4, 2},
      {"median3(x, 2.0, 5.0)", 4, 4},
      {"median3(9.0, x, 5.0)", 1, 5},
      {"smoothstep(1.0, 3.0, x)", 2, 0.5},
      {"smoothstep(1.0, 3.0, x)", 0, 0},
      {"smoothstep(1.0, 3.0, x)", 1.5, 0.15625},
      {"tanpi(x)", 0.25, 1},
      {"metal::ldexp(x, 3)", 1.25, 10},
      {"ldexp(x, -149)", 0x1p100, 0x1p-49},
      {"ldexp(x, 200)", 0x1.8p-100, 0x1.8p100},
      {"ldexp(x, 127)", 1, 0x1p127},
      {"ldexp(x, 1000)", -1, -INFINITY},
      {"return x * 2;", 3, 6},
      {"float s = x * x; return s + x;", 3, 12},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    double y = value_of(cases[i].source, cases[i].x);
    if (y != cases[i].y && !(fabs(y - cases[i].y) <= 2e-7 * fabs(cases[i].y))) fail_msg("%s of %g is %.9g", cases[i].source, cases[i].x, y);
  }
  assert_true(isnan(value_of("fdim(x, 1.0)", NAN)) && isnan(value_of("sinpi(x)", INFINITY)) && isnan(value_of("cospi(x)", INFINITY)));
  for (int i = 0; i < 200; i++) {
    const double x = (double)(float)random_between(-9, 9), pi = 3.14159265358979324;
    assert_true(fabs(value_of("sinpi(x)", x) - sin(pi * x)) <= 3e-7 * fabs(sin(pi * x)) + 1e-12);
    assert_true(fabs(value_of("cospi(x)", x) - cos(pi * x)) <= 3e-7 * fabs(cos(pi * x)) + 1e-12);
    assert_true(fabs(value_of("exp10(x)", x) - pow(10, x)) <= 3e-7 * pow(10, x));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(constants_of_metal),
      cmocka_unit_test(functions_of_metal),
  };
  return cmocka_run_group_tests_name("kernel_metal", tests, NULL, NULL);
}
