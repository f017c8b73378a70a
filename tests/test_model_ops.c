// The operations of models: each against a plain computation written here, and the bit rules: rows together = rows alone = any split of
// rows, any number of workers, any order of tiles, every CPU tier.
#include "array/array.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- random numbers and memory ----

static uint64_t seed = 88172645463325252ull;

static uint32_t any(uint32_t below) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (uint32_t)(seed >> 33) % below;
}

static float uniform(void) {
  return (float)any(1 << 20) / (1 << 19) - 1.0f;
}

static void *block(size_t bytes) {
  void *p = NULL;
  if (posix_memalign(&p, 64, bytes ? bytes : 1)) abort();
  memset(p, 0, bytes ? bytes : 1);
  return p;
}

// An operand or a result.
typedef struct value {
  zmi_type type;
  void *data;
} value;

static size_t bytes_of(const zmi_type *t) {
  size_t bytes = 0;
  assert_true(zmi_type_bytes(t, &bytes));
  return bytes;
}

#define SHAPE(...)                                                                                                                         \
  (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__})), (int64_t[]) {                                                                                \
    __VA_ARGS__                                                                                                                            \
  }

static value blank(zm_dtype dtype, int rank, const int64_t *shape) {
  value v = {zmi_type_of(dtype, rank, shape), NULL};
  v.data = block(bytes_of(&v.type));
  return v;
}

static void put(const value *v, int64_t i, float x) {
  if (v->type.dtype == ZM_F32) ((float *)v->data)[i] = x;
  if (v->type.dtype == ZM_BF16) ((uint16_t *)v->data)[i] = zmi_f32_to_bf16(x);
  if (v->type.dtype == ZM_F16) ((uint16_t *)v->data)[i] = zmi_f32_to_f16(x);
}

static float get(const value *v, int64_t i) {
  if (v->type.dtype == ZM_F32) return ((float *)v->data)[i];
  return v->type.dtype == ZM_BF16 ? zmi_bf16_to_f32(((uint16_t *)v->data)[i]) : zmi_f16_to_f32(((uint16_t *)v->data)[i]);
}

// Half a unit in the last place of a value of the dtype, relative.
static double rounding(zm_dtype dtype) {
  return dtype == ZM_F32 ? 0x1p-24 : dtype == ZM_BF16 ? 0x1p-8 : 0x1p-11;
}

static value noise(zm_dtype dtype, int rank, const int64_t *shape) {
  value v = blank(dtype, rank, shape);
  for (int64_t i = 0; i < zmi_type_count(&v.type); i++) put(&v, i, uniform());
  return v;
}

static value ints(const int32_t *values, int rank, const int64_t *shape) {
  value v = blank(ZM_I32, rank, shape);
  memcpy(v.data, values, bytes_of(&v.type));
  return v;
}

static value copy_of(const value *v) {
  value c = {v->type, block(bytes_of(&v->type))};
  memcpy(c.data, v->data, bytes_of(&v->type));
  return c;
}

static void drop(value *v) {
  free(v->data);
  v->data = NULL;
}

// ---- playing one op ----

typedef struct play {
  const zmi_kernels *kernels;
  int workers;  // tiles are cut as for so many workers; 0: one by one
  bool reverse; // the last part first
} play;

static void play_stage(const zmi_call *c, const zmi_stage *stage, const play *how) {
  int64_t tiles = stage->tiles(c), parts = how->workers ? how->workers : tiles;
  for (int64_t i = 0; i < parts; i++) {
    int64_t p = how->reverse ? parts - 1 - i : i, begin = tiles * p / parts, end = tiles * (p + 1) / parts;
    if (begin < end) stage->run(c, begin, end);
  }
}

// Computes the op; out[] is made here, but for results in place (their data is that of the operand).
static void compute(const zmi_op *op, const void *attrs, int nin, const value *in, value *out, int *nout, const play *how) {
  zmi_type types[ZMI_MAX_IN], results[ZMI_MAX_OUT];
  zmi_slot slots[ZMI_MAX_IN + ZMI_MAX_OUT];
  memset(slots, 0, sizeof slots);
  zmi_call c = {.op = op, .attrs = attrs, .nin = nin, .kernels = how->kernels};
  for (int i = 0; i < nin; i++) types[i] = in[i].type;
  if (op->infer(attrs, nin, types, nout, results) != ZM_OK) fail_msg("%s: %s", op->name, zm_last_error());
  c.nout = *nout;
  for (int i = 0; i < nin; i++) {
    if (types[i].rank < 0) continue;
    slots[i].type = types[i];
    c.in[i] = &slots[i];
  }
  for (int o = 0; o < *nout; o++) {
    slots[ZMI_MAX_IN + o].type = results[o];
    c.out[o] = &slots[ZMI_MAX_IN + o];
  }
  size_t size = op->scratch ? op->scratch(&c) : 0;
  c.scratch = block(size);
  memset(c.scratch, 0xa5, size); // its contents are undefined
  for (int i = 0; i < nin; i++) c.src[i] = types[i].rank < 0 ? NULL : in[i].data;
  for (int o = 0; o < *nout; o++) {
    int update = op->updates[o];
    out[o] = update ? in[update - 1] : blank(results[o].dtype, results[o].rank, results[o].shape);
    if (!update) memset(out[o].data, 0x5a, bytes_of(&out[o].type));
    c.dst[o] = out[o].data;
  }
  unsigned saved = zmi_float_rule_enter();
  for (int s = 0; s < ZMI_MAX_STAGES && op->stages[s].run; s++) play_stage(&c, &op->stages[s], how);
  zmi_float_rule_leave(saved);
  free(c.scratch);
}

static void same_bits(const zmi_op *op, const char *what, int o, const value *a, const value *b) {
  assert_true(zmi_type_equal(&a->type, &b->type));
  const unsigned char *x = a->data, *y = b->data;
  size_t size = zm_dtype_size(a->type.dtype);
  for (size_t i = 0; i < bytes_of(&a->type); i++) {
    if (x[i] != y[i]) fail_msg("%s: result %d differs at element %zu: %s", op->name, o, i / size, what);
  }
}

