// Family qwen3_moe: attention as in qwen3; most layers have experts that a softmax router chooses.
#include "models/family.h"

static void parse(zmi_reader *r, zmi_config *c) {
  zmi_read_sizes(r, c, "rms_norm_eps");
  zmi_read_heads(r, c, true);
  c->intermediate = (int32_t)zmi_read_int(r, "intermediate_size", 1, ZMI_MOST_WIDTH);
  c->attention_bias = zmi_read_bool_or(r, "attention_bias", false);
  c->tied = zmi_read_bool(r, "tie_word_embeddings");
  c->experts = (int32_t)zmi_read_int(r, "num_experts", 0, ZMI_MOST_EXPERTS);
  c->norm_top_k = zmi_read_bool(r, "norm_topk_prob");
  const int64_t every = zmi_read_int(r, "decoder_sparse_step", 1, ZMI_MOST_LAYERS);
  if (c->experts > 0) {
    c->top_k = (int32_t)zmi_read_int(r, "num_experts_per_tok", 1, c->experts);
    c->expert_intermediate = (int32_t)zmi_read_int(r, "moe_intermediate_size", 1, ZMI_MOST_WIDTH);
  }
  zmi_read_rope(r, c, 0);
  zmi_read_window(r, c);
  zmi_read_activation(r);
  const json_t *dense = zmi_read_array_or_null(r, "mlp_only_layers", -1);
  if (r->status != ZM_OK) return;
  for (int i = 0; i < c->layers; i++)
    if (c->experts > 0 && (i + 1) % every == 0) c->kinds[i] |= ZMI_LAYER_EXPERTS;
  for (size_t i = 0; i < json_array_size(dense); i++) {
    const int64_t layer = zmi_read_item_int(r, "mlp_only_layers", dense, i, 0, ZMI_MOST_LAYERS);
    if (layer < c->layers) c->kinds[layer] &= (unsigned char)~ZMI_LAYER_EXPERTS;
  }
}

static zm_array *build(zmi_build *b) {
  static const zmi_attention_names attention = {.q_norm = "q_norm", .k_norm = "k_norm", .out = "o_proj"};
  static const zmi_mlp_names mlp = {"gate_proj", "up_proj", "down_proj"};
  const zmi_config *c = b->config;
  const zmi_route_attrs route = {.kind = ZMI_ROUTE_SOFTMAX, .top_k = c->top_k, .norm = c->norm_top_k, .scale = 1.0};
  zmi_build_place(b, "model");
  zm_array *x = zmi_build_embedding(b, "embed_tokens");
  for (int i = 0; i < c->layers && x; i++) {
    zmi_build_place(b, "model.layers.%d", i);
    zm_array *h = zmi_build_norm(b, "input_layernorm", x);
    zmi_build_place(b, "model.layers.%d.self_attn", i);
    h = zmi_build_attention(b, h, &attention);
    zmi_build_place(b, "model.layers.%d", i);
    x = zm_add(x, h);
    h = zmi_build_norm(b, "post_attention_layernorm", x);
    zmi_build_place(b, "model.layers.%d.mlp", i);
    h = c->kinds[i] & ZMI_LAYER_EXPERTS ? zmi_build_moe(b, h, &route, NULL) : zmi_build_mlp(b, h, &mlp, c->intermediate, false);
    zmi_build_place(b, "model.layers.%d", i);
    x = zm_add(x, h);
  }
  return zmi_build_head(b, x, "norm");
}

static const char *const model_types[] = {"qwen3_moe", NULL};
const zmi_family zmi_family_qwen3_moe = {.name = "qwen3_moe", .model_types = model_types, .parse = parse, .build = build};
