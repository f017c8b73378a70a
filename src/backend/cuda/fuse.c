// Puts instructions of a step together, for the resident kernel, where what costs time is how often all blocks have to meet, and for
// launches, where it is how many there are. Rows that products take are made by every block for itself (READY), with the norm and the sums
// in front of them; gate and up become one product; a router's choice is made by every block (of the resident kernel). What is done for
// each number stays as it was, so bits do.
#include "backend/cuda/flow.h"

#include <limits.h>
#include <string.h>

enum { MOST_USERS = 16 };

typedef struct plan {
  zmi_gpu_instruction *all; // a copy; what is done elsewhere becomes ZMI_GPU_NOTHING
  size_t count;
  zmi_device_way way;
  const zmi_gpu_range *outputs;
  size_t output_count;
  int *norm_of;    // of each instruction: the NORM whose rows it takes, or -1
  int *digits_of;  // of each DOT: the DIGITS that it takes, or -1
  int *combine_of; // of each NORM: the COMBINE that is added, or -1
  int *conv_of;    // of each DIGITS: the CONV whose only row it takes, or -1
  bool *began;     // of each NORM: its sum has been written
  bool *gone;      // of each DIGITS: all that read it make the digits themselves
  zmi_gpu_instruction *made;
  size_t made_count, made_capacity;
  zmi_gpu_instruction ready;    // what is in the blocks' shared memory; of kind ZMI_GPU_NOTHING: nothing known
  int ready_norm, ready_digits; // the instructions whose rows those are
} plan;

// ---- who writes and reads ----

static bool writes(const zmi_gpu_instruction *in, zmi_gpu_range r) {
  const zmi_gpu_flow f = zmi_gpu_flow_of(in);
  for (int i = 0; i < ZMI_GPU_WRITES; i++) {
    if (zmi_gpu_meets(f.writes[i], r)) return true;
  }
  return false;
}

static bool reads(const zmi_gpu_instruction *in, zmi_gpu_range r) {
  const zmi_gpu_flow f = zmi_gpu_flow_of(in);
  for (int i = 0; i < ZMI_GPU_READS; i++) {
    if (zmi_gpu_meets(f.reads[i], r)) return true;
  }
  return false;
}

static bool written_between(const plan *p, size_t from, size_t to, zmi_gpu_range r) {
  for (size_t i = from + 1; i < to; i++) {
    if (!p->gone[i] && writes(&p->all[i], r)) return true;
  }
  return false;
}

// The instructions that read what instruction i writes to r, before it is written again; -1 if the host reads it, or too many do.
static int users_of(const plan *p, size_t i, zmi_gpu_range r, size_t users[MOST_USERS]) {
  int n = 0;
  for (size_t j = i + 1; j < p->count; j++) {
    if (reads(&p->all[j], r)) {
      if (n == MOST_USERS) return -1;
      users[n++] = j;
    }
    if (writes(&p->all[j], r)) return n;
  }
  for (size_t o = 0; o < p->output_count; o++) {
    if (zmi_gpu_meets(p->outputs[o], r)) return -1;
  }
  return n;
}

// The last instruction before i that writes to r, or -1.
static int writer_of(const plan *p, size_t i, zmi_gpu_range r) {
  while (i-- > 0) {
    if (writes(&p->all[i], r)) return (int)i;
  }
  return -1;
}

// ---- rows of products ----

static size_t row_bytes(int k, int group, int digits, int dtype) {
  const size_t bytes = digits ? zmi_digits_bytes(k, group, digits) : (size_t)k * (dtype == ZMI_GPU_F32 ? 4 : 2);
  return (bytes + 15) / 16 * 16;
}

static bool fits(int rows, int k, int group, int digits, int dtype) {
  return rows > 0 && (size_t)rows <= ZMI_GPU_READY_BYTES / row_bytes(k, group, digits, dtype);
}

