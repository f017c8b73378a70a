// Emitted C, what is computed where: once for all lanes, in loops and branches that all lanes go through together, in arrays, in registers.
#include "kernel/emit.h"

#include <string.h>

bool zmi_emit_opens(zmi_cop op) {
  return op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELEMENTS;
}

bool zmi_emit_reduces(zmi_cop op) {
  return op >= ZMI_K_SUM && op <= ZMI_K_ARGMIN;
}

bool zmi_emit_has(const zmi_emit_state *e, int begin, int end, zmi_cop op) {
  for (int i = begin; i < end; i++)
    if (e->code->insts[i].op == op) return true;
  return false;
}

static bool leaf_is_uniform(const zmi_emit_state *e, const zmi_inst *x) {
  switch (x->op) {
  case ZMI_K_CONST:
  case ZMI_K_PARAM:
  case ZMI_K_LENGTH:
  case ZMI_K_GROUP:
  case ZMI_K_THREADS:
  case ZMI_K_GROUPS:
  case ZMI_K_DIM:
    return true;
  case ZMI_K_INPUT:
    return e->code->in_per_row[x->index];
  default:
    return false;
  }
}

// Values of [begin, end) that all lanes share. What stands before `begin` is shared by definition.
static void find_uniform(zmi_emit_state *e, int begin, int end) {
  const zmi_code *c = e->code;
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = &c->insts[i];
    const char kind = zmi_cop_rows[x->op].kind;
    const int operands[3] = {x->a, x->b, x->c};
    bool shared = x->op == ZMI_K_FOR || (kind != 'X' && kind != 'M' && kind != 'P');
    for (int k = 0; k < 3; k++)
      if (operands[k] >= begin && !e->uniform[operands[k]]) shared = false;
    e->uniform[i] = (unsigned char)(kind == 'P' ? leaf_is_uniform(e, x) : shared);
  }
}

// Loops and branches that all lanes go through together stand outside of the loop over lanes.
static void find_lifted(zmi_emit_state *e, int begin, int end) {
  const zmi_code *c = e->code;
  for (int i = begin; i < end; i++) {
    const zmi_cop op = c->insts[i].op;
    if (op != ZMI_K_FOR && op != ZMI_K_IF) continue;
    const bool around = e->outer[i] < begin || e->lifted[e->outer[i]];
    const bool wanted = e->threads ? zmi_emit_has(e, i, e->match[i], ZMI_K_BARRIER) : op == ZMI_K_FOR && e->uniform[i];
    e->lifted[i] = around && wanted && !e->serial;
  }
}

// Numbers the pieces between cuts; what is used in another piece than its own gets an array.
static void find_segments(zmi_emit_state *e, int begin, int end) {
  const zmi_code *c = e->code;
  int segment = 1;
  for (int i = begin; i < end; i++) {
    const zmi_cop op = c->insts[i].op;
    int block = op == ZMI_K_END || op == ZMI_K_ELSE ? -2 : i;
    if (block == -2)
      for (block = i - 1; block >= begin && !(zmi_emit_opens(c->insts[block].op) && e->match[block] >= i); block--) {
      }
    const bool cut = op == ZMI_K_BARRIER || (block >= begin && zmi_emit_opens(c->insts[block].op) && e->lifted[block]);
    e->segment[i] = cut ? ++segment : segment;
    if (cut) segment++;
  }
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = &c->insts[i];
    const int operands[4] = {x->a, x->b, x->c, x->op == ZMI_K_GET || x->op == ZMI_K_SET ? x->index : -1};
    for (int k = 0; k < 4; k++) {
      const int v = operands[k];
      if (v < begin || e->segment[v] == e->segment[i] || e->uniform[v]) continue;
      e->place[v] = ZMI_PLACE_ARRAY;
    }
  }
}

void zmi_emit_plan(zmi_emit_state *e, int begin, int end) {
  find_uniform(e, begin, end);
  find_lifted(e, begin, end);
  find_segments(e, begin, end);
}

