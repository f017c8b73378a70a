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
    {"o = 0; for (int i = 0; i < 9; i++) { if (i == x) break; o += i; }", ZM_F32, 0x40400000},
    {"o = 0; for (int i = 0; i < 9; i++) { if (i < 2) continue; o += 1; if (o > x) { o += 100; break; } else { o += 10; } o += 20; }",
     ZM_F32, 0x43040000},
    {"o = 0; for (int i = 0; i < 3; i++) { for (int j = 0; j < 9; j++) { if (j > i) break; o += 1; } if (i == 1) break; o += 10; }", ZM_F32,
     0x41500000},
    {"o = 0; for (int i = 0; i < 9; i++) { if (i > 1) { if (i == 4) break; o += 1; continue; } o += 10; }", ZM_F32, 0x41b00000},
    {"o = 0; for (int i = 8; i > 0; i >>= 1) { if (i < x) break; o += i; }", ZM_F32, 0x41400000},
    {"int n = 0; for (int i = 0, j = 9; i < 5; i++, j -= 2, ++n) { if (i == 1) continue; n += j; } o = n;", ZM_F32, 0x41b80000},
    {"int n = 0; for (int i = 0, j = 9; i < 9; i++, j -= 2, n += j) { if (j < 5) break; } o = n;", ZM_F32, 0x41700000},
    {"#define K 3 // with words behind it\n#define KX(a, b) ((a) * K + b)\no = KX(x + 1, (K - y));", ZM_F32, 0x41880000},
    {"#define K 3\n#define SUM(a, \\\n  b) /* over\n lines */ (a + \\\n b)\no = SUM(SUM(x, K),\n SUM(K, K));", ZM_F32, 0x41400000},
    {"#define NAME(a) a\n#undef NAME\nfloat NAME = 5;\n#define o_is o =\no_is NAME;", ZM_F32, 0x40a00000},
    {"#define x_of x\n#define x x_of + 1\no = x;", ZM_F32, 0x40800000},
    {"#include <metal_stdlib>\nusing namespace metal;\no = max(x, y);", ZM_F32, 0x40400000},
    {"template <typename T>\ninline T kk_cube(T v) {\n  const T k = T(2);\n  return k * v * v * v;\n}\no = kk_cube(x) + kk_cube(T(1));",
     ZM_F32, 0x42600000},
    {"float f(float a, int b) { if (a < 0) return -1.0f; if (b > 2) { return a; } else { return a * b; } }\n"
     "o = f(y, 1) + f(x, 2) * 10 + f(x, 3) * 100;",
     ZM_F32, 0x43b38000},
    {"int f(float a) { int n = 0; for (int i = 0; i < 9; i++) { if (i > a) break; n += i; } return n; }\n"
     "inline float twice(float a) { return 2 * f(a); }\no = twice(x) + f(1.5f);",
     ZM_F32, 0x41500000},
    {"int f(float a) { return a; }\nhalf g(float a) { return a; }\no = f(2.75f) + g(2049.0f);", ZM_F32, 0x45002000},
    {"inline float sigmoid(float x) { return x + 1; }\no = sigmoid(x) + silu(0.0f);", ZM_F32, 0x40800000},
    {"do { let t = x; o = t; } while (0);", ZM_F32, 0x40400000},
    // "break" and "continue" leave "do { } while (0)", not the loop around it
    {"o = 1; do { if (x > 2) { break; } o = 50; } while (0); o += 2;", ZM_F32, 0x40400000},
    {"o = 1; do { if (x < 2) { o += 4; break; } o += 8; if (x > 2) continue; o = 50; } while (0); o += 2;", ZM_F32, 0x41300000},
    {"o = 0; for (int i = 0; i < 5; i++) { do { if (i == 2) break; o += 1; } while (0); o += 10; }", ZM_F32, 0x42580000},
    {"o = 0; do { for (int i = 0; i < 5; i++) { if (i == x) break; o += 1; } if (o == x) { o += 20; break; } o = 99; } while (0);", ZM_F32,
     0x41b80000},
    {"o = 0; for (int i = 0; i < 9; i++) { do { if (i < 7) break; o += 1; } while (0); if (i == 7) break; o += 10; }", ZM_F32, 0x428e0000},
    // a counter of outside has its last value behind the loop
    {"uint p = 7; for (; p > 2; --p) { } o = p;", ZM_F32, 0x40000000},
    {"uint p = 7; for (; p > 2; --p) { if (p == 4) break; } o = p;", ZM_F32, 0x40800000},
    {"int p; for (p = 1; p < 20; p *= 3) { } o = p;", ZM_F32, 0x41d80000},
    {"int p = 5; for (p = 0; p <= 9; p += 2) { if (p > 20) break; } o = p;", ZM_F32, 0x41200000},
    {"int p = 5, n = 0; for (; p < 5; ++p, ++n) { n += 7; } o = p * 10 + n;", ZM_F32, 0x42480000},
    {"int p, q = 0; for (p = 0; p < 4; p++) { int r; for (r = p; r > 0; r--) { q += r; if (r < 2) continue; q += 100; } } o = p * 1000 + "
     "q;",
     ZM_F32, 0x4586b000},
    {"o = mad(x, y, 1) + divide(int(x), 2) + absdiff(int(y), int(x));", ZM_F32, 0x3fc00000},
    {"o = signbit(y) ? isordered(x, y) + isnormal(x) : 9;", ZM_F32, 0x40000000},
    {"o = isunordered(x, NAN) + isnormal(numeric_limits<float>::denorm_min());", ZM_F32, 0x3f800000},
    {"o = ctz(uint(x) << 5) + ctz(0u);", ZM_F32, 0x42140000},
};

