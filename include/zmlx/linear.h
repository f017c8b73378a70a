// Products of matrices and convolutions.
//
// Products are computed in float32, in the written order of docs/numerics.md, and rounded once: the same bits on every machine. Batch
// dimensions broadcast without copies.
// zm_matmul is declared in zmlx/array.h.
#ifndef ZMLX_LINEAR_H
#define ZMLX_LINEAR_H

#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

// alpha (a b) + beta c, rounded once; c broadcasts to the product.
ZM_API zm_array *zm_addmm(zm_array *c, zm_array *a, zm_array *b, double alpha, double beta);

#ifdef __cplusplus
}
#endif
#endif
