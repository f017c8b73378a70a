// Launches of single instructions, in a stream that is played or captured.
//
// A launch may begin while the one before it goes on, where driver and GPU can do that: kernels themselves wait for what they need (steps.h).
// So the way into a launch, and the first weights of a product, take no time of their own. Should a driver decline, launches follow one
// another as before.
#include "backend/cuda/launch.h"

#include <string.h>

bool zmi_device_declines(cu_result r) {
  return r == CU_INVALID_VALUE || r == CU_NOT_SUPPORTED || r == CU_CAPTURE_UNSUPPORTED || r == CU_CAPTURE_INVALIDATED;
}

cu_result zmi_device_launch(zmi_cuda *d, const zmi_gpu_instruction *in, bool early) {
  zmi_gpu_instruction copy = *in;
  void *arguments[] = {&copy};
  cu_launch_attribute may_begin;
  memset(&may_begin, 0, sizeof may_begin);
  may_begin.id = CU_LAUNCH_EARLY;
  may_begin.value.number = 1;
  // More blocks than fit at once only wait: they take further tiles instead.
  const cu_launch_config how = {.gx = (unsigned)ZMI_MIN(in->tiles, d->processors * 8),
                                .gy = 1,
                                .gz = 1,
                                .bx = ZMI_GPU_THREADS,
                                .by = 1,
                                .bz = 1,
                                .shared = (unsigned)in->shared,
                                .stream = d->stream,
                                .attributes = &may_begin,
                                .count = 1};
  if (early && d->early) {
    const cu_result r = d->cu->launch_with(&how, d->step[in->kind], arguments, NULL);
    if (!zmi_device_declines(r)) return r;
    d->early = false;
  }
  return d->cu->launch(d->step[in->kind], how.gx, 1, 1, ZMI_GPU_THREADS, 1, 1, how.shared, d->stream, arguments, NULL);
}
