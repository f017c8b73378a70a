// Arrays on a GPU for a long time: random operands of random shapes, strides and dtypes through operations, kernels of the kernel language,
// gradients and compiled functions, on the CPU and on the GPU, byte by byte.
//   stress_arrays SECONDS
// Prints TAP, a case for each kind of graph, and ends with "N results in S s, W wrong"; the status is 0 if none is. Each kind once at
// least.
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmlx/zmlx.h>

enum { MOST = 16 };

static uint64_t state;
static uint64_t next(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static int64_t upto(int64_t most) {
  return 1 + (int64_t)(next() % (uint64_t)most);
}

static zm_array *numbers(zm_dtype dtype, const int64_t *shape, int rank, bool wild) {
  static const float odd[] = {0, -0.0f, 1, 1e-40f, -1e-40f, 3.4e38f, -3.4e38f, 0x1p-126f};
  int64_t count = 1;
  for (int i = 0; i < rank; i++) count *= shape[i];
  float *x = zmi_calloc((size_t)count + 1, sizeof *x);
  for (int64_t i = 0; x && i < count; i++) {
    const uint64_t r = next();
    x[i] = wild && r % 13 == 0 ? odd[r / 13 % ZMI_COUNT(odd)] : (float)(int64_t)(r >> 40) * 0x1p-22f - 2;
  }
  zm_array *a = x ? zm_array_from_data(x, ZM_F32, shape, rank) : NULL;
  zmi_free(x);
  return zm_astype(a, dtype);
}

static zm_dtype some_float(void) {
  static const zm_dtype floats[] = {ZM_F32, ZM_F16, ZM_BF16};
  return floats[next() % ZMI_COUNT(floats)];
}

static zm_array *rows_of(zm_dtype dtype, int64_t rows, int64_t cols, bool wild) {
  if (next() % 3) return numbers(dtype, (int64_t[]){rows, cols}, 2, wild);
  return zm_transpose(numbers(dtype, (int64_t[]){cols, rows}, 2, wild), NULL);
}

// ---- kinds of graphs: each makes its results from what `next` gives ----

static int element_by_element(zm_array **out) {
  const zm_dtype dtype = some_float();
  const int64_t rows = upto(300), cols = upto(700);
  zm_array *x = rows_of(dtype, rows, cols, true), *y = rows_of(dtype, rows, cols, true), *row = numbers(dtype, &cols, 1, true);
  out[0] = zm_add(zm_multiply(x, y), row);
  out[1] = zm_where(zm_less(x, y), zm_tanh(x), zm_exp(zm_minimum(y, row)));
  out[2] = zm_divide(zm_sin(x), zm_sqrt(zm_abs(y)));
  out[3] = zm_astype(zm_multiply(x, zm_full(50, dtype, NULL, 0)), (zm_dtype)(ZM_U8 + next() % 8));
  out[4] = zm_log1p(zm_square(x));
  out[5] = zm_power(zm_abs(x), y);
  return 6;
}

static int whole_numbers(zm_array **out) {
  const zm_dtype dtype = (zm_dtype)(ZM_U8 + next() % 8);
  const int64_t rows = upto(100), cols = upto(500);
  zm_array *scale = zm_full(60, ZM_F32, NULL, 0);
  zm_array *x = zm_astype(zm_multiply(rows_of(ZM_F32, rows, cols, false), scale), dtype);
  zm_array *y = zm_astype(zm_multiply(rows_of(ZM_F32, rows, cols, false), scale), dtype);
  out[0] = zm_remainder(x, y);
  out[1] = zm_floor_divide(x, y);
  out[2] = zm_bitwise_xor(zm_multiply(x, y), zm_left_shift(x, zm_full(3, dtype, NULL, 0)));
  out[3] = zm_sum(x, -1, false);
  out[4] = zm_argmin(x, 0, false);
  return 5;
}

static int reductions(zm_array **out) {
  const zm_dtype dtype = some_float();
  const int64_t shape[3] = {upto(40), upto(60), upto(900)};
  zm_array *x = numbers(dtype, shape, 3, next() % 2);
  const int axis = (int)(next() % 3);
  out[0] = zm_sum(x, axis, false);
  out[1] = zm_mean(x, axis, true);
  out[2] = zm_max(x, axis, false);
  out[3] = zm_argmax(x, axis, false);
  out[4] = zm_softmax(x);
  out[5] = zm_logsumexp(x, &axis, 1, false);
  out[6] = zm_var(x, &axis, 1, false, 1);
  return 7;
}

static int products(zm_array **out) {
  const zm_dtype dtype = some_float();
  const int64_t m = upto(200), k = upto(900), n = upto(200);
  zm_array *a = rows_of(dtype, m, k, false), *b = rows_of(dtype, k, n, false);
  out[0] = zm_matmul(a, b);
  out[1] = zm_addmm(numbers(dtype, &n, 1, false), a, b, 0.7, -1.3);
  out[2] = zm_matmul(numbers(dtype, (int64_t[]){3, m, k}, 3, false), b);
  out[3] = zm_matmul(numbers(dtype, &k, 1, false), b);
  return 4;
}

static int moves(zm_array **out) {
  static const zm_dtype dtypes[] = {ZM_BOOL, ZM_U8, ZM_BF16, ZM_F32, ZM_I64};
  const zm_dtype dtype = dtypes[next() % ZMI_COUNT(dtypes)];
  const int64_t shape[3] = {upto(20) + 1, upto(30) + 1, upto(40) + 1};
  zm_array *x = numbers(dtype, shape, 3, false);
  out[0] = zm_contiguous(zm_transpose(x, (int[]){2, 0, 1}));
  out[1] = zm_slice(x, (int64_t[]){shape[0], 0, 1}, (int64_t[]){0, shape[1], shape[2]}, (int64_t[]){-1, 2, 3});
  out[2] = zm_concatenate((zm_array *[]){x, x}, 2, (int)(next() % 3));
  out[3] = zm_reshape(zm_transpose(x, (int[]){1, 0, 2}), (int64_t[]){-1}, 1);
  zm_array *index = zm_astype(zm_multiply(numbers(ZM_F32, (int64_t[]){50}, 1, false), zm_full(12, ZM_F32, NULL, 0)), ZM_I32);
  out[4] = zm_take(x, index);
  return 5;
}

// Kernels of the kernel language, in each form but the raw one.
static zm_op *ops[4];

static bool make_ops(void) {
  ops[0] = zm_elementwise("let t = exp(-abs(x)); a = x >= 0 ? t * w : x; b = a + i;", &(zm_elementwise_options){.outputs = "a b"});
  ops[1] = zm_reduce(&(zm_reduce_options){.update = "acc + v * v", .finalize = "sqrt(acc)"});
  ops[2] = zm_map_reduce(&(zm_map_reduce_options){.inputs = "x w",
                                                  .pass1 = {.init = "0", .update = "acc + x", .finalize = "acc / D"},
                                                  .pass2 = {.init = "0", .update = "acc + (x - s1) * (x - s1)"},
                                                  .write = "(x - s1) * rsqrt(s2 / D + 1e-5f) * w"});
  ops[3] = zm_kernel(&(zm_kernel_options){
      .name = "stress_tiles",
      .form = ZM_KERNEL_TILES,
      .inputs = "x",
      .outputs = "y n",
      .source = "shared float buffer[128]; float m = 0;\n"
                "for (int k = thread; k < x.1; k += threads) m += x[group * x.1 + k];\n"
                "m = simd_sum(m); if (simd_lane == 0) buffer[simd_group] = m; barrier();\n"
                "if (thread == 0) { float s = 0; for (int g = 0; g < simd_groups; g++) s += buffer[g]; y[group] = s; }\n"
                "atomic_add(n, thread & 3, thread + group);",
      .shape = {"x.0", "4"},
      .result = {ZM_F32, ZM_I32},
      .groups = "x.0",
      .threads = "128"});
  return ops[0] && ops[1] && ops[2] && ops[3];
}

static int kernels(zm_array **out) {
  const zm_dtype dtype = some_float();
  const int64_t rows = upto(200), cols = upto(1500);
  zm_array *x = rows_of(dtype, rows, cols, false), *w = numbers(dtype, &cols, 1, false);
  if (zm_op_apply(ops[0], (zm_array *[]){x, w}, 2, out, 2) != ZM_OK) return -1;
  out[2] = zm_op_apply1(ops[1], x, NULL);
  out[3] = zm_op_apply1(ops[2], x, w, NULL);
  return zm_op_apply(ops[3], &x, 1, out + 4, 2) == ZM_OK ? 6 : -1;
}

static zm_status loss(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  zm_array *y = zm_op_apply1(ops[2], zm_tanh(zm_add(zm_matmul(in[0], in[1]), in[2])), in[2], NULL);
  out[0] = zm_mean(zm_reshape(zm_square(y), (int64_t[]){-1}, 1), 0, false);
  return out[0] ? ZM_OK : zm_last_status();
}

static int gradients(zm_array **out) {
  const int64_t m = upto(60), k = upto(100), n = upto(90);
  zm_array *in[3] = {rows_of(ZM_F32, m, k, false), rows_of(ZM_F32, k, n, false), numbers(ZM_F32, &n, 1, false)};
  return zm_value_and_grad(loss, NULL, in, 3, (int[]){0, 1, 2}, 3, out, 1, out + 1) == ZM_OK ? 4 : -1;
}

static zm_status chain(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  zm_array *x = zm_multiply(zm_silu(in[0]), in[1]);
  out[0] = zm_add(zm_softmax(x), zm_full(1, ZM_F32, NULL, 0));
  out[1] = zm_sort(zm_sigmoid(x), -1); // on the CPU in between
  return out[0] && out[1] ? ZM_OK : zm_last_status();
}

static zm_compiled *compiled;

static int compiled_functions(zm_array **out) {
  const int64_t rows = upto(50), cols = upto(400);
  zm_array *in[2] = {rows_of(ZM_F32, rows, cols, false), rows_of(ZM_F32, rows, cols, false)};
  if (zm_compiled_call(compiled, in, 2, out, 2) != ZM_OK) return -1;
  in[1] = out[1];
  return zm_compiled_call(compiled, in, 2, out + 2, 2) == ZM_OK ? 4 : -1;
}

static const struct kind {
  const char *name;
  int (*make)(zm_array **out);
} kinds[] = {{"element by element", element_by_element},
             {"whole numbers", whole_numbers},
             {"reductions", reductions},
             {"products", products},
             {"moves", moves},
             {"kernels", kernels},
             {"gradients", gradients},
             {"compiled functions", compiled_functions}};

// ---- both devices ----

static bool same(const char *a, const char *b, zm_dtype dtype, int64_t count) {
  const size_t size = zm_dtype_size(dtype);
  for (int64_t i = 0; i < count; i++, a += size, b += size) {
    float x = 0, y = 0;
    if (memcmp(a, b, size) == 0) continue;
    if (dtype != ZM_F32) return false;
    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    if (x == x || y == y) return false; // that it is a NaN is promised, not which
  }
  return true;
}

// Results, or -1; *wrong: of them not those of the CPU.
static int one_round(const struct kind *k, uint64_t seed, size_t *wrong) {
  static const zm_device devices[2] = {ZM_DEVICE_CPU, ZM_DEVICE_CUDA};
  zm_array *out[2][MOST] = {{NULL}};
  zm_scope *scope = zm_scope_open();
  int count = 0;
  for (int d = 0; d < 2 && count >= 0; d++) {
    state = seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
    if (zm_set_device(devices[d]) != ZM_OK || (count = k->make(out[d])) < 0 || zm_eval(out[d], (size_t)count) != ZM_OK) count = -1;
  }
  for (int o = 0; o < count; o++) {
    const void *a = zm_array_data(out[0][o]), *b = zm_array_data(out[1][o]);
    const bool good =
        a && b && zm_array_dtype(out[0][o]) == zm_array_dtype(out[1][o]) && same(a, b, zm_array_dtype(out[0][o]), zm_array_size(out[0][o]));
    if (!good) fprintf(stderr, "stress_arrays: %s, seed %llu: result %d is not that of the CPU\n", k->name, (unsigned long long)seed, o);
    *wrong += !good;
  }
  zm_scope_close(scope);
  return count;
}

int main(int argc, char **argv) {
  const double seconds = argc > 1 ? atof(argv[1]) : 0, start = zmi_now();
  size_t results[ZMI_COUNT(kinds)] = {0}, wrong[ZMI_COUNT(kinds)] = {0}, all = 0, bad = 0;
  bool failed = !make_ops() || !(compiled = zm_compile(chain, NULL, 2));
  for (uint64_t round = 0; !failed && (round < ZMI_COUNT(kinds) || zmi_now() - start < seconds); round++) {
    const size_t k = round % ZMI_COUNT(kinds);
    const int count = one_round(&kinds[k], round, &wrong[k]);
    failed = count < 0;
    if (!failed) results[k] += (size_t)count;
  }
  if (failed) fprintf(stderr, "stress_arrays: %s\n", zm_last_error());
  for (size_t k = 0; k < ZMI_COUNT(kinds); k++) {
    const bool good = results[k] > 0 && wrong[k] == 0;
    printf("%s %zu - arrays: %s\n", good ? "ok" : "not ok", k + 1, kinds[k].name);
    all += results[k];
    bad += wrong[k];
  }
  const zm_device_use use = zm_device_usage();
  printf("1..%zu\n# %llu operations on the GPU, %llu on the CPU for it, %llu kernels\n", ZMI_COUNT(kinds),
         (unsigned long long)use.on_device, (unsigned long long)use.on_cpu, (unsigned long long)use.kernels);
  printf("%zu results in %.0f s, %zu wrong\n", all, zmi_now() - start, bad);
  zm_compiled_free(compiled);
  for (size_t i = 0; i < ZMI_COUNT(ops); i++) zm_op_free(ops[i]);
  return failed || bad > 0;
}
