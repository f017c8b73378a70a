// What the files of composition share.
#ifndef ZMI_KERNEL_FUSE_H
#define ZMI_KERNEL_FUSE_H

#include "kernel/derive.h"

enum { ZMI_FUSE_VALUES = 4096 }; // numbers of values are below this

typedef struct zmi_fuse_value {
  int at, piece; // in the whole code, -1: not made (here) yet; the piece that makes it, -1: none (around a code of rows)
  zm_dtype dtype;
} zmi_fuse_value;

typedef struct zmi_whole {
  zmi_code *c;
  zmi_fuse_value *values;
} zmi_whole;

zm_status zmi_fuse_wrong(int piece, const char *what);
int zmi_fuse_reread(zmi_code *c, int v, zm_dtype dtype); // a value as it would be read back from memory of its dtype
// Around pieces[own], which is of rows (fuse_rows.c).
zm_status zmi_fuse_rows(zmi_whole *w, const zmi_piece *pieces, int count, int own, const int *results, int nout);

#endif
