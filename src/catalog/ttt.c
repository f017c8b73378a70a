// One decoded token of a linear layer that learns while it runs: a step of gradient descent on |LN(k W + b) - (v - k)|^2, then the layer's
// answer to q. Weights are taken over at the end of each small batch of tokens.
#include "catalog/ops.h"

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

static zm_status decode_call(zm_array *const *in, int nin, const double *params, zm_array **out) {
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
};

ZMI_GROUP(ttt, "A layer that learns while it runs.");
