// An imitation of NVRTC for tests. Images of the device code name the text that they were made of, the code is in fake_cuda.c already;
// those of kernels are made by the C++ compiler of the system.
#include "backend/cuda/driver.h"
#include "fake_cuda.h"
#include "fake_kernel.h"

#include <stdio.h>

#define FAKE_API __attribute__((visibility("default")))

// Each function has the symbol and the type of the table that it is loaded by.
#define DECLARE(member, symbol, arguments) FAKE_API cu_result fake_##member arguments __asm__(symbol);
ZMI_NVRTC_FUNCTIONS(DECLARE)

struct nvrtc_program_s {
  char *source;
  char log[800], *image;
  size_t size;
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

// The entry of a kernel of arrays, "zk_rows"; NULL: it is the device code.
static const char *entry_of(const char *source) {
  static const char *const entries[] = {"zk_elements", "zk_rows", "zk_groups"};
  for (size_t i = 0; i < ZMI_COUNT(entries); i++) {
    char name[32];
    const char *head = strstr(source, "extern \"C\" __global__ void __launch_bounds__(");
    snprintf(name, sizeof name, ") %s(", entries[i]);
    if (head && strstr(head, name)) return entries[i];
  }
  return NULL;
}

// Tests run from the top of the project, where the shim is.
static bool run_compiler(const kernel_folder *f) {
  char command[1600];
  const char *cxx = getenv("CXX");
  snprintf(command, sizeof command,
           "exec %.200s -std=c++17 -O1 -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-strict-aliasing -fPIC -shared -w "
           "-Itests/shim -include cuda_kernels.h -o '%s' '%s' -lm >'%s' 2>&1",
           cxx && *cxx ? cxx : "c++", f->object, f->source, f->words);
  return system(command) == 0;
}

static cu_result compile_kernel(nvrtc_program p, const char *entry) {
  kernel_folder f;
  char behind[128];
  size_t size = 0;
  if (!kernel_folder_open(&f)) return COMPILATION;
  snprintf(behind, sizeof behind, "\n#include \"cuda_launch.h\"\nSHIM_LAUNCH(%s)\n", entry);
  char *text = calloc(1, strlen(p->source) + sizeof behind);
  bool good = text != NULL;
  if (good) {
    strcpy(text, p->source);
    strcat(text, behind);
    good = kernel_write(f.source, text, strlen(text)) && run_compiler(&f);
  }
  free(text);
  if (good) {
    p->image = kernel_read(f.object, KERNEL_HEAD, &p->size);
    if (p->image) snprintf(p->image, KERNEL_HEAD, "%s%zu", kernel_start, p->size - KERNEL_HEAD);
  } else {
    char *words = kernel_read(f.words, 0, &size);
    const char *error = words ? strstr(words, "error") : NULL;
    snprintf(p->log, sizeof p->log, "kernel.cu: %.700s", error ? error : "the compiler says nothing");
    free(words);
  }
  kernel_folder_close(&f);
  return p->image ? 0 : COMPILATION;
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
  if (fake_option("compile", 1) != 0 && entry_of(p->source)) return compile_kernel(p, entry_of(p->source));
  if (fake_option("compile", 1) == 0 || !strstr(p->source, "(ZMI_GIVEN const zmi_gpu_instruction in)") || !strstr(p->source, "zk_fma")) {
    snprintf(p->log, sizeof p->log, "zmlx.cu(7): error: identifier \"zebra\" is undefined");
    return COMPILATION;
  }
  for (const char *c = p->source; *c; c++) hash = (hash ^ (unsigned char)*c) * 16777619u;
  p->size = 64;
  if ((p->image = calloc(1, p->size))) snprintf(p->image, p->size, "FAKE CUBIN %08x", hash);
  return p->image ? 0 : COMPILATION;
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
  *size = p->size;
  return 0;
}

cu_result fake_binary(nvrtc_program p, char *binary) {
  memcpy(binary, p->image, p->size);
  return 0;
}

cu_result fake_destroy(nvrtc_program *program) {
  free((*program)->source);
  free((*program)->image);
  free(*program);
  *program = NULL;
  facts.programs--;
  return 0;
}
