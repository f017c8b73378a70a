// Running sums, products, maxima, minima and logarithms of sums of exponentials along an axis. The operand is seen as [outer, K, inner].
//
// Order (docs/numerics.md): positions in stretches of SUB, stretches in blocks of BLOCK. Within a stretch p runs from its first element
// on; q = (the block's result at the end of the stretch before) joined with p; the result is (the row's result at the end of the block
// before) joined with q. The first stretch of a block and the first block of a row have nothing before them. So four stretches run side by
// side, and blocks of one row are shared out to workers, and the bits depend on the position alone. logcumsumexp runs through its block in
// one go.
#include "array/ops/cumulative.h"

#include <string.h>

enum { SUB = ZMI_RUNNING_SUB, PIECE = 1024, BLOCK = 16384, WIDTH = 1024, LEAST = 512, NARROW = 16, ROWS = 64, AHEAD = 6, LINES = 4 };

typedef enum scan_kind { SUM, PROD, MAX, MIN, LOG, KIND_COUNT } scan_kind;

static const zmi_field fields[] = {{"axis", ZMI_FIELD_INT, offsetof(zmi_scan_attrs, axis), NULL},
                                   {"reverse", ZMI_FIELD_INT, offsetof(zmi_scan_attrs, reverse), NULL},
                                   {"inclusive", ZMI_FIELD_INT, offsetof(zmi_scan_attrs, inclusive), NULL},
                                   {0}};

// A value of any work type; for logcumsumexp a maximum and a sum relative to it.
typedef union value {
  uint64_t bits;
  float f[2];
  unsigned char bytes[8];
} value;

// What a row knows at some position.
typedef struct state {
  value chain; // the block's result so far
  value carry; // the row's result at the end of the block before
  bool begun, carried;
  bool past; // sums of floats: results go past the caches
  const zmi_kernels *kernels;
} state;

// The same for up to WIDTH columns at once. Arrays of the work type.
typedef struct columns {
  _Alignas(64) uint64_t p[WIDTH], chain[WIDTH], carry[WIDTH];
  bool begun, carried;
  bool odd;   // max and min: a line of this stretch was not plain
  int64_t at; // position within the block
  const zmi_kernels *kernels;
} columns;

// ---- one work type and one way to join ----

// Denormals count as zeros, by hand: whether comparing and choosing does that depends on the instruction.
static inline float larger(float a, float b) {
  return ((b > a) | (b != b)) ? b : a;
}

static inline float smaller(float a, float b) {
  return ((b < a) | (b != b)) ? b : a;
}

#define WRAP_ADD(T, a, b) ((T)((uint64_t)(a) + (uint64_t)(b)))
#define WRAP_MULTIPLY(T, a, b) ((T)((uint64_t)(a) * (uint64_t)(b)))
#define MORE(T, a, b) ((b) > (a) ? (b) : (a))
#define LESS(T, a, b) ((b) < (a) ? (b) : (a))
#define FLOAT_ADD(T, a, b) ((a) + (b))
#define FLOAT_MULTIPLY(T, a, b) ((a) * (b))
#define FLOAT_MORE(T, a, b) larger(a, b)
#define FLOAT_LESS(T, a, b) smaller(a, b)
#define AS_IT_IS(x) (x)
// Before a loop whose turns do not depend on each other.
#if defined(__clang__)
#define SIDE_BY_SIDE _Pragma("clang loop vectorize(assume_safety)")
#else
#define SIDE_BY_SIDE _Pragma("GCC ivdep")
#endif

// Stretches by themselves, as many as stand side by side; returns how many positions that are.
#define SCAN_STRETCHES(T, name, JOIN)                                                                                                      \
  static int64_t name##_stretches_##T(const T *x, T *y, int64_t n) {                                                                       \
    int64_t at = 0;                                                                                                                        \
    for (; at + 4 * SUB <= n; at += 4 * SUB) {                                                                                             \
      const T *u = x + at;                                                                                                                 \
      T *v = y + at, a = v[0] = u[0], b = v[SUB] = u[SUB], c = v[2 * SUB] = u[2 * SUB], d = v[3 * SUB] = u[3 * SUB];                       \
      for (int i = 1; i < SUB; i++) {                                                                                                      \
        v[i] = a = JOIN(T, a, u[i]);                                                                                                       \
        v[i + SUB] = b = JOIN(T, b, u[i + SUB]);                                                                                           \
        v[i + 2 * SUB] = c = JOIN(T, c, u[i + 2 * SUB]);                                                                                   \
        v[i + 3 * SUB] = d = JOIN(T, d, u[i + 3 * SUB]);                                                                                   \
      }                                                                                                                                    \
    }                                                                                                                                      \
    return at;                                                                                                                             \
  }

