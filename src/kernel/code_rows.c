// The table of the instructions of typed code: names for messages and prints, operand counts, classes.
#include "kernel/code.h"

#define WORD(kind) kind##_letter
enum { A_letter = 'A', B_letter = 'B', C_letter = 'C', F_letter = 'F', L_letter = 'L', M_letter = 'M' };
enum { P_letter = 'P', S_letter = 'S', T_letter = 'T', X_letter = 'X' };

const zmi_cop_row zmi_cop_rows[ZMI_K_COUNT] = {
#define X(name, operands, kind) [ZMI_K_##name] = {#name, operands, WORD(kind)},
    ZMI_CODE_LIST(X)
#undef X
};
