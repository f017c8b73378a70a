// Typed codes that together hold every instruction in every form: what the emitters and the interpreter are tested with.
#ifndef ZMLX_TEST_EMIT_CASES_H
#define ZMLX_TEST_EMIT_CASES_H

#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct emit_case {
  const char *name;
  zmi_code *(*make)(int variant);
  int variants;
} emit_case;

static inline int x1(zmi_code *c, zmi_cop op, zmi_ctype type, int a) {
  return zmi_code_emit(c, &(zmi_inst){.op = op, .type = type, .a = a, .b = -1, .c = -1});
}

static inline int xi(zmi_code *c, zmi_cop op, zmi_ctype type, int a, int b, int index) {
  return zmi_code_emit(c, &(zmi_inst){.op = op, .type = type, .a = a, .b = b, .c = -1, .index = index});
}

static inline int x0(zmi_code *c, zmi_cop op, zmi_ctype type, int extra) {
  return zmi_code_emit(c, &(zmi_inst){.op = op, .type = type, .a = -1, .b = -1, .c = -1, .extra = extra});
}

static inline int op1(zmi_code *c, zmi_cop op, int a) {
  return zmi_code_op(c, op, a, -1, -1);
}
static inline int op2(zmi_code *c, zmi_cop op, int a, int b) {
  return zmi_code_op(c, op, a, b, -1);
}
static inline int f(zmi_code *c, double v) {
  return zmi_code_const_f(c, (float)v);
}
static inline int n(zmi_code *c, int64_t v) {
  return zmi_code_const_i(c, ZMI_C_INT, v);
}
static inline int input(zmi_code *c, int i) {
  return zmi_code_leaf(c, ZMI_K_INPUT, zmi_ctype_of(c->in[i]), i, 0);
}
static inline int var(zmi_code *c, int a) {
  return xi(c, ZMI_K_VAR, c->insts[a].type, a, -1, 0);
}
static inline int get(zmi_code *c, int v) {
  return xi(c, ZMI_K_GET, c->insts[v].type, -1, -1, v);
}
static inline int right(zmi_code *c, int v) {
  return xi(c, ZMI_K_GET_RIGHT, c->insts[v].type, -1, -1, v);
}
static inline void set(zmi_code *c, int v, int a) {
  xi(c, ZMI_K_SET, ZMI_C_NONE, a, -1, v);
}
static inline int loop(zmi_code *c, int a, int b, int s) {
  return zmi_code_emit(c, &(zmi_inst){.op = ZMI_K_FOR, .type = ZMI_C_INT, .a = a, .b = b, .c = s});
}
static inline void branch(zmi_code *c, int a) {
  xi(c, ZMI_K_IF, ZMI_C_NONE, a, -1, 0);
}
static inline void other(zmi_code *c) {
  x0(c, ZMI_K_ELSE, ZMI_C_NONE, 0);
}
static inline void done(zmi_code *c) {
  x0(c, ZMI_K_END, ZMI_C_NONE, 0);
}
static inline void places(zmi_code *c, int falling) {
  x0(c, ZMI_K_ELEMENTS, ZMI_C_NONE, falling);
}
static inline int reduce(zmi_code *c, zmi_cop op, int a) {
  return x1(c, op, op == ZMI_K_ARGMAX || op == ZMI_K_ARGMIN ? ZMI_C_INT : c->insts[a].type, a);
}
static inline int result(zmi_code *c, zm_dtype d) {
  c->out[c->nout] = d;
  return c->nout++;
}
static inline void give(zmi_code *c, zm_dtype d, int a) {
  int value = zmi_code_convert(c, zmi_ctype_of(d), a);
  xi(c, ZMI_K_OUTPUT, ZMI_C_NONE, value, -1, result(c, d));
}
static inline void give_row(zmi_code *c, zm_dtype d, int a) {
  c->per_row[c->nout] = true;
  give(c, d, a);
}
static inline int place_of(zmi_code *c) {
  return zmi_code_leaf(c, ZMI_K_PLACE, ZMI_C_INT, 0, 0);
}
static inline int length_of(zmi_code *c) {
  return zmi_code_leaf(c, ZMI_K_LENGTH, ZMI_C_INT, 0, 0);
}
static inline int param(zmi_code *c, zmi_ctype t, int i) {
  return zmi_code_leaf(c, ZMI_K_PARAM, t, i, 0);
}

