// A GPU in use: context, device code, memory, and the weights that were uploaded to it.
#include "backend/cuda/cuda.h"

#include <stdio.h>
#include <string.h>

enum { STAGING = 64 << 20 };

// ---- failures ----

zm_status zmi_device_check(zmi_cuda *d, cu_result result, const char *doing) {
  char text[ZMI_CUDA_WORDS];
  if (result == 0) return ZM_OK;
  zmi_cuda_words(d->cu, result, text);
  if (result == CU_OUT_OF_MEMORY) {
    size_t left = 0, total = 0;
    if (!d->context || d->cu->memory_info(&left, &total))
      text[0] = 0; // not even a context fits
    else
      snprintf(text, sizeof text, " (%.2f of %.2f GB are left)", (double)left / 1e9, (double)total / 1e9);
    return zmi_fail(ZM_ERROR_MEMORY, "device cuda: %s: the GPU's memory is full%s: ask for a smaller context, or free it", doing, text);
  }
  if (zmi_cuda_ends(result)) d->broken = ZM_ERROR_DEVICE;
  return zmi_fail(ZM_ERROR_DEVICE, "device cuda: %s: %s", doing, text);
}

// ---- opening ----

static zm_status attributes(zmi_cuda *d) {
  int shared = 0, mode = 0;
  cu_device device = d->index;
  const struct {
    int attribute, *to;
  } wanted[] = {{CU_ATTRIBUTE_MAJOR, &d->major},
                {CU_ATTRIBUTE_MINOR, &d->minor},
                {CU_ATTRIBUTE_PROCESSORS, &d->processors},
                {CU_ATTRIBUTE_SHARED, &shared},
                {CU_ATTRIBUTE_MODE, &mode}};
  cu_result r = d->cu->device_name(d->name, (int)sizeof d->name, device);
  for (size_t i = 0; i < ZMI_COUNT(wanted) && !r; i++) r = d->cu->device_attribute(wanted[i].to, wanted[i].attribute, device);
  d->shared = (size_t)shared;
  int driver = 0;
  if (!r) r = d->cu->driver_version(&driver);
  d->early = d->major >= 9 && driver >= CU_EARLY_DRIVER;
  zm_status status = zmi_device_check(d, r, "asking what the GPU is");
  if (status == ZM_OK && d->major < 8) {
    status = zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: %s is of compute capability %d.%d; 8.0 or newer is needed, or --device cpu",
                      d->name, d->major, d->minor);
  }
  if (status == ZM_OK && mode == CU_MODE_CLOSED)
    status = zmi_fail(ZM_ERROR_UNSUPPORTED,
                      "device cuda: %s is closed to all programs (its compute mode is \"prohibited\"); use --device cpu", d->name);
  return status;
}

int zmi_gpu_dtype_of(zm_dtype dtype) {
  return dtype == ZM_BF16 ? ZMI_GPU_BF16 : dtype == ZM_F16 ? ZMI_GPU_F16 : ZMI_GPU_F32;
}

#define NAME(name, kind) [kind] = #name,
const char *zmi_device_kind_name(int kind) {
  static const char *const names[ZMI_GPU_KINDS] = {ZMI_GPU_STEPS(NAME) ZMI_GPU_LAUNCHED(NAME)[ZMI_GPU_READY] = "ready"};
  return kind > 0 && kind < ZMI_GPU_KINDS ? names[kind] : "";
}
#undef NAME

zm_status zmi_device_load_text(zmi_cuda *d, const zmi_device_text *t, zm_progress_fn progress, void *user, cu_module *module) {
  for (bool anew = false;; anew = true) {
    char *image = NULL;
    bool kept = false;
    zm_status status = zmi_device_compile(d, t, anew, progress, user, &image, &kept);
    if (status != ZM_OK) return status;
    const cu_result r = d->cu->module_load(module, image);
    zmi_free(image);
    if (r == 0 || !kept || r == CU_OUT_OF_MEMORY) return zmi_device_check(d, r, "loading device code");
  }
}

