// Plays tapes on a GPU. Instructions of the device are made once from the tape's ops; an executor plays them: a launch for each (stream),
// the same launches captured once (graph), or one launch of a kernel that goes through them all (persistent). No bit depends on which.
#include "backend/cuda/flow.h"
#include "backend/cuda/launch.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

// Scratch of neighbouring ops of a tape lies apart, so that ops that do not depend on each other do not meet there either, and what the
// resident kernel reads one or two ops later is still there.
enum { SCRATCH_TURNS = 4, ALIGN = 256 };

struct zmi_device_code {
  zmi_gpu_instruction *all;
  size_t count, capacity;
  zmi_gpu_address scratch;               // of the turn at hand
  size_t used, needed;                   // bytes of it: of this op, the most of any
  int of_instr, added;                   // added: of this op
  zmi_gpu_address chosen, pieces, order; // the last SORT of this op
  zm_status status;
};

typedef struct transfer {
  void *host;
  zmi_gpu_address at;
  size_t bytes, place; // place: in the pinned memory
} transfer;

// Of the resident kernel, in memory that both see: what a play begins with, how it was afterwards, and what is told while it goes on.
typedef struct post {
  zmi_gpu_play start, ended;
  zmi_gpu_mail mail;
} post;

static size_t aligned(size_t bytes) {
  return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

struct zmi_device_player {
  zmi_cuda *device;
  zmi_tape *tape;
  zmi_executor executor;
  zmi_device_code code;
  zmi_gpu_address *slots; // of each slot of the tape: its first element
  zmi_gpu_address arena, scratch, inputs, instructions;
  size_t scratch_bytes;
  transfer *in, *out; // each play
  size_t in_count, out_count;
  char *pinned; // what `in` and then `out` go through
  size_t input_bytes, pinned_bytes;
  cu_graph_exec graph;
  zmi_gpu_instruction *fused; // put together: all instructions of the resident kernel, of launches if that comes out
  size_t fused_count;
  zmi_device_group *groups; // the launches
  size_t group_count;
  // Of the resident kernel: the first instruction whose weights come through the ring, where its zmi_gpu_play is.
  int first;
  zmi_gpu_address play, best;
  int blocks, shared;
  post *post;
  int taken;               // tokens of the run at hand that were handed out
  bool over, asked;        // the run has ended; it was asked to
  zmi_device_player *next; // of those that zmi_device_stop reaches
};

static pthread_mutex_t stop_lock = PTHREAD_MUTEX_INITIALIZER;
static zmi_device_player *residents;
static atomic_bool stopped;

// ---- making instructions ----

void zmi_device_add(zmi_device_code *code, const zmi_gpu_instruction *in, int flags) {
  if (code->status != ZM_OK || in->tiles <= 0) return;
  if (!ZMI_GROW(code->all, code->capacity, code->count + 1)) {
    code->status = ZM_ERROR_MEMORY;
    return;
  }
  zmi_gpu_instruction *to = &code->all[code->count++];
  *to = *in;
  to->of_instr = code->of_instr;
  to->barrier = code->added++ == 0 || !(flags & ZMI_GPU_TOGETHER);
}

zmi_gpu_address zmi_device_scratch(zmi_device_code *code, size_t bytes) {
  const zmi_gpu_address at = code->scratch + code->used;
  if (bytes > SIZE_MAX / 4 - code->used) {
    code->status = zmi_fail(ZM_ERROR_MEMORY, "device cuda: an instruction needs more memory than can be addressed");
    return 0;
  }
  code->used += aligned(bytes);
  code->needed = ZMI_MAX(code->needed, code->used);
  return at;
}

bool zmi_device_sorted(zmi_device_code *code, zmi_gpu_sort *s) {
  if (code->chosen && code->chosen == s->chosen) {
    s->order = code->order;
    s->pieces = code->pieces;
    return true;
  }
  const size_t pieces = (size_t)ZMI_GPU_PIECES(s->pairs, s->experts);
  code->chosen = s->chosen;
  code->order = s->order = zmi_device_scratch(code, (size_t)s->pairs * 4);
  code->pieces = s->pieces = zmi_device_scratch(code, pieces * sizeof(zmi_gpu_piece));
  return false;
}

static void bind_call(zmi_call *c, const zmi_device_player *p, const zmi_instr *in) {
  *c = (zmi_call){.op = in->op, .attrs = in->attrs.bytes, .owner = in->owner, .nin = in->nin, .nout = in->nout};
  for (int i = 0; i < in->nin; i++) {
    if (in->in[i] < 0) continue;
    c->in[i] = &p->tape->slots[in->in[i]];
    c->src[i] = (const void *)(uintptr_t)p->slots[in->in[i]];
  }
  for (int o = 0; o < in->nout; o++) {
    c->out[o] = &p->tape->slots[in->out[o]];
    c->dst[o] = (void *)(uintptr_t)p->slots[in->out[o]];
  }
}

static bool computes(const zmi_instr *in, const zmi_tape *t) {
  for (int o = 0; o < in->nout; o++) {
    if (zmi_type_count(&t->slots[in->out[o]].type) > 0) return true;
  }
  return false;
}

// Products of many rows take the shared memory that there is: fewer steps ahead, or, if there is no room for two, weights once a row.
static void fit_many(zmi_gpu_instruction *in, size_t shared) {
  zmi_gpu_many *m = &in->as.many;
  if (in->kind != ZMI_GPU_MANY) return;
  for (; m->stages > 2 && (size_t)in->shared > shared; in->shared = zmi_gpu_many_shared(m)) m->stages--;
  const zmi_gpu_dot d = m->dot;
  if ((size_t)in->shared <= shared || d.pairs > INT_MAX / d.blocks) return;
  memset(&in->as, 0, sizeof in->as);
  in->as.dot = d;
  in->kind = ZMI_GPU_DOT;
  in->tiles = d.pairs * d.blocks;
  in->shared = ZMI_GPU_DOT_SHARED;
}

static zm_status fit_shared(const zmi_cuda *d, zmi_device_code *code) {
  for (size_t i = 0; i < code->count; i++) {
    fit_many(&code->all[i], d->shared);
    if ((size_t)code->all[i].shared > d->shared)
      return zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: an instruction needs %d bytes of shared memory, this GPU has %zu",
                      code->all[i].shared, d->shared);
  }
  return ZM_OK;
}

