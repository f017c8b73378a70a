// Building typed code: makers that share values and fold constants, removal of what no result needs, the content hash.
#include "kernel/code_build.h"

#include <string.h>

enum { BUCKETS = 4096 };

struct zmi_build {
  int32_t heads[BUCKETS]; // of chains of equal hashes, the newest first
  int32_t *next;          // of each instruction in its chain
  size_t next_capacity;
  int32_t open[ZMI_CODE_DEPTH]; // openers of the blocks around
  int depth;
  bool failed; // some maker failed: its caller may have taken -1 for "nothing"
};

zmi_code *zmi_code_new(int form, const char *name) {
  zmi_code *c = zmi_calloc(1, sizeof *c);
  if (!c) return NULL;
  c->form = form;
  strncpy(c->name, name ? name : "kernel", sizeof c->name - 1);
  c->build = zmi_calloc(1, sizeof *c->build);
  if (!c->build) {
    zmi_code_free(c);
    return NULL;
  }
  memset(c->build->heads, -1, sizeof c->build->heads);
  return c;
}

static void release_build(zmi_code *c) {
  if (c->build) zmi_free(c->build->next);
  zmi_free(c->build);
  c->build = NULL;
}

void zmi_code_free(zmi_code *c) {
  if (!c) return;
  release_build(c);
  for (int i = 0; i < 3; i++) zmi_free(c->raw[i]);
  zmi_free(c->insts);
  zmi_free(c);
}

zmi_code *zmi_code_copy(const zmi_code *c) {
  zmi_code *copy = zmi_calloc(1, sizeof *copy);
  if (!copy) return NULL;
  *copy = *c;
  copy->build = NULL;
  memset(copy->raw, 0, sizeof copy->raw);
  copy->capacity = c->count;
  copy->insts = zmi_malloc((c->count ? c->count : 1) * sizeof *c->insts);
  bool ok = copy->insts != NULL;
  if (ok && c->count) memcpy(copy->insts, c->insts, c->count * sizeof *c->insts);
  for (int i = 0; i < 3 && ok; i++) ok = !c->raw[i] || (copy->raw[i] = zmi_strdup(c->raw[i])) != NULL;
  if (ok) return copy;
  zmi_code_free(copy);
  return NULL;
}

zmi_ctype zmi_ctype_of(zm_dtype dtype) {
  static const unsigned char types[ZM_DTYPE_COUNT] = {
      [ZM_BOOL] = ZMI_C_BOOL, [ZM_U8] = ZMI_C_UINT,   [ZM_U16] = ZMI_C_UINT,   [ZM_U32] = ZMI_C_UINT,
      [ZM_U64] = ZMI_C_ULONG, [ZM_I8] = ZMI_C_INT,    [ZM_I16] = ZMI_C_INT,    [ZM_I32] = ZMI_C_INT,
      [ZM_I64] = ZMI_C_LONG,  [ZM_F16] = ZMI_C_FLOAT, [ZM_BF16] = ZMI_C_FLOAT, [ZM_F32] = ZMI_C_FLOAT,
  };
  return (unsigned)dtype < ZM_DTYPE_COUNT ? (zmi_ctype)types[dtype] : ZMI_C_NONE;
}

const char *zmi_ctype_name(zmi_ctype t) {
  static const char *const names[ZMI_C_COUNT] = {"nothing", "bool", "int", "uint", "long", "ulong", "float"};
  return (unsigned)t < ZMI_C_COUNT ? names[t] : "?";
}

static uint64_t mix(uint64_t h) {
  h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
  h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
  return h ^ h >> 33;
}

static uint64_t inst_bits(const zmi_inst *x) { // of the immediate value
  uint32_t f;
  memcpy(&f, &x->imm.f, sizeof f);
  return x->op != ZMI_K_CONST ? 0 : x->type == ZMI_C_FLOAT ? f : (uint64_t)x->imm.i;
}

static uint64_t inst_hash(const zmi_inst *x, uint64_t seed) {
  uint64_t h = mix(seed + ((uint64_t)x->op << 8 | (uint64_t)x->type));
  h = mix(h + ((uint64_t)(uint32_t)x->a << 32 | (uint32_t)x->b));
  h = mix(h + ((uint64_t)(uint32_t)x->c << 32 | (uint32_t)x->index));
  return mix(h + inst_bits(x) + (uint64_t)(uint32_t)x->extra * 0x9e3779b97f4a7c15u);
}

static bool inst_equal(const zmi_inst *x, const zmi_inst *y) {
  return x->op == y->op && x->type == y->type && x->a == y->a && x->b == y->b && x->c == y->c && x->index == y->index &&
         x->extra == y->extra && inst_bits(x) == inst_bits(y);
}

