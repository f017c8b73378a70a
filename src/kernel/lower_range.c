// What a value can be at least and at most, as far as that is seen without running: enough to tell the usual loops, whose numbers stay
// inside of an int, from those that have to be counted in wider numbers.
#include "kernel/lower.h"

enum { LOOK = 8 }; // instructions behind each other

static zmi_range of_type(zmi_ctype t) {
  if (t == ZMI_C_BOOL) return (zmi_range){0, 1};
  if (t == ZMI_C_INT) return (zmi_range){INT32_MIN, INT32_MAX};
  if (t == ZMI_C_UINT) return (zmi_range){0, UINT32_MAX};
  return (zmi_range){t == ZMI_C_ULONG ? 0 : INT64_MIN, INT64_MAX};
}

bool zmi_range_fits(zmi_range r, zmi_ctype t) {
  const zmi_range all = of_type(t);
  return r.low >= all.low && r.high <= all.high;
}

zmi_range zmi_range_converted(zmi_range r, zmi_ctype t) {
  return zmi_range_fits(r, t) && t != ZMI_C_BOOL && r.high < INT64_MAX ? r : of_type(t);
}

static zmi_range range(const zmi_code *c, int v, int look);

// Of 32 bits: sums and differences are exact in 64 here, and whatever could wrap around may be anything.
static zmi_range of_arithmetic(const zmi_code *c, const zmi_inst *x, int look) {
  const zmi_range all = of_type(x->type), a = range(c, x->a, look);
  if (x->type != ZMI_C_INT && x->type != ZMI_C_UINT) return all;
  const zmi_range b = range(c, x->b, look);
  zmi_range r = all;
  switch ((int)x->op) {
  case ZMI_K_ADD:
    r = (zmi_range){a.low + b.low, a.high + b.high};
    break;
  case ZMI_K_SUB:
    r = (zmi_range){a.low - b.high, a.high - b.low};
    break;
  case ZMI_K_MUL:
    if (a.low >= 0 && b.low >= 0 && (b.high == 0 || a.high <= all.high / b.high)) r = (zmi_range){a.low * b.low, a.high * b.high};
    break;
  case ZMI_K_MIN:
    r = (zmi_range){ZMI_MIN(a.low, b.low), ZMI_MIN(a.high, b.high)};
    break;
  case ZMI_K_MAX:
    r = (zmi_range){ZMI_MAX(a.low, b.low), ZMI_MAX(a.high, b.high)};
    break;
  case ZMI_K_DIV: // of what is not below zero
  case ZMI_K_REM:
  case ZMI_K_SHR:
    if (a.low >= 0 && b.low >= 0) r = (zmi_range){0, a.high};
    break;
  case ZMI_K_BIT_AND:
    if (a.low >= 0 || b.low >= 0) r = (zmi_range){0, a.low < 0 ? b.high : b.low < 0 ? a.high : ZMI_MIN(a.high, b.high)};
    break;
  default:
    break;
  }
  return zmi_range_fits(r, x->type) ? r : all;
}

static zmi_range range(const zmi_code *c, int v, int look) {
  const zmi_inst *x = &c->insts[v];
  if (look == 0) return of_type(x->type);
  switch ((int)x->op) {
  case ZMI_K_CONST:
    if (x->type == ZMI_C_FLOAT) return of_type(x->type);
    return x->type == ZMI_C_ULONG && x->imm.i < 0 ? (zmi_range){INT64_MAX, INT64_MAX} : (zmi_range){x->imm.i, x->imm.i};
  case ZMI_K_PLACE: // below a length, a number of threads, a number of groups
  case ZMI_K_THREAD:
  case ZMI_K_GROUP:
    return (zmi_range){0, INT32_MAX - 1};
  case ZMI_K_LENGTH:
  case ZMI_K_DIM:
  case ZMI_K_THREADS:
  case ZMI_K_GROUPS:
    return (zmi_range){0, INT32_MAX};
  case ZMI_K_CONVERT:
    return c->insts[x->a].type == ZMI_C_FLOAT ? of_type(x->type) : zmi_range_converted(range(c, x->a, look - 1), x->type);
  case ZMI_K_SELECT: {
    const zmi_range a = range(c, x->b, look - 1), b = range(c, x->c, look - 1);
    return (zmi_range){ZMI_MIN(a.low, b.low), ZMI_MAX(a.high, b.high)};
  }
  case ZMI_K_FOR: { // the counter
    const zmi_range first = range(c, x->a, look - 1), end = range(c, x->b, look - 1);
    return (zmi_range){first.low, ZMI_MAX(first.low, end.high - 1)};
  }
  case ZMI_K_ADD:
  case ZMI_K_SUB:
  case ZMI_K_MUL:
  case ZMI_K_MIN:
  case ZMI_K_MAX:
  case ZMI_K_DIV:
  case ZMI_K_REM:
  case ZMI_K_SHR:
  case ZMI_K_BIT_AND:
    return of_arithmetic(c, x, look - 1);
  default:
    return of_type(x->type);
  }
}

zmi_range zmi_lower_range(const zmi_lower *l, int value) {
  return range(l->c, value, LOOK);
}
