// Operands of any size for each row of the catalog: the row's own text of shapes ("x [..., D], weight [D] -> [..., D]") read as what it
// says, or a stricter one where that text is prose. A dim is a sum of terms, a term a number, a name or both ("2D"); "..." stands for A, B.
#ifndef ZMLX_TEST_CATALOG_SHAPES_H
#define ZMLX_TEST_CATALOG_SHAPES_H

#include "catalog_cases.h"

#include <ctype.h>

enum { SHAPE_NAMES = 16, SHAPE_TERMS = 3 };

typedef struct shape_dim {
  int terms;
  int64_t factor[SHAPE_TERMS];
  int name[SHAPE_TERMS]; // -1: a number alone
} shape_dim;

typedef struct shape_operand {
  zm_dtype dtype; // ZM_DTYPE_DEFAULT: the float dtype in question
  int rank;
  shape_dim dim[ZM_MAX_RANK];
  int64_t below;
} shape_operand;

typedef struct row_shapes {
  const zmi_entry *entry;
  int nin, nout, names;
  char name[SHAPE_NAMES][8];
  shape_operand in[ZMI_CATALOG_IN], out[ZMI_CATALOG_OUT];
  char params[64]; // numbers and names of dims; empty: the usual ones
} row_shapes;

#define MATRIX(lead) "words uint32 [" lead "N, 4W], scales [" lead "N, W], biases [" lead "N, W], "
#define OUTER_MATRIX "words uint32 [E, O, 4W], scales [E, O, W], biases [E, O, W], "
#define HEADS "q [B, H, 2E], k [B, HKV, 2E], v [B, HKV, DV], cos [N, E], sin [N, E], "
#define HEADS_CACHED "[B, H, 2E], "
#define MIXED "q_nope [B, H, 1, DN], q_rope [B, H, 1, 2E], kv_nope [B, 1, 1, DN], k_rope [B, 1, 1, 2E], "
#define TTT "[B, F], xk [B, F], xv [B, F], lr [B], token [1], last int32 < 2 [1], w [B, F, F], b [B, F], wg [B, F, F], bg [B, F], "

