// Patterns: with each of them on and off the results and the states have the same bits, places that do not fit are left alone and say why,
// and patched tapes can be printed and parsed back.
#include "patch/patch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- a small world: random weights and states that live until the end of a test ----

enum { HIDDEN = 128, HEADS = 4, KV = 2, DIM = 32, CONTEXT = 288, SEQUENCES = 2, EXPERTS = 9, CHOSEN = 3, WIDTH = 96, TAPS = 3, MOST = 64 };

typedef struct world {
  void *memory[256];
  size_t count, states, matrices;
  struct {
    void *data, *before;
    size_t bytes;
  } state[8];
  zm_dtype dtype;
  int64_t rows;
  bool biases;
  int formats; // where in the list of formats to begin
  const char *spoil;
} world;

static uint64_t seed = 1;

static float uniform(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (float)(seed >> 40) / (1 << 23) - 1.0f;
}

static void *keep(world *w, size_t bytes) {
  void *p = NULL;
  assert_true(w->count < ZMI_COUNT(w->memory));
  if (posix_memalign(&p, 64, bytes + 64)) abort();
  memset(p, 0, bytes + 64);
  return w->memory[w->count++] = p;
}

static void drop_world(world *w) {
  for (size_t i = 0; i < w->count; i++) free(w->memory[i]);
}

static void fill(void *p, zm_dtype dtype, int64_t n, float middle, float spread) {
  for (int64_t i = 0; i < n; i++) {
    float v = middle + spread * uniform();
    if (dtype == ZM_F32) ((float *)p)[i] = v;
    if (dtype == ZM_BF16) ((uint16_t *)p)[i] = zmi_f32_to_bf16(v);
    if (dtype == ZM_F16) ((uint16_t *)p)[i] = zmi_f32_to_f16(v);
  }
}

static zm_array *vector(world *w, const char *name, zm_dtype dtype, int rank, const int64_t *shape, float middle) {
  zmi_type t = zmi_type_of(dtype, rank, shape);
  size_t bytes;
  assert_true(zmi_type_bytes(&t, &bytes));
  void *data = keep(w, bytes);
  fill(data, dtype, zmi_type_count(&t), middle, 1);
  return zmi_weight(name, &t, data);
}

static const zmi_format formats[] = {
    {ZMI_QUANT_AFFINE, 4, 32, ZM_BF16, 0}, {ZMI_QUANT_AFFINE, 4, 32, ZM_BF16, 0}, {ZMI_QUANT_AFFINE, 8, 32, ZM_F32, 0},
    {ZMI_QUANT_NONE, 0, 0, ZM_BF16, 0},    {ZMI_QUANT_AFFINE, 3, 32, ZM_BF16, 0}, {ZMI_QUANT_NONE, 0, 0, ZM_F32, 0},
};

static zmi_matrix matrix(world *w, const char *name, int64_t n, int64_t k, int64_t experts) {
  char text[64];
  zmi_matrix m = {.format = formats[(w->matrices++ + (size_t)w->formats) % ZMI_COUNT(formats)], .n = n, .k = k, .experts = experts};
  size_t one;
  assert_true(zmi_packed_bytes(&m.format, n, k, &one));
  unsigned char *packed = keep(w, one * (size_t)experts);
  size_t groups = m.format.group ? (size_t)(n * k / m.format.group) : 0, words = (size_t)(n * k) * 4 + 4;
  for (int64_t e = 0; e < experts; e++) {
    zmi_stored_matrix s = {.stored = (zm_dtype)m.format.dtype, .n = n, .k = k};
    size_t first = w->count;
    uint32_t *codes = keep(w, words);
    float *scales = keep(w, groups * 4), *biases = keep(w, groups * 4);
    s.weight = codes;
    s.scales = scales;
    s.biases = biases;
    if (m.format.mode == ZMI_QUANT_NONE) {
      fill(codes, s.stored, n * k, 0, 0.2f);
    } else {
      for (size_t i = 0; i < words / 4; i++) codes[i] = (uint32_t)(int32_t)(uniform() * 0x1p30f) * 2654435761u;
      fill(scales, s.stored, (int64_t)groups, 0, 0.02f);
      fill(biases, s.stored, (int64_t)groups, 0, 0.1f);
    }
    zmi_pack_blocks(&m.format, &s, packed + (size_t)e * one, 0, (n + 15) / 16);
    while (w->count > first) free(w->memory[--w->count]);
  }
  zmi_type t = zmi_type_of(ZM_U8, 1, (int64_t[]){(int64_t)one * experts});
  m.packed = zmi_weight(name, &t, packed);
  snprintf(text, sizeof text, "%s.bias", name);
  if (w->biases) m.bias = vector(w, text, ZM_BF16, experts > 1 ? 2 : 1, experts > 1 ? (int64_t[]){experts, n} : (int64_t[]){n}, 0);
  return m;
}

