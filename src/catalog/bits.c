// Truth values in bits: eight a byte, the first in the lowest bit. Eight at a time are a word.
#include "catalog/ops.h"

#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum { TILE_BYTES = 4096 }; // of packed bits

static int64_t tiles(const zmi_call *c) {
  const zmi_type *bits = c->in[0]->type.shape[0] > c->out[0]->type.shape[0] ? &c->out[0]->type : &c->in[0]->type;
  return (bits->shape[0] + TILE_BYTES - 1) / TILE_BYTES;
}

// ---- packing ----

static zm_status pack_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 1, 1);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[0], 1, "[size]");
  if (status != ZM_OK) return status;
  if ((in[0].dtype != ZM_BOOL && in[0].dtype != ZM_U8) || in[0].shape[0] % 8 != 0)
    return zmi_fail(ZM_ERROR_ARGUMENT, "x: expected bool or uint8, a multiple of 8 elements");
  *nout = 1;
  out[0] = zmi_type_of(ZM_U8, 1, (int64_t[]){in[0].shape[0] / 8});
  return ZM_OK;
}

// Bit i of the result: whether byte i is not zero.
static uint8_t pack_eight(const uint8_t *x) {
  const uint64_t low = 0x7f7f7f7f7f7f7f7full;
  uint64_t w;
  memcpy(&w, x, sizeof w);
  w = (((w & low) + low) | w) >> 7 & 0x0101010101010101ull;
  return (uint8_t)(w * 0x0102040810204080ull >> 56); // byte i moves to bit 56 + i
}

static void pack_run(const zmi_call *c, int64_t begin, int64_t end) {
  const uint8_t *x = c->src[0];
  uint8_t *y = c->dst[0];
  int64_t at = begin * TILE_BYTES;
  const int64_t last = ZMI_MIN(end * TILE_BYTES, c->out[0]->type.shape[0]);
#if defined(__SSE2__)
  for (; at + 2 <= last; at += 2) {
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(x + 8 * at));
    const unsigned zeros = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(v, _mm_setzero_si128()));
    const uint16_t bits = (uint16_t)~zeros;
    memcpy(y + at, &bits, sizeof bits);
  }
#endif
  for (; at < last; at++) y[at] = pack_eight(x + 8 * at);
}

// ---- unpacking ----

static zm_status unpack_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 1, 1);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[0], 1, "[size]");
  if (status == ZM_OK) status = zmi_want_dtype("x", &in[0], ZM_U8);
  if (status != ZM_OK) return status;
  if (in[0].shape[0] > INT64_MAX / 8) return zmi_fail(ZM_ERROR_ARGUMENT, "x: the result is too large to address");
  *nout = 1;
  out[0] = zmi_type_of(ZM_U8, 1, (int64_t[]){in[0].shape[0] * 8});
  return ZM_OK;
}

static void unpack_run(const zmi_call *c, int64_t begin, int64_t end) {
  const uint8_t *x = c->src[0];
  uint8_t *y = c->dst[0];
  int64_t at = begin * TILE_BYTES;
  const int64_t last = ZMI_MIN(end * TILE_BYTES, c->in[0]->type.shape[0]);
#if defined(__SSE2__)
  const __m128i bit = _mm_set1_epi64x((long long)0x8040201008040201ull), one = _mm_set1_epi8(1);
  for (; at + 2 <= last; at += 2) {
    __m128i v = _mm_cvtsi32_si128(x[at] | x[at + 1] << 8);
    v = _mm_unpacklo_epi8(v, v); // each byte eight times
    v = _mm_shufflelo_epi16(v, 0x50);
    v = _mm_shuffle_epi32(v, 0x50);
    v = _mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(v, bit), bit), one);
    _mm_storeu_si128((__m128i *)(void *)(y + 8 * at), v);
  }
#endif
  for (; at < last; at++) {
    for (int i = 0; i < 8; i++) y[8 * at + i] = x[at] >> i & 1;
  }
}

static const zmi_rules rules = {.vmap = zmi_cat_vmap_rows, .gradient = "none: results are integers"};

const zmi_op zmi_op_pack_bits = {
    .name = "pack_bits", .operands = "x", .rounding = "exact", .infer = pack_infer, .stages = {{tiles, pack_run}}, .rules = &rules};
const zmi_op zmi_op_unpack_bits = {
    .name = "unpack_bits", .operands = "x", .rounding = "exact", .infer = unpack_infer, .stages = {{tiles, unpack_run}}, .rules = &rules};

zm_array *zm_pack_bits(zm_array *x) {
  if (x && x->type.dtype != ZM_BOOL && x->type.dtype != ZM_U8) {
    zmi_fail(ZM_ERROR_ARGUMENT, "pack_bits: x: expected dtype bool or uint8, found %s", zm_dtype_name(x->type.dtype));
    return NULL;
  }
  if (!x && !zmi_cat_want_dtype("pack_bits", "x", x, ZM_U8)) return NULL;
  int64_t n = zm_array_size(x);
  if (n % 8 != 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "pack_bits: x: the number of elements must be a multiple of 8, found %lld", (long long)n);
    return NULL;
  }
  zm_array *flat = zmi_cat_reshape(x, 1, n);
  return zmi_cat_apply1(&zmi_op_pack_bits, NULL, 0, 1, &flat);
}

zm_array *zm_unpack_bits(zm_array *x) {
  if (!zmi_cat_want_dtype("unpack_bits", "x", x, ZM_U8)) return NULL;
  zm_array *flat = zmi_cat_reshape(x, 1, zm_array_size(x));
  return zmi_cat_apply1(&zmi_op_unpack_bits, NULL, 0, 1, &flat);
}

static zm_status pack_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_pack_bits(in[0]);
  return zmi_cat_status(out[0]);
}

static zm_status unpack_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_unpack_bits(in[0]);
  return zmi_cat_status(out[0]);
}

// What the operations compute, in the kernel language: for printed sources.
static zmi_definition pack_bits_def = {.name = "pack_bits",
                                       .form = ZMI_FORM_ROWS,
                                       .inputs = "x",
                                       .outputs = "y",
                                       .source = "elements { s = sum((x != 0 ? 1 : 0) << i); }\ny = s;",
                                       .result = {ZM_U8},
                                       .codes = 3};
static zmi_definition unpack_bits_def = {.name = "unpack_bits",
                                         .form = ZMI_FORM_ELEMENTS,
                                         .inputs = "x place",
                                         .outputs = "y",
                                         .source = "y = int(x) >> int(place) & 1;",
                                         .result = {ZM_U8},
                                         .codes = 3};

static const zmi_entry entries[] = {
    {.name = "pack_bits",
     .formula = "byte b: the sum over i < 8 of (x[8 b + i] != 0) 2^i",
     .shapes = "x [...] -> [size / 8]",
     .dtypes = "bool, uint8 -> uint8",
     .gradient = "none: results are integers",
     .definition = &pack_bits_def,
     .sample = "x 1048576 bool",
     .call = pack_call},
    {.name = "unpack_bits",
     .formula = "y[8 b + i] = bit i of x[b]",
     .shapes = "x [...] -> [8 size]",
     .dtypes = "uint8 -> uint8",
     .gradient = "none: results are integers",
     .definition = &unpack_bits_def,
     .sample = "x 131072 uint8",
     .call = unpack_call},
};

ZMI_GROUP(bits, "Truth values in bits.");
