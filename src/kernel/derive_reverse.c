// Reverse mode, over blocks of elements. What a block's places contribute to the cotangents of row values (scalars and reductions of
// earlier blocks) is summed, block by block from the last to the first; element values are computed again. When all row values have
// theirs, one final block goes through all places once more and gives the gradients of the inputs: shared parts are shared there as
// everywhere.
//
// A serial block goes back from the last place to the first, with the cotangents of its variables as variables. That needs values that
// can be computed again at a place: where the accumulators themselves are needed they are operands, made by a code of their own.
//
// Joined lanes go back by derive_lanes.c; loops and branches, between blocks and inside, by the tangents of what they give, for each value
// that they read.
#include "kernel/reverse.h"

#include <string.h>

typedef zmi_reverse reverse;
typedef zmi_reverse_block block;

static const zmi_inst *at(const reverse *r, int i) {
  return zmi_reverse_at(r, i);
}

static int emit(reverse *r, zmi_cop op, zmi_ctype type, int a, int index, int extra) {
  return zmi_reverse_emit(r, op, type, a, index, extra);
}

static void add(reverse *r, int *total, int part) {
  zmi_reverse_add(r, total, part);
}

zm_status zmi_reverse_refuse(const zmi_reverse *r, const char *what) {
  return zmi_fail(ZM_ERROR_UNSUPPORTED, "kernel %s: no gradient of %s: give one by hand", r->from->name, what);
}

static zm_status refuse(const reverse *r, const char *what) {
  return zmi_reverse_refuse(r, what);
}

void zmi_reverse_operands(zmi_reverse *r, int i, int cotangent, int *to) {
  for (int k = 0; k < 3; k++) {
    int v = zmi_inst_operand(at(r, i), k);
    if (v >= 0 && r->d.active[v]) add(r, &to[v], zmi_derive_apply(&r->d, zmi_derive_factor(&r->d, i, k), cotangent));
  }
}

static bool is_reduction(zmi_cop op) {
  return op >= ZMI_K_SUM && op <= ZMI_K_ARGMIN;
}

// ---- what there is ----
static zm_status look_at_block(reverse *r, block *b) {
  bool scan = false, loops = false;
  b->join = -1;
  for (int i = b->begin + 1; i < b->end; i++) {
    const zmi_inst *x = at(r, i);
    bool control = x->op == ZMI_K_FOR || x->op == ZMI_K_IF || x->op == ZMI_K_VAR;
    if (x->op == ZMI_K_JOIN) b->join = i;
    b->control |= control && b->join < 0;
    loops |= control && b->join >= 0;
    scan |= x->op == ZMI_K_SCAN_SUM && r->d.active[i];
    if (x->op != ZMI_K_SET || x->index > b->begin || !r->d.active[x->index]) continue;
    bool known = false;
    for (int s = 0; s < b->serials; s++) known |= b->serial[s] == x->index;
    if (known && b->join < 0) return refuse(r, "a variable that a block sets twice");
    if (known) continue;
    if (b->serials == ZMI_SERIAL) return refuse(r, "a block of so many variables");
    b->serial[b->serials++] = x->index;
  }
  if (!b->serials) b->join = -1;
  if (b->join >= 0 && !r->localized) return refuse(r, "lanes that are joined");
  if (b->join >= 0 && loops) return refuse(r, "loops where lanes are joined");
  if (b->join >= 0 && scan) return refuse(r, "a running sum in a block whose lanes are joined");
  if ((b->serials || scan) && b->control && !r->localized)
    return refuse(r, "loops or branches in a block whose places depend on each other");
  if (b->join >= 0 && !(b->seed = zmi_malloc((size_t)b->serials * sizeof *b->seed))) return zm_last_status();
  b->falling = b->serials || (scan && r->d.scans_fall);
  b->direction = b->falling && !(b->begin >= 0 && at(r, b->begin)->extra);
  return ZM_OK;
}

static void look_at_region(reverse *r, int begin) { // as zmi_code_localized has made it
  zmi_region *g = &r->regions[r->region_count++];
  g->first = g->begin = begin, g->last = zmi_derive_block_end(&r->d, begin);
  while (g->first > 0 && at(r, g->first - 1)->op == ZMI_K_VAR) g->first--;
  while (g->last + 1 < (int)r->from->count && at(r, g->last + 1)->op == ZMI_K_GET) g->last++;
}

