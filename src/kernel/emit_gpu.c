// Emitted CUDA C and Metal: one walk, a row of spellings for each. An element of an array, or a thread of a group, is a thread. A row is a
// group: its threads compute a part of the row, then 16 of them add that part up, each its lane, so that sums have the order of every other
// target.
#include "kernel/emit.h"

#include <stdio.h>

enum { PART = 512, SHARED_BYTES = 24 << 10, METAL_BUFFERS = 30 };

static const struct gpu_row {
  const char *entry, *input, *output, *call, *threads, *ids, *shared, *barrier;
} gpu_rows[ZMI_TARGET_COUNT] = {
    [ZMI_TARGET_CUDA] = {.entry = "extern \"C\" __global__ void %s(",
                         .input = "const %s *p%d",
                         .output = "%s *q%d",
                         .call = "const zk_call call",
                         .ids = "const zk_int t = (zk_int)threadIdx.x, n = (zk_int)blockDim.x;\n"
                                "  const zk_long g = (zk_long)blockIdx.x, groups = (zk_long)gridDim.x;\n",
                         .shared = "__shared__",
                         .barrier = "__syncthreads();"},
    [ZMI_TARGET_METAL] = {.entry = "kernel void %s(",
                          .input = "device const %s *p%d",
                          .output = "device %s *q%d",
                          .call = "constant zk_call &call",
                          .threads = ",\n    uint thread_ [[thread_position_in_threadgroup]], uint threads_ [[threads_per_threadgroup]],\n"
                                     "    uint group_ [[threadgroup_position_in_grid]], uint groups_ [[threadgroups_per_grid]]",
                          .ids = "const zk_int t = (zk_int)thread_, n = (zk_int)threads_;\n"
                                 "  const zk_long g = (zk_long)group_, groups = (zk_long)groups_;\n",
                          .shared = "threadgroup",
                          .barrier = "threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);"},
};

static bool is_reduction(zmi_cop op) {
  return op >= ZMI_K_SUM && op <= ZMI_K_ARGMIN;
}

static bool is_arg(zmi_cop op) {
  return op == ZMI_K_ARGMAX || op == ZMI_K_ARGMIN;
}

static void barrier(zmi_emit_state *e) {
  zmi_emit_top(e, "%s", gpu_rows[e->target].barrier);
}

static const zmi_inst *at(const zmi_emit_state *e, int i) {
  return &e->code->insts[i];
}

// ---- instructions ----

static void leaf(zmi_emit_state *e, int i) {
  const zmi_inst *x = at(e, i);
  const int form = e->code->form;
  char place[96];
  zmi_text t = {0};
  switch (x->op) {
  case ZMI_K_INPUT:
    if (form == ZMI_FORM_ELEMENTS)
      snprintf(place, sizeof place, "p%d[i * call.step[%d]]", x->index, x->index);
    else if (e->code->in_per_row[x->index])
      snprintf(place, sizeof place, "p%d[r * call.row_stride[%d]]", x->index, x->index);
    else
      snprintf(place, sizeof place, "p%d[r * call.row_stride[%d] + i * call.step[%d]]", x->index, x->index, x->index);
    zmi_emit_load(e->code->in[x->index], place, &t);
    break;
  case ZMI_K_PARAM:
    if (x->type == ZMI_C_FLOAT)
      zmi_text_add(&t, "call.params[%d].f", x->index);
    else
      zmi_text_add(&t, "(%s)call.params[%d].i", zmi_emit_type(x->type), x->index);
    break;
  case ZMI_K_PLACE:
    zmi_text_add(&t, "(zk_int)i");
    break;
  case ZMI_K_LENGTH:
    zmi_text_add(&t, "(zk_int)call.d");
    break;
  case ZMI_K_THREAD:
    zmi_text_add(&t, "t");
    break;
  case ZMI_K_GROUP:
    zmi_text_add(&t, "(zk_int)g");
    break;
  case ZMI_K_THREADS:
    zmi_text_add(&t, "n");
    break;
  case ZMI_K_GROUPS:
    zmi_text_add(&t, "(zk_int)groups");
    break;
  default:
    zmi_text_add(&t, "(zk_int)call.dims[%d]", x->index * ZM_MAX_RANK + x->extra);
    break; // DIM
  }
  zmi_emit_value(e, i, zmi_text_str(&t));
  zmi_text_release(&t);
}

