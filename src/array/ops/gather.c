// gather: elements at positions given by index arrays, one for each of `count` neighbouring axes from `axis` on; the operand is seen as
// [outer, axes..., inner] and the result is [outer, shape of the indices, inner].
// scatter: the same places of a copy are joined with updates, in rising order of the indices' place, so duplicates have one result.
// A negative index counts from the end; one out of range gives zeros and takes no update.
#include "array/ops/index.h"

#include <string.h>

typedef struct gather_attrs {
  int64_t axis, count, mode;
} gather_attrs;

static const zmi_field gather_fields[] = {
    {"axis", ZMI_FIELD_INT, offsetof(gather_attrs, axis), NULL}, {"count", ZMI_FIELD_INT, offsetof(gather_attrs, count), NULL}, {0}};
static const zmi_field scatter_fields[] = {{"axis", ZMI_FIELD_INT, offsetof(gather_attrs, axis), NULL},
                                           {"count", ZMI_FIELD_INT, offsetof(gather_attrs, count), NULL},
                                           {"mode", ZMI_FIELD_WORD, offsetof(gather_attrs, mode), zmi_scatter_words},
                                           {0}};

enum { CHUNK = 512, STRIP = 256 }; // indices read at once; elements of a row that a tile of scatter takes

typedef struct layout {
  const zmi_call *call;
  const gather_attrs *attrs;
  const zmi_type *x;
  int first; // operand that holds the indices of the first axis
  int64_t outer, block, inner, places;
  size_t size;
} layout;

static layout layout_of(const zmi_call *c, int first) {
  layout l = {.call = c, .attrs = c->attrs, .x = &c->in[0]->type, .first = first, .outer = 1, .block = 1, .inner = 1, .places = 1};
  for (int i = 0; i < l.x->rank; i++) {
    int64_t *of = i < l.attrs->axis ? &l.outer : i < l.attrs->axis + l.attrs->count ? &l.block : &l.inner;
    *of *= l.x->shape[i];
  }
  l.places = l.attrs->count ? zmi_type_count(&c->in[first]->type) : 1;
  l.size = zm_dtype_size(l.x->dtype);
  return l;
}

// Rows within an outer part that places [begin, begin + n) name; -1 out of range.
static void rows_of(const layout *l, int64_t begin, int64_t n, int64_t *row) {
  int64_t part[CHUNK];
  memset(row, 0, (size_t)n * sizeof *row);
  for (int k = 0; k < l->attrs->count; k++) {
    const int operand = l->first + k;
    const int64_t size = l->x->shape[l->attrs->axis + k];
    zmi_read_indices(l->call->src[operand], l->call->in[operand]->type.dtype, begin, n, size, k == 0 ? row : part);
    for (int64_t i = 0; i < n && k > 0; i++) row[i] = row[i] < 0 || part[i] < 0 ? -1 : row[i] * size + part[i];
  }
}

// ---- gather ----

// A tile is a chunk of places of one outer part, or several outer parts with all places.
static int64_t tile_places(const layout *l) {
  return ZMI_MAX(1, ZMI_MIN(CHUNK, ZMI_TILE / ZMI_MAX(l->inner, 1)));
}

static int64_t tile_outers(const layout *l) {
  const int64_t n = ZMI_MAX(1, l->places) * ZMI_MAX(l->inner, 1);
  return l->places > tile_places(l) ? 1 : ZMI_MAX(1, ZMI_TILE / n);
}

static int64_t gather_tiles(const zmi_call *c) {
  layout l = layout_of(c, 1);
  if (zmi_type_count(&c->out[0]->type) == 0) return 0;
  return zmi_tiles_of(l.outer, tile_outers(&l)) * zmi_tiles_of(l.places, tile_places(&l));
}

#define PICK(bits)                                                                                                                         \
  static void pick##bits(const void *src, const int64_t *row, int64_t n, void *dst) {                                                      \
    typedef uint##bits##_t __attribute__((may_alias)) word;                                                                                \
    const word *x = src;                                                                                                                   \
    word *y = dst;                                                                                                                         \
    for (int64_t i = 0; i < n; i++) y[i] = row[i] < 0 ? 0 : x[row[i]];                                                                     \
  }
