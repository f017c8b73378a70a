// Checks that know nothing of a row but its text of shapes (catalog_shapes.h), bit by bit: strided operands against contiguous ones, dims
// of 0, 1 and odd, more than a million elements whole and in pieces, one worker and several, a NaN in one row. The catalog's rows go
// through them, and operations of the array room that are written as such rows.
#ifndef ZMLX_TEST_SHAPE_CHECKS_H
#define ZMLX_TEST_SHAPE_CHECKS_H

#include "catalog_shapes.h"

static const zm_dtype floats[] = {ZM_F32, ZM_F16, ZM_BF16};

// ---- what is checked: set by the file that includes this; each table ends with an entry without a name ----

static const zmi_entry *(*row_at)(size_t i);

// Where a dim means nothing if it is 0, or 1, and what is said then. All else is taken by all rows.
typedef struct refusal {
  const char *name, *dim;
  int up_to;
  const char *words;
} refusal;
static const refusal *refusals;

// What results over nothing are: all elements of result `result`.
typedef struct nothing {
  const char *name, *dim;
  int result;
  double value;
} nothing;
static const nothing *empty;

// Rows whose results do not come in pieces, and why; or dims that have a limit.
typedef struct exception {
  const char *name, *dim;
} exception;
static const exception *limited, *wholes;

// ---- comparing ----

// Which NaN a float32 is, is not promised.
static bool same_data(const void *a, const void *b, zm_dtype dtype, size_t bytes) {
  if (bytes == 0 || memcmp(a, b, bytes) == 0) return true;
  const uint32_t *x = a, *y = b;
  if (dtype != ZM_F32) return false;
  for (size_t i = 0; i < bytes / 4; i++) {
    if (x[i] != y[i] && ((x[i] & 0x7fffffffu) <= 0x7f800000u || (y[i] & 0x7fffffffu) <= 0x7f800000u)) return false;
  }
  return true;
}

static const void *data_of(const char *what, zm_array *a, size_t *bytes) {
  a = zm_contiguous(a);
  const void *data = a ? zm_array_data(a) : NULL;
  if (!data) fail_msg("%s: %s", what, zm_last_error());
  assert_true(zmi_type_bytes(&a->type, bytes));
  return data;
}

static void must_be_same(const char *what, zm_array *a, zm_array *b) {
  size_t m, n;
  const void *x = data_of(what, a, &m), *y = data_of(what, b, &n);
  char ta[128], tb[128];
  if (!zmi_type_equal(&a->type, &b->type)) fail_msg("%s: %s and %s", what, zmi_type_text(&a->type, ta), zmi_type_text(&b->type, tb));
  if (!same_data(x, y, a->type.dtype, n)) fail_msg("%s: other bits", what);
}

// ---- strided operands ----

typedef struct call {
  const zmi_entry *entry;
  double params[ZMI_CATALOG_PARAMS];
  int nin, nout, count, index[ZMI_CATALOG_IN]; // the operands that are differentiated by
  zm_array *in[ZMI_CATALOG_IN];
} call;

static zm_status apply(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const call *c = user;
  zm_array *all[ZMI_CATALOG_IN];
  (void)nin, (void)nout;
  memcpy(all, c->in, sizeof all);
  for (int i = 0; i < c->count; i++) all[c->index[i]] = in[i];
  return zmi_entry_call(c->entry, all, c->nin, c->params, out);
}

static zm_array *cotangent_of(zm_array *y, int o, int layout, bool strided) {
  const int64_t n = zm_array_size(y);
  double *x = calloc((size_t)n + 1, sizeof *x);
  for (int64_t i = 0; i < n && is_float(y->type.dtype); i++) x[i] = (double)(hashed(77 + (uint32_t)o, (uint32_t)i) % 65) / 32 - 1;
  zm_array *c = floats_of(x, y->type.dtype, y->type.shape, y->type.rank, n), *s = layouts[layout].make(c);
  free(x);
  if (!strided) s = zm_contiguous(s);
  if (!s || (!strided && zm_eval(&s, 1) != ZM_OK)) fail_msg("cotangent: %s", zm_last_error());
  return s;
}

