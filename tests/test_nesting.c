// Transforms inside each other, in any order: random programs under random chains of gradients, products, tangents, batches, compiled
// functions, checkpoints and gradients of the author's own, beside the same computed in doubles by numbers that carry their derivatives.
// The reference knows no graph: a gradient is one run for each element of an input.
#include <zmlx/array.h>
#include <zmlx/elementwise.h>
#include <zmlx/kernel.h>
#include <zmlx/ops.h>
#include <zmlx/transform.h>

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { LEVELS = 3, PARTS = 1 << LEVELS, IN = 4, OUT = 4, STEPS = 6, VALUES = 3 + STEPS, CHAIN = 6 };

// ---- random ----
static uint64_t seed;

static int below(int n) { // 0 to n - 1
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (int)((seed >> 33) % (uint64_t)n);
}

static double between(double low, double high) {
  return low + (high - low) * below(1 << 20) / (1 << 20);
}

// ---- numbers with derivatives: c[S] is the mixed derivative by the levels in S, each once ----
typedef struct jet {
  double c[PARTS];
} jet;

static jet constant(double v) {
  return (jet){{v}};
}

static jet plus(jet a, jet b) {
  for (int s = 0; s < PARTS; s++) a.c[s] += b.c[s];
  return a;
}

static jet times(jet a, jet b) {
  jet y = {{0}};
  for (int s = 0; s < PARTS; s++)
    for (int t = s;; t = (t - 1) & s) {
      y.c[s] += a.c[t] * b.c[s & ~t];
      if (t == 0) break;
    }
  return y;
}

static jet curve(jet a, const double d[LEVELS + 1]) { // a function whose value and derivatives at a are d
  jet n = a, power = constant(1), y = constant(d[0]);
  n.c[0] = 0;
  double factorial = 1;
  for (int k = 1; k <= LEVELS; k++) {
    power = times(power, n);
    factorial *= k;
    y = plus(y, times(power, constant(d[k] / factorial)));
  }
  return y;
}

static jet sine(jet a) {
  const double s = sin(a.c[0]), c = cos(a.c[0]);
  return curve(a, (double[]){s, c, -s, -c});
}

static jet hyperbolic(jet a) { // tanh
  const double y = tanh(a.c[0]), d = 1 - y * y;
  return curve(a, (double[]){y, d, -2 * y * d, d * (6 * y * y - 2)});
}

static jet inverse(jet a) {
  const double r = 1 / a.c[0];
  return curve(a, (double[]){r, -r * r, 2 * r * r * r, -6 * r * r * r * r});
}

// ---- arrays of them ----
typedef struct shape {
  int rank;
  int64_t d[ZM_MAX_RANK];
} shape;

typedef struct values {
  shape s;
  jet *v; // from malloc
} values;

static int64_t count(const shape *s) {
  int64_t n = 1;
  for (int i = 0; i < s->rank; i++) n *= s->d[i];
  return n;
}

static values fresh(const shape *s) {
  return (values){*s, calloc((size_t)count(s) + 1, sizeof(jet))};
}

static int64_t place(const shape *s, const int64_t *at) {
  int64_t p = 0;
  for (int i = 0; i < s->rank; i++) p = p * s->d[i] + at[i];
  return p;
}

static void places(const shape *s, int64_t p, int64_t *at) {
  for (int i = s->rank; i-- > 0; p /= s->d[i]) at[i] = p % s->d[i];
}

static shape without(const shape *s, int axis) {
  shape y = {.rank = s->rank - 1};
  for (int i = 0, k = 0; i < s->rank; i++)
    if (i != axis) y.d[k++] = s->d[i];
  return y;
}

static shape with(const shape *s, int axis, int64_t size) {
  shape y = {.rank = s->rank + 1};
  for (int i = 0, k = 0; i < y.rank; i++) y.d[i] = i == axis ? size : s->d[k++];
  return y;
}

// Slice b along an axis, and back.
static void slice(values *whole, int axis, int64_t b, values *part, bool back) {
  int64_t at[ZM_MAX_RANK];
  for (int64_t p = 0; p < count(&part->s); p++) {
    places(&part->s, p, at);
    for (int i = whole->s.rank; --i > axis;) at[i] = at[i - 1];
    at[axis] = b;
    jet *w = &whole->v[place(&whole->s, at)];
    if (back)
      *w = part->v[p];
    else
      part->v[p] = *w;
  }
}

