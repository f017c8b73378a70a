// softmax over the last axis. A row is computed in float32 as a whole: in the result if that is float32, else in a buffer.
#include "array/ops/ops.h"

// Rows longer than a tile have their buffers in the scratch memory, one for each of at most BUFFERS tiles.
enum { BUFFERS = 16 };

typedef struct rows {
  int64_t count, n, tiles;
} rows;

static rows rows_of(const zmi_call *c) {
  const zmi_type *t = &c->in[0]->type;
  rows r = {.count = 1, .n = t->shape[t->rank - 1]};
  for (int i = 0; i + 1 < t->rank; i++) r.count *= t->shape[i];
  if (r.n == 0) r.count = 0;
  r.tiles = r.n <= ZMI_TILE ? zmi_tiles_of(r.count, ZMI_TILE / ZMI_MAX(r.n, 1)) : ZMI_MIN(r.count, BUFFERS);
  return r;
}

static bool needs_scratch(const zmi_call *c, const rows *r) {
  return r->n > ZMI_TILE && c->in[0]->type.dtype != ZM_F32;
}

static size_t scratch(const zmi_call *c) {
  rows r = rows_of(c);
  return needs_scratch(c, &r) ? (size_t)r.tiles * (size_t)r.n * sizeof(float) : 0;
}

static int64_t tiles(const zmi_call *c) {
  return rows_of(c).tiles;
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  rows r = rows_of(c);
  const zmi_kernels *k = c->kernels;
  zm_dtype dtype = c->in[0]->type.dtype;
  size_t bytes = (size_t)r.n * zm_dtype_size(dtype);
  float buffer[ZMI_TILE];
  for (int64_t tile = begin; tile < end; tile++) {
    // A whole number of rows for each tile, as even as can be.
    int64_t first = r.count / r.tiles * tile + ZMI_MIN(tile, r.count % r.tiles);
    int64_t last = r.count / r.tiles * (tile + 1) + ZMI_MIN(tile + 1, r.count % r.tiles);
    for (int64_t row = first; row < last; row++) {
      const char *src = (const char *)c->src[0] + (size_t)row * bytes;
      char *dst = (char *)c->dst[0] + (size_t)row * bytes;
      float *x = buffer;
      if (dtype == ZM_F32)
        x = (float *)(void *)dst;
      else if (r.n > ZMI_TILE)
        x = (float *)c->scratch + tile * r.n;
      k->load(src, dtype, r.n, x);
      k->softmax(x, r.n);
      if (dtype != ZM_F32) k->store(x, r.n, dst, dtype);
    }
  }
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (in[0].rank < 1) return zmi_fail(ZM_ERROR_ARGUMENT, "an array of rank 0 has no last axis");
  if (!zmi_dtype_is_float(in[0].dtype)) return zmi_fail(ZM_ERROR_ARGUMENT, "expected a float dtype, found %s", zm_dtype_name(in[0].dtype));
  return zmi_give(nout, out, in[0].dtype, in[0].rank, in[0].shape);
}

// y (v - sum(v y)): the derivative is symmetric, so this is both the gradient and the tangent.
static zm_array *times_derivative(const zmi_node *n, zm_array *v) {
  zm_array *y = zmi_result(n, 0), *vy = zm_multiply(v, y);
  return zm_subtract(vy, zm_multiply(y, zm_sum(vy, -1, true)));
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)wanted;
  gradient[0] = times_derivative(n, given[0]);
  return ZM_OK;
}

static zm_status jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  result[0] = times_derivative(n, tangent[0]);
  return ZM_OK;
}

static const zmi_rules rules = {.vjp = vjp, .jvp = jvp, .vmap = zmi_vmap_elementwise, .gradient = "x"};

static bool kernel(const zmi_call *c, zmi_op_kernel *k) {
  static const char source[] = "elements { m = max(x); } elements { s = sum(exp(x - m)); } elements { y = exp(x - m) / s; }";
  return zmi_reduction_kernel(c, source, c->in[0]->type.rank - 1, NULL, 0, k);
}

const zmi_op zmi_op_softmax = {.name = "softmax",
                               .operands = "x",
                               .rounding = "exp(x - max) / sum in float32, the sum in the lane order; rounded once to the dtype",
                               .infer = infer,
                               .scratch = scratch,
                               .kernel = kernel,
                               .stages = {{tiles, run}},
                               .rules = &rules};

zm_array *zm_softmax(zm_array *a) {
  if (!zmi_present("softmax", 1, &a)) return NULL;
  a = zm_astype(a, zmi_at_least_float(a->type.dtype));
  return zmi_apply1(&zmi_op_softmax, NULL, 0, 1, &a);
}
