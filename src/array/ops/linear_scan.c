// linear_scan: y[i] = a[i] y[i - 1] + b[i] along the middle of [outer, K, inner], with nothing before the first (reverse: after the last).
// Product and sum in float32, one after the other from the start: rows are independent, and several of them go side by side.
#include "array/ops/cumulative.h"

#include <string.h>

enum { WIDTH = 64 };

typedef struct layout {
  int64_t outer, k, inner, strips;
  bool reverse;
} layout;

static layout layout_of(const zmi_call *c) {
  const zmi_scan_attrs *a = c->attrs;
  const zmi_type *t = &c->in[0]->type;
  layout l = {.outer = 1, .k = t->shape[a->axis], .inner = 1, .reverse = a->reverse};
  for (int i = 0; i < a->axis; i++) l.outer *= t->shape[i];
  for (int i = (int)a->axis + 1; i < t->rank; i++) l.inner *= t->shape[i];
  l.strips = zmi_tiles_of(l.inner, WIDTH);
  return l;
}

static int64_t tiles(const zmi_call *c) {
  layout l = layout_of(c);
  return l.k == 0 ? 0 : l.outer * l.strips;
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  layout l = layout_of(c);
  for (int64_t tile = begin; tile < end; tile++) {
    const int64_t o = tile / l.strips, col = tile % l.strips * WIDTH, width = ZMI_MIN(WIDTH, l.inner - col);
    float y[WIDTH] = {0};
    for (int64_t i = 0; i < l.k; i++) {
      const int64_t at = (o * l.k + (l.reverse ? l.k - 1 - i : i)) * l.inner + col;
      const float *a = (const float *)c->src[0] + at, *b = (const float *)c->src[1] + at;
      float *out = (float *)c->dst[0] + at;
      if (i == 0) {
        for (int64_t j = 0; j < width; j++) out[j] = y[j] = b[j];
      } else {
        for (int64_t j = 0; j < width; j++) out[j] = y[j] = a[j] * y[j] + b[j];
      }
    }
  }
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zmi_scan_attrs *a = attrs;
  char one[128], other[128];
  zm_status status = zmi_check_operands(nin, in, 2);
  if (status != ZM_OK) return status;
  if (!zmi_type_equal(&in[0], &in[1]) || in[0].dtype != ZM_F32)
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected two float32 arrays of one shape, found %s and %s", zmi_type_text(&in[0], one),
                    zmi_type_text(&in[1], other));
  if (a->axis < 0 || a->axis >= in[0].rank)
    return zmi_fail(ZM_ERROR_ARGUMENT, "axis %lld is out of range for %s", (long long)a->axis, zmi_type_text(&in[0], one));
  return zmi_give(nout, out, ZM_F32, in[0].rank, in[0].shape);
}

static const zmi_field fields[] = {{"axis", ZMI_FIELD_INT, offsetof(zmi_scan_attrs, axis), NULL},
                                   {"reverse", ZMI_FIELD_INT, offsetof(zmi_scan_attrs, reverse), NULL},
                                   {0}};

const zmi_op zmi_op_linear_scan = {.name = "linear_scan",
                                   .operands = "a b",
                                   .fields = fields,
                                   .rounding = "a * y + b in float32, the product rounded before the sum, one after another",
                                   .infer = infer,
                                   .stages = {{tiles, run}},
                                   .rules = &zmi_rules_linear_scan};

zm_array *zmi_linear_scan(zm_array *a, zm_array *b, int axis, bool reverse) {
  zm_array *in[2] = {a, b};
  if (!zmi_present("linear_scan", 2, in)) return NULL;
  return zmi_apply1(&zmi_op_linear_scan, &(zmi_scan_attrs){axis, reverse, 1}, sizeof(zmi_scan_attrs), 2, in);
}

zm_array *zm_linear_scan(zm_array *a, zm_array *b, int axis, bool reverse) {
  zm_array *in[2] = {a, b};
  int rank, at;
  int64_t shape[ZM_MAX_RANK];
  if (!zmi_present("linear_scan", 2, in) || !zmi_broadcast_shape("linear_scan", &a->type, &b->type, &rank, shape)) return NULL;
  if (!zmi_axis("linear_scan", axis, rank, &at)) return NULL;
  const zm_dtype to = zmi_at_least_float(zm_dtype_promote(a->type.dtype, b->type.dtype));
  for (int i = 0; i < 2; i++) in[i] = zm_broadcast_to(zm_astype(in[i], ZM_F32), shape, rank);
  return zm_astype(zmi_linear_scan(in[0], in[1], at, reverse), to);
}
