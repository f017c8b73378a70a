// Lowering of statements: what is assigned is a known value as long as statements follow each other, and a variable of the code across
// loops, branches and serial blocks.
#include "kernel/lower.h"

#include <string.h>

static const zmi_node *at(const zmi_lower *l, int32_t n) {
  return &l->k->nodes[n];
}

static zm_status assign(zmi_lower *l, int32_t symbol, int value) {
  zmi_held *s = &l->slots[symbol];
  if (value < 0) return zm_last_status();
  value = zmi_lower_written(l, value, s->written);
  zmi_ctype t = zmi_type_at(l, value);
  if (!s->type) s->type = (uint8_t)ZMI_MAX((int)t, (int)l->wide[symbol]);
  if (t > (zmi_ctype)s->type && !s->written && l->k->symbols[symbol].type == 0) { // "acc = 0;" and later "acc += 0.5 * x;"
    l->wide[symbol] = (uint8_t)t;
    l->again = true;
  }
  value = zmi_code_convert(l->c, (zmi_ctype)s->type, value);
  if (value < 0) return zm_last_status();
  s->value = value;
  s->dirty = true;
  return ZM_OK;
}

// Makes variables of what the coming block assigns, with their present values.
static zm_status open_block(zmi_lower *l, const zmi_node *n) {
  for (int32_t i = n->assigned_from; i < n->assigned_to; i++) {
    zmi_held *s = &l->slots[l->k->assigned[i]];
    if (!s->declared) continue;
    if (!s->type) s->type = l->wide[l->k->assigned[i]] ? l->wide[l->k->assigned[i]] : ZMI_C_INT; // first assigned inside
    if (s->var < 0) {
      int first = s->value >= 0 ? s->value : zmi_lower_zero(l, (zmi_ctype)s->type);
      s->var = zmi_emit_x(l, ZMI_K_VAR, (zmi_ctype)s->type, first, -1, 0, 0);
      if (s->var < 0) return zm_last_status();
    } else if (s->dirty && zmi_emit_x(l, ZMI_K_SET, ZMI_C_NONE, s->value, -1, s->var, 0) < 0) {
      return zm_last_status();
    }
    s->dirty = false;
    s->value = -1;
  }
  return ZM_OK;
}

static zm_status flush(zmi_lower *l, const zmi_node *n) {
  for (int32_t i = n->assigned_from; i < n->assigned_to; i++) {
    zmi_held *s = &l->slots[l->k->assigned[i]];
    if (!s->declared || s->var < 0 || !s->dirty) continue;
    if (zmi_emit_x(l, ZMI_K_SET, ZMI_C_NONE, s->value, -1, s->var, 0) < 0) return zm_last_status();
    s->dirty = false;
  }
  return ZM_OK;
}

static zm_status forget(zmi_lower *l, const zmi_node *n) { // values of variables at a border of blocks
  for (int32_t i = n->assigned_from; i < n->assigned_to; i++) {
    zmi_held *s = &l->slots[l->k->assigned[i]];
    if (s->declared && s->var >= 0) s->value = -1;
  }
  return ZM_OK;
}

static zm_status close_block(zmi_lower *l, const zmi_node *n, int opener) {
  if (flush(l, n) != ZM_OK || zmi_emit_x(l, ZMI_K_END, ZMI_C_NONE, -1, -1, 0, 0) < 0) return zm_last_status();
  zmi_lower_close(l, opener);
  return forget(l, n);
}

// ---- loops ----
static int const_int(zmi_lower *l, int64_t value) {
  return zmi_code_const_i(l->c, ZMI_C_INT, value);
}

static int op2(zmi_lower *l, zmi_cop op, int a, int b) {
  return zmi_code_op(l->c, op, a, b, -1);
}

static int as(zmi_lower *l, zmi_ctype t, int value) { // a number by its value, as far as the type goes
  if (t == ZMI_C_LONG && zmi_type_at(l, value) == ZMI_C_ULONG)
    value = op2(l, ZMI_K_MIN, value, zmi_code_const_i(l->c, ZMI_C_ULONG, INT64_MAX));
  return zmi_code_convert(l->c, t, value);
}

