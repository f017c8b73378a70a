// The ops between a router and the experts: rows in the order of their experts, and the weighted sum of the experts' results with the
// rounding points that a model may ask for.
#include "catalog/ops.h"

#include <string.h>

// ---- moe_combine: y [R, S, D], weights [R, S] -> [R, D] ----

static const char *const kinds[] = {"fma", "no_fma", "exact", "fp32", "fp32_no_fma", NULL};

typedef struct combine_attrs {
  int64_t kind; // zm_combine
} combine_attrs;

enum { PIECE = ZMI_COMBINE_MOST }; // elements of one tile: long runs of memory

static const zmi_field fields[] = {{"kind", ZMI_FIELD_WORD, offsetof(combine_attrs, kind), kinds}, {0}};

enum { Y, WEIGHTS };

static zm_dtype result_of(int64_t kind, zm_dtype y) {
  return kind == ZM_COMBINE_FP32 || kind == ZM_COMBINE_FP32_NO_FMA ? ZM_F32 : y;
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  int64_t kind = ((const combine_attrs *)attrs)->kind;
  zm_status status = zmi_want_operands(nin, in, 2, 2);
  if (status == ZM_OK) status = zmi_want_rank("expert_outputs", &in[Y], 3, "[rows, K, D]");
  if (status == ZM_OK) status = zmi_want_float("expert_outputs", &in[Y]);
  if (status == ZM_OK) status = zmi_want_rank("weights", &in[WEIGHTS], 2, "[rows, K]");
  if (status == ZM_OK) status = zmi_want_float("weights", &in[WEIGHTS]);
  if (status == ZM_OK) status = zmi_want_dim("weights", &in[WEIGHTS], 0, in[Y].shape[0], "rows of expert_outputs");
  if (status == ZM_OK) status = zmi_want_dim("weights", &in[WEIGHTS], 1, in[Y].shape[1], "K of expert_outputs");
  if (status == ZM_OK && (kind < ZM_COMBINE_FMA || kind > ZM_COMBINE_FP32_NO_FMA)) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "kind: %lld is unknown", (long long)kind);
  }
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = zmi_type_of(result_of(kind, in[Y].dtype), 2, (int64_t[]){in[Y].shape[0], in[Y].shape[2]});
  return ZM_OK;
}

static int64_t pieces(const zmi_call *c) {
  return (c->in[Y]->type.shape[2] + PIECE - 1) / PIECE;
}

static int64_t tiles(const zmi_call *c) {
  return c->in[Y]->type.shape[0] * pieces(c);
}

// sum += value w, the product and the sum rounded each (this file is compiled without contraction).
static void add_product(float *restrict sum, const float *restrict value, float w, int64_t n) {
  for (int64_t i = 0; i < n; i++) sum[i] += value[i] * w;
}

static void add_rounded(const zmi_kernels *kn, float *restrict sum, float *restrict value, float w, int64_t n, zm_dtype dtype) {
  for (int64_t i = 0; i < n; i++) value[i] *= w;
  kn->round(value, n, dtype);
  for (int64_t i = 0; i < n; i++) sum[i] += value[i];
  kn->round(sum, n, dtype);
}

static void piece(const zmi_call *c, int64_t kind, int64_t row, int64_t first, int64_t n, bool past) {
  _Alignas(64) float sum[PIECE], value[PIECE];
  const zmi_kernels *kn = c->kernels;
  const zmi_type *t = &c->in[Y]->type;
  int64_t slots = t->shape[1], width = t->shape[2];
  zm_dtype wt = c->in[WEIGHTS]->type.dtype;
  void *dst = zmi_at(c->dst[0], c->out[0]->type.dtype, row * width + first);
  const bool exact = kind == ZM_COMBINE_EXACT && t->dtype != ZM_F32; // float32 is rounded as it is computed
  if (kind == ZM_COMBINE_FMA || kind == ZM_COMBINE_FP32) {
    zmi_combine_piece(kn, zmi_at(c->src[Y], t->dtype, row * slots * width + first), t->dtype, width,
                      zmi_at(c->src[WEIGHTS], wt, row * slots), wt, slots, n, dst, c->out[0]->type.dtype, past);
    return;
  }
  memset(sum, 0, (size_t)n * sizeof *sum);
  for (int64_t s = 0; s < slots; s++) {
    float w;
    const void *y = zmi_at(c->src[Y], t->dtype, (row * slots + s) * width + first);
    kn->load(zmi_at(c->src[WEIGHTS], wt, row * slots + s), wt, 1, &w);
    if (t->dtype != ZM_F32) kn->load(y, t->dtype, n, value);
    if (exact)
      add_rounded(kn, sum, value, w, n, t->dtype);
    else
      add_product(sum, t->dtype == ZM_F32 ? (const float *)y : value, w, n);
  }
  kn->store(sum, n, dst, c->out[0]->type.dtype);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  int64_t count = pieces(c), width = c->in[Y]->type.shape[2];
  const bool past = zmi_streams(c);
  for (int64_t t = begin; t < end; t++) {
    int64_t first = t % count * PIECE;
    piece(c, ((const combine_attrs *)c->attrs)->kind, t / count, first, ZMI_MIN(width - first, PIECE), past);
  }
  if (past) zmi_copied_past();
}

