// Shape rules that the operations of models share: ranks, dtypes, packed matrices. Messages name the operand; the op's name is put in front
// by the caller.
#include "array/kernels.h"

#include <stdio.h>

const char *const zmi_mode_words[] = {"none", "affine", "mxfp4", "mxfp8", "nvfp4", NULL};

zm_status zmi_want_operands(int nin, const zmi_type *in, int least, int most) {
  if (nin < least || nin > most) return zmi_fail(ZM_ERROR_ARGUMENT, "takes %d to %d operands, found %d", least, most, nin);
  for (int i = 0; i < least; i++) {
    if (in[i].rank < 0) return zmi_fail(ZM_ERROR_ARGUMENT, "operand %d is missing", i);
  }
  return ZM_OK;
}

zm_status zmi_want_rank(const char *operand, const zmi_type *t, int rank, const char *form) {
  char text[128];
  if (t->rank == rank) return ZM_OK;
  if (t->rank < 0) return zmi_fail(ZM_ERROR_ARGUMENT, "%s: expected %s, but the operand is missing", operand, form);
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s: expected %s, found %s", operand, form, zmi_type_text(t, text));
}

zm_status zmi_want_dtype(const char *operand, const zmi_type *t, zm_dtype dtype) {
  if (t->dtype == dtype) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s: expected %s, found %s", operand, zm_dtype_name(dtype), zm_dtype_name(t->dtype));
}

zm_status zmi_want_float(const char *operand, const zmi_type *t) {
  if (t->dtype == ZM_F16 || t->dtype == ZM_BF16 || t->dtype == ZM_F32) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s: expected float16, bfloat16 or float32, found %s", operand, zm_dtype_name(t->dtype));
}

zm_status zmi_want_dim(const char *operand, const zmi_type *t, int axis, int64_t expected, const char *meaning) {
  char text[128];
  if (t->shape[axis] == expected) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s: dimension %d of %s must be %lld (%s)", operand, axis, zmi_type_text(t, text), (long long)expected,
                  meaning);
}

zm_status zmi_want_index(const char *operand, const zmi_type *t, int64_t rows) {
  zm_status status = zmi_want_rank(operand, t, 1, "int32 [rows]");
  if (status == ZM_OK) status = zmi_want_dtype(operand, t, ZM_I32);
  return status == ZM_OK ? zmi_want_dim(operand, t, 0, rows, "one entry a row") : status;
}

bool zmi_absent(const zmi_type *types, int nin, int i) {
  return i < 0 || i >= nin || types[i].rank < 0;
}

zmi_matrix_attrs zmi_matrix_attrs_of(const zmi_matrix *m) {
  return (zmi_matrix_attrs){.format = m->format, .n = m->n, .k = m->k, .experts = m->experts};
}

static zm_status want_bias(const zmi_matrix_attrs *m, const zmi_type *bias) {
  char text[128];
  zm_status status = zmi_want_float("bias", bias);
  if (status != ZM_OK) return status;
  bool plain = bias->rank == 1 && bias->shape[0] == m->n && m->experts == 1;
  bool each = bias->rank == 2 && bias->shape[0] == m->experts && bias->shape[1] == m->n;
  if (plain || each) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "bias: expected [%lld, %lld], found %s", (long long)m->experts, (long long)m->n,
                  zmi_type_text(bias, text));
}

zm_status zmi_want_matrix(const zmi_matrix_attrs *m, int nin, const zmi_type *in, int weight, int bias) {
  size_t one, bytes;
  zm_status status = zmi_format_check(&m->format);
  if (status != ZM_OK) return status;
  if (m->n < 1 || m->k < 1 || m->experts < 1 || m->experts > INT32_MAX) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "weight: %lld matrices of [%lld, %lld]: every dimension must be at least 1", (long long)m->experts,
                    (long long)m->n, (long long)m->k);
  }
  if (m->format.mode != ZMI_QUANT_NONE && m->k % m->format.group != 0) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "weight: rows of %lld elements are not a whole number of groups of %lld", (long long)m->k,
                    (long long)m->format.group);
  }
  if (m->format.dtype != ZM_BF16 && m->format.dtype != ZM_F32) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "weight: packed in %s, expected bfloat16 or float32", zm_dtype_name((zm_dtype)m->format.dtype));
  }
  if (!zmi_packed_bytes(&m->format, m->n, m->k, &one) || zmi_mul_overflow(one, (size_t)m->experts, &bytes) || bytes > INT64_MAX) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "weight: %lld matrices of [%lld, %lld] are too large to address", (long long)m->experts,
                    (long long)m->n, (long long)m->k);
  }
  if ((status = zmi_want_rank("weight", &in[weight], 1, "uint8 [bytes]")) != ZM_OK) return status;
  if ((status = zmi_want_dtype("weight", &in[weight], ZM_U8)) != ZM_OK) return status;
  if (in[weight].shape[0] != (int64_t)bytes) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "weight: %lld packed matrices of [%lld, %lld] take %zu bytes, found %lld", (long long)m->experts,
                    (long long)m->n, (long long)m->k, bytes, (long long)in[weight].shape[0]);
  }
  return zmi_absent(in, nin, bias) ? ZM_OK : want_bias(m, &in[bias]);
}
