// The tools room: intervals, smart patching, validation, benchmarks, capsules.
#include "tools/tools.h"

#include <setjmp.h>
#include <stdarg.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <math.h>

#include "temp.h"

static const char model_path[] = "checkpoints/tiny-qwen3_moe"; // without a tokenizer: prompts are random tokens
static char folder[256];

static int make_scratch(void **state) {
  (void)state;
  const char *base = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%.200s/zmlx-tools-XXXXXX", base && *base ? base : "/tmp");
  // Nothing of these tests is remembered outside of them.
  return mkdtemp(folder) && setenv("ZMLX_CACHE_DIR", folder, 1) == 0 ? 0 : -1;
}

static const char *scratch_path(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static int remove_scratch(void **state) {
  (void)state;
  temp_remove_under(folder, 0);
  return zmi_path_exists(folder) ? -1 : 0;
}

static zm_model *open_model(const char *path) {
  zm_model *m = zm_model_open(path, &(zm_model_options){.threads = 2});
  if (!m) fail_msg("%s", zm_last_error());
  return m;
}

// ---- intervals ----

// The probability that the median of n values lies outside of the r-th smallest and r-th largest is 2 P(Binomial(n, 1/2) < r).
static void intervals(void **state) {
  (void)state;
  static const struct {
    size_t n, rank; // from tables of the sign test at 95%; rank 0: the whole range
  } cases[] = {{1, 0}, {5, 0}, {6, 1}, {8, 1}, {9, 2}, {12, 3}, {20, 6}, {50, 18}, {100, 40}, {1000, 469}};
  static double values[4000];
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    size_t n = cases[i].n, r = cases[i].rank ? cases[i].rank : 1;
    for (size_t k = 0; k < n; k++) values[k] = (double)(n - k); // falling: the function sorts
    zmi_interval got;
    assert_int_equal(zmi_median_interval(values, n, &got), ZM_OK);
    if (got.low != (double)r || got.high != (double)(n + 1 - r)) fail_msg("%zu values: %g to %g, not rank %zu", n, got.low, got.high, r);
    assert_true(got.median == (double)(n + 1) / 2);
  }
  for (size_t n = 900; n <= ZMI_COUNT(values); n += 100) { // ends in order, near n/2 -+ 0.98 sqrt(n), however many values
    for (size_t k = 0; k < n; k++) values[k] = (double)k;
    zmi_interval got;
    assert_int_equal(zmi_median_interval(values, n, &got), ZM_OK);
    double half = (got.high - got.low) / 2, expected = 0.98 * __builtin_sqrt((double)n);
    if (!(half > expected - 2 && half < expected + 2)) fail_msg("%zu values: half width %g, expected %g", n, half, expected);
  }
}

// ---- smart patching ----

static bool refuse(void *user, const char *what, uint64_t done, uint64_t total) {
  (void)what, (void)total;
  return done < *(uint64_t *)user;
}

static void smart_patching(void **state) {
  (void)state;
  zm_model *m = open_model(model_path);
  zm_patch_report *r = NULL;
  const char *qkv = "qkv", *nothing = "nothing";
  assert_int_equal(zm_patch(m, &(zm_patch_options){.patterns = &qkv, .count = 1}, NULL), ZM_OK);
  const zmi_patterns before = zmi_model_patterns(m);

  // What fails leaves the choice as it was.
  assert_int_equal(zm_smart_patch(m, &(zm_smart_patch_options){.candidates = &nothing, .count = 1}, &r), ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "no pattern \"nothing\""));
  assert_int_equal(zm_smart_patch(m, &(zm_smart_patch_options){.rounds = 5, .tokens = 1}, &r), ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "at least 6"));
  assert_int_equal(zm_smart_patch(m, &(zm_smart_patch_options){.rounds = 1 << 30, .tokens = 1 << 30}, &r), ZM_ERROR_LIMIT);
  uint64_t most = 8;
  zm_smart_patch_options cancelled = {.rounds = 6, .tokens = 1, .progress = refuse, .progress_user = &most};
  assert_int_equal(zm_smart_patch(m, &cancelled, &r), ZM_ERROR_CANCELLED);
  assert_true(zmi_model_patterns(m) == before);
  assert_null(r);

  // A line for each candidate; what is kept is what the report says, and only with an interval above 1.
  assert_int_equal(zm_smart_patch(m, &(zm_smart_patch_options){.rounds = 6, .tokens = 2}, &r), ZM_OK);
  assert_int_equal(zm_patch_report_size(r), zm_pattern_count());
  for (size_t i = 0; i < zm_patch_report_size(r); i++) {
    const zm_patch_entry *e = zm_patch_report_entry(r, i);
    assert_string_equal(e->pattern, zm_pattern_name(i));
    assert_int_equal(e->matched, zmi_model_patterns(m) >> i & 1);
    assert_int_equal(e->matched, e->speedup_low > 1);
    assert_true(e->speedup_low <= e->speedup && e->speedup <= e->speedup_high);
    if (strstr(e->reason, "differ")) fail_msg("%s: %s", e->pattern, e->reason);
    if (strcmp(e->pattern, "short_conv") == 0) assert_non_null(strstr(e->reason, "matches no place"));
  }
  zm_patch_report_free(r);
  zm_model_close(m);
}