// All instructions, with scratch at p->scratch (at first 0: to find out how much is needed).
static zm_status make_code(zmi_device_player *p) {
  zmi_device_code *code = &p->code;
  code->count = 0;
  for (size_t i = 0; i < p->tape->instr_count; i++) {
    const zmi_instr *in = &p->tape->instrs[i];
    zmi_call c;
    if (!computes(in, p->tape)) continue;
    if (!in->op->device) {
      return zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: operation %s does not run on a GPU yet (%s); use --device cpu", in->op->name,
                      in->label ? in->label : "no place in a model");
    }
    bind_call(&c, p, in);
    code->of_instr = (int)i;
    code->added = 0;
    code->used = 0;
    code->chosen = 0;
    code->scratch = p->scratch + i % SCRATCH_TURNS * p->scratch_bytes;
    zm_status status = in->op->device(&c, code);
    if (status == ZM_OK) status = code->status;
    if (status != ZM_OK) return zmi_fail_within("%s", in->label ? in->label : in->op->name);
  }
  return fit_shared(p->device, code);
}

zm_status zmi_device_op_code(zmi_cuda *d, const zmi_call *c, zmi_gpu_address scratch, zmi_gpu_instruction **all, size_t *count,
                             size_t *needed) {
  zmi_device_code code = {.scratch = scratch};
  zm_status status = c->op->device(c, &code);
  if (status == ZM_OK) status = code.status;
  if (status == ZM_OK) status = fit_shared(d, &code);
  *all = code.all;
  *count = code.count;
  *needed = code.needed;
  if (status == ZM_OK) return ZM_OK;
  zmi_free(code.all);
  *all = NULL;
  return status;
}

// ---- memory ----

static bool in_arena(const zmi_slot *s) {
  return s->kind == ZMI_SLOT_TEMP || s->kind == ZMI_SLOT_OUTPUT;
}

// Bytes of the arena. Each result has memory of its own if that is not much: who reads a number late is not in the way of who writes the
// next. Else results share memory as the tape has it.
static size_t arena_bytes(const zmi_tape *t, bool *apart) {
  const size_t most = (size_t)256 << 20;
  size_t bytes = 0;
  for (size_t i = 0; i < t->slot_count && bytes <= most; i++) {
    if (in_arena(&t->slots[i])) bytes += ZMI_MIN(t->slots[i].bytes, most) + ALIGN;
  }
  *apart = bytes <= most;
  return *apart ? bytes : t->arena_bytes;
}

