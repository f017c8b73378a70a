// Forward mode: values with their tangents, block by block. Loops and branches are copied, and each variable gets one for its tangent.
#include "kernel/derive.h"

static const zmi_inst *at(const zmi_derive *d, int i) {
  return &d->from->insts[i];
}

static int emit(zmi_derive *d, zmi_cop op, zmi_ctype type, int a, int index) {
  return zmi_code_emit(d->to, &(zmi_inst){.op = op, .type = type, .a = a, .b = -1, .c = -1, .index = index});
}

static int number(zmi_derive *d, float v) {
  return zmi_code_const_f(d->to, v);
}

static bool is_reduction(zmi_cop op) {
  return op >= ZMI_K_SUM && op <= ZMI_K_ARGMIN;
}

static bool is_extreme(zmi_cop op) { // or a product: its rule needs the result first
  return op == ZMI_K_MAXIMUM || op == ZMI_K_MINIMUM || op == ZMI_K_PROD;
}

int zmi_derive_block_end(const zmi_derive *d, int block) {
  int depth = 0;
  for (int i = block;; i++) {
    zmi_cop op = at(d, i)->op;
    if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELEMENTS) depth++;
    if (op == ZMI_K_END && --depth == 0) return i;
  }
}

// ---- once more ----
int zmi_derive_trace(zmi_derive *d, int i) {
  const bool operand = !d->finding;
  return zmi_code_leaf(d->to, operand ? ZMI_K_INPUT : ZMI_K_PARAM, at(d, i)->type,
                       (operand ? d->first_trace : ZMI_POISON + 1) + d->trace[i], 0);
}

// A value that cannot be computed again: from its trace, else a parameter that there is not, found again when it is still needed.
static int given_value(zmi_derive *d, int i) {
  if (d->traced && d->trace[i] >= 0) return zmi_derive_trace(d, i);
  return zmi_code_leaf(d->to, ZMI_K_PARAM, at(d, i)->type, ZMI_POISON, 0);
}

// Whether a block of elements sets the variable.
static bool is_serial(const zmi_derive *d, int var) {
  for (int i = var + 1; i < (int)d->from->count; i++) {
    if (at(d, i)->op == ZMI_K_SET && at(d, i)->index == var && d->around[i] >= 0) return true;
  }
  return false;
}

int zmi_derive_traces(zmi_derive *d) {
  int count = 0;
  for (int i = 0; i < (int)d->from->count; i++) {
    const zmi_inst *x = at(d, i);
    int block = d->around[i];
    if (x->op == ZMI_K_JOIN) i = zmi_derive_block_end(d, block), x = at(d, i); // what lanes were is not asked for there
    bool get = x->op == ZMI_K_GET && block >= 0 && x->index < block;
    bool after = x->op == ZMI_K_GET && block < 0 && is_serial(d, x->index); // else the block would be run once more, the other way
    if (x->op != ZMI_K_SCAN_SUM && !get && !after) continue;
    for (int j = block + 1; j < i && get && d->trace[i] < 0; j++) { // read before at this place
      if (at(d, j)->op == ZMI_K_GET && at(d, j)->index == x->index) d->trace[i] = d->trace[j];
    }
    if (d->trace[i] < 0) d->trace[i] = count++;
  }
  if (!d->needed) return count;
  int kept = 0;
  for (int n = 0; n < count; n++) {
    const int now = d->needed[n] ? kept++ : -1;
    for (int i = 0; i < (int)d->from->count && now != n; i++) {
      if (d->trace[i] == n) d->trace[i] = now;
    }
  }
  return kept;
}

zm_dtype zmi_derive_dtype(zmi_ctype type) {
  static const zm_dtype dtypes[ZMI_C_COUNT] = {ZM_F32, ZM_BOOL, ZM_I32, ZM_U32, ZM_I64, ZM_U64, ZM_F32};
  return dtypes[type];
}

zm_status zmi_derive_replay(zmi_derive *d, int block) {
  int end = zmi_derive_block_end(d, block);
  for (int i = block + 1; i < end; i++) {
    const zmi_inst *x = at(d, i);
    if (x->op == ZMI_K_JOIN) break;
    if (is_reduction(x->op) || x->op == ZMI_K_OUTPUT) continue;
    bool outside = (x->op == ZMI_K_SET || x->op == ZMI_K_GET) && x->index < block;
    if (x->op == ZMI_K_SET && outside) continue;
    int v = outside || (x->op == ZMI_K_SCAN_SUM && d->scans_fall) ? given_value(d, i) : zmi_derive_copy(d, i);
    d->map[i] = v;
    if (v < 0) return zm_last_status();
  }
  return ZM_OK;
}

