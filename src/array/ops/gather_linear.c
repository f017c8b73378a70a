// gather_linear: rows times the matrices of the experts that each row chose, plus their biases.
#include "array/kernels.h"
#include "array/ops/ops.h"

typedef struct attributes {
  zmi_matrix_attrs m;
} attributes;

static const zmi_field fields[] = {ZMI_MATRIX_FIELDS("", attributes, m), {NULL, ZMI_FIELD_INT, 0, NULL}};

enum { X, EXPERTS, WEIGHT, BIAS };

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const attributes *a = attrs;
  zm_status status = zmi_want_operands(nin, in, 3, 4);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[X], in[X].rank == 3 ? 3 : 2, "[rows, k] or [rows, slots, k]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[X]);
  if (status == ZM_OK) status = zmi_want_rank("experts", &in[EXPERTS], 2, "int32 [rows, slots]");
  if (status == ZM_OK) status = zmi_want_dtype("experts", &in[EXPERTS], ZM_I32);
  if (status == ZM_OK) status = zmi_want_matrix(&a->m, nin, in, WEIGHT, BIAS);
  if (status == ZM_OK) status = zmi_want_dim("x", &in[X], in[X].rank - 1, a->m.k, "k of the weight");
  if (status == ZM_OK) status = zmi_want_dim("experts", &in[EXPERTS], 0, in[X].shape[0], "rows of x");
  if (status == ZM_OK && in[X].rank == 3) status = zmi_want_dim("x", &in[X], 1, in[EXPERTS].shape[1], "slots of experts");
  if (status == ZM_OK && zmi_type_count(&in[EXPERTS]) > INT32_MAX) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "experts: %lld pairs of row and slot are too many", (long long)zmi_type_count(&in[EXPERTS]));
  }
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = zmi_type_of(in[X].dtype, 3, (int64_t[]){in[EXPERTS].shape[0], in[EXPERTS].shape[1], a->m.n});
  return ZM_OK;
}

typedef struct gather {
  zmi_ready form;
  int64_t pairs, rows, share; // rows of x: each serves `share` pairs
  bool direct;                // rows of x as they are
  size_t plan_bytes;
} gather;

static gather gather_of(const zmi_call *c) {
  const attributes *a = c->attrs;
  const zmi_type *x = &c->in[X]->type, *e = &c->in[EXPERTS]->type;
  gather g = {.form = zmi_ready_of(&a->m.format, x->dtype, a->m.k), .pairs = zmi_type_count(e)};
  g.share = x->rank == 2 ? e->shape[1] : 1;
  g.rows = x->rank == 2 ? x->shape[0] : g.pairs;
  g.direct = g.form.direct;
  g.plan_bytes = zmi_expert_plan_bytes(a->m.experts, g.pairs);
  return g;
}

static size_t scratch(const zmi_call *c) {
  gather g = gather_of(c);
  return g.plan_bytes + (g.direct ? 0 : (size_t)g.rows * g.form.bytes);
}

static int64_t ready_tiles(const zmi_call *c) {
  gather g = gather_of(c);
  if (g.pairs == 0) return 0;
  return 1 + (g.direct ? 0 : g.rows * zmi_ready_pieces(&g.form));
}

// The last tile makes the plan.
static void ready_run(const zmi_call *c, int64_t begin, int64_t end) {
  const attributes *a = c->attrs;
  gather g = gather_of(c);
  int64_t last = ready_tiles(c) - 1;
  if (begin < last) {
    zmi_ready_tiles(c->kernels, &g.form, c->src[X], c->in[X]->type.dtype, (char *)c->scratch + g.plan_bytes, begin, ZMI_MIN(end, last));
  }
  if (end <= last) return;
  zmi_expert_plan plan = zmi_expert_plan_at(c->scratch, a->m.experts, g.pairs);
  zmi_expert_plan_make(&plan, c->src[EXPERTS]);
}

static int64_t dot_tiles(const zmi_call *c) {
  const attributes *a = c->attrs;
  zmi_expert_plan plan = zmi_expert_plan_at(NULL, a->m.experts, zmi_type_count(&c->in[EXPERTS]->type));
  return zmi_expert_tiles(&plan, (a->m.n + ZMI_LANES - 1) / ZMI_LANES);
}

static void dot_run(const zmi_call *c, int64_t begin, int64_t end) {
  const attributes *a = c->attrs;
  gather g = gather_of(c);
  zmi_weights w = zmi_weights_of(c, &a->m, WEIGHT, BIAS);
  zmi_expert_plan plan = zmi_expert_plan_at(c->scratch, a->m.experts, g.pairs);
  zmi_rows rows = {.form = &g.form, .count = g.rows};
  rows.ready = g.direct ? c->src[X] : (const char *)c->scratch + g.plan_bytes;
  rows.stride = g.direct ? (size_t)g.form.k * zm_dtype_size(g.form.dtype) : g.form.bytes;
  zmi_expert_run(c->kernels, &w, &plan, &rows, g.share, c->dst[0], c->in[X]->type.dtype, begin, end);
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (wanted[X]) {
    zm_array *in[3] = {given[0], n->in[WEIGHT], n->in[EXPERTS]};
    zm_array *each = zmi_apply1(&zmi_op_linear_back, n->attrs.bytes, sizeof(attributes), 3, in);
    gradient[X] = n->in[X]->type.rank == 2 ? zm_sum(each, 1, false) : each;
  }
  if (n->nin > BIAS && wanted[BIAS]) {
    const zmi_type *b = &n->in[BIAS]->type;
    zm_array *sum = zmi_take_add(given[0], n->in[EXPERTS], ((const attributes *)(const void *)n->attrs.bytes)->m.experts);
    gradient[BIAS] = sum ? zm_astype(zm_reshape(sum, b->shape, b->rank), b->dtype) : NULL;
  }
  return ZM_OK;
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 1u << X | 1u << EXPERTS, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "x, bias; the weight is packed"};

const zmi_op zmi_op_gather_linear = {
    .name = "gather_linear",
    .operands = "x experts weight bias?",
    .fields = fields,
    .rounding = "As linear, with the matrix of the chosen expert; an expert out of range gives zeros.",
    .infer = infer,
    .scratch = scratch,
    .device = zmi_gather_linear_device,
    .stages = {{ready_tiles, ready_run}, {dot_tiles, dot_run}},
    .rules = &rules,
};

zm_array *zmi_gather_linear(const zmi_matrix *w, zm_array *x, zm_array *experts) {
  attributes a = {zmi_matrix_attrs_of(w)};
  zm_array *in[] = {x, experts, w->packed, w->bias};
  return zmi_apply1(&zmi_op_gather_linear, &a, sizeof a, w->bias ? 4 : 3, in);
}