// The same operands always give the same value, wherever the instruction stands inside its block.
static bool is_pure(const zmi_inst *x) {
  char kind = zmi_cop_rows[x->op].kind;
  return (kind != 'X' && kind != 'M') || (x->op >= ZMI_K_SUM && x->op <= ZMI_K_SCAN_SUM);
}

static void close_blocks(zmi_build *b, const zmi_code *c, int32_t opener) { // forgets the values made since the opener
  for (int32_t i = (int32_t)c->count - 1; i > opener; i--) {
    if (!is_pure(&c->insts[i])) continue;
    uint32_t bucket = (uint32_t)inst_hash(&c->insts[i], 0) % BUCKETS;
    if (b->heads[bucket] == i) b->heads[bucket] = b->next[i];
  }
}

static bool track_blocks(zmi_code *c, const zmi_inst *x) {
  zmi_build *b = c->build;
  switch ((int)x->op) {
  case ZMI_K_FOR:
  case ZMI_K_IF:
  case ZMI_K_ELEMENTS:
    if (b->depth == ZMI_CODE_DEPTH) {
      zmi_fail(ZM_ERROR_LIMIT, "kernel %s: blocks nest deeper than %d", c->name, ZMI_CODE_DEPTH);
      return false;
    }
    b->open[b->depth++] = (int32_t)c->count;
    return true;
  case ZMI_K_ELSE:
  case ZMI_K_JOIN:
  case ZMI_K_END:
    if (b->depth == 0) {
      zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: %s without a block", c->name, zmi_cop_rows[x->op].name);
      return false;
    }
    close_blocks(b, c, b->open[b->depth - 1]);
    if (x->op == ZMI_K_END) b->depth--;
    return true;
  default:
    return true;
  }
}

static int append_to(zmi_code *c, const zmi_inst *x) {
  zmi_build *b = c->build;
  if (!b) {
    zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: finished code cannot grow", c->name);
    return -1;
  }
  bool pure = is_pure(x);
  uint32_t bucket = (uint32_t)inst_hash(x, 0) % BUCKETS;
  if (pure) {
    for (int32_t i = b->heads[bucket]; i >= 0; i = b->next[i]) {
      if (inst_equal(&c->insts[i], x)) return i;
    }
  }
  if (c->count >= ZMI_CODE_LIMIT) {
    zmi_fail(ZM_ERROR_LIMIT, "kernel %s: more than %d instructions", c->name, ZMI_CODE_LIMIT);
    return -1;
  }
  if (!ZMI_GROW(c->insts, c->capacity, c->count + 1) || !ZMI_GROW(b->next, b->next_capacity, c->count + 1)) return -1;
  if (!track_blocks(c, x)) return -1;
  int i = (int)c->count++;
  c->insts[i] = *x;
  b->next[i] = -1;
  if (pure) {
    b->next[i] = b->heads[bucket];
    b->heads[bucket] = i;
  }
  return i;
}

static int append(zmi_code *c, const zmi_inst *x) {
  int v = append_to(c, x);
  if (v < 0 && c->build) c->build->failed = true;
  return v;
}

int zmi_code_const_f(zmi_code *c, float value) {
  if (value != value) value = __builtin_nanf(""); // one NaN, so that equal constants are one
  return append(c, &(zmi_inst){.op = ZMI_K_CONST, .type = ZMI_C_FLOAT, .a = -1, .b = -1, .c = -1, .imm.f = value});
}

int zmi_code_const_i(zmi_code *c, zmi_ctype type, int64_t value) {
  if (type == ZMI_C_FLOAT) return zmi_code_const_f(c, (float)value);
  if (type == ZMI_C_INT) value = (int32_t)(uint32_t)(uint64_t)value;
  if (type == ZMI_C_UINT) value = (int64_t)(uint32_t)(uint64_t)value;
  if (type == ZMI_C_BOOL) value = value != 0;
  return append(c, &(zmi_inst){.op = ZMI_K_CONST, .type = type, .a = -1, .b = -1, .c = -1, .imm.i = value});
}

int zmi_code_leaf(zmi_code *c, zmi_cop op, zmi_ctype type, int index, int extra) {
  return append(c, &(zmi_inst){.op = op, .type = type, .a = -1, .b = -1, .c = -1, .index = index, .extra = extra});
}

static zmi_ctype type_at(const zmi_code *c, int v) {
  return v >= 0 && (size_t)v < c->count ? c->insts[v].type : ZMI_C_NONE;
}

