// What the ops of models are on a GPU: each becomes one instruction of the device or a few (backend/cuda/device/instruction.h). Fused ops
// put theirs together from the same pieces.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <limits.h>
#include <string.h>

// ---- pieces ----

static int64_t pieces(int64_t n, int64_t piece) {
  return (n + piece - 1) / piece;
}

// Tiles are counted in int: what does not fit is refused by the caller of the op.
static int tiles_of(int64_t a, int64_t b) {
  return a <= 0 || b <= 0 ? 0 : a > INT_MAX / b ? -1 : (int)(a * b);
}

// Bytes of a kind's fields. What is behind them in the union is cleared: an instruction is sent as bytes.
static const unsigned short bytes_of[ZMI_GPU_KINDS] = {
    [ZMI_GPU_EMBED] = sizeof(zmi_gpu_embed),    [ZMI_GPU_NORM] = sizeof(zmi_gpu_norm),         [ZMI_GPU_DIGITS] = sizeof(zmi_gpu_digits),
    [ZMI_GPU_DOT] = sizeof(zmi_gpu_dot),        [ZMI_GPU_ELEMENTS] = sizeof(zmi_gpu_elements), [ZMI_GPU_ANGLES] = sizeof(zmi_gpu_angles),
    [ZMI_GPU_ROTATE] = sizeof(zmi_gpu_rotate),  [ZMI_GPU_WRITE] = sizeof(zmi_gpu_write),       [ZMI_GPU_ATTEND] = sizeof(zmi_gpu_attention),
    [ZMI_GPU_JOIN] = sizeof(zmi_gpu_attention), [ZMI_GPU_ROUTE] = sizeof(zmi_gpu_route),       [ZMI_GPU_COMBINE] = sizeof(zmi_gpu_combine),
    [ZMI_GPU_CONV] = sizeof(zmi_gpu_conv),      [ZMI_GPU_TAKE] = sizeof(zmi_gpu_take),         [ZMI_GPU_COPY] = sizeof(zmi_gpu_copy),
    [ZMI_GPU_SORT] = sizeof(zmi_gpu_sort),      [ZMI_GPU_MANY] = sizeof(zmi_gpu_many)};

int zmi_gpu_many_shared(const zmi_gpu_many *many) {
  const zmi_gpu_matrix *m = &many->dot.matrix;
  return ZMI_GPU_MANY_SHARED(many->stages, ZMI_GPU_MANY_STAGE(m->bits, m->group, m->digits));
}

// Bytes of shared memory that a block needs.
static int shared_of(const zmi_gpu_instruction *in) {
  switch (in->kind) {
  case ZMI_GPU_ATTEND:
    return ZMI_GPU_ATTEND_SHARED(in->as.attention.dim, in->as.attention.split);
  case ZMI_GPU_JOIN:
    return ZMI_GPU_JOIN_SHARED;
  case ZMI_GPU_ROUTE:
    return in->as.route.experts > INT_MAX / 8 ? INT_MAX : ZMI_GPU_ROUTE_SHARED(in->as.route.experts);
  case ZMI_GPU_CONV:
    return ZMI_GPU_CONV_SHARED;
  case ZMI_GPU_SORT:
    return in->as.sort.experts > INT_MAX / 16 ? INT_MAX : ZMI_GPU_SORT_SHARED(in->as.sort.experts);
  case ZMI_GPU_MANY:
    return zmi_gpu_many_shared(&in->as.many);
  default:
    return in->shared;
  }
}

zm_status zmi_device_instruction(zmi_device_code *code, zmi_gpu_instruction *in, zmi_gpu_kind kind, int64_t a, int64_t b, int flags) {
  in->kind = (int)kind;
  memset((char *)&in->as + bytes_of[kind], 0, sizeof in->as - bytes_of[kind]);
  in->tiles = tiles_of(a, b);
  if (in->tiles < 0)
    return zmi_fail(ZM_ERROR_LIMIT, "device cuda: %lld x %lld pieces of work are too many for one step", (long long)a, (long long)b);
  in->shared = shared_of(in);
  zmi_device_add(code, in, flags);
  return ZM_OK;
}

