// The one table of environment variables that the library reads; documents and `zmlx doctor` are made from it.
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

const zmi_env_var zmi_env_table[] = {
  {"ZMLX_ISA", "CPU tier to use instead of the best one: scalar, avx2, avx512, avx512vnni"},
  {"ZMLX_THREADS", "number of worker threads when a command or program names none (default: one for each usable CPU)"},
  {"ZMLX_CACHE_DIR", "folder for remembered choices and compiled kernels (default: the user's cache folder)"},
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
