// The backend room: plays tapes. So far on the CPU: kernels in tiers (scalar, AVX2, AVX-512, NEON) with the same bits, and the executor.
#ifndef ZMI_BACKEND_H
#define ZMI_BACKEND_H

#include "backend/cuda/device/instruction.h"
#include "backend/cuda/device/sizes.h"
#include "backend/lanes.h"
#include "quant/quant.h"
#include "tape/tape.h"

enum {
  ZMI_RANGE = 256,     // k of one partial sum of a dot product (docs/numerics.md)
  ZMI_KEY_RANGE = 128, // positions of one partial softmax in attention
  ZMI_KEY_BLOCK = 16,  // positions side by side in the key cache
  ZMI_QUERIES = 4,     // queries that share what is read of a range
  ZMI_ROWS = 4,        // rows of x that the dot kernels take at once
  ZMI_GEMM_ROWS = 6,   // rows and columns of the panels of a matrix product
  ZMI_GEMM_COLS = 16,
  ZMI_FEW_ROWS = 8 // most rows of a product that is bound by reading the other matrix
};

// One row of activations as `digits` digits, 3 or 1. Per group, one after another: group bytes of d0 (most significant), of d1, of d2;
// after all groups: float scale[groups] (of three digits the power of two 2^e), float sum[groups] (scale times the sum of the integers),
// int32 parts[groups][digits] (the sums of d0, d1 and d2). Size: zmi_digits_bytes (a multiple of 64).
size_t zmi_digits_bytes(int64_t k, int64_t group, int digits);

// y[m][16*b + lane] = dot of rows m < rows (<= ZMI_ROWS) of x with the 16 rows of each of `blocks` consecutive blocks of a format. y:
// float32, row stride ldy. x: rows of k elements: digits (affine, mxfp4, nvfp4), or elements of x_dtype, ZM_BF16 (with bf16 weights only)
// or ZM_F32 (with any float weights, widened: fma(float(w), x, acc); odd k is handled). Long runs of blocks stream best: the kernel
// prefetches ahead across them.
typedef void (*zmi_dot_fn)(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *x,
                           zm_dtype x_dtype, float *y, int64_t ldy);

// A query of attention, and where its results over a range of positions go: the largest score, the sum of exp(score - largest), and the
// values weighted by those, acc [dim].
typedef struct zmi_query {
  const void *q; // [dim] of the caches' dtype
  float *max, *sum, *acc;
} zmi_query;

// One side of a matrix product in panels of ZMI_GEMM_ROWS rows of a or of ZMI_GEMM_COLS columns of b: packed one after another, each [k]
// [ZMI_GEMM_ROWS] or [k][ZMI_GEMM_COLS], or where they lie. Steps in floats; by_line of b is 1.
typedef struct zmi_panels {
  const float *data;
  int64_t by_line, by_k, by_panel;
} zmi_panels;

// What a running sum knows of the places before: the result of their block, and of the row at the end of the block before.
typedef struct zmi_running {
  float chain, carry;
  bool begun, carried; // whether there are such
} zmi_running;
enum { ZMI_RUNNING_SUB = 64, ZMI_RUNNING_SIDE = 16 }; // places of a stretch; stretches that stand side by side

