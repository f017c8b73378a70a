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

// ---- the k largest of n ----

// Numbers in the order of the choice: a key above, the complement of the index below. Zeros of either sign are equal.
static uint64_t rank_of(float v, int64_t i) {
  int32_t bits;
  uint32_t key;
  memcpy(&bits, &v, sizeof bits);
  if (v != v)
    key = 0;
  else if (v == 0)
    key = 0x80000000u;
  else
    key = (uint32_t)(bits < 0 ? bits ^ INT32_MAX : bits) ^ 0x80000000u;
  return (uint64_t)key << 32 | (uint32_t) ~(uint32_t)i;
}

static void sink(uint64_t *heap, int64_t n, int64_t i) { // the smallest is on top
  uint64_t v = heap[i];
  for (int64_t child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && heap[child + 1] < heap[child]) child++;
    if (v <= heap[child]) break;
    heap[i] = heap[child];
  }
  heap[i] = v;
}

void zmi_largest(const float *x, int64_t n, int64_t k, uint64_t *best) {
  enum { FEW = 32 };
  if (k <= FEW) { // insertion
    int64_t have = 0;
    for (int64_t i = 0; i < n; i++) {
      uint64_t r = rank_of(x[i], i);
      if (have == k && r < best[k - 1]) continue;
      int64_t at = have < k ? have++ : k - 1;
      for (; at > 0 && best[at - 1] < r; at--) best[at] = best[at - 1];
      best[at] = r;
    }
    return;
  }
  for (int64_t i = 0; i < k; i++) best[i] = rank_of(x[i], i);
  for (int64_t i = k / 2 - 1; i >= 0; i--) sink(best, k, i);
  for (int64_t i = k; i < n; i++) {
    uint64_t r = rank_of(x[i], i);
    if (r <= best[0]) continue;
    best[0] = r;
    sink(best, k, 0);
  }
  for (int64_t i = k - 1; i > 0; i--) { // the smallest goes to the end: falling
    uint64_t v = best[0];
    best[0] = best[i];
    best[i] = v;
    sink(best, i, 0);
  }
}

// ---- a row of a router ----

zmi_route_rule zmi_route_rule_of(const zmi_route_attrs *a) {
  const bool sigmoid = a->kind == ZMI_ROUTE_SIGMOID;
  return (zmi_route_rule){.kind = a->kind,
                          .k = a->top_k,
                          .groups = 1,
                          .top_groups = 1,
                          .rounds = true,
                          .norm = a->norm != 0,
                          .eps = sigmoid ? (float)a->eps : 0.0f,
                          .scale = sigmoid ? (float)a->scale : 1.0f};
}

// In the memory of a row: p and scores [experts], scores of groups, weights [k], then the best.
static size_t floats_of(const zmi_route_rule *r, int64_t experts) {
  return zmi_align64((size_t)(2 * experts + r->groups + r->k) * sizeof(float));
}

size_t zmi_route_work(const zmi_route_rule *r, int64_t experts) {
  return floats_of(r, experts) + zmi_align64((size_t)ZMI_MAX(r->k, ZMI_MAX(r->top_groups, 2)) * sizeof(uint64_t));
}

// Packs the scores of the best groups together, in order of index: what is not among them cannot be chosen, whatever the scores are. (No
// score ranks below all others: NaN does below -infinity, and equal ones go by index.) Returns how many there are; kept [top_groups]
// becomes the groups, in the memory of `group`.
static int64_t pack_groups(const zmi_route_rule *r, float *score, int64_t experts, float *group, uint64_t *best, int32_t **kept) {
  int64_t size = experts / r->groups, count = 0;
  for (int64_t g = 0; g < r->groups; g++) {
    const float *s = score + g * size;
    zmi_largest(s, size, ZMI_MIN(size, 2), best);
    group[g] = size > 1 ? s[zmi_largest_index(best[0])] + s[zmi_largest_index(best[1])] : s[0];
  }
  zmi_largest(group, r->groups, r->top_groups, best);
  *kept = (int32_t *)(void *)group;
  for (int64_t g = 0; g < r->groups; g++) {
    bool among = false;
    for (int64_t i = 0; i < r->top_groups; i++) among |= zmi_largest_index(best[i]) == (uint32_t)g;
    if (!among) continue;
    memmove(score + count * size, score + g * size, (size_t)size * sizeof *score);
    (*kept)[count++] = (int32_t)g;
  }
  return count * size;
}

void zmi_route_row(const zmi_kernels *kn, const zmi_route_rule *r, const void *logits, zm_dtype dtype, int64_t experts, const float *bias,
                   void *work, int32_t *chosen, void *weights, zm_dtype to) {
  float *p = work, *score = p + experts, *group = score + experts, *w = group + r->groups;
  uint64_t *best = (uint64_t *)(void *)((char *)work + floats_of(r, experts));
  kn->load(logits, dtype, experts, p);
  if (r->kind == ZMI_ROUTE_SOFTMAX) kn->softmax(p, experts);
  if (r->kind == ZMI_ROUTE_SIGMOID) kn->sigmoid(p, experts);
  if (r->rounds) kn->round(p, experts, dtype);
  for (int64_t e = 0; e < experts; e++) score[e] = bias ? p[e] + bias[e] : p[e];
  if (r->weighs_bias) memcpy(p, score, (size_t)experts * sizeof *p);
  int64_t choices = experts, size = experts / r->groups;
  int32_t *kept = NULL;
  if (r->groups > 1) choices = pack_groups(r, score, experts, group, best, &kept);
  zmi_largest(score, choices, r->k, best);
  float total = 0;
  for (int64_t s = 0; s < r->k; s++) {
    const int64_t at = zmi_largest_index(best[s]);
    chosen[s] = (int32_t)(kept ? kept[at / size] * size + at % size : at);
    w[s] = p[chosen[s]];
    total += w[s];
  }
  if (r->kind == ZMI_ROUTE_CHOSEN) kn->softmax(w, r->k);
  float divisor = total + r->eps;
  for (int64_t s = 0; s < r->k && r->kind != ZMI_ROUTE_CHOSEN; s++) {
    if (r->norm) w[s] /= divisor;
    if (r->scale != 1) w[s] *= r->scale;
  }
  kn->store(w, r->k, weights, to);
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
  zmi_route_rule r = zmi_route_rule_of(c->attrs);
  return zmi_route_work(&r, c->in[LOGITS]->type.shape[1]) * (size_t)tiles(c);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_route_rule rule = zmi_route_rule_of(c->attrs);
  zm_dtype dtype = c->in[LOGITS]->type.dtype;
  int64_t rows = c->in[LOGITS]->type.shape[0], experts = c->in[LOGITS]->type.shape[1];
  const float *bias = c->nin > BIAS ? c->src[BIAS] : NULL;
  for (int64_t lane = begin; lane < end; lane++) {
    void *work = (char *)c->scratch + (size_t)lane * zmi_route_work(&rule, experts);
    for (int64_t r = zmi_lane_begin(rows, lane); r < zmi_lane_begin(rows, lane + 1); r++) {
      zmi_route_row(c->kernels, &rule, zmi_at(c->src[LOGITS], dtype, r * experts), dtype, experts, bias, work,
                    (int32_t *)c->dst[0] + r * rule.k, zmi_at(c->dst[1], dtype, r * rule.k), dtype);
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
    .device = zmi_route_device,
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
