// From code to a program of the interpreter: what is the same in all lanes is moved to the front, values get slots, which are used again
// when a value is dead, and instructions become steps.
#include "kernel/interpret.h"

#include <string.h>

typedef struct builder {
  const zmi_code *c;
  zmi_routine *p;
  // one entry an instruction
  int32_t *opener, *end, *part; // the innermost open block; of openers: their END, their ELSE or JOIN (-1)
  int32_t *last;                // the last instruction that needs the value
  int32_t *slot, *inner;        // of the value; inside the block at work, of a value or variable of outside
  int32_t *dying, *next;        // chains of values by the instruction after which they are dead
  int32_t *aux;                 // mask slot of IF and FOR, fold of a reduction, carry of SCAN_SUM, patched steps
  int8_t *uniform, *owned, *direct;
  int32_t *spare[2]; // slots that are free, of 4 and 8 bytes
  size_t spares[2], spare_capacity[2];
  int32_t input_slot[ZMI_CODE_MAX], input_last[ZMI_CODE_MAX];
  int32_t block;  // the ELEMENTS instruction at work, or -1
  int32_t parted; // how many branches and loops are open whose lanes may part
  int32_t recent; // the value whose loop was the last step, or -1
  zm_status status;
  zmi_step nowhere; // where steps go after a failure
} builder;

static bool is_wide(zmi_ctype t) {
  return t == ZMI_C_LONG || t == ZMI_C_ULONG;
}

static uint8_t lane_type(zmi_ctype t) {
  return (uint8_t)(t == ZMI_C_NONE ? ZMI_LANE_BOOL : (int)t - ZMI_C_BOOL);
}

static void no_memory(builder *b) {
  b->status = ZM_ERROR_MEMORY;
}

// ---- slots ----

static int32_t new_slot(builder *b, bool wide) {
  zmi_routine *p = b->p;
  if (!ZMI_GROW(p->offset, p->slot_capacity, p->slots + 1)) return no_memory(b), 0;
  p->offset[p->slots] = (int32_t)p->lane_bytes;
  p->lane_bytes += wide ? 8 : 4;
  return (int32_t)p->slots++;
}

static int32_t take(builder *b, bool wide) {
  return b->spares[wide] ? b->spare[wide][--b->spares[wide]] : new_slot(b, wide);
}

static void give(builder *b, bool wide, int32_t slot) {
  if (!ZMI_GROW(b->spare[wide], b->spare_capacity[wide], b->spares[wide] + 1)) {
    no_memory(b);
    return;
  }
  b->spare[wide][b->spares[wide]++] = slot;
}

// Gives back the slots of values that instruction i was the last to need.
static void bury(builder *b, int32_t i) {
  for (int32_t v = b->dying[i]; v >= 0; v = b->next[v]) {
    if (b->owned[v]) give(b, is_wide(b->c->insts[v].type), b->slot[v]);
    b->owned[v] = 0;
  }
  b->dying[i] = -1;
}

static void dies_at(builder *b, int32_t v, int32_t i) {
  b->next[v] = b->dying[i];
  b->dying[i] = v;
}

// Where instructions of the part at work find a value or variable.
static int32_t place_of(const builder *b, int32_t v) {
  return b->block >= 0 && v < b->block && !b->uniform[v] ? b->inner[v] : b->slot[v];
}

static zmi_step *emit(builder *b, zmi_step_kind kind) {
  zmi_routine *p = b->p;
  b->recent = -1;
  if (!ZMI_GROW(p->steps, p->capacity, p->count + 1)) return no_memory(b), &b->nowhere;
  zmi_step *t = &p->steps[p->count++];
  *t = (zmi_step){.kind = (uint8_t)kind, .out = -1, .a = -1, .b = -1, .c = -1};
  return t;
}

// ---- what the code looks like ----

static const int16_t lane_ops[ZMI_K_COUNT] = { // 1 + the lane op
#define X(name, function) [ZMI_K_##name] = 1 + ZMI_LANE_##name,
    ZMI_LANE_LIST(X)
#undef X
};

// Computed from its operands lane by lane.
static bool is_plain(const zmi_inst *x) {
  return lane_ops[x->op] || x->op == ZMI_K_SELECT || x->op == ZMI_K_CONVERT || x->op == ZMI_K_BITCAST;
}

