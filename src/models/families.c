// The table of families. A new family is one file and one row here.
#include "models/family.h"

#include <string.h>

static const zmi_family *const families[] = {
    &zmi_family_llama, &zmi_family_qwen3, &zmi_family_qwen3_moe, &zmi_family_lfm2, &zmi_family_lfm2_moe,
};

size_t zmi_family_count(void) {
  return ZMI_COUNT(families);
}

const char *zmi_family_name(size_t i) {
  return i < ZMI_COUNT(families) ? families[i]->name : NULL;
}

const zmi_family *zmi_family_find(const char *model_type) {
  for (size_t i = 0; i < ZMI_COUNT(families); i++)
    for (const char *const *name = families[i]->model_types; *name; name++)
      if (strcmp(*name, model_type) == 0) return families[i];
  return NULL;
}
