// Matrix products in tiles: operands become panels of 6 rows and 16 columns (float32, from any dtype and strides), the tier's kernel
// multiplies a range of k of a tile at a time. How tiles are cut changes no bit.
#include "array/ops/product.h"

#include <stdlib.h>
#include <string.h>

enum {
  MC = 192, // most rows and columns of a tile; of one that packs its operands itself
  NC = 256,
  MC_INSIDE = 48,
  NC_INSIDE = 128,
  MC_LEAST = 12, // least, where tiles are cut smaller to have ENOUGH of them for the workers
  NC_LEAST = 32,
  ENOUGH = 16,
  MOST_RUN = 1024,      // results that are stored at a time
  LEAST_WORK = 1 << 18, // multiply-adds of a tile that is not cut any more; of one of few rows, which reads an element for each
  LEAST_FEW = 1 << 17,
  IN_PLACE = 128 << 10, // most bytes of what is read where it lies by several tiles or panels
  LINE = 64,            // bytes of a line of the first cache, those of all its lines of one way, and its ways
  WAY = 4096,
  WAYS = 8,
  FEW = 2,                 // tiles that pack the same operand each for themselves
  FEW_COLS = 64,           // columns of its tiles: neighbours are computed together, as memory likes to be read in long runs
  FEW_SUMS = 8192,         // most results of such a run
  APART = ZMI_BLOCK_APART, // between their rows: rows a power of two apart would drive each other out of the first cache
  AHEAD = 8                // rows of b that are asked for before they are packed: their runs are too short for the processor to see
};

static int64_t tiles_down(const zmi_gemm *g) {
  return zmi_tiles_of(g->p.a.lines, g->mc);
}

static int64_t tiles_across(const zmi_gemm *g) {
  return zmi_tiles_of(g->p.b.lines, g->nc);
}

// Whether few rows meet a matrix whose rows or columns lie in memory as they are needed.
static bool are_few(int64_t rows, const zmi_side *b) {
  return rows <= ZMI_FEW_ROWS && !b->load && (b->by_line == 1 || b->by_k == 1);
}

static void cut_few(zmi_gemm *g) {
  g->mc = ZMI_FEW_ROWS;
  g->nc = FEW_COLS;
  if ((double)g->p.a.lines * (double)g->p.b.lines * (double)g->p.k <= LEAST_FEW * (double)g->p.a.lines) g->nc = ZMI_MAX(g->p.b.lines, 1);
  g->down = 1;
  g->across = tiles_across(g);
}

// Whether what panels of a range read at each k, `step` elements further on, stays in a first cache: places that are a power of two apart
// share few of its lines.
static bool stays(int64_t step, int64_t k) {
  const int64_t bytes = llabs(step) * (int64_t)sizeof(float), n = ZMI_MAX(ZMI_MIN(k, ZMI_RANGE), 1);
  const int64_t apart = ZMI_MIN(ZMI_MAX(bytes & -bytes, LINE), WAY);
  return bytes <= IN_PLACE / n && n <= WAY / apart * (WAYS / 2);
}

// Whether panels of a side are read where they lie. One that is contiguous along k is, if it is small or read by few.
static bool in_place(const zmi_side *s, int64_t k, bool by_few) {
  if (s->load || s->dtype != ZM_F32) return false;
  if (s->by_k != 1) return stays(s->by_k, k);
  return by_few || (double)s->lines * (double)k * sizeof(float) <= IN_PLACE;
}

// Tiles of about the same size, in whole panels.
static int64_t even(int64_t lines, int64_t most, int64_t panel) {
  const int64_t tiles = zmi_tiles_of(lines, most);
  return tiles <= 1 ? most : ZMI_MIN(zmi_tiles_of(zmi_tiles_of(lines, tiles), panel) * panel, most);
}

