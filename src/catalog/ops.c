// The table of the catalog's ops in C, and what their files share.
#include "catalog/ops.h"

#include <string.h>

#define X(name) &zmi_op_##name,
static const zmi_op *const ops[] = {ZMI_CATALOG_OP_LIST(X)};
#undef X

size_t zmi_catalog_op_count(void) {
  return ZMI_COUNT(ops);
}

const zmi_op *zmi_catalog_op_at(size_t i) {
  return i < ZMI_COUNT(ops) ? ops[i] : NULL;
}

const zmi_op *zmi_catalog_op_find(const char *name) {
  for (size_t i = 0; i < ZMI_COUNT(ops); i++) {
    if (strcmp(ops[i]->name, name) == 0) return ops[i];
  }
  return NULL;
}

zm_status zmi_cat_apply(const zmi_op *op, const void *attrs, size_t attrs_size, int nin, zm_array *const *in, zm_array **out) {
  for (int i = 0; i < nin; i++) {
    if (!in[i])
      return zm_last_status() != ZM_OK ? zm_last_status() : zmi_fail(ZM_ERROR_ARGUMENT, "%s: operand %d is NULL", op->name, i + 1);
  }
  return zmi_apply(op, attrs, attrs_size, nin, in, out);
}

zm_status zmi_cat_vmap_rows(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 1, out);
}

zm_array *zmi_cat_apply1(const zmi_op *op, const void *attrs, size_t attrs_size, int nin, zm_array *const *in) {
  zm_array *out = NULL;
  return zmi_cat_apply(op, attrs, attrs_size, nin, in, &out) == ZM_OK ? out : NULL;
}

bool zmi_cat_is_integer(zm_dtype dtype) {
  return dtype != ZM_BOOL && dtype != ZM_F16 && dtype != ZM_BF16 && dtype != ZM_F32;
}

int64_t zmi_cat_integer(const void *src, zm_dtype dtype, int64_t i) {
  switch (dtype) {
  case ZM_U8:
    return ((const uint8_t *)src)[i];
  case ZM_I8:
    return ((const int8_t *)src)[i];
  case ZM_U16:
    return ((const uint16_t *)src)[i];
  case ZM_I16:
    return ((const int16_t *)src)[i];
  case ZM_U32:
    return ((const uint32_t *)src)[i];
  case ZM_I32:
    return ((const int32_t *)src)[i];
  default:
    return ((const int64_t *)src)[i];
  }
}

zm_array *zmi_cat_indices(const char *name, const char *operand, zm_array *indices) {
  if (!zmi_cat_want_rank(name, operand, indices, 0)) return NULL;
  zm_dtype dtype = indices->type.dtype;
  if (!zmi_cat_is_integer(dtype)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected integers, found %s", name, operand, zm_dtype_name(dtype));
    return NULL;
  }
  if (dtype == ZM_U32 || dtype == ZM_U64 || dtype == ZM_I64) indices = zm_minimum(indices, zm_full(INT32_MAX, dtype, NULL, 0));
  if (dtype == ZM_I64) indices = zm_maximum(indices, zm_full(INT32_MIN, dtype, NULL, 0));
  return zm_astype(indices, ZM_I32);
}

ZMI_ROWS(pick, "x place", "y", NULL, "elements { s = sum(i == place ? x : 0.0f); }\ny = s;")

zm_array *zmi_cat_pick(zm_array *x, zm_array *places) {
  if (!x || !places) return NULL;
  zm_array *in[] = {zm_expand_dims(x, -2), zm_expand_dims(zm_astype(places, ZM_I32), -1)};
  return zmi_definition_apply1(&pick_def, in, 2, NULL, 0);
}
