// Configurations: every field that is missing, of the wrong type or absurd is named in one sentence; spellings that mean the same do.
#include "models/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char llama[] = "{\"model_type\": \"llama\", \"hidden_size\": 256, \"num_hidden_layers\": 2, \"intermediate_size\": 640,"
                            "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-5, \"vocab_size\": 100,"
                            "\"max_position_embeddings\": 512, \"rope_theta\": 10000.0}";
static const char qwen3_moe[] =
    "{\"model_type\": \"qwen3_moe\", \"hidden_size\": 256, \"num_hidden_layers\": 4, \"intermediate_size\": 640,"
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-5, \"vocab_size\": 100,"
    "\"head_dim\": 32, \"max_position_embeddings\": 512, \"rope_theta\": 10000.0, \"num_experts\": 8,"
    "\"num_experts_per_tok\": 2, \"decoder_sparse_step\": 2, \"mlp_only_layers\": [3],"
    "\"moe_intermediate_size\": 64, \"norm_topk_prob\": true, \"tie_word_embeddings\": false}";
static const char lfm2[] = "{\"model_type\": \"lfm2\", \"hidden_size\": 256, \"num_hidden_layers\": 3, \"block_ff_dim\": 640,"
                           "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"norm_eps\": 1e-5, \"vocab_size\": 100,"
                           "\"conv_L_cache\": 3, \"conv_bias\": false, \"layer_types\": [\"conv\", \"full_attention\", \"conv\"]}";

// The text with one field replaced, added, or (value NULL) taken away.
static char *with(const char *text, const char *field, const char *value) {
  json_t *root = json_loads(text, 0, NULL);
  assert_non_null(root);
  if (value) {
    json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
    assert_non_null(v);
    json_object_set_new(root, field, v);
  } else {
    assert_int_equal(json_object_del(root, field), 0);
  }
  char *out = json_dumps(root, 0);
  json_decref(root);
  return out;
}

static zm_status parse(const char *text, zmi_config *c) {
  return zmi_config_parse(text, strlen(text), "config.json", c);
}

typedef struct bad_case {
  const char *text, *field, *value, *message;
} bad_case;

