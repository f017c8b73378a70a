// Activations: functions of one number, each with the row of its gradient.
#include "catalog/catalog.h"

#include <zmlx/elementwise.h>

#define UNARY(word, text)                                                                                                                  \
  ZMI_ELEMENTS(word, "x", NULL, text)                                                                                                      \
  zm_array *zm_##word(zm_array *x) {                                                                                                       \
    return zmi_cat_want_float(#word, "x", x) ? zmi_definition_apply1(&word##_def, &x, 1, NULL, 0) : NULL;                                  \
  }
#define GRADIENT(word, text)                                                                                                               \
  ZMI_STATEMENTS(word, "x g", "y", NULL, text)                                                                                             \
  zm_array *zm_##word(zm_array *x, zm_array *g) {                                                                                          \
    if (!zmi_cat_want_float(#word, "x", x) || !zmi_cat_want_float(#word, "g", g)) return NULL;                                             \
    return zmi_definition_apply1(&word##_def, (zm_array *[]){x, g}, 2, NULL, 0);                                                           \
  }

// Those that are operations of the array room: the definition is what `zmlx kernel show` prints.
ZMI_ELEMENTS(exp, "x", NULL, "exp(x)")
ZMI_ELEMENTS(log, "x", NULL, "log(x)")
ZMI_ELEMENTS(tanh, "x", NULL, "tanh(x)")
ZMI_ELEMENTS(sigmoid, "x", NULL, "sigmoid(x)")
ZMI_ELEMENTS(silu, "x", NULL, "silu(x)")
ZMI_ELEMENTS(softplus, "x", NULL, "softplus(x)")
#define OF_ARRAYS(word)                                                                                                                    \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin, (void)params;                                                                                                               \
    out[0] = zm_##word(in[0]);                                                                                                             \
    return out[0] ? ZM_OK : zm_last_status();                                                                                              \
  }
OF_ARRAYS(exp)
OF_ARRAYS(log)
OF_ARRAYS(tanh)
OF_ARRAYS(sigmoid)
OF_ARRAYS(silu)
OF_ARRAYS(softplus)

// NaN stays NaN; the derivative at 0 and at NaN, which is not above 0, is 0.
UNARY(relu, "x > 0.0f ? x : (x != x ? NAN : 0.0f)")
UNARY(relu2, "x > 0.0f ? x * x : (x != x ? NAN : 0.0f)")
UNARY(gelu_tanh, "gelu_tanh(x)")
UNARY(mish, "mish(x)")

ZMI_ELEMENTS(elu, "x", "alpha", "x > 0.0f ? x : alpha * expm1(x)")

zm_array *zm_elu(zm_array *x, double alpha) {
  return zmi_cat_want_number("elu", "alpha", alpha, false) && zmi_cat_want_float("elu", "x", x)
             ? zmi_definition_apply1(&elu_def, &x, 1, &alpha, 1)
             : NULL;
}

GRADIENT(exp_grad, "y = g * exp(x);")
GRADIENT(log_grad, "y = g / x;")
// Both are even: from -|x| nothing cancels in 1 - s. (1 - tanh(x)^2 = 4 s (1 - s) of 2x. Unlike abs, copysign has a slope at 0.)
GRADIENT(tanh_grad, "let s = sigmoid(copysign(2.0f * x, -1.0f)); y = g * (4.0f * s * (1.0f - s));")
GRADIENT(sigmoid_grad, "let s = sigmoid(copysign(x, -1.0f)); y = g * (s * (1.0f - s));")
GRADIENT(relu_grad, "y = x > 0.0f ? g : 0.0f;")
GRADIENT(relu2_grad, "y = x > 0.0f ? 2.0f * x * g : 0.0f;")
GRADIENT(silu_grad, "let s = sigmoid(x); y = g * (s + x * s * (1.0f - s));")
GRADIENT(gelu_tanh_grad, "let s = sigmoid(x * fma(0.0713548162726f, x * x, 1.5957691216057f));"
                         "y = g * (s + x * s * (1.0f - s) * fma(0.2140644488178f, x * x, 1.5957691216057f));")
GRADIENT(softplus_grad, "y = g * sigmoid(x);")
// t = tanh(softplus(x)) = n / (n + 2) as in `mish`, 1 - t^2 = 4 (n + 1) / (n + 2)^2, and n + 1 = (1 + e)^2. From 12 on the second term is
// below half a unit of the last place of 1: x stays 12 in it, as it does in e.
GRADIENT(mish_grad, "let c = x + x > 24.0f ? 12.0f : x; let e = exp(c); let n = e * (e + 2.0f); let w = 1.0f / (n + 2.0f); "
                    "y = g * (n * w + c * (4.0f * e * (1.0f + e) * w) * w);")
ZMI_ELEMENTS(elu_grad, "x g", "alpha", "x > 0.0f ? g : g * alpha * exp(x)")

zm_array *zm_elu_grad(zm_array *x, zm_array *g, double alpha) {
  if (!zmi_cat_want_number("elu_grad", "alpha", alpha, false) || !zmi_cat_want_float("elu_grad", "x", x) ||
      !zmi_cat_want_float("elu_grad", "g", g))
    return NULL;
  return zmi_definition_apply1(&elu_grad_def, (zm_array *[]){x, g}, 2, &alpha, 1);
}

#define SHAPES "x [...] -> [...]"
#define SHAPES_G "x [...], g [...] -> [...]"
#define ONE(word, text)                                                                                                                    \
  { .name = #word, .formula = text, .shapes = SHAPES, .gradient = "x", .definition = &word##_def, .sample = "x 1024 1024" }
#define OLD(word, text)                                                                                                                    \
  {                                                                                                                                        \
    .name = #word, .formula = text, .shapes = SHAPES, .gradient = "x", .definition = &word##_def, .sample = "x 1024 1024",                 \
    .call = word##_call                                                                                                                    \
  }
#define TWO(word, text)                                                                                                                    \
  { .name = #word, .formula = text, .shapes = SHAPES_G, .gradient = "x g", .definition = &word##_def, .sample = "x 1024 1024; g 1024 1024" }

static const zmi_entry entries[] = {
    OLD(exp, "e^x"),
    OLD(log, "ln x"),
    OLD(tanh, "tanh x"),
    OLD(sigmoid, "1 / (1 + e^-x)"),
    ONE(relu, "max(x, 0); NaN if x is NaN"),
    ONE(relu2, "max(x, 0)^2; NaN if x is NaN"),
    OLD(silu, "x sigmoid(x)"),
    ONE(gelu_tanh, "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))"),
    OLD(softplus, "max(x, 0) + log1p(e^-|x|), without overflow"),
    ONE(mish, "x tanh(softplus(x))"),
    {.name = "elu",
     .formula = "x if x > 0, else alpha (e^x - 1)",
     .shapes = SHAPES,
     .gradient = "x",
     .parameters = "alpha=1",
     .definition = &elu_def,
     .sample = "x 1024 1024"},
    TWO(exp_grad, "g e^x"),
    TWO(log_grad, "g / x"),
    TWO(tanh_grad, "g 4 s (1 - s), s = sigmoid(-2 |x|), which is g (1 - tanh(x)^2)"),
    TWO(sigmoid_grad, "g s (1 - s), s = sigmoid(-|x|)"),
    TWO(relu_grad, "g if x > 0, else 0, also if x is NaN"),
    TWO(relu2_grad, "2 x g if x > 0, else 0, also if x is NaN"),
    TWO(silu_grad, "g (s + x s (1 - s)), s = sigmoid(x)"),
    TWO(gelu_tanh_grad, "g d gelu_tanh / dx"),
    TWO(softplus_grad, "g sigmoid(x)"),
    TWO(mish_grad, "g (t + x (1 - t^2) sigmoid(x)), t = tanh(softplus(x))"),
    {.name = "elu_grad",
     .formula = "g if x > 0, else g alpha e^x",
     .shapes = SHAPES_G,
     .gradient = "x g",
     .parameters = "alpha=1",
     .definition = &elu_grad_def,
     .sample = "x 1024 1024; g 1024 1024"},
};

ZMI_GROUP(activations, "Functions of one number, each with the row of its gradient by x for a cotangent g.");
