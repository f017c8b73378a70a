// linear: rows times one packed matrix, plus bias.
#include "array/kernels.h"
#include "array/ops/ops.h"

typedef struct attributes {
  zmi_matrix_attrs m;
} attributes;

static const zmi_field fields[] = {ZMI_MATRIX_FIELDS("", attributes, m), {NULL, ZMI_FIELD_INT, 0, NULL}};

enum { X, WEIGHT, BIAS };

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const attributes *a = attrs;
  zm_status status = zmi_want_operands(nin, in, 2, 3);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[X], 2, "[rows, k]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[X]);
  if (status == ZM_OK) status = zmi_want_matrix(&a->m, nin, in, WEIGHT, BIAS);
  if (status == ZM_OK && a->m.experts != 1) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "weight: %lld experts, expected one matrix", (long long)a->m.experts);
  }
  if (status == ZM_OK) status = zmi_want_dim("x", &in[X], 1, a->m.k, "k of the weight");
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = zmi_type_of(in[X].dtype, 2, (int64_t[]){in[X].shape[0], a->m.n});
  return ZM_OK;
}

static zmi_ready ready_form(const zmi_call *c) {
  const attributes *a = c->attrs;
  return zmi_ready_of(&a->m.format, c->in[X]->type.dtype, a->m.k);
}

static size_t scratch(const zmi_call *c) {
  zmi_ready f = ready_form(c);
  return f.direct ? 0 : f.bytes * (size_t)c->in[X]->type.shape[0];
}

static zmi_rows rows_of(const zmi_call *c, const zmi_ready *f) {
  zmi_rows rows = {.form = f, .count = c->in[X]->type.shape[0]};
  rows.ready = f->direct ? c->src[X] : c->scratch;
  rows.stride = f->direct ? (size_t)f->k * zm_dtype_size(f->dtype) : f->bytes;
  return rows;
}

static int64_t ready_tiles(const zmi_call *c) {
  zmi_ready f = ready_form(c);
  return f.direct ? 0 : c->in[X]->type.shape[0] * zmi_ready_pieces(&f);
}

static void ready_run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_ready f = ready_form(c);
  zmi_ready_tiles(c->kernels, &f, c->src[X], c->in[X]->type.dtype, c->scratch, begin, end);
}

static int64_t dot_tiles(const zmi_call *c) {
  const attributes *a = c->attrs;
  zmi_ready f = ready_form(c);
  zmi_rows rows = rows_of(c, &f);
  zmi_weights w = zmi_weights_of(c, &a->m, WEIGHT, BIAS);
  return zmi_dense_tiles(&w, &rows);
}

static void dot_run(const zmi_call *c, int64_t begin, int64_t end) {
  const attributes *a = c->attrs;
  zmi_ready f = ready_form(c);
  zmi_rows rows = rows_of(c, &f);
  zmi_weights w = zmi_weights_of(c, &a->m, WEIGHT, BIAS);
  zm_dtype dtype = c->in[X]->type.dtype;
  zmi_dense_run(c->kernels, &w, &rows, c->dst[0], (size_t)w.n * zm_dtype_size(dtype), dtype, begin, end);
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (wanted[X]) {
    zm_array *in[2] = {given[0], n->in[WEIGHT]};
    gradient[X] = zmi_apply1(&zmi_op_linear_back, n->attrs.bytes, sizeof(attributes), 2, in);
  }
  if (n->nin > BIAS && wanted[BIAS]) {
    zm_array *sum = zm_sum(given[0], 0, true); // a bias is [n] or [1, n]
    gradient[BIAS] = sum ? zm_astype(zm_reshape(sum, n->in[BIAS]->type.shape, n->in[BIAS]->type.rank), n->in[BIAS]->type.dtype) : NULL;
  }
  return ZM_OK;
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 1u << X, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "x, bias; the weight is packed"};

const zmi_op zmi_op_linear = {
    .name = "linear",
    .operands = "x weight bias?",
    .fields = fields,
    .rounding = "The dot product in order A and the bias are added in float32; the sum is rounded once to the dtype of x.",
    .infer = infer,
    .scratch = scratch,
    .device = zmi_linear_device,
    .stages = {{ready_tiles, ready_run}, {dot_tiles, dot_run}},
    .rules = &rules,
};

zm_array *zmi_linear(const zmi_matrix *w, zm_array *x) {
  attributes a = {zmi_matrix_attrs_of(w)};
  zm_array *in[] = {x, w->packed, w->bias};
  return zmi_apply1(&zmi_op_linear, &a, sizeof a, w->bias ? 3 : 2, in);
}
