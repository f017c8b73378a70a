// A gated product that starts from the high bits of the codes and adds the low ones where a bound of the error asks for them.
#include "catalog/ops.h"

#include <string.h>

enum { X, WORDS, SCALES, BIASES, UP_WORDS, UP_SCALES, UP_BIASES, OPERANDS };

typedef struct progressive_attrs {
  int64_t bits, group, per_group;
  double epsilon;
} progressive_attrs;

static const zmi_field fields[] = {{"bits", ZMI_FIELD_INT, offsetof(progressive_attrs, bits), NULL},
                                   {"group", ZMI_FIELD_INT, offsetof(progressive_attrs, group), NULL},
                                   {"per_group", ZMI_FIELD_INT, offsetof(progressive_attrs, per_group), NULL},
                                   {"epsilon", ZMI_FIELD_FLOAT, offsetof(progressive_attrs, epsilon), NULL},
                                   {0}};

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const progressive_attrs *a = attrs;
  zm_status status = zmi_want_operands(nin, in, OPERANDS, OPERANDS);
  if (status == ZM_OK && a->bits != 4 && a->bits != 8)
    status = zmi_fail(ZM_ERROR_ARGUMENT, "bits: expected 4 or 8, found %lld", (long long)a->bits);
  if (status == ZM_OK && a->group != 32 && a->group != 64 && a->group != 128) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "group: expected 32, 64 or 128, found %lld", (long long)a->group);
  }
  if (status == ZM_OK) status = zmi_want_rank("x", &in[X], 2, "float32 [M, K]");
  if (status == ZM_OK) status = zmi_want_dtype("x", &in[X], ZM_F32);
  if (status == ZM_OK && in[X].shape[1] % a->group != 0) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "x: K is %lld, no multiple of the group", (long long)in[X].shape[1]);
  }
  for (int w = WORDS; w <= UP_WORDS && status == ZM_OK; w += UP_WORDS - WORDS) {
    status = zmi_want_rank("words", &in[w], 2, "[N, K bits / 32]");
    if (status == ZM_OK) status = zmi_want_dtype("words", &in[w], ZM_U32);
    if (status == ZM_OK) status = zmi_want_dim("words", &in[w], 0, in[WORDS].shape[0], "N of gate");
    if (status == ZM_OK) status = zmi_want_dim("words", &in[w], 1, in[X].shape[1] / 32 * a->bits, "words of a row");
    for (int i = w + 1; i <= w + 2 && status == ZM_OK; i++) {
      status = zmi_want_rank(i == w + 1 ? "scales" : "biases", &in[i], 2, "float32 [N, K / group]");
      if (status == ZM_OK) status = zmi_want_dtype("scales and biases", &in[i], ZM_F32);
      if (status == ZM_OK) status = zmi_want_dim("scales and biases", &in[i], 0, in[WORDS].shape[0], "N");
      if (status == ZM_OK) status = zmi_want_dim("scales and biases", &in[i], 1, in[X].shape[1] / a->group, "groups");
    }
  }
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = zmi_type_of(ZM_F32, 2, (int64_t[]){in[X].shape[0], in[WORDS].shape[0]});
  return ZM_OK;
}

// Outputs are shared out to lanes; each has room for the high and low parts of two rows, the products and sums by group.
static int64_t tiles(const zmi_call *c) {
  return c->in[X]->type.shape[0] ? zmi_lane_count(c->in[WORDS]->type.shape[0]) : 0;
}

static size_t lane_floats(const zmi_call *c) {
  const int64_t k = c->in[X]->type.shape[1], groups = k / ((const progressive_attrs *)c->attrs)->group;
  return (size_t)(5 * k + (4 + c->in[X]->type.shape[0]) * groups + 16);
}

static size_t scratch(const zmi_call *c) {
  return zmi_align64(lane_floats(c) * sizeof(float)) * (size_t)zmi_lane_count(c->in[WORDS]->type.shape[0]);
}

// Row n of a matrix: high = (code & ~low bits) scale + bias, low = (code & low bits) scale.
static void row_of(const zmi_call *c, int words, int64_t n, float *high, float *low) {
  const progressive_attrs *a = c->attrs;
  int64_t k = c->in[X]->type.shape[1], groups = k / a->group;
  const uint8_t *code = (const uint8_t *)((const uint32_t *)c->src[words] + n * c->in[words]->type.shape[1]); // little endian
  const float *scale = (const float *)c->src[words + 1] + n * groups, *bias = (const float *)c->src[words + 2] + n * groups;
  int64_t group = a->group;
  for (int64_t g = 0; g < groups; g++) {
    uint8_t q[128]; // the largest group
    const float s = scale[g], b = bias[g];
    const int low_bits = a->bits == 8 ? 63 : 3;
    float *restrict h = high + g * group, *restrict l = low + g * group;
    c->kernels->codes(code + g * group * a->bits / 8, a->bits, group, q);
    for (int64_t i = 0; i < group; i++) h[i] = (float)(q[i] & ~low_bits) * s + b;
    for (int64_t i = 0; i < group; i++) l[i] = (float)(q[i] & low_bits) * s;
  }
}

