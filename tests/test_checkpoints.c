// Checkpoints that lie are refused in one sentence; each allocation may fail; plans; random checkpoints; facts of a model.
#include "models/models.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[256]; // scratch of this process

static char *path_of(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static int make_scratch(void **state) {
  (void)state;
  const char *base = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%.200s/zmlx-checkpoints-XXXXXX", base && *base ? base : "/tmp");
  return mkdtemp(folder) ? 0 : -1;
}

static void remove_checkpoint(const char *where) {
  static const char *const files[] = {"config.json",    "generation_config.json", "model.safetensors", "model.safetensors.index.json",
                                      "tokenizer.json", "tokenizer_config.json"};
  char path[768];
  for (size_t i = 0; i < ZMI_COUNT(files); i++) {
    snprintf(path, sizeof path, "%s/%s", where, files[i]);
    unlink(path);
  }
  rmdir(where);
}

static int remove_scratch(void **state) {
  (void)state;
  remove_checkpoint(folder);
  return 0;
}

static void write_file(const char *path, const void *data, size_t size) {
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(data, 1, size, f), size);
  assert_int_equal(fclose(f), 0);
}

// ---- a checkpoint in memory, to be changed and written ----

typedef struct forged {
  zmi_tensor tensors[256];
  uint8_t *data[256];
  size_t count;
  char *config;
} forged;

static void load(forged *f, const char *name) {
  char path[256];
  size_t size;
  snprintf(path, sizeof path, "checkpoints/%s/config.json", name);
  assert_int_equal(zmi_read_file(path, 1 << 20, &f->config, &size), ZM_OK);
  snprintf(path, sizeof path, "checkpoints/%s", name);
  zmi_tensors *all = zmi_tensors_open(path);
  assert_non_null(all);
  f->count = zmi_tensors_count(all);
  assert_true(f->count < ZMI_COUNT(f->tensors));
  for (size_t i = 0; i < f->count; i++) {
    f->tensors[i] = *zmi_tensors_at(all, i);
    f->tensors[i].name = strdup(f->tensors[i].name);
    f->data[i] = malloc(f->tensors[i].bytes + 64);
    memcpy(f->data[i], f->tensors[i].data, f->tensors[i].bytes);
  }
  zmi_tensors_close(all);
}

static void unload(forged *f) {
  for (size_t i = 0; i < f->count; i++) {
    free((char *)(uintptr_t)f->tensors[i].name);
    free(f->data[i]);
  }
  zmi_free(f->config);
}

static void save(const forged *f) {
  write_file(path_of("config.json"), f->config, strlen(f->config));
  zmi_tensors_writer *w = zmi_tensors_writer_open(path_of("model.safetensors"), f->count, f->tensors);
  assert_non_null(w);
  for (size_t i = 0; i < f->count; i++) assert_int_equal(zmi_tensors_writer_write(w, f->data[i], f->tensors[i].bytes), ZM_OK);
  assert_int_equal(zmi_tensors_writer_publish(w), ZM_OK);
}

static size_t index_of(const forged *f, const char *name) {
  for (size_t i = 0; i < f->count; i++)
    if (strcmp(f->tensors[i].name, name) == 0) return i;
  fail_msg("there is no tensor %s", name);
  return 0;
}

// What is done to one tensor, and what the message must then say.
typedef enum lie { DROP, RENAME, TRANSPOSE, CUT_ROW, UNSTACK, RETYPE_I32, RETYPE_F16, NAN_LAST, INFINITE_FIRST } lie;
typedef struct lie_case {
  const char *checkpoint, *tensor;
  lie lie;
  const char *message;
} lie_case;