static zm_status composed(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  zm_array *y = zm_multiply(zm_astype(in[Y], ZM_F32), zm_expand_dims(zm_astype(in[WEIGHTS], ZM_F32), -1));
  out[0] = zm_astype(zm_sum(y, 1, false), result_of(((const combine_attrs *)user)->kind, in[Y]->type.dtype));
  return zmi_cat_status(out[0]);
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  combine_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return zmi_cat_vjp_by(composed, &a, n, given, wanted, gradient);
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 1u << Y | 1u << WEIGHTS, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "y weights"};

const zmi_op zmi_op_moe_combine = {
    .name = "moe_combine",
    .operands = "y weights",
    .fields = fields,
    .rounding = "From 0 over the slots in their order. fma, fp32: fma in float32; no_fma, fp32_no_fma: products and sums in float32, each "
                "rounded; exact: each rounded to the dtype of y. The result is rounded once to the dtype of y, or float32 with fp32.",
    .infer = infer,
    .stages = {{tiles, run}},
    .rules = &rules,
};

// ---- moe_dispatch: x [R, D], experts int32 [R, K] -> rows [R K, D], place [R, K], order [R K], offsets [E + 1] ----

typedef struct dispatch_attrs {
  int64_t experts;
} dispatch_attrs;

static const zmi_field dispatch_fields[] = {{"experts", ZMI_FIELD_INT, offsetof(dispatch_attrs, experts), NULL}, {0}};

enum { D_ROWS, D_PLACE, D_ORDER, D_OFFSETS };

static zm_status dispatch_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  int64_t experts = ((const dispatch_attrs *)attrs)->experts;
  zm_status status = zmi_want_operands(nin, in, 2, 2);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[0], 2, "[rows, D]");
  if (status == ZM_OK) status = zmi_want_rank("indices", &in[1], 2, "int32 [rows, K]");
  if (status == ZM_OK) status = zmi_want_dtype("indices", &in[1], ZM_I32);
  if (status == ZM_OK) status = zmi_want_dim("indices", &in[1], 0, in[0].shape[0], "rows of x");
  if (status == ZM_OK && (experts < 1 || experts > INT32_MAX - 1)) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "experts: expected at least 1, found %lld", (long long)experts);
  }
  if (status != ZM_OK) return status;
  if (in[1].shape[1] && in[1].shape[0] > INT32_MAX / in[1].shape[1]) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "indices: %lld rows are too many", (long long)in[1].shape[0]);
  }
  int64_t pairs = in[1].shape[0] * in[1].shape[1];
  *nout = 4;
  out[D_ROWS] = zmi_type_of(in[0].dtype, 2, (int64_t[]){pairs, in[0].shape[1]});
  out[D_PLACE] = zmi_type_of(ZM_U32, 2, in[1].shape);
  out[D_ORDER] = zmi_type_of(ZM_U32, 1, &pairs);
  out[D_OFFSETS] = zmi_type_of(ZM_U32, 1, (int64_t[]){experts + 1});
  return ZM_OK;
}

static int64_t one_tile(const zmi_call *c) {
  (void)c;
  return 1;
}

