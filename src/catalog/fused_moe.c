// Products of chosen rows with chosen experts' quantized matrices, plain or gated (silu(x gate^T) (x up^T)), for any shape. The products
// are those of the patched models: the tier's dot kernels, by way of the row functions of array/kernels.h. Matrices come in the form of
// checkpoints; runs of 16 output rows are put into the form of the kernels as they are needed, once for all rows that chose the expert.
#include "catalog/ops.h"

#include <string.h>

enum { X, ROWS, EXPERTS, WORDS, SCALES, BIASES, UP_WORDS, UP_SCALES, UP_BIASES, OPERANDS };

typedef struct gather_attrs {
  int64_t bits, group, result;
} gather_attrs;

static const zmi_field fields[] = {{"bits", ZMI_FIELD_INT, offsetof(gather_attrs, bits), NULL},
                                   {"group", ZMI_FIELD_INT, offsetof(gather_attrs, group), NULL},
                                   {"result", ZMI_FIELD_WORD, offsetof(gather_attrs, result), zmi_dtype_words},
                                   {0}};

static zm_status want_words(const gather_attrs *a, const zmi_type *in, int words, int64_t k) {
  zm_status status = zmi_want_rank("words", &in[words], 3, "[E, N, K bits / 32]");
  if (status == ZM_OK) status = zmi_want_dtype("words", &in[words], ZM_U32);
  if (status == ZM_OK && (in[words].shape[2] > INT64_MAX / 32 || in[words].shape[2] * 32 != k * a->bits)) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "words: %lld words a row do not hold %lld codes of %lld bits", (long long)in[words].shape[2],
                      (long long)k, (long long)a->bits);
  }
  for (int i = words + 1; i <= words + 2 && status == ZM_OK; i++) {
    const char *name = i == words + 1 ? "scales" : "biases";
    status = zmi_want_rank(name, &in[i], 3, "[E, N, K / group]");
    if (status == ZM_OK) status = zmi_want_float(name, &in[i]);
    if (status == ZM_OK) status = zmi_want_dtype(name, &in[i], in[SCALES].dtype);
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 0, in[words].shape[0], "E");
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 1, in[words].shape[1], "N");
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 2, k / a->group, "groups");
  }
  return status;
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const gather_attrs *a = attrs;
  zmi_format f = {.mode = ZMI_QUANT_AFFINE, .bits = a->bits, .group = a->group, .dtype = ZM_F32};
  zm_status status = zmi_want_operands(nin, in, 6, OPERANDS);
  if (status == ZM_OK) status = zmi_format_check(&f);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[X], 2, "[R, K]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[X]);
  if (status == ZM_OK && in[X].shape[1] % a->group != 0) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "x: K is %lld, no multiple of the group of %lld", (long long)in[X].shape[1], (long long)a->group);
  }
  if (status == ZM_OK) status = zmi_want_rank("rows", &in[ROWS], 1, "int32 [P]");
  if (status == ZM_OK) status = zmi_want_index("rows", &in[ROWS], in[ROWS].shape[0]);
  if (status == ZM_OK) status = zmi_want_index("experts", &in[EXPERTS], in[ROWS].shape[0]);
  if (status == ZM_OK) status = want_words(a, in, WORDS, in[X].shape[1]);
  if (status == ZM_OK && nin > UP_WORDS) {
    if (nin != OPERANDS) return zmi_fail(ZM_ERROR_ARGUMENT, "up: expected words, scales and biases");
    status = want_words(a, in, UP_WORDS, in[X].shape[1]);
    if (status == ZM_OK) status = zmi_want_dim("up words", &in[UP_WORDS], 0, in[WORDS].shape[0], "experts of gate");
    if (status == ZM_OK) status = zmi_want_dim("up words", &in[UP_WORDS], 1, in[WORDS].shape[1], "outputs of gate");
  }
  if (status == ZM_OK && (in[ROWS].shape[0] > INT32_MAX / 2 || in[WORDS].shape[0] > INT32_MAX / 2)) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "rows: %lld pairs are too many", (long long)in[ROWS].shape[0]);
  }
  if (status == ZM_OK && a->result != ZM_F32 && a->result != (int64_t)in[X].dtype) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "result: expected float32 or the dtype of x, found %lld", (long long)a->result);
  }
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = zmi_type_of((zm_dtype)a->result, 2, (int64_t[]){in[ROWS].shape[0], in[WORDS].shape[1]});
  return ZM_OK;
}

