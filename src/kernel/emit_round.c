// Emitted C, 32 elements at a time, with what is done to a block as a whole: values that are rounded to float16 on the way, as loops over
// single numbers don't reach the processor's conversions; circular functions, whose angles are small nearly always and then cost little.
// The loop ends in front of such a value, the block is computed (`ze_round_block`, `ze_block_sin`), another goes on with what is needed.
#include "kernel/emit.h"

// More code than this would fill the stack with arrays.
enum { MOST = 1024 };

static const char *block_function(zmi_cop op) {
  switch (op) {
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

bool zmi_emit_is_cut(const zmi_emit_state *e, int i) {
  if (e->use_kept && e->kept[i] >= 0 && e->keeps[e->kept[i]] == ZMI_KEEPS) return false; // it is there already
  return e->blocks && block_function(e->code->insts[i].op) && !e->uniform[i] && e->code->count <= MOST;
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
  zmi_emit_line(e, "%s(c%d);", block_function(e->code->insts[i].op), i);
  zmi_emit_line(e, "ZK_LANES");
  zmi_emit_line(e, "for (zk_int t = 0; t < %d; t++) {", ZMI_EMIT_BLOCK);
  e->depth++;
  across(e, begin, i, true);
  zmi_emit_line(e, "const zk_float v%d = c%d[t];", i, i);
  if (e->keeps[i]) zmi_emit_line(e, "k%d[(at & kept) + t] = v%d;", i, i);
}
