// Quantized numbers back to floats. Results are float32.
#include "catalog/ops.h"
#include <zmlx/elementwise.h>
#include <zmlx/quantized.h>

#define TO_FLOAT(word, ins, integers, text)                                                                                                \
  static zmi_definition word##_def = {                                                                                                     \
      .name = #word, .form = ZMI_FORM_ELEMENTS, .inputs = ins, .outputs = "y", .source = text, .result = {ZM_F32}, .codes = integers};

TO_FLOAT(dequantize_int8, "q scale", 1, "y = float(q) * scale;")
TO_FLOAT(dequantize_silu_int8, "q scale", 1, "y = silu(float(q) * scale);")
// Two codes a byte, the low one first; int4 is signed.
TO_FLOAT(dequantize_int4, "q shift scale", 3, "let c = int(q) >> int(shift) & 15; y = float(c < 8 ? c : c - 16) * scale;")
TO_FLOAT(dequantize_affine_packed, "q s b", 1, "y = fma(float(q), s, b);")
TO_FLOAT(dequantize_affine_packed_silu, "q s b", 1, "y = silu(fma(float(q), s, b));")
TO_FLOAT(dequantize_affine_packed_gelu, "q s b", 1, "y = gelu_tanh(fma(float(q), s, b));")
TO_FLOAT(dequantize_affine_packed_hi2, "q s b", 1, "y = fma(float(int(q) & 12), s, b);")
TO_FLOAT(dequantize_affine_packed_lo2_delta, "q s", 1, "y = float(int(q) & 3) * s;")
TO_FLOAT(dequantize_table, "v scale", 0, "y = v * scale;")
// The same of rows that have a scale each.
static zmi_definition scaled_rows_def = {.name = "scaled_rows",
                                         .form = ZMI_FORM_ROWS,
                                         .inputs = "q scale",
                                         .outputs = "y",
                                         .source = "elements { y = float(q) * scale; }",
                                         .result = {ZM_F32},
                                         .codes = 1};
static zmi_definition scaled_gates_def = {.name = "scaled_gates",
                                          .form = ZMI_FORM_ROWS,
                                          .inputs = "a s b t",
                                          .outputs = "y",
                                          .source = "elements { y = silu(float(a) * s) * (float(b) * t); }",
                                          .result = {ZM_F32},
                                          .codes = 5};
TO_FLOAT(fused_swiglu_quant, "a s b t", 5, "y = silu(float(a) * s) * (float(b) * t);")

static bool one_number(const char *name, zm_array **scale) {
  if (!zmi_cat_want_float(name, "scale", *scale)) return false;
  if (zm_array_size(*scale) == 1) return (*scale = zm_reshape(*scale, NULL, 0)) != NULL;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: scale: expected one number, found %lld", name, (long long)zm_array_size(*scale));
  return false;
}

static zm_array *from_int8(zmi_definition *d, zm_array *q, zm_array *scale) {
  if (!zmi_cat_want_dtype(d->name, "x", q, ZM_I8) || !one_number(d->name, &scale)) return NULL;
  return zmi_definition_apply1(d, (zm_array *[]){q, scale}, 2, NULL, 0);
}

zm_array *zm_dequantize_int8(zm_array *x, zm_array *scale) {
  return from_int8(&dequantize_int8_def, x, scale);
}

zm_array *zm_dequantize_silu_int8(zm_array *x, zm_array *scale) {
  return from_int8(&dequantize_silu_int8_def, x, scale);
}

// [..., n] bytes as [..., 2n] numbers: value[nibble], times the scale if there is one. A byte is looked up in a table of both its products.
static zm_array *nibbles(const float value[16], zm_array *x, zm_array *scale) {
  float pairs[512];
  for (int i = 0; i < 256; i++) {
    pairs[2 * i] = value[i & 15];
    pairs[2 * i + 1] = value[i >> 4];
  }
  zm_array *table = zm_array_from_data(pairs, ZM_F32, (int64_t[]){256, 2}, 2);
  if (scale) table = zmi_definition_apply1(&dequantize_table_def, (zm_array *[]){table, scale}, 2, NULL, 0);
  return table ? zmi_cat_join_last(zm_take(table, x)) : NULL;
}

