// Capsules: one JSON file a measurement, with everything needed to judge and repeat it. docs/capsules.md describes the schema.
#include "tools/tools.h"

#include <string.h>
#include <stdlib.h>
#include <time.h>

json_t *zmi_model_json(const zm_model *m) {
  zm_model_info info;
  zm_model_get_info(m, &info);
  const char *name = strrchr(info.path, '/');
  return json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:i, s:s}", "name", name && name[1] ? name + 1 : info.path,
                   "family", info.family, "quantization", info.quantization, "dtype", zm_dtype_name(info.dtype), "layers", info.layers,
                   "hidden", info.hidden, "vocab", info.vocab, "file_bytes", (json_int_t)info.file_bytes, "weight_bytes",
                   (json_int_t)info.weight_bytes, "bytes_per_token", (json_int_t)info.bytes_per_token, "cache_bytes_per_token",
                   (json_int_t)info.cache_bytes_per_token, "threads", info.threads, "isa", info.isa);
}

static json_t *words(int argc, char *const *argv) {
  json_t *array = json_array();
  for (int i = 0; i < argc && array; i++) json_array_append_new(array, json_string(argv[i]));
  return array;
}

zm_status zmi_capsule_write(const char *path, const char *kind, int argc, char *const *argv, zm_model *m, json_t *result) {
  char created[32] = "";
  time_t now = time(NULL);
  struct tm utc;
  if (gmtime_r(&now, &utc)) strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &utc);
  json_t *capsule =
      json_pack("{s:i, s:s, s:s, s:o, s:o, s:o, s:o}", "schema", 1, "kind", kind, "created", created, "command", words(argc, argv),
                "machine", zmi_machine_json(zmi_model_kernels(m)), "model", zmi_model_json(m), "result", result);
  char *text = capsule ? json_dumps(capsule, JSON_INDENT(1)) : NULL;
  json_decref(capsule);
  if (!text) return zmi_fail(ZM_ERROR_MEMORY, "out of memory while writing the capsule %s", path);
  zmi_writer *w = zmi_writer_open(path);
  zm_status status = w ? zmi_writer_write(w, text, strlen(text)) : zm_last_status();
  if (status == ZM_OK) status = zmi_writer_write(w, "\n", 1);
  if (status == ZM_OK)
    status = zmi_writer_publish(w);
  else
    zmi_writer_abandon(w);
  free(text);
  return status;
}