// ---- programs: inputs x, w, indices (integers), and one that nothing reads ----
typedef enum what {
  SIN,
  KERNEL,
  ADD,
  MULTIPLY,
  SUM,
  MAX,
  EXPAND,
  TRANSPOSE,
  FLATTEN,
  SLICE,
  CONCATENATE,
  MATMUL,
  TAKE,
  ROWS,
  STOP,
  WHERE,
  CUMSUM,
  WHATS
} what;

typedef struct step {
  what what;
  int a, b, axis;
  int64_t start[ZM_MAX_RANK], stop[ZM_MAX_RANK];
} step;

typedef struct program {
  int steps, results[2];
  step list[STEPS];
  shape shapes[VALUES];
} program;

static zm_op *own_kernel, *own_rows;

static bool broadcast(const shape *a, const shape *b, shape *y) {
  y->rank = a->rank > b->rank ? a->rank : b->rank;
  for (int i = 0; i < y->rank; i++) {
    const int ka = i - (y->rank - a->rank), kb = i - (y->rank - b->rank);
    const int64_t da = ka >= 0 ? a->d[ka] : 1, db = kb >= 0 ? b->d[kb] : 1;
    if (da != db && da != 1 && db != 1) return false;
    y->d[i] = da == 1 ? db : da;
  }
  return true;
}

static bool shape_of(step *s, const shape *shapes, const shape *indices, shape *y) { // false: does not fit
  const shape *a = &shapes[s->a];
  *y = *a;
  const bool axis = s->axis < a->rank;
  switch (s->what) {
  case ADD:
  case MULTIPLY:
    return broadcast(a, &shapes[s->b], y);
  case SUM:
    *y = axis ? without(a, s->axis) : *a;
    return axis;
  case MAX:
    *y = axis ? without(a, s->axis) : *a;
    return axis && a->d[s->axis] > 0;
  case EXPAND:
    *y = with(a, s->axis, 1);
    return s->axis <= a->rank && a->rank < 3;
  case TRANSPOSE:
    for (int i = 0; i < a->rank; i++) y->d[i] = a->d[a->rank - 1 - i];
    return true;
  case FLATTEN:
    *y = (shape){1, {count(a)}};
    return true;
  case SLICE:
    for (int i = 0; i < a->rank; i++) y->d[i] = (s->stop[i] - s->start[i] + 1) / 2;
    return a->rank > 0;
  case CONCATENATE:
    if (axis) y->d[s->axis] *= 2;
    return axis && y->d[s->axis] < 7;
  case MATMUL:
    if (a->rank == 2) y->d[1] = a->d[0];
    return a->rank == 2;
  case TAKE:
    if (a->rank > 0) y->d[0] = indices->d[0];
    return a->rank > 0 && a->d[0] > 2;
  case ROWS:
  case CUMSUM:
    return a->rank > 0;
  default:
    return true;
  }
}

static void random_program(program *p, const shape *in) {
  *p = (program){0};
  p->shapes[0] = in[0], p->shapes[1] = in[1];
  int n = 2;
  const int wanted = 2 + below(STEPS - 1);
  for (int tries = 0; p->steps < wanted && tries < 99; tries++) {
    step s = {.what = (what)below(WHATS), .a = below(2) ? n - 1 : below(n), .b = below(n), .axis = below(3)};
    const shape *a = &p->shapes[s.a];
    for (int i = 0; i < a->rank; i++) s.start[i] = below((int)a->d[i] + 1), s.stop[i] = s.start[i] + below((int)(a->d[i] - s.start[i]) + 1);
    if (!shape_of(&s, p->shapes, &in[2], &p->shapes[n]) || count(&p->shapes[n]) > 24) continue;
    p->list[p->steps++] = s;
    n++;
  }
  p->results[0] = n - 1, p->results[1] = below(n);
}

