// Products of a few rows with a large matrix, in vector tiers: bound by memory, so the matrix is read once, where it lies and in long runs.
// backend.h has the form of the operands; scalar.c the definition.
#ifndef ZMI_FEW_H
#define ZMI_FEW_H

#include "backend/cpu/simd.h"

// ---- rows of the matrix run along the columns ----

// Rows of b that meet an accumulator while it is in a register, and vectors of columns at a time.
enum { FEW_DEPTH = 4, FEW_VECTORS = 4 };

ZMI_INLINE vf few_load(zm_dtype dtype, const char *row, int64_t at) {
  if (dtype == ZM_F32) return vf_load(row + at * 4);
  return dtype == ZM_BF16 ? vf_load_bf16(row + at * 2) : vf_load_f16(row + at * 2);
}

// y = fma(x[q], row[q], y) for `depth` rows; all but the pointers and `at` are constants at each call.
ZMI_INLINE void few_block(zm_dtype dtype, int depth, int vectors, const float *x, const char *const *row, int64_t at, float *acc) {
  vf y[FEW_VECTORS];
  ZMI_UNROLL_FULL
  for (int v = 0; v < vectors; v++) y[v] = vf_load(acc + v * ZMI_WIDE);
  ZMI_UNROLL_FULL
  for (int q = 0; q < depth; q++) {
    vf s = vf_set1(x[q]);
    ZMI_UNROLL_FULL
    for (int v = 0; v < vectors; v++) y[v] = vf_fma(s, few_load(dtype, row[q], at + v * ZMI_WIDE), y[v]);
  }
  ZMI_UNROLL_FULL
  for (int v = 0; v < vectors; v++) vf_store(acc + v * ZMI_WIDE, y[v]);
}

// `depth` rows as float32 side by side: what several rows of a share.
ZMI_INLINE void few_widen(zm_dtype dtype, int depth, const char *const *row, int64_t at, float *wide) {
  for (int q = 0; q < depth; q++) {
    ZMI_UNROLL_FULL
    for (int v = 0; v < FEW_VECTORS; v++) vf_store(wide + (q * FEW_VECTORS + v) * ZMI_WIDE, few_load(dtype, row[q], at + v * ZMI_WIDE));
  }
}

ZMI_INLINE void few_pass(zm_dtype dtype, int depth, const float *x, int64_t rows, int64_t q, const char *b, int64_t ldb, int64_t cols,
                         float *acc, int64_t ld) {
  const int64_t size = dtype == ZM_F32 ? 4 : 2, step = FEW_VECTORS * ZMI_WIDE;
  const char *row[FEW_DEPTH], *flat[FEW_DEPTH];
  _Alignas(64) float wide[FEW_DEPTH * FEW_VECTORS * ZMI_WIDE];
  ZMI_UNROLL_FULL
  for (int d = 0; d < depth; d++) {
    row[d] = b + (q + d) * ldb * size;
    flat[d] = (const char *)(wide + d * step);
  }
  int64_t j = 0;
  if (rows == 1) {
    for (; j + step <= cols; j += step) few_block(dtype, depth, FEW_VECTORS, x + q, row, j, acc + j);
  } else if (dtype == ZM_F32) {
    for (; j + step <= cols; j += step) {
      for (int64_t i = 0; i < rows; i++) few_block(dtype, depth, FEW_VECTORS, x + i * ZMI_RANGE + q, row, j, acc + i * ld + j);
    }
  } else {
    for (; j + step <= cols; j += step) {
      few_widen(dtype, depth, row, j, wide);
      for (int64_t i = 0; i < rows; i++) few_block(ZM_F32, depth, FEW_VECTORS, x + i * ZMI_RANGE + q, flat, 0, acc + i * ld + j);
    }
  }
  for (; j + ZMI_WIDE <= cols; j += ZMI_WIDE) {
    for (int64_t i = 0; i < rows; i++) few_block(dtype, depth, 1, x + i * ZMI_RANGE + q, row, j, acc + i * ld + j);
  }
  if (j == cols) return;
  // The last columns, fewer than a vector.
  _Alignas(64) char last[FEW_DEPTH][ZMI_WIDE * 4] = {0};
  const char *rest[FEW_DEPTH];
  for (int d = 0; d < depth; d++) {
    memcpy(last[d], row[d] + j * size, (size_t)((cols - j) * size));
    rest[d] = last[d];
  }
  for (int64_t i = 0; i < rows; i++) {
    _Alignas(64) float y[ZMI_WIDE] = {0};
    memcpy(y, acc + i * ld + j, (size_t)(cols - j) * sizeof *y);
    few_block(dtype, depth, 1, x + i * ZMI_RANGE + q, rest, 0, y);
    memcpy(acc + i * ld + j, y, (size_t)(cols - j) * sizeof *y);
  }
}

