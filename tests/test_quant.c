// Weight formats: the packed form against the bit stream of a checkpoint for every width and group, quantization by MLX's CPU rule
// against a plain double version of it, float16 conversion, refusal of scales that are not numbers.
#include "quant/quant.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const int64_t widths[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};

static uint64_t state = 88172645463325252ull;
static uint64_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static float uniform(void) {
  return (float)((double)(next_random() >> 40) * 0x1p-23 - 1.0);
}

// Code i of a row, from the definition: bits [i b, (i + 1) b) of a little-endian stream.
static unsigned stream_code(const unsigned char *row, int64_t bits, int64_t i) {
  unsigned code = 0;
  for (int64_t b = 0; b < bits; b++) {
    int64_t at = i * bits + b;
    code |= (unsigned)(row[at / 8] >> (at % 8) & 1) << b;
  }
  return code;
}

// The same code in the packed form, from the words of quant.h's head comment.
static unsigned packed_code(const zmi_format *f, const unsigned char *block, int64_t lane, int64_t k) {
  const int64_t element = f->dtype == ZM_BF16 ? 2 : 4, group_bytes = f->group * f->bits * 2 + 32 * element;
  const unsigned char *unit = block + k / f->group * group_bytes + k % f->group / 32 * f->bits * 64;
  unsigned code = 0;
  int done = 0;
  for (const int *plane = zmi_planes(f->bits); *plane; plane++) {
    int64_t p = *plane, i = k % 32, word = i / (32 / p), field = i % (32 / p) / 4, byte = i % 4;
    code |= (unsigned)(unit[word * 64 + lane * 4 + byte] >> (field * p) & ((1 << p) - 1)) << done;
    done += (int)p;
    unit += p * 64;
  }
  return code;
}

static void random_bytes(void *p, size_t n) {
  for (size_t i = 0; i < n; i++) ((unsigned char *)p)[i] = (unsigned char)(next_random() >> 33);
}

// A stored affine matrix with random codes, and scales and biases of a dtype, at an odd address.
typedef struct matrix {
  unsigned char *memory;
  zmi_stored_matrix m;
} matrix;

static matrix make_matrix(int64_t bits, int64_t group, zm_dtype stored, int64_t n, int64_t k) {
  size_t codes = (size_t)(n * k * bits / 8), count = (size_t)(n * k / group), size = zm_dtype_size(stored);
  matrix r = {.memory = malloc(codes + 2 * count * size + 1)};
  assert_non_null(r.memory);
  unsigned char *at = r.memory + 1;
  random_bytes(at, codes);
  for (size_t i = 0; i < 2 * count; i++) {
    float v = uniform();
    uint16_t h = stored == ZM_BF16 ? zmi_f32_to_bf16(v) : zmi_f32_to_f16(v);
    memcpy(at + codes + i * size, size == 4 ? (void *)&v : (void *)&h, size);
  }
  r.m = (zmi_stored_matrix){at, at + codes, at + codes + count * size, stored, n, k};
  return r;
}

static float stored_value(const void *p, zm_dtype dtype, size_t i) {
  float v;
  uint16_t h;
  if (dtype == ZM_F32) {
    memcpy(&v, (const char *)p + 4 * i, 4);
    return v;
  }
  memcpy(&h, (const char *)p + 2 * i, 2);
  return dtype == ZM_BF16 ? zmi_bf16_to_f32(h) : zmi_f16_to_f32(h);
}

