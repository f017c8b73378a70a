// Plays an array on every CPU tier with 1, 2 and 3 workers and insists on the same bits each time.
#ifndef ZMLX_TEST_PLAY_H
#define ZMLX_TEST_PLAY_H

#include "array/array.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static zmi_pool *play_pools[3];

static inline int play_open(void) {
  for (int i = 0; i < 3; i++) {
    if (!(play_pools[i] = zmi_pool_new(i + 1))) return -1;
  }
  return 0;
}

static inline void play_close(void) {
  for (int i = 0; i < 3; i++) zmi_pool_free(play_pools[i]);
}

// Which NaN a float32 result is, is not part of the promise (docs/numerics.md): all become one.
static inline void play_one_nan(void *data, const zmi_type *type) {
  float *x = data;
  for (int64_t i = 0; type->dtype == ZM_F32 && i < zmi_type_count(type); i++) x[i] = isnan(x[i]) ? NAN : x[i];
}

// The values of y, from zmi_malloc. `what` is for messages.
static inline void *play_everywhere(const char *what, zm_array *y) {
  const char *name = "y";
  size_t bytes;
  if (!y) fail_msg("%s: %s", what, zm_last_error());
  assert_true(zmi_type_bytes(&y->type, &bytes));
  void *result = NULL;
  for (size_t t = 0; t < zmi_tier_count(); t++) {
    if (!zmi_tier_supported(t, NULL)) continue;
    zmi_program *p = zmi_compile(&y, &name, 1, &(zmi_compile_options){.kernels = zmi_tier(t)});
    if (!p) fail_msg("%s: %s", what, zm_last_error());
    void *slot = zmi_program_slot(p, name);
    for (int w = 0; w < 3; w++) {
      memset(slot, 0xa5, bytes);
      zmi_program_play(p, play_pools[w]);
      play_one_nan(slot, &y->type);
      if (!result) {
        result = zmi_malloc(bytes + 1);
        assert_non_null(result);
        memcpy(result, slot, bytes);
      }
      if (memcmp(result, slot, bytes) != 0) fail_msg("%s: other bits on tier %s with %d workers", what, zmi_tier(t)->name, w + 1);
    }
    zmi_program_free(p);
  }
  return result;
}

#endif
