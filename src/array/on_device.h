// Arrays on a GPU: what on_device.c and on_device_play.c share. All of it under the lock of the GPU.
#ifndef ZMI_ON_DEVICE_H
#define ZMI_ON_DEVICE_H

#include "array/array.h"

struct zmi_there {
  zmi_gpu_address at;
  size_t bytes;
  uint64_t opened; // which opening of the GPU it belongs to: memory of an earlier one is gone
};

// Takes the GPU until zmi_there_end; NULL with a message. counts: operations, those that the CPU played for it.
typedef struct zmi_there_counts {
  uint64_t on_cpu;
} zmi_there_counts;
zmi_cuda *zmi_there_begin(zmi_there_counts **counts);
void zmi_there_end(void);
zmi_there *zmi_there_new(zmi_gpu_address at, size_t bytes); // takes the block over, also when it fails: NULL
bool zmi_there_is_good(const zmi_there *t);                 // false: its memory is gone; NULL too
zm_status zmi_there_lost(void);                             // the message that says so
// Where the values of an array are there; sent first if they are not.
zm_status zmi_there_of(zm_array *a, zmi_gpu_address *at);
zm_status zmi_there_fetch(zm_array *a); // zmi_fetch

// ---- on_device_kernel.c ----
// Whether a GPU can play the call as a kernel of the kernel language.
bool zmi_kernel_of(const zmi_call *c, zmi_op_kernel *k);
// Plays it; src and dst of the call are device addresses. *runs false: the emitter has no form for it after all, and nothing was done.
zm_status zmi_kernel_there(zmi_cuda *d, const zmi_call *c, const zmi_op_kernel *k, bool *runs);

#endif
