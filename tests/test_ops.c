// Operations of zmlx/ops.h against results stored by scripts/make_ops_cases.py (MLX and NumPy), on every CPU tier and with 1, 2 and 3
// workers: the same bits. Larger shapes against plain loops.
#include "play.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmlx/zmlx.h>

static const char *const files[] = {"tests/data/ops_cumulative_cases.json", "tests/data/ops_sort_cases.json",
                                    "tests/data/ops_index_cases.json",      "tests/data/ops_shape_cases.json",
                                    "tests/data/ops_reduce_cases.json",     "tests/data/ops_other_cases.json",
                                    "tests/data/ops_einsum_cases.json"};
static json_t *roots[ZMI_COUNT(files)];

// ---- arrays of the file ----

static int64_t shape_of(const json_t *list, int64_t *shape) {
  int64_t count = 1;
  for (size_t i = 0; i < json_array_size(list); i++) {
    shape[i] = json_integer_value(json_array_get(list, i));
    count *= shape[i];
  }
  return count;
}

static zm_array *array_of(const json_t *array) {
  int64_t shape[ZM_MAX_RANK];
  const char *hex = json_string_value(json_object_get(array, "x"));
  const json_t *dims = json_object_get(array, "s");
  zm_dtype dtype = zm_dtype_from_name(json_string_value(json_object_get(array, "t")));
  const size_t size = strlen(hex) / 2;
  assert_int_equal(size, (size_t)shape_of(dims, shape) * zm_dtype_size(dtype));
  uint8_t *bytes = malloc(size + 1);
  for (size_t i = 0; i < size; i++) {
    unsigned byte;
    sscanf(hex + 2 * i, "%2x", &byte);
    bytes[i] = (uint8_t)byte;
  }
  zm_array *a = zm_array_from_data(bytes, dtype, shape, (int)json_array_size(dims));
  free(bytes);
  return json_is_true(json_object_get(array, "view")) ? zm_transpose(a, NULL) : a;
}

// ---- operations by name ----

typedef struct arguments {
  zm_array **in;
  size_t n;
  const json_t *args;
  zm_array *out[4];
} arguments;

static int64_t integer(const arguments *a, const char *name) {
  return json_integer_value(json_object_get(a->args, name));
}

static bool truth(const arguments *a, const char *name) {
  return json_is_true(json_object_get(a->args, name));
}

static int integers(const arguments *a, const char *name, int64_t *values) {
  const json_t *list = json_object_get(a->args, name);
  shape_of(list, values);
  return (int)json_array_size(list);
}

static int axes(const arguments *a, const char *name, int *values) {
  int64_t wide[ZM_MAX_RANK];
  int n = integers(a, name, wide);
  for (int i = 0; i < n; i++) values[i] = (int)wide[i];
  return n;
}

#define SCAN_LIST(X) X(cumsum) X(cumprod) X(cummax) X(cummin) X(logcumsumexp)
#define SCAN(name)                                                                                                                         \
  static void apply_##name(arguments *a) {                                                                                                 \
    a->out[0] = zm_##name(a->in[0], (int)integer(a, "axis"), truth(a, "reverse"), truth(a, "inclusive"));                                  \
  }
SCAN_LIST(SCAN)

static void apply_sort(arguments *a) {
  a->out[0] = zm_sort(a->in[0], (int)integer(a, "axis"));
}

static void apply_argsort(arguments *a) {
  a->out[0] = zm_argsort(a->in[0], (int)integer(a, "axis"));
}

static void apply_topk(arguments *a) {
  a->out[0] = zm_topk(a->in[0], integer(a, "k"), (int)integer(a, "axis"), &a->out[1]);
}

static void apply_searchsorted(arguments *a) {
  a->out[0] = zm_searchsorted(a->in[0], a->in[1], truth(a, "right"));
}

static void apply_gather(arguments *a) {
  int at[ZM_MAX_RANK], n = axes(a, "axes", at);
  a->out[0] = zm_gather(a->in[0], a->in + 1, at, n);
}

static void apply_scatter(arguments *a) {
  static const char *const modes[] = {"set", "add", "prod", "max", "min"};
  const char *name = json_string_value(json_object_get(a->args, "mode"));
  int at[ZM_MAX_RANK], n = axes(a, "axes", at), mode = 0;
  while (strcmp(modes[mode], name) != 0) mode++;
  a->out[0] = zm_scatter(a->in[0], a->in + 2, at, n, a->in[1], (zm_scatter_mode)mode);
}

static void apply_take_along_axis(arguments *a) {
  a->out[0] = zm_take_along_axis(a->in[0], a->in[1], (int)integer(a, "axis"));
}

static void apply_put_along_axis(arguments *a) {
  a->out[0] = zm_put_along_axis(a->in[0], a->in[1], a->in[2], (int)integer(a, "axis"));
}

static void apply_slice_update(arguments *a) {
  int64_t start[ZM_MAX_RANK], stop[ZM_MAX_RANK], step[ZM_MAX_RANK];
  integers(a, "start", start);
  integers(a, "stop", stop);
  integers(a, "step", step);
  a->out[0] = zm_slice_update(a->in[0], a->in[1], start, stop, step);
}

