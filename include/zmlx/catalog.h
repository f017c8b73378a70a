// The catalog: ready kernels, lazy and differentiable as every operation on arrays. docs/catalog.md has formula, shapes, dtypes and
// gradient of each.
//
// Floats may be float16, bfloat16 or float32; they are computed in float32 and rounded once to the dtype of the first operand unless a
// comment says otherwise. The last axis is the one that is normalized, reduced or split. Ties go to the lowest index; NaN is below
// everything where the largest are chosen, and the largest for max and argmax.
// Errors: NULL, or a status, with a message that names the function, the operand and what was expected. Results of a function that failed
// are untouched.
#ifndef ZMLX_CATALOG_H
#define ZMLX_CATALOG_H

#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

// ---- activations; exp, log, tanh, sigmoid and silu are in array.h, softplus in elementwise.h ----
ZM_API zm_array *zm_relu(zm_array *x);
ZM_API zm_array *zm_relu2(zm_array *x); // max(x, 0)^2
ZM_API zm_array *zm_gelu_tanh(zm_array *x);
ZM_API zm_array *zm_mish(zm_array *x);              // x tanh(softplus(x))
ZM_API zm_array *zm_elu(zm_array *x, double alpha); // alpha (e^x - 1) below 0; alpha finite
// The gradient by x for a cotangent g.
ZM_API zm_array *zm_exp_grad(zm_array *x, zm_array *g);
ZM_API zm_array *zm_log_grad(zm_array *x, zm_array *g);
ZM_API zm_array *zm_tanh_grad(zm_array *x, zm_array *g);
ZM_API zm_array *zm_sigmoid_grad(zm_array *x, zm_array *g);
ZM_API zm_array *zm_relu_grad(zm_array *x, zm_array *g);
ZM_API zm_array *zm_relu2_grad(zm_array *x, zm_array *g);
ZM_API zm_array *zm_silu_grad(zm_array *x, zm_array *g);
ZM_API zm_array *zm_gelu_tanh_grad(zm_array *x, zm_array *g);
ZM_API zm_array *zm_softplus_grad(zm_array *x, zm_array *g);
ZM_API zm_array *zm_mish_grad(zm_array *x, zm_array *g);
ZM_API zm_array *zm_elu_grad(zm_array *x, zm_array *g, double alpha);

// ---- softmax ----
ZM_API zm_array *zm_softmax_lastdim(zm_array *x);
ZM_API zm_array *zm_log_softmax_lastdim(zm_array *x);
ZM_API zm_array *zm_softmax_grad(zm_array *y, zm_array *g); // by x, from the result y

// ---- norms. Vectors (weight, gamma, beta) are [D]; eps, finite and from 0 up, is added to the mean square or the variance ----
ZM_API zm_array *zm_rmsnorm(zm_array *x, zm_array *weight, double eps);
ZM_API zm_array *zm_rmsnorm_grad(zm_array *x, zm_array *weight, zm_array *cotan, double eps); // by x
ZM_API zm_array *zm_rms_norm_no_weight(zm_array *x, double eps);
ZM_API zm_array *zm_layernorm(zm_array *x, zm_array *gamma, zm_array *beta, double eps);
ZM_API zm_array *zm_layer_norm_no_weight(zm_array *x, double eps);
// Dropout keeps an element with chance 1 - p, p in [0, 1), and divides it by that; which ones follows from the seed and their place.
ZM_API zm_array *zm_layer_norm_dropout(zm_array *x, zm_array *gamma, zm_array *beta, double p, uint32_t seed, double eps);
ZM_API zm_array *zm_rms_norm_dropout(zm_array *x, zm_array *weight, double p, uint32_t seed, double eps);
ZM_API zm_array *zm_dropout(zm_array *x, double p, uint32_t seed);
// The norm of x + residual, and that sum.
ZM_API zm_array *zm_residual_rmsnorm(zm_array *x, zm_array *residual, zm_array *weight, double eps);
ZM_API zm_status zm_add_rms_norm(zm_array *x, zm_array *residual, zm_array *weight, double eps, zm_array **normed, zm_array **sum);

