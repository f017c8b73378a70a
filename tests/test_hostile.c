// The public functions of arrays and the op table as a careless caller uses them: NULL, every rank and dtype, empty and huge shapes, axes
// and numbers out of any range, operands of catalog kernels that do not fit. Each call gives an array that evaluates, or an error in one
// sentence; nothing crashes and nothing asks for memory without bound.
#include "catalog/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include <zmlx/zmlx.h>

#include <limits.h>
#include <math.h>

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

enum { LIMIT = 64 << 20 }; // bytes that evaluation may use

static uint64_t seed = 88172645463325252u;

static uint64_t any(uint64_t below) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (seed >> 20) % below;
}

// An error is one sentence that says where it comes from; only sources of kernels are shown over several lines.
static void sentence(const char *what, bool source) {
  const char *s = zm_last_error();
  if (zm_last_status() == ZM_OK || !s || !*s) fail_msg("%s: fails without an error", what);
  const size_t n = strlen(s);
  if (n < 10 || n > 600) fail_msg("%s: \"%s\" is no sentence", what, s);
  if (!source && strchr(s, '\n')) fail_msg("%s: \"%s\" is more than a sentence", what, s);
}

static int made, computed, refused; // calls that gave an array, that were evaluated, that failed

static bool is_huge(const zm_array *a) {
  return a && zm_array_size((zm_array *)(uintptr_t)a) > LIMIT;
}

// huge: an operand is. Only what then needs memory is evaluated: it must be refused, while a reduction to one number would just take long.
static void judge(const char *what, zm_array *y, bool huge) {
  made += y != NULL;
  refused += !y;
  if (!y) {
    sentence(what, false);
    zm_clear_error();
    return;
  }
  const zmi_type *t = &y->type;
  if (t->rank < 0 || t->rank > ZM_MAX_RANK) fail_msg("%s: a result of rank %d", what, t->rank);
  for (int i = 0; i < t->rank; i++) {
    if (t->shape[i] < 0) fail_msg("%s: a dimension of %lld", what, (long long)t->shape[i]);
  }
  zm_clear_error();
  if (huge && !is_huge(y)) return;
  const bool good = zm_eval(&y, 1) == ZM_OK;
  computed += good;
  if (!good) {
    sentence(what, false);
    zm_clear_error();
  }
}

// ---- operands ----

enum { POOL = 40 };

static int make_pool(zm_array **pool) {
  static const zm_dtype kinds[] = {ZM_F32, ZM_F16, ZM_BF16, ZM_I32, ZM_U8, ZM_BOOL, ZM_I64, ZM_U64};
  static const struct {
    int rank;
    int64_t shape[ZM_MAX_RANK];
  } shapes[] = {{0, {0}},
                {1, {0}},
                {1, {1}},
                {1, {5}},
                {2, {3, 4}},
                {2, {4, 3}},
                {2, {0, 3}},
                {2, {4, 4}},
                {3, {2, 3, 4}},
                {3, {1, 0, 2}},
                {4, {1, 2, 3, 4}},
                {8, {1, 2, 1, 2, 1, 1, 2, 1}},
                {1, {(int64_t)1 << 40}},
                {3, {1 << 20, 1 << 20, 1 << 20}},
                {2, {(int64_t)1 << 31, 2}}};
  int n = 0;
  pool[n++] = NULL;
  for (size_t s = 0; s < ZMI_COUNT(shapes); s++) {
    for (int k = 0; k < 3 && n < POOL; k++) {
      zm_array *one = zm_full(k == 1 ? 2 : -1, kinds[(s + (size_t)k * 3) % ZMI_COUNT(kinds)], NULL, 0);
      zm_array *a = zm_broadcast_to(one, shapes[s].shape, shapes[s].rank);
      if (!a) { // of a count that does not fit: refused at once
        sentence("broadcast_to", false);
        zm_clear_error();
        continue;
      }
      pool[n++] = a;
    }
  }
  return n;
}

// ---- functions ----

typedef struct given {
  zm_array *a, *b, *c;
  int x; // an axis
  int64_t n, m;
  double v;
  zm_dtype t;
} given;

