// Transforms of every row of the catalog, on the operands of its stored cases: tangents against gradients, gradients of gradients against
// differences, batches against slices bit by bit; gradients interpreted and compiled, with one worker and with two; memory that runs out.
#include "catalog_cases.h"
#include "transform_check.h"

typedef struct call {
  const zmi_entry *entry;
  double params[ZMI_CATALOG_PARAMS];
  int nin, nout, count, index[ZMI_CATALOG_IN]; // the operands that are differentiated by
  zm_array *in[ZMI_CATALOG_IN];
} call;

static zm_status apply(void *user, zm_array *const *in, int nin, zm_array **out, int nout) { // to all operands
  const call *c = user;
  (void)nout;
  return zmi_entry_call(c->entry, in, nin, c->params, out);
}

static zm_status apply_by(void *user, zm_array *const *in, int nin, zm_array **out, int nout) { // to those with a gradient
  const call *c = user;
  zm_array *all[ZMI_CATALOG_IN];
  (void)nin, (void)nout;
  memcpy(all, c->in, sizeof all);
  for (int i = 0; i < c->count; i++) all[c->index[i]] = in[i];
  return zmi_entry_call(c->entry, all, c->nin, c->params, out);
}

// The first case of the row, the first with gradients if there are such. Operands stand in the current scope.
static void operands_of_row(const zmi_entry *e, call *c) {
  const json_t *found = NULL, *gradients = NULL;
  for (size_t f = 0; f < ZMI_COUNT(files) && !gradients; f++) {
    for (size_t i = 0; i < json_array_size(roots[f]) && !gradients; i++) {
      const json_t *json = json_array_get(roots[f], i);
      if (strcmp(json_string_value(json_object_get(json, "row")), e->name) != 0) continue;
      gradients = json_object_get(json, "grad");
      if (!found || gradients) found = json;
    }
  }
  if (!found) fail_msg("%s: no cases", e->name);
  const json_t *in = json_object_get(found, "in"), *params = json_object_get(found, "p");
  *c = (call){.entry = e, .nin = (int)json_array_size(in), .nout = e->outputs ? e->outputs : 1};
  zmi_entry_parameters(e, c->params);
  for (size_t i = 0; i < json_array_size(params); i++) c->params[i] = json_number_value(json_array_get(params, i));
  for (int i = 0; i < c->nin; i++) {
    c->in[i] = operand_of(json_array_get(in, (size_t)i), ZM_F32);
    if (json_is_array(json_array_get(gradients, (size_t)i))) c->index[c->count++] = i;
  }
}

static void claimed(const call *c, zm_array **in) {
  for (int i = 0; i < c->count; i++) in[i] = c->in[c->index[i]];
}

// ---- derivatives ----

// The step of differences where the usual one is too large for the curvature.
static const struct {
  const char *name;
  double step;
  const char *why;
} steps[] = {
    {"dequantize_silu_int8", 1.0 / 16384, "the scale is multiplied by integers up to 127"},
};

static double step_of(const char *name) {
  for (size_t i = 0; i < ZMI_COUNT(steps); i++) {
    if (strcmp(steps[i].name, name) == 0) return steps[i].step;
  }
  return 1.0 / 512;
}

static void gradients_agree_with_tangents_and_differences(void **state) {
  (void)state;
  const zmi_entry *e;
  for (size_t i = 0; i < ZMI_COUNT(steps); i++) {
    if (!zmi_catalog_find(steps[i].name)) fail_msg("%s: no such row", steps[i].name);
  }
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    if (strncmp(e->gradient, "none: ", 6) == 0) continue;
    zm_scope *scope = zm_scope_open();
    call c;
    zm_array *in[CHECK_MOST], *out[CHECK_MOST], *cotangents[CHECK_MOST] = {NULL};
    check_seed = 88172645463325252u; // a row's directions do not depend on the rows before it
    operands_of_row(e, &c);
    claimed(&c, in);
    check_case how = {.tolerance = 4e-3, .agreement = 1e-4, .step = step_of(e->name)};
    check_gradient(e->name, apply_by, &c, in, c.count, c.nout, &how);
    MUST(apply_by(&c, in, c.count, out, c.nout), "%s", e->name);
    for (int o = 0; o < c.nout; o++) {
      if (check_is_float(out[o]->type.dtype)) cotangents[o] = check_noise(&out[o]->type);
    }
    check_back back = {apply_by, &c, c.nout, cotangents};
    char name[128];
    snprintf(name, sizeof name, "the gradient of %s", e->name);
    check_gradient(name, check_back_call, &back, in, c.count, c.count, &how);
    zm_scope_close(scope);
  }
}

