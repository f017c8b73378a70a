// What models decode with and what the catalog offers are the same code: rows of the catalog have the bits of ops of models' tapes, and
// every op that a fused op of the patcher stands for has such a row. A new pattern, or a row that says what it is on tapes, fails here
// until it is compared. That fused ops have the bits of the ops that they replace is the matter of test_patch.
#include "catalog/catalog.h"
#include "patch/patch.h"

#include <zmlx/ops.h>

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const zm_dtype floats[] = {ZM_F32, ZM_F16, ZM_BF16};

// ---- operands and comparing ----

static uint32_t hashed(uint32_t seed, uint32_t i) {
  uint32_t h = (seed + 1) * 2654435761u ^ (i + 1) * 2246822519u;
  h = (h ^ h >> 15) * 2246822519u;
  h = (h ^ h >> 13) * 3266489917u;
  return h ^ h >> 16;
}

static zm_array *some(zm_dtype dtype, uint32_t seed, int rank, const int64_t *shape) { // in [-2, 2)
  int64_t n = 1;
  for (int i = 0; i < rank; i++) n *= shape[i];
  float *x = malloc((size_t)n * sizeof *x + 1);
  for (int64_t i = 0; i < n; i++) x[i] = (float)((int32_t)hashed(seed, (uint32_t)i) >> 8) / (1 << 22);
  zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, shape, rank), dtype);
  free(x);
  return a;
}
#define SOME(dtype, seed, ...) some(dtype, seed, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

static zm_array *whole(const int32_t *x, int64_t n) {
  return zm_array_from_data(x, ZM_I32, &n, 1);
}

static void same_bits(const char *what, zm_array *a, zm_array *b) {
  char ta[128], tb[128];
  size_t bytes;
  if (!a || !b) fail_msg("%s: %s", what, zm_last_error());
  if (!zmi_type_equal(&a->type, &b->type)) fail_msg("%s: %s and %s", what, zmi_type_text(&a->type, ta), zmi_type_text(&b->type, tb));
  assert_true(zmi_type_bytes(&a->type, &bytes));
  const void *x = zm_array_data(a), *y = zm_array_data(b);
  if (!x || !y) fail_msg("%s: %s", what, zm_last_error());
  if (memcmp(x, y, bytes) != 0) fail_msg("%s of %s: other bits", what, zmi_type_text(&a->type, ta));
}

static void done(zm_status status) {
  if (status != ZM_OK) fail_msg("%s", zm_last_error());
}

// Widths of rows: all the small ones, and larger ones, of which every second is odd.
static int64_t next_width(int64_t d) {
  return d < 300 || d >= 4080 ? d + 1 : d + 7;
}
enum { WIDEST = 4100 };
#define EACH_WIDTH(d) for (int64_t d = 1; d <= WIDEST; d = next_width(d))

// ---- norms and sums ----

static void norms_of(zm_dtype dtype, int64_t d) {
  zm_scope *scope = zm_scope_open();
  zm_array *x = SOME(dtype, 71, 3, d), *w = SOME(dtype, 73, d), *ones = zm_full(1, dtype, &d, 1);
  zm_array *model = zmi_rms_norm(x, w, 1e-5);
  same_bits("rmsnorm", zm_rmsnorm(x, w, 1e-5), model);
  same_bits("glm_rmsnorm", zm_glm_rmsnorm(x, w, 1e-5), model);
  same_bits("rms_norm_no_weight", zm_rms_norm_no_weight(x, 1e-5), zmi_rms_norm(x, ones, 1e-5));
  zm_scope_close(scope);
}

static void norms(zm_dtype dtype) {
  EACH_WIDTH(d) norms_of(dtype, d);
}

