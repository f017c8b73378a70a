// The kernel room: the kernel language, from text to typed code to something that runs. Rooms above see definitions, typed kernels, their
// derivatives, and how to run or print them.
//
//   definition  zmi_kernel: a parsed source, polymorphic in the dtypes of its operands; refcounted, immutable
//   code        zmi_code (kernel/code.h): a definition with concrete dtypes, as structured single-assignment instructions
//   instance    zmi_instance: code that can run: interpreted at once, or compiled by the system C compiler when that pays; same bits
#ifndef ZMI_KERNEL_H
#define ZMI_KERNEL_H

#include "backend/backend.h"
#include "kernel/code.h"

typedef enum zmi_form {
  ZMI_FORM_ELEMENTS, // every result element from the operands' elements at the same place (operands broadcast beforehand)
  ZMI_FORM_ROWS,     // rows of length D: ELEMENTS blocks with reductions, scalars between them, per-element and per-row results
  ZMI_FORM_TILES,    // threadgroups: flat buffers, threadgroup memory, barriers
  ZMI_FORM_RAW       // text for each backend
} zmi_form;

enum { ZMI_KERNEL_IN = 16, ZMI_KERNEL_OUT = 8, ZMI_KERNEL_PARAMS = 16 };

typedef struct zmi_kernel zmi_kernel;

// What a definition is made of. Strings are copied. See include/zmlx/kernel.h for the meaning of each.
typedef struct zmi_kernel_text {
  const char *name;
  zmi_form form;
  const char *inputs, *outputs, *parameters;
  const char *source; // statements in the language; the other forms of the public header are turned into these first
  const char *raw[3]; // RAW: c, cuda, metal
  const char *shape[ZMI_KERNEL_OUT], *groups, *threads;
  zm_dtype result[ZMI_KERNEL_OUT];
  zm_dtype compute; // what T is; ZM_DTYPE_DEFAULT: of the first float operand
} zmi_kernel_text;

zmi_kernel *zmi_kernel_define(const zmi_kernel_text *text); // NULL with a message that shows the place
zmi_kernel *zmi_kernel_retain(zmi_kernel *k);
void zmi_kernel_release(zmi_kernel *k);

typedef struct zmi_kernel_facts {
  const char *name;
  uint64_t key[2]; // content hash of form, operands and source
  zmi_form form;
  int nin, nout, nparams;
  const char *in[ZMI_KERNEL_IN], *out[ZMI_KERNEL_OUT], *param[ZMI_KERNEL_PARAMS];
  bool per_row[ZMI_KERNEL_OUT]; // ROWS: the result has no last axis
} zmi_kernel_facts;
const zmi_kernel_facts *zmi_kernel_facts_of(const zmi_kernel *k);
// TILES and RAW: types of the results, and the grid (groups; threads of one group), for operands of these types.
zm_status zmi_kernel_shapes(const zmi_kernel *k, const zmi_type *in, const double *params, zmi_type *out);
zm_status zmi_kernel_grid(const zmi_kernel *k, const zmi_type *in, const double *params, int64_t *groups, int64_t *threads);
const char *zmi_kernel_raw(const zmi_kernel *k, int target); // RAW: the source for a zmi_target; NULL if there is none

// ROWS text of reductions (parse_reduce.c). A pass: acc = init; for each place acc = update; the value is finalize.
typedef struct zmi_pass_text {
  const char *init, *update, *combine, *finalize; // combine and finalize may be NULL
} zmi_pass_text;
// A line of the source that begins with ZMI_TEXT_PIECE names what follows, up to the next one: the piece of an author, whose lines are
// counted by themselves, or, without a name, text around such pieces.
#define ZMI_TEXT_PIECE "//\x01"
// Result `y`, one value a row, from the inputs at places i of D.
zm_status zmi_reduce_source(const char *name, const zmi_pass_text *pass, zmi_text *source);
// Result `y` per element: write sees s1 and s2; NULL: only these are computed. Pass 2 is left out if its update is NULL.
zm_status zmi_map_reduce_source(const char *name, const zmi_pass_text pass[2], const char *write, zmi_text *source);

