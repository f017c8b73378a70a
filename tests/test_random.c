// Random numbers: the bits of MLX for its keys, batches of keys, what is refused.
#include "cases.h"

#include <zmlx/zmlx.h>

static json_t *root;

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

static zm_array *both(zm_array *key) {
  zm_array *half[2];
  if (zm_random_split2(key, &half[0], &half[1]) != ZM_OK) return NULL;
  for (int i = 0; i < 2; i++) half[i] = zm_expand_dims(half[i], 0);
  return zm_concatenate(half, 2, 0);
}

static zm_array *apply(const char *op, zm_array *key, zm_array **in, const json_t *c) {
  int64_t shape[ZM_MAX_RANK];
  const json_t *out = json_object_get(c, "out"), *dims = json_object_get(out, "s"), *args = json_object_get(c, "args");
  const zm_dtype dtype = zm_dtype_from_name(json_string_value(json_object_get(out, "t")));
  const int rank = (int)json_array_size(dims);
  cases_shape(dims, shape);
  if (strcmp(op, "key") == 0) return key;
  if (strcmp(op, "split") == 0) return zm_random_split(key, json_integer_value(json_object_get(args, "count")));
  if (strcmp(op, "split2") == 0) return both(key);
  if (strcmp(op, "uniform") == 0) return zm_random_uniform(key, in[0], in[1], dtype, shape, rank);
  if (strcmp(op, "bernoulli") == 0) return zm_random_bernoulli(key, in[0], shape, rank);
  if (strcmp(op, "gumbel") == 0) return zm_random_gumbel(key, dtype, shape, rank);
  if (strcmp(op, "randint") == 0) return zm_random_randint(key, in[0], in[1], dtype, shape, rank);
  if (strcmp(op, "permutation") == 0) return zm_random_permutation(key, shape[0]);
  const int axis = (int)json_integer_value(json_object_get(args, "axis"));
  const double loc = json_number_value(json_object_get(args, "loc")), scale = json_number_value(json_object_get(args, "scale"));
  const bool shaped = json_object_get(args, "shaped") != NULL;
  if (strcmp(op, "normal") == 0) return zm_random_normal(key, in[0], in[1], dtype, shape, rank);
  if (strcmp(op, "truncated_normal") == 0) return zm_random_truncated_normal(key, in[0], in[1], dtype, shape, rank);
  if (strcmp(op, "multivariate_normal") == 0) return zm_random_multivariate_normal(key, in[0], in[1], dtype, shape, rank - 1);
  if (strcmp(op, "laplace") == 0) return zm_random_laplace(key, loc, scale, dtype, shape, rank);
  if (strcmp(op, "categorical") == 0) return zm_random_categorical(key, in[0], axis, shaped ? shape : NULL, rank);
  if (strcmp(op, "categorical_many") == 0)
    return zm_random_categorical_many(key, in[0], axis, json_integer_value(json_object_get(args, "count")));
  if (strcmp(op, "permutation_of") == 0) return zm_random_permutation_of(key, in[0], axis);
  fail_msg("no op %s", op);
  return NULL;
}

static void the_numbers_of_mlx(void **state) {
  (void)state;
  const json_t *cases = json_object_get(root, "cases");
  assert_true(json_array_size(cases) > 100);
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *c = json_array_get(cases, i), *list = json_object_get(c, "in");
    const char *op = json_string_value(json_object_get(c, "op"));
    char what[64];
    snprintf(what, sizeof what, "case %zu (%s)", i, op);
    zm_scope *scope = zm_scope_open();
    zm_array *in[4] = {NULL}, *key = zm_random_key((uint64_t)json_integer_value(json_object_get(c, "seed")));
    for (size_t k = 0; k < json_array_size(list); k++) in[k] = cases_array(json_array_get(list, k));
    cases_compare(what, apply(op, key, in, c), json_object_get(c, "out"), json_number_value(json_object_get(c, "tol")), 1);
    zm_scope_close(scope);
  }
}