#define NONE ((int64_t[ZM_MAX_RANK]){0})
#define MANY ((int64_t[ZM_MAX_RANK]){g->n, g->m, g->n, g->m, g->n, g->m, g->n, g->m})
#define AXES ((int[ZM_MAX_RANK]){g->x, 0, g->x, 1, 2, 3, 4, 5})
#define FEW ((int)(any(4)))
// clang-format off
#define ONE_LIST(X) \
  X(negative) X(abs) X(exp) X(log) X(sqrt) X(rsqrt) X(sigmoid) X(silu) X(tanh) X(contiguous) X(softmax) X(positive) X(square) \
  X(reciprocal) X(sign) X(floor) X(ceil) X(trunc) X(degrees) X(radians) X(exp2) X(expm1) X(log2) X(log10) X(log1p) X(sin) X(cos) \
  X(tan) X(arcsin) \
  X(arccos) X(arctan) X(sinh) X(cosh) X(arcsinh) X(arccosh) X(arctanh) X(erf) X(erfinv) X(softplus) X(isnan) X(isinf) X(isfinite) \
  X(isneginf) X(isposinf) X(logical_not) X(bitwise_invert) X(full_like_) X(zeros_like) X(ones_like) X(argmax_all) X(argmin_all) X(to_fp8) \
  X(stop_gradient) X(relu) X(relu2) X(gelu_tanh) X(mish) X(softmax_lastdim) X(log_softmax_lastdim) X(swiglu) X(geglu) \
  X(logsumexp_lastdim) X(sum_lastdim) X(max_lastdim) X(var_lastdim) X(argmax_lastdim) X(pack_bits) X(unpack_bits) X(cumsum_lastdim)
#define TWO_LIST(X) \
  X(add) X(subtract) X(multiply) X(divide) X(maximum) X(minimum) X(equal) X(not_equal) X(less) X(less_equal) X(greater) X(greater_equal) \
  X(take) X(matmul) X(power) X(remainder) X(floor_divide) X(arctan2) X(logaddexp) X(logical_and) X(logical_or) X(logical_xor) \
  X(bitwise_and) X(bitwise_or) X(bitwise_xor) X(left_shift) X(right_shift) X(outer) X(inner) X(kron) X(swiglu2) X(geglu2) \
  X(softmax_grad) X(masked_softmax) X(attention_tile_proto) X(silu_mul) X(add_bias) X(bias_gelu_tanh) X(bias_silu) X(bias_swiglu) \
  X(dequantize_int8) X(dequantize_int4) X(dequantize_nf4) X(depthwise_conv_3x3) X(moe_combine)
#define zm_full_like_(a) zm_full_like(a, 3)

