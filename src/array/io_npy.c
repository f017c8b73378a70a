// .npy: magic, version, a header that is the text of a Python dict, and the elements. Nothing in a header is believed before it was
// checked.
#include "array/io.h"

#include <stdio.h>
#include <string.h>

enum { MAGIC = 6, HEADER_LIMIT = 1 << 20, ALIGNED = 64, FIRST_DIM_DIGITS = 21 };

static const char magic[MAGIC + 1] = "\x93NUMPY";

typedef struct npy_kind {
  const char *name; // without byte order
  zm_dtype dtype, stored;
  bool narrowed; // from float64
} npy_kind;

// The first row of a dtype is written.
static const npy_kind kinds[] = {
    {"b1", ZM_BOOL, ZM_BOOL, false}, {"u1", ZM_U8, ZM_U8, false},   {"u2", ZM_U16, ZM_U16, false}, {"u4", ZM_U32, ZM_U32, false},
    {"u8", ZM_U64, ZM_U64, false},   {"i1", ZM_I8, ZM_I8, false},   {"i2", ZM_I16, ZM_I16, false}, {"i4", ZM_I32, ZM_I32, false},
    {"i8", ZM_I64, ZM_I64, false},   {"f2", ZM_F16, ZM_F16, false}, {"f4", ZM_F32, ZM_F32, false}, {"V2", ZM_BF16, ZM_BF16, false},
    {"f8", ZM_F32, ZM_I64, true}, // as wide as int64
};

typedef struct npy_facts {
  const npy_kind *kind;
  bool swapped, by_columns;
  int rank;
  int64_t shape[ZM_MAX_RANK];
  size_t bytes;
} npy_facts;

// ---- the header ----

typedef struct cursor {
  const char *at, *end;
} cursor;

static void skip_blanks(cursor *c) {
  while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r')) c->at++;
}

static bool take(cursor *c, char wanted) {
  skip_blanks(c);
  if (c->at == c->end || *c->at != wanted) return false;
  c->at++;
  return true;
}

static bool take_word(cursor *c, const char *word) {
  size_t size = strlen(word);
  skip_blanks(c);
  if ((size_t)(c->end - c->at) < size || memcmp(c->at, word, size) != 0) return false;
  c->at += size;
  return true;
}

// A text in single or double quotes, without escapes, shorter than `room`.
static bool take_text(cursor *c, char *text, size_t room) {
  size_t n = 0;
  skip_blanks(c);
  if (c->at == c->end || (*c->at != '\'' && *c->at != '"')) return false;
  const char quote = *c->at++;
  for (; c->at < c->end && *c->at != quote; c->at++) {
    if (n + 1 == room || (unsigned char)*c->at < 0x20 || (unsigned char)*c->at > 0x7E || *c->at == '\\') return false;
    text[n++] = *c->at;
  }
  text[n] = 0;
  return take(c, quote);
}

static zm_status parse_descr(cursor *c, npy_facts *f) {
  char text[16];
  skip_blanks(c);
  if (c->at < c->end && *c->at == '[') return zmi_fail(ZM_ERROR_FORMAT, "its elements are records; save each field as an array");
  if (!take_text(c, text, sizeof text)) return zmi_fail(ZM_ERROR_FORMAT, "'descr' of its header is not the short text of a dtype");
  for (size_t i = 0; i < ZMI_COUNT(kinds) && text[0]; i++) {
    const size_t size = zm_dtype_size(kinds[i].stored);
    if (strcmp(text + 1, kinds[i].name) != 0 || !strchr(size == 1 || kinds[i].dtype == ZM_BF16 ? "|<=" : "<=>", text[0])) continue;
    f->kind = &kinds[i];
    f->swapped = text[0] == '>';
    return ZM_OK;
  }
  return zmi_fail(ZM_ERROR_FORMAT, "its dtype is '%s', which no dtype here can hold; convert it to bool, integers or floats", text);
}

