// Within the CUDA backend: what instructions read and write, and how those of a step are put together for the resident kernel.
#ifndef ZMI_CUDA_FLOW_H
#define ZMI_CUDA_FLOW_H

#include "backend/cuda/cuda.h"

typedef struct zmi_gpu_range {
  zmi_gpu_address at;
  unsigned long long bytes;
} zmi_gpu_range;

enum { ZMI_GPU_READS = 8, ZMI_GPU_WRITES = 2 };

// Memory that an instruction reads and that it writes; constants (weights, norms, tables of frequencies) are left out. Unused ranges are
// empty. What of a range an instruction touches may be less.
typedef struct zmi_gpu_flow {
  zmi_gpu_range reads[ZMI_GPU_READS], writes[ZMI_GPU_WRITES];
} zmi_gpu_flow;

zmi_gpu_flow zmi_gpu_flow_of(const zmi_gpu_instruction *in);
bool zmi_gpu_meets(zmi_gpu_range a, zmi_gpu_range b); // they overlap

// How instructions are put together: for launches (launch.h), or for the resident kernel, whose weights are read directly or come through
// its ring.
typedef enum zmi_device_way { ZMI_DEVICE_DIRECT, ZMI_DEVICE_RING, ZMI_DEVICE_LAUNCHES } zmi_device_way;

// Instructions of a step, put together: products that take what READY makes, gate and up in one where weights are affine (not if they are
// read directly), routers of every block's own (of the resident kernel), weights through the ring where it has slots, and as few barriers
// as reading and writing allow. `outputs`: what the host reads afterwards. `made` is from zmi_malloc; *first: the first DOT whose weights
// come through the ring, or the count.
zm_status zmi_device_fuse(const zmi_gpu_instruction *all, size_t count, const zmi_gpu_range *outputs, size_t output_count,
                          zmi_device_way way, zmi_gpu_instruction **made, size_t *made_count, int *first);

// What the resident kernel wants to know of each instruction of a list that is otherwise done: its number, and how it is played.
void zmi_gpu_count(zmi_gpu_instruction *all, size_t count);

// Whether its scratch lies over the rows that READY has made: kinds that never stand between those and the products that take them have the
// whole of the shared memory that is not the ring's.
bool zmi_gpu_over_rows(const zmi_gpu_instruction *in);

#endif