static void apply_slice_at(arguments *a) {
  int at[ZM_MAX_RANK], n = axes(a, "axes", at);
  int64_t size[ZM_MAX_RANK];
  integers(a, "size", size);
  a->out[0] = zm_slice_at(a->in[0], a->in[1], at, n, size);
}

static void apply_slice_update_at(arguments *a) {
  int at[ZM_MAX_RANK], n = axes(a, "axes", at);
  a->out[0] = zm_slice_update_at(a->in[0], a->in[1], a->in[2], at, n);
}

#define AXES_LIST(X) X(sum_axes) X(mean_axes) X(max_axes) X(min_axes) X(prod) X(any) X(all) X(count_nonzero) X(logsumexp) X(median)
#define AXES(name)                                                                                                                         \
  static void apply_##name(arguments *a) {                                                                                                 \
    int at[ZM_MAX_RANK], n = axes(a, "axes", at);                                                                                          \
    a->out[0] = zm_##name(a->in[0], json_is_array(json_object_get(a->args, "axes")) ? at : NULL, n, truth(a, "keepdims"));                 \
  }
AXES_LIST(AXES)

#define SPREAD_LIST(X) X(var) X(std)
#define SPREAD(name)                                                                                                                       \
  static void apply_##name(arguments *a) {                                                                                                 \
    int at[ZM_MAX_RANK], n = axes(a, "axes", at);                                                                                          \
    const bool some = json_is_array(json_object_get(a->args, "axes"));                                                                     \
    a->out[0] = zm_##name(a->in[0], some ? at : NULL, n, truth(a, "keepdims"), integer(a, "ddof"));                                        \
  }
SPREAD_LIST(SPREAD)

static void apply_argmin(arguments *a) {
  a->out[0] = zm_argmin(a->in[0], (int)integer(a, "axis"), truth(a, "keepdims"));
}

static zm_dtype dtype_of(const arguments *a) {
  return zm_dtype_from_name(json_string_value(json_object_get(a->args, "dtype")));
}

#define LIST int at[ZM_MAX_RANK], n = axes(a, "axes", at)
#define LONGS(name)                                                                                                                        \
  int64_t name[2 * ZM_MAX_RANK];                                                                                                           \
  const int count = integers(a, #name, name)
#define CALL(name, before, value)                                                                                                          \
  static void apply_##name(arguments *a) {                                                                                                 \
    before;                                                                                                                                \
    a->out[0] = value;                                                                                                                     \
  }
#define AXIS (int)integer(a, "axis")
// clang-format off
CALL(swapaxes, LIST; (void)n, zm_swapaxes(a->in[0], at[0], at[1]))
CALL(moveaxis, LIST; (void)n, zm_moveaxis(a->in[0], at[0], at[1]))
CALL(flatten, LIST; (void)n, zm_flatten(a->in[0], at[0], at[1]))
CALL(unflatten, LONGS(shape), zm_unflatten(a->in[0], AXIS, shape, count))
CALL(expand_dims, LIST, zm_expand_dims_axes(a->in[0], at, n))
CALL(squeeze, LIST, zm_squeeze_axes(a->in[0], json_is_array(json_object_get(a->args, "axes")) ? at : NULL, n))
CALL(atleast, , zm_atleast(a->in[0], (int)integer(a, "rank")))
CALL(stack, , zm_stack(a->in, a->n, AXIS))
CALL(unstack, , zm_unstack(a->in[0], AXIS, a->out) == ZM_OK ? a->out[0] : NULL)
CALL(split, , zm_split(a->in[0], (int)integer(a, "parts"), AXIS, a->out) == ZM_OK ? a->out[0] : NULL)
CALL(split_at, LONGS(at), zm_split_at(a->in[0], at, count, AXIS, a->out) == ZM_OK ? a->out[0] : NULL)
CALL(tile, LONGS(times), zm_tile(a->in[0], times, count))
CALL(repeat, , zm_repeat(a->in[0], integer(a, "times"), AXIS))
CALL(roll, LIST; (void)n; LONGS(shifts), zm_roll(a->in[0], shifts, at, count))
CALL(flip, LIST, zm_flip(a->in[0], json_is_array(json_object_get(a->args, "axes")) ? at : NULL, n))
CALL(diagonal, LIST; (void)n, zm_diagonal(a->in[0], integer(a, "k"), at[0], at[1]))
CALL(tril, , zm_tril(a->in[0], integer(a, "k")))
CALL(triu, , zm_triu(a->in[0], integer(a, "k")))
CALL(diag, , zm_diag(a->in[0], integer(a, "k")))
CALL(trace, LIST; (void)n, zm_trace(a->in[0], integer(a, "k"), at[0], at[1]))
CALL(eye, , zm_eye(integer(a, "n"), integer(a, "m"), integer(a, "k"), dtype_of(a)))
CALL(tri, , zm_tri(integer(a, "n"), integer(a, "m"), integer(a, "k"), dtype_of(a)))
CALL(meshgrid, , zm_meshgrid(a->in, (int)a->n, truth(a, "sparse"), truth(a, "xy"), a->out) == ZM_OK ? a->out[0] : NULL)
CALL(as_strided, LONGS(shape); int64_t step[ZM_MAX_RANK]; integers(a, "strides", step),
     zm_as_strided(a->in[0], shape, step, count, integer(a, "offset")))
