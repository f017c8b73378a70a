// quantized_matmul: rows times chosen matrices of codes, plain, batched and gathered. Affine transposed products go through the packed
// blocks and the digit kernels of the models' matrices (the same bits); the others through matmul's tiles,
// with the values decoded on the way.
#include "array/ops/codes.h"
#include "array/ops/product.h"

#include <string.h>

enum { X, CODES, SCALES, BIASES, LHS, RHS };
enum { LANES = 128, LANE_BYTES = 64 * 1024 }; // tiles of the digit way, and packed weights that one of them holds at a time

typedef struct attributes {
  zmi_format format;
  int64_t transpose;
} attributes;

static const zmi_field fields[] = {
    ZMI_CODES_FIELDS(attributes, format), {"transpose", ZMI_FIELD_INT, offsetof(attributes, transpose), NULL}, {0}};

// The call in numbers.
typedef struct product {
  zmi_format format; // dtype: of packed scales
  bool digits;       // the way of digits
  zm_dtype dtype;
  int64_t m, k, n, matrices, blocks;
  int64_t line, lines; // of a matrix of codes: values of a row, rows
  zmi_ready ready;
  zmi_choice choice;
  size_t choice_bytes, ready_bytes, block_bytes, lane_bytes;
  int64_t run; // blocks packed together
} product;

static product product_of(const zmi_call *c) {
  const attributes *a = c->attrs;
  const zmi_type *x = &c->in[X]->type, *w = &c->in[CODES]->type, *s = &c->in[SCALES]->type;
  product p = {.format = a->format, .dtype = x->dtype, .m = x->shape[1], .k = x->shape[2], .matrices = w->shape[0]};
  p.digits = a->transpose && a->format.mode == ZMI_QUANT_AFFINE;
  p.line = w->shape[2] * 32 / a->format.bits;
  p.lines = w->shape[1];
  p.n = c->out[0]->type.shape[2];
  const int64_t count = c->in[LHS]->type.shape[0];
  p.choice_bytes = zmi_choice_bytes(count, p.m, p.matrices);
  p.choice = zmi_choice_at(c->scratch, count, p.m, x->shape[0], p.matrices);
  if (!p.digits) return p;
  p.format.dtype = s->dtype == ZM_BF16 ? ZM_BF16 : ZM_F32;
  p.blocks = zmi_tiles_of(p.n, ZMI_LANES);
  p.ready = zmi_ready_of(&p.format, x->dtype, p.k);
  p.ready_bytes = p.ready.bytes * (size_t)(x->shape[0] * p.m);
  p.block_bytes = zmi_packed_block_bytes(&p.format, p.k);
  p.run = ZMI_MAX(1, ZMI_MIN(ZMI_DOT_BLOCKS, (int64_t)(LANE_BYTES / ZMI_MAX(p.block_bytes, 1))));
  p.lane_bytes = zmi_align64((size_t)p.run * p.block_bytes);
  return p;
}

static int64_t lanes_of(const product *p) {
  return ZMI_MIN(LANES, p->choice.plan.most * p->blocks);
}

static size_t scratch(const zmi_call *c) {
  product p = product_of(c);
  return p.choice_bytes + (p.digits ? p.ready_bytes + (size_t)lanes_of(&p) * p.lane_bytes : 0);
}

static bool empty(const zmi_call *c) {
  return zmi_type_count(&c->out[0]->type) == 0;
}

// ---- first stage: the plan, and rows as digits ----

static int64_t ready_tiles(const zmi_call *c) {
  product p = product_of(c);
  if (empty(c)) return 0;
  return 1 + (p.digits ? c->in[X]->type.shape[0] * p.m * zmi_ready_pieces(&p.ready) : 0);
}

static void ready_run(const zmi_call *c, int64_t begin, int64_t end) {
  product p = product_of(c);
  if (begin == 0) zmi_choice_make(&p.choice, c->src[LHS], c->src[RHS]);
  if (!p.digits) return;
  zmi_ready_tiles(c->kernels, &p.ready, c->src[X], p.dtype, (char *)c->scratch + p.choice_bytes, ZMI_MAX(begin - 1, 0), end - 1);
}

