// attention_decode: new keys and values go to the caches and attention follows, in one op.
#include "patch/fused.h"

static const zmi_field fields[] = {{"scale", ZMI_FIELD_FLOAT, offsetof(zmi_attention_attrs, scale), NULL}, {NULL, ZMI_FIELD_INT, 0, NULL}};

enum { Q, K, V, KEYS, VALUES, POSITION, SEQUENCE, OPERANDS };

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, OPERANDS, OPERANDS);
  if (status == ZM_OK) status = zmi_want_attention(&in[Q], &in[KEYS], &in[VALUES]);
  for (int i = K; i <= V && status == ZM_OK; i++) {
    const char *name = i == K ? "k" : "v";
    status = zmi_want_rank(name, &in[i], 3, "[rows, heads, dim]");
    if (status == ZM_OK) status = zmi_want_dtype(name, &in[i], in[Q].dtype);
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 0, in[Q].shape[0], "rows of q");
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 1, in[VALUES].shape[1], "heads of the caches");
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 2, in[Q].shape[2], "elements of a head");
  }
  if (status == ZM_OK) status = zmi_want_index("position", &in[POSITION], in[Q].shape[0]);
  if (status == ZM_OK) status = zmi_want_index("sequence", &in[SEQUENCE], in[Q].shape[0]);
  if (status != ZM_OK) return status;
  *nout = 3;
  out[0] = in[Q];
  out[1] = in[KEYS];
  out[2] = in[VALUES];
  return ZM_OK;
}

static zmi_heads heads_of(const zmi_call *c) {
  const zmi_attention_attrs *a = c->attrs;
  const zmi_type *q = &c->in[Q]->type, *values = &c->in[VALUES]->type;
  return (zmi_heads){
      .kernels = c->kernels,
      .dtype = q->dtype,
      .rows = q->shape[0],
      .heads = q->shape[1],
      .dim = q->shape[2],
      .kv_heads = values->shape[1],
      .context = values->shape[2],
      .sequences = values->shape[0],
      .position = c->src[POSITION],
      .sequence = c->src[SEQUENCE],
      .q = c->src[Q],
      .keys = c->dst[1],
      .values = c->dst[2],
      .new_keys = c->src[K],
      .new_values = c->src[V],
      .out = c->dst[0],
      .scale = (float)a->scale,
  };
}

static size_t scratch(const zmi_call *c) {
  zmi_heads h = heads_of(c);
  return zmi_attention_scratch(&h);
}

// 1: keys, then values, of each head.
static int64_t write_tiles(const zmi_call *c) {
  return c->in[Q]->type.shape[0] ? 2 * c->in[VALUES]->type.shape[1] : 0;
}

static void write_run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_heads h = heads_of(c);
  for (int64_t t = begin; t < end; t++) {
    if (t % 2 == 0) {
      zmi_keys_run(&h, t / 2, t / 2 + 1);
    } else {
      zmi_values_run(&h, t / 2, t / 2 + 1);
    }
  }
}

static int64_t tiles(const zmi_call *c) {
  zmi_heads h = heads_of(c);
  return zmi_attention_tiles(&h);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_heads h = heads_of(c);
  zmi_attention_run(&h, c->scratch, begin, end);
}

static int64_t finish_tiles(const zmi_call *c) {
  zmi_heads h = heads_of(c);
  return zmi_attention_finish_tiles(&h);
}

static void finish_run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_heads h = heads_of(c);
  zmi_attention_finish(&h, c->scratch, begin, end);
}

static zm_status device(const zmi_call *c, zmi_device_code *code) {
  zmi_gpu_attention at = zmi_device_heads(&c->in[Q]->type, &c->in[VALUES]->type, c->attrs);
  at.q = zmi_gpu_at(c->src[Q]);
  at.keys = zmi_gpu_at(c->dst[1]);
  at.values = zmi_gpu_at(c->dst[2]);
  at.position = zmi_gpu_at(c->src[POSITION]);
  at.sequence = zmi_gpu_at(c->src[SEQUENCE]);
  at.out = zmi_gpu_at(c->dst[0]);
  zm_status status = ZM_OK;
  for (int keys = 1; keys >= 0 && status == ZM_OK; keys--) {
    status = zmi_device_write(code,
                              &(zmi_gpu_write){.from = zmi_gpu_at(c->src[keys ? K : V]),
                                               .cache = keys ? at.keys : at.values,
                                               .position = at.position,
                                               .sequence = at.sequence,
                                               .rows = at.rows,
                                               .kv_heads = at.kv_heads,
                                               .dim = at.dim,
                                               .context = at.context,
                                               .sequences = at.sequences,
                                               .dtype = at.dtype,
                                               .keys = keys},
                              keys ? 0 : ZMI_GPU_TOGETHER);
  }
  return status == ZM_OK ? zmi_device_attention(code, &at) : status;
}

const zmi_op zmi_op_fused_attention = {
    .name = "fused_attention",
    .operands = "q k v keys values position sequence",
    .fields = fields,
    .rounding = "As write_keys, write_values and attention, each at its place.",
    .flags = ZMI_OP_HIDDEN,
    .updates = {0, KEYS + 1, VALUES + 1},
    .infer = infer,
    .scratch = scratch,
    .device = device,
    .stages = {{write_tiles, write_run}, {tiles, run}, {finish_tiles, finish_run}},
};

// ---- the pattern ----

static zm_status attempt(zmi_graph *g, zmi_node *attention, zmi_outcome *o) {
  zmi_node *keys = zmi_maker(attention->in[1], "write_keys"), *values = zmi_maker(attention->in[2], "write_values");
  if (!keys || !values) return zmi_left_alone(o, "the caches are not written in this step");
  if (keys->in[2] != attention->in[3] || values->in[2] != attention->in[3] || keys->in[3] != attention->in[4] ||
      values->in[3] != attention->in[4]) {
    return zmi_left_alone(o, "the caches are written at other positions than attention reads");
  }
  if (!zmi_read_once(g, attention->in[1], attention) || !zmi_read_once(g, attention->in[2], attention)) {
    return zmi_left_alone(o, "the written caches are used elsewhere");
  }
  zmi_attention_attrs a = *(const zmi_attention_attrs *)(const void *)attention->attrs.bytes;
  zm_array *out[ZMI_MAX_OUT] = {NULL};
  zm_array *in[OPERANDS] = {attention->in[0], keys->in[1], values->in[1], keys->in[0], values->in[0], attention->in[3], attention->in[4]};
  zm_status status = zmi_apply(&zmi_op_fused_attention, &a, sizeof a, OPERANDS, in, out);
  if (status == ZM_OK) status = zmi_graph_replace(g, attention->out[0], out[0]);
  return status == ZM_OK ? zmi_fused(o, "writing of keys and values and attention: 3 ops in one") : status;
}

static zm_status rewrite(zmi_graph *graph, zm_patch_report *report) {
  return zmi_each_place(graph, report, "attention_decode", "attention", attempt);
}

const zmi_pattern zmi_pattern_attention_decode = {
    .name = "attention_decode",
    .summary = "writing of new keys and values to the caches and attention over them in one op",
    .rewrite = rewrite,
};
