// Arrays on a GPU without a GPU: graphs, kernels of users, gradients and compiled functions are evaluated on the CPU and, with the imitated
// driver (fake_gpu.h), on a GPU whose kernels are the emitted CUDA C, compiled as C++ and run as threads. Every result has the same bits.
#include "fake_gpu.h"

#include <dirent.h>
#include <math.h>
#include <zmlx/zmlx.h>

enum { MOST = 16 };

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

typedef int (*maker)(zm_array **out); // makes arrays anew; how many

static zm_op *ops[MOST];
static int op_count;

static zm_op *keep(zm_op *op) {
  if (!op) fail_msg("%s", zm_last_error());
  ops[op_count++] = op;
  return op;
}

static void free_ops(void) {
  while (op_count > 0) zm_op_free(ops[--op_count]);
}

// ---- operands ----

static zm_array *numbers(zm_dtype dtype, uint64_t seed, const int64_t *shape, int rank) {
  int64_t count = 1;
  for (int i = 0; i < rank; i++) count *= shape[i];
  float *x = calloc((size_t)count + 1, sizeof *x);
  for (int64_t i = 0; i < count; i++) {
    static const float odd[] = {0, -0.0f, 1, -1, 1e-40f, INFINITY, -INFINITY, NAN, 3.5f, 0x1p-126f};
    const double r = zmi_uniform(seed, (uint64_t)i);
    x[i] = r < 0.08 ? odd[(size_t)(r * 125) % ZMI_COUNT(odd)] : (float)(8 * zmi_uniform(seed + 1, (uint64_t)i) - 4);
  }
  zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, shape, rank), dtype);
  free(x);
  return a;
}

static zm_array *plain(zm_dtype dtype, uint64_t seed, const int64_t *shape, int rank) { // no odd ones
  int64_t count = 1;
  for (int i = 0; i < rank; i++) count *= shape[i];
  float *x = calloc((size_t)count + 1, sizeof *x);
  for (int64_t i = 0; i < count; i++) x[i] = (float)(2 * zmi_uniform(seed, (uint64_t)i) - 1);
  zm_array *a = zm_astype(zm_array_from_data(x, ZM_F32, shape, rank), dtype);
  free(x);
  return a;
}

// ---- comparison ----

static bool same_element(const char *a, const char *b, zm_dtype dtype) {
  const size_t size = zm_dtype_size(dtype);
  float x, y;
  if (memcmp(a, b, size) == 0) return true;
  if (dtype != ZM_F32) return false;
  memcpy(&x, a, 4);
  memcpy(&y, b, 4);
  return x != x && y != y; // that it is a NaN is promised, not which
}

static void must_run(zm_status status, const char *name) {
  if (status != ZM_OK) fail_msg("%s: %s: %s %s", name, zm_status_name(status), zm_last_error(), driver()->wrong);
}

static void choose_device(zm_device device) {
  must_run(zm_set_device(device), "zm_set_device");
  assert_int_equal(zm_get_device(), device);
}

static void compare_arrays(const char *name, zm_array *a, zm_array *b, int o) {
  assert_int_equal(zm_array_dtype(a), zm_array_dtype(b));
  assert_int_equal(zm_array_size(a), zm_array_size(b));
  const zm_dtype dtype = zm_array_dtype(a);
  const char *x = zm_array_data(a), *y = zm_array_data(b);
  if (!x || !y) fail_msg("%s: %s", name, zm_last_error());
  for (int64_t i = 0; i < zm_array_size(a); i++) {
    const size_t at = (size_t)i * zm_dtype_size(dtype);
    if (same_element(x + at, y + at, dtype)) continue;
    uint64_t p = 0, q = 0;
    memcpy(&p, x + at, zm_dtype_size(dtype));
    memcpy(&q, y + at, zm_dtype_size(dtype));
    fail_msg("%s: result %d (%s) [%d]: CPU %llx, GPU %llx", name, o, zm_dtype_name(dtype), (int)i, (unsigned long long)p,
             (unsigned long long)q);
  }
}

