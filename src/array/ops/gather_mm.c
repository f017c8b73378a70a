// gather_mm: products of chosen rows with chosen matrices, each matrix read once for all rows that meet it; gather_outer: what its
// gradients need besides.
#include "array/ops/product.h"
#include <zmlx/linear.h>

#include <string.h>

// ---- choices ----

size_t zmi_choice_bytes(int64_t count, int64_t height, int64_t matrices) {
  const int64_t pairs = count * height;
  return zmi_expert_plan_bytes(matrices, pairs) + 2 * zmi_align64((size_t)pairs * sizeof(int32_t));
}

zmi_choice zmi_choice_at(void *memory, int64_t count, int64_t height, int64_t sources, int64_t matrices) {
  zmi_choice c = {.count = count, .height = height, .sources = sources, .pairs = count * height};
  c.plan = zmi_expert_plan_at(memory, matrices, c.pairs);
  if (!memory) return c;
  c.matrix = (int32_t *)(void *)((char *)memory + zmi_expert_plan_bytes(matrices, c.pairs));
  c.row = c.matrix + zmi_align64((size_t)c.pairs * sizeof(int32_t)) / sizeof(int32_t);
  return c;
}

void zmi_choice_make(const zmi_choice *c, const int32_t *lhs, const int32_t *rhs) {
  for (int64_t i = 0; i < c->count; i++) {
    const bool there = lhs[i] >= 0 && lhs[i] < c->sources;
    for (int64_t m = 0; m < c->height; m++) {
      c->matrix[i * c->height + m] = there ? rhs[i] : -1;
      c->row[i * c->height + m] = there ? (int32_t)(lhs[i] * c->height + m) : 0;
    }
  }
  zmi_expert_plan_make(&c->plan, c->matrix);
}

zm_status zmi_want_choice(const zmi_type *lhs, const zmi_type *rhs, int64_t height) {
  char tl[128], tr[128];
  if (lhs->dtype != ZM_I32 || lhs->rank != 1 || !zmi_type_equal(lhs, rhs)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "indices must be int32 [I], found %s and %s", zmi_type_text(lhs, tl), zmi_type_text(rhs, tr));
  }
  if (height == 0 || lhs->shape[0] <= INT32_MAX / 2 / height) return ZM_OK;
  return zmi_fail(ZM_ERROR_LIMIT, "%lld rows are chosen, the most is %d", (long long)(lhs->shape[0] * height), INT32_MAX / 2);
}

zm_array *zmi_choice_index(const char *op, zm_array *index, const zm_array *like) {
  char text[128];
  if (!index) {
    int64_t n = 1;
    for (int i = 0; i < like->type.rank - 2; i++) n *= like->type.shape[i];
    return zm_reshape(zm_arange(0, (double)n, 1, ZM_I32), like->type.shape, like->type.rank - 2);
  }
  const zm_dtype t = index->type.dtype;
  if (zmi_dtype_is_float(t) || t == ZM_BOOL) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: indices must be integers, found %s", op, zmi_type_text(&index->type, text));
    return NULL;
  }
  // Larger integers would wrap around to others.
  if (t == ZM_I64) index = zm_maximum(index, zm_full(-1, t, NULL, 0));
  if (t == ZM_I64 || t == ZM_U64 || t == ZM_U32) index = zm_minimum(index, zm_full(INT32_MAX, t, NULL, 0));
  return index ? zm_astype(index, ZM_I32) : NULL;
}

// ---- sides that take rows where a plan says ----

typedef struct picked {
  const int32_t *pair, *row;        // pair[line]: of the plan; row[pair]: of the source, NULL: the pair itself
  int64_t height, by_batch, by_row; // a row stands at row / height * by_batch + row % height * by_row
} picked;

static const char *row_at(const zmi_side *s, int64_t line) {
  const picked *r = s->user;
  const int64_t row = r->row ? r->row[r->pair[line]] : r->pair[line];
  return s->data + (row / r->height * r->by_batch + row % r->height * r->by_row) * (int64_t)zm_dtype_size(s->dtype);
}

