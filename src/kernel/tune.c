// Tuning of compiled kernels: the same code with other chunks of elements and other flags, timed in turns on the caller's operands. What is
// chosen is remembered in the cache folder, in an entry that says which kernel, dtypes, device and class of shape it is for.
#include "kernel/cache.h"
#include "kernel/emit.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = ZMI_TUNE_ROUNDS, TEXT = 1024 };
static const double block_seconds = 4e-4, margin = 1.02;
// The interpreter, which may win where calls are small, is not tried on calls that take longer compiled. A way whose calls take so many
// times as long as the usual one is not timed further: tuning ends in any case.
static const double interpreted_seconds = 0.02, hopeless = 4;
// A choice needs so many whole rounds.
enum { FEWEST_ROUNDS = 3 };

static const char *const flag_words[] = {"", "-funroll-loops", "-mprefer-vector-width=256"};
// Remembered by their numbers' contents, so the order may change; the first one is the usual way.
static const zmi_tuning ways[] = {{32, 0}, {256, 0}, {512, 0}, {1024, 0}, {2048, 0}, {32, 1}, {512, 1}, {32, 2}, {0, 0}};
_Static_assert(ZMI_COUNT(ways) <= ZMI_TUNE_MOST, "ways of an instance");

const char *zmi_tuning_flags(const zmi_tuning *t) {
  return t->flag >= 0 && t->flag < (int)ZMI_COUNT(flag_words) ? flag_words[t->flag] : "";
}

bool zmi_tuning_interprets(int way) {
  return ways[way].chunk == 0;
}

int zmi_tuning_interpreter(void) {
  int way = 0;
  while (!zmi_tuning_interprets(way)) way++;
  return way;
}

zmi_tuning zmi_instance_tuning(const zmi_instance *x, int shape) {
  return ways[zmi_instance_chosen(x, shape)];
}

// ---- what is remembered ----

static void class_of(const zmi_code *code, int shape, char text[48]) {
  static const char *const sizes[] = {"small", "medium", "large"}, *const lengths[] = {"64", "1024", "16384", "more"};
  if (code->form == ZMI_FORM_ROWS)
    snprintf(text, 48, "%s rows to %s", sizes[shape % 3], lengths[shape / 3]);
  else
    snprintf(text, 48, "%s", sizes[shape % 3]);
}

static void dtypes_of(const zmi_code *code, zmi_text *text) {
  for (int i = 0; i < code->nin; i++) zmi_text_add(text, "%s ", zm_dtype_name(code->in[i]));
  for (int o = 0; o < code->nout; o++) zmi_text_add(text, "> %s ", zm_dtype_name(code->out[o]));
}

// What the system says of the processor: its model where there is a name, else who made it and which part it is (as on ARM), or the first
// line that there is for it.
static void device_of(char text[160]) {
  static const char *const keys[] = {"model name",  "cpu model", "CPU implementer", "CPU architecture",
                                     "CPU variant", "CPU part",  "CPU revision",    "cpu\t",
                                     "uarch",       "isa\t",     "Processor",       "Hardware"};
  bool seen[ZMI_COUNT(keys)] = {false};
  FILE *f = fopen("/proc/cpuinfo", "re");
  char line[256];
  size_t at = 0;
  text[0] = 0;
  while (f && at < 120 && fgets(line, sizeof line, f)) {
    const char *colon = strchr(line, ':');
    for (size_t i = 0; i < ZMI_COUNT(keys) && colon; i++) {
      if (seen[i] || strncmp(line, keys[i], strlen(keys[i])) != 0) continue;
      seen[i] = true;
      colon += colon[1] == ' ' ? 2 : 1;
      at += (size_t)snprintf(text + at, 160 - at, "%s%.*s", at ? " " : "", (int)ZMI_MIN(strcspn(colon, "\n"), 140 - at), colon);
      break;
    }
    if (seen[0]) break;
  }
  if (f) fclose(f);
  if (at == 0) snprintf(text, 160, "unknown processor");
}

// The entry up to the choice itself; its hash is the entry's name. False without memory.
static pthread_once_t device_once = PTHREAD_ONCE_INIT;
static char device_text[160]; // written once

static void read_device(void) {
  device_of(device_text);
}

static bool describe(const zmi_code *code, const char *tier, int shape, zmi_text *text, char name[48]) {
  char compiler[512], size[48];
  uint8_t digest[32];
  zmi_sha256 h;
  pthread_once(&device_once, read_device);
  class_of(code, shape, size);
  if (!zmi_compiler_facts(compiler)) compiler[0] = 0;
  zmi_text_add(text, "zmlx tuning 3\nkernel %016llx%016llx\nform %d\ndtypes ", (unsigned long long)code->key[0],
               (unsigned long long)code->key[1], code->form);
  dtypes_of(code, text);
  zmi_text_add(text, "\ntier %s\ndevice %s\ncpus %d\ncompiler %s\nshape %s\n", tier, device_text, zmi_cpu_count(), compiler, size);
  if (text->failed) return false;
  zmi_sha256_start(&h);
  zmi_sha256_add(&h, text->data, text->size);
  zmi_sha256_end(&h, digest);
  int at = snprintf(name, 48, "tune-");
  for (int i = 0; i < 16; i++) at += snprintf(name + at, (size_t)(48 - at), "%02x", digest[i]);
  return true;
}

