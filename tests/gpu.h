// Device code of the CUDA backend on the CPU: its kernels, compiled as C++ (shim/gpu_device.cc), and the machine that they run on
// (shim/gpu_machine.cc).
#ifndef ZMLX_TEST_GPU_H
#define ZMLX_TEST_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Runs `blocks` thread blocks of 256 or 288 threads with `shared` bytes of shared memory each, which are garbage at first. Up to eight
// blocks are there at a time, the next one starts when one ends. seed 0: blocks and threads in order; else shuffled. NULL if all threads
// ended, else what is wrong (a divergent barrier, a wait that nothing ends); static storage. The float rule holds. One call at a time.
enum { GPU_RESIDENT_BLOCKS = 8 };
const char *gpu_simulate(void (*kernel)(void *), void *argument, int blocks, int threads, size_t shared, uint64_t seed);

// The same as a launch behind another one: all threads have to wait for that one (zmi_wait_before). It ends as late as it may; then
// gpu_before is called, if it is set.
const char *gpu_simulate_launch(void (*kernel)(void *), void *argument, int blocks, int threads, size_t shared, uint64_t seed);
extern void (*gpu_before)(void);

// Nanoseconds that pass from look to look at the clock; 0: it stands still.
extern unsigned long long gpu_clock_step;
// At this look of the device at a word of the host, counted from 1, the host has just set it to 1; 0: never.
extern long long gpu_stop_in;
extern unsigned long gpu_looks; // at words of the host, so far

// Whether copies to shared memory may read there; NULL: anywhere.
extern bool (*gpu_is_memory)(const void *at, size_t bytes);

struct zmi_gpu_instruction;
// One instruction as its own launch of `workers` blocks, or through the function that dispatches on its kind. `shared` bytes are
// those that the instruction says.
const char *gpu_step(const struct zmi_gpu_instruction *in, int workers, uint64_t seed);
struct zmi_gpu_bundle;
// Several as one launch, of either kernel.
const char *gpu_bundle(const struct zmi_gpu_bundle *b, bool heads, int blocks, size_t shared, uint64_t seed);
struct zmi_gpu_play;
// The resident kernel with `count` instructions; `play` is as it is before one.
const char *gpu_resident(const struct zmi_gpu_instruction *all, int count, int first, struct zmi_gpu_play *play, int blocks, size_t shared,
                         uint64_t seed);

// The first of a product's tiles that a worker of the resident kernel takes.
int gpu_first_tile(int tiles, int worker, int workers);

#ifdef __cplusplus
}
#endif

#endif
