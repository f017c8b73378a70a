// quantize, dequantize, and float8: conversions between floats and MLX's quantized arrays. Group by group, each on its own.
#include "array/ops/codes.h"

#include <string.h>

typedef struct attributes {
  zmi_format format;
  int64_t dtype; // of the result of dequantize
} attributes;

static const zmi_field fields[] = {ZMI_CODES_FIELDS(attributes, format), {0}};
static const zmi_field dequantize_fields[] = {
    ZMI_CODES_FIELDS(attributes, format), {"dtype", ZMI_FIELD_WORD, offsetof(attributes, dtype), zmi_dtype_words}, {0}};

enum { TILE_GROUPS = 64, MOST_GROUP = 128 };

// ---- shared with the products ----

bool zmi_codes_of(const char *op, const zm_quant *q, zmi_format *f) {
  const zm_quant none = {0};
  if (!q) q = &none;
  *f = (zmi_format){.mode = (int64_t)q->mode + ZMI_QUANT_AFFINE, .bits = q->bits, .group = q->group, .dtype = ZM_F32};
  if (zmi_codes_complete(f) == ZM_OK) return true;
  zmi_fail_within("%s", op);
  return false;
}

static bool same_front(const zmi_type *a, const zmi_type *b) {
  if (a->rank != b->rank) return false;
  for (int i = 0; i < a->rank - 1; i++) {
    if (a->shape[i] != b->shape[i]) return false;
  }
  return true;
}

// Builders give whole formats; a tape read from text may not.
static zm_status want_whole(const zmi_format *f) {
  zmi_format complete = *f;
  zm_status status = zmi_codes_complete(&complete);
  if (status != ZM_OK || (complete.bits == f->bits && complete.group == f->group)) return status;
  return zmi_fail(ZM_ERROR_ARGUMENT, "%lld bits in groups of %lld are no format of quantization", (long long)f->bits, (long long)f->group);
}

zm_status zmi_want_codes(const zmi_format *f, const zmi_type *codes, const zmi_type *scales, const zmi_type *biases, int64_t *k) {
  char tc[128], ts[128], tb[128];
  zm_status status = want_whole(f);
  if (status != ZM_OK) return status;
  const bool affine = f->mode == ZMI_QUANT_AFFINE;
  if (codes->dtype != ZM_U32 || codes->rank < 1) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "codes must be uint32 of rank 1 or more, found %s", zmi_type_text(codes, tc));
  }
  if (affine != (biases != NULL))
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s %s biases", zmi_quant_mode_name(f->mode), affine ? "needs" : "has no");
  if (affine ? !zmi_dtype_is_float(scales->dtype) || !zmi_type_equal(scales, biases) : scales->dtype != ZM_U8) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "scales of %s must be %s, found %s%s%s", zmi_quant_mode_name(f->mode),
                    affine ? "floats of the type of the biases" : "uint8", zmi_type_text(scales, ts), affine ? " and " : "",
                    affine ? zmi_type_text(biases, tb) : "");
  }
  if (!same_front(codes, scales) || __builtin_mul_overflow(scales->shape[scales->rank - 1], f->group, k) || *k > INT64_MAX / 8 ||
      *k * f->bits != codes->shape[codes->rank - 1] * 32) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "codes %s and scales %s do not belong together with %lld bits and groups of %lld",
                    zmi_type_text(codes, tc), zmi_type_text(scales, ts), (long long)f->bits, (long long)f->group);
  }
  return ZM_OK;
}

static zm_status want_global(const zmi_format *f, const zmi_type *global) {
  char text[128];
  if (f->mode != ZMI_QUANT_NVFP4)
    return zmi_fail(ZM_ERROR_ARGUMENT, "a global scale belongs to nvfp4, not to %s", zmi_quant_mode_name(f->mode));
  if (global->dtype == ZM_F32 && zmi_type_count(global) == 1) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "the global scale must be float32 of one element, found %s", zmi_type_text(global, text));
}

// ---- quantize ----

