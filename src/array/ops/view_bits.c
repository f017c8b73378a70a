// view: the bits of an array as another dtype; the last axis becomes shorter or longer where the sizes differ.
#include "array/ops/index.h"

#include <string.h>

typedef struct view_attrs {
  int64_t dtype;
} view_attrs;

static const zmi_field fields[] = {{"dtype", ZMI_FIELD_WORD, offsetof(view_attrs, dtype), zmi_dtype_words}, {0}};

enum { BYTES = 1 << 15 }; // of a tile

static int64_t bytes_of(const zmi_call *c) {
  return zmi_type_count(&c->out[0]->type) * (int64_t)zm_dtype_size(c->out[0]->type.dtype);
}

static int64_t tiles(const zmi_call *c) {
  return zmi_tiles_of(bytes_of(c), BYTES);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const int64_t first = begin * BYTES, last = ZMI_MIN(end * BYTES, bytes_of(c));
  memcpy((char *)c->dst[0] + first, (const char *)c->src[0] + first, (size_t)(last - first));
  if (c->out[0]->type.dtype != ZM_BOOL) return;
  for (int64_t i = first; i < last; i++) ((uint8_t *)c->dst[0])[i] = ((const uint8_t *)c->src[0])[i] != 0; // a bool is 0 or 1
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const view_attrs *a = attrs;
  char text[128];
  int64_t shape[ZM_MAX_RANK];
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (!zmi_dtype_is_known(a->dtype)) return zmi_fail(ZM_ERROR_ARGUMENT, "%lld is no dtype", (long long)a->dtype);
  const int64_t from = (int64_t)zm_dtype_size(in[0].dtype), to = (int64_t)zm_dtype_size((zm_dtype)a->dtype);
  const int last = in[0].rank - 1;
  memcpy(shape, in[0].shape, sizeof shape);
  if (from != to) {
    int64_t bytes;
    if (last < 0 || __builtin_mul_overflow(shape[last], from, &bytes) || bytes % to != 0)
      return zmi_fail(ZM_ERROR_ARGUMENT, "the last axis of %s is no whole number of %s", zmi_type_text(&in[0], text),
                      zm_dtype_name((zm_dtype)a->dtype));
    shape[last] = bytes / to;
  }
  return zmi_give(nout, out, (zm_dtype)a->dtype, in[0].rank, shape);
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  (void)size, (void)batched;
  return n->in[0]->type.rank > 0 ? zmi_reapply(n, in, out) : zmi_vmap_slices(n, size, in, batched, out);
}

static const zmi_rules rules = {.vmap = vmap, .gradient = "none: bits are no numbers"};

const zmi_op zmi_op_view = {.name = "view",
                            .operands = "x",
                            .fields = fields,
                            .rounding = "exact: the bits; as bool: not zero",
                            .infer = infer,
                            .stages = {{tiles, run}},
                            .rules = &rules};

zm_array *zm_view(zm_array *a, zm_dtype dtype) {
  if (!zmi_present("view", 1, &a)) return NULL;
  return a->type.dtype == dtype ? a : zmi_apply1(&zmi_op_view, &(view_attrs){dtype}, sizeof(view_attrs), 1, &a);
}