static void check_affine(const zmi_format *f, zm_dtype stored, int64_t n, int64_t k) {
  matrix a = make_matrix(f->bits, f->group, stored, n, k);
  size_t bytes;
  assert_true(zmi_packed_bytes(f, n, k, &bytes));
  assert_int_equal(bytes, (size_t)(n + 15) / 16 * zmi_packed_block_bytes(f, k));
  assert_int_equal(bytes % 64, 0);
  unsigned char *packed = malloc(bytes + 64);
  float *row = malloc((size_t)k * 4);
  assert_non_null(packed);
  assert_non_null(row);
  memset(packed, 0xee, bytes + 64);
  int64_t blocks = (n + 15) / 16;
  zmi_pack_blocks(f, &a.m, packed, blocks / 2, blocks); // in any order
  zmi_pack_blocks(f, &a.m, packed, 0, blocks / 2);
  for (int i = 0; i < 64; i++) assert_int_equal(packed[bytes + (size_t)i], 0xee);
  for (int64_t r = 0; r < blocks * 16; r++) {
    const unsigned char *block = packed + (size_t)(r / 16) * zmi_packed_block_bytes(f, k);
    zmi_unpack_row(f, packed, k, r, row);
    for (int64_t i = 0; i < k; i++) {
      unsigned code = r < n ? stream_code((const unsigned char *)a.m.weight + r * k * f->bits / 8, f->bits, i) : 0;
      assert_int_equal(packed_code(f, block, r % 16, i), code);
      float s = r < n ? stored_value(a.m.scales, stored, (size_t)(r * (k / f->group) + i / f->group)) : 0;
      float b = r < n ? stored_value(a.m.biases, stored, (size_t)(r * (k / f->group) + i / f->group)) : 0;
      assert_true(row[i] == fmaf((float)code, s, b));
    }
  }
  free(packed);
  free(row);
  free(a.memory);
}

static void packing_affine(void **context) {
  (void)context;
  static const zm_dtype stored[] = {ZM_BF16, ZM_F16, ZM_F32};
  for (size_t b = 0; b < ZMI_COUNT(widths); b++) {
    for (size_t g = 0; g < ZMI_COUNT(groups); g++) {
      for (size_t s = 0; s < ZMI_COUNT(stored); s++) {
        zmi_format f = {ZMI_QUANT_AFFINE, widths[b], groups[g], stored[s] == ZM_BF16 ? ZM_BF16 : ZM_F32, 0};
        static const int64_t rows[] = {16, 1, 37};
        check_affine(&f, stored[s], rows[s], groups[g] * (int64_t)(1 + s + b % 2));
      }
      const zmi_format f = {ZMI_QUANT_AFFINE, widths[b], groups[g], ZM_BF16, 0};
      check_affine(&f, ZM_BF16, 17, groups[g] * 11); // scales of several groups at a time, and a rest of them
    }
  }
}

static void packing_float(void **context) {
  (void)context;
  static const zm_dtype stored[] = {ZM_BF16, ZM_F16, ZM_F32, ZM_F32};
  static const int64_t sizes[][2] = {{16, 64}, {5, 7}, {33, 100}, {17, 1}};
  for (size_t s = 0; s < ZMI_COUNT(stored); s++) {
    for (size_t t = 0; t < ZMI_COUNT(sizes); t++) {
      zmi_format f = {ZMI_QUANT_NONE, 0, 0, stored[s] == ZM_BF16 || s == 3 ? ZM_BF16 : ZM_F32, 0}; // s == 3: rounded on the way
      int64_t n = sizes[t][0], k = sizes[t][1], blocks = (n + 15) / 16;
      size_t size = zm_dtype_size(stored[s]), bytes;
      unsigned char *w = malloc((size_t)(n * k) * size + 1);
      assert_non_null(w);
      for (int64_t i = 0; i < n * k; i++) {
        float v = uniform();
        uint16_t h = stored[s] == ZM_BF16 ? zmi_f32_to_bf16(v) : zmi_f32_to_f16(v);
        memcpy(w + 1 + (size_t)i * size, size == 4 ? (void *)&v : (void *)&h, size);
      }
      assert_true(zmi_packed_bytes(&f, n, k, &bytes));
      assert_int_equal(bytes % 64, 0);
      unsigned char *packed = malloc(bytes + 64);
      float row[128];
      assert_non_null(packed);
      memset(packed, 0xee, bytes + 64);
      zmi_stored_matrix m = {w + 1, NULL, NULL, stored[s], n, k};
      zmi_pack_blocks(&f, &m, packed, 0, blocks);
      for (int i = 0; i < 64; i++) assert_int_equal(packed[bytes + (size_t)i], 0xee);
      for (int64_t r = 0; r < blocks * 16; r++) {
        zmi_unpack_row(&f, packed, k, r, row);
        for (int64_t i = 0; i < k; i++) {
          float v = r < n ? stored_value(w + 1, stored[s], (size_t)(r * k + i)) : 0;
          if (s == 3) v = zmi_bf16_to_f32(zmi_f32_to_bf16(v));
          assert_true(row[i] == v);
          // {w[2j], w[2j+1]} of a lane side by side
          size_t at = (size_t)(((r % 16) + i / 2 * 16) * 2 + i % 2);
          assert_true(stored_value(packed + (size_t)(r / 16) * zmi_packed_block_bytes(&f, k), (zm_dtype)f.dtype, at) == v);
        }
        if (k % 2)
          assert_true(stored_value(packed + (size_t)(r / 16) * zmi_packed_block_bytes(&f, k), (zm_dtype)f.dtype,
                                   (size_t)((k / 2 * 16 + r % 16) * 2 + 1)) == 0);
      }
      free(packed);
      free(w);
    }
  }
}