// Typed code for operands of these dtypes. The caller frees it. result[o]: in: wanted dtype or ZM_DTYPE_DEFAULT; out: what it is.
zmi_code *zmi_kernel_code(const zmi_kernel *k, const zm_dtype *in, zm_dtype *result);

// ---- derivatives (derive.c): code to code ----
// Both close over themselves: derivatives of derivatives are code of the same form.
// Operands and results are limited to ZMI_CODE_MAX. An operand or gradient of an operand that is in_per_row has one element a row.
// jvp: operands are the inputs, then a tangent for each input i with wanted[i]; results are the tangents of the results.
zmi_code *zmi_code_jvp(const zmi_code *code, const bool *wanted);
// vjp: operands are the inputs, then a cotangent for each result with given[o]; results are the gradients of the inputs with wanted[i], in
// their dtypes (dtypes that are not floats: zeros). The cotangent of a per-row result is an operand with in_per_row: [rows], step 0. NULL
// with a message where the code cannot be differentiated (tiles, serial updates without a rule).
zmi_code *zmi_code_vjp(const zmi_code *code, const bool *given, const bool *wanted);
// The same, also where a serial block needs on its way back what its variables were at each place. Then *traces is a code that gives these
// from the inputs, per element, and what they are after the block, per row; all are operands between the inputs and the cotangents. Else
// NULL.
zmi_code *zmi_code_vjp_traced(const zmi_code *code, const bool *given, const bool *wanted, zmi_code **traces);
// Code of rows in two, for gradients that cannot be taken at once, as where serial blocks run both ways: that of `rest` is taken first and
// that of `first` after it. Operands of both are those of the code; `rest` has after them the last `passed` results of `first`, one element
// a row. Wanted operands of 16 bits that both read are float32 in both.
typedef struct zmi_parts {
  zmi_code *first, *rest;
  int passed;
  bool active[ZMI_CODE_MAX]; // of what is passed: depends on a wanted operand
  int result[ZMI_CODE_MAX];  // of each result of the code: its number in `first`, or ~ its number in `rest`
} zmi_parts;
zm_status zmi_code_parts(const zmi_code *code, const bool *wanted, zmi_parts *parts); // `first` is NULL where there is one part only
void zmi_parts_release(zmi_parts *parts);

// ---- composition (fuse.c) ----
// One elementwise code from several, parameters one piece after another; or one of rows, if one piece is of rows and the others, without
// parameters, loops, branches and places, are computed at its elements: a result of one becomes an operand of the next, rounded to its
// dtype in between so that no bit changes.
typedef struct zmi_piece {
  const zmi_code *code;
  int in[ZMI_CODE_MAX];  // for each operand: >= 0 an operand of the whole; < 0: ~value, a value of an earlier piece
  int out[ZMI_CODE_MAX]; // for each result: the number of the value that it is
} zmi_piece;
zmi_code *zmi_code_compose(const zmi_piece *pieces, int count, int nin, const zm_dtype *in, const int *results, int nout);
// The block of rows at whose end elements of results can be given (its ELEMENTS); -1: there is none.
int zmi_fuse_tail(const zmi_code *code);

