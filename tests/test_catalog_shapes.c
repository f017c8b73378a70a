// Every row of the catalog, in every float dtype, over shapes: strided operands against contiguous ones, dims of 0 and 1, more than a
// million elements whole and in pieces, one worker and several, a NaN in one row. All of it bit by bit; a row that is new takes part by its
// text of shapes, and fails here if that text cannot be read.
#include "shape_checks.h"

#include <zmlx/zmlx.h>

static const refusal all_refusals[] = {
    {"mean_lastdim", "D", 0, "mean_lastdim: x: the last axis is empty, found"},
    {"max_lastdim", "D", 0, "max_lastdim: x: the last axis is empty, found"},
    {"var_lastdim", "D", 0, "var_lastdim: x: the last axis is empty, found"},
    {"std_lastdim", "D", 0, "std_lastdim: x: the last axis is empty, found"},
    {"argmax_lastdim", "D", 0, "argmax_lastdim: x: the last axis is empty, found"},
    {"topk_lastdim", "D", 1, "topk_lastdim: topk_rows: k: expected 1 to the"},
    {"rope_concat_qk_decode", "N", 1, "offset: the tables have"},
    {"resize_bilinear", "H", 0, "no side of a picture may be empty"},
    {"resize_bilinear", "W", 0, "no side of a picture may be empty"},
    {"top2_gating_softmax", "E", 1, "k: expected 1 to the"},
    {"topk_gating_softmax", "E", 1, "k: expected 1 to the"},
    {"router_argpartition_logits_topk", "E", 1, "k: expected 1 to the"},
    {"glm_topk_gating", "E", 1, "k: expected 1 to the"},
    {"ttt_linear", "M", 0, "token_bias: a small batch has one token"},
    {"deepseek_router_topk_sigmoid", "E", 0, "k: expected 1 to the"},
    {NULL, NULL, 0, NULL},
};

static const nothing all_empty[] = {
    {"sum_lastdim", "D", 0, 0},
    {"logsumexp_lastdim", "D", 0, -INFINITY},
    {"softmax_cross_entropy", "V", 0, NAN},
    {"attention_tile_proto", "D", 0, 0},
    {"scaled_dot_product_attention", "S", 0, 0},
    {"paged_attention", "NB", 0, 0},
    {"paged_attention", "BS", 0, 0},
    {"paged_attention", "MB", 0, 0},
    {"moe_combine", "K", 0, 0},
    {"moe_combine_no_fma", "K", 0, 0},
    {"moe_combine_exact", "K", 0, 0},
    {"moe_combine_fp32", "K", 0, 0},
    {"moe_combine_fp32_no_fma", "K", 0, 0},
    {"glm_moe_combine", "K", 0, 0},
    {"gather_mmk_combine", "K", 0, 0},
    {"gather_mmk_combine", "I", 0, 0},
    {"gather_mmk_combine", "E", 0, 0},
    {"gather_qmm_combine", "I", 0, 0},
    {"gather_qmmk_combine_quantized", "W", 0, 0},
    {"gather_qmmk_combine_quantized", "E", 0, 0},
    {"gather_qmm_combine_quantized", "W", 0, 0},
    {"gather_qmm_combine_quantized", "K", 0, 0},
    {"fused_linear_rmsnorm", "K", 0, 0},
    {"fused_quantized_swiglu_gemv", "W", 0, 0},
    {"fused_quantized_swiglu_gemv_progressive", "W", 0, 0},
    {"gather_qmm_swiglu", "W", 0, 0},
    {"gather_qmm_swiglu", "E", 0, 0},
    {"fused_swiglu_gather_qmv", "W", 0, 0},
    {"fused_swiglu_gather_qmv", "E", 0, 0},
    {"fused_scatter_add", "M", 0, 0},
    {NULL, NULL, 0, 0},
};

// Heads have a limit of 1024.
static const exception all_limited[] = {{"paged_attention", "D"},
                                        {"apply_rope", "E"},
                                        {"apply_rope_interleaved", "E"},
                                        {"apply_gqa_rope", "E"},
                                        {"rope_and_cache_update", "E"},
                                        {"paged_rope_and_cache_update", "E"},
                                        {NULL, NULL}};

static const zmi_entry *catalog_row(size_t i) {
  return zmi_catalog_at(i, NULL);
}

// ---- strided operands ----

// On the operands of the stored cases: of each row the one with gradients, and the one before the largest that are small.
static void strided_operands_change_no_bit(void **state) {
  (void)state;
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    int done = 0;
    for (size_t f = 0; f < ZMI_COUNT(files); f++) {
      for (size_t k = 0; k < json_array_size(roots[f]) && done < 4; k++) {
        const json_t *json = json_array_get(roots[f], k), *in = json_object_get(json, "in"), *params = json_object_get(json, "p");
        const json_t *gradients = json_object_get(json, "grad");
        if (strcmp(json_string_value(json_object_get(json, "row")), e->name) != 0) continue;
        for (size_t t = 0; t < ZMI_COUNT(floats); t++) {
          zm_scope *scope = zm_scope_open();
          call c = {.entry = e, .nin = (int)json_array_size(in), .nout = e->outputs ? e->outputs : 1};
          zmi_entry_parameters(e, c.params);
          int64_t largest = 0;
          for (size_t p = 0; p < json_array_size(params); p++) c.params[p] = json_number_value(json_array_get(params, p));
          for (int o = 0; o < c.nin; o++) {
            c.in[o] = operand_of(json_array_get(in, (size_t)o), floats[t]);
            largest = ZMI_MAX(largest, zm_array_size(c.in[o]));
            if (json_is_array(json_array_get(gradients, (size_t)o))) c.index[c.count++] = o;
          }
          if (largest > 0 && largest < 30000) check_layouts(e->name, &c, floats[t]);
          done += t == 0 && largest > 1 && largest < 30000;
          zm_scope_close(scope);
        }
      }
    }
    if (done == 0) fail_msg("%s: no case with operands", e->name);
  }
}

