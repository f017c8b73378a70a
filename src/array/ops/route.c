// route: each row chooses its experts and their weights.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <string.h>

static const char *const kinds[] = {"softmax", "sigmoid", NULL};

static const zmi_field fields[] = {
    {"kind", ZMI_FIELD_WORD, offsetof(zmi_route_attrs, kind), kinds},   {"top_k", ZMI_FIELD_INT, offsetof(zmi_route_attrs, top_k), NULL},
    {"norm", ZMI_FIELD_INT, offsetof(zmi_route_attrs, norm), NULL},     {"eps", ZMI_FIELD_FLOAT, offsetof(zmi_route_attrs, eps), NULL},
    {"scale", ZMI_FIELD_FLOAT, offsetof(zmi_route_attrs, scale), NULL}, {NULL, ZMI_FIELD_INT, 0, NULL},
};

enum { LOGITS, BIAS };

// Integers in the order of the floats: zeros of either sign are equal, NaN comes below everything. INT32_MIN is free for "taken".
static int32_t order_of(float v) {
  int32_t bits;
  if (v != v) return INT32_MIN + 1;
  if (v == 0) return 0;
  memcpy(&bits, &v, sizeof bits);
  return bits < 0 ? bits ^ INT32_MAX : bits;
}

// The largest remaining key, the lowest index among equals; marks it as taken.
static int32_t take_largest(int32_t *keys, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; i++) {
    if (keys[i] > keys[best]) best = i;
  }
  keys[best] = INT32_MIN;
  return (int32_t)best;
}

void zmi_route_row(const zmi_kernels *kn, const zmi_route_attrs *a, const void *logits, zm_dtype dtype, int64_t experts, const float *bias,
                   float *work, int32_t *chosen, void *weights) {
  float *p = work, total = 0;
  int32_t *keys = (int32_t *)(void *)(work + experts);
  kn->load(logits, dtype, experts, p);
  if (a->kind == ZMI_ROUTE_SOFTMAX) {
    kn->softmax(p, experts);
  } else {
    kn->sigmoid(p, experts);
  }
  kn->round(p, experts, dtype);
  for (int64_t e = 0; e < experts; e++) keys[e] = order_of(bias ? p[e] + bias[e] : p[e]);
  for (int64_t s = 0; s < a->top_k; s++) {
    chosen[s] = take_largest(keys, experts);
    total += p[chosen[s]];
  }
  float divisor = a->kind == ZMI_ROUTE_SOFTMAX ? total : total + (float)a->eps;
  for (int64_t s = 0; s < a->top_k; s++) {
    float w = p[chosen[s]];
    if (a->norm) w /= divisor;
    if (a->kind == ZMI_ROUTE_SIGMOID) w *= (float)a->scale;
    kn->store(&w, 1, zmi_at(weights, dtype, s), dtype);
  }
}

zm_status zmi_want_route(const zmi_route_attrs *a, int64_t experts) {
  if (a->kind != ZMI_ROUTE_SOFTMAX && a->kind != ZMI_ROUTE_SIGMOID)
    return zmi_fail(ZM_ERROR_ARGUMENT, "kind: %lld is unknown", (long long)a->kind);
  if (experts > INT32_MAX) return zmi_fail(ZM_ERROR_ARGUMENT, "logits: %lld experts are too many", (long long)experts);
  if (a->top_k < 1 || a->top_k > experts) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "top_k: %lld is not between 1 and the %lld experts", (long long)a->top_k, (long long)experts);
  }
  return ZM_OK;
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zmi_route_attrs *a = attrs;
  zm_status status = zmi_want_operands(nin, in, 1, 2);
  if (status == ZM_OK) status = zmi_want_rank("logits", &in[LOGITS], 2, "[rows, experts]");
  if (status == ZM_OK) status = zmi_want_float("logits", &in[LOGITS]);
  if (status == ZM_OK) status = zmi_want_route(a, in[LOGITS].shape[1]);
  if (status == ZM_OK && !zmi_absent(in, nin, BIAS)) {
    status = zmi_want_rank("bias", &in[BIAS], 1, "float32 [experts]");
    if (status == ZM_OK) status = zmi_want_dtype("bias", &in[BIAS], ZM_F32);
    if (status == ZM_OK) status = zmi_want_dim("bias", &in[BIAS], 0, in[LOGITS].shape[1], "experts");
  }
  if (status != ZM_OK) return status;
  *nout = 2;
  out[0] = zmi_type_of(ZM_I32, 2, (int64_t[]){in[LOGITS].shape[0], a->top_k});
  out[1] = zmi_type_of(in[LOGITS].dtype, 2, (int64_t[]){in[LOGITS].shape[0], a->top_k});
  return ZM_OK;
}