static void values(void **state) {
  (void)state;
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

// Rounds are those of C as if a counter could not overflow, whatever its type and the types of what bounds it. x is 3, y is -2.
static void rounds_of_loops(void **state) {
  (void)state;
  static const struct {
    const char *loop;
    float rounds, sum; // sum: of the counter, as a float
  } cases_of_loops[] = {
      {"for (int k = 0; k < 8; k++)", 8, 28},
      {"for (uint k = 0u; k < 4000000000u; k += 1000000000)", 4, 6e9f},
      {"for (uint k = 3000000000u; k > 0u; k -= 1000000000)", 3, 6e9f},
      {"for (uint k = 4294967290u; k <= 4294967295u; k += 5)", 2, 4294967290.0f + 4294967295.0f},
      {"for (uint k = uint(x) + 4294967280u; k <= UINT_MAX; k += 4)", 4, 4 * 4294967296.0f},
      {"for (uint k = 0; k < 4000000000u; k += 3000000000u)", 2, 3e9f},
      {"for (uint k = 0; k < 4000000000u; k += uint(x) * 1000000000u)", 2, 3e9f},
      {"for (uint k = 5; k >= 0; k--)", 6, 15},
      {"for (int k = 2000000000; k > -2000000000; k -= 1000000000)", 4, 2e9f},
      {"for (int k = -2000000000; k < 2000000000; k += 1000000000)", 4, -2e9f},
      {"for (int k = 2147483640; k <= 2147483647; k++)", 8, 8 * 2147483648.0f},
      {"for (int k = -2147483640; k >= INT_MIN; k -= 4)", 3, 3 * -2147483648.0f},
      {"for (int k = 0; k <= 2147483647; k += 1000000000)", 3, 3e9f},
      {"for (int k = 0; k <= int(x * 1e30f); k += 1000000000)", 3, 3e9f},
      {"for (int k = 0; k < int(x * 1e30f); k += 1000000000)", 3, 3e9f},
      {"for (int k = int(x * -1e30f); k < int(x * 1e30f); k += 2147483647)", 3, 0},
      {"for (int k = int(x); k <= 2000000000u; k += 1000000000)", 2, 1000000006.0f},
      {"for (int k = int(x); k <= 1000000000 + int(x); k += 1000000000)", 2, 1000000006.0f},
      {"for (int k = int(x); k < 3; k++)", 0, 0},
      {"for (int k = int(x); k <= 3; k++)", 1, 3},
      {"for (int k = int(x); k < int(y); k++)", 0, 0},
      {"for (int k = 5; k >= int(y); k -= int(y))", 8, 12}, // a step that is no constant is at least 1
      {"for (int k = 0; k < 2000000000l; k += 1000000000)", 2, 1e9f},
      {"for (int k = int(x); k > -9000000000l; k -= 2147483647)", 5, 0}, // the counter itself wraps around
      {"for (int k = int(x); k < 2; k++)", 0, 0},
      // counters that are scaled
      {"for (int k = 1; k <= 1024; k <<= 1)", 11, 2047},
      {"for (int k = 1024; k > 0; k /= 3)", 7, 1532},
      {"for (uint k = 1; k < 4000000000u; k <<= 1)", 32, 4294967295.0f},
      {"for (uint k = 3000000000u; k >= 1; k /= 10)", 10, 3333333333.0f},
      {"for (int k = 1; k <= 2147483647; k *= 2)", 31, 2147483647.0f},
      {"for (int k = 1; k < int(x * 1e30f); k *= 100000)", 2, 100001},
      {"for (int k = 1; k < int(x) * 100; k <<= int(x))", 3, 73},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases_of_loops); i++) {
    char source[256];
    snprintf(source, sizeof source, "float n = 0, s = 0; %s { n += 1; s += float(k); } o = n; p = s;", cases_of_loops[i].loop);
    const zmi_kernel_text text = {.name = "k", .form = ZMI_FORM_ELEMENTS, .inputs = "x y", .outputs = "o p", .source = source};
    zmi_kernel *k = zmi_kernel_define(&text);
    zmi_code *c = k ? zmi_kernel_code(k, (zm_dtype[]){ZM_F32, ZM_F32}, (zm_dtype[]){ZM_F32, ZM_F32}) : NULL;
    if (!c) fail_msg("%s", zm_last_error());
    const float three = 3, minus = -2;
    float o = -1, p = -1;
    const float sum = cases_of_loops[i].sum;
    assert_int_equal(
        zmi_interpret_elements(c, zmi_kernels_find(NULL), 1, (const void *[]){&three, &minus}, (int[]){1, 1}, NULL, (void *[]){&o, &p}),
        ZM_OK);
    if (o != cases_of_loops[i].rounds || (sum != 0 && fabsf(p - sum) > 1e-5f * fabsf(sum)))
      fail_msg("%s: %g rounds and a sum of %g, not %g and %g", cases_of_loops[i].loop, (double)o, (double)p,
               (double)cases_of_loops[i].rounds, (double)sum);
    zmi_code_free(c);
    zmi_kernel_release(k);
  }
}