static zm_status parse_dim(cursor *c, npy_facts *f) {
  int64_t dim = 0;
  const char *from = c->at;
  for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
    if (__builtin_mul_overflow(dim, 10, &dim) || __builtin_add_overflow(dim, *c->at - '0', &dim))
      return zmi_fail(ZM_ERROR_FORMAT, "dim %d of its shape is more than can be addressed", f->rank);
  }
  if (c->at == from) return zmi_fail(ZM_ERROR_FORMAT, "dim %d of its shape is not a whole number from 0 up", f->rank);
  if (f->rank == ZM_MAX_RANK) return zmi_fail(ZM_ERROR_FORMAT, "its shape has more than %d dims", ZM_MAX_RANK);
  f->shape[f->rank++] = dim;
  take(c, 'L'); // Python 2 wrote it behind numbers
  return ZM_OK;
}

static zm_status parse_shape(cursor *c, npy_facts *f) {
  if (!take(c, '(')) return zmi_fail(ZM_ERROR_FORMAT, "'shape' of its header is not a tuple");
  for (bool comma = true; !take(c, ')');) {
    if (!comma) return zmi_fail(ZM_ERROR_FORMAT, "'shape' of its header is not a tuple of whole numbers");
    zm_status status = parse_dim(c, f);
    if (status != ZM_OK) return status;
    comma = take(c, ',');
    skip_blanks(c);
  }
  return ZM_OK;
}

static zm_status parse_order(cursor *c, npy_facts *f) {
  f->by_columns = take_word(c, "True");
  if (f->by_columns || take_word(c, "False")) return ZM_OK;
  return zmi_fail(ZM_ERROR_FORMAT, "'fortran_order' of its header is neither True nor False");
}

static zm_status parse_dict(cursor *c, npy_facts *f) {
  static const struct {
    const char *key;
    zm_status (*parse)(cursor *c, npy_facts *f);
  } keys[] = {{"descr", parse_descr}, {"fortran_order", parse_order}, {"shape", parse_shape}};
  unsigned seen = 0;
  char text[32];
  if (!take(c, '{')) return zmi_fail(ZM_ERROR_FORMAT, "its header is not a Python dict");
  for (bool comma = true; !take(c, '}'); comma = take(c, ',')) {
    size_t k = 0;
    if (!comma || !take_text(c, text, sizeof text) || !take(c, ':')) return zmi_fail(ZM_ERROR_FORMAT, "its header is not a Python dict");
    while (k < ZMI_COUNT(keys) && strcmp(keys[k].key, text) != 0) k++;
    if (k == ZMI_COUNT(keys)) return zmi_fail(ZM_ERROR_FORMAT, "its header has the key '%s', which the format does not know", text);
    if (seen & 1u << k) return zmi_fail(ZM_ERROR_FORMAT, "its header has the key '%s' twice", text);
    seen |= 1u << k;
    zm_status status = keys[k].parse(c, f);
    if (status != ZM_OK) return status;
  }
  skip_blanks(c);
  if (c->at != c->end) return zmi_fail(ZM_ERROR_FORMAT, "its header goes on after the dict");
  for (size_t k = 0; k < ZMI_COUNT(keys); k++)
    if (!(seen & 1u << k)) return zmi_fail(ZM_ERROR_FORMAT, "its header has no '%s'", keys[k].key);
  if (!zmi_tensor_bytes(f->kind->stored, f->rank, f->shape, &f->bytes))
    return zmi_fail(ZM_ERROR_FORMAT, "the product of its shape is more than can be addressed");
  return ZM_OK;
}

static zm_status take_bytes(zmi_source *s, void *to, size_t size) {
  if (size > s->left)
    return zmi_fail(ZM_ERROR_FORMAT, "it ends inside its header, %zu bytes early: it is truncated or no .npy", size - s->left);
  zm_status status = s->read(s, to, size);
  if (status == ZM_OK) s->left -= size;
  return status;
}

