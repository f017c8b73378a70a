// Emitted C. Elements of a row, elements of an array and threads of a group all become loops that the compiler can turn into vector code:
// what happens between two barriers, or inside one turn of a loop that all elements make together, is one loop over lanes; values that live
// longer have arrays. Reductions collect a chunk of values first and add it up in the lane order.
#include "kernel/emit.h"

#include <stdio.h>

enum { CHUNK = 512, CHUNK_ARRAYS = 128, BLOCK = ZMI_EMIT_BLOCK, KEPT = 32768 /* places of a row */ };

//
// Where elements do nothing but arithmetic, 32 are computed at a time (`blocks`): values stay in registers up to the reductions and the
// results, which may then go to memory past the caches. Missing elements of the last 32 are made up: operands are copied, results cut.

bool zmi_emit_arrays(zmi_emit_state *e, int begin, int end, bool write) {
  bool any = false;
  for (int i = begin; i < end; i++) {
    if (e->place[i] != ZMI_PLACE_ARRAY) continue;
    const zmi_inst *x = &e->code->insts[i];
    any = true;
    if (write) zmi_emit_top(e, "%s %c%d[%d];", zmi_emit_type(x->type), x->op == ZMI_K_VAR ? 'x' : 'v', i, e->capacity);
  }
  return any;
}

// ---- the loop over lanes ----

void zmi_emit_flush(zmi_emit_state *e) {
  if (!e->lanes.size) return;
  const bool falling = e->serial && e->block >= 0 && e->code->insts[e->block].extra == 1;
  if (!e->threads && !e->serial) zmi_emit_top(e, "ZK_LANES");
  zmi_emit_top(e, falling     ? "for (zk_int t = n - 1; t >= 0; t--) {"
                  : e->blocks ? "for (zk_int t = 0; t < 32; t++) {"
                              : "for (zk_int t = 0; t < n; t++) {");
  zmi_text_add_bytes(e->out, zmi_text_str(&e->lanes), e->lanes.size);
  zmi_emit_top(e, "}");
  e->lanes.failed = e->lanes.failed || e->out->failed;
  e->lanes.size = 0;
}

static void top_ref(const zmi_emit_state *e, int value, char text[48]) {
  snprintf(text, 48, e->place[value] == ZMI_PLACE_ARRAY ? "v%d[0]" : "v%d", value);
}

static bool is_const(const zmi_emit_state *e, int v) {
  return e->code->insts[v].op == ZMI_K_CONST;
}

static void open_for(zmi_emit_state *e, int i, bool lifted) {
  const zmi_inst *x = &e->code->insts[i];
  char a[48], b[48], c[48];
  void (*ref)(const zmi_emit_state *, int, char *) = lifted ? top_ref : zmi_emit_ref;
  ref(e, x->a, a);
  ref(e, x->b, b);
  ref(e, x->c, c);
  const bool fixed = is_const(e, x->c) && e->code->insts[x->c].imm.i > 0;
  const bool narrow =
      fixed && is_const(e, x->b) && e->code->insts[x->b].imm.i < INT32_MAX / 2 && e->code->insts[x->c].imm.i < INT32_MAX / 2;
  char guard[64] = "";
  if (!fixed) snprintf(guard, sizeof guard, "%s > 0 && ", c);
  zmi_emit_line(e, "for (%s k%d = %s; %sk%d < %s; k%d += %s) {", narrow ? "zk_int" : "zk_long", i, a, guard, i, b, i, c);
  if (e->in_lanes)
    e->inner++;
  else
    e->depth++;
  zmi_emit_line(e, "const zk_int v%d = (zk_int)k%d;", i, i);
}

static void open_lifted(zmi_emit_state *e, int i) {
  char a[48];
  zmi_emit_flush(e);
  e->in_lanes = false;
  if (e->code->insts[i].op == ZMI_K_FOR) {
    open_for(e, i, true);
    zmi_emit_top(e, "__asm__(\"\" ::: \"memory\");"); // a compiler would make it the inner loop, which is no vector code then
  } else {
    top_ref(e, e->code->insts[i].a, a);
    zmi_emit_top(e, "if (%s) {", a);
    e->depth++;
  }
  e->in_lanes = true;
}

static void close_block(zmi_emit_state *e, const char *text) { // "}" or "} else {"
  if (e->in_lanes)
    e->inner--;
  else
    e->depth--;
  zmi_emit_line(e, "%s", text);
  if (text[1]) {
    if (e->in_lanes)
      e->inner++;
    else
      e->depth++;
  }
}

static void structure(zmi_emit_state *e, int i, int *stack, int *top) {
  const zmi_inst *x = &e->code->insts[i];
  char a[48];
  if (x->op == ZMI_K_END || x->op == ZMI_K_ELSE) {
    const int open = stack[*top - 1];
    if (e->in_lanes && e->lifted[open]) {
      zmi_emit_flush(e);
      e->in_lanes = false;
      close_block(e, x->op == ZMI_K_END ? "}" : "} else {");
      e->in_lanes = true;
    } else {
      close_block(e, x->op == ZMI_K_END ? "}" : "} else {");
    }
    if (x->op == ZMI_K_END) --*top;
    return;
  }
  stack[(*top)++] = i;
  if (e->in_lanes && e->lifted[i]) {
    open_lifted(e, i);
  } else if (x->op == ZMI_K_FOR) {
    open_for(e, i, false);
  } else {
    zmi_emit_ref(e, x->a, a);
    zmi_emit_line(e, "if (%s) {", a);
    if (e->in_lanes)
      e->inner++;
    else
      e->depth++;
  }
}

