// An imitation of the CUDA driver for tests: device memory is memory of the host, kernels run on the simulated machine (gpu_machine.cc). It
// is as late as a driver may be: what is put into a stream happens when somebody waits for it. It minds how it is used: addresses of the
// host that reach the device, memory that is not pinned, calls without a context are errors, and everything alive is counted.
#include "fake_cuda.h"
#include "fake_parts.h"
#include "fake_kernel.h"
#include "backend/cuda/flow.h"
#include "../gpu.h"

#include <stdarg.h>
#include <stdio.h>

#define FAKE_API __attribute__((visibility("default")))

// Each function has the symbol and the type of the table that it is loaded by.
#define DECLARE(member, symbol, arguments) FAKE_API cu_result fake_##member arguments __asm__(symbol);
ZMI_CUDA_FUNCTIONS(DECLARE)

enum { INVALID_VALUE = 1, INVALID_CONTEXT = 201, NOT_FOUND = 500, TOO_MUCH = 304, CAPTURING = 900 };
enum { PRODUCTS = ZMI_GPU_KINDS, HEADS, FUNCTIONS }; // behind the kinds: launches of several instructions
enum { BLOCKS = 1 << 16, SHARED = 232448, PINNED = 1, DEVICE = 2 };

typedef enum work_kind { UPLOAD, DOWNLOAD, COPY, CLEAR, LAUNCH, RESIDENT, KERNEL, RECORD } work_kind;
typedef struct work {
  work_kind kind;
  char *to;
  const char *from;
  size_t bytes;
  int value; // CLEAR: the byte; LAUNCH: kind of instruction, or PRODUCTS or HEADS; RESIDENT: number of instructions, `to` is its play;
             // KERNEL: threads, `to` its arguments
  cu_module module; // KERNEL
  int first;        // RESIDENT: as its kernel has it
  unsigned blocks, shared;
  bool early; // LAUNCH: may begin before the one before it is over
  cu_event event;
  zmi_gpu_bundle in; // LAUNCH: as it was given; of one instruction that alone
} work;

struct cu_graph_s {
  work *all;
  size_t count, capacity;
};
struct cu_graph_exec_s {
  struct cu_graph_s graph;
};
struct cu_stream_s {
  struct cu_graph_s queue;
  bool capturing;
  cu_stream next;
};
struct cu_event_s {
  bool pending, done;
  float at;
};
struct cu_function_s {
  int kind;
  unsigned most_shared;
  cu_module module; // of a kernel of arrays; else NULL
};
struct cu_module_s {
  kernel_code code; // of a kernel of arrays; else without a handle
  struct cu_function_s function;
};
struct cu_context_s {
  int retained;
};

typedef struct block {
  char *at;
  size_t bytes;
  int what;
  bool changes;       // a launch has written there, or the host does each time
  int uploads;        // to its beginning
  char *before, *now; // of check_flow
  char *start;        // of check_parts
} block;

static fake_cuda_facts facts;
static block *blocks;
static size_t block_count, block_capacity;
static cu_stream streams;
static struct cu_context_s the_context;
static struct cu_function_s functions[FUNCTIONS];
static _Thread_local cu_context current;
static cu_result fatal; // from a fault until the context is given back
static size_t total = (size_t)256 << 20;
static long long fault_in, refuse_in, devices, loads; // calls from now; 0: never
static char data_of_program;

FAKE_API fake_cuda_facts *fake_cuda_look(void);
fake_cuda_facts *fake_cuda_look(void) {
  facts.looks = gpu_looks;
  return &facts;
}

static bool is_device_memory(const void *at, size_t bytes);

// Blocks and threads in order, and now and then shuffled.
static uint64_t seed_of_launch(void) {
  return facts.launches % 5 == 3 && !fake_option("order", 0) ? facts.launches * 2 : 0;
}

static void read_options(void) {
  gpu_is_memory = is_device_memory;
  devices = fake_option("devices", 1);
  total = (size_t)fake_option("memory", 256 << 20);
  fault_in = fake_option("fault", 0);
  refuse_in = fake_option("refuse", 0);
  loads = fake_option("loads", 1);
  gpu_stop_in = fake_option("stop", 0);
  gpu_clock_step = fake_option("hang", 0) ? 1000000000 : 0;
}

__attribute__((format(printf, 2, 3))) static cu_result misused(cu_result result, const char *format, ...) {
  va_list list;
  va_start(list, format);
  if (!facts.wrong[0]) vsnprintf(facts.wrong, sizeof facts.wrong, format, list);
  va_end(list);
  return result;
}

static cu_result ready(const char *call) {
  if (current != &the_context || the_context.retained == 0) return misused(INVALID_CONTEXT, "%s without a context", call);
  return fatal;
}

// ---- memory ----

