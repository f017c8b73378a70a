// Launches of instructions, in a stream that is played or captured.
//
// A launch may begin while the one before it goes on, where driver and GPU can do that: kernels themselves wait for what they need
// (steps.h). So the way into a launch, and the first weights of a product, take no time of their own. Should a driver decline, launches
// follow one another.
#include "backend/cuda/launch.h"

#include <string.h>

bool zmi_device_declines(cu_result r) {
  return r == CU_INVALID_VALUE || r == CU_NOT_SUPPORTED || r == CU_CAPTURE_UNSUPPORTED || r == CU_CAPTURE_INVALIDATED;
}

// ---- what is launched together ----

enum { SCRATCH_AT = (sizeof(zmi_gpu_instruction) + 127) / 128 * 128 }; // ZMI_GPU_BUNDLE_SCRATCH of the device

static bool of_heads(const zmi_gpu_instruction *in) {
  return in->kind == ZMI_GPU_ROTATE || in->kind == ZMI_GPU_WRITE;
}

static bool takes_ready(const zmi_gpu_instruction *in) {
  return in->kind == ZMI_GPU_DOT && !in->as.dot.x;
}

static bool of_products(const zmi_gpu_instruction *in) {
  return in->kind == ZMI_GPU_READY || in->kind == ZMI_GPU_CONV || takes_ready(in);
}

// Of a launch of products READY comes first, and states of convolutions last: so blocks that make rows are the first ones.
static void in_order(zmi_gpu_instruction *all, int count) {
  static const zmi_gpu_kind kinds[] = {ZMI_GPU_READY, ZMI_GPU_DOT, ZMI_GPU_CONV};
  zmi_gpu_instruction copy[ZMI_GPU_BUNDLE];
  int n = 0;
  for (size_t k = 0; k < ZMI_COUNT(kinds); k++) {
    for (int i = 0; i < count; i++) {
      if (all[i].kind == (int)kinds[k]) copy[n++] = all[i];
    }
  }
  const int barrier = all->barrier;
  for (int i = 0; i < count; i++) {
    all[i] = copy[i];
    all[i].barrier = i == 0 && barrier;
  }
}

// How many instructions from `first` on are one launch; 0: a product is there without the READY that it takes.
static int together(zmi_gpu_instruction *first, size_t left) {
  int n = 0;
  bool ready = false;
  for (; n < ZMI_GPU_BUNDLE && (size_t)n < left; n++) {
    const zmi_gpu_instruction *in = &first[n];
    if (n > 0 && (in->barrier || of_heads(in) != of_heads(first) || of_products(in) != of_products(first))) break;
    if (n > 0 && !of_heads(in) && !of_products(in)) break;
    if (in->kind == ZMI_GPU_READY && ready) break;
    ready |= in->kind == ZMI_GPU_READY;
    if (takes_ready(in) && !ready) return 0;
  }
  if (of_products(first)) in_order(first, n);
  return n;
}

static size_t edge(size_t bytes) {
  return (bytes + 127) / 128 * 128;
}

// Bytes of weights that the busiest worker of a product takes.
static size_t weights_of(const zmi_gpu_instruction *in) {
  const zmi_gpu_dot *d = &in->as.dot;
  const size_t tiles = (size_t)((in->tiles + in->workers - 1) / in->workers);
  return tiles * d->matrix.block_bytes * (d->up ? 2 : 1);
}

// Which blocks play what, and the shared memory of each. A multiprocessor has two blocks of a launch of products: each makes rows for
// itself (one block, with room for one of the next launch beside it, is slower: 524 tokens of LFM2 a second on an H200 instead of 623). Of
// long products it has four, two at a time.
static void share_blocks(const zmi_cuda *d, zmi_device_group *g, zmi_gpu_instruction *all) {
  enum { LONG = 8, RESERVED = 1024 }; // tiles of a multiprocessor; shared memory that a block costs besides its own
  long long tiles = 0;
  size_t scratch = 0, rows = 0, weights = 0;
  int makers = 0;
  for (int i = 0; i < g->count; i++) {
    scratch = ZMI_MAX(scratch, edge((size_t)all[i].shared));
    if (takes_ready(&all[i])) tiles += all[i].tiles;
  }
  const int most = d->processors * (tiles > (long long)d->processors * LONG ? 4 : 2);
  for (int i = 0; i < g->count; i++) {
    zmi_gpu_instruction *in = &all[i];
    in->workers = ZMI_MIN(in->tiles, most);
    if (takes_ready(in) && tiles > most) in->workers = (int)ZMI_MAX((long long)in->tiles * most / tiles, 1);
    if (takes_ready(in)) makers += in->workers;
    if (takes_ready(in)) weights = ZMI_MAX(weights, edge(weights_of(in)));
    g->blocks += in->kind == ZMI_GPU_READY ? 0 : in->workers;
    if (in->kind == ZMI_GPU_READY) rows = edge((size_t)in->as.ready.rows * (size_t)in->as.ready.bytes);
  }
  if (all->kind == ZMI_GPU_READY) all->workers = makers;
  g->made_at = (int)(SCRATCH_AT + scratch);
  g->stage_at = g->made_at + (int)rows;
  const size_t half = d->shared / 2 - RESERVED, used = (size_t)g->stage_at;
  g->stage = used < half ? (int)ZMI_MIN(weights, (half - used) / 128 * 128) : 0;
  g->shared = g->stage_at + g->stage;
}

