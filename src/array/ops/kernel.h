// Kernels as operations: what the files kernel*.c of this folder share. A node of kernel_elements, kernel_rows or kernel_tiles has a
// zmi_bound as its owner: a kernel for concrete dtypes that can run, with what its derivatives need.
#ifndef ZMI_OPS_KERNEL_H
#define ZMI_OPS_KERNEL_H

#include "array/ops/ops.h"

#include <pthread.h>
#include <zmlx/kernel.h>

enum { ZMI_KERNEL_DIMS = 24 }; // dimensions of all results of a tile kernel together

typedef struct zmi_kernel_attrs {
  int64_t key[2];     // of the code
  int64_t results;    // dtypes of the results, four bits each, the first in the lowest; 0 ends
  int64_t per_row;    // ROWS: one bit a result that has one element a row; from ZMI_KERNEL_SHARED on: zmi_pieces_of()
  int64_t in_per_row; // ROWS: the same of operands
  int64_t ranks;      // TILES: ranks of the results, four bits each
  int64_t groups, threads;
  double param[ZMI_KERNEL_PARAMS];
  int64_t dims[ZMI_KERNEL_DIMS]; // TILES: shapes of the results one after another
} zmi_kernel_attrs;

enum { ZMI_KERNEL_SHARED = 32 };
// The pieces that workers share the call in, as tuned; 0: as it comes.
static inline int64_t zmi_pieces_of(const zmi_kernel_attrs *a) {
  return (int64_t)((uint64_t)a->per_row >> ZMI_KERNEL_SHARED);
}
static inline void zmi_share_in(zmi_kernel_attrs *a, int pieces) {
  a->per_row = (int64_t)((uint64_t)a->per_row & UINT32_MAX) | (int64_t)pieces << ZMI_KERNEL_SHARED;
}

// Gradients by the author of a kernel. Counted; the functions and ops live as long as a node needs them.
typedef struct zmi_author {
  _Atomic int refs;
  int nin, nout;
  zm_op *gradient[ZMI_KERNEL_IN]; // elementwise: of each input, applied to inputs, results and cotangents
  bool has_gradient;
  zm_kernel_vjp vjp;
  void *user;
} zmi_author;
zmi_author *zmi_author_retain(zmi_author *author);
void zmi_author_release(zmi_author *author);

typedef struct zmi_derived zmi_derived;
typedef struct zmi_bound {
  zmi_owner owner; // first
  zmi_instance *instance;
  zmi_author *author; // may be NULL
  pthread_mutex_t lock;
  zmi_derived *derived; // kernels of derivatives made so far
} zmi_bound;

// Takes over nothing: the code is the caller's, the author is retained. NULL with a message.
zmi_bound *zmi_bound_new(const zmi_code *code, zmi_author *author);
static inline zmi_bound *zmi_bound_of(zmi_owner *owner) {
  return (zmi_bound *)(void *)owner;
}
// Applies it to operands whose shapes are as the form wants them (elements: one shape; rows: one shape, without its last axis where the
// code says in_per_row). Tiles take shapes and grid from `call`, all take from it how the call is shared; NULL otherwise.
zm_status zmi_bound_apply(zmi_bound *b, int nin, zm_array *const *in, const double *params, const zmi_kernel_attrs *call, zm_array **out);
const zmi_op *zmi_kernel_op(int form);

// ---- kernel_run.c ----
int64_t zmi_kernel_elements_tiles(const zmi_call *c);
size_t zmi_kernel_elements_scratch(const zmi_call *c);
void zmi_kernel_elements_run(const zmi_call *c, int64_t begin, int64_t end);
int64_t zmi_kernel_rows_tiles(const zmi_call *c);
void zmi_kernel_rows_run(const zmi_call *c, int64_t begin, int64_t end);
size_t zmi_kernel_rows_scratch(const zmi_call *c);
int64_t zmi_kernel_zero_tiles(const zmi_call *c);
void zmi_kernel_zero_run(const zmi_call *c, int64_t begin, int64_t end);
int64_t zmi_kernel_groups_tiles(const zmi_call *c);
void zmi_kernel_groups_run(const zmi_call *c, int64_t begin, int64_t end);
int zmi_kernel_shape_class(const zmi_call *c);

// ---- kernel_rules.c ----
extern const zmi_rules zmi_kernel_elements_rules, zmi_kernel_rows_rules, zmi_kernel_tiles_rules;
void zmi_derived_free(zmi_derived *d);

#endif