#define REST(X) \
  X(zm_astype(g->a, g->t)) X(zm_view(g->a, g->t)) X(zm_where(g->a, g->b, g->c)) X(zm_clip(g->a, g->b, g->c)) \
  X(zm_sum(g->a, g->x, g->n & 1)) X(zm_mean(g->a, g->x, g->n & 1)) X(zm_max(g->a, g->x, g->n & 1)) X(zm_min(g->a, g->x, g->n & 1)) \
  X(zm_argmax(g->a, g->x, g->n & 1)) X(zm_argmin(g->a, g->x, g->n & 1)) X(zm_sum_axes(g->a, AXES, FEW, true)) \
  X(zm_mean_axes(g->a, AXES, FEW, false)) X(zm_prod(g->a, AXES, FEW, false)) X(zm_max_axes(g->a, AXES, FEW, false)) \
  X(zm_min_axes(g->a, NULL, 0, false)) X(zm_any(g->a, AXES, FEW, false)) X(zm_all(g->a, NULL, 0, true)) \
  X(zm_count_nonzero(g->a, AXES, FEW, false)) X(zm_var(g->a, AXES, FEW, false, g->n)) X(zm_std(g->a, NULL, 0, false, g->n)) \
  X(zm_logsumexp(g->a, AXES, FEW, true)) X(zm_median(g->a, AXES, FEW, false)) X(zm_sum_axes(g->a, AXES, -1, true)) \
  X(zm_sum_axes(g->a, AXES, 100, true)) X(zm_number_of_elements(g->a, AXES, FEW, true, g->t)) X(zm_diff(g->a, (int)g->n, g->x)) \
  X(zm_cumsum(g->a, g->x, g->n & 1, g->m & 1)) X(zm_cumprod(g->a, g->x, g->n & 1, g->m & 1)) X(zm_cummax(g->a, g->x, true, false)) \
  X(zm_cummin(g->a, g->x, false, false)) X(zm_logcumsumexp(g->a, g->x, false, true)) X(zm_linear_scan(g->a, g->b, g->x, true)) \
  X(zm_sort(g->a, g->x)) X(zm_argsort(g->a, g->x)) X(zm_partition(g->a, g->n, g->x)) X(zm_argpartition(g->a, g->n, g->x)) \
  X(zm_topk(g->a, g->n, g->x, NULL)) X(zm_searchsorted(g->a, g->b, true)) X(zm_take_axis(g->a, g->b, g->x)) \
  X(zm_gather(g->a, (zm_array *[]){g->b, g->c, g->b, g->c}, AXES, FEW)) \
  X(zm_scatter(g->a, (zm_array *[]){g->b, g->b, g->b, g->b}, AXES, FEW, g->c, (zm_scatter_mode)any(7))) \
  X(zm_take_along_axis(g->a, g->b, g->x)) X(zm_put_along_axis(g->a, g->b, g->c, g->x)) X(zm_add_along_axis(g->a, g->b, g->c, g->x)) \
  X(zm_slice(g->a, NONE, MANY, MANY)) X(zm_slice(g->a, MANY, MANY, NULL)) X(zm_slice(g->a, NULL, NULL, NULL)) \
  X(zm_slice_update(g->a, g->b, NONE, MANY, MANY)) X(zm_slice_at(g->a, g->b, AXES, FEW, MANY)) \
  X(zm_slice_update_at(g->a, g->b, g->c, AXES, FEW)) X(zm_swapaxes(g->a, g->x, (int)g->n)) X(zm_moveaxis(g->a, g->x, (int)g->m)) \
  X(zm_flatten(g->a, g->x, (int)g->n)) X(zm_unflatten(g->a, g->x, MANY, FEW)) X(zm_expand_dims(g->a, g->x)) X(zm_squeeze(g->a, g->x)) \
  X(zm_expand_dims_axes(g->a, AXES, FEW)) X(zm_squeeze_axes(g->a, AXES, FEW)) X(zm_squeeze_axes(g->a, NULL, 0)) \
  X(zm_atleast(g->a, (int)g->n)) X(zm_stack((zm_array *[]){g->a, g->b, g->c}, (size_t)FEW, g->x)) \
  X(zm_concatenate((zm_array *[]){g->a, g->b, g->c}, (size_t)FEW, g->x)) X(zm_concatenate(NULL, 0, 0)) X(zm_stack(NULL, 0, 0)) \
  X(zm_tile(g->a, MANY, FEW)) X(zm_repeat(g->a, g->n, g->x)) X(zm_roll(g->a, MANY, AXES, FEW)) X(zm_flip(g->a, AXES, FEW)) \
  X(zm_pad(g->a, MANY, NONE, (zm_pad_mode)any(5), g->v)) X(zm_as_strided(g->a, MANY, MANY, FEW, g->m)) \
  X(zm_as_strided(g->a, NONE, MANY, FEW, g->m)) X(zm_masked_fill(g->a, g->b, g->v)) X(zm_reshape(g->a, MANY, FEW)) \
  X(zm_reshape(g->a, MANY, 9)) X(zm_reshape(g->a, NULL, -1)) X(zm_broadcast_to(g->a, MANY, FEW)) X(zm_broadcast_to(g->a, MANY, 9)) \
  X(zm_transpose(g->a, AXES)) X(zm_transpose(g->a, NULL)) X(zm_zeros(g->t, MANY, FEW)) X(zm_ones(g->t, MANY, -1)) \
  X(zm_full(g->v, g->t, MANY, FEW)) X(zm_full(g->v, g->t, NULL, 2)) X(zm_full(g->v, (zm_dtype)99, NONE, 1)) \
  X(zm_arange(g->v, (double)g->n, (double)g->m, g->t)) X(zm_arange(0, INFINITY, 1, ZM_F32)) X(zm_arange(0, 5, 0, ZM_F32)) \
  X(zm_arange(0, NAN, 1, ZM_F32)) X(zm_linspace(0, g->v, g->n, g->t)) X(zm_eye(g->n, g->m, g->n, g->t)) X(zm_identity(g->n, g->t)) \
  X(zm_tri(g->n, g->m, g->m, g->t)) X(zm_diagonal(g->a, g->n, g->x, (int)g->m)) X(zm_diag(g->a, g->n)) X(zm_tril(g->a, g->n)) \
  X(zm_triu(g->a, g->n)) X(zm_trace(g->a, g->n, g->x, 0)) X(zm_vecdot(g->a, g->b, g->x)) \
  X(zm_tensordot(g->a, g->b, AXES, AXES, FEW)) X(zm_einsum("ij,jk->ik", (zm_array *[]){g->a, g->b}, 2)) \
  X(zm_einsum("ii", (zm_array *[]){g->a}, 1)) X(zm_einsum("...a->a...", (zm_array *[]){g->a}, 1)) X(zm_einsum(NULL, NULL, 0)) \
  X(zm_einsum("a,b->c", (zm_array *[]){g->a, g->b}, 2)) X(zm_einsum("a->", (zm_array *[]){g->a}, 1)) X(zm_einsum(",,,", NULL, 4)) \
  X(zm_einsum("....,->", (zm_array *[]){g->a, g->b}, 2)) X(zm_round(g->a, (int)g->n)) X(zm_isclose(g->a, g->b, g->v, 0, true)) \
  X(zm_allclose(g->a, g->b, g->v, 0, true)) X(zm_nan_to_num(g->a, g->v, NULL, NULL)) X(zm_array_equal(g->a, g->b, false)) \
  X(zm_unique(g->a, g->n, NULL, NULL, NULL, NULL)) X(zm_bartlett(g->n)) X(zm_blackman(g->n)) X(zm_hamming(g->n)) X(zm_hanning(g->n)) \
  X(zm_addmm(g->a, g->b, g->c, g->v, 1)) X(zm_gather_mm(g->a, g->b, g->c, NULL, false)) X(zm_conv_general(g->a, g->b, NULL)) \
  X(zm_conv_general(g->a, g->b, &(zm_conv_options){.stride = {g->n}, .padding_low = {g->m, g->m}, .dilation = {g->n, g->m}})) \
  X(zm_conv1d(g->a, g->b, g->n, g->m, 1, 1)) X(zm_conv2d(g->a, g->b, MANY, MANY, NULL, g->m)) \
  X(zm_conv3d(g->a, g->b, NULL, NULL, MANY, 1)) \
  X(zm_convolve(g->a, g->b, (zm_convolve_mode)any(4))) X(zm_random_key((uint64_t)g->n)) X(zm_random_split(g->a, g->n)) \
  X(zm_random_bits(g->a, (int)g->n, MANY, FEW)) X(zm_random_uniform(g->a, g->b, g->c, g->t, MANY, FEW)) \
  X(zm_random_uniform(zm_random_key(1), g->b, g->c, g->t, MANY, FEW)) X(zm_random_randint(zm_random_key(1), g->b, g->c, g->t, MANY, FEW)) \
  X(zm_random_permutation(zm_random_key(1), g->n)) X(zm_random_permutation_of(zm_random_key(1), g->a, g->x)) \
  X(zm_random_bernoulli(zm_random_key(1), g->b, MANY, FEW)) X(zm_random_gumbel(zm_random_key(1), g->t, MANY, FEW)) \
  X(zm_random_normal(zm_random_key(1), g->b, g->c, g->t, MANY, FEW)) X(zm_random_laplace(zm_random_key(1), 0, 1, g->t, MANY, 20)) \
  X(zm_random_truncated_normal(zm_random_key(1), g->b, g->c, g->t, MANY, FEW)) \
  X(zm_random_categorical(zm_random_key(1), g->a, g->x, MANY, FEW)) \
  X(zm_random_categorical_many(zm_random_key(1), g->a, g->x, g->n)) \
  X(zm_random_multivariate_normal(zm_random_key(1), g->a, g->b, ZM_F32, MANY, FEW)) \
  X(zm_dequantize(g->a, g->b, g->c, NULL, NULL, g->t)) X(zm_quantized_matmul(g->a, g->b, g->c, g->c, NULL, true)) \
  X(zm_quantized_matmul(g->a, g->b, g->c, g->c, &(zm_quant){(zm_quant_mode)any(6), (int)g->n, (int)g->m}, false)) \
  X(zm_gather_qmm(g->a, g->b, g->c, g->c, g->b, NULL, NULL, true, true)) X(zm_from_fp8(g->a, g->t)) \
  X(zm_scaled_dot_product_attention(g->a, g->b, g->b, &(zm_attention_options){.mask = g->c, .causal = true})) \
  X(zm_resize_bilinear(g->a, g->n, g->m)) X(zm_fused_scatter_add(g->a, g->b, MANY, FEW)) X(zm_dropout(g->a, g->v, 1)) \
  X(zm_elu(g->a, g->v)) X(zm_softmax_cross_entropy(g->a, g->b, (int32_t)g->n)) X(zm_array_from_data(&g->v, g->t, NULL, 3)) \
  X(zm_array_from_data(NULL, ZM_F32, (int64_t[]){3}, 1)) X(zm_array_from_data(&g->v, (zm_dtype)77, NULL, 0)) \
  X(zm_array_from_data(&g->v, ZM_U8, (int64_t[]){INT64_MAX, 4}, 2)) X(zm_array_from_data(&g->v, ZM_U8, (int64_t[]){-1}, 1))
