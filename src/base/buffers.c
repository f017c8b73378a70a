// Buffers of arrays: blocks that are kept when they are given back, in lists by size, as mapping and clearing fresh memory costs several
// times what most operations do with it. A kept block holds its own links; the oldest go first when there are too many.
#include "base/base.h"

#include <pthread.h>
#include <zmlx/memory.h>

// Sizes are rounded to a quarter of a power of two: at most a fifth of a block is unused.
enum { SMALLEST = 64, CLASSES = 4 * 64 };

typedef struct kept {
  struct kept *class_before, *class_after; // of one size, newest first
  struct kept *older, *newer;              // of all
  size_t bytes;
} kept;

// One for the process, under its lock.
static struct {
  pthread_mutex_t lock;
  kept *classes[CLASSES];
  kept *oldest, *newest;
  uint64_t active, peak, cached, limit, cache_limit;
  bool cache_limit_known;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

// The class of a size and the size of its blocks; false if there is none.
static bool class_of(size_t size, int *class, size_t *bytes) {
  *class = 0;
  if (size <= SMALLEST) {
    *bytes = SMALLEST;
    return true;
  }
  if (size > SIZE_MAX / 2) return false;
  int top = 63 - __builtin_clzll((unsigned long long)size - 1); // 2^top < size <= 2^(top + 1)
  size_t step = (size_t)1 << (top - 2), steps = (size - ((size_t)1 << top) + step - 1) / step;
  *class = 4 * (top - 6) + (int)steps;
  *bytes = ((size_t)1 << top) + steps * step;
  return true;
}

static void unlink_kept(kept *k, int class) {
  *(k->class_before ? &k->class_before->class_after : &pool.classes[class]) = k->class_after;
  if (k->class_after) k->class_after->class_before = k->class_before;
  *(k->older ? &k->older->newer : &pool.oldest) = k->newer;
  *(k->newer ? &k->newer->older : &pool.newest) = k->older;
  pool.cached -= k->bytes;
}

static void keep(void *p, int class, size_t bytes) {
  kept *k = p;
  *k = (kept){.class_after = pool.classes[class], .older = pool.newest, .bytes = bytes};
  if (k->class_after) k->class_after->class_before = k;
  pool.classes[class] = k;
  *(k->older ? &k->older->newer : &pool.oldest) = k;
  pool.newest = k;
  pool.cached += bytes;
}

// Takes the oldest blocks out until at most `limit` bytes are kept; they are linked by `older` and given back outside the lock.
static kept *take_out(uint64_t limit) {
  kept *out = NULL;
  while (pool.cached > limit && pool.oldest) {
    kept *k = pool.oldest;
    int class;
    size_t bytes;
    class_of(k->bytes, &class, &bytes);
    unlink_kept(k, class);
    k->older = out;
    out = k;
  }
  return out;
}

static void give_back(kept *k) {
  while (k) {
    kept *next = k->older;
    zmi_block_free(k, k->bytes);
    k = next;
  }
}

static void know_cache_limit(void) {
  if (pool.cache_limit_known) return;
  pool.cache_limit_known = true;
  const uint64_t available = zmi_memory_available();
  pool.cache_limit = available ? available / 4 : (uint64_t)1 << 30;
}

void *zmi_buffer_alloc(size_t size) {
  int class;
  size_t bytes;
  if (!class_of(size, &class, &bytes)) return zmi_block_alloc(SIZE_MAX); // sets the error
  pthread_mutex_lock(&pool.lock);
  know_cache_limit();
  kept *found = pool.classes[class], *out = NULL;
  bool over = pool.limit && pool.active + bytes > pool.limit;
  const uint64_t active = pool.active, limit = pool.limit;
  if (!over) {
    if (found)
      unlink_kept(found, class);
    else if (pool.limit && pool.active + pool.cached + bytes > pool.limit)
      out = take_out(pool.limit - pool.active - bytes);
    pool.active += bytes;
    pool.peak = ZMI_MAX(pool.peak, pool.active);
  }
  pthread_mutex_unlock(&pool.lock);
  if (over) {
    zmi_fail(ZM_ERROR_MEMORY, "out of memory: %zu more bytes would pass the limit of %llu, %llu are in use; see zm_memory_set_limit", bytes,
             (unsigned long long)limit, (unsigned long long)active);
    return NULL;
  }
  give_back(out);
  if (found) return found;
  void *p = zmi_block_alloc(bytes);
  if (!p && zm_memory_cache() > 0) { // what is kept may be what is missing
    zm_memory_clear_cache();
    p = zmi_block_alloc(bytes);
  }
  if (p) return p;
  pthread_mutex_lock(&pool.lock);
  pool.active -= bytes;
  pthread_mutex_unlock(&pool.lock);
  return NULL;
}

void zmi_buffer_free(void *p, size_t size) {
  int class;
  size_t bytes;
  if (!p || !class_of(size, &class, &bytes)) return;
  pthread_mutex_lock(&pool.lock);
  pool.active -= bytes;
  kept *out = NULL;
  bool fits = bytes <= pool.cache_limit;
  if (fits) {
    keep(p, class, bytes);
    out = take_out(pool.cache_limit);
  }
  pthread_mutex_unlock(&pool.lock);
  if (!fits) zmi_block_free(p, bytes);
  give_back(out);
}

// ---- what users ask ----

static uint64_t read_locked(const uint64_t *value) {
  pthread_mutex_lock(&pool.lock);
  uint64_t v = *value;
  pthread_mutex_unlock(&pool.lock);
  return v;
}

uint64_t zm_memory_active(void) {
  return read_locked(&pool.active);
}

uint64_t zm_memory_peak(void) {
  return read_locked(&pool.peak);
}

uint64_t zm_memory_cache(void) {
  return read_locked(&pool.cached);
}

void zm_memory_reset_peak(void) {
  pthread_mutex_lock(&pool.lock);
  pool.peak = pool.active;
  pthread_mutex_unlock(&pool.lock);
}

uint64_t zm_memory_set_limit(uint64_t bytes) {
  pthread_mutex_lock(&pool.lock);
  uint64_t old = pool.limit;
  pool.limit = bytes;
  pthread_mutex_unlock(&pool.lock);
  return old;
}

uint64_t zm_memory_set_cache_limit(uint64_t bytes) {
  pthread_mutex_lock(&pool.lock);
  know_cache_limit();
  uint64_t old = pool.cache_limit;
  pool.cache_limit = bytes;
  kept *out = take_out(bytes);
  pthread_mutex_unlock(&pool.lock);
  give_back(out);
  return old;
}

void zm_memory_clear_cache(void) {
  pthread_mutex_lock(&pool.lock);
  kept *out = take_out(0);
  pthread_mutex_unlock(&pool.lock);
  give_back(out);
}
