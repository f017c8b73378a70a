// The kernel language: what parses and how it types, what a message shows, what is folded, and every derivative against finite differences,
// of first and second order.
#include "derivative_cases.h"
#include "evaluate.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

static zmi_kernel *define(zmi_form form, const char *inputs, const char *outputs, const char *source) {
  zmi_kernel_text t = {.name = "k", .form = form, .inputs = inputs, .outputs = outputs, .source = source};
  if (form == ZMI_FORM_TILES) t.groups = "1", t.threads = "32";
  for (int o = 0; o < ZMI_KERNEL_OUT && form == ZMI_FORM_TILES; o++) t.shape[o] = "32";
  return zmi_kernel_define(&t);
}

static zmi_code *code_of(zmi_form form, const char *inputs, const char *outputs, const char *source, zm_dtype dtype) {
  zmi_kernel *k = define(form, inputs, outputs, source);
  if (!k) fail_msg("%s\n%s", source, zm_last_error());
  zm_dtype in[ZMI_KERNEL_IN];
  for (int i = 0; i < ZMI_KERNEL_IN; i++) in[i] = dtype;
  zmi_code *c = zmi_kernel_code(k, in, NULL);
  if (!c) fail_msg("%s\n%s", source, zm_last_error());
  zmi_kernel_release(k);
  return c;
}

static void assert_printed(zmi_code *c, const char *expected) {
  zmi_text out = {0};
  assert_int_equal(zmi_code_print(c, &out), ZM_OK);
  assert_string_equal(zmi_text_str(&out), expected);
  zmi_text_release(&out);
  zmi_code_free(c);
}

// ---- parsing ----
static void precedence_and_spellings(void **state) {
  (void)state;
  static const char *const same[][2] = {
      {"a + b * c", "a + (b * c)"},
      {"a - b - c", "(a - b) - c"},
      {"-a * b", "(-a) * b"},
      {"a < b == c > d", "(a < b) == (c > d)"},
      {"a < b || c < d && a < d", "a < b || (c < d && a < d)"},
      {"a < b ? c : d < a ? a : b", "(a < b) ? c : ((d < a) ? a : b)"},
      {"metal::precise::exp(a) + b + c * d", "exp(a) + b + c * d"},
      {"kk_silu(a) * metal::fast::tanh(b) - std::abs(c) + d", "silu(a) * tanh(b) - abs(c) + d"},
      {"(T)1 + a + b + c + d", "1.0f + a + b + c + d"},
      {"static_cast<float>(a) + (float)b + float(c) + d", "a + b + c + d"},
      {"select(a, b, true) + c + d", "b + c + d"},
      {"a /* nothing */ + b // here\n + c + d", "a + b + c + d"},
      {"let t = a + b; float u = t * c; u = u + d; u", "(a + b) * c + d"},
      {"clamp(a, b, c) + d", "min(max(a, b), c) + d"},
      {"int(a) << 2 & 255 | int(b) % 3 ^ int(c + d)", "((int(a) << 2) & 255) | ((int(b) % 3) ^ int(c + d))"},
      {"1.5e1f * a + b + c + d", "0x1.ep+3 * a + b + c + d"},
      {"a + 0.1f + b + c + d", "a + 0.1 + b + c + d"},
      {"0x10 * a + b + c + d", "16 * a + b + c + d"},
      {"powr(a, b) + fmin(c, d)", "pow(a, b) + min(c, d)"},
  };
  for (size_t i = 0; i < ZMI_COUNT(same); i++) {
    zmi_code *x = code_of(ZMI_FORM_ELEMENTS, "a b c d", NULL, same[i][0], ZM_F32);
    zmi_code *y = code_of(ZMI_FORM_ELEMENTS, "a b c d", NULL, same[i][1], ZM_F32);
    for (int trial = 0; trial < 8; trial++) {
      double in[ZMI_CODE_MAX][8], a[ZMI_CODE_MAX][8], b[ZMI_CODE_MAX][8];
      for (int k = 0; k < 4; k++) in[k][0] = random_between(0.5, 9);
      evaluate(x, 1, in, a, NULL);
      evaluate(y, 1, in, b, NULL);
      if (a[0][0] != b[0][0]) fail_msg("%s is not %s", same[i][0], same[i][1]);
    }
    zmi_code_free(x);
    zmi_code_free(y);
  }
}

static void names_are_found(void **state) {
  (void)state;
  zmi_kernel *k = define(ZMI_FORM_ELEMENTS, NULL, NULL, "gate * sigmoid(gate) * up + PI");
  const zmi_kernel_facts *f = zmi_kernel_facts_of(k);
  assert_int_equal(f->nin, 2);
  assert_string_equal(f->in[0], "gate");
  assert_string_equal(f->in[1], "up");
  assert_int_equal(f->nout, 1);
  zmi_kernel_release(k);
  k = define(ZMI_FORM_ROWS, "x, w", "y m", "m = max(x); elements { y = x * w - m; }");
  f = zmi_kernel_facts_of(k);
  assert_int_equal(f->nout, 2);
  assert_false(f->per_row[0]);
  assert_true(f->per_row[1]);
  zmi_kernel_release(k);
}

static void types_and_dtypes(void **state) {
  (void)state;
  static const struct {
    zmi_form form;
    const char *outputs, *source;
    zm_dtype in, wanted, out;
  } cases[] = {
      {ZMI_FORM_ELEMENTS, NULL, "a + 1", ZM_BF16, ZM_DTYPE_DEFAULT, ZM_BF16},
      {ZMI_FORM_ELEMENTS, NULL, "a > 1", ZM_F16, ZM_DTYPE_DEFAULT, ZM_F16},
      {ZMI_FORM_ELEMENTS, NULL, "a > 1", ZM_F16, ZM_BOOL, ZM_BOOL},
      {ZMI_FORM_ELEMENTS, NULL, "a + 1", ZM_I8, ZM_DTYPE_DEFAULT, ZM_I32},
      {ZMI_FORM_ELEMENTS, NULL, "a + 1", ZM_U16, ZM_DTYPE_DEFAULT, ZM_U32},
      {ZMI_FORM_ELEMENTS, NULL, "a + 1", ZM_I64, ZM_DTYPE_DEFAULT, ZM_I64},
      {ZMI_FORM_ELEMENTS, NULL, "a * 0.5", ZM_I32, ZM_DTYPE_DEFAULT, ZM_F32},
      {ZMI_FORM_ELEMENTS, NULL, "a == 2", ZM_I32, ZM_DTYPE_DEFAULT, ZM_BOOL},
      {ZMI_FORM_ELEMENTS, NULL, "sqrt(a)", ZM_BOOL, ZM_DTYPE_DEFAULT, ZM_F32},
      {ZMI_FORM_ROWS, "y", "y = argmax(a);", ZM_BF16, ZM_DTYPE_DEFAULT, ZM_I32},
      {ZMI_FORM_ROWS, "y", "y = argmax(a);", ZM_BF16, ZM_U32, ZM_U32},
      {ZMI_FORM_ROWS, "y", "y = sum(a);", ZM_BF16, ZM_F32, ZM_F32},
      {ZMI_FORM_ROWS, "y", "y = sum(a);", ZM_I8, ZM_DTYPE_DEFAULT, ZM_I32},
      {ZMI_FORM_ROWS, "y", "y = sumsq(a);", ZM_U8, ZM_DTYPE_DEFAULT, ZM_U32},
      {ZMI_FORM_ROWS, "y", "acc = 0; elements { acc = acc * 0.5 + a; } y = acc;", ZM_F16, ZM_DTYPE_DEFAULT, ZM_F16},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    zmi_kernel *k = define(cases[i].form, "a", cases[i].outputs, cases[i].source);
    zm_dtype result = cases[i].wanted;
    zmi_code *c = zmi_kernel_code(k, &cases[i].in, &result);
    if (!c) fail_msg("%s", zm_last_error());
    if (result != cases[i].out) fail_msg("%s gives %s", cases[i].source, zm_dtype_name(result));
    zmi_code_free(c);
    zmi_kernel_release(k);
  }
}