static void compute(const step *s, const values *v, const values *indices, values *y) {
  const values *a = &v[s->a];
  int64_t at[ZM_MAX_RANK];
  for (int64_t p = 0; p < count(&y->s); p++) {
    jet *r = &y->v[p];
    places(&y->s, p, at);
    switch (s->what) {
    case SIN:
      *r = sine(a->v[p]);
      break;
    case KERNEL:
      *r = plus(times(a->v[p], hyperbolic(a->v[p])), constant(0.125));
      break;
    case ADD:
    case MULTIPLY: {
      jet o[2];
      for (int k = 0; k < 2; k++) {
        const values *x = k ? &v[s->b] : a;
        int64_t to[ZM_MAX_RANK];
        for (int i = 0; i < x->s.rank; i++) to[i] = x->s.d[i] == 1 ? 0 : at[i + y->s.rank - x->s.rank];
        o[k] = x->v[place(&x->s, to)];
      }
      *r = s->what == ADD ? plus(o[0], o[1]) : times(o[0], o[1]);
      break;
    }
    case SUM:
    case MAX: {
      for (int i = a->s.rank; --i > s->axis;) at[i] = at[i - 1];
      for (int64_t k = 0; k < a->s.d[s->axis]; k++) {
        at[s->axis] = k;
        const jet e = a->v[place(&a->s, at)];
        *r = k == 0 ? e : s->what == SUM ? plus(*r, e) : e.c[0] > r->c[0] ? e : *r;
      }
      break;
    }
    case EXPAND:
    case FLATTEN:
      *r = a->v[p];
      break;
    case TRANSPOSE: {
      int64_t to[ZM_MAX_RANK];
      for (int i = 0; i < a->s.rank; i++) to[i] = at[a->s.rank - 1 - i];
      *r = a->v[place(&a->s, to)];
      break;
    }
    case SLICE:
      for (int i = 0; i < a->s.rank; i++) at[i] = s->start[i] + 2 * at[i];
      *r = a->v[place(&a->s, at)];
      break;
    case CONCATENATE:
      at[s->axis] %= a->s.d[s->axis];
      *r = a->v[place(&a->s, at)];
      break;
    case MATMUL:
      for (int64_t k = 0; k < a->s.d[1]; k++) *r = plus(*r, times(a->v[at[0] * a->s.d[1] + k], a->v[at[1] * a->s.d[1] + k]));
      break;
    case TAKE:
      at[0] = (int64_t)indices->v[at[0]].c[0];
      *r = a->v[place(&a->s, at)];
      break;
    case ROWS: {
      const int64_t d = a->s.d[a->s.rank - 1];
      jet sum = constant(1);
      for (int64_t k = p / d * d; k < p / d * d + d; k++) sum = plus(sum, times(a->v[k], a->v[k]));
      *r = times(a->v[p], inverse(sum));
      break;
    }
    case STOP:
      *r = times(constant(a->v[p].c[0]), a->v[p]);
      break;
    case WHERE:
      *r = a->v[p].c[0] > 0.3125 ? a->v[p] : times(a->v[p], a->v[p]);
      break;
    case CUMSUM:
    default: {
      const int64_t last = at[0];
      for (at[0] = 0; at[0] <= last; at[0]++) *r = plus(*r, a->v[place(&a->s, at)]);
    }
    }
  }
}

static zm_array *build(const step *s, zm_array **v, zm_array *indices) {
  zm_array *a = v[s->a], *b = v[s->b];
  switch (s->what) {
  case SIN:
    return zm_sin(a);
  case KERNEL:
    return zm_op_apply1(own_kernel, a, NULL);
  case ADD:
    return zm_add(a, b);
  case MULTIPLY:
    return zm_multiply(a, b);
  case SUM:
    return zm_sum(a, s->axis, false);
  case MAX:
    return zm_max(a, s->axis, false);
  case EXPAND:
    return zm_expand_dims(a, s->axis);
  case TRANSPOSE:
    return zm_transpose(a, NULL);
  case FLATTEN:
    return zm_reshape(a, (int64_t[]){zm_array_size(a)}, 1);
  case SLICE: {
    int64_t by[ZM_MAX_RANK];
    for (int i = 0; i < ZM_MAX_RANK; i++) by[i] = 2;
    return zm_slice(a, s->start, s->stop, by);
  }
  case CONCATENATE:
    return zm_concatenate((zm_array *[]){a, a}, 2, s->axis);
  case MATMUL:
    return zm_matmul(a, zm_transpose(a, NULL));
  case TAKE:
    return zm_take(a, indices);
  case ROWS:
    return zm_op_apply1(own_rows, a, NULL);
  case STOP:
    return zm_multiply(zm_stop_gradient(a), a);
  case WHERE:
    return zm_where(zm_greater(a, zm_full(0.3125, ZM_F32, NULL, 0)), a, zm_multiply(a, a));
  default:
    return zm_cumsum(a, 0, false, true);
  }
}

