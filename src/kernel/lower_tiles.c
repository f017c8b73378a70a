// Lowering of what tiles have beyond plain instructions: grids of several dims, and functions of simdgroups, which become stores to
// threadgroup memory, barriers and loads: the same bits wherever they run.
#include "kernel/lower.h"

enum { WIDTH = 32, MOST_THREADS = 1024 };

static int whole(zmi_lower *l, int64_t value) {
  return zmi_code_const_i(l->c, ZMI_C_INT, value);
}

static int op2(zmi_lower *l, zmi_cop op, int a, int b) {
  return zmi_code_op(l->c, op, a, b, -1);
}

static int leaf(zmi_lower *l, zmi_cop op) {
  return zmi_code_leaf(l->c, op, ZMI_C_INT, 0, 0);
}

// ---- grids ----

// The size of a dim of the grid. There is one at least; further ones that are not given are 1.
static int size_of(zmi_lower *l, bool threads, int dim) {
  const zmi_kernel *k = l->k;
  if (dim >= k->grid_rank[threads]) return whole(l, 1);
  if (k->grid_rank[threads] == 1) return leaf(l, threads ? ZMI_K_THREADS : ZMI_K_GROUPS);
  return zmi_code_convert(l->c, ZMI_C_INT, zmi_lower_expression(l, k->grid[threads][dim]));
}

int zmi_lower_grid(zmi_lower *l, const zmi_node *n) {
  const bool threads = n->op == ZMI_K_THREAD || n->op == ZMI_K_THREADS;
  const int dims = l->k->grid_rank[threads];
  if (n->op == ZMI_K_THREADS || n->op == ZMI_K_GROUPS) return size_of(l, threads, n->op2);
  if (n->op2 >= dims) return whole(l, 0);
  int place = leaf(l, (zmi_cop)n->op);
  for (int d = 0; d < n->op2; d++) place = op2(l, ZMI_K_DIV, place, size_of(l, threads, d));
  return n->op2 + 1 < dims ? op2(l, ZMI_K_REM, place, size_of(l, threads, n->op2)) : place;
}

// ---- simdgroups ----

zm_status zmi_lower_simd_memory(zmi_lower *l) { // outermost, as all of it; what is not needed goes away
  for (int i = 0; i < 2; i++) {
    l->told[i] = zmi_emit_x(l, ZMI_K_SHARED, i ? ZMI_C_INT : ZMI_C_FLOAT, -1, -1, 2, MOST_THREADS);
    if (l->told[i] < 0) return zm_last_status();
  }
  return ZM_OK;
}

// Whether all threads of a group have the same value, as far as the code alone tells.
static bool is_uniform(const zmi_code *c, const bool *uniform, int i) {
  const zmi_inst *x = &c->insts[i];
  const int32_t operands[] = {x->a, x->b, x->c};
  if (x->op == ZMI_K_THREAD || x->op == ZMI_K_GET || x->op == ZMI_K_SHARED_LOAD) return false;
  for (int o = 0; o < zmi_cop_rows[x->op].operands; o++) {
    if (operands[o] >= 0 && !uniform[operands[o]]) return false;
  }
  return true;
}

static bool all_come_here(const zmi_code *c, bool *uniform) {
  int open[64], depth = 0;
  for (int i = 0; i < (int)c->count; i++) {
    const zmi_cop op = c->insts[i].op;
    uniform[i] = is_uniform(c, uniform, i);
    if (op == ZMI_K_END) depth--;
    if (op == ZMI_K_FOR || op == ZMI_K_IF) open[depth++] = i;
  }
  for (int d = 0; d < depth; d++) {
    if (!uniform[open[d]]) return false;
  }
  return true;
}

// What each thread is told: the value of the thread in its simdgroup that `lane` says, its own if there is no such thread. `there`: whether
// there is one, if it is not NULL.
static int told(zmi_lower *l, int value, int lane, int *there) {
  const zmi_ctype type = zmi_type_at(l, value);
  const int memory = l->told[type != ZMI_C_FLOAT];
  const int thread = leaf(l, ZMI_K_THREAD), first = op2(l, ZMI_K_SUB, thread, op2(l, ZMI_K_BIT_AND, thread, whole(l, WIDTH - 1)));
  const int from = op2(l, ZMI_K_ADD, first, lane);
  int good = op2(l, ZMI_K_AND, op2(l, ZMI_K_GE, lane, whole(l, 0)), op2(l, ZMI_K_LT, lane, whole(l, WIDTH)));
  good = op2(l, ZMI_K_AND, good, op2(l, ZMI_K_LT, from, leaf(l, ZMI_K_THREADS)));
  const int place = zmi_code_op(l->c, ZMI_K_SELECT, good, from, thread);
  const int stored = zmi_code_convert(l->c, type == ZMI_C_FLOAT ? type : ZMI_C_INT, value);
  if (place < 0 || stored < 0) return -1;
  if (zmi_emit_x(l, ZMI_K_SHARED_STORE, ZMI_C_NONE, thread, stored, memory, 0) < 0) return -1;
  if (zmi_emit_x(l, ZMI_K_BARRIER, ZMI_C_NONE, -1, -1, 0, 0) < 0) return -1;
  const int found = zmi_emit_x(l, ZMI_K_SHARED_LOAD, type == ZMI_C_FLOAT ? type : ZMI_C_INT, place, -1, memory, 0);
  if (zmi_emit_x(l, ZMI_K_BARRIER, ZMI_C_NONE, -1, -1, 0, 0) < 0) return -1;
  if (there) *there = good;
  return zmi_code_convert(l->c, type, found);
}

