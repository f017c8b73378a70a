// Finds the CUDA driver and NVRTC at run time.
#include "backend/cuda/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

typedef struct symbol {
  const char *name;
  size_t at; // in the table of functions
} symbol;

#define ROW(member, name, arguments) {name, offsetof(TABLE, member)},
#define TABLE zmi_cuda_driver
static const symbol driver_symbols[] = {ZMI_CUDA_FUNCTIONS(ROW)};
#undef TABLE
#define TABLE zmi_nvrtc
static const symbol nvrtc_symbols[] = {ZMI_NVRTC_FUNCTIONS(ROW)};
#undef TABLE
#undef ROW

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static zmi_cuda_driver driver;
static zmi_nvrtc nvrtc;
static bool driver_ready, nvrtc_ready;

// The first of the names that can be loaded: in ZMLX_CUDA_PATH if that is set, else where the system looks, then at the usual place.
static void *load(const char *const *names, size_t count) {
  static const char usual[] = "/usr/local/cuda/lib64";
  const char *own = zmi_env("ZMLX_CUDA_PATH");
  const char *const folders[] = {own ? own : "", usual};
  for (size_t f = 0; f < (own ? 1 : ZMI_COUNT(folders)); f++) {
    for (size_t i = 0; i < count; i++) {
      char *path = *folders[f] ? zmi_path_join(folders[f], names[i]) : zmi_strdup(names[i]);
      void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
      zmi_free(path);
      if (library) return library;
    }
  }
  return NULL;
}

// NULL, or the name of what is missing.
static const char *fill(void *library, const symbol *symbols, size_t count, void *table) {
  for (size_t i = 0; i < count; i++) {
    void *f = dlsym(library, symbols[i].name);
    if (!f) return symbols[i].name;
    memcpy((char *)table + symbols[i].at, &f, sizeof f);
  }
  return NULL;
}

static zm_status open_driver(void) {
  static const char *const names[] = {"libcuda.so.1", "libcuda.so"};
  void *library = load(names, ZMI_COUNT(names));
  if (!library)
    return zmi_fail(ZM_ERROR_UNSUPPORTED,
                    "device cuda: no NVIDIA driver is installed here (libcuda.so.1 cannot be loaded); use --device cpu");
  const char *missing = fill(library, driver_symbols, ZMI_COUNT(driver_symbols), &driver);
  if (missing) {
    return zmi_fail(ZM_ERROR_UNSUPPORTED,
                    "device cuda: the NVIDIA driver is too old (it has no %s): CUDA 12.0 or newer is needed, or --device cpu", missing);
  }
  char text[ZMI_CUDA_WORDS];
  int version = 0;
  cu_result r = driver.init(0);
  if (r == CU_NO_DEVICE) return zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: the NVIDIA driver finds no GPU; use --device cpu");
  if (r) return zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: the NVIDIA driver does not start: %s", zmi_cuda_words(&driver, r, text));
  if (driver.driver_version(&version) == 0 && version < CU_OLDEST_DRIVER) {
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: the NVIDIA driver is for CUDA %d.%d: CUDA 12.0 or newer is needed, or --device cpu",
                    version / 1000, version % 1000 / 10);
  }
  return ZM_OK;
}

const zmi_cuda_driver *zmi_cuda_driver_find(void) {
  pthread_mutex_lock(&lock);
  if (!driver_ready) driver_ready = open_driver() == ZM_OK;
  pthread_mutex_unlock(&lock);
  return driver_ready ? &driver : NULL;
}

static zm_status open_nvrtc(void) {
  static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};
  void *library = load(names, ZMI_COUNT(names));
  if (!library) {
    return zmi_fail(
        ZM_ERROR_UNSUPPORTED,
        "device cuda: NVRTC, which compiles the kernels, is not installed (libnvrtc.so.13 or .12 cannot be loaded): install the "
        "CUDA toolkit's NVRTC, name its folder in ZMLX_CUDA_PATH, or use --device cpu");
  }
  const char *missing = fill(library, nvrtc_symbols, ZMI_COUNT(nvrtc_symbols), &nvrtc);
  if (missing) return zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: this NVRTC is too old (it has no %s)", missing);
  return ZM_OK;
}

const zmi_nvrtc *zmi_nvrtc_find(void) {
  pthread_mutex_lock(&lock);
  if (!nvrtc_ready) nvrtc_ready = open_nvrtc() == ZM_OK;
  pthread_mutex_unlock(&lock);
  return nvrtc_ready ? &nvrtc : NULL;
}

// Results that say something of the machine: whether the context ends with them, and what to do.
static const struct {
  cu_result result;
  bool ends;
  const char *advice;
} known[] = {
    {CU_DEVICE_UNAVAILABLE, false, "another process has the GPU for itself, or it is reserved: wait for that one, or use --device cpu"},
    {CU_NO_DEVICE, true, "the GPU is gone: see the system's log (NVRM: Xid)"},
    {CU_INVALID_DEVICE, true, "the GPU is gone: see the system's log (NVRM: Xid)"},
    {CU_INVALID_IMAGE, false, "the driver does not take what NVRTC compiles: it is older than NVRTC"},
    {CU_NO_BINARY, false, "the driver does not take what NVRTC compiles: it is older than NVRTC"},
    {CU_UNSUPPORTED_CODE, false, "the driver does not take what NVRTC compiles: it is older than NVRTC"},
    {CU_ECC_ERROR, true, "the GPU's memory is defective: see nvidia-smi -q -d ECC"},
    {CU_TOOK_TOO_LONG, true, "the system ended a kernel, as the GPU drives a display: try --executor graph"},
    {CU_TOO_MANY_BLOCKS, false, "another process keeps multiprocessors from it: try --executor graph"},
    {CU_SYSTEM_NOT_READY, false, "the services of the machine's GPUs (nvidia-fabricmanager) are not running"},
    {CU_DRIVER_MISMATCH, false, "the driver was updated while it was loaded: start the machine anew"},
    {CU_UNKNOWN, true, "the GPU does not answer any more: see the system's log (NVRM: Xid)"},
};

bool zmi_cuda_ends(cu_result result) {
  for (size_t i = 0; i < ZMI_COUNT(known); i++) {
    if (known[i].result == result) return known[i].ends;
  }
  return result >= CU_ILLEGAL_ADDRESS && result < CU_TOO_MANY_BLOCKS; // what kernels do
}

const char *zmi_cuda_words(const zmi_cuda_driver *d, cu_result result, char text[ZMI_CUDA_WORDS]) {
  const char *name = NULL, *words = NULL, *advice = "";
  if (d->error_name(result, &name) || !name) name = "unknown error";
  if (d->error_text(result, &words) || !words) words = "";
  for (size_t i = 0; i < ZMI_COUNT(known); i++) {
    if (known[i].result == result) advice = known[i].advice;
  }
  snprintf(text, ZMI_CUDA_WORDS, "%.60s (%d)%s%.80s%s%s", name, result, *words ? ": " : "", words, *advice ? "; " : "", advice);
  return text;
}
