// short_conv: a short-convolution layer in one op: in_proj gives three parts, two of which are multiplied and convolved; the third
// multiplies the result, and out_proj follows.
#include "patch/fused.h"

typedef struct conv_attrs {
  zmi_matrix_attrs in, out;
  int64_t first, second, gate; // parts of in_proj's result: first * second is convolved, gate multiplies
} conv_attrs;

static const zmi_field fields[] = {
    ZMI_MATRIX_FIELDS("in_", conv_attrs, in),
    ZMI_MATRIX_FIELDS("out_", conv_attrs, out),
    {"first", ZMI_FIELD_INT, offsetof(conv_attrs, first), NULL},
    {"second", ZMI_FIELD_INT, offsetof(conv_attrs, second), NULL},
    {"gate", ZMI_FIELD_INT, offsetof(conv_attrs, gate), NULL},
    {NULL, ZMI_FIELD_INT, 0, NULL},
};

enum { X, IN, CONV, STATE, POSITION, SEQUENCE, OUT, IN_BIAS, CONV_BIAS, OUT_BIAS, OPERANDS };
enum { PARTS = 3 };

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const conv_attrs *a = attrs;
  zm_status status = zmi_want_operands(nin, in, 7, OPERANDS);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[X], 2, "[rows, hidden]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[X]);
  if (status == ZM_OK) status = zmi_want_part("in", &a->in, nin, in, IN, IN_BIAS, 0, in[X].shape[1], 1);
  if (status == ZM_OK && a->in.n % PARTS != 0)
    status = zmi_fail(ZM_ERROR_ARGUMENT, "in: %lld outputs are not three equal parts", (long long)a->in.n);
  if (status == ZM_OK && (a->first < 0 || a->first >= PARTS || a->second < 0 || a->second >= PARTS || a->gate < 0 || a->gate >= PARTS)) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "first, second and gate must be 0, 1 or 2");
  }
  if (status != ZM_OK) return status;
  zmi_type channels = zmi_type_of(in[X].dtype, 2, (int64_t[]){in[X].shape[0], a->in.n / PARTS});
  status = zmi_want_conv(&channels, &in[CONV], zmi_absent(in, nin, CONV_BIAS) ? NULL : &in[CONV_BIAS], &in[STATE]);
  if (status == ZM_OK) status = zmi_want_index("position", &in[POSITION], in[X].shape[0]);
  if (status == ZM_OK) status = zmi_want_index("sequence", &in[SEQUENCE], in[X].shape[0]);
  if (status == ZM_OK) status = zmi_want_part("out", &a->out, nin, in, OUT, OUT_BIAS, 0, channels.shape[1], 1);
  if (status != ZM_OK) return status;
  *nout = 2;
  out[0] = zmi_type_of(in[X].dtype, 2, (int64_t[]){in[X].shape[0], a->out.n});
  out[1] = in[STATE];
  return ZM_OK;
}

typedef struct conv {
  const conv_attrs *a;
  const zmi_kernels *kn;
  zm_dtype dtype;
  int64_t rows, channels;
  zmi_forms x;
  zmi_ready h; // form of the rows that out_proj takes
  char *memory;
  size_t parts, product, y, made, total;
} conv;

static conv conv_of(const zmi_call *c) {
  const conv_attrs *a = c->attrs;
  const zmi_type *x = &c->in[X]->type;
  conv v = {.a = a, .kn = c->kernels, .dtype = x->dtype, .rows = x->shape[0], .channels = a->in.n / PARTS, .memory = c->scratch};
  size_t row = (size_t)v.channels * zm_dtype_size(v.dtype), rows = (size_t)v.rows;
  v.x = zmi_forms_of(v.dtype, v.rows, 1, (const zmi_matrix_attrs *[]){&a->in});
  v.h = zmi_ready_of(&a->out.format, v.dtype, a->out.k);
  v.total = zmi_align64(v.x.bytes);
  v.parts = zmi_take_bytes(&v.total, rows * row * PARTS);
  v.product = zmi_take_bytes(&v.total, rows * row);
  v.y = zmi_take_bytes(&v.total, rows * row);
  v.made = zmi_take_bytes(&v.total, v.h.direct ? 0 : rows * v.h.bytes);
  return v;
}

static size_t scratch(const zmi_call *c) {
  return conv_of(c).total;
}

// 1: rows of x made ready. 2: in_proj.
static int64_t x_tiles(const zmi_call *c) {
  conv v = conv_of(c);
  return zmi_forms_tiles(&v.x);
}