static bool is_reduction(zmi_cop op) {
  return op >= ZMI_K_SUM && op <= ZMI_K_ARGMIN;
}

static int operands_of(const zmi_inst *x, int32_t v[3]) {
  v[0] = x->a, v[1] = x->b, v[2] = x->c;
  return zmi_cop_rows[x->op].operands;
}

static void find_blocks(builder *b) {
  int32_t open = -1;
  int depth = 0;
  for (int32_t i = 0; i < (int32_t)b->c->count; i++) {
    zmi_cop op = b->c->insts[i].op;
    if ((op == ZMI_K_END || op == ZMI_K_ELSE || op == ZMI_K_JOIN) && open < 0) {
      b->status = zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: instruction %%%d stands in no block", b->c->name, (int)i);
      return;
    }
    b->opener[i] = open;
    b->end[i] = b->part[i] = -1;
    if (op == ZMI_K_ELSE || op == ZMI_K_JOIN) b->part[open] = i;
    if (op == ZMI_K_END) {
      b->end[open] = i;
      open = b->opener[open];
      depth--;
    }
    if (op != ZMI_K_FOR && op != ZMI_K_IF && op != ZMI_K_ELEMENTS) continue;
    open = i;
    if (++depth > ZMI_INTERPRET_DEPTH) {
      b->status = zmi_fail(ZM_ERROR_LIMIT, "kernel %s: blocks nest deeper than %d", b->c->name, ZMI_INTERPRET_DEPTH);
      return;
    }
  }
  if (open >= 0) b->status = zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: a block is not closed", b->c->name);
}

static void find_uniform(builder *b) {
  for (size_t i = 0; i < b->c->count; i++) {
    const zmi_inst *x = &b->c->insts[i];
    int32_t v[3];
    bool same = is_plain(x);
    for (int o = 0; o < operands_of(x, v) && same; o++) same = b->uniform[v[o]];
    b->uniform[i] = same || x->op == ZMI_K_CONST || x->op == ZMI_K_PARAM || x->op == ZMI_K_LENGTH || x->op == ZMI_K_THREADS ||
                    x->op == ZMI_K_GROUPS || x->op == ZMI_K_DIM;
  }
}

static void needed_at(builder *b, int32_t v, int32_t i) {
  // A loop that began after v needs it in every turn.
  for (int32_t e = b->opener[i]; e > v; e = b->opener[e]) {
    if (b->c->insts[e].op != ZMI_K_IF) i = b->end[e];
  }
  if (i > b->last[v]) b->last[v] = i;
}

static void find_lives(builder *b) {
  const int32_t count = (int32_t)b->c->count;
  for (int32_t i = 0; i < count; i++) b->last[i] = i;
  for (int32_t i = 0; i < count; i++) {
    const zmi_inst *x = &b->c->insts[i];
    int32_t v[3];
    bool opens = x->op == ZMI_K_FOR || x->op == ZMI_K_IF;
    for (int o = 0; o < operands_of(x, v); o++) needed_at(b, v[o], opens ? b->end[i] : i);
    if (x->op == ZMI_K_VAR) needed_at(b, i, b->opener[i] < 0 ? count - 1 : b->end[b->opener[i]]);
    if (is_reduction(x->op)) b->last[i] = b->end[b->opener[i]] > b->last[i] ? b->end[b->opener[i]] : b->last[i];
  }
  for (int32_t i = 0; i < count; i++) dies_at(b, i, b->last[i]);
}

// A result that is stored as it is computed is computed in its place.
static void find_direct(builder *b) {
  for (size_t i = 0; i < b->c->count; i++) {
    const zmi_inst *x = &b->c->insts[i];
    if (x->op != ZMI_K_OUTPUT || b->c->per_row[x->index]) continue;
    zm_dtype to = b->c->out[x->index];
    const zmi_inst *v = &b->c->insts[x->a];
    bool as_is = to == ZM_U32 || to == ZM_U64 || to == ZM_I32 || to == ZM_I64 || to == ZM_F32;
    if (as_is && is_plain(v) && !b->uniform[x->a] && b->opener[x->a] == b->opener[i] && !b->direct[x->a]) {
      b->direct[x->a] = (int8_t)(1 + x->index);
    }
  }
}

// ---- instructions ----

