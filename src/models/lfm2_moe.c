// Family lfm2_moe: lfm2 whose later layers have experts. The router's sigmoid scores are weights; a bias is added only to choose.
#include "models/family.h"

static void parse(zmi_reader *r, zmi_config *c) {
  zmi_read_sizes(r, c, "norm_eps");
  zmi_read_heads(r, c, false);
  c->intermediate = (int32_t)zmi_read_int(r, "intermediate_size", 1, ZMI_MOST_WIDTH);
  c->experts = (int32_t)zmi_read_int(r, "num_experts", 1, ZMI_MOST_EXPERTS);
  c->top_k = (int32_t)zmi_read_int(r, "num_experts_per_tok", 1, c->experts);
  c->expert_intermediate = (int32_t)zmi_read_int(r, "moe_intermediate_size", 1, ZMI_MOST_WIDTH);
  c->norm_top_k = zmi_read_bool(r, "norm_topk_prob");
  c->expert_bias = zmi_read_bool(r, "use_expert_bias");
  c->expert_scale = zmi_read_number_or(r, "routed_scaling_factor", 1.0, 1e-6, 1e6);
  c->taps = (int32_t)zmi_read_int(r, "conv_L_cache", 2, 64);
  c->conv_bias = zmi_read_bool(r, "conv_bias");
  c->tied = true; // the architecture has no head of its own
  const int64_t dense = zmi_read_int(r, "num_dense_layers", 0, ZMI_MOST_LAYERS);
  zmi_read_rope(r, c, 1000000.0);
  zmi_read_layer_types(r, c);
  if (r->status != ZM_OK) return;
  for (int64_t i = dense; i < c->layers; i++) c->kinds[i] |= ZMI_LAYER_EXPERTS;
}

static zm_array *build(zmi_build *b) {
  static const zmi_attention_names attention = {.q_norm = "q_layernorm", .k_norm = "k_layernorm", .out = "out_proj"};
  static const zmi_mlp_names mlp = {"gate_proj", "up_proj", "down_proj"};
  const zmi_config *c = b->config;
  const zmi_route_attrs route = {
      .kind = ZMI_ROUTE_SIGMOID, .top_k = c->top_k, .norm = c->norm_top_k, .eps = 1e-6, .scale = c->expert_scale};
  zmi_build_place(b, "model");
  zm_array *x = zmi_build_embedding(b, "embed_tokens");
  for (int i = 0; i < c->layers && x; i++) {
    const bool conv = c->kinds[i] & ZMI_LAYER_CONV, experts = c->kinds[i] & ZMI_LAYER_EXPERTS;
    zmi_build_place(b, "model.layers.%d", i);
    zm_array *h = zmi_build_norm(b, "operator_norm", x);
    zmi_build_place(b, "model.layers.%d.%s", i, conv ? "conv" : "self_attn");
    h = conv ? zmi_build_short_conv(b, h) : zmi_build_attention(b, h, &attention);
    zmi_build_place(b, "model.layers.%d", i);
    x = zm_add(x, h);
    h = zmi_build_norm(b, "ffn_norm", x);
    zmi_build_place(b, "model.layers.%d.feed_forward", i);
    h = experts ? zmi_build_moe(b, h, &route, c->expert_bias ? "expert_bias" : NULL) : zmi_build_mlp(b, h, &mlp, c->intermediate, false);
    zmi_build_place(b, "model.layers.%d", i);
    x = zm_add(x, h);
  }
  return zmi_build_head(b, x, "embedding_norm");
}

// The original names the matrices of MLPs and experts w1, w2 and w3.
static const struct zmi_rename renames[] = {
    {".w1.weight", ".gate_proj.weight"}, {".w2.weight", ".down_proj.weight"}, {".w3.weight", ".up_proj.weight"}, {NULL, NULL}};
static const char *const model_types[] = {"lfm2_moe", NULL};
const zmi_family zmi_family_lfm2_moe = {.name = "lfm2_moe", .model_types = model_types, .parse = parse, .build = build, .renames = renames};
