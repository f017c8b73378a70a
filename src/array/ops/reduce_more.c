// More reductions over one axis: prod, any, all, var, logsumexp. As in reduce.c the operand is [outer, K, inner] and a block is
// up to WIDTH neighbouring results of one outer index (just one if inner is 1, where K itself is contiguous), or of a group of outer
// indices that were turned (turn.c); float sums and products run
// in the lane order.
#include "array/ops/index.h"

#include <string.h>

enum { WIDTH = 256, NARROW = 64, ENOUGH = 8, LANES = 16 };

typedef struct reduce_attrs {
  int64_t axis, keepdims, ddof;
} reduce_attrs;

static const zmi_field fields[] = {{"axis", ZMI_FIELD_INT, offsetof(reduce_attrs, axis), NULL},
                                   {"keepdims", ZMI_FIELD_INT, offsetof(reduce_attrs, keepdims), NULL},
                                   {"ddof", ZMI_FIELD_INT, offsetof(reduce_attrs, ddof), NULL},
                                   {0}};

typedef struct layout {
  int64_t outer, k, inner;
} layout;

static layout layout_of(const zmi_call *c) {
  const zmi_type *t = &c->in[0]->type;
  const int axis = (int)((const reduce_attrs *)c->attrs)->axis;
  layout l = {1, t->shape[axis], 1};
  for (int i = 0; i < axis; i++) l.outer *= t->shape[i];
  for (int i = axis + 1; i < t->rank; i++) l.inner *= t->shape[i];
  return l;
}

typedef struct block {
  const zmi_kernels *kernels;
  zm_dtype dtype, to;
  const char *src; // element k = 0 of the first result
  char *dst;
  int64_t k, inner, width, ddof;
} block;

static const void *row_of(const block *b, int64_t k) {
  return b->src + (size_t)(k * b->inner) * zm_dtype_size(b->dtype);
}

// n floats from position k of a row, or the block's floats at k: where they are, or in `buffer`.
static const float *floats_at(const block *b, int64_t k, int64_t n, float *buffer) {
  if (b->dtype == ZM_F32) return row_of(b, k);
  b->kernels->load(row_of(b, k), b->dtype, n, buffer);
  return buffer;
}

// ---- floats in lanes: what happens to the values at k, and how lanes are joined ----

typedef float lanes[LANES][WIDTH];

// Calls `each` with values [0, n) of position k (n = width), or with one row's positions [k, k + n), n <= ZMI_CHUNK.
typedef void (*each_fn)(const float *restrict value, int64_t k, int64_t n, const float *about, lanes *lane);

// inner > 1: a line of results at a time into lane k % LANES. inner == 1: lane[l][0] is lane l.
static void over_values(const block *b, each_fn row, each_fn line, const float *about, lanes *lane) {
  float part[ZMI_CHUNK];
  const int64_t step = b->inner == 1 ? ZMI_CHUNK : 1;
  for (int64_t at = 0; at < b->k; at += step) {
    const int64_t n = b->inner == 1 ? ZMI_MIN(b->k - at, step) : b->width;
    (b->inner == 1 ? row : line)(floats_at(b, at, n, part), at, n, about, lane);
  }
}

#define EACH(name, join)                                                                                                                   \
  static void name##_row(const float *restrict v, int64_t k, int64_t n, const float *about, lanes *lane) {                                 \
    float l[LANES];                                                                                                                        \
    const float m = about ? about[0] : 0;                                                                                                  \
    int64_t i = 0;                                                                                                                         \
    (void)k, (void)m;                                                                                                                      \
    for (int j = 0; j < LANES; j++) l[j] = (*lane)[j][0];                                                                                  \
    for (; i + LANES <= n; i += LANES) {                                                                                                   \
      for (int j = 0; j < LANES; j++) {                                                                                                    \
        const float x = v[i + j], a = l[j];                                                                                                \
        l[j] = join;                                                                                                                       \
      }                                                                                                                                    \
    }                                                                                                                                      \
    for (int j = 0; i + j < n; j++) {                                                                                                      \
      const float x = v[i + j], a = l[j];                                                                                                  \
      l[j] = join;                                                                                                                         \
    }                                                                                                                                      \
    for (int j = 0; j < LANES; j++) (*lane)[j][0] = l[j];                                                                                  \
  }                                                                                                                                        \
  static void name##_line(const float *restrict v, int64_t k, int64_t n, const float *about, lanes *lane) {                                \
    float *restrict to = (*lane)[k % LANES];                                                                                               \
    for (int64_t j = 0; j < n; j++) {                                                                                                      \
      const float x = v[j], a = to[j], m = about ? about[j] : 0;                                                                           \
      (void)m;                                                                                                                             \
      to[j] = join;                                                                                                                        \
    }                                                                                                                                      \
  }