static inline zmi_code *start(int form, const char *name, int nin, const zm_dtype *in) {
  zmi_code *c = zmi_code_new(form, name);
  for (int i = 0; c && i < nin; i++) c->in[i] = in[i];
  if (c) c->nin = nin;
  return c;
}

static inline zmi_code *finish(zmi_code *c) {
  if (zmi_code_finish(c) == ZM_OK) return c;
  fprintf(stderr, "%s\n", zm_last_error());
  abort();
}

// ---- elements ----

// All functions of floats: one operand, two, three.
static zmi_code *case_floats(int variant) {
  zmi_code *c = start(ZMI_FORM_ELEMENTS, "floats", 3, (zm_dtype[]){ZM_F32, ZM_F32, ZM_F32});
  int v[3] = {input(c, 0), input(c, 1), input(c, 2)};
  for (int op = 0; op < ZMI_K_COUNT; op++) {
    const zmi_cop_row *row = &zmi_cop_rows[op];
    if (!strchr("AFC", row->kind) || (op % 2) != variant) continue;
    int value = zmi_code_op(c, (zmi_cop)op, v[0], v[1], v[2]);
    give(c, zmi_ctype_of(ZM_F32) == c->insts[value].type ? ZM_F32 : ZM_BOOL, value);
  }
  return finish(c);
}

static zmi_code *case_integers(int variant) {
  static const zm_dtype dtypes[] = {ZM_I32, ZM_U32, ZM_I64, ZM_U64};
  const zm_dtype d = dtypes[variant];
  zmi_code *c = start(ZMI_FORM_ELEMENTS, "integers", 2, (zm_dtype[]){d, d});
  int a = input(c, 0), b = input(c, 1);
  for (int op = 0; op < ZMI_K_COUNT; op++) {
    const zmi_cop_row *row = &zmi_cop_rows[op];
    if (!strchr("ABC", row->kind) || (op >= ZMI_K_ISNAN && op <= ZMI_K_ISFINITE)) continue;
    int value = zmi_code_op(c, (zmi_cop)op, a, b, -1);
    give(c, row->kind == 'C' ? ZM_BOOL : d, value);
  }
  give(c, d, zmi_code_op(c, ZMI_K_SELECT, op2(c, ZMI_K_LT, a, b), a, b));
  return finish(c);
}

static zmi_code *case_bools(int variant) {
  (void)variant;
  zmi_code *c = start(ZMI_FORM_ELEMENTS, "bools", 4, (zm_dtype[]){ZM_BOOL, ZM_BOOL, ZM_F32, ZM_F32});
  int a = input(c, 0), b = input(c, 1), x = input(c, 2), y = input(c, 3);
  give(c, ZM_BOOL, op1(c, ZMI_K_NOT, a));
  give(c, ZM_BOOL, op2(c, ZMI_K_AND, a, b));
  give(c, ZM_BOOL, op2(c, ZMI_K_OR, a, b));
  give(c, ZM_BOOL, op2(c, ZMI_K_BIT_XOR, a, b));
  give(c, ZM_BOOL, op2(c, ZMI_K_EQ, a, b));
  give(c, ZM_BOOL, zmi_code_op(c, ZMI_K_SELECT, a, b, op1(c, ZMI_K_NOT, b)));
  give(c, ZM_F32, zmi_code_op(c, ZMI_K_SELECT, op2(c, ZMI_K_GT, x, y), x, y)); // keeps denormals, which a maximum may not
  give(c, ZM_F32, zmi_code_op(c, ZMI_K_SELECT, op2(c, ZMI_K_LT, x, y), x, y));
  give(c, ZM_I32, xi(c, ZMI_K_BITCAST, ZMI_C_INT, x, -1, 0));
  give(c, ZM_U32, xi(c, ZMI_K_BITCAST, ZMI_C_UINT, x, -1, 0));
  give(c, ZM_F32, xi(c, ZMI_K_BITCAST, ZMI_C_FLOAT, xi(c, ZMI_K_BITCAST, ZMI_C_UINT, y, -1, 0), -1, 0));
  return finish(c);
}

