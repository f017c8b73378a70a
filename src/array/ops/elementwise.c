// Elementwise arithmetic, comparisons and functions of one or two arrays. An op is a row of loops: floats in float32 (loaded, computed,
// rounded once), integers and bool in their own type. Builders give both operands one dtype and one shape; broadcast operands have
// strides of zero.
#include "array/ops/ops.h"

#include <string.h>

typedef void (*typed_loop)(const void *a, const void *b, void *out, int64_t n);

typedef struct loops {
  bool compares;                                                     // the result is bool
  void (*two)(const float *a, const float *b, void *out, int64_t n); // out: float, or bool if it compares
  void (*one)(const zmi_kernels *k, float *x, int64_t n);            // in place
  typed_loop typed[ZM_DTYPE_COUNT];                                  // bool and integers; b is not read by functions of one operand
} loops;

// ---- integers and bool ----

#define LOOP(name, T, R, value)                                                                                                            \
  static void name##_##T(const void *a, const void *b, void *out, int64_t n) {                                                             \
    const T *x = a, *y = b;                                                                                                                \
    R *z = out;                                                                                                                            \
    (void)y;                                                                                                                               \
    for (int64_t i = 0; i < n; i++) z[i] = (R)(value);                                                                                     \
  }
// clang-format off
#define INTEGER_LOOPS(name, value)                                                                   \
  LOOP(name, uint8_t, uint8_t, value) LOOP(name, uint16_t, uint16_t, value)                          \
  LOOP(name, uint32_t, uint32_t, value) LOOP(name, uint64_t, uint64_t, value)                        \
  LOOP(name, int8_t, int8_t, value) LOOP(name, int16_t, int16_t, value)                              \
  LOOP(name, int32_t, int32_t, value) LOOP(name, int64_t, int64_t, value)
#define COMPARE_LOOPS(name, value)                                                                   \
  LOOP(name, uint8_t, uint8_t, value) LOOP(name, uint16_t, uint8_t, value)                           \
  LOOP(name, uint32_t, uint8_t, value) LOOP(name, uint64_t, uint8_t, value)                          \
  LOOP(name, int8_t, uint8_t, value) LOOP(name, int16_t, uint8_t, value)                             \
  LOOP(name, int32_t, uint8_t, value) LOOP(name, int64_t, uint8_t, value)
#define INTEGER_TABLE(name)                                                                          \
  [ZM_U8] = name##_uint8_t, [ZM_U16] = name##_uint16_t, [ZM_U32] = name##_uint32_t, [ZM_U64] = name##_uint64_t, \
  [ZM_I8] = name##_int8_t, [ZM_I16] = name##_int16_t, [ZM_I32] = name##_int32_t, [ZM_I64] = name##_int64_t
// clang-format on

typedef uint8_t truth; // bool as stored: 0 or 1

// Sums and products wrap around: they are computed in uint64 and cut.
INTEGER_LOOPS(add, (uint64_t)x[i] + (uint64_t)y[i])
INTEGER_LOOPS(subtract, (uint64_t)x[i] - (uint64_t)y[i])
INTEGER_LOOPS(multiply, (uint64_t)x[i] * (uint64_t)y[i])
INTEGER_LOOPS(maximum, x[i] > y[i] ? x[i] : y[i])
INTEGER_LOOPS(minimum, x[i] < y[i] ? x[i] : y[i])
INTEGER_LOOPS(negative, 0 - (uint64_t)x[i])
INTEGER_LOOPS(abs, x[i] > 0 ? (uint64_t)x[i] : 0 - (uint64_t)x[i])
LOOP(add, truth, truth, x[i] | y[i])
LOOP(subtract, truth, truth, x[i] ^ y[i])
LOOP(multiply, truth, truth, x[i] & y[i])
COMPARE_LOOPS(equal, x[i] == y[i])
COMPARE_LOOPS(not_equal, x[i] != y[i])
COMPARE_LOOPS(less, x[i] < y[i])
COMPARE_LOOPS(less_equal, x[i] <= y[i])
COMPARE_LOOPS(greater, x[i] > y[i])
COMPARE_LOOPS(greater_equal, x[i] >= y[i])

// ---- floats ----

#define FLOAT_LOOP(name, R, value)                                                                                                         \
  static void name##_float(const float *x, const float *y, void *out, int64_t n) {                                                         \
    R *restrict z = out;                                                                                                                   \
    for (int64_t i = 0; i < n; i++) z[i] = (R)(value);                                                                                     \
  }

// NaN if one is NaN; of two zeros the second operand's. Comparing and choosing may or may not flush a denormal, so that is done by hand.
static inline float larger(float x, float y) {
  return x != x ? x : zmi_flush(x > y ? x : y);
}

