// The interpreter's blocks of places. A block is played in one of three ways, with the same bits: the places of a row as lanes, row after
// row; rows as lanes, place after place (serial blocks, short rows); or sixteen places as lanes, when variables have a copy a lane.
#include "kernel/interpret.h"

#include <string.h>

enum { SHORT = 24, MANY = 8 }; // rows shorter than SHORT go place by place if there are MANY

// ---- state of reductions ----
// Places as lanes: a zmi_sixteen, or a winner. Rows as lanes: 16 values a row (sums and products), 1 (maxima and minima), or winners.

typedef struct winner {
  union {
    float f;
    int64_t i;
    uint64_t u;
  } best;
  int64_t place; // -1: none yet
  bool nan;
} winner;

static bool is_wide(uint8_t type) {
  return type == ZMI_LANE_LONG || type == ZMI_LANE_ULONG;
}

static bool by_sixteen(const zmi_fold *f) {
  return f->kind <= ZMI_REDUCE_PROD;
}

size_t zmi_fold_bytes(const zmi_fold *f) {
  size_t bytes = f->arg ? sizeof(winner) * ZMI_INTERPRET_ROWS : (is_wide(f->type) ? 8u : 4u) * 16 * ZMI_INTERPRET_ROWS;
  return (ZMI_MAX(bytes, sizeof(zmi_sixteen)) + 63) / 64 * 64;
}

static void *state_of(const zmi_play *s, int32_t fold) {
  char *at = s->folds;
  for (int32_t i = 0; i < fold; i++) at += zmi_fold_bytes(&s->p->folds[i]);
  return at;
}

// The value that changes nothing, as its bits.
static uint64_t identity(const zmi_fold *f) {
  static const uint32_t floats[ZMI_REDUCE_KINDS] = {0, 0, 0x3f800000u, 0xff800000u, 0x7f800000u};
  switch (f->kind) {
  case ZMI_REDUCE_SUM:
  case ZMI_REDUCE_SUMSQ:
    return 0;
  case ZMI_REDUCE_PROD:
    return f->type == ZMI_LANE_FLOAT ? floats[f->kind] : 1;
  default:
    break;
  }
  bool least = f->kind == ZMI_REDUCE_MIN;
  switch (f->type) {
  case ZMI_LANE_FLOAT:
    return floats[f->kind];
  case ZMI_LANE_INT:
    return least ? INT32_MAX : 0x80000000u;
  case ZMI_LANE_LONG:
    return least ? INT64_MAX : (uint64_t)1 << 63;
  default:
    return least ? UINT64_MAX : 0;
  }
}

static void begin_fold(const zmi_play *s, const zmi_fold *f, void *state) {
  if (f->arg) {
    winner *w = state;
    for (int i = 0; i < ZMI_INTERPRET_ROWS; i++) w[i] = (winner){.place = -1};
    return;
  }
  const uint64_t none = identity(f);
  bool rows = s->mode == ZMI_PLAY_ROWS;
  if (!rows) ((zmi_sixteen *)state)->nan = 0;
  s->l->fill[is_wide(f->type)](!rows ? 16 : by_sixteen(f) ? 16 * ZMI_INTERPRET_ROWS : ZMI_INTERPRET_ROWS, state, &none, NULL, NULL);
}

static void put(const zmi_play *s, const zmi_fold *f, int64_t row, const void *value) {
  const size_t size = is_wide(f->type) && !f->arg ? 8 : 4;
  memcpy((char *)s->at[f->result] + (size_t)row * size, value, size);
}

// One NaN, one zero, no denormal.
static float settled(float v, bool nan) {
  uint32_t bits = 0x7fc00000u;
  if (nan || v != v) memcpy(&v, &bits, sizeof v);
  return nan ? v : v + 0.0f;
}

// The lanes of maxima and minima of one row; of integers lane 0 has it all.
static float winner_of(const zmi_fold *f, const zmi_sixteen *r) {
  float best = r->f[0];
  for (int i = 1; i < 16; i++) best = (f->kind == ZMI_REDUCE_MIN ? r->f[i] < best : r->f[i] > best) ? r->f[i] : best;
  return settled(best, r->nan != 0);
}

static void end_fold_of_row(const zmi_play *s, const zmi_fold *f, const void *state, int64_t row) {
  const zmi_sixteen *r = state;
  if (f->arg) {
    const winner *w = state;
    int32_t place = (int32_t)ZMI_MAX(w->place, 0);
    put(s, f, row, &place);
  } else if (f->type != ZMI_LANE_FLOAT) {
    put(s, f, row, r->l);
  } else {
    float v = f->kind < ZMI_REDUCE_PROD ? s->l->sum_of(r) : f->kind == ZMI_REDUCE_PROD ? s->l->prod_of(r) : winner_of(f, r);
    put(s, f, row, &v);
  }
}

