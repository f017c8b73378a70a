// Thread blocks of a GPU on the CPU: every thread is a fiber, which switches where it waits. A block gets a turn in which each of its
// threads that can go on runs up to where it waits next. Nothing here is preempted, so that every run of a seed is the same.
#include "gpu.h"
#include "gpu_machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GPU_ASAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define GPU_ASAN
#endif

extern "C" {
unsigned zmi_float_rule_enter(void);
void zmi_float_rule_leave(unsigned saved);
#if defined(GPU_ASAN)
void __sanitizer_start_switch_fiber(void **fake, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *fake, const void **bottom, size_t *size);
void __asan_unpoison_memory_region(void const volatile *address, size_t size);
#endif
}

// ---- switching stacks ----

#if defined(__x86_64__)
struct gpu_context {
  void *top;
};
extern "C" void gpu_switch_stack(void **save, void *to);
asm(".text\n"
    ".globl gpu_switch_stack\n"
    ".type gpu_switch_stack, @function\n"
    "gpu_switch_stack:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size gpu_switch_stack, . - gpu_switch_stack\n"
    ".section .note.GNU-stack,\"\",@progbits\n"
    ".text\n");

static void context_make(gpu_context *c, char *stack, size_t size, void (*start)()) {
  void **top = (void **)(stack + size) - 2; // where start() finds its return address: 8 bytes off a multiple of 16, as after a call
  top[0] = (void *)start;
  top[1] = NULL;
  c->top = top - 6;
  memset(c->top, 0, 6 * sizeof(void *));
}
static void context_switch(gpu_context *from, gpu_context *to) {
  gpu_switch_stack(&from->top, to->top);
}
#else
#include <ucontext.h>
struct gpu_context {
  ucontext_t u;
};
static void context_make(gpu_context *c, char *stack, size_t size, void (*start)()) {
  getcontext(&c->u);
  c->u.uc_stack.ss_sp = stack;
  c->u.uc_stack.ss_size = size;
  c->u.uc_link = NULL;
  makecontext(&c->u, start, 0);
}
static void context_switch(gpu_context *from, gpu_context *to) {
  swapcontext(&from->u, &to->u);
}
#endif

// ---- state ----

enum { THREADS = 256, MOST = 288, WARP = 32, WARPS = MOST / WARP, TURNS = 1 << 20 }; // THREADS: that meet at a barrier of the block
#if defined(GPU_ASAN)
enum { STACK = 256 * 1024 };
#else
enum { STACK = 64 * 1024 };
#endif

enum gpu_state { READY, PAUSED, AT_BLOCK, AT_WARP, ENDED };
enum { BULKS = 64, COPIES = 64 }; // most that a thread has on their way

// Threads that wait together: all at one line and for one thing.
struct gpu_barrier {
  int arrived, line, what;
};

struct gpu_warp {
  gpu_barrier barrier;
  unsigned exchanged[2][WARP]; // of this exchange and of the next one, which a thread may reach before others have read
  unsigned tile[2][WARP][6];   // fragments of A and B, likewise
  unsigned turn;
};

struct gpu_fiber {
  gpu_place place;
  gpu_context context;
  gpu_state state;
  char *stack;
  void *fake;
  bool began_next, waited_before;
  // Copies on their way, the oldest first, and the number of groups that ended before each.
  struct {
    char *to;
    const char *from;
    int bytes;
    unsigned group;
  } copy[COPIES];
  int copies;
  unsigned groups;
};

// A copy through a gate.
struct gpu_bulk {
  char *to;
  const char *from;
  int bytes;
  unsigned long long *gate;
};

struct gpu_block {
  gpu_fiber fiber[MOST];
  gpu_bulk bulk[BULKS];
  int bulks;
  gpu_warp warp[WARPS];
  gpu_barrier barrier, all;    // of the first THREADS, of all
  int threads, ended, waiting; // waiting: have come to where they wait for the launch before
  size_t shared;               // bytes of its memory
  bool there, stuck;           // stuck: in its last turn nothing but pauses
  char *memory;
};

static struct {
  gpu_block *blocks[GPU_RESIDENT_BLOCKS];
  gpu_context scheduler;
  void *fake;
  const void *stack;
  size_t stack_bytes;
  gpu_block *block; // whose turn it is
  gpu_fiber *fiber;
  void (*kernel)(void *);
  void *argument;
  bool moved;    // in this turn a thread came somewhere
  bool launched; // after another launch, which its threads have to wait for
  int before;    // blocks whose threads still wait for the launch before
  uint64_t random;
  char wrong[256];
} gpu;

gpu_place *gpu_here;

