// Within the CUDA backend: a device in use, its program, its memory.
#ifndef ZMI_CUDA_CUDA_H
#define ZMI_CUDA_CUDA_H

#include "backend/backend.h"
#include "backend/cuda/driver.h"

// All device code as one text (device/*.h and the prelude, in order).
extern const char zmi_gpu_text[];

// Weights that were uploaded, by their address on the host.
typedef struct zmi_resident {
  const void *host;
  size_t bytes;
  zmi_gpu_address at;
} zmi_resident;

struct zmi_cuda {
  const zmi_cuda_driver *cu;
  int index, major, minor, processors;
  size_t shared; // most shared memory of a block
  char name[96];
  cu_context context;
  cu_stream stream;
  cu_module module;
  cu_function step[ZMI_GPU_KINDS]; // a launch of one instruction
  cu_function resident;            // plays all of them in one launch
  zmi_resident *residents;         // sorted by host
  size_t resident_count, resident_capacity;
  void *staging; // pinned, in two halves, each with an event behind its last transfer
  size_t staging_bytes;
  cu_event staged[2];
  zm_status broken; // a failure that the context does not survive
};

// ZM_OK, or the failure of a call of the driver as one sentence: "device cuda: reading results: CUDA_ERROR...".
zm_status zmi_device_check(zmi_cuda *d, cu_result result, const char *doing);
// The device code compiled for this device, from the disk cache (then it was kept) or by NVRTC; anew: by NVRTC. *image is freed by the
// caller.
zm_status zmi_device_compile(zmi_cuda *d, bool anew, zm_progress_fn progress, void *user, char **image, bool *kept);

#endif
