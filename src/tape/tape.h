// The tape: a flat list of kernel calls over slots. It is data: it can be printed, parsed back, checked, planned and played; nothing here
// knows what a model is or how an executor works.
//
//   slot         a typed, strided piece of memory: temporary (in the planned arena), weight, input, state, output, or a view of a slot
//   instruction  an op, its attributes, the slots it reads and the slots it writes
//   op           one row: name, operands, attributes, shape rule, rounding point, and the stages that compute it on the CPU
//   stage        independent tiles; all tiles of a stage are done before the next stage starts
#ifndef ZMI_TAPE_H
#define ZMI_TAPE_H

#include "base/base.h"
#include <zmlx/array.h>

enum { ZMI_MAX_IN = 64, ZMI_MAX_OUT = 16, ZMI_MAX_STAGES = 8, ZMI_ATTR_BYTES = 384 };

typedef struct zmi_type {
  zm_dtype dtype;
  int rank;
  int64_t shape[ZM_MAX_RANK];
} zmi_type;

int64_t zmi_type_count(const zmi_type *t);             // elements
bool zmi_type_bytes(const zmi_type *t, size_t *bytes); // false on overflow or negative dims
bool zmi_type_equal(const zmi_type *a, const zmi_type *b);
zmi_type zmi_type_of(zm_dtype dtype, int rank, const int64_t *shape);
const char *zmi_type_text(const zmi_type *t, char buffer[128]); // "bfloat16[1, 384]"

typedef enum zmi_slot_kind {
  ZMI_SLOT_TEMP,   // lives in the arena
  ZMI_SLOT_WEIGHT, // constant memory owned by the model
  ZMI_SLOT_INPUT,  // written by the caller before each play (tape-owned memory)
  ZMI_SLOT_STATE,  // caches, owned by a session, updated in place
  ZMI_SLOT_OUTPUT, // like TEMP, but kept for the caller after the play
  ZMI_SLOT_VIEW    // other strides over another slot
} zmi_slot_kind;

typedef struct zmi_slot {
  zmi_slot_kind kind;
  zmi_type type;
  int64_t stride[ZM_MAX_RANK]; // in elements; row-major contiguous unless a view
  int base;                    // VIEW: the slot it looks into (never itself a view); else -1
  int64_t shift;               // VIEW: first element, counted in elements of base's dtype
  const char *name;            // WEIGHT, INPUT, STATE, OUTPUT: unique in its tape; else NULL
  size_t bytes;                // of memory behind a slot that is not a view
  size_t offset;               // TEMP and OUTPUT: place in the arena, set by zmi_tape_plan
  void *data;                  // address of the first element once bound
  void *array;                 // WEIGHT, INPUT: the array whose values it has, for who plays the tape elsewhere; NULL: not known
  bool apart;                  // OUTPUT: in memory that who plays the tape gives (data), not in the arena
} zmi_slot;

// Attributes: each op declares a struct of at most ZMI_ATTR_BYTES and describes its fields, so that tapes print and parse without knowing
// ops.
typedef enum zmi_field_kind {
  ZMI_FIELD_INT /* int64_t */,
  ZMI_FIELD_FLOAT /* double */,
  ZMI_FIELD_WORD /* int64_t index into words */
} zmi_field_kind;
typedef struct zmi_field {
  const char *name;
  zmi_field_kind kind;
  size_t offset;
  const char *const *words; // WORD: NULL-terminated names
} zmi_field;
typedef struct zmi_attrs {
  _Alignas(16) unsigned char bytes[ZMI_ATTR_BYTES];
} zmi_attrs;

// What a node or an instruction needs besides its attributes: a kernel, a closure. Shared and counted; the count may be changed by several
// threads.
typedef struct zmi_owner {
  _Atomic int refs;
  void (*free)(struct zmi_owner *owner);
} zmi_owner;
zmi_owner *zmi_owner_retain(zmi_owner *owner); // NULL is ignored by both
void zmi_owner_release(zmi_owner *owner);

struct zmi_device_code; // instructions of a GPU being made: backend/backend.h
struct zmi_kernels; // the CPU tier in use: backend/cpu/cpu.h

// What a stage sees. Addresses are those of first elements (aligned to the element only); absent optional operands are NULL.
typedef struct zmi_call {
  const struct zmi_op *op;
  const void *attrs; // the op's own attribute struct
  zmi_owner *owner;  // of the instruction; may be NULL
  int nin, nout;
  const zmi_slot *in[ZMI_MAX_IN];
  const zmi_slot *out[ZMI_MAX_OUT];
  const void *src[ZMI_MAX_IN];
  void *dst[ZMI_MAX_OUT];
  void *scratch; // op->scratch bytes, 64-byte aligned, contents undefined
  const struct zmi_kernels *kernels;
} zmi_call;

typedef struct zmi_stage {
  // Number of independent tiles of this call; 0 skips the stage. Asked once, when a tape is bound: it may depend on types and attributes,
  // never on values.
  int64_t (*tiles)(const zmi_call *c);
  // Computes tiles [begin, end). Which worker runs which tiles never changes a bit.
  void (*run)(const zmi_call *c, int64_t begin, int64_t end);
} zmi_stage;

