// Conversion between dtypes (astype) and choosing between two arrays (where).
//   float to float, integer to float   through float32, rounded at each step
//   float to integer                   toward zero, limited to the range, NaN gives 0: the same on every device (C leaves it undefined)
//   integer to integer                 wraps around
//   to bool                            not zero; NaN is true
#include "array/ops/elementwise.h"

#include <string.h>

typedef struct cast_attrs {
  int64_t dtype;
} cast_attrs;

static const zmi_field cast_fields[] = {{"dtype", ZMI_FIELD_WORD, offsetof(cast_attrs, dtype), zmi_dtype_words}, {0}};

// clang-format off
#define INTEGERS(X)                                                                        \
  X(ZM_U8, uint8_t, 0, 0x1p8f) X(ZM_U16, uint16_t, 0, 0x1p16f) X(ZM_U32, uint32_t, 0, 0x1p32f) X(ZM_U64, uint64_t, 0, 0x1p64f) \
  X(ZM_I8, int8_t, -0x1p7f, 0x1p7f) X(ZM_I16, int16_t, -0x1p15f, 0x1p15f)                  \
  X(ZM_I32, int32_t, -0x1p31f, 0x1p31f) X(ZM_I64, int64_t, -0x1p63f, 0x1p63f)
// clang-format on

// Sign- or zero-extension to 64 bits, and back by cutting.
#define LOOPS(dtype, T, low, above)                                                                                                        \
  static void widen_##T(const void *src, int64_t n, uint64_t *out) {                                                                       \
    const T *x = src;                                                                                                                      \
    for (int64_t i = 0; i < n; i++) out[i] = (uint64_t)x[i];                                                                               \
  }                                                                                                                                        \
  static void narrow_##T(const uint64_t *x, int64_t n, void *dst) {                                                                        \
    T *out = dst;                                                                                                                          \
    for (int64_t i = 0; i < n; i++) out[i] = (T)x[i];                                                                                      \
  }                                                                                                                                        \
  static void to_float_##T(const void *src, int64_t n, float *out) {                                                                       \
    const T *x = src;                                                                                                                      \
    for (int64_t i = 0; i < n; i++) out[i] = (float)x[i];                                                                                  \
  }                                                                                                                                        \
  static T limited_##T(float v) {                                                                                                          \
    const T lowest = low < 0 ? (T)(UINT64_C(1) << (8 * sizeof(T) - 1)) : 0;                                                                \
    if (v >= above) return (T) ~(uint64_t)lowest;                                                                                          \
    if (v <= low) return lowest;                                                                                                           \
    return v == v ? (T)v : 0;                                                                                                              \
  }                                                                                                                                        \
  static void from_float_##T(const float *x, int64_t n, void *dst) {                                                                       \
    T *out = dst;                                                                                                                          \
    for (int64_t i = 0; i < n; i++) out[i] = limited_##T(x[i]);                                                                            \
  }
INTEGERS(LOOPS)
#undef LOOPS

static void narrow_truth(const uint64_t *x, int64_t n, void *dst) {
  uint8_t *out = dst;
  for (int64_t i = 0; i < n; i++) out[i] = x[i] != 0;
}

static void truth_from_float(const float *x, int64_t n, void *dst) {
  uint8_t *out = dst;
  for (int64_t i = 0; i < n; i++) out[i] = x[i] != 0.0f;
}

static const struct {
  void (*widen)(const void *src, int64_t n, uint64_t *out);
  void (*narrow)(const uint64_t *x, int64_t n, void *dst);
  void (*to_float)(const void *src, int64_t n, float *out);
  void (*from_float)(const float *x, int64_t n, void *dst);
} casts[ZM_DTYPE_COUNT] = {[ZM_BOOL] = {widen_uint8_t, narrow_truth, to_float_uint8_t, truth_from_float},
#define ROW(dtype, T, low, above) [dtype] = {widen_##T, narrow_##T, to_float_##T, from_float_##T},
                           INTEGERS(ROW)
#undef ROW
};

