// Every operation of the op table over shapes, in every float dtype, bit by bit: strided operands against contiguous ones, dims of 0 and 1,
// more than a million elements whole and in pieces, one worker and several, a NaN in one row. An operation that is new needs a row here.
#include "shape_checks.h"

#include "op_rows.h"

static const zmi_entry *entry_row(size_t i) {
  return i < ZMI_COUNT(entries) ? &entries[i] : NULL;
}

// Those whose operands are not arrays of any shape.
static const struct {
  const char *name, *why;
} elsewhere[] = {
    {"embed", "a packed matrix: test_model_ops"},
    {"linear", "a packed matrix: test_model_ops"},
    {"gather_linear", "a packed matrix: test_model_ops"},
    {"linear_back", "a packed matrix: test_transform_rules"},
    {"write_keys", "a cache: test_model_ops"},
    {"write_values", "a cache: test_model_ops"},
    {"attention", "caches: test_model_ops"},
    {"short_conv", "a state: test_model_ops"},
    {"arange", "no operands: test_array"},
    {"symmetric_root", "a square matrix as a whole: test_random"},
    {"symmetric_solve", "a square matrix as a whole: test_random"},
    {"random_bits", "numbers of a key, not of operands: test_random"},
    {"gather_outer", "the gradient of gather_mm: test_linear_rules"},
    {"kernel_elements", "the catalog: test_catalog_shapes"},
    {"kernel_rows", "the catalog: test_catalog_shapes"},
    {"kernel_tiles", "the catalog: test_catalog_shapes"},
};

static void every_operation_is_there(void **state) {
  (void)state;
#define X(word) #word,
  static const char *const names[] = {ZMI_OP_LIST(X)};
#undef X
  for (size_t i = 0; i < ZMI_COUNT(names); i++) {
    int found = 0;
    for (size_t k = 0; k < ZMI_COUNT(entries); k++) found += strcmp(names[i], entries[k].name) == 0;
    for (size_t k = 0; k < ZMI_COUNT(elsewhere); k++) found += strcmp(names[i], elsewhere[k].name) == 0;
    if (found != 1) fail_msg("%s: %d rows here: an operation needs one, with its shapes", names[i], found);
  }
}

// That a row calls what it says: its graph holds the operation.
static void rows_use_their_operation(void **state) {
  (void)state;
  for (size_t i = 0; i < ZMI_COUNT(entries); i++) {
    zm_scope *scope = zm_scope_open();
    zm_array *out[ZMI_CATALOG_OUT];
    bool found = false;
    row_shapes r;
    call c;
    read_row(&entries[i], &r);
    make_call(&r, usual, ZM_F32, &c);
    if (zmi_entry_call(&entries[i], c.in, c.nin, c.params, out) != ZM_OK) fail_msg("%s: %s", entries[i].name, zm_last_error());
    zmi_graph *g = zmi_graph_collect(out, (size_t)r.nout);
    assert_non_null(g);
    for (size_t k = 0; k < g->count; k++) found |= strcmp(g->nodes[k]->op->name, entries[i].name) == 0;
    if (!found && entries[i].formula != made_of_others) fail_msg("%s: the row does not use it", entries[i].name);
    zmi_graph_free(g);
    zm_scope_close(scope);
  }
}

static const refusal all_refusals[] = {
    {"partition", "D", 0, "kth is 0, but the axis of"},
    {"argpartition", "D", 0, "kth is 0, but the axis of"},
    {"topk", "D", 1, "k is 3, but the axis of"},
    {"argmin", "D", 0, "has no elements to choose from"},
    {"argmax", "D", 0, "has no elements to choose from"},
    {"max", "D", 0, "has no elements to choose from"},
    {"min", "D", 0, "has no elements to choose from"},
    {"rms_norm", "D", 0, "the last axis is empty"},
    {"route", "E", 1, "top_k: 2 is not between 1 and the"},
    {"median", "D", 0, "has no elements to choose from"},
    {"conv1d", "L", 0, "the kernel spans 3 places, the padded input has 2"},
    {"conv", "H", 0, "the kernel spans 3 places, the padded input has 2"},
    {"conv", "W", 0, "the kernel spans 3 places, the padded input has 2"},
    {NULL, NULL, 0, NULL},
};

static const nothing all_empty[] = {
    {"sum", "D", 0, 0}, {"prod", "D", 0, 1}, {"matmul", "K", 0, 0}, {"gather_mm", "K", 0, 0}, {NULL, NULL, 0, 0},
};

static const exception none[] = {{NULL, NULL}};
static const exception all_limited[] = {{"rope", "E"}, {NULL, NULL}}; // heads of 1024

static const exception all_swallowers[] = {
    {"pad", "what is put around it is 3"},
    {"masked_fill", "3 where the mask is true"},
    {"tril", "zeros above the diagonal"},
    {"triu", "zeros below the diagonal"},
    {"sign", "0 of NaN"},
    {"replace_nonfinite", "that is what it is for"},
    {"cummax", "the first place has nothing before it"},
    {"place", "zeros in between"},
    {"take_add", "zeros in rows that no index names"},
    {NULL, NULL},
};

int main(int argc, char **argv) {
  setenv("ZMLX_KERNELS", "interpret", 1);
  row_at = entry_row;
  refusals = all_refusals;
  swallowers = all_swallowers;
  empty = all_empty;
  limited = all_limited;
  wholes = none;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_operation_is_there), cmocka_unit_test(rows_use_their_operation), cmocka_unit_test(layouts_of_shapes),
      cmocka_unit_test(dims_of_every_size),       cmocka_unit_test(large_operands),           cmocka_unit_test(a_nan_stays_in_its_row),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