static bool bytes_of(const char *name, zm_array *x) {
  return zmi_cat_want_dtype(name, "x", x, ZM_U8) && zmi_cat_want_rank(name, "x", x, 1);
}

zm_array *zm_dequantize_int4(zm_array *x, zm_array *scale) {
  if (!bytes_of("dequantize_int4", x) || !one_number("dequantize_int4", &scale)) return NULL;
  static const float value[16] = {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1};
  return nibbles(value, x, scale);
}

// scales [blocks] as one number for each of n elements.
static zm_array *spread(const char *name, const char *operand, zm_array *scales, int64_t n, int64_t block) {
  if (!zmi_cat_want_float(name, operand, scales)) return NULL;
  if (block < 1) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: block_size: expected at least 1, found %lld", name, (long long)block);
    return NULL;
  }
  int64_t blocks = (n + block - 1) / block;
  if (!zmi_cat_want(name, operand, scales, 1, blocks)) return NULL;
  zm_array *all = zm_broadcast_to(zm_expand_dims(scales, -1), (int64_t[]){blocks, block}, 2);
  return zmi_cat_part(zmi_cat_reshape(all, 1, blocks * block), 0, 0, n);
}

zm_array *zm_dequantize_blockwise(zm_array *x, zm_array *scales, int64_t block_size, int bits) {
  const char *name = "dequantize_blockwise";
  if (bits != 8 && bits != 4) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: bits: expected 8 or 4, found %d", name, bits);
    return NULL;
  }
  if (bits == 4 ? !bytes_of(name, x) : !x || (x->type.dtype != ZM_U8 && !zmi_cat_want_dtype(name, "x", x, ZM_I8))) return NULL;
  int64_t n = zm_array_size(x) * (bits == 4 ? 2 : 1);
  zm_array *s = spread(name, "scales", scales, n, block_size);
  if (!s) return NULL;
  if (bits == 8 && n % block_size == 0) { // scales need not be written out
    zm_array *in[] = {zmi_cat_reshape(x, 2, n / block_size, block_size), zm_expand_dims(scales, -1)};
    return zmi_cat_like(zmi_definition_apply1(&scaled_rows_def, in, 2, NULL, 0), x, 0, 0);
  }
  if (bits == 8) return zmi_definition_apply1(&dequantize_int8_def, (zm_array *[]){x, zmi_cat_like(s, x, 0, 0)}, 2, NULL, 0);
  static const float value[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  zm_array *q = nibbles(value, x, NULL);
  return q ? zmi_definition_apply1(&dequantize_table_def, (zm_array *[]){q, zmi_cat_like(s, q, 0, 0)}, 2, NULL, 0) : NULL;
}

zm_array *zm_fused_swiglu_quant(zm_array *x1, zm_array *scales1, zm_array *x2, zm_array *scales2, int64_t block_size) {
  const char *name = "fused_swiglu_quant";
  if (!zmi_cat_want_dtype(name, "x1", x1, ZM_I8) || !zmi_cat_want_dtype(name, "x2", x2, ZM_I8)) return NULL;
  if (zm_array_size(x1) != zm_array_size(x2)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: x2: expected %lld elements as x1, found %lld", name, (long long)zm_array_size(x1),
             (long long)zm_array_size(x2));
    return NULL;
  }
  int64_t n = zm_array_size(x1);
  zm_array *s = spread(name, "scales1", scales1, n, block_size), *t = s ? spread(name, "scales2", scales2, n, block_size) : NULL;
  if (!t) return NULL;
  if (n % block_size == 0) {
    const int64_t blocks = n / block_size;
    zm_array *in[] = {zmi_cat_reshape(x1, 2, blocks, block_size), zm_expand_dims(scales1, -1), zmi_cat_reshape(x2, 2, blocks, block_size),
                      zm_expand_dims(scales2, -1)};
    return zmi_cat_like(zmi_definition_apply1(&scaled_gates_def, in, 4, NULL, 0), x1, 0, 0);
  }
  zm_array *in[] = {x1, zmi_cat_like(s, x1, 0, 0), zmi_cat_like(x2, x1, 0, 0), zmi_cat_like(t, x1, 0, 0)};
  return zmi_definition_apply1(&fused_swiglu_quant_def, in, 4, NULL, 0);
}

