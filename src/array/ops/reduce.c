// Reductions over one axis: sum, mean, max, min, argmax, argmin. The operand is contiguous and seen as [outer, K, inner]; a block is up to
// WIDTH neighbouring results of one outer index (just one if inner is 1, where K itself is contiguous), or those of a group of outer
// indices that were turned (turn.c).
//
// Order of a float sum (the lane order): 16 lanes, lane l adds up k = l, l + 16, ... from +0; then lanes l and l + 8 are added, then
// l + 4, l + 2, l + 1.
// The winner of max, min, argmax and argmin is the lowest index among equals; a NaN beats everything.
#include "array/ops/ops.h"

#include <string.h>
#include <zmlx/elementwise.h>
#include <zmlx/ops.h>

// Wide blocks read memory in long runs; they are narrower where there would be too few of them for the workers.
enum { WIDTH = 256, NARROW = 64, ENOUGH = 8, LANES = 16, AHEAD = 8 /* rows asked for before they are read */ };

typedef struct reduce_attrs {
  int64_t axis, keepdims;
} reduce_attrs;

static const zmi_field fields[] = {
    {"axis", ZMI_FIELD_INT, offsetof(reduce_attrs, axis), NULL}, {"keepdims", ZMI_FIELD_INT, offsetof(reduce_attrs, keepdims), NULL}, {0}};

typedef struct layout {
  int64_t outer, k, inner;
} layout;

static layout layout_of(const zmi_call *c) {
  const zmi_type *t = &c->in[0]->type;
  int axis = (int)((const reduce_attrs *)c->attrs)->axis;
  layout l = {1, t->shape[axis], 1};
  for (int i = 0; i < axis; i++) l.outer *= t->shape[i];
  for (int i = axis + 1; i < t->rank; i++) l.inner *= t->shape[i];
  return l;
}

// One block: results [at, at + width) of the output.
typedef struct block {
  const zmi_kernels *kernels;
  zm_dtype dtype, to;
  const char *src; // element k = 0 of the first result
  char *dst;
  int64_t k, inner, width;
  bool near; // in the cache already
} block;

static const void *row_of(const block *b, int64_t k) {
  return b->src + (size_t)(k * b->inner) * zm_dtype_size(b->dtype);
}

// n floats from position k of a row, or the block's floats at k: where they are, or in `buffer`.
static const float *floats_at(const block *b, int64_t k, int64_t n, float *buffer) {
  const void *from = row_of(b, k);
  if (b->inner != 1 && !b->near && k + AHEAD < b->k) {
    const char *soon = row_of(b, k + AHEAD);
    for (size_t at = 0; at < (size_t)n * zm_dtype_size(b->dtype); at += 64) __builtin_prefetch(soon + at);
  }
  if (b->dtype == ZM_F32) return from;
  b->kernels->load(from, b->dtype, n, buffer);
  return buffer;
}

// ---- floats: sums ----

static void sum_of_row(const block *b, float *sum) {
  float lane[LANES] = {0}, buffer[ZMI_CHUNK];
  for (int64_t at = 0; at < b->k; at += ZMI_CHUNK) {
    int64_t n = ZMI_MIN(b->k - at, ZMI_CHUNK), i = 0;
    const float *part = floats_at(b, at, n, buffer);
    for (; i + LANES <= n; i += LANES) {
      for (int l = 0; l < LANES; l++) lane[l] += part[i + l];
    }
    for (int l = 0; i + l < n; l++) lane[l] += part[i + l];
  }
  for (int h = LANES / 2; h > 0; h /= 2) {
    for (int l = 0; l < h; l++) lane[l] += lane[l + h];
  }
  *sum = lane[0];
}

