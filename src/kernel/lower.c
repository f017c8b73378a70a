// Lowering of expressions: types, conversions, guarded reads.
#include "kernel/lower.h"

#include <stdio.h>
#include <string.h>

int zmi_lower_fail(zmi_lower *l, int32_t node, const char *format, ...) {
  if (l->failed) return -1;
  l->failed = true;
  char message[512];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  const zmi_node *n = &l->k->nodes[node];
  zmi_show_place(l->k->facts.name, l->k->source, (uint32_t)strlen(l->k->source), n->begin, n->end, message);
  return -1;
}

zmi_ctype zmi_type_at(const zmi_lower *l, int value) {
  return value < 0 ? ZMI_C_NONE : l->c->insts[value].type;
}

int zmi_emit_x(zmi_lower *l, zmi_cop op, zmi_ctype type, int a, int b, int index, int extra) {
  return zmi_code_emit(l->c, &(zmi_inst){.op = op, .type = type, .a = a, .b = b, .c = -1, .index = index, .extra = extra});
}

int zmi_lower_zero(zmi_lower *l, zmi_ctype type) {
  return zmi_code_const_i(l->c, type, 0);
}

static const char *type_words(zmi_ctype t) {
  return zmi_ctype_name(t);
}

// ---- conversions ----
static int rounded(zmi_lower *l, int value, int type) { // half, bfloat, T
  zm_dtype dtype = type == ZMI_W_HALF ? ZM_F16 : type == ZMI_W_BFLOAT ? ZM_BF16 : l->t;
  value = zmi_code_convert(l->c, ZMI_C_FLOAT, value);
  if (dtype == ZM_F32) return value;
  return zmi_code_op(l->c, dtype == ZM_F16 ? ZMI_K_ROUND_F16 : ZMI_K_ROUND_BF16, value, -1, -1);
}

static int cut(zmi_lower *l, int value, int type) { // char, uchar, short, ushort: floats are limited to the range, integers wrap around
  const bool sign = type == ZMI_W_I8 || type == ZMI_W_I16;
  const int bits = type == ZMI_W_I8 || type == ZMI_W_U8 ? 8 : 16, low = sign ? -(1 << (bits - 1)) : 0, high = low + (1 << bits) - 1;
  const bool limited = zmi_type_at(l, value) == ZMI_C_FLOAT;
  value = zmi_code_convert(l->c, ZMI_C_INT, value);
  if (limited) {
    value = zmi_code_op(l->c, ZMI_K_MIN, value, zmi_code_const_i(l->c, ZMI_C_INT, high), -1);
    return zmi_code_op(l->c, ZMI_K_MAX, value, zmi_code_const_i(l->c, ZMI_C_INT, low), -1);
  }
  if (!sign) return zmi_code_op(l->c, ZMI_K_BIT_AND, value, zmi_code_const_i(l->c, ZMI_C_INT, high), -1);
  const int places = zmi_code_const_i(l->c, ZMI_C_INT, 32 - bits);
  return zmi_code_op(l->c, ZMI_K_SHR, zmi_code_op(l->c, ZMI_K_SHL, value, places, -1), places, -1);
}

int zmi_lower_written(zmi_lower *l, int value, int type) {
  if (value < 0) return -1;
  if (type >= ZMI_W_I8) return cut(l, value, type);
  return type == 0 ? value : type >= ZMI_W_HALF ? rounded(l, value, type) : zmi_code_convert(l->c, (zmi_ctype)type, value);
}

static zmi_ctype wider(zmi_ctype a, zmi_ctype b) { // of two operands of arithmetic
  zmi_ctype t = a > b ? a : b;                     // the types are listed in this order
  return t == ZMI_C_BOOL ? ZMI_C_INT : t;
}

static int truth(zmi_lower *l, int value) {
  return zmi_code_convert(l->c, ZMI_C_BOOL, value);
}

