// Calls whose operands and results are larger than the caches ask for memory ahead and store past the caches: the bits are those of small
// ones.
#include "kernel/kernel.h"
#include "play.h"

#include <stdlib.h>
#include <zmlx/catalog.h>
#include <zmlx/ops.h>

// Numbers of both signs, some NaN and infinite ones, of any float dtype.
static zm_array *numbers(zm_dtype dtype, const int64_t *shape, int rank, uint32_t seed) {
  zmi_type type = zmi_type_of(ZM_F32, rank, shape);
  const int64_t n = zmi_type_count(&type);
  float *x = zmi_malloc((size_t)n * sizeof *x + 1);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++) {
    seed = seed * 1664525u + 1013904223u;
    x[i] = ((float)(seed >> 8) - 8388608.0f) * 0x1p-21f;
    if (seed >> 20 == 77) x[i] = seed & 0x80000u ? NAN : -INFINITY;
  }
  zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, shape, rank), dtype);
  zmi_free(x);
  return a;
}

enum { HEADS = 37, PLACES = 20, ROWS = 9 };

static zm_array *rope(zm_dtype dtype, int64_t d, int way) {
  zm_array *x = numbers(dtype, (int64_t[]){3, PLACES, HEADS, d}, 4, 1), *c = numbers(ZM_F32, (int64_t[]){PLACES, d / 2}, 2, 2),
           *s = numbers(ZM_F32, (int64_t[]){PLACES, d / 2}, 2, 3);
  return way == 0 ? zm_apply_gqa_rope(x, c, s, 1)
                  : (way == 1 ? zm_apply_rope : zm_apply_rope_interleaved)(zm_transpose(x, (int[]){0, 2, 1, 3}), c, s);
}

static zm_array *combine(zm_dtype dtype, int64_t d, int way) {
  static zm_array *(*const all[])(zm_array *, zm_array *) = {zm_moe_combine, zm_moe_combine_exact, zm_moe_combine_fp32};
  return all[way](numbers(dtype, (int64_t[]){ROWS, 5, d * 19}, 3, 4), numbers(dtype, (int64_t[]){ROWS, 5}, 2, 5));
}

// Forwards, backwards and exclusive, and along an axis that is not the last.
static zm_array *running(zm_dtype dtype, int64_t d, int way) {
  zm_array *x = numbers(dtype, (int64_t[]){ROWS, d * 29 + 3}, 2, 6);
  return zm_cumsum(x, way == 2 ? 0 : -1, way == 1, way != 1);
}

static const struct subject {
  const char *name;
  zm_array *(*make)(zm_dtype dtype, int64_t d, int way);
} subjects[] = {{"rope", rope}, {"combine", combine}, {"running sums", running}};

static void bits_are_those_of_small_calls(void **state) {
  static const int64_t heads[] = {6, 64, 120};
  (void)state;
  for (size_t k = 0; k < ZMI_COUNT(subjects); k++) {
    for (int each = 0; each < 3 * 3 * 3; each++) {
      const zm_dtype dtype = (zm_dtype[]){ZM_F32, ZM_F16, ZM_BF16}[each / 9];
      zm_scope *scope = zm_scope_open();
      void *result[2];
      size_t bytes = 0;
      for (int large = 0; large < 2; large++) {
        zm_array *y = subjects[k].make(dtype, heads[each / 3 % 3], each % 3);
        if (!y) fail_msg("%s: %s", subjects[k].name, zm_last_error());
        zmi_cache_bytes_assume(large ? 1 : UINT64_MAX);
        result[large] = play_everywhere(subjects[k].name, y);
        assert_true(zmi_type_bytes(&y->type, &bytes));
      }
      zmi_cache_bytes_assume(0);
      if (memcmp(result[0], result[1], bytes) != 0) fail_msg("%s, case %d: other bits past the caches", subjects[k].name, each);
      for (int large = 0; large < 2; large++) zmi_free(result[large]);
      zm_scope_close(scope);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(bits_are_those_of_small_calls)};
  if (play_open() != 0) return 1;
  int failed = cmocka_run_group_tests_name("past", tests, NULL, NULL);
  play_close();
  return failed;
}
