// Device code of everything but dot products, simulated, against the functions of the CPU bit by bit: shapes, rows out of range, places
// that collide, ties, and numbers that are none; with shuffled threads and several numbers of workers.
#include "array/kernels.h"
#include "gpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- numbers ----

static uint64_t random_state;

static uint32_t random_word(void) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 32);
}

static float number(bool odd) {
  static const uint32_t oddities[] = {0x7fc00000, 0x7f800000, 0xff800000, 0x00012345, 0x80012345, 0x80000000, 0, 0x7f7fffff};
  const uint32_t word = random_word();
  union {
    uint32_t u;
    float f;
  } w = {oddities[word % ZMI_COUNT(oddities)]};
  return odd && word >> 8 & 1 && (word >> 16) % 16 == 0 ? w.f : (float)(int32_t)random_word() * 0x1p-30f;
}

static const zmi_kernels *kn(void) {
  return zmi_tier(0);
}

// n numbers of a dtype, from calloc; some of them odd. Aligned as memory of the device is.
static void *numbers(int64_t n, zm_dtype dtype, bool odd) {
  void *to = aligned_alloc(256, ((size_t)(n + 1) * 4 + 255) / 256 * 256);
  assert_non_null(to);
  for (int64_t i = 0; i < n; i++) {
    const float x = number(odd);
    kn()->store(&x, 1, zmi_at(to, dtype, i), dtype);
  }
  return to;
}

static void *bytes_like(const void *from, size_t bytes) {
  void *to = aligned_alloc(256, (bytes + 256) / 256 * 256);
  assert_non_null(to);
  if (from)
    memcpy(to, from, bytes);
  else
    memset(to, 0xa5, bytes);
  return to;
}

// Which NaN a float32 is, is not promised.
static bool same(const void *a, const void *b, int64_t n, zm_dtype dtype) {
  for (int64_t i = 0; i < n; i++) {
    float x[2];
    kn()->load(zmi_at(a, dtype, i), dtype, 1, &x[0]);
    kn()->load(zmi_at(b, dtype, i), dtype, 1, &x[1]);
    if (dtype == ZM_F32 && x[0] != x[0] && x[1] != x[1]) continue;
    if (memcmp(zmi_at(a, dtype, i), zmi_at(b, dtype, i), zm_dtype_size(dtype)) != 0) return false;
  }
  return true;
}

static void expect(const char *what, const void *expected, const void *found, int64_t n, zm_dtype dtype) {
  if (!same(expected, found, n, dtype)) fail_msg("%s: other bits", what);
}

static void step(const char *what, zmi_gpu_instruction *in, int kind, int64_t tiles, int workers, uint64_t seed) {
  in->kind = kind;
  in->tiles = (int)tiles;
  const char *wrong = gpu_step(in, workers, seed);
  if (wrong) fail_msg("%s: %s", what, wrong);
}

static int pieces(int64_t n) {
  return (int)((n + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE);
}

static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16};
static int gpu_dtype(zm_dtype d) {
  return d == ZM_BF16 ? ZMI_GPU_BF16 : ZMI_GPU_F32;
}
static const int worker_counts[] = {1, 3, 7};
#define AT(p) ((zmi_gpu_address)(uintptr_t)(p))

static int enter(void **state) {
  *state = (void *)(uintptr_t)zmi_float_rule_enter();
  random_state = 7;
  return 0;
}
static int leave(void **state) {
  zmi_float_rule_leave((unsigned)(uintptr_t)*state);
  return 0;
}

// ---- element by element ----

static void element(int what, zm_dtype dtype, const void *a, const void *b, void *out) {
  float x, y;
  kn()->load(a, dtype, 1, &x);
  kn()->load(b, dtype, 1, &y);
  if (what == ZMI_GPU_ADD) x += y;
  if (what == ZMI_GPU_MULTIPLY) x *= y;
  if (what == ZMI_GPU_SILU) kn()->silu(&x, 1);
  if (what == ZMI_GPU_GATED) zmi_swiglu_values(kn(), &x, &y, 1, dtype);
  kn()->store(&x, 1, out, dtype);
}