// clang-format on

#define X(name)                                                                                                                            \
  static zm_array *one_##name(const given *g) {                                                                                            \
    return zm_##name(g->a);                                                                                                                \
  }
ONE_LIST(X)
#undef X
#define X(name)                                                                                                                            \
  static zm_array *two_##name(const given *g) {                                                                                            \
    return zm_##name(g->a, g->b);                                                                                                          \
  }
TWO_LIST(X)
#undef X

static int64_t any_number(void) {
  static const int64_t numbers[] = {
      0,   1,         2,         3,        4,        -1,          -2,       5,         16,        -5,
      127, INT32_MAX, INT32_MIN, 1L << 33, 1L << 40, -(1L << 40), 1L << 62, INT64_MAX, INT64_MIN, INT64_MAX - 1,
      7,   1000};
  const uint64_t k = any(2 * ZMI_COUNT(numbers)); // small ones as often as all together
  return k < ZMI_COUNT(numbers) ? numbers[k] : numbers[any(5)];
}

static given any_given(zm_array *const *pool, int count) {
  static const int axes[] = {0, -1, 1, 2, -2, 7, 8, -8, -9, INT_MAX, INT_MIN, 127};
  static const double values[] = {0, 1, -1, 0.5, 1e300, -1e300, NAN, INFINITY};
  given g = {.a = pool[any((uint64_t)count)], .b = pool[any((uint64_t)count)], .c = pool[any((uint64_t)count)]};
  if (any(3) == 0) g.b = g.a;
  g.x = axes[any(ZMI_COUNT(axes))];
  g.n = any_number();
  g.m = any_number();
  g.v = values[any(ZMI_COUNT(values))];
  g.t = (zm_dtype)any(ZM_DTYPE_COUNT + 1);
  return g;
}

