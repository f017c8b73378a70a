// zmlx/testing.h: what matches passes, what does not is named by its place and values, and timings are fair.
#include "tools/tools.h"
#include <zmlx/testing.h>

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static zm_status softplus(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_log(zm_add(zm_exp(in[0]), zm_astype(zm_full(1, ZM_F32, NULL, 0), zm_array_dtype(in[0]))));
  return out[0] ? ZM_OK : zm_last_status();
}

// The same, but for one element of the last axis that is off by *user.
static zm_status nearly(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_status status = softplus(NULL, in, nin, out, nout);
  if (status != ZM_OK || zm_array_size(out[0]) == 0 || zm_array_rank(out[0]) == 0) return status;
  const int64_t last = zm_array_dim(out[0], -1);
  zm_array *where = zm_equal(zm_arange(0, (double)last, 1, ZM_I32), zm_full((double)(last - 1), ZM_I32, NULL, 0));
  zm_array *by = zm_astype(zm_multiply(zm_astype(where, ZM_F32), zm_full(*(double *)user, ZM_F32, NULL, 0)), zm_array_dtype(out[0]));
  out[0] = zm_add(out[0], by);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status product(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_multiply(in[0], in[1]);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status stopped(void *user, zm_array *const *in, int nin, zm_array **out, int nout) { // right values, wrong gradient
  (void)user, (void)nin, (void)nout;
  out[0] = zm_multiply(in[0], zm_stop_gradient(in[1]));
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status quotient(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_divide(in[0], zm_subtract(in[0], in[0])); // infinities and NaN
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status transposed(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *turned = zm_transpose(in[0], NULL);
  (void)user, (void)nin, (void)nout;
  out[0] = zm_exp(turned);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status failing(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_reshape(in[0], (int64_t[]){-1, 7919}, 2);
  return out[0] ? ZM_OK : zm_last_status();
}

static const zm_shape shapes[] = {{1, {5}}, {2, {3, 4}}, {2, {0, 3}}, {0, {0}}, {1, {1000}}};
static const zm_shape pairs[] = {{1, {5}}, {1, {5}}, {2, {3, 1}}, {1, {4}}};

static void assert_says(const char *a, const char *b) {
  const char *said = zm_last_error();
  if (!strstr(said, a) || !strstr(said, b)) fail_msg("%s: lacks %s or %s", said, a, b);
}

static void values(void **state) {
  (void)state;
  zm_match m = {.name = "softplus", .f = softplus, .reference = softplus, .nin = 1, .shapes = shapes, .sets = ZMI_COUNT(shapes)};
  if (zm_assert_matches(&m) != ZM_OK) fail_msg("%s", zm_last_error());
  double off = 0.5;
  m.f = nearly, m.user = &off;
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_MISMATCH);
  assert_says("softplus (float32, [5]): result 0 at [4]", "they differ by 0.5");
  off = 1e-4;
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_MISMATCH);
  m.dtypes = (zm_dtype[]){ZM_BF16}, m.dtype_count = 1; // within what bfloat16 can tell
  if (zm_assert_matches(&m) != ZM_OK) fail_msg("%s", zm_last_error());
  m = (zm_match){.name = "nan", .f = quotient, .reference = quotient, .nin = 1, .shapes = shapes, .sets = 1, .atol = 1e30, .rtol = 1e30};
  m.low[0] = 0, m.high[0] = 1e-30;
  m.dtypes = (zm_dtype[]){ZM_F32}, m.dtype_count = 1;
  assert_int_equal(zm_assert_matches(&m), ZM_OK); // equal infinities
  m.operand[0] = ZM_F16;                          // zeros: 0 / 0
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_MISMATCH);
  assert_says("nan (", "found nan");
  m = (zm_match){.name = "turned", .f = transposed, .reference = softplus, .nin = 1, .shapes = shapes + 1, .sets = 1};
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_MISMATCH);
  assert_says("float32[4, 3]", "float32[3, 4]");
  m.f = failing;
  assert_int_not_equal(zm_assert_matches(&m), ZM_OK);
  assert_says("turned (float32, [3, 4])", "reshape");
  m.nin = 0;
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_ARGUMENT);
}

typedef struct constant {
  zm_dtype dtype;
  uint64_t bits;
} constant;

static zm_status constants(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const constant *c = user;
  (void)in, (void)nin, (void)nout;
  float real = (float)(int64_t)c->bits;
  out[0] = zm_array_from_data(c->dtype == ZM_F32 ? (const void *)&real : &c->bits, c->dtype, (int64_t[]){1}, 1);
  return out[0] ? ZM_OK : zm_last_status();
}