// One CPU tier. Every function gives the same bits in every tier; the scalar tier (scalar.c) is the readable definition.
typedef struct zmi_kernels {
  const char *name; // "scalar", "avx2", "avx2vnni", "avx512", "avx512vnni"; of 64-bit ARM "scalar", "neon", "neondot"

  // x float32 [k] -> digits (zmi_digits_bytes(k, group, digits) bytes, 64-byte aligned). group: 16, 32, 64 or 128.
  void (*digits)(const float *x, int64_t k, int64_t group, int digits, void *out);
  zmi_dot_fn dot[ZMI_QUANT_MODE_COUNT]; // by the mode of the weights
  // Nothing but this tier's products of bytes, from registers, as fast as they go: what prompts are measured against. Returns how many
  // multiply-adds `rounds` rounds were; the sums go to sink so that nothing is left out.
  int64_t (*products)(int64_t rounds, int32_t sink[ZMI_LANES]);

  // Row helpers. n elements; dtype of memory at `src`/`dst` is any float dtype; float32 inside.
  void (*load)(const void *src, zm_dtype dtype, int64_t n, float *out); // widen
  void (*store)(const float *x, int64_t n, void *dst, zm_dtype dtype);  // round to nearest even
  void (*round)(float *x, int64_t n, zm_dtype dtype);                   // in place, through dtype and back
  // y = x * (1 / sqrt(mean(x^2) + eps)) * w, w float32. May be in place. Sum of squares in the lane order.
  void (*rms_norm)(const float *x, const float *w, int64_t n, float eps, float *y);
  float (*sum)(const float *x, int64_t n); // lane order
  float (*max)(const float *x, int64_t n); // NaN if any is NaN
  void (*softmax)(float *x, int64_t n);    // in place: exp(x - max) / sum
  void (*exp)(float *x, int64_t n);
  void (*sigmoid)(float *x, int64_t n);
  void (*silu)(float *x, int64_t n); // x * sigmoid(x)
  void (*tanh)(float *x, int64_t n);
  void (*log)(float *x, int64_t n);
  // Rotates n/2 pairs: half-split (x[i], x[i + n/2]) or, if traditional, (x[2i], x[2i+1]), by cos/sin [n/2].
  void (*rope)(float *x, int64_t n, bool traditional, const float *cosine, const float *sine);
  // acc[i] = fma(a, x[i], acc[i]); x of any float dtype
  void (*axpy)(float a, const void *x, zm_dtype dtype, int64_t n, float *acc);
  // acc[i] = fma(a[i], b[i], acc[i])
  void (*multiply_add)(const float *a, const float *b, int64_t n, float *acc);
  // n codes (a multiple of 8) of 1 to 6 or 8 bits of a stream, low bits first, one to a byte.
  void (*codes)(const void *stream, int64_t bits, int64_t n, uint8_t *out);
  // out[i] = fma(codes[i], scale, bias)
  void (*affine)(const uint8_t *codes, int64_t n, float scale, float bias, float *out);
  // A block of a matrix product: c[i * ldc + j] (= or +=, if `add`) acc, where acc = fma(a[i][q], b[q][j], acc) from +0 with q rising below
  // k. Only rows and cols that are there are read.
  void (*gemm)(const zmi_panels *a, int64_t rows, const zmi_panels *b, int64_t cols, int64_t k, float *c, int64_t ldc, bool add);
  // One panel of b or of a from columns or rows that are contiguous: out[q][i] = line[i][q].
  void (*gemm_columns)(const float *const *line, int64_t k, float *out);
  void (*gemm_rows)(const float *const *line, int64_t k, float *out);
  // Panels of b, `pitch` apart, from columns that are neighbours: out[j / COLS * pitch + q * COLS + j % COLS] = b[q * ldb + j], 0 from
  // `cols` on.
  void (*gemm_across)(const float *b, int64_t ldb, int64_t cols, int64_t k, float *out, int64_t pitch);
  // A few rows (1 to 8) by a matrix that is read where it lies, in float32, bfloat16 or float16; ldb in its elements. x: ranges of
  // ZMI_RANGE k, in each so many lines as there are rows, rounded up to 1, 2, 4 or 8.
  // few_rows: k <= ZMI_RANGE, acc[i * ld + j] = fma(x[i][q], b[q * ldb + j], acc[i * ld + j]) with q rising below k.
  void (*few_rows)(const float *x, int64_t rows, const void *b, zm_dtype dtype, int64_t ldb, int64_t cols, int64_t k, float *acc,
                   int64_t ld);
  // few_lines: y[i * ldy + j] = the parts of the ranges of k, each fma(x[i][q], b[j * ldb + q], part) from +0 with q rising, added in
  // rising order; with `add` after what is there. k > 0.
  void (*few_lines)(const float *x, int64_t rows, const void *b, zm_dtype dtype, int64_t ldb, int64_t lines, int64_t k, float *y,
                    int64_t ldy, bool add);
  // One range of attention for some queries of the same key/value head: `count` <= ZMI_KEY_RANGE positions starting at a multiple of
  // ZMI_KEY_RANGE. keys: blocks of ZMI_KEY_BLOCK positions, each dim/2 pairs x 16 positions x {2j, 2j+1}; values [positions][dim]
  // row-major. `more`: the caller will come for the range that follows in memory. A query's results do not depend on the others.
  void (*attend)(const zmi_query *query, int queries, const void *keys, const void *values, zm_dtype dtype, int64_t dim, int64_t count,
                 float scale, bool more);
  // Running sums of n places of a row that begin with a stretch (of ZMI_RUNNING_SUB), in the order of array/ops/cumulative.c; y may be x.
  // past: y is written past the caches where its place allows that; who tells others of it orders the stores (zmi_copied_past).
  void (*running_sums)(const float *x, int64_t n, zmi_running *r, float *y, bool past);
  const zmi_lanes *lanes; // loops of the kernel language's instructions
} zmi_kernels;

