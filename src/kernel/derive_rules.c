// Derivatives of single instructions, and copying of code. At ties the rules are MLX's: of max(a, b) the change goes to b unless a is
// larger, of min(a, b) unless a is smaller; abs has none at zero; a reduction to the largest or smallest shares among the tied.
#include "kernel/derive.h"

#include <string.h>

int zmi_inst_operand(const zmi_inst *x, int k) {
  return k >= zmi_cop_rows[x->op].operands ? -1 : k == 0 ? x->a : k == 1 ? x->b : x->c;
}

static bool has_no_slope(zmi_cop op) {
  char kind = zmi_cop_rows[op].kind;
  return kind == 'P' || kind == 'B' || kind == 'C' || kind == 'L' || kind == 'T' || kind == 'M' || op == ZMI_K_SIGN ||
         (op >= ZMI_K_FLOOR && op <= ZMI_K_TRUNC) || op == ZMI_K_ARGMAX || op == ZMI_K_ARGMIN;
}

static bool find_active(zmi_derive *d, const bool *wanted) { // one pass; whether something changed
  bool changed = false;
  for (size_t i = 0; i < d->from->count; i++) {
    const zmi_inst *x = &d->from->insts[i];
    bool on = d->active[i];
    if (x->op == ZMI_K_SET) {
      if (d->active[x->a] && !d->active[x->index]) d->active[x->index] = changed = true;
      continue;
    }
    if (on || x->type != ZMI_C_FLOAT) continue;
    if (x->op == ZMI_K_INPUT) on = wanted[x->index];
    if (x->op == ZMI_K_GET || x->op == ZMI_K_GET_RIGHT) on = d->active[x->index];
    for (int k = 0; k < 3 && !on && !has_no_slope(x->op); k++) on = zmi_inst_operand(x, k) >= 0 && d->active[zmi_inst_operand(x, k)];
    if (on) d->active[i] = changed = true;
  }
  return changed;
}

zm_status zmi_derive_start(zmi_derive *d, const zmi_code *from, const char *suffix, const bool *wanted) {
  char name[64];
  size_t n = from->count ? from->count : 1, length = strlen(from->name);
  if (length > sizeof name - 1 - strlen(suffix)) length = sizeof name - 1 - strlen(suffix);
  memcpy(name, from->name, length);
  strcpy(name + length, suffix);
  *d = (zmi_derive){.from = from, .leaf = ZMI_NO_LEAF, .inside = -1};
  memset(d->seed, -1, sizeof d->seed);
  int **arrays[] = {&d->map, &d->tangent, &d->var, &d->around, &d->count, &d->rest, &d->zeros, &d->trace};
  for (size_t i = 0; i < ZMI_COUNT(arrays); i++) {
    if (!(*arrays[i] = zmi_malloc(n * sizeof(int)))) return zm_last_status();
    memset(*arrays[i], -1, n * sizeof(int));
  }
  if (!(d->active = zmi_calloc(n, sizeof *d->active)) || !(d->to = zmi_code_new(from->form, name))) return zm_last_status();
  while (find_active(d, wanted)) continue;
  d->to->nparams = from->nparams;
  for (int i = 0, depth = 0, block = -1; i < (int)from->count; i++) {
    zmi_cop op = from->insts[i].op;
    if (op == ZMI_K_ELEMENTS) block = i;
    d->around[i] = block;
    if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELEMENTS) depth++;
    if (op == ZMI_K_END && --depth == 0) block = -1;
  }
  return ZM_OK;
}

void zmi_derive_end(zmi_derive *d) {
  zmi_free(d->map), zmi_free(d->tangent), zmi_free(d->var), zmi_free(d->around), zmi_free(d->count), zmi_free(d->rest), zmi_free(d->zeros),
      zmi_free(d->trace), zmi_free(d->active);
}

// ---- copying ----
static int mapped(const zmi_derive *d, int v) {
  return v < 0 ? -1 : d->map[v];
}

