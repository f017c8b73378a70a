// Products of matrices: the written order bit by bit for every way in which a product is cut, batches, addmm. Convolutions:
// against MLX, and in the written order.
#include "cases.h"

#include <zmlx/zmlx.h>

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

static json_t *root;
static uint64_t seed = 88172645463325252u;

static float uniform(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (float)(seed >> 40) / (1 << 23) - 1.0f;
}

static void put(void *data, zm_dtype dtype, int64_t i, float v) {
  if (dtype == ZM_F32) ((float *)data)[i] = v;
  if (dtype == ZM_BF16) ((uint16_t *)data)[i] = zmi_f32_to_bf16(v);
  if (dtype == ZM_F16) ((uint16_t *)data)[i] = zmi_f32_to_f16(v);
}

static float get(const void *data, zm_dtype dtype, int64_t i) {
  return (float)cases_value(data, dtype, i);
}

static float rounded(float v, zm_dtype dtype) {
  uint32_t word = 0;
  put(&word, dtype, 0, v);
  return get(&word, dtype, 0);
}

static zm_array *noise(zm_dtype dtype, const int64_t *shape, int rank) {
  int64_t n = 1;
  for (int i = 0; i < rank; i++) n *= shape[i];
  void *data = calloc((size_t)n + 1, zm_dtype_size(dtype));
  for (int64_t i = 0; i < n; i++) put(data, dtype, i, uniform());
  zm_array *a = zm_array_from_data(data, dtype, shape, rank);
  free(data);
  return a;
}

static const zm_dtype float_dtypes[] = {ZM_F32, ZM_BF16, ZM_F16};

// The product of a row and a column, elements `by_a` and `by_b` apart, in the order of docs/numerics.md.
static float product(const void *a, int64_t at_a, int64_t by_a, const void *b, int64_t at_b, int64_t by_b, int64_t k, zm_dtype t) {
  float total = 0, partial = 0;
  for (int64_t q = 0; q < k; q++) {
    partial = fmaf(get(a, t, at_a + q * by_a), get(b, t, at_b + q * by_b), partial);
    if (q % ZMI_RANGE != ZMI_RANGE - 1 && q != k - 1) continue;
    total = q < ZMI_RANGE ? partial : total + partial;
    partial = 0;
  }
  return total;
}

static void the_written_order(void **state) {
  (void)state;
  // Every way to cut: one tile, few rows, few columns, both sides packed once, tiles of all sizes, edges of panels.
  static const int64_t sizes[][3] = {{1, 1, 1},      {1, 700, 1},     {1, 300, 513},  {513, 300, 1},  {4, 257, 300},  {5, 64, 1100},
                                     {33, 256, 300}, {300, 257, 33},  {7, 1, 9},      {97, 520, 258}, {200, 30, 300}, {13, 100, 17},
                                     {2, 520, 64},   {3, 600, 100},   {1, 1025, 257}, {300, 520, 2},  {4, 1, 70},     {6, 300, 1200},
                                     {8, 270, 90},   {9, 270, 40},    {100, 270, 8},  {1, 9000, 19},  {8, 5000, 13},  {1, 40, 9000},
                                     {64, 64, 64},   {100, 100, 100}, {40, 128, 128}, {400, 20, 47},  {17, 600, 144}, {460, 24, 600}};
  for (size_t s = 0; s < ZMI_COUNT(sizes); s++) {
    for (int form = 0; form < 12; form++) { // dtype, and each operand transposed or not
      zm_dtype t = float_dtypes[form / 4];
      int64_t m = sizes[s][0], k = sizes[s][1], n = sizes[s][2];
      if (m * k * n > 1000000 && form / 4 != (int)s % 3) continue;
      zm_scope *scope = zm_scope_open();
      zm_array *a = form & 1 ? noise(t, SHAPE(k, m)) : noise(t, SHAPE(m, k)), *b = form & 2 ? noise(t, SHAPE(n, k)) : noise(t, SHAPE(k, n));
      void *found = play_everywhere("matmul", zm_matmul(form & 1 ? zm_transpose(a, NULL) : a, form & 2 ? zm_transpose(b, NULL) : b));
      for (int64_t i = 0; i < m * n; i++) {
        int64_t row = i / n, col = i % n;
        float wanted =
            product(a->data, form & 1 ? row : row * k, form & 1 ? m : 1, b->data, form & 2 ? col * k : col, form & 2 ? 1 : n, k, t);
        if (get(found, t, i) != rounded(wanted, t)) fail_msg("size %zu, form %d, element %lld", s, form, (long long)i);
      }
      zmi_free(found);
      zm_scope_close(scope);
    }
  }
}