// Whether all that read the digits are products of them, and x stays what it is until then.
static bool digits_fuse(const plan *p, size_t i) {
  const zmi_gpu_digits *d = &p->all[i].as.digits;
  const zmi_gpu_flow f = zmi_gpu_flow_of(&p->all[i]);
  size_t users[MOST_USERS];
  const int n = users_of(p, i, f.writes[0], users);
  if (n <= 0 || !fits(d->rows, d->k, d->group, d->digits, d->dtype)) return false;
  for (int u = 0; u < n; u++) {
    const zmi_gpu_instruction *in = &p->all[users[u]];
    if (in->kind != ZMI_GPU_DOT || in->as.dot.x != d->out || in->as.dot.x_bytes != d->bytes) return false;
    if (in->as.dot.pairs / in->as.dot.share != d->rows) return false;
  }
  return !written_between(p, i, users[n - 1], f.reads[0]);
}

static void find_digits(plan *p) {
  for (size_t i = 0; i < p->count; i++) {
    zmi_gpu_instruction *in = &p->all[i];
    size_t users[MOST_USERS];
    if (in->kind != ZMI_GPU_DIGITS || !digits_fuse(p, i)) continue;
    const int n = users_of(p, i, zmi_gpu_flow_of(in).writes[0], users);
    for (int u = 0; u < n; u++) p->digits_of[users[u]] = (int)i;
    p->gone[i] = true;
  }
}

// ---- convolutions ----

static bool goes_with(int dtype, int of) {
  return of == ZMI_GPU_F32 || of == (dtype == ZMI_GPU_F16 ? ZMI_GPU_F16 : ZMI_GPU_BF16);
}

// Digits of the only row of a convolution, for one product: every block makes that row for itself. The state, which it reads, is written
// behind the product.
static void find_conv(plan *p, size_t i) {
  const zmi_gpu_digits *d = &p->all[i].as.digits;
  const zmi_gpu_flow f = zmi_gpu_flow_of(&p->all[i]);
  const int c = writer_of(p, i, f.reads[0]);
  size_t users[MOST_USERS], of[MOST_USERS];
  if (c < 0 || p->all[c].kind != ZMI_GPU_CONV || users_of(p, i, f.writes[0], users) != 1) return;
  const zmi_gpu_conv *v = &p->all[c].as.conv;
  const zmi_gpu_flow g = zmi_gpu_flow_of(&p->all[c]);
  if (v->rows != 1 || !v->parts || v->taps != ZMI_GPU_READY_TAPS || v->y != d->x || v->channels != d->k || v->dtype != d->dtype) return;
  if ((v->x | v->state | v->weight | v->bias) % 16 != 0 || v->channels % 8 != 0) return;
  if (!goes_with(v->dtype, v->weight_dtype) || (v->bias && !goes_with(v->dtype, v->bias_dtype))) return;
  if (users_of(p, (size_t)c, g.writes[0], of) != 1 || of[0] != i) return;
  for (size_t j = (size_t)c + 1; j <= users[0]; j++) {
    if (reads(&p->all[j], g.writes[1]) || writes(&p->all[j], g.writes[1])) return;
    for (int r = 0; r < 3; r++) {
      if (writes(&p->all[j], g.reads[r])) return;
    }
  }
  p->conv_of[i] = c;
}

// ---- norms ----

// Whether instruction u takes whole rows of the norm's result, and only through READY.
static bool takes_rows(const plan *p, const zmi_gpu_norm *n, size_t u) {
  const zmi_gpu_instruction *in = &p->all[u];
  if (in->kind == ZMI_GPU_DIGITS) {
    const zmi_gpu_digits *d = &in->as.digits;
    return d->x == n->out && d->k == n->n && d->rows == n->rows && d->stride == n->n && d->dtype == n->dtype && p->gone[u];
  }
  const zmi_gpu_dot *d = &in->as.dot;
  return in->kind == ZMI_GPU_DOT && d->x == n->out && d->matrix.digits == 0 && d->matrix.k == n->n && d->x_dtype == n->dtype &&
         d->pairs / d->share == n->rows && fits(n->rows, n->n, 0, 0, n->dtype);
}

