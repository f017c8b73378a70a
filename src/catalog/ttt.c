// One decoded token of a linear layer that learns while it runs: a step of gradient descent on |LN(k W + b) - (v - k)|^2, then the layer's
// answer to q. Weights are taken over at the end of each small batch of tokens.
#include "catalog/ops.h"

#include <zmlx/elementwise.h>
#include <zmlx/ops.h>

// Norm of z, the loss' gradient by its input, times the learning rate.
ZMI_ROWS(ttt_step, "z k v lr w b", "g", "eps",
         "elements { s = sum(z); }\nlet mean = s / D;\n"
         "elements { q = sum((z - mean) * (z - mean)); }\nlet r = 1.0f / sqrt(q / D + eps);\n"
         "elements { let h = (z - mean) * r; let d = (w * h + b - (v - k)) * w; s1 = sum(d); s2 = sum(d * h); }\n"
         "elements { let h = (z - mean) * r; let d = (w * h + b - (v - k)) * w; g = lr * ((D * d - s1 - h * s2) * (r / D)); }")
ZMI_ROWS(ttt_answer, "z q w b", "y", "eps",
         "elements { s = sum(z); }\nlet mean = s / D;\n"
         "elements { t = sum((z - mean) * (z - mean)); }\nlet r = 1.0f / sqrt(t / D + eps);\n"
         "elements { y = q + (w * ((z - mean) * r) + b); }")
// The gradient so far with that of this token, and the weights that follow from it.
ZMI_STATEMENTS(ttt_update, "before x g weight token", "total next", NULL, "let s = before + x * g; total = s; next = weight - token * s;")
ZMI_STATEMENTS(ttt_commit, "last before after total", "weight gradient", NULL,
               "weight = last ? after : before; gradient = last ? 0.0f : total;")

static bool fits(const zm_ttt *t) {
  const char *name = "ttt_linear_decode";
  if (!zmi_cat_want_float(name, "xq", t->xq) || !zmi_cat_want(name, "xq", t->xq, 2, (int64_t)-1, (int64_t)-1)) return false;
  int64_t b = t->xq->type.shape[0], f = t->xq->type.shape[1];
  zm_array *const vectors[] = {t->xk, t->xv, t->b1, t->b1_grad, t->ln_weight, t->ln_bias};
  static const char *const names[] = {"xk", "xv", "b1", "b1_grad", "ln_weight", "ln_bias"};
  for (int i = 0; i < 6; i++) {
    if (!zmi_cat_want_float(name, names[i], vectors[i]) || !zmi_cat_want(name, names[i], vectors[i], 2, b, f)) return false;
  }
  return zmi_cat_want(name, "W1", t->W1, 3, b, f, f) && zmi_cat_want(name, "W1_grad", t->W1_grad, 3, b, f, f) &&
         zmi_cat_want(name, "ttt_lr", t->ttt_lr, 1, b) && zmi_cat_want(name, "token_idx", t->token_idx, 1, (int64_t)1) &&
         zmi_cat_want(name, "last_in_mb", t->last_in_mb, 1, (int64_t)1);
}

// x [B, F] W [B, F, F] + b
static zm_array *layer(zm_array *x, zm_array *w, zm_array *b) {
  return zm_add(zm_squeeze(zm_matmul(zm_expand_dims(x, 1), w), 1), b);
}

