// The patch room: patterns that match a subgraph of a model and replace it by one fused op that gives the same bits. One file a pattern,
// one row in the table of table.c. The public names zm_pattern_* and zm_patch_report_* live here too.
#ifndef ZMI_PATCH_H
#define ZMI_PATCH_H

#include "array/array.h"
#include <zmlx/model.h>

// A choice of patterns: bit i is pattern i of zm_pattern_name(i); the highest bit, the model's own patterns (zm_patch_with).
typedef uint64_t zmi_patterns;
#define ZMI_PATTERNS_OWN ((zmi_patterns)1 << 63)

typedef struct zmi_pattern {
  const char *name, *summary;
  // Rewrites every place in the graph that fits and tells the report (may be NULL) about each place, matched or not. The graph is fresh on
  // entry.
  zm_status (*rewrite)(zmi_graph *graph, zm_patch_report *report);
} zmi_pattern;

// The choice that options (NULL: all patterns) name; an unknown name is an error that lists the known ones.
zm_status zmi_patterns_choose(const zm_patch_options *options, zmi_patterns *patterns);
// Applies the chosen patterns in table order. report may be NULL.
zm_status zmi_patterns_apply(zmi_patterns patterns, zmi_graph *graph, zm_patch_report *report);

// Applies patterns of users in their order, before those of the table. report may be NULL.
zm_status zmi_own_patterns_apply(const zm_own_pattern *own, size_t count, zmi_graph *graph, zm_patch_report *report);

// The fused ops, which patched tapes contain. find also knows every op of the array room: it is what parses any tape.
const zmi_op *zmi_patch_op_find(const char *name); // NULL if unknown
size_t zmi_patch_op_count(void);
bool zmi_patch_op_replaces(const zmi_op *fused, const char *op); // whether it rounds as that op: its sentence of rounding names it
const zmi_op *zmi_patch_op_at(size_t i);

zm_patch_report *zmi_patch_report_new(void);
zm_status zmi_patch_report_add(zm_patch_report *r, const zm_patch_entry *entry); // copies the strings; ok when r is NULL

#endif