// ---- functions: a program, or a transform of another function ----
typedef enum kind { PROGRAM, SCALAR, CHECKPOINT, CUSTOM, COMPILE, VMAP, GRAD, VJP, JVP } kind;
static const char *const kinds[] = {"program", "scalar", "checkpoint", "custom vjp", "compile", "vmap", "grad", "vjp", "jvp"};

typedef struct function {
  kind kind;
  struct function *of;
  int nin, nout;
  shape in[IN], out[OUT];
  int in_axes[IN], out_axes[OUT];
  int64_t batch;
  int by[IN], level;       // GRAD: its inputs
  bool tangent[IN], value; // JVP: which inputs have a tangent, which is half of the input; GRAD: with the value
  zm_array *cotangent[OUT];
  values weights[OUT]; // the same numbers
  zm_compiled *compiled;
  program p;
} function;

static bool is_float(int i) {
  return i != 2;
}

static zm_status call(void *user, zm_array *const *in, int nin, zm_array **out, int nout);

// What a gradient of the author's own stands over.
static zm_status call_custom(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  return call(((function *)user)->of, in, nin, out, nout);
}

static zm_status authors(void *user, zm_array *const *in, int nin, zm_array *const *out, zm_array *const *cotangents, int nout,
                         zm_array **gradients) { // twice as much as is true
  const function *f = user;
  zm_array *again[OUT];
  (void)out;
  const zm_status status = zm_vjp(call, f->of, in, nin, cotangents, again, nout, gradients);
  for (int i = 0; i < nin && status == ZM_OK; i++)
    if (is_float(i)) gradients[i] = zm_multiply(gradients[i], zm_full(2, ZM_F32, NULL, 0));
  return status;
}

static zm_status scalar(const function *f, zm_array *const *in, zm_array **out) { // the sum of sines of all results
  zm_array *all[OUT], *sum = zm_full(0, ZM_F32, NULL, 0);
  const zm_status status = call(f->of, in, f->nin, all, f->of->nout);
  for (int o = 0; o < f->of->nout && status == ZM_OK; o++)
    sum = zm_add(sum, zm_sum(zm_sin(zm_reshape(all[o], (int64_t[]){zm_array_size(all[o])}, 1)), 0, false));
  out[0] = sum;
  return status;
}

static zm_status call(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  function *f = user;
  zm_array *v[VALUES] = {in[0], in[1]}, *all[OUT], *gradients[IN], *tangents[IN] = {NULL};
  zm_status status = ZM_OK;
  int n = 0;
  switch (f->kind) {
  case PROGRAM:
    for (int s = 0; s < f->p.steps; s++) v[2 + s] = build(&f->p.list[s], v, in[2]);
    for (int o = 0; o < 2; o++) out[o] = v[f->p.results[o]];
    return zm_last_status();
  case SCALAR:
    return scalar(f, in, out);
  case CHECKPOINT:
    return zm_checkpoint(call, f->of, in, nin, out, nout);
  case CUSTOM:
    return zm_custom_vjp(call_custom, authors, f, in, nin, out, nout);
  case COMPILE:
    return zm_compiled_call(f->compiled, in, nin, out, nout);
  case VMAP:
    return zm_vmap(call, f->of, in, nin, f->in_axes, out, nout, f->out_axes);
  case GRAD:
    if (f->value) return zm_value_and_grad(call, f->of, in, nin, f->by, nout - 1, out, 1, out + 1);
    return zm_grad(call, f->of, in, nin, f->by, nout, out);
  case VJP:
    status = zm_vjp(call, f->of, in, nin, f->cotangent, all, f->of->nout, gradients);
    for (int i = 0; i < nin && status == ZM_OK; i++)
      if (is_float(i)) out[n++] = gradients[i];
    return status;
  default:
    for (int i = 0; i < nin; i++)
      if (f->tangent[i]) tangents[i] = zm_multiply(in[i], zm_full(0.5, ZM_F32, NULL, 0));
    return zm_jvp(call, f->of, in, nin, tangents, all, nout, out);
  }
}

// ---- the reference ----
static void refer(const function *f, values *in, values *out); // out: made here

static void release(values *v, int n) {
  for (int i = 0; i < n; i++) free(v[i].v);
}

static void refer_scalar(const function *f, values *in, values *out) {
  values all[OUT];
  refer(f->of, in, all);
  out[0] = fresh(&f->out[0]);
  for (int o = 0; o < f->of->nout; o++)
    for (int64_t p = 0; p < count(&all[o].s); p++) out[0].v[0] = plus(out[0].v[0], sine(all[o].v[p]));
  release(all, f->of->nout);
}

