// Mixture of experts: routers, dispatch of rows to experts, combination of their results, and the down projection with its combination.
// The ops are in gating.c and combine.c.
#include "catalog/ops.h"
#include <zmlx/linear.h>

zm_status zm_moe_dispatch(zm_array *x, zm_array *indices, int64_t experts, zm_dispatch *result) {
  const char *name = "moe_dispatch";
  typedef struct dispatch_attrs {
    int64_t experts;
  } dispatch_attrs;
  dispatch_attrs a = {experts};
  zm_array *made[4];
  if (!zmi_cat_want_float(name, "x", x) || !zmi_cat_want_rank(name, "x", x, 1) || !zmi_cat_want_rank(name, "indices", indices, 1))
    return zm_last_status();
  int64_t slots = zmi_cat_last(indices), rows = zmi_cat_leading(x, 1);
  if (zmi_cat_leading(indices, 1) != rows) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: indices: expected [..., K] for the %lld rows of x", name, (long long)rows);
  }
  zm_array *in[] = {zmi_cat_rows(x), zmi_cat_reshape(zmi_cat_indices(name, "indices", indices), 2, rows, slots)};
  zm_status status = zmi_cat_apply(&zmi_op_moe_dispatch, &a, sizeof a, 2, in, made);
  if (status != ZM_OK) return status;
  made[1] = zmi_cat_like(made[1], indices, 0, 0);
  if (!made[1]) return zm_last_status();
  *result = (zm_dispatch){made[0], made[1], made[2], made[3]};
  return ZM_OK;
}

static zm_array *combine(const char *name, zm_array *y, zm_array *weights, zm_combine kind) {
  int64_t a = kind;
  if (!zmi_cat_want_float(name, "expert_outputs", y) || !zmi_cat_want_rank(name, "expert_outputs", y, 2)) return NULL;
  if (!zmi_cat_want_float(name, "weights", weights)) return NULL;
  int64_t slots = y->type.shape[y->type.rank - 2], width = zmi_cat_last(y), rows = zmi_cat_leading(y, 2);
  if (zm_array_size(weights) != rows * slots || zmi_cat_last(weights) != slots) {
    char found[128];
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: weights: expected [..., %lld] as expert_outputs, found %s", name, (long long)slots,
             zmi_type_text(&weights->type, found));
    return NULL;
  }
  zm_array *in[] = {zmi_cat_reshape(y, 3, rows, slots, width), zmi_cat_reshape(weights, 2, rows, slots)};
  if (kind == ZM_COMBINE_EXACT) in[1] = zm_astype(in[1], y->type.dtype);
  return zmi_cat_like(zmi_cat_apply1(&zmi_op_moe_combine, &a, sizeof a, 2, in), y, 2, 1, width);
}

#define COMBINE(word, kind)                                                                                                                \
  zm_array *zm_##word(zm_array *expert_outputs, zm_array *weights) {                                                                       \
    return combine(#word, expert_outputs, weights, kind);                                                                                  \
  }
COMBINE(moe_combine, ZM_COMBINE_FMA)
COMBINE(moe_combine_no_fma, ZM_COMBINE_NO_FMA)
COMBINE(moe_combine_exact, ZM_COMBINE_EXACT)
COMBINE(moe_combine_fp32, ZM_COMBINE_FP32)
COMBINE(moe_combine_fp32_no_fma, ZM_COMBINE_FP32_NO_FMA)
COMBINE(glm_moe_combine, ZM_COMBINE_EXACT)

// ---- products of each slot with its expert's matrix, then the weighted sum ----

static bool slots_fit(const char *name, zm_array *act, zm_array *gate, zm_array *indices) {
  if (!zmi_cat_want_float(name, "act", act) || !zmi_cat_want(name, "act", act, 3, (int64_t)-1, (int64_t)-1, (int64_t)-1)) return false;
  int64_t rows = act->type.shape[0], slots = act->type.shape[1];
  return zmi_cat_want_float(name, "gate", gate) && zmi_cat_want(name, "gate", gate, 2, rows, slots) &&
         zmi_cat_want(name, "indices", indices, 2, rows, slots);
}

static zm_array *dense(const char *name, zm_array *act, zm_array *weights, zm_array *gate, zm_array *indices, zm_combine kind) {
  if (!slots_fit(name, act, gate, indices) || !zmi_cat_want_float(name, "weights", weights)) return NULL;
  int64_t rows = act->type.shape[0], slots = act->type.shape[1], k = act->type.shape[2];
  if (!zmi_cat_want(name, "weights", weights, 3, (int64_t)-1, k, (int64_t)-1)) return NULL;
  int64_t n = weights->type.shape[2];
  zm_array *y =
      zm_gather_mm(zmi_cat_reshape(act, 3, rows * slots, (int64_t)1, k), weights, NULL, zmi_cat_reshape(indices, 1, rows * slots), false);
  return combine(name, zmi_cat_reshape(zm_astype(y, act->type.dtype), 3, rows, slots, n), gate, kind);
}

