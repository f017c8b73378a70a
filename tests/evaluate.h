// Typed code of the elements and rows forms in double arithmetic, one row at a time: what derivatives are compared with. Slow and plain.
#ifndef TEST_EVALUATE_H
#define TEST_EVALUATE_H

#include "kernel/kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct evaluation {
  const zmi_code *c;
  int d; // length of the row; 1 for elements
  double (*in)[8], (*out)[8];
  const double *params;
  double *v, *lane, *right; // values; of 16 lanes; of the right lane
  int place;
} evaluation;

static inline int evaluate_end(const evaluation *e, int opener, int *middle) { // its END; the ELSE or JOIN in between, or -1
  int depth = 0;
  *middle = -1;
  for (int i = opener;; i++) {
    zmi_cop op = e->c->insts[i].op;
    if (op == ZMI_K_FOR || op == ZMI_K_IF || op == ZMI_K_ELEMENTS) depth++;
    if ((op == ZMI_K_ELSE || op == ZMI_K_JOIN) && depth == 1) *middle = i;
    if (op == ZMI_K_END && --depth == 0) return i;
  }
}

static inline double evaluate_function(zmi_cop op, double a, double b, double c) {
  switch ((int)op) {
  case ZMI_K_FMA:
    return a * b + c;
  case ZMI_K_SQRT:
    return sqrt(a);
  case ZMI_K_RSQRT:
    return 1 / sqrt(a);
  case ZMI_K_EXP:
    return exp(a);
  case ZMI_K_EXP2:
    return exp2(a);
  case ZMI_K_EXPM1:
    return expm1(a);
  case ZMI_K_LOG:
    return log(a);
  case ZMI_K_LOG2:
    return log2(a);
  case ZMI_K_LOG10:
    return log10(a);
  case ZMI_K_LOG1P:
    return log1p(a);
  case ZMI_K_SIN:
    return sin(a);
  case ZMI_K_COS:
    return cos(a);
  case ZMI_K_TAN:
    return tan(a);
  case ZMI_K_ASIN:
    return asin(a);
  case ZMI_K_ACOS:
    return acos(a);
  case ZMI_K_ATAN:
    return atan(a);
  case ZMI_K_ATAN2:
    return atan2(a, b);
  case ZMI_K_SINH:
    return sinh(a);
  case ZMI_K_COSH:
    return cosh(a);
  case ZMI_K_TANH:
    return tanh(a);
  case ZMI_K_ASINH:
    return asinh(a);
  case ZMI_K_ACOSH:
    return acosh(a);
  case ZMI_K_ATANH:
    return atanh(a);
  case ZMI_K_ERF:
    return erf(a);
  case ZMI_K_ERFINV: {
    double x = 0;
    for (int i = 0; i < 60; i++) x -= (erf(x) - a) / (2 / sqrt(acos(-1.0)) * exp(-x * x));
    return x;
  }
  case ZMI_K_SIGMOID:
    return 1 / (1 + exp(-a));
  case ZMI_K_SILU:
    return a / (1 + exp(-a));
  case ZMI_K_SOFTPLUS:
    return a > 0 ? a + log1p(exp(-a)) : log1p(exp(a));
  case ZMI_K_POW:
    return pow(a, b);
  case ZMI_K_FLOOR:
    return floor(a);
  case ZMI_K_CEIL:
    return ceil(a);
  case ZMI_K_ROUND:
    return rint(a);
  case ZMI_K_TRUNC:
    return trunc(a);
  case ZMI_K_COPYSIGN:
    return copysign(a, b);
  default:
    return a; // rounding to a dtype
  }
}