static zmi_gpu_matrix matrix_of(const zmi_matrix_attrs *m, const void *packed, const void *bias, zm_dtype bias_dtype) {
  static const int modes[ZMI_QUANT_MODE_COUNT] = {[ZMI_QUANT_NONE] = ZMI_GPU_FLOATS,
                                                  [ZMI_QUANT_AFFINE] = ZMI_GPU_AFFINE,
                                                  [ZMI_QUANT_MXFP4] = ZMI_GPU_MXFP4,
                                                  [ZMI_QUANT_MXFP8] = ZMI_GPU_MXFP8,
                                                  [ZMI_QUANT_NVFP4] = ZMI_GPU_NVFP4};
  const zmi_format *f = &m->format;
  zmi_gpu_matrix g = {.packed = zmi_gpu_at(packed),
                      .bias = zmi_gpu_at(bias),
                      .block_bytes = (unsigned)zmi_packed_block_bytes(f, m->k),
                      .code_bytes = f->mode == ZMI_QUANT_NONE ? 0 : (unsigned)zmi_packed_code_bytes(f, m->k),
                      .n = (int)m->n,
                      .k = (int)m->k,
                      .experts = (int)m->experts,
                      .mode = modes[f->mode],
                      .bits = (int)f->bits,
                      .group = (int)f->group,
                      .dtype = zmi_gpu_dtype_of((zm_dtype)f->dtype),
                      .digits = zmi_format_takes_digits(f) ? zmi_format_digits(f) : 0,
                      .bias_dtype = zmi_gpu_dtype_of(bias_dtype)};
  g.matrix_bytes = (unsigned long long)g.block_bytes * (unsigned long long)pieces(m->n, ZMI_LANES);
  return g;
}

zmi_gpu_matrix zmi_device_matrix(const zmi_call *c, const zmi_matrix_attrs *m, int weight, int bias) {
  const bool has = bias >= 0 && bias < c->nin && c->in[bias];
  return matrix_of(m, c->src[weight], has ? c->src[bias] : NULL, has ? c->in[bias]->type.dtype : ZM_F32);
}

zmi_device_rows zmi_device_rows_of(zmi_gpu_address x, int64_t rows, int64_t k, zm_dtype dtype) {
  return (zmi_device_rows){x, rows, k, k * (int64_t)zm_dtype_size(dtype), dtype, 0, 0};
}

zm_status zmi_device_ready(zmi_device_code *code, const zmi_gpu_matrix *m, zmi_device_rows *rows, int flags) {
  if (m->digits == 0) return ZM_OK; // floats are taken as they are
  const size_t bytes = zmi_digits_bytes(rows->k, m->group, m->digits);
  zmi_gpu_instruction in = {.as.digits = {.x = rows->at,
                                          .out = zmi_device_scratch(code, (size_t)rows->count * bytes),
                                          .stride = rows->bytes / (int64_t)zm_dtype_size(rows->dtype),
                                          .bytes = (long long)bytes,
                                          .rows = (int)rows->count,
                                          .k = (int)rows->k,
                                          .group = m->group,
                                          .digits = m->digits,
                                          .dtype = zmi_gpu_dtype_of(rows->dtype)}};
  rows->at = in.as.digits.out;
  rows->bytes = (int64_t)bytes;
  rows->group = m->group;
  rows->digits = m->digits;
  return zmi_device_instruction(code, &in, ZMI_GPU_DIGITS, rows->count, pieces(rows->k, ZMI_GPU_PIECE), flags);
}

// Whether a product is one of many rows: they have to share weights, also those of experts.
static bool is_many(const zmi_gpu_dot *d) {
  enum { ROWS = 16, PAIRS = 128, EACH = 2 };
  if (d->matrix.digits == 0) return false;
  return d->chosen ? d->pairs > PAIRS && d->pairs / EACH >= d->matrix.experts : d->pairs > ROWS;
}