// The device code, which only models and some operations of arrays need.
zm_status zmi_device_load(zmi_cuda *d, zm_progress_fn progress, void *user) {
  const zmi_device_text text = {zmi_gpu_text, "zmlx.cu", "the device code"};
  cu_function resident = NULL;
  if (d->resident) return ZM_OK;
  zm_status status = d->module ? ZM_OK : zmi_device_load_text(d, &text, progress, user, &d->module);
  for (int i = 1; i < ZMI_GPU_KINDS && status == ZM_OK; i++) {
    char name[64];
    if (i == ZMI_GPU_READY) continue; // never alone
    snprintf(name, sizeof name, "zmi_gpu_step_%s", zmi_device_kind_name(i));
    status = zmi_device_check(d, d->cu->module_function(&d->step[i], d->module, name), name);
    if (status == ZM_OK) status = zmi_device_check(d, d->cu->function_set(d->step[i], CU_FUNCTION_SHARED, (int)d->shared), name);
  }
  const struct {
    const char *name;
    cu_function *to;
  } others[] = {{"zmi_gpu_bundle_products", &d->products}, {"zmi_gpu_bundle_heads", &d->heads}, {"zmi_gpu_resident", &resident}};
  for (size_t i = 0; i < ZMI_COUNT(others) && status == ZM_OK; i++) {
    status = zmi_device_check(d, d->cu->module_function(others[i].to, d->module, others[i].name), others[i].name);
    if (status == ZM_OK)
      status = zmi_device_check(d, d->cu->function_set(*others[i].to, CU_FUNCTION_SHARED, (int)d->shared), others[i].name);
  }
  if (status == ZM_OK) d->resident = resident;
  return status;
}

static zm_status open_device(zmi_cuda *d) {
  int count = 0;
  zm_status status = zmi_device_check(d, d->cu->device_count(&count), "counting GPUs");
  if (status == ZM_OK && count < 1)
    status = zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: the NVIDIA driver finds no GPU; use --device cpu");
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->device_get(&d->index, 0), "taking GPU 0");
  if (status == ZM_OK) status = attributes(d);
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->context_retain(&d->context, d->index), "taking GPU 0");
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->context_set(d->context), "taking GPU 0");
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->stream_create(&d->stream, CU_STREAM_NON_BLOCKING), "making a stream");
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->host_alloc(&d->staging, STAGING, 0), "getting memory for transfers");
  for (int i = 0; i < 2 && status == ZM_OK; i++) {
    status = zmi_device_check(d, d->cu->event_create(&d->staged[i], CU_EVENT_NO_TIMING), "making an event");
  }
  return status;
}

static zmi_cuda *close_failed(zmi_cuda *d) {
  zmi_device_close(d);
  return NULL;
}

zmi_cuda *zmi_device_take(void) {
  const zmi_cuda_driver *cu = zmi_cuda_driver_find();
  zmi_cuda *d = cu ? zmi_calloc(1, sizeof *d) : NULL;
  if (!d) return NULL;
  d->cu = cu;
  d->staging_bytes = STAGING;
  return open_device(d) == ZM_OK ? d : close_failed(d);
}

zmi_cuda *zmi_device_open(zm_progress_fn progress, void *user) {
  zmi_cuda *d = zmi_device_take();
  return !d || zmi_device_load(d, progress, user) == ZM_OK ? d : close_failed(d);
}

void zmi_device_close(zmi_cuda *d) {
  if (!d) return;
  if (d->context) {
    d->cu->context_set(d->context);
    for (size_t i = 0; i < d->resident_count; i++) d->cu->memory_free(d->residents[i].at);
    zmi_device_arrays_close(d);
    if (d->module) d->cu->module_unload(d->module);
    if (d->staging) d->cu->host_free(d->staging);
    for (int i = 0; i < 2; i++) {
      if (d->staged[i]) d->cu->event_destroy(d->staged[i]);
    }
    if (d->stream) d->cu->stream_destroy(d->stream);
    d->cu->context_release(d->index);
  }
  zmi_free(d->residents);
  zmi_free(d);
}

