// Arrays: the written orders of sums and products bit by bit, strides, rounding and flushing rules, errors, deep graphs, memory that
// runs out.
#include "array/ops/ops.h"
#include "play.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

// ---- values ----

static uint64_t seed = 88172645463325252u;

static uint32_t any(uint32_t below) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (uint32_t)(seed >> 33) % below;
}

static float uniform(void) {
  return (float)any(1 << 20) / (1 << 19) - 1.0f;
}

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

static float get(const void *data, zm_dtype dtype, int64_t i) {
  if (dtype == ZM_F32) return ((const float *)data)[i];
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(((const uint16_t *)data)[i]) : zmi_f16_to_f32(((const uint16_t *)data)[i]);
}

static void put(void *data, zm_dtype dtype, int64_t i, float v) {
  if (dtype == ZM_F32) ((float *)data)[i] = v;
  if (dtype == ZM_BF16) ((uint16_t *)data)[i] = zmi_f32_to_bf16(v);
  if (dtype == ZM_F16) ((uint16_t *)data)[i] = zmi_f32_to_f16(v);
}

static float rounded(float v, zm_dtype dtype) {
  if (dtype == ZM_F32) return v;
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(zmi_f32_to_bf16(v)) : zmi_f16_to_f32(zmi_f32_to_f16(v));
}

static zm_array *noise(zm_dtype dtype, const int64_t *shape, int rank) {
  int64_t n = 1;
  for (int i = 0; i < rank; i++) n *= shape[i];
  void *data = calloc((size_t)n + 1, zm_dtype_size(dtype));
  for (int64_t i = 0; i < n; i++) put(data, dtype, i, uniform());
  zm_array *a = zm_array_from_data(data, dtype, shape, rank);
  free(data);
  return a;
}

static zm_array *floats(const float *x, zm_dtype dtype, int64_t n) {
  uint32_t data[64];
  for (int64_t i = 0; i < n; i++) put(data, dtype, i, x[i]);
  return zm_array_from_data(data, dtype, &n, 1);
}

static const zm_dtype float_dtypes[] = {ZM_F32, ZM_BF16, ZM_F16};

// ---- dtypes and the table ----

static void names_and_sizes(void **state) {
  (void)state;
  assert_string_equal(zm_dtype_name(ZM_BF16), "bfloat16");
  assert_string_equal(zm_dtype_name(ZM_DTYPE_DEFAULT), "?");
  assert_string_equal(zm_dtype_name((zm_dtype)99), "?");
  assert_int_equal(zm_dtype_size((zm_dtype)-1), 0);
  assert_int_equal(zm_dtype_size(ZM_U64), 8);
  for (int d = ZM_BOOL; d < ZM_DTYPE_COUNT; d++) assert_int_equal(zm_dtype_from_name(zm_dtype_name((zm_dtype)d)), d);
  assert_int_equal(zm_dtype_from_name("bf16"), ZM_BF16);
  assert_int_equal(zm_dtype_from_name("i8"), ZM_I8);
  assert_int_equal(zm_dtype_from_name("float64"), ZM_DTYPE_DEFAULT);
  assert_int_equal(zm_dtype_from_name(NULL), ZM_DTYPE_DEFAULT);
  assert_int_equal(zm_dtype_promote(ZM_BF16, (zm_dtype)77), ZM_DTYPE_DEFAULT);
}

static void rows_of_the_op_table_are_whole(void **state) {
  (void)state;
  assert_null(zmi_op_find("no such op"));
  assert_null(zmi_op_at(zmi_op_count()));
  for (size_t i = 0; i < zmi_op_count(); i++) {
    const zmi_op *op = zmi_op_at(i);
    if (zmi_op_find(op->name) != op) fail_msg("two ops are called %s", op->name);
    if (!op->operands || !op->rounding || !op->infer) fail_msg("%s: operands, rounding or infer are missing", op->name);
    if (!(op->flags & ZMI_OP_VIEW) != !op->view) fail_msg("%s: views, and only they, have a view function", op->name);
    if (!op->view && (!op->stages[0].run || !op->stages[0].tiles)) fail_msg("%s: nothing computes it", op->name);
    for (const zmi_field *f = op->fields; f && f->name; f++) {
      if (f->offset + 8 > ZMI_ATTR_BYTES) fail_msg("%s: attribute %s lies outside", op->name, f->name);
    }
  }
}

// ---- elementwise ----

