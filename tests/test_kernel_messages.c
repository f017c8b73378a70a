// What kernels say that are not taken: the sentence and the place under which the caret stands.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include <zmlx/zmlx.h>

typedef struct message_case {
  const char *source, *says;
  int line, column;
} message_case;

static void refused(zm_op *op, const message_case *c) {
  char start[64];
  snprintf(start, sizeof start, "kernel k:%d:%d: ", c->line, c->column);
  if (op) fail_msg("%.60s was taken", c->source);
  const char *found = zm_last_error();
  if (strncmp(found, start, strlen(start)) != 0 || !strstr(found, c->says) || !strchr(found, '^'))
    fail_msg("%.60s: %s; expected %s%s", c->source, found, start, c->says);
  zm_clear_error();
}

static void numbers_that_no_float_holds(void **state) {
  (void)state;
  static const message_case cases[] = {
      {"x * 1e999", "too large for a float, the largest of which is 3.4028235e38: write INFINITY if that is meant", 1, 5},
      {"x * 3.5e38f", "write INFINITY", 1, 5},
      {"x +\n 0x1p128", "write INFINITY", 2, 2},
      {"x * 3402823600000000000000000000000000000000.0", "write INFINITY", 1, 5},
      {"x + 010", "an integer that begins with 0 has base 8 in C", 1, 5},
      {"x + 08u", "has base 8 in C", 1, 5},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) refused(zm_elementwise(cases[i].source, &(zm_elementwise_options){.name = "k"}), &cases[i]);
  static const char *const held[] = {"x * 3.4028235e38f", "x + 1e-999", "x + 0x1.fffffep127", "x * INFINITY",
                                     "x + 010.5 + 01e2 + 00f + 0 + 0u"};
  for (size_t i = 0; i < ZMI_COUNT(held); i++) {
    zm_op *op = zm_elementwise(held[i], NULL);
    if (!op) fail_msg("%s: %s", held[i], zm_last_error());
    zm_op_free(op);
  }
}

static void elements_of_other_places(void **state) {
  (void)state;
  static const message_case free_names[] = {
      {"x[0] * 2", "'x' alone is its element at this place, and other places cannot be read: in tiles (zm_kernel) they can", 1, 1},
      {"y + x[i - 1]", "'x' alone is its element", 1, 5},
      {"x = 3", "a value is expected, not the end: without names for the results (outputs) the source ends with the expression", 1, 6},
      {"x = 3; x", "the source reads no inputs: names that it assigns are variables of its own", 1, 1},
      {"x *", "a value is expected, not the end\n", 1, 4},
  };
  for (size_t i = 0; i < ZMI_COUNT(free_names); i++) {
    refused(zm_elementwise(free_names[i].source, &(zm_elementwise_options){.name = "k"}), &free_names[i]);
  }
  static const message_case named[] = {
      {"y = x[0];", "'x' alone is its element", 1, 5},
      {"x = 3; y = x;", "'x' is an input: it cannot be assigned; 'let' declares a name of your own", 1, 1},
      {"y = x; x += 1;", "'x' is an input: it cannot be assigned", 1, 8},
      {"y = v;", "unknown name 'v'\n", 1, 5}, // one letter is as near as any other
  };
  for (size_t i = 0; i < ZMI_COUNT(named); i++)
    refused(zm_elementwise(named[i].source, &(zm_elementwise_options){.name = "k", .inputs = "x", .outputs = "y"}), &named[i]);
  static const message_case rows[] = {
      {"elements { y = x[i + 1]; }", "'x' alone is its element at this place", 1, 16},
      {"elements { x = 3; y = x; }", "'let' declares a name of your own", 1, 12},
  };
  for (size_t i = 0; i < ZMI_COUNT(rows); i++)
    refused(zm_kernel(&(zm_kernel_options){.name = "k", .inputs = "x", .outputs = "y", .source = rows[i].source}), &rows[i]);
  zm_op *own =
      zm_elementwise("let x = 3; y = x + z;", &(zm_elementwise_options){.inputs = "x z", .outputs = "y"}); // what the message offers
  assert_non_null(own);
  zm_op_free(own);
}