enum {
  ZMI_OP_VIEW = 1,    // out[0] is another view of in[0]: `view` fills strides and shift, nothing is computed
  ZMI_OP_STRIDED = 2, // takes inputs of any strides; others get row-major contiguous inputs (lowering inserts copies)
  ZMI_OP_HIDDEN = 4,  // not an operation of users: made by lowering or by a pattern
  ZMI_OP_ALIAS = 8,   // of graphs only, never of tapes: output o is operand o (array/array.h)
  ZMI_OP_TRACE = 16,  // an alias at which a trace begins: its outputs are traced
  ZMI_OP_SPARSE = 64  // many attributes: those that are zero are not printed
};

// What a call is in the kernel language: code for operands and results of its types, elements of one shape, rows, or groups.
struct zmi_code; // kernel/code.h
enum { ZMI_OP_VALUES = 8 };
typedef struct zmi_op_kernel {
  const struct zmi_code *code;  // stays as long as the process, or the call's owner
  const double *params;         // of the code; NULL: `values`
  double values[ZMI_OP_VALUES]; // for ops whose attributes are others
  int64_t groups, threads;      // of groups
  bool along;                   // of rows: they go along `axis` of the only operand, not along the last
  int axis;
} zmi_op_kernel;

struct zmi_rules; // how an op is differentiated and batched: array/array.h

typedef struct zmi_op {
  const char *name;
  const char *operands;    // "x weight bias?": names, '?' = optional, last "xs*" = any number
  const zmi_field *fields; // ends with a NULL name; NULL = no attributes
  const char *rounding;    // where results are rounded, one sentence (docs/numerics.md is generated from it)
  unsigned flags;
  // In-place outputs: updates[o] = i + 1 says that output o is input i (a state) updated in place; 0 = fresh memory.
  signed char updates[ZMI_MAX_OUT];
  // Shape rule: checks operands (types[i] with rank < 0 for an absent one) and gives the outputs. Sets the error message.
  zm_status (*infer)(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out);
  // VIEW ops: from the input's slot to the output's strides and extra shift. Returns false if strides can't express it (lowering copies
  // first).
  bool (*view)(const void *attrs, const zmi_slot *in, const zmi_type *out, int64_t *stride, int64_t *shift);
  size_t (*scratch)(const zmi_call *c); // bytes; src/dst not yet set; NULL = none
  zmi_stage stages[ZMI_MAX_STAGES];     // ends at the first stage without run
  zm_status (*device)(const zmi_call *c, struct zmi_device_code *code); // its instructions on a GPU; NULL: it has none
  // Its kernel, with the bits of the stages; types and attributes of the call are set. NULL, or false: there is none. With neither an op of
  // an array is played on the CPU where arrays are on a GPU.
  bool (*kernel)(const zmi_call *c, zmi_op_kernel *k);
  void (*prepare)(const zmi_call *c);   // before each play, on the thread that plays: compiles what pays; NULL = nothing
  // Of ops whose instructions need an owner: finds it for an instruction read from text. NULL with a message.
  zmi_owner *(*find_owner)(const struct zmi_op *op, const void *attrs, int nin, const zmi_type *in);
  const struct zmi_rules *rules; // derivatives and batches; NULL only for HIDDEN ops
} zmi_op;

typedef struct zmi_instr {
  const zmi_op *op;
  zmi_attrs attrs;
  zmi_owner *owner; // one reference, given up with the tape; may be NULL
  int nin, nout;
  int in[ZMI_MAX_IN]; // slots; -1 = absent
  int out[ZMI_MAX_OUT];
  const char *label;              // place in the model, "model.layers.3.mlp"; may be NULL
  size_t scratch, scratch_offset; // bytes and place in the arena
} zmi_instr;

typedef struct zmi_tape {
  zmi_slot *slots;
  size_t slot_count, slot_capacity;
  zmi_instr *instrs;
  size_t instr_count, instr_capacity;
  size_t arena_bytes; // set by zmi_tape_plan
  char **strings;     // owned copies of names and labels
  size_t string_count, string_capacity;
} zmi_tape;

bool zmi_slot_is_contiguous(const zmi_slot *s); // row-major without gaps (dimensions of size 1 aside)
void zmi_slot_set_contiguous(zmi_slot *s);      // strides of row-major memory for s->type

zmi_tape *zmi_tape_new(void);
void zmi_tape_free(zmi_tape *t);
// Both return the index, or -1 out of memory. Slot names and labels are copied.
int zmi_tape_add_slot(zmi_tape *t, const zmi_slot *slot);
int zmi_tape_add_instr(zmi_tape *t, const zmi_instr *instr);
const char *zmi_tape_string(zmi_tape *t, const char *s);

// Checks that every index, type, view and shape rule holds; the message names the instruction.
zm_status zmi_tape_verify(const zmi_tape *t);
// Plans the arena: slots whose lifetimes do not overlap share memory. Offsets are multiples of 64.
zm_status zmi_tape_plan(zmi_tape *t);

// Text form, one line a slot or instruction; parse(print(t)) prints the same text. `find` gives the op of a name (NULL: unknown).
typedef const zmi_op *(*zmi_op_find_fn)(const char *name);
zm_status zmi_tape_print(const zmi_tape *t, zmi_text *out);
zmi_tape *zmi_tape_parse(const char *text, size_t size, zmi_op_find_fn find);

#endif