// Tiers from the lowest to the highest; the name of the best this machine and its operating system allow is zmi_kernels_best()->name.
size_t zmi_tier_count(void);
const zmi_kernels *zmi_tier(size_t i);
bool zmi_tier_supported(size_t i, const char **why_not); // why_not: "no AVX-512 VNNI", "the operating system does not save AVX-512 state"
// The tier of a name (NULL or "": ZMLX_ISA, else the best). NULL with a message if unknown or not supported here.
const zmi_kernels *zmi_kernels_find(const char *name);

// Scalar mathematics shared by tiers and by code outside hot loops (math.c). Own polynomials, no platform libm; errors in docs/numerics.md.
float zmi_expf(float x);
float zmi_logf(float x);
float zmi_sigmoidf(float x);
float zmi_siluf(float x);
float zmi_tanhf(float x);
// The functions of kernels by their names, "log1p"; NULL if there is none (constants.c). The float rule is the caller's.
typedef float (*zmi_function_one)(float);
typedef float (*zmi_function_two)(float, float);
zmi_function_one zmi_function_of_one(const char *name);
zmi_function_two zmi_function_of_two(const char *name);
double zmi_exp(double x);
double zmi_log(double x);
void zmi_sincos(double x, double *sine, double *cosine); // |x| < 2^30
double zmi_pow(double base, double exponent);            // base > 0

// The scalar functions of the kernel language (src/backend/prelude) as text that compiles as C17, C++, CUDA C and Metal.
extern const char zmi_prelude_text[];

// ---- executor (cpu/play.c) ----
// A bound tape ready to play: calls with resolved addresses, and where barriers are needed. Borrows the tape, the arena and all slot
// memory.
typedef struct zmi_player zmi_player;
// Every WEIGHT, INPUT and STATE slot must have data; arena has tape->arena_bytes.
zmi_player *zmi_player_new(zmi_tape *tape, void *arena, const zmi_kernels *kernels);
void zmi_player_free(zmi_player *p);
// Takes new addresses: those of the arena, of INPUT slots, and of OUTPUT slots that are apart. They must not overlap, as before.
void zmi_player_rebind(zmi_player *p, void *arena);
void zmi_player_play(zmi_player *p, zmi_pool *pool);
// What a step (a stage of an instruction) took. Seconds are means over the workers, added up over all plays.
typedef struct zmi_step_time {
  size_t instr;
  int64_t waits_for; // it stands behind a barrier, as it meets memory of this instruction (itself: of an earlier stage); -1: no barrier
  double worked;
  double waited;    // at that barrier; of the first step: to wake up
  double idle;      // of `waited`: until the last worker came
  const char *kind; // of an instruction of a GPU, or NULL
  int tiles;        // of it
} zmi_step_time;
typedef struct zmi_profile {
  zmi_step_time *steps; // in order; one more at the end, instr = instructions of the tape: waiting until all workers are done
  size_t count, plays;
} zmi_profile;
// Plays with the barriers of any play and with each worker's time stamps, and adds to *profile, which starts as zeros.
zm_status zmi_player_profile(zmi_player *p, zmi_pool *pool, zmi_profile *profile);
void zmi_profile_release(zmi_profile *profile);
// Plays one instruction after another and calls `look` after each (used to find the first difference between two tapes).
void zmi_player_trace(zmi_player *p, zmi_pool *pool, void (*look)(void *user, const zmi_tape *tape, size_t instr), void *user);

