// Arrays, nodes and scopes: making them, applying ops, and letting go of whole graphs without recursion.
#include "array/array.h"

#include <stdio.h>
#include <string.h>

struct zm_scope {
  zm_scope *outer;
  zm_array **arrays; // one reference each; NULL where an array was moved out
  size_t count, capacity;
  char *label;
};

static _Thread_local zm_scope *innermost;
static _Thread_local int tracing; // transforms at work on this thread
static _Thread_local bool marking_back;
static _Atomic uint64_t node_count;

// ---- scopes ----

zm_scope *zm_scope_open(void) {
  zm_scope *s = zmi_calloc(1, sizeof *s);
  if (!s) return NULL;
  s->outer = innermost;
  innermost = s;
  return s;
}

void zm_scope_close(zm_scope *scope) {
  if (!scope) return;
  // Scopes left open inside this one go with it.
  while (innermost && innermost != scope) zm_scope_close(innermost);
  innermost = scope->outer;
  for (size_t i = 0; i < scope->count; i++) {
    if (!scope->arrays[i]) continue;
    scope->arrays[i]->scope = NULL;
    zmi_array_release(scope->arrays[i]);
  }
  zmi_free(scope->arrays);
  zmi_free(scope->label);
  zmi_free(scope);
}

static zm_status scope_add(zm_scope *s, zm_array *a) {
  if (!ZMI_GROW(s->arrays, s->capacity, s->count + 1)) return ZM_ERROR_MEMORY;
  a->scope = s;
  a->scope_index = s->count;
  s->arrays[s->count++] = a;
  return ZM_OK;
}

zm_array *zm_scope_return(zm_scope *scope, zm_array *array) {
  if (!scope || !array) return NULL;
  if (!scope->outer) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_scope_return: there is no scope around this one to move the array to");
    return NULL;
  }
  if (array->scope != scope) return array; // it belongs to a scope that lives longer
  size_t index = array->scope_index;
  if (scope_add(scope->outer, array) != ZM_OK) return NULL;
  scope->arrays[index] = NULL;
  return array;
}

void zm_array_drop(zm_array *array) {
  if (!array || !array->scope) return;
  zm_scope *scope = array->scope;
  scope->arrays[array->scope_index] = NULL;
  array->scope = NULL;
  while (scope->count > 0 && !scope->arrays[scope->count - 1]) scope->count--; // a loop that drops what it makes leaves no trace
  zmi_array_release(array);
}

zm_status zmi_set_label(const char *format, ...) {
  if (!innermost) return zmi_fail(ZM_ERROR_ARGUMENT, "no scope is open on this thread: call zm_scope_open first");
  char text[256], *copy = NULL;
  if (format) {
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!(copy = zmi_strdup(text))) return ZM_ERROR_MEMORY;
  }
  zmi_free(innermost->label);
  innermost->label = copy;
  return ZM_OK;
}

static const char *current_label(void) {
  for (const zm_scope *s = innermost; s; s = s->outer) {
    if (s->label) return s->label;
  }
  return NULL;
}

// ---- references ----

zm_array *zmi_array_retain(zm_array *a) {
  if (a) a->refs++;
  return a;
}

// Gives back one reference; if it was the last, puts the array on the list of dead ones.
static void drop(zm_array *a, zm_array **dead) {
  if (!a || --a->refs > 0) return;
  a->next_dead = *dead;
  *dead = a;
}

static void drop_node(zmi_node *n, zm_array **dead) {
  if (--n->refs > 0) return;
  for (int i = 0; i < n->nin; i++) drop(n->in[i], dead);
  zmi_owner_release(n->owner);
  zmi_free(n->label);
  zmi_free(n);
}

static void free_data(zm_array *a) {
  size_t bytes = 0;
  zmi_there_free(a->there);
  if (!a->owns_data) return;
  if (!a->is_buffer)
    zmi_free(a->data);
  else if (zmi_type_bytes(&a->type, &bytes))
    zmi_buffer_free(a->data, bytes);
}