zm_status zmi_derive_aux(zmi_derive *d, int reduction) {
  const zmi_inst *x = at(d, reduction);
  if (d->count[reduction] >= 0 || !is_extreme(x->op)) return ZM_OK;
  if (emit(d, ZMI_K_ELEMENTS, ZMI_C_NONE, -1, 0) < 0 || zmi_derive_replay(d, d->around[reduction]) != ZM_OK) return zm_last_status();
  bool product = x->op == ZMI_K_PROD;
  int a = d->map[x->a], hit = zmi_code_op(d->to, ZMI_K_EQ, a, product ? number(d, 0) : d->map[reduction], -1);
  int hits = emit(d, ZMI_K_SUM, ZMI_C_FLOAT, zmi_code_op(d->to, ZMI_K_SELECT, hit, number(d, 1), number(d, 0)), 0), rest = 0;
  if (product) {
    rest = emit(d, ZMI_K_PROD, ZMI_C_FLOAT, zmi_code_op(d->to, ZMI_K_SELECT, hit, number(d, 1), a), 0);
    int zeros = zmi_code_op(d->to, ZMI_K_SELECT, hit, a, number(d, 0));
    if ((d->zeros[reduction] = emit(d, ZMI_K_SUM, ZMI_C_FLOAT, zeros, 0)) < 0) return zm_last_status();
  }
  if (hits < 0 || rest < 0 || emit(d, ZMI_K_END, ZMI_C_NONE, -1, 0) < 0) return zm_last_status();
  if (!product) { // shares of a place that is the extreme and of one that is not: 0, or NaN if there is none
    rest = zmi_code_op(d->to, ZMI_K_DIV, number(d, 0), hits, -1);
    hits = zmi_code_op(d->to, ZMI_K_DIV, number(d, 1), hits, -1);
  }
  d->count[reduction] = hits;
  d->rest[reduction] = rest;
  return hits < 0 || rest < 0 ? zm_last_status() : ZM_OK;
}

zmi_factor zmi_derive_share(zmi_derive *d, int reduction) {
  const zmi_inst *x = at(d, reduction);
  int a = d->map[x->a], count = d->count[reduction], rest = d->rest[reduction], y = d->map[reduction];
  if (x->op == ZMI_K_SUM) return (zmi_factor){ZMI_F_ONE, -1};
  if (x->op == ZMI_K_SUMSQ) return (zmi_factor){ZMI_F_TIMES, zmi_code_op(d->to, ZMI_K_ADD, a, a, -1)};
  if (!is_extreme(x->op)) return (zmi_factor){ZMI_F_NONE, -1};
  if (x->op != ZMI_K_PROD) {
    int hit = zmi_code_op(d->to, ZMI_K_EQ, a, y, -1);
    return (zmi_factor){ZMI_F_TIMES, zmi_code_op(d->to, ZMI_K_SELECT, hit, count, rest)};
  }
  // The product of the others: without zeros y / a; for the one zero that of the rest. With one zero among the others it is that zero times
  // the rest: 0, but with a slope. `zeros` is the sum of the places that are zero, which is that one or, of two, that one and this.
  zmi_code *c = d->to;
  int nothing = number(d, 0), zero = zmi_code_op(c, ZMI_K_EQ, a, nothing, -1), none = zmi_code_op(c, ZMI_K_EQ, count, nothing, -1);
  int one = zmi_code_op(c, ZMI_K_EQ, count, number(d, 1), -1), two = zmi_code_op(c, ZMI_K_EQ, count, number(d, 2), -1);
  int other = zmi_code_op(c, ZMI_K_SUB, d->zeros[reduction], a, -1);
  int of_zero =
      zmi_code_op(c, ZMI_K_SELECT, one, rest, zmi_code_op(c, ZMI_K_SELECT, two, zmi_code_op(c, ZMI_K_MUL, rest, other, -1), nothing));
  int apart = zmi_code_op(c, ZMI_K_MUL, zmi_code_op(c, ZMI_K_DIV, rest, a, -1), d->zeros[reduction], -1);
  int of_other = zmi_code_op(c, ZMI_K_SELECT, one, apart, nothing);
  int others = zmi_code_op(c, ZMI_K_ADD, zmi_code_op(c, ZMI_K_SELECT, zero, of_zero, of_other), nothing, -1); // no negative zero
  return (zmi_factor){ZMI_F_TIMES, zmi_code_op(c, ZMI_K_SELECT, none, zmi_code_op(c, ZMI_K_DIV, y, a, -1), others)};
}

