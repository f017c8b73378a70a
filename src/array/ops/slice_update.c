// slice_update: a copy of x where a slice is replaced; its start is fixed or, for some axes, an operand.
// slice_at: a slice whose start is an operand. A start is moved so that the slice lies inside.
#include "array/ops/index.h"

#include <string.h>

// count: axes whose start is an operand.
typedef struct update_attrs {
  int64_t rank, count, start[ZM_MAX_RANK], step[ZM_MAX_RANK], axis[ZM_MAX_RANK];
} update_attrs;
typedef struct slice_attrs {
  int64_t rank, count, size[ZM_MAX_RANK], axis[ZM_MAX_RANK];
} slice_attrs;

static const zmi_field update_fields[] = {{"rank", ZMI_FIELD_INT, offsetof(update_attrs, rank), NULL},
                                          {"count", ZMI_FIELD_INT, offsetof(update_attrs, count), NULL},
                                          ZMI_FIELDS8("start", update_attrs, start),
                                          ZMI_FIELDS8("step", update_attrs, step),
                                          ZMI_FIELDS8("axis", update_attrs, axis),
                                          {0}};
static const zmi_field slice_fields[] = {{"rank", ZMI_FIELD_INT, offsetof(slice_attrs, rank), NULL},
                                         {"count", ZMI_FIELD_INT, offsetof(slice_attrs, count), NULL},
                                         ZMI_FIELDS8("size", slice_attrs, size),
                                         ZMI_FIELDS8("axis", slice_attrs, axis),
                                         {0}};

// Starts from operand `operand`: limited to what leaves room for the slice.
static void read_starts(const zmi_call *c, int operand, int64_t count, const int64_t *axis, const zmi_type *slice, int64_t *start) {
  if (count == 0) return;
  const zmi_type *x = &c->in[0]->type;
  const zmi_walk w = zmi_walk_of(c->in[operand]);
  const size_t size = zm_dtype_size(c->in[operand]->type.dtype);
  for (int64_t k = 0; k < count; k++) {
    uint64_t raw;
    int64_t at;
    const int64_t room = x->shape[axis[k]] - slice->shape[axis[k]];
    zmi_gather(&w, c->src[operand], size, k, 1, &raw);
    // Negative ones count from the end; what is far out of range is told from its sign.
    zmi_read_indices(&raw, c->in[operand]->type.dtype, 0, 1, x->shape[axis[k]], &at);
    if (at < 0) {
      const bool negative = c->in[operand]->type.dtype >= ZM_I8 && (((const uint8_t *)&raw)[size - 1] & 0x80);
      at = negative ? 0 : room;
    }
    start[axis[k]] = ZMI_MIN(at, room);
  }
}

static zm_status check_starts(int64_t count, const int64_t *axis, const zmi_type *x, const zmi_type *start) {
  char text[128];
  zm_status status = zmi_check_indices("start", start);
  if (status != ZM_OK) return status;
  if (count < 0 || count > x->rank || zmi_type_count(start) != count || start->rank > 1)
    return zmi_fail(ZM_ERROR_ARGUMENT, "start must hold one index for each of %lld axes, found %s", (long long)count,
                    zmi_type_text(start, text));
  for (int64_t k = 0; k < count; k++) {
    if (axis[k] < 0 || axis[k] >= x->rank)
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %lld is out of range for %s", (long long)axis[k], zmi_type_text(x, text));
  }
  return ZM_OK;
}

// ---- slice_at ----

static void at_run(const zmi_call *c, int64_t begin, int64_t end) {
  const slice_attrs *a = c->attrs;
  const zmi_type *out = &c->out[0]->type;
  const size_t size = zm_dtype_size(out->dtype);
  int64_t start[ZM_MAX_RANK] = {0}, shift = 0;
  read_starts(c, 1, a->count, a->axis, out, start);
  zmi_slot slice = *c->in[0];
  slice.type = *out;
  for (int i = 0; i < out->rank; i++) shift += start[i] * slice.stride[i];
  const zmi_walk w = zmi_walk_of(&slice);
  const int64_t first = begin * ZMI_TILE, last = ZMI_MIN(end * ZMI_TILE, zmi_type_count(out));
  zmi_gather(&w, (const char *)c->src[0] + shift * (int64_t)size, size, first, last - first, (char *)c->dst[0] + (size_t)first * size);
}

