// Rules of the op table: every row has them, and a case here. Gradients against finite differences, tangents against gradients, batches
// against slices bit by bit, and the same for the gradients themselves.
#include "array/ops/ops.h"
#include "transform_ops.h"

#include <zmlx/zmlx.h>

// clang-format off
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
TWO(subtract)
TWO(multiply) TWO(divide) TWO(maximum) TWO(minimum) TWO(matmul) TWO(take) TWO(equal) TWO(not_equal) TWO(less) TWO(less_equal) TWO(greater)
    TWO(greater_equal) ONE(negative) ONE(abs) ONE(exp) ONE(log) ONE(sqrt) ONE(rsqrt) ONE(sigmoid) ONE(silu) ONE(tanh) ONE(softmax)

F(f_where) out[0] = zm_where(zm_greater(in[0], zm_full(0, ZM_F32, NULL, 0)), in[1], in[2]);
END
F(f_astype) out[0] = zm_astype(zm_astype(in[0], ZM_BF16), ZM_F32);
END
F(f_reshape) out[0] = zm_reshape(in[0], SHAPE(3, 4));
END
F(f_transpose) out[0] = zm_transpose(in[0], (int[]){1, 2, 0});
END
F(f_broadcast_to) out[0] = zm_broadcast_to(in[0], SHAPE(4, 2, 3));
END
F(f_slice) out[0] = zm_slice(in[0], (int64_t[]){3, 1}, (int64_t[]){0, 6}, (int64_t[]){-2, 2});
END
F(f_copy) out[0] = zm_contiguous(zm_transpose(in[0], NULL));
END
F(f_concatenate) out[0] = zm_concatenate(in, 3, 1);
END
F(f_arange) out[0] = zm_multiply(in[0], zm_arange(0, 3, 1, ZM_F32));
END
F(f_sum) out[0] = zm_sum(in[0], 1, false);
END
F(f_sum_kept) out[0] = zm_sum(in[0], 0, true);
END
F(f_mean) out[0] = zm_mean(in[0], 1, false);
END
F(f_max) out[0] = zm_max(in[0], 1, false);
END
F(f_min) out[0] = zm_min(in[0], 0, true);
END
F(f_argmax) out[0] = zm_argmax(in[0], 1, false);
END
F(f_place)
zmi_type t = zmi_type_of(ZM_F32, 3, (int64_t[]){4, 7, 5});
out[0] = zmi_place(in[0], &t, (int64_t[]){3, 1, 0}, (int64_t[]){-2, 3, 1});
END
F(f_rms_norm) out[0] = zmi_rms_norm(in[0], in[1], 1e-5);
END
F(f_rope) out[0] = zmi_rope(in[0], in[1], in[2], false);
END
F(f_rope_traditional) out[0] = zmi_rope(in[0], in[1], in[2], true);
END
F(f_combine) out[0] = zmi_combine(in[0], in[1]);
END

F(f_rope_table) if (zmi_rope_table(in[1], in[0], &out[0], &out[1]) != ZM_OK) return zm_last_status();
END

    // ---- packed matrices, caches, states: constants of the functions, made once ----

    enum {
      N = 20,
      K = 64,
      EXPERTS = 3
    }; // n is no multiple of 16

typedef struct packed_matrix {
  zmi_matrix m;
  unsigned char *data;
  size_t bytes;
} packed_matrix;
static packed_matrix plain, affine, many;

