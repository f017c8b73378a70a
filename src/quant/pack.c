// From the checkpoint's form to the packed form and back. Both are written down in quant.h; a code goes through one byte in between.
#include "quant/half.h"
#include "quant/packing.h"

#include <string.h>

// ---- elements ----

// Element i at any address.
static float element(const void *p, zm_dtype dtype, size_t i) {
  if (dtype == ZM_F32) {
    float v;
    memcpy(&v, (const char *)p + 4 * i, 4);
    return v;
  }
  uint16_t h;
  memcpy(&h, (const char *)p + 2 * i, 2);
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(h) : zmi_f16_to_f32(h);
}

static void put_element(void *p, zm_dtype dtype, size_t i, float v) {
  if (dtype == ZM_F32) {
    memcpy((char *)p + 4 * i, &v, 4);
  } else {
    uint16_t h = zmi_f32_to_bf16(v);
    memcpy((char *)p + 2 * i, &h, 2);
  }
}

// ---- codes ----

// Eight codes of `bits` bits, one after another in x, to one byte each.
static inline uint64_t spread(uint64_t x, int bits) {
  if (bits == 8) return x;
  uint64_t m4 = (1ull << 4 * bits) - 1;
  uint64_t m2 = ((1ull << 2 * bits) - 1) * 0x0000000100000001ull;
  uint64_t m1 = ((1ull << bits) - 1) * 0x0001000100010001ull;
  x = (x & m4) | (x >> 4 * bits & m4) << 32;
  x = (x & m2) | (x >> 2 * bits & m2) << 16;
  return (x & m1) | (x >> bits & m1) << 8;
}

// 32 codes of one row (4 * bits bytes) to the words of one lane, ZMI_LANES words apart. `bits` is a constant at every call.
static inline __attribute__((always_inline)) void pack_unit(int bits, const uint8_t *source, uint32_t *lane) {
  uint64_t c[4], w[5] = {0};
  memcpy(w, source, (size_t)(4 * bits));
  for (int i = 0; i < 4; i++) {
    int at = i * bits / 8, shift = i * bits % 8 * 8; // eight codes begin at bit `shift` of word `at`
    c[i] = spread(shift ? w[at] >> shift | w[at + 1] << (64 - shift) : w[at], bits);
  }
  if (bits == 8) {
    for (int i = 0; i < 4; i++) {
      lane[2 * i * ZMI_LANES] = (uint32_t)c[i];
      lane[(2 * i + 1) * ZMI_LANES] = (uint32_t)(c[i] >> 32);
    }
    return;
  }
  int done = 0;
  if (bits >= 4) {
    for (int i = 0; i < 4; i++, lane += ZMI_LANES) {
      uint64_t v = c[i] & 0x0f0f0f0f0f0f0f0full;
      *lane = (uint32_t)(v | v >> 28);
    }
    done = 4;
  }
  if (bits - done >= 2) {
    for (int i = 0; i < 4; i += 2, lane += ZMI_LANES) {
      uint64_t v = (c[i] >> done & 0x0303030303030303ull) | (c[i + 1] >> done & 0x0303030303030303ull) << 4;
      *lane = (uint32_t)(v | v >> 30);
    }
    done += 2;
  }
  if (bits > done) {
    uint64_t v = 0;
    for (int i = 0; i < 4; i++) v |= (c[i] >> done & 0x0101010101010101ull) << 2 * i;
    *lane = (uint32_t)(v | v >> 31);
  }
}

#define WIDTHS(X) X(2) X(3) X(4) X(5) X(6) X(8)
#define X(bits)                                                                                                                            \
  static void pack_codes_##bits(const uint8_t *source, int64_t units, uint32_t *lane) {                                                    \
    for (int64_t u = 0; u < units; u++) pack_unit(bits, source + u * 4 * bits, lane + u * bits * ZMI_LANES);                               \
  }
WIDTHS(X)
#undef X

typedef void (*pack_fn)(const uint8_t *source, int64_t units, uint32_t *lane);
#define X(bits) [bits] = pack_codes_##bits,
static const pack_fn pack_codes[9] = {WIDTHS(X)};
#undef X

