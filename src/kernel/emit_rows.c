// Emitted C, what is known of rows: that no element is above the largest, that shares of a sum have one divisor, and reductions that need
// not look at every element.
#include "kernel/emit.h"

#include <math.h>
#include <stdio.h>

// ---- functions ----

// The largest element that is taken off, as it is or as `m != -1.0f / 0.0f ? m : 0.0f`: a row of nothing but -infinity is left as it is.
static int largest_of(const zmi_emit_state *e, int v) {
  const zmi_inst *all = e->code->insts, *x = &all[v];
  if (x->op != ZMI_K_SELECT) return v;
  const zmi_inst *test = &all[x->a];
  const bool lowest = test->op == ZMI_K_NE && test->a == x->b && all[test->b].op == ZMI_K_CONST && all[test->b].imm.f == -HUGE_VALF;
  return lowest && all[x->c].op == ZMI_K_CONST && all[x->c].imm.f == 0 ? x->b : v;
}

// exp of an element less the largest of all of them: NaN or not above 1, and 1 for one of them if they are not all 0.
static bool is_below(const zmi_emit_state *e, int i) {
  const zmi_inst *x = &e->code->insts[i], *less, *most;
  if (x->op != ZMI_K_EXP || (less = &e->code->insts[x->a])->op != ZMI_K_SUB) return false;
  most = &e->code->insts[largest_of(e, less->b)];
  return most->op == ZMI_K_MAXIMUM && zmi_emit_is_alike(e, less->a, most->a);
}

const char *zmi_emit_row_function(const zmi_emit_state *e, int i) {
  const zmi_inst *x = &e->code->insts[i];
  if (e->code->form != ZMI_FORM_ROWS || x->type != ZMI_C_FLOAT) return NULL;
  if (is_below(e, i)) return "zk_exp_below";
  if (x->op != ZMI_K_DIV || e->side) return NULL; // side by side each place has a divisor of its own
  const zmi_inst *sum = &e->code->insts[x->b];
  return is_below(e, x->a) && sum->op == ZMI_K_SUM && zmi_emit_is_alike(e, x->a, sum->a) ? "zk_share" : NULL;
}

// ---- reductions apart from the loop ----

static bool is_element(const zmi_emit_state *e, int v) {
  return e->code->insts[v].op == ZMI_K_INPUT && !e->code->in_per_row[e->code->insts[v].index];
}

// The number of the row that the place is compared with; -1: it is something else.
static int picked_place(const zmi_emit_state *e, int i) {
  const zmi_inst *all = e->code->insts, *choice = &all[all[i].a], *test;
  if (choice->op != ZMI_K_SELECT || !is_element(e, choice->b) || all[choice->c].op != ZMI_K_CONST || all[choice->c].imm.i != 0) return -1;
  test = &all[choice->a];
  if (test->op != ZMI_K_EQ || all[test->a].type != ZMI_C_INT) return -1;
  const int n = all[test->a].op == ZMI_K_PLACE ? test->b : all[test->b].op == ZMI_K_PLACE ? test->a : -1;
  return n >= 0 && n < e->outer[i] ? n : -1; // what an earlier block or the row has computed
}

// The largest or smallest of an operand's integers that are used for nothing else.
static bool is_most(const zmi_emit_state *e, int i) {
  const zmi_inst *all = e->code->insts, *x = &all[i];
  if ((x->op != ZMI_K_MAXIMUM && x->op != ZMI_K_MINIMUM) || x->type != ZMI_C_INT || !is_element(e, x->a)) return false;
  for (int u = x->a + 1; u < (int)e->code->count; u++)
    if (u != i && (all[u].a == x->a || all[u].b == x->a || all[u].c == x->a)) return false;
  return true;
}

zmi_apart zmi_emit_apart(const zmi_emit_state *e, int i) {
  const zmi_inst *x = &e->code->insts[i];
  if (!e->blocks || e->side || e->code->form != ZMI_FORM_ROWS) return ZMI_APART_NO;
  if (x->op == ZMI_K_SUM) return picked_place(e, i) >= 0 ? ZMI_APART_PICK : ZMI_APART_NO;
  if (x->op == ZMI_K_INPUT) return e->last[i] >= 0 && is_most(e, e->last[i]) ? ZMI_APART_MOST : ZMI_APART_NO;
  return is_most(e, i) ? ZMI_APART_MOST : ZMI_APART_NO;
}

// A sum starts at +0: -0 and denormals become +0.
static void pick(zmi_emit_state *e, int i) {
  const zmi_inst *all = e->code->insts, *choice = &all[all[i].a];
  const int k = all[choice->b].index;
  const char *type = zmi_emit_type(all[i].type);
  char at[48], element[96];
  zmi_text t = {0};
  zmi_emit_ref(e, picked_place(e, i), at);
  snprintf(element, sizeof element, "s%d[(zk_long)%s & m%d]", k, at, k);
  zmi_emit_load(e->code->in[k], element, &t);
  zmi_emit_top(e, "const %s v%d = %s >= 0 && %s < d ? (%s)0 + (%s)(%s) : (%s)0;", type, i, at, at, type, type, zmi_text_str(&t), type);
  zmi_text_release(&t);
}

static void most(zmi_emit_state *e, int i) {
  const zmi_inst *x = &e->code->insts[i];
  const int k = e->code->insts[x->a].index;
  char element[32];
  zmi_text t = {0};
  snprintf(element, sizeof element, "s%d[k]", k);
  zmi_emit_load(e->code->in[k], element, &t);
  zmi_emit_top(e, "zk_int v%d = %s;", i, zmi_emit_identity(x->op, x->type));
  zmi_emit_top(e, "for (zk_long k = 0; k < (m%d || d < 1 ? d : 1); k++) {", k);
  zmi_emit_top(e, "  const zk_int x = %s;", zmi_text_str(&t));
  zmi_emit_top(e, "  v%d = x %s v%d ? x : v%d;", i, x->op == ZMI_K_MAXIMUM ? ">" : "<", i, i);
  zmi_emit_top(e, "}");
  zmi_text_release(&t);
}

void zmi_emit_apart_value(zmi_emit_state *e, int i) {
  if (zmi_emit_apart(e, i) == ZMI_APART_PICK)
    pick(e, i);
  else
    most(e, i);
}