// Both ways, from scratch; gives how many operations the CPU played for the GPU.
static uint64_t check(const char *name, maker make) {
  zm_array *cpu[MOST], *gpu[MOST];
  zm_scope *scope = zm_scope_open();
  zm_clear_error();
  choose_device(ZM_DEVICE_CPU);
  const int count = make(cpu);
  must_run(zm_eval(cpu, (size_t)count), name);
  choose_device(ZM_DEVICE_CUDA);
  const zm_device_use before = zm_device_usage();
  assert_int_equal(make(gpu), count);
  must_run(zm_eval(gpu, (size_t)count), name);
  const zm_device_use after = zm_device_usage();
  for (int o = 0; o < count; o++) compare_arrays(name, cpu[o], gpu[o], o);
  zm_scope_close(scope);
  if (driver()->wrong[0]) fail_msg("%s: the driver is misused: %s", name, driver()->wrong);
  if (after.on_device + after.on_cpu == before.on_device + before.on_cpu) fail_msg("%s: nothing was played", name);
  return after.on_cpu - before.on_cpu;
}

static void check_on_gpu(const char *name, maker make) {
  const uint64_t on_cpu = check(name, make);
  if (on_cpu) fail_msg("%s: %d operations were played by the CPU", name, (int)on_cpu);
}

// ---- graphs ----

static int elementwise(zm_array **out) {
  zm_array *x = numbers(ZM_F32, 1, SHAPE(7, 33)), *y = numbers(ZM_F32, 2, SHAPE(7, 33));
  zm_array *h = numbers(ZM_F16, 3, SHAPE(7, 33)), *b = numbers(ZM_BF16, 4, SHAPE(7, 33)), *row = numbers(ZM_F32, 5, SHAPE(33));
  zm_array *i = zm_astype(plain(ZM_F32, 6, SHAPE(7, 33)), ZM_I32);
  int n = 0;
  out[n++] = zm_add(zm_multiply(x, y), zm_full(2, ZM_F32, NULL, 0));
  out[n++] = zm_multiply(zm_transpose(x, NULL), zm_transpose(y, NULL)); // strided
  out[n++] = zm_add(x, row);                                            // broadcast
  out[n++] = zm_where(zm_less(x, y), h, b);
  out[n++] = zm_tanh(h);
  out[n++] = zm_add(b, b);
  out[n++] = zm_divide(x, y);
  out[n++] = zm_add(zm_multiply(i, i), zm_full(3, ZM_I32, NULL, 0));
  out[n++] = zm_astype(x, ZM_I8);
  out[n++] = zm_rsqrt(zm_abs(x));
  return n;
}

static int views(zm_array **out) {
  zm_array *x = numbers(ZM_BF16, 7, SHAPE(6, 4, 5));
  int n = 0;
  out[n++] = zm_contiguous(zm_transpose(x, (int[]){2, 0, 1}));
  out[n++] = zm_reshape(zm_transpose(x, (int[]){1, 2, 0}), SHAPE(10, 12));
  out[n++] = zm_slice(x, (int64_t[]){1, 3, 0}, (int64_t[]){6, 0, 5}, (int64_t[]){2, -1, 2});
  out[n++] = zm_take(zm_reshape(x, SHAPE(30, 4)), zm_array_from_data((int32_t[]){3, 0, -1, 29, 77}, ZM_I32, SHAPE(5)));
  out[n++] = zm_concatenate((zm_array *[]){x, zm_slice(x, (int64_t[]){1, 0, 0}, (int64_t[]){5, 4, 5}, (int64_t[]){3, 1, 1}), x}, 3, 0);
  out[n++] = zm_concatenate((zm_array *[]){zm_slice(x, (int64_t[]){0, 0, 1}, (int64_t[]){6, 4, 3}, NULL), x}, 2, 2);
  return n;
}

static int reductions(zm_array **out) {
  zm_array *x = numbers(ZM_F32, 8, SHAPE(3, 5, 37)), *b = plain(ZM_BF16, 9, SHAPE(4, 600)), *h = plain(ZM_F16, 10, SHAPE(4, 600));
  int n = 0;
  out[n++] = zm_sum(plain(ZM_F32, 11, SHAPE(6, 1200)), -1, false);
  out[n++] = zm_sum(plain(ZM_F32, 12, SHAPE(70, 9)), 0, true);
  out[n++] = zm_sum(plain(ZM_F32, 12, SHAPE(3, 70, 9)), 1, false);
  out[n++] = zm_mean(b, -1, false);
  out[n++] = zm_max(x, -1, false);
  out[n++] = zm_min(x, 1, true);
  out[n++] = zm_argmax(x, 2, false);
  out[n++] = zm_softmax(b);
  out[n++] = zm_softmax(h);
  out[n++] = zm_var(plain(ZM_F32, 13, SHAPE(5, 130)), (int[]){1}, 1, false, 1);
  out[n++] = zm_logsumexp(x, (int[]){-1}, 1, false);
  out[n++] = zm_max(zm_full(-1e-40, ZM_F32, SHAPE(2, 3)), -1, false); // denormals
  out[n++] = zm_max(zm_full(1e-40, ZM_F32, SHAPE(2, 3)), -1, false);
  return n;
}