// Scales or biases of one group; `at`: of lane 0, the next lane's is `step` further.
static void pack_scales(const zmi_format *f, const void *from, zm_dtype stored, size_t at, size_t step, int64_t lanes, char *out) {
  if (stored == ZM_F32 && f->dtype == ZM_F32) {
    for (int64_t lane = 0; lane < lanes; lane++, at += step) memcpy(out + 4 * lane, (const char *)from + 4 * at, 4);
  } else if (stored == ZM_BF16 && f->dtype == ZM_BF16) {
    for (int64_t lane = 0; lane < lanes; lane++, at += step) memcpy(out + 2 * lane, (const char *)from + 2 * at, 2);
  } else {
    for (int64_t lane = 0; lane < lanes; lane++, at += step) put_element(out, (zm_dtype)f->dtype, (size_t)lane, element(from, stored, at));
  }
}

// ---- blocks ----

static void pack_affine(const zmi_format *f, const zmi_stored_matrix *m, void *block, int64_t first) {
  const size_t code_bytes = (size_t)(f->group * f->bits) * ZMI_LANES / 8, scale_bytes = ZMI_LANES * zm_dtype_size((zm_dtype)f->dtype);
  const int64_t groups = m->k / f->group, rows = ZMI_MIN(m->n - first, (int64_t)ZMI_LANES);
  const size_t row_bytes = (size_t)(m->k * f->bits / 8), group_bytes = (size_t)(f->group * f->bits / 8);
  if (rows < ZMI_LANES) memset(block, 0, zmi_packed_block_bytes(f, m->k));
  // A group at a time, so that its lines are written while they are near. Whole blocks have their scales turned together below.
  const bool words = rows == ZMI_LANES && (f->bits == 4 || f->bits == 8);
  const bool halves = rows == ZMI_LANES && m->stored == ZM_BF16 && f->dtype == ZM_BF16;
  for (int64_t g = 0; g < groups; g++) {
    char *out = (char *)block + (size_t)g * (code_bytes + 2 * scale_bytes);
    const uint8_t *source = (const uint8_t *)m->weight + (size_t)first * row_bytes + (size_t)g * group_bytes;
    if (words) zmi_turn_words(source, row_bytes, f->group * f->bits / 32, f->bits == 4, (uint32_t *)(void *)out);
    for (int64_t lane = 0; lane < rows && !words; lane++, source += row_bytes) {
      pack_codes[f->bits](source, f->group / 32, (uint32_t *)(void *)out + lane);
    }
    if (halves) continue;
    const size_t at = (size_t)first * (size_t)groups + (size_t)g;
    pack_scales(f, m->scales, m->stored, at, (size_t)groups, rows, out + code_bytes);
    pack_scales(f, m->biases, m->stored, at, (size_t)groups, rows, out + code_bytes + scale_bytes);
  }
  const void *from[2] = {m->scales, m->biases};
  for (size_t i = 0; i < 2 && halves; i++) {
    const uint8_t *source = (const uint8_t *)from[i] + (size_t)(first * groups) * 2;
    zmi_turn_halves(source, (size_t)groups * 2, groups, (char *)block + code_bytes + i * scale_bytes, code_bytes + 2 * scale_bytes);
  }
}

// n <= 32 elements from `at` on as float32.
static void widen(const void *p, zm_dtype dtype, size_t at, int64_t n, float *out) {
  uint16_t h[32];
  if (dtype == ZM_F32) {
    memcpy(out, (const char *)p + 4 * at, (size_t)n * 4);
    return;
  }
  memcpy(h, (const char *)p + 2 * at, (size_t)n * 2);
  if (dtype == ZM_BF16) {
    for (int64_t i = 0; i < n; i++) out[i] = zmi_bf16_to_f32(h[i]);
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = zmi_half_to_float(h[i]);
  }
}

