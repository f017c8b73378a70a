// The text of the device as C++, in the order in which src/backend/meson.build embeds it, and kernels that probe the simulation itself.
#include "gpu.h"
#include "gpu_machine.h"

#include "backend/prelude/functions.h"

#include "backend/cuda/device/instruction.h"

#include "backend/cuda/device/sizes.h"

#include "backend/cuda/device/common.h"

#include "backend/cuda/device/matrix.h"

#include "backend/cuda/device/eight.h"

#include "backend/cuda/device/digits.h"

#include "backend/cuda/device/dot.h"

#include "backend/cuda/device/sort.h"

#include "backend/cuda/device/many.h"

#include "backend/cuda/device/embed.h"

#include "backend/cuda/device/norm.h"

#include "backend/cuda/device/elements.h"

#include "backend/cuda/device/heads.h"

#include "backend/cuda/device/route.h"

#include "backend/cuda/device/conv.h"

#include "backend/cuda/device/move.h"

#include "backend/cuda/device/attention.h"

#include "backend/cuda/device/steps.h"

#include "backend/cuda/device/site.h"
#include "backend/cuda/device/ready.h"

#include "backend/cuda/device/products.h"

#include "backend/cuda/device/stream.h"

#include "backend/cuda/device/feed.h"

#include "backend/cuda/device/choose.h"

#include "backend/cuda/device/resident.h"

// ---- one instruction ----

static void gpu_perform(void *in) {
  zmi_gpu_perform((const zmi_gpu_instruction *)in, zmi_block(), zmi_blocks(), zmi_shared());
}

#define GPU_ROW(name, kind) {kind, zmi_gpu_step_##name},
static const struct {
  int kind;
  void (*entry)(const zmi_gpu_instruction in);
} gpu_entries[] = {ZMI_GPU_STEPS(GPU_ROW) ZMI_GPU_LAUNCHED(GPU_ROW)};
static void (*gpu_entry)(const zmi_gpu_instruction in);

static void gpu_launched(void *in) {
  gpu_entry(*(const zmi_gpu_instruction *)in);
}

extern "C" const char *gpu_step(const zmi_gpu_instruction *in, int workers, uint64_t seed) {
  bool alone = false; // only launched
#define GPU_ALONE(name, kind_of) alone |= in->kind == kind_of;
  ZMI_GPU_LAUNCHED(GPU_ALONE)
  for (const auto &row : gpu_entries) {
    if (row.kind != in->kind) continue;
    gpu_entry = row.entry;
    if (seed % 2 == 0 || alone) return gpu_simulate_launch(gpu_launched, (void *)in, workers, ZMI_GPU_THREADS, (size_t)in->shared, seed);
    return gpu_simulate(gpu_perform, (void *)in, workers, ZMI_GPU_THREADS, (size_t)in->shared, seed);
  }
  return "no entry for this kind of instruction";
}

static void gpu_products(void *b) {
  zmi_gpu_bundle_products(*(const zmi_gpu_bundle *)b);
}
static void gpu_heads(void *b) {
  zmi_gpu_bundle_heads(*(const zmi_gpu_bundle *)b);
}

extern "C" const char *gpu_bundle(const zmi_gpu_bundle *b, bool heads, int blocks, size_t shared, uint64_t seed) {
  return gpu_simulate_launch(heads ? gpu_heads : gpu_products, const_cast<zmi_gpu_bundle *>(b), blocks, ZMI_GPU_THREADS, shared, seed);
}

// ---- the resident kernel ----

struct gpu_whole {
  const zmi_gpu_instruction *all;
  int count, first;
  zmi_gpu_play *play;
};

static void gpu_play_whole(void *at) {
  const gpu_whole *w = (const gpu_whole *)at;
  zmi_gpu_resident(w->all, w->count, w->first, w->play, 1, w->play->stamps != 0);
}

extern "C" const char *gpu_resident(const zmi_gpu_instruction *all, int count, int first, zmi_gpu_play *play, int blocks, size_t shared,
                                    uint64_t seed) {
  gpu_whole whole = {all, count, first, play};
  return gpu_simulate(gpu_play_whole, &whole, blocks, ZMI_GPU_FED, shared, seed);
}

// ---- probes ----

extern "C" int gpu_first_tile(int tiles, int worker, int workers) {
  return zmi_gpu_first_tile(tiles, worker, workers, zmi_gpu_by(workers));
}

// out[block] = the sum of i over the threads' numbers, through shared memory and shuffles.
extern "C" void gpu_probe_sum(void *out) {
  unsigned *shared = (unsigned *)(void *)zmi_shared(), sum = (unsigned)zmi_thread();
  for (int step = 16; step > 0; step /= 2) sum += zmi_shuffle(sum, (zmi_thread() + step) % 32);
  if (zmi_thread() % 32 == 0) shared[zmi_thread() / 32] = sum;
  zmi_sync();
  if (zmi_thread() == 0) {
    sum = 0;
    for (int i = 0; i < 8; i++) sum += shared[i];
    ((unsigned *)out)[zmi_block()] = sum;
  }
}

// Block b waits until block b - 1 has counted.
extern "C" void gpu_probe_chain(void *out) {
  volatile unsigned *count = (volatile unsigned *)out;
  if (zmi_thread() == 0) {
    while (zmi_cache_load((const unsigned *)out) != (unsigned)zmi_block()) zmi_pause();
    *count = *count + 1;
  }
  zmi_sync();
}

extern "C" void gpu_probe_ended(void *unused) {
  (void)unused;
  if (zmi_thread() == 77) return;
  zmi_sync();
}

extern "C" void gpu_probe_divergent(void *unused) {
  (void)unused;
  if (zmi_thread() < 128)
    zmi_sync();
  else
    zmi_sync();
}

extern "C" void gpu_probe_warp(void *unused) {
  (void)unused;
  if (zmi_thread() != 40) zmi_sync_warp();
  zmi_sync();
}

// A launch one thread of which does not wait for the launch before.
extern "C" void gpu_probe_early(void *unused) {
  (void)unused;
  zmi_begin_next();
  if (zmi_thread() != 9) zmi_wait_before();
}

extern "C" void gpu_probe_forever(void *unused) {
  (void)unused;
  while (zmi_thread() == 3) zmi_pause();
}

extern "C" void gpu_probe_behind(void *unused) {
  (void)unused;
  if (zmi_thread() == 0) zmi_shared()[64] = 1;
}

// What is in shared memory at first: it must not be zeros.
extern "C" void gpu_probe_garbage(void *out) {
  if (zmi_thread() == 0) *(unsigned *)out = *(unsigned *)(void *)zmi_shared();
}
