// From typed code to source text: spellings of values in tables, and the entry that puts prelude and kernel together. The frames around
// the values, loops for C, threads for CUDA and Metal, are in emit_c.c and emit_gpu.c.
#include "kernel/emit.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *const zmi_target_names[ZMI_TARGET_COUNT] = {"c", "cuda", "metal"};

// ---- spellings ----

static const char *const type_names[ZMI_C_COUNT] = {
    [ZMI_C_NONE] = "void",    [ZMI_C_BOOL] = "zk_bool",   [ZMI_C_INT] = "zk_int",     [ZMI_C_UINT] = "zk_uint",
    [ZMI_C_LONG] = "zk_long", [ZMI_C_ULONG] = "zk_ulong", [ZMI_C_FLOAT] = "zk_float",
};

// What has a sign of its own; the rest are functions of the prelude, zk_<name> or zk_<name>_<type>.
static const struct infix {
  const char *sign;
  bool floats; // of floats alone: integers wrap around
} infixes[ZMI_K_COUNT] = {
    [ZMI_K_ADD] = {"+", true},  [ZMI_K_SUB] = {"-", true},  [ZMI_K_MUL] = {"*", true}, [ZMI_K_DIV] = {"/", true},
    [ZMI_K_EQ] = {"==", false}, [ZMI_K_NE] = {"!=", false}, [ZMI_K_LT] = {"<", false}, [ZMI_K_LE] = {"<=", false},
    [ZMI_K_GT] = {">", false},  [ZMI_K_GE] = {">=", false},
};

const char *zmi_emit_type(zmi_ctype t) {
  return type_names[t];
}

const char *zmi_emit_word(zmi_ctype t) {
  return zmi_ctype_name(t);
}

const char *zmi_emit_memory(zm_dtype d) {
  static const char *const names[ZM_DTYPE_COUNT] = {
#define X(name, text, size) [name] = "zk_stored_" text,
      ZM_DTYPE_LIST(X)
#undef X
  };
  return names[d];
}

// ---- writing ----

static void write_line(zmi_text *t, int depth, const char *format, va_list args) {
  char stack[512];
  va_list again;
  va_copy(again, args);
  int size = vsnprintf(stack, sizeof stack, format, args);
  char *text = stack;
  if (size >= (int)sizeof stack) {
    text = zmi_malloc((size_t)size + 1);
    if (text)
      vsnprintf(text, (size_t)size + 1, format, again);
    else
      t->failed = true;
  }
  va_end(again);
  if (text) zmi_text_add(t, "%*s%s\n", 2 * depth, "", text);
  if (text != stack) zmi_free(text);
}

void zmi_emit_line(zmi_emit_state *e, const char *format, ...) {
  va_list args;
  va_start(args, format);
  write_line(e->in_lanes ? &e->lanes : e->out, e->in_lanes ? e->depth + 1 + e->inner : e->depth, format, args);
  va_end(args);
}

void zmi_emit_top(zmi_emit_state *e, const char *format, ...) {
  va_list args;
  va_start(args, format);
  write_line(e->out, e->depth, format, args);
  va_end(args);
}

void zmi_emit_ref(const zmi_emit_state *e, int value, char text[48]) {
  snprintf(text, 48, e->place[value] == ZMI_PLACE_ARRAY ? "v%d[t]" : "v%d", value);
}

void zmi_emit_var(const zmi_emit_state *e, int var, char text[48]) {
  static const char *const forms[] = {[ZMI_PLACE_LOCAL] = "x%d", [ZMI_PLACE_ARRAY] = "x%d[t]", [ZMI_PLACE_LANES] = "x%dl[l]"};
  snprintf(text, 48, forms[e->place[var]], var);
}

void zmi_emit_value(zmi_emit_state *e, int i, const char *expression) {
  const char *type = zmi_emit_type(e->code->insts[i].type);
  if (e->uniform[i] && e->in_lanes && e->inner == 0)
    zmi_emit_top(e, "const %s v%d = %s;", type, i, expression); // in front of the loop that is being collected
  else if (e->place[i] == ZMI_PLACE_ARRAY)
    zmi_emit_line(e, "v%d[t] = %s;", i, expression);
  else
    zmi_emit_line(e, "const %s v%d = %s;", type, i, expression);
}

// ---- expressions ----

// Nine digits give a float back exactly. Denormals, like infinities, are given as bits: a compiler might compute with a decimal one.
static void decimal(float v, bool keep, zmi_text *t) {
  union {
    float f;
    uint32_t u;
  } w = {.f = v};
  char text[40];
  const uint32_t exponent = w.u & 0x7f800000u;
  snprintf(text, sizeof text, "%.9g", (double)v);
  char *comma = strchr(text, ','); // the host program's locale may write one
  if (comma) *comma = '.';
  if (exponent == 0x7f800000u || (exponent == 0 && (w.u & 0x7fffffffu)))
    zmi_text_add(t, "zk_of_bits(0x%08xu)", w.u);
  else
    zmi_text_add(t, keep ? "ze_keep(%s%sf)" : "%s%sf", text, strpbrk(text, ".e") ? "" : ".0");
}

