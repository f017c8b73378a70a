// Emitted C is vector code: compilers say of each loop over lanes that they made vectors of it. And where compiled code is slower than the
// interpreter for all that, the interpreter takes over.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "kernel/emit.h"
#include "kernel_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <zmlx/kernel.h>

static const struct sample {
  const char *source;
  zm_dtype in, out; // out: ZM_DTYPE_DEFAULT is as the language has it
} samples[] = {
    {"o = -x;", ZM_F32, 0},
    {"o = x + y * z;", ZM_F32, 0},
    {"o = fma(x, y, z);", ZM_F32, 0},
    {"o = max(x, y);", ZM_F32, 0},
    {"o = x < y ? x : z;", ZM_F32, 0},
    {"o = isnan(x);", ZM_F32, 0},
    {"o = isnan(x);", ZM_F32, ZM_BOOL},
    {"o = isinf(x) || isfinite(y);", ZM_F32, 0},
    {"o = x > 0 && y > 0;", ZM_F32, 0},
    {"o = x == y;", ZM_F32, ZM_BOOL},
    {"o = !x;", ZM_F16, 0},
    {"o = x ? y : z;", ZM_BOOL, 0},
    {"o = x & y | z;", ZM_BOOL, 0},
    {"o = floor(x) + ceil(y) + round(z);", ZM_F32, 0},
    {"o = sqrt(x) + rsqrt(y);", ZM_F32, 0},
    {"o = exp(x);", ZM_BF16, 0},
    {"o = log(x) + log1p(y);", ZM_F32, 0},
    {"o = tanh(x) * sigmoid(y);", ZM_BF16, 0},
    {"o = pow(x, y);", ZM_F32, 0},
    {"o = x * sin(y) + cos(z);", ZM_F32, 0},
    {"o = x % y + z;", ZM_F32, 0},
    {"o = mish(x);", ZM_F32, 0},
    {"o = logaddexp(x, y);", ZM_F32, 0},
    {"o = half(x) * half(y);", ZM_F32, 0},
    {"o = x / y;", ZM_I32, 0},
    {"o = x % y;", ZM_I32, 0},
    {"o = x / y + x % z;", ZM_U32, 0},
    {"o = x % 10 + y / 7;", ZM_I32, 0},
    {"o = x / y;", ZM_U8, 0},
    {"o = x + y;", ZM_I16, 0},
    {"o = popcount(x) << (y & 3);", ZM_U32, 0},
    {"o = float(x) * 0.5f;", ZM_I8, 0},
    {"o = int(x);", ZM_F32, 0},
    {"o = x;", ZM_F32, ZM_U16},
};

static const char *const row_samples[] = {
    "let m = max(x); let s = sum(exp(x - m)); elements { o = exp(x - m) / s; }",
    "let r = rsqrt(sumsq(x) / D + 1e-6f); elements { o = x * r * y; }",
    "let k = argmax(x); elements { o = i == k; }",
};

static void add_kernel(zmi_form form, const char *source, zm_dtype in, zm_dtype out, int id, zmi_text *t) {
  const zmi_kernel_text text = {.name = "sample", .form = form, .inputs = "x y z", .outputs = "o", .source = source};
  zmi_kernel *k = zmi_kernel_define(&text);
  if (!k) fail_msg("%s", zm_last_error());
  zmi_code *c = zmi_kernel_code(k, (zm_dtype[]){in, in, in}, &out);
  if (!c) fail_msg("%s", zm_last_error());
  zmi_text_add(t, "#define zk_elements e%d\n#define zk_rows r%d\n", id, id);
  assert_int_equal(zmi_emit(c, ZMI_TARGET_C, true, t), ZM_OK);
  zmi_text_add(t, "#undef zk_elements\n#undef zk_rows\n");
  zmi_code_free(c);
  zmi_kernel_release(k);
}