static zm_status read_header(zmi_source *s, npy_facts *f) {
  uint8_t start[MAGIC + 2], length[4] = {0};
  zm_status status = take_bytes(s, start, sizeof start);
  if (status != ZM_OK) return status;
  if (memcmp(start, magic, MAGIC) != 0) return zmi_fail(ZM_ERROR_FORMAT, "it does not begin as a .npy does");
  if (start[MAGIC] < 1 || start[MAGIC] > 3 || start[MAGIC + 1] != 0)
    return zmi_fail(ZM_ERROR_FORMAT, "version %d.%d of .npy is not known, only 1.0, 2.0 and 3.0", start[MAGIC], start[MAGIC + 1]);
  status = take_bytes(s, length, start[MAGIC] == 1 ? 2 : 4);
  if (status != ZM_OK) return status;
  const size_t size = length[0] | (size_t)length[1] << 8 | (size_t)length[2] << 16 | (size_t)length[3] << 24;
  if (size > HEADER_LIMIT) return zmi_fail(ZM_ERROR_FORMAT, "a header of %zu bytes is beyond the limit of %d", size, HEADER_LIMIT);
  if (size > s->left) return zmi_fail(ZM_ERROR_FORMAT, "its header has %zu bytes, only %zu are there: it is truncated", size, s->left);
  char *text = zmi_malloc(size + 1);
  if (!text) return ZM_ERROR_MEMORY;
  status = take_bytes(s, text, size);
  if (status == ZM_OK) status = parse_dict(&(cursor){text, text + size}, f);
  zmi_free(text);
  return status;
}

zm_status zmi_npy_header(zmi_text *out, const zm_array *a) {
  const npy_kind *k = kinds;
  zmi_text dict = {0};
  char first[32];
  while (k->dtype != a->type.dtype) k++;
  const char *order = k->dtype == ZM_BF16 || zm_dtype_size(k->dtype) > 1 ? "<" : "|";
  zmi_text_add(&dict, "{'descr': '%s%s', 'fortran_order': False, 'shape': (", order, k->name);
  for (int i = 0; i < a->type.rank; i++) {
    zmi_text_add(&dict, "%s%lld%s", i ? " " : "", (long long)a->type.shape[i], i + 1 < a->type.rank || a->type.rank == 1 ? "," : "");
  }
  zmi_text_add(&dict, "), }");
  // As NumPy does it: room for the first dimension to grow, then blanks so that the data stands on a multiple of 64.
  if (a->type.rank > 0) {
    int digits = snprintf(first, sizeof first, "%lld", (long long)a->type.shape[0]);
    zmi_text_add(&dict, "%*s", FIRST_DIM_DIGITS - digits, "");
  }
  const size_t before = MAGIC + 4, short_of = ALIGNED - (before + dict.size + 1) % ALIGNED;
  zmi_text_add(&dict, "%*s\n", (int)short_of, "");
  const char start[4] = {1, 0, (char)(dict.size & 255), (char)(dict.size >> 8)};
  zmi_text_add_bytes(out, magic, MAGIC);
  zmi_text_add_bytes(out, start, sizeof start);
  zmi_text_add_bytes(out, zmi_text_str(&dict), dict.size);
  const bool failed = out->failed || dict.failed;
  zmi_text_release(&dict);
  return failed ? zmi_fail(ZM_ERROR_MEMORY, "out of memory for a header") : ZM_OK;
}

// ---- elements ----

static void swap_bytes(void *data, size_t count, size_t size) {
  for (size_t i = 0; i < count; i++) {
    if (size == 2) ((uint16_t *)data)[i] = __builtin_bswap16(((uint16_t *)data)[i]);
    if (size == 4) ((uint32_t *)data)[i] = __builtin_bswap32(((uint32_t *)data)[i]);
    if (size == 8) ((uint64_t *)data)[i] = __builtin_bswap64(((uint64_t *)data)[i]);
  }
}

// float64 comes in pieces: what is narrowed needs no second copy of the whole.
static zm_status read_narrowed(zmi_source *s, const npy_facts *f, float *to) {
  double piece[512];
  for (size_t at = 0, count = f->bytes / sizeof *piece; at < count;) {
    const size_t n = ZMI_MIN(count - at, ZMI_COUNT(piece));
    zm_status status = s->read(s, piece, n * sizeof *piece);
    if (status != ZM_OK) return status;
    if (f->swapped) swap_bytes(piece, n, sizeof *piece);
    for (size_t i = 0; i < n; i++) to[at + i] = (float)piece[i];
    at += n;
  }
  return ZM_OK;
}

