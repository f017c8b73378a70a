// The codec of caches: kept tokens come back to the bit, coded ones within the bound of their groups; what it needs from a calibration;
// blobs that are broken.
#include "catalog/kvtc.h"
#include "temp.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { LAYERS = 2, HEADS = 2, TOKENS = 200, DIM = 16, FEATURES = LAYERS * HEADS * DIM };

static uint32_t state;
static float noise(void) {
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / (1 << 23) - 1;
}

// Caches of low rank with a little noise, keys turned by their position.
static void caches(const zm_kvtc_options *o, zm_array **keys, zm_array **values, float rest) {
  enum { RANK = 5 };
  static float mix[2][RANK][FEATURES], data[2][LAYERS][HEADS * TOKENS * DIM];
  state = 1;
  for (int i = 0; i < 2 * RANK * FEATURES; i++) (&mix[0][0][0])[i] = noise();
  for (int s = 0; s < 2; s++) {
    for (int t = 0; t < TOKENS; t++) {
      float c[RANK], row[FEATURES];
      for (int r = 0; r < RANK; r++) c[r] = noise() * (float)(RANK - r);
      for (int i = 0; i < FEATURES; i++) {
        row[i] = 0.5f + rest * noise();
        for (int r = 0; r < RANK; r++) row[i] += c[r] * mix[s][r][i];
      }
      for (int h = 0; h < LAYERS * HEADS; h++) {
        if (s == 0 && o->rope_dim) zmi_kvtc_turn(o, row + h * DIM, t, false);
        memcpy(&data[s][h / HEADS][(h % HEADS * TOKENS + t) * DIM], row + h * DIM, DIM * sizeof(float));
      }
    }
  }
  for (int l = 0; l < LAYERS; l++) {
    keys[l] = zm_astype(zm_array_from_data(data[0][l], ZM_F32, (int64_t[]){1, HEADS, TOKENS, DIM}, 4), ZM_F16);
    values[l] = zm_astype(zm_array_from_data(data[1][l], ZM_F32, (int64_t[]){1, HEADS, TOKENS, DIM}, 4), ZM_F16);
  }
}

static double worst(zm_array *a, zm_array *b, int64_t first, int64_t last) {
  const uint16_t *x = zm_array_data(a), *y = zm_array_data(b);
  double most = 0;
  assert_non_null(x);
  assert_non_null(y);
  for (int64_t h = 0; h < HEADS; h++) {
    for (int64_t i = (h * TOKENS + first) * DIM; i < (h * TOKENS + last) * DIM; i++) {
      most = fmax(most, fabs((double)zmi_f16_to_f32(x[i]) - (double)zmi_f16_to_f32(y[i])));
    }
  }
  return most;
}

static void round_trip(const zm_kvtc_options *o, double bound) {
  zm_scope *scope = zm_scope_open();
  zm_array *keys[LAYERS], *values[LAYERS], *k[LAYERS], *v[LAYERS];
  zm_kvtc_options filled;
  assert_int_equal(zmi_kvtc_options_fill(o, &filled), ZM_OK);
  caches(&filled, keys, values, 0.01f);
  zm_kvtc *codec = zm_kvtc_calibrate(keys, values, LAYERS, o, &(zm_kvtc_calibration){.bits = 160});
  if (!codec) fail_msg("%s", zm_last_error());
  void *bytes;
  size_t size;
  if (zm_kvtc_compress(codec, keys, values, LAYERS, &bytes, &size) != ZM_OK) fail_msg("%s", zm_last_error());
  if (zm_kvtc_decompress(codec, bytes, size, LAYERS, k, v) != ZM_OK) fail_msg("%s", zm_last_error());
  for (int l = 0; l < LAYERS; l++) {
    assert_true(worst(keys[l], k[l], 0, filled.prefix) == 0);
    assert_true(worst(keys[l], k[l], TOKENS - filled.suffix, TOKENS) == 0);
    double error = worst(keys[l], k[l], 0, TOKENS);
    if (error > bound) fail_msg("keys of layer %d: error %g, bound %g", l, error, bound);
    if (!o->single_stream) {
      error = worst(values[l], v[l], 0, TOKENS);
      if (error > bound) fail_msg("values of layer %d: error %g, bound %g", l, error, bound);
    }
  }
  // 64 features of 16 bits are 128 bytes a token and stream; 160 bits are 20.
  int64_t coded = (TOKENS - filled.prefix - filled.suffix) * 20, kept = (filled.prefix + filled.suffix) * 128;
  assert_true((int64_t)size <= (o->single_stream ? 1 : 2) * (coded + kept) + 1024);
  zm_kvtc_bytes_free(bytes);
  zm_kvtc_free(codec);
  zm_scope_close(scope);
}