CALL(masked_fill, , zm_masked_fill(a->in[0], a->in[1], (double)integer(a, "value")))
CALL(diff, , zm_diff(a->in[0], (int)integer(a, "n"), AXIS))
CALL(kron, , zm_kron(a->in[0], a->in[1]))
CALL(outer, , zm_outer(a->in[0], a->in[1]))
CALL(inner, , zm_inner(a->in[0], a->in[1]))
CALL(vecdot, , zm_vecdot(a->in[0], a->in[1], AXIS))
CALL(linspace, , zm_linspace(json_number_value(json_object_get(a->args, "start")), json_number_value(json_object_get(a->args, "stop")),
                             integer(a, "n"), dtype_of(a)))
CALL(einsum, , zm_einsum(json_string_value(json_object_get(a->args, "text")), a->in, (int)a->n))
CALL(tensordot, int x[ZM_MAX_RANK]; int y[ZM_MAX_RANK]; const int n = axes(a, "a", x); axes(a, "b", y),
     zm_tensordot(a->in[0], a->in[1], x, y, n))
CALL(view, , zm_view(a->in[0], dtype_of(a)))
CALL(array_equal, , zm_array_equal(a->in[0], a->in[1], truth(a, "equal_nan")))
CALL(bartlett, , zm_bartlett(integer(a, "n")))
CALL(blackman, , zm_blackman(integer(a, "n")))
CALL(hamming, , zm_hamming(integer(a, "n")))
CALL(hanning, , zm_hanning(integer(a, "n")))
CALL(unique, const json_t *f = json_object_get(a->args, "fill"); const double fill = json_number_value(f),
     zm_unique(a->in[0], integer(a, "size"), f ? &fill : NULL, &a->out[1], &a->out[2], &a->out[3]))
#define CALL_LIST(X) X(view) X(array_equal) X(bartlett) X(blackman) X(hamming) X(hanning) X(unique) \
  X(swapaxes) X(moveaxis) X(flatten) X(unflatten) X(expand_dims) X(squeeze) X(atleast) X(stack) X(unstack) X(split) \
  X(split_at) X(tile) X(repeat) X(roll) X(flip) X(diagonal) X(tril) X(triu) X(diag) X(trace) X(eye) X(tri) X(meshgrid) X(as_strided) \
  X(masked_fill) X(diff) X(kron) X(outer) X(inner) X(vecdot) X(linspace) X(einsum) X(tensordot) X(pad) X(argmin)
// clang-format on

static void apply_pad(arguments *a) {
  static const char *const modes[] = {"constant", "edge", "reflect", "symmetric"};
  const char *name = json_string_value(json_object_get(a->args, "mode"));
  int64_t pads[2 * ZM_MAX_RANK], before[ZM_MAX_RANK], after[ZM_MAX_RANK];
  const int n = integers(a, "pads", pads);
  int mode = 0;
  while (strcmp(modes[mode], name) != 0) mode++;
  for (int i = 0; i < n / 2; i++) {
    before[i] = pads[2 * i];
    after[i] = pads[2 * i + 1];
  }
  a->out[0] = zm_pad(a->in[0], before, after, (zm_pad_mode)mode, (double)integer(a, "value"));
}

static const struct {
  const char *name;
  void (*apply)(arguments *a);
} ops[] = {
#define ROW(name) {#name, apply_##name},
    SCAN_LIST(ROW) ROW(sort) ROW(argsort) ROW(topk) ROW(searchsorted) ROW(gather) ROW(scatter) ROW(take_along_axis) ROW(put_along_axis)
        ROW(slice_update) ROW(slice_at) ROW(slice_update_at) AXES_LIST(ROW) SPREAD_LIST(ROW) CALL_LIST(ROW)};

// ---- comparing ----

static bool is_float(zm_dtype dtype) {
  return dtype == ZM_F32 || dtype == ZM_BF16 || dtype == ZM_F16;
}

static double value_at(const void *data, zm_dtype dtype, int64_t i) {
  if (dtype == ZM_F32) return ((const float *)data)[i];
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(((const uint16_t *)data)[i]) : zmi_f16_to_f32(((const uint16_t *)data)[i]);
}

static bool close_to(const void *found, const void *wanted, zm_dtype dtype, int64_t i, double tolerance, double floor) {
  size_t size = zm_dtype_size(dtype);
  if (memcmp((const char *)found + (size_t)i * size, (const char *)wanted + (size_t)i * size, size) == 0) return true;
  if (!is_float(dtype)) return false;
  double a = value_at(found, dtype, i), b = value_at(wanted, dtype, i);
  if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
  if (tolerance == 0 || isinf(a) || isinf(b)) return a == b;
  return fabs(a - b) <= tolerance * fmax(fabs(b), floor) + 0x1p-126;
}

