// The one table of environment variables that the library reads; documents and `zmlx doctor` are made from it.
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

const zmi_env_var zmi_env_table[] = {
  {"ZMLX_ISA", "CPU tier to use instead of the best one: scalar, avx2, avx2vnni, avx512, avx512vnni; neon, neondot"},
  {"ZMLX_THREADS", "number of worker threads when a command or program names none (default: one for each usable CPU)"},
  {"ZMLX_CACHE_DIR", "folder for remembered choices and compiled kernels (default: zmlx in XDG_CACHE_HOME, else ~/.cache/zmlx)"},
  {"ZMLX_KERNELS", "how kernels of one's own run: auto (default: compiled when that pays), compile, interpret"},
  {"ZMLX_CC", "C compiler for kernels (default: the first of cc, gcc, clang on PATH)"},
  {"ZMLX_CC_SECONDS", "how long it may take for one kernel (default: 20)"},
  {"ZMLX_TUNE_SECONDS", "after how long the tuning of a kernel begins nothing new (default: 15)"},
  {"ZMLX_CUDA_PATH", "folder that holds libcuda.so.1 and libnvrtc.so, if they are not where the system looks"},
  {"ZMLX_CACHE_MB", "most megabytes of compiled kernels to keep (default: 256)"},
  {"NO_COLOR", "if not empty: no colours in terminal output"},
  {NULL, NULL},
};

const char *zmi_env(const char *name) {
  for (const zmi_env_var *v = zmi_env_table; v->name; v++) {
    if (strcmp(v->name, name) != 0) continue;
    const char *value = getenv(name);
    return value && *value ? value : NULL;
  }
  return NULL;
}

// The two variables of the desktop's own rules are not settings of ours, so they are not in the table.
char *zmi_cache_folder(void) {
  const char *own = zmi_env("ZMLX_CACHE_DIR"), *caches = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (own) return zmi_strdup(own);
  if (caches && *caches == '/') return zmi_path_join(caches, "zmlx"); // a relative path is to be ignored
  if (home && *home) return zmi_path_join(home, ".cache/zmlx");
  return NULL;
}
