// Kernels of users as things that a process has: tuning, which keeps a choice only where it wins and finds it again in another process; the
// list of kernels that are alive; raw sources in C, on the Metal shim, and for NVRTC.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "array/array.h"
#include "nvrtc.h"
#include "temp.h"
#include "watched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zmlx/zmlx.h>

#include <cmocka.h>

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

enum { SMALL = 2000, MEDIUM = 100000 };
static temp_folder folder;

static int set_up(void **state) {
  (void)state;
  unsetenv("ZMLX_CC");
  setenv("ZMLX_KERNELS", "compile", 1);
  zmi_instance_forget();
  return temp_make(&folder) == 0 && setenv("ZMLX_CACHE_DIR", folder.path, 1) == 0 ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  unsetenv("ZMLX_CC");
  temp_remove(&folder);
  zmi_instance_forget();
  return 0;
}

static zm_array *ramp(zm_dtype dtype, const int64_t *shape, int rank) {
  int64_t n = 1;
  for (int i = 0; i < rank; i++) n *= shape[i];
  zm_array *a = zm_reshape(zm_multiply(zm_arange(0, (double)n, 1, ZM_F32), zm_full(1e-5, ZM_F32, NULL, 0)), shape, rank);
  a = zm_astype(a, dtype);
  if (!a) fail_msg("%s", zm_last_error());
  return a;
}

// Many cheap steps: compiled they stay in registers, interpreted each is a pass of its own.
#define STEP(e) "(" e ") * 0.75f + 0.5f * x - (" e ") / 3"
#define STEPS(e) STEP(STEP(STEP(e)))
static zm_op *elements_op(void) {
  return zm_elementwise(STEPS("x"), &(zm_elementwise_options){.name = "tuned_elements"});
}

static zm_op *other_op(void) {
  return zm_elementwise("tanh(x) * exp(x) - sin(x)", &(zm_elementwise_options){.name = "other_elements"});
}

static zm_op *rows_op(void) {
  return zm_kernel(&(zm_kernel_options){.name = "tuned_rows",
                                        .inputs = "x",
                                        .outputs = "y",
                                        .source = "elements { s = sum(" STEPS("x") "); } elements { y = " STEPS("x") " / s; }"});
}

// What runs calls of this class of a kernel for operands of a dtype.
static zmi_tuning runs_now(const char *name, zm_dtype dtype, int shape) {
  zmi_instance_facts facts[64];
  const size_t n = zmi_instance_list(facts, ZMI_COUNT(facts));
  for (size_t i = 0; i < n && i < ZMI_COUNT(facts); i++) {
    if (strcmp(facts[i].name, name) != 0) continue;
    zmi_instance *x = zmi_instance_find(facts[i].key);
    const bool fits = zmi_instance_code(x)->in[0] == dtype;
    const zmi_tuning t = zmi_instance_tuning(x, shape);
    if (fits && !facts[i].compiled) fail_msg("%s: %s", name, facts[i].note);
    zmi_instance_release(x);
    if (fits) return t;
  }
  fail_msg("there is no kernel %s for %s", name, zm_dtype_name(dtype));
  return (zmi_tuning){0};
}

static int class_of(int64_t n) {
  return zmi_shape_class(ZMI_FORM_ELEMENTS, n, 0);
}

static int class_of_rows(int64_t rows, int64_t d) {
  return zmi_shape_class(ZMI_FORM_ROWS, rows * d, d);
}

static void play(zm_op *op, zm_array *x, float *copy) {
  zm_array *y = zm_op_apply1(op, x, NULL);
  const void *data = y ? zm_array_data(y) : NULL;
  if (!data) fail_msg("%s", zm_last_error());
  if (copy) memcpy(copy, data, (size_t)zm_array_size(y) * sizeof *copy);
}

// A compiler that works well with this flag only, or with every flag but those.
static void use_compiler(const char *name, const char *good, const char *bad) {
  char text[512];
  const char *path = temp_path(&folder, name);
  snprintf(text, sizeof text,
           "#!/bin/sh\ncase \" $* \" in\n*\" %s \"*) exec cc \"$@\" ;;\nesac\ncase \" $* \" in\n%s) exec cc \"$@\" -O0 ;;\nesac\n"
           "exec cc \"$@\"\n",
           good, bad);
  assert_int_equal(temp_write(path, text, strlen(text)), 0);
  assert_int_equal(chmod(path, 0700), 0);
  setenv("ZMLX_CC", path, 1);
}

// ---- tuning ----

static void a_way_must_win_to_be_taken(void **state) {
  (void)state;
  double s[4][ZMI_TUNE_ROUNDS];
  for (int r = 0; r < ZMI_TUNE_ROUNDS; r++) {
    s[0][r] = 1;
    s[1][r] = 0.995;               // too little
    s[2][r] = r < 2 ? 1.1 : 0.5;   // not in two rounds
    s[3][r] = r == 4 ? 3.0 : 0.90; // one round may be disturbed
  }
  const double(*seconds)[ZMI_TUNE_ROUNDS] = (const double(*)[ZMI_TUNE_ROUNDS])s;
  assert_int_equal(zmi_tune_best(seconds, 1), 0);
  assert_int_equal(zmi_tune_best(seconds, 2), 0);
  assert_int_equal(zmi_tune_best(seconds, 3), 0);
  assert_int_equal(zmi_tune_best(seconds, 4), 3);
  for (int r = 0; r < ZMI_TUNE_ROUNDS; r++) s[1][r] = 0.8;
  assert_int_equal(zmi_tune_best(seconds, 4), 1); // the better of two that win
}

