// The interpreter's threadgroups: the threads of a group are lanes that walk in lockstep, so barriers do nothing. Loads out of range give
// 0, stores out of range are dropped; threads store and add in rising order.
#include "kernel/interpret.h"

#include <string.h>

static int64_t place_at(const void *places, uint8_t type, int64_t lane) {
  if (type == ZMI_LANE_LONG || type == ZMI_LANE_ULONG) return ((const int64_t *)places)[lane];
  int32_t v = ((const int32_t *)places)[lane];
  return type == ZMI_LANE_UINT ? (int64_t)(uint32_t)v : v;
}

static bool takes_part(const zmi_play *s, int64_t lane) {
  return !s->mask || s->mask[lane];
}

static void play_load(zmi_play *s, const zmi_step *t) {
  const zm_dtype dtype = (zm_dtype)s->p->in[t->x];
  const size_t size = zm_dtype_size(dtype), width = t->wide ? 8 : 4;
  const int64_t count = zmi_type_count(&s->launch->in_type[t->x]);
  const char *from = s->in[t->x];
  char raw[64 * 8], *to = s->at[t->out];
  int64_t place[64];
  for (int64_t i = 0; i < s->n; i += 64) {
    int64_t n = ZMI_MIN(s->n - i, 64);
    for (int64_t j = 0; j < n; j++) place[j] = place_at(s->at[t->a], (uint8_t)t->y, i + j);
    memset(raw, 0, sizeof raw);
    for (int64_t j = 0; j < n; j++) {
      if (place[j] >= 0 && place[j] < count) memcpy(raw + j * (int64_t)size, from + place[j] * (int64_t)size, size);
    }
    s->l->load[dtype](n, to + (size_t)i * width, raw, NULL, NULL);
  }
}

static void play_store(zmi_play *s, const zmi_step *t) {
  const zm_dtype dtype = (zm_dtype)s->p->out[t->x];
  const size_t size = zm_dtype_size(dtype), width = t->wide ? 8 : 4;
  const int64_t count = zmi_type_count(&s->launch->out_type[t->x]);
  const char *from = s->at[t->b];
  char raw[64 * 8], *to = s->out[t->x];
  for (int64_t i = 0; i < s->n; i += 64) {
    int64_t n = ZMI_MIN(s->n - i, 64);
    s->l->store[dtype][t->type](n, raw, from + (size_t)i * width, NULL, NULL);
    for (int64_t j = 0; j < n; j++) {
      int64_t place = place_at(s->at[t->a], (uint8_t)t->y, i + j);
      if (takes_part(s, i + j) && place >= 0 && place < count) memcpy(to + place * (int64_t)size, raw + j * (int64_t)size, size);
    }
  }
}

// Adds in the dtype of the memory: widened, added, rounded.
static void play_atomic(zmi_play *s, const zmi_step *t) {
  const zm_dtype dtype = (zm_dtype)s->p->out[t->x];
  const size_t size = zm_dtype_size(dtype), width = t->wide ? 8 : 4;
  const int64_t count = zmi_type_count(&s->launch->out_type[t->x]);
  const char *from = s->at[t->b];
  for (int64_t i = 0; i < s->n; i++) {
    int64_t place = place_at(s->at[t->a], (uint8_t)t->y, i);
    if (!takes_part(s, i) || place < 0 || place >= count) continue;
    char *at = (char *)s->out[t->x] + place * (int64_t)size;
    uint64_t value = 0;
    s->l->load[dtype](1, &value, at, NULL, NULL);
    s->l->loop[ZMI_LANE_ADD][t->type](1, &value, &value, from + (size_t)i * width, NULL);
    s->l->store[dtype][t->type](1, at, &value, NULL, NULL);
  }
}

static void play_shared(zmi_play *s, const zmi_step *t) {
  const size_t width = t->wide ? 8 : 4;
  char *memory = s->shared + t->x;
  for (int64_t i = 0; i < s->n; i++) {
    int64_t place = place_at(s->at[t->a], (uint8_t)t->y, i);
    bool inside = place >= 0 && place < t->imm;
    if (t->flag) place = place * ZMI_INTERPRET_THREADS + i;
    if (t->kind == ZMI_ST_SHARED_LOAD) {
      char *to = (char *)s->at[t->out] + (size_t)i * width;
      if (inside)
        memcpy(to, memory + (size_t)place * width, width);
      else
        memset(to, 0, width);
    } else if (inside && takes_part(s, i)) {
      memcpy(memory + (size_t)place * width, (const char *)s->at[t->b] + (size_t)i * width, width);
    }
  }
}

void zmi_play_memory(zmi_play *s, const zmi_step *t) {
  switch ((zmi_step_kind)t->kind) {
  case ZMI_ST_LOAD:
    play_load(s, t);
    break;
  case ZMI_ST_STORE:
    play_store(s, t);
    break;
  case ZMI_ST_ATOMIC:
    play_atomic(s, t);
    break;
  default:
    play_shared(s, t);
  }
}

// s->row and s->rows: the first group and the end.
static void play_groups(zmi_play *s) {
  const int64_t count = (int64_t)s->p->count, prologue = (int64_t)s->p->prologue;
  s->n = s->launch->threads;
  zmi_play_steps(s, 0, prologue);
  for (s->group = s->row; s->group < s->rows; s->group++) {
    memset(s->shared, 0, s->p->shared_bytes);
    zmi_play_steps(s, prologue, count);
  }
}

zm_status zmi_routine_groups(const zmi_routine *p, const zmi_kernels *k, const zmi_launch *l, int64_t first, int64_t last) {
  if (l->threads < 1 || l->threads > ZMI_INTERPRET_THREADS) {
    return zmi_fail(ZM_ERROR_LIMIT, "%lld threads in a group: from 1 to %d can be interpreted", (long long)l->threads,
                    ZMI_INTERPRET_THREADS);
  }
  if (first >= last) return ZM_OK;
  zmi_play s = {.p = p, .l = k->lanes, .in = l->in, .out = l->out, .params = l->params, .launch = l, .row = first, .rows = last};
  return zmi_play_with_scratch(&s, l->threads, play_groups);
}