static void test_round_trip(void **unused) {
  (void)unused;
  round_trip(&(zm_kvtc_options){.prefix = 4, .suffix = 20}, 0.25);
  round_trip(&(zm_kvtc_options){.prefix = -1, .suffix = -1}, 0.25);
  round_trip(&(zm_kvtc_options){.prefix = 4, .suffix = 20, .single_stream = true}, 0.25);
}

// With the right rope keys are of low rank, and as exact as values; with the wrong pairs they are not.
static void test_rope(void **unused) {
  (void)unused;
  for (int traditional = 0; traditional < 2; traditional++) {
    round_trip(&(zm_kvtc_options){.prefix = 4, .suffix = 20, .rope_dim = 8, .rope_offset = 4, .rope_traditional = traditional}, 0.25);
  }
  zm_scope *scope = zm_scope_open();
  zm_array *keys[LAYERS], *values[LAYERS];
  zm_kvtc_options o = {.prefix = 4, .suffix = 20, .rope_dim = 16, .rope_base = 10000}, wrong = o;
  wrong.rope_traditional = true;
  caches(&o, keys, values, 0.01f);
  double error[2];
  for (int i = 0; i < 2; i++) {
    zm_array *k[LAYERS], *v[LAYERS];
    void *bytes;
    size_t size;
    zm_kvtc *codec = zm_kvtc_calibrate(keys, values, LAYERS, i ? &wrong : &o, &(zm_kvtc_calibration){.bits = 160});
    assert_non_null(codec);
    assert_int_equal(zm_kvtc_compress(codec, keys, values, LAYERS, &bytes, &size), ZM_OK);
    assert_int_equal(zm_kvtc_decompress(codec, bytes, size, LAYERS, k, v), ZM_OK);
    error[i] = worst(keys[0], k[0], 0, TOKENS);
    zm_kvtc_bytes_free(bytes);
    zm_kvtc_free(codec);
  }
  assert_true(error[1] > 4 * error[0]);
  zm_scope_close(scope);
}

static void test_more_bits_are_nearer(void **unused) {
  (void)unused;
  zm_scope *scope = zm_scope_open();
  zm_array *keys[LAYERS], *values[LAYERS], *k[LAYERS], *v[LAYERS];
  zm_kvtc_options o = {.prefix = 4, .suffix = 20};
  caches(&o, keys, values, 0.3f);
  double last = 1e9;
  for (int64_t bits = 64; bits <= 1024; bits *= 4) {
    void *bytes;
    size_t size;
    zm_kvtc *codec = zm_kvtc_calibrate(keys, values, LAYERS, &o, &(zm_kvtc_calibration){.bits = bits});
    assert_non_null(codec);
    assert_true(8 * zmi_kvtc_row_bytes(&codec->stream[0]) <= bits + 7 * codec->stream[0].count);
    assert_int_equal(zm_kvtc_compress(codec, keys, values, LAYERS, &bytes, &size), ZM_OK);
    assert_int_equal(zm_kvtc_decompress(codec, bytes, size, LAYERS, k, v), ZM_OK);
    double error = worst(keys[0], k[0], 0, TOKENS);
    assert_true(error < last);
    last = error;
    zm_kvtc_bytes_free(bytes);
    zm_kvtc_free(codec);
  }
  assert_true(last < 0.05);
  zm_scope_close(scope);
}

static void test_eigen(void **unused) {
  (void)unused;
  enum { N = 40 };
  static double a[N * N], v[N * N], values[N];
  state = 5;
  for (int i = 0; i < N; i++) {
    for (int j = 0; j <= i; j++) a[i * N + j] = a[j * N + i] = noise();
  }
  memcpy(v, a, sizeof a);
  assert_int_equal(zmi_kvtc_eigen(v, values, N), ZM_OK);
  for (int r = 0; r < N; r++) {
    if (r) assert_true(values[r] <= values[r - 1]);
    for (int i = 0; i < N; i++) {
      double sum = 0, dot = 0;
      for (int j = 0; j < N; j++) sum += a[i * N + j] * v[r * N + j];
      assert_true(fabs(sum - values[r] * v[r * N + i]) < 1e-12 * 10);
      for (int j = 0; j < N; j++) dot += v[r * N + j] * v[i * N + j];
      assert_true(fabs(dot - (r == i)) < 1e-12);
    }
  }
}