// Batches that repeat, steps that are no step of a matrix, and rows of a batch of matrices by one matrix.
static void batches(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  // Batches of one row, whose other side is read where it lies.
  zm_array *rows = noise(ZM_F32, SHAPE(3, 1, 1, 300)), *sides = noise(ZM_F32, SHAPE(2, 300, 130));
  float *few = play_everywhere("one row", zm_matmul(rows, sides));
  for (int64_t i = 0; i < 3 * 2 * 130; i++) {
    int64_t col = i % 130, of_b = i / 130 % 2, of_a = i / 260;
    assert_true(few[i] == product(rows->data, of_a * 300, 1, sides->data, of_b * 300 * 130 + col, 130, 300, ZM_F32));
  }
  zmi_free(few);

  zm_array *a = noise(ZM_F32, SHAPE(3, 1, 20, 33)), *b = noise(ZM_F32, SHAPE(2, 33, 40)), *c = noise(ZM_F32, SHAPE(33, 9));
  float *y = play_everywhere("batches", zm_matmul(a, b)), *z = play_everywhere("rows", zm_matmul(a, c));
  for (int64_t i = 0; i < 3 * 2 * 20 * 40; i++) {
    int64_t col = i % 40, row = i / 40 % 20, of_b = i / 800 % 2, of_a = i / 1600;
    assert_true(y[i] == product(a->data, (of_a * 20 + row) * 33, 1, b->data, of_b * 33 * 40 + col, 40, 33, ZM_F32));
  }
  for (int64_t i = 0; i < 3 * 20 * 9; i++) assert_true(z[i] == product(a->data, i / 9 * 33, 1, c->data, i % 9, 9, 33, ZM_F32));
  zmi_free(y);
  zmi_free(z);

  // Every other row of every third column, backwards, as either side.
  zm_array *wide = noise(ZM_F32, SHAPE(80, 99));
  zm_array *part = zm_slice(wide, (int64_t[]){79, 0}, (int64_t[]){-81, 99}, (int64_t[]){-2, 3}); // [40, 33]
  assert_int_equal(zm_array_dim(part, 0), 40);
  y = play_everywhere("strided", zm_matmul(part, zm_transpose(part, NULL)));
  for (int64_t i = 0; i < 40 * 40; i++) {
    assert_true(y[i] == product(wide->data, (79 - i / 40 * 2) * 99, 3, wide->data, (79 - i % 40 * 2) * 99, 3, 33, ZM_F32));
  }
  zmi_free(y);
  zm_scope_close(scope);
}

static void addmm_adds_before_rounding(void **state) {
  (void)state;
  for (size_t d = 0; d < 3; d++) {
    for (int form = 0; form < 5; form++) { // c: a scalar, a row, whole; the last: few columns, one row
      zm_dtype t = float_dtypes[d];
      int64_t m = form == 4 ? 1 : 70, k = 300, n = form == 3 ? 3 : 130;
      zm_scope *scope = zm_scope_open();
      zm_array *a = noise(t, SHAPE(m, k)), *b = noise(t, SHAPE(k, n));
      zm_array *c = form == 0 ? noise(t, NULL, 0) : form == 1 ? noise(t, SHAPE(n)) : noise(t, SHAPE(m, n));
      void *found = play_everywhere("addmm", zm_addmm(c, a, b, 0.5, -3));
      for (int64_t i = 0; i < m * n; i++) {
        float y = product(a->data, i / n * k, 1, b->data, i % n, n, k, t), x = get(c->data, t, form == 0 ? 0 : form == 1 ? i % n : i);
        if (get(found, t, i) != rounded(fmaf(-3, x, 0.5f * y), t)) fail_msg("dtype %zu, form %d, element %lld", d, form, (long long)i);
      }
      zmi_free(found);
      zm_scope_close(scope);
    }
  }
}

