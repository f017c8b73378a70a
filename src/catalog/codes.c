// Codes of a few bits in words: the bit stream of MLX's checkpoints, code i in bits [i b, (i + 1) b) of its row, low bits first, also where
// a code crosses two words.
#include "catalog/ops.h"

#include <string.h>

typedef struct codes_attrs {
  int64_t bits;
} codes_attrs;

static const zmi_field fields[] = {{"bits", ZMI_FIELD_INT, offsetof(codes_attrs, bits), NULL}, {0}};

static zm_status want_bits(const void *attrs) {
  int64_t bits = ((const codes_attrs *)attrs)->bits;
  if ((bits >= 1 && bits <= 6) || bits == 8) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "bits: expected 1 to 6 or 8, found %lld", (long long)bits);
}

static zm_status unpack_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  zm_status status = zmi_want_operands(nin, in, 1, 1);
  if (status == ZM_OK) status = want_bits(attrs);
  if (status == ZM_OK) status = zmi_want_dtype("words", &in[0], ZM_U32);
  if (status != ZM_OK) return status;
  int64_t bits = ((const codes_attrs *)attrs)->bits;
  if (in[0].rank < 1 || in[0].shape[in[0].rank - 1] > INT64_MAX / 32 || in[0].shape[in[0].rank - 1] * 32 % bits != 0) {
    char found[128];
    return zmi_fail(ZM_ERROR_ARGUMENT, "words: %s does not hold a whole number of codes of %lld bits", zmi_type_text(&in[0], found),
                    (long long)bits);
  }
  *nout = 1;
  out[0] = in[0];
  out[0].dtype = ZM_U8;
  out[0].shape[in[0].rank - 1] = in[0].shape[in[0].rank - 1] * 32 / bits;
  return ZM_OK;
}

static zm_status pack_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  zm_status status = zmi_want_operands(nin, in, 1, 1);
  if (status == ZM_OK) status = want_bits(attrs);
  if (status == ZM_OK) status = zmi_want_dtype("codes", &in[0], ZM_U8);
  if (status != ZM_OK) return status;
  int64_t bits = ((const codes_attrs *)attrs)->bits;
  if (in[0].rank < 1 || in[0].shape[in[0].rank - 1] > INT64_MAX / 32 || in[0].shape[in[0].rank - 1] * bits % 32 != 0) {
    char found[128];
    return zmi_fail(ZM_ERROR_ARGUMENT, "codes: %s of %lld bits do not fill whole words of 32 bits", zmi_type_text(&in[0], found),
                    (long long)bits);
  }
  *nout = 1;
  out[0] = in[0];
  out[0].dtype = ZM_U32;
  out[0].shape[in[0].rank - 1] = in[0].shape[in[0].rank - 1] * bits / 32;
  return ZM_OK;
}

// 32 codes are `bits` words, so the stream can be cut there whatever the rows are; rows are whole words.
enum { RUNS_OF_A_TILE = 256 };

static int64_t runs(int64_t words, int64_t bits) {
  return (words + bits - 1) / bits;
}

static int64_t unpack_tiles(const zmi_call *c) {
  return (runs(zmi_type_count(&c->in[0]->type), ((const codes_attrs *)c->attrs)->bits) + RUNS_OF_A_TILE - 1) / RUNS_OF_A_TILE;
}

static int64_t pack_tiles(const zmi_call *c) {
  return (runs(zmi_type_count(&c->out[0]->type), ((const codes_attrs *)c->attrs)->bits) + RUNS_OF_A_TILE - 1) / RUNS_OF_A_TILE;
}

#define RUN(b)                                                                                                                             \
  static void unpack_##b(const uint32_t *restrict w, uint8_t *restrict q) {                                                                \
    for (int i = 0; i < 32; i++) {                                                                                                         \
      int at = i * b, word = at / 32, shift = at % 32;                                                                                     \
      uint32_t v = w[word] >> shift;                                                                                                       \
      if (shift + b > 32) v |= w[word + 1] << (32 - shift);                                                                                \
      q[i] = (uint8_t)(v & ((1u << b) - 1));                                                                                               \
    }                                                                                                                                      \
  }
RUN(1)
RUN(2)
RUN(3)
RUN(4)
RUN(5)
RUN(6)
RUN(8)
static void (*const unpack_of[9])(const uint32_t *w, uint8_t *q) = {NULL,     unpack_1, unpack_2, unpack_3, unpack_4,
                                                                    unpack_5, unpack_6, NULL,     unpack_8};

static void unpack_run(const zmi_call *c, int64_t begin, int64_t end) {
  int64_t bits = ((const codes_attrs *)c->attrs)->bits, words = zmi_type_count(&c->in[0]->type), codes = zmi_type_count(&c->out[0]->type);
  const uint32_t *src = c->src[0];
  uint8_t *dst = c->dst[0];
  int64_t last = ZMI_MIN(end * RUNS_OF_A_TILE, runs(words, bits));
  for (int64_t r = begin * RUNS_OF_A_TILE; r < last; r++) {
    if ((r + 1) * bits <= words) {
      unpack_of[bits](src + r * bits, dst + r * 32);
      continue;
    }
    uint32_t some[8] = {0};
    uint8_t made[32];
    memcpy(some, src + r * bits, (size_t)(words - r * bits) * sizeof *src);
    unpack_of[bits](some, made);
    memcpy(dst + r * 32, made, (size_t)(codes - r * 32));
  }
}

static void pack_run(const zmi_call *c, int64_t begin, int64_t end) {
  int64_t bits = ((const codes_attrs *)c->attrs)->bits, words = zmi_type_count(&c->out[0]->type), codes = zmi_type_count(&c->in[0]->type);
  const uint8_t *src = c->src[0];
  uint32_t *dst = c->dst[0], mask = (1u << bits) - 1;
  int64_t last = ZMI_MIN(end * RUNS_OF_A_TILE, runs(words, bits));
  for (int64_t r = begin * RUNS_OF_A_TILE; r < last; r++) {
    uint64_t held = 0;
    int filled = 0;
    int64_t to = r * bits, stop = ZMI_MIN(codes, (r + 1) * 32);
    for (int64_t i = r * 32; i < stop; i++) {
      held |= (uint64_t)(src[i] & mask) << filled;
      filled += (int)bits;
      if (filled >= 32) {
        dst[to++] = (uint32_t)held;
        held >>= 32;
        filled -= 32;
      }
    }
  }
}

static const zmi_rules rules = {.vmap = zmi_vmap_elementwise, .gradient = "none: results are integers"};

const zmi_op zmi_op_unpack_codes = {.name = "unpack_codes",
                                    .operands = "words",
                                    .fields = fields,
                                    .rounding = "exact",
                                    .infer = unpack_infer,
                                    .stages = {{unpack_tiles, unpack_run}},
                                    .rules = &rules};
const zmi_op zmi_op_pack_codes = {.name = "pack_codes",
                                  .operands = "codes",
                                  .fields = fields,
                                  .rounding = "exact; bits of a code above its width are dropped",
                                  .infer = pack_infer,
                                  .stages = {{pack_tiles, pack_run}},
                                  .rules = &rules};

zm_array *zmi_cat_unpack(zm_array *words, int bits) {
  codes_attrs a = {bits};
  return zmi_cat_apply1(&zmi_op_unpack_codes, &a, sizeof a, 1, &words);
}

zm_array *zmi_cat_pack(zm_array *codes, int bits) {
  codes_attrs a = {bits};
  return zmi_cat_apply1(&zmi_op_pack_codes, &a, sizeof a, 1, &codes);
}