static zm_array *state(world *w, const char *name, int rank, const int64_t *shape) {
  zmi_type t = zmi_type_of(w->dtype, rank, shape);
  size_t bytes;
  assert_true(zmi_type_bytes(&t, &bytes));
  void *data = keep(w, bytes), *before = keep(w, bytes);
  fill(before, w->dtype, zmi_type_count(&t), 0, 1);
  w->state[w->states].data = data;
  w->state[w->states].before = before;
  w->state[w->states++].bytes = bytes;
  return zmi_state(name, &t, data);
}

static zm_array *input(const char *name, zm_dtype dtype, int rank, const int64_t *shape) {
  zmi_type t = zmi_type_of(dtype, rank, shape);
  return zmi_input(name, &t);
}

static bool spoiled(const world *w, const char *how) {
  return w->spoil && strcmp(w->spoil, how) == 0;
}

// ---- graphs. Each gives named outputs; a spoiled one has a reason why the pattern must leave it alone ----

typedef struct outputs {
  zm_array *array[8];
  const char *names[8];
  size_t count;
} outputs;

typedef void (*build_fn)(world *w, outputs *o);

static void give(outputs *o, const char *name, zm_array *a) {
  if (!a) fail_msg("%s: %s", name, zm_last_error());
  o->names[o->count] = name;
  o->array[o->count++] = a;
}

static zm_array *x_input(const world *w) {
  return input("x", w->dtype, 2, (int64_t[]){w->rows, HIDDEN});
}

static zm_array *positions(const world *w) {
  return input("position", ZM_I32, 1, &w->rows);
}

static zm_array *sequences(const world *w) {
  return input("sequence", ZM_I32, 1, &w->rows);
}

static void build_moe(world *w, outputs *o) {
  zm_array *x = x_input(w), *other = input("other", w->dtype, 2, (int64_t[]){w->rows, HIDDEN}), *experts, *weights;
  zmi_matrix router = matrix(w, "router", EXPERTS, HIDDEN, 1), gate = matrix(w, "gate", WIDTH, HIDDEN, EXPERTS);
  zmi_matrix up = matrix(w, "up", WIDTH, HIDDEN, EXPERTS), down = matrix(w, "down", HIDDEN, WIDTH, EXPERTS);
  zmi_route_attrs soft = {ZMI_ROUTE_SOFTMAX, CHOSEN, 1, 0, 1}, sigmoid = {ZMI_ROUTE_SIGMOID, CHOSEN, 1, 1e-6, 1.5};
  zm_array *bias = w->biases ? vector(w, "choice", ZM_F32, 1, (int64_t[]){EXPERTS}, 0) : NULL;
  zm_array *logits = zmi_linear(&router, spoiled(w, "input") ? other : x);
  assert_int_equal(zmi_route(logits, bias, w->biases ? &sigmoid : &soft, &experts, &weights), ZM_OK);
  zm_array *g = zmi_gather_linear(&gate, x, experts), *u = zmi_gather_linear(&up, x, experts);
  zm_array *h = w->biases ? zm_multiply(u, zm_silu(g)) : zm_multiply(zm_silu(g), u);
  if (spoiled(w, "activation")) h = zm_multiply(zm_tanh(g), u);
  zm_array *y = zmi_gather_linear(&down, h, experts);
  give(o, "y", zmi_combine(y, weights));
  if (!spoiled(w, "input")) give(o, "other out", other);
  if (spoiled(w, "experts")) give(o, "experts", experts);
  if (spoiled(w, "weights")) give(o, "weights", weights);
  if (spoiled(w, "logits")) give(o, "logits", zm_tanh(logits));
  if (spoiled(w, "gate")) give(o, "g", g);
}

