// What the files of derivatives share: copying of code, rules of single instructions, tangents.
#ifndef ZMI_KERNEL_DERIVE_H
#define ZMI_KERNEL_DERIVE_H

#include "kernel/code_build.h"

// How a change of one operand changes the result.
typedef enum zmi_factor_kind {
  ZMI_F_NONE, // not at all
  ZMI_F_ONE,
  ZMI_F_MINUS,
  ZMI_F_TIMES,  // times value
  ZMI_F_DIVIDE, // divided by value
  ZMI_F_MASK    // where value (bool) holds, else not at all
} zmi_factor_kind;

typedef struct zmi_factor {
  zmi_factor_kind kind;
  int value;
} zmi_factor;

enum { ZMI_NO_LEAF = -1, ZMI_POISON = 1 << 20 };

typedef struct zmi_derive {
  const zmi_code *from;
  zmi_code *to;
  int *map;                         // value of `to` for each instruction of `from`
  int *tangent;                     // of the same; -1: zero
  int *var;                         // VAR of the tangent of each VAR
  int *around;                      // the ELEMENTS instruction around each instruction, -1
  bool *active;                     // depends on a wanted input
  int *count;                       // aux of reductions: how many places share the extreme; PROD: how many zeros
  int *rest, *zeros;                // PROD: the product without zeros; the sum of those that are zero
  int seed[ZMI_CODE_MAX];           // operand of `to` with the tangent of each input, -1
  int inside;                       // partial derivatives of a block's places: its ELEMENTS, whose variables of outside are leaves; -1
  int leaf;                         // partial derivatives: the instruction whose tangent is one; ZMI_NO_LEAF: tangents of inputs by seed
  bool scans_fall, traced, finding; // finding: traces are parameters that there are not, to see which of them are needed
  const bool *needed;               // of each trace that there could be; NULL: all of them are
  int *trace;                       // of GETs of serial variables and SCAN_SUMs: the number of the trace that has their values
  int first_trace;                  // its operand is this plus that number
} zmi_derive;

zm_status zmi_derive_start(zmi_derive *d, const zmi_code *from, const char *suffix, const bool *wanted);
void zmi_derive_end(zmi_derive *d);                     // not `to`
int zmi_derive_copy(zmi_derive *d, int i);              // instruction i of `from` in `to`
int zmi_derive_sum(zmi_derive *d, int total, int part); // -1 is zero
int zmi_derive_apply(zmi_derive *d, zmi_factor f, int t);
zmi_factor zmi_derive_factor(zmi_derive *d, int i, int operand);
// The share of one place in the change of a reduction; of extremes and products it needs zmi_derive_aux first.
zmi_factor zmi_derive_share(zmi_derive *d, int reduction);
zm_status zmi_derive_aux(zmi_derive *d, int reduction);
// Values of a block once more, without its results. Variables of outside that it sets come from traces, or are poison.
zm_status zmi_derive_replay(zmi_derive *d, int block);
// Values and tangents of the instructions in [from, to); results only if `outputs`.
zm_status zmi_derive_forward(zmi_derive *d, int from, int to, bool outputs);
zm_status zmi_derive_add_operand(zmi_derive *d, zm_dtype dtype, bool per_row, int *number_of);
zm_status zmi_derive_operands(zmi_derive *d);       // the operands of `from` first; an error where there are no derivatives
int zmi_derive_traces(zmi_derive *d);               // numbers those that are needed; how many there are
int zmi_derive_trace(zmi_derive *d, int i);         // what the trace of instruction i gives
zmi_code *zmi_code_localized(const zmi_code *code); // see derive_localize.c
zm_dtype zmi_derive_dtype(zmi_ctype type);          // in which a value of the type is kept between two codes, exactly
int zmi_derive_block_end(const zmi_derive *d, int block);
int zmi_inst_operand(const zmi_inst *x, int k);

#endif