// Counts, then places; pairs of one expert in their own order, those out of range behind all others.
static void order_run(const zmi_call *c, int64_t begin, int64_t end) {
  (void)begin, (void)end;
  int64_t experts = ((const dispatch_attrs *)c->attrs)->experts, pairs = zmi_type_count(&c->in[1]->type);
  const int32_t *chosen = c->src[1];
  uint32_t *offsets = c->dst[D_OFFSETS], *place = c->dst[D_PLACE], *order = c->dst[D_ORDER], *next = c->scratch;
  memset(next, 0, (size_t)(experts + 1) * sizeof *next);
  for (int64_t i = 0; i < pairs; i++) next[chosen[i] >= 0 && chosen[i] < experts ? chosen[i] : experts]++;
  uint32_t start = 0;
  for (int64_t e = 0; e <= experts; e++) {
    uint32_t count = next[e];
    offsets[e] = next[e] = start;
    start += count;
  }
  for (int64_t i = 0; i < pairs; i++) {
    uint32_t at = next[chosen[i] >= 0 && chosen[i] < experts ? chosen[i] : experts]++;
    place[i] = at;
    order[at] = (uint32_t)i;
  }
}

static size_t order_scratch(const zmi_call *c) {
  return zmi_align64((size_t)(((const dispatch_attrs *)c->attrs)->experts + 1) * sizeof(uint32_t));
}

enum { ROWS_OF_A_TILE = 16 };

static int64_t copy_tiles(const zmi_call *c) {
  return (c->out[D_ROWS]->type.shape[0] + ROWS_OF_A_TILE - 1) / ROWS_OF_A_TILE;
}

static void copy_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_type *t = &c->in[0]->type;
  size_t bytes = (size_t)t->shape[1] * zm_dtype_size(t->dtype);
  int64_t last = ZMI_MIN(end * ROWS_OF_A_TILE, c->out[D_ROWS]->type.shape[0]), slots = c->in[1]->type.shape[1];
  const uint32_t *order = c->dst[D_ORDER], *offsets = c->dst[D_OFFSETS];
  uint32_t valid = offsets[((const dispatch_attrs *)c->attrs)->experts];
  for (int64_t r = begin * ROWS_OF_A_TILE; r < last && bytes; r++) {
    char *dst = (char *)c->dst[D_ROWS] + (size_t)r * bytes;
    if (r < valid)
      memcpy(dst, (const char *)c->src[0] + (size_t)(order[r] / slots) * bytes, bytes);
    else
      memset(dst, 0, bytes);
  }
}

static zm_status dispatch_composed(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nout;
  const dispatch_attrs *a = user;
  zm_status status = zmi_cat_apply(&zmi_op_moe_dispatch, a, sizeof *a, nin, in, out);
  if (status != ZM_OK) return status;
  int64_t rows = in[0]->type.shape[0], slots = in[1]->type.shape[1], pairs = rows * slots;
  // Rows of x in the order of the pairs; behind the last expert zeros, by an index out of range.
  zm_array *of_pair =
      zmi_cat_reshape(zm_broadcast_to(zm_expand_dims(zm_arange(0, (double)rows, 1, ZM_I32), -1), (int64_t[]){rows, slots}, 2), 1, pairs);
  zm_array *good =
      zm_multiply(zm_greater_equal(in[1], zm_full(0, ZM_I32, NULL, 0)), zm_less(in[1], zm_full((double)a->experts, ZM_I32, NULL, 0)));
  zm_array *row = zm_where(zmi_cat_reshape(good, 1, pairs), of_pair, zm_full(-1, ZM_I32, NULL, 0));
  out[D_ROWS] = zm_take(in[0], zm_take(row, out[D_ORDER]));
  return zmi_cat_status(out[D_ROWS]);
}

static zm_status dispatch_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  dispatch_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return given[D_ROWS] ? zmi_cat_vjp_by(dispatch_composed, &a, n, given, wanted, gradient) : ZM_OK;
}

static const zmi_rules dispatch_rules = {.vjp = dispatch_vjp, .gradient = "x"};

const zmi_op zmi_op_moe_dispatch = {
    .name = "moe_dispatch",
    .operands = "x indices",
    .fields = dispatch_fields,
    .rounding = "exact; pairs of one expert stay in their order; pairs whose expert is out of range come last, as zeros",
    .infer = dispatch_infer,
    .scratch = order_scratch,
    .stages = {{one_tile, order_run}, {copy_tiles, copy_run}},
    .rules = &dispatch_rules,
};