static zm_status read_elements(zmi_source *s, const npy_facts *f, void *to) {
  const size_t size = zm_dtype_size(f->kind->dtype);
  if (f->kind->narrowed) return read_narrowed(s, f, to);
  zm_status status = f->bytes ? s->read(s, to, f->bytes) : ZM_OK;
  if (status == ZM_OK && f->swapped) swap_bytes(to, f->bytes / size, size);
  for (size_t i = 0; status == ZM_OK && f->kind->dtype == ZM_BOOL && i < f->bytes; i++) ((uint8_t *)to)[i] = ((uint8_t *)to)[i] != 0;
  return status;
}

static zm_array *read_array(zmi_source *s, npy_facts *f) {
  int64_t shape[ZM_MAX_RANK];
  for (int i = 0; i < f->rank; i++) shape[i] = f->shape[f->by_columns ? f->rank - 1 - i : i];
  const zmi_type type = zmi_type_of(f->kind->dtype, f->rank, shape);
  size_t bytes;
  if (!zmi_type_bytes(&type, &bytes)) {
    zmi_fail(ZM_ERROR_FORMAT, "the product of its shape is more than can be addressed");
    return NULL;
  }
  void *data = zmi_buffer_alloc(bytes);
  if (!data) return NULL;
  zm_array *a = read_elements(s, f, data) == ZM_OK ? zmi_buffer_leaf(&type, data) : NULL;
  if (!a) zmi_buffer_free(data, bytes);
  return a && f->by_columns && f->rank > 1 ? zm_transpose(a, NULL) : a;
}

zm_array *zmi_npy_read(zmi_source *s) {
  npy_facts f = {0};
  if (read_header(s, &f) != ZM_OK) return NULL;
  if (f.bytes > s->left) {
    zmi_fail(ZM_ERROR_FORMAT, "its shape and dtype need %zu bytes, %zu are there: it is truncated", f.bytes, s->left);
    return NULL;
  }
  if (f.bytes < s->left) {
    zmi_fail(ZM_ERROR_FORMAT, "its shape and dtype need %zu bytes, and %zu more follow; an .npy is read with one array", f.bytes,
             s->left - f.bytes);
    return NULL;
  }
  return read_array(s, &f);
}

// ---- files ----

typedef struct memory_source {
  zmi_source base;
  const uint8_t *at;
} memory_source;

static zm_status read_memory(zmi_source *s, void *to, size_t size) {
  memory_source *m = (memory_source *)s;
  memcpy(to, m->at, size); // the callers look at `left`
  m->at += size;
  return ZM_OK;
}

zm_array *zmi_npy_parse(const uint8_t *data, size_t size, const char *name) {
  memory_source m = {{read_memory, size}, data};
  zm_array *a = zmi_npy_read(&m.base);
  if (!a) zmi_fail_within("%s", name);
  return a;
}

zm_array *zm_load_npy(const char *path) {
  zmi_mapping map;
  if (!path) {
    zmi_fail(ZM_ERROR_ARGUMENT, "load_npy: the path is NULL");
    return NULL;
  }
  if (zmi_map_file(path, &map) != ZM_OK) return NULL;
  zm_array *a = zmi_npy_parse(map.data, map.size, path);
  zmi_unmap_file(&map);
  return a;
}

zm_status zm_save_npy(const char *path, zm_array *a) {
  zmi_text header = {0};
  size_t bytes;
  if (!zmi_arrays_ready("save_npy", path, NULL, &a, 1)) return zm_last_status();
  zmi_type_bytes(&a->type, &bytes);
  zm_status status = zmi_npy_header(&header, a);
  zmi_writer *w = status == ZM_OK ? zmi_writer_open(path) : NULL;
  if (!w) {
    zmi_text_release(&header);
    return zm_last_status();
  }
  status = zmi_writer_write(w, header.data, header.size);
  zmi_text_release(&header);
  if (status == ZM_OK && bytes) status = zmi_writer_write(w, a->data, bytes);
  if (status == ZM_OK) return zmi_writer_publish(w);
  zmi_writer_abandon(w);
  return status;
}
