// The ops of the catalog that are written in C, and what their files share. Private to the room.
#ifndef ZMI_CATALOG_OPS_H
#define ZMI_CATALOG_OPS_H

#include "catalog/catalog.h"

// clang-format off
#define ZMI_CATALOG_OP_LIST(X)                                                                                      \
  X(paged_attention) X(rope_rows) X(write_rows) X(unpack_codes) X(pack_codes)                                        \
  X(topk_rows) X(gate_rows) X(moe_combine) X(moe_dispatch) X(gather_qmv) X(progressive_qmv)                          \
  X(resize_bilinear) X(depthwise_conv_3x3) X(scatter_add_rows) X(pack_bits) X(unpack_bits)
// clang-format on

#define X(name) extern const zmi_op zmi_op_##name;
ZMI_CATALOG_OP_LIST(X)
#undef X

// zmi_apply1 after a check that no operand is NULL.
zm_array *zmi_cat_apply1(const zmi_op *op, const void *attrs, size_t attrs_size, int nin, zm_array *const *in);
zm_status zmi_cat_apply(const zmi_op *op, const void *attrs, size_t attrs_size, int nin, zm_array *const *in, zm_array **out);

// Element `i` of integer memory as int64.
int64_t zmi_cat_integer(const void *src, zm_dtype dtype, int64_t i);
bool zmi_cat_is_integer(zm_dtype dtype);
// Indices as int32. Those beyond its range become its ends, so that they are out of range of every array. NULL if they are no integers.
zm_array *zmi_cat_indices(const char *name, const char *operand, zm_array *indices);

// Words uint32 [..., W] to codes uint8 [..., W 32 / bits] and back.
zm_array *zmi_cat_unpack(zm_array *words, int bits);
zm_array *zmi_cat_pack(zm_array *codes, int bits);
// Words with scales and biases (NULL: there are none) of one affine format; gives K.
bool zmi_cat_want_affine(const char *name, zm_array *words, zm_array *scales, zm_array *biases, int bits, int64_t group, int64_t *k);

// x [R, K] times quantized matrices: pair p is row rows[p] by expert experts[p], plain or gated (up not NULL) -> [P, N] of `result`.
zm_array *zmi_cat_gather(const char *name, zm_array *x, zm_array *rows, zm_array *experts, const zm_affine *gate, const zm_affine *up,
                         zm_dtype result);

// x [..., D] at places idx [..., k] of each row, as floats of the dtype of x: differentiable by x.
zm_array *zmi_cat_pick(zm_array *x, zm_array *places);

// Batches of an op that works on each row (picture, ...) of its first operand by itself: the batch's rows are more of them.
zm_status zmi_cat_vmap_rows(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out);

// Results of a function of arrays as a status.
static inline zm_status zmi_cat_status(const zm_array *a) {
  return a ? ZM_OK : zm_last_status();
}

#endif
