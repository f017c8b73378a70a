// The CPU executor: a pool of workers walks the tape together. Each stage's tiles are shared out by place, so the same worker always gets
// the same part of a weight; a barrier stands only where one instruction meets the memory of another.
#include "backend/backend.h"

#include <string.h>

typedef struct step {
  const zmi_call *call;
  void (*run)(const zmi_call *c, int64_t begin, int64_t end);
  int64_t tiles;
  bool barrier; // before this step
  size_t instr;
  size_t waits_for; // with a barrier: the last instruction whose memory it meets
} step;

// When a worker began a step, behind the barrier if there is one, and ended it.
typedef struct stamp {
  double begun, ended;
} stamp;

struct zmi_player {
  zmi_tape *tape;
  zmi_call *calls; // one an instruction
  step *steps;
  size_t step_count, step_capacity;
  const zmi_call **prepared; // calls whose op wants to know of each play
  size_t prepared_count, prepared_capacity;
  bool light; // not worth waking anybody for
  // one play
  zmi_pool *pool;
  size_t first, last; // steps of this run
  stamp *stamps;      // of profiles: step_count a worker, and a gap that keeps workers off each other's lines
  size_t stamp_workers;
};

// ---- binding ----

static void bind_slots(zmi_tape *t, void *arena) {
  for (size_t i = 0; i < t->slot_count; i++) {
    zmi_slot *s = &t->slots[i];
    if (s->kind == ZMI_SLOT_TEMP || (s->kind == ZMI_SLOT_OUTPUT && !s->apart)) s->data = (char *)arena + s->offset;
  }
  for (size_t i = 0; i < t->slot_count; i++) {
    zmi_slot *s = &t->slots[i];
    if (s->kind == ZMI_SLOT_VIEW) {
      s->data = (char *)t->slots[s->base].data + s->shift * (int64_t)zm_dtype_size(s->type.dtype);
    }
  }
}

static void bind_call(zmi_call *c, const zmi_tape *t, const zmi_instr *in, void *arena, const zmi_kernels *kernels) {
  c->op = in->op;
  c->attrs = in->attrs.bytes;
  c->owner = in->owner;
  c->nin = in->nin;
  c->nout = in->nout;
  c->kernels = kernels;
  c->scratch = in->scratch ? (char *)arena + in->scratch_offset : NULL;
  for (int i = 0; i < in->nin; i++) {
    if (in->in[i] < 0) continue;
    c->in[i] = &t->slots[in->in[i]];
    c->src[i] = c->in[i]->data;
  }
  for (int o = 0; o < in->nout; o++) {
    c->out[o] = &t->slots[in->out[o]];
    c->dst[o] = c->out[o]->data;
  }
}

// ---- barriers ----

typedef struct span {
  const char *begin, *end;
  size_t instr;
} span;

enum { MOST_SPANS = 256 };

// Memory touched since the last barrier.
typedef struct traffic {
  span *reads, *writes;
  size_t read_count, read_capacity, write_count, write_capacity;
} traffic;

static span slot_span(const zmi_tape *t, int slot, size_t instr) {
  if (t->slots[slot].kind == ZMI_SLOT_VIEW) slot = t->slots[slot].base;
  const char *data = t->slots[slot].data;
  return (span){data, data + t->slots[slot].bytes, instr};
}

// If one of the spans meets s: true, and *last becomes the last instruction of those or stays what is later.
static bool meets(const span *spans, size_t count, span s, size_t *last) {
  for (size_t i = count; i-- > 0;) { // in order of instructions
    if (spans[i].begin >= s.end || s.begin >= spans[i].end) continue;
    *last = ZMI_MAX(*last, spans[i].instr);
    return true;
  }
  return false;
}

static bool add_span(span **spans, size_t *count, size_t *capacity, span s) {
  if (!ZMI_GROW(*spans, *capacity, *count + 1)) return false;
  (*spans)[(*count)++] = s;
  return true;
}

static bool is_constant(const zmi_tape *t, int slot) {
  if (t->slots[slot].kind == ZMI_SLOT_VIEW) slot = t->slots[slot].base;
  return t->slots[slot].kind == ZMI_SLOT_WEIGHT || t->slots[slot].kind == ZMI_SLOT_INPUT;
}

