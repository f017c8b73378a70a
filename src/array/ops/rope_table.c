// rope_table: cosines and sines of the rotary position embedding, once a step for all layers.
#include "array/kernels.h"
#include "array/ops/ops.h"

enum { POSITIONS, FREQUENCIES, TABLE_TILE = 16 };

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 2, 2);
  if (status == ZM_OK) status = zmi_want_rank("positions", &in[POSITIONS], 1, "int32 [rows]");
  if (status == ZM_OK) status = zmi_want_dtype("positions", &in[POSITIONS], ZM_I32);
  if (status == ZM_OK) status = zmi_want_rank("inv_freq", &in[FREQUENCIES], 1, "float32 [pairs]");
  if (status == ZM_OK) status = zmi_want_dtype("inv_freq", &in[FREQUENCIES], ZM_F32);
  if (status != ZM_OK) return status;
  *nout = 2;
  out[0] = out[1] = zmi_type_of(ZM_F32, 2, (int64_t[]){in[POSITIONS].shape[0], in[FREQUENCIES].shape[0]});
  return ZM_OK;
}

static int64_t tiles(const zmi_call *c) {
  return (zmi_type_count(&c->out[0]->type) + TABLE_TILE - 1) / TABLE_TILE;
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const int32_t *positions = c->src[POSITIONS];
  const float *frequencies = c->src[FREQUENCIES];
  float *cosines = c->dst[0], *sines = c->dst[1];
  int64_t pairs = c->in[FREQUENCIES]->type.shape[0], stop = ZMI_MIN(end * TABLE_TILE, zmi_type_count(&c->out[0]->type));
  for (int64_t i = begin * TABLE_TILE; i < stop; i++) {
    double angle = (double)positions[i / pairs] * (double)frequencies[i % pairs], sine = 0, cosine = 0;
    if (__builtin_fabs(angle) < 0x1p30) {
      zmi_sincos(angle, &sine, &cosine);
    } else {
      sine = cosine = (double)__builtin_nanf("");
    }
    cosines[i] = (float)cosine;
    sines[i] = (float)sine;
  }
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (!wanted[FREQUENCIES]) return ZM_OK;
  zm_array *by_sine = given[0] ? zm_negative(zm_multiply(given[0], zmi_result(n, 1))) : NULL;
  zm_array *by_cosine = given[1] ? zm_multiply(given[1], zmi_result(n, 0)) : NULL;
  zm_array *angle = !given[0] ? by_cosine : !given[1] ? by_sine : zm_add(by_sine, by_cosine);
  zm_array *positions = zm_expand_dims(zm_astype(n->in[POSITIONS], ZM_F32), 1);
  gradient[FREQUENCIES] = zm_sum(zm_multiply(angle, positions), 0, false);
  return ZM_OK;
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 1u << POSITIONS, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "inv_freq"};

const zmi_op zmi_op_rope_table = {
    .name = "rope_table",
    .operands = "positions inv_freq",
    .rounding = "position * inv_freq, cosine and sine in double, each rounded once to float32; an angle of 2^30 or more gives NaN.",
    .infer = infer,
    .device = zmi_rope_table_device,
    .stages = {{tiles, run}},
    .rules = &rules,
};

zm_status zmi_rope_table(zm_array *positions, zm_array *inv_freq, zm_array **cosine, zm_array **sine) {
  zm_array *out[ZMI_MAX_OUT] = {NULL};
  zm_status status = zmi_apply(&zmi_op_rope_table, NULL, 0, 2, (zm_array *[]){positions, inv_freq}, out);
  if (status != ZM_OK) return status;
  *cosine = out[0];
  *sine = out[1];
  return ZM_OK;
}