static void compare(const char *what, const void *found, const void *wanted, const zmi_type *type, double tolerance, double floor) {
  for (int64_t i = 0; i < zmi_type_count(type); i++) {
    if (close_to(found, wanted, type->dtype, i, tolerance, floor)) continue;
    char text[128];
    fail_msg("%s: element %lld of %s differs: %.9g, wanted %.9g", what, (long long)i, zmi_type_text(type, text),
             is_float(type->dtype) ? value_at(found, type->dtype, i) : 0, is_float(type->dtype) ? value_at(wanted, type->dtype, i) : 0);
  }
}

static void run_case(size_t number, const json_t *c, size_t row) {
  zm_scope *scope = zm_scope_open();
  const json_t *in = json_object_get(c, "in"), *out = json_object_get(c, "out");
  zm_array *operands[64];
  arguments a = {.in = operands, .n = json_array_size(in), .args = json_object_get(c, "args")};
  for (size_t i = 0; i < a.n; i++) operands[i] = array_of(json_array_get(in, i));
  ops[row].apply(&a);
  for (size_t o = 0; o < json_array_size(out); o++) {
    char what[64], found[128], wanted_text[128];
    zm_array *y = a.out[o], *wanted = array_of(json_array_get(out, o));
    snprintf(what, sizeof what, "case %zu (%s), result %zu", number, ops[row].name, o);
    if (!y) fail_msg("%s: %s", what, zm_last_error());
    zmi_type_text(&y->type, found);
    zmi_type_text(&wanted->type, wanted_text);
    if (strcmp(found, wanted_text) != 0) fail_msg("%s: is %s, wanted %s", what, found, wanted_text);
    void *result = play_everywhere(what, y);
    compare(what, result, zm_array_data(wanted), &y->type, json_number_value(json_object_get(c, "tol")),
            json_number_value(json_object_get(c, "floor")));
    zmi_free(result);
  }
  zm_scope_close(scope);
}

static void op_gives_the_stored_results(void **state) {
  size_t row = (size_t)(uintptr_t)*state, found = 0;
  for (size_t f = 0; f < ZMI_COUNT(files); f++) {
    const json_t *cases = json_object_get(roots[f], "cases");
    for (size_t i = 0; i < json_array_size(cases); i++) {
      const json_t *c = json_array_get(cases, i);
      if (strcmp(json_string_value(json_object_get(c, "op")), ops[row].name) != 0) continue;
      run_case(i, c, row);
      found++;
    }
  }
  assert_true(found > 0);
}

// ---- larger shapes ----

static uint32_t seed = 1;
static uint32_t random_bits(void) {
  seed ^= seed << 13;
  seed ^= seed >> 17;
  return seed ^= seed << 5;
}

static const zm_dtype all_dtypes[] = {ZM_BOOL, ZM_U8, ZM_U16, ZM_U32, ZM_U64, ZM_I8, ZM_I16, ZM_I32, ZM_I64, ZM_F16, ZM_BF16, ZM_F32};
#define SHAPE(...)                                                                                                                         \
  (const int64_t[]) {                                                                                                                      \
    __VA_ARGS__                                                                                                                            \
  }

// Small integers, exact in every dtype; many are equal. `wild`: some NaN, infinities and zeros of both signs.
static zm_array *numbers(zm_dtype dtype, const int64_t *shape, int rank, unsigned range, bool wild) {
  int64_t n = 1;
  for (int i = 0; i < rank; i++) n *= shape[i];
  float *x = malloc((size_t)n * sizeof *x + 1);
  for (int64_t i = 0; i < n; i++) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f};
    x[i] = (float)(random_bits() % range);
    if (is_float(dtype)) x[i] -= (float)(range / 2);
    if (wild && is_float(dtype) && random_bits() % 50 == 0) x[i] = odd[random_bits() % 5];
  }
  zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, shape, rank), dtype);
  free(x);
  assert_int_equal(zm_eval(&a, 1), ZM_OK);
  return a;
}

static double number(const zm_array *a, int64_t i) {
  const void *p = a->data;
  switch (a->type.dtype) {
  case ZM_BOOL:
  case ZM_U8:
    return ((const uint8_t *)p)[i];
  case ZM_U16:
    return ((const uint16_t *)p)[i];
  case ZM_U32:
    return ((const uint32_t *)p)[i];
  case ZM_U64:
    return (double)((const uint64_t *)p)[i];
  case ZM_I8:
    return ((const int8_t *)p)[i];
  case ZM_I16:
    return ((const int16_t *)p)[i];
  case ZM_I32:
    return ((const int32_t *)p)[i];
  case ZM_I64:
    return (double)((const int64_t *)p)[i];
  default:
    return value_at(p, a->type.dtype, i);
  }
}

// NaN above all numbers.
static int order(double a, double b) {
  if (isnan(a) || isnan(b)) return isnan(a) - isnan(b);
  return (a > b) - (a < b);
}

static double *order_values; // of the row that is sorted
static int order_direction;
static int by_value_then_place(const void *a, const void *b) {
  const uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
  const int by = order(order_values[i], order_values[j]) * order_direction;
  return by ? by : (i > j) - (i < j);
}

static uint32_t *wanted_order(const zm_array *a, int64_t row, int64_t n, int direction) {
  uint32_t *index = malloc((size_t)n * sizeof *index + 1);
  order_values = malloc((size_t)n * sizeof *order_values + 1);
  order_direction = direction;
  for (int64_t i = 0; i < n; i++) {
    index[i] = (uint32_t)i;
    order_values[i] = number(a, row * n + i);
  }
  qsort(index, (size_t)n, sizeof *index, by_value_then_place);
  free(order_values);
  return index;
}

