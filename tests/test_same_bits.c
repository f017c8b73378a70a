// The promise, rung by rung, over every checkpoint in the tree: logits of all positions, compared bit by bit with one plain run (scalar
// tier, one thread, stock).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"
#include "watched.h"

enum { TOKENS = 137, PLAIN_CHUNK = 8, MAX_CHECKPOINTS = 40 }; // beyond one range of attention

typedef struct way {
  zm_dtype dtype;
  int threads;
  const char *isa;
  int chunk;           // rows of a step
  const char *pattern; // NULL: stock; "all"
  int others;          // further sequences that share each step
  zm_activations activations;
} way;

static char *checkpoints[MAX_CHECKPOINTS];
static size_t checkpoint_count;

static int32_t token_of(int sequence, int position, int32_t vocab) {
  return (int32_t)(zmi_uniform((uint64_t)sequence + 1, (uint64_t)position) * vocab);
}

static void must(zm_status status) {
  if (status != ZM_OK) fail_msg("%s: %s", zm_status_name(status), zm_last_error());
}

static void choose(zm_model *m, const char *pattern) {
  if (!pattern)
    must(zm_unpatch(m));
  else if (strcmp(pattern, "all") == 0)
    must(zm_patch(m, NULL, NULL));
  else
    must(zm_patch(m, &(zm_patch_options){.patterns = &pattern, .count = 1}, NULL));
}

// Sequence 0 goes forward `chunk` tokens a step, the others one token a step at positions of their own, so that every step mixes unlike
// rows.
static void feed(zm_session *s, const way *w, int32_t vocab, float *logits) {
  zm_row rows[256];
  float *out = calloc((size_t)(w->chunk + w->others) * (size_t)vocab, sizeof *out);
  for (int o = 1; o <= w->others; o++) { // different depths
    for (int i = 0; i < 3 * o; i++) {
      zm_row row = {o, token_of(o, i, vocab)};
      must(zm_session_step(s, &row, 1, NULL, 0));
    }
  }
  for (int i = 0; i < TOKENS;) {
    int n = TOKENS - i < w->chunk ? TOKENS - i : w->chunk;
    size_t count = 0;
    int before = w->others / 2; // some other rows before, some after
    for (int o = 1; o <= before; o++) rows[count++] = (zm_row){o, token_of(o, zm_session_length(s, o), vocab)};
    for (int k = 0; k < n; k++) rows[count++] = (zm_row){0, token_of(0, i + k, vocab)};
    for (int o = before + 1; o <= w->others; o++) rows[count++] = (zm_row){o, token_of(o, zm_session_length(s, o), vocab)};
    must(zm_session_step(s, rows, count, out, count));
    memcpy(logits + (size_t)i * (size_t)vocab, out + (size_t)before * (size_t)vocab, (size_t)n * (size_t)vocab * sizeof *out);
    i += n;
  }
  free(out);
}

static float *run(const char *path, const way *w) {
  zm_model *m =
      zm_model_open(path, &(zm_model_options){.dtype = w->dtype, .threads = w->threads, .isa = w->isa, .activations = w->activations});
  if (!m) fail_msg("%s: %s", path, zm_last_error());
  choose(m, w->pattern);
  int32_t vocab = zmi_model_vocab(m);
  float *logits = calloc((size_t)TOKENS * (size_t)vocab, sizeof *logits);
  zm_session *s = zm_session_open(m, &(zm_session_options){.context = TOKENS + 32, .sequences = 1 + w->others});
  if (!s) fail_msg("%s: %s", path, zm_last_error());
  feed(s, w, vocab, logits);
  zm_session_close(s);
  zm_model_close(m);
  return logits;
}

static int32_t vocab_of(const char *path) {
  zmi_model_plan plan;
  must(zmi_model_plan_path(path, NULL, &plan));
  return plan.vocab;
}

static void compare(const char *path, const float *plain, const way *w) {
  float *got = run(path, w);
  size_t vocab = (size_t)vocab_of(path), differing = 0, first = 0;
  for (size_t i = 0; i < TOKENS; i++) {
    if (memcmp(plain + i * vocab, got + i * vocab, vocab * sizeof *got) == 0) continue;
    if (differing++ == 0) first = i;
  }
  free(got);
  if (differing) {
    fail_msg("%s %s: %zu of %d rows differ, the first at position %zu (threads %d, isa %s, chunk %d, patterns %s, %d other sequences)",
             path, zm_dtype_name(w->dtype), differing, TOKENS, first, w->threads, w->isa, w->chunk, w->pattern ? w->pattern : "none",
             w->others);
  }
}

