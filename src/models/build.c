// The builder that families talk to: names, labels, weights from a source, states from a session, and the sums that plans are made of.
#include "models/build.h"
#include "models/family.h"

#include <stdio.h>
#include <string.h>

void zmi_build_place(zmi_build *b, const char *format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(b->place, sizeof b->place, format, list);
  va_end(list);
  zmi_build_label(b, b->place);
}

void zmi_build_label(zmi_build *b, const char *label) {
  if (zmi_set_label(label ? "%s" : NULL, label) != ZM_OK) b->failed = true;
}

static void full_name(const zmi_build *b, const char *name, char out[ZMI_NAME]) {
  snprintf(out, ZMI_NAME, "%s%s%s", b->place, b->place[0] ? "." : "", name);
}

static zmi_matrix wanted_matrix(zmi_build *b, zmi_want *want, const char *name, double active) {
  zmi_matrix m = {.n = want->n, .k = want->k, .experts = want->experts};
  full_name(b, name, want->name);
  zmi_held held = {0};
  if (!b->failed) b->failed = b->source->matrix(b->source->self, want, &held) != ZM_OK;
  if (b->failed) return m;
  m.format = held.format;
  m.format.digits = b->activations == ZM_ACTIVATIONS_INT8 && zmi_format_takes_digits(&m.format);
  char weight_name[ZMI_NAME + 16];
  snprintf(weight_name, sizeof weight_name, "%s.weight", want->name);
  const zmi_type type = zmi_type_of(ZM_U8, 1, &(int64_t){(int64_t)held.bytes});
  m.packed = zmi_weight(weight_name, &type, held.packed);
  uint64_t bytes = held.bytes;
  if (want->bias) {
    const zmi_type bias_type = zmi_type_of(held.bias_dtype, 1, &want->n);
    snprintf(weight_name, sizeof weight_name, "%s.bias", want->name);
    m.bias = zmi_weight(weight_name, &bias_type, held.bias);
    if (!m.bias) m.packed = NULL; // an absent bias is legal, so its failure must show elsewhere
    bytes += (uint64_t)want->n * zm_dtype_size(held.bias_dtype);
  }
  b->weight_bytes += bytes;
  b->token_bytes += (uint64_t)((double)bytes * active);
  if (zmi_format_takes_digits(&m.format)) b->token_products += (double)want->n * (double)want->k * (double)want->experts * active;
  b->largest_bytes = ZMI_MAX(b->largest_bytes, bytes);
  return m;
}

zmi_matrix zmi_build_matrix(zmi_build *b, const char *name, int64_t n, int64_t k, bool bias) {
  zmi_want want = {.n = n, .k = k, .experts = 1, .bias = bias};
  return wanted_matrix(b, &want, name, 1.0);
}

zmi_matrix zmi_build_experts(zmi_build *b, const char *name, int64_t n, int64_t k) {
  const zmi_config *c = b->config;
  zmi_want want = {.n = n, .k = k, .experts = c->experts, .stacked = true};
  return wanted_matrix(b, &want, name, (double)c->top_k / c->experts);
}

zm_array *zmi_build_vector(zmi_build *b, const char *name, zm_dtype dtype, int rank, const int64_t *shape) {
  zmi_want want = {.dtype = dtype, .rank = rank};
  full_name(b, name, want.name);
  for (int i = 0; i < rank; i++) want.shape[i] = shape[i];
  zmi_held held = {0};
  if (!b->failed) b->failed = b->source->vector(b->source->self, &want, &held) != ZM_OK;
  if (b->failed) return NULL;
  b->weight_bytes += held.bytes;
  b->token_bytes += held.bytes;
  const zmi_type type = zmi_type_of(held.dtype, rank, shape);
  return zmi_weight(want.name, &type, held.data);
}

static zmi_state_slot *next_state(zmi_build *b, const char *name, const zmi_type *type) {
  zmi_state_set *set = b->states;
  if (b->list_states) {
    if (!ZMI_GROW(set->slots, set->capacity, set->count + 1)) return NULL;
    zmi_state_slot *slot = &set->slots[set->count++];
    *slot = (zmi_state_slot){.type = *type};
    snprintf(slot->name, sizeof slot->name, "%.95s", name);
    return slot;
  }
  if (b->state_next < set->count && strcmp(set->slots[b->state_next].name, name) == 0 &&
      zmi_type_equal(&set->slots[b->state_next].type, type))
    return &set->slots[b->state_next++];
  char want[128];
  zmi_fail(ZM_ERROR_ARGUMENT, "the states of the session do not fit the model: %s %s is expected as number %zu", name,
           zmi_type_text(type, want), b->state_next);
  return NULL;
}

zm_array *zmi_build_state(zmi_build *b, const char *name, int rank, const int64_t *shape) {
  char whole[ZMI_NAME];
  full_name(b, name, whole);
  const zmi_type type = zmi_type_of(b->dtype, rank, shape);
  const zmi_state_slot *slot = b->failed ? NULL : next_state(b, whole, &type);
  if (!slot) b->failed = true;
  return slot ? zmi_state(whole, &type, slot->data) : NULL;
}

static zm_array *input(const char *name, int64_t count) {
  const zmi_type type = zmi_type_of(ZM_I32, 1, &count);
  return zmi_input(name, &type);
}

zm_array *zmi_build_graph(zmi_build *b) {
  const zmi_config *c = b->config;
  b->place[0] = 0;
  b->state_next = 0;
  b->failed = false;
  b->token_products = 0;
  b->weight_bytes = b->token_bytes = b->largest_bytes = b->cache_bytes_per_token = 0;
  zmi_build_label(b, NULL);
  b->tokens = input("tokens", b->rows);
  b->position = input("position", b->rows);
  b->sequence = input("sequence", b->rows);
  b->select = b->selected > 0 ? input("select", b->selected) : NULL;
  if (!b->tokens || !b->position || !b->sequence || (b->selected > 0 && !b->select)) return NULL;

  zmi_build_label(b, "rope");
  const zmi_type type = zmi_type_of(ZM_F32, 1, &(int64_t){c->head_dim / 2});
  zm_array *inv_freq = zmi_weight("rope.inv_freq", &type, b->inv_freq);
  if (!inv_freq || zmi_rope_table(b->position, inv_freq, &b->cosine, &b->sine) != ZM_OK) return NULL;
  zm_array *out = c->family->build(b);
  zmi_build_label(b, NULL);
  return b->failed ? NULL : out;
}