// Pairs [p0, p1) of one row to its lane.
static void pack_pairs(const zmi_format *f, const zmi_stored_matrix *m, size_t row, int64_t p0, int64_t p1, char *lane) {
  if (f->dtype == ZM_BF16 && m->stored == ZM_BF16) {
    const char *from = (const char *)m->weight + 2 * row;
    int64_t whole = ZMI_MIN(p1, m->k / 2);
    for (int64_t p = p0; p < whole; p++) memcpy(lane + 4 * p * ZMI_LANES, from + 4 * p, 4);
    if (whole < p1) memcpy(lane + 4 * whole * ZMI_LANES, from + 4 * whole, 2);
    return;
  }
  float x[32] = {0};
  widen(m->weight, m->stored, row + (size_t)(2 * p0), ZMI_MIN(2 * p1, m->k) - 2 * p0, x);
  for (int64_t p = p0; p < p1; p++) {
    const float *pair = x + 2 * (p - p0);
    if (f->dtype == ZM_F32) {
      memcpy(lane + 8 * p * ZMI_LANES, pair, 8);
    } else {
      uint16_t h[2] = {zmi_f32_to_bf16(pair[0]), zmi_f32_to_bf16(pair[1])};
      memcpy(lane + 4 * p * ZMI_LANES, h, 4);
    }
  }
}

static void pack_float(const zmi_format *f, const zmi_stored_matrix *m, void *block, int64_t first) {
  const int64_t pairs = (m->k + 1) / 2, rows = ZMI_MIN(m->n - first, (int64_t)ZMI_LANES);
  const size_t pair_bytes = 2 * zm_dtype_size((zm_dtype)f->dtype);
  if (rows < ZMI_LANES || m->k % 2) memset(block, 0, zmi_packed_block_bytes(f, m->k));
  if (rows == ZMI_LANES && m->k % 2 == 0 && f->dtype == ZM_BF16 && m->stored == ZM_BF16) { // a pair is a word
    zmi_turn_words((const uint8_t *)m->weight + (size_t)first * (size_t)m->k * 2, (size_t)m->k * 2, pairs, false, block);
    return;
  }
  for (int64_t p = 0; p < pairs; p += 16) { // tiles, so that each line of the block is written once
    for (int64_t lane = 0; lane < rows; lane++) {
      pack_pairs(f, m, (size_t)(first + lane) * (size_t)m->k, p, ZMI_MIN(p + 16, pairs), (char *)block + (size_t)lane * pair_bytes);
    }
  }
}

// ---- modes ----

static void unpack_affine(const zmi_format *f, const void *block, int64_t k, int64_t lane, float *out);
static void unpack_float(const zmi_format *f, const void *block, int64_t k, int64_t lane, float *out);

static const struct codec {
  void (*pack)(const zmi_format *f, const zmi_stored_matrix *m, void *block, int64_t first); // rows from `first` on
  void (*unpack)(const zmi_format *f, const void *block, int64_t k, int64_t lane, float *out);
} codecs[ZMI_QUANT_MODE_COUNT] = {
    [ZMI_QUANT_NONE] = {pack_float, unpack_float},      [ZMI_QUANT_AFFINE] = {pack_affine, unpack_affine},
    [ZMI_QUANT_MXFP4] = {zmi_pack_fp4, zmi_unpack_fp4}, [ZMI_QUANT_MXFP8] = {zmi_pack_fp8, zmi_unpack_fp8},
    [ZMI_QUANT_NVFP4] = {zmi_pack_fp4, zmi_unpack_fp4},
};

void zmi_pack_blocks(const zmi_format *f, const zmi_stored_matrix *m, void *packed, int64_t begin, int64_t end) {
  size_t block_bytes = zmi_packed_block_bytes(f, m->k);
  for (int64_t b = begin; b < end; b++) codecs[f->mode].pack(f, m, (char *)packed + (size_t)b * block_bytes, b * ZMI_LANES);
}

void zmi_unpack_row(const zmi_format *f, const void *packed, int64_t k, int64_t row, float *out) {
  const char *block = (const char *)packed + (size_t)(row / ZMI_LANES) * zmi_packed_block_bytes(f, k);
  codecs[f->mode].unpack(f, block, k, row % ZMI_LANES, out);
}