// ---- GPUs (cuda/) ----
// A GPU in use: its context, compiled device code, the weights that are there. One thread at a time. Addresses are of device memory.
typedef struct zmi_cuda zmi_cuda;
typedef struct zmi_device_facts {
  bool usable;
  char name[96], why[256]; // why: the reason why it cannot be used, or NULL-length
  int major, minor, processors, driver;
  uint64_t memory; // bytes
} zmi_device_facts;
// Looks at GPU 0 without keeping it.
void zmi_device_look(zmi_device_facts *facts);
// progress is told when device code has to be compiled first ("compiling for ..."); may be NULL. NULL with a message.
zmi_cuda *zmi_device_open(zm_progress_fn progress, void *user);
void zmi_device_close(zmi_cuda *d);
// The same without device code, which zmi_device_load adds when it is needed: kernels of arrays are compiled one by one.
zmi_cuda *zmi_device_take(void);
zm_status zmi_device_load(zmi_cuda *d, zm_progress_fn progress, void *user);
bool zmi_device_is_broken(const zmi_cuda *d);                                                 // nothing can be done with it any more
zm_status zmi_device_alloc(zmi_cuda *d, size_t bytes, const char *what, zmi_gpu_address *at); // zeros; what: for the message
void zmi_device_free(zmi_cuda *d, zmi_gpu_address at);
zm_status zmi_device_copy(zmi_cuda *d, zmi_gpu_address to, zmi_gpu_address from, size_t bytes); // when its turn comes; nobody waits
// Fails if the device has no room for so many more bytes; what: for the message, "the weights".
zm_status zmi_device_fits(zmi_cuda *d, uint64_t bytes, const char *what);
zm_status zmi_device_upload(zmi_cuda *d, zmi_gpu_address to, const void *from, size_t bytes);
zm_status zmi_device_download(zmi_cuda *d, void *to, zmi_gpu_address from, size_t bytes);
// The address of host memory that never changes and outlives the device's use of it, uploaded when it is first asked for. What lies within
// memory that was asked for before is there already, so that the host need not keep what it holds.
zm_status zmi_device_resident(zmi_cuda *d, const void *host, size_t bytes, zmi_gpu_address *at);

// What an op of a tape is on a device (zmi_op.device): instructions, added one after another. src and dst of the call are device addresses.
typedef struct zmi_device_code zmi_device_code;
enum { ZMI_GPU_TOGETHER = 1 }; // does not touch what the instruction before it writes or reads, unless both only read it
void zmi_device_add(zmi_device_code *code, const zmi_gpu_instruction *in, int flags); // kind, tiles, shared and operands are set
zmi_gpu_address zmi_device_scratch(zmi_device_code *code, size_t bytes); // until the op's last instruction is done; 256-byte aligned
// Where a SORT of this op puts its pairs; true if the last one had the same choice, so that they are there.
bool zmi_device_sorted(zmi_device_code *code, zmi_gpu_sort *s);
int zmi_gpu_many_shared(const zmi_gpu_many *many); // bytes of shared memory, by its stages
static inline zmi_gpu_address zmi_gpu_at(const void *p) {
  return (zmi_gpu_address)(uintptr_t)p;
}

// ---- arrays on a GPU (cuda/arrays.c). All of it happens in one order, that of the calls; nobody waits but zmi_device_wait, uploads of
// much and downloads ----
// Memory for values, its contents undefined. Blocks that are given back are kept for the next ones, up to a limit.
zm_status zmi_device_get(zmi_cuda *d, size_t bytes, zmi_gpu_address *at);
void zmi_device_give_back(zmi_cuda *d, zmi_gpu_address at, size_t bytes); // 0 is ignored; what uses it may still be going on
void zmi_device_forget(zmi_cuda *d);                                      // blocks that are kept go back to the driver
zm_status zmi_device_send(zmi_cuda *d, zmi_gpu_address to, const void *from, size_t bytes);
zm_status zmi_device_fetch(zmi_cuda *d, void *to, zmi_gpu_address from, size_t bytes);
zm_status zmi_device_zero(zmi_cuda *d, zmi_gpu_address at, size_t bytes);
zm_status zmi_device_wait(zmi_cuda *d);
// Kernels of CUDA C, found by the key that they were compiled with; NULL: none, or with a message. They stay for a while after their last
// use. entry: name of the function; name: for messages.
typedef struct zmi_device_kernel zmi_device_kernel;
const zmi_device_kernel *zmi_device_kernel_find(zmi_cuda *d, const uint64_t key[2]);
const zmi_device_kernel *zmi_device_kernel_make(zmi_cuda *d, const uint64_t key[2], const char *name, const char *source,
                                                const char *entry);
zm_status zmi_device_launch(zmi_cuda *d, const zmi_device_kernel *k, int64_t groups, int64_t threads, void **arguments);
int zmi_device_processors(const zmi_cuda *d);
// One op by its own instructions (zmi_op.device); src and dst of the call are device addresses. *runs false: it has none for such a call,
// and nothing was done.
zm_status zmi_device_play_op(zmi_cuda *d, const zmi_call *c, bool *runs);
typedef struct zmi_device_use {
  uint64_t active, kept;                                   // bytes
  uint64_t kernels, launches, instructions, sent, fetched; // kernels: compiled or loaded; sent, fetched: bytes of values
} zmi_device_use;
zmi_device_use zmi_device_use_of(const zmi_cuda *d); // so far