// input, result: bytes of those so far.
static zm_status bind_slot(zmi_device_player *p, size_t i, bool apart, size_t *input, size_t *result) {
  zmi_slot *s = &p->tape->slots[i];
  switch (s->kind) {
  case ZMI_SLOT_TEMP:
  case ZMI_SLOT_OUTPUT:
    p->slots[i] = p->arena + (apart ? *result : s->offset);
    *result += aligned(s->bytes);
    break;
  case ZMI_SLOT_WEIGHT:
    return s->bytes ? zmi_device_resident(p->device, s->data, s->bytes, &p->slots[i]) : ZM_OK;
  case ZMI_SLOT_STATE:
    p->slots[i] = zmi_gpu_at(s->data);
    break;
  case ZMI_SLOT_INPUT:
    p->slots[i] = p->inputs + *input;
    *input += aligned(s->bytes);
    break;
  case ZMI_SLOT_VIEW:
    break;
  }
  return ZM_OK;
}

static zm_status add_transfer(transfer **all, size_t *count, void *host, zmi_gpu_address at, size_t bytes, size_t place) {
  size_t capacity = *count;
  if (!ZMI_GROW(*all, capacity, *count + 1)) return ZM_ERROR_MEMORY;
  (*all)[(*count)++] = (transfer){host, at, bytes, place};
  return ZM_OK;
}

static zm_status bind_slots(zmi_device_player *p) {
  const zmi_tape *t = p->tape;
  size_t at = 0, result = 0;
  bool apart = false;
  const size_t bytes = arena_bytes(t, &apart);
  for (size_t i = 0; i < t->slot_count; i++) {
    if (t->slots[i].kind == ZMI_SLOT_INPUT) p->input_bytes += aligned(t->slots[i].bytes);
  }
  zm_status status = zmi_device_alloc(p->device, bytes, "results in between", &p->arena);
  if (status == ZM_OK) status = zmi_device_alloc(p->device, p->input_bytes, "inputs", &p->inputs);
  for (size_t i = 0; i < t->slot_count && status == ZM_OK; i++) status = bind_slot(p, i, apart, &at, &result);
  p->pinned_bytes = p->input_bytes;
  for (size_t i = 0; i < t->slot_count && status == ZM_OK; i++) {
    const zmi_slot *s = &t->slots[i];
    if (s->kind == ZMI_SLOT_VIEW) p->slots[i] = p->slots[s->base] + (zmi_gpu_address)(s->shift * (int64_t)zm_dtype_size(s->type.dtype));
    // Inputs lie there as they do on the device: one transfer takes them all.
    if (s->kind == ZMI_SLOT_INPUT)
      status = add_transfer(&p->in, &p->in_count, s->data, p->slots[i], s->bytes, (size_t)(p->slots[i] - p->inputs));
    if (s->kind != ZMI_SLOT_OUTPUT) continue;
    status = add_transfer(&p->out, &p->out_count, s->data, p->slots[i], s->bytes, p->pinned_bytes);
    p->pinned_bytes += aligned(s->bytes);
  }
  return status;
}

static zm_status upload_code(zmi_device_player *p, const zmi_gpu_instruction *all, size_t count) {
  const size_t bytes = count * sizeof *all;
  zm_status status = zmi_device_alloc(p->device, bytes, "instructions", &p->instructions);
  return status == ZM_OK && bytes ? zmi_device_upload(p->device, p->instructions, all, bytes) : status;
}

// Products of many rows are for launches: a step that has one is played as a graph.
static bool has_many(const zmi_device_player *p) {
  for (size_t i = 0; i < p->code.count; i++) {
    if (p->code.all[i].kind == ZMI_GPU_MANY) return true;
  }
  return false;
}

static zm_status make_player(zmi_device_player *p) {
  p->slots = zmi_calloc(p->tape->slot_count + 1, sizeof *p->slots);
  zm_status status = p->slots ? bind_slots(p) : ZM_ERROR_MEMORY;
  if (status == ZM_OK) status = make_code(p); // sizes of scratch
  p->scratch_bytes = p->code.needed;
  if (status == ZM_OK) status = zmi_device_alloc(p->device, p->scratch_bytes * SCRATCH_TURNS, "scratch", &p->scratch);
  if (status == ZM_OK) status = make_code(p);
  if (p->executor == ZMI_EXECUTOR_PERSISTENT && has_many(p)) p->executor = ZMI_EXECUTOR_GRAPH;
  if (status != ZM_OK) return status;
  return zmi_device_check(p->device, p->device->cu->host_alloc((void **)&p->pinned, p->pinned_bytes + 1, 0),
                          "getting memory for transfers");
}

