// Capsules of peers (kind "peer", docs/capsules.md): their rates beside those of a run here, and in what the two settings differ.
#include "tools/tools.h"

#include <string.h>

enum { MOST_BYTES = 16 << 20 };

// Text of an object's key; "" if there is none.
static const char *text_of(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "";
}

zm_status zmi_peers_read(const char *path, zmi_peers *out) {
  char *text;
  size_t size;
  json_error_t error;
  *out = (zmi_peers){0};
  zm_status status = zmi_read_file(path, MOST_BYTES, &text, &size);
  if (status != ZM_OK) return status;
  json_t *capsule = out->capsule = json_loadb(text, size, 0, &error);
  zmi_free(text);
  if (!capsule) return zmi_fail(ZM_ERROR_FORMAT, "%s: no JSON: line %d: %s", path, error.line, error.text);
  const json_t *median = json_object_get(json_object_get(capsule, "result"), "median");
  if (json_integer_value(json_object_get(capsule, "schema")) != 1 || strcmp(text_of(capsule, "kind"), "peer") != 0)
    status = zmi_fail(ZM_ERROR_FORMAT, "%s: found kind \"%s\", a capsule of schema 1 and kind \"peer\" is needed", path,
                      text_of(capsule, "kind"));
  else if (json_object_size(median) == 0)
    status = zmi_fail(ZM_ERROR_FORMAT, "%s: result.median holds no engine", path);
  const char *name;
  json_t *m;
  json_object_foreach((json_t *)(uintptr_t)median, name, m) { // the cast: jansson walks objects that it may change
    if (status == ZM_OK &&
        !(json_number_value(json_object_get(m, "decode_tok_s")) > 0 && json_number_value(json_object_get(m, "prefill_tok_s")) > 0))
      status = zmi_fail(ZM_ERROR_FORMAT, "%s: result.median.%s: decode_tok_s and prefill_tok_s must be above 0", path, name);
  }
  if (status != ZM_OK) zmi_peers_release(out);
  return status;
}

void zmi_peers_release(zmi_peers *p) {
  json_decref(p->capsule);
  json_decref(p->comparison);
  *p = (zmi_peers){0};
}

// ---- the setting ----

// What must be equal: of the capsule's machine, model and result, and of this run's.
static const struct {
  const char *part, *key, *words;
} settings[] = {
    {"machine", "cpu", "CPU"},
    {"machine", "cores", "cores"},
    {"machine", "isa", "instruction set"},
    {"model", "threads", "threads"},
    {"model", "family", "family"},
    {"model", "quantization", "quantization"},
    {"model", "dtype", "dtype"},
    {"model", "layers", "layers"},
    {"model", "hidden", "hidden"},
    {"model", "vocab", "vocabulary"},
    {"model", "weight_bytes", "weight bytes"},
    {"model", "bytes_per_token", "bytes a token"},
    {"result", "prompt_tokens", "prompt tokens"},
};

static json_t *differences(const json_t *capsule, const json_t *machine, const json_t *model, const json_t *result) {
  json_t *list = json_array();
  for (size_t i = 0; i < ZMI_COUNT(settings); i++) {
    const json_t *here = settings[i].part[0] == 'r' ? result : strcmp(settings[i].part, "model") == 0 ? model : machine;
    json_t *a = json_object_get(json_object_get(capsule, settings[i].part), settings[i].key), *b = json_object_get(here, settings[i].key);
    if (a && b && json_equal(a, b)) continue;
    json_array_append_new(list, json_pack("{s:s, s:O?, s:O?}", "what", settings[i].words, "capsule", a, "here", b));
  }
  return list;
}

static void add_value(const json_t *v, zmi_text *out) {
  if (json_is_string(v))
    zmi_text_add(out, "%s", json_string_value(v));
  else if (json_is_integer(v))
    zmi_text_add(out, "%lld", (long long)json_integer_value(v));
  else
    zmi_text_add(out, "unknown");
}

void zmi_peers_difference(const zmi_peers *p, zmi_text *out) {
  const json_t *list = json_object_get(p->comparison, "differences");
  size_t i;
  json_t *d;
  json_array_foreach((json_t *)(uintptr_t)list, i, d) {
    zmi_text_add(out, "%s%s ", i ? "; " : "", text_of(d, "what"));
    add_value(json_object_get(d, "capsule"), out);
    zmi_text_add(out, " there, ");
    add_value(json_object_get(d, "here"), out);
    zmi_text_add(out, " here");
  }
}

// ---- the comparison ----

// {"engine", "version", "threads", rates, ratios}. The capsule names its peers in "engines" ("llama_cpp": "llama-cpp-python 0.3.36"); with
// a single one, "peer" is its name.
static json_t *engine_json(const json_t *capsule, const char *name, const json_t *median, const zmi_bench *b) {
  const json_t *machine = json_object_get(capsule, "machine"), *result = json_object_get(capsule, "result");
  char engine[128], version[128] = "";
  const bool own = strncmp(name, "zmlx", 4) == 0;
  const char *whole = text_of(json_object_get(capsule, "engines"), name);
  if (!*whole) whole = text_of(capsule, "peer");
  snprintf(engine, sizeof engine, "%s", own || !*whole ? name : whole);
  char *space = own ? NULL : strrchr(engine, ' ');
  if (space) {
    *space = 0;
    snprintf(version, sizeof version, "%s", space + 1);
  }
  if (own) snprintf(version, sizeof version, "%.32s %.64s", text_of(machine, "version"), text_of(machine, "commit"));
  json_t *threads = json_object_get(json_object_get(result, "engine_threads"), name);
  if (!threads) threads = json_object_get(result, "threads");
  const double decode = json_number_value(json_object_get(median, "decode_tok_s"));
  const double prefill = json_number_value(json_object_get(median, "prefill_tok_s"));
  return json_pack("{s:s, s:s, s:O?, s:f, s:f, s:f, s:f}", "engine", engine, "version", version, "threads", threads, "prefill_tok_s",
                   prefill, "decode_tok_s", decode, "prefill_ratio", b->prefill.median / prefill, "decode_ratio",
                   b->decode.median / decode);
}

zm_status zmi_peers_compare(zmi_peers *p, const zmi_bench *b, const zm_model *m) {
  json_t *machine = zmi_machine_json(zmi_model_kernels(m)), *model = zmi_model_json(m);
  json_t *result = json_pack("{s:i}", "prompt_tokens", b->prompt_tokens), *engines = json_array();
  const char *name;
  json_t *median;
  json_object_foreach(json_object_get(json_object_get(p->capsule, "result"), "median"), name, median) {
    json_array_append_new(engines, engine_json(p->capsule, name, median, b));
  }
  json_t *list = machine && model && result ? differences(p->capsule, machine, model, result) : NULL;
  p->comparison = json_pack("{s:o, s:o?, s:O?, s:O?}", "engines", engines, "differences", list, "machine",
                            json_object_get(p->capsule, "machine"), "model", json_object_get(p->capsule, "model"));
  json_decref(machine);
  json_decref(model);
  json_decref(result);
  return p->comparison ? ZM_OK : zmi_fail(ZM_ERROR_MEMORY, "out of memory while comparing with the peers' runs");
}
