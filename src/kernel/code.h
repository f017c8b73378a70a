// Typed code of a kernel: a flat list of instructions, each of which names one value once (single assignment), with structured blocks. What
// the parser makes, derivatives and fusion rewrite, the interpreter runs and emitters print.
//
// A value is the index of its instruction. Blocks nest and are closed by END: values made inside a block are not seen after it, but for the
// results of reductions of an ELEMENTS block. What changes in loops and branches are variables: VAR declares, GET reads, SET writes.
#ifndef ZMI_CODE_H
#define ZMI_CODE_H

#include "tape/tape.h"

typedef enum zmi_ctype { // type of a value while it is computed
  ZMI_C_NONE,
  ZMI_C_BOOL,
  ZMI_C_INT,   // int32, wraps around
  ZMI_C_UINT,  // uint32
  ZMI_C_LONG,  // int64
  ZMI_C_ULONG, // uint64
  ZMI_C_FLOAT, // float32 by the float rule of docs/numerics.md
  ZMI_C_COUNT
} zmi_ctype;

// name, operands, class, printed form. Classes: A arithmetic (result type = operand type), F float function, B bitwise of integers, C
// comparison (bool), L logic of bools, S select, T conversion (result type given), P place (leaf), M memory, X structure.
// Integers wrap around. Quotients go toward zero; divided by zero both quotient and remainder are 0; the lowest number by -1 is itself.
// Remainders have the sign of the left side, of floats too (fmod, exact). Shift counts are taken modulo the width; SHR of a signed value
// keeps the sign. MIN and MAX of floats: NaN if one is NaN, of two zeros the second. SIGN: 1, -1, or the zero or NaN itself.
// clang-format off
#define ZMI_CODE_LIST(X)                                                                                                                   \
  X(CONST, 0, P) /* imm, of the instruction's type */                                                                                      \
  X(INPUT, 0, P) /* element of operand `index` at this place, widened to its compute type. Outside ELEMENTS (ROWS): of an operand */       \
  /* with in_per_row, which has one element a row */                                                                                       \
  X(PARAM, 0, P) /* parameter `index` of this application: float, int if the source treats it so */                                        \
  X(PLACE, 0, P) /* int: position in the row (ROWS), linear index (ELEMENTS) */                                                            \
  X(LENGTH, 0, P) /* int: D, the length of a row */                                                                                        \
  X(THREAD, 0, P) X(GROUP, 0, P) X(THREADS, 0, P) X(GROUPS, 0, P) /* int; TILES */                                                         \
  X(DIM, 0, P) /* int: dim `extra` of operand `index`; TILES */                                                                            \
  X(NEG, 1, A) X(ABS, 1, A) X(SIGN, 1, A)                                                                                                  \
  X(ADD, 2, A) X(SUB, 2, A) X(MUL, 2, A) X(DIV, 2, A) X(REM, 2, A) X(MIN, 2, A) X(MAX, 2, A)                                               \
  X(FMA, 3, F)                                                                                                                             \
  X(SQRT, 1, F) X(RSQRT, 1, F) X(EXP, 1, F) X(EXP2, 1, F) X(EXPM1, 1, F) X(LOG, 1, F) X(LOG2, 1, F) X(LOG10, 1, F) X(LOG1P, 1, F)          \
  X(SIN, 1, F) X(COS, 1, F) X(TAN, 1, F) X(ASIN, 1, F) X(ACOS, 1, F) X(ATAN, 1, F) X(ATAN2, 2, F)                                          \
  X(SINH, 1, F) X(COSH, 1, F) X(TANH, 1, F) X(ASINH, 1, F) X(ACOSH, 1, F) X(ATANH, 1, F)                                                   \
  X(ERF, 1, F) X(ERFINV, 1, F) X(SIGMOID, 1, F) X(SILU, 1, F) X(SOFTPLUS, 1, F) X(POW, 2, F)                                               \
  X(FLOOR, 1, F) X(CEIL, 1, F) X(ROUND, 1, F) /* to nearest even */ X(TRUNC, 1, F) X(COPYSIGN, 2, F)                                       \
  X(ROUND_F16, 1, F) X(ROUND_BF16, 1, F) /* to that dtype and back */                                                                      \
  X(BIT_AND, 2, B) X(BIT_OR, 2, B) X(BIT_XOR, 2, B) X(BIT_NOT, 1, B) X(SHL, 2, B) X(SHR, 2, B) X(POPCOUNT, 1, B)                           \
  X(EQ, 2, C) X(NE, 2, C) X(LT, 2, C) X(LE, 2, C) X(GT, 2, C) X(GE, 2, C)                                                                  \
  X(ISNAN, 1, C) X(ISINF, 1, C) X(ISFINITE, 1, C)                                                                                          \
  X(NOT, 1, L) X(AND, 2, L) X(OR, 2, L)                                                                                                    \
  X(SELECT, 3, S) /* condition, value if true, value if false; both are computed */                                                        \
  X(CONVERT, 1, T) /* by the rules of astype */                                                                                            \
  X(BITCAST, 1, T) /* float <-> 32-bit integers */                                                                                         \
  X(VAR, 1, X) /* declares a variable with its first value; its number is this instruction */                                              \
  X(GET, 0, X) /* variable `index` */                                                                                                      \
  X(SET, 1, X) /* variable `index` */                                                                                                      \
  X(FOR, 3, X) /* first, end, step (ints, step > 0): the value is the counter; up to END */                                                \
  X(IF, 1, X) X(ELSE, 0, X) X(END, 0, X)                                                                                                   \
  X(ELEMENTS, 0, X) /* ROWS: all places of the row, up to END. A variable of outside that is SET inside makes it serial: places in */      \
  /* rising order, or falling if `extra` is 1 (then there are no reductions and no SCAN_SUM inside) */                                     \
  X(SUM, 1, X) X(SUMSQ, 1, X) X(PROD, 1, X) X(MAXIMUM, 1, X) X(MINIMUM, 1, X) /* in ELEMENTS: reduction of a value, seen after END; */     \
  /* lane order. SUMSQ: of floats, lane = fma(a, a, lane) */                                                                               \
  X(ARGMAX, 1, X) X(ARGMIN, 1, X) /* int: lowest place among equals, first NaN */                                                          \
  X(SCAN_SUM, 1, X) /* in ELEMENTS: running sum up to and including this place, a value inside the block */                                \
  X(JOIN, 0, X) /* in ELEMENTS: the variables of outside that it sets have 16 copies, one a lane, each with the first value; place k */    \
  /* works on lane k % 16. What stands between JOIN and END runs once for each pair of lanes (i, i + 8 for i < 8, then 4, 2, 1): GET */    \
  /* is the value of the left lane, GET_RIGHT of the right one, SET sets the left one. After END a variable is its lane 0 */               \
  X(GET_RIGHT, 0, X) /* variable `index` */                                                                                                \
  X(LOAD, 1, M) /* element of buffer `index` (operand) at a flat place (INT or LONG); TILES */                                             \
  X(STORE, 2, M) /* place (INT or LONG), value: to result `index` */                                                                       \
  X(ATOMIC_ADD, 2, M)                                                                                                                      \
  X(SHARED, 0, X) /* threadgroup memory: `extra` elements of the instruction's type, zeros at first; its number is this instruction. */    \
  /* `index` 1: each thread has its own; 2: written before it is read, so that nothing need be zero */                                     \
  X(SHARED_LOAD, 1, M) X(SHARED_STORE, 2, M) /* `index`: the SHARED instruction */                                                         \
  X(BARRIER, 0, X)                                                                                                                         \
  X(OUTPUT, 1, X) /* result `index`: per element, or per row outside ELEMENTS; rounded to its dtype */