// Instructions put together; outputs: what the host reads.
static zm_status fuse(zmi_device_player *p, zmi_device_way way) {
  zmi_gpu_range *outputs = zmi_calloc(p->out_count + 1, sizeof *outputs);
  if (!outputs) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < p->out_count; i++) outputs[i] = (zmi_gpu_range){p->out[i].at, p->out[i].bytes};
  zmi_free(p->fused);
  zm_status status = zmi_device_fuse(p->code.all, p->code.count, outputs, p->out_count, way, &p->fused, &p->fused_count, &p->first);
  zmi_free(outputs);
  return status;
}

// The launches of a step: of instructions put together, or of each alone.
static zm_status make_launches(zmi_device_player *p) {
  zmi_cuda *d = p->device;
  zm_status status = fuse(p, ZMI_DEVICE_LAUNCHES);
  if (status != ZM_OK || zmi_device_groups(d, p->fused, p->fused_count, &p->groups, &p->group_count)) return status;
  zmi_free(p->fused);
  p->fused = NULL;
  p->groups = zmi_calloc(p->code.count + 1, sizeof *p->groups);
  if (!p->groups) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < p->code.count; i++) p->groups[i] = zmi_device_alone(d, &p->code.all[i]);
  p->group_count = p->code.count;
  return ZM_OK;
}

static size_t edge(size_t bytes) {
  enum { EDGE = 128 };
  return (bytes + EDGE - 1) / EDGE * EDGE;
}

// Shared memory of a block: what it keeps, scratch of instructions and what READY makes, the ring of weights, as many slots as there is
// room for. A multiprocessor has one block: two would make the same rows, and meet twice as many. 0 slots if there is no room for two.
static zmi_gpu_play share_out(zmi_device_player *p) {
  enum { LEAST_SLOTS = 2 };
  zmi_gpu_play play = {0};
  size_t scratch = edge(ZMI_GPU_CHOICE_SHARED), ready = 0, over = 0; // over: of scratch that lies over the rows
  for (size_t i = 0; i < p->fused_count; i++) {
    const zmi_gpu_instruction *in = &p->fused[i];
    size_t *of = zmi_gpu_over_rows(in) ? &over : &scratch;
    *of = ZMI_MAX(*of, edge((size_t)in->shared));
    if (in->kind == ZMI_GPU_READY) ready = ZMI_MAX(ready, edge((size_t)in->as.ready.rows * (size_t)in->as.ready.bytes));
  }
  const size_t fixed = ZMI_GPU_OWN_SHARED + ZMI_MAX(scratch + ready, over);
  for (int slots = ZMI_GPU_SLOTS; slots >= LEAST_SLOTS && !play.slots; slots /= 2) {
    if (fixed + (size_t)ZMI_GPU_RING_SHARED(slots) <= p->device->shared) play.slots = slots;
  }
  play.ready_at = ZMI_GPU_OWN_SHARED + (int)scratch;
  play.ring_at = (int)fixed;
  p->shared = play.ring_at + (play.slots ? ZMI_GPU_RING_SHARED(play.slots) : 0);
  return play;
}

static zm_status open_post(zmi_device_player *p, zmi_gpu_play *play) {
  const zmi_cuda_driver *cu = p->device->cu;
  cu_result r = cu->host_alloc((void **)&p->post, sizeof *p->post, CU_HOST_MAPPED);
  if (!r) r = cu->host_address(&play->mail, &p->post->mail, 0);
  if (r) return zmi_device_check(p->device, r, "getting memory that host and GPU share");
  *p->post = (post){.start = *play};
  pthread_mutex_lock(&stop_lock);
  p->next = residents;
  residents = p;
  pthread_mutex_unlock(&stop_lock);
  return ZM_OK;
}

static void close_post(zmi_device_player *p) {
  pthread_mutex_lock(&stop_lock);
  for (zmi_device_player **at = &residents; *at; at = &(*at)->next) {
    if (*at != p) continue;
    *at = p->next;
    break;
  }
  pthread_mutex_unlock(&stop_lock);
  if (p->post) p->device->cu->host_free(p->post);
}