// Copies the states among the operands, so that each run starts from the same ones.
static void fresh_states(const zmi_op *op, int nout, int nin, const value *in, value *copies) {
  for (int i = 0; i < nin; i++) copies[i] = in[i];
  for (int o = 0; o < nout; o++) {
    if (op->updates[o]) copies[op->updates[o] - 1] = copy_of(&in[op->updates[o] - 1]);
  }
}

// Rows [first, first + n) of the operands whose bit is set in `rows`.
static void take_rows(unsigned rows, int nin, const value *in, int64_t first, int64_t n, value *part) {
  for (int i = 0; i < nin; i++) {
    part[i] = in[i];
    if (!(rows >> i & 1) || in[i].type.rank < 0) continue;
    size_t row = bytes_of(&in[i].type) / (size_t)in[i].type.shape[0];
    part[i].type.shape[0] = n;
    part[i].data = (char *)in[i].data + (size_t)first * row;
  }
}

// Rows in steps of `step` must give the bits of `whole`.
static void check_split(const zmi_op *op, const void *attrs, unsigned rows, int nin, const value *in, const value *whole, int nout,
                        int64_t step, const play *how) {
  value state[ZMI_MAX_IN], part[ZMI_MAX_IN], out[ZMI_MAX_OUT];
  char what[64];
  snprintf(what, sizeof what, "rows in steps of %lld", (long long)step);
  fresh_states(op, nout, nin, in, state);
  int64_t count = 0;
  for (int i = 0; i < nin; i++) {
    if (rows >> i & 1 && in[i].type.rank > 0) count = in[i].type.shape[0];
  }
  for (int64_t first = 0; first < count; first += step) {
    int64_t n = ZMI_MIN(step, count - first);
    take_rows(rows, nin, state, first, n, part);
    compute(op, attrs, nin, part, out, &nout, how);
    for (int o = 0; o < nout; o++) {
      if (op->updates[o]) continue;
      value expected;
      take_rows(1, 1, &whole[o], first, n, &expected);
      same_bits(op, what, o, &expected, &out[o]);
      drop(&out[o]);
    }
  }
  for (int o = 0; o < nout; o++) {
    if (!op->updates[o]) continue;
    same_bits(op, what, o, &whole[o], &state[op->updates[o] - 1]);
    drop(&state[op->updates[o] - 1]);
  }
}

// Computes the op on the scalar tier and checks every bit rule. `rows`: the operands that have a row each. Results stay with the caller.
static void check_op(const char *name, const void *attrs, unsigned rows, int nin, const value *in, value *out) {
  const zmi_op *op = zmi_op_find(name);
  assert_non_null(op);
  value state[ZMI_MAX_IN], other[ZMI_MAX_OUT];
  int nout = 0;
  for (int o = 0; o < ZMI_MAX_OUT && op->updates[o]; o++) nout = o + 1;
  fresh_states(op, ZMI_MAX_OUT, nin, in, state);
  play first = {zmi_tier(0), 1, false};
  compute(op, attrs, nin, state, out, &nout, &first);
  for (size_t t = 0; t < zmi_tier_count(); t++) {
    if (!zmi_tier_supported(t, &(const char *){NULL})) continue;
    for (int workers = 0; workers < 4; workers++) {
      char what[64];
      play how = {zmi_tier(t), workers, workers % 2 == 0};
      snprintf(what, sizeof what, "%s, parts for %d workers", how.kernels->name, workers);
      fresh_states(op, ZMI_MAX_OUT, nin, in, state);
      compute(op, attrs, nin, state, other, &nout, &how);
      for (int o = 0; o < nout; o++) {
        same_bits(op, what, o, &out[o], &other[o]);
        drop(&other[o]);
      }
    }
    play how = {zmi_tier(t), 2, false};
    for (int64_t step = 1; step < 12; step += 1 + step) check_split(op, attrs, rows, nin, in, out, nout, step, &how);
  }
}

static void near(const char *what, int64_t i, double found, double expected, double tolerance) {
  if (!(fabs(found - expected) <= tolerance))
    fail_msg("%s: element %lld is %.9g, expected %.9g within %.3g", what, (long long)i, found, expected, tolerance);
}

// ---- packed matrices ----

typedef struct matrix_attrs { // the attributes that linear, gather_linear and embed begin with
  zmi_format format;
  int64_t n, k, experts, result;
} matrix_attrs;

typedef struct matrix {
  matrix_attrs a;
  value packed;
  float *dense; // [experts, n, k]: what the packed form stands for
} matrix;

static void pack_float(matrix *m, int64_t expert, unsigned char *to) {
  value w = noise((zm_dtype)m->a.format.dtype, SHAPE(m->a.n, m->a.k));
  zmi_stored_matrix s = {.weight = w.data, .stored = w.type.dtype, .n = m->a.n, .k = m->a.k};
  zmi_pack_blocks(&m->a.format, &s, to, 0, (m->a.n + 15) / 16);
  for (int64_t i = 0; i < m->a.n * m->a.k; i++) m->dense[expert * m->a.n * m->a.k + i] = get(&w, i);
  drop(&w);
}

static void pack_affine(matrix *m, unsigned char *to) {
  int64_t n = m->a.n, k = m->a.k, groups = k / m->a.format.group;
  float *w = block((size_t)(n * k) * 4), *scales = block((size_t)(n * groups) * 4), *biases = block((size_t)(n * groups) * 4);
  uint32_t *codes = block((size_t)(n * k * m->a.format.bits / 8));
  for (int64_t i = 0; i < n * k; i++) w[i] = uniform() * (1 + (float)(i % 7));
  zmi_quantize_affine(m->a.format.bits, m->a.format.group, w, n, k, codes, scales, biases);
  value s = blank((zm_dtype)m->a.format.dtype, SHAPE(n, groups)), b = blank((zm_dtype)m->a.format.dtype, SHAPE(n, groups));
  for (int64_t i = 0; i < n * groups; i++) {
    put(&s, i, scales[i]);
    put(&b, i, biases[i]);
  }
  zmi_stored_matrix stored = {.weight = codes, .scales = s.data, .biases = b.data, .stored = s.type.dtype, .n = n, .k = k};
  zmi_pack_blocks(&m->a.format, &stored, to, 0, (n + 15) / 16);
  free(w);
  free(scales);
  free(biases);
  free(codes);
  drop(&s);
  drop(&b);
}