static void refer_batch(const function *f, values *in, values *out) {
  for (int o = 0; o < f->nout; o++) out[o] = fresh(&f->out[o]);
  for (int64_t b = 0; b < f->batch; b++) {
    values part[IN], results[OUT];
    for (int i = 0; i < f->nin; i++) {
      part[i] = fresh(&f->of->in[i]);
      if (f->in_axes[i] == ZM_NO_AXIS)
        memcpy(part[i].v, in[i].v, (size_t)count(&in[i].s) * sizeof(jet));
      else
        slice(&in[i], (f->in_axes[i] + f->in[i].rank) % f->in[i].rank, b, &part[i], false);
    }
    refer(f->of, part, results);
    for (int o = 0; o < f->nout; o++) slice(&out[o], (f->out_axes[o] + f->out[o].rank) % f->out[o].rank, b, &results[o], true);
    release(part, f->nin);
    release(results, f->nout);
  }
}

static jet derivative(jet a, int level) {
  jet y = {{0}};
  for (int s = 0; s < PARTS; s++)
    if (!(s >> level & 1)) y.c[s] = a.c[s | 1 << level];
  return y;
}

// The gradient of the results, weighted, by input i.
static values refer_gradient(const function *f, values *in, int i) {
  values g = fresh(&f->in[i]);
  for (int64_t p = 0; p < count(&in[i].s); p++) {
    values results[OUT];
    in[i].v[p].c[1 << f->level] += 1;
    refer(f->of, in, results);
    in[i].v[p].c[1 << f->level] -= 1;
    for (int o = 0; o < f->of->nout; o++)
      for (int64_t k = 0; k < count(&results[o].s); k++) {
        const jet d = derivative(results[o].v[k], f->level);
        g.v[p] = plus(g.v[p], f->weights[o].v ? times(d, f->weights[o].v[k]) : d);
      }
    release(results, f->of->nout);
  }
  return g;
}

static void refer_tangents(const function *f, values *in, values *out) {
  values moved[IN];
  for (int i = 0; i < f->nin; i++) {
    moved[i] = fresh(&f->in[i]);
    for (int64_t p = 0; p < count(&in[i].s); p++) {
      moved[i].v[p] = in[i].v[p];
      for (int s = 0; s < PARTS && f->tangent[i]; s++)
        if (!(s >> f->level & 1)) moved[i].v[p].c[s | 1 << f->level] += 0.5 * in[i].v[p].c[s];
    }
  }
  refer(f->of, moved, out);
  for (int o = 0; o < f->nout; o++)
    for (int64_t p = 0; p < count(&out[o].s); p++) out[o].v[p] = derivative(out[o].v[p], f->level);
  release(moved, f->nin);
}

static void refer(const function *f, values *in, values *out) {
  values v[VALUES] = {in[0], in[1]};
  int n = 0;
  switch (f->kind) {
  case PROGRAM:
    for (int s = 0; s < f->p.steps; s++) {
      v[2 + s] = fresh(&f->p.shapes[2 + s]);
      compute(&f->p.list[s], v, &in[2], &v[2 + s]);
    }
    for (int o = 0; o < 2; o++) {
      out[o] = fresh(&f->out[o]);
      memcpy(out[o].v, v[f->p.results[o]].v, (size_t)count(&f->out[o]) * sizeof(jet));
    }
    release(v + 2, f->p.steps);
    return;
  case SCALAR:
    refer_scalar(f, in, out);
    return;
  case VMAP:
    refer_batch(f, in, out);
    return;
  case GRAD:
    if (f->value) refer(f->of, in, out);
    for (n = f->value; n < f->nout; n++) out[n] = refer_gradient(f, in, f->by[n - f->value]);
    return;
  case VJP:
    for (int i = 0; i < f->nin; i++)
      if (is_float(i)) out[n++] = refer_gradient(f, in, i);
    return;
  case JVP:
    refer_tangents(f, in, out);
    return;
  default:
    refer(f->of, in, out);
    for (int o = 0; o < f->nout && f->kind == CUSTOM; o++)
      for (int64_t p = 0; p < count(&out[o].s); p++)
        for (int s = 1; s < PARTS; s++) out[o].v[p].c[s] *= 2;
  }
}