static zm_status make_resident(zmi_device_player *p) {
  zmi_cuda *d = p->device;
  zm_status status = fuse(p, ZMI_DEVICE_RING);
  if (status != ZM_OK) return status;
  zmi_gpu_play play = share_out(p);
  if (!play.slots) status = fuse(p, ZMI_DEVICE_DIRECT);
  if (!play.slots && status == ZM_OK) play = share_out(p);
  if (status == ZM_OK && (size_t)p->shared > d->shared)
    status = zmi_fail(ZM_ERROR_UNSUPPORTED,
                      "device cuda: the resident kernel needs %d bytes of shared memory, this GPU has %zu: try "
                      "--executor graph",
                      p->shared, d->shared);
  if (status == ZM_OK) status = upload_code(p, p->fused, p->fused_count);
  if (status == ZM_OK) status = zmi_device_alloc(d, sizeof play, "barriers", &p->play);
  if (status == ZM_OK) {
    cu_result r = d->cu->function_blocks(&p->blocks, d->resident, ZMI_GPU_FED, (size_t)p->shared);
    status = zmi_device_check(d, r, "asking how many blocks fit");
  }
  play.each = ZMI_MAX(p->blocks, 1);
  p->blocks *= d->processors;
  if (status == ZM_OK) status = zmi_device_alloc(d, ZMI_GPU_CHOICE_WORDS((size_t)p->blocks) * 8, "choosing tokens", &p->best);
  play.best = p->best;
  return status == ZM_OK ? open_post(p, &play) : status;
}

// Whether the resident kernel is the faster one: where weights come through its ring, for a row or two (measured; of more rows launches
// share weights).
static bool resident_pays(const zmi_device_player *p) {
  enum { MOST_ROWS = 2 };
  int rows = 0;
  for (size_t i = 0; i < p->fused_count; i++) {
    const zmi_gpu_instruction *in = &p->fused[i];
    if (in->kind == ZMI_GPU_READY && in->as.ready.norm) rows = ZMI_MAX(rows, in->as.ready.rows);
  }
  return (size_t)p->first < p->fused_count && rows <= MOST_ROWS;
}

// Left to choose: the resident kernel where that pays, else the graph.
zmi_device_player *zmi_device_player_new(zmi_cuda *d, zmi_tape *tape, zmi_executor executor) {
  const bool chooses = executor == ZMI_EXECUTOR_AUTO;
  zmi_device_player *p = zmi_calloc(1, sizeof *p);
  if (!p) return NULL;
  p->device = d;
  p->tape = tape;
  p->executor = chooses ? ZMI_EXECUTOR_PERSISTENT : executor;
  zm_status status = make_player(p);
  const bool resident = status == ZM_OK && p->executor == ZMI_EXECUTOR_PERSISTENT;
  if (status == ZM_OK) status = resident ? make_resident(p) : make_launches(p);
  if (status == ZM_OK && !(chooses && resident && !resident_pays(p))) return p;
  zmi_device_player_free(p);
  return chooses && resident && !d->broken ? zmi_device_player_new(d, tape, ZMI_EXECUTOR_GRAPH) : NULL;
}

void zmi_device_player_free(zmi_device_player *p) {
  if (!p) return;
  const zmi_cuda_driver *cu = p->device->cu;
  cu->context_set(p->device->context);
  if (p->graph) cu->graph_exec_destroy(p->graph);
  if (p->pinned) cu->host_free(p->pinned);
  close_post(p);
  zmi_device_free(p->device, p->play);
  zmi_device_free(p->device, p->best);
  zmi_device_free(p->device, p->arena);
  zmi_device_free(p->device, p->inputs);
  zmi_device_free(p->device, p->scratch);
  zmi_device_free(p->device, p->instructions);
  zmi_free(p->code.all);
  zmi_free(p->fused);
  zmi_free(p->groups);
  zmi_free(p->slots);
  zmi_free(p->in);
  zmi_free(p->out);
  zmi_free(p);
}

zmi_executor zmi_device_player_executor(const zmi_device_player *p) {
  return p->executor;
}

const zmi_gpu_instruction *zmi_device_player_code(const zmi_device_player *p, size_t *count) {
  *count = p->fused ? p->fused_count : p->code.count;
  return p->fused ? p->fused : p->code.all;
}

// ---- playing ----

static cu_result queue_inputs(zmi_device_player *p) {
  return p->input_bytes ? p->device->cu->upload(p->inputs, p->pinned, p->input_bytes, p->device->stream) : 0;
}

static cu_result queue_outputs(zmi_device_player *p) {
  cu_result r = 0;
  for (size_t i = 0; i < p->out_count && !r; i++) {
    const transfer *t = &p->out[i];
    if (t->bytes) r = p->device->cu->download(p->pinned + t->place, t->at, t->bytes, p->device->stream);
  }
  return r;
}

