// Shared by the emitters of the kernel room. A walk over typed code writes text; what differs between targets stands in tables.
#ifndef ZMI_EMIT_H
#define ZMI_EMIT_H

#include "kernel/kernel.h"

enum { ZMI_EMIT_THREADS = 1024 }; // most threads of a group in emitted C
// Elements that emitted C computes at a time where it can: vectors of them stay in registers, and compilers make vectors of the loop before
// they think of unrolling it, which at 16 turns they do first.
enum { ZMI_EMIT_BLOCK = 32 };

extern const char *const zmi_emit_before[ZMI_TARGET_COUNT], *const zmi_emit_after[ZMI_TARGET_COUNT]; // around the prelude: emit_text.c
extern const char zmi_emit_lanes_c[];

// How a value or a variable is written.
typedef enum zmi_place {
  ZMI_PLACE_LOCAL, // v7, x7
  ZMI_PLACE_ARRAY, // v7[t]: it lives across a cut between loops over lanes or threads
  ZMI_PLACE_LANES  // x7l[l]: one of the 16 copies of a JOIN block
} zmi_place;

typedef enum zmi_keeping { ZMI_FORGETS, ZMI_WANTED, ZMI_KEEPS } zmi_keeping;

typedef struct zmi_emit_state {
  const zmi_code *code;
  zmi_target target;
  zmi_text *out;  // what is written at once: frames, uniform values
  zmi_text lanes; // C: body of the loop over lanes that is being collected
  int depth;      // of indentation of out
  int inner;      // blocks open inside `lanes`
  unsigned char *place, *uniform, *lifted, *risky;
  unsigned char *cut;   // C, blocks: whether the loop ends in front of an instruction (emit_round.c)
  unsigned char *keeps; // C, rows: whether a later pass wants the value, or has it (zmi_keeping)
  int *kept;            // C, rows: the value of an earlier pass that this one is; -1
  int *last;            // the last instruction with the value as an operand; -1
  bool use_kept;
  int *segment, *match, *outer; // of each instruction: segment, END of its block, enclosing block (-1: none)
  bool in_lanes;                // C: instructions go to `lanes`
  bool threads;                 // TILES
  bool serial;                  // inside a serial block
  bool blocks;                  // C: ZMI_EMIT_BLOCK elements at a time
  bool side;                    // C: ZMI_EMIT_BLOCK rows side by side, place after place
  int pass, passes;             // C: which ELEMENTS block of a row this is, of how many
  int block;                    // the ELEMENTS instruction being written; -1
  int capacity;                 // entries of arrays
  int chunk;                    // C: elements that are computed together where no arrays are needed; ZMI_EMIT_BLOCK: where possible
  zm_status status;
} zmi_emit_state;

// ---- emit.c ----
zm_status zmi_emit_c_tuned(const zmi_code *code, int chunk, zmi_text *out); // chunk: a multiple of 16; 0: the usual, 32
void zmi_emit_head(zmi_target target, zmi_text *out);                       // what `bare` leaves out
void zmi_emit_title(const zmi_code *code, char title[64]);                  // its name, fit for a comment
void zmi_emit_line(zmi_emit_state *e, const char *format, ...) __attribute__((format(printf, 2, 3))); // to lanes or out, indented
void zmi_emit_top(zmi_emit_state *e, const char *format, ...) __attribute__((format(printf, 2, 3)));  // to out
const char *zmi_emit_type(zmi_ctype t);                                                               // "zk_int"
const char *zmi_emit_memory(zm_dtype d);                                                              // "zk_stored_float16"
const char *zmi_emit_word(zmi_ctype t);                                                               // "int": suffix of functions
void zmi_emit_ref(const zmi_emit_state *e, int value, char text[48]);
void zmi_emit_var(const zmi_emit_state *e, int var, char text[48]);
// One instruction that is a value: "const float v7 = ...;", or its assignment.
void zmi_emit_value(zmi_emit_state *e, int i, const char *expression);
bool zmi_emit_expression(const zmi_emit_state *e, int i, zmi_text *t);            // classes A F B C L S T, CONST; false: not one of them
void zmi_emit_load(zm_dtype d, const char *place, zmi_text *t);                   // an element of memory, widened
void zmi_emit_stored(zm_dtype d, zmi_ctype from, const char *value, zmi_text *t); // a value as an element of memory
const char *zmi_emit_identity(zmi_cop op, zmi_ctype type);                        // what a reduction starts from