PICK(8)
PICK(16)
PICK(32)
PICK(64)

static void pick_rows(const void *src, size_t bytes, const int64_t *row, int64_t n, char *dst) {
  static void (*const picks[])(const void *src, const int64_t *row, int64_t n,
                               void *dst) = {[1] = pick8, [2] = pick16, [4] = pick32, [8] = pick64};
  if (bytes < ZMI_COUNT(picks) && picks[bytes]) {
    picks[bytes](src, row, n, dst);
    return;
  }
  for (int64_t i = 0; i < n; i++) {
    if (row[i] < 0)
      memset(dst + (size_t)i * bytes, 0, bytes);
    else
      zmi_copy_piece(dst + (size_t)i * bytes, (const char *)src + (size_t)row[i] * bytes, bytes);
  }
}

static void gather_run(const zmi_call *c, int64_t begin, int64_t end) {
  layout l = layout_of(c, 1);
  const int64_t places = tile_places(&l), outers = tile_outers(&l), across = zmi_tiles_of(l.places, places);
  const size_t bytes = (size_t)l.inner * l.size;
  int64_t row[CHUNK], known = -1;
  for (int64_t tile = begin; tile < end; tile++) {
    const int64_t first = tile % across * places, n = ZMI_MIN(places, l.places - first);
    const int64_t o = tile / across * outers, last = ZMI_MIN(l.outer, o + outers);
    if (known != first) rows_of(&l, first, n, row);
    known = first;
    for (int64_t i = o; i < last; i++) {
      pick_rows((const char *)c->src[0] + (size_t)(i * l.block) * bytes, bytes, row, n,
                (char *)c->dst[0] + (size_t)(i * l.places + first) * bytes);
    }
  }
}

// The shape of a gather's result, which is that of a scatter's updates.
static zm_status result_shape(const gather_attrs *a, int nin, const zmi_type *in, int first, int *rank, int64_t *shape) {
  char one[128], other[128];
  zm_status status = zmi_check_operands(nin, in, nin);
  if (status != ZM_OK) return status;
  if (nin <= first || nin != first + a->count)
    return zmi_fail(ZM_ERROR_ARGUMENT, "%lld axes, but %d index arrays; at least one is needed", (long long)a->count, nin - first);
  if (a->axis < 0 || a->count > in[0].rank || a->axis > in[0].rank - a->count) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "%lld axes from %lld on are out of range for %s", (long long)a->count, (long long)a->axis,
                    zmi_type_text(&in[0], one));
  }
  for (int i = first; i < nin; i++) {
    zmi_type same = in[i];
    if ((status = zmi_check_indices("indices", &in[i])) != ZM_OK) return status;
    same.dtype = in[first].dtype;
    if (!zmi_type_equal(&same, &in[first]))
      return zmi_fail(ZM_ERROR_ARGUMENT, "index arrays of one shape expected, found %s and %s", zmi_type_text(&in[first], one),
                      zmi_type_text(&in[i], other));
  }
  *rank = in[0].rank - (int)a->count + in[first].rank;
  if (*rank > ZM_MAX_RANK) return zmi_fail(ZM_ERROR_ARGUMENT, "the result would have rank %d, the most is %d", *rank, ZM_MAX_RANK);
  int n = 0;
  for (int i = 0; i < a->axis; i++) shape[n++] = in[0].shape[i];
  for (int i = 0; i < in[first].rank; i++) shape[n++] = in[first].shape[i];
  for (int i = (int)(a->axis + a->count); i < in[0].rank; i++) shape[n++] = in[0].shape[i];
  return ZM_OK;
}

static zm_status gather_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  int rank;
  int64_t shape[ZM_MAX_RANK];
  zm_status status = result_shape(attrs, nin, in, 1, &rank, shape);
  return status == ZM_OK ? zmi_give(nout, out, in[0].dtype, rank, shape) : status;
}

// ---- scatter ----

