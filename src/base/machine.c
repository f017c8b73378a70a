// What this process may use of the machine: time, memory and CPUs, with the limits of its control groups (v1 and v2) respected.
// Reads /proc and /sys through small buffers on the stack: nothing here allocates or fails.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "base/base.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

double zmi_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// Reads the start of a small file as text; false if there is none.
bool zmi_read_small(const char *path, char *buffer, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  size_t used = 0;
  if (fd < 0) return false;
  while (used < size - 1) {
    ssize_t got = read(fd, buffer + used, size - 1 - used);
    if (got <= 0) break;
    used += (size_t)got;
  }
  close(fd);
  buffer[used] = 0;
  return used > 0;
}

// The number after `key` at the start of a line of the text; false if there is none.
static bool field(const char *text, const char *key, uint64_t *value) {
  size_t size = strlen(key);
  for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
    if (strncmp(line, key, size) != 0) continue;
    char *end;
    *value = strtoull(line + size, &end, 10);
    return end != line + size;
  }
  return false;
}

uint64_t zmi_peak_memory(void) {
  char text[4096];
  uint64_t kib;
  // getrusage also counts what this process was before exec, that is the parent's memory.
  if (zmi_read_small("/proc/self/status", text, sizeof text) && field(text, "VmHWM:", &kib)) return kib << 10;
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0 || usage.ru_maxrss < 0) return 0;
#ifdef __APPLE__
  return (uint64_t)usage.ru_maxrss;
#else
  return (uint64_t)usage.ru_maxrss << 10;
#endif
}

// ---- control groups ----

typedef struct group_kind {
  const char *controller; // of the line in /proc/self/cgroup; "" is the one hierarchy of v2
  const char *mounts[2];  // where it is mounted
  const char *cpu_quota, *cpu_period; // v2 has both numbers in one file
  const char *memory_limit, *memory_used, *active_file, *inactive_file;
} group_kind;

static const group_kind group_kinds[] = {
  {"", {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}, "cpu.max", NULL, "memory.max", "memory.current", "active_file ", "inactive_file "},
  {"cpu", {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}, "cpu.cfs_quota_us", "cpu.cfs_period_us", NULL, NULL, NULL, NULL},
  {"memory", {"/sys/fs/cgroup/memory", NULL}, NULL, NULL, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file ",
   "total_inactive_file "},
};

static bool group_file(const char *folder, const char *name, char *text, size_t size) {
  char path[PATH_MAX + 64];
  int length = snprintf(path, sizeof path, "%s/%s", folder, name);
  return length > 0 && (size_t)length < sizeof path && zmi_read_small(path, text, size);
}

static void apply_cpu(const group_kind *k, const char *folder, zmi_limits *limits) {
  char text[128];
  if (!k->cpu_quota || !group_file(folder, k->cpu_quota, text, sizeof text)) return;
  char *rest;
  double quota = strtod(text, &rest); // "max" and -1 mean no limit
  if (rest == text || quota <= 0) return;
  if (k->cpu_period) {
    if (!group_file(folder, k->cpu_period, text, sizeof text)) return;
    rest = text;
  }
  double period = strtod(rest, NULL);
  if (period > 0 && (limits->cpus == 0 || quota / period < limits->cpus)) limits->cpus = quota / period;
}

static void apply_memory(const group_kind *k, const char *folder, zmi_limits *limits) {
  char text[4096];
  uint64_t part, limit, used, cache = 0;
  if (!k->memory_limit || !group_file(folder, k->memory_limit, text, sizeof text) || !field(text, "", &limit)) return;
  if (!group_file(folder, k->memory_used, text, sizeof text) || !field(text, "", &used)) return;
  if (limit >= (uint64_t)INT64_MAX / 4096 * 4096) return; // v1 says "no limit" with the largest number
  if (group_file(folder, "memory.stat", text, sizeof text)) { // cached files give way when memory is needed
    if (field(text, k->active_file, &part)) cache += part;
    if (field(text, k->inactive_file, &part)) cache += part;
  }
  used -= ZMI_MIN(used, cache);
  uint64_t left = limit > used ? limit - used : 0;
  if (!limits->memory_limited || left < limits->memory_left) limits->memory_left = left;
  if (!limits->memory_limited || limit < limits->memory) limits->memory = limit;
  limits->memory_limited = true;
}

