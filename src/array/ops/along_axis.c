// take_along_axis: result[o, m, j] = x[o, indices[o, m, j], j], where the axis stands between the outer and the inner dimensions.
// put_along_axis: a copy of x where those places are joined with values, in rising order of m, so duplicates have one result.
// A negative index counts from the end; one out of range gives zero and takes no value.
#include "array/ops/index.h"

#include <string.h>

typedef struct along_attrs {
  int64_t axis, mode;
} along_attrs;

static const zmi_field take_fields[] = {{"axis", ZMI_FIELD_INT, offsetof(along_attrs, axis), NULL}, {0}};
static const zmi_field put_fields[] = {{"axis", ZMI_FIELD_INT, offsetof(along_attrs, axis), NULL},
                                       {"mode", ZMI_FIELD_WORD, offsetof(along_attrs, mode), zmi_scatter_words},
                                       {0}};

enum { CHUNK = 512 };

typedef struct layout {
  const zmi_call *call;
  int64_t outer, k, m, inner;
  size_t size;
  zm_dtype index;
} layout;

// `indices`: the operand.
static layout layout_of(const zmi_call *c, int indices) {
  const zmi_type *x = &c->in[0]->type, *t = &c->in[indices]->type;
  const int axis = (int)((const along_attrs *)c->attrs)->axis;
  layout l = {.call = c, .outer = 1, .k = x->shape[axis], .m = t->shape[axis], .inner = 1, .index = t->dtype};
  for (int i = 0; i < axis; i++) l.outer *= x->shape[i];
  for (int i = axis + 1; i < x->rank; i++) l.inner *= x->shape[i];
  l.size = zm_dtype_size(x->dtype);
  return l;
}

#define TAKE(bits)                                                                                                                         \
  static void take##bits(const void *src, const int64_t *at, int64_t n, void *dst) {                                                       \
    typedef uint##bits##_t __attribute__((may_alias)) word;                                                                                \
    const word *x = src;                                                                                                                   \
    word *y = dst;                                                                                                                         \
    for (int64_t i = 0; i < n; i++) y[i] = at[i] < 0 ? 0 : x[at[i]];                                                                       \
  }
TAKE(8)
TAKE(16)
TAKE(32)
TAKE(64)
static void (*const takes[])(const void *src, const int64_t *at, int64_t n,
                             void *dst) = {[1] = take8, [2] = take16, [4] = take32, [8] = take64};

// The usual case in one go: rows of four-byte elements, indices of 32 bits, negative ones from the end; out of range gives zero.
typedef uint32_t __attribute__((may_alias)) any32;

static void take_row(const any32 *x, int64_t k, const int32_t *at, int64_t n, any32 *y) {
  for (int64_t i = 0; i < n; i++) {
    const int64_t place = at[i] < 0 ? at[i] + k : at[i];
    y[i] = (uint64_t)place < (uint64_t)k ? x[place] : 0;
  }
}

// n indices from element `begin` of the index array on become offsets within an outer part; all of them belong to one line of `inner`.
static void offsets(const layout *l, const void *src, int64_t begin, int64_t n, int64_t *at) {
  zmi_read_indices(src, l->index, begin, n, l->k, at);
  if (l->inner == 1) return;
  const int64_t col = begin % l->inner;
  for (int64_t i = 0; i < n; i++) at[i] = at[i] < 0 ? -1 : at[i] * l->inner + col + i;
}

static void take_run(const zmi_call *c, int64_t begin, int64_t end) {
  layout l = layout_of(c, 1);
  int64_t at[CHUNK];
  const int64_t last = ZMI_MIN(end * ZMI_TILE, zmi_type_count(&c->out[0]->type)), part = l.m * l.inner;
  // Only a view of other elements could lie between words.
  const bool words = l.inner == 1 && l.size == 4 && l.index == ZM_I32 && ((uintptr_t)c->src[0] | (uintptr_t)c->src[1]) % 4 == 0;
  for (int64_t i = begin * ZMI_TILE, n; i < last && words; i += n) {
    n = ZMI_MIN(part - i % part, last - i);
    take_row((const any32 *)c->src[0] + i / part * l.k, l.k, (const int32_t *)c->src[1] + i, n, (any32 *)c->dst[0] + i);
  }
  for (int64_t i = begin * ZMI_TILE; i < last && !words;) {
    const int64_t line = l.inner == 1 ? part - i % part : l.inner - i % l.inner, n = ZMI_MIN(ZMI_MIN(line, last - i), CHUNK);
    offsets(&l, c->src[1], i, n, at);
    takes[l.size]((const char *)c->src[0] + (size_t)(i / part * l.k * l.inner) * l.size, at, n, (char *)c->dst[0] + (size_t)i * l.size);
    i += n;
  }
}

static int64_t put_tiles(const zmi_call *c) {
  layout l = layout_of(c, 1);
  return zmi_type_count(&c->in[1]->type) == 0 ? 0 : l.outer * zmi_tiles_of(l.inner, CHUNK);
}

