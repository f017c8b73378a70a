// write_keys and write_values: the rows of a step go to their places in the caches. Keys lie in blocks of 16 positions, each pair of
// elements of all 16 positions side by side, as the attention kernels read them; values lie position after position.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <string.h>

enum { CACHE, NEW, POSITION, SEQUENCE };

zm_status zmi_want_head_dtype(const char *operand, const zmi_type *t) {
  if (t->dtype == ZM_BF16 || t->dtype == ZM_F32) return ZM_OK;
  return zmi_fail(ZM_ERROR_UNSUPPORTED, "%s: attention is computed in bfloat16 or float32, found %s", operand, zm_dtype_name(t->dtype));
}

zm_status zmi_want_cache(const char *operand, const zmi_type *t, bool keys) {
  const char *form = keys ? "[sequences, heads, blocks, dim/2, 16, 2]" : "[sequences, heads, context, dim]";
  zm_status status = zmi_want_rank(operand, t, keys ? 6 : 4, form);
  if (status == ZM_OK) status = zmi_want_head_dtype(operand, t);
  if (status == ZM_OK && keys) status = zmi_want_dim(operand, t, 4, ZMI_KEY_BLOCK, "positions of a block");
  if (status == ZM_OK && keys) status = zmi_want_dim(operand, t, 5, 2, "a pair of elements");
  if (status != ZM_OK) return status;
  // Dimensions may be anything where another one is zero: compare before multiplying.
  int64_t part = t->shape[3], most = keys ? ZMI_MAX_HEAD / 2 : ZMI_MAX_HEAD;
  if (part < 1 || part > most || (!keys && part % 2 != 0)) {
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "%s: %lld %s; heads of an even number of elements from 2 to %d are supported", operand,
                    (long long)part, keys ? "pairs" : "elements", ZMI_MAX_HEAD);
  }
  bool fits = t->shape[2] <= INT32_MAX / (keys ? ZMI_KEY_BLOCK : 1) && t->shape[0] <= INT32_MAX;
  int64_t context = !fits ? t->shape[2] : keys ? t->shape[2] * ZMI_KEY_BLOCK : t->shape[2];
  if (fits && context % ZMI_KEY_BLOCK == 0) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s: %lld positions of %lld sequences: positions must be a multiple of %d, both below 2^31", operand,
                  (long long)context, (long long)t->shape[0], ZMI_KEY_BLOCK);
}

// The row's place in the cache, counted in positions of all sequences and heads; -1 for a row that has none.
static int64_t place(const zmi_heads *h, int64_t row, int64_t head) {
  int64_t p = h->position[row], s = h->sequence[row];
  if (p < 0 || p >= h->context || s < 0 || s >= h->sequences) return -1;
  return (s * h->kv_heads + head) * h->context + p;
}

// Rows in order: should two of them have one place, the later one stays, whatever the workers.
void zmi_keys_run(const zmi_heads *h, int64_t begin, int64_t end) {
  size_t pair = 2 * zm_dtype_size(h->dtype);
  for (int64_t head = begin; head < end; head++) {
    for (int64_t r = 0; r < h->rows; r++) {
      int64_t at = place(h, r, head);
      if (at < 0) continue;
      const char *from = zmi_at(h->new_keys, h->dtype, (r * h->kv_heads + head) * h->dim);
      char *to = (char *)zmi_at(h->keys, h->dtype, (at - at % ZMI_KEY_BLOCK) * h->dim) + (size_t)(at % ZMI_KEY_BLOCK) * pair;
      for (int64_t j = 0; j < h->dim / 2; j++) memcpy(to + (size_t)(j * ZMI_KEY_BLOCK) * pair, from + (size_t)j * pair, pair);
    }
  }
}

void zmi_values_run(const zmi_heads *h, int64_t begin, int64_t end) {
  for (int64_t head = begin; head < end; head++) {
    for (int64_t r = 0; r < h->rows; r++) {
      int64_t at = place(h, r, head);
      if (at < 0) continue;
      const void *from = zmi_at(h->new_values, h->dtype, (r * h->kv_heads + head) * h->dim);
      memcpy(zmi_at(h->values, h->dtype, at * h->dim), from, (size_t)h->dim * zm_dtype_size(h->dtype));
    }
  }
}

