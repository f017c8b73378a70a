// Ctrl-C. The signal is blocked everywhere and waited for by one thread, so that what it does is ordinary code: it sets a flag that the
// work looks at between steps, and if a single step takes too long, says the last words itself and ends the process.
#include "cli/cli.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

static atomic_int interrupted; // the signal; 0: none
static atomic_flag claimed = ATOMIC_FLAG_INIT;
static _Atomic(double) grace = 0.05; // ends generation within 100 ms even in the middle of a long step
static _Atomic(void (*)(void)) last_words;

bool cli_interrupted(void) { return atomic_load(&interrupted) != 0; }

int cli_interrupt_status(void) {
  int sig = atomic_load(&interrupted);
  return sig ? 128 + sig : CLI_INTERRUPTED;
}

void cli_interrupt_grace(double seconds, void (*words)(void)) {
  atomic_store(&last_words, words);
  atomic_store(&grace, seconds);
}

bool cli_interrupt_claim(void) { return !atomic_flag_test_and_set(&claimed); }

// Sleeps; a second Ctrl-C ends it early.
static void sleep_or_signal(const sigset_t *set, double seconds) {
  struct timespec wait = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  while (sigtimedwait(set, NULL, &wait) < 0 && errno == EINTR) {}
}

static void *watch(void *user) {
  const sigset_t *set = user;
  int sig = 0;
  while (sigwait(set, &sig)) {}
  atomic_store(&interrupted, sig);
  zmi_device_stop(true); // a resident kernel ends with the step at hand
  sleep_or_signal(set, atomic_load(&grace));
  void (*words)(void) = atomic_load(&last_words);
  if (!cli_interrupt_claim()) sleep_or_signal(set, 2); // the main thread is ending in order just now
  else if (words) words();
  _exit(128 + sig);
}

void cli_interrupt_start(void) {
  static sigset_t set;
  signal(SIGPIPE, SIG_IGN); // writes report it instead, and a file that grows beyond the limit too
  signal(SIGXFSZ, SIG_IGN);
  sigemptyset(&set);
  static const int signals[] = {SIGINT, SIGTERM};
  int count = 0;
  for (size_t i = 0; i < ZMI_COUNT(signals); i++) {
    struct sigaction old;
    if (sigaction(signals[i], NULL, &old) || old.sa_handler == SIG_IGN) continue; // nohup, or a shell's background job
    sigaddset(&set, signals[i]);
    count++;
  }
  pthread_t thread;
  if (!count || pthread_sigmask(SIG_BLOCK, &set, NULL)) return;
  if (pthread_create(&thread, NULL, watch, &set)) pthread_sigmask(SIG_UNBLOCK, &set, NULL); // then the signal ends the process at once
  else pthread_detach(thread);
}
