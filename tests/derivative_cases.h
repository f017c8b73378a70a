// Sources whose derivatives are checked against differences (tests/test_kernel_language.c), and emitted in all ways
// (tests/test_emit_derivatives.c).
#ifndef TEST_DERIVATIVE_CASES_H
#define TEST_DERIVATIVE_CASES_H

#include "base/base.h"

// Elements of a, b, c, drawn between low and high.
static const struct {
  const char *source;
  double low, high;
} derivative_functions[] = {
    {"-a", -2, 2},
    {"abs(a)", 0.1, 2},
    {"abs(a)", -2, -0.1},
    {"sign(a) * a", 0.1, 2},
    {"a + b", -2, 2},
    {"a - b", -2, 2},
    {"a * b", -2, 2},
    {"a / b", 0.5, 2},
    {"min(a, b)", -2, 2},
    {"max(a, b)", -2, 2},
    {"fma(a, b, c)", -2, 2},
    {"sqrt(a)", 0.3, 2},
    {"rsqrt(a)", 0.3, 2},
    {"exp(a)", -2, 2},
    {"exp2(a)", -2, 2},
    {"expm1(a)", -2, 2},
    {"log(a)", 0.3, 2},
    {"log2(a)", 0.3, 2},
    {"log10(a)", 0.3, 2},
    {"log1p(a)", -0.5, 2},
    {"sin(a)", -2, 2},
    {"cos(a)", -2, 2},
    {"tan(a)", -1, 1},
    {"asin(a)", -0.8, 0.8},
    {"acos(a)", -0.8, 0.8},
    {"atan(a)", -2, 2},
    {"atan2(a, b)", 0.4, 2},
    {"sinh(a)", -2, 2},
    {"cosh(a)", -2, 2},
    {"tanh(a)", -2, 2},
    {"asinh(a)", -2, 2},
    {"acosh(a)", 1.4, 3},
    {"atanh(a)", -0.7, 0.7},
    {"erf(a)", -2, 2},
    {"erfinv(a)", -0.7, 0.7},
    {"sigmoid(a)", -3, 3},
    {"silu(a)", -3, 3},
    {"softplus(a)", -3, 3},
    {"pow(a, b)", 0.4, 2},
    {"pow(a, 2)", -2, 2},
    {"pow(a, 3)", -2, 2},
    {"pow(a, 1)", -2, 2},
    {"pow(a, -1.5f)", 0.5, 2},
    {"a % 0.7f", 0.8, 1.3},
    {"floor(a) + a", 0.1, 0.9},
    {"copysign(a, b)", 0.2, 2},
    {"T(a) * half(b)", -2, 2},
    {"select(a, b * c, c > 0)", 0.2, 2},
    {"a > 0.5 ? a * a : b", 0.6, 2},
    {"gelu(a)", -2, 2},
    {"gelu_tanh(a)", -2, 2},
    {"mish(a)", -2, 2},
    {"relu(a)", 0.2, 2},
    {"relu2(a)", 0.2, 2},
    {"log_sigmoid(a)", -2, 2},
    {"logaddexp(a, b)", -2, 2},
    {"mix(a, b, c)", -2, 2},
    {"clamp(a, b - 9, b + 9)", -2, 2},
    {"detach(7.0f) * a", -2, 2},
    {"erfc(a)", -2, 2},
    {"saturate(a)", 0.1, 0.9},
    {"fract(a)", 0.1, 0.9},
    {"square(a) + reciprocal(b)", 0.4, 2},
    {"a * tanh(log(1 + exp(a)))", -2, 2},
    {"exp(-a * a) * sin(b * c) / (1 + a * a)", -1, 1},
    {"step(0.5, a) * a * a", 0.6, 2},
    {"smoothstep(b - 3, b + 3, a)", -1, 1},
    {"fdim(a + 5, b) * a", -1, 1},
    {"max3(a, b + 9, c) + min3(a * a, b * b + 9, c * c + 9) * a", 0.2, 2},
    {"median3(a * b, c - 9, c + 9)", -2, 2},
    {"exp10(a)", -1, 1},
    {"sinpi(a)", -2.3, 2.3},
    {"cospi(a)", 0.3, 0.7},
    {"cospi(a) * b", -0.2, 0.2},
    {"tanpi(a)", -0.2, 0.2},
};

// Elements with loops and branches.
static const struct {
  const char *inputs, *outputs, *source;
  double low, high;
} derivative_loops[] = {
    {"x w", "y", "s = 0; for (int j = 1; j <= 4; j++) { s = s * x + w / j; } y = s * s;", -1, 1},
    {"x w", "y z", "if (x > 0) { y = x * w; z = exp(w); } else { y = w * w; z = x; }", -2, 2},
    {"x", "y", "y = x; for (int j = 3; j > 0; j -= 1) { if (y > 0) { for (int q = 0; q < 2; ++q) y = sin(y) + x; } else y = y * y; }", -2,
     2},
    {"x", "y", "y = 1; for (int s = 8; s > 0; s >>= 1) y = y * x + s;", -1, 1},
    {"x w", "y", "y = x; for (int j = 0; j < 6; j++) { y = y * w + sin(x); if (abs(y) > 0.8f) break; y = y + x * w; }", -1, 1},
    {"x w", "y",
     "float f(float a, float b) { if (a > b) return sin(a) * b; float s = a; for (int j = 0; j < 3; j++) { if (j == 2) break; s = s * a + "
     "b; } "
     "return s; }\ny = f(x, w) * f(w, x + 0.1f);",
     -1, 1},
};

