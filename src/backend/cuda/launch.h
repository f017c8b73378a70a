// Within the CUDA backend: launches of single instructions.
#ifndef ZMI_CUDA_LAUNCH_H
#define ZMI_CUDA_LAUNCH_H

#include "backend/cuda/cuda.h"

// Puts a launch into the device's stream; the instruction goes with it. early: it may begin before the one before it is over, which has to
// be a launch of an instruction, too.
cu_result zmi_device_launch(zmi_cuda *d, const zmi_gpu_instruction *in, bool early);

// Whether a driver says by this result that it cannot do what it was asked for, so that another way is to be taken.
bool zmi_device_declines(cu_result r);

#endif
