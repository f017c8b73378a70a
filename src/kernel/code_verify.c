// The verifier and the printed form of typed code.
#include "kernel/code_build.h"

#include <stdio.h>
#include <string.h>

typedef struct checker {
  const zmi_code *c;
  bool *visible; // values that may be read here
  struct {
    int32_t at;
    bool parted; // has had its ELSE or JOIN
  } open[ZMI_CODE_DEPTH];
  int depth;
  int written[ZMI_CODE_MAX]; // OUTPUTs of each result
  int elements, falling;     // inside ELEMENTS: 1 + its place; whether it falls
} checker;

static zm_status broken(const checker *k, size_t i, const char *what) {
  const zmi_inst *x = &k->c->insts[i];
  return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: instruction %%%zu (%s): %s", k->c->name, i, zmi_cop_rows[x->op].name, what);
}

static bool is_reduction(zmi_cop op) {
  return op >= ZMI_K_SUM && op <= ZMI_K_ARGMIN;
}

static bool is_whole(zmi_ctype t) {
  return t == ZMI_C_INT || t == ZMI_C_LONG;
}

static void hide(checker *k, size_t end, bool reductions_stay) { // what was made in the innermost block
  for (size_t i = (size_t)k->open[k->depth - 1].at + 1; i < end; i++) {
    k->visible[i] = k->visible[i] && reductions_stay && is_reduction(k->c->insts[i].op);
  }
}

static zm_status check_block(checker *k, size_t i) {
  const zmi_inst *x = &k->c->insts[i];
  zmi_cop op = x->op, opener = k->depth ? k->c->insts[k->open[k->depth - 1].at].op : ZMI_K_COUNT;
  if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELEMENTS) {
    if (k->depth == ZMI_CODE_DEPTH) return broken(k, i, "blocks nest too deep");
    if (op == ZMI_K_ELEMENTS) {
      if (k->c->form != ZMI_FORM_ROWS || k->depth) return broken(k, i, "only at the outermost level of rows");
      k->elements = 1;
      k->falling = x->extra;
    }
    if (op == ZMI_K_FOR) {
      for (int o = 0; o < 3; o++) {
        if (k->c->insts[o == 0 ? x->a : o == 1 ? x->b : x->c].type != ZMI_C_INT) return broken(k, i, "bounds are of int");
      }
    }
    if (op == ZMI_K_IF && k->c->insts[x->a].type != ZMI_C_BOOL) return broken(k, i, "its condition is no bool");
    k->open[k->depth].at = (int32_t)i;
    k->open[k->depth++].parted = false;
    return ZM_OK;
  }
  if (!k->depth) return broken(k, i, "no block is open");
  if (op == ZMI_K_END) {
    hide(k, i, opener == ZMI_K_ELEMENTS);
    k->depth--;
    if (opener == ZMI_K_ELEMENTS) k->elements = k->falling = 0;
    return ZM_OK;
  }
  if (opener != (op == ZMI_K_ELSE ? ZMI_K_IF : ZMI_K_ELEMENTS) || k->open[k->depth - 1].parted)
    return broken(k, i, "stands in no such block");
  k->open[k->depth - 1].parted = true;
  if (op == ZMI_K_ELSE) {
    hide(k, i, false);
    return ZM_OK;
  }
  for (size_t v = (size_t)k->open[k->depth - 1].at + 1; v < i; v++) k->visible[v] = false; // values of places are not those of lanes
  return ZM_OK;
}

static zm_status check_output(checker *k, size_t i) {
  const zmi_inst *x = &k->c->insts[i];
  if (k->c->form >= ZMI_FORM_TILES) return broken(k, i, "tiles store their results");
  if (x->index < 0 || x->index >= k->c->nout) return broken(k, i, "there is no such result");
  if (zmi_ctype_of(k->c->out[x->index]) != k->c->insts[x->a].type) return broken(k, i, "the value is not of the result's type");
  if (k->depth != (k->elements ? 1 : 0)) return broken(k, i, "results are given outside of branches and loops");
  if (k->c->form == ZMI_FORM_ROWS && k->c->per_row[x->index] != !k->elements) return broken(k, i, "per element and per row do not agree");
  if (k->written[x->index]++) return broken(k, i, "this result was given before");
  return ZM_OK;
}