static void output(zmi_emit_state *e, int i) {
  const zmi_inst *x = at(e, i);
  char value[48];
  zmi_text t = {0};
  zmi_emit_ref(e, x->a, value);
  zmi_emit_stored(e->code->out[x->index], at(e, x->a)->type, value, &t);
  if (e->code->form == ZMI_FORM_ELEMENTS)
    zmi_emit_top(e, "q%d[i] = %s;", x->index, zmi_text_str(&t));
  else if (e->block < 0)
    zmi_emit_top(e, "if (t == 0) q%d[r] = %s;", x->index, zmi_text_str(&t));
  else
    zmi_emit_top(e, "q%d[r * call.d + i] = %s;", x->index, zmi_text_str(&t));
  zmi_text_release(&t);
}

static void atomic_add(zmi_emit_state *e, int i, const char *place, const char *value, const char *limit) {
  static const char *const types[ZM_DTYPE_COUNT] = {[ZM_I32] = "int", [ZM_U32] = "uint", [ZM_F32] = "float"};
  const zm_dtype d = e->code->out[at(e, i)->index];
  char cut[48];
  zmi_emit_ref(e, at(e, i)->a, cut);
  if (!types[d]) {
    e->status = zmi_fail(ZM_ERROR_UNSUPPORTED, "kernel %s: atomic_add to %s has no form in %s: use int32, uint32 or float32", e->code->name,
                         zm_dtype_name(d), zmi_target_names[e->target]);
    return;
  }
  if (e->target == ZMI_TARGET_CUDA)
    zmi_emit_top(e, "if ((zk_ulong)%s < (zk_ulong)%s) atomicAdd(&%s, %s);", cut, limit, place, value);
  else
    zmi_emit_top(e, "if ((zk_ulong)%s < (zk_ulong)%s) atomic_fetch_add_explicit((device atomic_%s *)&%s, %s, memory_order_relaxed);", cut,
                 limit, types[d], place, value);
}

static void memory_access(zmi_emit_state *e, int i) {
  const zmi_inst *x = at(e, i);
  char cut[48], value[48] = "", place[64], limit[48];
  zmi_text t = {0}, stored = {0};
  const bool shared = x->op == ZMI_K_SHARED_LOAD || x->op == ZMI_K_SHARED_STORE;
  const char *type = zmi_emit_type(x->type);
  zmi_emit_ref(e, x->a, cut);
  if (x->b >= 0) zmi_emit_ref(e, x->b, value);
  if (shared)
    snprintf(limit, sizeof limit, "%du", at(e, x->index)->extra);
  else
    snprintf(limit, sizeof limit, "call.counts[%d]", x->op == ZMI_K_LOAD ? x->index : e->code->nin + x->index);
  snprintf(place, sizeof place, shared ? "s%d[%s]" : x->op == ZMI_K_LOAD ? "p%d[%s]" : "q%d[%s]", x->index, cut);
  if (x->op == ZMI_K_LOAD || x->op == ZMI_K_SHARED_LOAD) {
    if (shared)
      zmi_text_add(&stored, "%s", place);
    else
      zmi_emit_load(e->code->in[x->index], place, &stored);
    zmi_text_add(&t, "(zk_ulong)%s < (zk_ulong)%s ? (%s)(%s) : (%s)0", cut, limit, type, zmi_text_str(&stored), type);
    zmi_emit_value(e, i, zmi_text_str(&t));
  } else if (x->op == ZMI_K_ATOMIC_ADD) {
    atomic_add(e, i, place, value, limit);
  } else {
    if (shared)
      zmi_text_add(&stored, "%s", value);
    else
      zmi_emit_stored(e->code->out[x->index], at(e, x->b)->type, value, &stored);
    zmi_emit_top(e, "if ((zk_ulong)%s < (zk_ulong)%s) %s = %s;", cut, limit, place, zmi_text_str(&stored));
  }
  zmi_text_release(&t);
  zmi_text_release(&stored);
}

