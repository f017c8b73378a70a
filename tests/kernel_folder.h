// For tests of compiled kernels: a cache folder of their own, the usual settings, compilers that are scripts.
#ifndef ZMLX_TEST_KERNEL_FOLDER_H
#define ZMLX_TEST_KERNEL_FOLDER_H

#include "temp.h"

#include <sys/stat.h>

static temp_folder folder;

static inline int kernel_set_up(void **state) {
  static const char *const names[] = {"ZMLX_CC", "ZMLX_CC_SECONDS", "ZMLX_CACHE_MB", "ZMLX_KERNELS", "ZMLX_TUNE_SECONDS"};
  (void)state;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
  return temp_make(&folder) == 0 && setenv("ZMLX_CACHE_DIR", folder.path, 1) == 0 ? 0 : -1;
}

static inline int kernel_tear_down(void **state) {
  (void)state;
  unsetenv("ZMLX_CC");
  unsetenv("ZMLX_CACHE_MB");
  unsetenv("ZMLX_KERNELS");
  temp_remove(&folder);
  return 0;
}

// A program in the folder; NULL: it could not be made.
static inline const char *kernel_script(const char *name, const char *text) {
  const char *path = temp_path(&folder, name);
  return temp_write(path, text, strlen(text)) == 0 && chmod(path, 0700) == 0 ? path : NULL;
}

#endif
