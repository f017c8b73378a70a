// Reads config.json: finds the family, lets it parse its own fields, and reads what all checkpoints share: quantization with its
// exceptions for single matrices, the float dtype, and end-of-text ids.
#include "models/config.h"
#include "models/family.h"

#include <errno.h>
#include <string.h>

enum { MOST_CONFIG_BYTES = 16 << 20, MOST_EOS = 64 };

void zmi_config_release(zmi_config *config) {
  zmi_free(config->kinds);
  for (size_t i = 0; i < config->override_count; i++) zmi_free(config->overrides[i].name);
  zmi_free(config->overrides);
  zmi_map_free(config->override_index);
  zmi_free(config->eos);
  *config = (zmi_config){0};
}

const zmi_override *zmi_config_override(const zmi_config *config, const char *name) {
  int64_t i;
  if (!config->override_index || !zmi_map_get(config->override_index, name, strlen(name), &i)) return NULL;
  return &config->overrides[i];
}

const char *zmi_config_quantization(const zmi_config *config, char buffer[64]) {
  return config->quantized ? zmi_format_text(&config->format, buffer) : strcpy(buffer, "none");
}

// ---- quantization ----

static void read_format(zmi_reader *r, zmi_format *f, bool defaults) {
  const char *mode = zmi_read_text_or(r, "mode", "affine");
  const int found = zmi_quant_mode_find(mode);
  if (found <= ZMI_QUANT_NONE)
    zmi_read_fail(r, ZM_ERROR_UNSUPPORTED, "mode", "\"%.40s\" is unknown (supported: affine, mxfp4, mxfp8, nvfp4)", mode);
  *f = (zmi_format){.mode = found > ZMI_QUANT_NONE ? found : ZMI_QUANT_AFFINE, .dtype = ZM_BF16};
  zmi_format usual = *f;
  zmi_codes_complete(&usual);
  f->group = defaults ? zmi_read_int_or(r, "group_size", usual.group, 1, 4096) : zmi_read_int(r, "group_size", 1, 4096);
  f->bits = defaults ? zmi_read_int_or(r, "bits", usual.bits, 1, 32) : zmi_read_int(r, "bits", 1, 32);
  const int field = (int)strlen(r->prefix) - 1; // without the point at its end
  if (r->status == ZM_OK && zmi_format_check(f) != ZM_OK) r->status = zmi_fail_within("%s: %.*s", r->file, field, r->prefix);
}

static zm_status add_override(zmi_config *c, const char *name, bool quantized, const zmi_format *format) {
  if (!c->override_index && !(c->override_index = zmi_map_new())) return ZM_ERROR_MEMORY;
  if (!ZMI_GROW(c->overrides, c->override_capacity, c->override_count + 1)) return ZM_ERROR_MEMORY;
  char *copy = zmi_strdup(name);
  if (!copy) return ZM_ERROR_MEMORY;
  c->overrides[c->override_count] = (zmi_override){.name = copy, .quantized = quantized, .format = *format};
  c->override_count++; // before the index, so that release finds the copy
  return zmi_map_put(c->override_index, name, strlen(name), (int64_t)c->override_count - 1) ? ZM_OK : ZM_ERROR_MEMORY;
}

// key: of the object that holds the exception.
static void read_override(zmi_reader *r, zmi_config *c, const char *key, const char *name, const json_t *value) {
  zmi_format format = c->format;
  if (json_is_object(value)) {
    char prefix[160];
    snprintf(prefix, sizeof prefix, "%s[\"%.120s\"].", key, name);
    zmi_reader inner = {.object = value, .file = r->file, .prefix = prefix, .status = r->status};
    read_format(&inner, &format, true);
    r->status = inner.status;
  }
  if (r->status == ZM_OK) r->status = add_override(c, name, !json_is_false(value), &format);
}

static void read_quantization(zmi_reader *r, zmi_config *c) {
  const char *key = "quantization";
  const json_t *q = zmi_read_object_or_null(r, key);
  if (!q) {
    key = "quantization_config";
    q = zmi_read_object_or_null(r, key);
    zmi_reader legacy = {.object = q, .file = r->file, .prefix = "quantization_config.", .status = r->status};
    if (q && zmi_read_has(&legacy, "quant_method")) {
      zmi_read_fail(&legacy, ZM_ERROR_UNSUPPORTED, "quant_method",
                    "\"%.40s\" is not supported; convert the checkpoint to a quantization of MLX",
                    zmi_read_text_or(&legacy, "quant_method", "?"));
      r->status = legacy.status;
      return;
    }
  }
  if (!q || r->status != ZM_OK) return;
  char prefix[32];
  snprintf(prefix, sizeof prefix, "%s.", key);
  zmi_reader inner = {.object = q, .file = r->file, .prefix = prefix, .status = r->status};
  read_format(&inner, &c->format, false);
  r->status = inner.status;
  c->quantized = true;
  const char *name;
  const json_t *value;
  for (void *it = json_object_iter((json_t *)(uintptr_t)q); it && r->status == ZM_OK;
       it = json_object_iter_next((json_t *)(uintptr_t)q, it)) {
    name = json_object_iter_key(it);
    value = json_object_iter_value(it);
    if (json_is_object(value) || json_is_boolean(value)) read_override(r, c, key, name, value);
  }
}

// ---- the rest ----

static void read_dtype(zmi_reader *r, zmi_config *c) {
  const char *name = zmi_read_text_or(r, zmi_read_has(r, "dtype") ? "dtype" : "torch_dtype", "bfloat16");
  const zm_dtype dtype = zm_dtype_from_name(name);
  c->stored = dtype == ZM_F16 || dtype == ZM_F32 ? dtype : ZM_BF16;
}