static int integers(zm_array **out) {
  static const zm_dtype dtypes[] = {ZM_U8, ZM_I8, ZM_U16, ZM_I16, ZM_U32, ZM_I32, ZM_U64, ZM_I64};
  int n = 0;
  for (size_t i = 0; i < ZMI_COUNT(dtypes); i++) {
    zm_array *x = zm_astype(zm_multiply(plain(ZM_F32, 20 + i, SHAPE(3, 40)), zm_full(100, ZM_F32, NULL, 0)), dtypes[i]);
    out[n++] = zm_sum(x, -1, false);
    out[n++] = zm_argmin(x, -1, false);
  }
  return n;
}

static int truths(zm_array **out) {
  zm_array *x = zm_less(plain(ZM_F32, 30, SHAPE(6, 9)), zm_full(-0.7, ZM_F32, NULL, 0));
  int n = 0;
  out[n++] = zm_any(x, (int[]){1}, 1, false);
  out[n++] = zm_all(zm_logical_not(x), (int[]){1}, 1, false);
  out[n++] = zm_sum(x, 0, false);
  out[n++] = zm_logical_or(x, zm_logical_not(x));
  out[n++] = zm_max(x, 1, false);
  return n;
}

static int products(zm_array **out) {
  int n = 0;
  out[n++] = zm_matmul(plain(ZM_F32, 40, SHAPE(70, 300)), plain(ZM_F32, 41, SHAPE(300, 67)));
  out[n++] = zm_matmul(plain(ZM_BF16, 42, SHAPE(5, 3, 17)), plain(ZM_BF16, 43, SHAPE(17, 9)));
  out[n++] = zm_matmul(zm_transpose(plain(ZM_F16, 44, SHAPE(20, 6)), NULL), plain(ZM_F16, 45, SHAPE(20, 33)));
  out[n++] = zm_matmul(plain(ZM_F32, 46, SHAPE(600)), plain(ZM_F32, 47, SHAPE(600, 4)));
  out[n++] = zm_addmm(plain(ZM_F32, 48, SHAPE(7)), plain(ZM_F32, 49, SHAPE(9, 20)), plain(ZM_F32, 50, SHAPE(20, 7)), 0.3, 1.7);
  out[n++] = zm_matmul(plain(ZM_F32, 46, SHAPE(3, 0)), plain(ZM_F32, 47, SHAPE(0, 4)));
  return n;
}

// What has no form for a GPU is played by the CPU in between.
static int mixed(zm_array **out) {
  zm_array *x = plain(ZM_F32, 51, SHAPE(8, 50));
  zm_array *sorted = zm_sort(zm_multiply(x, zm_full(3, ZM_F32, NULL, 0)), -1);
  int n = 0;
  out[n++] = zm_exp(zm_cumsum(sorted, 1, false, true));
  out[n++] = sorted;
  return n;
}

static int empty(zm_array **out) {
  int n = 0;
  out[n++] = zm_add(zm_full(1, ZM_F32, SHAPE(0, 3)), zm_full(1, ZM_F32, SHAPE(0, 3)));
  out[n++] = zm_sum(zm_full(1, ZM_F32, SHAPE(3, 0)), 1, false);
  out[n++] = zm_exp(zm_full(1, ZM_F32, NULL, 0));
  return n;
}

static void graphs_have_the_bits_of_the_cpu(void **state) {
  (void)state;
  check_on_gpu("elementwise", elementwise);
  check_on_gpu("views", views);
  check_on_gpu("reductions", reductions);
  check_on_gpu("integers", integers);
  check_on_gpu("truths", truths);
  check_on_gpu("products", products);
  check_on_gpu("empty", empty);
  assert_int_equal(check("mixed", mixed), 2);
}