// ---- chains ----
static zm_array *array_of(const values *v, zm_dtype dtype) {
  const int64_t n = count(&v->s);
  float *x = malloc((size_t)n * sizeof *x + 4);
  for (int64_t i = 0; i < n; i++) x[i] = (float)v->v[i].c[0];
  zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, v->s.d, v->s.rank), dtype);
  free(x);
  if (!a || zm_eval(&a, 1) != ZM_OK) fail_msg("%s", zm_last_error());
  return a;
}

static void fill(values *v, bool whole) {
  for (int64_t i = 0; i < count(&v->s); i++) v->v[i] = constant(whole ? below(3) : (double)(float)between(-1, 1));
}

static void random_vmap(function *f) {
  static const int sizes[] = {2, 3, 1, 2, 0, 3, 2};
  f->batch = sizes[below(7)];
  const int always = below(2); // x or w
  for (int i = 0; i < f->nin; i++) {
    f->in_axes[i] = ZM_NO_AXIS;
    if (i != always && below(2)) continue;
    const int axis = below(f->in[i].rank + 1);
    f->in[i] = with(&f->in[i], axis, f->batch);
    f->in_axes[i] = below(3) ? axis : axis - f->in[i].rank;
  }
  for (int o = 0; o < f->nout; o++) {
    const int axis = below(f->out[o].rank + 1);
    f->out[o] = with(&f->out[o], axis, f->batch);
    f->out_axes[o] = below(3) ? axis : axis - f->out[o].rank;
  }
}

static bool wrap(function *f, kind how, int *levels) { // f->of is set
  const function *of = f->of;
  *f = (function){.kind = how, .of = f->of, .nin = of->nin, .nout = of->nout};
  memcpy(f->in, of->in, sizeof f->in);
  memcpy(f->out, of->out, sizeof f->out);
  int64_t most = 0;
  for (int i = 0; i < f->nin; i++) most = most > count(&f->in[i]) ? most : count(&f->in[i]);
  if (how >= GRAD) {
    if (*levels == LEVELS || most > 12) return false;
    f->level = (*levels)++;
  }
  int n = 0;
  switch (how) {
  case SCALAR:
    f->nout = 1;
    f->out[0] = (shape){0};
    break;
  case COMPILE:
    f->compiled = zm_compile(call, f->of, f->nout);
    break;
  case VMAP:
    if (most > 30) return false;
    random_vmap(f);
    break;
  case GRAD: // of a SCALAR
    f->value = below(2);
    if (f->value) f->out[n++] = (shape){0};
    for (int i = 0; i < f->nin; i++) {
      if (!is_float(i) || (i == 1 && below(3) == 0)) continue;
      f->by[n - f->value] = i;
      f->out[n++] = f->in[i];
    }
    f->nout = n;
    break;
  case VJP:
    for (int o = 0; o < of->nout; o++) {
      if (below(2)) continue; // ones
      f->weights[o] = fresh(&of->out[o]);
      fill(&f->weights[o], false);
      f->cotangent[o] = array_of(&f->weights[o], ZM_F32);
    }
    for (int i = 0; i < f->nin; i++)
      if (is_float(i)) f->out[n++] = f->in[i];
    f->nout = n;
    break;
  case JVP:
    for (int i = 0; i < f->nin; i++) f->tangent[i] = is_float(i) && below(4);
    break;
  default:
    break;
  }
  return true;
}

static int random_chain(function *list) {
  static const int dims[] = {2, 3, 1, 3, 2, 0, 3};
  function *f = &list[0];
  *f = (function){.kind = PROGRAM, .nin = IN, .nout = 2};
  for (int i = 0; i < 2; i++) {
    f->in[i].rank = below(3);
    for (int k = 0; k < f->in[i].rank; k++) f->in[i].d[k] = dims[below(7)];
  }
  f->in[2] = (shape){1, {dims[below(7)]}};
  f->in[3] = (shape){1, {2}};
  random_program(&f->p, f->in);
  for (int o = 0; o < 2; o++) f->out[o] = f->p.shapes[f->p.results[o]];
  int n = 1, levels = 0;
  const int wanted = 2 + below(CHAIN - 1);
  for (int tries = 0; n <= wanted && tries < 50; tries++) {
    static const kind some[] = {CHECKPOINT, CUSTOM, COMPILE, VMAP, VMAP, SCALAR, GRAD, GRAD, VJP, VJP, JVP, JVP};
    kind k = some[below(12)];
    if (k == GRAD && !(list[n - 1].nout == 1 && list[n - 1].out[0].rank == 0)) k = SCALAR;
    list[n].of = &list[n - 1];
    if (k == SCALAR && list[n - 1].kind == SCALAR) continue;
    if (wrap(&list[n], k, &levels)) n++;
  }
  return n;
}