static void addmm_of_vectors(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *v = noise(ZM_F32, SHAPE(20)), *m = noise(ZM_F32, SHAPE(20, 30)), *c = noise(ZM_F32, SHAPE(30)), *one = noise(ZM_F32, NULL, 0);
  zm_array *rows = zm_addmm(c, v, m, 1, 1), *cols = zm_addmm(c, zm_transpose(m, NULL), v, 1, 1), *dot = zm_addmm(one, v, v, 1, 1);
  assert_true(zm_array_rank(rows) == 1 && zm_array_dim(rows, 0) == 30 && zm_array_rank(cols) == 1 && zm_array_rank(dot) == 0);
  assert_memory_equal(zm_array_data(rows), zm_array_data(cols), 30 * sizeof(float));
  zm_array *large = noise(ZM_F32, SHAPE(2, 30));
  zm_clear_error();
  assert_null(zm_addmm(large, v, m, 1, 1));
  assert_non_null(strstr(zm_last_error(), "addmm: c is float32[2, 30], which is larger than the product float32[30]"));
  zm_scope_close(scope);
}

// ---- convolutions ----

static void numbers_of(const json_t *args, const char *name, int64_t *to) {
  const json_t *list = json_object_get(args, name);
  for (size_t i = 0; i < json_array_size(list); i++) to[i] = json_integer_value(json_array_get(list, i));
}

static zm_conv_options options_of(const json_t *args) {
  zm_conv_options o = {.groups = json_integer_value(json_object_get(args, "groups")), .flip = json_is_true(json_object_get(args, "flip"))};
  numbers_of(args, "stride", o.stride);
  numbers_of(args, "low", o.padding_low);
  numbers_of(args, "high", o.padding_high);
  numbers_of(args, "dilation", o.dilation);
  numbers_of(args, "input_dilation", o.input_dilation);
  return o;
}

static zm_status conv_function(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  out[0] = zm_conv_general(in[0], in[1], user);
  return out[0] ? ZM_OK : zm_last_status();
}

static void convolutions_of_mlx(void **state) {
  (void)state;
  const json_t *cases = json_object_get(root, "conv");
  int gradients = 0;
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *c = json_array_get(cases, i), *in = json_object_get(c, "in"), *wanted = json_object_get(c, "gradients");
    zm_conv_options o = options_of(json_object_get(c, "args"));
    char what[64];
    snprintf(what, sizeof what, "conv %zu", i);
    zm_scope *scope = zm_scope_open();
    zm_array *x[2] = {cases_array(json_array_get(in, 0)), cases_array(json_array_get(in, 1))};
    const double tolerance = zm_array_dtype(x[0]) == ZM_F32 ? 1e-6 : zm_array_dtype(x[0]) == ZM_F16 ? 1e-3 : 8e-3;
    cases_compare(what, zm_conv_general(x[0], x[1], &o), json_object_get(c, "out"), tolerance, 16);
    if (wanted) {
      zm_array *g = cases_array(json_object_get(c, "cotangent")), *y, *found[2];
      assert_int_equal(zm_vjp(conv_function, &o, x, 2, &g, &y, 1, found), ZM_OK);
      for (size_t k = 0; k < 2; k++) cases_compare(what, found[k], json_array_get(wanted, k), 2e-6, 64);
      gradients++;
    }
    zm_scope_close(scope);
  }
  assert_true(gradients > 8);
}

