// Composition: one code from several that are elementwise; one of them may be of rows (fuse_rows.c). A result that another piece reads is
// rounded to its dtype in between, as if it had been stored, so that no bit changes; whether it is stored too is up to the caller.
#include "kernel/fuse.h"

#include <string.h>

zm_status zmi_fuse_wrong(int piece, const char *what) {
  return zmi_fail(ZM_ERROR_ARGUMENT, "fusing kernels: piece %d: %s", piece, what);
}

int zmi_fuse_reread(zmi_code *c, int v, zm_dtype dtype) {
  static const struct {
    zm_dtype dtype;
    int bits;
  } narrow[] = {{ZM_I8, 24}, {ZM_I16, 16}, {ZM_U8, 24}, {ZM_U16, 16}};
  if (dtype == ZM_F16 || dtype == ZM_BF16) return zmi_code_op(c, dtype == ZM_F16 ? ZMI_K_ROUND_F16 : ZMI_K_ROUND_BF16, v, -1, -1);
  for (size_t i = 0; i < ZMI_COUNT(narrow); i++) {
    if (narrow[i].dtype != dtype) continue;
    int bits = zmi_code_const_i(c, zmi_ctype_of(dtype), narrow[i].bits);
    return zmi_code_op(c, ZMI_K_SHR, zmi_code_op(c, ZMI_K_SHL, v, bits, -1), bits, -1);
  }
  return v;
}

static zm_status add_operand(zmi_whole *w, zmi_derive *d, const zmi_piece *p, int piece, int i) {
  const zmi_inst *x = &d->from->insts[i];
  int from = p->in[x->index];
  if (from >= 0) {
    if (from >= w->c->nin || w->c->in[from] != d->from->in[x->index])
      return zmi_fuse_wrong(piece, "an operand is not of the dtype that it was made for");
    d->map[i] = zmi_code_leaf(w->c, ZMI_K_INPUT, x->type, from, 0);
  } else {
    if (~from >= ZMI_FUSE_VALUES || w->values[~from].at < 0) return zmi_fuse_wrong(piece, "it reads a value that no earlier piece makes");
    if (w->values[~from].dtype != d->from->in[x->index]) return zmi_fuse_wrong(piece, "a value is not of the dtype that it was made for");
    d->map[i] = w->values[~from].at;
  }
  return d->map[i] < 0 ? zm_last_status() : ZM_OK;
}

static zm_status add_piece(zmi_whole *w, const zmi_piece *p, int piece) {
  const zmi_code *code = p->code;
  if (code->form != ZMI_FORM_ELEMENTS) return zmi_fuse_wrong(piece, "it is not elementwise");
  zmi_derive d = {.from = code, .to = w->c, .map = zmi_malloc((code->count ? code->count : 1) * sizeof(int))};
  if (!d.map) return zm_last_status();
  zm_status status = ZM_OK;
  for (int i = 0; i < (int)code->count && status == ZM_OK; i++) {
    const zmi_inst *x = &code->insts[i];
    if (x->op == ZMI_K_INPUT) {
      status = add_operand(w, &d, p, piece, i);
    } else if (x->op == ZMI_K_PARAM) {
      d.map[i] = zmi_code_leaf(w->c, ZMI_K_PARAM, x->type, x->index + w->c->nparams, 0);
    } else if (x->op != ZMI_K_OUTPUT) {
      zmi_derive_copy(&d, i);
    } else if (p->out[x->index] < 0 || p->out[x->index] >= ZMI_FUSE_VALUES) {
      status = zmi_fuse_wrong(piece, "the number of a value is out of range");
      continue;
    } else {
      d.map[i] = zmi_fuse_reread(w->c, d.map[x->a], code->out[x->index]);
      w->values[p->out[x->index]] = (zmi_fuse_value){d.map[i], piece, code->out[x->index]};
    }
    if (status == ZM_OK && d.map[i] < 0) status = zm_last_status();
  }
  w->c->nparams += code->nparams;
  zmi_free(d.map);
  return status;
}

static zm_status compose(zmi_whole *w, const zmi_piece *pieces, int count, const int *results, int nout) {
  for (int v = 0; v < ZMI_FUSE_VALUES; v++) w->values[v].at = w->values[v].piece = -1;
  for (int p = 0; p < count; p++) {
    if (pieces[p].code->form == ZMI_FORM_ROWS) return zmi_fuse_rows(w, pieces, count, p, results, nout);
  }
  for (int p = 0; p < count; p++) {
    if (add_piece(w, &pieces[p], p) != ZM_OK) return zm_last_status();
  }
  for (int o = 0; o < nout; o++) {
    if (results[o] < 0 || results[o] >= ZMI_FUSE_VALUES || w->values[results[o]].at < 0)
      return zmi_fuse_wrong(count, "a result is no value of any piece");
    const zmi_fuse_value *v = &w->values[results[o]];
    w->c->out[o] = v->dtype;
    zmi_inst x = {.op = ZMI_K_OUTPUT, .a = v->at, .b = -1, .c = -1, .index = o};
    if (zmi_code_emit(w->c, &x) < 0) return zm_last_status();
  }
  return zmi_code_finish(w->c);
}

zmi_code *zmi_code_compose(const zmi_piece *pieces, int count, int nin, const zm_dtype *in, const int *results, int nout) {
  if (nin < 0 || nin > ZMI_CODE_MAX || nout < 1 || nout > ZMI_CODE_MAX) {
    zmi_fail(ZM_ERROR_LIMIT, "fusing kernels: %d operands and %d results: at most %d each", nin, nout, ZMI_CODE_MAX);
    return NULL;
  }
  int form = ZMI_FORM_ELEMENTS;
  for (int p = 0; p < count; p++) form = pieces[p].code->form == ZMI_FORM_ROWS ? ZMI_FORM_ROWS : form;
  zmi_whole w = {zmi_code_new(form, "fused"), zmi_malloc(ZMI_FUSE_VALUES * sizeof(zmi_fuse_value))};
  zm_status status = w.c && w.values ? ZM_OK : zm_last_status();
  if (status == ZM_OK) {
    w.c->nin = nin, w.c->nout = nout;
    memcpy(w.c->in, in, (size_t)nin * sizeof *in);
    status = compose(&w, pieces, count, results, nout);
  }
  zmi_free(w.values);
  if (status == ZM_OK) return w.c;
  zmi_code_free(w.c);
  return NULL;
}