static int64_t strips_of(const layout *l) {
  return zmi_tiles_of(l->inner, STRIP);
}

static int64_t scatter_tiles(const zmi_call *c) {
  layout l = layout_of(c, 2);
  return l.places == 0 || l.block == 0 ? 0 : l.outer * strips_of(&l);
}

static void scatter_run(const zmi_call *c, int64_t begin, int64_t end) {
  layout l = layout_of(c, 2);
  const int64_t strips = strips_of(&l);
  const zm_scatter_mode mode = (zm_scatter_mode)l.attrs->mode;
  int64_t row[CHUNK];
  for (int64_t tile = begin; tile < end; tile++) {
    const int64_t o = tile / strips, col = tile % strips * STRIP, width = ZMI_MIN(STRIP, l.inner - col);
    char *dst = (char *)c->dst[0] + (size_t)(o * l.block * l.inner + col) * l.size;
    const char *src = (const char *)c->src[1] + (size_t)(o * l.places * l.inner + col) * l.size;
    for (int64_t at = 0; at < l.places; at += CHUNK) {
      const int64_t n = ZMI_MIN(CHUNK, l.places - at);
      rows_of(&l, at, n, row);
      if (l.inner == 1 && zmi_put_elements(mode, l.x->dtype, dst, row, n, src + (size_t)at * l.size)) continue;
      for (int64_t i = 0; i < n; i++) {
        if (row[i] < 0) continue;
        zmi_join_elements(mode, l.x->dtype, dst + (size_t)(row[i] * l.inner) * l.size, src + (size_t)((at + i) * l.inner) * l.size, width);
      }
    }
  }
}

static bool joins_exactly(int64_t mode, zm_dtype dtype) {
  return mode == ZM_SCATTER_SET || (dtype != ZM_F16 && dtype != ZM_BF16);
}

static zm_status scatter_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const gather_attrs *a = attrs;
  char one[128], other[128];
  int rank;
  int64_t shape[ZM_MAX_RANK];
  zm_status status = result_shape(a, nin, in, 2, &rank, shape);
  if (status != ZM_OK) return status;
  zmi_type wanted = zmi_type_of(in[0].dtype, rank, shape);
  if (!zmi_type_equal(&wanted, &in[1]))
    return zmi_fail(ZM_ERROR_ARGUMENT, "updates must be %s, found %s", zmi_type_text(&wanted, one), zmi_type_text(&in[1], other));
  if (!joins_exactly(a->mode, in[0].dtype))
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s is joined in float32: convert it first", zm_dtype_name(in[0].dtype));
  return zmi_give(nout, out, in[0].dtype, in[0].rank, in[0].shape);
}

// ---- rules ----

// Index operands of a node with `first` operands before them.
static zm_array *gathered(const zmi_node *n, zm_array *x, int first) {
  zm_array *in[ZMI_MAX_IN] = {x};
  for (int i = first; i < n->nin; i++) in[i - first + 1] = n->in[i];
  return x ? zmi_apply1(&zmi_op_gather, n->attrs.bytes, sizeof(gather_attrs), n->nin - first + 1, in) : NULL;
}

static zm_array *scattered(const zmi_node *n, zm_array *x, zm_array *updates, int first, zm_scatter_mode mode) {
  gather_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  a.mode = mode;
  if (!x || !updates) return NULL;
  const zm_dtype dtype = x->type.dtype;
  const bool widens = !joins_exactly(mode, dtype);
  zm_array *in[ZMI_MAX_IN] = {widens ? zm_astype(x, ZM_F32) : x, widens ? zm_astype(updates, ZM_F32) : updates};
  for (int i = first; i < n->nin; i++) in[i - first + 2] = n->in[i];
  return zm_astype(zmi_apply1(&zmi_op_scatter, &a, sizeof a, n->nin - first + 2, in), dtype);
}

static zm_status gather_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (!given[0] || !wanted[0] || !zmi_dtype_is_float(n->in[0]->type.dtype)) return ZM_OK;
  gradient[0] = scattered(n, zmi_zeros_like(&n->in[0]->type), given[0], 1, ZM_SCATTER_ADD);
  return gradient[0] ? ZM_OK : zm_last_status();
}