// ---- numbers of 8 and 4 bits that are looked up ----

// The value of an eight-bit float: exponent of `exponent` bits with bias 2^(exponent - 1) - 1. finite: no infinities, all ones are NaN.
static float small_float(unsigned code, int exponent, bool finite) {
  int fraction = 7 - exponent, bias = (1 << (exponent - 1)) - 1;
  unsigned f = code & ((1u << fraction) - 1), e = code >> fraction & ((1u << exponent) - 1), top = (1u << exponent) - 1;
  union {
    uint32_t u;
    float f;
  } v = {.u = 0x7fc00000u};
  bool special = e == top && (!finite || f == (1u << fraction) - 1);
  if (special) {
    if (!finite && f == 0) v.u = 0x7f800000u;
  } else {
    int scale = (e ? (int)e : 1) - bias - fraction;
    v.u = (uint32_t)(scale + 127) << 23;
    v.f *= (float)(e ? f | 1u << fraction : f);
  }
  v.u |= (code & 128u) << 24;
  return v.f;
}

static zm_array *fp8_table(bool e5m2) {
  float table[256];
  for (unsigned i = 0; i < 256; i++) table[i] = small_float(i, e5m2 ? 5 : 4, !e5m2);
  return zm_array_from_data(table, ZM_F32, (int64_t[]){256}, 1);
}

zm_array *zm_dequantize_fp8(zm_array *x, zm_array *scale, zm_fp8 variant) {
  const char *name = "dequantize_fp8";
  if (variant != ZM_FP8_E4M3 && variant != ZM_FP8_E5M2) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: variant: %d is unknown", name, (int)variant);
    return NULL;
  }
  if (!zmi_cat_want_dtype(name, "x", x, ZM_U8) || !one_number(name, &scale)) return NULL;
  // Scaled after they are looked up: NaNs of the table that no code asks for must not reach the gradient of the scale.
  return zmi_definition_apply1(&dequantize_table_def, (zm_array *[]){zm_take(fp8_table(variant == ZM_FP8_E5M2), x), scale}, 2, NULL, 0);
}

// Quantiles of a normal distribution, scaled to [-1, 1]: the 16 values of NF4.
static const float nf4[16] = {-1.0f,
                              -0.6961928009986877f,
                              -0.5250730514526367f,
                              -0.39491748809814453f,
                              -0.28444138169288635f,
                              -0.18477343022823334f,
                              -0.09105003625154495f,
                              0.0f,
                              0.07958029955625534f,
                              0.16093020141124725f,
                              0.24611230194568634f,
                              0.33791524171829224f,
                              0.44070982933044434f,
                              0.5626170039176941f,
                              0.7229568362236023f,
                              1.0f};

zm_array *zm_dequantize_nf4(zm_array *x, zm_array *scale) {
  if (!bytes_of("dequantize_nf4", x) || !one_number("dequantize_nf4", &scale)) return NULL;
  return nibbles(nf4, x, scale);
}

// ---- affine codes of 2 to 8 bits ----

