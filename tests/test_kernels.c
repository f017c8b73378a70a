// Every tier against the scalar one, bit by bit: random and nasty numbers (zeros, denormals, huge, NaN, infinity), odd sizes, one row
// against several, guard bytes around every output. NaNs are equal whatever their sign and payload.
#include "backend/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { GUARD = 64, LONGEST = 4096 };

static uint64_t state;
static uint64_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static float float_of(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// ---- numbers: each kind is a way to be nasty ----

typedef enum nature { PLAIN, WIDE, BITS, TINY, SPARSE, BROKEN, KINDS } nature;
static const char *const kind_names[KINDS] = {"plain", "wide", "any bits", "tiny", "sparse", "broken"};

static float number(nature kind) {
  uint64_t r = next_random();
  uint32_t sign = (uint32_t)(r >> 63) << 31, fraction = (uint32_t)r & 0x7fffffu, pick = (uint32_t)(r >> 32) & 0xffffu;
  switch (kind) {
  case PLAIN:
    return float_of(sign | (117 + pick % 12) << 23 | fraction);
  case WIDE:
    return float_of(sign | (1 + pick % 200) << 23 | fraction);
  case BITS:
    return float_of((pick % 254) << 23 | sign | fraction);
  case TINY:
    return float_of(sign | (pick % 40) << 23 | fraction); // denormals among them
  case SPARSE:
    return pick % 5 ? float_of(sign) : float_of(sign | (120 + pick % 8) << 23 | fraction);
  default:
    return pick % 97  ? float_of(sign | (100 + pick % 40) << 23 | fraction)
           : pick & 1 ? float_of(sign | 0x7f800000u)
                      : float_of(sign | 0x7f800001u | fraction);
  }
}

static size_t put_number(zm_dtype dtype, void *p, size_t i, float v) {
  if (dtype == ZM_F32) {
    memcpy((char *)p + 4 * i, &v, 4);
    return 4;
  }
  uint16_t h = dtype == ZM_BF16 ? zmi_f32_to_bf16(v) : zmi_f32_to_f16(v);
  memcpy((char *)p + 2 * i, &h, 2);
  return 2;
}

static void fill(zm_dtype dtype, void *p, int64_t n, nature kind) {
  for (int64_t i = 0; i < n; i++) put_number(dtype, p, (size_t)i, number(kind));
}

// ---- buffers with guards; the end of the contents is the end of what a kernel may touch ----

typedef struct buffer {
  unsigned char *memory, *data;
  size_t size;
} buffer;

static buffer make(size_t size) {
  buffer b = {.size = size};
  size_t all = (GUARD + size + GUARD + 63) / 64 * 64;
  b.memory = aligned_alloc(64, all);
  assert_non_null(b.memory);
  memset(b.memory, 0xa5, all);
  b.data = b.memory + GUARD;
  return b;
}

static void drop(buffer *b) {
  for (size_t i = 0; i < GUARD; i++) {
    assert_int_equal(b->memory[i], 0xa5);
    assert_int_equal(b->data[b->size + i], 0xa5);
  }
  free(b->memory);
}

static bool same_float(float a, float b) {
  return (a != a && b != b) || memcmp(&a, &b, 4) == 0;
}

static void assert_same(const char *what, const char *tier, const char *detail, const void *got, const void *expected, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    float a, b;
    memcpy(&a, (const char *)got + 4 * i, 4);
    memcpy(&b, (const char *)expected + 4 * i, 4);
    if (!same_float(a, b))
      fail_msg("%s, %s, %s: element %lld is %a, scalar has %a", what, tier, detail, (long long)i, (double)a, (double)b);
  }
}

// ---- running a check over all tiers ----

typedef void (*check_fn)(const zmi_kernels *scalar, const zmi_kernels *tier);

#if defined(__x86_64__)
extern const zmi_kernels zmi_kernels_avx2vnni_defined; // tests/meson.build
#endif

static void all_tiers(check_fn check) {
  unsigned saved = zmi_float_rule_enter();
  for (size_t i = 0; i < zmi_tier_count(); i++) {
    const char *why;
    if (!zmi_tier_supported(i, &why)) {
      print_message("# %s is not tested here: %s\n", zmi_tier(i)->name, why);
      continue;
    }
    state = 88172645463325252ull;
    check(zmi_tier(0), zmi_tier(i));
#if defined(__x86_64__)
    state = 88172645463325252ull;
    if (strcmp(zmi_tier(i)->name, "avx2") == 0) check(zmi_tier(0), &zmi_kernels_avx2vnni_defined);
#endif
  }
  zmi_float_rule_leave(saved);
}

// The one result that processors differ in (docs/numerics.md): 2^-126 - 2^-152, which rounds to the smallest normal number.
static void float_rule_at_the_border(void **context) {
  (void)context;
  unsigned saved = zmi_float_rule_enter();
  volatile float a = 0x1.0008p-63f, b = 0x1.fffp-64f, below = 0x1.fffffep-64f, half = 0x1p-63f, denormal = 0x1p-130f;
  volatile float border = a * b, fused = fmaf(a, b, 0.0f), under = below * half, kept = denormal * 0x1p100f; // before the rule is left
  volatile bool equal = denormal == 0.0f;
  zmi_float_rule_leave(saved);
#if defined(__aarch64__)
  const float expected = 0;
#else
  const float expected = 0x1p-126f;
#endif
  assert_true(same_float(border, expected));
  assert_true(same_float(fused, expected));
  assert_true(same_float(under, 0)); // 2^-126 - 2^-150: a denormal however it is rounded
  assert_true(same_float(kept, 0));  // denormal operands count as zero
  assert_true(equal);
}

// ---- digits ----