// ---- second stage: digits ----

static zmi_stored_matrix stored_of(const zmi_call *c, const product *p, int64_t matrix) {
  const zm_dtype dtype = c->in[SCALES]->type.dtype;
  const int64_t scales = p->lines * (p->line / p->format.group) * matrix;
  zmi_stored_matrix m = {.stored = dtype, .n = p->lines, .k = p->line};
  m.weight = (const uint32_t *)c->src[CODES] + matrix * p->lines * c->in[CODES]->type.shape[2];
  m.scales = zmi_at(c->src[SCALES], dtype, scales);
  m.biases = c->in[BIASES] ? zmi_at(c->src[BIASES], dtype, scales) : NULL;
  return m;
}

// Blocks [first, first + blocks) of a matrix for all rows of an entry of the plan.
static void dot_blocks(const zmi_call *c, const product *p, int64_t entry, int64_t first, int64_t blocks, char *packed) {
  const zmi_expert_plan *plan = &p->choice.plan;
  const char *ready = (const char *)c->scratch + p->choice_bytes;
  zmi_stored_matrix m = stored_of(c, p, plan->expert[entry]);
  const int64_t row = first * ZMI_LANES;
  m.weight = (const char *)m.weight + row * (p->k * p->format.bits / 8);
  m.scales = zmi_at(m.scales, m.stored, row * (p->k / p->format.group));
  m.biases = zmi_at(m.biases, m.stored, row * (p->k / p->format.group));
  m.n = ZMI_MIN(p->n - row, blocks * ZMI_LANES);
  zmi_pack_blocks(&p->format, &m, packed, 0, blocks);
  const zmi_weights w = {.format = p->format,
                         .n = m.n,
                         .k = p->k,
                         .experts = 1,
                         .blocks = blocks,
                         .packed = (const unsigned char *)packed,
                         .block_bytes = p->block_bytes,
                         .matrix_bytes = p->block_bytes * (size_t)blocks};
  for (int32_t i = plan->start[entry]; i < plan->start[entry + 1]; i += ZMI_ROWS) {
    const void *x[ZMI_ROWS];
    void *y[ZMI_ROWS];
    int count = ZMI_MIN(plan->start[entry + 1] - i, ZMI_ROWS);
    for (int r = 0; r < count; r++) {
      int64_t pair = plan->pair[i + r];
      x[r] = ready + (size_t)p->choice.row[pair] * p->ready.bytes;
      y[r] = zmi_at(c->dst[0], p->dtype, pair * p->n + row);
    }
    zmi_dot_blocks(c->kernels, &w, 0, 0, blocks, &p->ready, count, x, y, p->dtype);
  }
}

static void zero_blocks(const zmi_call *c, const product *p, int64_t entry, int64_t first, int64_t last) {
  const zmi_expert_plan *plan = &p->choice.plan;
  int64_t from = first * ZMI_LANES, n = ZMI_MIN(last * ZMI_LANES, p->n) - from;
  for (int32_t i = plan->start[entry]; i < plan->start[entry + 1] && n > 0; i++) {
    memset(zmi_at(c->dst[0], p->dtype, plan->pair[i] * p->n + from), 0, (size_t)n * zm_dtype_size(p->dtype));
  }
}

static void digits_run(const zmi_call *c, const product *p, int64_t lane) {
  const zmi_expert_plan *plan = &p->choice.plan;
  char *packed = (char *)c->scratch + p->choice_bytes + p->ready_bytes + (size_t)lane * p->lane_bytes;
  int64_t total = plan->groups[*plan->count] * p->blocks, lanes = lanes_of(p);
  zmi_expert_walk at = {.plan = plan, .blocks = p->blocks, .entry = -1, .next = total * lane / lanes, .end = total * (lane + 1) / lanes};
  while (zmi_expert_walk_next(&at)) {
    if (plan->expert[at.entry] < 0) {
      zero_blocks(c, p, at.entry, at.first, at.last);
      continue;
    }
    for (int64_t first = at.first; first < at.last; first += p->run) {
      dot_blocks(c, p, at.entry, first, ZMI_MIN(p->run, at.last - first), packed);
    }
  }
}