// Results and gradients; their number. Bit k of `which`: operand k is strided, with them the cotangents.
static int results_of(const char *what, const call *given, int layout, unsigned which, zm_array **made) {
  call c = *given;
  zm_array *in[ZMI_CATALOG_IN], *cotangents[ZMI_CATALOG_OUT] = {NULL};
  for (int k = 0; k < c.nin; k++) {
    zm_array *s = layouts[layout].make(given->in[k]);
    if (!(which >> k & 1)) s = zm_contiguous(s); // of the same elements
    if (!s || (!(which >> k & 1) && zm_eval(&s, 1) != ZM_OK)) fail_msg("%s: operand %d: %s", what, k, zm_last_error());
    c.in[k] = s;
  }
  for (int i = 0; i < c.count; i++) in[i] = c.in[c.index[i]];
  zm_status status = apply(&c, in, c.count, made, c.nout);
  if (status == ZM_OK && c.count > 0) {
    for (int o = 0; o < c.nout; o++) cotangents[o] = cotangent_of(made[o], o, layout, which != 0);
    status = zm_vjp(apply, &c, in, c.count, cotangents, made, c.nout, made + c.nout);
  }
  if (status == ZM_OK) status = zm_eval(made, (size_t)(c.nout + c.count));
  if (status != ZM_OK) fail_msg("%s: %s", what, zm_last_error());
  return c.nout + c.count;
}

static void check_layouts(const char *name, const call *c, zm_dtype dtype) {
  enum { MOST = ZMI_CATALOG_IN + ZMI_CATALOG_OUT };
  char what[160];
  for (int l = 0; l < (int)ZMI_COUNT(layouts); l++) {
    zm_array *plain[MOST], *strided[MOST];
    zm_scope *scope = zm_scope_open();
    snprintf(what, sizeof what, "%s (%s), %s", name, zm_dtype_name(dtype), layouts[l].name);
    const int count = results_of(what, c, l, 0, plain);
    const unsigned all = (1u << c->nin) - 1;
    for (int k = -1; k < (c->nin > 1 && l == 1 ? c->nin : 0); k++) { // all of them, and each alone
      assert_int_equal(results_of(what, c, l, k < 0 ? all : 1u << k, strided), count);
      for (int o = 0; o < count; o++) {
        snprintf(what, sizeof what, "%s (%s), %s, operand %d (-1: all): array %d", name, zm_dtype_name(dtype), layouts[l].name, k, o);
        must_be_same(what, plain[o], strided[o]);
      }
    }
    zm_scope_close(scope);
  }
}

// ---- shapes ----

static const int64_t usual[SHAPE_NAMES] = {3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4};

// Bit k: operand k has a gradient in one of the row's stored cases.
static unsigned differentiable(const char *row) {
  unsigned mask = 0;
  for (size_t f = 0; f < ZMI_COUNT(files); f++) {
    for (size_t i = 0; i < json_array_size(roots[f]); i++) {
      const json_t *json = json_array_get(roots[f], i), *gradients = json_object_get(json, "grad");
      if (strcmp(json_string_value(json_object_get(json, "row")), row) != 0) continue;
      for (size_t k = 0; k < json_array_size(gradients); k++) mask |= (unsigned)json_is_array(json_array_get(gradients, k)) << k;
    }
  }
  return mask;
}

static void make_call(const row_shapes *r, const int64_t *sizes, zm_dtype dtype, call *c) {
  *c = (call){.entry = r->entry, .nin = r->nin, .nout = r->nout};
  params_of(r, sizes, c->params);
  for (int k = 0; k < r->nin; k++) c->in[k] = made(&r->in[k], sizes, dtype, 500 + (uint32_t)k);
}

static void check_result_shapes(const char *what, const row_shapes *r, const int64_t *sizes, zm_array **out) {
  for (int o = 0; o < r->nout; o++) {
    int64_t shape[ZM_MAX_RANK];
    char text[128];
    size_t bytes;
    shape_with(&r->out[o], sizes, shape);
    bool same = out[o]->type.rank == r->out[o].rank;
    for (int i = 0; same && i < r->out[o].rank; i++) same = out[o]->type.shape[i] == shape[i];
    if (!same) fail_msg("%s: result %d is %s", what, o, zmi_type_text(&out[o]->type, text));
    data_of(what, out[o], &bytes);
  }
}

