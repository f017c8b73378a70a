// moe_mlp: a whole mixture-of-experts layer in one op: router, choice, the chosen experts' gate and up, SwiGLU, down, weighted sum. Gate
// and up results never reach memory; for one row, neither do the experts' results.
#include "patch/fused.h"

#include <string.h>

typedef struct moe_attrs {
  zmi_matrix_attrs router, gate, up, down;
  zmi_route_attrs route;
} moe_attrs;

static const char *const kinds[] = {"softmax", "sigmoid", NULL};

static const zmi_field fields[] = {
    ZMI_MATRIX_FIELDS("router_", moe_attrs, router),
    ZMI_MATRIX_FIELDS("gate_", moe_attrs, gate),
    ZMI_MATRIX_FIELDS("up_", moe_attrs, up),
    ZMI_MATRIX_FIELDS("down_", moe_attrs, down),
    {"kind", ZMI_FIELD_WORD, offsetof(moe_attrs, route.kind), kinds},
    {"top_k", ZMI_FIELD_INT, offsetof(moe_attrs, route.top_k), NULL},
    {"norm", ZMI_FIELD_INT, offsetof(moe_attrs, route.norm), NULL},
    {"eps", ZMI_FIELD_FLOAT, offsetof(moe_attrs, route.eps), NULL},
    {"scale", ZMI_FIELD_FLOAT, offsetof(moe_attrs, route.scale), NULL},
    {NULL, ZMI_FIELD_INT, 0, NULL},
};

enum { X, ROUTER, GATE, UP, DOWN, ROUTER_BIAS, CHOICE_BIAS, GATE_BIAS, UP_BIAS, DOWN_BIAS, OPERANDS };

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const moe_attrs *a = attrs;
  int64_t experts = a->router.n, width = a->gate.n;
  zm_status status = zmi_want_operands(nin, in, 5, OPERANDS);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[X], 2, "[rows, hidden]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[X]);
  if (status != ZM_OK) return status;
  int64_t hidden = in[X].shape[1];
  status = zmi_want_part("router", &a->router, nin, in, ROUTER, ROUTER_BIAS, 0, hidden, 1);
  if (status == ZM_OK) status = zmi_want_part("gate", &a->gate, nin, in, GATE, GATE_BIAS, 0, hidden, experts);
  if (status == ZM_OK) status = zmi_want_part("up", &a->up, nin, in, UP, UP_BIAS, width, hidden, experts);
  if (status == ZM_OK) status = zmi_want_part("down", &a->down, nin, in, DOWN, DOWN_BIAS, 0, width, experts);
  if (status == ZM_OK) status = zmi_want_route(&a->route, experts);
  if (status == ZM_OK && !zmi_absent(in, nin, CHOICE_BIAS)) {
    status = zmi_want_rank("choice bias", &in[CHOICE_BIAS], 1, "float32 [experts]");
    if (status == ZM_OK) status = zmi_want_dtype("choice bias", &in[CHOICE_BIAS], ZM_F32);
    if (status == ZM_OK) status = zmi_want_dim("choice bias", &in[CHOICE_BIAS], 0, experts, "experts");
  }
  if (status == ZM_OK && in[X].shape[0] > INT32_MAX / a->route.top_k) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "x: %lld rows are too many", (long long)in[X].shape[0]);
  }
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = zmi_type_of(in[X].dtype, 2, (int64_t[]){in[X].shape[0], a->down.n});
  return ZM_OK;
}

// The call in other words, and where things lie in scratch.
typedef struct moe {
  const moe_attrs *a;
  const zmi_kernels *kn;
  zm_dtype dtype;
  int64_t rows, slots, pairs, experts, width, hidden;
  zmi_forms x; // for router, gate, up
  zmi_ready h; // form of the activations that `down` takes
  zmi_route_rule route;
  char *memory; // scratch
  size_t logits, chosen, weights, work, plan, act, made, y, total;
} moe;

