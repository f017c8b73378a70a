// Jobs shared out by tiles. Each worker has its place in each job and takes it in pieces, large ones first; who has done its own takes what
// is left of its neighbours'. A phase ends with its last tile, whoever did it: nobody waits for a worker that has nothing in hand, because
// the system took it off its core or has not woken it up yet. It finds its work done, and goes on with the others.
#include "base/event.h"

#include <string.h>

// Pieces: an eighth of what is left of a place, but not less than a 64th of it. A worker that comes late, or that others push off its core,
// may hold up the end of a phase by the piece in its hand, and its place is taken by others piece by piece: the largest piece says how well
// they share it. A worker out of work looks at the places of its neighbours. It gives them a moment first, a longer one where places are
// single pieces: they are nearly always on their way, a look takes the line of their counter away from them, and what they read may lie in
// their own caches. For the same reason it looks at few of them then; a place of many pieces is work for all.
// Where there are PAIRS units for each worker, places and their pieces begin at even units: kernels take two blocks of weights together.
enum { PAIRS = 16, PART = 8, LEAST_SHARE = 64, GRACE = 12, GRACE_OF_PIECES = 100, NEIGHBOURS = 32, NEIGHBOURS_OF_PIECES = 4 };

// A job in units: of one tile each, or of as many as make the units few enough for 31 bits.
typedef struct job {
  int64_t tiles, unit, units, least;
  bool barrier;
} job;

struct zmi_phases {
  job *jobs;
  size_t count;
  int workers;               // that there is memory for
  _Atomic uint64_t *taken;   // [workers][count]: of a place, the run (above) and the units that somebody has taken in it
  _Atomic int64_t *finished; // [count]: units of a phase, at its first job; zero again when it has ended
  zmi_event ended;           // its value: phases
  // one run
  uint32_t run;
  size_t first, last;
  unsigned before; // value of `ended` when the run began
  bool spin;
  zmi_job_fn fn;
  void *user;
  const zmi_phase_watch *watch;
};

static job job_of(const zmi_job *given) {
  job j = {.tiles = given->tiles, .unit = 1 + (given->tiles >> 31), .barrier = given->barrier};
  j.units = (j.tiles + j.unit - 1) / j.unit;
  j.least = (given->least + j.unit - 1) / j.unit;
  return j;
}

