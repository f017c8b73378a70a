// What the files of the code builder share: limits, types of instructions, exact simplification.
#ifndef ZMI_CODE_BUILD_H
#define ZMI_CODE_BUILD_H

#include "kernel/kernel.h"

enum {
  ZMI_CODE_DEPTH = 64,    // blocks inside each other
  ZMI_CODE_LIMIT = 65536, // instructions
  ZMI_NOT_SIMPLER = -2
};

// The type of an instruction's value from its operands; an error if they do not fit.
zm_status zmi_inst_type(const zmi_code *c, const zmi_inst *x, zmi_ctype *type);
// The value that x, not yet in the code, is equal to in every bit; may put the operands of x into another order. ZMI_NOT_SIMPLER if there
// is none, -1 if making it failed.
int zmi_code_simplify(zmi_code *c, zmi_inst *x);
// Removes what no result needs. The makers do not know the new numbers: nothing is made afterwards.
zm_status zmi_code_sweep(zmi_code *c);
// x where value is 0 + x (ADD) or 1 * x (MUL); else value.
int zmi_code_without(const zmi_code *c, zmi_cop op, int value);
// Constants through an operation (code_fold.c): false where this is not known at build time.
bool zmi_code_fold(const zmi_inst *x, const zmi_inst *a, const zmi_inst *b, const zmi_inst *d, zmi_inst *result);

#endif
