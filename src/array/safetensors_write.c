// Writing safetensors: the header is made of the tensors' facts, the data follows in the same order, and the file appears under its name
// only when every byte is there.
#include "array/safetensors.h"

#include <string.h>

struct zmi_tensors_writer {
  zmi_writer *file;
  char *path;
  unsigned long long missing; // bytes of data still to come
};

// Length of the UTF-8 sequence at s, 0 if it is malformed (overlong, surrogate, out of range, cut).
static size_t sequence_size(const unsigned char *s) {
  if (s[0] < 0x80) return 1;
  static const struct {
    unsigned char first, last, low, high; // range of the first byte, range of the second
    size_t size;
  } forms[] = {
    {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3}, {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3},
    {0xEE, 0xEF, 0x80, 0xBF, 3}, {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
  };
  for (size_t f = 0; f < ZMI_COUNT(forms); f++) {
    if (s[0] < forms[f].first || s[0] > forms[f].last) continue;
    if (s[1] < forms[f].low || s[1] > forms[f].high) return 0;
    for (size_t i = 2; i < forms[f].size; i++)
      if ((s[i] & 0xC0) != 0x80) return 0;
    return forms[f].size;
  }
  return 0;
}

static zm_status add_json_string(zmi_text *out, const char *s) {
  zmi_text_add_bytes(out, "\"", 1);
  for (const unsigned char *c = (const unsigned char *)s; *c;) {
    size_t size = sequence_size(c);
    if (size == 0)
      return zmi_fail(ZM_ERROR_ARGUMENT, "a name or text is not valid UTF-8 at its byte %td", c - (const unsigned char *)s);
    if (*c == '"' || *c == '\\') zmi_text_add(out, "\\%c", *c);
    else if (*c < 0x20) zmi_text_add(out, "\\u%04x", (unsigned)*c);
    else zmi_text_add_bytes(out, c, size);
    c += size;
  }
  zmi_text_add_bytes(out, "\"", 1);
  return ZM_OK;
}

static const char *kind_name(zm_dtype dtype) {
  for (const zmi_tensor_kind *k = zmi_tensor_kinds; k->name; k++)
    if (k->dtype == dtype) return k->name;
  return NULL;
}

static zm_status add_tensor(zmi_text *out, const zmi_tensor *t, zmi_map *names, unsigned long long *offset) {
  size_t bytes;
  if (!t->name || strcmp(t->name, "__metadata__") == 0)
    return zmi_fail(ZM_ERROR_ARGUMENT, "a tensor needs a name other than \"__metadata__\"");
  if (zmi_map_get(names, t->name, strlen(t->name), NULL))
    return zmi_fail(ZM_ERROR_ARGUMENT, "two tensors have the name \"%.200s\"", t->name);
  if (!zmi_map_put(names, t->name, strlen(t->name), 0)) return ZM_ERROR_MEMORY;
  const char *kind = kind_name(t->dtype);
  if (!kind) return zmi_fail(ZM_ERROR_ARGUMENT, "tensor \"%.200s\": %d is not a dtype", t->name, (int)t->dtype);
  if (t->rank < 0 || t->rank > ZM_MAX_RANK)
    return zmi_fail(ZM_ERROR_ARGUMENT, "tensor \"%.200s\": rank %d is not from 0 to %d", t->name, t->rank, ZM_MAX_RANK);
  if (!zmi_tensor_bytes(t->dtype, t->rank, t->shape, &bytes) || bytes > INT64_MAX - *offset)
    return zmi_fail(ZM_ERROR_ARGUMENT, "tensor \"%.200s\": its shape has a negative dim or more elements than can be addressed", t->name);
  if (bytes != t->bytes)
    return zmi_fail(ZM_ERROR_ARGUMENT, "tensor \"%.200s\": its shape and dtype need %zu bytes, it says %zu", t->name, bytes, t->bytes);
  zmi_text_add(out, ",");
  zm_status status = add_json_string(out, t->name);
  if (status != ZM_OK) return status;
  zmi_text_add(out, ":{\"dtype\":\"%s\",\"shape\":[", kind);
  for (int i = 0; i < t->rank; i++) zmi_text_add(out, "%s%lld", i ? "," : "", (long long)t->shape[i]);
  zmi_text_add(out, "],\"data_offsets\":[%llu,%llu]}", *offset, *offset + bytes);
  *offset += bytes;
  return out->failed ? ZM_ERROR_MEMORY : ZM_OK;
}

static zm_status add_metadata(zmi_text *out, const char *const *metadata) {
  static const char *const usual[] = {"format", "mlx", NULL};
  if (!metadata) metadata = usual;
  zmi_text_add(out, "{\"__metadata__\":{");
  for (size_t i = 0; metadata[i]; i += 2) {
    if (!metadata[i + 1]) return zmi_fail(ZM_ERROR_ARGUMENT, "key %zu of the metadata has no text", i / 2);
    for (size_t k = 0; k < i; k += 2)
      if (strcmp(metadata[k], metadata[i]) == 0)
        return zmi_fail(ZM_ERROR_ARGUMENT, "the metadata has the key \"%.200s\" twice", metadata[i]);
    if (i) zmi_text_add(out, ",");
    zm_status status = add_json_string(out, metadata[i]);
    zmi_text_add(out, ":");
    if (status == ZM_OK) status = add_json_string(out, metadata[i + 1]);
    if (status != ZM_OK) return status;
  }
  zmi_text_add(out, "}");
  return ZM_OK;
}

static zm_status make_header(zmi_text *out, size_t count, const zmi_tensor *tensors, const char *const *metadata,
                             unsigned long long *total) {
  zmi_map *names = zmi_map_new();
  if (!names) return ZM_ERROR_MEMORY;
  zm_status status = add_metadata(out, metadata);
  *total = 0;
  for (size_t i = 0; i < count && status == ZM_OK; i++) status = add_tensor(out, &tensors[i], names, total);
  zmi_map_free(names);
  if (status != ZM_OK) return status;
  zmi_text_add(out, "}");
  while (out->size % 8 != 0 && !out->failed) zmi_text_add_bytes(out, " ", 1); // data starts on a multiple of 8
  if (out->failed) return ZM_ERROR_MEMORY;
  if (out->size > ZMI_TENSORS_HEADER_LIMIT)
    return zmi_fail(ZM_ERROR_LIMIT, "the header of %zu tensors has %zu bytes, beyond the limit of %d", count, out->size,
                    ZMI_TENSORS_HEADER_LIMIT);
  return ZM_OK;
}

static zm_status write_header(zmi_tensors_writer *w, const zmi_text *header) {
  uint8_t prefix[8];
  for (size_t i = 0; i < sizeof prefix; i++) prefix[i] = (uint8_t)((uint64_t)header->size >> (8 * i));
  zm_status status = zmi_writer_write(w->file, prefix, sizeof prefix);
  return status == ZM_OK ? zmi_writer_write(w->file, header->data, header->size) : status;
}

zmi_tensors_writer *zmi_tensors_writer_open(const char *path, size_t count, const zmi_tensor *tensors) {
  return zmi_tensors_writer_open_with(path, count, tensors, NULL);
}

zmi_tensors_writer *zmi_tensors_writer_open_with(const char *path, size_t count, const zmi_tensor *tensors, const char *const *metadata) {
  zmi_text header = {0};
  zmi_tensors_writer *w = zmi_calloc(1, sizeof *w);
  if (!w) return NULL;
  zm_status status = make_header(&header, count, tensors, metadata, &w->missing);
  if (status != ZM_OK) status = zmi_fail_within("%s", path);
  if (status == ZM_OK && !(w->path = zmi_strdup(path))) status = ZM_ERROR_MEMORY;
  if (status == ZM_OK && !(w->file = zmi_writer_open(path))) status = ZM_ERROR_FILE;
  if (status == ZM_OK) status = write_header(w, &header);
  zmi_text_release(&header);
  if (status == ZM_OK) return w;
  zmi_tensors_writer_abandon(w);
  return NULL;
}

zm_status zmi_tensors_writer_write(zmi_tensors_writer *w, const void *data, size_t size) {
  if (size > w->missing)
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: %zu bytes of data for tensors that miss only %llu", w->path, size, w->missing);
  zm_status status = zmi_writer_write(w->file, data, size);
  if (status == ZM_OK) w->missing -= size;
  return status;
}

zm_status zmi_tensors_writer_publish(zmi_tensors_writer *w) {
  zm_status status;
  if (w->missing > 0) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "%s: not published, %llu bytes of its tensors were not written", w->path, w->missing);
  } else {
    status = zmi_writer_publish(w->file);
    w->file = NULL;
  }
  zmi_tensors_writer_abandon(w);
  return status;
}

void zmi_tensors_writer_abandon(zmi_tensors_writer *w) {
  if (!w) return;
  zmi_writer_abandon(w->file);
  zmi_free(w->path);
  zmi_free(w);
}
