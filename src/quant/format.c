// The table of weight formats: names, allowed bits and groups, planes of a bit width, sizes of the packed form.
#include "quant/quant.h"

#include <stdio.h>
#include <string.h>

// The lists of what a mode allows end with 0. usual: bits and group where nothing is said. digits: products take activations as digits.
static const struct mode {
  const char *name;
  int64_t bits[8], group[4];
  struct {
    int64_t bits, group;
  } usual;
  bool digits;
} modes[ZMI_QUANT_MODE_COUNT] = {
    [ZMI_QUANT_NONE] = {"none", {0}, {0}, {0, 0}, false},
    [ZMI_QUANT_AFFINE] = {"affine", {2, 3, 4, 5, 6, 8}, {32, 64, 128}, {4, 64}, true},
    [ZMI_QUANT_MXFP4] = {"mxfp4", {4}, {32}, {4, 32}, true},
    [ZMI_QUANT_MXFP8] = {"mxfp8", {8}, {32}, {8, 32}, false},
    [ZMI_QUANT_NVFP4] = {"nvfp4", {4}, {16}, {4, 16}, true},
};

// Bit planes by width, low bits first. A width without a row is not a format.
static const int planes[9][3] = {[2] = {2, 0}, [3] = {2, 1, 0}, [4] = {4, 0}, [5] = {4, 1, 0}, [6] = {4, 2, 0}, [8] = {8, 0}};

const char *zmi_quant_mode_name(int64_t mode) {
  return mode >= 0 && mode < ZMI_QUANT_MODE_COUNT ? modes[mode].name : "?";
}

int zmi_quant_mode_find(const char *name) {
  for (int i = 0; i < ZMI_QUANT_MODE_COUNT; i++) {
    if (strcmp(modes[i].name, name) == 0) return i;
  }
  return -1;
}

const int *zmi_planes(int64_t bits) {
  static const int none[1] = {0};
  return bits >= 0 && bits <= 8 ? planes[bits] : none;
}

static bool listed(const int64_t *list, int64_t v) {
  for (; *list; list++) {
    if (*list == v) return true;
  }
  return false;
}

// "2, 3 or 4"
static const char *list_text(const int64_t *list, char buffer[64]) {
  size_t at = 0;
  for (int i = 0; list[i]; i++)
    at += (size_t)snprintf(buffer + at, 64 - at, "%s%lld", i == 0 ? "" : list[i + 1] ? ", " : " or ", (long long)list[i]);
  return buffer;
}

static zm_status check_numbers(const zmi_format *f, zm_status kind) {
  const struct mode *m = &modes[f->mode];
  char text[64];
  if (!listed(m->bits, f->bits)) {
    return zmi_fail(kind, "%s quantization with %lld bits does not exist: bits must be %s", m->name, (long long)f->bits,
                    list_text(m->bits, text));
  }
  if (!listed(m->group, f->group)) {
    return zmi_fail(kind, "%s quantization with groups of %lld does not exist: the group size must be %s", m->name, (long long)f->group,
                    list_text(m->group, text));
  }
  return ZM_OK;
}

zm_status zmi_codes_complete(zmi_format *f) {
  if (f->mode <= ZMI_QUANT_NONE || f->mode >= ZMI_QUANT_MODE_COUNT) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "quantization mode %lld does not exist", (long long)f->mode);
  }
  if (f->bits == 0) f->bits = modes[f->mode].usual.bits;
  if (f->group == 0) f->group = modes[f->mode].usual.group;
  return check_numbers(f, ZM_ERROR_ARGUMENT);
}

zm_status zmi_format_check(const zmi_format *f) {
  if (f->mode < 0 || f->mode >= ZMI_QUANT_MODE_COUNT) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "quantization mode %lld does not exist", (long long)f->mode);
  }
  if (f->dtype != ZM_BF16 && f->dtype != ZM_F32) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "packed weights hold bfloat16 or float32, not %s", zm_dtype_name((zm_dtype)f->dtype));
  }
  if (f->digits != 0 && f->digits != 1) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "activations as %lld digits do not exist: 0 (all three) and 1 do", (long long)f->digits);
  }
  return f->mode == ZMI_QUANT_NONE ? ZM_OK : check_numbers(f, ZM_ERROR_FORMAT);
}

bool zmi_format_takes_digits(const zmi_format *f) {
  return modes[f->mode].digits;
}

int zmi_format_digits(const zmi_format *f) {
  return f->digits ? (int)f->digits : 3;
}

const char *zmi_format_text(const zmi_format *f, char buffer[64]) {
  if (f->mode == ZMI_QUANT_NONE) {
    snprintf(buffer, 64, "%s", zm_dtype_name((zm_dtype)f->dtype));
  } else {
    snprintf(buffer, 64, "%s %lld-bit g%lld", zmi_quant_mode_name(f->mode), (long long)f->bits, (long long)f->group);
  }
  return buffer;
}

size_t zmi_packed_code_bytes(const zmi_format *f, int64_t k) {
  return (size_t)(k * f->bits) * ZMI_LANES / 8;
}

size_t zmi_packed_block_bytes(const zmi_format *f, int64_t k) {
  size_t element = zm_dtype_size((zm_dtype)f->dtype);
  if (f->mode == ZMI_QUANT_NONE) return (size_t)((k + 1) / 2) * 2 * ZMI_LANES * element;
  size_t groups = (size_t)(k / f->group);
  if (f->mode == ZMI_QUANT_AFFINE) return zmi_packed_code_bytes(f, k) + groups * 2 * ZMI_LANES * element;
  return zmi_packed_code_bytes(f, k) + (groups * ZMI_LANES + 63) / 64 * 64;
}

bool zmi_packed_bytes(const zmi_format *f, int64_t n, int64_t k, size_t *bytes) {
  if (n < 0 || k < 0 || k > INT64_MAX / 256 || n > INT64_MAX - ZMI_LANES) return false;
  return !zmi_mul_overflow((size_t)((n + ZMI_LANES - 1) / ZMI_LANES), zmi_packed_block_bytes(f, k), bytes);
}
