// Typed code evaluated in plain loops, one place after another: what the interpreter is compared with. No chunks, no slots, no masks.
#ifndef TESTS_INTERPRET_PLAIN_H
#define TESTS_INTERPRET_PLAIN_H

#include "backend/prelude/numbers.h"
// numbers.h first
#include "backend/prelude/functions.h"
#include "kernel/kernel.h"

#include <stdlib.h>
#include <string.h>

#undef bool // a type instead of a macro, so that its name can be pasted below
typedef _Bool bool;

typedef union value {
  bool b;
  int32_t i;
  uint32_t u;
  int64_t l;
  uint64_t ul;
  float f;
} value;

typedef struct plain {
  const zmi_code *c;
  value *v;     // of instructions; of variables their present value
  value *lanes; // 16 an instruction: copies of variables
  value *first; // variables before a block
  value **seen; // what reductions collect
  value *carry;
  size_t room;
  const void *const *in;
  void *const *out;
  const int64_t *row_stride;
  const int *step;
  const double *params;
  int64_t row, rows, d, place, lane, right;
  bool inside, joining, joined;
} plain;

static size_t end_of_block(const zmi_code *c, size_t i, zmi_cop part, size_t *at) {
  int depth = 0;
  *at = 0;
  for (;; i++) {
    zmi_cop op = c->insts[i].op;
    if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELEMENTS) depth++;
    if (op == part && depth == 1) *at = i;
    if (op == ZMI_K_END && --depth == 0) return i;
  }
}

#define BY_TYPE(call)                                                                                                                      \
  switch (t) {                                                                                                                             \
  case ZMI_C_BOOL:                                                                                                                         \
    call(bool, b) break;                                                                                                                   \
  case ZMI_C_INT:                                                                                                                          \
    call(int, i) break;                                                                                                                    \
  case ZMI_C_UINT:                                                                                                                         \
    call(uint, u) break;                                                                                                                   \
  case ZMI_C_LONG:                                                                                                                         \
    call(long, l) break;                                                                                                                   \
  case ZMI_C_ULONG:                                                                                                                        \
    call(ulong, ul) break;                                                                                                                 \
  case ZMI_C_FLOAT:                                                                                                                        \
    call(float, f) break;                                                                                                                  \
  default:                                                                                                                                 \
    break;                                                                                                                                 \
  }

