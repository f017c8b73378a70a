// Within the CUDA backend: launches of instructions, one or a few at a time.
#ifndef ZMI_CUDA_LAUNCH_H
#define ZMI_CUDA_LAUNCH_H

#include "backend/cuda/cuda.h"

// A launch: an instruction, or several that need not wait for each other.
typedef struct zmi_device_group {
  const zmi_gpu_instruction *first; // of a step's, one after another
  int count, blocks, shared;
  int made_at, stage_at, stage; // of products: in shared memory (zmi_gpu_bundle)
  bool heads;                   // of several: bundle heads, else products
} zmi_device_group;

// The launches of a step as zmi_device_fuse has put it together for them, `made` of `count` instructions, which have to stay: in them it is
// written which blocks play what. False if they do not come out: then each instruction of before is a launch. *groups is from zmi_malloc,
// NULL if there is no memory for it.
bool zmi_device_groups(const zmi_cuda *d, zmi_gpu_instruction *made, size_t count, zmi_device_group **groups, size_t *group_count);
// An instruction as a launch of its own.
zmi_device_group zmi_device_alone(const zmi_cuda *d, const zmi_gpu_instruction *in);

// What a launch of several is given.
zmi_gpu_bundle zmi_device_bundle(const zmi_device_group *g);

// Puts a launch into the device's stream; its instructions go with it. early: it may begin before the one before it is over, which has to
// be a launch of instructions, too.
cu_result zmi_device_launch_group(zmi_cuda *d, const zmi_device_group *g, bool early);

// Whether a driver says by this result that it cannot do what it was asked for, so that another way is to be taken.
bool zmi_device_declines(cu_result r);

#endif