// From one dtype to all of them.
static zmi_code *case_dtypes(int variant) {
  zmi_code *c = start(ZMI_FORM_ELEMENTS, "dtypes", 1, (zm_dtype[]){(zm_dtype)(ZM_BOOL + variant)});
  int x = input(c, 0);
  for (zm_dtype d = ZM_BOOL; d < ZM_DTYPE_COUNT; d++) give(c, d, x);
  return finish(c);
}

// Constants that compilers would simplify away, parameters, places.
static zmi_code *case_constants(int variant) {
  (void)variant;
  static const float values[] = {0.0f, -0.0f, 1.0f, -1.0f, 0x1p127f, 0x1p-126f, 1e-40f, 0.1f, 2.0f};
  zmi_code *c = start(ZMI_FORM_ELEMENTS, "constants", 1, (zm_dtype[]){ZM_F32});
  c->nparams = 2;
  int x = input(c, 0);
  for (size_t i = 0; i < ZMI_COUNT(values); i++) {
    int k = f(c, (double)values[i]);
    give(c, ZM_F32, op2(c, ZMI_K_ADD, x, k));
    give(c, ZM_F32, op2(c, ZMI_K_SUB, x, k));
    give(c, ZM_F32, op2(c, ZMI_K_SUB, k, x));
    give(c, ZM_F32, op2(c, ZMI_K_MUL, x, k));
    give(c, ZM_F32, op2(c, ZMI_K_DIV, x, k));
    give(c, ZM_F32, zmi_code_op(c, ZMI_K_FMA, x, k, x));
  }
  give(c, ZM_F32, op2(c, ZMI_K_ADD, param(c, ZMI_C_FLOAT, 0), x));
  give(c, ZM_I32, op2(c, ZMI_K_ADD, param(c, ZMI_C_INT, 1), place_of(c)));
  give(c, ZM_F32, f(c, (double)__builtin_inff()));
  give(c, ZM_I64, zmi_code_const_i(c, ZMI_C_LONG, INT64_MIN));
  return finish(c);
}

// Values of all types that are needed behind roundings to float16, one of them behind three; float16 and the rest in a row, too.
static zmi_code *case_halves(int variant) {
  zmi_code *c = start(variant ? ZMI_FORM_ROWS : ZMI_FORM_ELEMENTS, "halves", 4, (zm_dtype[]){ZM_F16, ZM_F32, ZM_I32, ZM_BOOL});
  if (variant) places(c, 0);
  int x = input(c, 0), y = input(c, 1), whole = op2(c, ZMI_K_ADD, input(c, 2), place_of(c)), less = op2(c, ZMI_K_LT, x, y);
  int unrounded = op2(c, ZMI_K_MUL, y, op1(c, ZMI_K_SILU, x)), a = op1(c, ZMI_K_ROUND_F16, unrounded);
  int b = op1(c, ZMI_K_ROUND_F16, op2(c, ZMI_K_ADD, a, y)), bits = xi(c, ZMI_K_BITCAST, ZMI_C_UINT, b, -1, 0);
  int last = op1(c, ZMI_K_ROUND_F16, zmi_code_op(c, ZMI_K_SELECT, less, op2(c, ZMI_K_DIV, b, a), x));
  give(c, ZM_F32, zmi_code_op(c, ZMI_K_SELECT, op2(c, ZMI_K_OR, less, input(c, 3)), last, unrounded));
  give(c, ZM_I32, whole);
  give(c, ZM_U32, bits);
  give(c, ZM_F16, op2(c, ZMI_K_MUL, last, a));
  if (!variant) return finish(c);
  int sum = reduce(c, ZMI_K_SUM, last);
  done(c);
  give_row(c, ZM_F32, op1(c, ZMI_K_ROUND_F16, sum));
  return finish(c);
}