static inline float smaller(float x, float y) {
  return x != x ? x : zmi_flush(x < y ? x : y);
}

FLOAT_LOOP(add, float, x[i] + y[i])
FLOAT_LOOP(subtract, float, x[i] - y[i])
FLOAT_LOOP(multiply, float, x[i] * y[i])
FLOAT_LOOP(divide, float, x[i] / y[i])
FLOAT_LOOP(maximum, float, larger(x[i], y[i]))
FLOAT_LOOP(minimum, float, smaller(x[i], y[i]))
FLOAT_LOOP(equal, uint8_t, x[i] == y[i])
FLOAT_LOOP(not_equal, uint8_t, x[i] != y[i])
FLOAT_LOOP(less, uint8_t, x[i] < y[i])
FLOAT_LOOP(less_equal, uint8_t, x[i] <= y[i])
FLOAT_LOOP(greater, uint8_t, x[i] > y[i])
FLOAT_LOOP(greater_equal, uint8_t, x[i] >= y[i])

#define OWN_FLOAT(name, value)                                                                                                             \
  static void name##_one(const zmi_kernels *k, float *x, int64_t n) {                                                                      \
    (void)k;                                                                                                                               \
    for (int64_t i = 0; i < n; i++) x[i] = value;                                                                                          \
  }
#define KERNEL_FLOAT(name)                                                                                                                 \
  static void name##_one(const zmi_kernels *k, float *x, int64_t n) {                                                                      \
    k->name(x, n);                                                                                                                         \
  }
OWN_FLOAT(negative, -x[i])
OWN_FLOAT(abs, __builtin_fabsf(x[i]))
OWN_FLOAT(sqrt, __builtin_sqrtf(x[i]))
OWN_FLOAT(rsqrt, 1.0f / __builtin_sqrtf(x[i]))
KERNEL_FLOAT(exp)
KERNEL_FLOAT(log)
KERNEL_FLOAT(sigmoid)
KERNEL_FLOAT(silu)
KERNEL_FLOAT(tanh)

// ---- one tile after another ----

typedef struct buffers {
  _Alignas(64) uint64_t raw[2][ZMI_CHUNK]; // gathered operands in their own dtype
  _Alignas(64) float value[3][ZMI_CHUNK];
} buffers;

// Elements of a float operand as float32: in place if they are float32 and contiguous.
static const float *floats(const zmi_call *c, const zmi_reader *r, int i, int64_t at, int64_t n, buffers *b) {
  zm_dtype dtype = c->in[i]->type.dtype;
  const void *p = zmi_read(r, at, n, b->raw[i]);
  if (dtype == ZM_F32) return p;
  c->kernels->load(p, dtype, n, b->value[i]);
  return b->value[i];
}

static void chunk_of_two(const zmi_call *c, const loops *l, const zmi_reader *r, int64_t at, int64_t n, buffers *b) {
  zm_dtype dtype = c->in[0]->type.dtype, to = c->out[0]->type.dtype;
  char *dst = (char *)c->dst[0] + (size_t)at * zm_dtype_size(to);
  if (!zmi_dtype_is_float(dtype)) {
    const void *x = zmi_read(&r[0], at, n, b->raw[0]), *y = zmi_read(&r[1], at, n, b->raw[1]);
    l->typed[dtype](x, y, dst, n);
    return;
  }
  const float *x = floats(c, &r[0], 0, at, n, b), *y = floats(c, &r[1], 1, at, n, b);
  if (l->compares || to == ZM_F32) {
    l->two(x, y, dst, n);
    return;
  }
  l->two(x, y, b->value[2], n);
  c->kernels->store(b->value[2], n, dst, to);
}

static void chunk_of_one(const zmi_call *c, const loops *l, const zmi_reader *r, int64_t at, int64_t n, buffers *b) {
  zm_dtype dtype = c->out[0]->type.dtype;
  char *dst = (char *)c->dst[0] + (size_t)at * zm_dtype_size(dtype);
  const void *src = zmi_read(r, at, n, b->raw[0]);
  if (!zmi_dtype_is_float(dtype)) {
    l->typed[dtype](src, src, dst, n);
  } else if (dtype == ZM_F32) {
    memcpy(dst, src, (size_t)n * sizeof(float));
    l->one(c->kernels, (float *)(void *)dst, n);
  } else {
    c->kernels->load(src, dtype, n, b->value[0]);
    l->one(c->kernels, b->value[0], n);
    c->kernels->store(b->value[0], n, dst, dtype);
  }
}

