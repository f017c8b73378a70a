// Parts of attention: log-sum-exp, masked softmax, a tile of scores. Attention over a paged cache is in paged.c.
#include "catalog/catalog.h"

// A row of nothing but -infinity is not shifted: its log-sum-exp is -infinity, where all is masked the shares are 0, and gradients are
// numbers. With +infinity in a row the log-sum-exp is +infinity, shares are NaN.
#define LOWEST "let none = -1.0f / 0.0f; let f = m != none ? m : 0.0f;\n"
ZMI_ROWS(logsumexp_lastdim, "x", "y", NULL,
         "elements { m = max(x); }\n" LOWEST "elements { s = sum(exp(x - f)); }\n"
         "y = m == -none ? m : f + log(s);")
#define MASKED(value)                                                                                                                      \
  "elements { let v = mask ? " value " : -1.0f / 0.0f; m = max(v); }\n" LOWEST "elements { let v = mask ? " value                          \
  " : none; s = sum(exp(v - f)); }\n"                                                                                                      \
  "elements { let v = mask ? " value " : none; y = mask ? exp(v - f) / s : 0.0f; }"
ZMI_ROWS(masked_softmax, "x mask", "y", NULL, MASKED("x"))
ZMI_ROWS(scale_mask_softmax, "x mask", "y", "scale", MASKED("x * scale"))

zm_array *zm_logsumexp_lastdim(zm_array *x) {
  if (!zmi_cat_want_float("logsumexp_lastdim", "x", x) || !zmi_cat_want_rank("logsumexp_lastdim", "x", x, 1)) return NULL;
  return zmi_definition_apply1(&logsumexp_lastdim_def, &x, 1, NULL, 0);
}

static zm_array *masked(zmi_definition *d, zm_array *x, zm_array *mask, const double *scale) {
  char expected[128], found[128];
  if (!zmi_cat_want_float(d->name, "x", x) || !zmi_cat_want_rank(d->name, "x", x, 1)) return NULL;
  if (!zmi_cat_want_dtype(d->name, "mask", mask, ZM_BOOL)) return NULL;
  // A mask may have fewer dimensions, or ones, where it is the same for all; never more than x.
  bool fits = mask->type.rank <= x->type.rank;
  for (int i = 1; fits && i <= mask->type.rank; i++) {
    int64_t n = mask->type.shape[mask->type.rank - i];
    fits = n == 1 || n == x->type.shape[x->type.rank - i];
  }
  if (!fits) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: mask: %s does not fit x, %s", d->name, zmi_type_text(&mask->type, found),
             zmi_type_text(&x->type, expected));
    return NULL;
  }
  return zmi_definition_apply1(d, (zm_array *[]){x, mask}, 2, scale, scale ? 1 : 0);
}

zm_array *zm_masked_softmax(zm_array *x, zm_array *mask) {
  return masked(&masked_softmax_def, x, mask, NULL);
}

zm_array *zm_scale_mask_softmax(zm_array *x, zm_array *mask, double scale) {
  return masked(&scale_mask_softmax_def, x, mask, &scale);
}

// ---- a tile of scores: one threadgroup of 16 x 16 threads ----

static zm_status tile_vjp(void *user, const double *parameters, zm_array *const *in, int nin, zm_array *const *out,
                          zm_array *const *cotangents, int nout, zm_array **gradients) {
  (void)user, (void)parameters, (void)nin, (void)out, (void)nout;
  gradients[0] = zm_matmul(cotangents[0], in[1]);
  gradients[1] = zm_matmul(zm_transpose(cotangents[0], NULL), in[0]);
  return gradients[0] && gradients[1] ? ZM_OK : zm_last_status();
}

static zmi_definition attention_tile_proto_def = {.name = "attention_tile_proto",
                                                  .form = ZMI_FORM_TILES,
                                                  .inputs = "q k",
                                                  .outputs = "y",
                                                  .source =
                                                      "shared float queries[256];\n"
                                                      "shared float keys[256];\n"
                                                      "let row = thread / 16;\n"
                                                      "let col = thread % 16;\n"
                                                      "float score = 0.0f;\n"
                                                      "for (int first = 0; first < dim(k, 1); first += 16) {\n"
                                                      "  let n = min(16, dim(k, 1) - first);\n"
                                                      "  queries[thread] = col < n ? q[row * dim(q, 1) + first + min(col, n - 1)] : 0.0f;\n"
                                                      "  keys[thread] = col < n ? k[row * dim(k, 1) + first + min(col, n - 1)] : 0.0f;\n"
                                                      "  barrier();\n"
                                                      "  for (int j = 0; j < n; j += 1) {\n"
                                                      "    score = fma(queries[row * 16 + j], keys[col * 16 + j], score);\n"
                                                      "  }\n"
                                                      "  barrier();\n"
                                                      "}\n"
                                                      "y[thread] = score;",
                                                  .shape = "16 16",
                                                  .groups = "1",
                                                  .threads = "256",
                                                  .vjp = tile_vjp};