static void convolve_as_mlx(void **state) {
  (void)state;
  const json_t *cases = json_object_get(root, "convolve");
  assert_true(json_array_size(cases) >= 18);
  for (size_t i = 0; i < json_array_size(cases); i++) {
    const json_t *c = json_array_get(cases, i), *in = json_object_get(c, "in");
    const char *mode = json_string_value(json_object_get(c, "mode"));
    char what[64];
    snprintf(what, sizeof what, "convolve %zu (%s)", i, mode);
    zm_scope *scope = zm_scope_open();
    const zm_convolve_mode m = mode[0] == 'f' ? ZM_CONVOLVE_FULL : mode[0] == 's' ? ZM_CONVOLVE_SAME : ZM_CONVOLVE_VALID;
    zm_array *y = zm_convolve(cases_array(json_array_get(in, 0)), cases_array(json_array_get(in, 1)), m);
    cases_compare(what, y, json_object_get(c, "out"), 1e-6, 1);
    zm_scope_close(scope);
  }
  zm_scope *scope = zm_scope_open();
  zm_array *none = zm_zeros(ZM_F32, SHAPE(0)), *one = zm_ones(ZM_F32, SHAPE(1));
  assert_null(zm_convolve(none, one, ZM_CONVOLVE_FULL));
  assert_non_null(strstr(zm_last_error(), "convolve: expected vectors of one element or more, found float32[0]"));
  assert_null(zm_convolve(one, one, (zm_convolve_mode)7));
  assert_non_null(strstr(zm_last_error(), "mode 7 is none"));
  zm_scope_close(scope);
}

// Element x of an image, channel c, or zero: one axis at a time.
static bool inside(const zm_conv_options *o, int d, int64_t out, int64_t k, int64_t kernel, int64_t size, int64_t *at) {
  const int64_t p = out * o->stride[d] + (o->flip ? kernel - 1 - k : k) * o->dilation[d] - o->padding_low[d];
  const int64_t apart = o->input_dilation[d] ? o->input_dilation[d] : 1;
  *at = p / apart;
  return p >= 0 && p % apart == 0 && *at < size;
}