// The stream of one key in words, from the definition: the reference of widths and sizes.
static void words_of(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1, uint32_t out[2]) {
  static const int turns[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  const uint32_t k[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDAu};
  uint32_t x = c0 + k0, y = c1 + k1;
  for (uint32_t round = 0; round < 20; round++) {
    x += y;
    y = (y << turns[round % 8] | y >> (32 - turns[round % 8])) ^ x;
    if (round % 4 == 3) {
      x += k[(round / 4 + 1) % 3];
      y += k[(round / 4 + 2) % 3] + round / 4 + 1;
    }
  }
  out[0] = x;
  out[1] = y;
}

static void bits_of_any_width_and_size(void **state) {
  (void)state;
  static const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 255, 513, 8192, 16385, 20001};
  for (size_t s = 0; s < ZMI_COUNT(sizes); s++) {
    for (int width = 1; width <= 4; width *= 2) {
      zm_scope *scope = zm_scope_open();
      const uint64_t seed = 0x123456789abcdefULL + s;
      uint8_t *found = play_everywhere("bits", zm_random_bits(zm_random_key(seed), width, SHAPE(sizes[s])));
      size_t bytes = (size_t)sizes[s] * (size_t)width, words = (bytes + 3) / 4, half = words / 2;
      uint32_t *wanted = calloc(words, 4), pair[2];
      for (size_t i = 0; i < half; i++) {
        words_of((uint32_t)(seed >> 32), (uint32_t)seed, (uint32_t)i, (uint32_t)(i + half + words % 2), pair);
        wanted[i] = pair[0];
        wanted[i + half + words % 2] = pair[1];
      }
      if (words % 2) {
        words_of((uint32_t)(seed >> 32), (uint32_t)seed, (uint32_t)half, 0, pair);
        wanted[half] = pair[0];
      }
      assert_memory_equal(found, wanted, bytes);
      free(wanted);
      zmi_free(found);
      zm_scope_close(scope);
    }
  }
}

// Every key of a batch makes the numbers that it makes alone.
static void batches_of_keys(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *keys = zm_random_split(zm_random_key(5), 6);
  float *all = play_everywhere("keys", zm_random_uniform(zm_reshape(keys, SHAPE(3, 2, 2)), NULL, NULL, ZM_F32, SHAPE(4, 5)));
  for (int64_t i = 0; i < 6; i++) {
    zm_array *key = zm_squeeze(zm_slice(keys, (int64_t[]){i, 0}, (int64_t[]){i + 1, 2}, NULL), 0);
    const float *one = zm_array_data(zm_random_uniform(key, NULL, NULL, ZM_F32, SHAPE(4, 5)));
    assert_memory_equal(one, all + i * 20, 20 * sizeof *one);
  }
  zmi_free(all);
  zm_scope_close(scope);
}

static void floats_lie_below_one(void **state) {
  (void)state;
  static const zm_dtype dtypes[] = {ZM_F32, ZM_F16, ZM_BF16};
  for (size_t d = 0; d < 3; d++) {
    zm_scope *scope = zm_scope_open();
    double sum = 0, squares = 0;
    const int64_t n = 100000;
    const void *x = zm_array_data(zm_random_uniform(zm_random_key(9), NULL, NULL, dtypes[d], &n, 1));
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
      double v = cases_value(x, dtypes[d], i);
      assert_true(v >= 0 && v < 1);
      sum += v;
      squares += v * v;
    }
    assert_true(fabs(sum / (double)n - 0.5) < 0.005 && fabs(squares / (double)n - 1.0 / 3) < 0.005);
    zm_scope_close(scope);
  }
}