// ---- kernels of users ----

enum { OWN = 6 };
static zm_op *own[OWN];

static void make_own(void) {
  static const char raw_c[] =
      "for (zk_long t = 0; t < threads; t++) { const zk_long i = group * threads + t; if (i < x_size) y[i] = 3.0f * "
      "x[i] + k; }";
  static const char raw_cuda[] =
      "const zk_long i = (zk_long)blockIdx.x * blockDim.x + threadIdx.x; if (i < x_size) y[i] = 3.0f * x[i] + k;";
  static const char tiles[] =
      "shared float buffer[64]; float m = 0;\n"
      "for (int k = thread; k < x.1; k += threads) m += x[group * x.1 + k];\n"
      "buffer[thread] = m; barrier();\n"
      "for (int h = threads / 2; h > 0; h >>= 1) { if (thread < h) buffer[thread] += buffer[thread + h]; barrier(); }\n"
      "if (thread == 0) y[group] = buffer[0];\n"
      "atomic_add(n, thread & 3, thread + group);";
  own[0] = keep(zm_elementwise("let t = exp(-abs(x)); a = x >= 0 ? t * w : x; b = a + i;", &(zm_elementwise_options){.outputs = "a b"}));
  own[1] = keep(zm_reduce(&(zm_reduce_options){.update = "acc + v * v", .finalize = "sqrt(acc)"}));
  own[2] = keep(zm_map_reduce(&(zm_map_reduce_options){.inputs = "x w",
                                                       .pass1 = {.init = "0", .update = "acc + x", .finalize = "acc / D"},
                                                       .pass2 = {.init = "0", .update = "acc + (x - s1) * (x - s1)"},
                                                       .write = "(x - s1) * rsqrt(s2 / D + 1e-5f) * w"}));
  own[3] = keep(zm_kernel(&(zm_kernel_options){.name = "sums",
                                               .form = ZM_KERNEL_TILES,
                                               .inputs = "x",
                                               .outputs = "y n",
                                               .source = tiles,
                                               .shape = {"x.0", "4"},
                                               .result = {ZM_F32, ZM_I32},
                                               .groups = "x.0",
                                               .threads = "64"}));
  own[4] = keep(zm_kernel(&(zm_kernel_options){.name = "raw_three",
                                               .form = ZM_KERNEL_RAW,
                                               .inputs = "x",
                                               .outputs = "y",
                                               .parameters = "k",
                                               .source_c = raw_c,
                                               .source_cuda = raw_cuda,
                                               .shape = {"x.0"},
                                               .result = {ZM_F32},
                                               .groups = "(x.0 + 15) / 16",
                                               .threads = "16"}));
  own[5] = keep(zm_kernel(&(zm_kernel_options){.name = "float_sums", // sums of floats in memory have an order: on the CPU
                                               .form = ZM_KERNEL_TILES,
                                               .inputs = "x",
                                               .outputs = "y",
                                               .source = "atomic_add(y, thread & 1, x[group * threads + thread]);",
                                               .shape = {"2"},
                                               .result = {ZM_F32},
                                               .groups = "x.0 / 8",
                                               .threads = "8"}));
}

static int own_elements(zm_array **out) {
  zm_array *in[2] = {numbers(ZM_F32, 60, SHAPE(3, 400)), numbers(ZM_F32, 61, SHAPE(3, 1))};
  must_run(zm_op_apply(own[0], in, 2, out, 2), "elements");
  in[0] = numbers(ZM_BF16, 60, SHAPE(30, 40));
  in[1] = zm_transpose(numbers(ZM_BF16, 62, SHAPE(40, 30)), NULL);
  must_run(zm_op_apply(own[0], in, 2, out + 2, 2), "elements");
  return 4;
}

static int own_rows(zm_array **out) {
  zm_array *x = plain(ZM_BF16, 63, SHAPE(4, 3, 700));
  out[0] = zm_op_apply1(own[1], x, NULL);
  out[1] = zm_op_apply1(own[2], x, plain(ZM_BF16, 64, SHAPE(700)), NULL);
  out[2] = zm_op_apply1(own[1], zm_transpose(plain(ZM_F32, 65, SHAPE(20, 6, 5)), NULL), NULL);
  return 3;
}