static block *block_of(const void *at, size_t bytes, int what) {
  for (size_t i = 0; i < block_count; i++) {
    const uintptr_t from = (uintptr_t)blocks[i].at, p = (uintptr_t)at;
    if (blocks[i].what == what && p >= from && p - from <= blocks[i].bytes && bytes <= blocks[i].bytes - (p - from)) return &blocks[i];
  }
  return NULL;
}

static int is_device_address(const void *at) {
  return block_of(at, 0, DEVICE) != NULL;
}

static bool is_device_memory(const void *at, size_t bytes) {
  return block_of(at, bytes, DEVICE) != NULL;
}

static cu_result get_block(void **at, size_t bytes, int what) {
  if (!ZMI_GROW(blocks, block_capacity, block_count + 1)) return CU_OUT_OF_MEMORY;
  *at = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!*at) return CU_OUT_OF_MEMORY;
  blocks[block_count++] = (block){.at = *at, .bytes = bytes, .what = what};
  return 0;
}

static cu_result drop_block(void *at, int what) {
  for (size_t i = 0; i < block_count; i++) {
    if (blocks[i].at != at || blocks[i].what != what) continue;
    free(at);
    blocks[i] = blocks[--block_count];
    if (block_count == 0) {
      zmi_free(blocks);
      blocks = NULL;
      block_capacity = 0;
    }
    return 0;
  }
  return misused(INVALID_VALUE, "memory is freed that was not got, or twice");
}

// Whether a word of an instruction looks like an address of the host. Two small numbers side by side, or padding behind one, do not.
static bool of_host(uint64_t word) {
  static void *heap;
  if (!heap) heap = blocks;
  const uint64_t near[] = {(uintptr_t)&word, (uintptr_t)heap, (uintptr_t)&data_of_program};
  for (size_t i = 0; i < ZMI_COUNT(near); i++) {
    if ((uint32_t)word > 0xffff && word >> 40 && word >> 40 == near[i] >> 40) return !block_of((void *)(uintptr_t)word, 0, DEVICE);
  }
  return false;
}

cu_result fake_memory_info(size_t *left, size_t *all) {
  *left = total - ZMI_MIN(total, facts.bytes);
  *all = total;
  return ready("cuMemGetInfo");
}

static cu_result run_all(void);

cu_result fake_memory_alloc(cu_pointer *at, size_t bytes) {
  void *p = NULL;
  cu_result r = ready("cuMemAlloc");
  if (!r && bytes == 0) r = misused(INVALID_VALUE, "cuMemAlloc of nothing");
  for (cu_stream s = streams; s && !r; s = s->next) {
    if (s->capturing) r = misused(CAPTURING, "cuMemAlloc while a graph is captured");
  }
  if (!r && (bytes > total || facts.bytes > total - bytes)) r = CU_OUT_OF_MEMORY;
  if (!r) r = get_block(&p, bytes, DEVICE);
  if (r) return r;
  memset(p, 0xa5, bytes);
  facts.most = ZMI_MAX(facts.bytes ? facts.most : 0, facts.bytes + bytes);
  facts.bytes += bytes;
  facts.memories++;
  *at = (cu_pointer)(uintptr_t)p;
  return 0;
}

cu_result fake_memory_free(cu_pointer at) {
  ready("cuMemFree");
  run_all(); // as a driver does
  block *b = NULL;
  for (size_t i = 0; i < block_count; i++) {
    if ((uintptr_t)blocks[i].at == at && blocks[i].what == DEVICE) b = &blocks[i];
  }
  const size_t bytes = b ? b->bytes : 0;
  cu_result r = drop_block((void *)(uintptr_t)at, DEVICE);
  facts.bytes -= bytes;
  facts.memories -= !r;
  return r ? r : fatal;
}

cu_result fake_host_alloc(void **at, size_t bytes, unsigned flags) {
  (void)flags;
  cu_result r = ready("cuMemHostAlloc");
  if (!r) r = get_block(at, bytes, PINNED);
  facts.host_memories += !r;
  return r;
}

cu_result fake_host_free(void *at) {
  run_all();
  cu_result r = drop_block(at, PINNED);
  facts.host_memories -= !r;
  return r ? r : fatal;
}

cu_result fake_host_address(cu_pointer *at, void *host, unsigned flags) {
  (void)flags;
  *at = (cu_pointer)(uintptr_t)host;
  return ready("cuMemHostGetDevicePointer");
}

// ---- streams ----

static cu_result put(cu_stream s, work w, const char *call) {
  cu_result r = ready(call);
  if (r) return r;
  if (!s) return misused(INVALID_VALUE, "%s in the default stream", call);
  if (!ZMI_GROW(s->queue.all, s->queue.capacity, s->queue.count + 1)) return CU_OUT_OF_MEMORY;
  s->queue.all[s->queue.count++] = w;
  return 0;
}

