// Ops whose rows give a kernel (zmi_op.kernel), for arrays on a GPU: every one of them, for every dtype that it takes, gives the bits of
// its stages, by the interpreter; NVRTC compiles the emitted CUDA C where it is installed. And docs/cuda.md lists the ops that have no form
// for a GPU.
#include "emit_run.h"

#include "array/array.h"
#include "patch/patch.h"

enum { ROWS = 6, COLS = 37, OPERANDS = 4 };

// ---- calls ----

typedef struct trial {
  zmi_slot in[OPERANDS], out;
  zmi_call call;
  zmi_attrs attrs;
  zmi_op_kernel kernel;
} trial;

static zmi_slot slot_of(zm_dtype dtype, int rank, int64_t rows, int64_t cols) {
  zmi_slot s = {.kind = ZMI_SLOT_WEIGHT, .type = zmi_type_of(dtype, rank, (int64_t[]){rows, cols}), .base = -1};
  zmi_type_bytes(&s.type, &s.bytes);
  zmi_slot_set_contiguous(&s);
  return s;
}

static int operands_of(const zmi_op *op) {
  int n = op->operands[0] != 0;
  for (const char *p = op->operands; *p; p++) n += *p == ' ';
  return n;
}

// A call of the op on operands of this dtype; to: that of astype's result. False if its shape rule refuses them, or it has no kernel.
static bool make_trial(const zmi_op *op, zm_dtype dtype, zm_dtype to, trial *t) {
  const bool product = strcmp(op->name, "matmul") == 0 || strcmp(op->name, "addmm") == 0, choice = strcmp(op->name, "where") == 0;
  zmi_type types[OPERANDS], result = {0};
  int nout = 0;
  memset(t, 0, sizeof *t);
  const int nin = operands_of(op);
  assert_in_range(nin, 1, OPERANDS);
  for (int k = 0; k < nin; k++) {
    const int64_t rows = product && k == 1 ? COLS : ROWS, cols = product && k != 0 ? ROWS : COLS;
    t->in[k] = slot_of(choice && k == 0 ? ZM_BOOL : dtype, 2, rows, cols);
    types[k] = t->in[k].type;
    t->call.in[k] = &t->in[k];
  }
  if (strcmp(op->name, "astype") == 0) {
    const int64_t value = to;
    memcpy(t->attrs.bytes, &value, sizeof value);
  } else if (strcmp(op->name, "addmm") == 0) {
    memcpy(t->attrs.bytes, (double[]){0.75, -1.5}, 16);
  } else if (!choice && nin == 1 && !product) {
    memcpy(t->attrs.bytes, (int64_t[]){1, 0, 0}, 24); // axis, keepdims, ddof of reductions
  }
  if (op->infer(t->attrs.bytes, nin, types, &nout, &result) != ZM_OK || nout != 1) {
    zmi_error_clear();
    return false;
  }
  t->out = slot_of(result.dtype, result.rank, result.rank > 0 ? result.shape[0] : 1, result.rank > 1 ? result.shape[1] : 1);
  t->call.op = op;
  t->call.attrs = t->attrs.bytes;
  t->call.nin = nin;
  t->call.nout = 1;
  t->call.out[0] = &t->out;
  t->call.kernels = all.tiers[INTERPRETED];
  return op->kernel(&t->call, &t->kernel);
}

static bool is_own(const zmi_op *op) {
  return strncmp(op->name, "kernel_", 7) == 0;
}

static void each_trial(void (*each)(trial *t)) {
  const zmi_op *op;
  for (size_t i = 0; (op = zmi_op_at(i)); i++) {
    if (!op->kernel || is_own(op)) continue;
    int forms = 0;
    for (int d = ZM_BOOL; d < ZM_DTYPE_COUNT; d++) {
      for (int to = ZM_BOOL; to < ZM_DTYPE_COUNT; to++) {
        trial t;
        if (strcmp(op->name, "astype") != 0 && to > ZM_BOOL) break;
        if (!make_trial(op, (zm_dtype)d, (zm_dtype)to, &t)) continue;
        each(&t);
        forms++;
      }
    }
    if (forms == 0) fail_msg("%s: there is no call that has a kernel", op->name);
  }
}

// ---- bits ----

static void run_on_cpu(const trial *t) {
  zmi_call c = t->call;
  static _Alignas(64) char scratch[1 << 20];
  for (int k = 0; k < c.nin; k++) c.src[k] = in_memory[k];
  c.dst[0] = out_memory[INTERPRETED][0];
  assert_true(!c.op->scratch || c.op->scratch(&c) <= sizeof scratch);
  c.scratch = scratch;
  for (int s = 0; s < ZMI_MAX_STAGES && c.op->stages[s].run; s++) {
    const int64_t tiles = c.op->stages[s].tiles(&c);
    if (tiles > 0) c.op->stages[s].run(&c, 0, tiles);
  }
}

