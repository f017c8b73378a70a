// The worker pool: every worker runs once, callers take turns, mistakes do not hang, and the float rule is on inside a run
// and off after it.
#define _GNU_SOURCE 1
#include "base/base.h"

#include <fenv.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { MOST = 8 };

typedef struct counts {
  zmi_pool *pool;
  int calls[MOST], workers[MOST];
} counts;

static void count_call(void *user, int worker, int workers) {
  counts *c = user;
  c->calls[worker]++;
  c->workers[worker] = workers;
}

static void each_worker_runs_once(void **state) {
  (void)state;
  for (int n = 1; n <= MOST; n++) {
    counts c = {.pool = zmi_pool_new(n)};
    assert_non_null(c.pool);
    assert_int_equal(zmi_pool_workers(c.pool), n);
    for (int run = 1; run <= 200; run++) {
      zmi_pool_run(c.pool, count_call, &c);
      for (int i = 0; i < n; i++) assert_true(c.calls[i] == run && c.workers[i] == n);
      for (int i = n; i < MOST; i++) assert_int_equal(c.calls[i], 0);
    }
    zmi_pool_free(c.pool);
  }
  zmi_pool_free(NULL);
}

static void short_sleep(void *user, int worker, int workers) {
  (void)user, (void)workers;
  struct timespec some = {0, 300000000};
  if (worker == 0) nanosleep(&some, NULL);
}

static void waiting_costs_no_cpu(void **state) {
  (void)state;
  zmi_pool *p = zmi_pool_new(4);
  struct timespec before, after, idle = {0, 300000000};
  zmi_pool_run(p, short_sleep, NULL);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  nanosleep(&idle, NULL);             // idle workers
  zmi_pool_run(p, short_sleep, NULL); // workers that have finished before worker 0
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  double used = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
  assert_true(used < 0.2); // 0.6 s by four workers that never sleep would be more than 1 s
  zmi_pool_free(p);
}

// ---- several callers ----

typedef struct shared {
  zmi_pool *pool;
  int64_t plain;       // only ever touched by worker 0 of the run that has its turn
  atomic_int inside;
  atomic_int wrong;
} shared;

static void one_turn(void *user, int worker, int workers) {
  shared *s = user;
  if (atomic_fetch_add(&s->inside, 1) >= workers) atomic_fetch_add(&s->wrong, 1); // somebody of another run is in
  if (worker == 0) s->plain++;
  struct timespec moment = {0, 20000};
  nanosleep(&moment, NULL);
  atomic_fetch_sub(&s->inside, 1);
}

static void *caller(void *user) {
  shared *s = user;
  for (int i = 0; i < 200; i++) zmi_pool_run(s->pool, one_turn, s);
  return NULL;
}

static void callers_take_turns(void **state) {
  (void)state;
  for (int n = 1; n <= 3; n++) {
    shared s = {.pool = zmi_pool_new(n)};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, caller, &s), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_int_equal(s.plain, 800);
    assert_int_equal(atomic_load(&s.wrong), 0);
    zmi_pool_free(s.pool);
  }
}

// ---- mistakes ----

typedef struct nested {
  zmi_pool *outer, *inner;
  atomic_int inner_calls, alone;
} nested;

static void inside(void *user, int worker, int workers) {
  nested *n = user;
  atomic_fetch_add(&n->inner_calls, 1);
  if (worker == 0 && workers == 1) atomic_fetch_add(&n->alone, 1);
}

static void run_inside(void *user, int worker, int workers) {
  nested *n = user;
  (void)worker, (void)workers;
  zmi_pool_run(n->inner, inside, n);
}

static void nested_run_is_done_alone(void **state) {
  (void)state;
  for (int workers = 1; workers <= 4; workers++) {
    nested n = {0};
    n.outer = n.inner = zmi_pool_new(workers);
    zmi_pool_run(n.outer, run_inside, &n);
    assert_int_equal(atomic_load(&n.inner_calls), workers);
    assert_int_equal(atomic_load(&n.alone), workers);
    zmi_pool_free(n.outer);
  }
}

static void nested_run_of_another_pool_takes_turns(void **state) {
  (void)state;
  nested n = {.outer = zmi_pool_new(3), .inner = zmi_pool_new(2)};
  zmi_pool_run(n.outer, run_inside, &n);
  assert_int_equal(atomic_load(&n.inner_calls), 6);
  assert_int_equal(atomic_load(&n.alone), 0);
  zmi_pool_free(n.inner);
  zmi_pool_free(n.outer);
}

static void bad_worker_counts(void **state) {
  (void)state;
  const int bad[] = {-1, 1025, 1 << 30};
  for (size_t i = 0; i < ZMI_COUNT(bad); i++) {
    zmi_error_clear();
    assert_null(zmi_pool_new(bad[i]));
    assert_int_equal(zm_last_status(), ZM_ERROR_ARGUMENT);
  }
}