static zm_status infer(bool keys, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const char *name = keys ? "keys" : "values";
  zm_status status = zmi_want_operands(nin, in, 4, 4);
  if (status == ZM_OK) status = zmi_want_cache("cache", &in[CACHE], keys);
  if (status == ZM_OK) status = zmi_want_rank(name, &in[NEW], 3, "[rows, heads, dim]");
  if (status == ZM_OK) status = zmi_want_dtype(name, &in[NEW], in[CACHE].dtype);
  if (status == ZM_OK) status = zmi_want_dim(name, &in[NEW], 1, in[CACHE].shape[1], "heads of the cache");
  if (status == ZM_OK) status = zmi_want_dim(name, &in[NEW], 2, keys ? 2 * in[CACHE].shape[3] : in[CACHE].shape[3], "elements of a head");
  if (status == ZM_OK) status = zmi_want_index("position", &in[POSITION], in[NEW].shape[0]);
  if (status == ZM_OK) status = zmi_want_index("sequence", &in[SEQUENCE], in[NEW].shape[0]);
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = in[CACHE];
  return ZM_OK;
}

static zm_status infer_keys(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  return infer(true, nin, in, nout, out);
}

static zm_status infer_values(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  return infer(false, nin, in, nout, out);
}

static zmi_heads heads_of(const zmi_call *c, bool keys) {
  const zmi_type *x = &c->in[NEW]->type, *cache = &c->in[CACHE]->type;
  zmi_heads h = {.kernels = c->kernels, .dtype = x->dtype, .rows = x->shape[0], .kv_heads = x->shape[1], .dim = x->shape[2]};
  h.context = keys ? cache->shape[2] * ZMI_KEY_BLOCK : cache->shape[2];
  h.sequences = cache->shape[0];
  h.position = c->src[POSITION];
  h.sequence = c->src[SEQUENCE];
  if (keys) {
    h.new_keys = c->src[NEW];
    h.keys = c->dst[0];
  } else {
    h.new_values = c->src[NEW];
    h.values = c->dst[0];
  }
  return h;
}

static int64_t tiles(const zmi_call *c) {
  return c->in[NEW]->type.shape[0] ? c->in[NEW]->type.shape[1] : 0;
}

static void run_keys(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_heads h = heads_of(c, true);
  zmi_keys_run(&h, begin, end);
}

static void run_values(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_heads h = heads_of(c, false);
  zmi_values_run(&h, begin, end);
}

static const zmi_rules rules = {.vmap = zmi_vmap_refused, .gradient = "none: a state is updated in place"};

const zmi_op zmi_op_write_keys = {
    .name = "write_keys",
    .operands = "cache keys position sequence",
    .rounding = "Nothing is rounded. Rows whose position or sequence is out of range are not written.",
    .updates = {1},
    .infer = infer_keys,
    .device = zmi_write_keys_device,
    .stages = {{tiles, run_keys}},
    .rules = &rules,
};

const zmi_op zmi_op_write_values = {
    .name = "write_values",
    .operands = "cache values position sequence",
    .rounding = "Nothing is rounded. Rows whose position or sequence is out of range are not written.",
    .updates = {1},
    .infer = infer_values,
    .device = zmi_write_values_device,
    .stages = {{tiles, run_values}},
    .rules = &rules,
};

zm_array *zmi_write_keys(zm_array *cache, zm_array *keys, zm_array *position, zm_array *sequence) {
  return zmi_apply1(&zmi_op_write_keys, NULL, 0, 4, (zm_array *[]){cache, keys, position, sequence});
}

zm_array *zmi_write_values(zm_array *cache, zm_array *values, zm_array *position, zm_array *sequence) {
  return zmi_apply1(&zmi_op_write_values, NULL, 0, 4, (zm_array *[]){cache, values, position, sequence});
}
