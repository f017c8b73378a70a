// Derivatives of functions of the kernel language, the first and the second, against those of MLX (scripts/make_derivative_cases.py): at
// ordinary points and where a function has an end, a kink or a pole.
#include <zmlx/zmlx.h>

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { POINTS = 32, OPERANDS = 2 };

static int numbers_of(const json_t *hex, float x[POINTS]) {
  const char *text = json_string_value(hex);
  assert_non_null(text);
  const int n = (int)(strlen(text) / 8);
  assert_true(n > 0 && n <= POINTS);
  for (int i = 0; i < n; i++) {
    unsigned char bytes[4];
    for (int k = 0; k < 4; k++) bytes[k] = (unsigned char)strtol((char[]){text[8 * i + 2 * k], text[8 * i + 2 * k + 1], 0}, NULL, 16);
    memcpy(&x[i], bytes, sizeof x[i]);
  }
  return n;
}

static zm_status apply(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return zm_op_apply(user, in, nin, out, nout);
}

// The sum of the gradients of the sum, at each place.
static zm_status slopes(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *y, *gradient[OPERANDS];
  (void)nout;
  const zm_status status = zm_vjp(apply, user, in, nin, NULL, &y, 1, gradient);
  if (status == ZM_OK) out[0] = nin == 1 ? gradient[0] : zm_add(gradient[0], gradient[1]);
  return status == ZM_OK && !out[0] ? zm_last_status() : status;
}

static void compare(const char *source, const char *what, int operand, zm_array *found, const json_t *hex, int n, float *const *in) {
  float want[POINTS];
  assert_int_equal(numbers_of(hex, want), n);
  const float *y = zm_array_data(found);
  if (!y) fail_msg("%s: %s: %s", source, what, zm_last_error());
  for (int i = 0; i < n; i++) {
    const double off = fabs((double)y[i] - (double)want[i]), scale = fmax(fabs((double)want[i]), 1e-2);
    if (y[i] == want[i] || off <= 1e-4 * scale) continue;
    fail_msg("%s: %s %d at %g %g is %.9g, of MLX %.9g", source, what, operand, (double)in[0][i], (double)(in[1] ? in[1][i] : 0),
             (double)y[i], (double)want[i]);
  }
}

static void like_those_of_mlx(void **state) {
  (void)state;
  json_error_t error;
  json_t *cases = json_load_file("tests/data/derivative_cases.json", 0, &error), *c;
  if (!cases) fail_msg("tests/data/derivative_cases.json, line %d: %s", error.line, error.text);
  size_t at;
  json_array_foreach(cases, at, c) {
    const char *source = json_string_value(json_object_get(c, "source"));
    const json_t *operands = json_object_get(c, "in"), *first = json_object_get(c, "first"), *second = json_object_get(c, "second");
    const int nin = (int)json_array_size(operands);
    float memory[OPERANDS][POINTS], *in[OPERANDS] = {NULL};
    zm_scope *scope = zm_scope_open();
    zm_array *x[OPERANDS], *y, *gradient[OPERANDS], *again[OPERANDS];
    int64_t n = 0;
    for (int i = 0; i < nin; i++) {
      in[i] = memory[i];
      n = numbers_of(json_array_get(operands, (size_t)i), in[i]);
      x[i] = zm_array_from_data(in[i], ZM_F32, &n, 1);
    }
    zm_op *op = zm_elementwise(source, &(zm_elementwise_options){.inputs = nin == 1 ? "a" : "a b"});
    if (!op) fail_msg("%s", zm_last_error());
    if (zm_vjp(apply, op, x, nin, NULL, &y, 1, gradient) != ZM_OK) fail_msg("%s: %s", source, zm_last_error());
    compare(source, "value", 0, y, json_object_get(c, "out"), (int)n, in);
    for (int i = 0; i < nin; i++) compare(source, "slope", i, gradient[i], json_array_get(first, (size_t)i), (int)n, in);
    if (zm_vjp(slopes, op, x, nin, NULL, &y, 1, again) != ZM_OK) fail_msg("%s: %s", source, zm_last_error());
    for (int i = 0; i < nin; i++) compare(source, "second derivative", i, again[i], json_array_get(second, (size_t)i), (int)n, in);
    zm_op_free(op);
    zm_scope_close(scope);
  }
  assert_true(json_array_size(cases) > 45);
  json_decref(cases);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(like_those_of_mlx)};
  return cmocka_run_group_tests_name("derivatives", tests, NULL, NULL);
}
