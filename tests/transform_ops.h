// Ops whose cases of transforms stand beside test_transform_rules.c: which file has them. That file is held to the list here, and
// test_transform_rules.c takes no other word for it.
#ifndef ZMLX_TEST_TRANSFORM_OPS_H
#define ZMLX_TEST_TRANSFORM_OPS_H

#include "transform_check.h"

static const struct {
  const char *file, *ops;
} checked_elsewhere[] = {
    {"elementwise_rules", "power remainder floor_divide arctan2 logaddexp square reciprocal sign floor ceil trunc round degrees radians "
                          "exp2 expm1 log2 log10 log1p sin cos tan arcsin arccos arctan sinh cosh arcsinh arccosh arctanh erf erfinv "
                          "softplus replace_nonfinite isnan isinf isfinite isneginf isposinf logical_not logical_and logical_or "
                          "bitwise_invert bitwise_and bitwise_or bitwise_xor left_shift right_shift kernel_elements kernel_rows "
                          "kernel_tiles"},
    {"linear_rules", "gather_mm gather_outer dequantize quantized_matmul symmetric_root symmetric_solve quantize from_fp8 to_fp8"},
    {"ops_rules", "cumsum cumprod cummax cummin logcumsumexp linear_scan sort argsort partition argpartition topk searchsorted "
                  "gather scatter take_along_axis put_along_axis slice_update slice_at diagonal as_strided prod var logsumexp "
                  "argmin any all view"},
};

static inline bool is_listed(const char *ops, const char *op) {
  const size_t size = strlen(op);
  for (const char *at = ops; (at = strstr(at, op)); at += size) {
    if ((at == ops || at[-1] == ' ') && (at[size] == ' ' || !at[size])) return true;
  }
  return false;
}

static inline bool is_elsewhere(const char *op) {
  for (size_t i = 0; i < ZMI_COUNT(checked_elsewhere); i++) {
    if (is_listed(checked_elsewhere[i].ops, op)) return true;
  }
  return false;
}

// Each op that `file` stands for has a case there, one of gradients if it has any. The check of a case insists that the op is used.
static inline void check_listed(const char *file, const check_case *cases, size_t count) {
  bool known = false;
  for (size_t f = 0; f < ZMI_COUNT(checked_elsewhere); f++) {
    if (strcmp(checked_elsewhere[f].file, file) != 0) continue;
    known = true;
    for (size_t i = 0; i < zmi_op_count(); i++) {
      const zmi_op *op = zmi_op_at(i);
      if (!is_listed(checked_elsewhere[f].ops, op->name)) continue;
      bool there = false;
      for (size_t k = 0; k < count; k++) {
        const bool whole = !cases[k].flat || strncmp(op->rules->gradient, "none: ", 6) == 0;
        there = there || (cases[k].op && strcmp(cases[k].op, op->name) == 0 && whole);
      }
      if (!there) fail_msg("tests/test_%s.c stands for the op %s, but has no case of its gradients", file, op->name);
    }
  }
  assert_true(known);
}

#endif
