// Making a codec of caches from samples, and a calibration in a folder: arrays as .npy in float16, groups as JSON.
#include "catalog/kvtc.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

// ---- from samples ----

static zm_status fit(zm_kvtc *k, int stream, zm_array *const *layers, size_t count, const zm_kvtc_calibration *c) {
  const zm_kvtc_options *o = &k->options;
  int64_t shape[3], most = c && c->rows > 0 ? c->rows : 512;
  zm_status status = zmi_kvtc_shape(stream ? "values" : "keys", layers, count, shape);
  if (status != ZM_OK) return status;
  bool back = o->rope_dim && (stream == 0 || o->rope_values);
  if (back && o->rope_offset + o->rope_dim > shape[2]) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: heads of %lld have no dims %lld to %lld to turn", (long long)shape[2],
                    (long long)o->rope_offset, (long long)(o->rope_offset + o->rope_dim));
  }
  int64_t p = (int64_t)count * shape[0] * shape[2], n = ZMI_MIN(shape[1], most);
  int64_t bits = c && c->bits > 0 ? c->bits : 2 * p, rank = c && c->rank > 0 ? c->rank : p;
  if (n < 2 || p < 1)
    return zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: %lld tokens of %lld numbers are too few to calibrate with", (long long)n, (long long)p);
  float *rows = zmi_calloc((size_t)n * (size_t)p, sizeof *rows);
  if (!rows) return ZM_ERROR_MEMORY;
  for (int64_t r = 0; r < n && status == ZM_OK; r++) {
    status = zmi_kvtc_rows(o, layers, count, r * shape[1] / n, 1, back, rows + r * p);
  }
  for (int64_t i = 0; i < n * p && status == ZM_OK; i++) {
    if (!(rows[i] - rows[i] == 0))
      status = zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: a sample is NaN or infinite (token %lld)", (long long)(i / p * shape[1] / n));
  }
  if (status == ZM_OK) status = zmi_kvtc_fit(rows, n, p, rank, bits, &k->stream[stream]);
  zmi_free(rows);
  return status;
}

zm_kvtc *zm_kvtc_calibrate(zm_array *const *keys, zm_array *const *values, size_t layers, const zm_kvtc_options *options,
                           const zm_kvtc_calibration *calibration) {
  zm_kvtc *k = zmi_calloc(1, sizeof *k);
  if (!k) return NULL;
  zm_status status = zmi_kvtc_options_fill(options, &k->options);
  k->streams = k->options.single_stream ? 1 : 2;
  if (status == ZM_OK) status = fit(k, 0, keys, layers, calibration);
  if (status == ZM_OK && k->streams > 1) status = fit(k, 1, values, layers, calibration);
  if (status == ZM_OK) return k;
  zm_kvtc_free(k);
  return NULL;
}

// ---- .npy of float16, row-major ----

static zm_status write_file(const char *folder, const char *name, const void *data, size_t size) {
  char *path = zmi_path_join(folder, name);
  if (!path) return ZM_ERROR_MEMORY;
  zmi_writer *w = zmi_writer_open(path);
  zm_status status = w ? zmi_writer_write(w, data, size) : zm_last_status();
  if (status == ZM_OK)
    status = zmi_writer_publish(w);
  else
    zmi_writer_abandon(w);
  zmi_free(path);
  return status;
}

static zm_status write_npy(const char *folder, const char *name, const float *x, int rank, const int64_t *shape) {
  char dict[128];
  int64_t n = rank > 1 ? shape[0] * shape[1] : shape[0];
  if (rank > 1)
    snprintf(dict, sizeof dict, "{'descr': '<f2', 'fortran_order': False, 'shape': (%lld, %lld), }", (long long)shape[0],
             (long long)shape[1]);
  else
    snprintf(dict, sizeof dict, "{'descr': '<f2', 'fortran_order': False, 'shape': (%lld,), }", (long long)shape[0]);
  size_t used = 10 + strlen(dict) + 1, header = (used + 63) / 64 * 64;
  zmi_text t = {0};
  uint8_t start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)(header - 10), (uint8_t)((header - 10) >> 8)};
  zmi_text_add_bytes(&t, start, sizeof start);
  zmi_text_add(&t, "%s%*s\n", dict, (int)(header - used), "");
  for (int64_t i = 0; i < n; i++) {
    uint16_t h = zmi_f32_to_f16(x[i]);
    uint8_t b[2] = {(uint8_t)h, (uint8_t)(h >> 8)};
    zmi_text_add_bytes(&t, b, 2);
  }
  zm_status status = t.failed ? ZM_ERROR_MEMORY : write_file(folder, name, t.data, t.size);
  zmi_text_release(&t);
  return status;
}