static int read_choice(const char *text, int *pieces) {
  for (size_t i = 0; i < ZMI_COUNT(ways); i++) { // only what could have been measured
    char line[64], *end;
    const int size = snprintf(line, sizeof line, "chunk %d flag %d pieces ", ways[i].chunk, ways[i].flag);
    if (strncmp(text, line, (size_t)size) != 0 || text[size] < '0' || text[size] > '9') continue;
    const long found = strtol(text + size, &end, 10);
    if (found > ZMI_PIECES_MOST || strcmp(end, "\n") != 0) return -1;
    *pieces = (int)found;
    return (int)i;
  }
  return -1;
}

static bool sensible(const zmi_code *code, const char *tier, const zmi_tuning *t) {
  if (t->flag == 2 && strncmp(tier, "avx512", 6) != 0) return false;
  if (t->chunk == 0) return code->form != ZMI_FORM_RAW;
  return t->chunk == ways[0].chunk || code->form < ZMI_FORM_TILES; // threads of a group are not cut into chunks
}

int zmi_tuning_recall(const zmi_code *code, const char *tier, int shape, int *pieces) {
  zmi_cache cache;
  zmi_text text = {0};
  char name[48];
  size_t size = 0;
  int way = -1;
  if (describe(code, tier, shape, &text, name)) {
    zmi_cache_open(&cache);
    char *data = zmi_cache_read(&cache, name, &size);
    if (data && size > text.size && memcmp(data, text.data, text.size) == 0) way = read_choice(data + text.size, pieces);
    zmi_free(data);
    zmi_cache_close(&cache);
  }
  zmi_text_release(&text);
  if (way >= 0 && sensible(code, tier, &ways[way])) return way;
  *pieces = 0;
  return -1;
}

static void remember(const zmi_code *code, const char *tier, int shape, const zmi_tuning *t, int pieces) {
  zmi_cache cache;
  zmi_text text = {0};
  char name[48];
  if (describe(code, tier, shape, &text, name)) {
    zmi_text_add(&text, "chunk %d flag %d pieces %d\n", t->chunk, t->flag, pieces);
    zmi_cache_open(&cache);
    if (!text.failed) zmi_cache_put(&cache, name, text.data, text.size);
    zmi_cache_close(&cache);
  }
  zmi_text_release(&text);
}

void zmi_instance_keep_sharing(const zmi_instance *x, int shape) {
  const zmi_kernels *k = zmi_kernels_find(NULL);
  if (k) remember(zmi_instance_code(x), k->name, shape, &ways[zmi_instance_chosen(x, shape)], zmi_instance_pieces(x, shape));
  zmi_error_clear();
}

// ---- compiling ----