static void autotune(zm_op *op, zm_array *x, bool again, zm_autotune_report *r) {
  if (zm_autotune(op, &x, 1, NULL, 0, again, r) != ZM_OK) fail_msg("%s", zm_last_error());
}

// Another process that plays, and does not tune, runs what this one chose, where it was chosen.
static int recall(void) {
  zm_scope *scope = zm_scope_open();
  zm_op *op = elements_op(), *other = other_op(), *rows = rows_op();
  zm_autotune_report r;
  play(op, ramp(ZM_F32, SHAPE(SMALL)), NULL);
  play(op, ramp(ZM_F32, SHAPE(MEDIUM)), NULL);
  play(op, ramp(ZM_F16, SHAPE(SMALL)), NULL);
  play(other, ramp(ZM_F32, SHAPE(SMALL)), NULL);
  play(rows, ramp(ZM_F32, SHAPE(10, 32)), NULL);
  play(rows, ramp(ZM_F32, SHAPE(10, 500)), NULL);
  const bool found =
      runs_now("tuned_elements", ZM_F32, class_of(SMALL)).flag == 1 && runs_now("tuned_rows", ZM_F32, class_of_rows(10, 32)).flag == 1;
  const bool apart =
      runs_now("tuned_elements", ZM_F32, class_of(MEDIUM)).flag == 0 && runs_now("tuned_elements", ZM_F16, class_of(SMALL)).flag == 0 &&
      runs_now("other_elements", ZM_F32, class_of(SMALL)).flag == 0 && runs_now("tuned_rows", ZM_F32, class_of_rows(10, 500)).flag == 0;
  autotune(op, ramp(ZM_F32, SHAPE(SMALL)), false, &r);
  const bool said = r.remembered && r.count == 1 && strcmp(r.candidates[0].flags, "-funroll-loops") == 0;
  zm_op_free(op), zm_op_free(other), zm_op_free(rows);
  zm_scope_close(scope);
  return (found ? 0 : 1) + (apart ? 0 : 2) + (said ? 0 : 4);
}

