// The catalog against results stored by scripts/make_catalog_cases.py (NumPy, float64), in every float dtype: results, gradients, ties,
// NaN, empty and odd shapes. Every row has cases, and a stored gradient for every operand that it claims one for. Below: rounding points,
// bits that are promised (those of models' ops: test_one_code.c), and errors.
#include "catalog_check.h"

#define FILE_TEST(name, index)                                                                                                             \
  static void test_##name(void **state) {                                                                                                  \
    (void)state;                                                                                                                           \
    check_file(index);                                                                                                                     \
  }
FILE_TEST(activations, 0)
FILE_TEST(rows, 1)
FILE_TEST(transformer, 2)
FILE_TEST(reductions, 3)
FILE_TEST(attention, 4)
FILE_TEST(quant, 5)
FILE_TEST(image, 6)
FILE_TEST(moe, 7)

// ---- the table ----

static void test_table(void **state) {
  (void)state;
  const zmi_entry *e;
  const zmi_catalog_group *group;
  for (size_t i = 0; (e = zmi_catalog_at(i, &group)); i++) {
    if (zmi_catalog_find(e->name) != e) fail_msg("%s: two rows of that name", e->name);
    if (!e->formula || !e->shapes || !e->gradient || !e->sample) fail_msg("%s: the row is not complete", e->name);
    FILE *f = fopen(group->file, "r");
    if (!f) fail_msg("%s: %s is not there", e->name, group->file);
    fclose(f);
  }
  assert_null(zmi_catalog_find("nonsense"));
  check_coverage(0, MLX_FILE);
}

static bool is_declared(const char *function) {
  static const char *const headers[] = {"include/zmlx/catalog.h", "include/zmlx/array.h", "include/zmlx/elementwise.h"};
  char array[96], status[96];
  bool found = false;
  snprintf(array, sizeof array, "zm_array *zm_%s(", function);
  snprintf(status, sizeof status, "zm_status zm_%s(", function);
  for (size_t i = 0; i < ZMI_COUNT(headers) && !found; i++) {
    char *text;
    size_t size;
    assert_int_equal(zmi_read_file(headers[i], 1 << 20, &text, &size), ZM_OK);
    found = strstr(text, array) || strstr(text, status);
    zmi_free(text);
  }
  return found;
}

// A row is found by its name, by the name of its function, which is there, and by the name that it has elsewhere.
static void test_names(void **state) {
  (void)state;
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    char function[96];
    snprintf(function, sizeof function, "zm_%s", zmi_entry_function(e));
    if (!is_declared(function + 3)) fail_msg("%s: there is no function %s", e->name, function);
    if (zmi_catalog_find(function) != e) fail_msg("%s is not found", function);
  }
  assert_false(is_declared("mul"));
  assert_string_equal(zmi_catalog_find("silu_mul_grad")->name, "silu_mul");
  assert_string_equal(zmi_catalog_find("zm_multiply")->name, "mul");
  assert_string_equal(zmi_catalog_find("multiply")->name, "mul"); // as the page has it
}

// docs/catalog.md is what the table gives (make docs).
static void test_page(void **state) {
  (void)state;
  zmi_text page = {0};
  char *found;
  size_t size;
  assert_int_equal(zmi_catalog_page(&page), ZM_OK);
  assert_int_equal(zmi_read_file("docs/catalog.md", 1 << 20, &found, &size), ZM_OK);
  if (strcmp(found, zmi_text_str(&page)) != 0) fail_msg("docs/catalog.md is not what the table gives: make docs");
  zmi_free(found);
  zmi_text_release(&page);
}

// Every row runs on its sample operands, in every dtype.
static void test_samples(void **state) {
  (void)state;
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    for (size_t t = 0; t < ZMI_COUNT(floats); t++) {
      zm_scope *scope = zm_scope_open();
      zm_array *in[ZMI_CATALOG_IN], *out[ZMI_CATALOG_OUT];
      int n = zmi_entry_sample(e, floats[t], 4096, in);
      if (n < 0) fail_msg("%s: %s", e->name, zm_last_error());
      if (zmi_entry_call(e, in, n, NULL, out) != ZM_OK || zm_eval(out, e->outputs ? (size_t)e->outputs : 1) != ZM_OK) {
        fail_msg("%s (%s): %s", e->name, zm_dtype_name(floats[t]), zm_last_error());
      }
      zm_scope_close(scope);
    }
  }
}

