// Arrays on a GPU: memory that comes and goes, kernels of CUDA C compiled one by one, and single ops as launches of the device code.
#include "backend/cuda/cuda.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

// Blocks that are kept: so many, and at most a quarter of the GPU's memory. Small values go to the GPU through a ring of pinned memory, so
// that nobody waits for them.
enum { MOST_KEPT = 256, SMALLEST = 512, RING = 1 << 20, RING_PIECE = 1 << 16, MOST_KERNELS = 512 };

typedef struct block {
  zmi_gpu_address at;
  size_t bytes;
} block;

struct zmi_device_kernel {
  uint64_t key[2], turn;
  cu_module module;
  cu_function function;
};

typedef struct zmi_device_arrays {
  block kept[MOST_KEPT]; // the oldest first
  int kept_count;
  size_t most_kept; // bytes
  zmi_gpu_address *active;
  size_t active_count, active_capacity;
  char *ring;
  size_t ring_at;
  zmi_device_kernel kernels[MOST_KERNELS];
  int kernel_count;
  uint64_t turn;
  cu_module moves; // COPY and TAKE, where the device code is not loaded
  cu_function move[ZMI_GPU_KINDS];
  zmi_device_use use;
} zmi_device_arrays;

// ---- opening ----

static zm_status begin(zmi_cuda *d) {
  size_t left = 0, total = 0;
  zm_status status = zmi_device_current(d);
  if (status != ZM_OK || d->arrays) return status;
  zmi_device_arrays *a = zmi_calloc(1, sizeof *a);
  if (!a) return ZM_ERROR_MEMORY;
  status = zmi_device_check(d, d->cu->memory_info(&left, &total), "asking for free memory");
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->host_alloc((void **)&a->ring, RING, 0), "getting memory for transfers");
  if (status != ZM_OK) {
    zmi_free(a);
    return status;
  }
  a->most_kept = total / 4;
  d->arrays = a;
  return ZM_OK;
}

static void drop_kept(zmi_cuda *d, int count) {
  zmi_device_arrays *a = d->arrays;
  for (int i = 0; i < count; i++) {
    d->cu->memory_free(a->kept[i].at);
    a->use.kept -= a->kept[i].bytes;
  }
  a->kept_count -= count;
  memmove(a->kept, a->kept + count, (size_t)a->kept_count * sizeof *a->kept);
}

void zmi_device_arrays_close(zmi_cuda *d) {
  zmi_device_arrays *a = d->arrays;
  if (!a) return;
  drop_kept(d, a->kept_count);
  for (size_t i = 0; i < a->active_count; i++) d->cu->memory_free(a->active[i]);
  zmi_free(a->active);
  for (int i = 0; i < a->kernel_count; i++) d->cu->module_unload(a->kernels[i].module);
  if (a->moves) d->cu->module_unload(a->moves);
  d->cu->host_free(a->ring);
  zmi_free(a);
  d->arrays = NULL;
}

bool zmi_device_is_broken(const zmi_cuda *d) {
  return d->broken != ZM_OK;
}

int zmi_device_processors(const zmi_cuda *d) {
  return d->processors;
}

zmi_device_use zmi_device_use_of(const zmi_cuda *d) {
  return d && d->arrays ? d->arrays->use : (zmi_device_use){0};
}

// ---- memory ----

// Sizes are rounded to a quarter of a power of two, so that blocks fit again: at most a fifth of one is unused.
static size_t rounded(size_t bytes) {
  if (bytes <= SMALLEST) return SMALLEST;
  if (bytes > SIZE_MAX / 4) return bytes;
  const size_t step = (size_t)1 << (63 - __builtin_clzll((unsigned long long)bytes - 1) - 2);
  return (bytes + step - 1) / step * step;
}

static zm_status memory_is_full(zmi_cuda *d, size_t bytes) {
  size_t left = 0, total = 0;
  d->cu->memory_info(&left, &total);
  return zmi_fail(ZM_ERROR_MEMORY,
                  "device cuda: %.3f GB for an array: the GPU's memory is full (%.2f of %.2f GB are left): let go of arrays, or evaluate "
                  "fewer at a time",
                  (double)bytes / 1e9, (double)left / 1e9, (double)total / 1e9);
}

static void note_active(zmi_device_arrays *a, zmi_gpu_address at, size_t bytes) {
  a->active[a->active_count++] = at; // there is room
  a->use.active += bytes;
}

// Blocks come and go like on a stack, mostly.
static void forget_active(zmi_device_arrays *a, zmi_gpu_address at, size_t bytes) {
  size_t i = a->active_count;
  while (i > 0 && a->active[i - 1] != at) i--;
  if (i == 0) return;
  a->active[i - 1] = a->active[--a->active_count];
  a->use.active -= bytes;
}

