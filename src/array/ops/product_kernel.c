// matmul and addmm in the kernel language, for GPUs: a group of 256 threads computes 64 x 64 results, a thread 4 x 4 of them, from steps of
// 16 k that lie in threadgroup memory. The order of each sum is that of product.h.
#include "array/ops/product.h"

#include <limits.h>

#define PRODUCT                                                                                                                            \
  "shared float at[1024]; shared float bt[1024];\n"                                                                                        \
  "let row0 = group.y * 64, col0 = group.x * 64;\n"                                                                                        \
  "let from_a = long(group.z) * rows * inner, from_b = long(group.z) * inner * cols;\n"                                                    \
  "float sum[16];\n"                                                                                                                       \
  "for (int range = 0; range < inner; range += 256) {\n"                                                                                   \
  "  float part[16];\n"                                                                                                                    \
  "  let stop = min(range + 256, inner);\n"                                                                                                \
  "  for (int k = range; k < stop; k += 16) {\n"                                                                                           \
  "    for (int i = 0; i < 4; i++) {\n"                                                                                                    \
  "      let e = thread + i * 256;\n"                                                                                                      \
  "      let r = row0 + e / 16, q = k + e % 16, p = k + e / 64, c = col0 + e % 64;\n"                                                      \
  "      at[e] = r < rows && q < stop ? a[from_a + long(r) * inner + q] : 0;\n"                                                            \
  "      bt[e] = p < stop && c < cols ? b[from_b + long(p) * cols + c] : 0;\n"                                                             \
  "    }\n"                                                                                                                                \
  "    barrier();\n"                                                                                                                       \
  "    let most = min(stop - k, 16);\n"                                                                                                    \
  "    for (int q = 0; q < most; q++)\n"                                                                                                   \
  "      for (int i = 0; i < 4; i++)\n"                                                                                                    \
  "        for (int j = 0; j < 4; j++)\n"                                                                                                  \
  "          part[i * 4 + j] = fma(at[(thread.y * 4 + i) * 16 + q], bt[q * 64 + thread.x * 4 + j], part[i * 4 + j]);\n"                    \
  "    barrier();\n"                                                                                                                       \
  "  }\n"                                                                                                                                  \
  "  for (int t = 0; t < 16; t++) sum[t] = range == 0 ? part[t] : sum[t] + part[t];\n"                                                     \
  "}\n"                                                                                                                                    \
  "for (int i = 0; i < 4; i++)\n"                                                                                                          \
  "  for (int j = 0; j < 4; j++) {\n"                                                                                                      \
  "    let r = row0 + thread.y * 4 + i, c = col0 + thread.x * 4 + j;\n"                                                                    \
  "    let at_y = (long(group.z) * rows + r) * cols + c;\n"                                                                                \
  "    if (r < rows && c < cols) y[at_y] = "

static const zmi_kernel_text product = {.name = "matmul",
                                        .form = ZMI_FORM_TILES,
                                        .inputs = "a b",
                                        .outputs = "y",
                                        .parameters = "int rows int cols int inner int count",
                                        .source = PRODUCT "sum[i * 4 + j];\n  }",
                                        .shape = {"a.0"},
                                        .groups = "(cols + 63) / 64, (rows + 63) / 64, count",
                                        .threads = "16, 16"};
static const zmi_kernel_text sum = {.name = "addmm",
                                    .form = ZMI_FORM_TILES,
                                    .inputs = "a b more",
                                    .outputs = "y",
                                    .parameters = "int rows int cols int inner int count alpha beta",
                                    .source = PRODUCT "fma(beta, more[at_y], alpha * sum[i * 4 + j]);\n  }",
                                    .shape = {"a.0"},
                                    .groups = "(cols + 63) / 64, (rows + 63) / 64, count",
                                    .threads = "16, 16"};

bool zmi_product_kernel(const zmi_call *c, double alpha, double beta, zmi_op_kernel *k) {
  enum { SIDE = 64, THREADS = 256 };
  const zmi_type *a = &c->in[0]->type, *y = &c->out[0]->type;
  const int r = a->rank;
  const int64_t rows = y->shape[r - 2], cols = y->shape[r - 1], inner = a->shape[r - 1];
  const zm_dtype in[3] = {a->dtype, a->dtype, a->dtype};
  int64_t count = 1;
  for (int i = 0; i < r - 2; i++) count *= a->shape[i];
  const int64_t across = zmi_tiles_of(cols, SIDE), down = zmi_tiles_of(rows, SIDE);
  if (rows > INT_MAX / 2 || cols > INT_MAX / 2 || inner > INT_MAX / 2 || count > INT_MAX) return false; // counted in int
  if (count > 0 && across > 0 && down > INT_MAX / count / across) return false;
  k->code = zmi_op_source_code(c->op, c->nin == 3 ? &sum : &product, c->nin, in, 1, &y->dtype);
  const double values[] = {(double)rows, (double)cols, (double)inner, (double)count, alpha, beta};
  for (size_t i = 0; i < ZMI_COUNT(values); i++) k->values[i] = values[i];
  k->groups = across * down * count;
  k->threads = THREADS;
  return k->code != NULL;
}