// Refused with a sentence that names what it is about, or zeros.
static void rows_without_a_gradient_say_so(void **state) {
  (void)state;
  const zmi_entry *e;
  int rows = 0;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    if (strncmp(e->gradient, "none: ", 6) != 0) continue;
    zm_scope *scope = zm_scope_open();
    call c;
    zm_array *out[CHECK_MOST], *gradients[CHECK_MOST];
    operands_of_row(e, &c);
    rows++;
    zm_clear_error();
    if (strcmp(e->name, "skv_fused_project_quantize") == 0) { // the codes have none, the scales and zeros do
      check_gradient(e->name, apply, &c, c.in, c.nin, c.nout, &(check_case){.tolerance = 4e-3, .agreement = 1e-4, .step = 1.0 / 512});
      zm_scope_close(scope);
      continue;
    }
    if (zm_vjp(apply, &c, c.in, c.nin, NULL, out, c.nout, gradients) != ZM_OK) {
      if (!strstr(zm_last_error(), "gradient") && !strstr(zm_last_error(), "vjp")) fail_msg("%s: %s", e->name, zm_last_error());
    } else {
      for (int k = 0; k < c.nin; k++) {
        size_t bytes = 0;
        assert_true(zmi_type_equal(&gradients[k]->type, &c.in[k]->type));
        assert_true(zmi_type_bytes(&gradients[k]->type, &bytes));
        const char *data = zm_array_data(gradients[k]);
        if (!data) fail_msg("%s: %s", e->name, zm_last_error());
        for (size_t b = 0; b < bytes; b++) {
          if (data[b]) fail_msg("%s: operand %d has a gradient that is not zero", e->name, k);
        }
      }
    }
    zm_scope_close(scope);
  }
  assert_true(rows > 0);
}

// ---- batches ----

// CHECK_BATCH operands of the same numbers, each turned by some places.
static zm_array *turned(zm_array *x) {
  const int64_t n = zm_array_size(x);
  const size_t size = zm_dtype_size(x->type.dtype);
  const char *from = zm_array_data(x);
  char *to = malloc((size_t)n * size * CHECK_BATCH + 1);
  int64_t shape[ZM_MAX_RANK] = {CHECK_BATCH};
  assert_non_null(from);
  assert_true(x->type.rank < ZM_MAX_RANK);
  for (int i = 0; i < x->type.rank; i++) shape[i + 1] = x->type.shape[i];
  for (int64_t b = 0; b < CHECK_BATCH; b++) {
    for (int64_t i = 0; i < n; i++) memcpy(to + (size_t)(b * n + i) * size, from + (size_t)((i + b) % n) * size, size);
  }
  zm_array *many = zm_array_from_data(to, x->type.dtype, shape, x->type.rank + 1);
  free(to);
  assert_non_null(many);
  return many;
}

static zm_array *slice_of(zm_array *many, int b) {
  int64_t start[ZM_MAX_RANK] = {b}, stop[ZM_MAX_RANK] = {b + 1};
  for (int k = 1; k < many->type.rank; k++) stop[k] = many->type.shape[k];
  return zm_contiguous(zm_squeeze(zm_slice(many, start, stop, NULL), 0));
}