static void sum_of_columns(const block *b, float *sum) {
  _Alignas(64) float lane[LANES][WIDTH], buffer[WIDTH];
  const int lanes = (int)ZMI_MIN(b->k, LANES); // others stay +0, which changes no sum that began with +0
  for (int l = 0; l < ZMI_MAX(lanes, 1); l++) memset(lane[l], 0, (size_t)b->width * sizeof(float));
  for (int64_t k = 0; k < b->k; k++) {
    float *restrict to = lane[k % LANES];
    const float *restrict part = floats_at(b, k, b->width, buffer);
    for (int64_t j = 0; j < b->width; j++) to[j] += part[j];
  }
  for (int h = LANES / 2; h > 0; h /= 2) {
    for (int l = 0; l < h && l + h < lanes; l++) {
      for (int64_t j = 0; j < b->width; j++) lane[l][j] += lane[l + h][j];
    }
  }
  memcpy(sum, lane[0], (size_t)b->width * sizeof *sum);
}

static void sum_of_floats(const block *b, float *sum) {
  if (b->inner == 1)
    sum_of_row(b, sum);
  else
    sum_of_columns(b, sum);
}

static void float_sum(const block *b) {
  float sum[WIDTH];
  sum_of_floats(b, sum);
  b->kernels->store(sum, b->width, b->dst, b->to);
}

static void float_mean(const block *b) {
  float sum[WIDTH];
  sum_of_floats(b, sum);
  for (int64_t j = 0; j < b->width; j++) sum[j] /= (float)b->k;
  b->kernels->store(sum, b->width, b->dst, b->to);
}

// ---- floats: winners. In lanes or columns side by side, without branches, for vector compilers ----

// The larger (or smaller) of each place of n values and what was there; nan: whether there was a NaN.
#define EXTREME(name, sign)                                                                                                                \
  static inline void name(const float *restrict x, int64_t n, float *restrict best, int32_t *restrict nan) {                               \
    for (int64_t j = 0; j < n; j++) {                                                                                                      \
      best[j] = x[j] sign best[j] ? x[j] : best[j];                                                                                        \
      nan[j] |= x[j] != x[j];                                                                                                              \
    }                                                                                                                                      \
  }
EXTREME(larger, >)
EXTREME(smaller, <)

// The same of a row in so many lanes. Fixed numbers of them stay in registers; short rows have few, which must be joined.
#define EXTREMES(name, step, lanes)                                                                                                        \
  static void name(const float *restrict x, int64_t n, float *restrict to, int32_t *restrict seen) {                                       \
    float best[lanes];                                                                                                                     \
    int32_t nan[lanes];                                                                                                                    \
    int64_t i = 0;                                                                                                                         \
    memcpy(best, to, sizeof best);                                                                                                         \
    memcpy(nan, seen, sizeof nan);                                                                                                         \
    for (; i + (lanes) <= n; i += (lanes)) step(x + i, lanes, best, nan);                                                                  \
    step(x + i, n - i, best, nan);                                                                                                         \
    memcpy(to, best, sizeof best);                                                                                                         \
    memcpy(seen, nan, sizeof nan);                                                                                                         \
  }
EXTREMES(larger_each, larger, 1)
EXTREMES(smaller_each, smaller, 1)
EXTREMES(larger_some, larger, LANES)
EXTREMES(smaller_some, smaller, LANES)
EXTREMES(larger_many, larger, NARROW)
EXTREMES(smaller_many, smaller, NARROW)

typedef void (*extreme_fn)(const float *restrict x, int64_t n, float *restrict best, int32_t *restrict nan);
static const extreme_fn each[] = {larger_each, smaller_each}, some[] = {larger_some, smaller_some}, many[] = {larger_many, smaller_many};

