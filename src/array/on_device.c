// Arrays on a GPU: the choice of a device, and where values are. An array has its values in memory of the host, in that of the GPU, or in
// both; they never change, so a copy stays good. The GPU is taken at the first choice and kept until the process ends.
#include "array/on_device.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static struct {
  pthread_mutex_t lock; // of all that follows but the choice
  zmi_cuda *gpu;
  uint64_t opened; // counted: memory of an earlier opening is gone
  zmi_there_counts counts;
  _Atomic int chosen;
} there = {.lock = PTHREAD_MUTEX_INITIALIZER};

// ---- the choice ----

static zm_status open_gpu(void) {
  if (there.gpu && zmi_device_is_broken(there.gpu)) {
    zmi_device_close(there.gpu);
    there.gpu = NULL;
  }
  if (there.gpu) return ZM_OK;
  there.gpu = zmi_device_take();
  there.opened += there.gpu != NULL;
  return there.gpu ? ZM_OK : zm_last_status();
}

zm_status zm_set_device(zm_device device) {
  zm_status status = ZM_OK;
  if (device != ZM_DEVICE_CPU && device != ZM_DEVICE_CUDA)
    return zmi_fail(ZM_ERROR_ARGUMENT, "zm_set_device: %d is no device", (int)device);
  pthread_mutex_lock(&there.lock);
  if (device == ZM_DEVICE_CUDA)
    status = open_gpu();
  else if (there.gpu)
    zmi_device_forget(there.gpu);
  pthread_mutex_unlock(&there.lock);
  if (status == ZM_OK) atomic_store(&there.chosen, (int)device);
  return status;
}

zm_device zm_get_device(void) {
  return (zm_device)atomic_load(&there.chosen);
}

bool zmi_on_device(void) {
  return zm_get_device() == ZM_DEVICE_CUDA;
}

void zmi_device_release(void) {
  pthread_mutex_lock(&there.lock);
  atomic_store(&there.chosen, (int)ZM_DEVICE_CPU);
  zmi_device_close(there.gpu);
  there.gpu = NULL;
  pthread_mutex_unlock(&there.lock);
}

zm_device_use zm_device_usage(void) {
  pthread_mutex_lock(&there.lock);
  const zmi_device_use u = zmi_device_use_of(there.gpu);
  const zm_device_use use = {.bytes = u.active,
                             .kept = u.kept,
                             .kernels = u.kernels,
                             .on_device = u.launches + u.instructions,
                             .on_cpu = there.counts.on_cpu,
                             .sent = u.sent,
                             .fetched = u.fetched};
  pthread_mutex_unlock(&there.lock);
  return use;
}

zmi_cuda *zmi_there_begin(zmi_there_counts **counts) {
  pthread_mutex_lock(&there.lock);
  *counts = &there.counts;
  if (there.gpu) return there.gpu;
  zmi_fail(ZM_ERROR_DEVICE, "device cuda: no GPU is taken for arrays: zm_set_device(ZM_DEVICE_CUDA) takes it");
  pthread_mutex_unlock(&there.lock);
  return NULL;
}

void zmi_there_end(void) {
  pthread_mutex_unlock(&there.lock);
}

// ---- values ----

zmi_there *zmi_there_new(zmi_gpu_address at, size_t bytes) {
  zmi_there *t = zmi_malloc(sizeof *t);
  if (t)
    *t = (zmi_there){at, bytes, there.opened};
  else
    zmi_device_give_back(there.gpu, at, bytes);
  return t;
}

bool zmi_there_is_good(const zmi_there *t) {
  return t && there.gpu && t->opened == there.opened;
}

void zmi_there_free(zmi_there *t) {
  if (!t) return;
  pthread_mutex_lock(&there.lock);
  if (zmi_there_is_good(t)) zmi_device_give_back(there.gpu, t->at, t->bytes);
  pthread_mutex_unlock(&there.lock);
  zmi_free(t);
}

zm_status zmi_there_lost(void) {
  return zmi_fail(ZM_ERROR_DEVICE, "device cuda: the values of an array were in the memory of a GPU that failed, and are lost");
}

static zm_status send(zm_array *a, size_t bytes) {
  zmi_gpu_address at = 0;
  zm_status status = zmi_device_get(there.gpu, bytes, &at);
  if (status == ZM_OK && (status = zmi_device_send(there.gpu, at, a->data, bytes)) != ZM_OK) zmi_device_give_back(there.gpu, at, bytes);
  if (status != ZM_OK) return status;
  a->there = zmi_there_new(at, bytes);
  return a->there ? ZM_OK : ZM_ERROR_MEMORY;
}

zm_status zmi_there_of(zm_array *a, zmi_gpu_address *at) {
  size_t bytes = 0;
  if (!zmi_there_is_good(a->there)) {
    if (!a->data) return zmi_there_lost();
    if (!zmi_type_bytes(&a->type, &bytes)) return zmi_fail(ZM_ERROR_ARGUMENT, "an array is too large to address");
    zmi_free(a->there); // of an earlier opening
    a->there = NULL;
    const zm_status status = send(a, bytes);
    if (status != ZM_OK) return status;
  }
  *at = a->there->at;
  return ZM_OK;
}

zm_status zmi_there_fetch(zm_array *a) {
  if (a->data) return ZM_OK;
  if (!zmi_there_is_good(a->there)) return zmi_there_lost();
  void *data = zmi_buffer_alloc(a->there->bytes);
  if (!data) return ZM_ERROR_MEMORY;
  const zm_status status = zmi_device_fetch(there.gpu, data, a->there->at, a->there->bytes);
  if (status != ZM_OK) {
    zmi_buffer_free(data, a->there->bytes);
    return status;
  }
  a->data = data;
  a->owns_data = a->is_buffer = true;
  return ZM_OK;
}

zm_status zmi_fetch(zm_array *a) {
  if (a->data || !a->there) return ZM_OK;
  pthread_mutex_lock(&there.lock);
  const zm_status status = zmi_there_fetch(a);
  pthread_mutex_unlock(&there.lock);
  return status;
}