zm_status zmi_device_get(zmi_cuda *d, size_t bytes, zmi_gpu_address *at) {
  zm_status status = begin(d);
  *at = 0;
  if (status != ZM_OK) return status;
  zmi_device_arrays *a = d->arrays;
  bytes = rounded(bytes);
  if (!ZMI_GROW(a->active, a->active_capacity, a->active_count + 1)) return ZM_ERROR_MEMORY;
  for (int i = a->kept_count - 1; i >= 0; i--) {
    if (a->kept[i].bytes != bytes) continue;
    *at = a->kept[i].at;
    a->kept_count--;
    memmove(&a->kept[i], &a->kept[i + 1], (size_t)(a->kept_count - i) * sizeof *a->kept);
    a->use.kept -= bytes;
    note_active(a, *at, bytes);
    return ZM_OK;
  }
  cu_result r = d->cu->memory_alloc(at, bytes);
  if (r == CU_OUT_OF_MEMORY && a->kept_count) {
    drop_kept(d, a->kept_count);
    r = d->cu->memory_alloc(at, bytes);
  }
  if (r) *at = 0;
  if (r == CU_OUT_OF_MEMORY) return memory_is_full(d, bytes);
  if (!r) note_active(a, *at, bytes);
  return zmi_device_check(d, r, "getting memory for an array");
}

void zmi_device_give_back(zmi_cuda *d, zmi_gpu_address at, size_t bytes) {
  if (!at || !d->arrays) return;
  zmi_device_arrays *a = d->arrays;
  bytes = rounded(bytes);
  forget_active(a, at, bytes);
  if (bytes > a->most_kept || d->broken) {
    d->cu->context_set(d->context);
    d->cu->memory_free(at);
    return;
  }
  int drop = a->kept_count == MOST_KEPT;
  for (uint64_t kept = a->use.kept + bytes; kept > a->most_kept && drop < a->kept_count; drop++) kept -= a->kept[drop].bytes;
  if (drop) {
    d->cu->context_set(d->context);
    drop_kept(d, drop);
  }
  a->kept[a->kept_count++] = (block){at, bytes};
  a->use.kept += bytes;
}

void zmi_device_forget(zmi_cuda *d) {
  if (!d->arrays) return;
  d->cu->context_set(d->context);
  drop_kept(d, d->arrays->kept_count);
}

// ---- transfers ----

static cu_result send_piece(zmi_cuda *d, zmi_gpu_address to, const void *from, size_t bytes) {
  zmi_device_arrays *a = d->arrays;
  cu_result r = 0;
  if (a->ring_at + bytes > RING) {
    r = d->cu->stream_wait(d->stream);
    a->ring_at = 0;
  }
  if (r) return r;
  char *piece = a->ring + a->ring_at;
  memcpy(piece, from, bytes);
  a->ring_at += (bytes + 15) / 16 * 16;
  return d->cu->upload(to, piece, bytes, d->stream);
}

zm_status zmi_device_send(zmi_cuda *d, zmi_gpu_address to, const void *from, size_t bytes) {
  zm_status status = begin(d);
  if (status != ZM_OK || bytes == 0) return status;
  d->arrays->use.sent += bytes;
  if (bytes > RING_PIECE) return zmi_device_upload(d, to, from, bytes);
  return zmi_device_check(d, send_piece(d, to, from, bytes), "writing to the GPU");
}

zm_status zmi_device_fetch(zmi_cuda *d, void *to, zmi_gpu_address from, size_t bytes) {
  zm_status status = begin(d);
  if (status == ZM_OK && bytes) status = zmi_device_download(d, to, from, bytes);
  if (status == ZM_OK) d->arrays->use.fetched += bytes;
  return status;
}

zm_status zmi_device_zero(zmi_cuda *d, zmi_gpu_address at, size_t bytes) {
  zm_status status = begin(d);
  return status == ZM_OK && bytes ? zmi_device_check(d, d->cu->clear(at, 0, bytes, d->stream), "clearing an array") : status;
}

zm_status zmi_device_wait(zmi_cuda *d) {
  zm_status status = begin(d);
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->stream_wait(d->stream), "evaluating arrays");
  if (status == ZM_OK) d->arrays->ring_at = 0;
  return status;
}

// ---- kernels ----

const zmi_device_kernel *zmi_device_kernel_find(zmi_cuda *d, const uint64_t key[2]) {
  zmi_device_arrays *a = d->arrays;
  for (int i = 0; a && i < a->kernel_count; i++) {
    zmi_device_kernel *k = &a->kernels[i];
    if (k->key[0] != key[0] || k->key[1] != key[1]) continue;
    k->turn = ++a->turn;
    return k;
  }
  return NULL;
}

// A place for one more: if there is none, that of the kernel which was used longest ago.
static zmi_device_kernel *free_place(zmi_cuda *d) {
  zmi_device_arrays *a = d->arrays;
  zmi_device_kernel *oldest = &a->kernels[0];
  if (a->kernel_count < MOST_KERNELS) return &a->kernels[a->kernel_count++];
  for (int i = 1; i < a->kernel_count; i++) {
    if (a->kernels[i].turn < oldest->turn) oldest = &a->kernels[i];
  }
  if (zmi_device_wait(d) != ZM_OK) return NULL;
  d->cu->module_unload(oldest->module);
  return oldest;
}