zm_status zm_ttt_linear_decode(const zm_ttt *t, zm_array *out[5]) {
  const double eps = 1e-6;
  if (!fits(t)) return zm_last_status();
  zm_dtype dtype = t->xq->type.dtype;
  zm_array *q = zm_astype(t->xq, ZM_F32), *k = zm_astype(t->xk, ZM_F32), *v = zm_astype(t->xv, ZM_F32);
  zm_array *w = zm_astype(t->W1, ZM_F32), *b = zm_astype(t->b1, ZM_F32);
  zm_array *ln_w = zm_astype(t->ln_weight, ZM_F32), *ln_b = zm_astype(t->ln_bias, ZM_F32);
  zm_array *lr = zm_expand_dims(zm_astype(t->ttt_lr, ZM_F32), -1), *token = zm_reshape(zm_astype(t->token_idx, ZM_F32), NULL, 0);
  zm_array *last = zm_reshape(zm_greater(t->last_in_mb, zm_full(0, t->last_in_mb->type.dtype, NULL, 0)), NULL, 0);
  zm_array *one = zmi_cat_scalar(1);
  zm_array *step[] = {layer(k, w, b), k, v, lr, ln_w, ln_b};
  zm_array *g = zmi_definition_apply1(&ttt_step_def, step, 6, &eps, 1);
  zm_array *W[2], *B[2], *end[2];
  zm_array *in_w[] = {zm_astype(t->W1_grad, ZM_F32), zm_expand_dims(k, -1), zm_expand_dims(g, 1), w, token};
  zm_array *in_b[] = {zm_astype(t->b1_grad, ZM_F32), one, g, b, token};
  zm_status status = zmi_definition_apply(&ttt_update_def, in_w, 5, NULL, 0, W, 2);
  if (status == ZM_OK) status = zmi_definition_apply(&ttt_update_def, in_b, 5, NULL, 0, B, 2);
  if (status != ZM_OK) return status;
  zm_array *answer[] = {layer(q, W[1], B[1]), q, ln_w, ln_b};
  out[0] = zm_astype(zmi_definition_apply1(&ttt_answer_def, answer, 4, &eps, 1), dtype);
  status = zmi_definition_apply(&ttt_commit_def, (zm_array *[]){last, w, W[1], W[0]}, 4, NULL, 0, end, 2);
  if (status != ZM_OK) return status;
  out[1] = zm_astype(end[0], dtype), out[3] = zm_astype(end[1], dtype);
  status = zmi_definition_apply(&ttt_commit_def, (zm_array *[]){last, b, B[1], B[0]}, 4, NULL, 0, end, 2);
  if (status != ZM_OK) return status;
  out[2] = zm_astype(end[0], dtype), out[4] = zm_astype(end[1], dtype);
  for (int i = 0; i < 5; i++) {
    if (!out[i]) return zm_last_status();
  }
  return ZM_OK;
}

// ---- the layer ----

// What a stretch of tokens inside one small batch starts from and leaves; all [A, H, ...].
typedef struct learner {
  zm_array *w, *b, *gw, *gb;     // [A, H, F, F], [A, H, 1, F]
  zm_array *ln_weight, *ln_bias; // [H, 1, F]
  zm_array *token;               // [M, 1]
  double eps;
} learner;

// Tokens of one stretch: place `at` in the small batch. The weights a token answers with follow from those at the start of the batch and
// the gradients of all tokens up to it, so products with them are products of tokens with tokens.
static zm_array *stretch(learner *l, zm_array *q, zm_array *k, zm_array *v, zm_array *lr, int64_t at, bool ends) {
  const int64_t n = q->type.shape[2];
  zm_array *step[] = {zm_add(zm_matmul(k, l->w), l->b), k, v, lr, l->ln_weight, l->ln_bias};
  zm_array *g = zmi_definition_apply1(&ttt_step_def, step, 6, &l->eps, 1), *t = zmi_cat_part(l->token, 0, at, n);
  if (!g || !t) return NULL;
  zm_array *learned = zm_add(zm_matmul(q, l->gw), zm_matmul(zm_tril(zmi_cat_matmul_t(q, k), 0), g));
  zm_array *biased = zm_add(l->gb, zm_cumsum(g, 2, false, true));
  zm_array *z = zm_subtract(zm_add(zm_matmul(q, l->w), l->b), zm_multiply(t, zm_add(learned, biased)));
  zm_array *answer[] = {z, q, l->ln_weight, l->ln_bias};
  zm_array *y = zmi_definition_apply1(&ttt_answer_def, answer, 4, &l->eps, 1);
  l->gw = zm_add(l->gw, zm_matmul(zm_swapaxes(k, -1, -2), g));
  l->gb = zm_add(l->gb, zm_sum(g, 2, true));
  if (ends) {
    zm_array *last = zm_squeeze(zmi_cat_part(t, 0, n - 1, 1), 0); // [1]
    l->w = zm_subtract(l->w, zm_multiply(last, l->gw));
    l->b = zm_subtract(l->b, zm_multiply(last, l->gb));
    l->gw = zm_zeros_like(l->gw);
    l->gb = zm_zeros_like(l->gb);
  }
  return l->gb ? y : NULL;
}

