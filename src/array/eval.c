// Evaluation of lazy arrays: on the CPU with all its threads, or on a GPU (on_device.c).
#include "array/array.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

// The default device, made at the first evaluation. Besides the thread's last error this is the library's only mutable global.
static struct {
  pthread_mutex_t lock;
  zmi_pool *pool;
  const zmi_kernels *kernels;
} device = {.lock = PTHREAD_MUTEX_INITIALIZER};

__attribute__((destructor)) static void close_device(void) {
  zmi_pool_free(device.pool);
  device.pool = NULL;
}

zm_status zmi_device(zmi_pool **pool, const zmi_kernels **kernels) {
  zm_status status = ZM_OK;
  pthread_mutex_lock(&device.lock);
  if (!device.kernels) device.kernels = zmi_kernels_find(NULL);
  if (!device.kernels) status = zm_last_status();
  if (status == ZM_OK && !device.pool) {
    device.pool = zmi_pool_new(0); // ZMLX_THREADS or one for each CPU
    if (!device.pool) status = zm_last_status();
  }
  *pool = device.pool;
  *kernels = device.kernels;
  pthread_mutex_unlock(&device.lock);
  return status;
}

static void settle(zmi_program *p, zm_array *const *wanted, size_t count) {
  for (size_t i = 0; i < count; i++) zmi_array_settle(wanted[i], zmi_program_values(p, i));
}

// Names of outputs, "0", "1", ...: `text` holds them.
enum { NAME = 24, FEW = 8 };

static zm_status evaluate(zm_array **wanted, size_t count) {
  zmi_pool *pool;
  const zmi_kernels *kernels;
  const bool there = zmi_on_device();
  zm_status status = zmi_device(&pool, &kernels);
  if (status != ZM_OK || (!there && zmi_evaluate_directly(wanted, count, kernels, &status))) return status;
  char few_text[FEW][NAME], (*text)[NAME] = few_text;
  const char *few_names[FEW], **names = few_names;
  zmi_program *p = NULL;
  if (count > FEW) {
    text = zmi_calloc(count, sizeof *text);
    names = zmi_calloc(count, sizeof *names);
    if (!text || !names) status = ZM_ERROR_MEMORY;
  }
  for (size_t i = 0; i < count && status == ZM_OK; i++) {
    snprintf(text[i], sizeof text[i], "%zu", i);
    names[i] = text[i];
  }
  if (status == ZM_OK) {
    p = zmi_compile(wanted, names, count, &(zmi_compile_options){.kernels = kernels, .apart = true, .there = there});
    status = p ? zmi_program_begin(p) : zm_last_status();
  }
  if (status == ZM_OK) status = zmi_program_play(p, pool);
  if (status == ZM_OK) settle(p, wanted, count);
  zmi_program_free(p);
  if (names != few_names) zmi_free(names);
  if (text != few_text) zmi_free(text);
  return status;
}

zm_status zm_eval(zm_array *const *arrays, size_t count) {
  zm_array *few[FEW], **wanted = count > FEW ? zmi_calloc(count, sizeof *wanted) : few;
  if (!wanted) return ZM_ERROR_MEMORY;
  size_t n = 0;
  zm_status status = ZM_OK;
  for (size_t i = 0; i < count && status == ZM_OK; i++) {
    if (!arrays[i])
      status = zm_last_status() != ZM_OK ? zm_last_status() : zmi_fail(ZM_ERROR_ARGUMENT, "zm_eval: array %zu is NULL", i);
    else if (arrays[i]->node && !zmi_has_values(arrays[i]))
      wanted[n++] = arrays[i];
    else if (arrays[i]->node && !zmi_is_traced(arrays[i]))
      zmi_array_forget(arrays[i]); // evaluated inside a trace that is over
    else if (arrays[i]->leaf == ZMI_LEAF_PLACEHOLDER)
      status = zmi_fail(ZM_ERROR_ARGUMENT,
                        "an input of a function under %s cannot be evaluated inside it: its values are not there yet; "
                        "choose with operations (zm_where) instead of branches",
                        arrays[i]->name);
    else if (!zmi_has_values(arrays[i]))
      status = zmi_fail(ZM_ERROR_ARGUMENT, "zm_eval: array %zu has neither data nor an op that makes it", i);
  }
  // The same array twice would be settled twice.
  for (size_t i = 0; i < n; i++) {
    wanted[i]->mark = 0;
  }
  size_t unique = 0;
  for (size_t i = 0; i < n; i++) {
    if (wanted[i]->mark == 0) {
      wanted[i]->mark = 1;
      wanted[unique++] = wanted[i];
    }
  }
  if (status == ZM_OK && unique > 0) status = evaluate(wanted, unique);
  if (wanted != few) zmi_free(wanted);
  return status;
}

const void *zm_array_data(zm_array *a) {
  return zm_eval(&a, 1) == ZM_OK && zmi_fetch(a) == ZM_OK ? a->data : NULL;
}

double zm_array_item(zm_array *a) {
  if (a && zm_array_size(a) != 1) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_array_item: the array has %lld elements, not one", (long long)zm_array_size(a));
    return 0;
  }
  const void *data = zm_array_data(a);
  if (!data) return 0;
  switch (a->type.dtype) {
  case ZM_BOOL:
  case ZM_U8:
    return *(const uint8_t *)data;
  case ZM_U16:
    return *(const uint16_t *)data;
  case ZM_U32:
    return *(const uint32_t *)data;
  case ZM_U64:
    return (double)*(const uint64_t *)data;
  case ZM_I8:
    return *(const int8_t *)data;
  case ZM_I16:
    return *(const int16_t *)data;
  case ZM_I32:
    return *(const int32_t *)data;
  case ZM_I64:
    return (double)*(const int64_t *)data;
  case ZM_F16:
    return zmi_f16_to_f32(*(const uint16_t *)data);
  case ZM_BF16:
    return zmi_bf16_to_f32(*(const uint16_t *)data);
  default:
    return *(const float *)data;
  }
}