static void put_run(const zmi_call *c, int64_t begin, int64_t end) {
  layout l = layout_of(c, 1);
  const zm_scatter_mode mode = (zm_scatter_mode)((const along_attrs *)c->attrs)->mode;
  const zm_dtype dtype = c->in[0]->type.dtype;
  const int64_t strips = zmi_tiles_of(l.inner, CHUNK);
  int64_t at[CHUNK];
  for (int64_t tile = begin; tile < end; tile++) {
    const int64_t o = tile / strips, col = tile % strips * CHUNK, width = ZMI_MIN(CHUNK, l.inner - col);
    char *dst = (char *)c->dst[0] + (size_t)(o * l.k * l.inner) * l.size;
    // Lines of the index array; where inner is 1 a run of them at once.
    for (int64_t m = 0; m < l.m;) {
      const int64_t run = l.inner == 1 ? ZMI_MIN(CHUNK, l.m - m) : 1, n = run * width, first = (o * l.m + m) * l.inner + col;
      const char *src = (const char *)c->src[2] + (size_t)first * l.size;
      offsets(&l, c->src[1], first, n, at);
      const bool put = zmi_put_elements(mode, dtype, dst, at, n, src);
      for (int64_t i = 0; i < n && !put; i++) {
        if (at[i] >= 0) zmi_join_elements(mode, dtype, dst + (size_t)at[i] * l.size, src + (size_t)i * l.size, 1);
      }
      m += run;
    }
  }
}

static zm_status check(const along_attrs *a, int nin, const zmi_type *in, int wanted) {
  char one[128], other[128];
  zm_status status = zmi_check_operands(nin, in, wanted);
  if (status == ZM_OK) status = zmi_check_indices("indices", &in[1]);
  if (status != ZM_OK) return status;
  if (a->axis < 0 || a->axis >= in[0].rank)
    return zmi_fail(ZM_ERROR_ARGUMENT, "axis %lld is out of range for %s", (long long)a->axis, zmi_type_text(&in[0], one));
  zmi_type t = in[1];
  t.dtype = in[0].dtype;
  if (t.rank == in[0].rank) t.shape[a->axis] = in[0].shape[a->axis];
  if (zmi_type_equal(&t, &in[0])) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "indices %s and operand %s may differ in axis %lld alone", zmi_type_text(&in[1], other),
                  zmi_type_text(&in[0], one), (long long)a->axis);
}

static zm_status take_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  zm_status status = check(attrs, nin, in, 2);
  return status == ZM_OK ? zmi_give(nout, out, in[0].dtype, in[1].rank, in[1].shape) : status;
}

static bool joins_exactly(int64_t mode, zm_dtype dtype) {
  return mode == ZM_SCATTER_SET || (dtype != ZM_F16 && dtype != ZM_BF16);
}

static zm_status put_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  char one[128], other[128];
  zm_status status = check(attrs, nin, in, 3);
  if (status != ZM_OK) return status;
  zmi_type wanted = zmi_type_of(in[0].dtype, in[1].rank, in[1].shape);
  if (!zmi_type_equal(&wanted, &in[2]))
    return zmi_fail(ZM_ERROR_ARGUMENT, "values must be %s, found %s", zmi_type_text(&wanted, one), zmi_type_text(&in[2], other));
  if (!joins_exactly(((const along_attrs *)attrs)->mode, in[0].dtype))
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s is joined in float32: convert it first", zm_dtype_name(in[0].dtype));
  return zmi_give(nout, out, in[0].dtype, in[0].rank, in[0].shape);
}

// ---- rules ----

static zm_array *apply_take(zm_array *x, zm_array *indices, int64_t axis) {
  zm_array *in[2] = {x, indices};
  return zmi_present("take_along_axis", 2, in) ? zmi_apply1(&zmi_op_take_along_axis, &(along_attrs){axis, 0}, sizeof(along_attrs), 2, in)
                                               : NULL;
}

static zm_array *apply_put(zm_array *x, zm_array *indices, zm_array *values, int64_t axis, zm_scatter_mode mode) {
  zm_array *in[3] = {x, indices, values};
  if (!zmi_present("put_along_axis", 3, in)) return NULL;
  const zm_dtype dtype = x->type.dtype, work = joins_exactly(mode, dtype) ? dtype : ZM_F32;
  in[0] = zm_astype(x, work);
  in[2] = zm_astype(values, work);
  return zm_astype(zmi_apply1(&zmi_op_put_along_axis, &(along_attrs){axis, mode}, sizeof(along_attrs), 3, in), dtype);
}

static along_attrs attrs_of(const zmi_node *n) {
  along_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return a;
}

static zm_status done(zm_array *a) {
  return a ? ZM_OK : zm_last_status();
}

static zm_status take_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const zmi_type *x = &n->in[0]->type;
  if (!given[0] || !wanted[0] || !zmi_dtype_is_float(x->dtype)) return ZM_OK;
  gradient[0] = apply_put(zmi_zeros_like(x), n->in[1], given[0], attrs_of(n).axis, ZM_SCATTER_ADD);
  return done(gradient[0]);
}

