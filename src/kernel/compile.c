// C source to something that can be called: the system C compiler in a child process of its own group, with a deadline, then dlopen. No
// shell is involved. What was compiled once is taken from the cache.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "kernel/cache.h"
#include "kernel/kernel.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { VERSION_SECONDS = 5, MOST_FLAGS = 32, MOST_OBJECT = 64 << 20, WORDS = 200 };

// The name of the tier decides, never the machine that compiles.
static const struct tier_row {
  const char *tier, *flags[12];
} tier_flags[] = {
    {"scalar", {NULL}},
    {"avx2", {"-mavx2", "-mfma", "-mf16c", NULL}},
    {"avx2vnni", {"-mavx2", "-mfma", "-mf16c", NULL}},
    {"avx512", {"-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512", NULL}},
    {"avx512vnni",
     {"-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mavx512bf16",
      "-mprefer-vector-width=512", NULL}},
    {"neon", {NULL}},
    {"neondot", {NULL}},
};
static const char *const common_flags[] = {
    "-std=gnu17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-w", NULL};

// ---- children ----

static int exit_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + (WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

#ifdef F_SETSIG
// A process that is killed can end nothing. So the children of a compiler hold a pipe whose other end is here, and when the kernel closes
// that one, whatever this process died of, it kills the owner of the pipe: the whole group of the child. (PR_SET_PDEATHSIG would reach the
// compiler's driver alone, not the programs that it started.) Between posix_spawn and tie() a kill leaves the compiler to end by itself:
// for the child to tie itself, code of ours would have to run between fork and exec, in a process of many threads and mapped checkpoints.
enum { LEASH = 3 }; // the descriptor in the child

static bool make_leash(int ends[2], posix_spawn_file_actions_t *files) {
  return pipe2(ends, O_CLOEXEC) == 0 && posix_spawn_file_actions_adddup2(files, ends[0], LEASH) == 0;
}

static void tie(const int ends[2], pid_t group) {
  if (fcntl(ends[0], F_SETOWN, -group) == 0 && fcntl(ends[0], F_SETSIG, SIGKILL) == 0) (void)fcntl(ends[0], F_SETFL, O_ASYNC);
}

// Children of the child that ended may live on for a moment, and are not to be killed for it.
static void untie(int ends[2]) {
  if (ends[0] >= 0) (void)fcntl(ends[0], F_SETFL, 0);
  for (int i = 0; i < 2; i++)
    if (ends[i] >= 0) close(ends[i]);
}
#else
static bool make_leash(int ends[2], posix_spawn_file_actions_t *files) {
  (void)ends, (void)files;
  return true;
}
static void tie(const int ends[2], pid_t group) {
  (void)ends, (void)group;
}
static void untie(int ends[2]) {
  (void)ends;
}
#endif

// Waits for a child of its own group. Its exit status; -2: it ran out of time and was killed with all that it had started.
static int wait_for(pid_t child, double seconds) {
  const double end = zmi_now() + seconds;
  for (struct timespec nap = {0, 500000};;) {
    int status;
    pid_t got = waitpid(child, &status, WNOHANG);
    if (got == child) return exit_of(status);
    if (got < 0 && errno != EINTR) return 0; // the program around reaps children by itself: what was written will tell
    if (zmi_now() > end) break;
    nanosleep(&nap, NULL);
    if (nap.tv_nsec < 5000000) nap.tv_nsec *= 2;
  }
  kill(-child, SIGKILL);
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
  }
  return -2;
}

// Runs a program with its words going to a file. Its exit status; -1: it could not be started; -2: it ran out of time and was killed with
// all that it had started.
static int run_child(const char *const *argv, const char *words, double seconds) {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  sigset_t none, all;
  pid_t child;
  int leash[2] = {-1, -1};
  if (posix_spawn_file_actions_init(&files) != 0) return -1;
  if (posix_spawnattr_init(&attributes) != 0) {
    posix_spawn_file_actions_destroy(&files);
    return -1;
  }
  sigemptyset(&none);
  sigfillset(&all);
  sigdelset(&all, SIGKILL);
  sigdelset(&all, SIGSTOP);
  bool ready = make_leash(leash, &files) && posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0) == 0 &&
               posix_spawn_file_actions_addopen(&files, 1, words, O_WRONLY | O_CREAT | O_TRUNC, 0600) == 0 &&
               posix_spawn_file_actions_adddup2(&files, 1, 2) == 0 && posix_spawnattr_setpgroup(&attributes, 0) == 0 &&
               posix_spawnattr_setsigmask(&attributes, &none) == 0 && posix_spawnattr_setsigdefault(&attributes, &all) == 0 &&
               posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF) == 0;
  int error = ready ? posix_spawn(&child, argv[0], &files, &attributes, (char *const *)(uintptr_t)argv, environ) : EINVAL;
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (!error) tie(leash, child);
  const int status = error ? -1 : wait_for(child, seconds);
  untie(leash);
  return status;
}

