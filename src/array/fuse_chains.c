// Fusion of elementwise operations: connected operations of one shape become one kernel that reads its operands and writes its results
// once. One kernel of rows may be among them: what stands in front of it is computed where it reads an element, what stands behind it where
// it gives one. What passes between them is rounded as before, so no bit changes.
//
// An operation joins the group of its readers if all of them are in one group: then nothing outside stands on a way from it into the
// group, and no cycle can arise. Nodes are visited from the last to the first, so each looks at its readers' groups only: linear time.
#include "array/ops/elementwise.h"

#include <string.h>

enum { PIECES = 32, OPERANDS = 24, RESULTS = 8, INSTRUCTIONS = 400, NO_GROUP = -1, SEVERAL = -2, AGAIN = 4 };

typedef struct member {
  const zmi_code *code; // NULL: cannot be fused
  int group;            // of its readers so far, then its own: the index of the group's last node
  bool wanted;          // a result of it is an output of the graph
  bool feeds;           // the kernel of rows of its group reads it, or what reads it
} member;

typedef struct group {
  int pieces, operands, results, instructions; // operands: at most so many
  bool rows, control;                          // has a kernel of rows; something with loops, branches or variables
  int blocks, again;                           // of the kernel of rows; functions that are computed once more because of it
} group;

typedef struct fusion {
  zmi_graph *graph;
  member *members; // one a node
  group *groups;   // by the index of the last node
  zm_array **replaced, **replacements;
  size_t count, old_capacity, new_capacity;
} fusion;

// ---- groups ----

static bool asks_for_place(const zmi_code *code) {
  for (size_t i = 0; i < code->count; i++) {
    if (code->insts[i].op == ZMI_K_PLACE) return true;
  }
  return false;
}

// Of the results; of a kernel of rows that of its rows.
static const zmi_type *shape_of(const zmi_node *n) {
  const zmi_code *code = zmi_node_code(n);
  int k = 0;
  while (code && code->form == ZMI_FORM_ROWS && k + 1 < code->nin && code->in_per_row[k]) k++;
  return &n->in[k]->type;
}

static bool same_shape(const zmi_type *a, const zmi_type *b) {
  return a->rank == b->rank && memcmp(a->shape, b->shape, (size_t)a->rank * sizeof *a->shape) == 0;
}

// All operands are there and of the shape of the results; nothing elementwise depends on a parameter or a place.
static const zmi_code *code_of(const zmi_node *n) {
  for (int k = 0; k < n->nin; k++) {
    if (!n->in[k]) return NULL;
  }
  const zmi_code *code = n->nin > 0 ? zmi_node_code(n) : NULL;
  if (code && code->form == ZMI_FORM_ROWS) return code->count < INSTRUCTIONS && zmi_fuse_tail(code) >= 0 ? code : NULL;
  code = n->nin > 0 ? zmi_elementwise_code(n) : NULL;
  return code && code->nparams == 0 && !asks_for_place(code) && code->count < INSTRUCTIONS ? code : NULL;
}

static bool is_rows(const zmi_code *code) {
  return code->form == ZMI_FORM_ROWS;
}

static int count_ops(const zmi_code *code, zmi_cop from, zmi_cop to) {
  int count = 0;
  for (size_t i = 0; i < code->count; i++) count += code->insts[i].op >= from && code->insts[i].op <= to;
  return count;
}

static bool has_control(const zmi_code *code) {
  return !is_rows(code) && count_ops(code, ZMI_K_VAR, ZMI_K_END) > 0;
}

// Functions that are computed once more for each block of rows but one, if the kernel of rows reads what the code gives.
static int again(const member *m, const group *g) {
  return m->feeds && g->blocks > 1 ? (g->blocks - 1) * count_ops(m->code, ZMI_K_EXP, ZMI_K_POW) : 0;
}

static void meet(member *m, int reader) {
  if (m->group == NO_GROUP)
    m->group = reader;
  else if (m->group != reader)
    m->group = SEVERAL;
}

static bool joins(const fusion *f, int i) {
  const member *m = &f->members[i];
  const zmi_node *n = f->graph->nodes[i];
  if (m->group < 0) return false;
  const group *g = &f->groups[m->group];
  const bool rows = is_rows(m->code);
  if (rows && (g->rows || g->control)) return false;
  if (g->rows && (has_control(m->code) || g->again + again(m, g) > AGAIN)) return false;
  return same_shape(shape_of(n), shape_of(f->graph->nodes[m->group])) && g->pieces < PIECES && g->operands + n->nin - 1 <= OPERANDS &&
         g->results + (m->wanted ? n->nout : 0) <= RESULTS && g->instructions + (int)m->code->count <= INSTRUCTIONS;
}

