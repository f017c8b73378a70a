// Spellings of the Metal shading language that kernels bring along: limits of types, short integers, variables that start unset, address
// spaces, hints, threads that leave early. What each is worth, and what is said of those that the language has not.
#include "kernel/kernel.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static zmi_code *elements(const char *source, zm_dtype in, zm_dtype out) {
  const zmi_kernel_text text = {.name = "k", .form = ZMI_FORM_ELEMENTS, .inputs = "x y", .outputs = "o", .source = source};
  zmi_kernel *k = zmi_kernel_define(&text);
  if (!k) fail_msg("%s", zm_last_error());
  zmi_code *c = zmi_kernel_code(k, (zm_dtype[]){in, in}, &out);
  if (!c) fail_msg("%s", zm_last_error());
  zmi_kernel_release(k);
  return c;
}

static void values(void **state) {
  (void)state;
  static const struct {
    const char *source;
    zm_dtype in; // of x = 3 and y = -2
    uint32_t bits;
  } cases[] = {
      {"o = metal::numeric_limits<float>::max();", ZM_F32, 0x7f7fffff},
      {"o = std::numeric_limits<float>::lowest();", ZM_F32, 0xff7fffff},
      {"o = numeric_limits<float>::min();", ZM_F32, 0x00800000},
      {"o = numeric_limits<float>::epsilon();", ZM_F32, 0x34000000},
      {"o = -metal::numeric_limits<float>::infinity();", ZM_F32, 0xff800000},
      {"o = metal::numeric_limits<float>::quiet_NaN();", ZM_F32, 0x7fc00000},
      {"o = metal::numeric_limits<float>::denorm_min();", ZM_F32, 0x00000001},
      {"o = metal::numeric_limits<half>::max();", ZM_F32, 0x477fe000},
      {"o = metal::numeric_limits<half>::epsilon();", ZM_F32, 0x3a800000},
      {"o = metal::numeric_limits<bfloat>::max();", ZM_F32, 0x7f7f0000},
      {"o = metal::numeric_limits<T>::max();", ZM_F32, 0x7f7fffff},
      {"o = metal::numeric_limits<T>::max();", ZM_F16, 0x477fe000},
      {"o = metal::numeric_limits<T>::lowest();", ZM_BF16, 0xff7f0000},
      {"o = metal::numeric_limits<T>::min();", ZM_F16, 0x38800000},
      {"o = as_type<float>(metal::numeric_limits<uint>::max() - 0x807fffffu);", ZM_F32, 0x7f800000},
      {"o = metal::numeric_limits<int>::min() + INT_MAX;", ZM_F32, 0xbf800000},
      {"o = metal::numeric_limits<uchar>::max() + numeric_limits<char>::lowest();", ZM_F32, 0x42fe0000},
      {"o = metal::numeric_limits<short>::max() - SHRT_MAX + UCHAR_MAX;", ZM_F32, 0x437f0000},
      {"o = metal::numeric_limits<long>::max() == LONG_MAX && ULONG_MAX == ulong(-1);", ZM_F32, 0x3f800000},
      {"o = HALF_MAX - 65504.0h;", ZM_F32, 0},
      {"o = 1.5bf + x;", ZM_F32, 0x40900000},
      {"o = (uint8_t)(int(x) + 254);", ZM_F32, 0x3f800000},
      {"o = (int8_t)(int(x) + 254);", ZM_F32, 0x3f800000},
      {"o = (int8_t)(int(x) + 125);", ZM_F32, 0xc3000000},
      {"uchar u = int(y); o = u >> 4;", ZM_F32, 0x41700000},
      {"uchar u = 1000.5f * x; char c = 100 * y; o = u + c;", ZM_F32, 0x42fe0000},
      {"short s = 40000; s += 1; ushort t = s; o = t - s;", ZM_F32, 0x47800000},
      {"float s; if (x > 2) { s = y; } else if (x > 1) { s = 7; } o = s;", ZM_F32, 0xc0000000},
      {"float s, t = 1; int n; n += 2; o = s + t + n;", ZM_F32, 0x40400000},
      {"float z = 0;\n#pragma unroll\nfor (int i = 0; i < 2; i++) z += x;\n  #pragma clang loop unroll(full)\no = z;", ZM_F32, 0x40c00000},
      {"o = 0; for (int i = 0; i < 5; i++) { if (i == x) continue; o += i; }", ZM_F32, 0x40e00000},
      {"o = 0; for (int i = 0; i < 6; i++) { if (i < 2) { continue; } let k = i; if (k == 4) continue; o += k; }", ZM_F32, 0x41200000},
      {"o = 0; for (int i = 0; i < 3; i++) { for (int j = 0; j < 3; j++) { if (j == i) continue; o += 1; } o += 10; }", ZM_F32, 0x42100000},
      {"o = 0; for (int i = 0; i < 3; i++) { if (i == 1) continue; for (int j = 0; j < 3; j++) { if (j > i) continue; o += 1; } o += 10; }",
       ZM_F32, 0x41c00000},
      {"o = 0; for (int i = 0; i < 3; i++) { for (int j = 0; j < 2; j++) { o += 1; } if (i == 1) continue; o += 10; }", ZM_F32, 0x41d00000},
      {"o = mad(x, y, 1) + divide(int(x), 2) + absdiff(int(y), int(x));", ZM_F32, 0x3fc00000},
      {"o = signbit(y) ? isordered(x, y) + isnormal(x) : 9;", ZM_F32, 0x40000000},
      {"o = isunordered(x, NAN) + isnormal(numeric_limits<float>::denorm_min());", ZM_F32, 0x3f800000},
      {"o = ctz(uint(x) << 5) + ctz(0u);", ZM_F32, 0x42140000},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    zmi_code *c = elements(cases[i].source, cases[i].in, ZM_F32);
    const float three = 3, minus = -2;
    static const uint16_t halves[] = {0x4200, 0xc000}, brains[] = {0x4040, 0xc000};
    const void *in[] = {&three, &minus};
    if (cases[i].in == ZM_F16) in[0] = &halves[0], in[1] = &halves[1];
    if (cases[i].in == ZM_BF16) in[0] = &brains[0], in[1] = &brains[1];
    uint32_t bits = 0xdeadbeef;
    void *out[] = {&bits};
    assert_int_equal(zmi_interpret_elements(c, zmi_kernels_find(NULL), 1, in, (int[]){1, 1}, NULL, out), ZM_OK);
    if (cases[i].bits == 0x7fc00000 && (bits & 0x7fffffff) > 0x7f800000) bits = 0x7fc00000;
    if (bits != cases[i].bits) fail_msg("%s: %08x, not %08x", cases[i].source, bits, cases[i].bits);
    for (int t = 0; t < ZMI_TARGET_COUNT; t++) { // and every target has a spelling for it
      zmi_text text = {0};
      assert_int_equal(zmi_emit(c, (zmi_target)t, true, &text), ZM_OK);
      zmi_text_release(&text);
    }
    zmi_code_free(c);
  }
}