static void cut(zmi_gemm *g) {
  g->few = g->p.k > 0 && g->p.a.lines > 0 && !g->p.a.load && are_few(g->p.a.lines, &g->p.b);
  if (g->few) {
    cut_few(g);
    return;
  }
  g->mc = MC;
  g->nc = NC;
  for (;;) {
    int64_t rows = ZMI_MIN(g->mc, g->p.a.lines), cols = ZMI_MIN(g->nc, g->p.b.lines);
    bool small = (double)rows * (double)cols * (double)g->p.k <= LEAST_WORK;
    if (small || (double)tiles_down(g) * (double)tiles_across(g) * (double)g->p.batches >= ENOUGH) break;
    if (cols >= rows && cols > NC_LEAST && g->nc > NC_LEAST && !g->p.a.load)
      g->nc /= 2;
    else if (rows > MC_LEAST && g->mc > MC_LEAST)
      g->mc /= 2;
    else if (cols > NC_LEAST && g->nc > NC_LEAST)
      g->nc /= 2;
    else
      break;
  }
  // What is loaded place by place may be many times its source: it is never packed as a whole.
  g->direct_a = in_place(&g->p.a, g->p.k, tiles_across(g) <= FEW);
  g->direct_b = g->p.b.by_line == 1 && g->p.b.by_k != 1 && in_place(&g->p.b, g->p.k, false);
  g->pack_a = tiles_across(g) > FEW && !g->p.a.load && !g->direct_a;
  if (!g->pack_a && !g->direct_a) g->mc = ZMI_MIN(g->mc, MC_INSIDE);
  g->pack_b = tiles_down(g) > FEW && !g->p.b.load && !g->direct_b;
  if (!g->pack_b && !g->direct_b) g->nc = ZMI_MIN(g->nc, NC_INSIDE);
  g->mc = even(g->p.a.lines, g->mc, ZMI_GEMM_ROWS);
  g->nc = even(g->p.b.lines, g->nc, 2 * ZMI_GEMM_COLS);
  g->down = tiles_down(g);
  g->across = tiles_across(g);
}

// Places of packed matrices: repeated batches share one.
static int64_t place_batches(const zmi_product *p, const zmi_side *s, int64_t *stride) {
  int64_t count = 1;
  for (int i = p->batch_rank - 1; i >= 0; i--) {
    stride[i] = s->batch[i] == 0 ? 0 : count;
    if (s->batch[i] != 0) count *= p->batch[i];
  }
  return count;
}

static size_t packed_bytes(int64_t matrices, int64_t panels, int64_t width, int64_t k) {
  return ((size_t)matrices * (size_t)(panels * width) * (size_t)k * sizeof(float) + 63) & ~(size_t)63;
}

zmi_gemm zmi_gemm_of(const zmi_product *p) {
  zmi_gemm g = {.p = *p};
  // Few columns and many rows: the transposed product has the same bits (fma(a, b, c) = fma(b, a, c)) and fuller panels.
  if (p->b.lines < 2 * ZMI_GEMM_ROWS && p->a.lines > p->b.lines) {
    g.swapped = true;
    g.p.a = p->b;
    g.p.b = p->a;
  }
  const int64_t row_step = p->row_step ? p->row_step : p->b.lines;
  g.batch_step = p->batch_step ? p->batch_step : p->a.lines * p->b.lines;
  g.row_step = g.swapped ? 1 : row_step;
  g.col_step = g.swapped ? row_step : 1;
  cut(&g);
  g.panels_a = zmi_tiles_of(g.p.a.lines, ZMI_GEMM_ROWS);
  g.panels_b = zmi_tiles_of(g.p.b.lines, ZMI_GEMM_COLS);
  g.matrices_a = place_batches(&g.p, &g.p.a, g.packed_a);
  g.matrices_b = place_batches(&g.p, &g.p.b, g.packed_b);
  if (g.pack_a) g.bytes_a = packed_bytes(g.matrices_a, g.panels_a, ZMI_GEMM_ROWS, p->k);
  if (g.pack_b) g.bytes_b = packed_bytes(g.matrices_b, g.panels_b, ZMI_GEMM_COLS, p->k);
  return g;
}

// ---- packing ----

static const float zeros[ZMI_RANGE];

static const char *element(const zmi_side *s, int64_t offset) {
  return s->data + offset * (int64_t)zm_dtype_size(s->dtype);
}

// n <= ZMI_RANGE values of one line from k on, as float32: where they are, or in `buffer`.
static const float *line_of(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *buffer) {
  if (s->load) {
    s->load(kn, s, line, k, n, buffer);
    return buffer;
  }
  const void *from = element(s, line * s->by_line + k * s->by_k);
  if (s->by_k == 1 && s->dtype == ZM_F32) return from;
  uint64_t raw[ZMI_RANGE];
  if (s->by_k != 1) {
    zmi_walk w = {.rank = 1, .size = {n}, .stride = {s->by_k}};
    zmi_gather(&w, from, zm_dtype_size(s->dtype), 0, n, raw);
    from = raw;
  }
  kn->load(from, s->dtype, n, buffer);
  return buffer;
}

