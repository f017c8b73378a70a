// Sources of weights: a checkpoint's tensors (packed into memory on request, or only checked), and a configuration alone. Private to the
// models room.
#ifndef ZMI_MODELS_CHECKPOINT_H
#define ZMI_MODELS_CHECKPOINT_H

#include "models/build.h"

enum { ZMI_SLAB_BYTES = 32 << 20 }; // of a checkpoint's pages that loading touches before it lets them go

// Weights in memory, by name; they live as long as the model.
typedef struct zmi_store_entry {
  zmi_held held;
  void *packed, *bias, *data; // owned, or in a chunk
  size_t bias_bytes, data_bytes;
} zmi_store_entry;

// Matrices of models that are small share chunks: a huge page is had once for many of them, not each of their pages.
typedef struct zmi_chunk {
  uint8_t *data;
  size_t used;
} zmi_chunk;

typedef struct zmi_store {
  zmi_store_entry *entries;
  size_t count, capacity;
  zmi_map *index; // name -> entry
  zmi_chunk *chunks;
  size_t chunk_count, chunk_capacity;
} zmi_store;

void zmi_store_release(zmi_store *s);
// A source that answers from the store alone (every weight is there).
zmi_source zmi_store_source(zmi_store *s);

typedef struct zmi_checkpoint {
  const zmi_config *config;
  zmi_tensors *tensors;
  zmi_map *names; // names as the family spells them -> tensor
  bool *used;     // [tensors]
  uint64_t bytes; // of all tensors
  zm_dtype dtype; // of the embedding's floats: what activations are computed in
  // while loading
  zmi_store *store; // NULL: nothing is loaded, only names, dtypes and shapes are checked
  zmi_cuda *gpu; // not NULL: matrices go there, and the host keeps their addresses only
  zmi_pool *pool;
  zm_progress_fn progress;
  void *progress_user;
  uint64_t done;
} zmi_checkpoint;

// Opens the tensors of a folder for a configuration.
zm_status zmi_checkpoint_open(const char *folder, const zmi_config *config, zmi_checkpoint *c);
void zmi_checkpoint_close(zmi_checkpoint *c);
bool zmi_checkpoint_exists(const char *folder);
zmi_source zmi_checkpoint_source(zmi_checkpoint *c);
// After a build: every tensor of the checkpoint must have been asked for.
zm_status zmi_checkpoint_all_used(const zmi_checkpoint *c);

// A configuration alone: formats and sizes follow from it.
void zmi_blueprint_format(const zmi_config *config, const zmi_want *want, zmi_format *format);
zmi_source zmi_blueprint_source(const zmi_config *config);
bool zmi_held_bytes(const zmi_want *want, zmi_held *held); // sets held->bytes of a matrix; false on overflow

#endif
