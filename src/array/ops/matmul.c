// matmul: float matrices [..., M, K] x [..., K, N] of any strides.
//
// Order of one result: k is cut into ranges of ZMI_RANGE; a range's partial is acc = fma(a[k], b[k], acc) from +0 with k rising; the
// partials are added in rising order, beginning with the first. A result depends on its own row and column alone.
#include "array/ops/ops.h"

#include <string.h>

// A tile is ROWS x COLS results; STEP values of k are made ready at a time.
enum { ROWS = 16, COLS = 256, STEP = 32 };

// One operand seen as [lines, k]: rows of a or columns of b. Strides in elements.
typedef struct side {
  const char *data;
  zm_dtype dtype;
  int64_t lines, by_line, by_k;
  int64_t batch[ZM_MAX_RANK]; // strides of the batch dimensions
} side;

typedef struct product {
  side a, b; // a's lines are the rows of a tile
  int64_t k, batches, down, across;
  int64_t row_step, col_step; // of the result, in elements
} product;

static side side_of(const zmi_call *c, int i) {
  const zmi_slot *s = c->in[i];
  int r = s->type.rank, line = i == 0 ? r - 2 : r - 1, k = i == 0 ? r - 1 : r - 2;
  side d = {.data = c->src[i], .dtype = s->type.dtype, .lines = s->type.shape[line], .by_line = s->stride[line], .by_k = s->stride[k]};
  for (int j = 0; j < r - 2; j++) d.batch[j] = s->stride[j];
  return d;
}

static product product_of(const zmi_call *c) {
  const zmi_type *t = &c->out[0]->type;
  product p = {.a = side_of(c, 0), .b = side_of(c, 1), .k = c->in[0]->type.shape[c->in[0]->type.rank - 1], .batches = 1};
  p.row_step = t->shape[t->rank - 1];
  p.col_step = 1;
  // Few columns and many rows: the transposed product has the same bits (fma(a, b, c) = fma(b, a, c)) and longer lines.
  if (p.b.lines < ROWS && p.a.lines > p.b.lines) {
    side a = p.a;
    p.a = p.b;
    p.b = a;
    p.col_step = p.row_step;
    p.row_step = 1;
  }
  for (int i = 0; i < t->rank - 2; i++) p.batches *= t->shape[i];
  p.down = zmi_tiles_of(p.a.lines, ROWS);
  p.across = zmi_tiles_of(p.b.lines, COLS);
  return p;
}

static const char *element(const side *s, int64_t offset) {
  return s->data + offset * (int64_t)zm_dtype_size(s->dtype);
}

// n values of one line from k on, as float32.
static void load_line(const zmi_kernels *kn, const side *s, int64_t line, int64_t k, int64_t n, float *out) {
  uint64_t raw[STEP];
  const void *p = element(s, line * s->by_line + k * s->by_k);
  if (s->by_k != 1) {
    zmi_walk w = {.rank = 1, .size = {n}, .stride = {s->by_k}};
    zmi_gather(&w, p, zm_dtype_size(s->dtype), 0, n, raw);
    p = raw;
  }
  kn->load(p, s->dtype, n, out);
}

// The lines of b for STEP values of k: where they are if neighbouring lines are neighbours in memory, else turned into `panel`.
typedef struct ready {
  const char *data;
  zm_dtype dtype;
  int64_t step; // bytes from one k to the next
} ready;

static ready ready_of(const zmi_kernels *kn, const side *b, int64_t line, int64_t lines, int64_t k, int64_t n, float *panel) {
  if (b->by_line == 1) {
    return (ready){element(b, line + k * b->by_k), b->dtype, b->by_k * (int64_t)zm_dtype_size(b->dtype)};
  }
  float part[STEP];
  for (int64_t j = 0; j < lines; j++) {
    load_line(kn, b, line + j, k, n, part);
    for (int64_t i = 0; i < n; i++) panel[i * COLS + j] = part[i];
  }
  return (ready){(const char *)panel, ZM_F32, COLS * (int64_t)sizeof(float)};
}