// The call in other words. A lane is one tile of the product, with memory of its own for packed blocks.
typedef struct gather {
  const gather_attrs *a;
  const zmi_kernels *kn;
  zm_dtype x, stored, result;
  int64_t rows, k, pairs, experts, n, blocks, lanes, run;
  bool gated;
  zmi_format format;
  zmi_ready form;
  size_t block_bytes, ready, plan, packed, total;
  char *memory;
} gather;

static gather gather_of(const zmi_call *c) {
  enum { LANE_BYTES = 128 * 1024 };
  const zmi_type *x = &c->in[X]->type, *w = &c->in[WORDS]->type;
  gather g = {.a = c->attrs, .kn = c->kernels, .x = x->dtype, .rows = x->shape[0], .k = x->shape[1]};
  g.stored = c->in[SCALES]->type.dtype;
  g.result = (zm_dtype)g.a->result;
  g.pairs = c->in[ROWS]->type.shape[0];
  g.experts = w->shape[0];
  g.n = w->shape[1];
  g.blocks = (g.n + ZMI_LANES - 1) / ZMI_LANES;
  g.gated = c->nin > UP_WORDS;
  g.format =
      (zmi_format){.mode = ZMI_QUANT_AFFINE, .bits = g.a->bits, .group = g.a->group, .dtype = g.stored == ZM_BF16 ? ZM_BF16 : ZM_F32};
  g.form = zmi_ready_of(&g.format, g.x, g.k);
  g.block_bytes = zmi_packed_block_bytes(&g.format, g.k);
  g.run = g.block_bytes ? ZMI_MIN(ZMI_MAX((int64_t)(LANE_BYTES / g.block_bytes), 1), ZMI_DOT_BLOCKS) : 1;
  g.lanes = ZMI_MIN(zmi_lane_count(ZMI_MIN(g.experts + 1, g.pairs) * g.blocks), ZMI_LANES_MAX);
  g.ready = 0;
  g.plan = zmi_align64(g.form.direct ? 0 : g.form.bytes * (size_t)g.rows);
  g.packed = g.plan + zmi_expert_plan_bytes(g.experts, g.pairs);
  g.total = g.packed + 2 * zmi_align64(g.block_bytes * (size_t)g.run) * (size_t)g.lanes;
  g.memory = c->scratch;
  return g;
}

static size_t scratch(const zmi_call *c) {
  return gather_of(c).total;
}

// 1: rows made ready. 2: pairs in order of expert.
static int64_t ready_tiles(const zmi_call *c) {
  gather g = gather_of(c);
  return g.form.direct || g.pairs == 0 ? 0 : g.rows * zmi_ready_pieces(&g.form);
}

static void ready_run(const zmi_call *c, int64_t begin, int64_t end) {
  gather g = gather_of(c);
  zmi_ready_tiles(g.kn, &g.form, c->src[X], g.x, g.memory + g.ready, begin, end);
}

static int64_t plan_tiles(const zmi_call *c) {
  return c->in[ROWS]->type.shape[0] > 0;
}

static void plan_run(const zmi_call *c, int64_t begin, int64_t end) {
  gather g = gather_of(c);
  (void)begin, (void)end;
  zmi_expert_plan p = zmi_expert_plan_at(g.memory + g.plan, g.experts, g.pairs);
  zmi_expert_plan_make(&p, c->src[EXPERTS]);
}

// 3: products.
static int64_t product_tiles(const zmi_call *c) {
  gather g = gather_of(c);
  return g.pairs == 0 ? 0 : g.lanes;
}