// Lines are rows, k runs along them.
static void load_row(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *out) {
  kn->load(row_at(s, line) + k * (int64_t)zm_dtype_size(s->dtype), s->dtype, n, out);
}

// k runs through rows, lines along them.
static void load_across(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *out) {
  kn->load(row_at(s, k) + line * (int64_t)zm_dtype_size(s->dtype), s->dtype, n, out);
}

// ---- gather_mm ----

enum { A, B, LHS, RHS };

static zmi_choice choice_of(const zmi_call *c) {
  const zmi_type *a = &c->in[A]->type, *b = &c->in[B]->type;
  return zmi_choice_at(c->scratch, c->in[LHS]->type.shape[0], a->shape[1], a->shape[0], b->shape[0]);
}

static size_t scratch(const zmi_call *c) {
  const zmi_type *a = &c->in[A]->type, *b = &c->in[B]->type;
  return zmi_choice_bytes(c->in[LHS]->type.shape[0], a->shape[1], b->shape[0]);
}

static int64_t one_tile(const zmi_call *c) {
  return zmi_type_count(&c->out[0]->type) > 0;
}

static void plan_run(const zmi_call *c, int64_t begin, int64_t end) {
  (void)begin, (void)end;
  zmi_choice choice = choice_of(c);
  zmi_choice_make(&choice, c->src[LHS], c->src[RHS]);
}

static int64_t chunks_of(const zmi_choice *c) {
  return zmi_tiles_of(c->pairs, ZMI_BLOCK_ROWS);
}

static int64_t tiles(const zmi_call *c) {
  zmi_choice choice = choice_of(c);
  const int64_t n = c->out[0]->type.shape[2];
  return one_tile(c) ? choice.plan.most * chunks_of(&choice) * zmi_tiles_of(n, ZMI_BLOCK_COLS) : 0;
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_choice choice = choice_of(c);
  const zmi_expert_plan *p = &choice.plan;
  const zmi_slot *b = c->in[B];
  const zm_dtype dtype = c->out[0]->type.dtype;
  const int64_t n = c->out[0]->type.shape[2], k = b->type.shape[1], across = zmi_tiles_of(n, ZMI_BLOCK_COLS), chunks = chunks_of(&choice);
  zmi_gemm_work w;
  for (int64_t t = begin; t < end; t++) {
    const int64_t col = t % across * ZMI_BLOCK_COLS, row = t / across % chunks * ZMI_BLOCK_ROWS, entry = t / across / chunks;
    if (entry >= *p->count) break;
    const int64_t there = p->start[entry + 1] - p->start[entry], cols = ZMI_MIN(n - col, ZMI_BLOCK_COLS);
    if (row >= there) continue;
    const int64_t height = ZMI_MIN(there - row, ZMI_BLOCK_ROWS);
    const int32_t *pair = p->pair + p->start[entry], expert = p->expert[entry];
    picked r = {pair, choice.row, choice.height, choice.height * k, k};
    zmi_side x = {.data = c->src[A], .dtype = dtype, .lines = there, .load = load_row, .user = &r};
    zmi_side y = {.dtype = dtype, .lines = n, .by_line = b->stride[2], .by_k = b->stride[1]};
    y.data = (const char *)c->src[B] + (expert < 0 ? 0 : expert) * b->stride[0] * (int64_t)zm_dtype_size(dtype);
    zmi_gemm_block(c->kernels, &x, row, height, &y, col, cols, expert < 0 ? 0 : k, &w);
    for (int64_t i = 0; i < height; i++) {
      c->kernels->store(w.y + i * ZMI_BLOCK_COLS, cols, zmi_at(c->dst[0], dtype, pair[row + i] * n + col), dtype);
    }
  }
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  char ta[128], tb[128];
  zm_status status = zmi_check_operands(nin, in, 4);
  if (status != ZM_OK) return status;
  if (in[A].rank != 3 || in[B].rank != 3 || !zmi_dtype_is_float(in[A].dtype) || in[A].dtype != in[B].dtype ||
      in[A].shape[2] != in[B].shape[1]) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected float matrices [A, M, K] and [B, K, N] of one dtype, found %s and %s",
                    zmi_type_text(&in[A], ta), zmi_type_text(&in[B], tb));
  }
  status = zmi_want_choice(&in[LHS], &in[RHS], in[A].shape[1]);
  if (status != ZM_OK) return status;
  return zmi_give(nout, out, in[A].dtype, 3, (int64_t[]){in[LHS].shape[0], in[A].shape[1], in[B].shape[2]});
}