static void x_run(const zmi_call *c, int64_t begin, int64_t end) {
  conv v = conv_of(c);
  zmi_forms_run(&v.x, v.kn, c->src[X], v.memory, begin, end);
}

static int64_t in_tiles(const zmi_call *c) {
  conv v = conv_of(c);
  zmi_rows rows = zmi_forms_rows(&v.x, 0, c->src[X], v.memory);
  zmi_weights w = zmi_weights_of(c, &v.a->in, IN, IN_BIAS);
  return zmi_dense_tiles(&w, &rows);
}

static void in_run(const zmi_call *c, int64_t begin, int64_t end) {
  conv v = conv_of(c);
  zmi_rows rows = zmi_forms_rows(&v.x, 0, c->src[X], v.memory);
  zmi_weights w = zmi_weights_of(c, &v.a->in, IN, IN_BIAS);
  zmi_dense_run(v.kn, &w, &rows, v.memory + v.parts, (size_t)w.n * zm_dtype_size(v.dtype), v.dtype, begin, end);
}

// 3: channels of all rows: product, convolution, gate.
static int64_t channel_tiles(const zmi_call *c) {
  conv v = conv_of(c);
  return v.rows ? (v.channels + ZMI_CONV_CHANNELS - 1) / ZMI_CONV_CHANNELS : 0;
}

static const void *part_at(const conv *v, int64_t row, int64_t part, int64_t channel) {
  return zmi_at(v->memory + v->parts, v->dtype, (row * PARTS + part) * v->channels + channel);
}

// to = a * b, rounded; n channels
static void multiply(const conv *v, const void *a, const void *b, int64_t n, void *to) {
  _Alignas(64) float x[ZMI_CONV_CHANNELS], y[ZMI_CONV_CHANNELS];
  v->kn->load(a, v->dtype, n, x);
  v->kn->load(b, v->dtype, n, y);
  for (int64_t i = 0; i < n; i++) x[i] *= y[i];
  v->kn->store(x, n, to, v->dtype);
}

static void channel_run(const zmi_call *c, int64_t begin, int64_t end) {
  conv v = conv_of(c);
  zmi_conv k = {
      .kernels = v.kn,
      .dtype = v.dtype,
      .weight_dtype = c->in[CONV]->type.dtype,
      .rows = v.rows,
      .channels = v.channels,
      .taps = c->in[CONV]->type.shape[1],
      .sequences = c->in[STATE]->type.shape[0],
      .x = v.memory + v.product,
      .weight = c->src[CONV],
      .state = c->dst[1],
      .position = c->src[POSITION],
      .sequence = c->src[SEQUENCE],
      .y = v.memory + v.y,
  };
  if (c->nin > CONV_BIAS && c->in[CONV_BIAS]) {
    k.bias = c->src[CONV_BIAS];
    k.bias_dtype = c->in[CONV_BIAS]->type.dtype;
  }
  for (int64_t t = begin; t < end; t++) {
    int64_t first = t * ZMI_CONV_CHANNELS, n = ZMI_MIN(v.channels - first, ZMI_CONV_CHANNELS);
    for (int64_t r = 0; r < v.rows; r++) {
      multiply(&v, part_at(&v, r, v.a->first, first), part_at(&v, r, v.a->second, first), n,
               zmi_at(v.memory + v.product, v.dtype, r * v.channels + first));
    }
    zmi_conv_channels(&k, first, n);
    for (int64_t r = 0; r < v.rows; r++) {
      void *y = zmi_at(v.memory + v.y, v.dtype, r * v.channels + first);
      multiply(&v, part_at(&v, r, v.a->gate, first), y, n, y);
    }
  }
}

// 4: rows made ready for out_proj. 5: out_proj.
static int64_t made_tiles(const zmi_call *c) {
  conv v = conv_of(c);
  return v.h.direct ? 0 : v.rows * zmi_ready_pieces(&v.h);
}

static void made_run(const zmi_call *c, int64_t begin, int64_t end) {
  conv v = conv_of(c);
  zmi_ready_tiles(v.kn, &v.h, v.memory + v.y, v.dtype, v.memory + v.made, begin, end);
}

static zmi_rows out_rows(const conv *v) {
  zmi_rows rows = {.form = &v->h, .count = v->rows};
  rows.ready = v->memory + (v->h.direct ? v->y : v->made);
  rows.stride = v->h.direct ? (size_t)v->channels * zm_dtype_size(v->dtype) : v->h.bytes;
  return rows;
}

