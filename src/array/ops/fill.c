// Arrays made of numbers: full (one value seen through strides of zero) and arange.
#include "array/ops/ops.h"
#include <zmlx/ops.h>

#include <math.h>

typedef struct range_attrs {
  double start, step;
  int64_t count, dtype;
} range_attrs;

static const zmi_field range_fields[] = {{"start", ZMI_FIELD_FLOAT, offsetof(range_attrs, start), NULL},
                                         {"step", ZMI_FIELD_FLOAT, offsetof(range_attrs, step), NULL},
                                         {"count", ZMI_FIELD_INT, offsetof(range_attrs, count), NULL},
                                         {"dtype", ZMI_FIELD_WORD, offsetof(range_attrs, dtype), zmi_dtype_words},
                                         {0}};

static void range_run(const zmi_call *c, int64_t begin, int64_t end) {
  const range_attrs *a = c->attrs;
  size_t size = zm_dtype_size((zm_dtype)a->dtype);
  int64_t last = ZMI_MIN(end * ZMI_TILE, a->count);
  for (int64_t i = begin * ZMI_TILE; i < last; i++) {
    zmi_store_double(a->start + (double)i * a->step, (zm_dtype)a->dtype, (char *)c->dst[0] + (size_t)i * size);
  }
}

static zm_status range_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const range_attrs *a = attrs;
  zm_status status = zmi_check_operands(nin, in, 0);
  if (status != ZM_OK) return status;
  if (!zmi_dtype_is_known(a->dtype)) return zmi_fail(ZM_ERROR_ARGUMENT, "%lld is no dtype", (long long)a->dtype);
  return zmi_give(nout, out, (zm_dtype)a->dtype, 1, &a->count);
}

static const zmi_rules range_rules = {.gradient = "none: there are no operands"};

const zmi_op zmi_op_arange = {.name = "arange",
                              .operands = "",
                              .fields = range_fields,
                              .rounding = "start + i * step in double, then converted as by astype; of integers, the first two elements "
                                          "are cut and say what the step is",
                              .infer = range_infer,
                              .stages = {{zmi_element_tiles, range_run}},
                              .rules = &range_rules};

static bool check_dtype(const char *op, zm_dtype dtype) {
  if (zmi_dtype_is_known(dtype)) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: %d is no dtype", op, (int)dtype);
  return false;
}

zm_array *zm_arange(double start, double stop, double step, zm_dtype dtype) {
  if (!check_dtype("arange", dtype)) return NULL;
  double steps = (stop - start) / step;
  if (!(steps < 0x1p52) || step == 0) { // also refuses NaN
    zmi_fail(ZM_ERROR_ARGUMENT, "arange: from %g to %g in steps of %g is no countable range", start, stop, step);
    return NULL;
  }
  range_attrs a = {.start = start, .step = step, .count = steps > 0 ? (int64_t)steps : 0, .dtype = dtype};
  if ((double)a.count < steps) a.count++;
  if (!zmi_dtype_is_float(dtype) && dtype != ZM_BOOL) { // as in MLX and NumPy, elements of integers stand equally far apart
    a.start = trunc(start);
    a.step = trunc(start + step) - a.start;
  }
  return zmi_apply1(&zmi_op_arange, &a, sizeof a, 0, NULL);
}

zm_array *zm_full(double value, zm_dtype dtype, const int64_t *shape, int rank) {
  uint64_t bits = 0;
  if (!check_dtype("full", dtype)) return NULL;
  zmi_store_double(value, dtype, &bits);
  return zm_broadcast_to(zm_array_from_data(&bits, dtype, NULL, 0), shape, rank);
}

zm_array *zm_linspace(double start, double stop, int64_t count, zm_dtype dtype) {
  if (!check_dtype("linspace", dtype)) return NULL;
  if (count < 0 || start - start != 0 || stop - stop != 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "linspace: %lld numbers from %g to %g", (long long)count, start, stop);
    return NULL;
  }
  range_attrs a = {.start = start, .step = count > 1 ? (stop - start) / (double)(count - 1) : 0, .count = count, .dtype = dtype};
  return zmi_apply1(&zmi_op_arange, &a, sizeof a, 0, NULL);
}