static zm_array *all_of(const zm_array *index) {
  return zm_arange(0, (double)index->type.shape[0], 1, ZM_I32);
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  zm_array *a = n->in[A], *b = n->in[B], *lhs = n->in[LHS], *rhs = n->in[RHS];
  if (!given[0]) return ZM_OK;
  if (wanted[A]) {
    gradient[A] = zmi_take_add(zmi_gather_mm(given[0], zmi_matrix_transpose(b), all_of(lhs), rhs), lhs, a->type.shape[0]);
    if (!gradient[A]) return zm_last_status();
  }
  if (wanted[B] && !(gradient[B] = zmi_gather_outer(a, given[0], lhs, all_of(lhs), rhs, b->type.shape[0]))) return zm_last_status();
  return ZM_OK;
}

static zm_status jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  zm_array *a = tangent[A] ? zmi_gather_mm(tangent[A], n->in[B], n->in[LHS], n->in[RHS]) : NULL;
  zm_array *b = tangent[B] ? zmi_gather_mm(n->in[A], tangent[B], n->in[LHS], n->in[RHS]) : NULL;
  if ((tangent[A] && !a) || (tangent[B] && !b)) return zm_last_status();
  result[0] = a && b ? zm_add(a, b) : a ? a : b;
  return result[0] || !(a || b) ? ZM_OK : zm_last_status();
}

static const zmi_rules rules = {.vjp = vjp, .jvp = jvp, .vmap = zmi_vmap_slices, .gradient = "a and b"};

const zmi_op zmi_op_gather_mm = {.name = "gather_mm",
                                 .operands = "a b lhs rhs",
                                 .rounding = "as matmul, with the chosen matrices; an index out of range gives zeros",
                                 .infer = infer,
                                 .scratch = scratch,
                                 .stages = {{one_tile, plan_run}, {tiles, run}},
                                 .rules = &rules};

zm_array *zmi_gather_mm(zm_array *a, zm_array *b, zm_array *lhs, zm_array *rhs) {
  zm_array *in[4] = {a, b, lhs, rhs};
  return zmi_present("gather_mm", 4, in) ? zmi_apply1(&zmi_op_gather_mm, NULL, 0, 4, in) : NULL;
}

// [batch..., M, K] -> [all, M, K]
static zm_array *flat(zm_array *a) {
  const int rank = a->type.rank;
  int64_t shape[3] = {1, a->type.shape[rank - 2], a->type.shape[rank - 1]};
  for (int i = 0; i < rank - 2; i++) shape[0] *= a->type.shape[i];
  return zm_reshape(a, shape, 3);
}

zm_array *zm_gather_mm(zm_array *a, zm_array *b, zm_array *lhs, zm_array *rhs, bool sorted) {
  zm_array *in[2] = {a, b};
  char ta[128], tb[128];
  int rank;
  int64_t shape[ZM_MAX_RANK];
  (void)sorted; // rows are put in order here
  if (!zmi_present("gather_mm", 2, in)) return NULL;
  if (!lhs && !rhs) return zm_matmul(a, b);
  zm_dtype dtype = zm_dtype_promote(a->type.dtype, b->type.dtype);
  if (a->type.rank < 2 || b->type.rank < 2 || !zmi_dtype_is_float(dtype)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "gather_mm: expected float matrices of rank 2 or more, found %s and %s", zmi_type_text(&a->type, ta),
             zmi_type_text(&b->type, tb));
    return NULL;
  }
  lhs = zmi_choice_index("gather_mm", lhs, a);
  rhs = zmi_choice_index("gather_mm", rhs, b);
  if (!lhs || !rhs || !zmi_broadcast_shape("gather_mm", &lhs->type, &rhs->type, &rank, shape)) return NULL;
  lhs = zm_reshape(zm_broadcast_to(lhs, shape, rank), (int64_t[]){-1}, 1);
  rhs = zm_reshape(zm_broadcast_to(rhs, shape, rank), (int64_t[]){-1}, 1);
  zm_array *y = zmi_gather_mm(flat(zm_astype(a, dtype)), flat(zm_astype(b, dtype)), lhs, rhs);
  if (!y) return NULL;
  if (rank > ZM_MAX_RANK - 2) {
    zmi_fail(ZM_ERROR_ARGUMENT, "gather_mm: indices of rank %d, the most is %d", rank, ZM_MAX_RANK - 2);
    return NULL;
  }
  shape[rank] = y->type.shape[1];
  shape[rank + 1] = y->type.shape[2];
  return zm_reshape(y, shape, rank + 2);
}

