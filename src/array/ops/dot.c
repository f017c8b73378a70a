// Rows times packed matrices: rows are made ready once (digits, or floats of the dtype that the kernel takes), then blocks of 16 outputs
// are computed for up to four rows at a time. Which rows go together never changes a bit: the kernels treat each row alone.
#include "array/kernels.h"

#include <string.h>

zmi_ready zmi_ready_of(const zmi_format *f, zm_dtype x, int64_t k) {
  zmi_ready r = {.k = k};
  if (zmi_format_takes_digits(f)) {
    r.group = f->group;
    r.digits = zmi_format_digits(f);
    r.dtype = ZM_F32;
    r.bytes = zmi_digits_bytes(k, f->group, r.digits);
    return r;
  }
  // float32 rows meet blocks of any kind; bf16 rows only bf16 blocks.
  r.dtype = x == ZM_BF16 && f->mode == ZMI_QUANT_NONE && f->dtype == ZM_BF16 ? ZM_BF16 : ZM_F32;
  r.direct = x == r.dtype;
  r.bytes = zmi_align64((size_t)k * zm_dtype_size(r.dtype));
  return r;
}

bool zmi_ready_same(const zmi_ready *a, const zmi_ready *b) {
  return a->k == b->k && a->group == b->group && a->digits == b->digits && a->dtype == b->dtype && a->direct == b->direct;
}

void zmi_ready_values(const zmi_kernels *kn, const zmi_ready *f, int64_t piece, const float *values, void *ready) {
  int64_t first = piece * ZMI_PIECE, n = ZMI_MIN(f->k - first, ZMI_PIECE);
  if (f->group == 0) {
    kn->store(values, n, zmi_at(ready, f->dtype, first), f->dtype);
    return;
  }
  if (n == f->k) {
    kn->digits(values, n, f->group, f->digits, ready);
    return;
  }
  // Groups are independent: those of a piece are made apart and put in their places.
  _Alignas(64) unsigned char digits[3 * ZMI_PIECE + 20 * (ZMI_PIECE / 16) + 64];
  unsigned char *row = ready;
  size_t groups = (size_t)(n / f->group), before = (size_t)(first / f->group), all = (size_t)(f->k / f->group);
  kn->digits(values, n, f->group, f->digits, digits);
  memcpy(row + f->digits * first, digits, (size_t)(f->digits * n));
  // What follows the digits: scale, sum (4 bytes a group) and parts (4 for each digit).
  unsigned char *to = row + f->digits * f->k;
  const unsigned char *made = digits + f->digits * n;
  const size_t sizes[] = {4, 4, 4 * (size_t)f->digits};
  for (int i = 0; i < 3; i++) {
    memcpy(to + before * sizes[i], made, groups * sizes[i]);
    to += all * sizes[i];
    made += groups * sizes[i];
  }
}

void zmi_ready_piece(const zmi_kernels *kn, const zmi_ready *f, int64_t piece, const void *x, zm_dtype dtype, void *ready) {
  _Alignas(64) float values[ZMI_PIECE];
  int64_t first = piece * ZMI_PIECE, n = ZMI_MIN(f->k - first, ZMI_PIECE);
  if (dtype == ZM_F32) {
    zmi_ready_values(kn, f, piece, (const float *)x + first, ready);
    return;
  }
  kn->load(zmi_at(x, dtype, first), dtype, n, values);
  zmi_ready_values(kn, f, piece, values, ready);
}

void zmi_ready_tiles(const zmi_kernels *kn, const zmi_ready *f, const void *x, zm_dtype dtype, void *ready, int64_t begin, int64_t end) {
  int64_t pieces = zmi_ready_pieces(f);
  for (int64_t t = begin; t < end; t++) {
    int64_t row = t / pieces;
    zmi_ready_piece(kn, f, t % pieces, zmi_at(x, dtype, row * f->k), dtype, (char *)ready + (size_t)row * f->bytes);
  }
}

zmi_weights zmi_weights_of(const zmi_call *c, const zmi_matrix_attrs *m, int weight, int bias) {
  zmi_weights w = {.format = m->format, .n = m->n, .k = m->k, .experts = m->experts, .packed = c->src[weight]};
  w.blocks = (m->n + ZMI_LANES - 1) / ZMI_LANES;
  w.block_bytes = zmi_packed_block_bytes(&m->format, m->k);
  w.matrix_bytes = w.block_bytes * (size_t)w.blocks;
  if (bias >= 0 && bias < c->nin && c->in[bias]) {
    w.bias = c->src[bias];
    w.bias_dtype = c->in[bias]->type.dtype;
  }
  return w;
}

void zmi_dot_values(const zmi_kernels *kn, const zmi_weights *w, int64_t expert, int64_t first, int64_t blocks, const zmi_ready *f,
                    int count, const void *const *rows, float y[][ZMI_DOT_VALUES]) {
  const unsigned char *block = w->packed + (size_t)expert * w->matrix_bytes + (size_t)first * w->block_bytes;
  kn->dot[w->format.mode](&w->format, block, blocks, w->k, count, rows, f->dtype, &y[0][0], ZMI_DOT_VALUES);
  if (!w->bias) return;
  _Alignas(64) float bias[ZMI_DOT_VALUES];
  int64_t n = ZMI_MIN(w->n - first * ZMI_LANES, blocks * ZMI_LANES);
  kn->load(zmi_at(w->bias, w->bias_dtype, expert * w->n + first * ZMI_LANES), w->bias_dtype, n, bias);
  for (int m = 0; m < count; m++) {
    for (int64_t i = 0; i < n; i++) y[m][i] += bias[i];
  }
}