// What joins two lanes.
static zmi_loop loop_of(const zmi_play *s, const zmi_fold *f) {
  static const uint8_t ops[ZMI_REDUCE_KINDS] = {ZMI_LANE_ADD, ZMI_LANE_ADD, ZMI_LANE_MUL, ZMI_LANE_MAX, ZMI_LANE_MIN};
  return s->l->loop[ops[f->kind]][f->type];
}

static void end_fold_of_rows(const zmi_play *s, const zmi_fold *f, void *state) {
  const size_t width = is_wide(f->type) ? 8 : 4, lane = width * ZMI_INTERPRET_ROWS;
  char *at = state;
  if (f->arg) {
    const winner *w = state;
    for (int64_t r = 0; r < s->rows; r++) end_fold_of_row(s, f, &w[r], r);
    return;
  }
  for (int h = 8; h > 0 && by_sixteen(f); h /= 2) {
    for (int i = 0; i < h; i++) {
      loop_of(s, f)(s->rows, at + (size_t)i * lane, at + (size_t)i * lane, at + (size_t)(i + h) * lane, NULL);
    }
  }
  for (int64_t r = 0; r < s->rows; r++) {
    if (f->type == ZMI_LANE_FLOAT && !by_sixteen(f)) {
      float v;
      memcpy(&v, at + (size_t)r * 4, sizeof v);
      v = settled(v, v != v);
      put(s, f, r, &v);
    } else {
      put(s, f, r, at + (size_t)r * width);
    }
  }
}

// ---- places of winners ----

#define LOOK(T, field)                                                                                                                     \
  {                                                                                                                                        \
    T best;                                                                                                                                \
    memcpy(&best, r.l, sizeof best);                                                                                                       \
    if (w->place >= 0 && !(f->least ? best < (T)w->best.field : best > (T)w->best.field)) return;                                          \
    const T *x = values;                                                                                                                   \
    int64_t i = 0;                                                                                                                         \
    while (x[i] != best) i++;                                                                                                              \
    w->best.field = best;                                                                                                                  \
    w->place = place + i;                                                                                                                  \
  }

// The winner among n values from `place` on; what came before wins where they are equal.
static void find_winner(const zmi_play *s, const zmi_fold *f, winner *w, const void *values, int64_t n, int64_t place) {
  if (w->nan || n <= 0) return;
  zmi_sixteen r = {.nan = 0};
  const uint64_t none = identity(f);
  s->l->fill[is_wide(f->type)](16, r.l, &none, NULL, NULL);
  s->l->reduce[f->kind][f->type](&r, values, n);
  switch (f->type) {
  case ZMI_LANE_INT:
    LOOK(int32_t, i)
    break;
  case ZMI_LANE_UINT:
    LOOK(uint32_t, u)
    break;
  case ZMI_LANE_LONG:
    LOOK(int64_t, i)
    break;
  case ZMI_LANE_ULONG:
    LOOK(uint64_t, u)
    break;
  case ZMI_LANE_FLOAT: {
    if (r.nan) {
      const float *x = values;
      int64_t i = 0;
      while (x[i] == x[i]) i++;
      w->nan = true;
      w->place = place + i;
      break;
    }
    r.f[0] = winner_of(f, &r);
    LOOK(float, f)
    break;
  }
  default:
    break;
  }
}

void zmi_play_reduce(zmi_play *s, const zmi_step *t) {
  const zmi_fold *f = &s->p->folds[t->x];
  char *state = state_of(s, t->x);
  const char *x = s->at[t->a];
  const size_t width = is_wide(f->type) ? 8 : 4;
  if (s->mode == ZMI_PLAY_PLACES && f->arg) {
    find_winner(s, f, (winner *)(void *)state, x, s->n, s->place);
  } else if (s->mode == ZMI_PLAY_PLACES) {
    s->l->reduce[f->kind][f->type]((zmi_sixteen *)(void *)state, x, s->n);
  } else if (f->arg) {
    for (int64_t r = 0; r < s->n; r++) find_winner(s, f, (winner *)(void *)state + r, x + (size_t)r * width, 1, s->place);
  } else {
    char *to = by_sixteen(f) ? state + (size_t)(s->place % 16) * width * ZMI_INTERPRET_ROWS : state;
    if (f->kind == ZMI_REDUCE_SUMSQ)
      s->l->loop[ZMI_LANE_FMA][ZMI_LANE_FLOAT](s->n, to, x, x, to);
    else
      loop_of(s, f)(s->n, to, to, x, NULL);
  }
}