int zmi_lower_integer(zmi_lower *l, int32_t node) {
  int v = zmi_lower_expression(l, node);
  zmi_ctype t = zmi_type_at(l, v);
  if (v < 0) return -1;
  if (t == ZMI_C_FLOAT) {
    return zmi_lower_fail(l, node,
                          "an integer is expected, this is float: convert it with int(...), or declare its parameter as in \"int k\"");
  }
  return t == ZMI_C_BOOL ? zmi_code_convert(l->c, ZMI_C_INT, v) : v;
}

int zmi_lower_whole(zmi_lower *l, int32_t node, bool wide) {
  int v = zmi_lower_integer(l, node);
  zmi_ctype t = zmi_type_at(l, v);
  if (v < 0) return -1;
  if (wide && (t == ZMI_C_UINT || t == ZMI_C_ULONG)) return zmi_code_convert(l->c, ZMI_C_LONG, v);
  return wide && t == ZMI_C_LONG ? v : zmi_code_convert(l->c, ZMI_C_INT, v);
}

// ---- operators ----
static const struct {
  int sign;
  zmi_cop op;
  char kind; // A arithmetic, B bits, S shift, C comparison, L logic
} operators[] = {
    {'+', ZMI_K_ADD, 'A'},
    {'-', ZMI_K_SUB, 'A'},
    {'*', ZMI_K_MUL, 'A'},
    {'/', ZMI_K_DIV, 'A'},
    {'%', ZMI_K_REM, 'A'},
    {'&', ZMI_K_BIT_AND, 'B'},
    {'|', ZMI_K_BIT_OR, 'B'},
    {'^', ZMI_K_BIT_XOR, 'B'},
    {'<' | '<' << 8, ZMI_K_SHL, 'S'},
    {'>' | '>' << 8, ZMI_K_SHR, 'S'},
    {'=' | '=' << 8, ZMI_K_EQ, 'C'},
    {'!' | '=' << 8, ZMI_K_NE, 'C'},
    {'<', ZMI_K_LT, 'C'},
    {'>', ZMI_K_GT, 'C'},
    {'<' | '=' << 8, ZMI_K_LE, 'C'},
    {'>' | '=' << 8, ZMI_K_GE, 'C'},
    {'&' | '&' << 8, ZMI_K_AND, 'L'},
    {'|' | '|' << 8, ZMI_K_OR, 'L'},
};

int zmi_lower_arithmetic(zmi_lower *l, int32_t node, int sign, int a, int b) {
  size_t o = 0;
  while (o + 1 < ZMI_COUNT(operators) && operators[o].sign != sign) o++;
  zmi_ctype ta = zmi_type_at(l, a), tb = zmi_type_at(l, b), t = wider(ta, tb);
  char kind = operators[o].kind;
  if (a < 0 || b < 0) return -1;
  if (kind == 'L') return zmi_code_op(l->c, operators[o].op, truth(l, a), truth(l, b), -1);
  if ((kind == 'B' || kind == 'S') && t == ZMI_C_FLOAT) {
    char s[3] = {(char)(sign & 0xff), (char)(sign >> 8), 0};
    return zmi_lower_fail(l, node, "'%s' is for integers, this is %s and %s%s", s, type_words(ta), type_words(tb),
                          sign == '^' ? "; a power is pow(a, b)" : "");
  }
  if (kind == 'C' && ta == tb) t = ta; // bools compare as they are
  if (kind == 'B' && ta == ZMI_C_BOOL && tb == ZMI_C_BOOL) t = ZMI_C_BOOL;
  if (kind == 'S') t = ta == ZMI_C_BOOL ? ZMI_C_INT : ta;
  return zmi_code_op(l->c, operators[o].op, zmi_code_convert(l->c, t, a), zmi_code_convert(l->c, t, b), -1);
}

