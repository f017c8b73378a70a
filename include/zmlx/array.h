// Lazy arrays. Operations build a graph; zm_eval() lowers what is asked for to a tape and plays it on the CPU, or on a
// GPU (zm_set_device).
//
// Ownership: an array belongs to the innermost scope open on this thread when it was made, and goes with that scope unless it is moved
// out by zm_scope_return(). A scope must be open to make arrays. Arrays keep their inputs alive underneath.
// Errors: every function that returns an array returns NULL on failure. Passing NULL where an array is required returns NULL and
// keeps the first error, so that a chain of operations needs one check at its end. The error kept is this thread's latest, however old:
// zm_clear_error() before a chain makes sure that it is the chain's own.
// Threads: one array graph belongs to one thread at a time.
#ifndef ZMLX_ARRAY_H
#define ZMLX_ARRAY_H

#include <stddef.h>
#include <stdint.h>
#include <zmlx/status.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { ZM_MAX_RANK = 8 };

// name, text form, bytes an element
#define ZM_DTYPE_LIST(X)                                                                                                                   \
  X(ZM_BOOL, "bool", 1)                                                                                                                    \
  X(ZM_U8, "uint8", 1)                                                                                                                     \
  X(ZM_U16, "uint16", 2)                                                                                                                   \
  X(ZM_U32, "uint32", 4)                                                                                                                   \
  X(ZM_U64, "uint64", 8) X(ZM_I8, "int8", 1) X(ZM_I16, "int16", 2) X(ZM_I32, "int32", 4) X(ZM_I64, "int64", 8) X(ZM_F16, "float16", 2)     \
      X(ZM_BF16, "bfloat16", 2) X(ZM_F32, "float32", 4)

typedef enum zm_dtype {
  ZM_DTYPE_DEFAULT, // in options: "as stored"; never the dtype of an array
#define X(name, text, size) name,
  ZM_DTYPE_LIST(X)
#undef X
      ZM_DTYPE_COUNT
} zm_dtype;

ZM_API const char *zm_dtype_name(zm_dtype dtype);     // "bfloat16"; "?" for no dtype
ZM_API size_t zm_dtype_size(zm_dtype dtype);          // bytes an element; 0 for no dtype
ZM_API zm_dtype zm_dtype_from_name(const char *name); // also "bf16", "f32", ...; ZM_DTYPE_DEFAULT if unknown
// The dtype of an operation on a and b: MLX's promotion rules (docs/numerics.md).
ZM_API zm_dtype zm_dtype_promote(zm_dtype a, zm_dtype b);

typedef struct zm_array zm_array;
typedef struct zm_scope zm_scope;

// Opens a scope on this thread; NULL on failure. Scopes nest and are closed in the reverse order.
ZM_API zm_scope *zm_scope_open(void);
// Closes the scope and releases every array made in it. NULL is ignored.
ZM_API void zm_scope_close(zm_scope *scope);
// Moves an array out of `scope`, the innermost one, into the scope around it and returns it. NULL if there is no scope around it.
ZM_API zm_array *zm_scope_return(zm_scope *scope, zm_array *array);
// Lets go of an array before its scope is closed: for loops that replace what they keep, like the parameters of a training. The array must
// not be used afterwards; what was made from it stays valid. NULL is ignored.
ZM_API void zm_array_drop(zm_array *array);

// Facts about an array; valid for lazy arrays too.
ZM_API zm_dtype zm_array_dtype(const zm_array *a);
ZM_API int zm_array_rank(const zm_array *a);
ZM_API int64_t zm_array_dim(const zm_array *a, int axis); // negative axes count from the end; -1 if out of range
ZM_API int64_t zm_array_size(const zm_array *a);          // number of elements

// Makers. from_data copies `shape` product elements in row-major order. arange: as many as there are steps from start to before stop; of
// integers, the first two elements are cut to whole numbers and say what the step is.
ZM_API zm_array *zm_array_from_data(const void *data, zm_dtype dtype, const int64_t *shape, int rank);
ZM_API zm_array *zm_full(double value, zm_dtype dtype, const int64_t *shape, int rank);
ZM_API zm_array *zm_arange(double start, double stop, double step, zm_dtype dtype);

// Where arrays are evaluated: by the CPU with all its threads (so it is at first), or by NVIDIA GPU 0 (docs/cuda.md, "Arrays"). Results
// have the same bits. One choice for the process, taken by every evaluation that begins after it: arrays that are there stay good, and what
// another device needs of them is brought over when it is needed.
typedef enum zm_device { ZM_DEVICE_CPU, ZM_DEVICE_CUDA } zm_device;
// ZM_ERROR_UNSUPPORTED or ZM_ERROR_DEVICE with a sentence "device cuda: ..." where there is no GPU that can be used; the choice stays as it
// was. After a failure that the GPU did not survive, choosing it once more begins anew; values that were there alone are lost.
ZM_API zm_status zm_set_device(zm_device device);
ZM_API zm_device zm_get_device(void);
// What a GPU has done for arrays so far in this process. Operations that it has no form for are played on the CPU in between.
typedef struct zm_device_use {
  uint64_t bytes, kept;        // of its memory: for values, and kept for reuse
  uint64_t kernels, on_device; // kernels that were compiled or taken from the cache; operations that it played
  uint64_t on_cpu;             // operations that the CPU played for it
  uint64_t sent, fetched;      // bytes of values that went there and came back
} zm_device_use;
ZM_API zm_device_use zm_device_usage(void);