static zm_status many(zmi_device_code *code, const zmi_gpu_dot *d, int flags) {
  enum { FEW = 128 }; // tiles that leave multiprocessors empty
  const zmi_gpu_matrix *m = &d->matrix;
  zmi_gpu_instruction in = {.as.many = {.dot = *d, .most = (int)pieces(d->pairs, ZMI_GPU_MANY_COLUMNS)}};
  if (d->chosen) {
    zmi_gpu_instruction first = {
        .as.sort = {.chosen = d->chosen, .pairs = d->pairs, .experts = m->experts, .columns = ZMI_GPU_MANY_COLUMNS}};
    const bool there = zmi_device_sorted(code, &first.as.sort);
    in.as.many.order = first.as.sort.order;
    in.as.many.pieces = first.as.sort.pieces;
    in.as.many.most = ZMI_GPU_PIECES(d->pairs, m->experts);
    zm_status status = there ? ZM_OK : zmi_device_instruction(code, &first, ZMI_GPU_SORT, 1, 1, flags);
    if (status != ZM_OK) return status;
    flags = there ? flags : 0;
  }
  in.as.many.stages = ZMI_GPU_MANY_STAGES;
  const int64_t whole = pieces(d->blocks, ZMI_GPU_MANY_BLOCKS), halves = pieces(d->blocks, ZMI_GPU_MANY_BLOCKS / 2);
  return zmi_device_instruction(code, &in, ZMI_GPU_MANY, in.as.many.most, whole * in.as.many.most < FEW ? halves : whole, flags);
}

zm_status zmi_device_dot(zmi_device_code *code, const zmi_gpu_matrix *m, const zmi_device_rows *rows, zmi_gpu_address chosen, int64_t share,
                         zmi_gpu_address out, zm_dtype dtype, int flags) {
  const int64_t pairs = rows->count * share, blocks = pieces(m->n, ZMI_LANES);
  zmi_gpu_instruction in = {.shared = ZMI_GPU_DOT_SHARED,
                            .as.dot = {.matrix = *m,
                                       .x = rows->at,
                                       .chosen = chosen,
                                       .out = out,
                                       .x_bytes = rows->bytes,
                                       .out_stride = m->n,
                                       .x_dtype = zmi_gpu_dtype_of(rows->dtype),
                                       .pairs = (int)pairs,
                                       .share = (int)share,
                                       .blocks = (int)blocks,
                                       .dtype = zmi_gpu_dtype_of(dtype)}};
  if (is_many(&in.as.dot)) return many(code, &in.as.dot, flags);
  return zmi_device_instruction(code, &in, ZMI_GPU_DOT, pairs, blocks, flags);
}

zm_status zmi_device_forms(zmi_device_code *code, zmi_device_rows x, int count, const zmi_gpu_matrix *const *matrices,
                           zmi_device_rows *rows) {
  zm_status status = ZM_OK;
  for (int i = 0; i < count && status == ZM_OK; i++) {
    int same = 0;
    while (same < i && !(matrices[same]->digits == matrices[i]->digits && matrices[same]->group == matrices[i]->group)) same++;
    rows[i] = same < i ? rows[same] : x;
    if (same == i) status = zmi_device_ready(code, matrices[i], &rows[i], i ? ZMI_GPU_TOGETHER : 0);
  }
  return status;
}

// gate = silu(gate) * up, in place.
zm_status zmi_device_gated(zmi_device_code *code, zmi_gpu_address gate, zmi_gpu_address up, int64_t rows, int64_t cols, zm_dtype dtype) {
  return zmi_device_elements(code,
                             &(zmi_gpu_elements){.a = gate,
                                                 .b = up,
                                                 .out = gate,
                                                 .rows = rows,
                                                 .cols = cols,
                                                 .a_stride = cols,
                                                 .b_stride = cols,
                                                 .what = ZMI_GPU_GATED,
                                                 .dtype = zmi_gpu_dtype_of(dtype)},
                             0);
}

zm_status zmi_device_norm(zmi_device_code *code, const zmi_gpu_norm *n, int flags) {
  zmi_gpu_instruction in = {.shared = ZMI_GPU_NORM_SHARED, .as.norm = *n};
  return zmi_device_instruction(code, &in, ZMI_GPU_NORM, n->rows, 1, flags);
}