// Integers are compared as integers: doubles hold 53 bits.
static void integers(void **state) {
  (void)state;
  const uint64_t big = (uint64_t)1 << 53;
  struct {
    constant found, expected;
    const char *says; // NULL: they are equal
  } cases[] = {
      {{ZM_I64, big + 1}, {ZM_I64, big}, "found 9007199254740993, expected 9007199254740992; integers must be equal"},
      {{ZM_I64, 0 - big - 1}, {ZM_I64, 0 - big}, "found -9007199254740993, expected -9007199254740992"},
      {{ZM_U64, UINT64_MAX}, {ZM_I64, UINT64_MAX}, "found 18446744073709551615, expected -1"},
      {{ZM_U64, UINT64_MAX}, {ZM_U64, UINT64_MAX - 1}, "found 18446744073709551615, expected 18446744073709551614"},
      {{ZM_I64, big + 1}, {ZM_F32, big}, "found 9007199254740993, expected 9.00719925e+15"},
      {{ZM_I64, big}, {ZM_F32, big}, NULL},
      {{ZM_I64, (uint64_t)1 << 63}, {ZM_I64, (uint64_t)1 << 63}, NULL},
      {{ZM_I64, 7}, {ZM_U64, 7}, NULL},
      {{ZM_I32, UINT32_MAX}, {ZM_I64, UINT64_MAX}, NULL},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    zm_match m = {.name = "big", .f = constants, .user = &cases[i].found, .reference = constants, .nin = 1, .shapes = shapes, .sets = 1};
    m.reference_user = &cases[i].expected;
    assert_int_equal(zm_assert_matches(&m), cases[i].says ? ZM_ERROR_MISMATCH : ZM_OK);
    if (cases[i].says) assert_says("big (float32, [5]): result 0 at [0]", cases[i].says);
  }
}

static void gradients(void **state) {
  (void)state;
  zm_match m = {.name = "softplus", .f = softplus, .nin = 1, .shapes = shapes, .sets = ZMI_COUNT(shapes)};
  if (zm_assert_gradient_matches(&m) != ZM_OK) fail_msg("%s", zm_last_error());
  m.reference = softplus;
  static const zm_dtype all[] = {ZM_F32, ZM_F16, ZM_BF16};
  m.dtypes = all, m.dtype_count = ZMI_COUNT(all);
  if (zm_assert_gradient_matches(&m) != ZM_OK) fail_msg("%s", zm_last_error());
  m.reference = NULL; // the same dtypes against differences of float32
  if (zm_assert_gradient_matches(&m) != ZM_OK) fail_msg("%s", zm_last_error());
  m = (zm_match){.name = "stopped", .f = stopped, .nin = 2, .shapes = pairs, .sets = 2};
  for (size_t i = 0; i < ZMI_COUNT(all); i++) {
    m.dtypes = &all[i], m.dtype_count = 1;
    assert_int_equal(zm_assert_gradient_matches(&m), ZM_ERROR_MISMATCH);
    assert_says(zm_dtype_name(all[i]), "gradient of operand 1");
  }
  m.operand[0] = m.operand[1] = ZM_I32;
  assert_int_equal(zm_assert_gradient_matches(&m), ZM_ERROR_ARGUMENT);
  m = (zm_match){.name = "product", .f = product, .nin = 2, .shapes = pairs, .sets = 2};
  if (zm_assert_gradient_matches(&m) != ZM_OK) fail_msg("%s", zm_last_error());
  m.f = stopped;
  assert_int_equal(zm_assert_gradient_matches(&m), ZM_ERROR_MISMATCH);
  assert_says("gradient of operand 1", "found 0");
  m.reference = product;
  assert_int_equal(zm_assert_gradient_matches(&m), ZM_ERROR_MISMATCH);
  assert_says("gradient of operand 1", "found 0");
}

static zm_status lying(void *user, zm_array *const *in, int nin, zm_array **out, int nout) { // success, and no result
  (void)user, (void)in, (void)nin, (void)out, (void)nout;
  return ZM_OK;
}

static zm_status silent(void *user, zm_array *const *in, int nin, zm_array **out, int nout) { // a failure, and no message
  (void)user, (void)in, (void)nin, (void)out, (void)nout;
  return ZM_ERROR_ARGUMENT;
}