// ---- tangents ----
static int seed_of(zmi_derive *d, int i) {
  const zmi_inst *x = at(d, i);
  if (d->leaf != ZMI_NO_LEAF) return i == d->leaf ? number(d, 1) : -1;
  int operand = x->type == ZMI_C_FLOAT ? d->seed[x->index] : -1;
  return operand < 0 ? -1 : zmi_code_leaf(d->to, ZMI_K_INPUT, ZMI_C_FLOAT, operand, 0);
}

static int variable_tangent(zmi_derive *d, int i) {
  const zmi_inst *x = at(d, i);
  int t = x->op == ZMI_K_VAR || x->op == ZMI_K_SET ? d->tangent[x->a] : -1;
  if (x->op == ZMI_K_VAR) {
    if (t < 0) t = number(d, 0);
    return d->var[i] = emit(d, ZMI_K_VAR, ZMI_C_FLOAT, t, 0);
  }
  int var = d->var[x->index];
  if (x->op == ZMI_K_SET) return emit(d, ZMI_K_SET, ZMI_C_NONE, t < 0 ? number(d, 0) : t, var);
  return d->tangent[i] = emit(d, x->op, ZMI_C_FLOAT, -1, var);
}

static int inst_tangent(zmi_derive *d, int i) { // -1 also where it is zero
  const zmi_inst *x = at(d, i);
  int total = -1;
  if (x->op == ZMI_K_INPUT) return seed_of(d, i);
  if (x->op == ZMI_K_SUM || x->op == ZMI_K_SCAN_SUM) return d->tangent[x->a] < 0 ? -1 : emit(d, x->op, ZMI_C_FLOAT, d->tangent[x->a], 0);
  if (x->op == ZMI_K_SUMSQ) {
    int part = zmi_derive_apply(d, zmi_derive_share(d, i), d->tangent[x->a]);
    return part < 0 ? -1 : emit(d, ZMI_K_SUM, ZMI_C_FLOAT, part, 0);
  }
  if (x->op == ZMI_K_SELECT) { // one selection, not two
    int b = d->tangent[x->b], c = d->tangent[x->c];
    if (b < 0 && c < 0) return -1;
    return zmi_code_op(d->to, ZMI_K_SELECT, d->map[x->a], b < 0 ? number(d, 0) : b, c < 0 ? number(d, 0) : c);
  }
  for (int k = 0; k < 3; k++) {
    int v = zmi_inst_operand(x, k);
    if (v < 0 || d->tangent[v] < 0) continue;
    total = zmi_derive_sum(d, total, zmi_derive_apply(d, zmi_derive_factor(d, i, k), d->tangent[v]));
  }
  return total;
}

// Tangents of reductions of extremes, in blocks of their own after the one that they stand in.
static zm_status late_reductions(zmi_derive *d, int block, int end) {
  for (int r = block + 1; r < end; r++) {
    const zmi_inst *x = at(d, r);
    if (!is_extreme(x->op) || !d->active[r]) continue;
    if (zmi_derive_aux(d, r) != ZM_OK || emit(d, ZMI_K_ELEMENTS, ZMI_C_NONE, -1, 0) < 0) return zm_last_status();
    for (int i = block + 1; i < end; i++) {
      if (at(d, i)->op == ZMI_K_SET && at(d, i)->index < block) {
        return zmi_fail(ZM_ERROR_UNSUPPORTED,
                        "kernel %s: no derivative of a largest, smallest or product in a block whose places run one after another",
                        d->from->name);
      }
    }
    if (zmi_derive_forward(d, block + 1, end, false) != ZM_OK) return zm_last_status();
    int part = zmi_derive_apply(d, zmi_derive_share(d, r), d->tangent[x->a]);
    int sum = emit(d, ZMI_K_SUM, ZMI_C_FLOAT, part < 0 ? number(d, 0) : part, 0);
    if (sum < 0 || emit(d, ZMI_K_END, ZMI_C_NONE, -1, 0) < 0) return zm_last_status();
    d->tangent[r] = sum;
  }
  return ZM_OK;
}