static zm_status look(reverse *r) {
  int most = 1, loops = 1;
  for (int i = 0; i < (int)r->from->count; i++) {
    most += at(r, i)->op == ZMI_K_ELEMENTS;
    loops += at(r, i)->op == ZMI_K_FOR || at(r, i)->op == ZMI_K_IF;
  }
  r->blocks = zmi_calloc((size_t)most, sizeof *r->blocks);
  r->regions = r->blocks ? zmi_calloc((size_t)loops, sizeof *r->regions) : NULL;
  if (!r->regions) return zm_last_status();
  if (r->from->form == ZMI_FORM_ELEMENTS) {
    r->blocks[0].begin = -1, r->blocks[0].end = (int)r->from->count;
    r->count = 1;
    return look_at_block(r, &r->blocks[0]);
  }
  for (int i = 0; i < (int)r->from->count; i++) {
    const zmi_inst *x = at(r, i);
    if (x->op == ZMI_K_ELEMENTS) {
      block *b = &r->blocks[r->count++];
      b->begin = i, b->end = zmi_derive_block_end(&r->d, i);
      if (look_at_block(r, b) != ZM_OK) return zm_last_status();
      i = b->end;
    } else if (x->op == ZMI_K_FOR || x->op == ZMI_K_IF) {
      if (!r->localized) return refuse(r, "loops or branches between blocks of elements");
      look_at_region(r, i);
      i = r->regions[r->region_count - 1].last;
    }
  }
  return ZM_OK;
}

// ---- one block, inside an open block of `to` ----
static int cotangent_of_result(reverse *r, const zmi_inst *x) { // -1 if none is given
  int operand = r->given[x->index];
  return operand < 0 ? -1 : zmi_code_leaf(r->d.to, ZMI_K_INPUT, ZMI_C_FLOAT, operand, 0);
}

// What a variable of outside receives from the places that come later.
static int lambda_of(reverse *r, const block *b, int var) {
  int s = 0;
  if (r->lambda[var] < 0) return -1;
  while (b->serial[s] != var) s++;
  return b->join >= 0 ? zmi_lanes_lambda(r, b, s) : emit(r, ZMI_K_GET, ZMI_C_FLOAT, -1, r->lambda[var], 0);
}

static int places_end(const block *b) { // of what stands for a place, in front of JOIN
  return b->join >= 0 ? b->join : b->end;
}

// The cotangents that come into a block from its results and reductions.
static void seed_block(reverse *r, const block *b) {
  for (int i = b->begin + 1; i < places_end(b); i++) {
    const zmi_inst *x = at(r, i);
    if (x->op == ZMI_K_OUTPUT && r->d.active[x->a]) add(r, &r->here[x->a], cotangent_of_result(r, x));
    if (is_reduction(x->op) && r->d.active[i] && r->cotangent[i] >= 0) {
      add(r, &r->here[x->a], zmi_derive_apply(&r->d, zmi_derive_share(&r->d, i), r->cotangent[i]));
    }
    if (x->op == ZMI_K_SET && x->index < b->begin) add(r, &r->here[x->a], lambda_of(r, b, x->index));
  }
}

static void input_share(reverse *r, const zmi_inst *x, int cotangent) {
  add(r, r->from->in_per_row[x->index] && r->from->form == ZMI_FORM_ROWS ? &r->row_here[x->index] : &r->element[x->index], cotangent);
}

// cumsum(a): the cotangent of a is the sum of those of this place and all later ones.
static int scan_share(reverse *r, int i, int cotangent) {
  if (r->d.scans_fall) {
    int var = r->lambda[i], sum = zmi_derive_sum(&r->d, emit(r, ZMI_K_GET, ZMI_C_FLOAT, -1, var, 0), cotangent);
    emit(r, ZMI_K_SET, ZMI_C_NONE, sum, var, 0);
    return sum;
  }
  if (r->total[i] < 0) return -1; // this run is to find it
  int before = zmi_code_op(r->d.to, ZMI_K_SUB, emit(r, ZMI_K_SCAN_SUM, ZMI_C_FLOAT, cotangent, 0, 0), cotangent, -1);
  return zmi_code_op(r->d.to, ZMI_K_SUB, r->total[i], before, -1);
}