// ---- instructions ----

void zmi_emit_leaf(zmi_emit_state *e, int i) {
  const zmi_inst *x = &e->code->insts[i];
  char place[48];
  zmi_text t = {0};
  const bool rows = e->code->form == ZMI_FORM_ROWS;
  switch (x->op) {
  case ZMI_K_INPUT:
    if (rows && (e->block < 0 || e->code->in_per_row[x->index])) {
      snprintf(place, sizeof place, e->side ? "w%d[t * row_stride[%d]]" : "w%d[0]", x->index, x->index);
      zmi_emit_load(e->code->in[x->index], place, &t);
    } else if (e->code->in[x->index] == ZM_F16 || (e->blocks && zmi_emit_is_short(e->code->in[x->index]))) { // widened before the loop
      zmi_text_add(&t, x->type == ZMI_C_BOOL ? "h%d[t] != 0" : "h%d[t]", x->index);
    } else {
      snprintf(place, sizeof place, "p%d[t]", x->index);
      zmi_emit_load(e->code->in[x->index], place, &t);
    }
    break;
  case ZMI_K_PARAM:
    zmi_text_add(&t, "(%s)params[%d]", zmi_emit_type(x->type), x->index);
    break;
  case ZMI_K_PLACE:
    zmi_text_add(&t, e->side ? "(zk_int)place" : "(zk_int)at + t");
    break;
  case ZMI_K_LENGTH:
    zmi_text_add(&t, rows ? "(zk_int)d" : "(zk_int)count");
    break;
  case ZMI_K_THREAD:
    zmi_text_add(&t, "t");
    break;
  case ZMI_K_GROUP:
    zmi_text_add(&t, "(zk_int)g");
    break;
  case ZMI_K_THREADS:
    zmi_text_add(&t, "n");
    break;
  case ZMI_K_GROUPS:
    zmi_text_add(&t, "(zk_int)groups");
    break;
  default:
    zmi_text_add(&t, "(zk_int)dims[%d]", x->index * ZM_MAX_RANK + x->extra);
    break; // DIM
  }
  zmi_emit_value(e, i, zmi_text_str(&t));
  zmi_text_release(&t);
}

static void output(zmi_emit_state *e, int i) {
  const zmi_inst *x = &e->code->insts[i];
  char value[48];
  zmi_text t = {0};
  zmi_emit_ref(e, x->a, value);
  zmi_emit_stored(e->code->out[x->index], e->code->insts[x->a].type, value, &t);
  const bool row = e->code->form == ZMI_FORM_ROWS && e->block < 0;
  if (!row && zmi_emit_from_floats(e, e->code->out[x->index]))
    zmi_emit_line(e, "g%d[t] = %s;", x->index, value);
  else if (!row && e->blocks && zmi_emit_is_short(e->code->out[x->index]))
    zmi_emit_line(e, "g%d[t] = %s;", x->index, zmi_text_str(&t));
  else
    zmi_emit_line(e,
                  row && e->side ? "y%d[done + t] = %s;"
                  : row          ? "y%d[r] = %s;"
                  : e->blocks    ? "z%d[t] = %s;"
                                 : "q%d[t] = %s;",
                  x->index, zmi_text_str(&t));
  zmi_text_release(&t);
}

static void memory_access(zmi_emit_state *e, int i) {
  const zmi_inst *x = &e->code->insts[i];
  char at[48], value[48] = "", place[96];
  zmi_text t = {0}, stored = {0};
  const bool shared = x->op == ZMI_K_SHARED_LOAD || x->op == ZMI_K_SHARED_STORE;
  zmi_emit_ref(e, x->a, at);
  if (x->b >= 0) zmi_emit_ref(e, x->b, value);
  const zmi_ctype from = x->b >= 0 ? e->code->insts[x->b].type : ZMI_C_NONE;
  char limit[32];
  if (shared)
    snprintf(limit, sizeof limit, "%du", e->code->insts[x->index].extra);
  else
    snprintf(limit, sizeof limit, "counts[%d]", x->op == ZMI_K_LOAD ? x->index : e->code->nin + x->index);
  const bool own = shared && e->code->insts[x->index].index == 1; // of a thread: its elements stand between those of the others
  snprintf(place, sizeof place,
           own                   ? "s%d[%s * %d + t]"
           : shared              ? "s%d[%s]"
           : x->op == ZMI_K_LOAD ? "p%d[%s]"
                                 : "q%d[%s]",
           x->index, at, e->capacity);
  if (x->op == ZMI_K_LOAD || x->op == ZMI_K_SHARED_LOAD) {
    if (shared)
      zmi_text_add(&stored, "%s", place);
    else
      zmi_emit_load(e->code->in[x->index], place, &stored);
    zmi_text_add(&t, "(zk_ulong)%s < (zk_ulong)%s ? (%s)(%s) : (%s)0", at, limit, zmi_emit_type(x->type), zmi_text_str(&stored),
                 zmi_emit_type(x->type));
    zmi_emit_value(e, i, zmi_text_str(&t));
  } else if (x->op == ZMI_K_ATOMIC_ADD) {
    zmi_emit_line(e, "if ((zk_ulong)%s < (zk_ulong)%s) ze_atomic_%s(&%s, %s);", at, limit, zm_dtype_name(e->code->out[x->index]), place,
                  value);
  } else {
    if (shared)
      zmi_text_add(&stored, "%s", value);
    else
      zmi_emit_stored(e->code->out[x->index], from, value, &stored);
    zmi_emit_line(e, "if ((zk_ulong)%s < (zk_ulong)%s) %s = %s;", at, limit, place, zmi_text_str(&stored));
  }
  zmi_text_release(&t);
  zmi_text_release(&stored);
}

