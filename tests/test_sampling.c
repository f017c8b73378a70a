// The sampler: random numbers, each cut, penalties, ties, NaN, and the statistics of what is drawn. Also stop strings.
#include "lm/lm.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { VOCAB = 12 };

static zmi_sampler *make(const zm_generate_options *o, int32_t vocab) {
  const zmi_kernels *kernels = zmi_kernels_find("scalar");
  assert_non_null(kernels);
  zmi_sampler *s = zmi_sampler_new(o, vocab, kernels);
  if (!s) fail_msg("%s", zm_last_error());
  return s;
}

static int32_t next(zmi_sampler *s, const float *logits, int32_t vocab, uint64_t position, float *logprob) {
  float *x = malloc((size_t)vocab * sizeof *x), lp;
  int32_t token = -1;
  memcpy(x, logits, (size_t)vocab * sizeof *x);
  if (zmi_sampler_next(s, x, position, &token, logprob ? logprob : &lp)) fail_msg("%s", zm_last_error());
  free(x);
  return token;
}

// ---- random numbers ----

static void philox_known_answers(void **state) { // of the authors' Random123 library
  (void)state;
  static const struct {
    uint64_t key, low, high;
    uint32_t out[4];
  } cases[] = {
    {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint32_t out[4];
    zmi_philox(cases[i].key, cases[i].low, cases[i].high, out);
    assert_memory_equal(out, cases[i].out, sizeof out);
  }
}

static void uniform_numbers(void **state) {
  (void)state;
  int bins[16] = {0};
  for (uint64_t i = 0; i < 16000; i++) {
    double u = zmi_uniform(7, i);
    assert_true(u >= 0 && u < 1);
    bins[(int)(u * 16)]++;
  }
  double chi = 0;
  for (int i = 0; i < 16; i++) chi += (bins[i] - 1000.0) * (bins[i] - 1000.0) / 1000.0;
  assert_true(chi < 37.7); // 15 degrees of freedom, p = 0.001
  assert_true(zmi_uniform(7, 1) != zmi_uniform(8, 1));
}

// ---- which tokens can be drawn ----

// Draws often and marks what came up. Returns how many of each.
static void draw_many(const zm_generate_options *o, const float *logits, int draws, int counts[VOCAB]) {
  zmi_sampler *s = make(o, VOCAB);
  memset(counts, 0, VOCAB * sizeof *counts);
  for (int i = 0; i < draws; i++) counts[next(s, logits, VOCAB, (uint64_t)i, NULL)]++;
  zmi_sampler_free(s);
}

// log of 0.30 0.20 0.15 0.10 0.08 0.05 0.04 0.03 0.02 0.015 0.01 0.005, shuffled; log_p[i] belongs to the probability p[i].
static const double p[VOCAB] = {0.05, 0.30, 0.02, 0.15, 0.005, 0.20, 0.03, 0.10, 0.015, 0.08, 0.01, 0.04};
static void logits_of_p(float *x) {
  for (int i = 0; i < VOCAB; i++) x[i] = (float)log(p[i]) + 3.0f;
}

static void assert_support(const zm_generate_options *o, const char *expected) { // a '1' for each token that must come up
  float x[VOCAB];
  int counts[VOCAB];
  logits_of_p(x);
  draw_many(o, x, 4000, counts);
  for (int i = 0; i < VOCAB; i++)
    if ((counts[i] > 0) != (expected[i] == '1')) fail_msg("token %d came up %d times, expected %c", i, counts[i], expected[i]);
}

static void cuts_are_exact(void **state) {
  (void)state;
  assert_support(&(zm_generate_options){.temperature = 1}, "111111111111");
  assert_support(&(zm_generate_options){.temperature = 1, .top_k = 1}, "010000000000");
  assert_support(&(zm_generate_options){.temperature = 1, .top_k = 3}, "010101000000");
  assert_support(&(zm_generate_options){.temperature = 1, .top_k = 12}, "111111111111");
  assert_support(&(zm_generate_options){.temperature = 1, .top_k = 100}, "111111111111");
  // 0.30 + 0.20 = 0.50: a third token is needed for 0.51 and not for 0.49.
  assert_support(&(zm_generate_options){.temperature = 1, .top_p = 0.49f}, "010001000000");
  assert_support(&(zm_generate_options){.temperature = 1, .top_p = 0.51f}, "010101000000");
  assert_support(&(zm_generate_options){.temperature = 1, .top_p = 0.01f}, "010000000000");
  assert_support(&(zm_generate_options){.temperature = 1, .top_p = 0.984f}, "111101111101");
  assert_support(&(zm_generate_options){.temperature = 1, .top_p = 0.986f}, "111101111111");
  // 0.3 * 0.3 = 0.09 lies between 0.08 and 0.10.
  assert_support(&(zm_generate_options){.temperature = 1, .min_p = 0.3f}, "010101010000");
  assert_support(&(zm_generate_options){.temperature = 1, .min_p = 1}, "010000000000");
  // Together: what every one of them keeps.
  assert_support(&(zm_generate_options){.temperature = 1, .top_k = 6, .top_p = 0.76f, .min_p = 0.15f}, "010101010100");
  assert_support(&(zm_generate_options){.temperature = 1, .top_k = 2, .top_p = 0.9f, .min_p = 0.01f}, "010001000000");
}

// Cuts look at the distribution at temperature 1; a high temperature does not widen them.
static void cuts_before_temperature(void **state) {
  (void)state;
  assert_support(&(zm_generate_options){.temperature = 50, .top_p = 0.51f}, "010101000000");
  assert_support(&(zm_generate_options){.temperature = 50, .min_p = 0.3f}, "010101010000");
}

static void ties_to_lowest(void **state) {
  (void)state;
  const float flat[VOCAB] = {0};
  int counts[VOCAB];
  draw_many(&(zm_generate_options){0}, flat, 10, counts);
  assert_int_equal(counts[0], 10);
  draw_many(&(zm_generate_options){.temperature = 1, .top_k = 4}, flat, 2000, counts);
  for (int i = 0; i < VOCAB; i++) assert_int_equal(counts[i] > 0, i < 4);
  draw_many(&(zm_generate_options){.temperature = 1, .top_p = 0.5f}, flat, 2000, counts); // 6 of 12
  for (int i = 0; i < VOCAB; i++) assert_int_equal(counts[i] > 0, i < 6);
  const float zeros[VOCAB] = {-1, -0.0f, 0.0f, -2, -2, -2, -2, -2, -2, -2, -2, -2}; // both zeros are equal
  draw_many(&(zm_generate_options){0}, zeros, 10, counts);
  assert_int_equal(counts[1], 10);
  draw_many(&(zm_generate_options){.temperature = 1, .top_k = 1}, zeros, 100, counts);
  assert_int_equal(counts[1], 100);
}

// ---- statistics ----

static void assert_distribution(const zm_generate_options *o, const float *logits, const double *expected, int draws) {
  int counts[VOCAB], cells = 0;
  draw_many(o, logits, draws, counts);
  double chi = 0;
  for (int i = 0; i < VOCAB; i++) {
    if (expected[i] == 0) {
      assert_int_equal(counts[i], 0);
      continue;
    }
    double e = expected[i] * draws;
    chi += (counts[i] - e) * (counts[i] - e) / e;
    cells++;
  }
  double n = cells - 1; // p = 0.001 by the Wilson-Hilferty approximation
  double limit = n * pow(1 - 2 / (9 * n) + 3.09 * sqrt(2 / (9 * n)), 3);
  if (chi > limit) fail_msg("chi-square %g is beyond %g", chi, limit);
}

static void temperature_scales(void **state) {
  (void)state;
  float x[VOCAB];
  logits_of_p(x);
  const float temperatures[] = {1.0f, 0.5f, 2.0f, 0.8f};
  for (size_t t = 0; t < 4; t++) {
    double expected[VOCAB], sum = 0;
    for (int i = 0; i < VOCAB; i++) sum += expected[i] = pow(p[i], 1 / (double)temperatures[t]);
    for (int i = 0; i < VOCAB; i++) expected[i] /= sum;
    assert_distribution(&(zm_generate_options){.temperature = temperatures[t], .seed = 5 + t}, x, expected, 20000);
  }
}

static void cut_distribution(void **state) {
  (void)state;
  float x[VOCAB];
  logits_of_p(x);
  double expected[VOCAB] = {0}, sum = 0.3 * 0.3 + 0.2 * 0.2 + 0.15 * 0.15; // temperature 0.5 squares
  expected[1] = 0.3 * 0.3 / sum;
  expected[5] = 0.2 * 0.2 / sum;
  expected[3] = 0.15 * 0.15 / sum;
  assert_distribution(&(zm_generate_options){.temperature = 0.5f, .top_k = 3}, x, expected, 20000);
}

static void temperature_near_zero(void **state) {
  (void)state;
  assert_support(&(zm_generate_options){.temperature = 1e-30f}, "010000000000");
  assert_support(&(zm_generate_options){.temperature = 1e-3f}, "010000000000");
}

// The same position and seed give the same token whatever was drawn before; other seeds differ.
static void reproducible(void **state) {
  (void)state;
  float x[VOCAB];
  logits_of_p(x);
  zm_generate_options o = {.temperature = 1, .seed = 1234};
  zmi_sampler *a = make(&o, VOCAB), *b = make(&o, VOCAB);
  o.seed = 1235;
  zmi_sampler *c = make(&o, VOCAB);
  int differ = 0;
  int32_t forward[200];
  for (int i = 0; i < 200; i++) forward[i] = next(a, x, VOCAB, (uint64_t)i, NULL);
  for (int i = 199; i >= 0; i--) {
    assert_int_equal(next(b, x, VOCAB, (uint64_t)i, NULL), forward[i]);
    differ += next(c, x, VOCAB, (uint64_t)i, NULL) != forward[i];
  }
  assert_true(differ > 100);
  zmi_sampler_free(a);
  zmi_sampler_free(b);
  zmi_sampler_free(c);
}

static void large_vocabulary(void **state) { // a naive reference of top-k and top-p on 5,003 tokens with many ties
  (void)state;
  enum { N = 5003 };
  static float x[N], w[N];
  static int order[N];
  for (int i = 0; i < N; i++) x[i] = (float)((i * 7919) % 97) / 8.0f;
  double total = 0;
  for (int i = 0; i < N; i++) total += w[i] = zmi_expf(x[i] - 12.0f);
  int n = 0;
  for (int v = 96; v >= 0; v--)
    for (int i = 0; i < N; i++)
      if ((i * 7919) % 97 == v) order[n++] = i;
  int keep = 0;
  for (double sum = 0; sum < 0.9 * total; keep++) sum += w[order[keep]];
  const struct {
    zm_generate_options o;
    int kept;
  } cases[] = {
    {{.temperature = 1000, .top_k = 100}, 100},
    {{.temperature = 1000, .top_k = 1000}, 1000},
    {{.temperature = 1000, .top_p = 0.9f}, keep},
  };
  for (size_t c = 0; c < 3; c++) {
    zmi_sampler *s = make(&cases[c].o, N);
    static bool allowed[N];
    memset(allowed, 0, sizeof allowed);
    for (int i = 0; i < cases[c].kept; i++) allowed[order[i]] = true;
    bool edge = false;
    for (uint64_t i = 0; i < 20000; i++) {
      int32_t t = next(s, x, N, i, NULL);
      assert_true(allowed[t]);
      edge = edge || t == order[cases[c].kept - 1];
    }
    assert_true(edge); // at this temperature the last one that is kept comes up as often as any
    zmi_sampler_free(s);
  }
}

// ---- bias, penalties, log probability ----

static void bias_and_penalties(void **state) {
  (void)state;
  const float x[4] = {2.0f, 1.5f, -1.0f, 0.5f};
  float lp;
  zm_logit_bias bias[] = {{0, -INFINITY}, {3, 2.0f}};
  zmi_sampler *s = make(&(zm_generate_options){.logit_bias = bias, .logit_bias_count = 2}, 4);
  assert_int_equal(next(s, x, 4, 0, &lp), 3); // 0 is forbidden, 3 becomes 2.5
  double z = exp(2.0) + exp(1.5) + exp(-1.0) + exp(0.5);
  assert_true(fabs(lp - (0.5 - log(z))) < 1e-6); // of the distribution before the bias
  zmi_sampler_free(s);

  s = make(&(zm_generate_options){.repetition_penalty = 1.5f}, 4);
  assert_int_equal(next(s, x, 4, 0, NULL), 0);
  zmi_sampler_see(s, 0, false); // from the prompt: 2 / 1.5 = 1.33 is below 1.5
  assert_int_equal(next(s, x, 4, 0, NULL), 1);
  zmi_sampler_see(s, 1, true); // 1.5 / 1.5 = 1
  assert_int_equal(next(s, x, 4, 0, NULL), 0);
  zmi_sampler_see(s, 0, true); // a second time changes nothing
  assert_int_equal(next(s, x, 4, 0, NULL), 0);
  zmi_sampler_free(s);

  const float negative[3] = {-1.0f, -1.2f, -5.0f}; // a negative logit is multiplied: -1 * 1.5 is below -1.2
  s = make(&(zm_generate_options){.repetition_penalty = 1.5f}, 3);
  zmi_sampler_see(s, 0, false);
  assert_int_equal(next(s, negative, 3, 0, NULL), 1);
  zmi_sampler_free(s);

  s = make(&(zm_generate_options){.presence_penalty = 1.0f}, 4);
  zmi_sampler_see(s, 0, false); // tokens of the prompt do not count
  assert_int_equal(next(s, x, 4, 0, NULL), 0);
  zmi_sampler_see(s, 0, true); // 1.0
  zmi_sampler_see(s, 0, true); // counted once
  assert_int_equal(next(s, x, 4, 0, NULL), 1);
  zmi_sampler_see(s, 1, true); // 0.5: now 0 is best again with 1.0
  assert_int_equal(next(s, x, 4, 0, NULL), 0);
  zmi_sampler_free(s);
}

static void window_forgets(void **state) {
  (void)state;
  const float x[4] = {2.0f, 1.5f, 1.0f, 0.5f};
  zmi_sampler *s = make(&(zm_generate_options){.presence_penalty = 5.0f, .penalty_window = 2}, 4);
  zmi_sampler_see(s, 0, true);
  assert_int_equal(next(s, x, 4, 0, NULL), 1);
  zmi_sampler_see(s, 1, true);
  assert_int_equal(next(s, x, 4, 0, NULL), 2);
  zmi_sampler_see(s, 2, true); // 0 falls out of the window
  assert_int_equal(next(s, x, 4, 0, NULL), 0);
  zmi_sampler_free(s);
}

static void nan_and_infinity(void **state) {
  (void)state;
  int counts[VOCAB];
  float x[VOCAB];
  for (int i = 0; i < VOCAB; i++) x[i] = NAN;
  x[4] = -3;
  x[9] = -1;
  draw_many(&(zm_generate_options){0}, x, 10, counts);
  assert_int_equal(counts[9], 10);
  draw_many(&(zm_generate_options){.temperature = 1, .top_p = 0.999f, .top_k = 5, .min_p = 1e-6f}, x, 1000, counts);
  assert_int_equal(counts[4] + counts[9], 1000);
  assert_true(counts[4] > 50);
  x[2] = x[7] = INFINITY;
  draw_many(&(zm_generate_options){0}, x, 10, counts);
  assert_int_equal(counts[2], 10);
  draw_many(&(zm_generate_options){.temperature = 1}, x, 1000, counts);
  assert_int_equal(counts[2] + counts[7], 1000);
  assert_true(counts[2] > 400 && counts[7] > 400);
  for (int i = 0; i < VOCAB; i++) x[i] = i % 2 ? NAN : -INFINITY;
  zmi_sampler *s = make(&(zm_generate_options){0}, VOCAB);
  int32_t token = 77;
  float lp;
  assert_int_equal(zmi_sampler_next(s, x, 5, &token, &lp), ZM_ERROR_FORMAT);
  assert_non_null(strstr(zm_last_error(), "position 5"));
  zmi_sampler_free(s);
  zm_logit_bias all[2] = {{0, -INFINITY}, {1, -INFINITY}};
  float two[2] = {1, 2};
  s = make(&(zm_generate_options){.logit_bias = all, .logit_bias_count = 2}, 2);
  assert_int_equal(zmi_sampler_next(s, two, 0, &token, &lp), ZM_ERROR_ARGUMENT);
  assert_int_equal(token, 77);
  zmi_sampler_free(s);
}

static void bad_options(void **state) {
  (void)state;
  const zm_logit_bias outside = {12, 1}, not_a_number = {1, NAN};
  const struct {
    zm_generate_options o;
    const char *says;
  } cases[] = {
    {{.temperature = -1}, "temperature is -1"},      {{.temperature = NAN}, "temperature"},
    {{.top_p = 1.5f}, "top_p is 1.5"},               {{.top_p = -0.1f}, "top_p"},
    {{.min_p = 2}, "min_p"},                         {{.top_k = -1}, "top_k is -1"},
    {{.repetition_penalty = -2}, "repetition"},      {{.presence_penalty = INFINITY}, "presence"},
    {{.penalty_window = -1}, "penalty_window is -1"}, {{.logit_bias_count = 1}, "logit_bias is NULL"},
    {{.logit_bias = &outside, .logit_bias_count = 1}, "token 12: ids run from 0 to 11"},
    {{.logit_bias = &not_a_number, .logit_bias_count = 1}, "token 1 is not a number"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_null(zmi_sampler_new(&cases[i].o, VOCAB, zmi_kernels_find("scalar")));
    assert_int_equal(zm_last_status(), ZM_ERROR_ARGUMENT);
    if (!strstr(zm_last_error(), cases[i].says)) fail_msg("case %zu says: %s", i, zm_last_error());
  }
}

// Every tier must draw the same tokens.
static void tiers_agree(void **state) {
  (void)state;
  enum { N = 1237 };
  static float x[N];
  for (int i = 0; i < N; i++) x[i] = (float)((i * 7919) % 1009) / 100.0f - 3.0f;
  zm_generate_options o = {.temperature = 0.9f, .top_p = 0.95f, .min_p = 0.001f, .seed = 3};
  zmi_sampler *scalar = make(&o, N);
  for (size_t t = 1; t < zmi_tier_count(); t++) {
    const char *why;
    if (!zmi_tier_supported(t, &why)) continue;
    zmi_sampler *s = zmi_sampler_new(&o, N, zmi_tier(t));
    assert_non_null(s);
    for (uint64_t i = 0; i < 300; i++) {
      float a, b;
      assert_int_equal(next(scalar, x, N, i, &a), next(s, x, N, i, &b));
      assert_memory_equal(&a, &b, sizeof a);
    }
    zmi_sampler_free(s);
  }
  zmi_sampler_free(scalar);
}

// ---- stop strings ----

// Feeds `text` in pieces of `step` bytes; returns what comes out.
static const char *stopped_text(const char *text, size_t step, const char *const *stop, size_t count, bool *stopped) {
  static char result[256];
  zmi_stopper s;
  zmi_text out = {0};
  assert_int_equal(zmi_stopper_init(&s, stop, count), ZM_OK);
  *stopped = false;
  for (size_t at = 0, size = strlen(text); at < size && !*stopped; at += step)
    assert_int_equal(zmi_stopper_add(&s, text + at, size - at < step ? size - at : step, &out, stopped), ZM_OK);
  if (!*stopped) assert_int_equal(zmi_stopper_finish(&s, &out), ZM_OK);
  strcpy(result, zmi_text_str(&out));
  zmi_stopper_release(&s);
  zmi_text_release(&out);
  return result;
}

static void stop_strings(void **state) {
  (void)state;
  static const struct {
    const char *text, *stop[3], *result;
    bool stopped;
  } cases[] = {
    {"hello END world", {"END"}, "hello ", true},
    {"hello EN world", {"END"}, "hello EN world", false},
    {"EENEND", {"END"}, "EEN", true},
    {"aaab", {"aab"}, "a", true},
    {"abababac", {"ababac"}, "ab", true},
    {"one\n\ntwo", {"\n\n", "two"}, "one", true},
    {"xabcdy", {"bcd", "abcd"}, "x", true},       // both end at the d: the longest
    {"xabcdy", {"abcde", "bc"}, "xa", true},      // bc is complete first
    {"never", {"q", "nevermore"}, "never", false}, // held back to the end, then handed out
    {"caf\xc3\xa9 noir", {"\xc3\xa9"}, "caf", true},
    {"END", {"END"}, "", true},
    {"", {"x"}, "", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t count = 0;
    while (count < 3 && cases[i].stop[count]) count++;
    for (size_t step = 1; step < 12; step++) {
      bool stopped;
      assert_string_equal(stopped_text(cases[i].text, step, cases[i].stop, count, &stopped), cases[i].result);
      assert_int_equal(stopped, cases[i].stopped);
    }
  }
}

static void text_is_not_held_for_long(void **state) {
  (void)state;
  const char *const stop[] = {"STOP"};
  zmi_stopper s;
  zmi_text out = {0};
  bool stopped;
  assert_int_equal(zmi_stopper_init(&s, stop, 1), ZM_OK);
  assert_int_equal(zmi_stopper_add(&s, "abcS", 4, &out, &stopped), ZM_OK);
  assert_string_equal(zmi_text_str(&out), "abc");
  assert_int_equal(zmi_stopper_add(&s, "Tx", 2, &out, &stopped), ZM_OK);
  assert_string_equal(zmi_text_str(&out), "abcSTx");
  zmi_stopper_release(&s);
  zmi_text_release(&out);
}

static void bad_stop_strings(void **state) {
  (void)state;
  zmi_stopper s;
  const char *const empty[] = {"a", ""}, *const broken[] = {"\xc3"};
  assert_int_equal(zmi_stopper_init(&s, empty, 2), ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "stop string 1 is empty"));
  assert_int_equal(zmi_stopper_init(&s, broken, 1), ZM_ERROR_ARGUMENT);
  assert_int_equal(zmi_stopper_init(&s, NULL, 1), ZM_ERROR_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(philox_known_answers), cmocka_unit_test(uniform_numbers),
    cmocka_unit_test(cuts_are_exact),       cmocka_unit_test(cuts_before_temperature),
    cmocka_unit_test(ties_to_lowest),       cmocka_unit_test(temperature_scales),
    cmocka_unit_test(cut_distribution),     cmocka_unit_test(temperature_near_zero),
    cmocka_unit_test(reproducible),         cmocka_unit_test(large_vocabulary),
    cmocka_unit_test(bias_and_penalties),   cmocka_unit_test(window_forgets),
    cmocka_unit_test(nan_and_infinity),     cmocka_unit_test(bad_options),
    cmocka_unit_test(tiers_agree),          cmocka_unit_test(stop_strings),
    cmocka_unit_test(text_is_not_held_for_long), cmocka_unit_test(bad_stop_strings),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