static zm_status at_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const slice_attrs *a = attrs;
  char text[128];
  zm_status status = zmi_check_operands(nin, in, 2);
  if (status == ZM_OK) status = check_starts(a->count, a->axis, &in[0], &in[1]);
  if (status != ZM_OK) return status;
  if (a->rank != in[0].rank) return zmi_fail(ZM_ERROR_ARGUMENT, "%lld sizes for %s", (long long)a->rank, zmi_type_text(&in[0], text));
  for (int i = 0; i < in[0].rank; i++) {
    if (a->size[i] < 0 || a->size[i] > in[0].shape[i])
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %d: %lld elements of %s", i, (long long)a->size[i], zmi_type_text(&in[0], text));
  }
  return zmi_give(nout, out, in[0].dtype, in[0].rank, a->size);
}

// ---- slice_update ----

static int64_t update_tiles(const zmi_call *c) {
  return zmi_tiles_of(zmi_type_count(&c->in[1]->type), ZMI_TILE);
}

static void update_run(const zmi_call *c, int64_t begin, int64_t end) {
  const update_attrs *a = c->attrs;
  const zmi_type *u = &c->in[1]->type;
  const size_t size = zm_dtype_size(u->dtype);
  int64_t start[ZM_MAX_RANK], shift = 0;
  memcpy(start, a->start, sizeof start);
  read_starts(c, 2, a->count, a->axis, u, start);
  zmi_slot slice = *c->out[0];
  slice.type = *u;
  for (int i = 0; i < u->rank; i++) {
    shift += start[i] * slice.stride[i];
    if (u->shape[i] > 1) slice.stride[i] *= a->step[i];
  }
  const zmi_walk to = zmi_walk_of(&slice);
  const zmi_reader from = zmi_reader_of(c, 1);
  const int64_t last = ZMI_MIN(end * ZMI_TILE, zmi_type_count(u));
  uint64_t raw[ZMI_CHUNK];
  for (int64_t at = begin * ZMI_TILE; at < last; at += ZMI_CHUNK) {
    const int64_t n = ZMI_MIN(ZMI_CHUNK, last - at);
    zmi_put_walk(&to, (char *)c->dst[0] + shift * (int64_t)size, size, at, n, zmi_read(&from, at, n, raw));
  }
}

static zm_status update_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const update_attrs *a = attrs;
  char one[128], other[128];
  if (nin < 2 || nin > 3) return zmi_fail(ZM_ERROR_ARGUMENT, "takes 2 or 3 operands, got %d", nin);
  zm_status status = zmi_check_operands(2, in, 2);
  if (status != ZM_OK) return status;
  if (nin > 2 && in[2].rank >= 0)
    status = check_starts(a->count, a->axis, &in[0], &in[2]);
  else if (a->count != 0)
    status = zmi_fail(ZM_ERROR_ARGUMENT, "start is missing for %lld axes", (long long)a->count);
  if (status != ZM_OK) return status;
  if (a->rank != in[0].rank || in[1].rank != in[0].rank || in[1].dtype != in[0].dtype)
    return zmi_fail(ZM_ERROR_ARGUMENT, "an update of the operand's rank and dtype expected, found %s for %s", zmi_type_text(&in[1], other),
                    zmi_type_text(&in[0], one));
  for (int i = 0; i < in[0].rank; i++) {
    const int64_t count = in[1].shape[i];
    int64_t span = 0, last = 0;
    bool good = count <= in[0].shape[i];
    if (good && count > 0) {
      good = a->start[i] >= 0 && a->start[i] < in[0].shape[i] && !__builtin_mul_overflow(count - 1, a->step[i], &span) &&
             !__builtin_add_overflow(a->start[i], span, &last) && last >= 0 && last < in[0].shape[i] && (count == 1 || a->step[i] != 0);
    }
    if (!good)
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %d: %lld elements from %lld in steps of %lld leave %s", i, (long long)count,
                      (long long)a->start[i], (long long)a->step[i], zmi_type_text(&in[0], one));
  }
  for (int i = 0; i < in[0].rank && a->count > 0; i++) {
    if (a->start[i] != 0 || a->step[i] != 1)
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %d has a fixed start or a step beside starts of an operand", i);
  }
  return zmi_give(nout, out, in[0].dtype, in[0].rank, in[0].shape);
}

// ---- rules ----

static zm_status done(zm_array *a) {
  return a ? ZM_OK : zm_last_status();
}

static update_attrs update_of(const zmi_node *n) {
  update_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return a;
}

