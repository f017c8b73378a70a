// Transforms of functions of arrays: gradients, tangents, batches, fusion. They work on the graph that a function builds, so they nest in
// any order: gradients of gradients, batches of gradients, tangents of products.
//
// A function gets nin arrays and gives nout; it must be a function of them: called again with the same arrays it builds the same graph. It
// returns ZM_OK, or an error with its message set. Arrays that it reads from elsewhere are constants.
#ifndef ZMLX_TRANSFORM_H
#define ZMLX_TRANSFORM_H

#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef zm_status (*zm_function)(void *user, zm_array *const *in, int nin, zm_array **out, int nout);

// out = f(in), gradients[i] = the sum over o of cotangents[o] times the derivative of out[o] by in[i] (zeros where there is none).
// cotangents[o] NULL: ones. gradients[i] has the type of in[i].
ZM_API zm_status zm_vjp(zm_function f, void *user, zm_array *const *in, int nin, zm_array *const *cotangents, zm_array **out, int nout,
                        zm_array **gradients);
// tangents_out[o] = the sum over i of the derivative of out[o] by in[i] times tangents[i]; tangents[i] NULL: zero.
ZM_API zm_status zm_jvp(zm_function f, void *user, zm_array *const *in, int nin, zm_array *const *tangents, zm_array **out, int nout,
                        zm_array **tangents_out);
// Gradients of the first result, which must have one element, by the inputs listed in `by` (count entries; NULL: input 0 alone).
ZM_API zm_status zm_grad(zm_function f, void *user, zm_array *const *in, int nin, const int *by, int count, zm_array **gradients);
// The same with f's results: out[0..nout-1], out[0] is what is differentiated.
ZM_API zm_status zm_value_and_grad(zm_function f, void *user, zm_array *const *in, int nin, const int *by, int count, zm_array **out,
                                   int nout, zm_array **gradients);
// f for each slice of the inputs along axes in_axes[i] (NO_AXIS: not batched; in_axes NULL: all 0); results are batched at out_axes[o]
// (NULL: 0).
enum { ZM_NO_AXIS = 127 };
ZM_API zm_status zm_vmap(zm_function f, void *user, zm_array *const *in, int nin, const int *in_axes, zm_array **out, int nout,
                         const int *out_axes);

// A compiled function: its graph is built once per types of inputs, chains of elementwise operations become one kernel each, with a kernel
// of rows that stands among them, and the tape is kept. Under another transform it behaves as f.
typedef struct zm_compiled zm_compiled;
ZM_API zm_compiled *zm_compile(zm_function f, void *user, int nout);
ZM_API void zm_compiled_free(zm_compiled *c);
ZM_API zm_status zm_compiled_call(zm_compiled *c, zm_array *const *in, int nin, zm_array **out, int nout);

// Results of f whose gradients compute f again instead of keeping what is inside.
ZM_API zm_status zm_checkpoint(zm_function f, void *user, zm_array *const *in, int nin, zm_array **out, int nout);
// Results of f with a gradient of the author's own.
typedef zm_status (*zm_vjp_function)(void *user, zm_array *const *in, int nin, zm_array *const *out, zm_array *const *cotangents, int nout,
                                     zm_array **gradients);
ZM_API zm_status zm_custom_vjp(zm_function f, zm_vjp_function vjp, void *user, zm_array *const *in, int nin, zm_array **out, int nout);
ZM_API zm_array *zm_stop_gradient(zm_array *a);

#ifdef __cplusplus
}
#endif
#endif