static void cast_chunk(const zmi_kernels *k, const void *src, zm_dtype from, int64_t n, void *dst, zm_dtype to) {
  _Alignas(64) float value[ZMI_CHUNK];
  uint64_t bits[ZMI_CHUNK];
  if (from == to) {
    memcpy(dst, src, (size_t)n * zm_dtype_size(to));
  } else if (zmi_dtype_is_float(from)) {
    const float *x = src;
    if (from != ZM_F32) {
      k->load(src, from, n, value);
      x = value;
    }
    if (zmi_dtype_is_float(to))
      k->store(x, n, dst, to);
    else
      casts[to].from_float(x, n, dst);
  } else if (zmi_dtype_is_float(to)) {
    casts[from].to_float(src, n, to == ZM_F32 ? dst : value);
    if (to != ZM_F32) k->store(value, n, dst, to);
  } else {
    casts[from].widen(src, n, bits);
    casts[to].narrow(bits, n, dst);
  }
}

static void cast_run(const zmi_call *c, int64_t begin, int64_t end) {
  zm_dtype from = c->in[0]->type.dtype, to = c->out[0]->type.dtype;
  zmi_reader r = zmi_reader_of(c, 0);
  uint64_t raw[ZMI_CHUNK];
  int64_t last = ZMI_MIN(end * ZMI_TILE, zmi_type_count(&c->out[0]->type));
  for (int64_t at = begin * ZMI_TILE; at < last; at += ZMI_CHUNK) {
    int64_t n = ZMI_MIN(last - at, ZMI_CHUNK);
    cast_chunk(c->kernels, zmi_read(&r, at, n, raw), from, n, (char *)c->dst[0] + (size_t)at * zm_dtype_size(to), to);
  }
}

static zm_status cast_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const cast_attrs *a = attrs;
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (!zmi_dtype_is_known(a->dtype)) return zmi_fail(ZM_ERROR_ARGUMENT, "%lld is no dtype", (long long)a->dtype);
  return zmi_give(nout, out, (zm_dtype)a->dtype, in[0].rank, in[0].shape);
}

static zm_status cast_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (wanted[0]) gradient[0] = zm_astype(given[0], n->in[0]->type.dtype);
  return ZM_OK;
}

static zm_status cast_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  const zm_dtype to = (zm_dtype)((const cast_attrs *)(const void *)n->attrs.bytes)->dtype;
  if (zmi_dtype_is_float(to)) result[0] = zm_astype(tangent[0], to);
  return ZM_OK;
}

static const zmi_rules cast_rules = {
    .vjp = cast_vjp, .jvp = cast_jvp, .vmap = zmi_vmap_elementwise, .gradient = "x, if both dtypes are floats"};

const zmi_op zmi_op_astype = {.name = "astype",
                              .operands = "x",
                              .fields = cast_fields,
                              .rounding = "floats: rounded once to the dtype; integers: toward zero, limited to the range, NaN to 0",
                              .flags = ZMI_OP_STRIDED,
                              .infer = cast_infer,
                              .kernel = zmi_elementwise_kernel,
                              .stages = {{zmi_element_tiles, cast_run}},
                              .rules = &cast_rules};

zm_dtype zmi_astype_dtype(const zmi_node *n) {
  return (zm_dtype)((const cast_attrs *)(const void *)n->attrs.bytes)->dtype;
}

zm_array *zm_astype(zm_array *a, zm_dtype dtype) {
  if (!zmi_present("astype", 1, &a)) return NULL;
  if (a->type.dtype == dtype) return a;
  return zmi_apply1(&zmi_op_astype, &(cast_attrs){dtype}, sizeof(cast_attrs), 1, &a);
}

// ---- where ----

#define CHOOSE(bits)                                                                                                                       \
  typedef uint##bits##_t __attribute__((may_alias)) word##bits;                                                                            \
  static void choose##bits(const uint8_t *c, const void *a, const void *b, int64_t n, void *dst) {                                         \
    const word##bits *x = a, *y = b;                                                                                                       \
    word##bits *out = dst;                                                                                                                 \
    for (int64_t i = 0; i < n; i++) out[i] = c[i] ? x[i] : y[i];                                                                           \
  }
