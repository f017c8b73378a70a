// zm_bench_compare: two functions of arrays timed in turns, A B B A, so that a drift of the machine falls on both alike.
#include "tools/tools.h"
#include <zmlx/testing.h>

#include <math.h>
#include <string.h>

typedef struct side {
  zm_function f;
  void *user;
} side;

static const double shortest_block = 1e-3, usual_seconds = 1;
enum { USUAL_ROUNDS = 15, ROUNDS_OF_INTERVAL = 6, MOST_ROUNDS = 10000, MOST_CALLS = 1 << 20 };

static zm_status call(const side *s, const zm_bench_options *o, int nout, zm_array **out) {
  for (int i = 0; i < nout; i++) out[i] = NULL;
  zm_clear_error();
  zm_status status = s->f(s->user, o->in, o->nin, out, nout);
  if (status != ZM_OK && zm_last_status() == ZM_OK) zmi_fail(status, "zm_bench_compare: a function failed and left no message");
  for (int i = 0; i < nout && status == ZM_OK; i++)
    if (!out[i]) status = zmi_fail(ZM_ERROR_ARGUMENT, "zm_bench_compare: a function returned ZM_OK, but its result %d is NULL", i);
  return status == ZM_OK ? zm_eval(out, (size_t)nout) : status;
}

static zm_status block(const side *s, const zm_bench_options *o, int nout, int calls, double *seconds) {
  const double start = zmi_now();
  for (int i = 0; i < calls; i++) {
    zm_array *out[ZM_MAX_RESULTS];
    zm_scope *scope = zm_scope_open();
    if (!scope) return zm_last_status();
    zm_status status = call(s, o, nout, out);
    zm_scope_close(scope);
    if (status != ZM_OK) return status;
  }
  *seconds = (zmi_now() - start) / calls;
  return ZM_OK;
}

static zm_status compare_bits(const side *a, const side *b, const zm_bench_options *o, int nout, bool *same) {
  zm_array *x[ZM_MAX_RESULTS], *y[ZM_MAX_RESULTS];
  zm_scope *scope = zm_scope_open();
  if (!scope) return zm_last_status();
  zm_status status = call(a, o, nout, x);
  if (status == ZM_OK) status = call(b, o, nout, y);
  *same = status == ZM_OK;
  for (int k = 0; k < nout && *same; k++) {
    const void *p = zm_array_data(x[k]), *q = zm_array_data(y[k]);
    size_t bytes = 0;
    *same = zmi_type_equal(&x[k]->type, &y[k]->type) && zmi_type_bytes(&x[k]->type, &bytes) &&
            (bytes == 0 || (p && q && memcmp(p, q, bytes) == 0));
  }
  zm_scope_close(scope);
  return status;
}

// Of fewer rounds the least and the largest are not that sure to lie around the median: nothing is said then.
static zm_bench_interval public_interval(const zmi_interval *i, int rounds) {
  const bool enough = rounds >= ROUNDS_OF_INTERVAL;
  return (zm_bench_interval){i->median, enough ? i->low : 0, enough ? i->high : HUGE_VAL};
}

zm_status zm_bench_compare(zm_function a, void *user_a, zm_function b, void *user_b, const zm_bench_options *options,
                           zm_bench_result *result) {
  if (!a || !b || !options || !result || options->nin < 0 || (options->nin > 0 && !options->in) || options->nout < 0 ||
      options->nout > ZM_MAX_RESULTS || options->rounds < 0 || options->rounds > MOST_ROUNDS)
    return zmi_fail(ZM_ERROR_ARGUMENT, "zm_bench_compare: needs two functions, options and a result; at most %d results and %d rounds",
                    ZM_MAX_RESULTS, MOST_ROUNDS);
  const side sides[2] = {{a, user_a}, {b, user_b}};
  const int nout = options->nout ? options->nout : 1, rounds = options->rounds ? options->rounds : USUAL_ROUNDS;
  double warm[2] = {0, 0};
  zmi_abba t;
  memset(result, 0, sizeof *result);
  if (options->nin > 0) {
    zm_status status = zm_eval(options->in, (size_t)options->nin);
    if (status != ZM_OK) return status;
  }
  zm_status status = compare_bits(&sides[0], &sides[1], options, nout, &result->same_bits);
  for (int s = 0; s < 2 && status == ZM_OK; s++) status = block(&sides[s], options, nout, 1, &warm[s]);
  if (status != ZM_OK) return status;
  const double budget = options->seconds > 0 ? options->seconds : usual_seconds, slow = ZMI_MAX(ZMI_MAX(warm[0], warm[1]), 1e-7);
  double calls = budget / (4 * rounds * slow);
  calls = ZMI_MIN(ZMI_MAX(calls, 1), ZMI_MAX(shortest_block / slow * 16, 1)); // longer blocks than that gain nothing
  result->calls = (int)ZMI_MIN(calls, (double)MOST_CALLS);
  result->rounds = rounds;
  if (zmi_abba_new(&t, (size_t)rounds) != ZM_OK) return zm_last_status();
  for (int r = 0; r < rounds && status == ZM_OK; r++) {
    status = block(&sides[0], options, nout, result->calls, &t.a[2 * r]);
    if (status == ZM_OK) status = block(&sides[1], options, nout, result->calls, &t.b[2 * r]);
    if (status == ZM_OK) status = block(&sides[1], options, nout, result->calls, &t.b[2 * r + 1]);
    if (status == ZM_OK) status = block(&sides[0], options, nout, result->calls, &t.a[2 * r + 1]);
  }
  if (status == ZM_OK) status = zmi_abba_finish(&t);
  result->a = public_interval(&t.seconds_a, rounds);
  result->b = public_interval(&t.seconds_b, rounds);
  result->ratio = public_interval(&t.speedup, rounds);
  zmi_abba_release(&t);
  return status;
}