static void emit_plain(builder *b, int32_t i, int32_t slot) {
  const zmi_inst *x = &b->c->insts[i];
  zmi_ctype from = b->c->insts[x->a].type;
  zmi_step *t;
  if (x->op == ZMI_K_SELECT) {
    t = emit(b, ZMI_ST_CHOOSE);
  } else if (x->op == ZMI_K_CONVERT) {
    t = emit(b, ZMI_ST_CONVERT);
    t->x = lane_type(x->type) * ZMI_LANE_TYPES + lane_type(from);
  } else if (x->op == ZMI_K_BITCAST) {
    t = emit(b, from == ZMI_C_FLOAT && x->type != ZMI_C_FLOAT ? ZMI_ST_BITS : ZMI_ST_COPY);
  } else {
    t = emit(b, ZMI_ST_LOOP);
    t->x = (lane_ops[x->op] - 1) * ZMI_LANE_TYPES + lane_type(from);
  }
  const int operands = zmi_cop_rows[x->op].operands;
  t->type = lane_type(x->type);
  t->wide = is_wide(x->type);
  t->out = slot;
  t->a = place_of(b, x->a);
  t->b = operands > 1 ? place_of(b, x->b) : t->a;
  t->c = operands > 2 ? place_of(b, x->c) : t->a;
}

static void emit_uniform(builder *b, int32_t i) {
  const zmi_inst *x = &b->c->insts[i];
  b->slot[i] = new_slot(b, is_wide(x->type));
  if (is_plain(x)) {
    emit_plain(b, i, b->slot[i]);
    return;
  }
  static const uint8_t kinds[ZMI_K_COUNT] = {
      [ZMI_K_CONST] = ZMI_ST_CONST,     [ZMI_K_PARAM] = ZMI_ST_PARAM,   [ZMI_K_LENGTH] = ZMI_ST_LENGTH,
      [ZMI_K_THREADS] = ZMI_ST_THREADS, [ZMI_K_GROUPS] = ZMI_ST_GROUPS, [ZMI_K_DIM] = ZMI_ST_DIM};
  zmi_step *t = emit(b, (zmi_step_kind)kinds[x->op]);
  t->type = lane_type(x->type);
  t->wide = is_wide(x->type);
  t->out = b->slot[i];
  t->x = x->index;
  t->y = x->extra;
  memcpy(&t->imm, &x->imm, sizeof t->imm);
}

static void emit_input(builder *b, int32_t i) {
  const zmi_inst *x = &b->c->insts[i];
  zm_dtype from = b->c->in[x->index];
  bool wide = is_wide(x->type), as_is = from == ZM_U32 || from == ZM_U64 || from == ZM_I32 || from == ZM_I64 || from == ZM_F32;
  if (as_is && b->input_slot[x->index] >= 0 && b->input_last[x->index] < i) {
    b->slot[i] = b->input_slot[x->index];
  } else {
    b->slot[i] = as_is ? new_slot(b, wide) : take(b, wide); // the slot may become the memory of the operand: nothing else is put there
  }
  if (as_is) {
    b->input_slot[x->index] = b->slot[i];
    b->input_last[x->index] = b->last[i];
  }
  b->owned[i] = !as_is;
  zmi_step *t = emit(b, ZMI_ST_INPUT);
  t->type = lane_type(x->type);
  t->wide = wide;
  t->flag = as_is;
  t->out = b->slot[i];
  t->x = x->index;
}

static bool is_set_between(const builder *b, int32_t variable, int32_t from, int32_t to) {
  if (to - from > 256) return true; // perhaps
  for (int32_t i = from; i <= to; i++) {
    if (b->c->insts[i].op == ZMI_K_SET && b->c->insts[i].index == variable) return true;
  }
  return false;
}

static void emit_get(builder *b, int32_t i) {
  const zmi_inst *x = &b->c->insts[i];
  int32_t variable = place_of(b, x->index);
  if (x->op == ZMI_K_GET && !is_set_between(b, x->index, i, b->last[i])) {
    b->slot[i] = variable;
    return;
  }
  b->slot[i] = take(b, is_wide(x->type));
  b->owned[i] = 1;
  zmi_step *t = emit(b, x->op == ZMI_K_GET ? ZMI_ST_COPY : ZMI_ST_RIGHT);
  t->wide = is_wide(x->type);
  t->out = b->slot[i];
  t->a = t->b = t->c = variable;
}