static void too_deep(void **state) {
  (void)state;
  enum { DEEP = 400 };
  char source[2 * DEEP + 16];
  memset(source, '(', DEEP);
  source[DEEP] = 'x';
  memset(source + DEEP + 1, ')', DEEP);
  source[2 * DEEP + 1] = 0;
  const message_case parentheses = {source, "expressions and statements are nested deeper than 200: give parts of it names with 'let'", 1,
                                    101};
  refused(zm_elementwise(source, &(zm_elementwise_options){.name = "k"}), &parentheses);
  memset(source, '{', DEEP);
  strcpy(source + DEEP, "y = x;");
  memset(source + strlen(source), '}', DEEP);
  source[2 * DEEP + 6] = 0;
  const message_case braces = {source, "nested deeper than 200", 1, 201};
  refused(zm_elementwise(source, &(zm_elementwise_options){.name = "k", .inputs = "x", .outputs = "y"}), &braces);
}

static void tiles_say_what_is_wrong(void **state) {
  (void)state;
  static const message_case cases[] = {
      {"float a[0]; y[0] = a[0];", "the number of elements is a constant, 1 to 128", 1, 9},
      {"float a[129]; y[0] = a[0];", "the number of elements is a constant, 1 to 128", 1, 9},
      {"float a[x.0]; y[0] = a[0];", "the number of elements is a constant, 1 to 128", 1, 9},
      {"let a[4]; y[0] = a[0];", "an array has a written type, as in 'float name[8];'", 1, 5},
      {"float a[1] = {1, 2};", "more values than elements", 1, 7},
      {"float a[4]; y[0] = a;", "'a' is a buffer: give a place, as in a[0]", 1, 20},
      {"y[0] = simd_sum(x[0], 1);", "simd_sum takes 1 operand, not 2", 1, 8},
      {"y[0] = simd_sun(x[0]);", "unknown function 'simd_sun'", 1, 8},
      {"y[0] = simd_sum((long)thread);", "threads of a simdgroup tell each other float, int, uint and bool, not long", 1, 8},
      {"y[0] = simd_xor(x[0]);", "this is for integers, not float", 1, 8},
      {"if (thread < 4) { y[0] = simd_sum(x[thread]); }", "all threads of the group take part", 1, 26},
      {"for (int k = thread; k < 4; k++) { y[k] = simd_sum(x[k]); }", "all threads of the group take part", 1, 43},
      {"if (thread < 3) { barrier(); }", "not all threads of a group come to this barrier: what is around it depends on the thread", 1, 19},
      {"let t = thread * 2;\nif (t > 4) { if (group == 0) { barrier(); } }", "not all threads of a group come to this barrier", 2, 32},
      {"for (int k = 0; k < thread; k++) { barrier(); }", "not all threads of a group come to this barrier", 1, 36},
      {"if (x[thread] > 0) { barrier(); }", "not all threads of a group come to this barrier", 1, 22},
      {"y[0] = thread.w;", "grids have up to 3 dims: .x, .y and .z", 1, 8},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    zm_op *op = zm_kernel(&(zm_kernel_options){.name = "k",
                                               .form = ZM_KERNEL_TILES,
                                               .inputs = "x",
                                               .outputs = "y",
                                               .source = cases[i].source,
                                               .shape = {"x.0"},
                                               .groups = "1",
                                               .threads = "8, 4"});
    const zm_dtype dtype = ZM_F32;
    char *text = op ? zm_op_source(op, &dtype, 1, "ir") : NULL; // types are known here only
    if (text) fail_msg("%s was taken", cases[i].source);
    zm_op_free(op);
    refused(NULL, &cases[i]);
  }
  static const char *const taken[] = {"barrier(); y[thread] = x[thread];", "if (group > 0) { barrier(); } y[thread] = x[thread];",
                                      "for (int k = 0; k < 4; k++) { barrier(); } y[thread] = x[thread];",
                                      "if (x[0] > 0) { barrier(); } if (thread < 3) { y[thread] = x[thread]; } barrier();"};
  for (size_t i = 0; i < ZMI_COUNT(taken); i++) {
    zm_op *op = zm_kernel(&(zm_kernel_options){.name = "k",
                                               .form = ZM_KERNEL_TILES,
                                               .inputs = "x",
                                               .outputs = "y",
                                               .source = taken[i],
                                               .shape = {"x.0"},
                                               .groups = "1",
                                               .threads = "8"});
    const zm_dtype dtype = ZM_F32;
    char *text = op ? zm_op_source(op, &dtype, 1, "ir") : NULL;
    if (!text) fail_msg("%s: %s", taken[i], zm_last_error());
    zm_free_text(text);
    zm_op_free(op);
  }
  static const message_case grid = {"1, 2, 3, 4", "a grid has up to 3 dims", 1, 10};
  assert_null(zm_kernel(&(zm_kernel_options){.name = "k",
                                             .form = ZM_KERNEL_TILES,
                                             .inputs = "x",
                                             .outputs = "y",
                                             .source = "y[0] = x[0];",
                                             .shape = {"x.0"},
                                             .groups = grid.source,
                                             .threads = "1"}));
  assert_non_null(strstr(zm_last_error(), grid.says));
  assert_non_null(strchr(zm_last_error(), '^'));
  const message_case rows = {"y = sum(simd_sum(x));", "simd_sum is for threads: only tiles have them", 1, 9};
  refused(zm_kernel(&(zm_kernel_options){.name = "k", .inputs = "x", .outputs = "y", .source = rows.source}), &rows);
}