// In float32 nothing is rounded when a sum is stored, so that the norms of sums that stay in float32 are the same too.
static void norms_of_sums(zm_dtype dtype) {
  EACH_WIDTH(d) {
    zm_scope *scope = zm_scope_open();
    zm_array *x = SOME(dtype, 71, 3, d), *r = SOME(dtype, 72, 3, d), *w = SOME(dtype, 73, d), *normed, *sum;
    zm_array *model_sum = zm_add(x, r), *model = zmi_rms_norm(model_sum, w, 1e-5);
    done(zm_rmsnorm_residual(x, r, w, 1e-5, &normed, &sum));
    same_bits("rmsnorm_residual", normed, model);
    same_bits("rmsnorm_residual: the sum", sum, model_sum);
    done(zm_add_rms_norm(x, r, w, 1e-5, &normed, &sum));
    same_bits("add_rms_norm: the sum", sum, model_sum);
    if (dtype == ZM_F32) same_bits("add_rms_norm", normed, model);
    done(zm_fused_add_rmsnorm(x, r, w, 1e-5, &normed, &sum));
    same_bits("fused_add_rmsnorm: the sum", sum, model_sum);
    if (dtype == ZM_F32) same_bits("fused_add_rmsnorm", normed, model);
    if (dtype == ZM_F32) same_bits("residual_rmsnorm", zm_residual_rmsnorm(x, r, w, 1e-5), model);
    zm_scope_close(scope);
  }
}

// ---- elementwise ----

static zm_array *row_of(const char *name, zm_array *a, zm_array *b) {
  zm_array *out[ZMI_CATALOG_OUT] = {NULL};
  done(zmi_entry_call(zmi_catalog_find(name), (zm_array *[]){a, b}, b ? 2 : 1, NULL, out));
  return out[0];
}

static void elementwise(zm_dtype dtype) {
  EACH_WIDTH(d) {
    zm_scope *scope = zm_scope_open();
    zm_array *a = SOME(dtype, 1, 2, d), *b = SOME(dtype, 2, 2, d);
    zm_array *both = zm_concatenate((zm_array *[]){a, b}, 2, -1), *gated = zm_multiply(zm_silu(a), b);
    same_bits("add", row_of("add", a, b), zm_add(a, b));
    same_bits("mul", row_of("mul", a, b), zm_multiply(a, b));
    same_bits("silu", row_of("silu", a, NULL), zm_silu(a));
    same_bits("swiglu2", zm_swiglu2(a, b), gated);
    same_bits("swiglu", zm_swiglu(both), gated);
    zm_scope_close(scope);
  }
}

// ---- rope and caches ----

static void ropes(zm_dtype dtype) {
  static const int64_t dims[] = {2, 4, 10, 30, 64, 80, 128, 202, 256, 1024};
  for (size_t i = 0; i < ZMI_COUNT(dims); i++) {
    zm_scope *scope = zm_scope_open();
    const int64_t d = dims[i], length = 5, heads = 3, all[] = {length, heads, d}, turned[] = {heads, length, d};
    zm_array *x = some(dtype, 5, 3, all), *c = SOME(ZM_F32, 6, length, d / 2), *s = SOME(ZM_F32, 7, length, d / 2);
    zm_array *by_head = zm_contiguous(zm_transpose(x, (int[]){1, 0, 2}));
    zm_array *model = zmi_rope(x, c, s, false), *pairs = zmi_rope(x, c, s, true);
    assert_int_equal(zm_array_size(by_head), turned[0] * turned[1] * turned[2]);
    same_bits("apply_rope", zm_transpose(zm_apply_rope(by_head, c, s), (int[]){1, 0, 2}), model);
    same_bits("apply_rope_interleaved", zm_transpose(zm_apply_rope_interleaved(by_head, c, s), (int[]){1, 0, 2}), pairs);
    zm_array *gqa = zm_apply_gqa_rope(zm_reshape(x, (int64_t[]){1, length, heads, d}, 4), c, s, 1);
    same_bits("apply_gqa_rope", zm_reshape(gqa, all, 3), model);
    zm_scope_close(scope);
  }
}