static zm_status gather_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  if (!tangent[0]) return ZM_OK;
  result[0] = gathered(n, tangent[0], 1);
  return result[0] ? ZM_OK : zm_last_status();
}

// Which updates are the ones that stayed: the last of those that name the same place.
static zm_array *stayed(const zmi_node *n) {
  const zmi_type *u = &n->in[1]->type, *x = &n->in[0]->type;
  const int64_t count = zmi_type_count(u);
  zm_array *number = zm_reshape(zm_arange(0, (double)count, 1, ZM_I64), u->shape, u->rank);
  zm_array *none = zm_full(-1, ZM_I64, x->shape, x->rank);
  return zm_equal(gathered(n, scattered(n, none, number, 2, ZM_SCATTER_SET), 2), number);
}

// Of a product: the updates' own gradient is the product of everything else at the place. With one zero in that it is the zero times the
// rest, which has a slope; the zero is the sum of those that are zero.
static zm_array *others(const zmi_node *n, zm_array *x, zm_array *updates, zm_array *own, bool at_updates) {
  const zm_dtype dtype = own ? own->type.dtype : ZM_F32;
  zm_array *zero = zm_full(0, dtype, NULL, 0), *one = zm_full(1, dtype, NULL, 0), *single = zm_full(1, ZM_I32, NULL, 0);
  zm_array *x_zero = zm_equal(x, zero), *u_zero = zm_equal(updates, zero), *own_zero = zm_equal(own, zero);
  zm_array *rest = scattered(n, zm_where(x_zero, one, x), zm_where(u_zero, one, updates), 2, ZM_SCATTER_PROD);
  zm_array *zeros = scattered(n, zm_astype(x_zero, ZM_I32), zm_astype(u_zero, ZM_I32), 2, ZM_SCATTER_ADD);
  zm_array *sum = scattered(n, zm_where(x_zero, x, zero), zm_where(u_zero, updates, zero), 2, ZM_SCATTER_ADD);
  if (at_updates) {
    rest = gathered(n, rest, 2);
    zeros = gathered(n, zeros, 2);
    sum = gathered(n, sum, 2);
  }
  rest = zm_divide(rest, zm_where(own_zero, one, own));
  zeros = zm_subtract(zeros, zm_astype(own_zero, ZM_I32)); // but its own
  zm_array *other = zm_subtract(sum, zm_where(own_zero, own, zero));
  zm_array *with_one = zm_add(zm_multiply(rest, other), zero); // no negative zero
  return zm_where(zm_equal(zeros, zm_full(0, ZM_I32, NULL, 0)), rest, zm_where(zm_equal(zeros, single), with_one, zero));
}

static zm_status scatter_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const zm_scatter_mode mode = (zm_scatter_mode)((const gather_attrs *)(const void *)n->attrs.bytes)->mode;
  zm_array *x = n->in[0], *u = n->in[1], *g = given[0];
  if (!g || !zmi_dtype_is_float(x->type.dtype)) return ZM_OK;
  zm_array *zero = zm_full(0, x->type.dtype, NULL, 0);
  zm_array *winners = NULL;
  if (mode == ZM_SCATTER_MAX || mode == ZM_SCATTER_MIN) winners = scattered(n, x, u, 2, mode);
  if (wanted[0]) {
    if (mode == ZM_SCATTER_SET)
      gradient[0] = scattered(n, g, zmi_zeros_like(&u->type), 2, ZM_SCATTER_SET);
    else if (mode == ZM_SCATTER_ADD)
      gradient[0] = g;
    else if (mode == ZM_SCATTER_PROD)
      gradient[0] = zm_multiply(g, others(n, x, u, x, false));
    else
      gradient[0] = zm_where(zm_equal(winners, x), g, zero);
    if (!gradient[0]) return zm_last_status();
  }
  if (wanted[1]) {
    zm_array *here = gathered(n, g, 2);
    if (mode == ZM_SCATTER_SET)
      gradient[1] = zm_where(stayed(n), here, zero);
    else if (mode == ZM_SCATTER_ADD)
      gradient[1] = here;
    else if (mode == ZM_SCATTER_PROD)
      gradient[1] = zm_multiply(here, others(n, x, u, u, true));
    else
      gradient[1] = zm_where(zm_equal(gathered(n, winners, 2), u), here, zero);
    if (!gradient[1]) return zm_last_status();
  }
  return ZM_OK;
}