static matrix random_matrix(zmi_format format, int64_t n, int64_t k, int64_t experts) {
  size_t one;
  matrix m = {.a = {format, n, k, experts, ZM_DTYPE_DEFAULT}};
  assert_true(zmi_packed_bytes(&format, n, k, &one));
  m.packed = blank(ZM_U8, SHAPE((int64_t)one * experts));
  m.dense = block((size_t)(experts * n * k) * sizeof(float));
  for (int64_t e = 0; e < experts; e++) {
    unsigned char *to = (unsigned char *)m.packed.data + (size_t)e * one;
    if (format.mode == ZMI_QUANT_NONE) {
      pack_float(&m, e, to);
      continue;
    }
    pack_affine(&m, to);
    for (int64_t i = 0; i < n; i++) zmi_unpack_row(&format, to, k, i, m.dense + (e * n + i) * k);
  }
  return m;
}

static void drop_matrix(matrix *m) {
  drop(&m->packed);
  free(m->dense);
}

// One product in double, and the sum of magnitudes that its error is measured by.
static double product(const matrix *m, int64_t expert, int64_t row, const value *x, int64_t at, double *magnitude) {
  const float *w = m->dense + (expert * m->a.n + row) * m->a.k;
  double sum = 0;
  *magnitude = 0;
  for (int64_t k = 0; k < m->a.k; k++) {
    double p = (double)w[k] * get(x, at + k);
    sum += p;
    *magnitude += fabs(p);
  }
  return sum;
}

static const zmi_format formats[] = {
    {ZMI_QUANT_AFFINE, 2, 32, ZM_BF16, 0}, {ZMI_QUANT_AFFINE, 3, 64, ZM_F32, 0},  {ZMI_QUANT_AFFINE, 4, 64, ZM_BF16, 0},
    {ZMI_QUANT_AFFINE, 4, 128, ZM_F32, 0}, {ZMI_QUANT_AFFINE, 5, 32, ZM_BF16, 0}, {ZMI_QUANT_AFFINE, 6, 128, ZM_F32, 0},
    {ZMI_QUANT_AFFINE, 8, 64, ZM_BF16, 0}, {ZMI_QUANT_NONE, 0, 0, ZM_BF16, 0},    {ZMI_QUANT_NONE, 0, 0, ZM_F32, 0},
};
static const zm_dtype float_dtypes[] = {ZM_BF16, ZM_F32, ZM_F16};

static const value absent = {{.rank = -1}, NULL};

static void check_linear(zmi_format format, zm_dtype dtype, int64_t rows, int64_t n, int64_t k, bool bias) {
  matrix m = random_matrix(format, n, k, 1);
  value in[] = {noise(dtype, SHAPE(rows, k)), m.packed, bias ? noise(ZM_BF16, SHAPE(n)) : absent}, y[ZMI_MAX_OUT];
  check_op("linear", &m.a, 1, 3, in, y);
  for (int64_t i = 0; i < rows * n; i++) {
    double magnitude, expected = product(&m, 0, i % n, &in[0], i / n * k, &magnitude) + (bias ? get(&in[2], i % n) : 0);
    near("linear", i, get(&y[0], i), expected, magnitude * 4e-7 + fabs(expected) * rounding(dtype) * 1.01 + 1e-30);
  }
  drop(&in[0]);
  drop(&in[2]);
  drop(&y[0]);
  drop_matrix(&m);
}

static void test_linear(void **state) {
  (void)state;
  for (size_t f = 0; f < ZMI_COUNT(formats); f++) {
    for (size_t d = 0; d < ZMI_COUNT(float_dtypes); d++) check_linear(formats[f], float_dtypes[d], 7, 37, 256, (f + d) % 2);
  }
}

// Rows of several pieces, and more rows than a panel holds.
static void test_linear_shapes(void **state) {
  (void)state;
  zmi_format odd = {ZMI_QUANT_NONE, 0, 0, ZM_BF16, 0};
  check_linear(formats[2], ZM_BF16, 3, 16, 1216, true);
  check_linear(formats[3], ZM_F32, 2, 33, 640, false);
  check_linear(formats[2], ZM_BF16, 1, 400, 128, false);
  check_linear(formats[6], ZM_BF16, 50, 20, 4096, false);
  check_linear(odd, ZM_BF16, 5, 19, 77, true);
  check_linear(odd, ZM_F16, 5, 19, 77, false);
}

static void check_gather(zmi_format format, zm_dtype dtype, int64_t rows, int64_t slots, int64_t experts, bool shared, bool bias) {
  enum { N = 40, K = 192 };
  zmi_format f = format;
  if (f.group == 128) f.group = 64;
  matrix m = random_matrix(f, N, K, experts);
  value x = shared ? noise(dtype, SHAPE(rows, K)) : noise(dtype, SHAPE(rows, slots, K)), chosen = blank(ZM_I32, SHAPE(rows, slots));
  int32_t *e = chosen.data;
  for (int64_t i = 0; i < rows * slots; i++) e[i] = (int32_t)any((uint32_t)experts);
  if (rows > 2) {
    e[1] = -1;
    e[slots + 1] = (int32_t)experts;
  }
  value in[] = {x, chosen, m.packed, bias ? noise(ZM_F32, SHAPE(experts, N)) : absent}, y[ZMI_MAX_OUT];
  check_op("gather_linear", &m.a, 3, 4, in, y);
  for (int64_t i = 0; i < rows * slots * N; i++) {
    int64_t pair = i / N, expert = e[pair];
    double magnitude = 0, expected = 0;
    if (expert >= 0 && expert < experts) {
      expected =
          product(&m, expert, i % N, &x, (shared ? pair / slots : pair) * K, &magnitude) + (bias ? get(&in[3], expert * N + i % N) : 0);
    }
    near("gather_linear", i, get(&y[0], i), expected, magnitude * 4e-7 + fabs(expected) * rounding(dtype) * 1.01);
  }
  drop(&x);
  drop(&chosen);
  drop(&in[3]);
  drop(&y[0]);
  drop_matrix(&m);
}

