// Products of float matrices, shared by matmul, addmm, gather_mm and the convolutions. Private to the ops of the array room.
//
// Order of one result, whatever its tile: k is cut into ranges of ZMI_RANGE; a range's partial is acc = fma(a[k], b[k], acc) from +0 with k
// rising; the partials are added in rising order, beginning with the first. A result depends on its own row and column alone.
#ifndef ZMI_PRODUCT_H
#define ZMI_PRODUCT_H

#include "array/kernels.h"
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
  bool across; // load gives n lines at k instead
  // Blocks: how many of k from there on, at most ZMI_RANGE, are summed together, where some of k is left out. Of a; NULL: whole ranges.
  int64_t (*range)(const zmi_side *s, int64_t k);
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
  bool few;                   // a few rows: those of b are read where they lie, row by row
  bool pack_a, pack_b;        // into scratch
  bool direct_a, direct_b;    // read where they lie
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
// A block by itself, for products whose sizes are known only when they are computed: results of rows [row, row + rows) of a and lines
// [col, col + cols) of b to w->y, in the same order.
enum { ZMI_BLOCK_ROWS = 192, ZMI_BLOCK_COLS = 128, ZMI_BLOCK_STEP = 48, ZMI_BLOCK_APART = 16 };
typedef struct zmi_gemm_work {
  _Alignas(64) float a[ZMI_BLOCK_STEP * ZMI_RANGE + ZMI_BLOCK_STEP / ZMI_GEMM_ROWS * ZMI_BLOCK_APART];
  _Alignas(64) float b[ZMI_BLOCK_COLS * ZMI_RANGE + ZMI_BLOCK_COLS / ZMI_GEMM_COLS * ZMI_BLOCK_APART];
  _Alignas(64) float y[ZMI_BLOCK_ROWS * ZMI_BLOCK_COLS]; // rows of ZMI_BLOCK_COLS
} zmi_gemm_work;
void zmi_gemm_block(const zmi_kernels *kn, const zmi_side *a, int64_t row, int64_t rows, const zmi_side *b, int64_t col, int64_t cols,
                    int64_t k, zmi_gemm_work *w);

// matmul and addmm as a kernel (product_kernel.c).
bool zmi_product_kernel(const zmi_call *c, double alpha, double beta, zmi_op_kernel *k);

// ---- products of chosen rows (gather_mm.c) ----
// Index i of `count` chooses source lhs[i], of `height` rows, and matrix rhs[i]. A pair is one row: i * height + its row. Pairs whose
// source or matrix does not exist belong to matrix -1 and give zeros.
typedef struct zmi_choice {
  zmi_expert_plan plan;
  int64_t count, height, sources, pairs;
  int32_t *matrix, *row; // [pairs]
} zmi_choice;
size_t zmi_choice_bytes(int64_t count, int64_t height, int64_t matrices);
zmi_choice zmi_choice_at(void *memory, int64_t count, int64_t height, int64_t sources, int64_t matrices);
void zmi_choice_make(const zmi_choice *c, const int32_t *lhs, const int32_t *rhs);
zm_status zmi_want_choice(const zmi_type *lhs, const zmi_type *rhs, int64_t height);
// An index operand of builders: int32, what does not fit becomes -1 or the largest. NULL: 0, 1, .. over the batch dimensions of `like`.
zm_array *zmi_choice_index(const char *op, zm_array *index, const zm_array *like);
// out[e] = the sum over indices i with group[i] = e of a[ia[i]]^T b[ib[i]]: a [A, M, P], b [B, M, Q] -> [matrices, P, Q]
zm_array *zmi_gather_outer(zm_array *a, zm_array *b, zm_array *ia, zm_array *ib, zm_array *group, int64_t matrices);
zm_array *zmi_gather_mm(zm_array *a, zm_array *b, zm_array *lhs, zm_array *rhs); // a [A, M, K], b [B, K, N], indices [I] -> [I, M, N]

void zmi_gemm_run(const zmi_gemm *g, const void *scratch, const zmi_gemm_out *out, int64_t begin, int64_t end);

#endif