enum { SEQUENCES = 3, HEADS = 6, KV = 2, CONTEXT = 304 };

// Caches of the catalog [SEQUENCES, CONTEXT, KV, d] as those of models.
static zm_array *model_keys(zm_array *cache, int64_t d) {
  const int64_t split[] = {SEQUENCES, CONTEXT / ZMI_KEY_BLOCK, ZMI_KEY_BLOCK, KV, d / 2, 2};
  return zm_contiguous(zm_transpose(zm_reshape(cache, split, 6), (int[]){0, 3, 1, 4, 2, 5}));
}

static zm_array *model_values(zm_array *cache) {
  return zm_contiguous(zm_transpose(cache, (int[]){0, 2, 1, 3}));
}

static void attentions(zm_dtype dtype) {
  static const int64_t dims[] = {2, 6, 64, 96, 128, 130, 258, 514};
  static const int32_t lengths[][SEQUENCES] = {{1, 16, 17}, {127, 128, 129}, {255, 257, 300}};
  int32_t rows[SEQUENCES] = {0, 1, 2}, table[CONTEXT / 16 * SEQUENCES], position[SEQUENCES];
  if (dtype == ZM_F16) return; // models keep no such caches
  for (int32_t i = 0; i < CONTEXT / 16 * SEQUENCES; i++) table[i] = i;
  for (size_t i = 0; i < ZMI_COUNT(dims) * ZMI_COUNT(lengths); i++) {
    zm_scope *scope = zm_scope_open();
    const int64_t d = dims[i / ZMI_COUNT(lengths)], cache[] = {SEQUENCES, CONTEXT, KV, d}, blocks[] = {SEQUENCES * CONTEXT / 16, 16, KV, d};
    const int32_t *length = lengths[i % ZMI_COUNT(lengths)];
    zm_array *q = SOME(dtype, 11, SEQUENCES, HEADS, d), *k = some(dtype, 12, 4, cache), *v = some(dtype, 13, 4, cache);
    for (int b = 0; b < SEQUENCES; b++) position[b] = length[b] - 1;
    zm_array *model = zmi_attention(q, model_keys(k, d), model_values(v), whole(position, SEQUENCES), whole(rows, SEQUENCES), 0.17);
    zm_array *at = zm_array_from_data(table, ZM_I32, (int64_t[]){SEQUENCES, CONTEXT / 16}, 2);
    zm_array *paged = zm_paged_attention(q, zm_reshape(k, blocks, 4), zm_reshape(v, blocks, 4), at, whole(length, SEQUENCES), 0.17);
    same_bits("paged_attention", paged, model);
    zm_scope_close(scope);
  }
}

static zm_array *state_with(const char *name, zm_array *a, void **memory) { // a state that has the contents of a
  size_t bytes;
  assert_true(zmi_type_bytes(&a->type, &bytes));
  const void *data = zm_array_data(a);
  if (!data || posix_memalign(memory, 64, bytes + 64) != 0) fail_msg("%s: %s", name, zm_last_error());
  memcpy(*memory, data, bytes);
  return zmi_state(name, &a->type, *memory);
}