static void build_mlp(world *w, outputs *o) {
  zm_array *x = x_input(w), *other = input("other", w->dtype, 2, (int64_t[]){w->rows, HIDDEN});
  zmi_matrix gate = matrix(w, "gate", WIDTH, HIDDEN, 1), up = matrix(w, "up", WIDTH, HIDDEN, 1), down = matrix(w, "down", HIDDEN, WIDTH, 1);
  zm_array *g = zmi_linear(&gate, x), *u = zmi_linear(&up, spoiled(w, "input") ? other : x);
  if (spoiled(w, "up")) u = zm_tanh(u);
  zm_array *h = w->biases ? zm_multiply(u, zm_silu(g)) : zm_multiply(zm_silu(g), u);
  give(o, "y", zmi_linear(&down, h));
  if (!spoiled(w, "input")) give(o, "other out", other);
  if (spoiled(w, "gate")) give(o, "g", g);
  if (spoiled(w, "product")) give(o, "h", zm_tanh(h));
}

static void build_norm(world *w, outputs *o) {
  zm_array *x = x_input(w), *other = input("other", w->dtype, 2, (int64_t[]){w->rows, HIDDEN});
  zm_array *weight = vector(w, "norm", ZM_BF16, 1, (int64_t[]){HIDDEN}, 1);
  zm_array *sum = spoiled(w, "sum") ? zm_multiply(x, other) : zm_add(x, other);
  give(o, "normed", zmi_rms_norm(sum, weight, 1e-5));
  give(o, "sum", zm_tanh(sum));
}

static zm_array *heads_of(world *w, const zmi_matrix *m, zm_array *x, int64_t heads) {
  return zm_reshape(zmi_linear(m, x), (int64_t[]){w->rows, heads, DIM}, 3);
}

static zm_array *head_norm(world *w, const char *name, zm_array *x) {
  return w->formats % 2 ? x : zmi_rms_norm(x, vector(w, name, ZM_BF16, 1, (int64_t[]){DIM}, 1), 1e-6);
}

static void build_attention(world *w, outputs *o) {
  zm_array *x = x_input(w), *other = input("other", w->dtype, 2, (int64_t[]){w->rows, HIDDEN}), *position = positions(w),
           *sequence = sequences(w);
  zm_array *cosine = NULL, *sine = NULL, *late = input("late", ZM_I32, 1, &w->rows);
  zmi_matrix wq = matrix(w, "q", HEADS * DIM, HIDDEN, 1), wk = matrix(w, "k", KV * DIM, HIDDEN, 1),
             wv = matrix(w, "v", KV * DIM, HIDDEN, 1);
  assert_int_equal(zmi_rope_table(position, vector(w, "freq", ZM_F32, 1, (int64_t[]){DIM / 2}, 0.5f), &cosine, &sine), ZM_OK);
  zm_array *q = head_norm(w, "q norm", heads_of(w, &wq, x, HEADS)), *plain = heads_of(w, &wk, spoiled(w, "input") ? other : x, KV);
  zm_array *k = head_norm(w, "k norm", plain), *v = heads_of(w, &wv, x, KV);
  if (w->formats < 4) { // without rotation too
    q = zmi_rope(q, cosine, sine, w->biases);
    if (!spoiled(w, "rope")) k = zmi_rope(k, cosine, sine, spoiled(w, "angles") ? !w->biases : w->biases);
  }
  if (spoiled(w, "value")) v = zm_tanh(v);
  zm_array *keys = zmi_write_keys(state(w, "keys", 6, (int64_t[]){SEQUENCES, KV, CONTEXT / 16, DIM / 2, 16, 2}), k, position, sequence);
  zm_array *values =
      zmi_write_values(state(w, "values", 4, (int64_t[]){SEQUENCES, KV, CONTEXT, DIM}), v, spoiled(w, "late") ? late : position, sequence);
  give(o, "y", zmi_attention(q, keys, values, position, sequence, 0.17));
  if (!spoiled(w, "late")) give(o, "late out", late);
  if (!spoiled(w, "input")) give(o, "other out", other);
  if (spoiled(w, "plain")) give(o, "plain", zm_tanh(plain));
  if (spoiled(w, "cache")) give(o, "cache", zm_slice(values, (int64_t[]){0, 0, 0, 0}, (int64_t[]){1, 1, 1, DIM}, NULL));
}