static int own_lane(zmi_lower *l) {
  return op2(l, ZMI_K_BIT_AND, leaf(l, ZMI_K_THREAD), whole(l, WIDTH - 1));
}

// Lane l takes lane l + h for h = 16, 8, 4, 2, 1; the result is what lane 0 has then.
static int joined(zmi_lower *l, zmi_cop op, int value) {
  for (int h = WIDTH / 2; h > 0 && value >= 0; h /= 2) {
    int there, other = told(l, value, op2(l, ZMI_K_ADD, own_lane(l), whole(l, h)), &there);
    value = other < 0 ? -1 : zmi_code_op(l->c, ZMI_K_SELECT, there, op2(l, op, value, other), value);
  }
  return value < 0 ? -1 : told(l, value, whole(l, 0), NULL);
}

// Lane l takes lane l - h for h = 1, 2, 4, 8, 16.
static int running(zmi_lower *l, bool inclusive, int value) {
  for (int h = 1; h < WIDTH && value >= 0; h *= 2) {
    int there, other = told(l, value, op2(l, ZMI_K_SUB, own_lane(l), whole(l, h)), &there);
    value = other < 0 ? -1 : zmi_code_op(l->c, ZMI_K_SELECT, there, op2(l, ZMI_K_ADD, other, value), value);
  }
  if (inclusive || value < 0) return value;
  int there, before = told(l, value, op2(l, ZMI_K_SUB, own_lane(l), whole(l, 1)), &there);
  return before < 0 ? -1 : zmi_code_op(l->c, ZMI_K_SELECT, there, before, zmi_lower_zero(l, zmi_type_at(l, value)));
}

static int shuffled(zmi_lower *l, zmi_simd op, int value, int by) {
  const int lane = own_lane(l);
  if (value < 0 || by < 0) return -1;
  return told(l, value,
              op == ZMI_SIMD_SHUFFLE       ? by
              : op == ZMI_SIMD_SHUFFLE_XOR ? op2(l, ZMI_K_BIT_XOR, lane, by)
              : op == ZMI_SIMD_SHUFFLE_UP  ? op2(l, ZMI_K_SUB, lane, by)
                                           : op2(l, ZMI_K_ADD, lane, by),
              NULL);
}

int zmi_lower_simd(zmi_lower *l, int32_t node) {
  static const zmi_cop joins[] = {ZMI_K_ADD,    ZMI_K_MUL,     ZMI_K_MAX, ZMI_K_MIN, ZMI_K_BIT_AND,
                                  ZMI_K_BIT_OR, ZMI_K_BIT_XOR, ZMI_K_AND, ZMI_K_OR};
  const zmi_node *n = &l->k->nodes[node];
  const zmi_simd op = (zmi_simd)n->op;
  int value = zmi_lower_expression(l, n->a), by = n->b >= 0 ? zmi_lower_whole(l, n->b, false) : -1;
  if (value < 0 || (n->b >= 0 && by < 0)) return -1;
  const zmi_ctype type = zmi_type_at(l, value);
  if (op == ZMI_SIMD_ALL || op == ZMI_SIMD_ANY)
    value = zmi_code_convert(l->c, ZMI_C_BOOL, value);
  else if (type == ZMI_C_LONG || type == ZMI_C_ULONG)
    return zmi_lower_fail(l, node, "threads of a simdgroup tell each other float, int, uint and bool, not %s", zmi_ctype_name(type));
  else if (type == ZMI_C_FLOAT && op >= ZMI_SIMD_AND && op <= ZMI_SIMD_XOR)
    return zmi_lower_fail(l, node, "this is for integers, not float");
  else if (type == ZMI_C_BOOL && op <= ZMI_SIMD_EXCLUSIVE)
    value = zmi_code_convert(l->c, ZMI_C_INT, value);
  bool *uniform = zmi_calloc(l->c->count + 1, sizeof *uniform);
  if (!uniform) return -1;
  const bool all = all_come_here(l->c, uniform);
  zmi_free(uniform);
  if (!all) {
    return zmi_lower_fail(l, node,
                          "all threads of the group take part: put it in front of branches and loops whose conditions or bounds may differ "
                          "from thread to thread");
  }
  if (op <= ZMI_SIMD_ANY) return joined(l, joins[op], value);
  if (op == ZMI_SIMD_FIRST) return told(l, value, whole(l, 0), NULL);
  return op >= ZMI_SIMD_SHUFFLE ? shuffled(l, op, value, by) : running(l, op == ZMI_SIMD_INCLUSIVE, value);
}