static void elements(void **state) {
  (void)state;
  static const int shapes[][4] = {{1, 1, 1, 1}, {3, 700, 700, 700}, {9, 33, 40, 99}, {600, 2, 5, 2}};
  for (size_t t = 0; t < ZMI_COUNT(dtypes); t++) {
    for (size_t s = 0; s < ZMI_COUNT(shapes); s++) {
      for (int what = 0; what <= ZMI_GPU_GATED; what++) {
        const int rows = shapes[s][0], cols = shapes[s][1], as = shapes[s][2], bs = shapes[s][3];
        void *a = numbers((int64_t)rows * as, dtypes[t], true), *b = numbers((int64_t)rows * bs, dtypes[t], true);
        const int64_t n = (int64_t)rows * cols;
        void *expected = bytes_like(NULL, (size_t)n * 4), *found = bytes_like(NULL, (size_t)n * 4);
        for (int64_t i = 0; i < n; i++) {
          element(what, dtypes[t], zmi_at(a, dtypes[t], i / cols * as + i % cols), zmi_at(b, dtypes[t], i / cols * bs + i % cols),
                  zmi_at(expected, dtypes[t], i));
        }
        zmi_gpu_instruction in = {.as.elements = {AT(a), AT(b), AT(found), rows, cols, as, bs, what, gpu_dtype(dtypes[t])}};
        step("elements", &in, ZMI_GPU_ELEMENTS, pieces(n), worker_counts[s % 3], s);
        expect("elements", expected, found, n, dtypes[t]);
        free(a), free(b), free(expected), free(found);
      }
    }
  }
}

static void combine(void **state) {
  (void)state;
  static const int shapes[][3] = {{1, 1, 1}, {2, 8, 1030}, {9, 3, 64}};
  for (size_t t = 0; t < 2; t++) {
    for (size_t s = 0; s < ZMI_COUNT(shapes); s++) {
      const int rows = shapes[s][0], slots = shapes[s][1], n = shapes[s][2];
      void *y = numbers((int64_t)rows * slots * n, dtypes[t], true), *w = numbers(rows * slots, dtypes[t], s == 1);
      void *expected = bytes_like(NULL, (size_t)(rows * n) * 4), *found = bytes_like(NULL, (size_t)(rows * n) * 4);
      for (int r = 0; r < rows; r++) {
        zmi_combine_piece(kn(), zmi_at(y, dtypes[t], (int64_t)r * slots * n), dtypes[t], n, zmi_at(w, dtypes[t], r * slots), dtypes[t],
                          slots, n, zmi_at(expected, dtypes[t], r * n), dtypes[t], false);
      }
      const int d = gpu_dtype(dtypes[t]);
      zmi_gpu_instruction in = {.as.combine = {AT(y), AT(w), AT(found), rows, slots, n, d, d, d}};
      step("combine", &in, ZMI_GPU_COMBINE, rows * pieces(n), worker_counts[s], s + 1);
      expect("combine", expected, found, rows * n, dtypes[t]);
      free(y), free(w), free(expected), free(found);
    }
  }
}

static void angles(void **state) {
  (void)state;
  enum { ROWS = 9, PAIRS = 61, N = ROWS * PAIRS };
  int32_t position[ROWS] = {0, 1, 127, 128, 1000, 32767, -5, 1 << 24, INT32_MAX};
  float *frequency = numbers(PAIRS, ZM_F32, true), expected[2][N], found[2][N];
  for (int i = 4; i < PAIRS; i++) frequency[i] = frequency[i] * frequency[i] * 0.1f;
  frequency[0] = 1, frequency[1] = 0, frequency[2] = 0x1p-130f, frequency[3] = 0x1.921fb6p0f;
  for (int i = 0; i < N; i++) {
    double angle = (double)position[i / PAIRS] * (double)frequency[i % PAIRS], sine = (double)__builtin_nanf(""), cosine = sine;
    if (__builtin_fabs(angle) < 0x1p30) zmi_sincos(angle, &sine, &cosine);
    expected[0][i] = (float)cosine;
    expected[1][i] = (float)sine;
  }
  zmi_gpu_instruction in = {.as.angles = {AT(position), AT(frequency), AT(found[0]), AT(found[1]), ROWS, PAIRS}};
  for (uint64_t seed = 0; seed < 3; seed++) {
    memset(found, 0xa5, sizeof found);
    step("angles", &in, ZMI_GPU_ANGLES, pieces(N), worker_counts[seed], seed);
    expect("angles", expected, found, (int64_t)2 * N, ZM_F32);
  }
  free(frequency);
}

// ---- heads ----