static void *played(const char *what, zm_array *y) {
  if (!y) fail_msg("%s: %s", what, zm_last_error());
  return play_everywhere(what, y);
}

// Two values of an array of a's dtype are the same bits, or both NaN.
static void same_element(const char *what, const zm_array *a, int64_t i, const void *found, int64_t k) {
  const size_t size = zm_dtype_size(a->type.dtype);
  if (memcmp((const char *)a->data + (size_t)i * size, (const char *)found + (size_t)k * size, size) == 0) return;
  if (is_float(a->type.dtype) && isnan(value_at(a->data, a->type.dtype, i)) && isnan(value_at(found, a->type.dtype, k))) return;
  fail_msg("%s: result %lld is not element %lld", what, (long long)k, (long long)i);
}

static void check_sort(zm_dtype dtype, int64_t rows, int64_t n, unsigned range) {
  zm_scope *scope = zm_scope_open();
  zm_array *a = numbers(dtype, SHAPE(rows, n), 2, range, true);
  char what[96];
  snprintf(what, sizeof what, "sort of %s[%lld, %lld]", zm_dtype_name(dtype), (long long)rows, (long long)n);
  uint32_t *index = played(what, zm_argsort(a, -1));
  void *values = played(what, zm_sort(a, -1));
  const int64_t kth = n / 3, k = n > 900 ? 100 : n / 5;
  uint32_t *part = played(what, zm_argpartition(a, kth, -1));
  void *part_values = played(what, zm_partition(a, kth, -1));
  zm_array *top_index = NULL, *top = zm_topk(a, k, -1, &top_index);
  void *top_values = played(what, top);
  uint32_t *top_indices = played(what, top_index);
  for (int64_t r = 0; r < rows; r++) {
    uint32_t *wanted = wanted_order(a, r, n, 1), *falling = wanted_order(a, r, n, -1);
    const double middle = number(a, r * n + wanted[kth]);
    for (int64_t i = 0; i < n; i++) {
      if (index[r * n + i] != wanted[i]) fail_msg("%s: row %lld, place %lld", what, (long long)r, (long long)i);
      same_element(what, a, r * n + wanted[i], values, r * n + i);
      const double v = number(a, r * n + part[r * n + i]);
      if (i < kth ? order(v, middle) > 0 : i > kth ? order(v, middle) < 0 : part[r * n + i] != wanted[kth])
        fail_msg("%s: partition, row %lld, place %lld", what, (long long)r, (long long)i);
      same_element(what, a, r * n + part[r * n + i], part_values, r * n + i);
    }
    for (int64_t i = 0; i < k; i++) {
      if (top_indices[r * k + i] != falling[i]) fail_msg("%s: topk, row %lld, place %lld", what, (long long)r, (long long)i);
      same_element(what, a, r * n + falling[i], top_values, r * k + i);
    }
    free(wanted);
    free(falling);
  }
  zmi_free(index);
  zmi_free(values);
  zmi_free(part);
  zmi_free(part_values);
  zmi_free(top_values);
  zmi_free(top_indices);
  zm_scope_close(scope);
}

static void sorting_is_stable_at_every_size(void **state) {
  (void)state;
  static const int64_t sizes[][2] = {{5, 16}, {4, 17}, {3, 130}, {3, 384}, {70, 385}, {2, 3000}, {1, 16384}, {2, 16385}, {33, 2000}};
  for (size_t d = 0; d < ZMI_COUNT(all_dtypes); d++) {
    for (size_t i = 0; i < ZMI_COUNT(sizes); i++) {
      if (sizes[i][1] > 1000 && (d + i) % 3 != 0) continue; // every size with some dtypes
      check_sort(all_dtypes[d], sizes[i][0], sizes[i][1], i % 2 ? 7 : 100);
    }
  }
  check_sort(ZM_F32, 1, 100000, 1u << 20);
  check_sort(ZM_I64, 1, 70000, 3);
  check_sort(ZM_F32, 2, 50000, 1); // all equal but for the odd ones
  check_sort(ZM_BF16, 33, 20000, 60000);
}

// The order of running sums (docs/numerics.md) in plain loops.
static void running_sum(const float *x, int64_t k, int64_t step, float *y) {
  float row = 0, block = 0, p = 0;
  for (int64_t i = 0; i < k; i++) {
    const int64_t in_block = i % 16384;
    p = in_block % 64 == 0 ? x[i * step] : p + x[i * step];
    const float q = in_block < 64 ? p : block + p;
    const float result = i < 16384 ? q : row + q;
    y[i * step] = result;
    if (in_block % 64 == 63) block = q;
    if (in_block == 16383) row = result;
  }
}