static void group_sums(const zmi_call *c, const float *x, float *work, float *sums) {
  const int64_t group = ((const progressive_attrs *)c->attrs)->group, k = c->in[X]->type.shape[1];
  for (int64_t g = 0; g < k / group; g++) {
    for (int64_t i = 0; i < group; i++) work[i] = __builtin_fabsf(x[g * group + i]);
    sums[g] = c->kernels->sum(work, group);
  }
}

static void products(const float *restrict x, const float *restrict w, int64_t n, float *restrict out) {
  for (int64_t i = 0; i < n; i++) out[i] = x[i] * w[i];
}

// The product with x from the high bits. bound [groups]: of what the low bits can add.
static float high_product(const zmi_call *c, int words, int64_t n, const float *x, const float *sums, const float *high, float *work,
                          float *bound) {
  const progressive_attrs *a = c->attrs;
  int64_t k = c->in[X]->type.shape[1], groups = k / a->group;
  const float *scale = (const float *)c->src[words + 1] + n * groups;
  for (int64_t g = 0; g < groups; g++) {
    bound[g] = sums[g] * __builtin_fabsf(scale[g]) * (a->bits == 4 ? 3.0f : 63.0f);
  }
  products(x, high, k, work);
  return c->kernels->sum(work, k);
}

static float low_product(const zmi_call *c, const float *x, const float *low, float *work, const float *refine) {
  const progressive_attrs *a = c->attrs;
  int64_t k = c->in[X]->type.shape[1];
  products(x, low, k, work);
  for (int64_t g = 0; g < k / a->group; g++) {
    if (refine[g] == 0) memset(work + g * a->group, 0, (size_t)a->group * sizeof *work);
  }
  return c->kernels->sum(work, k);
}

static void output(const zmi_call *c, int64_t n, float *memory, const float *sums) {
  const progressive_attrs *a = c->attrs;
  int64_t k = c->in[X]->type.shape[1], groups = k / a->group, outputs = c->in[WORDS]->type.shape[0];
  float *high[2] = {memory, memory + k}, *low[2] = {memory + 2 * k, memory + 3 * k}, *work = memory + 4 * k;
  float *bound[2] = {work + k, work + k + groups}, *refine = work + k + 2 * groups;
  row_of(c, WORDS, n, high[0], low[0]);
  row_of(c, UP_WORDS, n, high[1], low[1]);
  for (int64_t m = 0; m < c->in[X]->type.shape[0]; m++) {
    const float *x = (const float *)c->src[X] + m * k;
    float y[2], total[2];
    for (int i = 0; i < 2; i++) {
      y[i] = high_product(c, i ? UP_WORDS : WORDS, n, x, sums + m * groups, high[i], work, bound[i]);
      total[i] = c->kernels->sum(bound[i], groups);
    }
    // As a comparison that a NaN does not pass.
    float e = (float)a->epsilon;
    bool all = total[0] > e || total[1] > e;
    for (int64_t g = 0; g < groups; g++) refine[g] = (a->per_group ? bound[0][g] > e || bound[1][g] > e : all) ? 1.0f : 0.0f;
    for (int i = 0; i < 2 && e >= 0; i++) y[i] += low_product(c, x, low[i], work, refine);
    c->kernels->silu(&y[0], 1);
    ((float *)c->dst[0])[m * outputs + n] = y[0] * y[1];
  }
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  int64_t outputs = c->in[WORDS]->type.shape[0];
  for (int64_t lane = begin; lane < end; lane++) {
    float *memory = (float *)(void *)((char *)c->scratch + zmi_align64(lane_floats(c) * sizeof(float)) * (size_t)lane);
    const int64_t k = c->in[X]->type.shape[1], groups = k / ((const progressive_attrs *)c->attrs)->group;
    float *sums = memory + 5 * k + 4 * groups + 16;
    for (int64_t m = 0; m < c->in[X]->type.shape[0]; m++) group_sums(c, (const float *)c->src[X] + m * k, memory, sums + m * groups);
    for (int64_t n = zmi_lane_begin(outputs, lane); n < zmi_lane_begin(outputs, lane + 1); n++) output(c, n, memory, sums);
  }
}

// ---- gradient: which groups are refined is constant ----