#define ARITHMETIC1(NAME, name)                                                                                                            \
  case ZMI_K_##NAME:                                                                                                                       \
    BY_TYPE(name##_CALL) break;
#define neg_CALL(T, field) r.field = zk_neg_##T(a.field);
#define abs_CALL(T, field) r.field = zk_abs_##T(a.field);
#define sign_CALL(T, field) r.field = zk_sign_##T(a.field);
#define add_CALL(T, field) r.field = zk_add_##T(a.field, b.field);
#define sub_CALL(T, field) r.field = zk_sub_##T(a.field, b.field);
#define mul_CALL(T, field) r.field = zk_mul_##T(a.field, b.field);
#define div_CALL(T, field) r.field = zk_div_##T(a.field, b.field);
#define rem_CALL(T, field) r.field = zk_rem_##T(a.field, b.field);
#define min_CALL(T, field) r.field = zk_min_##T(a.field, b.field);
#define max_CALL(T, field) r.field = zk_max_##T(a.field, b.field);
#define eq_CALL(T, field) r.b = zk_eq_##T(a.field, b.field);
#define ne_CALL(T, field) r.b = zk_ne_##T(a.field, b.field);
#define lt_CALL(T, field) r.b = zk_lt_##T(a.field, b.field);
#define le_CALL(T, field) r.b = zk_le_##T(a.field, b.field);
#define gt_CALL(T, field) r.b = zk_gt_##T(a.field, b.field);
#define ge_CALL(T, field) r.b = zk_ge_##T(a.field, b.field);
#define INTEGER(op, two)                                                                                                                   \
  r.u = 0;                                                                                                                                 \
  if (t == ZMI_C_INT) r.i = zk_##op##_int(a.i two(b.i));                                                                                   \
  if (t == ZMI_C_UINT) r.u = zk_##op##_uint(a.u two(b.u));                                                                                 \
  if (t == ZMI_C_LONG) r.l = zk_##op##_long(a.l two(b.l));                                                                                 \
  if (t == ZMI_C_ULONG) r.ul = zk_##op##_ulong(a.ul two(b.ul));
#define TWO(x) , x
#define NONE(x)
#define FUNCTION1(NAME, name)                                                                                                              \
  case ZMI_K_##NAME:                                                                                                                       \
    r.f = zk_##name(a.f);                                                                                                                  \
    break;
#define FUNCTION2(NAME, name)                                                                                                              \
  case ZMI_K_##NAME:                                                                                                                       \
    r.f = zk_##name(a.f, b.f);                                                                                                             \
    break;
#define TEST1(NAME, name)                                                                                                                  \
  case ZMI_K_##NAME:                                                                                                                       \
    r.b = zk_##name(a.f);                                                                                                                  \
    break;
#define BITS2(NAME, name)                                                                                                                  \
  case ZMI_K_##NAME:                                                                                                                       \
    INTEGER(name, TWO)                                                                                                                     \
    if (t == ZMI_C_BOOL) r.b = zk_##name##_bool(a.b, b.b);                                                                                 \
    break;
#define SHIFT2(NAME, name)                                                                                                                 \
  case ZMI_K_##NAME:                                                                                                                       \
    INTEGER(name, TWO)                                                                                                                     \
    break;
static value plain_operation(const zmi_code *c, const zmi_inst *x, value a, value b, value d) {
  zmi_ctype t = c->insts[x->a].type;
  value r = {0};
  switch ((int)x->op) {
    ZMI_LANE_ONE(ARITHMETIC1)
    ZMI_LANE_TWO(ARITHMETIC1)
    ZMI_LANE_QUOTIENT(ARITHMETIC1)
    ZMI_LANE_COMPARE(ARITHMETIC1)
    ZMI_LANE_BITS(BITS2)
    ZMI_LANE_SHIFT(SHIFT2)
    ZMI_LANE_FUNCTION(FUNCTION1)
    ZMI_LANE_CIRCULAR(FUNCTION1)
    ZMI_LANE_FUNCTION2(FUNCTION2)
    ZMI_LANE_TEST(TEST1)
  case ZMI_K_FMA:
    r.f = zk_fma(a.f, b.f, d.f);
    break;
  case ZMI_K_POPCOUNT:
    INTEGER(popcount, NONE)
    break;
  case ZMI_K_BIT_NOT:
    INTEGER(bit_not, NONE)
    if (t == ZMI_C_BOOL) r.b = !a.b;
    break;
  case ZMI_K_NOT:
    r.b = !a.b;
    break;
  case ZMI_K_AND:
    r.b = a.b && b.b;
    break;
  case ZMI_K_OR:
    r.b = a.b || b.b;
    break;
  case ZMI_K_SELECT:
    r = a.b ? b : d;
    break;
  case ZMI_K_BITCAST:
    if (t == ZMI_C_FLOAT && x->type != ZMI_C_FLOAT)
      r.u = zk_bitcast_uint_float(a.f);
    else
      r.u = a.u;
    break;
#define CONVERT_CALL(T, field)                                                                                                             \
  if (x->type == ZMI_C_BOOL) r.b = zk_bool_of_##T(a.field);                                                                                \
  if (x->type == ZMI_C_INT) r.i = zk_int_of_##T(a.field);                                                                                  \
  if (x->type == ZMI_C_UINT) r.u = zk_uint_of_##T(a.field);                                                                                \
  if (x->type == ZMI_C_LONG) r.l = zk_long_of_##T(a.field);                                                                                \
  if (x->type == ZMI_C_ULONG) r.ul = zk_ulong_of_##T(a.field);                                                                             \
  if (x->type == ZMI_C_FLOAT) r.f = zk_float_of_##T(a.field);
  case ZMI_K_CONVERT:
    BY_TYPE(CONVERT_CALL)
    break;
  default:
    abort();
  }
  return r;
}

static value plain_load(zm_dtype dtype, const void *p, int64_t at) {
  value r = {0};
#define FROM(NAME, dtype, field)                                                                                                           \
  case NAME:                                                                                                                               \
    r.field = zk_load_##dtype(((const zk_stored_##dtype *)p)[at]);                                                                         \
    break;
#define EACH_DTYPE(X)                                                                                                                      \
  X(ZM_BOOL, bool, b)                                                                                                                      \
  X(ZM_U8, uint8, u)                                                                                                                       \
  X(ZM_U16, uint16, u)                                                                                                                     \
  X(ZM_U32, uint32, u)                                                                                                                     \
  X(ZM_U64, uint64, ul)                                                                                                                    \
  X(ZM_I8, int8, i)                                                                                                                        \
  X(ZM_I16, int16, i)                                                                                                                      \
  X(ZM_I32, int32, i)                                                                                                                      \
  X(ZM_I64, int64, l)                                                                                                                      \
  X(ZM_F16, float16, f)                                                                                                                    \
  X(ZM_BF16, bfloat16, f)                                                                                                                  \
  X(ZM_F32, float32, f)
  switch ((int)dtype) {
    EACH_DTYPE(FROM)
  default:
    abort();
  }
  return r;
}

static void plain_store(zm_dtype dtype, zmi_ctype t, value v, void *p, int64_t at) {
#define STORE_CALL(T, field) to[at] = STORE_OF(T)(v.field);
#define INTO(NAME, dtype, unused)                                                                                                          \
  case NAME: {                                                                                                                             \
    zk_stored_##dtype *to = p;                                                                                                             \
    if (t == ZMI_C_BOOL) to[at] = zk_store_##dtype##_bool(v.b);                                                                            \
    if (t == ZMI_C_INT) to[at] = zk_store_##dtype##_int(v.i);                                                                              \
    if (t == ZMI_C_UINT) to[at] = zk_store_##dtype##_uint(v.u);                                                                            \
    if (t == ZMI_C_LONG) to[at] = zk_store_##dtype##_long(v.l);                                                                            \
    if (t == ZMI_C_ULONG) to[at] = zk_store_##dtype##_ulong(v.ul);                                                                         \
    if (t == ZMI_C_FLOAT) to[at] = zk_store_##dtype##_float(v.f);                                                                          \
    break;                                                                                                                                 \
  }
  switch ((int)dtype) {
    EACH_DTYPE(INTO)
  default:
    abort();
  }
}

static value *plain_variable(plain *s, int32_t variable) {
  return s->joined && s->inside && s->first[variable].l == 1 ? &s->lanes[variable * 16 + (s->joining ? s->lane : s->place % 16)]
                                                             : &s->v[variable];
}

static void plain_walk(plain *s, size_t i, size_t end);

static value plain_reduce(const zmi_inst *x, zmi_ctype t, const value *seen, int64_t n) {
  value r = {0}, lane[16];
  bool squares = x->op == ZMI_K_SUMSQ, sum = x->op == ZMI_K_SUM || squares, product = x->op == ZMI_K_PROD,
       least = x->op == ZMI_K_MINIMUM || x->op == ZMI_K_ARGMIN;
  if (t == ZMI_C_FLOAT && (sum || product)) {
    for (int l = 0; l < 16; l++) lane[l].f = sum ? 0.0f : 1.0f;
    for (int64_t k = 0; k < n && squares; k++) lane[k % 16].f = zk_fma(seen[k].f, seen[k].f, lane[k % 16].f);
    for (int64_t k = 0; k < n && !squares; k++) lane[k % 16].f = sum ? lane[k % 16].f + seen[k].f : lane[k % 16].f * seen[k].f;
    for (int h = 8; h > 0; h /= 2) {
      for (int l = 0; l < h; l++) lane[l].f = sum ? lane[l].f + lane[l + h].f : lane[l].f * lane[l + h].f;
    }
    return lane[0];
  }
  if (sum || product) {
    r.ul = sum ? 0 : 1;
    for (int64_t k = 0; k < n; k++) {
      uint64_t v = t == ZMI_C_LONG || t == ZMI_C_ULONG ? seen[k].ul : seen[k].u;
      r.ul = sum ? r.ul + v : r.ul * v;
    }
    return r;
  }
  int64_t best = 0;
  for (int64_t k = 1; k < n; k++) {
    bool better = false;
#define BETTER_CALL(T, field)                                                                                                              \
  better = (least ? seen[k].field < seen[best].field : seen[k].field > seen[best].field) ||                                                \
           (seen[k].field != seen[k].field && seen[best].field == seen[best].field);
    BY_TYPE(BETTER_CALL)
    if (better) best = k;
  }
  if (x->op == ZMI_K_ARGMAX || x->op == ZMI_K_ARGMIN) {
    r.i = (int32_t)best;
    return r;
  }
  if (n == 0) {
    if (t == ZMI_C_FLOAT) r.f = least ? zkp_infinity() : -zkp_infinity();
    if (t == ZMI_C_INT) r.i = least ? INT32_MAX : INT32_MIN;
    if (t == ZMI_C_UINT) r.u = least ? UINT32_MAX : 0;
    if (t == ZMI_C_LONG) r.l = least ? INT64_MAX : INT64_MIN;
    if (t == ZMI_C_ULONG) r.ul = least ? UINT64_MAX : 0;
    return r;
  }
  r = seen[best];
  if (t == ZMI_C_FLOAT) r.f = r.f + 0.0f;
  return r;
}

static void plain_block(plain *s, size_t begin, size_t end, size_t join) {
  const zmi_code *c = s->c;
  const size_t body = join ? join : end;
  s->inside = true;
  s->joined = join != 0;
  for (size_t i = begin; i < end; i++) {
    const zmi_inst *x = &c->insts[i];
    if (x->op == ZMI_K_SCAN_SUM) memset(&s->carry[i], 0, sizeof(value));
    if (x->op != ZMI_K_SET || x->index >= (int32_t)begin || !join) continue;
    s->first[x->index].l = 1; // has lanes
    for (int l = 0; l < 16; l++) s->lanes[x->index * 16 + l] = s->v[x->index];
  }
  for (int64_t k = 0; k < s->d; k++) {
    s->place = c->insts[begin].extra ? s->d - 1 - k : k;
    plain_walk(s, begin + 1, body);
  }
  s->joining = true;
  for (int h = 8; h > 0 && join; h /= 2) {
    for (s->lane = 0; s->lane < h; s->lane++) {
      s->right = s->lane + h;
      plain_walk(s, join + 1, end);
    }
  }
  s->joining = s->joined = s->inside = false;
  for (size_t i = begin; i < end; i++) {
    const zmi_inst *x = &c->insts[i];
    if (x->op >= ZMI_K_SUM && x->op <= ZMI_K_ARGMIN) s->v[i] = plain_reduce(x, c->insts[x->a].type, s->seen[i], s->d);
  }
  for (size_t i = 0; i < begin; i++) {
    if (s->first[i].l == 1) s->v[i] = s->lanes[i * 16];
    s->first[i].l = 0;
  }
}

static void plain_one(plain *s, size_t i) {
  const zmi_inst *x = &s->c->insts[i];
  const bool rows = s->c->form == ZMI_FORM_ROWS;
  int operands = zmi_cop_rows[x->op].operands;
  value a = {0}, b = {0}, d = {0};
  if (operands > 0) a = s->v[x->a];
  if (operands > 1) b = s->v[x->b];
  if (operands > 2) d = s->v[x->c];
  switch ((int)x->op) {
  case ZMI_K_CONST:
    memcpy(&s->v[i], &x->imm, sizeof(value));
    if (x->type == ZMI_C_BOOL) s->v[i].b = x->imm.i != 0;
    break;
  case ZMI_K_INPUT:
    s->v[i] = plain_load(s->c->in[x->index], s->in[x->index],
                         (rows ? s->row * s->row_stride[x->index] : 0) + (rows && !s->inside ? 0 : s->place * s->step[x->index]));
    break;
  case ZMI_K_PARAM:
    if (x->type == ZMI_C_FLOAT)
      s->v[i].f = (float)s->params[x->index];
    else
      s->v[i].l = (int64_t)s->params[x->index];
    break;
  case ZMI_K_PLACE:
    s->v[i].i = (int32_t)s->place;
    break;
  case ZMI_K_LENGTH:
    s->v[i].i = (int32_t)s->d;
    break;
  case ZMI_K_VAR:
    s->v[i] = a;
    break;
  case ZMI_K_GET:
    s->v[i] = *plain_variable(s, x->index);
    break;
  case ZMI_K_GET_RIGHT:
    s->v[i] = s->lanes[x->index * 16 + s->right];
    break;
  case ZMI_K_SET:
    *plain_variable(s, x->index) = a;
    break;
  case ZMI_K_SCAN_SUM:
    if (x->type == ZMI_C_FLOAT)
      s->carry[i].f = s->carry[i].f + a.f;
    else
      s->carry[i].ul += a.ul;
    s->v[i] = s->carry[i];
    break;
  case ZMI_K_OUTPUT:
    plain_store(s->c->out[x->index], s->c->insts[x->a].type, a, s->out[x->index],
                !rows                     ? s->place
                : s->c->per_row[x->index] ? s->row
                                          : s->row * s->d + s->place);
    break;
  default:
    if (x->op >= ZMI_K_SUM && x->op <= ZMI_K_ARGMIN)
      s->seen[i][s->place] = a;
    else
      s->v[i] = plain_operation(s->c, x, a, b, d);
  }
}

static void plain_walk(plain *s, size_t i, size_t end) {
  for (; i < end; i++) {
    const zmi_inst *x = &s->c->insts[i];
    size_t part, last;
    if (x->op == ZMI_K_IF) {
      last = end_of_block(s->c, i, ZMI_K_ELSE, &part);
      if (s->v[x->a].b)
        plain_walk(s, i + 1, part ? part : last);
      else if (part)
        plain_walk(s, part + 1, last);
      i = last;
    } else if (x->op == ZMI_K_FOR) {
      last = end_of_block(s->c, i, ZMI_K_ELSE, &part);
      int64_t from = s->v[x->a].i, to = s->v[x->b].i, by = s->v[x->c].i;
      for (int64_t k = from; k < to && by > 0; k += by) {
        s->v[i].i = (int32_t)k;
        plain_walk(s, i + 1, last);
      }
      i = last;
    } else if (x->op == ZMI_K_ELEMENTS) {
      last = end_of_block(s->c, i, ZMI_K_JOIN, &part);
      plain_block(s, i, last, part);
      i = last;
    } else {
      plain_one(s, i);
    }
  }
}

// ELEMENTS: rows = n, d = 1; row_stride not used.
static void plain_run(const zmi_code *c, int64_t rows, int64_t d, const void *const *in, const int64_t *row_stride, const int *step,
                      const double *params, void *const *out) {
  plain s = {.c = c, .in = in, .out = out, .row_stride = row_stride, .step = step, .params = params, .rows = rows, .d = d};
  s.v = calloc(c->count, sizeof(value));
  s.first = calloc(c->count, sizeof(value));
  s.carry = calloc(c->count, sizeof(value));
  s.lanes = calloc(c->count * 16, sizeof(value));
  s.seen = calloc(c->count, sizeof(value *));
  for (size_t i = 0; i < c->count; i++) {
    if (c->insts[i].op >= ZMI_K_SUM && c->insts[i].op <= ZMI_K_ARGMIN) s.seen[i] = calloc((size_t)d + 1, sizeof(value));
  }
  for (int64_t r = 0; r < rows; r++) {
    if (c->form == ZMI_FORM_ROWS)
      s.row = r;
    else
      s.place = r;
    plain_walk(&s, 0, c->count);
  }
  for (size_t i = 0; i < c->count; i++) free(s.seen[i]);
  free(s.v), free(s.first), free(s.carry), free(s.lanes), free(s.seen);
}

#endif