static void run_as_kernel(const trial *t) {
  const zmi_code *code = t->kernel.code;
  const void *in[OPERANDS] = {in_memory[0], in_memory[1], in_memory[2], in_memory[3]};
  void *out[1] = {out_memory[CUDA][0]};
  const int step[OPERANDS] = {1, 1, 1, 1};
  const int64_t stride[OPERANDS] = {COLS, COLS, COLS, COLS};
  zmi_type types[OPERANDS] = {t->in[0].type, t->in[1].type, t->in[2].type, t->in[3].type};
  const zmi_launch l = {t->kernel.groups, t->kernel.threads, in, out, types, &t->out.type, t->kernel.values};
  zm_status status = ZM_OK;
  if (code->form == ZMI_FORM_ELEMENTS)
    status = zmi_interpret_elements(code, t->call.kernels, ROWS * COLS, in, step, t->kernel.values, out);
  else if (code->form == ZMI_FORM_ROWS)
    status = zmi_interpret_rows(code, t->call.kernels, ROWS, COLS, in, stride, step, t->kernel.values, out);
  else
    status = zmi_interpret_groups(code, t->call.kernels, &l, 0, l.groups);
  if (status != ZM_OK) fail_msg("%s: %s", code->name, zm_last_error());
}

static void compare_trial(trial *t) {
  const int64_t count = zmi_type_count(&t->out.type);
  const zm_dtype dtype = t->out.type.dtype;
  for (int wild = 0; wild < 2; wild++) {
    for (int k = 0; k < t->call.nin; k++)
      fill(in_memory[k], t->in[k].type.dtype, zmi_type_count(&t->in[k].type), (uint64_t)k + 7 * (uint64_t)t->in[k].type.dtype, wild);
    memset(out_memory[INTERPRETED][0], 0xa5, 4096);
    memset(out_memory[CUDA][0], 0, 4096);
    const unsigned saved = zmi_float_rule_enter();
    run_on_cpu(t);
    run_as_kernel(t);
    zmi_float_rule_leave(saved);
    for (int64_t i = 0; i < count; i++) {
      if (same(out_memory[INTERPRETED][0], out_memory[CUDA][0], dtype, i)) continue;
      fail_msg("%s of %s gives another %s at %d (%s)", t->call.op->name, zm_dtype_name(t->in[0].type.dtype), zm_dtype_name(dtype), (int)i,
               wild ? "special numbers" : "ordinary numbers");
    }
  }
}

static void kernels_have_the_bits_of_stages(void **state) {
  (void)state;
  each_trial(compare_trial);
}

// ---- emitted ----

static void take_trial(trial *t) {
  if (!take(t->kernel.code, NULL)) fail_msg("%s: too many", t->kernel.code->name);
}

static int set_up(void **state) {
  (void)state;
  emit_many = true;
  emit_ways = 0;
  all.tiers[INTERPRETED] = zmi_kernels_find(NULL);
  each_trial(take_trial);
  return compile_all();
}

static void there_are_many(void **state) {
  (void)state;
  assert_in_range(all.count, 350, MOST_CASES);
}

// ---- the list ----

static void the_page_lists_what_stays(void **state) {
  (void)state;
  static const char begin[] = "<!-- ops without a form for a GPU -->\n", end[] = "<!-- end of the ops -->";
  char *page;
  size_t size;
  zmi_text names = {0};
  const zmi_op *op;
  for (size_t i = 0; (op = zmi_op_at(i)); i++) {
    if (op->kernel || op->device || op->flags & (ZMI_OP_VIEW | ZMI_OP_ALIAS)) continue;
    zmi_text_add(&names, "%s`%s`", names.size ? ", " : "", op->name);
  }
  if (zmi_read_file("docs/cuda.md", 1 << 20, &page, &size) != ZM_OK) fail_msg("%s", zm_last_error());
  const char *from = strstr(page, begin), *to = from ? strstr(from, end) : NULL;
  if (!to) fail_msg("docs/cuda.md has no list of ops between its marks; it would be: %s", zmi_text_str(&names));
  zmi_text found = {0};
  for (const char *p = from + sizeof begin - 1; p < to - 1; p++)
    zmi_text_add(&found, "%c", *p == '\n' ? ' ' : *p); // but the last line's end
  if (strcmp(zmi_text_str(&found), zmi_text_str(&names)) != 0)
    fail_msg("docs/cuda.md lists %s; there are %s", zmi_text_str(&found), zmi_text_str(&names));
  zmi_text_release(&found);
  zmi_text_release(&names);
  zmi_free(page);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(kernels_have_the_bits_of_stages),
      cmocka_unit_test(there_are_many),
      cmocka_unit_test(cuda_compiles),
      cmocka_unit_test(the_page_lists_what_stays),
  };
  return cmocka_run_group_tests_name("op_kernels", tests, set_up, tear_down);
}