static void test_gather_linear(void **state) {
  (void)state;
  check_gather(formats[2], ZM_BF16, 1, 4, 16, true, false);
  check_gather(formats[2], ZM_BF16, 33, 4, 8, true, true);
  check_gather(formats[4], ZM_F32, 9, 3, 30, false, false);
  check_gather(formats[7], ZM_BF16, 12, 2, 5, false, true);
  check_gather(formats[8], ZM_F16, 12, 2, 5, true, false);
}

static void test_embed(void **state) {
  (void)state;
  for (size_t f = 0; f < ZMI_COUNT(formats); f++) {
    matrix m = random_matrix(formats[f], 50, 128, 1);
    value ids = ints((int32_t[]){3, 49, -1, 50, 0, 17, 3, INT32_MAX, INT32_MIN, 48}, SHAPE(10)), in[] = {ids, m.packed}, y[ZMI_MAX_OUT];
    m.a.result = float_dtypes[f % 3];
    check_op("embed", &m.a, 1, 2, in, y);
    value expected = blank((zm_dtype)m.a.result, SHAPE(10, 128));
    for (int64_t i = 0; i < 10 * 128; i++) {
      int32_t id = ((int32_t *)ids.data)[i / 128];
      put(&expected, i, id < 0 || id >= 50 ? 0 : m.dense[id * 128 + i % 128]);
    }
    same_bits(zmi_op_find("embed"), "expected", 0, &expected, &y[0]);
    drop(&expected);
    drop(&y[0]);
    drop(&ids);
    drop_matrix(&m);
  }
}

static void test_rms_norm(void **state) {
  (void)state;
  double eps = 1e-5;
  for (size_t d = 0; d < ZMI_COUNT(float_dtypes); d++) {
    for (int64_t n = 1; n < 700; n = n * 3 + 2) {
      value in[] = {noise(float_dtypes[d], SHAPE(9, 11, n)), noise(float_dtypes[(d + 1) % 3], SHAPE(n))}, y[ZMI_MAX_OUT];
      check_op("rms_norm", &eps, 1, 2, in, y);
      for (int64_t i = 0; i < 99 * n; i++) {
        double sum = 0;
        for (int64_t j = 0; j < n; j++) sum += pow(get(&in[0], i / n * n + j), 2);
        double expected = get(&in[0], i) / sqrt(sum / (double)n + eps) * get(&in[1], i % n);
        near("rms_norm", i, get(&y[0], i), expected, fabs(expected) * (rounding(float_dtypes[d]) * 1.01 + 4e-7) + 4e-8);
      }
      drop(&in[0]);
      drop(&in[1]);
      drop(&y[0]);
    }
  }
}

static void test_rope_table(void **state) {
  (void)state;
  value in[] = {ints((int32_t[]){0, 1, 7, 1000, 131071, -3, INT32_MAX}, SHAPE(7)), noise(ZM_F32, SHAPE(33))}, y[ZMI_MAX_OUT];
  put(&in[1], 0, 1);
  put(&in[1], 5, 1e6f);
  check_op("rope_table", NULL, 1, 2, in, y);
  for (int64_t i = 0; i < 7 * 33; i++) {
    double angle = (double)((int32_t *)in[0].data)[i / 33] * (double)get(&in[1], i % 33);
    if (fabs(angle) >= 0x1p30) {
      assert_true(isnan(get(&y[0], i)) && isnan(get(&y[1], i)));
      continue;
    }
    near("cosine", i, get(&y[0], i), cos(angle), 6e-8);
    near("sine", i, get(&y[1], i), sin(angle), 6e-8);
  }
  for (int i = 0; i < 2; i++) {
    drop(&in[i]);
    drop(&y[i]);
  }
}

static void test_rope(void **state) {
  (void)state;
  enum { R = 9, H = 5, D = 48, F = 20 };
  for (int64_t traditional = 0; traditional < 2; traditional++) {
    for (size_t d = 0; d < ZMI_COUNT(float_dtypes); d++) {
      zm_dtype dtype = float_dtypes[d];
      value in[] = {noise(dtype, SHAPE(R, H, D)), noise(ZM_F32, SHAPE(R, F)), noise(ZM_F32, SHAPE(R, F))}, y[ZMI_MAX_OUT];
      check_op("rope", &traditional, 7, 3, in, y);
      for (int64_t i = 0; i < R * H * D; i++) {
        int64_t e = i % D, head = i - e, row = i / (H * D);
        double expected = get(&in[0], i);
        if (e < 2 * F) {
          int64_t pair = traditional ? e / 2 : e % F, second = traditional ? e % 2 : e / F;
          double a = get(&in[0], head + (traditional ? 2 * pair : pair)), b = get(&in[0], head + (traditional ? 2 * pair + 1 : pair + F));
          double cosine = get(&in[1], row * F + pair), sine = get(&in[2], row * F + pair);
          expected = second ? a * sine + b * cosine : a * cosine - b * sine;
        }
        near("rope", i, get(&y[0], i), expected, fabs(expected) * rounding(dtype) * 1.01 + 2e-7);
      }
      for (int i = 0; i < 3; i++) drop(&in[i]);
      drop(&y[0]);
    }
  }
}

// ---- attention ----

enum { SEQUENCES = 3, KV = 2, CONTEXT = 400, DIM = 24 };