// VAR and SET: the loop that made the value may put it into the variable at once.
static void emit_set(builder *b, int32_t i) {
  const zmi_inst *x = &b->c->insts[i];
  const bool wide = is_wide(b->c->insts[x->a].type);
  int32_t variable;
  if (x->op == ZMI_K_VAR) {
    variable = b->slot[i] = take(b, wide);
    b->owned[i] = 1;
  } else {
    variable = place_of(b, x->index);
  }
  bool fresh = b->recent == x->a && b->recent >= 0 && b->last[x->a] == i && b->owned[x->a] && !b->direct[x->a];
  if (fresh && (x->op == ZMI_K_VAR || !b->parted)) {
    b->p->steps[b->p->count - 1].out = variable;
    b->recent = -1;
    return;
  }
  zmi_step *t = emit(b, ZMI_ST_SET);
  t->wide = wide;
  t->out = variable;
  t->a = place_of(b, x->a);
  t->flag = x->op == ZMI_K_VAR; // in all lanes
}

static void emit_output(builder *b, int32_t i) {
  const zmi_inst *x = &b->c->insts[i];
  zmi_step *t = emit(b, ZMI_ST_OUTPUT);
  t->x = x->index;
  t->a = place_of(b, x->a);
  t->y = lane_type(b->c->insts[x->a].type);
  t->flag = b->direct[x->a] == 1 + x->index;
}

static void emit_memory(builder *b, int32_t i) {
  const zmi_inst *x = &b->c->insts[i];
  static const uint8_t kinds[ZMI_K_COUNT] = {[ZMI_K_LOAD] = ZMI_ST_LOAD,
                                             [ZMI_K_STORE] = ZMI_ST_STORE,
                                             [ZMI_K_ATOMIC_ADD] = ZMI_ST_ATOMIC,
                                             [ZMI_K_SHARED_LOAD] = ZMI_ST_SHARED_LOAD,
                                             [ZMI_K_SHARED_STORE] = ZMI_ST_SHARED_STORE};
  bool loads = x->op == ZMI_K_LOAD || x->op == ZMI_K_SHARED_LOAD, shared = x->op == ZMI_K_SHARED_LOAD || x->op == ZMI_K_SHARED_STORE;
  if (loads) {
    b->slot[i] = take(b, is_wide(x->type));
    b->owned[i] = 1;
  }
  zmi_step *t = emit(b, (zmi_step_kind)kinds[x->op]);
  t->type = lane_type(loads ? x->type : b->c->insts[x->b].type);
  t->wide = is_wide(loads ? x->type : b->c->insts[x->b].type);
  t->out = loads ? b->slot[i] : -1;
  t->a = place_of(b, x->a);
  t->b = loads ? -1 : place_of(b, x->b);
  t->y = lane_type(b->c->insts[x->a].type);
  t->x = shared ? b->aux[x->index] : x->index;
  t->imm = shared ? b->c->insts[x->index].extra : 0;
  t->flag = shared && b->c->insts[x->index].index == 1;
}

// ---- branches and loops ----

static void open_branch(builder *b, int32_t i) {
  const zmi_inst *x = &b->c->insts[i];
  bool loop = x->op == ZMI_K_FOR, same = loop && b->uniform[x->a] && b->uniform[x->b] && b->uniform[x->c];
  int32_t mask = same ? -1 : take(b, false);
  if (loop) b->slot[i] = take(b, false);
  b->aux[i] = (int32_t)b->p->count;
  if (!same) b->parted++;
  zmi_step *t = emit(b, loop ? ZMI_ST_FOR : ZMI_ST_IF);
  t->a = place_of(b, x->a);
  if (loop) {
    t->b = place_of(b, x->b);
    t->c = place_of(b, x->c);
    t->out = b->slot[i];
    t->y = mask;
    t->flag = b->last[i] == i; // nobody asks for the counter
  } else {
    t->out = mask;
  }
}