static uint64_t gpu_random() {
  gpu.random ^= gpu.random << 13;
  gpu.random ^= gpu.random >> 7;
  return gpu.random ^= gpu.random << 17;
}

static void gpu_to_scheduler(bool last) {
#if defined(GPU_ASAN)
  gpu_fiber *self = gpu.fiber;
  __sanitizer_start_switch_fiber(last ? NULL : &self->fake, gpu.stack, gpu.stack_bytes);
  context_switch(&self->context, &gpu.scheduler);
  __sanitizer_finish_switch_fiber(self->fake, &gpu.stack, &gpu.stack_bytes);
#else
  (void)last;
  context_switch(&gpu.fiber->context, &gpu.scheduler);
#endif
}

static void gpu_start() {
#if defined(GPU_ASAN)
  __sanitizer_finish_switch_fiber(NULL, &gpu.stack, &gpu.stack_bytes);
#endif
  gpu.kernel(gpu.argument);
  if (gpu.launched && !(gpu.fiber->began_next && gpu.fiber->waited_before))
    snprintf(gpu.wrong, sizeof gpu.wrong, "thread %d ends without a wait for the launch before, or did not let the next one begin",
             gpu_here->thread);
  gpu.fiber->state = ENDED;
  gpu.block->ended++;
  gpu.moved = true;
  gpu_to_scheduler(true);
  abort(); // an ended fiber never runs again
}

static void gpu_run(gpu_fiber *f) {
  gpu.fiber = f;
  gpu_here = &f->place;
  f->state = READY;
#if defined(GPU_ASAN)
  __sanitizer_start_switch_fiber(&gpu.fake, f->stack, STACK);
  context_switch(&gpu.scheduler, &f->context);
  __sanitizer_finish_switch_fiber(gpu.fake, NULL, NULL);
#else
  context_switch(&gpu.scheduler, &f->context);
#endif
}

// ---- waiting ----

enum { FOR_OTHERS, FOR_VALUES };

// True for the last of `all` that come.
static bool gpu_arrive(gpu_barrier *b, int all, int what, int line, const char *of) {
  if (b->arrived > 0 && (b->line != line || b->what != what) && !gpu.wrong[0]) {
    snprintf(gpu.wrong, sizeof gpu.wrong, "block %d, thread %d: waits at line %d for its %s, others of which wait at line %d",
             gpu_here->block, gpu_here->thread, line, of, b->line);
  }
  b->line = line;
  b->what = what;
  gpu.moved = true;
  if (++b->arrived < all) return false;
  b->arrived = 0;
  return true;
}

static void gpu_join_block(gpu_barrier *at, int threads, int line) {
  gpu_block *b = gpu.block;
  gpu.fiber->state = AT_BLOCK;
  if (gpu_here->thread >= threads)
    snprintf(gpu.wrong, sizeof gpu.wrong, "thread %d waits at line %d, which is not for it", gpu_here->thread, line);
  if (gpu_arrive(at, threads, FOR_OTHERS, line, "block")) {
    for (int t = 0; t < threads; t++) b->fiber[t].state = READY;
  }
  gpu_to_scheduler(false);
}

void gpu_wait_block(int line) {
  gpu_join_block(&gpu.block->barrier, THREADS, line);
}

void gpu_wait_all(int line) {
  gpu_join_block(&gpu.block->all, gpu.block->threads, line);
}

static void gpu_join_warp(int what, int line) {
  const int first = gpu_here->thread / WARP * WARP;
  gpu.fiber->state = AT_WARP;
  if (gpu_arrive(&gpu.block->warp[first / WARP].barrier, WARP, what, line, "warp")) {
    for (int i = 0; i < WARP; i++) gpu.block->fiber[first + i].state = READY;
    gpu.block->warp[first / WARP].turn += what == FOR_VALUES;
  }
  gpu_to_scheduler(false);
}

void gpu_wait_warp(int line) {
  gpu_join_warp(FOR_OTHERS, line);
}

unsigned long long gpu_ticks() {
  static unsigned long long ticks;
  return ticks += 10;
}

unsigned long long gpu_clock_step;
unsigned long long gpu_nanoseconds() {
  static unsigned long long now;
  return now += gpu_clock_step;
}

long long gpu_stop_in;
unsigned long gpu_looks;
unsigned gpu_look_host(const unsigned *p) {
  gpu_looks++;
  if (gpu_stop_in > 0 && --gpu_stop_in == 0) *const_cast<unsigned *>(p) = 1;
  return *p;
}

// ---- the launch before ----

void (*gpu_before)(void);

void gpu_begin_next() {
  gpu.fiber->began_next = true;
}

