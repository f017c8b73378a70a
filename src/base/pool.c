// The worker pool: a fixed set of threads that run a function together and sleep in between.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "base/event.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { MAX_WORKERS = 1024 };

struct zmi_pool {
  int workers;
  int started; // threads that exist: workers - 1
  bool spin;   // false when there are more workers than CPUs: the awaited worker may need this CPU
  bool quit;   // written before `start` changes
  zmi_pool_fn fn;
  void *user;
  pthread_mutex_t turn;
  zmi_event start;                          // changes once a run
  zmi_event done;                           // changes when the last worker of a run has finished
  _Alignas(ZMI_CACHE_LINE) atomic_int busy; // other workers that have not finished the run
  pthread_t *threads;
  struct thread_arg *args;
};

typedef struct thread_arg {
  zmi_pool *pool;
  int worker;
} thread_arg;

// The runs that this thread is inside of, innermost first.
typedef struct frame {
  const zmi_pool *pool;
  const struct frame *outer;
  bool alone; // a run started from inside a run of the same pool
} frame;

static _Thread_local const frame *frames;

// ---- the float rule ----

unsigned zmi_float_rule_enter(void) {
#if defined(__x86_64__)
  unsigned saved = _mm_getcsr();
  _mm_setcsr(0x1F80u | 0x8040u); // exceptions masked, to nearest even | denormal results and inputs count as zero
  return saved;
#elif defined(__aarch64__)
  uint64_t saved, wanted = (uint64_t)1 << 24; // FZ alone: to nearest even, NaNs as they are
  __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
  __asm__ volatile("msr fpcr, %0" : : "r"(wanted) : "memory");
  return (unsigned)saved;
#else
  unsigned saved = (unsigned)fegetround();
  fesetround(FE_TONEAREST);
  return saved;
#endif
}

void zmi_float_rule_leave(unsigned saved) {
#if defined(__x86_64__)
  _mm_setcsr(saved);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)saved) : "memory");
#else
  fesetround((int)saved);
#endif
}

// ---- workers ----

static void call(zmi_pool *p, int worker, int workers, bool alone) {
  frame f = {p, frames, alone};
  frames = &f;
  unsigned saved = zmi_float_rule_enter();
  p->fn(p->user, worker, workers);
  zmi_float_rule_leave(saved);
  frames = f.outer;
}

static void *work(void *arg) {
  thread_arg *a = arg;
  zmi_pool *p = a->pool;
  for (unsigned seen = 0;; seen++) {
    zmi_event_wait(&p->start, seen, p->spin);
    if (p->quit) return NULL;
    call(p, a->worker, p->workers, false);
    if (atomic_fetch_sub(&p->busy, 1) == 1) zmi_event_advance(&p->done);
  }
}

// Signals go to the program's own threads: an interrupt handler never runs on a worker. Faults of the worker itself stay its own.
static void start_threads(zmi_pool *p, int wanted) {
  static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGPROF};
  sigset_t all, before;
  sigfillset(&all);
  for (size_t i = 0; i < ZMI_COUNT(faults); i++) sigdelset(&all, faults[i]);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  for (; p->started < wanted - 1; p->started++) {
    p->args[p->started] = (thread_arg){p, p->started + 1};
    if (pthread_create(&p->threads[p->started], NULL, work, &p->args[p->started]) != 0) break; // fewer workers do the same work
#ifdef __linux__
    pthread_setname_np(p->threads[p->started], "zmlx-worker");
#endif
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static bool init_locks(zmi_pool *p) {
  if (pthread_mutex_init(&p->turn, NULL) != 0) return false;
  zmi_event *events[] = {&p->start, &p->done};
  for (size_t i = 0; i < ZMI_COUNT(events); i++) {
    if (zmi_event_init(events[i])) continue;
    while (i-- > 0) zmi_event_destroy(events[i]);
    pthread_mutex_destroy(&p->turn);
    return false;
  }
  return true;
}

// ZMLX_THREADS, or one for each usable CPU; 0 and an error if the variable makes no sense.
static int default_workers(void) {
  const char *text = zmi_env("ZMLX_THREADS");
  if (!text) return ZMI_MIN(zmi_cpu_count(), MAX_WORKERS);
  char *end;
  long n = strtol(text, &end, 10);
  if (*end == 0 && n >= 1 && n <= MAX_WORKERS) return (int)n;
  zmi_fail(ZM_ERROR_ARGUMENT, "environment variable ZMLX_THREADS is \"%s\": give a number from 1 to %d, or unset it", text, MAX_WORKERS);
  return 0;
}

zmi_pool *zmi_pool_new(int workers) {
  if (workers < 0 || workers > MAX_WORKERS) {
    zmi_fail(ZM_ERROR_ARGUMENT, "a pool of %d worker threads: give a number from 1 to %d, or 0 for one for each CPU", workers, MAX_WORKERS);
    return NULL;
  }
  if (workers == 0 && (workers = default_workers()) == 0) return NULL;
  zmi_pool *p = zmi_block_alloc(sizeof *p); // aligned to cache lines
  if (!p) return NULL;
  p->threads = zmi_calloc((size_t)workers, sizeof *p->threads);
  p->args = p->threads ? zmi_calloc((size_t)workers, sizeof *p->args) : NULL;
  bool locks = p->args && init_locks(p);
  if (!locks) {
    if (p->args) zmi_fail(ZM_ERROR_MEMORY, "out of memory: no lock for %d worker threads could be made", workers);
    zmi_free(p->args);
    zmi_free(p->threads);
    zmi_block_free(p, sizeof *p);
    return NULL;
  }
  p->spin = workers <= zmi_cpu_count();
  p->workers = workers;
  start_threads(p, workers);
  p->workers = p->started + 1; // read by workers only after the first run's event
  return p;
}

void zmi_pool_free(zmi_pool *p) {
  if (!p) return;
  p->quit = true;
  zmi_event_advance(&p->start);
  for (int i = 0; i < p->started; i++) pthread_join(p->threads[i], NULL);
  zmi_event_destroy(&p->start);
  zmi_event_destroy(&p->done);
  pthread_mutex_destroy(&p->turn);
  zmi_free(p->args);
  zmi_free(p->threads);
  zmi_block_free(p, sizeof *p);
}

int zmi_pool_workers(const zmi_pool *p) {
  return p->workers;
}

bool zmi_pool_spins(const zmi_pool *p) {
  return p->spin;
}

static const frame *find_frame(const zmi_pool *p) {
  const frame *f = frames;
  while (f && f->pool != p) f = f->outer;
  return f;
}

void zmi_pool_run(zmi_pool *p, zmi_pool_fn fn, void *user) {
  if (find_frame(p)) { // the pool is busy with us: waiting for it would never end, so this worker does the work alone
    frame f = {p, frames, true};
    frames = &f;
    fn(user, 0, 1);
    frames = f.outer;
    return;
  }
  pthread_mutex_lock(&p->turn);
  p->fn = fn;
  p->user = user;
  if (p->workers == 1) {
    call(p, 0, 1, false);
  } else {
    unsigned seen = atomic_load(&p->done.value);
    atomic_store(&p->busy, p->workers - 1);
    zmi_event_advance(&p->start);
    call(p, 0, p->workers, false);
    zmi_event_wait(&p->done, seen, p->spin);
  }
  pthread_mutex_unlock(&p->turn);
}