static void pack(packed_matrix *to, zmi_format format, int64_t experts) {
  size_t one;
  assert_true(zmi_packed_bytes(&format, N, K, &one));
  to->bytes = one * (size_t)experts;
  unsigned char *packed = to->data = malloc(to->bytes);
  for (int64_t e = 0; e < experts; e++) {
    float w[N * K], scales[N * 2], biases[N * 2];
    uint32_t codes[N * K / 4];
    for (int i = 0; i < N * K; i++) w[i] = (float)(2 * check_uniform() - 1);
    zmi_stored_matrix s = {.weight = w, .stored = ZM_F32, .n = N, .k = K};
    if (format.mode == ZMI_QUANT_AFFINE) {
      zmi_quantize_affine(format.bits, format.group, w, N, K, codes, scales, biases);
      s = (zmi_stored_matrix){.weight = codes, .scales = scales, .biases = biases, .stored = ZM_F32, .n = N, .k = K};
    }
    zmi_pack_blocks(&format, &s, packed + (size_t)e * one, 0, (N + 15) / 16);
  }
  to->m = (zmi_matrix){.format = format, .n = N, .k = K, .experts = experts};
}

static zmi_matrix matrix(const packed_matrix *p, zm_array *bias) {
  zmi_matrix m = p->m;
  m.packed = zm_array_from_data(p->data, ZM_U8, SHAPE((int64_t)p->bytes));
  m.bias = bias;
  return m;
}

static zm_array *back(const packed_matrix *p, zm_array *g, zm_array *experts) {
  zmi_matrix m = matrix(p, NULL);
  zmi_matrix_attrs a = zmi_matrix_attrs_of(&m);
  return zmi_apply1(&zmi_op_linear_back, &a, sizeof a, experts ? 3 : 2, (zm_array *[]){g, m.packed, experts});
}

F(f_linear) zmi_matrix m = matrix(&affine, nin > 1 ? in[1] : NULL);
out[0] = zmi_linear(&m, in[0]);
END
F(f_linear_plain)
zmi_matrix m = matrix(&plain, in[1]);
out[0] = zmi_linear(&m, in[0]);
END
F(f_gather_linear)
zmi_matrix m = matrix(&many, nin > 2 ? in[2] : NULL);
out[0] = zmi_gather_linear(&m, in[0], in[1]);
END
F(f_linear_back) out[0] = back(&affine, in[0], NULL);
END
F(f_gather_linear_back) out[0] = back(&many, in[0], in[1]);
END
F(f_embed)
zmi_matrix m = matrix(&affine, NULL);
out[0] = zmi_embed(&m, in[0], ZM_F32);
END
F(f_take_add) out[0] = zmi_take_add(in[0], in[1], 4);
END
F(f_attention) out[0] = zmi_attention(in[0], in[1], in[2], in[3], in[4], 0.7);
END
F(f_route) zmi_route(in[0], nin > 1 ? in[1] : NULL, user, &out[0], &out[1]);
END

    // States are given new memory for each call: playing changes them.
    static void *states[4096];
static size_t state_count;

static zm_array *state_of(const zmi_type *t) {
  size_t bytes;
  assert_true(zmi_type_bytes(t, &bytes) && state_count < ZMI_COUNT(states));
  float *data = states[state_count++] = malloc(bytes);
  for (size_t i = 0; i < bytes / sizeof *data; i++) data[i] = (float)(i % 7) / 7 - 0.4f;
  return zmi_state("state", t, data);
}

F(f_short_conv)
const int32_t sequences[] = {0, 0, 0, 1, 1, 7}, positions[] = {0, 1, 2, 4, 5, 0};
zm_array *sequence = zm_array_from_data(sequences, ZM_I32, SHAPE(6)), *position = zm_array_from_data(positions, ZM_I32, SHAPE(6)), *next;
zmi_type t = zmi_type_of(ZM_F32, 3, (int64_t[]){2, 2, 3});
zmi_short_conv(in[0], in[1], nin > 2 ? in[2] : NULL, state_of(&t), position, sequence, &out[0], &next);
END
F(f_write_keys)
zmi_type t = zmi_type_of(ZM_F32, 6, (int64_t[]){1, 2, 1, 2, 16, 2});
out[0] = zmi_write_keys(state_of(&t), in[0], in[1], in[1]);
END
F(f_write_values)
zmi_type t = zmi_type_of(ZM_F32, 4, (int64_t[]){1, 2, 16, 4});
out[0] = zmi_write_values(state_of(&t), in[0], in[1], in[1]);
END