static void variable(zmi_emit_state *e, int i) {
  const zmi_inst *x = at(e, i);
  char name[64], value[48] = "";
  if (x->a >= 0) zmi_emit_ref(e, x->a, value);
  if (x->op == ZMI_K_VAR) {
    zmi_emit_top(e, "%s x%d = %s;", zmi_emit_type(x->type), i, value);
    return;
  }
  // Where lanes are joined, variables are their copies in threadgroup memory.
  const bool lanes = e->place[x->index] == ZMI_PLACE_LANES;
  snprintf(name, sizeof name, lanes ? x->op == ZMI_K_GET_RIGHT ? "x%ds[t + h]" : "x%ds[t]" : "x%d", x->index);
  if (x->op == ZMI_K_SET)
    zmi_emit_top(e, "%s = %s;", name, value);
  else
    zmi_emit_value(e, i, name);
}

static void structure(zmi_emit_state *e, int i) {
  const zmi_inst *x = at(e, i);
  char a[48], b[48], c[48];
  if (x->op == ZMI_K_END || x->op == ZMI_K_ELSE) {
    e->depth--;
    zmi_emit_top(e, x->op == ZMI_K_END ? "}" : "} else {");
    if (x->op == ZMI_K_ELSE) e->depth++;
    return;
  }
  zmi_emit_ref(e, x->a, a);
  if (x->op == ZMI_K_IF) {
    zmi_emit_top(e, "if (%s) {", a);
    e->depth++;
    return;
  }
  zmi_emit_ref(e, x->b, b);
  zmi_emit_ref(e, x->c, c);
  zmi_emit_top(e, "for (zk_long k%d = %s; %s > 0 && k%d < %s; k%d += %s) {", i, a, c, i, b, i, c);
  e->depth++;
  zmi_emit_top(e, "const zk_int v%d = (zk_int)k%d;", i, i);
}

static void one(zmi_emit_state *e, int i) {
  const zmi_inst *x = at(e, i);
  const char kind = zmi_cop_rows[x->op].kind;
  char value[48];
  zmi_text t = {0};
  if (x->a >= 0) zmi_emit_ref(e, x->a, value);
  if (zmi_emit_expression(e, i, &t)) {
    zmi_emit_value(e, i, zmi_text_str(&t));
  } else if (kind == 'P') {
    leaf(e, i);
  } else if (kind == 'M' || x->op == ZMI_K_SHARED_LOAD || x->op == ZMI_K_SHARED_STORE) {
    memory_access(e, i);
  } else if (x->op == ZMI_K_VAR || x->op == ZMI_K_GET || x->op == ZMI_K_SET || x->op == ZMI_K_GET_RIGHT) {
    variable(e, i);
  } else if (x->op == ZMI_K_OUTPUT) {
    output(e, i);
  } else if (x->op == ZMI_K_BARRIER) {
    barrier(e);
  } else if (is_reduction(x->op)) {
    zmi_emit_top(e, "r%d[j] = %s;", i, value);
  } else if (x->op == ZMI_K_SCAN_SUM) {
    const char *word = zmi_emit_word(x->type);
    zmi_emit_top(e, "c%d = zk_add_%s(c%d, %s);", i, word, i, value);
    snprintf(value, sizeof value, "c%d", i);
    zmi_emit_value(e, i, value);
  }
  zmi_text_release(&t);
}

// ---- ELEMENTS blocks ----

static void start_reductions(zmi_emit_state *e, int begin, int end) {
  for (int i = begin; i < end; i++) {
    const zmi_inst *x = at(e, i);
    if (x->op == ZMI_K_SCAN_SUM) zmi_emit_top(e, "%s c%d = 0;", zmi_emit_type(x->type), i);
    if (!is_reduction(x->op)) continue;
    const zmi_ctype type = at(e, x->a)->type;
    zmi_emit_top(e, "%s a%d = %s;", zmi_emit_type(type), i, zmi_emit_identity(x->op, type));
    if (is_arg(x->op)) zmi_emit_top(e, "zk_int at%d = -1;", i);
  }
}