static moe moe_of(const zmi_call *c) {
  const moe_attrs *a = c->attrs;
  const zmi_type *x = &c->in[X]->type;
  moe m = {.a = a,
           .kn = c->kernels,
           .dtype = x->dtype,
           .rows = x->shape[0],
           .slots = a->route.top_k,
           .experts = a->router.n,
           .width = a->gate.n};
  size_t size = zm_dtype_size(m.dtype);
  m.hidden = a->down.n;
  m.pairs = m.rows * m.slots;
  m.x = zmi_forms_of(m.dtype, m.rows, 3, (const zmi_matrix_attrs *[]){&a->router, &a->gate, &a->up});
  m.h = zmi_ready_of(&a->down.format, m.dtype, a->down.k);
  m.memory = c->scratch;
  m.total = zmi_align64(m.x.bytes);
  m.logits = zmi_take_bytes(&m.total, (size_t)(m.rows * m.experts) * size);
  m.chosen = zmi_take_bytes(&m.total, (size_t)m.pairs * sizeof(int32_t));
  m.weights = zmi_take_bytes(&m.total, (size_t)m.pairs * size);
  m.route = zmi_route_rule_of(&a->route);
  m.work = zmi_take_bytes(&m.total, zmi_route_work(&m.route, m.experts) * (size_t)zmi_lane_count(m.rows));
  m.plan = zmi_take_bytes(&m.total, zmi_expert_plan_bytes(m.experts, m.pairs));
  m.act = zmi_take_bytes(&m.total, (size_t)(m.pairs * m.width) * size);
  m.made = zmi_take_bytes(&m.total, m.h.direct ? 0 : (size_t)m.pairs * m.h.bytes);
  m.y = zmi_take_bytes(&m.total, m.rows == 1 ? 0 : (size_t)(m.pairs * m.hidden) * size);
  return m;
}

static zmi_expert_plan plan_of(const moe *m) {
  return zmi_expert_plan_at(m->memory + m->plan, m->experts, m->pairs);
}

// Activations as `down` takes them.
static zmi_rows act_rows(const moe *m) {
  zmi_rows rows = {.form = &m->h, .count = m->pairs};
  rows.ready = m->memory + (m->h.direct ? m->act : m->made);
  rows.stride = m->h.direct ? (size_t)m->width * zm_dtype_size(m->dtype) : m->h.bytes;
  return rows;
}

static size_t scratch(const zmi_call *c) {
  return moe_of(c).total;
}

// 1: rows of x made ready.
static int64_t x_tiles(const zmi_call *c) {
  moe m = moe_of(c);
  return zmi_forms_tiles(&m.x);
}

static void x_run(const zmi_call *c, int64_t begin, int64_t end) {
  moe m = moe_of(c);
  zmi_forms_run(&m.x, m.kn, c->src[X], m.memory, begin, end);
}

// 2: the router's logits.
static int64_t router_tiles(const zmi_call *c) {
  moe m = moe_of(c);
  zmi_rows rows = zmi_forms_rows(&m.x, 0, c->src[X], m.memory);
  zmi_weights w = zmi_weights_of(c, &m.a->router, ROUTER, ROUTER_BIAS);
  return zmi_dense_tiles(&w, &rows);
}

static void router_run(const zmi_call *c, int64_t begin, int64_t end) {
  moe m = moe_of(c);
  zmi_rows rows = zmi_forms_rows(&m.x, 0, c->src[X], m.memory);
  zmi_weights w = zmi_weights_of(c, &m.a->router, ROUTER, ROUTER_BIAS);
  zmi_dense_run(m.kn, &w, &rows, m.memory + m.logits, (size_t)m.experts * zm_dtype_size(m.dtype), m.dtype, begin, end);
}

// 3: each row's choice; of a single row also the plan.
static int64_t route_tiles(const zmi_call *c) {
  return zmi_lane_count(c->in[X]->type.shape[0]);
}

static void make_plan(const moe *m) {
  zmi_expert_plan plan = plan_of(m);
  zmi_expert_plan_make(&plan, (const int32_t *)(const void *)(m->memory + m->chosen));
}

