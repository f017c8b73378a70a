// Graph surgery: collecting the nodes behind some outputs, asking who reads an array, and replacing an array by another for all its
// readers.
#include "array/array.h"

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

// Nodes behind the outputs, inputs first, without recursion. Between walks no node is marked OPEN or DONE.
static zm_status walk(zmi_graph *g) {
  visit *stack = NULL;
  size_t capacity = 0, depth = 0;
  zm_status status = ZM_OK;
  g->count = 0;
  for (size_t o = 0; o < g->output_count && status == ZM_OK; o++) {
    zmi_node *root = g->outputs[o]->data ? NULL : g->outputs[o]->node;
    if (root && root->mark != DONE) status = push(&stack, &capacity, &depth, root);
    while (depth > 0 && status == ZM_OK) {
      visit *v = &stack[depth - 1];
      // What stands behind an alias is its first operands; values that are there need no graph.
      if (v->next == (v->node->op->flags & ZMI_OP_ALIAS ? v->node->nout : v->node->nin)) {
        depth--;
        status = append(g, v->node);
        continue;
      }
      zm_array *in = v->node->in[v->next++];
      if (in && in->node && !in->data && in->node->mark != DONE && in->node->mark != OPEN)
        status = push(&stack, &capacity, &depth, in->node);
    }
  }
  for (size_t i = 0; i < depth; i++) stack[i].node->mark = UNSEEN;
  for (size_t i = 0; i < g->count; i++) g->nodes[i]->mark = UNSEEN;
  zmi_free(stack);
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