static void caches(zm_dtype dtype) {
  if (dtype == ZM_F16) return;
  enum { D = 10 };
  zm_scope *scope = zm_scope_open();
  int32_t position[SEQUENCES] = {0, 77, CONTEXT - 1}, rows[SEQUENCES] = {0, 1, 2};
  const int64_t cache[] = {SEQUENCES, CONTEXT, KV, D};
  zm_array *c = SOME(ZM_F32, 14, CONTEXT, D / 2), *s = SOME(ZM_F32, 15, CONTEXT, D / 2), *at = whole(position, SEQUENCES), *out[3];
  const zm_rope_cache a = {.q = SOME(dtype, 16, SEQUENCES, HEADS, D),
                           .k = SOME(dtype, 17, SEQUENCES, KV, D),
                           .v = SOME(dtype, 18, SEQUENCES, KV, D),
                           .cosine = c,
                           .sine = s,
                           .k_cache = some(dtype, 19, 4, cache),
                           .v_cache = some(dtype, 20, 4, cache),
                           .offset = at};
  done(zm_rope_and_cache_update(&a, &out[0], &out[1], &out[2]));
  zm_array *cosine = zm_take(c, at), *sine = zm_take(s, at), *sequence = whole(rows, SEQUENCES);
  zm_array *q = zmi_rope(a.q, cosine, sine, false), *k = zmi_rope(a.k, cosine, sine, false);
  void *memory[2];
  zm_array *keys = zmi_write_keys(state_with("keys", model_keys(a.k_cache, D), &memory[0]), k, at, sequence);
  zm_array *values = zmi_write_values(state_with("values", model_values(a.v_cache), &memory[1]), a.v, at, sequence);
  same_bits("rope_and_cache_update: the queries", out[0], q);
  same_bits("rope_and_cache_update: the keys", model_keys(out[1], D), keys);
  same_bits("rope_and_cache_update: the values", model_values(out[2]), values);
  zm_scope_close(scope);
  free(memory[0]);
  free(memory[1]);
}

// ---- experts ----

static void combines(zm_dtype dtype) {
  EACH_WIDTH(d) {
    zm_scope *scope = zm_scope_open();
    zm_array *y = SOME(dtype, 74, 2, 5, d), *scores = SOME(dtype, 75, 2, 5);
    same_bits("moe_combine", zm_moe_combine(y, scores), zmi_combine(y, scores));
    zm_scope_close(scope);
  }
}

enum { ROWS = 40 };

// Every other row has ties; zeros of both signs and NaN.
static zm_array *logits_of(zm_dtype dtype, int64_t n) {
  float *x = malloc((size_t)(ROWS * n) * sizeof *x);
  for (int64_t j = 0; j < ROWS * n; j++) {
    const uint32_t h = hashed(81, (uint32_t)j);
    x[j] = j / n % 2 ? (float)(int32_t)(h % 5) - 2 : (float)(int32_t)(h % 4001) / 500 - 4;
    if (x[j] == 0 && h & 1024) x[j] = -0.0f;
  }
  x[3 * n + 1] = NAN;
  zm_array *logits = zm_array_from_data(x, ZM_F32, (int64_t[]){ROWS, n}, 2);
  free(x);
  return zm_astype(logits, dtype);
}

typedef struct routed {
  zm_array *w, *at;
} routed;

static routed model_of(zm_array *logits, zm_array *bias, zmi_route_attrs a) {
  routed r;
  done(zmi_route(logits, bias, &a, &r.at, &r.w));
  return r;
}

static void same_route(const char *what, routed row, routed model) {
  char choice[128];
  snprintf(choice, sizeof choice, "%s: the choice", what);
  same_bits(choice, zm_astype(row.at, ZM_I32), model.at);
  same_bits(what, row.w, model.w);
}

