// Elementwise arithmetic, comparisons, functions and logic: the ops that are rows of elementwise_table.h. Each row was compiled for each
// CPU tier when the library was built. float16 and bfloat16 go through float32 in pieces that stay in the first-level cache. Builders give
// all operands one dtype and one shape; broadcast operands have strides of zero.
#include "array/ops/elementwise_table.h"
#include "array/ops/elementwise.h"

#include <limits.h>
#include <string.h>
#include <zmlx/elementwise.h>

// ---- what was compiled ----

typedef void (*compiled_fn)(int64_t n, const void *const *in, const int *step, const double *params, void *const *out, int stream);

// One table a tier: elementwise_generate.c writes it.
extern const compiled_fn zmi_elementwise_scalar[][ZM_DTYPE_COUNT];
#if defined(__x86_64__)
extern const compiled_fn zmi_elementwise_avx2[][ZM_DTYPE_COUNT], zmi_elementwise_avx512[][ZM_DTYPE_COUNT];
#endif

static const struct {
  const char *tier;
  const compiled_fn (*table)[ZM_DTYPE_COUNT];
} tiers[] = {
#if defined(__x86_64__)
    {"avx512vnni", zmi_elementwise_avx512},
    {"avx512", zmi_elementwise_avx512},
    {"avx2vnni", zmi_elementwise_avx2},
    {"avx2", zmi_elementwise_avx2},
#endif
    {"scalar", zmi_elementwise_scalar}, // and those of ARM: its baseline has vectors
};

static const compiled_fn (*table_of(const zmi_kernels *k))[ZM_DTYPE_COUNT] {
  size_t i = 0;
  while (i + 1 < ZMI_COUNT(tiers) && strcmp(tiers[i].tier, k->name) != 0) i++;
  return tiers[i].table;
}

// ---- rows ----

#define SAME false
#define TRUTH true
#define X(word, operands, result, floats, integers, bools, rounding) {#word, operands, result, floats, integers, bools},
static const zmi_elementwise rows[] = {ZMI_ELEMENTWISE_LIST(X)};
#undef X
#define X(word, operands, result, floats, integers, bools, rounding) word##_row,
enum { ZMI_ELEMENTWISE_LIST(X) row_count };
#undef X

const char *zmi_elementwise_source(const zmi_elementwise *r, zm_dtype dtype) {
  if (zmi_dtype_is_float(dtype)) return r->floats;
  return dtype == ZM_BOOL ? r->bools : r->integers;
}

size_t zmi_elementwise_index(const zmi_elementwise *r) {
  return (size_t)(r - rows);
}

static int operands_of(const zmi_elementwise *r) {
  int n = 1;
  for (const char *p = r->operands; *p; p++) n += *p == ' ';
  return n;
}

// ---- running ----

typedef struct work {
  compiled_fn run;
  bool narrow; // operands are float16 or bfloat16
  int stream;  // results go past the caches
} work;

enum { PIECE = 1024, OPERANDS = 4 };

static void run_narrow(const work *w, const zmi_call *c, int64_t n, const void *const *in, const int *step, void *const *out) {
  _Alignas(64) float value[OPERANDS + 1][PIECE];
  const zm_dtype dtype = c->in[0]->type.dtype, to = c->out[0]->type.dtype;
  const size_t size = zm_dtype_size(to);
  const void *operand[OPERANDS];
  for (int64_t at = 0; at < n; at += PIECE) {
    const int64_t count = ZMI_MIN(n - at, PIECE);
    void *result[1] = {to == dtype ? (void *)value[OPERANDS] : (char *)out[0] + (size_t)at * size};
    for (int k = 0; k < c->nin; k++) {
      if (step[k] || at == 0) c->kernels->load((const char *)in[k] + at * step[k] * 2, dtype, step[k] ? count : 1, value[k]);
      operand[k] = value[k];
    }
    w->run(count, operand, step, NULL, result, 0);
    if (to == dtype) c->kernels->store(value[OPERANDS], count, (char *)out[0] + (size_t)at * size, to);
  }
}

static void run_piece(const void *user, const zmi_call *c, int64_t n, const void *const *in, const int *step, void *const *out) {
  const work *w = user;
  if (w->narrow)
    run_narrow(w, c, n, in, step, out);
  else
    w->run(n, in, step, NULL, out, w->stream);
}