bool zmi_cat_want_affine(const char *name, zm_array *words, zm_array *scales, zm_array *biases, int bits, int64_t group, int64_t *k) {
  char found[128];
  zmi_format f = {.mode = ZMI_QUANT_AFFINE, .bits = bits, .group = group, .dtype = ZM_F32};
  if (zmi_format_check(&f) != ZM_OK) {
    zmi_fail_within("%s", name);
    return false;
  }
  if (!zmi_cat_want_dtype(name, "words", words, ZM_U32) || !zmi_cat_want_rank(name, "words", words, 1)) return false;
  int64_t w = zmi_cat_last(words);
  if (w > INT64_MAX / 32 || w * 32 % bits != 0 || w * 32 / bits % group != 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: words: %s does not hold whole groups of %lld codes of %d bits", name,
             zmi_type_text(&words->type, found), (long long)group, bits);
    return false;
  }
  *k = w * 32 / bits;
  for (int i = 0; i < (biases ? 2 : 1); i++) {
    zm_array *a = i ? biases : scales;
    const char *operand = i ? "biases" : "scales";
    if (!zmi_cat_want_float(name, operand, a)) return false;
    bool fits = a->type.rank == words->type.rank && zmi_cat_last(a) == *k / group;
    for (int d = 0; fits && d + 1 < a->type.rank; d++) fits = a->type.shape[d] == words->type.shape[d];
    if (!fits) {
      zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected the leading dimensions of the words and %lld groups, found %s", name, operand,
               (long long)(*k / group), zmi_type_text(&a->type, found));
      return false;
    }
  }
  return true;
}

// fma(code, scale, bias) by the operation of arrays; where `kept` is not 0, of those bits of the codes.
static zm_array *affine(const char *name, zm_array *words, zm_array *scales, zm_array *biases, int bits, int64_t group, uint32_t kept) {
  int64_t k;
  if (!zmi_cat_want_affine(name, words, scales, biases, bits, group, &k)) return NULL;
  if (kept) words = zm_bitwise_and(words, zmi_cat_uint(kept));
  // Without biases -0 is added, which leaves every product as it is.
  zm_array *s = zm_astype(scales, ZM_F32), *b = biases ? zm_astype(biases, ZM_F32) : zmi_full_like(s, -0.0);
  return b ? zm_dequantize(words, s, b, &(zm_quant){.bits = bits, .group = (int)group}, NULL, ZM_F32) : NULL;
}

zm_array *zm_dequantize_affine_packed(zm_array *x, zm_array *scales, zm_array *biases, int bits, int64_t group_size) {
  if (!zmi_cat_want_float("dequantize_affine_packed", "biases", biases)) return NULL;
  return affine("dequantize_affine_packed", x, scales, biases, bits, group_size, 0);
}

zm_array *zm_dequantize_affine_packed_silu(zm_array *x, zm_array *scales, zm_array *biases, int bits, int64_t group_size) {
  if (!zmi_cat_want_float("dequantize_affine_packed_silu", "biases", biases)) return NULL;
  zm_array *y = affine("dequantize_affine_packed_silu", x, scales, biases, bits, group_size, 0);
  return y ? zm_silu(y) : NULL;
}

zm_array *zm_dequantize_affine_packed_gelu(zm_array *x, zm_array *scales, zm_array *biases, int bits, int64_t group_size) {
  if (!zmi_cat_want_float("dequantize_affine_packed_gelu", "biases", biases)) return NULL;
  zm_array *y = affine("dequantize_affine_packed_gelu", x, scales, biases, bits, group_size, 0);
  return y ? zm_gelu_tanh(y) : NULL;
}

zm_array *zm_dequantize_affine_packed_hi2(zm_array *x, zm_array *scales, zm_array *biases, int64_t group_size) {
  if (!zmi_cat_want_float("dequantize_affine_packed_hi2", "biases", biases)) return NULL;
  return affine("dequantize_affine_packed_hi2", x, scales, biases, 4, group_size, 0xccccccccu);
}

zm_array *zm_dequantize_affine_packed_lo2_delta(zm_array *x, zm_array *scales, int64_t group_size) {
  return affine("dequantize_affine_packed_lo2_delta", x, scales, NULL, 4, group_size, 0x33333333u);
}

// ---- rows ----

#define CALL(word, ...)                                                                                                                    \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin, (void)params;                                                                                                               \
    out[0] = zm_##word(__VA_ARGS__);                                                                                                       \
    return zmi_cat_status(out[0]);                                                                                                         \
  }