// ---- transformer. swiglu, geglu and the biased ones split the last axis in gate and up ----
ZM_API zm_array *zm_swiglu(zm_array *x);
ZM_API zm_array *zm_swiglu2(zm_array *gate, zm_array *up); // silu(gate) is rounded to the dtype, as the patched models round
ZM_API zm_array *zm_geglu(zm_array *x);
ZM_API zm_array *zm_geglu2(zm_array *gate, zm_array *up);
ZM_API zm_array *zm_bias_swiglu(zm_array *x, zm_array *bias);
ZM_API zm_array *zm_bias_geglu(zm_array *x, zm_array *bias);
// The sum rounded to the dtype before it is normalized ("residual" last), or kept in float32 inside ("add").
ZM_API zm_status zm_rmsnorm_residual(zm_array *x, zm_array *residual, zm_array *weight, double eps, zm_array **normed, zm_array **sum);
ZM_API zm_status zm_fused_add_rmsnorm(zm_array *x, zm_array *residual, zm_array *weight, double eps, zm_array **normed, zm_array **sum);
ZM_API zm_status zm_layernorm_residual(zm_array *x, zm_array *residual, zm_array *gamma, zm_array *beta, double eps, zm_array **normed,
                                       zm_array **sum);
ZM_API zm_status zm_fused_add_layernorm(zm_array *x, zm_array *residual, zm_array *gamma, zm_array *beta, double eps, zm_array **normed,
                                        zm_array **sum);

// ---- attention. Masks are bool: true is seen ----
ZM_API zm_array *zm_logsumexp_lastdim(zm_array *x);
ZM_API zm_array *zm_masked_softmax(zm_array *x, zm_array *mask); // a row that sees nothing gives zeros
ZM_API zm_array *zm_scale_mask_softmax(zm_array *x, zm_array *mask, double scale);
// softmax(scale q k^T + mask) v: q [B, H, L, D], k [B, G, S, D], v [B, G, S, E], H a multiple of G -> [B, H, L, E], in float32 inside.
// Memory grows with L and S, not with their product; gradients compute the scores again. A row all of whose keys
// are hidden by a bool mask or `causal` gives the mean of v; one whose floats are all -infinity gives NaN, as softmax does.
typedef struct zm_attention_options {
  double scale;    // 0: 1 / sqrt(D)
  zm_array *mask;  // NULL: none. bool: true is seen; floats: added to the scaled scores. Broadcast to [B, H, L, S]
  bool causal;     // query i sees keys up to i + S - L
  zm_array *sinks; // NULL: none. [H]: a score of each head that takes part in the softmax and has no value
} zm_attention_options;
ZM_API zm_array *zm_scaled_dot_product_attention(zm_array *q, zm_array *k, zm_array *v, const zm_attention_options *options); // or NULL
ZM_API zm_array *zm_attention_tile_proto(zm_array *q, zm_array *k); // [16, D], [16, D] -> q k^T [16, 16]
// One query row a sequence over a cache in blocks: q [B, H, D], caches [NB, BS, HKV, D], block_table [B, MB], context_lens [B], integers.
// Position t of sequence b is row t % BS of block block_table[b][t / BS]. Positions past the table, and those whose block is out of range,
// are left out; a sequence without any gives zeros. scale 0: 1 / sqrt(D).
ZM_API zm_array *zm_paged_attention(zm_array *q, zm_array *k_cache, zm_array *v_cache, zm_array *block_table, zm_array *context_lens,
                                    double scale);

// ---- rope. Tables cos and sin [S, D/2], any float ----
ZM_API zm_array *zm_apply_rope(zm_array *x, zm_array *cosine, zm_array *sine);                         // [..., S, D], pairs (i, i + D/2)
ZM_API zm_array *zm_apply_rope_interleaved(zm_array *x, zm_array *cosine, zm_array *sine);             // pairs (2i, 2i + 1)
ZM_API zm_array *zm_apply_gqa_rope(zm_array *x, zm_array *cosine, zm_array *sine, int64_t n_kv_heads); // [B, S, H, D]
// One new position a sequence: q [B, H, D], k [B, HKV, D], v [B, HKV, DV], tables [N, D/2], caches [B, M, HKV, D] (paged: blocks
// [NB, BS, HKV, D] and block_table [B, MB]), offset [B]: the position. Gives the turned q and new caches, which have the new k and v in
// their row and everything else as it was; an offset without a row writes nothing.
typedef struct zm_rope_cache {
  zm_array *q, *k, *v, *cosine, *sine, *k_cache, *v_cache, *offset;
  zm_array *block_table; // paged
} zm_rope_cache;
ZM_API zm_status zm_rope_and_cache_update(const zm_rope_cache *a, zm_array **q, zm_array **k_cache, zm_array **v_cache);
ZM_API zm_status zm_paged_rope_and_cache_update(const zm_rope_cache *a, zm_array **q, zm_array **k_cache, zm_array **v_cache);
// Multi-head latent attention, one position: q_nope [B, H, 1, DN], q_rope [B, H, 1, DR], kv_nope [B, 1, 1, DN], k_rope [B, 1, 1, DR] ->
// q [B, H, 1, DN + DR], k [B, 1, 1, DN + DR]. Pairs (2i, 2i + 1); a negative offset turns backwards by row -offset.
ZM_API zm_status zm_rope_concat_qk_decode(zm_array *q_nope, zm_array *q_rope, zm_array *kv_nope, zm_array *k_rope, zm_array *cosine,
                                          zm_array *sine, int64_t offset, zm_array **q, zm_array **k);