static void words_of_other_languages(void **state) {
  (void)state;
  static const message_case free_names[] = {
      {"x * M_PI_2_FF", "unknown constant 'M_PI_2_FF'; did you mean 'M_PI_2_F'?", 1, 5},
      {"x + M_NOTHING_LIKE_IT", "unknown constant 'M_NOTHING_LIKE_IT'\n", 1, 5},
      {"x + FLT_LARGEST", "unknown constant 'FLT_LARGEST'", 1, 5},
      {"(half4)x",
       "unknown type 'half4': the types are bool, char, uchar, short, ushort, int, uint, long, ulong, float, half, bfloat and T", 1, 2},
      {"(uint2)-x", "unknown type 'uint2'", 1, 2},
      {"float4(x)", "unknown type 'float4'", 1, 1},
      {"double t = x; t", "unknown type 'double'", 1, 1},
      {"vec t = x; t", "unknown type 'vec', or an operator is missing behind it: the types are bool, char", 1, 1},
      {"return x; x", "the expression ends before this", 1, 11},
      {"if (x > 0) { return x; } x",
       "'return' is not part of the language: a source ends with its expression, or assigns its results by their names", 1, 14},
      {"while (x > 0) { }", "'while' is not part of the language: a loop has a bound", 1, 1},
      {"x * while", "'while' is not part of the language", 1, 5},
      {"x 3", "the expression ends before this", 1, 3},
      {"x * reinterpret_cast<int>(x)", "'reinterpret_cast' is a word of C that is not in the language, and a value is expected", 1, 5},
      {"dynamic_cast<int>(x)", "'dynamic_cast' is a word of C", 1, 1},
      {"x + int", "'int' is a type, and a value is expected: a conversion is 'int(x)'", 1, 5},
      {"x + T", "'T' is a type", 1, 5},
      {"half * x", "'half' is a type", 1, 1},
      {"x + size_t", "'size_t' is a type", 1, 5},
      {"x == nullptr", "'nullptr' is a word of C that is not in the language", 1, 6},
      {"x + goto", "'goto' is a word of C", 1, 5},
      {"x + sizeof", "'sizeof' is a word of C", 1, 5},
      {"x + struct", "'struct' is a word of C", 1, 5},
      {"x * let", "'let' is a word of the language, and a value is expected", 1, 5},
      {"x * auto", "'auto' is a word of the language", 1, 5},
      {"x * const", "'const' is a word of the language", 1, 5},
      {"x + threadgroup", "'threadgroup' is a word of the language", 1, 5},
  };
  for (size_t i = 0; i < ZMI_COUNT(free_names); i++)
    refused(zm_elementwise(free_names[i].source, &(zm_elementwise_options){.name = "k"}), &free_names[i]);
  static const message_case named[] = {
      {"return x;", "'return' is not part of the language", 1, 1},
      {"signed t = 1; y = x;", "unknown type 'signed'", 1, 1},
      {"y = (int4)x;", "unknown type 'int4'", 1, 6},
      {"if (x > 0) break; y = x;", "'break' stands at the end of a branch that is directly in the braces of a loop", 1, 12},
      {"for (int i = 0; i < 3; i++) { { if (x > 0) continue; } } y = x;",
       "'continue' stands at the end of a branch that is directly in the braces of a loop", 1, 44},
      {"if (x > 0) continue; y = x;", "'continue' stands at the end of a branch", 1, 12},
  };
  for (size_t i = 0; i < ZMI_COUNT(named); i++)
    refused(zm_elementwise(named[i].source, &(zm_elementwise_options){.name = "k", .inputs = "x", .outputs = "y"}), &named[i]);
}