// The slice of x that the node of an update replaces.
static zm_array *slice_of(const zmi_node *n, zm_array *x) {
  const update_attrs a = update_of(n);
  const zmi_type *u = &n->in[1]->type;
  if (a.count > 0) {
    // Axes without an operand: a fixed slice first.
    slice_attrs s = {.rank = u->rank, .count = a.count};
    memcpy(s.size, u->shape, sizeof s.size);
    memcpy(s.axis, a.axis, sizeof s.axis);
    zm_array *in[2] = {x, n->in[2]};
    return zmi_present("slice_at", 2, in) ? zmi_apply1(&zmi_op_slice_at, &s, sizeof s, 2, in) : NULL;
  }
  int64_t stop[ZM_MAX_RANK];
  for (int i = 0; i < u->rank; i++) {
    const int64_t end = a.start[i] + (u->shape[i] - 1) * a.step[i];
    stop[i] = u->shape[i] == 0 ? a.start[i] : a.step[i] > 0 ? end + 1 : end > 0 ? end - 1 : -x->type.shape[i] - 1;
  }
  return x ? zm_slice(x, a.start, stop, a.step) : NULL;
}

static zm_array *updated(const zmi_node *n, zm_array *x, zm_array *update) {
  zm_array *in[3] = {x, update, n->nin > 2 ? n->in[2] : NULL};
  return zmi_present("slice_update", 2, in) ? zmi_apply1(n->op, n->attrs.bytes, sizeof(update_attrs), n->nin, in) : NULL;
}

static zm_status update_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (!given[0] || !zmi_dtype_is_float(n->in[0]->type.dtype)) return ZM_OK;
  if (wanted[0] && !(gradient[0] = updated(n, given[0], zmi_zeros_like(&n->in[1]->type)))) return zm_last_status();
  if (wanted[1] && !(gradient[1] = slice_of(n, given[0]))) return zm_last_status();
  return ZM_OK;
}

static zm_status update_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  if (!tangent[0] && !tangent[1]) return ZM_OK;
  zm_array *x = tangent[0] ? tangent[0] : zmi_zeros_like(&n->in[0]->type);
  return done(result[0] = updated(n, x, tangent[1] ? tangent[1] : zmi_zeros_like(&n->in[1]->type)));
}

static zm_array *row_of(zm_array *a, int64_t i) {
  int64_t first[ZM_MAX_RANK] = {i}, last[ZM_MAX_RANK];
  if (!a) return NULL;
  memcpy(last, a->type.shape, sizeof last);
  last[0] = i + 1;
  return zm_squeeze(zm_slice(a, first, last, NULL), 0);
}

static zm_status update_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  update_attrs a = update_of(n), b = {.rank = a.rank + 1, .count = a.count, .step = {1}};
  zm_array *all[3] = {zmi_batch(in[0], batched[0], size), zmi_batch(in[1], batched[1], size), n->nin > 2 ? in[2] : NULL};
  for (int i = 0; i < a.rank; i++) {
    b.start[i + 1] = a.start[i];
    b.step[i + 1] = a.step[i];
  }
  for (int i = 0; i < a.count; i++) b.axis[i] = a.axis[i] + 1;
  if (n->nin < 3 || !batched[2]) {
    if (!zmi_present("slice_update", 2, all)) return zm_last_status();
    return done(out[0] = zmi_apply1(n->op, &b, sizeof b, n->nin, all));
  }
  // Starts of their own: one slice after another.
  zm_array *y = all[0];
  for (int64_t i = 0; i < size && y; i++) {
    zm_array *part[3] = {row_of(all[0], i), row_of(all[1], i), row_of(in[2], i)};
    zm_array *row = zmi_present("slice_update", 3, part) ? zmi_apply1(n->op, &a, sizeof a, 3, part) : NULL;
    int64_t first[ZM_MAX_RANK] = {i}, last[ZM_MAX_RANK];
    memcpy(last, y->type.shape, sizeof last);
    last[0] = i + 1;
    y = row ? zm_slice_update(y, zm_expand_dims(row, 0), first, last, NULL) : NULL;
  }
  return done(out[0] = y);
}

static zm_status at_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  slice_attrs a;
  if (!given[0] || !wanted[0] || !zmi_dtype_is_float(n->in[0]->type.dtype)) return ZM_OK;
  memcpy(&a, n->attrs.bytes, sizeof a);
  update_attrs b = {.rank = a.rank, .count = a.count, .step = {1, 1, 1, 1, 1, 1, 1, 1}};
  memcpy(b.axis, a.axis, sizeof b.axis);
  zm_array *in[3] = {zmi_zeros_like(&n->in[0]->type), given[0], n->in[1]};
  if (!in[0]) return zm_last_status();
  return done(gradient[0] = zmi_apply1(&zmi_op_slice_update, &b, sizeof b, 3, in));
}