static void batch_is_slices(const char *name, zm_function f, void *user, zm_array *const *in, int nin, int nout, unsigned mask) {
  zm_array *args[CHECK_MOST], *out[CHECK_MOST], *one[CHECK_MOST], *slices[CHECK_MOST];
  int axes[CHECK_MOST];
  for (int i = 0; i < nin; i++) {
    args[i] = mask >> i & 1 ? turned(in[i]) : in[i];
    axes[i] = mask >> i & 1 ? 0 : ZM_NO_AXIS;
  }
  MUST(zm_vmap(f, user, args, nin, axes, out, nout, NULL), "vmap of %s, operands %#x", name, mask);
  for (int b = 0; b < CHECK_BATCH; b++) {
    for (int i = 0; i < nin; i++) slices[i] = mask >> i & 1 ? slice_of(args[i], b) : in[i];
    MUST(f(user, slices, nin, one, nout), "%s", name);
    for (int o = 0; o < nout; o++) {
      size_t bytes;
      assert_true(zmi_type_bytes(&one[o]->type, &bytes));
      const char *all = zm_array_data(out[o]), *single = zm_array_data(one[o]);
      if (!all || !single) fail_msg("%s, operands %#x: %s", name, mask, zm_last_error());
      assert_int_equal(out[o]->type.rank, one[o]->type.rank + 1);
      if (memcmp(all + (size_t)b * bytes, single, bytes) != 0)
        fail_msg("vmap of %s, operands %#x: slice %d, result %d: other bits", name, mask, b, o);
    }
  }
}

static void batches_are_slices(void **state) {
  (void)state;
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    zm_scope *scope = zm_scope_open();
    call c;
    operands_of_row(e, &c);
    batch_is_slices(e->name, apply, &c, c.in, c.nin, c.nout, (1u << c.nin) - 1);
    for (int k = 0; k < c.nin && c.nin > 1; k++) batch_is_slices(e->name, apply, &c, c.in, c.nin, c.nout, 1u << k);
    if (c.count > 0) {
      char name[128];
      zm_array *in[CHECK_MOST], *out[CHECK_MOST], *cotangents[CHECK_MOST] = {NULL};
      claimed(&c, in);
      MUST(apply_by(&c, in, c.count, out, c.nout), "%s", e->name);
      for (int o = 0; o < c.nout; o++) {
        if (check_is_float(out[o]->type.dtype)) cotangents[o] = check_noise(&out[o]->type);
      }
      check_back back = {apply_by, &c, c.nout, cotangents};
      snprintf(name, sizeof name, "the gradient of %s", e->name);
      batch_is_slices(name, check_back_call, &back, in, c.count, c.count, (1u << c.count) - 1);
    }
    zm_scope_close(scope);
  }
}

// ---- ways to run ----

// The results and the gradients by the claimed operands; their number.
static int everything(call *c, zm_array **arrays) {
  zm_array *in[CHECK_MOST], *gradients[CHECK_MOST];
  claimed(c, in);
  if (c->count == 0) {
    MUST(apply(c, c->in, c->nin, arrays, c->nout), "%s", c->entry->name);
    return c->nout;
  }
  MUST(zm_vjp(apply_by, c, in, c->count, NULL, arrays, c->nout, gradients), "%s", c->entry->name);
  for (int i = 0; i < c->count; i++) arrays[c->nout + i] = gradients[i];
  return c->nout + c->count;
}

// Operands that are large enough for more than one worker, as for benchmarks.
static void workers_change_no_bit(void **state) {
  (void)state;
  const zmi_entry *e;
  zmi_pool *pools[2] = {zmi_pool_new(1), zmi_pool_new(2)};
  assert_true(pools[0] && pools[1]);
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    zm_scope *scope = zm_scope_open();
    call c;
    zm_array *arrays[2 * CHECK_MOST];
    operands_of_row(e, &c); // which have gradients
    zmi_entry_parameters(e, c.params);
    const int nin = zmi_entry_sample(e, ZM_F32, 20000, c.in);
    if (nin < 0) fail_msg("%s: %s", e->name, zm_last_error());
    while (c.count > 0 && c.index[c.count - 1] >= nin) c.count--;
    c.nin = nin;
    int64_t elements = 0;
    for (int k = 0; k < nin; k++) elements += zm_array_size(c.in[k]);
    if (elements > 300000) c.count = 0; // of large matrices the values alone, for the time's sake
    const int count = everything(&c, arrays);
    for (int a = 0; a < count; a++) {
      size_t bytes;
      assert_true(zmi_type_bytes(&arrays[a]->type, &bytes));
      zmi_program *p = zmi_compile(&arrays[a], (const char *[]){"y"}, 1, NULL);
      if (!p) fail_msg("%s: %s", e->name, zm_last_error());
      void *slot = zmi_program_slot(p, "y"), *first = malloc(bytes + 1);
      for (int w = 0; w < 2; w++) {
        memset(slot, 0xa5, bytes);
        zmi_program_play(p, pools[w]);
        if (w == 0) memcpy(first, slot, bytes);
      }
      if (memcmp(first, slot, bytes) != 0) fail_msg("%s: array %d: two workers give other bits than one", e->name, a);
      free(first);
      zmi_program_free(p);
    }
    zm_scope_close(scope);
  }
  zmi_pool_free(pools[0]);
  zmi_pool_free(pools[1]);
}