static void tell(forged *f, const lie_case *c) {
  const size_t i = index_of(f, c->tensor);
  zmi_tensor *t = &f->tensors[i];
  const uint16_t nan = 0x7fc1, infinity = 0xff80;
  switch (c->lie) {
  case DROP:
    free((char *)(uintptr_t)t->name);
    free(f->data[i]);
    f->count--;
    memmove(t, t + 1, (f->count - i) * sizeof *t);
    memmove(&f->data[i], &f->data[i + 1], (f->count - i) * sizeof f->data[0]);
    break;
  case RENAME:
    free((char *)(uintptr_t)t->name);
    t->name = strdup("model.layers.77.surprise.weight");
    break;
  case UNSTACK:
    free((char *)(uintptr_t)t->name);
    t->name = strdup("model.layers.1.mlp.experts.0.up_proj.weight");
    break;
  case TRANSPOSE: {
    const int64_t first = t->shape[0];
    t->shape[0] = t->shape[t->rank - 1];
    t->shape[t->rank - 1] = first;
    break;
  }
  case CUT_ROW:
    t->bytes -= t->bytes / (size_t)t->shape[0];
    t->shape[0]--;
    break;
  case RETYPE_I32:
    t->dtype = ZM_I32;
    break;
  case RETYPE_F16:
    t->dtype = ZM_F16;
    break;
  case NAN_LAST:
    memcpy(f->data[i] + t->bytes - 2, &nan, 2);
    break;
  case INFINITE_FIRST:
    memcpy(f->data[i], &infinity, 2);
    break;
  }
}