static void test_folder(void **unused) {
  (void)unused;
  zm_scope *scope = zm_scope_open();
  zm_array *keys[LAYERS], *values[LAYERS];
  zm_kvtc_options o = {.prefix = 4, .suffix = 20, .rope_dim = 16, .rope_base = 10000};
  caches(&o, keys, values, 0.01f);
  zm_kvtc *made = zm_kvtc_calibrate(keys, values, LAYERS, &o, NULL);
  assert_non_null(made);
  temp_folder temp;
  assert_int_equal(temp_make(&temp), 0);
  const char *folder = temp.path;
  if (zm_kvtc_save(made, folder) != ZM_OK) fail_msg("%s", zm_last_error());
  zm_kvtc *loaded = zm_kvtc_load(folder, &o);
  if (!loaded) fail_msg("%s", zm_last_error());
  void *a, *b;
  size_t na, nb;
  assert_int_equal(zm_kvtc_compress(made, keys, values, LAYERS, &a, &na), ZM_OK);
  assert_int_equal(zm_kvtc_compress(loaded, keys, values, LAYERS, &b, &nb), ZM_OK);
  assert_int_equal(na, nb);
  assert_memory_equal(a, b, na);
  zm_kvtc_bytes_free(a);
  zm_kvtc_bytes_free(b);
  zm_kvtc_free(made);
  zm_kvtc_free(loaded);
  assert_null(zm_kvtc_load("nowhere/at/all", &o));
  temp_remove(&temp);
  zm_scope_close(scope);
}

// Every blob that is cut off, and one with each byte changed, is refused or gives numbers; nothing else happens.
static void test_broken(void **unused) {
  (void)unused;
  zm_scope *scope = zm_scope_open();
  zm_array *keys[LAYERS], *values[LAYERS], *k[LAYERS], *v[LAYERS];
  zm_kvtc_options o = {.prefix = 1, .suffix = 1};
  caches(&o, keys, values, 0.01f);
  zm_kvtc *codec = zm_kvtc_calibrate(keys, values, LAYERS, &o, &(zm_kvtc_calibration){.bits = 100});
  assert_non_null(codec);
  uint8_t *bytes;
  size_t size;
  assert_int_equal(zm_kvtc_compress(codec, keys, values, LAYERS, (void **)&bytes, &size), ZM_OK);
  for (size_t n = 0; n < size; n += 7) assert_int_not_equal(zm_kvtc_decompress(codec, bytes, n, LAYERS, k, v), ZM_OK);
  for (size_t i = 0; i < size; i += 5) {
    bytes[i] ^= 0x41;
    zm_scope *inner = zm_scope_open();
    zm_kvtc_decompress(codec, bytes, size, LAYERS, k, v);
    zm_scope_close(inner);
    bytes[i] ^= 0x41;
  }
  assert_int_not_equal(zm_kvtc_decompress(codec, bytes, size, LAYERS + 1, k, v), ZM_OK);
  // Other options than those that the blob was made with.
  zm_kvtc_options other = o;
  other.suffix = 2;
  zm_kvtc *second = zm_kvtc_calibrate(keys, values, LAYERS, &other, &(zm_kvtc_calibration){.bits = 100});
  assert_int_not_equal(zm_kvtc_decompress(second, bytes, size, LAYERS, k, v), ZM_OK);
  zm_kvtc_free(second);
  // Fewer tokens than are kept.
  zm_array *few[LAYERS];
  for (int l = 0; l < LAYERS; l++) few[l] = zmi_cat_part(keys[l], 2, 0, 1);
  void *none;
  size_t length;
  assert_int_not_equal(zm_kvtc_compress(codec, few, few, LAYERS, &none, &length), ZM_OK);
  zm_kvtc_bytes_free(bytes);
  zm_kvtc_free(codec);
  zm_scope_close(scope);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_eigen),  cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_rope),   cmocka_unit_test(test_more_bits_are_nearer),
      cmocka_unit_test(test_folder), cmocka_unit_test(test_broken),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