// Loops that all elements make together, loops of their own, branches, variables that live across.
static zmi_code *case_loops(int variant) {
  (void)variant;
  zmi_code *c = start(ZMI_FORM_ELEMENTS, "loops", 2, (zm_dtype[]){ZM_F32, ZM_I32});
  c->nparams = 1;
  int x = input(c, 0), k = input(c, 1);
  int y = var(c, x), z = var(c, f(c, 0)), twice = op2(c, ZMI_K_ADD, x, x);
  int i = loop(c, n(c, 0), n(c, 5), n(c, 1));
  set(c, y, op2(c, ZMI_K_ADD, op2(c, ZMI_K_MUL, get(c, y), f(c, 0.5)), twice));
  int j = loop(c, i, param(c, ZMI_C_INT, 0), n(c, 2));
  branch(c, op2(c, ZMI_K_GT, get(c, y), f(c, 0.25)));
  set(c, z, op2(c, ZMI_K_ADD, get(c, z), zmi_code_convert(c, ZMI_C_FLOAT, j)));
  other(c);
  set(c, z, op2(c, ZMI_K_SUB, get(c, z), op2(c, ZMI_K_MUL, get(c, y), zmi_code_convert(c, ZMI_C_FLOAT, i))));
  done(c);
  done(c);
  done(c);
  int own = var(c, n(c, 0));
  int m = loop(c, n(c, 1), op2(c, ZMI_K_BIT_AND, k, n(c, 7)), n(c, 1));
  branch(c, op2(c, ZMI_K_NE, m, n(c, 3)));
  set(c, own, op2(c, ZMI_K_ADD, get(c, own), m));
  done(c);
  done(c);
  give(c, ZM_F32, get(c, y));
  give(c, ZM_BF16, get(c, z));
  give(c, ZM_I32, get(c, own));
  return finish(c);
}

// ---- rows ----

static zmi_code *case_softmax(int variant) {
  static const zm_dtype dtypes[] = {ZM_F32, ZM_F16, ZM_BF16};
  zm_dtype d = dtypes[variant];
  zmi_code *c = start(ZMI_FORM_ROWS, "softmax", 1, &d);
  places(c, 0);
  int m = reduce(c, ZMI_K_MAXIMUM, input(c, 0));
  done(c);
  places(c, 0);
  int s = reduce(c, ZMI_K_SUM, op1(c, ZMI_K_EXP, op2(c, ZMI_K_SUB, input(c, 0), m)));
  done(c);
  places(c, 0);
  give(c, d, op2(c, ZMI_K_DIV, op1(c, ZMI_K_EXP, op2(c, ZMI_K_SUB, input(c, 0), m)), s));
  done(c);
  give_row(c, ZM_F32, op2(c, ZMI_K_ADD, m, op1(c, ZMI_K_LOG, s)));
  return finish(c);
}

// A norm by the sum of squares: blocks of arithmetic alone, of every width of vectors.
static zmi_code *case_norm(int variant) {
  static const zm_dtype dtypes[] = {ZM_F32, ZM_F16, ZM_BF16};
  zm_dtype d = dtypes[variant];
  zmi_code *c = start(ZMI_FORM_ROWS, "norm", 2, (zm_dtype[]){d, ZM_F32});
  places(c, 0);
  int q = reduce(c, ZMI_K_SUMSQ, op2(c, ZMI_K_ADD, input(c, 0), input(c, 1)));
  done(c);
  int r = op1(c, ZMI_K_RSQRT, op2(c, ZMI_K_DIV, q, zmi_code_convert(c, ZMI_C_FLOAT, length_of(c))));
  places(c, 0);
  give(c, d, op2(c, ZMI_K_MUL, op2(c, ZMI_K_ADD, input(c, 0), input(c, 1)), r));
  done(c);
  give_row(c, ZM_F32, q);
  return finish(c);
}

static zmi_code *case_reductions(int variant) {
  static const zm_dtype dtypes[] = {ZM_F32, ZM_I32, ZM_U32, ZM_I64, ZM_U64};
  const zm_dtype d = dtypes[variant];
  static const zmi_cop ops[] = {ZMI_K_SUM, ZMI_K_PROD, ZMI_K_MAXIMUM, ZMI_K_MINIMUM, ZMI_K_ARGMAX, ZMI_K_ARGMIN, ZMI_K_SUMSQ};
  const size_t count = ZMI_COUNT(ops) - (d != ZM_F32); // squares are summed of floats
  zmi_code *c = start(ZMI_FORM_ROWS, "reductions", 2, (zm_dtype[]){d, ZM_F32});
  c->in_per_row[1] = true;
  int values[ZMI_COUNT(ops)];
  places(c, 0);
  int x = input(c, 0);
  for (size_t i = 0; i < count; i++) values[i] = reduce(c, ops[i], x);
  give(c, ZM_F32, op2(c, ZMI_K_ADD, zmi_code_convert(c, ZMI_C_FLOAT, place_of(c)), input(c, 1)));
  done(c);
  for (size_t i = 0; i < count; i++) give_row(c, ops[i] >= ZMI_K_ARGMAX ? ZM_U32 : d, values[i]);
  give_row(c, ZM_F32, op2(c, ZMI_K_MUL, input(c, 1), zmi_code_convert(c, ZMI_C_FLOAT, length_of(c))));
  return finish(c);
}