// Asks for n elements of a row that is read soon.
static inline void ask(const void *row, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch((const char *)row + at);
}

// Lines [first, first + lines) are neighbours in memory: a row of them for each k, cut into panels of `width`.
static void pack_rows(const zmi_kernels *kn, const zmi_side *s, int64_t first, int64_t lines, int64_t k, int64_t n, int64_t width,
                      float *out, int64_t pitch) {
  float buffer[NC + ZMI_GEMM_COLS];
  if (!s->load && s->dtype == ZM_F32 && width == ZMI_GEMM_COLS) {
    kn->gemm_across((const float *)(const void *)element(s, first + k * s->by_k), s->by_k, lines, n, out, pitch);
    return;
  }
  for (int64_t q = 0; q < n; q++) {
    const void *from = s->load ? NULL : element(s, first + (k + q) * s->by_k);
    const float *row = from;
    if (from && q + AHEAD < n) ask(element(s, first + (k + q + AHEAD) * s->by_k), (size_t)lines * zm_dtype_size(s->dtype));
    if (s->load) {
      s->load(kn, s, first, k + q, lines, buffer);
      row = buffer;
    } else if (s->dtype != ZM_F32) {
      kn->load(from, s->dtype, lines, buffer);
      row = buffer;
    }
    float *to = out + q * width;
    int64_t at = 0;
    for (; at + width <= lines; at += width, to += pitch) memcpy(to, row + at, (size_t)width * sizeof *to);
    if (at == lines) continue;
    for (int64_t i = 0; i < width; i++) to[i] = at + i < lines ? row[at + i] : 0;
  }
}

// Panels of lines [first, first + lines) for k .. k + n, n <= ZMI_RANGE; lines <= NC. pitch: from one to the next.
static void pack(const zmi_kernels *kn, const zmi_side *s, int64_t first, int64_t lines, int64_t k, int64_t n, int64_t width, float *out,
                 int64_t pitch) {
  if (s->load ? s->across : s->by_line == 1 && (s->by_k != 1 || n == 1)) {
    pack_rows(kn, s, first, lines, k, n, width, out, pitch);
    return;
  }
  float buffer[ZMI_GEMM_COLS][ZMI_RANGE];
  const float *line[ZMI_GEMM_COLS];
  for (int64_t at = 0; at < lines; at += width, out += pitch) {
    for (int64_t i = 0; i < width; i++) line[i] = at + i < lines ? line_of(kn, s, first + at + i, k, n, buffer[i]) : zeros;
    (width == ZMI_GEMM_COLS ? kn->gemm_columns : kn->gemm_rows)(line, n, out);
  }
}

static zmi_panels packed(const float *panels, int64_t width, int64_t n) {
  return (zmi_panels){panels, 1, width, width * n};
}

// Packed by the tile itself: a line apart, as the same k of all panels is written at a time, and panels are powers of two.
static zmi_panels pack_here(const zmi_kernels *kn, const zmi_side *s, int64_t first, int64_t lines, int64_t k, int64_t n, int64_t width,
                            float *out) {
  const int64_t pitch = width * n + APART;
  pack(kn, s, first, lines, k, n, width, out, pitch);
  return (zmi_panels){out, 1, width, pitch};
}

// Lines from `line` on where they lie, from k on.
static zmi_panels placed(const zmi_side *s, int64_t line, int64_t k, int64_t width) {
  return (zmi_panels){(const float *)(const void *)element(s, line * s->by_line + k * s->by_k), s->by_line, s->by_k, width * s->by_line};
}

// A packed matrix: range after range of k, in each panel after panel.
static float *panel_at(const void *base, int64_t matrix, int64_t panels, int64_t width, int64_t k, int64_t range, int64_t n,
                       int64_t panel) {
  return (float *)(uintptr_t)base + (matrix * panels * width * k + range * panels * width + panel * width * n);
}

// Lines packed by one tile of the packing stage.
enum { PACK_ROWS = 16 * ZMI_GEMM_ROWS, PACK_COLS = 4 * ZMI_GEMM_COLS, PACK_WIDE = 16 * ZMI_GEMM_COLS };

typedef struct packing {
  const zmi_side *side;
  const int64_t *places;
  int64_t matrices, panels, width, lines; // lines: of one tile
} packing;

