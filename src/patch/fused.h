// Private to the patch room: the fused ops, and what their files share. A fused op is made of the row functions of array/kernels.h, those
// that the ops it replaces are made of, and rounds where they round.
#ifndef ZMI_PATCH_FUSED_H
#define ZMI_PATCH_FUSED_H

#include "patch/patch.h"

extern const zmi_op zmi_op_fused_moe_mlp, zmi_op_fused_swiglu_mlp, zmi_op_fused_residual_norm, zmi_op_fused_qkv, zmi_op_fused_short_conv,
    zmi_op_fused_attention;
extern const zmi_pattern zmi_pattern_moe_mlp, zmi_pattern_swiglu_mlp, zmi_pattern_residual_norm, zmi_pattern_qkv, zmi_pattern_short_conv,
    zmi_pattern_attention_decode;

// ---- one x for several matrices (fused.c): rows are made ready once for all matrices that take the same form ----
enum { ZMI_FORMS = 3 };
typedef struct zmi_forms {
  int users, kinds;          // matrices; different forms among them that must be made
  zmi_ready form[ZMI_FORMS]; // of each user
  int kind[ZMI_FORMS];       // of each user: which made form; -1: x as it is
  int maker[ZMI_FORMS];      // of each kind: its first user
  size_t offset[ZMI_FORMS];  // of each kind: in the memory for made rows
  size_t bytes;              // of that memory
  int64_t rows;
  zm_dtype dtype; // of x
} zmi_forms;
zmi_forms zmi_forms_of(zm_dtype x, int64_t rows, int users, const zmi_matrix_attrs *const *matrices);
int64_t zmi_forms_tiles(const zmi_forms *f);
void zmi_forms_run(const zmi_forms *f, const zmi_kernels *kn, const void *x, void *memory, int64_t begin, int64_t end);
zmi_rows zmi_forms_rows(const zmi_forms *f, int user, const void *x, const void *memory); // borrows f

// Shape rule of one matrix of a fused op: names it in the message; k and n must be as said (n 0: any).
zm_status zmi_want_part(const char *name, const zmi_matrix_attrs *m, int nin, const zmi_type *in, int weight, int bias, int64_t n,
                        int64_t k, int64_t experts);

// Scratch: takes `bytes` (rounded up to 64) at *offset and moves it on.
static inline size_t zmi_take_bytes(size_t *offset, size_t bytes) {
  size_t at = *offset;
  *offset += zmi_align64(bytes);
  return at;
}

// ---- matching (match.c) ----
typedef struct zmi_outcome {
  bool place;       // this is a place for the pattern, matched or not; false: nothing to report
  bool matched;     // it was replaced
  char reason[200]; // what was fused, or why it was left alone
} zmi_outcome;
// Tries every node of an op. `attempt` either replaces what it found and says so, or says why not.
zm_status zmi_each_place(zmi_graph *graph, zm_patch_report *report, const char *pattern, const char *op,
                         zm_status (*attempt)(zmi_graph *graph, zmi_node *node, zmi_outcome *outcome));
// Outcomes; both return ZM_OK.
zm_status zmi_left_alone(zmi_outcome *o, const char *format, ...) __attribute__((format(printf, 2, 3)));
zm_status zmi_fused(zmi_outcome *o, const char *format, ...) __attribute__((format(printf, 2, 3)));

bool zmi_made_by(const zm_array *a, const char *op);                                           // a is a result of such an op
zmi_node *zmi_maker(const zm_array *a, const char *op);                                        // that node, or NULL
bool zmi_read_by(const zmi_graph *g, const zm_array *a, zmi_node *const *nodes, size_t count); // by these nodes and nothing else
bool zmi_read_once(const zmi_graph *g, const zm_array *a, const zmi_node *by);                 // by this node and nothing else
zmi_node *zmi_only_reader(const zmi_graph *g, const zm_array *a);                              // NULL if there are more, or none
const zmi_matrix_attrs *zmi_matrix_of(const zmi_node *linear);                                 // of linear and gather_linear
zm_array *zmi_operand(const zmi_node *n, int i);                                               // NULL if absent
int64_t zmi_int_field(const zmi_node *n, const char *field); // an attribute by name; INT64_MIN if there is none

#endif