// The launch before ends as late as it may: when all threads of the blocks that are there wait for it.
void gpu_wait_before() {
  gpu_block *b = gpu.block;
  gpu_fiber *self = gpu.fiber;
  self->waited_before = true;
  if (++b->waiting == b->threads && gpu.before > 0 && --gpu.before == 0 && gpu_before) gpu_before();
  gpu.moved = true;
  while (gpu.before > 0) gpu_give_way();
}

// ---- copies ----

void gpu_copy(char *to, const char *from, int bytes) {
  gpu_fiber *f = gpu.fiber;
  if (f->copies == COPIES) {
    snprintf(gpu.wrong, sizeof gpu.wrong, "thread %d has %d copies on their way", gpu_here->thread, COPIES);
    return;
  }
  if (((uintptr_t)to | (uintptr_t)from) % (uintptr_t)bytes)
    snprintf(gpu.wrong, sizeof gpu.wrong, "a copy is not aligned to %d bytes", bytes);
  memset(to, 0x5e, (size_t)bytes);
  f->copy[f->copies++] = {to, from, bytes, f->groups};
}

void gpu_copy_commit() {
  gpu.fiber->groups++;
}

void gpu_copy_wait(unsigned most) {
  gpu_fiber *f = gpu.fiber;
  int done = 0;
  while (done < f->copies && f->copy[done].group + most < f->groups) {
    memcpy(f->copy[done].to, f->copy[done].from, (size_t)f->copy[done].bytes);
    done++;
  }
  f->copies -= done;
  memmove(f->copy, f->copy + done, (size_t)f->copies * sizeof f->copy[0]);
}

// A gate is how often copies have come through it; the highest bit: others are on their way, the last one of which has been asked for.
static const unsigned long long COMING = 1ull << 63;

void gpu_bulk_open(unsigned long long *gate) {
  *gate = 0;
}

bool (*gpu_is_memory)(const void *at, size_t bytes);

void gpu_bulk_copy(char *to, const char *from, int bytes, unsigned long long *gate) {
  gpu_block *b = gpu.block;
  if (gpu_here->thread % WARP != 0) return;
  if (bytes <= 0 || to < b->memory || (size_t)(to - b->memory) + (size_t)bytes > b->shared ||
      (gpu_is_memory && !gpu_is_memory(from, (size_t)bytes))) {
    snprintf(gpu.wrong, sizeof gpu.wrong, "a copy of %d bytes begins or ends in memory that is not there", bytes);
    return;
  }
  if (((uintptr_t)to | (uintptr_t)from | (uintptr_t)bytes) % 16) snprintf(gpu.wrong, sizeof gpu.wrong, "a copy is not aligned to 16 bytes");
  if (*gate & COMING || b->bulks == BULKS) {
    snprintf(gpu.wrong, sizeof gpu.wrong, "thread %d asks for a copy while others of its gate are on their way", gpu_here->thread);
    return;
  }
  memset(to, 0x5e, (size_t)bytes);
  b->bulk[b->bulks++] = {to, from, bytes, gate};
}

void gpu_bulk_asked(unsigned long long *gate) {
  int copies = 0;
  if (gpu_here->thread % WARP != 0) return;
  for (int i = 0; i < gpu.block->bulks; i++) copies += gpu.block->bulk[i].gate == gate;
  if (*gate & COMING || copies == 0)
    snprintf(gpu.wrong, sizeof gpu.wrong, "thread %d says twice that all copies of a gate are asked for, or of none", gpu_here->thread);
  *gate |= COMING;
}

static bool gpu_bulk_come(unsigned long long *gate) {
  gpu_block *b = gpu.block;
  if (!(*gate & COMING)) return false;
  for (int i = 0; i < b->bulks;) {
    const gpu_bulk x = b->bulk[i];
    if (x.gate != gate) {
      i++;
      continue;
    }
    memcpy(x.to, x.from, (size_t)x.bytes);
    b->bulk[i] = b->bulk[--b->bulks];
  }
  *gate = (*gate & ~COMING) + 1;
  gpu.moved = true;
  return true;
}

void gpu_bulk_wait(unsigned long long *gate, unsigned turn) {
  while ((*gate & ~COMING) % 2 == turn) {
    if (!gpu_bulk_come(gate)) gpu_give_way(); // the thread that asks for them has not done so yet
  }
}

// A gate of threads: how many arrivals open it and how many of them are to come (16 bits each), how often it has opened.
void gpu_gate_open(unsigned long long *gate, unsigned n) {
  *gate = (unsigned long long)n << 48 | (unsigned long long)n << 32;
}