// Whether instruction `index` must wait for the ones since the last barrier, and for which of them; then notes its own traffic.
static zm_status note_traffic(traffic *m, const zmi_tape *t, size_t index, const zmi_call *c, bool *wait, size_t *waits_for) {
  const zmi_instr *in = &t->instrs[index];
  span writes[ZMI_MAX_OUT + 1];
  size_t write_count = 0;
  for (int o = 0; o < in->nout; o++) writes[write_count++] = slot_span(t, in->out[o], index);
  if (in->scratch) writes[write_count++] = (span){c->scratch, (char *)c->scratch + in->scratch, index};
  // A barrier now and then keeps the list short: binding takes linear time. It waits for the instruction before.
  *wait = m->read_count + m->write_count > MOST_SPANS;
  *waits_for = *wait ? index - 1 : 0;
  for (size_t i = 0; i < write_count; i++) {
    if (meets(m->reads, m->read_count, writes[i], waits_for)) *wait = true;
    if (meets(m->writes, m->write_count, writes[i], waits_for)) *wait = true;
  }
  for (int i = 0; i < in->nin; i++) {
    if (in->in[i] < 0 || is_constant(t, in->in[i])) continue;
    if (meets(m->writes, m->write_count, slot_span(t, in->in[i], index), waits_for)) *wait = true;
  }
  if (*wait) m->read_count = m->write_count = 0;
  for (size_t i = 0; i < write_count; i++) {
    if (!add_span(&m->writes, &m->write_count, &m->write_capacity, writes[i])) return ZM_ERROR_MEMORY;
  }
  for (int i = 0; i < in->nin; i++) {
    if (in->in[i] < 0 || is_constant(t, in->in[i])) continue;
    if (!add_span(&m->reads, &m->read_count, &m->read_capacity, slot_span(t, in->in[i], index))) return ZM_ERROR_MEMORY;
  }
  return ZM_OK;
}

// A player is light if no step can be shared out, or if all of them touch less memory than a sleeping worker costs in time.
enum { LIGHT_BYTES = 64 << 10 };

static void weigh(zmi_player *p) {
  bool single = true;
  size_t bytes = 0;
  for (size_t i = 0; i < p->step_count; i++) single = single && p->steps[i].tiles <= 1;
  for (size_t i = 0; i < p->tape->instr_count && bytes <= LIGHT_BYTES; i++) {
    const zmi_call *c = &p->calls[i];
    for (int k = 0; k < c->nin + c->nout; k++) {
      const zmi_slot *s = k < c->nin ? c->in[k] : c->out[k - c->nin];
      size_t more = 0;
      if (s && (!zmi_type_bytes(&s->type, &more) || zmi_add_overflow(bytes, more, &bytes))) bytes = SIZE_MAX / 2;
    }
  }
  p->light = single || bytes <= LIGHT_BYTES;
}

static zm_status add_steps(zmi_player *p, traffic *m, size_t index) {
  const zmi_instr *in = &p->tape->instrs[index];
  const zmi_call *c = &p->calls[index];
  bool any = false, wait;
  size_t waits_for;
  for (int s = 0; s < ZMI_MAX_STAGES && in->op->stages[s].run; s++) any = any || in->op->stages[s].tiles(c) > 0;
  if (!any) return ZM_OK; // nothing to compute: empty arrays
  zm_status status = note_traffic(m, p->tape, index, c, &wait, &waits_for);
  for (int s = 0; s < ZMI_MAX_STAGES && in->op->stages[s].run && status == ZM_OK; s++) {
    int64_t tiles = in->op->stages[s].tiles(c);
    if (tiles <= 0) continue;
    if (!ZMI_GROW(p->steps, p->step_capacity, p->step_count + 1)) return ZM_ERROR_MEMORY;
    p->steps[p->step_count++] =
        (step){.call = c, .run = in->op->stages[s].run, .tiles = tiles, .barrier = wait, .instr = index, .waits_for = waits_for};
    wait = true; // between the stages of one instruction
    waits_for = index;
  }
  return status;
}

zmi_player *zmi_player_new(zmi_tape *tape, void *arena, const zmi_kernels *kernels) {
  zmi_player *p = zmi_calloc(1, sizeof *p);
  if (!p) return NULL;
  p->tape = tape;
  p->calls = zmi_calloc(tape->instr_count + 1, sizeof *p->calls);
  zm_status status = p->calls ? ZM_OK : ZM_ERROR_MEMORY;
  traffic m = {0};
  bind_slots(tape, arena);
  for (size_t i = 0; i < tape->instr_count && status == ZM_OK; i++) {
    bind_call(&p->calls[i], tape, &tape->instrs[i], arena, kernels);
    status = add_steps(p, &m, i);
    if (status != ZM_OK || !tape->instrs[i].op->prepare) continue;
    if (ZMI_GROW(p->prepared, p->prepared_capacity, p->prepared_count + 1))
      p->prepared[p->prepared_count++] = &p->calls[i];
    else
      status = ZM_ERROR_MEMORY;
  }
  if (status == ZM_OK) weigh(p);
  zmi_free(m.reads);
  zmi_free(m.writes);
  if (status == ZM_OK) return p;
  zmi_player_free(p);
  return NULL;
}

void zmi_player_rebind(zmi_player *p, void *arena) {
  bind_slots(p->tape, arena);
  for (size_t i = 0; i < p->tape->instr_count; i++) bind_call(&p->calls[i], p->tape, &p->tape->instrs[i], arena, p->calls[i].kernels);
}

void zmi_player_free(zmi_player *p) {
  if (!p) return;
  zmi_free(p->calls);
  zmi_free(p->steps);
  zmi_free(p->prepared);
  zmi_free(p->stamps);
  zmi_free(p);
}

// ---- playing ----