// A variable without a written type is as wide as anything that it is assigned.
static void variables_are_wide(void **state) {
  (void)state;
  zmi_code *c =
      code_of(ZMI_FORM_ELEMENTS, "x", "y", "s = 0; n = 0; for (int j = 0; j < 3; j++) { s += x * j; n += j; } y = s / n;", ZM_F32);
  double in[ZMI_CODE_MAX][8] = {{0.25}}, out[ZMI_CODE_MAX][8];
  evaluate(c, 1, in, out, NULL);
  assert_true(out[0][0] == 0.25);
  int floats = 0;
  for (size_t i = 0; i < c->count; i++) floats += c->insts[i].op == ZMI_K_VAR && c->insts[i].type == ZMI_C_FLOAT;
  assert_int_equal(floats, 1);
  zmi_code_free(c);
}

// ---- messages ----
static void errors_show_the_place(void **state) {
  (void)state;
  static const struct {
    zmi_form form;
    const char *inputs, *outputs, *source, *message;
  } cases[] = {
      {ZMI_FORM_ELEMENTS, NULL, NULL, "x * tanhh(x)",
       "kernel k:1:5: unknown function 'tanhh'; did you mean 'tanh'?\n  x * tanhh(x)\n      ^~~~~"},
      {ZMI_FORM_ELEMENTS, NULL, NULL, "x +", "kernel k:1:4: a value is expected, not the end\n  x +\n     ^"},
      {ZMI_FORM_ELEMENTS, "gate up", NULL, "gate * upp",
       "kernel k:1:8: unknown name 'upp'; did you mean 'up'?\n  gate * upp\n         ^~~"},
      {ZMI_FORM_ELEMENTS, "x", "y", "let t = x;\ny = exp(t, x);",
       "kernel k:2:5: exp takes 1 operand, not 2\n  y = exp(t, x);\n      ^~~~~~~~~"},
      {ZMI_FORM_ELEMENTS, "x", "y", "let t = x;", "kernel k:1:11: the result 'y' is never assigned\n  let t = x;\n            ^"},
      {ZMI_FORM_ELEMENTS, "x", "y", "x = 1; y = x;",
       "kernel k:1:1: 'x' is an input: it cannot be assigned; 'let' declares a name of your own\n  x = 1; y = x;\n  ^"},
      {ZMI_FORM_ELEMENTS, "x", "y", "float y = x;",
       "kernel k:1:7: this is a result: assign it without declaring it\n  float y = x;\n        ^"},
      {ZMI_FORM_ELEMENTS, "x", "y", "while (1) {}",
       "kernel k:1:1: 'while' is not part of the language: a loop has a bound, as in 'for (int n = 0; n < 100; n++) { if (!(condition)) "
       "break; ... }'\n  while (1) {}\n  ^~~~~"},
      {ZMI_FORM_ELEMENTS, "x", "y", "y = 1.5.2;", "kernel k:1:8: ';' is expected after the statement, not '.2'\n  y = 1.5.2;\n         ^~"},
      {ZMI_FORM_ELEMENTS, "x", "y", "y = \u00e9 * x;",
       "kernel k:1:5: the character '\u00e9' means nothing here\n  y = \u00e9 * x;\n      ^"},
      {ZMI_FORM_ELEMENTS, "x", "y", "/* \u20ac\u00e9 */ y = x $ 2;",
       "kernel k:1:16: the character '$' means nothing here\n  /* \u20ac\u00e9 */ y = x $ 2;\n                 ^"},
      {ZMI_FORM_ELEMENTS, "x", "y", "y = \xc3 * x;", "kernel k:1:5: the byte 0xc3 means nothing here\n  y = ? * x;\n      ^"},
      {ZMI_FORM_ELEMENTS, "x", "y", "y = \xe2\x80\xae * x;", "kernel k:1:5: the byte 0xe2 means nothing here\n  y = ??? * x;\n      ^"},
      {ZMI_FORM_ELEMENTS, "x", "y", "y = x $ 2;", "kernel k:1:7: the character '$' means nothing here\n  y = x $ 2;\n        ^"},
      {ZMI_FORM_ELEMENTS, "x", "y", "y = x; /* no", "kernel k:1:8: a comment that does not end\n  y = x; /* no\n         ^~"},
      {ZMI_FORM_ELEMENTS, "x", "y", "for (int j = 0; x > 1; j++) { } y = x;",
       "kernel k:1:17: a loop is bounded: its condition is 'counter < bound' (or <=, >, >=)\n  for (int j = 0; x > 1; j++) { } y = x;\n    "
       "              ^~~~~"},
      {ZMI_FORM_ROWS, "x", "y", "y = x;",
       "kernel k:1:5: 'x' has a value at each place: read it in a block 'elements { }' or a reduction\n  y = x;\n      ^"},
      {ZMI_FORM_ROWS, "x", "y", "elements { s = sum(x); y = x / s; }",
       "kernel k:1:32: 's' is a reduction of this block: it is known only after it\n  elements { s = sum(x); y = x / s; }\n                "
       "                 ^"},
      {ZMI_FORM_ROWS, "x", "y", "elements { y = x / sum(x); }",
       "kernel k:1:16: this mixes a reduction, known after the block, with values at each place: give the reduction a name first\n"
       "  elements { y = x / sum(x); }\n                 ^~~~~~~~~~"},
      {ZMI_FORM_ROWS, "x", "y", "elements { y = x; } elements { y = x; }",
       "kernel k:1:32: the result 'y' was assigned in another block\n  elements { y = x; } elements { y = x; }\n                           "
       "      ^"},
      {ZMI_FORM_TILES, "x", "y", "y[thread] = x;",
       "kernel k:1:13: 'x' is a buffer: give a place, as in x[0]\n  y[thread] = x;\n              ^"},
      {ZMI_FORM_TILES, "x", "y", "float a[4] = 0;",
       "kernel k:1:14: '{' is expected after '=', as in '= {0}', not '0'\n  float a[4] = 0;\n               ^"},
      {ZMI_FORM_ELEMENTS, "x x", "y", "y = x;", "kernel k:1:3: this name was used before\n  x x\n    ^"},
      {ZMI_FORM_ELEMENTS, "for", "y", "y = x;", "kernel k:1:1: this word is part of the language\n  for\n  ^~~"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    zmi_kernel *k = define(cases[i].form, cases[i].inputs, cases[i].outputs, cases[i].source);
    if (k) fail_msg("%s was taken", cases[i].source);
    assert_string_equal(zm_last_error(), cases[i].message);
  }
}

static void type_errors_show_the_place(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"x & 1", "kernel k:1:1: '&' is for integers, this is float and int\n  x & 1\n  ^~~~~"},
      {"x^2", "kernel k:1:1: '^' is for integers, this is float and int; a power is pow(a, b)\n  x^2\n  ^~~"},
      {"1 + ~x", "kernel k:1:5: '~' is for integers, this is float\n  1 + ~x\n      ^~"},
      {"as_type<long>(x)", "kernel k:1:1: as_type goes between float, int and uint\n  as_type<long>(x)\n  ^~~~~~~~~~~~~~~~"},
      {"for (int j = 0; j < x; j++) { } x",
       "kernel k:1:21: an integer is expected, this is float: convert it with int(...), or declare its parameter as in \"int k\"\n"
       "  for (int j = 0; j < x; j++) { } x\n                      ^"},
      {"for (int j = 0; j > 3; j++) { } x",
       "kernel k:1:1: the loop's counter moves away from its bound\n  for (int j = 0; j > 3; j++) { } x\n  ^~~~~~~~~~~~~~~~~~~~~~~~~~~"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    zmi_kernel *k = define(ZMI_FORM_ELEMENTS, NULL, NULL, cases[i][0]);
    if (!k) fail_msg("%s", zm_last_error());
    zm_dtype f = ZM_F32;
    assert_null(zmi_kernel_code(k, &f, NULL));
    assert_string_equal(zm_last_error(), cases[i][1]);
    zmi_kernel_release(k);
  }
}