static int open_for(zmi_lower *l, int first, int end, int step) {
  if (first < 0 || end < 0 || step < 0) return -1;
  if (l->c->insts[step].op != ZMI_K_CONST) step = zmi_code_op(l->c, ZMI_K_MAX, step, const_int(l, 1), -1);
  return step < 0 ? -1 : zmi_code_emit(l->c, &(zmi_inst){.op = ZMI_K_FOR, .type = ZMI_C_INT, .a = first, .b = end, .c = step});
}

// ---- loops whose counter scales ----
typedef struct scaling {
  int32_t node;
  const zmi_node *n;
  int first, bound, by;
} scaling;

static int scaled(zmi_lower *l, const scaling *s, zmi_ctype t, int value, int by) { // the next value of the counter
  const int op = s->n->op2, sign = op == '<' ? '<' | '<' << 8 : op == '>' ? '>' | '>' << 8 : op;
  return zmi_code_convert(l->c, t, zmi_lower_arithmetic(l, s->node, sign, value, by));
}

// Whether the number that ends the loop can be too large for the counter's type.
static bool passes_type(const zmi_lower *l, const scaling *s) {
  if (s->n->op2 != '*' && s->n->op2 != '<') return false;
  const zmi_range b = zmi_lower_range(l, s->bound), by = zmi_lower_range(l, s->by);
  if (by.low < 0 || by.high > (s->n->op2 == '*' ? INT32_MAX : 30) || !zmi_range_fits(b, ZMI_C_INT)) return true;
  return ZMI_MAX(b.high, -b.low) * (s->n->op2 == '*' ? by.high : (int64_t)1 << by.high) > INT32_MAX;
}

// Rounds: counted first, so that the loop itself is bounded by a number that all threads agree on.
static int count_scaling(zmi_lower *l, const scaling *s) {
  const zmi_ctype own = (zmi_ctype)s->n->type;
  const bool wide = passes_type(l, s) || !zmi_range_fits(zmi_lower_range(l, s->bound), own);
  const zmi_ctype t = wide ? ZMI_C_LONG : own;
  int by = s->by, bound = as(l, t, s->bound), first = zmi_code_convert(l->c, t, zmi_code_convert(l->c, own, s->first));
  if (wide && s->n->op2 == '<') by = op2(l, ZMI_K_BIT_AND, as(l, ZMI_C_INT, by), const_int(l, 31));
  int rounds = zmi_emit_x(l, ZMI_K_VAR, ZMI_C_INT, const_int(l, 0), -1, 0, 0);
  int counter = zmi_emit_x(l, ZMI_K_VAR, t, first, -1, 0, 0);
  int loop = open_for(l, const_int(l, 0), const_int(l, 33), const_int(l, 1));
  if (rounds < 0 || counter < 0 || loop < 0) return -1;
  int now = zmi_emit_x(l, ZMI_K_GET, t, -1, -1, counter, 0), more = zmi_lower_arithmetic(l, s->node, s->n->op, now, bound);
  int old = zmi_emit_x(l, ZMI_K_GET, ZMI_C_INT, -1, -1, rounds, 0);
  int next = zmi_code_op(l->c, ZMI_K_SELECT, more, scaled(l, s, t, now, by), now);
  int sum = op2(l, ZMI_K_ADD, old, zmi_code_convert(l->c, ZMI_C_INT, more));
  if (zmi_emit_x(l, ZMI_K_SET, ZMI_C_NONE, next, -1, counter, 0) < 0 || zmi_emit_x(l, ZMI_K_SET, ZMI_C_NONE, sum, -1, rounds, 0) < 0)
    return -1;
  if (zmi_emit_x(l, ZMI_K_END, ZMI_C_NONE, -1, -1, 0, 0) < 0) return -1;
  zmi_lower_close(l, loop);
  return zmi_emit_x(l, ZMI_K_GET, ZMI_C_INT, -1, -1, rounds, 0);
}