static void rotated(zm_dtype dtype, int dim, int pairs, bool norm, bool traditional, bool odd) {
  enum { ROWS = 5, HEADS = 3, STRIDE = 7 };
  const int64_t stride = (int64_t)HEADS * dim + STRIDE, n = (int64_t)ROWS * HEADS * dim;
  void *x = numbers(ROWS * stride, dtype, odd), *expected = bytes_like(NULL, (size_t)n * 4), *found = bytes_like(NULL, (size_t)n * 4);
  float *c = numbers(ROWS * pairs, ZM_F32, false), *s = numbers(ROWS * pairs, ZM_F32, odd), *w = numbers(dim, ZM_F32, false), v[1024];
  for (int t = 0; t < ROWS * HEADS; t++) {
    const int row = t / HEADS;
    const void *from = zmi_at(x, dtype, row * stride + t % HEADS * dim);
    void *to = zmi_at(expected, dtype, t * dim);
    kn()->load(from, dtype, dim, v);
    if (norm) {
      kn()->rms_norm(v, w, dim, 1e-5f, v);
      kn()->round(v, dim, dtype);
    }
    zmi_rope_head(kn(), v, dim, pairs, traditional, c + row * pairs, s + row * pairs, to, dtype);
  }
  zmi_gpu_instruction in = {.as.rotate = {AT(x), norm ? AT(w) : 0, pairs ? AT(c) : 0, pairs ? AT(s) : 0, AT(found), stride, ROWS, HEADS,
                                          dim, pairs, traditional, gpu_dtype(dtype), ZMI_GPU_F32, 1e-5f}};
  step("rotate", &in, ZMI_GPU_ROTATE, ROWS * HEADS, 1 + dim % 3, (uint64_t)dim);
  expect("rotate", expected, found, n, dtype);
  free(x), free(expected), free(found), free(c), free(s), free(w);
}

static void rotate(void **state) {
  (void)state;
  static const int dims[] = {2, 64, 80, 128, 256};
  for (size_t d = 0; d < ZMI_COUNT(dims); d++) {
    for (int kind = 0; kind < 16; kind++) {
      const int pairs = kind & 1 ? dims[d] / 2 : dims[d] / 4;
      rotated(dtypes[kind >> 1 & 1], dims[d], pairs, kind >> 2 & 1, kind >> 3 & 1, d % 2);
    }
    rotated(ZM_BF16, dims[d], 0, true, false, false);
  }
}

// ---- caches and attention ----

typedef struct shape {
  int rows, heads, kv_heads, dim, context, sequences;
  zm_dtype dtype;
  const int32_t *position, *sequence;
} shape;

static zmi_heads heads_of(const shape *s, const void *q, void *keys, void *values, void *out) {
  return (zmi_heads){.kernels = kn(),
                     .dtype = s->dtype,
                     .rows = s->rows,
                     .heads = s->heads,
                     .kv_heads = s->kv_heads,
                     .dim = s->dim,
                     .context = s->context,
                     .sequences = s->sequences,
                     .position = s->position,
                     .sequence = s->sequence,
                     .q = q,
                     .keys = keys,
                     .values = values,
                     .out = out,
                     .scale = 0.125f};
}

static const int32_t places[] = {0, 127, 128, 1000, -1, 3, 2000, 128, 300};
static const int32_t owners[] = {0, 1, 2, 1, 0, 3, 1, 2, -1};

static const int32_t tail[] = {140, 15, 16};

static void write_caches(void **state) {
  (void)state;
  static const int dims[] = {2, 64, 80};
  for (size_t d = 0; d < ZMI_COUNT(dims); d++) {
    for (int kind = 0; kind < 4; kind++) {
      const shape s = {9, 3, 3, dims[d], 1024, 3, dtypes[kind & 1], places, owners};
      const bool keys = kind & 2;
      const int64_t n = (int64_t)s.sequences * s.kv_heads * s.context * s.dim;
      void *expected = numbers(n, s.dtype, false), *found = bytes_like(expected, (size_t)n * zm_dtype_size(s.dtype));
      void *from = numbers((int64_t)s.rows * s.kv_heads * s.dim, s.dtype, true);
      zmi_heads h = heads_of(&s, NULL, expected, expected, NULL);
      h.new_keys = h.new_values = from;
      keys ? zmi_keys_run(&h, 0, s.kv_heads) : zmi_values_run(&h, 0, s.kv_heads);
      zmi_gpu_instruction in = {.as.write = {AT(from), AT(found), AT(places), AT(owners), s.rows, s.kv_heads, s.dim, s.context, s.sequences,
                                             gpu_dtype(s.dtype), keys, 0}};
      step("write", &in, ZMI_GPU_WRITE, (int64_t)s.rows * s.kv_heads, worker_counts[d], (uint64_t)kind);
      assert_memory_equal(expected, found, (size_t)n * zm_dtype_size(s.dtype));
      free(expected), free(found), free(from);
    }
  }
}