// All instructions in one launch, whose blocks are all there at once.
static cu_result launch_resident(zmi_device_player *p) {
  zmi_cuda *d = p->device;
  int count = (int)p->fused_count;
  unsigned long long allowed = 20000000000ull; // nanoseconds: far more than any step takes
  int stamped = p->post->start.stamps != 0;
  void *arguments[] = {&p->instructions, &count, &p->first, &p->play, &allowed, &stamped};
  cu_result r = d->cu->upload(p->play, &p->post->start, sizeof p->post->start, d->stream);
  if (!r) {
    r = d->cu->launch_together(d->resident, (unsigned)p->blocks, 1, 1, ZMI_GPU_FED, 1, 1, (unsigned)p->shared, d->stream, arguments);
  }
  return r ? r : d->cu->download(&p->post->ended, p->play, sizeof p->post->ended, d->stream);
}

static cu_result queue(zmi_device_player *p) {
  cu_result r = queue_inputs(p);
  if (!r && p->executor == ZMI_EXECUTOR_PERSISTENT) {
    r = launch_resident(p);
    return r ? r : queue_outputs(p);
  }
  for (size_t i = 0; i < p->group_count && !r; i++) r = zmi_device_launch_group(p->device, &p->groups[i], i > 0);
  return r ? r : queue_outputs(p);
}

// doing: what has failed.
static cu_result capture_once(zmi_device_player *p, const char **doing) {
  zmi_cuda *d = p->device;
  cu_graph graph = NULL;
  *doing = "beginning a graph";
  cu_result r = d->cu->capture_begin(d->stream, CU_CAPTURE_LOCAL);
  if (r) return r;
  *doing = "capturing a graph";
  const cu_result queued = queue(p), end = d->cu->capture_end(d->stream, &graph);
  r = queued ? queued : end;
  if (!r) {
    *doing = "making a graph";
    r = d->cu->graph_instantiate(&p->graph, graph, 0);
  }
  if (graph) d->cu->graph_destroy(graph);
  return r;
}

static zm_status capture(zmi_device_player *p) {
  zmi_cuda *d = p->device;
  const char *doing;
  const bool early = d->early;
  cu_result r = capture_once(p, &doing);
  if (early && zmi_device_declines(r)) {
    d->early = false;
    r = capture_once(p, &doing);
  }
  return zmi_device_check(d, r, doing);
}

static void give_inputs(zmi_device_player *p) {
  for (size_t i = 0; i < p->in_count; i++) memcpy(p->pinned + p->in[i].place, p->in[i].host, p->in[i].bytes);
}

static void take_outputs(zmi_device_player *p) {
  for (size_t i = 0; i < p->out_count; i++) memcpy(p->out[i].host, p->pinned + p->out[i].place, p->out[i].bytes);
}

// ---- stopping ----

static zm_status was_stopped(void) {
  return zmi_fail(ZM_ERROR_CANCELLED, "device cuda: playing was stopped");
}

void zmi_device_stop(bool stop) {
  pthread_mutex_lock(&stop_lock);
  atomic_store(&stopped, stop);
  for (zmi_device_player *p = residents; p && stop; p = p->next) __atomic_store_n(&p->post->mail.stop, 1u, __ATOMIC_RELAXED);
  pthread_mutex_unlock(&stop_lock);
}

// Empties what is told during a play.
static void write_mail(zmi_device_player *p) {
  p->taken = 0;
  p->over = p->asked = false;
  pthread_mutex_lock(&stop_lock);
  p->post->mail = (zmi_gpu_mail){.stop = atomic_load(&stopped)};
  pthread_mutex_unlock(&stop_lock);
}

// ---- steps ----

static zm_status begin(zmi_device_player *p) {
  zmi_cuda *d = p->device;
  if (d->broken) return zmi_fail(d->broken, "device cuda: an earlier failure made the GPU's context useless: open the model again");
  if (p->post) write_mail(p);
  if (atomic_load(&stopped)) return was_stopped();
  zm_status status = zmi_device_check(d, d->cu->context_set(d->context), "taking the GPU");
  if (status == ZM_OK) give_inputs(p);
  return status;
}

// What became of a play that is over.
static zm_status look_back(zmi_device_player *p) {
  if (p->executor != ZMI_EXECUTOR_PERSISTENT) return ZM_OK;
  if (__atomic_load_n(&p->post->mail.stop, __ATOMIC_RELAXED) && !p->asked) return was_stopped();
  if (!p->post->ended.given_up || p->asked) return ZM_OK;
  return zmi_fail(ZM_ERROR_DEVICE, "device cuda: the resident kernel gave up after 20 seconds: try --executor graph");
}