// The rows' weights are float32, whatever the logits are: the models' op of the same numbers in float32.
static void routers_in_float32(zm_array *logits, zm_array *bias, int64_t k) {
  const int64_t n = logits->type.shape[1];
  zm_array *wide = zm_astype(logits, ZM_F32), *none = zm_full(0, ZM_F32, &n, 1), *values, *places;
  routed r, other;
  done(zm_topk_gating_softmax(logits, (int)k, NULL, false, &r.w, &r.at));
  same_route("topk_gating_softmax", r, model_of(wide, NULL, (zmi_route_attrs){ZMI_ROUTE_SOFTMAX, k, 0, 0, 1}));
  done(zm_topk_gating_softmax(logits, (int)k, none, true, &r.w, &r.at));
  same_route("topk_gating_softmax, normalized", r, model_of(wide, NULL, (zmi_route_attrs){ZMI_ROUTE_SOFTMAX, k, 1, 0, 1}));
  for (int biased = 0; biased < 2; biased++) {
    zm_array *b = biased ? bias : NULL;
    done(zm_deepseek_router_topk_sigmoid(logits, b, (int)k, 1, 1, &r.w, &r.at));
    same_route("deepseek_router_topk_sigmoid", r, model_of(wide, b, (zmi_route_attrs){ZMI_ROUTE_SIGMOID, k, 1, 1e-20, 1}));
  }
  // A softmax of the chosen logits, which no model of ours has.
  done(zm_topk_lastdim(wide, (int)k, &values, &places));
  other = (routed){zm_softmax_lastdim(values), zm_astype(places, ZM_I32)};
  done(zm_topk_gating_softmax(logits, (int)k, NULL, true, &r.w, &r.at));
  same_route("topk_gating_softmax of the chosen", r, other);
  done(zm_router_argpartition_logits_topk(logits, (int)k, &r.w, &r.at));
  same_route("router_argpartition_logits_topk", r, other);
  done(zm_glm_topk_gating(logits, (int)k, &r.w, &r.at));
  same_route("glm_topk_gating", r, other);
  if (k == 2) {
    done(zm_top2_gating_softmax(logits, &r.w, &r.at));
    same_route("top2_gating_softmax", r, other);
  }
}

// p / (the sum of a row's p + eps) * scale of p [ROWS, k], in float32, rounded once.
static zm_array *weighed(zm_array *p, int64_t k, float eps, float scale) {
  const float *chance = zm_array_data(zm_astype(p, ZM_F32));
  float *w = malloc((size_t)(ROWS * k) * sizeof *w);
  assert_non_null(chance);
  for (int64_t r = 0; r < ROWS; r++) {
    volatile float total = 0;
    for (int64_t s = 0; s < k; s++) total += chance[r * k + s];
    total += eps;
    for (int64_t s = 0; s < k; s++) {
      volatile float v = chance[r * k + s] / total;
      w[r * k + s] = v * scale;
    }
  }
  zm_array *y = zm_astype(zm_array_from_data(w, ZM_F32, (int64_t[]){ROWS, k}, 2), p->type.dtype);
  free(w);
  return y;
}

// In their own dtype models round the chances before they choose: the same of rows, step by step.
static void routers_in_steps(zm_array *logits, zm_array *bias, int64_t k) {
  for (int kind = 0; kind < 4; kind++) {
    const bool sigmoid = kind >= 2;
    zm_array *p = sigmoid ? row_of("sigmoid", logits, NULL) : zm_softmax_lastdim(logits), *b = kind == 3 ? bias : NULL, *values, *places;
    zm_array *score = b ? zm_add(zm_astype(p, ZM_F32), b) : p;
    done(zm_topk_lastdim(score, (int)k, &values, &places));
    zm_array *chosen = zm_take_along_axis(p, places, -1), *at = zm_astype(places, ZM_I32);
    const int64_t of = sigmoid ? ZMI_ROUTE_SIGMOID : ZMI_ROUTE_SOFTMAX;
    const float eps = sigmoid ? 1e-6f : 0;
    same_route("route in steps", (routed){chosen, at}, model_of(logits, b, (zmi_route_attrs){of, k, 0, 1e-6, 1}));
    same_route("route in steps, normalized", (routed){weighed(chosen, k, eps, sigmoid ? 1.5f : 1), at},
               model_of(logits, b, (zmi_route_attrs){of, k, 1, 1e-6, 1.5}));
  }
}