EACH(product, a *x)
EACH(sum, a + x)
EACH(square, a + (x - m) * (x - m))

// Lanes that see an element; others would join as 0 or 1, which changes nothing that began with those.
static int lanes_of(const block *b) {
  return (int)ZMI_MAX(1, ZMI_MIN(b->k, LANES));
}

// A row's loop takes all lanes, each of one place.
static void fill(const block *b, lanes *lane, float value) {
  for (int l = 0; l < (b->inner == 1 ? LANES : lanes_of(b)); l++) {
    for (int64_t j = 0; j < b->width; j++) (*lane)[l][j] = value;
  }
}

static void join_lanes(const block *b, lanes *lane, bool multiply) {
  const int all = lanes_of(b);
  for (int h = LANES / 2; h > 0; h /= 2) {
    for (int l = 0; l < h && l + h < all; l++) {
      float *restrict to = (*lane)[l];
      const float *restrict from = (*lane)[l + h];
      for (int64_t j = 0; j < b->width; j++) to[j] = multiply ? to[j] * from[j] : to[j] + from[j];
    }
  }
}

static void float_prod(const block *b) {
  lanes lane;
  fill(b, &lane, 1);
  over_values(b, product_row, product_line, NULL, &lane);
  join_lanes(b, &lane, true);
  b->kernels->store(lane[0], b->width, b->dst, b->to);
}

static void float_var(const block *b) {
  lanes lane;
  float mean[WIDTH];
  fill(b, &lane, 0);
  over_values(b, sum_row, sum_line, NULL, &lane);
  join_lanes(b, &lane, false);
  for (int64_t j = 0; j < b->width; j++) mean[j] = lane[0][j] / (float)b->k;
  fill(b, &lane, 0);
  over_values(b, square_row, square_line, mean, &lane);
  join_lanes(b, &lane, false);
  for (int64_t j = 0; j < b->width; j++) lane[0][j] /= (float)ZMI_MAX(b->k - b->ddof, 0);
  b->kernels->store(lane[0], b->width, b->dst, b->to);
}

static inline float larger(float a, float b) {
  return ((b > a) | (b != b)) ? b : a;
}

// The largest value of each result; 16 at a time where they are neighbours.
static void largest(const block *b, float *best) {
  float part[ZMI_CHUNK], l[LANES];
  for (int64_t j = 0; j < b->width; j++) best[j] = -__builtin_inff();
  for (int j = 0; j < LANES; j++) l[j] = best[0];
  for (int64_t at = 0; at < b->k; at += b->inner == 1 ? ZMI_CHUNK : 1) {
    const int64_t n = b->inner == 1 ? ZMI_MIN(b->k - at, ZMI_CHUNK) : b->width;
    const float *x = floats_at(b, at, n, part);
    int64_t i = 0;
    if (b->inner != 1) {
      for (; i < n; i++) best[i] = larger(best[i], x[i]);
      continue;
    }
    for (; i + LANES <= n; i += LANES) {
      for (int j = 0; j < LANES; j++) l[j] = larger(l[j], x[i + j]);
    }
    for (; i < n; i++) l[0] = larger(l[0], x[i]);
  }
  for (int j = 0; j < LANES && b->inner == 1; j++) best[0] = larger(best[0], l[j]);
}

static void float_logsumexp(const block *b) {
  lanes lane;
  float best[WIDTH], part[ZMI_CHUNK];
  largest(b, best);
  fill(b, &lane, 0);
  for (int64_t at = 0; at < b->k; at += b->inner == 1 ? ZMI_CHUNK : 1) {
    const int64_t n = b->inner == 1 ? ZMI_MIN(b->k - at, ZMI_CHUNK) : b->width;
    const float *x = floats_at(b, at, n, part);
    for (int64_t i = 0; i < n && b->inner == 1; i++) part[i] = x[i] == best[0] ? 0.0f : x[i] - best[0]; // equal infinities: 0
    for (int64_t i = 0; i < n && b->inner != 1; i++) part[i] = x[i] == best[i] ? 0.0f : x[i] - best[i];
    b->kernels->exp(part, n);
    (b->inner == 1 ? sum_row : sum_line)(part, at, n, NULL, &lane);
  }
  join_lanes(b, &lane, false);
  b->kernels->log(lane[0], b->width);
  for (int64_t j = 0; j < b->width; j++) {
    const bool infinite = best[j] - best[j] != 0; // NaN too
    lane[0][j] = infinite ? best[j] : best[j] + lane[0][j];
  }
  b->kernels->store(lane[0], b->width, b->dst, b->to);
}

