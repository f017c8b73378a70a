// Jobs in phases: every tile is done once, a phase sees all of what is before it, late workers hold nobody up, and running out of memory
// or being inside a run of the same pool only costs speed.
#define _GNU_SOURCE 1
#include "base/base.h"

#include <setjmp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { MOST_JOBS = 40, MOST_TILES = 300 };

// Tile t of job j writes cells[j][t]. The first job of a phase reads all cells of the phase before (plain memory: TSan checks the order).
typedef struct relay {
  zmi_pool *pool;
  zmi_job jobs[MOST_JOBS];
  size_t count;
  int64_t round, cells[MOST_JOBS][MOST_TILES];
  atomic_int wrong, slow_calls;
  bool sleepy; // the worker that comes first to the first tile of a job sleeps
} relay;

static void run_tiles(void *user, size_t job, int64_t begin, int64_t end) {
  relay *r = user;
  size_t last = job; // of the phases before
  while (last > 0 && !r->jobs[last].barrier) last--;
  if (r->sleepy && begin == 0) {
    struct timespec late = {0, 3000000};
    nanosleep(&late, NULL);
  }
  for (size_t j = 0; j < last; j++) {
    for (int64_t t = 0; t < r->jobs[j].tiles; t++)
      if (r->cells[j][t] != r->round) atomic_fetch_add(&r->wrong, 1);
  }
  for (int64_t t = begin; t < end; t++) {
    if (r->cells[job][t] != r->round - 1) atomic_fetch_add(&r->wrong, 1); // twice, or not in the round before
    r->cells[job][t] = r->round;
  }
}

static void make_jobs(relay *r, size_t count, unsigned seed) {
  memset(r, 0, sizeof *r);
  r->count = count;
  for (size_t i = 0; i < count; i++) {
    seed = seed * 1664525u + 1013904223u;
    const int64_t tiles = (seed >> 8) % 3 == 0 ? 1 : 1 + (seed >> 10) % MOST_TILES;
    r->jobs[i] = (zmi_job){.tiles = tiles, .least = 1 + (seed >> 20) % 8, .barrier = i == 0 || (seed >> 28) % 4 != 0};
  }
}

static void check_round(const relay *r) {
  for (size_t j = 0; j < r->count; j++) {
    for (int64_t t = 0; t < r->jobs[j].tiles; t++) assert_true(r->cells[j][t] == r->round);
  }
}

static void every_tile_once_in_order(void **state) {
  (void)state;
  static relay r;
  for (int workers = 1; workers <= 9; workers += workers < 4 ? 1 : 5) {
    make_jobs(&r, MOST_JOBS, (unsigned)workers);
    zmi_pool *pool = zmi_pool_new(workers);
    zmi_phases *p = zmi_phases_new(r.jobs, r.count);
    assert_true(pool && p);
    for (r.round = 1; r.round <= 60; r.round++) {
      zmi_phases_run(p, pool, 0, r.count, run_tiles, &r, NULL);
      check_round(&r);
    }
    assert_int_equal(atomic_load(&r.wrong), 0);
    zmi_phases_free(p);
    zmi_pool_free(pool);
  }
  zmi_phases_free(NULL);
}

// One list with pools of other sizes, and in parts.
static void pools_and_parts(void **state) {
  (void)state;
  static relay r;
  make_jobs(&r, 12, 77);
  zmi_phases *p = zmi_phases_new(r.jobs, r.count);
  for (int workers = 1; workers <= 5; workers++) {
    zmi_pool *pool = zmi_pool_new(workers);
    r.round++;
    for (size_t i = 0; i < r.count; i++) zmi_phases_run(p, pool, i, i + 1, run_tiles, &r, NULL);
    check_round(&r);
    zmi_pool_free(pool);
  }
  assert_int_equal(atomic_load(&r.wrong), 0);
  zmi_phases_free(p);
}

// Somebody sleeps in each job, longer than others spin: they sleep too, and are woken.
static void sleepers_are_woken(void **state) {
  (void)state;
  static relay r;
  for (int workers = 2; workers <= 5; workers += 3) {
    make_jobs(&r, 12, 5);
    r.sleepy = true;
    zmi_pool *pool = zmi_pool_new(workers);
    zmi_phases *p = zmi_phases_new(r.jobs, r.count);
    for (r.round = 1; r.round <= 3; r.round++) {
      zmi_phases_run(p, pool, 0, r.count, run_tiles, &r, NULL);
      check_round(&r);
    }
    assert_int_equal(atomic_load(&r.wrong), 0);
    zmi_phases_free(p);
    zmi_pool_free(pool);
  }
}

// ---- who is late ----

// Worker 1 is held in its first piece of the first job until all tiles of the first phase but that piece are done by others.
typedef struct hold {
  atomic_int held;
  atomic_long done;
  int64_t piece;
  atomic_int most; // pieces that the holding call has
} hold;

static _Thread_local bool is_caller;

static void hold_run(void *user, size_t job, int64_t begin, int64_t end) {
  hold *h = user;
  int none = 0;
  if (job == 0 && !is_caller && atomic_compare_exchange_strong(&h->held, &none, 1)) {
    h->piece = end - begin;
    const struct timespec moment = {0, 1000000};
    for (int i = 0; i < 20000 && atomic_load(&h->done) < 64 - h->piece; i++) nanosleep(&moment, NULL);
    atomic_store(&h->most, (int)atomic_load(&h->done));
  } else if (job == 0 && is_caller) { // at least one tile is the other's
    const struct timespec moment = {0, 1000000};
    for (int i = 0; i < 20000 && !atomic_load(&h->held); i++) nanosleep(&moment, NULL);
  }
  if (job == 0) atomic_fetch_add(&h->done, (long)(end - begin));
}