zm_status zmi_device_elements(zmi_device_code *code, const zmi_gpu_elements *e, int flags) {
  zmi_gpu_instruction in = {.as.elements = *e};
  return zmi_device_instruction(code, &in, ZMI_GPU_ELEMENTS, pieces(e->rows * e->cols, ZMI_GPU_PIECE), 1, flags);
}

zm_status zmi_device_rotate(zmi_device_code *code, const zmi_gpu_rotate *r, int flags) {
  zmi_gpu_instruction in = {.as.rotate = *r};
  return zmi_device_instruction(code, &in, ZMI_GPU_ROTATE, r->rows, r->heads, flags);
}

zm_status zmi_device_write(zmi_device_code *code, const zmi_gpu_write *w, int flags) {
  zmi_gpu_instruction in = {.as.write = *w};
  return zmi_device_instruction(code, &in, ZMI_GPU_WRITE, w->rows, w->kv_heads, flags);
}

// Few rows are split into ranges, whose partial results are joined afterwards: there is nothing else to keep the device busy.
zm_status zmi_device_attention(zmi_device_code *code, const zmi_gpu_attention *given) {
  enum { SPLIT_ROWS = 16, SPLIT_BYTES = 256 << 20 };
  zmi_gpu_instruction in = {.as.attention = *given};
  zmi_gpu_attention *a = &in.as.attention;
  a->ranges = (int)pieces(a->context, ZMI_GPU_KEYS);
  const int64_t partial = (int64_t)a->rows * a->heads * a->ranges * (ZMI_GPU_HEAD + a->dim) * 4;
  a->split = a->rows <= SPLIT_ROWS && partial <= SPLIT_BYTES;
  if (a->split) a->partial = zmi_device_scratch(code, (size_t)partial);
  zm_status status = zmi_device_instruction(code, &in, ZMI_GPU_ATTEND, (int64_t)a->rows * a->kv_heads, a->split ? a->ranges : 1, 0);
  return status == ZM_OK && a->split ? zmi_device_instruction(code, &in, ZMI_GPU_JOIN, a->rows, a->heads, 0) : status;
}

zm_status zmi_device_route(zmi_device_code *code, const zmi_gpu_route *r, int flags) {
  zmi_gpu_instruction in = {.as.route = *r};
  return zmi_device_instruction(code, &in, ZMI_GPU_ROUTE, r->rows, 1, flags);
}

zm_status zmi_device_combine(zmi_device_code *code, const zmi_gpu_combine *m, int flags) {
  zmi_gpu_instruction in = {.as.combine = *m};
  return zmi_device_instruction(code, &in, ZMI_GPU_COMBINE, m->rows, pieces(m->n, ZMI_GPU_PIECE), flags);
}

zm_status zmi_device_conv(zmi_device_code *code, const zmi_gpu_conv *v, int flags) {
  zmi_gpu_instruction in = {.as.conv = *v};
  return v->rows ? zmi_device_instruction(code, &in, ZMI_GPU_CONV, pieces(v->channels, ZMI_GPU_CHANNELS), 1, flags) : ZM_OK;
}

// ---- ops ----

zm_status zmi_linear_device(const zmi_call *c, zmi_device_code *code) {
  const zmi_matrix_attrs *m = c->attrs;
  const zmi_type *x = &c->in[0]->type;
  const zmi_gpu_matrix g = zmi_device_matrix(c, m, 1, 2);
  zmi_device_rows rows = zmi_device_rows_of(zmi_gpu_at(c->src[0]), x->shape[0], m->k, x->dtype);
  zm_status status = zmi_device_ready(code, &g, &rows, 0);
  return status == ZM_OK ? zmi_device_dot(code, &g, &rows, 0, 1, zmi_gpu_at(c->dst[0]), x->dtype, 0) : status;
}

zm_status zmi_gather_linear_device(const zmi_call *c, zmi_device_code *code) {
  const zmi_matrix_attrs *m = c->attrs;
  const zmi_type *x = &c->in[0]->type, *e = &c->in[1]->type;
  const zmi_gpu_matrix g = zmi_device_matrix(c, m, 2, 3);
  const int64_t share = x->rank == 2 ? e->shape[1] : 1;
  zmi_device_rows rows = zmi_device_rows_of(zmi_gpu_at(c->src[0]), x->rank == 2 ? x->shape[0] : zmi_type_count(e), m->k, x->dtype);
  zm_status status = zmi_device_ready(code, &g, &rows, 0);
  return status == ZM_OK ? zmi_device_dot(code, &g, &rows, zmi_gpu_at(c->src[1]), share, zmi_gpu_at(c->dst[0]), x->dtype, 0) : status;
}