enum { TIMES = 1000 };

static void run(const char *what, zm_array *(*f)(const given *)) {
  zm_scope *outer = zm_scope_open();
  zm_array *pool[POOL];
  const int count = make_pool(pool);
  for (int i = 0; i < TIMES; i++) {
    zm_scope *scope = zm_scope_open();
    const given g = any_given(pool, count);
    zm_clear_error();
    judge(what, f(&g), is_huge(g.a) || is_huge(g.b));
    zm_scope_close(scope);
  }
  zm_scope_close(outer);
}

// Most calls of a list must give something that is computed, and many be refused: else the operands are of no use.
static void counted(int least) {
  print_message("# %d made, %d computed, %d refused\n", made, computed, refused);
  assert_true(made >= least && computed >= least / 2 && refused >= least / 2);
  made = computed = refused = 0;
}

static void functions_of_one(void **state) {
  (void)state;
#define X(name) run(#name, one_##name);
  ONE_LIST(X)
#undef X
  counted(1000);
}

static void functions_of_two(void **state) {
  (void)state;
#define X(name) run(#name, two_##name);
  TWO_LIST(X)
#undef X
  counted(1000);
}

// Each expression of the list is a function, by its number.
static zm_array *expression_at(int number, const given *g, const char **text) {
  int at = 0;
#define X(expression)                                                                                                                      \
  if (at++ == number) {                                                                                                                    \
    *text = #expression;                                                                                                                   \
    return g ? (expression) : NULL;                                                                                                        \
  }
  REST(X)
#undef X
  *text = NULL;
  return NULL;
}

static void other_functions(void **state) {
  (void)state;
  zm_scope *outer = zm_scope_open();
  zm_array *pool[POOL];
  const int count = make_pool(pool);
  const char *text;
  for (int k = 0; expression_at(k, NULL, &text), text; k++) {
    for (int i = 0; i < TIMES; i++) {
      zm_scope *scope = zm_scope_open();
      const given g = any_given(pool, count);
      zm_clear_error();
      judge(text, expression_at(k, &g, &text), is_huge(g.a) || is_huge(g.b) || is_huge(g.c));
      zm_scope_close(scope);
    }
  }
  zm_scope_close(outer);
}

// ---- functions that give a status ----