static int64_t group_tiles(int64_t count, int64_t group) {
  return zmi_tiles_of(count / group, TILE_GROUPS);
}

static int64_t quantize_tiles(const zmi_call *c) {
  return group_tiles(zmi_type_count(&c->in[0]->type), ((const attributes *)c->attrs)->format.group);
}

static double log2_of(double x) {
  return zmi_log(x) * 1.4426950408889634;
}

static void quantize_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_format *f = &((const attributes *)c->attrs)->format;
  const zm_dtype dtype = c->in[0]->type.dtype;
  const size_t size = zm_dtype_size(dtype);
  const int64_t groups = zmi_type_count(&c->in[0]->type) / f->group;
  zmi_float_quantizer q = {.bits = f->bits, .group = f->group, .dtype = dtype, .encode = 1, .log2 = log2_of};
  if (c->nin > 1 && c->in[1]) q.encode = 2688.0f / *(const float *)c->src[1];
  for (int64_t at = begin * TILE_GROUPS; at < ZMI_MIN(end * TILE_GROUPS, groups); at++) {
    _Alignas(64) float w[MOST_GROUP], scale, bias;
    uint32_t *codes = (uint32_t *)c->dst[0] + at * f->group * f->bits / 32;
    c->kernels->load((const char *)c->src[0] + (size_t)(at * f->group) * size, dtype, f->group, w);
    if (f->mode != ZMI_QUANT_AFFINE) {
      zmi_quantize_floats(&q, w, 1, codes, (uint8_t *)c->dst[1] + at);
      continue;
    }
    zmi_quantize_affine(f->bits, f->group, w, 1, f->group, codes, &scale, &bias);
    c->kernels->store(&scale, 1, (char *)c->dst[1] + (size_t)at * size, dtype);
    c->kernels->store(&bias, 1, (char *)c->dst[2] + (size_t)at * size, dtype);
  }
}

static zm_status quantize_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zmi_format *f = &((const attributes *)attrs)->format;
  char text[128];
  zm_status status = zmi_want_operands(nin, in, 1, 2);
  if (status == ZM_OK) status = want_whole(f);
  if (status == ZM_OK && !zmi_absent(in, nin, 1)) status = want_global(f, &in[1]);
  if (status != ZM_OK) return status;
  const int last = in[0].rank - 1;
  if (last < 0 || !zmi_dtype_is_float(in[0].dtype) || in[0].shape[last] % f->group != 0) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected floats whose last axis is a multiple of the group of %lld, found %s", (long long)f->group,
                    zmi_type_text(&in[0], text));
  }
  const bool affine = f->mode == ZMI_QUANT_AFFINE;
  *nout = affine ? 3 : 2;
  out[0] = out[1] = in[0];
  out[0].dtype = ZM_U32;
  out[0].shape[last] = in[0].shape[last] / 32 * f->bits + in[0].shape[last] % 32 * f->bits / 32;
  out[1].shape[last] = in[0].shape[last] / f->group;
  if (affine)
    out[2] = out[1];
  else
    out[1].dtype = ZM_U8;
  if ((in[0].shape[last] * f->bits) % 32 == 0) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "the last axis of %s fills no whole words of codes", zmi_type_text(&in[0], text));
}

static zm_status no_gradient(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)n, (void)given, (void)wanted, (void)gradient;
  return ZM_OK;
}

static zm_status quantize_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return n->nin > 1 && batched[1] ? zmi_vmap_slices(n, size, in, batched, out) : zmi_reapply(n, in, out);
}

static const zmi_rules quantize_rules = {.vjp = no_gradient, .vmap = quantize_vmap, .gradient = "none: results are codes and their scales"};

const zmi_op zmi_op_quantize = {.name = "quantize",
                                .operands = "w global?",
                                .fields = fields,
                                .rounding = "codes by MLX's rule for the CPU; scales and biases rounded once to the dtype of w",
                                .infer = quantize_infer,
                                .stages = {{quantize_tiles, quantize_run}},
                                .rules = &quantize_rules};