// The COMBINE whose result is one of the two that are added (0: x, 1: add), if nothing else reads that and what it reads stays until
// instruction `to`; or -1.
static int combine_of(const plan *p, size_t i, int side, size_t to) {
  const zmi_gpu_norm *n = &p->all[i].as.norm;
  const zmi_gpu_flow f = zmi_gpu_flow_of(&p->all[i]);
  size_t users[MOST_USERS];
  const int c = n->add ? writer_of(p, i, f.reads[side]) : -1;
  if (c < 0 || p->all[c].kind != ZMI_GPU_COMBINE) return -1;
  const zmi_gpu_combine *m = &p->all[c].as.combine;
  const zmi_gpu_flow g = zmi_gpu_flow_of(&p->all[c]);
  if (m->out != f.reads[side].at || m->rows != n->rows || m->n != n->n) return -1;
  if (m->dtype != n->dtype || m->y_dtype != n->dtype || m->weight_dtype != n->dtype) return -1;
  if (users_of(p, (size_t)c, g.writes[0], users) != 1 || users[0] != i) return -1;
  if (written_between(p, (size_t)c, to, g.reads[0]) || written_between(p, (size_t)c, to, g.reads[1])) return -1;
  return zmi_gpu_meets(f.writes[1], g.reads[0]) || zmi_gpu_meets(f.writes[1], g.reads[1]) ? -1 : c;
}

// A norm is fused if its rows are used by products only, and if what it reads is still there at its first use (later ones take the sum).
static void find_norm(plan *p, size_t i) {
  const zmi_gpu_norm *n = &p->all[i].as.norm;
  const zmi_gpu_flow f = zmi_gpu_flow_of(&p->all[i]);
  const zmi_gpu_range sum = f.writes[1];
  size_t users[MOST_USERS];
  const int count = users_of(p, i, f.writes[0], users);
  if (count <= 0 || n->n > ZMI_GPU_READY_NORM) return;
  size_t first = SIZE_MAX, last = 0; // products
  for (int u = 0; u < count; u++) {
    if (!takes_rows(p, n, users[u])) return;
    for (size_t j = users[u]; j < p->count; j++) {
      if (j != users[u] && p->digits_of[j] != (int)users[u]) continue;
      if (p->all[j].kind != ZMI_GPU_DOT) continue;
      first = ZMI_MIN(first, j);
      last = ZMI_MAX(last, j);
    }
  }
  if (zmi_gpu_meets(sum, f.reads[0]) || zmi_gpu_meets(sum, f.reads[1])) return;
  if (written_between(p, i, n->add ? first : last, f.reads[0]) || written_between(p, i, first, f.reads[1])) return;
  if (n->add && written_between(p, i, last, sum)) return;
  // The sum is written later than before: at the first use.
  for (size_t j = i + 1; n->add && j < first; j++) {
    if (reads(&p->all[j], sum)) return;
  }
  for (int u = 0; u < count; u++) {
    for (size_t j = users[u]; j < p->count; j++) {
      if (p->all[j].kind == ZMI_GPU_DOT && (j == users[u] || p->digits_of[j] == (int)users[u])) p->norm_of[j] = (int)i;
    }
  }
  for (int side = 1; side >= 0 && p->combine_of[i] < 0; side--) p->combine_of[i] = combine_of(p, i, side, first);
}

// ---- gate and up ----

static bool same_matrix(const zmi_gpu_matrix *a, const zmi_gpu_matrix *b) {
  return !a->bias && !b->bias && a->n == b->n && a->k == b->k && a->experts == b->experts && a->mode == b->mode && a->bits == b->bits &&
         a->group == b->group && a->dtype == b->dtype && a->digits == b->digits && a->block_bytes == b->block_bytes;
}