// ---- remembered choices ----

// Counts calls, that is, timed rounds.
static bool count_rounds(void *user, const char *what, uint64_t done, uint64_t total) {
  (void)what, (void)done, (void)total;
  ++*(uint64_t *)user;
  return true;
}

// Smart patching with the candidates qkv and moe_mlp; true if it was remembered. Every reason says so, or none.
static bool smart(zm_model *m, int32_t tokens, bool again) {
  static const char *const candidates[] = {"moe_mlp", "qkv"};
  uint64_t rounds = 0;
  zm_smart_patch_options o = {candidates, 2, 6, tokens, again, count_rounds, &rounds};
  zm_patch_report *r = NULL;
  if (zm_smart_patch(m, &o, &r) != ZM_OK) fail_msg("%s", zm_last_error());
  assert_int_equal(zm_last_status(), ZM_OK);
  assert_int_equal(zm_patch_report_size(r), 2);
  zmi_patterns kept = 0;
  for (size_t i = 0; i < 2; i++) {
    const zm_patch_entry *e = zm_patch_report_entry(r, i);
    if (!strstr(e->reason, "remembered in ") != (rounds > 0)) fail_msg("%d rounds, and %s: %s", (int)rounds, e->pattern, e->reason);
    assert_true(e->speedup > 0 && e->speedup_low <= e->speedup && e->speedup <= e->speedup_high);
    assert_int_equal(e->matched, e->speedup_low > 1);
    for (size_t p = 0; p < zm_pattern_count(); p++)
      if (e->matched && strcmp(zm_pattern_name(p), e->pattern) == 0) kept |= (zmi_patterns)1 << p;
  }
  assert_true(zmi_model_patterns(m) == kept);
  zm_patch_report_free(r);
  return rounds == 0;
}

// The path of the only file in a folder.
static const char *only_file(const char *in) {
  static char path[1024];
  int count = 0;
  DIR *d = opendir(in);
  if (!d) fail_msg("no folder %s", in);
  for (struct dirent *e; (e = readdir(d)) != NULL;) {
    if (e->d_name[0] == '.') continue;
    temp_join(path, sizeof path, in, e->d_name);
    count++;
  }
  closedir(d);
  if (count != 1) fail_msg("%d files in %s, not one", count, in);
  return path;
}

static void save(json_t *j, const char *path) {
  assert_int_equal(json_dump_file(j, path, 0), 0);
}

// Says of each entry that it is to be kept, being `speedup` times as fast.
static void promise(const char *path, const char *outcome, double speedup) {
  json_t *j = json_load_file(path, 0, NULL), *e;
  size_t i;
  assert_int_equal(json_array_size(json_object_get(j, "entries")), 2);
  json_array_foreach(json_object_get(j, "entries"), i, e) {
    json_object_set_new(e, "outcome", json_string(outcome));
    json_object_set_new(e, "speedup", json_pack("[f, f, f]", speedup, speedup, speedup));
  }
  save(j, path);
  json_decref(j);
}

