// Code that can run. Instances are shared by content: the same code asked for again gives the same instance, with what was compiled. An
// instance without references is kept for a while, because programs make the same kernels again and again.
#include "kernel/cache.h"
#include "kernel/emit.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { BUCKETS = 256, KEPT = 512 };

typedef void (*elements_fn)(int64_t, const void *const *, const int *, const double *, void *const *);
typedef void (*rows_fn)(int64_t, int64_t, const void *const *, const int64_t *, const int *, const double *, void *const *);
typedef void (*groups_fn)(int64_t, int64_t, int64_t, int64_t, const void *const *, void *const *, const int64_t *, const int64_t *,
                          const double *);

typedef enum state { FRESH, COMPILED, FAILED } state;

struct zmi_instance {
  zmi_code *code;
  zmi_routine *routine;           // what the interpreter runs; RAW: NULL
  int refs;                       // under the lock of the table
  uint64_t turn;                  // when its last reference went
  zmi_instance *next;             // in its bucket
  pthread_mutex_t lock;           // of what follows but the atomics
  _Atomic int state;              // changed under the lock
  _Atomic(void (*)(void)) kernel; // NULL: interpreted
  void *handle, *tuned;           // a tuned kernel beside the one that others may be running
  char note[640];
  bool looked; // into the cache
  _Atomic int64_t asked, runs;
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct { // under table_lock
  zmi_instance *buckets[BUCKETS];
  size_t idle;
  uint64_t turn;
} table;

// ---- the table ----

static zmi_instance **find_place(const uint64_t key[2]) {
  zmi_instance **p = &table.buckets[key[0] % BUCKETS];
  while (*p && ((*p)->code->key[0] != key[0] || (*p)->code->key[1] != key[1])) p = &(*p)->next;
  return p;
}

static void free_instance(zmi_instance *x) {
  zmi_compile_unload(x->handle);
  zmi_compile_unload(x->tuned);
  zmi_routine_free(x->routine);
  zmi_code_free(x->code);
  pthread_mutex_destroy(&x->lock);
  zmi_free(x);
}

static zmi_instance *new_instance(const zmi_code *code) {
  zmi_instance *x = zmi_calloc(1, sizeof *x);
  if (!x) return NULL;
  x->code = zmi_code_copy(code);
  x->routine = x->code && code->form != ZMI_FORM_RAW ? zmi_routine_new(code) : NULL;
  bool made = x->code && (x->routine || code->form == ZMI_FORM_RAW);
  if (!made || pthread_mutex_init(&x->lock, NULL) != 0) {
    if (made) zmi_fail(ZM_ERROR_MEMORY, "kernel %s: a lock could not be made", code->name);
    zmi_routine_free(x->routine);
    zmi_code_free(x->code);
    zmi_free(x);
    return NULL;
  }
  return x;
}

zmi_instance *zmi_instance_of(const zmi_code *code) {
  pthread_mutex_lock(&table_lock);
  zmi_instance **p = find_place(code->key), *x = *p;
  if (x) {
    if (x->refs++ == 0) table.idle--;
  } else if ((x = new_instance(code)) != NULL) {
    x->refs = 1;
    *p = x;
  }
  pthread_mutex_unlock(&table_lock);
  return x;
}

zmi_instance *zmi_instance_find(const uint64_t key[2]) {
  pthread_mutex_lock(&table_lock);
  zmi_instance *x = *find_place(key);
  if (x && x->refs++ == 0) table.idle--;
  pthread_mutex_unlock(&table_lock);
  return x;
}

zmi_instance *zmi_instance_retain(zmi_instance *x) {
  if (!x) return NULL;
  pthread_mutex_lock(&table_lock);
  x->refs++;
  pthread_mutex_unlock(&table_lock);
  return x;
}

// Takes the instance that has been idle for longest out of the table.
static zmi_instance *take_oldest(void) {
  zmi_instance **oldest = NULL;
  for (size_t b = 0; b < BUCKETS; b++)
    for (zmi_instance **p = &table.buckets[b]; *p; p = &(*p)->next)
      if ((*p)->refs == 0 && (!oldest || (*p)->turn < (*oldest)->turn)) oldest = p;
  if (!oldest) return NULL;
  zmi_instance *x = *oldest;
  *oldest = x->next;
  table.idle--;
  return x;
}

void zmi_instance_release(zmi_instance *x) {
  if (!x) return;
  zmi_instance *gone = NULL;
  pthread_mutex_lock(&table_lock);
  if (--x->refs == 0) {
    x->turn = ++table.turn;
    if (++table.idle > KEPT) gone = take_oldest();
  }
  pthread_mutex_unlock(&table_lock);
  if (gone) free_instance(gone);
}

void zmi_instance_forget(void) {
  for (;;) {
    pthread_mutex_lock(&table_lock);
    zmi_instance *x = take_oldest();
    pthread_mutex_unlock(&table_lock);
    if (!x) return;
    free_instance(x);
  }
}

const zmi_code *zmi_instance_code(const zmi_instance *x) {
  return x->code;
}

const char *zmi_instance_note(const zmi_instance *x) { // the note is written before the state is
  return atomic_load_explicit(&x->state, memory_order_acquire) == FRESH ? "interpreted: not used enough for compiling to pay" : x->note;
}

size_t zmi_instance_list(zmi_instance_facts *facts, size_t room) {
  size_t n = 0;
  pthread_mutex_lock(&table_lock);
  for (size_t b = 0; b < BUCKETS; b++)
    for (zmi_instance *x = table.buckets[b]; x; x = x->next) {
      if (n < room) {
        facts[n] = (zmi_instance_facts){.form = (zmi_form)x->code->form,
                                        .key = {x->code->key[0], x->code->key[1]},
                                        .runs = atomic_load(&x->runs),
                                        .compiled = atomic_load(&x->state) == COMPILED,
                                        .refs = x->refs};
        snprintf(facts[n].name, sizeof facts[n].name, "%s", x->code->name);
      }
      n++;
    }
  pthread_mutex_unlock(&table_lock);
  return n;
}

// ---- compiling ----

static const char *const entry_names[] = {
    [ZMI_FORM_ELEMENTS] = "zk_elements", [ZMI_FORM_ROWS] = "zk_rows", [ZMI_FORM_TILES] = "zk_groups", [ZMI_FORM_RAW] = "zk_groups"};

// Under the lock of the instance.
static void compile(zmi_instance *x, bool only_cached, int64_t elements) {
  char why[512];
  zmi_tuning tuning;
  bool cached = false;
  const zmi_kernels *k = zmi_kernels_find(NULL);
  void *handle = NULL;
  if (!k) {
    snprintf(why, sizeof why, "%.400s", zm_last_error());
  } else {
    zmi_tuning_recall(x->code, k->name, elements, &tuning);
    handle = zmi_tuning_compile(x->code, k->name, &tuning, only_cached, why, &cached);
    void *entry = handle ? dlsym(handle, entry_names[x->code->form]) : NULL;
    if (entry) {
      void (*kernel)(void);
      memcpy(&kernel, &entry, sizeof kernel);
      x->handle = handle;
      snprintf(x->note, sizeof x->note, "compiled for %s%s", k->name, cached ? ", from the cache" : "");
      atomic_store_explicit(&x->kernel, kernel, memory_order_release);
      atomic_store_explicit(&x->state, COMPILED, memory_order_release);
    } else if (handle) {
      zmi_compile_unload(handle);
      snprintf(why, sizeof why, "the compiled kernel lacks %s", entry_names[x->code->form]);
    }
  }
  if (!atomic_load(&x->kernel) && why[0]) {
    snprintf(x->note, sizeof x->note, "interpreted: %s", why);
    atomic_store_explicit(&x->state, FAILED, memory_order_release);
  }
  zmi_error_clear();
}

// A compiler takes about a quarter of a second, once: the cache keeps it. The interpreter spends 0.5 to 10 nanoseconds more on an
// instruction of an element.
static const double compile_work = 0.25 / 5e-9, look_work = 2e5;

void zmi_instance_prepare(zmi_instance *x, int64_t elements) {
  atomic_fetch_add_explicit(&x->runs, 1, memory_order_relaxed);
  if (atomic_load_explicit(&x->state, memory_order_acquire) != FRESH) return;
  const char *mode = zmi_env("ZMLX_KERNELS");
  if (mode && strcmp(mode, "interpret") == 0) return;
  const int64_t asked = atomic_fetch_add_explicit(&x->asked, elements, memory_order_relaxed) + elements;
  const bool always = mode && strcmp(mode, "compile") == 0;
  const double work = (double)asked * (double)x->code->count;
  if (!always && work < look_work) return;
  if (always)
    pthread_mutex_lock(&x->lock);
  else if (pthread_mutex_trylock(&x->lock) != 0)
    return; // another thread is at it: this one interprets meanwhile
  if (atomic_load(&x->state) == FRESH && (always || work >= compile_work || !x->looked)) {
    x->looked = true;
    compile(x, !always && work < compile_work, elements);
  }
  pthread_mutex_unlock(&x->lock);
}

const char *zmi_instance_entry(const zmi_instance *x) {
  return entry_names[x->code->form];
}

void zmi_instance_adopt(zmi_instance *x, void *handle, void (*kernel)(void), const char *note) {
  pthread_mutex_lock(&x->lock);
  if (x->tuned) { // tuned before: calls may still be running in there, so the new one waits for the next process
    zmi_compile_unload(handle);
  } else {
    x->tuned = handle;
    if (atomic_load(&x->state) != COMPILED) snprintf(x->note, sizeof x->note, "%s", note); // others may be reading it
    atomic_store_explicit(&x->kernel, kernel, memory_order_release);
    atomic_store_explicit(&x->state, COMPILED, memory_order_release);
  }
  pthread_mutex_unlock(&x->lock);
}

zm_status zmi_instance_require(zmi_instance *x) {
  pthread_mutex_lock(&x->lock);
  if (atomic_load(&x->state) == FRESH) compile(x, false, 0);
  pthread_mutex_unlock(&x->lock);
  if (atomic_load_explicit(&x->state, memory_order_acquire) == COMPILED) return ZM_OK;
  return zmi_fail(ZM_ERROR_UNSUPPORTED, "kernel %s: cannot be compiled, and only a compiler can run it: %s", x->code->name,
                  strncmp(x->note, "interpreted: ", 13) == 0 ? x->note + 13 : x->note);
}

// ---- running ----

void zmi_instance_elements(const zmi_instance *x, const zmi_kernels *k, int64_t n, const void *const *in, const int *step,
                           const double *params, void *const *out) {
  elements_fn kernel = (elements_fn)atomic_load_explicit(&x->kernel, memory_order_acquire);
  if (kernel)
    kernel(n, in, step, params, out);
  else
    zmi_routine_elements(x->routine, k, n, in, step, params, out);
}

void zmi_instance_rows(const zmi_instance *x, const zmi_kernels *k, int64_t rows, int64_t d, const void *const *in,
                       const int64_t *row_stride, const int *step, const double *params, void *const *out) {
  rows_fn kernel = (rows_fn)atomic_load_explicit(&x->kernel, memory_order_acquire);
  if (kernel)
    kernel(rows, d, in, row_stride, step, params, out);
  else
    zmi_routine_rows(x->routine, k, rows, d, in, row_stride, step, params, out);
}

static void call_groups(const zmi_instance *x, groups_fn kernel, const zmi_launch *l, int64_t first, int64_t last) {
  int64_t dims[2 * ZMI_CODE_MAX * ZM_MAX_RANK], counts[2 * ZMI_CODE_MAX];
  const int nin = x->code->nin, nout = x->code->nout;
  for (int i = 0; i < nin + nout; i++) {
    const zmi_type *t = i < nin ? &l->in_type[i] : &l->out_type[i - nin];
    for (int d = 0; d < ZM_MAX_RANK; d++) dims[i * ZM_MAX_RANK + d] = d < t->rank ? t->shape[d] : 1;
    counts[i] = zmi_type_count(t);
  }
  kernel(first, last, l->groups, l->threads, l->in, l->out, dims, counts, l->params);
}

void zmi_instance_groups(const zmi_instance *x, const zmi_kernels *k, const zmi_launch *l, int64_t first, int64_t last) {
  groups_fn kernel = (groups_fn)atomic_load_explicit(&x->kernel, memory_order_acquire);
  const bool raw = x->code->form == ZMI_FORM_RAW;
  if (kernel && (raw || l->threads <= ZMI_EMIT_THREADS))
    call_groups(x, kernel, l, first, last);
  else if (!raw) // zmi_instance_require has told
    zmi_routine_groups(x->routine, k, l, first, last);
}

void zmi_instance_call(const zmi_instance *x, void (*kernel)(void), const zmi_work *w) {
  if (x->code->form == ZMI_FORM_ELEMENTS)
    ((elements_fn)kernel)(w->n, w->in, w->step, w->params, w->out);
  else if (x->code->form == ZMI_FORM_ROWS)
    ((rows_fn)kernel)(w->rows, w->d, w->in, w->row_stride, w->step, w->params, w->out);
  else
    call_groups(x, (groups_fn)kernel, w->launch, 0, w->launch->groups);
}
