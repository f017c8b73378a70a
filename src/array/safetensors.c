// Reading safetensors: one file, or the shards of a folder, mapped and never copied. A file is 8 bytes of header size (little-endian), a
// JSON header (name -> dtype, shape, data_offsets) and the data. Nothing in a header is believed before it was checked.
#include "array/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { PREFIX = 8 };

const zmi_tensor_kind zmi_tensor_kinds[] = {
  {"BOOL", ZM_BOOL}, {"U8", ZM_U8},   {"U16", ZM_U16}, {"U32", ZM_U32},   {"U64", ZM_U64},  {"I8", ZM_I8},          {"I16", ZM_I16},
  {"I32", ZM_I32},   {"I64", ZM_I64}, {"F16", ZM_F16}, {"BF16", ZM_BF16}, {"F32", ZM_F32},  {"F8_E4M3", ZM_U8},     {"F8_E5M2", ZM_U8},
  {"F8_E8M0", ZM_U8}, {NULL, ZM_DTYPE_DEFAULT},
};

typedef struct tensor_file {
  char *path;
  zmi_mapping map;
  bool mapped; // else the bytes are the caller's
} tensor_file;

struct zmi_tensors {
  zmi_tensor *tensors; // sorted by name
  size_t count, capacity;
  zmi_map *by_name;
  tensor_file *files;
  size_t file_count, file_capacity;
  zmi_tensor_note *notes;
  size_t note_count, note_capacity;
};

// A place in a file's data, for the check of overlaps.
typedef struct span {
  unsigned long long begin, end;
  const char *name;
} span;

const char *zmi_tensor_shown(const char *name, char buffer[ZMI_SHOWN_NAME]) {
  size_t size = strlen(name), kept = ZMI_MIN(size, (size_t)ZMI_SHOWN_NAME - 4);
  while (kept < size && kept > 0 && ((unsigned char)name[kept] & 0xC0) == 0x80) kept--;
  for (size_t i = 0; i < kept; i++) buffer[i] = (unsigned char)name[i] < 0x20 || name[i] == 0x7F ? '?' : name[i];
  memcpy(buffer + kept, kept < size ? "..." : "", kept < size ? 4 : 1);
  return buffer;
}

#define FAIL_TENSOR(file, name, format, ...) \
  zmi_fail(ZM_ERROR_FORMAT, "%s: tensor \"%s\": " format, (file)->path, ZMI_SHOWN(name), __VA_ARGS__)

bool zmi_tensor_bytes(zm_dtype dtype, int rank, const int64_t *shape, size_t *bytes) {
  size_t extent = zm_dtype_size(dtype), product = extent; // extent: a zero dim counts as one, so that strides can't overflow either
  for (int i = 0; i < rank; i++) {
    if (shape[i] < 0 || zmi_mul_overflow(extent, shape[i] ? (size_t)shape[i] : 1, &extent)) return false;
    product *= (size_t)shape[i];
  }
  *bytes = product;
  return extent <= INT64_MAX;
}

static json_t *parse_json(const char *text, size_t size, const char *path, const char *what) {
  json_error_t error;
  errno = 0;
  json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
  if (!json && errno == ENOMEM) { // jansson itself then names any error that its state suggests
    zmi_fail(ZM_ERROR_MEMORY, "out of memory while reading %s", path);
  } else if (!json) {
    zmi_fail(ZM_ERROR_FORMAT, "%s: %s is not valid JSON: %s (line %d, column %d)", path, what, ZMI_SHOWN(error.text),
             error.line, error.column);
  } else if (!json_is_object(json)) {
    zmi_fail(ZM_ERROR_FORMAT, "%s: %s is not a JSON object", path, what);
    json_decref(json);
    return NULL;
  }
  return json;
}

// ---- one tensor of a header ----

static zm_status parse_dtype(const tensor_file *file, const char *name, const json_t *entry, zm_dtype *dtype) {
  const json_t *value = json_object_get(entry, "dtype");
  if (!json_is_string(value)) return FAIL_TENSOR(file, name, "%s", "it has no \"dtype\" text");
  for (const zmi_tensor_kind *k = zmi_tensor_kinds; k->name; k++) {
    if (strcmp(k->name, json_string_value(value)) != 0) continue;
    *dtype = k->dtype;
    return ZM_OK;
  }
  FAIL_TENSOR(file, name, "dtype \"%s\" is not known; convert the tensor to F32, F16, BF16 or an integer dtype",
              ZMI_SHOWN(json_string_value(value)));
  return ZM_ERROR_FORMAT;
}

