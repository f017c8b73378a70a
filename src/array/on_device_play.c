// Plays a tape of arrays where a GPU is chosen. Each op goes one of three ways, by its row: as a kernel of the kernel language
// (zmi_op.kernel), by instructions of the device code (zmi_op.device), or on the CPU by its own stages. Values are brought to where they
// are needed and stay where they are otherwise; memory of results in between is given back behind the last op that reads it.
#include "array/on_device.h"

#include <string.h>

#include "array/ops/ops.h"

// Where the values of a slot are. Of slots of arrays the array knows it.
typedef struct place {
  zmi_gpu_address at;
  void *host;  // from zmi_buffer_alloc
  bool there;  // whether `at` has the values
  size_t last; // the last instruction that touches it; SIZE_MAX: it is a result
} place;

typedef struct play {
  zmi_cuda *gpu;
  zmi_there_counts *counts;
  const zmi_tape *tape;
  place *places;
  zmi_pool *pool;
  const zmi_kernels *kernels;
} play;

static int base_of(const zmi_tape *t, int slot) {
  return t->slots[slot].base >= 0 ? t->slots[slot].base : slot;
}

static int64_t shift_of(const zmi_slot *s) {
  return s->base >= 0 ? s->shift * (int64_t)zm_dtype_size(s->type.dtype) : 0;
}

// ---- places ----

static zm_status get_there(play *p, int base) {
  place *at = &p->places[base];
  return at->at ? ZM_OK : zmi_device_get(p->gpu, p->tape->slots[base].bytes, &at->at);
}

static zm_status get_here(play *p, int base) {
  place *at = &p->places[base];
  if (!at->host) at->host = zmi_buffer_alloc(p->tape->slots[base].bytes);
  return at->host ? ZM_OK : ZM_ERROR_MEMORY;
}

// The device address of a slot's first element, its values being there.
static zm_status bring_there(play *p, int slot, const void **address) {
  const int base = base_of(p->tape, slot);
  const zmi_slot *s = &p->tape->slots[base];
  place *at = &p->places[base];
  zmi_gpu_address first = 0;
  zm_status status = ZM_OK;
  if (s->array) {
    status = zmi_there_of(s->array, &first);
  } else {
    const bool send = !at->there;
    status = get_there(p, base);
    if (status == ZM_OK && send) status = zmi_device_send(p->gpu, at->at, at->host, s->bytes);
    at->there = at->there || status == ZM_OK;
    first = at->at;
  }
  *address = (const void *)(uintptr_t)(first + (zmi_gpu_address)shift_of(&p->tape->slots[slot]));
  return status;
}

// The same of the host.
static zm_status bring_here(play *p, int slot, const void **address) {
  const int base = base_of(p->tape, slot);
  const zmi_slot *s = &p->tape->slots[base];
  place *at = &p->places[base];
  zm_status status = ZM_OK;
  if (s->array) {
    zm_array *a = s->array;
    status = zmi_there_fetch(a);
    *address = status == ZM_OK ? (const char *)a->data + shift_of(&p->tape->slots[slot]) : NULL;
    return status;
  }
  if (!at->host && (status = get_here(p, base)) == ZM_OK && at->there) {
    status = zmi_device_fetch(p->gpu, at->host, at->at, s->bytes);
    if (status != ZM_OK) {
      zmi_buffer_free(at->host, s->bytes);
      at->host = NULL;
    }
  }
  *address = at->host ? (const char *)at->host + shift_of(&p->tape->slots[slot]) : NULL;
  return status;
}

static void drop(play *p, int base) {
  place *at = &p->places[base];
  const size_t bytes = p->tape->slots[base].bytes;
  if (at->at) zmi_device_give_back(p->gpu, at->at, bytes);
  if (at->host) zmi_buffer_free(at->host, bytes);
  *at = (place){.last = at->last};
}