CALL(dequantize_int8, in[0], in[1])
CALL(dequantize_silu_int8, in[0], in[1])
CALL(dequantize_int4, in[0], in[1])
CALL(dequantize_blockwise, in[0], in[1], params[0].whole, (int)params[1].whole)
CALL(dequantize_fp8, in[0], in[1], params[0].whole != 0 ? ZM_FP8_E5M2 : ZM_FP8_E4M3)
CALL(dequantize_nf4, in[0], in[1])
CALL(dequantize_affine_packed, in[0], in[1], in[2], (int)params[0].whole, params[1].whole)
CALL(dequantize_affine_packed_silu, in[0], in[1], in[2], (int)params[0].whole, params[1].whole)
CALL(dequantize_affine_packed_gelu, in[0], in[1], in[2], (int)params[0].whole, params[1].whole)
CALL(dequantize_affine_packed_hi2, in[0], in[1], in[2], params[0].whole)
CALL(dequantize_affine_packed_lo2_delta, in[0], in[1], params[0].whole)
CALL(fused_swiglu_quant, in[0], in[1], in[2], in[3], params[0].whole)

static zm_status gemv_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  zm_affine gate = {in[1], in[2], in[3], (int)params[0].whole, params[1].whole},
            up = {in[4], in[5], in[6], (int)params[0].whole, params[1].whole};
  out[0] = zm_fused_quantized_swiglu_gemv(in[0], &gate, &up);
  return zmi_cat_status(out[0]);
}

static zm_status progressive_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  zm_affine gate = {in[1], in[2], in[3], (int)params[0].whole, params[1].whole},
            up = {in[4], in[5], in[6], (int)params[0].whole, params[1].whole};
  out[0] = zm_fused_quantized_swiglu_gemv_progressive(in[0], &gate, &up, params[2].real, params[3].whole != 0);
  return zmi_cat_status(out[0]);
}

#define ROW(word, text, form, kinds, grad, options, operands)                                                                              \
  {                                                                                                                                        \
    .name = #word, .formula = text, .shapes = form, .dtypes = kinds, .gradient = grad, .parameters = options, .definition = &word##_def,   \
    .sample = operands, .call = word##_call                                                                                                \
  }
#define PACKED "words [..., K bits / 32], scales [..., K / group], biases [..., K / group] -> [..., K]"
#define PACKED_SAMPLE "words 1024 256 uint32; scales 1024 32; biases 1024 32"
#define PACKED_KINDS "words uint32, scales and biases any float -> float32"
#define GEMV "x [..., K], gate and up each: words [N, K bits / 32], scales [N, K / group], biases [N, K / group] -> [..., N]"
#define GEMV_SAMPLE "x 1 2048; gate_w 1024 256 uint32; gate_s 1024 32; gate_b 1024 32; up_w 1024 256 uint32; up_s 1024 32; up_b 1024 32"