static void each_checkpoint(void (*check)(const char *path, zm_dtype dtype, const float *plain)) {
  assert_true(checkpoint_count >= 4);
  for (size_t i = 0; i < checkpoint_count; i++) {
    static const zm_dtype dtypes[] = {ZM_BF16, ZM_F32};
    for (size_t d = 0; d < ZMI_COUNT(dtypes); d++) {
      float *plain = run(checkpoints[i], &(way){.dtype = dtypes[d], .threads = 1, .isa = "scalar", .chunk = PLAIN_CHUNK});
      size_t n = (size_t)vocab_of(checkpoints[i]) * TOKENS;
      double sum = 0;
      for (size_t k = 0; k < n; k++) sum += plain[k] > 0 ? plain[k] : -plain[k];
      assert_true(sum > 0 && sum < 1e12); // neither empty nor NaN
      check(checkpoints[i], dtypes[d], plain);
      free(plain);
    }
  }
}

static void check_everything(const char *path, zm_dtype dtype, const float *plain) {
  // run = run, and threads
  for (int threads = 1; threads <= 4; threads++) compare(path, plain, &(way){.dtype = dtype, .threads = threads, .chunk = 1});
  compare(path, plain, &(way){.dtype = dtype, .threads = zmi_cpu_count(), .chunk = 1});
  // tiers
  for (size_t t = 0; t < zmi_tier_count(); t++) {
    if (!zmi_tier_supported(t, NULL)) continue;
    compare(path, plain, &(way){.dtype = dtype, .threads = 2, .isa = zmi_tier(t)->name, .chunk = 5});
  }
  // chunks
  static const int chunks[] = {2, 3, 7, 16, 64, TOKENS};
  for (size_t c = 0; c < ZMI_COUNT(chunks); c++) compare(path, plain, &(way){.dtype = dtype, .threads = 2, .chunk = chunks[c]});
  // batches of 2 to 8 sequences; float32 takes fewer sizes, in less time
  for (int others = 1; others <= 7; others += dtype == ZM_BF16 ? 1 : 3) {
    compare(path, plain, &(way){.dtype = dtype, .threads = 2, .chunk = 1, .others = others});
    compare(path, plain, &(way){.dtype = dtype, .threads = 2, .chunk = 4, .others = others, .pattern = "all"});
  }
  // patterns: each alone, then all, decoding and in chunks, with one and three threads
  for (size_t p = 0; p < zm_pattern_count(); p++) {
    compare(path, plain, &(way){.dtype = dtype, .threads = 2, .chunk = 6, .pattern = zm_pattern_name(p)});
  }
  static const int patched[] = {1, 11, TOKENS};
  for (size_t c = 0; c < ZMI_COUNT(patched); c++) {
    for (int threads = 1; threads <= 3; threads++) {
      compare(path, plain, &(way){.dtype = dtype, .threads = threads, .chunk = patched[c], .pattern = "all"});
    }
  }
  compare(path, plain, &(way){.dtype = dtype, .threads = 2, .isa = "scalar", .chunk = 9, .pattern = "all"});
}

static void the_promise(void **state) {
  (void)state;
  each_checkpoint(check_everything);
}

// The same rungs for one-byte activations, and how far they are from the exact ones: docs/numerics.md states it.
static void one_byte_activations(void **state) {
  (void)state;
  for (size_t i = 0; i < checkpoint_count; i++) {
    const zm_activations a = ZM_ACTIVATIONS_INT8;
    const char *path = checkpoints[i];
    float *plain = run(path, &(way){.dtype = ZM_BF16, .threads = 1, .isa = "scalar", .chunk = PLAIN_CHUNK, .activations = a});
    for (size_t t = 1; t < zmi_tier_count(); t++) {
      if (!zmi_tier_supported(t, NULL)) continue;
      compare(path, plain, &(way){.dtype = ZM_BF16, .threads = 2, .isa = zmi_tier(t)->name, .chunk = 5, .activations = a});
    }
    compare(path, plain, &(way){.dtype = ZM_BF16, .threads = 3, .chunk = 1, .pattern = "all", .activations = a});
    compare(path, plain, &(way){.dtype = ZM_BF16, .threads = 2, .chunk = TOKENS, .pattern = "all", .activations = a});
    compare(path, plain, &(way){.dtype = ZM_BF16, .threads = 2, .chunk = 4, .others = 3, .activations = a});

    float *exact = run(path, &(way){.dtype = ZM_BF16, .threads = 2, .chunk = TOKENS});
    const size_t n = (size_t)vocab_of(path) * TOKENS;
    double mean = 0, squares = 0, errors = 0;
    for (size_t k = 0; k < n; k++) {
      mean += (double)exact[k] / (double)n;
      squares += (double)exact[k] * (double)exact[k];
      errors += (double)(exact[k] - plain[k]) * (double)(exact[k] - plain[k]);
    }
    const double share = errors / (squares - (double)n * mean * mean);
    zm_model *m = zm_model_open(path, NULL);
    zm_model_info info;
    zm_model_get_info(m, &info);
    const bool floats = strcmp(info.quantization, "none") == 0 || strstr(info.quantization, "mxfp8") != NULL;
    const double most = strncmp(path, "checkpoints/tiny-", 17) == 0 ? 0.2 : 0.08; // random tiny models have routers that flip easily
    if (floats ? share != 0 : share <= 0 || share > most * most)
      fail_msg("%s (%s): one-byte activations change logits by %.2f%%", path, info.quantization, 100 * sqrt(share));
    zm_model_close(m);
    free(exact);
    free(plain);
  }
}

