// All memory of the library comes from here: checked sizes, a clear error, and a switch that makes one chosen allocation fail in tests.
// Large blocks are mapped directly, aligned for huge pages.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "base/base.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE_PAGE = 2 << 20, MAP_ROUND = 64 << 10 /* a multiple of every page size in use */, SMALL_ALIGN = 64 };

static _Atomic uint64_t allocations, countdown;

void zmi_alloc_fail_at(uint64_t n) { atomic_store(&countdown, n); }
uint64_t zmi_alloc_count(void) { return atomic_load(&allocations); }

bool zmi_mul_overflow(size_t a, size_t b, size_t *product) { return __builtin_mul_overflow(a, b, product); }
bool zmi_add_overflow(size_t a, size_t b, size_t *sum) { return __builtin_add_overflow(a, b, sum); }

// Counts the allocation; true if it is the one that shall fail.
static bool must_fail(void) {
  atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
  uint64_t left = atomic_load_explicit(&countdown, memory_order_relaxed);
  while (left > 0)
    if (atomic_compare_exchange_weak(&countdown, &left, left - 1)) return left == 1;
  return false;
}

static void *out_of_memory(size_t size) {
  errno = ENOMEM; // as malloc does: callers inside other libraries look at it
  zmi_fail(ZM_ERROR_MEMORY, "out of memory: %zu bytes could not be had; free memory or use a smaller model, context or batch", size);
  return NULL;
}

static void *too_large(size_t n, size_t size) {
  zmi_fail(ZM_ERROR_MEMORY, "out of memory: %zu elements of %zu bytes are more than can be addressed", n, size);
  return NULL;
}

void *zmi_malloc(size_t size) {
  void *p = must_fail() ? NULL : malloc(size ? size : 1);
  return p ? p : out_of_memory(size);
}

void *zmi_calloc(size_t n, size_t size) {
  size_t bytes;
  if (zmi_mul_overflow(n, size, &bytes)) return too_large(n, size);
  void *p = must_fail() ? NULL : calloc(1, bytes ? bytes : 1);
  return p ? p : out_of_memory(bytes);
}

void *zmi_realloc(void *old, size_t n, size_t size) {
  size_t bytes;
  if (zmi_mul_overflow(n, size, &bytes)) return too_large(n, size);
  void *p = must_fail() ? NULL : realloc(old, bytes ? bytes : 1);
  return p ? p : out_of_memory(bytes);
}

void zmi_free(void *p) { free(p); }

char *zmi_strdup(const char *s) {
  size_t size = strlen(s) + 1;
  char *copy = zmi_malloc(size);
  if (copy) memcpy(copy, s, size);
  return copy;
}

static bool round_up(size_t size, size_t to, size_t *rounded) {
  if (zmi_add_overflow(size, to - 1, rounded)) return false;
  *rounded -= *rounded % to;
  return true;
}

// Maps more than is needed and gives back the ends, so that the block starts on a huge page.
static void *map_huge(size_t size) {
  size_t length, total;
  if (!round_up(size, MAP_ROUND, &length) || zmi_add_overflow(length, HUGE_PAGE, &total)) return NULL;
  uint8_t *map = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return NULL;
  size_t before = (HUGE_PAGE - (uintptr_t)map % HUGE_PAGE) % HUGE_PAGE, after = HUGE_PAGE - before;
  if (before) munmap(map, before);
  if (after) munmap(map + before + length, after);
#ifdef MADV_HUGEPAGE
  madvise(map + before, length, MADV_HUGEPAGE); // advice only: without huge pages the block still works
#endif
  zmi_spread_over_nodes(map + before, length);
  return map + before;
}

void *zmi_block_alloc(size_t size) {
  if (must_fail()) return out_of_memory(size);
  void *p = NULL;
  if (size >= HUGE_PAGE) {
    p = map_huge(size);
  } else {
    size_t rounded;
    if (round_up(size ? size : 1, SMALL_ALIGN, &rounded)) p = aligned_alloc(SMALL_ALIGN, rounded);
    if (p) memset(p, 0, rounded);
  }
  return p ? p : out_of_memory(size);
}

void zmi_block_free(void *p, size_t size) {
  size_t length;
  if (!p) return;
  if (size >= HUGE_PAGE && round_up(size, MAP_ROUND, &length)) munmap(p, length);
  else free(p);
}

void zmi_block_forget(void *p, size_t size) {
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)p + page - 1) / page * page;
  const uintptr_t to = ((uintptr_t)p + size) / page * page;
  if (from < to) madvise((void *)from, to - from, MADV_DONTNEED);
}

bool zmi_grow(void **p, size_t *capacity, size_t needed, size_t element_size) {
  if (needed <= *capacity) return true;
  size_t wanted = *capacity > SIZE_MAX / 2 ? needed : ZMI_MAX(*capacity * 2, needed);
  wanted = ZMI_MAX(wanted, (size_t)8);
  void *old; // copied by bytes: *p really is a pointer of another type
  memcpy(&old, p, sizeof old);
  void *grown = zmi_realloc(old, wanted, element_size);
  if (!grown) return false;
  memcpy(p, &grown, sizeof grown);
  *capacity = wanted;
  return true;
}