void zmi_device_look(zmi_device_facts *facts) {
  *facts = (zmi_device_facts){0};
  zmi_cuda d = {.cu = zmi_cuda_driver_find()};
  size_t total = 0;
  int count = 0;
  zm_status status = d.cu ? ZM_OK : zm_last_status();
  if (status == ZM_OK) status = zmi_device_check(&d, d.cu->device_count(&count), "counting GPUs");
  if (status == ZM_OK && count < 1) status = zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: the NVIDIA driver finds no GPU");
  if (status == ZM_OK) status = zmi_device_check(&d, d.cu->device_get(&d.index, 0), "looking at GPU 0");
  if (status == ZM_OK) status = attributes(&d);
  if (status == ZM_OK) status = zmi_device_check(&d, d.cu->device_memory(&total, d.index), "asking for its memory");
  if (status == ZM_OK && !zmi_nvrtc_find()) status = zm_last_status();
  facts->usable = status == ZM_OK;
  if (d.cu) d.cu->driver_version(&facts->driver);
  if (status != ZM_OK) snprintf(facts->why, sizeof facts->why, "%s", zm_last_error());
  snprintf(facts->name, sizeof facts->name, "%s", d.name);
  facts->major = d.major;
  facts->minor = d.minor;
  facts->processors = d.processors;
  facts->memory = total;
  zmi_error_clear();
}

// ---- memory ----

zm_status zmi_device_current(zmi_cuda *d) {
  if (d->broken)
    return zmi_fail(d->broken, "device cuda: an earlier failure made the GPU's context useless: open the model again, or choose the GPU "
                               "again (zm_set_device)");
  return zmi_device_check(d, d->cu->context_set(d->context), "taking the GPU");
}

zm_status zmi_device_alloc(zmi_cuda *d, size_t bytes, const char *what, zmi_gpu_address *at) {
  char doing[128];
  *at = 0;
  snprintf(doing, sizeof doing, "%.2f GB for %.60s", (double)bytes / 1e9, what);
  zm_status status = zmi_device_current(d);
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->memory_alloc(at, bytes ? bytes : 1), doing);
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->clear(*at, 0, bytes ? bytes : 1, d->stream), doing);
  return status;
}

void zmi_device_free(zmi_cuda *d, zmi_gpu_address at) {
  if (!d || !at) return;
  d->cu->context_set(d->context);
  d->cu->memory_free(at);
}

zm_status zmi_device_copy(zmi_cuda *d, zmi_gpu_address to, zmi_gpu_address from, size_t bytes) {
  zm_status status = zmi_device_current(d);
  return status == ZM_OK ? zmi_device_check(d, d->cu->copy(to, from, bytes, d->stream), "copying on the GPU") : status;
}

zm_status zmi_device_fits(zmi_cuda *d, uint64_t bytes, const char *what) {
  size_t left = 0, total = 0;
  zm_status status = zmi_device_current(d);
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->memory_info(&left, &total), "asking for free memory");
  if (status != ZM_OK || bytes <= left) return status;
  return zmi_fail(ZM_ERROR_MEMORY,
                  "device cuda: %s need %.2f GB, and %.2f of the %.2f GB of %s are left: free its memory, or use --device cpu", what,
                  (double)bytes / 1e9, (double)left / 1e9, (double)total / 1e9, d->name);
}

zm_status zmi_device_upload(zmi_cuda *d, zmi_gpu_address to, const void *from, size_t bytes) {
  zm_status status = zmi_device_current(d);
  // Two halves of the pinned memory in turn: one is filled while the other travels.
  const size_t half = d->staging_bytes / 2;
  for (size_t done = 0, i = 0; done < bytes && status == ZM_OK; i++) {
    size_t n = ZMI_MIN(half, bytes - done);
    char *stage = (char *)d->staging + (i % 2) * half;
    status = zmi_device_check(d, d->cu->event_wait(d->staged[i % 2]), "writing to the GPU");
    if (status != ZM_OK) break;
    memcpy(stage, (const char *)from + done, n);
    status = zmi_device_check(d, d->cu->upload(to + done, stage, n, d->stream), "writing to the GPU");
    if (status == ZM_OK) status = zmi_device_check(d, d->cu->event_record(d->staged[i % 2], d->stream), "writing to the GPU");
    done += n;
  }
  return status == ZM_OK ? zmi_device_check(d, d->cu->stream_wait(d->stream), "writing to the GPU") : status;
}