static void extremes(const block *b, bool least, float *best, int32_t *nan) {
  float buffer[ZMI_CHUNK];
  void (*const step)(const float *, int64_t, float *, int32_t *) = least ? smaller : larger;
  if (b->inner != 1) {
    memcpy(best, floats_at(b, 0, b->width, buffer), (size_t)b->width * sizeof *best);
    memset(nan, 0, (size_t)b->width * sizeof *nan);
    for (int64_t k = 0; k < b->k; k++) step(floats_at(b, k, b->width, buffer), b->width, best, nan);
    return;
  }
  const int lanes = b->k >= 4 * NARROW ? NARROW : b->k >= LANES ? LANES : 1;
  for (int64_t at = 0; at < b->k; at += ZMI_CHUNK) {
    const int64_t n = ZMI_MIN(b->k - at, ZMI_CHUNK);
    const float *x = floats_at(b, at, n, buffer);
    if (at == 0) {
      for (int l = 0; l < lanes; l++) best[l] = x[0], nan[l] = 0;
    }
    (lanes == NARROW ? many : lanes == LANES ? some : each)[least](x, n, best, nan);
  }
  for (int l = 1; l < lanes; l++) step(best + l, 1, best, nan), nan[0] |= nan[l];
}

static void float_winner(const block *b, bool least) {
  static const union {
    uint32_t u;
    float f;
  } one_nan = {.u = 0x7fc00000u};
  float best[WIDTH];
  int32_t nan[WIDTH];
  extremes(b, least, best, nan);
  // One NaN and one zero, whichever there were.
  for (int64_t j = 0; j < b->width; j++) best[j] = nan[j] ? one_nan.f : best[j] + 0.0f;
  b->kernels->store(best, b->width, b->dst, b->to);
}

// Places of the largest so far: the first of equals, a NaN beats everything.
static inline __attribute__((always_inline)) void compete(const float *restrict x, int64_t n, uint32_t k, float *restrict best,
                                                          uint32_t *restrict place) {
  for (int64_t j = 0; j < n; j++) {
    const int wins = (x[j] > best[j]) | ((x[j] != x[j]) & (best[j] == best[j]));
    best[j] = wins ? x[j] : best[j];
    place[j] = wins ? k : place[j];
  }
}

// The smallest of x is the largest of -x.
static const float *signed_at(const block *b, bool least, int64_t k, int64_t n, float *buffer) {
  const float *x = floats_at(b, k, n, buffer);
  for (int64_t j = 0; j < n && least; j++) buffer[j] = -x[j];
  return least ? buffer : x;
}

static void places_of_columns(const block *b, bool least, uint32_t *place) {
  float best[WIDTH], buffer[WIDTH];
  memcpy(best, signed_at(b, least, 0, b->width, buffer), (size_t)b->width * sizeof *best);
  memset(place, 0, (size_t)b->width * sizeof *place);
  for (int64_t k = 1; k < b->k; k++) compete(signed_at(b, least, k, b->width, buffer), b->width, (uint32_t)k, best, place);
}

// Lane l sees places l, l + LANES, ...; `place` counts turns until the end.
static uint32_t place_in_row(const block *b, bool least) {
  float best[LANES], buffer[ZMI_CHUNK];
  uint32_t turn[LANES] = {0};
  const int lanes = (int)ZMI_MIN(b->k, LANES);
  for (int64_t at = 0; at < b->k; at += ZMI_CHUNK) {
    const int64_t n = ZMI_MIN(b->k - at, ZMI_CHUNK);
    const float *x = signed_at(b, least, at, n, buffer);
    if (at == 0) memcpy(best, x, (size_t)lanes * sizeof *best);
    for (int64_t i = 0; i + LANES <= n; i += LANES) compete(x + i, LANES, (uint32_t)((at + i) / LANES), best, turn);
    if (n % LANES) compete(x + n / LANES * LANES, n % LANES, (uint32_t)((at + n) / LANES), best, turn);
  }
  uint64_t found = (uint64_t)turn[0] * LANES;
  float most = best[0];
  for (int l = 1; l < lanes; l++) {
    const uint64_t place = (uint64_t)turn[l] * LANES + (uint64_t)l;
    const bool more = best[l] > most || (best[l] != best[l] && most == most);
    const bool equal = best[l] == most || (best[l] != best[l] && most != most);
    if (!more && !(equal && place < found)) continue;
    found = place;
    most = best[l];
  }
  return (uint32_t)found;
}

