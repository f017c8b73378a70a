// What ops with indices share (index.h).
#include "array/ops/index.h"

#include <string.h>

const char *const zmi_scatter_words[] = {"set", "add", "prod", "max", "min", NULL};

// ---- reading indices ----

#define SIGNED_INDICES(T)                                                                                                                  \
  static void indices_##T(const void *src, int64_t begin, int64_t n, int64_t size, int64_t *out) {                                         \
    const T *x = (const T *)src + begin;                                                                                                   \
    for (int64_t i = 0; i < n; i++) {                                                                                                      \
      const int64_t v = x[i], at = v < 0 ? v + size : v;                                                                                   \
      out[i] = (uint64_t)at < (uint64_t)size ? at : -1;                                                                                    \
    }                                                                                                                                      \
  }
#define UNSIGNED_INDICES(T)                                                                                                                \
  static void indices_##T(const void *src, int64_t begin, int64_t n, int64_t size, int64_t *out) {                                         \
    const T *x = (const T *)src + begin;                                                                                                   \
    for (int64_t i = 0; i < n; i++) out[i] = (uint64_t)x[i] < (uint64_t)size ? (int64_t)x[i] : -1;                                         \
  }
SIGNED_INDICES(int8_t)
SIGNED_INDICES(int16_t)
SIGNED_INDICES(int32_t)
SIGNED_INDICES(int64_t)
UNSIGNED_INDICES(uint8_t)
UNSIGNED_INDICES(uint16_t)
UNSIGNED_INDICES(uint32_t)
UNSIGNED_INDICES(uint64_t)

static void (*const readers[ZM_DTYPE_COUNT])(const void *src, int64_t begin, int64_t n, int64_t size, int64_t *out) = {
    [ZM_U8] = indices_uint8_t, [ZM_U16] = indices_uint16_t, [ZM_U32] = indices_uint32_t, [ZM_U64] = indices_uint64_t,
    [ZM_I8] = indices_int8_t,  [ZM_I16] = indices_int16_t,  [ZM_I32] = indices_int32_t,  [ZM_I64] = indices_int64_t,
};

bool zmi_dtype_is_index(zm_dtype dtype) {
  return readers[dtype] != NULL;
}

void zmi_read_indices(const void *src, zm_dtype dtype, int64_t begin, int64_t n, int64_t size, int64_t *out) {
  readers[dtype](src, begin, n, size, out);
}

zm_status zmi_check_indices(const char *operand, const zmi_type *t) {
  char text[128];
  if (zmi_dtype_is_index(t->dtype)) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s must be integers, found %s", operand, zmi_type_text(t, text));
}

// ---- writing with strides ----

#define SPREAD(bits)                                                                                                                       \
  typedef uint##bits##_t __attribute__((may_alias)) word##bits;                                                                            \
  static void spread##bits(const void *src, int64_t n, void *dst, int64_t step) {                                                          \
    const word##bits *x = src;                                                                                                             \
    word##bits *y = dst;                                                                                                                   \
    for (int64_t i = 0; i < n; i++) y[i * step] = x[i];                                                                                    \
  }
SPREAD(8)
SPREAD(16)
SPREAD(32)
SPREAD(64)

static void (*const spread[])(const void *src, int64_t n, void *dst,
                              int64_t step) = {[1] = spread8, [2] = spread16, [4] = spread32, [8] = spread64};

void zmi_put_walk(const zmi_walk *w, void *dst, size_t size, int64_t begin, int64_t n, const void *src) {
  const int64_t width = (int64_t)size;
  const int last = w->rank - 1;
  if (n <= 0) return;
  if (last < 0) {
    memcpy(dst, src, size);
    return;
  }
  int64_t at[ZM_MAX_RANK], offset = 0, rest = begin;
  for (int i = last; i >= 0; i--) {
    at[i] = rest % w->size[i];
    rest /= w->size[i];
    offset += at[i] * w->stride[i];
  }
  const char *from = src;
  while (n > 0) {
    const int64_t run = ZMI_MIN(w->size[last] - at[last], n);
    char *to = (char *)dst + offset * width;
    if (w->stride[last] == 1)
      memcpy(to, from, (size_t)(run * width));
    else
      spread[size](from, run, to, w->stride[last]);
    from += run * width;
    n -= run;
    offset -= at[last] * w->stride[last];
    at[last] = 0;
    for (int i = last - 1; i >= 0; i--) {
      offset += w->stride[i];
      if (++at[i] < w->size[i]) break;
      offset -= w->size[i] * w->stride[i];
      at[i] = 0;
    }
  }
}

void zmi_copy_first_run(const zmi_call *c, int64_t begin, int64_t end) {
  const size_t size = zm_dtype_size(c->out[0]->type.dtype);
  const zmi_walk w = zmi_walk_of(c->in[0]);
  const int64_t first = begin * ZMI_TILE, last = ZMI_MIN(end * ZMI_TILE, zmi_type_count(&c->out[0]->type));
  zmi_gather(&w, c->src[0], size, first, last - first, (char *)c->dst[0] + (size_t)first * size);
}

// ---- joining ----

static inline float larger(float a, float b) {
  return ((b > a) | (b != b)) ? b : a;
}

static inline float smaller(float a, float b) {
  return ((b < a) | (b != b)) ? b : a;
}

