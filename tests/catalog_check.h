// One stored case of the catalog: the row is called, and its results, gradients and second derivatives are compared within stated bounds.
#ifndef ZMLX_TEST_CATALOG_CHECK_H
#define ZMLX_TEST_CATALOG_CHECK_H

#include "catalog_cases.h"

static const zm_dtype floats[] = {ZM_F32, ZM_F16, ZM_BF16};

typedef struct place {
  const char *file, *row;
  size_t index;
  zm_dtype dtype;
} place;

static const zmi_entry *(*find_row)(const char *name) = zmi_catalog_find;

// ---- bounds ----

// A number may be off by one rounding to its dtype, by 5e-6 of itself, and by 1e-6 of the largest beside it (the float32 inside). That
// holds for all rows in float32. Where numbers are rounded to float16 or bfloat16 on the way, `roundings` says how many units of the
// dtype, of the largest number beside it, come on top, and why.
typedef enum quantity { RESULT, GRADIENT, SECOND } quantity;
static const char *const quantity_names[] = {"result", "gradient", "second derivative"};

#define STEPS "made of operations of the dtype, each of which rounds"
#define SUMMED "rounded at each place it is used, then summed"
#define SLOTS "what is added is rounded before, slot by slot"
static const struct {
  const char *row;
  quantity what;
  double roundings;
  const char *why;
} bounds[] = {
    {"vecdot", RESULT, 2, SUMMED},
    {"std", RESULT, 1, STEPS},
    {"add_rms_norm", GRADIENT, 2, SUMMED},
    {"bias_geglu", GRADIENT, 2, SUMMED},
    {"bias_gelu_tanh", GRADIENT, 2, SUMMED},
    {"bias_silu", GRADIENT, 2, SUMMED},
    {"bias_swiglu", GRADIENT, 2, SUMMED},
    {"dequantize_affine_packed", GRADIENT, 3, SUMMED},
    {"dequantize_affine_packed_gelu", GRADIENT, 3, SUMMED},
    {"dequantize_affine_packed_silu", GRADIENT, 3, SUMMED},
    {"dequantize_blockwise", GRADIENT, 3, SUMMED},
    {"dequantize_fp8", GRADIENT, 3, SUMMED},
    {"dequantize_int8", GRADIENT, 3, SUMMED},
    {"dequantize_silu_int8", GRADIENT, 3, SUMMED},
    {"exp", GRADIENT, 1, STEPS},
    {"fused_add_layernorm", GRADIENT, 2, SUMMED},
    {"fused_add_rmsnorm", GRADIENT, 2, SUMMED},
    {"fused_linear_bias_gelu", GRADIENT, 2, SUMMED},
    {"fused_linear_bias_silu", GRADIENT, 2, SUMMED},
    {"fused_linear_rmsnorm", GRADIENT, 2, SUMMED},
    {"fused_quantized_swiglu_gemv", GRADIENT, 2, SUMMED},
    {"fused_recurrent_step", GRADIENT, 2, SUMMED},
    {"fused_swiglu_gather_qmv", RESULT, 1, STEPS},
    {"fused_swiglu_gather_qmv", GRADIENT, 1, STEPS},
    {"fused_swiglu_quant", GRADIENT, 2, SUMMED},
    {"gather_mmk_combine", RESULT, 1.5, SLOTS},
    {"gather_mmk_combine", GRADIENT, 2, SUMMED},
    {"gather_qmm_combine", RESULT, 1.5, SLOTS},
    {"gather_qmm_combine", GRADIENT, 2, SUMMED},
    {"gather_qmm_combine_quantized", RESULT, 1.5, SLOTS},
    {"gather_qmm_combine_quantized", GRADIENT, 2, SUMMED},
    {"gather_qmm_swiglu", RESULT, 1, STEPS},
    {"gather_qmm_swiglu", GRADIENT, 1, STEPS},
    {"gather_qmmk_combine_quantized", RESULT, 1.5, SLOTS},
    {"gather_qmmk_combine_quantized", GRADIENT, 2, SUMMED},
    {"glm_moe_combine", RESULT, 1.5, SLOTS},
    {"glm_rmsnorm", GRADIENT, 2, SUMMED},
    {"layer_norm_dropout", GRADIENT, 2, SUMMED},
    {"layernorm", GRADIENT, 2, SUMMED},
    {"layernorm_residual", GRADIENT, 2, SUMMED},
    {"moe_combine_exact", RESULT, 1.5, SLOTS},
    {"paged_rope_and_cache_update", GRADIENT, 2, SUMMED},
    {"residual_rmsnorm", GRADIENT, 2, SUMMED},
    {"rms_norm_dropout", GRADIENT, 2, SUMMED},
    {"rmsnorm", GRADIENT, 2, SUMMED},
    {"rmsnorm_grad", GRADIENT, 2, SUMMED},
    {"rmsnorm_residual", GRADIENT, 2, SUMMED},
    {"rope_and_cache_update", GRADIENT, 2, SUMMED},
    {"rope_concat_qk_decode", GRADIENT, 2, SUMMED},
    {"rope_concat_qk_decode_pos", GRADIENT, 2, SUMMED},
    {"sigmoid", GRADIENT, 2, STEPS},
    {"silu", GRADIENT, 1.5, STEPS},
    {"softplus", GRADIENT, 1, STEPS},
    {"swiglu", RESULT, 1, STEPS},
    {"swiglu", GRADIENT, 1, STEPS},
    {"swiglu2", RESULT, 1, STEPS},
    {"swiglu2", GRADIENT, 1, STEPS},
    {"tanh", GRADIENT, 1.5, STEPS},
};

