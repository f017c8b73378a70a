// The transform room: gradients, tangents, batches and compiled functions. This header is for the files of the room; rooms above use
// zmlx/transform.h.
//
//   trace     the nodes between what a function got and what it gave, inputs first, with a number for each array on the way
//   pull      cotangents of the results to cotangents of the inputs, node by node from the last
//   push      tangents of the inputs to tangents of the results, node by node from the first
//   rebuild   the same nodes on operands with one more axis
#ifndef ZMI_TRANSFORM_H
#define ZMI_TRANSFORM_H

#include "array/array.h"
#include <zmlx/transform.h>

// ---- traces (trace.c) ----
// Arrays on the way have numbers: 0..inputs-1 are the inputs, then the outputs of the nodes in order. Arrays that depend on no input
// have none (-1).
typedef struct zmi_step {
  zmi_node *node;
  int first; // number of output 0
  size_t in; // where the numbers of its operands begin in `numbers`
} zmi_step;
typedef struct zmi_trace {
  zmi_step *steps;
  size_t count, capacity;
  int *numbers; // of operands, one step after another
  size_t number_count, number_capacity;
  int *results; // of the arrays asked for
  int inputs, values;
  int most_in, most_out; // of one node
  zm_array **held;       // counted references to inputs and results, which keep all nodes alive
  size_t held_count;
} zmi_trace;
// What leads from the inputs to the results. `since`: nodes up to this serial are older than the inputs and cannot depend on them.
zm_status zmi_trace_walk(zmi_trace *t, zm_array *const *inputs, int nin, zm_array *const *results, int nout, uint64_t since);
void zmi_trace_free(zmi_trace *t);

// ---- calling functions ----
// A new identity of `a`, at which a trace begins: the same array reached otherwise is a constant.
zm_array *zmi_identity(zm_array *a);
// f in a trace; results checked. Where f fails without a message, one is set.
zm_status zmi_call_traced(const char *who, zm_function f, void *user, zm_array *const *in, int nin, zm_array **out, int nout);
zm_status zmi_check_call(const char *who, zm_function f, zm_array *const *in, int nin, zm_array *const *out, int nout);
// Ends a transform's scope: what the caller gets moves out of it. On failure nothing does.
zm_status zmi_leave(zm_scope *scope, zm_status status, zm_array **a, int na, zm_array **b, int nb);

// ---- walks ----
// cotangents[r] of result r or NULL (zero) -> gradients[i] of input i or NULL (zero).
zm_status zmi_pull(const zmi_trace *t, zm_array *const *cotangents, zm_array **gradients);
zm_status zmi_push(const zmi_trace *t, zm_array *const *tangents, zm_array **results);
// in[i]: batched in front, for input i -> results, batched in front (NULL where a result depends on no input).
zm_status zmi_rebuild(const zmi_trace *t, int64_t size, zm_array *const *in, zm_array **results);

#endif