// Where states live: in memory of the host (d: NULL) or of a device. An address of the one means nothing to the other.
typedef struct zmi_home {
  zm_status (*get)(zmi_cuda *d, size_t bytes, const char *what, void **at); // zeros; what: for the message
  void (*give_back)(zmi_cuda *d, void *at, size_t bytes);                   // NULL is ignored
  zm_status (*copy)(zmi_cuda *d, void *to, const void *from, size_t bytes); // within the place, behind all that was played before
  uint64_t (*available)(void);                                              // 0: not known before it is asked for
  bool may_fail; // a step that has begun may fail, with states half of the step before
} zmi_home;
const zmi_home *zmi_home_of(const zmi_cuda *d);

int zmi_gpu_dtype_of(zm_dtype dtype);       // ZMI_GPU_BF16, ...
const char *zmi_device_kind_name(int kind); // "dot"
// What copying within its memory reaches, bytes read and written, GB/s: the best of a few copies. 0 with a message.
double zmi_device_bandwidth(zmi_cuda *d);

// How a GPU plays: FIRST(constant, name), then NEXT(constant, name) of each other one, in the order of the public list.
#define ZMI_EXECUTORS(FIRST, NEXT) FIRST(AUTO, "auto") NEXT(STREAM, "stream") NEXT(GRAPH, "graph") NEXT(PERSISTENT, "persistent")
#define ZMI_EXECUTOR_CONSTANT(constant, name) ZMI_EXECUTOR_##constant,
typedef enum zmi_executor { ZMI_EXECUTORS(ZMI_EXECUTOR_CONSTANT, ZMI_EXECUTOR_CONSTANT) ZMI_EXECUTOR_COUNT } zmi_executor;
#define ZMI_EXECUTOR_WORD(constant, name) name
#define ZMI_EXECUTOR_NEXT_WORD(constant, name) "|" name
#define ZMI_EXECUTOR_NAMES ZMI_EXECUTORS(ZMI_EXECUTOR_WORD, ZMI_EXECUTOR_NEXT_WORD) // "auto|stream|..."
const char *zmi_executor_name(zmi_executor executor);
zmi_executor zmi_executor_find(const char *name); // ZMI_EXECUTOR_COUNT if there is none of that name

// A tape ready to play on a device. Slots: WEIGHT: data on the host, made resident; STATE: data is a device address; INPUT: data on the
// host, taken at each play; OUTPUT: data on the host, written by each play. Borrows the tape and that memory.
typedef struct zmi_device_player zmi_device_player;
zmi_device_player *zmi_device_player_new(zmi_cuda *d, zmi_tape *tape, zmi_executor executor);
void zmi_device_player_free(zmi_device_player *p);
zm_status zmi_device_player_play(zmi_device_player *p);
// Several steps of one row without the host in between, where `runs` says so: each step chooses a token by its logits (NaN counts as
// -infinity), and the next one takes it and comes one position later. start begins at most `most` of them (and at most
// ZMI_GPU_SAID); next waits for the next token, -1 where no logit is finite, and is false if no more come; stop asks for an end with the
// token at hand; finish waits for the end. played: how many steps there were, the last of which may be half done if it was asked to stop;
// more than next has told of: states are not those behind the last token. Behind start always comes finish, and nothing else is played in
// between.
typedef struct zmi_device_run {
  const char *token, *position, *logits; // names of slots
  int most;
  const int32_t *end; // ids after which it ends; it may go on after some of many
  size_t ends;
  zmi_gpu_sampling sampling; // the token of the step at position p is drawn for position p + 1
} zmi_device_run;
bool zmi_device_player_runs(const zmi_device_player *p);
zm_status zmi_device_player_start(zmi_device_player *p, const zmi_device_run *run);
bool zmi_device_player_next(zmi_device_player *p, int32_t *token);
void zmi_device_player_stop(zmi_device_player *p);
zm_status zmi_device_player_finish(zmi_device_player *p, int *played);
// From any thread: whatever is played on a GPU by a resident kernel ends within a step, and nothing more is played: ZM_ERROR_CANCELLED.
// false: it may be again.
void zmi_device_stop(bool stop);
zmi_executor zmi_device_player_executor(const zmi_device_player *p);                          // the one in use
const zmi_gpu_instruction *zmi_device_player_code(const zmi_device_player *p, size_t *count); // as they are played
// Plays with clocks: around each launch, or inside the resident kernel. Adds to worked, waited and idle of steps[i] of instruction i (means
// over the thread blocks; launches wait for nothing that can be seen).
zm_status zmi_device_player_profile(zmi_device_player *p, zmi_step_time *steps);

#endif
