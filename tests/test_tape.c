// The tape: random graphs of small integer ops are lowered, planned and played with 1 to 4 workers and compared with direct evaluation; the
// text form goes round; broken tapes are refused; graph surgery replaces what it should.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "array/array.h"

// ---- ops of the test ----

typedef struct mix_attrs {
  int64_t factor;
  double unused_float;
} mix_attrs;
static const zmi_field mix_fields[] = {
    {"factor", ZMI_FIELD_INT, offsetof(mix_attrs, factor), NULL},
    {"ratio", ZMI_FIELD_FLOAT, offsetof(mix_attrs, unused_float), NULL},
    {NULL, ZMI_FIELD_INT, 0, NULL},
};

static zm_status same_shape(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  for (int i = 1; i < nin; i++) {
    if (in[i].rank >= 0 && !zmi_type_equal(&in[0], &in[i])) return zmi_fail(ZM_ERROR_ARGUMENT, "shapes differ");
  }
  *nout = 1;
  out[0] = in[0];
  return ZM_OK;
}

static int64_t count_tiles(const zmi_call *c) {
  return zmi_type_count(&c->in[0]->type);
}

static void mix_run(const zmi_call *c, int64_t begin, int64_t end) {
  const mix_attrs *a = c->attrs;
  const int64_t *x = c->src[0], *y = c->src[1];
  int64_t *z = c->dst[0];
  for (int64_t i = begin; i < end; i++) z[i] = (int64_t)((uint64_t)x[i] * (uint64_t)a->factor + (y ? (uint64_t)y[i] : 7u));
}
static const zmi_op op_mix = {
    .name = "mix", .operands = "x y?", .fields = mix_fields, .rounding = "exact", .infer = same_shape, .stages = {{count_tiles, mix_run}}};

// Two stages with scratch between them: every element needs all of the first stage.
static size_t total_scratch(const zmi_call *c) {
  return (size_t)zmi_type_count(&c->in[0]->type) * sizeof(int64_t);
}
static void total_first(const zmi_call *c, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) ((int64_t *)c->scratch)[i] = ((const int64_t *)c->src[0])[i] * 3;
}
static void total_second(const zmi_call *c, int64_t begin, int64_t end) {
  int64_t sum = 0;
  for (int64_t i = 0; i < count_tiles(c); i++) sum = (int64_t)((uint64_t)sum + (uint64_t)((int64_t *)c->scratch)[i]);
  for (int64_t i = begin; i < end; i++) ((int64_t *)c->dst[0])[i] = sum + i;
}
static const zmi_op op_total = {.name = "total",
                                .operands = "x",
                                .rounding = "exact",
                                .infer = same_shape,
                                .scratch = total_scratch,
                                .stages = {{count_tiles, total_first}, {count_tiles, total_second}}};

static void bump_run(const zmi_call *c, int64_t begin, int64_t end) {
  const int64_t *x = c->src[1];
  int64_t *state = c->dst[0];
  for (int64_t i = begin; i < end; i++) state[i] += x[i];
}
static const zmi_op op_bump = {
    .name = "bump", .operands = "state x", .rounding = "exact", .updates = {1}, .infer = same_shape, .stages = {{count_tiles, bump_run}}};

static bool reverse_view(const void *attrs, const zmi_slot *in, const zmi_type *out, int64_t *stride, int64_t *shift) {
  (void)attrs;
  stride[0] = -in->stride[0];
  *shift = out->shape[0] > 0 ? in->stride[0] * (out->shape[0] - 1) : 0;
  return true;
}
static const zmi_op op_reverse = {
    .name = "reverse", .operands = "x", .rounding = "none", .flags = ZMI_OP_VIEW, .infer = same_shape, .view = reverse_view};

static const zmi_op *find(const char *name) {
  static const zmi_op *const mine[] = {&op_mix, &op_total, &op_bump};
  for (size_t i = 0; i < ZMI_COUNT(mine); i++) {
    if (strcmp(mine[i]->name, name) == 0) return mine[i];
  }
  return zmi_op_find(name);
}

// ---- random graphs ----

enum { N = 37, NODES = 60, OUTPUTS = 5 };
static uint64_t seed;
static uint64_t rnd(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  return seed ^= seed << 17;
}

typedef struct graph_case {
  zm_array *arrays[NODES + 3];
  int64_t values[NODES + 3][N]; // computed directly
  int count;
} graph_case;

