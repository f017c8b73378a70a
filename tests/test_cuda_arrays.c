// Arrays on a GPU without a GPU: graphs, kernels of users, gradients and compiled functions are evaluated on the CPU and, with the imitated
// driver (fake_gpu.h), on a GPU whose kernels are the emitted CUDA C, compiled as C++ and run as threads. Every result has the same bits.
#include "fake_gpu.h"

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
  return n;
}

static void graphs_have_the_bits_of_the_cpu(void **state) {
  (void)state;
  check_on_gpu("elementwise", elementwise);
  check_on_gpu("views", views);
}

static int leave_gpu(void **state) {
  zmi_device_release();
  free_ops();
  return leave(state);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(graphs_have_the_bits_of_the_cpu),
  };
  return cmocka_run_group_tests_name("cuda_arrays", tests, enter, leave_gpu);
}
