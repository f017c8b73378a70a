// zm_compile: a function whose graph is built once for each list of types of its inputs. The tape that the graph becomes is kept and
// played again on other values.
#include "transform/transform.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { MOST_ENTRIES = 64 }; // lists of types remembered; after that the oldest gives way

typedef struct entry {
  int nin;
  bool there; // for arrays on a GPU
  zmi_type *types, *results;
  int *slots; // of each input; -1: nothing reads it
  zmi_program *program;
  zm_array **held; // leaves with data that the tape reads; one reference each
  size_t held_count, held_capacity;
} entry;

struct zm_compiled {
  zm_function f;
  void *user;
  int nout;
  pthread_mutex_t lock; // of what follows, and of the programs: calls take turns
  entry *entries[MOST_ENTRIES];
  size_t count, next;
};

static void free_entry(entry *e) {
  if (!e) return;
  zmi_program_free(e->program);
  for (size_t i = 0; i < e->held_count; i++) zmi_array_release(e->held[i]);
  zmi_free(e->held);
  zmi_free(e->types);
  zmi_free(e->results);
  zmi_free(e->slots);
  zmi_free(e);
}

zm_compiled *zm_compile(zm_function f, void *user, int nout) {
  if (!f || nout < 1) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_compile: %s", f ? "there must be at least one result" : "the function is NULL");
    return NULL;
  }
  zm_compiled *c = zmi_calloc(1, sizeof *c);
  if (!c) return NULL;
  c->f = f;
  c->user = user;
  c->nout = nout;
  pthread_mutex_init(&c->lock, NULL);
  return c;
}

void zm_compiled_free(zm_compiled *c) {
  if (!c) return;
  for (size_t i = 0; i < c->count; i++) free_entry(c->entries[i]);
  pthread_mutex_destroy(&c->lock);
  zmi_free(c);
}

// ---- building an entry ----

// Captured arrays that nobody has evaluated yet are evaluated now, once, not in every call: those made before f was called which f's own
// nodes (or the results) read.
static zm_status evaluate_captured(zm_array *const *out, int nout, uint64_t since) {
  zmi_graph *g = zmi_graph_collect(out, (size_t)nout);
  if (!g) return zm_last_status();
  zm_array **captured = NULL;
  size_t count = 0, capacity = 0;
  zm_status status = ZM_OK;
  for (size_t i = 0; i <= g->count && status == ZM_OK; i++) {
    const zmi_node *n = i < g->count ? g->nodes[i] : NULL; // after the nodes: the results
    if (n && n->serial <= since) continue;
    for (int k = 0; k < (n ? n->nin : nout) && status == ZM_OK; k++) {
      zm_array *a = n ? n->in[k] : out[k];
      if (!a || !a->node || zmi_has_values(a) || a->node->serial > since) continue;
      if (ZMI_GROW(captured, capacity, count + 1))
        captured[count++] = a;
      else
        status = ZM_ERROR_MEMORY;
    }
  }
  zmi_graph_free(g);
  if (status == ZM_OK && count > 0) status = zm_eval(captured, count);
  zmi_free(captured);
  return status;
}

static zm_status hold(entry *e, zm_array *a) {
  if (!a || !zmi_has_values(a)) return ZM_OK;
  if (!ZMI_GROW(e->held, e->held_capacity, e->held_count + 1)) return ZM_ERROR_MEMORY;
  e->held[e->held_count++] = zmi_array_retain(a);
  return ZM_OK;
}

static zm_status hold_leaves(entry *e, zm_array *const *out, int nout) {
  zmi_graph *g = zmi_graph_collect(out, (size_t)nout);
  zm_status status = g ? ZM_OK : zm_last_status();
  for (size_t i = 0; g && i < g->count && status == ZM_OK; i++) {
    for (int k = 0; k < g->nodes[i]->nin && status == ZM_OK; k++) status = hold(e, g->nodes[i]->in[k]);
  }
  for (int o = 0; o < nout && status == ZM_OK; o++) status = hold(e, out[o]);
  zmi_graph_free(g);
  return status;
}