static zm_status scaling_loop(zmi_lower *l, const scaling *s) {
  const zmi_node *n = s->n;
  zmi_ctype t = (zmi_ctype)n->type;
  int rounds = count_scaling(l, s);
  int counter = zmi_emit_x(l, ZMI_K_VAR, t, zmi_code_convert(l->c, t, s->first), -1, 0, 0);
  if (rounds < 0 || counter < 0 || open_block(l, n) != ZM_OK) return zm_last_status();
  int opener = open_for(l, const_int(l, 0), rounds, const_int(l, 1));
  if (opener < 0) return zm_last_status();
  int now = zmi_emit_x(l, ZMI_K_GET, t, -1, -1, counter, 0);
  l->slots[n->symbol] = (zmi_held){.value = now, .var = -1, .type = (uint8_t)t, .declared = true};
  if (now < 0 || zmi_lower_statements(l, n->first) != ZM_OK) return zm_last_status();
  now = zmi_emit_x(l, ZMI_K_GET, t, -1, -1, counter, 0);
  int next = scaled(l, s, t, now, s->by);
  if (next < 0 || zmi_emit_x(l, ZMI_K_SET, ZMI_C_NONE, next, -1, counter, 0) < 0) return zm_last_status();
  return close_block(l, n, opener);
}

// ---- loops that count up or down ----
typedef struct counting {
  zmi_ctype type;       // of the counter
  int first, bound, by; // each of the type that it was written in
  bool rising, equal;
  zmi_range f, b, s; // what they can be, the first as a number of the counter's type
} counting;

enum { MOST_ROUNDS = INT32_MAX };

// Numbers of which no sum or difference leaves the ints: the loop counts in them as it is written.
static bool stays_in_ints(const counting *c) {
  if (!zmi_range_fits(c->f, ZMI_C_INT) || !zmi_range_fits(c->b, ZMI_C_INT) || !zmi_range_fits(c->s, ZMI_C_INT)) return false;
  const zmi_range end = c->rising ? c->b : (zmi_range){c->f.low - c->b.high, c->f.high - c->b.low};
  return zmi_range_fits((zmi_range){end.low, end.high + c->equal}, ZMI_C_INT);
}

static bool too_many(const counting *c) { // as far as constants say so
  const int64_t low = c->rising ? c->f.high : c->b.high, high = c->rising ? c->b.low : c->f.low;
  if (c->s.low != c->s.high || c->s.low < 1 || high < low) return false;
  return ((uint64_t)high - (uint64_t)low - !c->equal) / (uint64_t)c->s.low >= MOST_ROUNDS && (c->equal || high > low);
}

// The distance of two numbers, and so the rounds, are exact without a sign, in the narrowest type that holds both.
static int count_rounds(zmi_lower *l, const counting *c, int *by) {
  zmi_ctype t = ZMI_C_LONG, size = ZMI_C_ULONG;
  if (c->s.high <= UINT32_MAX && zmi_range_fits(c->f, ZMI_C_INT) && zmi_range_fits(c->b, ZMI_C_INT)) t = ZMI_C_INT, size = ZMI_C_UINT;
  if (c->s.high <= UINT32_MAX && zmi_range_fits(c->f, ZMI_C_UINT) && zmi_range_fits(c->b, ZMI_C_UINT)) t = size = ZMI_C_UINT;
  const int first = as(l, t, zmi_code_convert(l->c, c->type, c->first)), bound = as(l, t, c->bound);
  const int low = c->rising ? first : bound, high = c->rising ? bound : first;
  int more = op2(l, c->equal ? ZMI_K_GE : ZMI_K_GT, high, low);
  int distance = op2(l, ZMI_K_SUB, zmi_code_convert(l->c, size, high), zmi_code_convert(l->c, size, low));
  if (!c->equal) distance = op2(l, ZMI_K_SUB, distance, zmi_code_const_i(l->c, size, 1));
  *by = c->s.low >= 1 ? c->by : op2(l, ZMI_K_MAX, c->by, zmi_code_const_i(l->c, zmi_type_at(l, c->by), 1));
  int rounds = op2(l, ZMI_K_DIV, distance, zmi_code_convert(l->c, size, *by));
  rounds = op2(l, ZMI_K_MIN, rounds, zmi_code_const_i(l->c, size, MOST_ROUNDS - 1));
  rounds = op2(l, ZMI_K_ADD, zmi_code_convert(l->c, ZMI_C_INT, rounds), const_int(l, 1));
  return zmi_code_op(l->c, ZMI_K_SELECT, more, rounds, const_int(l, 0));
}

