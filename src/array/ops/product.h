// Products of float matrices, shared by matmul, addmm, gather_mm and the convolutions. Private to the ops of the array room.
//
// Order of one result, whatever its tile: k is cut into ranges of ZMI_RANGE; a range's partial is acc = fma(a[k], b[k], acc) from +0 with k
// rising; the partials are added in rising order, beginning with the first. A result depends on its own row and column alone.
#ifndef ZMI_PRODUCT_H
#define ZMI_PRODUCT_H

#include "array/ops/ops.h"

// One operand seen as [lines, k]: rows of a or columns of b. Strides in elements.
typedef struct zmi_side zmi_side;
struct zmi_side {
  const char *data;
  zm_dtype dtype;
  int64_t lines, by_line, by_k;
  int64_t batch[ZM_MAX_RANK]; // strides of the batch dimensions
  // n values of one line from k on, as float32, of operands that strides can't describe; data and strides are then its own. NULL: strides.
  void (*load)(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *out);
  const void *user;
};

typedef struct zmi_product {
  zmi_side a, b;
  int64_t k, batches;
  int batch_rank;
  int64_t batch[ZM_MAX_RANK];
  int64_t row_step, batch_step; // of the result, in elements; 0: contiguous [batches, M, N]
} zmi_product;

// How a product is cut: the small side becomes a, tiles are of mc x nc results, and an operand that several tiles read is packed once into
// scratch.
typedef struct zmi_gemm {
  zmi_product p;
  bool swapped; // a and b changed places: the result is written transposed
  int64_t mc, nc, down, across;
  bool pack_a, pack_b;        // into scratch
  int64_t row_step, col_step; // of the result
  int64_t batch_step;
  int64_t panels_a, panels_b;    // of one packed matrix
  int64_t packed_a[ZM_MAX_RANK]; // strides of packed batches, in matrices
  int64_t packed_b[ZM_MAX_RANK];
  int64_t matrices_a, matrices_b;
  size_t bytes_a, bytes_b;
} zmi_gemm;
zmi_gemm zmi_gemm_of(const zmi_product *p);

// Where results go: the unswapped product, of dtype. With `more` (of the places of a contiguous result), alpha y + beta more is stored,
// rounded once.
typedef struct zmi_gemm_out {
  const zmi_kernels *kernels;
  void *dst;
  zm_dtype dtype;
  double alpha, beta;
  const zmi_reader *more;
  zm_dtype more_dtype;
} zmi_gemm_out;

// Two stages: packing (may have no tiles), then tiles of results. scratch: bytes_a + bytes_b.
int64_t zmi_gemm_pack_tiles(const zmi_gemm *g);
void zmi_gemm_pack(const zmi_kernels *kn, const zmi_gemm *g, void *scratch, int64_t begin, int64_t end);
int64_t zmi_gemm_tiles(const zmi_gemm *g);
void zmi_gemm_run(const zmi_gemm *g, const void *scratch, const zmi_gemm_out *out, int64_t begin, int64_t end);

#endif
