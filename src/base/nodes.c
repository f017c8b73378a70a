// Memory nodes of machines that have several (NUMA): a processor reads its own node's memory faster, and all of them only together.
// Which worker reads which weight of which expert is not known beforehand, so large blocks are spread over the nodes page by page: all
// memory controllers serve each read, whoever makes it.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "base/base.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

enum { NODES = 64, CPUS = 8192, LIST = 4096 };

// Marks the numbers of a list as the system writes them, "0-3,8-11"; those from `most` on are left out.
static void mark(const char *list, bool *marks, long most) {
  memset(marks, 0, (size_t)most);
  while (*list >= '0' && *list <= '9') {
    char *end;
    const long first = strtol(list, &end, 10), last = *end == '-' ? strtol(end + 1, &end, 10) : first;
    for (long i = first; i >= 0 && i <= last && i < most; i++) marks[i] = true;
    list = *end == ',' ? end + 1 : end;
  }
}

static bool read_list(const char *root, const char *name, bool *marks, long most) {
  char path[512], text[LIST];
  snprintf(path, sizeof path, "%s/sys/devices/system/node/%s", root, name);
  const bool there = zmi_read_small(path, text, sizeof text);
  if (there) mark(text, marks, most);
  return there;
}

uint64_t zmi_memory_nodes(const char *root) {
  bool memory[NODES], own[CPUS], cpus[CPUS];
  uint64_t nodes = 0;
  if (!read_list(root, "has_memory", memory, NODES)) return 0;
  zmi_own_cpus(own, CPUS);
  for (int n = 0; n < NODES; n++) {
    char name[32];
    snprintf(name, sizeof name, "node%d/cpulist", n);
    if (!memory[n] || !read_list(root, name, cpus, CPUS)) continue;
    for (int i = 0; i < CPUS; i++) {
      if (cpus[i] && own[i]) nodes |= (uint64_t)1 << n;
    }
  }
  return nodes;
}

void zmi_spread_over_nodes(void *p, size_t bytes) {
#if defined(__linux__) && defined(SYS_mbind)
  enum { INTERLEAVE = 3 }; // MPOL_INTERLEAVE of linux/mempolicy.h
  static _Atomic uint64_t known;
  static atomic_bool looked;
  if (!atomic_load_explicit(&looked, memory_order_acquire)) { // two threads that look find the same
    atomic_store_explicit(&known, zmi_memory_nodes(""), memory_order_relaxed);
    atomic_store_explicit(&looked, true, memory_order_release);
  }
  const uint64_t nodes = atomic_load_explicit(&known, memory_order_relaxed);
  if ((nodes & (nodes - 1)) == 0) return; // one, or nothing is known
  unsigned long mask[NODES / (8 * sizeof(unsigned long))];
  memcpy(mask, &nodes, sizeof mask);
  (void)syscall(SYS_mbind, p, bytes, INTERLEAVE, mask, (unsigned long)NODES + 1, 0u); // where it is refused, pages lie as they come
#else
  (void)p, (void)bytes;
#endif
}