typedef struct work {
  _Alignas(64) float total[ROWS][COLS];
  _Alignas(64) float partial[ROWS][COLS];
  _Alignas(64) float panel[STEP * COLS];
} work;

static void add_range(const zmi_kernels *kn, const product *p, int64_t row, int64_t rows, int64_t col, int64_t cols, int64_t begin,
                      work *w) {
  int64_t end = ZMI_MIN(begin + ZMI_RANGE, p->k);
  for (int64_t m = 0; m < rows; m++) memset(w->partial[m], 0, (size_t)cols * sizeof(float));
  for (int64_t k = begin; k < end; k += STEP) {
    int64_t n = ZMI_MIN(end - k, STEP);
    ready b = ready_of(kn, &p->b, col, cols, k, n, w->panel);
    float a[ROWS][STEP];
    for (int64_t m = 0; m < rows; m++) load_line(kn, &p->a, row + m, k, n, a[m]);
    for (int64_t i = 0; i < n; i++) {
      for (int64_t m = 0; m < rows; m++) kn->axpy(a[m][i], b.data + i * b.step, b.dtype, cols, w->partial[m]);
    }
  }
  for (int64_t m = 0; m < rows; m++) {
    for (int64_t j = 0; j < cols; j++) w->total[m][j] = begin == 0 ? w->partial[m][j] : w->total[m][j] + w->partial[m][j];
  }
}

static void store_row(const zmi_call *c, const product *p, const float *x, int64_t cols, int64_t first) {
  zm_dtype dtype = c->out[0]->type.dtype;
  size_t size = zm_dtype_size(dtype);
  char *dst = (char *)c->dst[0] + (size_t)first * size, raw[COLS * sizeof(float)];
  if (p->col_step == 1) {
    c->kernels->store(x, cols, dst, dtype);
    return;
  }
  c->kernels->store(x, cols, raw, dtype);
  for (int64_t j = 0; j < cols; j++) memcpy(dst + (size_t)(j * p->col_step) * size, raw + (size_t)j * size, size);
}

static void tile(const zmi_call *c, const product *whole, int64_t index, work *w) {
  product p = *whole;
  const zmi_type *t = &c->out[0]->type;
  int64_t col = index % p.across * COLS, row = index / p.across % p.down * ROWS, batch = index / p.across / p.down;
  int64_t rows = ZMI_MIN(p.a.lines - row, ROWS), cols = ZMI_MIN(p.b.lines - col, COLS), rest = batch;
  for (int i = t->rank - 3; i >= 0; i--) {
    int64_t at = rest % t->shape[i];
    rest /= t->shape[i];
    p.a.data = element(&p.a, at * p.a.batch[i]);
    p.b.data = element(&p.b, at * p.b.batch[i]);
  }
  if (p.k == 0) memset(w->total, 0, sizeof w->total);
  for (int64_t k = 0; k < p.k; k += ZMI_RANGE) add_range(c->kernels, &p, row, rows, col, cols, k, w);
  int64_t first = batch * p.a.lines * p.b.lines + row * p.row_step + col * p.col_step;
  for (int64_t m = 0; m < rows; m++) store_row(c, &p, w->total[m], cols, first + m * p.row_step);
}

static int64_t tiles(const zmi_call *c) {
  product p = product_of(c);
  return p.batches * p.down * p.across;
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  product p = product_of(c);
  work w;
  for (int64_t i = begin; i < end; i++) tile(c, &p, i, &w);
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  char a[128], b[128];
  zm_status status = zmi_check_operands(nin, in, 2);
  if (status != ZM_OK) return status;
  int r = in[0].rank;
  zmi_type t = in[0];
  bool good = r >= 2 && in[1].rank == r && zmi_dtype_is_float(t.dtype) && in[1].dtype == t.dtype && in[1].shape[r - 2] == t.shape[r - 1];
  for (int i = 0; good && i < r - 2; i++) good = in[1].shape[i] == t.shape[i];
  if (!good) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected float matrices [..., M, K] and [..., K, N] of one dtype, found %s and %s",
                    zmi_type_text(&in[0], a), zmi_type_text(&in[1], b));
  }
  t.shape[r - 1] = in[1].shape[r - 1];
  return zmi_give(nout, out, t.dtype, r, t.shape);
}