zm_status zmi_rms_norm_device(const zmi_call *c, zmi_device_code *code) {
  const zmi_type *x = &c->in[0]->type;
  const int64_t n = x->shape[x->rank - 1];
  return zmi_device_norm(code,
                         &(zmi_gpu_norm){.x = zmi_gpu_at(c->src[0]),
                                         .weight = zmi_gpu_at(c->src[1]),
                                         .out = zmi_gpu_at(c->dst[0]),
                                         .rows = (int)(n ? zmi_type_count(x) / n : 0),
                                         .n = (int)n,
                                         .dtype = zmi_gpu_dtype_of(x->dtype),
                                         .weight_dtype = zmi_gpu_dtype_of(c->in[1]->type.dtype),
                                         .eps = (float)((const zmi_rms_attrs *)c->attrs)->eps},
                         0);
}

zm_status zmi_rope_table_device(const zmi_call *c, zmi_device_code *code) {
  const int64_t rows = c->in[0]->type.shape[0], pairs = c->in[1]->type.shape[0];
  zmi_gpu_instruction in = {.as.angles = {.position = zmi_gpu_at(c->src[0]),
                                          .frequency = zmi_gpu_at(c->src[1]),
                                          .cosine = zmi_gpu_at(c->dst[0]),
                                          .sine = zmi_gpu_at(c->dst[1]),
                                          .rows = (int)rows,
                                          .pairs = (int)pairs}};
  return zmi_device_instruction(code, &in, ZMI_GPU_ANGLES, pieces(rows * pairs, ZMI_GPU_PIECE), 1, 0);
}

zm_status zmi_rope_device(const zmi_call *c, zmi_device_code *code) {
  const zmi_type *x = &c->in[0]->type;
  return zmi_device_rotate(code,
                           &(zmi_gpu_rotate){.x = zmi_gpu_at(c->src[0]),
                                             .cosine = zmi_gpu_at(c->src[1]),
                                             .sine = zmi_gpu_at(c->src[2]),
                                             .out = zmi_gpu_at(c->dst[0]),
                                             .x_stride = x->shape[1] * x->shape[2],
                                             .rows = (int)x->shape[0],
                                             .heads = (int)x->shape[1],
                                             .dim = (int)x->shape[2],
                                             .pairs = (int)c->in[1]->type.shape[1],
                                             .traditional = ((const zmi_rope_attrs *)c->attrs)->traditional != 0,
                                             .dtype = zmi_gpu_dtype_of(x->dtype)},
                           0);
}

static zm_status write_cache(const zmi_call *c, zmi_device_code *code, bool keys) {
  const zmi_type *x = &c->in[1]->type, *cache = &c->in[0]->type;
  return zmi_device_write(code,
                          &(zmi_gpu_write){.from = zmi_gpu_at(c->src[1]),
                                           .cache = zmi_gpu_at(c->dst[0]),
                                           .position = zmi_gpu_at(c->src[2]),
                                           .sequence = zmi_gpu_at(c->src[3]),
                                           .rows = (int)x->shape[0],
                                           .kv_heads = (int)x->shape[1],
                                           .dim = (int)x->shape[2],
                                           .context = (int)(keys ? cache->shape[2] * ZMI_KEY_BLOCK : cache->shape[2]),
                                           .sequences = (int)cache->shape[0],
                                           .dtype = zmi_gpu_dtype_of(x->dtype),
                                           .keys = keys},
                          0);
}

zm_status zmi_write_keys_device(const zmi_call *c, zmi_device_code *code) {
  return write_cache(c, code, true);
}

zm_status zmi_write_values_device(const zmi_call *c, zmi_device_code *code) {
  return write_cache(c, code, false);
}