static void large_arrays_are_rounded_once(void **state) {
  (void)state;
  const int64_t rows = 37, cols = 1031; // several tiles, none even
  for (size_t d = 0; d < ZMI_COUNT(float_dtypes); d++) {
    zm_dtype t = float_dtypes[d];
    zm_scope *scope = zm_scope_open();
    zm_array *a = noise(t, SHAPE(rows, cols)), *b = noise(t, SHAPE(rows, cols)), *row = noise(t, SHAPE(cols)),
             *col = noise(t, SHAPE(rows, 1));
    zm_array *y[] = {zm_add(a, b), zm_multiply(a, row), zm_subtract(col, b), zm_divide(row, col),
                     zm_maximum(zm_transpose(a, NULL), zm_transpose(b, NULL))};
    for (size_t k = 0; k < ZMI_COUNT(y); k++) {
      void *found = play_everywhere("large", y[k]);
      for (int64_t i = 0; i < rows * cols; i++) {
        int64_t r = k == 4 ? i % rows : i / cols, c = k == 4 ? i / rows : i % cols;
        float x = get(a->data, t, r * cols + c), z = get(b->data, t, r * cols + c), w = get(row->data, t, c), v = get(col->data, t, r);
        float wanted[] = {x + z, x * w, v - z, w / v, x > z ? x : z};
        if (get(found, t, i) != rounded(wanted[k], t)) fail_msg("dtype %d, op %zu, element %lld", (int)t, k, (long long)i);
      }
      zmi_free(found);
    }
    zm_scope_close(scope);
  }
}

static void functions_are_those_of_the_kernels(void **state) {
  (void)state;
  const int64_t n = 9001;
  zm_scope *scope = zm_scope_open();
  zm_array *x = noise(ZM_BF16, SHAPE(n));
  zm_array *y[] = {zm_silu(x), zm_exp(x), zm_sigmoid(x), zm_tanh(x)};
  float (*const fn[])(float) = {zmi_siluf, zmi_expf, zmi_sigmoidf, zmi_tanhf};
  for (size_t k = 0; k < ZMI_COUNT(y); k++) {
    uint16_t *found = play_everywhere("functions", y[k]);
    for (int64_t i = 0; i < n; i++) assert_int_equal(found[i], zmi_f32_to_bf16(fn[k](get(x->data, ZM_BF16, i))));
    zmi_free(found);
  }
  zm_scope_close(scope);
}

static void denormals_count_as_zero_in_arithmetic(void **state) {
  (void)state;
  const float tiny = 0x1p-130f;
  zm_scope *scope = zm_scope_open();
  zm_array *a = floats((float[]){tiny, -tiny, tiny, 1}, ZM_F32, 4), *zero = floats((float[]){0, 0, tiny, 0}, ZM_F32, 4);
  float *sum = play_everywhere("add", zm_add(a, zero)), *most = play_everywhere("maximum", zm_maximum(a, zero));
  uint8_t *equal = play_everywhere("equal", zm_equal(a, zero)), *truth = play_everywhere("astype", zm_astype(a, ZM_BOOL));
  float *copy = play_everywhere("copy", zm_transpose(a, NULL)), *minus = play_everywhere("negative", zm_negative(a));
  for (int i = 0; i < 3; i++) {
    assert_true(sum[i] == 0 && most[i] == 0 && equal[i] == 1 && truth[i] == 0);
    assert_memory_equal(&copy[i], (const float *)a->data + i, 4); // moving is not arithmetic
    assert_true(minus[i] == -((const float *)a->data)[i]);
  }
  assert_true(sum[3] == 1 && most[3] == 1 && equal[3] == 0 && truth[3] == 1);
  void *all[] = {sum, most, equal, truth, copy, minus};
  for (size_t i = 0; i < ZMI_COUNT(all); i++) zmi_free(all[i]);
  zm_scope_close(scope);
}

static void conversions_to_integers_are_limited(void **state) {
  (void)state;
  const float x[] = {NAN, INFINITY, -INFINITY, 1e20f, -1e20f, 300.7f, -1.9f, 0.9f, -0.9f, 255.5f, 2147483648.0f, -2147483648.0f};
  static const struct {
    zm_dtype dtype;
    double low, high;
  } rows[] = {{ZM_U8, 0, 255},     {ZM_U16, 0, 65535},       {ZM_U32, 0, 4294967295.0},
              {ZM_I8, -128, 127},  {ZM_I16, -32768, 32767},  {ZM_I32, -2147483648.0, 2147483647},
              {ZM_U64, 0, 0x1p64}, {ZM_I64, -0x1p63, 0x1p63}}; // the last two: as doubles, one off at the top
  zm_scope *scope = zm_scope_open();
  zm_array *a = floats(x, ZM_F32, ZMI_COUNT(x));
  for (size_t r = 0; r < ZMI_COUNT(rows); r++) {
    zm_array *y = zm_astype(a, rows[r].dtype);
    void *found = play_everywhere("astype", y);
    for (size_t i = 0; i < ZMI_COUNT(x); i++) {
      int64_t start = (int64_t)i, stop = start + 1;
      double v = zm_array_item(zm_slice(y, &start, &stop, NULL)), wanted = trunc((double)x[i]);
      wanted = x[i] != x[i] ? 0 : fmin(fmax(wanted, rows[r].low), rows[r].high);
      if (v != wanted) fail_msg("%g as %s gives %.17g", (double)x[i], zm_dtype_name(rows[r].dtype), v);
      uint64_t bits = 0;
      zmi_store_double((double)x[i], rows[r].dtype, &bits);
      assert_memory_equal(&bits, (const char *)found + i * zm_dtype_size(rows[r].dtype), zm_dtype_size(rows[r].dtype));
    }
    zmi_free(found);
  }
  zm_scope_close(scope);
}