static void run(const zmi_call *c, int row, int64_t begin, int64_t end) {
  const zm_dtype dtype = c->in[0]->type.dtype;
  const bool narrow = dtype == ZM_F16 || dtype == ZM_BF16;
  const work w = {table_of(c->kernels)[row][narrow ? ZM_F32 : dtype], narrow, zmi_streams(c)};
  zmi_run_elements(c, begin * ZMI_TILE, ZMI_MIN(end * ZMI_TILE, zmi_type_count(&c->out[0]->type)), run_piece, &w);
  if (w.stream && !w.narrow) zmi_copied_past(); // once: runs may be short
}

// ---- shape rule ----

static zm_status wrong_dtype(const zmi_elementwise *r, zm_dtype dtype) {
  if (dtype == ZM_BOOL && r->floats[0] && r->integers[0])
    return zmi_fail(ZM_ERROR_ARGUMENT, "a bool has no sign: convert it to an integer first");
  const char *wanted = r->floats[0] ? "a float dtype" : r->integers[0] && r->bools[0] ? "an integer dtype or bool" : "an integer dtype";
  if (!r->floats[0] && !r->integers[0]) wanted = "bool";
  return zmi_fail(ZM_ERROR_ARGUMENT, "expected %s, found %s", wanted, zm_dtype_name(dtype));
}

static zm_status infer(const zmi_elementwise *r, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  char a[128], b[128];
  const int n = operands_of(r);
  zm_status status = zmi_check_operands(nin, in, n);
  for (int i = 1; i < n && status == ZM_OK; i++) {
    if (!zmi_type_equal(&in[0], &in[i]))
      status =
          zmi_fail(ZM_ERROR_ARGUMENT, "operands must have one type, found %s and %s", zmi_type_text(&in[0], a), zmi_type_text(&in[i], b));
  }
  if (status == ZM_OK && !zmi_elementwise_source(r, in[0].dtype)[0]) status = wrong_dtype(r, in[0].dtype);
  return status == ZM_OK ? zmi_give(nout, out, r->truth ? ZM_BOOL : in[0].dtype, in[0].rank, in[0].shape) : status;
}

// ---- the rows of the op table ----

