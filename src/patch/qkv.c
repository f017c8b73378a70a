// qkv: the projections of an attention layer that share their input, with the norms of their heads and the rotary embedding where there are
// any.
#include "patch/fused.h"

enum { PARTS = 3 }; // queries, keys, values

typedef struct qkv_attrs {
  zmi_matrix_attrs m[PARTS];
  int64_t dim, traditional;
  double eps[2]; // of the norms of queries and keys
} qkv_attrs;

static const zmi_field fields[] = {
    ZMI_MATRIX_FIELDS("q_", qkv_attrs, m[0]),
    ZMI_MATRIX_FIELDS("k_", qkv_attrs, m[1]),
    ZMI_MATRIX_FIELDS("v_", qkv_attrs, m[2]),
    {"dim", ZMI_FIELD_INT, offsetof(qkv_attrs, dim), NULL},
    {"traditional", ZMI_FIELD_INT, offsetof(qkv_attrs, traditional), NULL},
    {"q_eps", ZMI_FIELD_FLOAT, offsetof(qkv_attrs, eps[0]), NULL},
    {"k_eps", ZMI_FIELD_FLOAT, offsetof(qkv_attrs, eps[1]), NULL},
    {NULL, ZMI_FIELD_INT, 0, NULL},
};

// W, BIAS: three each. NORM: of queries and of keys.
enum { X, W, BIAS = W + PARTS, NORM = BIAS + PARTS, COSINE = NORM + 2, SINE, OPERANDS };

static zm_status want_heads(const qkv_attrs *a, int nin, const zmi_type *in) {
  static const char *const names[] = {"q norm", "k norm"}, *const angles[] = {"cosine", "sine"};
  zm_status status = ZM_OK;
  for (int i = 0; i < 2 && status == ZM_OK; i++) {
    if (zmi_absent(in, nin, NORM + i)) continue;
    status = zmi_want_rank(names[i], &in[NORM + i], 1, "[dim]");
    if (status == ZM_OK) status = zmi_want_float(names[i], &in[NORM + i]);
    if (status == ZM_OK) status = zmi_want_dim(names[i], &in[NORM + i], 0, a->dim, "elements of a head");
    if (status == ZM_OK && !(a->eps[i] >= 0 && a->eps[i] < 1e30))
      status = zmi_fail(ZM_ERROR_ARGUMENT, "eps: %g is not a number from 0 up", a->eps[i]);
  }
  if (status != ZM_OK || (zmi_absent(in, nin, COSINE) && zmi_absent(in, nin, SINE))) return status;
  for (int i = 0; i < 2 && status == ZM_OK; i++) {
    if (zmi_absent(in, nin, COSINE + i)) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: the operand is missing", angles[i]);
    status = zmi_want_rank(angles[i], &in[COSINE + i], 2, "float32 [rows, pairs]");
    if (status == ZM_OK) status = zmi_want_dtype(angles[i], &in[COSINE + i], ZM_F32);
    if (status == ZM_OK) status = zmi_want_dim(angles[i], &in[COSINE + i], 0, in[X].shape[0], "rows of x");
    if (status == ZM_OK) status = zmi_want_dim(angles[i], &in[COSINE + i], 1, in[COSINE].shape[1], "pairs of cosine");
  }
  if (status == ZM_OK && in[COSINE].shape[1] > a->dim / 2) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "cosine: %lld pairs are more than a head of %lld elements holds", (long long)in[COSINE].shape[1],
                      (long long)a->dim);
  }
  return status;
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  static const char *const names[] = {"q", "k", "v"};
  const qkv_attrs *a = attrs;
  zm_status status = zmi_want_operands(nin, in, 1 + PARTS, OPERANDS);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[X], 2, "[rows, hidden]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[X]);
  if (status == ZM_OK && (a->dim < 1 || a->dim > ZMI_MAX_HEAD)) {
    status = zmi_fail(ZM_ERROR_UNSUPPORTED, "dim: heads of %lld elements; 1 to %d are supported", (long long)a->dim, ZMI_MAX_HEAD);
  }
  for (int i = 0; i < PARTS && status == ZM_OK; i++) {
    status = zmi_want_part(names[i], &a->m[i], nin, in, W + i, BIAS + i, 0, in[X].shape[1], 1);
    if (status != ZM_OK) break;
    if (a->m[i].n % a->dim != 0) {
      status = zmi_fail(ZM_ERROR_ARGUMENT, "%s: %lld outputs are not a whole number of heads of %lld", names[i], (long long)a->m[i].n,
                        (long long)a->dim);
    }
    out[i] = zmi_type_of(in[X].dtype, 3, (int64_t[]){in[X].shape[0], a->m[i].n / a->dim, a->dim});
  }
  if (status == ZM_OK) status = want_heads(a, nin, in);
  if (status == ZM_OK) *nout = PARTS;
  return status;
}