static void literal(const zmi_emit_state *e, int i, zmi_text *t) {
  const zmi_inst *x = &e->code->insts[i];
  switch (x->type) {
  case ZMI_C_FLOAT:
    decimal(x->imm.f, e->risky[i] != 0, t);
    break;
  case ZMI_C_BOOL:
    zmi_text_add(t, x->imm.i ? "true" : "false");
    break;
  case ZMI_C_UINT:
    zmi_text_add(t, "%uu", (unsigned)x->imm.i);
    break;
  case ZMI_C_ULONG:
    zmi_text_add(t, "(zk_ulong)%lluull", (unsigned long long)x->imm.i);
    break;
  case ZMI_C_LONG:
    if (x->imm.i == INT64_MIN)
      zmi_text_add(t, "-(zk_long)9223372036854775807ll - 1");
    else
      zmi_text_add(t, "(zk_long)%lldll", (long long)x->imm.i);
    break;
  default:
    if (x->imm.i == INT32_MIN)
      zmi_text_add(t, "-2147483647 - 1");
    else
      zmi_text_add(t, "%d", (int)x->imm.i);
  }
}

static void lower(const char *name, char text[32]) {
  size_t i = 0;
  for (; name[i] && i < 31; i++) text[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
  text[i] = 0;
}

// Quotients of integers in a loop of vectors. By one number the compiler multiplies.
static bool divides_by_lanes(const zmi_emit_state *e, const zmi_inst *x) {
  return !e->serial && !e->threads && (x->type == ZMI_C_INT || x->type == ZMI_C_UINT) && e->code->insts[x->b].op != ZMI_K_CONST;
}

bool zmi_emit_expression(const zmi_emit_state *e, int i, zmi_text *t) {
  const zmi_inst *x = &e->code->insts[i];
  const zmi_cop_row *row = &zmi_cop_rows[x->op];
  char operand[3][48] = {"", "", ""}, name[32];
  const int operands[3] = {x->a, x->b, x->c};
  if (x->op == ZMI_K_CONST) {
    literal(e, i, t);
    return true;
  }
  if (!strchr("AFBCLST", row->kind) && x->op != ZMI_K_BITCAST) return false;
  for (int k = 0; k < row->operands; k++) zmi_emit_ref(e, operands[k], operand[k]);
  const zmi_ctype from = e->code->insts[x->a].type;
  const char *word = zmi_ctype_name(from);
  const struct infix *sign = &infixes[x->op];
  const bool loop = e->target == ZMI_TARGET_C && e->in_lanes && !e->uniform[i]; // spellings of loops over lanes
  const char *known = loop ? zmi_emit_row_function(e, i) : NULL;
  lower(row->name, name);
  if (known)
    zmi_text_add(t, "%s(%s%s%s)", known, operand[0], row->operands == 2 ? ", " : "", operand[1]);
  else if ((x->op == ZMI_K_CONVERT || x->op == ZMI_K_BITCAST) && from == x->type)
    zmi_text_add(t, "%s", operand[0]);
  else if (loop && x->op == ZMI_K_CONVERT && from == ZMI_C_BOOL &&
           (x->type == ZMI_C_FLOAT || x->type == ZMI_C_INT || x->type == ZMI_C_UINT))
    zmi_text_add(t, "ze_%s_of_bool(%s)", zmi_ctype_name(x->type), operand[0]);
  else if (x->op == ZMI_K_CONVERT)
    zmi_text_add(t, "zk_%s_of_%s(%s)", zmi_ctype_name(x->type), word, operand[0]);
  else if (x->op == ZMI_K_BITCAST)
    zmi_text_add(t, "zk_bitcast_%s_%s(%s)", zmi_ctype_name(x->type), word, operand[0]);
  else if (loop && x->op == ZMI_K_SELECT && x->type == ZMI_C_BOOL)
    zmi_text_add(t, "ze_pick_bool(%s, %s, %s)", operand[0], operand[1], operand[2]);
  else if (loop && (x->op == ZMI_K_AND || x->op == ZMI_K_OR))
    zmi_text_add(t, "ze_%s(%s, %s)", name, operand[0], operand[1]);
  else if (loop && (x->op == ZMI_K_DIV || x->op == ZMI_K_REM) && divides_by_lanes(e, x))
    zmi_text_add(t, "ze_%s_%s(%s, %s)", name, word, operand[0], operand[1]);
  else if (x->op == ZMI_K_SELECT)
    zmi_text_add(t, x->type == ZMI_C_FLOAT ? "ze_pick(%s, %s, %s)" : "%s ? %s : %s", operand[0], operand[1], operand[2]);
  else if (e->risky[i] && x->op >= ZMI_K_LT && x->op <= ZMI_K_GE)
    zmi_text_add(t, "ze_%s(%s, %s)", name, operand[0], operand[1]);
  else if (sign->sign && (!sign->floats || from == ZMI_C_FLOAT))
    zmi_text_add(t, "%s %s %s", operand[0], sign->sign, operand[1]);
  else {
    const bool typed = row->kind == 'A' || row->kind == 'B';
    zmi_text_add(t, "zk_%s%s%s(%s", name, typed ? "_" : "", typed ? word : "", operand[0]);
    for (int k = 1; k < row->operands; k++) zmi_text_add(t, ", %s", operand[k]);
    zmi_text_add(t, ")");
  }
  return true;
}

void zmi_emit_load(zm_dtype d, const char *place, zmi_text *t) {
  zmi_text_add(t, d == ZM_F32 ? "%.0s%s" : "zk_load_%s(%s)", zm_dtype_name(d), place);
}

void zmi_emit_stored(zm_dtype d, zmi_ctype from, const char *value, zmi_text *t) {
  zmi_text_add(t, d == ZM_F32 && from == ZMI_C_FLOAT ? "%.0s%.0s%s" : "zk_store_%s_%s(%s)", zm_dtype_name(d), zmi_ctype_name(from), value);
}

const char *zmi_emit_identity(zmi_cop op, zmi_ctype type) {
  static const char *const lowest[ZMI_C_COUNT] = {[ZMI_C_FLOAT] = "zk_of_bits(0xff800000u)",
                                                  [ZMI_C_INT] = "(-2147483647 - 1)",
                                                  [ZMI_C_LONG] = "(-(zk_long)9223372036854775807ll - 1)",
                                                  [ZMI_C_UINT] = "0",
                                                  [ZMI_C_ULONG] = "0"};
  static const char *const highest[ZMI_C_COUNT] = {[ZMI_C_FLOAT] = "zk_of_bits(0x7f800000u)",
                                                   [ZMI_C_INT] = "2147483647",
                                                   [ZMI_C_LONG] = "(zk_long)9223372036854775807ll",
                                                   [ZMI_C_UINT] = "4294967295u",
                                                   [ZMI_C_ULONG] = "~(zk_ulong)0"};
  if (op == ZMI_K_MAXIMUM || op == ZMI_K_ARGMAX) return lowest[type];
  if (op == ZMI_K_MINIMUM || op == ZMI_K_ARGMIN) return highest[type];
  if (op == ZMI_K_PROD) return "1";
  return "0";
}

// ---- facts about code ----

// Constants that meet an operation in which a compiler may leave out arithmetic that flushes denormals: x * 1, x - 0, x / 2^127.
static void find_risky(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  for (size_t i = 0; i < c->count; i++) {
    const zmi_inst *x = &c->insts[i];
    if (x->type != ZMI_C_FLOAT) continue;
    if (x->op != ZMI_K_ADD && x->op != ZMI_K_SUB && x->op != ZMI_K_MUL && x->op != ZMI_K_DIV && x->op != ZMI_K_FMA) continue;
    const int operands[3] = {x->a, x->b, x->c};
    for (int k = 0; k < 3; k++) {
      if (operands[k] < 0 || c->insts[operands[k]].op != ZMI_K_CONST) continue;
      float v = c->insts[operands[k]].imm.f, m = v < 0 ? -v : v;
      if (m == 1 || m >= 0x1p126f || m <= 0x1p-126f) e->risky[operands[k]] = 1;
    }
  }
}

// max(x, 0) and min(x, 0) by choice never give a denormal.
static bool harmless(const zmi_code *c, const zmi_inst *compare, int larger) {
  const int b = compare->b;
  if (c->insts[b].op != ZMI_K_CONST) return false;
  const float v = c->insts[b].imm.f;
  return larger == compare->a ? v == 0 || v >= 0x1p-126f : v == 0 || v <= -0x1p-126f;
}

// Comparisons of floats by which one of their own operands is chosen, here or by a branch.
static void find_choices(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  for (size_t i = 0; i < c->count; i++) {
    const zmi_inst *x = &c->insts[i];
    if (x->op != ZMI_K_IF && !(x->op == ZMI_K_SELECT && x->type == ZMI_C_FLOAT)) continue;
    int by = x->a;
    while (c->insts[by].op == ZMI_K_NOT) by = c->insts[by].a;
    const zmi_inst *compare = &c->insts[by];
    if (compare->op < ZMI_K_LT || compare->op > ZMI_K_GE || c->insts[compare->a].type != ZMI_C_FLOAT) continue;
    if (x->op == ZMI_K_SELECT) {
      const bool same = x->b == compare->a && x->c == compare->b, turned = x->b == compare->b && x->c == compare->a;
      if (!same && !turned) continue;
      const bool greater = compare->op == ZMI_K_GT || compare->op == ZMI_K_GE;
      if (x->a == by && harmless(c, compare, greater == same ? compare->a : compare->b)) continue;
    }
    e->risky[by] = 1;
  }
}

static zm_status find_blocks(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  int open = -1;
  for (size_t i = 0; i < c->count; i++) {
    const zmi_cop op = c->insts[i].op;
    e->outer[i] = open;
    e->match[i] = -1;
    if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELEMENTS) {
      open = (int)i;
    } else if (op == ZMI_K_END || op == ZMI_K_ELSE) {
      if (open < 0) return zmi_fail(ZM_ERROR_FORMAT, "kernel %s: instruction %zu closes a block that is not open", c->name, i);
      e->outer[i] = e->outer[open];
      if (op == ZMI_K_END) {
        e->match[open] = (int)i;
        open = e->outer[open];
      }
    }
  }
  return open < 0 ? ZM_OK : zmi_fail(ZM_ERROR_FORMAT, "kernel %s: a block has no end", c->name);
}

