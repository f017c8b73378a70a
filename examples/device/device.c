// Arrays on a GPU where there is one, else on the CPU: the same program, the same bits. Prints where it ran and what it found.
#include <stdio.h>
#include <zmlx/zmlx.h>

enum { COUNT = 1000, TURNS = 200 };

// Numbers between 0 and 1 go through x -> r x (1 - x) again and again, each with an r of its own; how many of them come to rest?
static zm_array *at_rest(zm_op *step) {
  zm_array *r = zm_linspace(2.5, 4, COUNT, ZM_F32), *x = zm_full(0.4, ZM_F32, (int64_t[]){COUNT}, 1);
  if (zm_eval(&r, 1) != ZM_OK) return NULL; // once, not in each turn
  for (int i = 0; i < TURNS; i++) {
    x = zm_op_apply1(step, x, r, NULL);
    if (zm_eval(&x, 1) != ZM_OK) return NULL; // its values stay where they are made
  }
  zm_array *moved = zm_abs(zm_subtract(zm_op_apply1(step, x, r, NULL), x));
  return zm_sum(zm_astype(zm_less(moved, zm_full(1e-6, ZM_F32, NULL, 0)), ZM_F32), 0, false);
}

int main(void) {
  zm_scope *scope = zm_scope_open();
  zm_op *step = zm_elementwise("r * x * (1 - x)", &(zm_elementwise_options){.name = "logistic", .inputs = "x r"});
  if (zm_set_device(ZM_DEVICE_CUDA) != ZM_OK) printf("%s\n", zm_last_error()); // the CPU stays the device
  zm_clear_error();
  zm_array *count = step ? at_rest(step) : NULL;
  const double found = count ? zm_array_item(count) : 0;
  const zm_device_use use = zm_device_usage();
  const int failed = zm_last_status() != ZM_OK;
  if (failed)
    fprintf(stderr, "%s\n", zm_last_error());
  else
    printf("%g of %d come to rest, says the %s\n", found, COUNT, zm_get_device() == ZM_DEVICE_CUDA ? "GPU" : "CPU");
  if (use.on_device)
    printf("%llu operations on the GPU, %llu on the CPU for it\n", (unsigned long long)use.on_device, (unsigned long long)use.on_cpu);
  zm_op_free(step);
  zm_scope_close(scope);
  return failed;
}