static zm_array *third(world *w, zm_array *x, int64_t i) {
  return zm_slice(x, (int64_t[]){0, i * HIDDEN}, (int64_t[]){w->rows, (i + 1) * HIDDEN}, NULL);
}

static void build_conv(world *w, outputs *o) {
  zm_array *x = x_input(w), *position = positions(w), *sequence = sequences(w), *y = NULL, *next = NULL;
  zmi_matrix in = matrix(w, "in", 3 * HIDDEN, HIDDEN, 1), out = matrix(w, "out", HIDDEN, HIDDEN, 1);
  zm_array *weight = vector(w, "conv", ZM_BF16, 2, (int64_t[]){HIDDEN, TAPS}, 0);
  zm_array *bias = w->biases ? vector(w, "conv bias", ZM_F32, 1, (int64_t[]){HIDDEN}, 0) : NULL;
  zm_array *all = zmi_linear(&in, x), *product = zm_multiply(third(w, all, 0), third(w, all, w->biases ? 1 : 2));
  if (spoiled(w, "product")) product = zm_tanh(product);
  zm_array *memory = state(w, "memory", 3, (int64_t[]){SEQUENCES, TAPS - 1, HIDDEN});
  assert_int_equal(zmi_short_conv(product, weight, bias, memory, position, sequence, &y, &next), ZM_OK);
  zm_array *gate = third(w, all, w->biases ? 2 : 1);
  if (spoiled(w, "third")) gate = zm_slice(all, (int64_t[]){0, 7}, (int64_t[]){w->rows, 7 + HIDDEN}, NULL);
  zm_array *gated = zm_multiply(y, gate);
  if (spoiled(w, "gated")) gated = zm_tanh(gated);
  give(o, "y", zmi_linear(&out, gated));
  if (spoiled(w, "all")) give(o, "all", zm_tanh(all));
  if (spoiled(w, "conv")) give(o, "conv out", y);
}

// ---- compiling and comparing ----

typedef struct rewrite_order {
  zmi_patterns set;
  zm_patch_report *report;
} rewrite_order;

static zm_status rewrite(void *user, zmi_graph *graph) {
  const rewrite_order *r = user;
  return zmi_patterns_apply(r->set, graph, r->report);
}

static zmi_program *compile(const outputs *o, zmi_patterns set, zm_patch_report *report, const zmi_kernels *kernels) {
  rewrite_order order = {set, report};
  zmi_compile_options options = {.kernels = kernels, .rewrite = rewrite, .user = &order};
  zmi_program *p = zmi_compile(o->array, o->names, o->count, &options);
  if (!p) fail_msg("%s", zm_last_error());
  return p;
}

static void set_inputs(const world *w, zmi_program *p) {
  static const char *const names[] = {"x", "other"};
  uint64_t saved = seed;
  for (size_t i = 0; i < ZMI_COUNT(names); i++) {
    seed = 77 + i;
    void *to = zmi_program_slot(p, names[i]);
    if (to) fill(to, w->dtype, w->rows * HIDDEN, 0, 1);
  }
  seed = saved;
  int32_t *position = zmi_program_slot(p, "position"), *sequence = zmi_program_slot(p, "sequence"), *late = zmi_program_slot(p, "late");
  for (int32_t r = 0; r < w->rows; r++) { // the first rows go on in sequence 1, the others begin sequence 0
    int32_t cut = (int32_t)w->rows / 2 + 1;
    if (position) position[r] = r < cut ? 200 + r : r - cut;
    if (sequence) sequence[r] = r < cut;
    if (late) late[r] = r;
  }
}

// Results and states of one play, one after another.
typedef struct record {
  unsigned char *bytes;
  size_t size;
} record;