static bool said_of(const char *report, int line) {
  static const char words[] = "optimized: loop vectorized";
  char place[32];
  snprintf(place, sizeof place, "kernels.c:%d:", line);
  for (const char *p = report; (p = strstr(p, place)) != NULL; p++) {
    const size_t size = strcspn(p, "\n");
    const char *found = strstr(p, words);
    if (found && found < p + size) return true;
  }
  return false;
}

// Loops over lanes of the text from `from` on that the report does not speak of; how many there are.
static int unmade(const char *text, const char *from, const char *report, int *loops) {
  int line = 1, missing = 0;
  const char *kernel = "";
  for (const char *p = text; *p; p += strcspn(p, "\n"), p += *p == '\n', line++) {
    const size_t blanks = strspn(p, " ");
    if (strncmp(p, "void zk_", 8) == 0) kernel = p;
    if (p < from || strncmp(p + blanks, "ZK_LANES\n", 9) != 0) continue;
    ++*loops;
    if (said_of(report, line + 1)) continue;
    const char *next = strchr(p, '\n') + 1, *body = strchr(next, '\n');
    print_error("line %d: no vectors in %.60s ...%.120s\n", line + 1, kernel, body ? body : "");
    missing++;
  }
  return missing;
}

static void loops_are_vectors(void **state) {
  (void)state;
#if !defined(__x86_64__)
  print_message("skipped: the flags are those of x86-64\n");
  skip();
#endif
  zmi_text t = {0};
  int id = 0;
  zmi_emit_head(ZMI_TARGET_C, &t);
  const size_t head = t.size;
  for (size_t i = 0; i < ZMI_COUNT(samples); i++) add_kernel(ZMI_FORM_ELEMENTS, samples[i].source, samples[i].in, samples[i].out, id++, &t);
  for (size_t i = 0; i < ZMI_COUNT(row_samples); i++) add_kernel(ZMI_FORM_ROWS, row_samples[i], ZM_F32, 0, id++, &t);
  const char *text = zmi_text_str(&t), *source = temp_path(&folder, "kernels.c");
  assert_int_equal(temp_write(source, text, t.size), 0);
  char command[2048], *report;
  size_t size;
  int loops = 0;
  snprintf(command, sizeof command,
           "command -v gcc >/dev/null 2>&1 || exit 99; cd %s && exec gcc -std=gnu17 -O3 -ffp-contract=off -fno-math-errno "
           "-fno-trapping-math -fPIC -w -mavx2 -mfma -mf16c -fopt-info-vec-optimized -c -o kernels.o kernels.c 2>report",
           folder.path);
  const int status = system(command);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 99) {
    print_message("skipped: there is no gcc, which tells of its vectors\n");
    zmi_text_release(&t);
    skip();
  }
  assert_int_equal(status, 0);
  assert_int_equal(zmi_read_file(temp_path(&folder, "report"), 64 << 20, &report, &size), ZM_OK);
  const int missing = unmade(text, text + head, report, &loops);
  assert_true(loops > (int)ZMI_COUNT(samples));
  if (missing) fail_msg("%d of %d loops are not vector code", missing, loops);
  zmi_free(report);
  zmi_text_release(&t);
}

// ---- the better way stays ----

enum { N = 8192 };

static float in[N], out[N];

static zmi_instance *new_instance(const char *source) {
  const zmi_kernel_text text = {.name = "sample", .form = ZMI_FORM_ELEMENTS, .inputs = "x", .outputs = "o", .source = source};
  zmi_kernel *k = zmi_kernel_define(&text);
  assert_non_null(k);
  zmi_code *c = zmi_kernel_code(k, (zm_dtype[]){ZM_F32}, (zm_dtype[]){ZM_F32});
  assert_non_null(c);
  zmi_instance *x = zmi_instance_of(c);
  assert_non_null(x);
  zmi_code_free(c);
  zmi_kernel_release(k);
  return x;
}

static void call(zmi_instance *x, int64_t n) {
  const int shape = zmi_shape_class(ZMI_FORM_ELEMENTS, n, 0);
  memset(out, 0, sizeof out);
  zmi_instance_prepare(x, n, shape);
  const unsigned saved = zmi_float_rule_enter();
  zmi_instance_elements(x, zmi_kernels_find(NULL), shape, n, (const void *[]){in}, (int[]){1}, NULL, (void *[]){out});
  zmi_float_rule_leave(saved);
  for (int64_t i = 0; i < n; i++) assert_true(out[i] == in[i] * 3 + 1);
}