// One side of an expression that reads memory only if a condition holds: a branch that sets a variable.
typedef struct guarded {
  int zero[ZMI_C_COUNT], var, value;
} guarded;

static bool guard_open(zmi_lower *l, guarded *g) {
  for (int t = ZMI_C_BOOL; t < ZMI_C_COUNT; t++) g->zero[t] = zmi_lower_zero(l, (zmi_ctype)t);
  g->var = zmi_emit_x(l, ZMI_K_VAR, ZMI_C_FLOAT, g->zero[ZMI_C_FLOAT], -1, 0, 0); // its type is set when it is known
  return g->var >= 0;
}

static bool guard_set(zmi_lower *l, guarded *g, int value) {
  if (value < 0) return false;
  l->c->insts[g->var].type = zmi_type_at(l, value);
  l->c->insts[g->var].a = g->zero[zmi_type_at(l, value)];
  return zmi_emit_x(l, ZMI_K_SET, ZMI_C_NONE, value, -1, g->var, 0) >= 0;
}

static int guard_get(zmi_lower *l, const guarded *g) {
  return zmi_emit_x(l, ZMI_K_GET, l->c->insts[g->var].type, -1, -1, g->var, 0);
}

static int choose(zmi_lower *l, int condition, int yes, int no) {
  zmi_ctype a = zmi_type_at(l, yes), b = zmi_type_at(l, no), t = a == b ? a : wider(a, b);
  if (condition < 0 || yes < 0 || no < 0) return -1;
  return zmi_code_op(l->c, ZMI_K_SELECT, condition, zmi_code_convert(l->c, t, yes), zmi_code_convert(l->c, t, no));
}

static int lower_choice(zmi_lower *l, const zmi_node *n) {
  int condition = truth(l, zmi_lower_expression(l, n->a));
  if (condition < 0) return -1;
  if (!l->k->nodes[n->b].loads && !l->k->nodes[n->c].loads) {
    int yes = zmi_lower_expression(l, n->b);
    return choose(l, condition, yes, yes < 0 ? -1 : zmi_lower_expression(l, n->c));
  }
  guarded yes, no;
  if (!guard_open(l, &yes) || !guard_open(l, &no)) return -1;
  int opener = zmi_emit_x(l, ZMI_K_IF, ZMI_C_NONE, condition, -1, 0, 0);
  if (opener < 0 || !guard_set(l, &yes, zmi_lower_expression(l, n->b))) return -1;
  zmi_lower_close(l, opener);
  if (zmi_emit_x(l, ZMI_K_ELSE, ZMI_C_NONE, -1, -1, 0, 0) < 0 || !guard_set(l, &no, zmi_lower_expression(l, n->c))) return -1;
  zmi_lower_close(l, opener);
  if (zmi_emit_x(l, ZMI_K_END, ZMI_C_NONE, -1, -1, 0, 0) < 0) return -1;
  int a = guard_get(l, &yes), b = guard_get(l, &no);
  return choose(l, condition, a, b);
}

static int lower_guarded_logic(zmi_lower *l, const zmi_node *n) { // a && b, a || b where b reads memory
  int a = truth(l, zmi_lower_expression(l, n->a));
  bool both = n->op == ('&' | '&' << 8);
  guarded g;
  if (a < 0 || !guard_open(l, &g)) return -1;
  int condition = both ? a : zmi_code_op(l->c, ZMI_K_NOT, a, -1, -1),
      opener = condition < 0 ? -1 : zmi_emit_x(l, ZMI_K_IF, ZMI_C_NONE, condition, -1, 0, 0);
  if (opener < 0 || !guard_set(l, &g, truth(l, zmi_lower_expression(l, n->b)))) return -1;
  zmi_lower_close(l, opener);
  if (zmi_emit_x(l, ZMI_K_END, ZMI_C_NONE, -1, -1, 0, 0) < 0) return -1;
  return zmi_code_op(l->c, both ? ZMI_K_AND : ZMI_K_OR, a, guard_get(l, &g), -1);
}

