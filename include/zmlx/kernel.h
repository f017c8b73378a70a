// Kernels of your own: an op written in the kernel language (docs/kernel-language.md) is lazy, differentiable, batchable and fusable like
// every other operation on arrays.
//
//   zm_op *mish = zm_elementwise("x * tanh(log(1 + exp(x)))", NULL);
//   zm_array *y = zm_op_apply1(mish, x, NULL);
//
// Ownership: a zm_op belongs to who made it, until zm_op_free(); arrays made with it keep what they need of it.
// Errors: a source that does not parse or type gives NULL and a message with its line and a caret under the place.
// Threads: a zm_op may be used by several threads at a time.
#ifndef ZMLX_KERNEL_H
#define ZMLX_KERNEL_H

#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ZM_MAX_OPERANDS = 16, ZM_MAX_RESULTS = 8 };

typedef struct zm_op zm_op;
ZM_API void zm_op_free(zm_op *op); // NULL is ignored
ZM_API const char *zm_op_name(const zm_op *op);

// Applies an op to nin arrays: out[0..nout-1] are its results, lazy, in the current scope. Operands of elementwise and row ops are
// broadcast against each other.
ZM_API zm_status zm_op_apply(const zm_op *op, zm_array *const *in, int nin, zm_array **out, int nout);
// The same for an op of one result: operands up to a final NULL.
ZM_API zm_array *zm_op_apply1(const zm_op *op, zm_array *first, ...) __attribute__((sentinel));

// How an op computes floats. Results have the dtype of the first float operand unless `result` says otherwise.
typedef struct zm_elementwise_options {
  const char *name;                // for lists and messages; NULL: made from the source's content hash
  const char *inputs;              // names in order, "x y"; NULL: the free names of the source in order of appearance
  const char *outputs;             // names that the source assigns, "a b"; NULL: the source is one expression
  zm_dtype result[ZM_MAX_RESULTS]; // dtype of each result; ZM_DTYPE_DEFAULT: of the first float operand, else of the expression
  zm_dtype compute;                // what the type T of the source is, ZM_F32 say; ZM_DTYPE_DEFAULT: the dtype of the first float operand
  // Gradients by the author: sources in the same language that see the inputs, the results by name (`y` for a single one) and the
  // cotangents `g` (or g_<result>); gradient[i] is the expression for input i. NULL: taken symbolically.
  const char *gradient[ZM_MAX_OPERANDS];
} zm_elementwise_options;
// source: an expression of the inputs ("silu(gate) * up"), or statements that assign the outputs.
ZM_API zm_op *zm_elementwise(const char *source, const zm_elementwise_options *options);

// Reduces the last axis, [..., D] -> [...]: acc = init; for each v in order: acc = update(acc, v, i); result = finalize(acc). An update
// of the form acc + f(v) (likewise *, max, min) is taken in the lane order of docs/numerics.md, any other serially unless `combine` says
// how the parts `a` and `b` of two lanes are joined. D is the length of the axis, i the position.
typedef struct zm_reduce_options {
  const char *name;
  const char *inputs;   // NULL: "v"
  const char *init;     // "0"; NULL: that, but for updates by *, max or min, which must say where they begin
  const char *update;   // "acc + v * v"
  const char *combine;  // "a + b"; may be NULL
  const char *finalize; // "sqrt(acc)"; NULL: "acc"
  zm_dtype result, compute;
  // Gradients by the author; NULL: taken symbolically. gradient[i] is that of input i at each place: an expression that sees the inputs, i,
  // D, acc (at the end), the result y (as computed, not yet rounded) and its cotangent g. Or, with a `;` in it, statements of the ROWS form
  // that assign `gradient`, so that it may reduce once more: "let n = sum(v * w); elements { gradient = g * w * n; }".
  const char *gradient[ZM_MAX_OPERANDS];
} zm_reduce_options;
ZM_API zm_op *zm_reduce(const zm_reduce_options *options);

// Two reductions over the last axis and an elementwise pass that sees both, [..., D] -> [..., D].
//   pass1: sees x (inputs), i, D       -> s1
//   pass2: sees x, i, D, s1            -> s2
//   write: sees x, i, D, s1, s2        -> the result
typedef struct zm_pass {
  const char *init, *update, *reduce, *finalize; // as init, update, combine and finalize above; update sees acc, reduce a and b
} zm_pass;
typedef struct zm_map_reduce_options {
  const char *name;
  const char *inputs;   // NULL: "x"; operands are broadcast, so a weight [D] is an input too
  zm_pass pass1, pass2; // pass2.update NULL: there is none
  const char *write;
  zm_dtype result, compute;
  // The same. Expressions see the inputs, i, D, s1, s2, the result y (as stored) and its cotangent g at this place. What g of all places
  // contribute takes statements: of a softmax "let t = sum(g * y); elements { gradient = y * (g - t); }".
  const char *gradient[ZM_MAX_OPERANDS];
} zm_map_reduce_options;
ZM_API zm_op *zm_map_reduce(const zm_map_reduce_options *options);

// A kernel in full: rows with any number of passes and results, tiles of threads with threadgroup memory and barriers, or raw source for
// each backend.
// The vector-Jacobian product of a kernel as a function of arrays: gradients[i] of input i for the cotangents of the results, both as the
// application found and made them (rows: inputs broadcast to one shape, which their gradients have too; a result of one element a row has
// no last axis); parameters: those of the application, in the order of their names. NULL stays where an input has no gradient.
typedef zm_status (*zm_kernel_vjp)(void *user, const double *parameters, zm_array *const *in, int nin, zm_array *const *out,
                                   zm_array *const *cotangents, int nout, zm_array **gradients);
