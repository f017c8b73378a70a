// What the generic ops share: checks of operands, broadcasting, and reading strided operands in row-major order.
#include "array/ops/ops.h"

#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

// ---- dtypes ----

const char *const zmi_dtype_words[] = {
    "none",
#define X(dtype, text, bytes) text,
    ZM_DTYPE_LIST(X)
#undef X
        NULL,
};

bool zmi_dtype_is_float(zm_dtype dtype) {
  return dtype == ZM_F16 || dtype == ZM_BF16 || dtype == ZM_F32;
}

bool zmi_dtype_is_known(int64_t dtype) {
  return dtype > ZM_DTYPE_DEFAULT && dtype < ZM_DTYPE_COUNT;
}

zm_dtype zmi_at_least_float(zm_dtype dtype) {
  return zmi_dtype_is_float(dtype) ? dtype : ZM_F32;
}

// ---- shape rules ----

zm_status zmi_check_operands(int nin, const zmi_type *in, int n) {
  if (nin != n) return zmi_fail(ZM_ERROR_ARGUMENT, "takes %d operands, got %d", n, nin);
  for (int i = 0; i < n; i++) {
    if (in[i].rank < 0) return zmi_fail(ZM_ERROR_ARGUMENT, "operand %d is absent", i + 1);
  }
  return ZM_OK;
}

zm_status zmi_give(int *nout, zmi_type *out, zm_dtype dtype, int rank, const int64_t *shape) {
  *nout = 1;
  *out = zmi_type_of(dtype, rank, shape);
  size_t bytes;
  if (zmi_type_bytes(out, &bytes)) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "a result of rank %d is too large to address, or a dimension is negative", rank);
}

// ---- builders ----

bool zmi_present(const char *op, int n, zm_array *const *arrays) {
  for (int i = 0; i < n; i++) {
    if (arrays[i]) continue;
    // Normally the array is NULL because making it failed: that message is the one to keep.
    if (zm_last_status() == ZM_OK) zmi_fail(ZM_ERROR_ARGUMENT, "%s: operand %d is NULL", op, i + 1);
    return false;
  }
  return true;
}

bool zmi_axis(const char *op, int axis, int rank, int *result) {
  *result = axis < 0 ? axis + rank : axis;
  if (*result >= 0 && *result < rank) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: axis %d is out of range for an array of rank %d", op, axis, rank);
  return false;
}

bool zmi_broadcast_shape(const char *op, const zmi_type *a, const zmi_type *b, int *rank, int64_t *shape) {
  *rank = ZMI_MAX(a->rank, b->rank);
  for (int i = 0; i < *rank; i++) {
    int ia = i - (*rank - a->rank), ib = i - (*rank - b->rank);
    int64_t da = ia < 0 ? 1 : a->shape[ia], db = ib < 0 ? 1 : b->shape[ib];
    if (da != db && da != 1 && db != 1) {
      char ta[128], tb[128];
      zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s and %s do not broadcast: %lld against %lld in axis %d", op, zmi_type_text(a, ta),
               zmi_type_text(b, tb), (long long)da, (long long)db, i - *rank);
      return false;
    }
    shape[i] = da == 1 ? db : da;
  }
  return true;
}

// ---- strided reading ----

int64_t zmi_tiles_of(int64_t count, int64_t tile) {
  return count / tile + (count % tile != 0);
}

int64_t zmi_element_tiles(const zmi_call *c) {
  return zmi_tiles_of(zmi_type_count(&c->out[0]->type), ZMI_TILE);
}

bool zmi_streams(const zmi_call *c) {
  uint64_t bytes = 0;
  for (int k = 0; k < c->nin + c->nout; k++) {
    const zmi_slot *s = k < c->nin ? c->in[k] : c->out[k - c->nin];
    if (s) bytes += (uint64_t)zmi_type_count(&s->type) * zm_dtype_size(s->type.dtype);
  }
  return bytes > zmi_cache_bytes();
}

void zmi_copy_past(void *to, const void *from, size_t bytes) {
#if defined(__SSE2__)
  if (((uintptr_t)to | bytes) % 16 == 0) {
    for (size_t at = 0; at < bytes; at += 16) {
      _mm_stream_si128((__m128i *)(void *)((char *)to + at), _mm_loadu_si128((const __m128i *)(const void *)((const char *)from + at)));
    }
    return;
  }
#endif
  memcpy(to, from, bytes);
}