zmi_gpu_attention zmi_device_heads(const zmi_type *q, const zmi_type *values, const zmi_attention_attrs *a) {
  return (zmi_gpu_attention){.rows = (int)q->shape[0],
                             .heads = (int)q->shape[1],
                             .kv_heads = (int)values->shape[1],
                             .dim = (int)q->shape[2],
                             .context = (int)values->shape[2],
                             .sequences = (int)values->shape[0],
                             .dtype = zmi_gpu_dtype_of(q->dtype),
                             .scale = (float)a->scale};
}

zm_status zmi_attention_device(const zmi_call *c, zmi_device_code *code) {
  zmi_gpu_attention a = zmi_device_heads(&c->in[0]->type, &c->in[2]->type, c->attrs);
  a.q = zmi_gpu_at(c->src[0]);
  a.keys = zmi_gpu_at(c->src[1]);
  a.values = zmi_gpu_at(c->src[2]);
  a.position = zmi_gpu_at(c->src[3]);
  a.sequence = zmi_gpu_at(c->src[4]);
  a.out = zmi_gpu_at(c->dst[0]);
  return zmi_device_attention(code, &a);
}

zm_status zmi_route_device(const zmi_call *c, zmi_device_code *code) {
  const zmi_route_attrs *a = c->attrs;
  const zmi_type *x = &c->in[0]->type;
  const bool bias = c->nin > 1 && c->in[1];
  return zmi_device_route(code,
                          &(zmi_gpu_route){.logits = zmi_gpu_at(c->src[0]),
                                           .bias = bias ? zmi_gpu_at(c->src[1]) : 0,
                                           .chosen = zmi_gpu_at(c->dst[0]),
                                           .weights = zmi_gpu_at(c->dst[1]),
                                           .rows = (int)x->shape[0],
                                           .experts = (int)x->shape[1],
                                           .k = (int)a->top_k,
                                           .sigmoid = a->kind == ZMI_ROUTE_SIGMOID,
                                           .norm = a->norm != 0,
                                           .dtype = zmi_gpu_dtype_of(x->dtype),
                                           .eps = (float)a->eps,
                                           .scale = (float)a->scale},
                          0);
}

zm_status zmi_combine_device(const zmi_call *c, zmi_device_code *code) {
  const zmi_type *y = &c->in[0]->type;
  const int dtype = zmi_gpu_dtype_of(y->dtype);
  return zmi_device_combine(code,
                            &(zmi_gpu_combine){.y = zmi_gpu_at(c->src[0]),
                                               .weights = zmi_gpu_at(c->src[1]),
                                               .out = zmi_gpu_at(c->dst[0]),
                                               .rows = (int)y->shape[0],
                                               .slots = (int)y->shape[1],
                                               .n = (int)y->shape[2],
                                               .y_dtype = dtype,
                                               .weight_dtype = dtype,
                                               .dtype = dtype},
                            0);
}

zm_status zmi_short_conv_device(const zmi_call *c, zmi_device_code *code) {
  const zmi_type *x = &c->in[0]->type;
  const bool bias = c->nin > 5 && c->in[5];
  return zmi_device_conv(code,
                         &(zmi_gpu_conv){.x = zmi_gpu_at(c->src[0]),
                                         .weight = zmi_gpu_at(c->src[1]),
                                         .bias = bias ? zmi_gpu_at(c->src[5]) : 0,
                                         .state = zmi_gpu_at(c->dst[1]),
                                         .position = zmi_gpu_at(c->src[3]),
                                         .sequence = zmi_gpu_at(c->src[4]),
                                         .y = zmi_gpu_at(c->dst[0]),
                                         .x_stride = x->shape[1],
                                         .rows = (int)x->shape[0],
                                         .channels = (int)x->shape[1],
                                         .taps = (int)c->in[1]->type.shape[1],
                                         .sequences = (int)c->in[2]->type.shape[0],
                                         .dtype = zmi_gpu_dtype_of(x->dtype),
                                         .weight_dtype = zmi_gpu_dtype_of(c->in[1]->type.dtype),
                                         .bias_dtype = bias ? zmi_gpu_dtype_of(c->in[5]->type.dtype) : ZMI_GPU_F32},
                         0);
}

