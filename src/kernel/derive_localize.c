// A code made ready for reverse mode: the same values, but each loop and branch works on variables of its own, and each serial block reads
// a variable of outside once, at its beginning, and sets it once, at its end. Running sums beside loops become such variables.
#include "kernel/derive.h"

#include <string.h>

typedef struct localizer {
  zmi_derive d;
  int *held;  // of each VAR of outside, in a block without control: its present value in `to`; -1
  int *inner; // of each VAR of outside, where there is control: the VAR that stands for it
  bool *read, *set;
  bool sums_only; // first running sums become variables, then these are like all others
} localizer;

static const zmi_inst *at(const localizer *l, int i) {
  return &l->d.from->insts[i];
}

static int emit(localizer *l, zmi_cop op, zmi_ctype type, int a, int index) {
  return zmi_code_emit(l->d.to, &(zmi_inst){.op = op, .type = type, .a = a, .b = -1, .c = -1, .index = index});
}

static bool opens(zmi_cop op) {
  return op == ZMI_K_FOR || op == ZMI_K_IF;
}

// The variables of before `begin` that [begin, end) uses; whether it has loops or branches.
static bool look(localizer *l, int begin, int end) {
  bool control = false;
  memset(l->read, 0, l->d.from->count * sizeof *l->read);
  memset(l->set, 0, l->d.from->count * sizeof *l->set);
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = at(l, i);
    control |= opens(x->op);
    if ((x->op == ZMI_K_GET || x->op == ZMI_K_GET_RIGHT) && x->index < begin) l->read[x->index] = true;
    if (x->op == ZMI_K_SET && x->index < begin) l->set[x->index] = true;
  }
  return control;
}

static zm_status copy(localizer *l, int from, int to) {
  for (int i = from; i < to; i++) {
    if (zmi_derive_copy(&l->d, i) < 0) return zm_last_status();
  }
  return ZM_OK;
}

// Loops and branches, on variables of their own that start from those of outside and are given back after them.
static zm_status copy_control(localizer *l, int begin, int from, int to) {
  int *map = l->d.map;
  for (int v = 0; v < begin; v++) {
    if (!l->read[v] && !l->set[v]) continue;
    if ((l->held[v] = emit(l, ZMI_K_GET, at(l, v)->type, -1, map[v])) < 0) return zm_last_status();
  }
  for (int v = 0; v < begin; v++) {
    if (!l->read[v] && !l->set[v]) continue;
    l->inner[v] = map[v]; // the one of outside, meanwhile
    if ((map[v] = emit(l, ZMI_K_VAR, at(l, v)->type, l->held[v], 0)) < 0) return zm_last_status();
  }
  if (copy(l, from, to) != ZM_OK) return zm_last_status();
  for (int v = 0; v < begin; v++) {
    if (l->set[v] && (l->held[v] = emit(l, ZMI_K_GET, at(l, v)->type, -1, map[v])) < 0) return zm_last_status();
  }
  for (int v = 0; v < begin; v++) {
    if (!l->read[v] && !l->set[v]) continue;
    map[v] = l->inner[v];
    if (l->set[v] && emit(l, ZMI_K_SET, ZMI_C_NONE, l->held[v], map[v]) < 0) return zm_last_status();
    l->held[v] = -1;
  }
  return ZM_OK;
}

// Statements one after another: variables of outside are values.
static zm_status copy_straight(localizer *l, int begin, int from, int to) {
  for (int v = 0; v < begin; v++) l->held[v] = -1;
  for (int i = from; i < to; i++) {
    const zmi_inst *x = at(l, i);
    bool outside = x->index < begin && (x->op == ZMI_K_GET || x->op == ZMI_K_SET);
    if (outside && x->op == ZMI_K_SET) {
      l->held[x->index] = l->d.map[x->a];
    } else if (outside) {
      if (l->held[x->index] < 0) l->held[x->index] = emit(l, ZMI_K_GET, x->type, -1, l->d.map[x->index]);
      if ((l->d.map[i] = l->held[x->index]) < 0) return zm_last_status();
    } else if (zmi_derive_copy(&l->d, i) < 0) {
      return zm_last_status();
    }
  }
  for (int v = 0; v < begin; v++) {
    if (l->set[v] && l->held[v] >= 0 && emit(l, ZMI_K_SET, ZMI_C_NONE, l->held[v], l->d.map[v]) < 0) return zm_last_status();
    l->held[v] = -1;
  }
  return ZM_OK;
}

static zm_status copy_part(localizer *l, int begin, int from, int to) {
  bool control = look(l, from, to);
  return control ? copy_control(l, begin, from, to) : copy_straight(l, begin, from, to);
}