void gpu_gate_arrive(unsigned long long *gate, unsigned n) {
  const unsigned all = (unsigned)(*gate >> 48), left = (unsigned)(*gate >> 32) & 0xffffu, opened = (unsigned)*gate;
  if (n == 0 || n > left) {
    snprintf(gpu.wrong, sizeof gpu.wrong, "thread %d counts for %u at a gate, where %u are to come", gpu_here->thread, n, left);
    return;
  }
  *gate = (unsigned long long)all << 48 | (unsigned long long)(n < left ? left - n : all) << 32 | (opened + (n == left));
}

unsigned gpu_exchange(unsigned x, int lane, int line) {
  gpu_warp *w = &gpu.block->warp[gpu_here->thread / WARP];
  unsigned *values = w->exchanged[w->turn & 1u];
  values[gpu_here->thread % WARP] = x;
  gpu_join_warp(FOR_VALUES, line);
  return values[lane & (WARP - 1)];
}

static int gpu_byte(unsigned word, int i, bool is_signed) {
  const unsigned byte = word >> (8 * i) & 255u;
  return is_signed ? (signed char)(unsigned char)byte : (int)byte;
}

// Fragments as of mma.m16n8k32: lane l has of A rows l / 4 (words 0 and 2) and l / 4 + 8 (1 and 3), bytes 4 (l % 4) .. and 16 more; of B
// column l / 4, the same bytes; of D rows l / 4 (numbers 0 and 1) and l / 4 + 8 (2 and 3), columns 2 (l % 4) and the next.
void gpu_tile(int d[4], const unsigned a[4], const unsigned b[2], bool is_signed, int line) {
  gpu_warp *w = &gpu.block->warp[gpu_here->thread / WARP];
  unsigned(*words)[6] = w->tile[w->turn & 1u];
  const int lane = gpu_here->thread % WARP;
  memcpy(words[lane], a, 16);
  memcpy(words[lane] + 4, b, 8);
  gpu_join_warp(FOR_VALUES, line);
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4, half = i / 2, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 32; k++) {
      const unsigned *x = words[row * 4 + k % 16 / 4], *y = words[column * 4 + k % 16 / 4];
      d[i] += gpu_byte(x[half + k / 16 * 2], k % 4, is_signed) * gpu_byte(y[4 + k / 16], k % 4, true);
    }
  }
}

void gpu_give_way() {
  gpu.fiber->state = PAUSED;
  gpu_to_scheduler(false);
}

// ---- blocks ----

static bool gpu_place_of(int i, size_t shared) {
  gpu_block *b = gpu.blocks[i];
  if (!b) {
    b = (gpu_block *)calloc(1, sizeof *b);
    char *stacks = (char *)mmap(NULL, (size_t)STACK * MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!b || stacks == MAP_FAILED) {
      free(b);
      snprintf(gpu.wrong, sizeof gpu.wrong, "no memory for the stacks of a block");
      return false;
    }
    for (int t = 0; t < MOST; t++) b->fiber[t].stack = stacks + (size_t)t * STACK;
    gpu.blocks[i] = b;
  }
  free(b->memory); // new memory for each launch: what is behind its end is found by the address sanitizer
  b->memory = (char *)aligned_alloc(128, (shared + 127) / 128 * 128 + 128);
  b->there = false;
  if (!b->memory) snprintf(gpu.wrong, sizeof gpu.wrong, "no memory for %zu shared bytes", shared);
  return b->memory != NULL;
}

static void gpu_start_block(gpu_block *b, int block, int blocks, int threads, size_t shared) {
  memset(b->memory, 0xa7 + block % 16, shared);
  memset(b->memory + shared, 0x5c, (shared + 127) / 128 * 128 + 128 - shared);
  memset(b->warp, 0, sizeof b->warp);
  b->barrier.arrived = b->all.arrived = b->ended = b->waiting = 0;
  b->threads = threads;
  b->shared = shared;
  b->bulks = 0;
  b->there = true;
  b->stuck = false;
  for (int t = 0; t < threads; t++) {
    gpu_fiber *f = &b->fiber[t];
    f->place.thread = t;
    f->place.block = block;
    f->place.blocks = blocks;
    f->place.shared = b->memory;
    f->state = READY;
    f->fake = NULL;
    f->copies = 0;
    f->groups = 0;
    f->began_next = f->waited_before = false;
#if defined(GPU_ASAN)
    __asan_unpoison_memory_region(f->stack, STACK);
#endif
    context_make(&f->context, f->stack, STACK, gpu_start);
  }
}

