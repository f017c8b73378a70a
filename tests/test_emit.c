// Emitted kernels: C compiled for the best tier and for the baseline, and Metal compiled as C++ with the shim, give the interpreter's bits
// for every instruction and form, and so does CUDA C with a shim of its own; that is compiled by NVRTC too where it is installed.
#include "emit_cases.h"

#include "emit_run.h"

// What comes from Metal: macros, functions, arrays in loops, tables, jumps, memory of one element; and memory that is zeros before anything
// is stored, also that of threads that come later.
static const char tiles_of_metal[] =
    "threadgroup float early[64]; float before = early[63 - thread] + early[thread / 2]; barrier(); early[thread] = 5; barrier();\n"
    "#define TWICE(a) ((a) + (a))\n#define REDUCE(buf, val) do { (buf)[thread] = (val); barrier(); \\\n"
    "for (int s = 32; s > 0; s >>= 1) { if (thread < s) (buf)[thread] += (buf)[thread + s]; barrier(); } } while (0)\n"
    "template <typename T> inline T folded(T a, int q) { if (q > 3) return a * 0.5f; T s = a; for (int j = 0; j < q; j++) { if (s > 9) "
    "break; "
    "s = TWICE(s); } return s; }\n"
    "constant float table[] = {0.5f, -1, 2, 7}; threadgroup float buf[64], most; threadgroup int lanes;\n"
    "int q = k[group * threads + thread] & 7; float v = x[group * threads + thread], s = 0;"
    "for (int r = 0, w = q; r < 4; r++, w += 3) { float a[4]; int b[2] = {w, r}; a[r] = v; if (w > 14) break; a[w % 4] += table[r];"
    "for (int j = 0; j < 4; j++) s = s * 0.5f + a[j] * b[j % 2]; }"
    "if (thread == 7) { most = v; lanes = q; lanes += 2; } REDUCE(buf, folded(s, q));"
    "if (q == 1) { copies[group * threads + thread] = s; if (thread == 0) { sums[group] = buf[0]; return; } counts[group * threads + "
    "thread] = "
    "lanes; return; } copies[group * threads + thread] = folded(s, q) + most + before; counts[group * threads + thread] = q * 100; if "
    "(thread == 0) "
    "sums[group] = buf[0];";

// Numbers of the row that a block leaves behind, read by all places of the next one.
static const char *const rows_after_each_other[] = {
    "float a = 1; elements { a = a * 0.5f + x; } elements { y = x * a + i; } float b = a; elements reverse { b = b * 0.25f + x; }"
    " s = max(b * x); elements { z = b * x + s; }",
    "float a = 0; elements { for (int j = 0; j < 4; j++) { a = a * 0.5f + x; if (a > 1) break; } } elements { y = a; }"
    " float b = 1; elements { b = b * 0.5f + a * x; } join { b = b + right.b; } elements { z = b * x; }",
};

static zmi_code *code_of(const zmi_kernel_text *text, zm_dtype dtype, zm_dtype second, zm_dtype *result) {
  zmi_kernel *k = zmi_kernel_define(text);
  zmi_code *c = k ? zmi_kernel_code(k, (zm_dtype[]){dtype, second}, result) : NULL;
  if (!c) fprintf(stderr, "%s\n", zm_last_error());
  zmi_kernel_release(k);
  return c;
}

static int add_sources(void) {
  const zmi_kernel_text tiles = {.name = "tile_source",
                                 .form = ZMI_FORM_TILES,
                                 .inputs = "x k",
                                 .outputs = "sums counts copies",
                                 .parameters = "int p",
                                 .source = tiles_of_metal,
                                 .shape = {"x.0", "x.0", "x.0"},
                                 .groups = "3",
                                 .threads = "64"};
  all.names[all.count] = "tiles of Metal";
  if (!(all.codes[all.count++] = code_of(&tiles, ZM_BF16, ZM_I32, (zm_dtype[ZMI_KERNEL_OUT]){ZM_F32, ZM_I32, ZM_F32}))) return -1;
  for (size_t i = 0; i < ZMI_COUNT(rows_after_each_other); i++) {
    const zmi_kernel_text rows = {
        .name = "row_source", .form = ZMI_FORM_ROWS, .inputs = "x", .outputs = "y z", .source = rows_after_each_other[i]};
    all.names[all.count] = "rows after each other";
    if (!(all.codes[all.count++] = code_of(&rows, ZM_F32, ZM_F32, (zm_dtype[ZMI_KERNEL_OUT]){ZM_F32, ZM_F32}))) return -1;
  }
  return 0;
}

static int set_up(void **state) {
  (void)state;
  emit_ways |= 1u << CUDA;
  for (size_t i = 0; i < ZMI_COUNT(emit_cases); i++)
    for (int v = 0; v < emit_cases[i].variants; v++) {
      all.names[all.count] = emit_cases[i].name;
      all.codes[all.count++] = emit_cases[i].make(v);
    }
  return add_sources() == 0 ? compile_all() : -1;
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
