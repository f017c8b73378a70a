// linear_back: rows times the transposes of packed matrices, what gradients of linear and gather_linear are made of. Rows of a matrix are
// unpacked one after another; a few rows of the operand take each of them together.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <string.h>

typedef struct attributes {
  zmi_matrix_attrs m;
} attributes;

static const zmi_field fields[] = {ZMI_MATRIX_FIELDS("", attributes, m), {NULL, ZMI_FIELD_INT, 0, NULL}};

enum { G, WEIGHT, EXPERTS, TOGETHER = 8 };

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const attributes *a = attrs;
  zm_status status = zmi_want_operands(nin, in, 2, 3);
  const bool chosen = status == ZM_OK && !zmi_absent(in, nin, EXPERTS);
  if (status == ZM_OK) status = zmi_want_rank("g", &in[G], chosen ? 3 : 2, chosen ? "[rows, slots, n]" : "[rows, n]");
  if (status == ZM_OK) status = zmi_want_float("g", &in[G]);
  if (status == ZM_OK) status = zmi_want_matrix(&a->m, nin, in, WEIGHT, -1);
  if (status == ZM_OK) status = zmi_want_dim("g", &in[G], in[G].rank - 1, a->m.n, "n of the weight");
  if (status == ZM_OK && !chosen && a->m.experts != 1)
    status = zmi_fail(ZM_ERROR_ARGUMENT, "weight: %lld experts, expected one matrix", (long long)a->m.experts);
  if (chosen) {
    if (status == ZM_OK) status = zmi_want_rank("experts", &in[EXPERTS], 2, "int32 [rows, slots]");
    if (status == ZM_OK) status = zmi_want_dtype("experts", &in[EXPERTS], ZM_I32);
    if (status == ZM_OK) status = zmi_want_dim("experts", &in[EXPERTS], 0, in[G].shape[0], "rows of g");
    if (status == ZM_OK) status = zmi_want_dim("experts", &in[EXPERTS], 1, in[G].shape[1], "slots of g");
  }
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = in[G];
  out[0].shape[in[G].rank - 1] = a->m.k;
  return ZM_OK;
}

static int64_t rows_of(const zmi_call *c) {
  const zmi_type *g = &c->in[G]->type;
  return g->rank == 2 ? g->shape[0] : g->shape[0] * g->shape[1];
}

// Rows that share what is unpacked: those of one matrix. Rows with experts go one by one.
static int64_t together(const zmi_call *c) {
  return c->in[G]->type.rank == 2 ? TOGETHER : 1;
}

static int64_t groups_of(const zmi_call *c) {
  return zmi_tiles_of(rows_of(c), together(c));
}

// A lane's buffers: a row of the matrix, and a sum for each of the rows that go together.
static size_t lane_bytes(const zmi_call *c) {
  return zmi_align64((size_t)((const attributes *)c->attrs)->m.k * sizeof(float)) * (size_t)(together(c) + 1);
}

static int64_t tiles(const zmi_call *c) {
  return zmi_lane_count(groups_of(c));
}

static size_t scratch(const zmi_call *c) {
  return lane_bytes(c) * (size_t)tiles(c);
}

static void group(const zmi_call *c, int64_t first, int64_t last, char *memory) {
  const zmi_matrix_attrs *m = &((const attributes *)c->attrs)->m;
  const zm_dtype dtype = c->in[G]->type.dtype;
  const zmi_weights w = zmi_weights_of(c, m, WEIGHT, -1);
  const size_t step = zmi_align64((size_t)m->k * sizeof(float));
  const int64_t expert = c->in[G]->type.rank == 2 ? 0 : ((const int32_t *)c->src[EXPERTS])[first];
  float *row = (float *)(void *)memory;
  for (int64_t r = first; r < last; r++) memset(memory + (size_t)(r - first + 1) * step, 0, step);
  for (int64_t i = 0; i < m->n && expert >= 0 && expert < m->experts; i++) {
    zmi_unpack_row(&m->format, w.packed + (size_t)expert * w.matrix_bytes, m->k, i, row);
    for (int64_t r = first; r < last; r++) {
      float by;
      c->kernels->load(zmi_at(c->src[G], dtype, r * m->n + i), dtype, 1, &by);
      c->kernels->axpy(by, row, ZM_F32, m->k, (float *)(void *)(memory + (size_t)(r - first + 1) * step));
    }
  }
  for (int64_t r = first; r < last; r++) {
    c->kernels->store((const float *)(const void *)(memory + (size_t)(r - first + 1) * step), m->k, zmi_at(c->dst[0], dtype, r * m->k),
                      dtype);
  }
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const int64_t rows = rows_of(c), groups = groups_of(c), width = together(c);
  for (int64_t lane = begin; lane < end; lane++) {
    for (int64_t i = zmi_lane_begin(groups, lane); i < zmi_lane_begin(groups, lane + 1); i++) {
      group(c, i * width, ZMI_MIN((i + 1) * width, rows), (char *)c->scratch + (size_t)lane * lane_bytes(c));
    }
  }
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (!wanted[G]) return ZM_OK;
  if (n->nin > EXPERTS && n->in[EXPERTS]) {
    zm_array *in[3] = {given[0], n->in[EXPERTS], n->in[WEIGHT]};
    gradient[G] = zmi_apply1(&zmi_op_gather_linear, n->attrs.bytes, sizeof(attributes), 3, in);
  } else {
    zm_array *in[2] = {given[0], n->in[WEIGHT]};
    gradient[G] = zmi_apply1(&zmi_op_linear, n->attrs.bytes, sizeof(attributes), 2, in);
  }
  return ZM_OK;
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 1u << G | 1u << EXPERTS, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "g"};

const zmi_op zmi_op_linear_back = {
    .name = "linear_back",
    .operands = "g weight experts?",
    .fields = fields,
    .rounding =
        "fma in float32 over the rows of the matrix in rising order, starting from +0; rounded once to the dtype of g; an expert out "
        "of range gives zeros.",
    .infer = infer,
    .scratch = scratch,
    .stages = {{tiles, run}},
    .rules = &rules,
};
