// The catalog against MLX on the CPU (stored by scripts/make_catalog_mlx_cases.py): small and large operands, special numbers, gradients of
// mx.vjp and second derivatives.
#include "catalog_check.h"

static void rows_are_what_mlx_gives(void **state) {
  (void)state;
  check_file(MLX_FILE);
}

// Dims of 0 and 1, operands that are not contiguous (stored by scripts/make_shape_mlx_cases.py).
static void other_shapes_are_what_mlx_gives(void **state) {
  (void)state;
  json_t *shapes = json_load_file("tests/data/catalog_mlx_shapes.json", 0, NULL);
  const zmi_entry *e;
  assert_non_null(shapes);
  check_cases("catalog_mlx_shapes", shapes);
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) check_laid_out(shapes, e->name, false);
  json_decref(shapes);
}

static void every_row_is_there(void **state) {
  (void)state;
  check_coverage(MLX_FILE, MLX_FILE + 1);
}

// Second derivatives are stored for what is differentiated twice in training: activations, norms, softmax, losses.
static void second_derivatives_are_there(void **state) {
  (void)state;
  static const char *const groups[] = {"activations", "softmax", "norms", "loss"};
  const zmi_catalog_group *group;
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, &group)); i++) {
    bool needed = false, found = false;
    for (size_t g = 0; g < ZMI_COUNT(groups); g++) needed |= strcmp(group->name, groups[g]) == 0;
    if (!needed || strstr(e->name, "dropout") || strstr(e->name, "_grad")) continue; // gradients of first ones are second ones
    for (size_t k = 0; k < json_array_size(roots[MLX_FILE]); k++) {
      const json_t *json = json_array_get(roots[MLX_FILE], k);
      found |= strcmp(json_string_value(json_object_get(json, "row")), e->name) == 0 && json_object_get(json, "second");
    }
    if (!found) fail_msg("%s: no second derivatives are stored", e->name);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_row_is_there),
      cmocka_unit_test(second_derivatives_are_there),
      cmocka_unit_test(rows_are_what_mlx_gives),
      cmocka_unit_test(other_shapes_are_what_mlx_gives),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, open_files, close_files);
}
