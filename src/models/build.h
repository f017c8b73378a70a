// Building a family's graph. A family asks for weights and states by name and shape; a source answers from a checkpoint, from a
// configuration alone, or with random values to be written. Private to the models room.
//
// Errors: a weight that can't be had has packed == NULL (vectors: NULL), and operations on NULL give NULL, so that a family checks once.
#ifndef ZMI_MODELS_BUILD_H
#define ZMI_MODELS_BUILD_H

#include "models/config.h"

enum { ZMI_NAME = 192 };

// What a family wants.
typedef struct zmi_want {
  char name[ZMI_NAME]; // of a matrix: without ".weight"; of a vector: the whole name
  int64_t n, k, experts;
  bool stacked; // experts stand in front: [experts, n, k]
  bool bias;    // name.bias [n]
  // vectors
  zm_dtype dtype; // ZM_DTYPE_DEFAULT: as stored
  int rank;
  int64_t shape[ZM_MAX_RANK];
} zmi_want;

// What a source has for it. Memory belongs to the source; NULL where nothing is loaded.
typedef struct zmi_held {
  zmi_format format; // matrices
  const void *packed;
  size_t bytes; // of packed, all experts; of a vector
  zm_dtype bias_dtype;
  const void *bias;
  zm_dtype dtype; // vectors
  const void *data;
} zmi_held;

typedef struct zmi_source {
  void *self;
  zm_status (*matrix)(void *self, const zmi_want *want, zmi_held *held);
  zm_status (*vector)(void *self, const zmi_want *want, zmi_held *held);
} zmi_source;

typedef struct zmi_build {
  // set by the caller
  const zmi_config *config;
  const zmi_source *source;
  const float *inv_freq; // [head_dim / 2]; may be NULL where nothing is played
  zm_dtype dtype;
  zm_activations activations;
  int64_t rows, selected;
  int64_t sequences, context;
  zmi_state_set *states;
  bool list_states; // states are added to the set; otherwise they are bound from it

  // while building
  zm_array *tokens, *position, *sequence, *select;
  zm_array *cosine, *sine;
  zmi_matrix embedding;
  size_t state_next; // states come in the same order each time
  bool failed;       // nothing is asked for after the first failure, so that its message stays
  char place[128];

  // sums
  uint64_t weight_bytes;  // memory of all weights
  uint64_t token_bytes;   // weights that one row reads
  double token_products;  // multiply-adds of a row with weights that take it as digits; without the head
  uint64_t largest_bytes; // of the largest single weight
  uint64_t cache_bytes_per_token;
} zmi_build;

// Builds the graph in the current scope; the result is "logits" or, without selected rows, "hidden". NULL on failure.
zm_array *zmi_build_graph(zmi_build *b);

// Where the next nodes and names belong: "model.layers.3.self_attn". It becomes their label and the prefix of names.
void zmi_build_place(zmi_build *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void zmi_build_label(zmi_build *b, const char *label); // another label for the next nodes; NULL: none
zmi_matrix zmi_build_matrix(zmi_build *b, const char *name, int64_t n, int64_t k, bool bias);
zmi_matrix zmi_build_experts(zmi_build *b, const char *name, int64_t n, int64_t k); // config->experts of them
zm_array *zmi_build_vector(zmi_build *b, const char *name, zm_dtype dtype, int rank, const int64_t *shape);
zm_array *zmi_build_state(zmi_build *b, const char *name, int rank, const int64_t *shape);

// ---- blocks (blocks.c) ----
// Rows of the embedding for the step's tokens.
zm_array *zmi_build_embedding(zmi_build *b, const char *name);
// Norm and head for the selected rows; without any, x itself.
zm_array *zmi_build_head(zmi_build *b, zm_array *x, const char *norm);
zm_array *zmi_build_norm(zmi_build *b, const char *name, zm_array *x); // name.weight [last dim of x]
typedef struct zmi_attention_names {
  const char *q_norm, *k_norm; // per head; NULL: none
  const char *out;
} zmi_attention_names;
zm_array *zmi_build_attention(zmi_build *b, zm_array *x, const zmi_attention_names *names);
// down(silu(gate(x)) * up(x))
typedef struct zmi_mlp_names {
  const char *gate, *up, *down;
} zmi_mlp_names;
zm_array *zmi_build_mlp(zmi_build *b, zm_array *x, const zmi_mlp_names *names, int64_t width, bool bias);
// The same for the chosen experts of each row, weighted and added up. bias: name of the router's choice bias, NULL: none.
zm_array *zmi_build_moe(zmi_build *b, zm_array *x, const zmi_route_attrs *route, const char *bias);
zm_array *zmi_build_short_conv(zmi_build *b, zm_array *x);

#endif