// Sources that would take the parser out of its stack or its memory.
static void hostile_sources(void **state) {
  (void)state;
  enum { SIZE = 200000 };
  char *s = malloc(SIZE + 16);
  static const char *const units[] = {"(",   "-", "x+", "x?", "exp(", "{", "if(x)", "x?x:", "(float)", "mish(", "!", "for(int a=0;a<x;a++)",
                                      "x&&", "[", "x<", "1,"};
  for (size_t u = 0; u < ZMI_COUNT(units); u++) {
    size_t n = strlen(units[u]), used = 0;
    while (used + n < SIZE) memcpy(s + used, units[u], n), used += n;
    s[used] = 0;
    for (int outputs = 0; outputs < 2; outputs++) {
      zmi_kernel *k = define(ZMI_FORM_ELEMENTS, "x", outputs ? "y" : NULL, s);
      assert_null(k);
      assert_true(strlen(zm_last_error()) > 10);
    }
  }
  memset(s, 'x', SIZE);
  s[SIZE] = 0;
  assert_null(define(ZMI_FORM_ELEMENTS, "y", NULL, s));
  free(s);
}

// ---- folding ----
static void constants_fold(void **state) {
  (void)state;
  assert_printed(code_of(ZMI_FORM_ELEMENTS, NULL, NULL, "x * ((1 + 2) / 2 * 0.5f) + select(x, x, x > 0)", ZM_F32),
                 "elements k(float32) -> (float32)\n"
                 "  %0 = input float #0\n  %1 = const float 0.5\n  %2 = mul float %0, %1\n  %3 = add float %0, %2\n  output #0 %3\n");
  assert_printed(code_of(ZMI_FORM_ELEMENTS, NULL, NULL, "(T)x * (T)0.1f + exp(x) / exp(x) * 1", ZM_BF16),
                 "elements k(bfloat16) -> (bfloat16)\n"
                 "  %0 = input float #0\n  %1 = const float 0.100097656\n  %2 = mul float %0, %1\n  %3 = exp float %0\n"
                 "  %4 = div float %3, %3\n  %5 = add float %2, %4\n  output #0 %5\n");
  zmi_code *c = code_of(ZMI_FORM_ELEMENTS, NULL, NULL, "x + exp(1.5f)", ZM_F32);
  bool found = false;
  for (size_t i = 0; i < c->count; i++) found |= c->insts[i].op == ZMI_K_CONST && c->insts[i].imm.f == zmi_expf(1.5f);
  assert_true(found);
  zmi_code_free(c);
  c = code_of(ZMI_FORM_ELEMENTS, NULL, NULL,
              "x + log1p(2.0f) * erf(0.3f) + pow(1.5f, 2.5f) + atan2(1.0f, 3.0f) - 7.5f % 2.0f + rint(2.5f) + sin(1e4f) * erfinv(0.5f)",
              ZM_F32);
  for (size_t i = 0; i < c->count; i++) {
    zmi_cop op = c->insts[i].op;
    assert_true(op == ZMI_K_CONST || op == ZMI_K_INPUT || op == ZMI_K_ADD || op == ZMI_K_SUB || op == ZMI_K_OUTPUT);
  }
  double one[ZMI_CODE_MAX][8] = {{0}}, sum[ZMI_CODE_MAX][8];
  evaluate(c, 1, one, sum, NULL);
  assert_true(fabs(sum[0][0] - (log1p(2) * erf(0.3) + pow(1.5, 2.5) + atan2(1, 3) - 1.5 + 2 + sin(1e4) * 0.476936276204)) < 1e-6);
  zmi_code_free(c);
  // x * 1 is x only where x is no denormal: an input may be one
  c = code_of(ZMI_FORM_ELEMENTS, NULL, NULL, "x * 1", ZM_F32);
  assert_int_equal(c->count, 4);
  zmi_code_free(c);
}

