// Small graphs that are evaluated without a tape: the values are those of a tape, whatever the graph is made of, and nothing is lost when
// memory is short.
#include "play.h"

#include <stdio.h>
#include <stdlib.h>
#include <zmlx/memory.h>
#include <zmlx/ops.h>
#include <zmlx/transform.h>

enum { MOST = 4 };

static zm_array *a, *b, *places;

// Graphs: each fills out[] and gives the number of results.
static int one_node(zm_array **out) {
  out[0] = zm_add(a, b);
  return 1;
}

static int chain(zm_array **out) {
  out[0] = a;
  for (int i = 0; i < 10; i++) out[0] = zm_multiply(zm_add(out[0], b), a);
  return out[0] ? 1 : 0;
}

static int views(zm_array **out) { // of a result, of an operand; an operation that wants its operand without gaps
  zm_array *t = zm_transpose(zm_add(a, b), NULL);
  out[0] = t;
  out[1] = zm_transpose(a, NULL);
  out[2] = zm_softmax(t);
  out[3] = zm_reshape(t, (int64_t[]){6, -1}, 2); // no view of what lies across: a copy
  return 4;
}

static int steps(zm_array **out) {
  out[0] = zm_slice(zm_multiply(a, b), (int64_t[]){11, 23}, (int64_t[]){2, 1}, (int64_t[]){-3, -4});
  out[1] = zm_matmul(zm_slice(a, (int64_t[]){0, 0}, (int64_t[]){12, 24}, (int64_t[]){2, 2}),
                     zm_transpose(zm_slice(b, (int64_t[]){0, 12}, (int64_t[]){12, 24}, NULL), NULL));
  return 2;
}

static int several_results(zm_array **out) {
  out[0] = zm_topk(a, 5, -1, &out[1]);
  out[2] = zm_stop_gradient(zm_sum(a, 0, false));
  out[3] = zm_sum(out[2], 0, false);
  return 4;
}

static int shared(zm_array **out) { // one value wanted by several names
  out[0] = zm_exp(a);
  out[1] = zm_stop_gradient(out[0]);
  out[2] = zm_reshape(out[0], (int64_t[]){-1}, 1);
  out[3] = zm_take(out[0], places);
  return 4;
}

static int nothing(zm_array **out) {
  out[0] = zm_sum(zm_slice(a, (int64_t[]){3, 0}, (int64_t[]){3, 24}, NULL), 0, false);
  out[1] = zm_multiply(zm_slice(a, (int64_t[]){3, 0}, (int64_t[]){3, 24}, NULL), zm_full(2, ZM_F32, NULL, 0));
  return 2;
}

static int (*const graphs[])(zm_array **out) = {one_node, chain, views, steps, several_results, shared, nothing};

// The values by a tape.
static void expected(int (*graph)(zm_array **), void **data, size_t *bytes) {
  static const char *const names[MOST] = {"0", "1", "2", "3"};
  zm_array *out[MOST] = {NULL};
  zm_scope *scope = zm_scope_open();
  const int n = graph(out);
  zmi_program *p = zmi_compile(out, names, (size_t)n, NULL);
  if (!p) fail_msg("%s", zm_last_error());
  zmi_program_play(p, play_pools[1]);
  for (int i = 0; i < n; i++) {
    assert_true(zmi_type_bytes(&out[i]->type, &bytes[i]));
    data[i] = malloc(bytes[i] + 1);
    assert_non_null(data[i]);
    if (bytes[i]) memcpy(data[i], zmi_program_slot(p, names[i]), bytes[i]);
  }
  zmi_program_free(p);
  zm_scope_close(scope);
}

static const zmi_kernels *best(void) {
  return zmi_kernels_find(NULL);
}

static void values_are_those_of_a_tape(void **state) {
  (void)state;
  for (size_t g = 0; g < ZMI_COUNT(graphs); g++) {
    void *data[MOST];
    size_t bytes[MOST];
    expected(graphs[g], data, bytes);
    const uint64_t before = zm_memory_active();
    zm_array *out[MOST] = {NULL};
    zm_scope *scope = zm_scope_open();
    const int n = graphs[g](out);
    zm_status status = ZM_ERROR_ARGUMENT;
    if (!zmi_evaluate_directly(out, (size_t)n, best(), &status)) fail_msg("graph %zu is small", g);
    assert_int_equal(status, ZM_OK);
    for (int i = 0; i < n; i++) {
      assert_null(out[i]->node);
      if (bytes[i] && memcmp(out[i]->data, data[i], bytes[i]) != 0) fail_msg("graph %zu: other values of result %d", g, i);
      for (int k = 0; k < i; k++) assert_ptr_not_equal(out[i]->data, out[k]->data);
      free(data[i]);
    }
    zm_scope_close(scope);
    assert_int_equal(zm_memory_active(), before);
  }
}