#define SCAN_ROW(T, name, JOIN)                                                                                                            \
  /* n <= PIECE positions from a multiple of SUB of the block on; y may be where x is. */                                                  \
  static void name##_row_##T(const void *from, void *to, int64_t n, state *s) {                                                            \
    const T *x = from;                                                                                                                     \
    T *y = to;                                                                                                                             \
    int64_t at = name##_stretches_##T(x, y, n);                                                                                            \
    for (; at < n; at += SUB) {                                                                                                            \
      const int64_t last = ZMI_MIN(n, at + SUB);                                                                                           \
      T a = y[at] = x[at];                                                                                                                 \
      for (int64_t i = at + 1; i < last; i++) y[i] = a = JOIN(T, a, x[i]);                                                                 \
    }                                                                                                                                      \
    T chain, carry;                                                                                                                        \
    memcpy(&chain, s->chain.bytes, sizeof chain);                                                                                          \
    memcpy(&carry, s->carry.bytes, sizeof carry);                                                                                          \
    for (at = 0; at < n; at += SUB) {                                                                                                      \
      const int64_t last = ZMI_MIN(n, at + SUB);                                                                                           \
      T q = s->begun ? JOIN(T, chain, y[last - 1]) : y[last - 1];                                                                          \
      if (s->begun && s->carried) {                                                                                                        \
        for (int64_t i = at; i < last; i++) {                                                                                              \
          const T v = JOIN(T, chain, y[i]);                                                                                                \
          y[i] = JOIN(T, carry, v);                                                                                                        \
        }                                                                                                                                  \
      } else if (s->begun || s->carried) {                                                                                                 \
        const T one = s->begun ? chain : carry;                                                                                            \
        for (int64_t i = at; i < last; i++) y[i] = JOIN(T, one, y[i]);                                                                     \
      }                                                                                                                                    \
      chain = q;                                                                                                                           \
      s->begun = true;                                                                                                                     \
    }                                                                                                                                      \
    memcpy(s->chain.bytes, &chain, sizeof chain);                                                                                          \
  }

// The block's result after n more positions, as the row function leaves it: eight stretches side by side, nothing is written.
#define SCAN_TOTAL(T, name, JOIN, CLEAN)                                                                                                   \
  static void name##_total_##T(const void *from, int64_t n, state *s) {                                                                    \
    const T *x = from;                                                                                                                     \
    T chain;                                                                                                                               \
    memcpy(&chain, s->chain.bytes, sizeof chain);                                                                                          \
    for (int64_t at = 0; at < n; at += 8 * SUB) {                                                                                          \
      T p[8];                                                                                                                              \
      const int64_t whole = at + 8 * SUB <= n ? 8 : 0, stretches = whole ? 8 : (n - at + SUB - 1) / SUB;                                   \
      for (int j = 0; j < whole; j++) p[j] = CLEAN(x[at + j * SUB]);                                                                       \
      for (int i = 1; i < SUB && whole; i++) {                                                                                             \
        for (int j = 0; j < 8; j++) p[j] = JOIN(T, p[j], CLEAN(x[at + i + j * SUB]));                                                      \
      }                                                                                                                                    \
      for (int64_t j = 0; j < stretches; j++) {                                                                                            \
        const int64_t first = at + j * SUB, last = ZMI_MIN(n, first + SUB);                                                                \
        T q = whole ? p[j] : CLEAN(x[first]);                                                                                              \
        for (int64_t i = first + 1; i < last && !whole; i++) q = JOIN(T, q, CLEAN(x[i]));                                                  \
        chain = s->begun ? JOIN(T, chain, q) : q;                                                                                          \
        s->begun = true;                                                                                                                   \
      }                                                                                                                                    \
    }                                                                                                                                      \
    memcpy(s->chain.bytes, &chain, sizeof chain);                                                                                          \
  }

// One position of `width` columns. The result of the block, without the carry, stays in chain where the position ends a stretch or `last`.
// x and y may be one place.
#define SCAN_LINE(T, name, JOIN, CLEAN)                                                                                                    \
  static void name##_line_##T(const void *from, void *to, int64_t width, bool last, columns *s) {                                          \
    const T *x = from;                                                                                                                     \
    T *y = to, *restrict p = (T *)s->p, *restrict chain = (T *)s->chain, *restrict carry = (T *)s->carry;                                  \
    const bool fresh = s->at % SUB == 0;                                                                                                   \
    if (fresh) {                                                                                                                           \
      for (int64_t j = 0; j < width; j++) p[j] = CLEAN(x[j]);                                                                              \
    } else if (!s->begun) {                                                                                                                \
      for (int64_t j = 0; j < width; j++) p[j] = JOIN(T, p[j], CLEAN(x[j]));                                                               \
    }                                                                                                                                      \
    if (!s->begun) {                                                                                                                       \
      memcpy(y, p, (size_t)width * sizeof *y);                                                                                             \
    } else if (fresh) {                                                                                                                    \
      for (int64_t j = 0; j < width; j++) y[j] = JOIN(T, chain[j], p[j]);                                                                  \
    } else {                                                                                                                               \
      SIDE_BY_SIDE                                                                                                                         \
      for (int64_t j = 0; j < width; j++) {                                                                                                \
        const T q = JOIN(T, p[j], CLEAN(x[j]));                                                                                            \
        p[j] = q;                                                                                                                          \
        y[j] = JOIN(T, chain[j], q);                                                                                                       \
      }                                                                                                                                    \
    }                                                                                                                                      \
    if (last || s->at % SUB == SUB - 1) {                                                                                                  \
      memcpy(chain, y, (size_t)width * sizeof *chain);                                                                                     \
      s->begun = true;                                                                                                                     \
    }                                                                                                                                      \
    s->at++;                                                                                                                               \
    if (s->carried) {                                                                                                                      \
      for (int64_t j = 0; j < width; j++) y[j] = JOIN(T, carry[j], y[j]);                                                                  \
    }                                                                                                                                      \
  }