static double roundings_of(const char *row, quantity q) {
  for (size_t i = 0; i < ZMI_COUNT(bounds); i++) {
    if (bounds[i].what == q && strcmp(bounds[i].row, row) == 0) return bounds[i].roundings;
  }
  return 0;
}

static double unit_of(zm_dtype dtype) {
  return dtype == ZM_F16 ? 0x1p-11 : dtype == ZM_BF16 ? 0x1p-8 : 0;
}

static double bound_of(const place *at, quantity q, zm_dtype found, double want, double largest) {
  const double least = at->dtype == ZM_F16 ? 0x1p-24 : 1e-30;
  if (!is_float(found)) return 0;
  return fabs(want) * (unit_of(found) + 5e-6) + (1e-6 + roundings_of(at->row, q) * unit_of(at->dtype)) * largest + least;
}

// ---- comparing ----

static double value_at(const void *data, zm_dtype dtype, int64_t i) {
  switch (dtype) {
  case ZM_F32:
    return ((const float *)data)[i];
  case ZM_BF16:
    return zmi_bf16_to_f32(((const uint16_t *)data)[i]);
  case ZM_F16:
    return zmi_f16_to_f32(((const uint16_t *)data)[i]);
  case ZM_U8:
  case ZM_BOOL:
    return ((const uint8_t *)data)[i];
  case ZM_U32:
    return ((const uint32_t *)data)[i];
  case ZM_I32:
    return ((const int32_t *)data)[i];
  case ZM_I16:
    return ((const int16_t *)data)[i];
  case ZM_U16:
    return ((const uint16_t *)data)[i];
  default:
    fail_msg("a result of dtype %s", zm_dtype_name(dtype));
    return 0;
  }
}