static void check_gradient_shapes(const char *what, call *c) {
  zm_array *in[ZMI_CATALOG_IN], *out[ZMI_CATALOG_OUT], *gradients[ZMI_CATALOG_IN];
  const unsigned mask = differentiable(c->entry->name);
  size_t bytes;
  for (int k = 0; k < c->nin; k++) {
    if (mask >> k & 1) in[c->count] = c->in[k], c->index[c->count++] = k;
  }
  if (c->count == 0) return;
  if (zm_vjp(apply, c, in, c->count, NULL, out, c->nout, gradients) != ZM_OK) fail_msg("%s: gradient: %s", what, zm_last_error());
  for (int i = 0; i < c->count; i++) {
    if (!zmi_type_equal(&gradients[i]->type, &in[i]->type)) fail_msg("%s: a gradient of another type, operand %d", what, c->index[i]);
    data_of(what, gradients[i], &bytes);
  }
}

static const char *refusal_of(const char *name, const char *dim, int64_t size) {
  for (size_t i = 0; refusals[i].name; i++) {
    if (strcmp(refusals[i].name, name) == 0 && strcmp(refusals[i].dim, dim) == 0 && size <= refusals[i].up_to) return refusals[i].words;
  }
  return NULL;
}

static double number_at(const void *data, zm_dtype dtype, int64_t i) {
  if (dtype == ZM_F32) return ((const float *)data)[i];
  const uint16_t h = ((const uint16_t *)data)[i];
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(h) : zmi_f16_to_f32(h);
}

static int check_empty(const char *what, const char *name, const char *dim, zm_array **out) {
  int checked = 0;
  for (size_t i = 0; empty[i].name; i++) {
    if (strcmp(empty[i].name, name) != 0 || strcmp(empty[i].dim, dim) != 0) continue;
    size_t bytes;
    zm_array *y = out[empty[i].result];
    const void *data = data_of(what, y, &bytes);
    assert_true(zm_array_size(y) > 0);
    for (int64_t k = 0; k < zm_array_size(y); k++) {
      const double v = number_at(data, y->type.dtype, k);
      if (isnan(empty[i].value) ? !isnan(v) : v != empty[i].value) fail_msg("%s: found %g, expected %g", what, v, empty[i].value);
    }
    checked++;
  }
  return checked;
}

// Each dim in turn is 0, 1 and odd, the others are as usual: results and gradients have their shapes, and what is said above holds.
static void dims_of_every_size(void **state) {
  (void)state;
  static const int64_t dims[] = {0, 1, 7};
  const zmi_entry *e;
  int refused = 0, checked = 0;
  for (size_t i = 0; (e = row_at(i)); i++) {
    row_shapes r;
    read_row(e, &r);
    for (int t = 0; t < 3; t++) {
      for (int d = 0; d < r.names * 3; d++) {
        int64_t sizes[SHAPE_NAMES];
        char what[160];
        zm_scope *scope = zm_scope_open();
        zm_array *out[ZMI_CATALOG_OUT];
        call c;
        memcpy(sizes, usual, sizeof sizes);
        sizes[d / 3] = dims[d % 3];
        snprintf(what, sizeof what, "%s (%s), %s = %d", e->name, zm_dtype_name(floats[t]), r.name[d / 3], (int)dims[d % 3]);
        const char *words = refusal_of(e->name, r.name[d / 3], dims[d % 3]);
        make_call(&r, sizes, floats[t], &c);
        zm_clear_error();
        const zm_status status = zmi_entry_call(e, c.in, c.nin, c.params, out);
        if (words) {
          if (status == ZM_OK) fail_msg("%s: not refused", what);
          if (!strstr(zm_last_error(), words)) fail_msg("%s: \"%s\" does not say: %s", what, zm_last_error(), words);
          refused++;
        } else {
          if (status != ZM_OK) fail_msg("%s: %s", what, zm_last_error());
          check_result_shapes(what, &r, sizes, out);
          if (dims[d % 3] == 0) checked += check_empty(what, e->name, r.name[d / 3], out);
          check_gradient_shapes(what, &c);
        }
        zm_scope_close(scope);
      }
    }
  }
  int listed = 0;
  for (size_t i = 0; refusals[i].name; i++) listed += 1 + refusals[i].up_to;
  assert_int_equal(refused, 3 * listed); // each line of the tables is about something
  int nothings = 0;
  while (empty[nothings].name) nothings++;
  assert_int_equal(checked, 3 * nothings);
}