void zmi_copied_past(void) {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// memcpy leaves pieces of some kilobytes to the processor's own instruction, which on some (Zen 3) takes five times as long where they do
// not begin at a line.
void zmi_copy_piece(void *to, const void *from, size_t bytes) {
  enum { LINE = 64, SHORT = 1024, LONG = 1 << 20 };
  size_t at = 0;
  if ((uintptr_t)to % LINE && bytes >= SHORT && bytes <= LONG) {
    for (; at + LINE <= bytes; at += LINE) {
      memcpy((char *)to + at, (const char *)from + at, LINE);
      __asm__ volatile("" ::: "memory"); // or the loop becomes a memcpy
    }
  }
  memcpy((char *)to + at, (const char *)from + at, bytes - at);
}

void zmi_ask_ahead(const void *p, size_t bytes, size_t ahead) {
  enum { LINE = 64 };
  const uintptr_t first = (uintptr_t)p + ahead; // a number: it may be outside of the array
  for (size_t at = 0; at < bytes; at += LINE) __builtin_prefetch((const void *)(first + at), 0, 2);
}

zmi_walk zmi_walk_of(const zmi_slot *slot) {
  zmi_walk w = {0};
  for (int i = 0; i < slot->type.rank; i++) {
    int64_t size = slot->type.shape[i], stride = slot->stride[i];
    if (size == 1) continue;
    if (w.rank > 0 && w.stride[w.rank - 1] == stride * size) {
      w.size[w.rank - 1] *= size;
      w.stride[w.rank - 1] = stride;
    } else {
      w.size[w.rank] = size;
      w.stride[w.rank] = stride;
      w.rank++;
    }
  }
  return w;
}

bool zmi_walk_is_contiguous(const zmi_walk *w) {
  return w->rank == 0 || (w->rank == 1 && w->stride[0] == 1);
}

// Words of any dtype: the memory may have been written as another type.
typedef uint8_t __attribute__((may_alias)) word1;
typedef uint16_t __attribute__((may_alias)) word2;
typedef uint32_t __attribute__((may_alias)) word4;
typedef uint64_t __attribute__((may_alias)) word8;

// One run along the innermost dimension.
#define RUN(T)                                                                                                                             \
  static void run_##T(const void *src, int64_t stride, int64_t n, void *dst) {                                                             \
    const T *s = src;                                                                                                                      \
    T *d = dst;                                                                                                                            \
    for (int64_t i = 0; i < n; i++) d[i] = s[i * stride];                                                                                  \
  }                                                                                                                                        \
  static void fill_##T(const void *src, int64_t n, void *dst) {                                                                            \
    const T v = *(const T *)src;                                                                                                           \
    T *d = dst;                                                                                                                            \
    for (int64_t i = 0; i < n; i++) d[i] = v;                                                                                              \
  }
RUN(word1)
RUN(word2)
RUN(word4)
RUN(word8)

static void (*const runs[])(const void *src, int64_t stride, int64_t n,
                            void *dst) = {[1] = run_word1, [2] = run_word2, [4] = run_word4, [8] = run_word8};
static void (*const fills[])(const void *src, int64_t n,
                             void *dst) = {[1] = fill_word1, [2] = fill_word2, [4] = fill_word4, [8] = fill_word8};

static void copy_run(const char *src, int64_t stride, size_t size, int64_t n, char *dst) {
  if (stride == 1)
    zmi_copy_piece(dst, src, (size_t)n * size);
  else if (stride == 0)
    fills[size](src, n, dst);
  else
    runs[size](src, stride, n, dst);
}

// `rows` whole runs of a short innermost dimension, column by column.
enum { SHORT_COLUMNS = 16, ROWS_COLUMNS = 128 };
#define BLOCK(T)                                                                                                                           \
  static void block_##T(const void *src, int64_t row_stride, int64_t rows, int64_t stride, int64_t columns, void *dst) {                   \
    const T *s = src;                                                                                                                      \
    T *d = dst;                                                                                                                            \
    for (int64_t c = 0; c < columns; c++) {                                                                                                \
      for (int64_t r = 0; r < rows; r++) d[r * columns + c] = s[r * row_stride + c * stride];                                              \
    }                                                                                                                                      \
  }
BLOCK(word1)
BLOCK(word2)
BLOCK(word4)
BLOCK(word8)

// Rows of a somewhat longer one, of one element again and again or of neighbours, row by row.
#define ROWS(T)                                                                                                                            \
  static void rows_##T(const void *src, int64_t row_stride, int64_t rows, int64_t stride, int64_t columns, void *dst) {                    \
    const T *s = src;                                                                                                                      \
    T *restrict d = dst;                                                                                                                   \
    for (int64_t r = 0; r < rows; r++, s += row_stride, d += columns) {                                                                    \
      const T v = *s;                                                                                                                      \
      if (stride == 0)                                                                                                                     \
        for (int64_t c = 0; c < columns; c++) d[c] = v;                                                                                    \
      else                                                                                                                                 \
        for (int64_t c = 0; c < columns; c++) d[c] = s[c];                                                                                 \
    }                                                                                                                                      \
  }
