// Lowers a graph to a tape: one slot an array, views without copies, copies only where an op or an output needs contiguous memory. Then
// plans and binds it.
#include "array/array.h"

#include <stdio.h>
#include <string.h>

#include "array/ops/ops.h"

struct zmi_program {
  zmi_tape *tape;
  zmi_player *player; // NULL if only planned, or on a GPU
  zmi_device_player *gpu;
  void *arena;
  char *inputs; // memory of the INPUT slots; for a GPU, of OUTPUT slots too
  size_t input_bytes;
  // apart:
  const zmi_kernels *kernels; // NULL: not apart
  int *outputs;               // slot of each output
  size_t output_count;
  zmi_values *values; // played on a GPU (there): of each output; NULL: not there
};

typedef struct lowering {
  zmi_graph *graph;
  zmi_tape *tape;
  const char *const *names;
  int *copies; // for each slot: its contiguous copy, or -1
  size_t copy_count, copy_capacity;
  const void **versions; // for each slot: the array (or node, if nobody kept it) that holds the state's newest value; NULL: the leaf
  size_t version_count, version_capacity;
  const zmi_kernels *kernels;
  bool apart, there;
} lowering;

// Slots of arrays are kept in array->mark; while negative there is none yet: NO_SLOT, or NO_SLOT - 1 - i for output i.
enum { NO_SLOT = -1 };

static void clear_marks(const zmi_graph *g) {
  for (size_t i = 0; i < g->count; i++) {
    for (int k = 0; k < g->nodes[i]->nin; k++) {
      if (g->nodes[i]->in[k]) g->nodes[i]->in[k]->mark = NO_SLOT;
    }
    for (int o = 0; o < g->nodes[i]->nout; o++) {
      if (g->nodes[i]->out[o]) g->nodes[i]->out[o]->mark = NO_SLOT;
    }
  }
  for (size_t i = g->output_count; i-- > 0;) g->outputs[i]->mark = NO_SLOT - 1 - (int64_t)i; // asked for twice: the first name
}

static int new_slot(lowering *l, zmi_slot_kind kind, const zmi_type *type, const char *name, void *data) {
  zmi_slot s = {.kind = kind, .type = *type, .base = -1, .name = name, .data = data, .apart = l->apart && kind == ZMI_SLOT_OUTPUT};
  if (!zmi_type_bytes(type, &s.bytes)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "an array is too large to address");
    return -1;
  }
  zmi_slot_set_contiguous(&s);
  return zmi_tape_add_slot(l->tape, &s);
}

static zm_status emit(lowering *l, zmi_instr *in) {
  if (in->op->scratch) {
    // Sizes depend on types alone; addresses come later.
    zmi_call c = {.op = in->op, .attrs = in->attrs.bytes, .owner = in->owner, .nin = in->nin, .nout = in->nout, .kernels = l->kernels};
    for (int i = 0; i < in->nin; i++) c.in[i] = in->in[i] < 0 ? NULL : &l->tape->slots[in->in[i]];
    for (int o = 0; o < in->nout; o++) c.out[o] = &l->tape->slots[in->out[o]];
    in->scratch = in->op->scratch(&c);
  }
  return zmi_tape_add_instr(l->tape, in) < 0 ? ZM_ERROR_MEMORY : ZM_OK;
}

// Emits a contiguous copy of `slot` into a new slot of the given kind.
static int emit_copy(lowering *l, int slot, zmi_slot_kind kind, const char *name, const char *label) {
  zmi_type type = l->tape->slots[slot].type;
  int to = new_slot(l, kind, &type, name, NULL);
  if (to < 0) return -1;
  zmi_instr in = {.op = &zmi_op_copy, .nin = 1, .nout = 1, .in = {slot}, .out = {to}, .label = label};
  return emit(l, &in) == ZM_OK ? to : -1;
}

// The slot itself if its memory is contiguous, else its contiguous copy, made once.
static int contiguous(lowering *l, int slot, const char *label) {
  if (zmi_slot_is_contiguous(&l->tape->slots[slot])) return slot;
  while (l->copy_count <= (size_t)slot) {
    if (!ZMI_GROW(l->copies, l->copy_capacity, l->copy_count + 1)) return -1;
    l->copies[l->copy_count++] = -1;
  }
  if (l->copies[slot] >= 0) return l->copies[slot];
  int copy = emit_copy(l, slot, ZMI_SLOT_TEMP, NULL, label);
  if (copy >= 0) l->copies[slot] = copy;
  return copy;
}