// ---- reductions ----

static float lane_sum(const void *x, zm_dtype t, int64_t first, int64_t step, int64_t n) {
  float lane[16] = {0};
  for (int64_t k = 0; k < n; k++) lane[k % 16] += get(x, t, first + k * step);
  for (int h = 8; h > 0; h /= 2) {
    for (int i = 0; i < h; i++) lane[i] += lane[i + h];
  }
  return lane[0];
}

static void sums_run_in_the_lane_order(void **state) {
  (void)state;
  static const int64_t shapes[][3] = {{1, 1, 1},   {3, 5, 1},  {2, 16, 1},   {2, 4099, 1}, {9, 1000, 3},
                                      {2, 33, 64}, {1, 7, 65}, {3, 50, 200}, {4, 0, 3},    {0, 3, 2}};
  for (size_t s = 0; s < ZMI_COUNT(shapes); s++) {
    for (size_t d = 0; d < ZMI_COUNT(float_dtypes); d++) {
      zm_dtype t = float_dtypes[d];
      const int64_t *n = shapes[s];
      zm_scope *scope = zm_scope_open();
      zm_array *a = noise(t, n, 3);
      void *sum = play_everywhere("sum", zm_sum(a, 1, s % 2)), *mean = play_everywhere("mean", zm_mean(a, -2, false));
      for (int64_t i = 0; i < n[0] * n[2]; i++) {
        float wanted = lane_sum(a->data, t, i / n[2] * n[1] * n[2] + i % n[2], n[2], n[1]);
        assert_true(get(sum, t, i) == rounded(wanted, t));
        float m = rounded(wanted / (float)n[1], t);
        assert_true(get(mean, t, i) == m || m != m);
      }
      zmi_free(sum);
      zmi_free(mean);
      zm_scope_close(scope);
    }
  }
  // The kernel that norms use has the same order.
  float x[1000];
  for (int i = 0; i < 1000; i++) x[i] = uniform();
  for (size_t t = 0; t < zmi_tier_count(); t++) {
    if (zmi_tier_supported(t, NULL)) assert_true(zmi_tier(t)->sum(x, 1000) == lane_sum(x, ZM_F32, 0, 1, 1000));
  }
}

static void winners_are_the_lowest_index(void **state) {
  (void)state;
  const int64_t n[3] = {3, 2500, 70};
  int8_t *data = malloc((size_t)(n[0] * n[1] * n[2]));
  for (int64_t i = 0; i < n[0] * n[1] * n[2]; i++) data[i] = (int8_t)((int)any(21) - 10);
  zm_scope *scope = zm_scope_open();
  for (int form = 0; form < 4; form++) { // int8 and bf16, inner axis of 70 or of 1
    zm_array *a = zm_array_from_data(data, ZM_I8, n, 3);
    if (form & 1) a = zm_astype(a, ZM_BF16);
    if (form & 2) a = zm_reshape(a, SHAPE(n[0] * n[2], n[1], 1));
    int64_t outer = a->type.shape[0], inner = a->type.shape[2];
    uint32_t *index = play_everywhere("argmax", zm_argmax(a, 1, false));
    int8_t *most = play_everywhere("max", zm_astype(zm_max(a, 1, false), ZM_I8)),
           *least = play_everywhere("min", zm_astype(zm_min(a, 1, true), ZM_I8));
    for (int64_t i = 0; i < outer * inner; i++) {
      const int8_t *x = data + i / inner * n[1] * inner + i % inner;
      int64_t best = 0, worst = 0;
      for (int64_t k = 1; k < n[1]; k++) {
        if (x[k * inner] > x[best * inner]) best = k;
        if (x[k * inner] < x[worst * inner]) worst = k;
      }
      assert_int_equal(index[i], best);
      assert_int_equal(most[i], x[best * inner]);
      assert_int_equal(least[i], x[worst * inner]);
    }
    zmi_free(index);
    zmi_free(most);
    zmi_free(least);
  }
  zm_scope_close(scope);
  free(data);
}