static void run(const zmi_call *c, const loops *l, int64_t begin, int64_t end) {
  buffers b;
  zmi_reader r[2] = {zmi_reader_of(c, 0)};
  if (l->two) r[1] = zmi_reader_of(c, 1);
  int64_t last = ZMI_MIN(end * ZMI_TILE, zmi_type_count(&c->out[0]->type));
  for (int64_t at = begin * ZMI_TILE; at < last; at += ZMI_CHUNK) {
    int64_t n = ZMI_MIN(last - at, ZMI_CHUNK);
    if (l->two)
      chunk_of_two(c, l, r, at, n, &b);
    else
      chunk_of_one(c, l, r, at, n, &b);
  }
}

// ---- shape rules ----

static zm_status same_types(int nin, const zmi_type *in) {
  char a[128], b[128];
  zm_status status = zmi_check_operands(nin, in, 2);
  if (status != ZM_OK || zmi_type_equal(&in[0], &in[1])) return status;
  return zmi_fail(ZM_ERROR_ARGUMENT, "operands must have one type, found %s and %s", zmi_type_text(&in[0], a), zmi_type_text(&in[1], b));
}

static zm_status infer_two(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = same_types(nin, in);
  return status == ZM_OK ? zmi_give(nout, out, in[0].dtype, in[0].rank, in[0].shape) : status;
}

static zm_status infer_compare(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = same_types(nin, in);
  return status == ZM_OK ? zmi_give(nout, out, ZM_BOOL, in[0].rank, in[0].shape) : status;
}

static zm_status want_float(zm_dtype dtype) {
  if (zmi_dtype_is_float(dtype)) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "expected a float dtype, found %s", zm_dtype_name(dtype));
}

static zm_status infer_two_floats(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  zm_status status = infer_two(attrs, nin, in, nout, out);
  return status == ZM_OK ? want_float(in[0].dtype) : status;
}

static zm_status infer_number(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status == ZM_OK && in[0].dtype == ZM_BOOL) status = zmi_fail(ZM_ERROR_ARGUMENT, "a bool has no sign: convert it to an integer first");
  return status == ZM_OK ? zmi_give(nout, out, in[0].dtype, in[0].rank, in[0].shape) : status;
}

static zm_status infer_float(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status == ZM_OK) status = want_float(in[0].dtype);
  return status == ZM_OK ? zmi_give(nout, out, in[0].dtype, in[0].rank, in[0].shape) : status;
}

// ---- the table: one row an op ----