static int leaf_slot(lowering *l, zm_array *a) {
  static const zmi_slot_kind kinds[] = {[ZMI_LEAF_DATA] = ZMI_SLOT_WEIGHT,
                                        [ZMI_LEAF_WEIGHT] = ZMI_SLOT_WEIGHT,
                                        [ZMI_LEAF_INPUT] = ZMI_SLOT_INPUT,
                                        [ZMI_LEAF_STATE] = ZMI_SLOT_STATE};
  char name[32];
  if (a->leaf == ZMI_LEAF_PLACEHOLDER) {
    zmi_fail(ZM_ERROR_ARGUMENT,
             "an array that depends on an input of a function under %s cannot be evaluated inside it: its values are not there yet; choose "
             "with operations (zm_where) instead of branches",
             a->name);
    return -1;
  }
  if (a->leaf == ZMI_LEAF_NONE) {
    zmi_fail(ZM_ERROR_ARGUMENT, "an array without an op and without data cannot be computed");
    return -1;
  }
  if (!l->there && a->there && zmi_fetch(a) != ZM_OK) return -1;
  snprintf(name, sizeof name, "data.%zu", l->tape->slot_count);
  const int slot = new_slot(l, kinds[a->leaf], &a->type, a->name ? a->name : name, a->data);
  if (slot >= 0 && l->there) l->tape->slots[slot].array = a;
  return slot;
}

static int slot_of(lowering *l, zm_array *a) {
  if (a->mark < 0) a->mark = leaf_slot(l, a);
  return (int)a->mark;
}

// ---- states: all versions of one share its memory, so only the newest can be read ----

static int owner_of(const lowering *l, int slot) {
  return l->tape->slots[slot].base >= 0 ? l->tape->slots[slot].base : slot;
}

static zm_status check_version(const lowering *l, const zm_array *a, int slot) {
  const int state = owner_of(l, slot);
  if ((size_t)state >= l->version_count || !l->versions[state]) return ZM_OK;
  while (a->node && a->node->op->flags & (ZMI_OP_VIEW | ZMI_OP_ALIAS)) a = a->node->in[a->index];
  if (l->versions[state] == a) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "state %s: read after its update; let what reads the old value come before it, or read the new one",
                  l->tape->slots[state].name);
}

static zm_status set_version(lowering *l, int slot, const void *version) {
  const size_t state = (size_t)owner_of(l, slot);
  while (l->version_count <= state) {
    if (!ZMI_GROW(l->versions, l->version_capacity, l->version_count + 1)) return ZM_ERROR_MEMORY;
    l->versions[l->version_count++] = NULL;
  }
  l->versions[state] = version;
  return ZM_OK;
}

// The slot that an array is read from.
static int read_slot(lowering *l, zm_array *a) {
  const int slot = slot_of(l, a);
  return slot >= 0 && check_version(l, a, slot) == ZM_OK ? slot : -1;
}

// A view op becomes a slot that looks into another one's memory.
static zm_status lower_view(lowering *l, zmi_node *n) {
  int from = read_slot(l, n->in[0]);
  if (from < 0) return zm_last_status();
  for (int attempt = 0;; attempt++) {
    zmi_slot in = l->tape->slots[from];
    zmi_slot s = {.kind = ZMI_SLOT_VIEW, .type = n->out[0]->type, .base = in.base >= 0 ? in.base : from};
    int64_t shift = 0;
    if (n->op->view(n->attrs.bytes, &in, &s.type, s.stride, &shift)) {
      s.shift = in.shift + shift;
      n->out[0]->mark = zmi_tape_add_slot(l->tape, &s);
      return n->out[0]->mark < 0 ? ZM_ERROR_MEMORY : ZM_OK;
    }
    if (attempt > 0) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: no view of a contiguous array", n->op->name);
    from = contiguous(l, from, n->label);
    if (from < 0) return zm_last_status();
  }
}

// An array that is asked for and made by this op can be written straight to its output slot.
static const char *output_name(const lowering *l, const zm_array *a) {
  return a->mark < NO_SLOT ? l->names[NO_SLOT - 1 - a->mark] : NULL;
}