zm_status zmi_device_player_play(zmi_device_player *p) {
  zmi_cuda *d = p->device;
  zm_status status = begin(p);
  if (status == ZM_OK && p->executor == ZMI_EXECUTOR_GRAPH && !p->graph) status = capture(p);
  if (status != ZM_OK) return status;
  status = zmi_device_check(d, p->graph ? d->cu->graph_launch(p->graph, d->stream) : queue(p), "starting a step");
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->stream_wait(d->stream), "playing a step");
  if (status == ZM_OK) status = look_back(p);
  if (status == ZM_OK) take_outputs(p);
  return status;
}

// ---- several steps ----

bool zmi_device_player_runs(const zmi_device_player *p) {
  return p->executor == ZMI_EXECUTOR_PERSISTENT;
}

static const zmi_slot *slot_of(const zmi_device_player *p, const char *name, zmi_gpu_address *at) {
  for (size_t i = 0; i < p->tape->slot_count; i++) {
    const zmi_slot *s = &p->tape->slots[i];
    if (!s->name || s->kind == ZMI_SLOT_WEIGHT || strcmp(s->name, name) != 0) continue;
    *at = p->slots[i];
    return s;
  }
  return NULL;
}

zm_status zmi_device_player_start(zmi_device_player *p, const zmi_device_run *run) {
  zmi_cuda *d = p->device;
  zmi_gpu_play *start = &p->post->start;
  const zmi_slot *logits = slot_of(p, run->logits, &start->logits);
  if (!logits || !slot_of(p, run->token, &start->token) || !slot_of(p, run->position, &start->position))
    return zmi_fail(ZM_ERROR_ARGUMENT, "device cuda: the step has no %s, %s or %s", run->token, run->position, run->logits);
  zm_status status = begin(p);
  if (status != ZM_OK) return status;
  start->most = ZMI_MIN(run->most, (int)ZMI_GPU_SAID);
  start->vocab = (int)zmi_type_count(&logits->type);
  start->dtype = zmi_gpu_dtype_of(logits->type.dtype);
  start->ends = (int)ZMI_MIN(run->ends, (size_t)ZMI_GPU_ENDS); // of the others the host finds out
  for (int i = 0; i < start->ends; i++) start->end[i] = run->end[i];
  start->sampling = run->sampling;
  cu_result r = queue(p);
  if (r) start->most = 0;
  return zmi_device_check(d, r, "starting steps");
}

bool zmi_device_player_next(zmi_device_player *p, int32_t *token) {
  enum { LOOKS = 16 }; // from one question to the driver to the next, which takes longer than a look
  const struct timespec moment = {0, 20000};
  if (p->taken >= p->post->start.most) return false;
  for (int looks = 1;; looks++) {
    const unsigned long long said = __atomic_load_n(&p->post->mail.said[p->taken], __ATOMIC_ACQUIRE);
    if (said >> 32 == (unsigned long long)p->taken + 1) {
      *token = (int32_t)(uint32_t)said;
      p->taken++;
      return true;
    }
    if (p->over) return false;
    if (looks % LOOKS == 0)
      p->over = p->device->cu->stream_query(p->device->stream) != CU_NOT_READY;
    else
      nanosleep(&moment, NULL);
  }
}

void zmi_device_player_stop(zmi_device_player *p) {
  p->asked = true;
  __atomic_store_n(&p->post->mail.stop, 1u, __ATOMIC_RELAXED);
}

zm_status zmi_device_player_finish(zmi_device_player *p, int *played) {
  zmi_cuda *d = p->device;
  *played = 0;
  zm_status status = zmi_device_check(d, d->cu->context_set(d->context), "taking the GPU");
  if (status == ZM_OK) status = zmi_device_check(d, d->cu->stream_wait(d->stream), "playing steps");
  p->post->start.most = 0; // the device has taken it
  if (status == ZM_OK) status = look_back(p);
  if (status != ZM_OK) return status;
  while (*played < ZMI_GPU_SAID && p->post->mail.said[*played] >> 32 != 0) ++*played;
  *played += p->post->ended.given_up != 0; // asked to end, it has left a step half done
  take_outputs(p);
  return ZM_OK;
}

// ---- profiles ----