// A compiler whose kernels take two milliseconds more than they need.
static const char slow_compiler[] =
    "#!/bin/sh\n"
    "[ \"$1\" = --version ] && exec cc --version\n"
    "for last; do case $last in *kernel.c) source=$last ;; esac; done\n"
    "{ echo '#define zk_elements fast'; cat \"$source\"; echo '#undef zk_elements\n"
    "#include <time.h>\n"
    "void zk_elements(zk_long n, const void *const *in, const int *step, const double *p, void *const *out, int stream) {\n"
    "  struct timespec t = {0, 2000000};\n"
    "  nanosleep(&t, 0);\n"
    "  fast(n, in, step, p, out, stream);\n"
    "}'; } >\"$source.slow.c\"\n"
    "exec cc $(for word; do [ \"$word\" = \"$source\" ] && echo \"$source.slow.c\" || echo \"$word\"; done)\n";

static void the_slower_way_gives_way(void **state) {
  (void)state;
  if (system("command -v cc >/dev/null 2>&1") != 0) skip();
  for (int i = 0; i < N; i++) in[i] = (float)(i % 100) * 0.25f;
  const int shape = zmi_shape_class(ZMI_FORM_ELEMENTS, N, 0);
  for (int slow = 0; slow < 2; slow++) {
    const char *path = slow ? kernel_script("slow", slow_compiler) : NULL;
    if (slow) setenv("ZMLX_CC", path, 1);
    zmi_instance *x = new_instance("o = x * 3 + 1;");
    zmi_instance_prepare(x, (int64_t)1 << 40, shape); // much work is to come: compiled
    if (strncmp(zmi_instance_note(x), "compiled for ", 13) != 0) fail_msg("%s", zmi_instance_note(x));
    assert_true(zmi_instance_tuning(x, shape).chunk > 0);
    for (int i = 0; i < 16; i++) call(x, 100); // too small to tell anything
    assert_true(zmi_instance_tuning(x, shape).chunk > 0);
    for (int i = 0; i < 16; i++) call(x, N);
    if (slow)
      assert_int_equal(zmi_instance_tuning(x, shape).chunk, 0);
    else
      assert_true(zmi_instance_tuning(x, shape).chunk > 0);
    assert_true(zmi_instance_tuning(x, zmi_shape_class(ZMI_FORM_ELEMENTS, 1 << 20, 0)).chunk > 0); // other classes have their own
    zmi_instance_release(x);
    zmi_instance_forget();
  }
}

// ZMLX_KERNELS=compile is obeyed, however slow that is.
static void no_trial_where_the_way_is_said(void **state) {
  (void)state;
  if (system("command -v cc >/dev/null 2>&1") != 0) skip();
  for (int i = 0; i < N; i++) in[i] = (float)(i % 100) * 0.25f;
  setenv("ZMLX_KERNELS", "compile", 1);
  setenv("ZMLX_CC", kernel_script("slow", slow_compiler), 1);
  zmi_instance *x = new_instance("o = x * 3 + 1;");
  for (int i = 0; i < 16; i++) call(x, N);
  assert_true(zmi_instance_tuning(x, zmi_shape_class(ZMI_FORM_ELEMENTS, N, 0)).chunk > 0);
  zmi_instance_release(x);
  zmi_instance_forget();
}