#define ROW(word, operand_names, rule, text, ...)                                                                                          \
  extern const zmi_rules zmi_rules_##word; /* elementwise_rules.c */                                                                       \
  static const loops word##_loops = {__VA_ARGS__};                                                                                         \
  static void word##_run(const zmi_call *c, int64_t begin, int64_t end) {                                                                  \
    run(c, &word##_loops, begin, end);                                                                                                     \
  }                                                                                                                                        \
  const zmi_op zmi_op_##word = {.name = #word,                                                                                             \
                                .operands = operand_names,                                                                                 \
                                .rounding = text,                                                                                          \
                                .flags = ZMI_OP_STRIDED,                                                                                   \
                                .infer = rule,                                                                                             \
                                .stages = {{zmi_element_tiles, word##_run}},                                                               \
                                .rules = &zmi_rules_##word};

#define ONCE "floats in float32, rounded once to the dtype; integers wrap around"
#define EXACT "exact"
#define FUNCTION "computed in float32 by the library's own function, rounded once to the dtype"
// clang-format off
ROW(add, "a b", infer_two, ONCE "; bool: or", .two = add_float, .typed = {INTEGER_TABLE(add), [ZM_BOOL] = add_truth})
ROW(subtract, "a b", infer_two, ONCE "; bool: exclusive or",
    .two = subtract_float, .typed = {INTEGER_TABLE(subtract), [ZM_BOOL] = subtract_truth})
ROW(multiply, "a b", infer_two, ONCE "; bool: and", .two = multiply_float, .typed = {INTEGER_TABLE(multiply), [ZM_BOOL] = multiply_truth})
ROW(divide, "a b", infer_two_floats, "quotient in float32, rounded once to the dtype", .two = divide_float)
ROW(maximum, "a b", infer_two, "exact; NaN if one is NaN; a denormal counts as zero; of two zeros the second", .two = maximum_float,
    .typed = {INTEGER_TABLE(maximum), [ZM_BOOL] = add_truth})
ROW(minimum, "a b", infer_two, "exact; NaN if one is NaN; a denormal counts as zero; of two zeros the second", .two = minimum_float,
    .typed = {INTEGER_TABLE(minimum), [ZM_BOOL] = multiply_truth})
ROW(equal, "a b", infer_compare, EXACT, .compares = true, .two = equal_float, .typed = {INTEGER_TABLE(equal), [ZM_BOOL] = equal_uint8_t})
ROW(not_equal, "a b", infer_compare, EXACT, .compares = true, .two = not_equal_float,
    .typed = {INTEGER_TABLE(not_equal), [ZM_BOOL] = not_equal_uint8_t})
ROW(less, "a b", infer_compare, EXACT, .compares = true, .two = less_float, .typed = {INTEGER_TABLE(less), [ZM_BOOL] = less_uint8_t})
ROW(less_equal, "a b", infer_compare, EXACT, .compares = true, .two = less_equal_float,
    .typed = {INTEGER_TABLE(less_equal), [ZM_BOOL] = less_equal_uint8_t})
ROW(greater, "a b", infer_compare, EXACT, .compares = true, .two = greater_float,
    .typed = {INTEGER_TABLE(greater), [ZM_BOOL] = greater_uint8_t})
ROW(greater_equal, "a b", infer_compare, EXACT, .compares = true, .two = greater_equal_float,
    .typed = {INTEGER_TABLE(greater_equal), [ZM_BOOL] = greater_equal_uint8_t})
ROW(negative, "x", infer_number, "exact; integers wrap around", .one = negative_one, .typed = {INTEGER_TABLE(negative)})
ROW(abs, "x", infer_number, "exact; integers wrap around", .one = abs_one, .typed = {INTEGER_TABLE(abs)})
ROW(sqrt, "x", infer_float, "root in float32, rounded once to the dtype", .one = sqrt_one)
ROW(rsqrt, "x", infer_float, "root in float32, its reciprocal in float32, rounded once to the dtype", .one = rsqrt_one)
ROW(exp, "x", infer_float, FUNCTION, .one = exp_one)
ROW(log, "x", infer_float, FUNCTION, .one = log_one)
ROW(sigmoid, "x", infer_float, FUNCTION, .one = sigmoid_one)
ROW(silu, "x", infer_float, "x * sigmoid(x) in float32, rounded once to the dtype", .one = silu_one)
ROW(tanh, "x", infer_float, FUNCTION, .one = tanh_one)
// clang-format on

// ---- builders ----

static zm_array *two(const zmi_op *op, zm_array *a, zm_array *b, bool to_float) {
  zm_array *in[2] = {a, b};
  int rank;
  int64_t shape[ZM_MAX_RANK];
  if (!zmi_present(op->name, 2, in) || !zmi_broadcast_shape(op->name, &a->type, &b->type, &rank, shape)) return NULL;
  zm_dtype dtype = zm_dtype_promote(a->type.dtype, b->type.dtype);
  if (to_float) dtype = zmi_at_least_float(dtype);
  for (int i = 0; i < 2; i++) in[i] = zm_broadcast_to(zm_astype(in[i], dtype), shape, rank);
  return zmi_apply1(op, NULL, 0, 2, in);
}

static zm_array *one(const zmi_op *op, zm_array *a, bool to_float) {
  if (!zmi_present(op->name, 1, &a)) return NULL;
  if (to_float) a = zm_astype(a, zmi_at_least_float(a->type.dtype));
  return zmi_apply1(op, NULL, 0, 1, &a);
}

#define BUILD_TWO(name, to_float)                                                                                                          \
  zm_array *zm_##name(zm_array *a, zm_array *b) {                                                                                          \
    return two(&zmi_op_##name, a, b, to_float);                                                                                            \
  }
#define BUILD_FUNCTION(name)                                                                                                               \
  zm_array *zm_##name(zm_array *a) {                                                                                                       \
    return one(&zmi_op_##name, a, true);                                                                                                   \
  }
BUILD_TWO(add, false)
BUILD_TWO(subtract, false)
BUILD_TWO(multiply, false)
BUILD_TWO(divide, true)
BUILD_TWO(maximum, false)
BUILD_TWO(minimum, false)
BUILD_TWO(equal, false)
BUILD_TWO(not_equal, false)
BUILD_TWO(less, false)
BUILD_TWO(less_equal, false)
BUILD_TWO(greater, false)
BUILD_TWO(greater_equal, false)
BUILD_FUNCTION(exp)
BUILD_FUNCTION(log)
BUILD_FUNCTION(sqrt)
BUILD_FUNCTION(rsqrt)
BUILD_FUNCTION(sigmoid)
BUILD_FUNCTION(silu)
BUILD_FUNCTION(tanh)

zm_array *zm_negative(zm_array *a) {
  return one(&zmi_op_negative, a, false);
}

zm_array *zm_abs(zm_array *a) {
  // These have no sign.
  static const bool positive[ZM_DTYPE_COUNT] = {[ZM_BOOL] = true, [ZM_U8] = true, [ZM_U16] = true, [ZM_U32] = true, [ZM_U64] = true};
  return a && positive[a->type.dtype] ? a : one(&zmi_op_abs, a, false);
}