static void running_sums_have_one_order(void **state) {
  (void)state;
  static const int64_t shapes[][3] = {{1, 1, 1},      {3, 1000, 1}, {1, 70000, 1}, {2, 33000, 3},
                                      {1, 40000, 20}, {3, 130, 70}, {2, 257, 16},  {1, 200, 1100}};
  for (size_t s = 0; s < ZMI_COUNT(shapes); s++) {
    zm_scope *scope = zm_scope_open();
    const int64_t *shape = shapes[s], outer = shape[0], k = shape[1], inner = shape[2], n = outer * k * inner;
    float *x = malloc((size_t)n * sizeof *x), *wanted = malloc((size_t)n * sizeof *x), *line = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(int32_t)random_bits() * 0x1p-31f;
    zm_array *a = zm_array_from_data(x, ZM_F32, shape, 3);
    for (int form = 0; form < 4; form++) {
      const bool reverse = form & 1, inclusive = form & 2;
      for (int64_t o = 0; o < outer; o++) {
        for (int64_t j = 0; j < inner; j++) {
          float *y = wanted + o * k * inner + j;
          for (int64_t i = 0; i < k; i++) line[i * inner] = x[(o * k + (reverse ? k - 1 - i : i)) * inner + j];
          running_sum(line, k, inner, line);
          for (int64_t i = 0; i < k; i++) {
            y[(reverse ? k - 1 - i : i) * inner] = inclusive ? line[i * inner] : i ? line[(i - 1) * inner] : 0;
          }
        }
      }
      float *found = played("cumsum", zm_cumsum(a, 1, reverse, inclusive));
      for (int64_t i = 0; i < n; i++) {
        if (memcmp(&found[i], &wanted[i], 4) != 0)
          fail_msg("shape %zu, form %d: element %lld is %.9g, wanted %.9g", s, form, (long long)i, (double)found[i], (double)wanted[i]);
      }
      zmi_free(found);
    }
    free(x);
    free(wanted);
    free(line);
    zm_scope_close(scope);
  }
}

// Blocks and columns of the other scans: exact ones in a plain loop, logcumsumexp by doubles.
static void long_scans_agree_with_loops(void **state) {
  (void)state;
  static const int64_t shapes[][3] = {{1, 40000, 1}, {1, 33000, 2}, {1, 17000, 17}};
  for (size_t s = 0; s < ZMI_COUNT(shapes); s++) {
    for (size_t d = 1; d < ZMI_COUNT(all_dtypes); d++) {
      zm_scope *scope = zm_scope_open();
      const int64_t *shape = shapes[s], k = shape[1], inner = shape[2];
      zm_array *a = numbers(all_dtypes[d], shape, 3, 100, false);
      zm_array *most = zm_cummax(a, 1, false, true), *least = zm_cummin(a, 1, true, true);
      zm_array *sums = zm_logcumsumexp(a, 1, false, true);
      zm_array *both[3] = {most, least, sums};
      assert_int_equal(zm_eval(both, 3), ZM_OK);
      for (int64_t j = 0; j < inner; j++) {
        double best = -INFINITY, worst = INFINITY, sum = -INFINITY;
        for (int64_t i = 0; i < k; i++) {
          const double v = number(a, i * inner + j), w = number(a, (k - 1 - i) * inner + j);
          best = fmax(best, v);
          worst = fmin(worst, w);
          sum = fmax(sum, v) + log1p(exp(-fabs(sum - v)));
          if (number(most, i * inner + j) != best) fail_msg("cummax %zu %zu: %lld", s, d, (long long)i);
          if (number(least, (k - 1 - i) * inner + j) != worst) fail_msg("cummin %zu %zu: %lld", s, d, (long long)i);
          const double found = number(sums, i * inner + j), tolerance = all_dtypes[d] == ZM_BF16  ? 1e-2
                                                                        : all_dtypes[d] == ZM_F16 ? 2e-3
                                                                                                  : 1e-5;
          if (fabs(found - sum) > tolerance * (1 + fabs(sum)))
            fail_msg("logcumsumexp %zu %zu: %lld: %g, %g", s, d, (long long)i, found, sum);
        }
      }
      zm_scope_close(scope);
    }
  }
}

// Many duplicates in wide rows and single elements: as if one update came after the other.
static void updates_come_in_order(void **state) {
  (void)state;
  static const int64_t shapes[][2] = {{50, 1}, {7, 300}, {3000, 2}};
  for (size_t s = 0; s < ZMI_COUNT(shapes); s++) {
    for (int mode = ZM_SCATTER_SET; mode <= ZM_SCATTER_MIN; mode++) {
      zm_scope *scope = zm_scope_open();
      const int64_t rows = shapes[s][0], inner = shapes[s][1], places = 2000;
      zm_array *a = numbers(ZM_F32, SHAPE(rows, inner), 2, 5, false), *u = numbers(ZM_F32, SHAPE(places, inner), 2, 1000, false);
      zm_array *index = numbers(ZM_I32, SHAPE(places), 1, (unsigned)rows + 3, false); // some are out of range
      float *wanted = malloc((size_t)(rows * inner) * sizeof *wanted);
      memcpy(wanted, a->data, (size_t)(rows * inner) * sizeof *wanted);
      for (int64_t p = 0; p < places; p++) {
        const int32_t at = ((const int32_t *)index->data)[p];
        for (int64_t j = 0; j < inner && at < rows; j++) {
          float *x = &wanted[at * inner + j], v = ((const float *)u->data)[p * inner + j];
          *x = mode == ZM_SCATTER_SET    ? v
               : mode == ZM_SCATTER_ADD  ? *x + v
               : mode == ZM_SCATTER_PROD ? *x * v
               : mode == ZM_SCATTER_MAX  ? fmaxf(*x, v)
                                         : fminf(*x, v);
        }
      }
      float *found = played("scatter", zm_scatter(a, &index, (const int[]){0}, 1, u, (zm_scatter_mode)mode));
      compare("scatter", found, wanted, &a->type, 0, 0);
      zmi_free(found);
      free(wanted);
      zm_scope_close(scope);
    }
  }
}

