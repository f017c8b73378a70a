// Short rows, of which groups are taken side by side: every reduction and running result has the bits of each row alone, in every dtype, on
// every tier and with any number of workers. Joining short rows puts every element where it belongs.
#include "play.h"

#include <stdio.h>
#include <zmlx/elementwise.h>
#include <zmlx/ops.h>

enum { OUTER = 300 }; // more than one group, and a rest

static const int axis1[] = {1};
#define OPS                                                                                                                                \
  X(sum, zm_sum(x, 1, false), 1)                                                                                                           \
  X(mean, zm_mean(x, 1, false), 0)                                                                                                         \
  X(max, zm_max(x, 1, false), 1)                                                                                                           \
  X(min, zm_min(x, 1, false), 1)                                                                                                           \
  X(argmax, zm_argmax(x, 1, false), 1) X(argmin, zm_argmin(x, 1, false), 1) X(prod, zm_prod(x, axis1, 1, false), 1)                        \
      X(var, zm_var(x, axis1, 1, false, 1), 0) X(logsumexp, zm_logsumexp(x, axis1, 1, false), 0) X(any, zm_any(x, axis1, 1, false), 1)     \
          X(all, zm_all(x, axis1, 1, false), 1) X(cumsum, zm_cumsum(x, 1, false, true), 1) X(cumsum_back, zm_cumsum(x, 1, true, false), 1) \
              X(cumprod, zm_cumprod(x, 1, true, true), 1) X(cummax, zm_cummax(x, 1, false, true), 1)                                       \
                  X(cummin, zm_cummin(x, 1, false, false), 1) X(logcumsumexp, zm_logcumsumexp(x, 1, false, true), 0)

#define X(name, call, integers)                                                                                                            \
  static zm_array *make_##name(zm_array *x) {                                                                                              \
    return call;                                                                                                                           \
  }
OPS
#undef X

    static const struct {
  const char *name;
  zm_array *(*make)(zm_array *x);
  bool integers;
} ops[] = {
#define X(name, call, integers) {#name, make_##name, integers},
    OPS
#undef X
};

static const zm_dtype dtypes[] = {ZM_F32, ZM_F16, ZM_BF16, ZM_I32, ZM_U8, ZM_BOOL, ZM_I64, ZM_I16};
static const int64_t shapes[][2] = {{1, 1},  {2, 1},  {3, 1},  {4, 1}, {7, 1}, {16, 1},  {17, 1},
                                    {33, 1}, {64, 1}, {65, 1}, {6, 2}, {5, 3}, {16, 31}, {100, 5}};

// Numbers with NaN, infinities, zeros of both signs, denormals and equal ones among them.
static zm_array *filled(int64_t k, int64_t inner, zm_dtype dtype) {
  static const float odd[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-40f, -1e-40f, 1.0f};
  const int64_t shape[3] = {OUTER, k, inner}, count = OUTER * k * inner;
  float *x = zmi_malloc((size_t)count * sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < count; i++) {
    const uint32_t r = (uint32_t)(i + 7 * k) * 2654435761u;
    x[i] = (float)(r >> 8) / 8388608 - 1;
    if (zmi_dtype_is_float(dtype) && r % 37 == 5) x[i] = odd[(r >> 20) % 8];
    if (!zmi_dtype_is_float(dtype)) x[i] = (float)(int)(x[i] * 40) + (dtype == ZM_U8 ? 50.0f : 0.0f);
    if (dtype == ZM_BOOL) x[i] = r >> 28 > (uint32_t)k % 16;
  }
  zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, shape, 3), dtype);
  zmi_free(x);
  assert_int_equal(zm_eval(&a, 1), ZM_OK);
  return a;
}

static size_t size_of(const zm_array *a) {
  return (size_t)zm_array_size(a) * zm_dtype_size(zm_array_dtype(a));
}

static void rows_alone(size_t o, zm_array *x, int64_t k, int64_t inner) {
  char what[128];
  const zm_dtype dtype = zm_array_dtype(x);
  snprintf(what, sizeof what, "%s of %s [%d, %d, %d]", ops[o].name, zm_dtype_name(dtype), OUTER, (int)k, (int)inner);
  zm_array *y = ops[o].make(x);
  char *all = play_everywhere(what, y);
  const size_t own = size_of(y) / OUTER;
  for (int64_t row = 0; row < OUTER; row += row < 20 ? 1 : 31) {
    zm_scope *scope = zm_scope_open();
    zm_array *alone = zm_contiguous(zm_slice(x, (int64_t[]){row, 0, 0}, (int64_t[]){row + 1, k, inner}, NULL));
    zm_array *one = ops[o].make(alone);
    assert_int_equal(zm_eval(&one, 1), ZM_OK);
    void *bits = zmi_malloc(own + 1);
    assert_non_null(bits);
    assert_int_equal(size_of(one), own);
    memcpy(bits, zm_array_data(one), own);
    play_one_nan(bits, &one->type);
    if (memcmp(bits, all + (size_t)row * own, own) != 0) fail_msg("%s: row %d alone has other bits", what, (int)row);
    zmi_free(bits);
    zm_scope_close(scope);
  }
  zmi_free(all);
}

