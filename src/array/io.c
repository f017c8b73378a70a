// Sets of named arrays, and safetensors files into and from them.
#include "array/io.h"
#include "array/ops/ops.h"

#include <stdlib.h>
#include <string.h>

typedef struct named {
  char *name;
  zm_array *array; // one reference
} named;

struct zm_arrays {
  named *list;
  size_t count, capacity;
  zmi_map *by_name;
  zmi_tensor_note *notes;
  size_t note_count;
};

// ---- sets ----

zm_arrays *zmi_arrays_new(void) {
  zm_arrays *set = zmi_calloc(1, sizeof *set);
  if (!set) return NULL;
  set->by_name = zmi_map_new();
  if (set->by_name) return set;
  zmi_free(set);
  return NULL;
}

zm_status zmi_arrays_add(zm_arrays *set, const char *name, size_t name_size, zm_array *a) {
  if (!a) return zm_last_status();
  if (zmi_map_get(set->by_name, name, name_size, NULL)) return zmi_fail(ZM_ERROR_FORMAT, "two arrays have this name");
  if (!ZMI_GROW(set->list, set->capacity, set->count + 1)) return ZM_ERROR_MEMORY;
  char *copy = zmi_malloc(name_size + 1);
  if (!copy) return ZM_ERROR_MEMORY;
  if (name_size) memcpy(copy, name, name_size);
  copy[name_size] = 0;
  set->list[set->count++] = (named){copy, zmi_array_retain(a)};
  return zmi_map_put(set->by_name, name, name_size, (int64_t)set->count - 1) ? ZM_OK : ZM_ERROR_MEMORY;
}

zm_arrays *zmi_arrays_finish(zm_scope *scope, zm_arrays *set, zm_status status) {
  for (size_t i = 0; status == ZM_OK && i < set->count; i++) {
    if (!zm_scope_return(scope, set->list[i].array)) status = zm_last_status();
  }
  zm_scope_close(scope);
  if (status == ZM_OK) return set;
  zm_arrays_free(set);
  return NULL;
}

void zm_arrays_free(zm_arrays *set) {
  if (!set) return;
  for (size_t i = 0; i < set->count; i++) {
    zmi_free(set->list[i].name);
    zmi_array_release(set->list[i].array);
  }
  zmi_tensor_notes_free(set->notes, set->note_count);
  zmi_free(set->list);
  zmi_map_free(set->by_name);
  zmi_free(set);
}

size_t zm_arrays_count(const zm_arrays *set) {
  return set ? set->count : 0;
}

const char *zm_arrays_name(const zm_arrays *set, size_t i) {
  return set && i < set->count ? set->list[i].name : NULL;
}

zm_array *zm_arrays_at(const zm_arrays *set, size_t i) {
  if (set && i < set->count) return set->list[i].array;
  if (set) zmi_fail(ZM_ERROR_ARGUMENT, "arrays_at: there is no array %zu, only %zu", i, set->count);
  return NULL;
}

static const named *find(const zm_arrays *set, const char *name) {
  int64_t at;
  return set && name && zmi_map_get(set->by_name, name, strlen(name), &at) ? &set->list[at] : NULL;
}

zm_array *zm_arrays_find(const zm_arrays *set, const char *name) {
  const named *n = find(set, name);
  if (!n && set) {
    zmi_fail(ZM_ERROR_ARGUMENT, "arrays_find: none of the %zu arrays is named \"%s\"", set->count, name ? ZMI_SHOWN(name) : "NULL");
  }
  return n ? n->array : NULL;
}

bool zm_arrays_has(const zm_arrays *set, const char *name) {
  return find(set, name) != NULL;
}

const char *zm_arrays_metadata(const zm_arrays *set, const char *key) {
  for (size_t i = 0; set && key && i < set->note_count; i++)
    if (strcmp(set->notes[i].key, key) == 0) return set->notes[i].text;
  return NULL;
}

const char *zm_arrays_metadata_key(const zm_arrays *set, size_t i) {
  return set && i < set->note_count ? set->notes[i].key : NULL;
}