static void a_held_worker_loses_only_what_it_has_in_hand(void **state) {
  (void)state;
  const zmi_job jobs[] = {{64, 1, true}, {2, 1, true}};
  hold h = {0};
  zmi_pool *pool = zmi_pool_new(2);
  if (zmi_pool_workers(pool) == 2) {
    zmi_phases *p = zmi_phases_new(jobs, 2);
    is_caller = true;
    zmi_phases_run(p, pool, 0, 2, hold_run, &h, NULL);
    is_caller = false;
    assert_int_equal(atomic_load(&h.done), 64);
    assert_int_equal(atomic_load(&h.most), 64 - h.piece); // the caller did all the rest of the other's place
    assert_in_range(h.piece, 1, 4); // an eighth of a place
    zmi_phases_free(p);
  }
  zmi_pool_free(pool);
}

// ---- very many tiles ----

static void add_tiles(void *user, size_t job, int64_t begin, int64_t end) {
  (void)job;
  atomic_fetch_add((_Atomic int64_t *)user, end - begin);
}

static void more_tiles_than_words_count(void **state) {
  (void)state;
  const zmi_job jobs[] = {{((int64_t)1 << 40) + 5, 1, true}, {((int64_t)1 << 31) - 1, 1 << 20, true}};
  _Atomic int64_t done = 0;
  for (int workers = 1; workers <= 3; workers++) {
    zmi_pool *pool = zmi_pool_new(workers);
    zmi_phases *p = zmi_phases_new(jobs, 2);
    for (int round = 0; round < 2; round++) {
      atomic_store(&done, 0);
      zmi_phases_run(p, pool, 0, 2, add_tiles, &done, NULL);
      assert_true(atomic_load(&done) == jobs[0].tiles + jobs[1].tiles);
    }
    zmi_phases_free(p);
    zmi_pool_free(pool);
  }
}

// ---- alone ----

typedef struct nested {
  zmi_pool *pool;
  zmi_phases *inner;
  relay r;
} nested;

static void run_inner(void *user, int worker, int workers) {
  nested *n = user;
  (void)workers;
  if (worker == 0) zmi_phases_run(n->inner, n->pool, 0, n->r.count, run_tiles, &n->r, NULL);
}

static void inside_a_run_of_the_same_pool(void **state) {
  (void)state;
  static nested n;
  make_jobs(&n.r, 10, 3);
  n.r.round = 1;
  n.pool = zmi_pool_new(3);
  n.inner = zmi_phases_new(n.r.jobs, n.r.count);
  zmi_pool_run(n.pool, run_inner, &n);
  check_round(&n.r);
  zmi_phases_free(n.inner);
  zmi_pool_free(n.pool);
}

static void each_allocation_fails(void **state) {
  (void)state;
  static relay r;
  make_jobs(&r, 8, 9);
  zmi_pool *pool = zmi_pool_new(3);
  for (uint64_t n = 1;; n++) {
    uint64_t before = zmi_alloc_count();
    zmi_alloc_fail_at(n);
    zmi_phases *p = zmi_phases_new(r.jobs, r.count);
    if (p) { // without memory to share out, the caller does everything
      r.round++;
      zmi_phases_run(p, pool, 0, r.count, run_tiles, &r, NULL);
      check_round(&r);
    }
    zmi_alloc_fail_at(0);
    bool all = zmi_alloc_count() - before < n;
    if (!p) assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
    zmi_phases_free(p);
    if (all) break;
    assert_true(n < 10);
  }
  assert_int_equal(atomic_load(&r.wrong), 0);
  zmi_pool_free(pool);
}

// ---- stamps ----

static void stamps_add_up(void **state) {
  (void)state;
  static relay r;
  make_jobs(&r, 10, 21);
  for (int workers = 1; workers <= 3; workers += 2) {
    zmi_job_time times[3 * 16] = {0};
    const zmi_phase_watch watch = {times, 16};
    zmi_pool *pool = zmi_pool_new(workers);
    zmi_phases *p = zmi_phases_new(r.jobs, r.count);
    r.round++;
    const double start = zmi_now();
    zmi_phases_run(p, pool, 0, r.count, run_tiles, &r, &watch);
    const double end = zmi_now();
    for (int w = 0; w < workers; w++) {
      double worked = 0, last = start;
      for (size_t i = 0; i < r.count; i++) {
        const zmi_job_time *t = &times[(size_t)w * 16 + i];
        worked += t->worked;
        if (!r.jobs[i].barrier) continue;
        assert_true(t->begun >= last && t->ended >= t->begun && t->ended <= end);
        last = t->ended;
      }
      assert_true(worked <= end - start);
      if (workers == 1) assert_true(worked > 0);
    }
    zmi_phases_free(p);
    zmi_pool_free(pool);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_tile_once_in_order),    cmocka_unit_test(pools_and_parts),
      cmocka_unit_test(sleepers_are_woken),          cmocka_unit_test(a_held_worker_loses_only_what_it_has_in_hand),
      cmocka_unit_test(more_tiles_than_words_count), cmocka_unit_test(inside_a_run_of_the_same_pool),
      cmocka_unit_test(each_allocation_fails),       cmocka_unit_test(stamps_add_up),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