// Rows of x and w with one result a row.
static const char *const derivative_one[] = {
    "y = sum(x * w);",
    "y = sumsq(sin(x) - w) * sumsq(w);",
    "y = sqrt(sum(x * x) / D + 0.1f) * sum(w);",
    "y = max(x) * min(w) + max(x * w);",
    "y = prod(x) * sum(w);",
    "m = max(x); y = m + log(sum(exp(x - m))) + sum(w * w);",
    "y = sum(exp(x - max(x)) * w);",
    "acc = 0; elements { acc = acc * 0.5f + x * w; } y = acc * acc;",
    "acc = 1; elements { acc = acc * sin(0.3f * i) + x * w; } y = exp(0.1f * acc);",
    "float a = 0; float b = 1; elements { b = b * 0.5f + x; a = a + w * w; } y = a * b;",
    "elements { s = sum(x); float z = 0; for (int j = 0; j < 3; j++) z = z * x + w; t = sum(z); } y = s * t;",
};

// Rows of x and w with a result at each place; some of these need accumulators of all places, or two kernels, in the second order.
static const char *const derivative_each[] = {
    "elements { m = max(x); } elements { e = exp(x - m); s = sum(e); } elements { y = exp(x - m) / s * w; }",
    "let r = rsqrt(sum(x * x) / D + 1e-3f); elements { y = x * r * w; }",
    "mean = sum(x) / D; v = sum((x - mean) * (x - mean)) / D; elements { y = (x - mean) * rsqrt(v + 0.01f) * w; }",
    "elements { y = cumsum(x) * w; }",
    "elements { y = exp(0.3f * cumsum(x * w)); }",
    "elements { a = cumsum(x); y = cumsum(a * w); }",
    "float a = 0; elements { a = a * 0.7f + x * w; y = 2 * a + w; }",
    "float a = 0; elements reverse { a = a * 0.7f + x; y = a + exp(w); }",
    "float a = 0; elements { a = a * 0.5f + x; y = a * w; }",
    "float s = 0; elements { s = s * 0.9f + x * w; } elements { y = s * x; }",
    "float s = 0; elements reverse { s = s * 0.9f + x * w; } elements { y = s * s * x; }",
    "float s = 0; elements { s = s + x * w; } join { s = s + right.s; } elements { y = s * x; }",
    "s = sum(x); elements { float z = x; for (int j = 0; j < 2; j++) { z = z * s + w; } y = z; }",
    "elements { y = x * i + w * D; }",
    "let r = rsqrt(sumsq(x * w + 0.2f) / D + 0.1f); elements { y = x * r * w; }",
};

// Gradients that need the accumulators of all places.
static const char *const derivative_traced[] = {
    "acc = 1; elements { acc = acc * sin(x) + w; } y = acc;",
    "float a = 0; float b = 1; elements { b = b * x + a; a = a + w * b; y = a * b * w; }",
    "acc = 1; elements { acc = acc * acc * 0.3f + x * w; } y = acc;",
    "acc = 0; elements reverse { acc = tanh(acc + x) * w; y = acc; }",
    "acc = 0; elements { acc = acc * x + w; y = acc * cumsum(w); }",
    // loops and branches where places depend on each other; a variable that is set twice
    "acc = 1; elements { for (int j = 0; j < 3; j++) { acc = acc * sin(x) + w / (j + 1); } y = acc; }",
    "acc = 1; elements { for (int j = 0; j < 5; j++) { acc = acc * sin(x) + w; if (acc > 1.3f) break; } y = acc; }",
    "acc = 1; elements { if (x > 0.7f) { for (int j = 0; j < 2; j++) acc = acc * w + x; } else { acc = sin(acc) * x; } } y = acc;",
    "float a = 0; float b = 1; elements reverse { for (int j = 0; j <= i % 4; j++) { b = tanh(b + x); a = a * b + w; } y = a * b; }",
    "acc = 0.5f; elements { acc = acc * acc + x; acc = sin(acc) * w; y = acc; }",
    "elements { z = x; for (int j = 0; j < 2; j++) z = sin(z) * w; c = cumsum(z); y = exp(0.3f * c) * cumsum(c * x); }",
    "acc = 1; elements { for (int j = 0; j < 2; j++) acc = acc * x + w; m = max(acc * x); t = sum(acc); } y = acc * m + t;",
    // lanes that are joined
    "float m = -3e38f; float s = 0; elements { let n = max(m, x * w); s = s * exp(m - n) + exp(x * w - n); m = n; }"
    "join { let n = max(m, right.m); s = s * exp(m - n) + right.s * exp(right.m - n); m = n; } y = m + log(s);",
    "float a = 1; elements { a = a * x + w * sin(a); y = a * w; } join { a = a * right.a + sin(right.a); }",
    "float a = 0.2f; float b = 1; let s = sum(x) / D; elements { b = b * w + x * s; a = a + b * b; } join { a = a + right.a * s; b = b *"
    " right.b; } y = a * b;",
    "float a = 1; float n = 0; elements { for (int j = 0; j < 2; j++) { a = a * x + w; } n = n + 1; } join { a = n > 0 && right.n > 0 ?"
    " a * right.a : a + right.a; n = n + right.n; } y = a;",
    // loops and branches between blocks, of what serial blocks have left
    "acc = 1; elements { acc = acc * sin(x) + w; } for (int j = 0; j < D; j++) acc = acc * acc * 0.5f + 0.1f; elements { y = acc * x; }",
};