// Two-dimensional, in the written order, whatever way the op goes: products in tiles, with few filters, by channel.
static void convolutions_in_the_written_order(void **state) {
  (void)state;
  static const struct {
    int64_t images, high, wide, groups, per, filters, kernel; // per: channels of a group
    zm_conv_options o;
  } rows[] = {
      {2, 9, 11, 1, 30, 40, 3, {.stride = {1, 1}, .dilation = {1, 1}, .padding_low = {1, 1}, .padding_high = {1, 1}}},
      {1, 20, 21, 1, 3, 5, 7, {.stride = {2, 3}, .dilation = {1, 1}, .padding_low = {3, 2}, .padding_high = {3, 4}}},
      {1, 12, 12, 4, 7, 8, 3, {.stride = {1, 1}, .dilation = {2, 1}, .padding_low = {2, 0}, .padding_high = {0, 1}, .groups = 4}},
      {2, 8, 9, 300, 1, 300, 3, {.stride = {1, 2}, .dilation = {1, 1}, .padding_low = {1, 1}, .padding_high = {1, 1}, .groups = 300}},
      {1, 18, 18, 5, 1, 15, 17, {.stride = {1, 1}, .dilation = {1, 1}, .padding_low = {1, 0}, .padding_high = {0, 1}, .groups = 5}},
      {2, 6, 7, 1, 33, 20, 1, {.stride = {1, 1}, .dilation = {1, 1}}},
      // few channels and filters: along the last axis
      {2, 9, 150, 1, 1, 1, 3, {.stride = {1, 1}, .dilation = {1, 1}, .padding_low = {1, 1}, .padding_high = {1, 1}}},
      {1, 20, 40, 1, 1, 6, 17, {.stride = {2, 1}, .dilation = {1, 1}, .padding_low = {3, 9}, .padding_high = {3, 2}}},
      {2, 8, 30, 1, 3, 16, 5, {.stride = {1, 1}, .dilation = {1, 3}, .padding_low = {2, -2}, .padding_high = {0, 1}, .flip = true}},
      {1, 5, 17, 1, 7, 4, 7, {.stride = {1, 1}, .dilation = {1, 1}, .padding_low = {5, 5}, .padding_high = {5, 8},
                              .input_dilation = {2, 3}}},
      {2, 4, 70, 1, 2, 3, 3, {.stride = {3, 1}, .dilation = {2, 5}, .padding_low = {4, 13}, .padding_high = {4, 0},
                              .input_dilation = {2, 2}, .flip = true}},
      // dilated x of many channels, filters or both: by phases
      {2, 7, 9, 1, 33, 20, 4, {.stride = {1, 1}, .dilation = {1, 1}, .padding_low = {3, 2}, .padding_high = {2, 3},
                               .input_dilation = {2, 3}, .flip = true}},
      {1, 5, 6, 1, 300, 7, 3, {.stride = {3, 1}, .dilation = {2, 1}, .padding_low = {1, 4}, .padding_high = {6, 0},
                               .input_dilation = {2, 4}}},
      {2, 6, 9, 3, 9, 42, 7, {.stride = {2, 4}, .dilation = {3, 2}, .padding_low = {9, 12}, .padding_high = {9, 3},
                              .input_dilation = {4, 6}, .groups = 3}},
      {1, 4, 30, 1, 10, 140, 5, {.stride = {1, 1}, .dilation = {1, 2}, .padding_low = {2, -3}, .padding_high = {2, 9},
                                 .input_dilation = {1, 2}}},
      {2, 5, 6, 40, 1, 40, 3, {.stride = {1, 1}, .dilation = {1, 1}, .padding_low = {1, 2}, .padding_high = {1, 2},
                               .input_dilation = {2, 3}, .groups = 40}},
      // many filters of few channels: places that follow one another are cut out together
      {1, 9, 23, 1, 2, 20, 5, {.stride = {1, 2}, .dilation = {2, 1}, .padding_low = {4, 3}, .padding_high = {0, 4}}},
  };
  for (size_t r = 0; r < ZMI_COUNT(rows) * 3; r++) {
    const zm_conv_options *o = &rows[r / 3].o;
    const zm_dtype t = float_dtypes[r % 3];
    const int64_t h = rows[r / 3].high, w = rows[r / 3].wide, per = rows[r / 3].per, f = rows[r / 3].filters, kernel = rows[r / 3].kernel;
    const int64_t channels = per * rows[r / 3].groups, each = f / rows[r / 3].groups;
    zm_scope *scope = zm_scope_open();
    zm_array *x = noise(t, SHAPE(rows[r / 3].images, h, w, channels)), *k = noise(t, SHAPE(f, kernel, kernel, per));
    zm_array *y = zm_conv_general(x, k, o);
    void *found = play_everywhere("conv", y);
    const int64_t oh = zm_array_dim(y, 1), ow = zm_array_dim(y, 2);
    for (int64_t i = 0; i < zm_array_size(y); i += i % 7 + 1) { // most of them
      int64_t filter = i % f, ox = i / f % ow, oy = i / f / ow % oh, image = i / f / ow / oh, count = 0;
      float total = 0, partial = 0;
      for (int64_t q = 0; q < kernel * kernel * per; q++) {
        int64_t c = q % per, kx = q / per % kernel, ky = q / per / kernel, at_y, at_x;
        bool there = inside(o, 0, oy, ky, kernel, h, &at_y);
        there = inside(o, 1, ox, kx, kernel, w, &at_x) && there;
        int64_t from = ((image * h + at_y) * w + at_x) * channels + filter / each * per + c;
        partial = fmaf(there ? get(x->data, t, from) : 0, get(k->data, t, filter * kernel * kernel * per + q), partial);
        if (++count % ZMI_RANGE != 0 && q != kernel * kernel * per - 1) continue;
        total = count <= ZMI_RANGE ? partial : total + partial;
        partial = 0;
      }
      if (get(found, t, i) != rounded(total, t)) fail_msg("row %zu, element %lld", r, (long long)i);
    }
    zmi_free(found);
    zm_scope_close(scope);
  }
}