CHOOSE(8)
CHOOSE(16)
CHOOSE(32)
CHOOSE(64)

static void (*const choose[])(const uint8_t *c, const void *a, const void *b, int64_t n,
                              void *dst) = {[1] = choose8, [2] = choose16, [4] = choose32, [8] = choose64};

static void where_run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_reader condition = zmi_reader_of(c, 0), a = zmi_reader_of(c, 1), b = zmi_reader_of(c, 2);
  uint64_t raw[3][ZMI_CHUNK];
  int64_t last = ZMI_MIN(end * ZMI_TILE, zmi_type_count(&c->out[0]->type));
  for (int64_t at = begin * ZMI_TILE; at < last; at += ZMI_CHUNK) {
    int64_t n = ZMI_MIN(last - at, ZMI_CHUNK);
    choose[a.size](zmi_read(&condition, at, n, raw[0]), zmi_read(&a, at, n, raw[1]), zmi_read(&b, at, n, raw[2]), n,
                   (char *)c->dst[0] + (size_t)at * a.size);
  }
}

static zm_status where_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  char t[3][128];
  zm_status status = zmi_check_operands(nin, in, 3);
  if (status != ZM_OK) return status;
  zmi_type condition = zmi_type_of(ZM_BOOL, in[1].rank, in[1].shape);
  if (!zmi_type_equal(&in[0], &condition) || !zmi_type_equal(&in[1], &in[2])) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected a bool condition and two operands of one type and its shape, found %s, %s and %s",
                    zmi_type_text(&in[0], t[0]), zmi_type_text(&in[1], t[1]), zmi_type_text(&in[2], t[2]));
  }
  return zmi_give(nout, out, in[1].dtype, in[1].rank, in[1].shape);
}

static zm_status where_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  zm_array *zero = zmi_scalar_like(given[0], 0);
  if (wanted[1]) gradient[1] = zm_where(n->in[0], given[0], zero);
  if (wanted[2]) gradient[2] = zm_where(n->in[0], zero, given[0]);
  return ZM_OK;
}

static zm_status where_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  zm_array *zero = zmi_scalar_like(n->in[1], 0);
  if (!tangent[1] && !tangent[2]) return ZM_OK; // the condition's own is nothing
  result[0] = zm_where(n->in[0], tangent[1] ? tangent[1] : zero, tangent[2] ? tangent[2] : zero);
  return ZM_OK;
}

static const zmi_rules where_rules = {.vjp = where_vjp, .jvp = where_jvp, .vmap = zmi_vmap_elementwise, .gradient = "a, b"};

const zmi_op zmi_op_where = {.name = "where",
                             .operands = "condition a b",
                             .rounding = "exact",
                             .flags = ZMI_OP_STRIDED,
                             .infer = where_infer,
                             .kernel = zmi_elementwise_kernel,
                             .stages = {{zmi_element_tiles, where_run}},
                             .rules = &where_rules};

zm_array *zm_where(zm_array *condition, zm_array *a, zm_array *b) {
  zm_array *in[3] = {condition, a, b};
  zmi_type type = {0};
  if (!zmi_present("where", 3, in)) return NULL;
  if (!zmi_broadcast_shape("where", &a->type, &b->type, &type.rank, type.shape)) return NULL;
  type.dtype = zm_dtype_promote(a->type.dtype, b->type.dtype);
  int rank;
  int64_t shape[ZM_MAX_RANK];
  if (!zmi_broadcast_shape("where", &condition->type, &type, &rank, shape)) return NULL;
  for (int i = 0; i < 3; i++) in[i] = zm_broadcast_to(zm_astype(in[i], i == 0 ? ZM_BOOL : type.dtype), shape, rank);
  return zmi_apply1(&zmi_op_where, NULL, 0, 3, in);
}
