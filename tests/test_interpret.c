// The interpreter against plain loops (interpret_plain.h), bit by bit: every instruction and type, random programs with branches and loops,
// rows of all lengths, threadgroups; the same bits in every tier and for every split.
#include "interpret_plain.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static uint64_t state = 88172645463325252ull;
static uint64_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static int below(int n) {
  return (int)((next_random() >> 20) % (uint64_t)n);
}

// ---- code by hand ----

static void start(zmi_code *c, int form, const char *name) {
  memset(c, 0, sizeof *c);
  c->form = form;
  snprintf(c->name, sizeof c->name, "%s", name);
}

static int put(zmi_code *c, zmi_inst x) {
  assert_true(ZMI_GROW(c->insts, c->capacity, c->count + 1));
  c->insts[c->count] = x;
  return (int)c->count++;
}

#define PUT(c, ...) put(c, (zmi_inst){__VA_ARGS__})

static int input(zmi_code *c, int index) {
  return PUT(c, .op = ZMI_K_INPUT, .type = zmi_ctype_of(c->in[index]), .index = index);
}

static int constant(zmi_code *c, zmi_ctype type, double v) {
  zmi_inst x = {.op = ZMI_K_CONST, .type = type};
  if (type == ZMI_C_FLOAT)
    x.imm.f = (float)v;
  else
    x.imm.i = (int64_t)v;
  return put(c, x);
}

static int operation(zmi_code *c, zmi_cop op, int a, int b, int d) {
  zmi_ctype t = c->insts[op == ZMI_K_SELECT ? b : a].type;
  if (zmi_cop_rows[op].kind == 'C') t = ZMI_C_BOOL;
  return PUT(c, .op = op, .type = t, .a = a, .b = b, .c = d);
}

static int output(zmi_code *c, int a, int index) {
  return PUT(c, .op = ZMI_K_OUTPUT, .a = a, .index = index);
}

static void end(zmi_code *c) {
  PUT(c, .op = ZMI_K_END);
}

// ---- data ----

static uint32_t special_float(void) {
  static const uint32_t special[] = {0,           0x80000000u, 0x3f800000u, 0xbf800000u, 0x7f800000u, 0xff800000u,
                                     0x7fc00000u, 0xffc00001u, 1,           0x807fffffu, 0x00800000u, 0x7f7fffffu,
                                     0x40000000u, 0xc0400000u, 0x4f000000u, 0xcf000000u, 0x5f000000u, 0x3f000000u};
  return special[below((int)ZMI_COUNT(special))];
}

static void fill(zm_dtype dtype, void *p, int64_t n) {
  const size_t size = zm_dtype_size(dtype);
  for (int64_t i = 0; i < n; i++) {
    uint64_t bits = next_random();
    int kind = below(4);
    if (dtype == ZM_F32 && kind == 0) bits = special_float();
    if (dtype == ZM_F32 && kind > 1) { // moderate
      float f = (float)((double)(bits >> 11) * 0x1p-50 - 4.0);
      memcpy(&bits, &f, 4);
    }
    if (dtype == ZM_BF16 && kind > 1) bits = 0x3f00u + bits % 256;
    if (dtype == ZM_F16 && kind > 1) bits = 0x3800u + bits % 2048;
    if (dtype == ZM_BOOL) bits &= 1;
    if (dtype >= ZM_U8 && dtype <= ZM_I64 && kind > 1) bits = bits % 23 - (dtype >= ZM_I8 ? 11 : 0);
    memcpy((char *)p + (size_t)i * size, &bits, size);
  }
}

typedef struct data {
  void *in[8], *out[8], *expected[8];
  size_t bytes[8];
  int step[8];
  int64_t stride[8];
} data;

static void make(const zmi_code *c, data *x, int64_t rows, int64_t d, bool varied) {
  memset(x, 0, sizeof *x);
  for (int i = 0; i < c->nin; i++) {
    x->step[i] = c->in_per_row[i] || (varied && below(4) == 0) ? 0 : 1;
    x->stride[i] = c->in_per_row[i] ? 1 : varied && below(4) == 0 ? 0 : d + (varied ? below(3) : 0);
    x->in[i] = malloc((size_t)(rows * (d + 3) + 1) * 8);
    fill(c->in[i], x->in[i], rows * (d + 3) + 1);
  }
  for (int o = 0; o < c->nout; o++) {
    x->bytes[o] = (size_t)(c->per_row[o] ? rows : rows * d) * zm_dtype_size(c->out[o]);
    x->out[o] = malloc(x->bytes[o] + 64);
    x->expected[o] = malloc(x->bytes[o] + 64);
    memset(x->out[o], 0xa5, x->bytes[o] + 64);
    memset(x->expected[o], 0xa5, x->bytes[o] + 64);
  }
}