// ---- errors say what, which value ----

static void errors_name_what_is_wrong(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *m = zm_full(1, ZM_F32, SHAPE(3, 4), 2), *v = zm_full(1, ZM_F32, SHAPE(4), 1), *i = zm_full(0, ZM_I32, SHAPE(2), 1);
  zm_array *pair[2] = {m, m}, *mixed[2] = {m, v}, *out[8];
  const int twice[2] = {0, 0};
#define EMPTY zm_full(1, ZM_F32, SHAPE(3, 0), 2)
#define REFUSED(call, words)                                                                                                               \
  zm_clear_error();                                                                                                                        \
  if ((call) || !strstr(zm_last_error(), words)) fail_msg("%s: '%s', wanted '%s'", #call, zm_last_error(), words)
#define FAILS(call, words) REFUSED((call) == ZM_OK, words)
  REFUSED(zm_cumsum(m, 2, false, true), "cumsum: axis 2 is out of range");
  REFUSED(zm_sort(zm_full(1, ZM_F32, NULL, 0), -1), "sort: axis -1 is out of range");
  REFUSED(zm_partition(m, 4, -1), "partition: kth is 4, but the axis of float32[3, 4] has 4 elements");
  REFUSED(zm_topk(m, 5, -1, NULL), "topk: k is 5");
  REFUSED(zm_topk(m, -1, 0, NULL), "topk: k is -1");
  REFUSED(zm_searchsorted(m, v, false), "searchsorted: expected a sorted row, found float32[3, 4]");
  REFUSED(zm_gather(m, &v, (const int[]){0}, 1), "gather: indices must be integers, found float32[4]");
  REFUSED(zm_gather(m, (zm_array *[]){i, i}, twice, 2), "gather: axis 0 is indexed twice");
  REFUSED(zm_scatter(m, &i, (const int[]){0}, 1, zm_full(0, ZM_F32, SHAPE(3), 1), ZM_SCATTER_ADD), "broadcast");
  REFUSED(zm_take_along_axis(m, i, 0), "take_along_axis: indices of rank 1 for an array of rank 2");
  REFUSED(zm_put_along_axis(m, zm_full(0, ZM_I32, SHAPE(2, 3), 2), m, 0), "put_along_axis: float32[1, 4] and int32[1, 3] do not broadcast");
  REFUSED(zm_slice_update(m, v, SHAPE(0, 0), SHAPE(3, 4), SHAPE(1, 0)), "slice_update: the step of axis 1 is 0");
  REFUSED(zm_slice_at(m, i, (const int[]){0}, 1, SHAPE(1, 1)), "slice_at: start must hold one index for each of 1 axes");
  REFUSED(zm_slice_at(m, i, (const int[]){0, 1}, 2, SHAPE(4, 1)), "slice_at: axis 0: 4 elements of float32[3, 4]");
  REFUSED(zm_stack(mixed, 2, 0), "stack: array 1 is float32[4], the first is float32[3, 4]");
  FAILS(zm_split(m, 3, 1, out), "split: 4 elements of axis 1 do not make 3 equal parts");
  REFUSED(zm_unflatten(m, 1, SHAPE(3, -1), 2), "unflatten: axis 1 of float32[3, 4] has 4 elements");
  REFUSED(zm_squeeze_axes(m, twice, 1), "squeeze: axis 0 of float32[3, 4] is not of size 1");
  REFUSED(zm_sum_axes(m, twice, 2, false), "sum: axis 0 is there twice");
  REFUSED(zm_max_axes(EMPTY, NULL, 0, false), "max: axis 0 of float32[0] has no elements");
  REFUSED(zm_median(EMPTY, NULL, 0, false), "median: float32[3, 0] has no elements");
  REFUSED(zm_pad(m, SHAPE(3, 0), SHAPE(0, 0), ZM_PAD_REFLECT, 0), "pad: axis 0 of float32[3, 4] has too few elements for 3 before");
  REFUSED(zm_as_strided(m, SHAPE(2, 3), SHAPE(6, 3), 2, 0), "as_strided: elements 0 to 12 are asked for, float32[3, 4] has 12");
  REFUSED(zm_diagonal(m, 0, 1, -1), "diagonal: axes 1 and 1 are no two axes");
  REFUSED(zm_einsum("ij,jk->ik", pair, 2), "einsum: 'ij,jk->ik': axis 'j' is 3 in operand 2 and 4 before");
  REFUSED(zm_einsum("ij,ij->iz", pair, 2), "'z' is in the result, but in no operand");
  REFUSED(zm_einsum("ij,ij->ii", pair, 2), "'i' is in the result twice");
  REFUSED(zm_einsum("ijk,ij", pair, 2), "operand 1 has 3 letters, but it is float32[3, 4]");
  REFUSED(zm_einsum("i1,ij", pair, 2), "unexpected '1' at place 1");
  REFUSED(zm_einsum("ij", pair, 2), "names 1 operands, 2 are given");
  REFUSED(zm_einsum("ij,ij,ij", pair, 2), "names more operands than the 2");
  REFUSED(zm_einsum("ii,ij", pair, 2), "axis 'i' is 3 and 4 in operand 1");
  REFUSED(zm_tensordot(m, m, (const int[]){0}, (const int[]){1}, 1), "tensordot: axis 0 of float32[3, 4] does not meet axis 1");
  REFUSED(zm_kron(zm_full(1, ZM_F32, SHAPE(1, 1, 1, 1, 1), 5), m), "kron: arrays of rank 5");
  zm_scope_close(scope);
}

// A median of numbers with a NaN among them is NaN, wherever it stands, and of the others of the array nothing changes.
static void a_median_with_nan_is_nan(void **state) {
  (void)state;
  static const zm_dtype dtypes[] = {ZM_F32, ZM_F16, ZM_BF16};
  for (size_t t = 0; t < ZMI_COUNT(dtypes); t++)
    for (int n = 1; n <= 6; n++)
      for (int at = 0; at < n; at++) {
        float x[12];
        for (int i = 0; i < 2 * n; i++) x[i] = (float)(i * 5 % 7);
        x[at] = at % 2 ? __builtin_nanf("") : -__builtin_nanf("");
        zm_scope *scope = zm_scope_open();
        zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, SHAPE(2, n), 2), dtypes[t]);
        zm_array *rows = zm_astype(zm_median(a, (const int[]){1}, 1, false), ZM_F32);
        zm_array *second = zm_astype(zm_median(zm_slice(a, SHAPE(1, 0), SHAPE(2, n), NULL), NULL, 0, false), ZM_F32);
        const float *found = zm_array_data(rows);
        if (!found || !second) fail_msg("%s", zm_last_error());
        assert_true(found[0] != found[0]);
        assert_true((double)found[1] == zm_array_item(second));
        const double all = zm_array_item(zm_median(a, NULL, 0, true));
        assert_true(all != all);
        zm_scope_close(scope);
      }
}

