// Rules of the operations of zmlx/ops.h: gradients against finite differences, tangents against gradients, batches against slices bit by
// bit, and the same for the gradients themselves.
#include "array/ops/ops.h"
#include "transform_ops.h"

#include <zmlx/zmlx.h>

// clang-format off
#define F(name)                                                                                                   \
  static zm_status name(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {                     \
    (void)user, (void)nin, (void)nout, (void)in;
#define END                                                                                                       \
  return out[0] ? ZM_OK : zm_last_status();                                                                       \
  }
#define ONE(name, value) F(f_##name) out[0] = value; END
#define AT(...) (int[]){__VA_ARGS__}
#define LONG(...) (int64_t[]){__VA_ARGS__}

ONE(cumsum, zm_cumsum(in[0], 1, false, true))
ONE(cumsum_ex, zm_cumsum(in[0], 0, true, false))
ONE(cumprod, zm_cumprod(in[0], 1, false, true))
ONE(cumprod_ex, zm_cumprod(in[0], 1, true, false))
ONE(cummax, zm_cummax(in[0], 1, false, true))
ONE(cummax_ex, zm_where(zm_equal(zm_cummax(in[0], 1, true, false), zm_full(-INFINITY, ZM_F32, NULL, 0)), zm_full(0, ZM_F32, NULL, 0),
                        zm_cummax(in[0], 1, true, false)))
ONE(cummin, zm_cummin(in[0], 0, true, true))
ONE(logcumsumexp, zm_logcumsumexp(in[0], 1, false, true))
ONE(logcumsumexp_back, zm_logcumsumexp(in[0], 0, true, true))
ONE(linear_scan, zm_linear_scan(in[0], in[1], 1, false))
ONE(linear_scan_back, zm_linear_scan(in[0], in[1], 0, true))
ONE(sort, zm_sort(in[0], 1))
ONE(sort_first, zm_sort(in[0], 0))
ONE(argsort, zm_argsort(in[0], 1))
ONE(partition, zm_partition(in[0], 2, 1))
ONE(argpartition, zm_argpartition(in[0], 2, 1))
F(f_topk) out[0] = zm_topk(in[0], 3, 1, &out[1]); END
ONE(searchsorted, zm_searchsorted(zm_sort(zm_full(1, ZM_F32, LONG(4), 1), 0), in[0], true))
ONE(take_axis, zm_take_axis(in[0], in[1], 1))
ONE(gather, zm_gather(in[0], in + 1, AT(0, 1), 2))
ONE(gather_apart, zm_gather(in[0], in + 1, AT(0, 2), 2))
#define SCATTER(mode, MODE)                                                                                       \
  ONE(scatter_##mode, zm_scatter(in[0], in + 2, AT(1), 1, in[1], ZM_SCATTER_##MODE))                                \
  ONE(scatter_apart_##mode, zm_scatter(in[0], in + 2, AT(0, 2), 2, in[1], ZM_SCATTER_##MODE))
SCATTER(set, SET)
SCATTER(add, ADD)
SCATTER(prod, PROD)
SCATTER(max, MAX)
SCATTER(min, MIN)
ONE(take_along_axis, zm_take_along_axis(in[0], in[1], 1))
ONE(put_along_axis, zm_put_along_axis(in[0], in[1], in[2], 1))
ONE(add_along_axis, zm_add_along_axis(in[0], in[1], in[2], 0))
ONE(slice_update, zm_slice_update(in[0], in[1], LONG(3, 1), LONG(0, 6), LONG(-2, 2)))
ONE(slice_at, zm_slice_at(in[0], in[1], AT(1), 1, LONG(5, 3)))
ONE(slice_update_at, zm_slice_update_at(in[0], in[1], in[2], AT(1, 0), 2))

ONE(diagonal, zm_diagonal(in[0], 1, 2, 0))
ONE(diagonal_below, zm_diagonal(in[0], -1, 0, 1))
ONE(as_strided, zm_as_strided(in[0], LONG(3, 4), LONG(2, 1), 2, 1))
ONE(prod, zm_prod(in[0], AT(0, 2), 2, true))
ONE(var, zm_var(in[0], AT(1), 1, false, 1))
ONE(std, zm_std(in[0], NULL, 0, false, 0))
ONE(logsumexp, zm_logsumexp(in[0], AT(1), 1, true))
ONE(argmin, zm_argmin(in[0], 1, false))
ONE(any, zm_any(zm_greater(in[0], zm_full(0, ZM_F32, NULL, 0)), AT(1), 1, false))
ONE(all, zm_all(zm_greater(in[0], zm_full(-0.5, ZM_F32, NULL, 0)), AT(0), 1, true))
ONE(view, zm_view(in[0], ZM_U16))
ONE(median, zm_median(in[0], AT(1), 1, false))
ONE(einsum, zm_einsum("bij,jk,bk->ib", in, 3))
ONE(einsum_dots, zm_einsum("...ii,...j->...j", in, 2))
ONE(pad, zm_pad(in[0], LONG(1, 0), LONG(0, 2), ZM_PAD_REFLECT, 0))
ONE(pad_constant, zm_pad(in[0], LONG(1, 0), LONG(0, 2), ZM_PAD_CONSTANT, 3))
ONE(diag, zm_diag(in[0], -1))
ONE(tril, zm_tril(in[0], 0))
ONE(tile, zm_tile(in[0], LONG(2, 1, 3), 3))
ONE(repeat, zm_repeat(in[0], 2, 0))
ONE(roll, zm_roll(in[0], LONG(2, -1), AT(0, 1), 2))
ONE(flip, zm_flip(in[0], NULL, 0))

#define A(...) {ZM_F32, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__})), {__VA_ARGS__}, -1, 1}
#define I(low, high, ...) {ZM_I32, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__})), {__VA_ARGS__}, low, high}
// Differences must not change the order of values.
#define ORDERED .step = 1e-4, .tolerance = 2e-2
static const check_case cases[] = {
    {"cumsum", "cumsum", f_cumsum, .in = {A(2, 5, 3)}},
    {"exclusive cumsum from the end", "cumsum", f_cumsum_ex, .in = {A(4, 3)}},
    {"cumprod", "cumprod", f_cumprod, .in = {A(2, 4, 3)}},
    {"exclusive cumprod from the end", "cumprod", f_cumprod_ex, .in = {A(2, 4)}},
    {"cumprod of zeros", "cumprod", f_cumprod, .in = {{ZM_F32, 2, {2, 4}, 0, 0}}},
    {"cummax", "cummax", f_cummax, .in = {A(2, 5, 3)}, ORDERED},
    {"exclusive cummax from the end", "cummax", f_cummax_ex, .in = {A(2, 5)}, ORDERED},
    {"cummin from the end", "cummin", f_cummin, .in = {A(5, 3)}, ORDERED},
    {"logcumsumexp", "logcumsumexp", f_logcumsumexp, .in = {A(2, 5, 3)}},
    {"logcumsumexp from the end", "logcumsumexp", f_logcumsumexp_back, .in = {A(4, 2)}},
    {"linear_scan", "linear_scan", f_linear_scan, .in = {A(2, 5, 3), A(2, 5, 3)}},
    {"linear_scan from the end", "linear_scan", f_linear_scan_back, .in = {A(4, 2), A(4, 2)}},
    {"sort", "sort", f_sort, .in = {A(2, 7)}, ORDERED},
    {"sort of the first axis", "sort", f_sort_first, .in = {A(5, 3)}, ORDERED},
    {"argsort", "argsort", f_argsort, .in = {A(2, 7)}, .flat = true},
    {"partition", "partition", f_partition, .in = {A(2, 7)}, ORDERED},
    {"argpartition", "argpartition", f_argpartition, .in = {A(2, 7)}, .flat = true},
    {"topk", "topk", f_topk, .nout = 2, .in = {A(2, 7, 2)}, ORDERED},
    {"searchsorted", "searchsorted", f_searchsorted, .in = {A(2, 7)}, .flat = true},
    {"take_axis", "gather", f_take_axis, .in = {A(2, 4, 3), I(-6, 6, 2, 3)}},
    {"gather", "gather", f_gather, .in = {A(3, 4, 2), I(-3, 3, 2, 1), I(-4, 4, 3)}},
    {"gather of axes apart", "gather", f_gather_apart, .in = {A(3, 2, 4), I(-3, 3, 2, 1), I(-4, 4, 3)}},
    {"scatter", "scatter", f_scatter_set, .in = {A(2, 3, 2), A(2, 5, 2), I(-4, 4, 5)}},
    {"scatter of axes apart", "scatter", f_scatter_apart_set, .in = {A(2, 2, 3), A(2, 4, 2), I(-2, 2, 2, 1), I(0, 3, 4)}},
    {"scatter add", "scatter", f_scatter_add, .in = {A(2, 3, 2), A(2, 5, 2), I(-4, 4, 5)}},
    {"scatter add of axes apart", "scatter", f_scatter_apart_add, .in = {A(2, 2, 3), A(2, 4, 2), I(-2, 2, 2, 1), I(0, 3, 4)}},
    {"scatter prod", "scatter", f_scatter_prod, .in = {A(2, 3, 2), A(2, 5, 2), I(-4, 4, 5)}},
    {"scatter max", "scatter", f_scatter_max, .in = {A(2, 3, 2), A(2, 5, 2), I(-4, 4, 5)}, ORDERED},
    {"scatter min of axes apart", "scatter", f_scatter_apart_min, .in = {A(2, 2, 3), A(2, 4, 2), I(-2, 2, 2, 1), I(0, 3, 4)}, ORDERED},
    {"scatter min", "scatter", f_scatter_min, .in = {A(2, 3, 2), A(2, 5, 2), I(-4, 4, 5)}, ORDERED},
    {"scatter max of axes apart", "scatter", f_scatter_apart_max, .in = {A(2, 2, 3), A(2, 4, 2), I(-2, 2, 2, 1), I(0, 3, 4)}, ORDERED},
    {"scatter prod of axes apart", "scatter", f_scatter_apart_prod, .in = {A(2, 2, 3), A(2, 4, 2), I(-2, 2, 2, 1), I(0, 3, 4)}},
    {"take_along_axis", "take_along_axis", f_take_along_axis, .in = {A(2, 4, 3), I(-5, 5, 2, 6, 1)}},
    {"put_along_axis", "put_along_axis", f_put_along_axis, .in = {A(2, 4, 3), I(-4, 4, 2, 6, 1), A(2, 6, 3)}},
    {"add_along_axis", "put_along_axis", f_add_along_axis, .in = {A(4, 3), I(-5, 5, 6, 3), A(6, 3)}},
    {"slice_update", "slice_update", f_slice_update, .in = {A(5, 7), A(2, 3)}},
    {"slice_at", "slice_at", f_slice_at, .in = {A(5, 7), I(-8, 9, 1)}},
    {"diagonal", "diagonal", f_diagonal, .in = {A(3, 2, 4)}},
    {"diagonal below", "diagonal", f_diagonal_below, .in = {A(3, 4)}},
    {"as_strided", "as_strided", f_as_strided, .in = {A(2, 5)}},
    {"prod", "prod", f_prod, .in = {A(2, 3, 2)}},
    {"prod of zeros", "prod", f_prod, .in = {{ZM_F32, 3, {2, 2, 2}, 0, 0}}},
    {"var", "var", f_var, .in = {A(2, 5, 3)}},
    {"std", "var", f_std, .in = {A(2, 5)}},
    {"logsumexp", "logsumexp", f_logsumexp, .in = {A(2, 5, 3)}},
    {"argmin", "argmin", f_argmin, .in = {A(2, 5)}, .flat = true},
    {"any", "any", f_any, .in = {A(2, 5)}, .flat = true},
    {"all", "all", f_all, .in = {A(2, 5)}, .flat = true},
    {"view", "view", f_view, .in = {A(2, 5)}, .flat = true},
    {"median", "sort", f_median, .in = {A(2, 4)}, ORDERED},
    {"einsum", "matmul", f_einsum, .in = {A(2, 3, 4), A(4, 2), A(2, 2)}},
    {"einsum with dots", "diagonal", f_einsum_dots, .in = {A(2, 3, 3), A(2, 4)}},
    {"pad", "concatenate", f_pad, .in = {A(3, 4)}},
    {"constant pad", "slice_update", f_pad_constant, .in = {A(3, 4)}},
    {"diag", "where", f_diag, .in = {A(3)}},
    {"tril", "where", f_tril, .in = {A(3, 4)}},
    {"tile", "reshape", f_tile, .in = {A(3, 2)}},
    {"repeat", "reshape", f_repeat, .in = {A(3, 2)}},
    {"roll", "concatenate", f_roll, .in = {A(3, 4)}},
    {"flip", "slice", f_flip, .in = {A(3, 4)}},
    {"slice_update_at", "slice_update", f_slice_update_at, .in = {A(5, 7), A(2, 3), I(-2, 7, 2)}},
};
// clang-format on

static void every_op_of_the_list(void **state) {
  (void)state;
  check_listed("ops_rules", cases, ZMI_COUNT(cases));
}

static void every_case(void **state) {
  (void)state;
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) check_all(&cases[i]);
}

// Where some updates are zero the quotient of the product and an update says nothing.
static void products_with_zeros(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  const float x[] = {2, 3}, u[] = {0, 5, 0, 7, 4};
  const int32_t at[] = {0, 0, 1, 1, 1};
  zm_array *in[3] = {zm_array_from_data(x, ZM_F32, LONG(1, 2, 1), 3), zm_array_from_data(u, ZM_F32, LONG(1, 5, 1), 3),
                     zm_array_from_data(at, ZM_I32, LONG(5), 1)};
  zm_array *out[1], *gradient[3];
  assert_int_equal(zm_vjp(f_scatter_prod, NULL, in, 3, NULL, out, 1, gradient), ZM_OK);
  const float wanted_x[] = {0, 0}, wanted_u[] = {10, 0, 84, 0, 0};
  assert_memory_equal(zm_array_data(gradient[0]), wanted_x, sizeof wanted_x);
  assert_memory_equal(zm_array_data(gradient[1]), wanted_u, sizeof wanted_u);
  zm_scope_close(scope);
}

static zm_status gradient_of_scatter(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *y, *gradient[3];
  (void)user, (void)nout;
  const zm_status status = zm_vjp(f_scatter_prod, NULL, in, nin, NULL, &y, 1, gradient);
  for (int i = 0; i < 2 && status == ZM_OK; i++) out[i] = gradient[i];
  return status;
}

// One place and three updates that it is multiplied with, each zero or not: all second derivatives.
static void products_have_second_derivatives_at_zeros(void **state) {
  (void)state;
  enum { N = 4 };
  for (int pattern = 0; pattern < 1 << N; pattern++) {
    float v[N];
    for (int i = 0; i < N; i++) v[i] = pattern >> i & 1 ? 0 : (float)(i + 2);
    for (int k = 0; k < N; k++) {
      zm_scope *scope = zm_scope_open();
      const int32_t at[N - 1] = {0};
      float unit[N] = {0}, found[N];
      unit[k] = 1;
      zm_array *in[] = {zm_array_from_data(v, ZM_F32, LONG(1, 1, 1), 3), zm_array_from_data(v + 1, ZM_F32, LONG(1, N - 1, 1), 3),
                        zm_array_from_data(at, ZM_I32, LONG(N - 1), 1)};
      zm_array *g[] = {zm_array_from_data(unit, ZM_F32, LONG(1, 1, 1), 3), zm_array_from_data(unit + 1, ZM_F32, LONG(1, N - 1, 1), 3)};
      zm_array *first[2], *second[3];
      MUST(zm_vjp(gradient_of_scatter, NULL, in, 3, g, first, 2, second), "the second gradient of a product");
      memcpy(found, zm_array_data(second[0]), sizeof *found);
      memcpy(found + 1, zm_array_data(second[1]), (N - 1) * sizeof *found);
      for (int j = 0; j < N; j++) {
        float wanted = j != k;
        for (int i = 0; i < N; i++) wanted *= i == j || i == k ? 1 : v[i];
        if (fabsf(found[j] - wanted) > 1e-4f)
          fail_msg("zeros %d: by %d and %d: %g, wanted %g", pattern, k, j, (double)found[j], (double)wanted);
      }
      zm_scope_close(scope);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_op_of_the_list),
      cmocka_unit_test(every_case),
      cmocka_unit_test(products_with_zeros),
      cmocka_unit_test(products_have_second_derivatives_at_zeros),
  };
  return cmocka_run_group_tests_name("ops_rules", tests, NULL, NULL);
}