static zm_status check_variable(checker *k, size_t i) {
  const zmi_inst *x = &k->c->insts[i];
  bool shared = x->op == ZMI_K_SHARED_LOAD || x->op == ZMI_K_SHARED_STORE;
  if (x->index < 0 || (size_t)x->index >= i || !k->visible[x->index]) return broken(k, i, "its variable is not seen here");
  const zmi_inst *v = &k->c->insts[x->index];
  if (v->op != (shared ? ZMI_K_SHARED : ZMI_K_VAR)) return broken(k, i, "its variable is none");
  zmi_ctype t = x->op == ZMI_K_SET ? k->c->insts[x->a].type : x->op == ZMI_K_SHARED_STORE ? k->c->insts[x->b].type : x->type;
  return t == v->type ? ZM_OK : broken(k, i, "not of the variable's type");
}

static zm_status check_rows(checker *k, size_t i) {
  const zmi_inst *x = &k->c->insts[i];
  bool rows = k->c->form == ZMI_FORM_ROWS;
  if (is_reduction(x->op) || x->op == ZMI_K_SCAN_SUM) {
    if (!k->elements || k->depth != 1 || k->open[0].parted) return broken(k, i, "reductions stand directly in a block of elements");
    if (k->falling) return broken(k, i, "not where places fall");
    zmi_ctype t = k->c->insts[x->a].type, want = x->op == ZMI_K_ARGMAX || x->op == ZMI_K_ARGMIN ? ZMI_C_INT : t;
    if (t <= ZMI_C_BOOL || x->type != want) return broken(k, i, "not of its operand's type");
    if (x->op == ZMI_K_SUMSQ && t != ZMI_C_FLOAT) return broken(k, i, "of floats only");
  }
  if (x->op == ZMI_K_PLACE && rows && !k->elements) return broken(k, i, "there is a place only in a block of elements");
  if (x->op == ZMI_K_INPUT && (x->index < 0 || x->index >= k->c->nin)) return broken(k, i, "there is no such operand");
  if (x->op == ZMI_K_INPUT && rows && !k->elements && !k->c->in_per_row[x->index])
    return broken(k, i, "elements are read in blocks of elements");
  if (x->op == ZMI_K_INPUT && zmi_ctype_of(k->c->in[x->index]) != x->type) return broken(k, i, "not of its operand's type");
  if (x->op == ZMI_K_LENGTH && !rows) return broken(k, i, "only rows have a length");
  if (x->op == ZMI_K_PARAM && (x->index < 0 || x->index >= k->c->nparams)) return broken(k, i, "there is no such parameter");
  return ZM_OK;
}

static zm_status check_memory(checker *k, size_t i) {
  const zmi_inst *x = &k->c->insts[i];
  bool result = x->op == ZMI_K_STORE || x->op == ZMI_K_ATOMIC_ADD;
  if (k->c->form != ZMI_FORM_TILES) return broken(k, i, "only in tiles");
  if (x->op == ZMI_K_BARRIER || x->op == ZMI_K_SHARED) return ZM_OK;
  if (zmi_cop_rows[x->op].kind == 'P') {
    return x->op != ZMI_K_DIM || (x->index >= 0 && x->index < k->c->nin) ? ZM_OK : broken(k, i, "there is no such operand");
  }
  if (!is_whole(k->c->insts[x->a].type)) return broken(k, i, "a place is of int or long");
  if (x->op == ZMI_K_SHARED_LOAD || x->op == ZMI_K_SHARED_STORE) return ZM_OK;
  if (x->index < 0 || x->index >= (result ? k->c->nout : k->c->nin)) return broken(k, i, "there is no such buffer");
  zmi_ctype memory = zmi_ctype_of(result ? k->c->out[x->index] : k->c->in[x->index]), t = result ? k->c->insts[x->b].type : x->type;
  return memory == t ? ZM_OK : broken(k, i, "not of the buffer's type");
}

