// embed: rows of a packed table, chosen by token id.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <string.h>

typedef struct embed_attrs {
  zmi_matrix_attrs m;
  int64_t result; // zm_dtype of the rows
} embed_attrs;

static const zmi_field fields[] = {
    ZMI_MATRIX_FIELDS("", embed_attrs, m),
    {"result", ZMI_FIELD_WORD, offsetof(embed_attrs, result), zmi_dtype_words},
    {NULL, ZMI_FIELD_INT, 0, NULL},
};

enum { IDS, TABLE };

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const embed_attrs *a = attrs;
  zmi_type result = {.dtype = (zm_dtype)a->result};
  zm_status status = zmi_want_operands(nin, in, 2, 2);
  if (status == ZM_OK) status = zmi_want_rank("ids", &in[IDS], 1, "int32 [rows]");
  if (status == ZM_OK) status = zmi_want_dtype("ids", &in[IDS], ZM_I32);
  if (status == ZM_OK) status = zmi_want_float("dtype of the result", &result);
  if (status == ZM_OK) status = zmi_want_matrix(&a->m, nin, in, TABLE, -1);
  if (status == ZM_OK && a->m.experts != 1) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "table: %lld experts, expected one matrix", (long long)a->m.experts);
  }
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = zmi_type_of(result.dtype, 2, (int64_t[]){in[IDS].shape[0], a->m.k});
  return ZM_OK;
}

static size_t lane_bytes(const zmi_call *c) {
  const embed_attrs *a = c->attrs;
  return zmi_align64((size_t)a->m.k * sizeof(float));
}

static size_t scratch(const zmi_call *c) {
  return lane_bytes(c) * (size_t)zmi_lane_count(c->in[IDS]->type.shape[0]);
}

static int64_t tiles(const zmi_call *c) {
  return zmi_lane_count(c->in[IDS]->type.shape[0]);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const embed_attrs *a = c->attrs;
  const int32_t *ids = c->src[IDS];
  int64_t rows = c->in[IDS]->type.shape[0], k = a->m.k;
  zm_dtype dtype = (zm_dtype)a->result;
  for (int64_t lane = begin; lane < end; lane++) {
    float *work = (float *)(void *)((char *)c->scratch + (size_t)lane * lane_bytes(c));
    for (int64_t r = zmi_lane_begin(rows, lane); r < zmi_lane_begin(rows, lane + 1); r++) {
      void *to = zmi_at(c->dst[0], dtype, r * k);
      if (ids[r] < 0 || ids[r] >= a->m.n) {
        memset(to, 0, (size_t)k * zm_dtype_size(dtype));
        continue;
      }
      zmi_unpack_row(&a->m.format, c->src[TABLE], k, ids[r], work);
      c->kernels->store(work, k, to, dtype);
    }
  }
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 1u << IDS, out);
}

static const zmi_rules rules = {.vmap = vmap, .gradient = "none: the table is packed"};

static zm_status device(const zmi_call *c, zmi_device_code *code) {
  const embed_attrs *a = c->attrs;
  const int64_t rows = c->in[IDS]->type.shape[0];
  zmi_gpu_instruction in = {.as.embed = {.table = zmi_device_matrix(c, &a->m, TABLE, -1),
                                         .token = zmi_gpu_at(c->src[IDS]),
                                         .out = zmi_gpu_at(c->dst[0]),
                                         .rows = (int)rows,
                                         .dtype = zmi_gpu_dtype_of((zm_dtype)a->result)}};
  return zmi_device_instruction(code, &in, ZMI_GPU_EMBED, rows, 1, 0);
}

const zmi_op zmi_op_embed = {
    .name = "embed",
    .operands = "ids table",
    .fields = fields,
    .rounding = "The row is fma(code, scale, bias) in float32 (or the stored float), rounded once to the dtype of the result; an id out of "
                "range gives zeros.",
    .infer = infer,
    .scratch = scratch,
    .device = device,
    .stages = {{tiles, run}},
    .rules = &rules,
};

zm_array *zmi_embed(const zmi_matrix *table, zm_array *ids, zm_dtype dtype) {
  embed_attrs a = {zmi_matrix_attrs_of(table), dtype};
  return zmi_apply1(&zmi_op_embed, &a, sizeof a, 2, (zm_array *[]){ids, table->packed});
}