// ---- emit_plan.c: C ----
bool zmi_emit_opens(zmi_cop op); // a block
bool zmi_emit_reduces(zmi_cop op);
bool zmi_emit_has(const zmi_emit_state *e, int begin, int end, zmi_cop op);
void zmi_emit_plan(zmi_emit_state *e, int begin, int end);
// Whether two values, each of its block of one row, are computed alike: from the same operands and from values of outside that are one.
bool zmi_emit_is_alike(const zmi_emit_state *e, int a, int b);
bool zmi_emit_find_kept(zmi_emit_state *e);                         // false: nothing is to be kept
bool zmi_emit_is_busy(const zmi_emit_state *e, int begin, int end); // computes functions, and not what was kept
bool zmi_emit_fits_block(const zmi_emit_state *e, int begin, int end);
// Elements that are widened before the loop over a block and cut after it; float16 always is.
static inline bool zmi_emit_is_short(zm_dtype d) {
  return zm_dtype_size(d) <= 2 && d != ZM_F16;
}

// ---- emit_rows.c: C ----
// The function of the prelude that is an exponential or a quotient of a row, where something is known of its operands; NULL: nothing is.
const char *zmi_emit_row_function(const zmi_emit_state *e, int i);
// Reductions that have no part in the loop over a row: sum(i == n ? x : 0), n a number of the row, looks at one element; so does the
// largest or smallest of integers where one element stands for all. MOST is said of its operand too, which the loop does not read.
typedef enum zmi_apart { ZMI_APART_NO, ZMI_APART_PICK, ZMI_APART_MOST } zmi_apart;
zmi_apart zmi_emit_apart(const zmi_emit_state *e, int i);
void zmi_emit_apart_value(zmi_emit_state *e, int i);

// ---- instance.c, for tune.c ----
// The kernel of one way, compiled if it is not yet; it stays as long as the instance. NULL: `why` says the reason.
typedef void (*zmi_entry_fn)(void);
zmi_entry_fn zmi_instance_way(zmi_instance *x, int way, char why[512]);
void zmi_instance_choose(zmi_instance *x, int shape, int way); // one that zmi_instance_way gave
int zmi_instance_chosen(const zmi_instance *x, int shape);
void zmi_instance_call(const zmi_instance *x, void (*kernel)(void), const zmi_work *work);

// ---- frames ----
zm_status zmi_emit_raw(const zmi_code *code, zmi_target target, zmi_text *out); // emit_raw.c
void zmi_emit_call_struct(const zmi_code *c, zmi_text *out);                    // emit_gpu.c: struct zk_call, sizes by value
void zmi_emit_c(zmi_emit_state *e);                                             // emit_c.c
void zmi_emit_leaf(zmi_emit_state *e, int i);                                   // emit_c.c: an operand, a place, a length
bool zmi_emit_arrays(zmi_emit_state *e, int begin, int end, bool write);        // of values with a place in arrays; whether there are any
void zmi_emit_flush(zmi_emit_state *e);                                         // the loop over lanes that was collected
void zmi_emit_one(zmi_emit_state *e, int i);                                    // an instruction
void zmi_emit_walk(zmi_emit_state *e, int begin, int end);
void zmi_emit_widen(zmi_emit_state *e, int k);
void zmi_emit_narrow(zmi_emit_state *e, int begin, int end);
bool zmi_emit_from_floats(const zmi_emit_state *e, zm_dtype d); // whether results of the dtype are collected as floats
void zmi_emit_wide_results(zmi_emit_state *e, int k);           // what a block collects them in, if not as they are stored
const char *zmi_emit_reduction(zmi_cop op);                     // "sum"
void zmi_emit_short_rows(zmi_emit_state *e);                    // emit_short.c
void zmi_emit_tiles(zmi_emit_state *e);                         // emit_tiles.c
extern const char zmi_emit_short_c[];                           // emit_short_text.c: what emit_short.c uses
void zmi_emit_find_cuts(zmi_emit_state *e, int begin, int end); // emit_round.c: of a block that is about to be walked
bool zmi_emit_cut(zmi_emit_state *e, int begin, int i);         // emit_round.c: ends the loop; whether the instruction is done with it
void zmi_emit_gpu(zmi_emit_state *e);                           // emit_gpu.c

#endif