static void lies(void **state) {
  (void)state;
  static const lie_case cases[] = {
      {"tiny-qwen3_moe", "model.layers.1.mlp.switch_mlp.up_proj.biases", DROP, "model.layers.1.mlp.switch_mlp.up_proj.biases is missing"},
      {"tiny-qwen3_moe", "model.layers.1.mlp.gate.scales", DROP, "model.layers.1.mlp.gate.scales is missing"},
      {"tiny-qwen3_moe", "model.norm.weight", DROP, "model.norm.weight is missing"},
      {"tiny-qwen3_moe", "model.embed_tokens.weight", DROP, "model.embed_tokens.weight is missing"},
      {"tiny-qwen3_moe", "model.layers.2.self_attn.k_norm.weight", RENAME, "model.layers.2.self_attn.k_norm.weight is missing"},
      {"tiny-qwen3_moe", "model.layers.1.mlp.gate.weight", TRANSPOSE,
       "model.layers.1.mlp.gate.weight: expected shape [12, 24], found [24, 12]"},
      {"tiny-qwen3_moe", "model.layers.1.mlp.switch_mlp.down_proj.weight", CUT_ROW,
       "model.layers.1.mlp.switch_mlp.down_proj.weight: expected shape [12, 96, 10], found [11, 96, 10]"},
      {"tiny-qwen3_moe", "model.layers.1.mlp.switch_mlp.down_proj.scales", CUT_ROW, "expected shape [12, 96, 1], found [11, 96, 1]"},
      {"tiny-qwen3_moe", "model.layers.1.mlp.switch_mlp.up_proj.weight", UNSTACK, "experts.0.up_proj.weight stands alone"},
      {"tiny-qwen3_moe", "model.layers.0.self_attn.q_proj.biases", CUT_ROW, "expected shape [128, 3], found [127, 3]"},
      {"tiny-qwen3_moe", "model.layers.0.input_layernorm.weight", CUT_ROW, "expected shape [96], found [95]"},
      {"tiny-qwen3_moe", "model.layers.0.mlp.up_proj.weight", RETYPE_I32,
       "model.layers.0.mlp.up_proj.weight: expected uint32 codes, found int32"},
      {"tiny-qwen3_moe", "model.layers.0.mlp.up_proj.biases", RETYPE_F16, "expected bfloat16 like the scales, found float16"},
      {"tiny-qwen3_moe", "model.layers.0.self_attn.v_proj.scales", NAN_LAST, "model.layers.0.self_attn.v_proj"},
      {"tiny-qwen3_moe", "model.layers.0.self_attn.v_proj.biases", INFINITE_FIRST, "model.layers.0.self_attn.v_proj"},
      {"tiny-qwen3_moe", "model.layers.1.mlp.switch_mlp.gate_proj.scales", NAN_LAST, "model.layers.1.mlp.switch_mlp.gate_proj, expert 11"},
      {"tiny-qwen3_moe", "model.norm.weight", NAN_LAST, "model.norm.weight: element 95 is not a finite number"},
      {"tiny-lfm2_moe", "model.layers.0.conv.conv.bias", INFINITE_FIRST, "model.layers.0.conv.conv.bias: element 0 is not a finite number"},
      {"tiny-lfm2_moe", "model.layers.1.feed_forward.expert_bias", DROP, "model.layers.1.feed_forward.expert_bias is missing"},
      {"tiny-lfm2_moe", "model.layers.0.conv.in_proj.bias", CUT_ROW, "expected shape [288], found [287]"},
      {"tiny-lfm2_moe", "model.layers.1.feed_forward.gate.weight", CUT_ROW, "expected shape [8, 96], found [7, 96]"},
      {"tiny-lfm2_moe-hf", "model.layers.2.feed_forward.experts.2.w3.weight", CUT_ROW, "expected shape [40, 64], found [39, 64]"},
      {"tiny-lfm2_moe-hf", "model.layers.2.feed_forward.experts.3.w3.weight", DROP, "an expert is missing"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    forged f;
    load(&f, cases[i].checkpoint);
    tell(&f, &cases[i]);
    save(&f);
    unload(&f);
    zm_model *m = zm_model_open(folder, NULL);
    if (m) fail_msg("a lie about %s was believed", cases[i].tensor);
    if (!strstr(zm_last_error(), cases[i].message)) fail_msg("expected \"%s\", found \"%s\"", cases[i].message, zm_last_error());
    assert_int_equal(zm_last_status(), ZM_ERROR_FORMAT);
    assert_non_null(strstr(zm_last_error(), folder));
  }
}

// Changes of config.json that make it describe another model than the tensors are.
static void wrong_configs(void **state) {
  (void)state;
  static const struct {
    const char *from, *to, *message;
  } cases[] = {
      {"\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3", "model.layers.3."},
      {"\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5", "model.layers.4.input_layernorm.weight is missing"},
      {"\"num_experts\": 12", "\"num_experts\": 16", "expected shape [16, 24], found [12, 24]"},
      {"\"head_dim\": 32", "\"head_dim\": 16", "model.layers.0.self_attn.q_proj.weight: expected shape [64, 18], found [128, 18]"},
      {"\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "lm_head.weight is missing"},
      {"\"vocab_size\": 176", "\"vocab_size\": 177", "expected shape [177, 18], found [176, 18]"},
      {"\"model.layers.1.mlp.gate\": {", "\"model.layers.0.mlp.down_proj\": false, \"model.layers.1.mlp.gate\": {",
       "model.layers.0.mlp.down_proj: config.json says that it is not quantized"},
      {"\"quantization\": {", "\"quantized\": {", NULL}, // quantization_config says the same
      {"\"bits\": 6", "\"bits\": 4", NULL},              // the shapes spell out 6 bits, as MLX reads them
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    forged f;
    load(&f, "tiny-qwen3_moe");
    char *at = strstr(f.config, cases[i].from);
    if (!at) fail_msg("config.json has no %s", cases[i].from);
    zmi_text text = {0};
    zmi_text_add(&text, "%.*s%s%s", (int)(at - f.config), f.config, cases[i].to, at + strlen(cases[i].from));
    zmi_free(f.config);
    f.config = text.data;
    save(&f);
    unload(&f);
    zm_model *m = zm_model_open(folder, NULL);
    if (!m && !cases[i].message) fail_msg("%s: %s", cases[i].to, zm_last_error());
    if (m && cases[i].message) fail_msg("%s was believed", cases[i].to);
    if (!m && !strstr(zm_last_error(), cases[i].message)) fail_msg("expected \"%s\", found \"%s\"", cases[i].message, zm_last_error());
    zm_model_close(m);
  }
}

static void bad_arguments(void **state) {
  (void)state;
  assert_null(zm_model_open(NULL, NULL));
  assert_null(zm_model_open("", NULL));
  assert_null(zm_model_open("checkpoints/none", NULL));
  assert_non_null(strstr(zm_last_error(), "checkpoints/none"));
  assert_null(zm_model_open("checkpoints/tiny-lfm2", &(zm_model_options){.threads = -1}));
  assert_null(zm_model_open("checkpoints/tiny-lfm2", &(zm_model_options){.dtype = ZM_U8}));
  assert_non_null(strstr(zm_last_error(), "uint8"));
  assert_null(zm_model_open("checkpoints/tiny-lfm2", &(zm_model_options){.isa = "abacus"}));
  assert_non_null(strstr(zm_last_error(), "abacus"));
  zm_model_close(NULL);
}

// ---- plans ----

static void plans(void **state) {
  (void)state;
  zmi_model_plan plan;
  assert_int_equal(zmi_model_plan_path("checkpoints/storyteller-4bit", NULL, &plan), ZM_OK);
  assert_string_equal(plan.family, "lfm2_moe");
  assert_string_equal(plan.quantization, "affine 4-bit g64");
  assert_int_equal(plan.file_bytes, 16785152);
  assert_in_range(plan.weight_bytes, plan.file_bytes, plan.file_bytes * 102 / 100);
  assert_int_equal(plan.cache_bytes_per_token, 3 * 2 * 2 * 64 * 2); // attention layers, keys and values, heads, head size, bfloat16
  assert_int_equal(plan.context, 4096);
  assert_in_range(plan.cache_bytes, 4096 * plan.cache_bytes_per_token, 4096 * plan.cache_bytes_per_token + 7 * 2 * 384 * 2);
  assert_in_range(plan.bytes_per_token, plan.weight_bytes / 4, plan.weight_bytes * 3 / 5); // 4 of 16 experts
  assert_int_equal(zmi_model_plan_check(&plan, plan.total_bytes), ZM_OK);
  assert_int_equal(zmi_model_plan_check(&plan, plan.total_bytes - 1000000), ZM_ERROR_MEMORY);
  assert_non_null(strstr(zm_last_error(), "1.0 MB more than the limit of"));

  zmi_model_plan more;
  const zmi_model_plan_request request = {.context = 20000, .sequences = 3, .dtype = ZM_F32};
  assert_int_equal(zmi_model_plan_path("checkpoints/storyteller-4bit", &request, &more), ZM_OK);
  assert_int_equal(more.cache_bytes_per_token, 2 * plan.cache_bytes_per_token);
  assert_true(more.cache_bytes >= 3 * 20000 * more.cache_bytes_per_token);
  assert_int_equal(more.weight_bytes, plan.weight_bytes);
  const zmi_model_plan_request absurd = {.context = 32769};
  assert_int_equal(zmi_model_plan_path("checkpoints/storyteller-4bit", &absurd, &more), ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "32768"));

  // A configuration alone gives the sizes of the checkpoint that it describes.
  char *config;
  size_t size;
  assert_int_equal(zmi_read_file("checkpoints/storyteller-4bit/config.json", 1 << 20, &config, &size), ZM_OK);
  remove_checkpoint(folder);
  assert_int_equal(mkdir(folder, 0777), 0);
  write_file(path_of("config.json"), config, size);
  zmi_free(config);
  assert_int_equal(zmi_model_plan_path(folder, NULL, &more), ZM_OK);
  assert_int_equal(more.file_bytes, 0);
  assert_int_equal(more.weight_bytes, plan.weight_bytes);
  assert_int_equal(more.bytes_per_token, plan.bytes_per_token);

  assert_null(zm_model_open("checkpoints/storyteller-4bit", &(zm_model_options){.memory_limit = 10000000}));
  assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
  assert_non_null(strstr(zm_last_error(), "more than the limit of 10.0 MB"));
}

// Memory is checked for as many positions as the caller means to use.
static void planned_context(void **state) {
  (void)state;
  static const char path[] = "checkpoints/storyteller-4bit";
  zmi_model_plan plan;
  assert_int_equal(zmi_model_plan_path(path, &(zmi_model_plan_request){.context = 64}, &plan), ZM_OK);
  zm_model_options o = {.threads = 1, .isa = "scalar", .memory_limit = plan.total_bytes + (1 << 20)};
  assert_null(zm_model_open(path, &o));
  assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
  o.context = 64;
  zm_model *m = zm_model_open(path, &o);
  if (!m) fail_msg("%s", zm_last_error());
  zm_model_close(m);
  o.context = -1;
  assert_null(zm_model_open(path, &o));
  assert_non_null(strstr(zm_last_error(), "found -1"));
}

static void no_model(void **state) {
  (void)state;
  zm_model_info info = {.layers = 7};
  const int32_t *eos = &info.layers;
  zm_model_get_info(NULL, &info);
  assert_int_equal(info.layers, 0);
  assert_null(info.path);
  zm_model_get_info(NULL, NULL);
  assert_int_equal(zm_model_eos(NULL, &eos), 0);
  assert_null(eos);
}

static void facts(void **state) {
  (void)state;
  zm_model *m = zm_model_open("checkpoints/storyteller-4bit", &(zm_model_options){.threads = 1, .isa = "scalar"});
  assert_non_null(m);
  zm_model_info info;
  zm_model_get_info(m, &info);
  assert_string_equal(info.family, "lfm2_moe");
  assert_string_equal(info.isa, "scalar");
  assert_int_equal(info.threads, 1);
  assert_int_equal(info.dtype, ZM_BF16);
  assert_int_equal(info.vocab, 8192);
  assert_int_equal(info.context, 32768);
  assert_int_equal(info.file_bytes, 16785152);
  const int32_t *eos;
  assert_int_equal(zm_model_eos(m, &eos), 1);
  assert_int_equal(eos[0], 2);

  zmi_state_set states;
  assert_int_equal(zmi_model_states(m, 2, 100, &states), ZM_OK);
  assert_int_equal(states.context, 112);
  assert_int_equal(states.count, 3 * 2 + 7);
  assert_string_equal(states.slots[0].name, "model.layers.0.conv.state");
  assert_string_equal(states.slots[2].name, "model.layers.2.self_attn.keys");
  states.slots[2].type.shape[1] = 1; // a state of another model
  assert_null(zmi_model_compile(m, 1, 1, &states, NULL));
  assert_non_null(strstr(zm_last_error(), "model.layers.2.self_attn.keys"));
  zmi_state_set_release(&states);
  assert_null(zmi_model_compile(m, 1, 2, NULL, NULL));
  assert_null(zmi_model_compile(m, 1, 1, NULL, NULL));
  zm_model_close(m);

  m = zm_model_open("checkpoints/tiny-llama-biases", NULL); // float16
  assert_non_null(m);
  assert_int_equal(zmi_model_dtype(m), ZM_F32);
  assert_int_equal(zm_model_eos(m, &eos), 2);
  assert_int_equal(eos[1], 7);
  zm_model_close(m);
}

static bool cancel(void *user, const char *what, uint64_t done, uint64_t total) {
  (void)what;
  assert_true(done <= total);
  return --*(int *)user > 0;
}

static void cancelling(void **state) {
  (void)state;
  int calls = 5;
  assert_null(zm_model_open("checkpoints/tiny-lfm2", &(zm_model_options){.progress = cancel, .progress_user = &calls}));
  assert_int_equal(zm_last_status(), ZM_ERROR_CANCELLED);
}

// ---- each allocation fails in turn ----

static void allocations(void **state) {
  (void)state;
  static const char *const names[] = {"checkpoints/tiny-lfm2", "checkpoints/tiny-lfm2_moe-hf"};
  for (size_t i = 0; i < ZMI_COUNT(names); i++) {
    const uint64_t before = zmi_alloc_count();
    zm_model *m = zm_model_open(names[i], &(zm_model_options){.threads = 1});
    assert_non_null(m);
    const uint64_t count = zmi_alloc_count() - before;
    zm_model_close(m);
    const uint64_t step = ZMI_MAX(count / 1000, 1);
    uint64_t survived = 0; // of a text that only a message would have needed
    for (uint64_t n = 1; n <= count; n += step) {
      zmi_alloc_fail_at(n);
      m = zm_model_open(names[i], &(zm_model_options){.threads = 1});
      zmi_alloc_fail_at(0);
      if (!m && zm_last_status() != ZM_ERROR_MEMORY) fail_msg("allocation %llu: %s", (unsigned long long)n, zm_last_error());
      survived += m != NULL;
      zm_model_close(m);
    }
    assert_true(survived <= 8);
  }
}

// ---- random checkpoints ----

static void synth(void **state) {
  (void)state;
  static const char *const names[] = {"tiny-lfm2_moe", "tiny-qwen3_moe", "tiny-llama-biases", "tiny-llama-f32"};
  for (size_t i = 0; i < ZMI_COUNT(names); i++) {
    char source[256], made[512], again[512], path[768];
    snprintf(source, sizeof source, "checkpoints/%s", names[i]);
    snprintf(made, sizeof made, "%s-made", folder);
    snprintf(again, sizeof again, "%s-again", folder);
    assert_int_equal(zmi_synth(source, made, 7, NULL, NULL), ZM_OK);
    assert_int_equal(zmi_synth(source, again, 7, NULL, NULL), ZM_OK);
    char *a, *b;
    size_t size_a, size_b;
    snprintf(path, sizeof path, "%s/model.safetensors", made);
    assert_int_equal(zmi_read_file(path, 1 << 24, &a, &size_a), ZM_OK);
    snprintf(path, sizeof path, "%s/model.safetensors", again);
    assert_int_equal(zmi_read_file(path, 1 << 24, &b, &size_b), ZM_OK);
    assert_int_equal(size_a, size_b);
    assert_memory_equal(a, b, size_a);
    zmi_free(a);
    zmi_free(b);
    assert_int_equal(zmi_synth(source, made, 7, NULL, NULL), ZM_ERROR_FILE); // never writes over something
    zm_model *m = zm_model_open(made, NULL);
    if (!m) fail_msg("%s", zm_last_error());
    zm_model *original = zm_model_open(source, NULL);
    assert_non_null(original);
    zm_model_info x, y;
    zm_model_get_info(m, &x);
    zm_model_get_info(original, &y);
    assert_int_equal(x.file_bytes, y.file_bytes);
    assert_int_equal(x.bytes_per_token, y.bytes_per_token);
    zm_model_close(original);
    zm_model_close(m);
    remove_checkpoint(made);
    int calls = 3;
    remove_checkpoint(again);
    assert_int_equal(zmi_synth(source, again, 7, cancel, &calls), ZM_ERROR_CANCELLED);
    assert_false(zmi_path_exists(again));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lies),  cmocka_unit_test(wrong_configs), cmocka_unit_test(bad_arguments), cmocka_unit_test(plans),
      cmocka_unit_test(planned_context),
      cmocka_unit_test(no_model),
      cmocka_unit_test(facts), cmocka_unit_test(cancelling),    cmocka_unit_test(allocations),   cmocka_unit_test(synth),
  };
  return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