static int open_counting(zmi_lower *l, const counting *c, int *counter) {
  const zmi_cop along = c->rising ? ZMI_K_ADD : ZMI_K_SUB;
  if (stays_in_ints(c)) {
    const int first = zmi_code_convert(l->c, ZMI_C_INT, c->first), bound = zmi_code_convert(l->c, ZMI_C_INT, c->bound);
    int end = c->rising ? bound : op2(l, ZMI_K_SUB, first, bound);
    if (c->equal) end = op2(l, ZMI_K_ADD, end, const_int(l, 1));
    const int opener = open_for(l, c->rising ? first : const_int(l, 0), end, zmi_code_convert(l->c, ZMI_C_INT, c->by));
    *counter = zmi_code_convert(l->c, c->type, c->rising || opener < 0 ? opener : op2(l, ZMI_K_SUB, first, opener));
    return opener;
  }
  int by;
  const int rounds = count_rounds(l, c, &by), first = zmi_code_convert(l->c, c->type, c->first);
  const int opener = open_for(l, const_int(l, 0), rounds, const_int(l, 1));
  const int way = opener < 0 ? -1 : op2(l, ZMI_K_MUL, zmi_code_convert(l->c, c->type, opener), zmi_code_convert(l->c, c->type, by));
  *counter = op2(l, along, first, way);
  return opener;
}

static zm_status lower_for(zmi_lower *l, int32_t node) {
  const zmi_node *n = at(l, node);
  const int first = zmi_lower_integer(l, n->a), bound = first < 0 ? -1 : zmi_lower_integer(l, n->b);
  const int by = bound < 0 ? -1 : zmi_lower_integer(l, n->c);
  if (by < 0) return zm_last_status();
  if (n->op2 != '+' && n->op2 != '-') return scaling_loop(l, &(scaling){node, n, first, bound, by});
  counting c = {.type = (zmi_ctype)n->type, .first = first, .bound = bound, .by = by};
  c.rising = (n->op & 0xff) == '<', c.equal = n->op >> 8 == '=';
  c.f = zmi_range_converted(zmi_lower_range(l, first), c.type);
  c.b = zmi_lower_range(l, bound), c.s = zmi_lower_range(l, by);
  if (c.rising != (n->op2 == '+')) {
    zmi_lower_fail(l, node, "the loop's counter moves away from its bound");
  } else if (l->c->insts[by].op == ZMI_K_CONST && c.s.high <= 0) {
    zmi_lower_fail(l, n->c, "the step of a loop is positive");
  } else if (too_many(&c)) {
    zmi_lower_fail(l, node, "a loop makes at most %d rounds", MOST_ROUNDS);
  }
  if (l->failed || open_block(l, n) != ZM_OK) return zm_last_status();
  int counter, opener = open_counting(l, &c, &counter);
  if (opener < 0 || counter < 0) return zm_last_status();
  l->slots[n->symbol] = (zmi_held){.value = counter, .var = -1, .type = n->type, .declared = true};
  if (zmi_lower_statements(l, n->first) != ZM_OK) return zm_last_status();
  return close_block(l, n, opener);
}

// ---- branches ----
// Both branches are computed and each variable takes its value by selection.
static zm_status select_branches(zmi_lower *l, const zmi_node *n, int condition) {
  size_t count = (size_t)(n->assigned_to - n->assigned_from);
  if (count == 0) return zmi_lower_statements(l, n->first) == ZM_OK ? zmi_lower_statements(l, n->second) : zm_last_status();
  int *values = zmi_calloc(count * 3, sizeof *values), *before = values, *yes = values + count, *no = values + 2 * count;
  zm_status status = values ? ZM_OK : zm_last_status();
  const int32_t *symbols = l->k->assigned + n->assigned_from;
  for (size_t i = 0; i < count && status == ZM_OK; i++) before[i] = l->slots[symbols[i]].value;
  if (status == ZM_OK) status = zmi_lower_statements(l, n->first);
  for (size_t i = 0; i < count && status == ZM_OK; i++) yes[i] = l->slots[symbols[i]].value;
  for (size_t i = 0; i < count && status == ZM_OK; i++) l->slots[symbols[i]].value = before[i];
  if (status == ZM_OK) status = zmi_lower_statements(l, n->second);
  for (size_t i = 0; i < count && status == ZM_OK; i++) no[i] = l->slots[symbols[i]].value;
  for (size_t i = 0; i < count && status == ZM_OK; i++) {
    zmi_held *s = &l->slots[symbols[i]];
    if (!s->declared || yes[i] == no[i]) continue;
    s->value = before[i];
    int old = yes[i] < 0 || no[i] < 0 ? zmi_lower_get(l, symbols[i]) : -1; // neither read nor assigned on one side
    int merged = zmi_code_op(l->c, ZMI_K_SELECT, condition, yes[i] < 0 ? old : yes[i], no[i] < 0 ? old : no[i]);
    if (merged < 0) status = zm_last_status();
    yes[i] = no[i] = -1;
    s->value = merged;
    s->dirty = true;
    for (size_t j = i + 1; j < count; j++) { // the same variable again
      if (symbols[j] == symbols[i]) yes[j] = no[j] = -1;
    }
  }
  zmi_free(values);
  return status;
}