static void judge_status(const char *what, zm_status status, zm_array **out, int count) {
  if (status == ZM_OK) {
    for (int i = 0; i < count; i++) judge(what, out[i], false);
    zm_clear_error();
    return;
  }
  sentence(what, false);
  zm_clear_error();
}

#define STATUS(expression, count) judge_status(#expression, (expression), out, (int)(count))

static void functions_of_several_results(void **state) {
  (void)state;
  zm_scope *outer = zm_scope_open();
  zm_array *pool[POOL];
  const int count = make_pool(pool);
  for (int i = 0; i < 5 * TIMES; i++) {
    zm_scope *scope = zm_scope_open();
    zm_array *out[64] = {NULL};
    const given g = any_given(pool, count);
    const int64_t parts = ZMI_MIN(g.n, 64), length = g.a ? zm_array_dim(g.a, g.x) : 0;
    zm_clear_error();
    if (!is_huge(g.a) && !is_huge(g.b) && !is_huge(g.c)) {
      STATUS(zm_split(g.a, (int)ZMI_MAX(parts, -2), g.x, out), ZMI_MAX(parts, 0));
      STATUS(zm_split_at(g.a, (int64_t[]){g.n, g.m, 1}, (int)any(4), g.x, out), 1);
      if (length < 64) STATUS(zm_unstack(g.a, g.x, out), length);
      STATUS(zm_broadcast_arrays((zm_array *[]){g.a, g.b, g.c}, 3, out), 3);
      STATUS(zm_meshgrid((zm_array *[]){g.a, g.b, g.c}, 3, g.n & 1, g.m & 1, out), 3);
      STATUS(zm_divmod(g.a, g.b, &out[0], &out[1]), 2);
      STATUS(zm_quantize(g.a, &(zm_quant){(zm_quant_mode)any(6), (int)g.n, (int)g.m}, NULL, &out[0], &out[1], &out[2]), 2);
      STATUS(zm_random_split2(g.a, &out[0], &out[1]), 2);
      STATUS(zm_add_rms_norm(g.a, g.b, g.c, g.v, &out[0], &out[1]), 2);
      STATUS(zm_topk_lastdim(g.a, (int)g.n, &out[0], &out[1]), 2);
      STATUS(zm_topk_gating_softmax(g.a, (int)g.n, g.b, g.m & 1, &out[0], &out[1]), 2);
      STATUS(zm_deepseek_router_topk_sigmoid(g.a, g.b, (int)g.n, (int)g.m, 1, &out[0], &out[1]), 2);
      STATUS(zm_adamw_step(g.a, g.b, g.a, g.c, g.b, g.c, NULL, &out[0], &out[1], &out[2]), 3);
    }
    zm_scope_close(scope);
  }
  zm_scope_close(outer);
}

// ---- the op table ----

// Types of any number, dtype and small shape, with attributes of zeros and of noise: the shape rule accepts or says why not, and what it
// accepts plays.
static zmi_type any_type(void) {
  static const zm_dtype often[] = {ZM_F32, ZM_F32, ZM_F32, ZM_I32, ZM_U32, ZM_BF16};
  zmi_type t = {.dtype = any(3) ? often[any(ZMI_COUNT(often))] : (zm_dtype)(1 + any(ZM_DTYPE_COUNT - 1))};
  t.rank = (int)any(any(4) ? 5 : ZM_MAX_RANK + 1);
  for (int i = 0; i < t.rank; i++) t.shape[i] = (int64_t)any(any(4) ? 4 : 18);
  return t;
}