int zmi_derive_copy(zmi_derive *d, int i) {
  const zmi_inst *x = &d->from->insts[i];
  int a = mapped(d, zmi_inst_operand(x, 0)), b = mapped(d, zmi_inst_operand(x, 1)), c = mapped(d, zmi_inst_operand(x, 2));
  char kind = zmi_cop_rows[x->op].kind;
  if (x->op == ZMI_K_CONST)
    return d->map[i] = x->type == ZMI_C_FLOAT ? zmi_code_const_f(d->to, x->imm.f) : zmi_code_const_i(d->to, x->type, x->imm.i);
  if (kind == 'P') return d->map[i] = zmi_code_leaf(d->to, x->op, x->type, x->index, x->extra);
  if (x->op == ZMI_K_CONVERT) return d->map[i] = zmi_code_convert(d->to, x->type, a);
  if (kind != 'X' && kind != 'M' && x->op != ZMI_K_BITCAST) return d->map[i] = zmi_code_op(d->to, x->op, a, b, c);
  bool var = x->op == ZMI_K_GET || x->op == ZMI_K_SET || x->op == ZMI_K_GET_RIGHT;
  zmi_inst y = {.op = x->op, .type = x->type, .a = a, .b = b, .c = c, .index = var ? mapped(d, x->index) : x->index, .extra = x->extra};
  return d->map[i] = zmi_code_emit(d->to, &y);
}

static bool is_number(const zmi_derive *d, int v, float number) {
  const zmi_inst *x = &d->to->insts[v];
  return x->op == ZMI_K_CONST && x->type == ZMI_C_FLOAT && x->imm.f == number;
}

// What passes a choice is the change of the side that was chosen, and zero for the other. Factors act inside, on the side that there is:
// the slope of what was not chosen may be infinite, and zero times infinity is NaN.
static bool is_half(const zmi_derive *d, int v) {
  const zmi_inst *x = &d->to->insts[v];
  return x->op == ZMI_K_SELECT && x->type == ZMI_C_FLOAT && (is_number(d, x->b, 0) || is_number(d, x->c, 0));
}

static int side_sum(zmi_derive *d, int a, int b) {
  return is_number(d, a, 0) ? b : is_number(d, b, 0) ? a : zmi_code_op(d->to, ZMI_K_ADD, a, b, -1);
}

int zmi_derive_sum(zmi_derive *d, int total, int part) {
  if (part < 0 || total < 0) return part < 0 ? total : part;
  zmi_inst a = d->to->insts[total], b = d->to->insts[part];
  if (is_half(d, total) && is_half(d, part) && a.a == b.a)
    return zmi_code_op(d->to, ZMI_K_SELECT, a.a, side_sum(d, a.b, b.b), side_sum(d, a.c, b.c));
  return zmi_code_op(d->to, ZMI_K_ADD, total, part, -1);
}

int zmi_derive_apply(zmi_derive *d, zmi_factor f, int t) {
  if (t < 0) return -1;
  bool acts = f.kind == ZMI_F_MINUS || f.kind == ZMI_F_TIMES || f.kind == ZMI_F_DIVIDE;
  if (acts && is_half(d, t)) {
    zmi_inst x = d->to->insts[t];
    bool first = is_number(d, x.c, 0);
    int side = zmi_derive_apply(d, f, first ? x.b : x.c);
    return zmi_code_op(d->to, ZMI_K_SELECT, x.a, first ? side : x.b, first ? x.c : side);
  }
  switch (f.kind) {
  case ZMI_F_NONE:
    return -1;
  case ZMI_F_ONE:
    return t;
  case ZMI_F_MINUS:
    return zmi_code_op(d->to, ZMI_K_NEG, t, -1, -1);
  case ZMI_F_TIMES:
    return is_number(d, t, 1) ? f.value : f.value >= 0 && is_number(d, f.value, 1) ? t : zmi_code_op(d->to, ZMI_K_MUL, t, f.value, -1);
  case ZMI_F_DIVIDE:
    return zmi_code_op(d->to, ZMI_K_DIV, t, f.value, -1);
  case ZMI_F_MASK:
    return zmi_code_op(d->to, ZMI_K_SELECT, f.value, t, zmi_code_const_f(d->to, 0));
  }
  return -1;
}

// ---- rules ----
typedef struct terms {
  zmi_code *c;
  int a, b, d, y; // operands and result
} terms;

static int num(const terms *t, float v) {
  return zmi_code_const_f(t->c, v);
}

static int op1(const terms *t, zmi_cop op, int a) {
  return zmi_code_op(t->c, op, a, -1, -1);
}

static int op2(const terms *t, zmi_cop op, int a, int b) {
  return zmi_code_op(t->c, op, a, b, -1);
}

static int mul(const terms *t, int a, int b) {
  return op2(t, ZMI_K_MUL, a, b);
}

static int near_one(const terms *t) { // (1 - a)(1 + a), exact where 1 - a^2 is not
  return mul(t, op2(t, ZMI_K_SUB, num(t, 1), t->a), op2(t, ZMI_K_ADD, num(t, 1), t->a));
}