zm_status zm_quantize(zm_array *w, const zm_quant *format, zm_array *global_scale, zm_array **codes, zm_array **scales, zm_array **biases) {
  attributes a = {{0}, 0};
  zm_array *in[2] = {w, global_scale}, *out[ZMI_MAX_OUT] = {NULL};
  if (!zmi_present("quantize", 1, in) || !zmi_codes_of("quantize", format, &a.format)) return zm_last_status();
  zm_status status = zmi_apply(&zmi_op_quantize, &a, sizeof a, global_scale ? 2 : 1, in, out);
  if (status != ZM_OK) return status;
  *codes = out[0];
  *scales = out[1];
  *biases = out[2];
  return ZM_OK;
}

// ---- dequantize ----

void zmi_codes_values(const zmi_kernels *kn, const zmi_format *f, const zmi_stored_matrix *m, int64_t row, int64_t k, int64_t n,
                      float *out) {
  if (f->mode != ZMI_QUANT_AFFINE) {
    zmi_decode_floats(f, m, row, k, n, out);
    return;
  }
  const int64_t bytes = f->group * f->bits / 8, first = row * (m->k / f->group) + k / f->group;
  for (int64_t g = 0; g < n / f->group; g++) {
    uint8_t codes[MOST_GROUP];
    float scale, bias;
    kn->load(zmi_at(m->scales, m->stored, first + g), m->stored, 1, &scale);
    kn->load(zmi_at(m->biases, m->stored, first + g), m->stored, 1, &bias);
    kn->codes((const char *)m->weight + (first + g) * bytes, f->bits, f->group, codes);
    kn->affine(codes, f->group, scale, bias, out + g * f->group);
  }
}

enum { CODES, SCALES, BIASES, GLOBAL };

static int64_t dequantize_tiles(const zmi_call *c) {
  return group_tiles(zmi_type_count(&c->out[0]->type), ((const attributes *)c->attrs)->format.group);
}

static void dequantize_run(const zmi_call *c, int64_t begin, int64_t end) {
  const attributes *a = c->attrs;
  const int64_t count = zmi_type_count(&c->out[0]->type);
  const zm_dtype dtype = (zm_dtype)a->dtype;
  // Rows have no gaps: all of them are one.
  const zmi_stored_matrix m = {.weight = c->src[CODES],
                               .scales = c->src[SCALES],
                               .biases = c->nin > BIASES ? c->src[BIASES] : NULL,
                               .stored = c->in[SCALES]->type.dtype,
                               .n = 1,
                               .k = count};
  const float *global = c->nin > GLOBAL ? c->src[GLOBAL] : NULL;
  _Alignas(64) float values[MOST_GROUP];
  const int64_t from = begin * TILE_GROUPS * a->format.group, to = ZMI_MIN(end * TILE_GROUPS * a->format.group, count);
  if (dtype == ZM_F32 && !global) {
    zmi_codes_values(c->kernels, &a->format, &m, 0, from, to - from, (float *)c->dst[0] + from);
    return;
  }
  for (int64_t at = from; at < to; at += a->format.group) {
    zmi_codes_values(c->kernels, &a->format, &m, 0, at, a->format.group, values);
    for (int64_t i = 0; i < a->format.group && global; i++) values[i] *= *global / 2688.0f;
    c->kernels->store(values, a->format.group, (char *)c->dst[0] + (size_t)at * zm_dtype_size(dtype), dtype);
  }
}

static zm_status dequantize_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const attributes *a = attrs;
  int64_t k;
  zm_status status = zmi_want_operands(nin, in, 2, 4);
  if (status == ZM_OK) status = zmi_want_codes(&a->format, &in[CODES], &in[SCALES], zmi_absent(in, nin, BIASES) ? NULL : &in[BIASES], &k);
  if (status == ZM_OK && !zmi_absent(in, nin, GLOBAL)) status = want_global(&a->format, &in[GLOBAL]);
  if (status != ZM_OK) return status;
  if (!zmi_dtype_is_known(a->dtype) || !zmi_dtype_is_float((zm_dtype)a->dtype)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "the result must be of a float dtype, not %s", zm_dtype_name((zm_dtype)a->dtype));
  }
  zmi_type t = in[CODES];
  t.shape[t.rank - 1] = k;
  return zmi_give(nout, out, (zm_dtype)a->dtype, t.rank, t.shape);
}