static value key_cache(const value *plain) { // from [sequences, KV, CONTEXT, DIM]
  value cache = blank(plain->type.dtype, SHAPE(SEQUENCES, KV, CONTEXT / 16, DIM / 2, 16, 2));
  for (int64_t i = 0; i < zmi_type_count(&plain->type); i++) {
    int64_t e = i % DIM, p = i / DIM % CONTEXT, head = i / DIM / CONTEXT;
    put(&cache, ((head * (CONTEXT / 16) + p / 16) * (DIM / 2) + e / 2) * 32 + p % 16 * 2 + e % 2, get(plain, i));
  }
  return cache;
}

static void test_write(void **state) {
  (void)state;
  for (int bf16 = 0; bf16 < 2; bf16++) {
    zm_dtype dtype = bf16 ? ZM_BF16 : ZM_F32;
    value plain = noise(dtype, SHAPE(SEQUENCES, KV, CONTEXT, DIM)), keys = key_cache(&plain), y[ZMI_MAX_OUT], z[ZMI_MAX_OUT];
    int32_t at[] = {0, 1, 17, CONTEXT - 1, CONTEXT, -1, 5, 6, 7}, who[] = {0, 0, 2, 1, 1, 0, -1, SEQUENCES, 2};
    value rows = noise(dtype, SHAPE(9, KV, DIM)), position = ints(at, SHAPE(9)), sequence = ints(who, SHAPE(9));
    check_op("write_keys", NULL, 14, 4, (value[]){keys, rows, position, sequence}, y);
    check_op("write_values", NULL, 14, 4, (value[]){plain, rows, position, sequence}, z);
    for (int64_t r = 0; r < 9; r++) {
      if (at[r] < 0 || at[r] >= CONTEXT || who[r] < 0 || who[r] >= SEQUENCES) continue;
      for (int64_t i = 0; i < KV * DIM; i++)
        put(&plain, ((who[r] * KV + i / DIM) * CONTEXT + at[r]) * DIM + i % DIM, get(&rows, r * KV * DIM + i));
    }
    value expected = key_cache(&plain);
    same_bits(zmi_op_find("write_keys"), "expected", 0, &expected, &y[0]);
    same_bits(zmi_op_find("write_values"), "expected", 0, &plain, &z[0]);
    value *all[] = {&plain, &keys, &y[0], &z[0], &rows, &position, &sequence, &expected};
    for (size_t i = 0; i < ZMI_COUNT(all); i++) drop(all[i]);
  }
}

static void attend_plain(const value *q, const value *keys, const value *values, int64_t row, int64_t head, int64_t heads, int64_t sequence,
                         int64_t count, double scale, double *out) {
  static double p[CONTEXT];
  int64_t at = (sequence * KV + head / (heads / KV)) * CONTEXT * DIM;
  double max = -INFINITY, sum = 0;
  for (int64_t t = 0; t < count; t++) {
    p[t] = 0;
    for (int64_t e = 0; e < DIM; e++) p[t] += (double)get(q, (row * heads + head) * DIM + e) * get(keys, at + t * DIM + e);
    p[t] *= scale;
    max = fmax(max, p[t]);
  }
  for (int64_t t = 0; t < count; t++) sum += p[t] = exp(p[t] - max);
  for (int64_t e = 0; e < DIM; e++) {
    out[e] = 0;
    for (int64_t t = 0; t < count; t++) out[e] += p[t] / sum * get(values, at + t * DIM + e);
  }
}

// 23 rows at once pass over the keys; steps of 1, 3 and 7 rows make every range a tile: the bits must be equal.
static void test_attention(void **state) {
  (void)state;
  enum { R = 23, H = 6 };
  for (int bf16 = 0; bf16 < 2; bf16++) {
    zm_dtype dtype = bf16 ? ZM_BF16 : ZM_F32;
    double scale = 1.7;
    value plain = noise(dtype, SHAPE(SEQUENCES, KV, CONTEXT, DIM)), keys = key_cache(&plain),
          values = noise(dtype, SHAPE(SEQUENCES, KV, CONTEXT, DIM));
    value position = blank(ZM_I32, SHAPE(R)), sequence = blank(ZM_I32, SHAPE(R)), q = noise(dtype, SHAPE(R, H, DIM)), y[ZMI_MAX_OUT];
    int32_t *at = position.data, *who = sequence.data;
    for (int i = 0; i < R; i++) {
      at[i] = (int32_t)any(CONTEXT);
      who[i] = (int32_t)any(SEQUENCES);
    }
    static const int32_t edges[] = {0, 127, 128, 255, 256, CONTEXT - 1, CONTEXT, -1};
    memcpy(at, edges, sizeof edges);
    who[9] = -1;
    who[10] = SEQUENCES;
    check_op("attention", &scale, 1 | 8 | 16, 5, (value[]){q, keys, values, position, sequence}, y);
    for (int64_t i = 0; i < R * H; i++) {
      double expected[DIM] = {0};
      int64_t row = i / H;
      if (at[row] >= 0 && at[row] < CONTEXT && who[row] >= 0 && who[row] < SEQUENCES) {
        attend_plain(&q, &plain, &values, row, i % H, H, who[row], at[row] + 1, scale, expected);
      }
      for (int64_t e = 0; e < DIM; e++)
        near("attention", i * DIM + e, get(&y[0], i * DIM + e), expected[e], fabs(expected[e]) * rounding(dtype) + 2e-6);
    }
    value *all[] = {&plain, &keys, &values, &position, &sequence, &q, &y[0]};
    for (size_t i = 0; i < ZMI_COUNT(all); i++) drop(all[i]);
  }
}