// ---- second stage: values ----

typedef struct coded {
  zmi_format format;
  zmi_stored_matrix m;
} coded;

static void load_codes(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *out) {
  const coded *w = s->user;
  zmi_codes_values(kn, &w->format, &w->m, s->across ? k : line, s->across ? line : k, n, out);
}

typedef struct picked {
  const zmi_choice *choice;
  const int32_t *pair;
  int64_t k;
} picked;

static void load_row(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *out) {
  const picked *r = s->user;
  kn->load(zmi_at(s->data, s->dtype, r->choice->row[r->pair[line]] * r->k + k), s->dtype, n, out);
}

static int64_t chunks_of(const product *p) {
  return zmi_tiles_of(p->choice.pairs, ZMI_BLOCK_ROWS);
}

static void values_tile(const zmi_call *c, const product *p, int64_t tile, zmi_gemm_work *work) {
  const zmi_expert_plan *plan = &p->choice.plan;
  const int64_t across = zmi_tiles_of(p->n, ZMI_BLOCK_COLS), chunks = chunks_of(p);
  const int64_t col = tile % across * ZMI_BLOCK_COLS, row = tile / across % chunks * ZMI_BLOCK_ROWS, entry = tile / across / chunks;
  if (entry >= *plan->count || row >= plan->start[entry + 1] - plan->start[entry]) return;
  const int64_t there = plan->start[entry + 1] - plan->start[entry], height = ZMI_MIN(there - row, ZMI_BLOCK_ROWS);
  const int64_t cols = ZMI_MIN(p->n - col, ZMI_BLOCK_COLS);
  const int32_t expert = plan->expert[entry];
  const bool across_lines = !((const attributes *)c->attrs)->transpose;
  const picked r = {&p->choice, plan->pair + plan->start[entry], p->k};
  const coded w = {p->format, stored_of(c, p, expert < 0 ? 0 : expert)};
  const zmi_side x = {.data = c->src[X], .dtype = p->dtype, .lines = there, .load = load_row, .user = &r};
  const zmi_side y = {.dtype = ZM_F32, .lines = p->n, .load = load_codes, .across = across_lines, .user = &w};
  zmi_gemm_block(c->kernels, &x, row, height, &y, col, cols, expert < 0 ? 0 : p->k, work);
  for (int64_t i = 0; i < height; i++) {
    c->kernels->store(work->y + i * ZMI_BLOCK_COLS, cols, zmi_at(c->dst[0], p->dtype, r.pair[row + i] * p->n + col), p->dtype);
  }
}

static int64_t tiles(const zmi_call *c) {
  product p = product_of(c);
  if (empty(c)) return 0;
  return p.digits ? lanes_of(&p) : p.choice.plan.most * chunks_of(&p) * zmi_tiles_of(p.n, ZMI_BLOCK_COLS);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const product p = product_of(c);
  if (p.digits) {
    for (int64_t t = begin; t < end; t++) digits_run(c, &p, t);
    return;
  }
  zmi_gemm_work work;
  for (int64_t t = begin; t < end; t++) values_tile(c, &p, t, &work);
}

// ---- shape ----

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const attributes *a = attrs;
  char tx[128], tw[128];
  int64_t line;
  if (nin != 6 || in[X].rank < 0 || in[CODES].rank < 0 || in[SCALES].rank < 0 || in[LHS].rank < 0 || in[RHS].rank < 0) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "takes 6 operands, of which only the biases may be absent");
  }
  zm_status status = zmi_want_codes(&a->format, &in[CODES], &in[SCALES], in[BIASES].rank < 0 ? NULL : &in[BIASES], &line);
  if (status != ZM_OK) return status;
  if (in[X].rank != 3 || in[CODES].rank != 3 || !zmi_dtype_is_float(in[X].dtype) ||
      in[X].shape[2] != (a->transpose ? line : in[CODES].shape[1])) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected float rows [A, M, K] and codes of matrices [B, %s], found %s and %s",
                    a->transpose ? "N, K" : "K, N", zmi_type_text(&in[X], tx), zmi_type_text(&in[CODES], tw));
  }
  status = zmi_want_choice(&in[LHS], &in[RHS], in[X].shape[1]);
  if (status != ZM_OK) return status;
  return zmi_give(nout, out, in[X].dtype, 3, (int64_t[]){in[LHS].shape[0], in[X].shape[1], a->transpose ? in[CODES].shape[1] : line});
}