// Patching and unpatching while a session lives: the caches are the same, so the sides can alternate token by token.
static void patterns_alternate(void **state) {
  (void)state;
  for (size_t i = 0; i < checkpoint_count; i++) {
    float *plain = run(checkpoints[i], &(way){.dtype = ZM_BF16, .threads = 2, .chunk = 1});
    zm_model *m = zm_model_open(checkpoints[i], &(zm_model_options){.dtype = ZM_BF16, .threads = 2});
    assert_non_null(m);
    int32_t vocab = zmi_model_vocab(m);
    zm_session *s = zm_session_open(m, &(zm_session_options){.context = TOKENS});
    assert_non_null(s);
    float *logits = calloc((size_t)vocab, sizeof *logits);
    for (int t = 0; t < TOKENS; t++) {
      choose(m, t % 3 == 0 ? NULL : t % 3 == 1 ? "all" : zm_pattern_name((size_t)t % zm_pattern_count()));
      zm_row row = {0, token_of(0, t, vocab)};
      must(zm_session_step(s, &row, 1, logits, 1));
      assert_memory_equal(logits, plain + (size_t)t * (size_t)vocab, (size_t)vocab * sizeof *logits);
    }
    free(logits);
    free(plain);
    zm_session_close(s);
    zm_model_close(m);
  }
}

// Tracing finds no difference where there is none, and finds one, at its first op, where the two sides are not the same.
static void differences_are_located(void **state) {
  (void)state;
  zm_model *m = zm_model_open(checkpoints[0], NULL);
  assert_non_null(m);
  zm_session *s = zm_session_open(m, &(zm_session_options){.context = 64});
  assert_non_null(s);
  zmi_patterns all;
  must(zmi_patterns_choose(NULL, &all));
  char *place = NULL;
  must(zmi_locate_difference(s, all, 0, 5, 5, &place));
  if (place) fail_msg("patched and stock part at %s", place);
  must(zmi_locate_difference(s, all, 0, 5, 6, &place));
  assert_non_null(place);
  assert_non_null(strstr(place, "embed"));
  zmi_free(place);
  zm_session_close(s);
  zm_model_close(m);
}

// Under a sanitizer the larger checkpoints would take many minutes and show nothing that the small ones do not.
static const bool small_only = WATCHED;

static int compare_names(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(void) {
  DIR *d = opendir("checkpoints");
  struct dirent *e;
  while (d && (e = readdir(d)) && checkpoint_count < MAX_CHECKPOINTS) {
    char path[512];
    snprintf(path, sizeof path, "checkpoints/%s/config.json", e->d_name);
    if (e->d_name[0] == '.' || !zmi_path_exists(path) || (small_only && strncmp(e->d_name, "tiny-", 5) != 0)) continue;
    path[strlen(path) - strlen("/config.json")] = 0;
    checkpoints[checkpoint_count++] = strdup(path);
  }
  if (d) closedir(d);
  qsort(checkpoints, checkpoint_count, sizeof *checkpoints, compare_names);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_promise),
      cmocka_unit_test(one_byte_activations),
      cmocka_unit_test(patterns_alternate),
      cmocka_unit_test(differences_are_located),
  };
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  for (size_t i = 0; i < checkpoint_count; i++) free(checkpoints[i]);
  return failed;
}