static void direct(const zmi_op *op, int64_t factor, const int64_t *x, const int64_t *y, int64_t *z) {
  uint64_t sum = 0;
  for (int i = 0; i < N; i++) sum += (uint64_t)x[i] * 3;
  for (int i = 0; i < N; i++) {
    if (op == &op_mix)
      z[i] = (int64_t)((uint64_t)x[i] * (uint64_t)factor + (y ? (uint64_t)y[i] : 7u));
    else if (op == &op_total)
      z[i] = (int64_t)sum + i;
    else
      z[i] = x[N - 1 - i];
  }
}

static void build(graph_case *g) {
  zmi_type type = zmi_type_of(ZM_I64, 1, (int64_t[]){N});
  g->count = 0;
  for (int k = 0; k < 3; k++) {
    for (int i = 0; i < N; i++) g->values[k][i] = (int64_t)(rnd() % 1000);
    g->arrays[k] = k == 0 ? zmi_input("in", &type) : zm_array_from_data(g->values[k], ZM_I64, (int64_t[]){N}, 1);
    assert_non_null(g->arrays[k]);
    g->count++;
  }
  for (int k = 3; k < NODES + 3; k++) {
    int x = (int)(rnd() % (uint64_t)g->count), y = (int)(rnd() % (uint64_t)g->count);
    zmi_set_label("node.%d", k / 4);
    switch (rnd() % 4) {
    case 0:
      g->arrays[k] = zmi_apply1(&op_total, NULL, 0, 1, &g->arrays[x]), direct(&op_total, 0, g->values[x], NULL, g->values[k]);
      break;
    case 1:
      g->arrays[k] = zmi_apply1(&op_reverse, NULL, 0, 1, &g->arrays[x]), direct(&op_reverse, 0, g->values[x], NULL, g->values[k]);
      break;
    default: {
      mix_attrs a = {.factor = (int64_t)(rnd() % 97), .unused_float = (double)(rnd() % 1000) / 7};
      bool both = rnd() % 4 != 0;
      g->arrays[k] = zmi_apply1(&op_mix, &a, sizeof a, both ? 2 : 1, (zm_array *[]){g->arrays[x], g->arrays[y]});
      direct(&op_mix, a.factor, g->values[x], both ? g->values[y] : NULL, g->values[k]);
    }
    }
    assert_non_null(g->arrays[k]);
    g->count++;
  }
}

static zmi_program *compile(const graph_case *g, int *which, char (*names)[16]) {
  zm_array *outputs[OUTPUTS];
  const char *list[OUTPUTS];
  for (int o = 0; o < OUTPUTS; o++) {
    which[o] = o == 0 ? g->count - 1 : (int)(rnd() % (uint64_t)g->count);
    outputs[o] = g->arrays[which[o]];
    snprintf(names[o], 16, "o%d", o);
    list[o] = names[o];
  }
  zmi_program *p = zmi_compile(outputs, list, OUTPUTS, NULL);
  if (!p) fail_msg("compile: %s", zm_last_error());
  return p;
}

static void random_graphs(void **state) {
  (void)state;
  for (int round = 0; round < 60; round++) {
    seed = 88172645463325252u + (uint64_t)round * 7919;
    static graph_case g;
    int which[OUTPUTS];
    char names[OUTPUTS][16];
    zm_scope *scope = zm_scope_open();
    build(&g);
    zmi_program *p = compile(&g, which, names);
    for (int workers = 1; workers <= 4; workers++) {
      zmi_pool *pool = zmi_pool_new(workers);
      if (zmi_program_slot(p, "in")) memcpy(zmi_program_slot(p, "in"), g.values[0], sizeof g.values[0]);
      zmi_program_play(p, pool);
      for (int o = 0; o < OUTPUTS; o++) assert_memory_equal(zmi_program_slot(p, names[o]), g.values[which[o]], sizeof g.values[0]);
      zmi_pool_free(pool);
    }
    zmi_program_free(p);
    zm_scope_close(scope);
  }
}

// Slots that are alive at the same time never share bytes.
static void plan_keeps_lives_apart(void **state) {
  (void)state;
  for (int round = 0; round < 40; round++) {
    seed = 1234567 + (uint64_t)round;
    static graph_case g;
    int which[OUTPUTS];
    char names[OUTPUTS][16];
    zm_scope *scope = zm_scope_open();
    build(&g);
    zmi_program *p = compile(&g, which, names);
    zmi_tape *t = zmi_program_tape(p);
    size_t sum = 0;
    for (size_t i = 0; i < t->slot_count; i++) {
      zmi_slot *s = &t->slots[i];
      if (s->kind != ZMI_SLOT_TEMP && s->kind != ZMI_SLOT_OUTPUT) continue;
      sum += s->bytes;
      assert_true(s->offset + s->bytes <= t->arena_bytes && s->offset % 64 == 0);
    }
    assert_true(t->arena_bytes < sum); // something was shared
    zmi_program_free(p);
    zm_scope_close(scope);
  }
}