static int group_bytes(const zmi_gpu_matrix *m) {
  return m->group * m->bits * ZMI_GPU_LANES / 8 + 2 * ZMI_GPU_LANES * (m->dtype == ZMI_GPU_F32 ? 4 : 2);
}

static int range_bytes(const zmi_gpu_matrix *m) {
  return ZMI_GPU_RANGE / m->group * group_bytes(m);
}

// Units that a slot of the ring of weights holds: 8, 4, or 0: weights do not come through it.
static int stage_of(const zmi_gpu_dot *d, bool up) {
  const zmi_gpu_matrix *m = &d->matrix;
  const int ranges = (m->k + ZMI_GPU_RANGE - 1) / ZMI_GPU_RANGE;
  if (m->mode != ZMI_GPU_AFFINE || m->digits == 0 || ranges * (up ? 2 : 1) > ZMI_GPU_DOT_SHARED / (4 * ZMI_GPU_LANES)) return 0;
  const int most = ZMI_GPU_SLOT / range_bytes(m);
  return most >= 8 ? 8 : most >= 4 ? 4 : 0;
}

// A product whose weights come through the ring, so many units at a time.
static void stream(zmi_gpu_dot *d, int stage) {
  const int most = ZMI_GPU_THREADS / ZMI_GPU_LANES; // a thread stores one result
  d->stage = stage;
  if (!stage) return;
  d->range_bytes = range_bytes(&d->matrix);
  d->units = (d->matrix.k + ZMI_GPU_RANGE - 1) / ZMI_GPU_RANGE * (d->up ? 2 : 1);
  d->together = ZMI_MIN(ZMI_GPU_DOT_SHARED / (4 * ZMI_GPU_LANES) / d->units, most);
  d->by = d->blocks > 16 && d->blocks < 1 << 17 && (long long)d->pairs * d->blocks < 1 << 19
              ? (unsigned)((1ull << 36) / (unsigned)d->blocks + 1)
              : 0;
}

// An activation behind two products becomes part of them.
static void find_gated(plan *p, size_t i) {
  const zmi_gpu_elements *e = &p->all[i].as.elements;
  size_t users[MOST_USERS];
  const zmi_gpu_flow f = zmi_gpu_flow_of(&p->all[i]);
  const int gate = writer_of(p, i, f.reads[0]), up = writer_of(p, i, f.reads[1]);
  if (e->what != ZMI_GPU_GATED || e->out != e->a || gate < 0 || up < 0 || gate == up) return;
  if (p->all[gate].kind != ZMI_GPU_DOT || p->all[up].kind != ZMI_GPU_DOT) return;
  zmi_gpu_dot *g = &p->all[gate].as.dot;
  const zmi_gpu_dot *u = &p->all[up].as.dot;
  if (g->out != e->a || u->out != e->b || !same_matrix(&g->matrix, &u->matrix) || g->chosen != u->chosen || g->pairs != u->pairs) return;
  if (g->share != u->share || g->dtype != u->dtype || e->dtype != g->dtype || g->out_stride != g->matrix.n || u->out_stride != g->matrix.n)
    return;
  if (e->rows * e->cols != (long long)g->pairs * g->matrix.n || e->a_stride != e->cols || e->b_stride != e->cols) return;
  if (p->digits_of[gate] < 0 || p->digits_of[gate] != p->digits_of[up] || !stage_of(g, true)) return;
  if (users_of(p, (size_t)gate, f.reads[0], users) != 1 || users_of(p, (size_t)up, f.reads[1], users) != 1) return;
  // The result is written where the later one stands, and the earlier one is read by nothing before.
  zmi_gpu_instruction *stays = &p->all[ZMI_MAX(gate, up)];
  const zmi_gpu_address raised = u->matrix.packed;
  zmi_gpu_instruction whole = p->all[gate];
  whole.as.dot.up = raised;
  p->all[ZMI_MIN(gate, up)].kind = ZMI_GPU_NOTHING;
  p->all[i].kind = ZMI_GPU_NOTHING;
  *stays = whole;
}