static void float_max(const block *b) {
  float_winner(b, false);
}

static void float_min(const block *b) {
  float_winner(b, true);
}

static void float_place(const block *b, bool least) {
  uint32_t place[WIDTH];
  if (b->inner == 1)
    place[0] = place_in_row(b, least);
  else
    places_of_columns(b, least, place);
  memcpy(b->dst, place, (size_t)b->width * sizeof *place);
}

static void float_argmax(const block *b) {
  float_place(b, false);
}

static void float_argmin(const block *b) {
  float_place(b, true);
}

// ---- integers and bool ----

// Sums wrap around, so those of 32 bits need no more than 32.
#define INTEGER(T, SUM)                                                                                                                    \
  static void sums_##T(const block *b, uint64_t *sum) {                                                                                    \
    const T *x = (const T *)(const void *)b->src;                                                                                          \
    SUM total[WIDTH] = {0};                                                                                                                \
    for (int64_t k = 0; k < b->k; k++) {                                                                                                   \
      const T *line = x + k * b->inner;                                                                                                    \
      for (int64_t j = 0; j < b->width; j++) {                                                                                             \
        const SUM v = (SUM)line[j];                                                                                                        \
        total[j] += v;                                                                                                                     \
      }                                                                                                                                    \
    }                                                                                                                                      \
    for (int64_t j = 0; j < b->width; j++) sum[j] = total[j];                                                                              \
  }                                                                                                                                        \
  static void row_sum_##T(const block *b, uint64_t *sum) {                                                                                 \
    const T *x = (const T *)(const void *)b->src;                                                                                          \
    SUM total = 0;                                                                                                                         \
    for (int64_t k = 0; k < b->k; k++) {                                                                                                   \
      const SUM v = (SUM)x[k];                                                                                                             \
      total += v;                                                                                                                          \
    }                                                                                                                                      \
    sum[0] = total;                                                                                                                        \
  }                                                                                                                                        \
  static void winners_##T(const block *b, bool least, void *winner) {                                                                      \
    const T *x = (const T *)(const void *)b->src;                                                                                          \
    T best[WIDTH], most = x[0];                                                                                                            \
    memcpy(best, x, (size_t)b->width * sizeof *best);                                                                                      \
    for (int64_t k = 1; k < b->k && b->inner == 1 && least; k++) most = x[k] < most ? x[k] : most;                                         \
    for (int64_t k = 1; k < b->k && b->inner == 1 && !least; k++) most = x[k] > most ? x[k] : most;                                        \
    for (int64_t k = 1; k < b->k && b->inner != 1; k++) {                                                                                  \
      const T *line = x + k * b->inner;                                                                                                    \
      for (int64_t j = 0; j < b->width && least; j++) best[j] = line[j] < best[j] ? line[j] : best[j];                                     \
      for (int64_t j = 0; j < b->width && !least; j++) best[j] = line[j] > best[j] ? line[j] : best[j];                                    \
    }                                                                                                                                      \
    if (b->inner == 1) best[0] = most;                                                                                                     \
    memcpy(winner, best, (size_t)b->width * sizeof *best);                                                                                 \
  }                                                                                                                                        \
  static void places_##T(const block *b, bool least, uint32_t *place) {                                                                    \
    const T *x = (const T *)(const void *)b->src;                                                                                          \
    T best[WIDTH];                                                                                                                         \
    memcpy(best, x, (size_t)b->width * sizeof *best);                                                                                      \
    memset(place, 0, (size_t)b->width * sizeof *place);                                                                                    \
    for (int64_t k = 1; k < b->k; k++) {                                                                                                   \
      const T *line = x + k * b->inner;                                                                                                    \
      for (int64_t j = 0; j < b->width; j++) {                                                                                             \
        const bool wins = least ? line[j] < best[j] : line[j] > best[j];                                                                   \
        best[j] = wins ? line[j] : best[j];                                                                                                \
        place[j] = wins ? (uint32_t)k : place[j];                                                                                          \
      }                                                                                                                                    \
    }                                                                                                                                      \
  }