static void check_digits(const zmi_kernels *scalar, const zmi_kernels *tier) {
  static const int64_t groups[] = {16, 32, 64, 128};
  for (int round = 0; round < 400; round++) {
    nature kind = (nature)(round % KINDS);
    int64_t group = groups[round % 4], k = group * (int64_t)(1 + next_random() % 12);
    buffer x = make((size_t)k * 4), a = make(zmi_digits_bytes(k, group, 3)), b = make(zmi_digits_bytes(k, group, 3));
    fill(ZM_F32, x.data, k, kind);
    scalar->digits((float *)(void *)x.data, k, group, 3, a.data);
    tier->digits((float *)(void *)x.data, k, group, 3, b.data);
    assert_memory_equal(a.data, b.data, (size_t)(3 * k + 20 * k / group));
    // What the digits stand for: within half a unit of x, and the exact sum.
    const float *scale = (float *)(void *)(a.data + 3 * k), *sum = scale + k / group;
    for (int64_t g = 0; g < k / group; g++) {
      const int8_t *d = (int8_t *)a.data + 3 * g * group;
      double total = 0, most = 0;
      bool broken = false;
      for (int64_t i = 0; i < group; i++) {
        float v = ((float *)(void *)x.data)[g * group + i];
        double X = 65536.0 * d[i] + 256.0 * d[group + i] + d[2 * group + i];
        total += X;
        most = fmax(most, fabs(X));
        broken |= !isfinite(v);
        if (isfinite(v) && isfinite(scale[g]) && fabsf(v) >= 0x1p-126f)
          assert_true(fabs(X * (double)scale[g] - (double)v) <= 0.5 * (double)scale[g]);
      }
      assert_true(broken == (scale[g] != scale[g]));
      if (broken) {
        assert_true(most == 0 && sum[g] != sum[g]);
        continue;
      }
      const int32_t *part = (const int32_t *)(const void *)(sum + k / group) + 3 * g;
      for (int p = 0; p < 3; p++) {
        int32_t all = 0;
        for (int64_t i = 0; i < group; i++) all += d[p * group + i];
        assert_int_equal(part[p], all);
      }
      assert_true(same_float(sum[g], (float)total * scale[g]));
      assert_true(scale[g] == 0 || scale[g] == 0x1p-126f || (most >= 4177856 && most <= 8355711));
    }
    drop(&x), drop(&a), drop(&b);
  }
}

// One byte an element: within a little more than half of a 127th of the group's largest, which is itself +-127.
static void check_one_digit(const zmi_kernels *scalar, const zmi_kernels *tier) {
  static const int64_t groups[] = {16, 32, 64, 128};
  for (int round = 0; round < 400; round++) {
    nature kind = (nature)(round % KINDS);
    int64_t group = groups[round % 4], k = group * (int64_t)(1 + next_random() % 12);
    buffer x = make((size_t)k * 4), a = make(zmi_digits_bytes(k, group, 1)), b = make(zmi_digits_bytes(k, group, 1));
    fill(ZM_F32, x.data, k, kind);
    scalar->digits((float *)(void *)x.data, k, group, 1, a.data);
    tier->digits((float *)(void *)x.data, k, group, 1, b.data);
    assert_memory_equal(a.data, b.data, (size_t)(k + 12 * k / group));
    const float *scale = (float *)(void *)(a.data + k), *sum = scale + k / group;
    const int32_t *part = (const int32_t *)(const void *)(sum + k / group);
    for (int64_t g = 0; g < k / group; g++) {
      const int8_t *d = (int8_t *)a.data + g * group;
      const float *v = (float *)(void *)x.data + g * group;
      int32_t total = 0, most = 0;
      bool broken = false;
      float largest = 0;
      for (int64_t i = 0; i < group; i++) {
        total += d[i];
        most = ZMI_MAX(most, abs(d[i]));
        broken |= !isfinite(v[i]);
        largest = fmaxf(largest, fabsf(v[i]));
      }
      assert_true(broken == (scale[g] != scale[g]) && part[g] == total);
      if (broken || largest < 0x1p-100f) {
        assert_true(most == 0 && (broken ? sum[g] != sum[g] : scale[g] == 0 && sum[g] == 0));
        continue;
      }
      assert_int_equal(most, 127);
      assert_true(same_float(scale[g], largest / 127.0f) && same_float(sum[g], (float)total * scale[g]));
      for (int64_t i = 0; i < group; i++) assert_true(fabs(d[i] * (double)scale[g] - (double)v[i]) <= 0.50004 * (double)scale[g]);
    }
    drop(&x), drop(&a), drop(&b);
  }
}

static void digits(void **context) {
  (void)context;
  all_tiers(check_digits);
  all_tiers(check_one_digit);
}

// The exponent is the smallest that three digits can hold: numbers next to the border between two exponents.
static void digits_border(void **context) {
  (void)context;
  unsigned saved = zmi_float_rule_enter();
  buffer out = make(zmi_digits_bytes(32, 32, 3));
  for (int e = -100; e < 100; e += 7) {
    for (int64_t mantissa = 16711418; mantissa < 16711428; mantissa++) {
      float x[32] = {0};
      x[3] = (float)ldexp((double)mantissa, e);
      zmi_tier(0)->digits(x, 32, 32, 3, out.data);
      float scale = *(float *)(void *)(out.data + 96);
      assert_true(scale == (float)ldexp(1, mantissa <= 16711422 ? e + 1 : e + 2)); // 16711423 / 2 rounds to 8355712, one too much
    }
  }
  drop(&out);
  zmi_float_rule_leave(saved);
}

// ---- affine dot products ----

typedef struct digit_rows {
  buffer digits[ZMI_ROWS];
  const void *pointers[ZMI_ROWS];
} digit_rows;

// One to four rows together, alone, and block by block: the bits of the scalar tier, and nothing written past them.
static void check_dot(const zmi_kernels *scalar, const zmi_kernels *tier, const zmi_format *f, const unsigned char *w, int64_t k,
                      int64_t blocks, const void *const *rows, const char *kind) {
  char name[64], detail[160];
  int64_t ldy = blocks * 16 + 3;
  for (int count = 1; count <= ZMI_ROWS; count++) {
    buffer a = make((size_t)(count * ldy - 3) * 4), b = make((size_t)(count * ldy - 3) * 4), one = make((size_t)blocks * 64);
    scalar->dot[f->mode](f, w, blocks, k, count, rows, ZM_F32, (float *)(void *)a.data, ldy);
    tier->dot[f->mode](f, w, blocks, k, count, rows, ZM_F32, (float *)(void *)b.data, ldy);
    snprintf(detail, sizeof detail, "%s, k %lld, %lld blocks, %d rows, %s", zmi_format_text(f, name), (long long)k, (long long)blocks,
             count, kind);
    for (int m = 0; m < count; m++) {
      assert_same("dot", tier->name, detail, b.data + 4 * m * ldy, a.data + 4 * m * ldy, blocks * 16);
      tier->dot[f->mode](f, w, blocks, k, 1, rows + m, ZM_F32, (float *)(void *)one.data, ldy);
      assert_same("dot alone", tier->name, detail, one.data, a.data + 4 * m * ldy, blocks * 16);
      if (m + 1 < count) assert_memory_equal(b.data + 4 * (m * ldy + blocks * 16), "\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5", 12);
    }
    for (int64_t i = 0; i < blocks; i++) { // block by block as in a run
      tier->dot[f->mode](f, w + (size_t)i * zmi_packed_block_bytes(f, k), 1, k, 1, rows, ZM_F32, (float *)(void *)one.data, ldy);
      assert_same("dot of one block", tier->name, detail, one.data, a.data + 64 * i, 16);
    }
    drop(&a), drop(&b), drop(&one);
  }
}