// What a row's text says of its parameters: the usual value is allowed; whoever gives what is no integer, or none of the range, is told
// which parameter of which row, before anything is made.
static void test_integers(void **state) {
  (void)state;
  const zmi_entry *e;
  int integers = 0;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    zmi_parameter rows[ZMI_CATALOG_PARAMS];
    const int count = zmi_entry_described(e, rows);
    int equals = 0;
    for (const char *s = e->parameters; s && *s; s++) equals += *s == '=';
    if (count != equals) fail_msg("%s: \"%s\": %d parameters are read", e->name, e->parameters, count);
    zm_scope *scope = zm_scope_open();
    zm_array *in[ZMI_CATALOG_IN];
    const int n = zmi_entry_sample(e, ZM_F32, 64, in);
    for (int k = 0; k < count; k++) {
      const zmi_parameter *p = &rows[k];
      if (!p->name[0]) fail_msg("%s: \"%s\": a parameter without a name", e->name, e->parameters);
      if (!p->integer) continue;
      const double least = (double)p->least, most = (double)p->most;
      if (!(least <= p->usual && p->usual <= most)) fail_msg("%s: %s: %g is out of its range", e->name, p->name, p->usual);
      const double bad[] = {least + 0.5, 1.5, least - 1, most + 1, NAN, INFINITY, -INFINITY, 1e300, -1e300, least - 0x1p-20};
      for (size_t b = 0; b < ZMI_COUNT(bad); b++) {
        double params[ZMI_CATALOG_PARAMS];
        zm_array *out[ZMI_CATALOG_OUT] = {NULL};
        char wanted[512];
        zmi_entry_parameters(e, params);
        params[k] = bad[b];
        snprintf(wanted, sizeof wanted, "%s: %s: expected an integer from %lld to %lld, found %.12g", e->name, p->name, (long long)p->least,
                 (long long)p->most, bad[b]);
        zm_clear_error();
        assert_int_equal(zmi_entry_call(e, in, n, params, out), ZM_ERROR_ARGUMENT);
        assert_string_equal(zm_last_error(), wanted);
        for (int o = 0; o < ZMI_CATALOG_OUT; o++) assert_null(out[o]);
      }
      integers++;
    }
    zm_scope_close(scope);
  }
  assert_int_equal(integers, 64);
  zmi_parameter rows[ZMI_CATALOG_PARAMS];
  const zmi_entry made = {.name = "made", .parameters = "eps=1e-6, k=4 integer 1..8, n=-2 integer -3.., m=7"};
  assert_int_equal(zmi_entry_described(&made, rows), 4);
  assert_string_equal(rows[2].name, "n");
  assert_true(!rows[0].integer && rows[0].usual == 1e-6 && !rows[3].integer && rows[3].usual == 7);
  assert_true(rows[1].integer && rows[1].usual == 4 && rows[1].least == 1 && rows[1].most == 8);
  assert_true(rows[2].integer && rows[2].usual == -2 && rows[2].least == -3 && rows[2].most == INT32_MAX);
}

// Every definition becomes source for each target: it has the target's words, its own name, and the storage of the dtype that is asked for.
// That the sources compile and give the interpreter's bits is the matter of test_catalog_emit.
static void test_sources(void **state) {
  (void)state;
  static const struct {
    const char *target, *word;
  } targets[] = {{"c", "_rows("}, {"cuda", "__global__"}, {"metal", "kernel void"}, {"ir", "-> ("}};
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    if (!e->definition) continue;
    for (size_t t = 0; t < ZMI_COUNT(targets); t++) {
      const bool c = strcmp(targets[t].target, "c") == 0;
      const char *word = c && e->definition->form == ZMI_FORM_ELEMENTS ? "_elements("
                         : c && e->definition->form == ZMI_FORM_TILES  ? "_groups("
                                                                       : targets[t].word;
      char *text[3];
      for (int d = 0; d < 3; d++) {
        if (!(text[d] = zmi_entry_source(e, floats[d], targets[t].target, false)))
          fail_msg("%s: %s: %s", e->name, targets[t].target, zm_last_error());
        if (!strstr(text[d], word)) fail_msg("%s: %s: there is no \"%s\"", e->name, targets[t].target, word);
        if (!strstr(text[d], e->definition->name)) fail_msg("%s: %s: its name is not there", e->name, targets[t].target);
      }
      const bool integers = e->dtypes && !strstr(e->dtypes, "float");
      if (!integers && (strcmp(text[0], text[1]) == 0 || strcmp(text[1], text[2]) == 0))
        fail_msg("%s: %s: one source for all dtypes", e->name, targets[t].target);
      for (int d = 0; d < 3; d++) zm_free_text(text[d]);
    }
    assert_null(zmi_entry_source(e, ZM_F32, "nonsense", true));
    zm_clear_error();
  }
}