static zm_array *quantized(const char *name, zm_array *act, const zm_affine *weights, zm_array *gate, zm_array *indices, zm_combine kind) {
  if (!slots_fit(name, act, gate, indices)) return NULL;
  if (!weights || !zmi_cat_want(name, "words", weights->words, 3, (int64_t)-1, (int64_t)-1, (int64_t)-1)) return NULL;
  int64_t rows = act->type.shape[0], slots = act->type.shape[1], n = weights->words->type.shape[1];
  zm_array *y =
      zmi_cat_gather(name, zmi_cat_reshape(act, 2, rows * slots, act->type.shape[2]), zm_arange(0, (double)(rows * slots), 1, ZM_I32),
                     zmi_cat_reshape(indices, 1, rows * slots), weights, NULL, act->type.dtype);
  return combine(name, zmi_cat_reshape(y, 3, rows, slots, n), gate, kind);
}

zm_array *zm_gather_mmk_combine(zm_array *act, zm_array *weights, zm_array *gate, zm_array *indices, zm_combine kind) {
  return dense("gather_mmk_combine", act, weights, gate, indices, kind);
}

zm_array *zm_gather_qmm_combine(zm_array *act, zm_array *weights, zm_array *gate, zm_array *indices, zm_combine kind) {
  return dense("gather_qmm_combine", act, weights, gate, indices, kind);
}

zm_array *zm_gather_qmmk_combine_quantized(zm_array *act, const zm_affine *weights, zm_array *gate, zm_array *indices, zm_combine kind) {
  return quantized("gather_qmmk_combine_quantized", act, weights, gate, indices, kind);
}

zm_array *zm_gather_qmm_combine_quantized(zm_array *act, const zm_affine *weights, zm_array *gate, zm_array *indices, zm_combine kind) {
  return quantized("gather_qmm_combine_quantized", act, weights, gate, indices, kind);
}

// ---- rows ----

#define CALL(word, ...)                                                                                                                    \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin, (void)params;                                                                                                               \
    out[0] = zm_##word(__VA_ARGS__);                                                                                                       \
    return zmi_cat_status(out[0]);                                                                                                         \
  }
#define STATUS(word, ...)                                                                                                                  \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin, (void)params;                                                                                                               \
    return zm_##word(__VA_ARGS__, &out[0], &out[1]);                                                                                       \
  }
STATUS(top2_gating_softmax, in[0])
STATUS(topk_gating_softmax, in[0], (int)params[0].whole, nin > 1 ? in[1] : NULL, params[1].whole != 0)
STATUS(router_argpartition_logits_topk, in[0], (int)params[0].whole)
STATUS(deepseek_router_topk_sigmoid, in[0], nin > 1 ? in[1] : NULL, (int)params[0].whole, (int)params[1].whole, (int)params[2].whole)
CALL(moe_combine, in[0], in[1])
CALL(moe_combine_no_fma, in[0], in[1])
CALL(moe_combine_exact, in[0], in[1])
CALL(moe_combine_fp32, in[0], in[1])
CALL(moe_combine_fp32_no_fma, in[0], in[1])
CALL(gather_mmk_combine, in[0], in[1], in[2], in[3], (zm_combine)params[0].whole)
CALL(gather_qmm_combine, in[0], in[1], in[2], in[3], (zm_combine)params[0].whole)

static zm_status dispatch_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  zm_dispatch d;
  (void)nin;
  zm_status status = zm_moe_dispatch(in[0], in[1], params[0].whole, &d);
  if (status == ZM_OK) out[0] = d.rows, out[1] = d.place, out[2] = d.order, out[3] = d.offsets;
  return status;
}

#define QUANTIZED(word)                                                                                                                    \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin;                                                                                                                             \
    zm_affine w = {in[1], in[2], in[3], (int)params[1].whole, params[2].whole};                                                            \
    out[0] = zm_##word(in[0], &w, in[4], in[5], (zm_combine)params[0].whole);                                                              \
    return zmi_cat_status(out[0]);                                                                                                         \
  }
QUANTIZED(gather_qmmk_combine_quantized)
QUANTIZED(gather_qmm_combine_quantized)