// Blocks [first, first + count) of an expert's matrix, in packed form, as a matrix of their own.
static zmi_weights packed_blocks(const zmi_call *c, const gather *g, int words, int64_t expert, int64_t first, int64_t count, void *to) {
  int64_t row = expert * g->n + first * ZMI_LANES, groups = g->k / g->a->group;
  zmi_stored_matrix m = {.weight = (const uint32_t *)c->src[words] + row * c->in[words]->type.shape[2],
                         .scales = zmi_at(c->src[words + 1], g->stored, row * groups),
                         .biases = zmi_at(c->src[words + 2], g->stored, row * groups),
                         .stored = g->stored,
                         .n = ZMI_MIN(g->n - first * ZMI_LANES, count * ZMI_LANES),
                         .k = g->k};
  zmi_pack_blocks(&g->format, &m, to, 0, count);
  return (zmi_weights){.format = g->format,
                       .n = m.n,
                       .k = g->k,
                       .experts = 1,
                       .blocks = count,
                       .packed = to,
                       .block_bytes = g->block_bytes,
                       .matrix_bytes = g->block_bytes * (size_t)count};
}

static const void *ready_row(const zmi_call *c, const gather *g, int32_t row) {
  if (g->form.direct) return zmi_at(c->src[X], g->x, row * g->k);
  return g->memory + g->ready + (size_t)row * g->form.bytes;
}

static void run_of_blocks(const zmi_call *c, const gather *g, const zmi_expert_plan *p, int64_t entry, int64_t first, int64_t count,
                          void *const memory[2]) {
  int32_t expert = p->expert[entry];
  const int32_t *rows = c->src[ROWS];
  zmi_weights gate = {0}, up = {0};
  int64_t n = ZMI_MIN(g->n - first * ZMI_LANES, count * ZMI_LANES);
  if (expert >= 0) {
    gate = packed_blocks(c, g, WORDS, expert, first, count, memory[0]);
    if (g->gated) up = packed_blocks(c, g, UP_WORDS, expert, first, count, memory[1]);
  }
  for (int32_t i = p->start[entry], stop = p->start[entry + 1]; i < stop;) {
    const void *x[ZMI_ROWS];
    void *out[ZMI_ROWS];
    int some = 0;
    for (; i < stop && some < ZMI_ROWS; i++) {
      int32_t pair = p->pair[i];
      void *dst = zmi_at(c->dst[0], g->result, pair * g->n + first * ZMI_LANES);
      if (expert < 0 || rows[pair] < 0 || rows[pair] >= g->rows) {
        memset(dst, 0, (size_t)n * zm_dtype_size(g->result));
        continue;
      }
      x[some] = ready_row(c, g, rows[pair]);
      out[some++] = dst;
    }
    if (some == 0) continue;
    if (g->gated)
      zmi_gated_blocks(g->kn, &gate, &up, 0, 0, count, &g->form, &g->form, some, x, x, out, g->result);
    else
      zmi_dot_blocks(g->kn, &gate, 0, 0, count, &g->form, some, x, out, g->result);
  }
}

static void product_run(const zmi_call *c, int64_t begin, int64_t end) {
  gather g = gather_of(c);
  zmi_expert_plan p = zmi_expert_plan_at(g.memory + g.plan, g.experts, g.pairs);
  int64_t tiles = zmi_expert_tiles(&p, g.blocks);
  size_t bytes = zmi_align64(g.block_bytes * (size_t)g.run);
  for (int64_t lane = begin; lane < end; lane++) {
    char *own = g.memory + g.packed + 2 * bytes * (size_t)lane;
    void *const memory[2] = {own, own + bytes};
    zmi_expert_walk at = zmi_expert_walk_of(&p, g.blocks, tiles * lane / g.lanes, tiles * (lane + 1) / g.lanes);
    while (zmi_expert_walk_next(&at)) {
      for (int64_t first = at.first; first < at.last; first += g.run) {
        run_of_blocks(c, &g, &p, at.entry, first, ZMI_MIN(at.last - first, g.run), memory);
      }
    }
  }
}

// ---- gradient: by the dequantized matrices of each pair ----