// The numbers of a file of float16 or float32 with `rank` dims; *data is the caller's.
static zm_status parse_npy(const char *data, size_t size, int rank, int64_t *shape, float **out) {
  if (size < 12 || memcmp(data, "\x93NUMPY", 6) != 0) return zmi_fail(ZM_ERROR_FORMAT, "no .npy file");
  const uint8_t *u = (const uint8_t *)data;
  size_t start = u[6] == 1 ? 10 : 12,
         length = u[6] == 1 ? (size_t)(u[8] | u[9] << 8) : (size_t)u[8] | (size_t)u[9] << 8 | (size_t)u[10] << 16;
  if (length > size - start || length > 4096) return zmi_fail(ZM_ERROR_FORMAT, "the header is cut off");
  char dict[4097];
  memcpy(dict, data + start, length);
  dict[length] = 0;
  const char *s = strstr(dict, "'shape'");
  bool half = strstr(dict, "'<f2'") != NULL, single = strstr(dict, "'<f4'") != NULL;
  long long a = 0, b = 1;
  int found = s ? sscanf(s, "'shape': (%lld, %lld", &a, &b) : 0;
  if (strstr(dict, "'fortran_order': True") || (!half && !single) || found != rank || a < 0 || b < 0 || a > 1 << 30 || b > 1 << 30)
    return zmi_fail(ZM_ERROR_FORMAT, "expected float16 or float32 in row-major order with %d dimensions", rank);
  size_t n = (size_t)a * (size_t)(rank > 1 ? b : 1), at = start + length, width = half ? 2 : 4;
  if (n > (size - at) / width || n * width != size - at) return zmi_fail(ZM_ERROR_FORMAT, "the data has another size than the header says");
  float *x = zmi_malloc(n * sizeof *x + 1);
  if (!x) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < n; i++) {
    if (half)
      x[i] = zmi_f16_to_f32((uint16_t)(u[at + 2 * i] | u[at + 2 * i + 1] << 8));
    else
      memcpy(&x[i], data + at + 4 * i, 4);
  }
  shape[0] = a;
  if (rank > 1) shape[1] = b;
  *out = x;
  return ZM_OK;
}

enum { FILE_LIMIT = 1 << 30 };

static zm_status read_part(const char *folder, const char *name, char **data, size_t *size) {
  char *path = zmi_path_join(folder, name);
  if (!path) return ZM_ERROR_MEMORY;
  zm_status status = zmi_read_file(path, FILE_LIMIT, data, size);
  zmi_free(path);
  return status;
}

static zm_status read_npy(const char *folder, const char *name, int rank, int64_t *shape, float **out) {
  char *data;
  size_t size;
  zm_status status = read_part(folder, name, &data, &size);
  if (status != ZM_OK) return status;
  status = parse_npy(data, size, rank, shape, out);
  zmi_free(data);
  return status == ZM_OK ? ZM_OK : zmi_fail_within("%s/%s", folder, name);
}

// ---- groups ----

static const struct {
  const char *name;
  int32_t bits;
} types[] = {{"none", 0}, {"int2", 2}, {"int4", 4}, {"fp8", 8}};

static zm_status write_plan(const char *folder, const char *name, const kvtc_stream *s) {
  zmi_text t = {0};
  zmi_text_add(&t, "{\"groups\": [");
  for (int64_t g = 0; g < s->count; g++) {
    const char *type = "none";
    for (size_t i = 0; i < ZMI_COUNT(types); i++) type = types[i].bits == s->groups[g].bits ? types[i].name : type;
    zmi_text_add(&t, "%s{\"size\": %d, \"qtype\": \"%s\"}", g ? ", " : "", s->groups[g].size, type);
  }
  zmi_text_add(&t, "]}\n");
  zm_status status = t.failed ? ZM_ERROR_MEMORY : write_file(folder, name, t.data, t.size);
  zmi_text_release(&t);
  return status;
}