static void refusals(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *key = zm_random_key(1), *no_key = zm_full(0, ZM_F32, SHAPE(2)), *wide = zm_full(0, ZM_F32, SHAPE(3, 1));
  const struct {
    zm_array *made;
    const char *says;
  } rows[] = {
      {zm_random_bits(NULL, 4, SHAPE(2)), "operand 1 is NULL"},
      {zm_random_bits(no_key, 4, SHAPE(2)), "a key is uint32"},
      {zm_random_bits(key, 3, SHAPE(2)), "a width of 3 bytes"},
      {zm_random_bits(key, 4, SHAPE(-2)), "random_bits: "},
      {zm_random_bits(key, 4, NULL, 2), "a shape of rank 2"},
      {zm_random_bits(key, 4, SHAPE(1, 1, 1, 1, 1, 1, 1, 1, 1)), "a shape of rank 9"},
      {zm_random_uniform(key, NULL, NULL, ZM_I32, SHAPE(2)), "the dtype must be float16"},
      {zm_random_uniform(key, wide, NULL, ZM_F32, SHAPE(2)), "operands make the result float32[3, 2]"},
      {zm_random_bernoulli(key, zm_full(0, ZM_I32, NULL, 0), SHAPE(2)), "the dtype must be float16"},
      {zm_random_gumbel(key, ZM_BOOL, SHAPE(2)), "the dtype must be float16"},
      {zm_random_normal(key, wide, NULL, ZM_F32, SHAPE(2)), "operands make the result float32[3, 2]"},
      {zm_random_normal(key, NULL, NULL, ZM_I32, SHAPE(2)), "the dtype must be float16"},
      {zm_random_laplace(key, 0, 1, ZM_I32, SHAPE(2)), "the dtype must be float16"},
      {zm_random_truncated_normal(key, wide, NULL, ZM_F32, SHAPE(2)), "operand 2 is NULL"},
      {zm_random_truncated_normal(key, wide, wide, ZM_F32, SHAPE(2)), "operands make the result"},
      {zm_random_categorical(key, wide, 2, NULL, 0), "random_categorical: axis 2"},
      {zm_random_categorical(key, wide, 0, NULL, 0), NULL},
      {zm_random_categorical(key, wide, 1, SHAPE(2)), "operands make the result"},
      {zm_random_categorical(zm_random_split(key, 3), wide, 0, NULL, 0), "takes one key"},
      {zm_random_categorical_many(key, wide, 0, -1), "random_gumbel: "},
      {zm_random_permutation_of(zm_random_split(key, 3), wide, 0), "takes one key"},
      {zm_random_permutation_of(key, wide, 5), "random_permutation_of: axis 5"},
  };
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) assert_int_equal(rows[i].made == NULL, rows[i].says != NULL);
  // Each message, one call at a time.
  zm_clear_error();
  assert_null(zm_random_bits(no_key, 4, SHAPE(2)));
  assert_non_null(strstr(zm_last_error(), rows[1].says));
  assert_null(zm_random_bits(key, 3, SHAPE(2)));
  assert_non_null(strstr(zm_last_error(), rows[2].says));
  assert_null(zm_random_uniform(key, wide, NULL, ZM_F32, SHAPE(2)));
  assert_non_null(strstr(zm_last_error(), rows[7].says));
  zm_scope_close(scope);
}

// Moments of many numbers, and how often each index is drawn.
static void distributions(void **state) {
  (void)state;
  enum { N = 100000 };
  static const double wanted[3][2] = {{0, 1}, {2.0, 18.0}, {0, 0.2911}}; // of the last: normal numbers in [-1, 1]
  for (int d = 0; d < 3; d++) {
    zm_scope *scope = zm_scope_open();
    zm_array *key = zm_random_key(11), *one = zm_full(1, ZM_F32, NULL, 0);
    zm_array *y = d == 0   ? zm_random_normal(key, NULL, NULL, ZM_F32, SHAPE(N))
                  : d == 1 ? zm_random_laplace(key, 2, 3, ZM_F32, SHAPE(N))
                           : zm_random_truncated_normal(key, zm_negative(one), one, ZM_F32, SHAPE(N));
    const float *x = zm_array_data(y);
    double sum = 0, squares = 0;
    assert_non_null(x);
    for (int i = 0; i < N; i++) {
      assert_true(isfinite(x[i]) && (d < 2 || fabsf(x[i]) <= 1));
      sum += x[i];
      squares += (double)x[i] * x[i];
    }
    const double mean = sum / N, variance = squares / N - mean * mean;
    assert_true(fabs(mean - wanted[d][0]) < 0.02 * sqrt(wanted[d][1]) && fabs(variance / wanted[d][1] - 1) < 0.02);
    zm_scope_close(scope);
  }
  zm_scope *scope = zm_scope_open();
  const float logits[] = {-INFINITY, 0, 1.0986123f, 0}; // probabilities 0, 0.2, 0.6, 0.2
  int counts[4] = {0};
  const uint32_t *drawn = zm_array_data(zm_random_categorical_many(zm_random_key(3), zm_array_from_data(logits, ZM_F32, SHAPE(4)), -1, N));
  assert_non_null(drawn);
  for (int i = 0; i < N; i++) counts[drawn[i]]++;
  assert_true(counts[0] == 0 && abs(counts[1] - N / 5) < 600 && abs(counts[2] - 3 * N / 5) < 700 && abs(counts[3] - N / 5) < 600);
  zm_scope_close(scope);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_numbers_of_mlx), cmocka_unit_test(bits_of_any_width_and_size),
      cmocka_unit_test(batches_of_keys),    cmocka_unit_test(floats_lie_below_one),
      cmocka_unit_test(distributions),      cmocka_unit_test(refusals),
  };
  root = cases_load("tests/data/random_cases.json");
  if (!root || play_open() != 0) return 1;
  int failed = cmocka_run_group_tests_name("random", tests, NULL, NULL);
  play_close();
  json_decref(root);
  return failed;
}