static void long_softmax_rows(void **state) {
  (void)state;
  static const int64_t shapes[][2] = {{40, 5000}, {3, 20000}, {1, 4096}, {70, 100}};
  for (size_t s = 0; s < ZMI_COUNT(shapes); s++) {
    for (size_t d = 0; d < ZMI_COUNT(float_dtypes); d++) {
      zm_dtype t = float_dtypes[d];
      int64_t rows = shapes[s][0], n = shapes[s][1];
      zm_scope *scope = zm_scope_open();
      zm_array *a = noise(t, shapes[s], 2);
      void *found = play_everywhere("softmax", zm_softmax(a));
      float *x = malloc((size_t)n * sizeof(float));
      for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < n; i++) x[i] = get(a->data, t, r * n + i);
        zmi_tier(0)->softmax(x, n);
        for (int64_t i = 0; i < n; i++) assert_true(get(found, t, r * n + i) == rounded(x[i], t));
      }
      free(x);
      zmi_free(found);
      zm_scope_close(scope);
    }
  }
}

// ---- products ----

static void matmul_runs_in_the_written_order(void **state) {
  (void)state;
  static const int64_t sizes[][3] = {{1, 700, 1}, {5, 257, 3}, {33, 256, 300}, {3, 513, 260}, {100, 31, 2}, {2, 1, 5}, {17, 40, 16}};
  for (size_t s = 0; s < ZMI_COUNT(sizes); s++) {
    for (int form = 0; form < 12; form++) { // dtype, and each operand transposed or not
      zm_dtype t = float_dtypes[form / 4];
      int64_t m = sizes[s][0], k = sizes[s][1], n = sizes[s][2];
      zm_scope *scope = zm_scope_open();
      zm_array *a = form & 1 ? noise(t, SHAPE(k, m)) : noise(t, SHAPE(m, k)), *b = form & 2 ? noise(t, SHAPE(n, k)) : noise(t, SHAPE(k, n));
      void *found = play_everywhere("matmul", zm_matmul(form & 1 ? zm_transpose(a, NULL) : a, form & 2 ? zm_transpose(b, NULL) : b));
      for (int64_t i = 0; i < m * n; i++) {
        float total = 0, partial = 0;
        for (int64_t q = 0; q < k; q++) {
          float x = get(a->data, t, form & 1 ? q * m + i / n : i / n * k + q),
                y = get(b->data, t, form & 2 ? i % n * k + q : q * n + i % n);
          partial = fmaf(x, y, partial);
          if (q % ZMI_RANGE != ZMI_RANGE - 1 && q != k - 1) continue;
          total = q < ZMI_RANGE ? partial : total + partial;
          partial = 0;
        }
        if (get(found, t, i) != rounded(total, t)) fail_msg("size %zu, form %d, element %lld", s, form, (long long)i);
      }
      zmi_free(found);
      zm_scope_close(scope);
    }
  }
}

// ---- copies ----

static void copies_of_any_strides(void **state) {
  (void)state;
  static const zm_dtype dtypes[] = {ZM_U8, ZM_I16, ZM_U32, ZM_I64};
  static const int orders[][3] = {{2, 1, 0}, {0, 2, 1}, {1, 0, 2}, {2, 0, 1}, {1, 2, 0}};
  const int64_t n[3] = {7, 130, 67};
  int64_t count = n[0] * n[1] * n[2];
  uint8_t *data = malloc((size_t)count * 8);
  for (int64_t i = 0; i < count * 8; i++) data[i] = (uint8_t)any(256);
  for (size_t d = 0; d < ZMI_COUNT(dtypes); d++) {
    size_t size = zm_dtype_size(dtypes[d]);
    for (size_t o = 0; o < ZMI_COUNT(orders); o++) {
      zm_scope *scope = zm_scope_open();
      zm_array *a = zm_transpose(zm_array_from_data(data, dtypes[d], n, 3), orders[o]);
      // Every second of the last axis, backwards, from the one before the last.
      const int64_t *full = a->type.shape, start[] = {0, 1, full[2] - 2}, stop[] = {full[0], full[1], -full[2] - 1}, step[] = {1, 1, -2};
      zm_array *part = zm_slice(a, start, stop, step);
      char *whole = play_everywhere("transpose", a), *found = play_everywhere("slice", part);
      int64_t axis[3] = {n[1] * n[2], n[2], 1}, i = 0, k = 0;
      for (int64_t x = 0; x < full[0]; x++) {
        for (int64_t y = 0; y < full[1]; y++) {
          for (int64_t z = 0; z < full[2]; z++, i++) {
            int64_t from = x * axis[orders[o][0]] + y * axis[orders[o][1]] + z * axis[orders[o][2]];
            assert_memory_equal(whole + (size_t)i * size, data + (size_t)from * size, size);
          }
          for (int64_t z = full[2] - 2; z >= 0 && y >= 1; z -= 2, k++) {
            assert_memory_equal(found + (size_t)k * size, whole + (size_t)((x * full[1] + y) * full[2] + z) * size, size);
          }
        }
      }
      assert_int_equal(k, zm_array_size(part));
      zmi_free(whole);
      zmi_free(found);
      zm_scope_close(scope);
    }
  }
  free(data);
}

