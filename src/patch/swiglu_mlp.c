// swiglu_mlp: down(silu(gate(x)) * up(x)) in one op. Gate and up results never reach memory.
#include "patch/fused.h"

typedef struct mlp_attrs {
  zmi_matrix_attrs gate, up, down;
} mlp_attrs;

static const zmi_field fields[] = {
    ZMI_MATRIX_FIELDS("gate_", mlp_attrs, gate),
    ZMI_MATRIX_FIELDS("up_", mlp_attrs, up),
    ZMI_MATRIX_FIELDS("down_", mlp_attrs, down),
    {NULL, ZMI_FIELD_INT, 0, NULL},
};

enum { X, GATE, UP, DOWN, GATE_BIAS, UP_BIAS, DOWN_BIAS, OPERANDS };

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const mlp_attrs *a = attrs;
  zm_status status = zmi_want_operands(nin, in, 4, OPERANDS);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[X], 2, "[rows, hidden]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[X]);
  if (status == ZM_OK) status = zmi_want_part("gate", &a->gate, nin, in, GATE, GATE_BIAS, 0, in[X].shape[1], 1);
  if (status == ZM_OK) status = zmi_want_part("up", &a->up, nin, in, UP, UP_BIAS, a->gate.n, in[X].shape[1], 1);
  if (status == ZM_OK) status = zmi_want_part("down", &a->down, nin, in, DOWN, DOWN_BIAS, 0, a->gate.n, 1);
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = zmi_type_of(in[X].dtype, 2, (int64_t[]){in[X].shape[0], a->down.n});
  return ZM_OK;
}

typedef struct mlp {
  const mlp_attrs *a;
  const zmi_kernels *kn;
  zm_dtype dtype;
  int64_t rows, width;
  zmi_forms x;
  zmi_ready h; // form of the activations that `down` takes
  char *memory;
  size_t act, made, total;
} mlp;

static mlp mlp_of(const zmi_call *c) {
  const mlp_attrs *a = c->attrs;
  const zmi_type *x = &c->in[X]->type;
  mlp m = {.a = a, .kn = c->kernels, .dtype = x->dtype, .rows = x->shape[0], .width = a->gate.n, .memory = c->scratch};
  m.x = zmi_forms_of(m.dtype, m.rows, 2, (const zmi_matrix_attrs *[]){&a->gate, &a->up});
  m.h = zmi_ready_of(&a->down.format, m.dtype, a->down.k);
  m.total = zmi_align64(m.x.bytes);
  m.act = zmi_take_bytes(&m.total, (size_t)(m.rows * m.width) * zm_dtype_size(m.dtype));
  m.made = zmi_take_bytes(&m.total, m.h.direct ? 0 : (size_t)m.rows * m.h.bytes);
  return m;
}

static size_t scratch(const zmi_call *c) {
  return mlp_of(c).total;
}

static int64_t x_tiles(const zmi_call *c) {
  mlp m = mlp_of(c);
  return zmi_forms_tiles(&m.x);
}

static void x_run(const zmi_call *c, int64_t begin, int64_t end) {
  mlp m = mlp_of(c);
  zmi_forms_run(&m.x, m.kn, c->src[X], m.memory, begin, end);
}

static int64_t gate_tiles(const zmi_call *c) {
  mlp m = mlp_of(c);
  zmi_rows rows = zmi_forms_rows(&m.x, 0, c->src[X], m.memory);
  zmi_weights gate = zmi_weights_of(c, &m.a->gate, GATE, GATE_BIAS);
  return zmi_dense_tiles(&gate, &rows);
}