static void step_back(reverse *r, const block *b) { // the variables' cotangents before this place
  for (int s = 0; s < b->serials; s++) {
    int var = b->serial[s], next = r->here[var];
    emit(r, ZMI_K_SET, ZMI_C_NONE, next < 0 ? zmi_code_const_f(r->d.to, 0) : next, r->lambda[var], 0);
    r->here[var] = -1;
  }
}

static void run_back(reverse *r, const block *b) {
  for (int i = places_end(b) - 1; i > b->begin; i--) {
    const zmi_inst *x = at(r, i);
    int g = r->here[i];
    if (g < 0 || !r->d.active[i] || is_reduction(x->op)) continue;
    if (x->op == ZMI_K_INPUT) {
      input_share(r, x, g);
    } else if (x->op == ZMI_K_SCAN_SUM) {
      add(r, &r->here[x->a], scan_share(r, i, g));
    } else if (x->op == ZMI_K_GET) {
      add(r, &r->here[x->index], g); // of a serial variable: its cotangent before this place
    } else {
      zmi_reverse_operands(r, i, g, r->here);
    }
  }
}

// What comes in at an instruction of a block with loops or branches that gives something: a result, a reduction, a variable of outside.
static int sink_cotangent(reverse *r, const block *b, int i) {
  const zmi_inst *x = at(r, i);
  if (x->op == ZMI_K_OUTPUT) return cotangent_of_result(r, x);
  if (x->op == ZMI_K_SET) return x->index < b->begin ? lambda_of(r, b, x->index) : -1;
  return is_reduction(x->op) ? zmi_derive_apply(&r->d, zmi_derive_share(&r->d, i), r->cotangent[i]) : -1;
}

// A block with loops or branches: for each leaf the tangents of everything, times the cotangents that come in.
static zm_status run_partials(reverse *r, const block *b, int leaf) {
  int sum = -1;
  r->d.leaf = leaf;
  r->d.inside = b->begin;
  bool outside = leaf <= b->begin;
  if (outside) r->d.tangent[leaf] = zmi_code_const_f(r->d.to, 1);
  zm_status status = zmi_derive_forward(&r->d, b->begin + 1, places_end(b), false);
  for (int i = b->begin + 1; i < places_end(b) && status == ZM_OK; i++) {
    const zmi_inst *x = at(r, i);
    bool sink = x->op == ZMI_K_OUTPUT || x->op == ZMI_K_SET || is_reduction(x->op);
    if (!sink || !r->d.active[x->a] || r->d.tangent[x->a] < 0) continue;
    int g = sink_cotangent(r, b, i);
    add(r, &sum, zmi_derive_apply(&r->d, (zmi_factor){ZMI_F_TIMES, r->d.tangent[x->a]}, g));
  }
  if (outside) r->d.tangent[leaf] = -1;
  r->d.leaf = ZMI_NO_LEAF;
  r->d.inside = -1;
  if (outside) {
    add(r, &r->here[leaf], sum);
  } else if (at(r, leaf)->op == ZMI_K_GET) {
    add(r, &r->here[at(r, leaf)->index], sum);
  } else {
    input_share(r, at(r, leaf), sum);
  }
  return status;
}

// Whether [from, to) has it as an operand.
static bool reads(const reverse *r, int value, int from, int to) {
  for (int i = from; i < to; i++) {
    for (int k = 0; k < 3; k++) {
      if (zmi_inst_operand(at(r, i), k) == value) return true;
    }
  }
  return false;
}