// ---- making ----

static bool add(plan *p, const zmi_gpu_instruction *in) {
  if (!ZMI_GROW(p->made, p->made_capacity, p->made_count + 1)) return false;
  p->made[p->made_count++] = *in;
  // The rows are there for products right behind READY, if that is a launch.
  const bool stays = in->kind == ZMI_GPU_READY || (in->kind == ZMI_GPU_DOT && !in->as.dot.x);
  if (p->way == ZMI_DEVICE_LAUNCHES ? !stays : zmi_gpu_over_rows(in)) p->ready.kind = ZMI_GPU_NOTHING;
  return true;
}

// What makes the rows of DOT j.
static zmi_gpu_instruction ready_of(const plan *p, size_t j) {
  const zmi_gpu_dot *d = &p->all[j].as.dot;
  const int from = p->digits_of[j], norm = p->norm_of[j];
  zmi_gpu_instruction in;
  memset(&in, 0, sizeof in);
  in.kind = ZMI_GPU_READY;
  in.tiles = in.own = 1;
  in.of_instr = p->all[norm >= 0 ? norm : from].of_instr;
  zmi_gpu_ready *r = &in.as.ready;
  if (from >= 0) {
    const zmi_gpu_digits *g = &p->all[from].as.digits;
    *r = (zmi_gpu_ready){
        .x = g->x, .stride = g->stride, .rows = g->rows, .k = g->k, .group = g->group, .digits = g->digits, .dtype = g->dtype};
    if (p->conv_of[from] >= 0) {
      r->x = 0;
      r->conv = p->all[p->conv_of[from]].as.conv;
    }
  }
  if (norm >= 0) {
    const zmi_gpu_norm *n = &p->all[norm].as.norm;
    *r = (zmi_gpu_ready){.x = n->x,
                         .norm = n->weight,
                         .stride = n->n,
                         .rows = n->rows,
                         .k = n->n,
                         .group = r->group,
                         .digits = r->digits,
                         .dtype = n->dtype,
                         .norm_dtype = n->weight_dtype,
                         .eps = n->eps};
    in.shared = ZMI_GPU_READY_SHARED(n->n);
    if (n->add && p->began[norm]) r->x = n->sum;
    if (n->add && !p->began[norm]) {
      r->sum = n->sum;
      if (p->combine_of[norm] < 0) {
        r->add = n->add;
      } else {
        const zmi_gpu_combine *m = &p->all[p->combine_of[norm]].as.combine;
        if (m->out == n->x) r->x = n->add; // a sum is the same from either side
        r->y = m->y;
        r->weights = m->weights;
        r->slots = m->slots;
      }
    }
  }
  r->bytes = (long long)row_bytes(r->k, r->group, r->digits, r->dtype);
  if (norm < 0 && r->rows > 1 && d->share == 1 && stage_of(d, d->up != 0)) {
    r->blocks = d->blocks;
    r->tiles = p->all[j].tiles;
  }
  return in;
}

// The same rows as those that are there: also if they were made from a sum before it was written, or only from there.
static bool is_there(const plan *p, const zmi_gpu_instruction *in, int norm, int from) {
  const zmi_gpu_ready *a = &p->ready.as.ready, *b = &in->as.ready;
  if (p->ready.kind != ZMI_GPU_READY || a->blocks || b->blocks) return false;
  if (a->digits != b->digits || a->group != b->group || a->k != b->k || a->rows != b->rows) return false;
  return p->ready_norm == norm && (norm >= 0 || p->ready_digits == from);
}

