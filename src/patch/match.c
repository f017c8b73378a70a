// Walking over a graph for a pattern: every place is tried once, replaced or left alone, and reported.
#include "patch/fused.h"

#include <stdio.h>
#include <string.h>

bool zmi_made_by(const zm_array *a, const char *op) {
  return a && a->node && strcmp(a->node->op->name, op) == 0;
}

zmi_node *zmi_maker(const zm_array *a, const char *op) {
  return zmi_made_by(a, op) ? a->node : NULL;
}

bool zmi_read_by(const zmi_graph *g, const zm_array *a, zmi_node *const *nodes, size_t count) {
  enum { MOST = 8 };
  zmi_node *users[MOST];
  size_t found = zmi_graph_users(g, a, users, MOST);
  if (found > MOST) return false;
  for (size_t i = 0; i < found; i++) {
    size_t k = 0;
    while (k < count && nodes[k] != users[i]) k++;
    if (k == count || !users[i]) return false;
  }
  return true;
}

bool zmi_read_once(const zmi_graph *g, const zm_array *a, const zmi_node *by) {
  return zmi_only_reader(g, a) == by;
}

zmi_node *zmi_only_reader(const zmi_graph *g, const zm_array *a) {
  zmi_node *user = NULL;
  return zmi_graph_users(g, a, &user, 1) == 1 ? user : NULL;
}

const zmi_matrix_attrs *zmi_matrix_of(const zmi_node *linear) {
  return (const zmi_matrix_attrs *)(const void *)linear->attrs.bytes;
}

zm_array *zmi_operand(const zmi_node *n, int i) {
  return i < n->nin ? n->in[i] : NULL;
}

int64_t zmi_int_field(const zmi_node *n, const char *field) {
  for (const zmi_field *f = n->op->fields; f && f->name; f++) {
    int64_t value;
    if (f->kind == ZMI_FIELD_FLOAT || strcmp(f->name, field) != 0) continue;
    memcpy(&value, n->attrs.bytes + f->offset, sizeof value);
    return value;
  }
  return INT64_MIN;
}

static void say(zmi_outcome *o, bool matched, const char *format, va_list list) {
  o->place = true;
  o->matched = matched;
  vsnprintf(o->reason, sizeof o->reason, format, list);
}

zm_status zmi_left_alone(zmi_outcome *o, const char *format, ...) {
  va_list list;
  va_start(list, format);
  say(o, false, format, list);
  va_end(list);
  return ZM_OK;
}

zm_status zmi_fused(zmi_outcome *o, const char *format, ...) {
  va_list list;
  va_start(list, format);
  say(o, true, format, list);
  va_end(list);
  return ZM_OK;
}

// ---- the walk ----

// Nodes to try, and one reference to a result of every node of the graph: what a replacement takes out stays alive until the walk is over.
typedef struct walk {
  zmi_node **anchors;
  size_t anchor_count, anchor_capacity;
  zm_array **held;
  size_t held_count, held_capacity;
} walk;

static zm_status hold(walk *w, const zmi_graph *g, const char *op) {
  for (size_t i = 0; i < g->count; i++) {
    zmi_node *n = g->nodes[i];
    for (int o = 0; o < n->nout; o++) {
      if (!n->out[o]) continue;
      if (!ZMI_GROW(w->held, w->held_capacity, w->held_count + 1)) return ZM_ERROR_MEMORY;
      w->held[w->held_count++] = zmi_array_retain(n->out[o]);
    }
    if (strcmp(n->op->name, op) != 0) continue;
    if (!ZMI_GROW(w->anchors, w->anchor_capacity, w->anchor_count + 1)) return ZM_ERROR_MEMORY;
    w->anchors[w->anchor_count++] = n;
  }
  return ZM_OK;
}

static void let_go(walk *w) {
  for (size_t i = 0; i < w->held_count; i++) zmi_array_release(w->held[i]);
  zmi_free(w->held);
  zmi_free(w->anchors);
}

static zm_status try_place(zmi_graph *graph, zm_patch_report *report, const char *pattern, zmi_node *node,
                           zm_status (*attempt)(zmi_graph *graph, zmi_node *node, zmi_outcome *outcome)) {
  zmi_outcome outcome = {0};
  // The new node stands where the old ones stood.
  zm_status status = node->label ? zmi_set_label("%s", node->label) : zmi_set_label(NULL);
  if (status == ZM_OK) status = attempt(graph, node, &outcome);
  if (status == ZM_OK && outcome.matched) status = zmi_graph_refresh(graph);
  if (status != ZM_OK || !outcome.place) return status;
  const zm_patch_entry entry = {.pattern = pattern, .place = node->label, .matched = outcome.matched, .reason = outcome.reason};
  return zmi_patch_report_add(report, &entry);
}

zm_status zmi_each_place(zmi_graph *graph, zm_patch_report *report, const char *pattern, const char *op,
                         zm_status (*attempt)(zmi_graph *graph, zmi_node *node, zmi_outcome *outcome)) {
  walk w = {0};
  zm_scope *scope = zm_scope_open();
  zm_status status = scope ? hold(&w, graph, op) : ZM_ERROR_MEMORY;
  for (size_t i = 0; i < w.anchor_count && status == ZM_OK; i++) status = try_place(graph, report, pattern, w.anchors[i], attempt);
  zm_scope_close(scope);
  let_go(&w);
  return status;
}