void zmi_dot_blocks(const zmi_kernels *kn, const zmi_weights *w, int64_t expert, int64_t first, int64_t blocks, const zmi_ready *f,
                    int count, const void *const *rows, void *const *out, zm_dtype dtype) {
  _Alignas(64) float y[ZMI_ROWS][ZMI_DOT_VALUES];
  int64_t n = ZMI_MIN(w->n - first * ZMI_LANES, blocks * ZMI_LANES);
  zmi_dot_values(kn, w, expert, first, blocks, f, count, rows, y);
  for (int m = 0; m < count; m++) kn->store(y[m], n, zmi_at(out[m], dtype, first * ZMI_LANES), dtype);
}

int64_t zmi_run_blocks(const zmi_weights *w, int64_t rows, int matrices) {
  enum { RUN_BYTES = 256 * 1024 }; // of weights: well inside a second-level cache
  if (rows <= ZMI_ROWS) return ZMI_DOT_BLOCKS;
  return ZMI_MIN(ZMI_MAX(RUN_BYTES / matrices / (int64_t)w->block_bytes, 1), ZMI_DOT_BLOCKS);
}

// Rows of one tile: all of them, but for matrices with too few blocks to share out.
static int64_t panel_rows(const zmi_weights *w, const zmi_rows *rows) {
  enum { FEW_BLOCKS = 64, PANEL = 32 };
  return w->blocks < FEW_BLOCKS ? ZMI_MIN(PANEL, rows->count) : rows->count;
}

int64_t zmi_dense_tiles(const zmi_weights *w, const zmi_rows *rows) {
  if (rows->count == 0) return 0;
  int64_t panel = panel_rows(w, rows);
  return (rows->count + panel - 1) / panel * w->blocks;
}

zmi_dense_walk zmi_dense_walk_of(const zmi_weights *w, const zmi_rows *rows, int matrices, int64_t begin, int64_t end) {
  zmi_dense_walk at = {
      .all = w->blocks, .rows = rows->count, .panel = panel_rows(w, rows), .most = zmi_run_blocks(w, rows->count, matrices)};
  at.next = begin;
  at.end = end;
  return at;
}

bool zmi_dense_walk_next(zmi_dense_walk *at) {
  if (at->next >= at->end) return false;
  at->first = at->next % at->all;
  at->row = at->next / at->all * at->panel;
  at->last = ZMI_MIN(at->row + at->panel, at->rows);
  at->blocks = ZMI_MIN(ZMI_MIN(at->most, at->all - at->first), at->end - at->next);
  at->next += at->blocks;
  return true;
}

void zmi_dense_run(const zmi_kernels *kn, const zmi_weights *w, const zmi_rows *rows, void *out, size_t out_stride, zm_dtype dtype,
                   int64_t begin, int64_t end) {
  zmi_dense_walk at = zmi_dense_walk_of(w, rows, 1, begin, end);
  while (zmi_dense_walk_next(&at)) {
    for (int64_t row = at.row; row < at.last; row += ZMI_ROWS) {
      const void *x[ZMI_ROWS];
      void *y[ZMI_ROWS];
      int count = (int)ZMI_MIN(at.last - row, ZMI_ROWS);
      for (int m = 0; m < count; m++) {
        x[m] = (const char *)rows->ready + (size_t)(row + m) * rows->stride;
        y[m] = (char *)out + (size_t)(row + m) * out_stride;
      }
      zmi_dot_blocks(kn, w, 0, at.first, at.blocks, rows->form, count, x, y, dtype);
    }
  }
}

void zmi_gated_blocks(const zmi_kernels *kn, const zmi_weights *gate, const zmi_weights *up, int64_t expert, int64_t first, int64_t blocks,
                      const zmi_ready *gate_form, const zmi_ready *up_form, int count, const void *const *gate_rows,
                      const void *const *up_rows, void *const *out, zm_dtype dtype) {
  _Alignas(64) float g[ZMI_ROWS][ZMI_DOT_VALUES], u[ZMI_ROWS][ZMI_DOT_VALUES];
  int64_t n = ZMI_MIN(gate->n - first * ZMI_LANES, blocks * ZMI_LANES);
  zmi_dot_values(kn, gate, expert, first, blocks, gate_form, count, gate_rows, g);
  zmi_dot_values(kn, up, expert, first, blocks, up_form, count, up_rows, u);
  for (int m = 0; m < count; m++) {
    kn->round(g[m], n, dtype);
    kn->round(u[m], n, dtype);
    zmi_swiglu_values(kn, g[m], u[m], n, dtype);
    kn->store(g[m], n, zmi_at(out[m], dtype, first * ZMI_LANES), dtype);
  }
}

// Items of a part that start before `mark`, where the part starts at `base`.
static int64_t items_before(const zmi_part *p, int64_t base, int64_t mark) {
  if (mark <= base) return 0;
  return ZMI_MIN((mark - base + p->weight - 1) / p->weight, p->items);
}

void zmi_share(const zmi_part *parts, int count, int64_t tiles, int64_t begin, int64_t end, int64_t *first, int64_t *last) {
  double total = 0, base = 0; // exact: far below 2^53
  for (int i = 0; i < count; i++) total += (double)parts[i].items * (double)parts[i].weight;
  int64_t low = (int64_t)(total * ((double)begin / (double)tiles)), high = (int64_t)(total * ((double)end / (double)tiles));
  for (int i = 0; i < count; i++) {
    first[i] = items_before(&parts[i], (int64_t)base, low);
    last[i] = items_before(&parts[i], (int64_t)base, high);
    base += (double)parts[i].items * (double)parts[i].weight;
  }
}