static zm_array *turned(zm_array *a) {
  return a ? zmi_move_axis(a, a->type.rank - 1, a->type.rank - 2) : NULL;
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (wanted[0]) gradient[0] = zm_matmul(given[0], turned(n->in[1]));
  if (wanted[1]) gradient[1] = zm_matmul(turned(n->in[0]), given[0]);
  return ZM_OK;
}

static zm_status jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  if (tangent[0]) result[0] = zm_matmul(tangent[0], n->in[1]);
  if (!tangent[1]) return ZM_OK;
  zm_array *part = zm_matmul(n->in[0], tangent[1]);
  result[0] = tangent[0] ? zm_add(result[0], part) : part;
  return ZM_OK;
}

// A batch of a alone is more rows of one product; else the batch is one more of the axes in front.
static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  if (batched[0] && !batched[1] && n->in[0]->type.rank == 2) return zmi_vmap_rows(n, size, in, batched, 1, out);
  return zmi_vmap_elementwise(n, size, in, batched, out);
}

static const zmi_rules rules = {.vjp = vjp, .jvp = jvp, .vmap = vmap, .gradient = "all operands"};

const zmi_op zmi_op_matmul = {
    .name = "matmul",
    .operands = "a b",
    .rounding = "per result: fma in float32 with k rising inside ranges of 256, partials added in rising order, rounded once to the dtype",
    .flags = ZMI_OP_STRIDED,
    .infer = infer,
    .stages = {{tiles, run}},
    .rules = &rules};

// The operand with the batch dimensions of both.
static zm_array *with_batch(zm_array *a, int batch_rank, const int64_t *batch) {
  int64_t shape[ZM_MAX_RANK];
  if (!a) return NULL;
  for (int i = 0; i < batch_rank; i++) shape[i] = batch[i];
  shape[batch_rank] = a->type.shape[a->type.rank - 2];
  shape[batch_rank + 1] = a->type.shape[a->type.rank - 1];
  return zm_broadcast_to(a, shape, batch_rank + 2);
}

// A vector is a matrix of one row (a) or one column (b); that dimension is taken out of the result again.
zm_array *zm_matmul(zm_array *a, zm_array *b) {
  zm_array *in[2] = {a, b};
  char ta[128], tb[128];
  int64_t batch[ZM_MAX_RANK];
  int batch_rank;
  if (!zmi_present("matmul", 2, in)) return NULL;
  zm_dtype dtype = zm_dtype_promote(a->type.dtype, b->type.dtype);
  if (!zmi_dtype_is_float(dtype) || a->type.rank < 1 || b->type.rank < 1) {
    zmi_fail(ZM_ERROR_ARGUMENT, "matmul: expected float arrays of rank 1 or more, found %s and %s", zmi_type_text(&a->type, ta),
             zmi_type_text(&b->type, tb));
    return NULL;
  }
  bool row = a->type.rank == 1, col = b->type.rank == 1;
  in[0] = zm_astype(row ? zm_expand_dims(a, 0) : a, dtype);
  in[1] = zm_astype(col ? zm_expand_dims(b, 1) : b, dtype);
  if (!in[0] || !in[1]) return NULL;
  zmi_type ba = in[0]->type, bb = in[1]->type;
  ba.rank -= 2;
  bb.rank -= 2;
  if (!zmi_broadcast_shape("matmul", &ba, &bb, &batch_rank, batch)) return NULL;
  for (int i = 0; i < 2; i++) in[i] = with_batch(in[i], batch_rank, batch);
  zm_array *y = zmi_apply1(&zmi_op_matmul, NULL, 0, 2, in);
  if (y && col) y = zm_squeeze(y, -1);
  return y && row ? zm_squeeze(y, col ? -1 : -2) : y;
}
