// Choosing among the elements of a row: the k largest, and routers of experts. Order is falling, NaN below everything, the lowest index
// among equals.
#include "catalog/ops.h"

#include <string.h>

static zm_status want_k(const zmi_type *x, int64_t k) {
  int64_t n = x->shape[1];
  if (n > INT32_MAX) return zmi_fail(ZM_ERROR_ARGUMENT, "x: rows of %lld elements are too long", (long long)n);
  if (k >= 1 && k <= n) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "k: expected 1 to the %lld elements of a row, found %lld", (long long)n, (long long)k);
}

// Rows are shared out to lanes, each with scratch of its own.
static int64_t lanes(const zmi_call *c) {
  return zmi_lane_count(c->in[0]->type.shape[0]);
}

// ---- topk_rows ----

typedef struct topk_attrs {
  int64_t k;
} topk_attrs;

static const zmi_field topk_fields[] = {{"k", ZMI_FIELD_INT, offsetof(topk_attrs, k), NULL}, {0}};

static zm_status topk_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  int64_t k = ((const topk_attrs *)attrs)->k;
  zm_status status = zmi_want_operands(nin, in, 1, 1);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[0], 2, "[rows, D]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[0]);
  if (status == ZM_OK) status = want_k(&in[0], k);
  if (status != ZM_OK) return status;
  *nout = 2;
  out[0] = zmi_type_of(in[0].dtype, 2, (int64_t[]){in[0].shape[0], k});
  out[1] = zmi_type_of(ZM_U32, 2, (int64_t[]){in[0].shape[0], k});
  return ZM_OK;
}

static size_t topk_lane(const zmi_call *c) {
  return zmi_align64((size_t)c->in[0]->type.shape[1] * sizeof(float)) + zmi_align64((size_t)c->out[0]->type.shape[1] * sizeof(uint64_t));
}

static size_t topk_scratch(const zmi_call *c) {
  return topk_lane(c) * (size_t)lanes(c);
}

static void topk_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_type *t = &c->in[0]->type;
  int64_t rows = t->shape[0], n = t->shape[1], k = c->out[0]->type.shape[1];
  size_t size = zm_dtype_size(t->dtype);
  for (int64_t lane = begin; lane < end; lane++) {
    char *memory = (char *)c->scratch + topk_lane(c) * (size_t)lane;
    float *x = (float *)(void *)memory;
    uint64_t *best = (uint64_t *)(void *)(memory + zmi_align64((size_t)n * sizeof(float)));
    for (int64_t r = zmi_lane_begin(rows, lane); r < zmi_lane_begin(rows, lane + 1); r++) {
      const char *row = (const char *)c->src[0] + (size_t)(r * n) * size;
      c->kernels->load(row, t->dtype, n, x);
      zmi_largest(x, n, k, best);
      for (int64_t j = 0; j < k; j++) {
        uint32_t i = zmi_largest_index(best[j]);
        ((uint32_t *)c->dst[1])[r * k + j] = i;
        memcpy((char *)c->dst[0] + (size_t)(r * k + j) * size, row + (size_t)i * size, size);
      }
    }
  }
}

static zm_status topk_composed(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *made[2];
  (void)nout;
  zm_status status = zmi_cat_apply(&zmi_op_topk_rows, user, sizeof(topk_attrs), nin, in, made);
  if (status != ZM_OK) return status;
  out[0] = zmi_cat_pick(in[0], made[1]);
  out[1] = made[1];
  return zmi_cat_status(out[0]);
}

static zm_status topk_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  topk_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return given[0] ? zmi_cat_vjp_by(topk_composed, &a, n, given, wanted, gradient) : ZM_OK;
}

static const zmi_rules topk_rules = {.vjp = topk_vjp, .vmap = zmi_cat_vmap_rows, .gradient = "x"};

const zmi_op zmi_op_topk_rows = {.name = "topk_rows",
                                 .operands = "x",
                                 .fields = topk_fields,
                                 .rounding = "exact; falling, NaN below everything, the lowest index among equals",
                                 .infer = topk_infer,
                                 .scratch = topk_scratch,
                                 .stages = {{lanes, topk_run}},
                                 .rules = &topk_rules};

zm_status zm_topk_lastdim(zm_array *x, int k, zm_array **values, zm_array **places) {
  zm_array *made[2];
  topk_attrs a = {k};
  if (!zmi_cat_want_float("topk_lastdim", "x", x) || !zmi_cat_want_rank("topk_lastdim", "x", x, 1)) return zm_last_status();
  zm_status status = zmi_cat_apply(&zmi_op_topk_rows, &a, sizeof a, 1, (zm_array *[]){zmi_cat_rows(x)}, made);
  if (status != ZM_OK) return zmi_fail_within("topk_lastdim");
  made[0] = zmi_cat_like(made[0], x, 1, 1, (int64_t)k);
  made[1] = zmi_cat_like(made[1], x, 1, 1, (int64_t)k);
  if (!made[0] || !made[1]) return zm_last_status();
  *values = made[0], *places = made[1];
  return ZM_OK;
}

