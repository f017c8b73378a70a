// The catalog room: ready kernels. One table of rows (table.c), one file a group (activations.c, norms.c, ...); a row says what a function
// computes, from what shapes, with which gradient, and has its definition in the kernel language where it is one. Tests, the command
// `zmlx kernel`, the benchmark and the page docs/catalog.md walk the table. The public functions are in include/zmlx/catalog.h.
#ifndef ZMI_CATALOG_H
#define ZMI_CATALOG_H

#include "array/array.h"

#include <zmlx/catalog.h>
#include <zmlx/kernel.h>
#include <zmlx/transform.h>

enum { ZMI_CATALOG_IN = 16, ZMI_CATALOG_OUT = 8, ZMI_CATALOG_PARAMS = 8 };

// A kernel in the kernel language. Its op is made at the first use and kept for the life of the process; `op` is written under the lock of
// definition.c. ELEMENTS definitions take their parameters as float32 scalars after the other operands.
typedef struct zmi_definition {
  const char *name;
  zmi_form form;
  const char *inputs, *outputs, *parameters; // names in order; outputs NULL: the source is one expression; parameters may be NULL
  const char *source;
  zm_dtype result[ZMI_CATALOG_OUT];
  unsigned codes;                       // bit i: operand i is of integers (for printed sources)
  const char *shape, *groups, *threads; // TILES
  zm_kernel_vjp vjp; // TILES, and ROWS whose own would be another
  zm_op *op;
} zmi_definition;

// The op of a definition, or NULL with a message.
const zm_op *zmi_definition_op(zmi_definition *d);
// Applies it; params in the order of d->parameters.
zm_status zmi_definition_apply(zmi_definition *d, zm_array *const *in, int nin, const double *params, int count, zm_array **out, int nout);
zm_array *zmi_definition_apply1(zmi_definition *d, zm_array *const *in, int nin, const double *params, int count);

// A parameter of a row as its text says it, and as a call gives it: zmi_entry_call() has made sure of `whole`.
typedef struct zmi_parameter {
  char name[24];
  double usual;
  bool integer;
  int64_t least, most; // of integers
} zmi_parameter;
typedef struct zmi_given {
  double real;
  int64_t whole; // of integers
} zmi_given;

typedef struct zmi_entry {
  const char *name;
  const char *function; // the public function without its zm_; NULL: the row's name
  const char *formula;
  const char *shapes;     // "x [..., D], weight [D] -> [..., D]"
  const char *dtypes;     // NULL: float16, bfloat16, float32; computed in float32, rounded once
  const char *gradient;   // "x weight": operands; "none: ..." says why
  const char *parameters; // names with usual values, "eps=1e-6, k=4 integer 1..8" ("1..": up to 2147483647); NULL: none
  zmi_definition *definition;
  int outputs;        // results; 0 stands for 1
  const char *sample; // operands for benchmarks and tests of one's own, see sample.c
  // NULL: the definition is applied to the operands as they are
  zm_status (*call)(zm_array *const *in, int nin, const zmi_given *params, zm_array **out);
} zmi_entry;

typedef struct zmi_catalog_group {
  const char *name, *file, *about;
  const zmi_entry *entries;
  size_t count;
} zmi_catalog_group;

// ---- the table ----
extern const zmi_catalog_group *const zmi_catalog_groups[]; // ends with NULL
size_t zmi_catalog_count(void);
const zmi_entry *zmi_catalog_at(size_t i, const zmi_catalog_group **group); // in order of groups; NULL past the end
// By its name, its other name (table.c) or the name of its function. NULL if unknown (no error set).
const zmi_entry *zmi_catalog_find(const char *name);
const char *zmi_entry_function(const zmi_entry *e); // the public function without its zm_
// The ops of models' tapes, one after another, whose bits the row has ("silu multiply"); NULL: none. tests/test_one_code.c compares them.
const char *zmi_entry_tape(const zmi_entry *e);
const char *zmi_entry_form(const zmi_entry *e); // elements, rows, tiles, raw, or "in C": nothing of it is in the kernel language
int zmi_entry_parameters(const zmi_entry *e, double *values);                        // their number; values (may be NULL): the usual ones
int zmi_entry_described(const zmi_entry *e, zmi_parameter rows[ZMI_CATALOG_PARAMS]); // their number
// params: as many numbers as the row has parameters; NULL: the usual ones. Refuses what is no integer of the range where one is wanted.
zm_status zmi_entry_call(const zmi_entry *e, zm_array *const *in, int nin, const double *params, zm_array **out);
// The source of the definition, `dtype` for floats, for "c", "cuda", "metal" or "ir"; `full`: with the functions that it calls in front.
// zm_free_text() it. NULL with a message.
char *zmi_entry_source(const zmi_entry *e, zm_dtype dtype, const char *target, bool full);
zmi_code *zmi_entry_code(const zmi_entry *e, zm_dtype dtype); // what the source is made from; zmi_code_free() it
// Its gradients by the float operands, for cotangents of all results. NULL with a message where they are not in the kernel language.
zmi_code *zmi_entry_code_vjp(const zmi_entry *e, zm_dtype dtype);
// Operands in the current scope as the row's sample says, floats of `dtype`, dims multiplied down to at most about `elements` an operand
// (0: as they stand). Returns their number, -1 with a message.
int zmi_entry_sample(const zmi_entry *e, zm_dtype dtype, int64_t elements, zm_array **in);
// The whole table as the page docs/catalog.md.
zm_status zmi_catalog_page(zmi_text *out);