// ---- quantization ----

// The rule of docs/numerics.md, with the platform's functions; float32 steps where the rule has them.
static void quantize_plain(int64_t bits, int64_t group, const float *w, unsigned *codes, float *scale, float *bias) {
  float n = (float)((1 << bits) - 1), low = INFINITY, high = -INFINITY;
  for (int64_t i = 0; i < group; i++) low = fminf(low, w[i]), high = fmaxf(high, w[i]);
  float s = fmaxf((high - low) / n, 1e-7f), b = 0;
  bool side = fabsf(low) > fabsf(high);
  if (!side) s = -s;
  float edge = side ? low : high, q0 = rintf(edge / s);
  if (q0 != 0) s = edge / q0, b = edge;
  for (int64_t i = 0; i < group; i++) codes[i] = (unsigned)fminf(fmaxf(rintf((w[i] - b) / s), 0), n);
  *scale = s;
  *bias = b;
}

static void quantizing(void **context) {
  (void)context;
  for (int round = 0; round < 200; round++) {
    int64_t bits = widths[(size_t)round % 6], group = groups[(size_t)round / 6 % 3];
    enum { N = 3 };
    float w[N * 256], scales[N * 8], biases[N * 8];
    uint32_t codes[N * 64];
    for (int i = 0; i < N * 256; i++) {
      float v = uniform();
      switch (round / 18 % 6) {
      case 1:
        v = 0;
        break;
      case 2:
        v = 3.25f;
        break; // constant
      case 3:
        v = fabsf(v) + 0.1f;
        break; // one sign
      case 4:
        v = -fabsf(v) - 0.1f;
        break; // the other
      case 5:
        v = rintf(v * 8) * (round & 1 ? 1e-9f : 1e9f);
        break; // tiny and huge, many ties
      default:
        break;
      }
      w[i] = v;
    }
    zmi_quantize_affine(bits, group, w, N, 256, codes, scales, biases);
    for (int64_t g = 0; g < N * 256 / group; g++) {
      unsigned expected[128];
      float s, b;
      quantize_plain(bits, group, w + g * group, expected, &s, &b);
      assert_true(scales[g] == s && biases[g] == b);
      for (int64_t i = 0; i < group; i++) {
        int64_t at = g * group + i;
        unsigned code = stream_code((unsigned char *)codes + at / 256 * 256 * bits / 8, bits, at % 256);
        assert_int_equal(code, expected[i]);
        float back = fmaf((float)code, s, b);
        if (round / 18 % 6 == 0) assert_true(fabsf(back - w[at]) <= 1.1f * fabsf(s));
      }
    }
  }
}

