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

typedef void (*elements_fn)(int64_t, const void *const *, const int *, const double *, void *const *, int);
typedef void (*rows_fn)(int64_t, int64_t, const void *const *, const int64_t *, const int *, const double *, void *const *, int);
typedef void (*groups_fn)(int64_t, int64_t, int64_t, int64_t, const void *const *, void *const *, const int64_t *, const int64_t *,
                          const double *);

typedef enum state { FRESH, COMPILED, FAILED } state;

// Compiled code need not be the faster: the first calls of a class that are large enough take turns with the interpreter, and the better
// of both stays.
enum { TRIAL_TURNS = 8, TRIAL_ELEMENTS = 2048 };
static const double trial_margin = 1.25;

typedef struct trial {
  _Atomic int turns;       // TRIAL_TURNS and more: over, or there is none
  _Atomic int64_t best[2]; // picoseconds an element: compiled, interpreted; 0: not known yet
} trial;

// What calls learn while they run, which see the instance itself as constant: one for each, beside it.
typedef struct experience {
  pthread_mutex_t lock;                             // of choices, and of what the instance says is under it
  _Atomic(zmi_entry_fn) kernels[ZMI_SHAPE_CLASSES]; // one of the ways for each class; NULL: interpreted. Changed under the lock
  _Atomic int chosen[ZMI_SHAPE_CLASSES];            // which; likewise
  trial trials[ZMI_SHAPE_CLASSES];
  _Atomic int pieces[ZMI_SHAPE_CLASSES]; // how calls are shared: ~pieces; 0: not asked for yet
  _Atomic int64_t spent;                 // nanoseconds in the interpreter: loops are not seen in the number of instructions
} experience;

struct zmi_instance {
  zmi_code *code;
  zmi_routine *routine; // what the interpreter runs; RAW: NULL
  int refs;             // under the lock of the table
  uint64_t turn;        // when its last reference went
  zmi_instance *next;   // in its bucket
  experience *learned;  // its lock is that of what follows but the atomics
  _Atomic int state;    // changed under the lock
  // The ways that are loaded: calls may be running in any of them, so they stay.
  void *handles[ZMI_TUNE_MOST];
  zmi_entry_fn ways[ZMI_TUNE_MOST];
  _Atomic uint32_t recalled; // classes for which the cache was asked
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
  for (int w = 0; w < ZMI_TUNE_MOST; w++) zmi_compile_unload(x->handles[w]);
  zmi_routine_free(x->routine);
  zmi_code_free(x->code);
  pthread_mutex_destroy(&x->learned->lock);
  zmi_free(x->learned);
  zmi_free(x);
}