static zm_status parse_shape(const tensor_file *file, const char *name, const json_t *entry, zmi_tensor *t) {
  const json_t *value = json_object_get(entry, "shape");
  if (!json_is_array(value)) return FAIL_TENSOR(file, name, "%s", "it has no \"shape\" list");
  size_t rank = json_array_size(value);
  if (rank > ZM_MAX_RANK) return FAIL_TENSOR(file, name, "its shape has %zu dims, at most %d are supported", rank, ZM_MAX_RANK);
  for (size_t i = 0; i < rank; i++) {
    const json_t *dim = json_array_get(value, i);
    if (!json_is_integer(dim)) return FAIL_TENSOR(file, name, "dim %zu of its shape is not a whole number", i);
    t->shape[i] = json_integer_value(dim);
    if (t->shape[i] < 0) return FAIL_TENSOR(file, name, "dim %zu of its shape is negative (%lld)", i, (long long)t->shape[i]);
  }
  t->rank = (int)rank;
  if (!zmi_tensor_bytes(t->dtype, t->rank, t->shape, &t->bytes))
    return FAIL_TENSOR(file, name, "%s", "the product of its shape is more than can be addressed");
  return ZM_OK;
}

static zm_status parse_offsets(const tensor_file *file, const char *name, const json_t *entry, size_t data_size, const zmi_tensor *t,
                               span *place) {
  const json_t *value = json_object_get(entry, "data_offsets");
  unsigned long long at[2];
  if (!json_is_array(value) || json_array_size(value) != 2)
    return FAIL_TENSOR(file, name, "%s", "it has no \"data_offsets\" list of two numbers");
  for (size_t i = 0; i < 2; i++) {
    const json_t *number = json_array_get(value, i);
    if (!json_is_integer(number) || json_integer_value(number) < 0)
      return FAIL_TENSOR(file, name, "number %zu of its data_offsets is not a whole number from 0 up", i);
    at[i] = (unsigned long long)json_integer_value(number);
  }
  if (at[0] > at[1]) return FAIL_TENSOR(file, name, "its data begins at byte %llu, after its end at %llu", at[0], at[1]);
  if (at[1] > data_size)
    return FAIL_TENSOR(file, name, "its data ends at byte %llu, but the file has only %zu bytes of data: it is truncated, fetch it again",
                       at[1], data_size);
  if (at[1] - at[0] != t->bytes)
    return FAIL_TENSOR(file, name, "its shape and dtype need %zu bytes, its data_offsets say %llu", t->bytes, at[1] - at[0]);
  *place = (span){at[0], at[1], NULL};
  return ZM_OK;
}

static zm_status parse_tensor(zmi_tensors *all, const tensor_file *file, const char *name, const json_t *entry, size_t data_start,
                              span *place) {
  zmi_tensor t = {.file = (int)(file - all->files)};
  if (!json_is_object(entry)) return FAIL_TENSOR(file, name, "%s", "its header entry is not an object");
  zm_status status = parse_dtype(file, name, entry, &t.dtype);
  if (status == ZM_OK) status = parse_shape(file, name, entry, &t);
  if (status == ZM_OK) status = parse_offsets(file, name, entry, file->map.size - data_start, &t, place);
  if (status != ZM_OK) return status;
  t.data = file->map.data + data_start + place->begin;
  if (!ZMI_GROW(all->tensors, all->capacity, all->count + 1)) return ZM_ERROR_MEMORY;
  t.name = zmi_strdup(name);
  if (!t.name) return ZM_ERROR_MEMORY;
  all->tensors[all->count++] = t;
  place->name = t.name;
  return ZM_OK;
}

// ---- one file ----

static int by_begin(const void *a, const void *b) {
  const span *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return strcmp(x->name, y->name);
}