static void text_goes_round(void **state) {
  (void)state;
  for (int round = 0; round < 40; round++) {
    seed = 99991 + (uint64_t)round;
    static graph_case g;
    int which[OUTPUTS];
    char names[OUTPUTS][16];
    zm_scope *scope = zm_scope_open();
    build(&g);
    zmi_program *p = compile(&g, which, names);
    zmi_text first = {0}, second = {0};
    assert_int_equal(zmi_tape_print(zmi_program_tape(p), &first), ZM_OK);
    zmi_tape *again = zmi_tape_parse(first.data, first.size, find);
    if (!again) fail_msg("%s", zm_last_error());
    assert_int_equal(zmi_tape_print(again, &second), ZM_OK);
    assert_string_equal(first.data, second.data);
    zmi_tape_free(again);
    // Every cut of the text is refused or read, never worse.
    for (size_t cut = 0; cut < first.size; cut += 13) zmi_tape_free(zmi_tape_parse(first.data, cut, find));
    zmi_text_release(&first);
    zmi_text_release(&second);
    zmi_program_free(p);
    zm_scope_close(scope);
  }
}

static char *read_text(zmi_text *out) {
  static const char text[] = "zmlx tape 1\n%0 input int64[3] \"w\"\n"
                             "%1 int64[3] @0 \"y\" = mix(%0, -) {factor=1 ratio=1.25e-05}\narena 64\n";
  zmi_tape *t = zmi_tape_parse(text, sizeof text - 1, find);
  if (!t) fail_msg("%s", zm_last_error());
  double ratio;
  memcpy(&ratio, t->instrs[0].attrs.bytes + offsetof(mix_attrs, unused_float), sizeof ratio);
  assert_true(ratio == 1.25e-05);
  assert_int_equal(zmi_tape_print(t, out), ZM_OK);
  zmi_tape_free(t);
  return out->data;
}

// A program that uses the library may have set a locale that writes 1,25.
static void other_locales(void **state) {
  (void)state;
  static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "fr_FR.utf8", "nl_NL.UTF-8", "ru_RU.UTF-8"};
  zmi_text plain = {0}, other = {0};
  assert_non_null(strstr(read_text(&plain), "ratio=1.25e-05"));
  bool found = false;
  for (size_t i = 0; i < ZMI_COUNT(names) && !found; i++)
    found = setlocale(LC_NUMERIC, names[i]) && strcmp(localeconv()->decimal_point, ".") != 0;
  if (found) assert_string_equal(read_text(&other), plain.data);
  setlocale(LC_NUMERIC, "C");
  zmi_text_release(&plain);
  zmi_text_release(&other);
  if (!found) skip();
}

static void refused(const char *text, const char *word) {
  zmi_tape *t = zmi_tape_parse(text, strlen(text), find);
  assert_null(t);
  if (!strstr(zm_last_error(), word)) fail_msg("expected '%s' in '%s'", word, zm_last_error());
}

static void broken_texts(void **state) {
  (void)state;
  refused("", "zmlx tape 1");
  refused("zmlx tape 1\n%0 weight float99[3] \"w\"\n", "type");
  refused("zmlx tape 1\n%0 weight int64[3] \"w\"\n%0 weight int64[3] \"v\"\n", "twice");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%1 int64[3] @0 = nothing(%0)\narena 64\n", "unknown op nothing");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%1 int64[3] @0 = mix(%0, -) {factor=x}\narena 64\n", "integer");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%1 int64[3] @0 = mix(%0, -) {size=1}\narena 64\n", "no attribute size");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%1 int64[4] @0 = mix(%0, -) {factor=1}\narena 64\n", "gives int64[3]");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%1 int64[3] @64 = mix(%0, -) {factor=1}\narena 64\n", "does not fit");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%1 int64[3] @0 = mix(%2, -) {factor=1}\narena 64\n", "not declared");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%1 view int64[4] of %0 stride [1] shift 0\narena 0\n", "reaches");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%1 view int64[3] of %0 stride [9223372036854775807] shift 1\narena 0\n", "overflow");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%5 view int64[3] of %0 stride [1] shift 0\narena 0\n", "not declared");
  refused("zmlx tape 1\n%0 weight int64[9223372036854775807, 9223372036854775807] \"w\"\narena 0\n", "type");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%1 int64[3] @0 = bump(%0, %0)\narena 64\n", "in place");
  refused("zmlx tape 1\n%0 input int64[3] \"w\"\n%1 int64[3] @0 = mix(%1, -) {factor=1}\narena 64\n", "before anything");
  refused("zmlx tape 1\n%99999999 input int64[3] \"w\"\n", "out of range");
}