static void drop(const zmi_code *c, data *x) {
  for (int i = 0; i < c->nin; i++) free(x->in[i]);
  for (int o = 0; o < c->nout; o++) free(x->out[o]), free(x->expected[o]);
}

static void failed(const zmi_code *c, const char *tier, int o, size_t at, const data *x) {
  zmi_text t = {0};
  zmi_code_print(c, &t);
  print_message("%s\n", zmi_text_str(&t));
  zmi_text_release(&t);
  uint64_t a = 0, b = 0;
  const size_t size = zm_dtype_size(c->out[o]);
  memcpy(&a, (char *)x->out[o] + at * size, size);
  memcpy(&b, (char *)x->expected[o] + at * size, size);
  fail_msg("%s: result %d differs at %zu: %llx, not %llx", tier, o, at, (unsigned long long)a, (unsigned long long)b);
}

// Bits, but for the sign and payload of a NaN.
static void compare(const zmi_code *c, const char *tier, const data *x) {
  for (int o = 0; o < c->nout; o++) {
    const size_t size = zm_dtype_size(c->out[o]);
    if (memcmp(x->out[o], x->expected[o], x->bytes[o] + 64) == 0) continue;
    for (size_t i = 0; i < x->bytes[o] / size; i++) {
      const char *a = (char *)x->out[o] + i * size, *b = (char *)x->expected[o] + i * size;
      float f, g;
      if (memcmp(a, b, size) == 0) continue;
      memcpy(&f, a, 4), memcpy(&g, b, 4);
      if (c->out[o] != ZM_F32 || f == f || g == g) failed(c, tier, o, i, x);
    }
    assert_memory_equal((char *)x->out[o] + x->bytes[o], (char *)x->expected[o] + x->bytes[o], 64);
  }
}

static const double params[4] = {2.5, -7, 1e10, 0.125};

static void check_elements(const zmi_code *c, int64_t n, bool varied, bool split) {
  data x;
  make(c, &x, 1, n, varied);
  zmi_routine *p = zmi_routine_new(c);
  if (!p) fail_msg("%s", zm_last_error());
  unsigned saved = zmi_float_rule_enter();
  plain_run(c, n, 1, (const void *const *)x.in, NULL, x.step, params, x.expected);
  for (size_t t = 0; t < zmi_tier_count(); t++) {
    if (!zmi_tier_supported(t, NULL)) continue;
    for (int o = 0; o < c->nout; o++) memset(x.out[o], 0xa5, x.bytes[o]);
    for (int64_t at = 0, part; at < n; at += part) {
      const void *in[8];
      void *out[8];
      const int64_t size = 1 + below(700);
      part = split ? ZMI_MIN(n - at, size) : n;
      for (int i = 0; i < c->nin; i++) in[i] = (char *)x.in[i] + (size_t)(at * x.step[i]) * zm_dtype_size(c->in[i]);
      for (int o = 0; o < c->nout; o++) out[o] = (char *)x.out[o] + (size_t)at * zm_dtype_size(c->out[o]);
      assert_int_equal(zmi_routine_elements(p, zmi_tier(t), part, in, x.step, params, out), ZM_OK);
    }
    compare(c, zmi_tier(t)->name, &x);
  }
  zmi_float_rule_leave(saved);
  zmi_routine_free(p);
  drop(c, &x);
}

static void check_rows(const zmi_code *c, int64_t rows, int64_t d, bool varied) {
  data x;
  make(c, &x, rows, d, varied);
  zmi_routine *p = zmi_routine_new(c);
  if (!p) fail_msg("%s", zm_last_error());
  unsigned saved = zmi_float_rule_enter();
  plain_run(c, rows, d, (const void *const *)x.in, x.stride, x.step, params, x.expected);
  for (size_t t = 0; t < zmi_tier_count(); t++) {
    if (!zmi_tier_supported(t, NULL)) continue;
    for (int split = 0; split < 2; split++) { // together, and each row alone
      for (int o = 0; o < c->nout; o++) memset(x.out[o], 0xa5, x.bytes[o]);
      for (int64_t r = 0; r < rows; r += split ? 1 : rows) {
        const void *in[8];
        void *out[8];
        for (int i = 0; i < c->nin; i++) in[i] = (char *)x.in[i] + (size_t)(r * x.stride[i]) * zm_dtype_size(c->in[i]);
        for (int o = 0; o < c->nout; o++) out[o] = (char *)x.out[o] + (size_t)(c->per_row[o] ? r : r * d) * zm_dtype_size(c->out[o]);
        assert_int_equal(zmi_routine_rows(p, zmi_tier(t), split ? 1 : rows, d, in, x.stride, x.step, params, out), ZM_OK);
      }
      compare(c, zmi_tier(t)->name, &x);
    }
  }
  zmi_float_rule_leave(saved);
  zmi_routine_free(p);
  drop(c, &x);
}

