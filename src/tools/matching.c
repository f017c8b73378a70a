// Comparisons for authors' tests (zmlx/testing.h): random operands, the function and its reference side by side, every place of every
// result looked at.
#include "tools/tools.h"
#include <zmlx/testing.h>

#include <string.h>

enum { MOST_PROBES = 48 }; // elements of one operand whose gradient is checked against differences

typedef struct matching {
  const zm_match *m;
  const char *name, *what; // "result" or "gradient of operand"
  zm_dtype dtype;
  const zm_shape *shapes; // of this set
  double rtol, atol;
  int nout;
  zm_array *in[ZM_MAX_OPERANDS], *wide[ZM_MAX_OPERANDS]; // as tested; floats as float32
} matching;

static bool is_float(zm_dtype d) {
  return d == ZM_F16 || d == ZM_BF16 || d == ZM_F32;
}

// ---- operands ----

static uint64_t next_random(uint64_t *s) { // splitmix64
  uint64_t z = *s += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static zm_array *random_array(const zm_shape *s, zm_dtype dtype, double low, double high, uint64_t seed) {
  int64_t count = 1;
  for (int d = 0; d < s->rank; d++) count *= s->dims[d];
  float *values = zmi_calloc((size_t)count + 1, sizeof *values);
  if (!values) return NULL;
  if (low == 0 && high == 0) low = is_float(dtype) ? -2 : 0, high = is_float(dtype) ? 2 : 9;
  for (int64_t i = 0; i < count; i++) {
    const double u = (double)(next_random(&seed) >> 11) * 0x1p-53, v = low + u * (high - low);
    values[i] = is_float(dtype) ? (float)v : (float)(int64_t)__builtin_floor(v + 0.5);
  }
  zm_array *a = zm_array_from_data(values, ZM_F32, s->dims, s->rank);
  zmi_free(values);
  return dtype == ZM_F32 ? a : zm_astype(a, dtype);
}

static bool make_operands(matching *t, uint64_t seed) {
  const zm_match *m = t->m;
  for (int i = 0; i < m->nin; i++) {
    const zm_dtype d = m->operand[i] != ZM_DTYPE_DEFAULT ? m->operand[i] : t->dtype;
    t->in[i] = random_array(&t->shapes[i], d, m->low[i], m->high[i], seed + (uint64_t)i * 7919);
    t->wide[i] = is_float(d) ? zm_astype(t->in[i], ZM_F32) : t->in[i];
    if (!t->wide[i]) return false;
  }
  return true;
}

// What a function of the author's may have left undone.
static zm_status finish_call(const char *what, zm_status status, zm_array *const *out, int nout) {
  if (status != ZM_OK) return zm_last_status() != ZM_OK ? status : zmi_fail(status, "the %s failed and left no message", what);
  for (int o = 0; o < nout; o++)
    if (!out[o]) return zmi_fail(ZM_ERROR_ARGUMENT, "the %s returned ZM_OK, but its result %d is NULL", what, o);
  return ZM_OK;
}

static zm_status apply_tested(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const zm_match *m = user;
  zm_clear_error();
  for (int o = 0; o < nout; o++) out[o] = NULL;
  return finish_call("tested function", m->op ? zm_op_apply(m->op, in, nin, out, nout) : m->f(m->user, in, nin, out, nout), out, nout);
}

static zm_status apply_reference(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const zm_match *m = user;
  zm_clear_error();
  for (int o = 0; o < nout; o++) out[o] = NULL;
  return finish_call("reference", m->reference(m->reference_user, in, nin, out, nout), out, nout);
}

// ---- comparison ----

static double value_at(const void *data, zm_dtype d, int64_t i) {
  switch (d) {
  case ZM_BOOL:
  case ZM_U8:
    return ((const uint8_t *)data)[i];
  case ZM_U16:
    return ((const uint16_t *)data)[i];
  case ZM_U32:
    return ((const uint32_t *)data)[i];
  case ZM_U64:
    return (double)((const uint64_t *)data)[i];
  case ZM_I8:
    return ((const int8_t *)data)[i];
  case ZM_I16:
    return ((const int16_t *)data)[i];
  case ZM_I32:
    return ((const int32_t *)data)[i];
  case ZM_I64:
    return (double)((const int64_t *)data)[i];
  case ZM_F16:
    return (double)zmi_f16_to_f32(((const uint16_t *)data)[i]);
  case ZM_BF16:
    return (double)zmi_bf16_to_f32(((const uint16_t *)data)[i]);
  default:
    return (double)((const float *)data)[i];
  }
}

// An integer without loss: doubles do not tell 2^53 + 1 from 2^53.
typedef struct whole {
  bool negative;
  uint64_t size;
} whole;

static bool whole_at(const void *data, zm_dtype d, int64_t i, whole *w) { // false: it is none, or one of more than 64 bits
  const double x = value_at(data, d, i), size = __builtin_fabs(x);
  int64_t value;
  if (d == ZM_U64) {
    *w = (whole){false, ((const uint64_t *)data)[i]};
    return true;
  }
  if (is_float(d)) {
    if (!(size < 0x1p64) || __builtin_floor(size) != size) return false;
    *w = (whole){x < 0, (uint64_t)size};
    return true;
  }
  value = d == ZM_I64 ? ((const int64_t *)data)[i] : (int64_t)x;
  *w = (whole){value < 0, value < 0 ? 0 - (uint64_t)value : (uint64_t)value};
  return true;
}

static void number_text(const void *data, zm_dtype d, int64_t i, zmi_text *out) {
  whole w;
  if (is_float(d))
    zmi_text_add(out, "%.9g", value_at(data, d, i));
  else if (whole_at(data, d, i, &w))
    zmi_text_add(out, "%s%llu", w.negative ? "-" : "", (unsigned long long)w.size);
}

static void place_text(const zm_array *a, int64_t i, zmi_text *out) {
  int64_t index[ZM_MAX_RANK];
  const int rank = zm_array_rank(a);
  for (int d = rank - 1; d >= 0; d--) {
    const int64_t dim = zm_array_dim(a, d);
    index[d] = i % dim;
    i /= dim;
  }
  for (int d = 0; d < rank; d++) zmi_text_add(out, d ? ", %lld" : "[%lld", (long long)index[d]);
  zmi_text_add(out, rank ? "]" : "[]");
}

static void case_text(const matching *t, zmi_text *out) {
  zmi_text_add(out, "%s (%s", t->name, zm_dtype_name(t->dtype));
  for (int i = 0; i < t->m->nin; i++) {
    zmi_text_add(out, ", [");
    for (int d = 0; d < t->shapes[i].rank; d++) zmi_text_add(out, d ? ", %lld" : "%lld", (long long)t->shapes[i].dims[d]);
    zmi_text_add(out, "]");
  }
  zmi_text_add(out, ")");
}

static void mismatch_text(const matching *t, const zm_array *a, int o, int64_t i, zmi_text *text) {
  case_text(t, text);
  zmi_text_add(text, ": %s %d at ", t->what, o);
  place_text(a, i, text);
}

static zm_status mismatch(const matching *t, const zm_array *a, int o, int64_t i, double found, double expected) {
  zmi_text text = {0};
  mismatch_text(t, a, o, i, &text);
  zmi_text_add(&text, ": found %.9g, expected %.9g", found, expected);
  if (found == found && expected == expected)
    zmi_text_add(&text, "; they differ by %.3g, allowed is %.3g", __builtin_fabs(found - expected),
                 t->atol + t->rtol * __builtin_fabs(expected));
  zm_status status = zmi_fail(ZM_ERROR_MISMATCH, "%s", zmi_text_str(&text));
  zmi_text_release(&text);
  return status;
}

static zm_status other_integer(const matching *t, zm_array *found, zm_array *expected, int o, int64_t i) {
  zmi_text text = {0};
  mismatch_text(t, found, o, i, &text);
  zmi_text_add(&text, ": found ");
  number_text(zm_array_data(found), zm_array_dtype(found), i, &text);
  zmi_text_add(&text, ", expected ");
  number_text(zm_array_data(expected), zm_array_dtype(expected), i, &text);
  zm_status status = zmi_fail(ZM_ERROR_MISMATCH, "%s; integers must be equal", zmi_text_str(&text));
  zmi_text_release(&text);
  return status;
}

static bool matches(const matching *t, double found, double expected) {
  if (found != found || expected != expected) return false;
  if (found == expected) return true;
  if (__builtin_isinf(found) || __builtin_isinf(expected)) return false;
  return __builtin_fabs(found - expected) <= t->atol + t->rtol * __builtin_fabs(expected);
}

static zm_status compare(const matching *t, int o, zm_array *found, zm_array *expected) {
  bool same = zm_array_rank(found) == zm_array_rank(expected);
  for (int d = 0; same && d < zm_array_rank(found); d++) same = zm_array_dim(found, d) == zm_array_dim(expected, d);
  if (!same) {
    zmi_text text = {0};
    char a[128], b[128];
    case_text(t, &text);
    zmi_fail(ZM_ERROR_MISMATCH, "%s: %s %d is %s, the reference gives %s", zmi_text_str(&text), t->what, o, zmi_type_text(&found->type, a),
             zmi_type_text(&expected->type, b));
    zmi_text_release(&text);
    return zm_last_status();
  }
  const int64_t n = zm_array_size(found);
  const void *a = zm_array_data(found), *b = zm_array_data(expected);
  if (n > 0 && (!a || !b)) return zm_last_status();
  const zm_dtype da = zm_array_dtype(found), db = zm_array_dtype(expected);
  for (int64_t i = 0; i < n && !is_float(da); i++) {
    whole x, y;
    const bool both = whole_at(a, da, i, &x) && whole_at(b, db, i, &y);
    if (!both || x.negative != y.negative || x.size != y.size) return other_integer(t, found, expected, o, i);
  }
  for (int64_t i = 0; i < n && is_float(da); i++) {
    const double x = value_at(a, da, i), y = value_at(b, db, i);
    if (!matches(t, x, y)) return mismatch(t, found, o, i, x, y);
  }
  return ZM_OK;
}

// ---- the cases of a match ----

static double tolerance_of(zm_dtype d) {
  return d == ZM_F16 ? 2e-3 : d == ZM_BF16 ? 2e-2 : 1e-5;
}

static void set_tolerance(matching *t, double usual) {
  t->rtol = t->m->rtol > 0 ? t->m->rtol : usual;
  t->atol = t->m->atol > 0 ? t->m->atol : usual;
}

static zm_status within_case(const matching *t) {
  zmi_text text = {0};
  case_text(t, &text);
  zm_status status = zmi_fail_within("%s", zmi_text_str(&text));
  zmi_text_release(&text);
  return status;
}

static zm_status check_values(matching *t) {
  zm_array *out[ZM_MAX_RESULTS] = {NULL}, *expected[ZM_MAX_RESULTS] = {NULL};
  const zm_match *m = t->m;
  t->what = "result";
  set_tolerance(t, tolerance_of(t->dtype));
  if (apply_tested((void *)(uintptr_t)m, t->in, m->nin, out, t->nout) != ZM_OK ||
      apply_reference((void *)(uintptr_t)m, t->wide, m->nin, expected, t->nout) != ZM_OK)
    return within_case(t);
  zm_status status = ZM_OK;
  for (int o = 0; o < t->nout && status == ZM_OK; o++) status = compare(t, o, out[o], expected[o]);
  return status;
}

// ---- gradients ----

static zm_status make_cotangents(const matching *t, zm_array *const *out, uint64_t seed, zm_array **given, zm_array **wide) {
  for (int o = 0; o < t->nout; o++) {
    zm_shape s = {.rank = zm_array_rank(out[o])};
    for (int d = 0; d < s.rank; d++) s.dims[d] = zm_array_dim(out[o], d);
    if (!is_float(zm_array_dtype(out[o]))) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: result %d is not of floats", t->name, o);
    given[o] = random_array(&s, zm_array_dtype(out[o]), -1, 1, seed + (uint64_t)o);
    wide[o] = zm_astype(given[o], ZM_F32);
    if (!wide[o]) return zm_last_status();
  }
  return ZM_OK;
}

// The sum over all results of cotangent times result, in double, with element `at` of operand `k` moved by `by`.
static zm_status probe(const matching *t, int k, int64_t at, double by, zm_array *const *cotangents, double *sum) {
  zm_scope *scope = zm_scope_open();
  if (!scope) return zm_last_status();
  zm_array *in[ZM_MAX_OPERANDS], *out[ZM_MAX_RESULTS] = {NULL};
  memcpy(in, t->wide, sizeof in);
  const int64_t n = zm_array_size(in[k]);
  const void *data = zm_array_data(in[k]);
  float *moved = zmi_malloc((size_t)n * sizeof *moved);
  zm_status status = data && moved ? ZM_OK : ZM_ERROR_MEMORY;
  if (status == ZM_OK) {
    memcpy(moved, data, (size_t)n * sizeof *moved);
    moved[at] = (float)((double)moved[at] + by);
    in[k] = zm_array_from_data(moved, ZM_F32, t->shapes[k].dims, t->shapes[k].rank);
    status = in[k] ? apply_tested((void *)(uintptr_t)t->m, in, t->m->nin, out, t->nout) : zm_last_status();
  }
  *sum = 0;
  for (int o = 0; o < t->nout && status == ZM_OK; o++) {
    const void *y = zm_array_data(out[o]), *g = zm_array_data(cotangents[o]);
    if (!y || !g) status = zm_last_status();
    for (int64_t i = 0; status == ZM_OK && i < zm_array_size(out[o]); i++)
      *sum += value_at(y, zm_array_dtype(out[o]), i) * value_at(g, ZM_F32, i);
  }
  zmi_free(moved);
  zm_scope_close(scope);
  return status;
}

static zm_status check_differences(matching *t, int k, zm_array *gradient, zm_array *const *cotangents) {
  const int64_t n = zm_array_size(gradient), step = n > MOST_PROBES ? n / MOST_PROBES | 1 : 1;
  const void *g = zm_array_data(gradient);
  const double h = 0x1p-6, by_dtype = 10 * ZMI_MAX(tolerance_of(t->dtype), tolerance_of(zm_array_dtype(gradient)));
  set_tolerance(t, ZMI_MAX(by_dtype, 5e-3)); // the gradient is of the dtype, the differences are of float32
  for (int64_t i = 0; i < n; i += step) {
    double f[4];
    static const double moves[4] = {1, -1, 2, -2};
    for (int p = 0; p < 4; p++)
      if (probe(t, k, i, moves[p] * h, cotangents, &f[p]) != ZM_OK) return within_case(t);
    const double expected = (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h); // exact up to the fifth derivative
    const double found = value_at(g, zm_array_dtype(gradient), i);
    if (!matches(t, found, expected)) return mismatch(t, gradient, k, i, found, expected);
  }
  return ZM_OK;
}

static zm_status check_gradients(matching *t) {
  const zm_match *m = t->m;
  zm_array *out[ZM_MAX_RESULTS] = {NULL}, *given[ZM_MAX_RESULTS] = {NULL}, *wide[ZM_MAX_RESULTS] = {NULL};
  zm_array *gradients[ZM_MAX_OPERANDS] = {NULL}, *expected[ZM_MAX_OPERANDS] = {NULL};
  t->what = "gradient of operand";
  set_tolerance(t, 10 * tolerance_of(t->dtype)); // sums of many rounded terms
  if (apply_tested((void *)(uintptr_t)m, t->in, m->nin, out, t->nout) != ZM_OK ||
      make_cotangents(t, out, m->seed + 99, given, wide) != ZM_OK ||
      zm_vjp(apply_tested, (void *)(uintptr_t)m, t->in, m->nin, given, out, t->nout, gradients) != ZM_OK)
    return within_case(t);
  if (m->reference && zm_vjp(apply_reference, (void *)(uintptr_t)m, t->wide, m->nin, wide, out, t->nout, expected) != ZM_OK)
    return within_case(t);
  zm_status status = ZM_OK;
  int compared = 0;
  for (int k = 0; k < m->nin && status == ZM_OK; k++) {
    if (!is_float(zm_array_dtype(t->in[k]))) continue;
    status = m->reference ? compare(t, k, gradients[k], expected[k]) : check_differences(t, k, gradients[k], wide);
    compared++;
  }
  if (status == ZM_OK && compared == 0) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: no operand is of floats, so there is no gradient", t->name);
  return status;
}

// Shapes are the author's too: nothing of them is used before they are known to be some.
static zm_status check_shapes(const zm_match *m, const char *name) {
  for (size_t s = 0; s < m->sets; s++)
    for (int i = 0; i < m->nin; i++) {
      const zm_shape *shape = &m->shapes[s * (size_t)m->nin + (size_t)i];
      int64_t count = 1;
      if (shape->rank < 0 || shape->rank > ZM_MAX_RANK)
        return zmi_fail(ZM_ERROR_ARGUMENT, "%s: set %zu, operand %d: its shape has rank %d, expected 0 to %d", name, s, i, shape->rank,
                        ZM_MAX_RANK);
      for (int d = 0; d < shape->rank; d++) {
        if (shape->dims[d] < 0)
          return zmi_fail(ZM_ERROR_ARGUMENT, "%s: set %zu, operand %d: dimension %d of its shape is %lld, expected 0 or more", name, s, i,
                          d, (long long)shape->dims[d]);
        if (__builtin_mul_overflow(count, shape->dims[d], &count) || count > INT64_MAX / 16)
          return zmi_fail(ZM_ERROR_ARGUMENT, "%s: set %zu, operand %d: its shape has more elements than memory can hold", name, s, i);
      }
    }
  return ZM_OK;
}

static zm_status check_all(const zm_match *m, const zm_dtype *dtypes, size_t count, zm_status (*check)(matching *t)) {
  matching t = {.m = m, .name = m->name ? m->name : m->op ? zm_op_name(m->op) : "function", .nout = m->nout ? m->nout : 1};
  if (m->nin < 1 || m->nin > ZM_MAX_OPERANDS || t.nout > ZM_MAX_RESULTS || !m->shapes || m->sets == 0 || (!m->op && !m->f))
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: a match needs an op or a function, 1 to %d operands, at most %d results, and shapes", t.name,
                    ZM_MAX_OPERANDS, ZM_MAX_RESULTS);
  if (m->nout < 0) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: nout is %d: 1 or more results, or 0, which is 1", t.name, m->nout);
  if (count == 0) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: dtypes are given, but dtype_count is 0, so nothing would be compared", t.name);
  if (check_shapes(m, t.name) != ZM_OK) return zm_last_status();
  for (size_t d = 0; d < count; d++)
    for (size_t s = 0; s < m->sets; s++) {
      zm_scope *scope = zm_scope_open();
      if (!scope) return zm_last_status();
      t.dtype = dtypes[d];
      t.shapes = m->shapes + s * (size_t)m->nin;
      zm_status status = make_operands(&t, m->seed + s * 1000003 + d) ? check(&t) : within_case(&t);
      zm_scope_close(scope);
      if (status != ZM_OK) return status;
    }
  return ZM_OK;
}

zm_status zm_assert_matches(const zm_match *match) {
  static const zm_dtype all[] = {ZM_F32, ZM_F16, ZM_BF16};
  if (!match || !match->reference) return zmi_fail(ZM_ERROR_ARGUMENT, "zm_assert_matches: there is no reference");
  return check_all(match, match->dtypes ? match->dtypes : all, match->dtypes ? match->dtype_count : ZMI_COUNT(all), check_values);
}

zm_status zm_assert_gradient_matches(const zm_match *match) {
  static const zm_dtype one[] = {ZM_F32};
  if (!match) return zmi_fail(ZM_ERROR_ARGUMENT, "zm_assert_gradient_matches: there is no match");
  return check_all(match, match->dtypes ? match->dtypes : one, match->dtypes ? match->dtype_count : ZMI_COUNT(one), check_gradients);
}