static void route_run(const zmi_call *c, int64_t begin, int64_t end) {
  moe m = moe_of(c);
  const float *bias = c->nin > CHOICE_BIAS ? c->src[CHOICE_BIAS] : NULL;
  for (int64_t lane = begin; lane < end; lane++) {
    void *work = m.memory + m.work + (size_t)lane * zmi_route_work(&m.route, m.experts);
    for (int64_t r = zmi_lane_begin(m.rows, lane); r < zmi_lane_begin(m.rows, lane + 1); r++) {
      zmi_route_row(m.kn, &m.route, zmi_at(m.memory + m.logits, m.dtype, r * m.experts), m.dtype, m.experts, bias, work,
                    (int32_t *)(void *)(m.memory + m.chosen) + r * m.slots, zmi_at(m.memory + m.weights, m.dtype, r * m.slots), m.dtype);
    }
  }
  if (m.rows == 1) make_plan(&m);
}

// 4: pairs in order of expert.
static int64_t plan_tiles(const zmi_call *c) {
  return c->in[X]->type.shape[0] > 1;
}

static void plan_run(const zmi_call *c, int64_t begin, int64_t end) {
  (void)begin, (void)end;
  moe m = moe_of(c);
  make_plan(&m);
}

// 5: gate, up and SwiGLU.
static int64_t gate_tiles(const zmi_call *c) {
  moe m = moe_of(c);
  zmi_expert_plan plan = plan_of(&m);
  return zmi_expert_tiles(&plan, (m.width + ZMI_LANES - 1) / ZMI_LANES);
}

static void gate_entry(const moe *m, const zmi_weights *gate, const zmi_weights *up, const zmi_rows *gx, const zmi_rows *ux,
                       const zmi_expert_walk *at) {
  const zmi_expert_plan *p = at->plan;
  int32_t start = p->start[at->entry], stop = p->start[at->entry + 1];
  int64_t most = zmi_run_blocks(gate, stop - start, 2);
  for (int64_t first = at->first, blocks; first < at->last; first += blocks) {
    blocks = ZMI_MIN(most, at->last - first);
    for (int32_t i = start; i < stop; i += ZMI_ROWS) {
      const void *g[ZMI_ROWS], *u[ZMI_ROWS];
      void *out[ZMI_ROWS];
      int count = ZMI_MIN(stop - i, ZMI_ROWS);
      for (int k = 0; k < count; k++) {
        size_t row = (size_t)(p->pair[i + k] / m->slots);
        g[k] = (const char *)gx->ready + row * gx->stride;
        u[k] = (const char *)ux->ready + row * ux->stride;
        out[k] = zmi_at(m->memory + m->act, m->dtype, p->pair[i + k] * m->width);
      }
      zmi_gated_blocks(m->kn, gate, up, p->expert[at->entry], first, blocks, gx->form, ux->form, count, g, u, out, m->dtype);
    }
  }
}

static void gate_run(const zmi_call *c, int64_t begin, int64_t end) {
  moe m = moe_of(c);
  zmi_weights gate = zmi_weights_of(c, &m.a->gate, GATE, GATE_BIAS), up = zmi_weights_of(c, &m.a->up, UP, UP_BIAS);
  zmi_rows gx = zmi_forms_rows(&m.x, 1, c->src[X], m.memory), ux = zmi_forms_rows(&m.x, 2, c->src[X], m.memory);
  zmi_expert_plan plan = plan_of(&m);
  zmi_expert_walk at = zmi_expert_walk_of(&plan, gate.blocks, begin, end);
  while (zmi_expert_walk_next(&at)) gate_entry(&m, &gate, &up, &gx, &ux, &at);
}

// 6: activations made ready.
static int64_t act_tiles(const zmi_call *c) {
  moe m = moe_of(c);
  return m.h.direct ? 0 : m.pairs * zmi_ready_pieces(&m.h);
}

static void act_run(const zmi_call *c, int64_t begin, int64_t end) {
  moe m = moe_of(c);
  zmi_ready_tiles(m.kn, &m.h, m.memory + m.act, m.dtype, m.memory + m.made, begin, end);
}

// 7: down. One row: each tile adds up its outputs over the slots. More rows: results of pairs, which 8 adds up.
static int64_t down_tiles(const zmi_call *c) {
  moe m = moe_of(c);
  int64_t blocks = (m.hidden + ZMI_LANES - 1) / ZMI_LANES;
  zmi_expert_plan plan = plan_of(&m);
  return m.rows == 1 ? blocks : zmi_expert_tiles(&plan, blocks);
}