static int lower_unary(zmi_lower *l, int32_t node, const zmi_node *n) {
  int a = zmi_lower_expression(l, n->a);
  zmi_ctype t = zmi_type_at(l, a);
  if (a < 0) return -1;
  if (n->op == '!') return zmi_code_op(l->c, ZMI_K_NOT, truth(l, a), -1, -1);
  if (n->op == '~' && t == ZMI_C_FLOAT) return zmi_lower_fail(l, node, "'~' is for integers, this is float");
  if (t == ZMI_C_BOOL) a = zmi_code_convert(l->c, ZMI_C_INT, a);
  return zmi_code_op(l->c, n->op == '~' ? ZMI_K_BIT_NOT : ZMI_K_NEG, a, -1, -1);
}

static int lower_bitcast(zmi_lower *l, int32_t node, const zmi_node *n) {
  int a = zmi_lower_expression(l, n->a);
  zmi_ctype from = zmi_type_at(l, a), to = (zmi_ctype)n->type;
  if (a < 0) return -1;
  bool fits =
      (from == ZMI_C_INT || from == ZMI_C_UINT || from == ZMI_C_FLOAT) && (to == ZMI_C_INT || to == ZMI_C_UINT || to == ZMI_C_FLOAT);
  if (!fits) return zmi_lower_fail(l, node, "as_type goes between float, int and uint");
  return from == to ? a : zmi_emit_x(l, ZMI_K_BITCAST, to, a, -1, 0, 0);
}

static int lower_call(zmi_lower *l, int32_t node, const zmi_node *n) {
  const int32_t nodes[] = {n->a, n->b, n->c};
  const zmi_cop_row *row = &zmi_cop_rows[n->op];
  int values[3] = {-1, -1, -1};
  zmi_ctype t = ZMI_C_NONE;
  for (int i = 0; i < row->operands; i++) {
    values[i] = zmi_lower_expression(l, nodes[i]);
    if (values[i] < 0) return -1;
    t = wider(t, zmi_type_at(l, values[i]));
  }
  if (n->op == ZMI_K_SCAN_SUM) {
    if (l->falling) return zmi_lower_fail(l, node, "no cumsum where places fall: add to a variable");
    return zmi_emit_x(l, ZMI_K_SCAN_SUM, t, zmi_code_convert(l->c, t, values[0]), -1, 0, 0);
  }
  if (n->op == ZMI_K_POPCOUNT && t == ZMI_C_FLOAT) return zmi_lower_fail(l, node, "popcount is for integers, this is float");
  if (row->kind == 'F' || row->kind == 'C') t = ZMI_C_FLOAT;
  for (int i = 0; i < row->operands; i++) values[i] = zmi_code_convert(l->c, t, values[i]);
  return zmi_code_op(l->c, (zmi_cop)n->op, values[0], values[1], values[2]);
}

static int lower_inline(zmi_lower *l, const zmi_node *n) {
  if (n->op2) return zmi_lower_statements(l, n->first) == ZM_OK ? zmi_lower_expression(l, n->a) : -1;
  for (int32_t d = n->first; d >= 0; d = l->k->nodes[d].next) {
    int v = zmi_lower_expression(l, l->k->nodes[d].a);
    if (v < 0) return -1;
    l->slots[l->k->nodes[d].symbol] = (zmi_held){.value = v, .var = -1, .type = (uint8_t)zmi_type_at(l, v), .declared = true};
  }
  return zmi_lower_expression(l, n->a);
}

// ---- names ----
int zmi_lower_get(zmi_lower *l, int32_t symbol) {
  zmi_held *s = &l->slots[symbol];
  if (s->value >= 0) return s->value;
  if (s->var >= 0) return s->value = zmi_emit_x(l, ZMI_K_GET, (zmi_ctype)s->type, -1, -1, s->var, 0);
  return s->value = zmi_lower_zero(l, s->type           ? (zmi_ctype)s->type
                                      : l->wide[symbol] ? (zmi_ctype)l->wide[symbol]
                                                        : ZMI_C_INT); // assigned in some branches only
}