void *zmi_tuning_compile(const zmi_code *code, const char *tier, int way, bool only_cached, char note[512], bool *was_cached) {
  const zmi_tuning *tuning = &ways[way];
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

static double measure(const zmi_instance *x, zmi_entry_fn kernel, const zmi_work *w, int calls) {
  const double start = zmi_now();
  for (int i = 0; i < calls; i++) zmi_instance_call(x, kernel, w);
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

static bool beats(const double *seconds, const double *usual) {
  double ratio[ROUNDS];
  for (int r = 0; r < ROUNDS; r++) ratio[r] = usual[r] / seconds[r];
  qsort(ratio, ROUNDS, sizeof *ratio, ascending);
  return ratio[1] > margin;
}

int zmi_tune_best(const double (*seconds)[ZMI_TUNE_ROUNDS], int count) {
  int best = 0;
  for (int i = 1; i < count; i++)
    if (beats(seconds[i], seconds[0]) && median(seconds[i]) < median(seconds[best])) best = i;
  return best;
}

// Whole rounds that were measured stand in for those that there was no time for.
static void repeat_rounds(double (*seconds)[ROUNDS], int count, int done) {
  for (int i = 0; i < count && done > 0; i++)
    for (int r = done; r < ROUNDS; r++) seconds[i][r] = seconds[i][r % done];
}

// False: there was no time for enough rounds.
static bool measure_all(const zmi_instance *x, const zmi_entry_fn *kernels, const zmi_work *w, double end, zmi_tune_report *report) {
  double seconds[ZMI_TUNE_MOST][ROUNDS];
  const unsigned saved = zmi_float_rule_enter();
  const double once = ZMI_MAX(measure(x, kernels[0], w, 1), 1e-7);
  if (!kernels[report->count - 1] && once > interpreted_seconds) report->count--;
  const int calls = (int)ZMI_MIN(ZMI_MAX(block_seconds / once, 1), 1000);
  bool slow[ZMI_TUNE_MOST] = {false};
  double usual = 0;
  int count = 0, done = 0;
  for (; count < report->count && (count == 0 || zmi_now() < end); count++) {
    const int i = count;
    const double cold = measure(x, kernels[i], w, 1), warm = ZMI_MAX(ZMI_MIN(cold, measure(x, kernels[i], w, calls > 1 ? 2 : 1)), 1e-12);
    if (i == 0) usual = warm;
    slow[i] = warm > hopeless * usual;
    for (int r = 0; r < ROUNDS; r++) seconds[i][r] = warm;
  }
  report->count = count;
  for (; done < ROUNDS && zmi_now() < end; done++)
    for (int i = 0; i < count; i++) { // each round begins with another one
      const int now = (i + done) % count;
      if (!slow[now]) seconds[now][done] = ZMI_MAX(measure(x, kernels[now], w, calls), 1e-12);
    }
  zmi_float_rule_leave(saved);
  repeat_rounds(seconds, count, done);
  for (int i = 0; i < count; i++) report->seconds[i] = median(seconds[i]);
  report->chosen = done < FEWEST_ROUNDS ? 0 : zmi_tune_best((const double(*)[ROUNDS])seconds, count);
  return done >= FEWEST_ROUNDS;
}

static int64_t elements_of(const zmi_code *code, const zmi_work *w) {
  if (code->form == ZMI_FORM_ELEMENTS) return w->n;
  return code->form == ZMI_FORM_ROWS ? w->rows * w->d : w->launch->groups;
}

static zm_status untunable(const zmi_code *code, const char *why) {
  return zmi_fail(ZM_ERROR_UNSUPPORTED, "kernel %s: cannot be tuned: %.400s", code->name, why);
}

zm_status zmi_instance_tune(zmi_instance *x, const zmi_work *work, bool again, zmi_tune_report *report) {
  const zmi_code *code = zmi_instance_code(x);
  const zmi_kernels *k = zmi_kernels_find(NULL);
  const int64_t elements = elements_of(code, work);
  const int shape = code->form < ZMI_FORM_TILES ? zmi_shape_class((zmi_form)code->form, elements, work->d)
                                                : zmi_grid_class((zmi_form)code->form, work->launch->groups, work->launch->threads);
  const char *mode = zmi_env("ZMLX_KERNELS");
  zmi_entry_fn kernels[ZMI_TUNE_MOST];
  int numbers[ZMI_TUNE_MOST] = {0};
  char why[512];
  memset(report, 0, sizeof *report);
  report->count = 1;
  report->tuning[0] = ways[0];
  report->empty = elements <= 0;
  if (!k) return zm_last_status();
  if (report->empty) return ZM_OK; // no time can be told apart from any other
  if (mode && strcmp(mode, "interpret") == 0) return untunable(code, "ZMLX_KERNELS=interpret keeps kernels from being compiled");
  int pieces = 0;
  const int remembered = again ? -1 : zmi_tuning_recall(code, k->name, shape, &pieces);
  if (remembered >= 0) {
    if (!zmi_instance_way(x, zmi_tuning_interprets(remembered) ? 0 : remembered, why)) return untunable(code, why);
    report->tuning[0] = ways[remembered];
    report->remembered = true;
    zmi_instance_share(x, shape, pieces);
    zmi_instance_choose(x, shape, remembered);
    return ZM_OK;
  }
  report->count = 0;
  const double allowed = zmi_env_number("ZMLX_TUNE_SECONDS");
  double start = 0; // when the usual way, which must be there, is compiled; half of the time is left for measuring
  for (int i = 0; i < (int)ZMI_COUNT(ways); i++) {
    if (!sensible(code, k->name, &ways[i]) || (i > 0 && !zmi_tuning_interprets(i) && zmi_now() >= start + allowed / 2)) continue;
    kernels[report->count] = zmi_tuning_interprets(i) ? NULL : zmi_instance_way(x, i, why);
    if (!kernels[report->count] && !zmi_tuning_interprets(i)) {
      if (i == 0) return untunable(code, why);
      continue; // a flag that this compiler does not know
    }
    if (i == 0) start = zmi_now();
    numbers[report->count] = i;
    report->tuning[report->count++] = ways[i];
  }
  if (measure_all(x, kernels, work, start + allowed, report)) remember(code, k->name, shape, &ways[numbers[report->chosen]], 0);
  zmi_instance_choose(x, shape, numbers[report->chosen]);
  return ZM_OK;
}