// ---- workplaces ----

#define ABANDONED "zmlx-kernel-" // workplaces in the folder of temporary files

typedef struct workplace {
  char folder[PATH_MAX - 32], source[PATH_MAX], object[PATH_MAX], words[PATH_MAX];
} workplace;

static bool open_workplace(workplace *w, const zmi_cache *cache) {
  const char *temporary = getenv("TMPDIR"), *base = cache->folder;
  for (int attempt = 0; attempt < 2; attempt++, base = NULL) {
    if (!base) base = temporary && *temporary == '/' ? temporary : "/tmp";
    if (base != cache->folder) zmi_cache_sweep(base, ABANDONED);
    int size = snprintf(w->folder, sizeof w->folder, "%s/%sXXXXXX", base, base == cache->folder ? "work-" : ABANDONED);
    if (size < 0 || size >= (int)sizeof w->folder || !mkdtemp(w->folder)) continue;
    snprintf(w->source, sizeof w->source, "%s/kernel.c", w->folder);
    snprintf(w->object, sizeof w->object, "%s/kernel.so", w->folder);
    snprintf(w->words, sizeof w->words, "%s/words", w->folder);
    return true;
  }
  return false;
}

static void close_workplace(const workplace *w) {
  unlink(w->object);
  unlink(w->words);
  unlink(w->source);
  rmdir(w->folder);
}

static bool write_file(const char *path, const char *text, size_t size) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return false;
  bool good = true;
  while (size > 0 && good) {
    ssize_t put = write(fd, text, size);
    if (put < 0 && errno == EINTR) continue;
    good = put > 0;
    if (good) text += put, size -= (size_t)put;
  }
  return close(fd) == 0 && good;
}

// The first line that says "error", else the first line.
static void first_words(const char *path, char text[WORDS]) {
  char *data = NULL;
  size_t size;
  text[0] = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  data = zmi_malloc(8193);
  ssize_t got = data ? read(fd, data, 8192) : 0;
  close(fd);
  size = got > 0 ? (size_t)got : 0;
  if (data) {
    data[size] = 0;
    const char *error = strstr(data, "error"), *line = data;
    for (const char *p = data; error && p < error; p++)
      if (*p == '\n') line = p + 1;
    snprintf(text, WORDS, "%.*s", (int)ZMI_MIN(strcspn(line, "\r\n"), (size_t)WORDS - 1), line);
    for (char *p = text; *p; p++)
      if ((unsigned char)*p < 32) *p = ' ';
  }
  zmi_free(data);
}

// ---- which compiler ----

typedef struct compiler {
  bool known, found;
  bool hung;       // once is enough: it is not asked again
  char asked[256]; // ZMLX_CC when it was looked for
  char path[PATH_MAX], version[256], why[256];
  struct timespec changed;
  off_t size;
} compiler;

static pthread_mutex_t compiler_lock = PTHREAD_MUTEX_INITIALIZER;
static compiler known_compiler; // under the lock