// ---- instances (instance.c): shared by content; refcounted ----
// Calls are of classes of size, rows also of classes of their length: each class may have its own way to run, see tuning.
enum { ZMI_SHAPE_CLASSES = 12 };
int zmi_shape_class(zmi_form form, int64_t elements, int64_t d); // elements: ROWS rows * d
// TILES and RAW: by the threads of all groups.
static inline int zmi_grid_class(zmi_form form, int64_t groups, int64_t threads) {
  return zmi_shape_class(form, ZMI_MIN(groups, (int64_t)1 << 30) * ZMI_MIN(threads, (int64_t)1 << 30), 0);
}
typedef struct zmi_instance zmi_instance;
// Takes a copy of what it needs of the code. The same content gives the same instance.
zmi_instance *zmi_instance_of(const zmi_code *code);
zmi_instance *zmi_instance_retain(zmi_instance *x);
void zmi_instance_release(zmi_instance *x);
zmi_instance *zmi_instance_find(const uint64_t key[2]); // of those alive, for tapes read from text; counted
const zmi_code *zmi_instance_code(const zmi_instance *x);
// Called before a play that will process about `elements` elements: compiles, or takes from the cache, when that pays
// (ZMLX_KERNELS=interpret, compile or auto). Never fails: an instance that cannot be compiled is interpreted; zmi_instance_note says why.
// May be called by several threads.
// shape: the class of the call, whose tuned way is taken if one is remembered.
void zmi_instance_prepare(zmi_instance *x, int64_t elements, int shape);
// RAW has no interpreter: compiled now, or an error that says why not. To be asked before a RAW kernel is applied.
zm_status zmi_instance_require(zmi_instance *x);
const char *zmi_instance_note(const zmi_instance *x); // "compiled for avx512", "interpreted: no C compiler was found", ...

// Those alive, and those of late that nobody holds now.
typedef struct zmi_instance_facts {
  char name[64];
  zmi_form form;
  uint64_t key[2];
  int64_t runs; // times it was prepared for
  bool compiled;
  int refs;
  char note[256]; // zmi_instance_note()
} zmi_instance_facts;
size_t zmi_instance_list(zmi_instance_facts *facts, size_t room); // their number; fills the first `room`
void zmi_instance_forget(void);                                   // gives up those that nobody holds

// ---- the cache of compiled kernels on disk (cache.c), for people ----
typedef struct zmi_kernel_cache {
  char folder[512], why_not[256]; // folder "": there is none that can be used, and why
  size_t entries;
  uint64_t bytes, limit;
  bool compiler_found;
  char compiler[512]; // "gcc (Debian 12.2.0-14) 12.2.0 at /usr/bin/cc", or why there is none
} zmi_kernel_cache;
void zmi_kernel_cache_look(zmi_kernel_cache *facts);
size_t zmi_kernel_cache_clear(void); // files removed

// Running. Each may be called by many workers at once on disjoint parts. params: in the order of their names.
// shape: the class of the whole call, of which this may be a part; with ZMI_SHAPE_STREAM added, compiled kernels store results past the
// caches, which pays where operands and results together are larger than those; a fence of the caller orders them.
enum { ZMI_SHAPE_STREAM = 64 };
// ELEMENTS: in[i] and out[o] are n contiguous elements of their dtypes. step[i]: 1, or 0 for one element that all share.
void zmi_instance_elements(const zmi_instance *x, const zmi_kernels *k, int shape, int64_t n, const void *const *in, const int *step,
                           const double *params, void *const *out);
// ROWS: `rows` rows of d elements. in[i]: first element; row_stride[i] elements from row to row (0: the same row for all); step[i] 1 or 0
// within a row. out[o]: contiguous [rows, d], or [rows] if per row.
void zmi_instance_rows(const zmi_instance *x, const zmi_kernels *k, int shape, int64_t rows, int64_t d, const void *const *in,
                       const int64_t *row_stride, const int *step, const double *params, void *const *out);
// TILES and RAW: threadgroups [first, last) of `groups`, each of `threads` threads. in, out: whole contiguous buffers; shape of each in
// dims[i][ZM_MAX_RANK].
typedef struct zmi_launch {
  int64_t groups, threads;
  const void *const *in;
  void *const *out;
  const zmi_type *in_type, *out_type;
  const double *params;
} zmi_launch;
void zmi_instance_groups(const zmi_instance *x, const zmi_kernels *k, const zmi_launch *l, int64_t first, int64_t last);

