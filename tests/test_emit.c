// Emitted kernels: C compiled for the best tier and for the baseline, and Metal compiled as C++ with the shim, give the interpreter's bits
// for every instruction and form, and so does CUDA C with a shim of its own; that is compiled by NVRTC too where it is installed.
#include "emit_cases.h"

#include "emit_run.h"

static int set_up(void **state) {
  (void)state;
  emit_ways |= 1u << CUDA;
  for (size_t i = 0; i < ZMI_COUNT(emit_cases); i++)
    for (int v = 0; v < emit_cases[i].variants; v++) {
      all.names[all.count] = emit_cases[i].name;
      all.codes[all.count++] = emit_cases[i].make(v);
    }
  return compile_all();
}

// ---- tests ----

static void elements_agree(void **state) {
  (void)state;
  static const int64_t sizes[] = {0, 1, 17, 513, 1300};
  compare_elements(sizes, ZMI_COUNT(sizes));
}

// What a pass would compute again is kept for rows of up to 32768 places only.
static void long_rows_agree(void **state) {
  (void)state;
  static const int64_t widths[] = {32768, 32769, 32900};
  int found = 0;
  for (int id = 0; id < all.count; id++) {
    if (strcmp(all.names[id], "softmax") != 0) continue;
    run r = new_run(id);
    found++;
    for (size_t s = 0; s < ZMI_COUNT(widths); s++) {
      r.d = r.stride[0] = widths[s];
      r.rows = 1;
      assert_true((size_t)r.d * zm_dtype_size(r.c->in[0]) <= sizeof in_memory[0]);
      fill(in_memory[0], r.c->in[0], r.d, (uint64_t)id, false);
      compare(&r);
    }
  }
  assert_true(found > 0);
}

static void rows_agree(void **state) {
  (void)state;
  static const int64_t widths[] = {0, 1, 15, 16, 17, 33, 512, 1400};
  compare_rows(widths, ZMI_COUNT(widths));
}

static void tiles_agree(void **state) {
  (void)state;
  for (int id = 0; id < all.count; id++) {
    if (all.codes[id]->form != ZMI_FORM_TILES) continue;
    run r = new_run(id);
    r.in_type[0] = zmi_type_of(ZM_BF16, 2, (int64_t[]){GROUPS, 100});
    r.in_type[1] = zmi_type_of(ZM_I32, 1, (int64_t[]){200}); // shorter than the places that are asked for
    r.out_type[0] = zmi_type_of(ZM_F32, 1, (int64_t[]){GROUPS});
    r.out_type[1] = zmi_type_of(ZM_I32, 1, (int64_t[]){3}); // one of four places is outside
    r.out_type[2] = zmi_type_of(ZM_F32, 2, (int64_t[]){GROUPS, THREADS});
    if (strcmp(r.c->name, "tile_source") == 0) { // all have room for each thread
      r.out_type[0] = r.out_type[2];
      r.out_type[1] = zmi_type_of(ZM_I32, 2, r.out_type[2].shape);
    }
    fill(in_memory[0], ZM_BF16, GROUPS * 100, 1, false);
    fill(in_memory[1], ZM_I32, 400, 2, false);
    compare(&r);
  }
}

// Every instruction stands in some code: what is added to the list of instructions must be added here.
static void every_instruction_is_there(void **state) {
  (void)state;
  for (int op = 0; op < ZMI_K_COUNT; op++) {
    bool found = false;
    for (int i = 0; i < all.count && !found; i++)
      for (size_t k = 0; k < all.codes[i]->count && !found; k++) found = all.codes[i]->insts[k].op == (zmi_cop)op;
    if (!found) fail_msg("no code holds %s", zmi_cop_rows[op].name);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(c_is_compiled),   cmocka_unit_test(every_instruction_is_there),
      cmocka_unit_test(elements_agree),  cmocka_unit_test(rows_agree),
      cmocka_unit_test(long_rows_agree), cmocka_unit_test(tiles_agree),
      cmocka_unit_test(cuda_compiles),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