// The slope of the sigmoid: even, so s is taken of -|a|, where nothing cancels in 1 - s. (Of a result near 1, which is rounded, few or no
// digits would be left. copysign has a slope at 0 for the next derivative, abs has none.)
static int bell(const terms *t, int a) {
  int s = op1(t, ZMI_K_SIGMOID, op2(t, ZMI_K_COPYSIGN, a, num(t, -1)));
  return mul(t, s, op2(t, ZMI_K_SUB, num(t, 1), s));
}

static zmi_factor times(int v) {
  return (zmi_factor){ZMI_F_TIMES, v};
}

static zmi_factor divide(int v) {
  return (zmi_factor){ZMI_F_DIVIDE, v};
}

static zmi_factor mask(int v) {
  return (zmi_factor){ZMI_F_MASK, v};
}

static const float ln2 = 0.69314718055994531f, ln10 = 2.30258509299404568f;

static zmi_factor power_rule(const terms *t, int operand) {
  const zmi_inst *b = &t->c->insts[t->b];
  if (operand == 1) { // y log(a); 0 where y is 0
    return times(zmi_code_op(t->c, ZMI_K_SELECT, op2(t, ZMI_K_EQ, t->y, num(t, 0)), num(t, 0), mul(t, t->y, op1(t, ZMI_K_LOG, t->a))));
  }
  if (b->op != ZMI_K_CONST) { // 0 where b is 0, also where 1 / a is not finite: a^0 stands in for a^(b - 1)
    int infinite = op1(t, ZMI_K_NOT, op1(t, ZMI_K_ISFINITE, op2(t, ZMI_K_DIV, num(t, 1), t->a)));
    int constant = op2(t, ZMI_K_AND, op2(t, ZMI_K_EQ, t->b, num(t, 0)), infinite);
    int rest = zmi_code_op(t->c, ZMI_K_SELECT, constant, num(t, 0), op2(t, ZMI_K_SUB, t->b, num(t, 1)));
    return times(mul(t, t->b, op2(t, ZMI_K_POW, t->a, rest)));
  }
  float e = b->imm.f;
  if (e == 0) return (zmi_factor){ZMI_F_NONE, -1};
  if (e == 1) return (zmi_factor){ZMI_F_ONE, -1};
  if (e == 2) return times(mul(t, num(t, 2), t->a));
  if (e == 3) return times(mul(t, num(t, 3), mul(t, t->a, t->a)));
  return times(mul(t, t->b, op2(t, ZMI_K_POW, t->a, op2(t, ZMI_K_SUB, t->b, num(t, 1)))));
}

static zmi_factor arithmetic_rule(const terms *t, zmi_cop op, int operand) {
  const zmi_factor one = {ZMI_F_ONE, -1}, minus = {ZMI_F_MINUS, -1}, none = {ZMI_F_NONE, -1};
  switch ((int)op) {
  case ZMI_K_NEG:
    return minus;
  case ZMI_K_ABS:
    return times(op1(t, ZMI_K_SIGN, t->a));
  case ZMI_K_ADD:
    return one;
  case ZMI_K_SUB:
    return operand ? minus : one;
  case ZMI_K_MUL:
    return times(operand ? t->a : t->b);
  case ZMI_K_DIV:
    return operand ? times(op1(t, ZMI_K_NEG, op2(t, ZMI_K_DIV, t->y, t->b))) : divide(t->b);
  case ZMI_K_REM:
    return operand ? times(op1(t, ZMI_K_NEG, op1(t, ZMI_K_TRUNC, op2(t, ZMI_K_DIV, t->a, t->b)))) : one;
  case ZMI_K_MIN:
    return mask(op2(t, operand ? ZMI_K_GE : ZMI_K_LT, t->a, t->b));
  case ZMI_K_MAX:
    return mask(op2(t, operand ? ZMI_K_LE : ZMI_K_GT, t->a, t->b));
  case ZMI_K_FMA:
    return operand == 2 ? one : times(operand ? t->a : t->b);
  case ZMI_K_SELECT:
    return operand == 0 ? none : mask(operand == 1 ? t->a : op1(t, ZMI_K_NOT, t->a));
  case ZMI_K_COPYSIGN:
    return operand ? none : times(mul(t, op2(t, ZMI_K_COPYSIGN, num(t, 1), t->a), op2(t, ZMI_K_COPYSIGN, num(t, 1), t->b)));
  case ZMI_K_ROUND_F16:
  case ZMI_K_ROUND_BF16:
    return one;
  case ZMI_K_POW:
    return power_rule(t, operand);
  case ZMI_K_ATAN2: {
    int square = op2(t, ZMI_K_ADD, mul(t, t->a, t->a), mul(t, t->b, t->b));
    return times(op2(t, ZMI_K_DIV, operand ? op1(t, ZMI_K_NEG, t->a) : t->b, square));
  }
  default:
    return none;
  }
}