static void indices_out_of_range_give_zeros(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *a = zm_add(zm_arange(0, 6, 1, ZM_I16), zm_full(1, ZM_I16, NULL, 0));
  zm_array *rows = zm_reshape(a, SHAPE(3, 2));
  const int64_t wild[] = {2, 3, -1, INT64_MIN, INT64_MAX, 0};
  const uint64_t large[] = {UINT64_MAX, 1};
  const int16_t wanted[] = {5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2}, wanted_large[] = {0, 0, 3, 4};
  void *found = play_everywhere("take", zm_take(rows, zm_array_from_data(wild, ZM_I64, SHAPE(6))));
  assert_memory_equal(found, wanted, sizeof wanted);
  zmi_free(found);
  found = play_everywhere("take", zm_take(rows, zm_array_from_data(large, ZM_U64, SHAPE(2))));
  assert_memory_equal(found, wanted_large, sizeof wanted_large);
  zmi_free(found);
  assert_int_equal(zm_array_size(zm_take(zm_full(1, ZM_F32, SHAPE(0, 3)), zm_array_from_data(wild, ZM_I64, SHAPE(6)))), 18);
  zm_scope_close(scope);
}

static void numbers_and_empty_arrays(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  assert_true(zm_array_item(zm_full(2.5, ZM_BF16, NULL, 0)) == 2.5);
  assert_true(zm_array_item(zm_full(-7, ZM_U8, SHAPE(1, 1))) == 0);
  assert_true(zm_array_item(zm_full(1e300, ZM_F32, NULL, 0)) == (double)INFINITY);
  assert_true(zm_array_item(zm_full(-3.9, ZM_I64, NULL, 0)) == -3);
  assert_true(zm_array_item(zm_full(NAN, ZM_I32, NULL, 0)) == 0);
  assert_true(zm_array_item(zm_full(NAN, ZM_BOOL, NULL, 0)) == 1);
  assert_true(zm_array_item(zm_sum(zm_full(3, ZM_I8, SHAPE(1000000)), 0, false)) == 3000000);
  assert_true(zm_array_item(zm_sum(zm_arange(0, 100001, 1, ZM_I64), 0, false)) == 5000050000.0);
  assert_int_equal(zm_array_size(zm_arange(1, 1, 1, ZM_F32)), 0);
  const int32_t *whole = zm_array_data(zm_arange(-3, 4, 2.5, ZM_I32)); // as MLX and NumPy: integers stand equally far apart
  assert_true(whole && whole[0] == -3 && whole[1] == 0 && whole[2] == 3);
  assert_non_null(zm_array_data(zm_add(zm_full(1, ZM_F32, SHAPE(0, 5)), zm_full(1, ZM_F32, SHAPE(5)))));
  assert_non_null(zm_array_data(zm_transpose(zm_full(1, ZM_F32, SHAPE(3, 0, 2)), NULL)));
  zm_array *deep = zm_full(1, ZM_F16, SHAPE(1, 2, 1, 2, 1, 2, 1, 2));
  assert_true(zm_array_item(zm_sum(zm_reshape(zm_add(deep, zm_transpose(deep, NULL)), SHAPE(-1)), 0, false)) == 512);
  // What needs no work is the array itself.
  zm_array *x = zm_arange(0, 4, 1, ZM_F32);
  assert_ptr_equal(zm_astype(x, ZM_F32), x);
  assert_ptr_equal(zm_reshape(x, SHAPE(4)), x);
  assert_ptr_equal(zm_contiguous(x), x);
  zm_scope_close(scope);
}

// ---- errors ----

