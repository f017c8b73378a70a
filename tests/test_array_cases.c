// Array operations against results stored by scripts/make_array_cases.py and make_elementwise_cases.py (MLX and NumPy), on every CPU tier
// and with 1, 2 and 3 workers:
// the same bits.
#include "play.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmlx/zmlx.h>

static json_t *root, *more;

// ---- arrays of the file ----

static int64_t shape_of(const json_t *list, int64_t *shape) {
  int64_t count = 1;
  for (size_t i = 0; i < json_array_size(list); i++) {
    shape[i] = json_integer_value(json_array_get(list, i));
    count *= shape[i];
  }
  return count;
}

// Base64, which is a third shorter.
static uint8_t *bytes_of_base64(const char *text, size_t *size) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint8_t *bytes = malloc(strlen(text) + 1);
  uint32_t bits = 0;
  *size = 0;
  for (size_t i = 0; text[i] && text[i] != '='; i++) {
    bits = bits << 6 | (uint32_t)(strchr(digits, text[i]) - digits);
    if (i % 4) bytes[(*size)++] = (uint8_t)(bits >> (6 - 2 * (i % 4)));
  }
  return bytes;
}

static uint8_t *bytes_of(const json_t *array, size_t *size) {
  if (json_object_get(array, "z")) return bytes_of_base64(json_string_value(json_object_get(array, "z")), size);
  const char *hex = json_string_value(json_object_get(array, "x"));
  *size = strlen(hex) / 2;
  uint8_t *bytes = malloc(*size + 1);
  for (size_t i = 0; i < *size; i++) {
    unsigned byte;
    sscanf(hex + 2 * i, "%2x", &byte);
    bytes[i] = (uint8_t)byte;
  }
  return bytes;
}

static zm_array *array_of(const json_t *array) {
  int64_t shape[ZM_MAX_RANK];
  size_t size;
  const json_t *dims = json_object_get(array, "s");
  zm_dtype dtype = zm_dtype_from_name(json_string_value(json_object_get(array, "t")));
  int64_t count = shape_of(dims, shape);
  uint8_t *bytes = bytes_of(array, &size);
  assert_int_equal(size, (size_t)count * zm_dtype_size(dtype));
  zm_array *a = zm_array_from_data(bytes, dtype, shape, (int)json_array_size(dims));
  free(bytes);
  return a;
}

// ---- operations by name ----

typedef zm_array *(*apply_fn)(zm_array **in, size_t n, const json_t *args);

static int int_arg(const json_t *args, const char *name) {
  return (int)json_integer_value(json_object_get(args, name));
}

#define TWO(name)                                                                                                                          \
  static zm_array *apply_##name(zm_array **in, size_t n, const json_t *args) {                                                             \
    (void)n, (void)args;                                                                                                                   \
    return zm_##name(in[0], in[1]);                                                                                                        \
  }
#define ONE(name)                                                                                                                          \
  static zm_array *apply_##name(zm_array **in, size_t n, const json_t *args) {                                                             \
    (void)n, (void)args;                                                                                                                   \
    return zm_##name(in[0]);                                                                                                               \
  }
#define REDUCE(name)                                                                                                                       \
  static zm_array *apply_##name(zm_array **in, size_t n, const json_t *args) {                                                             \
    (void)n;                                                                                                                               \
    return zm_##name(in[0], int_arg(args, "axis"), json_is_true(json_object_get(args, "keepdims")));                                       \
  }
// clang-format off
#define TWO_LIST(X) X(add) X(subtract) X(multiply) X(divide) X(maximum) X(minimum) X(equal) X(not_equal) X(less) X(less_equal) \
  X(greater) X(greater_equal) X(take) X(matmul) \
  X(power) X(remainder) X(floor_divide) X(arctan2) X(logaddexp) X(logical_and) X(logical_or) X(logical_xor) \
  X(bitwise_and) X(bitwise_or) X(bitwise_xor) \
  X(left_shift) X(right_shift)
#define ONE_LIST(X) X(negative) X(abs) X(exp) X(log) X(sqrt) X(rsqrt) X(sigmoid) X(silu) X(tanh) X(softmax) \
  X(square) X(reciprocal) X(sign) X(floor) X(ceil) X(trunc) X(degrees) X(radians) X(exp2) X(expm1) X(log2) X(log10) X(log1p) X(sin) X(cos) \
  X(tan) X(arcsin) X(arccos) X(arctan) X(sinh) X(cosh) X(arcsinh) X(arccosh) X(arctanh) X(erf) X(erfinv) X(softplus) X(isnan) X(isinf) \
  X(isfinite) X(isneginf) X(isposinf) X(logical_not) X(bitwise_invert)
#define REDUCE_LIST(X) X(sum) X(mean) X(max) X(min) X(argmax)
TWO_LIST(TWO)
ONE_LIST(ONE)
REDUCE_LIST(REDUCE)
// clang-format on

