// What each kind of instruction reads and writes.
#include "backend/cuda/flow.h"

static unsigned long long product(long long a, long long b, long long c) {
  return (unsigned long long)a * (unsigned long long)b * (unsigned long long)c;
}

static int size_of(int dtype) {
  return dtype == ZMI_GPU_F32 ? 4 : 2;
}

// `rows` rows of n elements, `stride` elements apart.
static zmi_gpu_range rows_at(zmi_gpu_address at, long long rows, long long stride, long long n, int dtype) {
  if (!at || rows <= 0 || n <= 0) return (zmi_gpu_range){0, 0};
  return (zmi_gpu_range){at, product(rows - 1, stride, size_of(dtype)) + product(n, size_of(dtype), 1)};
}

static zmi_gpu_range array_at(zmi_gpu_address at, long long a, long long b, long long bytes) {
  return at && a > 0 && b > 0 ? (zmi_gpu_range){at, product(a, b, bytes)} : (zmi_gpu_range){0, 0};
}

static void embed(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_embed *e = &in->as.embed;
  f->reads[0] = array_at(e->token, e->rows, 1, 4);
  f->writes[0] = array_at(e->out, e->rows, e->table.k, size_of(e->dtype));
}

static void norm(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_norm *n = &in->as.norm;
  f->reads[0] = array_at(n->x, n->rows, n->n, size_of(n->dtype));
  f->reads[1] = array_at(n->add, n->rows, n->n, size_of(n->dtype));
  f->writes[0] = array_at(n->out, n->rows, n->n, size_of(n->dtype));
  f->writes[1] = array_at(n->add ? n->sum : 0, n->rows, n->n, size_of(n->dtype));
}

static void digits(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_digits *d = &in->as.digits;
  f->reads[0] = rows_at(d->x, d->rows, d->stride, d->k, d->dtype);
  f->writes[0] = array_at(d->out, d->rows, d->bytes, 1);
}

static void dot(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_dot *d = &in->as.dot;
  const long long rows = d->share > 0 ? d->pairs / d->share : 0;
  f->reads[0] = array_at(d->x, rows, d->x_bytes, 1);
  f->reads[1] = array_at(d->route ? 0 : d->chosen, d->pairs, 1, 4);
  f->writes[0] = rows_at(d->kept ? 0 : d->out, d->pairs, d->out_stride, d->matrix.n, d->dtype);
}

static void elements(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_elements *e = &in->as.elements;
  f->reads[0] = rows_at(e->a, e->rows, e->a_stride, e->cols, e->dtype);
  f->reads[1] = rows_at(e->what == ZMI_GPU_SILU ? 0 : e->b, e->rows, e->b_stride, e->cols, e->dtype);
  f->writes[0] = array_at(e->out, e->rows, e->cols, size_of(e->dtype));
}

static void angles(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_angles *a = &in->as.angles;
  f->reads[0] = array_at(a->position, a->rows, 1, 4);
  f->writes[0] = array_at(a->cosine, a->rows, a->pairs, 4);
  f->writes[1] = array_at(a->sine, a->rows, a->pairs, 4);
}

static void rotate(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_rotate *r = &in->as.rotate;
  const long long n = (long long)r->heads * r->dim;
  f->reads[0] = rows_at(r->x, r->rows, r->x_stride, n, r->dtype);
  f->reads[1] = array_at(r->cosine, r->rows, r->pairs, 4);
  f->reads[2] = array_at(r->sine, r->rows, r->pairs, 4);
  f->writes[0] = array_at(r->out, r->rows, n, size_of(r->dtype));
}

// Of a cache all is taken to be read or written.
static zmi_gpu_range cache_at(zmi_gpu_address at, long long sequences, long long heads, long long context, long long dim, int dtype) {
  return array_at(at, sequences * heads, context * dim, size_of(dtype));
}

static void write(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_write *w = &in->as.write;
  f->reads[0] = array_at(w->from, w->rows, (long long)w->kv_heads * w->dim, size_of(w->dtype));
  f->reads[1] = array_at(w->position, w->rows, 1, 4);
  f->reads[2] = array_at(w->sequence, w->rows, 1, 4);
  f->writes[0] = cache_at(w->cache, w->sequences, w->kv_heads, w->context, w->dim, w->dtype);
}

static zmi_gpu_range partial_of(const zmi_gpu_attention *a) {
  return array_at(a->partial, (long long)a->rows * a->heads, (long long)a->ranges * (ZMI_GPU_HEAD + a->dim), 4);
}

static void attend(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_attention *a = &in->as.attention;
  const zmi_gpu_range out = array_at(a->out, a->rows, (long long)a->heads * a->dim, size_of(a->dtype));
  f->reads[0] = array_at(a->q, a->rows, (long long)a->heads * a->dim, size_of(a->dtype));
  f->reads[1] = cache_at(a->keys, a->sequences, a->kv_heads, a->context, a->dim, a->dtype);
  f->reads[2] = cache_at(a->values, a->sequences, a->kv_heads, a->context, a->dim, a->dtype);
  f->reads[3] = array_at(a->position, a->rows, 1, 4);
  f->reads[4] = array_at(a->sequence, a->rows, 1, 4);
  f->writes[0] = a->split ? partial_of(a) : out;
}

static void join(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_attention *a = &in->as.attention;
  f->reads[0] = partial_of(a);
  f->reads[1] = array_at(a->position, a->rows, 1, 4);
  f->reads[2] = array_at(a->sequence, a->rows, 1, 4);
  f->writes[0] = array_at(a->out, a->rows, (long long)a->heads * a->dim, size_of(a->dtype));
}