// ---- rules ----

static zm_array *apply(const attributes *a, zm_array *x, zm_array *const *w, zm_array *lhs, zm_array *rhs) {
  zm_array *in[6] = {x, w[0], w[1], w[2], lhs, rhs};
  return x && lhs && rhs ? zmi_apply1(&zmi_op_quantized_matmul, a, sizeof *a, 6, in) : NULL;
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const attributes *a = (const attributes *)(const void *)n->attrs.bytes;
  attributes turned = *a;
  turned.transpose = !a->transpose;
  zm_array *g = given[0], *x = n->in[X], *lhs = n->in[LHS], *rhs = n->in[RHS];
  if (!g) return ZM_OK;
  zm_array *all = zm_arange(0, (double)lhs->type.shape[0], 1, ZM_I32);
  if (wanted[X]) {
    gradient[X] = zmi_take_add(apply(&turned, g, n->in + CODES, all, rhs), lhs, x->type.shape[0]);
    if (!gradient[X]) return zm_last_status();
  }
  if (!wanted[SCALES] && !wanted[BIASES]) return ZM_OK;
  const int64_t matrices = n->in[CODES]->type.shape[0];
  g = zm_astype(g, ZM_F32);
  x = zm_astype(x, ZM_F32);
  zm_array *values = a->transpose ? zmi_gather_outer(g, x, all, lhs, rhs, matrices) : zmi_gather_outer(x, g, lhs, all, rhs, matrices);
  if (!values) return zm_last_status();
  return zmi_codes_gradient(&a->format, n->in[CODES], n->in[SCALES], values, wanted + SCALES, &gradient[SCALES], &gradient[BIASES]);
}

// Rows of a batch are more rows of each source.
static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  const zmi_type *x = &in[X]->type;
  for (int i = CODES; i <= RHS; i++) {
    if (batched[i]) return zmi_vmap_slices(n, size, in, batched, out);
  }
  zm_array *rows = zm_transpose(in[X], (int[]){1, 0, 2, 3}); // [A, size, M, K]
  rows = zm_reshape(rows, (int64_t[]){x->shape[1], size * x->shape[2], x->shape[3]}, 3);
  zm_array *y = apply((const attributes *)(const void *)n->attrs.bytes, rows, in + CODES, in[LHS], in[RHS]);
  if (!y) return zm_last_status();
  y = zm_reshape(y, (int64_t[]){y->type.shape[0], size, x->shape[2], y->type.shape[2]}, 4);
  out[0] = zm_transpose(y, (int[]){1, 0, 2, 3});
  return out[0] ? ZM_OK : zm_last_status();
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "x; scales and biases of affine"};

const zmi_op zmi_op_quantized_matmul = {
    .name = "quantized_matmul",
    .operands = "x codes scales biases? lhs rhs",
    .fields = fields,
    .rounding =
        "affine transposed: the dot product in order A; others as matmul with the values in float32; rounded once to the dtype of x",
    .infer = infer,
    .scratch = scratch,
    .stages = {{ready_tiles, ready_run}, {tiles, run}},
    .rules = &rules};

// ---- builders ----

// [batch..., R, C] -> [all, R, C]
static zm_array *flat(zm_array *a) {
  int64_t shape[3] = {1, 0, 0};
  if (!a) return NULL;
  const int rank = a->type.rank;
  for (int i = 0; i < rank - 2; i++) shape[0] *= a->type.shape[i];
  shape[1] = a->type.shape[rank - 2];
  shape[2] = a->type.shape[rank - 1];
  return zm_reshape(a, shape, 3);
}