static zm_status make_state(zmi_emit_state *e, const zmi_code *code, zmi_target target, zmi_text *out) {
  const size_t n = code->count ? code->count : 1;
  *e = (zmi_emit_state){.code = code, .target = target, .out = out, .block = -1};
  e->place = zmi_calloc(n, 6);
  e->segment = zmi_calloc(n, 5 * sizeof(int));
  if (!e->place || !e->segment) return ZM_ERROR_MEMORY;
  e->uniform = e->place + n;
  e->lifted = e->uniform + n;
  e->risky = e->lifted + n;
  e->match = e->segment + n;
  e->outer = e->match + n;
  e->kept = e->outer + n;
  e->last = e->kept + n;
  for (size_t i = 0; i < n; i++) e->kept[i] = e->last[i] = -1;
  for (size_t i = 0; i < code->count; i++) {
    const int operands[3] = {code->insts[i].a, code->insts[i].b, code->insts[i].c};
    for (int k = 0; k < 3; k++)
      if (operands[k] >= 0) e->last[operands[k]] = (int)i;
  }
  e->keeps = e->risky + n;
  e->cut = e->keeps + n;
  zm_status status = find_blocks(e);
  if (status != ZM_OK) return status;
  find_risky(e);
  find_choices(e);
  return status;
}