// expected: the stored values, every `pick`-th element.
static void compare(const place *at, quantity q, int which, zm_array *found, const json_t *values, int64_t pick) {
  const void *data = zm_array_data(found);
  const char *dtype = zm_dtype_name(at->dtype), *what = quantity_names[q];
  if (!data) fail_msg("%s %zu %s (%s): %s %d: %s", at->file, at->index, at->row, dtype, what, which, zm_last_error());
  double largest = 0;
  for (size_t i = 0; i < json_array_size(values); i++) {
    double v = fabs(number(json_array_get(values, i)));
    if (isfinite(v) && v > largest) largest = v;
  }
  for (size_t i = 0; i < json_array_size(values); i++) {
    double want = number(json_array_get(values, i)), got = value_at(data, found->type.dtype, (int64_t)i * pick);
    const double bound = bound_of(at, q, found->type.dtype, want, largest);
    bool same = isnan(want) ? isnan(got) : isinf(want) ? got == want : fabs(got - want) <= bound;
    if (!same) {
      fail_msg("%s %zu %s (%s): %s %d, element %lld: found %.9g, expected %.9g, bound %.3g (%.2f of it)", at->file, at->index, at->row,
               dtype, what, which, (long long)i * (long long)pick, got, want, bound, fabs(got - want) / bound);
    }
  }
}

// Sums over all elements, of which only some are stored. In `mix` each element has a weight of its own, of either sign, so that what every
// result is off by a little cancels and one wrong element, or two that changed places, do not: a few thousandths of the usual size are
// found. The plain sums see what is wrong everywhere.
static void compare_sums(const place *at, int which, zm_array *found, const json_t *want) {
  const json_t *all = json_object_get(want, "sum"), *sizes = json_object_get(want, "abs"), *mixed = json_object_get(want, "mix");
  const void *data = zm_array_data(found);
  double sum = 0, size = 0, mix = 0, squares = 0;
  int64_t odd = 0; // where NaN and infinities are, and which
  if (!all) return;
  for (int64_t i = 0; i < zm_array_size(found); i++) {
    const double v = value_at(data, found->type.dtype, i);
    if (!isfinite(v)) {
      odd += (i + 1) * (isnan(v) ? 1 : v > 0 ? 2 : 3);
      continue;
    }
    sum += v;
    size += fabs(v);
    mix += v * ((double)(hashed(3000, (uint32_t)i) % 128) - 63.5) / 64;
    squares += v * v;
  }
  const double unit = unit_of(found->type.dtype), wanted_mix = number(mixed);
  const double tol = sizes ? (2e-6 + unit) * number(sizes) : 0, narrow = sizes ? (8e-6 + 8 * unit) * sqrt(squares) : 0;
  const bool near = fabs(sum - number(all)) <= tol && (!sizes || fabs(size - number(sizes)) <= tol) && fabs(mix - wanted_mix) <= narrow;
  if (near && odd == field(want, "odd")) return;
  fail_msg(
      "%s %zu %s (%s): result %d: the sum is %.9g, of magnitudes %.9g, with weights %.9g, expected %.9g, %.9g, %.9g (bounds %.3g, %.3g)",
      at->file, at->index, at->row, zm_dtype_name(at->dtype), which, sum, size, mix, number(all), sizes ? number(sizes) : 0, wanted_mix,
      tol, narrow);
}

// ---- one case ----

typedef struct call {
  const zmi_entry *entry;
  double params[ZMI_CATALOG_PARAMS];
  int nin, nout, count, index[ZMI_CATALOG_IN]; // the operands that are differentiated by
  zm_array *in[ZMI_CATALOG_IN], *cotangents[ZMI_CATALOG_OUT];
} call;

static zm_status apply(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const call *c = user;
  zm_array *all[ZMI_CATALOG_IN];
  (void)nin, (void)nout;
  memcpy(all, c->in, sizeof all);
  for (int i = 0; i < c->count; i++) all[c->index[i]] = in[i];
  return zmi_entry_call(c->entry, all, c->nin, c->params, out);
}

static zm_status back(void *user, zm_array *const *in, int nin, zm_array **out, int nout) { // the gradients as a function
  call *c = user;
  zm_array *again[ZMI_CATALOG_OUT];
  (void)nin, (void)nout;
  return zm_vjp(apply, c, in, c->count, c->cotangents, again, c->nout, out);
}

