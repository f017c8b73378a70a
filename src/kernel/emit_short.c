// Emitted C, short rows: 32 of them side by side, place after place, so that no vector is cut at the end of a row. Operands are turned into
// places of 32 rows each and results back. Sums keep their 16 lanes (docs/numerics.md), of each row.
#include "kernel/emit.h"

#include <string.h>

enum { SHORT = 64 /* places */, SIDE = ZMI_EMIT_BLOCK, MOST_CODE = 512, MOST_ARRAYS = 12 };

static bool is_inner(const zmi_emit_state *e, int i) {
  return e->outer[i] >= 0;
}

static bool reads(const zmi_emit_state *e, int begin, int end, zmi_cop op, int index) {
  for (int i = begin; i < end; i++)
    if (e->code->insts[i].op == op && e->code->insts[i].index == index && is_inner(e, i)) return true;
  return false;
}

// Whether what stands between the blocks is plain arithmetic, and little enough memory is needed.
static bool fits(const zmi_emit_state *e) {
  const zmi_code *c = e->code;
  int arrays = 0;
  if (c->count > MOST_CODE) return false;
  for (int i = 0; i < (int)c->count; i++) {
    const zmi_cop op = c->insts[i].op;
    const char kind = zmi_cop_rows[op].kind;
    arrays += e->keeps[i] != 0;
    if (is_inner(e, i)) continue;
    if (kind == 'M' || op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_PLACE) return false;
    if (op == ZMI_K_INPUT && !c->in_per_row[c->insts[i].index]) return false;
    if (kind == 'X' && op != ZMI_K_ELEMENTS && op != ZMI_K_END && op != ZMI_K_OUTPUT && op != ZMI_K_VAR && op != ZMI_K_GET &&
        op != ZMI_K_SET)
      return false;
  }
  for (int k = 0; k < c->nin; k++) arrays += reads(e, 0, (int)c->count, ZMI_K_INPUT, k);
  for (int k = 0; k < c->nout; k++) arrays += reads(e, 0, (int)c->count, ZMI_K_OUTPUT, k);
  return arrays <= MOST_ARRAYS;
}

// What is one for all rows and places; what else belongs to a row has 32 values.
static void plan(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  for (int i = 0; i < (int)c->count; i++) {
    const zmi_inst *x = &c->insts[i];
    const char kind = zmi_cop_rows[x->op].kind;
    const int operands[3] = {x->a, x->b, x->c};
    bool shared = kind != 'X' && kind != 'M' && kind != 'P';
    for (int k = 0; k < 3; k++)
      if (operands[k] >= 0 && !e->uniform[operands[k]]) shared = false;
    if (x->op == ZMI_K_CONST || x->op == ZMI_K_PARAM || x->op == ZMI_K_LENGTH) shared = true;
    e->uniform[i] = shared;
    const bool reduces = zmi_emit_reduces(x->op), value = reduces || x->op == ZMI_K_VAR || x->op == ZMI_K_GET || kind != 'X';
    e->place[i] = !shared && value && (reduces || !is_inner(e, i)) ? ZMI_PLACE_ARRAY : ZMI_PLACE_LOCAL;
  }
}

static void declare(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  const int count = (int)c->count;
  zmi_emit_top(e, "const zk_long kept = -1;");
  zmi_emit_top(e, "(void)kept;");
  for (int i = 0; i < count; i++)
    if (e->uniform[i]) zmi_emit_one(e, i);
  zmi_emit_arrays(e, 0, count, true);
  for (int k = 0; k < c->nin; k++)
    if (reads(e, 0, count, ZMI_K_INPUT, k) && !c->in_per_row[k]) zmi_emit_top(e, "%s o%d[%d];", zmi_emit_memory(c->in[k]), k, SHORT * SIDE);
  for (int k = 0; k < c->nout; k++)
    if (reads(e, 0, count, ZMI_K_OUTPUT, k)) zmi_emit_top(e, "%s u%d[%d];", zmi_emit_memory(c->out[k]), k, SHORT * SIDE);
  for (int i = 0; i < count; i++) {
    if (!e->keeps[i]) continue;
    e->keeps[i] = e->uniform[i] ? 0 : ZMI_KEEPS;
    if (e->keeps[i]) zmi_emit_top(e, "zk_float k%d[%d];", i, SHORT * SIDE);
  }
}

static void turn_operands(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  for (int k = 0; k < c->nin; k++) {
    const char *m = zmi_emit_memory(c->in[k]);
    zmi_emit_top(e, "const %s *w%d = (const %s *)in[%d] + done * row_stride[%d];", m, k, m, k, k);
    if (c->in_per_row[k] || !reads(e, 0, (int)c->count, ZMI_K_INPUT, k)) continue;
    zmi_emit_top(e, "if (done == 0 || row_stride[%d])", k);
    zmi_emit_top(e, "  ze_turn%d(o%d, 32, w%d, row_stride[%d], step[%d], 32, (zk_int)d);", (int)zm_dtype_size(c->in[k]), k, k, k, k);
  }
}