// ---- the whole ----

// A name in a comment or between quotation marks: `\\` would take in the line below, also as the trigraph ??/.
void zmi_emit_title(const zmi_code *code, char title[64]) {
  snprintf(title, 64, "%s", code->name);
  for (char *c = title; *c; c++) {
    if ((unsigned char)*c < 32 || (unsigned char)*c > 126 || strchr("\\\"?", *c)) *c = '_';
  }
}

void zmi_emit_head(zmi_target target, zmi_text *out) {
  zmi_text_add(out, "%s%s%s", zmi_emit_before[target], zmi_prelude_text, zmi_emit_after[target]);
  if (target == ZMI_TARGET_C) zmi_text_add(out, "%s%s", zmi_emit_lanes_c, zmi_emit_short_c);
}

static zm_status emit(const zmi_code *code, zmi_target target, bool bare, int chunk, zmi_text *out) {
  zmi_emit_state e;
  zm_status status = make_state(&e, code, target, out);
  if (status == ZM_OK) {
    char title[64];
    e.chunk = chunk;
    zmi_emit_title(code, title);
    zmi_text_add(out, "// %s\n", title);
    if (!bare) zmi_emit_head(target, out);
    if (code->form == ZMI_FORM_RAW)
      e.status = zmi_emit_raw(code, target, out);
    else if (target == ZMI_TARGET_C)
      zmi_emit_c(&e);
    else
      zmi_emit_gpu(&e);
    status = e.status;
    if (status == ZM_OK && (out->failed || e.lanes.failed)) status = zmi_fail(ZM_ERROR_MEMORY, "kernel %s: out of memory", code->name);
  }
  zmi_text_release(&e.lanes);
  zmi_free(e.place);
  zmi_free(e.segment);
  return status;
}

zm_status zmi_emit(const zmi_code *code, zmi_target target, bool bare, zmi_text *out) {
  return emit(code, target, bare, 0, out);
}

zm_status zmi_emit_c_tuned(const zmi_code *code, int chunk, zmi_text *out) {
  return emit(code, ZMI_TARGET_C, false, chunk, out);
}
