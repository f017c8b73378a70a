// Medians, their distribution-free confidence intervals, and paired ABBA comparisons.
#include "tools/tools.h"

#include <stdlib.h>
#include <string.h>

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double *sorted_copy(const double *values, size_t n) {
  double *copy = zmi_calloc(n ? n : 1, sizeof *copy);
  if (!copy) return NULL;
  memcpy(copy, values, n * sizeof *copy);
  qsort(copy, n, sizeof *copy, ascending);
  return copy;
}

static double middle(const double *sorted, size_t n) {
  return n == 0 ? 0 : n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

double zmi_median(const double *values, size_t n) {
  double *copy = sorted_copy(values, n);
  double median = copy ? middle(copy, n) : 0;
  zmi_free(copy);
  return median;
}

// The largest r such that P(Binomial(n, 1/2) < r) <= 2.5%: the r-th smallest and r-th largest values are the ends of the interval. 0 if
// there is none.
static size_t interval_rank(size_t n) {
  if (n > 1000) return (n - (size_t)__builtin_ceil(1.96 * __builtin_sqrt((double)n))) / 2; // 2^-n has left the range of double
  double term = 1; // C(n, i) / 2^n, kept scaled: multiplied out below
  for (size_t i = 0; i < n; i++) term /= 2;
  double below = 0;
  size_t r = 0;
  for (size_t i = 0; i < n; i++) {
    below += term;
    if (below > 0.025) break;
    r = i + 1;
    term *= (double)(n - i) / (double)(i + 1);
  }
  return r;
}

zm_status zmi_median_interval(const double *values, size_t n, zmi_interval *out) {
  memset(out, 0, sizeof *out);
  if (n == 0) return ZM_OK;
  double *copy = sorted_copy(values, n);
  if (!copy) return ZM_ERROR_MEMORY;
  size_t r = interval_rank(n);
  out->median = middle(copy, n);
  out->low = copy[r > 0 ? r - 1 : 0];
  out->high = copy[r > 0 ? n - r : n - 1];
  zmi_free(copy);
  return ZM_OK;
}

zm_status zmi_abba_new(zmi_abba *t, size_t rounds) {
  memset(t, 0, sizeof *t);
  t->a = zmi_calloc(2 * rounds + 1, sizeof *t->a);
  t->b = zmi_calloc(2 * rounds + 1, sizeof *t->b);
  t->ratio = zmi_calloc(rounds + 1, sizeof *t->ratio);
  if (!t->a || !t->b || !t->ratio) {
    zmi_abba_release(t);
    return ZM_ERROR_MEMORY;
  }
  t->rounds = rounds;
  return ZM_OK;
}

zm_status zmi_abba_finish(zmi_abba *t) {
  for (size_t i = 0; i < t->rounds; i++) t->ratio[i] = (t->a[2 * i] + t->a[2 * i + 1]) / (t->b[2 * i] + t->b[2 * i + 1]);
  zm_status status = zmi_median_interval(t->ratio, t->rounds, &t->speedup);
  if (status == ZM_OK) status = zmi_median_interval(t->a, 2 * t->rounds, &t->seconds_a);
  if (status == ZM_OK) status = zmi_median_interval(t->b, 2 * t->rounds, &t->seconds_b);
  return status;
}

void zmi_abba_release(zmi_abba *t) {
  zmi_free(t->a);
  zmi_free(t->b);
  zmi_free(t->ratio);
  memset(t, 0, sizeof *t);
}

static json_t *list(const double *values, size_t n) {
  json_t *array = json_array();
  for (size_t i = 0; i < n && array; i++) json_array_append_new(array, json_real(values[i]));
  return array;
}

static json_t *rate_interval(const zmi_interval *seconds, double items) {
  if (seconds->low <= 0) return json_null();
  return json_pack("{s:f, s:f, s:f}", "median", items / seconds->median, "low", items / seconds->high, "high", items / seconds->low);
}

json_t *zmi_abba_json(const zmi_abba *t, double items) {
  return json_pack("{s:i, s:f, s:o, s:o, s:{s:f, s:f, s:f}, s:o, s:o, s:o}", "rounds", (int)t->rounds, "tokens_per_block", items,
                   "stock_tok_s", rate_interval(&t->seconds_a, items), "patched_tok_s", rate_interval(&t->seconds_b, items), "speedup",
                   "median", t->speedup.median, "low", t->speedup.low, "high", t->speedup.high, "stock_seconds", list(t->a, 2 * t->rounds),
                   "patched_seconds", list(t->b, 2 * t->rounds), "ratios", list(t->ratio, t->rounds));
}