static zm_status read_plan(const char *folder, const char *name, kvtc_stream *s) {
  char *data;
  size_t size;
  zm_status status = read_part(folder, name, &data, &size);
  if (status != ZM_OK) return status;
  json_error_t error;
  json_t *root = json_loadb(data, size, 0, &error);
  zmi_free(data);
  const json_t *list = json_object_get(root, "groups");
  int64_t total = 0;
  if (!json_is_array(list)) status = zmi_fail(ZM_ERROR_FORMAT, "expected {\"groups\": [...]}");
  s->count = (int64_t)json_array_size(list);
  if (status == ZM_OK && !(s->groups = zmi_calloc((size_t)s->count + 1, sizeof *s->groups))) status = ZM_ERROR_MEMORY;
  for (int64_t g = 0; g < s->count && status == ZM_OK; g++) {
    const json_t *o = json_array_get(list, (size_t)g);
    const char *type = json_string_value(json_object_get(o, "qtype"));
    json_int_t n = json_integer_value(json_object_get(o, "size"));
    size_t i = 0;
    while (type && i < ZMI_COUNT(types) && strcmp(types[i].name, type) != 0) i++;
    if (!type || i == ZMI_COUNT(types) || n < 1 || n > s->rank) {
      status = zmi_fail(ZM_ERROR_FORMAT, "group %lld: expected a size and a qtype (none, int2, int4, fp8)", (long long)g);
    } else {
      s->groups[g] = (kvtc_group){(int32_t)n, types[i].bits};
      total += n;
    }
  }
  json_decref(root);
  if (status == ZM_OK && total != s->rank) {
    status = zmi_fail(ZM_ERROR_FORMAT, "the groups hold %lld components, the basis has %lld", (long long)total, (long long)s->rank);
  }
  return status == ZM_OK ? ZM_OK : zmi_fail_within("%s/%s", folder, name);
}

zm_status zm_kvtc_save(const zm_kvtc *k, const char *folder) {
  zm_status status = zmi_make_folder(folder);
  for (int i = 0; i < k->streams && status == ZM_OK; i++) {
    const kvtc_stream *s = &k->stream[i];
    status = write_npy(folder, i ? "v_mu.npy" : "k_mu.npy", s->mean, 1, &s->features);
    if (status == ZM_OK) status = write_npy(folder, i ? "v_V.npy" : "k_V.npy", s->basis, 2, (int64_t[]){s->features, s->rank});
    if (status == ZM_OK) status = write_plan(folder, i ? "v_plan.json" : "k_plan.json", s);
  }
  const char *meta = k->streams > 1 ? "{\"mode\": \"dual_stream\"}\n" : "{\"mode\": \"single_stream\"}\n";
  return status == ZM_OK ? write_file(folder, "meta.json", meta, strlen(meta)) : status;
}

zm_kvtc *zm_kvtc_load(const char *folder, const zm_kvtc_options *options) {
  zm_kvtc *k = zmi_calloc(1, sizeof *k);
  if (!k) return NULL;
  zm_status status = zmi_kvtc_options_fill(options, &k->options);
  k->streams = k->options.single_stream ? 1 : 2;
  for (int i = 0; i < k->streams && status == ZM_OK; i++) {
    kvtc_stream *s = &k->stream[i];
    int64_t shape[2] = {0};
    status = read_npy(folder, i ? "v_mu.npy" : "k_mu.npy", 1, &s->features, &s->mean);
    if (status == ZM_OK) status = read_npy(folder, i ? "v_V.npy" : "k_V.npy", 2, shape, &s->basis);
    if (status == ZM_OK && shape[0] != s->features) {
      status = zmi_fail(ZM_ERROR_FORMAT, "%s: the mean has %lld numbers, the basis %lld rows", folder, (long long)s->features,
                        (long long)shape[0]);
    }
    s->rank = shape[1];
    if (status == ZM_OK) status = read_plan(folder, i ? "v_plan.json" : "k_plan.json", s);
  }
  if (status == ZM_OK) return k;
  zm_kvtc_free(k);
  return NULL;
}