static void variable(zmi_emit_state *e, int i) {
  const zmi_inst *x = &e->code->insts[i];
  char name[48], value[48];
  if (x->op == ZMI_K_VAR) {
    zmi_emit_var(e, i, name);
    zmi_emit_ref(e, x->a, value);
    if (e->place[i] == ZMI_PLACE_ARRAY)
      zmi_emit_line(e, "%s = %s;", name, value);
    else
      zmi_emit_line(e, "%s %s = %s;", zmi_emit_type(x->type), name, value);
    return;
  }
  zmi_emit_var(e, x->index, name);
  if (x->op == ZMI_K_SET) {
    zmi_emit_ref(e, x->a, value);
    zmi_emit_line(e, "%s = %s;", name, value);
  } else if (x->op == ZMI_K_GET) {
    zmi_emit_value(e, i, name);
  } else {
    char right[64];
    snprintf(right, sizeof right, "x%dl[l + h]", x->index);
    zmi_emit_value(e, i, right);
  }
}

void zmi_emit_one(zmi_emit_state *e, int i) {
  const zmi_inst *x = &e->code->insts[i];
  const char kind = zmi_cop_rows[x->op].kind;
  char value[48];
  zmi_text t = {0};
  if (e->use_kept && e->kept[i] >= 0 && e->keeps[e->kept[i]] == ZMI_KEEPS) {
    zmi_text_add(&t, "k%d[at + t]", e->kept[i]);
    zmi_emit_value(e, i, zmi_text_str(&t));
  } else if (zmi_emit_expression(e, i, &t)) {
    zmi_emit_value(e, i, zmi_text_str(&t));
    if (e->blocks && e->keeps[i]) zmi_emit_line(e, "k%d[(at & kept) + t] = v%d;", i, i);
  } else if (kind == 'P') {
    zmi_emit_leaf(e, i);
  } else if (kind == 'M' || x->op == ZMI_K_SHARED_LOAD || x->op == ZMI_K_SHARED_STORE) {
    memory_access(e, i);
  } else if (x->op == ZMI_K_VAR || x->op == ZMI_K_GET || x->op == ZMI_K_SET || x->op == ZMI_K_GET_RIGHT) {
    variable(e, i);
  } else if (x->op == ZMI_K_OUTPUT) {
    output(e, i);
  } else if (zmi_emit_reduces(x->op)) {
    if (zmi_emit_apart(e, i)) return;
    zmi_emit_ref(e, x->a, value);
    zmi_emit_line(e, "r%d[t] = %s;", i, value);
  } else if (x->op == ZMI_K_SCAN_SUM) {
    zmi_emit_ref(e, x->a, value);
    zmi_ctype type = x->type;
    if (type == ZMI_C_FLOAT)
      zmi_emit_line(e, "c%d = c%d + %s;", i, i, value);
    else
      zmi_emit_line(e, "c%d = (%s)((zk_ulong)c%d + (zk_ulong)%s);", i, zmi_emit_type(type), i, value);
    snprintf(value, sizeof value, "c%d", i);
    zmi_emit_value(e, i, value);
  }
  zmi_text_release(&t);
}

// ---- ELEMENTS blocks of rows ----

static bool is_place(zmi_cop op) {
  return op == ZMI_K_ARGMAX || op == ZMI_K_ARGMIN;
}

static void start_reductions(zmi_emit_state *e, int begin, int end) {
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = &e->code->insts[i];
    if (x->op == ZMI_K_SCAN_SUM) zmi_emit_top(e, "%s c%d = 0;", zmi_emit_type(x->type), i);
    if (!zmi_emit_reduces(x->op) || zmi_emit_apart(e, i)) continue;
    const zmi_ctype type = e->code->insts[x->a].type;
    const char *name = zmi_emit_type(type), *first = zmi_emit_identity(x->op, type);
    if (e->blocks) {
      zmi_emit_top(e, "ze_lanes_%s a%d = ze_first_%s(%s);", zmi_emit_word(type), i, zmi_emit_word(type), first);
      continue;
    }
    if (is_place(x->op)) {
      zmi_emit_top(e, "%s a%d = %s;", name, i, first);
      zmi_emit_top(e, "zk_int at%d = 0;", i);
      continue;
    }
    const bool floats = type == ZMI_C_FLOAT, flags = floats && (x->op == ZMI_K_MAXIMUM || x->op == ZMI_K_MINIMUM);
    zmi_emit_top(e, "%s a%d[%d];", name, i, floats ? flags ? 32 : 16 : 1);
    zmi_emit_top(e, "for (int l = 0; l < %d; l++) a%d[l] = %s;", floats ? 16 : 1, i, first);
    if (flags) zmi_emit_top(e, "for (int l = 16; l < 32; l++) a%d[l] = 0;", i);
  }
}

const char *zmi_emit_reduction(zmi_cop op) {
  static const char *const words[] = {"sum", "sumsq", "prod", "max", "min", "argmax", "argmin"};
  return words[op - ZMI_K_SUM];
}

