// What has gone wrong in kernels of this kind before, each as one thing that must hold: against plain loops, on operands that show it.
// (That tuning never gives another kernel's choice is in test_kernel_cache, that the pairs of rotated keys are not taken for each other in
// test_kvtc.)
#include "array/array.h"
#include "temp.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <zmlx/zmlx.h>

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

static const char *self;
static uint32_t seed = 7;

static float uniform(void) { // [-2, 2)
  seed = seed * 1664525u + 1013904223u;
  return (float)(int32_t)(seed & ~0xffu) * 0x1p-30f;
}

static zm_array *filled(const float *x, zm_dtype dtype, const int64_t *shape, int rank) {
  zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, shape, rank), dtype);
  if (!a || zm_eval(&a, 1) != ZM_OK) fail_msg("%s", zm_last_error());
  return a;
}

static zm_array *noise(const int64_t *shape, int rank) {
  int64_t n = 1;
  for (int i = 0; i < rank; i++) n *= shape[i];
  float *x = malloc((size_t)n * sizeof *x + 1);
  for (int64_t i = 0; i < n; i++) x[i] = uniform();
  zm_array *a = filled(x, ZM_F32, shape, rank);
  free(x);
  return a;
}

static zm_array *whole(const int32_t *x, const int64_t *shape, int rank) {
  return zm_array_from_data(x, ZM_I32, shape, rank);
}

static const void *data_of(zm_array *a) {
  const void *data = a ? zm_array_data(a) : NULL;
  if (!data) fail_msg("%s", zm_last_error());
  return data;
}

static const float *floats(zm_array *a) {
  a = zm_contiguous(a);
  if (a) assert_int_equal(a->type.dtype, ZM_F32);
  return data_of(a);
}

static float one(zm_array *(*f)(zm_array *), float x) {
  return floats(f(filled(&x, ZM_F32, NULL, 0)))[0];
}

static void near(const char *what, int64_t i, double found, double wanted, double tolerance) {
  if (!(fabs(found - wanted) <= tolerance * (fabs(wanted) + 1e-3)))
    fail_msg("%s, %lld: found %.9g, wanted %.9g", what, (long long)i, found, wanted);
}

#define MUST(call)                                                                                                                         \
  do {                                                                                                                                     \
    if ((call) != ZM_OK) fail_msg("%s", zm_last_error());                                                                                  \
  } while (0)

// ---- kernels ----

static void an_elementwise_kernel_writes_every_element(void) {
  static const int64_t sizes[] = {1, 2, 3, 4, 8, 12, 16, 31, 64, 256, 1000, 4096, 100000};
  zm_op *op = zm_elementwise("x * 2 + 1", NULL);
  assert_non_null(op);
  for (size_t s = 0; s < ZMI_COUNT(sizes); s++) {
    zm_array *x = noise(&sizes[s], 1);
    const float *in = floats(x), *out = floats(zm_op_apply1(op, x, NULL));
    for (int64_t i = 0; i < sizes[s]; i++) assert_true(out[i] == in[i] * 2 + 1);
  }
  zm_op_free(op);
}

// Neither a name nor an address that comes again says which kernel it is.
static void kernels_of_one_name_are_told_apart_by_their_source(void) {
  const float two = 2;
  zm_array *x = filled(&two, ZM_F32, SHAPE(1));
  for (int i = 0; i < 60; i++) {
    char source[32];
    snprintf(source, sizeof source, "x * %d.0f", i % 7);
    zm_op *op = zm_elementwise(source, &(zm_elementwise_options){.name = "same"});
    assert_non_null(op);
    assert_true(floats(zm_op_apply1(op, x, NULL))[0] == (float)(2 * (i % 7)));
    zm_op_free(op);
  }
}

static void a_kernel_without_a_name_has_the_same_one_in_every_process(void) {
  char command[1100], line[2][128];
  zm_op *op = zm_elementwise("x * 3 + 1", NULL);
  assert_non_null(op);
  snprintf(command, sizeof command, "'%s' name", self);
  for (int i = 0; i < 2; i++) {
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_non_null(fgets(line[i], sizeof line[i], f));
    assert_int_equal(pclose(f), 0);
    assert_string_equal(line[i], zm_op_name(op));
  }
  zm_op_free(op);
}

// Tuning measures every way on the operands that it is given, more of them take longer, and no bit changes.
// The least time that autotune found for a reduction of rows of 257; 0 if there is nothing to tune with.
static double tuned_seconds(zm_op *op, int64_t rows) {
  zm_autotune_report report;
  zm_array *x = noise(SHAPE(rows, 257)), *before = zm_op_apply1(op, x, NULL);
  const float *kept = floats(before);
  if (zm_autotune(op, &x, 1, NULL, 0, true, &report) != ZM_OK) return 0;
  assert_true(report.count > 1 && !report.remembered && !report.empty);
  assert_in_range(report.chosen, 0, report.count - 1);
  double fastest = HUGE_VAL;
  for (int i = 0; i < report.count; i++) {
    assert_true(report.candidates[i].seconds > 0);
    fastest = fmin(fastest, report.candidates[i].seconds);
  }
  assert_memory_equal(floats(zm_op_apply1(op, x, NULL)), kept, (size_t)rows * 257 * sizeof(float));
  return fastest;
}

static void tuning_is_no_empty_word(void) {
  enum { ATTEMPTS = 5 }; // other work on the machine may have taken the core from the shorter one
  zm_op *op = zm_map_reduce(&(zm_map_reduce_options){.pass1 = {.init = "0", .update = "acc + x * x"}, .write = "x / sqrt(s1)"});
  if (!op) fail_msg("%s", zm_last_error());
  bool longer = false;
  for (int i = 0; i < ATTEMPTS && !longer; i++) {
    const double few = tuned_seconds(op, 8), many = few > 0 ? tuned_seconds(op, 4096) : 0;
    if (few <= 0 || many <= 0) {
      print_message("# skipped: %s\n", zm_last_error());
      zm_clear_error();
      zm_op_free(op);
      return;
    }
    longer = many > 4 * few; // 512 times the work
  }
  assert_true(longer);
  zm_op_free(op);
}