static zm_status lower_if(zmi_lower *l, int32_t node) {
  const zmi_node *n = at(l, node);
  int condition = zmi_code_convert(l->c, ZMI_C_BOOL, zmi_lower_expression(l, n->a));
  if (condition < 0) return zm_last_status();
  if (n->simple) return select_branches(l, n, condition);
  if (open_block(l, n) != ZM_OK) return zm_last_status();
  int opener = zmi_emit_x(l, ZMI_K_IF, ZMI_C_NONE, condition, -1, 0, 0);
  if (opener < 0 || zmi_lower_statements(l, n->first) != ZM_OK) return zm_last_status();
  if (n->second >= 0) {
    if (flush(l, n) != ZM_OK || zmi_emit_x(l, ZMI_K_ELSE, ZMI_C_NONE, -1, -1, 0, 0) < 0) return zm_last_status();
    zmi_lower_close(l, opener);
    forget(l, n);
    if (zmi_lower_statements(l, n->second) != ZM_OK) return zm_last_status();
  }
  return close_block(l, n, opener);
}

// ---- results ----
static zm_dtype own_dtype(zmi_ctype t) {
  static const zm_dtype dtypes[ZMI_C_COUNT] = {ZM_F32, ZM_BOOL, ZM_I32, ZM_U32, ZM_I64, ZM_U64, ZM_F32};
  return dtypes[t];
}

// The dtype of a result that nobody named: of the first float operand, else of the value; in rows integers stay what they are.
static zm_dtype default_dtype(const zmi_lower *l, zmi_ctype t) {
  if (t != ZMI_C_FLOAT && l->c->form == ZMI_FORM_ROWS) return own_dtype(t);
  for (int i = 0; i < l->c->nin; i++) {
    if (zmi_ctype_of(l->c->in[i]) == ZMI_C_FLOAT) return l->c->in[i];
  }
  return own_dtype(t);
}

// A value as the compute type of a dtype. Floats are limited to the range of a narrow integer dtype.
static int stored(zmi_lower *l, int value, zm_dtype dtype) {
  static const struct {
    zm_dtype dtype;
    int64_t low, high;
  } narrow[] = {{ZM_U8, 0, 255}, {ZM_U16, 0, 65535}, {ZM_I8, -128, 127}, {ZM_I16, -32768, 32767}};
  zmi_ctype from = zmi_type_at(l, value), to = zmi_ctype_of(dtype);
  value = zmi_code_convert(l->c, to, value);
  for (size_t i = 0; i < ZMI_COUNT(narrow) && from == ZMI_C_FLOAT; i++) {
    if (narrow[i].dtype != dtype) continue;
    value = zmi_code_op(l->c, ZMI_K_MIN, value, zmi_code_const_i(l->c, to, narrow[i].high), -1);
    if (narrow[i].low) value = zmi_code_op(l->c, ZMI_K_MAX, value, zmi_code_const_i(l->c, to, narrow[i].low), -1);
  }
  return value;
}

static void declare_output(zmi_lower *l, int32_t symbol) {
  const zmi_symbol *y = &l->k->symbols[symbol];
  l->slots[symbol] = (zmi_held){.value = -1, .var = -1, .declared = true};
  if (l->c->form >= ZMI_FORM_TILES) return;
  bool floats = l->c->form == ZMI_FORM_ELEMENTS && zmi_ctype_of(default_dtype(l, ZMI_C_INT)) == ZMI_C_FLOAT;
  if (l->c->out[y->index] != ZM_DTYPE_DEFAULT) {
    l->wide[symbol] = (uint8_t)zmi_ctype_of(l->c->out[y->index]);
  } else if (floats) {
    l->wide[symbol] = ZMI_C_FLOAT;
  }
}