// ---- taps that meet no element add nothing: NaN and infinities of weights and cotangents don't spread through them ----

typedef struct strange_row {
  int space;
  int64_t size[2], kernel[2], groups, per, each; // per: channels of a group, each: filters of one
  zm_conv_options o;
} strange_row;

static int64_t along(const int64_t *list, const strange_row *r, int d, int64_t none) { // axis d of two; the first one of one is not there
  const int at = d - (2 - r->space);
  return at < 0 || (list[at] == 0 && none == 1) ? none : list[at];
}

static zm_conv_options two_axes(const strange_row *r) {
  zm_conv_options o = {.flip = r->o.flip, .groups = r->groups};
  for (int d = 0; d < 2; d++) {
    o.stride[d] = along(r->o.stride, r, d, 1);
    o.dilation[d] = along(r->o.dilation, r, d, 1);
    o.input_dilation[d] = along(r->o.input_dilation, r, d, 1);
    o.padding_low[d] = along(r->o.padding_low, r, d, 0);
  }
  return o;
}

// y, dx and dw, of the taps that meet an element alone.
static void met_sums(const strange_row *r, zm_array *const *in, zm_array *g, double *const *sums) {
  const zm_conv_options o = two_axes(r);
  const float *x = in[0]->data, *w = in[1]->data, *c = g->data;
  const int64_t h = along(r->size, r, 0, 1), wide = along(r->size, r, 1, 1), kh = along(r->kernel, r, 0, 1), kw = along(r->kernel, r, 1, 1);
  const int64_t filters = r->groups * r->each, channels = r->groups * r->per, out = zm_array_dim(g, r->space);
  for (int64_t line = 0; line < zm_array_size(g) / filters; line++) {
    const int64_t oh = r->space == 2 ? zm_array_dim(g, 1) : 1, ox = line % out, oy = line / out % oh, image = line / out / oh;
    for (int64_t tap = 0; tap < kh * kw; tap++) {
      int64_t py, px;
      if (!inside(&o, 0, oy, tap / kw, kh, h, &py) || !inside(&o, 1, ox, tap % kw, kw, wide, &px)) continue;
      for (int64_t q = 0; q < filters * r->per; q++) {
        const int64_t filter = q / r->per, from = ((image * h + py) * wide + px) * channels + filter / r->each * r->per + q % r->per;
        const int64_t weight = (filter * kh * kw + tap) * r->per + q % r->per, to = line * filters + filter;
        sums[0][to] += (double)x[from] * (double)w[weight];
        sums[1][from] += (double)c[to] * (double)w[weight];
        sums[2][weight] += (double)c[to] * (double)x[from];
      }
    }
  }
}

static void compare_strange(const char *what, zm_array *y, const double *wanted) {
  float *found = play_everywhere(what, y);
  for (int64_t i = 0; i < zm_array_size(y); i++) {
    const double f = (double)found[i], w = wanted[i];
    if (isfinite(w) ? !(fabs(f - w) <= 1e-4) : isnan(w) ? !isnan(f) : f != w)
      fail_msg("%s: element %lld is %g, wanted %g", what, (long long)i, f, w);
  }
  zmi_free(found);
}