// Numbers of the shape of y that the scripts know too.
static zm_array *numbers_like(zm_array *y, uint32_t seed) {
  int64_t n = zm_array_size(y);
  double *x = calloc((size_t)n + 1, sizeof *x);
  for (int64_t i = 0; i < n && is_float(y->type.dtype); i++) x[i] = (double)((int64_t)(hashed(seed, (uint32_t)i) % 65) - 32) / 32;
  zm_array *a = floats_of(x, y->type.dtype, y->type.shape, y->type.rank, n);
  free(x);
  return a;
}

static void check_gradients(const place *at, call *c, const json_t *gradients, const json_t *second, zm_array **out) {
  zm_array *in[ZMI_CATALOG_IN], *again[ZMI_CATALOG_OUT], *made[ZMI_CATALOG_IN], *weights[ZMI_CATALOG_IN];
  for (int i = 0; i < c->nin; i++) {
    if (!json_is_array(json_array_get(gradients, (size_t)i))) continue;
    in[c->count] = c->in[i];
    c->index[c->count++] = i;
  }
  for (int o = 0; o < c->nout; o++) c->cotangents[o] = numbers_like(out[o], 1000 + (uint32_t)o);
  if (zm_vjp(apply, c, in, c->count, c->cotangents, again, c->nout, made) != ZM_OK) {
    fail_msg("%s %zu %s (%s): %s", at->file, at->index, at->row, zm_dtype_name(at->dtype), zm_last_error());
  }
  for (int i = 0; i < c->count; i++) {
    assert_int_equal(made[i]->type.dtype, in[i]->type.dtype);
    assert_int_equal(zm_array_size(made[i]), zm_array_size(in[i]));
    compare(at, GRADIENT, c->index[i], made[i], json_array_get(gradients, (size_t)c->index[i]), 1);
  }
  if (!second || at->dtype != ZM_F32) return; // what is rounded in between is part of the function then
  for (int i = 0; i < c->count; i++) weights[i] = numbers_like(in[i], 2000 + (uint32_t)c->index[i]);
  zm_array *values[ZMI_CATALOG_IN];
  if (zm_vjp(back, c, in, c->count, weights, values, c->count, made) != ZM_OK) {
    fail_msg("%s %zu %s: second order: %s", at->file, at->index, at->row, zm_last_error());
  }
  for (int i = 0; i < c->count; i++) {
    compare(at, SECOND, c->index[i], made[i], json_array_get(second, (size_t)c->index[i]), 1);
  }
}

static void check_case(const place *at, const json_t *json) {
  call c = {.entry = find_row(at->row)};
  zm_array *out[ZMI_CATALOG_OUT];
  if (!c.entry) fail_msg("%s %zu: there is no row %s", at->file, at->index, at->row);
  const json_t *in = json_object_get(json, "in"), *outs = json_object_get(json, "out"), *params = json_object_get(json, "p");
  zm_scope *scope = zm_scope_open();
  assert_true(json_array_size(params) == (size_t)zmi_entry_parameters(c.entry, c.params));
  for (size_t i = 0; i < json_array_size(params); i++) c.params[i] = json_number_value(json_array_get(params, i));
  for (; c.nin < (int)json_array_size(in); c.nin++) c.in[c.nin] = operand_of(json_array_get(in, (size_t)c.nin), at->dtype);
  zm_clear_error();
  if (zmi_entry_call(c.entry, c.in, c.nin, c.params, out) != ZM_OK) {
    fail_msg("%s %zu %s (%s): %s", at->file, at->index, at->row, zm_dtype_name(at->dtype), zm_last_error());
  }
  c.nout = c.entry->outputs ? c.entry->outputs : 1;
  assert_int_equal(c.nout, json_array_size(outs));
  for (int o = 0; o < c.nout; o++) {
    const json_t *want = json_array_get(outs, (size_t)o);
    int64_t shape[ZM_MAX_RANK];
    int rank = (int)json_array_size(json_object_get(want, "s"));
    int64_t n = shape_of(json_object_get(want, "s"), shape), pick = field(want, "pick") ? field(want, "pick") : 1;
    bool same = out[o]->type.rank == rank;
    for (int i = 0; same && i < rank; i++) same = out[o]->type.shape[i] == shape[i];
    char found[128];
    if (!same) fail_msg("%s %zu %s: result %d is %s", at->file, at->index, at->row, o, zmi_type_text(&out[o]->type, found));
    assert_int_equal(is_float(out[o]->type.dtype), field(want, "i") == 0);
    assert_non_null(zm_array_data(out[o]));
    if (n > 0) compare(at, RESULT, o, out[o], json_object_get(want, "v"), pick);
    compare_sums(at, o, out[o], want);
  }
  const json_t *gradients = json_object_get(json, "grad");
  if (gradients) check_gradients(at, &c, gradients, json_object_get(json, "second"), out);
  zm_scope_close(scope);
}