static void affine_case(const zmi_kernels *scalar, const zmi_kernels *tier, const zmi_format *f, int64_t k, int64_t blocks, nature kind) {
  buffer x = make((size_t)k * 4), w = make((size_t)blocks * zmi_packed_block_bytes(f, k));
  digit_rows r;
  for (int m = 0; m < ZMI_ROWS; m++) {
    r.digits[m] = make(zmi_digits_bytes(k, f->group, zmi_format_digits(f)));
    fill(ZM_F32, x.data, k, kind);
    scalar->digits((float *)(void *)x.data, k, f->group, zmi_format_digits(f), r.digits[m].data);
    r.pointers[m] = r.digits[m].data;
  }
  for (size_t i = 0; i < w.size; i++) w.data[i] = (unsigned char)(next_random() >> 20);
  size_t codes = (size_t)(f->group * f->bits * 2), size = zm_dtype_size((zm_dtype)f->dtype);
  for (size_t g = 0; g < w.size; g += codes + 32 * size) fill((zm_dtype)f->dtype, w.data + g + codes, 32, kind == BROKEN ? WIDE : kind);
  if (next_random() % 4 == 0) { // the largest codes and digits: nothing may overflow
    for (size_t g = 0; g < w.size; g += codes + 32 * size) memset(w.data + g, 0xff, codes);
    for (int m = 0; m < ZMI_ROWS; m++) {
      const int8_t digit = m % 2 ? 127 : -128;
      const int64_t planes = zmi_format_digits(f), groups = k / f->group;
      int32_t *part = (int32_t *)(void *)(r.digits[m].data + planes * k + 8 * groups);
      memset(r.digits[m].data, (uint8_t)digit, (size_t)(planes * k));
      for (int64_t i = 0; i < planes * groups; i++) part[i] = digit * (int32_t)f->group;
    }
  }
  check_dot(scalar, tier, f, w.data, k, blocks, r.pointers, kind_names[kind]);
  drop(&x), drop(&w);
  for (int m = 0; m < ZMI_ROWS; m++) drop(&r.digits[m]);
}

