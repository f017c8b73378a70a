// The codec of caches: caches as rows of features, and the blob. docs/kvtc.md describes the format.
#include "catalog/kvtc.h"

#include <jansson.h>
#include <string.h>
#include <zlib.h>

enum { HEADER = 16, CHUNKS = 6, VERSION = 2 };
static const char magic[8] = {'Z', 'M', 'L', 'X', 'K', 'V', 'T', 'C'};

// ---- options ----

static const struct {
  const char *name;
  zm_kvtc_options options;
} presets[] = {
    {"lfm2", {.rope_dim = 64, .rope_base = 1000000}},
    {"qwen3", {.rope_dim = 128, .rope_base = 1000000}},
    {"glm", {.rope_dim = 64, .rope_offset = 512, .rope_base = 1000000, .rope_traditional = true, .single_stream = true}},
};

bool zm_kvtc_preset(const char *name, zm_kvtc_options *options) {
  for (size_t i = 0; i < ZMI_COUNT(presets); i++) {
    if (strcmp(presets[i].name, name) == 0) return (*options = presets[i].options), true;
  }
  zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: there is no preset \"%.40s\" (known: lfm2, qwen3, glm)", name);
  return false;
}

zm_status zmi_kvtc_options_fill(const zm_kvtc_options *options, zm_kvtc_options *o) {
  *o = options ? *options : (zm_kvtc_options){0};
  o->prefix = o->prefix == 0 ? 4 : ZMI_MAX(o->prefix, 0);
  o->suffix = o->suffix == 0 ? 128 : ZMI_MAX(o->suffix, 0);
  if (o->rope_base == 0) o->rope_base = 10000;
  if (o->level == 0) o->level = 3;
  if (o->level < 1 || o->level > 9) return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: level: expected 1 to 9, found %d", o->level);
  if (o->rope_dim < 0 || o->rope_dim % 2 != 0)
    return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: rope_dim: expected an even number, found %lld", (long long)o->rope_dim);
  if (o->rope_offset < 0 || !(o->rope_base > 0))
    return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: rope: a negative offset, or a base that is not positive");
  return ZM_OK;
}

void zmi_kvtc_stream_release(kvtc_stream *s) {
  zmi_free(s->mean);
  zmi_free(s->basis);
  zmi_free(s->groups);
  *s = (kvtc_stream){0};
}

void zm_kvtc_free(zm_kvtc *codec) {
  if (!codec) return;
  for (int i = 0; i < 2; i++) zmi_kvtc_stream_release(&codec->stream[i]);
  zmi_free(codec);
}

void zm_kvtc_bytes_free(void *bytes) {
  zmi_free(bytes);
}

// ---- caches as rows ----

zm_status zmi_kvtc_shape(const char *what, zm_array *const *layers, size_t count, int64_t shape[3]) {
  char found[128];
  if (!layers || count == 0) return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: %s: no layers", what);
  for (size_t l = 0; l < count; l++) {
    if (!zmi_cat_want_float("kvtc", what, layers[l])) return zm_last_status();
    const zmi_type *t = &layers[l]->type;
    bool fits = t->rank == 3 || (t->rank == 4 && t->shape[0] == 1);
    for (int i = 0; fits && i < 3; i++) {
      if (l == 0) shape[i] = t->shape[t->rank - 3 + i];
      fits = t->shape[t->rank - 3 + i] == shape[i];
    }
    if (!fits) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: %s: layer %zu is %s, expected [1, heads, tokens, dim] and all layers alike", what, l,
                      zmi_type_text(t, found));
    }
  }
  return ZM_OK;
}

void zmi_kvtc_turn(const zm_kvtc_options *o, float *head, int64_t position, bool back) {
  float *x = head + o->rope_offset;
  int64_t pairs = o->rope_dim / 2;
  for (int64_t i = 0; i < pairs; i++) {
    double sine, cosine, angle = (double)position / zmi_pow(o->rope_base, 2 * (double)i / (double)o->rope_dim);
    zmi_sincos(angle, &sine, &cosine);
    if (back) sine = -sine;
    float *a = o->rope_traditional ? x + 2 * i : x + i, *b = o->rope_traditional ? a + 1 : x + i + pairs;
    double u = *a, v = *b;
    *a = (float)(u * cosine - v * sine);
    *b = (float)(u * sine + v * cosine);
  }
}