// ---- integers and bool ----

// Products wrap around, so those of 32 bits need no more than 32.
#define INTEGER(T, PRODUCT)                                                                                                                \
  static void prod_##T(const block *b, uint64_t *product) {                                                                                \
    const T *x = (const T *)(const void *)b->src;                                                                                          \
    PRODUCT all[WIDTH];                                                                                                                    \
    for (int64_t j = 0; j < b->width; j++) all[j] = 1;                                                                                     \
    for (int64_t k = 0; k < b->k; k++) {                                                                                                   \
      for (int64_t j = 0; j < b->width; j++) {                                                                                             \
        const PRODUCT v = (PRODUCT)x[k * b->inner + j];                                                                                    \
        all[j] *= v;                                                                                                                       \
      }                                                                                                                                    \
    }                                                                                                                                      \
    for (int64_t j = 0; j < b->width; j++) product[j] = all[j];                                                                            \
  }
INTEGER(uint8_t, uint32_t)
INTEGER(uint16_t, uint32_t)
INTEGER(uint32_t, uint32_t)
INTEGER(uint64_t, uint64_t)
INTEGER(int8_t, uint32_t)
INTEGER(int16_t, uint32_t)
INTEGER(int32_t, uint32_t)
INTEGER(int64_t, uint64_t)

// The dtype of a product is at least 32 bits wide, as in MLX.
static const struct {
  zm_dtype prod;
  void (*prods)(const block *b, uint64_t *product);
} integers[ZM_DTYPE_COUNT] = {
    [ZM_BOOL] = {ZM_I32, prod_uint8_t}, [ZM_U8] = {ZM_U32, prod_uint8_t},   [ZM_U16] = {ZM_U32, prod_uint16_t},
    [ZM_U32] = {ZM_U32, prod_uint32_t}, [ZM_U64] = {ZM_U64, prod_uint64_t}, [ZM_I8] = {ZM_I32, prod_int8_t},
    [ZM_I16] = {ZM_I32, prod_int16_t},  [ZM_I32] = {ZM_I32, prod_int32_t},  [ZM_I64] = {ZM_I64, prod_int64_t},
};

static void integer_prod(const block *b) {
  uint64_t product[WIDTH];
  const size_t size = zm_dtype_size(b->to);
  integers[b->dtype].prods(b, product);
  for (int64_t j = 0; j < b->width; j++) memcpy(b->dst + (size_t)j * size, &product[j], size); // the low bytes: little-endian
}

// found: whether there is an element that is `wanted` (0 or 1); stops at the first in a row.
static void find_truth(const block *b, uint8_t wanted, uint8_t *found) {
  const uint8_t *x = (const uint8_t *)b->src;
  memset(found, 0, (size_t)b->width);
  if (b->inner == 1) {
    found[0] = b->k > 0 && memchr(x, wanted, (size_t)b->k) != NULL;
    return;
  }
  for (int64_t k = 0; k < b->k; k++) {
    for (int64_t j = 0; j < b->width; j++) found[j] |= x[k * b->inner + j] == wanted;
  }
}

static void truth_any(const block *b) {
  uint8_t found[WIDTH];
  find_truth(b, 1, found);
  memcpy(b->dst, found, (size_t)b->width);
}

static void truth_all(const block *b) {
  uint8_t found[WIDTH];
  find_truth(b, 0, found);
  for (int64_t j = 0; j < b->width; j++) b->dst[j] = (char)!found[j];
}

// ---- tiles ----

enum { GROUPS = 4 }; // of rows that were turned, in a tile

static int64_t tile_rows(const layout *l) {
  return l->k >= ZMI_TILE ? 1 : ZMI_TILE / ZMI_MAX(l->k, 1);
}

static int64_t width_of(const layout *l) {
  int64_t width = WIDTH;
  while (width > NARROW && l->outer * zmi_tiles_of(l->inner, width) < ENOUGH) width /= 2;
  return width;
}

static int64_t tiles(const zmi_call *c) {
  layout l = layout_of(c);
  if (zmi_side_by_side(l.outer, l.k, l.inner)) return zmi_tiles_of(l.outer, GROUPS * zmi_side_rows(l.k, l.inner, WIDTH));
  return l.inner == 1 ? zmi_tiles_of(l.outer, tile_rows(&l)) : l.outer * zmi_tiles_of(l.inner, width_of(&l));
}