// Running sums, serial variables in rising and falling order, row-level loops and branches.
static zmi_code *case_serial(int variant) {
  (void)variant;
  zmi_code *c = start(ZMI_FORM_ROWS, "serial", 2, (zm_dtype[]){ZM_F32, ZM_BF16});
  int acc = var(c, f(c, 1)), count = var(c, n(c, 0)), back = var(c, f(c, 0));
  places(c, 0);
  int x = input(c, 0), scan = reduce(c, ZMI_K_SCAN_SUM, op2(c, ZMI_K_MUL, x, input(c, 1)));
  give(c, ZM_F32, scan);
  int total = reduce(c, ZMI_K_SUM, scan);
  done(c);
  places(c, 0);
  int z = op2(c, ZMI_K_ADD, op2(c, ZMI_K_MUL, get(c, acc), f(c, 0.75)), input(c, 0));
  set(c, acc, z);
  branch(c, op2(c, ZMI_K_GT, z, f(c, 0)));
  set(c, count, op2(c, ZMI_K_ADD, get(c, count), n(c, 1)));
  done(c);
  int largest = reduce(c, ZMI_K_MAXIMUM, z);
  give(c, ZM_F16, z);
  done(c);
  places(c, 1);
  set(c, back, op2(c, ZMI_K_ADD, op2(c, ZMI_K_MUL, get(c, back), f(c, 0.5)), input(c, 1)));
  give(c, ZM_F32, get(c, back));
  done(c);
  int halves = var(c, get(c, acc));
  loop(c, n(c, 0), get(c, count), n(c, 3));
  set(c, halves, op2(c, ZMI_K_MUL, get(c, halves), f(c, 0.5)));
  done(c);
  branch(c, op2(c, ZMI_K_LT, get(c, halves), f(c, 0)));
  set(c, halves, f(c, -1));
  other(c);
  set(c, halves, op2(c, ZMI_K_ADD, get(c, halves), f(c, 3)));
  done(c);
  give_row(c, ZM_F32, get(c, acc));
  give_row(c, ZM_I32, get(c, count));
  give_row(c, ZM_F32, get(c, halves));
  give_row(c, ZM_F32, total);
  give_row(c, ZM_F32, largest);
  give_row(c, ZM_F32, get(c, back));
  return finish(c);
}

// Mean and sum of squared deviations by Welford's update, in 16 lanes that are joined; places rise or fall.
static zmi_code *case_join(int variant) {
  zmi_code *c = start(ZMI_FORM_ROWS, "join", 1, (zm_dtype[]){ZM_F32});
  int mean = var(c, f(c, 0)), m2 = var(c, f(c, 0)), count = var(c, f(c, 0));
  places(c, variant);
  int x = input(c, 0), now = op2(c, ZMI_K_ADD, get(c, count), f(c, 1)), delta = op2(c, ZMI_K_SUB, x, get(c, mean));
  int next = op2(c, ZMI_K_ADD, get(c, mean), op2(c, ZMI_K_DIV, delta, now));
  set(c, m2, zmi_code_op(c, ZMI_K_FMA, delta, op2(c, ZMI_K_SUB, x, next), get(c, m2)));
  set(c, mean, next);
  set(c, count, now);
  x0(c, ZMI_K_JOIN, ZMI_C_NONE, 0);
  int a = get(c, count), b = right(c, count), all = op2(c, ZMI_K_ADD, a, b), d = op2(c, ZMI_K_SUB, right(c, mean), get(c, mean));
  branch(c, op2(c, ZMI_K_GT, b, f(c, 0)));
  int share = op2(c, ZMI_K_DIV, b, all);
  set(c, m2,
      op2(c, ZMI_K_ADD, op2(c, ZMI_K_ADD, get(c, m2), right(c, m2)),
          op2(c, ZMI_K_MUL, op2(c, ZMI_K_MUL, d, d), op2(c, ZMI_K_MUL, a, share))));
  set(c, mean, op2(c, ZMI_K_ADD, get(c, mean), op2(c, ZMI_K_MUL, d, share)));
  set(c, count, all);
  done(c);
  done(c);
  give_row(c, ZM_F32, get(c, mean));
  give_row(c, ZM_F32, get(c, m2));
  give_row(c, ZM_F32, get(c, count));
  places(c, 0);
  give(c, ZM_F32, op2(c, ZMI_K_SUB, input(c, 0), get(c, mean)));
  done(c);
  return finish(c);
}