static zm_array *from_public(zm_array *x, zm_array *updates, zm_array *const *indices, const int *axes, int count, zm_scatter_mode mode);

// Batched: one more index, of the batch, in front of the others. `first`: operands before the indices.
static zm_status batched(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, int first, zm_array **out) {
  const gather_attrs *a = (const gather_attrs *)(const void *)n->attrs.bytes;
  const int rank = n->in[first]->type.rank, count = (int)a->count;
  zm_array *x = zmi_batch(in[0], batched[0], size), *updates = first > 1 ? zmi_batch(in[1], batched[1], size) : NULL;
  bool any = false;
  for (int i = first; i < n->nin; i++) any = any || batched[i];
  if (!any) {
    gather_attrs b = {a->axis + 1, a->count, a->mode};
    zm_array *all[ZMI_MAX_IN] = {x, updates};
    for (int i = first; i < n->nin; i++) all[i] = in[i];
    out[0] = zmi_apply1(n->op, &b, sizeof b, n->nin, all);
    return out[0] ? ZM_OK : zm_last_status();
  }
  zm_array *index[ZMI_MAX_IN];
  int axes[ZM_MAX_RANK], moved[ZM_MAX_RANK];
  int64_t shape[ZM_MAX_RANK] = {size};
  for (int i = 0; i < rank; i++) shape[i + 1] = 1;
  index[0] = zm_reshape(zm_arange(0, (double)size, 1, ZM_I64), shape, rank + 1);
  axes[0] = 0;
  for (int i = 0; i < count; i++) {
    index[i + 1] = zmi_batch(in[first + i], batched[first + i], size);
    axes[i + 1] = (int)a->axis + 1 + i;
  }
  // With axes apart the indices' dimensions stand in front, else (axis 0) they are where they belong. They are the batch, then `rank` more.
  moved[0] = 0;
  for (int i = 0; i < rank; i++) moved[i + 1] = (int)a->axis + 1 + i;
  if (updates) updates = zmi_axes_to_front(updates, moved, rank + 1);
  if (first > 1 && !updates) return zm_last_status();
  zm_array *y = from_public(x, updates, index, axes, count + 1, (zm_scatter_mode)a->mode);
  out[0] = first > 1 ? y : zmi_axes_from_front(y, moved, rank + 1);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status gather_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *which, zm_array **out) {
  return batched(n, size, in, which, 1, out);
}

static zm_status scatter_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *which, zm_array **out) {
  return batched(n, size, in, which, 2, out);
}

static const zmi_rules gather_rules = {.vjp = gather_vjp, .jvp = gather_jvp, .vmap = gather_vmap, .gradient = "x"};
static const zmi_rules scatter_rules = {
    .vjp = scatter_vjp, .vmap = scatter_vmap, .gradient = "x, updates; set: of duplicates the last; max, min: to all that are equal"};

const zmi_op zmi_op_gather = {.name = "gather",
                              .operands = "x indices*",
                              .fields = gather_fields,
                              .rounding = "exact; zeros for an index out of range",
                              .infer = gather_infer,
                              .stages = {{gather_tiles, gather_run}},
                              .rules = &gather_rules};
const zmi_op zmi_op_scatter = {
    .name = "scatter",
    .operands = "x updates indices*",
    .fields = scatter_fields,
    .rounding =
        "one update after another in the order of their indices: floats in float32, rounded once to the dtype; integers wrap around",
    .infer = scatter_infer,
    .stages = {{zmi_element_tiles, zmi_copy_first_run}, {scatter_tiles, scatter_run}},
    .rules = &scatter_rules};

// ---- builders ----

