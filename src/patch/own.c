// Patterns of users: the graph of a function of arrays is looked for in the model's graph, op by op, and each place where it stands is
// computed by the user's kernel instead.
#include "patch/fused.h"

#include <stdio.h>
#include <string.h>

enum { DEEPEST = 64 };

// A pattern's graph for results of one type, and what its operands stand for at the place that is tried.
typedef struct shape {
  const zm_own_pattern *own;
  zmi_type type; // of the result
  zm_array *operand[ZM_MAX_OPERANDS], *result;
  zm_array *bound[ZM_MAX_OPERANDS];
} shape;

static zm_status check(const zm_own_pattern *p) {
  if (!p->replaces || !p->op) return zmi_fail(ZM_ERROR_ARGUMENT, "it needs a function that it replaces and a kernel");
  if (p->operands >= 1 && p->operands <= ZM_MAX_OPERANDS) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "%d operands: expected 1 to %d", p->operands, ZM_MAX_OPERANDS);
}

// Builds the pattern's graph on placeholders of the type of a result.
static zm_status build(shape *s, const zm_own_pattern *own, const zmi_type *type) {
  *s = (shape){.own = own, .type = *type};
  for (int i = 0; i < own->operands; i++) {
    char name[32];
    zmi_type t = *type;
    if (own->vectors >> i & 1) t = zmi_type_of(type->dtype, 1, &type->shape[type->rank - 1]);
    snprintf(name, sizeof name, "operand.%d", i);
    if (!(s->operand[i] = zmi_input(name, &t))) return zm_last_status();
  }
  return own->replaces(own->user, s->operand, own->operands, &s->result, 1);
}

static int operand_index(const shape *s, const zm_array *a) {
  for (int i = 0; i < s->own->operands; i++) {
    if (s->operand[i] == a) return i;
  }
  return -1;
}

static bool same_node(const zmi_node *a, const zmi_node *b) {
  return a->op == b->op && a->nin == b->nin && a->owner == b->owner && memcmp(a->attrs.bytes, b->attrs.bytes, ZMI_ATTR_BYTES) == 0;
}

static bool fits(shape *s, const zm_array *pattern, zm_array *a, int depth) {
  int operand = operand_index(s, pattern);
  if (operand >= 0) {
    if (!zmi_type_equal(&pattern->type, &a->type) || (s->bound[operand] && s->bound[operand] != a)) return false;
    s->bound[operand] = a;
    return true;
  }
  if (depth > DEEPEST || !zmi_type_equal(&pattern->type, &a->type)) return false;
  if (!pattern->node || !a->node) // a constant of the function: the same value in the model
    return pattern->leaf == ZMI_LEAF_DATA && a->leaf == ZMI_LEAF_DATA && zmi_type_count(&a->type) == 1 && pattern->data && a->data &&
           memcmp(pattern->data, a->data, zm_dtype_size(a->type.dtype)) == 0;
  if (!same_node(pattern->node, a->node) || pattern->index != a->index) return false;
  for (int i = 0; i < a->node->nin; i++) {
    const zm_array *p = pattern->node->in[i];
    if (!p != !a->node->in[i] || (p && !fits(s, p, a->node->in[i], depth + 1))) return false;
  }
  return true;
}

static zm_status replace(zmi_graph *g, shape *s, zm_array *result) {
  zm_array *made = NULL;
  zm_status status = zm_op_apply(s->own->op, s->bound, s->own->operands, &made, 1);
  if (status != ZM_OK) return status;
  if (!zmi_type_equal(&made->type, &result->type)) {
    char a[128], b[128];
    return zmi_fail(ZM_ERROR_ARGUMENT, "the kernel %s gives %s where the model has %s", zm_op_name(s->own->op),
                    zmi_type_text(&made->type, a), zmi_type_text(&result->type, b));
  }
  return zmi_graph_replace(g, result, made);
}

// Tries the pattern at every node; `s` is built anew when the type of results changes.
static zm_status rewrite(const zm_own_pattern *own, zmi_graph *g, zm_patch_report *report) {
  shape s = {0};
  bool built = false;
  zm_status status = check(own);
  for (size_t i = 0; i < g->count && status == ZM_OK; i++) {
    zmi_node *n = g->nodes[i];
    zm_array *result = n->nout == 1 ? n->out[0] : NULL;
    if (!result || result->type.rank < 1) continue;
    if (!built || !zmi_type_equal(&s.type, &result->type)) {
      built = build(&s, own, &result->type) == ZM_OK && s.result;
      s.type = result->type;
      if (!built) s.result = NULL; // the function does not take this type: nothing of it stands here
      built = true;
    }
    memset(s.bound, 0, sizeof s.bound);
    if (!s.result || !s.result->node || operand_index(&s, s.result) >= 0 || !fits(&s, s.result, result, 0)) continue;
    bool all = true;
    for (int k = 0; k < own->operands; k++) all = all && s.bound[k];
    if (!all) status = zmi_fail(ZM_ERROR_ARGUMENT, "the function does not use every one of its %d operands", own->operands);
    if (status == ZM_OK) status = n->label ? zmi_set_label("%s", n->label) : zmi_set_label(NULL);
    if (status == ZM_OK) status = replace(g, &s, result);
    const zm_patch_entry entry = {.pattern = own->name, .place = n->label, .matched = true, .reason = "computed by your kernel"};
    if (status == ZM_OK) status = zmi_patch_report_add(report, &entry);
  }
  return status;
}

zm_status zmi_own_patterns_apply(const zm_own_pattern *own, size_t count, zmi_graph *graph, zm_patch_report *report) {
  for (size_t i = 0; i < count; i++) {
    zm_scope *scope = zm_scope_open();
    // Every array of the graph is kept while nodes are taken out of it.
    zm_status status = scope ? zmi_graph_refresh(graph) : ZM_ERROR_MEMORY;
    size_t held_count = 0, held_capacity = 0;
    zm_array **held = NULL;
    for (size_t k = 0; k < graph->count && status == ZM_OK; k++) {
      for (int o = 0; o < graph->nodes[k]->nout && status == ZM_OK; o++) {
        if (!graph->nodes[k]->out[o]) continue;
        if (!ZMI_GROW(held, held_capacity, held_count + 1))
          status = ZM_ERROR_MEMORY;
        else
          held[held_count++] = zmi_array_retain(graph->nodes[k]->out[o]);
      }
    }
    if (status == ZM_OK) status = rewrite(&own[i], graph, report);
    if (status == ZM_OK) status = zmi_graph_refresh(graph);
    zm_scope_close(scope);
    for (size_t k = 0; k < held_count; k++) zmi_array_release(held[k]);
    zmi_free(held);
    if (status != ZM_OK) return zmi_fail_within("pattern %s", own[i].name ? own[i].name : "of your own");
  }
  return ZM_OK;
}
