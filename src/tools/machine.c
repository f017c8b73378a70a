// Facts about the machine: what a capsule must say so that its figures can be judged.
#include "tools/tools.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

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