static int64_t out_tiles(const zmi_call *c) {
  conv v = conv_of(c);
  zmi_rows rows = out_rows(&v);
  zmi_weights w = zmi_weights_of(c, &v.a->out, OUT, OUT_BIAS);
  return zmi_dense_tiles(&w, &rows);
}

static void out_run(const zmi_call *c, int64_t begin, int64_t end) {
  conv v = conv_of(c);
  zmi_rows rows = out_rows(&v);
  zmi_weights w = zmi_weights_of(c, &v.a->out, OUT, OUT_BIAS);
  zmi_dense_run(v.kn, &w, &rows, c->dst[0], (size_t)w.n * zm_dtype_size(v.dtype), v.dtype, begin, end);
}

static zm_status device(const zmi_call *c, zmi_device_code *code) {
  const conv_attrs *a = c->attrs;
  const zmi_type *x = &c->in[X]->type;
  const int64_t rows = x->shape[0], channels = a->in.n / PARTS;
  const size_t bytes = (size_t)(rows * channels) * zm_dtype_size(x->dtype);
  const zmi_gpu_matrix first = zmi_device_matrix(c, &a->in, IN, IN_BIAS), last = zmi_device_matrix(c, &a->out, OUT, OUT_BIAS);
  const zmi_gpu_address parts = zmi_device_scratch(code, PARTS * bytes), y = zmi_device_scratch(code, bytes);
  const bool bias = c->nin > CONV_BIAS && c->in[CONV_BIAS];
  zmi_device_rows in = zmi_device_rows_of(zmi_gpu_at(c->src[X]), rows, a->in.k, x->dtype);
  zm_status status = zmi_device_ready(code, &first, &in, 0);
  if (status == ZM_OK) status = zmi_device_dot(code, &first, &in, 0, 1, parts, x->dtype, 0);
  if (status == ZM_OK) {
    status = zmi_device_conv(code,
                             &(zmi_gpu_conv){.x = parts,
                                             .weight = zmi_gpu_at(c->src[CONV]),
                                             .bias = bias ? zmi_gpu_at(c->src[CONV_BIAS]) : 0,
                                             .state = zmi_gpu_at(c->dst[1]),
                                             .position = zmi_gpu_at(c->src[POSITION]),
                                             .sequence = zmi_gpu_at(c->src[SEQUENCE]),
                                             .y = y,
                                             .x_stride = a->in.n,
                                             .rows = (int)rows,
                                             .channels = (int)channels,
                                             .taps = (int)c->in[CONV]->type.shape[1],
                                             .sequences = (int)c->in[STATE]->type.shape[0],
                                             .parts = PARTS,
                                             .first = (int)a->first,
                                             .second = (int)a->second,
                                             .gate = (int)a->gate,
                                             .dtype = zmi_gpu_dtype_of(x->dtype),
                                             .weight_dtype = zmi_gpu_dtype_of(c->in[CONV]->type.dtype),
                                             .bias_dtype = bias ? zmi_gpu_dtype_of(c->in[CONV_BIAS]->type.dtype) : ZMI_GPU_F32},
                             0);
  }
  zmi_device_rows made = zmi_device_rows_of(y, rows, channels, x->dtype);
  if (status == ZM_OK) status = zmi_device_ready(code, &last, &made, 0);
  return status == ZM_OK ? zmi_device_dot(code, &last, &made, 0, 1, zmi_gpu_at(c->dst[0]), x->dtype, 0) : status;
}

const zmi_op zmi_op_fused_short_conv = {
    .name = "fused_short_conv",
    .operands = "x in conv state position sequence out in_bias? conv_bias? out_bias?",
    .fields = fields,
    .rounding = "As linear, multiply, short_conv, multiply and linear, each at its place.",
    .flags = ZMI_OP_HIDDEN,
    .updates = {0, STATE + 1},
    .infer = infer,
    .scratch = scratch,
    .device = device,
    .stages = {{x_tiles, x_run}, {in_tiles, in_run}, {channel_tiles, channel_run}, {made_tiles, made_run}, {out_tiles, out_run}},
};

// ---- the pattern ----