ZM_API zm_status zm_rope_concat_qk_decode_pos(zm_array *q_nope, zm_array *q_rope, zm_array *kv_nope, zm_array *k_rope, zm_array *cosine,
                                              zm_array *sine, zm_array **q, zm_array **k); // tables [DR/2]

// ---- reductions of the last axis, [..., D] -> [...] ----
ZM_API zm_array *zm_sum_lastdim(zm_array *x);
ZM_API zm_array *zm_mean_lastdim(zm_array *x, bool kahan);
ZM_API zm_array *zm_max_lastdim(zm_array *x);
ZM_API zm_array *zm_var_lastdim(zm_array *x);
ZM_API zm_array *zm_std_lastdim(zm_array *x, double eps);                                   // sqrt(var + eps)
ZM_API zm_array *zm_argmax_lastdim(zm_array *x);                                            // uint32
ZM_API zm_status zm_topk_lastdim(zm_array *x, int k, zm_array **values, zm_array **places); // falling; places uint32

// ---- pointwise, and with a bias [D] ----
ZM_API zm_array *zm_silu_mul(zm_array *a, zm_array *b); // silu(a) b
ZM_API zm_array *zm_add_bias(zm_array *x, zm_array *bias);
ZM_API zm_array *zm_bias_gelu_tanh(zm_array *x, zm_array *bias);
ZM_API zm_array *zm_bias_silu(zm_array *x, zm_array *bias);

// ---- linear layers: x [..., K], w [N, K], vectors [N]; the product is float32, the result is rounded once ----
ZM_API zm_array *zm_fused_linear_bias_silu(zm_array *x, zm_array *w, zm_array *bias);
ZM_API zm_array *zm_fused_linear_bias_gelu(zm_array *x, zm_array *w, zm_array *bias);
ZM_API zm_array *zm_fused_linear_rmsnorm(zm_array *x, zm_array *w, zm_array *gamma, double eps);

// ---- loss: logits [..., V], integer targets [...]; float32. The ignored target gives 0, one that is no class NaN ----
// logsumexp(logits) - logits[target] -> [...]
ZM_API zm_array *zm_softmax_cross_entropy(zm_array *logits, zm_array *targets, int32_t ignore_index);
// By logits, for a cotangent g [...]: g (softmax(logits) - onehot(target)) -> [..., V] in the dtype of logits; 0 where it is ignored
ZM_API zm_array *zm_softmax_cross_entropy_grad(zm_array *logits, zm_array *targets, zm_array *g, int32_t ignore_index);