// ---- every instruction, every type ----

static const zm_dtype natural[] = {[ZMI_C_BOOL] = ZM_BOOL, [ZMI_C_INT] = ZM_I32,   [ZMI_C_UINT] = ZM_U32,
                                   [ZMI_C_LONG] = ZM_I64,  [ZMI_C_ULONG] = ZM_U64, [ZMI_C_FLOAT] = ZM_F32};

static bool takes(zmi_cop op, zmi_ctype t) {
  switch (zmi_cop_rows[op].kind) {
  case 'A':
    return true;
  case 'F':
    return t == ZMI_C_FLOAT;
  case 'B':
    return t != ZMI_C_FLOAT && (t != ZMI_C_BOOL || (op != ZMI_K_SHL && op != ZMI_K_SHR && op != ZMI_K_POPCOUNT));
  case 'C':
    return op == ZMI_K_ISNAN || op == ZMI_K_ISINF || op == ZMI_K_ISFINITE ? t == ZMI_C_FLOAT : true;
  case 'L':
    return t == ZMI_C_BOOL;
  case 'S':
    return true;
  default:
    return false;
  }
}

static void every_instruction(void **context) {
  (void)context;
  int seen = 0;
  for (zmi_cop op = 0; op < ZMI_K_COUNT; op++) {
    for (zmi_ctype t = ZMI_C_BOOL; t < ZMI_C_COUNT; t++) {
      if (!takes(op, t)) continue;
      zmi_code c;
      start(&c, ZMI_FORM_ELEMENTS, zmi_cop_rows[op].name);
      c.nin = 3;
      c.in[0] = op == ZMI_K_SELECT ? ZM_BOOL : natural[t], c.in[1] = c.in[2] = natural[t];
      int a = input(&c, 0), b = input(&c, 1), d = input(&c, 2);
      int r = operation(&c, op, a, b, d);
      c.nout = 1;
      c.out[0] = natural[c.insts[r].type];
      output(&c, r, 0);
      check_elements(&c, 3001, false, false);
      zmi_free(c.insts);
      seen++;
    }
  }
  assert_true(seen > 150);
}

static void every_conversion_and_format(void **context) {
  (void)context;
  for (zm_dtype from = ZM_BOOL; from < ZM_DTYPE_COUNT; from++) {
    for (zm_dtype to = ZM_BOOL; to < ZM_DTYPE_COUNT; to++) {
      zmi_code c;
      start(&c, ZMI_FORM_ELEMENTS, "convert");
      c.nin = 1, c.in[0] = from;
      c.nout = 2, c.out[0] = c.out[1] = to;
      int v = input(&c, 0);
      output(&c, PUT(&c, .op = ZMI_K_CONVERT, .type = zmi_ctype_of(to), .a = v), 0);
      output(&c, v, 1); // converted as it is stored
      check_elements(&c, 2003, false, true);
      zmi_free(c.insts);
    }
  }
  for (int k = 0; k < 6; k++) {
    static const zmi_ctype pairs[6][2] = {{ZMI_C_FLOAT, ZMI_C_INT},  {ZMI_C_FLOAT, ZMI_C_UINT}, {ZMI_C_INT, ZMI_C_FLOAT},
                                          {ZMI_C_UINT, ZMI_C_FLOAT}, {ZMI_C_INT, ZMI_C_UINT},   {ZMI_C_UINT, ZMI_C_INT}};
    zmi_code c;
    start(&c, ZMI_FORM_ELEMENTS, "bitcast");
    c.nin = c.nout = 1, c.in[0] = natural[pairs[k][0]], c.out[0] = natural[pairs[k][1]];
    output(&c, PUT(&c, .op = ZMI_K_BITCAST, .type = pairs[k][1], .a = input(&c, 0)), 0);
    check_elements(&c, 1000, false, true);
    zmi_free(c.insts);
  }
}

