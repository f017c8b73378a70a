// What the op of random words and the functions made of it share.
#ifndef ZMI_RANDOM_H
#define ZMI_RANDOM_H

#include "array/array.h"

typedef struct zmi_random_attrs {
  int64_t dtype, rank, shape[ZM_MAX_RANK];
} zmi_random_attrs;

#endif