static void reductions(zmi_emit_state *e, int begin, int end, bool last) {
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = &e->code->insts[i];
    if (!zmi_emit_reduces(x->op)) continue;
    const char *word = zmi_emit_reduction(x->op), *joined = x->op == ZMI_K_SUMSQ ? "sum" : word; // what joins lanes
    const char *type = zmi_emit_word(e->code->insts[x->a].type);
    const bool arg = is_place(x->op);
    if (zmi_emit_apart(e, i))
      zmi_emit_apart_value(e, i);
    else if (e->blocks)
      zmi_emit_top(e, "const %s v%d = ze_total_%s_%s(&a%d);", zmi_emit_type(x->type), i, joined, type, i);
    else if (!last && arg)
      zmi_emit_top(e, "ze_%s_%s(&a%d, &at%d, r%d, n, (zk_int)at);", word, type, i, i, i);
    else if (!last)
      zmi_emit_top(e, "ze_%s_%s(a%d, r%d, n);", word, type, i, i);
    else if (arg)
      zmi_emit_top(e, "const %s v%d = at%d ? at%d - 1 : 0;", zmi_emit_type(x->type), i, i, i);
    else
      zmi_emit_top(e, "const %s v%d = ze_fold_%s_%s(a%d);", zmi_emit_type(x->type), i, joined, type, i);
  }
}

// Variables of outside that the block sets.
static bool sets_outside(const zmi_emit_state *e, int begin, int end, int v) {
  if (e->code->insts[v].op != ZMI_K_VAR || v >= begin) return false;
  for (int i = begin; i < end; i++)
    if (e->code->insts[i].op == ZMI_K_SET && e->code->insts[i].index == v) return true;
  return false;
}

// float16 operands and results of a chunk have buffers of float32. What else is shorter is widened first too in a block: loops over bytes
// and floats at once would have few vectors.
void zmi_emit_widen(zmi_emit_state *e, int k) {
  const zm_dtype d = e->code->in[k];
  if (d == ZM_F16) {
    zmi_emit_top(e, "float h%d[%d];", k, e->capacity);
    zmi_emit_top(e, e->blocks ? "ze_widen(h%d, p%d, 32);" : "ze_widen(h%d, p%d, n);", k, k);
  } else if (e->blocks && zmi_emit_is_short(d)) {
    zmi_emit_top(e, "%s h%d[%d];", d == ZM_BOOL ? "zk_int" : zmi_emit_type(zmi_ctype_of(d)), k, BLOCK);
    zmi_emit_top(e, "ze_spread_%s(h%d, p%d);", zm_dtype_name(d), k, k);
  }
}

// Results in float16, in a block those in bfloat16 too, are rounded from floats behind the loop: the choices that rounding makes would
// be mixed with those of the functions in front of it.
bool zmi_emit_from_floats(const zmi_emit_state *e, zm_dtype d) {
  return d == ZM_F16 || (e->blocks && d == ZM_BF16);
}

void zmi_emit_wide_results(zmi_emit_state *e, int k) {
  const zm_dtype d = e->code->out[k];
  const bool floats = zmi_emit_from_floats(e, d);
  if (floats || zmi_emit_is_short(d)) zmi_emit_top(e, "%s g%d[%d];", floats ? "float" : "zk_int", k, ZMI_EMIT_BLOCK);
}

void zmi_emit_narrow(zmi_emit_state *e, int begin, int end) {
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = &e->code->insts[i];
    if (x->op != ZMI_K_OUTPUT) continue;
    const int k = x->index;
    if (e->code->out[k] == ZM_F16)
      zmi_emit_top(e, e->blocks ? "ze_narrow_block(z%d, g%d);" : "ze_narrow(q%d, g%d, n);", k, k);
    else if (e->blocks && zmi_emit_is_short(e->code->out[k]))
      zmi_emit_top(e, e->code->out[k] == ZM_BF16 ? "ze_round_bfloat16(z%d, g%d);" : "ZE_CUT(z%d, g%d);", k, k);
  }
}

// ---- 32 elements at a time ----

static bool uses(const zmi_emit_state *e, int begin, int end, zmi_cop op, int index) {
  for (int i = begin; i < end; i++)
    if (e->code->insts[i].op == op && e->code->insts[i].index == index) return true;
  return false;
}

// What all elements share is computed once, in front of the loop.
static void shared_values(zmi_emit_state *e, int begin, int end) {
  for (int i = begin; i < end; i++)
    if (e->uniform[i] && e->code->insts[i].op != ZMI_K_OUTPUT) zmi_emit_one(e, i);
}

static bool is_read(const zmi_emit_state *e, int begin, int end, int k) {
  for (int i = begin; i < end && !e->code->in_per_row[k]; i++) {
    const zmi_inst *x = &e->code->insts[i];
    if (x->op == ZMI_K_INPUT && x->index == k && zmi_emit_apart(e, i) == ZMI_APART_NO) return true;
  }
  return false;
}

// When this one of the passes over a row asks for lines of operand k: all passes that read it in turn, or, where just one of them computes
// functions while memory has nothing else to do, that one for most of them. False: never.
static bool find_turn(const zmi_emit_state *e, int k, char condition[64]) {
  int readers = 0, busy = 0, mine = -1;
  bool busy_first = false, is_busy = false;
  condition[0] = 0;
  for (int i = 0; i < (int)e->code->count; i++) {
    if (e->code->insts[i].op != ZMI_K_ELEMENTS || !is_read(e, i + 1, e->match[i], k)) continue;
    const bool computes = zmi_emit_is_busy(e, i + 1, e->match[i]);
    if (i == e->block) mine = readers, is_busy = computes;
    busy_first = busy_first || (computes && readers == 0);
    busy += computes;
    readers++;
  }
  if (readers == 1 || (busy == 1 && busy_first)) return mine == 0;
  if (busy == 1 && !is_busy && mine > 0) return false;
  const char *most = busy == 1 && is_busy ? "!=" : "==";
  snprintf(condition, 64, "if ((zk_uint)(at / %d) %% %du %s %du) ", BLOCK, busy == 1 ? 4 : readers, most, busy == 1 ? 0 : mine);
  return true;
}

