// An imitation of NVRTC for tests: its images name the text that they were made of, the code is in fake_cuda.c already.
#include "backend/cuda/driver.h"
#include "fake_cuda.h"

#include <stdio.h>

#define FAKE_API __attribute__((visibility("default")))

// Each function has the symbol and the type of the table that it is loaded by.
#define DECLARE(member, symbol, arguments) FAKE_API cu_result fake_##member arguments __asm__(symbol);
ZMI_NVRTC_FUNCTIONS(DECLARE)

struct nvrtc_program_s {
  char *source;
  char log[128], image[64];
};

enum { INVALID_INPUT = 3, INVALID_OPTION = 5, COMPILATION = 6 };

static fake_nvrtc_facts facts;
FAKE_API fake_nvrtc_facts *fake_nvrtc_look(void);
fake_nvrtc_facts *fake_nvrtc_look(void) {
  return &facts;
}

cu_result fake_version(int *major, int *minor) {
  *major = 13;
  *minor = 0;
  return 0;
}

cu_result fake_create(nvrtc_program *program, const char *source, const char *name, int headers, const char *const *texts,
                      const char *const *names) {
  nvrtc_program p = calloc(1, sizeof *p);
  if (!p || !name || headers || texts || names) return free(p), INVALID_INPUT;
  p->source = strdup(source);
  facts.programs++;
  *program = p;
  return 0;
}

// Options without which the bits would not be the CPU's.
cu_result fake_compile(nvrtc_program p, int count, const char *const *options) {
  static const char *const needed[] = {"--gpu-architecture=sm_", "-ftz=true", "-fmad=false", "-prec-div=true", "-prec-sqrt=true"};
  unsigned hash = 2166136261u;
  facts.compiles++;
  for (size_t n = 0; n < ZMI_COUNT(needed); n++) {
    bool there = false;
    for (int i = 0; i < count; i++) there |= strncmp(options[i], needed[n], strlen(needed[n])) == 0;
    if (!there) return snprintf(p->log, sizeof p->log, "%s is missing", needed[n]), INVALID_OPTION;
  }
  if (fake_option("compile", 1) == 0 || !strstr(p->source, "ZMI_KERNEL zmi_gpu_step_##name") || !strstr(p->source, "zk_fma")) {
    snprintf(p->log, sizeof p->log, "zmlx.cu(7): error: identifier \"zebra\" is undefined");
    return COMPILATION;
  }
  for (const char *c = p->source; *c; c++) hash = (hash ^ (unsigned char)*c) * 16777619u;
  snprintf(p->image, sizeof p->image, "FAKE CUBIN %08x", hash);
  return 0;
}

cu_result fake_log_size(nvrtc_program p, size_t *size) {
  *size = strlen(p->log) + 1;
  return 0;
}

cu_result fake_log_text(nvrtc_program p, char *text) {
  memcpy(text, p->log, strlen(p->log) + 1);
  return 0;
}

cu_result fake_binary_size(nvrtc_program p, size_t *size) {
  *size = p->image[0] ? sizeof p->image : 0;
  return 0;
}

cu_result fake_binary(nvrtc_program p, char *binary) {
  memcpy(binary, p->image, sizeof p->image);
  return 0;
}

cu_result fake_destroy(nvrtc_program *program) {
  free((*program)->source);
  free(*program);
  *program = NULL;
  facts.programs--;
  return 0;
}
