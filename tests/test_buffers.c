// Buffers of arrays and programs whose results are apart: what is given back is used again, limits hold, nothing is lost.
#include "play.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmlx/memory.h>

static void sizes_are_rounded_little_and_reused(void **state) {
  (void)state;
  zm_memory_clear_cache();
  for (size_t size = 0; size < (size_t)40 << 20; size = size + size / 3 + 1) {
    const uint64_t before = zm_memory_active();
    void *p = zmi_buffer_alloc(size);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    const uint64_t bytes = zm_memory_active() - before;
    assert_true(bytes >= size && bytes >= 64 && bytes <= 64 + size + size / 4);
    if (size) memset(p, 0x5a, size);
    zmi_buffer_free(p, size);
    assert_int_equal(zm_memory_active(), before);
    assert_true(zm_memory_cache() >= bytes);
    void *again = zmi_buffer_alloc(size);
    assert_ptr_equal(again, p); // the newest of its size
    zmi_buffer_free(again, size);
  }
  assert_null(zmi_buffer_alloc(SIZE_MAX));
  assert_null(zmi_buffer_alloc(SIZE_MAX / 2 + 2));
  zmi_buffer_free(NULL, 100);
  zm_memory_clear_cache();
  assert_int_equal(zm_memory_cache(), 0);
}

static void the_oldest_go_first(void **state) {
  (void)state;
  zm_memory_clear_cache();
  const uint64_t old = zm_memory_set_cache_limit(3000);
  void *p[4];
  for (int i = 0; i < 4; i++) p[i] = zmi_buffer_alloc(1024);
  for (int i = 0; i < 4; i++) zmi_buffer_free(p[i], 1024);
  assert_int_equal(zm_memory_cache(), 2048);
  void *a = zmi_buffer_alloc(1024), *b = zmi_buffer_alloc(1024);
  assert_ptr_equal(a, p[3]);
  assert_ptr_equal(b, p[2]);
  zmi_buffer_free(a, 1024);
  zmi_buffer_free(b, 1024);
  zmi_buffer_free(zmi_buffer_alloc(4000), 4000); // more than may be kept at all
  assert_int_equal(zm_memory_cache(), 2048);
  assert_int_equal(zm_memory_set_cache_limit(1500), 3000);
  assert_int_equal(zm_memory_cache(), 1024);
  zm_memory_set_cache_limit(0);
  assert_int_equal(zm_memory_cache(), 0);
  zm_memory_set_cache_limit(old);
}

static void the_limit_holds(void **state) {
  (void)state;
  zm_memory_clear_cache();
  const uint64_t active = zm_memory_active();
  assert_int_equal(zm_memory_set_limit(active + 10000), 0);
  void *p = zmi_buffer_alloc(8192);
  assert_non_null(p);
  assert_null(zmi_buffer_alloc(4096));
  assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
  assert_non_null(strstr(zm_last_error(), "zm_memory_set_limit"));
  zmi_buffer_free(p, 8192);
  p = zmi_buffer_alloc(4096); // what is kept gives way
  assert_non_null(p);
  assert_int_equal(zm_memory_cache(), 0);
  zmi_buffer_free(p, 4096);
  assert_int_equal(zm_memory_set_limit(0), active + 10000);
  zm_memory_reset_peak();
  assert_int_equal(zm_memory_peak(), zm_memory_active());
  zmi_buffer_free(zmi_buffer_alloc(1 << 20), 1 << 20);
  assert_int_equal(zm_memory_peak(), zm_memory_active() + (1 << 20));
}

static void evaluation_gives_everything_back(void **state) {
  (void)state;
  const uint64_t before = zm_memory_active();
  uint64_t held = 0;
  for (int round = 0; round < 3; round++) {
    zm_scope *scope = zm_scope_open();
    zm_array *a = zm_full(2, ZM_F32, (int64_t[]){300, 1000}, 2), *b = zm_add(zm_multiply(a, a), a),
             *flat = zm_reshape(b, (int64_t[]){-1}, 1);
    assert_int_equal(zm_eval((zm_array *[]){flat, a, flat}, 3), ZM_OK);
    const float *x = zm_array_data(flat);
    for (int i = 0; i < 300000; i++) assert_true(x[i] == 6);
    zm_array *empty = zm_add(zm_full(0, ZM_F32, (int64_t[]){0, 3}, 2), zm_full(0, ZM_F32, (int64_t[]){1, 3}, 2));
    assert_non_null(zm_array_data(empty));
    zm_scope_close(scope);
    assert_int_equal(zm_memory_active(), before);
    if (round == 1) held = zm_memory_cache();
    if (round == 2) assert_int_equal(zm_memory_cache(), held); // no fresh memory in the steady state
  }
}