// Evaluates arrays together in one tape; their data can then be read.
ZM_API zm_status zm_eval(zm_array *const *arrays, size_t count);
// Evaluates `a` and returns row-major contiguous data, owned by the array, valid as long as the array. NULL on failure.
ZM_API const void *zm_array_data(zm_array *a);
// Evaluates a one-element array and converts its value to double. 0 and an error if it has another size.
ZM_API double zm_array_item(zm_array *a);

// Elementwise, with NumPy broadcasting and MLX promotion. Float results are computed in float32 and rounded once to the result dtype.
ZM_API zm_array *zm_add(zm_array *a, zm_array *b);
ZM_API zm_array *zm_subtract(zm_array *a, zm_array *b);
ZM_API zm_array *zm_multiply(zm_array *a, zm_array *b);
ZM_API zm_array *zm_divide(zm_array *a, zm_array *b);
ZM_API zm_array *zm_maximum(zm_array *a, zm_array *b);
ZM_API zm_array *zm_minimum(zm_array *a, zm_array *b);
ZM_API zm_array *zm_equal(zm_array *a, zm_array *b);
ZM_API zm_array *zm_not_equal(zm_array *a, zm_array *b);
ZM_API zm_array *zm_less(zm_array *a, zm_array *b);
ZM_API zm_array *zm_less_equal(zm_array *a, zm_array *b);
ZM_API zm_array *zm_greater(zm_array *a, zm_array *b);
ZM_API zm_array *zm_greater_equal(zm_array *a, zm_array *b);
ZM_API zm_array *zm_where(zm_array *condition, zm_array *a, zm_array *b);
ZM_API zm_array *zm_negative(zm_array *a);
ZM_API zm_array *zm_abs(zm_array *a);
ZM_API zm_array *zm_exp(zm_array *a);
ZM_API zm_array *zm_log(zm_array *a);
ZM_API zm_array *zm_sqrt(zm_array *a);
ZM_API zm_array *zm_rsqrt(zm_array *a);
ZM_API zm_array *zm_sigmoid(zm_array *a);
ZM_API zm_array *zm_silu(zm_array *a);
ZM_API zm_array *zm_tanh(zm_array *a);
ZM_API zm_array *zm_astype(zm_array *a, zm_dtype dtype);

// Views: no copy, only shapes and strides. reshape copies when the strides do not allow a view.
ZM_API zm_array *zm_reshape(zm_array *a, const int64_t *shape, int rank); // one dim may be -1
ZM_API zm_array *zm_transpose(zm_array *a, const int *axes);              // axes: a permutation of rank entries; NULL reverses
ZM_API zm_array *zm_slice(zm_array *a, const int64_t *start, const int64_t *stop, const int64_t *step); // rank entries each; step NULL = 1
ZM_API zm_array *zm_broadcast_to(zm_array *a, const int64_t *shape, int rank);
ZM_API zm_array *zm_expand_dims(zm_array *a, int axis);
ZM_API zm_array *zm_squeeze(zm_array *a, int axis);
ZM_API zm_array *zm_concatenate(zm_array *const *arrays, size_t count, int axis);
ZM_API zm_array *zm_contiguous(zm_array *a);

// Reductions over one axis (negative from the end). Sums run in the written lane order of docs/numerics.md.
ZM_API zm_array *zm_sum(zm_array *a, int axis, bool keepdims);
ZM_API zm_array *zm_mean(zm_array *a, int axis, bool keepdims);
ZM_API zm_array *zm_max(zm_array *a, int axis, bool keepdims);
ZM_API zm_array *zm_min(zm_array *a, int axis, bool keepdims);
ZM_API zm_array *zm_argmax(zm_array *a, int axis, bool keepdims); // uint32; lowest index wins
ZM_API zm_array *zm_softmax(zm_array *a);                         // last axis, float32 inside

// Rows of a [N, ...] chosen by integer indices [R]: result [R, ...]. Indices are checked when the tape plays: out of range gives zeros.
ZM_API zm_array *zm_take(zm_array *a, zm_array *indices);
// Matrix product [..., M, K] x [..., K, N] of float arrays (an integer one beside a float is converted; two of integers are refused), in
// float32 in the order of docs/numerics.md, rounded once to their common dtype. Batch dimensions broadcast. A vector is a row if it is a, a
// column if it is b, and that dimension is left out of the result. A kernel of our own: no library of linear algebra promises bits.
ZM_API zm_array *zm_matmul(zm_array *a, zm_array *b);

#ifdef __cplusplus
}
#endif
#endif