typedef void (*block_fn)(const block *b);

// Short rows that were turned to columns, for which `fn` makes the results.
typedef struct side {
  block b;
  block_fn fn;
} side;

static void side_columns(void *user, const void *src, int64_t width, void *dst) {
  const side *s = user;
  block b = s->b;
  b.src = src;
  b.dst = dst;
  b.inner = b.width = width;
  if (zmi_dtype_is_float(b.dtype)) b.dtype = ZM_F32;
  s->fn(&b);
}

static void run(const zmi_call *c, block_fn floats, block_fn ints, int64_t begin, int64_t end) {
  layout l = layout_of(c);
  block b = {.kernels = c->kernels,
             .dtype = c->in[0]->type.dtype,
             .to = c->out[0]->type.dtype,
             .k = l.k,
             .inner = l.inner,
             .width = 1,
             .ddof = ((const reduce_attrs *)c->attrs)->ddof};
  const block_fn fn = zmi_dtype_is_float(b.dtype) ? floats : ints;
  const size_t size = zm_dtype_size(b.dtype), to_size = zm_dtype_size(b.to);
  if (zmi_side_by_side(l.outer, l.k, l.inner)) {
    const int64_t group = GROUPS * zmi_side_rows(l.k, l.inner, WIDTH);
    zmi_reduce_side_by_side(c, l.k, l.inner, WIDTH, begin * group, ZMI_MIN(end * group, l.outer), side_columns, &(side){b, fn});
    return;
  }
  const int64_t rows = tile_rows(&l), width = width_of(&l), blocks = zmi_tiles_of(l.inner, width);
  if (l.inner == 1) {
    begin *= rows;
    end = ZMI_MIN(end * rows, l.outer);
  }
  for (int64_t tile = begin; tile < end; tile++) {
    const int64_t o = l.inner == 1 ? tile : tile / blocks, col = l.inner == 1 ? 0 : tile % blocks * width;
    b.width = ZMI_MIN(l.inner - col, width);
    b.src = (const char *)c->src[0] + (size_t)(o * l.k * l.inner + col) * size;
    b.dst = (char *)c->dst[0] + (size_t)(o * l.inner + col) * to_size;
    fn(&b);
  }
}

// ---- shape rules ----

typedef enum wants { ANYTHING, FLOATS, TRUTH } wants;

static zm_status infer(const reduce_attrs *a, int nin, const zmi_type *in, wants wanted, zm_dtype to, int *nout, zmi_type *out) {
  char text[128];
  int64_t shape[ZM_MAX_RANK];
  int rank = 0;
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (a->axis < 0 || a->axis >= in[0].rank)
    return zmi_fail(ZM_ERROR_ARGUMENT, "axis %lld is out of range for %s", (long long)a->axis, zmi_type_text(&in[0], text));
  if (a->ddof < 0) return zmi_fail(ZM_ERROR_ARGUMENT, "ddof is %lld: it must be 0 or more", (long long)a->ddof);
  if ((wanted == FLOATS && !zmi_dtype_is_float(in[0].dtype)) || (wanted == TRUTH && in[0].dtype != ZM_BOOL))
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected %s, found %s", wanted == FLOATS ? "floats" : "bool", zm_dtype_name(in[0].dtype));
  for (int i = 0; i < in[0].rank; i++) {
    if (i != a->axis)
      shape[rank++] = in[0].shape[i];
    else if (a->keepdims)
      shape[rank++] = 1;
  }
  return zmi_give(nout, out, to, rank, shape);
}

static zm_status prod_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zm_dtype dtype = nin > 0 ? in[0].dtype : ZM_F32;
  return infer(attrs, nin, in, ANYTHING, zmi_dtype_is_float(dtype) ? dtype : integers[dtype].prod, nout, out);
}

static zm_status float_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  return infer(attrs, nin, in, FLOATS, nin > 0 ? in[0].dtype : ZM_F32, nout, out);
}

static zm_status truth_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  return infer(attrs, nin, in, TRUTH, ZM_BOOL, nout, out);
}

// ---- rules ----

static reduce_attrs attrs_of(const zmi_node *n) {
  reduce_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return a;
}

static zm_array *spread(const zmi_node *n, zm_array *reduced) {
  const reduce_attrs a = attrs_of(n);
  return zmi_spread(reduced, (int)a.axis, a.keepdims, &n->in[0]->type);
}