static void failing_memory_loses_nothing(void **state) {
  (void)state;
  for (size_t g = 0; g < ZMI_COUNT(graphs); g++) {
    const uint64_t before = zm_memory_active();
    for (uint64_t at = 1;; at++) {
      zm_array *out[MOST] = {NULL};
      zm_scope *scope = zm_scope_open();
      const int n = graphs[g](out);
      zm_status status = ZM_OK;
      zm_memory_clear_cache(); // each buffer is an allocation
      zmi_alloc_fail_at(at);
      assert_true(zmi_evaluate_directly(out, (size_t)n, best(), &status));
      zmi_alloc_fail_at(0);
      assert_true(status == ZM_OK || status == ZM_ERROR_MEMORY);
      if (status != ZM_OK) assert_int_equal(zm_eval(out, (size_t)n), ZM_OK); // as if nothing had been tried
      zm_scope_close(scope);
      assert_int_equal(zm_memory_active(), before);
      if (status == ZM_OK) break;
      assert_true(at < 100);
    }
  }
}

static void large_ones_are_left_to_tapes(void **state) {
  (void)state;
  zm_status status;
  zm_scope *scope = zm_scope_open();
  zm_array *many = a, *large = zm_zeros(ZM_F32, (int64_t[]){128, 256}, 2), *sum = zm_add(large, zm_full(1, ZM_F32, NULL, 0));
  for (int i = 0; i < 100; i++) many = zm_add(many, b);
  zm_array *wide = zm_sum(large, -1, false);
  assert_false(zmi_evaluate_directly(&many, 1, best(), &status));
  assert_false(zmi_evaluate_directly(&sum, 1, best(), &status));
  assert_false(zmi_evaluate_directly(&wide, 1, best(), &status));
  float stored[4] = {1, 2, 3, 4};
  zm_array *cache = zmi_state("cache", &(zmi_type){.dtype = ZM_F32, .rank = 1, .shape = {4}}, stored), *of_state = zm_exp(cache);
  assert_false(zmi_evaluate_directly(&of_state, 1, best(), &status));
  zm_array *all[] = {many, sum, wide};
  assert_int_equal(zm_eval(all, 3), ZM_OK);
  assert_true(((const float *)zm_array_data(sum))[77] == 1.0f);
  zm_scope_close(scope);
}

// A product does more with its memory than others: of little work it may be larger, and a view before it; nothing else beside it may.
static void products_of_little_work(void **state) {
  (void)state;
  zm_status status;
  zm_scope *scope = zm_scope_open();
  zm_array *x = zm_full(0.5, ZM_F32, (int64_t[]){64, 256}, 2), *w = zm_full(3, ZM_F32, (int64_t[]){64, 256}, 2), *in[] = {x, w};
  assert_int_equal(zm_eval(in, 2), ZM_OK);
  zm_array *turned = zm_transpose(w, NULL), *y = zm_matmul(x, turned), *more = zm_matmul(zm_concatenate(in, 2, 0), turned);
  zm_array *added = zm_add(zm_matmul(x, turned), zm_full(1, ZM_F32, NULL, 0)), *alone = zm_transpose(x, NULL);
  assert_true(zmi_evaluate_directly(&y, 1, best(), &status) && status == ZM_OK);
  for (int i = 0; i < 64 * 64; i++) assert_true(((const float *)zm_array_data(y))[i] == 384.0f);
  assert_false(zmi_evaluate_directly(&more, 1, best(), &status));
  assert_false(zmi_evaluate_directly(&added, 1, best(), &status));
  assert_false(zmi_evaluate_directly(&alone, 1, best(), &status));
  zm_array *all[] = {more, added, alone};
  assert_int_equal(zm_eval(all, 3), ZM_OK);
  assert_true(((const float *)zm_array_data(more))[128 * 64 - 1] == 2304.0f && ((const float *)zm_array_data(added))[9] == 385.0f);
  zm_scope_close(scope);
}

static int open_all(void **state) {
  (void)state;
  float x[12 * 24], y[12 * 24];
  for (int i = 0; i < 12 * 24; i++) {
    x[i] = (float)(i * 37 % 101) / 16.0f - 3.0f;
    y[i] = (float)(i * 53 % 89) / 32.0f - 1.0f;
  }
  zm_scope_open(); // until the end
  a = zm_array_from_data(x, ZM_F32, (int64_t[]){12, 24}, 2);
  b = zm_array_from_data(y, ZM_F32, (int64_t[]){12, 24}, 2);
  places = zm_array_from_data((int32_t[]){3, 0, 11, 40}, ZM_I32, (int64_t[]){4}, 1);
  return a && b && places ? play_open() : -1;
}

static int close_all(void **state) {
  (void)state;
  play_close();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values_are_those_of_a_tape),
      cmocka_unit_test(failing_memory_loses_nothing),
      cmocka_unit_test(large_ones_are_left_to_tapes),
      cmocka_unit_test(products_of_little_work),
  };
  return cmocka_run_group_tests(tests, open_all, close_all);
}