static void integers_fold(void **state) {
  (void)state;
  static const struct {
    const char *source;
    int64_t value;
  } cases[] = {
      {"7 / 2", 3},
      {"-7 / 2", -3},
      {"-7 % 3", -1},
      {"5 / 0", 0},
      {"5 % 0", 0},
      {"1 << 33", 2},
      {"-8 >> 1", -4},
      {"0xffffffff >> 28", 15},
      {"2147483647 + 1", -2147483648LL},
      {"~5 & 0xff", 250},
      {"popcount(255)", 8},
      {"int(3.99f)", 3},
      {"int(-1e20f)", -2147483648LL},
      {"int(NAN)", 0},
      {"uint(-1.0f)", 0},
      {"as_type<int>(1.0f)", 0x3f800000},
      {"min(3, -2)", -2},
      {"abs(-9)", 9},
      {"true + true", 2},
      {"3 > 2 && !(1 > 2)", 1},
      {"int(long(1) << 31 >> 30)", 2},
      {"(int)uint(7) - 8", -1},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    char source[128];
    snprintf(source, sizeof source, "i + int(%s)", cases[i].source);
    zmi_code *c = code_of(ZMI_FORM_ELEMENTS, "x", NULL, source, ZM_I32);
    bool found = cases[i].value == 0 && c->insts[0].op == ZMI_K_PLACE;
    for (size_t k = 0; k < c->count; k++) found |= c->insts[k].op == ZMI_K_CONST && c->insts[k].imm.i == cases[i].value;
    if (!found || c->count > 4) fail_msg("%s", cases[i].source);
    zmi_code_free(c);
  }
}

// ---- derivatives ----
static void shift(const zmi_code *c, int d, double (*x)[8], double (*t)[8], double h, double (*y)[8]) { // f(x + h t)
  double moved[ZMI_CODE_MAX][8];
  for (int i = 0; i < c->nin; i++) {
    const bool moves = zmi_ctype_of(c->in[i]) == ZMI_C_FLOAT;
    for (int k = 0; k < d; k++) moved[i][k] = x[i][k] + (moves ? h * t[i][k] : 0);
  }
  evaluate(c, d, moved, y, NULL);
}

static double scale_of(double a, double b) {
  return 1 + fabs(a) + fabs(b);
}

static const double STEP = 1e-5;

static void check_code(const zmi_code *c, int d, double (*x)[8], int order, const char *what);

static int width_of(bool per_row, int d) {
  return per_row ? 1 : d;
}

// The gradient of the inputs that are wanted, floats, for the cotangents g, whatever kernels it takes: one, one after a kernel of values,
// or those of two parts. The derivatives of each of them are checked `order` - 1 times.
static void gradient_of(const zmi_code *c, const bool *wanted, int d, double (*x)[8], double (*g)[8], double (*gradient)[8], int order,
                        const char *what) {
  bool all[ZMI_CODE_MAX];
  memset(all, true, sizeof all);
  double wide[ZMI_CODE_MAX][8], made[ZMI_CODE_MAX][8], back[ZMI_CODE_MAX][8];
  memcpy(wide, x, (size_t)c->nin * sizeof *wide);
  memset(gradient, 0, (size_t)c->nin * sizeof *gradient);
  zmi_code *traces, *vjp = zmi_code_vjp_traced(c, all, wanted, &traces);
  if (vjp) {
    const int count = traces ? traces->nout : 0;
    assert_int_equal(vjp->nin, c->nin + count + c->nout);
    if (traces) evaluate(traces, d, x, wide + c->nin, NULL);
    memcpy(wide + c->nin + count, g, (size_t)c->nout * sizeof *wide);
    evaluate(vjp, d, wide, back, NULL);
    for (int i = 0, n = 0; i < c->nin; i++) {
      if (wanted[i]) memcpy(gradient[i], back[n++], sizeof *gradient);
    }
    if (order > 1) check_code(vjp, d, wide, order - 1, what);
    if (order > 1 && traces) check_code(traces, d, x, order - 1, what);
    zmi_code_free(vjp), zmi_code_free(traces);
    return;
  }
  zmi_parts p;
  bool of_rest[ZMI_CODE_MAX] = {false};
  if (zmi_code_parts(c, wanted, &p) != ZM_OK || !p.first) fail_msg("%s (order %d): %s", what, order, zm_last_error());
  const int own = p.first->nout - p.passed;
  double there[ZMI_CODE_MAX][8] = {{0}}, rest[ZMI_CODE_MAX][8] = {{0}};
  for (int o = 0; o < c->nout; o++) memcpy(p.result[o] < 0 ? rest[~p.result[o]] : there[p.result[o]], g[o], sizeof *g);
  evaluate(p.first, d, x, made, NULL);
  memcpy(wide + c->nin, made + own, (size_t)p.passed * sizeof *wide);
  memcpy(of_rest, wanted, (size_t)c->nin * sizeof *of_rest);
  memcpy(of_rest + c->nin, p.active, (size_t)p.passed * sizeof *of_rest);
  gradient_of(p.rest, of_rest, d, wide, rest, back, order, what);
  memcpy(there + own, back + c->nin, (size_t)p.passed * sizeof *there);
  gradient_of(p.first, wanted, d, x, there, made, order, what);
  for (int i = 0; i < c->nin; i++) {
    for (int k = 0; k < d; k++) gradient[i][k] = made[i][k] + back[i][k];
  }
  zmi_parts_release(&p);
}

// Tangents against differences along `steps`; gives them. False where they are left out.
static bool check_tangents(const zmi_code *c, int d, double (*x)[8], double (*steps)[8], double (*tangent)[8], int order,
                           const char *what) {
  bool floats[ZMI_CODE_MAX] = {false};
  double wide[ZMI_CODE_MAX][8], plus[ZMI_CODE_MAX][8], minus[ZMI_CODE_MAX][8];
  int n = c->nin;
  memcpy(wide, x, (size_t)c->nin * sizeof *wide);
  for (int i = 0; i < c->nin; i++) {
    floats[i] = zmi_ctype_of(c->in[i]) == ZMI_C_FLOAT;
    if (floats[i]) memcpy(wide[n++], steps[i], sizeof *wide);
  }
  zmi_code *jvp = zmi_code_jvp(c, floats);
  if (!jvp && strstr(zm_last_error(), "no derivative of a largest, smallest or product in a block")) return false;
  if (!jvp) fail_msg("%s: %s", what, zm_last_error());
  assert_int_equal(jvp->nin, n);
  shift(c, d, x, steps, STEP, plus);
  shift(c, d, x, steps, -STEP, minus);
  evaluate(jvp, d, wide, tangent, NULL);
  for (int o = 0; o < c->nout; o++) {
    for (int k = 0; k < width_of(c->per_row[o], d); k++) {
      double difference = zmi_ctype_of(c->out[o]) == ZMI_C_FLOAT ? (plus[o][k] - minus[o][k]) / (2 * STEP) : 0;
      if (!(fabs(tangent[o][k] - difference) <= 3e-6 * scale_of(difference, 0))) {
        fail_msg("%s: tangent of %d at %d (order %d): %.9g, by differences %.9g", what, o, k, order, tangent[o][k], difference);
      }
    }
  }
  if (order > 1) check_code(jvp, d, wide, order - 1, what);
  zmi_code_free(jvp);
  return true;
}