static void close_branch(builder *b, int32_t i) { // ELSE, or END of IF and FOR
  int32_t opener = b->opener[i], at = b->aux[opener];
  zmi_step open = b->p->steps[at];
  bool loop = open.kind == ZMI_ST_FOR;
  zmi_cop op = b->c->insts[i].op;
  zmi_step *t = emit(b, op == ZMI_K_ELSE ? ZMI_ST_ELSE : loop ? ZMI_ST_ENDFOR : ZMI_ST_ENDIF);
  t->a = open.a, t->b = open.b, t->c = open.c, t->out = open.out, t->y = open.y, t->flag = open.flag;
  t->x = at + 1;
  if (b->status != ZM_OK) return;
  b->p->steps[at].x = (int32_t)b->p->count - (loop ? 0 : 1);
  if (op == ZMI_K_ELSE) {
    b->aux[opener] = (int32_t)b->p->count - 1; // END is where ELSE leads to
    return;
  }
  int32_t mask = loop ? open.y : open.out;
  if (mask >= 0) {
    give(b, false, mask);
    b->parted--;
  }
  if (loop) give(b, false, open.out);
}

// ---- blocks of places ----

static bool add_spread(builder *b, int32_t row, int32_t slot, bool wide) {
  zmi_routine *p = b->p;
  if (!ZMI_GROW(p->spreads, p->spread_capacity, p->spread_count + 1)) return no_memory(b), false;
  p->spreads[p->spread_count++] = (zmi_spread){row, slot, wide};
  return true;
}

static bool is_set_inside(const builder *b, int32_t variable, int32_t begin) {
  for (int32_t i = begin; i < b->end[begin]; i++) {
    if (b->c->insts[i].op == ZMI_K_SET && b->c->insts[i].index == variable) return true;
  }
  return false;
}

// The value or variable v of outside is needed inside. Variables that are set are noted by -2: later.
static void see(builder *b, int32_t v, int32_t begin, bool variable) {
  if (v < 0 || v >= begin || b->uniform[v] || b->inner[v] != -1 || b->c->insts[v].op == ZMI_K_SHARED) return;
  bool wide = is_wide(b->c->insts[v].type);
  if (variable && is_set_inside(b, v, begin)) {
    b->inner[v] = -2;
    return;
  }
  b->inner[v] = take(b, wide);
  add_spread(b, b->slot[v], b->inner[v], wide);
}

static void add_fold(builder *b, int32_t i) {
  zmi_routine *p = b->p;
  const zmi_inst *x = &b->c->insts[i];
  static const uint8_t kinds[ZMI_K_COUNT] = {
      [ZMI_K_SUM] = ZMI_REDUCE_SUM,     [ZMI_K_SUMSQ] = ZMI_REDUCE_SUMSQ, [ZMI_K_PROD] = ZMI_REDUCE_PROD, [ZMI_K_MAXIMUM] = ZMI_REDUCE_MAX,
      [ZMI_K_MINIMUM] = ZMI_REDUCE_MIN, [ZMI_K_ARGMAX] = ZMI_REDUCE_MAX,  [ZMI_K_ARGMIN] = ZMI_REDUCE_MIN};
  if (!ZMI_GROW(p->folds, p->fold_capacity, p->fold_count + 1)) {
    no_memory(b);
    return;
  }
  b->slot[i] = take(b, is_wide(x->type));
  b->owned[i] = 1;
  b->aux[i] = (int32_t)p->fold_count;
  p->folds[p->fold_count++] = (zmi_fold){.kind = kinds[x->op],
                                         .type = lane_type(b->c->insts[x->a].type),
                                         .arg = x->op == ZMI_K_ARGMAX || x->op == ZMI_K_ARGMIN,
                                         .least = x->op == ZMI_K_ARGMIN || x->op == ZMI_K_MINIMUM,
                                         .result = b->slot[i]};
}