// A loop inside a block: every element makes the same turns, then as many as it likes.
static zmi_code *case_row_loops(int variant) {
  (void)variant;
  zmi_code *c = start(ZMI_FORM_ROWS, "row loops", 2, (zm_dtype[]){ZM_F32, ZM_F32});
  c->nparams = 1;
  places(c, 0);
  int x = input(c, 0), y = var(c, input(c, 1));
  loop(c, n(c, 0), param(c, ZMI_C_INT, 0), n(c, 1));
  set(c, y, zmi_code_op(c, ZMI_K_FMA, get(c, y), f(c, 0.5), x));
  done(c);
  int s = reduce(c, ZMI_K_SUM, get(c, y));
  int best = reduce(c, ZMI_K_ARGMIN, get(c, y));
  give(c, ZM_F32, get(c, y));
  done(c);
  places(c, 0);
  give(c, ZM_F32, op2(c, ZMI_K_SUB, input(c, 0), s));
  done(c);
  give_row(c, ZM_I32, best);
  return finish(c);
}

// ---- tiles ----

// Sums of parts of a buffer by halving in threadgroup memory, one group a part; counts by atomics; places out of range.
static zmi_code *case_tiles(int variant) {
  (void)variant;
  zmi_code *c = start(ZMI_FORM_TILES, "tiles", 2, (zm_dtype[]){ZM_BF16, ZM_I32});
  int sums = result(c, ZM_F32), counts = result(c, ZM_I32), copies = result(c, ZM_F32);
  c->nparams = 1;
  int memory = x0(c, ZMI_K_SHARED, ZMI_C_FLOAT, 64);
  int t = zmi_code_leaf(c, ZMI_K_THREAD, ZMI_C_INT, 0, 0), g = zmi_code_leaf(c, ZMI_K_GROUP, ZMI_C_INT, 0, 0);
  int threads = zmi_code_leaf(c, ZMI_K_THREADS, ZMI_C_INT, 0, 0), groups = zmi_code_leaf(c, ZMI_K_GROUPS, ZMI_C_INT, 0, 0);
  int width = zmi_code_leaf(c, ZMI_K_DIM, ZMI_C_INT, 0, 1);
  int row = op2(c, ZMI_K_MUL, g, width), acc = var(c, f(c, 0)), first = op2(c, ZMI_K_ADD, row, t);
  int k = loop(c, t, width, threads);
  set(c, acc, op2(c, ZMI_K_ADD, get(c, acc), xi(c, ZMI_K_LOAD, ZMI_C_FLOAT, op2(c, ZMI_K_ADD, row, k), -1, 0)));
  done(c);
  xi(c, ZMI_K_SHARED_STORE, ZMI_C_NONE, t, get(c, acc), memory);
  x0(c, ZMI_K_BARRIER, ZMI_C_NONE, 0);
  int turn = loop(c, n(c, 1), n(c, 6), n(c, 1));
  int half = op2(c, ZMI_K_SHR, threads, turn);
  branch(c, op2(c, ZMI_K_LT, t, half));
  int mine = xi(c, ZMI_K_SHARED_LOAD, ZMI_C_FLOAT, t, -1, memory);
  int theirs = xi(c, ZMI_K_SHARED_LOAD, ZMI_C_FLOAT, op2(c, ZMI_K_ADD, t, half), -1, memory);
  xi(c, ZMI_K_SHARED_STORE, ZMI_C_NONE, t, op2(c, ZMI_K_ADD, mine, theirs), memory);
  done(c);
  x0(c, ZMI_K_BARRIER, ZMI_C_NONE, 0);
  done(c);
  branch(c, op2(c, ZMI_K_EQ, t, n(c, 0)));
  xi(c, ZMI_K_STORE, ZMI_C_NONE, g, xi(c, ZMI_K_SHARED_LOAD, ZMI_C_FLOAT, n(c, 0), -1, memory), sums);
  done(c);
  int kind = xi(c, ZMI_K_LOAD, ZMI_C_INT, first, -1, 1);
  xi(c, ZMI_K_ATOMIC_ADD, ZMI_C_NONE, op2(c, ZMI_K_BIT_AND, kind, n(c, 3)), param(c, ZMI_C_INT, 0), counts);
  int far = op2(c, ZMI_K_MUL, op2(c, ZMI_K_ADD, zmi_code_convert(c, ZMI_C_LONG, first), zmi_code_const_i(c, ZMI_C_LONG, -1)),
                zmi_code_const_i(c, ZMI_C_LONG, 1));
  int value = xi(c, ZMI_K_LOAD, ZMI_C_FLOAT, far, -1, 0);
  xi(c, ZMI_K_STORE, ZMI_C_NONE, op2(c, ZMI_K_ADD, op2(c, ZMI_K_MUL, g, threads), t),
     op2(c, ZMI_K_ADD, value, zmi_code_convert(c, ZMI_C_FLOAT, groups)), copies);
  return finish(c);
}