// ---- gate_rows ----

enum { OF_LOGITS, OF_SOFTMAX, OF_SIGMOID };
static const char *const kinds[] = {"logits", "softmax", "sigmoid", NULL};

typedef struct gate_attrs {
  int64_t kind, k, norm, groups, top_groups;
} gate_attrs;

static const zmi_field gate_fields[] = {{"kind", ZMI_FIELD_WORD, offsetof(gate_attrs, kind), kinds},
                                        {"k", ZMI_FIELD_INT, offsetof(gate_attrs, k), NULL},
                                        {"norm", ZMI_FIELD_INT, offsetof(gate_attrs, norm), NULL},
                                        {"groups", ZMI_FIELD_INT, offsetof(gate_attrs, groups), NULL},
                                        {"top_groups", ZMI_FIELD_INT, offsetof(gate_attrs, top_groups), NULL},
                                        {0}};

enum { LOGITS, BIAS };

static zm_status gate_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const gate_attrs *a = attrs;
  zm_status status = zmi_want_operands(nin, in, 1, 2);
  if (status == ZM_OK) status = zmi_want_rank("logits", &in[LOGITS], 2, "[rows, E]");
  if (status == ZM_OK) status = zmi_want_float("logits", &in[LOGITS]);
  if (status == ZM_OK) status = want_k(&in[LOGITS], a->k);
  if (status == ZM_OK && !zmi_absent(in, nin, BIAS)) {
    status = zmi_want_rank("bias", &in[BIAS], 1, "float32 [E]");
    if (status == ZM_OK) status = zmi_want_dtype("bias", &in[BIAS], ZM_F32);
    if (status == ZM_OK) status = zmi_want_dim("bias", &in[BIAS], 0, in[LOGITS].shape[1], "E of logits");
  }
  if (status != ZM_OK) return status;
  int64_t experts = in[LOGITS].shape[1];
  if (a->kind < OF_LOGITS || a->kind > OF_SIGMOID) return zmi_fail(ZM_ERROR_ARGUMENT, "kind: %lld is unknown", (long long)a->kind);
  if (a->groups < 1 || experts % a->groups != 0) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "n_group: %lld experts cannot be cut into %lld groups", (long long)experts, (long long)a->groups);
  }
  if (a->top_groups < 1 || a->top_groups > a->groups || a->k > experts / a->groups * a->top_groups) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "topk_group: %lld of %lld groups of %lld experts do not give %lld", (long long)a->top_groups,
                    (long long)a->groups, (long long)(experts / a->groups), (long long)a->k);
  }
  *nout = 2;
  out[0] = zmi_type_of(ZM_F32, 2, (int64_t[]){in[LOGITS].shape[0], a->k});
  out[1] = zmi_type_of(ZM_U32, 2, (int64_t[]){in[LOGITS].shape[0], a->k});
  return ZM_OK;
}

// Weights are float32, and so is what they are made of, whatever the dtype of the logits.
static zmi_route_rule rule_of(const gate_attrs *a) {
  static const int64_t kinds_of_rules[] = {
      [OF_LOGITS] = ZMI_ROUTE_CHOSEN, [OF_SOFTMAX] = ZMI_ROUTE_SOFTMAX, [OF_SIGMOID] = ZMI_ROUTE_SIGMOID};
  return (zmi_route_rule){.kind = kinds_of_rules[a->kind],
                          .k = a->k,
                          .groups = a->groups,
                          .top_groups = a->top_groups,
                          .weighs_bias = a->kind == OF_SOFTMAX,
                          .norm = a->norm != 0,
                          .eps = 1e-20f,
                          .scale = 1};
}

static size_t gate_scratch(const zmi_call *c) {
  const zmi_route_rule rule = rule_of(c->attrs);
  return zmi_route_work(&rule, c->in[LOGITS]->type.shape[1]) * (size_t)lanes(c);
}

static void gate_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_route_rule rule = rule_of(c->attrs);
  const zm_dtype dtype = c->in[LOGITS]->type.dtype;
  const int64_t rows = c->in[LOGITS]->type.shape[0], experts = c->in[LOGITS]->type.shape[1];
  const float *bias = c->nin > BIAS ? c->src[BIAS] : NULL;
  for (int64_t lane = begin; lane < end; lane++) {
    void *work = (char *)c->scratch + zmi_route_work(&rule, experts) * (size_t)lane;
    for (int64_t r = zmi_lane_begin(rows, lane); r < zmi_lane_begin(rows, lane + 1); r++) {
      zmi_route_row(c->kernels, &rule, zmi_at(c->src[LOGITS], dtype, r * experts), dtype, experts, bias, work,
                    (int32_t *)c->dst[1] + r * rule.k, (float *)c->dst[0] + r * rule.k, ZM_F32);
    }
  }
}

