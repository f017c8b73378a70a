// take_add: rows added to the rows of zeros that indices name. It takes `take` back, so it is what gradients of take are made of.
#include "array/ops/ops.h"

#include <string.h>

enum { COLUMNS = 256 }; // of a row of the result, done by one tile over all indices

typedef struct add_attrs {
  int64_t rows;
} add_attrs;

static const zmi_field fields[] = {{"rows", ZMI_FIELD_INT, offsetof(add_attrs, rows), NULL}, {0}};

static int64_t row_elements(const zmi_call *c) {
  int64_t n = 1;
  for (int i = 1; i < c->out[0]->type.rank; i++) n *= c->out[0]->type.shape[i];
  return n;
}

// A result that is not float32 is added up in float32 first.
static size_t scratch(const zmi_call *c) {
  return c->out[0]->type.dtype == ZM_F32 ? 0 : (size_t)zmi_type_count(&c->out[0]->type) * sizeof(float);
}

static int64_t tiles(const zmi_call *c) {
  return zmi_type_count(&c->out[0]->type) == 0 ? 0 : zmi_tiles_of(row_elements(c), COLUMNS);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const zm_dtype dtype = c->out[0]->type.dtype;
  const int64_t rows = c->out[0]->type.shape[0], width = row_elements(c), count = zmi_type_count(&c->in[1]->type);
  const int64_t *indices = c->src[1];
  float *sum = dtype == ZM_F32 ? c->dst[0] : c->scratch, part[COLUMNS];
  for (int64_t first = begin * COLUMNS; first < ZMI_MIN(end * COLUMNS, width); first += COLUMNS) {
    const int64_t n = ZMI_MIN(width - first, COLUMNS);
    for (int64_t r = 0; r < rows; r++) memset(sum + r * width + first, 0, (size_t)n * sizeof *sum);
    for (int64_t i = 0; i < count; i++) {
      if (indices[i] < 0 || indices[i] >= rows) continue;
      float *to = sum + indices[i] * width + first;
      c->kernels->load((const char *)c->src[0] + (size_t)(i * width + first) * zm_dtype_size(dtype), dtype, n, part);
      for (int64_t j = 0; j < n; j++) to[j] += part[j];
    }
    for (int64_t r = 0; r < rows && dtype != ZM_F32; r++)
      c->kernels->store(sum + r * width + first, n, (char *)c->dst[0] + (size_t)(r * width + first) * zm_dtype_size(dtype), dtype);
  }
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  int64_t shape[ZM_MAX_RANK];
  char x[128], indices[128];
  zm_status status = zmi_check_operands(nin, in, 2);
  if (status != ZM_OK) return status;
  const int rank = in[0].rank - in[1].rank + 1;
  bool good = zmi_dtype_is_float(in[0].dtype) && in[1].dtype == ZM_I64 && rank >= 1;
  for (int i = 0; good && i < in[1].rank; i++) good = in[0].shape[i] == in[1].shape[i];
  if (!good) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected floats [indices..., rest...] and int64 [indices...], found %s and %s",
                    zmi_type_text(&in[0], x), zmi_type_text(&in[1], indices));
  }
  shape[0] = ((const add_attrs *)attrs)->rows;
  for (int i = 1; i < rank; i++) shape[i] = in[0].shape[in[1].rank + i - 1];
  return zmi_give(nout, out, in[0].dtype, rank, shape);
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (wanted[0]) gradient[0] = zm_take(given[0], n->in[1]);
  return ZM_OK;
}

static zm_status jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  if (tangent[0]) result[0] = zmi_take_add(tangent[0], n->in[1], ((const add_attrs *)(const void *)n->attrs.bytes)->rows);
  return ZM_OK;
}

// The results of a batch are more rows of one result.
static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  const int64_t rows = ((const add_attrs *)(const void *)n->attrs.bytes)->rows;
  int64_t shape[ZM_MAX_RANK + 1] = {size, rows};
  zm_array *sums = zmi_take_add(zmi_batch(in[0], batched[0], size), zmi_shift_rows(in[1], batched[1], size, rows), size * rows);
  if (!sums) return zm_last_status();
  for (int i = 1; i < sums->type.rank; i++) shape[i + 1] = sums->type.shape[i];
  out[0] = zm_reshape(sums, shape, sums->type.rank + 1);
  return ZM_OK;
}

static const zmi_rules rules = {.vjp = vjp, .jvp = jvp, .vmap = vmap, .gradient = "x"};

const zmi_op zmi_op_take_add = {.name = "take_add",
                                .operands = "x indices",
                                .fields = fields,
                                .rounding = "float32 sums from +0 in rising order of the indices, rounded once to the dtype",
                                .infer = infer,
                                .scratch = scratch,
                                .stages = {{tiles, run}},
                                .rules = &rules};

zm_array *zmi_take_add(zm_array *a, zm_array *indices, int64_t rows) {
  if (!a || !indices) return NULL;
  zm_array *in[2] = {a, zm_astype(indices, ZM_I64)}; // numbers above those of int64 become negative: out of range as well
  return zmi_apply1(&zmi_op_take_add, &(add_attrs){rows}, sizeof(add_attrs), 2, in);
}