static zm_status lower_results(lowering *l, zmi_node *n, zmi_instr *in) {
  zmi_type types[ZMI_MAX_IN], results[ZMI_MAX_OUT];
  for (int i = 0; i < n->nin; i++) types[i] = n->in[i] ? n->in[i]->type : (zmi_type){.rank = -1};
  int nout = 0;
  memset(results, 0, sizeof results);
  zm_status status = n->op->infer(n->attrs.bytes, n->nin, types, &nout, results); // outputs nobody kept still need memory
  if (status != ZM_OK) return status;
  in->nout = nout;
  for (int o = 0; o < nout; o++) {
    zm_array *a = n->out[o];
    if (n->op->updates[o]) {
      in->out[o] = in->in[n->op->updates[o] - 1];
      if (set_version(l, in->out[o], a ? (const void *)a : n) != ZM_OK) return ZM_ERROR_MEMORY;
    } else {
      const char *name = a ? output_name(l, a) : NULL;
      in->out[o] = new_slot(l, name ? ZMI_SLOT_OUTPUT : ZMI_SLOT_TEMP, &results[o], name, NULL);
      if (in->out[o] < 0) return zm_last_status();
    }
    if (a) a->mark = in->out[o];
  }
  return ZM_OK;
}

static zm_status lower_alias(lowering *l, zmi_node *n) {
  for (int o = 0; o < n->nout; o++) {
    if (!n->out[o]) continue;
    const int slot = read_slot(l, n->in[o]);
    if (slot < 0) return zm_last_status();
    n->out[o]->mark = slot;
  }
  return ZM_OK;
}

static zm_status lower_node(lowering *l, zmi_node *n) {
  if (n->op->flags & ZMI_OP_ALIAS) return lower_alias(l, n);
  if (n->op->flags & ZMI_OP_VIEW) return lower_view(l, n);
  zmi_instr in = {.op = n->op, .attrs = n->attrs, .owner = n->owner, .nin = n->nin, .label = n->label};
  if (!l->there && zmi_kernel_require(n->op, n->owner) != ZM_OK) return zm_last_status();
  for (int i = 0; i < n->nin; i++) {
    in.in[i] = -1;
    if (!n->in[i]) continue;
    int slot = read_slot(l, n->in[i]);
    if (slot >= 0 && !(n->op->flags & ZMI_OP_STRIDED)) slot = contiguous(l, slot, n->label);
    if (slot < 0) return zm_last_status();
    in.in[i] = slot;
  }
  zm_status status = lower_results(l, n, &in);
  return status == ZM_OK ? emit(l, &in) : status;
}

// A result that is nothing but another shape of a temporary: that one becomes the output. False if it is something else.
static bool adopt(lowering *l, int slot, const char *name) {
  const zmi_slot *s = &l->tape->slots[slot];
  if (!l->apart || s->kind != ZMI_SLOT_VIEW || s->shift != 0 || !zmi_slot_is_contiguous(s)) return false;
  zmi_slot *base = &l->tape->slots[s->base];
  if (base->kind != ZMI_SLOT_TEMP || zmi_type_count(&base->type) != zmi_type_count(&s->type)) return false;
  const char *kept = zmi_tape_string(l->tape, name);
  if (!kept) return false; // the copy says so
  base->kind = ZMI_SLOT_OUTPUT;
  base->name = kept;
  base->apart = true;
  return true;
}