// How one more value joins a lane, by reduction; of floats and of integers.
static void add_to_lane(zmi_emit_state *e, int i) {
  static const char *const names[] = {"add", "add", "mul", "max", "min", "max", "min"};
  const zmi_inst *x = at(e, i);
  const zmi_ctype type = at(e, x->a)->type;
  const char *word = zmi_emit_word(type), *name = names[x->op - ZMI_K_SUM];
  if (is_arg(x->op))
    zmi_emit_top(e, "if (at%d < 0 || ze_beats_%s_%s(r%d[j], a%d)) a%d = r%d[j], at%d = (zk_int)at + j;", i, name, word, i, i, i, i, i);
  else if (x->op == ZMI_K_SUMSQ)
    zmi_emit_top(e, "a%d = zk_fma(r%d[j], r%d[j], a%d);", i, i, i, i);
  else if (type == ZMI_C_FLOAT && x->op >= ZMI_K_MAXIMUM)
    zmi_emit_top(e, "a%d = ze_more_%s(a%d, r%d[j]);", i, name, i, i);
  else
    zmi_emit_top(e, "a%d = zk_%s_%s(a%d, r%d[j]);", i, name, word, i, i);
}

static void fold(zmi_emit_state *e, int i) {
  const zmi_inst *x = at(e, i);
  const zmi_ctype type = at(e, x->a)->type;
  const char *word = zmi_emit_word(type), *memory = zmi_emit_type(type);
  zmi_emit_top(e, is_arg(x->op) ? "if (t < 16) r%d[t] = a%d, i%d[t] = at%d;" : "if (t < 16) r%d[t] = a%d;", i, i, i, i);
  barrier(e);
  if (x->op <= ZMI_K_PROD) {
    zmi_emit_top(e, "for (zk_int h = 8; h > 0; h /= 2) {");
    zmi_emit_top(e, "  if (t < h) r%d[t] = zk_%s_%s(r%d[t], r%d[t + h]);", i, x->op == ZMI_K_PROD ? "mul" : "add", word, i, i);
    zmi_emit_top(e, "  %s", gpu_rows[e->target].barrier);
    zmi_emit_top(e, "}");
    zmi_emit_top(e, "const %s v%d = r%d[0];", memory, i, i);
  } else if (is_arg(x->op)) {
    const char *name = x->op == ZMI_K_ARGMAX ? "max" : "min";
    zmi_emit_top(e, "zk_int b%d = 0;", i);
    zmi_emit_top(e, "for (zk_int h = 1; h < 16; h++)");
    zmi_emit_top(e, "  if (i%d[h] >= 0 && (ze_beats_%s_%s(r%d[h], r%d[b%d]) ||", i, name, word, i, i, i);
    zmi_emit_top(e, "      (!ze_beats_%s_%s(r%d[b%d], r%d[h]) && i%d[h] < i%d[b%d]))) b%d = h;", name, word, i, i, i, i, i, i, i);
    zmi_emit_top(e, "const zk_int v%d = i%d[b%d] < 0 ? 0 : i%d[b%d];", i, i, i, i, i);
  } else {
    const char *name = x->op == ZMI_K_MAXIMUM ? "max" : "min";
    zmi_emit_top(e, "%s f%d = r%d[0];", memory, i, i);
    if (type == ZMI_C_FLOAT)
      zmi_emit_top(e, "for (zk_int h = 1; h < 16; h++) f%d = ze_more_%s(f%d, r%d[h]);", i, name, i, i);
    else
      zmi_emit_top(e, "for (zk_int h = 1; h < 16; h++) f%d = zk_%s_%s(f%d, r%d[h]);", i, name, word, i, i);
    zmi_emit_top(e, type == ZMI_C_FLOAT ? "const %s v%d = f%d + 0.0f;" : "const %s v%d = f%d;", memory, i, i);
  }
  barrier(e);
}