static int own_tiles(zm_array **out) {
  zm_array *x = plain(ZM_F32, 66, SHAPE(5, 150));
  must_run(zm_op_apply(own[3], &x, 1, out, 2), "tiles");
  return 2;
}

static int own_raw(zm_array **out) {
  zm_array *x = plain(ZM_F32, 67, SHAPE(61));
  must_run(zm_op_apply_with(own[4], &x, 1, (double[]){0.1}, 1, out, 1), "raw");
  return 1;
}

static int own_order(zm_array **out) {
  zm_array *x = plain(ZM_F32, 68, SHAPE(64));
  must_run(zm_op_apply(own[5], &x, 1, out, 1), "float sums");
  return 1;
}

static void kernels_of_users(void **state) {
  (void)state;
  make_own();
  check_on_gpu("own elements", own_elements);
  check_on_gpu("own rows", own_rows);
  check_on_gpu("own tiles", own_tiles);
  check_on_gpu("own raw", own_raw);
  assert_int_equal(check("own order", own_order), 1);
}

// ---- transforms ----

static zm_status loss(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  zm_array *y = zm_tanh(zm_add(zm_matmul(in[0], in[1]), in[2]));
  y = zm_op_apply1(own[2], y, in[3], NULL);
  out[0] = zm_mean(zm_reshape(zm_square(y), (int64_t[]){-1}, 1), 0, false);
  return out[0] ? ZM_OK : zm_last_status();
}

static int gradient(zm_array **out) {
  zm_array *in[4] = {plain(ZM_F32, 70, SHAPE(6, 8)), plain(ZM_F32, 71, SHAPE(8, 20)), plain(ZM_F32, 72, SHAPE(20)),
                     plain(ZM_F32, 73, SHAPE(20))};
  must_run(zm_value_and_grad(loss, NULL, in, 4, (int[]){1, 2, 3}, 3, out, 1, out + 1), "gradient");
  return 4;
}

static zm_status chain(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  zm_array *x = zm_multiply(zm_sigmoid(in[0]), in[0]);
  out[0] = zm_add(zm_softmax(zm_multiply(x, in[1])), zm_full(1, ZM_F32, NULL, 0));
  out[1] = zm_sum(x, 0, false);
  return out[0] && out[1] ? ZM_OK : zm_last_status();
}

static zm_compiled *compiled;

static int compiled_chain(zm_array **out) {
  zm_array *in[2] = {plain(ZM_F32, 74, SHAPE(5, 90)), plain(ZM_F32, 75, SHAPE(5, 90))};
  must_run(zm_compiled_call(compiled, in, 2, out, 2), "compiled");
  in[1] = out[0];
  must_run(zm_compiled_call(compiled, in, 2, out + 2, 2), "compiled");
  return 4;
}

static void transforms_have_the_bits_of_the_cpu(void **state) {
  (void)state;
  check_on_gpu("gradient", gradient);
  if (!(compiled = zm_compile(chain, NULL, 2))) fail_msg("%s", zm_last_error());
  check_on_gpu("compiled", compiled_chain);
  check_on_gpu("compiled again", compiled_chain); // between devices
  zm_compiled_free(compiled);
}

// ---- values ----

// What was made there stays there, and what was sent once is not sent again; both come to the host when they are looked at.
static void values_stay_there(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  choose_device(ZM_DEVICE_CUDA);
  float data[5000];
  for (int i = 0; i < 5000; i++) data[i] = (float)i;
  zm_array *x = zm_array_from_data(data, ZM_F32, SHAPE(5000)), *y = zm_add(x, x);
  const zm_device_use before = zm_device_usage();
  must_run(zm_eval(&y, 1), "eval");
  const zm_device_use first = zm_device_usage();
  assert_int_equal(first.sent - before.sent, sizeof data);
  for (int i = 0; i < 3; i++) {
    y = zm_multiply(zm_add(y, x), x);
    must_run(zm_eval(&y, 1), "eval");
  }
  zm_device_use now = zm_device_usage();
  assert_int_equal(now.sent, first.sent);
  assert_int_equal(now.fetched, before.fetched);
  const float *seen = zm_array_data(y);
  assert_non_null(seen);
  assert_ptr_equal(zm_array_data(y), seen);
  now = zm_device_usage();
  assert_int_equal(now.fetched - before.fetched, sizeof data);
  float wanted = 14;
  for (int i = 0; i < 3; i++) wanted = i == 0 ? (7 + 7 + 7) * 7.0f : (wanted + 7) * 7;
  assert_true(seen[7] == wanted);
  // The CPU takes over, and the GPU again.
  choose_device(ZM_DEVICE_CPU);
  zm_array *z = zm_add(y, x);
  assert_true(((const float *)zm_array_data(z))[7] == wanted + 7);
  choose_device(ZM_DEVICE_CUDA);
  assert_true(((const float *)zm_array_data(zm_add(z, x)))[7] == wanted + 14);
  zm_scope_close(scope);
  assert_int_equal(zm_device_usage().bytes, 0);
  assert_true(zm_device_usage().kept > 0);
}