zmi_device_group zmi_device_alone(const zmi_cuda *d, const zmi_gpu_instruction *in) {
  // More blocks than fit at once only wait: they take further tiles instead.
  return (zmi_device_group){.first = in, .count = 1, .blocks = ZMI_MIN(in->tiles, d->processors * 8), .shared = in->shared};
}

static bool make_groups(const zmi_cuda *d, zmi_gpu_instruction *made, size_t count, zmi_device_group *groups, size_t *group_count) {
  size_t n = 0;
  for (size_t i = 0; i < count; n++) {
    const int many = together(made + i, count - i);
    if (many == 0) return false;
    zmi_device_group *g = &groups[n];
    *g = zmi_device_alone(d, made + i);
    g->count = many;
    g->heads = of_heads(made + i);
    if (many > 1 && !g->heads) {
      g->blocks = 0;
      share_blocks(d, g, made + i);
    }
    for (int k = 1; k < many && g->heads; k++) {
      g->blocks = ZMI_MIN(g->blocks + made[i + (size_t)k].tiles, d->processors * 2);
      g->shared = ZMI_MAX(g->shared, made[i + (size_t)k].shared);
    }
    const bool product = many == 1 && made[i].kind == ZMI_GPU_READY;
    if (product || (size_t)g->shared > d->shared) return false;
    i += (size_t)many;
  }
  *group_count = n;
  return true;
}

bool zmi_device_groups(const zmi_cuda *d, zmi_gpu_instruction *made, size_t count, zmi_device_group **groups, size_t *group_count) {
  *groups = zmi_calloc(count + 1, sizeof **groups);
  if (!*groups) return false;
  if (make_groups(d, made, count, *groups, group_count)) return true;
  zmi_free(*groups);
  *groups = NULL;
  return false;
}

// ---- launching ----

static cu_result start(zmi_cuda *d, const zmi_device_group *g, cu_function f, void *argument, bool early) {
  void *arguments[] = {argument};
  cu_launch_attribute may_begin;
  memset(&may_begin, 0, sizeof may_begin);
  may_begin.id = CU_LAUNCH_EARLY;
  may_begin.value.number = 1;
  const cu_launch_config how = {.gx = (unsigned)g->blocks,
                                .gy = 1,
                                .gz = 1,
                                .bx = ZMI_GPU_THREADS,
                                .by = 1,
                                .bz = 1,
                                .shared = (unsigned)g->shared,
                                .stream = d->stream,
                                .attributes = &may_begin,
                                .count = 1};
  if (early && d->early) {
    const cu_result r = d->cu->launch_with(&how, f, arguments, NULL);
    if (!zmi_device_declines(r)) return r;
    d->early = false;
  }
  return d->cu->launch(f, how.gx, 1, 1, ZMI_GPU_THREADS, 1, 1, how.shared, d->stream, arguments, NULL);
}

zmi_gpu_bundle zmi_device_bundle(const zmi_device_group *g) {
  zmi_gpu_bundle bundle = {.count = g->count, .made_at = g->made_at, .stage_at = g->stage_at, .stage = g->stage};
  memcpy(bundle.all, g->first, (size_t)g->count * sizeof *g->first);
  return bundle;
}

cu_result zmi_device_launch_group(zmi_cuda *d, const zmi_device_group *g, bool early) {
  if (g->count == 1) {
    zmi_gpu_instruction copy = *g->first;
    return start(d, g, d->step[copy.kind], &copy, early);
  }
  zmi_gpu_bundle bundle = zmi_device_bundle(g);
  return start(d, g, g->heads ? d->heads : d->products, &bundle, early);
}