INTEGER(uint8_t, uint32_t)
INTEGER(uint16_t, uint32_t)
INTEGER(uint32_t, uint32_t)
INTEGER(uint64_t, uint64_t)
INTEGER(int8_t, uint32_t)
INTEGER(int16_t, uint32_t)
INTEGER(int32_t, uint32_t)
INTEGER(int64_t, uint64_t)

#define ENTRY(dtype, sum, T) [dtype] = {sum, sums_##T, row_sum_##T, winners_##T, places_##T}
// The dtype of a sum is at least 32 bits wide, as in MLX.
static const struct {
  zm_dtype sum;
  void (*sums)(const block *b, uint64_t *sum);
  void (*row_sum)(const block *b, uint64_t *sum);
  void (*winners)(const block *b, bool least, void *winner);
  void (*places)(const block *b, bool least, uint32_t *place);
} integers[ZM_DTYPE_COUNT] = {
    ENTRY(ZM_BOOL, ZM_I32, uint8_t), ENTRY(ZM_U8, ZM_U32, uint8_t),   ENTRY(ZM_U16, ZM_U32, uint16_t),
    ENTRY(ZM_U32, ZM_U32, uint32_t), ENTRY(ZM_U64, ZM_U64, uint64_t), ENTRY(ZM_I8, ZM_I32, int8_t),
    ENTRY(ZM_I16, ZM_I32, int16_t),  ENTRY(ZM_I32, ZM_I32, int32_t),  ENTRY(ZM_I64, ZM_I64, int64_t),
};

static void integer_sum(const block *b) {
  uint64_t sum[WIDTH];
  size_t size = zm_dtype_size(b->to);
  (b->inner == 1 ? integers[b->dtype].row_sum : integers[b->dtype].sums)(b, sum);
  for (int64_t j = 0; j < b->width; j++) memcpy(b->dst + (size_t)j * size, &sum[j], size); // the low bytes: little-endian
}

static void integer_max(const block *b) {
  integers[b->dtype].winners(b, false, b->dst);
}

static void integer_min(const block *b) {
  integers[b->dtype].winners(b, true, b->dst);
}

static void integer_argmax(const block *b) {
  integers[b->dtype].places(b, false, (uint32_t *)(void *)b->dst);
}

static void integer_argmin(const block *b) {
  integers[b->dtype].places(b, true, (uint32_t *)(void *)b->dst);
}

// ---- tiles ----

// Results of a tile where inner is 1: about ZMI_TILE elements.
static int64_t tile_rows(const layout *l) {
  return l->k >= ZMI_TILE ? 1 : ZMI_TILE / ZMI_MAX(l->k, 1);
}

static int64_t width_of(const layout *l) {
  int64_t width = WIDTH;
  while (width > NARROW && l->outer * zmi_tiles_of(l->inner, width) < ENOUGH) width /= 2;
  return width;
}

enum { GROUPS = 4 }; // of rows that were turned, in a tile

static int64_t tiles(const zmi_call *c) {
  layout l = layout_of(c);
  if (zmi_side_by_side(l.outer, l.k, l.inner)) return zmi_tiles_of(l.outer, GROUPS * zmi_side_rows(l.k, l.inner, WIDTH));
  return l.inner == 1 ? zmi_tiles_of(l.outer, tile_rows(&l)) : l.outer * zmi_tiles_of(l.inner, width_of(&l));
}

typedef void (*block_fn)(const block *b);

// Short rows that were turned to columns, for which `fn` makes the results.
typedef struct side {
  block b;
  block_fn fn;
} side;

