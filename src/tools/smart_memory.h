// What zm_smart_patch remembers between processes: one small JSON file in the cache folder for each device, build, model shape and request.
// Remembering is never a reason to fail: a file that cannot be read or written, or that is not what it should be, is as good as none.
#ifndef ZMI_SMART_MEMORY_H
#define ZMI_SMART_MEMORY_H

#include "tools/tools.h"

typedef enum zmi_smart_outcome {
  ZMI_SMART_KEPT,
  ZMI_SMART_NO_PLACE,
  ZMI_SMART_NO_GAIN,
  ZMI_SMART_DIFFERS,
  ZMI_SMART_OUTCOMES
} zmi_smart_outcome;

typedef struct zmi_smart_entry {
  size_t pattern;
  zmi_smart_outcome outcome;
  zmi_interval speedup; // zeros unless it was measured
} zmi_smart_entry;

// What became of each candidate, in the order of the patterns.
typedef struct zmi_smart_choice {
  zmi_smart_entry entries[64]; // a zmi_patterns has no more
  size_t count;
} zmi_smart_choice;

typedef struct zmi_smart_memory {
  json_t *key;  // everything that the choice depends on
  char *folder; // NULL: nothing is remembered
  char *path;   // of the key's file
} zmi_smart_memory;

zmi_patterns zmi_smart_kept(const zmi_smart_choice *choice);

void zmi_smart_memory_open(zmi_smart_memory *s, const zm_model *m, zmi_patterns candidates, int32_t rounds, int32_t tokens);
void zmi_smart_memory_close(zmi_smart_memory *s);
// True if the file of this key holds a whole choice for just these candidates.
bool zmi_smart_recall(const zmi_smart_memory *s, zmi_patterns candidates, zmi_smart_choice *choice);
// Writes the file and removes the oldest of its kind where there are more than 64.
void zmi_smart_store(const zmi_smart_memory *s, const zmi_smart_choice *choice);

#endif