// ---- mixture of experts ----

static void dispatch_follows_the_indices(void) {
  static const int32_t chosen[] = {2, 0, 1, 2, 2, 1};
  zm_dispatch d;
  zm_array *x = noise(SHAPE(3, 4));
  MUST(zm_moe_dispatch(x, whole(chosen, SHAPE(3, 2)), 3, &d));
  const float *in = floats(x), *rows = floats(d.rows);
  const uint32_t *offsets = data_of(d.offsets), *place = data_of(d.place);
  static const uint32_t wanted[] = {0, 1, 3, 6};
  assert_memory_equal(offsets, wanted, sizeof wanted);
  for (int p = 0; p < 6; p++) {
    assert_true(place[p] >= offsets[chosen[p]] && place[p] < offsets[chosen[p] + 1]);
    assert_memory_equal(rows + 4 * place[p], in + 4 * (p / 2), 4 * sizeof *in);
  }
}

static void gating_of_ten_thousand_rows_is_that_of_a_plain_loop(void) {
  enum { ROWS = 10000, E = 64, K = 4 };
  zm_array *x = noise(SHAPE(ROWS, E)), *weights, *indices;
  MUST(zm_glm_topk_gating(x, K, &weights, &indices));
  const float *in = floats(x), *w = floats(weights);
  const uint32_t *found = data_of(indices);
  for (int r = 0; r < ROWS; r++) {
    bool taken[E] = {false};
    double sum = 0, e[K];
    for (int k = 0; k < K; k++) {
      int best = -1;
      for (int i = 0; i < E; i++) {
        if (!taken[i] && (best < 0 || in[r * E + i] > in[r * E + best])) best = i;
      }
      taken[best] = true;
      assert_int_equal(found[r * K + k], best);
      sum += e[k] = exp((double)in[r * E + best]);
    }
    for (int k = 0; k < K; k++) near("weight", r * K + k, (double)w[r * K + k], e[k] / sum, 2e-6);
  }
}

// Scores below zero: what is masked must not look better.
static void an_expert_of_a_masked_group_is_never_chosen(void) {
  enum { ROWS = 300, E = 8, GROUP = 4 };
  float bias[E];
  for (int i = 0; i < E; i++) bias[i] = -5;
  zm_array *x = noise(SHAPE(ROWS, E)), *weights, *indices;
  MUST(zm_deepseek_router_topk_sigmoid(x, filled(bias, ZM_F32, SHAPE(E)), 3, 2, 1, &weights, &indices));
  const float *in = floats(x), *w = floats(weights);
  const uint32_t *found = data_of(indices);
  for (int r = 0; r < ROWS; r++) {
    double best[2];
    for (int g = 0; g < 2; g++) { // the sum of the two largest
      double a = 0, b = 0;
      for (int i = 0; i < GROUP; i++) {
        const double s = 1 / (1 + exp(-(double)in[r * E + g * GROUP + i]));
        if (s > a)
          b = a, a = s;
        else if (s > b)
          b = s;
      }
      best[g] = a + b;
    }
    if (fabs(best[0] - best[1]) < 1e-5) continue;
    for (int k = 0; k < 3; k++) {
      assert_int_equal(found[r * 3 + k] / GROUP, best[1] > best[0]);
      assert_true(w[r * 3 + k] > 0 && w[r * 3 + k] < 1);
    }
  }
}

