// Blocks that families share: embedding and head, attention, SwiGLU, mixture of experts, short convolution. R rows, D hidden, H heads.
#include "models/build.h"

#include <stdio.h>

zm_array *zmi_build_embedding(zmi_build *b, const char *name) {
  const zmi_config *c = b->config;
  const uint64_t before = b->token_bytes;
  const double products = b->token_products;
  b->embedding = zmi_build_matrix(b, name, c->vocab, c->hidden, false);
  if (!b->embedding.packed) return NULL;
  b->token_bytes = before + (b->token_bytes - before) / (uint64_t)c->vocab; // one row of it
  b->token_products = products;
  return zmi_embed(&b->embedding, b->tokens, b->dtype);
}

zm_array *zmi_build_norm(zmi_build *b, const char *name, zm_array *x) {
  if (!x) return NULL;
  char whole[64];
  snprintf(whole, sizeof whole, "%s.weight", name);
  const int64_t width = zm_array_dim(x, -1);
  zm_array *weight = zmi_build_vector(b, whole, ZM_DTYPE_DEFAULT, 1, &width);
  return weight ? zmi_rms_norm(x, weight, b->config->eps) : NULL;
}

zm_array *zmi_build_head(zmi_build *b, zm_array *x, const char *norm) {
  const zmi_config *c = b->config;
  zm_array *hidden = x;
  zmi_build_place(b, "model");
  if (b->selected > 0) x = zm_take(x, b->select);
  x = zmi_build_norm(b, norm, x); // asked for without selected rows too: every program reads the same weights
  if (!c->tied) {
    zmi_build_place(b, "%s", "");
    zmi_build_label(b, "lm_head");
    const double products = b->token_products;
    const zmi_matrix head = zmi_build_matrix(b, "lm_head", c->vocab, c->hidden, false);
    b->token_products = products;
    return b->selected > 0 ? zmi_linear(&head, x) : head.packed && x ? hidden : NULL;
  }
  zmi_build_label(b, "lm_head");
  size_t bytes = 0;
  if (!zmi_packed_bytes(&b->embedding.format, b->embedding.n, b->embedding.k, &bytes)) return NULL;
  b->token_bytes += bytes;
  return b->selected > 0 ? zmi_linear(&b->embedding, x) : x ? hidden : NULL;
}

// x [R, D] -> heads of a projection [R, H, head_dim]
static zm_array *project(zmi_build *b, const char *name, zm_array *x, int64_t heads) {
  const zmi_config *c = b->config;
  const zmi_matrix w = zmi_build_matrix(b, name, heads * c->head_dim, c->hidden, c->attention_bias);
  return zm_reshape(zmi_linear(&w, x), (int64_t[]){b->rows, heads, c->head_dim}, 3);
}

zm_array *zmi_build_attention(zmi_build *b, zm_array *x, const zmi_attention_names *names) {
  const zmi_config *c = b->config;
  const int64_t blocks = b->context / ZMI_KEY_BLOCK, d = c->head_dim;
  zm_array *q = project(b, "q_proj", x, c->heads);
  zm_array *k = project(b, "k_proj", x, c->kv_heads);
  zm_array *v = project(b, "v_proj", x, c->kv_heads);
  if (names->q_norm) q = zmi_build_norm(b, names->q_norm, q);
  if (names->k_norm) k = zmi_build_norm(b, names->k_norm, k);
  q = zmi_rope(q, b->cosine, b->sine, c->rope.traditional);
  k = zmi_rope(k, b->cosine, b->sine, c->rope.traditional);

  zm_array *keys = zmi_build_state(b, "keys", 6, (int64_t[]){b->sequences, c->kv_heads, blocks, d / 2, ZMI_KEY_BLOCK, 2});
  zm_array *values = zmi_build_state(b, "values", 4, (int64_t[]){b->sequences, c->kv_heads, b->context, d});
  b->cache_bytes_per_token += 2 * (uint64_t)(c->kv_heads * d) * zm_dtype_size(b->dtype);
  keys = zmi_write_keys(keys, k, b->position, b->sequence);
  values = zmi_write_values(values, v, b->position, b->sequence);
  const double scale = 1.0 / __builtin_sqrt((double)d);
  zm_array *y = zmi_attention(q, keys, values, b->position, b->sequence, scale);
  y = zm_reshape(y, (int64_t[]){b->rows, c->heads * d}, 2);
  const zmi_matrix out = zmi_build_matrix(b, names->out, c->hidden, c->heads * d, c->attention_bias);
  return zmi_linear(&out, y);
}