static zmi_factor function_rule(const terms *t, zmi_cop op) { // of one operand
  int a = t->a, y = t->y;
  switch ((int)op) {
  case ZMI_K_SQRT:
    return times(op2(t, ZMI_K_DIV, num(t, 0.5f), y));
  case ZMI_K_RSQRT:
    return times(mul(t, mul(t, num(t, -0.5f), y), mul(t, y, y)));
  case ZMI_K_EXP:
    return times(y);
  case ZMI_K_EXP2:
    return times(mul(t, y, num(t, ln2)));
  case ZMI_K_EXPM1: // not y + 1: y is rounded, and -1 where e^a still has all its digits
    return times(op1(t, ZMI_K_EXP, a));
  case ZMI_K_LOG:
    return divide(a);
  case ZMI_K_LOG2:
    return divide(mul(t, a, num(t, ln2)));
  case ZMI_K_LOG10:
    return divide(mul(t, a, num(t, ln10)));
  case ZMI_K_LOG1P:
    return divide(op2(t, ZMI_K_ADD, a, num(t, 1)));
  case ZMI_K_SIN:
    return times(op1(t, ZMI_K_COS, a));
  case ZMI_K_COS:
    return times(op1(t, ZMI_K_NEG, op1(t, ZMI_K_SIN, a)));
  case ZMI_K_TAN:
    return times(op2(t, ZMI_K_ADD, num(t, 1), mul(t, y, y)));
  case ZMI_K_ASIN:
    return times(op1(t, ZMI_K_RSQRT, near_one(t)));
  case ZMI_K_ACOS:
    return times(op1(t, ZMI_K_NEG, op1(t, ZMI_K_RSQRT, near_one(t))));
  case ZMI_K_ATAN:
    return divide(op2(t, ZMI_K_ADD, num(t, 1), mul(t, a, a)));
  case ZMI_K_SINH:
    return times(op1(t, ZMI_K_COSH, a));
  case ZMI_K_COSH:
    return times(op1(t, ZMI_K_SINH, a));
  case ZMI_K_TANH: // 1 - y^2
    return times(mul(t, num(t, 4), bell(t, op2(t, ZMI_K_ADD, a, a))));
  case ZMI_K_ASINH:
    return times(op1(t, ZMI_K_RSQRT, op2(t, ZMI_K_ADD, num(t, 1), mul(t, a, a))));
  case ZMI_K_ACOSH:
    return times(op1(t, ZMI_K_RSQRT, mul(t, op2(t, ZMI_K_SUB, a, num(t, 1)), op2(t, ZMI_K_ADD, a, num(t, 1)))));
  case ZMI_K_ATANH:
    return divide(near_one(t));
  case ZMI_K_ERF:
    return times(mul(t, num(t, 1.12837916709551257f), op1(t, ZMI_K_EXP, op1(t, ZMI_K_NEG, mul(t, a, a)))));
  case ZMI_K_ERFINV:
    return times(mul(t, num(t, 0.88622692545275801f), op1(t, ZMI_K_EXP, mul(t, y, y))));
  case ZMI_K_SIGMOID:
    return times(bell(t, a));
  case ZMI_K_SILU: {
    int s = op1(t, ZMI_K_SIGMOID, a);
    return times(op2(t, ZMI_K_ADD, s, mul(t, y, op2(t, ZMI_K_SUB, num(t, 1), s))));
  }
  case ZMI_K_SOFTPLUS:
    return times(op1(t, ZMI_K_SIGMOID, a));
  default:
    return (zmi_factor){ZMI_F_NONE, -1};
  }
}

zmi_factor zmi_derive_factor(zmi_derive *d, int i, int operand) {
  const zmi_inst *x = &d->from->insts[i];
  terms t = {d->to, mapped(d, zmi_inst_operand(x, 0)), mapped(d, zmi_inst_operand(x, 1)), mapped(d, zmi_inst_operand(x, 2)), d->map[i]};
  if (has_no_slope(x->op)) return (zmi_factor){ZMI_F_NONE, -1};
  zmi_factor f = arithmetic_rule(&t, x->op, operand);
  return f.kind == ZMI_F_NONE && zmi_cop_rows[x->op].operands == 1 ? function_rule(&t, x->op) : f;
}
