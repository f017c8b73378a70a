// residual_norm: the sum of the residual stream and a branch, and its norm, in one pass over each row.
#include "patch/fused.h"

typedef struct norm_attrs {
  double eps;
} norm_attrs;

static const zmi_field fields[] = {{"eps", ZMI_FIELD_FLOAT, offsetof(norm_attrs, eps), NULL}, {NULL, ZMI_FIELD_INT, 0, NULL}};

enum { A, B, WEIGHT };

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const norm_attrs *a = attrs;
  char x[128], y[128];
  zm_status status = zmi_want_operands(nin, in, 3, 3);
  if (status == ZM_OK) status = zmi_want_rank("a", &in[A], 2, "[rows, hidden]");
  if (status == ZM_OK) status = zmi_want_float("a", &in[A]);
  if (status == ZM_OK && !zmi_type_equal(&in[A], &in[B])) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "a and b must have one type, found %s and %s", zmi_type_text(&in[A], x), zmi_type_text(&in[B], y));
  }
  if (status == ZM_OK) status = zmi_want_rank("weight", &in[WEIGHT], 1, "[hidden]");
  if (status == ZM_OK) status = zmi_want_float("weight", &in[WEIGHT]);
  if (status == ZM_OK) status = zmi_want_dim("weight", &in[WEIGHT], 0, in[A].shape[1], "hidden");
  if (status == ZM_OK && in[A].shape[1] < 1) status = zmi_fail(ZM_ERROR_ARGUMENT, "a: rows are empty");
  if (status == ZM_OK && !(a->eps >= 0 && a->eps < 1e30)) status = zmi_fail(ZM_ERROR_ARGUMENT, "eps: %g is not a number from 0 up", a->eps);
  if (status != ZM_OK) return status;
  *nout = 2;
  out[0] = out[1] = in[A];
  return ZM_OK;
}

// A tile's buffers: the sum, the other operand (later the norm), the weight.
static size_t lane_bytes(const zmi_call *c) {
  return 3 * zmi_align64((size_t)c->in[A]->type.shape[1] * sizeof(float));
}

static int64_t tiles(const zmi_call *c) {
  return zmi_lane_count(c->in[A]->type.shape[0]);
}

static size_t scratch(const zmi_call *c) {
  return lane_bytes(c) * (size_t)tiles(c);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const norm_attrs *a = c->attrs;
  const zmi_kernels *kn = c->kernels;
  int64_t rows = c->in[A]->type.shape[0], n = c->in[A]->type.shape[1];
  zm_dtype dtype = c->in[A]->type.dtype;
  for (int64_t lane = begin; lane < end; lane++) {
    char *memory = (char *)c->scratch + (size_t)lane * lane_bytes(c);
    float *sum = (float *)(void *)memory, *other = (float *)(void *)(memory + lane_bytes(c) / 3),
          *weight = (float *)(void *)(memory + lane_bytes(c) / 3 * 2);
    kn->load(c->src[WEIGHT], c->in[WEIGHT]->type.dtype, n, weight);
    for (int64_t r = zmi_lane_begin(rows, lane); r < zmi_lane_begin(rows, lane + 1); r++) {
      void *to = zmi_at(c->dst[0], dtype, r * n);
      kn->load(zmi_at(c->src[A], dtype, r * n), dtype, n, sum);
      kn->load(zmi_at(c->src[B], dtype, r * n), dtype, n, other);
      for (int64_t i = 0; i < n; i++) sum[i] += other[i];
      kn->store(sum, n, to, dtype);
      zmi_rms_row(kn, to, dtype, weight, n, (float)a->eps, other, zmi_at(c->dst[1], dtype, r * n));
    }
  }
}

static zm_status device(const zmi_call *c, zmi_device_code *code) {
  const zmi_type *x = &c->in[A]->type;
  return zmi_device_norm(code,
                         &(zmi_gpu_norm){.x = zmi_gpu_at(c->src[A]),
                                         .add = zmi_gpu_at(c->src[B]),
                                         .weight = zmi_gpu_at(c->src[WEIGHT]),
                                         .sum = zmi_gpu_at(c->dst[0]),
                                         .out = zmi_gpu_at(c->dst[1]),
                                         .rows = (int)x->shape[0],
                                         .n = (int)x->shape[1],
                                         .dtype = zmi_gpu_dtype_of(x->dtype),
                                         .weight_dtype = zmi_gpu_dtype_of(c->in[WEIGHT]->type.dtype),
                                         .eps = (float)((const norm_attrs *)c->attrs)->eps},
                         0);
}

const zmi_op zmi_op_fused_residual_norm = {
    .name = "fused_residual_norm",
    .operands = "a b weight",
    .fields = fields,
    .rounding = "As add and rms_norm, each at its place.",
    .flags = ZMI_OP_HIDDEN,
    .infer = infer,
    .scratch = scratch,
    .device = device,
    .stages = {{tiles, run}},
};

// ---- the pattern ----

static zm_status attempt(zmi_graph *g, zmi_node *norm, zmi_outcome *o) {
  const zm_array *x = norm->in[0];
  if (x->type.rank != 2) return ZM_OK; // norms of heads
  zmi_node *add = zmi_maker(x, "add");
  if (!add) return zmi_left_alone(o, "what is normalized is not a sum (it is made by %s)", x->node ? x->node->op->name : "nothing: a leaf");
  if (!zmi_type_equal(&add->in[0]->type, &x->type) || !zmi_type_equal(&add->in[1]->type, &x->type)) {
    return zmi_left_alone(o, "the operands of the sum are of different types");
  }
  norm_attrs a = {((const zmi_rms_attrs *)(const void *)norm->attrs.bytes)->eps};
  zm_array *out[ZMI_MAX_OUT] = {NULL}, *in[] = {add->in[0], add->in[1], norm->in[1]};
  zm_status status = zmi_apply(&zmi_op_fused_residual_norm, &a, sizeof a, 3, in, out);
  if (status == ZM_OK) status = zmi_graph_replace(g, norm->out[0], out[1]);
  if (status == ZM_OK) status = zmi_graph_replace(g, add->out[0], out[0]);
  return status == ZM_OK ? zmi_fused(o, "sum and norm: 2 ops in one") : status;
}

static zm_status rewrite(zmi_graph *graph, zm_patch_report *report) {
  return zmi_each_place(graph, report, "residual_norm", "rms_norm", attempt);
}

const zmi_pattern zmi_pattern_residual_norm = {
    .name = "residual_norm",
    .summary = "the residual sum and the norm that follows it in one op",
    .rewrite = rewrite,
};