// ---- quantized numbers to float32. scale: one number ----
ZM_API zm_array *zm_dequantize_int8(zm_array *x, zm_array *scale);
ZM_API zm_array *zm_dequantize_silu_int8(zm_array *x, zm_array *scale);
ZM_API zm_array *zm_dequantize_int4(zm_array *x, zm_array *scale); // uint8: two signed nibbles, the low one first; the last axis doubles
// x[i] scales[i / block_size] of the flat elements: x int8 or uint8 [...], scales [ceil(size / block_size)]. 4 bits: x uint8, two unsigned
// nibbles each, the low one first; the last axis doubles, and places of scales count nibbles.
ZM_API zm_array *zm_dequantize_blockwise(zm_array *x, zm_array *scales, int64_t block_size, int bits);
typedef enum zm_fp8 { ZM_FP8_E4M3, ZM_FP8_E5M2 } zm_fp8; // e4m3: no infinities, all ones are NaN
ZM_API zm_array *zm_dequantize_fp8(zm_array *x, zm_array *scale, zm_fp8 variant);
// table[nibble] scale, the 16 numbers of NormalFloat4: x uint8 [..., n] -> [..., 2n], the low nibble first
ZM_API zm_array *zm_dequantize_nf4(zm_array *x, zm_array *scale);
// Affine codes in the bit stream of MLX: uint32 [..., K bits / 32], scales and biases [..., K / group]; bits 2, 3, 4, 5, 6, 8, group 32,
// 64, 128.
ZM_API zm_array *zm_dequantize_affine_packed(zm_array *x, zm_array *scales, zm_array *biases, int bits, int64_t group_size);
ZM_API zm_array *zm_dequantize_affine_packed_silu(zm_array *x, zm_array *scales, zm_array *biases, int bits, int64_t group_size);
ZM_API zm_array *zm_dequantize_affine_packed_gelu(zm_array *x, zm_array *scales, zm_array *biases, int bits, int64_t group_size);
// Codes of 4 bits in two parts: the high two bits with the bias, the low two without; the parts add up to the whole.
ZM_API zm_array *zm_dequantize_affine_packed_hi2(zm_array *x, zm_array *scales, zm_array *biases, int64_t group_size);
ZM_API zm_array *zm_dequantize_affine_packed_lo2_delta(zm_array *x, zm_array *scales, int64_t group_size);
// silu(x1 s1) (x2 s2), s1 and s2 the scales of an element's block: x1, x2 int8 [...], scales [ceil(size / block_size)]
ZM_API zm_array *zm_fused_swiglu_quant(zm_array *x1, zm_array *scales1, zm_array *x2, zm_array *scales2, int64_t block_size);

// A quantized matrix, or several: words [(E,) N, K bits / 32], scales and biases [(E,) N, K / group]. bits 0: 4, group 0: 64.
typedef struct zm_affine {
  zm_array *words, *scales, *biases;
  int bits;
  int64_t group;
} zm_affine;
// silu(x gate^T) (x up^T), float32: x [..., K] -> [..., N]
ZM_API zm_array *zm_fused_quantized_swiglu_gemv(zm_array *x, const zm_affine *gate, const zm_affine *up);
// The same from the high bits of the codes (4 bits: 2, 8 bits: 2). The low ones are added where sum |x| |scale| max_low is above epsilon
// for gate or up, for each output or for each of its groups. epsilon below 0: never.
ZM_API zm_array *zm_fused_quantized_swiglu_gemv_progressive(zm_array *x, const zm_affine *gate, const zm_affine *up, double epsilon,
                                                            bool per_group);

// ---- bits: eight a byte, the first in the lowest bit; the number of elements is a multiple of 8 ----
ZM_API zm_array *zm_pack_bits(zm_array *x);   // bool or uint8 [...] -> uint8 [size / 8]
ZM_API zm_array *zm_unpack_bits(zm_array *x); // uint8 [...] -> uint8 [8 size]

// ---- images [N, H, W, C] ----
ZM_API zm_array *zm_resize_bilinear(zm_array *x, int64_t height, int64_t width); // half-pixel centers
ZM_API zm_array *zm_depthwise_conv_3x3(zm_array *x, zm_array *w);                // w [3, 3, C]; zeros around the picture

// ---- indexing ----
ZM_API zm_array *zm_fused_gather_add(zm_array *src, zm_array *indices, zm_array *other);                     // src[indices] + other
ZM_API zm_array *zm_fused_scatter_add(zm_array *indices, zm_array *updates, const int64_t *shape, int rank); // float32, sums in order

// ---- scan ----
ZM_API zm_array *zm_cumsum_lastdim(zm_array *x);
ZM_API zm_array *zm_cumsum_grad(zm_array *g);

// ---- optimizers ----
// A field that is left 0 stands for the usual value (0.9, 0.999, 1e-8, 0.01), ZM_NONE for 0 itself: {.beta1 = ZM_NONE} keeps no momentum.
// Others are taken as they are: beta1 and beta2 below 1.
#define ZM_NONE (-1.0)
typedef struct zm_adamw_options {
  double beta1, beta2, eps, weight_decay;
  bool no_decay; // as weight_decay = ZM_NONE
} zm_adamw_options;
// lr and step: one number each, float. Steps count from 1: at 0 the corrections divide by 1 - beta^0 = 0, and p and its moments are NaN.
ZM_API zm_status zm_adamw_step(zm_array *p, zm_array *g, zm_array *m, zm_array *v, zm_array *lr, zm_array *step,
                               const zm_adamw_options *options, zm_array **p_new, zm_array **m_new, zm_array **v_new);