static bool sets_outside(const zmi_emit_state *e, int begin, int end, int v) {
  if (at(e, v)->op != ZMI_K_VAR || v >= begin) return false;
  for (int i = begin; i < end; i++)
    if (at(e, i)->op == ZMI_K_SET && at(e, i)->index == v) return true;
  return false;
}

typedef enum manner { PARALLEL, SERIAL, FALLING, LANES, FALLING_LANES } manner;

static void element_loop(zmi_emit_state *e, int begin, int end, manner m) {
  static const char *const heads[] = {[PARALLEL] = "for (zk_int j = t; j < m; j += n) {",
                                      [SERIAL] = "if (t == 0) for (zk_int j = 0; j < m; j++) {",
                                      [FALLING] = "if (t == 0) for (zk_int j = m - 1; j >= 0; j--) {",
                                      [LANES] = "if (t < 16) for (zk_int j = t; j < m; j += 16) {",
                                      [FALLING_LANES] = "if (t < 16) for (zk_int j = (m + 15 - t) / 16 * 16 + t - 16; j >= 0; j -= 16) {"};
  bool any = false;
  zmi_emit_top(e,
               m == FALLING || m == FALLING_LANES ? "for (zk_long at = (call.d - 1) / %d * %d; at >= 0 && call.d > 0; at -= %d) {"
                                                  : "for (zk_long at = 0; at < call.d; at += %d) {",
               e->capacity, e->capacity, e->capacity);
  e->depth++;
  zmi_emit_top(e, "const zk_int m = call.d - at < %d ? (zk_int)(call.d - at) : %d;", e->capacity, e->capacity);
  zmi_emit_top(e, "%s", heads[m]);
  e->depth++;
  zmi_emit_top(e, "const zk_long i = at + j;");
  for (int i = begin; i < end; i++) {
    const zmi_cop op = at(e, i)->op;
    any |= is_reduction(op);
    if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELSE || op == ZMI_K_END)
      structure(e, i);
    else
      one(e, i);
  }
  e->depth--;
  zmi_emit_top(e, "}");
  if (any) {
    barrier(e);
    zmi_emit_top(e, "if (t < 16) {");
    e->depth++;
    for (int i = begin; i < end; i++) {
      if (!is_reduction(at(e, i)->op)) continue;
      zmi_emit_top(e, "for (zk_int j = t; j < m; j += 16)");
      e->depth++;
      add_to_lane(e, i);
      e->depth--;
    }
    e->depth--;
    zmi_emit_top(e, "}");
    barrier(e);
  }
  e->depth--;
  zmi_emit_top(e, "}");
}

static void join_pairs(zmi_emit_state *e, int begin, int join, int end) {
  for (int v = 0; v < begin; v++) {
    if (!sets_outside(e, begin, end, v)) continue;
    zmi_emit_top(e, "if (t < 16) x%ds[t] = x%d;", v, v);
    e->place[v] = ZMI_PLACE_LANES;
  }
  barrier(e);
  zmi_emit_top(e, "for (zk_int h = 8; h > 0; h /= 2) {");
  zmi_emit_top(e, "  if (t < h) {");
  e->depth += 2;
  for (int i = join + 1; i < end; i++) {
    const zmi_cop op = at(e, i)->op;
    if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELSE || op == ZMI_K_END)
      structure(e, i);
    else
      one(e, i);
  }
  e->depth -= 2;
  zmi_emit_top(e, "  }");
  zmi_emit_top(e, "  %s", gpu_rows[e->target].barrier);
  zmi_emit_top(e, "}");
  for (int v = 0; v < begin; v++) {
    if (e->place[v] != ZMI_PLACE_LANES) continue;
    zmi_emit_top(e, "x%d = x%ds[0];", v, v);
    e->place[v] = ZMI_PLACE_LOCAL;
  }
  barrier(e);
}