static void routers(zm_dtype dtype) {
  static const int64_t experts[] = {2, 8, 60, 61, 256}, most[] = {1, 2, 8, 40};
  for (size_t i = 0; i < ZMI_COUNT(experts) * ZMI_COUNT(most); i++) {
    zm_scope *scope = zm_scope_open();
    const int64_t n = experts[i / ZMI_COUNT(most)], k = ZMI_MIN(n, most[i % ZMI_COUNT(most)]);
    zm_array *logits = logits_of(dtype, n), *bias = SOME(ZM_F32, 82, n);
    routers_in_float32(logits, bias, k);
    routers_in_steps(logits, bias, k);
    zm_scope_close(scope);
  }
}

// A zmi_matrix of the models' kind from a quantized matrix in checkpoint form: numbers of float16 are widened, as when models are loaded.
static zm_array *packed_of(const zm_affine *m, zmi_matrix *matrix) {
  const zmi_type t = m->words->type;
  const zm_dtype dtype = m->scales->type.dtype == ZM_F16 ? ZM_F32 : m->scales->type.dtype;
  zmi_format f = {.mode = ZMI_QUANT_AFFINE, .bits = m->bits, .group = m->group, .dtype = dtype};
  int64_t n = t.shape[1], k = t.shape[2] * 32 / m->bits;
  size_t bytes;
  assert_true(zmi_packed_bytes(&f, n, k, &bytes));
  char *memory = zmi_calloc((size_t)t.shape[0], bytes);
  const char *words = zm_array_data(m->words), *scales = zm_array_data(zm_astype(m->scales, dtype)),
             *biases = zm_array_data(zm_astype(m->biases, dtype));
  size_t size = zm_dtype_size(dtype);
  for (int64_t e = 0; e < t.shape[0]; e++) {
    zmi_stored_matrix s = {words + e * n * t.shape[2] * 4,
                           scales + (size_t)(e * n * k / m->group) * size,
                           biases + (size_t)(e * n * k / m->group) * size,
                           dtype,
                           n,
                           k};
    zmi_pack_blocks(&f, &s, memory + (size_t)e * bytes, 0, (n + ZMI_LANES - 1) / ZMI_LANES);
  }
  zmi_type type = zmi_type_of(ZM_U8, 1, (int64_t[]){(int64_t)bytes * t.shape[0]});
  zm_array *leaf = zmi_data_leaf(&type, memory);
  *matrix = (zmi_matrix){.packed = leaf, .format = f, .n = n, .k = k, .experts = t.shape[0]};
  return leaf;
}

static zm_affine quantized(int bits, int64_t group, int64_t experts, int64_t n, int64_t k, zm_dtype dtype, uint32_t seed) {
  int64_t words = experts * n * k * bits / 32;
  uint32_t *w = malloc((size_t)words * 4);
  for (int64_t i = 0; i < words; i++) w[i] = hashed(seed, (uint32_t)i);
  zm_affine m = {.words = zm_array_from_data(w, ZM_U32, (int64_t[]){experts, n, k * bits / 32}, 3), .bits = bits, .group = group};
  free(w);
  m.scales = SOME(dtype, seed + 1, experts, n, k / group);
  m.biases = SOME(dtype, seed + 2, experts, n, k / group);
  return m;
}