static void side_columns(void *user, const void *src, int64_t width, void *dst) {
  const side *s = user;
  block b = s->b;
  b.src = src;
  b.dst = dst;
  b.inner = b.width = width;
  b.near = true;
  if (zmi_dtype_is_float(b.dtype)) b.dtype = ZM_F32;
  s->fn(&b);
}

static void run(const zmi_call *c, block_fn floats, block_fn ints, int64_t begin, int64_t end) {
  layout l = layout_of(c);
  block b = {.kernels = c->kernels, .dtype = c->in[0]->type.dtype, .to = c->out[0]->type.dtype, .k = l.k, .inner = l.inner, .width = 1};
  block_fn fn = zmi_dtype_is_float(b.dtype) ? floats : ints;
  size_t size = zm_dtype_size(b.dtype), to_size = zm_dtype_size(b.to);
  if (zmi_side_by_side(l.outer, l.k, l.inner)) {
    const int64_t rows = GROUPS * zmi_side_rows(l.k, l.inner, WIDTH);
    zmi_reduce_side_by_side(c, l.k, l.inner, WIDTH, begin * rows, ZMI_MIN(end * rows, l.outer), side_columns, &(side){b, fn});
    return;
  }
  if (l.inner == 1) {
    int64_t rows = tile_rows(&l), last = ZMI_MIN(end * rows, l.outer);
    for (int64_t o = begin * rows; o < last; o++) {
      b.src = (const char *)c->src[0] + (size_t)(o * l.k) * size;
      b.dst = (char *)c->dst[0] + (size_t)o * to_size;
      fn(&b);
    }
    return;
  }
  int64_t width = width_of(&l), blocks = zmi_tiles_of(l.inner, width);
  for (int64_t tile = begin; tile < end; tile++) {
    int64_t o = tile / blocks, col = tile % blocks * width;
    b.width = ZMI_MIN(l.inner - col, width);
    b.src = (const char *)c->src[0] + (size_t)(o * l.k * l.inner + col) * size;
    b.dst = (char *)c->dst[0] + (size_t)(o * l.inner + col) * to_size;
    fn(&b);
  }
}

// ---- shape rules ----

static zm_status infer(const reduce_attrs *a, int nin, const zmi_type *in, zm_dtype to, bool may_be_empty, int *nout, zmi_type *out) {
  char text[128];
  int64_t shape[ZM_MAX_RANK];
  int rank = 0;
  if (a->axis < 0 || a->axis >= in[0].rank) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "axis %lld is out of range for %s", (long long)a->axis, zmi_type_text(&in[0], text));
  }
  if (!may_be_empty && in[0].shape[a->axis] == 0) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "axis %lld of %s has no elements to choose from", (long long)a->axis, zmi_type_text(&in[0], text));
  }
  (void)nin;
  for (int i = 0; i < in[0].rank; i++) {
    if (i != a->axis)
      shape[rank++] = in[0].shape[i];
    else if (a->keepdims)
      shape[rank++] = 1;
  }
  return zmi_give(nout, out, to, rank, shape);
}

static zm_status sum_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  zm_dtype dtype = in[0].dtype;
  return infer(attrs, nin, in, zmi_dtype_is_float(dtype) ? dtype : integers[dtype].sum, true, nout, out);
}

static zm_status mean_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (!zmi_dtype_is_float(in[0].dtype)) return zmi_fail(ZM_ERROR_ARGUMENT, "expected a float dtype, found %s", zm_dtype_name(in[0].dtype));
  return infer(attrs, nin, in, in[0].dtype, true, nout, out);
}

static zm_status winner_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  zm_status status = zmi_check_operands(nin, in, 1);
  return status == ZM_OK ? infer(attrs, nin, in, in[0].dtype, false, nout, out) : status;
}