// eos_token_id: one id or a list. Missing leaves what is known.
static void read_eos(zmi_reader *r, zmi_config *c) {
  const json_t *value = json_object_get(r->object, "eos_token_id");
  if (!value || json_is_null(value) || r->status != ZM_OK) return;
  const bool list = json_is_array(value);
  const size_t count = list ? json_array_size(value) : 1;
  if (count > MOST_EOS) {
    zmi_read_fail(r, ZM_ERROR_FORMAT, "eos_token_id", "has %zu entries; at most %d are allowed", count, MOST_EOS);
    return;
  }
  int32_t *ids = zmi_malloc((count ? count : 1) * sizeof *ids);
  if (!ids) {
    r->status = ZM_ERROR_MEMORY;
    return;
  }
  for (size_t i = 0; i < count; i++)
    ids[i] = (int32_t)(list ? zmi_read_item_int(r, "eos_token_id", value, i, 0, c->vocab - 1)
                            : zmi_read_int(r, "eos_token_id", 0, c->vocab - 1));
  zmi_free(c->eos);
  c->eos = ids;
  c->eos_count = count;
}

static zm_status parse_object(const char *text, size_t size, const char *file, json_t **root) {
  json_error_t error;
  errno = 0;
  *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
  if (!*root && errno == ENOMEM) // jansson itself then names any error that its state suggests
    return zmi_fail(ZM_ERROR_MEMORY, "out of memory while reading %s", file);
  if (!*root) return zmi_fail(ZM_ERROR_FORMAT, "%s: line %d, column %d: %s", file, error.line, error.column, error.text);
  if (json_is_object(*root)) return ZM_OK;
  json_decref(*root);
  *root = NULL;
  return zmi_fail(ZM_ERROR_FORMAT, "%s: expected a JSON object at the top", file);
}

zm_status zmi_config_parse(const char *text, size_t size, const char *file, zmi_config *config) {
  *config = (zmi_config){.expert_scale = 1.0};
  json_t *root;
  zm_status status = parse_object(text, size, file, &root);
  if (status != ZM_OK) return status;
  zmi_reader r = {.object = root, .file = file, .prefix = ""};
  const char *type = zmi_read_text_or(&r, "model_type", NULL);
  if (!type) zmi_read_fail(&r, ZM_ERROR_FORMAT, "model_type", "is missing");
  if (r.status == ZM_OK && !(config->family = zmi_family_find(type))) {
    zmi_text known = {0};
    for (size_t i = 0; i < zmi_family_count(); i++) zmi_text_add(&known, "%s%s", i ? ", " : "", zmi_family_name(i));
    zmi_read_fail(&r, ZM_ERROR_UNSUPPORTED, "model_type", "\"%.60s\" is not supported (supported: %s)", type, zmi_text_str(&known));
    zmi_text_release(&known);
  }
  if (r.status == ZM_OK) config->family->parse(&r, config);
  if (r.status == ZM_OK) read_quantization(&r, config);
  if (r.status == ZM_OK && zmi_read_bool_or(&r, "quantize_activations", false))
    zmi_read_fail(&r, ZM_ERROR_UNSUPPORTED, "quantize_activations", "is not supported");
  read_dtype(&r, config);
  read_eos(&r, config);
  json_decref(root);
  return r.status;
}

zm_status zmi_config_parse_generation(const char *text, size_t size, const char *file, zmi_config *config) {
  json_t *root;
  zm_status status = parse_object(text, size, file, &root);
  if (status != ZM_OK) return status;
  zmi_reader r = {.object = root, .file = file, .prefix = ""};
  read_eos(&r, config);
  json_decref(root);
  return r.status;
}

zm_status zmi_config_read(const char *folder, zmi_config *config) {
  *config = (zmi_config){0};
  char *text = NULL;
  size_t size = 0;
  char *path = zmi_path_join(folder, "config.json");
  if (!path) return ZM_ERROR_MEMORY;
  zm_status status = zmi_read_file(path, MOST_CONFIG_BYTES, &text, &size);
  if (status == ZM_OK) status = zmi_config_parse(text, size, path, config);
  zmi_free(text);
  zmi_free(path);
  if (status != ZM_OK) return status;

  path = zmi_path_join(folder, "generation_config.json");
  if (!path) return ZM_ERROR_MEMORY;
  text = NULL;
  if (zmi_path_exists(path)) {
    status = zmi_read_file(path, MOST_CONFIG_BYTES, &text, &size);
    if (status == ZM_OK) status = zmi_config_parse_generation(text, size, path, config);
  }
  zmi_free(text);
  zmi_free(path);
  return status;
}

// ---- rotary embedding ----

void zmi_config_inv_freq(const zmi_config *config, float *inv_freq) {
  const zmi_rope_config *rope = &config->rope;
  const int32_t half = config->head_dim / 2;
  const double two_pi = 6.283185307179586476925;
  for (int32_t i = 0; i < half; i++) {
    const double period = zmi_pow(rope->theta, (double)i / half); // positions of one radian
    double scaled = period;
    if (rope->kind == ZMI_ROPE_LINEAR) scaled = period * rope->factor;
    if (rope->kind == ZMI_ROPE_LLAMA3) {
      const double turns = rope->original / (two_pi * period); // full turns within the original context
      if (turns < rope->low_factor)
        scaled = period * rope->factor;
      else if (turns < rope->high_factor) {
        const double smooth = (turns - rope->low_factor) / (rope->high_factor - rope->low_factor);
        scaled = period / ((1 - smooth) / rope->factor + smooth);
      }
    }
    inv_freq[i] = (float)(1.0 / scaled);
  }
}
