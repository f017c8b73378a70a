// place: zeros, and the operand at evenly stepped places of them. It takes a slice back, so it is what gradients of slices are made of.
#include "array/ops/ops.h"

#include <string.h>

typedef struct place_attrs {
  int64_t rank, whole[ZM_MAX_RANK], start[ZM_MAX_RANK], step[ZM_MAX_RANK];
} place_attrs;

static const zmi_field fields[] = {{"rank", ZMI_FIELD_INT, offsetof(place_attrs, rank), NULL},
                                   ZMI_FIELDS8("dim", place_attrs, whole),
                                   ZMI_FIELDS8("start", place_attrs, start),
                                   ZMI_FIELDS8("step", place_attrs, step),
                                   {0}};

// The index on the operand's axis that lies at `at` of the result's; -1 if none does.
static int64_t index_at(const zmi_call *c, int axis, int64_t at) {
  const place_attrs *a = c->attrs;
  const int64_t away = at - a->start[axis], step = a->step[axis], count = c->in[0]->type.shape[axis];
  if (count == 0 || away % step != 0) return -1;
  const int64_t i = away / step;
  return i >= 0 && i < count ? i : -1;
}

// Rows are the runs along the last axis; a tile has as many as make about ZMI_TILE elements.
static int64_t row_length(const zmi_call *c) {
  const zmi_type *t = &c->out[0]->type;
  return t->rank ? t->shape[t->rank - 1] : 1;
}

static int64_t tile_rows(const zmi_call *c) {
  return ZMI_MAX(ZMI_TILE / ZMI_MAX(row_length(c), 1), 1);
}

static int64_t tiles(const zmi_call *c) {
  const int64_t count = zmi_type_count(&c->out[0]->type);
  return count == 0 ? 0 : zmi_tiles_of(count / row_length(c), tile_rows(c));
}

static void place_row(const zmi_call *c, int64_t row, size_t size) {
  const zmi_type *t = &c->out[0]->type;
  const place_attrs *a = c->attrs;
  const int64_t n = row_length(c);
  const int last = t->rank - 1;
  char *dst = (char *)c->dst[0] + (size_t)(row * n) * size;
  memset(dst, 0, (size_t)n * size);
  int64_t from = 0, places[ZM_MAX_RANK];
  for (int i = last - 1; i >= 0; i--) {
    places[i] = index_at(c, i, row % t->shape[i]);
    row /= t->shape[i];
    if (places[i] < 0) return;
  }
  for (int i = 0; i < last; i++) from += places[i] * c->in[0]->stride[i];
  const char *src = (const char *)c->src[0] + from * (int64_t)size;
  if (last < 0) {
    memcpy(dst, src, size);
    return;
  }
  const int64_t count = c->in[0]->type.shape[last], stride = c->in[0]->stride[last];
  if (a->step[last] == 1 && stride == 1) {
    zmi_copy_piece(dst + (size_t)a->start[last] * size, src, (size_t)count * size);
    return;
  }
  for (int64_t i = 0; i < count; i++)
    memcpy(dst + (size_t)(a->start[last] + i * a->step[last]) * size, src + i * stride * (int64_t)size, size);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const int64_t rows = tile_rows(c), all = zmi_type_count(&c->out[0]->type) / row_length(c);
  const size_t size = zm_dtype_size(c->out[0]->type.dtype);
  for (int64_t row = begin * rows; row < ZMI_MIN(end * rows, all); row++) place_row(c, row, size);
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const place_attrs *a = attrs;
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (a->rank != in[0].rank)
    return zmi_fail(ZM_ERROR_ARGUMENT, "an operand of rank %d in a result of rank %lld", in[0].rank, (long long)a->rank);
  for (int i = 0; i < in[0].rank; i++) {
    const int64_t count = in[0].shape[i];
    int64_t span, last;
    bool good = a->step[i] != 0 && a->whole[i] >= 0;
    if (good && count > 0) {
      good = a->start[i] >= 0 && a->start[i] < a->whole[i] && !__builtin_mul_overflow(count - 1, a->step[i], &span) &&
             !__builtin_add_overflow(a->start[i], span, &last) && last >= 0 && last < a->whole[i];
    }
    if (!good) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %d: %lld elements from %lld in steps of %lld leave the %lld of the result", i,
                      (long long)count, (long long)a->start[i], (long long)a->step[i], (long long)a->whole[i]);
    }
  }
  return zmi_give(nout, out, in[0].dtype, in[0].rank, a->whole);
}

static const place_attrs *attrs_of(const zmi_node *n) {
  return (const place_attrs *)(const void *)n->attrs.bytes;
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)wanted;
  gradient[0] = zmi_slice_exactly(given[0], attrs_of(n)->start, attrs_of(n)->step, n->in[0]->type.shape);
  return ZM_OK;
}

static zm_status jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  return zmi_reapply(n, tangent, result);
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  const place_attrs *a = attrs_of(n);
  place_attrs more = {.rank = a->rank + 1, .whole = {size}, .step = {1}}; // a batch of the highest rank cannot be made
  (void)batched;
  for (int i = 0; i < a->rank; i++) {
    more.whole[i + 1] = a->whole[i];
    more.start[i + 1] = a->start[i];
    more.step[i + 1] = a->step[i];
  }
  return zmi_apply(n->op, &more, sizeof more, 1, in, out);
}

static const zmi_rules rules = {.vjp = vjp, .jvp = jvp, .vmap = vmap, .gradient = "x"};

const zmi_op zmi_op_place = {.name = "place",
                             .operands = "x",
                             .fields = fields,
                             .rounding = "exact",
                             .flags = ZMI_OP_STRIDED,
                             .infer = infer,
                             .stages = {{tiles, run}},
                             .rules = &rules};

zm_array *zmi_place(zm_array *a, const zmi_type *whole, const int64_t *start, const int64_t *step) {
  if (!zmi_present("place", 1, &a)) return NULL;
  place_attrs attrs = {.rank = whole->rank};
  for (int i = 0; i < whole->rank; i++) {
    attrs.whole[i] = whole->shape[i];
    attrs.start[i] = start[i];
    attrs.step[i] = step[i] ? step[i] : 1;
  }
  return zmi_apply1(&zmi_op_place, &attrs, sizeof attrs, 1, &a);
}