// `strange` at place `at` (of `run` elements) of operand `operand`: x, the weight or the cotangent.
static void strange_case(const strange_row *r, size_t index, int operand, float strange, bool last, int64_t run) {
  static const char *const names[] = {"x", "the weight", "the cotangent"};
  zm_scope *scope = zm_scope_open();
  zm_conv_options o = r->o;
  o.groups = r->groups;
  int64_t x[4] = {2}, w[4] = {r->groups * r->each}, out[4];
  for (int d = 0; d < r->space; d++) x[1 + d] = r->size[d], w[1 + d] = r->kernel[d];
  x[1 + r->space] = r->groups * r->per;
  w[1 + r->space] = r->per;
  zm_array *in[3] = {noise(ZM_F32, x, r->space + 2), noise(ZM_F32, w, r->space + 2)}, *y = zm_conv_general(in[0], in[1], &o), *found[2];
  assert_non_null(y);
  for (int d = 0; d < r->space + 2; d++) out[d] = zm_array_dim(y, d);
  in[2] = noise(ZM_F32, out, r->space + 2);
  float *data = in[operand]->data;
  const int64_t n = zm_array_size(in[operand]);
  for (int64_t i = 0; i < ZMI_MIN(run, n); i++) data[last ? n - 1 - i : i] = strange;
  double *sums[3];
  for (int i = 0; i < 3; i++) sums[i] = calloc((size_t)zm_array_size(i == 0 ? y : in[i - 1]), sizeof(double));
  met_sums(r, in, in[2], sums);
  assert_int_equal(zm_vjp(conv_function, &o, in, 2, &in[2], &y, 1, found), ZM_OK);
  zm_array *const results[3] = {y, found[0], found[1]};
  for (int i = 0; i < 3; i++) {
    char what[96];
    snprintf(what, sizeof what, "row %zu, %g in %s, %s", index, (double)strange, names[operand], i == 0 ? "y" : i == 1 ? "dx" : "dw");
    compare_strange(what, results[i], sums[i]);
    free(sums[i]);
  }
  zm_scope_close(scope);
}

static void taps_without_elements_add_nothing(void **state) {
  (void)state;
  static const strange_row rows[] = {
      {1, {8}, {2}, 1, 1, 1, {.stride = {2}}},
      {1, {9}, {3}, 1, 2, 3, {.dilation = {2}, .padding_low = {2}, .padding_high = {1}}},
      {1, {20}, {3}, 1, 1, 2, {.stride = {3}, .padding_low = {1}, .padding_high = {2}, .flip = true}},
      {1, {18}, {4}, 1, 3, 2, {.padding_low = {3}, .padding_high = {2}, .input_dilation = {2}}},
      {1, {40}, {5}, 1, 70, 20, {.stride = {2}, .padding_low = {2}, .padding_high = {2}}},
      {1, {11}, {3}, 2, 3, 2, {.stride = {2}, .dilation = {3}, .padding_low = {4}, .padding_high = {1}, .input_dilation = {3}}},
      {2, {5, 7}, {3, 2}, 1, 2, 20, {.stride = {2, 1}, .padding_low = {1, 1}, .padding_high = {1, 0}}},
      {2, {6, 7}, {3, 3}, 2, 20, 17, {.stride = {2, 3}, .padding_low = {1, 2}, .padding_high = {1, 1}, .flip = true}},
      {2, {6, 15}, {2, 3}, 1, 1, 3, {.dilation = {1, 2}, .padding_low = {1, 3}, .padding_high = {0, 2}, .input_dilation = {2, 1}}},
      {2, {5, 6}, {3, 3}, 30, 1, 1, {.stride = {2, 1}, .padding_low = {1, 1}, .padding_high = {1, 1}}},
      {2, {5, 6}, {2, 3}, 4, 1, 2, {.dilation = {2, 1}, .padding_low = {-1, 1}, .padding_high = {2, 1}, .input_dilation = {1, 2}}},
      {2, {4, 5}, {1, 1}, 1, 3, 4, {.stride = {2, 2}, .padding_low = {1, 0}, .padding_high = {0, 2}}},
      {2, {3, 3}, {8, 8}, 1, 2, 13, {.stride = {4, 6}, .padding_low = {7, 7}, .padding_high = {6, 7}}},
  };
  const float values[] = {NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < ZMI_COUNT(rows) * 3 * ZMI_COUNT(values); i++) {
    const int operand = (int)(i / ZMI_COUNT(values) % 3);
    const size_t row = i / ZMI_COUNT(values) / 3;
    for (int last = 0; last < 2; last++)
      strange_case(&rows[row], row, operand, values[i % ZMI_COUNT(values)], last == 1, 1 + (int64_t)i % 3);
  }
}