// zm_scaled_dot_product_attention with at most about `scores` scores at a time.
zm_array *zmi_attention_in_pieces(zm_array *q, zm_array *k, zm_array *v, const zm_attention_options *options, int64_t scores);

// Ops of the catalog that are written in C: tapes are parsed with them. NULL if unknown.
const zmi_op *zmi_catalog_op_find(const char *name);
size_t zmi_catalog_op_count(void);
const zmi_op *zmi_catalog_op_at(size_t i);

// ---- for builders (build.c). All keep the first error when an array is NULL ----
zm_array *zmi_cat_scalar(double value);                                  // float32, rank 0
zm_array *zmi_cat_uint(uint32_t value);                                  // uint32, rank 0
zm_array *zmi_cat_reshape(zm_array *x, int rank, ...);                   // int64_t dims
zm_array *zmi_cat_split_last(zm_array *x, int64_t a, int64_t b);         // [..., n] -> [..., a, b]
zm_array *zmi_cat_join_last(zm_array *x);                                // [..., a, b] -> [..., a * b]
zm_array *zmi_cat_part(zm_array *x, int axis, int64_t first, int64_t n); // a view
zm_array *zmi_cat_part_by(zm_array *x, int axis, int64_t first, int64_t n, int64_t step);
zm_status zmi_cat_halves(const char *name, zm_array *x, zm_array **a, zm_array **b); // of the last axis
zm_array *zmi_cat_rows(zm_array *x);                                                 // [..., D] -> [R, D]
zm_array *zmi_cat_like(zm_array *y, zm_array *x, int drop, int rank, ...); // y in the shape of x without its last `drop` dims, then more
zm_array *zmi_cat_matmul_t(zm_array *x, zm_array *w);                      // x [.., M, K], w [.., N, K] -> [.., M, N]
// False with a message "name: operand: expected [...], found [...]". A dim of -1 is any.
bool zmi_cat_want(const char *name, const char *operand, zm_array *x, int rank, ...);
bool zmi_cat_want_rank(const char *name, const char *operand, zm_array *x, int least);
bool zmi_cat_want_float(const char *name, const char *operand, zm_array *x);
bool zmi_cat_want_dtype(const char *name, const char *operand, zm_array *x, zm_dtype dtype);
bool zmi_cat_want_number(const char *name, const char *parameter, double value, bool from_zero); // finite
bool zmi_cat_want_eps(const char *name, double eps);                                             // of norms: finite, from 0 up
int64_t zmi_cat_last(const zm_array *x);                                                         // the last dim
int64_t zmi_cat_leading(const zm_array *x, int drop); // product of the dims before the last `drop`
// The vector-Jacobian product of an op written in C, by differentiating the same function composed of differentiable operations.
zm_status zmi_cat_vjp_by(zm_function f, void *user, const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient);

// ---- shorthands of rows ----
#define ZMI_ELEMENTS(word, ins, params, text)                                                                                              \
  static zmi_definition word##_def = {.name = #word, .form = ZMI_FORM_ELEMENTS, .inputs = ins, .parameters = params, .source = text};
#define ZMI_STATEMENTS(word, ins, outs, params, text)                                                                                      \
  static zmi_definition word##_def = {                                                                                                     \
      .name = #word, .form = ZMI_FORM_ELEMENTS, .inputs = ins, .outputs = outs, .parameters = params, .source = text};
#define ZMI_ROWS(word, ins, outs, params, text)                                                                                            \
  static zmi_definition word##_def = {                                                                                                     \
      .name = #word, .form = ZMI_FORM_ROWS, .inputs = ins, .outputs = outs, .parameters = params, .source = text};

// RMS norm of a sum that stays in float32 inside; as a result it is rounded once.
#define ZMI_ADD_RMS_NORM                                                                                                                   \
  "elements { let t = x + res; q = sumsq(t); }\n"                                                                                          \
  "let r = 1.0f / sqrt(q / D + eps);\n"                                                                                                    \
  "elements { let t = x + res; y = t * r * w; h = t; }"

#define ZMI_GROUP(word, text)                                                                                                              \
  const zmi_catalog_group zmi_catalog_##word = {#word, "src/catalog/" #word ".c", text, entries, ZMI_COUNT(entries)}

#endif