// One program, fed twice: the second play gives results of its own.
static void programs_are_fed(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zmi_type type = zmi_type_of(ZM_F32, 2, (int64_t[]){2, 3});
  zm_array *x = zmi_input("x", &type), *y = zm_add(x, x), *z = zm_transpose(zm_exp(y), NULL);
  const char *names[] = {"y", "z", "x again", "y flat"};
  zmi_program *p = zmi_compile((zm_array *[]){y, z, x, zm_reshape(y, (int64_t[]){6}, 1)}, names, 4, &(zmi_compile_options){.apart = true});
  assert_non_null(p);
  zmi_text first = {0}, second = {0};
  assert_int_equal(zmi_tape_print(zmi_program_tape(p), &first), ZM_OK);
  assert_non_null(strstr(zmi_text_str(&first), " apart \"y\""));
  zmi_tape *again = zmi_tape_parse(first.data, first.size, zmi_op_find);
  assert_non_null(again);
  assert_int_equal(zmi_tape_print(again, &second), ZM_OK);
  assert_string_equal(zmi_text_str(&first), zmi_text_str(&second));
  zmi_tape_free(again);
  zmi_text_release(&first);
  zmi_text_release(&second);
  zmi_pool *pool = zmi_pool_new(2);
  const float in[2][6] = {{1, 2, 3, 4, 5, 6}, {-1, -2, -3, -4, -5, -6}};
  float *out[2][4];
  for (int k = 0; k < 2; k++) {
    assert_int_equal(zmi_program_feed(p, "x", in[k]), ZM_OK);
    assert_int_equal(zmi_program_begin(p), ZM_OK);
    zmi_program_play(p, pool);
    for (size_t o = 0; o < 4; o++) assert_non_null(out[k][o] = zmi_program_take(p, o));
    assert_null(zmi_program_take(p, 0));
    assert_null(zmi_program_take(p, 4));
    zmi_program_end(p);
  }
  for (int k = 0; k < 2; k++) {
    for (int i = 0; i < 6; i++) {
      assert_true(out[k][0][i] == 2 * in[k][i] && out[k][2][i] == in[k][i] && out[k][3][i] == 2 * in[k][i]);
      assert_true(out[k][1][i % 3 * 2 + i / 3] == zmi_expf(2 * in[k][i]));
    }
    for (int o = 0; o < 4; o++) zmi_buffer_free(out[k][o], sizeof in[0]);
  }
  assert_int_equal(zmi_program_feed(p, "nothing", in), ZM_ERROR_ARGUMENT);
  assert_int_equal(zmi_program_begin(p), ZM_OK); // and nobody takes anything
  zmi_program_free(p);
  zmi_pool_free(pool);
  zm_scope_close(scope);
}

static void *churn(void *user) {
  unsigned seed = (unsigned)(uintptr_t)user;
  for (int i = 0; i < 2000; i++) {
    seed = seed * 1664525u + 1013904223u;
    size_t size = 1 + (seed >> 12) % 5000;
    unsigned char *p = zmi_buffer_alloc(size);
    if (!p) return "no memory";
    memset(p, (int)(seed & 255), size);
    for (size_t k = 0; k < size; k++) {
      if (p[k] != (seed & 255)) return "shared";
    }
    zmi_buffer_free(p, size);
    if (i % 500 == 0) zm_memory_clear_cache();
  }
  return NULL;
}

static void threads_share_it(void **state) {
  (void)state;
  pthread_t threads[4];
  for (uintptr_t i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
  for (int i = 0; i < 4; i++) {
    void *complaint;
    pthread_join(threads[i], &complaint);
    assert_null(complaint);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sizes_are_rounded_little_and_reused), cmocka_unit_test(the_oldest_go_first), cmocka_unit_test(the_limit_holds),
      cmocka_unit_test(evaluation_gives_everything_back),    cmocka_unit_test(programs_are_fed),    cmocka_unit_test(threads_share_it),
  };
  return cmocka_run_group_tests_name("buffers", tests, NULL, NULL);
}