static void check_affine(const zmi_kernels *scalar, const zmi_kernels *tier) {
  static const int64_t widths[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
  for (size_t b = 0; b < ZMI_COUNT(widths); b++) {
    for (size_t g = 0; g < ZMI_COUNT(groups); g++) {
      for (int i = 0; i < 2 * KINDS; i++) {
        for (int64_t one = 0; one < 2; one++) {
          zmi_format f = {ZMI_QUANT_AFFINE, widths[b], groups[g], i < KINDS ? ZM_BF16 : ZM_F32, one};
          affine_case(scalar, tier, &f, groups[g] * (int64_t)(1 + next_random() % 9), (int64_t)(1 + next_random() % 2),
                      (nature)(i % KINDS));
        }
      }
    }
  }
  for (int64_t one = 0; one < 2; one++) { // more groups than a row alone has made ready at a time
    const zmi_format f = {ZMI_QUANT_AFFINE, 4, 32, ZM_BF16, one};
    affine_case(scalar, tier, &f, 32 * 1027, 2, PLAIN);
  }
}

static void dot_affine(void **context) {
  (void)context;
  all_tiers(check_affine);
}

// What digits stand for: the row that products with exact sums take, in float64.
static void digit_values(const unsigned char *digits, int64_t k, int64_t group, double *values) {
  const float *scale = (const float *)(const void *)(digits + k);
  for (int64_t i = 0; i < k; i++) values[i] = ((const int8_t *)digits)[i] * (double)scale[i / group];
}

// The formula of docs/numerics.md once more, from unpacked weights, in float64: the integer order is as accurate as float32. Of one digit:
// accurate for what the digits stand for.
static void affine_accuracy_of(int64_t one) {
  unsigned saved = zmi_float_rule_enter();
  enum { N = 16, LENGTH = 1024 };
  state = 12345;
  for (int round = 0; round < 12; round++) {
    static const int64_t widths[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
    zmi_format f = {ZMI_QUANT_AFFINE, widths[round % 6], groups[round % 3], ZM_F32, one};
    static double values[LENGTH];
    static float w[N * LENGTH], unpacked[LENGTH], x[LENGTH];
    static uint32_t codes[N * LENGTH];
    static float scales[N * LENGTH / 32], biases[N * LENGTH / 32];
    for (int i = 0; i < N * LENGTH; i++) w[i] = number(PLAIN);
    for (int i = 0; i < LENGTH; i++) x[i] = number(PLAIN);
    zmi_quantize_affine(f.bits, f.group, w, N, LENGTH, codes, scales, biases);
    buffer packed = make(zmi_packed_block_bytes(&f, LENGTH)), digits = make(zmi_digits_bytes(LENGTH, f.group, zmi_format_digits(&f)));
    zmi_stored_matrix m = {codes, scales, biases, ZM_F32, N, LENGTH};
    zmi_pack_blocks(&f, &m, packed.data, 0, 1);
    zmi_tier(0)->digits(x, LENGTH, f.group, zmi_format_digits(&f), digits.data);
    for (int i = 0; i < LENGTH; i++) values[i] = (double)x[i];
    if (one) digit_values(digits.data, LENGTH, f.group, values);
    float y[16];
    const void *pointer = digits.data;
    zmi_tier(0)->dot[ZMI_QUANT_AFFINE](&f, packed.data, 1, LENGTH, 1, &pointer, ZM_F32, y, 16);
    for (int n = 0; n < N; n++) {
      double sum = 0, magnitude = 0;
      zmi_unpack_row(&f, packed.data, LENGTH, n, unpacked);
      for (int i = 0; i < LENGTH; i++) sum += (double)unpacked[i] * values[i], magnitude += fabs((double)unpacked[i] * values[i]);
      assert_true(fabs(sum - (double)y[n]) <= 4e-7 * magnitude);
    }
    drop(&packed), drop(&digits);
  }
  zmi_float_rule_leave(saved);
}

static void affine_accuracy(void **context) {
  (void)context;
  affine_accuracy_of(0);
  affine_accuracy_of(1);
}

// ---- dot products of numbers of 4 and 8 bits ----

// The sums of digits that belong to digits put there by hand.
static void sum_digits(unsigned char *digits, int64_t k, int64_t group, int count) {
  int32_t *part = (int32_t *)(void *)(digits + count * k + 8 * (k / group));
  for (int64_t i = 0; i < count * (k / group); i++) {
    part[i] = 0;
    for (int64_t j = 0; j < group; j++) part[i] += (int8_t)digits[i * group + j];
  }
}

static void number_case(const zmi_kernels *scalar, const zmi_kernels *tier, const zmi_format *f, int64_t k, int64_t blocks, nature kind) {
  const bool eight = f->mode == ZMI_QUANT_MXFP8;
  const size_t codes = zmi_packed_code_bytes(f, k), whole = zmi_packed_block_bytes(f, k);
  buffer x = make((size_t)k * 4), w = make((size_t)blocks * whole), rows[ZMI_ROWS];
  const void *pointers[ZMI_ROWS];
  for (size_t i = 0; i < w.size; i++) {
    const unsigned char v = (unsigned char)(next_random() >> 20);
    const bool scale = i % whole >= codes;
    w.data[i] = (scale && f->mode != ZMI_QUANT_NVFP4) || (!eight && !scale) || (v & 127) != 127 ? v : 0x7e; // no NaN
    if (scale && f->mode != ZMI_QUANT_NVFP4) w.data[i] = (unsigned char)(kind == PLAIN ? 110 + v % 20 : v % 255);
  }
  const bool extreme = next_random() % 4 == 0; // the largest codes and digits: nothing may overflow
  for (int64_t b = 0; b < blocks && extreme; b++) memset(w.data + (size_t)b * whole, eight ? 0x7e : b % 2 ? 0xff : 0x77, codes);
  for (int m = 0; m < ZMI_ROWS; m++) {
    rows[m] = make(eight ? (size_t)k * 4 : zmi_digits_bytes(k, f->group, zmi_format_digits(f)));
    fill(ZM_F32, x.data, k, kind);
    if (eight)
      memcpy(rows[m].data, x.data, (size_t)k * 4);
    else
      scalar->digits((float *)(void *)x.data, k, f->group, zmi_format_digits(f), rows[m].data);
    if (extreme && !eight) {
      memset(rows[m].data, m % 2 ? 0x7f : 0x80, (size_t)(zmi_format_digits(f) * k));
      sum_digits(rows[m].data, k, f->group, zmi_format_digits(f));
    }
    pointers[m] = rows[m].data;
  }
  check_dot(scalar, tier, f, w.data, k, blocks, pointers, kind_names[kind]);
  drop(&x), drop(&w);
  for (int m = 0; m < ZMI_ROWS; m++) drop(&rows[m]);
}

static const zmi_format number_formats[] = {{ZMI_QUANT_MXFP4, 4, 32, ZM_BF16, 0},
                                            {ZMI_QUANT_NVFP4, 4, 16, ZM_BF16, 0},
                                            {ZMI_QUANT_MXFP8, 8, 32, ZM_BF16, 0},
                                            {ZMI_QUANT_MXFP4, 4, 32, ZM_BF16, 1},
                                            {ZMI_QUANT_NVFP4, 4, 16, ZM_BF16, 1}};

static void check_numbers(const zmi_kernels *scalar, const zmi_kernels *tier) {
  for (size_t i = 0; i < ZMI_COUNT(number_formats); i++) {
    const zmi_format *f = &number_formats[i];
    for (int j = 0; j < 6 * KINDS; j++) {
      number_case(scalar, tier, f, f->group * (int64_t)(1 + next_random() % 19), (int64_t)(1 + next_random() % 2), (nature)(j % KINDS));
    }
    number_case(scalar, tier, f, f->group * 1027, 2, PLAIN); // more groups than a row alone has made ready at a time
  }
}

static void dot_numbers(void **context) {
  (void)context;
  all_tiers(check_numbers);
}

// Against float64 over unpacked weights, from the checkpoint's form on: rows that do not fill a block too.
static void number_accuracy(void **context) {
  (void)context;
  enum { N = 21, LENGTH = 1056 };
  unsigned saved = zmi_float_rule_enter();
  for (size_t i = 0; i < ZMI_COUNT(number_formats); i++) {
    const zmi_format *f = &number_formats[i];
    const int64_t groups = LENGTH / f->group;
    static float x[LENGTH], unpacked[LENGTH], w[N * LENGTH];
    static uint32_t codes[N * LENGTH / 4];
    static uint8_t scales[N * LENGTH / 16];
    for (int j = 0; j < LENGTH; j++) x[j] = number(PLAIN);
    for (int j = 0; j < N * LENGTH; j++) w[j] = number(PLAIN);
    const zmi_float_quantizer q = {f->bits, f->group, ZM_F32, 1, log2};
    zmi_quantize_floats(&q, w, N * groups, codes, scales);
    const zmi_stored_matrix m = {codes, scales, NULL, ZM_BF16, N, LENGTH};
    assert_int_equal(zmi_stored_matrix_check(f, &m), ZM_OK);
    buffer packed = make(2 * zmi_packed_block_bytes(f, LENGTH)), digits = make(zmi_digits_bytes(LENGTH, f->group, zmi_format_digits(f)));
    static double values[LENGTH];
    zmi_pack_blocks(f, &m, packed.data, 0, 2);
    zmi_tier(0)->digits(x, LENGTH, f->group, zmi_format_digits(f), digits.data);
    for (int j = 0; j < LENGTH; j++) values[j] = (double)x[j];
    if (f->digits) digit_values(digits.data, LENGTH, f->group, values);
    const void *row = f->mode == ZMI_QUANT_MXFP8 ? (const void *)x : digits.data;
    float y[32];
    zmi_tier(0)->dot[f->mode](f, packed.data, 2, LENGTH, 1, &row, ZM_F32, y, 32);
    for (int n = 0; n < 32; n++) {
      double sum = 0, magnitude = 0;
      float plain[LENGTH];
      zmi_unpack_row(f, packed.data, LENGTH, n, unpacked);
      if (n < N) {
        zmi_decode_floats(f, &m, n, 0, LENGTH, plain);
        assert_memory_equal(unpacked, plain, sizeof plain);
      }
      for (int j = 0; j < LENGTH; j++) {
        sum += (double)unpacked[j] * values[j], magnitude += fabs((double)unpacked[j] * values[j]);
        if (n >= N) assert_true(unpacked[j] == 0); // rows past the last one
      }
      assert_true(fabs(sum - (double)y[n]) <= 4e-7 * magnitude);
    }
    drop(&packed), drop(&digits);
  }
  zmi_float_rule_leave(saved);
}

// ---- float dot products ----

static void check_float(const zmi_kernels *scalar, const zmi_kernels *tier) {
  static const int64_t sizes[] = {1, 2, 3, 7, 64, 255, 256, 257, 511, 512, 513, 640, 1111};
  static const zm_dtype dtypes[] = {ZM_BF16, ZM_F32};
  for (int i = 0; i < 4 * (int)ZMI_COUNT(sizes) * KINDS; i++) {
    nature kind = (nature)(i % KINDS);
    zmi_format f = {ZMI_QUANT_NONE, 0, 0, dtypes[i / KINDS % 2], 0};
    zm_dtype x_dtype = dtypes[i / KINDS / 2 % 2];
    int64_t k = sizes[(size_t)i / KINDS / 4], blocks = (int64_t)(1 + next_random() % 2), ldy = blocks * 16 + 1;
    buffer w = make((size_t)blocks * zmi_packed_block_bytes(&f, k)), x[ZMI_ROWS];
    const void *pointers[ZMI_ROWS];
    char detail[160];
    fill((zm_dtype)f.dtype, w.data, (int64_t)(w.size / zm_dtype_size((zm_dtype)f.dtype)), kind);
    for (int m = 0; m < ZMI_ROWS; m++) {
      x[m] = make((size_t)k * zm_dtype_size(x_dtype));
      fill(x_dtype, x[m].data, k, kind);
      pointers[m] = x[m].data;
    }
    for (int count = 1; count <= ZMI_ROWS; count++) {
      buffer a = make((size_t)(count * ldy - 1) * 4), b = make((size_t)(count * ldy - 1) * 4), one = make((size_t)blocks * 64);
      scalar->dot[f.mode](&f, w.data, blocks, k, count, pointers, x_dtype, (float *)(void *)a.data, ldy);
      tier->dot[f.mode](&f, w.data, blocks, k, count, pointers, x_dtype, (float *)(void *)b.data, ldy);
      snprintf(detail, sizeof detail, "%s x %s, k %lld, %lld blocks, %d rows, %s", zm_dtype_name((zm_dtype)f.dtype), zm_dtype_name(x_dtype),
               (long long)k, (long long)blocks, count, kind_names[kind]);
      for (int m = 0; m < count; m++) {
        assert_same("dot_float", tier->name, detail, b.data + 4 * m * ldy, a.data + 4 * m * ldy, blocks * 16);
        tier->dot[f.mode](&f, w.data, blocks, k, 1, pointers + m, x_dtype, (float *)(void *)one.data, ldy);
        assert_same("dot_float alone", tier->name, detail, one.data, a.data + 4 * m * ldy, blocks * 16);
      }
      drop(&a), drop(&b), drop(&one);
    }
    drop(&w);
    for (int m = 0; m < ZMI_ROWS; m++) drop(&x[m]);
  }
}

static void dot_float(void **context) {
  (void)context;
  all_tiers(check_float);
}

// ---- row helpers ----

static const zm_dtype float_dtypes[] = {ZM_BF16, ZM_F16, ZM_F32};

static void check_conversions(const zmi_kernels *scalar, const zmi_kernels *tier) {
  for (size_t t = 0; t < ZMI_COUNT(float_dtypes); t++) { // every 16-bit number, and float32 of all kinds
    zm_dtype dtype = float_dtypes[t];
    enum { ALL = 65536 };
    buffer half = make((size_t)ALL * zm_dtype_size(dtype)), a = make(ALL * 4), b = make(ALL * 4);
    for (uint32_t i = 0; i < ALL; i++) {
      if (dtype == ZM_F32)
        put_number(ZM_F32, half.data, i, number((nature)(i % KINDS)));
      else
        memcpy(half.data + 2 * i, &(uint16_t){(uint16_t)i}, 2);
    }
    scalar->load(half.data, dtype, ALL, (float *)(void *)a.data);
    tier->load(half.data, dtype, ALL, (float *)(void *)b.data);
    assert_memory_equal(a.data, b.data, ALL * 4);
    drop(&half), drop(&a), drop(&b);
  }
  for (int round = 0; round < 400; round++) {
    zm_dtype dtype = float_dtypes[round % 3];
    int64_t n = (int64_t)(next_random() % 600);
    size_t bytes = (size_t)n * zm_dtype_size(dtype);
    buffer x = make((size_t)n * 4), a = make(bytes), b = make(bytes), y = make((size_t)n * 4);
    fill(ZM_F32, x.data, n, (nature)(round / 3 % KINDS));
    if (round % 2) { // near ties and borders of float16
      for (int64_t i = 0; i < n; i++)
        put_number(ZM_F32, x.data, (size_t)i,
                   float_of((uint32_t)(next_random() & 0x8fffe000u) + 0x30000000u + (next_random() & 1 ? 0x1000u : 0xfffu)));
    }
    scalar->store((float *)(void *)x.data, n, a.data, dtype);
    tier->store((float *)(void *)x.data, n, b.data, dtype);
    assert_memory_equal(a.data, b.data, bytes);
    memcpy(y.data, x.data, y.size);
    scalar->round((float *)(void *)x.data, n, dtype);
    tier->round((float *)(void *)y.data, n, dtype);
    assert_memory_equal(x.data, y.data, y.size);
    drop(&x), drop(&a), drop(&b), drop(&y);
  }
}

static void conversions(void **context) {
  (void)context;
  all_tiers(check_conversions);
}

typedef void (*in_place)(float *x, int64_t n);

static void check_rows(const zmi_kernels *scalar, const zmi_kernels *tier) {
  for (int round = 0; round < 300; round++) {
    nature kind = (nature)(round % KINDS);
    int64_t n = round < 100 ? round : (int64_t)(1 + next_random() % 2500);
    size_t bytes = (size_t)n * 4;
    buffer x = make(bytes), w = make(bytes), a = make(bytes), b = make(bytes);
    float *xs = (float *)(void *)x.data, *ws = (float *)(void *)w.data, *as = (float *)(void *)a.data, *bs = (float *)(void *)b.data;
    fill(ZM_F32, xs, n, kind);
    fill(ZM_F32, ws, n, PLAIN);
    const in_place functions[][2] = {{scalar->exp, tier->exp},   {scalar->sigmoid, tier->sigmoid}, {scalar->silu, tier->silu},
                                     {scalar->tanh, tier->tanh}, {scalar->log, tier->log},         {scalar->softmax, tier->softmax}};
    static const char *const names[] = {"exp", "sigmoid", "silu", "tanh", "log", "softmax"};
    for (size_t i = 0; i < ZMI_COUNT(functions); i++) {
      if (n == 0) continue;
      memcpy(as, xs, bytes), memcpy(bs, xs, bytes);
      functions[i][0](as, n), functions[i][1](bs, n);
      assert_same(names[i], tier->name, kind_names[kind], bs, as, n);
    }
    if (n) {
      scalar->rms_norm(xs, ws, n, 1e-6f, as), tier->rms_norm(xs, ws, n, 1e-6f, bs);
      assert_same("rms_norm", tier->name, kind_names[kind], bs, as, n);
      memcpy(bs, xs, bytes);
      tier->rms_norm(bs, ws, n, 1e-6f, bs);
      assert_same("rms_norm in place", tier->name, kind_names[kind], bs, as, n);
      float m[2] = {scalar->max(xs, n), tier->max(xs, n)};
      assert_same("max", tier->name, kind_names[kind], m + 1, m, 1);
    }
    float s[2] = {scalar->sum(xs, n), tier->sum(xs, n)};
    assert_same("sum", tier->name, kind_names[kind], s + 1, s, 1);
    memcpy(as, ws, bytes), memcpy(bs, ws, bytes);
    scalar->multiply_add(xs, ws, n, as), tier->multiply_add(xs, ws, n, bs);
    assert_same("multiply_add", tier->name, kind_names[kind], bs, as, n);
    scalar->affine(x.data, n, 0.37f, -2.6f, as), tier->affine(x.data, n, 0.37f, -2.6f, bs);
    assert_same("affine", tier->name, kind_names[kind], bs, as, n);
    for (int64_t bits = 1; bits <= 8; bits += 1 + (bits == 6)) {
      uint8_t *p = (uint8_t *)as, *q = (uint8_t *)bs, *stream = (uint8_t *)xs;
      int64_t codes = n / 2 * 8; // what both results have room for, and the stream has bits for
      codes = codes * bits > n * 32 ? n * 32 / bits / 8 * 8 : codes;
      codes = codes > n * 4 / 8 * 8 ? n * 4 / 8 * 8 : codes;
      scalar->codes(stream, bits, codes, p), tier->codes(stream, bits, codes, q);
      for (int64_t i = 0; i < codes; i++) {
        const int64_t at = i * bits;
        const unsigned two = stream[at / 8] | (at / 8 + 1 < n * 4 ? stream[at / 8 + 1] : 0u) << 8;
        if (p[i] != (two >> at % 8 & ((1u << bits) - 1)) || q[i] != p[i]) fail_msg("%s: code %d of %d bits", tier->name, (int)i, (int)bits);
      }
    }
    for (int traditional = 0; traditional < 2; traditional++) {
      buffer c = make((size_t)(n / 2) * 4), d = make((size_t)(n / 2) * 4);
      fill(ZM_F32, c.data, n / 2, PLAIN), fill(ZM_F32, d.data, n / 2, PLAIN);
      memcpy(as, xs, bytes), memcpy(bs, xs, bytes);
      scalar->rope(as, n / 2 * 2, traditional, (float *)(void *)c.data, (float *)(void *)d.data);
      tier->rope(bs, n / 2 * 2, traditional, (float *)(void *)c.data, (float *)(void *)d.data);
      assert_same("rope", tier->name, kind_names[kind], bs, as, n);
      drop(&c), drop(&d);
    }
    for (size_t t = 0; t < ZMI_COUNT(float_dtypes); t++) {
      buffer v = make((size_t)n * zm_dtype_size(float_dtypes[t]));
      fill(float_dtypes[t], v.data, n, kind);
      memcpy(as, ws, bytes), memcpy(bs, ws, bytes);
      scalar->axpy(0.37f, v.data, float_dtypes[t], n, as), tier->axpy(0.37f, v.data, float_dtypes[t], n, bs);
      assert_same("axpy", tier->name, kind_names[kind], bs, as, n);
      drop(&v);
    }
    drop(&x), drop(&w), drop(&a), drop(&b);
  }
}

static void row_helpers(void **context) {
  (void)context;
  all_tiers(check_rows);
}

// A largest zero is +0 even where all zeros are negative.
static void check_zeros(const zmi_kernels *scalar, const zmi_kernels *tier) {
  (void)scalar;
  float x[40], zero = 0;
  for (int64_t n = 1; n <= 40; n++) {
    for (int64_t i = 0; i < n; i++) x[i] = next_random() % 3 ? -0.0f : -1.0f;
    x[next_random() % (uint64_t)n] = -0.0f;
    float m = tier->max(x, n);
    assert_memory_equal(&m, &zero, 4);
  }
}

static void negative_zeros(void **context) {
  (void)context;
  all_tiers(check_zeros);
}

// ---- attention ----

// Up to seven queries at once against one after another.
enum { MOST_QUERIES = 7 };

typedef struct attended {
  zmi_query query[MOST_QUERIES];
  float max[MOST_QUERIES], sum[MOST_QUERIES];
  buffer acc[MOST_QUERIES];
} attended;

static void make_attended(attended *a, const unsigned char *q, int queries, int64_t dim, size_t size) {
  for (int i = 0; i < queries; i++) {
    a->acc[i] = make((size_t)dim * 4);
    a->query[i] = (zmi_query){q + (size_t)(i * dim) * size, &a->max[i], &a->sum[i], (float *)(void *)a->acc[i].data};
  }
}

static void check_attend(const zmi_kernels *scalar, const zmi_kernels *tier) {
  static const int64_t dims[] = {2, 16, 32, 64, 80, 96, 128, 192, 256, 288, 576};
  for (int round = 0; round < 3 * (int)ZMI_COUNT(dims) * KINDS; round++) {
    zm_dtype dtype = float_dtypes[round % 3];
    nature kind = (nature)(round / 3 % KINDS);
    int64_t dim = dims[(size_t)round / 3 / KINDS], count = 1 + (int64_t)(next_random() % ZMI_KEY_RANGE);
    if (round % 5 == 0) count = ZMI_KEY_RANGE;
    const int queries = 1 + round / 7 % MOST_QUERIES;
    size_t size = zm_dtype_size(dtype), blocks = (size_t)(count + 15) / 16;
    buffer q = make((size_t)(queries * dim) * size), keys = make(blocks * 16 * (size_t)dim * size);
    buffer values = make((size_t)(count * dim) * size);
    fill(dtype, q.data, queries * dim, kind), fill(dtype, keys.data, (int64_t)(blocks * 16) * dim, kind);
    fill(dtype, values.data, count * dim, kind);
    for (int64_t t = count; t < (int64_t)blocks * 16; t++) { // what lies behind the last position must not matter
      for (int64_t d = 0; d < dim; d++) put_number(dtype, keys.data, (size_t)(t / 16 * 16 * dim + d / 2 * 32 + t % 16 * 2 + d % 2), NAN);
    }
    attended a, b;
    make_attended(&a, q.data, queries, dim, size), make_attended(&b, q.data, queries, dim, size);
    char detail[160];
    snprintf(detail, sizeof detail, "%d queries, %s, dim %lld, %lld positions, %s", queries, zm_dtype_name(dtype), (long long)dim,
             (long long)count, kind_names[kind]);
    for (int i = 0; i < queries; i++) scalar->attend(&a.query[i], 1, keys.data, values.data, dtype, dim, count, 0.125f, false);
    tier->attend(b.query, queries, keys.data, values.data, dtype, dim, count, 0.125f, round % 2);
    assert_same("attend: max", tier->name, detail, b.max, a.max, queries);
    assert_same("attend: sum", tier->name, detail, b.sum, a.sum, queries);
    for (int i = 0; i < queries; i++) {
      assert_same("attend: values", tier->name, detail, b.acc[i].data, a.acc[i].data, dim);
      if (kind == PLAIN) assert_true(isfinite(a.max[i]) && a.sum[i] >= 1);
      drop(&a.acc[i]), drop(&b.acc[i]);
    }
    drop(&q), drop(&keys), drop(&values);
  }
}

static void attend(void **context) {
  (void)context;
  all_tiers(check_attend);
}

// ---- few rows by a matrix ----

// Remainders of columns, of lines, of k, and of the ranges of k; what lies between the lines is not touched.
static void few_case(const zmi_kernels *scalar, const zmi_kernels *tier, int64_t count, int64_t n, int64_t k, zm_dtype dtype, nature kind) {
  const int64_t high = count <= 2 ? count : count <= 4 ? 4 : 8, ranges = (k + ZMI_RANGE - 1) / ZMI_RANGE, apart = n + 3, ld = k + 5;
  const int64_t some = k < ZMI_RANGE ? k : ZMI_RANGE;
  const size_t results = (size_t)(count * apart) * 4, size = zm_dtype_size(dtype);
  buffer x = make((size_t)(ranges * high * ZMI_RANGE) * 4), lines = make((size_t)((n - 1) * ld + k) * size);
  buffer across = make((size_t)((some - 1) * apart + n) * size), a = make(results), b = make(results);
  float *xs = (float *)(void *)x.data, *as = (float *)(void *)a.data, *bs = (float *)(void *)b.data;
  char detail[96];
  snprintf(detail, sizeof detail, "%d rows, %d columns, %d k, %s", (int)count, (int)n, (int)k, zm_dtype_name(dtype));
  fill(ZM_F32, x.data, ranges * high * ZMI_RANGE, kind);
  fill(dtype, lines.data, (n - 1) * ld + k, kind);
  fill(dtype, across.data, (some - 1) * apart + n, kind);
  for (int add = 0; add < 2; add++) {
    fill(ZM_F32, a.data, count * apart, kind);
    memcpy(bs, as, results);
    scalar->few_lines(xs, count, lines.data, dtype, ld, n, k, as, apart, add),
        tier->few_lines(xs, count, lines.data, dtype, ld, n, k, bs, apart, add);
    assert_same("few_lines", tier->name, detail, bs, as, count * apart);
  }
  scalar->few_rows(xs, count, across.data, dtype, apart, n, some, as, apart),
      tier->few_rows(xs, count, across.data, dtype, apart, n, some, bs, apart);
  assert_same("few_rows", tier->name, detail, bs, as, count * apart);
  drop(&x), drop(&lines), drop(&across), drop(&a), drop(&b);
}

static void check_few(const zmi_kernels *scalar, const zmi_kernels *tier) {
  static const int64_t columns[] = {1, 7, 8, 16, 19, 33, 64, 75}, ks[] = {1, 3, 8, 17, 255, 256, 259, 700, 1024};
  for (int64_t count = 1; count <= ZMI_FEW_ROWS; count++) {
    for (size_t c = 0; c < ZMI_COUNT(columns); c++) {
      for (size_t i = 0; i < ZMI_COUNT(ks); i++) {
        const size_t round = (size_t)count + c + i;
        few_case(scalar, tier, count, columns[c], ks[i], float_dtypes[round % 3], (nature)(round / 3 % KINDS));
      }
    }
  }
  for (size_t t = 0; t < 3; t++)
    few_case(scalar, tier, 2, 20, 16 * ZMI_RANGE + 300, float_dtypes[t], PLAIN); // sums that are put down on the way
}

static void few_rows(void **context) {
  (void)context;
  all_tiers(check_few);
}

// ---- blocks of products ----

// The last `bytes` before a page that nobody may touch: who reads past the end is stopped.
typedef struct brink {
  char *pages, *data;
  size_t length;
} brink;

static brink make_brink(size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), length = (bytes + page - 1) / page * page + page;
  brink b = {.length = length, .pages = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)};
  assert_true(b.pages != MAP_FAILED && mprotect(b.pages + length - page, page, PROT_NONE) == 0);
  b.data = b.pages + length - page - bytes;
  return b;
}

