// matmul and addmm: float matrices [..., M, K] x [..., K, N] of any strides, on the tiles of gemm.c.
#include "array/ops/product.h"
#include <zmlx/linear.h>

#include <string.h>

typedef struct addmm_attrs {
  double alpha, beta;
} addmm_attrs;

static zmi_side side_of(const zmi_call *c, int i) {
  const zmi_slot *s = c->in[i];
  int r = s->type.rank, line = i == 0 ? r - 2 : r - 1, k = i == 0 ? r - 1 : r - 2;
  zmi_side d = {.data = c->src[i], .dtype = s->type.dtype, .lines = s->type.shape[line], .by_line = s->stride[line], .by_k = s->stride[k]};
  for (int j = 0; j < r - 2; j++) d.batch[j] = s->type.shape[j] == 1 ? 0 : s->stride[j];
  return d;
}

static zmi_gemm gemm_of(const zmi_call *c) {
  const zmi_type *t = &c->in[0]->type;
  zmi_product p = {.a = side_of(c, 0), .b = side_of(c, 1), .k = t->shape[t->rank - 1], .batches = 1, .batch_rank = t->rank - 2};
  for (int i = 0; i < p.batch_rank; i++) {
    p.batch[i] = t->shape[i];
    p.batches *= t->shape[i];
  }
  return zmi_gemm_of(&p);
}

static size_t scratch(const zmi_call *c) {
  zmi_gemm g = gemm_of(c);
  return g.bytes_a + g.bytes_b;
}

static int64_t pack_tiles(const zmi_call *c) {
  zmi_gemm g = gemm_of(c);
  return zmi_type_count(&c->out[0]->type) == 0 ? 0 : zmi_gemm_pack_tiles(&g);
}

static void pack_run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_gemm g = gemm_of(c);
  zmi_gemm_pack(c->kernels, &g, c->scratch, begin, end);
}

static int64_t tiles(const zmi_call *c) {
  zmi_gemm g = gemm_of(c);
  return zmi_gemm_tiles(&g);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_gemm g = gemm_of(c);
  zmi_gemm_out out = {.kernels = c->kernels, .dst = c->dst[0], .dtype = c->out[0]->type.dtype};
  zmi_reader more;
  if (c->nin == 3) {
    const addmm_attrs *a = c->attrs;
    more = zmi_reader_of(c, 2);
    out.more = &more;
    out.more_dtype = out.dtype;
    out.alpha = a->alpha;
    out.beta = a->beta;
  }
  zmi_gemm_run(&g, c->scratch, &out, begin, end);
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  char a[128], b[128];
  zm_status status = zmi_check_operands(nin, in, nin == 3 ? 3 : 2);
  if (status != ZM_OK) return status;
  int r = in[0].rank;
  zmi_type t = in[0];
  bool good = r >= 2 && in[1].rank == r && zmi_dtype_is_float(t.dtype) && in[1].dtype == t.dtype && in[1].shape[r - 2] == t.shape[r - 1];
  for (int i = 0; good && i < r - 2; i++) good = in[1].shape[i] == t.shape[i];
  if (!good) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected float matrices [..., M, K] and [..., K, N] of one dtype, found %s and %s",
                    zmi_type_text(&in[0], a), zmi_type_text(&in[1], b));
  }
  t.shape[r - 1] = in[1].shape[r - 1];
  if (nin == 3 && !zmi_type_equal(&in[2], &t)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "what is added must be %s as the product, found %s", zmi_type_text(&t, a), zmi_type_text(&in[2], b));
  }
  return zmi_give(nout, out, t.dtype, r, t.shape);
}

// ---- builders ----

// The operand with the batch dimensions of both.
static zm_array *with_batch(zm_array *a, int batch_rank, const int64_t *batch) {
  int64_t shape[ZM_MAX_RANK];
  if (!a) return NULL;
  for (int i = 0; i < batch_rank; i++) shape[i] = batch[i];
  shape[batch_rank] = a->type.shape[a->type.rank - 2];
  shape[batch_rank + 1] = a->type.shape[a->type.rank - 1];
  return zm_broadcast_to(a, shape, batch_rank + 2);
}