// ---- promised bits ----

static zm_array *some(zm_dtype dtype, uint32_t seed, int rank, const int64_t *shape) {
  int64_t n = 1;
  for (int i = 0; i < rank; i++) n *= shape[i];
  double *x = malloc((size_t)n * sizeof *x + 1);
  for (int64_t i = 0; i < n; i++) x[i] = (double)((int32_t)hashed(seed, (uint32_t)i) >> 8) / (1 << 22);
  zm_array *a = floats_of(x, dtype, shape, rank, n);
  free(x);
  return a;
}

static void same_bits(const char *what, zm_array *a, zm_array *b) {
  char ta[128], tb[128];
  size_t bytes;
  if (!a || !b) fail_msg("%s: %s", what, zm_last_error());
  if (!zmi_type_equal(&a->type, &b->type)) fail_msg("%s: %s and %s", what, zmi_type_text(&a->type, ta), zmi_type_text(&b->type, tb));
  assert_true(zmi_type_bytes(&a->type, &bytes));
  const void *x = zm_array_data(a), *y = zm_array_data(b);
  if (!x || !y) fail_msg("%s: %s", what, zm_last_error());
  if (memcmp(x, y, bytes) != 0) fail_msg("%s: other bits", what);
}

// swiglu2 rounds where silu and multiply do; a row alone has the bits that it has among others.
static void test_swiglu_bits(void **state) {
  (void)state;
  for (size_t t = 0; t < 3; t++) {
    zm_scope *scope = zm_scope_open();
    zm_array *g = some(floats[t], 1, 2, (int64_t[]){5, 333}), *u = some(floats[t], 2, 2, (int64_t[]){5, 333});
    same_bits("swiglu2", zm_swiglu2(g, u), zm_multiply(zm_silu(g), u));
    zm_array *row = zmi_cat_part(g, 0, 3, 1);
    same_bits("softmax", zmi_cat_part(zm_softmax_lastdim(g), 0, 3, 1), zm_softmax_lastdim(row));
    same_bits("softmax", zm_softmax_lastdim(g), zm_softmax(g));
    zm_scope_close(scope);
  }
}

static float rounded(float v, zm_dtype t) {
  return t == ZM_BF16 ? zmi_bf16_to_f32(zmi_f32_to_bf16(v)) : t == ZM_F16 ? zmi_f16_to_f32(zmi_f32_to_f16(v)) : v;
}

// Each way to combine, against its definition in a loop.
static void test_combine_bits(void **state) {
  (void)state;
  enum { R = 3, K = 6, D = 700 };
  static zm_array *(*const f[])(zm_array *, zm_array *) = {zm_moe_combine, zm_moe_combine_no_fma, zm_moe_combine_exact, zm_moe_combine_fp32,
                                                           zm_moe_combine_fp32_no_fma};
  for (size_t t = 0; t < 3; t++) {
    for (int kind = 0; kind < 5; kind++) {
      zm_scope *scope = zm_scope_open();
      zm_array *y = some(floats[t], 3, 3, (int64_t[]){R, K, D}), *w = some(floats[t], 4, 2, (int64_t[]){R, K});
      const void *yd = zm_array_data(y), *wd = zm_array_data(w);
      float *want = calloc(R * D, sizeof *want);
      zm_dtype to = kind >= 3 ? ZM_F32 : floats[t];
      for (int i = 0; i < R * D; i++) {
        volatile float sum = 0;
        for (int k = 0; k < K; k++) {
          float a = (float)value_at(wd, floats[t], i / D * K + k), b = (float)value_at(yd, floats[t], (i / D * K + k) * D + i % D);
          volatile float p = a * b;
          if (kind == ZM_COMBINE_EXACT) p = rounded(p, floats[t]);
          sum = kind == ZM_COMBINE_FMA || kind == ZM_COMBINE_FP32 ? fmaf(a, b, sum) : sum + p;
          if (kind == ZM_COMBINE_EXACT) sum = rounded(sum, floats[t]);
        }
        want[i] = rounded(sum, to);
      }
      zm_array *expected = zm_astype(zm_array_from_data(want, ZM_F32, (int64_t[]){R, D}, 2), to);
      free(want);
      same_bits("moe_combine", f[kind](y, w), expected);
      if (kind == ZM_COMBINE_EXACT) same_bits("glm_moe_combine", zm_glm_moe_combine(y, w), expected);
      zm_scope_close(scope);
    }
  }
}