zm_array *zmi_build_mlp(zmi_build *b, zm_array *x, const zmi_mlp_names *names, int64_t width, bool bias) {
  const int64_t d = b->config->hidden;
  const zmi_matrix gate = zmi_build_matrix(b, names->gate, width, d, bias);
  const zmi_matrix up = zmi_build_matrix(b, names->up, width, d, bias);
  const zmi_matrix down = zmi_build_matrix(b, names->down, d, width, bias);
  zm_array *g = zm_silu(zmi_linear(&gate, x));
  return zmi_linear(&down, zm_multiply(g, zmi_linear(&up, x)));
}

zm_array *zmi_build_moe(zmi_build *b, zm_array *x, const zmi_route_attrs *route, const char *bias) {
  const zmi_config *c = b->config;
  const int64_t d = c->hidden, width = c->expert_intermediate;
  zmi_matrix router = zmi_build_matrix(b, "gate", c->experts, d, false);
  router.format.digits = 0; // whatever --activations says: a choice is not to be rounded, and a router is small
  const zmi_matrix gate = zmi_build_experts(b, "switch_mlp.gate_proj", width, d);
  const zmi_matrix up = zmi_build_experts(b, "switch_mlp.up_proj", width, d);
  const zmi_matrix down = zmi_build_experts(b, "switch_mlp.down_proj", d, width);
  zm_array *choice_bias = NULL;
  if (bias) {
    const int64_t experts = c->experts;
    choice_bias = zmi_build_vector(b, bias, ZM_F32, 1, &experts);
    if (!choice_bias) return NULL;
  }
  zm_array *experts, *weights;
  zm_array *logits = zmi_linear(&router, x);
  if (!logits || zmi_route(logits, choice_bias, route, &experts, &weights) != ZM_OK) return NULL;
  zm_array *g = zm_silu(zmi_gather_linear(&gate, x, experts));
  zm_array *h = zm_multiply(g, zmi_gather_linear(&up, x, experts));
  return zmi_combine(zmi_gather_linear(&down, h, experts), weights);
}

// Part i of x [R, 3D] along the last axis.
static zm_array *third(zmi_build *b, zm_array *x, int64_t i) {
  const int64_t d = b->config->hidden;
  return zm_slice(x, (int64_t[]){0, i * d}, (int64_t[]){b->rows, (i + 1) * d}, NULL);
}

// in_proj gives B, C and x; y = out_proj(C * conv(B * x)), conv being depthwise and causal.
zm_array *zmi_build_short_conv(zmi_build *b, zm_array *x) {
  const zmi_config *c = b->config;
  const int64_t d = c->hidden;
  const zmi_matrix in = zmi_build_matrix(b, "in_proj", 3 * d, d, c->conv_bias);
  zm_array *weight = zmi_build_vector(b, "conv.weight", ZM_DTYPE_DEFAULT, 2, (int64_t[]){d, c->taps});
  zm_array *bias = c->conv_bias ? zmi_build_vector(b, "conv.bias", ZM_DTYPE_DEFAULT, 1, &d) : NULL;
  const zmi_matrix out = zmi_build_matrix(b, "out_proj", d, d, c->conv_bias);
  if (c->conv_bias && !bias) return NULL;
  zm_array *state = zmi_build_state(b, "state", 3, (int64_t[]){b->sequences, c->taps - 1, d});
  zm_array *bcx = zmi_linear(&in, x);
  zm_array *bx = zm_multiply(third(b, bcx, 0), third(b, bcx, 2));
  zm_array *y, *new_state;
  if (!bx || !weight || !state) return NULL;
  if (zmi_short_conv(bx, weight, bias, state, b->position, b->sequence, &y, &new_state) != ZM_OK) return NULL;
  return zmi_linear(&out, zm_multiply(third(b, bcx, 1), y));
}
