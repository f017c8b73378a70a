// Emitted C, the frame of tiles: groups one after another, threads of a group as lanes.
#include "kernel/emit.h"

// Adding to memory that several workers may add to at once.
static void atomics(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  bool done[ZM_DTYPE_COUNT] = {false};
  for (size_t i = 0; i < c->count; i++) {
    if (c->insts[i].op != ZMI_K_ATOMIC_ADD) continue;
    const zm_dtype d = c->out[c->insts[i].index];
    if (done[d]) continue;
    done[d] = true;
    const char *memory = zmi_emit_memory(d), *type = zmi_emit_type(zmi_ctype_of(d)), *name = zm_dtype_name(d);
    zmi_text load = {0}, store = {0};
    zmi_emit_load(d, "old", &load);
    zmi_emit_stored(d, zmi_ctype_of(d), "sum", &store);
    zmi_emit_top(e, "ZK_FN void ze_atomic_%s(%s *p, %s v) {", name, memory, type);
    zmi_emit_top(e, "  %s old, now;", memory);
    zmi_emit_top(e, "  __atomic_load(p, &old, __ATOMIC_RELAXED);");
    zmi_emit_top(e, "  do {");
    if (zmi_ctype_of(d) == ZMI_C_FLOAT)
      zmi_emit_top(e, "    const float sum = %s + v;", zmi_text_str(&load));
    else
      zmi_emit_top(e, "    const %s sum = (%s)((zk_ulong)(%s) + (zk_ulong)v);", type, type, zmi_text_str(&load));
    zmi_emit_top(e, "    now = %s;", zmi_text_str(&store));
    zmi_emit_top(e, "  } while (!__atomic_compare_exchange(p, &old, &now, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED));");
    zmi_emit_top(e, "}");
    zmi_text_release(&load);
    zmi_text_release(&store);
  }
}

// Memory of groups and arrays of threads are zeros at first, in each group.
static void zero_shared(zmi_emit_state *e) {
  for (int i = 0; i < (int)e->code->count; i++) {
    const zmi_inst *x = &e->code->insts[i];
    if (x->op != ZMI_K_SHARED || x->index == 2) continue;
    if (x->index == 0)
      zmi_emit_top(e, "for (zk_int k = 0; k < %d; k++) s%d[k] = 0;", x->extra, i);
    else
      zmi_emit_top(e, "for (zk_int k = 0; k < %d; k++) for (zk_int t = 0; t < n; t++) s%d[k * %d + t] = 0;", x->extra, i, e->capacity);
  }
}

void zmi_emit_tiles(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  const int count = (int)c->count;
  e->threads = true;
  e->capacity = ZMI_EMIT_THREADS;
  zmi_emit_plan(e, 0, count);
  atomics(e);
  zmi_emit_top(e, "void zk_groups(zk_long first, zk_long last, zk_long groups, zk_long threads, const void *const *in, void *const *out,");
  zmi_emit_top(e, "               const zk_long *dims, const zk_long *counts, const double *params) {");
  e->depth++;
  zmi_emit_top(e, "(void)groups, (void)in, (void)out, (void)dims, (void)counts, (void)params;");
  for (int k = 0; k < c->nin; k++)
    zmi_emit_top(e, "const %s *p%d = (const %s *)in[%d];", zmi_emit_memory(c->in[k]), k, zmi_emit_memory(c->in[k]), k);
  for (int k = 0; k < c->nout; k++)
    zmi_emit_top(e, "%s *q%d = (%s *)out[%d];", zmi_emit_memory(c->out[k]), k, zmi_emit_memory(c->out[k]), k);
  zmi_emit_arrays(e, 0, count, true);
  for (int i = 0; i < count; i++) {
    const zmi_inst *x = &c->insts[i];
    const int each = x->index == 1 ? e->capacity : 1;
    if (x->op == ZMI_K_SHARED) zmi_emit_top(e, "%s s%d[%d];", zmi_emit_type(x->type), i, x->extra * each);
  }
  zmi_emit_top(e, "const zk_int n = (zk_int)threads;");
  zmi_emit_top(e, "for (zk_long g = first; g < last; g++) {");
  e->depth++;
  zero_shared(e);
  e->in_lanes = true;
  zmi_emit_walk(e, 0, count);
  zmi_emit_flush(e);
  e->in_lanes = false;
  if (c->form == ZMI_FORM_ELEMENTS) zmi_emit_narrow(e, 0, count);
  e->depth--;
  zmi_emit_top(e, "}");
  e->depth--;
  zmi_emit_top(e, "}");
}