static void gate_run(const zmi_call *c, int64_t begin, int64_t end) {
  mlp m = mlp_of(c);
  zmi_rows gx = zmi_forms_rows(&m.x, 0, c->src[X], m.memory), ux = zmi_forms_rows(&m.x, 1, c->src[X], m.memory);
  zmi_weights gate = zmi_weights_of(c, &m.a->gate, GATE, GATE_BIAS), up = zmi_weights_of(c, &m.a->up, UP, UP_BIAS);
  zmi_dense_walk at = zmi_dense_walk_of(&gate, &gx, 2, begin, end);
  while (zmi_dense_walk_next(&at)) {
    for (int64_t row = at.row; row < at.last; row += ZMI_ROWS) {
      const void *g[ZMI_ROWS], *u[ZMI_ROWS];
      void *out[ZMI_ROWS];
      int count = (int)ZMI_MIN(at.last - row, ZMI_ROWS);
      for (int k = 0; k < count; k++) {
        g[k] = (const char *)gx.ready + (size_t)(row + k) * gx.stride;
        u[k] = (const char *)ux.ready + (size_t)(row + k) * ux.stride;
        out[k] = zmi_at(m.memory + m.act, m.dtype, (row + k) * m.width);
      }
      zmi_gated_blocks(m.kn, &gate, &up, 0, at.first, at.blocks, gx.form, ux.form, count, g, u, out, m.dtype);
    }
  }
}

static int64_t act_tiles(const zmi_call *c) {
  mlp m = mlp_of(c);
  return m.h.direct ? 0 : m.rows * zmi_ready_pieces(&m.h);
}

static void act_run(const zmi_call *c, int64_t begin, int64_t end) {
  mlp m = mlp_of(c);
  zmi_ready_tiles(m.kn, &m.h, m.memory + m.act, m.dtype, m.memory + m.made, begin, end);
}

static zmi_rows act_rows(const mlp *m) {
  zmi_rows rows = {.form = &m->h, .count = m->rows};
  rows.ready = m->memory + (m->h.direct ? m->act : m->made);
  rows.stride = m->h.direct ? (size_t)m->width * zm_dtype_size(m->dtype) : m->h.bytes;
  return rows;
}

static int64_t down_tiles(const zmi_call *c) {
  mlp m = mlp_of(c);
  zmi_rows rows = act_rows(&m);
  zmi_weights down = zmi_weights_of(c, &m.a->down, DOWN, DOWN_BIAS);
  return zmi_dense_tiles(&down, &rows);
}

static void down_run(const zmi_call *c, int64_t begin, int64_t end) {
  mlp m = mlp_of(c);
  zmi_rows rows = act_rows(&m);
  zmi_weights down = zmi_weights_of(c, &m.a->down, DOWN, DOWN_BIAS);
  zmi_dense_run(m.kn, &down, &rows, c->dst[0], (size_t)down.n * zm_dtype_size(m.dtype), m.dtype, begin, end);
}

static zm_status device(const zmi_call *c, zmi_device_code *code) {
  const mlp_attrs *a = c->attrs;
  const zmi_type *x = &c->in[X]->type;
  const int64_t rows = x->shape[0], width = a->gate.n;
  const size_t bytes = (size_t)(rows * width) * zm_dtype_size(x->dtype);
  const zmi_gpu_matrix gate = zmi_device_matrix(c, &a->gate, GATE, GATE_BIAS), up = zmi_device_matrix(c, &a->up, UP, UP_BIAS),
                       down = zmi_device_matrix(c, &a->down, DOWN, DOWN_BIAS);
  const zmi_gpu_address gated = zmi_device_scratch(code, bytes), raised = zmi_device_scratch(code, bytes);
  zmi_device_rows in[2];
  zm_status status = zmi_device_forms(code, zmi_device_rows_of(zmi_gpu_at(c->src[X]), rows, a->gate.k, x->dtype), 2,
                                      (const zmi_gpu_matrix *[]){&gate, &up}, in);
  if (status == ZM_OK) status = zmi_device_dot(code, &gate, &in[0], 0, 1, gated, x->dtype, 0);
  if (status == ZM_OK) status = zmi_device_dot(code, &up, &in[1], 0, 1, raised, x->dtype, ZMI_GPU_TOGETHER);
  if (status == ZM_OK) status = zmi_device_gated(code, gated, raised, rows, width, x->dtype);
  zmi_device_rows act = zmi_device_rows_of(gated, rows, width, x->dtype);
  if (status == ZM_OK) status = zmi_device_ready(code, &down, &act, 0);
  return status == ZM_OK ? zmi_device_dot(code, &down, &act, 0, 1, zmi_gpu_at(c->dst[0]), x->dtype, 0) : status;
}

