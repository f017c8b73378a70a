// A family: which configurations it reads, and its graph. Private to the models room.
#ifndef ZMI_MODELS_FAMILY_H
#define ZMI_MODELS_FAMILY_H

#include "models/build.h"
#include "models/config.h"

struct zmi_family {
  const char *name;
  const char *const *model_types; // ends with NULL
  // Reads the family's fields; what is shared by all families is read afterwards.
  void (*parse)(zmi_reader *r, zmi_config *c);
  // Builds the graph: the result of zmi_build_head, or NULL on failure.
  zm_array *(*build)(zmi_build *b);
  // Tensor names of the original Hugging Face layout: each `from` found in a name becomes `to`. Ends with a NULL `from`; NULL = none.
  const struct zmi_rename { const char *from, *to; } * renames;
};

const zmi_family *zmi_family_find(const char *model_type); // NULL if unknown
extern const zmi_family zmi_family_llama, zmi_family_qwen3, zmi_family_qwen3_moe, zmi_family_lfm2, zmi_family_lfm2_moe;

#endif