static void values_are_saved(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  choose_device(ZM_DEVICE_CUDA);
  zm_array *x = zm_add(plain(ZM_F32, 80, SHAPE(40)), zm_full(1, ZM_F32, NULL, 0));
  must_run(zm_save_npy(temp_path(&cache, "x.npy"), x), "save");
  zm_array *y = zm_load_npy(temp_path(&cache, "x.npy"));
  assert_non_null(y);
  assert_memory_equal(zm_array_data(x), zm_array_data(y), 160);
  assert_true(zm_array_item(zm_sum(zm_subtract(x, y), 0, false)) == 0);
  zm_scope_close(scope);
}

// ---- failures ----

static void choosing_a_gpu_that_is_not_there(void **state) {
  (void)state;
  zmi_device_release();
  setenv("ZMLX_CUDA_PATH", nothing.path, 1);
  imitate("devices=0");
  setenv("ZMLX_CUDA_PATH", libraries, 1);
  expect_failure(zm_set_device(ZM_DEVICE_CUDA), ZM_ERROR_UNSUPPORTED, "the NVIDIA driver finds no GPU; use --device cpu");
  assert_int_equal(zm_get_device(), ZM_DEVICE_CPU);
  imitate(NULL);
  assert_int_equal(zm_set_device((zm_device)7), ZM_ERROR_ARGUMENT);
  nothing_is_left();
}

// Nothing is lost: what was there before is as it was, and when there is room again all goes on.
static void the_memory_is_full(void **state) {
  (void)state;
  zmi_device_release();
  imitate("memory=3000000");
  driver_reads_options();
  zm_scope *scope = zm_scope_open();
  choose_device(ZM_DEVICE_CUDA);
  zm_array *x = zm_full(2, ZM_F32, SHAPE(200000)), *y = zm_multiply(x, x);
  must_run(zm_eval(&y, 1), "eval");
  zm_array *big = zm_add(zm_exp(zm_full(1, ZM_F32, SHAPE(1000000))), zm_full(2, ZM_F32, NULL, 0));
  expect_failure(zm_eval(&big, 1), ZM_ERROR_MEMORY, "for an array: the GPU's memory is full (");
  assert_true(((const float *)zm_array_data(zm_add(y, y)))[77] == 8);
  assert_true(((const float *)zm_array_data(y))[199999] == 4);
  imitate(NULL);
  driver_reads_options();
  must_run(zm_eval(&big, 1), "eval");
  assert_true(((const float *)zm_array_data(big))[5] == ((const float *)zm_array_data(big))[999999]);
  zm_scope_close(scope);
  zmi_device_release();
  nothing_is_left();
}

static void a_kernel_that_does_not_compile(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  choose_device(ZM_DEVICE_CUDA);
  zm_op *bad = keep(zm_kernel(&(zm_kernel_options){.name = "zebra",
                                                   .form = ZM_KERNEL_RAW,
                                                   .inputs = "x",
                                                   .outputs = "y",
                                                   .source_cuda = "y[0] = zebra;",
                                                   .shape = {"x.0"},
                                                   .result = {ZM_F32},
                                                   .groups = "1",
                                                   .threads = "1"}));
  zm_array *x = zm_full(1, ZM_F32, SHAPE(3)), *y = NULL;
  must_run(zm_op_apply(bad, &x, 1, &y, 1), "apply");
  expect_failure(zm_eval(&y, 1), ZM_ERROR_UNSUPPORTED,
                 "NVRTC cannot compile kernel zebra with --gpu-architecture=sm_90a (error 6): kernel.cu");
  assert_true(zm_array_item(zm_sum(x, 0, false)) == 3);
  // It has no source for the CPU.
  choose_device(ZM_DEVICE_CPU);
  assert_int_not_equal(zm_eval(&y, 1), ZM_OK);
  assert_non_null(strstr(zm_last_error(), "kernel zebra: cannot be compiled"));
  zm_scope_close(scope);
}

