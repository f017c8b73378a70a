// Sorting: attributes that kernels (sort.c), builders and rules (sort_rules.c) share.
#ifndef ZMI_SORT_H
#define ZMI_SORT_H

#include "array/ops/ops.h"
#include <zmlx/ops.h>

typedef enum zmi_sort_kind { ZMI_SORT_WHOLE, ZMI_SORT_PART, ZMI_SORT_TOP } zmi_sort_kind;
typedef enum zmi_sort_gives { ZMI_SORT_VALUES, ZMI_SORT_INDICES, ZMI_SORT_BOTH } zmi_sort_gives;

// k: the place of a PART, the number of results of a TOP. Always along the last axis.
typedef struct zmi_sort_attrs {
  int64_t kind, gives, k;
} zmi_sort_attrs;

extern const zmi_rules zmi_rules_sort, zmi_rules_argsort, zmi_rules_partition, zmi_rules_argpartition, zmi_rules_topk;

#endif
