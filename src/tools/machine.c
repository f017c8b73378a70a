// Facts about the machine: what a capsule must say so that its figures can be judged, and the read bandwidth that decoding is measured
// against.
#include "tools/tools.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

typedef struct reading {
  const uint64_t *data;
  size_t words;
  uint64_t sums[256][8]; // kept so that the reads are not removed; one cache line a worker
} reading;

// Eight independent streams of a contiguous part, as a decode kernel reads its share of the weights.
static void read_part(void *user, int worker, int workers) {
  reading *r = user;
  size_t begin = r->words / 8 * (size_t)worker / (size_t)workers, end = r->words / 8 * (size_t)(worker + 1) / (size_t)workers;
  uint64_t s[8] = {0};
  for (size_t i = begin; i < end; i++) {
    const uint64_t *line = r->data + i * 8;
    __builtin_prefetch(line + 1024);
    for (int k = 0; k < 8; k++) s[k] ^= line[k];
  }
  memcpy(r->sums[worker % 256], s, sizeof s);
}

static void touch_part(void *user, int worker, int workers) {
  reading *r = user;
  size_t begin = r->words * (size_t)worker / (size_t)workers, end = r->words * (size_t)(worker + 1) / (size_t)workers;
  memset((char *)(uintptr_t)r->data + begin * 8, 0x55, (end - begin) * 8);
}

zm_status zmi_read_bandwidth(zmi_pool *pool, size_t bytes, double *gb_per_second) {
  if (bytes == 0) { // on a machine short of memory less: measuring must not be what ends the process
    const uint64_t most = (uint64_t)512 << 20, available = zmi_memory_available();
    bytes = (size_t)(available ? ZMI_MIN(most, available / 4) : most) / 4096 * 4096 + 4096;
  }
  reading *r = zmi_calloc(1, sizeof *r);
  if (!r) return ZM_ERROR_MEMORY;
  void *memory = zmi_block_alloc(bytes);
  if (!memory) {
    zmi_free(r);
    return ZM_ERROR_MEMORY;
  }
  r->data = memory;
  r->words = bytes / 8;
  zmi_pool_run(pool, touch_part, r);
  double best = 1e30, start = zmi_now();
  for (int pass = 0; pass < 40 && (pass < 4 || zmi_now() - start < 0.6); pass++) {
    double t = zmi_now();
    zmi_pool_run(pool, read_part, r);
    t = zmi_now() - t;
    if (t < best) best = t;
  }
  *gb_per_second = (double)bytes / best / 1e9;
  zmi_block_free(memory, bytes);
  zmi_free(r);
  return ZM_OK;
}

// The value of the first line of /proc/cpuinfo that starts with `key`.
static void cpu_name(char *out, size_t size) {
  snprintf(out, size, "unknown");
  FILE *f = fopen("/proc/cpuinfo", "r");
  char line[256];
  while (f && fgets(line, sizeof line, f)) {
    char *colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) != 0 || !colon) continue;
    colon += strspn(colon, ": \t");
    colon[strcspn(colon, "\n")] = 0;
    snprintf(out, size, "%s", colon);
    break;
  }
  if (f) fclose(f);
}

json_t *zmi_machine_json(const zmi_kernels *kernels) {
  char cpu[200], system[512] = "unknown";
  struct utsname u;
  cpu_name(cpu, sizeof cpu);
  if (uname(&u) == 0) snprintf(system, sizeof system, "%s %s %s", u.sysname, u.release, u.machine);
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  json_t *j = json_pack("{s:s, s:i, s:I, s:s, s:s, s:s, s:s, s:s}", "cpu", cpu, "cores", zmi_cpu_count(), "memory_bytes",
                        (json_int_t)pages * (json_int_t)page, "system", system, "isa", kernels->name, "compiler",
#ifdef __clang__
                        "clang " __clang_version__,
#else
                        "gcc " __VERSION__,
#endif
                        "version", zm_version(), "commit", zmi_commit);
  if (!j) zmi_fail(ZM_ERROR_MEMORY, "out of memory while describing the machine");
  return j;
}