static void find_last(play *p, const int *outputs, size_t count) {
  for (size_t i = 0; i < p->tape->instr_count; i++) {
    const zmi_instr *in = &p->tape->instrs[i];
    for (int k = 0; k < in->nin; k++) {
      if (in->in[k] >= 0) p->places[base_of(p->tape, in->in[k])].last = i;
    }
    for (int o = 0; o < in->nout; o++) p->places[base_of(p->tape, in->out[o])].last = i;
  }
  for (size_t i = 0; i < count; i++) p->places[outputs[i]].last = SIZE_MAX;
}

static void drop_after(play *p, size_t index) {
  const zmi_instr *in = &p->tape->instrs[index];
  for (int k = 0; k < in->nin + in->nout; k++) {
    const int slot = k < in->nin ? in->in[k] : in->out[k - in->nin];
    const int base = slot >= 0 ? base_of(p->tape, slot) : -1;
    if (base >= 0 && p->places[base].last == index) drop(p, base);
  }
}

// ---- on the CPU ----

static size_t bytes_of(const zmi_call *c) {
  size_t bytes = 0, more = 0;
  for (int k = 0; k < c->nin + c->nout; k++) {
    const zmi_slot *s = k < c->nin ? c->in[k] : c->out[k - c->nin];
    if (s && (!zmi_type_bytes(&s->type, &more) || zmi_add_overflow(bytes, more, &bytes))) return SIZE_MAX;
  }
  return bytes;
}

typedef struct stages {
  const zmi_call *call;
  int stage[ZMI_MAX_STAGES];
} stages;

static void run_stage(void *user, size_t job, int64_t begin, int64_t end) {
  const stages *s = user;
  s->call->op->stages[s->stage[job]].run(s->call, begin, end);
}

// By all threads, if there is enough to do.
static zm_status run_stages(play *p, const zmi_call *c) {
  enum { FEW = 64 << 10 };
  zmi_job jobs[ZMI_MAX_STAGES];
  stages s = {.call = c};
  size_t count = 0;
  for (int i = 0; i < ZMI_MAX_STAGES && c->op->stages[i].run; i++) {
    const int64_t tiles = c->op->stages[i].tiles(c);
    if (tiles <= 0) continue;
    s.stage[count] = i;
    jobs[count++] = (zmi_job){tiles, 1, true};
  }
  if (count == 0) return ZM_OK;
  if (bytes_of(c) <= FEW) {
    const unsigned saved = zmi_float_rule_enter();
    for (size_t i = 0; i < count; i++) run_stage(&s, i, 0, jobs[i].tiles);
    zmi_float_rule_leave(saved);
    return ZM_OK;
  }
  zmi_phases *phases = zmi_phases_new(jobs, count);
  if (!phases) return ZM_ERROR_MEMORY;
  zmi_phases_run(phases, p->pool, 0, count, run_stage, &s, NULL);
  zmi_phases_free(phases);
  return ZM_OK;
}

static zm_status play_here(play *p, const zmi_instr *in, zmi_call *c) {
  const void *address = NULL;
  zm_status status = zmi_kernel_require(in->op, in->owner);
  for (int k = 0; k < in->nin && status == ZM_OK; k++) {
    if (in->in[k] < 0) continue;
    status = bring_here(p, in->in[k], &address);
    c->src[k] = address;
  }
  for (int o = 0; o < in->nout && status == ZM_OK; o++) {
    status = get_here(p, in->out[o]);
    c->dst[o] = p->places[in->out[o]].host;
  }
  if (status != ZM_OK) return status;
  const size_t scratch = in->op->scratch ? in->op->scratch(c) : 0;
  if (scratch && !(c->scratch = zmi_buffer_alloc(scratch))) return ZM_ERROR_MEMORY;
  if (in->op->prepare) in->op->prepare(c);
  status = run_stages(p, c);
  p->counts->on_cpu++;
  if (scratch) zmi_buffer_free(c->scratch, scratch);
  return status;
}

// ---- on the GPU ----

