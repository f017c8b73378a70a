// Calibration of the codec of caches: principal components of sample rows, and the bits that each run of components gets.
#include "catalog/kvtc.h"

#include <string.h>

// ---- eigenvectors of a symmetric matrix: Householder's tridiagonal form, then implicit QL ----

static double root(double x) {
  return __builtin_sqrt(x);
}

static double magnitude(double x) {
  return x < 0 ? -x : x;
}

// a becomes the orthogonal matrix of the reduction, d the diagonal, e the line beside it.
static void tridiagonal(double *a, double *d, double *e, int64_t n) {
  for (int64_t i = n - 1; i > 0; i--) {
    double h = 0, scale = 0, *row = a + i * n;
    for (int64_t k = 0; k < i && i > 1; k++) scale += magnitude(row[k]);
    if (scale == 0) {
      e[i] = row[i - 1];
    } else {
      for (int64_t k = 0; k < i; k++) {
        row[k] /= scale;
        h += row[k] * row[k];
      }
      double f = row[i - 1], g = f >= 0 ? -root(h) : root(h), sum = 0;
      e[i] = scale * g;
      h -= f * g;
      row[i - 1] = f - g;
      for (int64_t j = 0; j < i; j++) {
        a[j * n + i] = row[j] / h;
        g = 0;
        for (int64_t k = 0; k <= j; k++) g += a[j * n + k] * row[k];
        for (int64_t k = j + 1; k < i; k++) g += a[k * n + j] * row[k];
        e[j] = g / h;
        sum += e[j] * row[j];
      }
      double half = sum / (h + h);
      for (int64_t j = 0; j < i; j++) {
        f = row[j];
        e[j] = g = e[j] - half * f;
        for (int64_t k = 0; k <= j; k++) a[j * n + k] -= f * e[k] + g * row[k];
      }
    }
    d[i] = h;
  }
  d[0] = 0;
  e[0] = 0;
  for (int64_t i = 0; i < n; i++) {
    double *row = a + i * n;
    if (d[i] != 0) {
      // Row by row: g[j] = the sum over k of row[k] a[k][j], kept in the line above the diagonal of e.
      for (int64_t j = 0; j < i; j++) {
        double g = 0;
        for (int64_t k = 0; k < i; k++) g += row[k] * a[k * n + j];
        for (int64_t k = 0; k < i; k++) a[k * n + j] -= g * a[k * n + i];
      }
    }
    d[i] = row[i];
    row[i] = 1;
    for (int64_t j = 0; j < i; j++) row[j] = a[j * n + i] = 0;
  }
}

static double hypotenuse(double a, double b) {
  a = magnitude(a);
  b = magnitude(b);
  double large = a > b ? a : b, small = a > b ? b : a;
  return large == 0 ? 0 : large * root(1 + small / large * (small / large));
}