static inline double evaluate_plain(zmi_cop op, zmi_ctype type, double a, double b, double c) {
  switch ((int)op) {
  case ZMI_K_NEG:
    return -a;
  case ZMI_K_ABS:
    return fabs(a);
  case ZMI_K_SIGN:
    return a > 0 ? 1 : a < 0 ? -1 : a;
  case ZMI_K_ADD:
    return a + b;
  case ZMI_K_SUB:
    return a - b;
  case ZMI_K_MUL:
    return a * b;
  case ZMI_K_DIV:
    return type == ZMI_C_FLOAT ? a / b : b == 0 ? 0 : trunc(a / b);
  case ZMI_K_REM:
    return b == 0 && type != ZMI_C_FLOAT ? 0 : fmod(a, b);
  case ZMI_K_MIN:
    return a < b ? a : b;
  case ZMI_K_MAX:
    return a > b ? a : b;
  case ZMI_K_BIT_AND:
    return (double)((int64_t)a & (int64_t)b);
  case ZMI_K_BIT_OR:
    return (double)((int64_t)a | (int64_t)b);
  case ZMI_K_BIT_XOR:
    return (double)((int64_t)a ^ (int64_t)b);
  case ZMI_K_SHL:
    return (double)((int64_t)a << (int64_t)b);
  case ZMI_K_SHR:
    return (double)((int64_t)a >> (int64_t)b);
  case ZMI_K_EQ:
    return a == b;
  case ZMI_K_NE:
    return a != b;
  case ZMI_K_LT:
    return a < b;
  case ZMI_K_LE:
    return a <= b;
  case ZMI_K_GT:
    return a > b;
  case ZMI_K_GE:
    return a >= b;
  case ZMI_K_ISNAN:
    return isnan(a);
  case ZMI_K_ISINF:
    return isinf(a);
  case ZMI_K_ISFINITE:
    return isfinite(a);
  case ZMI_K_NOT:
    return a == 0;
  case ZMI_K_AND:
    return a != 0 && b != 0;
  case ZMI_K_OR:
    return a != 0 || b != 0;
  case ZMI_K_SELECT:
    return a != 0 ? b : c;
  case ZMI_K_CONVERT:
    return type == ZMI_C_FLOAT ? a : type == ZMI_C_BOOL ? a != 0 : trunc(a);
  default:
    return evaluate_function(op, a, b, c);
  }
}

static inline void evaluate_start(const zmi_inst *x, double *v) {
  static const double first[] = {0, 0, 1, -INFINITY, INFINITY, -1, -1, 0};
  if (x->op >= ZMI_K_SUM && x->op <= ZMI_K_SCAN_SUM) *v = first[x->op - ZMI_K_SUM];
}

static inline void evaluate_range(evaluation *e, int from, int to);

static inline void evaluate_reduction(evaluation *e, int i) {
  const zmi_inst *x = &e->c->insts[i];
  double *v = &e->v[i], a = e->v[x->a], best = *v < 0 ? 0 : e->lane[i];
  switch ((int)x->op) {
  case ZMI_K_SUM:
  case ZMI_K_SCAN_SUM:
    *v += a;
    break;
  case ZMI_K_SUMSQ:
    *v += a * a;
    break;
  case ZMI_K_PROD:
    *v *= a;
    break;
  case ZMI_K_MAXIMUM:
    *v = a > *v ? a : *v;
    break;
  case ZMI_K_MINIMUM:
    *v = a < *v ? a : *v;
    break;
  default: // the place; the value beside it
    if (*v < 0 || (x->op == ZMI_K_ARGMAX ? a > best : a < best)) *v = e->place, e->lane[i] = a;
  }
}

static inline void evaluate_lanes(evaluation *e, int begin, int middle, int end) {
  size_t n = e->c->count;
  double *first = malloc(n * sizeof *first), *lanes = malloc(16 * n * sizeof *lanes);
  memcpy(first, e->v, n * sizeof *first);
  for (int l = 0; l < 16; l++) {
    memcpy(e->v, first, n * sizeof *first);
    for (int k = l; k < e->d; k += 16) {
      e->place = e->c->insts[begin].extra ? (e->d - 1 - l) / 16 * 16 + 2 * l - k : k;
      evaluate_range(e, begin + 1, middle);
    }
    memcpy(lanes + (size_t)l * n, e->v, n * sizeof *first);
  }
  for (int half = 8; half; half /= 2) {
    for (int l = 0; l < half; l++) {
      memcpy(e->v, lanes + (size_t)l * n, n * sizeof *first);
      e->right = lanes + (size_t)(l + half) * n;
      evaluate_range(e, middle + 1, end);
      memcpy(lanes + (size_t)l * n, e->v, n * sizeof *first);
    }
  }
  memcpy(e->v, lanes, n * sizeof *first);
  free(first);
  free(lanes);
}