static void remembering(void **state) {
  (void)state;
  char cache[600], path[1024];
  snprintf(cache, sizeof cache, "%s/made/when needed", folder);
  setenv("ZMLX_CACHE_DIR", cache, 1);
  zm_model *m = open_model(model_path);
  assert_false(smart(m, 1, false));
  strcpy(path, only_file(cache));
  assert_true(smart(m, 1, false)); // a hit
  assert_false(smart(m, 1, true)); // --again
  assert_true(smart(m, 1, false));

  // Of what the file says, the choice is used as it stands...
  promise(path, "kept", 1.5);
  assert_true(smart(m, 1, false));
  assert_true(zmi_model_patterns(m) != 0);
  // ... and --again replaces it.
  assert_false(smart(m, 1, true));
  json_t *j = json_load_file(path, 0, NULL);
  assert_true(json_number_value(json_array_get(json_object_get(json_array_get(json_object_get(j, "entries"), 0), "speedup"), 0)) != 1.5);

  // A file of another key: another build, another request.
  json_object_set_new(json_object_get(j, "key"), "commit", json_string("another"));
  save(j, path);
  json_decref(j);
  assert_false(smart(m, 1, false));
  assert_true(smart(m, 1, false));
  assert_int_equal(unlink(path), 0);
  assert_false(smart(m, 2, false)); // other tokens than the removed one
  assert_true(strcmp(path, only_file(cache)) != 0);
  strcpy(path, only_file(cache));
  zm_model_close(m);
  m = zm_model_open(model_path, &(zm_model_options){.threads = 1}); // the name depends on threads
  assert_false(smart(m, 2, false));
  zm_model_close(m);
  m = open_model(model_path);
  assert_true(smart(m, 2, false));
  zm_model_close(m);
}

static void damaged_memory(void **state) {
  (void)state;
  char cache[600], path[1024];
  snprintf(cache, sizeof cache, "%s/damaged", folder);
  setenv("ZMLX_CACHE_DIR", cache, 1);
  zm_model *m = open_model(model_path);
  assert_false(smart(m, 1, false));
  strcpy(path, only_file(cache));
  char *whole;
  size_t size;
  assert_int_equal(zmi_read_file(path, 1 << 16, &whole, &size), ZM_OK);
  for (size_t cut = 0; cut + 2 < size; cut += size / 4) { // measured again and written again
    assert_int_equal(temp_write(path, whole, cut), 0);
    assert_false(smart(m, 1, false));
    assert_true(smart(m, 1, false));
  }
  static const char *const foreign[] = {"[]", "{}", "{\"schema\": 1}", "null", "\xff\xfe"};
  for (size_t i = 0; i < ZMI_COUNT(foreign); i++) {
    assert_int_equal(temp_write(path, foreign[i], strlen(foreign[i])), 0);
    assert_false(smart(m, 1, false));
  }
  zmi_free(whole);
  static const struct {
    const char *outcome;
    double speedup;
  } lies[] = {{"kept", 0.5}, {"no gain", 2}, {"perhaps", 1}, {"no gain", -1}};
  for (size_t i = 0; i < ZMI_COUNT(lies); i++) {
    promise(path, lies[i].outcome, lies[i].speedup);
    assert_false(smart(m, 1, false));
  }
  assert_true(smart(m, 1, false));

  // Entries that are missing, too many or for others.
  json_t *j = json_load_file(path, 0, NULL), *entries = json_object_get(j, "entries");
  json_array_append(entries, json_array_get(entries, 0));
  save(j, path);
  assert_false(smart(m, 1, false));
  json_array_remove(entries, 0);
  save(j, path);
  assert_false(smart(m, 1, false)); // two, in the wrong order
  json_array_clear(entries);
  save(j, path);
  assert_false(smart(m, 1, false));
  json_decref(j);
  // A folder in place of the file can be neither read nor replaced.
  assert_int_equal(unlink(path), 0);
  assert_int_equal(mkdir(path, 0700), 0);
  assert_false(smart(m, 1, false));
  assert_false(smart(m, 1, false));
  zm_model_close(m);
}