// Lines are asked for some time before: those of the next row by passes over this one. One element that stands for all is asked for where
// it is.
static void ask_ahead(zmi_emit_state *e, int begin, int end) {
  char condition[64];
  for (int k = 0; k < e->code->nin; k++) {
    if (!is_read(e, begin, end, k)) continue;
    if (e->passes <= 1)
      zmi_emit_top(e, "ZE_AHEAD(p%d, m%d & 1024);", k, k);
    else if (find_turn(e, k, condition))
      zmi_emit_top(e, "%sZE_AHEAD(p%d, f%d);", condition, k, k);
  }
}

// Where the operands of a block are, and where its results will be.
static void block_pointers(zmi_emit_state *e, int begin, int end, bool last) {
  const zmi_code *c = e->code;
  for (int k = 0; k < c->nin; k++) {
    if (!is_read(e, begin, end, k)) continue;
    zmi_emit_top(e, "const %s *p%d = s%d + (at & m%d);", zmi_emit_memory(c->in[k]), k, k, k);
    if (!last) continue;
    zmi_emit_top(e, "for (zk_int t = 0; t < %d && m%d; t++) b%d[t] = p%d[t < n ? t : n - 1];", BLOCK, k, k, k);
    zmi_emit_top(e, "p%d = b%d;", k, k);
  }
  if (!last) ask_ahead(e, begin, end);
  for (int k = 0; k < c->nin; k++)
    if (is_read(e, begin, end, k)) zmi_emit_widen(e, k);
  for (int k = 0; k < c->nout; k++) {
    if (!uses(e, begin, end, ZMI_K_OUTPUT, k)) continue;
    zmi_emit_top(e, "%s z%d[%d];", zmi_emit_memory(c->out[k]), k, BLOCK);
    zmi_emit_wide_results(e, k);
  }
  for (int i = begin; i < end; i++)
    if (zmi_emit_reduces(c->insts[i].op) && !zmi_emit_apart(e, i))
      zmi_emit_top(e, "%s r%d[%d];", zmi_emit_type(c->insts[c->insts[i].a].type), i, BLOCK);
}

static void block_results(zmi_emit_state *e, int begin, int end, bool last) {
  const bool rows = e->code->form == ZMI_FORM_ROWS;
  zmi_emit_narrow(e, begin, end);
  for (int k = 0; k < e->code->nout; k++) {
    if (!uses(e, begin, end, ZMI_K_OUTPUT, k)) continue;
    zmi_emit_top(e,
                 last ? "__builtin_memcpy(y%d + %sat, z%d, (unsigned long)n * sizeof z%d[0]);"
                      : "ze_put(y%d + %sat, z%d, (int)sizeof z%d[0], stream);",
                 k, rows ? "r * d + " : "", k, k);
  }
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = &e->code->insts[i];
    if (!zmi_emit_reduces(x->op) || zmi_emit_apart(e, i)) continue;
    const zmi_ctype type = e->code->insts[x->a].type;
    if (last) zmi_emit_top(e, "for (zk_int t = n; t < %d; t++) r%d[t] = %s;", BLOCK, i, zmi_emit_identity(x->op, type));
    zmi_emit_top(e, "ze_block_%s_%s(&a%d, r%d%s);", zmi_emit_reduction(x->op), zmi_emit_word(type), i, i,
                 is_place(x->op) ? ", (zk_int)at" : "");
  }
}

// The loop over all that is whole, then what is left over, by the same text.
static void block_loops(zmi_emit_state *e, int begin, int end, const char *count) {
  shared_values(e, begin, end);
  zmi_emit_find_cuts(e, begin, end);
  e->in_lanes = true;
  e->depth++; // where the loops will be
  zmi_emit_walk(e, begin, end);
  e->depth--;
  e->in_lanes = false;
  zmi_emit_top(e, "zk_long at%d = 0;", e->pass);
  for (int last = 0; last < 2; last++) {
    if (last)
      zmi_emit_top(e, "if (at%d < %s) {", e->pass, count);
    else
      zmi_emit_top(e, "for (; at%d + %d <= %s; at%d += %d) {", e->pass, BLOCK, count, e->pass, BLOCK);
    e->depth++;
    zmi_emit_top(e, "const zk_long at = at%d;", e->pass);
    if (last) zmi_emit_top(e, "const zk_int n = (zk_int)(%s - at);", count);
    block_pointers(e, begin, end, last);
    const size_t size = e->lanes.size;
    zmi_emit_flush(e);
    if (!last) e->lanes.size = size;
    block_results(e, begin, end, last);
    e->depth--;
    zmi_emit_top(e, "}");
  }
}

// What a later pass over the row would compute again (exp of a softmax) is kept, if the row is not too long for that.
static void blocks(zmi_emit_state *e, int begin, int end, const char *count) {
  bool again = false;
  for (int i = begin; i < end; i++) {
    again = again || (e->kept[i] >= 0 && e->keeps[e->kept[i]] == ZMI_KEEPS);
    if (!e->keeps[i]) continue;
    e->keeps[i] = e->uniform[i] ? 0 : ZMI_KEEPS; // what is one for all places has no place to be kept at
    if (e->keeps[i]) zmi_emit_top(e, "zk_float k%d[%d];", i, KEPT + BLOCK);
  }
  if (again) {
    zmi_emit_top(e, "if (kept) {");
    e->depth++;
    e->use_kept = true;
    block_loops(e, begin, end, count);
    e->use_kept = false;
    e->depth--;
    zmi_emit_top(e, "} else {");
    e->depth++;
  }
  block_loops(e, begin, end, count);
  if (!again) return;
  e->depth--;
  zmi_emit_top(e, "}");
}