static zm_status argmax_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status == ZM_OK) status = infer(attrs, nin, in, ZM_U32, false, nout, out);
  if (status != ZM_OK || in[0].shape[((const reduce_attrs *)attrs)->axis] <= UINT32_MAX) return status;
  return zmi_fail(ZM_ERROR_ARGUMENT, "more than 2^32 elements to choose from");
}

// ---- rules of transforms ----

static const reduce_attrs *attrs_of(const zmi_node *n) {
  return (const reduce_attrs *)(const void *)n->attrs.bytes;
}

// Along the axis again.
static zm_array *spread(const zmi_node *n, zm_array *v) {
  return zmi_spread(v, (int)attrs_of(n)->axis, attrs_of(n)->keepdims != 0, &n->in[0]->type);
}

static zm_array *sum_of(const zmi_node *n, zm_array *v) {
  return zm_sum(v, (int)attrs_of(n)->axis, attrs_of(n)->keepdims != 0);
}

// v / the number of elements, which need not be a number of v's dtype.
static zm_array *shared(const zmi_node *n, zm_array *v) {
  const double count = (double)n->in[0]->type.shape[attrs_of(n)->axis];
  return zm_astype(zm_divide(zm_astype(v, ZM_F32), zm_full(count, ZM_F32, NULL, 0)), n->in[0]->type.dtype);
}

// 1 / the number of winners at the winners, else 0, in the operand's dtype.
static zm_array *shares(const zmi_node *n) {
  const zm_dtype dtype = n->in[0]->type.dtype;
  zm_array *won = zm_equal(n->in[0], spread(n, zmi_result(n, 0)));
  return zm_divide(zm_astype(won, dtype), spread(n, zm_astype(sum_of(n, zm_astype(won, ZM_F32)), dtype)));
}

static zm_status sum_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)wanted;
  gradient[0] = spread(n, given[0]);
  return ZM_OK;
}

static zm_status sum_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  result[0] = sum_of(n, tangent[0]);
  return ZM_OK;
}

static zm_status mean_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)wanted;
  gradient[0] = spread(n, shared(n, given[0]));
  return ZM_OK;
}

static zm_status mean_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  result[0] = zm_mean(tangent[0], (int)attrs_of(n)->axis, attrs_of(n)->keepdims != 0);
  return ZM_OK;
}

static zm_status winner_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)wanted;
  gradient[0] = zm_multiply(spread(n, given[0]), shares(n));
  return ZM_OK;
}

static zm_status winner_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  result[0] = sum_of(n, zm_multiply(tangent[0], shares(n)));
  return ZM_OK;
}

static zm_status reduce_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  (void)size, (void)batched;
  reduce_attrs a = {attrs_of(n)->axis + 1, attrs_of(n)->keepdims};
  return zmi_apply(n->op, &a, sizeof a, 1, in, out);
}

static const zmi_rules sum_rules = {.vjp = sum_vjp, .jvp = sum_jvp, .vmap = reduce_vmap, .gradient = "x"};
static const zmi_rules mean_rules = {.vjp = mean_vjp, .jvp = mean_jvp, .vmap = reduce_vmap, .gradient = "x"};
static const zmi_rules max_rules = {.vjp = winner_vjp, .jvp = winner_jvp, .vmap = reduce_vmap, .gradient = "x; equals share it"};
static const zmi_rules min_rules = {.vjp = winner_vjp, .jvp = winner_jvp, .vmap = reduce_vmap, .gradient = "x; equals share it"};
#define argmin_rules argmax_rules
static const zmi_rules argmax_rules = {.vmap = reduce_vmap, .gradient = "none: results are integers"};

// ---- the table ----