typedef struct qkv {
  const qkv_attrs *a;
  zm_dtype dtype;
  int64_t rows;
  zmi_forms x;
  zmi_weights w[PARTS];
  zmi_part parts[PARTS]; // dense tiles of each matrix
} qkv;

static zmi_forms forms_of(const zmi_call *c) {
  const qkv_attrs *a = c->attrs;
  return zmi_forms_of(c->in[X]->type.dtype, c->in[X]->type.shape[0], PARTS, (const zmi_matrix_attrs *[]){&a->m[0], &a->m[1], &a->m[2]});
}

static void open_call(const zmi_call *c, qkv *m) {
  m->a = c->attrs;
  m->dtype = c->in[X]->type.dtype;
  m->rows = c->in[X]->type.shape[0];
  m->x = forms_of(c);
  for (int i = 0; i < PARTS; i++) {
    zmi_rows rows = zmi_forms_rows(&m->x, i, c->src[X], c->scratch);
    m->w[i] = zmi_weights_of(c, &m->a->m[i], W + i, BIAS + i);
    m->parts[i] = (zmi_part){zmi_dense_tiles(&m->w[i], &rows), (int64_t)m->w[i].block_bytes};
  }
}

static size_t scratch(const zmi_call *c) {
  return forms_of(c).bytes;
}

static int64_t x_tiles(const zmi_call *c) {
  zmi_forms f = forms_of(c);
  return zmi_forms_tiles(&f);
}

static void x_run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_forms f = forms_of(c);
  zmi_forms_run(&f, c->kernels, c->src[X], c->scratch, begin, end);
}

static int64_t all_items(const qkv *m) {
  return m->parts[0].items + m->parts[1].items + m->parts[2].items;
}

static int64_t dot_tiles(const zmi_call *c) {
  qkv m;
  open_call(c, &m);
  return all_items(&m);
}

static void dot_run(const zmi_call *c, int64_t begin, int64_t end) {
  qkv m;
  int64_t first[PARTS], last[PARTS];
  open_call(c, &m);
  zmi_share(m.parts, PARTS, all_items(&m), begin, end, first, last);
  for (int i = 0; i < PARTS; i++) {
    zmi_rows rows = zmi_forms_rows(&m.x, i, c->src[X], c->scratch);
    zmi_dense_run(c->kernels, &m.w[i], &rows, c->dst[i], (size_t)m.w[i].n * zm_dtype_size(m.dtype), m.dtype, first[i], last[i]);
  }
}

static bool has(const zmi_call *c, int operand) {
  return operand < c->nin && c->in[operand];
}

// Queries and keys that have something done to their heads, in place.
static int64_t head_rows(const zmi_call *c, int part) {
  const qkv_attrs *a = c->attrs;
  return has(c, NORM + part) || has(c, COSINE) ? c->in[X]->type.shape[0] * (a->m[part].n / a->dim) : 0;
}

static int64_t head_tiles(const zmi_call *c) {
  return head_rows(c, 0) + head_rows(c, 1);
}

static void one_head(const zmi_call *c, int part, int64_t index, const float *norm) {
  const qkv_attrs *a = c->attrs;
  _Alignas(64) float x[ZMI_MAX_HEAD];
  zm_dtype dtype = c->in[X]->type.dtype;
  int64_t heads = a->m[part].n / a->dim, row = index / heads;
  void *at = zmi_at(c->dst[part], dtype, index * a->dim);
  c->kernels->load(at, dtype, a->dim, x);
  if (norm) {
    c->kernels->rms_norm(x, norm, a->dim, (float)a->eps[part], x);
    c->kernels->round(x, a->dim, dtype);
  }
  if (has(c, COSINE)) {
    int64_t turned = c->in[COSINE]->type.shape[1];
    const float *cosine = c->src[COSINE], *sine = c->src[SINE];
    zmi_rope_head(c->kernels, x, a->dim, turned, a->traditional != 0, cosine + row * turned, sine + row * turned, at, dtype);
  } else {
    c->kernels->store(x, a->dim, at, dtype);
  }
}