// ---- gather_outer ----

typedef struct outer_attrs {
  int64_t matrices;
} outer_attrs;

enum { IA = 2, IB, GROUP };

// Pairs by matrix; row: of a. Rows of b come from a second list.
static zmi_choice outer_choice(const zmi_call *c, int32_t **row_b) {
  const zmi_type *a = &c->in[A]->type;
  const int64_t matrices = ((const outer_attrs *)c->attrs)->matrices, count = c->in[IA]->type.shape[0];
  if (row_b) *row_b = (int32_t *)(void *)((char *)c->scratch + zmi_choice_bytes(count, a->shape[1], matrices));
  return zmi_choice_at(c->scratch, count, a->shape[1], a->shape[0], matrices);
}

static size_t outer_scratch(const zmi_call *c) {
  const zmi_type *a = &c->in[A]->type;
  const int64_t matrices = ((const outer_attrs *)c->attrs)->matrices, count = c->in[IA]->type.shape[0];
  return zmi_choice_bytes(count, a->shape[1], matrices) + (size_t)(count * a->shape[1]) * sizeof(int32_t);
}

static void outer_plan(const zmi_call *c, int64_t begin, int64_t end) {
  (void)begin, (void)end;
  int32_t *row_b;
  zmi_choice choice = outer_choice(c, &row_b);
  const int32_t *ia = c->src[IA], *ib = c->src[IB], *group = c->src[GROUP];
  const int64_t other = c->in[B]->type.shape[0];
  for (int64_t i = 0; i < choice.count; i++) {
    const bool there = ia[i] >= 0 && ia[i] < choice.sources && ib[i] >= 0 && ib[i] < other;
    for (int64_t m = 0; m < choice.height; m++) {
      const int64_t at = i * choice.height + m;
      choice.matrix[at] = there ? group[i] : -1;
      choice.row[at] = there ? (int32_t)(ia[i] * choice.height + m) : 0;
      row_b[at] = there ? (int32_t)(ib[i] * choice.height + m) : 0;
    }
  }
  zmi_expert_plan_make(&choice.plan, choice.matrix);
}

static int64_t outer_tiles(const zmi_call *c) {
  const zmi_type *t = &c->out[0]->type;
  return t->shape[0] * zmi_tiles_of(t->shape[1], ZMI_BLOCK_ROWS) * zmi_tiles_of(t->shape[2], ZMI_BLOCK_COLS);
}

