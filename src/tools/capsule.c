// Capsules: one JSON file a measurement, with everything needed to judge and repeat it. docs/capsules.md describes the schema.
#include "text/text.h"
#include "tools/tools.h"

#include <string.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// Paths and words of a command line may hold any bytes, JSON only UTF-8: what is no character becomes U+FFFD.
static json_t *text_json(const char *bytes) {
  zmi_text text = {0};
  for (size_t left = strlen(bytes); left > 0;) {
    size_t taken;
    if (zmi_utf8_step((const uint8_t *)bytes, left, &taken) == 1)
      zmi_text_add_bytes(&text, bytes, taken);
    else
      zmi_text_add(&text, "\xef\xbf\xbd");
    bytes += taken;
    left -= taken;
  }
  json_t *json = text.failed ? NULL : json_string(zmi_text_str(&text));
  zmi_text_release(&text);
  return json;
}

json_t *zmi_model_json(const zm_model *m) {
  zm_model_info info;
  zm_model_get_info(m, &info);
  const char *name = strrchr(info.path, '/');
  return json_pack("{s:o, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:i, s:s, s:s}", "name",
                   text_json(name && name[1] ? name + 1 : info.path), "family", info.family, "quantization", info.quantization, "dtype",
                   zm_dtype_name(info.dtype), "layers", info.layers, "hidden", info.hidden, "vocab", info.vocab, "file_bytes",
                   (json_int_t)info.file_bytes, "weight_bytes", (json_int_t)info.weight_bytes, "bytes_per_token",
                   (json_int_t)info.bytes_per_token, "cache_bytes_per_token", (json_int_t)info.cache_bytes_per_token, "threads",
                   info.threads, "isa", info.isa, "activations", info.activations == ZM_ACTIVATIONS_INT8 ? "int8" : "exact");
}

static json_t *words(int argc, char *const *argv) {
  json_t *array = json_array();
  for (int i = 0; i < argc && array; i++) {
    if (json_array_append_new(array, text_json(argv[i])) == 0) continue;
    json_decref(array);
    array = NULL;
  }
  return array;
}

zm_status zmi_capsule_check(const char *path) {
  struct stat st;
  // A pipe or a device is not opened and closed: its reader would see an end.
  if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && access(path, W_OK) == 0) return ZM_OK;
  zmi_writer *w = zmi_writer_open(path);
  zmi_writer_abandon(w);
  return w ? ZM_OK : zm_last_status();
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