// A block whose running sums stand beside loops or branches: they become variables.
static zm_status copy_sums(localizer *l, int begin, int end) {
  bool sums = false, joined = false;
  for (int i = begin + 1; i < end; i++) {
    sums |= opens(at(l, i)->op);
    joined |= at(l, i)->op == ZMI_K_JOIN;
  }
  sums = sums && !joined;
  int *var = l->inner;
  for (int i = begin + 1; i < end && sums; i++) {
    if (at(l, i)->op != ZMI_K_SCAN_SUM) continue;
    int zero = zmi_code_const_i(l->d.to, at(l, i)->type, 0);
    if ((var[i] = emit(l, ZMI_K_VAR, at(l, i)->type, zero, 0)) < 0) return zm_last_status();
  }
  for (int i = begin; i <= end; i++) {
    const zmi_inst *x = at(l, i);
    if (!sums || x->op != ZMI_K_SCAN_SUM) {
      if (zmi_derive_copy(&l->d, i) < 0) return zm_last_status();
      continue;
    }
    int value = zmi_code_op(l->d.to, ZMI_K_ADD, emit(l, ZMI_K_GET, x->type, -1, var[i]), l->d.map[x->a], -1);
    if (value < 0 || emit(l, ZMI_K_SET, ZMI_C_NONE, value, var[i]) < 0) return zm_last_status();
    l->d.map[i] = value;
  }
  return ZM_OK;
}

static zm_status copy_block(localizer *l, int begin, int end) {
  int join = begin + 1;
  while (join < end && at(l, join)->op != ZMI_K_JOIN) join++;
  if (zmi_derive_copy(&l->d, begin) < 0 || copy_part(l, begin, begin + 1, join) != ZM_OK) return zm_last_status();
  if (join < end) {
    if (zmi_derive_copy(&l->d, join) < 0) return zm_last_status();
    zm_status status = look(l, join + 1, end) ? copy(l, join + 1, end) : copy_straight(l, begin, join + 1, end);
    if (status != ZM_OK) return status;
  }
  return zmi_derive_copy(&l->d, end) < 0 ? zm_last_status() : ZM_OK;
}

static int end_of(const localizer *l, int begin) {
  return zmi_derive_block_end(&l->d, begin);
}

static zm_status localize(localizer *l) {
  const zmi_code *from = l->d.from;
  zmi_code *to = l->d.to;
  to->nin = from->nin, to->nout = from->nout;
  memcpy(to->in, from->in, sizeof to->in), memcpy(to->in_per_row, from->in_per_row, sizeof to->in_per_row);
  memcpy(to->out, from->out, sizeof to->out), memcpy(to->per_row, from->per_row, sizeof to->per_row);
  for (int i = 0; i < (int)from->count; i++) {
    zmi_cop op = at(l, i)->op;
    if (op == ZMI_K_ELEMENTS) {
      int end = end_of(l, i);
      if ((l->sums_only ? copy_sums(l, i, end) : copy_block(l, i, end)) != ZM_OK) return zm_last_status();
      i = end;
    } else if (opens(op) && !l->sums_only) {
      int end = end_of(l, i);
      look(l, i, end);
      if (copy_control(l, i, i, end + 1) != ZM_OK) return zm_last_status();
      i = end;
    } else if (zmi_derive_copy(&l->d, i) < 0) {
      return zm_last_status();
    }
  }
  return zmi_code_finish(to);
}

static zmi_code *pass(const zmi_code *code, bool sums_only) {
  const bool none[ZMI_CODE_MAX] = {false};
  const size_t n = code->count ? code->count : 1;
  localizer l = {.sums_only = sums_only};
  zm_status status = zmi_derive_start(&l.d, code, "", none);
  l.held = status == ZM_OK ? zmi_malloc(n * sizeof *l.held) : NULL;
  l.inner = l.held ? zmi_calloc(n, sizeof *l.inner) : NULL;
  l.read = l.inner ? zmi_calloc(n, sizeof *l.read) : NULL;
  l.set = l.read ? zmi_calloc(n, sizeof *l.set) : NULL;
  if (l.set) memset(l.held, -1, n * sizeof *l.held);
  status = l.set ? localize(&l) : zm_last_status();
  zmi_derive_end(&l.d);
  zmi_free(l.held), zmi_free(l.inner), zmi_free(l.read), zmi_free(l.set);
  if (status == ZM_OK) return l.d.to;
  zmi_code_free(l.d.to);
  return NULL;
}

zmi_code *zmi_code_localized(const zmi_code *code) {
  zmi_code *sums = pass(code, true), *made = sums ? pass(sums, false) : NULL;
  zmi_code_free(sums);
  return made;
}