static zm_status gate_composed(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const gate_attrs *a = user;
  zm_array *made[2];
  (void)nout;
  zm_status status = zmi_apply(&zmi_op_gate_rows, a, sizeof *a, nin, in, made);
  if (status != ZM_OK) return status;
  zm_array *p = zm_astype(in[LOGITS], ZM_F32);
  if (a->kind == OF_SOFTMAX) p = zm_softmax_lastdim(p);
  if (a->kind == OF_SOFTMAX && nin > BIAS && in[BIAS]) p = zm_add(p, in[BIAS]);
  if (a->kind == OF_SIGMOID) p = zm_sigmoid(p);
  zm_array *w = zmi_cat_pick(p, made[1]);
  if (a->kind == OF_LOGITS)
    w = w ? zm_softmax_lastdim(w) : NULL;
  else if (a->norm)
    w = zm_divide(w, zm_add(zm_sum(w, -1, true), zmi_cat_scalar(1e-20)));
  out[0] = w;
  out[1] = made[1];
  return zmi_cat_status(w);
}

static zm_status gate_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  gate_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return given[0] ? zmi_cat_vjp_by(gate_composed, &a, n, given, wanted, gradient) : ZM_OK;
}

static const zmi_rules gate_rules = {.vjp = gate_vjp, .vmap = zmi_cat_vmap_rows, .gradient = "logits; bias where it is part of the weight"};

const zmi_op zmi_op_gate_rows = {
    .name = "gate_rows",
    .operands = "logits bias?",
    .fields = gate_fields,
    .rounding =
        "Softmax or sigmoid in float32, scores p + bias in float32, falling, NaN lowest, ties to the lowest index; the sum of the chosen "
        "in their order and the quotient in float32; weights are float32.",
    .infer = gate_infer,
    .scratch = gate_scratch,
    .stages = {{lanes, gate_run}},
    .rules = &gate_rules};

static zm_status gate(const char *name, zm_array *logits, zm_array *bias, const gate_attrs *a, zm_array **weights, zm_array **indices) {
  zm_array *made[2];
  if (!zmi_cat_want_float(name, "logits", logits) || !zmi_cat_want_rank(name, "logits", logits, 1)) return zm_last_status();
  if (bias && !zmi_cat_want(name, "bias", bias, 1, zmi_cat_last(logits))) return zm_last_status();
  zm_array *in[] = {zmi_cat_rows(logits), bias ? zm_astype(bias, ZM_F32) : NULL};
  if (bias && !in[1]) return zm_last_status();
  zm_status status = zmi_cat_apply(&zmi_op_gate_rows, a, sizeof *a, bias ? 2 : 1, in, made);
  if (status != ZM_OK) return zmi_fail_within("%s", name);
  made[0] = zmi_cat_like(made[0], logits, 1, 1, a->k);
  made[1] = zmi_cat_like(made[1], logits, 1, 1, a->k);
  if (!made[0] || !made[1]) return zm_last_status();
  *weights = made[0], *indices = made[1];
  return ZM_OK;
}

zm_status zm_top2_gating_softmax(zm_array *logits, zm_array **weights, zm_array **indices) {
  return gate("top2_gating_softmax", logits, NULL, &(gate_attrs){OF_LOGITS, 2, 1, 1, 1}, weights, indices);
}

zm_status zm_topk_gating_softmax(zm_array *logits, int k, zm_array *expert_bias, bool norm_topk_prob, zm_array **weights,
                                 zm_array **indices) {
  gate_attrs a = {expert_bias || !norm_topk_prob ? OF_SOFTMAX : OF_LOGITS, k, norm_topk_prob, 1, 1};
  return gate("topk_gating_softmax", logits, expert_bias, &a, weights, indices);
}

zm_status zm_router_argpartition_logits_topk(zm_array *logits, int k, zm_array **weights, zm_array **indices) {
  return gate("router_argpartition_logits_topk", logits, NULL, &(gate_attrs){OF_LOGITS, k, 1, 1, 1}, weights, indices);
}

zm_status zm_deepseek_router_topk_sigmoid(zm_array *logits, zm_array *bias, int k, int n_group, int topk_group, zm_array **weights,
                                          zm_array **indices) {
  return gate("deepseek_router_topk_sigmoid", logits, bias, &(gate_attrs){OF_SIGMOID, k, 1, n_group, topk_group}, weights, indices);
}