static zm_status check_inst(checker *k, size_t i) {
  const zmi_inst *x = &k->c->insts[i];
  if ((unsigned)x->op >= ZMI_K_COUNT) return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: instruction %%%zu is unknown", k->c->name, i);
  const int32_t operands[] = {x->a, x->b, x->c};
  for (int o = 0; o < 3; o++) {
    bool used = o < zmi_cop_rows[x->op].operands;
    if (used && (operands[o] < 0 || (size_t)operands[o] >= i || !k->visible[operands[o]]))
      return broken(k, i, "an operand is not seen here");
    if (used && k->c->insts[operands[o]].type == ZMI_C_NONE) return broken(k, i, "an operand has no value");
  }
  zmi_ctype type;
  if (zmi_inst_type(k->c, x, &type) != ZM_OK) return zm_last_status();
  if (type != x->type) return broken(k, i, "its type is not that of its operands");
  if (check_rows(k, i) != ZM_OK) return zm_last_status();
  switch ((int)x->op) {
  case ZMI_K_FOR:
  case ZMI_K_IF:
  case ZMI_K_ELEMENTS:
  case ZMI_K_ELSE:
  case ZMI_K_JOIN:
  case ZMI_K_END:
    return check_block(k, i);
  case ZMI_K_OUTPUT:
    return check_output(k, i);
  case ZMI_K_GET_RIGHT:
    if (!k->elements || !k->open[0].parted) return broken(k, i, "only where lanes are joined");
    return check_variable(k, i);
  case ZMI_K_GET:
  case ZMI_K_SET:
    return check_variable(k, i);
  case ZMI_K_SHARED_LOAD:
  case ZMI_K_SHARED_STORE:
    return check_variable(k, i) == ZM_OK ? check_memory(k, i) : zm_last_status();
  case ZMI_K_LOAD:
  case ZMI_K_STORE:
  case ZMI_K_ATOMIC_ADD:
  case ZMI_K_SHARED:
  case ZMI_K_BARRIER:
  case ZMI_K_THREAD:
  case ZMI_K_GROUP:
  case ZMI_K_THREADS:
  case ZMI_K_GROUPS:
  case ZMI_K_DIM:
    return check_memory(k, i);
  default:
    return ZM_OK;
  }
}

zm_status zmi_code_verify(const zmi_code *c) {
  if (c->nin < 0 || c->nin > ZMI_CODE_MAX || c->nout < 0 || c->nout > ZMI_CODE_MAX) {
    return zmi_fail(ZM_ERROR_LIMIT, "kernel %s: %d operands and %d results, at most %d each", c->name, c->nin, c->nout, ZMI_CODE_MAX);
  }
  checker k = {.c = c, .visible = zmi_calloc(c->count ? c->count : 1, sizeof(bool))};
  if (!k.visible) return zm_last_status();
  zm_status status = ZM_OK;
  for (size_t i = 0; i < c->count && status == ZM_OK; i++) {
    k.visible[i] = true;
    status = check_inst(&k, i);
  }
  if (status == ZM_OK && k.depth) status = zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: a block is not closed", c->name);
  for (int o = 0; o < c->nout && status == ZM_OK && c->form < ZMI_FORM_TILES; o++) {
    if (!k.written[o]) status = zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: result %d is never given", c->name, o);
  }
  zmi_free(k.visible);
  return status;
}