static zm_status forward_output(zmi_derive *d, const zmi_inst *x) {
  int t = d->tangent[x->a];
  zmi_ctype type = zmi_ctype_of(d->from->out[x->index]);
  if (t < 0 || type != ZMI_C_FLOAT) t = zmi_code_const_i(d->to, type, 0);
  return emit(d, ZMI_K_OUTPUT, ZMI_C_NONE, t, x->index) < 0 ? zm_last_status() : ZM_OK;
}

zm_status zmi_derive_forward(zmi_derive *d, int from, int to, bool outputs) {
  int block = -1, depth = 0;
  for (int i = from; i < to; i++) {
    const zmi_inst *x = at(d, i);
    if (x->op == ZMI_K_OUTPUT) {
      if (outputs && forward_output(d, x) != ZM_OK) return zm_last_status();
      continue;
    }
    if (!outputs && is_reduction(x->op)) continue;
    if (d->inside >= 0 && x->index < d->inside && (x->op == ZMI_K_GET || x->op == ZMI_K_SET)) {
      if (x->op == ZMI_K_GET && (d->map[i] = given_value(d, i)) < 0) return zm_last_status();
      d->tangent[i] = d->leaf == i ? number(d, 1) : -1;
      continue;
    }
    if (x->op == ZMI_K_ELEMENTS) block = i, depth = 0;
    depth += x->op == ZMI_K_FOR || x->op == ZMI_K_IF || x->op == ZMI_K_ELEMENTS;
    if (zmi_derive_copy(d, i) < 0) return zm_last_status();
    if (x->op == ZMI_K_END && --depth == 0 && block >= 0) {
      if (late_reductions(d, block, i) != ZM_OK) return zm_last_status();
      block = -1;
    }
    d->tangent[i] = -1;
    bool variable = x->op == ZMI_K_VAR || x->op == ZMI_K_SET || x->op == ZMI_K_GET || x->op == ZMI_K_GET_RIGHT;
    if (variable && d->active[x->op == ZMI_K_VAR ? i : x->index]) {
      if (variable_tangent(d, i) < 0) return zm_last_status();
    } else if (!variable && d->active[i] && !is_extreme(x->op)) {
      d->tangent[i] = inst_tangent(d, i);
    }
  }
  return ZM_OK;
}

zm_status zmi_derive_add_operand(zmi_derive *d, zm_dtype dtype, bool per_row, int *number_of) {
  zmi_code *c = d->to;
  if (c->nin == ZMI_CODE_MAX)
    return zmi_fail(ZM_ERROR_LIMIT, "kernel %s: its derivative has more than %d operands", d->from->name, ZMI_CODE_MAX);
  c->in[c->nin] = dtype;
  c->in_per_row[c->nin] = per_row;
  *number_of = c->nin++;
  return ZM_OK;
}

zm_status zmi_derive_operands(zmi_derive *d) {
  for (int i = 0, n; i < d->from->nin; i++) {
    if (zmi_derive_add_operand(d, d->from->in[i], d->from->in_per_row[i], &n) != ZM_OK) return zm_last_status();
  }
  return d->from->form < ZMI_FORM_TILES
             ? ZM_OK
             : zmi_fail(ZM_ERROR_UNSUPPORTED, "kernel %s: tiles and raw source have no symbolic derivative: give `vjp`", d->from->name);
}

static zm_status jvp(zmi_derive *d, const zmi_code *code, const bool *wanted) {
  zmi_code *c = d->to;
  if (zmi_derive_operands(d) != ZM_OK) return zm_last_status();
  for (int i = 0; i < code->nin; i++) {
    if (wanted[i] && zmi_derive_add_operand(d, code->in[i], code->in_per_row[i], &d->seed[i]) != ZM_OK) return zm_last_status();
  }
  c->nout = code->nout;
  for (int o = 0; o < code->nout; o++) c->out[o] = code->out[o], c->per_row[o] = code->per_row[o];
  if (zmi_derive_forward(d, 0, (int)code->count, true) != ZM_OK) return zm_last_status();
  return zmi_code_finish(c);
}

zmi_code *zmi_code_jvp(const zmi_code *code, const bool *wanted) {
  zmi_derive d;
  zm_status status = zmi_derive_start(&d, code, "_jvp", wanted);
  if (status == ZM_OK) status = jvp(&d, code, wanted);
  zmi_derive_end(&d);
  if (status == ZM_OK) return d.to;
  zmi_code_free(d.to);
  return NULL;
}
