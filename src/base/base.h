// The base room: errors, memory, strings, files, the worker pool, environment variables. Everything else stands on it.
#ifndef ZMI_BASE_H
#define ZMI_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zmlx/status.h>

// ---- errors (error.c) ----
// Sets this thread's message and status; returns the status, so that callers write `return zmi_fail(ZM_ERROR_FILE, "...", ...)`.
zm_status zmi_fail(zm_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Puts "prefix: " before this thread's message and returns its status: callers add where they were ("layer 3: ...").
zm_status zmi_fail_within(const char *format, ...) __attribute__((format(printf, 1, 2)));
// Saves and restores the message over cleanup that may itself fail.
void zmi_error_clear(void);

// ---- memory (alloc.c) ----
// All return NULL with ZM_ERROR_MEMORY set when memory is short or n * size overflows; free ignores NULL. Zeroed: calloc only.
void *zmi_malloc(size_t size);
void *zmi_calloc(size_t n, size_t size);
void *zmi_realloc(void *p, size_t n, size_t size);
void zmi_free(void *p);
char *zmi_strdup(const char *s);
// Large blocks for weights, caches and arenas: 2 MiB aligned when size is that large (else 64 bytes), huge pages advised, zero-filled.
void *zmi_block_alloc(size_t size);
void zmi_block_free(void *p, size_t size);
void zmi_block_forget(void *p, size_t size); // of a block or a part of one: what is there is lost and takes no memory until it is written
// Memory of arrays (buffers.c): 64-byte aligned, contents undefined; what is given back is kept for the next ones (zmlx/memory.h). `size`:
// what was asked for.
void *zmi_buffer_alloc(size_t size);
void zmi_buffer_free(void *p, size_t size);
// Tests: the n-th allocation from now (1 = the next) fails, then all succeed again; 0 switches off. Counts allocations of the process.
void zmi_alloc_fail_at(uint64_t n);
uint64_t zmi_alloc_count(void); // allocations so far
bool zmi_mul_overflow(size_t a, size_t b, size_t *product);
bool zmi_add_overflow(size_t a, size_t b, size_t *sum);

// Growable array: ZMI_GROW(ptr, capacity, needed) makes room for `needed` elements, doubling; false when memory is short.
bool zmi_grow(void **p, size_t *capacity, size_t needed, size_t element_size);
#define ZMI_GROW(p, capacity, needed) zmi_grow((void **)&(p), &(capacity), (needed), sizeof *(p))

// ---- strings (text.c) ----
// A growable, always zero-terminated string. Zero-initialize; zmi_text_free releases. A failed append sets `failed` and later ones do
// nothing.
typedef struct zmi_text {
  char *data; // "" until something is appended is represented as NULL with size 0; use zmi_text_str
  size_t size, capacity;
  bool failed;
} zmi_text;
void zmi_text_add(zmi_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void zmi_text_add_bytes(zmi_text *t, const void *bytes, size_t size);
const char *zmi_text_str(const zmi_text *t); // never NULL
void zmi_text_release(zmi_text *t);

// ---- hash table from strings to indices (map.c) ----
typedef struct zmi_map zmi_map;
zmi_map *zmi_map_new(void);
void zmi_map_free(zmi_map *m);
bool zmi_map_put(zmi_map *m, const char *key, size_t key_size, int64_t value); // copies the key; replaces; false: out of memory
bool zmi_map_get(const zmi_map *m, const char *key, size_t key_size, int64_t *value);
size_t zmi_map_size(const zmi_map *m);

// ---- files (file.c) ----
// A file mapped read-only. size 0 gives data NULL. Growing or shrinking of the file afterwards is checked by nobody: callers keep offsets
// below size.
typedef struct zmi_mapping {
  const uint8_t *data;
  size_t size;
} zmi_mapping;
zm_status zmi_map_file(const char *path, zmi_mapping *m);
void zmi_unmap_file(zmi_mapping *m);
// Tells the system that pages of [offset, offset + size) of the mapping are not needed any more (they stay in the page cache).
void zmi_mapping_drop(const zmi_mapping *m, size_t offset, size_t size);
// Reads a whole file, at most `limit` bytes; *data is zero-terminated and owned by the caller (zmi_free).
zm_status zmi_read_file(const char *path, size_t limit, char **data, size_t *size);
// A file written beside its target and published by rename, so that readers see the old file or the whole new one.
typedef struct zmi_writer zmi_writer;
zmi_writer *zmi_writer_open(const char *path);
zm_status zmi_writer_write(zmi_writer *w, const void *data, size_t size);
zm_status
zmi_writer_publish(zmi_writer *w); // flush, fsync, rename; frees w in any case; on failure the target is untouched and nothing stays behind
void zmi_writer_abandon(zmi_writer *w); // removes the temporary file; NULL is ignored
// Whether a file whose name is that of its target and then this is the temporary one of a writer, which may have been killed.
bool zmi_writer_left(const char *ending);
char *zmi_path_join(const char *folder, const char *name);
bool zmi_path_is_folder(const char *path);
bool zmi_path_exists(const char *path);
zm_status zmi_make_folder(const char *path); // existing is fine; parents are not made

// ---- worker pool (pool.c) ----
// Fixed workers that spin briefly and then park. zmi_pool_run calls fn(user, worker, workers) once on each worker, worker 0 being the
// calling thread, and returns when all have finished. While fn runs, denormal float32 inputs and results count as zero on every worker
// (the rule of docs/numerics.md) and rounding is to nearest even; the caller's own floating-point state is restored afterwards.
// One run at a time: concurrent callers take turns.
typedef struct zmi_pool zmi_pool;
typedef void (*zmi_pool_fn)(void *user, int worker, int workers);
zmi_pool *zmi_pool_new(int workers); // 0: one for each CPU this process may use (affinity and cgroup quota respected)
void zmi_pool_free(zmi_pool *p);
int zmi_pool_workers(const zmi_pool *p);
// Whether who waits in a run may spin: there is a CPU for each worker. Known since the pool was made; counting CPUs reads files.
bool zmi_pool_spins(const zmi_pool *p);
void zmi_pool_run(zmi_pool *p, zmi_pool_fn fn, void *user);
int zmi_cpu_count(void);
int zmi_own_cpus(bool *marks, int most); // marks those of CPUs 0 to most - 1 that this process may use; how many there are, 0: unknown
bool zmi_read_small(const char *path, char *buffer, size_t size); // the start of a small file as text; false: there is none

// ---- jobs in phases (phases.c) ----
// A list of jobs, each cut into tiles, that all workers of a pool do together. Jobs stand in phases: one with `barrier` begins a phase,
// and sees what all jobs before it wrote. Within a phase any worker does any tile at any time; worker i of n begins with the i-th n-th.
typedef struct zmi_job {
  int64_t tiles; // at least 1
  int64_t least; // tiles that are worth taking at a time, at least 1
  bool barrier;
} zmi_job;
// What a worker did: of each job the seconds it worked; of the first job of each phase also when it began to look for work and when it
// found no more.
typedef struct zmi_job_time {
  double worked, begun, ended;
} zmi_job_time;
typedef struct zmi_phase_watch {
  zmi_job_time *times; // [workers][stride]; the caller's, `worked` is added to
  size_t stride;
} zmi_phase_watch;
typedef void (*zmi_job_fn)(void *user, size_t job, int64_t begin, int64_t end);
typedef struct zmi_phases zmi_phases;
zmi_phases *zmi_phases_new(const zmi_job *jobs, size_t count); // copies them
void zmi_phases_free(zmi_phases *p);
// Jobs first to last - 1, by zmi_pool_run. One run of a list at a time. watch may be NULL. Without memory one worker does it all.
void zmi_phases_run(zmi_phases *p, zmi_pool *pool, size_t first, size_t last, zmi_job_fn fn, void *user, const zmi_phase_watch *watch);

// The float rule alone, for code that computes without a pool.
unsigned zmi_float_rule_enter(void);
void zmi_float_rule_leave(unsigned saved);

// ---- time and machine (machine.c) ----
double zmi_now(void);                // monotonic seconds
uint64_t zmi_peak_memory(void);      // bytes: largest resident set of this process so far
uint64_t zmi_cache_bytes(void);      // of the largest cache that CPUs share; 32 MiB when unknown
void zmi_cache_bytes_assume(uint64_t bytes); // what it gives from now on; 0: what the machine says. For tests of what large calls do
uint64_t zmi_memory_available(void); // bytes that can be had now, cgroup limit respected; 0 when unknown
// What the control groups of this process allow; `root` is "" outside of tests, which give a folder with proc/ and sys/ of their own.
typedef struct zmi_limits {
  double cpus; // 0: no limit
  bool memory_limited;
  uint64_t memory, memory_left; // bytes: the limit, and what is left of it when cached files give way; 0 if there is none
} zmi_limits;
zmi_limits zmi_group_limits(const char *root);

// ---- memory nodes (nodes.c) ----
// Bit n: node n has memory, and a CPU that this process may use; 0 if the system does not say. root: "", or where tests keep a /sys.
uint64_t zmi_memory_nodes(const char *root);
void zmi_spread_over_nodes(void *p, size_t bytes); // whole pages that nobody has touched: over those nodes, if there are several

// ---- environment (env.c): one table of all variables the library reads ----
typedef struct zmi_env_var {
  const char *name, *meaning;
  const char *words;         // "auto, compile, interpret": the values that there are; NULL: any, or a number
  double least, most, usual; // of a number; most 0: it is none
} zmi_env_var;
extern const zmi_env_var zmi_env_table[]; // ends with a NULL name
const char *zmi_env(const char *name);    // value of a variable of the table; NULL if unset or empty
double zmi_env_number(const char *name);  // that of a number of the table: its usual value if it is unset or does not fit
bool zmi_env_fits(const zmi_env_var *v);  // is unset, or one of its words, or within its bounds
// ZMLX_CACHE_DIR, else zmlx in XDG_CACHE_HOME, else ~/.cache/zmlx; owned by the caller; it may not exist yet. NULL if there is none.
char *zmi_cache_folder(void);

#define ZMI_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define ZMI_MIN(a, b) ((a) < (b) ? (a) : (b))
#define ZMI_MAX(a, b) ((a) > (b) ? (a) : (b))

// ---- content hashes (sha256.c) ----
typedef struct zmi_sha256 {
  uint32_t state[8];
  uint64_t size;
  uint8_t block[64];
} zmi_sha256;
void zmi_sha256_start(zmi_sha256 *h);
void zmi_sha256_add(zmi_sha256 *h, const void *data, size_t size);
void zmi_sha256_end(zmi_sha256 *h, uint8_t digest[32]);

// ---- the folder (cache.c) ----
// `kernels` in the cache folder: of this user alone (0700), at most ZMLX_CACHE_MB megabytes; what was used longest ago goes first. Entries
// are files named by the hash of all that went into them, with a checksum of their own; one that is damaged counts as absent. Names are of
// few forms (cache.c lists them): other files in the folder are neither counted nor removed.
typedef struct zmi_cache {
  char *folder; // NULL: there is none that can be used; `why` says the reason
  char why[256];
} zmi_cache;
void zmi_cache_open(zmi_cache *c);
void zmi_cache_close(zmi_cache *c);
// The path of a sound entry, marked as used; NULL if there is none. name: a file name. The caller frees it.
char *zmi_cache_find(const zmi_cache *c, const char *name);
// Publishes the bytes of a file as an entry, then makes room. False if it could not be written, or the name is of no known form.
bool zmi_cache_put(const zmi_cache *c, const char *name, const void *data, size_t size);
// Content of an entry without its checksum; the caller frees it. NULL if there is no sound one.
char *zmi_cache_read(const zmi_cache *c, const char *name, size_t *size);
typedef struct zmi_cache_facts {
  size_t entries;
  uint64_t bytes, limit;
} zmi_cache_facts;
zmi_cache_facts zmi_cache_look(const zmi_cache *c);
size_t zmi_cache_clear(const zmi_cache *c); // the number of files removed
// Removes workplaces of compilers that nobody has touched for an hour: folders of this user whose names start so. Every put does it.
void zmi_cache_sweep(const char *folder, const char *start);

#endif