static packing packing_of(const zmi_gemm *g, bool b) {
  // Columns that are neighbours in memory are read in long runs.
  if (b) return (packing){&g->p.b, g->packed_b, g->matrices_b, g->panels_b, ZMI_GEMM_COLS, g->p.b.by_line == 1 ? PACK_WIDE : PACK_COLS};
  return (packing){&g->p.a, g->packed_a, g->matrices_a, g->panels_a, ZMI_GEMM_ROWS, PACK_ROWS};
}

static int64_t tiles_of_packing(const zmi_gemm *g, const packing *s) {
  return s->matrices * zmi_tiles_of(s->side->lines, s->lines) * zmi_tiles_of(g->p.k, ZMI_RANGE);
}

int64_t zmi_gemm_pack_tiles(const zmi_gemm *g) {
  packing a = packing_of(g, false), b = packing_of(g, true);
  return (g->pack_a ? tiles_of_packing(g, &a) : 0) + (g->pack_b ? tiles_of_packing(g, &b) : 0);
}

static void pack_tile(const zmi_kernels *kn, const zmi_gemm *g, const packing *s, void *base, int64_t tile) {
  zmi_side side = *s->side;
  int64_t ranges = zmi_tiles_of(g->p.k, ZMI_RANGE), cuts = zmi_tiles_of(side.lines, s->lines);
  int64_t k = tile % ranges * ZMI_RANGE, first = tile / ranges % cuts * s->lines, matrix = tile / ranges / cuts, rest = matrix;
  for (int i = g->p.batch_rank - 1; i >= 0; i--) {
    if (s->places[i] == 0) continue;
    side.data = element(&side, rest % g->p.batch[i] * side.batch[i]);
    rest /= g->p.batch[i];
  }
  int64_t n = ZMI_MIN(g->p.k - k, ZMI_RANGE), lines = ZMI_MIN(side.lines - first, s->lines);
  pack(kn, &side, first, lines, k, n, s->width, panel_at(base, matrix, s->panels, s->width, g->p.k, k, n, first / s->width), s->width * n);
}

void zmi_gemm_pack(const zmi_kernels *kn, const zmi_gemm *g, void *scratch, int64_t begin, int64_t end) {
  packing a = packing_of(g, false), b = packing_of(g, true);
  int64_t first = g->pack_a ? tiles_of_packing(g, &a) : 0;
  for (int64_t t = begin; t < end; t++) {
    if (t < first)
      pack_tile(kn, g, &a, scratch, t);
    else
      pack_tile(kn, g, &b, (char *)scratch + g->bytes_a, t - first);
  }
}

// ---- tiles ----

int64_t zmi_gemm_tiles(const zmi_gemm *g) {
  return g->p.batches * g->down * g->across;
}

typedef struct work {
  _Alignas(64) float a[MC_INSIDE * ZMI_RANGE + MC_INSIDE / ZMI_GEMM_ROWS * APART];
  _Alignas(64) float b[NC_INSIDE * ZMI_RANGE + NC_INSIDE / ZMI_GEMM_COLS * APART];
  _Alignas(64) float y[MC * NC];
} work;

// n results of one row of the tile to their places; `first` counts elements of the result, `step` from one to the next.
static void store(const zmi_gemm_out *o, float *x, int64_t n, int64_t first, int64_t step) {
  const size_t size = zm_dtype_size(o->dtype);
  char *dst = (char *)o->dst + (size_t)first * size, raw[MOST_RUN * sizeof(float)];
  if (o->more) {
    uint64_t buffer[MOST_RUN];
    float more[MOST_RUN];
    for (int64_t j = 0; j < n;) { // row by row of the result: one element of each if it is written transposed
      int64_t run = step == 1 ? n : 1;
      o->kernels->load(zmi_read(o->more, first + j * step, run, buffer), o->more_dtype, run, more);
      for (int64_t i = 0; i < run; i++) x[j + i] = __builtin_fmaf((float)o->beta, more[i], (float)o->alpha * x[j + i]);
      j += run;
    }
  }
  if (step == 1) {
    if (dst != (char *)x) o->kernels->store(x, n, dst, o->dtype);
    return;
  }
  o->kernels->store(x, n, raw, o->dtype);
  for (int64_t j = 0; j < n; j++) memcpy(dst + (size_t)(j * step) * size, raw + (size_t)j * size, size);
}