// Outputs that are views, leaves, states or asked for twice get a copy of their own.
static zm_status lower_outputs(lowering *l) {
  for (size_t i = 0; i < l->graph->output_count; i++) {
    int slot = read_slot(l, l->graph->outputs[i]);
    if (slot < 0) return zm_last_status();
    const zmi_slot *s = &l->tape->slots[slot];
    if ((s->kind == ZMI_SLOT_OUTPUT && strcmp(s->name, l->names[i]) == 0) || adopt(l, slot, l->names[i])) continue;
    if (emit_copy(l, slot, ZMI_SLOT_OUTPUT, l->names[i], NULL) < 0) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status lower(lowering *l) {
  clear_marks(l->graph);
  zm_status status = ZM_OK;
  for (size_t i = 0; i < l->graph->count && status == ZM_OK; i++) status = lower_node(l, l->graph->nodes[i]);
  if (status == ZM_OK) status = lower_outputs(l);
  if (status == ZM_OK) status = zmi_tape_verify(l->tape);
  if (status == ZM_OK) status = zmi_tape_plan(l->tape);
  zmi_free(l->copies);
  zmi_free(l->versions);
  return status;
}

// ---- programs ----

static zm_status bind_memory(zmi_program *p, const zmi_kernels *kernels) {
  size_t offset = 0;
  for (size_t i = 0; i < p->tape->slot_count; i++) {
    if (p->tape->slots[i].kind == ZMI_SLOT_INPUT) p->input_bytes += (p->tape->slots[i].bytes + 63) / 64 * 64;
  }
  p->inputs = zmi_block_alloc(p->input_bytes + 64);
  p->arena = zmi_block_alloc(p->tape->arena_bytes + 64);
  if (!p->inputs || !p->arena) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < p->tape->slot_count; i++) {
    zmi_slot *s = &p->tape->slots[i];
    if (s->kind != ZMI_SLOT_INPUT) continue;
    s->data = p->inputs + offset;
    offset += (s->bytes + 63) / 64 * 64;
  }
  p->player = zmi_player_new(p->tape, p->arena, kernels);
  return p->player ? ZM_OK : ZM_ERROR_MEMORY;
}

static bool mirrored(const zmi_slot *s) {
  return s->kind == ZMI_SLOT_INPUT || s->kind == ZMI_SLOT_OUTPUT;
}

// On a GPU the arena is the device's; the host has inputs and outputs only.
static zm_status bind_gpu(zmi_program *p, const zmi_compile_options *options) {
  size_t offset = 0;
  for (size_t i = 0; i < p->tape->slot_count; i++) {
    if (mirrored(&p->tape->slots[i])) p->input_bytes += (p->tape->slots[i].bytes + 63) / 64 * 64;
  }
  p->inputs = zmi_block_alloc(p->input_bytes + 64);
  if (!p->inputs) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < p->tape->slot_count; i++) {
    zmi_slot *s = &p->tape->slots[i];
    if (!mirrored(s)) continue;
    s->data = p->inputs + offset;
    offset += (s->bytes + 63) / 64 * 64;
  }
  p->gpu = zmi_device_player_new(options->gpu, p->tape, options->executor);
  return p->gpu ? ZM_OK : zm_last_status();
}

// Where each output is, so that taking them needs no names.
static zm_status find_outputs(zmi_program *p, const char *const *names, size_t count) {
  p->outputs = zmi_calloc(count ? count : 1, sizeof *p->outputs);
  if (!p->outputs) return ZM_ERROR_MEMORY;
  size_t at = 0;
  for (size_t i = 0; i < p->tape->slot_count; i++) {
    const zmi_slot *s = &p->tape->slots[i];
    if (s->kind != ZMI_SLOT_OUTPUT) continue;
    // Mostly in order.
    for (size_t k = 0; k < count && strcmp(names[at], s->name) != 0; k++) at = at + 1 < count ? at + 1 : 0;
    p->outputs[at] = (int)i;
    if (++at >= count) at = 0;
  }
  p->output_count = count;
  return ZM_OK;
}

zmi_program *zmi_compile(zm_array *const *outputs, const char *const *names, size_t count, const zmi_compile_options *options) {
  const zmi_compile_options none = {0};
  if (!options) options = &none;
  for (size_t i = 0; i < count; i++) {
    if (!outputs[i]) return NULL; // the message of the op that failed stands
  }
  const zmi_kernels *kernels = options->kernels ? options->kernels : zmi_kernels_find(NULL);
  zmi_program *p = kernels ? zmi_calloc(1, sizeof *p) : NULL;
  if (!p) return NULL;
  lowering l = {
      .graph = zmi_graph_collect(outputs, count), .names = names, .kernels = kernels, .apart = options->apart, .there = options->there};
  p->tape = l.tape = zmi_tape_new();
  zm_status status = l.graph && l.tape ? ZM_OK : ZM_ERROR_MEMORY;
  if (status == ZM_OK && options->rewrite) {
    status = options->rewrite(options->user, l.graph);
    if (status == ZM_OK) status = zmi_graph_refresh(l.graph);
  }
  if (status == ZM_OK) status = lower(&l);
  if (status == ZM_OK && options->apart) {
    p->kernels = kernels;
    status = find_outputs(p, names, count);
    if (options->there && !(p->values = zmi_calloc(count + 1, sizeof *p->values))) status = ZM_ERROR_MEMORY;
  } else if (status == ZM_OK && !options->plan_only) {
    status = options->gpu ? bind_gpu(p, options) : bind_memory(p, kernels);
  }
  zmi_graph_free(l.graph);
  if (status == ZM_OK) return p;
  zmi_program_free(p);
  return NULL;
}

