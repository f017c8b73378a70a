// Short rows side by side. A loop over a row of a few elements is mostly its own overhead; the same positions of many rows are one long
// line. So groups of rows are turned, and the code for columns does the rest: its order of sums is that of rows.
#include "array/ops/ops.h"

enum { ROW = 64, MATRIX = 512, INNER = 32, ENOUGH = 8 /* rows, below which turning does not pay */ };

_Static_assert((int)ROW <= (int)ZMI_SIDE && (int)MATRIX <= (int)ZMI_SIDE, "what one outer index has must fit the memory of turned rows");

bool zmi_side_by_side(int64_t outer, int64_t k, int64_t inner) {
  if (k < 1 || inner < 1 || inner > INNER || outer < ENOUGH) return false;
  return k <= (inner == 1 ? ROW : MATRIX) / inner;
}

int64_t zmi_side_rows(int64_t k, int64_t inner, int64_t width) {
  return ZMI_MAX(1, ZMI_MIN(width / inner, ZMI_SIDE / (k * inner)));
}

typedef uint32_t four __attribute__((vector_size(16)));
typedef uint32_t four_in_memory __attribute__((vector_size(16), aligned(4), may_alias));
#if defined(__clang__)
#define MIX(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define MIX(a, b, i, j, k, l) __builtin_shuffle(a, b, (four){i, j, k, l})
#endif

static inline void turn_square(const uint32_t *from, int64_t from_step, uint32_t *to, int64_t to_step) {
  four r[4];
  for (int i = 0; i < 4; i++) r[i] = *(const four_in_memory *)(const void *)(from + i * from_step);
  const four a = MIX(r[0], r[1], 0, 4, 1, 5), b = MIX(r[2], r[3], 0, 4, 1, 5);
  const four c = MIX(r[0], r[1], 2, 6, 3, 7), d = MIX(r[2], r[3], 2, 6, 3, 7);
  *(four_in_memory *)(void *)to = MIX(a, b, 0, 1, 4, 5);
  *(four_in_memory *)(void *)(to + to_step) = MIX(a, b, 2, 3, 6, 7);
  *(four_in_memory *)(void *)(to + 2 * to_step) = MIX(c, d, 0, 1, 4, 5);
  *(four_in_memory *)(void *)(to + 3 * to_step) = MIX(c, d, 2, 3, 6, 7);
}

// Rows from `row` on and columns from `col` on.
#define TURN(bits)                                                                                                                         \
  static void turn##bits(const void *src, int64_t rows, int64_t cols, int64_t row, int64_t col, void *dst) {                               \
    typedef uint##bits##_t __attribute__((may_alias)) word;                                                                                \
    const word *from = src;                                                                                                                \
    word *to = dst;                                                                                                                        \
    for (int64_t j = col; j < cols; j++) {                                                                                                 \
      for (int64_t i = 0; i < rows; i++) to[j * rows + i] = from[i * cols + j];                                                            \
    }                                                                                                                                      \
    for (int64_t i = row; i < rows; i++) {                                                                                                 \
      for (int64_t j = 0; j < col; j++) to[j * rows + i] = from[i * cols + j];                                                             \
    }                                                                                                                                      \
  }
TURN(8)
TURN(16)
TURN(32)
TURN(64)

static void turn_words(const void *src, int64_t rows, int64_t cols, int64_t row, int64_t col, void *dst) {
  (void)row, (void)col;
  for (int64_t i = 0; i + 4 <= rows; i += 4) {
    for (int64_t j = 0; j + 4 <= cols; j += 4)
      turn_square((const uint32_t *)src + i * cols + j, cols, (uint32_t *)dst + j * rows + i, rows);
  }
  turn32(src, rows, cols, rows / 4 * 4, cols / 4 * 4, dst);
}

static void (*const turns[])(const void *src, int64_t rows, int64_t cols, int64_t row, int64_t col,
                             void *dst) = {[1] = turn8, [2] = turn16, [4] = turn_words, [8] = turn64};

void zmi_turn(const void *from, size_t size, int64_t rows, int64_t cols, void *to) {
  turns[size](from, rows, cols, 0, 0, to);
}

void zmi_turn_floats(const zmi_kernels *kernels, const void *from, zm_dtype dtype, int64_t rows, int64_t cols, float *to) {
  float wide[ZMI_SIDE];
  if (dtype != ZM_F32) {
    kernels->load(from, dtype, rows * cols, wide);
    from = wide;
  }
  zmi_turn(from, sizeof(float), rows, cols, to);
}

void zmi_reduce_side_by_side(const zmi_call *c, int64_t k, int64_t inner, int64_t width, int64_t first, int64_t last, zmi_columns_fn fn,
                             void *user) {
  _Alignas(64) uint64_t turned[ZMI_SIDE], result[ZMI_SIDE_COLUMNS];
  const int64_t most = zmi_side_rows(k, inner, width), own = k * inner;
  const zm_dtype dtype = c->in[0]->type.dtype;
  const size_t size = zm_dtype_size(dtype), to_size = zm_dtype_size(c->out[0]->type.dtype);
  for (int64_t o = first; o < last; o += most) {
    const int64_t rows = ZMI_MIN(most, last - o);
    const char *src = (const char *)c->src[0] + (size_t)(o * own) * size;
    char *dst = (char *)c->dst[0] + (size_t)(o * inner) * to_size;
    if (zmi_dtype_is_float(dtype))
      zmi_turn_floats(c->kernels, src, dtype, rows, own, (float *)turned);
    else
      zmi_turn(src, size, rows, own, turned);
    fn(user, turned, rows * inner, inner == 1 ? dst : (char *)result);
    if (inner != 1) zmi_turn(result, to_size, inner, rows, dst);
  }
}