// By few workers, and by so many that each has two heads at most.
static void attend(const shape *s, bool odd) {
  enum { PLENTY = 300 };
  char what[96];
  const int64_t n = (int64_t)s->sequences * s->kv_heads * s->context * s->dim, results = (int64_t)s->rows * s->heads * s->dim;
  void *keys = numbers(n, s->dtype, odd), *values = numbers(n, s->dtype, odd), *q = numbers(results, s->dtype, false);
  void *expected = bytes_like(NULL, (size_t)results * 4), *found = bytes_like(NULL, (size_t)results * 4);
  const zmi_heads h = heads_of(s, q, keys, values, expected);
  const int ranges = (s->context + ZMI_GPU_KEYS - 1) / ZMI_GPU_KEYS;
  void *scratch = bytes_like(NULL, zmi_attention_scratch(&h));
  zmi_attention_run(&h, scratch, 0, zmi_attention_tiles(&h));
  zmi_attention_finish(&h, scratch, 0, zmi_attention_finish_tiles(&h));
  void *partial = bytes_like(NULL, (size_t)s->rows * (size_t)s->heads * (size_t)ranges * (size_t)(ZMI_GPU_HEAD + s->dim) * 4);
  for (int way = 0; way < 3; way++) {
    const int split = way > 0, workers = way == 2 ? PLENTY : worker_counts[s->rows % 3];
    zmi_gpu_instruction in = {.shared = ZMI_GPU_ATTEND_SHARED(s->dim, split),
                              .as.attention = {AT(q), AT(keys), AT(values), AT(s->position), AT(s->sequence), AT(partial), AT(found),
                                               s->rows, s->heads, s->kv_heads, s->dim, s->context, s->sequences, gpu_dtype(s->dtype),
                                               ranges, split, 0.125f}};
    snprintf(what, sizeof what, "attention: %d rows, %d/%d heads of %d, way %d", s->rows, s->heads, s->kv_heads, s->dim, way);
    memset(found, 0xa5, (size_t)results * 4);
    step(what, &in, ZMI_GPU_ATTEND, (int64_t)s->rows * s->kv_heads * (split ? ranges : 1), workers, (uint64_t)s->heads);
    in.shared = ZMI_GPU_JOIN_SHARED;
    if (split) step(what, &in, ZMI_GPU_JOIN, (int64_t)s->rows * s->heads, worker_counts[s->heads % 3], (uint64_t)s->rows);
    expect(what, expected, found, results, s->dtype);
  }
  free(keys), free(values), free(q), free(expected), free(found), free(scratch), free(partial);
}

static void attention(void **state) {
  (void)state;
  static const shape shapes[] = {
      {1, 8, 1, 128, 1024, 4, ZM_BF16, places + 3, owners + 3}, {9, 4, 2, 64, 1024, 3, ZM_BF16, places, owners},
      {9, 3, 3, 80, 1024, 3, ZM_F32, places, owners},           {5, 10, 1, 64, 256, 3, ZM_BF16, places, owners},
      {4, 5, 1, 80, 1024, 3, ZM_BF16, places, owners},          {4, 2, 1, 300, 144, 3, ZM_BF16, places, owners},
      {3, 6, 2, 300, 144, 3, ZM_F32, places, owners},           {3, 7, 1, 6, 160, 3, ZM_BF16, places, owners},
      {4, 8, 8, 64, 1008, 3, ZM_F32, places, owners},           {4, 14, 2, 112, 144, 3, ZM_BF16, places, owners},
      {1, 16, 16, 16, 176, 1, ZM_BF16, tail, owners},           {2, 8, 4, 128, 128, 1, ZM_BF16, tail + 1, owners + 3},
  };
  for (size_t i = 0; i < ZMI_COUNT(shapes); i++) {
    attend(&shapes[i], false);
    if (shapes[i].context < 200) attend(&shapes[i], true);
  }
}

