// Device code of the CUDA backend, without a GPU: every kind of instruction simulated on the CPU against the CPU backend, bit by bit, with
// shuffled threads and blocks and several numbers of workers; and the text through NVRTC, where it is installed.
#include "backend/backend.h"
#include "backend/cuda/flow.h"
#include "backend/cuda/launch.h"
#include "gpu.h"
#include "gpu_matrices.h"
#include "lm/lm.h"
#include "nvrtc.h"
#include "watched.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

// ---- the simulation itself ----

void gpu_probe_sum(void *), gpu_probe_chain(void *), gpu_probe_ended(void *), gpu_probe_divergent(void *), gpu_probe_warp(void *),
    gpu_probe_forever(void *), gpu_probe_behind(void *), gpu_probe_garbage(void *), gpu_probe_early(void *);

static void simulation(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 4; seed++) {
    unsigned sums[20] = {0}, count = 0, first = 0;
    assert_null(gpu_simulate(gpu_probe_sum, sums, 20, 256, 32, seed));
    for (int i = 0; i < 20; i++) assert_int_equal(sums[i], 255 * 128);
    assert_null(gpu_simulate(gpu_probe_chain, &count, GPU_RESIDENT_BLOCKS, 256, 0, seed));
    assert_int_equal(count, GPU_RESIDENT_BLOCKS);
    assert_null(gpu_simulate(gpu_probe_garbage, &first, 1, 256, 64, seed));
    assert_int_not_equal(first, 0);
  }
}