// The member that makes an array; NULL: it is no node of the graph, as a value that is there, or what an alias only knows of.
static member *maker_of(const fusion *f, const zm_array *a) {
  return a && a->node && !zmi_has_values(a) && a->node->mark >= 0 ? &f->members[a->node->mark] : NULL;
}

static void form_groups(fusion *f) {
  for (int i = (int)f->graph->count - 1; i >= 0; i--) {
    member *m = &f->members[i];
    zmi_node *n = f->graph->nodes[i];
    m->code = code_of(n);
    if (m->code) {
      const bool join = joins(f, i);
      if (!join) m->group = i;
      group *g = &f->groups[m->group];
      g->pieces++;
      g->operands += n->nin - join;
      g->results += !join || m->wanted ? n->nout : 0;
      g->instructions += (int)m->code->count;
      g->rows |= is_rows(m->code);
      g->control |= has_control(m->code);
      g->again += again(m, g);
      if (is_rows(m->code)) g->blocks = count_ops(m->code, ZMI_K_ELEMENTS, ZMI_K_ELEMENTS);
    }
    for (int k = 0; k < n->nin; k++) {
      member *in = maker_of(f, n->in[k]);
      if (!in) continue;
      meet(in, m->code ? m->group : SEVERAL);
      in->feeds |= m->code && (m->feeds || is_rows(m->code));
    }
  }
}

// ---- building ----

typedef struct whole {
  zm_array *operand[OPERANDS], *value[PIECES * 2], *result[RESULTS];
  zm_dtype in[OPERANDS];
  int results[RESULTS];
  int nin, values, nout;
} whole;

// What is read instead of `a` now.
static zm_array *current(const fusion *f, zm_array *a) {
  return a->mark >= 0 ? f->replacements[a->mark] : a;
}

static int number_of(zm_array *const *list, int count, const zm_array *a) {
  for (int i = 0; i < count; i++) {
    if (list[i] == a) return i;
  }
  return -1;
}

static bool add_piece(const fusion *f, const member *m, const zmi_node *n, whole *w, zmi_piece *piece) {
  memset(piece, 0, sizeof *piece);
  piece->code = m->code;
  for (int k = 0; k < n->nin; k++) {
    int value = number_of(w->value, w->values, n->in[k]);
    zm_array *a = current(f, n->in[k]);
    int operand = value < 0 ? number_of(w->operand, w->nin, a) : 0;
    if (value < 0 && operand < 0) {
      if (w->nin == OPERANDS) return false;
      operand = w->nin++;
      w->operand[operand] = a;
      w->in[operand] = a->type.dtype;
    }
    piece->in[k] = value < 0 ? operand : ~value;
  }
  for (int o = 0; o < n->nout; o++) {
    if (w->values == (int)ZMI_COUNT(w->value)) return false;
    w->value[w->values] = n->out[o];
    piece->out[o] = w->values++;
  }
  return true;
}

static bool add_results(const member *m, const zmi_node *n, bool last, const zmi_piece *piece, whole *w) {
  for (int o = 0; o < n->nout && (last || m->wanted); o++) {
    if (!n->out[o]) continue;
    if (w->nout == RESULTS) return false;
    w->results[w->nout] = piece->out[o];
    w->result[w->nout++] = n->out[o];
  }
  return true;
}

static zm_status remember(fusion *f, zm_array *old, zm_array *replacement) {
  if (!ZMI_GROW(f->replaced, f->old_capacity, f->count + 1) || !ZMI_GROW(f->replacements, f->new_capacity, f->count + 1))
    return ZM_ERROR_MEMORY;
  f->replaced[f->count] = zmi_array_retain(old);
  f->replacements[f->count] = replacement;
  old->mark = (int64_t)f->count++;
  return ZM_OK;
}

// A group that does not fit into one kernel after all stays as it is: that costs speed alone.
static zm_status build_group(fusion *f, int last, const int *nodes, int count, zmi_piece *pieces) {
  whole w = {0};
  zm_array *out[ZMI_MAX_OUT] = {NULL};
  for (int i = 0; i < count; i++) {
    const member *m = &f->members[nodes[i]];
    const zmi_node *n = f->graph->nodes[nodes[i]];
    if (!add_piece(f, m, n, &w, &pieces[i]) || !add_results(m, n, nodes[i] == last, &pieces[i], &w)) return ZM_OK;
  }
  if (w.nout == 0) return ZM_OK;
  const double *params = NULL;
  for (int i = 0; i < count; i++) {
    const zmi_node *n = f->graph->nodes[nodes[i]];
    if (is_rows(f->members[nodes[i]].code)) params = zmi_node_params(n);
  }
  zmi_code *code = zmi_code_compose(pieces, count, w.nin, w.in, w.results, w.nout);
  if (!code) {
    if (zm_last_status() == ZM_ERROR_MEMORY) return ZM_ERROR_MEMORY;
    zmi_error_clear();
    return ZM_OK;
  }
  zm_status status = zmi_apply_code(code, w.nin, w.operand, params, out);
  zmi_code_free(code);
  for (int o = 0; o < w.nout && status == ZM_OK; o++) status = remember(f, w.result[o], out[o]);
  return status;
}