static void head_run(const zmi_call *c, int64_t begin, int64_t end) {
  const qkv_attrs *a = c->attrs;
  _Alignas(64) float norm[ZMI_MAX_HEAD];
  for (int part = 0; part < 2; part++) {
    int64_t count = head_rows(c, part), first = ZMI_MAX(begin, 0), last = ZMI_MIN(end, count);
    bool normed = has(c, NORM + part);
    if (first < last && normed) c->kernels->load(c->src[NORM + part], c->in[NORM + part]->type.dtype, a->dim, norm);
    for (int64_t i = first; i < last; i++) one_head(c, part, i, normed ? norm : NULL);
    begin -= count;
    end -= count;
  }
}

// Queries, keys and values are independent of each other, and heads are turned in place.
static zm_status device(const zmi_call *c, zmi_device_code *code) {
  const qkv_attrs *a = c->attrs;
  const zmi_type *x = &c->in[X]->type;
  const int64_t rows = x->shape[0];
  zmi_gpu_matrix m[PARTS];
  zmi_device_rows in[PARTS];
  for (int i = 0; i < PARTS; i++) m[i] = zmi_device_matrix(c, &a->m[i], W + i, BIAS + i);
  zm_status status = zmi_device_forms(code, zmi_device_rows_of(zmi_gpu_at(c->src[X]), rows, a->m[0].k, x->dtype), PARTS,
                                      (const zmi_gpu_matrix *[]){&m[0], &m[1], &m[2]}, in);
  for (int i = 0; i < PARTS && status == ZM_OK; i++) {
    status = zmi_device_dot(code, &m[i], &in[i], 0, 1, zmi_gpu_at(c->dst[i]), x->dtype, i ? ZMI_GPU_TOGETHER : 0);
  }
  for (int i = 0, first = 1; i < 2 && status == ZM_OK; i++) {
    if (!head_rows(c, i)) continue;
    const bool normed = has(c, NORM + i), turned = has(c, COSINE);
    status = zmi_device_rotate(code,
                               &(zmi_gpu_rotate){.x = zmi_gpu_at(c->dst[i]),
                                                 .norm = normed ? zmi_gpu_at(c->src[NORM + i]) : 0,
                                                 .cosine = turned ? zmi_gpu_at(c->src[COSINE]) : 0,
                                                 .sine = turned ? zmi_gpu_at(c->src[SINE]) : 0,
                                                 .out = zmi_gpu_at(c->dst[i]),
                                                 .x_stride = a->m[i].n,
                                                 .rows = (int)rows,
                                                 .heads = (int)(a->m[i].n / a->dim),
                                                 .dim = (int)a->dim,
                                                 .pairs = turned ? (int)c->in[COSINE]->type.shape[1] : 0,
                                                 .traditional = a->traditional != 0,
                                                 .dtype = zmi_gpu_dtype_of(x->dtype),
                                                 .norm_dtype = normed ? zmi_gpu_dtype_of(c->in[NORM + i]->type.dtype) : 0,
                                                 .eps = (float)a->eps[i]},
                               first ? 0 : ZMI_GPU_TOGETHER);
    first = 0;
  }
  return status;
}

const zmi_op zmi_op_fused_qkv = {
    .name = "fused_qkv",
    .operands = "x q k v q_bias? k_bias? v_bias? q_norm? k_norm? cosine? sine?",
    .fields = fields,
    .rounding = "As linear, rms_norm and rope, each at its place.",
    .flags = ZMI_OP_HIDDEN,
    .infer = infer,
    .scratch = scratch,
    .device = device,
    .stages = {{x_tiles, x_run}, {dot_tiles, dot_run}, {head_tiles, head_run}},
};

// ---- the pattern ----

// How queries, keys or values are made from x. Absent steps are NULL.
typedef struct chain {
  zm_array *result;
  zmi_node *rope, *norm, *reshape, *linear;
} chain;

// Follows one step back: if `a` is made by `op` and only `reader` reads it, the node; `broken` is set if there are other readers.
static zmi_node *step(const zmi_graph *g, const zm_array *a, const zm_array *result, const zmi_node *reader, const char *op, bool *broken) {
  zmi_node *n = zmi_maker(a, op);
  if (n && a != result && !zmi_read_once(g, a, reader)) *broken = true;
  return n;
}