#define FEW_ROWS_OF(dtype)                                                                                                                 \
  static void few_rows_##dtype(const float *x, int64_t rows, const void *b, int64_t ldb, int64_t cols, int64_t k, float *acc,              \
                               int64_t ld) {                                                                                               \
    int64_t q = 0;                                                                                                                         \
    for (; q + FEW_DEPTH <= k; q += FEW_DEPTH) few_pass(ZM_##dtype, FEW_DEPTH, x, rows, q, b, ldb, cols, acc, ld);                         \
    for (; q < k; q++) few_pass(ZM_##dtype, 1, x, rows, q, b, ldb, cols, acc, ld);                                                         \
  }
FEW_ROWS_OF(F32)
FEW_ROWS_OF(BF16)
FEW_ROWS_OF(F16)
#undef FEW_ROWS_OF

static void vector_few_rows(const float *x, int64_t rows, const void *b, zm_dtype dtype, int64_t ldb, int64_t cols, int64_t k, float *acc,
                            int64_t ld) {
  (dtype == ZM_F32 ? few_rows_F32 : dtype == ZM_BF16 ? few_rows_BF16 : few_rows_F16)(x, rows, b, ldb, cols, k, acc, ld);
}

// ---- lines of the matrix run along k: eight of them become the lanes of a vector ----

// Most sums of eight lines at a time; ranges of k between two looks at the results.
enum { FEW_SUMS = 8, FEW_RANGES = 16 };

// acc[m] = fma(x of row m, w, acc[m])
ZMI_INLINE void few_fma(int rows, const float *x, v8 w, v8 *acc) {
  ZMI_UNROLL_FULL
  for (int m = 0; m < rows; m++) acc[m] = v8_fma(x[m * ZMI_RANGE], w, acc[m]);
}

// 16 bytes of each of eight lines.
ZMI_INLINE void few_part(zm_dtype dtype, int rows, const float *x, const char *at, int64_t ld, v8 *acc) {
  v8 word[4];
  v8_turn(at, ld, word);
  ZMI_UNROLL_FULL
  for (int w = 0; w < 4; w++) {
    if (dtype == ZM_F32) {
      few_fma(rows, x + w, word[w], acc);
      continue;
    }
    v8 even, odd;
    if (dtype == ZM_BF16)
      v8_pairs_bf16(word[w], &even, &odd);
    else
      v8_pairs_f16(word[w], &even, &odd);
    few_fma(rows, x + 2 * w, even, acc);
    few_fma(rows, x + 2 * w + 1, odd, acc);
  }
}

ZMI_INLINE float few_element(zm_dtype dtype, const char *at) {
  float f;
  uint16_t h;
  if (dtype == ZM_F32) {
    memcpy(&f, at, sizeof f);
    return f;
  }
  memcpy(&h, at, sizeof h);
  return dtype == ZM_BF16 ? zmi_float((uint32_t)h << 16) : zmi_f16_to_f32(h);
}

// One range of n k: part[s * rows + m] = row m by set s of eight lines. Two sets take turns, as a sum waits for itself; more lines at a
// time are more than memory is good at. x and `at` of each set: of its range.
ZMI_INLINE void few_range(zm_dtype dtype, int rows, int sets, const float *const *x, const char *const *at, int64_t ld, int64_t n,
                          float *const *part) {
  const int size = dtype == ZM_F32 ? 4 : 2, step = 16 / size;
  v8 acc[FEW_SUMS];
  int64_t q = 0;
  ZMI_UNROLL_FULL
  for (int s = 0; s < sets * rows; s++) acc[s] = v8_zero();
  for (; q + 4 * step <= n; q += 4 * step) {
    ZMI_UNROLL_FULL
    for (int s = 0; s < sets; s++) {
      const char *line = at[s] + q * size;
      __asm__("" : "+r"(line)); // or the compiler keeps an address of each line, and has too few registers
      ZMI_UNROLL_FULL
      for (int i = 0; i < 4; i++) few_part(dtype, rows, x[s] + q + i * step, line + i * 16, ld, acc + s * rows);
    }
  }
  for (; q + step <= n; q += step) {
    ZMI_UNROLL_FULL
    for (int s = 0; s < sets; s++) few_part(dtype, rows, x[s] + q, at[s] + q * size, ld, acc + s * rows);
  }
  for (; q < n; q++) {
    ZMI_UNROLL_FULL
    for (int s = 0; s < sets; s++) {
      float one[8];
      for (int i = 0; i < 8; i++) one[i] = few_element(dtype, at[s] + i * ld + q * size);
      few_fma(rows, x[s] + q, v8_load(one), acc + s * rows);
    }
  }
  ZMI_UNROLL_FULL
  for (int s = 0; s < sets; s++) {
    ZMI_UNROLL_FULL
    for (int m = 0; m < rows; m++) v8_store(part[s] + m * 8, acc[s * rows + m]);
  }
}

// `ranges` whole ranges and a last one of `rest` k of sets of eight lines: parts[set][range][row][8]. Sets are at different ranges at any
// time, as lines are often a power of two apart: at the same place they would drive each other out of the first cache.
ZMI_INLINE void few_ranges(zm_dtype dtype, int rows, int sets, const float *x, const char *b, int64_t ld, int64_t ranges, int64_t rest,
                           float *parts) {
  const int64_t size = dtype == ZM_F32 ? 4 : 2;
  const float *xs[FEW_SUMS];
  const char *at[FEW_SUMS];
  float *part[FEW_SUMS];
  for (int64_t r = 0; r < ranges + (rest > 0); r++) {
    for (int s = 0; s < sets; s++) {
      const int64_t mine = r < ranges ? (r + s) % ranges : r;
      xs[s] = x + mine * ZMI_RANGE * rows;
      at[s] = b + s * 8 * ld + mine * ZMI_RANGE * size;
      part[s] = parts + (s * FEW_RANGES + mine) * rows * 8;
    }
    few_range(dtype, rows, sets, xs, at, ld, r < ranges ? ZMI_RANGE : rest, part);
  }
}

typedef void few_function(const float *x, const char *b, int64_t ld, int64_t ranges, int64_t rest, float *parts);

#define FEW_WAY(dtype, rows, sets)                                                                                                         \
  static void few_##dtype##_##rows##_##sets(const float *x, const char *b, int64_t ld, int64_t ranges, int64_t rest, float *parts) {       \
    few_ranges(ZM_##dtype, rows, sets, x, b, ld, ranges, rest, parts);                                                                     \
  }
#define FEW_WAYS(rows, sets) FEW_WAY(F32, rows, sets) FEW_WAY(BF16, rows, sets) FEW_WAY(F16, rows, sets)
FEW_WAYS(1, 1)
FEW_WAYS(1, 2)
FEW_WAYS(2, 1)
FEW_WAYS(2, 2)
FEW_WAYS(4, 1)
FEW_WAYS(4, 2)
FEW_WAYS(8, 1)
#undef FEW_WAYS
#undef FEW_WAY
#define FEW_WAY(rows, sets)                                                                                                                \
  { few_F32_##rows##_##sets, few_BF16_##rows##_##sets, few_F16_##rows##_##sets }

// Ways by rows (1, 2, 4, 8): for one set and for several.
static const struct {
  int sets;
  few_function *one[3], *several[3];
} few_ways[] = {{2, FEW_WAY(1, 1), FEW_WAY(1, 2)},
                {2, FEW_WAY(2, 1), FEW_WAY(2, 2)},
                {2, FEW_WAY(4, 1), FEW_WAY(4, 2)},
                {1, FEW_WAY(8, 1), FEW_WAY(8, 1)}};
#undef FEW_WAY

// y[m][line] = the parts of a set's ranges one after another; with `add` after what is there.
static void few_add(const float *parts, int64_t rows, int64_t high, int64_t count, int64_t lines, float *y, int64_t ldy, bool add) {
  for (int64_t m = 0; m < rows; m++) {
    float total[8] = {0};
    for (int64_t i = 0; i < lines && add; i++) total[i] = y[m * ldy + i];
    for (int64_t r = 0; r < count; r++) {
      for (int i = 0; i < 8; i++) total[i] = r == 0 && !add ? parts[m * 8 + i] : total[i] + parts[(r * high + m) * 8 + i];
    }
    for (int64_t i = 0; i < lines; i++) y[m * ldy + i] = total[i];
  }
}

// The last lines, fewer than eight, are copied with zeros behind them, a range at a time.
static void few_last(few_function *run, int64_t high, const float *x, const char *b, int64_t size, int64_t ldb, int64_t lines, int64_t k,
                     float *parts) {
  _Alignas(64) char some[8 * ZMI_RANGE * 4] = {0};
  for (int64_t q = 0; q < k; q += ZMI_RANGE) {
    const int64_t n = ZMI_MIN(k - q, ZMI_RANGE);
    for (int64_t i = 0; i < lines; i++) memcpy(some + i * ZMI_RANGE * size, b + (i * ldb + q) * size, (size_t)(n * size));
    run(x + q * high, some, ZMI_RANGE * size, n == ZMI_RANGE, n % ZMI_RANGE, parts + q / ZMI_RANGE * high * 8);
  }
}

static void vector_few_lines(const float *x, int64_t rows, const void *b, zm_dtype dtype, int64_t ldb, int64_t lines, int64_t k, float *y,
                             int64_t ldy, bool add) {
  const int64_t size = dtype == ZM_F32 ? 4 : 2, most = FEW_RANGES * ZMI_RANGE;
  const int form = dtype == ZM_F32 ? 0 : dtype == ZM_BF16 ? 1 : 2, way = rows == 1 ? 0 : rows == 2 ? 1 : rows <= 4 ? 2 : 3;
  const int64_t high = 1 << way;
  float parts[2 * FEW_RANGES * FEW_SUMS * 8];
  for (int64_t from = 0; from < k; from += most) {
    const int64_t n = ZMI_MIN(k - from, most), ranges = n / ZMI_RANGE, rest = n % ZMI_RANGE, count = ranges + (rest > 0);
    const float *some = x + from * high;
    for (int64_t j = 0; j < lines;) {
      const char *at = (const char *)b + (j * ldb + from) * size;
      const int64_t sets = lines - j >= few_ways[way].sets * 8 ? few_ways[way].sets : 1, there = ZMI_MIN(lines - j, sets * 8);
      if (there < 8)
        few_last(few_ways[way].one[form], high, some, at, size, ldb, there, n, parts);
      else
        (sets > 1 ? few_ways[way].several : few_ways[way].one)[form](some, at, ldb * size, ranges, rest, parts);
      for (int64_t s = 0; s < sets; s++) {
        few_add(parts + s * FEW_RANGES * high * 8, rows, high, count, ZMI_MIN(there - s * 8, 8), y + j + s * 8, ldy, add || from > 0);
      }
      j += there;
    }
  }
}

#endif
