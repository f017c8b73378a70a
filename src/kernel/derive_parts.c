// A code of rows in two, for gradients that cannot be taken of the whole at once: all blocks of a gradient share one pass over the places,
// which has one order. What the second part needs of the first are numbers of the row: they are results of the one and operands of the
// other, so that each part is a code like any other, whose derivatives are taken as usual.
#include "kernel/derive.h"

#include <limits.h>
#include <string.h>

enum { UNUSED, AGAIN, PASSED }; // how the second part comes by a value of the first: computed there again, or as an operand

typedef struct splitter {
  const zmi_code *from;
  char *use;      // of each instruction, for the cut that was looked at last
  int *first_set; // of each VAR: the first SET of it
  zmi_derive *of; // which values depend on what is wanted; numbers of blocks
} splitter;

static const zmi_inst *at(const splitter *s, int i) {
  return &s->from->insts[i];
}

// ---- where ----
// A block whose places have an order: 1 rising, 2 falling, 3 rising and 4 falling in joined lanes; 0: none.
static int order_of(const splitter *s, int begin, int end) {
  bool ordered = false, joined = false;
  for (int i = begin + 1; i < end; i++) {
    const zmi_inst *x = at(s, i);
    ordered |= x->op == ZMI_K_SCAN_SUM || (x->op == ZMI_K_SET && x->index < begin);
    joined |= x->op == ZMI_K_JOIN;
  }
  return ordered ? 1 + (at(s, begin)->extra != 0) + 2 * joined : 0;
}

// Two neighbours among the ordered blocks, of different orders if there are such: the cut is between *from and *to. False: there are none.
static bool find_neighbours(const splitter *s, int *from, int *to) {
  int before = 0, end_before = 0;
  bool found = false;
  for (int i = 0; i < (int)s->from->count; i++) {
    if (at(s, i)->op != ZMI_K_ELEMENTS) continue;
    const int end = zmi_derive_block_end(s->of, i), order = order_of(s, i, end);
    if (order && before && (!found || order != before)) {
      *from = end_before + 1, *to = i;
      found = true;
      if (order != before) return true;
    }
    if (order) before = order, end_before = end;
    i = end;
  }
  return found;
}

static bool is_leaf(zmi_cop op) {
  return zmi_cop_rows[op].kind == 'P';
}

static void need(const splitter *s, int value, int cut) {
  if (value < 0 || value >= cut || s->use[value] != UNUSED) return;
  const zmi_inst *x = at(s, value);
  const bool fresh = x->op == ZMI_K_VAR && s->first_set[value] >= cut; // has its first value still
  s->use[value] = fresh || is_leaf(x->op) ? AGAIN : PASSED;
  if (fresh) need(s, x->a, cut);
}

// What is used of [0, cut) after it; how many values are operands.
static int look(const splitter *s, int cut) {
  int passed = 0;
  memset(s->use, UNUSED, s->from->count);
  for (int i = cut; i < (int)s->from->count; i++) {
    const zmi_inst *x = at(s, i);
    for (int k = 0; k < 3; k++) need(s, zmi_inst_operand(x, k), cut);
    if (x->op == ZMI_K_GET || x->op == ZMI_K_SET || x->op == ZMI_K_GET_RIGHT) need(s, x->index, cut);
  }
  for (int i = 0; i < cut; i++) passed += s->use[i] == PASSED;
  return passed;
}

// The place between two statements of the row that the fewest values cross; -1: there is none.
static int find_cut(const splitter *s) {
  int from = 0, to = -1, best = -1, least = 0;
  if (!find_neighbours(s, &from, &to)) return -1;
  for (int i = from, depth = 0; i <= to; i++) {
    const zmi_cop op = at(s, i)->op;
    const int passed = depth == 0 ? look(s, i) : -1;
    if (passed >= 0 && (best < 0 || passed < least)) best = i, least = passed;
    depth += op == ZMI_K_ELEMENTS || op == ZMI_K_FOR || op == ZMI_K_IF;
    depth -= op == ZMI_K_END;
  }
  look(s, best);
  return best;
}

// ---- the parts ----
static zm_status too_many(const splitter *s) {
  return zmi_fail(ZM_ERROR_LIMIT, "kernel %s: its gradient passes on more than %d values of a row", s->from->name, ZMI_MAX_OUT);
}

static zm_status output(zmi_derive *d, int value, zm_dtype dtype, bool per_row) {
  zmi_code *c = d->to;
  zmi_inst x = {.op = ZMI_K_OUTPUT, .a = value, .b = -1, .c = -1, .index = c->nout};
  c->per_row[c->nout] = per_row;
  c->out[c->nout++] = dtype;
  return value < 0 || zmi_code_emit(c, &x) < 0 ? zm_last_status() : ZM_OK;
}