// Scores that rank with or below whatever a masked one could be: NaN, and a bias of -infinity.
static void no_score_is_so_low_that_a_masked_expert_is_chosen(void) {
  static const struct {
    int64_t experts, k;
    float logits[8], bias[8];
    uint32_t wanted[4];
  } cases[] = {
      {8, 3, {9, 9, NAN, NAN, 0, 0, 0, 0}, {0}, {0, 1, 2}},
      {8, 4, {0}, {0, 0, 0, 0, 5, 5, -INFINITY, -INFINITY}, {4, 5, 6, 7}},
      {8, 4, {0}, {-INFINITY, -INFINITY, 5, 5, 0, 0, 0, 0}, {2, 3, 0, 1}},
      {4, 2, {NAN, NAN, NAN, NAN}, {0}, {0, 1}},
      {4, 2, {0}, {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, {0, 1}},
  };
  for (size_t c = 0; c < ZMI_COUNT(cases); c++) {
    zm_array *x = filled(cases[c].logits, ZM_F32, SHAPE(1, cases[c].experts)), *weights, *indices;
    zm_array *bias = filled(cases[c].bias, ZM_F32, SHAPE(cases[c].experts));
    MUST(zm_deepseek_router_topk_sigmoid(x, bias, (int)cases[c].k, 2, 1, &weights, &indices));
    const uint32_t *found = data_of(indices);
    for (int64_t i = 0; i < cases[c].k; i++) {
      if (found[i] != cases[c].wanted[i]) fail_msg("case %zu, choice %lld is %u", c, (long long)i, found[i]);
    }
  }
}

// Indices of 64 bits that would be good ones in their low 32.
static void an_index_beyond_32_bits_is_out_of_range(void) {
  static const int64_t far[] = {((int64_t)1 << 32) + 1, 0};
  static const uint64_t top[] = {UINT64_MAX, 1};
  zm_array *index = zm_array_from_data(far, ZM_I64, SHAPE(2)), *most = zm_array_from_data(top, ZM_U64, SHAPE(2)), *x = noise(SHAPE(2, 4));
  const float *y = floats(zm_fused_scatter_add(index, x, SHAPE(3, 4)));
  for (int i = 0; i < 12; i++) assert_true(y[i] == (i < 4 ? floats(x)[4 + i] : 0));
  zm_dispatch d;
  MUST(zm_moe_dispatch(x, zm_reshape(index, SHAPE(2, 1)), 2, &d));
  static const uint32_t first_alone[] = {0, 1, 1};
  assert_memory_equal(data_of(d.offsets), first_alone, sizeof first_alone);
  const float *loss = floats(zm_softmax_cross_entropy(x, index, -1));
  assert_true(isnan(loss[0]) && !isnan(loss[1])); // a target that is no class
  assert_true(isnan(floats(zm_softmax_cross_entropy(x, most, -1))[0]));
  zm_array *cache = noise(SHAPE(2, 1, 1, 4)), *q = noise(SHAPE(2, 1, 4));
  const float *seen = floats(zm_paged_attention(q, cache, cache, zm_reshape(index, SHAPE(2, 1)), most, 0));
  assert_true(seen[0] == 0 && seen[4] == floats(cache)[0]); // no block, then the one position of block 0
}

static zm_affine some_codes(int64_t experts, int64_t n) {
  return (zm_affine){.words = zm_full(3, ZM_U32, SHAPE(experts, n, 8)),
                     .scales = zm_full(1, ZM_F32, SHAPE(experts, n, 1)),
                     .biases = zm_full(0, ZM_F32, SHAPE(experts, n, 1))};
}

static void a_gate_without_what_it_gates_is_refused(void) {
  zm_affine w = some_codes(2, 3);
  const int32_t chosen[] = {1};
  zm_array *x = noise(SHAPE(1, 64)), *e = whole(chosen, SHAPE(1, 1)), *row = zm_reshape(x, SHAPE(1, 1, 64));
  assert_non_null(zm_fused_swiglu_gather_qmv(x, &w, &w, e));
#define REFUSED(call, says)                                                                                                                \
  do {                                                                                                                                     \
    zm_clear_error();                                                                                                                      \
    assert_null(call);                                                                                                                     \
    assert_string_equal(zm_last_error(), says);                                                                                            \
  } while (0)
  REFUSED(zm_fused_swiglu_gather_qmv(x, &w, NULL, e), "fused_swiglu_gather_qmv: up is NULL");
  REFUSED(zm_fused_swiglu_gather_qmv(x, NULL, &w, e), "fused_swiglu_gather_qmv: gate is NULL");
  REFUSED(zm_gather_qmm_swiglu(row, &w, NULL, NULL, NULL), "gather_qmm_swiglu: up is NULL");
  REFUSED(zm_fused_quantized_swiglu_gemv(x, NULL, &w), "fused_quantized_swiglu_gemv: gate is NULL");
  // What names experts, blocks or positions is whole.
  zm_array *half = zm_full(0.5, ZM_F32, SHAPE(1, 1)), *line = zm_reshape(half, SHAPE(1));
  REFUSED(zm_fused_swiglu_gather_qmv(x, &w, &w, half), "fused_swiglu_gather_qmv: experts: expected integers, found float32");
  REFUSED(zm_gather_qmm_swiglu(row, &w, &w, half, NULL), "gather_qmm_swiglu: lhs_indices: expected integers, found float32");
  REFUSED(zm_fused_scatter_add(line, x, SHAPE(3, 64)), "fused_scatter_add: indices: expected integers, found float32");
  zm_array *cache = noise(SHAPE(2, 1, 1, 4)), *q = noise(SHAPE(1, 1, 4));
  REFUSED(zm_paged_attention(q, cache, cache, e, line, 0), "paged_attention: context_lens: expected integers, found float32");
#undef REFUSED
}

// ---- caches and attention ----

static void an_update_of_a_cache_keeps_what_was_there(void) {
  enum { M = 5, D = 4 };
  static const int32_t offset[] = {3};
  zm_array *kc = noise(SHAPE(1, M, 1, D)), *vc = noise(SHAPE(1, M, 1, D)), *q, *k_new, *v_new;
  zm_array *v = noise(SHAPE(1, 1, D)), *table = noise(SHAPE(M, D / 2));
  const zm_rope_cache a = {.q = noise(SHAPE(1, 2, D)),
                           .k = noise(SHAPE(1, 1, D)),
                           .v = v,
                           .cosine = table,
                           .sine = table,
                           .k_cache = kc,
                           .v_cache = vc,
                           .offset = whole(offset, SHAPE(1))};
  MUST(zm_rope_and_cache_update(&a, &q, &k_new, &v_new));
  const float *was[] = {floats(kc), floats(vc)}, *is[] = {floats(k_new), floats(v_new)};
  for (int c = 0; c < 2; c++) {
    for (int m = 0; m < M; m++) assert_true((memcmp(was[c] + m * D, is[c] + m * D, D * sizeof(float)) == 0) == (m != 3));
  }
  assert_memory_equal(is[1] + 3 * D, floats(v), D * sizeof(float));
}

static void attention_sees_more_than_4096_positions(void) {
  enum { BLOCKS = 320, BS = 16, N = 5000, D = 2 };
  int32_t table[BLOCKS], length[] = {N};
  float *v = calloc(BLOCKS * BS * D, sizeof *v), zero[D] = {0};
  for (int i = 0; i < BLOCKS; i++) table[i] = BLOCKS - 1 - i;
  for (int t = 0; t < N; t++) v[((BLOCKS - 1 - t / BS) * BS + t % BS) * D] = t >= 4096; // all weigh the same
  zm_array *values = filled(v, ZM_F32, SHAPE(BLOCKS, BS, 1, D)), *keys = noise(SHAPE(BLOCKS, BS, 1, D));
  free(v);
  zm_array *y =
      zm_paged_attention(filled(zero, ZM_F32, SHAPE(1, 1, D)), keys, values, whole(table, SHAPE(1, BLOCKS)), whole(length, SHAPE(1)), 0);
  near("share of the late positions", 0, (double)floats(y)[0], (N - 4096.0) / N, 1e-5);
}

// ---- quantized numbers ----

static void the_gate_of_quantized_numbers_has_no_factor_of_its_own(void) {
  static const int8_t a[] = {-128, -5, 0, 1, 7, 127}, b[] = {3, -90, 5, 127, -128, 11};
  const float s1[] = {0.03125f, 0.0625f}, s2[] = {0.25f, 0.5f};
  zm_array *y = zm_fused_swiglu_quant(zm_array_from_data(a, ZM_I8, SHAPE(6)), filled(s1, ZM_F32, SHAPE(2)),
                                      zm_array_from_data(b, ZM_I8, SHAPE(6)), filled(s2, ZM_F32, SHAPE(2)), 3);
  for (int i = 0; i < 6; i++) {
    const double g = a[i] * (double)s1[i / 3], u = b[i] * (double)s2[i / 3];
    near("swiglu", i, (double)floats(y)[i], g / (1 + exp(-g)) * u, 2e-6);
  }
}

static void nibbles_of_int4_have_a_sign(void) {
  uint8_t all[128];
  const float scale = 0.5f;
  for (int i = 0; i < 128; i++) all[i] = (uint8_t)(2 * i + (i & 1));
  const float *y = floats(zm_dequantize_int4(zm_array_from_data(all, ZM_U8, SHAPE(128)), filled(&scale, ZM_F32, SHAPE(1))));
  for (int i = 0; i < 256; i++) {
    const int nibble = i & 1 ? all[i / 2] >> 4 : all[i / 2] & 15;
    assert_true(y[i] == 0.5f * (float)(nibble < 8 ? nibble : nibble - 16));
  }
}

// Code i of `bits` bits begins at bit i * bits of the row, also where that is across two words.
static void packed_codes_are_one_stream_of_bits_in_every_width(void) {
  static const int widths[] = {2, 3, 4, 5, 6, 8};
  for (size_t w = 0; w < ZMI_COUNT(widths); w++) {
    const int bits = widths[w];
    uint32_t words[8] = {0}, code[32];
    const float unit = 1, zero = 0;
    for (int i = 0; i < 32; i++) {
      code[i] = (uint32_t)(i * 37 + 11) & ((1u << bits) - 1);
      for (int k = 0; k < bits; k++) words[(i * bits + k) / 32] |= (code[i] >> k & 1) << (i * bits + k) % 32;
    }
    zm_array *packed = zm_array_from_data(words, ZM_U32, SHAPE(1, bits));
    const float *y =
        floats(zm_dequantize_affine_packed(packed, filled(&unit, ZM_F32, SHAPE(1, 1)), filled(&zero, ZM_F32, SHAPE(1, 1)), bits, 32));
    for (int i = 0; i < 32; i++) assert_true(y[i] == (float)code[i]);
  }
}

static void codes_of_keys_and_values_are_packed(void) {
  for (int bits = 2; bits <= 8; bits *= 2) {
    zm_skv state;
    zm_array *kv = noise(SHAPE(8, 2, 8)), *basis = noise(SHAPE(2, 8, 4));
    MUST(zm_skv_fused_project_quantize(kv, basis, bits, 16, &state));
    assert_int_equal(zm_array_size(state.words), 8 * 2 * 4 * bits / 32);
    assert_int_equal(zm_array_size(state.scales), 4);
    // What is unpacked is within half a step of what was packed.
    const float *x = floats(kv), *b = floats(basis), *scales = floats(state.scales), *zeros = floats(state.zeros);
    const uint32_t *words = data_of(state.words);
    for (int i = 0; i < 64; i++) {
      double c = 0;
      for (int d = 0; d < 8; d++) c += (double)x[i / 4 * 8 + d] * (double)b[i / 4 % 2 * 32 + d * 4 + i % 4];
      const uint32_t code = words[i * bits / 32] >> i * bits % 32 & ((1u << bits) - 1);
      const double value = code * (double)scales[i / 16] + (double)zeros[i / 16];
      if (!(fabs(value - c) <= 0.5001 * (double)scales[i / 16] + 1e-5)) fail_msg("%d bits, %d: %g, packed as %g", bits, i, c, value);
    }
  }
}

// ---- numbers ----

static void softplus_of_large_numbers_is_the_number(void) {
  assert_true(one(zm_softplus, 200) == 200 && one(zm_softplus, 1e30f) == 1e30f && one(zm_softplus, INFINITY) == INFINITY);
  assert_true(one(zm_mish, 500) == 500 && isnan(one(zm_softplus, NAN)));
  near("softplus", 0, (double)one(zm_softplus, -20) * 1e9, exp(-20.0) * 1e9, 1e-5);
}

static void sigmoid_is_stable_at_both_ends(void) {
  assert_true(one(zm_sigmoid, 200) == 1 && one(zm_sigmoid, -200) == 0 && one(zm_sigmoid, -INFINITY) == 0 && one(zm_sigmoid, INFINITY) == 1);
  assert_true(one(zm_silu, -200) == 0 && one(zm_silu, 1e30f) == 1e30f);
  near("sigmoid", 0, (double)one(zm_sigmoid, -40) * 1e18, 1e18 / (1 + exp(40.0)), 1e-5);
}

static void layernorm_of_a_large_mean_keeps_its_variance(void) {
  enum { D = 64 };
  float x[D];
  double mean = 0, var = 0;
  for (int i = 0; i < D; i++) x[i] = 100000 + (float)(i % 5) * 0.25f;
  for (int i = 0; i < D; i++) mean += (double)x[i] / D;
  for (int i = 0; i < D; i++) var += ((double)x[i] - mean) * ((double)x[i] - mean) / D;
  const float *y = floats(zm_layer_norm_no_weight(filled(x, ZM_F32, SHAPE(1, D)), 1e-5));
  // The mean itself is rounded to a float: 2^-8 at 100000.
  for (int i = 0; i < D; i++) assert_true(fabs((double)y[i] - ((double)x[i] - mean) / sqrt(var + 1e-5)) <= 0x1p-7 / sqrt(var));
}

static void ties_go_to_the_lowest_place(void) {
  enum { D = 1000 };
  float x[D];
  for (int i = 0; i < D; i++) x[i] = i == 17 || i == 18 || i == 400 || i == 999 ? 5.0f : (float)(i % 4);
  zm_array *a = filled(x, ZM_F32, SHAPE(1, D)), *values, *places;
  assert_int_equal(*(const uint32_t *)data_of(zm_argmax_lastdim(a)), 17);
  MUST(zm_topk_lastdim(a, 6, &values, &places));
  static const uint32_t wanted[] = {17, 18, 400, 999, 3, 7};
  assert_memory_equal(data_of(places), wanted, sizeof wanted);
}

static void a_reduction_of_one_axis_gives_a_scalar(void) {
  zm_array *x = noise(SHAPE(7));
  zm_op *op = zm_reduce(&(zm_reduce_options){.update = "acc + v"});
  assert_non_null(op);
  zm_array *all[] = {zm_sum_lastdim(x), zm_max_lastdim(x), zm_argmax_lastdim(x), zm_logsumexp_lastdim(x), zm_op_apply1(op, x, NULL)};
  for (size_t i = 0; i < ZMI_COUNT(all); i++) {
    data_of(all[i]);
    assert_int_equal(all[i]->type.rank, 0);
    assert_int_equal(zm_array_size(all[i]), 1);
  }
  zm_op_free(op);
}

// ---- gradients ----

static zm_status rmsnorm(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  return (out[0] = zm_rmsnorm(in[0], in[1], 1e-6)) ? ZM_OK : zm_last_status();
}

static void the_weight_of_a_norm_has_a_gradient(void) {
  enum { R = 5, D = 6 };
  zm_array *in[] = {noise(SHAPE(R, D)), noise(SHAPE(D))}, *g = noise(SHAPE(R, D)), *y, *gradient[2];
  MUST(zm_vjp(rmsnorm, NULL, in, 2, &g, &y, 1, gradient));
  const float *x = floats(in[0]), *c = floats(g), *found = floats(gradient[1]);
  double wanted[D] = {0};
  for (int r = 0; r < R; r++) {
    double q = 0;
    for (int i = 0; i < D; i++) q += (double)x[r * D + i] * (double)x[r * D + i] / D;
    for (int i = 0; i < D; i++) wanted[i] += (double)c[r * D + i] * (double)x[r * D + i] / sqrt(q + 1e-6);
  }
  for (int i = 0; i < D; i++) near("weight", i, (double)found[i], wanted[i], 1e-4);
}

static zm_status biased(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  static zm_array *(*const f[])(zm_array *, zm_array *) = {zm_add_bias, zm_bias_gelu_tanh, zm_bias_silu, zm_bias_swiglu, zm_bias_geglu};
  (void)nin, (void)nout;
  return (out[0] = f[*(const int *)user](in[0], in[1])) ? ZM_OK : zm_last_status();
}

// x and bias enter as a sum: the gradient by the bias is that by x, summed over the rows.
static void a_bias_has_the_gradient_of_what_it_is_added_to(void) {
  enum { R = 4, D = 6 };
  for (int f = 0; f < 5; f++) {
    zm_array *in[] = {noise(SHAPE(R, D)), noise(SHAPE(D))}, *y, *gradient[2];
    MUST(zm_vjp(biased, &f, in, 2, NULL, &y, 1, gradient));
    const float *x = floats(gradient[0]), *b = floats(gradient[1]);
    double size = 0;
    for (int i = 0; i < D; i++) {
      double sum = 0;
      for (int r = 0; r < R; r++) sum += (double)x[r * D + i];
      near("bias", i, (double)b[i], sum, 1e-4);
      size += fabs(sum);
    }
    assert_true(size > 0.1);
  }
}

static zm_status normed_and_sum(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  return zm_add_rms_norm(in[0], in[1], in[2], 1e-6, &out[0], &out[1]);
}

static void the_cotangents_of_all_results_count(void) {
  enum { N = 12 };
  zm_array *in[] = {noise(SHAPE(2, 6)), noise(SHAPE(2, 6)), noise(SHAPE(6))}, *out[2], *both[3], *first[3], *second[3];
  zm_array *g[] = {noise(SHAPE(2, 6)), noise(SHAPE(2, 6))}, *none = zm_full(0, ZM_F32, SHAPE(2, 6));
  MUST(zm_vjp(normed_and_sum, NULL, in, 3, g, out, 2, both));
  MUST(zm_vjp(normed_and_sum, NULL, in, 3, (zm_array *[]){g[0], none}, out, 2, first));
  MUST(zm_vjp(normed_and_sum, NULL, in, 3, (zm_array *[]){none, g[1]}, out, 2, second));
  const float *a = floats(both[0]), *b = floats(first[0]), *c = floats(second[0]), *sum = floats(g[1]);
  for (int i = 0; i < N; i++) {
    near("of the sum alone", i, (double)c[i], (double)sum[i], 1e-6);
    near("of both", i, (double)a[i], (double)b[i] + (double)c[i], 1e-4);
  }
}

typedef struct chosen {
  zm_op *op; // NULL: the function
  zm_array *(*function)(zm_array *);
} chosen;

static zm_array *elu(zm_array *x) {
  return zm_elu(x, 0.5);
}

static zm_array *elu_gradient(zm_array *x) {
  return zm_elu_grad(x, zm_ones_like(x), 0.5);
}

static zm_status of_chosen(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const chosen *c = user;
  (void)nin, (void)nout;
  out[0] = c->op ? zm_op_apply1(c->op, in[0], NULL) : c->function(in[0]);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status slope_of_chosen(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *y;
  (void)nout;
  return zm_vjp(of_chosen, user, in, nin, NULL, &y, 1, out);
}

// Where the side that was not chosen has an infinite slope: times the zero that passes the choice it would be NaN.
static void the_slope_of_what_was_not_chosen_stays_out(void) {
  static const struct {
    const char *source;
    zm_array *(*function)(zm_array *);
    float x;
    double first, second;
  } cases[] = {
      {"x > 0 ? x : exp(x) - 1", NULL, 200, 1, 0},
      {"x > 0 ? x : exp(x) * exp(x)", NULL, 200, 1, 0},
      {"x > 0 ? log(x) : 2 * x", NULL, 0, 2, 0},
      {"x > 0 ? x * sqrt(x) : 0", NULL, 0, 0, 0},
      {"x > 0 ? (x > 1 ? 3 * x : sqrt(x)) : x * x", NULL, 0, 0, 2},
      {"x > 0 ? x * x : exp(-1 / x)", NULL, 3, 6, 2},
      {"min(x, exp(x))", NULL, 200, 1, 0},
      {NULL, elu, 200, 1, 0},
      {NULL, elu, -1, 0.5 * 0.36787944117144233, 0.5 * 0.36787944117144233},
      {NULL, elu_gradient, 200, 0, 0},
      {NULL, zm_relu2, 3, 6, 2},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    chosen c = {cases[i].source ? zm_elementwise(cases[i].source, NULL) : NULL, cases[i].function};
    if (!c.op && !c.function) fail_msg("%s", zm_last_error());
    zm_array *x = filled(&cases[i].x, ZM_F32, NULL, 0), *y, *first, *second;
    MUST(slope_of_chosen(&c, &x, 1, &first, 1));
    MUST(zm_vjp(slope_of_chosen, &c, &x, 1, NULL, &y, 1, &second));
    near(cases[i].source ? cases[i].source : "first derivative", (int64_t)i, (double)floats(first)[0], cases[i].first, 1e-5);
    near(cases[i].source ? cases[i].source : "second derivative", (int64_t)i, (double)floats(second)[0], cases[i].second, 1e-5);
    zm_op_free(c.op);
  }
}

// ---- slopes at every magnitude ----

static double sigmoid_of(double x) {
  return 1 / (1 + exp(-x));
}

static double slope_of(const char *word, double x) {
#define IS(name) (strcmp(word, name) == 0)
  const double s = sigmoid_of(x), bell = s * sigmoid_of(-x), t = tanh(fmax(x, 0) + log1p(exp(-fabs(x)))), k = 0.071354816272600253;
  const double u = x * (1.5957691216057308 + k * x * x), rise = 1.5957691216057308 + 3 * k * x * x;
  if (IS("exp") || IS("expm1")) return exp(x);
  if (IS("log")) return 1 / x;
  if (IS("tanh")) return pow(cosh(x), -2);
  if (IS("sigmoid")) return bell;
  if (IS("relu")) return x > 0;
  if (IS("relu2")) return x > 0 ? 2 * x : 0;
  if (IS("silu")) return s + x * bell;
  if (IS("gelu_tanh")) return sigmoid_of(u) + x * sigmoid_of(u) * sigmoid_of(-u) * rise;
  if (IS("softplus")) return s;
  if (IS("mish")) return t + x * (1 - t * t) * s;
  return x > 0 ? 1 : 0.5 * exp(x); // elu
}

static zm_array *half_elu_grad(zm_array *x, zm_array *g) {
  return zm_elu_grad(x, g, 0.5);
}

// scale: of sums of terms of either sign, one of them x times a rounded 1 - s.
static void slope_near(const char *word, zm_array *slope, double x, zm_dtype dtype) {
  const double unit = dtype == ZM_F32 ? 0x1p-23 : dtype == ZM_F16 ? 0x1p-11 : 0x1p-8, least = dtype == ZM_F16 ? 0x1p-23 : 2e-36;
  const double want = slope_of(word, x), scale = IS("silu") || IS("mish") || IS("gelu_tanh") ? 4 : 0;
  const double found = (double)floats(zm_astype(slope, ZM_F32))[0];
  if (fabs(want) > (dtype == ZM_F16 ? 65000 : 3.4e38)) return;
  if (!(fabs(found - want) <= 4 * unit * (fabs(want) + scale) + least))
    fail_msg("%s, %s, at %.9g: %.9g, wanted %.9g", word, zm_dtype_name(dtype), x, found, want);
}

static void relu_passes_nothing_back_where_x_is_nan(void) {
  zm_array *(*const functions[])(zm_array *) = {zm_relu, zm_relu2};
  zm_array *(*const rows[])(zm_array *, zm_array *) = {zm_relu_grad, zm_relu2_grad};
  for (size_t i = 0; i < ZMI_COUNT(functions); i++) {
    const float nan = NAN, one_of_g = 1;
    zm_array *x = filled(&nan, ZM_F32, NULL, 0), *g = filled(&one_of_g, ZM_F32, NULL, 0), *slope;
    MUST(slope_of_chosen(&(chosen){NULL, functions[i]}, &x, 1, &slope, 1));
    assert_true(isnan(one(functions[i], nan)));
    assert_true(floats(slope)[0] == 0 && floats(rows[i](x, g))[0] == 0);
  }
}

// What is left of 1 - y^2, 1 - y and y + 1 where y was rounded to nearly 1 or -1, and a factor that stays what it is while x grows.
static void slopes_keep_their_digits_at_every_magnitude(void) {
#define SLOPE(word)                                                                                                                        \
  { #word, zm_##word, zm_##word##_grad, NULL }
  static const struct {
    const char *word;
    zm_array *(*function)(zm_array *);
    zm_array *(*row)(zm_array *, zm_array *);
    const char *source;
  } cases[] = {SLOPE(exp),
               SLOPE(log),
               SLOPE(relu),
               SLOPE(relu2),
               SLOPE(silu),
               SLOPE(gelu_tanh),
               SLOPE(softplus),
               SLOPE(mish),
               {"tanh", zm_tanh, zm_tanh_grad, "tanh(x)"},
               {"sigmoid", zm_sigmoid, zm_sigmoid_grad, "sigmoid(x)"},
               {"elu", elu, half_elu_grad, "x > 0 ? x : 0.5 * expm1(x)"},
               {"expm1", zm_expm1, NULL, "expm1(x)"}};
  static const float magnitudes[] = {1e-37f, 1e-30f, 1e-8f, 1e-3f, 0.1f, 0.5f, 1,  2,  3,   4,    5,    8,    10,    10.5f,
                                     15,     20,     30,    43,    60,   80,   86, 89, 100, 1e3f, 1e5f, 1e8f, 1e18f, 3e38f};
  static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16, ZM_F16};
  for (size_t c = 0; c < ZMI_COUNT(cases); c++) {
    chosen by_function = {NULL, cases[c].function}, by_source = {cases[c].source ? zm_elementwise(cases[c].source, NULL) : NULL, NULL};
    for (size_t i = 0; i < 2 * ZMI_COUNT(magnitudes) * ZMI_COUNT(dtypes); i++) {
      const zm_dtype dtype = dtypes[i % ZMI_COUNT(dtypes)];
      const float magnitude = magnitudes[i / ZMI_COUNT(dtypes) / 2], x = i / ZMI_COUNT(dtypes) % 2 ? -magnitude : magnitude, one = 1;
      zm_scope *scope = zm_scope_open();
      zm_array *a = filled(&x, dtype, NULL, 0), *g = filled(&one, dtype, NULL, 0), *slope;
      const double at = (double)floats(zm_astype(a, ZM_F32))[0];
      const bool there = isfinite(at) && !(at <= 0 && c == 1) && !(magnitude > 1e19f && c == 5); // x^2 of gelu_tanh must be finite
      if (there) {
        MUST(slope_of_chosen(&by_function, &a, 1, &slope, 1));
        slope_near(cases[c].word, slope, at, dtype);
        if (cases[c].row) slope_near(cases[c].word, cases[c].row(a, g), at, dtype);
      }
      if (there && by_source.op) {
        MUST(slope_of_chosen(&by_source, &a, 1, &slope, 1));
        slope_near(cases[c].word, slope, at, dtype);
      }
      zm_scope_close(scope);
    }
    zm_op_free(by_source.op);
  }
}

// ---- slopes of powers ----

typedef struct nested {
  zm_op *op; // NULL: zm_power
  int order; // of the derivative by a; the last one may be by b
  bool by_b;
} nested;

static zm_status slope_of_power(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const nested *n = user;
  nested inner = {n->op, n->order - 1, false};
  zm_array *y, *gradient[2];
  (void)nout;
  if (n->order == 0) {
    out[0] = n->op ? NULL : zm_power(in[0], in[1]);
    return n->op ? zm_op_apply(n->op, in, nin, out, 1) : out[0] ? ZM_OK : zm_last_status();
  }
  const zm_status status = zm_vjp(slope_of_power, &inner, in, nin, NULL, &y, 1, gradient);
  if (status == ZM_OK) out[0] = gradient[n->by_b];
  return status;
}

// b a^(b - 1) is 0 where b is 0, and a^b log(a) where a^b is, in the operation and in the language; so are all further slopes of constants.
static void a_power_that_is_constant_has_no_slope(void) {
  static const struct {
    int order;
    bool by_b;
    float a, b;
    double wanted;
  } cases[] = {
      {1, false, 0, 0, 0},          {1, false, INFINITY, 0, 0}, {1, false, NAN, 0, 0},        {1, false, 2, 0, 0},
      {1, false, 0, 1, 1},          {1, false, 0, 2, 0},        {1, false, 0, -1, -INFINITY}, {1, false, 3, 2, 6},
      {2, false, 0, 1, 0},          {2, false, 0, 2, 2},        {3, false, 0, 2, 0},          {2, false, 0, 0, 0},
      {3, false, 2, 3, 6},          {1, true, 0, NAN, NAN},     {1, true, 0, 0, -INFINITY},   {1, true, 0, -1, -INFINITY},
      {1, true, 0, 2, 0},           {1, true, INFINITY, -1, 0}, {1, true, 2, 3, 5.545177444}, {2, true, 2, 0, 0.5},
      {2, true, 2, 3, 12.31776617}, {2, true, 0, 3, 0},
  };
  zm_op *op = zm_elementwise("pow(a, b)", &(zm_elementwise_options){.inputs = "a b"});
  assert_non_null(op);
  for (size_t i = 0; i < 2 * ZMI_COUNT(cases); i++) {
    const size_t c = i / 2;
    zm_array *in[2] = {filled(&cases[c].a, ZM_F32, NULL, 0), filled(&cases[c].b, ZM_F32, NULL, 0)}, *slope = NULL;
    MUST(slope_of_power(&(nested){i % 2 ? op : NULL, cases[c].order, cases[c].by_b}, in, 2, &slope, 1));
    const double found = (double)floats(slope)[0], wanted = cases[c].wanted;
    if (isnan(wanted) ? !isnan(found) : !(found == wanted || fabs(found - wanted) <= 1e-5 * fabs(wanted)))
      fail_msg("case %zu, %s: found %g, wanted %g", c, i % 2 ? "pow" : "zm_power", found, wanted);
  }
  zm_op_free(op);
  const float small = 1e-5f, zero = 0; // 1 / a is infinite in float16
  zm_array *half[2] = {filled(&small, ZM_F16, NULL, 0), filled(&zero, ZM_F16, NULL, 0)}, *slope = NULL;
  MUST(slope_of_power(&(nested){NULL, 1, false}, half, 2, &slope, 1));
  assert_true(floats(zm_astype(slope, ZM_F32))[0] == 0);
}

static zm_status cross_entropy(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  return (out[0] = zm_softmax_cross_entropy(in[0], user, -1)) ? ZM_OK : zm_last_status();
}

static zm_status cross_entropy_twice(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *loss, *gradient;
  zm_status status = zm_vjp(cross_entropy, user, in, nin, NULL, &loss, nout, &gradient);
  return status == ZM_OK && !(out[0] = zm_square(gradient)) ? zm_last_status() : status;
}

// A loss that is NaN with a gradient of 0 would be trained on in silence.
static void a_target_that_is_no_class_has_no_gradient_of_zero(void) {
  static const int32_t targets[] = {2, -1, 3, -2};
  zm_array *x = noise(SHAPE(4, 3)), *t = whole(targets, SHAPE(4)), *loss, *derived;
  MUST(zm_vjp(cross_entropy, t, &x, 1, NULL, &loss, 1, &derived));
  const float *a = floats(derived), *b = floats(zm_softmax_cross_entropy_grad(x, t, zm_ones_like(loss), -1));
  for (int i = 0; i < 12; i++) {
    assert_true(!isnan(a[i]) == (i < 6) && !isnan(b[i]) == (i < 6));
    if (i < 3) near("gradient", i, (double)a[i], (double)b[i], 1e-4);
    if (i >= 3 && i < 6) assert_true(a[i] == 0 && b[i] == 0); // ignored
  }
  // NaN in an ignored row, as padding may have it, stays there, in every derivative.
  const float nan = (float)NAN;
  zm_array *padded = zm_slice_update(x, zm_array_from_data(&nan, ZM_F32, SHAPE(1, 1)), (int64_t[]){1, 2}, (int64_t[]){2, 3}, NULL);
  zm_array *second;
  MUST(zm_vjp(cross_entropy, t, &padded, 1, NULL, &loss, 1, &derived));
  a = floats(derived);
  MUST(zm_vjp(cross_entropy_twice, t, &padded, 1, NULL, &loss, 1, &second));
  b = floats(second);
  for (int i = 0; i < 6; i++) assert_true(i < 3 ? !isnan(a[i]) && !isnan(b[i]) && a[i] != 0 && b[i] != 0 : a[i] == 0 && b[i] == 0);
}

// ---- comparisons ----

static zm_status off_by(void *user, zm_array *const *in, int nin, zm_array **out, int nout) { // at one place of the whole
  (void)nin, (void)nout;
  const int64_t n = zm_array_size(in[0]);
  float *x = calloc((size_t)n, sizeof *x);
  x[2] = (float)*(const double *)user;
  out[0] = zm_add(in[0], zm_array_from_data(x, ZM_F32, &n, 1));
  free(x);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status compared(double off, double other, double low, double high) {
  const zm_shape shape = {1, {40}};
  const zm_match m = {.name = "off",
                      .f = off_by,
                      .user = &off,
                      .reference = off_by,
                      .reference_user = &other,
                      .nin = 1,
                      .shapes = &shape,
                      .sets = 1,
                      .dtypes = (zm_dtype[]){ZM_F32},
                      .dtype_count = 1,
                      .low = {low},
                      .high = {high},
                      .rtol = 1e-4,
                      .atol = 1e-4};
  return zm_assert_matches(&m);
}

static void nan_never_matches(void) {
  assert_int_equal(compared(0, 0, 1, 2), ZM_OK);
  assert_int_not_equal(compared(NAN, 0, 1, 2), ZM_OK);
  assert_int_not_equal(compared(0, NAN, 1, 2), ZM_OK);
  assert_int_not_equal(compared(NAN, NAN, 1, 2), ZM_OK);
}

// A small relative error does not excuse a large absolute one beyond the bound of both, nor the other way round.
static void one_bound_of_both_tolerances_must_hold(void) {
  assert_int_equal(compared(1.2e-4, 0, 1, 2), ZM_OK);         // within 1e-4 + 1e-4 |v|
  assert_int_not_equal(compared(4e-4, 0, 1, 2), ZM_OK);       // beyond it
  assert_int_equal(compared(0.5, 0, 10000, 10001), ZM_OK);    // 5e-5 of the value
  assert_int_not_equal(compared(2, 0, 10000, 10001), ZM_OK);  // 2e-4
  assert_int_not_equal(compared(2e-4, 0, 1e-6, 2e-6), ZM_OK); // 200 times the value
}

#define RUN(name)                                                                                                                          \
  static void run_##name(void **state) {                                                                                                   \
    (void)state;                                                                                                                           \
    zm_scope *scope = zm_scope_open();                                                                                                     \
    name();                                                                                                                                \
    zm_scope_close(scope);                                                                                                                 \
  }
#define EACH(X)                                                                                                                            \
  X(an_elementwise_kernel_writes_every_element)                                                                                            \
  X(kernels_of_one_name_are_told_apart_by_their_source)                                                                                    \
  X(a_kernel_without_a_name_has_the_same_one_in_every_process)                                                                             \
  X(tuning_is_no_empty_word)                                                                                                               \
  X(dispatch_follows_the_indices)                                                                                                          \
  X(gating_of_ten_thousand_rows_is_that_of_a_plain_loop)                                                                                   \
  X(an_expert_of_a_masked_group_is_never_chosen)                                                                                           \
  X(no_score_is_so_low_that_a_masked_expert_is_chosen)                                                                                     \
  X(an_index_beyond_32_bits_is_out_of_range)                                                                                               \
  X(a_gate_without_what_it_gates_is_refused)                                                                                               \
  X(an_update_of_a_cache_keeps_what_was_there)                                                                                             \
  X(attention_sees_more_than_4096_positions)                                                                                               \
  X(the_gate_of_quantized_numbers_has_no_factor_of_its_own)                                                                                \
  X(nibbles_of_int4_have_a_sign)                                                                                                           \
  X(packed_codes_are_one_stream_of_bits_in_every_width)                                                                                    \
  X(codes_of_keys_and_values_are_packed)                                                                                                   \
  X(softplus_of_large_numbers_is_the_number)                                                                                               \
  X(sigmoid_is_stable_at_both_ends)                                                                                                        \
  X(layernorm_of_a_large_mean_keeps_its_variance)                                                                                          \
  X(ties_go_to_the_lowest_place)                                                                                                           \
  X(a_reduction_of_one_axis_gives_a_scalar)                                                                                                \
  X(the_weight_of_a_norm_has_a_gradient)                                                                                                   \
  X(a_bias_has_the_gradient_of_what_it_is_added_to)                                                                                        \
  X(the_cotangents_of_all_results_count)                                                                                                   \
  X(the_slope_of_what_was_not_chosen_stays_out)                                                                                            \
  X(slopes_keep_their_digits_at_every_magnitude)                                                                                           \
  X(a_power_that_is_constant_has_no_slope)                                                                                                 \
  X(relu_passes_nothing_back_where_x_is_nan)                                                                                               \
  X(a_target_that_is_no_class_has_no_gradient_of_zero)                                                                                     \
  X(nan_never_matches)                                                                                                                     \
  X(one_bound_of_both_tolerances_must_hold)
EACH(RUN)

int main(int argc, char **argv) {
  self = argv[0];
  if (argc > 1 && strcmp(argv[1], "name") == 0) {
    zm_op *op = zm_elementwise("x * 3 + 1", NULL);
    if (op) fputs(zm_op_name(op), stdout);
    zm_op_free(op);
    return op ? 0 : 1;
  }
#define ROW(name) cmocka_unit_test(run_##name),
  const struct CMUnitTest tests[] = {EACH(ROW)};
  temp_folder folder; // not the cache of who runs this
  if (temp_make(&folder) != 0) return 1;
  setenv("ZMLX_CACHE_DIR", folder.path, 1);
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  const int failed = cmocka_run_group_tests_name("defects", tests, NULL, NULL);
  temp_remove(&folder);
  return failed;
}
