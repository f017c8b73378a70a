// The table of weight formats: names, allowed bits and groups, planes of a bit width, sizes of the packed form.
#include "quant/quant.h"

#include <stdio.h>
#include <string.h>

static const char *const mode_names[ZMI_QUANT_MODE_COUNT] = {
    [ZMI_QUANT_NONE] = "none",   [ZMI_QUANT_AFFINE] = "affine", [ZMI_QUANT_MXFP4] = "mxfp4",
    [ZMI_QUANT_MXFP8] = "mxfp8", [ZMI_QUANT_NVFP4] = "nvfp4",
};

// Bit planes by width, low bits first. A width without a row is not a format.
static const int planes[9][3] = {[2] = {2, 0}, [3] = {2, 1, 0}, [4] = {4, 0}, [5] = {4, 1, 0}, [6] = {4, 2, 0}, [8] = {8, 0}};

const char *zmi_quant_mode_name(int64_t mode) {
  return mode >= 0 && mode < ZMI_QUANT_MODE_COUNT ? mode_names[mode] : "?";
}

int zmi_quant_mode_find(const char *name) {
  for (int i = 0; i < ZMI_QUANT_MODE_COUNT; i++) {
    if (strcmp(mode_names[i], name) == 0) return i;
  }
  return -1;
}

const int *zmi_planes(int64_t bits) {
  static const int none[1] = {0};
  return bits >= 0 && bits <= 8 ? planes[bits] : none;
}

zm_status zmi_format_check(const zmi_format *f) {
  if (f->mode < 0 || f->mode >= ZMI_QUANT_MODE_COUNT) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "quantization mode %lld does not exist", (long long)f->mode);
  }
  if (f->mode != ZMI_QUANT_NONE && f->mode != ZMI_QUANT_AFFINE) {
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "quantization mode %s is not supported: convert the weights to affine or to bfloat16",
                    mode_names[f->mode]);
  }
  if (f->dtype != ZM_BF16 && f->dtype != ZM_F32) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "packed weights hold bfloat16 or float32, not %s", zm_dtype_name((zm_dtype)f->dtype));
  }
  if (f->mode == ZMI_QUANT_NONE) return ZM_OK;
  if (zmi_planes(f->bits)[0] == 0) {
    return zmi_fail(ZM_ERROR_FORMAT, "affine quantization with %lld bits does not exist: bits must be 2, 3, 4, 5, 6 or 8",
                    (long long)f->bits);
  }
  if (f->group != 32 && f->group != 64 && f->group != 128) {
    return zmi_fail(ZM_ERROR_FORMAT, "affine quantization with groups of %lld does not exist: the group size must be 32, 64 or 128",
                    (long long)f->group);
  }
  return ZM_OK;
}

const char *zmi_format_text(const zmi_format *f, char buffer[64]) {
  if (f->mode == ZMI_QUANT_NONE) {
    snprintf(buffer, 64, "%s", zm_dtype_name((zm_dtype)f->dtype));
  } else {
    snprintf(buffer, 64, "%s %lld-bit g%lld", zmi_quant_mode_name(f->mode), (long long)f->bits, (long long)f->group);
  }
  return buffer;
}

size_t zmi_packed_block_bytes(const zmi_format *f, int64_t k) {
  size_t element = zm_dtype_size((zm_dtype)f->dtype);
  if (f->mode == ZMI_QUANT_NONE) return (size_t)((k + 1) / 2) * 2 * ZMI_LANES * element;
  size_t groups = (size_t)(k / f->group);
  size_t codes = (size_t)(f->group * f->bits) * ZMI_LANES / 8;
  return groups * (codes + 2 * ZMI_LANES * element);
}

bool zmi_packed_bytes(const zmi_format *f, int64_t n, int64_t k, size_t *bytes) {
  if (n < 0 || k < 0 || k > INT64_MAX / 256 || n > INT64_MAX - ZMI_LANES) return false;
  return !zmi_mul_overflow((size_t)((n + ZMI_LANES - 1) / ZMI_LANES), zmi_packed_block_bytes(f, k), bytes);
}