static const zmi_entry entries[] = {
    ROW(dequantize_int8, "x scale", "x [...], scale [1] -> [...]", "x int8, scale any float -> float32", "scale", NULL,
        "x 1024 1024 int8 grows; scale 1"),
    ROW(dequantize_silu_int8, "silu(x scale)", "x [...], scale [1] -> [...]", "x int8, scale any float -> float32", "scale", NULL,
        "x 1024 1024 int8 grows; scale 1"),
    ROW(dequantize_int4, "nibble scale; nibbles are signed, -8 to 7, the low one first", "x [..., n], scale [1] -> [..., 2n]",
        "x uint8, scale any float -> float32", "scale", NULL, "x 1024 1024 uint8 grows; scale 1"),
    {.name = "dequantize_blockwise",
     .formula = "x[i] scales[i / block_size]; with 4 bits unsigned nibbles, the low one first",
     .shapes = "x [...], scales [ceil(size / block)] -> [...], last axis twice as long with 4 bits",
     .dtypes = "x int8 or uint8 (4 bits: uint8), scales any float -> float32",
     .gradient = "scales",
     .parameters = "block_size=128 integer 1.., bits=8 integer 4..8",
     .definition = &dequantize_int8_def,
     .sample = "x 1024 1024 int8 grows; scales 8192 grows",
     .call = dequantize_blockwise_call},
    {.name = "dequantize_fp8",
     .formula = "value(x) scale; e4m3 (0, no infinities) or e5m2 (1)",
     .shapes = "x [...], scale [1] -> [...]",
     .dtypes = "x uint8, scale any float -> float32",
     .gradient = "scale",
     .parameters = "variant=0 integer 0..1",
     .sample = "x 1024 1024 uint8 grows; scale 1",
     .call = dequantize_fp8_call},
    {.name = "dequantize_nf4",
     .formula = "nf4[nibble] scale, the low nibble first",
     .shapes = "x [..., n], scale [1] -> [..., 2n]",
     .dtypes = "x uint8, scale any float -> float32",
     .gradient = "scale",
     .sample = "x 1024 1024 uint8 grows; scale 1",
     .call = dequantize_nf4_call},
    ROW(dequantize_affine_packed, "fma(code, scale, bias)", PACKED, PACKED_KINDS, "scales biases",
        "bits=4 integer 2..8, group_size=64 integer 1..", PACKED_SAMPLE),
    ROW(dequantize_affine_packed_silu, "silu(fma(code, scale, bias))", PACKED, PACKED_KINDS, "scales biases",
        "bits=4 integer 2..8, group_size=64 integer 1..", PACKED_SAMPLE),
    ROW(dequantize_affine_packed_gelu, "gelu_tanh(fma(code, scale, bias))", PACKED, PACKED_KINDS, "scales biases",
        "bits=4 integer 2..8, group_size=64 integer 1..", PACKED_SAMPLE),
    ROW(dequantize_affine_packed_hi2, "fma(code & 12, scale, bias) of codes of 4 bits", PACKED, PACKED_KINDS, "scales biases",
        "group_size=64 integer 1..", PACKED_SAMPLE),
    ROW(dequantize_affine_packed_lo2_delta, "(code & 3) scale of codes of 4 bits",
        "words [..., K / 8], scales [..., K / group] -> [..., K]", PACKED_KINDS, "scales", "group_size=64 integer 1..",
        "words 1024 256 uint32; scales 1024 32"),
    {.name = "fused_quantized_swiglu_gemv",
     .formula = "silu(x gate^T) (x up^T), the tier's quantized dot product, float32 from there",
     .shapes = GEMV,
     .dtypes = "x, scales, biases any float; words uint32 -> float32",
     .gradient = "x scales biases",
     .parameters = "bits=4 integer 2..8, group_size=64 integer 1..",
     .sample = GEMV_SAMPLE,
     .call = gemv_call},
    {.name = "fused_quantized_swiglu_gemv_progressive",
     .formula = "the same from the high bits of the codes; the low bits are added where the error bound sum |x| |scale| max_low is above "
                "epsilon (for each output, or each group)",
     .shapes = GEMV,
     .dtypes = "x, scales, biases any float; words uint32 -> float32",
     .gradient = "x scales biases",
     .parameters = "bits=4 integer 2..8, group_size=64 integer 1.., epsilon=0, per_group=0 integer 0..1",
     .sample = GEMV_SAMPLE,
     .call = progressive_call},
    ROW(fused_swiglu_quant, "silu(x1 s1) (x2 s2), scales of blocks of the flat elements",
        "x1 [...], scales1 [blocks], x2 [...], scales2 [blocks] -> [...]", "x int8, scales any float -> float32", "scales1 scales2",
        "block_size=128 integer 1..", "x1 1024 1024 int8 grows; scales1 8192 grows; x2 1024 1024 int8 grows; scales2 8192 grows"),
};

ZMI_GROUP(quant, "Quantized numbers back to floats, and products with them.");