// Ranges from partial results alone: more than a block joins at once, those that a thread joins alone, and one more.
static void join_ranges(int ranges, uint64_t seed) {
  enum { DIM = 2, RANGES = 600, ROW = ZMI_GPU_HEAD + DIM };
  const int32_t position = ranges * 128 - 5, sequence = 0;
  float *partial = numbers(RANGES * ROW, ZM_F32, false), found[DIM], expected[DIM];
  for (int r = 0; r < RANGES; r++) partial[r * ROW] *= 8;
  if (seed == 2) partial[ranges / 2 * ROW] = __builtin_nanf("");
  if (seed == 3) partial[ranges / 2 * ROW] = -__builtin_inff();
  zmi_partial *a = aligned_alloc(64, zmi_partial_bytes(DIM)), *b = aligned_alloc(64, zmi_partial_bytes(DIM));
  for (int r = 0; r < ranges; r++) {
    zmi_partial *to = r ? b : a;
    to->max = partial[r * ROW], to->sum = partial[r * ROW + 1];
    memcpy(to->values, &partial[r * ROW + ZMI_GPU_HEAD], DIM * sizeof(float));
    if (r) zmi_partial_join(kn(), DIM, a, b);
  }
  zmi_partial_finish(kn(), DIM, a, expected, ZM_F32);
  zmi_gpu_instruction in = {.shared = ZMI_GPU_JOIN_SHARED,
                            .as.attention = {0, 0, 0, AT(&position), AT(&sequence), AT(partial), AT(found), 1, 1, 1, DIM, RANGES * 128, 1,
                                             ZMI_GPU_F32, RANGES, 1, 1}};
  step("join", &in, ZMI_GPU_JOIN, 1, 1, seed);
  expect("join", expected, found, DIM, ZM_F32);
  free(partial), free(a), free(b);
}

static void join_many(void **state) {
  (void)state;
  static const int ranges[] = {600, 9, 8, 2, 1};
  for (size_t i = 0; i < ZMI_COUNT(ranges); i++) {
    for (uint64_t seed = 0; seed < 4; seed++) join_ranges(ranges[i], seed);
  }
}

// ---- routers ----

static void route(void **state) {
  (void)state;
  static const struct {
    int rows, experts, k;
  } shapes[] = {{1, 128, 8}, {9, 5, 5}, {9, 60, 4}, {2, 600, 40}, {3, 1, 1}, {2, 2100, 3}, {2, 32, 4}, {3, 200, 33}};
  for (size_t i = 0; i < ZMI_COUNT(shapes); i++) {
    for (int kind = 0; kind < 16; kind++) {
      const int rows = shapes[i].rows, experts = shapes[i].experts, k = shapes[i].k;
      const zm_dtype dtype = dtypes[kind & 1];
      const bool sigmoid = kind & 2, norm = kind & 4;
      char *logits = numbers((int64_t)rows * experts, dtype, i % 2);
      float *bias = kind & 8 ? numbers(experts, ZM_F32, false) : NULL;
      if (i != 2)
        memcpy(logits, logits + zm_dtype_size(dtype) * (size_t)(experts / 2), zm_dtype_size(dtype) * (size_t)(experts / 2)); // ties
      const zmi_route_attrs a = {
          .kind = sigmoid ? ZMI_ROUTE_SIGMOID : ZMI_ROUTE_SOFTMAX, .top_k = k, .norm = norm, .eps = 1e-6, .scale = 2.5};
      const zmi_route_rule rule = zmi_route_rule_of(&a);
      void *work = aligned_alloc(64, zmi_route_work(&rule, experts)), *w[2];
      int32_t *chosen[2];
      for (int j = 0; j < 2; j++) w[j] = bytes_like(NULL, (size_t)(rows * k) * 4), chosen[j] = bytes_like(NULL, (size_t)(rows * k) * 4);
      for (int r = 0; r < rows; r++) {
        zmi_route_row(kn(), &rule, zmi_at(logits, dtype, (int64_t)r * experts), dtype, experts, bias, work, chosen[0] + r * k,
                      zmi_at(w[0], dtype, r * k), dtype);
      }
      zmi_gpu_instruction in = {.shared = ZMI_GPU_ROUTE_SHARED(experts),
                                .as.route = {AT(logits), AT(bias), AT(chosen[1]), AT(w[1]), rows, experts, k, sigmoid, norm,
                                             gpu_dtype(dtype), 1e-6f, 2.5f, 0, 0}};
      step("route", &in, ZMI_GPU_ROUTE, rows, worker_counts[kind % 3], (uint64_t)kind);
      assert_memory_equal(chosen[0], chosen[1], (size_t)(rows * k) * 4);
      expect("route", w[0], w[1], rows * k, dtype);
      for (int j = 0; j < 2; j++) free(w[j]), free(chosen[j]);
      free(logits), free(bias), free(work);
    }
  }
}

