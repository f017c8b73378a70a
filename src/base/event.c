// Events: spin for a while, then sleep.
#include "base/event.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { SPINS_PER_LOOK = 32, NAPS = 64 };
enum { PATIENCE_LEAST = 4, PATIENCE_MOST = 64 }; // microseconds of spinning; the most is about what waking up costs

void zmi_relax(void) {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

bool zmi_event_init(zmi_event *e) {
  atomic_init(&e->value, 0);
  atomic_init(&e->sleepers, 0);
  atomic_init(&e->patience, PATIENCE_MOST);
  atomic_init(&e->naps, 0);
  if (pthread_mutex_init(&e->mutex, NULL) != 0) return false;
  if (pthread_cond_init(&e->changed, NULL) == 0) return true;
  pthread_mutex_destroy(&e->mutex);
  return false;
}

void zmi_event_destroy(zmi_event *e) {
  pthread_cond_destroy(&e->changed);
  pthread_mutex_destroy(&e->mutex);
}

void zmi_event_advance(zmi_event *e) {
  atomic_fetch_add(&e->value, 1);
  if (atomic_load(&e->sleepers) == 0) return;
  pthread_mutex_lock(&e->mutex);
  pthread_cond_broadcast(&e->changed);
  pthread_mutex_unlock(&e->mutex);
}

bool zmi_event_past(const zmi_event *e, unsigned seen) {
  return (int)(atomic_load(&e->value) - seen) > 0;
}

// True if the value went past `seen` while there was patience.
static bool spin_until(const zmi_event *e, unsigned seen, unsigned patience) {
  for (double end = zmi_now() + patience * 1e-6; zmi_now() < end;) {
    for (int i = 0; i < SPINS_PER_LOOK; i++) {
      zmi_relax();
      if (zmi_event_past(e, seen)) return true;
    }
  }
  return false;
}

static void sleep_until(zmi_event *e, unsigned seen) {
  pthread_mutex_lock(&e->mutex);
  atomic_fetch_add(&e->sleepers, 1);
  while (!zmi_event_past(e, seen)) pthread_cond_wait(&e->changed, &e->mutex);
  atomic_fetch_sub(&e->sleepers, 1);
  pthread_mutex_unlock(&e->mutex);
}

void zmi_event_wait(zmi_event *e, unsigned seen, bool spin) {
  if (zmi_event_past(e, seen)) return;
  if (!spin) {
    sleep_until(e, seen);
    return;
  }
  unsigned patience = atomic_load_explicit(&e->patience, memory_order_relaxed), tried = patience, next;
  if (patience == PATIENCE_LEAST && atomic_fetch_add_explicit(&e->naps, 1, memory_order_relaxed) % NAPS == NAPS - 1) tried = PATIENCE_MOST;
  if (spin_until(e, seen, tried)) {
    next = ZMI_MIN(tried * 2, (unsigned)PATIENCE_MOST);
  } else {
    next = ZMI_MAX(patience / 2, (unsigned)PATIENCE_LEAST);
    sleep_until(e, seen);
  }
  if (next != patience) atomic_store_explicit(&e->patience, next, memory_order_relaxed);
}