static zm_status take_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  if (!tangent[0]) return ZM_OK;
  return done(result[0] = apply_take(tangent[0], n->in[1], attrs_of(n).axis));
}

static zm_status put_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const along_attrs a = attrs_of(n);
  const zmi_type *v = &n->in[2]->type, *x = &n->in[0]->type;
  zm_array *g = given[0];
  if (!g || !zmi_dtype_is_float(x->dtype)) return ZM_OK;
  if (a.mode > ZM_SCATTER_ADD) return zmi_fail(ZM_ERROR_UNSUPPORTED, "put_along_axis: gradients are there for set and add alone");
  if (wanted[0]) {
    gradient[0] = a.mode == ZM_SCATTER_ADD ? g : apply_put(g, n->in[1], zmi_zeros_like(v), a.axis, ZM_SCATTER_SET);
    if (!gradient[0]) return zm_last_status();
  }
  if (!wanted[2]) return ZM_OK;
  gradient[2] = apply_take(g, n->in[1], a.axis);
  if (a.mode == ZM_SCATTER_SET) {
    // Of values for one place the last stays.
    zm_array *number = zm_reshape(zm_arange(0, (double)zmi_type_count(v), 1, ZM_I64), v->shape, v->rank);
    zm_array *last = apply_put(zm_full(-1, ZM_I64, x->shape, x->rank), n->in[1], number, a.axis, ZM_SCATTER_SET);
    gradient[2] = zm_where(zm_equal(apply_take(last, n->in[1], a.axis), number), gradient[2], zm_full(0, v->dtype, NULL, 0));
  }
  return done(gradient[2]);
}

static zm_status along_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  along_attrs a = attrs_of(n);
  zm_array *all[3] = {NULL};
  a.axis++;
  for (int i = 0; i < n->nin; i++) all[i] = zmi_batch(in[i], batched[i], size);
  return done(out[0] = zmi_apply1(n->op, &a, sizeof a, n->nin, all));
}

static const zmi_rules take_rules = {.vjp = take_vjp, .jvp = take_jvp, .vmap = along_vmap, .gradient = "x"};
static const zmi_rules put_rules = {.vjp = put_vjp, .vmap = along_vmap, .gradient = "x, values; of duplicates the last; set and add"};

const zmi_op zmi_op_take_along_axis = {.name = "take_along_axis",
                                       .operands = "x indices",
                                       .fields = take_fields,
                                       .rounding = "exact; zero for an index out of range",
                                       .infer = take_infer,
                                       .stages = {{zmi_element_tiles, take_run}},
                                       .rules = &take_rules};
const zmi_op zmi_op_put_along_axis = {
    .name = "put_along_axis",
    .operands = "x indices values",
    .fields = put_fields,
    .rounding = "one value after another in the order of the axis: floats in float32, rounded once to the dtype; integers wrap around",
    .infer = put_infer,
    .stages = {{zmi_element_tiles, zmi_copy_first_run}, {put_tiles, put_run}},
    .rules = &put_rules};

// ---- builders ----

// a and indices broadcast against each other in all axes but one.
static bool broadcast(const char *op, zm_array **a, zm_array **indices, int axis, int *at) {
  zm_array *in[2] = {*a, *indices};
  if (!zmi_present(op, 2, in) || !zmi_axis(op, axis, (*a)->type.rank, at)) return false;
  zmi_type x = (*a)->type, t = (*indices)->type;
  if (x.rank != t.rank) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: indices of rank %d for an array of rank %d", op, t.rank, x.rank);
    return false;
  }
  const int64_t k = x.shape[*at], m = t.shape[*at];
  int rank;
  int64_t shape[ZM_MAX_RANK];
  x.shape[*at] = t.shape[*at] = 1;
  if (!zmi_broadcast_shape(op, &x, &t, &rank, shape)) return false;
  shape[*at] = k;
  *a = zm_broadcast_to(*a, shape, rank);
  shape[*at] = m;
  *indices = zm_broadcast_to(*indices, shape, rank);
  return *a && *indices;
}

zm_array *zm_take_along_axis(zm_array *a, zm_array *indices, int axis) {
  int at;
  return broadcast("take_along_axis", &a, &indices, axis, &at) ? apply_take(a, indices, at) : NULL;
}

static zm_array *put(const char *op, zm_array *a, zm_array *indices, zm_array *values, int axis, zm_scatter_mode mode) {
  int at;
  if (!zmi_present(op, 1, &values) || !broadcast(op, &a, &indices, axis, &at)) return NULL;
  values = zm_broadcast_to(zm_astype(values, a->type.dtype), indices->type.shape, indices->type.rank);
  return apply_put(a, indices, values, at, mode);
}

zm_array *zm_put_along_axis(zm_array *a, zm_array *indices, zm_array *values, int axis) {
  return put("put_along_axis", a, indices, values, axis, ZM_SCATTER_SET);
}

zm_array *zm_add_along_axis(zm_array *a, zm_array *indices, zm_array *values, int axis) {
  return put("add_along_axis", a, indices, values, axis, ZM_SCATTER_ADD);
}
