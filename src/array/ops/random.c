// Random numbers: Threefry 2x32 with 20 rounds (Salmon and others, 2011) over counters, as MLX has it. Word i of a result of n words comes
// from counter pair (i, i + h) with h = n / 2 rounded up: words i and i + h are the two words of one hash; with an odd n word n / 2 is
// the first word of the hash of (n / 2, 0).
#include "array/ops/random.h"
#include "array/ops/ops.h"

#include <string.h>

enum { PAIRS = 256, TILE_PAIRS = 4096 };

static const zmi_field fields[] = {{"dtype", ZMI_FIELD_WORD, offsetof(zmi_random_attrs, dtype), zmi_dtype_words},
                                   {"rank", ZMI_FIELD_INT, offsetof(zmi_random_attrs, rank), NULL},
                                   ZMI_FIELDS8("dim", zmi_random_attrs, shape),
                                   {0}};

static inline uint32_t rotated(uint32_t v, int r) {
  return v << r | v >> (32 - r);
}

#define MIX(r)                                                                                                                             \
  x += y;                                                                                                                                  \
  y = rotated(y, r) ^ x;
#define FOUR(a, b, c, d, i)                                                                                                                \
  MIX(a) MIX(b) MIX(c) MIX(d) x += k[(i + 1) % 3];                                                                                         \
  y += k[(i + 2) % 3] + i + 1;

static inline void threefry(const uint32_t k[3], uint32_t x, uint32_t y, uint32_t *first, uint32_t *second) {
  x += k[0];
  y += k[1];
  FOUR(13, 15, 26, 6, 0)
  FOUR(17, 29, 16, 24, 1)
  FOUR(13, 15, 26, 6, 2)
  FOUR(17, 29, 16, 24, 3)
  FOUR(13, 15, 26, 6, 4)
  *first = x;
  *second = y;
}

static void hashes(const uint32_t k[3], uint32_t from, uint32_t apart, int64_t n, uint32_t *restrict first, uint32_t *restrict second) {
  for (uint32_t i = 0; i < (uint32_t)n; i++) threefry(k, from + i, from + apart + i, &first[i], &second[i]);
}

// ---- one result: `count` numbers of one key ----

typedef struct stream {
  const zmi_kernels *kernels;
  zm_dtype dtype;
  int64_t count, words, half, odd;
  size_t size;
  char *dst;
} stream;

static stream stream_of(const zmi_call *c) {
  const zmi_type *t = &c->out[0]->type;
  const zmi_random_attrs *a = c->attrs;
  stream s = {.kernels = c->kernels, .dtype = t->dtype, .count = 1, .size = zm_dtype_size(t->dtype)};
  for (int i = 0; i < a->rank; i++) s.count *= a->shape[i];
  // A float takes a word, an integer its own size.
  s.words = zmi_dtype_is_float(t->dtype) ? s.count : (s.count * (int64_t)s.size + 3) / 4;
  s.half = s.words / 2;
  s.odd = s.words % 2;
  return s;
}

// The largest number below 1 of each float dtype.
static float below_one(zm_dtype dtype) {
  return dtype == ZM_F32 ? 0x1.fffffep-1f : dtype == ZM_F16 ? 0x1.ffcp-1f : 0x1.fep-1f;
}

// Words [first, first + n) of the stream to their places.
static void put(const stream *s, const uint32_t *words, int64_t first, int64_t n) {
  if (!zmi_dtype_is_float(s->dtype)) {
    size_t at = 4 * (size_t)first, left = (size_t)s->count * s->size - at;
    memcpy(s->dst + at, words, ZMI_MIN(4 * (size_t)n, left));
    return;
  }
  _Alignas(64) float u[PAIRS];
  const float most = below_one(s->dtype);
  for (int64_t i = 0; i < n; i++) {
    float v = (float)words[i] * 0x1p-32f;
    u[i] = v < most ? v : most;
  }
  if (s->dtype == ZM_F32)
    memcpy(s->dst + 4 * (size_t)first, u, 4 * (size_t)n);
  else
    s->kernels->store(u, n, s->dst + s->size * (size_t)first, s->dtype);
}

static int64_t tiles_of_key(const stream *s) {
  return ZMI_MAX(zmi_tiles_of(s->half, TILE_PAIRS), s->odd);
}

static int64_t tiles(const zmi_call *c) {
  stream s = stream_of(c);
  return s.words == 0 ? 0 : zmi_type_count(&c->in[0]->type) / 2 * tiles_of_key(&s);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  stream s = stream_of(c);
  const int64_t each = tiles_of_key(&s);
  uint32_t first[PAIRS], second[PAIRS];
  for (int64_t t = begin; t < end; t++) {
    const uint32_t *key = (const uint32_t *)c->src[0] + t / each * 2;
    const uint32_t k[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu};
    s.dst = (char *)c->dst[0] + (size_t)(t / each) * (size_t)s.count * s.size;
    int64_t from = t % each * TILE_PAIRS, last = ZMI_MIN(from + TILE_PAIRS, s.half);
    for (int64_t at = from; at < last; at += PAIRS) {
      int64_t n = ZMI_MIN(last - at, PAIRS);
      hashes(k, (uint32_t)at, (uint32_t)(s.half + s.odd), n, first, second);
      put(&s, first, at, n);
      put(&s, second, at + s.half + s.odd, n);
    }
    if (s.odd && t % each == 0) {
      threefry(k, (uint32_t)s.half, 0, first, second);
      put(&s, first, s.half, 1);
    }
  }
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zmi_random_attrs *a = attrs;
  char text[128];
  int64_t shape[2 * ZM_MAX_RANK];
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  const int keys = in[0].rank - 1;
  if (keys < 0 || in[0].dtype != ZM_U32 || in[0].shape[keys] != 2) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "a key is uint32 [..., 2], found %s", zmi_type_text(&in[0], text));
  }
  if (!zmi_dtype_is_known(a->dtype) ||
      !(zmi_dtype_is_float((zm_dtype)a->dtype) || a->dtype == ZM_U8 || a->dtype == ZM_U16 || a->dtype == ZM_U32)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "random numbers are uint8, uint16, uint32 or floats, not %s", zm_dtype_name((zm_dtype)a->dtype));
  }
  if (a->rank < 0 || a->rank + keys > ZM_MAX_RANK) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "the result would have rank %lld, the most is %d", (long long)a->rank + keys, ZM_MAX_RANK);
  }
  for (int i = 0; i < keys; i++) shape[i] = in[0].shape[i];
  for (int i = 0; i < a->rank; i++) shape[keys + i] = a->shape[i];
  return zmi_give(nout, out, (zm_dtype)a->dtype, keys + (int)a->rank, shape);
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)n, (void)given, (void)wanted, (void)gradient;
  return ZM_OK; // a key is no number
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  (void)size, (void)batched;
  return zmi_apply(n->op, n->attrs.bytes, sizeof(zmi_random_attrs), 1, in, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "none: a key is no number"};

const zmi_op zmi_op_random_bits = {.name = "random_bits",
                                   .operands = "key",
                                   .fields = fields,
                                   .rounding =
                                       "integers: exact; floats: word / 2^32 in float32, at most the largest number below 1, rounded once",
                                   .infer = infer,
                                   .stages = {{tiles, run}},
                                   .rules = &rules};