// ---- recurrent latent reasoning ----
// h + alpha silu(h / sqrt(mean h^2 + eps) weight) gate: h and gate [..., D], weight [D], alpha one number -> [..., D]
ZM_API zm_array *zm_fused_recurrent_step(zm_array *h, zm_array *weight, zm_array *gate, zm_array *alpha, double eps);
ZM_API zm_array *zm_depth_gate_sigmoid(zm_array *x, double k_max); // k_max sigmoid(x), [...] -> [...]
// (r - mean) / sqrt(mean (r - mean)^2 + eps) over the last axis: r [..., G] -> [..., G]
ZM_API zm_array *zm_grpo_advantage_norm(zm_array *rewards, double eps);
ZM_API zm_array *zm_silu_mul_residual(zm_array *gate, zm_array *up, zm_array *residual); // silu(gate) up + residual, all [...]

// ---- keys and values in a basis of lower rank ----
typedef struct zm_skv {
  zm_array *words, *scales, *zeros; // uint32 [W], float32 [G], float32 [G]
  int64_t shape[3];                 // S, H, R of the coefficients
  int bits;                         // 2, 4, 8
  int64_t group_size;               // of the flat coefficients
} zm_skv;
ZM_API zm_status zm_skv_fused_project_quantize(zm_array *kv, zm_array *basis, int bits, int64_t group_size, zm_skv *state);
ZM_API zm_array *zm_skv_fused_dequantize_unproject(const zm_skv *state, zm_array *basis);         // [S, H, D]
ZM_API zm_array *zm_skv_compressed_attention(zm_array *q_rank, const zm_skv *keys, double scale); // [Q, H, R] -> float32 [H, Q, S]

// ---- mixture of experts. Routers give weights float32 [..., k] and indices uint32 [..., k] in falling order ----
ZM_API zm_status zm_top2_gating_softmax(zm_array *logits, zm_array **weights, zm_array **indices);
// Without bias: softmax over the k largest logits (norm_topk_prob) or over all. With a bias [E], or NULL: it is added to the softmax, and
// part of the weights, which are divided by their sum if norm_topk_prob.
ZM_API zm_status zm_topk_gating_softmax(zm_array *logits, int k, zm_array *expert_bias, bool norm_topk_prob, zm_array **weights,
                                        zm_array **indices);
ZM_API zm_status zm_router_argpartition_logits_topk(zm_array *logits, int k, zm_array **weights, zm_array **indices);
// Chosen by sigmoid + bias within the topk_group best of n_group groups; weights are the sigmoids divided by their sum.
ZM_API zm_status zm_deepseek_router_topk_sigmoid(zm_array *logits, zm_array *bias, int k, int n_group, int topk_group, zm_array **weights,
                                                 zm_array **indices);
// Rows of x [..., D] in the order of the experts that indices [..., K] name. Pair (b, k) is row place[b, k]: zm_take(results, place) puts
// results of the experts back. Pairs whose expert is out of range come last, as zeros.
typedef struct zm_dispatch {
  zm_array *rows;    // [B K, D]
  zm_array *place;   // uint32 [..., K]
  zm_array *order;   // uint32 [B K]: the pair of each row
  zm_array *offsets; // uint32 [experts + 1]: first row of each expert
} zm_dispatch;
ZM_API zm_status zm_moe_dispatch(zm_array *x, zm_array *indices, int64_t experts, zm_dispatch *result);
// sum over k of weights [..., K] times expert_outputs [..., K, D], from 0 in order.
typedef enum zm_combine {
  ZM_COMBINE_FMA,        // fma in float32, rounded once
  ZM_COMBINE_NO_FMA,     // products and sums rounded to float32, the result once
  ZM_COMBINE_EXACT,      // products and sums rounded to the dtype
  ZM_COMBINE_FP32,       // as FMA, the result is float32
  ZM_COMBINE_FP32_NO_FMA // as NO_FMA, the result is float32
} zm_combine;
ZM_API zm_array *zm_moe_combine(zm_array *expert_outputs, zm_array *weights);
ZM_API zm_array *zm_moe_combine_no_fma(zm_array *expert_outputs, zm_array *weights);
ZM_API zm_array *zm_moe_combine_exact(zm_array *expert_outputs, zm_array *weights);
ZM_API zm_array *zm_moe_combine_fp32(zm_array *expert_outputs, zm_array *weights);
ZM_API zm_array *zm_moe_combine_fp32_no_fma(zm_array *expert_outputs, zm_array *weights);
// Each slot's product with its expert's matrix, rounded to the dtype of act, then the combination: act [B, K, I], weights [E, I, O] (or
// quantized, [E, O, I]), gate [B, K], indices [B, K] -> [B, O].
ZM_API zm_array *zm_gather_mmk_combine(zm_array *act, zm_array *weights, zm_array *gate, zm_array *indices, zm_combine kind);
ZM_API zm_array *zm_gather_qmm_combine(zm_array *act, zm_array *weights, zm_array *gate, zm_array *indices, zm_combine kind);
ZM_API zm_array *zm_gather_qmmk_combine_quantized(zm_array *act, const zm_affine *weights, zm_array *gate, zm_array *indices,
                                                  zm_combine kind);