// Products with chosen experts' matrices, for every width of codes, group and odd shape; with one matrix they are the products of a layer.
static void products(zm_dtype dtype) {
  static const struct {
    int bits;
    int64_t group, n, k, rows, slots;
  } shapes[] = {{4, 64, 40, 128, 1, 2}, {2, 32, 17, 96, 5, 3},  {3, 128, 33, 256, 2, 1},
                {5, 64, 1, 64, 9, 2},   {6, 32, 300, 32, 3, 4}, {8, 128, 16, 384, 4, 2}};
  for (size_t i = 0; i < ZMI_COUNT(shapes) * 2; i++) {
    zm_scope *scope = zm_scope_open();
    const int64_t n = shapes[i / 2].n, k = shapes[i / 2].k, rows = shapes[i / 2].rows, count = i % 2 ? 1 : 5;
    const int64_t slots = i % 2 ? 1 : shapes[i / 2].slots;
    zm_affine gate = quantized(shapes[i / 2].bits, shapes[i / 2].group, count, n, k, dtype, 11),
              up = quantized(shapes[i / 2].bits, shapes[i / 2].group, count, n, k, dtype, 21);
    zmi_matrix g, u;
    packed_of(&gate, &g);
    packed_of(&up, &u);
    int32_t chosen[64] = {0};
    for (int j = 0; j < rows * slots && count > 1; j++) chosen[j] = (int32_t)(hashed(31, (uint32_t)j) % 6) - (j == 7); // 5 is out of range
    zm_array *x = SOME(dtype, 41, rows, k), *experts = zm_array_from_data(chosen, ZM_I32, (int64_t[]){rows, slots}, 2);
    zm_array *stock = zm_multiply(zm_silu(zmi_gather_linear(&g, x, experts)), zmi_gather_linear(&u, x, experts));
    zm_array *one = zm_fused_swiglu_gather_qmv(x, &gate, &up, experts);
    same_bits("fused_swiglu_gather_qmv", one, stock);
    if (count == 1) {
      zm_array *layer = zm_multiply(zm_silu(zmi_linear(&g, x)), zmi_linear(&u, x));
      same_bits("fused_swiglu_gather_qmv of one matrix", zm_squeeze(one, 1), layer);
    }
    zm_array *lhs = zm_arange(0, (double)rows, 1, ZM_I32);
    zm_array *general = zm_gather_qmm_swiglu(zm_expand_dims(x, 1), &gate, &up, zm_expand_dims(lhs, -1), experts);
    same_bits("gather_qmm_swiglu", zm_squeeze(general, 2), stock);
    zm_array *act = SOME(dtype, 51, rows, slots, k), *w = SOME(dtype, 61, rows, slots);
    same_bits("gather_qmm_combine_quantized", zm_gather_qmm_combine_quantized(act, &gate, w, experts, ZM_COMBINE_FMA),
              zmi_combine(zmi_gather_linear(&g, act, experts), w));
    zm_scope_close(scope);
  }
}

// ---- the table ----

static const struct {
  const char *ops, *rows;
  void (*run)(zm_dtype dtype);
} comparisons[] = {
    {"rms_norm", "rmsnorm glm_rmsnorm rms_norm_no_weight", norms},
    {"add rms_norm", "rmsnorm_residual", norms_of_sums},
    {"add", "add", elementwise},
    {"multiply", "mul", elementwise},
    {"silu", "silu", elementwise},
    {"silu multiply", "swiglu swiglu2", elementwise},
    {"rope", "apply_rope apply_rope_interleaved apply_gqa_rope", ropes},
    {"rope write_keys write_values", "rope_and_cache_update", caches},
    {"attention", "paged_attention", attentions},
    {"combine", "moe_combine", combines},
    {"route", "topk_gating_softmax deepseek_router_topk_sigmoid", routers},
    {"linear gather_linear silu multiply", "fused_swiglu_gather_qmv", products},
    {"gather_linear silu multiply", "gather_qmm_swiglu", products},
    {"gather_linear combine", "gather_qmm_combine_quantized", products},
};

// Ops of fused ops that the catalog has no row of, and why.
static const struct {
  const char *op, *why;
} apart[] = {{"short_conv", "the inputs before are a state of the session, and no row has states"}};

static bool has_word(const char *list, const char *word) {
  const size_t size = strlen(word);
  for (const char *s = list; *s; s += strcspn(s, " "), s += *s != 0) {
    if (strcspn(s, " ") == size && memcmp(s, word, size) == 0) return true;
  }
  return false;
}

static void word_at(const char *s, const char *ends, char *word) {
  snprintf(word, 64, "%.*s", (int)strcspn(s, ends), s);
}