static zm_status run_control(reverse *r, const block *b) {
  const int end = places_end(b);
  for (int i = 0; i < end; i++) { // row values that the block reads, and inputs inside
    const zmi_inst *x = at(r, i);
    if (!r->d.active[i] || x->op == ZMI_K_VAR) continue;
    bool inside = i > b->begin, serial = x->op == ZMI_K_GET && x->index < b->begin;
    bool leaf = inside ? x->op == ZMI_K_INPUT || serial : reads(r, i, b->begin + 1, end);
    if (leaf && run_partials(r, b, i) != ZM_OK) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status run(reverse *r, const block *b) {
  for (int i = 0; i < (int)r->from->count; i++) r->here[i] = -1;
  if (b->control) {
    zm_status status = run_control(r, b);
    step_back(r, b);
    return status;
  }
  if (b->begin < 0) {
    for (int i = 0; i < b->end; i++) {
      if (at(r, i)->op != ZMI_K_OUTPUT && zmi_derive_copy(&r->d, i) < 0) return zm_last_status();
    }
  } else if (zmi_derive_replay(&r->d, b->begin) != ZM_OK) {
    return zm_last_status();
  }
  seed_block(r, b);
  run_back(r, b);
  step_back(r, b);
  return ZM_OK;
}

// Variables that a falling run needs, before its block is opened.
static zm_status declare(reverse *r, const block *b) {
  int zero = zmi_code_const_f(r->d.to, 0);
  for (int s = 0; s < b->serials; s++) {
    int first = b->start[s] < 0 ? zero : b->start[s];
    if ((r->lambda[b->serial[s]] = emit(r, ZMI_K_VAR, ZMI_C_FLOAT, first, 0, 0)) < 0) return zm_last_status();
  }
  for (int i = b->begin + 1; i < b->end && b->falling; i++) {
    if (at(r, i)->op == ZMI_K_SCAN_SUM && r->d.active[i] && (r->lambda[i] = emit(r, ZMI_K_VAR, ZMI_C_FLOAT, zero, 0, 0)) < 0)
      return zm_last_status();
  }
  return ZM_OK;
}

// ---- contributions of a block to row values ----
typedef struct shares {
  int *var; // falling: VAR of the sum for each row value and, after them, each input
  int *sum;
} shares;

static zm_status open_shares(reverse *r, const block *b, shares *s) { // places fall: sums are variables too
  int n = b->begin + 1 + r->from->nin;
  s->var = zmi_malloc((size_t)n * 2 * sizeof(int));
  if (!s->var) return zm_last_status();
  s->sum = s->var + n;
  memset(s->var, -1, (size_t)n * 2 * sizeof(int));
  for (int v = 0; v < n && b->falling; v++) {
    bool may = v <= b->begin ? r->d.active[v] && at(r, v)->op != ZMI_K_VAR : r->from->in_per_row[v - b->begin - 1];
    if (may && (s->var[v] = emit(r, ZMI_K_VAR, ZMI_C_FLOAT, zmi_code_const_f(r->d.to, 0), 0, 0)) < 0) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status close_shares(reverse *r, const block *b, shares *s) { // before END
  int n = b->begin + 1 + r->from->nin;
  for (int v = 0; v < n; v++) {
    bool row = v <= b->begin;
    int part = row ? r->here[v] : r->row_here[v - b->begin - 1];
    if (part < 0 || (row && at(r, v)->op == ZMI_K_VAR)) continue;
    if (!b->falling) {
      s->sum[v] = emit(r, ZMI_K_SUM, ZMI_C_FLOAT, part, 0, 0);
    } else {
      int old = emit(r, ZMI_K_GET, ZMI_C_FLOAT, -1, s->var[v], 0);
      s->sum[v] = emit(r, ZMI_K_SET, ZMI_C_NONE, zmi_derive_sum(&r->d, old, part), s->var[v], 0);
    }
    if (s->sum[v] < 0) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status join_lambdas(reverse *r, const block *b) {
  zm_status status = ZM_OK;
  for (int s = 0; s < b->serials && status == ZM_OK; s++) status = zmi_lanes_sum(r, r->lambda[b->serial[s]]);
  return status;
}

static zm_status join_shares(reverse *r, const block *b, const shares *s) { // each lane has some
  zm_status status = zmi_lanes_join(r);
  for (int v = 0; v < b->begin + 1 + r->from->nin && status == ZM_OK; v++) {
    if (s->sum[v] >= 0) status = zmi_lanes_sum(r, s->var[v]);
  }
  return status == ZM_OK ? join_lambdas(r, b) : status;
}

static void take_shares(reverse *r, const block *b, const shares *s) { // after END
  int n = b->begin + 1 + r->from->nin;
  for (int v = 0; v < n; v++) {
    if (s->sum[v] < 0) continue;
    int sum = b->falling ? emit(r, ZMI_K_GET, ZMI_C_FLOAT, -1, s->var[v], 0) : s->sum[v];
    add(r, v <= b->begin ? &r->cotangent[v] : &r->row[v - b->begin - 1], sum);
  }
}

// The sums of the cotangents of running sums, where places rise; the last one first, as earlier ones depend on it.
static zm_status scan_totals(reverse *r, const block *b) {
  for (int i = b->end - 1; i > b->begin && !r->d.scans_fall; i--) {
    if (at(r, i)->op != ZMI_K_SCAN_SUM || !r->d.active[i]) continue;
    if (emit(r, ZMI_K_ELEMENTS, ZMI_C_NONE, -1, 0, 0) < 0 || run(r, b) != ZM_OK) return zm_last_status();
    int g = r->here[i] < 0 ? zmi_code_const_f(r->d.to, 0) : r->here[i];
    r->total[i] = emit(r, ZMI_K_SUM, ZMI_C_FLOAT, g, 0, 0);
    if (r->total[i] < 0 || emit(r, ZMI_K_END, ZMI_C_NONE, -1, 0, 0) < 0) return zm_last_status();
  }
  return ZM_OK;
}

static void clear_inputs(reverse *r) {
  memset(r->element, -1, sizeof r->element);
  memset(r->row_here, -1, sizeof r->row_here);
}

static zm_status block_to_rows(reverse *r, block *b) {
  for (int i = b->begin + 1; i < b->end; i++) {
    if (r->cotangent[i] >= 0 && zmi_derive_aux(&r->d, i) != ZM_OK) return zm_last_status();
  }
  for (int s = 0; s < b->serials; s++) {
    b->start[s] = b->join >= 0 ? -1 : r->cotangent[b->serial[s]];
  }
  if (b->join >= 0 && zmi_lanes_back(r, b) != ZM_OK) return zm_last_status();
  clear_inputs(r);
  shares s = {NULL, NULL};
  zm_status status = scan_totals(r, b);
  if (status == ZM_OK) status = open_shares(r, b, &s);
  if (status != ZM_OK) return status;
  clear_inputs(r);
  if (status == ZM_OK) status = declare(r, b);
  if (status == ZM_OK && emit(r, ZMI_K_ELEMENTS, ZMI_C_NONE, -1, 0, b->direction) < 0) status = zm_last_status();
  if (status == ZM_OK) status = run(r, b);
  if (status == ZM_OK) status = close_shares(r, b, &s);
  if (status == ZM_OK && b->join >= 0) status = join_shares(r, b, &s);
  if (status == ZM_OK && emit(r, ZMI_K_END, ZMI_C_NONE, -1, 0, 0) < 0) status = zm_last_status();
  if (status == ZM_OK) take_shares(r, b, &s);
  for (int v = 0; v < b->serials && status == ZM_OK; v++) {
    int before = emit(r, ZMI_K_GET, ZMI_C_FLOAT, -1, r->lambda[b->serial[v]], 0);
    if (b->join >= 0) add(r, &before, zmi_lanes_first(r, b, v));
    r->cotangent[b->serial[v]] = before;
  }
  zmi_free(s.var);
  return status;
}

// ---- rows ----
static zm_status forward(reverse *r) { // row values and reductions; what turns out not to be needed goes away in the end
  for (int i = 0; i < (int)r->from->count; i++) {
    if (r->d.traced && r->d.trace[i] >= 0 && r->d.around[i] < 0) {
      if ((r->d.map[i] = zmi_derive_trace(&r->d, i)) < 0) return zm_last_status();
    } else if (at(r, i)->op != ZMI_K_OUTPUT && zmi_derive_copy(&r->d, i) < 0) {
      return zm_last_status();
    }
  }
  return ZM_OK;
}

static void row_back(reverse *r, int i) { // one instruction at row level
  const zmi_inst *x = at(r, i);
  if (x->op == ZMI_K_OUTPUT) {
    if (r->d.active[x->a]) add(r, &r->cotangent[x->a], cotangent_of_result(r, x));
    return;
  }
  if (x->op == ZMI_K_SET) {
    if (r->cotangent[x->index] >= 0 && r->d.active[x->a]) add(r, &r->cotangent[x->a], r->cotangent[x->index]);
    r->cotangent[x->index] = -1;
    return;
  }
  int g = r->cotangent[i];
  if (g < 0 || !r->d.active[i]) return;
  if (x->op == ZMI_K_INPUT) {
    add(r, &r->row[x->index], g);
  } else if (x->op == ZMI_K_GET) {
    add(r, &r->cotangent[x->index], g);
  } else if (x->op == ZMI_K_VAR) {
    if (r->d.active[x->a]) add(r, &r->cotangent[x->a], g);
  } else {
    zmi_reverse_operands(r, i, g, r->cotangent);
  }
}

// A loop or branch between blocks: for each value that it reads its tangents, times the cotangents of what is read from its variables.
static zm_status region_back(reverse *r, const zmi_region *g) {
  for (int leaf = 0; leaf <= g->last; leaf++) {
    const bool outside = leaf < g->first;
    if (!r->d.active[leaf] || at(r, leaf)->op == ZMI_K_VAR) continue;
    if (!(outside ? reads(r, leaf, g->first, g->last + 1) : at(r, leaf)->op == ZMI_K_INPUT)) continue;
    int sum = -1;
    r->d.leaf = leaf;
    if (outside) r->d.tangent[leaf] = zmi_code_const_f(r->d.to, 1);
    if (zmi_derive_forward(&r->d, g->first, g->last + 1, false) != ZM_OK) return zm_last_status();
    if (outside) r->d.tangent[leaf] = -1;
    r->d.leaf = ZMI_NO_LEAF;
    for (int i = zmi_derive_block_end(&r->d, g->begin) + 1; i <= g->last; i++) {
      if (r->cotangent[i] < 0 || r->d.tangent[i] < 0) continue;
      add(r, &sum, zmi_derive_apply(&r->d, (zmi_factor){ZMI_F_TIMES, r->d.tangent[i]}, r->cotangent[i]));
    }
    add(r, outside ? &r->cotangent[leaf] : &r->row[at(r, leaf)->index], sum);
  }
  return ZM_OK;
}

static zm_status rows_back(reverse *r) {
  int b = r->count - 1, g = r->region_count - 1;
  for (int i = (int)r->from->count - 1; i >= 0; i--) {
    if (b >= 0 && i == r->blocks[b].end) {
      if (block_to_rows(r, &r->blocks[b]) != ZM_OK) return zm_last_status();
      i = r->blocks[b--].begin;
    } else if (g >= 0 && i == r->regions[g].last) {
      if (region_back(r, &r->regions[g]) != ZM_OK) return zm_last_status();
      i = r->regions[g--].first;
    } else {
      row_back(r, i);
    }
  }
  return ZM_OK;
}

static zm_status write_gradient(reverse *r, int o, int input, int value) {
  zmi_ctype type = zmi_ctype_of(r->from->in[input]);
  if (value < 0 || type != ZMI_C_FLOAT) value = zmi_code_const_i(r->d.to, type, 0);
  return emit(r, ZMI_K_OUTPUT, ZMI_C_NONE, value, o, 0) < 0 ? zm_last_status() : ZM_OK;
}

static zm_status join_all(reverse *r) {
  zm_status status = zmi_lanes_join(r);
  for (int b = 0; b < r->count && status == ZM_OK; b++) {
    if (r->blocks[b].join >= 0) status = join_lambdas(r, &r->blocks[b]);
  }
  return status;
}

// The last pass over the places: gradients of inputs from all blocks together.
static zm_status final_pass(reverse *r, const bool *wanted) {
  bool rows = r->from->form == ZMI_FORM_ROWS;
  int direction = -1, joined = -1;
  for (int b = 0; b < r->count; b++) {
    bool lanes = r->blocks[b].join >= 0;
    if (r->blocks[b].falling && joined == !lanes) return refuse(r, "joined lanes beside a block whose places run one after another");
    if (r->blocks[b].falling) joined = lanes;
    if (r->blocks[b].falling && direction == !r->blocks[b].direction) return refuse(r, "serial blocks of both directions in one kernel");
    if (r->blocks[b].falling) direction = r->blocks[b].direction;
    if (declare(r, &r->blocks[b]) != ZM_OK) return zm_last_status();
  }
  if (rows && emit(r, ZMI_K_ELEMENTS, ZMI_C_NONE, -1, 0, direction > 0) < 0) return zm_last_status();
  clear_inputs(r);
  for (int b = r->count - 1; b >= 0; b--) {
    if (run(r, &r->blocks[b]) != ZM_OK) return zm_last_status();
  }
  int o = 0;
  for (int i = 0; i < r->from->nin; i++) {
    if (!wanted[i]) continue;
    if (!(rows && r->from->in_per_row[i]) && write_gradient(r, o, i, r->element[i]) != ZM_OK) return zm_last_status();
    o++;
  }
  if (joined > 0 && join_all(r) != ZM_OK) return zm_last_status();
  if (rows && emit(r, ZMI_K_END, ZMI_C_NONE, -1, 0, 0) < 0) return zm_last_status();
  o = 0;
  for (int i = 0; i < r->from->nin; i++) {
    if (!wanted[i]) continue;
    if (rows && r->from->in_per_row[i] && write_gradient(r, o, i, r->row[i]) != ZM_OK) return zm_last_status();
    o++;
  }
  return ZM_OK;
}

static zm_status operands(reverse *r, const bool *given, const bool *wanted) {
  zmi_code *c = r->d.to;
  if (zmi_derive_operands(&r->d) != ZM_OK) return zm_last_status();
  r->d.first_trace = c->nin;
  for (int i = 0, n = 0, operand; i < (int)r->from->count && r->d.traced && !r->d.finding; i++) {
    if (r->d.trace[i] != n) continue;
    if (zmi_derive_add_operand(&r->d, zmi_derive_dtype(at(r, i)->type), r->d.around[i] < 0, &operand) != ZM_OK) return zm_last_status();
    n++;
  }
  for (int o = 0; o < r->from->nout; o++) {
    r->given[o] = -1;
    if (!given[o]) continue;
    int operand;
    if (zmi_derive_add_operand(&r->d, r->from->out[o], r->from->per_row[o], &operand) != ZM_OK) return zm_last_status();
    if (zmi_ctype_of(r->from->out[o]) == ZMI_C_FLOAT) r->given[o] = operand;
  }
  for (int i = 0; i < r->from->nin; i++) {
    if (!wanted[i]) continue;
    c->out[c->nout] = r->from->in[i];
    c->per_row[c->nout++] = r->from->in_per_row[i];
  }
  return ZM_OK;
}

static bool still_poisoned(const zmi_code *c) {
  for (size_t i = 0; i < c->count; i++) {
    if (c->insts[i].op == ZMI_K_PARAM && c->insts[i].index >= ZMI_POISON) return true;
  }
  return false;
}

static zm_status vjp(reverse *r, const zmi_code *code, const bool *given, const bool *wanted, bool *again) {
  size_t n = code->count ? code->count : 1;
  int **arrays[] = {&r->cotangent, &r->here, &r->lambda, &r->total};
  for (size_t i = 0; i < ZMI_COUNT(arrays); i++) {
    if (!(*arrays[i] = zmi_malloc(n * sizeof(int)))) return zm_last_status();
    memset(*arrays[i], -1, n * sizeof(int));
  }
  memset(r->row, -1, sizeof r->row);
  if (operands(r, given, wanted) != ZM_OK || look(r) != ZM_OK) return zm_last_status();
  bool rows = code->form == ZMI_FORM_ROWS;
  if (rows && (forward(r) != ZM_OK || rows_back(r) != ZM_OK)) return zm_last_status();
  if (final_pass(r, wanted) != ZM_OK || zmi_code_sweep(r->d.to) != ZM_OK) return zm_last_status();
  if (r->d.finding) return ZM_OK;
  if (!still_poisoned(r->d.to)) return zmi_code_finish(r->d.to);
  bool serial = false;
  for (int b = 0; b < r->count; b++) serial |= r->blocks[b].serials > 0;
  *again = !serial && r->d.scans_fall;
  return refuse(r, "a serial reduction whose slope needs the accumulator of each place");
}

typedef enum way { SCANS_FALL, SCANS_RISE, FIND_TRACES, TRACED } way;

static zm_status attempt(reverse *r, const zmi_code *code, const bool *given, const bool *wanted, way how, const bool *needed,
                         bool localized, bool *again) {
  *again = false;
  memset(r, 0, sizeof *r);
  r->from = code;
  r->localized = localized;
  zm_status status = zmi_derive_start(&r->d, code, "_vjp", wanted);
  r->d.scans_fall = how != SCANS_RISE;
  r->d.traced = how >= FIND_TRACES;
  r->d.finding = how == FIND_TRACES;
  r->d.needed = needed;
  if (status == ZM_OK && r->d.traced) zmi_derive_traces(&r->d);
  if (status == ZM_OK) status = vjp(r, code, given, wanted, again);
  zmi_derive_end(&r->d);
  for (int b = 0; b < r->count; b++) zmi_free(r->blocks[b].seed);
  zmi_free(r->cotangent), zmi_free(r->here), zmi_free(r->lambda), zmi_free(r->total), zmi_free(r->blocks), zmi_free(r->regions);
  if (status != ZM_OK) zmi_code_free(r->d.to);
  return status;
}

// The function, with what its serial variables are at each place as results instead of its own.
static zm_status trace(zmi_derive *d) {
  zmi_code *c = d->to;
  int count = zmi_derive_traces(d);
  if (zmi_derive_operands(d) != ZM_OK) return zm_last_status();
  if (count > ZMI_MAX_OUT)
    return zmi_fail(ZM_ERROR_LIMIT, "kernel %s: its gradient needs more than %d variables and running sums", d->from->name, ZMI_MAX_OUT);
  for (int i = 0; i < (int)d->from->count; i++) {
    const zmi_inst *x = &d->from->insts[i];
    if (x->op == ZMI_K_OUTPUT) continue;
    if (zmi_derive_copy(d, i) < 0) return zm_last_status();
    if (d->trace[i] != c->nout) continue; // none, or read before
    zmi_inst out = {.op = ZMI_K_OUTPUT, .a = d->map[i], .b = -1, .c = -1, .index = c->nout};
    c->per_row[c->nout] = d->around[i] < 0;
    c->out[c->nout++] = zmi_derive_dtype(x->type);
    if (zmi_code_emit(c, &out) < 0) return zm_last_status();
  }
  return zmi_code_finish(c);
}

static zmi_code *trace_code(const zmi_code *code, const bool *needed) {
  const bool none[ZMI_CODE_MAX] = {false};
  zmi_derive d;
  zm_status status = zmi_derive_start(&d, code, "_trace", none);
  d.needed = needed;
  if (status == ZM_OK) status = trace(&d);
  zmi_derive_end(&d);
  if (status == ZM_OK) return d.to;
  zmi_code_free(d.to);
  return NULL;
}

// The gradient where values of serial variables are operands, and the code that gives them: those that turn out to be needed.
static zm_status attempt_traced(reverse *r, const zmi_code *code, const bool *given, const bool *wanted, zmi_code **traces,
                                bool localized) {
  bool again, any = false, *needed = zmi_calloc(code->count + 1, sizeof *needed);
  if (!needed) return zm_last_status();
  zm_status status = attempt(r, code, given, wanted, FIND_TRACES, NULL, localized, &again);
  if (status == ZM_OK) {
    for (size_t i = 0; i < r->d.to->count; i++) {
      const zmi_inst *x = &r->d.to->insts[i];
      if (x->op == ZMI_K_PARAM && x->index > ZMI_POISON) needed[x->index - ZMI_POISON - 1] = any = true;
    }
    zmi_code_free(r->d.to);
    status = attempt(r, code, given, wanted, TRACED, needed, localized, &again);
  }
  if (status == ZM_OK && any && !(*traces = trace_code(code, needed))) {
    zmi_code_free(r->d.to);
    status = zm_last_status();
  }
  zmi_free(needed);
  return status;
}

// The gradient of the code as it is. `first`: nothing came to nothing before it.
static zm_status attempts(reverse *r, const zmi_code *code, const bool *given, const bool *wanted, zmi_code **traces, bool localized,
                          bool *first) {
  bool again;
  // Running sums go back from the last place, exactly. Where their own values are needed on the way that cannot be: then by differences.
  zm_status status = attempt(r, code, given, wanted, SCANS_FALL, NULL, localized, &again);
  *first = status == ZM_OK;
  if (!*first && again) status = attempt(r, code, given, wanted, SCANS_RISE, NULL, localized, &again);
  if (status == ZM_ERROR_UNSUPPORTED && traces) status = attempt_traced(r, code, given, wanted, traces, localized);
  return status;
}

zmi_code *zmi_code_vjp_traced(const zmi_code *code, const bool *given, const bool *wanted, zmi_code **traces) {
  bool first;
  reverse *r = zmi_malloc(sizeof *r);
  if (traces) *traces = NULL;
  if (!r) return NULL;
  zm_status status = attempts(r, code, given, wanted, traces, false, &first);
  if (status == ZM_ERROR_UNSUPPORTED && code->form == ZMI_FORM_ROWS) {
    zmi_code *own = zmi_code_localized(code);
    status = own ? attempts(r, own, given, wanted, traces, true, &first) : zm_last_status();
    zmi_code_free(own);
    first = false;
  }
  zmi_code *c = status == ZM_OK ? r->d.to : NULL;
  if (c && !first) zmi_error_clear(); // of the attempts that came to nothing
  zmi_free(r);
  return c;
}

zmi_code *zmi_code_vjp(const zmi_code *code, const bool *given, const bool *wanted) {
  return zmi_code_vjp_traced(code, given, wanted, NULL);
}
