// Evaluation of small graphs without a tape: a few nodes over little memory are computed one after another, by the thread that asks. What
// a tape would cost (slots, a plan, a player) is several times what such nodes compute. The calls are those that a tape would make, and so
// are the bits.
#include "array/array.h"

#include <string.h>

#include "array/ops/ops.h"

enum { MOST_NODES = 32, MOST_SLOTS = 128, MOST_BYTES = 64 << 10 };
enum { MOST_PRODUCT_BYTES = 1 << 20, MOST_PRODUCT_WORK = 1 << 20 }; // and multiply-adds of a product, less than waking a worker is worth
enum { UNSEEN = -1, OPEN = -2, DONE = -3 };                         // marks of nodes, as everywhere
enum { NO_SLOT = -1 };

typedef struct direct {
  zmi_node *nodes[MOST_NODES]; // inputs before users
  int node_count, slot_count;
  bool product; // one of them is a product of little work
  size_t bytes; // of operands and results
  const zmi_kernels *kernels;
  zmi_slot slots[MOST_SLOTS];
  bool owned[MOST_SLOTS]; // its memory is a buffer of its own
} direct;

// ---- which graphs ----

// Bytes of all operands and results up to this node. Most operations take as long as the memory they touch; a product does more with it,
// and a view for one may be as large.
static size_t most_bytes(direct *d, const zmi_node *n) {
  if (n->op->flags & ZMI_OP_VIEW) return MOST_PRODUCT_BYTES;
  if (n->op != &zmi_op_matmul && n->op != &zmi_op_addmm) return MOST_BYTES;
  const zmi_type *a = &n->in[0]->type;
  const double work = (double)zmi_type_count(&n->out[0]->type) * (double)a->shape[a->rank - 1];
  if (work > MOST_PRODUCT_WORK) return MOST_BYTES;
  d->product = true;
  return MOST_PRODUCT_BYTES;
}

static bool count_bytes(direct *d, const zm_array *a, size_t most) {
  size_t bytes;
  return zmi_type_bytes(&a->type, &bytes) && bytes <= most && (d->bytes += bytes) <= most;
}

static bool fits(direct *d, const zmi_node *n) {
  int fresh = 0;
  for (int o = 0; o < n->nout; o++) {
    if (n->op->updates[o] || !n->out[o]) return false; // states, results that nobody kept
  }
  const size_t most = most_bytes(d, n);
  for (int o = 0; o < n->nout; o++) {
    if (!count_bytes(d, n->out[o], most)) return false;
    n->out[o]->mark = NO_SLOT;
  }
  for (int i = 0; i < n->nin; i++) {
    if (!n->in[i]) continue;
    const zm_array *a = n->in[i];
    if (!a->node || zmi_has_values(a)) {
      if (!zmi_has_values(a) || a->leaf == ZMI_LEAF_STATE || !count_bytes(d, a, most)) return false;
      n->in[i]->mark = NO_SLOT;
      fresh++;
    }
    fresh++; // room for a copy
  }
  d->slot_count += n->nout + fresh;
  return d->slot_count <= MOST_SLOTS - MOST_NODES;
}

// Adds what is behind a node, then the node; false if the graph is none of the small ones. Depth is bounded by the number of nodes.
static bool visit(direct *d, zmi_node *n, int depth) {
  if (n->mark == DONE) return true;
  if (depth == MOST_NODES || n->nin > ZMI_MAX_IN) return false;
  const int reads = n->op->flags & ZMI_OP_ALIAS ? n->nout : n->nin;
  for (int i = 0; i < reads; i++) {
    if (n->in[i] && n->in[i]->node && !zmi_has_values(n->in[i]) && !visit(d, n->in[i]->node, depth + 1)) return false;
  }
  if (d->node_count == MOST_NODES || !fits(d, n)) return false;
  n->mark = DONE;
  d->nodes[d->node_count++] = n;
  return true;
}

static bool collect(direct *d, zm_array *const *wanted, size_t count) {
  bool small = count <= MOST_NODES;
  for (size_t i = 0; i < count && small; i++) small = visit(d, wanted[i]->node, 0);
  for (int i = 0; i < d->node_count; i++) d->nodes[i]->mark = UNSEEN;
  d->slot_count = 0;
  return small && (d->bytes <= MOST_BYTES || d->product);
}

// ---- slots ----

static int new_slot(direct *d, const zmi_type *type, void *data) {
  zmi_slot *s = &d->slots[d->slot_count];
  *s = (zmi_slot){.kind = data ? ZMI_SLOT_WEIGHT : ZMI_SLOT_TEMP, .type = *type, .base = -1, .data = data};
  if (!zmi_type_bytes(type, &s->bytes)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "an array is too large to address");
    return NO_SLOT;
  }
  zmi_slot_set_contiguous(s);
  d->owned[d->slot_count] = !data;
  if (!data && !(s->data = zmi_buffer_alloc(s->bytes))) return NO_SLOT;
  return d->slot_count++;
}

static int slot_of(direct *d, zm_array *a) {
  if (a->there && !a->data && zmi_fetch(a) != ZM_OK) return NO_SLOT;
  if (a->mark < 0) a->mark = new_slot(d, &a->type, a->data);
  return (int)a->mark;
}

