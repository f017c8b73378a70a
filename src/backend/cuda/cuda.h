// Within the CUDA backend: a device in use, its program, its memory.
#ifndef ZMI_CUDA_CUDA_H
#define ZMI_CUDA_CUDA_H

#include "backend/backend.h"
#include "backend/cuda/driver.h"

// All device code as one text (device/*.h and the prelude, in order).
extern const char zmi_gpu_text[];
extern const char zmi_gpu_moves_text[]; // of it COPY and TAKE, for arrays

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
  cu_function step[ZMI_GPU_KINDS];  // a launch of one instruction
  cu_function products, heads;      // a launch of several
  bool early;                       // a launch may begin before the one before it is over
  cu_function resident;             // plays all of them in one launch
  struct zmi_device_arrays *arrays; // memory and kernels of arrays (arrays.c); NULL: none yet
  zmi_resident *residents;          // sorted by host
  size_t resident_count, resident_capacity;
  void *staging; // pinned, in two halves, each with an event behind its last transfer
  size_t staging_bytes;
  cu_event staged[2];
  zm_status broken; // a failure that the context does not survive
};

// ZM_OK, or the failure of a call of the driver as one sentence: "device cuda: reading results: CUDA_ERROR...".
zm_status zmi_device_check(zmi_cuda *d, cu_result result, const char *doing);
// ZM_OK with the context of the device taken by this thread; or what an earlier failure left.
zm_status zmi_device_current(zmi_cuda *d);
// Text compiled for this device, from the disk cache (then it was kept) or by NVRTC; anew: by NVRTC. *image is freed by the caller.
typedef struct zmi_device_text {
  const char *text, *file, *what; // what: for the message, "the device code"
} zmi_device_text;
zm_status zmi_device_compile(zmi_cuda *d, const zmi_device_text *t, bool anew, zm_progress_fn progress, void *user, char **image,
                             bool *kept);
// The same, loaded: what the cache kept may be of no use to this driver, then it is compiled once more.
zm_status zmi_device_load_text(zmi_cuda *d, const zmi_device_text *t, zm_progress_fn progress, void *user, cu_module *module);
// The instructions of one op (play.c): made as for a player, with scratch at `scratch` (0: to find out how much is needed). *all is freed
// by the caller.
zm_status zmi_device_op_code(zmi_cuda *d, const zmi_call *c, zmi_gpu_address scratch, zmi_gpu_instruction **all, size_t *count,
                             size_t *needed);
void zmi_device_arrays_close(zmi_cuda *d);

#endif