static void describe(const function *list, int n, char *text, size_t room) {
  size_t at = 0;
  for (int i = n; i-- > 0 && at < room;) at += (size_t)snprintf(text + at, room - at, "%s%s", kinds[list[i].kind], i ? " of " : ":");
  static const char *const whats[] = {"sin",   "kernel",      "add",    "multiply", "sum",  "max",  "expand", "transpose", "flatten",
                                      "slice", "concatenate", "matmul", "take",     "rows", "stop", "where",  "cumsum"};
  for (int s = 0; s < list[0].p.steps && at < room; s++) at += (size_t)snprintf(text + at, room - at, " %s", whats[list[0].p.list[s].what]);
}

static double one_chain(uint64_t number) {
  function list[CHAIN + 2];
  seed = number * 0x9e3779b97f4a7c15u + 1;
  for (int i = 0; i < 4; i++) below(2);
  zm_scope *scope = zm_scope_open();
  const int n = random_chain(list);
  function *f = &list[n - 1];
  values in[IN], want[OUT];
  zm_array *x[IN], *got[OUT];
  for (int i = 0; i < IN; i++) {
    in[i] = fresh(&f->in[i]);
    fill(&in[i], !is_float(i));
    x[i] = array_of(&in[i], is_float(i) ? ZM_F32 : ZM_I32);
  }
  char text[512];
  describe(list, n, text, sizeof text);
  refer(f, in, want);
  if (call(f, x, IN, got, f->nout) != ZM_OK || zm_eval(got, (size_t)f->nout) != ZM_OK)
    fail_msg("%llu: %s: %s", (unsigned long long)number, text, zm_last_error());
  double worst = 0;
  for (int o = 0; o < f->nout; o++) {
    if (zm_array_rank(got[o]) != f->out[o].rank || zm_array_size(got[o]) != count(&f->out[o]))
      fail_msg("%llu: %s: shape of %d", (unsigned long long)number, text, o);
    for (int d = 0; d < f->out[o].rank; d++) assert_int_equal(zm_array_dim(got[o], d), f->out[o].d[d]);
    const float *y = zm_array_data(got[o]);
    double scale = 1;
    for (int64_t p = 0; p < count(&f->out[o]); p++) scale = fmax(scale, fabs(want[o].v[p].c[0]));
    for (int64_t p = 0; p < count(&f->out[o]); p++) {
      const double off = fabs((double)y[p] - want[o].v[p].c[0]) / scale;
      if (!(off < 2e-4))
        fail_msg("%llu: %s: result %d, element %lld: %.7g, not %.7g", (unsigned long long)number, text, o, (long long)p, (double)y[p],
                 want[o].v[p].c[0]);
      worst = fmax(worst, off);
    }
  }
  release(in, IN);
  release(want, f->nout);
  for (int i = 0; i < n; i++) {
    zm_compiled_free(list[i].compiled);
    release(list[i].weights, OUT);
  }
  zm_scope_close(scope);
  return worst;
}

enum { CHAINS = 2000 };

static void chains(void **state) {
  (void)state;
  own_kernel = zm_elementwise("x * tanh(x) + 0.125f", NULL);
  own_rows = zm_kernel(&(zm_kernel_options){.name = "rows",
                                            .form = ZM_KERNEL_ROWS,
                                            .inputs = "x",
                                            .outputs = "y",
                                            .source = "let r = sum(x * x); elements { y = x / (1 + r); }"});
  assert_true(own_kernel && own_rows);
  const char *only = getenv("ZMLX_TEST_CHAIN"), *more = getenv("ZMLX_TEST_CHAINS");
  const uint64_t first = only ? strtoull(only, NULL, 10) : 0, last = only ? first + 1 : more ? strtoull(more, NULL, 10) : CHAINS;
  double worst = 0;
  for (uint64_t i = first; i < last; i++) worst = fmax(worst, one_chain(i));
  print_message("# worst difference: %.2g\n", worst);
  zm_op_free(own_kernel);
  zm_op_free(own_rows);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(chains)};
  return cmocka_run_group_tests_name("nesting", tests, NULL, NULL);
}