zm_status zmi_codes_gradient(const zmi_format *f, zm_array *codes, zm_array *scales, zm_array *g, const bool *wanted, zm_array **of_scales,
                             zm_array **of_biases) {
  int64_t shape[ZM_MAX_RANK + 1];
  const zmi_type *s = &scales->type;
  const zm_quant q = {(zm_quant_mode)(f->mode - ZMI_QUANT_AFFINE), (int)f->bits, (int)f->group};
  if (f->mode != ZMI_QUANT_AFFINE) return ZM_OK; // scales of integers
  memcpy(shape, s->shape, sizeof s->shape);
  shape[s->rank] = f->group;
  if (wanted[0]) {
    zm_array *one = zm_full(1, ZM_F32, s->shape, s->rank), *none = zm_full(0, ZM_F32, s->shape, s->rank);
    zm_array *y = zm_multiply(zm_astype(g, ZM_F32), zm_dequantize(codes, one, none, &q, NULL, ZM_F32));
    *of_scales = zm_astype(zm_sum(zm_reshape(y, shape, s->rank + 1), -1, false), s->dtype);
    if (!*of_scales) return zm_last_status();
  }
  if (wanted[1]) {
    *of_biases = zm_astype(zm_sum(zm_reshape(zm_astype(g, ZM_F32), shape, s->rank + 1), -1, false), s->dtype);
    if (!*of_biases) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status dequantize_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const attributes *a = (const attributes *)(const void *)n->attrs.bytes;
  if (!given[0] || n->nin <= BIASES) return ZM_OK;
  return zmi_codes_gradient(&a->format, n->in[CODES], n->in[SCALES], given[0], wanted + SCALES, &gradient[SCALES], &gradient[BIASES]);
}

static zm_status dequantize_vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  zm_array *all[4] = {NULL};
  if (n->nin > GLOBAL && batched[GLOBAL]) return zmi_vmap_slices(n, size, in, batched, out);
  for (int i = 0; i < n->nin; i++) {
    all[i] = i < GLOBAL && in[i] ? zmi_batch(in[i], batched[i], size) : in[i];
    if (in[i] && !all[i]) return zm_last_status();
  }
  return zmi_reapply(n, all, out);
}

static const zmi_rules dequantize_rules = {.vjp = dequantize_vjp, .vmap = dequantize_vmap, .gradient = "scales and biases of affine"};

const zmi_op zmi_op_dequantize = {.name = "dequantize",
                                  .operands = "codes scales biases? global?",
                                  .fields = dequantize_fields,
                                  .rounding = "affine: fma(code, scale, bias) in float32, others: code * scale; rounded once to the dtype",
                                  .infer = dequantize_infer,
                                  .stages = {{dequantize_tiles, dequantize_run}},
                                  .rules = &dequantize_rules};

zm_array *zm_dequantize(zm_array *codes, zm_array *scales, zm_array *biases, const zm_quant *format, zm_array *global_scale,
                        zm_dtype dtype) {
  attributes a = {{0}, dtype};
  zm_array *in[4] = {codes, scales, biases, global_scale};
  if (!zmi_present("dequantize", 2, in) || !zmi_codes_of("dequantize", format, &a.format)) return NULL;
  if (dtype == ZM_DTYPE_DEFAULT) a.dtype = a.format.mode == ZMI_QUANT_AFFINE ? scales->type.dtype : ZM_BF16;
  return zmi_apply1(&zmi_op_dequantize, &a, sizeof a, global_scale ? 4 : biases ? 3 : 2, in);
}

// ---- float8 ----