static zm_status write_output(zmi_lower *l, int o, int value) {
  if (value < 0) return zm_last_status();
  if (l->c->out[o] == ZM_DTYPE_DEFAULT) l->c->out[o] = default_dtype(l, zmi_type_at(l, value));
  value = stored(l, value, l->c->out[o]);
  return value < 0 || zmi_emit_x(l, ZMI_K_OUTPUT, ZMI_C_NONE, value, -1, o, 0) < 0 ? zm_last_status() : ZM_OK;
}

static zm_status write_outputs(zmi_lower *l, int32_t where, int32_t node) { // those that are assigned in a block
  for (size_t s = 0; s < l->k->symbol_count; s++) {
    const zmi_symbol *y = &l->k->symbols[s];
    if (y->kind != ZMI_Y_OUTPUT || y->assigned_in != where) continue;
    if (write_output(l, y->index, zmi_lower_get(l, (int32_t)s)) != ZM_OK) return zm_last_status();
    if (node >= 0) l->slots[s] = (zmi_held){.value = -1, .var = -1};
  }
  return ZM_OK;
}

// ---- blocks of elements ----
// A barrier is for all threads of a group: one that stands under a condition on the thread would make some wait for ever on a GPU. What is
// read from a variable may be anything, and is taken.
static zm_status lower_barrier(zmi_lower *l, int32_t node) {
  const zmi_code *c = l->c;
  int32_t open[ZMI_CODE_DEPTH + 1];
  int depth = 0;
  uint8_t *by_thread = zmi_calloc(c->count + 1, 1);
  if (!by_thread) return zm_last_status();
  for (int32_t i = 0; i < (int32_t)c->count; i++) {
    const zmi_inst *x = &c->insts[i];
    const int32_t v[3] = {x->a, x->b, x->c};
    by_thread[i] = x->op == ZMI_K_THREAD;
    for (int o = 0; o < 3 && x->op != ZMI_K_VAR && x->op != ZMI_K_GET; o++)
      if (v[o] >= 0 && v[o] < i && by_thread[v[o]]) by_thread[i] = 1;
    if (x->op == ZMI_K_END && depth > 0) depth--;
    if ((x->op == ZMI_K_FOR || x->op == ZMI_K_IF || x->op == ZMI_K_ELEMENTS) && depth <= ZMI_CODE_DEPTH) open[depth++] = i;
  }
  bool parted = false;
  while (depth > 0) parted |= by_thread[open[--depth]] != 0;
  zmi_free(by_thread);
  if (parted) {
    zmi_lower_fail(l, node, "not all threads of a group come to this barrier: what is around it depends on the thread");
    return zm_last_status();
  }
  return zmi_emit_x(l, ZMI_K_BARRIER, ZMI_C_NONE, -1, -1, 0, 0) < 0 ? zm_last_status() : ZM_OK;
}

static zm_status lower_statement(zmi_lower *l, int32_t s);

static zm_status lower_block(zmi_lower *l, int32_t first) { // statements; deferred ones compute their reductions only
  for (int32_t s = first; s >= 0; s = at(l, s)->next) {
    const zmi_node *n = at(l, s);
    if (!n->deferred) {
      if (lower_statement(l, s) != ZM_OK) return zm_last_status();
    } else if (zmi_lower_reductions(l, n->a) != ZM_OK) {
      return zm_last_status();
    }
  }
  return l->failed ? zm_last_status() : ZM_OK;
}