static zm_array *build(const char *op, zm_array *x, zm_array *const *w, zm_array *lhs, zm_array *rhs, const zm_quant *q, bool transpose) {
  attributes a = {.transpose = transpose};
  char tx[128], tw[128];
  int rank;
  int64_t shape[ZM_MAX_RANK];
  if (!zmi_present(op, 1, &x) || !zmi_present(op, 2, w) || !zmi_codes_of(op, q, &a.format)) return NULL;
  zm_dtype dtype = x->type.dtype;
  if (a.format.mode == ZMI_QUANT_AFFINE) dtype = zm_dtype_promote(dtype, w[1]->type.dtype);
  const bool plain = w[0]->type.rank == 2 && !lhs && !rhs;
  if (x->type.rank < 2 || w[0]->type.rank < 2 || !zmi_dtype_is_float(dtype)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: expected float rows and codes of rank 2 or more, found %s and %s", op, zmi_type_text(&x->type, tx),
             zmi_type_text(&w[0]->type, tw));
    return NULL;
  }
  zm_array *rows = zm_astype(x, dtype), *parts[3] = {flat(w[0]), NULL, NULL};
  for (int i = 1; i < 3; i++) {
    if (w[i] && w[i]->type.rank != w[0]->type.rank) {
      zmi_fail(ZM_ERROR_ARGUMENT, "%s: codes %s and scales or biases %s are of different ranks", op, zmi_type_text(&w[0]->type, tw),
               zmi_type_text(&w[i]->type, tx));
      return NULL;
    }
    if (w[i] && !(parts[i] = flat(w[i]))) return NULL;
  }
  if (plain) { // all rows meet the one matrix
    int64_t count = 1;
    for (int i = 0; i < x->type.rank - 1; i++) count *= x->type.shape[i];
    rows = zm_reshape(rows, (int64_t[]){1, count, x->type.shape[x->type.rank - 1]}, 3);
    lhs = rhs = zm_full(0, ZM_I32, (int64_t[]){1}, 1);
    rank = x->type.rank - 2;
    memcpy(shape, x->type.shape, sizeof shape);
  } else {
    lhs = zmi_choice_index(op, lhs, x);
    rhs = zmi_choice_index(op, rhs, w[0]);
    if (!lhs || !rhs || !zmi_broadcast_shape(op, &lhs->type, &rhs->type, &rank, shape)) return NULL;
    if (rank > ZM_MAX_RANK - 2) {
      zmi_fail(ZM_ERROR_ARGUMENT, "%s: indices of rank %d, the most is %d", op, rank, ZM_MAX_RANK - 2);
      return NULL;
    }
    lhs = zm_reshape(zm_broadcast_to(lhs, shape, rank), (int64_t[]){-1}, 1);
    rhs = zm_reshape(zm_broadcast_to(rhs, shape, rank), (int64_t[]){-1}, 1);
    rows = flat(rows);
  }
  zm_array *y = apply(&a, rows, parts, lhs, rhs);
  if (!y) {
    if (zm_last_status() == ZM_OK) zmi_fail(ZM_ERROR_ARGUMENT, "%s: an operand is NULL", op);
    return NULL;
  }
  shape[rank] = x->type.shape[x->type.rank - 2];
  shape[rank + 1] = y->type.shape[2];
  return zm_reshape(y, shape, rank + 2);
}

zm_array *zm_quantized_matmul(zm_array *x, zm_array *codes, zm_array *scales, zm_array *biases, const zm_quant *format, bool transpose) {
  zm_array *w[3] = {codes, scales, biases};
  return build("quantized_matmul", x, w, NULL, NULL, format, transpose);
}

zm_array *zm_gather_qmm(zm_array *x, zm_array *codes, zm_array *scales, zm_array *biases, zm_array *lhs, zm_array *rhs,
                        const zm_quant *format, bool transpose, bool sorted) {
  zm_array *w[3] = {codes, scales, biases};
  (void)sorted; // rows are put in order here
  return build("gather_qmm", x, w, lhs, rhs, format, transpose);
}