static record play(const world *w, zmi_program *p, const outputs *o, int workers) {
  record r = {NULL, 0};
  zmi_pool *pool = zmi_pool_new(workers);
  assert_non_null(pool);
  for (size_t i = 0; i < w->states; i++) memcpy(w->state[i].data, w->state[i].before, w->state[i].bytes);
  set_inputs(w, p);
  zmi_program_play(p, pool);
  for (size_t i = 0; i < o->count + w->states; i++) {
    size_t bytes;
    const void *from;
    if (i < o->count) {
      assert_true(zmi_type_bytes(&o->array[i]->type, &bytes));
      from = zmi_program_slot(p, o->names[i]);
    } else {
      bytes = w->state[i - o->count].bytes;
      from = w->state[i - o->count].data;
    }
    assert_non_null(from);
    r.bytes = realloc(r.bytes, r.size + bytes);
    memcpy(r.bytes + r.size, from, bytes);
    r.size += bytes;
  }
  zmi_pool_free(pool);
  return r;
}

static zmi_patterns only(const char *pattern) {
  zmi_patterns set = 0;
  zm_patch_options options = {.patterns = &pattern, .count = 1};
  assert_int_equal(zmi_patterns_choose(&options, &set), ZM_OK);
  return set;
}

static char *printed(zmi_program *p) {
  zmi_text text = {0};
  assert_int_equal(zmi_tape_print(zmi_program_tape(p), &text), ZM_OK);
  char *copy = strdup(zmi_text_str(&text));
  zmi_text_release(&text);
  return copy;
}

// The printed tape can be parsed and prints the same again.
static void check_text(zmi_program *p) {
  char *text = printed(p);
  zmi_tape *t = zmi_tape_parse(text, strlen(text), zmi_patch_op_find);
  if (!t) fail_msg("%s", zm_last_error());
  zmi_text again = {0};
  assert_int_equal(zmi_tape_print(t, &again), ZM_OK);
  assert_string_equal(text, zmi_text_str(&again));
  zmi_text_release(&again);
  zmi_tape_free(t);
  free(text);
}

// A graph built anew (patterns change the graph that they are given), compiled and played.
typedef struct trial {
  world w;
  outputs o;
  zm_scope *scope;
  zm_patch_report *report;
  zmi_program *program;
} trial;

static void open_trial(trial *t, build_fn build, const world *w, zmi_patterns set, const zmi_kernels *kernels) {
  memset(t, 0, sizeof *t);
  t->w = *w;
  t->scope = zm_scope_open();
  t->report = zmi_patch_report_new();
  seed = 1000 + (uint64_t)w->formats;
  zmi_set_label("place");
  build(&t->w, &t->o);
  t->program = compile(&t->o, set, t->report, kernels);
}

static void close_trial(trial *t) {
  zmi_program_free(t->program);
  zm_patch_report_free(t->report);
  zm_scope_close(t->scope);
  drop_world(&t->w);
}

static void check_same(build_fn build, const char *pattern, const world *w) {
  trial stock, patched;
  open_trial(&stock, build, w, 0, zmi_tier(0));
  record expected = play(&stock.w, stock.program, &stock.o, 1);
  for (size_t t = 0; t < zmi_tier_count(); t++) {
    if (!zmi_tier_supported(t, &(const char *){NULL})) continue;
    open_trial(&patched, build, w, only(pattern), zmi_tier(t));
    assert_int_equal(zm_patch_report_size(patched.report), 1);
    const zm_patch_entry *entry = zm_patch_report_entry(patched.report, 0);
    if (!entry->matched) fail_msg("%s: left alone: %s", pattern, entry->reason);
    assert_string_equal(entry->pattern, pattern);
    assert_string_equal(entry->place, "place");
    assert_true(zmi_program_tape(patched.program)->instr_count < zmi_program_tape(stock.program)->instr_count);
    check_text(patched.program);
    for (int workers = 1; workers < 4; workers++) {
      record found = play(&patched.w, patched.program, &patched.o, workers);
      assert_int_equal(found.size, expected.size);
      for (size_t i = 0; i < found.size; i++) {
        if (found.bytes[i] == expected.bytes[i]) continue;
        fail_msg("%s, %s, %d workers, %lld rows, formats %d: byte %zu of %zu differs", pattern, zmi_tier(t)->name, workers,
                 (long long)w->rows, w->formats, i, found.size);
      }
      free(found.bytes);
    }
    close_trial(&patched);
  }
  free(expected.bytes);
  close_trial(&stock);
}

