// Strict, typed reading of the fields of a JSON object, with messages that name file, field and value.
#include "models/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// A value as it stands in the file, short enough for a sentence.
static const char *value_text(const json_t *value, char buffer[64]) {
  if (!value) return "nothing";
  if (json_is_object(value)) return "an object";
  if (json_is_array(value)) return "a list";
  char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
  if (!text) return "a value";
  snprintf(buffer, 64, "%.48s%s", text, strlen(text) > 48 ? "..." : "");
  free(text);
  return buffer;
}

void zmi_read_fail(zmi_reader *r, zm_status status, const char *field, const char *format, ...) {
  if (r->status != ZM_OK) return;
  char rest[512];
  va_list list;
  va_start(list, format);
  vsnprintf(rest, sizeof rest, format, list);
  va_end(list);
  r->status = zmi_fail(status, "%s: %s%s %s", r->file, r->prefix, field, rest);
}

// The value of a field; NULL if it is missing or null.
static const json_t *get(const zmi_reader *r, const char *field) {
  const json_t *value = json_object_get(r->object, field);
  return json_is_null(value) ? NULL : value;
}

bool zmi_read_has(const zmi_reader *r, const char *field) {
  return get(r, field) != NULL;
}

static void missing(zmi_reader *r, const char *field) {
  zmi_read_fail(r, ZM_ERROR_FORMAT, field, "is missing");
}

static int64_t int_value(zmi_reader *r, const char *field, const json_t *value, int64_t low, int64_t high) {
  char buffer[64];
  if (json_is_integer(value) && json_integer_value(value) >= low && json_integer_value(value) <= high) return json_integer_value(value);
  zmi_read_fail(r, ZM_ERROR_FORMAT, field, "must be a whole number from %lld to %lld, found %s", (long long)low, (long long)high,
                value_text(value, buffer));
  return low;
}

int64_t zmi_read_int_or(zmi_reader *r, const char *field, int64_t fallback, int64_t low, int64_t high) {
  const json_t *value = get(r, field);
  return value ? int_value(r, field, value, low, high) : fallback;
}

int64_t zmi_read_int(zmi_reader *r, const char *field, int64_t low, int64_t high) {
  if (!zmi_read_has(r, field)) missing(r, field);
  return zmi_read_int_or(r, field, low, low, high);
}

double zmi_read_number_or(zmi_reader *r, const char *field, double fallback, double low, double high) {
  const json_t *value = get(r, field);
  if (!value) return fallback;
  double x = json_number_value(value);
  if (json_is_number(value) && x >= low && x <= high) return x;
  char buffer[64];
  zmi_read_fail(r, ZM_ERROR_FORMAT, field, "must be a number from %g to %g, found %s", low, high, value_text(value, buffer));
  return low;
}

double zmi_read_number(zmi_reader *r, const char *field, double low, double high) {
  if (!zmi_read_has(r, field)) missing(r, field);
  return zmi_read_number_or(r, field, low, low, high);
}

bool zmi_read_bool_or(zmi_reader *r, const char *field, bool fallback) {
  const json_t *value = get(r, field);
  if (!value) return fallback;
  char buffer[64];
  if (!json_is_boolean(value)) zmi_read_fail(r, ZM_ERROR_FORMAT, field, "must be true or false, found %s", value_text(value, buffer));
  return json_is_true(value);
}

bool zmi_read_bool(zmi_reader *r, const char *field) {
  if (!zmi_read_has(r, field)) missing(r, field);
  return zmi_read_bool_or(r, field, false);
}

const char *zmi_read_text_or(zmi_reader *r, const char *field, const char *fallback) {
  const json_t *value = get(r, field);
  if (!value) return fallback;
  char buffer[64];
  if (json_is_string(value)) return json_string_value(value);
  zmi_read_fail(r, ZM_ERROR_FORMAT, field, "must be a string, found %s", value_text(value, buffer));
  return fallback;
}

const json_t *zmi_read_array_or_null(zmi_reader *r, const char *field, int64_t length) {
  const json_t *value = get(r, field);
  if (!value) return NULL;
  char buffer[64];
  if (!json_is_array(value)) {
    zmi_read_fail(r, ZM_ERROR_FORMAT, field, "must be a list, found %s", value_text(value, buffer));
    return NULL;
  }
  if (length >= 0 && json_array_size(value) != (size_t)length) {
    zmi_read_fail(r, ZM_ERROR_FORMAT, field, "must have %lld entries, found %zu", (long long)length, json_array_size(value));
    return NULL;
  }
  return value;
}

