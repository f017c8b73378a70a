// The CPU executor: a pool of workers walks the tape together. A stage of an instruction is a job of base's phases: its tiles are shared
// out by place, so the same worker gets the same part of a weight each time, as long as no other is in need of work; a barrier stands
// only where one instruction meets the memory of another.
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

struct zmi_player {
  zmi_tape *tape;
  zmi_call *calls; // one an instruction
  step *steps;
  size_t step_count, step_capacity;
  const zmi_call **prepared; // calls whose op wants to know of each play
  size_t prepared_count, prepared_capacity;
  bool light;          // not worth waking anybody for
  zmi_phases *phases;  // the steps; a light player has none until it is profiled
  zmi_job_time *times; // of profiles: [workers][stride]
  size_t times_workers;
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

// Bytes of all operands and results of a call.
static size_t call_bytes(const zmi_call *c) {
  size_t bytes = 0;
  for (int k = 0; k < c->nin + c->nout; k++) {
    const zmi_slot *s = k < c->nin ? c->in[k] : c->out[k - c->nin];
    size_t more = 0;
    if (s && (!zmi_type_bytes(&s->type, &more) || zmi_add_overflow(bytes, more, &bytes))) bytes = SIZE_MAX / 2;
  }
  return bytes;
}

// A player is light if no step can be shared out, or if all of them touch less memory than a sleeping worker costs in time.
enum { LIGHT_BYTES = 64 << 10 };

static void weigh(zmi_player *p) {
  bool single = true;
  size_t bytes = 0;
  for (size_t i = 0; i < p->step_count; i++) single = single && p->steps[i].tiles <= 1;
  for (size_t i = 0; i < p->tape->instr_count && bytes <= LIGHT_BYTES; i++) {
    if (zmi_add_overflow(bytes, call_bytes(&p->calls[i]), &bytes)) bytes = SIZE_MAX / 2;
  }
  p->light = single || bytes <= LIGHT_BYTES;
}

// Tiles of a step are taken by as many at a time as stand for this much memory of its instruction: a piece costs a call, and what was asked
// for ahead of its end. All experts and the whole caches count, though a token reads a part of them.
enum { PIECE_BYTES = 512 << 10 };

static zm_status make_phases(zmi_player *p) {
  zmi_job *jobs = zmi_malloc((p->step_count + 1) * sizeof *jobs);
  if (!jobs) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < p->step_count; i++) {
    const step *s = &p->steps[i];
    const double tile = (double)call_bytes(s->call) / (double)s->tiles, least = (double)PIECE_BYTES / ZMI_MAX(tile, 1);
    jobs[i] = (zmi_job){s->tiles, 1 + (int64_t)ZMI_MIN(least, (double)s->tiles), s->barrier};
  }
  p->phases = zmi_phases_new(jobs, p->step_count);
  zmi_free(jobs);
  return p->phases ? ZM_OK : ZM_ERROR_MEMORY;
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
  if (status == ZM_OK && !p->light) status = make_phases(p);
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
  zmi_phases_free(p->phases);
  zmi_free(p->times);
  zmi_free(p);
}

// ---- playing ----

static void run_step(void *user, size_t index, int64_t begin, int64_t end) {
  const zmi_player *p = user;
  p->steps[index].run(p->steps[index].call, begin, end);
}

static void run_steps(zmi_player *p, zmi_pool *pool, size_t first, size_t last, const zmi_phase_watch *watch) {
  if (first == last) return;
  for (size_t i = 0; first == 0 && i < p->prepared_count; i++) p->prepared[i]->op->prepare(p->prepared[i]);
  if (!p->light || watch) {
    zmi_phases_run(p->phases, pool, first, last, run_step, p, watch);
    return;
  }
  unsigned saved = zmi_float_rule_enter();
  for (size_t i = first; i < last; i++) run_step(p, i, 0, p->steps[i].tiles);
  zmi_float_rule_leave(saved);
}

void zmi_player_play(zmi_player *p, zmi_pool *pool) {
  run_steps(p, pool, 0, p->step_count, NULL);
}

// ---- profiles ----

static size_t times_stride(const zmi_player *p) {
  return p->step_count + 64 / sizeof(zmi_job_time) + 1; // workers keep off each other's lines
}

static zm_status prepare_profile(zmi_player *p, size_t workers, zmi_profile *profile) {
  if (!p->phases && make_phases(p) != ZM_OK) return ZM_ERROR_MEMORY; // a light player
  if (!p->times || p->times_workers != workers) {
    zmi_free(p->times);
    p->times = zmi_calloc(workers * times_stride(p), sizeof *p->times);
    if (!p->times) return ZM_ERROR_MEMORY;
    p->times_workers = workers;
  }
  memset(p->times, 0, workers * times_stride(p) * sizeof *p->times);
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

// Of the phase from step `first`, or of the end if that is step_count: its first step waits since workers have ended the phase before,
// which began at step `before` (of the first phase: since the start), and for what they do in it besides their work.
static void add_phase(const zmi_player *p, size_t workers, size_t first, size_t end, size_t before, double start, double stop,
                      zmi_profile *profile) {
  const size_t stride = times_stride(p);
  const double share = 1 / (double)workers;
  zmi_step_time *to = &profile->steps[first];
  double last = start;
  for (size_t w = 0; w < workers && first > 0; w++) last = ZMI_MAX(last, p->times[w * stride + before].ended);
  for (size_t w = 0; w < workers; w++) {
    const zmi_job_time *t = p->times + w * stride;
    const double came = first > 0 ? t[before].ended : start, begun = first < p->step_count ? t[first].begun : stop;
    to->waited += (begun - came) * share;
    if (to->waits_for >= 0) to->idle += ZMI_MIN(ZMI_MAX(last - came, 0), begun - came) * share;
    for (size_t i = first; i < end; i++) {
      profile->steps[i].worked += t[i].worked * share;
      to->waited -= t[i].worked * share;
    }
    if (first < p->step_count) to->waited += (t[first].ended - begun) * share;
  }
}

zm_status zmi_player_profile(zmi_player *p, zmi_pool *pool, zmi_profile *profile) {
  const size_t workers = (size_t)zmi_pool_workers(pool);
  zm_status status = prepare_profile(p, workers, profile);
  if (status != ZM_OK) return status;
  const zmi_phase_watch watch = {p->times, times_stride(p)};
  const double start = zmi_now();
  run_steps(p, pool, 0, p->step_count, &watch);
  const double stop = zmi_now();
  for (size_t i = 0, end, before = 0; i < p->step_count; before = i, i = end) {
    for (end = i + 1; end < p->step_count && !p->steps[end].barrier;) end++;
    add_phase(p, workers, i, end, before, start, stop, profile);
    if (end == p->step_count) add_phase(p, workers, end, end, i, start, stop, profile);
  }
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
    run_steps(p, pool, first, next, NULL);
    look(user, p->tape, i);
  }
}