static zm_status check_overlaps(const tensor_file *file, span *spans, size_t count) {
  size_t kept = 0; // empty tensors may lie anywhere
  for (size_t i = 0; i < count; i++)
    if (spans[i].begin < spans[i].end) spans[kept++] = spans[i];
  qsort(spans, kept, sizeof *spans, by_begin);
  for (size_t i = 1; i < kept; i++) {
    if (spans[i].begin >= spans[i - 1].end) continue;
    return FAIL_TENSOR(file, spans[i].name, "its data overlaps that of \"%s\" (bytes %llu to %llu)",
                       ZMI_SHOWN(spans[i - 1].name), spans[i].begin, ZMI_MIN(spans[i].end, spans[i - 1].end));
  }
  return ZM_OK;
}

static zm_status keep_notes(zmi_tensors *all, json_t *metadata) {
  const char *key;
  json_t *text;
  json_object_foreach(metadata, key, text) {
    if (!json_is_string(text)) continue;
    if (!ZMI_GROW(all->notes, all->note_capacity, all->note_count + 1)) return ZM_ERROR_MEMORY;
    zmi_tensor_note *n = &all->notes[all->note_count++];
    *n = (zmi_tensor_note){zmi_strdup(key), zmi_strdup(json_string_value(text))};
    if (!n->key || !n->text) return ZM_ERROR_MEMORY;
  }
  return ZM_OK;
}

static zm_status parse_entries(zmi_tensors *all, const tensor_file *file, json_t *header, size_t data_start) {
  const char *name;
  json_t *entry;
  size_t count = 0;
  span *spans = zmi_calloc(json_object_size(header), sizeof *spans);
  if (!spans) return ZM_ERROR_MEMORY;
  zm_status status = ZM_OK;
  json_object_foreach(header, name, entry) {
    if (strcmp(name, "__metadata__") == 0) {
      if (!json_is_object(entry) && !json_is_null(entry)) // MLX writes null where there is none
        status = zmi_fail(ZM_ERROR_FORMAT, "%s: __metadata__ of the header is not an object", file->path);
      else if (json_is_object(entry))
        status = keep_notes(all, entry);
    } else {
      status = parse_tensor(all, file, name, entry, data_start, &spans[count]);
      count++;
    }
    if (status != ZM_OK) break;
  }
  if (status == ZM_OK) status = check_overlaps(file, spans, count);
  zmi_free(spans);
  return status;
}

static zm_status parse_file(zmi_tensors *all, const tensor_file *file) {
  static const char pointer[] = "version https://git-lfs";
  const uint8_t *data = file->map.data;
  size_t size = file->map.size;
  unsigned long long header_size = 0;
  if (size >= sizeof pointer - 1 && memcmp(data, pointer, sizeof pointer - 1) == 0)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: it is a Git LFS pointer, not the tensors; fetch the real file (git lfs pull)", file->path);
  if (size < PREFIX)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: %zu bytes are no safetensors file: it is truncated, fetch it again", file->path, size);
  for (int i = PREFIX - 1; i >= 0; i--) header_size = header_size << 8 | data[i];
  if (header_size > ZMI_TENSORS_HEADER_LIMIT)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: a header of %llu bytes is beyond the limit of %d; is it a safetensors file?", file->path,
                    header_size, ZMI_TENSORS_HEADER_LIMIT);
  if (header_size > size - PREFIX)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: the header has %llu bytes, the file only %zu: it is truncated, fetch it again", file->path,
                    header_size, size);
  if (header_size == 0 || data[PREFIX] != '{')
    return zmi_fail(ZM_ERROR_FORMAT, "%s: the header does not start with '{'; is it a safetensors file?", file->path);
  json_t *header = parse_json((const char *)data + PREFIX, (size_t)header_size, file->path, "the header");
  if (!header) return zm_last_status();
  zm_status status = parse_entries(all, file, header, PREFIX + (size_t)header_size);
  json_decref(header);
  return status;
}

// Adds a file of mapped or borrowed bytes; the set owns the mapping from here on, also on failure.
static zm_status add_file(zmi_tensors *all, const char *path, zmi_mapping map, bool mapped) {
  char *copy = ZMI_GROW(all->files, all->file_capacity, all->file_count + 1) ? zmi_strdup(path) : NULL;
  if (!copy) {
    if (mapped) zmi_unmap_file(&map);
    return ZM_ERROR_MEMORY;
  }
  all->files[all->file_count++] = (tensor_file){copy, map, mapped};
  return parse_file(all, &all->files[all->file_count - 1]);
}

