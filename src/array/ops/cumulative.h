// Running results along an axis: attributes that builders, kernels (cumulative.c, linear_scan.c) and rules (cumulative_rules.c) share.
#ifndef ZMI_CUMULATIVE_H
#define ZMI_CUMULATIVE_H

#include "array/ops/ops.h"
#include <zmlx/ops.h>

typedef struct zmi_scan_attrs {
  int64_t axis, reverse, inclusive;
} zmi_scan_attrs;

// y[i] = a[i] y[i - 1] + b[i] along an axis (y[-1] = 0), for floats; reverse: y[i] = a[i] y[i + 1] + b[i].
zm_array *zmi_linear_scan(zm_array *a, zm_array *b, int axis, bool reverse);

extern const zmi_rules zmi_rules_cumsum, zmi_rules_cumprod, zmi_rules_cummax, zmi_rules_cummin, zmi_rules_logcumsumexp,
    zmi_rules_linear_scan;

#endif