const json_t *zmi_read_object_or_null(zmi_reader *r, const char *field) {
  const json_t *value = get(r, field);
  char buffer[64];
  if (!value || json_is_object(value)) return value;
  zmi_read_fail(r, ZM_ERROR_FORMAT, field, "must be an object, found %s", value_text(value, buffer));
  return NULL;
}

int64_t zmi_read_item_int(zmi_reader *r, const char *field, const json_t *array, size_t i, int64_t low, int64_t high) {
  char name[128];
  snprintf(name, sizeof name, "%.96s[%zu]", field, i);
  return int_value(r, name, json_array_get(array, i), low, high);
}

const char *zmi_read_item_text(zmi_reader *r, const char *field, const json_t *array, size_t i) {
  const json_t *value = json_array_get(array, i);
  char buffer[64];
  if (json_is_string(value)) return json_string_value(value);
  zmi_read_fail(r, ZM_ERROR_FORMAT, field, "[%zu] must be a string, found %s", i, value_text(value, buffer));
  return NULL;
}

// ---- fields that families share ----

void zmi_read_sizes(zmi_reader *r, zmi_config *c, const char *eps_field) {
  c->hidden = (int32_t)zmi_read_int(r, "hidden_size", 1, ZMI_MOST_WIDTH);
  c->layers = (int32_t)zmi_read_int(r, "num_hidden_layers", 1, ZMI_MOST_LAYERS);
  c->vocab = (int32_t)zmi_read_int(r, "vocab_size", 1, ZMI_MOST_VOCAB);
  c->context = (int32_t)zmi_read_int_or(r, "max_position_embeddings", 2048, 1, ZMI_MOST_CONTEXT);
  c->eps = zmi_read_number(r, eps_field, 1e-30, 1.0);
  if (r->status == ZM_OK && !(c->kinds = zmi_calloc((size_t)c->layers, 1))) r->status = ZM_ERROR_MEMORY;
}

void zmi_read_heads(zmi_reader *r, zmi_config *c, bool own_head_dim) {
  c->heads = (int32_t)zmi_read_int(r, "num_attention_heads", 1, 1 << 14);
  c->kv_heads = (int32_t)zmi_read_int_or(r, "num_key_value_heads", c->heads, 1, c->heads);
  if (c->heads % c->kv_heads != 0)
    zmi_read_fail(r, ZM_ERROR_FORMAT, "num_key_value_heads", "(%d) must divide num_attention_heads (%d)", c->kv_heads, c->heads);
  if (own_head_dim && zmi_read_has(r, "head_dim")) {
    c->head_dim = (int32_t)zmi_read_int(r, "head_dim", 2, 1 << 14);
  } else {
    c->head_dim = c->hidden / c->heads;
    if (c->hidden % c->heads != 0)
      zmi_read_fail(r, ZM_ERROR_FORMAT, "num_attention_heads", "(%d) must divide hidden_size (%d)", c->heads, c->hidden);
  }
  if (c->head_dim % 2 != 0) zmi_read_fail(r, ZM_ERROR_FORMAT, "head_dim", "must be even, found %d", c->head_dim);
}

static const char *const rope_kinds[] = {[ZMI_ROPE_DEFAULT] = "default", [ZMI_ROPE_LINEAR] = "linear", [ZMI_ROPE_LLAMA3] = "llama3"};

static void read_rope_scaling(zmi_reader *s, zmi_rope_config *rope) {
  const char *field = zmi_read_has(s, "rope_type") ? "rope_type" : "type";
  const char *name = zmi_read_text_or(s, field, "default");
  size_t kind = 0;
  while (kind < ZMI_COUNT(rope_kinds) && strcmp(name, rope_kinds[kind]) != 0) kind++;
  if (kind == ZMI_COUNT(rope_kinds)) {
    zmi_read_fail(s, ZM_ERROR_UNSUPPORTED, field, "\"%.40s\" is not supported (supported: default, linear, llama3)", name);
    return;
  }
  rope->kind = (int64_t)kind;
  if (kind != ZMI_ROPE_DEFAULT) rope->factor = zmi_read_number(s, "factor", 1e-3, 1e6);
  if (kind == ZMI_ROPE_LLAMA3) {
    rope->low_factor = zmi_read_number_or(s, "low_freq_factor", 1.0, 1e-3, 1e6);
    rope->high_factor = zmi_read_number_or(s, "high_freq_factor", 4.0, 1e-3, 1e6);
    rope->original = (double)zmi_read_int_or(s, "original_max_position_embeddings", 8192, 1, ZMI_MOST_CONTEXT);
    if (rope->high_factor <= rope->low_factor)
      zmi_read_fail(s, ZM_ERROR_FORMAT, "high_freq_factor", "(%g) must be above low_freq_factor (%g)", rope->high_factor, rope->low_factor);
  }
}