static zm_array *apply_where(zm_array **in, size_t n, const json_t *args) {
  (void)n, (void)args;
  return zm_where(in[0], in[1], in[2]);
}

static bool equal_nan(const json_t *args) {
  return json_is_true(json_object_get(args, "equal_nan"));
}

static zm_array *apply_round(zm_array **in, size_t n, const json_t *args) {
  (void)n;
  return zm_round(in[0], int_arg(args, "decimals"));
}

static zm_array *apply_clip(zm_array **in, size_t n, const json_t *args) {
  (void)n, (void)args;
  return zm_clip(in[0], in[1], in[2]);
}

static zm_array *apply_nan_to_num(zm_array **in, size_t n, const json_t *args) {
  (void)n, (void)args;
  return zm_nan_to_num(in[0], 1.5, NULL, NULL);
}

static zm_array *apply_isclose(zm_array **in, size_t n, const json_t *args) {
  (void)n;
  return zm_isclose(in[0], in[1], 1e-5, 1e-8, equal_nan(args));
}

static zm_array *apply_allclose(zm_array **in, size_t n, const json_t *args) {
  (void)n;
  return zm_allclose(in[0], in[1], 1e-5, 1e-8, equal_nan(args));
}

static zm_array *apply_array_equal(zm_array **in, size_t n, const json_t *args) {
  (void)n;
  return zm_array_equal(in[0], in[1], equal_nan(args));
}

static zm_array *apply_astype(zm_array **in, size_t n, const json_t *args) {
  (void)n;
  return zm_astype(in[0], zm_dtype_from_name(json_string_value(json_object_get(args, "dtype"))));
}

static zm_array *apply_concatenate(zm_array **in, size_t n, const json_t *args) {
  return zm_concatenate(in, n, int_arg(args, "axis"));
}

static zm_array *apply_arange(zm_array **in, size_t n, const json_t *args) {
  (void)in, (void)n;
  return zm_arange(json_number_value(json_object_get(args, "start")), json_number_value(json_object_get(args, "stop")),
                   json_number_value(json_object_get(args, "step")), zm_dtype_from_name(json_string_value(json_object_get(args, "dtype"))));
}

static zm_array *apply_step(zm_array *a, const json_t *step) {
  const char *kind = json_string_value(json_array_get(step, 0));
  int64_t list[3][ZM_MAX_RANK];
  int axes[ZM_MAX_RANK];
  const json_t *first = json_array_get(step, 1);
  for (size_t i = 0; i < 3; i++) shape_of(json_array_get(step, i + 1), list[i]);
  int n = (int)json_array_size(first);
  for (int i = 0; i < n; i++) axes[i] = (int)list[0][i];
  if (strcmp(kind, "transpose") == 0) return zm_transpose(a, axes);
  if (strcmp(kind, "reshape") == 0) return zm_reshape(a, list[0], n);
  if (strcmp(kind, "broadcast_to") == 0) return zm_broadcast_to(a, list[0], n);
  if (strcmp(kind, "slice") == 0) return zm_slice(a, list[0], list[1], list[2]);
  if (strcmp(kind, "expand_dims") == 0) return zm_expand_dims(a, (int)json_integer_value(first));
  if (strcmp(kind, "squeeze") == 0) return zm_squeeze(a, (int)json_integer_value(first));
  return strcmp(kind, "contiguous") == 0 ? zm_contiguous(a) : NULL;
}

static zm_array *apply_views(zm_array **in, size_t n, const json_t *args) {
  (void)n;
  const json_t *steps = json_object_get(args, "steps");
  zm_array *a = in[0];
  for (size_t i = 0; i < json_array_size(steps); i++) a = apply_step(a, json_array_get(steps, i));
  return a;
}

static const struct {
  const char *name;
  apply_fn apply;
} ops[] = {
#define ROW(name) {#name, apply_##name},
    TWO_LIST(ROW) ONE_LIST(ROW) REDUCE_LIST(ROW){"where", apply_where},
    {"astype", apply_astype},
    {"concatenate", apply_concatenate},
    {"arange", apply_arange},
    {"views", apply_views},
    {"round", apply_round},
    {"clip", apply_clip},
    {"nan_to_num", apply_nan_to_num},
    {"isclose", apply_isclose},
    {"allclose", apply_allclose},
    {"array_equal", apply_array_equal},
};

// ---- comparing ----

static double value_at(const void *data, zm_dtype dtype, int64_t i) {
  if (dtype == ZM_F32) return ((const float *)data)[i];
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(((const uint16_t *)data)[i]) : zmi_f16_to_f32(((const uint16_t *)data)[i]);
}

static bool close_to(const void *found, const void *wanted, zm_dtype dtype, int64_t i, double tolerance, double floor) {
  size_t size = zm_dtype_size(dtype);
  if (memcmp((const char *)found + (size_t)i * size, (const char *)wanted + (size_t)i * size, size) == 0) return true;
  if (dtype != ZM_F32 && dtype != ZM_BF16 && dtype != ZM_F16) return false;
  double a = value_at(found, dtype, i), b = value_at(wanted, dtype, i);
  if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
  if (tolerance == 0 || isinf(a) || isinf(b)) return tolerance > 0 && a == b;
  return fabs(a - b) <= tolerance * fmax(fabs(b), floor) + 0x1p-126;
}