// The same operands and results as above, from the language: arrays of threads, simdgroups, grids of two dims, memory that starts as zeros.
static const char *const tile_sources[] = {
    "float acc[5]; int n[3] = {0}; for (int j = 0; j < 12; j++) { let at = j % 5; acc[at] += x[group * 64 + thread + j] * (at + 1); n[at % "
    "4] += "
    "at; }"
    "float s = 0; for (int j = -1; j < 6; j++) s = s * 0.5f + acc[j]; sums[group * threads + thread] = s + acc[thread % 6];"
    "counts[group * threads + thread] = n[0] + n[1] * 10 + n[2] * 100 + n[3]; if (thread == threads - 1) copies[group] = acc[0];",
    "float v = x[group * threads + thread]; int q = k[group * threads + thread] & 1023;"
    "float s = simd_sum(v) + 2 * simd_max(v) - simd_min(v * 3) + simd_product(0.5f + 0.001f * v);"
    "s += simd_prefix_inclusive_sum(v) + simd_prefix_exclusive_sum(v) * 0.25f + simd_shuffle_xor(v, 5) + simd_shuffle_up(v, 3);"
    "s -= simd_shuffle_down(v, 7) + simd_broadcast(v, 9) + simd_broadcast_first(v) + simd_shuffle(v, (thread * 7 + p) % 40 - 3);"
    "copies[group * threads + thread] = s; let all = simd_all(q > 2), any = metal::simd_any(v > 9);"
    "counts[group * threads + thread] = simd_sum(q) + simd_and(q | 7) + simd_or(q) * 2 + simd_xor(q) * 3 + simd_max(q) + (all ? 100 : 0) + "
    "(any ? 1000 : 0);"
    "shared float parts[32]; if (simd_lane == 0) parts[simd_group] = s; barrier();"
    "let total = simd_sum(thread_index_in_simdgroup < simdgroups_per_threadgroup ? parts[simd_lane] : 0.0f);"
    "if (thread == 0) sums[group] = total + simd_width;",
    "let r = thread.y, c = thread.x; let row = group.y * threads.y + r, col = thread_position_in_grid.x;"
    "shared float tile[64]; float before = tile[(c + r * 5) % 64]; barrier(); tile[r * threads.x + c] = x[row * 11 + col]; barrier();"
    "copies[row * threads_per_threadgroup.x * threadgroups_per_grid.x + col] = tile[c * threads.y + r] + before;"
    "counts[group * threads + thread] = r * 100 + c * 10 + threads.y + thread_position_in_threadgroup.z + groups.z; sums[group] = group.x "
    "* 10 + group.y;",
};
static const char *const tile_groups[] = {"3", "3", "1, 3"}, *const tile_threads[] = {"64", "64", "16, 4"};

