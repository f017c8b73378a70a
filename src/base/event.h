// A counter that threads wait for. Who waits spins for a moment, as the answer is usually microseconds away, and then sleeps on a
// condition. Nobody yields: on a busy machine sched_yield gives a whole time slice to a neighbour at each wait, while a thread that is
// woken up runs at once.
#ifndef ZMI_BASE_EVENT_H
#define ZMI_BASE_EVENT_H

#include "base/base.h"

#include <pthread.h>
#include <stdatomic.h>

enum { ZMI_CACHE_LINE = 64 };

// Waiters that sleep say so in `sleepers` before they look at `value` a last time, and who changes `value` looks at `sleepers` afterwards;
// both in one total order, so that one of the two always sees the other.
typedef struct zmi_event {
  _Alignas(ZMI_CACHE_LINE) atomic_uint value;
  _Alignas(ZMI_CACHE_LINE) atomic_uint sleepers;
  atomic_uint patience; // doubled when spinning was worth it, halved when it ended in sleep: a busy machine needs the CPU for others
  atomic_uint naps;     // sleeps with the least patience; now and then one is preceded by a full try, as the machine may be free again
  pthread_mutex_t mutex;
  pthread_cond_t changed;
} zmi_event;

bool zmi_event_init(zmi_event *e); // false: the system has no lock left; nothing to destroy then
void zmi_event_destroy(zmi_event *e);
void zmi_event_advance(zmi_event *e); // adds one to `value` and wakes who sleeps
void zmi_relax(void);                 // one turn of a loop that looks at a value
// Whether `value` is past `seen`; it may have gone round.
bool zmi_event_past(const zmi_event *e, unsigned seen);
void zmi_event_wait(zmi_event *e, unsigned seen, bool spin); // until it is past `seen`

#endif