// Frees the dead and whatever dies with them.
static void bury(zm_array *dead) {
  while (dead) {
    zm_array *a = dead;
    dead = a->next_dead;
    if (a->node) {
      a->node->out[a->index] = NULL;
      drop_node(a->node, &dead);
    }
    free_data(a);
    zmi_free(a->name);
    zmi_free(a);
  }
}

void zmi_array_release(zm_array *a) {
  zm_array *dead = NULL;
  drop(a, &dead);
  bury(dead);
}

// After evaluation an array stands on its own: the graph behind it may go, unless a transform at work will ask for it.
void zmi_array_settle(zm_array *a, zmi_values v) {
  a->data = v.data;
  a->there = v.there;
  a->owns_data = a->is_buffer = true;
  a->leaf = ZMI_LEAF_DATA;
  if (!zmi_is_traced(a)) zmi_array_forget(a);
}

void zmi_array_forget(zm_array *a) {
  zmi_node *n = a->node;
  a->node = NULL;
  if (!n) return;
  n->out[a->index] = NULL;
  zm_array *dead = NULL;
  drop_node(n, &dead);
  bury(dead);
}

// A new array in the current scope, which holds the only reference.
static zm_array *new_array(const zmi_type *type, zmi_leaf leaf) {
  if (!innermost) {
    zmi_fail(ZM_ERROR_ARGUMENT, "no scope is open on this thread: call zm_scope_open first");
    return NULL;
  }
  zm_array *a = zmi_calloc(1, sizeof *a);
  if (!a) return NULL;
  a->refs = 1;
  a->type = *type;
  a->leaf = leaf;
  if (scope_add(innermost, a) == ZM_OK) return a;
  zmi_free(a);
  return NULL;
}

static void unmake(zm_array *a) {
  if (a->scope) a->scope->arrays[a->scope_index] = NULL;
  a->scope = NULL;
  zmi_array_release(a);
}

// ---- leaves ----

static zm_array *named_leaf(zmi_leaf leaf, const char *name, const zmi_type *type, void *data) {
  zm_array *a = new_array(type, leaf);
  if (!a) return NULL;
  a->data = data;
  if ((a->name = zmi_strdup(name))) return a;
  unmake(a);
  return NULL;
}

zm_array *zmi_weight(const char *name, const zmi_type *type, const void *data) {
  return named_leaf(ZMI_LEAF_WEIGHT, name, type, (void *)(uintptr_t)data); // never written through
}

zm_array *zmi_state(const char *name, const zmi_type *type, void *data) {
  return named_leaf(ZMI_LEAF_STATE, name, type, data);
}

zm_array *zmi_input(const char *name, const zmi_type *type) {
  return named_leaf(ZMI_LEAF_INPUT, name, type, NULL);
}

zm_array *zmi_data_leaf(const zmi_type *type, void *data) {
  zm_array *a = new_array(type, ZMI_LEAF_DATA);
  if (!a) return NULL;
  a->data = data;
  a->owns_data = true;
  return a;
}

zm_array *zmi_buffer_leaf(const zmi_type *type, void *data) {
  zm_array *a = zmi_data_leaf(type, data);
  if (a) a->is_buffer = true;
  return a;
}

zm_array *zmi_values_leaf(const zmi_type *type, zmi_values v) {
  zm_array *a = zmi_buffer_leaf(type, v.data);
  if (a) a->there = v.there;
  return a;
}

void zmi_values_free(zmi_values v, size_t bytes) {
  zmi_buffer_free(v.data, bytes);
  zmi_there_free(v.there);
}

