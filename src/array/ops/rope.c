// rope: rotates the first pairs of each head by the row's angles.
#include "array/kernels.h"
#include "array/ops/ops.h"

static const zmi_field fields[] = {{"traditional", ZMI_FIELD_INT, offsetof(zmi_rope_attrs, traditional), NULL},
                                   {NULL, ZMI_FIELD_INT, 0, NULL}};

enum { X, COSINE, SINE };

void zmi_rope_head(const zmi_kernels *kn, float *x, int64_t dim, int64_t turned, bool traditional, const float *cosine, const float *sine,
                   void *dst, zm_dtype dtype) {
  kn->rope(x, 2 * turned, traditional, cosine, sine);
  kn->store(x, dim, dst, dtype);
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 3, 3);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[X], 3, "[rows, heads, dim]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[X]);
  for (int i = COSINE; i <= SINE && status == ZM_OK; i++) {
    const char *name = i == COSINE ? "cosine" : "sine";
    status = zmi_want_rank(name, &in[i], 2, "float32 [rows, pairs]");
    if (status == ZM_OK) status = zmi_want_dtype(name, &in[i], ZM_F32);
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 0, in[X].shape[0], "rows of x");
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 1, in[COSINE].shape[1], "pairs of cosine");
  }
  if (status == ZM_OK && in[COSINE].shape[1] > in[X].shape[2] / 2) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "cosine: %lld pairs are more than a head of %lld elements holds", (long long)in[COSINE].shape[1],
                      (long long)in[X].shape[2]);
  }
  if (status == ZM_OK && in[X].shape[2] > ZMI_MAX_HEAD) {
    status = zmi_fail(ZM_ERROR_UNSUPPORTED, "x: heads of %lld elements; at most %d are supported", (long long)in[X].shape[2], ZMI_MAX_HEAD);
  }
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = in[X];
  return ZM_OK;
}

static int64_t tiles(const zmi_call *c) {
  return c->in[X]->type.shape[0] * c->in[X]->type.shape[1];
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_rope_attrs *a = c->attrs;
  _Alignas(64) float x[ZMI_MAX_HEAD];
  zm_dtype dtype = c->in[X]->type.dtype;
  int64_t heads = c->in[X]->type.shape[1], dim = c->in[X]->type.shape[2], turned = c->in[COSINE]->type.shape[1];
  const float *cosine = c->src[COSINE], *sine = c->src[SINE];
  for (int64_t t = begin; t < end; t++) {
    int64_t row = t / heads;
    c->kernels->load(zmi_at(c->src[X], dtype, t * dim), dtype, dim, x);
    zmi_rope_head(c->kernels, x, dim, turned, a->traditional != 0, cosine + row * turned, sine + row * turned,
                  zmi_at(c->dst[0], dtype, t * dim), dtype);
  }
}

// The first (b false) or second elements of the pairs that are turned, in float32.
static zm_array *halves(const zmi_node *n, zm_array *a, bool b) {
  const int64_t traditional = ((const zmi_rope_attrs *)(const void *)n->attrs.bytes)->traditional;
  const int64_t *shape = n->in[X]->type.shape, pairs = n->in[COSINE]->type.shape[1];
  const int64_t start[] = {0, 0, b ? (traditional ? 1 : pairs) : 0}, step[] = {1, 1, traditional ? 2 : 1};
  const int64_t count[] = {shape[0], shape[1], pairs};
  return a ? zm_astype(zmi_slice_exactly(a, start, step, count), ZM_F32) : NULL;
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (wanted[X]) {
    zm_array *in[3] = {given[0], n->in[COSINE], zm_negative(n->in[SINE])}; // turned back
    gradient[X] = zmi_apply1(n->op, n->attrs.bytes, sizeof(zmi_rope_attrs), 3, in);
  }
  if (!wanted[COSINE] && !wanted[SINE]) return ZM_OK;
  zm_array *a = halves(n, n->in[X], false), *b = halves(n, n->in[X], true);
  zm_array *ga = halves(n, given[0], false), *gb = halves(n, given[0], true);
  if (wanted[COSINE]) gradient[COSINE] = zm_sum(zm_add(zm_multiply(ga, a), zm_multiply(gb, b)), 1, false);
  if (wanted[SINE]) gradient[SINE] = zm_sum(zm_subtract(zm_multiply(gb, a), zm_multiply(ga, b)), 1, false);
  return ZM_OK;
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 7, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "all operands"};

const zmi_op zmi_op_rope = {
    .name = "rope",
    .operands = "x cosine sine",
    .fields = fields,
    .rounding = "Each pair (a, b) becomes (a cos - b sin, a sin + b cos) in float32 and is rounded once to the dtype of x.",
    .infer = infer,
    .device = zmi_rope_device,
    .stages = {{tiles, run}},
    .rules = &rules,
};

zm_array *zmi_rope(zm_array *x, zm_array *cosine, zm_array *sine, bool traditional) {
  zmi_rope_attrs a = {traditional};
  return zmi_apply1(&zmi_op_rope, &a, sizeof a, 3, (zm_array *[]){x, cosine, sine});
}