static bool add_dot(plan *p, size_t j) {
  zmi_gpu_instruction in = p->all[j];
  const int norm = p->norm_of[j], from = p->digits_of[j];
  if (norm >= 0 || from >= 0) {
    zmi_gpu_instruction r = ready_of(p, j);
    if (!is_there(p, &r, norm, from)) {
      if (!add(p, &r)) return false;
      p->ready = r;
      p->ready_norm = norm;
      p->ready_digits = from;
    }
    if (norm >= 0) p->began[norm] = true;
    in.as.dot.x = 0;
    in.as.dot.x_bytes = r.as.ready.bytes;
    stream(&in.as.dot, p->way == ZMI_DEVICE_RING ? stage_of(&in.as.dot, in.as.dot.up != 0) : 0);
  }
  const int conv = from >= 0 ? p->conv_of[from] : -1;
  if (!add(p, &in)) return false;
  if (conv < 0) return true;
  in = p->all[conv];
  in.as.conv.y = 0;
  return add(p, &in);
}

static bool dropped(const plan *p, size_t i) {
  const int kind = p->all[i].kind;
  if (kind == ZMI_GPU_NOTHING) return true;
  if (kind == ZMI_GPU_DIGITS) return p->gone[i];
  for (size_t j = i + 1; j < p->count; j++) {
    if (kind == ZMI_GPU_NORM && p->norm_of[j] == (int)i) return true;
    if (kind == ZMI_GPU_CONV && p->conv_of[j] == (int)i) return true;
    if (kind == ZMI_GPU_COMBINE && p->all[j].kind == ZMI_GPU_NORM && p->combine_of[j] == (int)i && dropped(p, j)) return true;
  }
  return false;
}

// The product in front of a router that is every block's own, too: where its weights are few, reading them everywhere costs less than a
// barrier. Nothing else may read the results, which stay in shared memory behind the scratch of both.
static void own_logits(plan *p, size_t i) {
  zmi_gpu_instruction *route = &p->made[i];
  const zmi_gpu_range logits = zmi_gpu_flow_of(route).reads[0];
  zmi_gpu_instruction *dot = i < 2 ? NULL : &p->made[i - 1]; // right before: what stands between the two has the scratch
  size_t next;
  if (!dot || dot->kind != ZMI_GPU_DOT || !writes(dot, logits)) return;
  for (next = i; next < p->made_count && !writes(&p->made[next], logits); next++) {
    if (next != i && reads(&p->made[next], logits)) return;
  }
  for (size_t o = 0; next == p->made_count && o < p->output_count; o++) {
    if (zmi_gpu_meets(p->outputs[o], logits)) return;
  }
  const zmi_gpu_route *r = &route->as.route;
  zmi_gpu_dot *d = &dot->as.dot;
  if (!d->stage || d->chosen || d->up || d->out != r->logits || d->matrix.n != r->experts || d->out_stride != r->experts) return;
  if (d->pairs != r->rows || d->dtype != r->dtype || logits.bytes > ZMI_GPU_OWN_RESULTS) return;
  if ((unsigned long long)d->blocks * d->matrix.block_bytes > ZMI_GPU_OWN_WEIGHTS) return;
  const int kept = (ZMI_MAX(dot->shared, route->shared) + 15) / 16 * 16;
  zmi_gpu_instruction *ready = &p->made[i - 2];
  if (ready->kind == ZMI_GPU_READY) ready->as.ready.blocks = 0; // all rows, not those of a worker's tiles
  d->kept = kept;
  route->as.route.kept = kept;
  dot->shared = kept + (int)logits.bytes;
  dot->own = 1;
}

// A router's choice by every block, and the products that take it from there.
static void own_routes(plan *p) {
  for (size_t i = 0; i < p->made_count; i++) {
    zmi_gpu_instruction *in = &p->made[i];
    if (in->kind != ZMI_GPU_ROUTE || in->as.route.rows > ZMI_GPU_OWN / ZMI_MAX(in->as.route.k, 1)) continue;
    in->own = 1;
    own_logits(p, i);
    const zmi_gpu_range chosen = zmi_gpu_flow_of(in).writes[0];
    for (size_t j = i + 1; j < p->made_count; j++) {
      zmi_gpu_instruction *d = &p->made[j];
      if (d->kind == ZMI_GPU_ROUTE || writes(d, chosen)) break;
      if (d->kind == ZMI_GPU_DOT && d->as.dot.stage && d->as.dot.chosen == in->as.route.chosen && d->as.dot.pairs <= ZMI_GPU_OWN)
        d->as.dot.route = in->as.route.asked = 1; // its number comes when all have their places
    }
  }
}

