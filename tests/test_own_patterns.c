// Patterns of users: a kernel of one's own computes what a function of arrays describes, in a model, with the same bits.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <zmlx/zmlx.h>

#define MODEL "checkpoints/tiny-qwen3_moe"
enum { TOKENS = 9 };

static zm_status gated(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_multiply(zm_silu(in[0]), in[1]);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status nowhere(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_tanh(in[0]);
  return out[0] ? ZM_OK : zm_last_status();
}

static float *logits_of(zm_session *s, int32_t vocab) {
  int32_t tokens[TOKENS];
  for (int i = 0; i < TOKENS; i++) tokens[i] = 3 + 5 * i;
  float *logits = malloc((size_t)vocab * TOKENS * sizeof *logits);
  assert_int_equal(zm_session_reset(s, 0), ZM_OK);
  assert_int_equal(zm_session_feed(s, 0, tokens, TOKENS, logits, TOKENS, NULL, NULL), ZM_OK);
  return logits;
}

static void in_dtype(zm_dtype dtype) {
  zm_model *m = zm_model_open(MODEL, &(zm_model_options){.dtype = dtype, .threads = 2});
  assert_non_null(m);
  zm_model_info info;
  zm_model_get_info(m, &info);
  const size_t bytes = (size_t)info.vocab * TOKENS * sizeof(float);
  zm_session *s = zm_session_open(m, NULL);
  zm_op *good = zm_elementwise("T(silu(gate)) * up", NULL), *wrong = zm_elementwise("T(silu(gate)) * up + T(0.25)", NULL);
  assert_non_null(good);
  assert_non_null(wrong);
  float *stock = logits_of(s, info.vocab);

  zm_patch_report *report = NULL;
  zm_own_pattern own = {.name = "gate", .replaces = gated, .operands = 2, .op = good};
  assert_int_equal(zm_patch_with(m, &own, 1, &report), ZM_OK);
  assert_true(zm_patch_report_size(report) > 0);
  assert_string_equal(zm_patch_report_entry(report, 0)->pattern, "gate");
  zm_patch_report_free(report);
  float *patched = logits_of(s, info.vocab);
  assert_memory_equal(stock, patched, bytes);

  own.op = wrong; // an open session sees the change, so it is the kernel that computes
  assert_int_equal(zm_patch_with(m, &own, 1, NULL), ZM_OK);
  float *other = logits_of(s, info.vocab);
  assert_memory_not_equal(stock, other, bytes);

  own = (zm_own_pattern){.name = "nothing", .replaces = nowhere, .operands = 1, .op = good};
  assert_int_equal(zm_patch_with(m, &own, 1, &report), ZM_OK);
  assert_int_equal(zm_patch_report_size(report), 0);
  zm_patch_report_free(report);

  own = (zm_own_pattern){.name = "gate", .replaces = gated, .operands = 2, .op = good};
  assert_int_equal(zm_patch_with(m, &own, 1, NULL), ZM_OK);
  assert_int_equal(zm_patch(m, NULL, NULL), ZM_OK); // with the table's patterns
  float *both = logits_of(s, info.vocab);
  assert_memory_equal(stock, both, bytes);
  assert_int_equal(zm_unpatch(m), ZM_OK);
  float *back = logits_of(s, info.vocab);
  assert_memory_equal(stock, back, bytes);
  free(stock), free(patched), free(other), free(both), free(back);
  zm_session_close(s);
  zm_model_close(m);
  zm_op_free(good);
  zm_op_free(wrong);
}

static void kernels_in_models_keep_every_bit(void **unused) {
  (void)unused;
  in_dtype(ZM_F32);
  in_dtype(ZM_BF16);
}

static void bad_patterns_are_refused(void **unused) {
  (void)unused;
  zm_model *m = zm_model_open(MODEL, NULL);
  zm_op *op = zm_elementwise("a * b", NULL), *sums = zm_reduce(&(zm_reduce_options){.inputs = "a b", .init = "0", .update = "acc + a * b"});
  assert_non_null(m);
  assert_non_null(op);
  assert_non_null(sums);
  assert_int_equal(zm_patch_with(m, &(zm_own_pattern){.name = "x", .operands = 2, .op = op}, 1, NULL), ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "pattern x"));
  assert_int_equal(zm_patch_with(m, &(zm_own_pattern){.name = "x", .replaces = gated, .operands = 17, .op = op}, 1, NULL),
                   ZM_ERROR_ARGUMENT);
  assert_int_equal(zm_patch_with(m, &(zm_own_pattern){.name = "x", .replaces = gated, .operands = 2, .op = sums}, 1, NULL),
                   ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "where the model has"));
  assert_int_equal(zm_patch_with(m, NULL, 1, NULL), ZM_ERROR_ARGUMENT);
  assert_int_equal(zm_patch_with(NULL, NULL, 0, NULL), ZM_ERROR_ARGUMENT);
  assert_int_equal(zm_patch_with(m, NULL, 0, NULL), ZM_OK);
  zm_op_free(op);
  zm_op_free(sums);
  zm_model_close(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(kernels_in_models_keep_every_bit), cmocka_unit_test(bad_patterns_are_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
