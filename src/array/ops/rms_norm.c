// rms_norm: rows over their last axis divided by their root mean square, times a weight.
#include "array/kernels.h"
#include "array/ops/ops.h"

static const zmi_field fields[] = {{"eps", ZMI_FIELD_FLOAT, offsetof(zmi_rms_attrs, eps), NULL}, {NULL, ZMI_FIELD_INT, 0, NULL}};

enum { X, WEIGHT };

void zmi_rms_row(const zmi_kernels *kn, const void *x, zm_dtype dtype, const float *w, int64_t n, float eps, float *work, void *dst) {
  kn->load(x, dtype, n, work);
  kn->rms_norm(work, w, n, eps, work);
  kn->store(work, n, dst, dtype);
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zmi_rms_attrs *a = attrs;
  zm_status status = zmi_want_operands(nin, in, 2, 2);
  if (status != ZM_OK) return status;
  if (in[X].rank < 1) return zmi_fail(ZM_ERROR_ARGUMENT, "x: expected at least one axis");
  status = zmi_want_float("x", &in[X]);
  if (status == ZM_OK) status = zmi_want_rank("weight", &in[WEIGHT], 1, "[last axis of x]");
  if (status == ZM_OK) status = zmi_want_float("weight", &in[WEIGHT]);
  if (status == ZM_OK) status = zmi_want_dim("weight", &in[WEIGHT], 0, in[X].shape[in[X].rank - 1], "last axis of x");
  if (status == ZM_OK && in[WEIGHT].shape[0] < 1) status = zmi_fail(ZM_ERROR_ARGUMENT, "x: the last axis is empty");
  if (status == ZM_OK && !(a->eps >= 0 && a->eps < 1e30)) status = zmi_fail(ZM_ERROR_ARGUMENT, "eps: %g is not a number from 0 up", a->eps);
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = in[X];
  return ZM_OK;
}

static int64_t row_count(const zmi_call *c) {
  const zmi_type *x = &c->in[X]->type;
  return zmi_type_count(x) / x->shape[x->rank - 1];
}

// A tile's buffers: the row and the weight in float32.
static size_t lane_bytes(const zmi_call *c) {
  return 2 * zmi_align64((size_t)c->in[WEIGHT]->type.shape[0] * sizeof(float));
}

static size_t scratch(const zmi_call *c) {
  return lane_bytes(c) * (size_t)zmi_lane_count(row_count(c));
}

static int64_t tiles(const zmi_call *c) {
  return zmi_lane_count(row_count(c));
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_rms_attrs *a = c->attrs;
  zm_dtype dtype = c->in[X]->type.dtype;
  int64_t rows = row_count(c), n = c->in[WEIGHT]->type.shape[0];
  for (int64_t lane = begin; lane < end; lane++) {
    char *memory = (char *)c->scratch + (size_t)lane * lane_bytes(c);
    float *work = (float *)(void *)memory, *w = (float *)(void *)(memory + lane_bytes(c) / 2);
    c->kernels->load(c->src[WEIGHT], c->in[WEIGHT]->type.dtype, n, w);
    for (int64_t r = zmi_lane_begin(rows, lane); r < zmi_lane_begin(rows, lane + 1); r++) {
      zmi_rms_row(c->kernels, zmi_at(c->src[X], dtype, r * n), dtype, w, n, (float)a->eps, work, zmi_at(c->dst[0], dtype, r * n));
    }
  }
}

// With r = 1 / sqrt(mean(x^2) + eps): dx = r (g w) - x r^3 mean(g w x), dw = the sum of g x r over the rows. In float32.
static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const zmi_rms_attrs *a = (const zmi_rms_attrs *)(const void *)n->attrs.bytes;
  const zmi_type *xt = &n->in[X]->type, *wt = &n->in[WEIGHT]->type;
  zm_array *x = zm_astype(n->in[X], ZM_F32), *g = zm_astype(given[0], ZM_F32);
  zm_array *r = zm_rsqrt(zm_add(zm_mean(zm_multiply(x, x), -1, true), zmi_scalar_like(x, a->eps)));
  zm_array *xr = zm_multiply(x, r);
  if (wanted[X]) {
    zm_array *gw = zm_multiply(g, n->in[WEIGHT]);
    zm_array *along = zm_multiply(xr, zm_mean(zm_multiply(gw, xr), -1, true));
    gradient[X] = zm_astype(zm_multiply(r, zm_subtract(gw, along)), xt->dtype);
  }
  if (wanted[WEIGHT]) gradient[WEIGHT] = zmi_sum_to(zm_multiply(g, xr), wt);
  return ZM_OK;
}

// Rows may have any number of axes in front.
static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return batched[WEIGHT] ? zmi_vmap_slices(n, size, in, batched, out) : zmi_reapply(n, in, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "x, weight"};

const zmi_op zmi_op_rms_norm = {
    .name = "rms_norm",
    .operands = "x weight",
    .fields = fields,
    .rounding =
        "x * (1 / sqrt(mean(x^2) + eps)) * weight in float32, the sum of squares in the lane order; rounded once to the dtype of x.",
    .infer = infer,
    .scratch = scratch,
    .device = zmi_rms_norm_device,
    .stages = {{tiles, run}},
    .rules = &rules,
};

zm_array *zmi_rms_norm(zm_array *x, zm_array *weight, double eps) {
  zmi_rms_attrs a = {eps};
  return zmi_apply1(&zmi_op_rms_norm, &a, sizeof a, 2, (zm_array *[]){x, weight});
}