static zm_status play_on_gpu(play *p, const zmi_instr *in, zmi_call *c, bool *runs) {
  zmi_op_kernel kernel = {0};
  zm_status status = ZM_OK;
  const bool known = zmi_kernel_of(c, &kernel);
  if (!known && !in->op->device) return ZM_OK;
  for (int k = 0; k < in->nin && status == ZM_OK; k++) {
    if (in->in[k] >= 0) status = bring_there(p, in->in[k], &c->src[k]);
  }
  for (int o = 0; o < in->nout && status == ZM_OK; o++) {
    status = get_there(p, in->out[o]);
    c->dst[o] = (void *)(uintptr_t)p->places[in->out[o]].at;
  }
  if (status == ZM_OK && known) status = zmi_kernel_there(p->gpu, c, &kernel, runs);
  if (status == ZM_OK && !*runs && in->op->device) status = zmi_device_play_op(p->gpu, c, runs);
  for (int o = 0; o < in->nout; o++) p->places[in->out[o]].there = status == ZM_OK && *runs;
  return status;
}

static zmi_call call_of(const play *p, const zmi_instr *in) {
  zmi_call c = {.op = in->op, .attrs = in->attrs.bytes, .owner = in->owner, .nin = in->nin, .nout = in->nout, .kernels = p->kernels};
  for (int k = 0; k < in->nin; k++) c.in[k] = in->in[k] < 0 ? NULL : &p->tape->slots[in->in[k]];
  for (int o = 0; o < in->nout; o++) c.out[o] = &p->tape->slots[in->out[o]];
  return c;
}

static zm_status play_one(play *p, size_t index) {
  const zmi_instr *in = &p->tape->instrs[index];
  zmi_call c = call_of(p, in);
  bool empty = true, runs = false;
  for (int o = 0; o < in->nout; o++) {
    if (in->op->updates[o])
      return zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: %s changes a state, which is for models only", in->op->name);
    empty = empty && zmi_type_count(&c.out[o]->type) == 0;
  }
  zm_status status = ZM_OK;
  if (!empty) status = play_on_gpu(p, in, &c, &runs);
  if (!empty && status == ZM_OK && !runs) status = play_here(p, in, &c);
  drop_after(p, index);
  return status;
}

// ---- results ----

static zm_status give(play *p, int slot, zmi_values *v) {
  place *at = &p->places[slot];
  const size_t bytes = p->tape->slots[slot].bytes;
  if (at->at && !at->there) {
    zmi_device_give_back(p->gpu, at->at, bytes);
    at->at = 0;
  }
  zm_status status = ZM_OK;
  if (!at->at) status = get_here(p, slot); // computed here, or empty
  if (status == ZM_OK && at->at) {
    v->there = zmi_there_new(at->at, bytes);
    at->at = 0;
    if (!v->there) status = ZM_ERROR_MEMORY;
  }
  v->data = at->host;
  at->host = NULL;
  return status;
}

zm_status zmi_play_there(const zmi_tape *t, const int *outputs, size_t count, zmi_pool *pool, const zmi_kernels *kernels,
                         zmi_values *results) {
  play p = {.tape = t, .pool = pool, .kernels = kernels};
  for (size_t i = 0; i < count; i++) results[i] = (zmi_values){0};
  if (!(p.gpu = zmi_there_begin(&p.counts))) return zm_last_status();
  zm_status status = ZM_OK;
  if ((p.places = zmi_calloc(t->slot_count + 1, sizeof *p.places)))
    find_last(&p, outputs, count);
  else
    status = ZM_ERROR_MEMORY;
  for (size_t i = 0; i < t->instr_count && status == ZM_OK; i++) status = play_one(&p, i);
  if (status == ZM_OK) status = zmi_device_wait(p.gpu);
  for (size_t i = 0; i < count && status == ZM_OK; i++) status = give(&p, outputs[i], &results[i]);
  for (size_t i = 0; p.places && i < t->slot_count; i++) drop(&p, (int)i);
  zmi_there_end();
  for (size_t i = 0; i < count && status != ZM_OK; i++) {
    zmi_values_free(results[i], t->slots[outputs[i]].bytes);
    results[i] = (zmi_values){0};
  }
  zmi_free(p.places);
  return status;
}
