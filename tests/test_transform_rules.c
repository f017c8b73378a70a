// Rules of the op table: every row has them, and a case here. Gradients against finite differences, tangents against gradients, batches
// against slices bit by bit, and the same for the gradients themselves.
#include "array/ops/ops.h"
#include "transform_check.h"

#include <zmlx/zmlx.h>

#define F(name)                                                                                                                            \
  static zm_status name(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {                                              \
    (void)user, (void)nin, (void)nout, (void)in;
#define END                                                                                                                                \
  return out[0] ? ZM_OK : zm_last_status();                                                                                                \
  }
#define ONE(word)                                                                                                                          \
  F(f_##word) out[0] = zm_##word(in[0]);                                                                                                   \
  END
#define TWO(word)                                                                                                                          \
  F(f_##word) out[0] = zm_##word(in[0], in[1]);                                                                                            \
  END
#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

TWO(add)
TWO(subtract) TWO(multiply) TWO(divide) TWO(maximum) TWO(minimum) TWO(matmul) TWO(take) TWO(equal) TWO(not_equal) TWO(less) TWO(less_equal)
    TWO(greater) TWO(greater_equal) ONE(negative) ONE(abs) ONE(exp) ONE(log) ONE(sqrt) ONE(rsqrt) ONE(sigmoid) ONE(silu) ONE(tanh)
        ONE(softmax)

            F(f_where) out[0] = zm_where(zm_greater(in[0], zm_full(0, ZM_F32, NULL, 0)), in[1], in[2]);
END F(f_astype) out[0] = zm_astype(zm_astype(in[0], ZM_BF16), ZM_F32);
END F(f_reshape) out[0] = zm_reshape(in[0], SHAPE(3, 4));
END F(f_transpose) out[0] = zm_transpose(in[0], (int[]){1, 2, 0});
END F(f_broadcast_to) out[0] = zm_broadcast_to(in[0], SHAPE(4, 2, 3));
END F(f_slice) out[0] = zm_slice(in[0], (int64_t[]){3, 1}, (int64_t[]){0, 6}, (int64_t[]){-2, 2});
END F(f_copy) out[0] = zm_contiguous(zm_transpose(in[0], NULL));
END F(f_concatenate) out[0] = zm_concatenate(in, 3, 1);
END F(f_arange) out[0] = zm_multiply(in[0], zm_arange(0, 3, 1, ZM_F32));
END F(f_sum) out[0] = zm_sum(in[0], 1, false);
END F(f_sum_kept) out[0] = zm_sum(in[0], 0, true);
END F(f_mean) out[0] = zm_mean(in[0], 1, false);
END F(f_max) out[0] = zm_max(in[0], 1, false);
END F(f_min) out[0] = zm_min(in[0], 0, true);
END F(f_argmax) out[0] = zm_argmax(in[0], 1, false);
END F(f_place) out[0] = zm_multiply(zmi_slice_exactly(in[0], (int64_t[]){1, 0}, (int64_t[]){1, 2}, (int64_t[]){2, 2}), in[1]);
END F(f_rms_norm) out[0] = zmi_rms_norm(in[0], in[1], 1e-5);
END F(f_rope) out[0] = zmi_rope(in[0], in[1], in[2], false);
END F(f_rope_traditional) out[0] = zmi_rope(in[0], in[1], in[2], true);
END F(f_combine) out[0] = zmi_combine(in[0], in[1]);
END

    F(f_rope_table) if (zmi_rope_table(in[1], in[0], &out[0], &out[1]) != ZM_OK) return zm_last_status();
END

#define A23                                                                                                                                \
  { ZM_F32, 2, {2, 3}, -1, 1 }
#define P23                                                                                                                                \
  { ZM_F32, 2, {2, 3}, 0.5f, 2 }
#define UNARY(word, input)                                                                                                                 \
  {                                                                                                                                        \
#word, #word, f_##word, .in = { input }                                                                                                \
  }
#define BINARY(word)                                                                                                                       \
  {                                                                                                                                        \
#word, #word, f_##word, .in = { A23, A23 }                                                                                             \
  }
    F(f_addmm) out[0] = zm_addmm(in[2], in[0], in[1], 0.5, 2);
END F(f_conv) out[0] = zm_conv2d(in[0], in[1], (int64_t[]){2, 1}, (int64_t[]){1, 2}, (int64_t[]){1, 2}, 2);
END F(f_conv1d) out[0] = zm_conv_general(in[0], in[1], &(zm_conv_options){.input_dilation = {2}, .padding_low = {-1}, .flip = true});
END F(f_random) out[0] = zm_random_uniform(in[0], in[1], NULL, ZM_F32, SHAPE(2, 3));
END

    static const check_case cases[] = {
        BINARY(add),
        BINARY(subtract),
        BINARY(multiply),
        {"divide", "divide", f_divide, .in = {A23, P23}},
        {"maximum", "maximum", f_maximum, .in = {A23, {ZM_F32, 2, {2, 3}, -1, 1}}, .step = 1e-3, .tolerance = 1e-2},
        {"minimum", "minimum", f_minimum, .in = {A23, {ZM_F32, 2, {2, 3}, -1, 1}}, .step = 1e-3, .tolerance = 1e-2},
        {"equal", "equal", f_equal, .in = {A23, A23}, .flat = true},
        {"not_equal", "not_equal", f_not_equal, .in = {A23, A23}, .flat = true},
        {"less", "less", f_less, .in = {A23, A23}, .flat = true},
        {"less_equal", "less_equal", f_less_equal, .in = {A23, A23}, .flat = true},
        {"greater", "greater", f_greater, .in = {A23, A23}, .flat = true},
        {"greater_equal", "greater_equal", f_greater_equal, .in = {A23, A23}, .flat = true},
        {"where", "where", f_where, .in = {A23, A23, A23}, .step = 1e-3, .tolerance = 1e-2},
        UNARY(negative, A23),
        {"abs", "abs", f_abs, .in = {A23}, .step = 1e-3, .tolerance = 1e-2},
        UNARY(exp, A23),
        UNARY(log, P23),
        UNARY(sqrt, P23),
        UNARY(rsqrt, P23),
        UNARY(sigmoid, A23),
        UNARY(silu, A23),
        UNARY(tanh, A23),
        UNARY(softmax, A23),
        {"add of two shapes", "broadcast_to", f_add, .in = {{ZM_F32, 3, {2, 1, 3}, -1, 1}, {ZM_F32, 1, {3}, -1, 1}}},
        {"multiply of two shapes", "broadcast_to", f_multiply, .in = {{ZM_F32, 2, {2, 1}, -1, 1}, {ZM_F32, 0, {0}, -1, 1}}},
        {"astype", "astype", f_astype, .in = {A23}, .step = 0.5, .tolerance = 3e-2, .agreement = 1e-2},
        {"place", "slice", f_place, .in = {{ZM_F32, 2, {4, 3}, -1, 1}, {ZM_F32, 2, {2, 2}, -1, 1}}},
        {"reshape", "reshape", f_reshape, .in = {{ZM_F32, 2, {2, 6}, -1, 1}}},
        {"transpose", "transpose", f_transpose, .in = {{ZM_F32, 3, {2, 3, 4}, -1, 1}}},
        {"broadcast_to", "broadcast_to", f_broadcast_to, .in = {{ZM_F32, 2, {2, 1}, -1, 1}}},
        {"slice", "slice", f_slice, .in = {{ZM_F32, 2, {5, 7}, -1, 1}}},
        {"copy", "copy", f_copy, .in = {A23}},
        {"concatenate", "concatenate", f_concatenate, .in = {A23, {ZM_F32, 2, {2, 1}, -1, 1}, A23}},
        {"arange", "arange", f_arange, .in = {A23}},
        {"sum", "sum", f_sum, .in = {{ZM_F32, 3, {2, 5, 3}, -1, 1}}},
        {"sum kept", "sum", f_sum_kept, .in = {A23}},
        {"mean", "mean", f_mean, .in = {{ZM_F32, 3, {2, 5, 3}, -1, 1}}},
        {"max", "max", f_max, .in = {{ZM_F32, 3, {2, 5, 3}, -1, 1}}, .step = 1e-3, .tolerance = 1e-2},
        {"min", "min", f_min, .in = {{ZM_F32, 2, {5, 3}, -1, 1}}, .step = 1e-3, .tolerance = 1e-2},
        {"argmax", "argmax", f_argmax, .in = {{ZM_F32, 2, {2, 5}, -1, 1}}, .flat = true},
        {"matmul", "matmul", f_matmul, .in = {A23, {ZM_F32, 2, {3, 4}, -1, 1}}},
        {"matmul of batches", "matmul", f_matmul, .in = {{ZM_F32, 3, {2, 4, 3}, -1, 1}, {ZM_F32, 2, {3, 2}, -1, 1}}},
        {"matmul of vectors", "matmul", f_matmul, .in = {{ZM_F32, 1, {5}, -1, 1}, {ZM_F32, 1, {5}, -1, 1}}},
        {"addmm", "addmm", f_addmm, .in = {A23, {ZM_F32, 2, {3, 4}, -1, 1}, {ZM_F32, 2, {2, 4}, -1, 1}}},
        {"addmm of a row", "addmm", f_addmm, .in = {A23, {ZM_F32, 2, {3, 4}, -1, 1}, {ZM_F32, 1, {4}, -1, 1}}},
        {"conv of groups", "conv", f_conv, .in = {{ZM_F32, 4, {2, 4, 5, 4}, -1, 1}, {ZM_F32, 4, {6, 3, 2, 2}, -1, 1}}, .tolerance = 4e-3},
        {"conv, turned and dilated", "conv", f_conv1d, .in = {{ZM_F32, 3, {1, 5, 2}, -1, 1}, {ZM_F32, 3, {3, 3, 2}, -1, 1}}},
        {"random", "random_bits", f_random, .in = {{ZM_U32, 1, {2}, 0, 1000}, {ZM_F32, 1, {3}, -2, 0}}},
        {"take", "take", f_take, .in = {{ZM_F32, 2, {4, 3}, -1, 1}, {ZM_I32, 2, {2, 3}, -2, 6}}},
        {"rms_norm", "rms_norm", f_rms_norm, .in = {A23, {ZM_F32, 1, {3}, -1, 1}}},
        {"rope", "rope", f_rope, .in = {{ZM_F32, 3, {2, 3, 6}, -1, 1}, {ZM_F32, 2, {2, 2}, -1, 1}, {ZM_F32, 2, {2, 2}, -1, 1}}},
        {"traditional rope", "rope", f_rope_traditional,
         .in = {{ZM_F32, 3, {2, 3, 6}, -1, 1}, {ZM_F32, 2, {2, 3}, -1, 1}, {ZM_F32, 2, {2, 3}, -1, 1}}},
        {"rope_table", "rope_table", f_rope_table, .nout = 2, .in = {{ZM_F32, 1, {3}, 0.1f, 1}, {ZM_I32, 1, {4}, 0, 5}}},
        {"combine", "combine", f_combine, .in = {{ZM_F32, 3, {2, 3, 4}, -1, 1}, {ZM_F32, 2, {2, 3}, -1, 1}}},
};

static void every_case(void **state) {
  (void)state;
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) check_all(&cases[i], NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_case),
  };
  return cmocka_run_group_tests_name("transform_rules", tests, NULL, NULL);
}