static void to_fp8_run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_reader r = zmi_reader_of(c, 0);
  uint64_t raw[ZMI_CHUNK];
  float value[ZMI_CHUNK];
  int64_t last = ZMI_MIN(end * ZMI_TILE, zmi_type_count(&c->out[0]->type));
  for (int64_t at = begin * ZMI_TILE; at < last; at += ZMI_CHUNK) {
    int64_t n = ZMI_MIN(last - at, ZMI_CHUNK);
    c->kernels->load(zmi_read(&r, at, n, raw), c->in[0]->type.dtype, n, value);
    for (int64_t i = 0; i < n; i++) ((uint8_t *)c->dst[0])[at + i] = zmi_f32_to_e4m3(value[i]);
  }
}

static zm_status to_fp8_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  char text[128];
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (!zmi_dtype_is_float(in[0].dtype)) return zmi_fail(ZM_ERROR_ARGUMENT, "expected floats, found %s", zmi_type_text(&in[0], text));
  return zmi_give(nout, out, ZM_U8, in[0].rank, in[0].shape);
}

static const zmi_rules to_fp8_rules = {.vjp = no_gradient, .vmap = zmi_vmap_elementwise, .gradient = "none: results are codes"};

const zmi_op zmi_op_to_fp8 = {.name = "to_fp8",
                              .operands = "x",
                              .rounding = "to nearest even e4m3, saturating at 448; NaN becomes 448",
                              .flags = ZMI_OP_STRIDED,
                              .infer = to_fp8_infer,
                              .stages = {{zmi_element_tiles, to_fp8_run}},
                              .rules = &to_fp8_rules};

static void from_fp8_run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_reader r = zmi_reader_of(c, 0);
  uint64_t raw[ZMI_CHUNK];
  float value[ZMI_CHUNK];
  const zm_dtype dtype = c->out[0]->type.dtype;
  int64_t last = ZMI_MIN(end * ZMI_TILE, zmi_type_count(&c->out[0]->type));
  for (int64_t at = begin * ZMI_TILE; at < last; at += ZMI_CHUNK) {
    int64_t n = ZMI_MIN(last - at, ZMI_CHUNK);
    const uint8_t *codes = zmi_read(&r, at, n, raw);
    for (int64_t i = 0; i < n; i++) value[i] = zmi_e4m3_to_f32(codes[i]);
    c->kernels->store(value, n, (char *)c->dst[0] + (size_t)at * zm_dtype_size(dtype), dtype);
  }
}

static zm_status from_fp8_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const int64_t dtype = ((const attributes *)attrs)->dtype;
  char text[128];
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (in[0].dtype != ZM_U8 || !zmi_dtype_is_known(dtype) || !zmi_dtype_is_float((zm_dtype)dtype)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected uint8 to a float dtype, found %s to %s", zmi_type_text(&in[0], text),
                    zm_dtype_name((zm_dtype)dtype));
  }
  return zmi_give(nout, out, (zm_dtype)dtype, in[0].rank, in[0].shape);
}

static const zmi_field from_fp8_fields[] = {{"dtype", ZMI_FIELD_WORD, offsetof(attributes, dtype), zmi_dtype_words}, {0}};
static const zmi_rules from_fp8_rules = {.vjp = no_gradient, .vmap = zmi_vmap_elementwise, .gradient = "none: operands are codes"};

const zmi_op zmi_op_from_fp8 = {.name = "from_fp8",
                                .operands = "x",
                                .fields = from_fp8_fields,
                                .rounding = "exact",
                                .flags = ZMI_OP_STRIDED,
                                .infer = from_fp8_infer,
                                .stages = {{zmi_element_tiles, from_fp8_run}},
                                .rules = &from_fp8_rules};

zm_array *zm_to_fp8(zm_array *a) {
  return zmi_present("to_fp8", 1, &a) ? zmi_apply1(&zmi_op_to_fp8, NULL, 0, 1, &a) : NULL;
}

zm_array *zm_from_fp8(zm_array *a, zm_dtype dtype) {
  attributes at = {{0}, dtype};
  return zmi_present("from_fp8", 1, &a) ? zmi_apply1(&zmi_op_from_fp8, &at, sizeof at, 1, &a) : NULL;
}