static double element(const void *data, zm_dtype dtype, int64_t i) {
  if (dtype == ZM_F32) return ((const float *)data)[i];
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(((const uint16_t *)data)[i]) : zmi_f16_to_f32(((const uint16_t *)data)[i]);
}

zm_status zmi_kvtc_rows(const zm_kvtc_options *o, zm_array *const *layers, size_t count, int64_t first, int64_t n, bool back, float *rows) {
  int64_t shape[3];
  zm_status status = zmi_kvtc_shape("layers", layers, count, shape);
  if (status != ZM_OK) return status;
  int64_t heads = shape[0], tokens = shape[1], dim = shape[2], p = (int64_t)count * heads * dim;
  for (size_t l = 0; l < count; l++) {
    const void *data = zm_array_data(layers[l]);
    if (!data) return zm_last_status();
    for (int64_t r = 0; r < n; r++) {
      for (int64_t h = 0; h < heads; h++) {
        float *to = rows + r * p + ((int64_t)l * heads + h) * dim;
        for (int64_t d = 0; d < dim; d++) to[d] = (float)element(data, layers[l]->type.dtype, (h * tokens + first + r) * dim + d);
        if (back && o->rope_dim) zmi_kvtc_turn(o, to, first + r, true);
      }
    }
  }
  return ZM_OK;
}

// ---- one token's components ----

int64_t zmi_kvtc_row_bytes(const kvtc_stream *s) {
  int64_t bytes = 0;
  for (int64_t g = 0; g < s->count; g++) {
    if (s->groups[g].bits) bytes += 4 + (s->groups[g].size * s->groups[g].bits + 7) / 8;
  }
  return bytes;
}

static float half(uint8_t *to, float v) {
  const float most = 65504;
  uint16_t h = zmi_f32_to_f16(v > most ? most : v < -most ? -most : v);
  to[0] = (uint8_t)h;
  to[1] = (uint8_t)(h >> 8);
  return zmi_f16_to_f32(h);
}

static float half_at(const uint8_t *from) {
  return zmi_f16_to_f32((uint16_t)(from[0] | from[1] << 8));
}

// Codes are taken by the shift and scale as they are stored.
static void encode(const kvtc_stream *s, const float *c, uint8_t *to) {
  for (int64_t g = 0; g < s->count; g++) {
    int64_t size = s->groups[g].size, bits = s->groups[g].bits;
    if (bits) {
      float low = c[0], high = c[0], most = (float)((1 << bits) - 1);
      for (int64_t i = 1; i < size; i++) {
        low = c[i] < low ? c[i] : low;
        high = c[i] > high ? c[i] : high;
      }
      low = half(to, low);
      float step = half(to + 2, high > low ? (high - low) / most : 1);
      memset(to += 4, 0, (size_t)((size * bits + 7) / 8));
      for (int64_t i = 0; i < size; i++) {
        float q = step > 0 ? (c[i] - low) / step + 0.5f : 0;
        unsigned code = (unsigned)(q > most ? most : q > 0 ? q : 0);
        to[i * bits / 8] |= (uint8_t)(code << (i * bits % 8));
      }
      to += (size * bits + 7) / 8;
    }
    c += size;
  }
}

static void decode(const kvtc_stream *s, const uint8_t *from, float *c) {
  for (int64_t g = 0; g < s->count; g++) {
    int64_t size = s->groups[g].size, bits = s->groups[g].bits;
    for (int64_t i = 0; i < size && !bits; i++) c[i] = 0;
    if (bits) {
      float low = half_at(from), step = half_at(from + 2);
      from += 4;
      for (int64_t i = 0; i < size; i++) {
        unsigned code = from[i * bits / 8] >> (i * bits % 8) & ((1u << bits) - 1);
        c[i] = (float)code * step + low;
      }
      from += (size * bits + 7) / 8;
    }
    c += size;
  }
}

// ---- the blob ----

static void add_chunk(zmi_text *blob, const void *data, size_t size) {
  uint8_t length[8];
  for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)size >> (8 * i));
  zmi_text_add_bytes(blob, length, sizeof length);
  zmi_text_add_bytes(blob, data, size);
}