// Rows of a in float32 from k on, as few_rows and few_lines take them: in place or in `buffer` of `room` floats. How many of k are there,
// whole ranges but for the last ones.
static int64_t few_x(const zmi_kernels *kn, const zmi_side *a, int64_t row, int64_t rows, int64_t k, int64_t left, float *buffer,
                     int64_t room, const float **x) {
  const int64_t high = rows <= 2 ? rows : rows <= 4 ? 4 : 8, n = ZMI_MIN(left, room / high / ZMI_RANGE * ZMI_RANGE);
  if (rows == 1 && !a->load && a->dtype == ZM_F32 && a->by_k == 1) {
    *x = (const float *)(const void *)element(a, row * a->by_line + k);
    return left;
  }
  for (int64_t q = 0; q < n; q += ZMI_RANGE) {
    const int64_t some = ZMI_MIN(n - q, ZMI_RANGE);
    for (int64_t i = 0; i < high; i++) {
      float *to = buffer + q * high + i * ZMI_RANGE;
      const float *from = line_of(kn, a, row + ZMI_MIN(i, rows - 1), k + q, some, to);
      if (from != to) memcpy(to, from, (size_t)some * sizeof *to);
    }
  }
  *x = buffer;
  return n;
}

// Results of a few rows, at most FEW_SUMS: what gemm gives, from b as it is. buffer: `room` floats, many more than FEW_SUMS.
static void few(const zmi_kernels *kn, const zmi_side *a, int64_t row, int64_t rows, const zmi_side *b, int64_t col, int64_t cols,
                int64_t k, float *y, int64_t ldy, float *buffer, int64_t room) {
  const int64_t high = rows <= 2 ? rows : rows <= 4 ? 4 : 8, ld = cols + APART;
  const float *x;
  for (int64_t at = 0, n; at < k; at += n) {
    n = few_x(kn, a, row, rows, at, k - at, buffer + rows * ld, room - rows * ld, &x);
    if (b->by_line != 1) {
      kn->few_lines(x, rows, element(b, col * b->by_line + at), b->dtype, b->by_line, cols, n, y, ldy, at > 0);
      continue;
    }
    for (int64_t q = 0; q < n; q += ZMI_RANGE) {
      memset(buffer, 0, (size_t)(rows * ld) * sizeof *buffer);
      kn->few_rows(x + q * high, rows, element(b, col + (at + q) * b->by_k), b->dtype, b->by_k, cols, ZMI_MIN(n - q, ZMI_RANGE), buffer,
                   ld);
      for (int64_t i = 0; i < rows; i++) {
        if (at + q == 0) memcpy(y + i * ldy, buffer + i * ld, (size_t)cols * sizeof *y);
        for (int64_t j = 0; j < cols && at + q > 0; j++) y[i * ldy + j] += buffer[i * ld + j];
      }
    }
  }
}

// The operands of a batch, and the places of their packed matrices.
static void of_batch(const zmi_product *p, int64_t batch, const zmi_gemm *g, zmi_side *a, zmi_side *b, int64_t *matrix_a,
                     int64_t *matrix_b) {
  *a = p->a;
  *b = p->b;
  *matrix_a = *matrix_b = 0;
  for (int i = p->batch_rank - 1; i >= 0; i--) {
    int64_t at = batch % p->batch[i];
    batch /= p->batch[i];
    a->data = element(a, at * a->batch[i]);
    b->data = element(b, at * b->batch[i]);
    *matrix_a += at * g->packed_a[i];
    *matrix_b += at * g->packed_b[i];
  }
}

// Tiles of a few rows from `index` on, below `end`: neighbours in one run. How many they were.
static int64_t few_tiles(const zmi_gemm *g, const zmi_gemm_out *o, int64_t index, int64_t end, work *w) {
  const zmi_product *p = &g->p;
  const int64_t batch = index / g->across, tile = index % g->across, count = ZMI_MIN(end - index, g->across - tile), rows = p->a.lines;
  const int64_t stop = ZMI_MIN((tile + count) * g->nc, p->b.lines), most = FEW_SUMS / rows / FEW_COLS * FEW_COLS;
  const bool direct = o->dtype == ZM_F32 && g->col_step == 1;
  zmi_side a, b;
  int64_t matrix_a, matrix_b, cols;
  of_batch(p, batch, g, &a, &b, &matrix_a, &matrix_b);
  for (int64_t col = tile * g->nc; col < stop; col += cols) {
    cols = ZMI_MIN(stop - col, most);
    const int64_t first = batch * g->batch_step + col * g->col_step;
    float *y = direct ? (float *)o->dst + first : w->y;
    const int64_t ldy = direct ? g->row_step : cols;
    few(o->kernels, &a, 0, rows, &b, col, cols, p->k, y, ldy, w->b, ZMI_COUNT(w->b));
    for (int64_t i = 0; i < rows && !(direct && !o->more); i++) {
      for (int64_t j = 0; j < cols; j += MOST_RUN)
        store(o, y + i * ldy + j, ZMI_MIN(cols - j, MOST_RUN), first + i * g->row_step + j * g->col_step, g->col_step);
    }
  }
  return count;
}

