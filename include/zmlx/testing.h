// For authors of kernels: comparisons with a reference, of values and of gradients, and fair timings. Nothing here prints or aborts: what
// does not match is an error with one sentence that names the place and both values.
//
//   zm_match m = {.name = "mish", .op = mish, .reference = mish_of_arrays, .nin = 1, .shapes = shapes, .sets = 2};
//   if (zm_assert_matches(&m) != ZM_OK) fail(zm_last_error());
#ifndef ZMLX_TESTING_H
#define ZMLX_TESTING_H

#include <stdbool.h>
#include <zmlx/kernel.h>
#include <zmlx/transform.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zm_shape {
  int rank;
  int64_t dims[ZM_MAX_RANK];
} zm_shape;

typedef struct zm_match {
  const char *name; // for messages; NULL: that of the op
  // What is tested: an op, or a function of arrays.
  const zm_op *op;
  zm_function f;
  void *user;
  // What it must equal: gets the same operands, floats as float32. Gradients may do without: they are then checked against differences.
  zm_function reference;
  void *reference_user;
  int nin, nout; // operands, results; nout 0: 1; less is an error
  // `sets` sets of nin shapes, one after another. A test without shapes of 0, of 1 and of odd sizes is not finished.
  const zm_shape *shapes;
  size_t sets;
  const zm_dtype *dtypes;                             // of the float operands; NULL: float32, float16, bfloat16 (gradients: float32)
  size_t dtype_count;                                 // of `dtypes`; 0 with dtypes is an error, as nothing would be compared
  zm_dtype operand[ZM_MAX_OPERANDS];                  // an operand that always has this dtype; ZM_DTYPE_DEFAULT: the dtype in turn
  double low[ZM_MAX_OPERANDS], high[ZM_MAX_OPERANDS]; // range of its random values; both 0: -2 to 2 (integers: 0 to 9)
  // |value - expected| <= atol + rtol |expected| must hold at every place. 0: by dtype (float32 1e-5, float16 2e-3, bfloat16 2e-2; of
  // gradients ten times that; checks against differences 5e-3 at least). A NaN never passes. Infinities must be equal. Integers must be
  // equal, and are compared as integers, whatever their size.
  double rtol, atol;
  uint64_t seed;
} zm_match;

// ZM_ERROR_MISMATCH: values, or shapes, are not those of the reference. What cannot be compared at all has other errors.
ZM_API zm_status zm_assert_matches(const zm_match *match);
// Gradients of the float operands, for random cotangents, against those of the reference; without a reference against central differences
// of what is tested, which is called with the same operands as float32 for them, whatever the dtype of the gradient. It is an error if no
// operand is of floats.
ZM_API zm_status zm_assert_gradient_matches(const zm_match *match);

// ---- timing ----
typedef struct zm_bench_options {
  zm_array *const *in;
  int nin, nout;  // nout 0: 1
  int rounds;     // 0: 15; an interval needs 6
  double seconds; // about how long it may take; 0: 1
} zm_bench_options;

typedef struct zm_bench_interval { // holds the true median with 95% confidence, whatever the distribution; 0 to infinity if rounds < 6
  double median, low, high;
} zm_bench_interval;

typedef struct zm_bench_result {
  int rounds, calls;       // calls of each in a block; a round is four blocks: A, B, B, A
  zm_bench_interval a, b;  // seconds of a call
  zm_bench_interval ratio; // time of A over time of B, from pairs within a round: above 1 means that B is faster
  bool same_bits;          // all results of A and B
} zm_bench_result;
ZM_API zm_status zm_bench_compare(zm_function a, void *user_a, zm_function b, void *user_b, const zm_bench_options *options,
                                  zm_bench_result *result);

#ifdef __cplusplus
}
#endif
#endif
