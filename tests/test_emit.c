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

// Of operands x and w, to results y and z.
static const struct {
  zmi_form form;
  zm_dtype dtype;
  const char *name, *source;
} sources[] = {
    // numbers of the row that a block leaves behind, read by all places of the next one
    {ZMI_FORM_ROWS, ZM_F32, "rows after each other",
     "float a = 1; elements { a = a * 0.5f + x; } elements { y = x * a + i; } float b = a; elements reverse { b = b * 0.25f + x; }"
     " s = max(b * x); elements { z = b * w + s; }"},
    {ZMI_FORM_ROWS, ZM_F32, "rows after each other",
     "float a = 0; elements { for (int j = 0; j < 4; j++) { a = a * 0.5f + x; if (a > 1) break; } } elements { y = a; }"
     " float b = 1; elements { b = b * 0.5f + a * x; } join { b = b + right.b; } elements { z = b * w; }"},
    {ZMI_FORM_ROWS, ZM_F32, "rows after each other", "float a = 0; elements { a = a * 0.5f + x; } elements { y = a * w; z = a; }"},
    // functions in two passes that are nearly, but not, alike: another constant, another operand, another value of a variable
    {ZMI_FORM_ROWS, ZM_F32, "nearly alike",
     "elements { s = sum(exp(x * 0.25f)); t = sum(exp(x * 0.25f) * w); } elements { y = exp(x * 0.125f) / s; z = exp(x * 0.25f) / t; }"},
    {ZMI_FORM_ROWS, ZM_F32, "nearly alike", "elements { s = sum(tanh(x)); } elements { y = tanh(w) - s; z = tanh(x) + s; }"},
    {ZMI_FORM_ROWS, ZM_F32, "nearly alike",
     "float a = D * 0.01f; elements { s = sum(sigmoid(x * a)); } for (int k = 0; k < 3; k++) { a = a * 0.5f + s; }"
     " elements { y = sigmoid(x * a) + w; z = s + a; }"},
    {ZMI_FORM_ROWS, ZM_F32, "nearly a softmax",
     "m = max(x); let q = m != 1e10f ? m : 0.0f; elements { e = exp(x - q); s = sum(e); } elements { y = exp(x - q) / s; z = w; }"},
    {ZMI_FORM_ROWS, ZM_F32, "nearly a softmax", "m = max(x); elements { s = sum(x * w); } elements { y = exp(x - m) / s; z = w; }"},
    // a softmax of some places: what is left out, and what is taken off where nothing is left in, are constants in front and in each pass
    {ZMI_FORM_ROWS, ZM_F32, "softmax of some",
     "m = max(w < 1.0f ? x : -INFINITY); let q = m != -INFINITY ? m : 0.0f; elements { s = sum(exp((w < 1.0f ? x : -INFINITY) - q)); }"
     " elements { y = w < 1.0f ? exp((w < 1.0f ? x : -INFINITY) - q) / s : 0.0f; z = exp((w < 1.0f ? x : -INFINITY) - q) / s; }"},
    {ZMI_FORM_ROWS, ZM_I32, "whole numbers", "elements { s = sum(x * 2); m = max(x); n = min(w); } elements { y = x * s; } z = m + n;"},
    // what is one for all places, in two passes and on both sides of a join
    {ZMI_FORM_ROWS, ZM_F32, "shared",
     "elements { s = sum(x * exp(D * -0.01f)); } elements { y = w * exp(D * -0.01f) - s; z = exp(x - s); }"},
    {ZMI_FORM_ROWS, ZM_F32, "shared",
     "float b = 1; elements { b = b * 0.5f + x * exp(D * -0.01f); } join { b = b + right.b * exp(D * -0.01f); }"
     " elements { y = b * w; z = x; }"},
    // loops that all make alike inside of branches that they don't; a counter near the largest number
    {ZMI_FORM_ROWS, ZM_F32, "loops in branches",
     "elements { float a = x; if (x > w) { for (int k = 0; k < 3; k++) { a = a * 0.5f + x; } } else { a = w; } y = a; z = sum(a); }"},
    {ZMI_FORM_ELEMENTS, ZM_F32, "loops in branches",
     "float a = x; if (x > w) { for (int k = 0; k < 3; k++) { a = a * 0.5f + k; } a += w; } y = a; z = a - x;"},
    {ZMI_FORM_ELEMENTS, ZM_F32, "operands behind a loop",
     "float a = x; for (int k = 0; k < 3; k++) a = a * 0.5f + k; y = a + w; z = x - w;"},
    {ZMI_FORM_ELEMENTS, ZM_F32, "a large counter",
     "float a = x; for (int k = 2147483640; k < 2147483647; k += 5) a = a * 0.5f + (k & 7) * w; y = a; z = w;"},
    // loops whose numbers, or the distances of them, are no ints
    {ZMI_FORM_ELEMENTS, ZM_F32, "large loops",
     "int n = 0, q = int(x * 1e9f), most = int(w * 1e9f); for (int k = q; k <= most; k += 500000000) n = n * 3 + k;"
     " for (uint k = uint(x); k < uint(w * 2e9f); k += 700000000u) n += k; for (int k = int(w * 1e30f); k >= q; k -= 900000000) n ^= k;"
     " for (uint k = 1; k <= uint(w * 2e9f); k *= 7) n += k;"
     " for (int k = most; k < uint(x * 3e9f); k += (uint(w) & 1) * 900000000u + 500000000u) n -= k;"
     " for (int k = q; k < long(clamp(w, -4.0f, 4.0f) * 1e10f); k += 2147483647) n = n * 5 + k; y = n; z = n & 255;"},
    {ZMI_FORM_ROWS, ZM_F32, "large loops",
     "int n = 0; for (int k = D * 1500000; k >= -D * 1500000; k -= 300000000) n = n * 3 + k; for (uint k = D; k <= 4294967295u; k += "
     "800000000u) n += k; elements { int m = n; for (int k = int(x * 1e30f); k > int(w * -1e30f); k -= 1300000000) m += k; y = m + x; z = "
     "n; }"},
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
  for (size_t i = 0; i < ZMI_COUNT(sources); i++) {
    const zmi_kernel_text text = {
        .name = "a_source", .form = sources[i].form, .inputs = "x w", .outputs = "y z", .source = sources[i].source};
    all.names[all.count] = sources[i].name;
    const zm_dtype d = sources[i].dtype;
    if (!(all.codes[all.count++] = code_of(&text, d, d, (zm_dtype[ZMI_KERNEL_OUT]){d, d}))) return -1;
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

// Arrays give their memory to results: what is read of an operand is read before its place is written.
static void results_lie_over_operands(void **state) {
  (void)state;
  for (int id = 0; id < all.count; id++) {
    run r = new_run(id);
    if (r.c->form != ZMI_FORM_ELEMENTS || r.c->nin == 0 || zm_dtype_size(r.c->in[0]) != zm_dtype_size(r.c->out[0])) continue;
    for (r.n = 513; r.n <= 1300; r.n += 787) {
      for (int k = 0; k < r.c->nin; k++) fill(in_memory[k], r.c->in[k], r.n + 1, (uint64_t)(id * 10 + k), true);
      for (int w = 0; w <= C_PLAIN; w++) {
        if (w != INTERPRETED && !all.handles[w]) continue;
        for (int o = 0; o < r.c->nout; o++) memset(r.out[o] = out_memory[w][o], 0xa5, sizeof out_memory[w][o]);
        r.in[0] = in_memory[0];
        if (w != INTERPRETED) r.in[0] = memcpy(out_memory[w][0], in_memory[0], (size_t)r.n * zm_dtype_size(r.c->in[0]));
        run_one((way)w, &r);
        for (int o = 0; o < r.c->nout && w != INTERPRETED; o++) compare_result(&r, (way)w, o);
      }
    }
  }
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

// The first of equal numbers wins, and the first NaN, wherever they stand in the blocks that are looked at together.
static void winners_agree(void **state) {
  (void)state;
  static const int64_t places[] = {0, 15, 16, 31, 32, 47, 64, 95, 96, 129, 130};
  enum { WIDTH = 131 };
  int found = 0;
  for (int id = 0; id < all.count; id++) {
    run r = new_run(id);
    if (strcmp(all.names[id], "reductions") != 0 || r.c->in[0] != ZM_F32) continue;
    found++;
    r.rows = 1;
    r.d = r.stride[0] = WIDTH;
    r.step[1] = 0;
    ((float *)(void *)in_memory[1])[0] = 2;
    for (size_t s = 0; s < 4 * ZMI_COUNT(places); s++) {
      float x[WIDTH];
      for (int i = 0; i < WIDTH; i++) x[i] = (float)(i * 5 % 11) - 5;
      const float winner = s % 4 == 0 ? 100 : s % 4 == 1 ? -100 : s % 4 == 2 ? __builtin_nanf("") : -__builtin_inff();
      x[places[s / 4]] = x[WIDTH - 1] = winner;
      memcpy(in_memory[0], x, sizeof x);
      compare(&r);
    }
  }
  assert_true(found > 0);
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

// Metal has places for 30 operands and results, and one for the call.
static void operands_beyond_metal(void **state) {
  (void)state;
  for (int operands = 30; operands <= 31; operands++) {
    zm_dtype in[ZMI_CODE_MAX];
    for (int i = 0; i < operands - 1; i++) in[i] = ZM_F32;
    zmi_code *c = start(ZMI_FORM_ELEMENTS, "many", operands - 1, in);
    assert_non_null(c);
    int sum = input(c, 0);
    for (int i = 1; i < c->nin; i++) sum = op2(c, ZMI_K_ADD, sum, input(c, i));
    give(c, ZM_F32, sum);
    finish(c);
    zmi_text t = {0};
    assert_int_equal(zmi_emit(c, ZMI_TARGET_CUDA, true, &t), ZM_OK);
    t.size = 0;
    assert_int_equal(zmi_emit(c, ZMI_TARGET_METAL, true, &t), operands == 30 ? ZM_OK : ZM_ERROR_LIMIT);
    if (operands == 30)
      assert_non_null(strstr(zmi_text_str(&t), "zk_call &call [[buffer(30)]]"));
    else
      assert_non_null(strstr(zm_last_error(), "kernel many: 31 operands and results, but Metal has room for 30"));
    zmi_text_release(&t);
    zmi_code_free(c);
  }
}

// Parts of a row and what their lanes have found fit into the memory of a threadgroup, 32 KB, however many reductions there are.
static void many_reductions_fit(void **state) {
  (void)state;
  for (int count = 1; count <= 64; count *= 2) {
    zmi_text source = {0};
    zmi_text_add(&source, "elements {");
    for (int i = 0; i < count; i++) zmi_text_add(&source, " s%d = sum(x * %d); p%d = argmax(x * w + %d);", i, i + 2, i, i);
    zmi_text_add(&source, " } float a = 0; int b = 0;");
    for (int i = 0; i < count; i++) zmi_text_add(&source, " a += s%d * %d; b += p%d * %d;", i, i + 1, i, i + 1);
    zmi_text_add(&source, " y = a; z = b;");
    const zmi_kernel_text text = {
        .name = "many", .form = ZMI_FORM_ROWS, .inputs = "x w", .outputs = "y z", .source = zmi_text_str(&source)};
    zmi_code *c = code_of(&text, ZM_F32, ZM_F32, (zm_dtype[ZMI_KERNEL_OUT]){ZM_F32, ZM_F32});
    assert_non_null(c);
    for (int target = ZMI_TARGET_CUDA; target <= ZMI_TARGET_METAL; target++) {
      static const char *const words[] = {[ZMI_TARGET_CUDA] = "  __shared__ ", [ZMI_TARGET_METAL] = "  threadgroup "};
      zmi_text t = {0};
      assert_int_equal(zmi_emit(c, (zmi_target)target, true, &t), ZM_OK);
      long bytes = 0, arrays = 0;
      for (const char *at = zmi_text_str(&t); (at = strstr(at, words[target])); at++, arrays++)
        bytes += 4 * strtol(strchr(at, '[') + 1, NULL, 10); // float or int
      if (arrays != 3 * count || bytes > 32768) fail_msg("%d reductions of two kinds: %ld arrays, %ld bytes", count, arrays, bytes);
      zmi_text_release(&t);
    }
    zmi_code_free(c);
    zmi_text_release(&source);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(operands_beyond_metal),
      cmocka_unit_test(many_reductions_fit),
      cmocka_unit_test(c_is_compiled),
      cmocka_unit_test(every_instruction_is_there),
      cmocka_unit_test(elements_agree),
      cmocka_unit_test(results_lie_over_operands),
      cmocka_unit_test(rows_agree),
      cmocka_unit_test(long_rows_agree),
      cmocka_unit_test(winners_agree),
      cmocka_unit_test(tiles_agree),
      cmocka_unit_test(cuda_compiles),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