// Where a compiler may put a minimum for a choice between what was compared, or leave out a product with 1, denormals would pass that are
// to be flushed: such comparisons and constants are hidden from it, others are not, as that costs instructions.
static void what_may_be_left_out_is_hidden(void **state) {
  (void)state;
  static const struct {
    const char *expression, *has, *has_not;
  } cases[] = {
      {"x < y ? x : y", "ze_lt(v0, v1)", NULL},         {"y > x ? x : y", "ze_gt(v0, v1)", NULL},
      {"!(x <= y) ? x : y", "ze_le(v0, v1)", NULL},     {"x > 1e-40f ? x : 1e-40f", "ze_gt(v0, v1)", NULL},
      {"x < 2 ? x : 2", "ze_lt(v0, v1)", NULL},         {"x >= -2 ? x : -2", "ze_ge(v0, v1)", NULL},
      {"0 < x ? x : 0", "ze_lt(v1, v0)", NULL},         {"x > 2 ? 2 : x", "ze_gt(v0, v1)", NULL},
      {"x > 0 ? x : 0", "v0 > v1", "ze_gt(v0"},         {"x < 0 ? x : 0", "v0 < v1", "ze_lt(v0"},
      {"x > 2 ? x : 2", "v0 > v1", "ze_gt(v0"},         {"x < -2 ? x : -2", "v0 < v1", "ze_lt(v0"},
      {"x < 0 ? 0 : x", "v0 < v1", "ze_lt(v0"},         {"x <= 0 ? 0 : x", "v0 <= v1", "ze_le(v0"},
      {"x < y ? 1 : y", "v0 < v1", "ze_lt(v0"},         {"x < y ? x : 2 * y", "v0 < v1", "ze_lt(v0"},
      {"x * 1", " = ze_keep(1.0f);", NULL},                 {"x + 0", " = ze_keep(0.0f);", NULL},
      {"x - -0.0f", " = ze_keep(-0.0f);", NULL},            {"-1 / x", " = ze_keep(-1.0f);", NULL},
      {"x / 0x1p126f", " = ze_keep(8.50705917e+37f);", NULL}, {"x * -0x1p-126f", " = ze_keep(-1.17549435e-38f);", NULL},
      {"fma(x, y, 0.0f)", " = ze_keep(0.0f);", NULL},       {"fma(x, 1.0f, y)", " = ze_keep(1.0f);", NULL},
      {"x * 3", "3.0f", " = ze_keep(3.0f);"},               {"x / 3", "3.0f", " = ze_keep(3.0f);"},
      {"x * 0x1p-125f", "2.3509887e-38f", " = ze_keep(2.3509887e-38f);"}, {"x < 1 ? x : y", " 1.0f", " = ze_keep(1.0f);"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    zm_op *op = zm_elementwise(cases[i].expression, NULL);
    char *text = op ? zm_op_source(op, (zm_dtype[]){ZM_F32, ZM_F32}, 1 + (strchr(cases[i].expression, 'y') != NULL), "c") : NULL;
    if (!text) fail_msg("%s: %s", cases[i].expression, zm_last_error());
    if (!strstr(text, cases[i].has)) fail_msg("%s: no %s in\n%s", cases[i].expression, cases[i].has, text);
    if (cases[i].has_not && strstr(text, cases[i].has_not)) fail_msg("%s: %s in\n%s", cases[i].expression, cases[i].has_not, text);
    zm_free_text(text);
    zm_op_free(op);
  }
  zm_op *op = zm_kernel(&(zm_kernel_options){.form = ZM_KERNEL_TILES,
                                             .inputs = "x",
                                             .outputs = "y",
                                             .source = "float r = 0; if (!(x[thread] < 2.0f)) r = x[thread]; y[thread] = r;",
                                             .shape = {"x.0"},
                                             .groups = "1",
                                             .threads = "x.0"});
  char *text = op ? zm_op_source(op, (zm_dtype[]){ZM_F32}, 1, "c") : NULL;
  if (!text) fail_msg("%s", zm_last_error());
  if (!strstr(text, "= ze_lt(v")) fail_msg("no ze_lt in\n%s", text);
  zm_free_text(text);
  zm_op_free(op);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, kernel_set_up, kernel_tear_down)
  const struct CMUnitTest tests[] = {TEST(loops_are_vectors), TEST(the_slower_way_gives_way), TEST(no_trial_where_the_way_is_said),
                                     cmocka_unit_test(what_may_be_left_out_is_hidden)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