static zm_array *of_pairs(zm_array *const *in, int words, const gather_attrs *a) {
  zm_array *w = zm_take(in[words], in[EXPERTS]), *s = zm_take(zm_astype(in[words + 1], ZM_F32), in[EXPERTS]);
  zm_array *b = zm_take(zm_astype(in[words + 2], ZM_F32), in[EXPERTS]);
  zm_array *matrix = w && s && b ? zm_dequantize_affine_packed(w, s, b, (int)a->bits, a->group) : NULL; // [P, N, K]
  zm_array *x = zm_expand_dims(zm_take(zm_astype(in[X], ZM_F32), in[ROWS]), 1);
  return matrix && x ? zm_squeeze(zmi_cat_matmul_t(x, matrix), 1) : NULL;
}

static zm_status composed(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const gather_attrs *a = user;
  (void)nout;
  zm_array *y = of_pairs(in, WORDS, a);
  if (nin > UP_WORDS) y = y ? zm_silu_mul(y, of_pairs(in, UP_WORDS, a)) : NULL;
  out[0] = zm_astype(y, (zm_dtype)a->result);
  return zmi_cat_status(out[0]);
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  gather_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return zmi_cat_vjp_by(composed, &a, n, given, wanted, gradient);
}

static const zmi_rules rules = {.vjp = vjp, .gradient = "x scales biases"};

const zmi_op zmi_op_gather_qmv = {
    .name = "gather_qmv",
    .operands = "x rows experts words scales biases up_words? up_scales? up_biases?",
    .fields = fields,
    .rounding =
        "The quantized dot product of docs/numerics.md, rounded to the dtype of the result; gated: both products, silu and product are "
        "rounded to it, as linear, silu and multiply round. A row or an expert out of range gives zeros.",
    .infer = infer,
    .scratch = scratch,
    .stages = {{ready_tiles, ready_run}, {plan_tiles, plan_run}, {product_tiles, product_run}},
    .rules = &rules,
};

// ---- functions ----

// Words and what belongs to them as [E, N, ...].
static bool matrices_of(const char *name, const zm_affine *m, int64_t k, zm_array **in) {
  int64_t found;
  if (!m) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: a matrix is NULL", name);
    return false;
  }
  int bits = m->bits ? m->bits : 4;
  int64_t group = m->group ? m->group : 64;
  if (!zmi_cat_want_float(name, "biases", m->biases) || !zmi_cat_want_affine(name, m->words, m->scales, m->biases, bits, group, &found))
    return false;
  if (found != k) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: words: rows of %lld codes, but x has rows of %lld", name, (long long)found, (long long)k);
    return false;
  }
  if (m->words->type.rank < 2) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: words: expected [..., N, K bits / 32]", name);
    return false;
  }
  int64_t n = m->words->type.shape[m->words->type.rank - 2], experts = zmi_cat_leading(m->words, 2);
  zm_array *from[] = {m->words, m->scales, zm_astype(m->biases, m->scales->type.dtype)};
  for (int i = 0; i < 3; i++) {
    if (!(in[i] = zmi_cat_reshape(from[i], 3, experts, n, zmi_cat_last(from[i])))) return false;
  }
  return true;
}

zm_array *zmi_cat_gather(const char *name, zm_array *x, zm_array *rows, zm_array *experts, const zm_affine *gate, const zm_affine *up,
                         zm_dtype result) {
  zm_array *in[OPERANDS] = {x, rows, zmi_cat_indices(name, "experts", experts)};
  if (!in[1] || !in[2] || !matrices_of(name, gate, zmi_cat_last(x), in + WORDS)) return NULL;
  if (up && !matrices_of(name, up, zmi_cat_last(x), in + UP_WORDS)) return NULL;
  gather_attrs a = {gate->bits ? gate->bits : 4, gate->group ? gate->group : 64, result};
  if (up && ((up->bits ? up->bits : 4) != a.bits || (up->group ? up->group : 64) != a.group)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: gate and up: expected one width and group for both", name);
    return NULL;
  }
  if (up) {
    in[UP_SCALES] = zm_astype(in[UP_SCALES], in[SCALES]->type.dtype);
    in[UP_BIASES] = zm_astype(in[UP_BIASES], in[SCALES]->type.dtype);
  }
  return zmi_cat_apply1(&zmi_op_gather_qmv, &a, sizeof a, up ? OPERANDS : UP_WORDS, in);
}