static void bad_fields(void **state) {
  (void)state;
  static const bad_case cases[] = {
      {llama, "model_type", NULL, "config.json: model_type is missing"},
      {llama, "model_type", "7", "config.json: model_type must be a string, found 7"},
      {llama, "model_type", "\"gpt2\"", "\"gpt2\" is not supported (supported: llama, qwen3, qwen3_moe, lfm2, lfm2_moe)"},
      {llama, "hidden_size", NULL, "config.json: hidden_size is missing"},
      {llama, "hidden_size", "null", "hidden_size is missing"},
      {llama, "hidden_size", "\"256\"", "hidden_size must be a whole number from 1 to 1048576, found \"256\""},
      {llama, "hidden_size", "256.5", "found 256.5"},
      {llama, "hidden_size", "-256", "found -256"},
      {llama, "hidden_size", "0", "found 0"},
      {llama, "hidden_size", "99999999999999", "found 99999999999999"},
      {llama, "hidden_size", "[256]", "found a list"},
      {llama, "hidden_size", "257", "num_attention_heads (4) must divide hidden_size (257)"},
      {llama, "num_hidden_layers", "0", "num_hidden_layers must be a whole number from 1 to 1024, found 0"},
      {llama, "num_hidden_layers", "2000000000", "found 2000000000"},
      {llama, "vocab_size", "-1", "vocab_size must be"},
      {llama, "intermediate_size", NULL, "intermediate_size is missing"},
      {llama, "num_key_value_heads", "3", "num_key_value_heads (3) must divide num_attention_heads (4)"},
      {llama, "num_key_value_heads", "8", "num_key_value_heads must be a whole number from 1 to 4, found 8"},
      {llama, "head_dim", "33", "head_dim must be even, found 33"},
      {llama, "rms_norm_eps", "\"small\"", "rms_norm_eps must be a number"},
      {llama, "rms_norm_eps", "-1e-5", "rms_norm_eps must be a number"},
      {llama, "rms_norm_eps", "0", "rms_norm_eps must be a number"},
      {llama, "tie_word_embeddings", "1", "tie_word_embeddings must be true or false, found 1"},
      {llama, "attention_bias", "\"yes\"", "attention_bias must be true or false"},
      {llama, "rope_theta", "0", "rope_theta must be a number from 1"},
      {llama, "rope_scaling", "{\"type\": \"yarn\", \"factor\": 4}",
       "rope_scaling.type \"yarn\" is not supported (supported: default, linear, llama3)"},
      {llama, "rope_scaling", "{\"rope_type\": \"dynamic\", \"factor\": 4}", "rope_scaling.rope_type \"dynamic\""},
      {llama, "rope_scaling", "{\"rope_type\": \"linear\"}", "rope_scaling.factor is missing"},
      {llama, "rope_scaling", "{\"rope_type\": \"linear\", \"factor\": -1}", "rope_scaling.factor must be a number"},
      {llama, "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4}",
       "high_freq_factor (4) must be above low_freq_factor (4)"},
      {llama, "rope_scaling", "\"linear\"", "rope_scaling must be an object"},
      {llama, "hidden_act", "\"gelu\"", "hidden_act \"gelu\" is not supported"},
      {llama, "layer_types", "[\"full_attention\"]", "layer_types must have 2 entries, found 1"},
      {llama, "layer_types", "[\"full_attention\", \"mamba\"]", "layer_types [1] is \"mamba\""},
      {llama, "eos_token_id", "100", "eos_token_id must be a whole number from 0 to 99, found 100"},
      {llama, "eos_token_id", "[1, -2]", "eos_token_id[1] must be a whole number from 0 to 99, found -2"},
      {llama, "eos_token_id", "\"</s>\"", "eos_token_id must be"},
      {llama, "quantization", "[]", "quantization must be an object"},
      {llama, "quantization", "{\"bits\": 4}", "quantization.group_size is missing"},
      {llama, "quantization", "{\"bits\": 7, \"group_size\": 64}", "quantization: affine quantization with 7 bits"},
      {llama, "quantization", "{\"bits\": 4, \"group_size\": 48}", "quantization: affine quantization with groups of 48"},
      {llama, "quantization_config", "{\"bits\": 7, \"group_size\": 64}", "quantization_config: affine quantization with 7 bits"},
      {llama, "quantization_config", "{\"group_size\": 64}", "quantization_config.bits is missing"},
      {llama, "quantization", "{\"bits\": \"4\", \"group_size\": 64}", "quantization.bits must be a whole number"},
      {llama, "quantization", "{\"bits\": 4, \"group_size\": 64, \"mode\": \"mxfp4\"}",
       "mxfp4 quantization with groups of 64 does not exist"},
      {llama, "quantization", "{\"bits\": 4, \"group_size\": 32, \"mode\": \"magic\"}", "quantization.mode \"magic\" is unknown"},
      {llama, "quantization", "{\"bits\": 4, \"group_size\": 64, \"model.embed_tokens\": {\"bits\": 9}}",
       "quantization[\"model.embed_tokens\"]: affine quantization with 9 bits"},
      {llama, "quantization_config", "{\"bits\": 4, \"group_size\": 64, \"lm_head\": {\"bits\": 9}}",
       "quantization_config[\"lm_head\"]: affine"},
      {llama, "quantization_config", "{\"quant_method\": \"gptq\", \"bits\": 4}",
       "quantization_config.quant_method \"gptq\" is not supported"},
      {llama, "quantize_activations", "true", "quantize_activations is not supported"},
      {qwen3_moe, "rope_theta", NULL, "rope_theta is missing"},
      {qwen3_moe, "tie_word_embeddings", NULL, "tie_word_embeddings is missing"},
      {qwen3_moe, "num_experts_per_tok", "9", "num_experts_per_tok must be a whole number from 1 to 8, found 9"},
      {qwen3_moe, "num_experts_per_tok", "0", "num_experts_per_tok must be"},
      {qwen3_moe, "num_experts", "1000000", "num_experts must be"},
      {qwen3_moe, "mlp_only_layers", "[-1]", "mlp_only_layers[0] must be a whole number"},
      {qwen3_moe, "mlp_only_layers", "3", "mlp_only_layers must be a list"},
      {qwen3_moe, "decoder_sparse_step", "0", "decoder_sparse_step must be"},
      {qwen3_moe, "moe_intermediate_size", NULL, "moe_intermediate_size is missing"},
      {lfm2, "layer_types", NULL, "layer_types is missing"},
      {lfm2, "layer_types", "[\"conv\", \"conv\", \"conv\"]", "must name at least one full_attention layer"},
      {lfm2, "layer_types", "[\"conv\", \"conv\", \"sliding_attention\"]", "layer_types [2] is \"sliding_attention\""},
      {lfm2, "full_attn_idxs", "[3]", "full_attn_idxs[0] must be a whole number from 0 to 2, found 3"},
      {lfm2, "conv_L_cache", "1", "conv_L_cache must be"},
      {lfm2, "conv_bias", NULL, "conv_bias is missing"},
      {lfm2, "block_dim", "128", "block_dim (128) must equal hidden_size (256)"},
      {lfm2, "block_ff_dim", NULL, "intermediate_size is missing"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    char *text = with(cases[i].text, cases[i].field, cases[i].value);
    zmi_config c;
    if (parse(text, &c) == ZM_OK) fail_msg("%s: %s was accepted", cases[i].field, cases[i].value ? cases[i].value : "(missing)");
    if (!strstr(zm_last_error(), cases[i].message)) fail_msg("expected \"%s\", found \"%s\"", cases[i].message, zm_last_error());
    assert_non_null(strstr(zm_last_error(), "config.json: "));
    zmi_config_release(&c);
    free(text);
  }
}

static void bad_texts(void **state) {
  (void)state;
  static const char *const texts[] = {"",    "{", "[]", "7", "{\"model_type\": \"llama\", \"model_type\": \"llama\"}", "{\"a\": \xff}",
                                      "null"};
  for (size_t i = 0; i < ZMI_COUNT(texts); i++) {
    zmi_config c;
    assert_int_equal(parse(texts[i], &c), ZM_ERROR_FORMAT);
    assert_non_null(strstr(zm_last_error(), "config.json: "));
    zmi_config_release(&c);
  }
}

static void check_close(double a, double b) {
  if (!(__builtin_fabs(a - b) <= 1e-6 * __builtin_fabs(b))) fail_msg("%.9g, expected %.9g", a, b);
}

// A configuration with one changed field, which must be good.
static void good(const char *base, const char *field, const char *value, zmi_config *c) {
  char *text = with(base, field, value);
  if (parse(text, c) != ZM_OK) fail_msg("%s", zm_last_error());
  free(text);
}

static void rope(void **state) {
  (void)state;
  zmi_config c;
  float f[32], g[32];
  good(llama, "bos_token_id", "1", &c);
  assert_int_equal(c.head_dim, 64);
  zmi_config_inv_freq(&c, f);
  check_close((double)f[0], 1.0);
  check_close((double)f[16], 0.01); // 10000 ^ -(32/64)
  check_close((double)f[31], 1.0 / 7498.942093324559);
  zmi_config_release(&c);

  // The two spellings of the same base and scaling.
  good(llama, "rope_scaling", "{\"type\": \"linear\", \"factor\": 4.0}", &c);
  zmi_config_inv_freq(&c, g);
  check_close((double)g[16], 0.0025);
  zmi_config_release(&c);
  char *text = with(llama, "rope_theta", NULL);
  good(text, "rope_parameters", "{\"rope_theta\": 10000, \"rope_type\": \"linear\", \"factor\": 4.0}", &c);
  zmi_config_inv_freq(&c, f);
  assert_memory_equal(f, g, sizeof f);
  zmi_config_release(&c);
  free(text);

  // llama3: fast turns stay, slow ones stretch by the factor, between them a blend.
  good(llama, "rope_scaling",
       "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": "
       "8192}",
       &c);
  zmi_config_inv_freq(&c, g);
  check_close((double)g[0], 1.0);
  check_close((double)g[31], 1.0 / 7498.942093324559 / 8.0);
  // period 10000^(25/32) = 1333.5214: 8192 / (2 pi period) = 0.97771 turns, below 1
  check_close((double)g[25], 1.0 / 1333.521432163324 / 8.0);
  // period 10000^(23/32) = 749.894: 1.738642 turns: smooth = 0.246214
  check_close((double)g[23], ((1 - 0.246213878) / 8.0 + 0.246213878) / 749.8942093324559);
  zmi_config_release(&c);
}

static void spellings(void **state) {
  (void)state;
  zmi_config c;
  good(llama, "model_type", "\"mistral\"", &c);
  assert_true(c.tied);
  zmi_config_release(&c);
  good(llama, "sliding_window", "100", &c); // exact up to the window
  assert_int_equal(c.context, 100);
  zmi_config_release(&c);
  good(llama, "sliding_window", "null", &c);
  assert_int_equal(c.context, 512);
  zmi_config_release(&c);
  good(llama, "eos_token_id", "[3, 5]", &c);
  assert_int_equal(c.eos_count, 2);
  assert_int_equal(c.eos[1], 5);
  assert_int_equal(zmi_config_parse_generation("{\"eos_token_id\": 9}", 19, "generation_config.json", &c), ZM_OK);
  assert_int_equal(c.eos_count, 1);
  assert_int_equal(c.eos[0], 9);
  assert_int_equal(zmi_config_parse_generation("{}", 2, "generation_config.json", &c), ZM_OK);
  assert_int_equal(c.eos[0], 9);
  zmi_config_release(&c);
  good(llama, "torch_dtype", "\"float16\"", &c);
  assert_int_equal(c.stored, ZM_F16);
  zmi_config_release(&c);

  good(qwen3_moe, "hidden_act", "\"silu\"", &c);
  assert_int_equal(c.kinds[0], 0);
  assert_int_equal(c.kinds[1], ZMI_LAYER_EXPERTS);
  assert_int_equal(c.kinds[2], 0);
  assert_int_equal(c.kinds[3], 0); // named in mlp_only_layers
  zmi_config_release(&c);

  good(lfm2, "block_auto_adjust_ff_dim", "false", &c);
  assert_int_equal(c.intermediate, 640);
  assert_int_equal(c.kinds[0], ZMI_LAYER_CONV);
  assert_int_equal(c.kinds[1], 0);
  zmi_config_release(&c);
  char *text = with(lfm2, "block_auto_adjust_ff_dim", "true");
  good(text, "block_multiple_of", "256", &c);
  assert_int_equal(c.intermediate, 512); // 640 * 2 / 3 = 426
  zmi_config_release(&c);
  free(text);
  text = with(lfm2, "layer_types", NULL);
  good(text, "full_attn_idxs", "[0, 2]", &c);
  assert_int_equal(c.kinds[0], 0);
  assert_int_equal(c.kinds[1], ZMI_LAYER_CONV);
  zmi_config_release(&c);
  free(text);
}

static void quantization(void **state) {
  (void)state;
  zmi_config c;
  char text[64];
  good(llama, "rope_traditional", "false", &c);
  assert_string_equal(zmi_config_quantization(&c, text), "none");
  assert_null(zmi_config_override(&c, "model.embed_tokens"));
  zmi_config_release(&c);
  good(llama, "quantization",
       "{\"group_size\": 64, \"bits\": 3, \"mode\": \"affine\", \"a.b\": {\"group_size\": 32, \"bits\": 8}, \"c.d\": false, \"e.f\": true, "
       "\"g\": {}}",
       &c);
  assert_string_equal(zmi_config_quantization(&c, text), "affine 3-bit g64");
  assert_int_equal(zmi_config_override(&c, "a.b")->format.bits, 8);
  assert_int_equal(zmi_config_override(&c, "a.b")->format.group, 32);
  assert_false(zmi_config_override(&c, "c.d")->quantized);
  assert_true(zmi_config_override(&c, "e.f")->quantized);
  assert_int_equal(zmi_config_override(&c, "e.f")->format.bits, 3);
  assert_int_equal(zmi_config_override(&c, "g")->format.bits, 4); // the defaults of MLX
  assert_null(zmi_config_override(&c, "bits"));
  zmi_config_release(&c);
}

// Without allocations there is no configuration, and nothing is lost.
static void allocations(void **state) {
  (void)state;
  char *text = with(qwen3_moe, "quantization", "{\"group_size\": 64, \"bits\": 4, \"a\": false, \"b\": {\"bits\": 8}}");
  for (uint64_t n = 1; n < 1000; n++) {
    zmi_config c;
    const uint64_t before = zmi_alloc_count();
    zmi_alloc_fail_at(n);
    zm_status status = parse(text, &c);
    zmi_alloc_fail_at(0);
    zmi_config_release(&c);
    if (zmi_alloc_count() - before < n) {
      assert_int_equal(status, ZM_OK);
      free(text);
      return;
    }
    assert_int_equal(status, ZM_ERROR_MEMORY);
  }
  fail_msg("parsing never ended");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bad_fields), cmocka_unit_test(bad_texts),    cmocka_unit_test(rope),
      cmocka_unit_test(spellings),  cmocka_unit_test(quantization), cmocka_unit_test(allocations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