typedef enum zm_kernel_form { ZM_KERNEL_ROWS, ZM_KERNEL_TILES, ZM_KERNEL_RAW } zm_kernel_form;
typedef struct zm_kernel_options {
  const char *name;
  zm_kernel_form form;
  const char *inputs, *outputs; // names in order
  const char *source;           // kernel language: ROWS and TILES
  // RAW: one function body for each backend; NULL where there is none. In C it runs once for each threadgroup, else once for each thread;
  // the names that it sees are in docs/kernel-language.md, "Raw".
  const char *source_c, *source_cuda, *source_metal;
  // TILES and RAW: shape of result o, "x.0 x.1 k": dims of inputs and parameters; dtypes; the grid in threadgroups and threads of one
  // group, as expressions of the same names, or lists of up to 3 of them, "x.1 / 8, x.0".
  const char *shape[ZM_MAX_RESULTS];
  zm_dtype result[ZM_MAX_RESULTS];
  zm_dtype compute; // what T is; of ROWS and TILES
  const char *groups, *threads;
  const char *parameters; // integer and float constants given to each application, "k eps"
  zm_kernel_vjp vjp; // NULL: ROWS symbolically, others not differentiable
  void *user;
} zm_kernel_options;
// A field that the form does not read must not be given.
ZM_API zm_op *zm_kernel(const zm_kernel_options *options);
// Applies an op that has parameters; values in the order of their names.
ZM_API zm_status zm_op_apply_with(const zm_op *op, zm_array *const *in, int nin, const double *parameters, int count, zm_array **out,
                                  int nout);

// The source that an op becomes for operands of the given dtypes: "c", "cuda", "metal", or "ir" (the typed program). zm_free_text() it.
ZM_API char *zm_op_source(const zm_op *op, const zm_dtype *dtypes, int nin, const char *target);
ZM_API void zm_free_text(char *text);

// ---- tuning ----
// A kernel can run in several ways that give the same bits: compiled with other chunks of elements or other flags of the compiler, or
// interpreted, which may be best for small calls. Of TILES only flags and interpretation are tried, of RAW flags: the number of threads of
// a group is what the author's `threads` says. And the threads of the processor can share a call in several ways: as usual, or in 1, 2, 4,
// ... pieces up to one for each of them.
enum { ZM_AUTOTUNE_MOST = 12, ZM_AUTOTUNE_SHARES = 12 };
typedef struct zm_autotune_candidate {
  int chunk;         // elements that are computed together; 0: interpreted
  const char *flags; // for the compiler beside the usual ones; "" if none
  double seconds;    // median of one call on one thread; 0 if nothing was measured
} zm_autotune_candidate;
typedef struct zm_autotune_share {
  int pieces;     // that a call is cut into, so many threads share it at most; 0: the usual
  double seconds; // median of one call on all threads; 0 if nothing was measured
} zm_autotune_share;
typedef struct zm_autotune_report {
  int count, chosen; // candidates, and which of them runs from now on; the first is the usual way unless it is `remembered`
  zm_autotune_candidate candidates[ZM_AUTOTUNE_MOST];
  bool remembered;               // an earlier choice was found in the cache folder, nothing was measured: it is the only candidate
  bool empty;                    // there are no elements, nothing was measured and nothing is kept
  int share_count, share_chosen; // likewise how calls are shared: the usual first; the only one if it is remembered, or there is one thread
  zm_autotune_share shares[ZM_AUTOTUNE_SHARES];
} zm_autotune_report;
// Measures the ways of an op in turns on these operands, which are evaluated, and keeps the one that beats the usual way beyond doubt, else
// the usual one: for this kernel and these dtypes, this device, and calls of about this size (rows: and about this length); in this process
// and, through the cache folder, in later ones. `again`: measures even if there is a choice already. report may be NULL.
// Takes a compilation for each way and up to 100 calls, for small calls some 40 ms of them. It has 15 seconds (ZMLX_TUNE_SECONDS) from when
// the usual way is compiled, half of them for compiling the others, and then begins no other round of calls: what was measured decides, or,
// if that says too little, the usual way stays and nothing is kept. Sharing has a quarter of that time more. An error says why kernels
// cannot be compiled here.
ZM_API zm_status zm_autotune(const zm_op *op, zm_array *const *in, int nin, const double *parameters, int count, bool again,
                             zm_autotune_report *report);

// ---- the kernels of this process ----
// Those made by ops so far for some dtypes, those of derivatives and of fused operations among them. Some that nobody holds are kept for
// when they are asked for again.
typedef struct zm_kernel_facts {
  char name[64];
  const char *form; // "elements", "rows", "tiles", "raw"
  uint64_t key[2];  // hash of the content: the same kernel has the same in every process
  int64_t runs;     // how often it was played
  bool compiled, held;
  char note[256]; // "compiled for avx512", or why it is interpreted
} zm_kernel_facts;
ZM_API size_t zm_kernel_count(void);
// Fills at most `room` entries, in no particular order; gives how many.
ZM_API size_t zm_kernel_list(zm_kernel_facts *facts, size_t room);

#ifdef __cplusplus
}
#endif
#endif