#define A23                                                                                                                                \
  { ZM_F32, 2, {2, 3}, -1, 1 }
#define P23                                                                                                                                \
  { ZM_F32, 2, {2, 3}, 0.5f, 2 }
#define ROUTED .step = 1e-3, .tolerance = 1e-2
#define UNARY(word, input)                                                                                                                 \
  {                                                                                                                                        \
#word, #word, f_##word, .in = { input }                                                                                                \
  }
#define BINARY(word)                                                                                                                       \
  {                                                                                                                                        \
#word, #word, f_##word, .in = { A23, A23 }                                                                                             \
  }
F(f_addmm) out[0] = zm_addmm(in[2], in[0], in[1], 0.5, 2);
END
F(f_conv) out[0] = zm_conv2d(in[0], in[1], (int64_t[]){2, 1}, (int64_t[]){1, 2}, (int64_t[]){1, 2}, 2);
END
F(f_conv1d) out[0] = zm_conv_general(in[0], in[1], &(zm_conv_options){.input_dilation = {2}, .padding_low = {-1}, .flip = true});
END
F(f_random) out[0] = zm_random_uniform(in[0], in[1], NULL, ZM_F32, SHAPE(2, 3));
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
        {"place", "place", f_place, .in = {{ZM_F32, 3, {2, 2, 3}, -1, 1}}},
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
        {"linear", "linear", f_linear, .in = {{ZM_F32, 2, {10, K}, -1, 1}, {ZM_F32, 1, {N}, -1, 1}}},
        {"linear without a bias", "linear", f_linear, .in = {{ZM_F32, 2, {2, K}, -1, 1}}},
        {"linear of floats", "linear", f_linear_plain, .in = {{ZM_F32, 2, {3, K}, -1, 1}, {ZM_F32, 2, {1, N}, -1, 1}}},
        {"gather_linear", "gather_linear", f_gather_linear,
         .in = {{ZM_F32, 2, {3, K}, -1, 1}, {ZM_I32, 2, {3, 2}, -1, EXPERTS + 1}, {ZM_F32, 2, {EXPERTS, N}, -1, 1}}},
        {"gather_linear of slots", "gather_linear", f_gather_linear,
         .in = {{ZM_F32, 3, {3, 2, K}, -1, 1}, {ZM_I32, 2, {3, 2}, 0, EXPERTS}}},
        {"linear_back", "linear_back", f_linear_back, .in = {{ZM_F32, 2, {10, N}, -1, 1}}},
        {"linear_back of experts", "linear_back", f_gather_linear_back,
         .in = {{ZM_F32, 3, {3, 2, N}, -1, 1}, {ZM_I32, 2, {3, 2}, -1, EXPERTS + 1}}},
        {"embed", "embed", f_embed, .in = {{ZM_I32, 1, {5}, -1, N + 1}}, .flat = true},
        {"take_add", "take_add", f_take_add, .in = {{ZM_F32, 3, {2, 3, 2}, -1, 1}, {ZM_I32, 2, {2, 3}, -1, 6}}},
        {"attention", "attention", f_attention,
         .in = {{ZM_F32, 3, {3, 4, 8}, -1, 1},
                {ZM_F32, 6, {2, 2, 1, 4, 16, 2}, -1, 1},
                {ZM_F32, 4, {2, 2, 16, 8}, -1, 1},
                {ZM_I32, 1, {3}, -1, 18},
                {ZM_I32, 1, {3}, 0, 2}}},
        {"route", "route", f_route, .user = &(zmi_route_attrs){ZMI_ROUTE_SOFTMAX, 2, 1, 0, 1}, .nout = 2, ROUTED,
         .in = {{ZM_F32, 2, {3, 6}, -1, 1}}},
        {"route by softmax", "route", f_route, .user = &(zmi_route_attrs){ZMI_ROUTE_SOFTMAX, 3, 0, 0, 1}, .nout = 2, ROUTED,
         .in = {{ZM_F32, 2, {3, 6}, -1, 1}}},
        {"route by sigmoid", "route", f_route, .user = &(zmi_route_attrs){ZMI_ROUTE_SIGMOID, 2, 1, 0.5, 1.7}, .nout = 2, ROUTED,
         .in = {{ZM_F32, 2, {3, 6}, -1, 1}, {ZM_F32, 1, {6}, -1, 1}}},
        {"route by plain sigmoid", "route", f_route, .user = &(zmi_route_attrs){ZMI_ROUTE_SIGMOID, 2, 0, 0, 1.7}, .nout = 2, ROUTED,
         .in = {{ZM_F32, 2, {3, 6}, -1, 1}}},
        {"short_conv", "short_conv", f_short_conv, .refuses_vmap = true,
         .in = {{ZM_F32, 2, {6, 3}, -1, 1}, {ZM_F32, 2, {3, 3}, -1, 1}, {ZM_F32, 1, {3}, -1, 1}}},
        {"short_conv without a bias", "short_conv", f_short_conv, .refuses_vmap = true,
         .in = {{ZM_F32, 2, {6, 3}, -1, 1}, {ZM_F32, 2, {3, 3}, -1, 1}}},
        {"write_keys", "write_keys", f_write_keys, .flat = true, .refuses_vmap = true,
         .in = {{ZM_F32, 3, {2, 2, 4}, -1, 1}, {ZM_I32, 1, {2}, 0, 16}}},
        {"write_values", "write_values", f_write_values, .flat = true, .refuses_vmap = true,
         .in = {{ZM_F32, 3, {2, 2, 4}, -1, 1}, {ZM_I32, 1, {2}, 0, 16}}},
        {"combine", "combine", f_combine, .in = {{ZM_F32, 3, {2, 3, 4}, -1, 1}, {ZM_F32, 2, {2, 3}, -1, 1}}},
};