static const char *const handful[] = {"rmsnorm", "layernorm", "mish_grad", "cumsum_lastdim", "softmax_cross_entropy", "masked_softmax"};

// Values and gradients; an instance that was compiled stays so, so this is the last test. `zmlx kernel test` does it for all rows' values.
static void compiled_gradients_have_the_bits_of_interpreted_ones(void **state) {
  (void)state;
  static const char *const ways[2] = {"interpret", "compile"};
  for (size_t i = 0; i < ZMI_COUNT(handful); i++) {
    zm_scope *scope = zm_scope_open();
    void *kept[2 * CHECK_MOST] = {NULL};
    call c;
    operands_of_row(zmi_catalog_find(handful[i]), &c);
    for (int w = 0; w < 2; w++) {
      zm_array *arrays[2 * CHECK_MOST];
      setenv("ZMLX_KERNELS", ways[w], 1);
      const int count = everything(&c, arrays);
      for (int a = 0; a < count; a++) {
        size_t bytes;
        const void *data = zm_array_data(arrays[a]);
        if (!data) fail_msg("%s: %s", handful[i], zm_last_error());
        assert_true(zmi_type_bytes(&arrays[a]->type, &bytes));
        if (w == 0) memcpy(kept[a] = malloc(bytes + 1), data, bytes);
        if (memcmp(kept[a], data, bytes) != 0) fail_msg("%s: array %d: compiled, the bits are others", handful[i], a);
        if (w == 1) free(kept[a]);
      }
    }
    zm_scope_close(scope);
  }
  setenv("ZMLX_KERNELS", "interpret", 1);
}

// Each allocation fails once: an error of memory, or the result. The sanitizers look for leaks.
static void memory_may_run_out(void **state) {
  (void)state;
  for (size_t i = 0; i < ZMI_COUNT(handful); i++) {
    bool fired = true;
    uint64_t n = 1;
    for (; fired; n++) {
      zm_scope *scope = zm_scope_open();
      call c;
      zm_array *arrays[2 * CHECK_MOST] = {NULL}, *in[CHECK_MOST], *gradients[CHECK_MOST];
      operands_of_row(zmi_catalog_find(handful[i]), &c);
      claimed(&c, in);
      zm_clear_error();
      const uint64_t before = zmi_alloc_count();
      zmi_alloc_fail_at(n);
      zm_status status = zm_vjp(apply_by, &c, in, c.count, NULL, arrays, c.nout, gradients);
      if (status == ZM_OK) status = zm_eval(gradients, (size_t)c.count);
      fired = zmi_alloc_count() - before >= n;
      zmi_alloc_fail_at(0);
      if (status != ZM_OK && (status != ZM_ERROR_MEMORY || !fired))
        fail_msg("%s, allocation %llu: %s", handful[i], (unsigned long long)n, zm_last_error());
      zm_scope_close(scope);
    }
    assert_true(n > 20); // they did fail
  }
}

int main(int argc, char **argv) {
  setenv("ZMLX_KERNELS", "interpret", 1);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gradients_agree_with_tangents_and_differences),
      cmocka_unit_test(rows_without_a_gradient_say_so),
      cmocka_unit_test(batches_are_slices),
      cmocka_unit_test(workers_change_no_bit),
      cmocka_unit_test(memory_may_run_out),
      cmocka_unit_test(compiled_gradients_have_the_bits_of_interpreted_ones),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, open_files, close_files);
}
