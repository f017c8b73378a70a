// Private to the interpreter: what code becomes before it runs. Values live in slots, arrays with one number a lane that are used again
// when their value is dead; a step is one loop over the lanes of a chunk, or one decision about them.
//
// Lanes are the places of a chunk (ELEMENTS, and blocks of places of ROWS), rows (between blocks, and in blocks that are run place by
// place), or the threads of a group. Where lanes part, a mask says who takes part; the others compute along and what they get is not kept.
#ifndef ZMI_INTERPRET_H
#define ZMI_INTERPRET_H

#include "kernel/kernel.h"

enum {
  ZMI_INTERPRET_ROWS = 32,              // rows at a time
  ZMI_INTERPRET_THREADS = 1024,         // of a group
  ZMI_INTERPRET_SMALL = 64 << 10,       // bytes of scratch on the stack
  ZMI_INTERPRET_BIG = 2 << 20,          // for code that needs more
  ZMI_INTERPRET_CHUNK_BYTES = 24 << 10, // what the slots of a chunk should take, to stay in the first-level cache
  ZMI_INTERPRET_DEPTH = 64
};

typedef enum zmi_step_kind {
  ZMI_ST_LOOP,    // x: lane op * types + type
  ZMI_ST_CONVERT, // x: to * types + from
  ZMI_ST_BITS,
  ZMI_ST_COPY,
  ZMI_ST_CHOOSE,
  ZMI_ST_CONST, // imm
  ZMI_ST_PARAM, // x
  ZMI_ST_LENGTH,
  ZMI_ST_THREADS,
  ZMI_ST_GROUPS,
  ZMI_ST_GROUP,
  ZMI_ST_DIM, // x: operand, y: dim
  ZMI_ST_PLACE,
  ZMI_ST_AIM,    // out: slot that is the memory of result x from here on, where that is possible
  ZMI_ST_INPUT,  // x
  ZMI_ST_OUTPUT, // x, a; y: type of the value
  ZMI_ST_SET,    // copy under the mask
  ZMI_ST_IF,     // a: condition, out: mask, x: the step of ELSE or END
  ZMI_ST_ELSE,   // a, out, x: the step of END
  ZMI_ST_ENDIF,
  ZMI_ST_FOR,    // a, b, c; out: counter or -1; y: mask slot, or -1 for bounds that are the same in all lanes; x: the step after END
  ZMI_ST_ENDFOR, // a, b, c, out, y as FOR; x: the first step inside
  ZMI_ST_BLOCK,  // x
  ZMI_ST_REDUCE, // x, a
  ZMI_ST_SCAN,   // a; b: carry
  ZMI_ST_RIGHT,  // a: the slot of the variable's lanes
  ZMI_ST_LOAD,   // x: operand, a: place, y: type of the place
  ZMI_ST_STORE,  // x: result, a: place, b: value, y: type of the place
  ZMI_ST_ATOMIC,
  ZMI_ST_SHARED_LOAD, // x: first byte in the memory of the group, imm: elements, a: place, y: its type; flag: each thread has its own
  ZMI_ST_SHARED_STORE
} zmi_step_kind;

typedef struct zmi_step {
  uint8_t kind, type, wide, flag; // type: zmi_lane_type of the result; wide: 8 bytes a lane; flag: INPUT, OUTPUT: its memory may be a slot
  int32_t out, a, b, c;
  int32_t x, y;
  int64_t imm;
} zmi_step;

typedef struct zmi_spread { // a value of rows that a block of places sees
  int32_t row, slot;
  uint8_t wide;
} zmi_spread;

typedef struct zmi_fold {         // a reduction of a block
  uint8_t kind, type, arg, least; // zmi_reduction_kind; arg: the place of the winner
  int32_t result;                 // slot of rows
} zmi_fold;

typedef struct zmi_block {
  int32_t first, end;      // steps
  int32_t join;            // the first step of the joining part, -1 if there is none
  int32_t spread, spreads; // [spread, spread + spreads) of the program's spreads; of joined blocks the variables that are set come after
  int32_t joined;          // how many these are
  int32_t fold, folds;
  int32_t scan, scans; // slots of carries: spreads as well (slot, wide; row = -1)
  bool serial, falling;
} zmi_block;

struct zmi_routine {
  int form, nin, nout, nparams;
  uint8_t in[ZMI_CODE_MAX], out[ZMI_CODE_MAX]; // dtypes
  bool per_row[ZMI_CODE_MAX];
  zmi_step *steps;
  size_t prologue, count, capacity; // steps [0, prologue) run once a call
  int32_t *offset;                  // of slots, in bytes a lane
  size_t slots, slot_capacity;
  size_t lane_bytes;
  zmi_block *blocks;
  size_t block_count, block_capacity;
  zmi_spread *spreads;
  size_t spread_count, spread_capacity;
  zmi_fold *folds;
  size_t fold_count, fold_capacity;
  size_t shared_bytes;
};

typedef enum zmi_play_mode { ZMI_PLAY_PLACES, ZMI_PLAY_ROWS } zmi_play_mode; // what a lane is inside of a block

typedef struct zmi_play_frame {
  const int32_t *mask;
  int64_t counter, end, step;
} zmi_play_frame;

// One call.
typedef struct zmi_play {
  const zmi_routine *p;
  const zmi_lanes *l;
  void **at;     // addresses of slots
  char *memory;  // behind them
  int64_t lanes; // that slots have room for
  int64_t n;     // in use
  const int32_t *mask;
  int depth;
  zmi_play_frame frames[ZMI_INTERPRET_DEPTH];
  // what is played
  const void *const *in;
  void *const *out;
  const int *step;
  const int64_t *row_stride;
  const double *params;
  const zmi_launch *launch;
  bool apart;  // no result overlaps an operand
  bool inside; // of a block of places
  zmi_play_mode mode;
  int64_t row, rows, d; // the first of the rows at work; the row of places; the length
  int64_t place;        // the first of the lanes, or the place of all rows
  int64_t group;
  char *folds;  // state of reductions
  char *shared; // memory of a group
} zmi_play;

size_t zmi_fold_bytes(const zmi_fold *f);
void *zmi_slot_memory(const zmi_play *s, int32_t slot);
void zmi_play_steps(zmi_play *s, int64_t from, int64_t to);
void zmi_play_block(zmi_play *s, const zmi_block *b); // interpret_rows.c
void zmi_play_reduce(zmi_play *s, const zmi_step *t);
void zmi_play_scan(zmi_play *s, const zmi_step *t);
void zmi_play_memory(zmi_play *s, const zmi_step *t); // interpret_groups.c
// Chooses the lanes, puts slots and states into scratch of zmi_play_bytes and plays.
size_t zmi_play_bytes(const zmi_routine *p, int64_t lanes);
zm_status zmi_play_with_scratch(zmi_play *s, int64_t lanes, void (*play)(zmi_play *s));

#endif