// The same elements, otherwise in memory, of shapes in which no dim is another's.
static void layouts_of_shapes(void **state) {
  (void)state;
  static const int64_t apart[SHAPE_NAMES] = {3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6};
  const zmi_entry *e;
  for (size_t i = 0; (e = row_at(i)); i++) {
    row_shapes r;
    read_row(e, &r);
    for (int t = 0; t < 3; t++) {
      zm_scope *scope = zm_scope_open();
      call c;
      make_call(&r, apart, floats[t], &c);
      check_layouts(e->name, &c, floats[t]);
      zm_scope_close(scope);
    }
  }
}

// ---- large ----

// The dim by which results come in pieces, -1 if there is none; the one that grows then is the first operand's first.
static int along_of(const row_shapes *r) {
  const int t = row_text_of(r->entry->name);
  const char *name = t >= 0 && row_texts[t].along ? row_texts[t].along : "A";
  for (size_t i = 0; wholes[i].name; i++) {
    if (strcmp(wholes[i].name, r->entry->name) == 0) return -1;
  }
  if (!*name) {
    assert_non_null(row_texts[t].why);
    return -1;
  }
  for (int k = 0; k < r->names; k++) {
    if (strcmp(r->name[k], name) == 0) return k;
  }
  fail_msg("%s: no dim %s: say in row_texts by which dim results come in pieces", r->entry->name, name);
  return -1;
}

// Places [first, first + n) of a named dim.
static zm_array *part_of(zm_array *a, const shape_operand *o, int name, int64_t first, int64_t n) {
  int64_t start[ZM_MAX_RANK] = {0}, stop[ZM_MAX_RANK];
  for (int i = 0; i < o->rank; i++) {
    stop[i] = a->type.shape[i];
    if (o->dim[i].name[0] != name) continue;
    assert_int_equal(o->dim[i].terms, 1);
    start[i] = o->dim[i].factor[0] * first;
    stop[i] = o->dim[i].factor[0] * (first + n);
  }
  return zm_slice(a, start, stop, NULL);
}

// Results of the places [first, first + n) alone against that part of the whole.
static void check_piece(const char *what, const row_shapes *r, const call *whole, zm_array **results, const int64_t *sizes, int along,
                        int64_t first, int64_t n) {
  int64_t fewer[SHAPE_NAMES];
  char name[200];
  zm_scope *scope = zm_scope_open();
  zm_array *out[ZMI_CATALOG_OUT];
  call c = *whole;
  memcpy(fewer, sizes, sizeof fewer);
  fewer[along] = n;
  params_of(r, fewer, c.params);
  for (int k = 0; k < r->nin; k++) c.in[k] = part_of(whole->in[k], &r->in[k], along, first, n);
  if (zmi_entry_call(r->entry, c.in, c.nin, c.params, out) != ZM_OK) fail_msg("%s: %s", what, zm_last_error());
  check_result_shapes(what, r, fewer, out);
  for (int o = 0; o < r->nout; o++) {
    snprintf(name, sizeof name, "%s: places %lld to %lld alone, result %d", what, (long long)first, (long long)(first + n - 1), o);
    must_be_same(name, zm_contiguous(part_of(results[o], &r->out[o], along, first, n)), out[o]);
  }
  zm_scope_close(scope);
}