// ---- calls ----

static zm_status run(direct *d, zmi_call *c) {
  void *scratch = NULL;
  size_t bytes = c->op->scratch ? c->op->scratch(c) : 0;
  if (bytes && !(scratch = zmi_buffer_alloc(bytes))) return ZM_ERROR_MEMORY;
  c->scratch = scratch;
  c->kernels = d->kernels;
  for (int i = 0; i < c->nin; i++) c->src[i] = c->in[i] ? c->in[i]->data : NULL;
  for (int o = 0; o < c->nout; o++) c->dst[o] = c->out[o]->data;
  if (c->op->prepare) c->op->prepare(c);
  for (int s = 0; s < ZMI_MAX_STAGES && c->op->stages[s].run; s++) {
    const int64_t tiles = c->op->stages[s].tiles(c);
    if (tiles > 0) c->op->stages[s].run(c, 0, tiles);
  }
  zmi_buffer_free(scratch, bytes);
  return ZM_OK;
}

// The slot's contiguous copy, in memory of its own.
static int copy_of(direct *d, int slot) {
  const int to = new_slot(d, &d->slots[slot].type, NULL);
  if (to < 0) return to;
  zmi_call c = {.op = &zmi_op_copy, .nin = 1, .nout = 1, .in = {&d->slots[slot]}, .out = {&d->slots[to]}, .kernels = d->kernels};
  return run(d, &c) == ZM_OK ? to : NO_SLOT;
}

static zm_status look(direct *d, const zmi_node *n) {
  int from = slot_of(d, n->in[0]);
  for (int attempt = 0; from >= 0; attempt++) {
    const zmi_slot *in = &d->slots[from];
    zmi_slot s = {.kind = ZMI_SLOT_VIEW, .type = n->out[0]->type, .base = from};
    int64_t shift = 0;
    if (n->op->view(n->attrs.bytes, in, &s.type, s.stride, &shift)) {
      s.data = (char *)in->data + shift * (int64_t)zm_dtype_size(s.type.dtype);
      n->out[0]->mark = d->slot_count;
      d->owned[d->slot_count] = false;
      d->slots[d->slot_count++] = s;
      return ZM_OK;
    }
    if (attempt > 0) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: no view of a contiguous array", n->op->name);
    from = copy_of(d, from);
  }
  return zm_last_status();
}

static zm_status compute(direct *d, const zmi_node *n) {
  if (n->op->flags & ZMI_OP_VIEW) return look(d, n);
  if (n->op->flags & ZMI_OP_ALIAS) {
    for (int o = 0; o < n->nout; o++) {
      if ((n->out[o]->mark = slot_of(d, n->in[o])) < 0) return zm_last_status();
    }
    return ZM_OK;
  }
  if (zmi_kernel_require(n->op, n->owner) != ZM_OK) return zm_last_status();
  zmi_call c = {.op = n->op, .attrs = n->attrs.bytes, .owner = n->owner, .nin = n->nin, .nout = n->nout, .kernels = d->kernels};
  for (int i = 0; i < n->nin; i++) {
    if (!n->in[i]) continue;
    int slot = slot_of(d, n->in[i]);
    if (slot >= 0 && !(n->op->flags & ZMI_OP_STRIDED) && !zmi_slot_is_contiguous(&d->slots[slot])) slot = copy_of(d, slot);
    if (slot < 0) return zm_last_status();
    c.in[i] = &d->slots[slot];
  }
  for (int o = 0; o < n->nout; o++) {
    const int slot = slot_of(d, n->out[o]);
    if (slot < 0) return zm_last_status();
    c.out[o] = &d->slots[slot];
  }
  return run(d, &c);
}

// Memory that is to become the data of a wanted array: its slot's own, or a copy.
static zm_status take(direct *d, zm_array *const *wanted, size_t count, int *slots) {
  for (size_t i = 0; i < count; i++) {
    int slot = (int)wanted[i]->mark;
    bool free = d->owned[slot];
    for (size_t k = 0; k < i; k++) free = free && slots[k] != slot;
    if (!free && (slot = copy_of(d, slot)) < 0) return zm_last_status();
    slots[i] = slot;
  }
  return ZM_OK;
}

bool zmi_evaluate_directly(zm_array **wanted, size_t count, const zmi_kernels *kernels, zm_status *status) {
  direct d;
  int slots[MOST_NODES];
  d.node_count = d.slot_count = 0;
  d.bytes = 0;
  d.product = false;
  d.kernels = kernels;
  if (!collect(&d, wanted, count)) return false;
  const unsigned saved = zmi_float_rule_enter();
  *status = ZM_OK;
  for (int i = 0; i < d.node_count && *status == ZM_OK; i++) *status = compute(&d, d.nodes[i]);
  if (*status == ZM_OK) *status = take(&d, wanted, count, slots);
  zmi_float_rule_leave(saved);
  for (size_t i = 0; i < count && *status == ZM_OK; i++) {
    d.owned[slots[i]] = false;
    zmi_array_settle(wanted[i], (zmi_values){.data = d.slots[slots[i]].data});
  }
  for (int i = 0; i < d.slot_count; i++) {
    if (d.owned[i]) zmi_buffer_free(d.slots[i].data, d.slots[i].bytes);
  }
  return true;
}