// What an author may get wrong is one clear sentence.
static void mistakes(void **state) {
  (void)state;
  zm_match m = {.name = "softplus", .f = lying, .reference = softplus, .nin = 1, .shapes = shapes, .sets = 1};
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_ARGUMENT);
  assert_says("softplus (float32, [5])", "the tested function returned ZM_OK, but its result 0 is NULL");
  assert_int_equal(zm_assert_gradient_matches(&m), ZM_ERROR_ARGUMENT);
  assert_says("softplus (float32, [5])", "the tested function returned ZM_OK, but its result 0 is NULL");
  m.f = softplus, m.reference = lying;
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_ARGUMENT);
  assert_says("softplus (float32, [5])", "the reference returned ZM_OK, but its result 0 is NULL");
  assert_int_equal(zm_assert_gradient_matches(&m), ZM_ERROR_ARGUMENT);
  m.reference = silent;
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_ARGUMENT);
  assert_says("softplus (float32, [5])", "the reference failed and left no message");
  m.reference = softplus;
  m.dtypes = (const zm_dtype[]){ZM_F32};
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_ARGUMENT);
  assert_says("softplus: dtypes are given, but dtype_count is 0", "nothing would be compared");
  assert_int_equal(zm_assert_gradient_matches(&m), ZM_ERROR_ARGUMENT);
  m.dtypes = NULL, m.nout = -1;
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_ARGUMENT);
  assert_says("softplus: nout is -1", "1 or more results");
  assert_int_equal(zm_assert_gradient_matches(&m), ZM_ERROR_ARGUMENT);
  m.nout = 0;
  m.shapes = (const zm_shape[]){{99, {3}}};
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_ARGUMENT);
  assert_says("softplus: set 0, operand 0: its shape has rank 99", "expected 0 to 8");
  m.shapes = (const zm_shape[]){{1, {-3}}};
  assert_int_equal(zm_assert_gradient_matches(&m), ZM_ERROR_ARGUMENT);
  assert_says("softplus: set 0, operand 0: dimension 0 of its shape is -3", "expected 0 or more");
  m.shapes = (const zm_shape[]){{3, {(int64_t)1 << 40, (int64_t)1 << 40, (int64_t)1 << 40}}};
  assert_int_equal(zm_assert_matches(&m), ZM_ERROR_ARGUMENT);
  assert_says("set 0, operand 0", "more elements than memory can hold");
  zm_scope *scope = zm_scope_open();
  zm_array *x = zm_full(0.5, ZM_F32, (int64_t[]){5}, 1);
  const zm_bench_options o = {.in = &x, .nin = 1, .rounds = 1, .seconds = 0.01}, none = {.nin = 1};
  zm_bench_result r;
  assert_int_equal(zm_bench_compare(softplus, NULL, lying, NULL, &o, &r), ZM_ERROR_ARGUMENT);
  assert_says("zm_bench_compare: a function returned ZM_OK", "its result 0 is NULL");
  assert_int_equal(zm_bench_compare(softplus, NULL, silent, NULL, &o, &r), ZM_ERROR_ARGUMENT);
  assert_says("zm_bench_compare: a function failed", "left no message");
  assert_int_equal(zm_bench_compare(softplus, NULL, softplus, NULL, &none, &r), ZM_ERROR_ARGUMENT);
  zm_scope_close(scope);
}

static zm_status repeated(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  out[0] = in[0];
  for (int i = 0; i < *(int *)user && out[0]; i++) out[0] = zm_tanh(out[0]);
  return out[0] ? ZM_OK : zm_last_status();
}

static void timings(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *x = zm_full(0.5, ZM_F32, (int64_t[]){200000}, 1);
  int much = 12, little = 2;
  zm_bench_result r;
  const zm_bench_options o = {.in = &x, .nin = 1, .rounds = 7, .seconds = 0.3};
  assert_int_equal(zm_bench_compare(repeated, &much, repeated, &little, &o, &r), ZM_OK);
  assert_int_equal(r.rounds, 7);
  assert_true(r.calls >= 1);
  assert_false(r.same_bits);
  assert_true(r.ratio.median > 1.2);
  assert_true(r.ratio.low <= r.ratio.median && r.ratio.median <= r.ratio.high);
  assert_true(r.a.median > r.b.median && r.b.low > 0);
  assert_int_equal(zm_bench_compare(repeated, &little, repeated, &little, &o, &r), ZM_OK);
  assert_true(r.same_bits && r.ratio.low > 0 && r.ratio.high < HUGE_VAL);
  // of five rounds not even the least and the largest hold the median with 95%
  const zm_bench_options five = {.in = &x, .nin = 1, .rounds = 5, .seconds = 0.05};
  assert_int_equal(zm_bench_compare(repeated, &little, repeated, &little, &five, &r), ZM_OK);
  const zm_bench_interval of_five[] = {r.ratio, r.a, r.b};
  for (int i = 0; i < 3; i++) assert_true(of_five[i].median > 0 && of_five[i].low == 0 && of_five[i].high == HUGE_VAL);
  assert_int_not_equal(zm_bench_compare(repeated, &little, failing, NULL, &o, &r), ZM_OK);
  assert_int_equal(zm_bench_compare(NULL, NULL, repeated, &little, &o, &r), ZM_ERROR_ARGUMENT);
  zm_scope_close(scope);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(values), cmocka_unit_test(integers), cmocka_unit_test(gradients),
                                     cmocka_unit_test(mistakes), cmocka_unit_test(timings)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
