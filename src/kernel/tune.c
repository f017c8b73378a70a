// Tuning of compiled kernels: the same code with other chunks of elements and other flags, timed in turns on the caller's operands. What is
// chosen is remembered in the cache folder, in an entry that says which kernel, device and class of size it is for.
#include "kernel/cache.h"
#include "kernel/emit.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 9, TEXT = 1024 };
static const double block_seconds = 4e-4, margin = 1.02;

static const char *const flag_words[] = {"", "-funroll-loops", "-mprefer-vector-width=256"};
static const zmi_tuning ways[] = {{512, 0}, {256, 0}, {1024, 0}, {2048, 0}, {512, 1}, {1024, 1}, {512, 2}};

// ---- what is remembered ----

static const char *class_of(int64_t elements) {
  return elements <= 1 << 16 ? "small" : elements <= 1 << 22 ? "medium" : "large";
}

static void device_of(char text[160]) {
  FILE *f = fopen("/proc/cpuinfo", "re");
  char line[256];
  snprintf(text, 160, "unknown processor");
  while (f && fgets(line, sizeof line, f)) {
    const char *colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) != 0 || !colon) continue;
    snprintf(text, 160, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
    break;
  }
  if (f) fclose(f);
}

// The entry up to the choice itself; its hash is the entry's name.
static void describe(const zmi_code *code, const char *tier, int64_t elements, char text[TEXT], char name[48]) {
  char device[160], compiler[512];
  uint8_t digest[32];
  zmi_sha256 h;
  device_of(device);
  if (!zmi_compiler_facts(compiler)) compiler[0] = 0;
  snprintf(text, TEXT, "zmlx tuning 1\nkernel %016llx%016llx\nform %d\ntier %s\ndevice %s\ncpus %d\ncompiler %.300s\nsize %s\n",
           (unsigned long long)code->key[0], (unsigned long long)code->key[1], code->form, tier, device, zmi_cpu_count(), compiler,
           class_of(elements));
  zmi_sha256_start(&h);
  zmi_sha256_add(&h, text, strlen(text));
  zmi_sha256_end(&h, digest);
  int at = snprintf(name, 48, "tune-");
  for (int i = 0; i < 16; i++) at += snprintf(name + at, (size_t)(48 - at), "%02x", digest[i]);
}

static bool read_choice(const char *text, zmi_tuning *t) {
  for (size_t i = 0; i < ZMI_COUNT(ways); i++) { // only what could have been measured
    char line[64];
    snprintf(line, sizeof line, "chunk %d flag %d\n", ways[i].chunk, ways[i].flag);
    if (strcmp(text, line) != 0) continue;
    *t = ways[i];
    return true;
  }
  return false;
}

bool zmi_tuning_recall(const zmi_code *code, const char *tier, int64_t elements, zmi_tuning *tuning) {
  zmi_cache cache;
  char text[TEXT], name[48];
  size_t size = 0;
  *tuning = ways[0];
  describe(code, tier, elements, text, name);
  zmi_cache_open(&cache);
  char *data = zmi_cache_read(&cache, name, &size);
  const size_t head = strlen(text);
  bool found = data && size > head && memcmp(data, text, head) == 0 && read_choice(data + head, tuning);
  zmi_free(data);
  zmi_cache_close(&cache);
  return found;
}

static void remember(const zmi_code *code, const char *tier, int64_t elements, const zmi_tuning *t) {
  zmi_cache cache;
  char text[TEXT + 64], name[48];
  describe(code, tier, elements, text, name);
  const size_t head = strlen(text);
  snprintf(text + head, sizeof text - head, "chunk %d flag %d\n", t->chunk, t->flag);
  zmi_cache_open(&cache);
  zmi_cache_put(&cache, name, text, strlen(text));
  zmi_cache_close(&cache);
}

// ---- compiling ----

void *zmi_tuning_compile(const zmi_code *code, const char *tier, const zmi_tuning *tuning, bool only_cached, char note[512],
                         bool *was_cached) {
  zmi_text source = {0};
  char words[80];
  void *handle = NULL;
  snprintf(words, sizeof words, tuning->flag ? "%s %s" : "%s", tier, flag_words[tuning->flag]);
  if (zmi_emit_c_tuned(code, tuning->chunk, &source) == ZM_OK)
    handle = zmi_compile_c(code->name, zmi_text_str(&source), words, only_cached, note, was_cached);
  else
    snprintf(note, 512, "%.400s", zm_last_error());
  zmi_text_release(&source);
  return handle;
}

// ---- measuring ----

typedef struct candidate {
  void *handle;
  void (*kernel)(void);
  double seconds[ROUNDS];
} candidate;