// What mx.quantize of MLX 0.32.4 gives on the CPU for the same numbers.
static void quantizing_known(void **context) {
  (void)context;
  static const struct {
    int64_t bits;
    float scale;
    uint32_t codes[6];
  } known[] = {{3, -0x1.9p0f, {0xf078ceaf, 0x50f19d5e, 0xa1e33abd}},
               {4, -0x1.9p-1f, {0x7d38e4af, 0x8e4af5b1, 0x9f5b06c2, 0xa06c28d3}},
               {6, -0x1.9p-3f, {0xa2e91a3f, 0x5b447332, 0x8383e6f9, 0xeb09ac48, 0xed8d93c4, 0xa4062f19}}};
  float w[32], s, b;
  uint32_t codes[6];
  for (int i = 0; i < 32; i++) w[i] = (float)(i * 37 % 101 - 50) / 8;
  for (size_t i = 0; i < ZMI_COUNT(known); i++) {
    zmi_quantize_affine(known[i].bits, 32, w, 1, 32, codes, &s, &b);
    assert_true(s == known[i].scale && b == 6.25f);
    assert_memory_equal(codes, known[i].codes, (size_t)known[i].bits * 4);
  }
}

// ---- float16 ----

static void float16(void **context) {
  (void)context;
  for (uint32_t h = 0; h < 65536; h++) {
    float v = zmi_f16_to_f32((uint16_t)h);
    unsigned e = h >> 10 & 31, fraction = h & 1023;
    double expected = e == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, (int)e - 25);
    if (e == 31) {
      assert_true(fraction ? isnan(v) : isinf(v));
      assert_int_equal(zmi_f32_to_f16(v), fraction ? 0x7e00 : h);
      continue;
    }
    assert_true((double)v == (h >> 15 ? -expected : expected) && signbit(v) == (int)(h >> 15 ? signbit(v) : 0));
    assert_int_equal(zmi_f32_to_f16(v), h);
    if (h >> 15 || e == 30) continue;
    float above = zmi_f16_to_f32((uint16_t)(h + 1)), middle = (v + above) / 2; // exact
    assert_int_equal(zmi_f32_to_f16(middle), h % 2 ? h + 1 : h);
    assert_int_equal(zmi_f32_to_f16(nextafterf(middle, 0)), h);
    assert_int_equal(zmi_f32_to_f16(-nextafterf(middle, INFINITY)), (h + 1) | 0x8000);
  }
  assert_int_equal(zmi_f32_to_f16(65519.99f), 0x7bff);
  assert_int_equal(zmi_f32_to_f16(65520.0f), 0x7c00);
  assert_int_equal(zmi_f32_to_f16(-1e30f), 0xfc00);
  assert_int_equal(zmi_f32_to_f16(1e-30f), 0);
  assert_int_equal(zmi_f32_to_bf16(NAN), 0x7fc0);
  assert_int_equal(zmi_f32_to_bf16(-INFINITY), 0xff80);
  assert_int_equal(zmi_f32_to_bf16(3.4e38f), 0x7f80);
}

// ---- checks ----