// Tangents and gradients of a code at x against differences; then, `order` - 1 times more, those of its tangents and gradients.
static void check_code(const zmi_code *c, int d, double (*x)[8], int order, const char *what) {
  double plus[ZMI_CODE_MAX][8], minus[ZMI_CODE_MAX][8], tangent[ZMI_CODE_MAX][8], gradient[ZMI_CODE_MAX][8];
  double steps[ZMI_CODE_MAX][8] = {{0}}, g[ZMI_CODE_MAX][8] = {{0}};
  bool floats[ZMI_CODE_MAX] = {false};
  for (int i = 0; i < c->nin; i++) {
    floats[i] = zmi_ctype_of(c->in[i]) == ZMI_C_FLOAT;
    for (int k = 0; k < d && floats[i]; k++) steps[i][k] = random_between(-1, 1);
  }
  for (int o = 0; o < c->nout; o++) {
    for (int k = 0; k < d && zmi_ctype_of(c->out[o]) == ZMI_C_FLOAT; k++) g[o][k] = random_between(-1, 1);
  }
  const bool forwards = check_tangents(c, d, x, steps, tangent, order, what);
  gradient_of(c, floats, d, x, g, gradient, order, what);
  double left = 0, right = 0, size = 0; // gradient . steps = g . tangent
  for (int i = 0; i < c->nin && forwards; i++) {
    for (int k = 0; k < width_of(c->in_per_row[i], d); k++) left += gradient[i][k] * steps[i][k], size += fabs(gradient[i][k]);
  }
  for (int o = 0; o < c->nout && forwards; o++) {
    for (int k = 0; k < width_of(c->per_row[o], d); k++) right += g[o][k] * tangent[o][k], size += fabs(tangent[o][k]);
  }
  if (!(fabs(left - right) <= 3e-6 * (1 + size))) fail_msg("%s: gradient (order %d): %.9g, from tangents %.9g", what, order, left, right);
  for (int i = 0; i < c->nin; i++) { // each component
    for (int k = 0; k < width_of(c->in_per_row[i], d) && floats[i]; k++) {
      double unit[ZMI_CODE_MAX][8] = {{0}}, difference = 0;
      unit[i][k] = 1;
      shift(c, d, x, unit, STEP, plus);
      shift(c, d, x, unit, -STEP, minus);
      for (int o = 0; o < c->nout; o++) {
        for (int q = 0; q < width_of(c->per_row[o], d); q++) difference += g[o][q] * (plus[o][q] - minus[o][q]) / (2 * STEP);
      }
      if (!(fabs(gradient[i][k] - difference) <= 1e-5 * scale_of(difference, 0))) {
        fail_msg("%s: gradient of %d at %d (order %d): %.9g, by differences %.9g", what, i, k, order, gradient[i][k], difference);
      }
    }
  }
}

static void check(zmi_form form, const char *inputs, const char *outputs, const char *source, int d, double low, double high, int order) {
  zmi_code *c = code_of(form, inputs, outputs, source, ZM_F32);
  double x[ZMI_CODE_MAX][8];
  for (int trial = 0; trial < 3; trial++) {
    for (int i = 0; i < c->nin; i++) {
      for (int k = 0; k < 8; k++) x[i][k] = random_between(low, high);
    }
    check_code(c, d, x, order, source);
  }
  zmi_code_free(c);
}

static void functions_have_derivatives(void **state) {
  (void)state;
  for (size_t i = 0; i < ZMI_COUNT(derivative_functions); i++)
    check(ZMI_FORM_ELEMENTS, "a b c", NULL, derivative_functions[i].source, 1, derivative_functions[i].low, derivative_functions[i].high,
          2);
}

static void loops_and_branches_have_derivatives(void **state) {
  (void)state;
  for (size_t i = 0; i < ZMI_COUNT(derivative_loops); i++)
    check(ZMI_FORM_ELEMENTS, derivative_loops[i].inputs, derivative_loops[i].outputs, derivative_loops[i].source, 1,
          derivative_loops[i].low, derivative_loops[i].high, 2);
}

static void rows_have_derivatives(void **state) {
  (void)state;
  for (int d = 1; d <= 5; d += 2) {
    for (size_t i = 0; i < ZMI_COUNT(derivative_one); i++) check(ZMI_FORM_ROWS, "x w", "y", derivative_one[i], d, 0.3, 1.5, 1);
    for (size_t i = 0; i < ZMI_COUNT(derivative_each); i++) check(ZMI_FORM_ROWS, "x w", "y", derivative_each[i], d, 0.3, 1.5, 1);
  }
  for (size_t i = 0; i < ZMI_COUNT(derivative_one); i++) check(ZMI_FORM_ROWS, "x w", "y", derivative_one[i], 3, 0.3, 1.5, 2);
  for (size_t i = 0; i < ZMI_COUNT(derivative_each); i++) check(ZMI_FORM_ROWS, "x w", "y", derivative_each[i], 3, 0.3, 1.5, 2);
}

// Gradients that need the accumulators of all places: those are results of a code of their own first.
static void traced_rows_have_gradients(void **state) {
  (void)state;
  bool all[ZMI_CODE_MAX];
  memset(all, true, sizeof all);
  for (size_t i = 0; i < ZMI_COUNT(derivative_traced); i++) {
    zmi_code *c = code_of(ZMI_FORM_ROWS, "x w", "y", derivative_traced[i], ZM_F32), *traces = NULL;
    assert_null(zmi_code_vjp(c, all, all));
    zmi_code *v = zmi_code_vjp_traced(c, all, all, &traces);
    if (!v) fail_msg("%s: %s", derivative_traced[i], zm_last_error());
    assert_non_null(traces);
    zmi_code_free(c), zmi_code_free(v), zmi_code_free(traces);
    check(ZMI_FORM_ROWS, "x w", "y", derivative_traced[i], 5, 0.3, 1.2, 1);
    const bool extreme = strstr(derivative_traced[i], "max(acc"); // one operand of the gradient by itself moves it off its place
    check(ZMI_FORM_ROWS, "x w", "y", derivative_traced[i], 3, 0.3, 1.2, extreme ? 1 : 2);
  }
}

// Loops and branches between blocks of elements, whatever their bounds; variables of lanes whose slopes ask for no values.
static void loops_of_rows_have_gradients(void **state) {
  (void)state;
  for (int d = 1; d <= 5; d += 2) {
    for (size_t i = 0; i < ZMI_COUNT(derivative_row_loops); i++)
      check(ZMI_FORM_ROWS, "x w", "y", derivative_row_loops[i], d, 0.3, 1.5, d == 3 ? 2 : 1);
  }
}

// Serial blocks of both directions, or beside joined lanes: the gradient is that of two kernels, one after the other.
static void rows_in_parts_have_gradients(void **state) {
  (void)state;
  bool all[ZMI_CODE_MAX];
  memset(all, true, sizeof all);
  for (size_t i = 0; i < ZMI_COUNT(derivative_parts); i++) {
    zmi_code *c = code_of(ZMI_FORM_ROWS, "x w", "y", derivative_parts[i], ZM_F32), *traces;
    assert_null(zmi_code_vjp_traced(c, all, all, &traces));
    assert_null(traces);
    assert_int_equal(zm_last_status(), ZM_ERROR_UNSUPPORTED);
    zmi_code_free(c);
    check(ZMI_FORM_ROWS, "x w", "y", derivative_parts[i], 5, 0.3, 1.2, 1);
    check(ZMI_FORM_ROWS, "x w", "y", derivative_parts[i], 3, 0.3, 1.2, 2);
  }
}

