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
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) refused(zm_elementwise(cases[i].source, &(zm_elementwise_options){.name = "k"}), &cases[i]);
  static const char *const held[] = {"x * 3.4028235e38f", "x + 1e-999", "x + 0x1.fffffep127", "x * INFINITY"};
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(numbers_that_no_float_holds),
      cmocka_unit_test(elements_of_other_places),
      cmocka_unit_test(too_deep),
  };
  return cmocka_run_group_tests_name("kernel_messages", tests, NULL, NULL);
}