#define GATE(word, text, grad, options, form, operands)                                                                                    \
  {                                                                                                                                        \
    .name = #word, .formula = text, .shapes = form " -> weights [..., k], indices [..., k]",                                               \
    .dtypes = "logits any float, computed in float32 -> float32, uint32", .gradient = grad, .parameters = options, .outputs = 2,           \
    .sample = operands, .call = word##_call                                                                                                \
  }
#define SUM(word, text)                                                                                                                    \
  {                                                                                                                                        \
    .name = #word, .formula = "sum over k, from 0 in order, of weights[k] y[k]: " text,                                                    \
    .shapes = "y [..., K, D], weights [..., K] -> [..., D]", .gradient = "y weights", .sample = "y 64 8 2048; weights 64 8",               \
    .call = word##_call                                                                                                                    \
  }
#define DENSE(word)                                                                                                                        \
  {                                                                                                                                        \
    .name = #word, .formula = "combine(act[b, k] weights[indices[b, k]], gate), combine 0 fma, 1 no_fma, 2 exact, 3 fp32, 4 fp32_no_fma",  \
    .shapes = "act [B, K, I], weights [E, I, O], gate [B, K], indices [B, K] -> [B, O]", .gradient = "act weights gate",                   \
    .parameters = "combine=0 integer 0..4", .sample = "act 4 4 512; weights 16 512 256; gate 4 4; indices 4 4 int32 < 16",                 \
    .call = word##_call                                                                                                                    \
  }
#define QMM(word)                                                                                                                          \
  {                                                                                                                                        \
    .name = #word, .formula = "combine(act[b, k] weights[indices[b, k]]^T, gate), the tier's quantized dot product; combine as above",     \
    .shapes = "act [B, K, I], words [E, O, I bits / 32], scales [E, O, I / group], biases [E, O, I / group], gate [B, K], indices [B, K] " \
              "-> [B, O]",                                                                                                                 \
    .gradient = "act scales biases gate", .parameters = "combine=0 integer 0..4, bits=4 integer 2..8, group_size=64 integer 1..",          \
    .sample = "act 4 4 1024; words 16 512 128 uint32; scales 16 512 16; biases 16 512 16; gate 4 4; indices 4 4 int32 < 16",               \
    .call = word##_call                                                                                                                    \
  }

static const zmi_entry entries[] = {
    GATE(top2_gating_softmax, "the two largest logits, softmax over them", "logits", NULL, "logits [..., E]", "logits 256 64"),
    GATE(topk_gating_softmax,
         "without bias: the k largest logits, softmax over them (norm) or of all; with bias: p = softmax + bias of all, the k largest, "
         "divided "
         "by their sum + 1e-20 (norm)",
         "logits bias", "k=4 integer 1.., norm=1 integer 0..1", "logits [..., E], bias [E] or none", "logits 256 64"),
    GATE(router_argpartition_logits_topk, "the k largest logits in falling order, softmax over them", "logits", "k=4 integer 1..",
         "logits [..., E]", "logits 256 64"),
    GATE(deepseek_router_topk_sigmoid,
         "a = sigmoid(logits), s = a + bias; the topk_group groups with the largest sums of their two largest s, the k largest s in them; "
         "a / "
         "(sum of the chosen a + 1e-20)",
         "logits", "k=4 integer 1.., n_group=1 integer 1.., topk_group=1 integer 1..", "logits [..., E], bias [E] or none",
         "logits 256 64; bias 64"),
    {.name = "moe_dispatch",
     .formula = "rows of x in the order of their experts: pair (b, k) in row place[b, k]; row r is pair order[r]; expert e has rows "
                "offsets[e] to offsets[e + 1]",
     .shapes = "x [..., D], indices [..., K] -> rows [B K, D], place [..., K], order [B K], offsets [E + 1]",
     .dtypes = "x any float, indices integers; uint32",
     .gradient = "x",
     .parameters = "experts=8 integer 1..",
     .outputs = 4,
     .sample = "x 256 1024; indices 256 4 int32 < 8",
     .call = dispatch_call},
    SUM(moe_combine, "fma in float32, rounded once"),
    SUM(moe_combine_no_fma, "products and sums rounded to float32, the result once to the dtype"),
    SUM(moe_combine_exact, "products and sums rounded to the dtype"),
    SUM(moe_combine_fp32, "fma in float32, the result is float32"),
    SUM(moe_combine_fp32_no_fma, "products and sums rounded to float32, the result is float32"),
    DENSE(gather_mmk_combine),
    DENSE(gather_qmm_combine),
    QMM(gather_qmmk_combine_quantized),
    QMM(gather_qmm_combine_quantized),
};

ZMI_GROUP(moe, "Mixture of experts. Chosen experts come in falling order, NaN below everything, the lowest index among equals.");