static const char layer_name[] = "ttt_linear";

static bool layer_fits(const zm_ttt_layer *l, zm_array *x, int64_t *dim) {
  const int64_t h = l->heads;
  if (!zmi_cat_want_float(layer_name, "x", x) || !zmi_cat_want(layer_name, "x", x, 3, (int64_t)-1, (int64_t)-1, (int64_t)-1)) return false;
  const int64_t d = x->type.shape[2], f = h > 0 ? d / h : 0;
  if (h < 1 || d % h != 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: heads: %lld do not divide the %lld elements of a row of x", layer_name, (long long)h, (long long)d);
    return false;
  }
  *dim = f;
  const struct {
    const char *name;
    zm_array *a;
    int rank;
    int64_t shape[3];
  } all[] = {{"projection", l->projection, 2, {3 * d + h, d}},
             {"W1", l->W1, 3, {h, f, f}},
             {"b1", l->b1, 2, {h, f}},
             {"ln_weight", l->ln_weight, 2, {h, f}},
             {"ln_bias", l->ln_bias, 2, {h, f}},
             {"lr_bias", l->lr_bias, 1, {h}},
             {"token_bias", l->token_bias, 1, {-1}},
             {"post_weight", l->post_weight, 1, {d}},
             {"post_bias", l->post_bias, 1, {d}},
             {"output", l->output, 2, {d, d}}};
  for (size_t i = 0; i < ZMI_COUNT(all); i++) {
    const int64_t *s = all[i].shape;
    if (!zmi_cat_want_float(layer_name, all[i].name, all[i].a)) return false;
    if (!zmi_cat_want(layer_name, all[i].name, all[i].a, all[i].rank, s[0], s[1], s[2])) return false;
  }
  if (l->token_bias->type.shape[0] > 0) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: token_bias: a small batch has one token or more", layer_name);
  return false;
}

// Where learning starts, for each sequence.
static bool begin(learner *l, const zm_ttt_layer *layer, const zm_ttt_state *before, int64_t batch, int64_t f) {
  const int64_t h = layer->heads, matrix[] = {batch, h, f, f}, vector[] = {batch, h, 1, f}, m = layer->token_bias->type.shape[0];
  zm_array *const kept[] = {before ? before->W1 : NULL, before ? before->W1_grad : NULL, before ? before->b1 : NULL,
                            before ? before->b1_grad : NULL};
  static const char *const names[] = {"W1 of the state", "W1_grad of the state", "b1 of the state", "b1_grad of the state"};
  for (int i = 0; before && i < 4; i++) {
    if (!zmi_cat_want_float(layer_name, names[i], kept[i])) return false;
    if (!zmi_cat_want(layer_name, names[i], kept[i], i < 2 ? 4 : 3, batch, h, f, f)) return false;
  }
  if (before && before->position < 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: position of the state: %lld, it is a number of tokens", layer_name, (long long)before->position);
    return false;
  }
  if (!zmi_cat_want_eps(layer_name, layer->eps) || !zmi_cat_want_number(layer_name, "base_lr", layer->base_lr, true)) return false;
  zm_array *w = before ? before->W1 : layer->W1, *b = before ? before->b1 : layer->b1;
  l->w = zm_broadcast_to(zm_astype(w, ZM_F32), matrix, 4);
  l->b = zm_broadcast_to(zm_expand_dims(zm_astype(b, ZM_F32), -2), vector, 4);
  l->gw = before ? zm_astype(before->W1_grad, ZM_F32) : zm_zeros(ZM_F32, matrix, 4);
  l->gb = before ? zm_expand_dims(zm_astype(before->b1_grad, ZM_F32), -2) : zm_zeros(ZM_F32, vector, 4);
  l->ln_weight = zm_expand_dims(zm_astype(layer->ln_weight, ZM_F32), 1);
  l->ln_bias = zm_expand_dims(zm_astype(layer->ln_bias, ZM_F32), 1);
  zm_array *share = zm_divide(zmi_cat_scalar(1), zm_arange(1, (double)m + 1, 1, ZM_F32));
  l->token = zm_expand_dims(zm_maximum(zm_add(share, zm_astype(layer->token_bias, ZM_F32)), zmi_cat_scalar(0)), -1);
  l->eps = layer->eps > 0 ? layer->eps : 1e-6;
  return l->w && l->b && l->gw && l->gb && l->ln_weight && l->ln_bias && l->token;
}