bool zmi_arrays_ready(const char *function, const char *path, const char *const *names, zm_array *const *arrays, size_t count) {
  if (!path || (count && !arrays)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s is NULL", function, path ? "the list of arrays" : "the path");
    return false;
  }
  for (size_t i = 0; i < count; i++) {
    if (!zmi_present(function, 1, &arrays[i])) return false;
    if (!names || names[i]) continue;
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: name %zu is NULL", function, i);
    return false;
  }
  zm_status status = count ? zm_eval(arrays, count) : ZM_OK;
  for (size_t i = 0; i < count && status == ZM_OK; i++) status = zmi_fetch(arrays[i]);
  return status == ZM_OK;
}

// ---- safetensors ----

static zm_array *array_of(const zmi_tensor *t) {
  const zmi_type type = zmi_type_of(t->dtype, t->rank, t->shape);
  uint8_t *data = zmi_buffer_alloc(t->bytes);
  if (!data) return NULL;
  if (t->bytes) memcpy(data, t->data, t->bytes);
  for (size_t i = 0; t->dtype == ZM_BOOL && i < t->bytes; i++) data[i] = data[i] != 0;
  zm_array *a = zmi_buffer_leaf(&type, data);
  if (!a) zmi_buffer_free(data, t->bytes);
  return a;
}

zm_arrays *zm_load_safetensors(const char *path) {
  if (!path) {
    zmi_fail(ZM_ERROR_ARGUMENT, "load_safetensors: the path is NULL");
    return NULL;
  }
  zmi_tensors *file = zmi_tensors_open(path);
  zm_scope *scope = file ? zm_scope_open() : NULL;
  zm_arrays *set = scope ? zmi_arrays_new() : NULL;
  zm_status status = set ? ZM_OK : zm_last_status();
  for (size_t i = 0; status == ZM_OK && i < zmi_tensors_count(file); i++) {
    const zmi_tensor *t = zmi_tensors_at(file, i);
    status = zmi_arrays_add(set, t->name, strlen(t->name), array_of(t));
    zmi_tensors_drop(file, t);
  }
  if (status == ZM_OK) set->notes = zmi_tensors_take_notes(file, &set->note_count);
  if (file) zmi_tensors_close(file);
  return zmi_arrays_finish(scope, set, status);
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const zmi_tensor *)a)->name, ((const zmi_tensor *)b)->name);
}

static zm_status write_tensors(const char *path, zmi_tensor *tensors, size_t count, const char *const *metadata) {
  zmi_tensors_writer *w = zmi_tensors_writer_open_with(path, count, tensors, metadata);
  if (!w) return zm_last_status();
  for (size_t i = 0; i < count; i++) {
    zm_status status = zmi_tensors_writer_write(w, tensors[i].data, tensors[i].bytes);
    if (status == ZM_OK) continue;
    zmi_tensors_writer_abandon(w);
    return status;
  }
  return zmi_tensors_writer_publish(w);
}

zm_status zm_save_safetensors(const char *path, const char *const *names, zm_array *const *arrays, size_t count,
                              const char *const *metadata) {
  if (count && !names) return zmi_fail(ZM_ERROR_ARGUMENT, "save_safetensors: the list of names is NULL");
  if (!zmi_arrays_ready("save_safetensors", path, names, arrays, count)) return zm_last_status();
  zmi_tensor *tensors = zmi_calloc(count + 1, sizeof *tensors);
  if (!tensors) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < count; i++) {
    const zmi_type *t = &arrays[i]->type;
    tensors[i] = (zmi_tensor){.name = names[i], .dtype = t->dtype, .rank = t->rank, .data = arrays[i]->data};
    memcpy(tensors[i].shape, t->shape, sizeof tensors[i].shape);
    zmi_type_bytes(t, &tensors[i].bytes);
  }
  if (count) qsort(tensors, count, sizeof *tensors, by_name);
  zm_status status = write_tensors(path, tensors, count, metadata);
  zmi_free(tensors);
  return status;
}