// The angles that take the other reduction, alone and among small ones.
static void large_angles(void **context) {
  (void)context;
  static const zmi_cop ops[] = {ZMI_K_SIN, ZMI_K_COS, ZMI_K_TAN};
  for (int k = 0; k < 3; k++) {
    zmi_code c;
    start(&c, ZMI_FORM_ELEMENTS, "angles");
    c.nin = c.nout = 1, c.in[0] = c.out[0] = ZM_F32;
    int v = input(&c, 0);
    output(&c, operation(&c, ops[k], operation(&c, ZMI_K_MUL, v, constant(&c, ZMI_C_FLOAT, 16000), 0), -1, -1), 0);
    for (int i = 0; i < 20; i++) check_elements(&c, 1 + below(3000), false, true);
    zmi_free(c.insts);
  }
}

// ---- random programs ----

typedef struct maker {
  zmi_code *c;
  int values[512], variables[64]; // that may be read here
  int value_count, variable_count, depth, row_level;
} maker;

static int pick(maker *m, zmi_ctype t) { // a value of this type
  for (int tries = 0; tries < 20 && m->value_count; tries++) {
    int v = m->values[below(m->value_count)];
    if (m->c->insts[v].type == t) return v;
  }
  int v = constant(m->c, t, t == ZMI_C_BOOL ? below(2) : below(9) - (t == ZMI_C_UINT || t == ZMI_C_ULONG ? 0 : 4));
  if (m->value_count < 500) m->values[m->value_count++] = v;
  return v;
}

static void keep(maker *m, int v) {
  if (m->value_count < 500) m->values[m->value_count++] = v;
}

static zmi_ctype any_type(void) {
  static const zmi_ctype types[] = {ZMI_C_FLOAT, ZMI_C_FLOAT, ZMI_C_FLOAT, ZMI_C_INT, ZMI_C_INT,
                                    ZMI_C_UINT,  ZMI_C_LONG,  ZMI_C_ULONG, ZMI_C_BOOL};
  return types[below((int)ZMI_COUNT(types))];
}

static void statements(maker *m, int count, int outside);

static void nested(maker *m, int outside) {
  zmi_code *c = m->c;
  int values = m->value_count, variables = m->variable_count;
  m->depth++;
  if (below(2)) {
    PUT(c, .op = ZMI_K_IF, .a = pick(m, ZMI_C_BOOL));
    statements(m, 1 + below(5), outside);
    m->value_count = values, m->variable_count = variables;
    if (below(2)) {
      PUT(c, .op = ZMI_K_ELSE);
      statements(m, 1 + below(5), outside);
    }
  } else {
    int end = constant(c, ZMI_C_INT, below(5));
    if (below(2)) { // a number of turns of its own for each lane
      int most = constant(c, ZMI_C_INT, 6), low = operation(c, ZMI_K_MIN, pick(m, ZMI_C_INT), most, -1);
      end = operation(c, ZMI_K_MAX, low, constant(c, ZMI_C_INT, -2), -1);
    }
    int from = constant(c, ZMI_C_INT, below(3) - 1), by = constant(c, ZMI_C_INT, 1 + below(2));
    keep(m, PUT(c, .op = ZMI_K_FOR, .type = ZMI_C_INT, .a = from, .b = end, .c = by));
    statements(m, 1 + below(5), outside);
  }
  m->value_count = values, m->variable_count = variables;
  end(c);
  m->depth--;
}

// Variables with an index below `outside` are not set.
static void statements(maker *m, int count, int outside) {
  zmi_code *c = m->c;
  for (int i = 0; i < count && c->count < 400; i++) {
    int kind = below(10);
    zmi_ctype t = any_type();
    if (kind == 0 && m->depth < 3) {
      nested(m, outside);
    } else if (kind == 1 && m->variable_count < 60) {
      m->variables[m->variable_count++] = PUT(c, .op = ZMI_K_VAR, .type = t, .a = pick(m, t));
    } else if (kind <= 4 && m->variable_count) {
      int v = m->variables[below(m->variable_count)];
      t = c->insts[v].type;
      if (kind == 2 || v < outside)
        keep(m, PUT(c, .op = ZMI_K_GET, .type = t, .index = v));
      else
        PUT(c, .op = ZMI_K_SET, .a = pick(m, t), .index = v);
    } else {
      zmi_cop op = (zmi_cop)(ZMI_K_NEG + below(ZMI_K_SELECT - ZMI_K_NEG + 1));
      if (op == ZMI_K_REM && t == ZMI_C_FLOAT) continue; // slow, seen above
      if (!takes(op, t)) t = zmi_cop_rows[op].kind == 'L' ? ZMI_C_BOOL : zmi_cop_rows[op].kind == 'B' ? ZMI_C_INT : ZMI_C_FLOAT;
      int a = op == ZMI_K_SELECT ? pick(m, ZMI_C_BOOL) : pick(m, t), b = pick(m, t), d = pick(m, t);
      keep(m, operation(c, op, a, b, d));
    }
  }
}