static void where_memory_is(void **state) {
  (void)state;
  char cache[600], inner[700];
  zm_model *m = open_model(model_path);
  // A file where the folder should be, even for a superuser.
  snprintf(cache, sizeof cache, "%s/file", folder);
  assert_int_equal(temp_write(cache, "x", 1), 0);
  snprintf(inner, sizeof inner, "%s/cache", cache);
  setenv("ZMLX_CACHE_DIR", inner, 1);
  assert_false(smart(m, 1, false));
  assert_false(smart(m, 1, false));

  const char *home = getenv("HOME");
  char *saved = zmi_strdup(home ? home : "");
  unsetenv("ZMLX_CACHE_DIR");
  unsetenv("XDG_CACHE_HOME");
  unsetenv("HOME");
  assert_null(zmi_cache_folder());
  assert_false(smart(m, 1, false));
  static const struct {
    const char *variable, *value, *folder;
  } places[] = {{"HOME", "/h", "/h/.cache/zmlx"},
                {"XDG_CACHE_HOME", "relative", "/h/.cache/zmlx"},
                {"XDG_CACHE_HOME", "/c", "/c/zmlx"},
                {"ZMLX_CACHE_DIR", "/z", "/z"}};
  for (size_t i = 0; i < ZMI_COUNT(places); i++) {
    setenv(places[i].variable, places[i].value, 1);
    char *got = zmi_cache_folder();
    assert_non_null(got);
    assert_string_equal(got, places[i].folder);
    zmi_free(got);
  }
  setenv("HOME", saved, 1);
  unsetenv("XDG_CACHE_HOME");
  zmi_free(saved);

  // At most 64 files, the oldest go first, and only those that are ours.
  snprintf(cache, sizeof cache, "%s/many", folder);
  assert_int_equal(mkdir(cache, 0700), 0);
  setenv("ZMLX_CACHE_DIR", cache, 1);
  for (int i = 0; i < 70; i++) {
    snprintf(inner, sizeof inner, "%s/smart-%016x.json", cache, i);
    assert_int_equal(temp_write(inner, "{}", 2), 0);
    const struct timespec old = {1000000000 + (i * 37) % 70, 0};
    assert_int_equal(utimensat(AT_FDCWD, inner, (struct timespec[]){old, old}, 0), 0);
  }
  snprintf(inner, sizeof inner, "%s/smart-notes.json", cache);
  assert_int_equal(temp_write(inner, "{}", 2), 0);
  assert_false(smart(m, 1, false));
  assert_true(smart(m, 1, false));
  assert_true(zmi_path_exists(inner));
  int left = 0;
  for (int i = 0; i < 70; i++) {
    snprintf(inner, sizeof inner, "%s/smart-%016x.json", cache, i);
    bool there = zmi_path_exists(inner);
    assert_int_equal(there, (i * 37) % 70 >= 7);
    left += there;
  }
  assert_int_equal(left, 63);
  setenv("ZMLX_CACHE_DIR", folder, 1);
  zm_model_close(m);
}

// ---- validation ----

static void validation(void **state) {
  (void)state;
  zm_model *m = open_model(model_path);
  zmi_validation v;
  zmi_validate_options o = {.max_tokens = 5, .rounds = 6};
  assert_int_equal(zmi_patterns_choose(NULL, &o.patterns), ZM_OK);
  const zmi_patterns before = zmi_model_patterns(m);
  if (zmi_validate(m, &o, &v) != ZM_OK) fail_msg("%s", zm_last_error());
  assert_true(v.passed);
  assert_int_equal(v.prompt_count, 3);
  for (size_t i = 0; i < v.prompt_count; i++) {
    const zmi_prompt_check *c = &v.prompts[i];
    assert_int_equal(c->positions, c->prompt_tokens + 5 - 1); // the last new token is not fed
    assert_int_equal(c->new_tokens, 5);
    assert_int_equal(c->equal_tokens, 5);
    assert_int_equal(c->differing, 0);
    assert_int_equal(c->first_position, -1);
  }
  assert_true(v.decode.speedup.low <= v.decode.speedup.high && v.decode.speedup.low > 0);
  assert_true(v.bandwidth > 0 && v.bytes_per_token > 0 && v.peak_memory > 0);
  json_t *j = zmi_validation_json(&v);
  assert_true(json_is_true(json_object_get(j, "passed")));
  assert_int_equal(json_array_size(json_object_get(json_object_get(j, "decode"), "ratios")), 6);
  json_decref(j);
  zmi_validation_release(&v);
  assert_true(zmi_model_patterns(m) == before);

  o.max_tokens = 100000;
  assert_int_equal(zmi_validate(m, &o, &v), ZM_ERROR_LIMIT);
  o = (zmi_validate_options){.max_tokens = 5, .rounds = 1, .prompts = (const char *[]){"text"}, .prompt_count = 1};
  assert_int_not_equal(zmi_validate(m, &o, &v), ZM_OK); // text needs a tokenizer
  assert_non_null(strstr(zm_last_error(), "tokenizer.json"));
  zm_model_close(m);
}