// Chains of elementwise operations become one kernel each.
static zm_status fuse(void *user, zmi_graph *graph) {
  (void)user;
  return zmi_fuse_elementwise(graph);
}

static zm_status lower(entry *e, zm_array *const *out, int nout) {
  const zmi_kernels *kernels;
  zmi_pool *pool;
  zm_status status = zmi_device(&pool, &kernels);
  char(*text)[24] = zmi_calloc((size_t)nout, sizeof *text);
  const char **names = zmi_calloc((size_t)nout, sizeof *names);
  if (status == ZM_OK && !(text && names)) status = ZM_ERROR_MEMORY;
  for (int o = 0; o < nout && status == ZM_OK; o++) {
    snprintf(text[o], sizeof text[o], "%d", o);
    names[o] = text[o];
    e->results[o] = out[o]->type;
  }
  if (status == ZM_OK) {
    e->program = zmi_compile(out, names, (size_t)nout,
                             &(zmi_compile_options){.kernels = kernels, .apart = true, .there = e->there, .rewrite = fuse});
    status = e->program ? ZM_OK : zm_last_status();
  }
  if (status == ZM_OK) {
    const zmi_tape *t = zmi_program_tape(e->program);
    for (size_t i = 0; i < t->slot_count; i++) {
      int input;
      if (t->slots[i].kind == ZMI_SLOT_INPUT && sscanf(t->slots[i].name, "in.%d", &input) == 1) e->slots[input] = (int)i;
    }
  }
  zmi_free(names);
  zmi_free(text);
  return status;
}

// Placeholders become inputs of the tape.
static zm_status open_inputs(zm_array **placeholders, int nin) {
  char name[24];
  for (int i = 0; i < nin; i++) {
    snprintf(name, sizeof name, "in.%d", i);
    char *copy = zmi_strdup(name);
    if (!copy) return ZM_ERROR_MEMORY;
    zmi_free(placeholders[i]->name);
    placeholders[i]->name = copy;
    placeholders[i]->leaf = ZMI_LEAF_INPUT;
  }
  return ZM_OK;
}

static zm_status build(const zm_compiled *c, entry *e, zm_array *const *in) {
  zm_scope *scope = zm_scope_open();
  zm_array **placeholders = zmi_calloc((size_t)e->nin + (size_t)c->nout, sizeof *placeholders);
  zm_array **out = placeholders ? placeholders + e->nin : NULL;
  zm_status status = scope && placeholders ? ZM_OK : ZM_ERROR_MEMORY;
  for (int i = 0; i < e->nin && status == ZM_OK; i++) {
    if (!(placeholders[i] = zmi_placeholder("zm_compile", &in[i]->type))) status = zm_last_status();
  }
  const uint64_t since = zmi_node_serial();
  if (status == ZM_OK) status = zmi_call_traced("zm_compile", c->f, c->user, placeholders, e->nin, out, c->nout);
  if (status == ZM_OK) status = open_inputs(placeholders, e->nin);
  if (status == ZM_OK) status = evaluate_captured(out, c->nout, since);
  if (status == ZM_OK) status = hold_leaves(e, out, c->nout);
  if (status == ZM_OK) status = lower(e, out, c->nout);
  zm_scope_close(scope);
  zmi_free(placeholders);
  return status;
}

static entry *new_entry(const zm_compiled *c, zm_array *const *in, int nin, bool there) {
  entry *e = zmi_calloc(1, sizeof *e);
  if (!e) return NULL;
  e->nin = nin;
  e->there = there;
  e->types = zmi_calloc((size_t)nin + 1, sizeof *e->types);
  e->slots = zmi_calloc((size_t)nin + 1, sizeof *e->slots);
  e->results = zmi_calloc((size_t)c->nout, sizeof *e->results);
  bool good = e->types && e->slots && e->results;
  for (int i = 0; i < nin && good; i++) {
    e->types[i] = in[i]->type;
    e->slots[i] = -1;
  }
  if (good && build(c, e, in) == ZM_OK) return e;
  free_entry(e);
  return NULL;
}