static zmi_definition parts_def = {
    .name = "progressive_parts",
    .form = ZMI_FORM_ELEMENTS,
    .inputs = "q s b low refined",
    .outputs = "y",
    .source = "let c = int(q); let l = int(low); y = float(c - (c & l)) * s + b + (refined ? float(c & l) * s : 0.0f);",
    .result = {ZM_F32}};

// [M, 1, G] sums of |x| of a group times [N, G] |scales|.
static zm_array *bounds(zm_array *x, zm_array *scales, const progressive_attrs *a) {
  zm_array *sums = zm_sum(zmi_cat_split_last(zm_abs(x), zmi_cat_last(x) / a->group, a->group), -1, false);
  return zm_multiply(zm_multiply(zm_expand_dims(sums, 1), zm_abs(scales)), zmi_cat_scalar(a->bits == 4 ? 3 : 63));
}

static zm_status composed(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const progressive_attrs *a = user;
  (void)nin, (void)nout;
  int64_t m = in[X]->type.shape[0], k = in[X]->type.shape[1], n = in[WORDS]->type.shape[0], groups = k / a->group;
  zm_array *e = zmi_cat_scalar(a->epsilon), *b[2] = {bounds(in[X], in[SCALES], a), bounds(in[X], in[UP_SCALES], a)}, *y[2];
  if (!a->per_group) {
    for (int i = 0; i < 2; i++) b[i] = zm_sum(b[i], -1, true);
  }
  zm_array *refined = zm_add(zm_greater(b[0], e), zm_greater(b[1], e));
  if (a->epsilon < 0) refined = zm_astype(zm_multiply(refined, zm_full(0, ZM_BOOL, NULL, 0)), ZM_BOOL);
  refined = zm_expand_dims(refined, -1); // [M, N, G or 1, 1]
  for (int i = 0; i < 2; i++) {
    int w = i ? UP_WORDS : WORDS;
    zm_array *q = zmi_cat_split_last(zmi_cat_unpack(in[w], (int)a->bits), groups, a->group);
    zm_array *parts[] = {q, zm_expand_dims(in[w + 1], -1), zm_expand_dims(in[w + 2], -1), zm_full(a->bits == 4 ? 3 : 63, ZM_I32, NULL, 0),
                         refined};
    zm_array *matrix = zmi_cat_reshape(zmi_definition_apply1(&parts_def, parts, 5, NULL, 0), 3, m, n, k);
    y[i] = zm_squeeze(zm_matmul(matrix, zm_expand_dims(in[X], -1)), -1);
  }
  out[0] = y[0] && y[1] ? zm_silu_mul(y[0], y[1]) : NULL;
  return zmi_cat_status(out[0]);
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  progressive_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return zmi_cat_vjp_by(composed, &a, n, given, wanted, gradient);
}

static const zmi_rules rules = {.vjp = vjp, .gradient = "x scales biases"};

const zmi_op zmi_op_progressive_qmv = {
    .name = "progressive_qmv",
    .operands = "x words scales biases up_words up_scales up_biases",
    .fields = fields,
    .rounding = "Weights (code scale) + bias in float32, products rounded, added in the lane order; the product of the low bits is added "
                "to that of "
                "the high ones; silu and the product in float32.",
    .infer = infer,
    .scratch = scratch,
    .stages = {{tiles, run}},
    .rules = &rules,
};

zm_array *zm_fused_quantized_swiglu_gemv_progressive(zm_array *x, const zm_affine *gate, const zm_affine *up, double epsilon,
                                                     bool per_group) {
  const char *name = "fused_quantized_swiglu_gemv_progressive";
  if (!zmi_cat_want_float(name, "x", x) || !zmi_cat_want_rank(name, "x", x, 1)) return NULL;
  if (!gate || !up) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: a matrix is NULL", name);
    return NULL;
  }
  progressive_attrs a = {gate->bits ? gate->bits : 4, gate->group ? gate->group : 64, per_group, epsilon};
  zm_array *in[OPERANDS] = {zm_astype(zmi_cat_rows(x), ZM_F32)};
  for (int i = 0; i < 2; i++) {
    const zm_affine *m = i ? up : gate;
    int64_t k;
    if (!zmi_cat_want_float(name, "biases", m->biases) ||
        !zmi_cat_want_affine(name, m->words, m->scales, m->biases, (int)a.bits, a.group, &k))
      return NULL;
    int w = i ? UP_WORDS : WORDS;
    in[w] = m->words;
    in[w + 1] = zm_astype(m->scales, ZM_F32);
    in[w + 2] = zm_astype(m->biases, ZM_F32);
  }
  zm_array *y = zmi_cat_apply1(&zmi_op_progressive_qmv, &a, sizeof a, OPERANDS, in);
  return y ? zmi_cat_like(y, x, 1, 1, zmi_cat_last(y)) : NULL;
}