// "As add and rms_norm, each at its place.": every op in such a sentence has a row.
static void every_decode_kernel_has_a_row(void **state) {
  (void)state;
  static const char last[] = ", each at its place.";
  assert_int_equal(zm_pattern_count(), zmi_patch_op_count()); // one fused op a pattern
  for (size_t i = 0; i < zmi_patch_op_count(); i++) {
    const zmi_op *fused = zmi_patch_op_at(i);
    const char *s = fused->rounding, *end = strstr(s, last);
    if (strncmp(s, "As ", 3) != 0 || !end || strcmp(end, last) != 0) fail_msg("%s: its rounding does not name ops: %s", fused->name, s);
    for (s += 3; s < end;) {
      char word[64];
      const zmi_entry *e;
      bool found = false;
      word_at(s, ", ", word);
      s += strlen(word);
      s += strspn(s, ", ");
      if (strncmp(s, "and ", 4) == 0) s += 4;
      if (!zmi_op_find(word)) fail_msg("%s: there is no op %s", fused->name, word);
      assert_true(zmi_patch_op_replaces(fused, word));
      for (size_t k = 0; (e = zmi_catalog_at(k, NULL)) && !found; k++) found = zmi_entry_tape(e) && has_word(zmi_entry_tape(e), word);
      for (size_t k = 0; k < ZMI_COUNT(apart); k++) {
        if (strcmp(apart[k].op, word) == 0 && found) fail_msg("%s has a row", word);
        found = found || strcmp(apart[k].op, word) == 0;
      }
      if (!found) fail_msg("%s is part of %s, and no row of the catalog has its bits", word, fused->name);
    }
  }
}

static void every_row_of_tapes_is_compared(void **state) {
  (void)state;
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    bool found = false;
    for (size_t k = 0; k < ZMI_COUNT(comparisons); k++) {
      if (!has_word(comparisons[k].rows, e->name)) continue;
      found = true;
      if (!zmi_entry_tape(e) || strcmp(zmi_entry_tape(e), comparisons[k].ops) != 0)
        fail_msg("%s: is compared with %s", e->name, comparisons[k].ops);
    }
    if (zmi_entry_tape(e) && !found) fail_msg("%s: is not compared with %s", e->name, zmi_entry_tape(e));
  }
  for (size_t k = 0; k < ZMI_COUNT(comparisons); k++) {
    for (const char *s = comparisons[k].rows; *s; s += strcspn(s, " "), s += *s != 0) {
      char word[64];
      word_at(s, " ", word);
      if (!zmi_catalog_find(word)) fail_msg("there is no row %s", word);
    }
  }
}

static void rows_have_the_bits_of_tapes(void **state) {
  (void)state;
  for (size_t k = 0; k < ZMI_COUNT(comparisons); k++) {
    bool before = false;
    for (size_t j = 0; j < k; j++) before = before || comparisons[j].run == comparisons[k].run;
    for (size_t t = 0; t < ZMI_COUNT(floats) && !before; t++) comparisons[k].run(floats[t]);
  }
}

// Compiled by the system's compiler, where there is one; the last test, as what was compiled stays so.
static void compiled_norms_have_the_bits_of_tapes(void **state) {
  (void)state;
  static const int64_t widths[] = {1, 15, 31, 32, 33, 64, 100, 333, 1024, 2047, 4099};
  setenv("ZMLX_KERNELS", "compile", 1);
  for (size_t t = 0; t < ZMI_COUNT(floats); t++) {
    for (size_t i = 0; i < ZMI_COUNT(widths); i++) norms_of(floats[t], widths[i]);
  }
  setenv("ZMLX_KERNELS", "interpret", 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_decode_kernel_has_a_row),
      cmocka_unit_test(every_row_of_tapes_is_compared),
      cmocka_unit_test(rows_have_the_bits_of_tapes),
      cmocka_unit_test(compiled_norms_have_the_bits_of_tapes),
  };
  setenv("ZMLX_KERNELS", "interpret", 1);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