static int lower_name(zmi_lower *l, const zmi_node *n) {
  const zmi_symbol *s = &l->k->symbols[n->symbol];
  switch ((zmi_symbol_kind)s->kind) {
  case ZMI_Y_INPUT:
    return zmi_code_leaf(l->c, ZMI_K_INPUT, zmi_ctype_of(l->c->in[s->index]), s->index, 0);
  case ZMI_Y_PARAM: {
    int written = l->k->param_type[s->index];
    return zmi_code_leaf(l->c, ZMI_K_PARAM, written ? (zmi_ctype)written : s->whole ? ZMI_C_INT : ZMI_C_FLOAT, s->index, 0);
  }
  case ZMI_Y_LEAF:
    return zmi_code_leaf(l->c, (zmi_cop)s->index, ZMI_C_INT, 0, 0);
  case ZMI_Y_CONST:
    return s->type ? zmi_code_const_i(l->c, (zmi_ctype)s->type, s->number) : zmi_code_const_f(l->c, s->value);
  default:
    return zmi_lower_get(l, n->symbol);
  }
}

static int lower_index(zmi_lower *l, const zmi_node *n) {
  const zmi_symbol *s = &l->k->symbols[n->symbol];
  int place = zmi_lower_whole(l, n->a, true);
  if (place < 0) return -1;
  if (s->kind == ZMI_Y_INPUT) return zmi_emit_x(l, ZMI_K_LOAD, zmi_ctype_of(l->c->in[s->index]), place, -1, s->index, 0);
  const zmi_held *slot = &l->slots[n->symbol];
  return zmi_emit_x(l, ZMI_K_SHARED_LOAD, (zmi_ctype)slot->type, place, -1, slot->var, 0);
}

static int lower_inner(zmi_lower *l, int32_t node) {
  const zmi_node *n = &l->k->nodes[node];
  switch ((zmi_node_kind)n->kind) {
  case ZMI_N_NUMBER:
    return n->type == ZMI_C_FLOAT ? zmi_code_const_f(l->c, n->real) : zmi_code_const_i(l->c, (zmi_ctype)n->type, n->whole);
  case ZMI_N_LIMIT:
    return zmi_code_const_f(l->c, zmi_limit_of(n->op, l->t));
  case ZMI_N_NAME:
    return lower_name(l, n);
  case ZMI_N_RIGHT: {
    const zmi_held *s = &l->slots[n->symbol];
    if (s->var < 0) return zmi_lower_fail(l, node, "the block does not assign this variable");
    return zmi_emit_x(l, ZMI_K_GET_RIGHT, (zmi_ctype)s->type, -1, -1, s->var, 0);
  }
  case ZMI_N_UNARY:
    return lower_unary(l, node, n);
  case ZMI_N_BINARY: {
    bool logic = n->op == ('&' | '&' << 8) || n->op == ('|' | '|' << 8);
    if (logic && l->k->nodes[n->b].loads) return lower_guarded_logic(l, n);
    int a = zmi_lower_expression(l, n->a), b = a < 0 ? -1 : zmi_lower_expression(l, n->b);
    return zmi_lower_arithmetic(l, node, n->op, a, b);
  }
  case ZMI_N_CHOICE:
    return lower_choice(l, n);
  case ZMI_N_CAST:
    return zmi_lower_written(l, zmi_lower_expression(l, n->a), n->type);
  case ZMI_N_BITCAST:
    return lower_bitcast(l, node, n);
  case ZMI_N_CALL:
    return lower_call(l, node, n);
  case ZMI_N_REDUCE:
    return l->reduced[node];
  case ZMI_N_INLINE:
    return lower_inline(l, n);
  case ZMI_N_INDEX:
    return lower_index(l, n);
  case ZMI_N_GRID:
    return zmi_lower_grid(l, n);
  case ZMI_N_SIMD:
    return zmi_lower_simd(l, node);
  case ZMI_N_DIM:
    return zmi_code_leaf(l->c, ZMI_K_DIM, ZMI_C_INT, l->k->symbols[n->symbol].index, n->op);
  default:
    return -1;
  }
}