#define JOIN(T, name, value)                                                                                                               \
  static void name##_##T(void *dst, const void *src, int64_t n) {                                                                          \
    T *x = dst;                                                                                                                            \
    const T *y = src;                                                                                                                      \
    for (int64_t i = 0; i < n; i++) x[i] = (T)(value);                                                                                     \
  }
#define INTEGER_JOINS(T)                                                                                                                   \
  JOIN(T, add, (uint64_t)x[i] + (uint64_t)y[i])                                                                                            \
  JOIN(T, prod, (uint64_t)x[i] * (uint64_t)y[i])                                                                                           \
  JOIN(T, max, y[i] > x[i] ? y[i] : x[i])                                                                                                  \
  JOIN(T, min, y[i] < x[i] ? y[i] : x[i])
INTEGER_JOINS(uint8_t)
INTEGER_JOINS(uint16_t)
INTEGER_JOINS(uint32_t)
INTEGER_JOINS(uint64_t)
INTEGER_JOINS(int8_t)
INTEGER_JOINS(int16_t)
INTEGER_JOINS(int32_t)
INTEGER_JOINS(int64_t)
JOIN(float, add, x[i] + y[i])
JOIN(float, prod, x[i] * y[i])
JOIN(float, max, larger(x[i], y[i]))
JOIN(float, min, smaller(x[i], y[i]))

#define JOINS(T)                                                                                                                           \
  { NULL, add_##T, prod_##T, max_##T, min_##T }
static void (*const joins[ZM_DTYPE_COUNT][5])(void *dst, const void *src, int64_t n) = {
    [ZM_BOOL] = {NULL, max_uint8_t, min_uint8_t, max_uint8_t, min_uint8_t}, // or, and
    [ZM_U8] = JOINS(uint8_t),
    [ZM_U16] = JOINS(uint16_t),
    [ZM_U32] = JOINS(uint32_t),
    [ZM_U64] = JOINS(uint64_t),
    [ZM_I8] = JOINS(int8_t),
    [ZM_I16] = JOINS(int16_t),
    [ZM_I32] = JOINS(int32_t),
    [ZM_I64] = JOINS(int64_t),
    [ZM_F32] = JOINS(float),
};

void zmi_join_elements(zm_scatter_mode mode, zm_dtype dtype, void *dst, const void *src, int64_t n) {
  if (mode == ZM_SCATTER_SET)
    memcpy(dst, src, (size_t)n * zm_dtype_size(dtype));
  else
    joins[dtype][mode](dst, src, n);
}

// ---- builders ----

zm_array *zmi_zeros_like(const zmi_type *type) {
  return zm_full(0, type->dtype, type->shape, type->rank);
}

static int front_order(int rank, const int *axes, int count, int *order) {
  unsigned taken = 0;
  int n = 0;
  for (int i = 0; i < count; i++) {
    order[n++] = axes[i];
    taken |= 1u << axes[i];
  }
  for (int i = 0; i < rank; i++) {
    if (!(taken & 1u << i)) order[n++] = i;
  }
  return n;
}

zm_array *zmi_axes_to_front(zm_array *a, const int *axes, int count) {
  int order[ZM_MAX_RANK];
  if (!a) return NULL;
  front_order(a->type.rank, axes, count, order);
  for (int i = 0; i < a->type.rank; i++) {
    if (order[i] != i) return zm_transpose(a, order);
  }
  return a;
}

zm_array *zmi_axes_from_front(zm_array *a, const int *axes, int count) {
  int order[ZM_MAX_RANK], back[ZM_MAX_RANK];
  bool moves = false;
  if (!a) return NULL;
  front_order(a->type.rank, axes, count, order);
  for (int i = 0; i < a->type.rank; i++) {
    back[order[i]] = i;
    moves = moves || order[i] != i;
  }
  return moves ? zm_transpose(a, back) : a;
}

// ---- single elements ----

#define PUT(T, name, value)                                                                                                                \
  static void name##_##T(void *dst, const int64_t *row, int64_t n, const void *src) {                                                      \
    T *x = dst;                                                                                                                            \
    const T *y = src;                                                                                                                      \
    for (int64_t i = 0; i < n; i++) {                                                                                                      \
      if (row[i] >= 0) x[row[i]] = (T)(value);                                                                                             \
    }                                                                                                                                      \
  }
typedef uint8_t __attribute__((may_alias)) word8;
typedef uint16_t __attribute__((may_alias)) word16;
typedef uint32_t __attribute__((may_alias)) word32;
typedef uint64_t __attribute__((may_alias)) word64;
PUT(word8, put, y[i])
PUT(word16, put, y[i])
PUT(word32, put, y[i])
PUT(word64, put, y[i])
PUT(float, put_sum, x[row[i]] + y[i])
PUT(word32, put_sum, x[row[i]] + y[i])

bool zmi_put_elements(zm_scatter_mode mode, zm_dtype dtype, void *dst, const int64_t *row, int64_t n, const void *src) {
  static void (*const puts[])(void *dst, const int64_t *row, int64_t n,
                              const void *src) = {[1] = put_word8, [2] = put_word16, [4] = put_word32, [8] = put_word64};
  if (mode == ZM_SCATTER_SET)
    puts[zm_dtype_size(dtype)](dst, row, n, src);
  else if (mode == ZM_SCATTER_ADD && dtype == ZM_F32)
    put_sum_float(dst, row, n, src);
  else if (mode == ZM_SCATTER_ADD && (dtype == ZM_I32 || dtype == ZM_U32))
    put_sum_word32(dst, row, n, src);
  else
    return false;
  return true;
}