// Gradients of one operand alone: variables that do not depend on it may still be needed on the way back.
static void rows_have_gradients_of_one_operand(void **state) {
  (void)state;
  double x[ZMI_CODE_MAX][8], g[ZMI_CODE_MAX][8], both[ZMI_CODE_MAX][8], one[ZMI_CODE_MAX][8];
  for (size_t n = 0; n < ZMI_COUNT(derivative_rows); n++) {
    for (size_t i = 0; i < derivative_rows[n].count; i++) {
      const char *source = derivative_rows[n].sources[i];
      zmi_code *c = code_of(ZMI_FORM_ROWS, "x w", "y", source, ZM_F32);
      for (int k = 0; k < 5; k++) x[0][k] = random_between(0.3, 1.2), x[1][k] = random_between(0.3, 1.2), g[0][k] = random_between(-1, 1);
      gradient_of(c, (bool[ZMI_CODE_MAX]){true, true}, 5, x, g, both, 1, source);
      for (int operand = 0; operand < 2; operand++) {
        gradient_of(c, (bool[ZMI_CODE_MAX]){operand == 0, operand == 1}, 5, x, g, one, 1, source);
        for (int k = 0; k < 5; k++) {
          if (!(fabs(one[operand][k] - both[operand][k]) <= 1e-9 * scale_of(both[operand][k], 0)))
            fail_msg("%s: gradient of %d at %d: %.9g, with that of the other %.9g", source, operand, k, one[operand][k], both[operand][k]);
        }
      }
      zmi_code_free(c);
    }
  }
}

// Operands of 16 bits are wider where both parts read them, so that their gradient is rounded once.
static void parts_are_of_wider_operands(void **state) {
  (void)state;
  zmi_code *c = code_of(ZMI_FORM_ROWS, "x w v", "y z",
                        "a = 0; elements { a = a * 0.5f + x * v; y = a; } elements reverse { a = a * x + w; } z = a;", ZM_BF16);
  zmi_parts p;
  assert_int_equal(zmi_code_parts(c, (bool[ZMI_CODE_MAX]){true, true, false}, &p), ZM_OK);
  assert_non_null(p.first);
  assert_true(p.first->in[0] == ZM_F32 && p.rest->in[0] == ZM_F32);
  assert_true(p.first->in[1] == ZM_BF16 && p.rest->in[1] == ZM_BF16 && p.first->in[2] == ZM_BF16 && p.rest->in[2] == ZM_BF16);
  assert_true(p.passed == 1 && p.active[0] && p.first->nout == 2 && p.rest->nin == 4 && p.rest->in_per_row[3]);
  assert_true(p.result[0] == 0 && p.result[1] == ~0 && p.first->out[0] == ZM_BF16 && p.rest->out[0] == ZM_BF16);
  zmi_parts_release(&p);
  zmi_code_free(c);
}

static double gradient_at(zmi_form form, const char *source, const double *x, int n, int of) { // of the row's result by x[of]
  zmi_code *c = code_of(form, form == ZMI_FORM_ROWS ? "x" : "a b", form == ZMI_FORM_ROWS ? "y" : NULL, source, ZM_F32);
  bool all[ZMI_CODE_MAX];
  memset(all, true, sizeof all);
  zmi_code *v = zmi_code_vjp(c, all, all);
  double in[ZMI_CODE_MAX][8] = {{0}}, out[ZMI_CODE_MAX][8];
  for (int i = 0; i < n; i++) *(form == ZMI_FORM_ROWS ? &in[0][i] : &in[i][0]) = x[i];
  in[form == ZMI_FORM_ROWS ? 1 : 2][0] = 1;
  evaluate(v, form == ZMI_FORM_ROWS ? n : 1, in, out, NULL);
  zmi_code_free(c);
  zmi_code_free(v);
  return form == ZMI_FORM_ROWS ? out[0][of] : out[of][0];
}

// What MLX gives at ties, zeros and kinks (mx.grad on the CPU, 0.30).
static void ties_are_as_in_mlx(void **state) {
  (void)state;
  const double same[] = {1, 1}, zero[] = {0, 2}, row[] = {1, 3, 3, 2}, one_zero[] = {0, 2, 3}, two_zeros[] = {0, 0, 3};
  assert_true(gradient_at(ZMI_FORM_ELEMENTS, "max(a, b)", same, 2, 0) == 0 && gradient_at(ZMI_FORM_ELEMENTS, "max(a, b)", same, 2, 1) == 1);
  assert_true(gradient_at(ZMI_FORM_ELEMENTS, "min(a, b)", same, 2, 0) == 0 && gradient_at(ZMI_FORM_ELEMENTS, "min(a, b)", same, 2, 1) == 1);
  assert_true(gradient_at(ZMI_FORM_ELEMENTS, "abs(a) + b", zero, 2, 0) == 0);
  assert_true(gradient_at(ZMI_FORM_ELEMENTS, "relu(a) + b", zero, 2, 0) == 0);
  assert_true(gradient_at(ZMI_FORM_ELEMENTS, "pow(a, b)", zero, 2, 0) == 0 && gradient_at(ZMI_FORM_ELEMENTS, "pow(a, b)", zero, 2, 1) == 0);
  assert_true(gradient_at(ZMI_FORM_ROWS, "y = max(x);", row, 4, 1) == 0.5 && gradient_at(ZMI_FORM_ROWS, "y = max(x);", row, 4, 0) == 0);
  assert_true(gradient_at(ZMI_FORM_ROWS, "y = prod(x);", one_zero, 3, 0) == 6 &&
              gradient_at(ZMI_FORM_ROWS, "y = prod(x);", one_zero, 3, 1) == 0);
  assert_true(gradient_at(ZMI_FORM_ROWS, "y = prod(x);", two_zeros, 3, 0) == 0);
}

static void derivatives_are_simple(void **state) {
  (void)state;
  bool all[ZMI_CODE_MAX];
  memset(all, true, sizeof all);
  zmi_code *c = code_of(ZMI_FORM_ELEMENTS, NULL, NULL, "exp(x)", ZM_F16);
  zmi_code *v = zmi_code_vjp(c, all, all);
  zmi_code_free(c);
  assert_printed(v, "elements k_vjp(float16, float16) -> (float16)\n"
                    "  %0 = input float #0\n  %1 = exp float %0\n  %2 = input float #1\n  %3 = mul float %1, %2\n  output #0 %3\n");
  c = code_of(ZMI_FORM_ROWS, "x", "y", "elements { y = cumsum(x); }", ZM_F32);
  v = zmi_code_vjp(c, all, all);
  zmi_code_free(c);
  assert_printed(v, "rows k_vjp(float32, float32) -> (float32)\n"
                    "  %0 = const float 0\n  %1 = var float %0\n  elements falling\n    %3 = input float #1\n    %4 = get float %1\n"
                    "    %5 = add float %3, %4\n    set %1 %5\n    output #0 %5\n  end\n");
}