#define SCAN_JOIN(T, name, JOIN)                                                                                                           \
  static void name##_join_##T(value *a, const value *b) {                                                                                  \
    T x, y;                                                                                                                                \
    memcpy(&x, a->bytes, sizeof x);                                                                                                        \
    memcpy(&y, b->bytes, sizeof y);                                                                                                        \
    x = JOIN(T, x, y);                                                                                                                     \
    memcpy(a->bytes, &x, sizeof x);                                                                                                        \
  }

#define SCAN(T, name, JOIN)                                                                                                                \
  SCAN_ROW(T, name, JOIN) SCAN_TOTAL(T, name, JOIN, AS_IT_IS) SCAN_LINE(T, name, JOIN, AS_IT_IS) SCAN_JOIN(T, name, JOIN)
#define SCALAR_SCAN(T, name, JOIN) SCAN_STRETCHES(T, name, JOIN) SCAN(T, name, JOIN)
#define INTEGER_SCANS(T)                                                                                                                   \
  SCALAR_SCAN(T, sum, WRAP_ADD) SCALAR_SCAN(T, prod, WRAP_MULTIPLY) SCALAR_SCAN(T, max, MORE) SCALAR_SCAN(T, min, LESS)
INTEGER_SCANS(uint8_t)
INTEGER_SCANS(uint16_t)
INTEGER_SCANS(uint32_t)
INTEGER_SCANS(uint64_t)
INTEGER_SCANS(int8_t)
INTEGER_SCANS(int16_t)
INTEGER_SCANS(int32_t)
INTEGER_SCANS(int64_t)
SCALAR_SCAN(float, prod, FLOAT_MULTIPLY)

// Sums of floats: by the tier's kernel, which has many stretches side by side.
static void sum_row_float(const void *from, void *to, int64_t n, state *s) {
  zmi_running r = {.chain = s->chain.f[0], .carry = s->carry.f[0], .begun = s->begun, .carried = s->carried};
  s->kernels->running_sums(from, n, &r, to, s->past);
  s->chain.f[0] = r.chain;
  s->begun = r.begun;
}
SCAN_TOTAL(float, sum, FLOAT_ADD, AS_IT_IS)
SCAN_LINE(float, sum, FLOAT_ADD, AS_IT_IS)
SCAN_JOIN(float, sum, FLOAT_ADD)

// Most rows have no NaN: for them a comparison is enough, which is one instruction.
#define FLOAT_SCAN_ROW(name, JOIN) SCAN_STRETCHES(float, name, JOIN) SCAN_ROW(float, name, JOIN)
FLOAT_SCAN_ROW(plain_max, MORE)
FLOAT_SCAN_ROW(plain_min, LESS)
FLOAT_SCAN_ROW(safe_max, FLOAT_MORE)
FLOAT_SCAN_ROW(safe_min, FLOAT_LESS)

// Whether some element is a NaN or a denormal, or a zero, which stands where a denormal may.
static bool is_plain_row(const float *x, int64_t n) {
  int other = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t u;
    memcpy(&u, x + i, sizeof u);
    u = (u & 0x7fffffffu) - 0x00800000u; // of a zero or a denormal it wraps around
    other |= u > 0x7f000000u;
  }
  return !other;
}

static bool flush_row(const float *x, float *y, int64_t n) {
  int nan = 0;
  for (int64_t i = 0; i < n; i++) {
    nan |= x[i] != x[i];
    y[i] = zmi_flush(x[i]);
  }
  return nan;
}

#define FLOAT_ROW(name)                                                                                                                    \
  static void name##_row_float(const void *from, void *to, int64_t n, state *s) {                                                          \
    if (is_plain_row(from, n))                                                                                                             \
      plain_##name##_row_float(from, to, n, s);                                                                                            \
    else                                                                                                                                   \
      (flush_row(from, to, n) ? safe_##name##_row_float : plain_##name##_row_float)(to, to, n, s);                                         \
  }
FLOAT_ROW(max)
FLOAT_ROW(min)
SCAN_TOTAL(float, max, FLOAT_MORE, zmi_flush)
SCAN_TOTAL(float, min, FLOAT_LESS, zmi_flush)
SCAN_LINE(float, safe_max, FLOAT_MORE, zmi_flush)
SCAN_LINE(float, safe_min, FLOAT_LESS, zmi_flush)
SCAN_LINE(float, plain_max, MORE, AS_IT_IS)
SCAN_LINE(float, plain_min, LESS, AS_IT_IS)

// A comparison keeps a NaN on its left: it is enough where neither the line nor what its stretch had before has one.
#define FLOAT_LINE(name)                                                                                                                   \
  static void name##_line_float(const void *from, void *to, int64_t width, bool last, columns *s) {                                        \
    if (s->at % SUB == 0) s->odd = false;                                                                                                  \
    const bool plain = is_plain_row(from, width);                                                                                          \
    (plain && !s->odd ? plain_##name##_line_float : safe_##name##_line_float)(from, to, width, last, s);                                   \
    s->odd = s->odd || !plain;                                                                                                             \
  }
FLOAT_LINE(max)
FLOAT_LINE(min)
SCAN_JOIN(float, max, FLOAT_MORE)
SCAN_JOIN(float, min, FLOAT_LESS)

// ---- logcumsumexp: m = the largest so far, s = the sum of exp(x - m); s = s exp(m before - m) + exp(x - m) ----