// z [n][n]: rows are vectors; they turn with the matrix. False if a value does not settle.
static bool settle(double *d, double *e, double *z, int64_t n) {
  for (int64_t i = 1; i < n; i++) e[i - 1] = e[i];
  e[n - 1] = 0;
  for (int64_t l = 0; l < n; l++) {
    for (int turns = 0;; turns++) {
      int64_t m = l;
      for (; m < n - 1; m++) {
        double sum = magnitude(d[m]) + magnitude(d[m + 1]);
        if (magnitude(e[m]) <= 2.2e-16 * sum) break;
      }
      if (m == l) break;
      if (turns == 60) return false;
      double g = (d[l + 1] - d[l]) / (2 * e[l]), r = hypotenuse(g, 1), s = 1, c = 1, p = 0;
      g = d[m] - d[l] + e[l] / (g + (g >= 0 ? r : -r));
      int64_t i = m - 1;
      for (; i >= l; i--) {
        double f = s * e[i], b = c * e[i];
        e[i + 1] = r = hypotenuse(f, g);
        if (r == 0) {
          d[i + 1] -= p;
          e[m] = 0;
          break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        d[i + 1] = g + (p = s * r);
        g = c * r - b;
        double *x = z + i * n, *y = x + n;
        for (int64_t k = 0; k < n; k++) {
          f = y[k];
          y[k] = s * x[k] + c * f;
          x[k] = c * x[k] - s * f;
        }
      }
      if (r == 0 && i >= l) continue;
      d[l] -= p;
      e[l] = g;
      e[m] = 0;
    }
  }
  return true;
}

zm_status zmi_kvtc_eigen(double *a, double *values, int64_t n) {
  double *e = zmi_calloc((size_t)n, sizeof *e), *swap = zmi_malloc((size_t)n * sizeof *swap);
  zm_status status = e && swap ? ZM_OK : ZM_ERROR_MEMORY;
  if (status == ZM_OK) {
    tridiagonal(a, values, e, n);
    for (int64_t i = 0; i < n; i++) { // columns are the vectors: rows are quicker to turn
      for (int64_t j = i + 1; j < n; j++) {
        double v = a[i * n + j];
        a[i * n + j] = a[j * n + i];
        a[j * n + i] = v;
      }
    }
    if (!settle(values, e, a, n)) status = zmi_fail(ZM_ERROR_ARGUMENT, "kvtc: the components of these samples cannot be computed");
  }
  for (int64_t i = 0; status == ZM_OK && i < n; i++) { // falling
    int64_t best = i;
    for (int64_t j = i + 1; j < n; j++) best = values[j] > values[best] ? j : best;
    double v = values[i];
    values[i] = values[best];
    values[best] = v;
    memcpy(swap, a + i * n, (size_t)n * sizeof *swap);
    memmove(a + i * n, a + best * n, (size_t)n * sizeof *swap);
    memcpy(a + best * n, swap, (size_t)n * sizeof *swap);
  }
  zmi_free(e);
  zmi_free(swap);
  return status;
}

// ---- components ----

// The inner products of rows (of columns, if `columns`) of x [n][p], in double.
static double *products(const float *x, int64_t n, int64_t p, bool columns) {
  int64_t m = columns ? p : n;
  double *a = zmi_calloc((size_t)m * (size_t)m, sizeof *a);
  if (!a) return NULL;
  if (columns) {
    for (int64_t r = 0; r < n; r++) {
      const float *row = x + r * p;
      for (int64_t i = 0; i < p; i++) {
        double v = row[i];
        for (int64_t j = i; j < p; j++) a[i * p + j] += v * (double)row[j];
      }
    }
  } else {
    for (int64_t i = 0; i < n; i++) {
      for (int64_t j = i; j < n; j++) {
        double sum[8] = {0};
        const float *u = x + i * p, *v = x + j * p;
        int64_t k = 0;
        for (; k + 8 <= p; k += 8) {
          for (int q = 0; q < 8; q++) sum[q] += (double)u[k + q] * (double)v[k + q];
        }
        for (; k < p; k++) sum[0] += (double)u[k] * (double)v[k];
        for (int q = 0; q < 8; q++) a[i * n + j] += sum[q];
      }
    }
  }
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < i; j++) a[i * m + j] = a[j * m + i];
  }
  return a;
}

// Centers the rows and gives the components with a part in them, at most `rank`, as basis [p][r].
static zm_status components(float *x, int64_t n, int64_t p, int64_t rank, kvtc_stream *s) {
  for (int64_t i = 0; i < p; i++) {
    double sum = 0;
    for (int64_t r = 0; r < n; r++) sum += (double)x[r * p + i];
    s->mean[i] = zmi_f16_to_f32(zmi_f32_to_f16((float)(sum / (double)n)));
    for (int64_t r = 0; r < n; r++) x[r * p + i] -= s->mean[i];
  }
  bool columns = p <= n;
  int64_t m = columns ? p : n;
  double *a = products(x, n, p, columns), *values = zmi_malloc((size_t)m * sizeof *values);
  zm_status status = a && values ? zmi_kvtc_eigen(a, values, m) : ZM_ERROR_MEMORY;
  if (status == ZM_OK) {
    int64_t r = 0;
    while (r < m && r < rank && values[r] > values[0] * 1e-10) r++;
    s->rank = r;
    s->basis = zmi_calloc((size_t)(p * r) + 1, sizeof *s->basis);
    double *v = zmi_malloc((size_t)p * sizeof *v);
    if (!s->basis || !v) status = ZM_ERROR_MEMORY;
    for (int64_t j = 0; status == ZM_OK && j < r; j++) {
      const double *u = a + j * m;
      double norm = 1 / root(values[j]);
      memset(v, 0, (size_t)p * sizeof *v);
      if (columns) memcpy(v, u, (size_t)p * sizeof *v);
      for (int64_t row = 0; !columns && row < n; row++) {
        for (int64_t i = 0; i < p; i++) v[i] += u[row] * norm * (double)x[row * p + i];
      }
      for (int64_t i = 0; i < p; i++) s->basis[i * r + j] = zmi_f16_to_f32(zmi_f32_to_f16((float)v[i]));
    }
    zmi_free(v);
  }
  zmi_free(a);
  zmi_free(values);
  return status;
}

// ---- bits: the least error within the budget, by dynamic programming over runs of components ----

static const int32_t block_sizes[] = {1, 16, 64, 256, 1024}, widths[] = {0, 2, 4, 8};
enum { OVERHEAD = 32 }; // bits of a group's shift and scale