zm_status zmi_inst_type(const zmi_code *c, const zmi_inst *x, zmi_ctype *type) {
  const zmi_cop_row *row = &zmi_cop_rows[x->op];
  zmi_ctype a = type_at(c, x->a), b = row->operands > 1 ? type_at(c, x->b) : a, d = row->operands > 2 ? type_at(c, x->c) : b;
  bool ok = false;
  switch (row->kind) {
  case 'A':
    ok = a > ZMI_C_BOOL && a == b, *type = a;
    break;
  case 'F':
    ok = a == ZMI_C_FLOAT && b == a && d == a, *type = a;
    break;
  case 'B':
    ok = (a > ZMI_C_BOOL || (row->operands == 2 && x->op <= ZMI_K_BIT_XOR)) && a > ZMI_C_NONE && a < ZMI_C_FLOAT && a == b, *type = a;
    break;
  case 'C':
    ok = a > ZMI_C_NONE && a == b && (row->operands == 2 || a == ZMI_C_FLOAT), *type = ZMI_C_BOOL;
    break;
  case 'L':
    ok = a == ZMI_C_BOOL && b == a, *type = a;
    break;
  case 'S':
    ok = a == ZMI_C_BOOL && b > ZMI_C_NONE && b == d, *type = b;
    break;
  case 'T':
    ok = a > ZMI_C_NONE && x->type > ZMI_C_NONE, *type = x->type;
    break;
  default:
    ok = true, *type = x->type;
  }
  if (ok) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: %s of %s%s%s", c->name, row->name, zmi_ctype_name(a), row->operands > 1 ? " and " : "",
                  row->operands > 1 ? zmi_ctype_name(row->operands > 2 ? d : b) : "");
}

int zmi_code_op(zmi_code *c, zmi_cop op, int a, int b, int d) {
  int operands = zmi_cop_rows[op].operands;
  if (a < 0 || (operands > 1 && b < 0) || (operands > 2 && d < 0)) return -1; // its maker has said why
  zmi_inst x = {.op = op, .a = a, .b = operands > 1 ? b : -1, .c = operands > 2 ? d : -1};
  if (zmi_inst_type(c, &x, &x.type) != ZM_OK) {
    if (c->build) c->build->failed = true;
    return -1;
  }
  int same = zmi_code_simplify(c, &x);
  if (same != ZMI_NOT_SIMPLER) return same;
  return append(c, &x);
}

int zmi_code_convert(zmi_code *c, zmi_ctype to, int a) {
  if (a < 0) return -1;
  if (type_at(c, a) == to) return a;
  zmi_inst x = {.op = ZMI_K_CONVERT, .type = to, .a = a, .b = -1, .c = -1};
  int same = zmi_code_simplify(c, &x);
  return same != ZMI_NOT_SIMPLER ? same : append(c, &x);
}

int zmi_code_emit(zmi_code *c, const zmi_inst *inst) {
  const int operands[] = {inst->a, inst->b, inst->c};
  for (int i = 0; i < zmi_cop_rows[inst->op].operands; i++) {
    if (operands[i] < 0) return -1; // its maker has said why
  }
  zmi_inst reduced = *inst;
  if (inst->op >= ZMI_K_SUM && inst->op <= ZMI_K_PROD) { // lanes start with 0 or 1 and round alike
    reduced.a = zmi_code_without(c, inst->op == ZMI_K_SUM ? ZMI_K_ADD : ZMI_K_MUL, inst->a);
    inst = &reduced;
  }
  if (inst->op == ZMI_K_BITCAST) {
    zmi_inst x = *inst;
    int same = zmi_code_simplify(c, &x);
    if (same != ZMI_NOT_SIMPLER) return same;
  }
  return append(c, inst);
}

// ---- what is needed ----
typedef struct sweep {
  zmi_code *c;
  bool *needed;    // of each instruction
  bool *read;      // of each VAR: some needed instruction reads it
  int32_t *parent; // opener of the block around each instruction, -1 outside
  int32_t *place;  // new number of each instruction
  bool changed;
} sweep;

static void need(sweep *s, int32_t v) {
  if (v < 0 || s->needed[v]) return;
  s->needed[v] = true;
  s->changed = true;
}

static void find_parents(sweep *s) {
  int32_t open[ZMI_CODE_DEPTH + 1];
  int depth = 0;
  for (int32_t i = 0; i < (int32_t)s->c->count; i++) {
    zmi_cop op = s->c->insts[i].op;
    s->parent[i] = depth ? open[depth - 1] : -1;
    if (op == ZMI_K_END) depth--;
    if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELEMENTS) open[depth++] = i;
  }
}

static bool is_root(zmi_cop op) {
  return op == ZMI_K_OUTPUT || op == ZMI_K_STORE || op == ZMI_K_ATOMIC_ADD || op == ZMI_K_SHARED_STORE || op == ZMI_K_BARRIER;
}