static void check_pattern(build_fn build, const char *pattern) {
  static const int64_t rows[] = {1, 2, 5, 21};
  for (int variant = 0; variant < 24; variant++) {
    static const zm_dtype dtypes[] = {ZM_BF16, ZM_F32};
    world w = {.rows = rows[variant % 4], .dtype = dtypes[variant / 4 % 2], .biases = variant / 2 % 2, .formats = variant % 6};
    check_same(build, pattern, &w);
  }
}

static void test_moe(void **s) {
  (void)s;
  check_pattern(build_moe, "moe_mlp");
}

static void test_mlp(void **s) {
  (void)s;
  check_pattern(build_mlp, "swiglu_mlp");
}

static void test_norm(void **s) {
  (void)s;
  check_pattern(build_norm, "residual_norm");
}

static void test_qkv(void **s) {
  (void)s;
  check_pattern(build_attention, "qkv");
}

static void test_attention(void **s) {
  (void)s;
  check_pattern(build_attention, "attention_decode");
}

static void test_conv(void **s) {
  (void)s;
  check_pattern(build_conv, "short_conv");
}

// ---- left alone ----

static void test_left_alone(void **s) {
  (void)s;
  static const struct {
    build_fn build;
    const char *pattern, *spoil, *reason;
  } cases[] = {
      {build_moe, "moe_mlp", "input", "do not read the same array"},
      {build_moe, "moe_mlp", "activation", "not silu(gate) * up"},
      {build_moe, "moe_mlp", "experts", "choice of experts is used elsewhere"},
      {build_moe, "moe_mlp", "weights", "weights are used elsewhere"},
      {build_moe, "moe_mlp", "logits", "logits are used elsewhere"},
      {build_moe, "moe_mlp", "gate", "intermediate result"},
      {build_mlp, "swiglu_mlp", "input", "do not read the same array"},
      {build_mlp, "swiglu_mlp", "up", "not made by a linear"},
      {build_mlp, "swiglu_mlp", "gate", "used elsewhere"},
      {build_mlp, "swiglu_mlp", "product", "not read by one linear alone"},
      {build_norm, "residual_norm", "sum", "not a sum"},
      {build_attention, "qkv", "input", "do not read the same array"},
      {build_attention, "qkv", "rope", "only one of queries and keys"},
      {build_attention, "qkv", "angles", "in different ways"},
      {build_attention, "qkv", "value", "not heads of a projection"},
      {build_attention, "qkv", "plain", "used elsewhere"},
      {build_attention, "attention_decode", "late", "at other positions"},
      {build_attention, "attention_decode", "cache", "caches are used elsewhere"},
      {build_conv, "short_conv", "product", "not a product"},
      {build_conv, "short_conv", "third", "three parts"},
      {build_conv, "short_conv", "gated", "one linear alone"},
      {build_conv, "short_conv", "all", "used elsewhere"},
      {build_conv, "short_conv", "conv", "not just multiplied"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    world w = {.rows = 3, .dtype = ZM_BF16, .spoil = cases[i].spoil};
    trial stock, patched;
    open_trial(&stock, cases[i].build, &w, 0, NULL);
    open_trial(&patched, cases[i].build, &w, only(cases[i].pattern), NULL);
    assert_int_equal(zm_patch_report_size(patched.report), 1);
    const zm_patch_entry *entry = zm_patch_report_entry(patched.report, 0);
    if (entry->matched) fail_msg("case %zu (%s, %s) was fused", i, cases[i].pattern, cases[i].spoil);
    assert_string_equal(entry->place, "place");
    if (!strstr(entry->reason, cases[i].reason)) fail_msg("case %zu: '%s' lacks '%s'", i, entry->reason, cases[i].reason);
    char *a = printed(stock.program), *b = printed(patched.program);
    assert_string_equal(a, b);
    free(a);
    free(b);
    close_trial(&patched);
    close_trial(&stock);
  }
}

// A graph without a place gives no report line.
static void build_nothing(world *w, outputs *o) {
  zm_array *x = x_input(w);
  give(o, "y", zm_multiply(zm_tanh(x), x));
}

static void test_no_place(void **s) {
  (void)s;
  world w = {.rows = 2, .dtype = ZM_F32};
  zmi_patterns all = 0;
  trial t;
  assert_int_equal(zmi_patterns_choose(NULL, &all), ZM_OK);
  open_trial(&t, build_nothing, &w, all, NULL);
  assert_int_equal(zm_patch_report_size(t.report), 0);
  close_trial(&t);
}

// ---- choice ----

static void test_choose(void **s) {
  (void)s;
  zmi_patterns set = 0, all = 0;
  const char *two[] = {"qkv", "moe_mlp"}, *wrong[] = {"qkw"};
  assert_int_equal(zmi_patterns_choose(NULL, &all), ZM_OK);
  assert_int_equal(__builtin_popcountll(all), (int)zm_pattern_count());
  assert_int_equal(zmi_patterns_choose(&(zm_patch_options){.patterns = two, .count = 2, .exclude = two, .exclude_count = 1}, &set), ZM_OK);
  assert_int_equal(set, only("moe_mlp"));
  assert_int_equal(zmi_patterns_choose(&(zm_patch_options){.patterns = wrong, .count = 1}, &set), ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "qkw"));
  assert_non_null(strstr(zm_last_error(), "short_conv"));
  for (size_t i = 0; i < zm_pattern_count(); i++) {
    assert_true(strlen(zm_pattern_name(i)) > 0);
    assert_true(strlen(zm_pattern_summary(i)) > 10);
  }
  assert_null(zm_pattern_name(zm_pattern_count()));
}