zm_array *zm_array_from_data(const void *data, zm_dtype dtype, const int64_t *shape, int rank) {
  if (rank < 0 || rank > ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_array_from_data: rank %d is not between 0 and %d", rank, ZM_MAX_RANK);
    return NULL;
  }
  if (rank > 0 && !shape) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_array_from_data: shape is NULL although the rank is %d", rank);
    return NULL;
  }
  zmi_type type = zmi_type_of(dtype, rank, shape);
  size_t bytes;
  if (!zmi_type_bytes(&type, &bytes)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_array_from_data: the dtype is unknown, a dimension is negative, or the size overflows");
    return NULL;
  }
  if (bytes && !data) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_array_from_data: data is NULL although the shape needs %zu bytes", bytes);
    return NULL;
  }
  void *copy = zmi_buffer_alloc(bytes);
  if (!copy) return NULL;
  if (bytes) memcpy(copy, data, bytes);
  zm_array *a = zmi_buffer_leaf(&type, copy);
  if (!a) zmi_buffer_free(copy, bytes);
  return a;
}

// ---- facts ----

zm_dtype zm_array_dtype(const zm_array *a) {
  return a ? a->type.dtype : ZM_DTYPE_DEFAULT;
}

int zm_array_rank(const zm_array *a) {
  return a ? a->type.rank : -1;
}

int64_t zm_array_dim(const zm_array *a, int axis) {
  if (!a) return -1;
  if (axis < 0) axis += a->type.rank;
  return axis >= 0 && axis < a->type.rank ? a->type.shape[axis] : -1;
}

int64_t zm_array_size(const zm_array *a) {
  return a ? zmi_type_count(&a->type) : -1;
}

// ---- traces ----

void zmi_trace_begin(void) {
  tracing++;
}

void zmi_trace_end(void) {
  tracing--;
}

bool zmi_is_tracing(void) {
  return tracing > 0;
}

bool zmi_is_traced(const zm_array *a) {
  return a->traced && tracing > 0;
}

zm_array *zmi_placeholder(const char *name, const zmi_type *type) {
  zm_array *a = named_leaf(ZMI_LEAF_PLACEHOLDER, name, type, NULL);
  if (a) a->traced = true;
  return a;
}

bool zmi_mark_back(bool back) {
  const bool before = marking_back;
  marking_back = back;
  return before;
}

uint64_t zmi_node_serial(void) {
  return node_count;
}

// ---- applying ops ----

// Operand i of "x weight bias?": its name (not zero-terminated) and whether it may be absent. False if there are fewer operands.
static bool operand(const zmi_op *op, int i, const char **name, int *size, bool *optional) {
  const char *at = op->operands;
  while (*at) {
    int n = (int)strcspn(at, " ");
    bool many = at[n - 1] == '*';
    *name = at;
    *optional = at[n - 1] == '?';
    *size = n - (many || *optional ? 1 : 0);
    if (i == 0 || many) return true;
    i--;
    at += n + (at[n] == ' ');
  }
  return false;
}

static zm_status check_operands(const zmi_op *op, int nin, zm_array *const *in, zmi_type *types) {
  const char *name;
  int size;
  bool optional;
  if (nin > ZMI_MAX_IN) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: takes at most %d operands, got %d", op->name, ZMI_MAX_IN, nin);
  for (int i = 0; i < nin; i++) {
    types[i] = (zmi_type){.rank = -1};
    if (!operand(op, i, &name, &size, &optional))
      return zmi_fail(ZM_ERROR_ARGUMENT, "%s: got %d operands, takes '%s'", op->name, nin, op->operands);
    if (in[i]) {
      types[i] = in[i]->type;
    } else if (!optional) {
      // Normally the operand is NULL because making it failed: that message is the one to keep.
      zm_status first = zm_last_status();
      return first != ZM_OK ? first : zmi_fail(ZM_ERROR_ARGUMENT, "%s: operand %.*s is NULL", op->name, size, name);
    }
  }
  if (operand(op, nin, &name, &size, &optional) && !optional && name[size] != '*') {
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: operand %.*s is missing", op->name, size, name);
  }
  return ZM_OK;
}