static zm_status map_and_add(zmi_tensors *all, const char *path) {
  zmi_mapping map;
  zm_status status = zmi_map_file(path, &map);
  return status == ZM_OK ? add_file(all, path, map, true) : status;
}

// ---- all files together ----

static int by_tensor_name(const void *a, const void *b) {
  return strcmp(((const zmi_tensor *)a)->name, ((const zmi_tensor *)b)->name);
}

static zm_status finish(zmi_tensors *all) {
  if (all->count) qsort(all->tensors, all->count, sizeof *all->tensors, by_tensor_name);
  for (size_t i = 0; i < all->count; i++) {
    const zmi_tensor *t = &all->tensors[i];
    if (i > 0 && strcmp(t->name, t[-1].name) == 0)
      return FAIL_TENSOR(&all->files[t->file], t->name, "it is also in %s; a name may be in one file only", all->files[t[-1].file].path);
    if (!zmi_map_put(all->by_name, t->name, strlen(t->name), (int64_t)i)) return ZM_ERROR_MEMORY;
  }
  return ZM_OK;
}

// The shard's position among the files; opens it if it is new. -1 on failure.
static int64_t shard_of(zmi_tensors *all, zmi_map *opened, const char *folder, const char *index_path, const char *shard) {
  int64_t at;
  char *path;
  if (zmi_map_get(opened, shard, strlen(shard), &at)) return at;
  if (!*shard || strchr(shard, '/') || strcmp(shard, "..") == 0 || strcmp(shard, ".") == 0) {
    zmi_fail(ZM_ERROR_FORMAT, "%s: \"%s\" is not the name of a file beside it", index_path, ZMI_SHOWN(shard));
    return -1;
  }
  at = (int64_t)all->file_count;
  if (!zmi_map_put(opened, shard, strlen(shard), at) || !(path = zmi_path_join(folder, shard))) return -1;
  zm_status status = ZM_OK;
  if (zmi_path_exists(path)) {
    status = map_and_add(all, path);
  } else {
    status = zmi_fail(ZM_ERROR_FILE, "%s: the shard %s is missing; fetch the model again", index_path,
                      ZMI_SHOWN(shard));
  }
  zmi_free(path);
  return status == ZM_OK ? at : -1;
}

// Every tensor that the index names must be in the shard that it names.
static zm_status check_index(const zmi_tensors *all, const zmi_map *opened, const char *index_path, json_t *weights) {
  const char *name;
  json_t *shard;
  json_object_foreach(weights, name, shard) {
    int64_t file = -1;
    const zmi_tensor *t = zmi_tensors_find(all, name);
    zmi_map_get(opened, json_string_value(shard), json_string_length(shard), &file);
    if (!t || t->file != file)
      return zmi_fail(ZM_ERROR_FORMAT, "%s: tensor \"%s\" is not in %s as the index says; fetch the model again", index_path,
                      ZMI_SHOWN(name), all->files[file].path);
  }
  return ZM_OK;
}

static zm_status open_shards(zmi_tensors *all, const char *folder, const char *index_path, json_t *index, zmi_map *opened) {
  const char *name;
  json_t *shard, *weights = json_object_get(index, "weight_map");
  if (!json_is_object(weights) || json_object_size(weights) == 0)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: it has no \"weight_map\" with the shard of each tensor", index_path);
  json_object_foreach(weights, name, shard) {
    if (!json_is_string(shard))
      return zmi_fail(ZM_ERROR_FORMAT, "%s: the shard of tensor \"%s\" is not a text", index_path, ZMI_SHOWN(name));
    if (shard_of(all, opened, folder, index_path, json_string_value(shard)) < 0) return zm_last_status();
  }
  zm_status status = finish(all);
  return status == ZM_OK ? check_index(all, opened, index_path, weights) : status;
}