static double measure(const zmi_instance *x, const candidate *c, const zmi_work *w, int calls) {
  const double start = zmi_now();
  for (int i = 0; i < calls; i++) zmi_instance_call(x, c->kernel, w);
  return (zmi_now() - start) / calls;
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(const double *values) {
  double copy[ROUNDS];
  memcpy(copy, values, sizeof copy);
  qsort(copy, ROUNDS, sizeof *copy, ascending);
  return copy[ROUNDS / 2];
}

// Whether `c` beats the usual way in all rounds but one, by more than a little.
static bool beats(const candidate *c, const candidate *usual) {
  double ratio[ROUNDS];
  for (int r = 0; r < ROUNDS; r++) ratio[r] = usual->seconds[r] / c->seconds[r];
  qsort(ratio, ROUNDS, sizeof *ratio, ascending);
  return ratio[1] > margin;
}

static int choose(const zmi_instance *x, candidate *c, int count, const zmi_work *w, zmi_tune_report *report) {
  const unsigned saved = zmi_float_rule_enter();
  const double once = ZMI_MAX(measure(x, &c[0], w, 1), 1e-7);
  const int calls = (int)ZMI_MIN(ZMI_MAX(block_seconds / once, 1), 1000);
  for (int i = 0; i < count; i++) measure(x, &c[i], w, 1);
  for (int r = 0; r < ROUNDS; r++)
    for (int i = 0; i < count; i++) { // each round begins with another one
      candidate *now = &c[(i + r) % count];
      now->seconds[r] = measure(x, now, w, calls);
    }
  zmi_float_rule_leave(saved);
  int best = 0;
  for (int i = 0; i < count; i++) {
    report->seconds[i] = median(c[i].seconds);
    if (i > 0 && beats(&c[i], &c[0]) && report->seconds[i] < report->seconds[best]) best = i;
  }
  return best;
}

static bool sensible(const zmi_code *code, const char *tier, const zmi_tuning *t) {
  if (t->flag == 2 && strncmp(tier, "avx512", 6) != 0) return false;
  return t->chunk == ways[0].chunk || code->form < ZMI_FORM_TILES; // threads of a group are not cut into chunks
}

static zm_status adopt(zmi_instance *x, const zmi_code *code, const char *tier, const zmi_tuning *t) {
  char note[512];
  bool cached;
  void *handle = zmi_tuning_compile(code, tier, t, false, note, &cached), *entry = handle ? dlsym(handle, zmi_instance_entry(x)) : NULL;
  void (*kernel)(void);
  if (!entry) {
    zmi_compile_unload(handle);
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "kernel %s: cannot be tuned: %.400s", code->name, note);
  }
  memcpy(&kernel, &entry, sizeof kernel);
  snprintf(note, sizeof note, "compiled for %s, tuned", tier);
  zmi_instance_adopt(x, handle, kernel, note);
  return ZM_OK;
}

zm_status zmi_instance_tune(zmi_instance *x, const zmi_work *work, bool again, zmi_tune_report *report) {
  const zmi_code *code = zmi_instance_code(x);
  const zmi_kernels *k = zmi_kernels_find(NULL);
  const int64_t elements = code->form == ZMI_FORM_ELEMENTS ? work->n
                           : code->form == ZMI_FORM_ROWS   ? work->rows * work->d
                                                           : work->launch->groups * work->launch->threads;
  candidate c[ZMI_TUNE_MOST];
  char note[512] = "";
  bool cached;
  memset(report, 0, sizeof *report);
  if (!k) return zm_last_status();
  if (!again && zmi_tuning_recall(code, k->name, elements, &report->tuning[0])) {
    report->count = 1;
    report->remembered = true;
    return adopt(x, code, k->name, &report->tuning[0]);
  }
  for (size_t i = 0; i < ZMI_COUNT(ways) && report->count < ZMI_TUNE_MOST; i++) {
    if (!sensible(code, k->name, &ways[i])) continue;
    candidate *now = &c[report->count];
    now->handle = zmi_tuning_compile(code, k->name, &ways[i], false, note, &cached);
    void *entry = now->handle ? dlsym(now->handle, zmi_instance_entry(x)) : NULL;
    if (entry) {
      memcpy(&now->kernel, &entry, sizeof entry);
      report->tuning[report->count++] = ways[i];
    } else {
      zmi_compile_unload(now->handle);
      if (i == 0) return zmi_fail(ZM_ERROR_UNSUPPORTED, "kernel %s: cannot be tuned: %.400s", code->name, note);
    }
  }
  report->chosen = choose(x, c, report->count, work, report);
  for (int i = 0; i < report->count; i++) zmi_compile_unload(c[i].handle);
  remember(code, k->name, elements, &report->tuning[report->chosen]);
  return adopt(x, code, k->name, &report->tuning[report->chosen]);
}