// Variables that the block does not assign are read before it: inside they are numbers of the row like others.
static zm_status read_before(zmi_lower *l, const zmi_node *n) {
  for (size_t s = 0; s < l->k->symbol_count; s++) {
    bool assigned = l->slots[s].var < 0 || l->slots[s].value >= 0 || l->k->symbols[s].kind == ZMI_Y_SHARED;
    for (int32_t i = n->assigned_from; i < n->assigned_to && !assigned; i++) assigned = l->k->assigned[i] == (int32_t)s;
    if (!assigned && zmi_lower_get(l, (int32_t)s) < 0) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status lower_elements(zmi_lower *l, int32_t node) {
  const zmi_node *n = at(l, node);
  if (open_block(l, n) != ZM_OK || read_before(l, n) != ZM_OK) return zm_last_status();
  int opener = zmi_emit_x(l, ZMI_K_ELEMENTS, ZMI_C_NONE, -1, -1, 0, n->op);
  for (size_t s = 0; s < l->k->symbol_count; s++) {
    const zmi_symbol *y = &l->k->symbols[s];
    if (y->kind == ZMI_Y_OUTPUT && y->assigned_in == node + 1) declare_output(l, (int32_t)s);
  }
  l->falling = n->op;
  if (opener < 0 || lower_block(l, n->first) != ZM_OK || flush(l, n) != ZM_OK || write_outputs(l, node + 1, node) != ZM_OK)
    return zm_last_status();
  l->falling = false;
  if (n->c == 1) {
    if (zmi_emit_x(l, ZMI_K_JOIN, ZMI_C_NONE, -1, -1, 0, 0) < 0) return zm_last_status();
    zmi_lower_close(l, opener);
    forget(l, n);
    if (zmi_lower_statements(l, n->second) != ZM_OK) return zm_last_status();
  }
  if (close_block(l, n, opener) != ZM_OK) return zm_last_status();
  for (int32_t s = n->first; s >= 0; s = at(l, s)->next) {
    if (at(l, s)->deferred && lower_statement(l, s) != ZM_OK) return zm_last_status();
  }
  return ZM_OK;
}

// ---- tiles ----
enum { SHARED_LIMIT = 1 << 20, THREAD_LIMIT = 128 };

// An array of a thread that is declared in a loop or branch: its memory stands before the program, which is known when that is lowered once
// more; here it starts with zeros.
static zm_status fresh_array(zmi_lower *l, const zmi_node *n, int size) {
  const zmi_ctype t = zmi_written_type(n->type);
  zmi_held *s = &l->slots[n->symbol];
  if (l->wide[n->symbol] != size) {
    l->wide[n->symbol] = (uint8_t)size;
    l->again = true;
    *s = (zmi_held){.value = -1, .var = zmi_emit_x(l, ZMI_K_SHARED, t, -1, -1, 1, size), .type = (uint8_t)t, .written = n->type};
    return s->var < 0 ? zm_last_status() : ZM_OK;
  }
  const int zero = zmi_lower_zero(l, t), opener = open_for(l, const_int(l, 0), const_int(l, size), const_int(l, 1));
  if (zero < 0 || opener < 0 || zmi_emit_x(l, ZMI_K_SHARED_STORE, ZMI_C_NONE, opener, zero, s->var, 0) < 0) return zm_last_status();
  if (zmi_emit_x(l, ZMI_K_END, ZMI_C_NONE, -1, -1, 0, 0) < 0) return zm_last_status();
  zmi_lower_close(l, opener);
  return ZM_OK;
}

static zm_status memory_before(zmi_lower *l) { // of arrays that are declared in loops and branches
  for (size_t i = 0; i < l->k->symbol_count; i++) {
    const zmi_symbol *y = &l->k->symbols[i];
    if (y->kind != ZMI_Y_SHARED || l->wide[i] == 0) continue;
    const zmi_ctype t = zmi_written_type(y->type);
    const int v = zmi_emit_x(l, ZMI_K_SHARED, t, -1, -1, 1, l->wide[i]);
    if (v < 0) return zm_last_status();
    l->slots[i] = (zmi_held){.value = -1, .var = v, .type = (uint8_t)t, .written = y->type};
  }
  return ZM_OK;
}

static zm_status lower_shared(zmi_lower *l, int32_t node) {
  const zmi_node *n = at(l, node);
  int count = zmi_lower_whole(l, n->a, false);
  if (count < 0) return zm_last_status();
  const zmi_inst *x = &l->c->insts[count];
  const int most = n->op2 ? THREAD_LIMIT : SHARED_LIMIT;
  if (x->op != ZMI_K_CONST || x->imm.i <= 0 || x->imm.i > most) {
    zmi_lower_fail(l, n->a, "the number of elements is a constant, 1 to %d", most);
    return zm_last_status();
  }
  zmi_ctype t = zmi_written_type(n->type);
  const int size = (int)x->imm.i;
  if (n->op2 && n->c == 1) return fresh_array(l, n, size);
  int v = zmi_emit_x(l, ZMI_K_SHARED, t, -1, -1, n->op2, size);
  l->slots[n->symbol] = (zmi_held){.value = -1, .var = v, .type = (uint8_t)t, .written = n->type};
  return v < 0 ? zm_last_status() : ZM_OK;
}

static zm_status lower_store(zmi_lower *l, int32_t node) {
  const zmi_node *n = at(l, node);
  const zmi_symbol *y = &l->k->symbols[n->symbol];
  const zmi_held *s = &l->slots[n->symbol];
  int place = zmi_lower_whole(l, n->a, true), value = place < 0 ? -1 : zmi_lower_expression(l, n->b);
  if (value < 0) return zm_last_status();
  int done;
  if (y->kind == ZMI_Y_SHARED) {
    value = zmi_code_convert(l->c, (zmi_ctype)s->type, zmi_lower_written(l, value, s->written));
    done = zmi_emit_x(l, ZMI_K_SHARED_STORE, ZMI_C_NONE, place, value, s->var, 0);
  } else {
    value = stored(l, value, l->c->out[y->index]);
    done = zmi_emit_x(l, n->kind == ZMI_S_ATOMIC ? ZMI_K_ATOMIC_ADD : ZMI_K_STORE, ZMI_C_NONE, place, value, y->index, 0);
  }
  return done < 0 ? zm_last_status() : ZM_OK;
}

static zm_status lower_value(zmi_lower *l, int32_t node) { // a declaration or an assignment
  const zmi_node *n = at(l, node);
  int value = zmi_lower_expression(l, n->a);
  if (value < 0) return zm_last_status();
  if (n->kind == ZMI_S_DECLARE) l->slots[n->symbol] = (zmi_held){.value = -1, .var = -1, .written = n->type, .declared = true};
  return assign(l, n->symbol, value);
}

static zm_status lower_statement(zmi_lower *l, int32_t s) {
  const zmi_node *n = at(l, s);
  switch ((zmi_node_kind)n->kind) {
  case ZMI_S_DECLARE:
  case ZMI_S_ASSIGN:
    return lower_value(l, s);
  case ZMI_S_STORE:
  case ZMI_S_ATOMIC:
    return lower_store(l, s);
  case ZMI_S_FOR:
    return lower_for(l, s);
  case ZMI_S_IF:
    return lower_if(l, s);
  case ZMI_S_ELEMENTS:
    return lower_elements(l, s);
  case ZMI_S_SHARED:
    return lower_shared(l, s);
  case ZMI_S_BARRIER:
    return lower_barrier(l, s);
  default:
    return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: a value where a statement is expected", l->k->facts.name);
  }
}

zm_status zmi_lower_statements(zmi_lower *l, int32_t first) {
  for (int32_t s = first; s >= 0; s = at(l, s)->next) {
    const zmi_node *n = at(l, s);
    if (n->deferred && zmi_lower_row(l, n->a) != ZM_OK) return zm_last_status(); // reductions at row level
    if (l->failed || lower_statement(l, s) != ZM_OK || l->failed) return zm_last_status();
  }
  return ZM_OK;
}

zm_status zmi_lower_program(zmi_lower *l) {
  const zmi_kernel *k = l->k;
  l->again = l->falling = false;
  for (size_t s = 0; s < k->symbol_count; s++) {
    const zmi_symbol *y = &k->symbols[s];
    l->slots[s] = (zmi_held){.value = -1, .var = -1};
    if (y->kind == ZMI_Y_OUTPUT && y->assigned_in == 0) declare_output(l, (int32_t)s);
  }
  if (k->simd && zmi_lower_simd_memory(l) != ZM_OK) return zm_last_status();
  if (memory_before(l) != ZM_OK || zmi_lower_statements(l, k->body) != ZM_OK) return zm_last_status();
  if (k->value >= 0) return write_output(l, 0, zmi_lower_expression(l, k->value));
  return k->facts.form < ZMI_FORM_TILES ? write_outputs(l, 0, -1) : ZM_OK;
}