// Sides where they lie, rows or columns of a along k, and both sides packed: the same bits. Panels are written to their last column.
static void gemm_case(const zmi_kernels *scalar, const zmi_kernels *tier, int64_t rows, int64_t cols, int64_t k, nature kind) {
  enum { APART = 16 };
  const int64_t panels = (cols + ZMI_GEMM_COLS - 1) / ZMI_GEMM_COLS, pitch = k * ZMI_GEMM_COLS + APART, ldc = cols + 3;
  brink a = make_brink((size_t)(rows * k) * 4), b = make_brink((size_t)(k * cols) * 4);
  buffer want = make((size_t)(rows * ldc) * 4), got = make((size_t)(rows * ldc) * 4);
  buffer packed[2] = {make((size_t)(panels * pitch) * 4), make((size_t)(panels * pitch) * 4)};
  float *xs = (float *)(void *)a.data, *ws = (float *)(void *)b.data, *y = (float *)(void *)got.data, *z = (float *)(void *)want.data;
  float *p[2] = {(float *)(void *)packed[0].data, (float *)(void *)packed[1].data};
  char detail[96];
  snprintf(detail, sizeof detail, "%d rows, %d columns, %d k", (int)rows, (int)cols, (int)k);
  fill(ZM_F32, xs, rows * k, kind);
  fill(ZM_F32, ws, k * cols, kind);
  scalar->gemm_across(ws, cols, cols, k, p[0], pitch), tier->gemm_across(ws, cols, cols, k, p[1], pitch);
  for (int64_t i = 0; i < panels; i++)
    assert_same("gemm_across", tier->name, detail, p[1] + i * pitch, p[0] + i * pitch, k * ZMI_GEMM_COLS);
  for (int form = 0; form < 8; form++) {
    const zmi_panels by_row = {xs, k, 1, 6 * k}, by_column = {xs, 1, rows, 6}, x = form & 1 ? by_column : by_row;
    const zmi_panels here = {ws, 1, cols, ZMI_GEMM_COLS}, made = {p[0], 1, ZMI_GEMM_COLS, pitch};
    fill(ZM_F32, z, rows * ldc, kind);
    memcpy(y, z, (size_t)(rows * ldc) * 4);
    scalar->gemm(&x, rows, &here, cols, k, z, ldc, form & 4);
    tier->gemm(&x, rows, form & 2 ? &made : &here, cols, k, y, ldc, form & 4);
    assert_same("gemm", tier->name, detail, y, z, rows * ldc);
  }
  const float *line[ZMI_GEMM_COLS];
  for (int i = 0; i < ZMI_GEMM_COLS; i++) line[i] = xs + i % rows * k;
  scalar->gemm_rows(line, k, p[0]), tier->gemm_rows(line, k, p[1]);
  assert_same("gemm_rows", tier->name, detail, p[1], p[0], k * ZMI_GEMM_ROWS);
  scalar->gemm_columns(line, k, p[0]), tier->gemm_columns(line, k, p[1]);
  assert_same("gemm_columns", tier->name, detail, p[1], p[0], k * ZMI_GEMM_COLS);
  drop(&want), drop(&got), drop(&packed[0]), drop(&packed[1]);
  munmap(a.pages, a.length), munmap(b.pages, b.length);
}