static const zm_dtype some_dtypes[] = {ZM_F32, ZM_F32, ZM_F32, ZM_F16, ZM_BF16, ZM_I32, ZM_U8, ZM_I64, ZM_BOOL, ZM_U64, ZM_I16};

static void operands(zmi_code *c) {
  c->nin = 1 + below(4);
  for (int i = 0; i < c->nin; i++) c->in[i] = some_dtypes[below((int)ZMI_COUNT(some_dtypes))];
  c->nparams = 2;
}

static void result(maker *m, bool per_row) {
  zmi_code *c = m->c;
  if (c->nout >= 6) return;
  zm_dtype to = some_dtypes[below((int)ZMI_COUNT(some_dtypes))];
  c->per_row[c->nout] = per_row;
  c->out[c->nout] = to;
  output(c, pick(m, zmi_ctype_of(to)), c->nout);
  c->nout++;
}

static void random_elements(void **context) {
  (void)context;
  for (int round = 0; round < 400; round++) {
    zmi_code c;
    start(&c, ZMI_FORM_ELEMENTS, "random");
    operands(&c);
    maker m = {.c = &c};
    for (int i = 0; i < c.nin; i++) keep(&m, input(&c, i));
    keep(&m, PUT(&c, .op = ZMI_K_PARAM, .type = ZMI_C_FLOAT, .index = 0));
    keep(&m, PUT(&c, .op = ZMI_K_PARAM, .type = ZMI_C_INT, .index = 1));
    bool place = below(3) == 0;
    if (place) keep(&m, PUT(&c, .op = ZMI_K_PLACE, .type = ZMI_C_INT));
    statements(&m, 3 + below(40), 0);
    for (int o = 1 + below(3); o > 0; o--) {
      result(&m, false);
      statements(&m, below(6), 0);
    }
    check_elements(&c, round % 8 == 0 ? below(3) : 1 + below(3000), true, !place);
    zmi_free(c.insts);
  }
}

static void reductions(maker *m, int inside, int *made, int *made_count) {
  zmi_code *c = m->c;
  for (int k = below(4); k > 0; k--) {
    zmi_cop op = (zmi_cop)(ZMI_K_SUM + below(ZMI_K_ARGMIN - ZMI_K_SUM + 1));
    int a = m->value_count > inside ? m->values[inside + below(m->value_count - inside)] : pick(m, ZMI_C_FLOAT);
    zmi_ctype t = c->insts[a].type;
    if (t == ZMI_C_BOOL || (op == ZMI_K_SUMSQ && t != ZMI_C_FLOAT)) continue;
    int v = PUT(c, .op = op, .type = op == ZMI_K_ARGMAX || op == ZMI_K_ARGMIN ? ZMI_C_INT : t, .a = a);
    if (*made_count < 16) made[(*made_count)++] = v;
  }
  if (below(3) == 0) keep(m, PUT(c, .op = ZMI_K_SCAN_SUM, .type = ZMI_C_FLOAT, .a = pick(m, ZMI_C_FLOAT)));
  if (below(6) == 0) keep(m, PUT(c, .op = ZMI_K_SCAN_SUM, .type = ZMI_C_LONG, .a = pick(m, ZMI_C_LONG)));
}

// A block: places in parallel, serial (rising or falling), or with lanes that are joined.
static void block(maker *m) {
  zmi_code *c = m->c;
  int kind = below(5), values = m->value_count, variables = m->variable_count, made[16], made_count = 0;
  bool serial = kind <= 1, joined = kind == 2 && variables, falling = kind == 1 || (joined && below(3) == 0);
  int begin = PUT(c, .op = ZMI_K_ELEMENTS, .extra = falling);
  for (int i = 0; i < c->nin; i++) keep(m, input(c, i));
  keep(m, PUT(c, .op = ZMI_K_PLACE, .type = ZMI_C_INT));
  int inside = m->value_count;
  statements(m, 3 + below(12), serial || joined ? 0 : begin);
  if (!falling) reductions(m, inside, made, &made_count);
  statements(m, below(8), serial || joined ? 0 : begin);
  if (below(3)) result(m, false);
  if (joined) {
    PUT(c, .op = ZMI_K_JOIN);
    m->value_count = values;
    m->variable_count = variables;
    for (int i = 0; i < variables; i++) {
      int v = m->variables[i];
      bool set = false;
      for (int k = begin; k < (int)c->count; k++) set = set || (c->insts[k].op == ZMI_K_SET && c->insts[k].index == v);
      if (!set || below(4) == 0) continue;
      zmi_ctype t = c->insts[v].type;
      keep(m, PUT(c, .op = ZMI_K_GET, .type = t, .index = v));
      keep(m, PUT(c, .op = ZMI_K_GET_RIGHT, .type = t, .index = v));
      int l = m->values[m->value_count - 2], r = m->values[m->value_count - 1];
      int sum = operation(c, below(2) ? ZMI_K_ADD : ZMI_K_MAX, l, r, -1);
      PUT(c, .op = ZMI_K_SET, .a = below(3) ? sum : pick(m, t), .index = v);
    }
  }
  end(c);
  m->value_count = values;
  m->variable_count = variables;
  for (int i = 0; i < made_count; i++) keep(m, made[i]);
}