static void down_one_row(const zmi_call *c, const moe *m, int64_t begin, int64_t end) {
  _Alignas(64) float y[1][ZMI_DOT_VALUES], sum[ZMI_DOT_VALUES];
  zmi_weights down = zmi_weights_of(c, &m->a->down, DOWN, DOWN_BIAS);
  zmi_rows rows = act_rows(m);
  const int32_t *chosen = (const int32_t *)(const void *)(m->memory + m->chosen);
  for (int64_t first = begin, blocks; first < end; first += blocks) {
    blocks = ZMI_MIN(end - first, ZMI_DOT_BLOCKS);
    int64_t n = ZMI_MIN(down.n - first * ZMI_LANES, blocks * ZMI_LANES);
    memset(sum, 0, sizeof sum);
    for (int64_t s = 0; s < m->slots; s++) {
      float weight;
      zmi_dot_values(m->kn, &down, chosen[s], first, blocks, rows.form, 1,
                     (const void *[]){(const char *)rows.ready + (size_t)s * rows.stride}, y);
      m->kn->round(y[0], n, m->dtype);
      m->kn->load(zmi_at(m->memory + m->weights, m->dtype, s), m->dtype, 1, &weight);
      m->kn->axpy(weight, y[0], ZM_F32, n, sum);
    }
    m->kn->store(sum, n, zmi_at(c->dst[0], m->dtype, first * ZMI_LANES), m->dtype);
  }
}

static void down_run(const zmi_call *c, int64_t begin, int64_t end) {
  moe m = moe_of(c);
  if (m.rows == 1) {
    down_one_row(c, &m, begin, end);
    return;
  }
  zmi_weights down = zmi_weights_of(c, &m.a->down, DOWN, DOWN_BIAS);
  zmi_rows rows = act_rows(&m);
  zmi_expert_plan plan = plan_of(&m);
  zmi_expert_run(m.kn, &down, &plan, &rows, 1, m.memory + m.y, m.dtype, begin, end);
}

// 8: weighted sums.
static int64_t sum_pieces(const moe *m) {
  return (m->hidden + ZMI_COMBINE - 1) / ZMI_COMBINE;
}

static int64_t sum_tiles(const zmi_call *c) {
  moe m = moe_of(c);
  return m.rows == 1 ? 0 : m.rows * sum_pieces(&m);
}

static void sum_run(const zmi_call *c, int64_t begin, int64_t end) {
  moe m = moe_of(c);
  for (int64_t t = begin; t < end; t++) {
    int64_t row = t / sum_pieces(&m), first = t % sum_pieces(&m) * ZMI_COMBINE;
    zmi_combine_piece(m.kn, zmi_at(m.memory + m.y, m.dtype, row * m.slots * m.hidden + first), m.dtype, m.hidden,
                      zmi_at(m.memory + m.weights, m.dtype, row * m.slots), m.dtype, m.slots, ZMI_MIN(m.hidden - first, ZMI_COMBINE),
                      zmi_at(c->dst[0], m.dtype, row * m.hidden + first), m.dtype, false);
  }
}

