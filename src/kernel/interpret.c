// The interpreter: plays the steps of a program over chunks of lanes. It is the reference of every emitter, and what runs where there is no
// compiler. Nothing is allocated while it plays: slots stand on the stack.
#include "kernel/interpret.h"

#include <string.h>

enum { ALIGN = 64 };

static size_t aligned(size_t bytes) {
  return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

// ---- scratch ----

void *zmi_slot_memory(const zmi_play *s, int32_t slot) {
  return s->memory + (size_t)s->p->offset[slot] * (size_t)s->lanes + (size_t)slot * ALIGN; // apart, so that slots do not share cache sets
}

size_t zmi_play_bytes(const zmi_routine *p, int64_t lanes) {
  size_t bytes = aligned(p->slots * sizeof(void *)) + p->slots * ALIGN + p->lane_bytes * (size_t)lanes + aligned(p->shared_bytes);
  for (size_t i = 0; i < p->fold_count; i++) bytes += zmi_fold_bytes(&p->folds[i]);
  return bytes + ALIGN;
}

static void lay_out(zmi_play *s, int64_t lanes, char *scratch) {
  const zmi_routine *p = s->p;
  s->lanes = lanes;
  s->at = (void **)(void *)scratch;
  scratch += aligned(p->slots * sizeof(void *));
  s->folds = scratch;
  for (size_t i = 0; i < p->fold_count; i++) scratch += zmi_fold_bytes(&p->folds[i]);
  s->shared = scratch;
  s->memory = scratch + aligned(p->shared_bytes);
  for (size_t i = 0; i < p->slots; i++) s->at[i] = zmi_slot_memory(s, (int32_t)i);
}

__attribute__((noinline)) static void play_small(zmi_play *s, int64_t lanes, void (*play)(zmi_play *s)) {
  _Alignas(ALIGN) char scratch[ZMI_INTERPRET_SMALL];
  lay_out(s, lanes, scratch);
  play(s);
}

__attribute__((noinline)) static void play_big(zmi_play *s, int64_t lanes, void (*play)(zmi_play *s)) {
  _Alignas(ALIGN) char scratch[ZMI_INTERPRET_BIG];
  lay_out(s, lanes, scratch);
  play(s);
}

zm_status zmi_play_with_scratch(zmi_play *s, int64_t lanes, void (*play)(zmi_play *s)) {
  lanes = (lanes + 15) / 16 * 16;
  while (lanes > 16 && zmi_play_bytes(s->p, lanes) > ZMI_INTERPRET_BIG) lanes -= 16;
  if (zmi_play_bytes(s->p, lanes) <= ZMI_INTERPRET_SMALL)
    play_small(s, lanes, play);
  else
    play_big(s, lanes, play);
  return ZM_OK;
}

// Lanes of a chunk, so that its slots stay in the first-level cache.
static int64_t chunk_of(const zmi_routine *p, int64_t most) {
  int64_t lanes = ZMI_INTERPRET_CHUNK_BYTES / (int64_t)(p->lane_bytes ? p->lane_bytes : 1) / 16 * 16;
  lanes = ZMI_MAX(64, ZMI_MIN(lanes, 1024));
  return ZMI_MAX(1, ZMI_MIN(lanes, most));
}

// ---- values ----

static void fill(const zmi_play *s, const zmi_step *t, const void *value) {
  s->l->fill[t->wide](s->n, s->at[t->out], value, NULL, NULL);
}

static void fill_int(const zmi_play *s, const zmi_step *t, int64_t value) {
  int32_t v = (int32_t)(uint32_t)(uint64_t)value;
  fill(s, t, &v);
}

static void play_const(zmi_play *s, const zmi_step *t) {
  if (t->type == ZMI_LANE_BOOL)
    fill_int(s, t, t->imm != 0);
  else
    fill(s, t, &t->imm); // the low bytes: little endian, or a float at the start of the union
}

static void play_param(zmi_play *s, const zmi_step *t) {
  double v = s->params ? s->params[t->x] : 0.0;
  if (t->type == ZMI_LANE_FLOAT) {
    float f = (float)v;
    fill(s, t, &f);
    return;
  }
  int64_t i = v >= 0x1p63 ? INT64_MAX : v <= -0x1p63 ? INT64_MIN : v == v ? (int64_t)v : 0;
  uint64_t u = v >= 0x1p64 ? UINT64_MAX : v >= 0x1p63 ? (uint64_t)v : i > 0 ? (uint64_t)i : 0;
  switch (t->type) {
  case ZMI_LANE_BOOL:
    fill_int(s, t, v != 0.0);
    break;
  case ZMI_LANE_INT:
    fill_int(s, t, ZMI_MAX(INT32_MIN, ZMI_MIN(i, INT32_MAX)));
    break;
  case ZMI_LANE_UINT:
    fill_int(s, t, (int64_t)ZMI_MIN(u, UINT32_MAX));
    break;
  case ZMI_LANE_LONG:
    fill(s, t, &i);
    break;
  default:
    fill(s, t, &u);
  }
}

static void play_uniform(zmi_play *s, const zmi_step *t) {
  int64_t v = 0;
  switch (t->kind) {
  case ZMI_ST_LENGTH:
    v = s->d;
    break;
  case ZMI_ST_THREADS:
    v = s->launch->threads;
    break;
  case ZMI_ST_GROUPS:
    v = s->launch->groups;
    break;
  case ZMI_ST_GROUP:
    v = s->group;
    break;
  default: {
    const zmi_type *type = &s->launch->in_type[t->x];
    v = t->y >= 0 && t->y < type->rank ? type->shape[t->y] : 1;
  }
  }
  fill_int(s, t, v);
}

// ---- operands and results ----

static const char *element(const void *p, size_t size, int64_t i) {
  return (const char *)p + i * (int64_t)size;
}

// n elements `stride` apart, next to each other in `to`.
static void gather(const char *from, int64_t stride, size_t size, int64_t n, char *to) {
#define GATHER(T)                                                                                                                          \
  for (int64_t i = 0; i < n; i++) memcpy(to + i * (int64_t)sizeof(T), from + i * stride * (int64_t)sizeof(T), sizeof(T));
  if (size == 4) {
    GATHER(uint32_t)
  } else if (size == 2) {
    GATHER(uint16_t)
  } else if (size == 8) {
    GATHER(uint64_t)
  } else {
    GATHER(uint8_t)
  }
#undef GATHER
}

static void scatter(const char *from, int64_t stride, size_t size, int64_t n, char *to) {
  for (int64_t i = 0; i < n; i++) memcpy(to + i * stride * (int64_t)size, from + i * (int64_t)size, size);
}

// Elements `stride` apart from `from` on, into a slot: in pieces where they have to be gathered.
static void load(zmi_play *s, const zmi_step *t, const char *from, int64_t stride) {
  zm_dtype dtype = (zm_dtype)s->p->in[t->x];
  const size_t size = zm_dtype_size(dtype);
  char *to = zmi_slot_memory(s, t->out);
  const size_t width = t->wide ? 8 : 4;
  s->at[t->out] = to;
  if (stride == 1) {
    s->l->load[dtype](s->n, to, from, NULL, NULL);
    return;
  }
  if (stride == 0) {
    uint64_t one = 0;
    s->l->load[dtype](1, &one, from, NULL, NULL);
    s->l->fill[t->wide](s->n, to, &one, NULL, NULL);
    return;
  }
  char raw[64 * 8];
  for (int64_t i = 0; i < s->n; i += 64) {
    int64_t n = ZMI_MIN(s->n - i, 64);
    gather(from + i * stride * (int64_t)size, stride, size, n, raw);
    s->l->load[dtype](n, to + (size_t)i * width, raw, NULL, NULL);
  }
}

static void play_input(zmi_play *s, const zmi_step *t) {
  const size_t size = zm_dtype_size((zm_dtype)s->p->in[t->x]);
  const int64_t step = s->step[t->x];
  int64_t at = step * s->place, stride = step;
  if (s->row_stride) at += s->row * s->row_stride[t->x];
  if (s->p->form == ZMI_FORM_ROWS && (!s->inside || s->mode == ZMI_PLAY_ROWS)) { // a lane a row
    stride = s->row_stride[t->x];
    if (!s->inside) at = s->row * stride;
  }
  const char *from = element(s->in[t->x], size, at);
  if (t->flag && stride == 1 && s->apart)
    s->at[t->out] = (void *)(uintptr_t)from;
  else
    load(s, t, from, stride);
}

// Where the lanes at work of result x stand, `stride` apart.
static char *result_at(const zmi_play *s, int32_t x, int64_t *stride) {
  const size_t size = zm_dtype_size((zm_dtype)s->p->out[x]);
  int64_t at = s->place;
  *stride = 1;
  if (s->p->form == ZMI_FORM_ROWS) {
    at = s->inside ? s->row * s->d + s->place : s->row;
    if (s->inside && s->mode == ZMI_PLAY_ROWS) *stride = s->d;
  }
  return (char *)s->out[x] + at * (int64_t)size;
}

static void play_aim(zmi_play *s, const zmi_step *t) {
  int64_t stride;
  char *to = result_at(s, t->x, &stride);
  s->at[t->out] = stride == 1 && s->apart ? to : zmi_slot_memory(s, t->out);
}

static void play_output(zmi_play *s, const zmi_step *t) {
  zm_dtype dtype = (zm_dtype)s->p->out[t->x];
  const size_t size = zm_dtype_size(dtype), width = t->y == ZMI_LANE_LONG || t->y == ZMI_LANE_ULONG ? 8 : 4;
  int64_t stride;
  char *to = result_at(s, t->x, &stride), *from = s->at[t->a];
  if (t->flag && from == to) return; // computed in place
  zmi_loop store = s->l->store[dtype][t->y];
  if (stride == 1) {
    store(s->n, to, from, NULL, NULL);
    return;
  }
  char raw[64 * 8];
  for (int64_t i = 0; i < s->n; i += 64) {
    int64_t n = ZMI_MIN(s->n - i, 64);
    store(n, raw, from + (size_t)i * width, NULL, NULL);
    scatter(raw, stride, size, n, to + i * stride * (int64_t)size);
  }
}

static void play_set(zmi_play *s, const zmi_step *t) {
  void *to = s->at[t->out];
  const void *from = s->at[t->a];
  if (s->mask && !t->flag)
    s->l->choose[t->wide](s->n, to, s->mask, from, to);
  else if (to != from)
    s->l->copy[t->wide](s->n, to, from, NULL, NULL);
}

// ---- branches and loops: each gives the next step ----

static int64_t play_if(zmi_play *s, const zmi_step *t, int64_t next) {
  int32_t *mask = s->at[t->out];
  s->frames[s->depth++].mask = s->mask;
  int64_t count = s->l->mask(s->n, mask, s->at[t->a], s->mask, false);
  if (count == 0) return t->x;
  s->mask = count == s->n ? NULL : mask;
  return next;
}

static int64_t play_else(zmi_play *s, const zmi_step *t, int64_t next) {
  int32_t *mask = s->at[t->out];
  const int32_t *parent = s->frames[s->depth - 1].mask;
  int64_t count = s->l->mask(s->n, mask, s->at[t->a], parent, true);
  if (count == 0) return t->x;
  s->mask = count == s->n ? NULL : mask;
  return next;
}

static void set_counter(zmi_play *s, const zmi_step *t, int64_t value) {
  if (!t->flag) fill_int(s, t, value);
}

// Lanes that go on have their next counter; the others are out of the mask.
static int64_t count_on(zmi_play *s, const zmi_step *t, bool first) {
  int32_t *counter = s->at[t->out], *mask = s->at[t->y];
  const int32_t *from = s->at[t->a], *end = s->at[t->b], *step = s->at[t->c], *parent = s->frames[s->depth - 1].mask;
  int64_t count = 0;
  for (int64_t i = 0; i < s->n; i++) {
    int64_t next = first ? from[i] : (int64_t)counter[i] + step[i];
    bool on = (first ? !parent || parent[i] : mask[i] != 0) && next < end[i] && step[i] > 0;
    if (on) counter[i] = (int32_t)next;
    if (!on && first) counter[i] = from[i];
    mask[i] = on;
    count += on;
  }
  s->mask = count == s->n ? NULL : mask;
  return count;
}

static int64_t play_for(zmi_play *s, const zmi_step *t, int64_t next) {
  zmi_play_frame *f = &s->frames[s->depth++];
  f->mask = s->mask;
  if (t->y >= 0) {
    if (count_on(s, t, true)) return next;
  } else {
    f->counter = *(const int32_t *)s->at[t->a];
    f->end = *(const int32_t *)s->at[t->b];
    f->step = *(const int32_t *)s->at[t->c];
    if (f->counter < f->end && f->step > 0) {
      set_counter(s, t, f->counter);
      return next;
    }
  }
  s->mask = f->mask;
  s->depth--;
  return t->x;
}

static int64_t play_end_for(zmi_play *s, const zmi_step *t, int64_t next) {
  zmi_play_frame *f = &s->frames[s->depth - 1];
  if (t->y >= 0) {
    if (count_on(s, t, false)) return t->x;
  } else {
    f->counter += f->step;
    if (f->counter < f->end) {
      set_counter(s, t, f->counter);
      return t->x;
    }
  }
  s->mask = f->mask;
  s->depth--;
  return next;
}

// ---- the walk ----

static void play_other(zmi_play *s, const zmi_step *t) {
  switch ((zmi_step_kind)t->kind) {
  case ZMI_ST_CONST:
    play_const(s, t);
    break;
  case ZMI_ST_PARAM:
    play_param(s, t);
    break;
  case ZMI_ST_LENGTH:
  case ZMI_ST_THREADS:
  case ZMI_ST_GROUPS:
  case ZMI_ST_GROUP:
  case ZMI_ST_DIM:
    play_uniform(s, t);
    break;
  case ZMI_ST_PLACE:
    if (s->inside && s->mode == ZMI_PLAY_ROWS)
      fill_int(s, t, s->place);
    else
      s->l->places(s->n, s->at[t->out], s->place);
    break;
  case ZMI_ST_INPUT:
    play_input(s, t);
    break;
  case ZMI_ST_AIM:
    play_aim(s, t);
    break;
  case ZMI_ST_OUTPUT:
    play_output(s, t);
    break;
  case ZMI_ST_SET:
    play_set(s, t);
    break;
  case ZMI_ST_BLOCK:
    zmi_play_block(s, &s->p->blocks[t->x]);
    break;
  case ZMI_ST_REDUCE:
    zmi_play_reduce(s, t);
    break;
  case ZMI_ST_SCAN:
    zmi_play_scan(s, t);
    break;
  case ZMI_ST_RIGHT: {
    const char *from = s->at[t->a];
    s->l->copy[t->wide](s->n, s->at[t->out], from + (size_t)s->n * (t->wide ? 8 : 4), NULL, NULL);
    break;
  }
  default:
    zmi_play_memory(s, t);
  }
}

void zmi_play_steps(zmi_play *s, int64_t from, int64_t to) {
  const zmi_step *steps = s->p->steps;
  const zmi_lanes *l = s->l;
  const zmi_loop *loops = &l->loop[0][0], *converts = &l->convert[0][0];
  void **at = s->at;
  int64_t i = from;
  while (i < to) {
    const zmi_step *t = &steps[i++];
    switch ((zmi_step_kind)t->kind) {
    case ZMI_ST_LOOP:
      loops[t->x](s->n, at[t->out], at[t->a], at[t->b], at[t->c]);
      break;
    case ZMI_ST_CHOOSE:
      l->choose[t->wide](s->n, at[t->out], at[t->a], at[t->b], at[t->c]);
      break;
    case ZMI_ST_CONVERT:
      converts[t->x](s->n, at[t->out], at[t->a], NULL, NULL);
      break;
    case ZMI_ST_BITS:
      l->bits_of_float(s->n, at[t->out], at[t->a], NULL, NULL);
      break;
    case ZMI_ST_COPY:
      l->copy[t->wide](s->n, at[t->out], at[t->a], NULL, NULL);
      break;
    case ZMI_ST_IF:
      i = play_if(s, t, i);
      break;
    case ZMI_ST_ELSE:
      i = play_else(s, t, i);
      break;
    case ZMI_ST_ENDIF:
      s->mask = s->frames[--s->depth].mask;
      break;
    case ZMI_ST_FOR:
      i = play_for(s, t, i);
      break;
    case ZMI_ST_ENDFOR:
      i = play_end_for(s, t, i);
      break;
    case ZMI_ST_BLOCK:
      play_other(s, t);
      i = t->y;
      break;
    default:
      play_other(s, t);
    }
  }
}

// ---- elements ----

// Asks for the memory of the next chunk, so that it comes while this one is computed.
static void ask(const zmi_play *s, int64_t from, int64_t n) {
  enum { LINE = 64 };
  for (int i = 0; i < s->p->nin; i++) {
    const int64_t size = (int64_t)zm_dtype_size((zm_dtype)s->p->in[i]);
    const char *at = (const char *)s->in[i] + from * size;
    for (int64_t k = 0; k < n * size && s->step[i]; k += LINE) __builtin_prefetch(at + k, 0, 2);
  }
  for (int o = 0; o < s->p->nout; o++) {
    const int64_t size = (int64_t)zm_dtype_size((zm_dtype)s->p->out[o]);
    const char *at = (const char *)s->out[o] + from * size;
    for (int64_t k = 0; k < n * size; k += LINE) __builtin_prefetch(at + k, 1, 2);
  }
}

static void play_elements(zmi_play *s) {
  const int64_t n = s->rows, count = (int64_t)s->p->count, prologue = (int64_t)s->p->prologue;
  s->n = ZMI_MIN(n, s->lanes);
  zmi_play_steps(s, 0, prologue);
  for (s->place = 0; s->place < n; s->place += s->lanes) {
    s->n = ZMI_MIN(n - s->place, s->lanes);
    if (s->place + s->n < n) ask(s, s->place + s->n, ZMI_MIN(n - s->place - s->n, s->lanes));
    zmi_play_steps(s, prologue, count);
  }
}

// Bytes from first to before `end`, as numbers: a stride may be negative and reach before the pointer.
typedef struct {
  uintptr_t first, end;
} range;

static range elements(const void *at, int64_t n, int64_t stride, int64_t size) {
  const uintptr_t here = (uintptr_t)at;
  if (n <= 0) return (range){here, here};
  const int64_t reach = (n - 1) * stride * size;
  return reach < 0 ? (range){here - (uintptr_t)-reach, here + (uintptr_t)size} : (range){here, here + (uintptr_t)(reach + size)};
}

static range rows_of(const void *at, int64_t rows, int64_t row_stride, range row) {
  const range firsts = elements(at, rows, row_stride, 1);
  const uintptr_t here = (uintptr_t)at;
  return (range){firsts.first - (here - row.first), firsts.end - 1 + (row.end - here)};
}

static bool overlap(range a, range b) {
  return a.first < b.end && b.first < a.end;
}

// Whether no result shares memory with an operand.
static bool are_apart(const zmi_play *s) {
  const zmi_routine *p = s->p;
  const bool rows = p->form == ZMI_FORM_ROWS;
  for (int o = 0; o < p->nout; o++) {
    const int64_t results = !rows || p->per_row[o] ? s->rows : s->rows * s->d;
    const range result = elements(s->out[o], results, 1, (int64_t)zm_dtype_size((zm_dtype)p->out[o]));
    for (int i = 0; i < p->nin; i++) {
      const int64_t size = (int64_t)zm_dtype_size((zm_dtype)p->in[i]);
      range operand = elements(s->in[i], rows ? s->d : s->rows, s->step[i], size);
      if (rows && operand.first < operand.end) operand = rows_of(s->in[i], s->rows, s->row_stride[i] * size, operand);
      if (overlap(result, operand)) return false;
    }
  }
  return true;
}

zm_status zmi_routine_elements(const zmi_routine *p, const zmi_kernels *k, int64_t n, const void *const *in, const int *step,
                               const double *params, void *const *out) {
  if (n <= 0) return ZM_OK;
  zmi_play s = {.p = p, .l = k->lanes, .in = in, .step = step, .params = params, .out = out, .rows = n};
  s.apart = are_apart(&s);
  return zmi_play_with_scratch(&s, chunk_of(p, n), play_elements);
}

// ---- rows ----

static void play_rows(zmi_play *s) {
  const int64_t rows = s->rows, count = (int64_t)s->p->count, prologue = (int64_t)s->p->prologue;
  // Rows that are worked at together should stay in the second-level cache from one block to the next.
  int64_t together = ZMI_MIN(ZMI_MIN(ZMI_INTERPRET_ROWS, s->lanes), ZMI_MAX(1, 16384 / ZMI_MAX(1, s->d)));
  s->n = ZMI_MIN(s->lanes, ZMI_MAX(s->d, ZMI_INTERPRET_ROWS));
  zmi_play_steps(s, 0, prologue);
  for (s->row = 0; s->row < rows; s->row += together) {
    s->rows = s->n = ZMI_MIN(rows - s->row, together);
    zmi_play_steps(s, prologue, count);
  }
}

zm_status zmi_routine_rows(const zmi_routine *p, const zmi_kernels *k, int64_t rows, int64_t d, const void *const *in,
                           const int64_t *row_stride, const int *step, const double *params, void *const *out) {
  if (rows <= 0) return ZM_OK;
  zmi_play s = {
      .p = p, .l = k->lanes, .in = in, .step = step, .row_stride = row_stride, .params = params, .out = out, .rows = rows, .d = d};
  s.apart = are_apart(&s);
  return zmi_play_with_scratch(&s, ZMI_MAX(ZMI_INTERPRET_ROWS, chunk_of(p, ZMI_MAX(d, ZMI_INTERPRET_ROWS))), play_rows);
}

// ---- code ----

zm_status zmi_interpret_elements(const zmi_code *code, const zmi_kernels *k, int64_t n, const void *const *in, const int *step,
                                 const double *params, void *const *out) {
  zmi_routine *p = zmi_routine_new(code);
  zm_status status = p ? zmi_routine_elements(p, k, n, in, step, params, out) : zm_last_status();
  zmi_routine_free(p);
  return status;
}

zm_status zmi_interpret_rows(const zmi_code *code, const zmi_kernels *k, int64_t rows, int64_t d, const void *const *in,
                             const int64_t *row_stride, const int *step, const double *params, void *const *out) {
  zmi_routine *p = zmi_routine_new(code);
  zm_status status = p ? zmi_routine_rows(p, k, rows, d, in, row_stride, step, params, out) : zm_last_status();
  zmi_routine_free(p);
  return status;
}

zm_status zmi_interpret_groups(const zmi_code *code, const zmi_kernels *k, const zmi_launch *l, int64_t first, int64_t last) {
  zmi_routine *p = zmi_routine_new(code);
  zm_status status = p ? zmi_routine_groups(p, k, l, first, last) : zm_last_status();
  zmi_routine_free(p);
  return status;
}