bool zm_has_gather_qmm_swiglu(void) {
  return true;
}

static bool gate_and_up(const char *name, const zm_affine *gate, const zm_affine *up) {
  if (gate && up) return zmi_cat_want_rank(name, "gate words", gate->words, 2) && zmi_cat_want_rank(name, "up words", up->words, 2);
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s is NULL", name, gate ? "up" : "gate");
  return false;
}

// indices NULL: 0, 1, ... in the shape of the batch dimensions.
static zm_array *indices_or_all(const char *name, const char *operand, zm_array *indices, const zm_array *of) {
  if (indices) return zmi_cat_indices(name, operand, indices);
  zm_array *all = zm_arange(0, (double)zmi_cat_leading(of, 2), 1, ZM_I32);
  return all ? zm_reshape(all, of->type.shape, of->type.rank - 2) : NULL;
}

zm_array *zm_gather_qmm_swiglu(zm_array *x, const zm_affine *gate, const zm_affine *up, zm_array *lhs_indices, zm_array *rhs_indices) {
  const char *name = "gather_qmm_swiglu";
  if (!zmi_cat_want_float(name, "x", x) || !zmi_cat_want_rank(name, "x", x, 2) || !gate_and_up(name, gate, up)) return NULL;
  int64_t m = x->type.shape[x->type.rank - 2], k = zmi_cat_last(x), n = gate->words->type.shape[gate->words->type.rank - 2];
  zm_array *lhs = indices_or_all(name, "lhs_indices", lhs_indices, x);
  zm_array *rhs = indices_or_all(name, "rhs_indices", rhs_indices, gate->words);
  if (!lhs || !rhs) return NULL;
  // Both to one shape I, then one pair for each of the M rows of an x: row lhs M + i.
  zm_array *zero = zm_full(0, ZM_I32, NULL, 0);
  zm_array *both = zm_multiply(zm_add(lhs, rhs), zero);
  zm_array *l = zm_add(lhs, both), *r = zm_add(rhs, both);
  if (!l || !r) return NULL;
  int64_t pairs = zm_array_size(l);
  // An index out of range must not reach the rows of another: it becomes -1.
  zm_array *valid = zm_multiply(zm_greater_equal(l, zero), zm_less(l, zm_full((double)zmi_cat_leading(x, 2), ZM_I32, NULL, 0)));
  zm_array *row = zm_add(zm_multiply(zmi_cat_reshape(l, 2, pairs, (int64_t)1), zm_full((double)m, ZM_I32, NULL, 0)),
                         zm_arange(0, (double)m, 1, ZM_I32));
  row = zm_where(zmi_cat_reshape(valid, 2, pairs, (int64_t)1), row, zm_full(-1, ZM_I32, NULL, 0));
  zm_array *expert = row ? zm_broadcast_to(zmi_cat_reshape(r, 2, pairs, (int64_t)1), (int64_t[]){pairs, m}, 2) : NULL;
  zm_array *y = zmi_cat_gather(name, zmi_cat_reshape(x, 2, zmi_cat_leading(x, 1), k), zmi_cat_reshape(row, 1, pairs * m),
                               zmi_cat_reshape(expert, 1, pairs * m), gate, up, x->type.dtype);
  return zmi_cat_like(y, l, 0, 2, m, n);
}

zm_array *zm_fused_swiglu_gather_qmv(zm_array *x, const zm_affine *gate, const zm_affine *up, zm_array *experts) {
  const char *name = "fused_swiglu_gather_qmv";
  if (!zmi_cat_want_float(name, "x", x) || !zmi_cat_want_rank(name, "x", x, 1) || !zmi_cat_want_rank(name, "experts", experts, 1))
    return NULL;
  if (!gate_and_up(name, gate, up)) return NULL;
  int64_t rows = zmi_cat_leading(x, 1), slots = zmi_cat_last(experts), n = gate->words->type.shape[gate->words->type.rank - 2];
  if (zmi_cat_leading(experts, 1) != rows || experts->type.rank != x->type.rank) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: experts: expected [..., S] for the %lld rows of x", name, (long long)rows);
    return NULL;
  }
  zm_array *row = zm_broadcast_to(zmi_cat_reshape(zm_arange(0, (double)rows, 1, ZM_I32), 2, rows, (int64_t)1), (int64_t[]){rows, slots}, 2);
  zm_array *y = zmi_cat_gather(name, zmi_cat_rows(x), zmi_cat_reshape(row, 1, rows * slots), zmi_cat_reshape(experts, 1, rows * slots),
                               gate, up, x->type.dtype);
  return zmi_cat_like(y, experts, 0, 1, n);
}