void zmi_program_free(zmi_program *p) {
  if (!p) return;
  zmi_program_end(p);
  zmi_player_free(p->player);
  zmi_device_player_free(p->gpu);
  zmi_free(p->outputs);
  zmi_free(p->values);
  if (p->arena) zmi_block_free(p->arena, p->tape->arena_bytes + 64);
  if (p->inputs) zmi_block_free(p->inputs, p->input_bytes + 64);
  zmi_tape_free(p->tape);
  zmi_free(p);
}

zmi_tape *zmi_program_tape(zmi_program *p) {
  return p->tape;
}

zmi_player *zmi_program_player(zmi_program *p) {
  return p->player;
}

void *zmi_program_slot(zmi_program *p, const char *name) {
  for (size_t i = 0; i < p->tape->slot_count; i++) {
    const zmi_slot *s = &p->tape->slots[i];
    if (s->name && s->kind != ZMI_SLOT_WEIGHT && strcmp(s->name, name) == 0) return s->data;
  }
  return NULL;
}

zmi_device_player *zmi_program_gpu(zmi_program *p) {
  return p->gpu;
}

zm_status zmi_program_play(zmi_program *p, zmi_pool *pool) {
  if (p->gpu) return zmi_device_player_play(p->gpu);
  if (p->values) return zmi_play_there(p->tape, p->outputs, p->output_count, pool, p->kernels, p->values);
  zmi_player_play(p->player, pool);
  return ZM_OK;
}

// ---- programs whose inputs and results are apart ----

zm_status zmi_program_feed(zmi_program *p, const char *name, const void *data) {
  for (size_t i = 0; i < p->tape->slot_count; i++) {
    zmi_slot *s = &p->tape->slots[i];
    if (s->kind != ZMI_SLOT_INPUT || strcmp(s->name, name) != 0) continue;
    s->data = (void *)(uintptr_t)data; // never written through
    return ZM_OK;
  }
  return zmi_fail(ZM_ERROR_ARGUMENT, "the program has no input %s", name);
}

zm_status zmi_program_begin(zmi_program *p) {
  zmi_program_end(p);
  if (p->values) return ZM_OK; // memory comes and goes while it is played
  if (!(p->arena = zmi_buffer_alloc(p->tape->arena_bytes))) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < p->output_count; i++) {
    zmi_slot *s = &p->tape->slots[p->outputs[i]];
    if (!(s->data = zmi_buffer_alloc(s->bytes))) return ZM_ERROR_MEMORY;
  }
  if (p->player) {
    zmi_player_rebind(p->player, p->arena);
    return ZM_OK;
  }
  p->player = zmi_player_new(p->tape, p->arena, p->kernels);
  return p->player ? ZM_OK : ZM_ERROR_MEMORY;
}

void *zmi_program_take(zmi_program *p, size_t output) {
  if (output >= p->output_count) return NULL;
  zmi_slot *s = &p->tape->slots[p->outputs[output]];
  void *data = s->data;
  s->data = NULL;
  return data;
}

zmi_values zmi_program_values(zmi_program *p, size_t output) {
  zmi_values v = {0};
  if (!p->values || output >= p->output_count) return (zmi_values){.data = zmi_program_take(p, output)};
  v = p->values[output];
  p->values[output] = (zmi_values){0};
  return v;
}

void zmi_program_end(zmi_program *p) {
  if (!p->kernels) return;
  for (size_t i = 0; i < p->output_count; i++) zmi_values_free(zmi_program_values(p, i), p->tape->slots[p->outputs[i]].bytes);
  if (p->arena) zmi_buffer_free(p->arena, p->tape->arena_bytes);
  p->arena = NULL;
}