// a and b as matrices of one float dtype with the same batch dimensions. A vector is a matrix of one row (a) or one column (b).
static bool operands(const char *op, zm_array **in, zm_dtype dtype, bool *row, bool *col) {
  char ta[128], tb[128];
  int64_t batch[ZM_MAX_RANK];
  int batch_rank;
  if (!zmi_dtype_is_float(dtype) || in[0]->type.rank < 1 || in[1]->type.rank < 1) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: expected float arrays of rank 1 or more, found %s and %s", op, zmi_type_text(&in[0]->type, ta),
             zmi_type_text(&in[1]->type, tb));
    return false;
  }
  *row = in[0]->type.rank == 1;
  *col = in[1]->type.rank == 1;
  in[0] = zm_astype(*row ? zm_expand_dims(in[0], 0) : in[0], dtype);
  in[1] = zm_astype(*col ? zm_expand_dims(in[1], 1) : in[1], dtype);
  if (!in[0] || !in[1]) return false;
  zmi_type ba = in[0]->type, bb = in[1]->type;
  ba.rank -= 2;
  bb.rank -= 2;
  if (!zmi_broadcast_shape(op, &ba, &bb, &batch_rank, batch)) return false;
  for (int i = 0; i < 2; i++) in[i] = with_batch(in[i], batch_rank, batch);
  return in[0] && in[1];
}

// [..., M, K] times one matrix is one product of more rows.
static zm_array *flat(zm_array *a, zm_array *b) {
  int64_t shape[ZM_MAX_RANK];
  int rank = a->type.rank;
  memcpy(shape, a->type.shape, sizeof shape);
  shape[rank - 1] = b->type.shape[1];
  return zm_reshape(
      zm_matmul(zm_reshape(a, (int64_t[]){zmi_type_count(&a->type) / a->type.shape[rank - 1], a->type.shape[rank - 1]}, 2), b), shape,
      rank);
}

zm_array *zm_matmul(zm_array *a, zm_array *b) {
  zm_array *in[2] = {a, b};
  bool row, col;
  if (!zmi_present("matmul", 2, in)) return NULL;
  if (a->type.rank > 2 && b->type.rank == 2 && a->type.shape[a->type.rank - 1] > 0) return flat(a, b);
  if (!operands("matmul", in, zm_dtype_promote(a->type.dtype, b->type.dtype), &row, &col)) return NULL;
  zm_array *y = zmi_apply1(&zmi_op_matmul, NULL, 0, 2, in);
  if (y && col) y = zm_squeeze(y, -1);
  return y && row ? zm_squeeze(y, col ? -1 : -2) : y;
}

zm_array *zm_addmm(zm_array *c, zm_array *a, zm_array *b, double alpha, double beta) {
  zm_array *in[3] = {a, b, c};
  bool row, col;
  int rank;
  int64_t shape[ZM_MAX_RANK];
  if (!zmi_present("addmm", 3, in)) return NULL;
  zm_dtype dtype = zm_dtype_promote(zm_dtype_promote(a->type.dtype, b->type.dtype), c->type.dtype);
  if (!operands("addmm", in, dtype, &row, &col)) return NULL;
  zmi_type t = in[0]->type, without = t;
  t.shape[t.rank - 1] = in[1]->type.shape[t.rank - 1];
  if (row) { // a row that is not there takes part in no broadcasting of c
    without.shape[t.rank - 2] = t.shape[t.rank - 1];
    without.rank--;
  } else {
    without = t;
  }
  if (col) without.rank--;
  if (!zmi_broadcast_shape("addmm", &c->type, &without, &rank, shape)) return NULL;
  if (rank != without.rank || memcmp(shape, without.shape, (size_t)rank * sizeof *shape) != 0) {
    char tc[128], ty[128];
    without.dtype = dtype;
    zmi_fail(ZM_ERROR_ARGUMENT, "addmm: c is %s, which is larger than the product %s", zmi_type_text(&c->type, tc),
             zmi_type_text(&without, ty));
    return NULL;
  }
  in[2] = zm_astype(zm_broadcast_to(c, shape, rank), dtype);
  if (in[2] && col) in[2] = zm_expand_dims(in[2], -1);
  if (in[2] && row) in[2] = zm_expand_dims(in[2], -2);
  zm_array *y = zmi_apply1(&zmi_op_addmm, &(addmm_attrs){alpha, beta}, sizeof(addmm_attrs), 3, in);
  if (y && col) y = zm_squeeze(y, -1);
  return y && row ? zm_squeeze(y, col ? -1 : -2) : y;
}