// `along`: the dim by which results come in pieces with the same bits; "" none, and why.
static const struct {
  const char *name, *shapes, *params, *along, *why;
} row_texts[] = {
    {"masked_softmax", "x [..., D], mask bool [..., D] -> [..., D]", NULL, "A", NULL},
    {"scale_mask_softmax", "x [..., D], mask bool [..., D] -> [..., D]", NULL, "A", NULL},
    {"attention_tile_proto", NULL, NULL, "", "16 rows, and no others"},
    {"scaled_dot_product_attention", "q [B, 2G, L, D], k [B, G, S, D], v [B, G, S, E], mask [L, S], sinks [2G] -> [B, 2G, L, E]", NULL, "B",
     NULL},
    {"paged_attention", "q [B, 2G, D], k [NB, BS, G, D], v [NB, BS, G, D], table int32 < 4 [B, MB], lens int32 < 9 [B] -> [B, 2G, D]", NULL,
     "B", NULL},
    {"apply_rope", "x [A, S, 2E], cos [S, E], sin [S, E] -> [A, S, 2E]", NULL, "A", NULL},
    {"apply_rope_interleaved", "x [A, S, 2E], cos [S, E], sin [S, E] -> [A, S, 2E]", NULL, "A", NULL},
    {"apply_gqa_rope", "x [B, S, H, 2E], cos [S, E], sin [S, E] -> [B, S, H, 2E]", NULL, "B", NULL},
    {"rope_and_cache_update",
     HEADS "kc [B, M, HKV, 2E], vc [B, M, HKV, DV], at int32 < 4 [B] -> [B, H, 2E], [B, M, HKV, 2E], [B, M, HKV, DV]", NULL, "B", NULL},
    {"paged_rope_and_cache_update",
     HEADS "kc [NB, BS, HKV, 2E], vc [NB, BS, HKV, DV], at int32 < 4 [B], table int32 < 4 [B, MB] -> [B, H, 2E], [NB, BS, HKV, 2E], "
           "[NB, BS, HKV, DV]",
     NULL, "", "all sequences write into one cache"},
    {"rope_concat_qk_decode", MIXED "cos [N, E], sin [N, E] -> [B, H, 1, DN + 2E], [B, 1, 1, DN + 2E]", NULL, "B", NULL},
    {"rope_concat_qk_decode_pos", MIXED "cos [E], sin [E] -> [B, H, 1, DN + 2E], [B, 1, 1, DN + 2E]", NULL, "B", NULL},
    {"topk_lastdim", "x [..., D] -> [..., 3], [..., 3]", "3", "A", NULL},
    {"softmax_cross_entropy", "x [..., V], targets int32 < 4 [...] -> [...]", NULL, "A", NULL},
    {"softmax_cross_entropy_grad", "x [..., V], targets int32 < 4 [...], g float32 [...] -> [..., V]", NULL, "A", NULL},
    {"dequantize_int8", "x int8 [...], scale [1] -> [...]", NULL, "A", NULL},
    {"dequantize_silu_int8", "x int8 [...], scale [1] -> [...]", NULL, "A", NULL},
    {"dequantize_int4", "x uint8 [..., D], scale [1] -> [..., 2D]", NULL, "A", NULL},
    {"dequantize_nf4", "x uint8 [..., D], scale [1] -> [..., 2D]", NULL, "A", NULL},
    {"dequantize_fp8", "x uint8 [...], scale [1] -> [...]", NULL, "A", NULL},
    {"dequantize_blockwise", "x int8 [A, 8], scales [A] -> [A, 8]", "8 8", "A", NULL},
    {"dequantize_affine_packed", "words uint32 [..., 4W], scales [..., W], biases [..., W] -> [..., 32W]", "4 32", "A", NULL},
    {"dequantize_affine_packed_silu", "words uint32 [..., 4W], scales [..., W], biases [..., W] -> [..., 32W]", "4 32", "A", NULL},
    {"dequantize_affine_packed_gelu", "words uint32 [..., 4W], scales [..., W], biases [..., W] -> [..., 32W]", "4 32", "A", NULL},
    {"dequantize_affine_packed_hi2", "words uint32 [..., 4W], scales [..., W], biases [..., W] -> [..., 32W]", "32", "A", NULL},
    {"dequantize_affine_packed_lo2_delta", "words uint32 [..., 4W], scales [..., W] -> [..., 32W]", "32", "A", NULL},
    {"fused_quantized_swiglu_gemv", "x [..., 32W], " MATRIX("") MATRIX("") "-> [..., N]", "4 32", "A", NULL},
    {"fused_quantized_swiglu_gemv_progressive", "x [..., 32W], " MATRIX("") MATRIX("") "-> [..., N]", "4 32 1 0", "A", NULL},
    {"fused_swiglu_quant", "x int8 [A, 8], s [A], y int8 [A, 8], t [A] -> [A, 8]", "8", "A", NULL},
    {"pack_bits", "x bool [8A] -> [A]", NULL, "A", NULL},
    {"unpack_bits", "x uint8 [A] -> [8A]", NULL, "A", NULL},
    {"resize_bilinear", "x [N, H, W, C] -> [N, 5, 3, C]", "5 3", "N", NULL},
    {"depthwise_conv_3x3", NULL, NULL, "N", NULL},
    {"fused_gather_add", "src [N, D], at int32 < 4 [M], other [M, D] -> [M, D]", NULL, "M", NULL},
    {"fused_scatter_add", "at int32 < 16 [M], x [M, ...] -> [16, ...]", "16", "A", NULL},
    {"adamw_step", "p [...], g [...], m [...], v [...] -> [...], [...], [...]", NULL, "A", NULL},
    {"skv_fused_project_quantize", "kv [S, 2, D], basis [2, D, 8] -> [2S], [2S], [2S]", "4 8", "S", NULL},
    {"skv_fused_dequantize_unproject", "words uint32 [2S], s float32 [2S], z float32 [2S], basis [2, D, 8] -> [S, 2, D]", "4 8 S 2 8", "S",
     NULL},
    {"skv_compressed_attention", "words uint32 [2S], s float32 [2S], z float32 [2S], q [Q, 2, 8] -> [2, Q, S]", "4 8 S 2 8 0.5", "Q", NULL},
    {"top2_gating_softmax", "logits [..., E] -> [..., 2], [..., 2]", NULL, "A", NULL},
    {"topk_gating_softmax", "logits [..., E], bias [E] -> [..., 3], [..., 3]", "3 1", "A", NULL},
    {"router_argpartition_logits_topk", "logits [..., E] -> [..., 3], [..., 3]", "3", "A", NULL},
    {"glm_topk_gating", "logits [..., E] -> [..., 3], [..., 3]", "3", "A", NULL},
    {"deepseek_router_topk_sigmoid", "logits [..., 4E], bias [4E] -> [..., 2], [..., 2]", "2 4 2", "A", NULL},
    {"moe_dispatch", "x [M, D], at int32 < 3 [M, 2] -> [2M, D], [M, 2], [2M], [4]", "3", "", "rows are put in the order of their experts"},
    {"gather_mmk_combine", "act [B, K, I], weights [E, I, O], gate [B, K], at int32 < 4 [B, K] -> [B, O]", NULL, "B", NULL},
    {"gather_qmm_combine", "act [B, K, I], weights [E, I, O], gate [B, K], at int32 < 4 [B, K] -> [B, O]", NULL, "B", NULL},
    {"gather_qmmk_combine_quantized", "act [B, K, 32W], " OUTER_MATRIX "gate [B, K], at int32 < 4 [B, K] -> [B, O]", "0 4 32", "B", NULL},
    {"gather_qmm_combine_quantized", "act [B, K, 32W], " OUTER_MATRIX "gate [B, K], at int32 < 4 [B, K] -> [B, O]", "0 4 32", "B", NULL},
    {"gather_qmm_swiglu", "x [3, M, 32W], " MATRIX("E, ") MATRIX("E, ") "lhs int32 < 3 [L], rhs int32 < 4 [L] -> [L, M, N]", "4 32", "L",
     NULL},
    {"fused_swiglu_gather_qmv", "x [R, 32W], " MATRIX("E, ") MATRIX("E, ") "experts int32 < 4 [R, S] -> [R, S, N]", "4 32", "R", NULL},
    {"ttt_linear_decode", "xq " TTT "lw [B, F], lb [B, F] -> [B, F], [B, F, F], [B, F], [B, F, F], [B, F]", NULL, "B", NULL},
    {"ttt_linear",
     "x [A, N, 2F], proj [6F + 2, 2F], W1 [2, F, F], b1 [2, F], lw [2, F], lb [2, F], lr [2], tb [M], pw [2F], pb [2F], out [2F, 2F] -> "
     "[A, N, 2F], float32 [A, 2, F, F], float32 [A, 2, F], float32 [A, 2, F, F], float32 [A, 2, F]",
     "2 1 0", "A", NULL},
    {"dropout", NULL, NULL, "", "what is dropped depends on the place in the whole"},
    {"layer_norm_dropout", NULL, NULL, "", "what is dropped depends on the place in the whole"},
    {"rms_norm_dropout", NULL, NULL, "", "what is dropped depends on the place in the whole"},
    {"depth_gate_sigmoid", NULL, NULL, "A", NULL},
};

