// Shapes: rearranging, joining, cutting and padding, made of views and a few ops that copy.
#include "array/ops/index.h"

#include <string.h>

zm_array *zm_swapaxes(zm_array *a, int axis1, int axis2) {
  int one, two, order[ZM_MAX_RANK];
  if (!zmi_present("swapaxes", 1, &a)) return NULL;
  if (!zmi_axis("swapaxes", axis1, a->type.rank, &one) || !zmi_axis("swapaxes", axis2, a->type.rank, &two)) return NULL;
  if (one == two) return a;
  for (int i = 0; i < a->type.rank; i++) order[i] = i == one ? two : i == two ? one : i;
  return zm_transpose(a, order);
}