static zm_status at_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  if (!tangent[0]) return ZM_OK;
  zm_array *in[2] = {tangent[0], n->in[1]};
  return done(result[0] = zmi_apply1(n->op, n->attrs.bytes, sizeof(slice_attrs), 2, in));
}

static const zmi_rules at_rules = {.vjp = at_vjp, .jvp = at_jvp, .gradient = "x"};
static const zmi_rules update_rules = {.vjp = update_vjp, .jvp = update_jvp, .vmap = update_vmap, .gradient = "x, update"};

const zmi_op zmi_op_slice_at = {.name = "slice_at",
                                .operands = "x start",
                                .fields = slice_fields,
                                .rounding = "exact",
                                .flags = ZMI_OP_STRIDED,
                                .infer = at_infer,
                                .stages = {{zmi_element_tiles, at_run}},
                                .rules = &at_rules};
const zmi_op zmi_op_slice_update = {.name = "slice_update",
                                    .operands = "x update start?",
                                    .fields = update_fields,
                                    .rounding = "exact",
                                    .flags = ZMI_OP_STRIDED,
                                    .infer = update_infer,
                                    .stages = {{zmi_element_tiles, zmi_copy_first_run}, {update_tiles, update_run}},
                                    .rules = &update_rules};

// ---- builders ----

// Index arrays of axes, read and checked; `start` becomes [count].
static bool read_axes(const char *op, const zm_array *a, zm_array **start, const int *axes, int count, int64_t *axis) {
  if (count < 0 || count > a->type.rank) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: %d axes for an array of rank %d", op, count, a->type.rank);
    return false;
  }
  for (int i = 0; i < count; i++) {
    int at;
    if (!zmi_axis(op, axes[i], a->type.rank, &at)) return false;
    axis[i] = at;
    for (int k = 0; k < i; k++) {
      if (axis[k] != at) continue;
      zmi_fail(ZM_ERROR_ARGUMENT, "%s: axis %d is there twice", op, axes[i]);
      return false;
    }
  }
  if ((*start)->type.rank == 0) *start = zm_reshape(*start, (int64_t[]){1}, 1);
  return *start != NULL;
}

zm_array *zm_slice_at(zm_array *a, zm_array *start, const int *axes, int count, const int64_t *size) {
  zm_array *in[2] = {a, start};
  slice_attrs attrs = {.count = count};
  if (!zmi_present("slice_at", 2, in) || !read_axes("slice_at", a, &in[1], axes, count, attrs.axis)) return NULL;
  attrs.rank = a->type.rank;
  for (int i = 0; i < a->type.rank; i++) attrs.size[i] = size[i];
  return zmi_apply1(&zmi_op_slice_at, &attrs, sizeof attrs, 2, in);
}

zm_array *zm_slice_update_at(zm_array *a, zm_array *update, zm_array *start, const int *axes, int count) {
  zm_array *in[3] = {a, update, start};
  update_attrs attrs = {.count = count, .step = {1, 1, 1, 1, 1, 1, 1, 1}};
  if (!zmi_present("slice_update_at", 3, in) || !read_axes("slice_update_at", a, &in[2], axes, count, attrs.axis)) return NULL;
  attrs.rank = a->type.rank;
  in[1] = zm_astype(update, a->type.dtype);
  return zmi_apply1(&zmi_op_slice_update, &attrs, sizeof attrs, 3, in);
}

zm_array *zm_slice_update(zm_array *a, zm_array *update, const int64_t *start, const int64_t *stop, const int64_t *step) {
  zm_array *in[2] = {a, update};
  update_attrs attrs = {0};
  int64_t count[ZM_MAX_RANK];
  if (!zmi_present("slice_update", 2, in)) return NULL;
  attrs.rank = a->type.rank;
  for (int i = 0; i < a->type.rank; i++) {
    attrs.start[i] = start[i];
    attrs.step[i] = step ? step[i] : 1;
    if (attrs.step[i] == 0) {
      zmi_fail(ZM_ERROR_ARGUMENT, "slice_update: the step of axis %d is 0", i);
      return NULL;
    }
    count[i] = zmi_slice_range(a->type.shape[i], &attrs.start[i], stop[i], attrs.step[i]);
    if (count[i] == 0) attrs.start[i] = 0;
  }
  in[1] = zm_broadcast_to(zm_astype(update, a->type.dtype), count, a->type.rank);
  return in[1] ? zmi_apply1(&zmi_op_slice_update, &attrs, sizeof attrs, 2, in) : NULL;
}