static void no_derivative_says_why(void **state) {
  (void)state;
  bool all[ZMI_CODE_MAX];
  memset(all, true, sizeof all);
  zmi_code *c = code_of(ZMI_FORM_ROWS, "x", "y", "acc = 1; elements { acc = acc * acc + x; } y = acc;", ZM_F32);
  assert_null(zmi_code_vjp(c, all, all));
  assert_string_equal(zm_last_error(),
                      "kernel k: no gradient of a serial reduction whose slope needs the accumulator of each place: give one by hand");
  zmi_code *j = zmi_code_jvp(c, all); // forwards there is one
  assert_non_null(j);
  zmi_code_free(j);
  zmi_code_free(c);
  c = code_of(ZMI_FORM_TILES, "x", "y", "y[thread] = x[thread];", ZM_F32);
  assert_null(zmi_code_vjp(c, all, all));
  assert_null(zmi_code_jvp(c, all));
  zmi_code_free(c);
}

// What is left out on the way back (the table in docs/kernel-language.md), each with its reason.
static void gradients_left_out_say_why(void **state) {
  (void)state;
  static const struct {
    const char *source, *says;
  } cases[] = {
      {"a = 0; elements { a = a + x * cumsum(x); } join { a += right.a; } y = a;", "a running sum in a block whose lanes are joined"},
      {"a = 0; elements { a = a + x; } join { for (int j = 0; j < 2; j++) a += right.a; } y = a;", "loops where lanes are joined"},
  };
  bool all[ZMI_CODE_MAX];
  memset(all, true, sizeof all);
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    zmi_code *c = code_of(ZMI_FORM_ROWS, "x", "y", cases[i].source, ZM_F32), *traces = NULL;
    assert_null(zmi_code_vjp_traced(c, all, all, &traces));
    assert_null(traces);
    assert_int_equal(zm_last_status(), ZM_ERROR_UNSUPPORTED);
    zmi_parts p;
    assert_int_equal(zmi_code_parts(c, all, &p), ZM_OK);
    assert_null(p.first);
    if (!strstr(zm_last_error(), cases[i].says)) fail_msg("%s: %s", cases[i].source, zm_last_error());
    zmi_code *j = zmi_code_jvp(c, all); // forwards there is one
    if (!j) fail_msg("%s: %s", cases[i].source, zm_last_error());
    zmi_code_free(j);
    zmi_code_free(c);
  }
}

// ---- reductions in pieces ----
static double reduced(const zmi_pass_text *pass, const double *x, int d) {
  zmi_text source = {0};
  if (zmi_reduce_source("r", pass, &source) != ZM_OK) fail_msg("%s", zm_last_error());
  zmi_code *c = code_of(ZMI_FORM_ROWS, "v", "y", zmi_text_str(&source), ZM_F32);
  double in[ZMI_CODE_MAX][8], out[ZMI_CODE_MAX][8];
  memcpy(in[0], x, (size_t)d * sizeof *x);
  evaluate(c, d, in, out, NULL);
  zmi_code_free(c);
  zmi_text_release(&source);
  return out[0][0];
}

static void reductions_in_pieces(void **state) {
  (void)state;
  const double x[] = {3, -1, 2, 5, 4};
  assert_true(reduced(&(zmi_pass_text){"0", "acc + v * v", NULL, "acc / D"}, x, 5) == 11);
  assert_true(reduced(&(zmi_pass_text){"2", "v + acc", NULL, NULL}, x, 5) == 15);
  assert_true(reduced(&(zmi_pass_text){"1", "acc * v", NULL, NULL}, x, 5) == -120);
  assert_true(reduced(&(zmi_pass_text){"-INFINITY", "max(acc, v + i)", NULL, NULL}, x, 5) == 8);
  assert_true(reduced(&(zmi_pass_text){"0", "fmin(v, acc)", NULL, NULL}, x, 5) == -1);
  assert_true(reduced(&(zmi_pass_text){"0", "acc * 2 + v", NULL, NULL}, x, 5) == 3 * 16 - 8 + 8 + 10 + 4);
  assert_true(reduced(&(zmi_pass_text){"0", "fma(v, v, acc)", "a + b", NULL}, x, 5) == 55);
  zmi_text s = {0};
  assert_int_not_equal(zmi_reduce_source("r", &(zmi_pass_text){"0", "acc + (v", NULL, NULL}, &s), ZM_OK);
  assert_string_equal(zm_last_error(), "kernel r: update:1:9: ')' is expected after the expression, not the end\n  acc + (v\n          ^");
  zmi_text_release(&s);
  const zmi_pass_text passes[2] = {{"-INFINITY", "max(acc1, x)", "max(a, b)", NULL}, {"0", "acc2 + exp(x - s1)", "a + b", NULL}};
  zmi_text soft = {0};
  assert_int_equal(zmi_map_reduce_source("softmax", passes, "exp(x - s1) / s2", &soft), ZM_OK);
  zmi_code *a = code_of(ZMI_FORM_ROWS, "x", "y", zmi_text_str(&soft), ZM_F32);
  double in[ZMI_CODE_MAX][8] = {{1, 2, 3}}, out[ZMI_CODE_MAX][8];
  evaluate(a, 3, in, out, NULL);
  assert_true(fabs(out[0][2] - 0.66524095577) < 1e-9 && fabs(out[0][0] + out[0][1] + out[0][2] - 1) < 1e-12);
  zmi_code_free(a);
  zmi_text_release(&soft);
}

// ---- composition ----
static void composition_rounds_in_between(void **state) {
  (void)state;
  zmi_code *a = code_of(ZMI_FORM_ELEMENTS, "x y", NULL, "x * y", ZM_BF16), *b = code_of(ZMI_FORM_ELEMENTS, "x", NULL, "exp(x)", ZM_BF16);
  const zmi_piece pieces[] = {{a, {0, 1}, {3}}, {b, {~3}, {5}}};
  const zm_dtype in[] = {ZM_BF16, ZM_BF16};
  const int results[] = {5};
  zmi_code *c = zmi_code_compose(pieces, 2, 2, in, results, 1);
  if (!c) fail_msg("%s", zm_last_error());
  assert_printed(c, "elements fused(bfloat16, bfloat16) -> (bfloat16)\n"
                    "  %0 = input float #0\n  %1 = input float #1\n  %2 = mul float %0, %1\n  %3 = round_bf16 float %2\n"
                    "  %4 = exp float %3\n  %5 = round_bf16 float %4\n  output #0 %5\n");
  const int missing[] = {4};
  assert_null(zmi_code_compose(pieces, 2, 2, in, missing, 1));
  zmi_code_free(a);
  zmi_code_free(b);
}