// Plays the results with each of the pools and gives them as arrays.
static void play(const char *what, const row_shapes *r, const call *c, zmi_pool *const *pools, int count, zm_array **results) {
  static const char *const names[ZMI_CATALOG_OUT] = {"y0", "y1", "y2", "y3", "y4", "y5", "y6", "y7"};
  zm_array *out[ZMI_CATALOG_OUT];
  size_t bytes;
  if (zmi_entry_call(r->entry, c->in, c->nin, c->params, out) != ZM_OK) fail_msg("%s: %s", what, zm_last_error());
  zmi_program *p = zmi_compile(out, names, (size_t)r->nout, NULL);
  if (!p) fail_msg("%s: %s", what, zm_last_error());
  for (int w = 0; w < count; w++) {
    for (int o = 0; o < r->nout; o++) {
      assert_true(zmi_type_bytes(&out[o]->type, &bytes));
      memset(zmi_program_slot(p, names[o]), 0xa5, bytes);
    }
    zmi_program_play(p, pools[w]);
    for (int o = 0; o < r->nout; o++) {
      const zmi_type *t = &out[o]->type;
      assert_true(zmi_type_bytes(t, &bytes));
      const void *data = zmi_program_slot(p, names[o]);
      if (w == 0 && !(results[o] = zm_array_from_data(data, t->dtype, t->shape, t->rank))) fail_msg("%s: %s", what, zm_last_error());
      if (memcmp(zm_array_data(results[o]), data, bytes) != 0) fail_msg("%s: other bits with more workers, result %d", what, o);
    }
  }
  zmi_program_free(p);
}

static bool may_grow(const row_shapes *r, int name) {
  for (size_t i = 0; limited[i].name && name >= 0; i++) {
    if (strcmp(r->entry->name, limited[i].name) == 0 && strcmp(r->name[name], limited[i].dim) == 0) return false;
  }
  return name >= 0;
}

static int64_t elements_of(const row_shapes *r, const int64_t *sizes) { // of operands and results
  int64_t shape[ZM_MAX_RANK], sum = 0;
  for (int k = 0; k < r->nin; k++) sum += shape_with(&r->in[k], sizes, shape);
  for (int o = 0; o < r->nout; o++) sum += shape_with(&r->out[o], sizes, shape);
  return sum;
}

static void check_large(const row_shapes *r, zm_dtype dtype, int64_t many, int along, int grows, zmi_pool *const *pools, int workers) {
  int64_t sizes[SHAPE_NAMES];
  char what[160];
  zm_scope *scope = zm_scope_open();
  zm_array *results[ZMI_CATALOG_OUT];
  call c;
  for (int k = 0; k < SHAPE_NAMES; k++) sizes[k] = 5;
  sizes[grows] = 64;
  while (elements_of(r, sizes) <= many) sizes[grows] += ZMI_MAX(sizes[grows] / 16, 1);
  snprintf(what, sizeof what, "%s (%s), %s = %lld", r->entry->name, zm_dtype_name(dtype), r->name[grows], (long long)sizes[grows]);
  make_call(r, sizes, dtype, &c);
  play(what, r, &c, pools, workers, results);
  if (along >= 0) {
    const int64_t n = sizes[along];
    if (grows == along) {
      check_piece(what, r, &c, results, sizes, along, 0, 1);
      check_piece(what, r, &c, results, sizes, along, n / 3, 37);
    }
    check_piece(what, r, &c, results, sizes, along, n - 1, 1);
  }
  zm_scope_close(scope);
}

// More than a million elements (a dtype in turn, the others fewer): with one worker and with 2, 3 or 4, and pieces of them alone. Once many
// rows, once long ones.
static void large_operands(void **state) {
  (void)state;
  const zmi_entry *e;
  zmi_pool *pools[4];
  for (int w = 0; w < 4; w++) assert_non_null(pools[w] = zmi_pool_new(w + 1));
  for (size_t i = 0; (e = row_at(i)); i++) {
    row_shapes r;
    read_row(e, &r);
    const int along = along_of(&r), first = r.in[0].dim[0].name[0],
              grows = along >= 0   ? along
                      : first >= 0 ? first
                                   : r.in[0].dim[1].name[0];
    const int last = r.in[0].dim[r.in[0].rank - 1].name[0];
    zmi_pool *const few[] = {pools[0], pools[1 + i % 3]};
    for (int t = 0; t < 3; t++) check_large(&r, floats[t], t == (int)(i % 3) ? 1 << 20 : 1 << 17, along, grows, few, 2);
    if (may_grow(&r, last) && last != grows) check_large(&r, floats[i % 3], 1 << 20, along, last, few, 2);
  }
  for (int w = 0; w < 4; w++) zmi_pool_free(pools[w]);
}

