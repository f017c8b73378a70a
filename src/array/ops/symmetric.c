// Of symmetric matrices [..., n, n]: the root R with R R = A, for numbers with a covariance, and what its gradient solves, R X + X R = G.
// Both by the eigenvectors, which Jacobi rotations find, in double, in one written order.
#include "array/ops/ops.h"

enum { SWEEPS = 60 };

typedef struct parts {
  int64_t n, count; // matrices
} parts;

static parts parts_of(const zmi_type *t) {
  parts p = {.n = t->shape[t->rank - 1], .count = 1};
  for (int i = 0; i < t->rank - 2; i++) p.count *= t->shape[i];
  return p;
}

// Doubles of one lane: the matrix on the way to its eigenvalues, the eigenvectors as columns, two of work.
static size_t lane_bytes(const parts *p) {
  return zmi_align64((size_t)(4 * p->n * p->n) * sizeof(double));
}

static size_t scratch(const zmi_call *c) {
  const parts p = parts_of(&c->in[0]->type);
  return lane_bytes(&p) * (size_t)zmi_lane_count(p.count);
}

static int64_t tiles(const zmi_call *c) {
  const parts p = parts_of(&c->in[0]->type);
  return p.n ? zmi_lane_count(p.count) : 0;
}

// a becomes diagonal by a rotation of rows and columns p and q, the columns of v with them.
static void rotate(double *a, double *v, int64_t n, int64_t p, int64_t q) {
  const double apq = a[p * n + q];
  if (apq == 0) return;
  const double theta = (a[q * n + q] - a[p * n + p]) / (2 * apq), size = theta < 0 ? -theta : theta;
  const double root = __builtin_sqrt(theta * theta + 1), t = (theta < 0 ? -1 : 1) / (size + root);
  const double c = 1 / __builtin_sqrt(t * t + 1), s = t * c;
  for (int64_t k = 0; k < n; k++) {
    const double x = a[k * n + p], y = a[k * n + q];
    a[k * n + p] = c * x - s * y;
    a[k * n + q] = s * x + c * y;
  }
  for (int64_t k = 0; k < n; k++) {
    const double x = a[p * n + k], y = a[q * n + k];
    a[p * n + k] = c * x - s * y;
    a[q * n + k] = s * x + c * y;
  }
  for (int64_t k = 0; k < n; k++) {
    const double x = v[k * n + p], y = v[k * n + q];
    v[k * n + p] = c * x - s * y;
    v[k * n + q] = s * x + c * y;
  }
}

// Eigenvalues on the diagonal of a, eigenvectors in the columns of v, of (m + m^T) / 2.
static void eigen(const float *m, int64_t n, double *a, double *v) {
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) {
      a[i * n + j] = ((double)m[i * n + j] + (double)m[j * n + i]) / 2;
      v[i * n + j] = i == j;
    }
  }
  for (int sweep = 0; sweep < SWEEPS; sweep++) {
    double off = 0, all = 0;
    for (int64_t i = 0; i < n; i++) {
      for (int64_t j = 0; j < n; j++) {
        const double square = a[i * n + j] * a[i * n + j];
        all += square;
        if (i != j) off += square;
      }
    }
    if (!(off > all * 0x1p-104)) return; // also of NaN
    for (int64_t p = 0; p < n; p++) {
      for (int64_t q = p + 1; q < n; q++) rotate(a, v, n, p, q);
    }
  }
}

// y = v h v^T (back) or v^T h v, k rising; work: n n.
static void turn(const double *v, const double *h, int64_t n, bool back, double *work, double *y) {
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t k = 0; k < n; k++) sum += (back ? v[i * n + k] : v[k * n + i]) * h[k * n + j];
      work[i * n + j] = sum;
    }
  }
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t k = 0; k < n; k++) sum += work[i * n + k] * (back ? v[j * n + k] : v[k * n + j]);
      y[i * n + j] = sum;
    }
  }
}

static void root_of(const float *m, int64_t n, double *memory, float *out) {
  double *a = memory, *v = a + n * n, *h = v + n * n, *work = h + n * n;
  eigen(m, n, a, v);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) {
      const double x = a[i * n + i];
      h[i * n + j] = i != j ? 0 : x < 0 ? 0 : __builtin_sqrt(x);
    }
  }
  turn(v, h, n, true, work, a);
  for (int64_t i = 0; i < n * n; i++) out[i] = (float)a[i];
}

