// What the files of reverse mode share: blocks of elements, loops and branches between them, and the state of a run.
#ifndef ZMI_KERNEL_REVERSE_H
#define ZMI_KERNEL_REVERSE_H

#include "kernel/derive.h"

enum { ZMI_SERIAL = 64 }; // variables of one serial block

typedef struct zmi_reverse_block {
  int begin, end, join;                               // ELEMENTS, its END and JOIN; -1 and the count for the whole of the ELEMENTS form
  bool control, falling;                              // has loops or branches inside; goes back place by place,
  int direction;                                      // against its own direction: 1 if it falls
  int serial[ZMI_SERIAL], start[ZMI_SERIAL], serials; // VARs that it sets, their cotangents after the block
  int (*seed)[ZMI_LANES];                             // of a block with JOIN: what each lane's last value receives, for each serial; -1
} zmi_reverse_block;

typedef struct zmi_region { // a loop or branch at row level with its variables: from the first VAR to the last GET; begin: FOR or IF
  int first, begin, last;
} zmi_region;

typedef struct zmi_reverse {
  zmi_derive d;
  const zmi_code *from;
  bool localized;                               // `from` is made by zmi_code_localized
  int given[ZMI_CODE_MAX];                      // operand with the cotangent of each result, -1
  int *cotangent;                               // of row values, complete when their maker is reached; of VARs at row level
  int *here;                                    // of the values of the block being run, and its contributions to row values
  int element[ZMI_CODE_MAX], row[ZMI_CODE_MAX]; // gradients of inputs: at this place; of operands of one element a row
  int row_here[ZMI_CODE_MAX];                   // contributions of this place to `row`
  int *lambda;                                  // of each VAR: VAR of its cotangent in a falling block
  int *total;                                   // of each SCAN_SUM, where places rise: the sum of the cotangents of its results
  zmi_reverse_block *blocks;
  zmi_region *regions;
  int count, region_count;
} zmi_reverse;

static inline const zmi_inst *zmi_reverse_at(const zmi_reverse *r, int i) {
  return &r->from->insts[i];
}

static inline int zmi_reverse_emit(zmi_reverse *r, zmi_cop op, zmi_ctype type, int a, int index, int extra) {
  return zmi_code_emit(r->d.to, &(zmi_inst){.op = op, .type = type, .a = a, .b = -1, .c = -1, .index = index, .extra = extra});
}

static inline void zmi_reverse_add(zmi_reverse *r, int *total, int part) {
  *total = zmi_derive_sum(&r->d, *total, part);
}

zm_status zmi_reverse_refuse(const zmi_reverse *r, const char *what);
// The cotangent of instruction i goes to its operands: `to` has those of the instructions.
void zmi_reverse_operands(zmi_reverse *r, int i, int cotangent, int *to);

// ---- lanes that are joined (derive_lanes.c) ----
// The tree of joins back: from the cotangents of the variables after the block to those of each lane's last value.
zm_status zmi_lanes_back(zmi_reverse *r, zmi_reverse_block *b);
// The cotangent of a serial variable after this place: that of a later place of the lane, or at the lane's last place its seed.
int zmi_lanes_lambda(zmi_reverse *r, const zmi_reverse_block *b, int serial);
// What variables received that have the same first value in all lanes: lanes without a place give it back as it came.
int zmi_lanes_first(zmi_reverse *r, const zmi_reverse_block *b, int serial);
// JOIN, and the sum of the lanes of a variable in it.
zm_status zmi_lanes_join(zmi_reverse *r);
zm_status zmi_lanes_sum(zmi_reverse *r, int var);

#endif
