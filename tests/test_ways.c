// Ways of an operation that are taken where they are fast give the bits of the plain one: whole words of truth values, tables of nibbles.
#include "play.h"

#include <stdio.h>
#include <stdlib.h>
#include <zmlx/catalog.h>

static void bits_of_any_number_of_bytes(void **state) {
  (void)state;
  uint8_t x[8 * 300], want[300];
  for (int i = 0; i < 8 * 300; i++) x[i] = (uint8_t)((unsigned)i * 2654435761u >> 13) & (i % 3 ? 0x81u : 0u);
  for (int64_t n = 0; n < 300; n += n < 40 ? 1 : 37) {
    zm_scope *scope = zm_scope_open();
    const int64_t shape[1] = {8 * n + 3}, start[1] = {3};
    zm_array *all = zm_array_from_data(x, ZM_U8, shape, 1), *part = zm_slice(all, start, shape, NULL); // at an odd address
    for (int64_t b = 0; b < n; b++) {
      want[b] = 0;
      for (int i = 0; i < 8; i++) want[b] = (uint8_t)(want[b] | (x[3 + 8 * b + i] != 0) << i);
    }
    zm_array *packed = zm_pack_bits(part), *back = zm_unpack_bits(packed);
    const uint8_t *p = play_everywhere("pack_bits", packed), *q = play_everywhere("unpack_bits", back);
    assert_memory_equal(p, want, (size_t)n);
    for (int64_t i = 0; i < 8 * n; i++) assert_int_equal(q[i], x[3 + i] != 0);
    zmi_free((void *)(uintptr_t)p);
    zmi_free((void *)(uintptr_t)q);
    zm_scope_close(scope);
  }
}

static void nibbles_by_table(void **state) {
  (void)state;
  uint8_t x[256];
  const float scale = -0.37f;
  for (int i = 0; i < 256; i++) x[i] = (uint8_t)i;
  zm_scope *scope = zm_scope_open();
  zm_array *q = zm_array_from_data(x, ZM_U8, (int64_t[]){256}, 1), *s = zm_array_from_data(&scale, ZM_F32, (int64_t[]){1}, 1);
  const float *y = play_everywhere("dequantize_int4", zm_dequantize_int4(q, s));
  for (int i = 0; i < 256; i++) {
    for (int half = 0; half < 2; half++) {
      const int code = half ? i >> 4 : i & 15;
      const float want = (float)(code < 8 ? code : code - 16) * scale;
      assert_memory_equal(&y[2 * i + half], &want, sizeof want); // the sign of zero too
    }
  }
  zmi_free((void *)(uintptr_t)y);
  zm_scope_close(scope);
}

static int open_all(void **state) {
  (void)state;
  return play_open();
}

static int close_all(void **state) {
  (void)state;
  play_close();
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bits_of_any_number_of_bytes),
      cmocka_unit_test(nibbles_by_table),
  };
  return cmocka_run_group_tests(tests, open_all, close_all);
}