// Loops and branches between blocks of elements.
static const char *const derivative_row_loops[] = {
    "float r = sum(x * x); float z = r; for (int j = 0; j < 4; j++) { z = 0.5f * (z + r / z); } elements { y = x / z * w; }",
    "r = sum(x); q = sum(w); float z = 1; for (int j = 0; j < D; j++) { z = z * r + q * j; } y = z;",
    "let r = sum(x * w); float z = r; if (r > 1) { for (int j = 0; j < 2; j++) z = sin(z) + r; } else { z = r * r; } y = z;",
    ("float a = sum(x); float b = sum(w); for (int j = 0; j < 3; j++) { let t = a; a = b * 0.5f; b = t * b; if (j > 0) { for (int q = 0;"
     " q < j; q++) b += a; } } for (int k = 0; k < 2; k++) { a = a * b; } elements { y = x * a + b; }"),
    "float a = 0; elements { a = a + x * w; } join { a = a + right.a; } y = a * a;",
    "float a = 0; elements { a = a * 0.9f + x * x; } join { a = a + right.a; } y = sqrt(a + sum(w));",
    "float a = 0; float b = 0; elements { a = a + x; b = b + w * x; } join { a += right.a; b += right.b; } elements { y = a * b * x; }",
    "float a = 1; elements { for (int j = 0; j < 3; j++) { a = a * 0.5f + x * w; } } y = a * a;",
    "float g(float a) { return a * tanh(a); }\nfloat z = g(sum(x)); for (int j = 0; j < 9; j++) { z = z * 0.7f + 0.1f; if (z < 0.4f) "
    "break; }"
    " elements { y = g(x) * z * w; }",
    "n = 0; s = 0; elements { if (x > 0.6f) { for (int j = 0; j < 2; j++) { s += x * w; n += 1; } } } y = s / max(n, 1);",
};

// Gradients that are those of two kernels or more already in the first order: blocks of both directions, joined lanes beside serial ones.
static const char *const derivative_parts[] = {
    "a = 0; b = 0; elements { a = a * x + 1; } elements reverse { b = b * x + a * w; } y = b;",
    "a = 0; b = 0; elements { a = a * x + w; } elements { b = b + x * a; } join { b += right.b; } y = b + a;",
    "a = 0; elements { a = a * 0.5f + x; } elements { a = a * 0.3f + x * w; } join { a = a * 0.1f + right.a; } y = a * a;",
    "a = 0; elements { a = a + x; } join { a += right.a; } elements { a = a * 0.1f + x * w; } join { a = a * 0.5f + right.a; } y = a * a;",
    "let q = sum(w) * 0.5f; a = 0; elements { a = a * w + x; } elements reverse { a = a * 0.5f + x * q; } elements { a = "
    "sin(a) + w; } b = a; elements reverse { b = b * 0.5f + x * i; } elements { t = sum(b * x); } if (t > D) { a = a * t; } elements "
    "reverse { a = a * 0.5f + b; y = a * q; }",
    "n = 0; bool some = false; a = 1; elements { if (x > 0.6f) { n += 1; some = true; } a = a * 0.5f + w * x; } let m = n * 2 + 1;"
    "elements reverse { a = some ? a * x + m : a * w; } y = a * n + m;",
    "a = 0; elements { a = a + cumsum(x) * w; } elements { m = max(a * x); } b = m; elements { b = b + x * a; } join { b += right.b; } y = "
    "b;",
};

// All rows of x and w above.
static const struct {
  const char *const *sources;
  size_t count;
} derivative_rows[] = {{derivative_one, ZMI_COUNT(derivative_one)},
                       {derivative_each, ZMI_COUNT(derivative_each)},
                       {derivative_traced, ZMI_COUNT(derivative_traced)},
                       {derivative_row_loops, ZMI_COUNT(derivative_row_loops)},
                       {derivative_parts, ZMI_COUNT(derivative_parts)}};

#endif