static zmi_instance *new_instance(const zmi_code *code) {
  zmi_instance *x = zmi_calloc(1, sizeof *x);
  if (!x) return NULL;
  x->code = zmi_code_copy(code);
  x->routine = x->code && code->form != ZMI_FORM_RAW ? zmi_routine_new(code) : NULL;
  x->learned = zmi_calloc(1, sizeof *x->learned);
  bool made = x->learned && x->code && (x->routine || code->form == ZMI_FORM_RAW);
  if (!made || pthread_mutex_init(&x->learned->lock, NULL) != 0) {
    if (made) zmi_fail(ZM_ERROR_MEMORY, "kernel %s: a lock could not be made", code->name);
    zmi_routine_free(x->routine);
    zmi_code_free(x->code);
    zmi_free(x->learned);
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

int zmi_shape_class(zmi_form form, int64_t elements, int64_t d) {
  const int size = elements <= 1 << 16 ? 0 : elements <= 1 << 22 ? 1 : 2;
  return form != ZMI_FORM_ROWS ? size : size + 3 * (d <= 64 ? 0 : d <= 1024 ? 1 : d <= 16384 ? 2 : 3);
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
        snprintf(facts[n].note, sizeof facts[n].note, "%.255s", zmi_instance_note(x));
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
static zmi_entry_fn load_way(zmi_instance *x, const zmi_kernels *k, int way, bool only_cached, char why[512], bool *cached) {
  why[0] = 0;
  *cached = false;
  if (x->ways[way]) return x->ways[way];
  void *handle = zmi_tuning_compile(x->code, k->name, way, only_cached, why, cached);
  void *entry = handle ? dlsym(handle, entry_names[x->code->form]) : NULL;
  if (entry) {
    memcpy(&x->ways[way], &entry, sizeof entry);
    x->handles[way] = handle;
  } else if (handle) {
    zmi_compile_unload(handle);
    snprintf(why, 512, "the compiled kernel lacks %s", entry_names[x->code->form]);
  }
  return x->ways[way];
}

// Under the lock of the instance.
static void choose(const zmi_instance *x, int shape, int way) {
  atomic_store_explicit(&x->learned->chosen[shape], way, memory_order_relaxed);
  atomic_store_explicit(&x->learned->kernels[shape], x->ways[way], memory_order_release);
}

static void end_trial(const zmi_instance *x, int shape) {
  atomic_store_explicit(&x->learned->trials[shape].turns, TRIAL_TURNS, memory_order_relaxed);
}

// Under the lock of the instance.
static void compile(zmi_instance *x, bool only_cached) {
  char why[512];
  bool cached = false;
  const zmi_kernels *k = zmi_kernels_find(NULL);
  if (!k) {
    snprintf(why, sizeof why, "%.400s", zm_last_error());
  } else if (load_way(x, k, 0, only_cached, why, &cached)) {
    snprintf(x->note, sizeof x->note, "compiled for %s%s", k->name, cached ? ", from the cache" : "");
    for (int s = 0; s < ZMI_SHAPE_CLASSES; s++) choose(x, s, 0);
    atomic_store_explicit(&x->state, COMPILED, memory_order_release);
  }
  if (atomic_load(&x->state) == FRESH && why[0]) {
    snprintf(x->note, sizeof x->note, "interpreted: %s", why);
    atomic_store_explicit(&x->state, FAILED, memory_order_release);
  }
  zmi_error_clear();
}

// What an earlier process chose for this class, looked for once. Under the lock of the instance.
static void recall(zmi_instance *x, int shape) {
  char why[512];
  bool cached;
  const zmi_kernels *k = zmi_kernels_find(NULL);
  if (atomic_load(&x->state) != COMPILED || atomic_load(&x->recalled) >> shape & 1) return;
  int pieces = 0;
  const int way = k ? zmi_tuning_recall(x->code, k->name, shape, &pieces) : -1;
  if (way >= 0) end_trial(x, shape);
  if (way > 0 && (zmi_tuning_interprets(way) || load_way(x, k, way, false, why, &cached))) choose(x, shape, way);
  atomic_fetch_or(&x->recalled, 1u << shape);
  zmi_error_clear();
}

// A compiler takes about a quarter of a second, once: the cache keeps it. The interpreter spends 0.5 to 10 nanoseconds more on an
// instruction of an element.
static const double seconds_of_work = 5e-9, compile_work = 0.25 / 5e-9, look_work = 2e5;

void zmi_instance_prepare(zmi_instance *x, int64_t elements, int shape) {
  atomic_fetch_add_explicit(&x->runs, 1, memory_order_relaxed);
  const int now = atomic_load_explicit(&x->state, memory_order_acquire);
  if (now == FAILED || (now == COMPILED && atomic_load_explicit(&x->recalled, memory_order_relaxed) >> shape & 1)) return;
  const char *mode = zmi_env("ZMLX_KERNELS");
  if (now == FRESH && mode && strcmp(mode, "interpret") == 0) return;
  const int64_t asked = atomic_fetch_add_explicit(&x->asked, elements, memory_order_relaxed) + elements;
  const bool always = mode && strcmp(mode, "compile") == 0;
  const double estimate = (double)asked * (double)x->code->count;
  const double spent = (double)atomic_load_explicit(&x->learned->spent, memory_order_relaxed) * 1e-9 / seconds_of_work;
  const double work = ZMI_MAX(estimate, spent);
  if (now == FRESH && !always && work < look_work) return;
  if (always)
    pthread_mutex_lock(&x->learned->lock);
  else if (pthread_mutex_trylock(&x->learned->lock) != 0)
    return; // another thread is at it: this one interprets meanwhile
  if (atomic_load(&x->state) == FRESH && (always || work >= compile_work || !x->looked)) {
    x->looked = true;
    compile(x, !always && work < compile_work);
    for (int s = 0; s < ZMI_SHAPE_CLASSES && always; s++) end_trial(x, s);
  }
  recall(x, shape);
  pthread_mutex_unlock(&x->learned->lock);
}

zmi_entry_fn zmi_instance_way(zmi_instance *x, int way, char why[512]) {
  zmi_entry_fn kernel = NULL;
  bool cached;
  const zmi_kernels *k = zmi_kernels_find(NULL);
  why[0] = 0;
  pthread_mutex_lock(&x->learned->lock);
  if (atomic_load(&x->state) == FRESH) compile(x, false);
  if (k && atomic_load(&x->state) == COMPILED)
    kernel = load_way(x, k, way, false, why, &cached);
  else
    snprintf(why, 512, "%.500s", strncmp(x->note, "interpreted: ", 13) == 0 ? x->note + 13 : x->note);
  pthread_mutex_unlock(&x->learned->lock);
  return kernel;
}

void zmi_instance_choose(zmi_instance *x, int shape, int way) {
  pthread_mutex_lock(&x->learned->lock);
  end_trial(x, shape);
  choose(x, shape, way);
  atomic_fetch_or(&x->recalled, 1u << shape);
  pthread_mutex_unlock(&x->learned->lock);
}

void zmi_instance_share(const zmi_instance *x, int shape, int pieces) {
  atomic_store_explicit(&x->learned->pieces[shape], ~pieces, memory_order_relaxed);
}

int zmi_instance_pieces(const zmi_instance *x, int shape) {
  int known = atomic_load_explicit(&x->learned->pieces[shape], memory_order_relaxed);
  const char *mode = known ? NULL : zmi_env("ZMLX_KERNELS");
  if (known == 0) { // whoever asks first looks into the cache; two that do find the same
    const zmi_kernels *k = zmi_kernels_find(NULL);
    int pieces = 0;
    if (k && !(mode && strcmp(mode, "interpret") == 0)) zmi_tuning_recall(x->code, k->name, shape, &pieces);
    zmi_instance_share(x, shape, pieces);
    zmi_error_clear();
    return pieces;
  }
  return ~known;
}

int zmi_instance_chosen(const zmi_instance *x, int shape) {
  return atomic_load_explicit(&x->learned->chosen[shape], memory_order_relaxed);
}

zm_status zmi_instance_require(zmi_instance *x) {
  pthread_mutex_lock(&x->learned->lock);
  if (atomic_load(&x->state) == FRESH) compile(x, false);
  pthread_mutex_unlock(&x->learned->lock);
  if (atomic_load_explicit(&x->state, memory_order_acquire) == COMPILED) return ZM_OK;
  return zmi_fail(ZM_ERROR_UNSUPPORTED, "kernel %s: cannot be compiled, and only a compiler can run it: %s", x->code->name,
                  strncmp(x->note, "interpreted: ", 13) == 0 ? x->note + 13 : x->note);
}

// ---- running ----

static void note_time(const zmi_instance *x, double before) {
  atomic_fetch_add_explicit(&x->learned->spent, (int64_t)((zmi_now() - before) * 1e9), memory_order_relaxed);
}

// Whether a call takes part in the trial of its class, and with which side.
static bool take_turn(const zmi_instance *x, int shape, int64_t elements, int *side) {
  trial *t = &x->learned->trials[shape];
  if (elements < TRIAL_ELEMENTS || atomic_load_explicit(&t->turns, memory_order_relaxed) >= TRIAL_TURNS) return false;
  const int turn = atomic_fetch_add_explicit(&t->turns, 1, memory_order_relaxed);
  *side = turn % 2;
  return turn < TRIAL_TURNS;
}

static void note_turn(const zmi_instance *x, int shape, int64_t elements, int side, double seconds) {
  trial *t = &x->learned->trials[shape];
  const int64_t took = ZMI_MAX((int64_t)(seconds * 1e12 / (double)elements), 1);
  int64_t best = atomic_load_explicit(&t->best[side], memory_order_relaxed);
  while ((best == 0 || took < best) && !atomic_compare_exchange_weak(&t->best[side], &best, took)) {
  }
  if (atomic_load_explicit(&t->turns, memory_order_relaxed) < TRIAL_TURNS) return;
  const int64_t compiled = atomic_load(&t->best[0]), interpreted = atomic_load(&t->best[1]);
  if (compiled == 0 || interpreted == 0 || (double)compiled < (double)interpreted * trial_margin) return;
  pthread_mutex_lock(&x->learned->lock);
  if (atomic_load(&x->learned->chosen[shape]) == 0) choose(x, shape, zmi_tuning_interpreter());
  pthread_mutex_unlock(&x->learned->lock);
}

void zmi_instance_elements(const zmi_instance *x, const zmi_kernels *k, int shape, int64_t n, const void *const *in, const int *step,
                           const double *params, void *const *out) {
  const int class = shape % ZMI_SHAPE_STREAM;
  elements_fn kernel = (elements_fn)atomic_load_explicit(&x->learned->kernels[class], memory_order_acquire);
  int side = 0;
  const bool tried = kernel && take_turn(x, class, n, &side);
  const double before = tried ? zmi_now() : 0;
  if (kernel && side == 0)
    kernel(n, in, step, params, out, shape >= ZMI_SHAPE_STREAM);
  else
    zmi_routine_elements(x->routine, k, n, in, step, params, out);
  if (tried) note_turn(x, class, n, side, zmi_now() - before);
}

void zmi_instance_rows(const zmi_instance *x, const zmi_kernels *k, int shape, int64_t rows, int64_t d, const void *const *in,
                       const int64_t *row_stride, const int *step, const double *params, void *const *out) {
  const int class = shape % ZMI_SHAPE_STREAM;
  rows_fn kernel = (rows_fn)atomic_load_explicit(&x->learned->kernels[class], memory_order_acquire);
  int side = 0;
  const bool tried = kernel && take_turn(x, class, rows * d, &side);
  const double before = tried || !kernel ? zmi_now() : 0;
  if (kernel && side == 0)
    kernel(rows, d, in, row_stride, step, params, out, shape >= ZMI_SHAPE_STREAM);
  else
    zmi_routine_rows(x->routine, k, rows, d, in, row_stride, step, params, out);
  if (tried)
    note_turn(x, class, rows * d, side, zmi_now() - before);
  else if (!kernel)
    note_time(x, before);
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
  const int shape = zmi_grid_class((zmi_form)x->code->form, l->groups, l->threads);
  groups_fn kernel = (groups_fn)atomic_load_explicit(&x->learned->kernels[shape], memory_order_acquire);
  const bool raw = x->code->form == ZMI_FORM_RAW;
  if (kernel && (raw || l->threads <= ZMI_EMIT_THREADS)) {
    call_groups(x, kernel, l, first, last);
  } else if (!raw) { // zmi_instance_require has told
    const double before = zmi_now();
    zmi_routine_groups(x->routine, k, l, first, last);
    note_time(x, before);
  }
}

static void interpret(const zmi_instance *x, const zmi_work *w) {
  const zmi_kernels *k = zmi_kernels_find(NULL);
  if (x->code->form == ZMI_FORM_ELEMENTS)
    zmi_routine_elements(x->routine, k, w->n, w->in, w->step, w->params, w->out);
  else if (x->code->form == ZMI_FORM_ROWS)
    zmi_routine_rows(x->routine, k, w->rows, w->d, w->in, w->row_stride, w->step, w->params, w->out);
  else
    zmi_routine_groups(x->routine, k, w->launch, 0, w->launch->groups);
}

void zmi_instance_call(const zmi_instance *x, void (*kernel)(void), const zmi_work *w) {
  if (!kernel) {
    interpret(x, w);
    return;
  }
  if (x->code->form == ZMI_FORM_ELEMENTS)
    ((elements_fn)kernel)(w->n, w->in, w->step, w->params, w->out, w->stream);
  else if (x->code->form == ZMI_FORM_ROWS)
    ((rows_fn)kernel)(w->rows, w->d, w->in, w->row_stride, w->step, w->params, w->out, w->stream);
  else
    call_groups(x, (groups_fn)kernel, w->launch, 0, w->launch->groups);
}