static void simulation_finds_what_hangs(void **state) {
  (void)state;
  static const struct {
    void (*kernel)(void *);
    const char *words;
  } cases[] = {
      {gpu_probe_ended, "255 threads wait for their block"},
      {gpu_probe_divergent, "others of which wait at line"},
      {gpu_probe_warp, "31 for their warp"},
      {gpu_probe_forever, "nothing but wait"},
      {gpu_probe_behind, "wrote behind its shared memory"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    for (uint64_t seed = 0; seed < 3; seed++) {
      const char *wrong = gpu_simulate(cases[i].kernel, NULL, 3, 256, 64, seed);
      if (!wrong || !strstr(wrong, cases[i].words)) fail_msg("%s: %s", cases[i].words, wrong ? wrong : "nothing found");
    }
  }
  const char *wrong = gpu_simulate_launch(gpu_probe_early, NULL, 1, 256, 64, 0);
  assert_true(wrong && strstr(wrong, "thread 9 ends without a wait"));
}

// Simulates an instruction that writes `bytes` of `out` with several seeds and numbers of workers, and compares; float32 NaN are one.
static void expect(const zmi_gpu_instruction *in, const char *what, void *out, const void *expected, size_t bytes, bool f32) {
  for (int turn = 0; turn < 4; turn++) {
    const int workers = turn == 0 ? in->tiles : turn == 1 ? 1 : turn == 2 ? 3 : (in->tiles + 1) / 2;
    memset(out, 0x5a, bytes);
    const char *wrong = gpu_step(in, workers > 12 ? 12 : workers, (uint64_t)turn);
    if (wrong) fail_msg("%s: %s", what, wrong);
    if (memcmp(out, expected, bytes) == 0) continue;
    for (size_t i = 0; i < bytes / (f32 ? 4 : 1); i++) {
      if (f32) {
        const float x = ((const float *)out)[i], y = ((const float *)expected)[i];
        if (!(isnan(x) && isnan(y)) && memcmp(&x, &y, 4) != 0) fail_msg("%s: element %zu is %a, expected %a", what, i, x, y);
      } else if (((const char *)out)[i] != ((const char *)expected)[i]) {
        fail_msg("%s, turn %d: byte %zu of %zu", what, turn, i, bytes);
      }
    }
  }
}

// ---- digits, norms, embeddings ----

static void digits(void **state) {
  (void)state;
  static const int groups[] = {16, 32, 64, 128};
  for (int g = 0; g < 4; g++)
    for (int count = 1; count <= 3; count += 2)
      for (int dtype = 0; dtype < 3; dtype++)
        for (int nature = 0; nature < NATURES; nature++) {
          enum { ROWS = 3 };
          const int rows = ROWS, k = 128 * (5 + g);
          const size_t bytes = zmi_digits_bytes(k, groups[g], count);
          float *wide;
          void *x = floats(dtype, rows * k, nature, &wide);
          if (nature == BROKEN) memset(x, 0, 512); // groups of zeros beside those of NaN
          zmi_tier(0)->load(x, dtypes[dtype], rows * k, wide);
          char *out = make(bytes * ROWS), *expected = make(bytes * ROWS), what[64];
          memset(expected, 0x5a, bytes * ROWS); // what is behind the last part is not written
          const unsigned saved = zmi_float_rule_enter();
          for (int r = 0; r < rows; r++) zmi_tier(0)->digits(wide + r * k, k, groups[g], count, expected + (size_t)r * bytes);
          zmi_float_rule_leave(saved);
          const zmi_gpu_instruction in = {.kind = ZMI_GPU_DIGITS,
                                          .tiles = rows * ((k + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE),
                                          .as.digits = {at(x), at(out), k, (long long)bytes, rows, k, groups[g], count, dtype, 0}};
          snprintf(what, sizeof what, "%d digits, groups of %d, dtype %d, nature %d", count, groups[g], dtype, nature);
          expect(&in, what, out, expected, bytes * ROWS, false);
          free(x), free(wide), free(out), free(expected);
        }
}

static void norms(void **state) {
  (void)state;
  static const int widths[] = {1, 7, 64, 2048, 2051, 4500};
  for (size_t w = 0; w < ZMI_COUNT(widths); w++)
    for (int dtype = 0; dtype < 3; dtype++)
      for (int turn = 0; turn < 2 * NATURES; turn++) {
        const int rows = 3, n = widths[w], nature = turn / 2, weight_dtype = (dtype + turn) % 3;
        const zm_dtype type = dtypes[dtype];
        const size_t bytes = (size_t)(rows * n) * zm_dtype_size(type);
        float *x, *add, *weight;
        void *xs = floats(dtype, rows * n, nature, &x), *adds = floats(dtype, rows * n, nature, &add);
        void *weights = floats(weight_dtype, n, PLAIN, &weight), *sum = make(bytes);
        char *out = make(bytes), *expected = make(bytes), what[64];
        const unsigned saved = zmi_float_rule_enter();
        for (int i = 0; i < rows * n && turn % 2; i++) x[i] += add[i];
        if (turn % 2) zmi_tier(0)->round(x, rows * n, type);
        void *sums = make(bytes);
        zmi_tier(0)->store(x, rows * n, sums, type);
        for (int r = 0; r < rows; r++) zmi_tier(0)->rms_norm(x + r * n, weight, n, 1e-5f, x + r * n);
        zmi_tier(0)->store(x, rows * n, expected, type);
        zmi_float_rule_leave(saved);
        const zmi_gpu_instruction in = {.kind = ZMI_GPU_NORM,
                                        .tiles = rows,
                                        .shared = ZMI_GPU_NORM_SHARED,
                                        .as.norm = {at(xs), turn % 2 ? at(adds) : 0, at(weights), turn % 2 ? at(sum) : 0, at(out), rows, n,
                                                    dtype, weight_dtype, 1e-5f, 0}};
        snprintf(what, sizeof what, "norm of %d, dtype %d, turn %d", n, dtype, turn);
        expect(&in, what, out, expected, bytes, dtype == ZMI_GPU_F32);
        if (turn % 2) expect(&in, what, sum, sums, bytes, dtype == ZMI_GPU_F32);
        free(x), free(add), free(weight), free(xs), free(adds), free(weights), free(sum), free(sums), free(out), free(expected);
      }
}

static size_t formats(zmi_format all[64]) {
  static const int64_t widths[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
  size_t count = 0;
  for (int digits = 0; digits < 2; digits++) {
    for (int b = 0; b < 6; b++)
      for (int g = 0; g < 3; g++)
        all[count++] = (zmi_format){ZMI_QUANT_AFFINE, widths[b], groups[g], (b + g + digits) % 2 ? ZM_F32 : ZM_BF16, digits};
    all[count++] = (zmi_format){ZMI_QUANT_MXFP4, 4, 32, ZM_BF16, digits};
    all[count++] = (zmi_format){ZMI_QUANT_NVFP4, 4, 16, ZM_BF16, digits};
  }
  all[count++] = (zmi_format){ZMI_QUANT_MXFP8, 8, 32, ZM_BF16, 0};
  all[count++] = (zmi_format){.dtype = ZM_BF16};
  all[count++] = (zmi_format){.dtype = ZM_F32};
  return count;
}

static void embeddings(void **state) {
  (void)state;
  zmi_format all[64];
  const size_t count = formats(all);
  const int token[] = {0, 36, -1, 17, 37, 16, 5};
  enum { ROWS = 7, N = 37 };
  for (size_t i = 0; i < count; i++)
    for (int dtype = 0; dtype < 3; dtype++) {
      const int k = all[i].mode == ZMI_QUANT_NONE ? 301 : 384;
      matrix m = matrix_make(all[i], N, k, 1, -1, PLAIN);
      const size_t row = (size_t)k * zm_dtype_size(dtypes[dtype]);
      float *work = make((size_t)k * 4);
      char *out = make(ROWS * row), *expected = make(ROWS * row), name[64];
      const unsigned saved = zmi_float_rule_enter();
      for (int r = 0; r < ROWS; r++) {
        memset(work, 0, (size_t)k * 4);
        if (token[r] >= 0 && token[r] < N) zmi_unpack_row(&all[i], m.packed, k, token[r], work);
        zmi_tier(0)->store(work, k, expected + (size_t)r * row, dtypes[dtype]);
      }
      zmi_float_rule_leave(saved);
      const zmi_gpu_instruction in = {.kind = ZMI_GPU_EMBED, .tiles = ROWS, .as.embed = {m.g, at(token), at(out), ROWS, dtype}};
      expect(&in, zmi_format_text(&all[i], name), out, expected, ROWS * row, dtype == ZMI_GPU_F32);
      free(work), free(out), free(expected), matrix_drop(&m);
    }
}

// ---- products ----

typedef struct shape {
  int n, k, rows, share, experts, nature;
} shape;

static void expect_product(const zmi_gpu_dot *d, const char *what, const char *how, const void *expected, size_t bytes) {
  const char *out = (const char *)(uintptr_t)d->out;
  for (size_t i = 0; i < bytes; i++) {
    if (out[i] == ((const char *)expected)[i]) continue;
    const size_t word = i / 4 * 4;
    float a = 0, b = 0;
    memcpy(&a, out + word, ZMI_MIN(bytes - word, 4));
    memcpy(&b, (const char *)expected + word, ZMI_MIN(bytes - word, 4));
    if (d->dtype != ZMI_GPU_F32 || !isnan(a) || !isnan(b)) fail_msg("%s, %s: byte %zu", what, how, i);
  }
}

// The same product as a launch that makes the digits of x itself, with room for weights and without.
static void launched_product(const zmi_gpu_instruction both[2], const char *what, const void *expected, size_t bytes) {
  const zmi_gpu_dot *d = &both[1].as.dot;
  const zmi_gpu_range output = {d->out, bytes};
  for (int turn = 0; turn < 3; turn++) {
    static const int processors[] = {1, 3, 40};
    const zmi_cuda device = {.processors = processors[turn], .shared = turn == 1 ? 232448 : turn == 2 ? 100000 : 65000};
    zmi_gpu_instruction *made = NULL;
    zmi_device_group *groups = NULL;
    size_t count = 0, group_count = 0;
    int first = 0;
    assert_int_equal(zmi_device_fuse(both, 2, &output, 1, ZMI_DEVICE_LAUNCHES, &made, &count, &first), ZM_OK);
    assert_true(zmi_device_groups(&device, made, count, &groups, &group_count));
    if (made[0].kind == ZMI_GPU_READY) {
      assert_int_equal(group_count, 1);
      assert_true((size_t)groups[0].shared <= device.shared);
      const zmi_gpu_bundle bundle = zmi_device_bundle(&groups[0]);
      memset((void *)(uintptr_t)d->out, 0x5a, bytes);
      const char *wrong = gpu_bundle(&bundle, false, groups[0].blocks, (size_t)groups[0].shared, (uint64_t)turn);
      if (wrong) fail_msg("%s, launched: %s", what, wrong);
      expect_product(d, what, "launched", expected, bytes);
    }
    zmi_free(groups);
    zmi_free(made);
  }
}

// The same product by the resident kernel, which makes the digits of x itself and, where it can, asks for weights ahead of their use.
static bool resident_product(const zmi_gpu_instruction *dot, zmi_gpu_address x, const char *what, const void *expected, size_t bytes) {
  const zmi_gpu_dot *d = &dot->as.dot;
  const int rows = d->pairs / d->share, slots = rows % 2 ? 4 : 2;
  void *out = (void *)(uintptr_t)d->out;
  zmi_gpu_instruction both[2] = {{.kind = ZMI_GPU_DIGITS,
                                  .tiles = rows,
                                  .as.digits = {x, d->x, d->matrix.k, d->x_bytes, rows, d->matrix.k, d->matrix.group, d->matrix.digits,
                                                d->x_dtype, 0}},
                                 *dot},
                      *made = NULL;
  const zmi_gpu_range output = {d->out, bytes};
  size_t count = 0;
  int first = 0;
  assert_int_equal(zmi_device_fuse(both, 2, &output, 1, true, &made, &count, &first), ZM_OK);
  const int ready = made[0].kind == ZMI_GPU_READY ? made[0].as.ready.rows * (int)made[0].as.ready.bytes : 0;
  const int scratch = ZMI_GPU_OWN_SHARED + ZMI_GPU_DOT_SHARED;
  zmi_gpu_play play = {.ready_at = scratch, .ring_at = scratch + (ready + 127) / 128 * 128, .slots = slots, .each = slots / 2};
  const bool streamed = made[count - 1].as.dot.stage > 0;
  assert_int_equal(first, streamed ? (int)count - 1 : (int)count);
  for (int turn = 0; turn < 3; turn++) {
    static const int blocks[] = {1, 3, 8};
    play.arrived = play.given_up = 0;
    memset(out, 0x5a, bytes);
    const char *wrong =
        gpu_resident(made, (int)count, first, &play, blocks[turn], (size_t)(play.ring_at + ZMI_GPU_RING_SHARED(slots)), (uint64_t)turn);
    if (wrong) fail_msg("%s, resident: %s", what, wrong);
    expect_product(d, what, "resident", expected, bytes);
  }
  zmi_free(made);
  launched_product(both, what, expected, bytes);
  return streamed;
}

// The same product as one of many rows, with its pairs sorted first.
static void many_product(const zmi_gpu_instruction *dot, const char *what, const void *expected, size_t bytes) {
  const zmi_gpu_dot *d = &dot->as.dot;
  const zmi_gpu_matrix *m = &d->matrix;
  const int most = d->chosen ? ZMI_GPU_PIECES(d->pairs, m->experts) : (d->pairs + ZMI_GPU_MANY_COLUMNS - 1) / ZMI_GPU_MANY_COLUMNS;
  int *order = make((size_t)d->pairs * 4);
  zmi_gpu_piece *pieces = make((size_t)most * sizeof *pieces);
  zmi_gpu_instruction sort = {.kind = ZMI_GPU_SORT,
                              .tiles = 1,
                              .shared = ZMI_GPU_SORT_SHARED(m->experts),
                              .as.sort = {d->chosen, at(order), at(pieces), d->pairs, m->experts, ZMI_GPU_MANY_COLUMNS, 0}};
  const int high = ZMI_GPU_MANY_BLOCKS / (1 + d->pairs / 2 % 2);
  zmi_gpu_instruction in = {.kind = ZMI_GPU_MANY, .tiles = most * ((d->blocks + high - 1) / high)};
  in.as.many = (zmi_gpu_many){.dot = *d, .most = most, .stages = 2 + d->pairs % 2};
  in.shared = zmi_gpu_many_shared(&in.as.many);
  if (d->chosen) {
    const char *wrong = gpu_step(&sort, 2, 1);
    if (wrong) fail_msg("%s, sort: %s", what, wrong);
    in.as.many.order = at(order);
    in.as.many.pieces = at(pieces);
  }
  expect(&in, what, (void *)(uintptr_t)d->out, expected, bytes, d->dtype == ZMI_GPU_F32);
  free(order), free(pieces);
}

static void product(const zmi_format *f, shape s, int turn, int *streamed) {
  const int x_dtype = turn % 3, dtype = turn / 3 % 3, pairs = s.rows * s.share;
  matrix m = matrix_make(*f, s.n, s.k, s.experts, turn % 4 == 3 ? -1 : turn % 4 % 3, turn % 5 == 4 ? WIDE : PLAIN);
  const size_t row = m.g.digits ? zmi_digits_bytes(s.k, f->group, m.g.digits) : (size_t)s.k * zm_dtype_size(dtypes[x_dtype]);
  const size_t bytes = (size_t)(pairs * s.n) * zm_dtype_size(dtypes[dtype]), blocks = (size_t)(s.n + 15) / 16;
  float *wide, *y = make(blocks * 64);
  char *x = floats(x_dtype, s.rows * s.k, s.nature, &wide), *out = make(bytes), *expected = make(bytes), what[160], name[64];
  char *ready = make(row * (size_t)s.rows);
  int *chosen = make((size_t)pairs * 4);
  const unsigned saved = zmi_float_rule_enter();
  for (int r = 0; r < s.rows && m.g.digits; r++) zmi_tier(0)->digits(wide + r * s.k, s.k, f->group, m.g.digits, ready + (size_t)r * row);
  for (int p = 0; p < pairs; p++) {
    chosen[p] = s.experts == 1 ? 0 : (int)(next_random() >> 20) % (s.experts + 2) - 1;
    const bool there = chosen[p] >= 0 && chosen[p] < s.experts;
    const void *one = m.g.digits ? ready + (size_t)(p / s.share) * row : (const char *)(wide + p / s.share * s.k);
    if (there)
      zmi_tier(0)->dot[f->mode](f, m.packed + (size_t)chosen[p] * (size_t)m.g.matrix_bytes, (int64_t)blocks, s.k, 1, &one, ZM_F32, y, s.n);
    for (int i = 0; i < s.n && there && m.bias; i++) y[i] += m.bias_values[chosen[p] * s.n + i];
    if (!there) memset(y, 0, blocks * 64);
    zmi_tier(0)->store(y, s.n, expected + (size_t)(p * s.n) * zm_dtype_size(dtypes[dtype]), dtypes[dtype]);
  }
  zmi_float_rule_leave(saved);
  const zmi_gpu_instruction in = {.kind = ZMI_GPU_DOT,
                                  .tiles = pairs * (int)blocks,
                                  .shared = ZMI_GPU_DOT_SHARED,
                                  .as.dot = {m.g, at(m.g.digits ? ready : x), s.experts == 1 ? 0 : at(chosen), at(out), 0, (long long)row,
                                             s.n, x_dtype, pairs, s.share, (int)blocks, dtype, 0, 0, 0, 0, 0, 0, 0}};
  snprintf(what, sizeof what, "%s, %d digits, n %d, k %d, %d pairs, nature %d", zmi_format_text(f, name), m.g.digits, s.n, s.k, pairs,
           s.nature);
  if (streamed) expect(&in, what, out, expected, bytes, dtype == ZMI_GPU_F32);
  if (m.g.digits && streamed) streamed[f->bits] += resident_product(&in, at(x), what, expected, bytes);
  if (m.g.digits && !streamed) many_product(&in, what, expected, bytes);
  free(wide), free(y), free(x), free(out), free(expected), free(ready), free(chosen), matrix_drop(&m);
}

static void products(void **state) {
  (void)state;
  static const shape shapes[] = {
      {37, 128, 1, 1, 1, PLAIN},  {16, 640, 3, 1, 1, WIDE},  {33, 896, 2, 2, 5, PLAIN},  {5, 1152, 9, 1, 1, TINY},
      {48, 384, 3, 1, 3, BROKEN}, {129, 256, 1, 4, 2, ZERO}, {1, 17024, 1, 1, 1, PLAIN}, {16, 8320, 2, 1, 1, PLAIN},
  };
  zmi_format all[64];
  const size_t count = formats(all);
  int turn = 0, streamed[9] = {0}; // by bits
  for (size_t i = 0; i < count; i++)
    for (size_t j = 0; j < ZMI_COUNT(shapes); j++, turn++) {
      shape s = shapes[j];
      if (all[i].mode == ZMI_QUANT_NONE) s.k -= turn % 7; // any k, odd ones too
      product(&all[i], s, turn, streamed);
    }
  for (int bits = 2; bits <= 8; bits++) {
    if (bits != 7 && streamed[bits] < 6) fail_msg("%d bits: %d products came through the ring of weights", bits, streamed[bits]);
  }
}

// Rows that share weights: full pieces and rests of them, experts that nobody takes, choices out of range, k and n that are not multiples
// of anything. Each format meets each shape, one of them with each nature of numbers.
static void products_of_many_rows(void **state) {
  (void)state;
  static const shape shapes[] = {
      {37, 128, 9, 1, 1, PLAIN},   {16, 640, 33, 1, 1, WIDE},  {129, 384, 7, 4, 5, PLAIN},  {5, 1152, 8, 1, 1, TINY},
      {48, 896, 33, 2, 3, BROKEN}, {20, 256, 1, 8, 40, PLAIN}, {277, 128, 17, 2, 2, PLAIN},
  };
  zmi_format all[64];
  const size_t count = formats(all);
  int turn = 0;
  for (size_t i = 0; i < count; i++) {
    if (!zmi_format_takes_digits(&all[i])) continue;
    for (size_t j = 0; j < ZMI_COUNT(shapes); j++, turn++) product(&all[i], shapes[j], turn, NULL);
  }
}

// ---- rows that every block makes for itself ----

// What stands in front of a product: nothing but a norm, something that is added, or the weighted sum of experts' results.
enum { ALONE, ADDED, COMBINED, FRONTS };

typedef struct front {
  int dtype, nature, what, digits, shift; // shift: elements by which rows do not lie where they could come eight at a time
} front;

static void check_front(front f) {
  enum { ROWS = 2, SLOTS = 5, N = 21 };
  char what[96];
  const zmi_format format = f.digits < 0 ? (zmi_format){.dtype = ZM_BF16} : (zmi_format){ZMI_QUANT_AFFINE, 4, 64, ZM_BF16, f.digits};
  const int k = f.digits < 0 ? 301 : 2240, size = f.dtype == ZMI_GPU_F32 ? 4 : 2, weight_dtype = (f.dtype + f.nature) % 3;
  matrix m = matrix_make(format, N, k, 1, -1, PLAIN);
  const size_t bytes = (size_t)(ROWS * k * size), row = m.g.digits ? zmi_digits_bytes(k, 64, m.g.digits) : (size_t)(k * size);
  char *x = floats(f.dtype, ROWS * k + 8, f.nature, NULL), *y = floats(f.dtype, ROWS * SLOTS * k, f.nature, NULL);
  void *weights = floats(f.dtype, ROWS * SLOTS, PLAIN, NULL), *norm = floats(weight_dtype, k, PLAIN, NULL);
  void *combined = f.what == COMBINED ? make(bytes) : floats(f.dtype, ROWS * k, f.nature, NULL);
  char *sum = make(bytes), *normed = make(bytes), *rows = make(row * ROWS), *out = make(ROWS * N * 4), *before = make(bytes),
       *expected = make(ROWS * N * 4);
  const zmi_gpu_address from = at(x + f.shift * size);
  zmi_gpu_instruction all[4] = {{.kind = ZMI_GPU_COMBINE, .tiles = ROWS * ((k + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE)},
                                {.kind = ZMI_GPU_NORM, .tiles = ROWS, .shared = ZMI_GPU_NORM_SHARED},
                                {.kind = ZMI_GPU_DIGITS, .tiles = ROWS * ((k + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE)},
                                {.kind = ZMI_GPU_DOT, .tiles = ROWS * ((N + 15) / 16), .shared = ZMI_GPU_DOT_SHARED}};
  all[0].as.combine = (zmi_gpu_combine){at(y), at(weights), at(combined), ROWS, SLOTS, k, f.dtype, f.dtype, f.dtype};
  all[1].as.norm = (zmi_gpu_norm){
      from, f.what == ALONE ? 0 : at(combined), at(norm), f.what == ALONE ? 0 : at(sum), at(normed), ROWS, k, f.dtype, weight_dtype, 1e-5f,
      0};
  all[2].as.digits = (zmi_gpu_digits){at(normed), at(rows), k, (long long)row, ROWS, k, 64, m.g.digits, f.dtype, 0};
  all[3].as.dot = (zmi_gpu_dot){.matrix = m.g,
                                .x = m.g.digits ? at(rows) : at(normed),
                                .out = at(out),
                                .x_bytes = (long long)row,
                                .out_stride = N,
                                .x_dtype = f.dtype,
                                .pairs = ROWS,
                                .share = 1,
                                .blocks = (N + 15) / 16,
                                .dtype = ZMI_GPU_BF16};
  zmi_gpu_instruction used[4], *made = NULL;
  size_t count = 0, made_count = 0;
  for (int i = f.what == COMBINED ? 0 : 1; i < 4; i++) {
    if (i != 2 || m.g.digits) used[count++] = all[i];
  }
  snprintf(what, sizeof what, "front %d of dtype %d, nature %d, %d digits, shift %d", f.what, f.dtype, f.nature, f.digits, f.shift);
  memset(sum, 0x5a, bytes);
  for (size_t i = 0; i < count; i++) {
    const char *wrong = gpu_step(&used[i], 3, i);
    if (wrong) fail_msg("%s: %s", what, wrong);
  }
  memcpy(before, sum, bytes);
  memcpy(expected, out, ROWS * N * 4);
  const zmi_gpu_range outputs[2] = {{at(out), ROWS * N * 4}, {at(sum), bytes}};
  int first = 0;
  assert_int_equal(zmi_device_fuse(used, count, outputs, 2, true, &made, &made_count, &first), ZM_OK);
  assert_int_equal(made_count, 2);
  assert_int_equal(made[0].kind, ZMI_GPU_READY);
  const int scratch = ZMI_GPU_OWN_SHARED + (ZMI_MAX(ZMI_GPU_READY_SHARED(k), ZMI_GPU_DOT_SHARED) + 127) / 128 * 128;
  zmi_gpu_play play = {.ready_at = scratch, .slots = 2, .each = 1};
  play.ring_at = scratch + (ROWS * (int)made[0].as.ready.bytes + 127) / 128 * 128;
  for (int turn = 0; turn < 2; turn++) {
    play.arrived = play.given_up = 0;
    memset(out, 0x5a, ROWS * N * 4), memset(sum, 0x5a, bytes);
    memcpy(out + ROWS * N * 2, expected + ROWS * N * 2, ROWS * N * 2);
    const size_t shared = (size_t)(play.ring_at + ZMI_GPU_RING_SHARED(2));
    const char *wrong = gpu_resident(made, (int)made_count, first, &play, 1 + 2 * turn, shared, (uint64_t)turn);
    if (wrong) fail_msg("%s: %s", what, wrong);
    if (memcmp(out, expected, ROWS * N * 4) != 0) fail_msg("%s: the product has other bits", what);
    for (int i = 0; i < ROWS * k; i++) {
      float a = 0, b = 0;
      if (memcmp(sum + i * size, before + i * size, (size_t)size) == 0) continue;
      memcpy(&a, sum + i * size, (size_t)size), memcpy(&b, before + i * size, (size_t)size);
      if (size == 2 || !isnan(a) || !isnan(b)) fail_msg("%s: sum %d has other bits", what, i);
    }
  }
  zmi_free(made);
  matrix_drop(&m);
  free(x), free(y), free(weights), free(norm), free(combined), free(sum), free(normed), free(rows), free(out), free(before), free(expected);
}

static void rows_of_every_block(void **state) {
  (void)state;
  for (int dtype = 0; dtype < 3; dtype++)
    for (int nature = 0; nature < NATURES; nature++)
      for (int what = 0; what < FRONTS; what++)
        for (int digits = -1; digits < 2; digits++) check_front((front){dtype, nature, what, digits, (nature + what + digits) % 3 == 0});
}

// ---- shares ----

// As many workers as there are on any card, around the numbers from which on a quotient is not a product.
static void shares_of_workers(void **state) {
  static const int tiles[] = {1, 2, 127, 128, 129, 9496, (1 << 19) - 1, 1 << 19, 1 << 25};
  (void)state;
  for (int workers = 1; workers <= 400; workers++) {
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
      for (int worker = 0; worker <= workers; worker += worker < 3 || worker > workers - 4 ? 1 : 7) {
        const int64_t want = (int64_t)tiles[i] * worker / workers;
        if (gpu_first_tile(tiles[i], worker, workers) != want) fail_msg("tiles %d, worker %d of %d", tiles[i], worker, workers);
      }
    }
  }
}

// ---- choosing tokens ----

// What the device says of logits is what the sampler chooses on the CPU.
static void choose(const float *logits, int vocab, int dtype, int blocks, uint64_t seed, const zm_generate_options *o) {
  enum { STEPS = 5, POSITION = 5 };
  const size_t words = ZMI_GPU_CHOICE_WORDS(GPU_RESIDENT_BLOCKS), shared = ZMI_GPU_OWN_SHARED + 4096 + ZMI_GPU_RING_SHARED(2);
  int token = 77, position = POSITION;
  zmi_gpu_mail mail = {0};
  void *memory = make((size_t)vocab * 4), *best = make(words * 8);
  const zmi_kernels *kernels = zmi_kernels_find("scalar");
  kernels->store(logits, vocab, memory, dtype == ZMI_GPU_BF16 ? ZM_BF16 : ZM_F32);
  float *x = make((size_t)vocab * 4);
  zmi_sampler *sampler = zmi_sampler_new(o, vocab, kernels);
  int32_t expected[STEPS];
  zmi_gpu_sampling how;
  for (int i = 0; i < (int)(seed % 3) * 40; i++) zmi_sampler_see(sampler, (int32_t)(next_random() % (uint64_t)vocab), i % 4 == 0);
  assert_true(zmi_sampler_on_a_gpu(sampler, &how));
  for (int i = 0; i < STEPS; i++) {
    kernels->load(memory, dtype == ZMI_GPU_BF16 ? ZM_BF16 : ZM_F32, vocab, x);
    if (zmi_sampler_next(sampler, x, POSITION + 1 + (uint64_t)i, &expected[i], NULL) != ZM_OK) expected[i] = -1;
    zmi_sampler_see(sampler, expected[i], true);
  }
  const bool any = expected[0] >= 0;
  zmi_sampler_free(sampler);
  free(x);
  static zmi_gpu_instruction none;
  zmi_gpu_play play = {.ready_at = ZMI_GPU_OWN_SHARED,
                       .ring_at = ZMI_GPU_OWN_SHARED + 4096,
                       .slots = 2,
                       .each = 1,
                       .mail = zmi_gpu_at(&mail),
                       .most = STEPS,
                       .vocab = vocab,
                       .dtype = dtype,
                       .ends = 1,
                       .end = {-7},
                       .token = zmi_gpu_at(&token),
                       .position = zmi_gpu_at(&position),
                       .logits = zmi_gpu_at(memory),
                       .best = zmi_gpu_at(best),
                       .sampling = how};
  memset(best, 0, words * 8); // as before the first play; the second one finds what the first has left there
  const char *wrong = gpu_resident(&none, 0, 0, &play, blocks, shared, seed);
  if (wrong) fail_msg("choosing of %d: %s", vocab, wrong);
  for (int i = 0; i < STEPS; i++) {
    const bool there = i == 0 || any;
    const unsigned long long said = there ? (unsigned long long)(i + 1) << 32 | (uint32_t)expected[i] : 0;
    if (mail.said[i] != said) {
      fail_msg("of %d logits, step %d (temperature %g, top_k %d, top_p %g, min_p %g): said %llx, expected %llx", vocab, i,
               (double)o->temperature, o->top_k, (double)o->top_p, (double)o->min_p, mail.said[i], said);
    }
  }
  assert_int_equal(token, any ? expected[STEPS - 2] : 77);
  assert_int_equal(position, any ? POSITION + STEPS - 1 : POSITION);
  // It ends behind one of the ids that it was told.
  mail = (zmi_gpu_mail){0};
  position = POSITION;
  play.arrived = play.given_up = 0;
  play.end[0] = expected[0];
  assert_null(gpu_resident(&none, 0, 0, &play, blocks, shared, seed));
  assert_int_equal(mail.said[0], 1ull << 32 | (uint32_t)expected[0]);
  assert_int_equal(mail.said[1], 0);
  assert_int_equal(position, POSITION);
  free(memory);
  free(best);
}

enum { MOST_LOGITS = 3000 };

// Of a turn: some special numbers, all equal or many equal ones.
static int make_logits(float *x, int turn) {
  static const float special[] = {NAN, -INFINITY, INFINITY, 0.0f, -0.0f, 1e-40f, -1e-40f, 1e-38f, 1.0f, -1.0f};
  const int vocab = turn < 20 ? 1 + turn : 1 + (int)(next_random() % MOST_LOGITS);
  for (int i = 0; i < vocab; i++) {
    const uint64_t r = next_random();
    x[i] = turn % 3 == 0   ? special[r % ZMI_COUNT(special)]                              // of all kinds
           : turn % 3 == 1 ? special[turn % 2 ? r % 2 : 3 + r % 4]                        // none, or nothing but zeros
                           : (float)((int)(r % 40) - 38) * (r % 97 == 0 ? 1.0f : 0.125f); // many equals
  }
  return vocab;
}

static void tokens_are_chosen(void **state) {
  (void)state;
  static float x[MOST_LOGITS];
  const unsigned saved = zmi_float_rule_enter();
  for (int turn = 0; turn < 60; turn++) {
    const int vocab = make_logits(x, turn);
    choose(x, vocab, turn % 2 ? ZMI_GPU_BF16 : ZMI_GPU_F32, 1 + turn % GPU_RESIDENT_BLOCKS, (uint64_t)turn % 4, &(zm_generate_options){0});
  }
  zmi_float_rule_leave(saved);
}

static void tokens_are_drawn(void **state) {
  (void)state;
  static float x[MOST_LOGITS];
  static const zm_generate_options rows[] = {{.temperature = 1},
                                             {.temperature = 0.7f, .top_k = 1},
                                             {.temperature = 2, .top_k = 40},
                                             {.temperature = 0.8f, .top_p = 0.9f},
                                             {.temperature = 1.5f, .top_p = 0.01f},
                                             {.temperature = 3, .min_p = 0.05f},
                                             {.temperature = 1.3f, .top_k = 20, .top_p = 0.8f, .min_p = 0.02f},
                                             {.temperature = 1.3f, .top_k = 3, .top_p = 0.999f},
                                             {.temperature = 0.01f, .top_p = 0.5f, .min_p = 1},
                                             {.temperature = 100, .top_k = 1000, .top_p = 0.7f},
                                             {.repetition_penalty = 1.3f},
                                             {.repetition_penalty = 0.7f, .presence_penalty = 2, .penalty_window = 3},
                                             {.temperature = 2, .presence_penalty = -1.5f, .penalty_window = 50, .top_k = 5}};
  const unsigned saved = zmi_float_rule_enter();
  for (int turn = 0; turn < (WATCHED ? 13 : 26); turn++) {
    const int vocab = make_logits(x, turn);
    zm_generate_options o = rows[turn % (int)ZMI_COUNT(rows)];
    o.seed = next_random();
    zm_logit_bias bias[ZMI_GPU_BIASES];
    for (int i = 0; i < ZMI_GPU_BIASES; i++) {
      const float b = (float)((int)(next_random() % 17) - 8);
      bias[i] = (zm_logit_bias){(int32_t)(next_random() % (uint64_t)vocab), b == 8 ? -INFINITY : b == 7 && turn % 5 == 0 ? INFINITY : b};
    }
    o.logit_bias = bias;
    o.logit_bias_count = turn % 3 == 1 ? next_random() % (ZMI_GPU_BIASES + 1) : 0;
    for (int i = 0; i < vocab && turn % 4 == 3; i++) x[i] = (float)next_random() * 0x1p-61f; // hardly two that are equal
    choose(x, vocab, turn % 7 < 3 ? ZMI_GPU_BF16 : ZMI_GPU_F32, 1 + turn % GPU_RESIDENT_BLOCKS, (uint64_t)turn % 3, &o);
  }
  zmi_float_rule_leave(saved);
}

// A router whose product every block makes for itself, as its weights are few; one whose weights are many; and one behind whose product
// something else comes first.
static void check_choice(int experts, int k, int dtype, uint64_t seed, bool apart) {
  enum { ROWS = 2, TOP = 4 };
  matrix m = matrix_make((zmi_format){ZMI_QUANT_AFFINE, 4 + 4 * (int)(seed % 2), 64, ZM_BF16, 0}, experts, k, 1, -1, PLAIN);
  const size_t row = zmi_digits_bytes(k, 64, 3), size = dtype == ZMI_GPU_F32 ? 4 : 2;
  const int blocks = (experts + 15) / 16;
  const bool few = (unsigned)blocks * m.g.block_bytes <= ZMI_GPU_OWN_WEIGHTS && !apart;
  char *x = floats(dtype, ROWS * k, PLAIN, NULL), *rows = make(row * ROWS), *logits = make((size_t)(ROWS * experts) * size);
  int32_t chosen[ROWS * TOP], expected[ROWS * TOP];
  char weights[ROWS * TOP * 4] = {0}, expected_weights[ROWS * TOP * 4] = {0};
  const size_t last = apart ? 3 : 2;
  float silu[2] = {1.0f, 0.0f};
  zmi_gpu_instruction all[4] = {{.kind = ZMI_GPU_DIGITS, .tiles = ROWS * ((k + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE)},
                                {.kind = ZMI_GPU_DOT, .tiles = ROWS * blocks, .shared = ZMI_GPU_DOT_SHARED},
                                {.kind = ZMI_GPU_ELEMENTS, .tiles = 1},
                                {.kind = ZMI_GPU_NOTHING}},
                      *made = NULL;
  all[2].as.elements = (zmi_gpu_elements){at(silu), 0, at(silu + 1), 1, 1, 1, 1, ZMI_GPU_SILU, ZMI_GPU_F32};
  all[last] = (zmi_gpu_instruction){.kind = ZMI_GPU_ROUTE, .tiles = ROWS, .shared = ZMI_GPU_ROUTE_SHARED(experts)};
  all[0].as.digits = (zmi_gpu_digits){at(x), at(rows), k, (long long)row, ROWS, k, 64, 3, dtype, 0};
  all[1].as.dot = (zmi_gpu_dot){.matrix = m.g,
                                .x = at(rows),
                                .out = at(logits),
                                .x_bytes = (long long)row,
                                .out_stride = experts,
                                .x_dtype = dtype,
                                .pairs = ROWS,
                                .share = 1,
                                .blocks = blocks,
                                .dtype = dtype};
  all[last].as.route = (zmi_gpu_route){.logits = at(logits),
                                       .chosen = at(chosen),
                                       .weights = at(weights),
                                       .rows = ROWS,
                                       .experts = experts,
                                       .k = TOP,
                                       .norm = 1,
                                       .dtype = dtype,
                                       .scale = 1.0f};
  for (size_t i = 0; i <= last; i++) assert_null(gpu_step(&all[i], 3, seed));
  memcpy(expected, chosen, sizeof chosen), memcpy(expected_weights, weights, sizeof weights);
  const zmi_gpu_range outputs[2] = {{at(chosen), sizeof chosen}, {at(weights), ROWS * TOP * size}};
  size_t count = 0;
  int first = 0;
  assert_int_equal(zmi_device_fuse(all, last + 1, outputs, 2, true, &made, &count, &first), ZM_OK);
  assert_int_equal(count, last + 1);
  assert_int_equal(made[last].barrier, !few);
  // It ends with the first step, while weights of the second one wait for room in the ring.
  int token = 0, position = 0;
  unsigned long long best[ZMI_GPU_CHOICE_WORDS(GPU_RESIDENT_BLOCKS)] = {0};
  zmi_gpu_play play = {.slots = 4, .each = 1, .most = 2, .vocab = 1, .dtype = dtype, .ends = 1, .logits = at(weights), .best = at(best)};
  play.token = at(&token), play.position = at(&position);
  for (size_t i = 1; i <= last; i++) play.ready_at = ZMI_MAX(play.ready_at, ZMI_GPU_OWN_SHARED + (made[i].shared + 127) / 128 * 128);
  play.ring_at = play.ready_at + (ROWS * (int)row + 127) / 128 * 128;
  for (int turn = 0; turn < 2; turn++) {
    play.arrived = play.given_up = 0;
    memset(chosen, 0x5a, sizeof chosen), memset(weights, 0, sizeof weights);
    const char *wrong = gpu_resident(made, (int)count, first, &play, 3 + turn, (size_t)(play.ring_at + ZMI_GPU_RING_SHARED(4)), seed);
    if (wrong) fail_msg("a router of %d experts: %s", experts, wrong);
    assert_memory_equal(chosen, expected, sizeof chosen);
    assert_memory_equal(weights, expected_weights, sizeof weights);
  }
  zmi_free(made);
  matrix_drop(&m);
  free(x), free(rows), free(logits);
}

static void choices_of_every_block(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 6; seed++) {
    check_choice(32, 1024, (int)seed % 3, seed, false);
    check_choice(21, 640, (int)seed % 3, seed, seed % 2);
    check_choice(120, 2048, (int)seed % 3, seed, false);
  }
}

// ---- experts ----

enum { EXPERTS = 8, TOP = 5, WIDTH = 256, VOCAB = 21, LAYERS = 2, MANY_ROWS = 26, MOST_PAIRS = MANY_ROWS * TOP, EACH = 5 };

typedef struct experts {
  int rows;
  matrix router[LAYERS], gate[LAYERS], up[LAYERS];
  float *table;
  char *digits;
  int index[MANY_ROWS], chosen[LAYERS][MOST_PAIRS], position;
  float x[MANY_ROWS * WIDTH], logits[MANY_ROWS * EXPERTS], weights[MOST_PAIRS];
  float raised[MOST_PAIRS * VOCAB], out[LAYERS][MOST_PAIRS * VOCAB];
  zmi_gpu_instruction all[2 + EACH * LAYERS];
} experts;

static zmi_gpu_instruction product_of(const matrix *m, const experts *e, const int *chosen, float *out, int share) {
  const int blocks = (m->g.n + 15) / 16, pairs = e->rows * share;
  zmi_gpu_instruction in = {.kind = ZMI_GPU_DOT, .tiles = pairs * blocks, .shared = ZMI_GPU_DOT_SHARED};
  in.as.dot = (zmi_gpu_dot){.matrix = m->g, .x = at(e->digits), .chosen = chosen ? at(chosen) : 0, .out = at(out), .out_stride = m->g.n};
  in.as.dot.x_bytes = (long long)zmi_digits_bytes(WIDTH, 64, 3);
  in.as.dot.pairs = pairs, in.as.dot.share = share, in.as.dot.blocks = blocks;
  return in;
}

// Rows that an index names, the first of which is the token, and two layers of a router, its choice, and gate and up of the experts.
static void experts_make(experts *e, int rows, uint64_t seed) {
  const zmi_format f = {ZMI_QUANT_AFFINE, 4, 64, ZM_BF16, 0};
  const long long row = (long long)zmi_digits_bytes(WIDTH, 64, 3);
  memset(e, 0x5a, sizeof *e);
  e->rows = rows;
  free(floats(ZMI_GPU_F32, VOCAB * WIDTH, PLAIN, &e->table));
  e->digits = make((size_t)(row * rows));
  for (int i = 0; i < rows; i++) e->index[i] = (int)((seed + (uint64_t)i * 5) % VOCAB);
  memset(e->all, 0, sizeof e->all);
  e->all[0] = (zmi_gpu_instruction){.kind = ZMI_GPU_TAKE, .tiles = rows};
  e->all[0].as.take = (zmi_gpu_take){at(e->table), at(e->index), at(e->x), WIDTH * 4, rows, VOCAB};
  e->all[1] = (zmi_gpu_instruction){.kind = ZMI_GPU_DIGITS, .tiles = rows};
  e->all[1].as.digits = (zmi_gpu_digits){at(e->x), at(e->digits), WIDTH, row, rows, WIDTH, 64, 3, ZMI_GPU_F32, 0};
  for (int l = 0; l < LAYERS; l++) {
    zmi_gpu_instruction *in = &e->all[2 + EACH * l];
    e->router[l] = matrix_make(f, EXPERTS, WIDTH, 1, -1, PLAIN);
    e->gate[l] = matrix_make(f, VOCAB, WIDTH, EXPERTS, -1, PLAIN);
    e->up[l] = matrix_make(f, VOCAB, WIDTH, EXPERTS, -1, PLAIN);
    in[0] = product_of(&e->router[l], e, NULL, e->logits, 1);
    in[1] = (zmi_gpu_instruction){.kind = ZMI_GPU_ROUTE, .tiles = rows, .shared = ZMI_GPU_ROUTE_SHARED(EXPERTS)};
    in[1].as.route = (zmi_gpu_route){.logits = at(e->logits), .chosen = at(e->chosen[l]), .weights = at(e->weights), .scale = 1.0f};
    in[1].as.route.rows = rows, in[1].as.route.experts = EXPERTS, in[1].as.route.k = TOP;
    in[2] = product_of(&e->gate[l], e, e->chosen[l], e->out[l], TOP);
    in[3] = product_of(&e->up[l], e, e->chosen[l], e->raised, TOP);
    in[4] = (zmi_gpu_instruction){.kind = ZMI_GPU_ELEMENTS, .tiles = (rows * TOP * VOCAB + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE};
    in[4].as.elements =
        (zmi_gpu_elements){in[2].as.dot.out, at(e->raised), in[2].as.dot.out, rows * TOP, VOCAB, VOCAB, VOCAB, ZMI_GPU_GATED, ZMI_GPU_F32};
  }
}

// The experts of a later layer, and of a later step, are those that it chooses: weights are not asked for before.
static void check_experts(int rows, int steps, int slots, uint64_t seed) {
  static experts e, expected;
  unsigned long long best[ZMI_GPU_CHOICE_WORDS(GPU_RESIDENT_BLOCKS)] = {0};
  experts_make(&e, rows, seed);
  const experts before = e;
  for (int step = 0, id = 0; step < steps; step++, id = 0) {
    for (size_t i = 0; i < ZMI_COUNT(e.all); i++) assert_null(gpu_step(&e.all[i], 3, seed));
    for (int i = 1; i < VOCAB; i++) id = e.out[LAYERS - 1][i] > e.out[LAYERS - 1][id] ? i : id;
    if (step + 1 < steps) e.index[0] = id;
  }
  expected = e, e = before;
  const zmi_gpu_range output = {at(e.out), sizeof e.out};
  zmi_gpu_instruction *made = NULL;
  size_t count = 0;
  int first = 0, own = 0;
  assert_int_equal(zmi_device_fuse(e.all, ZMI_COUNT(e.all), &output, 1, true, &made, &count, &first), ZM_OK);
  zmi_gpu_play play = {.slots = slots, .each = 1, .most = steps, .vocab = VOCAB, .dtype = ZMI_GPU_F32, .token = at(e.index)};
  play.position = at(&e.position), play.logits = at(e.out[LAYERS - 1]), play.best = at(best);
  for (size_t i = 0; i < count; i++) {
    play.ready_at = ZMI_MAX(play.ready_at, ZMI_GPU_OWN_SHARED + (made[i].shared + 127) / 128 * 128);
    own += made[i].kind == ZMI_GPU_DOT && made[i].as.dot.route && made[i].as.dot.up;
  }
  assert_int_equal(own, rows * TOP <= ZMI_GPU_OWN ? LAYERS : 0);
  play.ring_at = play.ready_at + ZMI_GPU_READY_BYTES;
  const char *wrong = gpu_resident(made, (int)count, first, &play, 4, (size_t)(play.ring_at + ZMI_GPU_RING_SHARED(slots)), seed);
  if (wrong) fail_msg("experts of %d rows, %d steps: %s", rows, steps, wrong);
  assert_int_equal(e.index[0], expected.index[0]);
  assert_memory_equal(e.chosen, expected.chosen, sizeof e.chosen);
  assert_memory_equal(e.out, expected.out, sizeof e.out);
  zmi_free(made);
  for (int l = 0; l < LAYERS; l++) matrix_drop(&e.router[l]), matrix_drop(&e.gate[l]), matrix_drop(&e.up[l]);
  free(e.table), free(e.digits);
}

static void experts_of_later_layers_and_steps(void **state) {
  (void)state;
  for (uint64_t seed = 0; seed < 3; seed++)
    for (int steps = 1; steps <= 3; steps++) {
      check_experts(1, steps, 8, seed);
      check_experts(3, steps, 2, seed);
      check_experts(MANY_ROWS, steps, seed % 2 ? 8 : 4, seed);
    }
}

// The only row of a convolution in front of a product; its state is written behind that.
static void check_convolved(int dtype, int nature, int position, int sequence, bool bias, int taps) {
  enum { N = 21, K = 2240, SEQUENCES = 2 };
  const int size = dtype == ZMI_GPU_F32 ? 4 : 2, weight_dtype = nature % 2             ? ZMI_GPU_F32
                                                                : dtype == ZMI_GPU_F16 ? ZMI_GPU_F16
                                                                                       : ZMI_GPU_BF16;
  const size_t kept = (size_t)(SEQUENCES * (taps - 1) * K * size), row = zmi_digits_bytes(K, 64, 3);
  const bool fused = taps == ZMI_GPU_READY_TAPS;
  matrix m = matrix_make((zmi_format){ZMI_QUANT_AFFINE, 4, 64, ZM_BF16, 0}, N, K, 1, -1, PLAIN);
  void *x = floats(dtype, 3 * K, nature, NULL), *weight = floats(weight_dtype, taps * K, PLAIN, NULL), *y = make(K * 4), *rows = make(row);
  void *b = floats(weight_dtype, K, PLAIN, NULL), *state = floats(dtype, SEQUENCES * (taps - 1) * K, nature, NULL), *before = make(kept);
  char out[N * 2], expected[N * 2];
  zmi_gpu_instruction all[3] = {{.kind = ZMI_GPU_CONV, .tiles = K / ZMI_GPU_CHANNELS, .shared = ZMI_GPU_CONV_SHARED},
                                {.kind = ZMI_GPU_DIGITS, .tiles = (K + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE},
                                {.kind = ZMI_GPU_DOT, .tiles = (N + 15) / 16, .shared = ZMI_GPU_DOT_SHARED}},
                      *made = NULL;
  all[0].as.conv = (zmi_gpu_conv){
      at(x), at(weight),   bias ? at(b) : 0, at(state), at(&position), at(&sequence), at(y), 3 * K, 1, K, taps, SEQUENCES, 3, 2, 0, 1,
      dtype, weight_dtype, weight_dtype,     0};
  all[1].as.digits = (zmi_gpu_digits){at(y), at(rows), K, (long long)row, 1, K, 64, 3, dtype, 0};
  all[2].as.dot = (zmi_gpu_dot){.matrix = m.g,
                                .x = at(rows),
                                .out = at(out),
                                .x_bytes = (long long)row,
                                .out_stride = N,
                                .x_dtype = dtype,
                                .pairs = 1,
                                .share = 1,
                                .blocks = (N + 15) / 16,
                                .dtype = ZMI_GPU_BF16};
  memcpy(before, state, kept);
  for (int i = 0; i < 3; i++) assert_null(gpu_step(&all[i], 3, (uint64_t)i));
  memcpy(expected, out, sizeof out);
  void *after = make(kept);
  memcpy(after, state, kept);
  const zmi_gpu_range output = {at(out), sizeof out};
  size_t count = 0;
  int first = 0;
  assert_int_equal(zmi_device_fuse(all, 3, &output, 1, true, &made, &count, &first), ZM_OK);
  assert_int_equal(count, 3);
  assert_int_equal(made[0].kind, fused ? ZMI_GPU_READY : ZMI_GPU_CONV);
  assert_int_equal(made[2].barrier, fused);
  const int scratch = ZMI_GPU_OWN_SHARED + ZMI_GPU_DOT_SHARED;
  zmi_gpu_play play = {.ready_at = scratch, .ring_at = scratch + ((int)row + 127) / 128 * 128, .slots = 2, .each = 1};
  for (int turn = 0; turn < 2; turn++) {
    play.arrived = play.given_up = 0;
    memset(out, 0x5a, sizeof out), memcpy(state, before, kept);
    const char *wrong =
        gpu_resident(made, (int)count, first, &play, 2 + 3 * turn, (size_t)(play.ring_at + ZMI_GPU_RING_SHARED(2)), (uint64_t)turn);
    if (wrong) fail_msg("convolution in front of a product: %s", wrong);
    if (memcmp(out, expected, sizeof out) != 0)
      fail_msg("dtype %d, nature %d, position %d: the product has other bits", dtype, nature, position);
    if (memcmp(state, after, kept) != 0) fail_msg("dtype %d, nature %d, position %d: the state has other bits", dtype, nature, position);
  }
  zmi_free(made);
  matrix_drop(&m);
  free(x), free(weight), free(y), free(rows), free(b), free(state), free(before), free(after);
}

static void convolutions_of_every_block(void **state) {
  (void)state;
  for (int dtype = 0; dtype < 3; dtype++)
    for (int nature = 0; nature < NATURES; nature++) {
      static const int positions[] = {0, 1, 2, 77, -1}, sequences[] = {0, 1, 1, 0, 0};
      for (int i = 0; i < 5; i++) check_convolved(dtype, nature, positions[i], sequences[i], (i + nature) % 2, 3);
      check_convolved(dtype, nature, 5, 2, false, 3); // nobody's
      check_convolved(dtype, nature, 5, 1, true, 4);
    }
}

// ---- the text ----

static void text_compiles(void **state) {
  (void)state;
  static const char *const cards[] = {"--gpu-architecture=sm_80", "--gpu-architecture=sm_90a", "--gpu-architecture=sm_100"};
  nvrtc n;
  if (!nvrtc_open(&n)) {
    print_message("NVRTC is not installed\n");
    skip();
  }
  for (size_t i = 0; i < ZMI_COUNT(cards); i++) {
    char *words = nvrtc_compile(&n, zmi_gpu_text, cards[i], true);
    if (!words) words = nvrtc_compile(&n, zmi_gpu_moves_text, cards[i], false);
    if (words && (i == 0 || !strstr(words, "invalid value for --gpu-architecture"))) fail_msg("%s: %.2000s", cards[i], words);
    free(words);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(simulation),
      cmocka_unit_test(simulation_finds_what_hangs),
      cmocka_unit_test(digits),
      cmocka_unit_test(norms),
      cmocka_unit_test(embeddings),
      cmocka_unit_test(products),
      cmocka_unit_test(products_of_many_rows),
      cmocka_unit_test(rows_of_every_block),
      cmocka_unit_test(shares_of_workers),
      cmocka_unit_test(tokens_are_chosen),
      cmocka_unit_test(tokens_are_drawn),
      cmocka_unit_test(choices_of_every_block),
      cmocka_unit_test(experts_of_later_layers_and_steps),
      cmocka_unit_test(convolutions_of_every_block),
      cmocka_unit_test(text_compiles),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