// Columns [first, first + n heads' dims) of the projected rows as [A, H, N, F].
static zm_array *heads_of(zm_array *rows, int64_t first, int64_t heads, int64_t f) {
  zm_array *part = zmi_cat_part(rows, 2, first, heads * f);
  return part ? zm_transpose(zmi_cat_split_last(part, heads, f), (int[]){0, 2, 1, 3}) : NULL;
}

zm_status zm_ttt_linear(const zm_ttt_layer *layer, zm_array *x, const zm_ttt_state *before, zm_array **y, zm_ttt_state *after) {
  int64_t f;
  learner l;
  if (!layer || !y) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: a layer and a place for the result must be given", layer_name);
  if (!layer_fits(layer, x, &f)) return zm_last_status();
  const int64_t batch = x->type.shape[0], tokens = x->type.shape[1], d = x->type.shape[2], h = layer->heads;
  const int64_t m = layer->token_bias->type.shape[0], position = before ? before->position : 0;
  if (!begin(&l, layer, before, batch, f)) return zm_last_status();
  zm_array *rows = zmi_cat_matmul_t(zm_astype(x, ZM_F32), zm_astype(layer->projection, ZM_F32));
  zm_array *q = heads_of(rows, 0, h, f), *k = heads_of(rows, d, h, f), *v = heads_of(rows, 2 * d, h, f);
  zm_array *rates = rows ? zm_sigmoid(zm_add(zmi_cat_part(rows, 2, 3 * d, h), zm_astype(layer->lr_bias, ZM_F32))) : NULL;
  rates = zm_multiply(rates, zmi_cat_scalar((layer->base_lr > 0 ? layer->base_lr : 1) / (double)ZMI_MAX(f, 1)));
  zm_array *lr = rates ? zm_expand_dims(zm_swapaxes(rates, 1, 2), -1) : NULL; // [A, H, N, 1]
  const size_t most = (size_t)(tokens / m + 2);
  zm_array **parts = q && k && v && lr ? zmi_calloc(most, sizeof *parts) : NULL;
  if (!parts) return zm_last_status();
  size_t count = 0;
  zm_status status = ZM_OK;
  for (int64_t i = 0, n; i < tokens && status == ZM_OK; i += n) {
    const int64_t at = (position + i) % m;
    n = ZMI_MIN(m - at, tokens - i);
    zm_array *in[4] = {q, k, v, lr};
    for (int p = 0; p < 4; p++) {
      if (!(in[p] = zmi_cat_part(in[p], 2, i, n))) status = zm_last_status();
    }
    if (status == ZM_OK && !(parts[count++] = stretch(&l, in[0], in[1], in[2], in[3], at, at + n == m))) status = zm_last_status();
  }
  zm_array *all = count == 0 ? q : count == 1 ? parts[0] : zm_concatenate(parts, count, 2);
  zmi_free(parts);
  if (status != ZM_OK || !all) return zm_last_status();
  all = zmi_cat_reshape(zm_transpose(all, (int[]){0, 2, 1, 3}), 3, batch, tokens, d);
  all = zm_layernorm(all, zm_astype(layer->post_weight, ZM_F32), zm_astype(layer->post_bias, ZM_F32), 1e-5);
  all = zm_astype(zmi_cat_matmul_t(all, zm_astype(layer->output, ZM_F32)), x->type.dtype);
  zm_ttt_state end = {l.w, zm_squeeze(l.b, -2), l.gw, zm_squeeze(l.gb, -2), position + tokens};
  if (!all || !end.b1 || !end.b1_grad) return zm_last_status();
  *y = all;
  if (after) *after = end;
  return ZM_OK;
}