zm_status zmi_take_device(const zmi_call *c, zmi_device_code *code) {
  const zmi_type *x = &c->in[0]->type, *index = &c->in[1]->type;
  const int64_t rows = zmi_type_count(index), there = x->rank ? x->shape[0] : 0;
  const int64_t bytes = there ? zmi_type_count(x) / there * (int64_t)zm_dtype_size(x->dtype) : 0;
  if (index->dtype != ZM_I32 || bytes % 2 != 0)
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: take needs int32 indices and rows of whole words");
  zmi_gpu_instruction in = {.as.take = {.x = zmi_gpu_at(c->src[0]),
                                        .index = zmi_gpu_at(c->src[1]),
                                        .out = zmi_gpu_at(c->dst[0]),
                                        .bytes = bytes,
                                        .rows = (int)rows,
                                        .there = (int)there}};
  return zmi_device_instruction(code, &in, ZMI_GPU_TAKE, rows, 1, 0);
}

zm_status zmi_device_copy_slot(zmi_device_code *code, const zmi_slot *s, const void *from, zmi_gpu_address to) {
  zmi_gpu_instruction in = {.as.copy = {.x = zmi_gpu_at(from), .out = to, .count = zmi_type_count(&s->type), .rank = s->type.rank}};
  in.as.copy.bytes = (int)zm_dtype_size(s->type.dtype);
  for (int i = 0; i < s->type.rank; i++) {
    in.as.copy.size[i] = s->type.shape[i];
    in.as.copy.stride[i] = s->stride[i];
  }
  return zmi_device_instruction(code, &in, ZMI_GPU_COPY, pieces(in.as.copy.count, ZMI_GPU_PIECE), 1, 0);
}

zm_status zmi_copy_device(const zmi_call *c, zmi_device_code *code) {
  return zmi_device_copy_slot(code, c->in[0], c->src[0], zmi_gpu_at(c->dst[0]));
}

// ---- element by element ----

// An operand as rows that are `stride` apart: as it lies, or else copied.
static zm_status operand(const zmi_call *c, int i, zmi_device_code *code, int64_t cols, zmi_gpu_address *at, long long *stride) {
  const zmi_slot *s = c->in[i];
  const int rank = s->type.rank;
  *at = zmi_gpu_at(c->src[i]);
  *stride = cols;
  if (zmi_slot_is_contiguous(s)) return ZM_OK;
  if (rank == 2 && s->stride[1] == 1) {
    *stride = s->stride[0];
    return ZM_OK;
  }
  *at = zmi_device_scratch(code, s->bytes ? (size_t)zmi_type_count(&s->type) * zm_dtype_size(s->type.dtype) : 0);
  return zmi_device_copy_slot(code, s, c->src[i], *at);
}

zm_status zmi_element_device(const zmi_call *c, zmi_device_code *code) {
  static const struct {
    const char *name;
    zmi_gpu_element what;
  } rows[] = {{"add", ZMI_GPU_ADD}, {"multiply", ZMI_GPU_MULTIPLY}, {"silu", ZMI_GPU_SILU}};
  const zmi_type *t = &c->out[0]->type;
  const int64_t count = zmi_type_count(t), cols = t->rank ? t->shape[t->rank - 1] : 1;
  zmi_gpu_elements e = {
      .out = zmi_gpu_at(c->dst[0]), .cols = cols, .rows = cols ? count / cols : 0, .what = -1, .dtype = zmi_gpu_dtype_of(t->dtype)};
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    if (strcmp(rows[i].name, c->op->name) == 0) e.what = (int)rows[i].what;
  }
  if (e.what < 0 || !zmi_dtype_is_float(t->dtype) || t->dtype == ZM_F16)
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: operation %s of %s does not run on a GPU yet", c->op->name,
                    zm_dtype_name(t->dtype));
  zm_status status = operand(c, 0, code, cols, &e.a, &e.a_stride);
  if (status == ZM_OK && c->nin > 1) status = operand(c, 1, code, cols, &e.b, &e.b_stride);
  return status == ZM_OK ? zmi_device_elements(code, &e, 0) : status;
}