static void elements_block(zmi_emit_state *e, int block) {
  const int begin = block + 1, end = e->match[block];
  int join = -1;
  manner m = PARALLEL;
  for (int i = begin; i < end; i++) {
    if (at(e, i)->op == ZMI_K_JOIN) join = i;
    if (at(e, i)->op == ZMI_K_SCAN_SUM) m = SERIAL;
  }
  for (int v = 0; v < begin; v++)
    if (sets_outside(e, begin, end, v)) m = SERIAL;
  if (join >= 0)
    m = at(e, block)->extra == 1 ? FALLING_LANES : LANES;
  else if (m == SERIAL && at(e, block)->extra == 1)
    m = FALLING;
  e->block = block;
  start_reductions(e, begin, end);
  element_loop(e, begin, join >= 0 ? join : end, m);
  if (join >= 0) join_pairs(e, begin, join, end);
  e->block = -1;
  for (int v = 0; v < begin && join < 0; v++) {
    if (!sets_outside(e, begin, end, v)) continue;
    zmi_emit_top(e, "if (t == 0) x%ds[0] = x%d;", v, v);
    barrier(e);
    zmi_emit_top(e, "x%d = x%ds[0];", v, v);
    barrier(e);
  }
  for (int i = begin; i < end; i++)
    if (is_reduction(at(e, i)->op)) fold(e, i);
}

// ---- frames ----

void zmi_emit_call_struct(const zmi_code *c, zmi_text *out) {
  const int operands = c->nin + c->nout ? c->nin + c->nout : 1;
  zmi_text_add(out, "struct zk_call {\n  zk_long count, rows, d;\n");
  zmi_text_add(out, "  zk_long counts[%d], dims[%d], row_stride[%d], step[%d];\n", operands, operands * ZM_MAX_RANK, operands, operands);
  zmi_text_add(out, "  struct { zk_float f; zk_int i; } params[%d];\n};\n", c->nparams ? c->nparams : 1);
}

// What only reductions by 16 threads need: a value that stays once it is a NaN; whether a value goes before another.
static void declare_helpers(zmi_emit_state *e) {
  static const char *const names[] = {"max", "min"}, *const signs[] = {">", "<"};
  static const char *const words[] = {"float", "int", "uint", "long", "ulong"};
  zmi_emit_top(e, "#ifndef ZE_HELPERS");
  zmi_emit_top(e, "#define ZE_HELPERS");
  for (int k = 0; k < 2; k++) {
    zmi_emit_top(e, "ZK_FN zk_float ze_more_%s(zk_float a, zk_float x) {", names[k]);
    zmi_emit_top(e, "  return zk_isnan(a) ? a : zk_isnan(x) ? x : ze_pick(x %s a, x, a);", signs[k]);
    zmi_emit_top(e, "}");
    for (size_t w = 0; w < ZMI_COUNT(words); w++)
      zmi_emit_top(e,
                   w == 0 ? "ZK_FN bool ze_beats_%s_%s(zk_%s x, zk_%s a) { return !zk_isnan(a) && (zk_isnan(x) || x %s a); }"
                          : "ZK_FN bool ze_beats_%s_%s(zk_%s x, zk_%s a) { return x %s a; }",
                   names[k], words[w], words[w], words[w], signs[k]);
  }
  zmi_emit_top(e, "#endif");
}

// Elements of a row that are computed before their lanes are added up: as many as fit for all reductions.
static int part_of(const zmi_code *c) {
  int values = 0, part = PART;
  for (size_t i = 0; i < c->count; i++) values += is_reduction(c->insts[i].op);
  while (part > 16 && values * part * 8 > SHARED_BYTES) part /= 2;
  return part;
}

static void declare_shared(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  const char *shared = gpu_rows[e->target].shared;
  for (int i = 0; i < (int)c->count; i++) {
    const zmi_inst *x = at(e, i);
    if (x->op == ZMI_K_SHARED && x->index == 1) // of a thread
      zmi_emit_top(e, "%s s%d[%d] = {0};", zmi_emit_type(x->type), i, x->extra);
    else if (x->op == ZMI_K_SHARED)
      zmi_emit_top(e, "%s %s s%d[%d];", shared, zmi_emit_type(x->type), i, x->extra);
    if (c->form != ZMI_FORM_ROWS) continue;
    if (is_reduction(x->op)) zmi_emit_top(e, "%s %s r%d[%d];", shared, zmi_emit_type(at(e, x->a)->type), i, e->capacity);
    if (is_arg(x->op)) zmi_emit_top(e, "%s zk_int i%d[16];", shared, i);
    if (x->op != ZMI_K_VAR || e->outer[i] >= 0) continue;
    for (int b = i; b < (int)c->count; b++) {
      if (at(e, b)->op != ZMI_K_ELEMENTS || !sets_outside(e, b + 1, e->match[b], i)) continue;
      zmi_emit_top(e, "%s %s x%ds[16];", shared, zmi_emit_type(x->type), i);
      break;
    }
  }
}