static void random_rows(void **context) {
  (void)context;
  static const int lengths[] = {0, 1, 2, 7, 15, 16, 17, 23, 24, 33, 100, 513, 1500};
  for (int round = 0; round < 500; round++) {
    zmi_code c;
    start(&c, ZMI_FORM_ROWS, "random");
    operands(&c);
    maker m = {.c = &c};
    c.in_per_row[c.nin - 1] = below(3) == 0;
    keep(&m, PUT(&c, .op = ZMI_K_PARAM, .type = ZMI_C_FLOAT, .index = 0));
    keep(&m, PUT(&c, .op = ZMI_K_LENGTH, .type = ZMI_C_INT));
    if (c.in_per_row[c.nin - 1]) keep(&m, input(&c, c.nin - 1));
    for (int b = 1 + below(3); b > 0; b--) {
      statements(&m, below(8), 0);
      block(&m);
    }
    statements(&m, below(8), 0);
    result(&m, true);
    int d = lengths[below((int)ZMI_COUNT(lengths))];
    check_rows(&c, d > 500 ? 1 + below(4) : 1 + below(40), d, true);
    zmi_free(c.insts);
  }
}

// ---- rows that are known ----

static void softmax(zmi_code *c) {
  start(c, ZMI_FORM_ROWS, "softmax");
  c->nin = c->nout = 1, c->in[0] = c->out[0] = ZM_F32;
  PUT(c, .op = ZMI_K_ELEMENTS);
  int m = PUT(c, .op = ZMI_K_MAXIMUM, .type = ZMI_C_FLOAT, .a = input(c, 0));
  end(c);
  PUT(c, .op = ZMI_K_ELEMENTS);
  int e = operation(c, ZMI_K_EXP, operation(c, ZMI_K_SUB, input(c, 0), m, -1), -1, -1);
  int sum = PUT(c, .op = ZMI_K_SUM, .type = ZMI_C_FLOAT, .a = e);
  end(c);
  PUT(c, .op = ZMI_K_ELEMENTS);
  e = operation(c, ZMI_K_EXP, operation(c, ZMI_K_SUB, input(c, 0), m, -1), -1, -1);
  output(c, operation(c, ZMI_K_DIV, e, sum, -1), 0);
  end(c);
}

// The bits of the library's own softmax: the lane order is one and the same.
static void softmax_is_the_kernels(void **context) {
  (void)context;
  zmi_code c;
  softmax(&c);
  zmi_routine *p = zmi_routine_new(&c);
  assert_non_null(p);
  unsigned saved = zmi_float_rule_enter();
  static const int lengths[] = {1, 3, 16, 17, 31, 100, 1000, 4096, 5001};
  for (size_t i = 0; i < ZMI_COUNT(lengths); i++) {
    const int64_t d = lengths[i], rows = 5, stride = d;
    float *x = malloc((size_t)(rows * d) * 4), *y = malloc((size_t)(rows * d) * 4);
    for (int64_t k = 0; k < rows * d; k++) x[k] = (float)((double)(next_random() >> 11) * 0x1p-49 - 8);
    for (size_t t = 0; t < zmi_tier_count(); t++) {
      if (!zmi_tier_supported(t, NULL)) continue;
      zmi_routine_rows(p, zmi_tier(t), rows, d, (const void *const[]){x}, &stride, (const int[]){1}, NULL, (void *const[]){y});
      for (int64_t r = 0; r < rows; r++) {
        float expected[5001];
        memcpy(expected, x + r * d, (size_t)d * 4);
        zmi_kernels_find("scalar")->softmax(expected, d);
        assert_memory_equal(y + r * d, expected, (size_t)d * 4);
      }
      // in place
      float *z = malloc((size_t)(rows * d) * 4);
      memcpy(z, x, (size_t)(rows * d) * 4);
      zmi_routine_rows(p, zmi_tier(t), rows, d, (const void *const[]){z}, &stride, (const int[]){1}, NULL, (void *const[]){z});
      assert_memory_equal(z, y, (size_t)(rows * d) * 4);
      free(z);
    }
    free(x), free(y);
  }
  zmi_float_rule_leave(saved);
  zmi_routine_free(p);
  zmi_free(c.insts);
}