// What goes out to experts comes back to its place.
static void test_dispatch_and_back(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  int32_t index[40 * 3];
  for (int i = 0; i < 40 * 3; i++) index[i] = (int32_t)(hashed(9, (uint32_t)i) % 7);
  zm_array *x = some(ZM_BF16, 5, 2, (int64_t[]){40, 24}), *indices = zm_array_from_data(index, ZM_I32, (int64_t[]){40, 3}, 2);
  zm_dispatch d;
  assert_int_equal(zm_moe_dispatch(x, indices, 7, &d), ZM_OK);
  same_bits("dispatch", zm_take(d.rows, d.place), zm_contiguous(zm_broadcast_to(zm_expand_dims(x, 1), (int64_t[]){40, 3, 24}, 3)));
  zm_array *all[] = {d.rows, d.place, d.order, d.offsets};
  assert_int_equal(zm_eval(all, 4), ZM_OK);
  const uint32_t *offsets = zm_array_data(d.offsets), *order = zm_array_data(d.order);
  assert_int_equal(offsets[7], 120);
  for (uint32_t e = 0; e < 7; e++) {
    for (uint32_t r = offsets[e]; r < offsets[e + 1]; r++) assert_int_equal(index[order[r]], e);
  }
  zm_scope_close(scope);
}

// ---- errors ----

static void refused(const void *result, const char *words_of_message) {
  if (result) fail_msg("not refused: %s", words_of_message);
  if (!strstr(zm_last_error(), words_of_message)) fail_msg("\"%s\" does not say: %s", zm_last_error(), words_of_message);
  zm_clear_error();
}