// ---- calls ----

static entry *find(const zm_compiled *c, zm_array *const *in, int nin, bool there) {
  for (size_t k = 0; k < c->count; k++) {
    entry *e = c->entries[k];
    bool same = e->nin == nin && e->there == there;
    for (int i = 0; i < nin && same; i++) same = zmi_type_equal(&e->types[i], &in[i]->type);
    if (same) return e;
  }
  return NULL;
}

// Under the lock.
static void add(zm_compiled *c, entry *e) {
  if (c->count < MOST_ENTRIES) {
    c->entries[c->count++] = e;
    return;
  }
  free_entry(c->entries[c->next]);
  c->entries[c->next] = e;
  c->next = (c->next + 1) % MOST_ENTRIES;
}

static zm_status play(entry *e, zm_array *const *in, zm_array **made, int nout) {
  const zmi_kernels *kernels;
  zmi_pool *pool;
  zmi_tape *t = zmi_program_tape(e->program);
  zm_status status = zmi_device(&pool, &kernels);
  for (int i = 0; i < e->nin && status == ZM_OK; i++) {
    if (e->slots[i] < 0) continue;
    if (!e->there) status = zmi_fetch(in[i]);
    t->slots[e->slots[i]].data = in[i]->data; // never written through
    t->slots[e->slots[i]].array = in[i];
  }
  if (status == ZM_OK) status = zmi_program_begin(e->program);
  if (status == ZM_OK) status = zmi_program_play(e->program, pool);
  for (int o = 0; o < nout && status == ZM_OK; o++) {
    const zmi_values values = zmi_program_values(e->program, (size_t)o);
    size_t bytes = 0;
    if ((made[o] = zmi_values_leaf(&e->results[o], values))) continue;
    status = zm_last_status();
    zmi_type_bytes(&e->results[o], &bytes);
    zmi_values_free(values, bytes);
  }
  zmi_program_end(e->program);
  return status;
}

static zm_status run(zm_compiled *c, zm_array *const *in, int nin, zm_array **made) {
  zm_status status = ZM_OK;
  const bool there = zmi_on_device();
  pthread_mutex_lock(&c->lock);
  entry *e = find(c, in, nin, there);
  if (!e) {
    // f runs without the lock: it may call c itself, which is then followed like any function.
    pthread_mutex_unlock(&c->lock);
    entry *fresh = new_entry(c, in, nin, there);
    if (!fresh) return zm_last_status();
    pthread_mutex_lock(&c->lock);
    e = find(c, in, nin, there);
    if (e)
      free_entry(fresh);
    else
      add(c, e = fresh);
  }
  status = play(e, in, made, c->nout);
  pthread_mutex_unlock(&c->lock);
  return status;
}

zm_status zm_compiled_call(zm_compiled *c, zm_array *const *in, int nin, zm_array **out, int nout) {
  if (!c) return zmi_fail(ZM_ERROR_ARGUMENT, "zm_compiled_call: the compiled function is NULL");
  zm_status status = zmi_check_call("zm_compiled_call", c->f, in, nin, out, nout);
  if (status == ZM_OK && nout != c->nout)
    status = zmi_fail(ZM_ERROR_ARGUMENT, "zm_compiled_call: %d results asked for, the function was compiled with %d", nout, c->nout);
  if (status != ZM_OK) return status;
  if (zmi_is_tracing()) return c->f(c->user, in, nin, out, nout); // another transform follows what f does
  status = zm_eval(in, (size_t)nin);
  if (status != ZM_OK) return status;
  zm_scope *scope = zm_scope_open();
  zm_array **made = zmi_calloc((size_t)nout, sizeof *made);
  status = scope && made ? run(c, in, nin, made) : ZM_ERROR_MEMORY;
  if (scope) status = zmi_leave(scope, status, made, nout, NULL, 0);
  for (int o = 0; o < nout && status == ZM_OK; o++) out[o] = made[o];
  zmi_free(made);
  return status;
}
