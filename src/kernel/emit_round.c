// Emitted C, 32 elements at a time, with values that are rounded to float16 on the way. Loops over single numbers don't reach the
// processor's conversions: the loop ends in front of such a rounding, the whole block is rounded (`ze_round_block`), and another loop goes
// on with what is still needed.
#include "kernel/emit.h"

// More code than this would fill the stack with arrays.
enum { MOST = 1024 };

bool zmi_emit_is_cut(const zmi_emit_state *e, int i) {
  return e->blocks && e->code->insts[i].op == ZMI_K_ROUND_F16 && !e->uniform[i] && e->code->count <= MOST;
}

// Values of [begin, i) that are needed behind the cut: into arrays, where what an earlier cut needed is already, or out of them.
static void across(zmi_emit_state *e, int begin, int i, bool back) {
  int before = i - 1;
  while (before >= begin && !zmi_emit_is_cut(e, before)) before--;
  for (int v = begin; v < i; v++) {
    const zmi_inst *x = &e->code->insts[v];
    if (e->uniform[v] || e->last[v] <= i || zmi_emit_reduces(x->op)) continue;
    if (x->op == ZMI_K_INPUT) {
      if (back) zmi_emit_leaf(e, v); // it still lies where it was
    } else if (back) {
      zmi_emit_line(e, "const %s v%d = c%d[t]%s;", zmi_emit_type(x->type), v, v, x->type == ZMI_C_BOOL ? " != 0" : "");
    } else if (v > before) {
      zmi_emit_top(e, "%s c%d[%d];", x->type == ZMI_C_BOOL ? "zk_int" : zmi_emit_type(x->type), v, ZMI_EMIT_BLOCK);
      zmi_emit_line(e, "c%d[t] = v%d;", v, v);
    }
  }
}

void zmi_emit_cut(zmi_emit_state *e, int begin, int i) {
  char value[48];
  zmi_emit_ref(e, e->code->insts[i].a, value);
  zmi_emit_top(e, "float c%d[%d];", i, ZMI_EMIT_BLOCK);
  zmi_emit_line(e, "c%d[t] = %s;", i, value);
  across(e, begin, i, false);
  e->depth--;
  zmi_emit_line(e, "}");
  zmi_emit_line(e, "ze_round_block(c%d);", i);
  zmi_emit_line(e, "ZK_LANES");
  zmi_emit_line(e, "for (zk_int t = 0; t < %d; t++) {", ZMI_EMIT_BLOCK);
  e->depth++;
  across(e, begin, i, true);
  zmi_emit_line(e, "const zk_float v%d = c%d[t];", i, i);
}