static void the_gpu_fails(void **state) {
  (void)state;
  zmi_device_release();
  zm_scope *scope = zm_scope_open();
  choose_device(ZM_DEVICE_CUDA);
  zm_array *x = zm_add(plain(ZM_F32, 90, SHAPE(100)), zm_full(1, ZM_F32, NULL, 0)), *kept = zm_exp(x);
  zm_array *both[2] = {x, kept};
  must_run(zm_eval(both, 2), "eval");
  const float value = ((const float *)zm_array_data(kept))[3]; // now on the host, too
  imitate("refuse=1");
  driver_reads_options();
  zm_array *y = zm_add(kept, kept);
  expect_failure(zm_eval(&y, 1), ZM_ERROR_DEVICE, "starting a kernel: CUDA_ERROR_OPERATING_SYSTEM (304)");
  must_run(zm_eval(&y, 1), "eval"); // the context survives it
  imitate("fault=1");
  driver_reads_options();
  zm_array *z = zm_multiply(kept, kept);
  expect_failure(zm_eval(&z, 1), ZM_ERROR_DEVICE, "evaluating arrays: CUDA_ERROR_ILLEGAL_ADDRESS (700)");
  expect_failure(zm_eval(&z, 1), ZM_ERROR_DEVICE, "an earlier failure made the GPU's context useless");
  imitate(NULL);
  choose_device(ZM_DEVICE_CPU); // goes on without it
  assert_true(((const float *)zm_array_data(z))[3] == value * value);
  choose_device(ZM_DEVICE_CUDA); // and with it, anew
  zm_array *w = zm_multiply(kept, zm_full(2, ZM_F32, NULL, 0));
  assert_true(((const float *)zm_array_data(w))[3] == value + value);
  assert_null(zm_array_data(x)); // was there alone
  expect_failure(zm_last_status(), ZM_ERROR_DEVICE, "were in the memory of a GPU that failed, and are lost");
  zm_scope_close(scope);
}

static int images(void) {
  int count = 0;
  DIR *folder = opendir(temp_path(&cache, "kernels"));
  for (struct dirent *e; folder && (e = readdir(folder)) != NULL;) count += strncmp(e->d_name, "cuda-", 5) == 0;
  if (folder) closedir(folder);
  return count;
}

// Kernels are kept in the cache folder: another process, or the GPU taken anew, does not compile them again.
static void kernels_are_compiled_once(void **state) {
  (void)state;
  for (int turn = 0; turn < 2; turn++) {
    const int before = compiler()->compiles, there = images();
    zmi_device_release();
    zm_scope *scope = zm_scope_open();
    choose_device(ZM_DEVICE_CUDA);
    zm_array *y = zm_cosh(zm_full(0.5, ZM_F16, SHAPE(10)));
    must_run(zm_eval(&y, 1), "eval");
    zm_scope_close(scope);
    assert_int_equal(compiler()->compiles - before, turn == 0);
    assert_int_equal(images() - there, turn == 0);
  }
  zmi_device_release();
  nothing_is_left();
}

static int leave_gpu(void **state) {
  zmi_device_release();
  free_ops();
  return leave(state);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(graphs_have_the_bits_of_the_cpu),
      cmocka_unit_test(kernels_of_users),
      cmocka_unit_test(transforms_have_the_bits_of_the_cpu),
      cmocka_unit_test(values_stay_there),
      cmocka_unit_test(values_are_saved),
      cmocka_unit_test(choosing_a_gpu_that_is_not_there),
      cmocka_unit_test(the_memory_is_full),
      cmocka_unit_test(a_kernel_that_does_not_compile),
      cmocka_unit_test(the_gpu_fails),
      cmocka_unit_test(kernels_are_compiled_once),
  };
  return cmocka_run_group_tests_name("cuda_arrays", tests, enter, leave_gpu);
}