zmi_phases *zmi_phases_new(const zmi_job *jobs, size_t count) {
  zmi_phases *p = zmi_block_alloc(sizeof *p);
  if (!p) return NULL;
  memset(p, 0, sizeof *p);
  p->jobs = zmi_malloc((count + 1) * sizeof *p->jobs);
  if (p->jobs && zmi_event_init(&p->ended)) {
    for (size_t i = 0; i < count; i++) p->jobs[i] = job_of(&jobs[i]);
    p->count = count;
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
  p->taken = zmi_calloc((size_t)workers * p->count + 1, sizeof *p->taken);
  p->finished = zmi_calloc(p->count + 1, sizeof *p->finished);
  if (!p->taken || !p->finished) return false;
  p->workers = workers;
  return true;
}

static zmi_job_time *times_of(const zmi_phases *p, int worker) {
  return p->watch->times + (size_t)worker * p->watch->stride;
}

// ---- tiles ----

// Units begin to end - 1.
static void do_piece(const zmi_phases *p, int worker, size_t i, int64_t begin, int64_t end) {
  const job *j = &p->jobs[i];
  begin *= j->unit;
  end = ZMI_MIN(end * j->unit, j->tiles);
  if (!p->watch) {
    p->fn(p->user, i, begin, end);
    return;
  }
  double start = zmi_now();
  p->fn(p->user, i, begin, end);
  times_of(p, worker)[i].worked += zmi_now() - start;
}

// A worker's place in a job: units from `begin` on, taken at least `least` at a time, and a multiple of `step` while there are.
typedef struct place {
  int64_t begin, size, least, step;
} place;

static place place_of(const zmi_phases *p, size_t i, int whose) {
  const job *j = &p->jobs[i];
  const int64_t step = j->units >= PAIRS * (int64_t)p->workers ? 2 : 1, last = whose + 1;
  place at = {.begin = j->units * whose / p->workers / step * step, .step = step};
  at.size = (last < p->workers ? j->units * last / p->workers / step * step : j->units) - at.begin;
  at.least = ZMI_MAX(j->least, at.size / LEAST_SHARE);
  return at;
}

// Works on the place of `whose` in a job until nothing is left there; returns how many units it did.
static int64_t do_place(zmi_phases *p, size_t i, int worker, int whose) {
  const place at = place_of(p, i, whose);
  if (at.size == 0) return 0;
  const uint64_t run = (uint64_t)p->run << 32;
  _Atomic uint64_t *taken = &p->taken[(size_t)whose * p->count + i];
  uint64_t seen = atomic_load_explicit(taken, memory_order_relaxed);
  int64_t did = 0;
  for (;;) {
    const int64_t gone = (seen ^ run) >> 32 ? 0 : (int64_t)(uint32_t)seen; // what an earlier run has left there counts for nothing
    if (gone >= at.size) return did;
    const int64_t part = ZMI_MAX((at.size - gone + PART - 1) / PART, at.least);
    const int64_t piece = ZMI_MIN((part + at.step - 1) / at.step * at.step, at.size - gone);
    const uint64_t next = run | (uint64_t)(gone + piece);
    if (!atomic_compare_exchange_weak_explicit(taken, &seen, next, memory_order_relaxed, memory_order_relaxed)) continue;
    do_piece(p, worker, i, at.begin + gone, at.begin + gone + piece);
    did += piece;
    seen = next;
  }
}

// The jobs from i to the end of its phase; *units becomes those of all of them.
static size_t phase_end(const zmi_phases *p, size_t i, int64_t *units) {
  *units = p->jobs[i].units;
  for (i++; i < p->last && !p->jobs[i].barrier; i++) *units += p->jobs[i].units;
  return i;
}

// Whether the phase ends within a moment.
static bool ends_soon(const zmi_phases *p, unsigned phase, int grace) {
  for (int i = 0; i < grace; i++) {
    if (zmi_event_past(&p->ended, phase)) return true;
    zmi_relax();
  }
  return false;
}

// Does what is left of a phase: of the worker's own places and then of its neighbours'. Counts its units, and ends the phase if they were
// the last ones.
static bool do_phase(zmi_phases *p, unsigned phase, size_t first, size_t end, int64_t units, int worker) {
  bool pieces = false;
  int looks = 0; // at neighbours, when the own places are done
  for (int n = 0; n <= looks; n++) {
    int64_t did = 0;
    for (size_t i = first; i < end; i++) did += do_place(p, i, worker, (worker + n) % p->workers);
    // Results of all tiles are seen behind the event: each worker's count follows its work, and the last one advances the event.
    if (did > 0 && atomic_fetch_add(&p->finished[first], did) + did == units) {
      atomic_store_explicit(&p->finished[first], 0, memory_order_relaxed);
      zmi_event_advance(&p->ended);
      return true;
    }
    if (n > 0) continue;
    for (size_t i = first; i < end; i++) {
      const place at = place_of(p, i, worker);
      pieces = pieces || at.size > at.least;
    }
    looks = ZMI_MIN(pieces ? NEIGHBOURS : NEIGHBOURS_OF_PIECES, p->workers - 1);
    const int grace = pieces ? GRACE : GRACE_OF_PIECES;
    if (ends_soon(p, phase, p->spin ? grace : 0)) return true;
  }
  return false;
}

// ---- runs ----

static void play_alone(zmi_phases *p) {
  for (size_t i = p->first; i < p->last; i++) {
    if (p->watch) times_of(p, 0)[i].begun = zmi_now();
    do_piece(p, 0, i, 0, p->jobs[i].units);
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
    int64_t units;
    bool over = zmi_event_past(&p->ended, phase);
    end = phase_end(p, i, &units);
    if (p->watch) times_of(p, worker)[i].begun = zmi_now();
    if (!over) over = do_phase(p, phase, i, end, units, worker);
    if (p->watch) times_of(p, worker)[i].ended = zmi_now();
    if (!over && end < p->last) zmi_event_wait(&p->ended, phase, p->spin);
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
    p->run++;
    p->before = atomic_load(&p->ended.value);
    p->spin = zmi_pool_spins(pool);
  }
  zmi_pool_run(pool, play, p);
}