// ---- the short convolution ----

static void product(zm_dtype dtype, const void *a, const void *b, int64_t n, void *to) {
  for (int64_t i = 0; i < n; i++) element(ZMI_GPU_MULTIPLY, dtype, zmi_at(a, dtype, i), zmi_at(b, dtype, i), zmi_at(to, dtype, i));
}

static void convolve(zm_dtype dtype, int rows, int sequences, const int32_t *position, const int32_t *sequence, int taps, bool parts,
                     bool bias) {
  enum { CHANNELS = 70 };
  const int wide = parts ? 3 * CHANNELS : CHANNELS;
  void *x = numbers(rows * wide, dtype, taps == 4), *weight = numbers(CHANNELS * taps, ZM_F32, false),
       *b = numbers(CHANNELS, ZM_F32, false);
  const int64_t kept = (int64_t)sequences * (taps - 1) * CHANNELS, n = rows * CHANNELS;
  void *state = numbers(kept, dtype, false), *found_state = bytes_like(state, (size_t)kept * zm_dtype_size(dtype));
  void *in_rows = bytes_like(NULL, (size_t)n * 4), *expected = bytes_like(NULL, (size_t)n * 4), *found = bytes_like(NULL, (size_t)n * 4);
  for (int r = 0; r < rows; r++) {
    const void *one = zmi_at(x, dtype, r * wide + 2 * CHANNELS), *two = zmi_at(x, dtype, r * wide);
    if (parts)
      product(dtype, one, two, CHANNELS, zmi_at(in_rows, dtype, r * CHANNELS));
    else
      memcpy(zmi_at(in_rows, dtype, r * CHANNELS), two, CHANNELS * zm_dtype_size(dtype));
  }
  zmi_conv v = {.kernels = kn(),
                .dtype = dtype,
                .weight_dtype = ZM_F32,
                .bias_dtype = ZM_F32,
                .rows = rows,
                .channels = CHANNELS,
                .taps = taps,
                .sequences = sequences,
                .x = in_rows,
                .weight = weight,
                .bias = bias ? b : NULL,
                .state = state,
                .position = position,
                .sequence = sequence,
                .y = expected};
  zmi_conv_channels(&v, 0, 64);
  zmi_conv_channels(&v, 64, CHANNELS - 64);
  for (int r = 0; r < rows && parts; r++) {
    void *y = zmi_at(expected, dtype, r * CHANNELS);
    product(dtype, zmi_at(x, dtype, r * wide + CHANNELS), y, CHANNELS, y);
  }
  zmi_gpu_instruction in = {.shared = ZMI_GPU_CONV_SHARED,
                            .as.conv = {AT(x),
                                        AT(weight),
                                        bias ? AT(b) : 0,
                                        AT(found_state),
                                        AT(position),
                                        AT(sequence),
                                        AT(found),
                                        wide,
                                        rows,
                                        CHANNELS,
                                        taps,
                                        sequences,
                                        parts ? 3 : 0,
                                        2,
                                        0,
                                        1,
                                        gpu_dtype(dtype),
                                        ZMI_GPU_F32,
                                        ZMI_GPU_F32,
                                        0}};
  step("conv", &in, ZMI_GPU_CONV, 2, 1 + taps % 3, (uint64_t)taps);
  expect("conv", expected, found, n, dtype);
  assert_memory_equal(state, found_state, (size_t)kept * zm_dtype_size(dtype));
  free(x), free(weight), free(b), free(state), free(found_state), free(in_rows), free(expected), free(found);
}