static void check_gemm(const zmi_kernels *scalar, const zmi_kernels *tier) {
  static const int64_t sizes[][2] = {{1, 1},   {2, 7},   {3, 8},  {4, 9},  {5, 15},  {6, 16}, {7, 17},
                                     {12, 24}, {13, 31}, {8, 32}, {6, 33}, {19, 50}, {9, 63}};
  static const int64_t ks[] = {1, 3, 4, 17, 100, 256};
  for (size_t s = 0; s < ZMI_COUNT(sizes); s++) {
    for (size_t i = 0; i < ZMI_COUNT(ks); i++) gemm_case(scalar, tier, sizes[s][0], sizes[s][1], ks[i], (nature)((s + i) % KINDS));
  }
}

static void gemm(void **context) {
  (void)context;
  all_tiers(check_gemm);
}

// ---- the choice of a tier ----

static void finding(void **context) {
  (void)context;
  assert_string_equal(zmi_tier(0)->name, "scalar");
  assert_true(zmi_tier_supported(0, NULL));
  assert_null(zmi_tier(zmi_tier_count()));
  assert_ptr_equal(zmi_kernels_find("scalar"), zmi_tier(0));
  assert_null(zmi_kernels_find("mmx"));
  assert_non_null(strstr(zm_last_error(), "mmx"));
  assert_non_null(strstr(zm_last_error(), "scalar"));
  const zmi_kernels *best = zmi_tier(0);
  for (size_t i = 0; i < zmi_tier_count(); i++) {
    const char *why = NULL;
    bool supported = zmi_tier_supported(i, &why);
    const zmi_kernels *found = zmi_kernels_find(zmi_tier(i)->name);
    assert_ptr_equal(found, supported ? zmi_tier(i) : NULL);
    if (supported)
      best = zmi_tier(i);
    else
      assert_non_null(strstr(zm_last_error(), why));
  }
  setenv("ZMLX_ISA", "scalar", 1);
  assert_ptr_equal(zmi_kernels_find(NULL), zmi_tier(0));
  setenv("ZMLX_ISA", "", 1);
  assert_ptr_equal(zmi_kernels_find(NULL), best);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(float_rule_at_the_border),
      cmocka_unit_test(digits),
      cmocka_unit_test(digits_border),
      cmocka_unit_test(dot_affine),
      cmocka_unit_test(affine_accuracy),
      cmocka_unit_test(dot_float),
      cmocka_unit_test(dot_numbers),
      cmocka_unit_test(number_accuracy),
      cmocka_unit_test(conversions),
      cmocka_unit_test(row_helpers),
      cmocka_unit_test(attend),
      cmocka_unit_test(negative_zeros),
      cmocka_unit_test(finding),
      cmocka_unit_test(few_rows),
      cmocka_unit_test(gemm),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