// The operand itself, or one element again and again.
static void block_source(zmi_emit_state *e, int k, const char *from) {
  zmi_emit_top(e, "const %s *s%d = step[%d] ? %s : b%d;", zmi_emit_memory(e->code->in[k]), k, k, from, k);
  zmi_emit_top(e, "const zk_long m%d = step[%d] ? -1 : 0;", k, k);
}

static int chunk_of(const zmi_emit_state *e) {
  return e->chunk == BLOCK ? CHUNK : e->chunk;
}

static void use_pointers(zmi_emit_state *e, int begin, int end) {
  const zmi_code *c = e->code;
  for (int k = 0; k < c->nin; k++) {
    bool used = false;
    for (int i = begin; i < end; i++) used |= c->insts[i].op == ZMI_K_INPUT && c->insts[i].index == k;
    const char *m = zmi_emit_memory(c->in[k]);
    if (!used || c->in_per_row[k]) continue;
    zmi_emit_top(e, "const %s *p%d = step[%d] ? w%d + at : b%d;", m, k, k, k, k);
    zmi_emit_widen(e, k);
  }
  for (int k = 0; k < c->nout; k++) {
    bool used = false;
    for (int i = begin; i < end; i++) used |= c->insts[i].op == ZMI_K_OUTPUT && c->insts[i].index == k;
    if (used) zmi_emit_top(e, "%s *q%d = y%d + r * d + at;", zmi_emit_memory(c->out[k]), k, k);
    if (used && c->out[k] == ZM_F16) zmi_emit_top(e, "float g%d[%d];", k, e->capacity);
  }
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = &c->insts[i];
    if (zmi_emit_reduces(x->op)) zmi_emit_top(e, "%s r%d[%d];", zmi_emit_type(c->insts[x->a].type), i, chunk_of(e));
  }
}

// Lanes of a JOIN block: an inner loop of up to 16, so that lane t % 16 of each variable is a plain place in an array.
static void join_loop(zmi_emit_state *e, int begin, int join, bool falling) {
  e->in_lanes = true;
  zmi_emit_walk(e, begin, join);
  e->in_lanes = false;
  zmi_emit_top(e, falling ? "for (zk_int k = (n - 1) / 16 * 16; k >= 0; k -= 16) {" : "for (zk_int k = 0; k < n; k += 16) {");
  zmi_emit_top(e, "  const zk_int m = n - k < 16 ? n - k : 16;");
  zmi_emit_top(e, "  ZK_LANES");
  zmi_emit_top(e, "  for (zk_int l = 0; l < m; l++) {");
  zmi_emit_top(e, "    const zk_int t = k + l;");
  zmi_text_add_bytes(e->out, zmi_text_str(&e->lanes), e->lanes.size);
  e->lanes.size = 0;
  zmi_emit_top(e, "  }");
  zmi_emit_top(e, "}");
}

static void join_pairs(zmi_emit_state *e, int begin, int join, int end) {
  zmi_emit_top(e, "for (int h = 8; h > 0; h /= 2) {");
  zmi_emit_top(e, "  for (int l = 0; l < h; l++) {");
  e->depth += 2;
  for (int i = begin; i < join; i++) // shared values that stand in front of JOIN may be used behind it
    if (e->uniform[i] && e->outer[i] == e->block && !zmi_emit_opens(e->code->insts[i].op)) zmi_emit_one(e, i);
  zmi_emit_walk(e, join + 1, end);
  e->depth -= 2;
  zmi_emit_top(e, "  }");
  zmi_emit_top(e, "}");
  for (int v = 0; v < begin; v++) {
    if (e->place[v] != ZMI_PLACE_LANES) continue;
    zmi_emit_top(e, "x%d = x%dl[0];", v, v);
    e->place[v] = ZMI_PLACE_LOCAL;
  }
}

static int find_join(const zmi_emit_state *e, int begin, int end) {
  for (int i = begin; i < end; i++)
    if (e->code->insts[i].op == ZMI_K_JOIN) return i;
  return -1;
}

static void chunks(zmi_emit_state *e, int begin, int end, int join) {
  const bool falling = (e->serial || join >= 0) && e->code->insts[e->block].extra == 1;
  e->capacity = zmi_emit_arrays(e, begin, end, false) ? CHUNK_ARRAYS : chunk_of(e);
  zmi_emit_arrays(e, begin, end, true);
  if (falling)
    zmi_emit_top(e, "for (zk_long at = (d - 1) / %d * %d; at >= 0 && d > 0; at -= %d) {", e->capacity, e->capacity, e->capacity);
  else
    zmi_emit_top(e, "for (zk_long at = 0; at < d; at += %d) {", e->capacity);
  e->depth++;
  zmi_emit_top(e, "const zk_int n = d - at < %d ? (zk_int)(d - at) : %d;", e->capacity, e->capacity);
  use_pointers(e, begin, end);
  if (join >= 0) {
    join_loop(e, begin, join, falling);
  } else {
    e->in_lanes = true;
    zmi_emit_walk(e, begin, end);
    zmi_emit_flush(e);
    e->in_lanes = false;
  }
  zmi_emit_narrow(e, begin, end);
  reductions(e, begin, end, false);
  e->depth--;
  zmi_emit_top(e, "}");
}