// ---- shapes and grids ----
static void shapes_and_grids(void **state) {
  (void)state;
  zmi_kernel_text t = {.name = "k", .form = ZMI_FORM_TILES, .inputs = "x", .outputs = "y z", .parameters = "k, float eps"};
  t.source = "y[0] = x[0] + eps; z[group] = k;", t.shape[0] = "x.0, k * 2", t.shape[1] = "", t.groups = "(x.1 + 255) / 256",
  t.threads = "min(256, x.1)";
  zmi_kernel *k = zmi_kernel_define(&t);
  if (!k) fail_msg("%s", zm_last_error());
  const int64_t shape[] = {3, 1000};
  zmi_type in = zmi_type_of(ZM_BF16, 2, shape), out[2];
  const double params[] = {5, 0.5}, odd[] = {5.5, 0.5};
  int64_t groups, threads;
  assert_int_equal(zmi_kernel_shapes(k, &in, params, out), ZM_OK);
  assert_int_equal(out[0].rank, 2);
  assert_int_equal(out[0].shape[1], 10);
  assert_int_equal(out[1].rank, 0);
  assert_int_equal(out[0].dtype, ZM_BF16);
  assert_int_equal(zmi_kernel_grid(k, &in, params, &groups, &threads), ZM_OK);
  assert_true(groups == 4 && threads == 256);
  assert_int_not_equal(zmi_kernel_shapes(k, &in, odd, out), ZM_OK);
  assert_string_equal(zm_last_error(), "kernel k: parameter k is used as a size: it must be an integer, not 5.5");
  zmi_kernel_release(k);
}

// ---- the examples of docs/kernel-language.md ----
static char *word_after(char *text, const char *key) { // "; shape x.0": up to the next ';' or the end
  char *at = strstr(text, key);
  if (!at) return NULL;
  at += strlen(key);
  char *copy = strdup(at);
  copy[strcspn(copy, ";\n")] = 0;
  return copy;
}

static void check_example(char *text) {
  char *line = strdup(text), *source = strchr(text, '\n') + 1, *names = line + strlen("// ");
  line[strcspn(line, "\n")] = 0;
  zmi_kernel_text t = {.name = "example", .source = source};
  size_t form = strcspn(names, " ");
  t.form = strncmp(names, "elements", form) == 0 ? ZMI_FORM_ELEMENTS : strncmp(names, "rows", form) == 0 ? ZMI_FORM_ROWS : ZMI_FORM_TILES;
  char *shape = word_after(names, "; shape"), *groups = word_after(names, "; groups"), *threads = word_after(names, "; threads");
  t.shape[0] = shape, t.groups = groups, t.threads = threads;
  names[strcspn(names, ";")] = 0;
  char *arrow = strstr(names, "->");
  if (arrow) *arrow = 0, t.inputs = names + form, t.outputs = arrow + 2;
  zmi_kernel *k = zmi_kernel_define(&t);
  if (!k) fail_msg("%s", zm_last_error());
  zm_dtype in[ZMI_KERNEL_IN];
  for (int i = 0; i < ZMI_KERNEL_IN; i++) in[i] = ZM_BF16;
  zmi_code *c = zmi_kernel_code(k, in, NULL);
  if (!c) fail_msg("%s", zm_last_error());
  zmi_code_free(c);
  zmi_kernel_release(k);
  free(line), free(shape), free(groups), free(threads);
}

static void examples_of_the_page(void **state) {
  (void)state;
  char *text = NULL;
  size_t size = 0;
  if (zmi_read_file("docs/kernel-language.md", 1 << 20, &text, &size) != ZM_OK) fail_msg("%s", zm_last_error());
  int examples = 0;
  for (char *at = strstr(text, "```kernel\n"), *end; at; at = strstr(end, "```kernel\n"), examples++) {
    at += strlen("```kernel\n");
    end = strstr(at, "```");
    assert_non_null(end);
    *end = 0;
    check_example(at);
    end++;
  }
  assert_true(examples >= 9);
  zmi_free(text);
}

// ---- out of memory ----
static bool build_all(void) {
  zmi_kernel *k = define(ZMI_FORM_ROWS, "x w", "y",
                         "let r = rsqrt(sum(x * x) / D + 1e-6f); float a = 0; elements { a = a * 0.5f + x; y = x * r * w + a; }");
  if (!k) return false;
  const zm_dtype in[] = {ZM_F32, ZM_F32};
  bool all[ZMI_CODE_MAX];
  memset(all, true, sizeof all);
  zmi_code *c = zmi_kernel_code(k, in, NULL), *v = c ? zmi_code_vjp(c, all, all) : NULL, *j = v ? zmi_code_jvp(v, all) : NULL;
  bool ok = j != NULL;
  zmi_code_free(c);
  zmi_code_free(v);
  zmi_code_free(j);
  zmi_kernel_release(k);
  return ok;
}

static void memory_runs_short(void **state) {
  (void)state;
  uint64_t before = zmi_alloc_count();
  assert_true(build_all());
  uint64_t total = zmi_alloc_count() - before;
  for (uint64_t n = 1; n <= total; n++) {
    zmi_alloc_fail_at(n);
    bool ok = build_all();
    zmi_alloc_fail_at(0);
    if (ok || zm_last_status() != ZM_ERROR_MEMORY) fail_msg("allocation %d of %d: %s", (int)n, (int)total, zm_last_error());
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(precedence_and_spellings),
      cmocka_unit_test(names_are_found),
      cmocka_unit_test(types_and_dtypes),
      cmocka_unit_test(variables_are_wide),
      cmocka_unit_test(errors_show_the_place),
      cmocka_unit_test(type_errors_show_the_place),
      cmocka_unit_test(hostile_sources),
      cmocka_unit_test(constants_fold),
      cmocka_unit_test(integers_fold),
      cmocka_unit_test(functions_have_derivatives),
      cmocka_unit_test(loops_and_branches_have_derivatives),
      cmocka_unit_test(rows_have_derivatives),
      cmocka_unit_test(traced_rows_have_gradients),
      cmocka_unit_test(loops_of_rows_have_gradients),
      cmocka_unit_test(rows_in_parts_have_gradients),
      cmocka_unit_test(rows_have_gradients_of_one_operand),
      cmocka_unit_test(parts_are_of_wider_operands),
      cmocka_unit_test(ties_are_as_in_mlx),
      cmocka_unit_test(derivatives_are_simple),
      cmocka_unit_test(no_derivative_says_why),
      cmocka_unit_test(gradients_left_out_say_why),
      cmocka_unit_test(reductions_in_pieces),
      cmocka_unit_test(composition_rounds_in_between),
      cmocka_unit_test(shapes_and_grids),
      cmocka_unit_test(examples_of_the_page),
      cmocka_unit_test(memory_runs_short),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
