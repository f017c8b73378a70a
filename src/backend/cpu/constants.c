// The scalar functions of the prelude by name, one number at a time: for what is known before a kernel runs.
#include "backend/cpu/functions.h"

#include <string.h>

#define ONE(X)                                                                                                                             \
  X(exp)                                                                                                                                   \
  X(exp2) X(expm1) X(log) X(log2) X(log10) X(log1p) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) X(sinh) X(cosh) X(tanh) X(asinh) X(acosh) \
      X(atanh) X(erf) X(erfinv) X(sigmoid) X(silu) X(softplus) X(rsqrt) X(round) X(trunc) X(floor) X(ceil)
#define TWO(X) X(pow, zk_pow) X(atan2, zk_atan2) X(rem, zk_rem_float)

#define X(name)                                                                                                                            \
  static float one_##name(float x) {                                                                                                       \
    return zk_##name(x);                                                                                                                   \
  }
ONE(X)
#undef X
#define X(name, function)                                                                                                                  \
  static float two_##name(float x, float y) {                                                                                              \
    return function(x, y);                                                                                                                 \
  }
TWO(X)
#undef X

zmi_function_one zmi_function_of_one(const char *name) {
  static const struct {
    const char *name;
    zmi_function_one function;
  } functions[] = {
#define X(name) {#name, one_##name},
      ONE(X)
#undef X
  };
  for (size_t i = 0; i < ZMI_COUNT(functions); i++) {
    if (strcmp(functions[i].name, name) == 0) return functions[i].function;
  }
  return NULL;
}

zmi_function_two zmi_function_of_two(const char *name) {
  static const struct {
    const char *name;
    zmi_function_two function;
  } functions[] = {
#define X(name, function) {#name, two_##name},
      TWO(X)
#undef X
  };
  for (size_t i = 0; i < ZMI_COUNT(functions); i++) {
    if (strcmp(functions[i].name, name) == 0) return functions[i].function;
  }
  return NULL;
}
