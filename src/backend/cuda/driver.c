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
  char text[160];
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

const char *zmi_cuda_words(const zmi_cuda_driver *d, cu_result result, char text[160]) {
  const char *name = NULL, *words = NULL;
  if (d->error_name(result, &name) || !name) name = "unknown error";
  if (d->error_text(result, &words) || !words) words = "";
  snprintf(text, 160, "%.60s (%d)%s%.80s", name, result, *words ? ": " : "", words);
  return text;
}
