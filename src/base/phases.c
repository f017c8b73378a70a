// Jobs shared out by tiles. Each worker has its place in each job and takes it in pieces, large ones first; who has done its own takes what
// is left of its neighbours'. A phase ends with its last tile, whoever did it: nobody waits for a worker that has nothing in hand, because
// the system took it off its core or has not woken it up yet. It finds its work done, and goes on with the others.
#include "base/event.h"

#include <string.h>

// Pieces: half of what is left of a place, but not less than a sixteenth of it. A worker out of work looks at the places of four others.
enum { LEAST_SHARE = 16, NEIGHBOURS = 4, LINE = ZMI_CACHE_LINE / sizeof(int64_t) };

struct zmi_phases {
  zmi_job *jobs;
  size_t count;
  int workers;               // that there is memory for
  size_t stride;             // count, in whole cache lines
  _Atomic int64_t *taken;    // [workers][stride]: of a place, the tiles that somebody has taken
  _Atomic int64_t *finished; // [count]: tiles of a phase, at its first job
  zmi_event ended;           // its value: phases
  // one run
  size_t first, last;
  unsigned before; // value of `ended` when the run began
  bool spin;
  zmi_job_fn fn;
  void *user;
  const zmi_phase_watch *watch;
};

zmi_phases *zmi_phases_new(const zmi_job *jobs, size_t count) {
  zmi_phases *p = zmi_block_alloc(sizeof *p);
  if (!p) return NULL;
  memset(p, 0, sizeof *p);
  p->jobs = zmi_malloc((count + 1) * sizeof *jobs);
  if (p->jobs && zmi_event_init(&p->ended)) {
    if (count) memcpy(p->jobs, jobs, count * sizeof *jobs);
    p->count = count;
    p->stride = (count + LINE - 1) / LINE * LINE;
    return p;
  }
  if (p->jobs) zmi_fail(ZM_ERROR_MEMORY, "out of memory: no lock for a list of jobs could be made");
  zmi_free(p->jobs);
  zmi_block_free(p, sizeof *p);
  return NULL;
}

void zmi_phases_free(zmi_phases *p) {
  if (!p) return;
  zmi_event_destroy(&p->ended);
  zmi_free(p->taken);
  zmi_free(p->finished);
  zmi_free(p->jobs);
  zmi_block_free(p, sizeof *p);
}

static bool reserve(zmi_phases *p, int workers) {
  if (workers == p->workers) return true;
  zmi_free(p->taken);
  zmi_free(p->finished);
  p->workers = 0;
  p->taken = zmi_calloc((size_t)workers * p->stride + 1, sizeof *p->taken);
  p->finished = zmi_calloc(p->count + 1, sizeof *p->finished);
  if (!p->taken || !p->finished) return false;
  p->workers = workers;
  return true;
}

static zmi_job_time *times_of(const zmi_phases *p, int worker) {
  return p->watch->times + (size_t)worker * p->watch->stride;
}

// ---- tiles ----

static void do_piece(const zmi_phases *p, int worker, size_t job, int64_t begin, int64_t end) {
  if (!p->watch) {
    p->fn(p->user, job, begin, end);
    return;
  }
  double start = zmi_now();
  p->fn(p->user, job, begin, end);
  times_of(p, worker)[job].worked += zmi_now() - start;
}

// Works on the place of `whose` in a job until nothing is left there; returns how many tiles it did.
static int64_t do_place(zmi_phases *p, size_t i, int worker, int whose) {
  const zmi_job *job = &p->jobs[i];
  _Atomic int64_t *taken = &p->taken[(size_t)whose * p->stride + i];
  int64_t begin = job->tiles * whose / p->workers, size = job->tiles * (whose + 1) / p->workers - begin, did = 0;
  int64_t least = ZMI_MAX(job->least, size / LEAST_SHARE), at = atomic_load_explicit(taken, memory_order_relaxed);
  while (at < size) {
    int64_t piece = ZMI_MIN(ZMI_MAX((size - at + 1) / 2, least), size - at);
    if (!atomic_compare_exchange_weak_explicit(taken, &at, at + piece, memory_order_relaxed, memory_order_relaxed)) continue;
    do_piece(p, worker, i, begin + at, begin + at + piece);
    did += piece;
    at = atomic_load_explicit(taken, memory_order_relaxed);
  }
  return did;
}

// The jobs from i to the end of its phase; *tiles becomes those of all of them.
static size_t phase_end(const zmi_phases *p, size_t i, int64_t *tiles) {
  *tiles = p->jobs[i].tiles;
  for (i++; i < p->last && !p->jobs[i].barrier; i++) *tiles += p->jobs[i].tiles;
  return i;
}

static int64_t do_phase(zmi_phases *p, size_t first, size_t end, int worker) {
  int64_t did = 0;
  for (int n = 0; n <= ZMI_MIN(NEIGHBOURS, p->workers - 1); n++) {
    for (size_t i = first; i < end; i++) did += do_place(p, i, worker, (worker + n) % p->workers);
  }
  return did;
}

// ---- runs ----

static void play_alone(zmi_phases *p) {
  for (size_t i = p->first; i < p->last; i++) {
    if (p->watch) times_of(p, 0)[i].begun = zmi_now();
    do_piece(p, 0, i, 0, p->jobs[i].tiles);
    if (p->watch) times_of(p, 0)[i].ended = zmi_now();
  }
}

static void play(void *user, int worker, int workers) {
  zmi_phases *p = user;
  if (workers == 1 || workers != p->workers) { // the latter: without memory for sharing out, one does it all
    if (worker == 0) play_alone(p);
    return;
  }
  size_t end;
  unsigned phase = p->before;
  for (size_t i = p->first; i < p->last; i = end, phase++) {
    int64_t tiles, did = 0;
    end = phase_end(p, i, &tiles);
    if (p->watch) times_of(p, worker)[i].begun = zmi_now();
    if (!zmi_event_past(&p->ended, phase)) did = do_phase(p, i, end, worker);
    if (p->watch) times_of(p, worker)[i].ended = zmi_now();
    // Results of all tiles are seen behind the event: each worker's count follows its work, and the last one advances the event.
    bool all = did > 0 && atomic_fetch_add(&p->finished[i], did) + did == tiles;
    if (all) zmi_event_advance(&p->ended);
    if (!all && end < p->last) zmi_event_wait(&p->ended, phase, p->spin);
  }
}

void zmi_phases_run(zmi_phases *p, zmi_pool *pool, size_t first, size_t last, zmi_job_fn fn, void *user, const zmi_phase_watch *watch) {
  p->first = first;
  p->last = last;
  p->fn = fn;
  p->user = user;
  p->watch = watch;
  const int workers = zmi_pool_workers(pool);
  if (workers > 1 && reserve(p, workers)) {
    memset((void *)p->taken, 0, (size_t)workers * p->stride * sizeof *p->taken);
    memset((void *)p->finished, 0, p->count * sizeof *p->finished);
    p->before = atomic_load(&p->ended.value);
    p->spin = workers <= zmi_cpu_count();
  }
  zmi_pool_run(pool, play, p);
}