static cu_result transfer(cu_stream s, work_kind kind, void *to, const void *from, size_t bytes, const char *call) {
  if (!block_of(to, bytes, kind == DOWNLOAD ? PINNED : DEVICE)) return misused(INVALID_VALUE, "%s to memory that is not its own", call);
  if (kind != CLEAR && !block_of(from, bytes, kind == UPLOAD ? PINNED : DEVICE))
    return misused(INVALID_VALUE, "%s from memory that is not its own", call);
  return put(s, (work){.kind = kind, .to = to, .from = from, .bytes = bytes}, call);
}

cu_result fake_upload(cu_pointer to, const void *from, size_t bytes, cu_stream s) {
  return transfer(s, UPLOAD, (void *)(uintptr_t)to, from, bytes, "cuMemcpyHtoDAsync");
}

cu_result fake_download(void *to, cu_pointer from, size_t bytes, cu_stream s) {
  return transfer(s, DOWNLOAD, to, (const void *)(uintptr_t)from, bytes, "cuMemcpyDtoHAsync");
}

cu_result fake_copy(cu_pointer to, cu_pointer from, size_t bytes, cu_stream s) {
  return transfer(s, COPY, (void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, "cuMemcpyDtoDAsync");
}

cu_result fake_clear(cu_pointer to, unsigned char value, size_t bytes, cu_stream s) {
  cu_result r = transfer(s, CLEAR, (void *)(uintptr_t)to, NULL, bytes, "cuMemsetD8Async");
  if (!r) s->queue.all[s->queue.count - 1].value = value;
  return r;
}

static cu_result check_addresses(const zmi_gpu_instruction *in) {
  for (size_t i = 0; i < sizeof in->as / 8; i++) {
    uint64_t word;
    memcpy(&word, (const char *)&in->as + i * 8, 8);
    if (of_host(word)) return misused(CU_ILLEGAL_ADDRESS, "instruction of kind %d: word %zu is an address of the host", in->kind, i);
  }
  return 0;
}

// gpu_device.cc
void zmi_gpu_resident(const zmi_gpu_instruction *all, int count, int first, zmi_gpu_play *play, unsigned long long allowed, int stamped);
static void start_resident(void *at) {
  const work *w = at;
  zmi_gpu_resident((const void *)w->from, w->value, w->first, (void *)w->to, w->bytes, ((const zmi_gpu_play *)w->to)->stamps != 0);
}

// ---- what launches touch ----

typedef struct wide_flow {
  zmi_gpu_range reads[MOST_TOGETHER * ZMI_GPU_READS], writes[MOST_TOGETHER * ZMI_GPU_WRITES];
} wide_flow;

// Puts what lies in a range from `from` into `to`; both stand for the block.
static void take_range(const block *b, char *to, const char *from, zmi_gpu_range r) {
  const uintptr_t at = (uintptr_t)b->at, begin = ZMI_MAX(at, (uintptr_t)r.at), end = ZMI_MIN(at + b->bytes, (uintptr_t)(r.at + r.bytes));
  if (r.bytes && begin < end) memcpy(to + (begin - at), from + (begin - at), end - begin);
}

static void take_ranges(const block *b, char *to, const char *from, const zmi_gpu_range *r, size_t count) {
  for (size_t i = 0; i < count; i++) take_range(b, to, from, r[i]);
}

// Keeps memory as it is: in `start`, `before` or `now` of each block.
static void keep_memory(size_t where) {
  for (size_t i = 0; i < block_count; i++) {
    block *b = &blocks[i];
    char **to = (char **)(void *)((char *)b + where);
    if (b->what != DEVICE) continue;
    *to = realloc(*to, b->bytes + 1);
    memcpy(*to, b->at, b->bytes);
  }
}

static void back_to_start(void) {
  for (size_t i = 0; i < block_count; i++) {
    block *b = &blocks[i];
    if (b->what == DEVICE) memcpy(b->at, b->start, b->bytes);
    free(b->start);
    b->start = NULL;
  }
}

// Memory that launches have written, or that is an input of each step, is changed: wherever this one does not touch it, by what is said of
// it; and the rest, too, until the launch before is over, if it waits for that one.
static void change_the_rest(const wide_flow *f, bool waits) {
  for (size_t i = 0; i < block_count; i++) {
    block *b = &blocks[i];
    if (b->what != DEVICE) continue;
    memcpy(b->at, b->before, b->bytes);
    for (size_t k = 0; k < b->bytes && b->changes; k++)
      b->at[k] = (char)(b->at[k] ^ 0xdb); // positions and numbers of sequences become negative
    if (waits) continue;
    take_ranges(b, b->at, b->before, f->reads, ZMI_COUNT(f->reads));
    take_ranges(b, b->at, b->before, f->writes, ZMI_COUNT(f->writes));
  }
}

// What all of them touch.
static wide_flow flow_of(const part *p) {
  wide_flow f = {0};
  for (int i = 0; i < p->count; i++) {
    const zmi_gpu_flow one = zmi_gpu_flow_of(&p->all[i]);
    memcpy(f.reads + i * ZMI_GPU_READS, one.reads, sizeof one.reads);
    memcpy(f.writes + i * ZMI_GPU_WRITES, one.writes, sizeof one.writes);
  }
  return f;
}

// Memory that changes, and what of it a launch may find only when the one before it is over.
static const wide_flow *awaited;
static void launch_before_is_over(void) {
  for (size_t i = 0; i < block_count && awaited; i++) {
    block *b = &blocks[i];
    if (b->what != DEVICE) continue;
    take_ranges(b, b->at, b->before, awaited->reads, ZMI_COUNT(awaited->reads));
    take_ranges(b, b->at, b->before, awaited->writes, ZMI_COUNT(awaited->writes));
  }
  awaited = NULL;
}

static const char *play_launch(const work *w, uint64_t seed) {
  if (w->value < ZMI_GPU_KINDS) return gpu_step(&w->in.all[0], (int)w->blocks, seed);
  return gpu_bundle(&w->in, w->value == HEADS, (int)w->blocks, w->shared, seed);
}

static const char *play_part(const part *p) {
  const work *launch = p->launch;
  if (launch->kind == LAUNCH) return play_launch(launch, 0);
  zmi_gpu_play play = *p->play;
  work w = *p->launch;
  play.stamps = play.mail = 0;
  play.most = 0;
  w.from = (const char *)p->all;
  w.to = (char *)&play;
  w.value = p->count;
  w.first = p->first;
  return gpu_simulate(start_resident, &w, (int)w.blocks, ZMI_GPU_FED, w.shared, 0);
}

// Plays it twice: what it writes lies where flow.c says, and does not depend on what is elsewhere.
static const char *check_flow(const part *p) {
  const wide_flow f = flow_of(p);
  keep_memory(offsetof(block, before));
  const char *wrong = play_part(p);
  keep_memory(offsetof(block, now));
  const bool waits = p->launch->kind == LAUNCH;
  if (!wrong) change_the_rest(&f, waits);
  if (waits) {
    awaited = &f;
    gpu_before = launch_before_is_over;
  }
  if (!wrong) wrong = play_part(p);
  gpu_before = NULL;
  awaited = NULL;
  for (size_t i = 0; i < block_count; i++) {
    block *b = &blocks[i];
    if (b->what != DEVICE) continue;
    char *again = malloc(b->bytes + 1);
    memcpy(again, b->now, b->bytes);
    take_ranges(b, again, b->at, f.writes, ZMI_COUNT(f.writes));
    if (!wrong && memcmp(again, b->now, b->bytes) != 0) wrong = "its results depend on memory that flow.c does not name";
    memcpy(again, b->now, b->bytes);
    take_ranges(b, again, b->before, f.writes, ZMI_COUNT(f.writes));
    if (!wrong && memcmp(again, b->before, b->bytes) != 0) wrong = "it writes memory that flow.c does not name";
    b->changes |= memcmp(b->now, b->before, b->bytes) != 0;
    memcpy(b->at, b->now, b->bytes);
    free(again);
    free(b->before);
    free(b->now);
    b->before = b->now = NULL;
  }
  return wrong;
}

// Plays the instructions of a resident play one after another, each with what it needs, and looks at what they touch.
static const char *check_parts(const work *w) {
  const zmi_gpu_instruction *all = (const void *)w->from;
  static char words[160];
  const char *wrong = NULL;
  const zmi_gpu_play play = *(const zmi_gpu_play *)(const void *)w->to;
  keep_memory(offsetof(block, start));
  for (int i = 0; i < w->value && !wrong; i++) {
    part p = {.launch = w, .play = &play};
    const bool alone = all[i].kind == ZMI_GPU_READY ? ready_with_product(all, w->value, i, &p, &facts.sources) : part_of(all, i, &p);
    number_part(&p);
    wrong = alone ? check_flow(&p) : "it cannot be played alone";
    if (wrong) snprintf(words, sizeof words, "instruction %d of kind %d: %s", i, all[i].kind, wrong);
  }
  back_to_start();
  return wrong ? words : NULL;
}

static cu_result run_launch(const work *w) {
  const zmi_gpu_instruction *in = &w->in.all[0];
  part p = {.count = w->in.count, .launch = w};
  cu_result r = 0;
  if (fault_in && --fault_in == 0) return (cu_result)fake_option("lost", CU_ILLEGAL_ADDRESS);
  for (int i = 0; i < p.count && !r; i++) {
    if (in[i].tiles <= 0 || (unsigned)in[i].shared > w->shared || p.count > MOST_TOGETHER)
      return misused(CU_ILLEGAL_ADDRESS, "instruction of kind %d, %d tiles, %d bytes: launched with %u bytes", in[i].kind, in[i].tiles,
                     in[i].shared, w->shared);
    r = check_addresses(&in[i]);
    p.all[i] = in[i];
  }
  if (r) return r;
  if (w->value < ZMI_GPU_KINDS && (in->kind != w->value || (unsigned)in->shared != w->shared))
    return misused(CU_ILLEGAL_ADDRESS, "instruction of kind %d launched as kind %d with %u bytes", in->kind, w->value, w->shared);
  if (in->kind == ZMI_GPU_READY) facts.sources |= source_of(&in->as.ready);
  // In order, and now and then shuffled; never through the function that dispatches (gpu.h).
  const char *wrong = fake_option("flow", 0) ? check_flow(&p) : play_launch(w, seed_of_launch());
  return wrong ? misused(CU_ILLEGAL_ADDRESS, "kind %d and %d more: %s", in->kind, p.count - 1, wrong) : 0;
}

static cu_result run_resident(const work *w) {
  work copy = *w;
  const zmi_gpu_instruction *all = (const void *)w->from;
  if (fault_in && --fault_in == 0) return (cu_result)fake_option("lost", CU_ILLEGAL_ADDRESS);
  if (!block_of(all, (size_t)w->value * sizeof *all, DEVICE) || !block_of(w->to, sizeof(zmi_gpu_play), DEVICE))
    return misused(CU_ILLEGAL_ADDRESS, "instructions are not in device memory");
  cu_result r = 0;
  for (int i = 0; i < w->value && !r; i++) r = check_addresses(&all[i]);
  const zmi_gpu_play *play = (const void *)w->to;
  const size_t blocks_best = ((size_t)w->blocks + 1) * 8;
  if (!r && play->mail && !block_of((void *)(uintptr_t)play->mail, sizeof(zmi_gpu_mail), PINNED))
    return misused(CU_ILLEGAL_ADDRESS, "the mail of a play is not in memory that both see");
  if (!r && play->most && !block_of((void *)(uintptr_t)play->best, blocks_best, DEVICE))
    return misused(CU_ILLEGAL_ADDRESS, "there is no room for the best logits of %u blocks", w->blocks);
  if (fake_option("hang", 0)) ((zmi_gpu_play *)(void *)w->to)->arrived--;
  if (!r && fake_option("flow", 0)) {
    const char *wrong = check_parts(w);
    if (wrong) return misused(CU_ILLEGAL_ADDRESS, "the resident kernel: %s", wrong);
  }
  const uint64_t seed = seed_of_launch();
  const char *wrong = r ? NULL : gpu_simulate(start_resident, &copy, (int)w->blocks, ZMI_GPU_FED, w->shared, seed);
  return wrong ? misused(CU_ILLEGAL_ADDRESS, "the resident kernel: %s", wrong) : r;
}

static cu_result run_kernel(const work *w) {
  cu_result r = fatal;
  if (!r && fault_in && --fault_in == 0) r = (cu_result)fake_option("lost", CU_ILLEGAL_ADDRESS);
  if (!r && !w->module->code.check(w->to, is_device_address))
    r = misused(CU_ILLEGAL_ADDRESS, "an argument of a kernel is no address of the device");
  if (!r) {
    const unsigned saved = zmi_float_rule_enter();
    w->module->code.launch(w->to, (unsigned)w->value, w->blocks);
    zmi_float_rule_leave(saved);
  }
  w->module->code.drop(w->to);
  return r;
}

static cu_result run_work(const work *w) {
  switch (w->kind) {
  case UPLOAD:
    for (size_t i = 0; i < block_count; i++) {
      if (blocks[i].what == DEVICE && blocks[i].at == w->to) blocks[i].changes |= blocks[i].uploads++ > 0;
    }
    memcpy(w->to, w->from, w->bytes);
    return 0;
  case DOWNLOAD:
  case COPY:
    memcpy(w->to, w->from, w->bytes);
    return 0;
  case CLEAR:
    memset(w->to, w->value, w->bytes);
    return 0;
  case LAUNCH:
    facts.launches++;
    return run_launch(w);
  case RESIDENT:
    facts.launches++;
    return run_resident(w);
  case KERNEL:
    facts.launches++;
    return run_kernel(w);
  case RECORD:
    w->event->pending = false;
    w->event->done = true;
    w->event->at = (float)facts.launches;
    return 0;
  }
  return INVALID_VALUE;
}

static cu_result run(cu_stream s) {
  if (s->capturing) return misused(CAPTURING, "waiting for a stream that is captured");
  for (size_t i = 0; i < s->queue.count; i++) {
    if (!fatal || s->queue.all[i].kind == KERNEL) fatal = run_work(&s->queue.all[i]); // a kernel's arguments are dropped, at least
  }
  s->queue.count = 0;
  return fatal;
}

static cu_result run_all(void) {
  for (cu_stream s = streams; s; s = s->next) run(s);
  return fatal;
}

cu_result fake_stream_create(cu_stream *stream, unsigned flags) {
  cu_result r = ready("cuStreamCreate");
  cu_stream s = r || flags != CU_STREAM_NON_BLOCKING ? NULL : calloc(1, sizeof *s);
  if (!s) return r ? r : INVALID_VALUE;
  s->next = streams;
  *stream = streams = s;
  facts.streams++;
  return 0;
}

cu_result fake_stream_destroy(cu_stream stream) {
  run(stream);
  for (cu_stream *at = &streams; *at; at = &(*at)->next) {
    if (*at != stream) continue;
    *at = stream->next;
    zmi_free(stream->queue.all);
    free(stream);
    facts.streams--;
    return fatal;
  }
  return misused(INVALID_VALUE, "a stream is destroyed twice");
}

cu_result fake_stream_wait(cu_stream s) {
  cu_result r = ready("cuStreamSynchronize");
  return r ? r : run(s);
}

cu_result fake_stream_query(cu_stream s) {
  return fake_stream_wait(s);
}

cu_result fake_event_create(cu_event *event, unsigned flags) {
  (void)flags;
  cu_result r = ready("cuEventCreate");
  cu_event e = r ? NULL : calloc(1, sizeof *e);
  if (!e) return r ? r : CU_OUT_OF_MEMORY;
  *event = e;
  facts.events++;
  return 0;
}

cu_result fake_event_destroy(cu_event event) {
  run_all();
  free(event);
  facts.events--;
  return fatal;
}

cu_result fake_event_record(cu_event event, cu_stream s) {
  cu_result r = put(s, (work){.kind = RECORD, .event = event}, "cuEventRecord");
  if (!r) event->pending = true;
  return r;
}

cu_result fake_event_wait(cu_event event) {
  cu_result r = ready("cuEventSynchronize");
  return r || !event->pending ? r : run_all();
}

cu_result fake_event_elapsed(float *milliseconds, cu_event from, cu_event to) {
  if (!from->done || !to->done) return misused(CU_NOT_READY, "the time of an event that has not happened");
  *milliseconds = to->at - from->at;
  return fatal;
}

// ---- code ----

cu_result fake_module_load(cu_module *module, const void *image) {
  cu_result r = ready("cuModuleLoadData");
  if (!r && loads-- > 0) r = (cu_result)fake_option("load", 0);
  if (r) return r;
  const bool kernel = memcmp(image, kernel_start, sizeof kernel_start - 1) == 0;
  if (!kernel && memcmp(image, "FAKE CUBIN ", 11) != 0) return CU_INVALID_IMAGE;
  cu_module m = calloc(1, sizeof *m);
  if (!m) return CU_OUT_OF_MEMORY;
  if (kernel && !kernel_load(&m->code, image)) return free(m), CU_INVALID_IMAGE;
  *module = m;
  facts.modules++;
  return 0;
}

cu_result fake_module_unload(cu_module module) {
  run_all();
  if (module->code.handle) dlclose(module->code.handle);
  free(module);
  facts.modules--;
  return fatal;
}

cu_result fake_module_function(cu_function *function, cu_module module, const char *name) {
#define NAME(name, kind) [kind] = #name,
  static const char *const names[ZMI_GPU_KINDS] = {ZMI_GPU_STEPS(NAME) ZMI_GPU_LAUNCHED(NAME)};
  static const char start[] = "zmi_gpu_step_";
  static const char *const others[] = {"zmi_gpu_resident", "zmi_gpu_bundle_products", "zmi_gpu_bundle_heads"};
  static const int of[] = {0, PRODUCTS, HEADS};
  if (module && module->code.handle) {
    if (!dlsym(module->code.handle, name)) return NOT_FOUND;
    module->function = (struct cu_function_s){.kind = -1, .module = module};
    *function = &module->function;
    return ready("cuModuleGetFunction");
  }
  for (size_t i = 0; i < ZMI_COUNT(of) && module; i++) {
    if (strcmp(name, others[i]) != 0) continue;
    functions[of[i]] = (struct cu_function_s){of[i], 48 << 10, NULL};
    *function = &functions[of[i]];
    return ready("cuModuleGetFunction");
  }
  if (!module || strncmp(name, start, sizeof start - 1) != 0) return NOT_FOUND;
  for (int i = 1; i < ZMI_GPU_KINDS; i++) {
    if (!names[i] || strcmp(names[i], name + sizeof start - 1) != 0) continue;
    functions[i] = (struct cu_function_s){i, 48 << 10, NULL};
    *function = &functions[i];
    return ready("cuModuleGetFunction");
  }
  return NOT_FOUND;
}

cu_result fake_function_set(cu_function function, int attribute, int value) {
  if (attribute != CU_FUNCTION_SHARED || value < 0 || value > (int)fake_option("shared", SHARED))
    return misused(INVALID_VALUE, "attribute %d of a function: %d", attribute, value);
  function->most_shared = (unsigned)value;
  return ready("cuFuncSetAttribute");
}

cu_result fake_function_blocks(int *count, cu_function f, int threads, size_t shared) {
  (void)f, (void)threads, (void)shared;
  *count = 2;
  return ready("cuOccupancyMaxActiveBlocksPerMultiprocessor");
}

cu_result fake_launch(cu_function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                      cu_stream stream, void **arguments, void **extra) {
  if (refuse_in && --refuse_in == 0) return TOO_MUCH;
  if (f->module) {
    if (gx == 0 || gy != 1 || gz != 1 || bx == 0 || bx > 1024 || by != 1 || bz != 1 || shared || extra)
      return misused(INVALID_VALUE, "a launch of a kernel by %u x %u x %u blocks of %u x %u x %u threads", gx, gy, gz, bx, by, bz);
    const cu_result r = ready("cuLaunchKernel");
    return r ? r
             : put(stream,
                   (work){.kind = KERNEL, .to = f->module->code.copy(arguments), .value = (int)bx, .blocks = gx, .module = f->module},
                   "cuLaunchKernel");
  }
  if (gx == 0 || gx > BLOCKS || gy != 1 || gz != 1 || bx != ZMI_GPU_THREADS || by != 1 || bz != 1 || shared > f->most_shared || extra)
    return misused(INVALID_VALUE, "a launch of %u x %u x %u blocks of %u x %u x %u threads with %u bytes", gx, gy, gz, bx, by, bz, shared);
  work w = {.kind = LAUNCH, .value = f->kind, .blocks = gx, .shared = shared, .in.count = 1};
  const bool several = f->kind >= ZMI_GPU_KINDS;
  memcpy(several ? (void *)&w.in : (void *)w.in.all, arguments[0], several ? sizeof w.in : sizeof w.in.all[0]);
  return put(stream, w, "cuLaunchKernel");
}

// A launch that may begin early stands behind another launch: nothing else can let it begin.
cu_result fake_launch_with(const cu_launch_config *how, cu_function f, void **arguments, void **extra) {
  const struct cu_graph_s *q = &how->stream->queue;
  if (fake_option("early", 0) == 1) return CU_NOT_SUPPORTED;
  if (how->count != 1 || how->attributes->id != CU_LAUNCH_EARLY || how->attributes->value.number != 1)
    return misused(INVALID_VALUE, "%u attributes of a launch", how->count);
  if (q->count == 0 || q->all[q->count - 1].kind != LAUNCH) return misused(INVALID_VALUE, "an early launch without one before it");
  cu_result r = fake_launch(f, how->gx, how->gy, how->gz, how->bx, how->by, how->bz, how->shared, how->stream, arguments, extra);
  if (!r) how->stream->queue.all[how->stream->queue.count - 1].early = true;
  facts.early += !r;
  return r;
}

cu_result fake_launch_together(cu_function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                               cu_stream stream, void **arguments) {
  if (refuse_in && --refuse_in == 0) return TOO_MUCH;
  if (f != &functions[0] || gx == 0 || gx > GPU_RESIDENT_BLOCKS || bx != ZMI_GPU_FED || shared > f->most_shared)
    return misused(INVALID_VALUE, "a resident launch of %u blocks of %u threads with %u bytes", gx, bx, shared);
  if (gy != 1 || gz != 1 || by != 1 || bz != 1) return misused(INVALID_VALUE, "a resident launch of more than one dimension");
  const cu_pointer all = *(const cu_pointer *)arguments[0], to = *(const cu_pointer *)arguments[3];
  return put(stream,
             (work){.kind = RESIDENT,
                    .from = (const char *)(uintptr_t)all,
                    .to = (char *)(uintptr_t)to,
                    .bytes = (size_t) * (const unsigned long long *)arguments[4],
                    .value = *(const int *)arguments[1],
                    .first = *(const int *)arguments[2],
                    .blocks = gx,
                    .shared = shared},
             "cuLaunchCooperativeKernel");
}

// ---- graphs ----

cu_result fake_capture_begin(cu_stream s, int mode) {
  cu_result r = ready("cuStreamBeginCapture");
  if (r || s->capturing || mode < 0 || mode > 2) return r ? r : misused(INVALID_VALUE, "a capture within a capture");
  r = run(s); // what was there before is not part of the graph
  s->capturing = !r;
  return r;
}

cu_result fake_capture_end(cu_stream s, cu_graph *graph) {
  if (!s->capturing) return misused(INVALID_VALUE, "the end of a capture that did not begin");
  s->capturing = false;
  cu_graph g = calloc(1, sizeof *g);
  if (!g) return CU_OUT_OF_MEMORY;
  *g = s->queue;
  s->queue = (struct cu_graph_s){0};
  *graph = g;
  facts.graphs++;
  return ready("cuStreamEndCapture");
}

cu_result fake_graph_instantiate(cu_graph_exec *exec, cu_graph graph, unsigned long long flags) {
  (void)flags;
  cu_result r = ready("cuGraphInstantiate");
  for (size_t i = 0; i < graph->count && !r && fake_option("early", 0) == 2; i++) {
    if (graph->all[i].early) r = CU_NOT_SUPPORTED;
  }
  cu_graph_exec e = r ? NULL : calloc(1, sizeof *e);
  if (!e) return r ? r : CU_OUT_OF_MEMORY;
  for (size_t i = 0; i < graph->count; i++) {
    if (!ZMI_GROW(e->graph.all, e->graph.capacity, i + 1)) return CU_OUT_OF_MEMORY;
    e->graph.all[e->graph.count++] = graph->all[i];
  }
  *exec = e;
  facts.execs++;
  return 0;
}

cu_result fake_graph_launch(cu_graph_exec exec, cu_stream s) {
  cu_result r = ready("cuGraphLaunch");
  for (size_t i = 0; i < exec->graph.count && !r; i++) r = put(s, exec->graph.all[i], "cuGraphLaunch");
  facts.replays += !r;
  return r;
}

cu_result fake_graph_destroy(cu_graph graph) {
  zmi_free(graph->all);
  free(graph);
  facts.graphs--;
  return 0;
}

cu_result fake_graph_exec_destroy(cu_graph_exec exec) {
  run_all();
  zmi_free(exec->graph.all);
  free(exec);
  facts.execs--;
  return fatal;
}

// ---- the device ----

cu_result fake_init(unsigned flags) {
  read_options();
  return flags ? INVALID_VALUE : (cu_result)fake_option("init", 0);
}

cu_result fake_driver_version(int *version) {
  *version = (int)fake_option("driver", 13000);
  return 0;
}

cu_result fake_device_count(int *count) {
  read_options();
  *count = (int)devices;
  return 0;
}

cu_result fake_device_get(cu_device *device, int index) {
  *device = index;
  return index >= 0 && index < devices ? 0 : CU_INVALID_DEVICE;
}

cu_result fake_device_name(char *name, int size, cu_device device) {
  snprintf(name, (size_t)size, "Imitated GPU");
  return device ? CU_INVALID_DEVICE : 0;
}

cu_result fake_device_attribute(int *value, int attribute, cu_device device) {
  const int capability = (int)fake_option("capability", 90);
  const int known[][2] = {{CU_ATTRIBUTE_PROCESSORS, 2},
                          {CU_ATTRIBUTE_MAJOR, capability / 10},
                          {CU_ATTRIBUTE_MINOR, capability % 10},
                          {CU_ATTRIBUTE_SHARED, (int)fake_option("shared", SHARED)},
                          {CU_ATTRIBUTE_L2, 1 << 20},
                          {CU_ATTRIBUTE_CLOCK, 1000000},
                          {CU_ATTRIBUTE_MODE, (int)fake_option("mode", 0)},
                          {CU_ATTRIBUTE_COOPERATIVE, 1},
                          {CU_CAN_MAP_HOST, 1}};
  for (size_t i = 0; i < ZMI_COUNT(known); i++) {
    if (known[i][0] == attribute) return *value = known[i][1], device ? CU_INVALID_DEVICE : 0;
  }
  return misused(INVALID_VALUE, "attribute %d of a device", attribute);
}

cu_result fake_device_memory(size_t *bytes, cu_device device) {
  *bytes = total;
  return device ? CU_INVALID_DEVICE : 0;
}

cu_result fake_context_retain(cu_context *context, cu_device device) {
  if (device || fake_option("retain", 0)) return device ? CU_INVALID_DEVICE : (cu_result)fake_option("retain", 0);
  the_context.retained++;
  facts.contexts++;
  facts.opened++;
  *context = &the_context;
  return 0;
}

cu_result fake_context_release(cu_device device) {
  if (device || the_context.retained == 0) return misused(INVALID_VALUE, "a context is given back twice");
  facts.contexts--;
  if (--the_context.retained == 0) fatal = 0;
  return 0;
}

cu_result fake_context_set(cu_context context) {
  current = context;
  return fatal;
}