// ---- back ----

// Four codes of one lane, k = 4 * quad .. 4 * quad + 3 of a unit of 32, one in each byte.
static uint32_t unpack_quad(const int *plane, const uint32_t *lane, int quad) {
  uint32_t codes = 0;
  for (int shift = 0; *plane; plane++) {
    int fields = 8 / *plane;
    uint32_t mask = ((1u << *plane) - 1) * 0x01010101u;
    codes |= (lane[quad / fields * ZMI_LANES] >> quad % fields * *plane & mask) << shift;
    shift += *plane;
    lane += *plane * ZMI_LANES;
  }
  return codes;
}

static void unpack_affine(const zmi_format *f, const void *block, int64_t k, int64_t lane, float *out) {
  const size_t code_bytes = (size_t)(f->group * f->bits) * ZMI_LANES / 8, scale_bytes = ZMI_LANES * zm_dtype_size((zm_dtype)f->dtype);
  const int *plane = zmi_planes(f->bits);
  for (int64_t at = 0; at < k; at += f->group) {
    const char *in = (const char *)block + (size_t)(at / f->group) * (code_bytes + 2 * scale_bytes);
    float scale = element(in + code_bytes, (zm_dtype)f->dtype, (size_t)lane);
    float bias = element(in + code_bytes + scale_bytes, (zm_dtype)f->dtype, (size_t)lane);
    for (int64_t quad = 0; quad < f->group / 4; quad++) {
      uint32_t c = unpack_quad(plane, (const uint32_t *)(const void *)in + quad / 8 * f->bits * ZMI_LANES + lane, (int)(quad % 8));
      for (int j = 0; j < 4; j++) out[at + 4 * quad + j] = __builtin_fmaf((float)(c >> 8 * j & 255u), scale, bias);
    }
  }
}

static void unpack_float(const zmi_format *f, const void *block, int64_t k, int64_t lane, float *out) {
  for (int64_t i = 0; i < k; i++) out[i] = element(block, (zm_dtype)f->dtype, (size_t)((i / 2 * ZMI_LANES + lane) * 2 + i % 2));
}

// ---- refusing what is not a number ----

// Whether all of n elements are finite: their exponents are not full.
static bool all_finite(const void *p, zm_dtype dtype, size_t n) {
  uint32_t found = 0;
  if (dtype == ZM_F32) {
    for (size_t i = 0; i < n; i++) {
      uint32_t x;
      memcpy(&x, (const char *)p + 4 * i, 4);
      found |= (x & 0x7f800000u) == 0x7f800000u;
    }
  } else {
    const uint16_t full = dtype == ZM_BF16 ? 0x7f80 : 0x7c00;
    uint16_t some = 0;
    for (size_t i = 0; i < n; i++) {
      uint16_t x;
      memcpy(&x, (const char *)p + 2 * i, 2);
      some |= (x & full) == full;
    }
    found = some;
  }
  return !found;
}

static zm_status check_finite(const void *p, const zmi_stored_matrix *m, int64_t groups, const char *what) {
  if (all_finite(p, m->stored, (size_t)(m->n * groups))) return ZM_OK;
  for (int64_t i = 0; i < m->n * groups; i++) {
    float v = element(p, m->stored, (size_t)i);
    if (v - v != 0) {
      return zmi_fail(ZM_ERROR_FORMAT, "%s of row %lld, group %lld is %s: the checkpoint is damaged, download or convert it again", what,
                      (long long)(i / groups), (long long)(i % groups), v != v ? "NaN" : "infinite");
    }
  }
  return ZM_OK;
}

zm_status zmi_stored_matrix_check(const zmi_format *f, const zmi_stored_matrix *m) {
  if (f->mode == ZMI_QUANT_NONE) return ZM_OK;
  if (f->mode != ZMI_QUANT_AFFINE) return zmi_check_numbers(f, m);
  int64_t groups = m->k / f->group;
  zm_status status = check_finite(m->scales, m, groups, "the scale");
  return status ? status : check_finite(m->biases, m, groups, "the bias");
}