// What the block is emitted as: e->serial, e->blocks; the place of its JOIN or -1. Variables of outside that a serial block sets need an
// order.
static int plan_block(zmi_emit_state *e, int block) {
  const int begin = block + 1, end = e->match[block], join = find_join(e, begin, end);
  bool serial = zmi_emit_has(e, begin, end, ZMI_K_SCAN_SUM);
  for (int v = 0; v < begin && join < 0; v++) serial = serial || sets_outside(e, begin, end, v);
  e->block = block;
  e->serial = serial || join >= 0; // nothing is lifted
  zmi_emit_plan(e, begin, end);
  e->serial = serial;
  e->blocks = !e->serial && join < 0 && zmi_emit_fits_block(e, begin, end);
  return join;
}

static bool all_are_blocks(zmi_emit_state *e) {
  bool all = e->chunk == BLOCK;
  for (int i = 0; i < (int)e->code->count && all; i++) {
    if (e->code->insts[i].op != ZMI_K_ELEMENTS) continue;
    plan_block(e, i);
    all = e->blocks;
  }
  e->block = -1;
  e->serial = e->blocks = false;
  return all;
}

// Whether a block before this one has declared the lanes of the variable.
static bool has_lanes(const zmi_emit_state *e, int block, int v) {
  for (int i = 0; i < block; i++) {
    bool sets = e->code->insts[i].op == ZMI_K_ELEMENTS && sets_outside(e, i + 1, e->match[i], v);
    for (int j = i + 1; sets && j < e->match[i]; j++) {
      if (e->code->insts[j].op == ZMI_K_JOIN) return true;
    }
  }
  return false;
}

static void elements_block(zmi_emit_state *e, int block) {
  const int begin = block + 1, end = e->match[block], join = plan_block(e, block);
  for (int v = 0; v < begin && join >= 0; v++) {
    if (!sets_outside(e, begin, end, v)) continue;
    e->place[v] = ZMI_PLACE_LANES;
    if (!has_lanes(e, block, v)) zmi_emit_top(e, "%s x%dl[16];", zmi_emit_type(e->code->insts[v].type), v);
    zmi_emit_top(e, "for (int l = 0; l < 16; l++) x%dl[l] = x%d;", v, v);
  }
  start_reductions(e, begin, join >= 0 ? join : end);
  if (e->blocks)
    blocks(e, begin, end, "d");
  else
    chunks(e, begin, end, join);
  if (join >= 0) join_pairs(e, begin, join, end);
  e->block = -1;
  e->serial = false;
  reductions(e, begin, end, true);
  e->blocks = false;
  e->pass++;
}

// ---- the walk ----

void zmi_emit_walk(zmi_emit_state *e, int begin, int end) {
  const zmi_code *c = e->code;
  int *stack = zmi_calloc((size_t)(end - begin) + 1, sizeof(int)), top = 0;
  if (!stack) {
    e->status = ZM_ERROR_MEMORY;
    return;
  }
  for (int i = begin; i < end && e->status == ZM_OK; i++) {
    const zmi_cop op = c->insts[i].op;
    if (op == ZMI_K_ELEMENTS) {
      elements_block(e, i);
      i = e->match[i];
    } else if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELSE || op == ZMI_K_END) {
      structure(e, i, stack, &top);
    } else if (op == ZMI_K_BARRIER) {
      zmi_emit_flush(e);
    } else if (e->blocks && e->cut[i] && zmi_emit_cut(e, begin, i)) {
      continue;
    } else if (op != ZMI_K_SHARED && !(op == ZMI_K_INPUT && c->form == ZMI_FORM_ELEMENTS && !e->blocks) && !(e->blocks && e->uniform[i]) &&
               !(op == ZMI_K_INPUT && zmi_emit_apart(e, i))) {
      zmi_emit_one(e, i);
    }
  }
  zmi_free(stack);
}

// ---- frames ----

static void fill(zmi_emit_state *e, int k, const char *count, const char *from) {
  zmi_emit_top(e, "for (zk_long k = 0; k < %s && k < %d; k++) b%d[k] = %s;", count, e->capacity, k, from);
}

static void chunk_pointers(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  for (int k = 0; k < c->nin; k++)
    zmi_emit_top(e, "const %s *p%d = step[%d] ? (const %s *)in[%d] + at : b%d;", zmi_emit_memory(c->in[k]), k, k, zmi_emit_memory(c->in[k]),
                 k, k);
  for (int k = 0; k < c->nin; k++) zmi_emit_widen(e, k);
  for (int k = 0; k < c->nout; k++) {
    zmi_emit_top(e, "%s *q%d = (%s *)out[%d] + at;", zmi_emit_memory(c->out[k]), k, zmi_emit_memory(c->out[k]), k);
    if (c->out[k] == ZM_F16) zmi_emit_top(e, "float g%d[%d];", k, e->capacity);
  }
}

static void element_chunks(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  const int count = (int)c->count;
  zmi_emit_top(e, "for (zk_long at = 0; at < count; at += %d) {", e->capacity);
  e->depth++;
  zmi_emit_top(e, "const zk_int n = count - at < %d ? (zk_int)(count - at) : %d;", e->capacity, e->capacity);
  chunk_pointers(e);
  e->in_lanes = true;
  for (int i = 0; i < count; i++)
    if (c->insts[i].op == ZMI_K_INPUT) zmi_emit_one(e, i);
  zmi_emit_walk(e, 0, count);
  zmi_emit_flush(e);
  e->in_lanes = false;
  zmi_emit_narrow(e, 0, count);
  e->depth--;
  zmi_emit_top(e, "}");
}