// The base and the scaling of rotary embedding stand at the top level (rope_theta, rope_scaling) or together in rope_parameters.
void zmi_read_rope(zmi_reader *r, zmi_config *c, double default_theta) {
  c->rope = (zmi_rope_config){.kind = ZMI_ROPE_DEFAULT, .factor = 1.0};
  c->rope.traditional = zmi_read_bool_or(r, "rope_traditional", false);
  const json_t *parameters = zmi_read_object_or_null(r, "rope_parameters");
  zmi_reader inner = {.object = parameters, .file = r->file, .prefix = "rope_parameters.", .status = r->status};
  const bool nested = parameters && zmi_read_has(&inner, "rope_theta");
  if (!nested && default_theta == 0 && !zmi_read_has(r, "rope_theta")) missing(r, "rope_theta");
  c->rope.theta = zmi_read_number_or(nested && !zmi_read_has(r, "rope_theta") ? &inner : r, "rope_theta", default_theta, 1.0, 1e15);
  const json_t *scaling = zmi_read_object_or_null(r, "rope_scaling");
  if (scaling) {
    inner.object = scaling;
    inner.prefix = "rope_scaling.";
  }
  if (inner.status == ZM_OK) inner.status = r->status;
  if (inner.object && json_object_size(inner.object) > 0) read_rope_scaling(&inner, &c->rope);
  if (r->status == ZM_OK) r->status = inner.status;
}

// Attention here always sees the whole context. That is exact as long as the context is no longer than the window.
void zmi_read_window(zmi_reader *r, zmi_config *c) {
  const json_t *types = zmi_read_array_or_null(r, "layer_types", c->layers);
  bool sliding = types == NULL;
  for (size_t i = 0; i < json_array_size(types); i++) {
    const char *type = zmi_read_item_text(r, "layer_types", types, i);
    if (!type) return;
    if (strcmp(type, "sliding_attention") == 0)
      sliding = true;
    else if (strcmp(type, "full_attention") != 0) {
      zmi_read_fail(r, ZM_ERROR_UNSUPPORTED, "layer_types", "[%zu] is \"%.40s\", which this family does not have", i, type);
      return;
    }
  }
  if (!sliding || !zmi_read_has(r, "sliding_window") || !zmi_read_bool_or(r, "use_sliding_window", true)) return;
  const int32_t window = (int32_t)zmi_read_int(r, "sliding_window", 1, ZMI_MOST_CONTEXT);
  c->context = ZMI_MIN(c->context, window);
}

void zmi_read_activation(zmi_reader *r) {
  const char *name = zmi_read_text_or(r, "hidden_act", "silu");
  if (strcmp(name, "silu") != 0 && strcmp(name, "swish") != 0)
    zmi_read_fail(r, ZM_ERROR_UNSUPPORTED, "hidden_act", "\"%.40s\" is not supported (supported: silu)", name);
}

void zmi_read_layer_types(zmi_reader *r, zmi_config *c) {
  if (r->status != ZM_OK) return;
  const json_t *indices = zmi_read_array_or_null(r, "full_attn_idxs", -1);
  const json_t *types = indices ? NULL : zmi_read_array_or_null(r, "layer_types", c->layers);
  if (!indices && !types) missing(r, "layer_types");
  bool attention = false;
  for (int32_t i = 0; i < c->layers && r->status == ZM_OK; i++) {
    if (indices) {
      c->kinds[i] |= ZMI_LAYER_CONV;
      continue;
    }
    const char *type = zmi_read_item_text(r, "layer_types", types, (size_t)i);
    if (!type) return;
    if (strcmp(type, "conv") == 0)
      c->kinds[i] |= ZMI_LAYER_CONV;
    else if (strcmp(type, "full_attention") == 0)
      attention = true;
    else
      zmi_read_fail(r, ZM_ERROR_UNSUPPORTED, "layer_types", "[%d] is \"%.40s\" (supported: conv, full_attention)", i, type);
  }
  for (size_t i = 0; i < json_array_size(indices) && r->status == ZM_OK; i++) {
    c->kinds[zmi_read_item_int(r, "full_attn_idxs", indices, i, 0, c->layers - 1)] &= (unsigned char)~ZMI_LAYER_CONV;
    attention = true;
  }
  if (r->status == ZM_OK && !attention)
    zmi_read_fail(r, ZM_ERROR_UNSUPPORTED, "layer_types", "must name at least one full_attention layer");
}
