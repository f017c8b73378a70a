// Lowering: from the tree of a source to typed code for given dtypes of the operands.
#ifndef ZMI_KERNEL_LOWER_H
#define ZMI_KERNEL_LOWER_H

#include "kernel/parse.h"

// What a name stands for now. While statements follow each other its value is simply known; a variable of the code is made only where a
// loop, a branch or a serial block assigns it.
typedef struct zmi_held {
  int value;            // known here, or -1
  int var;              // its VAR, or -1
  uint8_t type;         // zmi_ctype, 0: not known yet
  uint8_t written;      // as declared: rounds if half, bfloat or T
  bool declared, dirty; // dirty: value is newer than var
} zmi_held;

typedef struct zmi_lower {
  const zmi_kernel *k;
  zmi_code *c;
  zm_dtype t; // of T
  zmi_held *slots;
  int *reduced;  // value of each REDUCE node
  uint8_t *wide; // of each symbol without a written type: the widest type that was assigned to it; of arrays in loops: their elements
  bool again;    // some symbol turned out to be wider: lower once more
  int depth;
  bool failed, falling;
  int told[2]; // threadgroup memory of floats and of ints through which threads of simdgroups tell each other values
} zmi_lower;

int zmi_lower_fail(zmi_lower *l, int32_t node, const char *format, ...) __attribute__((format(printf, 3, 4))); // -1
zmi_ctype zmi_type_at(const zmi_lower *l, int value);
int zmi_lower_expression(zmi_lower *l, int32_t node);
int zmi_lower_zero(zmi_lower *l, zmi_ctype type);
int zmi_lower_integer(zmi_lower *l, int32_t node);          // of its own type, an integer; anything else is an error
int zmi_lower_whole(zmi_lower *l, int32_t node, bool wide); // a place or bound: INT, or LONG if wide
int zmi_lower_written(zmi_lower *l, int value, int type);   // converted to a type as written, rounded if that is a storage dtype
int zmi_lower_arithmetic(zmi_lower *l, int32_t node, int op, int a, int b);
int zmi_lower_get(zmi_lower *l, int32_t symbol);
zm_status zmi_lower_reductions(zmi_lower *l, int32_t node); // those of an expression, inside an open block
zm_status zmi_lower_row(zmi_lower *l, int32_t node);        // the same at row level, in blocks of their own
void zmi_lower_close(zmi_lower *l, int opener);             // values made since are not seen any more
zm_status zmi_lower_statements(zmi_lower *l, int32_t first);
zm_status zmi_lower_program(zmi_lower *l);
// ---- lower_range.c ----
typedef struct zmi_range {
  int64_t low, high; // of an ULONG the highest LONG stands for all that are higher, too
} zmi_range;
zmi_range zmi_lower_range(const zmi_lower *l, int value); // of an integer or bool
bool zmi_range_fits(zmi_range r, zmi_ctype t);
zmi_range zmi_range_converted(zmi_range r, zmi_ctype t);
// ---- lower_tiles.c ----
int zmi_lower_grid(zmi_lower *l, const zmi_node *n);
zm_status zmi_lower_simd_memory(zmi_lower *l);
int zmi_lower_simd(zmi_lower *l, int32_t node);
int zmi_emit_x(zmi_lower *l, zmi_cop op, zmi_ctype type, int a, int b, int index, int extra);

#endif