static void open_block(builder *b, int32_t begin) {
  zmi_routine *p = b->p;
  zmi_block block = {
      .join = -1, .spread = (int32_t)p->spread_count, .fold = (int32_t)p->fold_count, .falling = b->c->insts[begin].extra != 0};
  if (!ZMI_GROW(p->blocks, p->block_capacity, p->block_count + 1)) {
    no_memory(b);
    return;
  }
  const bool joined = b->part[begin] >= 0;
  for (int32_t i = begin; i < b->end[begin]; i++) {
    const zmi_inst *x = &b->c->insts[i];
    int32_t v[3];
    for (int o = 0; o < operands_of(x, v); o++) see(b, v[o], begin, false);
    if (x->op == ZMI_K_GET || x->op == ZMI_K_SET || x->op == ZMI_K_GET_RIGHT) see(b, x->index, begin, true);
    if (is_reduction(x->op)) add_fold(b, i);
  }
  block.spreads = (int32_t)p->spread_count - block.spread;
  for (int32_t v = 0; v < begin; v++) {
    if (b->inner[v] != -2) continue;
    bool wide = is_wide(b->c->insts[v].type);
    b->inner[v] = joined ? take(b, wide) : b->slot[v];
    if (joined && add_spread(b, b->slot[v], b->inner[v], wide)) block.joined++;
    if (!joined) block.serial = true;
  }
  block.scan = (int32_t)p->spread_count;
  for (int32_t i = begin; i < b->end[begin]; i++) {
    bool wide = is_wide(b->c->insts[i].type);
    if (b->c->insts[i].op != ZMI_K_SCAN_SUM) continue;
    b->aux[i] = take(b, wide);
    if (add_spread(b, -1, b->aux[i], wide)) block.scans++;
  }
  block.folds = (int32_t)p->fold_count - block.fold;
  emit(b, ZMI_ST_BLOCK)->x = (int32_t)p->block_count;
  b->aux[begin] = (int32_t)p->count - 1;
  block.first = (int32_t)p->count;
  p->blocks[p->block_count++] = block;
  b->block = begin;
}

static void close_block(builder *b, int32_t begin) {
  zmi_routine *p = b->p;
  zmi_block *block = &p->blocks[p->block_count - 1];
  block->end = (int32_t)p->count;
  p->steps[b->aux[begin]].y = block->end;
  for (int32_t i = block->spread; i < block->scan + block->scans; i++) give(b, p->spreads[i].wide, p->spreads[i].slot);
  for (int32_t v = 0; v < begin; v++) b->inner[v] = -1;
  b->block = -1;
}

static void emit_special(builder *b, int32_t i) {
  const zmi_inst *x = &b->c->insts[i];
  zmi_step *t;
  switch ((int)x->op) {
  case ZMI_K_PLACE:
  case ZMI_K_THREAD:
  case ZMI_K_GROUP:
    b->slot[i] = take(b, false);
    b->owned[i] = 1;
    t = emit(b, x->op == ZMI_K_GROUP ? ZMI_ST_GROUP : ZMI_ST_PLACE);
    t->out = b->slot[i];
    return;
  case ZMI_K_IF:
  case ZMI_K_FOR:
    open_branch(b, i);
    return;
  case ZMI_K_ELSE:
    close_branch(b, i);
    return;
  case ZMI_K_ELEMENTS:
    open_block(b, i);
    return;
  case ZMI_K_JOIN:
    b->recent = -1;
    b->p->blocks[b->p->block_count - 1].join = (int32_t)b->p->count;
    return;
  case ZMI_K_END:
    if (b->c->insts[b->opener[i]].op == ZMI_K_ELEMENTS)
      close_block(b, b->opener[i]);
    else
      close_branch(b, i);
    return;
  case ZMI_K_SCAN_SUM:
    b->slot[i] = take(b, is_wide(x->type));
    b->owned[i] = 1;
    t = emit(b, ZMI_ST_SCAN);
    t->type = lane_type(x->type);
    t->wide = is_wide(x->type);
    t->out = b->slot[i];
    t->a = place_of(b, x->a);
    t->b = b->aux[i];
    return;
  case ZMI_K_SHARED:
    b->aux[i] = (int32_t)b->p->shared_bytes;
    if (x->extra < 0 || (size_t)x->extra > ZMI_INTERPRET_BIG / 8 / (x->index == 1 ? ZMI_INTERPRET_THREADS : 1)) {
      b->status = zmi_fail(ZM_ERROR_LIMIT, "kernel %s: shared memory of %d elements is too large", b->c->name, (int)x->extra);
      return;
    }
    b->p->shared_bytes += ((size_t)x->extra * (x->index == 1 ? ZMI_INTERPRET_THREADS : 1) * (is_wide(x->type) ? 8 : 4) + 63) / 64 * 64;
    return;
  default:
    if (is_reduction(x->op)) {
      t = emit(b, ZMI_ST_REDUCE);
      t->x = b->aux[i];
      t->a = place_of(b, x->a);
    }
    return; // BARRIER: lanes walk together anyway
  }
}