static void block(zmi_emit_state *e, int at) {
  const zmi_code *c = e->code;
  const int begin = at + 1, end = e->match[at];
  e->block = at;
  for (int i = begin; i < end; i++) {
    const zmi_ctype type = zmi_emit_reduces(c->insts[i].op) ? c->insts[c->insts[i].a].type : ZMI_C_NONE;
    if (type != ZMI_C_NONE) zmi_emit_top(e, "ze_rows_%s a%d;", zmi_emit_word(type), i);
    if (type != ZMI_C_NONE) zmi_emit_top(e, "%s r%d[%d];", zmi_emit_type(type), i, SIDE);
  }
  zmi_emit_top(e, "for (zk_long place = 0; place < d; place++) {");
  e->depth++;
  zmi_emit_top(e, "const zk_long at = place * %d;", SIDE);
  zmi_emit_top(e, "(void)at;");
  for (int k = 0; k < c->nin; k++) {
    if (!reads(e, begin, end, ZMI_K_INPUT, k) || c->in_per_row[k]) continue;
    zmi_emit_top(e, "const %s *p%d = o%d + at;", zmi_emit_memory(c->in[k]), k, k);
    zmi_emit_widen(e, k);
  }
  for (int k = 0; k < c->nout; k++) {
    if (!reads(e, begin, end, ZMI_K_OUTPUT, k)) continue;
    zmi_emit_top(e, "%s *z%d = u%d + at;", zmi_emit_memory(c->out[k]), k, k);
    zmi_emit_wide_results(e, k);
  }
  zmi_emit_find_cuts(e, begin, end);
  e->in_lanes = true;
  zmi_emit_walk(e, begin, end);
  zmi_emit_flush(e);
  e->in_lanes = false;
  zmi_emit_narrow(e, begin, end);
  for (int i = begin; i < end; i++) {
    if (!zmi_emit_reduces(c->insts[i].op)) continue;
    zmi_emit_top(e, "ze_rows_%s_%s(&a%d, r%d, (zk_int)place);", zmi_emit_reduction(c->insts[i].op),
                 zmi_emit_word(c->insts[c->insts[i].a].type), i, i);
  }
  e->depth--;
  zmi_emit_top(e, "}");
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = &c->insts[i];
    if (!zmi_emit_reduces(x->op)) continue;
    zmi_emit_top(e, "ze_rows_%s_all_%s(v%d, &a%d, (zk_int)d);", zmi_emit_reduction(x->op == ZMI_K_SUMSQ ? ZMI_K_SUM : x->op),
                 zmi_emit_word(c->insts[x->a].type), i, i);
  }
  e->block = -1;
}

static void group(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  e->in_lanes = true;
  for (int i = 0; i < (int)c->count; i++) {
    if (c->insts[i].op == ZMI_K_ELEMENTS) {
      zmi_emit_flush(e);
      e->in_lanes = false;
      block(e, i);
      e->in_lanes = true;
      i = e->match[i];
    } else if (!e->uniform[i]) {
      zmi_emit_one(e, i);
    }
  }
  zmi_emit_flush(e);
  e->in_lanes = false;
  for (int k = 0; k < c->nout; k++)
    if (reads(e, 0, (int)c->count, ZMI_K_OUTPUT, k))
      zmi_emit_top(e, "ze_turn%d(y%d + done * d, d, u%d, 32, 1, (zk_int)d, 32);", (int)zm_dtype_size(c->out[k]), k, k);
}

void zmi_emit_short_rows(zmi_emit_state *e) {
  const size_t count = e->code->count;
  if (!fits(e)) return;
  unsigned char *saved = zmi_malloc(3 * count + 1); // the rows that are left go the usual way
  if (!saved) {
    e->status = ZM_ERROR_MEMORY;
    return;
  }
  memcpy(saved, e->place, count);
  memcpy(saved + count, e->uniform, count);
  memcpy(saved + 2 * count, e->keeps, count);
  const int capacity = e->capacity;
  e->capacity = SIDE;
  e->side = true;
  plan(e);
  zmi_emit_top(e, "if (d > 0 && d <= %d && rows >= %d) {", SHORT, SIDE);
  e->depth++;
  declare(e);
  zmi_emit_top(e, "for (; done + %d <= rows; done += %d) {", SIDE, SIDE);
  e->depth++;
  e->blocks = e->use_kept = true;
  turn_operands(e);
  group(e);
  e->depth--;
  zmi_emit_top(e, "}");
  e->depth--;
  zmi_emit_top(e, "}");
  e->blocks = e->use_kept = e->side = false;
  e->capacity = capacity;
  memcpy(e->place, saved, count);
  memcpy(e->uniform, saved + count, count);
  memcpy(e->keeps, saved + 2 * count, count);
  zmi_free(saved);
}