static bool is_program(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static bool search_path(const char *name, char found[PATH_MAX]) {
  if (strchr(name, '/')) {
    snprintf(found, PATH_MAX, "%s", name);
    return is_program(found);
  }
  const char *path = getenv("PATH");
  for (const char *p = path ? path : "/usr/bin:/bin"; *p;) {
    size_t size = strcspn(p, ":");
    if (size > 0 && *p == '/' && snprintf(found, PATH_MAX, "%.*s/%s", (int)size, p, name) < PATH_MAX && is_program(found)) return true;
    p += size + (p[size] == ':');
  }
  return false;
}

static void ask_version(compiler *c, const zmi_cache *cache) {
  workplace w;
  struct stat st;
  if (stat(c->path, &st) == 0) c->changed = st.st_mtim, c->size = st.st_size;
  if (!open_workplace(&w, cache)) return;
  const char *argv[] = {c->path, "--version", NULL};
  if (run_child(argv, w.words, VERSION_SECONDS) == 0) first_words(w.words, c->version);
  close_workplace(&w);
}

// Once for each value of ZMLX_CC. Under the lock.
static const compiler *find_compiler(const zmi_cache *cache) {
  static const char *const names[] = {"cc", "gcc", "clang"};
  compiler *c = &known_compiler;
  const char *asked = zmi_env("ZMLX_CC");
  if (c->known && strncmp(c->asked, asked ? asked : "", sizeof c->asked - 1) == 0) return c;
  *c = (compiler){.known = true};
  snprintf(c->asked, sizeof c->asked, "%s", asked ? asked : "");
  if (asked) {
    c->found = search_path(asked, c->path);
    if (!c->found)
      snprintf(c->why, sizeof c->why, "ZMLX_CC names %.120s, which is no program that can be run%s", asked,
               strchr(asked, ' ') ? ": it takes the name or the path of a compiler alone, without flags" : "");
  } else {
    for (size_t i = 0; i < ZMI_COUNT(names) && !c->found; i++) c->found = search_path(names[i], c->path);
    if (!c->found) snprintf(c->why, sizeof c->why, "no C compiler was found on PATH (cc, gcc or clang)");
  }
  if (c->found) ask_version(c, cache);
  return c;
}

bool zmi_compiler_facts(char text[512]) {
  zmi_cache cache;
  zmi_cache_open(&cache);
  pthread_mutex_lock(&compiler_lock);
  const compiler *c = find_compiler(&cache);
  bool found = c->found;
  if (found)
    snprintf(text, 512, "%.200s at %.256s", c->version[0] ? c->version : "a compiler without a version", c->path);
  else
    snprintf(text, 512, "%s", c->why);
  pthread_mutex_unlock(&compiler_lock);
  zmi_cache_close(&cache);
  return found;
}

void zmi_kernel_cache_look(zmi_kernel_cache *facts) {
  zmi_cache cache;
  memset(facts, 0, sizeof *facts);
  facts->compiler_found = zmi_compiler_facts(facts->compiler);
  zmi_cache_open(&cache);
  const zmi_cache_facts f = zmi_cache_look(&cache);
  facts->entries = f.entries, facts->bytes = f.bytes, facts->limit = f.limit;
  snprintf(facts->folder, sizeof facts->folder, "%s", cache.folder ? cache.folder : "");
  snprintf(facts->why_not, sizeof facts->why_not, "%s", cache.why);
  zmi_cache_close(&cache);
}

size_t zmi_kernel_cache_clear(void) {
  zmi_cache cache;
  zmi_cache_open(&cache);
  size_t removed = zmi_cache_clear(&cache);
  zmi_cache_close(&cache);
  return removed;
}

// ---- compiling ----

typedef struct job {
  const char *name, *source;
  const char *argv[MOST_FLAGS];
  char path[PATH_MAX]; // of the compiler
  char key[80];        // name of the entry
} job;

// Flags of the job, and the hash of everything that decides what comes out.
static bool prepare_job(job *j, const compiler *c, const char *tier) {
  static const char hex[] = "0123456789abcdef";
  zmi_sha256 h;
  uint8_t digest[32];
  char stamp[96];
  int n = 0;
  snprintf(j->path, sizeof j->path, "%s", c->path);
  j->argv[n++] = j->path;
  for (const char *const *f = common_flags; *f; f++) j->argv[n++] = *f;
  size_t row = 0;
  const size_t word = strcspn(tier, " ");
  while (row < ZMI_COUNT(tier_flags) && (strlen(tier_flags[row].tier) != word || strncmp(tier_flags[row].tier, tier, word) != 0)) row++;
  if (row == ZMI_COUNT(tier_flags)) return false;
  for (const char *const *f = tier_flags[row].flags; *f; f++) j->argv[n++] = *f;
  if (tier[word]) j->argv[n++] = tier + word + 1;
  zmi_sha256_start(&h);
  for (int i = 1; i < n; i++) zmi_sha256_add(&h, j->argv[i], strlen(j->argv[i]) + 1);
  zmi_sha256_add(&h, tier, strlen(tier) + 1);
  zmi_sha256_add(&h, c->path, strlen(c->path) + 1);
  zmi_sha256_add(&h, c->version, strlen(c->version) + 1);
  snprintf(stamp, sizeof stamp, "%lld.%ld %lld", (long long)c->changed.tv_sec, c->changed.tv_nsec, (long long)c->size);
  zmi_sha256_add(&h, stamp, strlen(stamp) + 1);
  zmi_sha256_add(&h, j->source, strlen(j->source));
  zmi_sha256_end(&h, digest);
  for (int i = 0; i < 32; i++) j->key[2 * i] = hex[digest[i] >> 4], j->key[2 * i + 1] = hex[digest[i] & 15];
  snprintf(j->key + 64, sizeof j->key - 64, ".so");
  j->argv[n] = NULL;
  return true;
}

// What the child reads and writes, behind the flags.
static void add_files(job *j, const workplace *w) {
  int n = 0;
  while (j->argv[n]) n++;
  j->argv[0] = j->path; // a copy's own
  j->argv[n++] = "-o";
  j->argv[n++] = w->object;
  j->argv[n++] = w->source;
  j->argv[n++] = "-lm";
  j->argv[n] = NULL;
}

static void *load(const char *path, char why[WORDS]) { // why: it may be NULL
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  const char *said = handle ? NULL : dlerror();
  const size_t size = strlen(path);
  if (said && strncmp(said, path, size) == 0 && strncmp(said + size, ": ", 2) == 0) said += size + 2; // the file is gone when this is read
  if (why) snprintf(why, WORDS, "%s", said ? said : "");
  return handle;
}

static void publish(const job *j, const workplace *w, const zmi_cache *cache) {
  char *data;
  size_t size;
  if (cache->folder && zmi_read_file(w->object, MOST_OBJECT, &data, &size) == ZM_OK) {
    zmi_cache_put(cache, j->key, data, size);
    zmi_free(data);
  }
  zmi_error_clear();
}

// ---- failures ----
// A compiler that failed fails again: until the memory of it expires nobody asks it for the same source with the same flags. The hash
// that names the entry changes with the compiler. The source is kept beside it, where room is made for others like for every entry.

enum { FAILED_SECONDS = 3600, HUNG_SECONDS = 600 }; // a machine may have been busy

static void failure_name(const job *j, const char *ending, char name[80]) {
  snprintf(name, 80, "%.64s%s", j->key, ending);
}

static bool recall_failure(const job *j, const zmi_cache *cache, char note[512]) {
  char name[80], *text, *words;
  size_t size;
  failure_name(j, ".failed", name);
  text = zmi_cache_read(cache, name, &size);
  if (!text) return false;
  const long long since = (long long)time(NULL) - strtoll(text, &words, 10);
  const double hung_for = strtod(words, &words); // 0: it ended by itself
  const bool fresh = since >= 0 && since < (hung_for > 0 ? HUNG_SECONDS : FAILED_SECONDS);
  const bool holds = fresh && (hung_for <= 0 || zmi_env_number("ZMLX_CC_SECONDS") <= hung_for);
  if (holds && *words == '\n') snprintf(note, 512, "%lld seconds ago (zmlx kernel cache --clear forgets it) %.430s", since, words + 1);
  zmi_free(text);
  return holds;
}

// Without a folder of kernels: in that of temporary files, the last one of this process alone. Under the lock of the compiler.
static const char *keep_outside(const workplace *w) {
  static char last[PATH_MAX];
  if (last[0]) {
    unlink(last);
    *strrchr(last, '/') = 0;
    rmdir(last);
  }
  snprintf(last, sizeof last, "%s", w->source);
  return last;
}

// Where the source is kept. *kept: its workplace stays.
static void keep_source(const job *j, const workplace *w, const zmi_cache *cache, char place[PATH_MAX], bool *kept) {
  char name[80], *path;
  failure_name(j, ".c", name);
  path = cache->folder ? zmi_path_join(cache->folder, name) : NULL;
  *kept = false;
  if (path && strlen(path) < PATH_MAX && rename(w->source, path) == 0) {
    snprintf(place, PATH_MAX, "%s", path);
  } else {
    pthread_mutex_lock(&compiler_lock);
    snprintf(place, PATH_MAX, "%s", keep_outside(w));
    pthread_mutex_unlock(&compiler_lock);
    *kept = true;
  }
  zmi_free(path);
}

static void remember_failure(const job *j, const zmi_cache *cache, double hung_for, const char *note) {
  char name[80], text[640];
  failure_name(j, ".failed", name);
  const int size = snprintf(text, sizeof text, "%lld %g\n%s", (long long)time(NULL), hung_for, note);
  if (cache->folder && size > 0 && size < (int)sizeof text) zmi_cache_put(cache, name, text, (size_t)size);
}

// Why there is nothing to load after the child's status, as one sentence.
static void explain(const job *j, const workplace *w, int status, double seconds, const char *loader, const char *place, char note[512]) {
  char words[WORDS];
  first_words(w->words, words);
  const char *and = words[0] ? ": " : "";
  if (status == -2)
    snprintf(note, 512, "%.80s had not compiled it after %g seconds%s%.120s; the source is kept in %.230s", j->path, seconds, and, words,
             place);
  else if (status == -1)
    snprintf(note, 512, "%.120s could not be started; the source is kept in %.300s", j->path, place);
  else if (status == 0)
    snprintf(note, 512, "what %.70s made could not be loaded%s%.70s%s%.90s; the source is kept in %.190s", j->path, loader[0] ? ": " : "",
             loader, words[0] ? "; it said: " : "", words, place);
  else
    snprintf(note, 512, "%.80s failed (status %d): %.120s; the source is kept in %.230s", j->path, status,
             words[0] ? words : "it said nothing", place);
}

static void *build(const job *j, const zmi_cache *cache, char note[512]) {
  char place[PATH_MAX];
  bool kept;
  workplace w;
  job mine = *j;
  const double seconds = zmi_env_number("ZMLX_CC_SECONDS");
  if (!open_workplace(&w, cache)) {
    snprintf(note, 512, "neither the cache folder nor the folder of temporary files can be written");
    return NULL;
  }
  add_files(&mine, &w);
  if (!write_file(w.source, j->source, strlen(j->source))) {
    snprintf(note, 512, "the source could not be written to %.200s", w.source);
    close_workplace(&w);
    return NULL;
  }
  const int status = run_child(mine.argv, w.words, seconds);
  char loader[WORDS] = "";
  void *handle = status == 0 ? load(w.object, loader) : NULL;
  if (handle) {
    publish(j, &w, cache);
    close_workplace(&w);
    return handle;
  }
  if (status == -2) {
    pthread_mutex_lock(&compiler_lock);
    known_compiler.hung = true;
    pthread_mutex_unlock(&compiler_lock);
  }
  keep_source(j, &w, cache, place, &kept);
  explain(j, &w, status, seconds, loader, place, note);
  if (status == -2 || (status >= 0 && status < 128)) remember_failure(j, cache, status == -2 ? seconds : 0, note);
  unlink(w.object);
  unlink(w.words);
  if (!kept) close_workplace(&w);
  return NULL;
}

void *zmi_compile_c(const char *name, const char *source, const char *tier, bool only_cached, char note[512], bool *was_cached) {
  zmi_cache cache;
  job j = {.name = name, .source = source};
  void *handle = NULL;
  char *entry = NULL;
  note[0] = 0;
  *was_cached = false;
  zmi_cache_open(&cache);
  pthread_mutex_lock(&compiler_lock);
  const compiler *c = find_compiler(&cache);
  bool found = c->found, hung = c->hung, known = found && prepare_job(&j, c, tier);
  if (!found) snprintf(note, 512, "%s", c->why);
  pthread_mutex_unlock(&compiler_lock);
  if (known && (entry = zmi_cache_find(&cache, j.key)) != NULL) {
    handle = load(entry, NULL);
    *was_cached = handle != NULL;
  }
  if (known && !handle && hung) {
    if (!only_cached) snprintf(note, 512, "%.200s took too long for another kernel and is not asked again", j.path);
  } else if (known && !handle && !only_cached) {
    if (!recall_failure(&j, &cache, note)) handle = build(&j, &cache, note);
  } else if (found && !known) {
    snprintf(note, 512, "no flags are known for the CPU tier %.40s", tier);
  }
  zmi_free(entry);
  zmi_cache_close(&cache);
  zmi_error_clear();
  return handle;
}

void zmi_compile_unload(void *handle) {
  if (handle) dlclose(handle);
}
