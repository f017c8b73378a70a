// Keys and values in a basis of lower rank, quantized: projected and packed, unpacked and projected back, and scores straight from the
// packed form. Groups run over the flat coefficients [S, H, R]; codes are packed, `bits` each, into words.
#include "catalog/ops.h"

// The group's range in steps: code = round((c - min) / scale), scale = (max - min) / most, or 1 for a group of equal values.
static zmi_definition quantize_def = {.name = "skv_quantize",
                                      .form = ZMI_FORM_ROWS,
                                      .inputs = "c there",
                                      .outputs = "q scale zero",
                                      .parameters = "most",
                                      .source = "let none = 1.0f / 0.0f;\n"
                                                "elements { low = min(there ? c : none); high = max(there ? c : -none); }\n"
                                                "let step = high > low ? (high - low) / most : 1.0f;\n"
                                                "elements { q = int(clamp(round((c - low) / step), 0.0f, most)); }\n"
                                                "scale = step;\n"
                                                "zero = low;",
                                      .result = {ZM_U8, ZM_F32, ZM_F32}};
static zmi_definition coefficients_def = {.name = "skv_coefficients",
                                          .form = ZMI_FORM_ELEMENTS,
                                          .inputs = "q scale zero",
                                          .outputs = "y",
                                          .source = "y = fma(float(q), scale, zero);",
                                          .codes = 1,
                                          .result = {ZM_F32}};
ZMI_ELEMENTS(scaled, "x", "scale", "x * scale")

static bool bits_fit(const char *name, int bits, int64_t group) {
  if (bits != 2 && bits != 4 && bits != 8) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: bits: expected 2, 4 or 8, found %d", name, bits);
    return false;
  }
  if (group > 0) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: group_size: expected at least 1, found %lld", name, (long long)group);
  return false;
}

static int64_t words_of(int64_t groups, int64_t group, int bits) {
  return (groups * group * bits + 31) / 32;
}

// A flat array with n elements in front and then as many zeros as are missing.
static zm_array *padded(zm_array *x, int64_t to) {
  int64_t n = zm_array_size(x);
  x = zmi_cat_reshape(x, 1, n);
  if (!x || n == to) return x;
  zm_array *zeros = zm_full(0, x->type.dtype, (int64_t[]){to - n}, 1);
  return zm_concatenate((zm_array *[]){x, zeros}, 2, 0);
}

zm_status zm_skv_fused_project_quantize(zm_array *kv, zm_array *basis, int bits, int64_t group_size, zm_skv *state) {
  const char *name = "skv_fused_project_quantize";
  if (!bits_fit(name, bits, group_size) || !zmi_cat_want_float(name, "kv", kv) || !zmi_cat_want_float(name, "basis", basis))
    return zm_last_status();
  if (!zmi_cat_want(name, "kv", kv, 3, (int64_t)-1, (int64_t)-1, (int64_t)-1)) return zm_last_status();
  int64_t s = kv->type.shape[0], h = kv->type.shape[1], d = kv->type.shape[2];
  if (!zmi_cat_want(name, "basis", basis, 3, h, d, (int64_t)-1)) return zm_last_status();
  int64_t r = basis->type.shape[2], n = s * h * r, groups = (n + group_size - 1) / group_size;
  // [H, S, D] x [H, D, R] -> [S, H, R]
  zm_array *c = zm_matmul(zm_transpose(zm_astype(kv, ZM_F32), (int[]){1, 0, 2}), zm_astype(basis, ZM_F32));
  c = zm_contiguous(zm_transpose(c, (int[]){1, 0, 2}));
  if (!c) return zm_last_status();
  zm_array *there = zm_less(zm_arange(0, (double)(groups * group_size), 1, ZM_I64), zm_full((double)n, ZM_I64, NULL, 0));
  zm_array *in[] = {zmi_cat_reshape(padded(c, groups * group_size), 2, groups, group_size), zmi_cat_reshape(there, 2, groups, group_size)};
  double most = (double)((1 << bits) - 1);
  zm_array *made[3];
  zm_status status = zmi_definition_apply(&quantize_def, in, 2, &most, 1, made, 3);
  if (status != ZM_OK) return status;
  zm_array *codes = padded(made[0], words_of(groups, group_size, bits) * 32 / bits);
  zm_skv result = {zmi_cat_pack(codes, bits), made[1], made[2], {s, h, r}, bits, group_size};
  if (!result.words) return zm_last_status();
  *state = result;
  return ZM_OK;
}

// float32 [S, H, R]
static zm_array *coefficients(const char *name, const zm_skv *k) {
  if (!bits_fit(name, k->bits, k->group_size)) return NULL;
  int64_t n = k->shape[0] * k->shape[1] * k->shape[2], groups = (n + k->group_size - 1) / k->group_size;
  if (!zmi_cat_want_dtype(name, "words", k->words, ZM_U32)) return NULL;
  if (!zmi_cat_want(name, "words", k->words, 1, words_of(groups, k->group_size, k->bits))) return NULL;
  if (!zmi_cat_want(name, "scales", k->scales, 1, groups) || !zmi_cat_want(name, "zeros", k->zeros, 1, groups)) return NULL;
  zm_array *codes = zmi_cat_part(zmi_cat_unpack(k->words, k->bits), 0, 0, groups * k->group_size);
  zm_array *in[] = {zmi_cat_reshape(codes, 2, groups, k->group_size), zm_expand_dims(k->scales, -1), zm_expand_dims(k->zeros, -1)};
  zm_array *c = zmi_cat_reshape(zmi_definition_apply1(&coefficients_def, in, 3, NULL, 0), 1, groups * k->group_size);
  return zmi_cat_reshape(zmi_cat_part(c, 0, 0, n), 3, k->shape[0], k->shape[1], k->shape[2]);
}