// Scores far apart between ranges: the join must follow the largest, and weights of the others vanish.
static void test_attention_join(void **state) {
  (void)state;
  double scale = 1;
  value plain = blank(ZM_F32, SHAPE(SEQUENCES, KV, CONTEXT, DIM)), values = noise(ZM_F32, SHAPE(SEQUENCES, KV, CONTEXT, DIM)),
        y[ZMI_MAX_OUT];
  for (int64_t i = 0; i < zmi_type_count(&plain.type); i++)
    put(&plain, i, i % DIM == 0 ? (float)(i / DIM % CONTEXT == 200 ? 500 : -300) : 0);
  value keys = key_cache(&plain), q = blank(ZM_F32, SHAPE(1, KV, DIM)), position = ints((int32_t[]){CONTEXT - 1}, SHAPE(1));
  value sequence = ints((int32_t[]){1}, SHAPE(1));
  for (int64_t h = 0; h < KV; h++) put(&q, h * DIM, 1);
  check_op("attention", &scale, 1 | 8 | 16, 5, (value[]){q, keys, values, position, sequence}, y);
  for (int64_t i = 0; i < KV * DIM; i++)
    near("join", i, get(&y[0], i), get(&values, ((KV + i / DIM) * CONTEXT + 200) * DIM + i % DIM), 1e-7);
  value *all[] = {&plain, &keys, &values, &position, &sequence, &q, &y[0]};
  for (size_t i = 0; i < ZMI_COUNT(all); i++) drop(all[i]);
}

// ---- short convolution ----

static void check_conv(zm_dtype dtype, int64_t taps, bool bias) {
  enum { R = 22, D = 70 };
  // Two sequences with a past of their own, one that begins at position 0 over a state full of leftovers, rows without a place.
  int32_t at[R], who[R];
  for (int i = 0; i < R; i++) {
    who[i] = i < 9 ? 1 : i < 12 ? 0 : i < 14 ? -1 : i < 15 ? SEQUENCES : i < 20 ? 2 : 1;
    at[i] = i < 9 ? 30 + i : i < 12 ? 1 + i - 9 : i < 15 ? i : i < 20 ? i - 15 : 39 + i - 20;
  }
  value x = noise(dtype, SHAPE(R, D)), weight = noise(ZM_BF16, SHAPE(D, taps)), past = noise(dtype, SHAPE(SEQUENCES, taps - 1, D));
  value position = ints(at, SHAPE(R)), sequence = ints(who, SHAPE(R)), b = bias ? noise(ZM_F32, SHAPE(D)) : absent, y[ZMI_MAX_OUT];
  check_op("short_conv", NULL, 1 | 8 | 16, 6, (value[]){x, weight, past, position, sequence, b}, y);
  double *history = calloc((size_t)(SEQUENCES * 64 * D), sizeof *history); // by sequence and position
  for (int64_t s = 0; s < SEQUENCES; s++) {
    static const int start[SEQUENCES] = {1, 30, 0};
    for (int64_t i = 0; i < taps - 1; i++) {
      int64_t p = start[s] - (taps - 1) + i;
      for (int64_t d = 0; d < D && p >= 0; d++) history[(s * 64 + p) * D + d] = get(&past, (s * (taps - 1) + i) * D + d);
    }
  }
  for (int64_t r = 0; r < R; r++) {
    bool known = who[r] >= 0 && who[r] < SEQUENCES;
    for (int64_t d = 0; d < D; d++) {
      double sum = bias ? get(&b, d) : 0, magnitude = fabs(sum);
      if (known) history[(who[r] * 64 + at[r]) * D + d] = get(&x, r * D + d);
      for (int64_t t = 0; t < taps && known; t++) {
        int64_t p = at[r] - (taps - 1) + t;
        double v = p < 0 ? 0 : history[(who[r] * 64 + p) * D + d] * get(&weight, d * taps + t);
        sum += v;
        magnitude += fabs(v);
      }
      near("short_conv", r * D + d, get(&y[0], r * D + d), known ? sum : 0, magnitude * 3e-7 + fabs(sum) * rounding(dtype));
    }
  }
  for (int64_t s = 0; s < SEQUENCES; s++) {
    static const int end[SEQUENCES] = {3, 40, 4};
    for (int64_t i = 0; i < (taps - 1) * D; i++) {
      int64_t p = end[s] - (taps - 2) + i / D;
      near("state", i, get(&y[1], s * (taps - 1) * D + i), p < 0 ? 0 : history[(s * 64 + p) * D + i % D], 0);
    }
  }
  free(history);
  value *all[] = {&x, &weight, &past, &position, &sequence, &b, &y[0], &y[1]};
  for (size_t i = 0; i < ZMI_COUNT(all); i++) drop(all[i]);
}

static void test_short_conv(void **state) {
  (void)state;
  check_conv(ZM_BF16, 3, false);
  check_conv(ZM_F32, 4, true);
  check_conv(ZM_F16, 2, true);
  check_conv(ZM_BF16, 1, false);
  check_conv(ZM_F32, 9, false);
}

// ---- routing ----

static void check_route(zm_dtype dtype, const zmi_route_attrs *a, int64_t experts, bool bias, float spread) {
  enum { R = 40 };
  value logits = noise(dtype, SHAPE(R, experts)), b = bias ? noise(ZM_F32, SHAPE(experts)) : absent, y[ZMI_MAX_OUT];
  for (int64_t i = 0; i < R * experts; i++) put(&logits, i, spread * (i % 3 ? get(&logits, i) : 0.25f)); // some are equal
  check_op("route", a, 1, 2, (value[]){logits, b}, y);
  double *p = malloc((size_t)experts * sizeof *p);
  for (int64_t r = 0; r < R; r++) {
    double sum = 0, max = -INFINITY, total = 0;
    for (int64_t e = 0; e < experts; e++) max = fmax(max, get(&logits, r * experts + e));
    for (int64_t e = 0; e < experts; e++) sum += exp(get(&logits, r * experts + e) - max);
    for (int64_t e = 0; e < experts; e++) {
      double l = get(&logits, r * experts + e);
      p[e] = a->kind == ZMI_ROUTE_SOFTMAX ? exp(l - max) / sum : 1 / (1 + exp(-l));
    }
    const int32_t *chosen = (int32_t *)y[0].data + r * a->top_k;
    double last = INFINITY, slack = 2 * rounding(dtype);
    for (int64_t s = 0; s < a->top_k; s++) {
      assert_true(chosen[s] >= 0 && chosen[s] < experts);
      double score = p[chosen[s]] + (bias ? get(&b, chosen[s]) : 0);
      assert_true(score <= last + slack);
      for (int64_t e = 0; e < experts; e++) { // whoever is not chosen so far is no better
        bool before = false;
        for (int64_t t = 0; t <= s; t++) before = before || chosen[t] == e;
        assert_true(before || p[e] + (bias ? get(&b, e) : 0) <= score + slack);
        if (!bias && !before && get(&logits, r * experts + e) == get(&logits, r * experts + chosen[s])) assert_true(e > chosen[s]);
      }
      last = score;
      total += p[chosen[s]];
    }
    for (int64_t s = 0; s < a->top_k; s++) {
      double w = p[chosen[s]];
      if (a->norm) w /= total + (a->kind == ZMI_ROUTE_SIGMOID ? a->eps : 0);
      if (a->kind == ZMI_ROUTE_SIGMOID) w *= a->scale;
      near("route", r * a->top_k + s, get(&y[1], r * a->top_k + s), w, fabs(w) * 3.1 * rounding(dtype) + 3e-7);
    }
  }
  free(p);
  value *all[] = {&logits, &b, &y[0], &y[1]};
  for (size_t i = 0; i < ZMI_COUNT(all); i++) drop(all[i]);
}