static zm_status open_index(zmi_tensors *all, const char *folder, const char *index_path) {
  char *text;
  size_t size;
  zm_status status = zmi_read_file(index_path, ZMI_TENSORS_HEADER_LIMIT, &text, &size);
  if (status != ZM_OK) return status;
  json_t *index = parse_json(text, size, index_path, "the index");
  zmi_free(text);
  if (!index) return zm_last_status();
  zmi_map *opened = zmi_map_new();
  status = opened ? open_shards(all, folder, index_path, index, opened) : ZM_ERROR_MEMORY;
  zmi_map_free(opened);
  json_decref(index);
  return status;
}

static zm_status open_folder(zmi_tensors *all, const char *folder) {
  zm_status status = ZM_ERROR_MEMORY;
  char *single = zmi_path_join(folder, "model.safetensors");
  char *index = single ? zmi_path_join(folder, "model.safetensors.index.json") : NULL;
  if (index && zmi_path_exists(single)) {
    status = map_and_add(all, single);
    if (status == ZM_OK) status = finish(all);
  } else if (index && zmi_path_exists(index)) {
    status = open_index(all, folder, index);
  } else if (index) {
    status = zmi_fail(ZM_ERROR_FILE, "%s: it holds neither model.safetensors nor model.safetensors.index.json; name a model's folder",
                      folder);
  }
  zmi_free(single);
  zmi_free(index);
  return status;
}

static zmi_tensors *new_tensors(void) {
  zmi_tensors *all = zmi_calloc(1, sizeof *all);
  if (!all) return NULL;
  all->by_name = zmi_map_new();
  if (all->by_name) return all;
  zmi_free(all);
  return NULL;
}

static zmi_tensors *keep_if(zm_status status, zmi_tensors *all) {
  if (status == ZM_OK) return all;
  zmi_tensors_close(all);
  return NULL;
}

zmi_tensors *zmi_tensors_open(const char *path) {
  zmi_tensors *all = new_tensors();
  if (!all) return NULL;
  if (zmi_path_is_folder(path)) return keep_if(open_folder(all, path), all);
  zm_status status = map_and_add(all, path);
  return keep_if(status == ZM_OK ? finish(all) : status, all);
}

zmi_tensors *zmi_tensors_parse(const uint8_t *data, size_t size, const char *name) {
  zmi_tensors *all = new_tensors();
  if (!all) return NULL;
  zm_status status = add_file(all, name, (zmi_mapping){data, size}, false);
  return keep_if(status == ZM_OK ? finish(all) : status, all);
}

zmi_tensor_note *zmi_tensors_take_notes(zmi_tensors *t, size_t *count) {
  zmi_tensor_note *notes = t->notes;
  *count = t->note_count;
  t->notes = NULL;
  t->note_count = t->note_capacity = 0;
  return notes;
}

void zmi_tensor_notes_free(zmi_tensor_note *notes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    zmi_free(notes[i].key);
    zmi_free(notes[i].text);
  }
  zmi_free(notes);
}

void zmi_tensors_close(zmi_tensors *t) {
  if (!t) return;
  zmi_tensor_notes_free(t->notes, t->note_count);
  for (size_t i = 0; i < t->count; i++) zmi_free((char *)(uintptr_t)t->tensors[i].name);
  for (size_t i = 0; i < t->file_count; i++) {
    zmi_free(t->files[i].path);
    if (t->files[i].mapped) zmi_unmap_file(&t->files[i].map);
  }
  zmi_free(t->tensors);
  zmi_free(t->files);
  zmi_map_free(t->by_name);
  zmi_free(t);
}

size_t zmi_tensors_count(const zmi_tensors *t) { return t->count; }
const zmi_tensor *zmi_tensors_at(const zmi_tensors *t, size_t i) { return i < t->count ? &t->tensors[i] : NULL; }

const zmi_tensor *zmi_tensors_find(const zmi_tensors *t, const char *name) {
  int64_t at;
  return zmi_map_get(t->by_name, name, strlen(name), &at) ? &t->tensors[at] : NULL;
}

const char *zmi_tensors_path(const zmi_tensors *t, int file) {
  return file >= 0 && (size_t)file < t->file_count ? t->files[file].path : "";
}

void zmi_tensors_drop(const zmi_tensors *t, const zmi_tensor *tensor) {
  const tensor_file *file = &t->files[tensor->file];
  if (file->mapped) zmi_mapping_drop(&file->map, (size_t)(tensor->data - file->map.data), tensor->bytes);
}