static void conv(void **state) {
  (void)state;
  // One text from its beginning and in its middle; single rows; runs that come back; rows that are nobody's; one text with rows that stand
  // nowhere; a text of no sequence.
  static const int32_t position[][9] = {{0, 1, 2, 3, 4, 5, 6, 7, 8},   {7, 8, 9, 10, 11, 12, 13, 14, 15}, {1, 0, 5, 2, 9, 9, 9, 9, 9},
                                        {3, 4, 8, 5, 6, -1, 9, 10, 7}, {4, 1, -1, 0, 6, 7, 2, 9, 1},      {4, 1, -1, 0, 6, 7, 2, 9, 1}};
  static const int32_t sequence[][9] = {{2, 2, 2, 2, 2, 2, 2, 2, 2}, {0, 0, 0, 0, 0, 1, 1, 1, 1}, {0, 1, 2, 3, 4, -1, 7, -1, 9},
                                        {1, 1, 0, 1, 1, 2, 0, 0, 1}, {3, 3, 3, 3, 3, 3, 3, 3, 3}, {4, 4, 4, 4, 4, 4, 4, 4, 4}};
  static const int taps[] = {1, 2, 3, 4, 9}, rows[] = {1, 3, 5, 9};
  for (size_t c = 0; c < ZMI_COUNT(position); c++) {
    for (size_t t = 0; t < ZMI_COUNT(taps); t++) {
      for (int kind = 0; kind < 32; kind++) {
        const int n = rows[kind / 8];
        convolve(dtypes[kind & 1], n, n == 1 && kind & 2 ? 1 : 4, position[c], sequence[c], taps[t], kind & 4, kind % 3);
      }
    }
  }
}

// ---- moves ----

static void take(void **state) {
  (void)state;
  static const int bytes[] = {2, 6, 20, 4096, 5008};
  const int32_t index[] = {3, 0, -1, 4, 2, 3, INT32_MAX, 1};
  enum { THERE = 4, ROWS = ZMI_COUNT(index) };
  for (size_t i = 0; i < ZMI_COUNT(bytes); i++) {
    const size_t n = (size_t)bytes[i];
    char *x = bytes_like(NULL, THERE * n), *found = bytes_like(NULL, ROWS * n), *expected = calloc(ROWS, n);
    for (size_t b = 0; b < THERE * n; b++) x[b] = (char)random_word();
    for (int r = 0; r < ROWS; r++) {
      if (index[r] >= 0 && index[r] < THERE) memcpy(expected + (size_t)r * n, x + (size_t)index[r] * n, n);
    }
    zmi_gpu_instruction in = {.as.take = {AT(x), AT(index), AT(found), bytes[i], ROWS, THERE}};
    step("take", &in, ZMI_GPU_TAKE, ROWS, worker_counts[i % 3], i);
    assert_memory_equal(expected, found, ROWS * n);
    free(x), free(found), free(expected);
  }
}

static void copy(void **state) {
  (void)state;
  static const long long size[] = {3, 5, 7, 11}, stride[] = {1, -3 * 64, 0, 6};
  enum { COUNT = 3 * 5 * 7 * 11, START = 1000 };
  for (int bytes = 1; bytes <= 8; bytes *= 2) {
    char *x = bytes_like(NULL, 2000 * 8), *found = bytes_like(NULL, COUNT * 8), expected[COUNT * 8];
    for (int b = 0; b < 2000 * 8; b++) x[b] = (char)random_word();
    for (long long i = 0; i < COUNT; i++) {
      const long long at = START + i / 385 * stride[0] + i / 77 % 5 * stride[1] + i / 11 % 7 * stride[2] + i % 11 * stride[3];
      memcpy(expected + i * bytes, x + at * bytes, (size_t)bytes);
    }
    zmi_gpu_instruction in = {.as.copy = {.x = AT(x + START * bytes), .out = AT(found), .count = COUNT, .rank = 4, .bytes = bytes}};
    memcpy(in.as.copy.size, size, sizeof size);
    memcpy(in.as.copy.stride, stride, sizeof stride);
    step("copy", &in, ZMI_GPU_COPY, pieces(COUNT), 2, (uint64_t)bytes);
    assert_memory_equal(expected, found, (size_t)(COUNT * bytes));
    free(x), free(found);
  }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, enter, leave)
  const struct CMUnitTest tests[] = {
      TEST(elements),  TEST(combine), TEST(angles), TEST(rotate), TEST(write_caches), TEST(attention),
      TEST(join_many), TEST(route),   TEST(conv),   TEST(take),   TEST(copy),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