static void tile(const zmi_gemm *g, const void *scratch, const zmi_gemm_out *o, int64_t index, work *w) {
  const zmi_product *p = &g->p;
  zmi_side a, b;
  int64_t col = index % g->across * g->nc, row = index / g->across % g->down * g->mc, batch = index / g->across / g->down;
  int64_t rows = ZMI_MIN(p->a.lines - row, g->mc), cols = ZMI_MIN(p->b.lines - col, g->nc), matrix_a, matrix_b;
  of_batch(p, batch, g, &a, &b, &matrix_a, &matrix_b);
  const int64_t first = batch * g->batch_step + row * g->row_step + col * g->col_step;
  const bool direct = o->dtype == ZM_F32 && !g->swapped;
  float *y = direct ? (float *)o->dst + first : w->y;
  const int64_t ldy = direct ? g->row_step : g->nc;
  for (int64_t i = 0; i < rows && p->k == 0; i++) memset(y + i * ldy, 0, (size_t)cols * sizeof *y);
  for (int64_t k = 0; k < p->k; k += ZMI_RANGE) {
    const int64_t n = ZMI_MIN(p->k - k, ZMI_RANGE);
    zmi_panels x, z;
    if (g->direct_a)
      x = placed(&a, row, k, ZMI_GEMM_ROWS);
    else if (g->pack_a)
      x = packed(panel_at(scratch, matrix_a, g->panels_a, ZMI_GEMM_ROWS, p->k, k, n, row / ZMI_GEMM_ROWS), ZMI_GEMM_ROWS, n);
    else
      x = pack_here(o->kernels, &a, row, rows, k, n, ZMI_GEMM_ROWS, w->a);
    if (g->direct_b)
      z = placed(&b, col, k, ZMI_GEMM_COLS);
    else if (g->pack_b)
      z = packed(panel_at((const char *)scratch + g->bytes_a, matrix_b, g->panels_b, ZMI_GEMM_COLS, p->k, k, n, col / ZMI_GEMM_COLS),
                 ZMI_GEMM_COLS, n);
    else
      z = pack_here(o->kernels, &b, col, cols, k, n, ZMI_GEMM_COLS, w->b);
    o->kernels->gemm(&x, rows, &z, cols, n, y, ldy, k > 0);
  }
  if (direct && !o->more) return;
  for (int64_t i = 0; i < rows; i++) store(o, y + i * ldy, cols, first + i * g->row_step, g->col_step);
}

void zmi_gemm_block(const zmi_kernels *kn, const zmi_side *a, int64_t row, int64_t rows, const zmi_side *b, int64_t col, int64_t cols,
                    int64_t k, zmi_gemm_work *w) {
  if (k == 0) memset(w->y, 0, sizeof w->y);
  if (are_few(rows, b)) {
    few(kn, a, row, rows, b, col, cols, k, w->y, ZMI_BLOCK_COLS, w->b, ZMI_COUNT(w->b));
    return;
  }
  for (int64_t at = 0, n; at < k; at += n) {
    n = a->range ? a->range(a, at) : ZMI_MIN(k - at, ZMI_RANGE);
    const zmi_panels z = pack_here(kn, b, col, cols, at, n, ZMI_GEMM_COLS, w->b);
    for (int64_t i = 0; i < rows; i += ZMI_BLOCK_STEP) {
      const int64_t some = ZMI_MIN(rows - i, ZMI_BLOCK_STEP);
      const zmi_panels x = pack_here(kn, a, row + i, some, at, n, ZMI_GEMM_ROWS, w->a);
      kn->gemm(&x, some, &z, cols, n, w->y + i * ZMI_BLOCK_COLS, ZMI_BLOCK_COLS, at > 0);
    }
  }
}

void zmi_gemm_run(const zmi_gemm *g, const void *scratch, const zmi_gemm_out *out, int64_t begin, int64_t end) {
  work w;
  for (int64_t i = begin; i < end;) {
    if (g->few) {
      i += few_tiles(g, out, i, end, &w);
    } else {
      tile(g, scratch, out, i++, &w);
    }
  }
}