// AdamW with options that are zero, left out, or of no use, against the same steps in double.
static void test_adamw_options(void **state) {
  (void)state;
  static const struct {
    zm_adamw_options given;
    double beta1, beta2, eps, decay;
  } cases[] = {
      {{0}, 0.9, 0.999, 1e-8, 0.01},
      {{.beta1 = ZM_NONE}, 0, 0.999, 1e-8, 0.01},
      {{.beta2 = ZM_NONE, .eps = 0.5}, 0.9, 0, 0.5, 0.01},
      {{.eps = ZM_NONE, .weight_decay = 0.25}, 0.9, 0.999, 0, 0.25},
      {{.beta1 = 0.5, .beta2 = 0.75, .weight_decay = ZM_NONE}, 0.5, 0.75, 1e-8, 0},
      {{.weight_decay = 0.25, .no_decay = true}, 0.9, 0.999, 1e-8, 0},
      {{ZM_NONE, ZM_NONE, ZM_NONE, ZM_NONE, false}, 0, 0, 0, 0},
  };
  const float p[] = {1, -2, 0.5f, 3}, g[] = {0.25f, -1, 2, -0.125f}, m[] = {0.5f, 0.25f, -1, 0}, v[] = {1, 0.5f, 2, 0.25f};
  const float *const from[] = {p, g, m, v};
  zm_scope *scope = zm_scope_open();
  zm_array *in[4], *out[3], *lr = zm_full(0.125, ZM_F32, NULL, 0), *step = zm_full(2, ZM_F32, NULL, 0);
  for (int i = 0; i < 4; i++) in[i] = zm_array_from_data(from[i], ZM_F32, (int64_t[]){4}, 1);
  for (size_t c = 0; c < ZMI_COUNT(cases); c++) {
    const double b1 = cases[c].beta1, b2 = cases[c].beta2;
    if (zm_adamw_step(in[0], in[1], in[2], in[3], lr, step, &cases[c].given, &out[0], &out[1], &out[2]) != ZM_OK)
      fail_msg("%zu: %s", c, zm_last_error());
    for (int i = 0; i < 4; i++) {
      const double a = b1 * m[i] + (1 - b1) * g[i], b = b2 * v[i] + (1 - b2) * g[i] * g[i];
      const double wanted[] = {p[i] - 0.125 * (a / (1 - b1 * b1) / (sqrt(b / (1 - b2 * b2)) + cases[c].eps) + cases[c].decay * p[i]), a, b};
      for (int o = 0; o < 3; o++) {
        const double found = ((const float *)zm_array_data(out[o]))[i];
        if (fabs(found - wanted[o]) > 2e-6 * (1 + fabs(wanted[o])))
          fail_msg("%zu: result %d of %d is %.9g, not %.9g", c, o, i, found, wanted[o]);
      }
    }
  }
  static const zm_adamw_options useless[] = {{.beta1 = 1}, {.beta2 = -0.5}, {.eps = -1e-8}, {.weight_decay = NAN}, {.eps = INFINITY}};
  for (size_t i = 0; i < ZMI_COUNT(useless); i++) {
    assert_int_equal(zm_adamw_step(in[0], in[1], in[2], in[3], lr, step, &useless[i], &out[0], &out[1], &out[2]), ZM_ERROR_ARGUMENT);
    assert_non_null(strstr(zm_last_error(), "expected 0 for the usual value, ZM_NONE, or a positive number"));
  }
  zm_scope_close(scope);
}

// The new parameters by lr and step, against differences of the same steps in double.
static zm_status new_p(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *const *rest = user;
  zm_array *m, *v;
  (void)nin, (void)nout;
  return zm_adamw_step(rest[0], rest[1], rest[2], rest[3], in[0], in[1], NULL, &out[0], &m, &v);
}

static double sum_of_new_p(const float *const *from, double lr, double step) {
  double sum = 0;
  for (int i = 0; i < 4; i++) {
    const double p = from[0][i], g = from[1][i], a = 0.9 * from[2][i] + 0.1 * g, b = 0.999 * from[3][i] + 0.001 * g * g;
    sum += p - lr * (a / (1 - pow(0.9, step)) / (sqrt(b / (1 - pow(0.999, step))) + 1e-8) + 0.01 * p);
  }
  return sum;
}

static void test_adamw_rates(void **state) {
  (void)state;
  const float p[] = {1, -2, 0.5f, 3}, g[] = {0.25f, -1, 2, -0.125f}, m[] = {0.5f, 0.25f, -1, 0}, v[] = {1, 0.5f, 2, 0.25f};
  const float *const from[] = {p, g, m, v};
  zm_scope *scope = zm_scope_open();
  zm_array *in[4], *at[] = {zm_full(0.125, ZM_F32, NULL, 0), zm_full(3, ZM_F32, NULL, 0)}, *ones = zm_full(1, ZM_F32, (int64_t[]){4}, 1);
  zm_array *out, *found[2];
  for (int i = 0; i < 4; i++) in[i] = zm_array_from_data(from[i], ZM_F32, (int64_t[]){4}, 1);
  assert_int_equal(zm_vjp(new_p, in, at, 2, &ones, &out, 1, found), ZM_OK);
  const double h = 1e-5, wanted[] = {(sum_of_new_p(from, 0.125 + h, 3) - sum_of_new_p(from, 0.125 - h, 3)) / (2 * h),
                                     (sum_of_new_p(from, 0.125, 3 + h) - sum_of_new_p(from, 0.125, 3 - h)) / (2 * h)};
  for (int i = 0; i < 2; i++) {
    const double got = zm_array_item(found[i]);
    if (!(fabs(got - wanted[i]) <= 1e-4 * fabs(wanted[i]))) fail_msg("by %s: %.9g, not %.9g", i ? "step" : "lr", got, wanted[i]);
  }
  zm_scope_close(scope);
}