#define ROW(word, rule, float_fn, integer_fn, source, text)                                                                                \
  static void word##_run(const zmi_call *c, int64_t begin, int64_t end) {                                                                  \
    run(c, float_fn, integer_fn, begin, end);                                                                                              \
  }                                                                                                                                        \
  static bool word##_kernel(const zmi_call *c, zmi_op_kernel *k) {                                                                         \
    return zmi_reduction_kernel(c, source, ((const reduce_attrs *)c->attrs)->axis, NULL, 0, k);                                            \
  }                                                                                                                                        \
  const zmi_op zmi_op_##word = {.name = #word,                                                                                             \
                                .operands = "x",                                                                                           \
                                .fields = fields,                                                                                          \
                                .rounding = text,                                                                                          \
                                .infer = rule,                                                                                             \
                                .kernel = word##_kernel,                                                                                   \
                                .stages = {{tiles, word##_run}},                                                                           \
                                .rules = &word##_rules};

// clang-format off
ROW(sum, sum_infer, float_sum, integer_sum, "elements { s = sum(x); } y = s;",
    "float32 sum in the lane order, rounded once to the dtype; integers wrap around in 32 bits or more")
ROW(mean, mean_infer, float_mean, NULL, "elements { s = sum(x); } y = s / D;",
    "float32 sum in the lane order, divided by the count in float32, rounded once to the dtype")
ROW(max, winner_infer, float_max, integer_max, "elements { m = max(x); } y = m;", "exact; NaN if any is NaN; a zero is +0")
ROW(min, winner_infer, float_min, integer_min, "elements { m = min(x); } y = m;", "exact; NaN if any is NaN; a zero is +0")
ROW(argmax, argmax_infer, float_argmax, integer_argmax, "elements { a = argmax(x); } y = uint(a);",
    "exact; the lowest index among equals; the first NaN if there is one")
ROW(argmin, argmax_infer, float_argmin, integer_argmin, "elements { a = argmin(x); } y = uint(a);",
    "exact; the lowest index among equals; the first NaN if there is one")
// clang-format on

// Of a transpose its source is reduced, where it lies, and the smaller result is turned.
static zm_array *build_turned(const zmi_op *op, zm_array *a, const int64_t *axes, int at, bool keepdims) {
  int order[ZM_MAX_RANK], n = 0;
  bool turned = false;
  for (int i = 0; i < a->type.rank; i++) {
    if (i == at && !keepdims) continue;
    order[n] = (int)(axes[i] - (!keepdims && axes[i] > axes[at]));
    turned = turned || order[n] != n;
    n++;
  }
  zm_array *y = zmi_apply1(op, &(reduce_attrs){axes[at], keepdims}, sizeof(reduce_attrs), 1, &a->node->in[0]);
  return y && turned ? zm_transpose(y, order) : y;
}

static zm_array *build(const zmi_op *op, zm_array *a, int axis, bool keepdims) {
  int at;
  if (!zmi_present(op->name, 1, &a) || !zmi_axis(op->name, axis, a->type.rank, &at)) return NULL;
  const int64_t *axes = zmi_transposed(a);
  if (axes && a->type.shape[at] > 0) return build_turned(op, a, axes, at, keepdims);
  return zmi_apply1(op, &(reduce_attrs){at, keepdims}, sizeof(reduce_attrs), 1, &a);
}

zm_array *zm_sum(zm_array *a, int axis, bool keepdims) {
  return build(&zmi_op_sum, a, axis, keepdims);
}

zm_array *zm_mean(zm_array *a, int axis, bool keepdims) {
  return build(&zmi_op_mean, a ? zm_astype(a, zmi_at_least_float(a->type.dtype)) : NULL, axis, keepdims);
}

zm_array *zm_max(zm_array *a, int axis, bool keepdims) {
  return build(&zmi_op_max, a, axis, keepdims);
}

zm_array *zm_min(zm_array *a, int axis, bool keepdims) {
  return build(&zmi_op_min, a, axis, keepdims);
}

zm_array *zm_argmax(zm_array *a, int axis, bool keepdims) {
  return build(&zmi_op_argmax, a, axis, keepdims);
}

zm_array *zm_argmin(zm_array *a, int axis, bool keepdims) {
  return build(&zmi_op_argmin, a, axis, keepdims);
}