// Which third of [R, 3D] a slice is; -1: none, or not of `whole`.
static int64_t third_of(const zm_array *a, const zm_array *whole) {
  zmi_node *slice = zmi_maker(a, "slice");
  if (!slice || slice->in[0] != whole || a->type.rank != 2 || a->type.shape[1] * PARTS != whole->type.shape[1]) return -1;
  if (a->type.shape[0] != whole->type.shape[0] || zmi_int_field(slice, "start0") != 0) return -1;
  int64_t start = zmi_int_field(slice, "start1"), d = a->type.shape[1];
  if (zmi_int_field(slice, "step0") != 1 || zmi_int_field(slice, "step1") != 1 || start < 0 || start % d != 0) return -1;
  return start / d;
}

typedef struct parts {
  zmi_node *linear, *product, *conv, *gate, *out;
  zm_array *slice[PARTS]; // first, second, gate
} parts;

static const char *find(const zmi_graph *g, zmi_node *node, parts *p, conv_attrs *a) {
  *p = (parts){.conv = node};
  if (!(p->product = zmi_maker(node->in[0], "multiply"))) return "what is convolved is not a product";
  p->slice[0] = p->product->in[0];
  p->slice[1] = p->product->in[1];
  const zmi_node *slice = zmi_maker(p->slice[0], "slice");
  if (!slice || !(p->linear = zmi_maker(slice->in[0], "linear"))) return "what is convolved is not cut from a projection by a linear";
  zm_array *whole = p->linear->out[0];
  if (!(p->gate = zmi_only_reader(g, node->out[0])) || !zmi_made_by(p->gate->out[0], "multiply"))
    return "the convolution's result is not just multiplied";
  p->slice[2] = p->gate->in[0] == node->out[0] ? p->gate->in[1] : p->gate->in[0];
  a->first = third_of(p->slice[0], whole);
  a->second = third_of(p->slice[1], whole);
  a->gate = third_of(p->slice[2], whole);
  if (a->first < 0 || a->second < 0 || a->gate < 0) return "products are not of the three parts of one projection";
  if (!(p->out = zmi_only_reader(g, p->gate->out[0])) || !zmi_made_by(p->out->out[0], "linear") || p->out->in[0] != p->gate->out[0]) {
    return "the result is not read by one linear alone";
  }
  return NULL;
}

static bool closed(const zmi_graph *g, const parts *p) {
  zmi_node *slices[PARTS], *products[] = {p->product, p->gate};
  for (int i = 0; i < PARTS; i++) {
    slices[i] = p->slice[i]->node;
    if (!zmi_read_by(g, p->slice[i], products, 2)) return false;
  }
  return zmi_read_by(g, p->linear->out[0], slices, PARTS) && zmi_read_once(g, p->product->out[0], p->conv);
}

static zm_status attempt(zmi_graph *g, zmi_node *node, zmi_outcome *o) {
  parts p;
  conv_attrs a = {0};
  const char *why = find(g, node, &p, &a);
  if (!why && !closed(g, &p)) why = "an intermediate result is used elsewhere";
  if (why) return zmi_left_alone(o, "%s", why);
  a.in = *zmi_matrix_of(p.linear);
  a.out = *zmi_matrix_of(p.out);
  zm_array *out[ZMI_MAX_OUT] = {NULL};
  zm_array *in[OPERANDS] = {
      [X] = p.linear->in[0],
      [IN] = p.linear->in[1],
      [CONV] = node->in[1],
      [STATE] = node->in[2],
      [POSITION] = node->in[3],
      [SEQUENCE] = node->in[4],
      [OUT] = p.out->in[1],
      [IN_BIAS] = zmi_operand(p.linear, 2),
      [CONV_BIAS] = zmi_operand(node, 5),
      [OUT_BIAS] = zmi_operand(p.out, 2),
  };
  zm_status status = zmi_apply(&zmi_op_fused_short_conv, &a, sizeof a, OPERANDS, in, out);
  if (status == ZM_OK) status = zmi_graph_replace(g, p.out->out[0], out[0]);
  if (status == ZM_OK && node->out[1]) status = zmi_graph_replace(g, node->out[1], out[1]);
  return status == ZM_OK ? zmi_fused(o, "projections, products and convolution: 5 ops in one") : status;
}

static zm_status rewrite(zmi_graph *graph, zm_patch_report *report) {
  return zmi_each_place(graph, report, "short_conv", "short_conv", attempt);
}

const zmi_pattern zmi_pattern_short_conv = {
    .name = "short_conv",
    .summary = "a short convolution with its two projections and its products in one op",
    .rewrite = rewrite,
};
