// Family qwen3: llama with a norm on each head of queries and keys.
#include "models/family.h"

static void parse(zmi_reader *r, zmi_config *c) {
  zmi_read_sizes(r, c, "rms_norm_eps");
  zmi_read_heads(r, c, true);
  c->intermediate = (int32_t)zmi_read_int(r, "intermediate_size", 1, ZMI_MOST_WIDTH);
  c->attention_bias = zmi_read_bool_or(r, "attention_bias", false);
  c->tied = zmi_read_bool(r, "tie_word_embeddings");
  zmi_read_rope(r, c, 0);
  zmi_read_window(r, c);
  zmi_read_activation(r);
}

static zm_array *build(zmi_build *b) {
  static const zmi_attention_names attention = {.q_norm = "q_norm", .k_norm = "k_norm", .out = "o_proj"};
  static const zmi_mlp_names mlp = {"gate_proj", "up_proj", "down_proj"};
  const zmi_config *c = b->config;
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
    h = zmi_build_mlp(b, h, &mlp, c->intermediate, false);
    zmi_build_place(b, "model.layers.%d", i);
    x = zm_add(x, h);
  }
  return zmi_build_head(b, x, "norm");
}

static const char *const model_types[] = {"qwen3", NULL};
const zmi_family zmi_family_qwen3 = {.name = "qwen3", .model_types = model_types, .parse = parse, .build = build};
