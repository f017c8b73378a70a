// Ways of an operation that are taken where they are fast give the bits of the plain one: whole words of truth values, tables of nibbles.
#include "play.h"

#include <stdio.h>
#include <stdlib.h>
#include <zmlx/catalog.h>
#include <zmlx/ops.h>
#include <zmlx/random.h>

static void bits_of_any_number_of_bytes(void **state) {
  (void)state;
  uint8_t x[8 * 300], want[300];
  for (int i = 0; i < 8 * 300; i++) x[i] = (uint8_t)((unsigned)i * 2654435761u >> 13) & (i % 3 ? 0x81u : 0u);
  for (int64_t n = 0; n < 300; n += n < 40 ? 1 : 37) {
    zm_scope *scope = zm_scope_open();
    const int64_t shape[1] = {8 * n + 3}, start[1] = {3};
    zm_array *all = zm_array_from_data(x, ZM_U8, shape, 1), *part = zm_slice(all, start, shape, NULL); // at an odd address
    for (int64_t b = 0; b < n; b++) {
      want[b] = 0;
      for (int i = 0; i < 8; i++) want[b] = (uint8_t)(want[b] | (x[3 + 8 * b + i] != 0) << i);
    }
    zm_array *packed = zm_pack_bits(part), *back = zm_unpack_bits(packed);
    const uint8_t *p = play_everywhere("pack_bits", packed), *q = play_everywhere("unpack_bits", back);
    assert_memory_equal(p, want, (size_t)n);
    for (int64_t i = 0; i < 8 * n; i++) assert_int_equal(q[i], x[3 + i] != 0);
    zmi_free((void *)(uintptr_t)p);
    zmi_free((void *)(uintptr_t)q);
    zm_scope_close(scope);
  }
}

static void nibbles_by_table(void **state) {
  (void)state;
  uint8_t x[256];
  const float scale = -0.37f;
  for (int i = 0; i < 256; i++) x[i] = (uint8_t)i;
  zm_scope *scope = zm_scope_open();
  zm_array *q = zm_array_from_data(x, ZM_U8, (int64_t[]){256}, 1), *s = zm_array_from_data(&scale, ZM_F32, (int64_t[]){1}, 1);
  const float *y = play_everywhere("dequantize_int4", zm_dequantize_int4(q, s));
  for (int i = 0; i < 256; i++) {
    for (int half = 0; half < 2; half++) {
      const int code = half ? i >> 4 : i & 15;
      const float want = (float)(code < 8 ? code : code - 16) * scale;
      assert_memory_equal(&y[2 * i + half], &want, sizeof want); // the sign of zero too
    }
  }
  zmi_free((void *)(uintptr_t)y);
  zm_scope_close(scope);
}

// ---- running results, by the words of docs/numerics.md ----

static float join(int kind, float a, float b) {
  if (kind == 0) return a + b;
  a = (fabsf(a) < 0x1p-126f ? 0.0f : a);
  b = (fabsf(b) < 0x1p-126f ? 0.0f : b);
  if (a != a || b != b) return a != a ? a : b;
  return kind == 1 ? (b > a ? b : a) : (b < a ? b : a);
}

static void running(int kind, const float *x, int64_t n, float *y) {
  float carry = 0, chain = 0, p = 0;
  for (int64_t i = 0; i < n; i++) {
    const int64_t at = i % 16384;
    p = at % 64 == 0 ? (kind ? join(kind, x[i], x[i]) : x[i]) : join(kind, p, x[i]);
    const float q = at >= 64 ? join(kind, chain, p) : p;
    y[i] = i >= 16384 ? join(kind, carry, q) : q;
    if (at % 64 == 63) chain = q;
    if (at == 16383) carry = y[i];
  }
}

static void running_results(void **state) {
  (void)state;
  static const int64_t lengths[] = {1, 63, 64, 65, 511, 513, 1024, 1111, 16384, 16385, 3 * 16384 + 77};
  static zm_array *(*const ops[])(zm_array *, int, bool, bool) = {zm_cumsum, zm_cummax, zm_cummin};
  float *x = malloc(60000 * sizeof *x), *y = malloc(60000 * sizeof *y);
  assert_true(x && y);
  for (int round = 0; round < 3 * (int)ZMI_COUNT(lengths) * 2; round++) {
    const int kind = round % 3, reverse = round / 3 % 2;
    const int64_t n = lengths[round / 6];
    for (int64_t i = 0; i < n; i++) {
      const uint32_t r = (uint32_t)(i * 2654435761 + round * 40503) * 2246822519u;
      x[i] = (float)(int32_t)r * 0x1p-31f;
      if (kind && r % 97 == 0) x[i] = r % 2 ? 0x1p-140f : -0.0f; // a denormal
      if (kind && n > 100 && i == n - 30) x[i] = NAN;
    }
    zm_scope *scope = zm_scope_open();
    float *given = reverse ? malloc((size_t)n * sizeof *x) : x;
    for (int64_t i = 0; i < n && reverse; i++) given[n - 1 - i] = x[i];
    zm_array *a = zm_array_from_data(given, ZM_F32, &n, 1);
    float *z = play_everywhere("running", ops[kind](a, 0, reverse, true));
    running(kind, x, n, y);
    for (int64_t i = 0; i < n; i++) {
      const float found = z[reverse ? n - 1 - i : i];
      if (found != y[i] && (found == found || y[i] == y[i]))
        fail_msg("kind %d of %lld, place %lld: %a, expected %a", kind, (long long)n, (long long)i, (double)found, (double)y[i]);
    }
    zmi_free(z);
    if (reverse) free(given);
    zm_scope_close(scope);
  }
  free(x);
  free(y);
}

// ---- products of one and two rows, which read b as it lies, beside those of many, which pack it ----

static void few_rows(void **state) {
  (void)state;
  enum { K = 260, N = 1100, M = 3 };
  static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16, ZM_F16};
  for (size_t t = 0; t < ZMI_COUNT(dtypes); t++) {
    zm_scope *scope = zm_scope_open();
    zm_array *a = zm_astype(zm_random_normal(zm_random_key(1), NULL, NULL, ZM_F32, (int64_t[]){M, K}, 2), dtypes[t]);
    zm_array *b = zm_astype(zm_random_normal(zm_random_key(2), NULL, NULL, ZM_F32, (int64_t[]){K, N}, 2), dtypes[t]);
    const size_t row = N * zm_dtype_size(dtypes[t]);
    char *all = play_everywhere("many rows", zm_matmul(a, b));
    for (int64_t rows = 1; rows <= 2; rows++) {
      for (int64_t first = 0; first + rows <= M; first++) {
        char *some = play_everywhere("few rows", zm_matmul(zm_slice(a, (int64_t[]){first, 0}, (int64_t[]){first + rows, K}, NULL), b));
        assert_memory_equal(some, all + (size_t)first * row, (size_t)rows * row);
        zmi_free(some);
      }
    }
    zmi_free(all);
    zm_scope_close(scope);
  }
}

static int open_all(void **state) {
  (void)state;
  return play_open();
}

static int close_all(void **state) {
  (void)state;
  play_close();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bits_of_any_number_of_bytes),
      cmocka_unit_test(nibbles_by_table),
      cmocka_unit_test(running_results),
      cmocka_unit_test(few_rows),
  };
  return cmocka_run_group_tests(tests, open_all, close_all);
}
