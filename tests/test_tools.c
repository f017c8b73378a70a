// The tools room: intervals, smart patching, validation, benchmarks, capsules.
#include "tools/tools.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const char model_path[] = "checkpoints/tiny-qwen3_moe"; // without a tokenizer: prompts are random tokens
static char folder[256];

static int make_scratch(void **state) {
  (void)state;
  const char *base = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%.200s/zmlx-tools-XXXXXX", base && *base ? base : "/tmp");
  return mkdtemp(folder) ? 0 : -1;
}

static const char *scratch_path(const char *name) {
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static int remove_scratch(void **state) {
  (void)state;
  static const char *const files[] = {"capsule.json", "config.json", "model.safetensors", "tokenizer.json"};
  for (size_t i = 0; i < ZMI_COUNT(files); i++) unlink(scratch_path(files[i]));
  return rmdir(folder);
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
  double share = (double)(b.bytes_per_token + b.cache_bytes) * b.decode.median / 1e9 / b.bandwidth;
  assert_true(share > b.share * 0.999 && share < b.share * 1.001);

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
  assert_int_equal(zmi_capsule_write("/nonexistent/capsule.json", "bench", 3, words, m, zmi_bench_json(&b, m)), ZM_ERROR_FILE);
  zmi_bench_release(&b);

  o.depth = zmi_model_context(m);
  assert_int_equal(zmi_bench_run(m, &o, &b), ZM_ERROR_LIMIT);
  zm_model_close(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(intervals),         cmocka_unit_test(smart_patching), cmocka_unit_test(validation),
      cmocka_unit_test(damaged_tokenizer), cmocka_unit_test(benchmarks),
  };
  return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