static void test_route(void **state) {
  (void)state;
  zmi_route_attrs soft = {ZMI_ROUTE_SOFTMAX, 8, 1, 0, 0}, plain = {ZMI_ROUTE_SOFTMAX, 3, 0, 0, 0},
                  sigmoid = {ZMI_ROUTE_SIGMOID, 4, 1, 1e-6, 2.5};
  zmi_route_attrs all = {ZMI_ROUTE_SIGMOID, 16, 0, 1e-6, 1};
  check_route(ZM_F32, &soft, 128, false, 3);
  check_route(ZM_BF16, &soft, 128, false, 3);
  check_route(ZM_F32, &plain, 16, false, 5);
  check_route(ZM_F32, &sigmoid, 32, true, 4);
  check_route(ZM_BF16, &sigmoid, 32, true, 4);
  check_route(ZM_F16, &sigmoid, 32, false, 4);
  check_route(ZM_F32, &all, 16, true, 2);
}

static void test_route_order(void **state) {
  (void)state;
  zmi_route_attrs a = {ZMI_ROUTE_SIGMOID, 6, 0, 0, 1};
  float n = NAN, l[] = {1, n, 3, 3, -INFINITY, n}, bias[] = {0, 0, 0, 0, 0, INFINITY};
  value logits = blank(ZM_F32, SHAPE(1, 6)), b = blank(ZM_F32, SHAPE(6)), y[ZMI_MAX_OUT];
  memcpy(logits.data, l, sizeof l);
  memcpy(b.data, bias, sizeof bias);
  check_op("route", &a, 1, 2, (value[]){logits, b}, y);
  static const int32_t expected[] = {2, 3, 0, 4, 1, 5}; // equal scores: lowest index; NaN: last
  assert_memory_equal(y[0].data, expected, sizeof expected);
  value *all[] = {&logits, &b, &y[0], &y[1]};
  for (size_t i = 0; i < ZMI_COUNT(all); i++) drop(all[i]);
}

static void test_combine(void **state) {
  (void)state;
  for (size_t d = 0; d < ZMI_COUNT(float_dtypes); d++) {
    enum { R = 9, S = 5, D = 700 };
    value in[] = {noise(float_dtypes[d], SHAPE(R, S, D)), noise(float_dtypes[d], SHAPE(R, S))}, y[ZMI_MAX_OUT], expected;
    check_op("combine", NULL, 3, 2, in, y);
    expected = blank(float_dtypes[d], SHAPE(R, D));
    for (int64_t i = 0; i < R * D; i++) {
      float sum = 0;
      for (int64_t s = 0; s < S; s++) sum = fmaf(get(&in[1], i / D * S + s), get(&in[0], (i / D * S + s) * D + i % D), sum);
      put(&expected, i, sum);
    }
    same_bits(zmi_op_find("combine"), "expected", 0, &expected, &y[0]);
    value *all[] = {&in[0], &in[1], &y[0], &expected};
    for (size_t i = 0; i < ZMI_COUNT(all); i++) drop(all[i]);
  }
}

// ---- shape rules ----

typedef struct bad_case {
  const char *op;
  int nin;
  zmi_type in[6];
  zmi_route_attrs attrs;
  const char *message; // part of it
} bad_case;

#define TYPE(dtype, ...)                                                                                                                   \
  {                                                                                                                                        \
    dtype, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__})), {                                                                                   \
      __VA_ARGS__                                                                                                                          \
    }                                                                                                                                      \
  }