// x, the layer, then the state if there is one.
static zm_status layer_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  const zm_ttt_layer layer = {params[0].whole, in[1], in[2], in[3], in[4], in[5], in[6], in[7], in[8], in[9], in[10], params[1].real, 0};
  zm_ttt_state before, after;
  if (nin > 14) before = (zm_ttt_state){in[11], in[12], in[13], in[14], params[2].whole};
  const zm_status status = zm_ttt_linear(&layer, in[0], nin > 14 ? &before : NULL, out, &after);
  if (status == ZM_OK) out[1] = after.W1, out[2] = after.b1, out[3] = after.W1_grad, out[4] = after.b1_grad;
  return status;
}

static zm_status decode_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  zm_ttt t = {in[0], in[1], in[2], in[3], in[4], in[5], in[6], in[7], in[8], in[9], in[10], in[11]};
  return zm_ttt_linear_decode(&t, out);
}

static const zmi_entry entries[] = {
    {.name = "ttt_linear_decode",
     .formula = "z = k W + b; d = LN(z) - (v - k); G' = G + k^T lr dLN(d); W' = W - token G' (and b likewise); out = q + LN(q W' + b'); if "
                "last_in_mb > 0: W = W', b = b', G = 0",
     .shapes = "xq, xk, xv [B, F], ttt_lr [B], token_idx [1], last_in_mb [1], W1 [B, F, F], b1 [B, F], W1_grad [B, F, F], b1_grad [B, F], "
               "ln_weight, ln_bias [B, F] -> out [B, F], W1, b1, W1_grad, b1_grad",
     .dtypes = "any float, last_in_mb an integer; computed in float32 -> dtype of xq",
     .gradient = "xq xk xv ttt_lr token_idx W1 b1 W1_grad b1_grad ln_weight ln_bias",
     .definition = &ttt_step_def,
     .outputs = 5,
     .sample = "xq 16 64; xk 16 64; xv 16 64; ttt_lr 16; token_idx 1; last_in_mb 1 int32 < 2; W1 16 64 64; b1 16 64; W1_grad 16 64 64; "
               "b1_grad 16 64; ln_weight 16 64; ln_bias 16 64",
     .call = decode_call},
    {.name = "ttt_linear",
     .formula = "q, k, v, r = x projection^T; ttt_linear_decode of each token with lr = base_lr sigmoid(r + lr_bias) / F and token = "
                "max(0, 1 / (i + 1) + token_bias[i]), i its place among M; layernorm(eps 1e-5) of its results, times output^T",
     .shapes = "x [A, N, H F], projection [3 H F + H, H F], W1 [H, F, F], b1 [H, F], ln_weight [H, F], ln_bias [H, F], lr_bias [H], "
               "token_bias [M], post_weight [H F], post_bias [H F], output [H F, H F], optional: W1 [A, H, F, F], b1 [A, H, F], W1_grad, "
               "b1_grad -> y, W1, b1, W1_grad, b1_grad",
     .dtypes = "any float; computed in float32 -> dtype of x, float32",
     .gradient = "x projection W1 b1 ln_weight ln_bias lr_bias token_bias post_weight post_bias output",
     .parameters = "heads=4 integer 1.., base_lr=1, position=0 integer 0..",
     .outputs = 5,
     .sample = "x 2 40 64; projection 196 64; W1 4 16 16; b1 4 16; ln_weight 4 16; ln_bias 4 16; lr_bias 4; token_bias 16; post_weight 64; "
               "post_bias 64; output 64 64",
     .call = layer_call},
};

ZMI_GROUP(ttt, "A layer that learns while it runs.");