// ---- printing ----
static void print_name(zmi_text *out, zmi_cop op) {
  char name[16] = "";
  const char *from = zmi_cop_rows[op].name;
  for (size_t i = 0; i + 1 < sizeof name && from[i]; i++) name[i] = (char)(from[i] >= 'A' && from[i] <= 'Z' ? from[i] + 32 : from[i]);
  zmi_text_add(out, "%s", name);
}

static void print_inst(const zmi_code *c, size_t i, zmi_text *out) {
  const zmi_inst *x = &c->insts[i];
  const int32_t operands[] = {x->a, x->b, x->c};
  if (x->type != ZMI_C_NONE) zmi_text_add(out, "%%%zu = ", i);
  print_name(out, x->op);
  if (x->type != ZMI_C_NONE) zmi_text_add(out, " %s", zmi_ctype_name(x->type));
  if (x->op == ZMI_K_CONST && x->type == ZMI_C_FLOAT) {
    char number[32];
    snprintf(number, sizeof number, "%.9g", (double)x->imm.f);
    char *comma = strchr(number, ','); // the host program's locale may write one
    if (comma) *comma = '.';
    zmi_text_add(out, " %s", number);
  }
  if (x->op == ZMI_K_CONST && x->type != ZMI_C_FLOAT) zmi_text_add(out, x->type == ZMI_C_ULONG ? " %llu" : " %lld", (long long)x->imm.i);
  switch ((int)x->op) {
  case ZMI_K_GET:
  case ZMI_K_SET:
  case ZMI_K_GET_RIGHT:
  case ZMI_K_SHARED_LOAD:
  case ZMI_K_SHARED_STORE:
    zmi_text_add(out, " %%%d", (int)x->index);
    break;
  case ZMI_K_INPUT:
  case ZMI_K_PARAM:
  case ZMI_K_LOAD:
  case ZMI_K_STORE:
  case ZMI_K_ATOMIC_ADD:
  case ZMI_K_OUTPUT:
    zmi_text_add(out, " #%d", (int)x->index);
    break;
  case ZMI_K_DIM:
    zmi_text_add(out, " #%d.%d", (int)x->index, (int)x->extra);
    break;
  case ZMI_K_SHARED:
    zmi_text_add(out, x->index == 1 ? " [%d] of a thread" : " [%d]", (int)x->extra);
    break;
  case ZMI_K_ELEMENTS:
    zmi_text_add(out, "%s", x->extra ? " falling" : "");
    break;
  default:
    break;
  }
  for (int o = 0; o < zmi_cop_rows[x->op].operands; o++) zmi_text_add(out, "%s%%%d", o ? ", " : " ", (int)operands[o]);
  zmi_text_add(out, "\n");
}

zm_status zmi_code_print(const zmi_code *c, zmi_text *out) {
  static const char *const forms[] = {"elements", "rows", "tiles", "raw"};
  zmi_text_add(out, "%s %s(", forms[c->form], c->name);
  for (int i = 0; i < c->nin; i++) zmi_text_add(out, "%s%s%s", i ? ", " : "", zm_dtype_name(c->in[i]), c->in_per_row[i] ? " per row" : "");
  zmi_text_add(out, ") -> (");
  for (int i = 0; i < c->nout; i++) zmi_text_add(out, "%s%s%s", i ? ", " : "", zm_dtype_name(c->out[i]), c->per_row[i] ? " per row" : "");
  zmi_text_add(out, ")\n");
  int depth = 1;
  for (size_t i = 0; i < c->count; i++) {
    zmi_cop op = c->insts[i].op;
    if (op == ZMI_K_END || op == ZMI_K_ELSE || op == ZMI_K_JOIN) depth--;
    for (int d = 0; d < depth; d++) zmi_text_add(out, "  ");
    print_inst(c, i, out);
    if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELEMENTS || op == ZMI_K_ELSE || op == ZMI_K_JOIN) depth++;
  }
  return out->failed ? zmi_fail(ZM_ERROR_MEMORY, "kernel %s: out of memory while printing", c->name) : ZM_OK;
}