#define X(word, names, result, floats, integers, bools, text)                                                                              \
  extern const zmi_rules zmi_rules_##word; /* elementwise_rules.c */                                                                       \
  static void word##_run(const zmi_call *c, int64_t begin, int64_t end) {                                                                  \
    run(c, word##_row, begin, end);                                                                                                        \
  }                                                                                                                                        \
  static zm_status word##_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {                                \
    (void)attrs;                                                                                                                           \
    return infer(&rows[word##_row], nin, in, nout, out);                                                                                   \
  }                                                                                                                                        \
  const zmi_op zmi_op_##word = {.name = #word,                                                                                             \
                                .operands = names,                                                                                         \
                                .rounding = text,                                                                                          \
                                .flags = ZMI_OP_STRIDED,                                                                                   \
                                .infer = word##_infer,                                                                                     \
                                .device = zmi_element_device,                                                                              \
                                .kernel = zmi_elementwise_kernel,                                                                          \
                                .stages = {{zmi_element_tiles, word##_run}},                                                               \
                                .rules = &zmi_rules_##word};
ZMI_ELEMENTWISE_LIST(X)
#undef X

const zmi_elementwise *zmi_elementwise_row(const zmi_op *op) {
  static const zmi_op *const ops[] = {
#define X(word, operands, result, floats, integers, bools, rounding) &zmi_op_##word,
      ZMI_ELEMENTWISE_LIST(X)
#undef X
  };
  for (size_t i = 0; i < ZMI_COUNT(ops); i++) {
    if (ops[i] == op) return &rows[i];
  }
  return NULL;
}

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
BUILD_TWO(power, false)
BUILD_TWO(remainder, false)
BUILD_TWO(floor_divide, false)
BUILD_TWO(arctan2, true)
BUILD_TWO(logaddexp, true)
BUILD_TWO(bitwise_and, false)
BUILD_TWO(bitwise_or, false)
BUILD_TWO(bitwise_xor, false)
BUILD_FUNCTION(exp)
BUILD_FUNCTION(log)
BUILD_FUNCTION(sqrt)
BUILD_FUNCTION(rsqrt)
BUILD_FUNCTION(sigmoid)
BUILD_FUNCTION(silu)
BUILD_FUNCTION(tanh)
BUILD_FUNCTION(reciprocal)
BUILD_FUNCTION(degrees)
BUILD_FUNCTION(radians)
BUILD_FUNCTION(exp2)
BUILD_FUNCTION(expm1)
BUILD_FUNCTION(log2)
BUILD_FUNCTION(log10)
BUILD_FUNCTION(log1p)
BUILD_FUNCTION(sin)
BUILD_FUNCTION(cos)
BUILD_FUNCTION(tan)
BUILD_FUNCTION(arcsin)
BUILD_FUNCTION(arccos)
BUILD_FUNCTION(arctan)
BUILD_FUNCTION(sinh)
BUILD_FUNCTION(cosh)
BUILD_FUNCTION(arcsinh)
BUILD_FUNCTION(arccosh)
BUILD_FUNCTION(arctanh)
BUILD_FUNCTION(erf)
BUILD_FUNCTION(erfinv)
BUILD_FUNCTION(softplus)

zm_array *zm_negative(zm_array *a) {
  return one(&zmi_op_negative, a, false);
}

zm_array *zm_abs(zm_array *a) {
  // These have no sign.
  static const bool positive[ZM_DTYPE_COUNT] = {[ZM_BOOL] = true, [ZM_U8] = true, [ZM_U16] = true, [ZM_U32] = true, [ZM_U64] = true};
  return a && positive[a->type.dtype] ? a : one(&zmi_op_abs, a, false);
}

zm_array *zm_square(zm_array *a) {
  return one(&zmi_op_square, a, false);
}

zm_array *zm_sign(zm_array *a) {
  return one(&zmi_op_sign, a, false);
}

zm_array *zm_bitwise_invert(zm_array *a) {
  return one(&zmi_op_bitwise_invert, a, false);
}

// Integers and bool are whole already.
#define BUILD_WHOLE(name)                                                                                                                  \
  zm_array *zm_##name(zm_array *a) {                                                                                                       \
    return a && !zmi_dtype_is_float(a->type.dtype) ? a : one(&zmi_op_##name, a, false);                                                    \
  }
BUILD_WHOLE(floor)
BUILD_WHOLE(ceil)
BUILD_WHOLE(trunc)

static double power_of_ten(int n) {
  double p = 1;
  for (int i = 0; i < n && i < 400; i++) p *= 10;
  return p;
}

// As MLX: scaled, rounded, scaled back, each rounded to the dtype.
zm_array *zm_round(zm_array *a, int decimals) {
  if (!zmi_present("round", 1, &a)) return NULL;
  const bool whole = !zmi_dtype_is_float(a->type.dtype);
  if (whole && decimals >= 0) return a;
  if (decimals == 0) return one(&zmi_op_round, a, false);
  zm_array *x = zm_astype(a, zmi_at_least_float(a->type.dtype));
  const double ten = power_of_ten(decimals < -INT_MAX ? INT_MAX : decimals < 0 ? -decimals : decimals);
  zm_array *scale = zmi_scalar_like(x, decimals < 0 ? 1 / ten : ten), *back = zmi_scalar_like(x, decimals < 0 ? ten : 1 / ten);
  return zm_astype(zm_multiply(one(&zmi_op_round, zm_multiply(x, scale), false), back), a->type.dtype);
}

// Whole numbers are finite: the answer is the same for all of them.
#define BUILD_QUESTION(name, of_whole)                                                                                                     \
  zm_array *zm_##name(zm_array *a) {                                                                                                       \
    return a && !zmi_dtype_is_float(a->type.dtype) ? of_whole(a, a) : one(&zmi_op_##name, a, false);                                       \
  }
BUILD_QUESTION(isnan, zm_not_equal)
BUILD_QUESTION(isinf, zm_not_equal)
BUILD_QUESTION(isfinite, zm_equal)
BUILD_QUESTION(isneginf, zm_not_equal)
BUILD_QUESTION(isposinf, zm_not_equal)

zm_array *zm_positive(zm_array *a) {
  return zmi_present("positive", 1, &a) ? zm_astype(a, a->type.dtype) : NULL;
}

static zm_array *truth(zm_array *a) {
  return zm_astype(a, ZM_BOOL);
}

zm_array *zm_logical_and(zm_array *a, zm_array *b) {
  return two(&zmi_op_logical_and, truth(a), truth(b), false);
}

zm_array *zm_logical_or(zm_array *a, zm_array *b) {
  return two(&zmi_op_logical_or, truth(a), truth(b), false);
}

zm_array *zm_logical_xor(zm_array *a, zm_array *b) {
  return zm_not_equal(truth(a), truth(b));
}

zm_array *zm_logical_not(zm_array *a) {
  return one(&zmi_op_logical_not, truth(a), false);
}

static zm_array *shift(const zmi_op *op, zm_array *a, zm_array *b) {
  zm_array *in[2] = {a, b};
  if (!zmi_present(op->name, 2, in)) return NULL;
  if (zm_dtype_promote(a->type.dtype, b->type.dtype) == ZM_BOOL) a = zm_astype(a, ZM_U8);
  return two(op, a, b, false);
}

zm_array *zm_left_shift(zm_array *a, zm_array *b) {
  return shift(&zmi_op_left_shift, a, b);
}

zm_array *zm_right_shift(zm_array *a, zm_array *b) {
  return shift(&zmi_op_right_shift, a, b);
}

zm_status zm_divmod(zm_array *a, zm_array *b, zm_array **quotient, zm_array **rest) {
  *quotient = zm_floor_divide(a, b);
  *rest = zm_remainder(a, b);
  return *quotient && *rest ? ZM_OK : zm_last_status();
}

zm_array *zm_clip(zm_array *a, zm_array *low, zm_array *high) {
  if (!zmi_present("clip", 1, &a)) return NULL;
  if (low) a = zm_maximum(a, low);
  return high ? zm_minimum(a, high) : a;
}

zm_array *zm_nan_to_num(zm_array *a, double nan, const double *posinf, const double *neginf) {
  if (!zmi_present("nan_to_num", 1, &a)) return NULL;
  if (!zmi_dtype_is_float(a->type.dtype)) return a;
  const double largest = a->type.dtype == ZM_F16 ? 65504 : a->type.dtype == ZM_BF16 ? 0x1.fep127 : 0x1.fffffep127;
  zm_array *in[4] = {a, zmi_scalar_like(a, nan), zmi_scalar_like(a, posinf ? *posinf : largest),
                     zmi_scalar_like(a, neginf ? *neginf : -largest)};
  for (int i = 1; i < 4; i++) in[i] = zm_broadcast_to(in[i], a->type.shape, a->type.rank);
  return zmi_apply1(&zmi_op_replace_nonfinite, NULL, 0, 4, in);
}

zm_array *zm_isclose(zm_array *a, zm_array *b, double rtol, double atol, bool equal_nan) {
  zm_array *in[2] = {a, b};
  if (!zmi_present("isclose", 2, in)) return NULL;
  const zm_dtype dtype = zmi_at_least_float(zm_dtype_promote(a->type.dtype, b->type.dtype));
  zm_array *x = zm_astype(a, dtype), *y = zm_astype(b, dtype);
  if (!zmi_present("isclose", 2, (zm_array *[]){x, y})) return NULL;
  zm_array *bound = zm_add(zm_multiply(zm_abs(y), zmi_scalar_like(y, rtol)), zmi_scalar_like(y, atol));
  zm_array *near = zm_less_equal(zm_abs(zm_subtract(x, y)), bound);
  // Infinities are close to themselves only.
  near = zm_logical_and(near, zm_logical_and(zm_isfinite(x), zm_isfinite(y)));
  near = zm_logical_or(near, zm_logical_and(zm_isinf(x), zm_equal(x, y)));
  return equal_nan ? zm_logical_or(near, zm_logical_and(zm_isnan(x), zm_isnan(y))) : near;
}

// Whether all of a bool array is true; of an empty one it is.
static zm_array *all_of(zm_array *a) {
  if (!a) return NULL;
  if (zmi_type_count(&a->type) == 0) return zm_full(1, ZM_BOOL, NULL, 0);
  return zm_min(zm_reshape(a, (int64_t[]){-1}, 1), 0, false);
}

zm_array *zm_allclose(zm_array *a, zm_array *b, double rtol, double atol, bool equal_nan) {
  return all_of(zm_isclose(a, b, rtol, atol, equal_nan));
}