// Index arrays broadcast to one shape.
static bool broadcast_indices(const char *op, zm_array *const *indices, int count, zm_array **out) {
  zmi_type t = indices[0]->type;
  for (int i = 1; i < count; i++) {
    int rank;
    int64_t shape[ZM_MAX_RANK];
    if (!zmi_broadcast_shape(op, &t, &indices[i]->type, &rank, shape)) return false;
    t = zmi_type_of(t.dtype, rank, shape);
  }
  for (int i = 0; i < count; i++) {
    if (!(out[i] = zm_broadcast_to(indices[i], t.shape, t.rank))) return false;
  }
  return true;
}

// Axes counted from 0; whether they follow each other.
static bool read_axes(const char *op, const zm_array *a, const int *axes, int count, int *at, bool *together) {
  unsigned seen = 0;
  *together = true;
  if (count < 1 || count > a->type.rank) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: %d index arrays for an array of rank %d", op, count, a->type.rank);
    return false;
  }
  for (int i = 0; i < count; i++) {
    if (!zmi_axis(op, axes[i], a->type.rank, &at[i])) return false;
    if (seen & 1u << at[i]) {
      zmi_fail(ZM_ERROR_ARGUMENT, "%s: axis %d is indexed twice", op, axes[i]);
      return false;
    }
    seen |= 1u << at[i];
    *together = *together && at[i] == at[0] + i;
  }
  return true;
}

// updates NULL: gather.
static zm_array *from_public(zm_array *x, zm_array *updates, zm_array *const *indices, const int *axes, int count, zm_scatter_mode mode) {
  const char *op = updates ? "scatter" : "gather";
  const int first = updates ? 2 : 1;
  int at[ZM_MAX_RANK], rank;
  bool together;
  zm_array *in[ZMI_MAX_IN] = {NULL};
  if (!zmi_present(op, 1, &x) || !zmi_present(op, count, indices) || !read_axes(op, x, axes, count, at, &together)) return NULL;
  if (!broadcast_indices(op, indices, count, in + first)) return NULL;
  gather_attrs a = {.axis = together ? at[0] : 0, .count = count, .mode = mode};
  in[0] = together ? x : zmi_axes_to_front(x, at, count);
  if (!in[0]) return NULL;
  if (!updates) return zmi_apply1(&zmi_op_gather, &a, sizeof a, count + 1, in);
  const zm_dtype dtype = x->type.dtype, work = joins_exactly(mode, dtype) ? dtype : ZM_F32;
  int64_t shape[ZM_MAX_RANK];
  zmi_type types[ZMI_MAX_IN];
  for (int i = 0; i < count; i++) types[i + 1] = in[i + 2]->type;
  types[0] = in[0]->type;
  if (result_shape(&a, count + 1, types, 1, &rank, shape) != ZM_OK) {
    zmi_fail_within("%s", op);
    return NULL;
  }
  in[0] = zm_astype(in[0], work);
  in[1] = zm_broadcast_to(zm_astype(updates, work), shape, rank);
  zm_array *y = zm_astype(zmi_apply1(&zmi_op_scatter, &a, sizeof a, count + 2, in), dtype);
  return together ? y : zmi_axes_from_front(y, at, count);
}

zm_array *zm_gather(zm_array *a, zm_array *const *indices, const int *axes, int count) {
  return from_public(a, NULL, indices, axes, count, ZM_SCATTER_SET);
}

zm_array *zm_scatter(zm_array *a, zm_array *const *indices, const int *axes, int count, zm_array *updates, zm_scatter_mode mode) {
  if (!zmi_present("scatter", 1, &updates)) return NULL;
  if ((unsigned)mode > ZM_SCATTER_MIN) {
    zmi_fail(ZM_ERROR_ARGUMENT, "scatter: %d is no mode", (int)mode);
    return NULL;
  }
  return from_public(a, updates, indices, axes, count, mode);
}

zm_array *zm_take_axis(zm_array *a, zm_array *indices, int axis) {
  return from_public(a, NULL, &indices, &axis, 1, ZM_SCATTER_SET);
}