// stamps: [blocks][count][2] cycles, which are `seconds` in all. Clocks of multiprocessors are not compared with each other: a block that
// waits for the least time is taken for the last that came.
static void add_stamps(const zmi_device_player *p, const unsigned long long *stamps, double seconds, zmi_step_time *steps) {
  const size_t count = p->fused_count, blocks = (size_t)p->blocks;
  double all = 0;
  for (size_t b = 0; b < blocks; b++) all += (double)(stamps[(b * count + count - 1) * 2 + 1] - stamps[b * count * 2]);
  const double cycle = all > 0 ? seconds * (double)blocks / all : 0;
  for (size_t i = 0; i < count; i++) {
    double worked = 0, waited = 0, least = 1e300;
    for (size_t b = 0; b < blocks; b++) {
      const unsigned long long *s = stamps + (b * count + i) * 2;
      const double wait = i ? (double)(s[0] - s[-1]) : 0;
      worked += (double)(s[1] - s[0]);
      waited += wait;
      least = ZMI_MIN(least, wait);
    }
    steps[i].worked += worked * cycle / (double)blocks;
    steps[i].waited += waited * cycle / (double)blocks;
    steps[i].idle += (waited / (double)blocks - least) * cycle;
  }
}

static zm_status resident_profile(zmi_device_player *p, zmi_step_time *steps) {
  zmi_cuda *d = p->device;
  const size_t bytes = p->fused_count * (size_t)p->blocks * 2 * sizeof(unsigned long long);
  zmi_gpu_address at = 0;
  cu_event events[2] = {NULL, NULL};
  float milliseconds = 0;
  unsigned long long *stamps = zmi_calloc(1, bytes + 1);
  zm_status status = stamps ? zmi_device_alloc(d, bytes + 1, "clocks", &at) : ZM_ERROR_MEMORY;
  p->post->start.stamps = at;
  if (status == ZM_OK) status = begin(p);
  cu_result r = 0;
  for (int i = 0; i < 2 && status == ZM_OK && !r; i++) r = d->cu->event_create(&events[i], 0);
  if (status == ZM_OK && !r) r = d->cu->event_record(events[0], d->stream);
  if (status == ZM_OK && !r) r = queue(p);
  if (status == ZM_OK && !r) r = d->cu->event_record(events[1], d->stream);
  if (status == ZM_OK && !r) r = d->cu->stream_wait(d->stream);
  if (status == ZM_OK && !r) r = d->cu->event_elapsed(&milliseconds, events[0], events[1]);
  if (status == ZM_OK) status = zmi_device_check(d, r, "measuring a step");
  if (status == ZM_OK) status = look_back(p);
  if (status == ZM_OK) status = zmi_device_download(d, stamps, at, bytes);
  if (status == ZM_OK) take_outputs(p);
  if (status == ZM_OK) add_stamps(p, stamps, milliseconds * 1e-3, steps);
  for (int i = 0; i < 2; i++) {
    if (events[i]) d->cu->event_destroy(events[i]);
  }
  p->post->start.stamps = 0;
  zmi_device_free(d, at);
  zmi_free(stamps);
  return status;
}

zm_status zmi_device_player_profile(zmi_device_player *p, zmi_step_time *steps) {
  zmi_cuda *d = p->device;
  if (p->executor == ZMI_EXECUTOR_PERSISTENT) return resident_profile(p, steps);
  const size_t count = p->group_count;
  cu_event *events = zmi_calloc(count + 2, sizeof *events);
  zm_status status = events ? begin(p) : ZM_ERROR_MEMORY;
  cu_result r = 0;
  for (size_t i = 0; i <= count && status == ZM_OK && !r; i++) r = d->cu->event_create(&events[i], 0);
  if (status == ZM_OK && !r) r = queue_inputs(p);
  for (size_t i = 0; i < count && status == ZM_OK && !r; i++) {
    r = d->cu->event_record(events[i], d->stream);
    if (!r) r = zmi_device_launch_group(d, &p->groups[i], false);
  }
  if (status == ZM_OK && !r) r = d->cu->event_record(events[count], d->stream);
  if (status == ZM_OK && !r) r = queue_outputs(p);
  if (status == ZM_OK && !r) r = d->cu->stream_wait(d->stream);
  for (size_t i = 0; i < count && status == ZM_OK && !r; i++) {
    float milliseconds = 0;
    r = d->cu->event_elapsed(&milliseconds, events[i], events[i + 1]);
    const zmi_device_group *g = &p->groups[i]; // its time is that of what stands behind a READY
    const size_t at = (size_t)(g->first - (p->fused ? p->fused : p->code.all));
    steps[at + (g->first->kind == ZMI_GPU_READY)].worked += milliseconds * 1e-3;
  }
  if (status == ZM_OK) status = zmi_device_check(d, r, "measuring a step");
  if (status == ZM_OK) take_outputs(p);
  for (size_t i = 0; events && i <= count; i++) {
    if (events[i]) d->cu->event_destroy(events[i]);
  }
  zmi_free(events);
  return status;
}
