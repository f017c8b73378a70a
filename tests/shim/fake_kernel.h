// Kernels of arrays in the imitations of NVRTC and of the driver: an image is a shared object that the C++ compiler of the system made of
// the emitted text (cuda_kernels.h, cuda_launch.h), behind a line that says how long it is.
#ifndef ZMLX_TEST_FAKE_KERNEL_H
#define ZMLX_TEST_FAKE_KERNEL_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char kernel_start[] = "FAKE KERNEL ";
enum { KERNEL_HEAD = 32 };

typedef struct kernel_folder {
  char path[256], source[300], object[300], words[300];
} kernel_folder;

static inline bool kernel_folder_open(kernel_folder *f) {
  const char *tmp = getenv("TMPDIR");
  snprintf(f->path, sizeof f->path, "%.200s/zmlx-fake-XXXXXX", tmp && *tmp ? tmp : "/tmp");
  if (!mkdtemp(f->path)) return false;
  snprintf(f->source, sizeof f->source, "%s/kernel.cc", f->path);
  snprintf(f->object, sizeof f->object, "%s/kernel.so", f->path);
  snprintf(f->words, sizeof f->words, "%s/words", f->path);
  return true;
}

static inline void kernel_folder_close(const kernel_folder *f) {
  unlink(f->source);
  unlink(f->object);
  unlink(f->words);
  rmdir(f->path);
}

static inline bool kernel_write(const char *path, const void *data, size_t size) {
  FILE *file = fopen(path, "wb");
  const bool good = file && fwrite(data, 1, size, file) == size;
  return (!file || fclose(file) == 0) && good;
}

static inline char *kernel_read(const char *path, size_t front, size_t *size) {
  FILE *file = fopen(path, "rb");
  char *data = NULL;
  long bytes = 0;
  if (file && fseek(file, 0, SEEK_END) == 0 && (bytes = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0)
    data = calloc(1, front + (size_t)bytes + 1);
  if (data && fread(data + front, 1, (size_t)bytes, file) != (size_t)bytes) {
    free(data);
    data = NULL;
  }
  if (file) fclose(file);
  *size = front + (size_t)bytes;
  return data;
}

// An image, loaded.
typedef struct kernel_code {
  void *handle;
  void *(*copy)(void **arguments);
  int (*check)(void *pack, int (*known)(const void *));
  void (*launch)(void *pack, unsigned threads, unsigned groups);
  void (*drop)(void *pack);
} kernel_code;

static inline bool kernel_symbol(void *handle, const char *name, void *to) {
  void *at = dlsym(handle, name);
  memcpy(to, &at, sizeof at);
  return at != NULL;
}

static inline bool kernel_load(kernel_code *c, const char *image) {
  kernel_folder f;
  const size_t size = strtoul(image + sizeof kernel_start - 1, NULL, 10);
  if (!kernel_folder_open(&f)) return false;
  if (kernel_write(f.object, image + KERNEL_HEAD, size)) c->handle = dlopen(f.object, RTLD_NOW | RTLD_LOCAL);
  kernel_folder_close(&f);
  return c->handle && kernel_symbol(c->handle, "shim_copy", &c->copy) && kernel_symbol(c->handle, "shim_check", &c->check) &&
         kernel_symbol(c->handle, "shim_launch", &c->launch) && kernel_symbol(c->handle, "shim_drop", &c->drop);
}

#endif
