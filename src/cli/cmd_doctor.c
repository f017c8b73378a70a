// zmlx doctor: what this machine offers and what zmlx makes of it: the answers that a bug report or a speed question needs first.
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const cli_option options[] = {
    {"threads", 't', CLI_INT, "N", 1, 1024, "one for each CPU", "threads that measure"},
    {"isa", 0, CLI_STRING, "TIER", 0, 0, "the best", "highest CPU tier: scalar, avx2, ..."},
    {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print one JSON object"},
    CLI_END,
};

static json_t *tiers_json(const zmi_kernels *chosen) {
  json_t *tiers = json_array();
  for (size_t i = 0; i < zmi_tier_count() && tiers; i++) {
    const char *why = NULL;
    bool supported = zmi_tier_supported(i, &why);
    json_array_append_new(tiers, json_pack("{s:s, s:b, s:b, s:s?}", "name", zmi_tier(i)->name, "supported", supported, "chosen",
                                           zmi_tier(i) == chosen, "why_not", supported ? NULL : why));
  }
  return tiers;
}

// First line of a small file of the system, without its newline; false if there is none.
static bool read_line(const char *path, char *out, size_t size) {
  FILE *f = fopen(path, "r");
  bool read = f && fgets(out, (int)size, f);
  if (f) fclose(f);
  if (read) out[strcspn(out, "\n")] = 0;
  return read;
}

// Data and unified caches of the first CPU, as the system tells them: "32768K".
static json_t *caches_json(void) {
  json_t *caches = json_object();
  for (int i = 0; i < 8 && caches; i++) {
    char path[96], level[16], kind[32], size[32], name[40];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
    if (!read_line(path, level, sizeof level)) break;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/type", i);
    if (!read_line(path, kind, sizeof kind) || strcmp(kind, "Instruction") == 0) continue;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
    if (!read_line(path, size, sizeof size)) continue;
    snprintf(name, sizeof name, "L%s", level);
    json_object_set_new(caches, name, json_integer(strtoll(size, NULL, 10) * (strchr(size, 'M') ? 1 << 20 : 1 << 10)));
  }
  return caches;
}

// Other backends are said to be missing rather than left out.
static json_t *devices_json(void) {
  zmi_device_facts gpu;
  char note[800];
  zmi_cache cache;
  zmi_device_look(&gpu);
  zmi_cache_open(&cache);
  if (gpu.usable)
    snprintf(note, sizeof note,
             "%s (sm_%d%d, %d processors, %.1f GB), driver for CUDA %d.%d: models, arrays; executor persistent for tokens, graph for "
             "prompts%s%s",
             gpu.name, gpu.major, gpu.minor, gpu.processors, (double)gpu.memory / 1e9, gpu.driver / 1000, gpu.driver % 1000 / 10,
             cache.folder ? "" : "; its code is compiled each time, as ", cache.why);
  else
    snprintf(note, sizeof note, "%s", gpu.why);
  zmi_cache_close(&cache);
  return json_pack("[{s:s, s:b, s:s}, {s:s, s:b, s:s}]", "name", "cpu", "usable", 1, "note", "all commands", "name", "cuda", "usable",
                   gpu.usable, "note", note);
}

static json_t *environment_json(void) {
  json_t *object = json_object();
  for (const zmi_env_var *v = zmi_env_table; v->name && object; v++) {
    const char *value = zmi_env(v->name);
    json_object_set_new(object, v->name, value ? json_string(value) : json_null());
  }
  return object;
}

static void print_tiers(json_t *j, zmi_text *out) {
  json_t *tier;
  size_t i;
  json_array_foreach(json_object_get(j, "tiers"), i, tier) {
    const char *why = json_string_value(json_object_get(tier, "why_not"));
    bool chosen = json_is_true(json_object_get(tier, "chosen"));
    zmi_text_add(out, "  %-12s %s%s\n", json_string_value(json_object_get(tier, "name")),
                 why      ? "no: "
                 : chosen ? "in use"
                          : "can be chosen with --isa",
                 why ? why : "");
  }
}

static void print_text(json_t *j) {
  char size[32];
  zmi_text out = {0};
  json_t *machine = json_object_get(j, "machine"), *value;
  const char *key;
  zmi_text_add(&out, "zmlx %s (%s), built with %s\n", zm_version(), json_string_value(json_object_get(machine, "commit")),
               json_string_value(json_object_get(machine, "compiler")));
  zmi_text_add(&out, "%s, %s\n", json_string_value(json_object_get(machine, "cpu")), json_string_value(json_object_get(machine, "system")));
  zmi_text_add(&out, "CPUs this process may use: %d; threads: %d\n", zmi_cpu_count(),
               (int)json_integer_value(json_object_get(j, "threads")));
  zmi_text_add(&out, "memory: %s", cli_bytes((double)json_integer_value(json_object_get(machine, "memory_bytes")), size));
  zmi_text_add(&out, ", available now: %s\n", cli_bytes((double)json_integer_value(json_object_get(j, "memory_available")), size));
  const int nodes = (int)json_integer_value(json_object_get(j, "memory_nodes"));
  if (nodes > 1) zmi_text_add(&out, "memory nodes: %d; weights and caches are spread over them page by page\n", nodes);
  zmi_text_add(&out, "read bandwidth: %.1f GB/s\n", json_real_value(json_object_get(j, "read_bandwidth_gb_s")));
  zmi_text_add(&out, "caches:");
  json_object_foreach(json_object_get(j, "caches"), key, value) {
    zmi_text_add(&out, " %s %s", key, cli_bytes((double)json_integer_value(value), size));
  }
  zmi_text_add(&out, "\nCPU tiers:\n");
  print_tiers(j, &out);
  zmi_text_add(&out, "devices:\n");
  size_t i;
  json_array_foreach(json_object_get(j, "devices"), i, value) {
    zmi_text_add(&out, "  %-12s %s\n", json_string_value(json_object_get(value, "name")),
                 json_string_value(json_object_get(value, "note")));
  }
  zmi_text_add(&out, "environment:\n");
  json_object_foreach(json_object_get(j, "environment"), key, value) {
    zmi_text_add(&out, "  %-16s %s\n", key, json_is_string(value) ? json_string_value(value) : "not set");
  }
  cli_print_text(&out);
}

static int run_doctor(const cli_args *args) {
  const zmi_kernels *kernels = zmi_kernels_find(cli_given(args, "isa") ? cli_text(args, "isa") : NULL);
  if (!kernels) return cli_failed();
  zmi_pool *pool = zmi_pool_new((int)cli_int(args, "threads"));
  zmi_bandwidth *memory = pool ? zmi_bandwidth_new(pool) : NULL;
  if (!memory) {
    zmi_pool_free(pool);
    return cli_failed();
  }
  double bandwidth = zmi_bandwidth_measure(memory);
  zmi_bandwidth_free(memory);
  const int nodes = __builtin_popcountll(zmi_memory_nodes(""));
  json_t *j =
      json_pack("{s:o, s:i, s:f, s:i, s:I, s:o, s:o, s:o, s:o}", "machine", zmi_machine_json(kernels), "threads", zmi_pool_workers(pool),
                "read_bandwidth_gb_s", bandwidth, "memory_nodes", nodes, "memory_available", (json_int_t)zmi_memory_available(), "caches",
                caches_json(), "tiers", tiers_json(kernels), "devices", devices_json(), "environment", environment_json());
  zmi_pool_free(pool);
  if (!j) {
    cli_error("out of memory");
    return CLI_FAILURE;
  }
  if (cli_flag(args, "json")) {
    cli_print_json(j);
  } else {
    print_text(j);
    json_decref(j);
  }
  return CLI_OK;
}

const cli_command cli_doctor = {
    .name = "doctor",
    .summary = "Shows the machine, CPU tiers and why, bandwidth, devices",
    .arguments = "",
    .options = options,
    .run = run_doctor,
};