static void test_errors(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *x = some(ZM_F32, 1, 2, (int64_t[]){3, 5}), *w = some(ZM_F32, 2, 1, (int64_t[]){4}),
           *q = zm_full(0, ZM_U32, (int64_t[]){2, 3}, 2);
  zm_array *a, *b;
  zm_clear_error();
  refused(zm_rmsnorm(x, w, 1e-6), "rmsnorm: weight: expected shape [5], found float32[4]");
  refused(zm_rmsnorm(NULL, w, 1e-6), "rmsnorm: x is NULL");
  refused(zm_rms_norm_no_weight(x, -1e-6), "rms_norm_no_weight: eps: expected a finite number from 0 up, found -1e-06");
  refused(zm_layer_norm_no_weight(x, NAN), "layer_norm_no_weight: eps: expected a finite number from 0 up, found");
  refused(zm_std_lastdim(x, INFINITY), "std_lastdim: eps: expected a finite number from 0 up, found inf");
  refused(zm_grpo_advantage_norm(x, -1), "grpo_advantage_norm: eps: expected a finite number from 0 up, found -1");
  assert_int_not_equal(zm_fused_add_rmsnorm(x, x, w, NAN, &a, &b), ZM_OK);
  refused(NULL, "fused_add_rmsnorm: eps: expected a finite number from 0 up");
  refused(zm_elu(x, NAN), "elu: alpha: expected a finite number, found");
  refused(zm_elu_grad(x, x, NAN), "elu_grad: alpha: expected a finite number, found");
  if (!zm_elu(x, -2)) fail_msg("%s", zm_last_error());
  refused(zm_swiglu(x), "the last axis must be even");
  refused(zm_dropout(x, 1, 0), "p: expected a chance in [0, 1), found 1");
  refused(zm_relu(q), "expected a float dtype, found uint32");
  refused(zm_pack_bits(zm_full(0, ZM_BOOL, (int64_t[]){7}, 1)), "a multiple of 8, found 7");
  refused(zm_pack_bits(x), "pack_bits: x: expected dtype bool or uint8, found float32");
  assert_int_not_equal(zmi_entry_call(zmi_catalog_find("adamw_step"), (zm_array *[]){x, x, x, x}, 4,
                                      (double[]){0.01, 0, 0.9, 0.999, 1e-8, 0.01}, (zm_array *[3]){NULL}),
                       ZM_OK);
  refused(NULL, "adamw_step: step: expected a number from 1 up, found 0");
  refused(zm_masked_softmax(x, x), "mask: expected dtype bool");
  refused(zm_max_lastdim(zm_full(0, ZM_F32, (int64_t[]){3, 0}, 2)), "the last axis is empty");
  refused(zm_dequantize_affine_packed(q, w, w, 7, 64), "bits");
  refused(zm_dequantize_affine_packed(q, w, w, 4, 64), "whole groups");
  refused(zm_apply_rope(x, x, x), "cos: expected shape [3, 2]");
  assert_int_not_equal(zm_topk_lastdim(x, 6, &a, &b), ZM_OK);
  refused(NULL, "k: expected 1 to the 5 elements of a row, found 6");
  assert_int_not_equal(zm_deepseek_router_topk_sigmoid(x, NULL, 2, 3, 1, &a, &b), ZM_OK);
  refused(NULL, "cannot be cut into 3 groups");
  zm_scope_close(scope);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_table),        cmocka_unit_test(test_page),
      cmocka_unit_test(test_activations),  cmocka_unit_test(test_rows),
      cmocka_unit_test(test_transformer),  cmocka_unit_test(test_reductions),
      cmocka_unit_test(test_attention),    cmocka_unit_test(test_quant),
      cmocka_unit_test(test_image),        cmocka_unit_test(test_moe),
      cmocka_unit_test(test_samples),      cmocka_unit_test(test_integers),
      cmocka_unit_test(test_sources),      cmocka_unit_test(test_swiglu_bits),
      cmocka_unit_test(test_combine_bits), cmocka_unit_test(test_dispatch_and_back),
      cmocka_unit_test(test_errors),       cmocka_unit_test(test_adamw_options),
      cmocka_unit_test(test_names),        cmocka_unit_test(test_adamw_rates),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, open_files, close_files);
}