// A worker writes the keys of the heads that it has turned itself: tile for tile.
static bool stays_with_worker(const zmi_gpu_instruction *a, const zmi_gpu_instruction *b) {
  if (a->kind != ZMI_GPU_ROTATE || b->kind != ZMI_GPU_WRITE) return false;
  const zmi_gpu_rotate *r = &a->as.rotate;
  const zmi_gpu_write *w = &b->as.write;
  return r->out == w->from && r->rows == w->rows && r->heads == w->kv_heads && r->dim == w->dim && r->dtype == w->dtype;
}

// Whether b has to wait for a.
static bool waits(const zmi_gpu_instruction *a, const zmi_gpu_instruction *b) {
  const zmi_gpu_flow f = zmi_gpu_flow_of(a), g = zmi_gpu_flow_of(b);
  for (int w = 0; w < ZMI_GPU_WRITES; w++) {
    for (int r = 0; r < ZMI_GPU_READS; r++) {
      if (zmi_gpu_meets(f.reads[r], g.writes[w])) return true;
      if (zmi_gpu_meets(f.writes[w], g.reads[r]) && !stays_with_worker(a, b)) return true;
    }
    for (int v = 0; v < ZMI_GPU_WRITES; v++) {
      if (zmi_gpu_meets(f.writes[w], g.writes[v])) return true;
    }
  }
  return false;
}

// Barriers where an instruction has to wait for one since the last barrier.
static void make_barriers(plan *p) {
  size_t since = 0;
  for (size_t i = 0; i < p->made_count; i++) {
    bool wait = false;
    // A launch makes rows and takes them: what its product waits for, READY waits for.
    const bool rows = p->way == ZMI_DEVICE_LAUNCHES && p->made[i].kind == ZMI_GPU_READY && i + 1 < p->made_count;
    for (size_t j = since; j < i && !wait; j++) wait = waits(&p->made[j], &p->made[i]) || (rows && waits(&p->made[j], &p->made[i + 1]));
    p->made[i].barrier = wait;
    if (wait) since = i;
  }
}

// The next barrier from instruction i on, or the count.
static size_t barrier_from(const plan *p, size_t i) {
  while (i < p->made_count && !p->made[i].barrier) i++;
  return i;
}

static size_t barriers_of(const plan *p) {
  size_t n = 0;
  for (size_t i = 0; i < p->made_count; i++) n += p->made[i].barrier != 0;
  return n;
}

// Whether a product behind instruction i takes rows that are there before it.
static bool rows_wait(const plan *p, size_t i) {
  while (++i < p->made_count && p->made[i].kind != ZMI_GPU_READY) {
    if (p->made[i].kind == ZMI_GPU_DOT && !p->made[i].as.dot.x) return true;
  }
  return false;
}

// Instruction `from` becomes number `to`.
static void move(plan *p, size_t from, size_t to) {
  const zmi_gpu_instruction in = p->made[from];
  if (from < to) memmove(&p->made[from], &p->made[from + 1], (to - from) * sizeof in);
  if (to < from) memmove(&p->made[to + 1], &p->made[to], (from - to) * sizeof in);
  p->made[to] = in;
}