// On a GPU: experts' results of all pairs are in memory before they are combined.
static zm_status device(const zmi_call *c, zmi_device_code *code) {
  const moe_attrs *a = c->attrs;
  const zmi_type *x = &c->in[X]->type;
  const int64_t rows = x->shape[0], slots = a->route.top_k, width = a->gate.n, pairs = rows * slots;
  const size_t size = zm_dtype_size(x->dtype);
  const zmi_gpu_matrix router = zmi_device_matrix(c, &a->router, ROUTER, ROUTER_BIAS),
                       gate = zmi_device_matrix(c, &a->gate, GATE, GATE_BIAS), up = zmi_device_matrix(c, &a->up, UP, UP_BIAS),
                       down = zmi_device_matrix(c, &a->down, DOWN, DOWN_BIAS);
  const zmi_gpu_address logits = zmi_device_scratch(code, (size_t)(rows * a->router.n) * size),
                        chosen = zmi_device_scratch(code, (size_t)pairs * 4), weights = zmi_device_scratch(code, (size_t)pairs * size),
                        gated = zmi_device_scratch(code, (size_t)(pairs * width) * size),
                        raised = zmi_device_scratch(code, (size_t)(pairs * width) * size),
                        y = zmi_device_scratch(code, (size_t)(pairs * a->down.n) * size);
  const int dtype = zmi_gpu_dtype_of(x->dtype);
  zmi_device_rows in[3];
  zm_status status = zmi_device_forms(code, zmi_device_rows_of(zmi_gpu_at(c->src[X]), rows, a->gate.k, x->dtype), 3,
                                      (const zmi_gpu_matrix *[]){&router, &gate, &up}, in);
  if (status == ZM_OK) status = zmi_device_dot(code, &router, &in[0], 0, 1, logits, x->dtype, 0);
  if (status == ZM_OK) {
    status = zmi_device_route(code,
                              &(zmi_gpu_route){.logits = logits,
                                               .bias = c->nin > CHOICE_BIAS && c->in[CHOICE_BIAS] ? zmi_gpu_at(c->src[CHOICE_BIAS]) : 0,
                                               .chosen = chosen,
                                               .weights = weights,
                                               .rows = (int)rows,
                                               .experts = (int)a->router.n,
                                               .k = (int)slots,
                                               .sigmoid = a->route.kind == ZMI_ROUTE_SIGMOID,
                                               .norm = a->route.norm != 0,
                                               .dtype = dtype,
                                               .eps = (float)a->route.eps,
                                               .scale = (float)a->route.scale},
                              0);
  }
  if (status == ZM_OK) status = zmi_device_dot(code, &gate, &in[1], chosen, slots, gated, x->dtype, 0);
  if (status == ZM_OK) status = zmi_device_dot(code, &up, &in[2], chosen, slots, raised, x->dtype, ZMI_GPU_TOGETHER);
  if (status == ZM_OK) status = zmi_device_gated(code, gated, raised, pairs, width, x->dtype);
  zmi_device_rows act = zmi_device_rows_of(gated, pairs, width, x->dtype);
  if (status == ZM_OK) status = zmi_device_ready(code, &down, &act, 0);
  if (status == ZM_OK) status = zmi_device_dot(code, &down, &act, chosen, 1, y, x->dtype, 0);
  if (status != ZM_OK) return status;
  return zmi_device_combine(code,
                            &(zmi_gpu_combine){.y = y,
                                               .weights = weights,
                                               .out = zmi_gpu_at(c->dst[0]),
                                               .rows = (int)rows,
                                               .slots = (int)slots,
                                               .n = (int)a->down.n,
                                               .y_dtype = dtype,
                                               .weight_dtype = dtype,
                                               .dtype = dtype},
                            0);
}

const zmi_op zmi_op_fused_moe_mlp = {
    .name = "fused_moe_mlp",
    .operands = "x router gate up down router_bias? choice_bias? gate_bias? up_bias? down_bias?",
    .fields = fields,
    .rounding = "As linear, route, gather_linear, silu, multiply, gather_linear and combine, each at its place.",
    .flags = ZMI_OP_HIDDEN,
    .infer = infer,
    .scratch = scratch,
    .device = device,
    .stages = {{x_tiles, x_run},
               {router_tiles, router_run},
               {route_tiles, route_run},
               {plan_tiles, plan_run},
               {gate_tiles, gate_run},
               {act_tiles, act_run},
               {down_tiles, down_run},
               {sum_tiles, sum_run}},
};

// ---- the pattern ----

// Everything between x and the result.
typedef struct parts {
  zmi_node *combine, *down, *multiply, *silu, *gate, *up, *route, *router;
} parts;