// A weight of NaN between finite ones, as it is seen: gradients by x of strides.
static void a_gradient_of_strides(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  float numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8}, weights[2] = {1, NAN}, infinite[1] = {INFINITY};
  zm_array *in[2] = {zm_array_from_data(numbers, ZM_F32, SHAPE(1, 8, 1)), zm_array_from_data(weights, ZM_F32, SHAPE(1, 2, 1))}, *y,
           *found[2];
  zm_conv_options o = {.stride = {2}};
  assert_int_equal(zm_vjp(conv_function, &o, in, 2, NULL, &y, 1, found), ZM_OK);
  compare_strange("stride 2", found[0], (const double[]){1, NAN, 1, NAN, 1, NAN, 1, NAN});
  o = (zm_conv_options){.dilation = {2}};
  assert_int_equal(zm_vjp(conv_function, &o, in, 2, NULL, &y, 1, found), ZM_OK);
  compare_strange("dilation 2", found[0], (const double[]){1, 1, NAN, NAN, NAN, NAN, NAN, NAN});
  o = (zm_conv_options){.stride = {3}};
  in[1] = zm_array_from_data(infinite, ZM_F32, SHAPE(1, 1, 1));
  assert_int_equal(zm_vjp(conv_function, &o, in, 2, NULL, &y, 1, found), ZM_OK);
  compare_strange("stride 3", found[0], (const double[]){INFINITY, 0, 0, INFINITY, 0, 0, INFINITY, 0});
  zm_scope_close(scope);
}

static void conv_refuses(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *x = noise(ZM_F32, SHAPE(1, 5, 4)), *w = noise(ZM_F32, SHAPE(6, 3, 4)), *odd = noise(ZM_F32, SHAPE(6, 3, 3));
  const struct {
    zm_array *x, *w;
    zm_conv_options o;
    const char *says;
  } rows[] = {
      {x, odd, {.groups = 1}, "conv: 1 groups of float32[1, 5, 4] need a weight of 4 channels"},
      {x, w, {.groups = 3}, "conv: 3 groups of"},
      {x, w, {.groups = -1}, "conv: -1 groups"},
      {x, w, {.stride = {-1}}, "conv: axis 0: stride -1"},
      {x, w, {.dilation = {3}}, "conv: axis 0: the kernel spans 7 places, the padded input has 5"},
      {x, w, {.padding_low = {-4}}, "conv: axis 0: the kernel spans 3 places, the padded input has 1"},
      {x, w, {.padding_low = {INT64_MAX}}, "conv: axis 0: padding"},
      {zm_reshape(x, SHAPE(20)), w, {.groups = 1}, "conv: x must be [N, spatial..., C]"},
      {x, zm_reshape(w, SHAPE(6, 12)), {.groups = 1}, "conv: expected float arrays of rank 3"},
      {zm_astype(x, ZM_I32), zm_astype(w, ZM_I32), {.groups = 1}, "conv: expected float arrays"},
  };
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    zm_clear_error();
    assert_null(zm_conv_general(rows[i].x, rows[i].w, &rows[i].o));
    if (!strstr(zm_last_error(), rows[i].says)) fail_msg("row %zu says: %s", i, zm_last_error());
  }
  zm_clear_error();
  assert_null(zm_conv2d(x, w, NULL, NULL, NULL, 1));
  assert_non_null(strstr(zm_last_error(), "conv2d: x must have rank 4"));
  zm_scope_close(scope);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(convolutions_of_mlx),
      cmocka_unit_test(convolutions_in_the_written_order),
      cmocka_unit_test(taps_without_elements_add_nothing),
      cmocka_unit_test(a_gradient_of_strides),
      cmocka_unit_test(conv_refuses),
      cmocka_unit_test(convolve_as_mlx),
      cmocka_unit_test(the_written_order),
      cmocka_unit_test(batches),
      cmocka_unit_test(addmm_adds_before_rounding),
      cmocka_unit_test(addmm_of_vectors),
  };
  root = cases_load("tests/data/linear_cases.json");
  if (!root || play_open() != 0) return 1;
  int failed = cmocka_run_group_tests_name("linear", tests, NULL, NULL);
  play_close();
  json_decref(root);
  return failed;
}