static int row_text_of(const char *name) {
  for (size_t i = 0; i < ZMI_COUNT(row_texts); i++) {
    if (strcmp(row_texts[i].name, name) == 0) return (int)i;
  }
  return -1;
}

static int name_of(row_shapes *r, const char *s, size_t size) {
  for (int i = 0; i < r->names; i++) {
    if (strlen(r->name[i]) == size && memcmp(r->name[i], s, size) == 0) return i;
  }
  if (r->names == SHAPE_NAMES || size >= sizeof r->name[0]) fail_msg("%s: too many dims", r->entry->name);
  memcpy(r->name[r->names], s, size);
  return r->names++;
}

static void add_dim(row_shapes *r, shape_operand *o, const char *name) { // of one name
  if (o->rank == ZM_MAX_RANK) fail_msg("%s: too many dims", r->entry->name);
  o->dim[o->rank++] = (shape_dim){.terms = 1, .factor = {1}, .name = {name_of(r, name, strlen(name))}};
}

static const char *read_dim(row_shapes *r, shape_operand *o, const char *s) {
  if (strncmp(s, "...", 3) == 0) {
    add_dim(r, o, "A");
    add_dim(r, o, "B");
    return s + 3;
  }
  shape_dim d = {0};
  for (;;) {
    char *end;
    d.factor[d.terms] = isdigit((unsigned char)*s) ? strtoll(s, &end, 10) : 1;
    if (isdigit((unsigned char)*s)) s = end;
    size_t size = 0;
    while (isalnum((unsigned char)s[size])) size++;
    d.name[d.terms++] = size ? name_of(r, s, size) : -1;
    s += size;
    if (strncmp(s, " + ", 3) != 0 || d.terms == SHAPE_TERMS) break;
    s += 3;
  }
  if (o->rank == ZM_MAX_RANK) fail_msg("%s: too many dims", r->entry->name);
  o->dim[o->rank++] = d;
  return s;
}