static void route(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_route *r = &in->as.route;
  f->reads[0] = array_at(r->kept ? 0 : r->logits, r->rows, r->experts, size_of(r->dtype));
  f->writes[0] = array_at(r->chosen, r->rows, r->k, 4);
  f->writes[1] = array_at(r->weights, r->rows, r->k, size_of(r->dtype));
}

static void combine(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_combine *m = &in->as.combine;
  f->reads[0] = array_at(m->y, (long long)m->rows * m->slots, m->n, size_of(m->y_dtype));
  f->reads[1] = array_at(m->weights, m->rows, m->slots, size_of(m->weight_dtype));
  f->writes[0] = array_at(m->out, m->rows, m->n, size_of(m->dtype));
}

static void conv(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_conv *v = &in->as.conv;
  const long long wide = v->parts ? (long long)v->channels * v->parts : v->channels;
  f->reads[0] = rows_at(v->x, v->rows, v->x_stride, wide, v->dtype);
  f->reads[1] = array_at(v->position, v->rows, 1, 4);
  f->reads[2] = array_at(v->sequence, v->rows, 1, 4);
  f->writes[0] = array_at(v->y, v->rows, v->channels, size_of(v->dtype));
  f->writes[1] = array_at(v->state, (long long)v->sequences * v->channels, v->taps - 1, size_of(v->dtype));
}

static void take(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_take *t = &in->as.take;
  f->reads[0] = array_at(t->x, t->there, t->bytes, 1);
  f->reads[1] = array_at(t->index, t->rows, 1, 4);
  f->writes[0] = array_at(t->out, t->rows, t->bytes, 1);
}

static void copy(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_copy *c = &in->as.copy;
  long long last = 0, before = 0;
  for (int i = 0; i < c->rank; i++) {
    if (c->size[i] <= 0) return;
    *(c->stride[i] < 0 ? &before : &last) += (c->size[i] - 1) * c->stride[i];
  }
  f->reads[0] = (zmi_gpu_range){c->x + (zmi_gpu_address)(before * c->bytes), (unsigned long long)(last - before + 1) * (unsigned)c->bytes};
  f->writes[0] = array_at(c->out, c->count, c->bytes, 1);
}

static void ready(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_ready *r = &in->as.ready;
  f->reads[0] = rows_at(r->x, r->rows, r->stride, r->k, r->dtype);
  f->reads[1] = array_at(r->add, r->rows, r->k, size_of(r->dtype));
  f->reads[2] = array_at(r->slots ? r->y : 0, (long long)r->rows * r->slots, r->k, size_of(r->dtype));
  f->reads[3] = array_at(r->slots ? r->weights : 0, r->rows, r->slots, size_of(r->dtype));
  f->writes[0] = array_at(r->sum, r->rows, r->k, size_of(r->dtype));
  if (!r->conv.rows) return;
  const zmi_gpu_instruction whole = {.kind = ZMI_GPU_CONV, .as.conv = r->conv};
  zmi_gpu_flow of = {0};
  conv(&whole, &of);
  for (int i = 0; i < 3; i++) f->reads[4 + i] = of.reads[i];
  f->reads[7] = of.writes[1]; // the state
}

static void sort(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_sort *s = &in->as.sort;
  f->reads[0] = array_at(s->chosen, s->pairs, 1, 4);
  f->writes[0] = array_at(s->order, s->pairs, 1, 4);
  f->writes[1] = array_at(s->pieces, ZMI_GPU_PIECES(s->pairs, s->experts), 1, sizeof(zmi_gpu_piece));
}

static void many(const zmi_gpu_instruction *in, zmi_gpu_flow *f) {
  const zmi_gpu_many *m = &in->as.many;
  dot(in, f); // its first field
  f->reads[2] = array_at(m->order, m->dot.pairs, 1, 4);
  f->reads[3] = array_at(m->pieces, m->most, 1, sizeof(zmi_gpu_piece));
}

#define FLOW(name, kind) [kind] = name,
static void (*const flows[ZMI_GPU_KINDS])(const zmi_gpu_instruction *in,
                                          zmi_gpu_flow *f) = {ZMI_GPU_STEPS(FLOW) ZMI_GPU_LAUNCHED(FLOW)[ZMI_GPU_READY] = ready};

zmi_gpu_flow zmi_gpu_flow_of(const zmi_gpu_instruction *in) {
  zmi_gpu_flow f = {0};
  if (in->kind > ZMI_GPU_NOTHING && in->kind < ZMI_GPU_KINDS && flows[in->kind]) flows[in->kind](in, &f);
  return f;
}

bool zmi_gpu_meets(zmi_gpu_range a, zmi_gpu_range b) {
  return a.bytes && b.bytes && a.at < b.at + b.bytes && b.at < a.at + a.bytes;
}

bool zmi_gpu_over_rows(const zmi_gpu_instruction *in) {
  return in->shared > 0 && in->kind != ZMI_GPU_READY && in->kind != ZMI_GPU_DOT && in->kind != ZMI_GPU_ROUTE;
}

static int how_of(const zmi_gpu_instruction *in) {
  const zmi_gpu_dot *d = &in->as.dot;
  if (in->kind == ZMI_GPU_READY || (in->kind == ZMI_GPU_ROUTE && in->own)) return ZMI_GPU_OF_BLOCK;
  if (in->kind != ZMI_GPU_DOT || d->x) return ZMI_GPU_USUAL;
  if (!d->stage) return ZMI_GPU_OF_READY;
  return d->chosen && !d->route ? ZMI_GPU_STREAMED_LATE : ZMI_GPU_STREAMED;
}

void zmi_gpu_count(zmi_gpu_instruction *all, size_t count) {
  for (size_t i = 0; i < count; i++) {
    all[i].number = (int)i;
    all[i].how = how_of(&all[i]);
  }
}
