// combine: the weighted sum of the results of a row's experts; and the gated activation, which only fused ops take in one step.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <string.h>

enum { Y, WEIGHTS };

void zmi_combine_piece(const zmi_kernels *kn, const void *y, zm_dtype dtype, int64_t stride, const void *weights, zm_dtype weight_dtype,
                       int64_t slots, int64_t n, void *dst, zm_dtype to, bool past) {
  enum { RUN = 256 }; // elements between two requests for memory
  _Alignas(64) float sum[ZMI_COMBINE_MOST];
  const size_t size = zm_dtype_size(dtype);
  memset(sum, 0, (size_t)n * sizeof *sum);
  for (int64_t s = 0; s < slots; s++) {
    float w;
    kn->load(zmi_at(weights, weight_dtype, s), weight_dtype, 1, &w);
    for (int64_t at = 0; at < n; at += RUN) {
      const void *from = zmi_at(y, dtype, s * stride + at);
      const int64_t run = ZMI_MIN(RUN, n - at);
      // What comes next stands a row further on: the piece of the next slot.
      if (past) zmi_ask_ahead(from, (size_t)run * size, (size_t)stride * size);
      kn->axpy(w, from, dtype, run, sum + at);
    }
  }
  if (past && to == ZM_F32)
    zmi_copy_past(dst, sum, (size_t)n * sizeof *sum);
  else
    kn->store(sum, n, dst, to);
}

void zmi_swiglu_values(const zmi_kernels *kn, float *gate, const float *up, int64_t n, zm_dtype dtype) {
  kn->silu(gate, n);
  kn->round(gate, n, dtype);
  for (int64_t i = 0; i < n; i++) gate[i] *= up[i];
  kn->round(gate, n, dtype);
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 2, 2);
  if (status == ZM_OK) status = zmi_want_rank("y", &in[Y], 3, "[rows, slots, hidden]");
  if (status == ZM_OK) status = zmi_want_float("y", &in[Y]);
  if (status == ZM_OK) status = zmi_want_rank("weights", &in[WEIGHTS], 2, "[rows, slots]");
  if (status == ZM_OK) status = zmi_want_dtype("weights", &in[WEIGHTS], in[Y].dtype);
  if (status == ZM_OK) status = zmi_want_dim("weights", &in[WEIGHTS], 0, in[Y].shape[0], "rows of y");
  if (status == ZM_OK) status = zmi_want_dim("weights", &in[WEIGHTS], 1, in[Y].shape[1], "slots of y");
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = zmi_type_of(in[Y].dtype, 2, (int64_t[]){in[Y].shape[0], in[Y].shape[2]});
  return ZM_OK;
}

static int64_t pieces_of(const zmi_call *c) {
  return (c->in[Y]->type.shape[2] + ZMI_COMBINE - 1) / ZMI_COMBINE;
}

static int64_t tiles(const zmi_call *c) {
  return c->in[Y]->type.shape[0] * pieces_of(c);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  zm_dtype dtype = c->in[Y]->type.dtype;
  int64_t slots = c->in[Y]->type.shape[1], width = c->in[Y]->type.shape[2], pieces = pieces_of(c);
  for (int64_t t = begin; t < end; t++) {
    int64_t row = t / pieces, first = t % pieces * ZMI_COMBINE;
    zmi_combine_piece(c->kernels, zmi_at(c->src[Y], dtype, row * slots * width + first), dtype, width,
                      zmi_at(c->src[WEIGHTS], dtype, row * slots), dtype, slots, ZMI_MIN(width - first, ZMI_COMBINE),
                      zmi_at(c->dst[0], dtype, row * width + first), dtype, false);
  }
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  zm_array *g = zm_expand_dims(given[0], 1); // [rows, 1, hidden]
  if (wanted[Y]) gradient[Y] = zm_multiply(g, zm_expand_dims(n->in[WEIGHTS], 2));
  if (wanted[WEIGHTS]) gradient[WEIGHTS] = zm_sum(zm_multiply(g, n->in[Y]), 2, false);
  return ZM_OK;
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 3, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "all operands"};

const zmi_op zmi_op_combine = {
    .name = "combine",
    .operands = "y weights",
    .rounding = "fma in float32 over the slots in their order, starting from 0; rounded once to the dtype of y.",
    .infer = infer,
    .device = zmi_combine_device,
    .stages = {{tiles, run}},
    .rules = &rules,
};

zm_array *zmi_combine(zm_array *y, zm_array *weights) {
  return zmi_apply1(&zmi_op_combine, NULL, 0, 2, (zm_array *[]){y, weights});
}