// A word of an attribute that begins with digits is unknown, however large the number; a zero byte is no part of a number.
static void hostile_values(void **state) {
  (void)state;
  static const char word[] = "zmlx tape 1\n%0 input float32[2, 4] \"x\"\n"
                             "%1 int32[2, 2] @0, %2 float32[2, 2] @64 = route(%0, -) {kind=99999999999abc}\narena 128\n";
  assert_null(zmi_tape_parse(word, sizeof word - 1, zmi_op_find));
  assert_non_null(strstr(zm_last_error(), "kind=99999999999abc: unknown word"));
  static const char zero[] = "zmlx tape 1\n%0 input int64[3\0] \"w\"\narena 0\n";
  assert_null(zmi_tape_parse(zero, sizeof zero - 1, find));
}

static void states_are_updated_in_order(void **state) {
  (void)state;
  int64_t memory[N] = {0}, expected = 0;
  zmi_type type = zmi_type_of(ZM_I64, 1, (int64_t[]){N});
  zm_scope *scope = zm_scope_open();
  zm_array *cache = zmi_state("cache", &type, memory), *x = zmi_input("x", &type);
  mix_attrs a = {.factor = 2};
  for (int i = 0; i < 10; i++) {
    cache = zmi_apply1(&op_bump, NULL, 0, 2, (zm_array *[]){cache, x});
    x = zmi_apply1(&op_mix, &a, sizeof a, 2, (zm_array *[]){x, cache});
  }
  zmi_program *p = zmi_compile(&x, (const char *[]){"y"}, 1, NULL);
  assert_non_null(p);
  zmi_pool *pool = zmi_pool_new(3);
  int64_t *in = zmi_program_slot(p, "x"), value = 5;
  for (int i = 0; i < N; i++) in[i] = value;
  zmi_program_play(p, pool);
  for (int i = 0; i < 10; i++) {
    expected += value;
    value = value * 2 + expected;
  }
  for (int i = 0; i < N; i++) {
    assert_int_equal(memory[i], expected);
    assert_int_equal(((int64_t *)zmi_program_slot(p, "y"))[i], value);
  }
  zmi_pool_free(pool);
  zmi_program_free(p);
  zm_scope_close(scope);
}

static void expect_stale(zm_array *const *outputs, size_t count) {
  assert_null(zmi_compile(outputs, (const char *[]){"y", "z"}, count, NULL));
  assert_int_equal(zm_last_status(), ZM_ERROR_ARGUMENT);
  if (!strstr(zm_last_error(), "state cache: read after its update")) fail_msg("%s", zm_last_error());
}

// An update overwrites the old value: who still wants that is refused, not given the new one.
static void old_versions_are_refused(void **state) {
  (void)state;
  int64_t memory[N] = {0};
  zmi_type type = zmi_type_of(ZM_I64, 1, (int64_t[]){N});
  zm_scope *scope = zm_scope_open();
  zm_array *old = zmi_state("cache", &type, memory), *x = zmi_input("x", &type);
  mix_attrs a = {.factor = 2};
  zm_array *view = zmi_apply1(&op_reverse, NULL, 0, 1, &old), *before = zmi_apply1(&op_mix, &a, sizeof a, 1, &old);
  // The updating op may read the old value too, as `before` does, which comes first.
  zm_array *new = zmi_apply1(&op_bump, NULL, 0, 2, (zm_array *[]){old, before});
  zmi_program *p = zmi_compile(&new, (const char *[]){"y"}, 1, NULL);
  if (!p) fail_msg("%s", zm_last_error());
  zmi_program_free(p);
  zm_array *new_view = zmi_apply1(&op_reverse, NULL, 0, 1, &new);
  p = zmi_compile(&new_view, (const char *[]){"y"}, 1, NULL);
  if (!p) fail_msg("%s", zm_last_error());
  zmi_program_free(p);

  zm_array *late = zmi_apply1(&op_mix, &a, sizeof a, 2, (zm_array *[]){new, old});
  expect_stale(&late, 1);
  zm_array *late_view = zmi_apply1(&op_mix, &a, sizeof a, 2, (zm_array *[]){new, view});
  expect_stale(&late_view, 1);
  zm_array *fork = zmi_apply1(&op_bump, NULL, 0, 2, (zm_array *[]){old, x});
  expect_stale((zm_array *[]){new, fork}, 2); // both update the first version
  expect_stale((zm_array *[]){new, old}, 2);  // asked for itself
  zm_array *newer = zmi_apply1(&op_bump, NULL, 0, 2, (zm_array *[]){new, x});
  zm_array *middle = zmi_apply1(&op_mix, &a, sizeof a, 2, (zm_array *[]){newer, new});
  expect_stale(&middle, 1);
  zm_scope_close(scope);
}