static void elements(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  const int count = (int)c->count;
  char from[48];
  zmi_emit_plan(e, 0, count);
  // Operands are read before any result is written, wherever they stand: a result may lie where an operand was.
  for (int i = 0; i < count; i++)
    if (c->insts[i].op == ZMI_K_INPUT && e->outer[i] < 0) e->segment[i] = 0;
  for (int i = 0; i < count; i++) {
    const int operands[3] = {c->insts[i].a, c->insts[i].b, c->insts[i].c};
    for (int k = 0; k < 3; k++)
      if (operands[k] >= 0 && c->insts[operands[k]].op == ZMI_K_INPUT && e->segment[i] > 1) e->place[operands[k]] = ZMI_PLACE_ARRAY;
  }
  e->blocks = zmi_emit_fits_block(e, 0, count);
  e->capacity = e->blocks ? BLOCK : zmi_emit_arrays(e, 0, count, false) ? CHUNK_ARRAYS : chunk_of(e);
  zmi_emit_top(e, "void zk_elements(zk_long count, const void *const *in, const int *step, const double *params, void *const *out,");
  zmi_emit_top(e, "                 int stream) {");
  e->depth++;
  zmi_emit_top(e, "(void)in, (void)step, (void)params, (void)out, (void)stream;");
  for (int k = 0; k < c->nin; k++) {
    const char *m = zmi_emit_memory(c->in[k]);
    zmi_emit_top(e, "%s b%d[%d];", m, k, e->capacity);
    zmi_emit_top(e, "if (!step[%d])", k);
    e->depth++;
    snprintf(from, sizeof from, "*(const %s *)in[%d]", m, k);
    fill(e, k, e->blocks ? "32" : "count", from);
    e->depth--;
    if (!e->blocks) continue;
    snprintf(from, sizeof from, "(const %s *)in[%d]", m, k);
    block_source(e, k, from);
  }
  for (int k = 0; k < c->nout && e->blocks; k++)
    zmi_emit_top(e, "%s *y%d = (%s *)out[%d];", zmi_emit_memory(c->out[k]), k, zmi_emit_memory(c->out[k]), k);
  zmi_emit_arrays(e, 0, count, true);
  if (e->blocks)
    blocks(e, 0, count, "count");
  else
    element_chunks(e);
  e->depth--;
  zmi_emit_top(e, "}");
}

static void rows(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  char from[48];
  zmi_emit_top(e, "void zk_rows(zk_long rows, zk_long d, const void *const *in, const zk_long *row_stride, const int *step,");
  zmi_emit_top(e, "             const double *params, void *const *out, int stream) {");
  e->depth++;
  zmi_emit_top(e, "(void)in, (void)row_stride, (void)step, (void)params, (void)out, (void)stream;");
  const bool small = all_are_blocks(e); // then 32 copies of an operand's one element are enough
  e->capacity = small ? BLOCK : chunk_of(e);
  for (size_t i = 0; i < c->count; i++) e->passes += c->insts[i].op == ZMI_K_ELEMENTS;
  if (zmi_emit_find_kept(e)) zmi_emit_top(e, "const zk_long kept = d <= %d ? -1 : 0;", KEPT);
  for (int k = 0; k < c->nin; k++)
    if (!c->in_per_row[k]) zmi_emit_top(e, "%s b%d[%d];", zmi_emit_memory(c->in[k]), k, e->capacity);
  for (int k = 0; k < c->nout; k++)
    zmi_emit_top(e, "%s *y%d = (%s *)out[%d];", zmi_emit_memory(c->out[k]), k, zmi_emit_memory(c->out[k]), k);
  zmi_emit_top(e, "zk_long done = 0;");
  if (small) zmi_emit_short_rows(e);
  zmi_emit_top(e, "for (zk_long r = done; r < rows; r++) {");
  e->depth++;
  for (int k = 0; k < c->nin; k++) {
    const char *m = zmi_emit_memory(c->in[k]);
    zmi_emit_top(e, "const %s *w%d = (const %s *)in[%d] + r * row_stride[%d];", m, k, m, k, k);
    if (c->in_per_row[k]) continue;
    zmi_emit_top(e, "if (!step[%d] && (r == done || row_stride[%d]))", k, k);
    e->depth++;
    snprintf(from, sizeof from, "w%d[0]", k);
    fill(e, k, small ? "32" : e->chunk == BLOCK ? "(d < 32 ? 32 : d)" : "d", from);
    e->depth--;
    if (e->chunk != BLOCK) continue;
    snprintf(from, sizeof from, "w%d", k);
    block_source(e, k, from);
    zmi_emit_top(e, "const zk_long f%d = !m%d ? 0 : d <= 32768 ? row_stride[%d] : 1024;", k, k, k);
  }
  zmi_emit_walk(e, 0, (int)c->count);
  e->depth--;
  zmi_emit_top(e, "}");
  e->depth--;
  zmi_emit_top(e, "}");
}

void zmi_emit_c(zmi_emit_state *e) {
  if (e->chunk <= 0) e->chunk = BLOCK;
  if (e->code->form == ZMI_FORM_ELEMENTS)
    elements(e);
  else if (e->code->form == ZMI_FORM_ROWS)
    rows(e);
  else
    zmi_emit_tiles(e);
}
