// What a model consists of. Private to the models room.
#ifndef ZMI_MODELS_MODEL_H
#define ZMI_MODELS_MODEL_H

#include "models/checkpoint.h"
#include <pthread.h>

struct zm_model {
  char *path;
  zmi_config config;
  char quantization[64];
  zm_dtype dtype;
  zm_activations activations;
  zmi_cuda *gpu; // NULL: the CPU plays
  zmi_executor executor;
  zmi_store store;
  float *inv_freq; // [head_dim / 2]
  zmi_model_plan plan;
  zmi_pool *pool;
  const zmi_kernels *kernels;
  pthread_mutex_t lock;
  bool lock_made;
  zmi_patterns patterns;
  zm_own_pattern *own; // names owned
  size_t own_count;
  uint64_t own_version; // changes with them
  double load_seconds;
  void *text;
  void (*release_text)(void *);
};

// What compiling a step's program needs of a model, whether it is loaded or only planned.
typedef struct zmi_step {
  const zmi_config *config;
  zmi_source source;
  const float *inv_freq;
  zm_dtype dtype;
  zm_activations activations;
  int32_t rows, selected;
  const zmi_state_set *states; // NULL: `sequences` of `context` positions without memory
  int32_t sequences, context;  // a multiple of ZMI_KEY_BLOCK
  const zmi_kernels *kernels;
  zmi_cuda *gpu;
  zmi_executor executor;
  zmi_patterns patterns;
  const zm_own_pattern *own; // applied if the choice says so
  size_t own_count;
  zm_patch_report *report;
  bool plan_only;
  zmi_build build; // out: the builder's sums
} zmi_step;
zmi_program *zmi_step_compile(zmi_step *step);
// Builds the graph of one row without compiling it: asks the source for every weight, and lists the states if `states` is given.
zm_status zmi_step_visit(zmi_step *step, zmi_state_set *states);

int32_t zmi_round_context(int32_t context);                 // up to a multiple of ZMI_KEY_BLOCK
zm_dtype zmi_choose_dtype(zm_dtype asked, zm_dtype stored); // of activations; ZM_DTYPE_DEFAULT: an error
zm_status zmi_plan(const zmi_config *config, const zmi_source *source, uint64_t file_bytes, const zmi_kernels *kernels,
                   const zmi_model_plan_request *request, zm_dtype dtype, zmi_model_plan *plan);

#endif