const zmi_op zmi_op_fused_swiglu_mlp = {
    .name = "fused_swiglu_mlp",
    .operands = "x gate up down gate_bias? up_bias? down_bias?",
    .fields = fields,
    .rounding = "As linear, silu, multiply and linear, each at its place.",
    .flags = ZMI_OP_HIDDEN,
    .infer = infer,
    .scratch = scratch,
    .device = device,
    .stages = {{x_tiles, x_run}, {gate_tiles, gate_run}, {act_tiles, act_run}, {down_tiles, down_run}},
};

// ---- the pattern ----

static zm_status attempt(zmi_graph *g, zmi_node *multiply, zmi_outcome *o) {
  zmi_node *silu = NULL, *gate = NULL, *up = NULL;
  for (int i = 0; i < 2 && !gate; i++) {
    silu = zmi_maker(multiply->in[i], "silu");
    if (!silu) continue;
    if (zmi_made_by(silu->in[0], "gather_linear")) return ZM_OK; // experts: moe_mlp's
    gate = zmi_maker(silu->in[0], "linear");
    up = zmi_maker(multiply->in[1 - i], "linear");
    if (!gate) return zmi_left_alone(o, "what silu takes is not made by a linear");
  }
  if (!gate) return ZM_OK; // some other product
  if (!up) return zmi_left_alone(o, "what silu's result is multiplied with is not made by a linear");
  if (gate->in[0] != up->in[0]) return zmi_left_alone(o, "gate and up do not read the same array");
  zmi_node *down = zmi_only_reader(g, multiply->out[0]);
  if (!down || down->in[0] != multiply->out[0] || !zmi_made_by(down->out[0], "linear")) {
    return zmi_left_alone(o, "the product is not read by one linear alone");
  }
  if (!zmi_read_once(g, gate->out[0], silu) || !zmi_read_once(g, silu->out[0], multiply) || !zmi_read_once(g, up->out[0], multiply)) {
    return zmi_left_alone(o, "an intermediate result is used elsewhere");
  }
  mlp_attrs a = {.gate = *zmi_matrix_of(gate), .up = *zmi_matrix_of(up), .down = *zmi_matrix_of(down)};
  zm_array *in[OPERANDS] = {
      [X] = gate->in[0],
      [GATE] = gate->in[1],
      [UP] = up->in[1],
      [DOWN] = down->in[1],
      [GATE_BIAS] = zmi_operand(gate, 2),
      [UP_BIAS] = zmi_operand(up, 2),
      [DOWN_BIAS] = zmi_operand(down, 2),
  };
  zm_array *y = zmi_apply1(&zmi_op_fused_swiglu_mlp, &a, sizeof a, OPERANDS, in);
  if (!y) return zm_last_status();
  zm_status status = zmi_graph_replace(g, down->out[0], y);
  return status == ZM_OK ? zmi_fused(o, "gate, up, SwiGLU and down: 5 ops in one") : status;
}

static zm_status rewrite(zmi_graph *graph, zm_patch_report *report) {
  return zmi_each_place(graph, report, "swiglu_mlp", "multiply", attempt);
}

const zmi_pattern zmi_pattern_swiglu_mlp = {
    .name = "swiglu_mlp",
    .summary = "gate, up, SwiGLU and down of a dense MLP in one op",
    .rewrite = rewrite,
};