static void play_steps(void *user, int worker, int workers) {
  zmi_player *p = user;
  for (size_t i = p->first; i < p->last; i++) {
    const step *s = &p->steps[i];
    if (s->barrier && workers > 1 && i > p->first) zmi_pool_barrier(p->pool, worker);
    int64_t begin = s->tiles * worker / workers, end = s->tiles * (worker + 1) / workers;
    if (begin < end) s->run(s->call, begin, end);
  }
}

static size_t stamps_a_worker(const zmi_player *p) {
  return p->step_count + 64 / sizeof(stamp);
}

static void play_with_stamps(void *user, int worker, int workers) {
  zmi_player *p = user;
  stamp *stamps = p->stamps + (size_t)worker * stamps_a_worker(p);
  double now = zmi_now();
  for (size_t i = p->first; i < p->last; i++) {
    const step *s = &p->steps[i];
    if (s->barrier && workers > 1 && i > p->first) {
      zmi_pool_barrier(p->pool, worker);
      now = zmi_now();
    }
    stamps[i].begun = now;
    int64_t begin = s->tiles * worker / workers, end = s->tiles * (worker + 1) / workers;
    if (begin < end) s->run(s->call, begin, end);
    stamps[i].ended = now = zmi_now();
  }
}

static void run_steps(zmi_player *p, zmi_pool *pool, size_t first, size_t last, zmi_pool_fn fn) {
  p->pool = pool;
  p->first = first;
  p->last = last;
  if (first == last) return;
  for (size_t i = 0; first == 0 && i < p->prepared_count; i++) p->prepared[i]->op->prepare(p->prepared[i]);
  if (!p->light) {
    zmi_pool_run(pool, fn, p);
    return;
  }
  unsigned saved = zmi_float_rule_enter();
  fn(p, 0, 1);
  zmi_float_rule_leave(saved);
}

void zmi_player_play(zmi_player *p, zmi_pool *pool) {
  run_steps(p, pool, 0, p->step_count, play_steps);
}

// ---- profiles ----

static zm_status prepare_profile(zmi_player *p, size_t workers, zmi_profile *profile) {
  if (!p->stamps || p->stamp_workers != workers) {
    zmi_free(p->stamps);
    p->stamps = zmi_calloc(workers * stamps_a_worker(p), sizeof *p->stamps);
    if (!p->stamps) return ZM_ERROR_MEMORY;
    p->stamp_workers = workers;
  }
  if (profile->steps) return ZM_OK;
  profile->steps = zmi_calloc(p->step_count + 1, sizeof *profile->steps);
  if (!profile->steps) return ZM_ERROR_MEMORY;
  profile->count = p->step_count + 1;
  for (size_t i = 0; i < p->step_count; i++) {
    const step *s = &p->steps[i];
    profile->steps[i] = (zmi_step_time){.instr = s->instr, .waits_for = s->barrier && i > 0 ? (int64_t)s->waits_for : -1};
  }
  const int64_t last = p->step_count ? (int64_t)p->steps[p->step_count - 1].instr : -1;
  profile->steps[p->step_count] = (zmi_step_time){.instr = p->tape->instr_count, .waits_for = last};
  return ZM_OK;
}

// Of step i, or of the end if i is step_count: workers arrive when they have ended the step before.
static void add_times(const zmi_player *p, size_t workers, size_t i, double start, double end, zmi_step_time *to) {
  double last = start;
  for (size_t w = 0; w < workers && i > 0; w++) last = ZMI_MAX(last, p->stamps[w * stamps_a_worker(p) + i - 1].ended);
  for (size_t w = 0; w < workers; w++) {
    const stamp *stamps = p->stamps + w * stamps_a_worker(p);
    const double came = i > 0 ? stamps[i - 1].ended : start, begun = i < p->step_count ? stamps[i].begun : end;
    to->waited += (begun - came) / (double)workers;
    if (to->waits_for >= 0) to->idle += (last - came) / (double)workers;
    if (i < p->step_count) to->worked += (stamps[i].ended - begun) / (double)workers;
  }
}

zm_status zmi_player_profile(zmi_player *p, zmi_pool *pool, zmi_profile *profile) {
  const size_t workers = p->light ? 1 : (size_t)zmi_pool_workers(pool);
  zm_status status = prepare_profile(p, workers, profile);
  if (status != ZM_OK) return status;
  const double start = zmi_now();
  run_steps(p, pool, 0, p->step_count, play_with_stamps);
  const double end = zmi_now();
  for (size_t i = 0; i <= p->step_count; i++) add_times(p, workers, i, start, end, &profile->steps[i]);
  profile->plays++;
  return ZM_OK;
}

void zmi_profile_release(zmi_profile *profile) {
  zmi_free(profile->steps);
  *profile = (zmi_profile){0};
}

void zmi_player_trace(zmi_player *p, zmi_pool *pool, void (*look)(void *user, const zmi_tape *tape, size_t instr), void *user) {
  size_t next = 0;
  for (size_t i = 0; i < p->tape->instr_count; i++) {
    size_t first = next;
    while (next < p->step_count && p->steps[next].instr == i) next++;
    run_steps(p, pool, first, next, play_steps);
    look(user, p->tape, i);
  }
}