zm_status zmi_device_download(zmi_cuda *d, void *to, zmi_gpu_address from, size_t bytes) {
  zm_status status = zmi_device_current(d);
  for (size_t done = 0; done < bytes && status == ZM_OK;) {
    size_t n = ZMI_MIN(d->staging_bytes, bytes - done);
    status = zmi_device_check(d, d->cu->download(d->staging, from + done, n, d->stream), "reading from the GPU");
    if (status == ZM_OK) status = zmi_device_check(d, d->cu->stream_wait(d->stream), "reading from the GPU");
    if (status == ZM_OK) memcpy((char *)to + done, d->staging, n);
    done += n;
  }
  return status;
}

zm_status zmi_device_resident(zmi_cuda *d, const void *host, size_t bytes, zmi_gpu_address *at) {
  size_t first = 0, last = d->resident_count;
  while (first < last) {
    size_t middle = (first + last) / 2;
    if ((uintptr_t)d->residents[middle].host <= (uintptr_t)host)
      first = middle + 1;
    else
      last = middle;
  }
  const zmi_resident *before = first ? &d->residents[first - 1] : NULL; // the last one that begins there or before
  const size_t offset = before ? (uintptr_t)host - (uintptr_t)before->host : 0;
  if (before && offset <= before->bytes && bytes <= before->bytes - offset) {
    *at = before->at + offset;
    return ZM_OK;
  }
  if (!ZMI_GROW(d->residents, d->resident_capacity, d->resident_count + 1)) return ZM_ERROR_MEMORY;
  zm_status status = zmi_device_alloc(d, bytes, "weights", at);
  if (status == ZM_OK) status = zmi_device_upload(d, *at, host, bytes);
  if (status != ZM_OK) {
    zmi_device_free(d, *at);
    return status;
  }
  memmove(&d->residents[first + 1], &d->residents[first], (d->resident_count - first) * sizeof *d->residents);
  d->residents[first] = (zmi_resident){host, bytes, *at};
  d->resident_count++;
  return ZM_OK;
}

double zmi_device_bandwidth(zmi_cuda *d) {
  enum { COPIES = 4 };
  const size_t bytes = (size_t)256 << 20; // far more than the caches hold
  zmi_gpu_address at[2] = {0, 0};
  cu_event events[2] = {NULL, NULL};
  float best = 0;
  cu_result r = 0;
  zm_status status = zmi_device_check(d, d->cu->context_set(d->context), "taking the GPU");
  for (int i = 0; i < 2 && status == ZM_OK; i++) status = zmi_device_alloc(d, bytes, "measuring its memory", &at[i]);
  for (int i = 0; i < 2 && status == ZM_OK && !r; i++) r = d->cu->event_create(&events[i], 0);
  for (int i = 0; i < COPIES && status == ZM_OK && !r; i++) {
    float milliseconds = 0;
    r = d->cu->event_record(events[0], d->stream);
    if (!r) r = d->cu->copy(at[1], at[0], bytes, d->stream);
    if (!r) r = d->cu->event_record(events[1], d->stream);
    if (!r) r = d->cu->stream_wait(d->stream);
    if (!r) r = d->cu->event_elapsed(&milliseconds, events[0], events[1]);
    if (!r && milliseconds > 0 && (best <= 0 || milliseconds < best)) best = milliseconds;
  }
  if (status == ZM_OK) status = zmi_device_check(d, r, "measuring its memory");
  for (int i = 0; i < 2; i++) {
    if (events[i]) d->cu->event_destroy(events[i]);
    zmi_device_free(d, at[i]);
  }
  return status == ZM_OK && best > 0 ? 2 * (double)bytes / (best * 1e-3) / 1e9 : 0;
}