// ---- threadgroups ----

// y[group] = the sum of x over the group's threads by halving in shared memory; z = x shifted by one place; counts[x & 3] += 1.
static void group_sum(zmi_code *c) {
  start(c, ZMI_FORM_TILES, "group_sum");
  c->nin = 1, c->in[0] = ZM_I32;
  c->nout = 3, c->out[0] = ZM_I32, c->out[1] = ZM_I16, c->out[2] = ZM_U32;
  int thread = PUT(c, .op = ZMI_K_THREAD, .type = ZMI_C_INT), group = PUT(c, .op = ZMI_K_GROUP, .type = ZMI_C_INT);
  int threads = PUT(c, .op = ZMI_K_THREADS, .type = ZMI_C_INT), one = constant(c, ZMI_C_INT, 1);
  int shared = PUT(c, .op = ZMI_K_SHARED, .type = ZMI_C_INT, .extra = 64);
  int at = operation(c, ZMI_K_ADD, operation(c, ZMI_K_MUL, group, threads, -1), thread, -1);
  int x = PUT(c, .op = ZMI_K_LOAD, .type = ZMI_C_INT, .a = at);
  PUT(c, .op = ZMI_K_SHARED_STORE, .a = thread, .b = x, .index = shared);
  PUT(c, .op = ZMI_K_BARRIER);
  int half = PUT(c, .op = ZMI_K_VAR, .type = ZMI_C_INT, .a = operation(c, ZMI_K_DIV, threads, constant(c, ZMI_C_INT, 2), -1));
  PUT(c, .op = ZMI_K_FOR, .type = ZMI_C_INT, .a = constant(c, ZMI_C_INT, 0), .b = constant(c, ZMI_C_INT, 6), .c = one);
  int h = PUT(c, .op = ZMI_K_GET, .type = ZMI_C_INT, .index = half);
  PUT(c, .op = ZMI_K_IF, .a = operation(c, ZMI_K_LT, thread, h, -1));
  int left = PUT(c, .op = ZMI_K_SHARED_LOAD, .type = ZMI_C_INT, .a = thread, .index = shared);
  int right = PUT(c, .op = ZMI_K_SHARED_LOAD, .type = ZMI_C_INT, .a = operation(c, ZMI_K_ADD, thread, h, -1), .index = shared);
  PUT(c, .op = ZMI_K_SHARED_STORE, .a = thread, .b = operation(c, ZMI_K_ADD, left, right, -1), .index = shared);
  end(c);
  PUT(c, .op = ZMI_K_BARRIER);
  PUT(c, .op = ZMI_K_SET, .a = operation(c, ZMI_K_DIV, h, constant(c, ZMI_C_INT, 2), -1), .index = half);
  end(c);
  PUT(c, .op = ZMI_K_IF, .a = operation(c, ZMI_K_EQ, thread, constant(c, ZMI_C_INT, 0), -1));
  PUT(c, .op = ZMI_K_STORE, .a = group, .b = PUT(c, .op = ZMI_K_SHARED_LOAD, .type = ZMI_C_INT, .a = thread, .index = shared), .index = 0);
  end(c);
  // one place past both ends is asked for
  int shifted = PUT(c, .op = ZMI_K_LOAD, .type = ZMI_C_INT, .a = operation(c, ZMI_K_SUB, at, one, -1));
  PUT(c, .op = ZMI_K_STORE, .a = at, .b = shifted, .index = 1);
  PUT(c, .op = ZMI_K_STORE, .a = PUT(c, .op = ZMI_K_NEG, .type = ZMI_C_INT, .a = operation(c, ZMI_K_ADD, at, one, -1)), .b = x, .index = 1);
  int place = operation(c, ZMI_K_BIT_AND, x, constant(c, ZMI_C_INT, 3), -1);
  PUT(c, .op = ZMI_K_ATOMIC_ADD, .a = place, .b = constant(c, ZMI_C_UINT, 1), .index = 2);
}

