// Operations of the op table against MLX on the CPU (stored by scripts/make_op_mlx_cases.py): more than a million elements, and small odd
// shapes in every float dtype. test_op_shapes compares many shapes with each other bit by bit.
#include "catalog_check.h"
#include "op_rows.h"

static const zmi_entry *find_entry(const char *name) {
  for (size_t i = 0; i < ZMI_COUNT(entries); i++) {
    if (strcmp(entries[i].name, name) == 0) return &entries[i];
  }
  return NULL;
}

// MLX has none of these, or leaves open what they give.
static const struct {
  const char *name, *why;
} without[] = {
    {"linear_scan", "MLX has none: test_ops"},
    {"partition", "the order besides the kth is open: test_ops"},
    {"argpartition", "the order besides the kth is open: test_ops"},
    {"rope_table", "MLX has none: test_model_ops"},
    {"route", "MLX has none: test_model_ops"},
};

static bool is_without(const char *name) {
  for (size_t k = 0; k < ZMI_COUNT(without); k++)
    if (strcmp(without[k].name, name) == 0) return true;
  return false;
}

static json_t *cases, *shapes;

static void operations_are_what_mlx_gives(void **state) {
  (void)state;
  find_row = find_entry;
  check_cases("op_mlx", cases);
}

// Dims of 0 and 1, operands that are not contiguous (stored by scripts/make_shape_mlx_cases.py).
static void other_shapes_are_what_mlx_gives(void **state) {
  (void)state;
  find_row = find_entry;
  check_cases("op_mlx_shapes", shapes);
  for (size_t i = 0; i < ZMI_COUNT(entries); i++) check_laid_out(shapes, entries[i].name, is_without(entries[i].name));
}

static void every_operation_is_there(void **state) {
  (void)state;
  for (size_t i = 0; i < ZMI_COUNT(entries); i++) {
    int count = 0;
    for (size_t k = 0; k < json_array_size(cases); k++)
      count += strcmp(json_string_value(json_object_get(json_array_get(cases, k), "row")), entries[i].name) == 0;
    if (is_without(entries[i].name) ? count != 0 : count < 2) fail_msg("%s: %d cases", entries[i].name, count);
  }
}

static int open_cases(void **state) {
  (void)state;
  cases = json_load_file("tests/data/op_mlx_cases.json", 0, NULL);
  shapes = json_load_file("tests/data/op_mlx_shapes.json", 0, NULL);
  return cases && shapes ? 0 : -1;
}

static int close_cases(void **state) {
  (void)state;
  json_decref(cases);
  json_decref(shapes);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_operation_is_there),
      cmocka_unit_test(operations_are_what_mlx_gives),
      cmocka_unit_test(other_shapes_are_what_mlx_gives),
  };
  return cmocka_run_group_tests(tests, open_cases, close_cases);
}
