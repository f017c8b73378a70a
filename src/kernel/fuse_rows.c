// Composition around a code of rows: elementwise pieces in front of its operands are computed where an element is read, those behind its
// results at the end of the block that gives them. What passes between is rounded to its dtype, as if it had been stored.
#include "kernel/fuse.h"

#include <string.h>

typedef struct rows {
  zmi_whole *w;
  const zmi_piece *pieces;
  int count, own; // the piece that is of rows
  zmi_derive d;   // of it
  const int *results;
  int nout, depth, tail; // tail: the block at whose end elementwise pieces give their results
} rows;

static const zmi_code *own_code(const rows *r) {
  return r->pieces[r->own].code;
}

static int value_of(rows *r, int value);

static int operand_of(rows *r, const zmi_piece *p, const zmi_inst *x, zmi_ctype type) {
  return p->in[x->index] >= 0 ? zmi_code_leaf(r->w->c, ZMI_K_INPUT, type, p->in[x->index], 0) : value_of(r, ~p->in[x->index]);
}

// An elementwise piece, at this place of this block.
static zm_status run_piece(rows *r, const zmi_piece *p) {
  const zmi_code *code = p->code;
  zmi_derive d = {.from = code, .to = r->w->c, .map = zmi_malloc((code->count ? code->count : 1) * sizeof(int))};
  if (!d.map) return zm_last_status();
  bool good = true;
  for (int i = 0; i < (int)code->count && good; i++) {
    const zmi_inst *x = &code->insts[i];
    if (x->op == ZMI_K_INPUT) {
      d.map[i] = operand_of(r, p, x, x->type);
    } else if (x->op == ZMI_K_OUTPUT) {
      d.map[i] = zmi_fuse_reread(r->w->c, d.map[x->a], code->out[x->index]);
      r->w->values[p->out[x->index]].at = d.map[i];
    } else {
      zmi_derive_copy(&d, i);
    }
    good = d.map[i] >= 0;
  }
  zmi_free(d.map);
  return good ? ZM_OK : zm_last_status() != ZM_OK ? zm_last_status() : zmi_fuse_wrong(r->own, "a piece cannot be computed there");
}

static int value_of(rows *r, int value) {
  zmi_whole *w = r->w;
  if (value < 0 || value >= ZMI_FUSE_VALUES || w->values[value].piece < 0) {
    zmi_fuse_wrong(r->own, "it reads a value that no piece makes");
    return -1;
  }
  if (w->values[value].at >= 0) return w->values[value].at;
  if (w->values[value].piece == r->own) {
    zmi_fuse_wrong(r->own, "its result is read in front of it");
    return -1;
  }
  return run_piece(r, &r->pieces[w->values[value].piece]) == ZM_OK ? w->values[value].at : -1;
}

// What was computed in a block that ends is not seen after it; what elementwise pieces give can be computed again.
static void forget(rows *r, bool own) {
  for (int v = 0; v < ZMI_FUSE_VALUES; v++) {
    if (own || r->w->values[v].piece != r->own) r->w->values[v].at = -1;
  }
}

static zm_status give(rows *r, int o, int value) {
  zmi_inst x = {.op = ZMI_K_OUTPUT, .a = value, .b = -1, .c = -1, .index = o};
  return value < 0 || zmi_code_emit(r->w->c, &x) < 0 ? zm_last_status() : ZM_OK;
}

