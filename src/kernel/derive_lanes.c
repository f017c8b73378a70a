// Reverse mode of blocks whose lanes are joined. The block's places go back in lanes too, each lane from its last place. What a lane's last
// value receives comes from the tree of joins, which is run forwards over the last values of all lanes, pair by pair, and then backwards.
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

static int whole(reverse *r, int64_t v) {
  return zmi_code_const_i(r->d.to, ZMI_C_INT, v);
}

static int op2(reverse *r, zmi_cop op, int a, int b) {
  return zmi_code_op(r->d.to, op, a, b, -1);
}

// Values of the variables in the lanes: of each variable of outside, and of each copy of the join what its instructions are.
typedef struct tree {
  int (*value)[ZMI_LANES];     // of each instruction of `from`, if it is a VAR that the block uses
  int (*cotangent)[ZMI_LANES]; // the same
  int *copies;                 // map of the join's instructions, copy after copy
  bool *used;                  // of each VAR
} tree;

// Whether this place is the last of its lane on the way there, which is the first on the way back.
static int is_last(reverse *r, const block *b) {
  int place = zmi_code_leaf(r->d.to, ZMI_K_PLACE, ZMI_C_INT, 0, 0);
  if (at(r, b->begin)->extra) return op2(r, ZMI_K_LT, place, whole(r, ZMI_LANES));
  return op2(r, ZMI_K_GE, place, op2(r, ZMI_K_SUB, zmi_code_leaf(r->d.to, ZMI_K_LENGTH, ZMI_C_INT, 0, 0), whole(r, ZMI_LANES)));
}

static int lane_of_place(reverse *r) {
  return op2(r, ZMI_K_BIT_AND, zmi_code_leaf(r->d.to, ZMI_K_PLACE, ZMI_C_INT, 0, 0), whole(r, ZMI_LANES - 1));
}

static int has_places(reverse *r, int lane) {
  return op2(r, ZMI_K_LT, whole(r, lane), zmi_code_leaf(r->d.to, ZMI_K_LENGTH, ZMI_C_INT, 0, 0));
}

static int sets_between(const reverse *r, int var, int from, int to) { // the last SET of it, -1
  for (int i = to - 1; i >= from; i--) {
    if (at(r, i)->op == ZMI_K_SET && at(r, i)->index == var) return i;
  }
  return -1;
}

// The value in `to` of a variable in front of the block, -1 if another block has made it.
static int before(const reverse *r, const block *b, int var) {
  int set = sets_between(r, var, var + 1, b->begin);
  if (set >= 0 && r->d.around[set] >= 0) return -1;
  return r->d.map[at(r, set >= 0 ? set : var)->a];
}

// What each lane ends with: a sum in which only the lane's last place counts.
static zm_status last_values(reverse *r, const block *b, tree *t) {
  if (emit(r, ZMI_K_ELEMENTS, ZMI_C_NONE, -1, 0, 0) < 0 || zmi_derive_replay(&r->d, b->begin) != ZM_OK) return zm_last_status();
  int last = is_last(r, b), lane = lane_of_place(r);
  for (int v = 0; v < b->begin; v++) {
    int set = t->used[v] ? sets_between(r, v, b->begin, b->join) : -1;
    if (set < 0) continue;
    int value = r->d.map[at(r, set)->a];
    if (at(r, v)->type == ZMI_C_BOOL) value = zmi_code_convert(r->d.to, ZMI_C_INT, value);
    if (value < 0) return zm_last_status();
    const zmi_ctype type = r->d.to->insts[value].type;
    for (int l = 0; l < ZMI_LANES; l++) {
      int here = op2(r, ZMI_K_AND, last, op2(r, ZMI_K_EQ, lane, whole(r, l)));
      int one = zmi_code_op(r->d.to, ZMI_K_SELECT, here, value, zmi_code_const_i(r->d.to, type, 0));
      if ((t->value[v][l] = emit(r, ZMI_K_SUM, type, one, 0, 0)) < 0) return zm_last_status();
    }
  }
  if (emit(r, ZMI_K_END, ZMI_C_NONE, -1, 0, 0) < 0) return zm_last_status();
  for (int v = 0; v < b->begin; v++) {
    if (!t->used[v]) continue;
    int first = before(r, b, v);
    if (first < 0) return zmi_reverse_refuse(r, "joined lanes of a variable that an earlier block has set");
    for (int l = 0; l < ZMI_LANES; l++) {
      int *value = &t->value[v][l];
      if (*value >= 0 && at(r, v)->type == ZMI_C_BOOL) *value = zmi_code_convert(r->d.to, ZMI_C_BOOL, *value);
      *value = *value < 0 ? first : zmi_code_op(r->d.to, ZMI_K_SELECT, has_places(r, l), *value, first);
      if (*value < 0) return zm_last_status();
    }
  }
  return ZM_OK;
}

// One join of lanes i and i + n, forwards.
static zm_status join_pair(reverse *r, const block *b, tree *t, int copy, int i, int n) {
  int *map = t->copies + copy * (b->end - b->join);
  for (int j = b->join + 1; j < b->end; j++) {
    const zmi_inst *x = at(r, j);
    if (x->op == ZMI_K_SET) {
      t->value[x->index][i] = r->d.map[x->a];
    } else if (x->op == ZMI_K_GET || x->op == ZMI_K_GET_RIGHT) {
      r->d.map[j] = t->value[x->index][x->op == ZMI_K_GET ? i : i + n];
    } else if (zmi_derive_copy(&r->d, j) < 0) {
      return zm_last_status();
    }
    map[j - b->join] = r->d.map[j];
  }
  return ZM_OK;
}

