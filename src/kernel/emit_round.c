// Emitted C, 32 elements at a time, with what is done to a block as a whole: values that are rounded to float16 on the way, as loops over
// single numbers don't reach the processor's conversions; circular functions, whose angles are small nearly always and then cost little;
// remainders, whose quotients are; and functions after each other, which are faster in loops of their own. The loop ends in front of such a
// value, the block is computed (`ze_round_block`, `ze_block_sin`), another goes on with what is needed.
#include "kernel/emit.h"

#include <stdio.h>

// More code than this would fill the stack with arrays. More instructions than TOGETHER have few vectors on their way at a time, and each
// result waits for the one before.
enum { MOST = 1024, TOGETHER = 40 };

static const char *block_function(const zmi_inst *x) {
  switch (x->op) {
  case ZMI_K_REM:
    return x->type == ZMI_C_FLOAT ? "ze_block_rem" : NULL;
  case ZMI_K_ROUND_F16:
    return "ze_round_block";
  case ZMI_K_SIN:
    return "ze_block_sin";
  case ZMI_K_COS:
    return "ze_block_cos";
  case ZMI_K_TAN:
    return "ze_block_tan";
  default:
    return NULL;
  }
}

// Instructions of a function, about.
static int cost_of(const zmi_inst *x) {
  static const unsigned char costs[ZMI_K_COUNT] = {
      [ZMI_K_RSQRT] = 8,  [ZMI_K_EXP] = 18,    [ZMI_K_EXP2] = 16,    [ZMI_K_EXPM1] = 30,  [ZMI_K_LOG] = 28,      [ZMI_K_LOG2] = 40,
      [ZMI_K_LOG10] = 40, [ZMI_K_LOG1P] = 50,  [ZMI_K_ASIN] = 30,    [ZMI_K_ACOS] = 40,   [ZMI_K_ATAN] = 70,     [ZMI_K_ATAN2] = 80,
      [ZMI_K_SINH] = 35,  [ZMI_K_COSH] = 30,   [ZMI_K_TANH] = 32,    [ZMI_K_ASINH] = 100, [ZMI_K_ACOSH] = 90,    [ZMI_K_ATANH] = 60,
      [ZMI_K_ERF] = 45,   [ZMI_K_ERFINV] = 70, [ZMI_K_SIGMOID] = 22, [ZMI_K_SILU] = 23,   [ZMI_K_SOFTPLUS] = 34, [ZMI_K_POW] = 120,
  };
  return x->type == ZMI_C_FLOAT ? costs[x->op] : 0;
}

enum { CUT_BLOCK = 1, CUT_HERE = 2 }; // by a block function; between two functions
void zmi_emit_find_cuts(zmi_emit_state *e, int begin, int end) {
  int sum = 0;
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = &e->code->insts[i];
    const bool there = e->use_kept && e->kept[i] >= 0 && e->keeps[e->kept[i]] == ZMI_KEEPS;
    e->cut[i] = 0;
    if (there || e->uniform[i] || e->code->count > MOST) continue;
    const int cost = cost_of(x);
    if (block_function(x)) {
      e->cut[i] = CUT_BLOCK;
      sum = 0;
    } else if (cost > 0 && sum > 0 && sum + cost > TOGETHER) {
      e->cut[i] = CUT_HERE;
      sum = cost;
    } else {
      sum += cost;
    }
  }
}

// Values of [begin, i) that are needed behind the cut: into arrays, where what an earlier cut needed is already, or out of them.
static void across(zmi_emit_state *e, int begin, int i, bool back) {
  int before = i - 1;
  while (before >= begin && !e->cut[before]) before--;
  for (int v = begin; v < i; v++) {
    const zmi_inst *x = &e->code->insts[v];
    if (e->uniform[v] || e->last[v] < i + (e->cut[i] == CUT_BLOCK) || zmi_emit_reduces(x->op)) continue;
    if (x->op == ZMI_K_INPUT) {
      if (back) zmi_emit_leaf(e, v); // it still lies where it was
    } else if (back) {
      zmi_emit_line(e, "const %s v%d = c%d[t]%s;", zmi_emit_type(x->type), v, v, x->type == ZMI_C_BOOL ? " != 0" : "");
    } else if (v > before || (v == before && e->cut[v] == CUT_HERE)) {
      zmi_emit_top(e, "%s c%d[%d];", x->type == ZMI_C_BOOL ? "zk_int" : zmi_emit_type(x->type), v, ZMI_EMIT_BLOCK);
      zmi_emit_line(e, "c%d[t] = v%d;", v, v);
    }
  }
}

bool zmi_emit_cut(zmi_emit_state *e, int begin, int i) {
  const zmi_inst *x = &e->code->insts[i];
  const bool whole = e->cut[i] == CUT_BLOCK;
  char value[48], second[48] = "";
  if (whole) {
    zmi_emit_ref(e, x->a, value);
    zmi_emit_top(e, "float c%d[%d];", i, ZMI_EMIT_BLOCK);
    zmi_emit_line(e, "c%d[t] = %s;", i, value);
  }
  if (whole && x->b >= 0) {
    zmi_emit_ref(e, x->b, value);
    zmi_emit_top(e, "float d%d[%d];", i, ZMI_EMIT_BLOCK);
    zmi_emit_line(e, "d%d[t] = %s;", i, value);
    snprintf(second, sizeof second, ", d%d", i);
  }
  across(e, begin, i, false);
  e->depth--;
  zmi_emit_line(e, "}");
  if (whole) zmi_emit_line(e, "%s(c%d%s);", block_function(x), i, second);
  zmi_emit_line(e, "ZK_LANES");
  zmi_emit_line(e, "for (zk_int t = 0; t < %d; t++) {", ZMI_EMIT_BLOCK);
  e->depth++;
  across(e, begin, i, true);
  if (whole) zmi_emit_line(e, "const zk_float v%d = c%d[t];", i, i);
  if (whole && e->keeps[i]) zmi_emit_line(e, "k%d[(at & kept) + t] = v%d;", i, i);
  return whole;
}
