// Operations on constants, with the very functions and the float rule that kernels run by.
#include "kernel/code_build.h"

#include <math.h>
#include <string.h>

#define APART __attribute__((noinline)) // so that nothing moves out of the float rule

static uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}

static float of_bits(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

static float flushed(float x) {
  return (bits_of(x) & 0x7f800000u) == 0 ? of_bits(bits_of(x) & 0x80000000u) : x;
}

APART static bool fold_floats(zmi_cop op, float a, float b, float d, float *y) {
  switch ((int)op) {
  case ZMI_K_ADD:
    *y = a + b;
    return true;
  case ZMI_K_SUB:
    *y = a - b;
    return true;
  case ZMI_K_MUL:
    *y = a * b;
    return true;
  case ZMI_K_DIV:
    *y = a / b;
    return true;
  case ZMI_K_FMA:
    *y = __builtin_fmaf(a, b, d);
    return true;
  case ZMI_K_SQRT:
    *y = __builtin_sqrtf(a);
    return true;
  case ZMI_K_RSQRT:
    *y = 1.0f / __builtin_sqrtf(a);
    return true;
  case ZMI_K_MIN:
    *y = a != a ? a : b != b ? b : a < b ? flushed(a) : flushed(b);
    return true;
  case ZMI_K_MAX:
    *y = a != a ? a : b != b ? b : a > b ? flushed(a) : flushed(b);
    return true;
  case ZMI_K_NEG:
    *y = of_bits(bits_of(a) ^ 0x80000000u);
    return true;
  case ZMI_K_ABS:
    *y = of_bits(bits_of(a) & 0x7fffffffu);
    return true;
  case ZMI_K_SIGN:
    *y = a > 0 ? 1.0f : a < 0 ? -1.0f : a;
    return true;
  case ZMI_K_COPYSIGN:
    *y = of_bits((bits_of(a) & 0x7fffffffu) | (bits_of(b) & 0x80000000u));
    return true;
  case ZMI_K_ROUND_F16:
  case ZMI_K_ROUND_BF16:
    zmi_tier(0)->round(&a, 1, op == ZMI_K_ROUND_F16 ? ZM_F16 : ZM_BF16);
    *y = a;
    return true;
  default:
    break;
  }
  char name[16] = "";
  for (size_t i = 0; i + 1 < sizeof name && zmi_cop_rows[op].name[i]; i++) name[i] = (char)(zmi_cop_rows[op].name[i] | 32); // lower case
  zmi_function_one one = zmi_cop_rows[op].operands == 1 ? zmi_function_of_one(name) : NULL;
  zmi_function_two two = zmi_cop_rows[op].operands == 2 ? zmi_function_of_two(name) : NULL;
  if (one) *y = one(a);
  if (two) *y = two(a, b);
  return one || two;
}

static bool compared(zmi_cop op, bool equal, bool less, bool more, bool *y) {
  switch ((int)op) {
  case ZMI_K_EQ:
    *y = equal;
    return true;
  case ZMI_K_NE:
    *y = !equal;
    return true;
  case ZMI_K_LT:
    *y = less;
    return true;
  case ZMI_K_LE:
    *y = less || equal;
    return true;
  case ZMI_K_GT:
    *y = more;
    return true;
  case ZMI_K_GE:
    *y = more || equal;
    return true;
  default:
    return false;
  }
}

APART static bool compare_floats(zmi_cop op, float a, float b, bool *y) {
  switch ((int)op) {
  case ZMI_K_ISNAN:
    *y = a != a;
    return true;
  case ZMI_K_ISINF:
    *y = (bits_of(a) & 0x7fffffffu) == 0x7f800000u;
    return true;
  case ZMI_K_ISFINITE:
    *y = (bits_of(a) & 0x7f800000u) != 0x7f800000u;
    return true;
  default:
    return compared(op, a == b, a<b, a> b, y);
  }
}

static bool is_signed(zmi_ctype t) {
  return t == ZMI_C_INT || t == ZMI_C_LONG;
}

static int width_of(zmi_ctype t) {
  return t == ZMI_C_LONG || t == ZMI_C_ULONG ? 64 : 32;
}

static int64_t wrapped(zmi_ctype t, uint64_t x) {
  if (t == ZMI_C_BOOL) return x & 1;
  if (t == ZMI_C_INT) return (int32_t)(uint32_t)x;
  return t == ZMI_C_UINT ? (int64_t)(uint32_t)x : (int64_t)x;
}

static uint64_t quotient(zmi_ctype t, int64_t a, int64_t b, bool rest) {
  uint64_t ua = (uint64_t)a, ub = (uint64_t)b;
  if (b == 0) return 0;
  if (!is_signed(t)) return rest ? ua % ub : ua / ub;
  if (b == -1) return rest ? 0 : 0 - ua;
  return (uint64_t)(rest ? a % b : a / b);
}

static bool less(zmi_ctype t, int64_t a, int64_t b) {
  return t == ZMI_C_ULONG ? (uint64_t)a < (uint64_t)b : a < b;
}

static bool fold_integers(zmi_cop op, zmi_ctype t, int64_t a, int64_t b, int64_t *y) {
  uint64_t ua = (uint64_t)a, ub = (uint64_t)b, r;
  int shift = (int)(ub & (uint64_t)(width_of(t) - 1));
  switch ((int)op) {
  case ZMI_K_ADD:
    r = ua + ub;
    break;
  case ZMI_K_SUB:
    r = ua - ub;
    break;
  case ZMI_K_MUL:
    r = ua * ub;
    break;
  case ZMI_K_DIV:
    r = quotient(t, a, b, false);
    break;
  case ZMI_K_REM:
    r = quotient(t, a, b, true);
    break;
  case ZMI_K_MIN:
    r = less(t, a, b) ? ua : ub;
    break;
  case ZMI_K_MAX:
    r = less(t, a, b) ? ub : ua;
    break;
  case ZMI_K_NEG:
    r = 0 - ua;
    break;
  case ZMI_K_ABS:
    r = is_signed(t) && a < 0 ? 0 - ua : ua;
    break;
  case ZMI_K_SIGN:
    r = a == 0 ? 0 : is_signed(t) && a < 0 ? ~(uint64_t)0 : 1;
    break;
  case ZMI_K_BIT_AND:
    r = ua & ub;
    break;
  case ZMI_K_BIT_OR:
    r = ua | ub;
    break;
  case ZMI_K_BIT_XOR:
    r = ua ^ ub;
    break;
  case ZMI_K_BIT_NOT:
    r = ~ua;
    break;
  case ZMI_K_SHL:
    r = ua << shift;
    break;
  case ZMI_K_SHR:
    r = is_signed(t) && a < 0 ? ~(~ua >> shift) : ua >> shift;
    break;
  case ZMI_K_POPCOUNT:
    r = (uint64_t)__builtin_popcountll(width_of(t) == 32 ? (uint32_t)ua : ua);
    break;
  default:
    return false;
  }
  *y = wrapped(t, r);
  return true;
}

static bool compare_integers(zmi_cop op, zmi_ctype t, int64_t a, int64_t b, bool *y) {
  return compared(op, a == b, less(t, a, b), less(t, b, a), y);
}

static int64_t limited(zmi_ctype t, float x) { // toward zero, limited to the range, NaN to 0
  if (x != x) return 0;
  if (t == ZMI_C_INT) return x >= 0x1p31f ? INT32_MAX : x <= -0x1p31f ? INT32_MIN : (int32_t)x;
  if (t == ZMI_C_UINT) return x >= 0x1p32f ? (int64_t)UINT32_MAX : x <= 0 ? 0 : (int64_t)(uint32_t)x;
  if (t == ZMI_C_LONG) return x >= 0x1p63f ? INT64_MAX : x <= -0x1p63f ? INT64_MIN : (int64_t)x;
  return x >= 0x1p64f ? -1 : x <= 0 ? 0 : (int64_t)(uint64_t)x;
}

APART static bool convert(zmi_ctype from, const zmi_inst *a, zmi_inst *y) {
  if (y->type == ZMI_C_FLOAT) {
    y->imm.f = from == ZMI_C_ULONG ? (float)(uint64_t)a->imm.i : (float)a->imm.i;
  } else if (y->type == ZMI_C_BOOL) {
    y->imm.i = from == ZMI_C_FLOAT ? a->imm.f != 0 : a->imm.i != 0;
  } else {
    y->imm.i = from == ZMI_C_FLOAT ? limited(y->type, a->imm.f) : wrapped(y->type, (uint64_t)a->imm.i);
  }
  return true;
}

static bool bitcast(zmi_ctype from, const zmi_inst *a, zmi_inst *y) {
  uint32_t u = from == ZMI_C_FLOAT ? bits_of(a->imm.f) : (uint32_t)a->imm.i;
  if (y->type == ZMI_C_FLOAT) {
    y->imm.f = of_bits(u);
  } else {
    y->imm.i = wrapped(y->type, u);
  }
  return true;
}

static bool fold(const zmi_inst *x, const zmi_inst *a, const zmi_inst *b, const zmi_inst *d, zmi_inst *y) {
  char kind = zmi_cop_rows[x->op].kind;
  bool truth = false, ok = false;
  y->type = x->type;
  if (kind == 'L') {
    y->imm.i = x->op == ZMI_K_NOT ? !a->imm.i : x->op == ZMI_K_AND ? a->imm.i && b->imm.i : a->imm.i || b->imm.i;
    return true;
  }
  if (x->op == ZMI_K_CONVERT) return convert(a->type, a, y);
  if (x->op == ZMI_K_BITCAST) return bitcast(a->type, a, y);
  if (kind == 'C') {
    ok = a->type == ZMI_C_FLOAT ? compare_floats(x->op, a->imm.f, b->imm.f, &truth)
                                : compare_integers(x->op, a->type, a->imm.i, b->imm.i, &truth);
    y->imm.i = truth;
    return ok;
  }
  if (x->type != ZMI_C_FLOAT) return fold_integers(x->op, x->type, a->imm.i, b->imm.i, &y->imm.i);
  ok = fold_floats(x->op, a->imm.f, b->imm.f, d->imm.f, &y->imm.f);
  if (ok && y->imm.f != y->imm.f) y->imm.f = __builtin_nanf("");
  return ok;
}

bool zmi_code_fold(const zmi_inst *x, const zmi_inst *a, const zmi_inst *b, const zmi_inst *d, zmi_inst *result) {
  *result = (zmi_inst){.op = ZMI_K_CONST, .a = -1, .b = -1, .c = -1};
  unsigned saved = zmi_float_rule_enter();
  bool ok = fold(x, a, b, d, result);
  zmi_float_rule_leave(saved);
  return ok;
}

// ---- exact simplification ----
typedef struct rewrite {
  zmi_code *c;
  zmi_inst *x;
  const zmi_inst *a, *b, *d;
} rewrite;

static bool is_const(const zmi_inst *x, double value) {
  if (x->op != ZMI_K_CONST) return false;
  return x->type == ZMI_C_FLOAT ? (double)x->imm.f == value && !(value == 0 && bits_of(x->imm.f) != 0) : (double)x->imm.i == value;
}

int zmi_code_without(const zmi_code *c, zmi_cop op, int value) {
  const zmi_inst *x = &c->insts[value];
  double neutral = op == ZMI_K_MUL;
  if (x->op != op) return value;
  return is_const(&c->insts[x->a], neutral) ? x->b : is_const(&c->insts[x->b], neutral) ? x->a : value;
}

// A float that is no denormal, so that multiplying it by one changes nothing.
static bool is_flushed(const zmi_code *c, int v) {
  for (int depth = 0; depth < 64; depth++) {
    const zmi_inst *x = &c->insts[v];
    char kind = zmi_cop_rows[x->op].kind;
    if (x->op == ZMI_K_CONST) return flushed(x->imm.f) == x->imm.f;
    if (x->op == ZMI_K_NEG || x->op == ZMI_K_ABS || x->op == ZMI_K_COPYSIGN) {
      v = x->a;
      continue;
    }
    if (x->op == ZMI_K_ROUND_F16 || x->op == ZMI_K_ROUND_BF16 || x->op == ZMI_K_SIGN) return false;
    return kind == 'F' || kind == 'A' || x->op == ZMI_K_CONVERT || (x->op >= ZMI_K_SUM && x->op <= ZMI_K_PROD) || x->op == ZMI_K_SCAN_SUM;
  }
  return false;
}

static void sort_operands(zmi_inst *x) { // of operations whose order changes no bit
  zmi_cop op = x->op;
  bool commutes = op == ZMI_K_ADD || op == ZMI_K_MUL || op == ZMI_K_FMA || op == ZMI_K_EQ || op == ZMI_K_NE || op == ZMI_K_AND ||
                  op == ZMI_K_OR || op == ZMI_K_BIT_AND || op == ZMI_K_BIT_OR || op == ZMI_K_BIT_XOR;
  if (!commutes || x->a <= x->b) return;
  int32_t t = x->a;
  x->a = x->b;
  x->b = t;
}

static int simplify_product(rewrite *w, int x, const zmi_inst *factor) {
  if (w->x->type != ZMI_C_FLOAT && is_const(factor, 0)) return zmi_code_const_i(w->c, w->x->type, 0);
  if (!is_const(factor, 1)) return ZMI_NOT_SIMPLER;
  return w->x->type != ZMI_C_FLOAT || is_flushed(w->c, x) ? x : ZMI_NOT_SIMPLER;
}

static int simplify_arithmetic(rewrite *w) {
  zmi_inst *x = w->x;
  bool whole = x->type != ZMI_C_FLOAT;
  int same;
  switch ((int)x->op) {
  case ZMI_K_ADD:
    if (whole && is_const(w->b, 0)) return x->a;
    return whole && is_const(w->a, 0) ? x->b : ZMI_NOT_SIMPLER;
  case ZMI_K_SUB:
    if (whole && x->a == x->b) return zmi_code_const_i(w->c, x->type, 0);
    return whole && is_const(w->b, 0) ? x->a : ZMI_NOT_SIMPLER;
  case ZMI_K_MUL:
    same = simplify_product(w, x->a, w->b);
    return same != ZMI_NOT_SIMPLER ? same : simplify_product(w, x->b, w->a);
  case ZMI_K_DIV:
    if (is_const(w->b, 1) && (whole || is_flushed(w->c, x->a))) return x->a;
    if (!whole && w->b->op == ZMI_K_CONST && (bits_of(w->b->imm.f) & 0x007fffffu) == 0) { // a power of two: its reciprocal is exact
      uint32_t e = bits_of(w->b->imm.f) >> 23 & 0xff;
      if (e > 1 && e < 253) return zmi_code_op(w->c, ZMI_K_MUL, x->a, zmi_code_const_f(w->c, 1.0f / w->b->imm.f), -1);
    }
    return ZMI_NOT_SIMPLER;
  case ZMI_K_MIN:
  case ZMI_K_MAX:
    return whole && x->a == x->b ? x->a : ZMI_NOT_SIMPLER;
  case ZMI_K_NEG:
    return w->a->op == ZMI_K_NEG ? w->a->a : ZMI_NOT_SIMPLER;
  case ZMI_K_ABS:
    return w->a->op == ZMI_K_ABS ? x->a : ZMI_NOT_SIMPLER;
  case ZMI_K_BIT_AND:
  case ZMI_K_BIT_OR:
    return x->a == x->b ? x->a : ZMI_NOT_SIMPLER;
  case ZMI_K_SHL:
  case ZMI_K_SHR:
    return is_const(w->b, 0) ? x->a : ZMI_NOT_SIMPLER;
  case ZMI_K_BIT_NOT:
  case ZMI_K_NOT:
    return w->a->op == x->op ? w->a->a : ZMI_NOT_SIMPLER;
  default:
    return ZMI_NOT_SIMPLER;
  }
}

static int simplify_logic(rewrite *w) {
  zmi_inst *x = w->x;
  if (x->op == ZMI_K_SELECT) {
    if (w->a->op == ZMI_K_CONST) return w->a->imm.i ? x->b : x->c;
    if (x->b == x->c) return x->b;
    if (w->a->op == ZMI_K_NOT) return zmi_code_op(w->c, ZMI_K_SELECT, w->a->a, x->c, x->b);
    return x->type == ZMI_C_BOOL && is_const(w->b, 1) && is_const(w->d, 0) ? x->a : ZMI_NOT_SIMPLER;
  }
  if (x->op != ZMI_K_AND && x->op != ZMI_K_OR) return ZMI_NOT_SIMPLER;
  if (x->a == x->b) return x->a;
  double neutral = x->op == ZMI_K_AND;
  if (w->a->op == ZMI_K_CONST) return is_const(w->a, neutral) ? x->b : x->a;
  if (w->b->op == ZMI_K_CONST) return is_const(w->b, neutral) ? x->a : x->b;
  return ZMI_NOT_SIMPLER;
}

// Rounding what has been rounded to the same dtype, or comes from memory of that dtype.
static int simplify_round(rewrite *w) {
  zmi_cop op = w->x->op;
  zm_dtype dtype = op == ZMI_K_ROUND_F16 ? ZM_F16 : ZM_BF16;
  bool stored = (w->a->op == ZMI_K_INPUT || w->a->op == ZMI_K_LOAD) && w->c->in[w->a->index] == dtype;
  return w->a->op == op || stored ? w->x->a : ZMI_NOT_SIMPLER;
}

static bool is_known(const zmi_inst *x) {
  return x->op == ZMI_K_CONST;
}

int zmi_code_simplify(zmi_code *c, zmi_inst *x) {
  int operands = zmi_cop_rows[x->op].operands;
  sort_operands(x);
  // copies: making a value may move the instructions
  zmi_inst a = c->insts[x->a], b = operands > 1 ? c->insts[x->b] : a, d = operands > 2 ? c->insts[x->c] : b, result;
  bool known = is_known(&a) && is_known(&b) && is_known(&d);
  if (known && x->op != ZMI_K_SELECT && zmi_code_fold(x, &a, &b, &d, &result)) {
    return result.type == ZMI_C_FLOAT ? zmi_code_const_f(c, result.imm.f) : zmi_code_const_i(c, result.type, result.imm.i);
  }
  rewrite w = {c, x, &a, &b, &d};
  if (x->op == ZMI_K_ROUND_F16 || x->op == ZMI_K_ROUND_BF16) return simplify_round(&w);
  if (x->op == ZMI_K_CONVERT && a.op == ZMI_K_SELECT && c->insts[a.b].op == ZMI_K_CONST && c->insts[a.c].op == ZMI_K_CONST) {
    return zmi_code_op(c, ZMI_K_SELECT, a.a, zmi_code_convert(c, x->type, a.b), zmi_code_convert(c, x->type, a.c));
  }
  int same = simplify_logic(&w);
  return same != ZMI_NOT_SIMPLER ? same : simplify_arithmetic(&w);
}