// Tokens [first, first + n) of all layers as float16 [layers][heads][n][dim].
static zm_status add_raw(zmi_text *blob, zm_array *const *layers, size_t count, const int64_t shape[3], int64_t first, int64_t n) {
  size_t bytes = count * (size_t)(shape[0] * n * shape[2]) * 2;
  uint8_t *raw = zmi_malloc(bytes + 1), *to = raw;
  if (!raw) return ZM_ERROR_MEMORY;
  for (size_t l = 0; l < count; l++) {
    const void *data = zm_array_data(layers[l]);
    if (!data) {
      zmi_free(raw);
      return zm_last_status();
    }
    for (int64_t h = 0; h < shape[0]; h++) {
      for (int64_t i = 0; i < n * shape[2]; i++, to += 2) {
        uint16_t v = zmi_f32_to_f16((float)element(data, layers[l]->type.dtype, (h * shape[1] + first) * shape[2] + i));
        to[0] = (uint8_t)v;
        to[1] = (uint8_t)(v >> 8);
      }
    }
  }
  add_chunk(blob, raw, bytes);
  zmi_free(raw);
  return ZM_OK;
}

static zm_status add_coded(zmi_text *blob, const zm_kvtc *k, const kvtc_stream *s, zm_array *const *layers, size_t count, int64_t first,
                           int64_t n, bool back) {
  int64_t bytes = zmi_kvtc_row_bytes(s), p = s->features, r = s->rank;
  uint8_t *payload = zmi_malloc((size_t)(n * bytes) + 1);
  float *row = zmi_malloc((size_t)(p + r) * sizeof *row + 1);
  uLong bound = compressBound((uLong)(n * bytes));
  uint8_t *packed = zmi_malloc(bound + 1);
  zm_status status = payload && row && packed ? ZM_OK : ZM_ERROR_MEMORY;
  for (int64_t t = 0; t < n && status == ZM_OK; t++) {
    float *c = row + p;
    status = zmi_kvtc_rows(&k->options, layers, count, first + t, 1, back, row);
    if (status != ZM_OK) break;
    memset(c, 0, (size_t)r * sizeof *c);
    for (int64_t i = 0; i < p; i++) {
      float v = zmi_f16_to_f32(zmi_f32_to_f16(row[i])) - s->mean[i];
      for (int64_t j = 0; j < r; j++) c[j] += v * s->basis[i * r + j];
    }
    encode(s, c, payload + t * bytes);
  }
  if (status == ZM_OK) {
    uLong size = bound;
    if (compress2(packed, &size, payload, (uLong)(n * bytes), k->options.level) != Z_OK)
      status = zmi_fail(ZM_ERROR_MEMORY, "kvtc: deflating %lld bytes failed", (long long)(n * bytes));
    else
      add_chunk(blob, packed, size);
  }
  zmi_free(payload);
  zmi_free(row);
  zmi_free(packed);
  return status;
}

static char *meta_of(const zm_kvtc *k, size_t layers, const int64_t shape[3], int64_t values_dim, int64_t middle) {
  const zm_kvtc_options *o = &k->options;
  json_t *rope = o->rope_dim ? json_pack("{sI sf sb sI}", "dim", (json_int_t)o->rope_dim, "base", o->rope_base, "traditional",
                                         (int)o->rope_traditional, "offset", (json_int_t)o->rope_offset)
                             : json_null();
  json_t *meta = json_pack(
      "{si sI sI sI sI sI sI sI sI ss sI ss sI sI so sb sb}", "version", VERSION, "layers", (json_int_t)layers, "batch", (json_int_t)1,
      "heads", (json_int_t)shape[0], "seq", (json_int_t)shape[1], "head_dim", (json_int_t)shape[2], "v_head_dim", (json_int_t)values_dim,
      "w", (json_int_t)o->suffix, "s", (json_int_t)o->prefix, "dtype", "float16", "n_mid", (json_int_t)middle, "mode",
      o->single_stream ? "single_stream" : "dual_stream", "payload_bytes_per_row_k", (json_int_t)zmi_kvtc_row_bytes(&k->stream[0]),
      "payload_bytes_per_row_v", (json_int_t)(k->streams > 1 ? zmi_kvtc_row_bytes(&k->stream[1]) : 0), "rope", rope, "apply_rope_to_keys",
      (int)(o->rope_dim != 0), "apply_rope_to_values", (int)o->rope_values);
  char *text = meta ? json_dumps(meta, JSON_COMPACT) : NULL;
  json_decref(meta);
  if (!text) zmi_fail(ZM_ERROR_MEMORY, "kvtc: out of memory");
  return text;
}