// clang-format on

static void every_case(void **state) {
  (void)state;
  pack(&plain, (zmi_format){ZMI_QUANT_NONE, 0, 0, ZM_F32, 0}, 1);
  pack(&affine, (zmi_format){ZMI_QUANT_AFFINE, 8, 32, ZM_F32, 0}, 1);
  pack(&many, (zmi_format){ZMI_QUANT_AFFINE, 4, 32, ZM_F32, 0}, EXPERTS);
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) check_all(&cases[i]);
  for (size_t i = 0; i < state_count; i++) free(states[i]);
  free(plain.data);
  free(affine.data);
  free(many.data);
}

static void every_row(void **state) {
  (void)state;
  for (size_t i = 0; i < zmi_op_count(); i++) {
    const zmi_op *op = zmi_op_at(i);
    bool there = false, gradient = false;
    if (op->flags & ZMI_OP_HIDDEN) continue;
    if (!op->rules || !op->rules->gradient) fail_msg("the op %s has no rules (docs/transforms.md)", op->name);
    const bool none = strncmp(op->rules->gradient, "none: ", 6) == 0;
    if (!op->rules->vjp && !none) fail_msg("%s: why there is no gradient is not said", op->name);
    for (size_t k = 0; k < ZMI_COUNT(cases); k++) {
      if (strcmp(cases[k].op, op->name) != 0) continue;
      there = true;
      gradient = gradient || !cases[k].flat;
    }
    if (there ? !none && !gradient : !is_elsewhere(op->name))
      fail_msg("the op %s has no case in tests/test_transform_rules.c and is not in tests/transform_ops.h", op->name);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_row),
      cmocka_unit_test(every_case),
  };
  return cmocka_run_group_tests_name("transform_rules", tests, NULL, NULL);
}