zm_array *zm_fused_quantized_swiglu_gemv(zm_array *x, const zm_affine *gate, const zm_affine *up) {
  const char *name = "fused_quantized_swiglu_gemv";
  if (!zmi_cat_want_float(name, "x", x) || !zmi_cat_want_rank(name, "x", x, 1)) return NULL;
  if (!gate_and_up(name, gate, up) || !zmi_cat_want(name, "gate words", gate->words, 2, (int64_t)-1, (int64_t)-1)) return NULL;
  if (!zmi_cat_want(name, "up words", up->words, 2, gate->words->type.shape[0], (int64_t)-1)) return NULL;
  int64_t rows = zmi_cat_leading(x, 1);
  zm_array *zeros = zm_full(0, ZM_I32, &rows, 1);
  zm_array *y = zmi_cat_gather(name, zmi_cat_rows(x), zm_arange(0, (double)rows, 1, ZM_I32), zeros, gate, up, ZM_F32);
  return zmi_cat_like(y, x, 1, 1, gate->words->type.shape[0]);
}

static zm_status swiglu_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  zm_affine gate = {in[1], in[2], in[3], (int)params[0].whole, params[1].whole},
            up = {in[4], in[5], in[6], (int)params[0].whole, params[1].whole};
  out[0] = zm_gather_qmm_swiglu(in[0], &gate, &up, in[7], in[8]);
  return zmi_cat_status(out[0]);
}

static zm_status qmv_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  zm_affine gate = {in[1], in[2], in[3], (int)params[0].whole, params[1].whole},
            up = {in[4], in[5], in[6], (int)params[0].whole, params[1].whole};
  out[0] = zm_fused_swiglu_gather_qmv(in[0], &gate, &up, in[7]);
  return zmi_cat_status(out[0]);
}

#define MATRICES "gate and up each: words [E, N, K bits / 32], scales [E, N, K / group], biases [E, N, K / group], "
#define MATRICES_SAMPLE                                                                                                                    \
  "gate_w 16 512 256 uint32; gate_s 16 512 32; gate_b 16 512 32; up_w 16 512 256 uint32; up_s 16 512 32; up_b 16 512 32; "

static const zmi_entry entries[] = {
    {.name = "gather_qmm_swiglu",
     .formula = "silu(x gate[r]^T) (x up[r]^T) for x at lhs_indices and experts r at rhs_indices; rounded as linear, silu and multiply",
     .shapes = "x [..., M, K], " MATRICES "lhs_indices, rhs_indices broadcast to I -> [I..., M, N]",
     .dtypes = "x, scales, biases any float; words uint32; integers",
     .gradient = "x scales biases",
     .parameters = "bits=4 integer 2..8, group_size=64 integer 1..",
     .sample = "x 1 1 2048; " MATRICES_SAMPLE "lhs 4 int32 < 1; rhs 4 int32 < 16",
     .call = swiglu_call},
    {.name = "fused_swiglu_gather_qmv",
     .formula = "silu(x gate[e]^T) (x up[e]^T) for each expert e of a row",
     .shapes = "x [..., K], " MATRICES "experts [..., S] -> [..., S, N]",
     .dtypes = "x, scales, biases any float; words uint32; integers",
     .gradient = "x scales biases",
     .parameters = "bits=4 integer 2..8, group_size=64 integer 1..",
     .sample = "x 1 2048; " MATRICES_SAMPLE "experts 1 4 int32 < 16",
     .call = qmv_call},
};

ZMI_GROUP(fused_moe, "Gated products with chosen experts' quantized matrices.");