static const char *find(const zmi_node *combine, parts *p) {
  *p = (parts){.combine = (zmi_node *)(uintptr_t)combine};
  if (!(p->down = zmi_maker(combine->in[0], "gather_linear"))) return "what is combined is not made by experts (gather_linear)";
  if (!(p->multiply = zmi_maker(p->down->in[0], "multiply"))) return "the experts' last matrix does not take a product";
  for (int i = 0; i < 2 && !p->gate; i++) {
    p->silu = zmi_maker(p->multiply->in[i], "silu");
    p->gate = p->silu ? zmi_maker(p->silu->in[0], "gather_linear") : NULL;
    p->up = zmi_maker(p->multiply->in[1 - i], "gather_linear");
  }
  if (!p->gate || !p->up) return "the experts' activation is not silu(gate) * up";
  if (!(p->route = zmi_maker(combine->in[1], "route"))) return "the weights are not made by a router (route)";
  if (!(p->router = zmi_maker(p->route->in[0], "linear"))) return "the router's logits are not made by a linear";
  return NULL;
}

static const char *check(const zmi_graph *g, const parts *p) {
  zmi_node *experts[] = {p->gate, p->up, p->down};
  const zm_array *x = p->router->in[0];
  if (p->gate->in[0] != x || p->up->in[0] != x) return "router, gate and up do not read the same array";
  if (p->combine->in[1]->index != 1) return "the weights are not those of the router";
  for (int i = 0; i < 3; i++) {
    if (experts[i]->in[1]->node != p->route || experts[i]->in[1]->index != 0)
      return "gate, up and down do not follow the same choice of experts";
  }
  if (!zmi_read_by(g, p->gate->in[1], experts, 3)) return "the choice of experts is used elsewhere";
  if (!zmi_read_once(g, p->combine->in[1], p->combine)) return "the router's weights are used elsewhere";
  if (!zmi_read_once(g, p->route->in[0], p->route)) return "the router's logits are used elsewhere";
  if (!zmi_read_once(g, p->gate->out[0], p->silu) || !zmi_read_once(g, p->silu->out[0], p->multiply) ||
      !zmi_read_once(g, p->up->out[0], p->multiply) || !zmi_read_once(g, p->multiply->out[0], p->down) ||
      !zmi_read_once(g, p->down->out[0], p->combine)) {
    return "an intermediate result of the experts is used elsewhere";
  }
  return NULL;
}

static zm_status attempt(zmi_graph *g, zmi_node *node, zmi_outcome *o) {
  parts p;
  const char *why = find(node, &p);
  if (!why) why = check(g, &p);
  if (why) return zmi_left_alone(o, "%s", why);
  moe_attrs a = {
      .router = *zmi_matrix_of(p.router), .gate = *zmi_matrix_of(p.gate), .up = *zmi_matrix_of(p.up), .down = *zmi_matrix_of(p.down)};
  memcpy(&a.route, p.route->attrs.bytes, sizeof a.route);
  zm_array *in[OPERANDS] = {
      [X] = p.router->in[0],
      [ROUTER] = p.router->in[1],
      [GATE] = p.gate->in[2],
      [UP] = p.up->in[2],
      [DOWN] = p.down->in[2],
      [ROUTER_BIAS] = zmi_operand(p.router, 2),
      [CHOICE_BIAS] = zmi_operand(p.route, 1),
      [GATE_BIAS] = zmi_operand(p.gate, 3),
      [UP_BIAS] = zmi_operand(p.up, 3),
      [DOWN_BIAS] = zmi_operand(p.down, 3),
  };
  zm_array *y = zmi_apply1(&zmi_op_fused_moe_mlp, &a, sizeof a, OPERANDS, in);
  if (!y) return zm_last_status();
  zm_status status = zmi_graph_replace(g, node->out[0], y);
  if (status != ZM_OK) return status;
  return zmi_fused(o, "router, %lld of %lld experts, SwiGLU and weighted sum: 8 ops in one", (long long)a.route.top_k,
                   (long long)a.router.n);
}

static zm_status rewrite(zmi_graph *graph, zm_patch_report *report) {
  return zmi_each_place(graph, report, "moe_mlp", "combine", attempt);
}

const zmi_pattern zmi_pattern_moe_mlp = {
    .name = "moe_mlp",
    .summary = "router, selected experts' gate, up, SwiGLU and down, and their weighted sum in one op",
    .rewrite = rewrite,
};