// Whether [begin, end) is arithmetic alone, on numbers that vectors of one length hold.
bool zmi_emit_fits_block(const zmi_emit_state *e, int begin, int end) {
  const zmi_code *c = e->code;
  if (e->chunk != ZMI_EMIT_BLOCK || e->threads) return false;
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = &c->insts[i];
    const char kind = zmi_cop_rows[x->op].kind;
    if (e->place[i] != ZMI_PLACE_LOCAL || (x->type >= ZMI_C_LONG && x->type <= ZMI_C_ULONG && !e->uniform[i])) return false;
    if (x->op == ZMI_K_INPUT) {
      if (zm_dtype_size(c->in[x->index]) > 4 && !c->in_per_row[x->index]) return false;
    } else if (x->op == ZMI_K_OUTPUT) {
      if (zm_dtype_size(c->out[x->index]) > 4) return false;
    } else if (kind == 'M' || (kind == 'X' && x->op != ZMI_K_GET && !zmi_emit_reduces(x->op))) {
      return false;
    }
  }
  return true;
}

// ---- values that passes over a row have in common ----

static bool is_costly(const zmi_inst *x) {
  if (x->type != ZMI_C_FLOAT) return false;
  return (x->op >= ZMI_K_EXP && x->op <= ZMI_K_POW) || x->op == ZMI_K_RSQRT;
}

enum { DEPTH = 8 }; // of expressions that are compared

// Whether two values, each of its block of one row, are computed alike: from the same operands and from values of outside that are one.
static bool are_alike(const zmi_emit_state *e, int a, int b, int depth) {
  if (a == b) return true;
  if (depth == 0 || a < 0 || b < 0) return false;
  const zmi_inst *x = &e->code->insts[a], *y = &e->code->insts[b];
  const bool fixed = x->op == ZMI_K_CONST || x->op == ZMI_K_PARAM; // the same wherever it stands
  if (!fixed && (e->outer[a] < 0 || e->outer[b] < 0)) return false;
  const char kind = zmi_cop_rows[x->op].kind;
  if (x->op != y->op || x->type != y->type || x->index != y->index || x->extra != y->extra) return false;
  if (kind == 'X' || kind == 'M' || memcmp(&x->imm, &y->imm, sizeof x->imm) != 0) return false;
  const int left[3] = {x->a, x->b, x->c}, right[3] = {y->a, y->b, y->c};
  for (int k = 0; k < zmi_cop_rows[x->op].operands; k++)
    if (!are_alike(e, left[k], right[k], depth - 1)) return false;
  return true;
}

bool zmi_emit_is_alike(const zmi_emit_state *e, int a, int b) {
  return are_alike(e, a, b, DEPTH);
}

static bool is_in_pass(const zmi_emit_state *e, int i) {
  const int block = e->outer[i];
  return block >= 0 && e->code->insts[block].op == ZMI_K_ELEMENTS && e->outer[block] < 0;
}

bool zmi_emit_is_busy(const zmi_emit_state *e, int begin, int end) {
  for (int i = begin; i < end; i++)
    if (is_costly(&e->code->insts[i]) && e->kept[i] < 0) return true;
  return false;
}

bool zmi_emit_find_kept(zmi_emit_state *e) {
  enum { MOST = 2 };
  const int count = (int)e->code->count;
  int found = 0;
  for (int i = 0; i < count && e->chunk == ZMI_EMIT_BLOCK; i++) {
    if (!is_costly(&e->code->insts[i]) || !is_in_pass(e, i)) continue;
    for (int j = 0; j < e->outer[i] && e->kept[i] < 0; j++) {
      if (!is_costly(&e->code->insts[j]) || !is_in_pass(e, j) || !zmi_emit_is_alike(e, i, j) || (!e->keeps[j] && found == MOST)) continue;
      found += !e->keeps[j];
      e->keeps[j] = ZMI_WANTED;
      e->kept[i] = j;
    }
  }
  return found > 0;
}