static void groups(void **context) {
  (void)context;
  enum { GROUPS = 7, THREADS = 32, N = GROUPS * THREADS - 5 };
  zmi_code c;
  group_sum(&c);
  int32_t x[N], y[GROUPS];
  int16_t z[N];
  uint32_t counts[4], expected[4] = {0};
  for (int i = 0; i < N; i++) x[i] = below(2000) - 1000;
  const zmi_type in = zmi_type_of(ZM_I32, 1, (const int64_t[]){N});
  const zmi_type out[3] = {zmi_type_of(ZM_I32, 1, (const int64_t[]){GROUPS}), zmi_type_of(ZM_I16, 1, (const int64_t[]){N}),
                           zmi_type_of(ZM_U32, 1, (const int64_t[]){4})};
  zmi_launch l = {.groups = GROUPS,
                  .threads = THREADS,
                  .in = (const void *const[]){x},
                  .out = (void *const[]){y, z, counts},
                  .in_type = &in,
                  .out_type = out};
  zmi_routine *p = zmi_routine_new(&c);
  assert_non_null(p);
  for (int i = 0; i < GROUPS * THREADS; i++) expected[(i < N ? x[i] : 0) & 3]++; // loads past the end give 0
  for (size_t t = 0; t < zmi_tier_count(); t++) {
    if (!zmi_tier_supported(t, NULL)) continue;
    memset(y, 0, sizeof y), memset(z, 0x11, sizeof z), memset(counts, 0, sizeof counts);
    assert_int_equal(zmi_routine_groups(p, zmi_tier(t), &l, 0, 3), ZM_OK);
    assert_int_equal(zmi_routine_groups(p, zmi_tier(t), &l, 3, GROUPS), ZM_OK);
    for (int g = 0; g < GROUPS; g++) {
      int32_t sum = 0;
      for (int i = g * THREADS; i < (g + 1) * THREADS && i < N; i++) sum += x[i];
      assert_int_equal(y[g], sum);
    }
    for (int i = 0; i < N; i++) assert_int_equal(z[i], (int16_t)(i ? x[i - 1] : 0));
    assert_memory_equal(counts, expected, sizeof counts);
  }
  l.threads = 1025;
  assert_int_equal(zmi_routine_groups(p, zmi_tier(0), &l, 0, 1), ZM_ERROR_LIMIT);
  zmi_routine_free(p);
  zmi_free(c.insts);
}

// ---- sizes and failures ----

// `alive` values that are all needed at the end.
static void many_values(zmi_code *c, int alive) {
  start(c, ZMI_FORM_ELEMENTS, "many");
  c->nin = c->nout = 1, c->in[0] = c->out[0] = ZM_F32;
  int x = input(c, 0), first = x;
  for (int i = 0; i < alive; i++) {
    int v = operation(c, ZMI_K_MUL, x, x, -1);
    if (i == 0) first = v;
  }
  int sum = first;
  for (int i = 1; i < alive; i++) sum = operation(c, ZMI_K_ADD, sum, first + i, -1);
  output(c, sum, 0);
}

static void sizes(void **context) {
  (void)context;
  static const int alive[] = {10, 300, 3000, 14000};
  for (size_t i = 0; i < ZMI_COUNT(alive); i++) {
    zmi_code c;
    many_values(&c, alive[i]);
    check_elements(&c, 200, false, true);
    zmi_free(c.insts);
  }
  zmi_code c;
  many_values(&c, 20000);
  assert_null(zmi_routine_new(&c));
  assert_non_null(strstr(zm_last_error(), "too large"));
  zmi_free(c.insts);
}

static void failing_allocations(void **context) {
  (void)context;
  zmi_code c;
  softmax(&c);
  for (uint64_t n = 1; n < 100; n++) {
    zmi_alloc_fail_at(n);
    zmi_routine *p = zmi_routine_new(&c);
    zmi_alloc_fail_at(0);
    if (p) {
      assert_true(n > 3);
      zmi_routine_free(p);
      break;
    }
    assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
  }
  uint64_t before;
  zmi_routine *p = zmi_routine_new(&c);
  float x[100] = {0}, y[100];
  const int64_t stride = 10;
  before = zmi_alloc_count();
  zmi_routine_rows(p, zmi_tier(0), 10, 10, (const void *const[]){x}, &stride, (const int[]){1}, NULL, (void *const[]){y});
  assert_int_equal(zmi_alloc_count(), before);
  zmi_routine_free(p);
  zmi_free(c.insts);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_instruction),
      cmocka_unit_test(every_conversion_and_format),
      cmocka_unit_test(large_angles),
      cmocka_unit_test(random_elements),
      cmocka_unit_test(random_rows),
      cmocka_unit_test(softmax_is_the_kernels),
      cmocka_unit_test(groups),
      cmocka_unit_test(sizes),
      cmocka_unit_test(failing_allocations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
