// A checkpoint's configuration (config.json), read strictly: every field has a type and a range, and what is missing, wrong or absurd is
// named in one sentence. Private to the models room.
#ifndef ZMI_MODELS_CONFIG_H
#define ZMI_MODELS_CONFIG_H

#include "models/models.h"
#include <jansson.h>

typedef struct zmi_family zmi_family;

typedef enum zmi_rope_kind { ZMI_ROPE_DEFAULT, ZMI_ROPE_LINEAR, ZMI_ROPE_LLAMA3 } zmi_rope_kind;
typedef struct zmi_rope_config {
  int64_t kind; // zmi_rope_kind
  double theta;
  double factor;                  // linear, llama3
  double low_factor, high_factor; // llama3
  double original;                // llama3: positions of the original training
  bool traditional;
} zmi_rope_config;

// How one matrix is stored where that differs from the rest of the checkpoint.
typedef struct zmi_override {
  char *name; // "model.layers.3.mlp.gate"
  bool quantized;
  zmi_format format;
} zmi_override;

enum { ZMI_LAYER_CONV = 1 /* else attention */, ZMI_LAYER_EXPERTS = 2 /* else one dense MLP */ };

typedef struct zmi_config {
  const zmi_family *family;
  int32_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, context;
  double eps; // of the norms
  bool tied;  // the head is the embedding
  bool attention_bias, mlp_bias;
  zmi_rope_config rope;
  unsigned char *kinds; // [layers]: ZMI_LAYER_CONV | ZMI_LAYER_EXPERTS

  int32_t taps; // of the short convolutions
  bool conv_bias;

  int32_t experts, top_k, expert_intermediate;
  bool norm_top_k, expert_bias;
  double expert_scale;

  bool quantized;
  zmi_format format; // of quantized matrices that no override names
  zmi_override *overrides;
  size_t override_count, override_capacity;
  zmi_map *override_index; // name -> index; NULL if there are none
  zm_dtype stored;         // float dtype that the configuration names; bfloat16 if it names none

  int32_t *eos;
  size_t eos_count;
} zmi_config;

// Parses the text of a config.json. `file` is named in messages. *config is to be released in any case.
zm_status zmi_config_parse(const char *text, size_t size, const char *file, zmi_config *config);
// Reads folder/config.json and the end-of-text ids of folder/generation_config.json if there is one.
zm_status zmi_config_read(const char *folder, zmi_config *config);
// Takes the end-of-text ids from the text of a generation_config.json if it names any.
zm_status zmi_config_parse_generation(const char *text, size_t size, const char *file, zmi_config *config);
void zmi_config_release(zmi_config *config);
const zmi_override *zmi_config_override(const zmi_config *config, const char *name); // NULL: none
const char *zmi_config_quantization(const zmi_config *config, char buffer[64]);      // "affine 4-bit g64", "none"
// Inverse frequencies of rotary embedding, [head_dim / 2].
void zmi_config_inv_freq(const zmi_config *config, float *inv_freq);

// ---- reading fields (read.c) ----
// Reads fields of one JSON object. The first failure stays: later reads return their fallback or the lower bound, and the caller checks
// `status` once at the end.
typedef struct zmi_reader {
  const json_t *object;
  const char *file;   // "config.json"
  const char *prefix; // "" or "rope_scaling."
  zm_status status;
} zmi_reader;

bool zmi_read_has(const zmi_reader *r, const char *field); // there and not null
int64_t zmi_read_int(zmi_reader *r, const char *field, int64_t low, int64_t high);
int64_t zmi_read_int_or(zmi_reader *r, const char *field, int64_t fallback, int64_t low, int64_t high);
double zmi_read_number(zmi_reader *r, const char *field, double low, double high);
double zmi_read_number_or(zmi_reader *r, const char *field, double fallback, double low, double high);
bool zmi_read_bool(zmi_reader *r, const char *field);
bool zmi_read_bool_or(zmi_reader *r, const char *field, bool fallback);
const char *zmi_read_text_or(zmi_reader *r, const char *field, const char *fallback); // storage of the JSON value
// An array field of exactly `length` (< 0: any) entries, or NULL if it is missing; failing is the reader's status.
const json_t *zmi_read_array_or_null(zmi_reader *r, const char *field, int64_t length);
const json_t *zmi_read_object_or_null(zmi_reader *r, const char *field);
int64_t zmi_read_item_int(zmi_reader *r, const char *field, const json_t *array, size_t i, int64_t low, int64_t high);
const char *zmi_read_item_text(zmi_reader *r, const char *field, const json_t *array, size_t i); // NULL on failure
// Records a failure of a field: "config.json: hidden_size " and the rest; only the first one counts.
void zmi_read_fail(zmi_reader *r, zm_status status, const char *field, const char *format, ...) __attribute__((format(printf, 4, 5)));

// Fields that several families share.
enum { ZMI_MOST_LAYERS = 1024, ZMI_MOST_WIDTH = 1 << 20, ZMI_MOST_VOCAB = 1 << 24, ZMI_MOST_CONTEXT = 1 << 28, ZMI_MOST_EXPERTS = 1 << 14 };
void zmi_read_sizes(zmi_reader *r, zmi_config *c, const char *eps_field); // hidden_size, layers, vocabulary, context, norms
void zmi_read_heads(zmi_reader *r, zmi_config *c, bool own_head_dim);     // attention heads; head_dim may be given if own_head_dim
void zmi_read_rope(zmi_reader *r, zmi_config *c, double default_theta);   // default_theta 0: the field must be there
void zmi_read_window(zmi_reader *r, zmi_config *c);                       // sliding windows shorten the context to what they leave exact
void zmi_read_activation(zmi_reader *r);                                  // must be silu
void zmi_read_layer_types(zmi_reader *r, zmi_config *c);                  // conv and full_attention layers

#endif
