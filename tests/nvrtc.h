// CUDA text compiled by NVRTC where it is installed: no card is needed for that.
#ifndef ZMLX_TEST_NVRTC_H
#define ZMLX_TEST_NVRTC_H

#include "base/base.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef struct nvrtc {
  void *library;
  int (*create)(void **, const char *, const char *, int, const char *const *, const char *const *);
  int (*build)(void *, int, const char *const *);
  int (*log_size)(void *, size_t *);
  int (*get_log)(void *, char *);
  int (*destroy)(void **);
} nvrtc;

// The address sanitizer's search for leaks can fail after NVRTC, which switches stacks.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NVRTC_IS_WATCHED 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define NVRTC_IS_WATCHED 1
#endif
#ifndef NVRTC_IS_WATCHED
#define NVRTC_IS_WATCHED 0
#endif

// False where it is not installed, and under the address sanitizer.
static inline bool nvrtc_open(nvrtc *n) {
  static const char *const libraries[] = {"libnvrtc.so", "/usr/local/cuda/lib64/libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"};
  memset(n, 0, sizeof *n);
  if (NVRTC_IS_WATCHED) return false;
  for (size_t i = 0; i < ZMI_COUNT(libraries) && !n->library; i++) n->library = dlopen(libraries[i], RTLD_NOW | RTLD_LOCAL);
  if (!n->library) return false;
  void *symbols[] = {dlsym(n->library, "nvrtcCreateProgram"), dlsym(n->library, "nvrtcCompileProgram"),
                     dlsym(n->library, "nvrtcGetProgramLogSize"), dlsym(n->library, "nvrtcGetProgramLog"),
                     dlsym(n->library, "nvrtcDestroyProgram")};
  memcpy(&n->create, &symbols[0], sizeof symbols[0]), memcpy(&n->build, &symbols[1], sizeof symbols[1]);
  memcpy(&n->log_size, &symbols[2], sizeof symbols[2]), memcpy(&n->get_log, &symbols[3], sizeof symbols[3]);
  memcpy(&n->destroy, &symbols[4], sizeof symbols[4]);
  return n->create && n->build && n->log_size && n->get_log && n->destroy;
}

// NULL if it compiles, else what NVRTC says; from calloc. quick: not optimized, if this NVRTC knows how.
static inline char *nvrtc_compile(const nvrtc *n, const char *source, const char *card, bool quick) {
  const char *options[] = {card,         "-ftz=true", "-fmad=false",        "-prec-div=true", "-prec-sqrt=true",
                           "-std=c++17", "-w",        "--Ofast-compile=max"};
  const int count = (int)ZMI_COUNT(options) - !quick;
  void *program = NULL;
  size_t size = 0;
  char *words = NULL;
  if (n->create(&program, source, "kernels.cu", 0, NULL, NULL) != 0) return calloc(1, 1);
  int failed = n->build(program, count, options);
  if (failed == 5) failed = n->build(program, (int)ZMI_COUNT(options) - 1, options); // an option that it does not know
  if (failed) {
    n->log_size(program, &size);
    words = calloc(size + 1, 1);
    if (words) n->get_log(program, words);
  }
  n->destroy(&program);
  return words;
}

#endif