const zmi_device_kernel *zmi_device_kernel_make(zmi_cuda *d, const uint64_t key[2], const char *name, const char *source,
                                                const char *entry) {
  char what[96];
  zmi_device_kernel made = {.key = {key[0], key[1]}};
  if (begin(d) != ZM_OK) return NULL;
  snprintf(what, sizeof what, "kernel %.80s", name);
  const zmi_device_text text = {source, "kernel.cu", what};
  zm_status status = zmi_device_load_text(d, &text, NULL, NULL, &made.module);
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->module_function(&made.function, made.module, entry), what);
  zmi_device_kernel *place = status == ZM_OK ? free_place(d) : NULL;
  if (!place) {
    if (made.module) d->cu->module_unload(made.module);
    return NULL;
  }
  made.turn = ++d->arrays->turn;
  d->arrays->use.kernels++;
  *place = made;
  return place;
}

zm_status zmi_device_launch(zmi_cuda *d, const zmi_device_kernel *k, int64_t groups, int64_t threads, void **arguments) {
  zm_status status = begin(d);
  if (status != ZM_OK || groups <= 0) return status;
  if (groups > INT_MAX || threads < 1 || threads > 1024)
    return zmi_fail(ZM_ERROR_LIMIT, "device cuda: a grid of %lld groups of %lld threads is too large", (long long)groups,
                    (long long)threads);
  d->arrays->use.launches++;
  const cu_result r = d->cu->launch(k->function, (unsigned)groups, 1, 1, (unsigned)threads, 1, 1, 0, d->stream, arguments, NULL);
  return zmi_device_check(d, r, "starting a kernel");
}

// ---- ops by the device code ----

static bool is_move(int kind) {
  return kind == ZMI_GPU_COPY || kind == ZMI_GPU_TAKE;
}

static zm_status load_moves(zmi_cuda *d) {
  const zmi_device_text text = {zmi_gpu_moves_text, "moves.cu", "moves of arrays"};
  zmi_device_arrays *a = d->arrays;
  static const struct {
    int kind;
    const char *name;
  } rows[] = {{ZMI_GPU_COPY, "zmi_gpu_step_copy"}, {ZMI_GPU_TAKE, "zmi_gpu_step_take"}};
  zm_status status = a->moves ? ZM_OK : zmi_device_load_text(d, &text, NULL, NULL, &a->moves);
  for (size_t i = 0; i < ZMI_COUNT(rows) && status == ZM_OK; i++)
    status = zmi_device_check(d, d->cu->module_function(&a->move[rows[i].kind], a->moves, rows[i].name), rows[i].name);
  return status;
}

// The device code as far as these instructions need it.
static zm_status load_for(zmi_cuda *d, const zmi_gpu_instruction *all, size_t count) {
  zm_status status = ZM_OK;
  for (size_t i = 0; i < count && status == ZM_OK; i++) {
    if (d->step[all[i].kind]) continue;
    if (!is_move(all[i].kind))
      status = zmi_device_load(d, NULL, NULL);
    else if (!d->arrays->move[all[i].kind])
      status = load_moves(d);
  }
  return status;
}

// A launch has its instruction with it.
static zm_status launch_all(zmi_cuda *d, zmi_gpu_instruction *all, size_t count) {
  zm_status status = ZM_OK;
  for (size_t i = 0; i < count && status == ZM_OK; i++) {
    zmi_gpu_instruction *in = &all[i];
    void *arguments[] = {in};
    const unsigned blocks = (unsigned)ZMI_MIN(in->tiles, d->processors * 8);
    const cu_function f = d->step[in->kind] ? d->step[in->kind] : d->arrays->move[in->kind];
    const cu_result r = d->cu->launch(f, blocks, 1, 1, ZMI_GPU_THREADS, 1, 1, (unsigned)in->shared, d->stream, arguments, NULL);
    status = zmi_device_check(d, r, "starting an operation");
    d->arrays->use.instructions++;
  }
  return status;
}

zm_status zmi_device_play_op(zmi_cuda *d, const zmi_call *c, bool *runs) {
  zmi_gpu_instruction *all = NULL;
  size_t count = 0, needed = 0, again = 0;
  zmi_gpu_address scratch = 0;
  zm_status status = begin(d);
  *runs = true;
  if (status == ZM_OK && (status = zmi_device_op_code(d, c, 0, &all, &count, &needed)) != ZM_OK) {
    if (status != ZM_ERROR_UNSUPPORTED && status != ZM_ERROR_LIMIT) return status;
    *runs = false;
    zmi_error_clear();
    return ZM_OK;
  }
  if (status == ZM_OK) status = load_for(d, all, count);
  if (status == ZM_OK && needed) {
    zmi_free(all);
    all = NULL;
    status = zmi_device_get(d, needed, &scratch);
    if (status == ZM_OK) status = zmi_device_op_code(d, c, scratch, &all, &count, &again);
  }
  if (status == ZM_OK) status = launch_all(d, all, count);
  zmi_free(all);
  if (scratch) zmi_device_give_back(d, scratch, needed);
  return status;
}