static void rows_have_the_bits_they_have_alone(void **state) {
  (void)state;
  for (size_t d = 0; d < ZMI_COUNT(dtypes); d++) {
    for (size_t s = 0; s < ZMI_COUNT(shapes); s++) {
      for (size_t o = 0; o < ZMI_COUNT(ops); o++) {
        if (!zmi_dtype_is_float(dtypes[d]) && (!ops[o].integers || s % 3 != d % 3)) continue;
        zm_scope *scope = zm_scope_open();
        rows_alone(o, filled(shapes[s][0], shapes[s][1], dtypes[d]), shapes[s][0], shapes[s][1]);
        zm_scope_close(scope);
      }
    }
  }
}

// Rows of 1 to 40 elements of operands that lie as they are or across, more than a tile of them.
static void joined_rows_are_in_their_places(void **state) {
  enum { ROWS = 5000 };
  static const int64_t widths[][2] = {{1, 1}, {3, 2}, {1, 40}, {32, 33}};
  (void)state;
  for (size_t i = 0; i < 2 * ZMI_COUNT(widths); i++) {
    zm_scope *scope = zm_scope_open();
    const int64_t wa = widths[i / 2][0], wb = widths[i / 2][1], row = wa + wb;
    zm_array *a = zm_reshape(zm_arange(0, (double)(ROWS * wa), 1, ZM_I32), (int64_t[]){ROWS, wa}, 2);
    zm_array *b = zm_reshape(zm_arange(0, (double)(ROWS * wb), 1, ZM_I32), (int64_t[]){ROWS, wb}, 2);
    if (i % 2) b = zm_transpose(zm_reshape(b, (int64_t[]){wb, ROWS}, 2), NULL);
    int32_t *y = play_everywhere("concatenate", zm_concatenate((zm_array *[]){a, b}, 2, 1));
    for (int64_t r = 0; r < ROWS; r++) {
      for (int64_t j = 0; j < row; j++) {
        const int64_t at = j - wa;
        assert_int_equal(y[r * row + j], j < wa ? r * wa + j : i % 2 ? at * ROWS + r : r * wb + at);
      }
    }
    zmi_free(y);
    zm_scope_close(scope);
  }
}

// Lines of columns run together; a column alone is a row.
static void columns_have_the_bits_they_have_alone(void **state) {
  enum { COLUMNS = 40 };
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *x = zm_reshape(filled(4, 10, ZM_F32), (int64_t[]){OUTER, COLUMNS}, 2);
  for (int back = 0; back < 2; back++) {
    float *all = play_everywhere("cumsum of columns", zm_cumsum(x, 0, back, true));
    for (int64_t col = 0; col < COLUMNS; col++) {
      zm_array *column = zm_contiguous(zm_slice(x, (int64_t[]){0, col}, (int64_t[]){OUTER, col + 1}, NULL));
      float *alone = play_everywhere("cumsum of a column", zm_cumsum(zm_reshape(column, (int64_t[]){-1}, 1), 0, back, true));
      for (int64_t i = 0; i < OUTER; i++) assert_memory_equal(&alone[i], &all[i * COLUMNS + col], sizeof *all);
      zmi_free(alone);
    }
    zmi_free(all);
  }
  zm_scope_close(scope);
}

// A transpose is reduced where its source lies; its copy is not.
static void transposes_are_reduced_as_their_copies(void **state) {
  static const int orders[][3] = {{2, 0, 1}, {0, 2, 1}, {2, 1, 0}, {1, 0, 2}};
  (void)state;
  for (size_t i = 0; i < ZMI_COUNT(orders) * 3 * 2; i++) {
    zm_scope *scope = zm_scope_open();
    zm_array *x = zm_transpose(filled(5, 7, ZM_F32), orders[i / 6]), *copy = zm_contiguous(x);
    const int axis = (int)(i % 3);
    const bool keep = i % 6 >= 3;
    assert_int_equal(zm_eval(&copy, 1), ZM_OK);
    zm_array *here[] = {zm_sum(x, axis, keep), zm_argmin(x, axis, keep)},
             *there[] = {zm_sum(copy, axis, keep), zm_argmin(copy, axis, keep)};
    for (int k = 0; k < 2; k++) {
      assert_true(zmi_type_equal(&here[k]->type, &there[k]->type));
      void *a = play_everywhere("a transpose", here[k]), *b = play_everywhere("its copy", there[k]);
      assert_memory_equal(a, b, size_of(here[k]));
      zmi_free(a);
      zmi_free(b);
    }
    zm_scope_close(scope);
  }
}

static int open_pools(void **state) {
  (void)state;
  return play_open();
}

static int close_pools(void **state) {
  (void)state;
  play_close();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_have_the_bits_they_have_alone),
      cmocka_unit_test(joined_rows_are_in_their_places),
      cmocka_unit_test(columns_have_the_bits_they_have_alone),
      cmocka_unit_test(transposes_are_reduced_as_their_copies),
  };
  return cmocka_run_group_tests(tests, open_pools, close_pools);
}