static const char *follow(const zmi_graph *g, zm_array *result, chain *c) {
  bool broken = false;
  const zmi_node *reader = NULL;
  const zm_array *a = result;
  *c = (chain){.result = result};
  if ((c->rope = step(g, a, result, reader, "rope", &broken))) {
    reader = c->rope;
    a = c->rope->in[0];
  }
  if ((c->norm = step(g, a, result, reader, "rms_norm", &broken))) {
    reader = c->norm;
    a = c->norm->in[0];
  }
  if (!(c->reshape = step(g, a, result, reader, "reshape", &broken))) return "queries, keys or values are not heads of a projection";
  a = c->reshape->in[0];
  if (!(c->linear = step(g, a, result, c->reshape, "linear", &broken))) return "queries, keys or values are not projections by a linear";
  if (c->reshape->out[0]->type.rank != 3 || a->type.shape[0] != c->reshape->out[0]->type.shape[0]) return "heads are not cut from rows";
  return broken ? "an intermediate result is used elsewhere" : NULL;
}

static const char *check(const chain *q, const chain *k, const chain *v) {
  const zm_array *x = q->linear->in[0];
  if (k->linear->in[0] != x || v->linear->in[0] != x) return "the projections do not read the same array";
  if (q->linear == k->linear || k->linear == v->linear || q->linear == v->linear)
    return "two of queries, keys and values are one projection";
  if (v->rope || v->norm) return "values are rotated or normalized";
  int64_t dim = q->result->type.shape[2];
  if (k->result->type.shape[2] != dim || v->result->type.shape[2] != dim) return "heads of queries, keys and values differ in size";
  if (dim > ZMI_MAX_HEAD) return "heads are too large";
  if (!q->rope != !k->rope) return "only one of queries and keys is rotated";
  if (q->rope && (q->rope->in[1] != k->rope->in[1] || q->rope->in[2] != k->rope->in[2]))
    return "queries and keys are rotated by different angles";
  if (q->rope && zmi_int_field(q->rope, "traditional") != zmi_int_field(k->rope, "traditional"))
    return "queries and keys are rotated in different ways";
  return NULL;
}

static double eps_of(const chain *c) {
  return c->norm ? ((const zmi_rms_attrs *)(const void *)c->norm->attrs.bytes)->eps : 0;
}

static zm_status replace(zmi_graph *g, const chain *parts) {
  const chain *q = &parts[0], *k = &parts[1];
  qkv_attrs a = {
      .dim = q->result->type.shape[2], .traditional = q->rope ? zmi_int_field(q->rope, "traditional") : 0, .eps = {eps_of(q), eps_of(k)}};
  zm_array *out[ZMI_MAX_OUT] = {NULL}, *in[OPERANDS] = {[X] = q->linear->in[0]};
  for (int i = 0; i < PARTS; i++) {
    a.m[i] = *zmi_matrix_of(parts[i].linear);
    in[W + i] = parts[i].linear->in[1];
    in[BIAS + i] = zmi_operand(parts[i].linear, 2);
  }
  for (int i = 0; i < 2; i++) in[NORM + i] = parts[i].norm ? parts[i].norm->in[1] : NULL;
  for (int i = 0; i < 2; i++) in[COSINE + i] = q->rope ? q->rope->in[1 + i] : NULL;
  zm_status status = zmi_apply(&zmi_op_fused_qkv, &a, sizeof a, OPERANDS, in, out);
  for (int i = 0; i < PARTS && status == ZM_OK; i++) status = zmi_graph_replace(g, parts[i].result, out[i]);
  return status;
}

static zm_status attempt(zmi_graph *g, zmi_node *attention, zmi_outcome *o) {
  chain parts[PARTS];
  zmi_node *keys = zmi_maker(attention->in[1], "write_keys"), *values = zmi_maker(attention->in[2], "write_values");
  if (!keys || !values) return zmi_left_alone(o, "the caches are not written in this step");
  const char *why = follow(g, attention->in[0], &parts[0]);
  if (!why) why = follow(g, keys->in[1], &parts[1]);
  if (!why) why = follow(g, values->in[1], &parts[2]);
  if (!why) why = check(&parts[0], &parts[1], &parts[2]);
  if (why) return zmi_left_alone(o, "%s", why);
  zm_status status = replace(g, parts);
  if (status != ZM_OK) return status;
  return zmi_fused(o, "projections of queries, keys and values%s%s in one op", parts[0].norm || parts[1].norm ? ", norms of heads" : "",
                   parts[0].rope ? ", rotary embedding" : "");
}

static zm_status rewrite(zmi_graph *graph, zm_patch_report *report) {
  return zmi_each_place(graph, report, "qkv", "attention", attempt);
}

const zmi_pattern zmi_pattern_qkv = {
    .name = "qkv",
    .summary = "projections of queries, keys and values that share an input, with norms of heads and rotary embedding, in one op",
    .rewrite = rewrite,
};