// The usual loops stay loops over plain ints: nothing is counted before them.
static void usual_loops_count_in_ints(void **state) {
  (void)state;
  static const char *const loops[] = {
      "for (int k = 0; k < 8; k++)",      "for (int k = 7; k >= 0; k--)",     "for (uint k = 1; k <= 8u; k += 3)",
      "for (int k = 0; k < int(x); k++)", "for (int k = int(x); k > 0; k--)", "for (uint k = 1; k < 64u; k <<= 1)",
  };
  for (size_t i = 0; i < ZMI_COUNT(loops); i++) {
    char source[256];
    snprintf(source, sizeof source, "int n = 0; %s { n += 1; } o = n;", loops[i]);
    zmi_code *c = elements(source, ZM_F32, ZM_F32);
    for (size_t k = 0; k < c->count; k++)
      if (c->insts[k].op == ZMI_K_DIV || c->insts[k].type == ZMI_C_LONG || c->insts[k].type == ZMI_C_ULONG)
        fail_msg("%s: %s of %s", loops[i], zmi_cop_rows[c->insts[k].op].name, zmi_ctype_name(c->insts[k].type));
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
      "uint at = thread_position_in_grid.x; if (at < 50u) { o[at] = x[at] * 2; return; } if (at < 90u) o[at] = x[at] + x[at];",
      ("uint at = thread_position_in_grid.x; if (at < 50u) { o[at] = x[at] * 2; return; } else if (at >= 90u) { o[at] = 7; } if (at >= "
       "90u) "
       "return;"
       " o[at] = x[at] + x[at];"),
      ("uint at = thread_position_in_grid.x; if (at < 90u) { let v = x[at]; if (at < 20u) { o[at] = v + v; return; }\n"
       "if (v == 0) { return; } o[at] = v * 2; return; } if (at < 95u) return; if (at > 200u) o[0] = 9;"),
  };
  for (size_t s = 0; s < ZMI_COUNT(sources); s++) {
    run_tiles(sources[s], x, out);
    for (int i = 0; i < N; i++)
      if (out[i] != (i < 90 ? x[i] * 2 : 0) && !(s == 4 && i >= 90)) fail_msg("%s: %d: %g", sources[s], i, (double)out[i]);
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

static void memory_of_threads(void **state) {
  (void)state;
  float x[N], out[N];
  for (int i = 0; i < N; i++) x[i] = (float)(i % 7);
  static const float table[] = {0.5f, -1, 2, 300};
  run_tiles("constant float table[] = {0.5f, -1, 2, 3e2f}; uint at = thread_position_in_grid.x; o[at] = table[at % 4] + x[at];", x, out);
  for (int i = 0; i < N; i++) assert_true(out[i] == table[i % 4] + x[i]);
  // an array that is declared in a loop starts with zeros in every round
  run_tiles("uint at = thread_position_in_grid.x; float s = 0;\n"
            "for (uint r = 0; r < 3; r++) { float v[4]; int w[2] = {1, int(r)}; v[r] += 1; w[0] += w[1];\n"
            "  for (uint k = 0; k < 4; k++) s += v[k] * (k + 1); s += 10 * w[0]; }\n"
            "if (at % 2 == 1) { float v[2]; v[1] = 100; s += v[0] + v[1]; } o[at] = s;",
            x, out);
  for (int i = 0; i < N; i++) assert_true(out[i] == (float)(1 + 2 + 3 + 10 * (1 + 2 + 3) + (i % 2 ? 100 : 0)));
  run_tiles("threadgroup uint total; threadgroup float a[64], b; uint lane = thread_position_in_threadgroup.x;\n"
            "a[lane] = lane; if (lane == 5) { total = 7u; total += 2u; b = 0.5f; } barrier();\n"
            "o[thread_position_in_grid.x] = total * 2 + b + a[63 - lane];",
            x, out);
  for (int i = 0; i < N; i++) assert_true(out[i] == 18.5f + (float)(63 - i % 64));
}

// The macro that kernels for ZMLX share, and the same written out: sums of 64 threads.
static void sums_of_groups(void **state) {
  (void)state;
  float x[N], out[N];
  for (int i = 0; i < N; i++) x[i] = (float)(i % 7);
  static const char *const sources[] = {
      "threadgroup float buf[64]; uint tid = thread_position_in_threadgroup.x, at = thread_position_in_grid.x;\n"
      "float v = at < x.0 ? x[at] : 0.0f;\nKK_SIMD_REDUCE_SUM(buf, v, tid, 64u);\no[at] = buf[0];",
      "#define REDUCE(buf, val, tid, TG) \\\n  do { \\\n    (buf)[(tid)] = (val); \\\n    threadgroup_barrier(mem_flags::mem_threadgroup); "
      "\\\n"
      "    for (uint _s = (TG) / 2u; _s > 0u; _s >>= 1u) { \\\n      if ((tid) < _s) (buf)[(tid)] += (buf)[(tid) + _s]; \\\n"
      "      threadgroup_barrier(mem_flags::mem_threadgroup); \\\n    } \\\n  } while(0)\n"
      "threadgroup float buf[64]; uint tid = thread_position_in_threadgroup.x, at = thread_position_in_grid.x;\n"
      "float v = at < x.0 ? x[at] : 0.0f;\nREDUCE(buf, v, tid, 64u);\no[at] = buf[0];",
  };
  float sum[2] = {0};
  for (int i = 0; i < N; i++) sum[i / 64] += x[i];
  for (size_t s = 0; s < ZMI_COUNT(sources); s++) {
    run_tiles(sources[s], x, out);
    for (int i = 0; i < N; i++) assert_true(out[i] == sum[i / 64]);
  }
}

// ---- what the language has not ----

static void refused(void **state) {
  (void)state;
  static const struct {
    bool tiles;
    const char *source, *words, *caret;
  } wrong[] = {
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
      {false, "o = 0; for (uint k = 0; k < UINT_MAX; k++) { if (k > x) break; }", "k:1:8: a loop makes at most 2147483647 rounds",
       "^~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~"},
      {false, "o = 0; for (int k = INT_MIN; k <= INT_MAX; k++) o += 1;", "a loop makes at most 2147483647 rounds",
       "^~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~"},
      {true, "uint3 at = thread_position_in_grid; o[at.x] = 1;", "unknown type 'uint3'", "^~~~~"},
      {true, "device float *p = x; o[0] = p[0];", "unknown type 'device'", "^~~~~~"},
      {true, "#if K\no[0] = 1;\n#endif", "k:1:1: of the lines with '#' there are #define, #undef, #include and #pragma", "^~~"},
      {true, "o[0] = 1;\n#define S(a) #a\n", "k:2:14: '#' and '##' in macros are not part of the language", "^"},
      {false, "#define F(a, b) a + b\no = F(x);", "k:2:6: the macro F takes 2 operands, not 1", "^"},
      {false, "#define F(a, b) a + b\no = F(x, 1;", "k:2:6: the operands of this macro have no ')'", "^"},
      {false, "#define 3 4\no = x;", "k:1:9: the name of a macro is expected", "^"},
      {false, "#define A A2 + x\n#define A2 nothing\n\no = A;", "k:4:7: unknown name 'nothing'", "^~~~~~~"},
      {false, "o = 0; for (int i = 0; i < 9; i++) { if (x > 1) { if (x > 2) break; o += 1; } o += 2; }",
       "a jump in a branch inside another: the outer one ends with a jump too", "^"},
      {false, "o = 0; for (int i = 0; i < 9; i++) { if (x > 1) { break; o += 1; } }", "k:1:58: what stands behind a jump is never reached",
       "^"},
      {false, "o = 0; for (int i = 0; i < 9; i++) { break; }", "'break' stands at the end of a branch", "^~~~~"},
      {false, "o = 0; for (int i = 0, j = 9; i < j; i++, j -= 2) o += 1;", "k:1:35: the bound and the step of a loop are computed once",
       "^"},
      {false, "int n = 4; o = 0; for (int i = 0; i < 9; i += n) { if (x > i) n = 2; o += x; }",
       "the bound and the step of a loop are computed once", "^"},
      {false, "o = 0; do { o += x; } while (o < 9);", "'do' is for 'do { } while (0)' only: a loop has a bound", "^~"},
      {false, "o = 0; do { if (x > 0) { break; o = 1; } } while (0);", "what stands behind a jump is never reached", "^"},
      {false, "o = 0; do { if (x > 0) { if (x > 1) break; o = 1; } } while (0);", "the outer one ends with a jump too", "^"},
      {false, "o = 0; do { o = 1; break; } while (0);", "'break' stands at the end of a branch", "^~~~~"},
      {false, "o = 0; do { for (int i = 0; i < 3; i++) { o += 1; } if (x > 1) { o = 1; } } while (o < 9);", "'do' is for", "^~"},
      {false, "o = 0; for (; p < 3; p++) o += 1;", "k:1:15: unknown name 'p'", "^"},
      {false, "let p = 0; o = 0; for (; p < 3; p++) o += 1;", "a loop's counter is declared as int or uint", "^"},
      {false, "float p; o = 0; for (p = 0; p < 3; p++) o += 1;", "a loop's counter is declared as int or uint", "^"},
      {false, "int p = 0; o = 0; for (; p < 3; p++) { if (x > 1) p = 2; o += 1; }", "'p' is a loop's counter: it cannot be assigned", "^"},
      {false, "int p = 0, n = 2; o = 0; for (; p < 3; p += n) { o += 1; }", "the step of a counter of outside is a positive number", "^"},
      {false, "int p = 1; o = 0; for (; p < 3 * p; p++) { o += 1; }", "the bound and the step of a loop are computed once", "^"},
      {false, "int p = 1; o = 0; for (; x > p; p++) { o += 1; }", "a loop's counter is declared as int or uint", "^"},
      {true, "for (int i = 0; i < 9; i++) { barrier(); if (thread == 3) break; o[i] = 1; }",
       "a loop with barriers in it is not left by 'break'", "^~~"},
      {true, "for (int i = 0; i < 9; i++) { if (x[0] > i) break; o[i] = simd_sum(x[i]); }",
       "a loop with barriers in it is not left by 'break'", "^~~"},
      {false, "float f(float a) { return f(a); }\no = f(x);", "functions nest too deep: none calls itself", "^~~~"},
      {false, "float f(float a) { return a + q; }\no = f(x);", "k:1:31: unknown name 'q'", "^"},
      {false, "float f(float a) { let b = a; }\no = f(x);", "a function ends with 'return' and its value", "^"},
      {false, "float f(float a) { return a; }\no = f(x, x);", "f does not take 2 operands", "^~~~~~~"},
      {false, "float f(float a) { return a; }\no = f + x;", "'f' is a function: its operands are missing", "^"},
      {false, "void f(float a) { }\no = x;", "a function gives a value: the types are", "^~~~"},
      {false, "float f(device float *a) { return a[0]; }\no = f(x);", "operands of functions are values, as in 'float x'", "^~~~~~"},
      {true, "float v[2] = {1, 2, 3}; o[0] = v[0];", "more values than elements", "^~~~~~~~~~~~~~~~"},
  };
  for (size_t i = 0; i < ZMI_COUNT(wrong); i++) {
    zmi_kernel *k = wrong[i].tiles ? tiles(wrong[i].source)
                                   : zmi_kernel_define(&(zmi_kernel_text){
                                         .name = "k", .form = ZMI_FORM_ELEMENTS, .inputs = "x", .outputs = "o", .source = wrong[i].source});
    zmi_code *c = k ? zmi_kernel_code(k, (zm_dtype[]){ZM_F32}, (zm_dtype[]){ZM_F32}) : NULL;
    if (c) fail_msg("%s is taken", wrong[i].source);
    const char *error = zm_last_error(), *caret = strrchr(error, '\n');
    if (!strstr(error, wrong[i].words)) fail_msg("%s:\n%s", wrong[i].source, error);
    assert_non_null(caret);
    assert_string_equal(caret + 1 + strspn(caret + 1, " "), wrong[i].caret);
    zmi_kernel_release(k);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(values),
                                     cmocka_unit_test(rounds_of_loops),
                                     cmocka_unit_test(usual_loops_count_in_ints),
                                     cmocka_unit_test(error_of_mish),
                                     cmocka_unit_test(leaving_early),
                                     cmocka_unit_test(what_threads_are_called),
                                     cmocka_unit_test(memory_of_threads),
                                     cmocka_unit_test(sums_of_groups),
                                     cmocka_unit_test(refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