static void outer_run(const zmi_call *c, int64_t begin, int64_t end) {
  int32_t *row_b;
  const zmi_choice choice = outer_choice(c, &row_b);
  const zmi_type *t = &c->out[0]->type;
  const zm_dtype dtype = t->dtype;
  const int64_t high = t->shape[1], wide = t->shape[2], down = zmi_tiles_of(high, ZMI_BLOCK_ROWS),
                across = zmi_tiles_of(wide, ZMI_BLOCK_COLS);
  zmi_gemm_work w;
  for (int64_t i = begin; i < end; i++) {
    const int64_t col = i % across * ZMI_BLOCK_COLS, row = i / across % down * ZMI_BLOCK_ROWS, matrix = i / across / down;
    // After the plan is made, first[e] is where the pairs of matrix e begin and first[e + 1] where they end.
    const int32_t start = choice.plan.first[matrix], stop = choice.plan.first[matrix + 1];
    picked of_a = {choice.plan.pair + start, choice.row, choice.height, choice.height * high, high};
    picked of_b = {choice.plan.pair + start, row_b, choice.height, choice.height * wide, wide};
    zmi_side x = {.data = c->src[A], .dtype = dtype, .lines = high, .load = load_across, .across = true, .user = &of_a};
    zmi_side y = {.data = c->src[B], .dtype = dtype, .lines = wide, .load = load_across, .across = true, .user = &of_b};
    const int64_t height = ZMI_MIN(high - row, ZMI_BLOCK_ROWS), cols = ZMI_MIN(wide - col, ZMI_BLOCK_COLS);
    zmi_gemm_block(c->kernels, &x, row, height, &y, col, cols, stop - start, &w);
    for (int64_t r = 0; r < height; r++) {
      c->kernels->store(w.y + r * ZMI_BLOCK_COLS, cols, zmi_at(c->dst[0], dtype, (matrix * high + row + r) * wide + col), dtype);
    }
  }
}

static zm_status outer_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const int64_t matrices = ((const outer_attrs *)attrs)->matrices;
  char ta[128], tb[128];
  zm_status status = zmi_check_operands(nin, in, 5);
  if (status != ZM_OK) return status;
  if (in[A].rank != 3 || in[B].rank != 3 || !zmi_dtype_is_float(in[A].dtype) || in[A].dtype != in[B].dtype ||
      in[A].shape[1] != in[B].shape[1]) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected float matrices [A, M, P] and [B, M, Q] of one dtype, found %s and %s",
                    zmi_type_text(&in[A], ta), zmi_type_text(&in[B], tb));
  }
  status = zmi_want_choice(&in[IA], &in[IB], in[A].shape[1]);
  if (status == ZM_OK) status = zmi_want_choice(&in[IA], &in[GROUP], in[A].shape[1]);
  if (status != ZM_OK) return status;
  if (matrices < 0 || matrices > INT32_MAX - 2) return zmi_fail(ZM_ERROR_ARGUMENT, "%lld matrices", (long long)matrices);
  return zmi_give(nout, out, in[A].dtype, 3, (int64_t[]){matrices, in[A].shape[2], in[B].shape[2]});
}

static zm_status outer_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  zm_array *a = n->in[A], *b = n->in[B], *ia = n->in[IA], *ib = n->in[IB], *group = n->in[GROUP];
  if (!given[0]) return ZM_OK;
  if (wanted[A]) {
    gradient[A] = zmi_take_add(zmi_gather_mm(b, zmi_matrix_transpose(given[0]), ib, group), ia, a->type.shape[0]);
    if (!gradient[A]) return zm_last_status();
  }
  if (wanted[B]) {
    gradient[B] = zmi_take_add(zmi_gather_mm(a, given[0], ia, group), ib, b->type.shape[0]);
    if (!gradient[B]) return zm_last_status();
  }
  return ZM_OK;
}

static const zmi_field outer_fields[] = {{"matrices", ZMI_FIELD_INT, offsetof(outer_attrs, matrices), NULL}, {0}};
static const zmi_rules outer_rules = {.vjp = outer_vjp, .vmap = zmi_vmap_slices, .gradient = "a and b"};

const zmi_op zmi_op_gather_outer = {.name = "gather_outer",
                                    .operands = "a b ia ib group",
                                    .fields = outer_fields,
                                    .rounding = "as matmul, with k through the rows of each matrix in order of their indices",
                                    .infer = outer_infer,
                                    .scratch = outer_scratch,
                                    .stages = {{one_tile, outer_plan}, {outer_tiles, outer_run}},
                                    .rules = &outer_rules};

zm_array *zmi_gather_outer(zm_array *a, zm_array *b, zm_array *ia, zm_array *ib, zm_array *group, int64_t matrices) {
  zm_array *in[5] = {a, b, ia, ib, group};
  outer_attrs at = {matrices};
  return zmi_present("gather_outer", 5, in) ? zmi_apply1(&zmi_op_gather_outer, &at, sizeof at, 5, in) : NULL;
}