// Members of each group in order; groups in the order of their last nodes, so that what a group reads of another is there already.
static zm_status build_groups(fusion *f) {
  const size_t n = f->graph->count;
  int *next = zmi_calloc(n + 1, sizeof *next), *first = zmi_calloc(n + 1, sizeof *first);
  zmi_piece *pieces = zmi_calloc(PIECES, sizeof *pieces);
  zm_status status = next && first && pieces ? ZM_OK : ZM_ERROR_MEMORY;
  for (size_t i = 0; i < n && status == ZM_OK; i++) first[i] = NO_GROUP;
  for (int i = (int)n - 1; i >= 0 && status == ZM_OK; i--) {
    const member *m = &f->members[i];
    if (!m->code) continue;
    next[i] = first[m->group];
    first[m->group] = i;
  }
  for (size_t i = 0; i < n && status == ZM_OK; i++) {
    int list[PIECES], count = 0;
    if (!f->members[i].code || f->members[i].group != (int)i || f->groups[i].pieces < 2) continue;
    for (int k = first[i]; k != NO_GROUP && count < PIECES; k = next[k]) list[count++] = k;
    status = build_group(f, (int)i, list, count, pieces);
  }
  zmi_free(pieces);
  zmi_free(first);
  zmi_free(next);
  return status;
}

static void replace_one(const fusion *f, zm_array **place) {
  zm_array *a = *place;
  if (!a || a->mark < 0) return;
  *place = zmi_array_retain(f->replacements[a->mark]);
  zmi_array_release(a);
}

static void replace_all(const fusion *f) {
  for (size_t i = 0; i < f->graph->count; i++) {
    for (int k = 0; k < f->graph->nodes[i]->nin; k++) replace_one(f, &f->graph->nodes[i]->in[k]);
  }
  for (size_t i = 0; i < f->graph->output_count; i++) replace_one(f, &f->graph->outputs[i]);
}

static void clear_marks(zmi_graph *g) {
  for (size_t i = 0; i < g->count; i++) {
    for (int k = 0; k < g->nodes[i]->nin; k++) {
      if (g->nodes[i]->in[k]) g->nodes[i]->in[k]->mark = -1;
    }
    for (int o = 0; o < g->nodes[i]->nout; o++) {
      if (g->nodes[i]->out[o]) g->nodes[i]->out[o]->mark = -1;
    }
  }
  for (size_t i = 0; i < g->output_count; i++) g->outputs[i]->mark = -1;
}

zm_status zmi_fuse_elementwise(zmi_graph *g) {
  fusion f = {.graph = g};
  if (g->count == 0 || g->count >= INT32_MAX) return ZM_OK;
  f.members = zmi_calloc(g->count, sizeof *f.members);
  f.groups = zmi_calloc(g->count, sizeof *f.groups);
  zm_status status = f.members && f.groups ? ZM_OK : ZM_ERROR_MEMORY;
  clear_marks(g);
  for (size_t i = 0; i < g->count && status == ZM_OK; i++) {
    f.members[i].group = NO_GROUP;
    g->nodes[i]->mark = (int64_t)i;
  }
  for (size_t i = 0; i < g->output_count && status == ZM_OK; i++) {
    member *m = maker_of(&f, g->outputs[i]);
    if (m) m->wanted = true;
  }
  if (status == ZM_OK) {
    form_groups(&f);
    for (size_t i = 0; i < g->count; i++) g->nodes[i]->mark = -1;
    status = build_groups(&f);
  }
  if (status == ZM_OK) replace_all(&f);
  for (size_t i = 0; i < f.count; i++) {
    f.replaced[i]->mark = -1;
    zmi_array_release(f.replaced[i]);
  }
  zmi_free(f.replaced);
  zmi_free(f.replacements);
  zmi_free(f.groups);
  zmi_free(f.members);
  return status == ZM_OK ? zmi_graph_refresh(g) : status;
}