// ---- a NaN in one row ----

// Rows whose results are not all NaN where all float operands are, and why.
static const exception *swallowers;

static const char *swallower_of(const char *name) {
  for (size_t i = 0; swallowers[i].name; i++) {
    if (strcmp(swallowers[i].name, name) == 0) return swallowers[i].dim;
  }
  return NULL;
}

static bool all_nan(zm_array *a) {
  size_t bytes;
  a = zm_contiguous(a);
  const void *data = data_of("a NaN", a, &bytes);
  for (int64_t i = 0; i < zm_array_size(a) && is_float(a->type.dtype); i++) {
    if (!isnan(number_at(data, a->type.dtype, i))) return false;
  }
  return true;
}

// With every float operand full of NaN at one place of the dim that results come in pieces by, the other places keep
// their bits, and this one's results are NaN.
static void a_nan_stays_in_its_row(void **state) {
  (void)state;
  const zmi_entry *e;
  for (size_t i = 0; (e = row_at(i)); i++) {
    row_shapes r;
    read_row(e, &r);
    const int along = along_of(&r);
    for (int t = 0; t < 3 && along >= 0; t++) {
      int64_t sizes[SHAPE_NAMES];
      char what[160];
      zm_scope *scope = zm_scope_open();
      zm_array *clean[ZMI_CATALOG_OUT], *out[ZMI_CATALOG_OUT];
      call c;
      bool poisoned = false;
      for (int k = 0; k < SHAPE_NAMES; k++) sizes[k] = 5;
      snprintf(what, sizeof what, "%s (%s), a NaN", e->name, zm_dtype_name(floats[t]));
      make_call(&r, sizes, floats[t], &c);
      if (zmi_entry_call(e, c.in, c.nin, c.params, clean) != ZM_OK) fail_msg("%s: %s", what, zm_last_error());
      for (int k = 0; k < r.nin; k++) {
        zm_array *part = part_of(c.in[k], &r.in[k], along, 2, 1);
        if (!is_float(c.in[k]->type.dtype) || zm_array_size(part) == zm_array_size(c.in[k])) continue; // not of this dim
        zm_array *nan = zm_full(NAN, part->type.dtype, part->type.shape, part->type.rank), *bad[3];
        bad[0] = part_of(c.in[k], &r.in[k], along, 0, 2), bad[1] = nan, bad[2] = part_of(c.in[k], &r.in[k], along, 3, 2);
        int axis = 0;
        while (r.in[k].dim[axis].name[0] != along) axis++;
        c.in[k] = zm_concatenate(bad, 3, axis);
        poisoned = true;
      }
      if (zmi_entry_call(e, c.in, c.nin, c.params, out) != ZM_OK) fail_msg("%s: %s", what, zm_last_error());
      bool through = true;
      for (int o = 0; o < r.nout; o++) through = through && all_nan(part_of(out[o], &r.out[o], along, 2, 1));
      if (poisoned && through == (swallower_of(e->name) != NULL))
        fail_msg("%s: %s", what, through ? "it goes through, but is listed" : "it does not go through: say why");
      for (int o = 0; o < r.nout; o++) {
        must_be_same(what, zm_contiguous(part_of(clean[o], &r.out[o], along, 0, 2)),
                     zm_contiguous(part_of(out[o], &r.out[o], along, 0, 2)));
        must_be_same(what, zm_contiguous(part_of(clean[o], &r.out[o], along, 3, 2)),
                     zm_contiguous(part_of(out[o], &r.out[o], along, 3, 2)));
      }
      zm_scope_close(scope);
    }
  }
}

#endif
