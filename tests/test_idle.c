// What a model costs others: nothing between two requests, and beside a busy neighbour it loses its fair share and no more.
#define _GNU_SOURCE 1
#include "lm/lm.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

static const char folder[] = "checkpoints/storyteller-4bit";
static const int32_t prompt[] = {486, 316, 263, 575, 681, 443, 16, 285, 349, 480, 575};
enum { PROMPT = sizeof prompt / sizeof *prompt, CONTEXT = 256 };

typedef struct talk {
  zm_model *model;
  zm_session *session;
  float *logits;
  int32_t position;
} talk;

static double cpu_seconds(clockid_t clock) {
  struct timespec t;
  assert_int_equal(clock_gettime(clock, &t), 0);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void pause_for(double seconds) {
  struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  nanosleep(&t, NULL);
}

static void ask(talk *t) {
  assert_int_equal(zm_session_reset(t->session, 0), ZM_OK);
  if (zm_session_feed(t->session, 0, prompt, PROMPT, t->logits, 1, NULL, NULL)) fail_msg("%s", zm_last_error());
  t->position = PROMPT;
}

static void next_token(talk *t) {
  if (t->position == CONTEXT) ask(t);
  assert_int_equal(zm_session_step(t->session, &(zm_row){0, 7 + t->position}, 1, t->logits, 1), ZM_OK);
  t->position++;
}

static void begin(talk *t, int threads) {
  *t = (talk){.model = zm_model_open(folder, &(zm_model_options){.threads = threads})};
  if (!t->model) fail_msg("%s", zm_last_error());
  t->session = zm_session_open(t->model, &(zm_session_options){.context = CONTEXT});
  t->logits = calloc((size_t)zmi_model_vocab(t->model), sizeof *t->logits);
  assert_true(t->session && t->logits);
  ask(t);
  for (int i = 0; i < 8; i++) next_token(t);
}

static void end(talk *t) {
  zm_session_close(t->session);
  zm_model_close(t->model);
  free(t->logits);
}

// One worker that waits by spinning would take the whole pause.
static void no_cpu_between_requests(void **state) {
  (void)state;
  const double pause = 0.25;
  talk t;
  begin(&t, 4);
  for (int i = 0; i < 3; i++) {
    ask(&t);
    for (int j = 0; j < 4; j++) next_token(&t);
    const double before = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
    pause_for(pause);
    const double used = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - before;
    if (used > pause / 10) fail_msg("%.1f ms of a processor in a pause of %.0f ms", used * 1e3, pause * 1e3);
  }
  end(&t);
}

// ---- a neighbour ----

typedef struct neighbour {
  pthread_t thread;
  size_t cpu;
  atomic_bool stop;
} neighbour;

static void *spin(void *arg) {
  neighbour *n = arg;
  while (!atomic_load_explicit(&n->stop, memory_order_relaxed)) continue;
  return NULL;
}

static void move_in(neighbour *n) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(n->cpu, &set);
  atomic_store(&n->stop, false);
  assert_int_equal(pthread_create(&n->thread, NULL, spin, n), 0);
  assert_int_equal(pthread_setaffinity_np(n->thread, sizeof set, &set), 0);
}

// Returns what it has used.
static double move_out(neighbour *n) {
  clockid_t clock;
  assert_int_equal(pthread_getcpuclockid(n->thread, &clock), 0);
  const double used = cpu_seconds(clock);
  atomic_store(&n->stop, true);
  pthread_join(n->thread, NULL);
  return used;
}

// Tokens a second, and what one took of a processor.
typedef struct pace {
  double rate, cpu;
} pace;

static pace decode_for(talk *t, double seconds, neighbour *n) {
  const double start = zmi_now(), cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID);
  int tokens = 0;
  if (n) move_in(n);
  do next_token(t), tokens++;
  while (zmi_now() - start < seconds);
  const double taken = zmi_now() - start, theirs = n ? move_out(n) : 0;
  return (pace){tokens / taken, (cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu - theirs) / tokens};
}

// This thread, and so the workers that it makes, on two processors: those are all there are for the library then. False without two.
static bool take_two(cpu_set_t *before, size_t cpus[2]) {
  cpu_set_t two;
  int found = 0;
  CPU_ZERO(&two);
  if (sched_getaffinity(0, sizeof *before, before) != 0) return false;
  for (size_t i = 0; i < CPU_SETSIZE && found < 2; i++) {
    if (!CPU_ISSET(i, before)) continue;
    CPU_SET(i, &two);
    cpus[found++] = i;
  }
  return found == 2 && sched_setaffinity(0, sizeof two, &two) == 0;
}

// A neighbour that never rests has half of one of two processors: three quarters are left. Where each barrier waits for a worker that the
// neighbour has pushed aside it is a quarter or less. Who spins until that worker comes burns what is left: a token takes ten times as much
// of a processor as with one worker, which never waits. Other tests run at the same time, so one good round counts.
static void a_neighbour_takes_its_share_and_no_more(void **state) {
  (void)state;
  cpu_set_t before;
  neighbour n = {0};
  size_t cpus[2];
  if (!take_two(&before, cpus)) skip();
  talk t;
  pace single = {.cpu = 1e9}, alone = {0}, with = {0};
  begin(&t, 1);
  for (int round = 0; round < 3; round++) {
    const pace p = decode_for(&t, 0.1, NULL);
    if (p.cpu < single.cpu) single = p;
  }
  end(&t);
  begin(&t, 2);
  bool good = false;
  for (int round = 0; round < 12 && !good; round++) {
    n.cpu = cpus[round % 2];
    alone = decode_for(&t, 0.1, NULL);
    with = decode_for(&t, 0.2, &n);
    good = with.rate > 0.45 * alone.rate && with.cpu < 4 * single.cpu;
  }
  end(&t);
  assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
  if (getenv("ZMLX_TEST_TRACE") || !good)
    print_message("# one worker %.0f tokens a second, two %.0f, beside a neighbour %.0f; us of a processor each: %.0f, %.0f, %.0f\n",
                  single.rate, alone.rate, with.rate, single.cpu * 1e6, alone.cpu * 1e6, with.cpu * 1e6);
  assert_true(good);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(no_cpu_between_requests),
      cmocka_unit_test(a_neighbour_takes_its_share_and_no_more),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