static zm_status features_fit(const zm_kvtc *k, int stream, const char *what, size_t layers, const int64_t shape[3]) {
  const zm_kvtc_options *o = &k->options;
  if (k->stream[stream].features != (int64_t)layers * shape[0] * shape[2]) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: %s: %zu layers of %lld heads of %lld give %lld features, the calibration has %lld", what,
                    layers, (long long)shape[0], (long long)shape[2], (long long)((int64_t)layers * shape[0] * shape[2]),
                    (long long)k->stream[stream].features);
  }
  if (o->rope_dim && o->rope_offset + o->rope_dim > shape[2] && (stream == 0 || o->rope_values)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: %s: heads of %lld have no dims %lld to %lld to turn", what, (long long)shape[2],
                    (long long)o->rope_offset, (long long)(o->rope_offset + o->rope_dim));
  }
  return ZM_OK;
}

zm_status zm_kvtc_compress(const zm_kvtc *k, zm_array *const *keys, zm_array *const *values, size_t layers, void **bytes, size_t *size) {
  const zm_kvtc_options *o = &k->options;
  int64_t shape[2][3] = {{0}};
  zm_array *const *side[2] = {keys, values};
  for (int i = 0; i < k->streams; i++) {
    const char *what = i ? "values" : "keys";
    zm_status status = zmi_kvtc_shape(what, side[i], layers, shape[i]);
    if (status == ZM_OK) status = features_fit(k, i, what, layers, shape[i]);
    if (status != ZM_OK) return status;
  }
  int64_t tokens = shape[0][1], middle = tokens - o->prefix - o->suffix;
  if (k->streams > 1 && (shape[1][1] != tokens || shape[1][0] != shape[0][0])) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: values: expected the heads and tokens of the keys");
  }
  if (middle < 0) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: %lld tokens are fewer than the %lld + %lld that are kept", (long long)tokens,
                    (long long)o->prefix, (long long)o->suffix);
  }
  char *meta = meta_of(k, layers, shape[0], k->streams > 1 ? shape[1][2] : 0, middle);
  if (!meta) return zm_last_status();
  zmi_text blob = {0};
  size_t length = strlen(meta);
  uint8_t header[HEADER] = {0};
  memcpy(header, magic, sizeof magic);
  header[8] = VERSION;
  for (int i = 0; i < 4; i++) header[12 + i] = (uint8_t)(length >> (8 * i));
  zmi_text_add_bytes(&blob, header, sizeof header);
  zmi_text_add_bytes(&blob, meta, length);
  free(meta);
  zm_status status = ZM_OK;
  for (int i = 0; i < 2 && status == ZM_OK; i++) {
    if (i >= k->streams) {
      for (int c = 0; c < 3; c++) add_chunk(&blob, "", 0);
      continue;
    }
    status = add_raw(&blob, side[i], layers, shape[i], 0, o->prefix);
    if (status == ZM_OK) status = add_raw(&blob, side[i], layers, shape[i], tokens - o->suffix, o->suffix);
    if (status == ZM_OK) status = add_coded(&blob, k, &k->stream[i], side[i], layers, o->prefix, middle, i == 0 || o->rope_values);
  }
  if (status == ZM_OK && blob.failed) status = ZM_ERROR_MEMORY;
  void *copy = status == ZM_OK ? zmi_malloc(blob.size) : NULL;
  if (status == ZM_OK && !copy) status = ZM_ERROR_MEMORY;
  if (status == ZM_OK) {
    memcpy(copy, blob.data, blob.size);
    *bytes = copy;
    *size = blob.size;
  }
  zmi_text_release(&blob);
  return status;
}

// ---- back ----

typedef struct blob {
  int64_t version, layers, heads, tokens, dim[2], prefix, suffix, middle;
  bool traditional;
  struct {
    const uint8_t *data;
    size_t size;
  } chunk[CHUNKS];
} blob;

static zm_status broken(const char *why) {
  return zmi_fail(ZM_ERROR_FORMAT, "kvtc: %s", why);
}

