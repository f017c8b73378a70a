// Rows by index with an addition: gathered and added, or added up where they belong.
#include "catalog/ops.h"

#include <string.h>

ZMI_ELEMENTS(fused_gather_add, "row other", NULL, "row + other")

zm_array *zm_fused_gather_add(zm_array *src, zm_array *indices, zm_array *other) {
  const char *name = "fused_gather_add";
  if (!zmi_cat_want_float(name, "src", src) || !zmi_cat_want(name, "src", src, 2, (int64_t)-1, (int64_t)-1)) return NULL;
  if (!zmi_cat_want_rank(name, "indices", indices, 1) || !zmi_cat_want(name, "indices", indices, 1, (int64_t)-1)) return NULL;
  if (!zmi_cat_want_float(name, "other", other) || !zmi_cat_want(name, "other", other, 2, indices->type.shape[0], src->type.shape[1]))
    return NULL;
  return zmi_definition_apply1(&fused_gather_add_def, (zm_array *[]){zm_take(src, indices), other}, 2, NULL, 0);
}

// ---- scatter_add_rows: indices [M], updates [M, W] -> float32 [N, W]; a tile owns columns, and adds the updates in their order ----

typedef struct scatter_attrs {
  int64_t rows;
} scatter_attrs;

static const zmi_field fields[] = {{"rows", ZMI_FIELD_INT, offsetof(scatter_attrs, rows), NULL}, {0}};

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  int64_t rows = ((const scatter_attrs *)attrs)->rows;
  zm_status status = zmi_want_operands(nin, in, 2, 2);
  if (status == ZM_OK) status = zmi_want_rank("updates", &in[1], 2, "[M, W]");
  if (status == ZM_OK) status = zmi_want_float("updates", &in[1]);
  if (status == ZM_OK) status = zmi_want_index("indices", &in[0], in[1].shape[0]);
  if (status == ZM_OK && rows < 0) status = zmi_fail(ZM_ERROR_ARGUMENT, "rows: expected 0 or more, found %lld", (long long)rows);
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = zmi_type_of(ZM_F32, 2, (int64_t[]){rows, in[1].shape[1]});
  size_t bytes;
  return zmi_type_bytes(&out[0], &bytes) ? ZM_OK : zmi_fail(ZM_ERROR_ARGUMENT, "rows: %lld rows are too many", (long long)rows);
}

enum { COLUMNS = 256 };

static int64_t tiles(const zmi_call *c) {
  return (c->out[0]->type.shape[1] + COLUMNS - 1) / COLUMNS;
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  _Alignas(64) float update[COLUMNS];
  const int32_t *index = c->src[0];
  zm_dtype dtype = c->in[1]->type.dtype;
  int64_t rows = c->out[0]->type.shape[0], width = c->out[0]->type.shape[1], count = c->in[1]->type.shape[0];
  for (int64_t tile = begin; tile < end; tile++) {
    int64_t first = tile * COLUMNS, n = ZMI_MIN(width - first, COLUMNS);
    for (int64_t r = 0; r < rows; r++) memset((float *)c->dst[0] + r * width + first, 0, (size_t)n * sizeof(float));
    for (int64_t m = 0; m < count; m++) {
      if (index[m] < 0 || index[m] >= rows) continue;
      float *dst = (float *)c->dst[0] + index[m] * width + first;
      c->kernels->load(zmi_at(c->src[1], dtype, m * width + first), dtype, n, update);
      for (int64_t i = 0; i < n; i++) dst[i] += update[i];
    }
  }
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (!given[0] || !wanted[1]) return ZM_OK;
  gradient[1] = zm_astype(zm_take(given[0], n->in[0]), n->in[1]->type.dtype);
  return zmi_cat_status(gradient[1]);
}

static const zmi_rules rules = {.vjp = vjp, .gradient = "updates"};

const zmi_op zmi_op_scatter_add_rows = {
    .name = "scatter_add_rows",
    .operands = "indices updates",
    .fields = fields,
    .rounding = "float32 sums from +0 in the order of the updates; an index out of range adds nothing",
    .infer = infer,
    .stages = {{tiles, run}},
    .rules = &rules,
};

zm_array *zm_fused_scatter_add(zm_array *indices, zm_array *updates, const int64_t *shape, int rank) {
  const char *name = "fused_scatter_add";
  if (!zmi_cat_want_float(name, "updates", updates) || !zmi_cat_want_rank(name, "updates", updates, 1)) return NULL;
  if (!zmi_cat_want(name, "indices", indices, 1, updates->type.shape[0])) return NULL;
  bool fits = rank == updates->type.rank;
  for (int i = 1; fits && i < rank; i++) fits = shape[i] == updates->type.shape[i];
  if (!fits) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: the result's shape must be [rows, ...] with the dimensions of the updates after the first", name);
    return NULL;
  }
  scatter_attrs a = {shape[0]};
  int64_t count = updates->type.shape[0], width = 1;
  for (int i = 1; i < rank; i++) width *= shape[i];
  zm_array *in[] = {zmi_cat_indices(name, "indices", indices), zmi_cat_reshape(updates, 2, count, width)};
  zm_array *y = zmi_cat_apply1(&zmi_op_scatter_add_rows, &a, sizeof a, 2, in);
  return y ? zm_reshape(y, shape, rank) : NULL;
}

static zm_status gather_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_fused_gather_add(in[0], in[1], in[2]);
  return zmi_cat_status(out[0]);
}

static zm_status scatter_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  int64_t shape[ZM_MAX_RANK] = {0};
  for (int i = 0; i < in[1]->type.rank; i++) shape[i] = i ? in[1]->type.shape[i] : params[0].whole;
  out[0] = zm_fused_scatter_add(in[0], in[1], shape, in[1]->type.rank);
  return zmi_cat_status(out[0]);
}

static const zmi_entry entries[] = {
    {.name = "fused_gather_add",
     .formula = "src[indices[m]] + other[m]; an index out of range gives other[m]",
     .shapes = "src [N, D], indices [M], other [M, D] -> [M, D]",
     .dtypes = "any float; indices integers",
     .gradient = "src other",
     .definition = &fused_gather_add_def,
     .sample = "src 4096 1024; indices 1024 int32 < 4096; other 1024 1024",
     .call = gather_call},
    {.name = "fused_scatter_add",
     .formula = "y[n] = the sum of updates[m] with indices[m] = n, in order; an index out of range adds nothing",
     .shapes = "indices [M], updates [M, ...] -> [rows, ...]",
     .dtypes = "updates any float, indices integers -> float32",
     .gradient = "updates",
     .parameters = "rows=16 integer 0..",
     .sample = "indices 4096 int32 < 16; updates 4096 1024",
     .call = scatter_call},
};

ZMI_GROUP(indexing, "Rows by index with an addition.");