static void mark(sweep *s) {
  const zmi_code *c = s->c;
  for (int32_t i = (int32_t)c->count - 1; i >= 0; i--) {
    const zmi_inst *x = &c->insts[i];
    if (is_root(x->op)) need(s, i);
    if (x->op == ZMI_K_SET && s->read[x->index]) need(s, i);
    if (!s->needed[i]) continue;
    need(s, x->a), need(s, x->b), need(s, x->c), need(s, s->parent[i]);
    bool var = x->op == ZMI_K_GET || x->op == ZMI_K_SET || x->op == ZMI_K_GET_RIGHT;
    if (var || x->op == ZMI_K_SHARED_LOAD || x->op == ZMI_K_SHARED_STORE) need(s, x->index);
    if (var && x->op != ZMI_K_SET && !s->read[x->index]) s->read[x->index] = s->changed = true;
  }
}

// ENDs of needed blocks, and ELSE and JOIN parts with something needed in them.
static void mark_structure(sweep *s) {
  const zmi_code *c = s->c;
  for (int32_t i = 0; i < (int32_t)c->count; i++) {
    zmi_cop op = c->insts[i].op;
    if (op == ZMI_K_END && s->needed[s->parent[i]]) s->needed[i] = true;
    if ((op != ZMI_K_ELSE && op != ZMI_K_JOIN) || !s->needed[s->parent[i]]) continue;
    for (int32_t j = i + 1; !(c->insts[j].op == ZMI_K_END && s->parent[j] == s->parent[i]); j++) {
      if (s->needed[j] && s->parent[j] == s->parent[i]) s->needed[i] = true;
    }
  }
}

static void compact(sweep *s) {
  zmi_code *c = s->c;
  int32_t n = 0;
  for (int32_t i = 0; i < (int32_t)c->count; i++) {
    if (!s->needed[i]) continue;
    zmi_inst x = c->insts[i];
    int32_t *operands[] = {&x.a, &x.b, &x.c};
    for (int k = 0; k < 3; k++) {
      if (*operands[k] >= 0) *operands[k] = s->place[*operands[k]];
    }
    if (x.op == ZMI_K_GET || x.op == ZMI_K_SET || x.op == ZMI_K_GET_RIGHT || x.op == ZMI_K_SHARED_LOAD || x.op == ZMI_K_SHARED_STORE) {
      x.index = s->place[x.index];
    }
    s->place[i] = n;
    c->insts[n++] = x;
  }
  c->count = (size_t)n;
}

zm_status zmi_code_sweep(zmi_code *c) {
  sweep s = {.c = c};
  size_t n = c->count ? c->count : 1;
  s.needed = zmi_calloc(n, sizeof *s.needed);
  s.read = zmi_calloc(n, sizeof *s.read);
  s.parent = zmi_calloc(n, sizeof *s.parent);
  s.place = zmi_calloc(n, sizeof *s.place);
  bool ok = s.needed && s.read && s.parent && s.place;
  if (ok) {
    find_parents(&s);
    do {
      s.changed = false;
      mark(&s);
    } while (s.changed);
    mark_structure(&s);
    compact(&s);
  }
  zmi_free(s.needed), zmi_free(s.read), zmi_free(s.parent), zmi_free(s.place);
  return ok ? ZM_OK : zm_last_status();
}

static void set_key(zmi_code *c) {
  for (int k = 0; k < 2; k++) {
    uint64_t h = mix(k ? 0x2545f4914f6cdd1du : 0x9e3779b97f4a7c15u);
    h = mix(h + ((uint64_t)c->form << 48 | (uint64_t)c->nin << 32 | (uint64_t)c->nout << 16 | (uint64_t)c->nparams));
    for (int i = 0; i < c->nin; i++) h = mix(h + (uint64_t)c->in[i] * 2 + c->in_per_row[i]);
    for (int i = 0; i < c->nout; i++) h = mix(h + (uint64_t)c->out[i] * 2 + c->per_row[i]);
    for (size_t i = 0; i < c->count; i++) h = inst_hash(&c->insts[i], h);
    for (int i = 0; i < 3; i++) {
      for (const char *s = c->raw[i]; s && *s; s++) h = (h ^ (unsigned char)*s) * 0x100000001b3u;
      h = mix(h + (uint64_t)i);
    }
    c->key[k] = h;
  }
}

zm_status zmi_code_finish(zmi_code *c) {
  if (c->build && c->build->failed)
    return zm_last_status() == ZM_OK ? zmi_fail(ZM_ERROR_MEMORY, "kernel %s: not built", c->name) : zm_last_status();
  if (c->build && c->build->depth != 0) return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: a block is not closed", c->name);
  if (zmi_code_sweep(c) != ZM_OK || zmi_code_verify(c) != ZM_OK) return zm_last_status();
  release_build(c);
  set_key(c);
  return ZM_OK;
}