static zm_status read_meta(const zm_kvtc *k, const char *text, size_t size, blob *b) {
  json_error_t error;
  json_t *meta = json_loadb(text, size, 0, &error);
  json_int_t layers, heads, seq, dim, vdim = 0, w, s, mid, rope_dim = 0, rope_offset = 0;
  const char *mode = "dual_stream";
  int traditional = 0;
  double base = 0;
  bool read = meta && json_unpack(meta, "{sI sI sI sI sI sI sI s?I s?s}", "layers", &layers, "heads", &heads, "seq", &seq, "head_dim", &dim,
                                  "w", &w, "s", &s, "n_mid", &mid, "v_head_dim", &vdim, "mode", &mode) == 0;
  bool single = read && strcmp(mode, "single_stream") == 0;
  json_t *rope = read ? json_object_get(meta, "rope") : NULL;
  if (rope && json_is_object(rope)) {
    read = json_unpack(rope, "{sI sF sb s?I}", "dim", &rope_dim, "base", &base, "traditional", &traditional, "offset", &rope_offset) == 0;
  }
  json_decref(meta);
  const json_int_t most = 1 << 30;
  if (!read || layers < 1 || heads < 0 || seq < 0 || dim < 0 || vdim < 0 || w < 0 || s < 0 || mid < 0)
    return broken("the description cannot be read");
  if (layers > most || heads > most || seq > most || dim > most || vdim > most || w + s + mid != seq) return broken("sizes do not add up");
  const zm_kvtc_options *o = &k->options;
  if (b->version == 1) traditional = !traditional; // version 1 meant the opposite
  if (single != o->single_stream || w != o->suffix || s != o->prefix)
    return broken("the blob was made with other options (mode, prefix or suffix)");
  if (rope_dim != o->rope_dim ||
      (rope_dim && (base != o->rope_base || rope_offset != o->rope_offset || (bool)traditional != o->rope_traditional)))
    return broken("the blob was made with another rope");
  *b = (blob){.version = b->version,
              .layers = layers,
              .heads = heads,
              .tokens = seq,
              .dim = {dim, single ? 0
                           : vdim ? vdim
                                  : dim},
              .prefix = s,
              .suffix = w,
              .middle = mid};
  return ZM_OK;
}

static zm_status read_blob(const zm_kvtc *k, const uint8_t *data, size_t size, blob *b) {
  if (size < HEADER || memcmp(data, magic, sizeof magic) != 0) return broken("these bytes are no blob");
  b->version = data[8] | data[9] << 8;
  if (b->version != 1 && b->version != VERSION)
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "kvtc: version %lld is unknown", (long long)b->version);
  size_t length = (size_t)data[12] | (size_t)data[13] << 8 | (size_t)data[14] << 16 | (size_t)data[15] << 24, at = HEADER;
  if (length > size - at) return broken("the description is cut off");
  zm_status status = read_meta(k, (const char *)data + at, length, b);
  at += length;
  for (int c = 0; c < CHUNKS && status == ZM_OK; c++) {
    uint64_t n = 0;
    if (size - at < 8) return broken("a part is cut off");
    for (int i = 0; i < 8; i++) n |= (uint64_t)data[at + (size_t)i] << (8 * i);
    at += 8;
    if (n > size - at) return broken("a part is cut off");
    b->chunk[c].data = data + at;
    b->chunk[c].size = (size_t)n;
    at += (size_t)n;
  }
  if (status == ZM_OK && at != size) return broken("there are bytes behind the last part");
  return status;
}

// Kept tokens [first, first + n) into float16 caches.
static zm_status put_raw(const blob *b, int stream, int chunk, int64_t first, int64_t n, uint16_t *const *to) {
  int64_t dim = b->dim[stream], run = n * dim;
  const uint8_t *from = b->chunk[chunk].data;
  if (b->chunk[chunk].size != (size_t)(b->layers * b->heads * run) * 2) return broken("kept tokens have another size than described");
  for (int64_t l = 0; l < b->layers; l++) {
    for (int64_t h = 0; h < b->heads; h++) {
      for (int64_t i = 0; i < run; i++, from += 2) to[l][(h * b->tokens + first) * dim + i] = (uint16_t)(from[0] | from[1] << 8);
    }
  }
  return ZM_OK;
}