static void join_pair_back(reverse *r, const block *b, tree *t, int copy, int i, int n) {
  const int *map = t->copies + copy * (b->end - b->join);
  for (int j = b->join + 1; j < b->end; j++) r->d.map[j] = map[j - b->join], r->cotangent[j] = -1;
  for (int j = b->end - 1; j > b->join; j--) {
    const zmi_inst *x = at(r, j);
    if (x->op == ZMI_K_SET) {
      int *g = &t->cotangent[x->index][i];
      if (*g >= 0 && r->d.active[x->a]) zmi_reverse_add(r, &r->cotangent[x->a], *g);
      *g = -1;
    }
    if (x->op == ZMI_K_SET || r->cotangent[j] < 0 || !r->d.active[j]) continue;
    if (x->op == ZMI_K_GET || x->op == ZMI_K_GET_RIGHT) {
      zmi_reverse_add(r, &t->cotangent[x->index][x->op == ZMI_K_GET ? i : i + n], r->cotangent[j]);
    } else {
      zmi_reverse_operands(r, j, r->cotangent[j], r->cotangent);
    }
  }
}

static zm_status run_tree(reverse *r, block *b, tree *t) {
  for (int i = b->begin + 1; i < b->end; i++) {
    const zmi_inst *x = at(r, i);
    if ((x->op == ZMI_K_SET || x->op == ZMI_K_GET || x->op == ZMI_K_GET_RIGHT) && x->index < b->begin) t->used[x->index] = true;
  }
  if (last_values(r, b, t) != ZM_OK) return zm_last_status();
  int copy = 0;
  for (int n = ZMI_LANES / 2; n > 0; n /= 2) {
    for (int i = 0; i < n; i++) {
      if (join_pair(r, b, t, copy++, i, n) != ZM_OK) return zm_last_status();
    }
  }
  for (int s = 0; s < b->serials; s++) t->cotangent[b->serial[s]][0] = r->cotangent[b->serial[s]];
  for (int n = 1; n < ZMI_LANES; n *= 2) {
    for (int i = n - 1; i >= 0; i--) join_pair_back(r, b, t, --copy, i, n);
  }
  for (int s = 0; s < b->serials; s++) memcpy(b->seed[s], t->cotangent[b->serial[s]], sizeof b->seed[s]);
  return ZM_OK;
}

zm_status zmi_lanes_back(zmi_reverse *r, zmi_reverse_block *b) {
  const size_t n = (size_t)b->begin + 1, length = (size_t)(b->end - b->join) * (ZMI_LANES - 1);
  tree t = {.value = zmi_malloc(n * sizeof *t.value)};
  t.cotangent = t.value ? zmi_malloc(n * sizeof *t.cotangent) : NULL;
  t.copies = t.cotangent ? zmi_malloc(length * sizeof *t.copies) : NULL;
  t.used = t.copies ? zmi_calloc(n, sizeof *t.used) : NULL;
  zm_status status = ZM_ERROR_MEMORY;
  if (t.used) {
    memset(t.value, -1, n * sizeof *t.value);
    memset(t.cotangent, -1, n * sizeof *t.cotangent);
    status = run_tree(r, b, &t);
  }
  zmi_free(t.value), zmi_free(t.cotangent), zmi_free(t.copies), zmi_free(t.used);
  return status;
}

int zmi_lanes_lambda(zmi_reverse *r, const zmi_reverse_block *b, int serial) {
  int later = emit(r, ZMI_K_GET, ZMI_C_FLOAT, -1, r->lambda[b->serial[serial]], 0), chosen = -1, lane = lane_of_place(r);
  for (int l = ZMI_LANES - 1; l >= 0; l--) {
    int seed = b->seed[serial][l] < 0 ? zmi_code_const_f(r->d.to, 0) : b->seed[serial][l];
    chosen = chosen < 0 ? seed : zmi_code_op(r->d.to, ZMI_K_SELECT, op2(r, ZMI_K_EQ, lane, whole(r, l)), seed, chosen);
  }
  return zmi_code_op(r->d.to, ZMI_K_SELECT, is_last(r, b), chosen, later);
}

int zmi_lanes_first(zmi_reverse *r, const zmi_reverse_block *b, int serial) {
  int sum = -1, zero = zmi_code_const_f(r->d.to, 0);
  for (int l = 0; l < ZMI_LANES; l++) {
    if (b->seed[serial][l] < 0) continue;
    zmi_reverse_add(r, &sum, zmi_code_op(r->d.to, ZMI_K_SELECT, has_places(r, l), zero, b->seed[serial][l]));
  }
  return sum;
}

zm_status zmi_lanes_join(zmi_reverse *r) {
  return emit(r, ZMI_K_JOIN, ZMI_C_NONE, -1, 0, 0) < 0 ? zm_last_status() : ZM_OK;
}

zm_status zmi_lanes_sum(zmi_reverse *r, int var) {
  int sum = op2(r, ZMI_K_ADD, emit(r, ZMI_K_GET, ZMI_C_FLOAT, -1, var, 0), emit(r, ZMI_K_GET_RIGHT, ZMI_C_FLOAT, -1, var, 0));
  return emit(r, ZMI_K_SET, ZMI_C_NONE, sum, var, 0) < 0 ? zm_last_status() : ZM_OK;
}