// The product of all others: of those before and of those after. Right for zeros too.
static zm_status prod_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const int axis = (int)attrs_of(n).axis;
  zm_array *x = zm_astype(n->in[0], ZM_F32);
  zm_array *others = zm_multiply(zm_cumprod(x, axis, false, false), zm_cumprod(x, axis, true, false));
  (void)wanted;
  others = zm_multiply(others, spread(n, given[0]));
  gradient[0] = others ? zm_astype(others, n->in[0]->type.dtype) : NULL;
  return ZM_OK;
}

static zm_status var_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const reduce_attrs a = attrs_of(n);
  zm_array *x = n->in[0], *away = zm_subtract(x, zm_mean(x, (int)a.axis, true));
  const double factor = 2 / (double)ZMI_MAX(x->type.shape[a.axis] - a.ddof, 0);
  (void)wanted;
  gradient[0] = zm_multiply(zm_multiply(spread(n, given[0]), zmi_scalar_like(x, factor)), away);
  return ZM_OK;
}

static zm_status logsumexp_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)wanted;
  gradient[0] = zm_multiply(spread(n, given[0]), zm_exp(zm_subtract(n->in[0], spread(n, zmi_result(n, 0)))));
  return ZM_OK;
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  reduce_attrs a = attrs_of(n);
  (void)size, (void)batched;
  a.axis++;
  out[0] = zmi_apply1(n->op, &a, sizeof a, 1, in);
  return ZM_OK;
}

static const zmi_rules prod_rules = {.vjp = prod_vjp, .vmap = vmap, .gradient = "x"};
static const zmi_rules var_rules = {.vjp = var_vjp, .vmap = vmap, .gradient = "x"};
static const zmi_rules logsumexp_rules = {.vjp = logsumexp_vjp, .vmap = vmap, .gradient = "x"};
static const zmi_rules any_rules = {.vmap = vmap, .gradient = "none: results are bool"};
#define all_rules any_rules

#define ROW(word, rule, float_fn, integer_fn, source, parameter, text)                                                                     \
  static void word##_run(const zmi_call *c, int64_t begin, int64_t end) {                                                                  \
    run(c, float_fn, integer_fn, begin, end);                                                                                              \
  }                                                                                                                                        \
  static bool word##_kernel(const zmi_call *c, zmi_op_kernel *k) {                                                                         \
    const reduce_attrs *a = c->attrs;                                                                                                      \
    const int64_t n = ZMI_MAX(c->in[0]->type.shape[a->axis] - a->ddof, 0);                                                                 \
    return zmi_reduction_kernel(c, source, a->axis, parameter, (double)n, k);                                                              \
  }                                                                                                                                        \
  const zmi_op zmi_op_##word = {.name = #word,                                                                                             \
                                .operands = "x",                                                                                           \
                                .fields = fields,                                                                                          \
                                .rounding = text,                                                                                          \
                                .infer = rule,                                                                                             \
                                .kernel = word##_kernel,                                                                                   \
                                .stages = {{tiles, word##_run}},                                                                           \
                                .rules = &word##_rules};

// clang-format off
ROW(prod, prod_infer, float_prod, integer_prod,
    "elements { p = prod(x); } y = p;", NULL,
    "float32 product in the lane order, from 1, rounded once to the dtype; integers wrap around in 32 bits or more")
ROW(var, float_infer, float_var, NULL,
    "elements { s = sum(x); } let mean = s / D; elements { q = sum((x - mean) * (x - mean)); } y = q / n;", "n",
    "the mean as by mean, then the squares of x - mean summed in the lane order, each step in float32; divided, rounded once to the dtype")
ROW(logsumexp, float_infer, float_logsumexp, NULL,
    "elements { m = max(x); } elements { s = sum(exp(x == m ? 0.0f : x - m)); } y = m - m != 0 ? m : m + log(s);", NULL,
    "m + log(the sum of exp(x - m) in the lane order) in float32, m the largest; m itself if it is infinite; rounded once to the dtype")
ROW(any, truth_infer, NULL, truth_any,
    "elements { m = max(x); } y = m;", NULL, "exact")
ROW(all, truth_infer, NULL, truth_all,
    "elements { m = min(x); } y = m == 0 ? 0 : 1;", NULL, "exact")
// clang-format on

zm_array *zmi_reduce_more(const zmi_op *op, zm_array *a, int axis, bool keepdims, int64_t ddof) {
  return a ? zmi_apply1(op, &(reduce_attrs){axis, keepdims, ddof}, sizeof(reduce_attrs), 1, &a) : NULL;
}
