// Where the states of sessions live, and what executors of a GPU are called.
#include "backend/backend.h"

#include <string.h>

// ---- the host ----

static zm_status get_block(zmi_cuda *d, size_t bytes, const char *what, void **at) {
  (void)d, (void)what;
  *at = zmi_block_alloc(bytes);
  return *at ? ZM_OK : ZM_ERROR_MEMORY;
}

static void give_block_back(zmi_cuda *d, void *at, size_t bytes) {
  (void)d;
  if (at) zmi_block_free(at, bytes);
}

static zm_status copy_bytes(zmi_cuda *d, void *to, const void *from, size_t bytes) {
  (void)d;
  memcpy(to, from, bytes);
  return ZM_OK;
}

// ---- a device ----

static zm_status get_there(zmi_cuda *d, size_t bytes, const char *what, void **at) {
  zmi_gpu_address address = 0;
  zm_status status = zmi_device_alloc(d, bytes, what, &address);
  *at = (void *)(uintptr_t)address;
  return status;
}

static void give_back_there(zmi_cuda *d, void *at, size_t bytes) {
  (void)bytes;
  zmi_device_free(d, zmi_gpu_at(at));
}

static zm_status copy_there(zmi_cuda *d, void *to, const void *from, size_t bytes) {
  return zmi_device_copy(d, zmi_gpu_at(to), zmi_gpu_at(from), bytes);
}

static uint64_t not_known(void) {
  return 0;
}

const zmi_home *zmi_home_of(const zmi_cuda *d) {
  static const zmi_home host = {get_block, give_block_back, copy_bytes, zmi_memory_available, false};
  static const zmi_home there = {get_there, give_back_there, copy_there, not_known, true};
  return d ? &there : &host;
}

// ---- executors ----

#define NAME(constant, name) [ZMI_EXECUTOR_##constant] = name,
static const char *const names[ZMI_EXECUTOR_COUNT] = {ZMI_EXECUTORS(NAME, NAME)};
#undef NAME

const char *zmi_executor_name(zmi_executor executor) {
  return names[executor];
}

zmi_executor zmi_executor_find(const char *name) {
  int i = 0;
  while (i < ZMI_EXECUTOR_COUNT && strcmp(names[i], name) != 0) i++;
  return (zmi_executor)i;
}