// A node with one reference and places for its outputs.
static zmi_node *new_node(const zmi_op *op, const zmi_attrs *attrs, zmi_owner *owner, int nin, zm_array *const *in, int nout) {
  zmi_node *n = zmi_calloc(1, sizeof *n + ((size_t)nin + (size_t)nout) * sizeof(zm_array *));
  if (!n) return NULL;
  const char *label = current_label();
  if (label && !(n->label = zmi_strdup(label))) {
    zmi_free(n);
    return NULL;
  }
  n->refs = 1;
  n->op = op;
  n->serial = ++node_count;
  n->back = marking_back;
  n->owner = zmi_owner_retain(owner);
  if (attrs) n->attrs = *attrs;
  n->in = n->places;
  n->out = n->places + nin;
  n->nin = nin;
  n->nout = nout;
  for (int i = 0; i < nin; i++) n->in[i] = zmi_array_retain(in[i]);
  return n;
}

// Makes the outputs and gives up the caller's reference to the node, which may be NULL (no memory).
static zm_status make_outputs(zmi_node *n, const zmi_type *types, zm_array **out) {
  if (!n) return ZM_ERROR_MEMORY;
  zm_status status = ZM_OK;
  bool traced = n->op->flags & ZMI_OP_TRACE;
  for (int i = 0; i < n->nin; i++) traced = traced || (n->in[i] && n->in[i]->traced);
  for (int o = 0; o < n->nout && status == ZM_OK; o++) {
    out[o] = new_array(types ? &types[o] : &n->in[o]->type, ZMI_LEAF_NONE);
    if (!out[o]) {
      status = ZM_ERROR_MEMORY;
      break;
    }
    out[o]->node = n;
    out[o]->index = o;
    out[o]->traced = traced;
    n->out[o] = out[o];
    n->refs++;
  }
  for (int o = 0; o < n->nout && status != ZM_OK; o++) {
    if (n->out[o]) unmake(n->out[o]);
  }
  zm_array *dead = NULL;
  drop_node(n, &dead);
  bury(dead);
  return status;
}

zm_status zmi_apply_owned(const zmi_op *op, const void *attrs, size_t attrs_size, zmi_owner *owner, int nin, zm_array *const *in,
                          zm_array **out) {
  zmi_type types[ZMI_MAX_IN], results[ZMI_MAX_OUT];
  zmi_attrs copy = {0};
  int nout = 0;
  if (op->flags & ZMI_OP_ALIAS) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: an alias is made by zmi_apply_alias", op->name);
  if (attrs_size > ZMI_ATTR_BYTES)
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: attributes of %zu bytes exceed %d", op->name, attrs_size, ZMI_ATTR_BYTES);
  zm_status status = check_operands(op, nin, in, types);
  if (status != ZM_OK) return status;
  if (attrs_size) memcpy(copy.bytes, attrs, attrs_size);
  memset(results, 0, sizeof results);
  status = op->infer(copy.bytes, nin, types, &nout, results);
  if (status != ZM_OK) {
    zmi_fail_within("%s", op->name);
    return status;
  }
  for (int o = 0; o < nout; o++) {
    size_t bytes;
    if (!zmi_type_bytes(&results[o], &bytes)) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: the result is too large to address", op->name);
  }
  return make_outputs(new_node(op, &copy, owner, nin, in, nout), results, out);
}

zm_status zmi_apply_alias(const zmi_op *op, zmi_owner *owner, int nin, zm_array *const *in, int nout, zm_array **out) {
  for (int i = 0; i < nin; i++) {
    if (in[i]) continue;
    zm_status first = zm_last_status();
    return first != ZM_OK ? first : zmi_fail(ZM_ERROR_ARGUMENT, "%s: operand %d is NULL", op->name, i + 1);
  }
  return make_outputs(new_node(op, NULL, owner, nin, in, nout), NULL, out);
}

zm_status zmi_apply(const zmi_op *op, const void *attrs, size_t attrs_size, int nin, zm_array *const *in, zm_array **out) {
  return zmi_apply_owned(op, attrs, attrs_size, NULL, nin, in, out);
}

zm_array *zmi_apply1(const zmi_op *op, const void *attrs, size_t attrs_size, int nin, zm_array *const *in) {
  zm_array *out[ZMI_MAX_OUT] = {NULL};
  return zmi_apply(op, attrs, attrs_size, nin, in, out) == ZM_OK ? out[0] : NULL;
}