static void surgery(void **state) {
  (void)state;
  int64_t data[N] = {1, 2, 3};
  zm_scope *scope = zm_scope_open();
  mix_attrs two = {.factor = 2}, three = {.factor = 3};
  zm_array *x = zm_array_from_data(data, ZM_I64, (int64_t[]){N}, 1);
  zm_array *a = zmi_apply1(&op_mix, &two, sizeof two, 1, &x);
  zm_array *b = zmi_apply1(&op_mix, &two, sizeof two, 2, (zm_array *[]){a, a});
  zmi_graph *g = zmi_graph_collect((zm_array *[]){b, a}, 2);
  assert_int_equal(g->count, 2);
  zmi_node *users[4];
  assert_int_equal(zmi_graph_users(g, a, users, 4), 2); // b's op, and being an output
  assert_ptr_equal(users[0], b->node);
  assert_null(users[1]);
  zm_array *c = zmi_apply1(&op_mix, &three, sizeof three, 1, &x);
  assert_int_equal(zmi_graph_replace(g, a, c), ZM_OK);
  assert_int_equal(zmi_graph_refresh(g), ZM_OK);
  assert_ptr_equal(b->node->in[0], c);
  assert_ptr_equal(b->node->in[1], c);
  assert_ptr_equal(g->outputs[1], c);
  assert_int_equal(g->count, 2);
  zm_array *other = zm_array_from_data(data, ZM_I64, (int64_t[]){1}, 1);
  assert_int_equal(zmi_graph_replace(g, c, other), ZM_ERROR_ARGUMENT);
  zmi_graph_free(g);
  zm_scope_close(scope);
}

static void long_chains(void **state) {
  (void)state;
  int64_t data[1] = {1};
  mix_attrs one = {.factor = 1};
  zm_scope *scope = zm_scope_open();
  zm_array *x = zm_array_from_data(data, ZM_I64, (int64_t[]){1}, 1);
  for (int i = 0; i < 100000; i++) x = zmi_apply1(&op_mix, &one, sizeof one, 1, &x);
  assert_int_equal((int64_t)zm_array_item(x), 1 + 7 * 100000);
  zm_scope_close(scope);
}

static void scopes(void **state) {
  (void)state;
  int64_t data[1] = {4};
  assert_null(zm_array_from_data(data, ZM_I64, (int64_t[]){1}, 1)); // no scope is open
  zm_scope *outer = zm_scope_open(), *inner = zm_scope_open();
  zm_array *x = zm_array_from_data(data, ZM_I64, (int64_t[]){1}, 1);
  mix_attrs two = {.factor = 2};
  zm_array *y = zmi_apply1(&op_mix, &two, sizeof two, 1, &x);
  assert_ptr_equal(zm_scope_return(inner, y), y);
  zm_scope_close(inner);
  assert_int_equal((int)zm_array_item(y), 15); // its input lived on
  assert_null(zm_scope_return(outer, y));
  zm_scope_close(outer);
}

// Each allocation of a compile and a play fails in turn: an error each time, nothing lost.
static void allocations_fail(void **state) {
  (void)state;
  for (uint64_t n = 1;; n++) {
    seed = 4242;
    static graph_case g;
    zm_scope *scope = zm_scope_open();
    build(&g);
    zmi_alloc_fail_at(n);
    zmi_program *p = zmi_compile(&g.arrays[g.count - 1], (const char *[]){"y"}, 1, NULL);
    zmi_alloc_fail_at(0);
    if (!p) assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
    bool done = p != NULL;
    zmi_program_free(p);
    zm_scope_close(scope);
    if (done) break;
    assert_true(n < 100000);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(random_graphs),
      cmocka_unit_test(plan_keeps_lives_apart),
      cmocka_unit_test(text_goes_round),
      cmocka_unit_test(other_locales),
      cmocka_unit_test(broken_texts),
      cmocka_unit_test(hostile_values),
      cmocka_unit_test(states_are_updated_in_order),
      cmocka_unit_test(old_versions_are_refused),
      cmocka_unit_test(surgery),
      cmocka_unit_test(long_chains),
      cmocka_unit_test(scopes),
      cmocka_unit_test(allocations_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