zm_array *zm_skv_fused_dequantize_unproject(const zm_skv *state, zm_array *basis) {
  const char *name = "skv_fused_dequantize_unproject";
  zm_array *c = coefficients(name, state);
  if (!c || !zmi_cat_want_float(name, "basis", basis) ||
      !zmi_cat_want(name, "basis", basis, 3, state->shape[1], (int64_t)-1, state->shape[2]))
    return NULL;
  zm_array *y = zmi_cat_matmul_t(zm_transpose(c, (int[]){1, 0, 2}), zm_astype(basis, ZM_F32)); // [H, S, D]
  return zm_astype(zm_contiguous(zm_transpose(y, (int[]){1, 0, 2})), basis->type.dtype);
}

zm_array *zm_skv_compressed_attention(zm_array *q_rank, const zm_skv *keys, double scale) {
  const char *name = "skv_compressed_attention";
  zm_array *c = coefficients(name, keys);
  if (!c || !zmi_cat_want_float(name, "q_rank", q_rank)) return NULL;
  if (!zmi_cat_want(name, "q_rank", q_rank, 3, (int64_t)-1, (int64_t)-1, keys->shape[2])) return NULL;
  int64_t length = q_rank->type.shape[0], heads = q_rank->type.shape[1], kv = keys->shape[1], r = keys->shape[2], s = keys->shape[0];
  if (kv == 0 || heads % kv != 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: q_rank: %lld heads are no multiple of the %lld key heads", name, (long long)heads, (long long)kv);
    return NULL;
  }
  // q [KV, share * Q, R] by k [KV, S, R]
  zm_array *q = zm_contiguous(zm_transpose(zm_astype(q_rank, ZM_F32), (int[]){1, 0, 2}));
  zm_array *y = zmi_cat_matmul_t(zmi_cat_reshape(q, 3, kv, heads / kv * length, r), zm_transpose(c, (int[]){1, 0, 2}));
  y = zmi_cat_reshape(y, 3, heads, length, s);
  return zmi_definition_apply1(&scaled_def, &y, 1, &scale, 1);
}

static zm_status quantize_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  zm_skv s;
  (void)nin;
  zm_status status = zm_skv_fused_project_quantize(in[0], in[1], (int)params[0].whole, params[1].whole, &s);
  if (status == ZM_OK) out[0] = s.words, out[1] = s.scales, out[2] = s.zeros;
  return status;
}

// words, scales, zeros, then basis or q; S, H and R are parameters.
static zm_skv state_of(zm_array *const *in, const zmi_given *params) {
  return (zm_skv){in[0], in[1], in[2], {params[2].whole, params[3].whole, params[4].whole}, (int)params[0].whole, params[1].whole};
}

static zm_status unproject_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  zm_skv s = state_of(in, params);
  (void)nin;
  out[0] = zm_skv_fused_dequantize_unproject(&s, in[3]);
  return zmi_cat_status(out[0]);
}

static zm_status attention_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  zm_skv s = state_of(in, params);
  (void)nin;
  out[0] = zm_skv_compressed_attention(in[3], &s, params[5].real);
  return zmi_cat_status(out[0]);
}

static const zmi_entry entries[] = {
    {.name = "skv_fused_project_quantize",
     .formula =
         "c = kv[s, h] basis[h]; groups of the flat c: scale = (max - min) / (2^bits - 1), code = round((c - min) / scale); codes packed",
     .shapes = "kv [S, H, D], basis [H, D, R] -> words [W], scales [G], zeros [G]; G = ceil(S H R / group), W = ceil(G group bits / 32)",
     .dtypes = "any float -> uint32, float32",
     .gradient = "none: of the codes; scales and zeros have one by kv and basis",
     .parameters = "bits=4 integer 2..8, group_size=32 integer 1..",
     .definition = &quantize_def,
     .outputs = 3,
     .sample = "kv 256 8 128; basis 8 128 64",
     .call = quantize_call},
    {.name = "skv_fused_dequantize_unproject",
     .formula = "(code scale + zero) basis[h]^T",
     .shapes = "words [W], scales [G], zeros [G], basis [H, D, R] -> [S, H, D]",
     .dtypes = "words uint32, float32, basis any float -> dtype of basis",
     .gradient = "scales zeros basis",
     .parameters = "bits=4 integer 2..8, group_size=32 integer 1.., S=256 integer 0.., H=8 integer 0.., R=64 integer 0..",
     .definition = &coefficients_def,
     .sample = "words 16384 uint32; scales 4096 float32; zeros 4096 float32; basis 8 128 64",
     .call = unproject_call},
    {.name = "skv_compressed_attention",
     .formula = "scale q[q, h] . (code scale + zero)[k, h / (H / HKV)]",
     .shapes = "words [W], scales [G], zeros [G], q [Q, H, R] -> float32 [H, Q, S]",
     .dtypes = "words uint32, float32, q any float -> float32",
     .gradient = "scales zeros q",
     .parameters = "bits=4 integer 2..8, group_size=32 integer 1.., S=256 integer 0.., H=8 integer 0.., R=64 integer 0.., scale=0.125",
     .definition = &coefficients_def,
     .sample = "words 16384 uint32; scales 4096 float32; zeros 4096 float32; q 4 32 64",
     .call = attention_call},
};

ZMI_GROUP(skv, "Keys and values in a basis of lower rank, quantized.");
