// A quantized kernel of your own: a matrix of 4-bit codes, eight a word, times a vector, in the form of threads and buffers; its gradient
// by x is given as a function of arrays.
#include <math.h>
#include <stdio.h>
#include <zmlx/zmlx.h>

#define THREADS 32 // of a group, each with a row
#define TEXT(x) #x
#define NUMBER(x) TEXT(x)

enum { N = 96, K = 256, PER_WORD = 8 };

// w [N, K / 8] words, lowest code first; scale [N]; x [K]; value of a code q: (q - 8) * scale of its row.
static const char source[] = "int row = group * threads + thread;"
                             "if (row < w.0) {"
                             "  float acc = 0;"
                             "  for (int k = 0; k < w.1; k += 1) {"
                             "    uint word = w[row * w.1 + k];"
                             "    for (int j = 0; j < 8; j += 1) {"
                             "      float q = float((word >> uint(4 * j)) & 15u) - 8;"
                             "      acc = fma(q, x[8 * k + j], acc);"
                             "    }"
                             "  }"
                             "  y[row] = acc * scale[row];"
                             "}";

// d(total)/dx = W^T g, of any shapes: the matrix is made of the operands, W[n, 8 i + j] = ((words[n, i] >> 4 j & 15) - 8) scale[n].
static zm_status vjp(void *user, const double *parameters, zm_array *const *in, int nin, zm_array *const *out,
                     zm_array *const *cotangents, int nout, zm_array **gradients) {
  (void)user, (void)parameters, (void)nin, (void)out, (void)nout;
  const int64_t rows = zm_array_dim(in[0], 0), columns = PER_WORD * zm_array_dim(in[0], 1);
  zm_array *shifts = zm_arange(0, 4 * PER_WORD, 4, ZM_U32), *mask = zm_full(15, ZM_U32, NULL, 0), *zero = zm_full(8, ZM_F32, NULL, 0);
  zm_array *codes = zm_bitwise_and(zm_right_shift(zm_expand_dims(in[0], 2), shifts), mask);
  zm_array *w = zm_subtract(zm_reshape(zm_astype(codes, ZM_F32), (int64_t[]){rows, columns}, 2), zero);
  gradients[2] = zm_matmul(zm_multiply(cotangents[0], in[1]), w); // the scale of a row goes with its cotangent
  return gradients[2] ? ZM_OK : zm_last_status();
}

static zm_status total(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  zm_array *y = NULL;
  zm_status status = zm_op_apply(user, in, 3, &y, 1);
  if (status == ZM_OK && !(out[0] = zm_sum(y, 0, false))) status = zm_last_status();
  return status;
}

static bool check(zm_op *op) {
  static float codes[N][K];
  uint32_t words[N][K / PER_WORD] = {{0}};
  float scales[N], x[K];
  for (int n = 0; n < N; n++) {
    scales[n] = 0.01f * (float)(n % 7 + 1);
    for (int k = 0; k < K; k++) {
      uint32_t q = (uint32_t)(n * 31 + k * 17 + k * k) % 16;
      codes[n][k] = (float)q;
      words[n][k / PER_WORD] |= q << 4 * (k % PER_WORD);
    }
  }
  for (int k = 0; k < K; k++) x[k] = sinf((float)k);
  zm_array *in[] = {zm_array_from_data(words, ZM_U32, (int64_t[]){N, K / PER_WORD}, 2),
                    zm_array_from_data(scales, ZM_F32, (int64_t[]){N}, 1), zm_array_from_data(x, ZM_F32, (int64_t[]){K}, 1)};
  zm_array *y = NULL, *gradient = NULL;
  if (zm_op_apply(op, in, 3, &y, 1) != ZM_OK || zm_grad(total, op, in, 3, (int[]){2}, 1, &gradient) != ZM_OK) return false;
  const float *a = zm_array_data(y), *g = zm_array_data(gradient);
  if (!a || !g) return false;
  double worst = 0, worst_gradient = 0;
  for (int n = 0; n < N; n++) {
    double sum = 0;
    for (int k = 0; k < K; k++) sum += (codes[n][k] - 8.0) * scales[n] * x[k];
    worst = fmax(worst, fabs(a[n] - sum));
  }
  for (int k = 0; k < K; k++) {
    double sum = 0;
    for (int n = 0; n < N; n++) sum += (codes[n][k] - 8.0) * scales[n];
    worst_gradient = fmax(worst_gradient, fabs(g[k] - sum));
  }
  printf("[%d, %d] of 4-bit codes: largest error %.2g, of the gradient %.2g\n", N, K, worst, worst_gradient);
  return worst < 1e-4 && worst_gradient < 1e-4;
}

int main(void) {
  zm_scope *scope = zm_scope_open();
  zm_op *op = zm_kernel(&(zm_kernel_options){.name = "codes_times_vector",
                                             .form = ZM_KERNEL_TILES,
                                             .inputs = "w scale x",
                                             .outputs = "y",
                                             .source = source,
                                             .shape = {"w.0"},
                                             .result = {ZM_F32},
                                             .groups = "(w.0 + " NUMBER(THREADS) " - 1) / " NUMBER(THREADS),
                                             .threads = NUMBER(THREADS),
                                             .vjp = vjp});
  bool ok = scope && op && check(op);
  if (!ok) fprintf(stderr, "%s\n", zm_last_error());
  zm_op_free(op);
  zm_scope_close(scope);
  return ok ? 0 : 1;
}