// Every allocation fails in turn: NULL and a message, or the right result, and nothing leaks (the sanitizers look).
static void failing_memory_is_an_error(void **state) {
  (void)state;
  for (uint64_t at = 1;; at++) {
    zm_scope *scope = zm_scope_open();
    zm_array *m = zm_full(2, ZM_F32, SHAPE(3, 4), 2), *pair[2] = {m, m}, *top = NULL, *index = NULL;
    assert_int_equal(zm_eval(&m, 1), ZM_OK);
    zmi_alloc_fail_at(at);
    zm_array *y = zm_einsum("ij,ij->i", pair, 2);
    zm_array *s = zm_stack(pair, 2, 1);
    top = zm_topk(s, 2, 1, &index);
    y = zm_add(zm_cumsum(y, 0, true, false), zm_sum_axes(zm_take_along_axis(s, index, 1), (const int[]){1, 2}, 2, false));
    y = zm_scatter(y, &index, (const int[]){0}, 1, zm_mean_axes(top, NULL, 0, false), ZM_SCATTER_ADD);
    const bool done = y && zm_eval(&y, 1) == ZM_OK;
    if (!done) assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
    zmi_alloc_fail_at(0);
    zm_scope_close(scope);
    if (done) break;
    zm_clear_error();
  }
}

int main(void) {
  json_error_t error;
  for (size_t f = 0; f < ZMI_COUNT(files); f++) {
    roots[f] = json_load_file(files[f], 0, &error);
    if (roots[f]) continue;
    fprintf(stderr, "%s, line %d: %s\n", files[f], error.line, error.text);
    return 1;
  }
  if (play_open() != 0) return 1;
  static const struct CMUnitTest own[] = {
      cmocka_unit_test(sorting_is_stable_at_every_size), cmocka_unit_test(running_sums_have_one_order),
      cmocka_unit_test(long_scans_agree_with_loops),     cmocka_unit_test(updates_come_in_order),
      cmocka_unit_test(errors_name_what_is_wrong),       cmocka_unit_test(failing_memory_is_an_error),
      cmocka_unit_test(a_median_with_nan_is_nan),
  };
  struct CMUnitTest tests[ZMI_COUNT(ops) + ZMI_COUNT(own)];
  for (size_t i = 0; i < ZMI_COUNT(ops); i++) {
    tests[i] = (struct CMUnitTest){.name = ops[i].name, .test_func = op_gives_the_stored_results, .initial_state = (void *)(uintptr_t)i};
  }
  memcpy(tests + ZMI_COUNT(ops), own, sizeof own);
  int failed = cmocka_run_group_tests_name("ops", tests, NULL, NULL);
  play_close();
  for (size_t f = 0; f < ZMI_COUNT(files); f++) json_decref(roots[f]);
  return failed;
}