// ---- rules ----

zm_array *zmi_matrix_transpose(zm_array *a) {
  int axes[ZM_MAX_RANK];
  if (!a) return NULL;
  for (int i = 0; i < a->type.rank; i++) axes[i] = i;
  axes[a->type.rank - 2] = a->type.rank - 1;
  axes[a->type.rank - 1] = a->type.rank - 2;
  return zm_transpose(a, axes);
}

zm_array *zmi_scaled(zm_array *a, double factor) {
  return a && factor != 1 ? zm_multiply(a, zm_full(factor, a->type.dtype, NULL, 0)) : a;
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const addmm_attrs *f = (const addmm_attrs *)(const void *)n->attrs.bytes;
  const double alpha = n->nin == 3 ? f->alpha : 1;
  if (!given[0]) return ZM_OK;
  zm_array *g = zmi_scaled(given[0], alpha);
  if (wanted[0] && !(gradient[0] = zm_matmul(g, zmi_matrix_transpose(n->in[1])))) return zm_last_status();
  if (wanted[1] && !(gradient[1] = zm_matmul(zmi_matrix_transpose(n->in[0]), g))) return zm_last_status();
  if (n->nin == 3 && wanted[2] && !(gradient[2] = zmi_scaled(given[0], f->beta))) return zm_last_status();
  return ZM_OK;
}

static zm_status jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  const addmm_attrs *f = (const addmm_attrs *)(const void *)n->attrs.bytes;
  zm_array *part[3] = {NULL};
  int parts = 0;
  for (int i = 0; i < n->nin; i++) {
    if (!tangent[i]) continue;
    zm_array *y = i == 0 ? zm_matmul(tangent[0], n->in[1]) : i == 1 ? zm_matmul(n->in[0], tangent[1]) : tangent[2];
    part[parts] = n->nin == 3 ? zmi_scaled(y, i == 2 ? f->beta : f->alpha) : y;
    if (!part[parts++]) return zm_last_status();
  }
  if (parts) result[0] = part[0];
  for (int i = 1; i < parts && result[0]; i++) result[0] = zm_add(result[0], part[i]);
  return parts == 0 || result[0] ? ZM_OK : zm_last_status();
}

// The new dimension is one more of the batch. A plain matrix b meets the rows of all of them at once.
static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  if (n->nin == 2 && !batched[1] && in[1]->type.rank == 2) {
    out[0] = zm_matmul(in[0], in[1]);
    return out[0] ? ZM_OK : zm_last_status();
  }
  return zmi_vmap_elementwise(n, size, in, batched, out);
}

static const zmi_rules rules = {vjp, jvp, vmap, "all operands"};

static bool kernel(const zmi_call *c, zmi_op_kernel *k) {
  const addmm_attrs *a = c->attrs;
  return zmi_product_kernel(c, c->nin == 3 ? a->alpha : 1, c->nin == 3 ? a->beta : 0, k);
}

const zmi_op zmi_op_matmul = {
    .name = "matmul",
    .operands = "a b",
    .rounding = "per result: fma in float32 with k rising inside ranges of 256, partials added in rising order, rounded once to the dtype",
    .flags = ZMI_OP_STRIDED,
    .infer = infer,
    .scratch = scratch,
    .kernel = kernel,
    .stages = {{pack_tiles, pack_run}, {tiles, run}},
    .rules = &rules};

static const zmi_field addmm_fields[] = {
    {"alpha", ZMI_FIELD_FLOAT, offsetof(addmm_attrs, alpha), NULL}, {"beta", ZMI_FIELD_FLOAT, offsetof(addmm_attrs, beta), NULL}, {0}};

const zmi_op zmi_op_addmm = {.name = "addmm",
                             .operands = "a b c",
                             .fields = addmm_fields,
                             .rounding = "fma(beta, c, alpha * product) in float32, the product as by matmul; rounded once to the dtype",
                             .flags = ZMI_OP_STRIDED,
                             .infer = infer,
                             .scratch = scratch,
                             .kernel = kernel,
                             .stages = {{pack_tiles, pack_run}, {tiles, run}},
                             .rules = &rules};