static zm_array *broken(int which, zm_array *m) {
  zm_array *v = zm_full(1, ZM_F32, SHAPE(4)), *i = zm_full(1, ZM_I32, SHAPE(2, 3)), *b = zm_full(1, ZM_BOOL, SHAPE(2));
  const int twice[] = {0, 0}, far_axes[] = {0, 2};
  const int64_t zero[] = {0, 0}, many[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  switch (which) {
  case 0:
    return zm_add(m, v);
  case 1:
    return zm_negative(b);
  case 2:
    return zm_reshape(m, SHAPE(4));
  case 3:
    return zm_reshape(m, SHAPE(-1, -1));
  case 4:
    return zm_reshape(m, SHAPE(4, -1));
  case 5:
    return zm_reshape(m, many, 9);
  case 6:
    return zm_transpose(m, twice);
  case 7:
    return zm_transpose(m, far_axes);
  case 8:
    return zm_slice(m, zero, zero, zero);
  case 9:
    return zm_broadcast_to(m, SHAPE(2, 4));
  case 10:
    return zm_squeeze(m, 1);
  case 11:
    return zm_squeeze(m, 2);
  case 12:
    return zm_expand_dims(m, 4);
  case 13:
    return zm_concatenate(&m, 0, 0);
  case 14:
    return zm_concatenate((zm_array *[]){m, v}, 2, 0);
  case 15:
    return zm_sum(m, 2, false);
  case 16:
    return zm_max(zm_full(1, ZM_F32, SHAPE(3, 0)), 1, false);
  case 17:
    return zm_take(m, v);
  case 18:
    return zm_matmul(m, v);
  case 19:
    return zm_matmul(i, i);
  case 20:
    return zm_arange(0, 1, 0, ZM_F32);
  case 21:
    return zm_arange(0, (double)NAN, 1, ZM_F32);
  case 22:
    return zm_full(1, ZM_DTYPE_COUNT, NULL, 0);
  case 23:
    return zm_astype(m, ZM_DTYPE_DEFAULT);
  case 24:
    return zm_softmax(zm_full(1, ZM_F32, NULL, 0));
  case 25:
    return zm_where(b, m, m);
  case 26:
    return zm_broadcast_to(m, SHAPE(INT64_MAX, 2, 3));
  case 27:
    return zm_full(1, ZM_F32, SHAPE(-1));
  case 28:
    return zm_argmax(m, -3, true);
  case 29:
    return zm_take(zm_full(1, ZM_F32, NULL, 0), i);
  default:
    return NULL;
  }
}

static const char *const messages[] = {"add: float32[2, 3] and float32[4] do not broadcast",
                                       "negative: a bool has no sign",
                                       "reshape: float32[2, 3] has 6 elements",
                                       "reshape: dimension 1 is -1",
                                       "reshape: the 6 elements of float32[2, 3] cannot be shared out",
                                       "reshape: rank 9 is not between 0 and 8",
                                       "transpose: axis 0 at place 1",
                                       "transpose: axis 2 at place 1",
                                       "slice: the step of axis 0 is 0",
                                       "broadcast_to: float32[2, 3] does not broadcast to float32[2, 4]",
                                       "squeeze: axis 1 of float32[2, 3]",
                                       "squeeze: axis 2 is out of range",
                                       "expand_dims: axis 4 is out of range",
                                       "concatenate: takes at least one",
                                       "concatenate: operand 2 is float32[4]",
                                       "sum: axis 2 is out of range",
                                       "max: axis 1 of float32[3, 0] has no elements",
                                       "take: indices must be integers",
                                       "matmul: expected float matrices",
                                       "matmul: expected float arrays",
                                       "arange: from 0 to 1 in steps of 0",
                                       "arange: from 0 to ",
                                       "full: 13 is no dtype",
                                       "astype: 0 is no dtype",
                                       "softmax: an array of rank 0",
                                       "where: bool[2] and float32[2, 3] do not broadcast",
                                       "broadcast_to: ",
                                       "broadcast_to: ",
                                       "argmax: axis -3 is out of range",
                                       "take: an array of rank 0"};

static void missing_shapes(void **state) {
  (void)state;
  const float data[1] = {1};
  zm_scope *scope = zm_scope_open();
  zm_array *one = zm_array_from_data(data, ZM_F32, NULL, 0);
  assert_non_null(one);
  assert_non_null(zm_reshape(one, NULL, 0));
  zm_array *const made[] = {zm_array_from_data(data, ZM_F32, NULL, 1), zm_full(1, ZM_F32, NULL, 2), zm_reshape(one, NULL, 1),
                            zm_broadcast_to(one, NULL, 1)};
  for (size_t i = 0; i < ZMI_COUNT(made); i++) assert_null(made[i]);
  assert_non_null(strstr(zm_last_error(), "shape is NULL although the rank is 1"));
  // The error that a NULL operand keeps is an old one, unless that was cleared.
  assert_null(zm_add(one, NULL));
  assert_non_null(strstr(zm_last_error(), "shape is NULL"));
  zm_clear_error();
  assert_int_equal(zm_last_status(), ZM_OK);
  assert_string_equal(zm_last_error(), "");
  assert_null(zm_add(one, NULL));
  assert_non_null(strstr(zm_last_error(), "NULL"));
  assert_null(strstr(zm_last_error(), "shape"));
  zm_scope_close(scope);
}

static void wrong_operands_are_named(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *m = zm_full(1, ZM_F32, SHAPE(2, 3));
  for (size_t i = 0; i < ZMI_COUNT(messages); i++) {
    if (broken((int)i, m)) fail_msg("call %zu should fail with '%s'", i, messages[i]);
    assert_int_equal(zm_last_status(), ZM_ERROR_ARGUMENT);
    if (strncmp(zm_last_error(), messages[i], strlen(messages[i])) != 0)
      fail_msg("call %zu: '%s', wanted '%s'", i, zm_last_error(), messages[i]);
  }
  // The first error of a chain stays.
  zm_array *bad = zm_sum(zm_exp(zm_add(zm_squeeze(m, 0), m)), 0, false);
  assert_null(bad);
  assert_non_null(strstr(zm_last_error(), "squeeze: axis 0"));
  assert_int_not_equal(zm_eval(&bad, 1), ZM_OK);
  assert_non_null(strstr(zm_last_error(), "squeeze: axis 0"));
  zm_scope_close(scope);
}

// ---- tapes of these ops ----

static zm_array *a_bit_of_everything(void) {
  zm_array *x = noise(ZM_BF16, SHAPE(6, 8)), *i = zm_arange(5, -1, -1, ZM_I32);
  zm_array *y = zm_add(zm_silu(zm_transpose(x, NULL)), zm_full(0.5, ZM_F32, SHAPE(6)));
  y = zm_concatenate((zm_array *[]){y, zm_multiply(y, y)}, 2, 0);
  y = zm_take(zm_reshape(zm_transpose(y, NULL), SHAPE(6, 16)), i);
  y = zm_where(zm_less(y, zm_mean(y, 1, true)), zm_softmax(y), zm_astype(zm_argmax(y, 0, false), ZM_F32));
  return zm_sum(zm_matmul(y, zm_transpose(y, NULL)), 0, false);
}

static void tapes_print_and_read_back(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *y = a_bit_of_everything();
  zmi_program *p = zmi_compile(&y, &(const char *){"y"}, 1, NULL);
  assert_non_null(p);
  zmi_text first = {0}, second = {0};
  assert_int_equal(zmi_tape_print(zmi_program_tape(p), &first), ZM_OK);
  zmi_tape *again = zmi_tape_parse(zmi_text_str(&first), first.size, zmi_op_find);
  if (!again) fail_msg("%s", zm_last_error());
  assert_int_equal(zmi_tape_print(again, &second), ZM_OK);
  assert_string_equal(zmi_text_str(&first), zmi_text_str(&second));
  assert_non_null(strstr(zmi_text_str(&first), "arange() {start=5 step=-1 count=6 dtype=int32}"));
  zmi_text_release(&first);
  zmi_text_release(&second);
  zmi_tape_free(again);
  zmi_program_free(p);
  zm_scope_close(scope);
}

// ---- memory that runs out ----

static zm_status evaluate_all(double *found) {
  seed = 88172645463325252u;
  zm_scope *scope = zm_scope_open();
  if (!scope) return zm_last_status();
  zm_array *y = a_bit_of_everything(), *sum = y && zm_array_data(y) ? zm_sum(y, 0, false) : NULL;
  const float *data = sum ? zm_array_data(sum) : NULL;
  if (data) *found = (double)*data;
  bool done = data != NULL;
  zm_scope_close(scope);
  return done ? ZM_OK : zm_last_status();
}

static void every_allocation_may_fail(void **state) {
  (void)state;
  double found = 0, survived = 0;
  bool fired = true;
  for (uint64_t n = 1; fired; n++) {
    uint64_t before = zmi_alloc_count();
    zmi_alloc_fail_at(n);
    zm_status status = evaluate_all(&found);
    fired = zmi_alloc_count() - before >= n;
    zmi_alloc_fail_at(0);
    // Memory for a message alone may be missing without harm: then the result must be right.
    if (status == ZM_OK && survived == 0) survived = found;
    if (status == ZM_OK ? found != survived || found == 0 : !fired || status != ZM_ERROR_MEMORY) {
      fail_msg("allocation %llu failed: status %s, result %g", (unsigned long long)n, zm_status_name(status), found);
    }
  }
}

// ---- deep and wide graphs ----

typedef struct graph_run {
  double (*build)(int nodes); // the sum of the result
  int nodes;
  double seconds, result;
} graph_run;

// Additions and views in turn: 4 + 4 * nodes / 2.
static double chain(int nodes) {
  zm_array *one = zm_full(1, ZM_F32, SHAPE(2, 2)), *y = one;
  for (int i = 0; i < nodes; i++) y = i % 2 ? zm_add(y, one) : zm_transpose(y, NULL);
  return zm_array_item(zm_sum(zm_reshape(y, SHAPE(4)), 0, false));
}

// Additions that do not depend on one another, joined: 2 * nodes.
static double fan(int nodes) {
  zm_array *one = zm_full(1, ZM_F32, SHAPE(1)), **all = calloc((size_t)nodes, sizeof *all);
  for (int i = 0; i < nodes; i++) all[i] = zm_add(one, one);
  double sum = zm_array_item(zm_sum(zm_concatenate(all, (size_t)nodes, 0), 0, false));
  free(all);
  return sum;
}

// Many results of one evaluation: 2 * nodes.
static double harvest(int nodes) {
  zm_array *one = zm_full(1, ZM_F32, SHAPE(1)), **all = calloc((size_t)nodes, sizeof *all);
  for (int i = 0; i < nodes; i++) all[i] = zm_add(one, one);
  double sum = 0;
  if (zm_eval(all, (size_t)nodes) == ZM_OK) {
    for (int i = 0; i < nodes; i++) sum += zm_array_item(all[i]);
  }
  free(all);
  return sum;
}

// Of this thread: other work of the machine does not count.
static double cpu_seconds(void) {
  struct timespec t;
  assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), 0);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *run_graph(void *user) {
  graph_run *g = user;
  double start = cpu_seconds();
  zm_scope *scope = zm_scope_open();
  g->result = g->build(g->nodes);
  zm_scope_close(scope);
  g->seconds = cpu_seconds() - start;
  return NULL;
}