// ---- tuning (tune.c): what a compiled kernel may do in several ways, none of which changes a bit ----
typedef struct zmi_tuning {
  int chunk; // elements that are computed together; 0: interpreted
  int flag;  // 0, or a flag of tune.c: 1 loops unrolled, 2 vectors of half the width
} zmi_tuning;
enum { ZMI_TUNE_MOST = 12, ZMI_TUNE_ROUNDS = 9 };
const char *zmi_tuning_flags(const zmi_tuning *t); // words for the compiler, "" if there are none
// One call to measure; the results are written over.
typedef struct zmi_work {
  int64_t n, rows, d; // ELEMENTS: n; ROWS: rows of d
  const void *const *in;
  const int *step;
  const int64_t *row_stride;
  const double *params;
  void *const *out;
  const zmi_launch *launch; // TILES, RAW
  bool stream;              // past the caches
} zmi_work;
typedef struct zmi_tune_report {
  int count, chosen; // candidates, the first one being the usual way
  zmi_tuning tuning[ZMI_TUNE_MOST];
  double seconds[ZMI_TUNE_MOST]; // medians; 0 if it was remembered
  bool remembered, empty;
} zmi_tune_report;
// Measures the ways in turns and keeps the best, if it is better beyond doubt, for this kernel, device and class of shape: now, and in the
// cache folder for later processes. What is remembered is not measured again unless `again`; of an empty call nothing is.
zm_status zmi_instance_tune(zmi_instance *x, const zmi_work *work, bool again, zmi_tune_report *report);
// How calls of a class are shared among threads: in so many pieces at most; 0: as usual. Ops that are applied later go by it.
enum { ZMI_PIECES_MOST = 4096 };
void zmi_instance_share(const zmi_instance *x, int shape, int pieces);
int zmi_instance_pieces(const zmi_instance *x, int shape);        // what is remembered, at first
void zmi_instance_keep_sharing(const zmi_instance *x, int shape); // for later processes, beside the way that runs the class now
// The one to take of `count` ways timed in turns: 0, the usual one, unless another beats it in all rounds but one by more than a little.
int zmi_tune_best(const double (*seconds)[ZMI_TUNE_ROUNDS], int count);
// What runs calls of a class now.
zmi_tuning zmi_instance_tuning(const zmi_instance *x, int shape);

// ---- the interpreter, the reference of everything else (interpret.c) ----
// What the interpreter runs; made once for a code, which it does not need afterwards. Calls may run it concurrently; they allocate nothing.
typedef struct zmi_routine zmi_routine;
zmi_routine *zmi_routine_new(const zmi_code *code); // NULL with a message if memory is short or the code too large
void zmi_routine_free(zmi_routine *p);
// As zmi_instance_elements and so on. A failure (more threads in a group than 1024) has a message. Groups of code with ATOMIC_ADD are run
// by one caller, in rising order.
zm_status zmi_routine_elements(const zmi_routine *p, const zmi_kernels *k, int64_t n, const void *const *in, const int *step,
                               const double *params, void *const *out);
zm_status zmi_routine_rows(const zmi_routine *p, const zmi_kernels *k, int64_t rows, int64_t d, const void *const *in,
                           const int64_t *row_stride, const int *step, const double *params, void *const *out);
zm_status zmi_routine_groups(const zmi_routine *p, const zmi_kernels *k, const zmi_launch *l, int64_t first, int64_t last);
// The same from the code, with a program made for this one call.
zm_status zmi_interpret_elements(const zmi_code *code, const zmi_kernels *k, int64_t n, const void *const *in, const int *step,
                                 const double *params, void *const *out);
zm_status zmi_interpret_rows(const zmi_code *code, const zmi_kernels *k, int64_t rows, int64_t d, const void *const *in,
                             const int64_t *row_stride, const int *step, const double *params, void *const *out);
zm_status zmi_interpret_groups(const zmi_code *code, const zmi_kernels *k, const zmi_launch *l, int64_t first, int64_t last);

// ---- emitters (emit.c): one walk, a table of spellings for each target ----
typedef enum zmi_target { ZMI_TARGET_C, ZMI_TARGET_CUDA, ZMI_TARGET_METAL, ZMI_TARGET_COUNT } zmi_target;
extern const char *const zmi_target_names[ZMI_TARGET_COUNT]; // "c", "cuda", "metal"
// Complete source of one kernel, the prelude of functions included unless `bare`.
zm_status zmi_emit(const zmi_code *code, zmi_target target, bool bare, zmi_text *out);

#endif