// The state of a convolution is written by a few workers, and nothing of this step needs it: not behind the barrier where all others would
// wait for it, but before the one after that, where they wait for each other anyway.
static void late_states(plan *p) {
  for (size_t i = p->made_count; i-- > 1;) {
    const zmi_gpu_instruction *in = &p->made[i];
    if (in->kind != ZMI_GPU_CONV || in->as.conv.y || !in->barrier) continue;
    const size_t before = barriers_of(p);
    size_t to = i;
    for (size_t j = i + 1, end = barrier_from(p, i + 1); j < end; j++) {
      if (!rows_wait(p, j)) to = j; // its scratch lies over the rows
    }
    move(p, i, to);
    make_barriers(p);
    if (barriers_of(p) <= before) continue;
    move(p, to, i);
    make_barriers(p);
  }
}

static bool make(plan *p, int *first) {
  find_digits(p);
  for (size_t i = 0; i < p->count; i++) {
    if (p->all[i].kind == ZMI_GPU_NORM) find_norm(p, i);
  }
  for (size_t i = 0; i < p->count; i++) {
    if (p->all[i].kind == ZMI_GPU_DIGITS && p->gone[i]) find_conv(p, i);
  }
  for (size_t i = 0; i < p->count && p->way != ZMI_DEVICE_DIRECT; i++) {
    if (p->all[i].kind == ZMI_GPU_ELEMENTS) find_gated(p, i);
  }
  for (size_t i = 0; i < p->count; i++) {
    if (dropped(p, i)) continue;
    if (!(p->all[i].kind == ZMI_GPU_DOT ? add_dot(p, i) : add(p, &p->all[i]))) return false;
  }
  if (p->way != ZMI_DEVICE_LAUNCHES) {
    own_routes(p); // first: then there are fewer barriers
    make_barriers(p);
    late_states(p);
  }
  for (size_t i = 0, router = 0; i < p->made_count; i++) {
    if (p->made[i].kind == ZMI_GPU_ROUTE) router = i + 1;
    if (p->made[i].kind == ZMI_GPU_DOT && p->made[i].as.dot.route) p->made[i].as.dot.route = (int)router;
  }
  *first = (int)p->made_count;
  for (size_t i = p->made_count; i-- > 0;) {
    p->made[i].next = *first;
    if (p->made[i].kind == ZMI_GPU_DOT && p->made[i].as.dot.stage) *first = (int)i;
  }
  make_barriers(p);
  zmi_gpu_count(p->made, p->made_count);
  return true;
}

zm_status zmi_device_fuse(const zmi_gpu_instruction *all, size_t count, const zmi_gpu_range *outputs, size_t output_count,
                          zmi_device_way way, zmi_gpu_instruction **made, size_t *made_count, int *first) {
  plan p = {.count = count, .way = way, .outputs = outputs, .output_count = output_count};
  p.all = zmi_calloc(count + 1, sizeof *p.all);
  p.norm_of = zmi_calloc(count + 1, sizeof *p.norm_of);
  p.digits_of = zmi_calloc(count + 1, sizeof *p.digits_of);
  p.combine_of = zmi_calloc(count + 1, sizeof *p.combine_of);
  p.conv_of = zmi_calloc(count + 1, sizeof *p.conv_of);
  p.began = zmi_calloc(count + 1, sizeof *p.began);
  p.gone = zmi_calloc(count + 1, sizeof *p.gone);
  bool done = p.all && p.norm_of && p.digits_of && p.combine_of && p.conv_of && p.began && p.gone && count < INT_MAX / 4;
  if (done) {
    memcpy(p.all, all, count * sizeof *all);
    for (size_t i = 0; i < count; i++) p.norm_of[i] = p.digits_of[i] = p.combine_of[i] = p.conv_of[i] = -1;
    done = make(&p, first);
  }
  zmi_free(p.all);
  zmi_free(p.norm_of);
  zmi_free(p.digits_of);
  zmi_free(p.combine_of);
  zmi_free(p.conv_of);
  zmi_free(p.began);
  zmi_free(p.gone);
  if (!done) zmi_free(p.made);
  *made = done ? p.made : NULL;
  *made_count = done ? p.made_count : 0;
  return done ? ZM_OK : ZM_ERROR_MEMORY;
}