// Memory of groups is zeros at first.
static void zero_shared(zmi_emit_state *e) {
  bool any = false;
  for (int i = 0; i < (int)e->code->count; i++) {
    const zmi_inst *x = at(e, i);
    if (x->op != ZMI_K_SHARED || x->index != 0) continue;
    any = true;
    zmi_emit_top(e, "for (zk_int k = t; k < %d; k += n) s%d[k] = 0;", x->extra, i);
  }
  if (any) barrier(e);
}

static void open_kernel(zmi_emit_state *e, const char *name) {
  const zmi_code *c = e->code;
  const struct gpu_row *row = &gpu_rows[e->target];
  zmi_text_add(e->out, row->entry, name);
  for (int k = 0; k <= c->nin + c->nout; k++) {
    if (k < c->nin)
      zmi_text_add(e->out, row->input, zmi_emit_memory(c->in[k]), k);
    else if (k < c->nin + c->nout)
      zmi_text_add(e->out, row->output, zmi_emit_memory(c->out[k - c->nin]), k - c->nin);
    else
      zmi_text_add(e->out, "%s", row->call);
    if (row->threads) zmi_text_add(e->out, " [[buffer(%d)]]", k);
    if (k < c->nin + c->nout) zmi_text_add(e->out, ", ");
  }
  zmi_text_add(e->out, "%s) {\n", row->threads ? row->threads : "");
  zmi_text_add(e->out, "  %s", row->ids);
  e->depth = 1;
  declare_shared(e);
  zero_shared(e);
}

static void walk(zmi_emit_state *e) {
  for (int i = 0; i < (int)e->code->count && e->status == ZM_OK; i++) {
    const zmi_cop op = at(e, i)->op;
    if (op == ZMI_K_ELEMENTS) {
      elements_block(e, i);
      i = e->match[i];
    } else if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELSE || op == ZMI_K_END) {
      structure(e, i);
    } else if (op != ZMI_K_SHARED) {
      one(e, i);
    }
  }
}

void zmi_emit_gpu(zmi_emit_state *e) {
  const zmi_code *c = e->code;
  static const char *const names[] = {
      [ZMI_FORM_ELEMENTS] = "zk_elements", [ZMI_FORM_ROWS] = "zk_rows", [ZMI_FORM_TILES] = "zk_groups", [ZMI_FORM_RAW] = "zk_groups"};
  static const char *const loops[] = {[ZMI_FORM_ELEMENTS] = "for (zk_long i = g * n + t; i < call.count; i += groups * n) {",
                                      [ZMI_FORM_ROWS] = "for (zk_long r = g; r < call.rows; r += groups) {",
                                      [ZMI_FORM_TILES] = "{",
                                      [ZMI_FORM_RAW] = "{"};
  if (e->target == ZMI_TARGET_METAL && c->nin + c->nout > METAL_BUFFERS) {
    e->status =
        zmi_fail(ZM_ERROR_LIMIT, "kernel %s: %d operands and results, but Metal has room for %d", c->name, c->nin + c->nout, METAL_BUFFERS);
    return;
  }
  e->capacity = part_of(c);
  zmi_emit_call_struct(c, e->out);
  if (c->form == ZMI_FORM_ROWS) declare_helpers(e);
  open_kernel(e, names[c->form]);
  zmi_emit_top(e, "%s", loops[c->form]);
  e->depth++;
  walk(e);
  e->depth--;
  zmi_emit_top(e, "}");
  zmi_text_add(e->out, "}\n");
}