static void compare(const char *what, const void *found, const void *wanted, const zmi_type *type, double tolerance, double floor) {
  for (int64_t i = 0; i < zmi_type_count(type); i++) {
    if (close_to(found, wanted, type->dtype, i, tolerance, floor)) continue;
    bool is_float = type->dtype == ZM_F32 || type->dtype == ZM_BF16 || type->dtype == ZM_F16;
    char text[128];
    fail_msg("%s: element %lld of %s differs: %.9g, wanted %.9g", what, (long long)i, zmi_type_text(type, text),
             is_float ? value_at(found, type->dtype, i) : 0, is_float ? value_at(wanted, type->dtype, i) : 0);
  }
}

static void run_case(size_t number, const json_t *c, size_t row) {
  zm_scope *scope = zm_scope_open();
  const json_t *in = json_object_get(c, "in"), *out = json_object_get(c, "out");
  zm_array *operands[64];
  const bool turn = json_is_true(json_object_get(json_object_get(c, "args"), "turn"));
  for (size_t i = 0; i < json_array_size(in); i++) {
    operands[i] = array_of(json_array_get(in, i));
    if (turn) operands[i] = zm_transpose(operands[i], NULL);
  }
  zm_array *y = ops[row].apply(operands, json_array_size(in), json_object_get(c, "args"));
  if (!y) fail_msg("case %zu (%s): %s", number, ops[row].name, zm_last_error());
  zm_array *wanted = array_of(out);
  char a[128], b[128];
  zmi_type_text(&y->type, a);
  zmi_type_text(&wanted->type, b);
  if (strcmp(a, b) != 0) fail_msg("case %zu (%s): is %s, wanted %s", number, ops[row].name, a, b);

  char what[64];
  snprintf(what, sizeof what, "case %zu (%s)", number, ops[row].name);
  void *result = play_everywhere(what, y);
  double tolerance = json_number_value(json_object_get(c, "tol")), floor = json_number_value(json_object_get(c, "floor"));
  compare(what, result, wanted->data, &y->type, tolerance, floor);
  const void *data = zm_array_data(y);
  assert_non_null(data);
  compare(what, data, result, &y->type, 0, 0);
  zmi_free(result);
  zm_scope_close(scope);
}

static void op_gives_the_stored_results(void **state) {
  size_t row = (size_t)(uintptr_t)*state, found = 0;
  const json_t *lists[] = {json_object_get(root, "cases"), json_object_get(more, "cases")};
  for (size_t k = 0; k < ZMI_COUNT(lists); k++) {
    for (size_t i = 0; i < json_array_size(lists[k]); i++) {
      const json_t *c = json_array_get(lists[k], i);
      if (strcmp(json_string_value(json_object_get(c, "op")), ops[row].name) != 0) continue;
      run_case(i, c, row);
      found++;
    }
  }
  assert_true(found > 0);
}

static void promotion_is_that_of_mlx(void **state) {
  (void)state;
  const json_t *names = json_object_get(root, "promotion"), *table = json_object_get(root, "table");
  assert_int_equal(json_array_size(names), ZM_DTYPE_COUNT - 1);
  for (size_t i = 0; i < json_array_size(names); i++) {
    zm_dtype a = zm_dtype_from_name(json_string_value(json_array_get(names, i)));
    for (size_t k = 0; k < json_array_size(names); k++) {
      zm_dtype b = zm_dtype_from_name(json_string_value(json_array_get(names, k)));
      assert_string_equal(zm_dtype_name(zm_dtype_promote(a, b)), json_string_value(json_array_get(json_array_get(table, i), k)));
    }
  }
}

int main(void) {
  json_error_t error;
  root = json_load_file("tests/data/array_cases.json", 0, &error);
  if (!root) {
    fprintf(stderr, "tests/data/array_cases.json, line %d: %s\n", error.line, error.text);
    return 1;
  }
  more = json_load_file("tests/data/elementwise_cases.json", 0, &error);
  if (!more) {
    fprintf(stderr, "tests/data/elementwise_cases.json, line %d: %s\n", error.line, error.text);
    return 1;
  }
  if (play_open() != 0) return 1;
  struct CMUnitTest tests[ZMI_COUNT(ops) + 1] = {cmocka_unit_test(promotion_is_that_of_mlx)};
  for (size_t i = 0; i < ZMI_COUNT(ops); i++) {
    tests[i + 1] =
        (struct CMUnitTest){.name = ops[i].name, .test_func = op_gives_the_stored_results, .initial_state = (void *)(uintptr_t)i};
  }
  int failed = cmocka_run_group_tests_name("array cases", tests, NULL, NULL);
  play_close();
  json_decref(root);
  json_decref(more);
  return failed;
}