static void formats(void **context) {
  (void)context;
  char text[64];
  zmi_format f = {ZMI_QUANT_AFFINE, 4, 64, ZM_BF16, 0};
  assert_int_equal(zmi_format_check(&f), ZM_OK);
  assert_string_equal(zmi_format_text(&f, text), "affine 4-bit g64");
  static const struct {
    zmi_format f;
    zm_status status;
    const char *word;
  } bad[] = {{{ZMI_QUANT_AFFINE, 7, 64, ZM_BF16, 0}, ZM_ERROR_FORMAT, "7 bits"},
             {{ZMI_QUANT_AFFINE, -1, 64, ZM_BF16, 0}, ZM_ERROR_FORMAT, "-1 bits"},
             {{ZMI_QUANT_AFFINE, 1000, 64, ZM_BF16, 0}, ZM_ERROR_FORMAT, "1000 bits"},
             {{ZMI_QUANT_AFFINE, 4, 48, ZM_BF16, 0}, ZM_ERROR_FORMAT, "48"},
             {{ZMI_QUANT_AFFINE, 4, 0, ZM_BF16, 0}, ZM_ERROR_FORMAT, "groups of 0"},
             {{ZMI_QUANT_MXFP4, 4, 64, ZM_BF16, 0}, ZM_ERROR_FORMAT, "must be 32"},
             {{ZMI_QUANT_MXFP8, 4, 32, ZM_BF16, 0}, ZM_ERROR_FORMAT, "must be 8"},
             {{ZMI_QUANT_NVFP4, 4, 32, ZM_BF16, 0}, ZM_ERROR_FORMAT, "must be 16"},
             {{99, 4, 32, ZM_BF16, 0}, ZM_ERROR_ARGUMENT, "99"},
             {{-1, 4, 32, ZM_BF16, 0}, ZM_ERROR_ARGUMENT, "-1"},
             {{ZMI_QUANT_AFFINE, 4, 64, ZM_F16, 0}, ZM_ERROR_ARGUMENT, "float16"}};
  for (size_t i = 0; i < ZMI_COUNT(bad); i++) {
    assert_int_equal(zmi_format_check(&bad[i].f), bad[i].status);
    assert_non_null(strstr(zm_last_error(), bad[i].word));
  }
  f = (zmi_format){ZMI_QUANT_NONE, 0, 0, ZM_BF16, 0};
  assert_int_equal(zmi_format_check(&f), ZM_OK);
  assert_string_equal(zmi_format_text(&f, text), "bfloat16");
  for (int i = 0; i < ZMI_QUANT_MODE_COUNT; i++) assert_int_equal(zmi_quant_mode_find(zmi_quant_mode_name(i)), i);
  assert_int_equal(zmi_quant_mode_find("gguf"), -1);
  size_t bytes;
  assert_true(!zmi_packed_bytes(&f, INT64_MAX, 1 << 20, &bytes) && !zmi_packed_bytes(&f, 1 << 20, INT64_MAX, &bytes));
  assert_true(!zmi_packed_bytes(&f, -1, 64, &bytes) && !zmi_packed_bytes(&f, (int64_t)1 << 40, (int64_t)1 << 40, &bytes));
}

static void refusing(void **context) {
  (void)context;
  static const zm_dtype stored[] = {ZM_BF16, ZM_F16, ZM_F32};
  for (size_t s = 0; s < ZMI_COUNT(stored); s++) {
    zmi_format f = {ZMI_QUANT_AFFINE, 4, 32, stored[s] == ZM_BF16 ? ZM_BF16 : ZM_F32, 0};
    matrix a = make_matrix(4, 32, stored[s], 5, 96);
    assert_int_equal(zmi_stored_matrix_check(&f, &a.m), ZM_OK);
    size_t size = zm_dtype_size(stored[s]);
    static const uint32_t nan[] = {0x7fc0, 0x7e01, 0x7fc00000u}, infinite[] = {0xff80, 0x7c00, 0xff800000u};
    unsigned char kept[4];
    void *scale = (char *)(uintptr_t)a.m.scales + 10 * size, *bias = (char *)(uintptr_t)a.m.biases + 14 * size; // rows 3 and 4
    memcpy(kept, scale, size);
    memcpy(scale, &nan[s], size);
    assert_int_equal(zmi_stored_matrix_check(&f, &a.m), ZM_ERROR_FORMAT);
    assert_non_null(strstr(zm_last_error(), "scale of row 3, group 1 is NaN"));
    memcpy(scale, kept, size);
    memcpy(bias, &infinite[s], size);
    assert_int_equal(zmi_stored_matrix_check(&f, &a.m), ZM_ERROR_FORMAT);
    assert_non_null(strstr(zm_last_error(), "bias of row 4, group 2 is infinite"));
    free(a.memory);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(packing_affine), cmocka_unit_test(packing_float), cmocka_unit_test(quantizing), cmocka_unit_test(quantizing_known),
      cmocka_unit_test(float16),        cmocka_unit_test(formats),       cmocka_unit_test(refusing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