// How the squared error changes if components [first, first + size) of all rows are kept with `bits`.
static double change_of(const float *c, int64_t n, int64_t r, int64_t first, int64_t size, int bits) {
  double change = 0;
  float levels = (float)((1 << bits) - 1);
  for (int64_t row = 0; row < n && bits; row++) {
    const float *v = c + row * r + first;
    float low = v[0], high = v[0];
    for (int64_t i = 1; i < size; i++) {
      low = v[i] < low ? v[i] : low;
      high = v[i] > high ? v[i] : high;
    }
    float step = high > low ? (high - low) / levels : 1;
    for (int64_t i = 0; i < size; i++) {
      float q = (float)(int32_t)((v[i] - low) / step + 0.5f), rest = v[i] - (q * step + low);
      change += (double)rest * (double)rest - (double)v[i] * (double)v[i];
    }
  }
  return change;
}

typedef struct choice {
  double error;
  int32_t size, bits;
  int64_t used;
} choice;

static zm_status plan(const float *c, int64_t n, int64_t budget, kvtc_stream *s) {
  int64_t r = s->rank, width = budget + 1;
  size_t cells;
  if (zmi_mul_overflow((size_t)(r + 1), (size_t)width, &cells))
    return zmi_fail(ZM_ERROR_MEMORY, "kvtc: a budget of %lld bits is too large", (long long)budget);
  choice *best = zmi_calloc(cells, sizeof *best);
  s->groups = zmi_calloc((size_t)r + 1, sizeof *s->groups);
  if (!best || !s->groups) {
    zmi_free(best);
    return ZM_ERROR_MEMORY;
  }
  for (int64_t i = 1; i <= r; i++) {
    choice *here = best + i * width;
    for (int64_t b = 0; b < width; b++) here[b] = (choice){best[(i - 1) * width + b].error, 1, 0, 0}; // this component is left out
    for (size_t k = 0; k < ZMI_COUNT(block_sizes); k++) {
      if (block_sizes[k] > i) continue;
      for (size_t t = 1; t < ZMI_COUNT(widths); t++) {
        int64_t used = block_sizes[k] * widths[t] + OVERHEAD;
        if (used > budget) continue;
        double change = change_of(c, n, r, i - block_sizes[k], block_sizes[k], widths[t]);
        const choice *before = best + (i - block_sizes[k]) * width;
        for (int64_t b = used; b < width; b++) {
          double error = change + before[b - used].error;
          if (error < here[b].error) here[b] = (choice){error, block_sizes[k], widths[t], used};
        }
      }
    }
  }
  int64_t count = 0, left = budget;
  for (int64_t i = r; i > 0;) {
    const choice *at = best + i * width + left;
    s->groups[count++] = (kvtc_group){at->size, at->bits};
    i -= at->size;
    left -= at->used;
  }
  for (int64_t i = 0; i < count / 2; i++) {
    kvtc_group g = s->groups[i];
    s->groups[i] = s->groups[count - 1 - i];
    s->groups[count - 1 - i] = g;
  }
  s->count = count;
  zmi_free(best);
  return ZM_OK;
}

// Components behind the last one with bits are not needed.
static void trim(kvtc_stream *s) {
  int64_t r = s->rank, kept = r;
  while (s->count > 0 && s->groups[s->count - 1].bits == 0) kept -= s->groups[--s->count].size;
  for (int64_t i = 0; i < s->features && kept < r; i++) memmove(s->basis + i * kept, s->basis + i * r, (size_t)kept * sizeof *s->basis);
  s->rank = kept;
}

zm_status zmi_kvtc_fit(float *rows, int64_t n, int64_t p, int64_t rank, int64_t bits, kvtc_stream *s) {
  *s = (kvtc_stream){.features = p, .mean = zmi_calloc((size_t)p, sizeof(float))};
  zm_status status = s->mean ? components(rows, n, p, rank, s) : ZM_ERROR_MEMORY;
  float *c = status == ZM_OK ? zmi_calloc((size_t)(n * s->rank) + 1, sizeof *c) : NULL;
  if (status == ZM_OK && !c) status = ZM_ERROR_MEMORY;
  for (int64_t r = 0; status == ZM_OK && r < n; r++) {
    for (int64_t i = 0; i < p; i++) {
      for (int64_t j = 0; j < s->rank; j++) c[r * s->rank + j] += rows[r * p + i] * s->basis[i * s->rank + j];
    }
  }
  if (status == ZM_OK) status = plan(c, n, bits, s);
  if (status == ZM_OK) trim(s);
  zmi_free(c);
  if (status != ZM_OK) zmi_kvtc_stream_release(s);
  return status;
}