static zm_status give_tail(rows *r) {
  for (int o = 0; o < r->nout; o++) {
    if (!r->w->c->per_row[o] && give(r, o, value_of(r, r->results[o])) != ZM_OK) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status own_output(rows *r, int i) {
  const zmi_inst *x = &own_code(r)->insts[i];
  const int value = r->pieces[r->own].out[x->index];
  const int at = zmi_fuse_reread(r->w->c, r->d.map[x->a], own_code(r)->out[x->index]);
  if (at < 0) return zm_last_status();
  r->w->values[value].at = at;
  for (int o = 0; o < r->nout; o++) {
    if (own_code(r)->per_row[x->index] && r->results[o] == value && give(r, o, at) != ZM_OK) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status step(rows *r, int i) {
  const zmi_inst *x = &own_code(r)->insts[i];
  const bool closes = x->op == ZMI_K_END || x->op == ZMI_K_ELSE || x->op == ZMI_K_JOIN;
  const bool opens = x->op == ZMI_K_ELEMENTS || x->op == ZMI_K_FOR || x->op == ZMI_K_IF;
  if (x->op == ZMI_K_OUTPUT) return own_output(r, i);
  if (closes && r->depth == 1 && r->tail >= 0) { // END of its block, or JOIN in front of it
    if (give_tail(r) != ZM_OK) return zm_last_status();
    r->tail = -1;
  }
  if (opens || closes) forget(r, false);
  if (x->op == ZMI_K_INPUT && r->depth > 0 && !own_code(r)->in_per_row[x->index]) {
    r->d.map[i] = operand_of(r, &r->pieces[r->own], x, x->type);
  } else if (x->op == ZMI_K_INPUT) {
    r->d.map[i] = zmi_code_leaf(r->w->c, ZMI_K_INPUT, x->type, r->pieces[r->own].in[x->index], 0);
  } else {
    zmi_derive_copy(&r->d, i);
  }
  r->depth += opens - (x->op == ZMI_K_END);
  return r->d.map[i] < 0 ? zm_last_status() : ZM_OK;
}

// The block that gives the elements of results; else the last one. -1: there is none, or several give some.
int zmi_fuse_tail(const zmi_code *code) {
  int block = -1, last = -1, depth = 0, tail = -1;
  for (int i = 0; i < (int)code->count; i++) {
    const zmi_inst *x = &code->insts[i];
    if (x->op == ZMI_K_ELEMENTS) block = last = i;
    depth += x->op == ZMI_K_ELEMENTS || x->op == ZMI_K_FOR || x->op == ZMI_K_IF;
    if (x->op == ZMI_K_END && --depth == 0) block = -1;
    if (x->op != ZMI_K_OUTPUT || code->per_row[x->index]) continue;
    if (tail >= 0 && tail != block) return -1;
    tail = block;
  }
  return tail >= 0 ? tail : last;
}

static zm_status look(rows *r) {
  zmi_code *c = r->w->c;
  const zmi_code *own = own_code(r);
  const zmi_piece *p = &r->pieces[r->own];
  for (int i = 0; i < own->nin; i++) {
    if (p->in[i] < 0 && own->in_per_row[i]) return zmi_fuse_wrong(r->own, "a number of the row is read from an elementwise piece");
    if (p->in[i] >= 0) c->in_per_row[p->in[i]] = own->in_per_row[i];
  }
  for (int q = 0; q < r->count; q++) {
    const zmi_code *code = r->pieces[q].code;
    for (int o = 0; o < code->nout; o++) {
      const int v = r->pieces[q].out[o];
      if (v < 0 || v >= ZMI_FUSE_VALUES) return zmi_fuse_wrong(q, "the number of a value is out of range");
      r->w->values[v] = (zmi_fuse_value){-1, q, code->out[o]};
      for (int k = 0; k < r->nout; k++) {
        if (r->results[k] == v) c->out[k] = code->out[o], c->per_row[k] = q == r->own && own->per_row[o];
      }
    }
  }
  for (int k = 0; k < r->nout; k++) {
    if (r->results[k] < 0 || r->results[k] >= ZMI_FUSE_VALUES || r->w->values[r->results[k]].piece < 0)
      return zmi_fuse_wrong(r->count, "a result is no value of any piece");
  }
  return ZM_OK;
}

zm_status zmi_fuse_rows(zmi_whole *w, const zmi_piece *pieces, int count, int own, const int *results, int nout) {
  const zmi_code *code = pieces[own].code;
  rows r = {.w = w, .pieces = pieces, .count = count, .own = own, .results = results, .nout = nout, .tail = -1};
  const int tail = zmi_fuse_tail(code);
  if (tail < 0) return zmi_fuse_wrong(own, "its results are given in several blocks");
  if (look(&r) != ZM_OK) return zm_last_status();
  w->c->nparams = code->nparams;
  r.d = (zmi_derive){.from = code, .to = w->c, .map = zmi_malloc(code->count * sizeof(int))};
  zm_status status = r.d.map ? ZM_OK : zm_last_status();
  for (int i = 0; i < (int)code->count && status == ZM_OK; i++) {
    if (i == tail) r.tail = tail;
    status = step(&r, i);
  }
  zmi_free(r.d.map);
  return status == ZM_OK ? zmi_code_finish(w->c) : status;
}
