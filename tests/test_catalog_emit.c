// Every kernel of the catalog that is written in the kernel language, in every float dtype: emitted C and Metal (run through the shim) give
// the interpreter's bits, emitted CUDA C compiles. The kernels are those that the rows make when they run on their sample operands, so that
// what a row is composed of takes part too.
#include "emit_run.h"

#include "catalog/catalog.h"

enum { MOST_FACTS = 1024 };
static zmi_instance_facts facts[MOST_FACTS];

// What was made since the last zmi_instance_forget(), and the row's own definition, which some rows print but do not run.
static bool collect(const zmi_entry *e, zm_dtype dtype) {
  const size_t count = zmi_instance_list(facts, MOST_FACTS);
  assert_true(count < MOST_FACTS);
  for (size_t i = 0; i < count; i++) {
    zmi_instance *x = zmi_instance_find(facts[i].key);
    if (x && zmi_instance_code(x)->form != ZMI_FORM_RAW) assert_true(take(zmi_instance_code(x), NULL));
    zmi_instance_release(x);
  }
  if (!e->definition) return true;
  zmi_code *own = zmi_entry_code(e, dtype);
  if (own) assert_true(take(own, NULL));
  const bool made = own != NULL;
  zmi_code_free(own);
  return made;
}

static int set_up(void **state) {
  (void)state;
  static const zm_dtype floats[] = {ZM_F32, ZM_F16, ZM_BF16};
  const zmi_entry *e;
  setenv("ZMLX_KERNELS", "interpret", 1);
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    for (size_t t = 0; t < ZMI_COUNT(floats); t++) {
      zm_array *in[ZMI_CATALOG_IN], *out[ZMI_CATALOG_OUT];
      zm_scope *scope = zm_scope_open();
      const int n = zmi_entry_sample(e, floats[t], 256, in);
      if (n < 0 || zmi_entry_call(e, in, n, NULL, out) != ZM_OK || zm_eval(out, e->outputs ? (size_t)e->outputs : 1) != ZM_OK) {
        print_error("%s: %s\n", e->name, zm_last_error());
        return -1;
      }
      if (!collect(e, floats[t])) {
        print_error("%s: no kernel was made: %s\n", e->name, zm_last_error());
        return -1;
      }
      zm_scope_close(scope);
      zmi_instance_forget();
    }
  }
  emit_ways = 1u << INTERPRETED | 1u << C_BEST | 1u << METAL;
  emit_flag = " -O0";
  emit_many = true;
  return compile_all();
}

static void elements_agree(void **state) {
  (void)state;
  static const int64_t sizes[] = {1, 17, 600};
  compare_elements(sizes, ZMI_COUNT(sizes));
}

static void rows_agree(void **state) {
  (void)state;
  static const int64_t widths[] = {0, 1, 17, 33, 600};
  compare_rows(widths, ZMI_COUNT(widths));
}

// There is one in threadgroups: attention_tile_proto.
static void tiles_agree(void **state) {
  (void)state;
  int found = 0;
  for (int id = 0; id < all.count; id++) {
    if (all.codes[id]->form != ZMI_FORM_TILES) continue;
    assert_string_equal(all.names[id], "attention_tile_proto"); // another one needs its shapes here
    found++;
    run r = new_run(id);
    for (int k = 0; k < 2; k++) {
      r.in_type[k] = zmi_type_of(r.c->in[k], 2, (int64_t[]){16, 67});
      fill(in_memory[k], r.c->in[k], 16 * 67, (uint64_t)(k + 1), false);
    }
    r.out_type[0] = zmi_type_of(r.c->out[0], 2, (int64_t[]){16, 16});
    compare(&r);
  }
  assert_int_equal(found, 3);
}

// Each row that is one kernel has been emitted for each dtype.
static void every_row_is_there(void **state) {
  (void)state;
  static const zm_dtype floats[] = {ZM_F32, ZM_F16, ZM_BF16};
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    for (size_t t = 0; t < ZMI_COUNT(floats) && e->definition; t++) {
      zmi_code *own = zmi_entry_code(e, floats[t]);
      int found = 0;
      assert_non_null(own);
      for (int k = 0; k < all.count; k++) found += memcmp(all.codes[k]->key, own->key, sizeof own->key) == 0;
      if (found != 1) fail_msg("%s (%s): %d kernels", e->name, zm_dtype_name(floats[t]), found);
      zmi_code_free(own);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(c_is_compiled), cmocka_unit_test(every_row_is_there), cmocka_unit_test(elements_agree),
      cmocka_unit_test(rows_agree),    cmocka_unit_test(tiles_agree),        cmocka_unit_test(cuda_compiles),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