static void solve(const float *r, const float *g, int64_t n, double *memory, float *out) {
  double *a = memory, *v = a + n * n, *h = v + n * n, *work = h + n * n;
  eigen(r, n, a, v);
  for (int64_t i = 0; i < n * n; i++) h[i] = (double)g[i];
  turn(v, h, n, false, work, h);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < n; j++) {
      const double sum = a[i * n + i] + a[j * n + j];
      h[i * n + j] = sum == 0 ? 0 : h[i * n + j] / sum; // nothing to be found where both are 0
    }
  }
  turn(v, h, n, true, work, a);
  for (int64_t i = 0; i < n * n; i++) out[i] = (float)a[i];
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const parts p = parts_of(&c->in[0]->type);
  const int64_t size = p.n * p.n;
  for (int64_t lane = begin; lane < end; lane++) {
    double *memory = (double *)(void *)((char *)c->scratch + lane_bytes(&p) * (size_t)lane);
    for (int64_t i = zmi_lane_begin(p.count, lane); i < zmi_lane_begin(p.count, lane + 1); i++) {
      const float *a = (const float *)c->src[0] + i * size;
      float *out = (float *)c->dst[0] + i * size;
      if (c->nin == 1)
        root_of(a, p.n, memory, out);
      else
        solve(a, (const float *)c->src[1] + i * size, p.n, memory, out);
    }
  }
}

static zm_status infer_any(int operands, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  char text[128];
  zm_status status = zmi_check_operands(nin, in, operands);
  for (int i = 0; i < nin && status == ZM_OK; i++) {
    const int r = in[i].rank;
    const bool good = in[i].dtype == ZM_F32 && r >= 2 && in[i].shape[r - 1] == in[i].shape[r - 2] && zmi_type_equal(&in[i], &in[0]);
    if (!good) status = zmi_fail(ZM_ERROR_ARGUMENT, "expected float32 [..., n, n], found %s", zmi_type_text(&in[i], text));
  }
  return status == ZM_OK ? zmi_give(nout, out, ZM_F32, in[0].rank, in[0].shape) : status;
}

static zm_status root_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  return infer_any(1, nin, in, nout, out);
}

static zm_status solve_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  return infer_any(2, nin, in, nout, out);
}

// ---- rules ----

static zm_array *symmetric_part(zm_array *a) {
  return zm_multiply(zm_add(a, zmi_matrix_transpose(a)), zmi_scalar_like(a, 0.5));
}

// dA = R dR + dR R, and solving is its own adjoint.
static zm_status root_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (given[0] && wanted[0]) gradient[0] = zmi_symmetric_solve(zmi_result(n, 0), symmetric_part(given[0]));
  return !given[0] || !wanted[0] || gradient[0] ? ZM_OK : zm_last_status();
}

// 0 = dR X + X dR + R dX + dX R - dG
static zm_status solve_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (!given[0]) return ZM_OK;
  zm_array *y = zmi_symmetric_solve(n->in[0], given[0]), *x = zmi_matrix_transpose(zmi_result(n, 0));
  if (wanted[1]) gradient[1] = y;
  if (wanted[0]) gradient[0] = zm_negative(symmetric_part(zm_add(zm_matmul(y, x), zm_matmul(x, y))));
  return y && (!wanted[0] || gradient[0]) ? ZM_OK : zm_last_status();
}

static const zmi_rules root_rules = {.vjp = root_vjp, .vmap = zmi_vmap_elementwise, .gradient = "a"};
static const zmi_rules solve_rules = {.vjp = solve_vjp, .vmap = zmi_vmap_elementwise, .gradient = "all operands"};

const zmi_op zmi_op_symmetric_root = {
    .name = "symmetric_root",
    .operands = "a",
    .rounding = "by Jacobi rotations in double, p < q in rising order, of (a + a^T) / 2; eigenvalues below 0 count as 0; rounded once",
    .infer = root_infer,
    .scratch = scratch,
    .stages = {{tiles, run}},
    .rules = &root_rules};
const zmi_op zmi_op_symmetric_solve = {.name = "symmetric_solve",
                                       .operands = "r g",
                                       .rounding = "X of R X + X R = G by the same rotations in double; rounded once",
                                       .infer = solve_infer,
                                       .scratch = scratch,
                                       .stages = {{tiles, run}},
                                       .rules = &solve_rules};

zm_array *zmi_symmetric_root(zm_array *a) {
  return zmi_present("symmetric_root", 1, &a) ? zmi_apply1(&zmi_op_symmetric_root, NULL, 0, 1, &a) : NULL;
}

zm_array *zmi_symmetric_solve(zm_array *r, zm_array *g) {
  zm_array *in[2] = {r, g};
  return zmi_present("symmetric_solve", 2, in) ? zmi_apply1(&zmi_op_symmetric_solve, NULL, 0, 2, in) : NULL;
}