static zm_status put_coded(const zm_kvtc *k, const blob *b, int stream, uint16_t *const *to) {
  const kvtc_stream *s = &k->stream[stream];
  const zm_kvtc_options *o = &k->options;
  int64_t bytes = zmi_kvtc_row_bytes(s), p = s->features, r = s->rank, dim = b->dim[stream];
  bool turned = o->rope_dim && (stream == 0 || o->rope_values);
  size_t payload_size;
  if (b->middle == 0) return ZM_OK;
  if (zmi_mul_overflow((size_t)b->middle, (size_t)bytes, &payload_size)) return broken("sizes do not add up");
  // Deflate makes at most about 1032 bytes of one: a size that cannot be is not allocated.
  if (payload_size / 1100 > b->chunk[3 * stream + 2].size) return broken("coded tokens are cut off");
  uint8_t *payload = zmi_malloc(payload_size + 1);
  float *row = zmi_malloc((size_t)(p + r) * sizeof *row + 1);
  zm_status status = payload && row ? ZM_OK : ZM_ERROR_MEMORY;
  if (status == ZM_OK) {
    uLong made = (uLong)payload_size;
    int code = uncompress(payload, &made, b->chunk[3 * stream + 2].data, (uLong)b->chunk[3 * stream + 2].size);
    if (code != Z_OK || made != payload_size) status = broken("coded tokens cannot be inflated to the size described");
  }
  for (int64_t t = 0; t < b->middle && status == ZM_OK; t++) {
    float *c = row + p;
    decode(s, payload + t * bytes, c);
    for (int64_t i = 0; i < p; i++) {
      float sum = 0;
      for (int64_t j = 0; j < r; j++) sum += c[j] * s->basis[i * r + j];
      row[i] = sum + s->mean[i];
    }
    for (int64_t h = 0; h < b->layers * b->heads; h++) {
      if (turned) zmi_kvtc_turn(o, row + h * dim, b->prefix + t, false);
      uint16_t *at = to[h / b->heads] + (h % b->heads * b->tokens + b->prefix + t) * dim;
      for (int64_t d = 0; d < dim; d++) at[d] = zmi_f32_to_f16(row[h * dim + d]);
    }
  }
  zmi_free(payload);
  zmi_free(row);
  return status;
}

// The layers of one stream as arrays.
static zm_status restore(const zm_kvtc *k, const blob *b, int stream, zm_array **out) {
  size_t count = (size_t)(b->heads * b->tokens * b->dim[stream]), layers = (size_t)b->layers;
  uint16_t **to = zmi_calloc(layers, sizeof *to);
  zm_status status = to ? ZM_OK : ZM_ERROR_MEMORY;
  for (size_t l = 0; l < layers && status == ZM_OK; l++) {
    if (!(to[l] = zmi_calloc(count + 1, sizeof **to))) status = ZM_ERROR_MEMORY;
  }
  if (status == ZM_OK) status = put_raw(b, stream, 3 * stream, 0, b->prefix, to);
  if (status == ZM_OK) status = put_raw(b, stream, 3 * stream + 1, b->tokens - b->suffix, b->suffix, to);
  if (status == ZM_OK) status = put_coded(k, b, stream, to);
  for (size_t l = 0; l < layers && to; l++) {
    zmi_type type = zmi_type_of(ZM_F16, 4, (int64_t[]){1, b->heads, b->tokens, b->dim[stream]});
    if (status == ZM_OK && to[l]) {
      if ((out[l] = zmi_data_leaf(&type, to[l])))
        to[l] = NULL;
      else
        status = zm_last_status();
    }
    zmi_free(to[l]);
  }
  zmi_free(to);
  return status;
}

zm_status zm_kvtc_decompress(const zm_kvtc *k, const void *bytes, size_t size, size_t layers, zm_array **keys, zm_array **values) {
  blob b = {0};
  zm_status status = read_blob(k, bytes, size, &b);
  if (status != ZM_OK) return status;
  if ((size_t)b.layers != layers) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: the blob has %lld layers, asked for %zu", (long long)b.layers, layers);
  }
  for (int i = 0; i < k->streams; i++) {
    status = features_fit(k, i, i ? "values" : "keys", layers, (int64_t[]){b.heads, b.tokens, b.dim[i]});
    // What is kept is in the blob as it is, so its sizes are bounded; coded tokens are checked against what deflate can make.
    if (status == ZM_OK && (i == 0 || values)) status = restore(k, &b, i, i ? values : keys);
    if (status != ZM_OK) return status;
  }
  return ZM_OK;
}