// docs/numerics.md lists every op with the sentence of its row.
static void test_documents(void **state) {
  (void)state;
  char *text = NULL;
  size_t size = 0;
  if (zmi_read_file("docs/numerics.md", 1 << 20, &text, &size) != ZM_OK) fail_msg("%s", zm_last_error());
  for (size_t i = 0; i < zmi_op_count() + zmi_patch_op_count(); i++) {
    const zmi_op *op = i < zmi_op_count() ? zmi_op_at(i) : zmi_patch_op_at(i - zmi_op_count());
    char row[800];
    snprintf(row, sizeof row, "| %s | %s |", op->name, op->rounding);
    assert_ptr_equal(zmi_patch_op_find(op->name), op);
    if (!strstr(text, row)) fail_msg("docs/numerics.md lacks the line: %s", row);
  }
  assert_null(zmi_patch_op_find("no such op"));
  zmi_free(text);
}

// Every allocation fails in turn while a graph is patched and compiled: an error each time, nothing lost, and success in the end.
static bool compile_failing_at(build_fn build, uint64_t n) {
  world w = {.rows = 2, .dtype = ZM_BF16, .biases = true};
  outputs o = {.count = 0};
  rewrite_order order = {.set = ((zmi_patterns)1 << zm_pattern_count()) - 1};
  zmi_compile_options options = {.kernels = zmi_tier(0), .rewrite = rewrite, .user = &order};
  zm_scope *scope = zm_scope_open();
  build(&w, &o);
  order.report = zmi_patch_report_new();
  zmi_alloc_fail_at(n);
  zmi_program *p = zmi_compile(o.array, o.names, o.count, &options);
  zmi_alloc_fail_at(0);
  if (!p && zm_last_status() != ZM_ERROR_MEMORY) fail_msg("allocation %llu: %s", (unsigned long long)n, zm_last_error());
  zm_patch_report_free(order.report);
  zmi_program_free(p);
  zm_scope_close(scope);
  drop_world(&w);
  return p == NULL;
}

static void test_memory(void **s) {
  (void)s;
  static const build_fn builds[] = {build_moe, build_mlp, build_norm, build_attention, build_conv};
  for (size_t i = 0; i < ZMI_COUNT(builds); i++) {
    uint64_t n = 1;
    while (compile_failing_at(builds[i], n)) n++;
    assert_true(n > 20);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_moe),       cmocka_unit_test(test_mlp),    cmocka_unit_test(test_norm),       cmocka_unit_test(test_qkv),
      cmocka_unit_test(test_attention), cmocka_unit_test(test_conv),   cmocka_unit_test(test_left_alone), cmocka_unit_test(test_no_place),
      cmocka_unit_test(test_choose),    cmocka_unit_test(test_memory), cmocka_unit_test(test_documents),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