static void copy_file(const char *name) {
  char from[256], *data;
  size_t size;
  snprintf(from, sizeof from, "%s/%s", model_path, name);
  assert_int_equal(zmi_read_file(from, 1 << 24, &data, &size), ZM_OK);
  FILE *f = fopen(scratch_path(name), "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(data, 1, size, f), size);
  fclose(f);
  zmi_free(data);
}

// A damaged tokenizer is said, not replaced by random tokens.
static void damaged_tokenizer(void **state) {
  (void)state;
  copy_file("config.json");
  copy_file("model.safetensors");
  FILE *f = fopen(scratch_path("tokenizer.json"), "w");
  assert_non_null(f);
  fputs("{\"model\": ", f);
  fclose(f);
  zm_model *m = open_model(folder);
  zmi_validation v;
  assert_int_not_equal(zmi_validate(m, &(zmi_validate_options){.max_tokens = 2, .rounds = 1}, &v), ZM_OK);
  assert_non_null(strstr(zm_last_error(), "tokenizer.json"));
  zm_model_close(m);
}

// ---- benchmarks and capsules ----

static void benchmarks(void **state) {
  (void)state;
  zm_model *m = open_model(model_path);
  zmi_bench b;
  zmi_bench_options o = {.prompt_tokens = 8, .decode_tokens = 4, .depth = 16, .rounds = 3, .profile = true};
  if (zmi_bench_run(m, &o, &b) != ZM_OK) fail_msg("%s", zm_last_error());
  assert_int_equal(b.depth, 16);
  assert_true(b.decode.median > 0 && b.prefill.median > 0 && b.bandwidth > 0 && b.op_count > 3);
  assert_true(b.load_seconds > 0 && b.load_seconds < 60 && b.peak_memory > 0);
  double shares[3]; // each run has its own bandwidth, so the medians' quotient is another number
  for (int i = 0; i < 3; i++) shares[i] = (double)(b.bytes_per_token + b.cache_bytes) * b.decode_runs[i] / 1e9 / b.bandwidth_runs[i];
  assert_true(zmi_median(shares, 3) > b.share * 0.999 && zmi_median(shares, 3) < b.share * 1.001);

  char *words[] = {"zmlx", "bench", "MODEL"};
  assert_int_equal(zmi_capsule_write(scratch_path("capsule.json"), "bench", 3, words, m, zmi_bench_json(&b, m)), ZM_OK);
  json_t *c = json_load_file(scratch_path("capsule.json"), 0, NULL);
  static const char *const keys[] = {"schema", "kind", "created", "command", "machine", "model", "result"};
  for (size_t i = 0; i < ZMI_COUNT(keys); i++) {
    if (!json_object_get(c, keys[i])) fail_msg("the capsule has no %s", keys[i]);
  }
  assert_int_equal(json_array_size(json_object_get(c, "command")), 3);
  assert_int_equal(json_array_size(json_object_get(json_object_get(c, "result"), "decode_runs")), 3);
  assert_string_equal(json_string_value(json_object_get(json_object_get(c, "model"), "family")), "qwen3_moe");
  json_decref(c);
  assert_int_equal(zmi_capsule_check(scratch_path("capsule.json")), ZM_OK);
  assert_int_equal(zmi_capsule_check("/nonexistent/capsule.json"), ZM_ERROR_FILE);
  // Bytes that are no UTF-8 are replaced, the rest of the word stays.
  char *const odd[] = {(char *)(uintptr_t) "zmlx", (char *)(uintptr_t) "a\xff\xc3z\xe2\x82"};
  assert_int_equal(zmi_capsule_write(scratch_path("odd.json"), "bench", 2, odd, m, zmi_bench_json(&b, m)), ZM_OK);
  json_t *odd_capsule = json_load_file(scratch_path("odd.json"), 0, NULL);
  assert_string_equal(json_string_value(json_array_get(json_object_get(odd_capsule, "command"), 1)),
                      "a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd");
  json_decref(odd_capsule);
  assert_int_equal(zmi_capsule_write("/nonexistent/capsule.json", "bench", 3, words, m, zmi_bench_json(&b, m)), ZM_ERROR_FILE);
  zmi_bench_release(&b);

  o.depth = zmi_model_context(m);
  assert_int_equal(zmi_bench_run(m, &o, &b), ZM_ERROR_LIMIT);
  zm_model_close(m);
}

// What a step of `rows` sequences reads by the plan of its tape, if its layers choose `chosen` different experts.
static double step_bytes(zm_model *m, const zm_session *s, int32_t rows, int32_t depth, int64_t chosen) {
  const zmi_state_set *states = zmi_session_states(s);
  zmi_program *p = zmi_model_compile(m, rows, rows, states, &(zmi_model_program_options){.stock = true});
  assert_non_null(p);
  const zmi_tape *t = zmi_program_tape(p);
  double sum = 0;
  for (size_t i = 0; i < t->instr_count; i++)
    sum += (double)zmi_instr_bytes(t, &t->instrs[i], states, &(zmi_step_rows){rows, depth, chosen});
  zmi_program_free(p);
  return sum;
}

// Sequences decoded together read the dense weights once, each expert that any of them chose once, and caches of their own.
static void benchmark_of_a_batch(void **state) {
  (void)state;
  zm_model *m = open_model(model_path);
  zm_model_info info;
  zm_model_get_info(m, &info);
  enum { DEPTH = 16 };
  zm_session *s = zm_session_open(m, &(zm_session_options){.context = 32, .sequences = 4});
  const double cache = (double)info.cache_bytes_per_token * DEPTH;
  assert_true(fabs(step_bytes(m, s, 1, DEPTH, 0) - (double)info.bytes_per_token - cache) < 64); // a row's own choice: the plan's bytes
  assert_true(fabs(step_bytes(m, s, 4, DEPTH, 3) - step_bytes(m, s, 4, 0, 3) - 4 * cache) < 1); // caches of their own
  const double one_more = step_bytes(m, s, 4, DEPTH, 3) - step_bytes(m, s, 4, DEPTH, 2);
  assert_true(one_more > 0);
  for (int32_t batch = 2; batch <= 4; batch += 2) {
    zmi_bench b;
    const zmi_bench_options o = {.prompt_tokens = 8, .decode_tokens = 4, .depth = DEPTH, .rounds = 1, .batch = batch};
    if (zmi_bench_run(m, &o, &b) != ZM_OK) fail_msg("%s", zm_last_error());
    // More experts than one row chooses, at most all; a fraction, as the mean over layers and steps.
    const double least = step_bytes(m, s, batch, DEPTH, 1), expected = least + (b.chosen_experts - 1) * one_more;
    assert_true(b.batch == batch && b.chosen_experts >= 3 && b.chosen_experts <= 3.0 * batch);
    if (fabs(b.bytes_per_step - expected) > 1e-6 * expected) fail_msg("%.1f bytes a step, not %.1f", b.bytes_per_step, expected);
    assert_true(fabs(b.share - b.bytes_per_step / batch * b.decode_runs[0] / 1e9 / b.bandwidth_runs[0]) < 1e-9);
    zmi_bench_release(&b);
  }
  // Sequences of the same token choose the same experts.
  zmi_step_bytes same = {.states = zmi_session_states(s), .step = {.rows = 4, .depth = DEPTH}};
  zmi_program *p = zmi_model_compile(m, 4, 4, same.states, &(zmi_model_program_options){.stock = true});
  assert_non_null(p);
  for (int32_t row = 0; row < 4; row++) zmi_program_set_row(p, row, 7, 0, row);
  zmi_player_trace(zmi_program_player(p), zmi_model_pool(m), zmi_step_bytes_add, &same);
  zmi_program_free(p);
  assert_true(!same.failed && same.routers > 0);
  assert_int_equal(same.chosen, 3 * same.routers);
  zmi_bench b;
  assert_int_equal(zmi_bench_run(m, &(zmi_bench_options){.batch = 2, .profile = true}, &b), ZM_ERROR_ARGUMENT);
  zm_session_close(s);
  zm_model_close(m);
}

// ---- profiles ----

static double sum_of(const json_t *list, const char *key) {
  double sum = 0;
  for (size_t i = 0; i < json_array_size(list); i++) sum += json_number_value(json_object_get(json_array_get(list, i), key));
  return sum;
}

static const json_t *row_of(const json_t *list, const char *op) {
  for (size_t i = 0; i < json_array_size(list); i++) {
    const json_t *row = json_array_get(list, i);
    if (strcmp(json_string_value(json_object_get(row, "op")), op) == 0) return row;
  }
  return NULL;
}

static void check_profile(zm_model *m, const char *what) {
  zmi_bench b;
  zmi_bench_options o = {.prompt_tokens = 8, .decode_tokens = 4, .depth = 24, .rounds = 1, .profile = true};
  if (zmi_bench_run(m, &o, &b) != ZM_OK) fail_msg("%s: %s", what, zm_last_error());
  json_t *j = zmi_bench_json(&b, m);
  const json_t *ops = json_object_get(j, "profile"), *waits = json_object_get(j, "waits");
  static const char *const op_keys[] = {"op",      "calls", "bytes", "seconds", "waited_seconds", "share", "gb_s", "share_of_bandwidth",
                                        "barriers"};
  static const char *const wait_keys[] = {"op", "waits_for", "barriers", "waited_seconds", "idle_seconds"};
  for (size_t i = 0; i < ZMI_COUNT(op_keys); i++) assert_non_null(json_object_get(json_array_get(ops, 0), op_keys[i]));
  for (size_t i = 0; i < ZMI_COUNT(wait_keys); i++) assert_non_null(json_object_get(json_array_get(waits, 0), wait_keys[i]));

  // What ops read is what a token reads: the plan counts the same from the configuration.
  const double bytes = sum_of(ops, "bytes"), expected = (double)(b.bytes_per_token + b.cache_bytes);
  if (!(bytes > expected - 8 && bytes < expected + 8)) fail_msg("%s: ops read %.0f bytes, a token %.0f", what, bytes, expected);
  assert_true(b.cache_bytes > 0 && bytes < (double)b.bytes_per_token + 1.5 * (double)b.cache_bytes);
  const double share = sum_of(ops, "share");
  if (!(share > 0.999 && share < 1.001)) fail_msg("%s: shares add up to %g", what, share);
  // Every barrier stands in both lists; the start and the end are in the second one too.
  assert_non_null(row_of(ops, "(end)"));
  assert_true(sum_of(waits, "barriers") == sum_of(ops, "barriers") + 1);
  assert_true(sum_of(ops, "barriers") > 1);
  const double waited = sum_of(waits, "waited_seconds"), same = sum_of(ops, "waited_seconds");
  if (!(waited > same * 0.999 && waited < same * 1.001)) fail_msg("%s: %g s waited, %g s by op", what, waited, same);
  for (size_t i = 0; i < b.wait_count; i++) {
    const zmi_bench_wait *w = &b.waits[i];
    assert_true(w->idle >= 0 && w->idle <= w->waited + 1e-9);
  }
  json_decref(j);
  zmi_bench_release(&b);
}

static void profiles(void **state) {
  (void)state;
  static const char *const paths[] = {"checkpoints/tiny-qwen3_moe", "checkpoints/tiny-lfm2_moe", "checkpoints/tiny-llama-biases",
                                      "checkpoints/tiny-mistral"};
  for (size_t i = 0; i < ZMI_COUNT(paths); i++) {
    zm_model *m = open_model(paths[i]);
    check_profile(m, paths[i]);
    assert_int_equal(zm_patch(m, NULL, NULL), ZM_OK);
    check_profile(m, paths[i]);
    zm_model_close(m);
  }
}

// Each barrier names the instruction whose memory it guards.
static void what_waits_for_what(void **state) {
  (void)state;
  zm_model *m = open_model(model_path);
  zmi_bench b;
  zmi_bench_options o = {.prompt_tokens = 8, .decode_tokens = 2, .rounds = 1, .profile = true};
  assert_int_equal(zmi_bench_run(m, &o, &b), ZM_OK);
  static const char *const pairs[][2] = {{"gather_linear", "route"}, {"linear", "rms_norm"}, {"linear", "linear"}, {"(end)", "linear"}};
  for (size_t k = 0; k < ZMI_COUNT(pairs); k++) {
    bool found = false;
    for (size_t i = 0; i < b.wait_count; i++)
      found = found || (strcmp(b.waits[i].op, pairs[k][0]) == 0 && strcmp(b.waits[i].awaited, pairs[k][1]) == 0);
    if (!found) fail_msg("%s is not said to wait for %s", pairs[k][0], pairs[k][1]);
  }
  zmi_bench_release(&b);
  zm_model_close(m);
}

// Each allocation of a profile fails in turn.
static void profile_without_memory(void **state) {
  (void)state;
  zm_model *m = open_model(model_path);
  zm_session *s = zm_session_open(m, &(zm_session_options){.context = 64});
  const zmi_state_set *states = zmi_session_states(s);
  zmi_model_lock(m);
  zmi_program *p = zmi_model_compile(m, 1, 1, states, NULL);
  assert_non_null(p);
  static const char *const inputs[] = {"tokens", "position", "sequence", "select"};
  for (size_t i = 0; i < ZMI_COUNT(inputs); i++) *(int32_t *)zmi_program_slot(p, inputs[i]) = 0;
  zmi_program_play(p, zmi_model_pool(m)); // what plays share out with is there: without it they would go on alone
  zm_status status = ZM_ERROR_MEMORY;
  uint64_t n = 0;
  while (status != ZM_OK) {
    zmi_profile times = {0};
    zmi_bench b = {.depth = 1};
    zmi_alloc_fail_at(++n);
    status = zmi_player_profile(zmi_program_player(p), zmi_model_pool(m), &times);
    if (status == ZM_OK) status = zmi_bench_add_profile(&b, zmi_program_tape(p), &times, states);
    zmi_alloc_fail_at(0);
    if (status != ZM_OK) assert_int_equal(status, ZM_ERROR_MEMORY);
    zmi_profile_release(&times);
    zmi_bench_release(&b);
    assert_true(n < 20);
  }
  assert_true(n > 2);
  zmi_program_free(p);
  zmi_model_unlock(m);
  zm_session_close(s);
  zm_model_close(m);
}

// ---- peers ----

static zm_status compare_with(json_t *capsule, const zmi_bench *b, const zm_model *m, zmi_peers *p) {
  assert_int_equal(json_dump_file(capsule, scratch_path("peer.json"), 0), 0);
  zm_status status = zmi_peers_read(scratch_path("peer.json"), p);
  return status == ZM_OK ? zmi_peers_compare(p, b, m) : status;
}

static void peers(void **state) {
  (void)state;
  zm_model *m = open_model(model_path);
  const zmi_bench b = {.decode = {.median = 100}, .prefill = {.median = 300}, .prompt_tokens = 8};
  zmi_peers p;
  json_t *capsule = json_pack("{s:i, s:s, s:s, s:o, s:o, s:{s:i, s:i, s:{s:{s:f, s:f}, s:{s:f, s:f}}}}", "schema", 1, "kind", "peer",
                              "peer", "some engine 1.2.3", "machine", zmi_machine_json(zmi_model_kernels(m)), "model", zmi_model_json(m),
                              "result", "threads", 2, "prompt_tokens", 8, "median", "other", "decode_tok_s", 40.0, "prefill_tok_s", 600.0,
                              "zmlx_patched", "decode_tok_s", 80.0, "prefill_tok_s", 300.0);
  assert_int_equal(compare_with(capsule, &b, m, &p), ZM_OK);
  const json_t *engines = json_object_get(p.comparison, "engines"), *e = json_array_get(engines, 0);
  assert_int_equal(json_array_size(engines), 2);
  assert_string_equal(json_string_value(json_object_get(e, "engine")), "some engine");
  assert_string_equal(json_string_value(json_object_get(e, "version")), "1.2.3");
  assert_int_equal(json_integer_value(json_object_get(e, "threads")), 2);
  assert_true(json_number_value(json_object_get(e, "decode_ratio")) == 2.5);
  assert_true(json_number_value(json_object_get(e, "prefill_ratio")) == 0.5);
  assert_string_equal(json_string_value(json_object_get(json_array_get(engines, 1), "engine")), "zmlx_patched");
  zmi_text text = {0};
  zmi_peers_difference(&p, &text);
  assert_string_equal(zmi_text_str(&text), "");
  zmi_peers_release(&p);

  // Another setting is said, and in what.
  json_object_set_new(json_object_get(capsule, "machine"), "cpu", json_string("Abacus"));
  json_object_set_new(json_object_get(capsule, "model"), "threads", json_integer(7));
  json_object_del(json_object_get(capsule, "model"), "layers");
  assert_int_equal(compare_with(capsule, &b, m, &p), ZM_OK);
  assert_int_equal(json_array_size(json_object_get(p.comparison, "differences")), 3);
  zmi_peers_difference(&p, &text);
  assert_non_null(strstr(zmi_text_str(&text), "CPU Abacus there, "));
  assert_non_null(strstr(zmi_text_str(&text), "; threads 7 there, 2 here; layers unknown there, "));
  zmi_text_release(&text);
  zmi_peers_release(&p);

  json_object_set_new(json_object_get(json_object_get(json_object_get(capsule, "result"), "median"), "other"), "decode_tok_s", json_null());
  assert_int_equal(compare_with(capsule, &b, m, &p), ZM_ERROR_FORMAT);
  assert_non_null(strstr(zm_last_error(), "result.median.other"));
  json_object_set_new(capsule, "kind", json_string("bench"));
  assert_int_equal(compare_with(capsule, &b, m, &p), ZM_ERROR_FORMAT);
  assert_non_null(strstr(zm_last_error(), "found kind \"bench\""));
  json_decref(capsule);
  assert_int_equal(temp_write(scratch_path("peer.json"), "{", 1), 0);
  assert_int_equal(zmi_peers_read(scratch_path("peer.json"), &p), ZM_ERROR_FORMAT);
  assert_int_equal(zmi_peers_read("/no/such/file", &p), ZM_ERROR_FILE);
  zm_model_close(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(intervals),
      cmocka_unit_test(smart_patching),
      cmocka_unit_test(remembering),
      cmocka_unit_test(damaged_memory),
      cmocka_unit_test(where_memory_is),
      cmocka_unit_test(validation),
      cmocka_unit_test(damaged_tokenizer),
      cmocka_unit_test(benchmarks),
      cmocka_unit_test(benchmark_of_a_batch),
      cmocka_unit_test(profiles),
      cmocka_unit_test(what_waits_for_what),
      cmocka_unit_test(profile_without_memory),
      cmocka_unit_test(peers),
  };
  return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
