// Graph surgery: collecting the nodes behind some outputs, asking who reads an array, and replacing an array by another for all its
// readers.
#include "array/array.h"

#include <stdlib.h>
#include <string.h>

enum { UNSEEN = -1, OPEN = -2, DONE = -3 };

typedef struct visit {
  zmi_node *node;
  int next; // operand to look at next
} visit;

static zm_status push(visit **stack, size_t *capacity, size_t *depth, zmi_node *n) {
  if (!ZMI_GROW(*stack, *capacity, *depth + 1)) return ZM_ERROR_MEMORY;
  n->mark = OPEN;
  (*stack)[(*depth)++] = (visit){n, 0};
  return ZM_OK;
}

static zm_status append(zmi_graph *g, zmi_node *n) {
  if (!ZMI_GROW(g->nodes, g->capacity, g->count + 1)) return ZM_ERROR_MEMORY;
  n->mark = DONE;
  g->nodes[g->count++] = n;
  return ZM_OK;
}

// Operands that a tape needs: of an alias those that it stands for.
static int operand_count(const zmi_node *n) {
  return n->op->flags & ZMI_OP_ALIAS ? n->nout : n->nin;
}

typedef struct stack {
  visit *visits;
  size_t depth, capacity;
} stack;

// The nodes behind an array that were not visited yet, inputs first, without recursion. Values that are there need no graph.
static zm_status visit_behind(zmi_graph *g, stack *s, zmi_node *root) {
  zm_status status = root->mark == DONE ? ZM_OK : push(&s->visits, &s->capacity, &s->depth, root);
  while (s->depth > 0 && status == ZM_OK) {
    visit *v = &s->visits[s->depth - 1];
    if (v->next == operand_count(v->node)) {
      s->depth--;
      status = append(g, v->node);
      continue;
    }
    zm_array *in = v->node->in[v->next++];
    if (in && in->node && !zmi_has_values(in) && in->node->mark != DONE && in->node->mark != OPEN)
      status = push(&s->visits, &s->capacity, &s->depth, in->node);
  }
  return status;
}

// Visits what is behind `first`, one after another, then what is behind the outputs. Between walks no node is marked OPEN or DONE.
static zm_status walk_from(zmi_graph *g, zmi_node *const *first, size_t count) {
  stack s = {0};
  zm_status status = ZM_OK;
  g->count = 0;
  for (size_t i = 0; i < count && status == ZM_OK; i++) status = visit_behind(g, &s, first[i]);
  for (size_t o = 0; o < g->output_count && status == ZM_OK; o++) {
    if (g->outputs[o]->node && !zmi_has_values(g->outputs[o])) status = visit_behind(g, &s, g->outputs[o]->node);
  }
  for (size_t i = 0; i < s.depth; i++) s.visits[i].node->mark = UNSEEN;
  for (size_t i = 0; i < g->count; i++) g->nodes[i]->mark = UNSEEN;
  zmi_free(s.visits);
  return status;
}

static int by_serial(const void *a, const void *b) {
  const uint64_t x = (*(zmi_node *const *)a)->serial, y = (*(zmi_node *const *)b)->serial;
  return x < y ? -1 : x > y;
}

// Outputs first: what an output needs is computed when it is needed. But nodes of gradients are taken in the order in which they were made:
// a layer's gradients stand where its values are there (or computed again), not after the last layer's.
static zm_status walk(zmi_graph *g) {
  zm_status status = walk_from(g, NULL, 0);
  size_t count = 0, at = 0;
  for (size_t i = 0; i < g->count; i++) count += g->nodes[i]->back;
  if (status != ZM_OK || count == 0) return status;
  zmi_node **back = zmi_calloc(count, sizeof *back);
  if (!back) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < g->count; i++) {
    if (g->nodes[i]->back) back[at++] = g->nodes[i];
  }
  qsort(back, count, sizeof *back, by_serial);
  status = walk_from(g, back, count);
  zmi_free(back);
  return status;
}

zmi_graph *zmi_graph_collect(zm_array *const *outputs, size_t count) {
  zmi_graph *g = zmi_calloc(1, sizeof *g);
  if (!g) return NULL;
  g->outputs = zmi_calloc(count ? count : 1, sizeof *g->outputs);
  if (!g->outputs) {
    zmi_free(g);
    return NULL;
  }
  for (size_t i = 0; i < count; i++) g->outputs[i] = zmi_array_retain(outputs[i]);
  g->output_count = count;
  if (walk(g) == ZM_OK) return g;
  zmi_graph_free(g);
  return NULL;
}

void zmi_graph_free(zmi_graph *g) {
  if (!g) return;
  for (size_t i = 0; i < g->output_count; i++) zmi_array_release(g->outputs[i]);
  zmi_free(g->outputs);
  zmi_free(g->nodes);
  zmi_free(g);
}

zm_status zmi_graph_refresh(zmi_graph *g) {
  return walk(g);
}

size_t zmi_graph_users(const zmi_graph *g, const zm_array *a, zmi_node **users, size_t limit) {
  size_t found = 0;
  for (size_t i = 0; i < g->count; i++) {
    for (int k = 0; k < g->nodes[i]->nin; k++) {
      if (g->nodes[i]->in[k] != a) continue;
      if (found < limit) users[found] = g->nodes[i];
      found++;
      break;
    }
  }
  for (size_t i = 0; i < g->output_count; i++) {
    if (g->outputs[i] != a) continue;
    if (found < limit) users[found] = NULL;
    found++;
  }
  return found;
}

zm_status zmi_graph_replace(zmi_graph *g, zm_array *old, zm_array *replacement) {
  char a[128], b[128];
  if (!zmi_type_equal(&old->type, &replacement->type)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "replacing %s by %s: the types differ", zmi_type_text(&old->type, a),
                    zmi_type_text(&replacement->type, b));
  }
  zmi_array_retain(old); // may lose its last reader here
  for (size_t i = 0; i < g->count; i++) {
    if (g->nodes[i] == replacement->node) continue; // the replacement may be made from the old array
    for (int k = 0; k < g->nodes[i]->nin; k++) {
      if (g->nodes[i]->in[k] != old) continue;
      g->nodes[i]->in[k] = zmi_array_retain(replacement);
      zmi_array_release(old);
    }
  }
  for (size_t i = 0; i < g->output_count; i++) {
    if (g->outputs[i] != old) continue;
    g->outputs[i] = zmi_array_retain(replacement);
    zmi_array_release(old);
  }
  zmi_array_release(old);
  return ZM_OK;
}