// On a small stack: nothing may call itself once a node.
static double seconds_of(double (*build)(int nodes), int nodes, double wanted) {
  pthread_attr_t attr;
  pthread_t thread;
  graph_run g = {.build = build, .nodes = nodes};
  assert_int_equal(pthread_attr_init(&attr), 0);
  assert_int_equal(pthread_attr_setstacksize(&attr, 512 << 10), 0);
  assert_int_equal(pthread_create(&thread, &attr, run_graph, &g), 0);
  assert_int_equal(pthread_join(thread, NULL), 0);
  pthread_attr_destroy(&attr);
  assert_true(g.result == wanted);
  return g.seconds;
}

static void large_graphs_take_linear_time(void **state) {
  (void)state;
  static const struct {
    const char *name;
    double (*build)(int nodes);
    double first, each;
  } rows[] = {{"chain", chain, 4, 2}, {"fan", fan, 0, 2}, {"harvest", harvest, 0, 2}};
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    const int few = 10000, many = 100000;
    double before = seconds_of(rows[i].build, few, rows[i].first + rows[i].each * few);
    double after = seconds_of(rows[i].build, many, rows[i].first + rows[i].each * many);
    print_message("%s: %d nodes %.3f s, %d nodes %.3f s\n", rows[i].name, few, before, many, after);
    // Ten times the nodes; a hundred times the work would be quadratic. Short runs are noise.
    if (after > 1 && after > 40 * before) fail_msg("%s: %d nodes take %.3f s, %d take %.3f s", rows[i].name, few, before, many, after);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_allocation_may_fail), // first: the default device is made here too
      cmocka_unit_test(names_and_sizes),
      cmocka_unit_test(rows_of_the_op_table_are_whole),
      cmocka_unit_test(large_arrays_are_rounded_once),
      cmocka_unit_test(functions_are_those_of_the_kernels),
      cmocka_unit_test(denormals_count_as_zero_in_arithmetic),
      cmocka_unit_test(conversions_to_integers_are_limited),
      cmocka_unit_test(sums_run_in_the_lane_order),
      cmocka_unit_test(winners_are_the_lowest_index),
      cmocka_unit_test(long_softmax_rows),
      cmocka_unit_test(matmul_runs_in_the_written_order),
      cmocka_unit_test(copies_of_any_strides),
      cmocka_unit_test(indices_out_of_range_give_zeros),
      cmocka_unit_test(numbers_and_empty_arrays),
      cmocka_unit_test(missing_shapes),
      cmocka_unit_test(wrong_operands_are_named),
      cmocka_unit_test(tapes_print_and_read_back),
      cmocka_unit_test(large_graphs_take_linear_time),
  };
  setenv("ZMLX_THREADS", "1", 1); // of zm_eval
  if (play_open() != 0) return 1;
  int failed = cmocka_run_group_tests_name("arrays", tests, NULL, NULL);
  play_close();
  return failed;
}