static void try_op(const zmi_op *op) {
  zm_array *in[6], *out[ZMI_MAX_OUT] = {NULL};
  zmi_type types[6], results[ZMI_MAX_OUT];
  zmi_attrs attrs = {0};
  const int nin = (int)any(7);
  int nout = 0;
  for (size_t i = 0; i < sizeof attrs.bytes && any(3) == 0; i += 8) attrs.bytes[i] = (unsigned char)any(4);
  for (int k = 0; k < nin; k++) {
    types[k] = k && any(2) ? types[0] : any_type();
    if (zmi_type_count(&types[k]) > 4096) types[k].shape[0] = 0;
    if (any(12) == 0) types[k].rank = -1; // absent
  }
  zm_clear_error();
  if (op->infer(&attrs, nin, types, &nout, results) != ZM_OK) {
    sentence(op->name, false);
    return;
  }
  if (nout < 0 || nout > ZMI_MAX_OUT) fail_msg("%s: %d results", op->name, nout);
  for (int o = 0; o < nout; o++) {
    size_t bytes;
    if (results[o].rank < 0 || results[o].rank > ZM_MAX_RANK) fail_msg("%s: a result of rank %d", op->name, results[o].rank);
    if (!zmi_type_bytes(&results[o], &bytes)) fail_msg("%s: a result without a size", op->name);
    if (bytes > LIMIT) return;
  }
  if (op->updates[0] || op->flags & ZMI_OP_HIDDEN || op->find_owner) return; // only given with a state or a kernel
  for (int k = 0; k < nin; k++) {
    if (types[k].rank < 0) return;
    in[k] = zm_full(any(2) ? 1 : -2, types[k].dtype, types[k].shape, types[k].rank);
  }
  if (zmi_apply(op, &attrs, sizeof attrs.bytes, nin, in, out) != ZM_OK || zm_eval(out, (size_t)nout) != ZM_OK) sentence(op->name, false);
}

static void every_op(void **state) {
  (void)state;
  for (size_t i = 0; i < zmi_op_count() + zmi_catalog_op_count(); i++) {
    const zmi_op *op = i < zmi_op_count() ? zmi_op_at(i) : zmi_catalog_op_at(i - zmi_op_count());
    if (!op->infer) continue;
    for (int k = 0; k < 4000; k++) {
      zm_scope *scope = zm_scope_open();
      try_op(op);
      zm_scope_close(scope);
    }
  }
  zm_clear_error();
}

// ---- the catalog ----

// An operand that does not fit: absent, of another dtype, of another rank, longer, shorter, empty.
static zm_array *spoilt(zm_array *a, uint64_t how) {
  zmi_type t = a->type;
  const int axis = t.rank ? (int)any((uint64_t)t.rank) : 0;
  switch (how) {
  case 0:
    return NULL;
  case 1:
    return zm_astype(a, (zm_dtype)(1 + any(ZM_DTYPE_COUNT - 1)));
  case 2:
    return t.rank < ZM_MAX_RANK ? zm_expand_dims(a, 0) : a;
  case 3:
    if (t.rank) t.rank--;
    break;
  case 4:
    if (t.rank) t.shape[axis]++;
    break;
  case 5:
    if (t.rank) t.shape[axis] = 0;
    break;
  default:
    if (t.rank && t.shape[axis]) t.shape[axis]--;
  }
  return zm_full(1, t.dtype, t.shape, t.rank);
}

static void every_row_of_the_catalog(void **state) {
  (void)state;
  static const double numbers[] = {0, 1, -1, 3, 64, 1e9, -1e9};
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    zm_scope *outer = zm_scope_open();
    zm_array *sample[ZMI_CATALOG_IN];
    const int nin = zmi_entry_sample(e, ZM_F32, 64, sample);
    int64_t elements = 0;
    for (int o = 0; o < nin; o++) elements += zm_array_size(sample[o]);
    for (int k = 0; k < 60; k++) {
      zm_scope *scope = zm_scope_open();
      zm_array *in[ZMI_CATALOG_IN], *out[ZMI_CATALOG_OUT] = {NULL};
      double params[ZMI_CATALOG_PARAMS];
      const int count = zmi_entry_parameters(e, params);
      memcpy(in, sample, sizeof in);
      if (nin > 0 && any(4)) {
        const int o = (int)any((uint64_t)nin);
        in[o] = spoilt(in[o], any(7));
      }
      if (count && any(2)) params[any((uint64_t)count)] = numbers[any(ZMI_COUNT(numbers))];
      zm_clear_error();
      zm_status status = zmi_entry_call(e, in, nin, params, out);
      // Large operands are refused like small ones; that they are computed is tested elsewhere.
      if (status == ZM_OK && elements < 20000) {
        status = zm_eval(out, e->outputs ? (size_t)e->outputs : 1);
        computed += status == ZM_OK;
      }
      made += status == ZM_OK;
      refused += status != ZM_OK;
      if (status != ZM_OK) sentence(e->name, false);
      zm_scope_close(scope);
    }
    zm_scope_close(outer);
  }
  zm_clear_error();
  counted(2000);
}

// ---- kernels and transforms ----