static zm_status copy(const splitter *s, zmi_derive *d, int begin, int end, int *result, bool rest) {
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = at(s, i);
    if (x->op != ZMI_K_OUTPUT) {
      if (zmi_derive_copy(d, i) < 0) return zm_last_status();
      continue;
    }
    result[x->index] = rest ? ~d->to->nout : d->to->nout;
    if (output(d, d->map[x->a], s->from->out[x->index], s->from->per_row[x->index]) != ZM_OK) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status make_first(const splitter *s, zmi_derive *d, int cut, zmi_parts *p) {
  if (copy(s, d, 0, cut, p->result, false) != ZM_OK) return zm_last_status();
  for (int i = 0; i < cut; i++) {
    const zmi_inst *x = at(s, i);
    if (s->use[i] != PASSED) continue;
    if (d->to->nout == ZMI_MAX_OUT) return too_many(s);
    zmi_inst get = {.op = ZMI_K_GET, .type = x->type, .a = -1, .b = -1, .c = -1, .index = d->map[i]};
    int value = x->op == ZMI_K_VAR ? zmi_code_emit(d->to, &get) : d->map[i];
    p->active[p->passed++] = s->of->active[i];
    if (output(d, value, zmi_derive_dtype(x->type), true) != ZM_OK) return zm_last_status();
  }
  return zmi_code_finish(d->to);
}

static zm_status make_rest(const splitter *s, zmi_derive *d, int cut, zmi_parts *p) {
  for (int i = 0; i < cut; i++) {
    const zmi_inst *x = at(s, i);
    int operand, value;
    if (s->use[i] == AGAIN && zmi_derive_copy(d, i) < 0) return zm_last_status();
    if (s->use[i] != PASSED) continue;
    if (zmi_derive_add_operand(d, zmi_derive_dtype(x->type), true, &operand) != ZM_OK) return zm_last_status();
    value = zmi_code_leaf(d->to, ZMI_K_INPUT, x->type, operand, 0);
    zmi_inst var = {.op = ZMI_K_VAR, .type = x->type, .a = value, .b = -1, .c = -1};
    d->map[i] = value < 0 || x->op != ZMI_K_VAR ? value : zmi_code_emit(d->to, &var);
    if (d->map[i] < 0) return zm_last_status();
  }
  zm_status status = copy(s, d, cut, (int)s->from->count, p->result, true);
  return status == ZM_OK ? zmi_code_finish(d->to) : status;
}

// Operands of 16 bits that both parts read are wider in them, so that their gradients are rounded when they have been added.
static void find_wide(const splitter *s, const bool *wanted, int cut, bool *wide) {
  bool by[2][ZMI_CODE_MAX] = {{false}};
  for (int i = 0; i < (int)s->from->count; i++) {
    const zmi_inst *x = at(s, i);
    if (x->op != ZMI_K_INPUT) continue;
    by[i >= cut][x->index] = true;
    if (i < cut && s->use[i] == AGAIN) by[1][x->index] = true;
  }
  for (int i = 0; i < s->from->nin; i++) wide[i] = wanted[i] && by[0][i] && by[1][i] && zmi_ctype_of(s->from->in[i]) == ZMI_C_FLOAT;
}

typedef zm_status maker(const splitter *s, zmi_derive *d, int cut, zmi_parts *p);

static zmi_code *make(const splitter *s, maker *part, const char *suffix, int cut, const bool *wide, zmi_parts *p) {
  const bool none[ZMI_CODE_MAX] = {false};
  zmi_derive d;
  zm_status status = zmi_derive_start(&d, s->from, suffix, none);
  if (status == ZM_OK) status = zmi_derive_operands(&d);
  for (int i = 0; i < s->from->nin && status == ZM_OK; i++) {
    if (wide[i]) d.to->in[i] = ZM_F32;
  }
  if (status == ZM_OK) status = part(s, &d, cut, p);
  zmi_derive_end(&d);
  if (status == ZM_OK) return d.to;
  zmi_code_free(d.to);
  return NULL;
}

static zm_status make_parts(splitter *s, const bool *wanted, zmi_parts *p) {
  for (int i = (int)s->from->count - 1; i >= 0; i--) s->first_set[i] = INT_MAX;
  for (int i = (int)s->from->count - 1; i >= 0; i--) {
    if (at(s, i)->op == ZMI_K_SET) s->first_set[at(s, i)->index] = i;
  }
  const int cut = find_cut(s);
  bool wide[ZMI_CODE_MAX] = {false};
  if (cut < 0) return ZM_OK;
  find_wide(s, wanted, cut, wide);
  p->first = make(s, make_first, "_first", cut, wide, p);
  p->rest = p->first ? make(s, make_rest, "_rest", cut, wide, p) : NULL;
  return p->rest ? ZM_OK : zm_last_status();
}

zm_status zmi_code_parts(const zmi_code *code, const bool *wanted, zmi_parts *parts) {
  zmi_derive of;
  *parts = (zmi_parts){.first = NULL};
  if (code->form != ZMI_FORM_ROWS) return ZM_OK;
  zm_status status = zmi_derive_start(&of, code, "", wanted);
  splitter s = {.from = code, .of = &of};
  s.first_set = status == ZM_OK ? zmi_malloc((code->count + 1) * sizeof *s.first_set) : NULL;
  s.use = s.first_set ? zmi_malloc(code->count + 1) : NULL;
  status = s.use ? make_parts(&s, wanted, parts) : zm_last_status();
  zmi_derive_end(&of);
  zmi_code_free(of.to);
  zmi_free(s.first_set), zmi_free(s.use);
  if (status == ZM_OK) return ZM_OK;
  zmi_parts_release(parts);
  return status;
}

void zmi_parts_release(zmi_parts *parts) {
  zmi_code_free(parts->first), zmi_code_free(parts->rest);
  parts->first = parts->rest = NULL;
}