static void test_rules(void **state) {
  (void)state;
  static const bad_case cases[] = {
      {"rms_norm", 1, {TYPE(ZM_F32, 2, 3)}, {0}, "operands"},
      {"rms_norm", 2, {TYPE(ZM_F32, 2, 3), TYPE(ZM_F32, 4)}, {0}, "weight: dimension 0 of float32[4] must be 3"},
      {"rms_norm", 2, {TYPE(ZM_I32, 2, 3), TYPE(ZM_F32, 3)}, {0}, "x: expected float16, bfloat16 or float32, found int32"},
      {"rope", 3, {TYPE(ZM_F32, 2, 3, 8), TYPE(ZM_F32, 2, 5), TYPE(ZM_F32, 2, 5)}, {0}, "5 pairs are more than a head of 8"},
      {"rope", 3, {TYPE(ZM_F32, 2, 3, 8), TYPE(ZM_F32, 2, 4), TYPE(ZM_F32, 3, 4)}, {0}, "sine: dimension 0"},
      {"rope_table", 2, {TYPE(ZM_I64, 2), TYPE(ZM_F32, 2)}, {0}, "positions: expected int32, found int64"},
      {"write_keys",
       4,
       {TYPE(ZM_BF16, 1, 2, 3, 4, 8, 2), TYPE(ZM_BF16, 1, 2, 8), TYPE(ZM_I32, 1), TYPE(ZM_I32, 1)},
       {0},
       "positions of a block"},
      {"write_keys",
       4,
       {TYPE(ZM_BF16, 1, 2, 3, 4, 16, 2), TYPE(ZM_BF16, 1, 3, 8), TYPE(ZM_I32, 1), TYPE(ZM_I32, 1)},
       {0},
       "heads of the cache"},
      {"write_values", 4, {TYPE(ZM_BF16, 1, 2, 24, 8), TYPE(ZM_BF16, 1, 2, 8), TYPE(ZM_I32, 1), TYPE(ZM_I32, 1)}, {0}, "multiple of 16"},
      {"write_values",
       4,
       {TYPE(ZM_BF16, 1, 2, 32, 8), TYPE(ZM_F32, 1, 2, 8), TYPE(ZM_I32, 1), TYPE(ZM_I32, 1)},
       {0},
       "values: expected bfloat16"},
      {"attention",
       5,
       {TYPE(ZM_BF16, 1, 3, 8), TYPE(ZM_BF16, 1, 2, 2, 4, 16, 2), TYPE(ZM_BF16, 1, 2, 32, 8), TYPE(ZM_I32, 1), TYPE(ZM_I32, 1)},
       {0},
       "3 heads are not a multiple of the 2"},
      {"attention",
       5,
       {TYPE(ZM_F16, 1, 2, 8), TYPE(ZM_F16, 1, 2, 2, 4, 16, 2), TYPE(ZM_F16, 1, 2, 32, 8), TYPE(ZM_I32, 1), TYPE(ZM_I32, 1)},
       {0},
       "found float16"},
      {"short_conv",
       5,
       {TYPE(ZM_BF16, 1, 8), TYPE(ZM_BF16, 8, 65), TYPE(ZM_BF16, 1, 64, 8), TYPE(ZM_I32, 1), TYPE(ZM_I32, 1)},
       {0},
       "65 taps"},
      {"short_conv",
       5,
       {TYPE(ZM_BF16, 1, 8), TYPE(ZM_BF16, 8, 3), TYPE(ZM_BF16, 1, 3, 8), TYPE(ZM_I32, 1), TYPE(ZM_I32, 1)},
       {0},
       "taps - 1"},
      {"route", 1, {TYPE(ZM_BF16, 1, 8)}, {0, 9, 1, 0, 1}, "top_k: 9 is not between 1 and the 8 experts"},
      {"route", 2, {TYPE(ZM_BF16, 1, 8), TYPE(ZM_BF16, 8)}, {1, 2, 1, 0, 1}, "bias: expected float32"},
      {"combine", 2, {TYPE(ZM_BF16, 1, 2, 8), TYPE(ZM_F32, 1, 2)}, {0}, "weights: expected bfloat16"},
      {"combine", 2, {TYPE(ZM_BF16, 1, 2, 8), TYPE(ZM_BF16, 1, 3)}, {0}, "slots of y"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    const bad_case *b = &cases[i];
    zmi_type out[ZMI_MAX_OUT];
    int nout = 0;
    assert_int_not_equal(zmi_op_find(b->op)->infer(&b->attrs, b->nin, b->in, &nout, out), ZM_OK);
    if (!strstr(zm_last_error(), b->message)) fail_msg("case %zu (%s): '%s' lacks '%s'", i, b->op, zm_last_error(), b->message);
  }
}

static void test_matrix_rules(void **state) {
  (void)state;
  matrix m = random_matrix(formats[2], 20, 128, 1);
  zmi_type in[] = {zmi_type_of(ZM_BF16, SHAPE(3, 128)), m.packed.type, {.rank = -1}}, out[ZMI_MAX_OUT];
  const zmi_op *linear = zmi_op_find("linear");
  int nout = 0;
  assert_int_equal(linear->infer(&m.a, 3, in, &nout, out), ZM_OK);
  static const struct {
    int64_t n, k, experts, group, bits, size, width;
    const char *message;
  } cases[] = {
      {20, 128, 1, 64, 4, 1, 128, "packed matrices of [20, 128] take"},
      {20, 128, 2, 64, 4, 0, 128, "take"},
      {20, 96, 1, 64, 4, 0, 96, "whole number of groups"},
      {20, 128, 1, 63, 4, 0, 128, "group"},
      {20, 128, 1, 64, 7, 0, 128, "7"},
      {0, 128, 1, 64, 4, 0, 128, "at least 1"},
      {20, 128, 1, 64, 4, 0, 64, "k of the weight"},
      {INT64_MAX / 4, INT64_C(1) << 40, 1, 64, 4, 0, 128, "too large"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    matrix_attrs a = {{ZMI_QUANT_AFFINE, cases[i].bits, cases[i].group, ZM_BF16, 0}, cases[i].n, cases[i].k, cases[i].experts, 0};
    in[0] = zmi_type_of(ZM_BF16, SHAPE(3, cases[i].width));
    in[1] = m.packed.type;
    in[1].shape[0] += cases[i].size;
    assert_int_not_equal(linear->infer(&a, 3, in, &nout, out), ZM_OK);
    if (!strstr(zm_last_error(), cases[i].message)) fail_msg("case %zu: '%s' lacks '%s'", i, zm_last_error(), cases[i].message);
  }
  drop_matrix(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_linear),         cmocka_unit_test(test_linear_shapes), cmocka_unit_test(test_gather_linear),
      cmocka_unit_test(test_embed),          cmocka_unit_test(test_rms_norm),      cmocka_unit_test(test_rope_table),
      cmocka_unit_test(test_rope),           cmocka_unit_test(test_write),         cmocka_unit_test(test_attention),
      cmocka_unit_test(test_attention_join), cmocka_unit_test(test_short_conv),    cmocka_unit_test(test_route),
      cmocka_unit_test(test_route_order),    cmocka_unit_test(test_combine),       cmocka_unit_test(test_rules),
      cmocka_unit_test(test_matrix_rules),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