static void factors(const zmi_kernels *k, const float *before, const float *m, float *x, int64_t n, float *older) {
  for (int64_t i = 0; i < n; i++) {
    older[i] = before[i] == m[i] ? 0.0f : before[i] - m[i]; // equal infinities have no difference
    x[i] = x[i] == m[i] ? 0.0f : x[i] - m[i];
  }
  k->exp(older, n);
  k->exp(x, n);
}

static void log_row(const void *from, void *to, int64_t n, state *s) {
  _Alignas(64) float m[PIECE + 1], older[PIECE];
  float *x = to;
  if (from != to) memcpy(x, from, (size_t)n * sizeof *x);
  if (!s->begun) s->chain = s->carried ? s->carry : (value){.f = {x[0], 0.0f}};
  s->begun = true;
  m[0] = s->chain.f[0];
  for (int64_t i = 0; i < n; i++) m[i + 1] = larger(m[i], x[i]);
  factors(s->kernels, m, m + 1, x, n, older);
  float sum = s->chain.f[1];
  for (int64_t i = 0; i < n; i++) x[i] = sum = sum * older[i] + x[i];
  s->chain.f[0] = m[n];
  s->chain.f[1] = sum;
  s->kernels->log(x, n);
  for (int64_t i = 0; i < n; i++) x[i] = m[i + 1] + x[i];
}

static void log_line(const void *from, void *to, int64_t width, bool last, columns *s) {
  _Alignas(64) float now[WIDTH], older[WIDTH];
  float *x = to, *m = (float *)s->p, *sum = (float *)s->chain;
  (void)last;
  if (from != to) memcpy(x, from, (size_t)width * sizeof *x);
  if (!s->begun) {
    for (int64_t j = 0; j < width; j++) {
      value v = {.bits = s->carried ? s->carry[j] : 0};
      m[j] = s->carried ? v.f[0] : x[j];
      sum[j] = s->carried ? v.f[1] : 0.0f;
    }
  }
  s->begun = true;
  s->at++;
  for (int64_t j = 0; j < width; j++) now[j] = larger(m[j], x[j]);
  factors(s->kernels, m, now, x, width, older);
  for (int64_t j = 0; j < width; j++) x[j] = sum[j] = sum[j] * older[j] + x[j];
  s->kernels->log(x, width);
  for (int64_t j = 0; j < width; j++) x[j] = (m[j] = now[j]) + x[j];
}

static void log_join(value *a, const value *b) {
  const float m = larger(a->f[0], b->f[0]);
  const float wa = a->f[0] == m ? 1.0f : zmi_expf(a->f[0] - m), wb = b->f[0] == m ? 1.0f : zmi_expf(b->f[0] - m);
  a->f[1] = a->f[1] * wa + b->f[1] * wb;
  a->f[0] = m;
}

// LINES positions of columns of a running sum at once, none of which begins or ends a stretch: what runs on is read and written once.
// y may be where x is.
static void sum_lines(const float *x, int64_t step, float *y, int64_t y_step, int64_t width, columns *s) {
  const float *x1 = x + step, *x2 = x1 + step, *x3 = x2 + step, *restrict chain = (const float *)s->chain;
  float *y1 = y + y_step, *y2 = y1 + y_step, *y3 = y2 + y_step, *restrict p = (float *)s->p;
  s->at += LINES;
  if (!s->begun) {
    SIDE_BY_SIDE
    for (int64_t j = 0; j < width; j++) {
      const float a = p[j] + x[j], b = a + x1[j], c = b + x2[j], d = c + x3[j];
      y[j] = a, y1[j] = b, y2[j] = c, y3[j] = p[j] = d;
    }
    return;
  }
  SIDE_BY_SIDE
  for (int64_t j = 0; j < width; j++) {
    const float a = p[j] + x[j], b = a + x1[j], c = b + x2[j], d = c + x3[j], before = chain[j];
    p[j] = d;
    y[j] = before + a, y1[j] = before + b, y2[j] = before + c, y3[j] = before + d;
  }
}

// ---- tables ----

typedef struct scan {
  void (*row)(const void *x, void *y, int64_t n, state *s);
  void (*total)(const void *x, int64_t n, state *s); // NULL: by row
  void (*line)(const void *x, void *y, int64_t width, bool last, columns *s);
  void (*join)(value *a, const value *b);
} scan;