ROWS(word1)
ROWS(word2)
ROWS(word4)
ROWS(word8)

typedef void (*block_fn)(const void *src, int64_t row_stride, int64_t rows, int64_t stride, int64_t columns, void *dst);
static const block_fn blocks[] = {[1] = block_word1, [2] = block_word2, [4] = block_word4, [8] = block_word8};
static const block_fn row_blocks[] = {[1] = rows_word1, [2] = rows_word2, [4] = rows_word4, [8] = rows_word8};

void zmi_gather(const zmi_walk *w, const void *src, size_t size, int64_t begin, int64_t n, void *dst) {
  const int64_t width = (int64_t)size;
  if (n <= 0) return;
  if (w->rank <= 1) {
    int64_t stride = w->rank ? w->stride[0] : 1;
    copy_run((const char *)src + begin * stride * width, stride, size, n, dst);
    return;
  }
  int last = w->rank - 1;
  int64_t at[ZM_MAX_RANK], offset = 0, rest = begin;
  for (int i = last; i >= 0; i--) {
    at[i] = rest % w->size[i];
    rest /= w->size[i];
    offset += at[i] * w->stride[i];
  }
  char *out = dst;
  const int64_t columns = w->size[last];
  while (n > 0) {
    int64_t run = ZMI_MIN(columns - at[last], n);
    const int64_t rows = ZMI_MIN(w->size[last - 1] - at[last - 1], n / columns);
    const bool near = w->stride[last] == 0 || w->stride[last] == 1;
    if (columns <= (near ? ROWS_COLUMNS : SHORT_COLUMNS) && at[last] == 0 && rows > 1) {
      const block_fn copy = (columns <= SHORT_COLUMNS ? blocks : row_blocks)[size];
      copy((const char *)src + offset * width, w->stride[last - 1], rows, w->stride[last], columns, out);
      run = rows * columns;
      offset += (rows - 1) * w->stride[last - 1];
      at[last - 1] += rows - 1;
    } else {
      copy_run((const char *)src + offset * width, w->stride[last], size, run, out);
    }
    out += run * width;
    n -= run;
    // To the first element of the next run.
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

zmi_reader zmi_reader_of(const zmi_call *c, int operand) {
  zmi_reader r = {.walk = zmi_walk_of(c->in[operand]), .src = c->src[operand], .size = zm_dtype_size(c->in[operand]->type.dtype)};
  r.direct = zmi_walk_is_contiguous(&r.walk);
  return r;
}

const void *zmi_read(const zmi_reader *r, int64_t begin, int64_t n, void *buffer) {
  if (r->direct) return r->src + (size_t)begin * r->size;
  zmi_gather(&r->walk, r->src, r->size, begin, n, buffer);
  return buffer;
}

// ---- numbers ----

// [lowest, highest] of the integer dtypes as doubles; the upper limit is the first value too large.
static const struct {
  double low, above;
} limits[ZM_DTYPE_COUNT] = {
    [ZM_U8] = {0, 0x1p8},      [ZM_U16] = {0, 0x1p16},       [ZM_U32] = {0, 0x1p32},       [ZM_U64] = {0, 0x1p64},
    [ZM_I8] = {-0x1p7, 0x1p7}, [ZM_I16] = {-0x1p15, 0x1p15}, [ZM_I32] = {-0x1p31, 0x1p31}, [ZM_I64] = {-0x1p63, 0x1p63},
};

static void store_integer(double value, zm_dtype dtype, void *dst) {
  size_t size = zm_dtype_size(dtype);
  uint64_t bits = 0;
  if (value >= limits[dtype].above)
    bits = limits[dtype].low < 0 ? (UINT64_C(1) << (8 * size - 1)) - 1 : UINT64_MAX;
  else if (value <= limits[dtype].low)
    bits = limits[dtype].low < 0 ? UINT64_MAX << (8 * size - 1) : 0;
  else if (value < 0)
    bits = (uint64_t)(int64_t)value;
  else if (value > 0)
    bits = (uint64_t)value;
  memcpy(dst, &bits, size); // the low bytes: little-endian
}

void zmi_store_double(double value, zm_dtype dtype, void *dst) {
  if (dtype == ZM_F32) {
    float f = (float)value;
    memcpy(dst, &f, sizeof f);
  } else if (dtype == ZM_BF16 || dtype == ZM_F16) {
    uint16_t h = dtype == ZM_BF16 ? zmi_f32_to_bf16((float)value) : zmi_f32_to_f16((float)value);
    memcpy(dst, &h, sizeof h);
  } else if (dtype == ZM_BOOL) {
    *(uint8_t *)dst = value != 0;
  } else {
    store_integer(value, dtype, dst);
  }
}