static bool wanted(const json_t *json, zm_dtype dtype) {
  const json_t *types = json_object_get(json, "types");
  for (size_t i = 0; i < json_array_size(types); i++) {
    if (strcmp(json_string_value(json_array_get(types, i)), zm_dtype_name(dtype)) == 0) return true;
  }
  return !types;
}

static void check_cases(const char *file, const json_t *cases) {
  assert_true(json_array_size(cases) > 0);
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *json = json_array_get(cases, i);
    for (size_t t = 0; t < ZMI_COUNT(floats); t++) {
      place at = {file, json_string_value(json_object_get(json, "row")), i, floats[t]};
      if (wanted(json, floats[t])) check_case(&at, json);
    }
  }
}

// The row has a case with operands that are not contiguous, and another one; none if `none`.
static inline void check_laid_out(const json_t *cases, const char *row, bool none) {
  int laid = 0, count = 0;
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *json = json_array_get(cases, i), *in = json_object_get(json, "in");
    if (strcmp(json_string_value(json_object_get(json, "row")), row) != 0) continue;
    bool is_laid = false;
    for (size_t k = 0; k < json_array_size(in); k++) is_laid |= json_object_get(json_array_get(in, k), "lay") != NULL;
    laid += is_laid;
    count++;
  }
  if (none ? count != 0 : laid == 0 || count < 2) fail_msg("%s: %d cases of other shapes, %d of them not contiguous", row, count, laid);
}

static inline void check_file(size_t f) {
  check_cases(files[f], roots[f]);
}

// ---- the table ----

// How many operands of a row have a stored gradient in one of its cases in files [first, last); how many cases there are.
static inline int covered(const char *row, size_t first, size_t last, int *cases) {
  int most = 0;
  *cases = 0;
  for (size_t f = first; f < last; f++) {
    for (size_t i = 0; i < json_array_size(roots[f]); i++) {
      const json_t *json = json_array_get(roots[f], i), *gradients = json_object_get(json, "grad");
      if (strcmp(json_string_value(json_object_get(json, "row")), row) != 0) continue;
      int count = 0;
      for (size_t k = 0; k < json_array_size(gradients); k++) count += json_is_array(json_array_get(gradients, k));
      most = count > most ? count : most;
      ++*cases;
    }
  }
  return most;
}

// Words before what is said about them.
static inline int words(const char *s) {
  int n = 0;
  for (; *s && *s != ':'; s++) n += *s != ' ' && (s[1] == ' ' || s[1] == ':' || !s[1]);
  return n;
}

// Each row has cases in those files, and stored gradients for all operands that it claims one for.
static inline void check_coverage(size_t first, size_t last) {
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    int cases, gradients = covered(e->name, first, last, &cases);
    if (cases == 0) fail_msg("%s: no cases", e->name);
    bool none = strncmp(e->gradient, "none: ", 6) == 0;
    // Scales and biases of quantized matrices count once in the text and once for each matrix in the case.
    if (!none && gradients < words(e->gradient))
      fail_msg("%s: gradients of %d operands are stored, claimed: %s", e->name, gradients, e->gradient);
    if (none && gradients) fail_msg("%s: gradients are stored, claimed: %s", e->name, e->gradient);
  }
}

#endif