static void default_size(void **state) {
  (void)state;
  unsetenv("ZMLX_THREADS");
  zmi_pool *p = zmi_pool_new(0);
  assert_int_equal(zmi_pool_workers(p), zmi_cpu_count());
  zmi_pool_free(p);
  setenv("ZMLX_THREADS", "3", 1);
  p = zmi_pool_new(0);
  assert_int_equal(zmi_pool_workers(p), 3);
  zmi_pool_free(p);
  const char *const bad[] = {"0", "-2", "many", "2x", "99999999999999999999"};
  for (size_t i = 0; i < ZMI_COUNT(bad); i++) {
    setenv("ZMLX_THREADS", bad[i], 1);
    assert_null(zmi_pool_new(0));
    assert_non_null(strstr(zm_last_error(), bad[i]));
  }
  p = zmi_pool_new(1); // a number that is given wins
  assert_non_null(p);
  zmi_pool_free(p);
  unsetenv("ZMLX_THREADS");
}

static void each_allocation_fails(void **state) {
  (void)state;
  for (uint64_t n = 1;; n++) {
    uint64_t before = zmi_alloc_count();
    zmi_error_clear();
    zmi_alloc_fail_at(n);
    zmi_pool *p = zmi_pool_new(3);
    zmi_alloc_fail_at(0);
    if (zmi_alloc_count() - before < n) {
      assert_non_null(p);
      assert_true(n > 2);
      zmi_pool_free(p);
      break;
    }
    assert_null(p);
    assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
  }
}

static void without_threads_the_caller_works_alone(void **state) {
  (void)state;
#ifdef __GLIBC__
  pthread_attr_t before, huge; // no thread can have such a stack
  assert_int_equal(pthread_getattr_default_np(&before), 0);
  assert_int_equal(pthread_attr_init(&huge), 0);
  assert_int_equal(pthread_attr_setstacksize(&huge, (size_t)1 << 50), 0);
  assert_int_equal(pthread_setattr_default_np(&huge), 0);
  counts c = {.pool = zmi_pool_new(4)};
  assert_int_equal(pthread_setattr_default_np(&before), 0);
  pthread_attr_destroy(&huge);
  pthread_attr_destroy(&before);
  assert_non_null(c.pool);
  int workers = zmi_pool_workers(c.pool);
  assert_in_range(workers, 1, 4); // a sanitizer may choose stacks itself
  zmi_pool_run(c.pool, count_call, &c);
  for (int i = 0; i < MOST; i++) assert_int_equal(c.calls[i], i < workers);
  zmi_pool_free(c.pool);
#else
  skip();
#endif
}

// ---- the float rule ----

static const uint32_t denormal = 0x00400000, least = 0x00800000; // float32 bits

static float as_float(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

// True if denormal results and inputs are zero, and ties go to even: 1 + 2^-24 down, the next one up, which no other rounding mode does.
static bool rule_holds(void) {
  volatile float tiny = as_float(denormal), smallest = as_float(least), half = 0.5f, one = 1.0f, ulp = 0x1p-23f, big = 0x1p100f;
  bool results = smallest * half == 0.0f, inputs = tiny * big == 0.0f;
  bool nearest = one + ulp * half == 1.0f && (one + ulp) + ulp * half == 1.0f + 2 * 0x1p-23f;
  return results && inputs && nearest;
}

typedef struct rule {
  atomic_int held, workers;
} rule;

static void check_rule(void *user, int worker, int workers) {
  rule *r = user;
  atomic_store(&r->workers, workers);
  if (rule_holds()) atomic_fetch_add(&r->held, 1);
  if (worker > 0) fesetround(FE_UPWARD); // what a careless fn leaves behind is gone in the next run
}

static void float_rule_is_on_in_every_worker(void **state) {
  (void)state;
  const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  for (size_t m = 0; m < ZMI_COUNT(modes); m++) {
    for (int n = 1; n <= 4; n++) {
      rule r = {0};
      assert_int_equal(fesetround(modes[m]), 0);
      zmi_pool *p = zmi_pool_new(n);
      zmi_pool_run(p, check_rule, &r);
      zmi_pool_run(p, check_rule, &r);
      int mode_after = fegetround();
      zmi_pool_free(p);
      fesetround(FE_TONEAREST);
      assert_int_equal(mode_after, modes[m]);
      assert_int_equal(atomic_load(&r.held), 2 * atomic_load(&r.workers));
      volatile float tiny = as_float(denormal), one = 1.0f;
      assert_true(tiny * one != 0.0f); // the caller's denormals are back
    }
  }
}

static void float_rule_without_a_pool(void **state) {
  (void)state;
  assert_false(rule_holds());
  unsigned saved = zmi_float_rule_enter();
  bool held = rule_holds();
  unsigned inner = zmi_float_rule_enter();
  bool held_inside = rule_holds();
  zmi_float_rule_leave(inner);
  bool held_after = rule_holds();
  zmi_float_rule_leave(saved);
  assert_true(held && held_inside && held_after);
  assert_false(rule_holds());
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(each_worker_runs_once),
    cmocka_unit_test(waiting_costs_no_cpu),
    cmocka_unit_test(callers_take_turns),
    cmocka_unit_test(nested_run_is_done_alone),
    cmocka_unit_test(nested_run_of_another_pool_takes_turns),
    cmocka_unit_test(bad_worker_counts),
    cmocka_unit_test(default_size),
    cmocka_unit_test(each_allocation_fails),
    cmocka_unit_test(without_threads_the_caller_works_alone),
    cmocka_unit_test(float_rule_is_on_in_every_worker),
    cmocka_unit_test(float_rule_without_a_pool),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