// Running sums: one place after another, from +0 on.
void zmi_play_scan(zmi_play *s, const zmi_step *t) {
  void *carry = s->at[t->b], *out = s->at[t->out];
  const void *x = s->at[t->a];
  if (s->mode == ZMI_PLAY_ROWS) {
    s->l->loop[ZMI_LANE_ADD][t->type](s->n, carry, carry, x, NULL);
    s->l->copy[t->wide](s->n, out, carry, NULL, NULL);
  } else if (t->type == ZMI_LANE_FLOAT) {
    float last;
    memcpy(&last, carry, sizeof last);
    last = s->l->scan_sum(last, s->n, out, x);
    memcpy(carry, &last, sizeof last);
  } else if (t->wide) {
    uint64_t sum, *to = out;
    const uint64_t *from = x;
    memcpy(&sum, carry, sizeof sum);
    for (int64_t i = 0; i < s->n; i++) to[i] = sum += from[i];
    memcpy(carry, &sum, sizeof sum);
  } else {
    uint32_t sum, *to = out;
    const uint32_t *from = x;
    memcpy(&sum, carry, sizeof sum);
    for (int64_t i = 0; i < s->n; i++) to[i] = sum += from[i];
    memcpy(carry, &sum, sizeof sum);
  }
}

// ---- blocks ----

static void begin_folds(zmi_play *s, const zmi_block *b) {
  for (int32_t i = b->fold; i < b->fold + b->folds; i++) begin_fold(s, &s->p->folds[i], state_of(s, i));
}

static void begin_scans(zmi_play *s, const zmi_block *b) {
  const uint64_t zero = 0;
  for (int32_t i = b->scan; i < b->scan + b->scans; i++) {
    const zmi_spread *c = &s->p->spreads[i];
    s->l->fill[c->wide](s->mode == ZMI_PLAY_ROWS ? s->rows : 1, s->at[c->slot], &zero, NULL, NULL);
  }
}

// Values of row r for the lanes of places.
static void spread(zmi_play *s, const zmi_block *b, int64_t r, int64_t lanes) {
  for (int32_t i = b->spread; i < b->spread + b->spreads + b->joined; i++) {
    const zmi_spread *v = &s->p->spreads[i];
    const char *from = s->at[v->row];
    s->l->fill[v->wide](i < b->spread + b->spreads ? lanes : 16, s->at[v->slot], from + (size_t)r * (v->wide ? 8 : 4), NULL, NULL);
  }
}

// The lanes of variables are joined in pairs; what is left in lane 0 is the variable of the row.
static void join(zmi_play *s, const zmi_block *b, int64_t r) {
  for (s->n = 8; s->n > 0; s->n /= 2) zmi_play_steps(s, b->join, b->end);
  for (int32_t i = b->spread + b->spreads; i < b->spread + b->spreads + b->joined; i++) {
    const zmi_spread *v = &s->p->spreads[i];
    const size_t width = v->wide ? 8 : 4;
    memcpy((char *)s->at[v->row] + (size_t)r * width, s->at[v->slot], width);
  }
}

static void play_by_places(zmi_play *s, const zmi_block *b) {
  const int64_t first = s->row, rows = s->rows, most = b->join >= 0 ? 16 : s->lanes, end = b->join >= 0 ? b->join : b->end;
  s->mode = ZMI_PLAY_PLACES;
  for (int64_t r = 0; r < rows; r++) {
    s->row = first + r;
    spread(s, b, r, ZMI_MIN(ZMI_MAX(s->d, b->join >= 0 ? 16 : 0), most));
    begin_folds(s, b);
    begin_scans(s, b);
    const int64_t runs = (s->d + most - 1) / most;
    for (int64_t k = 0; k < runs; k++) {
      s->place = (b->falling ? runs - 1 - k : k) * most;
      s->n = ZMI_MIN(s->d - s->place, most);
      zmi_play_steps(s, b->first, end);
    }
    if (b->join >= 0) join(s, b, r);
    for (int32_t i = b->fold; i < b->fold + b->folds; i++) end_fold_of_row(s, &s->p->folds[i], state_of(s, i), r);
  }
  s->row = first;
}

static void play_by_rows(zmi_play *s, const zmi_block *b) {
  s->mode = ZMI_PLAY_ROWS;
  s->n = s->rows;
  begin_folds(s, b);
  begin_scans(s, b);
  for (int32_t i = b->spread; i < b->spread + b->spreads; i++) s->at[s->p->spreads[i].slot] = s->at[s->p->spreads[i].row];
  for (int64_t k = 0; k < s->d; k++) {
    s->place = b->falling ? s->d - 1 - k : k;
    zmi_play_steps(s, b->first, b->end);
  }
  for (int32_t i = b->spread; i < b->spread + b->spreads; i++) {
    s->at[s->p->spreads[i].slot] = zmi_slot_memory(s, s->p->spreads[i].slot);
  }
  for (int32_t i = b->fold; i < b->fold + b->folds; i++) end_fold_of_rows(s, &s->p->folds[i], state_of(s, i));
}

void zmi_play_block(zmi_play *s, const zmi_block *b) {
  const int64_t rows = s->rows;
  const int32_t *mask = s->mask;
  s->inside = true;
  s->mask = NULL;
  if (b->serial || (b->join < 0 && s->d < SHORT && rows >= MANY))
    play_by_rows(s, b);
  else
    play_by_places(s, b);
  s->inside = false;
  s->mask = mask;
  s->n = rows;
}