// ---- functions and rows ----

static zm_array *elu(zm_array *x) {
  return zm_elu(x, 0.75);
}
static zm_array *elu_grad(zm_array *x, zm_array *g) {
  return zm_elu_grad(x, g, 0.75);
}
static zm_array *rms_norm_no_weight(zm_array *x) {
  return zm_rms_norm_no_weight(x, 0.75);
}
static zm_array *layer_norm_no_weight(zm_array *x) {
  return zm_layer_norm_no_weight(x, 0.75);
}
static zm_array *depth_gate_sigmoid(zm_array *x) {
  return zm_depth_gate_sigmoid(x, 0.75);
}
static zm_array *grpo_advantage_norm(zm_array *x) {
  return zm_grpo_advantage_norm(x, 0.75);
}

// The public functions of rows that are called through their definition: the same bits.
static void functions_are_their_rows(void **state) {
  (void)state;
#define ROW1(name)                                                                                                                         \
  { #name, zm_##name, NULL }
#define ROW2(name)                                                                                                                         \
  { #name, NULL, zm_##name }
  static const struct {
    const char *name;
    zm_array *(*one)(zm_array *);
    zm_array *(*two)(zm_array *, zm_array *);
  } rows[] = {ROW1(exp),
              ROW1(log),
              ROW1(tanh),
              ROW1(sigmoid),
              ROW1(relu),
              ROW1(relu2),
              ROW1(silu),
              ROW1(gelu_tanh),
              ROW1(softplus),
              ROW1(mish),
              ROW2(exp_grad),
              ROW2(log_grad),
              ROW2(tanh_grad),
              ROW2(sigmoid_grad),
              ROW2(relu_grad),
              ROW2(relu2_grad),
              ROW2(silu_grad),
              ROW2(gelu_tanh_grad),
              ROW2(softplus_grad),
              ROW2(mish_grad),
              ROW1(softmax_lastdim),
              ROW1(log_softmax_lastdim),
              ROW2(softmax_grad),
              ROW1(logsumexp_lastdim),
              ROW1(cumsum_lastdim),
              {"elu", elu, NULL},
              {"elu_grad", NULL, elu_grad},
              {"rms_norm_no_weight", rms_norm_no_weight, NULL},
              {"layer_norm_no_weight", layer_norm_no_weight, NULL},
              {"depth_gate_sigmoid", depth_gate_sigmoid, NULL},
              {"grpo_advantage_norm", grpo_advantage_norm, NULL},
              {"glm_fused_swiglu", NULL, zm_glm_fused_swiglu},
              {"silu_mul", NULL, zm_silu_mul},
              {"silu_mul_residual", NULL, NULL}};
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    size_t k = 0;
    while (k < ZMI_COUNT(rows) && strcmp(rows[k].name, e->name) != 0) k++;
    if (e->call) continue;
    if (k == ZMI_COUNT(rows)) fail_msg("%s: a row without a call: name its function here", e->name);
    row_shapes r;
    read_row(e, &r);
    for (int t = 0; t < 3; t++) {
      int64_t sizes[SHAPE_NAMES];
      zm_scope *scope = zm_scope_open();
      zm_array *out[ZMI_CATALOG_OUT];
      call c;
      for (int d = 0; d < SHAPE_NAMES; d++) sizes[d] = 37;
      make_call(&r, sizes, floats[t], &c);
      for (int p = 0; p < ZMI_CATALOG_PARAMS; p++) c.params[p] = 0.75;
      if (zmi_entry_call(e, c.in, c.nin, c.params, out) != ZM_OK) fail_msg("%s: %s", e->name, zm_last_error());
      must_be_same(e->name, out[0],
                   rows[k].one   ? rows[k].one(c.in[0])
                   : rows[k].two ? rows[k].two(c.in[0], c.in[1])
                                 : zm_silu_mul_residual(c.in[0], c.in[1], c.in[2]));
      zm_scope_close(scope);
    }
  }
}

static const exception all_swallowers[] = {
    {"masked_softmax", "0 where the mask is false"},
    {"scale_mask_softmax", "0 where the mask is false"},
    {"relu_grad", "0 where x is not above 0, which NaN is not"},
    {"relu2_grad", "0 where x is not above 0, which NaN is not"},
    {"fused_scatter_add", "zeros in rows that no index names"},
    {"skv_fused_project_quantize", "the zero is NaN, the scale 1"},
    {"ttt_linear", "gradients start anew after a small batch"},
    {NULL, NULL},
};

int main(int argc, char **argv) {
  setenv("ZMLX_KERNELS", "interpret", 1);
  row_at = catalog_row;
  refusals = all_refusals;
  swallowers = all_swallowers;
  empty = all_empty;
  limited = all_limited;
  wholes = all_limited + ZMI_COUNT(all_limited) - 1; // row_texts says which
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(strided_operands_change_no_bit),
      cmocka_unit_test(layouts_of_shapes),
      cmocka_unit_test(dims_of_every_size),
      cmocka_unit_test(large_operands),
      cmocka_unit_test(a_nan_stays_in_its_row),
      cmocka_unit_test(functions_are_their_rows),
  };
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, open_files, close_files);
}