int zmi_lower_expression(zmi_lower *l, int32_t node) {
  return node < 0 || l->failed ? -1 : lower_inner(l, node);
}

// ---- reductions ----
static zm_status reduce_here(zmi_lower *l, int32_t node) {
  const zmi_node *n = &l->k->nodes[node];
  if (l->falling) zmi_lower_fail(l, node, "no reductions where places fall: add to a variable");
  int v = zmi_lower_expression(l, n->a);
  if (zmi_type_at(l, v) == ZMI_C_BOOL) v = zmi_code_convert(l->c, ZMI_C_INT, v);
  if (v < 0) return zm_last_status();
  zmi_ctype t = n->op == ZMI_K_ARGMAX || n->op == ZMI_K_ARGMIN ? ZMI_C_INT : zmi_type_at(l, v);
  zmi_cop op = (zmi_cop)n->op;
  if (op == ZMI_K_SUMSQ && t != ZMI_C_FLOAT) op = ZMI_K_SUM, v = zmi_code_op(l->c, ZMI_K_MUL, v, v, -1);
  l->reduced[node] = zmi_emit_x(l, op, t, v, -1, 0, 0);
  return l->reduced[node] < 0 ? zm_last_status() : ZM_OK;
}

// Each REDUCE of an expression that is not inside another.
static zm_status each_reduction(zmi_lower *l, int32_t node, zm_status (*fn)(zmi_lower *, int32_t)) {
  if (node < 0 || !l->k->nodes[node].reduces) return ZM_OK;
  const zmi_node *n = &l->k->nodes[node];
  if (n->kind == ZMI_N_REDUCE) return fn(l, node);
  for (int32_t d = n->kind == ZMI_N_INLINE ? n->first : -1; d >= 0; d = l->k->nodes[d].next) {
    if (each_reduction(l, l->k->nodes[d].a, fn) != ZM_OK) return zm_last_status();
  }
  if (each_reduction(l, n->a, fn) != ZM_OK || each_reduction(l, n->b, fn) != ZM_OK) return zm_last_status();
  return each_reduction(l, n->c, fn);
}

zm_status zmi_lower_reductions(zmi_lower *l, int32_t node) {
  return each_reduction(l, node, reduce_here);
}

static zm_status inner_first(zmi_lower *l, int32_t node) {
  return zmi_lower_row(l, l->k->nodes[node].a);
}

zm_status zmi_lower_row(zmi_lower *l, int32_t node) {
  if (node < 0 || !l->k->nodes[node].reduces) return ZM_OK;
  if (each_reduction(l, node, inner_first) != ZM_OK) return zm_last_status();
  int opener = zmi_emit_x(l, ZMI_K_ELEMENTS, ZMI_C_NONE, -1, -1, 0, 0);
  if (opener < 0 || each_reduction(l, node, reduce_here) != ZM_OK) return zm_last_status();
  if (zmi_emit_x(l, ZMI_K_END, ZMI_C_NONE, -1, -1, 0, 0) < 0) return zm_last_status();
  zmi_lower_close(l, opener);
  return ZM_OK;
}

void zmi_lower_close(zmi_lower *l, int opener) {
  for (size_t s = 0; s < l->k->symbol_count; s++) {
    if (l->slots[s].value > opener) l->slots[s].value = -1;
    if (l->slots[s].var > opener) l->slots[s].declared = false, l->slots[s].var = -1; // declared inside
  }
}