static zmi_code *case_tile_sources(int variant) {
  const zmi_kernel_text text = {.name = "tile_source",
                                .form = ZMI_FORM_TILES,
                                .inputs = "x k",
                                .outputs = "sums counts copies",
                                .parameters = "int p",
                                .source = tile_sources[variant],
                                .shape = {"x.0", "x.0", "x.0"},
                                .groups = tile_groups[variant],
                                .threads = tile_threads[variant]};
  zm_dtype result[ZMI_KERNEL_OUT] = {ZM_F32, ZM_I32, ZM_F32};
  zmi_kernel *k = zmi_kernel_define(&text);
  zmi_code *c = k ? zmi_kernel_code(k, (zm_dtype[]){ZM_BF16, ZM_I32}, result) : NULL;
  if (!c) fprintf(stderr, "%s\n", zm_last_error());
  zmi_kernel_release(k);
  return c;
}

// What emitted C knows of a row: that nothing is above its largest element, that shares are of their own sum, that one place is looked at.
// Beside it what looks alike and is something else.
static const char *const row_sources[] = {
    "elements { m = max(x); } let f = m != -1.0f / 0.0f ? m : 0.0f; elements { s = sum(exp(x - f)); } elements { y = exp(x - f) / s; } r = "
    "s;",
    "elements { m = max(x); } let f = m > -1.0f / 0.0f ? m : 0.0f; elements { s = sum(exp(x - f)); } elements { y = exp(x - f) / s; } r = "
    "s;",
    "elements { m = max(x * 0.5f); } elements { s = sum(exp(x - m)); } elements { y = exp(x - m) / s; } r = s;",
    "elements { m = max(x); } elements { s = sum(exp(x - m) * 0.001f); } elements { y = exp(x - m) / s; } r = s;",
    "elements { m = min(x); } elements { s = sum(exp(x - m)); } elements { y = exp(m - x) / s; } r = s;",
    "elements { c = max(k); } elements { t = sum(i == c ? x : 0.0f); } elements { y = i == c ? t : x; } r = t;",
    "elements { c = max(k); } elements { t = sum(i == c ? x : 1.0f); } elements { y = i == c ? t : x; } r = t;",
    "elements { c = max(k); } elements { t = sum(i == c ? float(k) : 0.0f) + sum(i == k ? x : 0.0f); y = x; } r = t;",
};

static zmi_code *case_row_sources(int variant) {
  // In float32; the first of the shares and of the places in shorter dtypes too.
  static const struct {
    int source;
    zm_dtype dtype;
  } short_ones[] = {{0, ZM_BF16}, {0, ZM_F16}, {5, ZM_BF16}, {5, ZM_F16}};
  const int all_sources = (int)ZMI_COUNT(row_sources), more = variant - all_sources;
  const zm_dtype dtype = more < 0 ? ZM_F32 : short_ones[more].dtype;
  const char *source = row_sources[more < 0 ? variant : short_ones[more].source];
  const zmi_kernel_text text = {.name = "row_source", .form = ZMI_FORM_ROWS, .inputs = "x k", .outputs = "y r", .source = source};
  zm_dtype result[ZMI_KERNEL_OUT] = {ZM_F32, ZM_F32};
  zmi_kernel *k = zmi_kernel_define(&text);
  zmi_code *c = k ? zmi_kernel_code(k, (zm_dtype[]){dtype, ZM_I32}, result) : NULL;
  if (!c) fprintf(stderr, "%s\n", zm_last_error());
  zmi_kernel_release(k);
  return c;
}

static const emit_case emit_cases[] = {
    {"floats", case_floats, 2},
    {"integers", case_integers, 4},
    {"bools", case_bools, 1},
    {"dtypes", case_dtypes, ZM_DTYPE_COUNT - ZM_BOOL},
    {"constants", case_constants, 1},
    {"halves", case_halves, 2},
    {"loops", case_loops, 1},
    {"softmax", case_softmax, 3},
    {"row sources", case_row_sources, (int)ZMI_COUNT(row_sources) + 4},
    {"norm", case_norm, 3},
    {"reductions", case_reductions, 5},
    {"serial", case_serial, 1},
    {"join", case_join, 2},
    {"row loops", case_row_loops, 1},
    {"tiles", case_tiles, 1},
    {"tile sources", case_tile_sources, 3},
};

#endif
