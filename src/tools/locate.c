// Finds where two programs of the same step part: results of the patched tape are looked up, by a hash of their bytes, among those of the
// stock tape.
#include "tools/tools.h"

#include <string.h>

typedef struct seen {
  uint64_t *hashes; // of the stock tape's results
  size_t count, capacity;
  bool failed;
  char *place; // of the first result that is not among them
} seen;

static uint64_t hash_slot(const zmi_slot *s) {
  size_t bytes = 0;
  zmi_type_bytes(&s->type, &bytes); // checked when the tape was made
  const unsigned char *p = s->data;
  uint64_t h = 0xcbf29ce484222325u ^ bytes;
  for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}

static void remember(void *user, const zmi_tape *t, size_t index) {
  seen *s = user;
  const zmi_instr *in = &t->instrs[index];
  for (int o = 0; o < in->nout && !s->failed; o++) {
    if (!ZMI_GROW(s->hashes, s->capacity, s->count + 1))
      s->failed = true;
    else
      s->hashes[s->count++] = hash_slot(&t->slots[in->out[o]]);
  }
}

static bool among(const seen *s, uint64_t hash) {
  for (size_t i = 0; i < s->count; i++) {
    if (s->hashes[i] == hash) return true;
  }
  return false;
}

static void look_up(void *user, const zmi_tape *t, size_t index) {
  seen *s = user;
  const zmi_instr *in = &t->instrs[index];
  for (int o = 0; o < in->nout && !s->place && !s->failed; o++) {
    if (among(s, hash_slot(&t->slots[in->out[o]]))) continue;
    zmi_text text = {0};
    zmi_text_add(&text, "%s (%s)", in->label ? in->label : "the model", in->op->name);
    s->place = text.failed ? NULL : zmi_strdup(zmi_text_str(&text));
    s->failed = !s->place;
    zmi_text_release(&text);
  }
}

static void set_input(zmi_program *p, const char *name, int32_t row, int32_t value) {
  int32_t *slot = zmi_program_slot(p, name);
  if (slot) slot[row] = value;
}

void zmi_program_set_row(zmi_program *p, int32_t row, int32_t token, int32_t position, int32_t sequence) {
  set_input(p, "tokens", row, token);
  set_input(p, "position", row, position);
  set_input(p, "sequence", row, sequence);
  set_input(p, "select", row, row);
}

// Traces one row. The states are put back afterwards from `saved`.
static zm_status trace(zm_session *s, bool stock, int32_t sequence, int32_t token, void (*look)(void *, const zmi_tape *, size_t),
                       seen *found) {
  zm_model *m = zmi_session_model(s);
  zmi_program *p = zmi_model_compile(m, 1, 1, zmi_session_states(s), &(zmi_model_program_options){.stock = stock});
  if (!p) return zm_last_status();
  zmi_program_set_row(p, 0, token, zm_session_length(s, sequence), sequence);
  zmi_player_trace(zmi_program_player(p), zmi_model_pool(m), look, found);
  zmi_program_free(p);
  return found->failed ? ZM_ERROR_MEMORY : ZM_OK;
}

static size_t copy_states(const zmi_state_set *set, char *memory, bool save) {
  size_t at = 0, bytes = 0;
  for (size_t i = 0; i < set->count; i++) {
    zmi_type_bytes(&set->slots[i].type, &bytes);
    if (memory && save)
      memcpy(memory + at, set->slots[i].data, bytes);
    else if (memory)
      memcpy(set->slots[i].data, memory + at, bytes);
    at += bytes;
  }
  return at;
}

zm_status zmi_locate_difference(zm_session *s, zmi_patterns patterns, int32_t sequence, int32_t stock_token, int32_t patched_token,
                                char **place) {
  *place = NULL;
  zm_model *m = zmi_session_model(s);
  const zmi_state_set *set = zmi_session_states(s);
  char *saved = zmi_malloc(copy_states(set, NULL, true) + 1);
  if (!saved) return ZM_ERROR_MEMORY;
  zmi_patterns before = zmi_model_patterns(m);
  zmi_model_set_patterns(m, patterns);
  zmi_model_lock(m);
  copy_states(set, saved, true);
  seen found = {0};
  zm_status status = trace(s, true, sequence, stock_token, remember, &found);
  copy_states(set, saved, false);
  if (status == ZM_OK) status = trace(s, false, sequence, patched_token, look_up, &found);
  copy_states(set, saved, false);
  zmi_model_unlock(m);
  zmi_model_set_patterns(m, before);
  zmi_free(saved);
  zmi_free(found.hashes);
  if (status == ZM_OK)
    *place = found.place;
  else
    zmi_free(found.place);
  return status;
}