// "name dtype < n [dims]"; the end of it, or NULL.
static const char *read_operand(row_shapes *r, shape_operand *o, const char *s) {
  *o = (shape_operand){.dtype = ZM_DTYPE_DEFAULT};
  for (; *s && *s != '['; s++) {
    char word[32];
    size_t size = strcspn(s, " [");
    if (size == 0 || size >= sizeof word) continue;
    memcpy(word, s, size);
    word[size] = 0;
    if (zm_dtype_from_name(word) != ZM_DTYPE_DEFAULT) o->dtype = zm_dtype_from_name(word);
    if (*s == '<') o->below = strtoll(s + 1, NULL, 10);
    s += size - 1;
  }
  if (*s++ != '[') return NULL;
  while (*s && *s != ']') {
    s = read_dim(r, o, s);
    if (strncmp(s, ", ", 2) == 0)
      s += 2;
    else if (*s != ']')
      return NULL;
  }
  return *s ? s + 1 : NULL;
}

static void read_row(const zmi_entry *e, row_shapes *r) {
  const int t = row_text_of(e->name);
  const char *text = t >= 0 && row_texts[t].shapes ? row_texts[t].shapes : e->shapes, *s = text;
  *r = (row_shapes){.entry = e};
  while (s && strncmp(s, "-> ", 3) != 0 && r->nin < ZMI_CATALOG_IN) {
    s = read_operand(r, &r->in[r->nin++], s);
    if (s && *s == ',') s++;
    while (s && *s == ' ') s++;
  }
  if (s) s += 3;
  do {
    s = s && r->nout < ZMI_CATALOG_OUT ? read_operand(r, &r->out[r->nout++], s) : NULL;
  } while (s && *s == ',' && *(s += 2));
  if (!s || *s) fail_msg("%s: the shapes are prose, so the row needs a line in row_texts: %s", e->name, text);
  assert_int_equal(r->nout, e->outputs ? e->outputs : 1);
  if (t >= 0 && row_texts[t].params) strcpy(r->params, row_texts[t].params);
}

// ---- sizes ----

static int64_t size_of(const shape_dim *d, const int64_t *sizes) {
  int64_t n = 0;
  for (int i = 0; i < d->terms; i++) n += d->factor[i] * (d->name[i] < 0 ? 1 : sizes[d->name[i]]);
  return n;
}

static int64_t shape_with(const shape_operand *o, const int64_t *sizes, int64_t *shape) {
  int64_t n = 1;
  for (int i = 0; i < o->rank; i++) n *= shape[i] = size_of(&o->dim[i], sizes);
  return n;
}

static void params_of(const row_shapes *r, const int64_t *sizes, double *params) {
  int count = zmi_entry_parameters(r->entry, params), i = 0;
  const char *s = r->params;
  for (; *s; i++) {
    const size_t size = strcspn(s, " ");
    double v = strtod(s, NULL);
    for (int k = 0; k < r->names; k++) {
      if (strlen(r->name[k]) == size && memcmp(r->name[k], s, size) == 0) v = (double)sizes[k];
    }
    assert_true(i < count);
    params[i] = v;
    s += size + (s[size] == ' ');
  }
}

// Multiples of 1/64, exact in every float dtype, among them many that are equal.
static zm_array *made(const shape_operand *o, const int64_t *sizes, zm_dtype dtype, uint32_t seed) {
  int64_t shape[ZM_MAX_RANK];
  const int64_t n = shape_with(o, sizes, shape);
  const bool real = o->dtype == ZM_DTYPE_DEFAULT || is_float(o->dtype);
  if (o->dtype != ZM_DTYPE_DEFAULT) dtype = o->dtype;
  const size_t size = real ? sizeof(float) : zm_dtype_size(dtype);
  char *data = malloc((size_t)n * size + 8);
  for (int64_t i = 0; i < n; i++) {
    const uint32_t h = hashed(seed, (uint32_t)i);
    const float f = (float)(int32_t)(h >> 8 & 0xff) / 64 - 2;
    const uint64_t v = dtype == ZM_BOOL ? h >> 31 : o->below ? h % (uint32_t)o->below : h;
    memcpy(data + (size_t)i * size, real ? (const void *)&f : &v, size);
  }
  zm_array *a = zm_array_from_data(data, real ? ZM_F32 : dtype, shape, o->rank);
  free(data);
  if (a && real && dtype != ZM_F32) a = zm_astype(a, dtype);
  if (!a || zm_eval(&a, 1) != ZM_OK) fail_msg("operand: %s", zm_last_error());
  return a;
}

#endif