zm_array *zm_attention_tile_proto(zm_array *q, zm_array *k) {
  const char *name = "attention_tile_proto";
  if (!zmi_cat_want_float(name, "q", q) || !zmi_cat_want_float(name, "k", k)) return NULL;
  if (!zmi_cat_want(name, "q", q, 2, (int64_t)16, (int64_t)-1)) return NULL;
  if (!zmi_cat_want(name, "k", k, 2, (int64_t)16, q->type.shape[1])) return NULL;
  return zmi_definition_apply1(&attention_tile_proto_def, (zm_array *[]){q, k}, 2, NULL, 0);
}

#define CALL(word, ...)                                                                                                                    \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin, (void)params;                                                                                                               \
    out[0] = zm_##word(__VA_ARGS__);                                                                                                       \
    return out[0] ? ZM_OK : zm_last_status();                                                                                              \
  }
CALL(masked_softmax, in[0], in[1])
CALL(scale_mask_softmax, in[0], in[1], params[0].real)
CALL(attention_tile_proto, in[0], in[1])
CALL(paged_attention, in[0], in[1], in[2], in[3], in[4], params[0].real)

// q, k, v, then a mask and sinks if they are given.
static zm_status attention_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  const zm_attention_options o = {
      .scale = params[0].real, .causal = params[1].whole != 0, .mask = nin > 3 ? in[3] : NULL, .sinks = nin > 4 ? in[4] : NULL};
  out[0] = zm_scaled_dot_product_attention(in[0], in[1], in[2], &o);
  return out[0] ? ZM_OK : zm_last_status();
}

static const zmi_entry entries[] = {
    {.name = "logsumexp_lastdim",
     .formula = "ln sum e^x",
     .shapes = "x [..., D] -> [...]",
     .gradient = "x",
     .definition = &logsumexp_lastdim_def,
     .sample = "x 1024 2048"},
    {.name = "masked_softmax",
     .formula = "softmax over the places where the mask is true, 0 elsewhere; zeros where it is true nowhere",
     .shapes = "x [..., D], mask bool, broadcast to x -> [..., D]",
     .gradient = "x",
     .definition = &masked_softmax_def,
     .sample = "x 1024 2048; mask 1024 2048 bool",
     .call = masked_softmax_call},
    {.name = "scale_mask_softmax",
     .formula = "masked_softmax(scale x)",
     .shapes = "x [..., D], mask bool, broadcast to x -> [..., D]",
     .gradient = "x",
     .parameters = "scale=0.125",
     .definition = &scale_mask_softmax_def,
     .sample = "x 1024 2048; mask 1024 2048 bool",
     .call = scale_mask_softmax_call},
    {.name = "scaled_dot_product_attention",
     .formula =
         "softmax(scale q k^T + mask) v; query head h by head h / (H / G) of k and v; scale 0 stands for 1 / sqrt(D); causal: query i "
         "sees keys up to i + S - L; a bool mask hides where it is false; sinks take part in the softmax without a value",
     .shapes = "q [B, H, L, D], k [B, G, S, D], v [B, G, S, E], optional: mask, broadcast to [B, H, L, S], sinks [H] -> [B, H, L, E]",
     .dtypes = "float16, bfloat16, float32; mask also bool",
     .gradient = "q k v mask sinks",
     .parameters = "scale=0, causal=0 integer 0..1",
     .sample = "q 1 16 256 64; k 1 4 256 64; v 1 4 256 64",
     .call = attention_call},
    {.name = "attention_tile_proto",
     .formula = "q k^T of one tile: fma in float32, the dimensions in rising order",
     .shapes = "q [16, D], k [16, D] -> [16, 16]",
     .gradient = "q k",
     .definition = &attention_tile_proto_def,
     .sample = "q 16 128 fixed; k 16 128 fixed",
     .call = attention_tile_proto_call},
    {.name = "paged_attention",
     .formula = "softmax(scale q k^T) v over the positions below context_lens[b]; position t is in block block_table[b][t / BS]; positions "
                "without a block are left out; scale 0 stands for 1 / sqrt(D)",
     .shapes = "q [B, H, D], k_cache [NB, BS, HKV, D], v_cache [NB, BS, HKV, D], block_table [B, MB], context_lens [B] -> [B, H, D]",
     .dtypes = "float16, bfloat16, float32, caches of the dtype of q; int32",
     .gradient = "q k_cache v_cache",
     .parameters = "scale=0",
     .sample = "q 4 32 128; k_cache 256 16 8 128; v_cache 256 16 8 128; block_table 4 64 int32 < 256; context_lens 4 int32 < 1024",
     .call = paged_attention_call},
};

ZMI_GROUP(attention, "Parts of attention.");
