// Family lfm2: layers are short convolutions or attention, each followed by a SwiGLU MLP. The head is the embedding.
#include "models/family.h"

// The width of the MLP: as given, or two thirds of it times a factor, rounded up to a multiple.
static void read_width(zmi_reader *r, zmi_config *c) {
  const char *field = zmi_read_has(r, "block_ff_dim") ? "block_ff_dim" : "intermediate_size";
  int64_t width = zmi_read_int(r, field, 1, ZMI_MOST_WIDTH);
  if (zmi_read_bool_or(r, "block_auto_adjust_ff_dim", false)) {
    const int64_t multiple = zmi_read_int(r, "block_multiple_of", 1, ZMI_MOST_WIDTH);
    width = (int64_t)(2.0 * (double)width / 3.0);
    width = (int64_t)(zmi_read_number_or(r, "block_ffn_dim_multiplier", 1.0, 1e-3, 1e3) * (double)width);
    width = ZMI_MAX((width + multiple - 1) / multiple * multiple, 1);
    if (width > ZMI_MOST_WIDTH) zmi_read_fail(r, ZM_ERROR_FORMAT, "block_ffn_dim_multiplier", "makes the MLP %lld wide", (long long)width);
  }
  c->intermediate = (int32_t)width;
}

static void parse(zmi_reader *r, zmi_config *c) {
  zmi_read_sizes(r, c, "norm_eps");
  zmi_read_heads(r, c, false);
  read_width(r, c);
  const int64_t block = zmi_read_int_or(r, "block_dim", c->hidden, 1, ZMI_MOST_WIDTH);
  if (block != c->hidden)
    zmi_read_fail(r, ZM_ERROR_UNSUPPORTED, "block_dim", "(%lld) must equal hidden_size (%d)", (long long)block, c->hidden);
  c->taps = (int32_t)zmi_read_int(r, "conv_L_cache", 2, 64);
  c->conv_bias = zmi_read_bool(r, "conv_bias");
  c->tied = true; // whatever tie_embedding says: the architecture has no head of its own
  zmi_read_rope(r, c, 1000000.0);
  zmi_read_layer_types(r, c);
}

static zm_array *build(zmi_build *b) {
  static const zmi_attention_names attention = {.q_norm = "q_layernorm", .k_norm = "k_layernorm", .out = "out_proj"};
  static const zmi_mlp_names mlp = {"w1", "w3", "w2"};
  const zmi_config *c = b->config;
  zmi_build_place(b, "model");
  zm_array *x = zmi_build_embedding(b, "embed_tokens");
  for (int i = 0; i < c->layers && x; i++) {
    const bool conv = c->kinds[i] & ZMI_LAYER_CONV;
    zmi_build_place(b, "model.layers.%d", i);
    zm_array *h = zmi_build_norm(b, "operator_norm", x);
    zmi_build_place(b, "model.layers.%d.%s", i, conv ? "conv" : "self_attn");
    h = conv ? zmi_build_short_conv(b, h) : zmi_build_attention(b, h, &attention);
    zmi_build_place(b, "model.layers.%d", i);
    x = zm_add(x, h);
    h = zmi_build_norm(b, "ffn_norm", x);
    zmi_build_place(b, "model.layers.%d.feed_forward", i);
    h = zmi_build_mlp(b, h, &mlp, c->intermediate, false);
    zmi_build_place(b, "model.layers.%d", i);
    x = zm_add(x, h);
  }
  return zmi_build_head(b, x, "embedding_norm");
}

static const char *const model_types[] = {"lfm2", NULL};
const zmi_family zmi_family_lfm2 = {.name = "lfm2", .model_types = model_types, .parse = parse, .build = build};