// Lines that end as those of Windows do are shown without their ends.
static void lines_of_windows(void **state) {
  (void)state;
  static const struct {
    const char *source, *says;
  } cases[] = {
      {"let a = x;\r\na + tanhh(x)\r\n", "kernel k:2:5: unknown function 'tanhh'; did you mean 'tanh'?\n  a + tanhh(x)\n      ^~~~~"},
      {"let a = x; a + qq(x)\r\n", "\n  let a = x; a + qq(x)\n"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    assert_null(zm_elementwise(cases[i].source, &(zm_elementwise_options){.name = "k"}));
    if (!strstr(zm_last_error(), cases[i].says) || strchr(strchr(zm_last_error(), '\n'), '?')) fail_msg("%s", zm_last_error());
    zm_clear_error();
  }
}

static void nothing_is_dropped(zm_op *op, const char *says) {
  if (op) fail_msg("taken, although %s", says);
  if (!strstr(zm_last_error(), says)) fail_msg("%s; expected %s", zm_last_error(), says);
  zm_clear_error();
}

static zm_status no_vjp(void *user, const double *parameters, zm_array *const *in, int nin, zm_array *const *out,
                        zm_array *const *cotangents, int nout, zm_array **gradients) {
  (void)user, (void)parameters, (void)in, (void)nin, (void)out, (void)cotangents, (void)nout, (void)gradients;
  return ZM_OK;
}

static void options_that_nothing_reads(void **state) {
  (void)state;
  int user = 0;
#define ROWS .name = "k", .inputs = "x", .outputs = "y", .source = "y = sum(x);"
#define GRID .name = "k", .inputs = "x", .outputs = "y", .shape = {"x.0"}, .groups = "1", .threads = "1"
#define KERNEL(...) zm_kernel(&(zm_kernel_options){__VA_ARGS__})
  nothing_is_dropped(KERNEL(ROWS, .shape = {"x.0"}), "kernel k: the form is rows, which has no `shape`");
  nothing_is_dropped(KERNEL(ROWS, .groups = "1"), "the form is rows, which has no `groups`");
  nothing_is_dropped(KERNEL(ROWS, .threads = "1"), "the form is rows, which has no `threads`");
  nothing_is_dropped(KERNEL(ROWS, .source_cuda = ""), "the form is rows, which has no `source_cuda`");
  nothing_is_dropped(KERNEL(GRID, .form = ZM_KERNEL_TILES, .source = "y[0] = x[0];", .source_c = ""),
                     "the form is tiles, which has no `source_c`");
  nothing_is_dropped(KERNEL(GRID, .form = ZM_KERNEL_RAW, .source_c = "", .source = "y[0] = x[0];"),
                     "the form is raw, which has no `source`");
  nothing_is_dropped(KERNEL(ROWS, .user = &user), "kernel k: a kernel (rows) without a vjp has no `user`");
  nothing_is_dropped(KERNEL(ROWS, .result = {ZM_F32, ZM_F16}), "kernel k: result[1] is given, but there is 1 result");
  nothing_is_dropped(KERNEL(.name = "k", .inputs = "x", .outputs = "y", .form = ZM_KERNEL_RAW, .source_c = "", .shape = {"1", "1"},
                            .groups = "1", .threads = "1"),
                     "kernel k: shape[1] is given, but there is 1 result");
  nothing_is_dropped(zm_elementwise("x * 2", &(zm_elementwise_options){.name = "k", .result = {ZM_F32, [3] = ZM_BF16}}),
                     "kernel k: result[3] is given, but there is 1 result");
  zm_op *op = KERNEL(ROWS, .user = &user, .vjp = no_vjp, .result = {ZM_F32});
  if (!op) fail_msg("%s", zm_last_error());
  zm_op_free(op);
}

static void pieces_of_reductions(void **state) {
  (void)state;
#define REDUCE(...) zm_reduce(&(zm_reduce_options){.name = "k", __VA_ARGS__})
  nothing_is_dropped(REDUCE(.update = "max(acc, v)"), "kernel k: init is not given: 0 is not where \"max(a, b)\" begins");
  nothing_is_dropped(REDUCE(.update = "v * acc"), "kernel k: init is not given: 0 is not where \"a * b\" begins");
  nothing_is_dropped(REDUCE(.update = "acc + v", .combine = "nonsense((("), "kernel k: combine:1:");
  nothing_is_dropped(REDUCE(.update = "acc + v", .combine = "a + c"), "kernel k: combine:1:5: unknown name 'c'");
  nothing_is_dropped(REDUCE(.update = "acc + v", .combine = "a * b"),
                     "kernel k: combine is \"a * b\", but an update of this form is joined by \"a + b\": give that, or nothing");
  nothing_is_dropped(REDUCE(.update = "acc + v", .combine = "b + D"), "is joined by \"a + b\"");
  nothing_is_dropped(REDUCE(.init = "1", .update = "max(acc, v)", .combine = "a + b"), "is joined by \"max(a, b)\"");
  static const char *const good[][2] = {
      {"acc + v", "b + a"}, {"v * acc", "a * b"}, {"max(acc, v)", "fmax(b, a)"}, {"acc * 0.5f + v", "a + b * 2"}, {"min(v, acc)", NULL}};
  for (size_t i = 0; i < ZMI_COUNT(good); i++) {
    zm_op *op = REDUCE(.init = "1", .update = good[i][0], .combine = good[i][1]);
    if (!op) fail_msg("%s", zm_last_error());
    zm_op_free(op);
  }
  // what is said of a piece counts its own lines, also where names are looked up in the whole
  nothing_is_dropped(REDUCE(.update = "acc +\n  vv * 2"), "kernel k: update:2:3: unknown name 'vv'; did you mean 'v'?\n    vv * 2\n    ^~");
  nothing_is_dropped(REDUCE(.init = "1 + zz", .update = "acc + v"), "kernel k: init:1:5: unknown name 'zz'\n  1 + zz\n      ^~");
  nothing_is_dropped(REDUCE(.update = "max(acc, v)", .init = "zz"), "kernel k: init:1:1: unknown name 'zz'");
  nothing_is_dropped(REDUCE(.update = "acc + v", .finalize = "sqrt(acc) +\n q"), "kernel k: finalize:2:2: unknown name 'q'");
  nothing_is_dropped(REDUCE(.update = "acc * 0.5f + v", .init = "zz"), "kernel k: init:1:1: unknown name 'zz'");
  nothing_is_dropped(REDUCE(.update = "acc * 0.5f + vv"), "kernel k: update:1:14: unknown name 'vv'");
  nothing_is_dropped(REDUCE(.update = "acc + v", .gradient = {"g * qq"}), "kernel k_gradient_v:1:5: unknown name 'qq'");
  nothing_is_dropped(REDUCE(.update = "acc + v", .gradient = {"let a = 1;\nelements { gradient = g * qq; }"}),
                     "kernel k_gradient_v:2:27: unknown name 'qq'");
#define MAP(...) zm_map_reduce(&(zm_map_reduce_options){.name = "k", .pass1 = {.update = "acc + x"}, .write = "x * s1", __VA_ARGS__})
  nothing_is_dropped(MAP(.pass2 = {.init = "1"}), "kernel k: pass2.init is given, but pass2.update is not");
  nothing_is_dropped(MAP(.pass2 = {.reduce = "a + b"}), "kernel k: pass2.reduce is given, but pass2.update is not");
  nothing_is_dropped(MAP(.pass2 = {.finalize = "acc"}), "kernel k: pass2.finalize is given, but pass2.update is not");
  nothing_is_dropped(MAP(.pass2 = {.update = "acc + x", .reduce = "a +"}), "kernel k: pass2.reduce:1:4: a value is expected");
  nothing_is_dropped(MAP(.pass2 = {.update = "acc + x", .finalize = "acc / E"}), "kernel k: pass2.finalize:1:7: unknown name 'E'");
  nothing_is_dropped(MAP(.pass2 = {.update = "acc + q"}), "kernel k: pass2.update:1:7: unknown name 'q'");
  nothing_is_dropped(zm_map_reduce(&(zm_map_reduce_options){.name = "k", .pass1 = {.update = "acc + x"}, .write = "x /\n\ns2"}),
                     "kernel k: write:3:1: unknown name 's2'; did you mean 's1'?");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(numbers_that_no_float_holds), cmocka_unit_test(elements_of_other_places), cmocka_unit_test(too_deep),
      cmocka_unit_test(tiles_say_what_is_wrong),     cmocka_unit_test(words_of_other_languages), cmocka_unit_test(lines_of_windows),
      cmocka_unit_test(options_that_nothing_reads),  cmocka_unit_test(pieces_of_reductions),
  };
  return cmocka_run_group_tests_name("kernel_messages", tests, NULL, NULL);
}