static void build_instruction(builder *b, int32_t i) {
  const zmi_inst *x = &b->c->insts[i];
  if (b->uniform[i]) return;
  if (is_plain(x)) {
    bool direct = b->direct[i] != 0;
    if (direct) {
      b->slot[i] = new_slot(b, is_wide(x->type));
      zmi_step *t = emit(b, ZMI_ST_AIM);
      t->x = b->direct[i] - 1;
      t->out = b->slot[i];
    }
    bury(b, i); // a loop reads a lane before it writes it: the result may take the slot of an operand
    if (!direct) b->slot[i] = take(b, is_wide(x->type));
    b->owned[i] = !direct;
    emit_plain(b, i, b->slot[i]);
    b->recent = i;
    if (b->last[i] == i) dies_at(b, i, i); // nobody needs it
  } else if (x->op == ZMI_K_INPUT) {
    emit_input(b, i);
  } else if (x->op == ZMI_K_GET || x->op == ZMI_K_GET_RIGHT) {
    emit_get(b, i);
  } else if (x->op == ZMI_K_VAR || x->op == ZMI_K_SET) {
    emit_set(b, i);
  } else if (x->op == ZMI_K_OUTPUT) {
    emit_output(b, i);
  } else if (zmi_cop_rows[x->op].kind == 'M') {
    emit_memory(b, i);
  } else {
    emit_special(b, i);
  }
  bury(b, i);
}

static zm_status build(builder *b) {
  const zmi_code *c = b->c;
  const int32_t count = (int32_t)c->count;
  find_blocks(b);
  if (b->status != ZM_OK) return b->status;
  find_uniform(b);
  find_lives(b);
  find_direct(b);
  for (int32_t i = 0; i < count; i++) {
    if (b->uniform[i]) emit_uniform(b, i);
  }
  b->p->prologue = b->p->count;
  for (int32_t i = 0; i < count && b->status == ZM_OK; i++) build_instruction(b, i);
  return b->status;
}

static zm_status build_with(builder *b) {
  const size_t count = b->c->count ? b->c->count : 1;
  int32_t *words = zmi_calloc(count, 9 * sizeof *words);
  int8_t *bytes = zmi_calloc(count, 3);
  b->status = words && bytes ? ZM_OK : ZM_ERROR_MEMORY;
  if (b->status == ZM_OK) {
    int32_t **arrays[9] = {&b->opener, &b->end, &b->part, &b->last, &b->slot, &b->inner, &b->dying, &b->next, &b->aux};
    for (size_t i = 0; i < 9; i++) *arrays[i] = words + i * count;
    b->uniform = bytes, b->owned = bytes + count, b->direct = bytes + 2 * count;
    for (size_t i = 0; i < count; i++) b->inner[i] = b->dying[i] = b->next[i] = -1;
    for (int i = 0; i < ZMI_CODE_MAX; i++) b->input_slot[i] = -1;
    b->block = b->recent = -1;
    build(b);
  }
  zmi_free(words);
  zmi_free(bytes);
  zmi_free(b->spare[0]);
  zmi_free(b->spare[1]);
  return b->status;
}

zmi_routine *zmi_routine_new(const zmi_code *code) {
  zmi_routine *p = zmi_calloc(1, sizeof *p);
  if (!p) return NULL;
  p->form = code->form, p->nin = code->nin, p->nout = code->nout, p->nparams = code->nparams;
  for (int i = 0; i < ZMI_CODE_MAX; i++) {
    p->in[i] = (uint8_t)code->in[i];
    p->out[i] = (uint8_t)code->out[i];
    p->per_row[i] = code->per_row[i];
  }
  builder b = {.c = code, .p = p};
  zm_status status = build_with(&b);
  // Of a group all threads are at work at a time; otherwise sixteen lanes must fit.
  size_t bytes = zmi_play_bytes(p, code->form == ZMI_FORM_TILES ? ZMI_INTERPRET_THREADS : 16);
  if (status == ZM_OK && bytes > ZMI_INTERPRET_BIG) {
    status = zmi_fail(ZM_ERROR_LIMIT, "kernel %s: too large to be interpreted: its values and shared memory take %zu bytes, at most %d",
                      code->name, bytes, ZMI_INTERPRET_BIG);
  }
  if (status == ZM_OK) return p;
  zmi_routine_free(p);
  return NULL;
}

void zmi_routine_free(zmi_routine *p) {
  if (!p) return;
  zmi_free(p->steps);
  zmi_free(p->offset);
  zmi_free(p->blocks);
  zmi_free(p->spreads);
  zmi_free(p->folds);
  zmi_free(p);
}