// clang-format on

typedef enum zmi_cop {
#define X(name, operands, class) ZMI_K_##name,
  ZMI_CODE_LIST(X)
#undef X
      ZMI_K_COUNT
} zmi_cop;

typedef struct zmi_cop_row {
  const char *name; // "add"
  int operands;
  char kind; // the class letter above
} zmi_cop_row;
extern const zmi_cop_row zmi_cop_rows[ZMI_K_COUNT];

typedef struct zmi_inst {
  zmi_cop op;
  zmi_ctype type;
  int32_t a, b, c;      // operand values; -1 = none
  int32_t index, extra; // see the list
  union {
    int64_t i; // bool and integers
    float f;
  } imm;
  int32_t line; // of the source, 1..; 0 = made by a rewrite
} zmi_inst;

enum { ZMI_CODE_MAX = 64 }; // operands and results of a code: derivatives have inputs, tangents and cotangents

typedef struct zmi_build zmi_build; // tables of the makers while a code is built

typedef struct zmi_code {
  int form; // zmi_form
  int nin, nout, nparams;
  zm_dtype in[ZMI_CODE_MAX], out[ZMI_CODE_MAX]; // dtypes in memory
  bool in_per_row[ZMI_CODE_MAX];                // ROWS: operand of one element a row (cotangents of per-row results)
  bool per_row[ZMI_CODE_MAX];                   // ROWS: result without the last axis
  zmi_inst *insts;
  size_t count, capacity;
  char name[64];
  uint64_t key[2];  // hash of the content without the name, set by zmi_code_finish
  zmi_build *build; // until zmi_code_finish
  char *raw[3];     // RAW: source for each target, owned; NULL where there is none
} zmi_code;

// ---- building (code.c). Every maker gives the value, or -1 with a message ----
// Makers share what was computed before in an enclosing block, fold constants, and simplify only where no bit changes (x * 1, select of
// equal values; not x + 0).
zmi_code *zmi_code_new(int form, const char *name);
void zmi_code_free(zmi_code *c);
zmi_code *zmi_code_copy(const zmi_code *c); // of finished code
int zmi_code_const_f(zmi_code *c, float value);
int zmi_code_const_i(zmi_code *c, zmi_ctype type, int64_t value);
int zmi_code_leaf(zmi_code *c, zmi_cop op, zmi_ctype type, int index, int extra); // INPUT, PARAM, PLACE, ...
int zmi_code_op(zmi_code *c, zmi_cop op, int a, int b, int d);                    // classes A F B C L S; unused operands -1
int zmi_code_convert(zmi_code *c, zmi_ctype to, int a);
int zmi_code_emit(zmi_code *c, const zmi_inst *inst); // X, M and BITCAST, as given
// Removes what no result needs, checks blocks and types (the message names the instruction), sets the key.
zm_status zmi_code_finish(zmi_code *c);
zm_status zmi_code_verify(const zmi_code *c);
zm_status zmi_code_print(const zmi_code *c, zmi_text *out); // one line an instruction

zmi_ctype zmi_ctype_of(zm_dtype dtype);  // what elements of a dtype are computed in: floats in FLOAT, int8..32 in INT, uint8..32 in UINT
const char *zmi_ctype_name(zmi_ctype t); // "float"

#endif