static void in_another_process(void) {
  pid_t child = fork();
  int status = 0;
  if (child == 0) {
    execl("/proc/self/exe", "test_registry", "--recall", (char *)NULL);
    _exit(99);
  }
  assert_true(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
  if (WEXITSTATUS(status) != 0) fail_msg("the second process: status %d", WEXITSTATUS(status));
}

static void a_choice_is_kept_where_it_was_made(void **state) {
  (void)state;
  static float before[SMALL], after[SMALL];
  use_compiler("unrolls", "-funroll-loops", "*");
  zm_scope *scope = zm_scope_open();
  zm_op *op = elements_op(), *rows = rows_op();
  zm_array *x = ramp(ZM_F32, SHAPE(SMALL));
  zm_autotune_report r;
  play(op, x, before);
  assert_int_equal(runs_now("tuned_elements", ZM_F32, class_of(SMALL)).flag, 0);
  autotune(op, x, false, &r);
  assert_false(r.remembered || r.empty);
  assert_true(r.count >= 4 && r.chosen > 0 && r.chosen < r.count);
  assert_string_equal(r.candidates[0].flags, "");
  assert_string_equal(r.candidates[r.chosen].flags, "-funroll-loops");
  for (int i = 0; i < r.count; i++) assert_true(r.candidates[i].seconds > 0);
  assert_true(r.candidates[r.chosen].seconds < r.candidates[0].seconds);
  assert_int_equal(runs_now("tuned_elements", ZM_F32, class_of(SMALL)).flag, 1);
  assert_int_equal(runs_now("tuned_elements", ZM_F32, class_of(MEDIUM)).flag, 0);
  zm_op *same = elements_op();
  play(same, x, after);
  assert_memory_equal(before, after, sizeof before);
  const zm_autotune_candidate chosen = r.candidates[r.chosen];
  autotune(op, x, false, &r);
  assert_true(r.remembered && r.count == 1 && r.chosen == 0 && r.candidates[0].chunk == chosen.chunk);
  autotune(rows, ramp(ZM_F32, SHAPE(10, 32)), false, &r);
  assert_string_equal(r.candidates[r.chosen].flags, "-funroll-loops");
  in_another_process();
  zm_op_free(same), zm_op_free(op), zm_op_free(rows);
  zm_scope_close(scope);
}

// A way that is slow beyond doubt, as the interpreter is for so many steps, is measured and not chosen; the bits are those of every way.
static void a_slow_way_is_not_chosen(void **state) {
  (void)state;
  unsetenv("ZMLX_CC");
  zm_scope *scope = zm_scope_open();
  zm_op *op = elements_op();
  zm_autotune_report r;
  zm_array *x = ramp(ZM_F32, SHAPE(MEDIUM));
  static float before[MEDIUM], after[MEDIUM];
  setenv("ZMLX_KERNELS", "interpret", 1);
  play(op, x, before);
  setenv("ZMLX_KERNELS", "compile", 1);
  autotune(op, x, true, &r);
  int interpreted = -1;
  for (int i = 0; i < r.count; i++) interpreted = r.candidates[i].chunk == 0 ? i : interpreted;
  assert_true(interpreted > 0 && interpreted != r.chosen);
  assert_true(r.candidates[interpreted].seconds > 1.2 * r.candidates[r.chosen].seconds);
  assert_true(runs_now("tuned_elements", ZM_F32, class_of(MEDIUM)).chunk == r.candidates[r.chosen].chunk);
  zm_op *same = elements_op();
  play(same, x, after);
  assert_memory_equal(before, after, sizeof before);
  zm_op_free(same), zm_op_free(op);
  zm_scope_close(scope);
}

static void what_does_not_win_is_not_taken(void **state) {
  (void)state;
  use_compiler("does-not-unroll", "nothing", "*\" -funroll-loops \"*|*\" -mprefer-vector-width=256 \"*");
  zm_scope *scope = zm_scope_open();
  zm_op *op = elements_op();
  zm_autotune_report r;
  autotune(op, ramp(ZM_F32, SHAPE(SMALL)), false, &r);
  assert_string_equal(r.candidates[r.chosen].flags, "");
  assert_int_equal(runs_now("tuned_elements", ZM_F32, class_of(SMALL)).flag, 0);
  assert_int_equal(runs_now("tuned_elements", ZM_F32, class_of(SMALL)).chunk, r.candidates[r.chosen].chunk);
  zm_op_free(op);
  zm_scope_close(scope);
}

// Where the compiler knows some flags only, candidates and ways have different numbers: what won is what runs.
static void ways_that_cannot_be_compiled_are_left_out(void **state) {
  (void)state;
  const char text[] = "#!/bin/sh\ncase \" $* \" in *\" -funroll-loops \"*) exit 1 ;; esac\nexec cc \"$@\" -O0\n";
  const char *path = temp_path(&folder, "knows-little");
  assert_int_equal(temp_write(path, text, strlen(text)), 0);
  assert_int_equal(chmod(path, 0700), 0);
  setenv("ZMLX_CC", path, 1);
  zm_scope *scope = zm_scope_open();
  zm_op *op = other_op(); // functions, of which each step is a call without optimization
  zm_autotune_report r;
  int tries = 0;
  do // a call that was held up for long looks like one for which the interpreter is not tried
    autotune(op, ramp(ZM_F32, SHAPE(SMALL)), true, &r);
  while (!WATCHED && r.candidates[r.chosen].chunk != 0 && ++tries < 10);
  for (int i = 0; i < r.count; i++) assert_null(strstr(r.candidates[i].flags, "unroll"));
  const zmi_tuning now = runs_now("other_elements", ZM_F32, class_of(SMALL));
  assert_true(now.chunk == r.candidates[r.chosen].chunk && now.flag == 0);
  if (!WATCHED) assert_int_equal(now.chunk, 0); // anything beats calls for each number, but an interpreter that is watched
  zm_op_free(op);
  zm_scope_close(scope);
}

static zm_op *tiles_op(void) {
  return zm_kernel(&(zm_kernel_options){.name = "tuned_tiles",
                                        .form = ZM_KERNEL_TILES,
                                        .inputs = "x",
                                        .outputs = "y",
                                        .source = "let at = group * 32 + thread; if (at < x.0) { y[at] = x[at] * by; }",
                                        .parameters = "by",
                                        .shape = {"x.0"},
                                        .groups = "(x.0 + 31) / 32",
                                        .threads = "32"});
}

// ---- how calls are shared ----

static zmi_instance *instance_named(const char *name) { // held
  zmi_instance_facts facts[64];
  const size_t n = zmi_instance_list(facts, ZMI_COUNT(facts));
  for (size_t i = 0; i < n && i < ZMI_COUNT(facts); i++)
    if (strcmp(facts[i].name, name) == 0) return zmi_instance_find(facts[i].key);
  fail_msg("there is no kernel %s", name);
  return NULL;
}

// Tiles that the kernel of a program is cut into.
static int64_t tiles_now(zm_array *y) {
  zmi_program *p = zmi_compile(&y, (const char *[]){"y"}, 1, &(zmi_compile_options){.plan_only = true});
  assert_non_null(p);
  const zmi_tape *t = zmi_program_tape(p);
  int64_t tiles = -1;
  for (size_t i = 0; i < t->instr_count; i++) {
    const zmi_instr *in = &t->instrs[i];
    if (strncmp(in->op->name, "kernel_", 7) != 0) continue;
    zmi_call c = {.op = in->op, .attrs = in->attrs.bytes, .owner = in->owner, .nin = in->nin, .nout = in->nout};
    for (int k = 0; k < in->nin; k++) c.in[k] = &t->slots[in->in[k]];
    for (int o = 0; o < in->nout; o++) c.out[o] = &t->slots[in->out[o]];
    for (int s = 0; s < ZMI_MAX_STAGES && in->op->stages[s].run; s++) tiles = in->op->stages[s].tiles(&c);
  }
  zmi_program_free(p);
  return tiles;
}

// Whatever the number of pieces, there are as many and the bits are the same.
static void pieces_keep_the_bits(void **state) {
  (void)state;
  enum { N = 70001 };
  static float before[N], after[N];
  zm_scope *scope = zm_scope_open();
  zm_op *ops[] = {elements_op(), rows_op(), tiles_op()};
  const char *const names[] = {"tuned_elements", "tuned_rows", "tuned_tiles"};
  zm_array *x[] = {ramp(ZM_F32, SHAPE(N)), ramp(ZM_F32, SHAPE(777, 90)), ramp(ZM_F32, SHAPE(N))};
  const int classes[] = {class_of(N), class_of_rows(777, 90), zmi_grid_class(ZMI_FORM_TILES, (N + 31) / 32, 32)};
  for (int i = 0; i < 3; i++) {
    static const int counts[] = {0, 1, 2, 3, 7, 5000};
    int64_t usual = 0;
    for (size_t c = 0; c < ZMI_COUNT(counts); c++) {
      zm_array *y = NULL;
      const double by = 3;
      if (c > 0) {
        zmi_instance *instance = instance_named(names[i]);
        zmi_instance_share(instance, classes[i], counts[c]);
        zmi_instance_release(instance);
      }
      assert_int_equal(zm_op_apply_with(ops[i], &x[i], 1, &by, i == 2, &y, 1), ZM_OK);
      const int64_t tiles = tiles_now(y);
      if (c == 0) usual = tiles;
      assert_int_equal(tiles, counts[c] ? ZMI_MIN(usual, counts[c]) : usual);
      const void *data = zm_array_data(y);
      assert_non_null(data);
      const size_t bytes = (size_t)zm_array_size(y) * sizeof(float);
      memcpy(c ? after : before, data, bytes);
      if (c) assert_memory_equal(before, after, bytes);
    }
    assert_true(usual > 4);
    zm_op_free(ops[i]);
  }
  zm_scope_close(scope);
}

static void sharing_is_measured_and_kept(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_op *op = elements_op();
  zm_array *x = ramp(ZM_F32, SHAPE(MEDIUM)), *other;
  zm_autotune_report r;
  zmi_pool *pool;
  const zmi_kernels *kernels;
  autotune(op, x, false, &r);
  assert_int_equal(zmi_device(&pool, &kernels), ZM_OK);
  const int workers = zmi_pool_workers(pool);
  if (workers > 1) {
    assert_true(r.share_count >= 3 && r.share_chosen >= 0 && r.share_chosen < r.share_count);
    assert_int_equal(r.shares[0].pieces, 0);
    assert_int_equal(r.shares[1].pieces, 1);
    assert_int_equal(r.shares[r.share_count - 1].pieces, workers);
    for (int i = 0; i < r.share_count; i++) assert_true(r.shares[i].seconds > 0);
  } else {
    assert_int_equal(r.share_count, 1);
  }
  zmi_instance *instance = instance_named("tuned_elements");
  assert_int_equal(zmi_instance_pieces(instance, class_of(MEDIUM)), r.shares[r.share_chosen].pieces);
  const zmi_tuning way = zmi_instance_tuning(instance, class_of(MEDIUM));
  zmi_instance_share(instance, class_of(MEDIUM), 3);
  zmi_instance_keep_sharing(instance, class_of(MEDIUM));
  zmi_instance_release(instance);
  zm_op_free(op);
  zm_scope_close(scope);
  zmi_instance_forget(); // as in another process
  scope = zm_scope_open();
  op = elements_op();
  x = ramp(ZM_F32, SHAPE(MEDIUM)), other = ramp(ZM_F32, SHAPE(8 * SMALL));
  assert_int_equal(tiles_now(zm_op_apply1(op, x, NULL)), 3);
  assert_int_equal(tiles_now(zm_op_apply1(op, other, NULL)), 4); // of another class
  autotune(op, x, false, &r);
  assert_true(r.remembered && r.share_count == 1 && r.shares[0].pieces == 3);
  instance = instance_named("tuned_elements");
  const zmi_tuning now = zmi_instance_tuning(instance, class_of(MEDIUM));
  assert_true(now.chunk == way.chunk && now.flag == way.flag);
  zmi_instance_release(instance);
  zm_op_free(op);
  zm_scope_close(scope);
}

static void empty_calls_and_errors(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_op *op = elements_op(), *rows = rows_op(), *tiles = tiles_op();
  zm_autotune_report r;
  zm_array *x = ramp(ZM_F32, SHAPE(0, 5));
  zm_array *empty[] = {x, zm_reshape(x, SHAPE(5, 0))};
  for (size_t i = 0; i < ZMI_COUNT(empty); i++) {
    autotune(op, empty[i], false, &r);
    assert_true(r.empty && r.count == 1 && r.chosen == 0 && !r.remembered && r.candidates[0].seconds == 0);
    autotune(rows, empty[i], true, &r);
    assert_true(r.empty && r.count == 1);
  }
  zm_array *none = zm_reshape(x, SHAPE(0)), *some = ramp(ZM_F32, SHAPE(1000));
  assert_int_equal(zm_autotune(tiles, &none, 1, (double[]){2}, 1, false, &r), ZM_OK);
  assert_true(r.empty);
  if (zm_autotune(tiles, &some, 1, (double[]){2}, 1, false, &r) != ZM_OK) fail_msg("%s", zm_last_error());
  for (int i = 0; i < r.count; i++)
    assert_true(r.candidates[i].chunk == 0 || r.candidates[i].chunk == r.candidates[0].chunk); // flags, or interpreted
  assert_int_equal(zm_autotune(tiles, &some, 1, NULL, 0, false, NULL), ZM_ERROR_ARGUMENT);
  assert_int_equal(zm_autotune(NULL, &some, 1, NULL, 0, false, NULL), ZM_ERROR_ARGUMENT);
  setenv("ZMLX_KERNELS", "interpret", 1);
  assert_int_equal(zm_autotune(op, &some, 1, NULL, 0, false, &r), ZM_ERROR_UNSUPPORTED);
  assert_non_null(strstr(zm_last_error(), "ZMLX_KERNELS"));
  setenv("ZMLX_KERNELS", "compile", 1);
  setenv("ZMLX_CC", "there-is-no-such-compiler", 1);
  zm_op *other = other_op();
  assert_int_equal(zm_autotune(other, &some, 1, NULL, 0, false, &r), ZM_ERROR_UNSUPPORTED);
  assert_non_null(strstr(zm_last_error(), "there-is-no-such-compiler"));
  zm_op_free(other), zm_op_free(op), zm_op_free(rows), zm_op_free(tiles);
  zm_scope_close(scope);
}

// Operands of every kind of walk are read as a call reads them, and a call that is measured stays inside its buffers.
static void operands_of_all_kinds(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_op *three = zm_elementwise("a * b + c", &(zm_elementwise_options){.inputs = "a b c"});
  zm_op *norm =
      zm_kernel(&(zm_kernel_options){.inputs = "x w", .outputs = "y s", .source = "elements { s = sum(x * w); } elements { y = x - s; }"});
  zm_array *grid = ramp(ZM_F32, SHAPE(30, 40)), *row = ramp(ZM_F32, SHAPE(40)), *one = ramp(ZM_F32, SHAPE(1));
  zm_array *column = ramp(ZM_F32, SHAPE(30, 1)), *turned = zm_transpose(ramp(ZM_F32, SHAPE(40, 30)), NULL);
  zm_autotune_report r;
  assert_int_equal(zm_autotune(three, (zm_array *[]){turned, row, one}, 3, NULL, 0, false, &r), ZM_OK);
  assert_true(r.count > 1 && !r.remembered);
  assert_int_equal(zm_autotune(norm, (zm_array *[]){grid, row}, 2, NULL, 0, false, &r), ZM_OK);
  assert_true(r.count > 1 && !r.remembered);
  assert_int_equal(zm_autotune(norm, (zm_array *[]){turned, column}, 2, NULL, 0, false, &r), ZM_OK);
  assert_true(r.remembered);
  zm_op_free(three), zm_op_free(norm);
  zm_scope_close(scope);
}

// ---- the list ----

static const zm_kernel_facts *listed(const char *name) {
  static zm_kernel_facts facts[256];
  const size_t n = zm_kernel_list(facts, ZMI_COUNT(facts));
  assert_int_equal(n, zm_kernel_count());
  for (size_t i = 0; i < n; i++)
    if (strcmp(facts[i].name, name) == 0) return &facts[i];
  return NULL;
}

static void kernels_alive_are_listed(void **state) {
  (void)state;
  const size_t before = zm_kernel_count();
  zm_scope *scope = zm_scope_open();
  setenv("ZMLX_KERNELS", "interpret", 1);
  zm_op *op = elements_op(), *rows = rows_op();
  zm_array *x = ramp(ZM_F32, SHAPE(4, 5));
  assert_null(listed("tuned_elements"));
  play(op, x, NULL);
  play(rows, x, NULL);
  const zm_kernel_facts *f = listed("tuned_elements");
  assert_non_null(f);
  assert_string_equal(f->form, "elements");
  assert_true(f->held && !f->compiled && f->runs == 1 && (f->key[0] || f->key[1]));
  assert_non_null(strstr(f->note, "interpreted"));
  const uint64_t key = f->key[0];
  f = listed("tuned_rows");
  assert_non_null(f);
  assert_string_equal(f->form, "rows");
  assert_true(f->key[0] != key);
  setenv("ZMLX_KERNELS", "compile", 1);
  play(op, x, NULL);
  f = listed("tuned_elements");
  assert_true(f->compiled && f->runs == 2 && f->key[0] == key);
  assert_int_equal(strncmp(f->note, "compiled for ", 13), 0);
  setenv("ZMLX_CC", "there-is-no-such-compiler", 1);
  play(rows, x, NULL);
  assert_non_null(strstr(listed("tuned_rows")->note, "there-is-no-such-compiler"));
  zm_kernel_facts one[2] = {{.name = "untouched"}, {.name = "untouched"}};
  assert_int_equal(zm_kernel_list(one, 1), 1);
  assert_string_equal(one[1].name, "untouched");
  assert_int_equal(zm_kernel_list(NULL, 0), 0);
  zm_op_free(op), zm_op_free(rows);
  zm_scope_close(scope);
  f = listed("tuned_elements");
  assert_true(f && !f->held);
  zmi_instance_forget();
  assert_null(listed("tuned_elements"));
  assert_true(zm_kernel_count() <= before);
}

// A compiler that takes its time, or a call that does, does not make tuning endless: it ends, without enough rounds the usual way stays.
static void tuning_has_a_deadline(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_op *op = elements_op(), *other = other_op();
  zm_array *x = ramp(ZM_F32, SHAPE(SMALL));
  zm_autotune_report whole, r;
  autotune(op, x, true, &whole);
  char text[128];
  const char *path = temp_path(&folder, "slow");
  snprintf(text, sizeof text, "#!/bin/sh\nsleep 0.3\necho once >>\"$0.log\"\nexec cc \"$@\"\n");
  assert_int_equal(temp_write(path, text, strlen(text)), 0);
  assert_int_equal(chmod(path, 0700), 0);
  setenv("ZMLX_CC", path, 1);
  setenv("ZMLX_TUNE_SECONDS", "0.4", 1);
  autotune(other, x, true, &r);
  unsetenv("ZMLX_TUNE_SECONDS");
  assert_true(r.count >= 1 && r.count < whole.count && r.chosen == 0 && !r.remembered);
  for (int i = 0; i < r.count; i++) assert_true(r.candidates[i].seconds > 0);
  char *log = NULL;
  size_t size = 0;
  assert_int_equal(zmi_read_file(temp_path(&folder, "slow.log"), 1 << 20, &log, &size), ZM_OK);
  assert_true(size > 0 && size <= 4 * strlen("once\n")); // nothing more was compiled when half of the time was over
  zmi_free(log);
  // Without time for rounds nothing is chosen, and nothing is kept.
  setenv("ZMLX_TUNE_SECONDS", "0.000001", 1);
  zm_op *third = zm_elementwise("x * 3 + 1", NULL);
  autotune(third, x, false, &r);
  unsetenv("ZMLX_TUNE_SECONDS");
  assert_true(r.chosen == 0 && !r.remembered);
  autotune(third, x, false, &r);
  assert_false(r.remembered);
  zm_op_free(op), zm_op_free(other), zm_op_free(third);
  zm_scope_close(scope);
}

// ---- raw sources ----

// The bodies that docs/kernel-language.md shows, one for each backend.
static char *raw_c, *raw_cuda, *raw_metal;

static char *page_body(const char *page, const char *fence) {
  const char *at = strstr(page, "\n### Raw\n"), *end;
  if (at) at = strstr(at, fence);
  end = at ? strstr(at + strlen(fence), "```") : NULL;
  if (!end) return NULL;
  at += strlen(fence);
  char *body = malloc((size_t)(end - at) + 1);
  memcpy(body, at, (size_t)(end - at));
  body[end - at] = 0;
  return body;
}

static int read_page(void **state) {
  (void)state;
  char *page = NULL;
  size_t size = 0;
  if (zmi_read_file("docs/kernel-language.md", 1 << 20, &page, &size) != ZM_OK) return -1;
  raw_c = page_body(page, "```c\n"), raw_cuda = page_body(page, "```cuda\n"), raw_metal = page_body(page, "```metal\n");
  zmi_free(page);
  return raw_c && raw_cuda && raw_metal ? 0 : -1;
}

static int forget_page(void **state) {
  (void)state;
  free(raw_c), free(raw_cuda), free(raw_metal);
  return 0;
}

static zm_op *raw_op(const char *name, const char *c, const char *cuda, const char *metal) {
  return zm_kernel(&(zm_kernel_options){.name = name,
                                        .form = ZM_KERNEL_RAW,
                                        .inputs = "x",
                                        .outputs = "y",
                                        .parameters = "k",
                                        .source_c = c,
                                        .source_cuda = cuda,
                                        .source_metal = metal,
                                        .shape = {"x.0"},
                                        .result = {ZM_F32},
                                        .groups = "(x.0 + 15) / 16",
                                        .threads = "16"});
}

static void raw_c_runs(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_op *op = raw_op("raw_three", raw_c, NULL, NULL);
  if (!op) fail_msg("%s", zm_last_error());
  float in[1001];
  for (int i = 0; i < 1001; i++) in[i] = (float)i;
  zm_array *x = zm_array_from_data(in, ZM_F32, SHAPE(1001)), *y = NULL;
  if (zm_op_apply_with(op, &x, 1, (double[]){0.5}, 1, &y, 1) != ZM_OK) fail_msg("%s", zm_last_error());
  const float *data = zm_array_data(y);
  if (!data) fail_msg("%s", zm_last_error());
  for (int i = 0; i < 1001; i++) assert_true(data[i] == (float)i * 3 + 0.5f);
  zm_autotune_report r;
  if (zm_autotune(op, &x, 1, (double[]){0.5}, 1, false, &r) != ZM_OK) fail_msg("%s", zm_last_error());
  assert_true(r.count > 1);
  assert_string_equal(listed("raw_three")->form, "raw");
  zm_op_free(op);
  zm_scope_close(scope);
}

static void emit_text(const zmi_kernel_text *t, int nin, zmi_target target, zmi_text *text) {
  const zm_dtype in[] = {ZM_F32, ZM_F32};
  zm_dtype result[ZMI_KERNEL_OUT] = {ZM_F32};
  zmi_kernel *k = zmi_kernel_define(t);
  zmi_code *code = k && nin <= (int)ZMI_COUNT(in) ? zmi_kernel_code(k, in, result) : NULL;
  if (!code || zmi_emit(code, target, false, text) != ZM_OK) fail_msg("%s", zm_last_error());
  zmi_code_free(code);
  zmi_kernel_release(k);
}

// Dims and sizes of each operand, by its name.
static void raw_operands_have_dims(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  const char *source =
      "y[0] = (float)(x_dims[0] * 1000 + w_dims[0] * 100 + w_dims[1] * 10 + w_dims[2]), y[1] = (float)(w_size + y_dims[0]);";
  const char *metal = "y[0] = w_dims[1];", *cuda = "y[0] = w_dims[1];";
  zm_op *op = zm_kernel(&(zm_kernel_options){.name = "dims",
                                             .form = ZM_KERNEL_RAW,
                                             .inputs = "x w",
                                             .outputs = "y",
                                             .source_c = source,
                                             .source_cuda = cuda,
                                             .source_metal = metal,
                                             .shape = {"2"},
                                             .result = {ZM_F32},
                                             .groups = "1",
                                             .threads = "1"});
  zm_array *in[] = {zm_full(1, ZM_F32, SHAPE(3)), zm_full(1, ZM_F32, SHAPE(4, 5))}, *y = NULL;
  if (!op || zm_op_apply(op, in, 2, &y, 1) != ZM_OK) fail_msg("%s", zm_last_error());
  const float *data = zm_array_data(y);
  if (!data) fail_msg("%s", zm_last_error());
  assert_true(data[0] == 3451 && data[1] == 22);
  const zmi_kernel_text raw = {.name = "dims",
                               .form = ZMI_FORM_RAW,
                               .inputs = "x w",
                               .outputs = "y",
                               .raw = {source, cuda, metal},
                               .shape = {"2"},
                               .result = {ZM_F32},
                               .groups = "1",
                               .threads = "1"};
  for (int t = 0; t < 2; t++) { // GPUs find them behind those of x, which are eight
    zmi_text text = {0};
    emit_text(&raw, 2, t ? ZMI_TARGET_CUDA : ZMI_TARGET_METAL, &text);
    assert_non_null(strstr(zmi_text_str(&text), "*w_dims = call.dims + 8;"));
    assert_non_null(strstr(zmi_text_str(&text), "w_size = call.counts[1];"));
    zmi_text_release(&text);
  }
  zm_op_free(op);
  zm_scope_close(scope);
}

// A parameter is what the list says in every backend; a name that ends in a backslash takes no line with it.
static void raw_parameters_have_types(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  const char *name = "raw \"types\" \\";
  zm_op *op = zm_kernel(&(zm_kernel_options){.name = name,
                                             .form = ZM_KERNEL_RAW,
                                             .inputs = "x",
                                             .outputs = "y",
                                             .parameters = "int n, float eps",
                                             .source_c = "y[0] = x[0] + (float)(n / 2) + eps * (sizeof eps == 4 && sizeof n == 4);",
                                             .source_metal = "y[0] = x[0];",
                                             .shape = {"x.0"},
                                             .result = {ZM_F32},
                                             .groups = "1",
                                             .threads = "1"});
  if (!op) fail_msg("%s", zm_last_error());
  const float one = 1;
  zm_array *x = zm_array_from_data(&one, ZM_F32, SHAPE(1)), *y = NULL;
  if (zm_op_apply_with(op, &x, 1, (double[]){7, 0.25}, 2, &y, 1) != ZM_OK) fail_msg("%s", zm_last_error());
  const float *data = zm_array_data(y);
  if (!data) fail_msg("%s", zm_last_error());
  assert_true(data[0] == 4.25f);
  zm_op_free(op);
  op = zm_elementwise("x * 2 + sqrt(x)", &(zm_elementwise_options){.name = name});
  y = zm_op_apply1(op, x, NULL);
  data = zm_array_data(y);
  if (!data) fail_msg("%s", zm_last_error());
  assert_true(data[0] == 3);
  assert_string_equal(zm_op_name(op), name);
  char *text = zm_op_source(op, (zm_dtype[]){ZM_F32}, 1, "c");
  assert_int_equal(strncmp(text, "// raw _types_ _\n", 17), 0);
  zm_free_text(text);
  zm_op_free(op);
  zm_scope_close(scope);
}

static void raw_sources_that_cannot_run(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *x = ramp(ZM_F32, SHAPE(10)), *y = NULL;
  zm_op *op = raw_op("raw_metal_only", NULL, NULL, raw_metal);
  if (!op) fail_msg("%s", zm_last_error());
  assert_int_equal(zm_op_apply_with(op, &x, 1, (double[]){1}, 1, &y, 1), ZM_ERROR_UNSUPPORTED);
  if (!strstr(zm_last_error(), "raw_metal_only") || !strstr(zm_last_error(), "no source for c")) fail_msg("%s", zm_last_error());
  assert_null(zm_op_source(op, (zm_dtype[]){ZM_F32}, 1, "cuda"));
  zm_op_free(op);
  op = raw_op("raw_wrong", "y[0] = x[0] + no_such_name;", NULL, NULL);
  assert_int_equal(zm_op_apply_with(op, &x, 1, (double[]){1}, 1, &y, 1), ZM_ERROR_UNSUPPORTED);
  const char *message = zm_last_error(), *place = strstr(message, "is kept in ");
  if (!strstr(message, "raw_wrong") || !strstr(message, "no_such_name") || !place) fail_msg("%s", message);
  char path[512];
  snprintf(path, sizeof path, "%s", place + strlen("is kept in "));
  if (access(path, R_OK) != 0) fail_msg("%s is not there", path);
  zm_op_free(op);
  zm_scope_close(scope);
}

static void emit_raw(zmi_target target, zmi_text *text) {
  const zmi_kernel_text t = {.name = "raw_three",
                             .form = ZMI_FORM_RAW,
                             .inputs = "x",
                             .outputs = "y",
                             .parameters = "k",
                             .raw = {raw_c, raw_cuda, raw_metal},
                             .shape = {"x.0"},
                             .result = {ZM_F32},
                             .groups = "(x.0 + 15) / 16",
                             .threads = "16"};
  emit_text(&t, 1, target, text);
}

static void raw_cuda_compiles(void **state) {
  (void)state;
  nvrtc n;
  if (!nvrtc_open(&n)) {
    print_message("# skipped: NVRTC is not installed, or the address sanitizer is on\n");
    skip();
  }
  zmi_text t = {0};
  emit_raw(ZMI_TARGET_CUDA, &t);
  char *words = nvrtc_compile(&n, zmi_text_str(&t), "--gpu-architecture=sm_90a", false);
  if (words) fail_msg("%.1500s\n%s", words, zmi_text_str(&t));
  zmi_text_release(&t);
  // The library stays loaded: what it keeps for itself would count as lost without it.
}

static const char metal_caller[] =
    "struct job { const void *const *in; void *const *out; const zk_call *call; };\n"
    "static void body(void *p, uint t, uint n, uint g, uint gs) {\n"
    "  const job *j = (const job *)p;\n"
    "  zk_groups((const float *)j->in[0], (float *)j->out[0], *j->call, uint3{t, 0, 0}, uint3{n, 1, 1}, uint3{g, 0, 0}, uint3{gs, 1, 1});\n"
    "}\n"
    "extern \"C\" void run_raw(const void *const *in, void *const *out, long size, float k, uint n, uint gs) {\n"
    "  zk_call c = {};\n  c.counts[0] = c.counts[1] = size;\n  c.params[0].f = k;\n"
    "  job j = {in, out, &c};\n  shim_run(body, &j, n, gs);\n}\n";

static void raw_metal_runs_on_the_shim(void **state) {
  (void)state;
  zmi_text t = {0};
  char command[4096];
  float in[100], out[100];
  emit_raw(ZMI_TARGET_METAL, &t);
  zmi_text_add(&t, "%s", metal_caller);
  const char *source = temp_path(&folder, "raw.cpp"), *object = temp_path(&folder, "raw.so"), *cxx = getenv("CXX");
  assert_int_equal(temp_write(source, zmi_text_str(&t), t.size), 0);
  zmi_text_release(&t);
  cxx = cxx && *cxx ? cxx : "c++";
  snprintf(command, sizeof command,
           "command -v %s >/dev/null 2>&1 || exit 99; exec %s -std=c++17 -O1 -fPIC -shared -w -Itests/shim -o '%s' '%s'", cxx, cxx, object,
           source);
  const int status = system(command);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 99) {
    print_message("# skipped: no C++ compiler\n");
    skip();
  }
  assert_int_equal(status, 0);
  void *handle = dlopen(object, RTLD_NOW | RTLD_LOCAL), *entry = handle ? dlsym(handle, "run_raw") : NULL;
  void (*run)(const void *const *, void *const *, long, float, unsigned, unsigned);
  assert_non_null(entry);
  memcpy(&run, &entry, sizeof run);
  for (int i = 0; i < 100; i++) in[i] = (float)i, out[i] = -1;
  run((const void *[]){in}, (void *[]){out}, 90, 0.25f, 16, 6); // the last group is not full
  for (int i = 0; i < 100; i++) assert_true(out[i] == (i < 90 ? (float)i * 3 + 0.25f : -1));
  dlclose(handle);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "--recall") == 0) return recall();
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(a_way_must_win_to_be_taken),
      TEST(a_choice_is_kept_where_it_was_made),
      TEST(a_slow_way_is_not_chosen),
      TEST(what_does_not_win_is_not_taken),
      TEST(ways_that_cannot_be_compiled_are_left_out),
      TEST(empty_calls_and_errors),
      TEST(operands_of_all_kinds),
      TEST(kernels_alive_are_listed),
      TEST(raw_c_runs),
      TEST(raw_sources_that_cannot_run),
      TEST(raw_cuda_compiles),
      TEST(tuning_has_a_deadline),
      TEST(raw_metal_runs_on_the_shim),
      TEST(raw_operands_have_dims),
      TEST(raw_parameters_have_types),
      TEST(pieces_keep_the_bits),
      TEST(sharing_is_measured_and_kept),
  };
  return cmocka_run_group_tests_name("registry", tests, read_page, forget_page);
}