#define ENTRIES(dtype, T)                                                                                                                  \
  [dtype] = {{sum_row_##T, sum_total_##T, sum_line_##T, sum_join_##T},                                                                     \
             {prod_row_##T, prod_total_##T, prod_line_##T, prod_join_##T},                                                                 \
             {max_row_##T, max_total_##T, max_line_##T, max_join_##T},                                                                     \
             {min_row_##T, min_total_##T, min_line_##T, min_join_##T}}

// By dtype; all floats are worked on as float32.
static const scan scans[ZM_DTYPE_COUNT][KIND_COUNT] = {
    ENTRIES(ZM_BOOL, uint8_t), ENTRIES(ZM_U8, uint8_t),  ENTRIES(ZM_U16, uint16_t), ENTRIES(ZM_U32, uint32_t), ENTRIES(ZM_U64, uint64_t),
    ENTRIES(ZM_I8, int8_t),    ENTRIES(ZM_I16, int16_t), ENTRIES(ZM_I32, int32_t),  ENTRIES(ZM_I64, int64_t),  ENTRIES(ZM_F32, float),
};
static const scan log_scan = {log_row, NULL, log_line, log_join};

static const scan *scan_of(zm_dtype dtype, scan_kind kind) {
  return kind == LOG ? &log_scan : &scans[zmi_dtype_is_float(dtype) ? ZM_F32 : dtype][kind];
}

// What stands first in an exclusive scan.
static void identity(zm_dtype dtype, scan_kind kind, void *dst) {
  static const float infinite[2] = {-__builtin_inff(), __builtin_inff()};
  const bool is_signed = dtype >= ZM_I8 && dtype <= ZM_I64;
  const uint64_t top = UINT64_C(1) << (8 * zm_dtype_size(dtype) - 1);
  uint64_t bits = 0;
  if (zmi_dtype_is_float(dtype) && kind >= MAX) {
    zmi_store_double((double)infinite[kind == MIN], dtype, dst);
    return;
  }
  if (kind == PROD) {
    zmi_store_double(1, dtype, dst);
    return;
  }
  if (kind == MAX && is_signed) bits = top;
  if (kind == MIN) bits = dtype == ZM_BOOL ? 1 : is_signed ? top - 1 : UINT64_MAX;
  memcpy(dst, &bits, zm_dtype_size(dtype));
}

// ---- the shape of the work ----

typedef struct plan {
  const zmi_call *call;
  zm_dtype dtype;
  scan_kind kind;
  const scan *scan;
  size_t size, work; // bytes of an element, and of one while it is worked on
  int64_t outer, k, inner, blocks;
  int64_t width, strips, lines; // columns side by side (1: rows, even if they stride), strips of them, outer * strips
  bool reverse, inclusive, converts;
  bool side;     // short rows, of which groups are turned to columns (turn.c)
  bool past;     // rows beside each other: results go past the caches, PIECE at a time
  value *totals; // [outer * inner][blocks]: of each block; then the carry into the block after it
} plan;

static plan plan_of(const zmi_call *c, scan_kind kind) {
  const zmi_scan_attrs *a = c->attrs;
  const zmi_type *t = &c->in[0]->type;
  plan p = {.call = c, .dtype = t->dtype, .kind = kind, .outer = 1, .k = t->shape[a->axis], .inner = 1, .totals = c->scratch};
  for (int i = 0; i < a->axis; i++) p.outer *= t->shape[i];
  for (int i = (int)a->axis + 1; i < t->rank; i++) p.inner *= t->shape[i];
  p.scan = scan_of(p.dtype, kind);
  p.size = zm_dtype_size(p.dtype);
  p.work = zmi_dtype_is_float(p.dtype) ? sizeof(float) : p.size;
  p.blocks = zmi_tiles_of(p.k, BLOCK);
  p.width = 1;
  if (p.inner >= NARROW) {
    // Wide strips stream better, but there should be some for every worker.
    p.width = WIDTH;
    while (p.width > LEAST && p.outer * zmi_tiles_of(p.inner, p.width) * p.blocks < 4) p.width /= 2;
  }
  p.converts = p.dtype == ZM_F16 || p.dtype == ZM_BF16;
  p.side = p.blocks == 1 && zmi_side_by_side(p.outer, p.k, p.inner);
  p.strips = zmi_tiles_of(p.inner, p.width);
  p.lines = p.outer * p.strips;
  p.reverse = a->reverse;
  p.inclusive = a->inclusive;
  return p;
}

enum { GROUPS = 4 }; // of rows that were turned, in a tile

// Outer indices of one tile of short rows.
static int64_t tile_sides(const plan *p) {
  return GROUPS * zmi_side_rows(p->k, p->inner, WIDTH);
}

// Lines of one tile, where a line is one block.
static int64_t tile_lines(const plan *p) {
  return p->blocks > 1 || p->width > 1 ? 1 : ZMI_MAX(1, ZMI_TILE / ZMI_MAX(p->k, 1));
}

static int64_t place(const plan *p, int64_t position) {
  return p->reverse ? p->k - 1 - position : position;
}

static const char *source(const plan *p, int64_t outer, int64_t position, int64_t col) {
  return (const char *)p->call->src[0] + (size_t)((outer * p->k + place(p, position)) * p->inner + col) * p->size;
}

static char *target(const plan *p, int64_t outer, int64_t position, int64_t col) {
  return (char *)p->call->dst[0] + (size_t)((outer * p->k + place(p, position)) * p->inner + col) * p->size;
}

static int64_t step_of(const plan *p) {
  return p->reverse ? -p->inner : p->inner;
}

// n words backwards, from x[0], x[-1], ...
#define TURN(bits)                                                                                                                         \
  static void turn##bits(const void *src, int64_t n, void *dst) {                                                                          \
    typedef uint##bits##_t __attribute__((may_alias)) word;                                                                                \
    const word *x = (const word *)src - (n - 1);                                                                                           \
    word *y = dst;                                                                                                                         \
    for (int64_t i = 0; i < n; i++) y[i] = x[n - 1 - i];                                                                                   \
  }
TURN(8)
TURN(16)
TURN(32)
TURN(64)
static void (*const turn[])(const void *src, int64_t n, void *dst) = {[1] = turn8, [2] = turn16, [4] = turn32, [8] = turn64};

// n positions of a row to the work type.
static void load_row(const plan *p, int64_t outer, int64_t position, int64_t col, int64_t n, void *x) {
  uint64_t raw[PIECE];
  const zmi_walk w = {.rank = 1, .size = {n}, .stride = {step_of(p)}};
  const void *src = source(p, outer, position, col);
  if (w.stride[0] == -1 && n > 0) {
    turn[p->size](src, n, p->converts ? raw : x);
    src = raw;
  } else if (w.stride[0] != 1) {
    zmi_gather(&w, src, p->size, 0, n, p->converts ? raw : x);
    src = raw;
  } else if (!p->converts) {
    memcpy(x, src, (size_t)n * p->size);
  }
  if (p->converts) p->call->kernels->load(src, p->dtype, n, x);
}

#define SPREAD(bits)                                                                                                                       \
  static void spread##bits(const void *src, int64_t n, void *dst, int64_t step) {                                                          \
    typedef uint##bits##_t __attribute__((may_alias)) word;                                                                                \
    const word *x = src;                                                                                                                   \
    word *y = dst;                                                                                                                         \
    for (int64_t i = 0; i < n; i++) y[i * step] = x[i];                                                                                    \
  }
SPREAD(8)
SPREAD(16)
SPREAD(32)
SPREAD(64)
static void (*const spread[])(const void *src, int64_t n, void *dst,
                              int64_t step) = {[1] = spread8, [2] = spread16, [4] = spread32, [8] = spread64};

static void store_row(const plan *p, int64_t outer, int64_t position, int64_t col, int64_t n, const void *x) {
  uint64_t raw[PIECE];
  if (n <= 0) return;
  char *dst = target(p, outer, position, col);
  const int64_t step = step_of(p);
  if (p->work != p->size) {
    p->call->kernels->store(x, n, step == 1 ? (void *)dst : (void *)raw, p->dtype);
    x = raw;
  } else if (step == 1) {
    memcpy(dst, x, (size_t)n * p->size);
  }
  if (step == -1 && p->past) {
    uint64_t turned[PIECE];
    turn[p->size]((const char *)x + (size_t)(n - 1) * p->size, n, turned);
    zmi_copy_past(dst - (size_t)(n - 1) * p->size, turned, (size_t)n * p->size);
  } else if (step == -1)
    turn[p->size]((const char *)x + (size_t)(n - 1) * p->size, n, dst - (size_t)(n - 1) * p->size);
  else if (step != 1)
    spread[p->size](x, n, dst, step);
}

// Results of positions [position, position + n) go one place on if the scan is exclusive.
static void give_row(const plan *p, int64_t outer, int64_t position, int64_t col, int64_t n, const void *x) {
  if (p->inclusive) {
    store_row(p, outer, position, col, n, x);
    return;
  }
  if (position == 0) identity(p->dtype, p->kind, target(p, outer, 0, col));
  store_row(p, outer, position + 1, col, ZMI_MIN(n, p->k - position - 1), x);
}

// ---- blocks ----

// `total`: only the block's result is wanted, as if nothing came before it.
static void row_block(const plan *p, int64_t line, int64_t block, bool total) {
  _Alignas(64) uint64_t x[PIECE];
  const int64_t outer = line / p->inner, col = line % p->inner, last = ZMI_MIN(p->k, (block + 1) * BLOCK);
  value *totals = p->totals ? p->totals + line * p->blocks : NULL; // one block has none before it
  state s = {.kernels = p->call->kernels, .carried = !total && block > 0};
  if (s.carried) s.carry = totals[block - 1];
  // Rows without steps are read and written where they are.
  const bool direct = !p->converts && step_of(p) == 1, gives = direct && p->inclusive && !total;
  s.past = gives && p->past && p->kind == SUM && p->dtype == ZM_F32;
  for (int64_t at = block * BLOCK; at < last; at += PIECE) {
    const int64_t n = ZMI_MIN(PIECE, last - at);
    if (p->past) { // the row goes on behind or in front of here
      const size_t bytes = (size_t)n * p->size;
      const char *first = source(p, outer, p->reverse ? at + n - 1 : at, col);
      zmi_ask_ahead(first, bytes, p->reverse ? (size_t)0 - bytes : bytes);
    }
    if (!direct) load_row(p, outer, at, col, n, x);
    if (total && p->scan->total) {
      p->scan->total(direct ? (const void *)source(p, outer, at, col) : x, n, &s);
      continue;
    }
    const bool there = gives && (!p->past || s.past);
    p->scan->row(direct ? (const void *)source(p, outer, at, col) : x, there ? (void *)target(p, outer, at, col) : x, n, &s);
    if (gives && !there)
      zmi_copy_past(target(p, outer, at, col), x, (size_t)n * p->size);
    else if (!total && !gives)
      give_row(p, outer, at, col, n, x);
  }
  if (total) totals[block] = s.chain;
}

// Asks for a line of a strip, if it is there: runs of a row are too short for the processor to see them coming.
static void ask_for(const plan *p, int64_t outer, int64_t position, int64_t col, int64_t width, int64_t last) {
  if (position >= last) return;
  const char *soon = source(p, outer, position, col);
  for (size_t byte = 0; byte < (size_t)width * p->size; byte += 64) __builtin_prefetch(soon + byte);
}

static void column_totals(const plan *p, int64_t first, int64_t block, int64_t width, const columns *s) {
  for (int64_t j = 0; j < width; j++) {
    value v = {.bits = 0};
    if (p->kind == LOG)
      v = (value){.f = {((const float *)s->p)[j], ((const float *)s->chain)[j]}};
    else
      memcpy(v.bytes, (const char *)s->chain + (size_t)j * p->work, p->work);
    p->totals[(first + j) * p->blocks + block] = v;
  }
}

static void column_block(const plan *p, int64_t line, int64_t block, bool total) {
  _Alignas(64) uint64_t x[WIDTH], lines[LINES * WIDTH / 2];
  const int64_t outer = line / p->strips, col = line % p->strips * p->width, width = ZMI_MIN(p->width, p->inner - col);
  const int64_t last = ZMI_MIN(p->k, (block + 1) * BLOCK), first = outer * p->inner + col;
  columns s; // its arrays are filled as far as they are used
  s.kernels = p->call->kernels;
  s.carried = !total && block > 0;
  s.begun = s.odd = false;
  s.at = 0;
  for (int64_t j = 0; j < width && s.carried; j++) {
    const value *v = &p->totals[(first + j) * p->blocks + block - 1];
    if (p->kind == LOG)
      s.carry[j] = v->bits;
    else
      memcpy((char *)s.carry + (size_t)j * p->work, v->bytes, p->work);
  }
  const bool many = p->kind == SUM && p->dtype == ZM_F32 && p->inclusive && !total && !s.carried;
  for (int64_t at = block * BLOCK; at < last; at++) {
    const void *src = source(p, outer, at, col);
    if (many && s.at % SUB > 0 && s.at % SUB + LINES < SUB && at + LINES < last) {
      for (int i = 0; i < LINES; i++) ask_for(p, outer, at + AHEAD + i, col, width, last);
      float *y = p->past ? (float *)lines : (float *)(void *)target(p, outer, at, col);
      sum_lines((const float *)src, step_of(p), y, p->past ? width : step_of(p), width, &s);
      for (int i = 0; i < LINES && p->past; i++) zmi_copy_past(target(p, outer, at + i, col), y + i * width, (size_t)width * p->size);
      at += LINES - 1;
      continue;
    }
    ask_for(p, outer, at + AHEAD, col, width, last);
    const int64_t to = at + !p->inclusive; // results go one place on if the scan is exclusive
    const bool gives = !total && to < p->k;
    void *dst = gives ? target(p, outer, to, col) : NULL, *y = gives && !p->converts ? dst : x;
    if (p->converts) {
      s.kernels->load(src, p->dtype, width, (float *)x);
      src = x;
    }
    p->scan->line(src, y, width, at == last - 1, &s);
    if (gives && p->converts) s.kernels->store((float *)x, width, dst, p->dtype);
    for (int64_t j = 0; j < width && !total && to > at && at == 0; j++) identity(p->dtype, p->kind, target(p, outer, 0, col + j));
  }
  if (total) column_totals(p, first, block, width, &s);
}

// Outer indices [first, last) of short rows.
static void side_by_side(const plan *p, int64_t first, int64_t last) {
  _Alignas(64) uint64_t x[ZMI_SIDE], y[ZMI_SIDE];
  const int64_t most = zmi_side_rows(p->k, p->inner, WIDTH), own = p->k * p->inner;
  const zm_dtype work = p->converts ? ZM_F32 : p->dtype;
  columns s; // its arrays are filled as far as they are used
  s.kernels = p->call->kernels;
  for (int64_t o = first; o < last; o += most) {
    const int64_t rows = ZMI_MIN(most, last - o), width = rows * p->inner;
    const char *src = (const char *)p->call->src[0] + (size_t)(o * own) * p->size;
    char *dst = (char *)p->call->dst[0] + (size_t)(o * own) * p->size, *to = p->inclusive ? (char *)x : (char *)y;
    if (zmi_dtype_is_float(p->dtype))
      zmi_turn_floats(s.kernels, src, p->dtype, rows, own, (float *)x);
    else
      zmi_turn(src, p->size, rows, own, x);
    s.carried = s.begun = s.odd = false;
    s.at = 0;
    for (int64_t j = 0; j < width && !p->inclusive; j++) identity(work, p->kind, to + (size_t)(place(p, 0) * width + j) * p->work);
    for (int64_t at = 0; at + !p->inclusive < p->k; at++) { // results go one place on if the scan is exclusive
      p->scan->line((const char *)x + (size_t)(place(p, at) * width) * p->work,
                    to + (size_t)(place(p, at + !p->inclusive) * width) * p->work, width, at == p->k - 1, &s);
    }
    char *back = p->converts ? (p->inclusive ? (char *)y : (char *)x) : dst;
    zmi_turn(to, p->work, own, rows, back);
    if (p->converts) s.kernels->store((const float *)(const void *)back, rows * own, dst, p->dtype);
  }
}

static void run_block(const plan *p, int64_t line, int64_t block, bool total) {
  if (p->width == 1)
    row_block(p, line, block, total);
  else
    column_block(p, line, block, total);
}

// ---- stages: totals of blocks, carries of rows, results ----

static int64_t total_tiles(const zmi_call *c) {
  plan p = plan_of(c, SUM);
  return p.blocks > 1 ? p.lines * (p.blocks - 1) : 0;
}

static int64_t carry_tiles(const zmi_call *c) {
  plan p = plan_of(c, SUM);
  return p.blocks > 1 ? zmi_tiles_of(p.outer * p.inner, ROWS) : 0;
}

static int64_t result_tiles(const zmi_call *c) {
  plan p = plan_of(c, SUM);
  return p.side ? zmi_tiles_of(p.outer, tile_sides(&p)) : zmi_tiles_of(p.lines * p.blocks, tile_lines(&p));
}

static size_t scratch(const zmi_call *c) {
  plan p = plan_of(c, SUM);
  return p.blocks > 1 ? (size_t)(p.outer * p.inner * p.blocks) * sizeof(value) : 0;
}

static void run_totals(const zmi_call *c, scan_kind kind, int64_t begin, int64_t end) {
  plan p = plan_of(c, kind);
  for (int64_t i = begin; i < end; i++) run_block(&p, i / (p.blocks - 1), i % (p.blocks - 1), true);
}

static void run_carries(const zmi_call *c, scan_kind kind, int64_t begin, int64_t end) {
  plan p = plan_of(c, kind);
  const int64_t last = ZMI_MIN(end * ROWS, p.outer * p.inner);
  for (int64_t row = begin * ROWS; row < last; row++) {
    value *totals = p.totals + row * p.blocks;
    for (int64_t b = 1; b < p.blocks - 1; b++) {
      value sum = totals[b - 1];
      p.scan->join(&sum, &totals[b]);
      totals[b] = sum;
    }
  }
}

static void run_results(const zmi_call *c, scan_kind kind, int64_t begin, int64_t end) {
  plan p = plan_of(c, kind);
  if (p.side) {
    side_by_side(&p, begin * tile_sides(&p), ZMI_MIN(end * tile_sides(&p), p.outer));
    return;
  }
  const int64_t lines = tile_lines(&p), last = ZMI_MIN(end * lines, p.lines * p.blocks);
  p.past = (p.inner == 1 || p.width > 1) && zmi_streams(c);
  for (int64_t i = begin * lines; i < last; i++) run_block(&p, i / p.blocks, i % p.blocks, false);
  if (p.past) zmi_copied_past();
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zmi_scan_attrs *a = attrs;
  char text[128];
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (a->axis < 0 || a->axis >= in[0].rank)
    return zmi_fail(ZM_ERROR_ARGUMENT, "axis %lld is out of range for %s", (long long)a->axis, zmi_type_text(&in[0], text));
  return zmi_give(nout, out, in[0].dtype, in[0].rank, in[0].shape);
}

static zm_status float_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  zm_status status = infer(attrs, nin, in, nout, out);
  if (status != ZM_OK || zmi_dtype_is_float(in[0].dtype)) return status;
  return zmi_fail(ZM_ERROR_ARGUMENT, "expected a float dtype, found %s", zm_dtype_name(in[0].dtype));
}

#define ROW(word, kind, rule, text)                                                                                                        \
  static void word##_totals(const zmi_call *c, int64_t begin, int64_t end) {                                                               \
    run_totals(c, kind, begin, end);                                                                                                       \
  }                                                                                                                                        \
  static void word##_carries(const zmi_call *c, int64_t begin, int64_t end) {                                                              \
    run_carries(c, kind, begin, end);                                                                                                      \
  }                                                                                                                                        \
  static void word##_results(const zmi_call *c, int64_t begin, int64_t end) {                                                              \
    run_results(c, kind, begin, end);                                                                                                      \
  }                                                                                                                                        \
  const zmi_op zmi_op_##word = {.name = #word,                                                                                             \
                                .operands = "x",                                                                                           \
                                .fields = fields,                                                                                          \
                                .rounding = text,                                                                                          \
                                .infer = rule,                                                                                             \
                                .scratch = scratch,                                                                                        \
                                .stages = {{total_tiles, word##_totals}, {carry_tiles, word##_carries}, {result_tiles, word##_results}},   \
                                .rules = &zmi_rules_##word};                                                                               \
  zm_array *zm_##word(zm_array *a, int axis, bool reverse, bool inclusive) {                                                               \
    return build(&zmi_op_##word, kind, a, axis, reverse, inclusive);                                                                       \
  }

static zm_array *build(const zmi_op *op, scan_kind kind, zm_array *a, int axis, bool reverse, bool inclusive) {
  int at;
  if (!zmi_present(op->name, 1, &a) || !zmi_axis(op->name, axis, a->type.rank, &at)) return NULL;
  if (kind == SUM && a->type.dtype == ZM_BOOL) a = zm_astype(a, ZM_I32);
  if (kind == LOG && a) a = zm_astype(a, zmi_at_least_float(a->type.dtype));
  return zmi_apply1(op, &(zmi_scan_attrs){at, reverse, inclusive}, sizeof(zmi_scan_attrs), 1, &a);
}

// clang-format off
ROW(cumsum, SUM, infer, "float32 sums in the order of running results, each rounded once to the dtype; integers wrap around")
ROW(cumprod, PROD, infer, "float32 products in the order of running results, each rounded once to the dtype; integers wrap around")
ROW(cummax, MAX, infer, "exact; NaN from the first NaN on; a denormal counts as zero; the first of equal zeros")
ROW(cummin, MIN, infer, "exact; NaN from the first NaN on; a denormal counts as zero; the first of equal zeros")
ROW(logcumsumexp, LOG, float_infer,
    "m + log(s) in float32, m the largest so far, s the running sum of exp(x - m); rounded once to the dtype")
// clang-format on