// Functions that are text of the language: how far they are off, in units of the last place of the true value (docs/numerics.md).
static void error_of_mish(void **state) {
  (void)state;
  enum { AT_ONCE = 4096 };
  static float x[AT_ONCE], out[AT_ONCE];
  zmi_code *c = elements("o = mish(x);", ZM_F32, ZM_F32);
  const unsigned saved = zmi_float_rule_enter();
  double worst = 0, low = 0;
  for (uint32_t block = 0; block < 512; block++) { // of all signs and exponents
    for (uint32_t i = 0; i < AT_ONCE; i++) {
      const uint32_t bits = block << 23 | (i * 2048 + block * 37 % 2048);
      memcpy(&x[i], &bits, sizeof bits);
    }
    zmi_interpret_elements(c, zmi_kernels_find(NULL), AT_ONCE, (const void *[]){x, x}, (int[]){1, 1}, NULL, (void *[]){out});
    for (uint32_t i = 0; i < AT_ONCE; i++) {
      const long double v = x[i], e = expl(v > 40 ? 40 : v), n = e * (e + 2), want = v > 40 ? v : v * n / (n + 2);
      if (!(fabsl(v) >= 0x1p-126L) || !(fabsl(v) <= 0x1p126L)) continue;
      int exponent;
      frexpl(want, &exponent);
      const double off = (double)fabsl(out[i] - want);
      if (v < -86)
        low = ZMI_MAX(low, off);
      else if (fabsl(want) >= 0x1p-125L)
        worst = ZMI_MAX(worst, off / ldexp(1, exponent - 24));
    }
  }
  zmi_float_rule_leave(saved);
  print_message("# mish: %.2f units of the last place\n", worst);
  assert_true(worst < 4.5 && low < 1.1e-36);
  const float ends[] = {INFINITY, -INFINITY, NAN, 0, -0.0f, 1000, -1000};
  zmi_interpret_elements(c, zmi_kernels_find(NULL), 7, (const void *[]){ends, ends}, (int[]){1, 1}, NULL, (void *[]){out});
  assert_true(out[0] == INFINITY && isnan(out[1]) && isnan(out[2]) && out[3] == 0 && signbit(out[4]) && out[5] == 1000 && out[6] == 0);
  zmi_code_free(c);
}

// ---- tiles ----

enum { N = 100 };

static zmi_kernel *tiles(const char *source) {
  return zmi_kernel_define(&(zmi_kernel_text){.name = "k",
                                              .form = ZMI_FORM_TILES,
                                              .inputs = "x",
                                              .outputs = "o",
                                              .source = source,
                                              .shape = {"x.0"},
                                              .groups = "2",
                                              .threads = "64",
                                              .result = {ZM_F32}});
}

static void run_tiles(const char *source, const float *x, float *out) {
  zmi_kernel *k = tiles(source);
  if (!k) fail_msg("%s", zm_last_error());
  zm_dtype in = ZM_F32, result = ZM_F32;
  zmi_code *c = zmi_kernel_code(k, &in, &result);
  if (!c) fail_msg("%s", zm_last_error());
  const zmi_type type = zmi_type_of(ZM_F32, 1, (int64_t[]){N});
  const zmi_launch l = {.groups = 2, .threads = 64, .in = (const void *[]){x}, .out = (void *[]){out}, .in_type = &type, .out_type = &type};
  memset(out, 0, N * sizeof *out);
  assert_int_equal(zmi_interpret_groups(c, zmi_kernels_find(NULL), &l, 0, 2), ZM_OK);
  zmi_code_free(c);
  zmi_kernel_release(k);
}