static inline int evaluate_block(evaluation *e, int i) { // gives its END
  const zmi_inst *x = &e->c->insts[i];
  int middle, end = evaluate_end(e, i, &middle);
  if (x->op == ZMI_K_FOR) {
    for (double k = e->v[x->a]; k < e->v[x->b]; k += e->v[x->c]) {
      e->v[i] = k;
      evaluate_range(e, i + 1, end);
    }
  } else if (x->op == ZMI_K_IF) {
    if (e->v[x->a] != 0) {
      evaluate_range(e, i + 1, middle < 0 ? end : middle);
    } else if (middle >= 0) {
      evaluate_range(e, middle + 1, end);
    }
  } else {
    for (int j = i + 1; j < end; j++) evaluate_start(&e->c->insts[j], &e->v[j]);
    if (middle >= 0) {
      evaluate_lanes(e, i, middle, end);
    } else {
      for (int k = 0; k < e->d; k++) {
        e->place = x->extra ? e->d - 1 - k : k;
        evaluate_range(e, i + 1, end);
      }
    }
  }
  return end;
}

static inline void evaluate_range(evaluation *e, int from, int to) {
  for (int i = from; i < to; i++) {
    const zmi_inst *x = &e->c->insts[i];
    double a = x->a >= 0 ? e->v[x->a] : 0, b = x->b >= 0 ? e->v[x->b] : 0, c = x->c >= 0 ? e->v[x->c] : 0;
    switch ((int)x->op) {
    case ZMI_K_CONST:
      e->v[i] = x->type == ZMI_C_FLOAT ? (double)x->imm.f : (double)x->imm.i;
      break;
    case ZMI_K_INPUT:
      e->v[i] = e->in[x->index][e->c->in_per_row[x->index] ? 0 : e->place];
      break;
    case ZMI_K_PARAM:
      e->v[i] = e->params ? e->params[x->index] : 0;
      break;
    case ZMI_K_PLACE:
      e->v[i] = e->place;
      break;
    case ZMI_K_LENGTH:
      e->v[i] = e->d;
      break;
    case ZMI_K_OUTPUT:
      e->out[x->index][e->c->per_row[x->index] ? 0 : e->place] = a;
      break;
    case ZMI_K_BITCAST: {
      float f = (float)a;
      int32_t u = (int32_t)a;
      memcpy(&u, x->type == ZMI_C_FLOAT ? (void *)&u : (void *)&f, 4);
      memcpy(&f, &u, 4);
      e->v[i] = x->type == ZMI_C_FLOAT ? (double)f : (double)u;
      break;
    }
    case ZMI_K_VAR:
      e->v[i] = a;
      break;
    case ZMI_K_GET:
      e->v[i] = e->v[x->index];
      break;
    case ZMI_K_GET_RIGHT:
      e->v[i] = e->right[x->index];
      break;
    case ZMI_K_SET:
      e->v[x->index] = a;
      break;
    case ZMI_K_FOR:
    case ZMI_K_IF:
    case ZMI_K_ELEMENTS:
      i = evaluate_block(e, i);
      break;
    default:
      if (x->op >= ZMI_K_SUM && x->op <= ZMI_K_SCAN_SUM) {
        evaluate_reduction(e, i);
      } else {
        e->v[i] = evaluate_plain(x->op, x->type, a, b, c);
      }
    }
  }
}

// in[i][place], out[o][place]; operands and results of one element a row: at place 0.
static inline void evaluate(const zmi_code *c, int d, double (*in)[8], double (*out)[8], const double *params) {
  evaluation e = {.c = c, .d = d, .in = in, .out = out, .params = params};
  e.v = calloc(c->count + 1, sizeof *e.v);
  e.lane = calloc(c->count + 1, sizeof *e.lane);
  evaluate_range(&e, 0, (int)c->count);
  free(e.v);
  free(e.lane);
}

// Numbers to evaluate at.
static uint64_t evaluate_seed = 88172645463325252ull;
static inline double random_between(double low, double high) {
  evaluate_seed ^= evaluate_seed << 13;
  evaluate_seed ^= evaluate_seed >> 7;
  evaluate_seed ^= evaluate_seed << 17;
  return low + (high - low) * (double)(evaluate_seed >> 11) * 0x1p-53;
}

#endif