static int64_t tiles(const zmi_call *c) {
  return zmi_lane_count(c->in[LOGITS]->type.shape[0]);
}

static size_t scratch(const zmi_call *c) {
  return zmi_route_work(c->in[LOGITS]->type.shape[1]) * (size_t)tiles(c);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_route_attrs *a = c->attrs;
  zm_dtype dtype = c->in[LOGITS]->type.dtype;
  int64_t rows = c->in[LOGITS]->type.shape[0], experts = c->in[LOGITS]->type.shape[1];
  const float *bias = c->nin > BIAS ? c->src[BIAS] : NULL;
  for (int64_t lane = begin; lane < end; lane++) {
    float *work = (float *)(void *)((char *)c->scratch + (size_t)lane * zmi_route_work(experts));
    for (int64_t r = zmi_lane_begin(rows, lane); r < zmi_lane_begin(rows, lane + 1); r++) {
      zmi_route_row(c->kernels, a, zmi_at(c->src[LOGITS], dtype, r * experts), dtype, experts, bias, work,
                    (int32_t *)c->dst[0] + r * a->top_k, zmi_at(c->dst[1], dtype, r * a->top_k));
    }
  }
}

// The choice of experts is fixed; weights are s p / (sum of the chosen p + eps), or s p. In float32.
static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const zmi_route_attrs *a = (const zmi_route_attrs *)(const void *)n->attrs.bytes;
  const bool sigmoid = a->kind == ZMI_ROUTE_SIGMOID;
  if (!given[1] || !wanted[LOGITS]) return ZM_OK;
  zm_array *logits = zm_astype(n->in[LOGITS], ZM_F32), *g = zm_astype(given[1], ZM_F32);
  zm_array *p = sigmoid ? zm_sigmoid(logits) : zm_softmax(logits);
  // [rows, slots, experts]: which expert each slot is
  zm_array *chosen = zm_equal(zm_expand_dims(zmi_result(n, 0), 2), zm_arange(0, (double)n->in[LOGITS]->type.shape[1], 1, ZM_I32));
  zm_array *zero = zmi_scalar_like(p, 0), *pc = zm_sum(zm_where(chosen, zm_expand_dims(p, 1), zero), 2, false);
  if (sigmoid) g = zm_multiply(g, zmi_scalar_like(g, a->scale));
  if (a->norm) {
    zm_array *total = zm_sum(pc, 1, true);
    if (sigmoid) total = zm_add(total, zmi_scalar_like(total, a->eps));
    g = zm_divide(zm_subtract(g, zm_divide(zm_sum(zm_multiply(g, pc), 1, true), total)), total);
  }
  zm_array *gp = zm_sum(zm_where(chosen, zm_expand_dims(g, 2), zero), 1, false);
  zm_array *through = zm_multiply(gp, p);
  if (sigmoid)
    through = zm_multiply(through, zm_subtract(zmi_scalar_like(p, 1), p));
  else
    through = zm_subtract(through, zm_multiply(p, zm_sum(through, 1, true)));
  gradient[LOGITS] = zm_astype(through, n->in[LOGITS]->type.dtype);
  return ZM_OK;
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 1u << LOGITS, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "logits, by the weights of the chosen; the bias only chooses"};

const zmi_op zmi_op_route = {
    .name = "route",
    .operands = "logits bias?",
    .fields = fields,
    .rounding = "Softmax or sigmoid in float32, rounded to the dtype of the logits; scores p + bias in float32, NaN lowest, ties to the "
                "lowest index; the sum of "
                "the chosen p (in falling order of score), the quotient and the product with the scale in float32, rounded once.",
    .infer = infer,
    .scratch = scratch,
    .stages = {{tiles, run}},
    .rules = &rules,
};

zm_status zmi_route(zm_array *logits, zm_array *bias, const zmi_route_attrs *attrs, zm_array **experts, zm_array **weights) {
  zm_array *out[ZMI_MAX_OUT] = {NULL};
  zm_status status = zmi_apply(&zmi_op_route, attrs, sizeof *attrs, bias ? 2 : 1, (zm_array *[]){logits, bias}, out);
  if (status != ZM_OK) return status;
  *experts = out[0];
  *weights = out[1];
  return ZM_OK;
}