static void leaving_early(void **state) {
  (void)state;
  float x[N], out[N];
  for (int i = 0; i < N; i++) x[i] = (float)(i % 7);
  static const char *const sources[] = {
      "uint at = thread_position_in_grid.x; if (at >= 90u) return; float v = x[at]; if (v == 0) { return; } o[at] = v * 2;",
      "uint at = thread_position_in_grid.x;\nif (at >= 90u) { return; }\no[at] = x[at] * 2;",
      "uint at = thread_position_in_grid.x; if (at < 90u) { o[at] = x[at] * 2; }",
  };
  for (size_t s = 0; s < ZMI_COUNT(sources); s++) {
    run_tiles(sources[s], x, out);
    for (int i = 0; i < N; i++) assert_true(out[i] == (i < 90 ? x[i] * 2 : 0));
  }
}

static void what_threads_are_called(void **state) {
  (void)state;
  float x[N], out[N];
  for (int i = 0; i < N; i++) x[i] = 1;
  run_tiles("constexpr uint K = 4; thread float v[K]; thread int n = 1;\n"
            "for (uint i = 0; i < K; ++i) v[i] = float(i);\n"
            "simdgroup_barrier(mem_flags::mem_none);\n"
            "if (simd_is_first()) n += 10;\n"
            "o[thread_position_in_grid.x] = n * 1000 + thread_index_in_threadgroup + v[3] * 100;",
            x, out);
  for (int i = 0; i < N; i++) assert_true(out[i] == (float)((i % 32 == 0 ? 11000 : 1000) + i % 64 + 300));
  run_tiles("float s = 0; for (uint i = thread_position_in_grid.x; i < x.0; i += threads_per_grid.x) s += 1;\n"
            "o[thread_position_in_grid.x] = s + threads_per_grid + dispatch_threads_per_threadgroup.x + thread_execution_width;",
            x, out);
  for (int i = 0; i < N; i++) assert_true(out[i] == 1 + 128 + 64 + 32);
}

// ---- what the language has not ----

static void refused(void **state) {
  (void)state;
  static const struct {
    bool tiles;
    const char *source, *words, *caret;
  } cases[] = {
      {false, "o = metal::numeric_limits<float>::digits;", "k:1:35: max(), lowest(), min(), epsilon()", "^~~~~~"},
      {false, "o = numeric_limits<double>::max();", "k:1:20: a type is expected: bool, char, uchar", "^~~~~~"},
      {false, "o = numeric_limits<float>.max();", "':' is expected after numeric_limits<type>, not '.'", "^"},
      {false, "o = x * M_PI_H;", "unknown constant 'M_PI_H'; did you mean 'M_PI_F'?", "^~~~~~"},
      {false, "o = x * HALF_PI;", "unknown constant 'HALF_PI'", "^~~~~~~"},
      {false, "double d = x; o = d;", "unknown type 'double'", "^~~~~~"},
      {false, "let v; o = x;", "'=' is expected after the name of a new variable, not ';'", "^"},
      {false, "if (x > 0) return; o = x;", "'return' is not part of the language", "^~~~~~"},
      {true, "for (int i = 0; i < 4; i++) { if (i == 2) return; } o[0] = x[0];", "'return' is not part of the language", "^~~~~~"},
      {true, "if (thread > 3) return; barrier(); o[thread] = x[thread];", "barrier", "^~~~~~~~~"},
      {true, "uint3 at = thread_position_in_grid; o[at.x] = 1;", "unknown type 'uint3'", "^~~~~"},
      {true, "device float *p = x; o[0] = p[0];", "unknown type 'device'", "^~~~~~"},
      {true, "#define K 3\no[0] = K;", "the character '#' means nothing here", "^"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    zmi_kernel *k = cases[i].tiles ? tiles(cases[i].source)
                                   : zmi_kernel_define(&(zmi_kernel_text){
                                         .name = "k", .form = ZMI_FORM_ELEMENTS, .inputs = "x", .outputs = "o", .source = cases[i].source});
    zmi_code *c = k ? zmi_kernel_code(k, (zm_dtype[]){ZM_F32}, (zm_dtype[]){ZM_F32}) : NULL;
    if (c) fail_msg("%s is taken", cases[i].source);
    const char *error = zm_last_error(), *caret = strrchr(error, '\n');
    if (!strstr(error, cases[i].words)) fail_msg("%s:\n%s", cases[i].source, error);
    assert_non_null(caret);
    assert_string_equal(caret + 1 + strspn(caret + 1, " "), cases[i].caret);
    zmi_kernel_release(k);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(values), cmocka_unit_test(error_of_mish), cmocka_unit_test(leaving_early),
                                     cmocka_unit_test(what_threads_are_called), cmocka_unit_test(refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