ZM_API zm_array *zm_gather_qmm_combine_quantized(zm_array *act, const zm_affine *weights, zm_array *gate, zm_array *indices,
                                                 zm_combine kind);

// silu(x gate[r]^T) (x up[r]^T), rounded as the ops linear, silu and multiply round: any M, N, K that groups divide.
ZM_API bool zm_has_gather_qmm_swiglu(void); // true
// x [..., M, K]; matrices [..., N, K]; indices into the leading dimensions, broadcast to I (NULL: all in order) -> [I..., M, N]
ZM_API zm_array *zm_gather_qmm_swiglu(zm_array *x, const zm_affine *gate, const zm_affine *up, zm_array *lhs_indices,
                                      zm_array *rhs_indices);
ZM_API zm_array *zm_fused_swiglu_gather_qmv(zm_array *x, const zm_affine *gate, const zm_affine *up, zm_array *experts); // experts [..., S]

// ---- found by search, for any shape ----
ZM_API zm_array *zm_glm_moe_combine(zm_array *expert_outputs, zm_array *weights); // as zm_moe_combine_exact
ZM_API zm_array *zm_glm_fused_swiglu(zm_array *gate, zm_array *up);               // silu(gate) up in float32, [...]
ZM_API zm_array *zm_glm_rmsnorm(zm_array *x, zm_array *weight, double eps);       // as zm_rmsnorm: x [..., D], weight [D]
ZM_API zm_status zm_glm_topk_gating(zm_array *logits, int k, zm_array **weights, zm_array **indices); // the k largest, softmax over them

// ---- a linear layer that learns while it runs, one token: B heads of F ----
typedef struct zm_ttt {
  zm_array *xq, *xk, *xv;                // [B, F]
  zm_array *ttt_lr;                      // [B]
  zm_array *token_idx, *last_in_mb;      // [1] float; [1] integer, above 0 at the end of a small batch
  zm_array *W1, *b1, *W1_grad, *b1_grad; // [B, F, F], [B, F], ...
  zm_array *ln_weight, *ln_bias;         // [B, F]
} zm_ttt;
// Results: the answer [B, F], then the new W1, b1, W1_grad, b1_grad.
ZM_API zm_status zm_ttt_linear_decode(const zm_ttt *t, zm_array *results[5]);
// The whole layer over x [A, N, D], D = heads F: many tokens at once or one after another give the same up to rounding.
typedef struct zm_ttt_layer {
  int64_t heads;
  zm_array *projection;              // [3 D + heads, D]: rows that make q, k, v and the learning rates
  zm_array *W1, *b1;                 // [heads, F, F], [heads, F]: where learning starts
  zm_array *ln_weight, *ln_bias;     // [heads, F]
  zm_array *lr_bias;                 // [heads]
  zm_array *token_bias;              // [M]: tokens of a small batch
  zm_array *post_weight, *post_bias; // [D]
  zm_array *output;                  // [D, D]
  double base_lr, eps;               // 0: 1 and 1e-6
} zm_ttt_layer;
typedef struct zm_ttt_state { // float32: [A, heads, F, F], [A, heads, F], and their gradients so far
  zm_array *W1, *b1, *W1_grad, *b1_grad;
  int64_t position; // tokens before
} zm_ttt_state;
// before NULL: from the start; after may be NULL.
ZM_API zm_status zm_ttt_linear(const zm_ttt_layer *layer, zm_array *x, const zm_ttt_state *before, zm_array **y, zm_ttt_state *after);

#ifdef __cplusplus
}
#endif
#endif