// A limit of any group above applies too. Inside a container the path may be the host's: then only the mount's top is seen.
static void walk_groups(const group_kind *k, const char *root, const char *group, zmi_limits *limits) {
  for (size_t i = 0; i < ZMI_COUNT(k->mounts) && k->mounts[i]; i++) {
    char folder[PATH_MAX];
    int top = snprintf(folder, sizeof folder, "%s%s", root, k->mounts[i]);
    int length = snprintf(folder, sizeof folder, "%s%s%s", root, k->mounts[i], group);
    if (length < 0 || (size_t)length >= sizeof folder) continue;
    for (;;) {
      apply_cpu(k, folder, limits);
      apply_memory(k, folder, limits);
      char *slash = strrchr(folder, '/');
      if (!slash || slash - folder < top) break;
      *slash = 0;
    }
  }
}

zmi_limits zmi_group_limits(const char *root) {
  zmi_limits limits = {0};
  char path[PATH_MAX], text[8192];
  snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
  if (!zmi_read_small(path, text, sizeof text)) return limits;
  char *rest = text;
  for (char *line; (line = strsep(&rest, "\n")) != NULL;) { // "4:cpu,cpuacct:/path"
    strsep(&line, ":");
    char *controllers = strsep(&line, ":");
    if (!controllers || !line || *line != '/') continue;
    do {
      const char *controller = strsep(&controllers, ",");
      for (size_t i = 0; i < ZMI_COUNT(group_kinds); i++)
        if (strcmp(group_kinds[i].controller, controller) == 0) walk_groups(&group_kinds[i], root, line, &limits);
    } while (controllers);
  }
  return limits;
}

int zmi_own_cpus(bool *marks, int most) {
  memset(marks, 0, (size_t)most);
#ifdef __linux__
  // The kernel may know more CPUs than a cpu_set_t holds.
  union {
    cpu_set_t set;
    unsigned char bytes[8192];
  } mask;
  memset(&mask, 0, sizeof mask);
  if (sched_getaffinity(0, sizeof mask, &mask.set) != 0) return 0;
  for (int i = 0; i < most; i++) marks[i] = CPU_ISSET_S((size_t)i, sizeof mask, &mask.set);
  return CPU_COUNT_S(sizeof mask, &mask.set);
#else
  return 0;
#endif
}

static int affinity_count(void) {
  bool marks[1];
  const int own = zmi_own_cpus(marks, 1);
  if (own > 0) return own;
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 && online < INT_MAX ? (int)online : 1;
}

int zmi_cpu_count(void) {
  int count = affinity_count();
  double quota = zmi_group_limits("").cpus;
  // Rounded down: workers that wait for each other at barriers lose more by being stopped than by being fewer.
  if (quota > 0 && quota < count) count = (int)quota;
  return ZMI_MAX(count, 1);
}

uint64_t zmi_memory_available(void) {
  char text[4096];
  uint64_t kib = 0;
  bool known = zmi_read_small("/proc/meminfo", text, sizeof text) && field(text, "MemAvailable:", &kib);
  zmi_limits limits = zmi_group_limits("");
  if (!known) return limits.memory_left;
  return limits.memory_limited ? ZMI_MIN(kib << 10, limits.memory_left) : kib << 10;
}

static _Atomic uint64_t cache_bytes; // found once; two threads at once find the same

void zmi_cache_bytes_assume(uint64_t bytes) {
  atomic_store_explicit(&cache_bytes, bytes, memory_order_relaxed);
}

uint64_t zmi_cache_bytes(void) {
  uint64_t bytes = atomic_load_explicit(&cache_bytes, memory_order_relaxed);
  if (bytes) return bytes;
  for (int level = 0; level < 8; level++) { // "32768K": the last one is the largest
    char path[80], text[32], *end;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", level);
    if (!zmi_read_small(path, text, sizeof text)) break;
    uint64_t size = strtoull(text, &end, 10);
    size <<= *end == 'K' ? 10 : *end == 'M' ? 20 : 0;
    bytes = ZMI_MAX(bytes, size);
  }
  if (bytes < (uint64_t)1 << 16) bytes = (uint64_t)32 << 20;
  zmi_cache_bytes_assume(bytes);
  return bytes;
}