static zm_status twice(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_add(in[0], in[0]);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status nothing(void *user, zm_array *const *in, int nin, zm_array **out, int nout) { // leaves its result as it was
  (void)user, (void)in, (void)nin, (void)out, (void)nout;
  return ZM_OK;
}

static void no_op(const char *what, zm_op *op) {
  if (op) fail_msg("%s: not refused", what);
  sentence(what, true);
  zm_clear_error();
}

static void kernels(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  no_op("no source", zm_elementwise(NULL, NULL));
  no_op("an empty source", zm_elementwise("", NULL));
  no_op("a reduction without options", zm_reduce(NULL));
  no_op("an empty reduction", zm_reduce(&(zm_reduce_options){0}));
  no_op("two passes without options", zm_map_reduce(NULL));
  no_op("two empty passes", zm_map_reduce(&(zm_map_reduce_options){0}));
  no_op("a kernel without options", zm_kernel(NULL));
  no_op("an empty kernel", zm_kernel(&(zm_kernel_options){0}));
  no_op("a kernel of no form",
        zm_kernel(&(zm_kernel_options){.form = (zm_kernel_form)9, .source = "y = x;", .inputs = "x", .outputs = "y"}));
  no_op("a result of no dtype", zm_elementwise("x", &(zm_elementwise_options){.result = {(zm_dtype)99}}));
  zm_op *two = zm_elementwise("x + y", NULL);
  zm_array *x = zm_ones(ZM_F32, SHAPE(3)), *four = zm_ones(ZM_F32, SHAPE(4)), *out[2];
  assert_non_null(two);
  STATUS(zm_op_apply(two, &x, 1, out, 1), 0);
  STATUS(zm_op_apply(two, (zm_array *[]){x, four}, 2, out, 1), 0);
  STATUS(zm_op_apply(two, (zm_array *[]){x, NULL}, 2, out, 1), 0);
  STATUS(zm_op_apply(two, (zm_array *[]){x, x}, 2, out, 2), 0);
  STATUS(zm_op_apply(NULL, (zm_array *[]){x, x}, 2, out, 1), 0);
  STATUS(zm_op_apply_with(two, (zm_array *[]){x, x}, 2, (double[]){1}, 1, out, 1), 0);
  judge("op_apply1 with too few", zm_op_apply1(two, x, NULL), false);
  judge("op_apply1 of no op", zm_op_apply1(NULL, x, NULL), false);
  assert_null(zm_op_source(two, (zm_dtype[]){ZM_F32, (zm_dtype)88}, 2, "c"));
  sentence("a source for no dtype", true);
  STATUS(zm_eval((zm_array *[]){NULL}, 1), 0);
  STATUS(zm_grad(NULL, NULL, &x, 1, NULL, 1, out), 0);
  STATUS(zm_grad(twice, NULL, &x, 1, NULL, 1, out), 0); // not one element
  STATUS(zm_grad(nothing, NULL, &x, 1, NULL, 1, out), 0);
  STATUS(zm_grad(twice, NULL, &x, 1, (int[]){4}, 1, out), 0);
  STATUS(zm_vjp(twice, NULL, (zm_array *[]){NULL}, 1, NULL, out, 1, out), 0);
  STATUS(zm_vjp(twice, NULL, &x, 1, (zm_array *[]){four}, out, 1, out), 0);
  STATUS(zm_jvp(twice, NULL, &x, 1, (zm_array *[]){four}, out, 1, out), 0);
  STATUS(zm_vmap(twice, NULL, &x, 1, (int[]){5}, out, 1, NULL), 0);
  STATUS(zm_vmap(nothing, NULL, &x, 1, NULL, out, 1, NULL), 0);
  STATUS(zm_vmap(twice, NULL, &x, 1, (int[]){ZM_NO_AXIS}, out, 1, NULL), 1);
  STATUS(zm_checkpoint(NULL, NULL, &x, 1, out, 1), 0);
  STATUS(zm_compiled_call(NULL, &x, 1, out, 1), 0);
  assert_null(zm_compile(NULL, NULL, 1));
  sentence("compiling nothing", false);
  zm_clear_error();
  zm_op_free(two);
  zm_op_free(NULL);
  zm_scope_close(scope);
  zm_scope_close(NULL);
}

static int setup(void **state) {
  (void)state;
  zm_memory_set_limit(LIMIT);
  return 0;
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(functions_of_one), cmocka_unit_test(functions_of_two),
      cmocka_unit_test(other_functions),  cmocka_unit_test(functions_of_several_results),
      cmocka_unit_test(every_op),         cmocka_unit_test(every_row_of_the_catalog),
      cmocka_unit_test(kernels),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, setup, NULL);
}