// What hinders a block of which no thread can go on.
static void gpu_explain(const gpu_block *b) {
  int at[ENDED + 1] = {0};
  const gpu_fiber *waits = NULL;
  for (int t = 0; t < b->threads; t++) {
    const gpu_fiber *f = &b->fiber[t];
    at[f->state]++;
    if (f->state == AT_BLOCK || f->state == AT_WARP) waits = f;
  }
  const int line = !waits ? 0 : waits->state == AT_BLOCK ? b->barrier.line : b->warp[waits->place.thread / WARP].barrier.line;
  snprintf(gpu.wrong, sizeof gpu.wrong, "block %d: %d threads wait for their block, %d for their warp (one at line %d), %d ended",
           b->fiber[0].place.block, at[AT_BLOCK], at[AT_WARP], line, at[ENDED]);
}

static void gpu_turn(gpu_block *b, bool shuffled, size_t shared) {
  enum { EACH = 512 }; // a power of two, as `step` is odd: each number comes once
  const unsigned first = shuffled ? (unsigned)(gpu_random() >> 20) : 0, step = shuffled ? (unsigned)(gpu_random() >> 20) | 1u : 1;
  bool paused = false;
  gpu.block = b;
  gpu.moved = false;
  for (unsigned i = 0; i < EACH && !gpu.wrong[0]; i++) {
    const unsigned t = (first + i * step) % EACH;
    if (t >= (unsigned)b->threads) continue;
    gpu_fiber *f = &b->fiber[t];
    if (f->state != READY && f->state != PAUSED) continue;
    gpu_run(f);
    paused |= f->state == PAUSED;
  }
  b->stuck = !gpu.moved;
  if (gpu.wrong[0]) return;
  if (!gpu.moved && !paused) gpu_explain(b);
  if (b->ended < b->threads) return;
  b->there = false;
  if (b->bulks) snprintf(gpu.wrong, sizeof gpu.wrong, "block %d: ends while copies are on their way", b->fiber[0].place.block);
  for (size_t i = shared; i < (shared + 127) / 128 * 128 + 128; i++) {
    if (b->memory[i] != 0x5c) snprintf(gpu.wrong, sizeof gpu.wrong, "block %d: wrote behind its shared memory", b->fiber[0].place.block);
  }
}

extern "C" const char *gpu_simulate_launch(void (*kernel)(void *), void *argument, int blocks, int threads, size_t shared, uint64_t seed) {
  gpu.launched = true;
  gpu.before = blocks < GPU_RESIDENT_BLOCKS ? blocks : GPU_RESIDENT_BLOCKS;
  const char *wrong = gpu_simulate(kernel, argument, blocks, threads, shared, seed);
  gpu.launched = false;
  gpu.before = 0;
  return wrong;
}

extern "C" const char *gpu_simulate(void (*kernel)(void *), void *argument, int blocks, int threads, size_t shared, uint64_t seed) {
  const int room = blocks < GPU_RESIDENT_BLOCKS ? blocks : GPU_RESIDENT_BLOCKS;
  const bool shuffled = seed != 0;
  int started = 0, ended = 0, at = 0, idle = 0, *order = (int *)calloc((size_t)blocks + 1, sizeof *order);
  gpu.kernel = kernel;
  gpu.argument = argument;
  gpu.random = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
  gpu.wrong[0] = 0;
  for (int i = 0; i < room; i++) {
    if (!gpu_place_of(i, shared)) return free(order), gpu.wrong;
  }
  for (int i = 0; i < blocks; i++) { // numbers of blocks in the order of their start
    const int j = shuffled ? (int)((gpu_random() >> 20) % (unsigned)(i + 1)) : i;
    order[i] = order[j];
    order[j] = i;
  }
  const unsigned saved = zmi_float_rule_enter();
  while (ended < blocks && !gpu.wrong[0]) {
    if (shuffled) at = (int)((gpu_random() >> 20) % (unsigned)room);
    gpu_block *b = gpu.blocks[at];
    if (!b->there && started < blocks) gpu_start_block(b, order[started++], blocks, threads, shared);
    if (b->there) {
      gpu_turn(b, shuffled, shared);
      ended += !b->there;
      idle = b->stuck ? idle + 1 : 0;
    }
    // In order: a block runs until it ends or does nothing but wait for others.
    if (!shuffled && (b->stuck || !b->there)) at = (at + 1) % room;
    if (idle > TURNS / THREADS && !gpu.wrong[0]) snprintf(gpu.wrong, sizeof gpu.wrong, "all blocks do nothing but wait for each other");
  }
  zmi_float_rule_leave(saved);
  free(order);
  return gpu.wrong[0] ? gpu.wrong : NULL;
}
