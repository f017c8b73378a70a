// The one table of environment variables that the library reads; documents and `zmlx doctor` are made from it.
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

const zmi_env_var zmi_env_table[] = {
  {.name = "ZMLX_ISA", .meaning = "CPU tier to use instead of the best one: scalar, avx2, avx2vnni, avx512, avx512vnni; neon, neondot"},
  {.name = "ZMLX_THREADS", .meaning = "number of worker threads when a command or program names none (default: one for each usable CPU)"},
  {.name = "ZMLX_CACHE_DIR",
   .meaning = "folder for remembered choices and compiled kernels (default: zmlx in XDG_CACHE_HOME, else ~/.cache/zmlx)"},
  {.name = "ZMLX_KERNELS", .meaning = "how kernels of one's own run: auto (default: compiled when that pays), compile, interpret",
   .words = "auto, compile, interpret"},
  {.name = "ZMLX_CC", .meaning = "C compiler for kernels (default: the first of cc, gcc, clang on PATH)"},
  {.name = "ZMLX_CC_SECONDS", .meaning = "how long it may take for one kernel (default: 20)", .least = 1e-6, .most = 3600, .usual = 20},
  {.name = "ZMLX_TUNE_SECONDS", .meaning = "after how long the tuning of a kernel begins nothing new (default: 15)",
   .least = 1e-6, .most = 36000, .usual = 15},
  {.name = "ZMLX_CUDA_PATH", .meaning = "folder that holds libcuda.so.1 and libnvrtc.so, if they are not where the system looks"},
  {.name = "ZMLX_CACHE_MB", .meaning = "most megabytes of compiled kernels to keep (default: 256)",
   .least = 0, .most = 1 << 20, .usual = 256},
  {.name = "NO_COLOR", .meaning = "if not empty: no colours in terminal output"},
  {0},
};

const char *zmi_env(const char *name) {
  for (const zmi_env_var *v = zmi_env_table; v->name; v++) {
    if (strcmp(v->name, name) != 0) continue;
    const char *value = getenv(name);
    return value && *value ? value : NULL;
  }
  return NULL;
}

static bool number_of(const zmi_env_var *v, const char *text, double *number) {
  char *end;
  *number = strtod(text, &end);
  return end != text && !*end && *number >= v->least && *number <= v->most;
}

double zmi_env_number(const char *name) {
  const char *text = zmi_env(name);
  const zmi_env_var *v = zmi_env_table;
  while (v->name && strcmp(v->name, name) != 0) v++;
  double number;
  return text && number_of(v, text, &number) ? number : v->usual;
}

bool zmi_env_fits(const zmi_env_var *v) {
  const char *text = zmi_env(v->name);
  double number;
  if (!text || (!v->words && v->most == 0)) return true;
  if (!v->words) return number_of(v, text, &number);
  const size_t size = strlen(text);
  for (const char *w = v->words; *w;) {
    const size_t n = strcspn(w, ",");
    if (n == size && memcmp(w, text, n) == 0) return true;
    w += n + strspn(w + n, ", ");
  }
  return false;
}

// The two variables of the desktop's own rules are not settings of ours, so they are not in the table.
char *zmi_cache_folder(void) {
  const char *own = zmi_env("ZMLX_CACHE_DIR"), *caches = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (own) return zmi_strdup(own);
  if (caches && *caches == '/') return zmi_path_join(caches, "zmlx"); // a relative path is to be ignored
  if (home && *home) return zmi_path_join(home, ".cache/zmlx");
  return NULL;
}
