// The three ops that a kernel of the kernel language can become in a tape: element by element, row by row, or in threadgroups. Everything
// a tape needs stands in the attributes, so that it prints and reads back; the instance that runs is found by its content.
#include "array/ops/kernel.h"

#include <string.h>

// ---- attributes ----

#define DIM(i)                                                                                                                             \
  { "d" #i, ZMI_FIELD_INT, offsetof(zmi_kernel_attrs, dims) + 8 * i, NULL }
#define PARAM(i)                                                                                                                           \
  { "p" #i, ZMI_FIELD_FLOAT, offsetof(zmi_kernel_attrs, param) + 8 * i, NULL }
static const zmi_field fields[] = {
    {"key0", ZMI_FIELD_INT, offsetof(zmi_kernel_attrs, key), NULL},
    {"key1", ZMI_FIELD_INT, offsetof(zmi_kernel_attrs, key) + 8, NULL},
    {"results", ZMI_FIELD_INT, offsetof(zmi_kernel_attrs, results), NULL},
    {"per_row", ZMI_FIELD_INT, offsetof(zmi_kernel_attrs, per_row), NULL},
    {"in_per_row", ZMI_FIELD_INT, offsetof(zmi_kernel_attrs, in_per_row), NULL},
    {"ranks", ZMI_FIELD_INT, offsetof(zmi_kernel_attrs, ranks), NULL},
    {"groups", ZMI_FIELD_INT, offsetof(zmi_kernel_attrs, groups), NULL},
    {"threads", ZMI_FIELD_INT, offsetof(zmi_kernel_attrs, threads), NULL},
    PARAM(0),
    PARAM(1),
    PARAM(2),
    PARAM(3),
    PARAM(4),
    PARAM(5),
    PARAM(6),
    PARAM(7),
    PARAM(8),
    PARAM(9),
    PARAM(10),
    PARAM(11),
    PARAM(12),
    PARAM(13),
    PARAM(14),
    PARAM(15),
    DIM(0),
    DIM(1),
    DIM(2),
    DIM(3),
    DIM(4),
    DIM(5),
    DIM(6),
    DIM(7),
    DIM(8),
    DIM(9),
    DIM(10),
    DIM(11),
    DIM(12),
    DIM(13),
    DIM(14),
    DIM(15),
    DIM(16),
    DIM(17),
    DIM(18),
    DIM(19),
    DIM(20),
    DIM(21),
    DIM(22),
    DIM(23),
    {0},
};
_Static_assert(ZMI_KERNEL_PARAMS == 16 && ZMI_KERNEL_DIMS == 24, "the list of fields names each");
_Static_assert(sizeof(zmi_kernel_attrs) <= ZMI_ATTR_BYTES, "attributes of kernels");

static zm_dtype result_dtype(const zmi_kernel_attrs *a, int o) {
  return o < ZMI_MAX_OUT ? (zm_dtype)((uint64_t)a->results >> (4 * o) & 15) : ZM_DTYPE_DEFAULT;
}

static zmi_kernel_attrs attrs_of(const zmi_code *code, const double *params) {
  zmi_kernel_attrs a = {0};
  memcpy(a.key, code->key, sizeof a.key);
  uint64_t results = 0, per_row = 0, in_per_row = 0;
  for (int o = 0; o < code->nout; o++) {
    results |= (uint64_t)code->out[o] << (4 * o);
    per_row |= (uint64_t)(code->form == ZMI_FORM_ROWS && code->per_row[o]) << o;
  }
  for (int i = 0; i < code->nin; i++) in_per_row |= (uint64_t)(code->form == ZMI_FORM_ROWS && code->in_per_row[i]) << i;
  a.results = (int64_t)results;
  a.per_row = (int64_t)per_row;
  a.in_per_row = (int64_t)in_per_row;
  for (int i = 0; i < code->nparams && i < ZMI_KERNEL_PARAMS && params; i++) a.param[i] = params[i];
  return a;
}

// ---- shape rules ----

static zm_status wrong_shape(int operand, const zmi_type *found, const zmi_type *wanted, const char *why) {
  char a[128], b[128];
  return zmi_fail(ZM_ERROR_ARGUMENT, "operand %d is %s, %s %s", operand + 1, zmi_type_text(found, a), why, zmi_type_text(wanted, b));
}

static bool same_dims(const zmi_type *a, const zmi_type *b, int rank) {
  if (a->rank != rank) return false;
  for (int i = 0; i < rank; i++) {
    if (a->shape[i] != b->shape[i]) return false;
  }
  return true;
}

static zm_status give_results(const zmi_kernel_attrs *a, const zmi_type *whole, int *nout, zmi_type *out) {
  *nout = 0;
  for (int o = 0; result_dtype(a, o) != ZM_DTYPE_DEFAULT; o++) {
    if (result_dtype(a, o) >= ZM_DTYPE_COUNT) return zmi_fail(ZM_ERROR_ARGUMENT, "result %d has no dtype", o + 1);
    const int rank = whole->rank - (int)((uint64_t)a->per_row >> o & 1);
    out[o] = zmi_type_of(result_dtype(a, o), rank, whole->shape);
    ++*nout;
  }
  return *nout > 0 ? ZM_OK : zmi_fail(ZM_ERROR_ARGUMENT, "the kernel has no results");
}

static zm_status check_present(int nin, const zmi_type *in) {
  for (int i = 0; i < nin; i++) {
    if (in[i].rank < 0) return zmi_fail(ZM_ERROR_ARGUMENT, "operand %d is absent", i + 1);
  }
  return nin > 0 ? ZM_OK : zmi_fail(ZM_ERROR_ARGUMENT, "a kernel needs at least one operand, which gives the shape");
}

static zm_status elements_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  zm_status status = check_present(nin, in);
  for (int i = 1; i < nin && status == ZM_OK; i++) {
    if (!same_dims(&in[i], &in[0], in[0].rank)) status = wrong_shape(i, &in[i], &in[0], "the first is");
  }
  zmi_kernel_attrs a = *(const zmi_kernel_attrs *)attrs;
  a.per_row = 0;
  return status == ZM_OK ? give_results(&a, &in[0], nout, out) : status;
}

static zm_status rows_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zmi_kernel_attrs *a = attrs;
  zm_status status = check_present(nin, in);
  const zmi_type *whole = NULL;
  for (int i = 0; i < nin && status == ZM_OK; i++) {
    if (!((uint64_t)a->in_per_row >> i & 1) && !whole) whole = &in[i];
  }
  if (status != ZM_OK) return status;
  if (!whole || whole->rank < 1) return zmi_fail(ZM_ERROR_ARGUMENT, "a kernel of rows needs an operand with a last axis");
  for (int i = 0; i < nin; i++) {
    const bool per_row = (uint64_t)a->in_per_row >> i & 1;
    if (!same_dims(&in[i], whole, whole->rank - per_row))
      return wrong_shape(i, &in[i], whole, per_row ? "expected one element for each row of" : "expected the shape of");
  }
  return give_results(a, whole, nout, out);
}

static zm_status tiles_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zmi_kernel_attrs *a = attrs;
  int at = 0;
  *nout = 0;
  for (int i = 0; i < nin; i++) {
    if (in[i].rank < 0) return zmi_fail(ZM_ERROR_ARGUMENT, "operand %d is absent", i + 1);
  }
  for (int o = 0; result_dtype(a, o) != ZM_DTYPE_DEFAULT; o++) {
    const int rank = (int)((uint64_t)a->ranks >> (4 * o) & 15);
    size_t bytes;
    if (result_dtype(a, o) >= ZM_DTYPE_COUNT || rank > ZM_MAX_RANK || at + rank > ZMI_KERNEL_DIMS)
      return zmi_fail(ZM_ERROR_ARGUMENT, "result %d has an impossible dtype or rank", o + 1);
    out[o] = zmi_type_of(result_dtype(a, o), rank, a->dims + at);
    if (!zmi_type_bytes(&out[o], &bytes))
      return zmi_fail(ZM_ERROR_ARGUMENT, "result %d is too large to address, or a dimension is negative", o + 1);
    at += rank;
    ++*nout;
  }
  if (*nout == 0) return zmi_fail(ZM_ERROR_ARGUMENT, "the kernel has no results");
  return a->groups >= 0 && a->threads >= 1
             ? ZM_OK
             : zmi_fail(ZM_ERROR_ARGUMENT, "a grid of %lld groups of %lld threads", (long long)a->groups, (long long)a->threads);
}

// ---- owners ----

zmi_author *zmi_author_retain(zmi_author *author) {
  if (author) author->refs++;
  return author;
}

void zmi_author_release(zmi_author *author) {
  if (!author || --author->refs > 0) return;
  for (int i = 0; i < ZMI_KERNEL_IN; i++) zm_op_free(author->gradient[i]);
  zmi_free(author);
}

static void free_bound(zmi_owner *owner) {
  zmi_bound *b = zmi_bound_of(owner);
  zmi_derived_free(b->derived);
  zmi_instance_release(b->instance);
  zmi_author_release(b->author);
  pthread_mutex_destroy(&b->lock);
  zmi_free(b);
}

// Takes the caller's reference of the instance over, also when it fails.
static zmi_bound *bind(zmi_instance *instance, zmi_author *author) {
  zmi_bound *b = instance ? zmi_calloc(1, sizeof *b) : NULL;
  if (b && pthread_mutex_init(&b->lock, NULL) != 0) {
    zmi_fail(ZM_ERROR_MEMORY, "out of memory: no lock for a kernel could be made");
    zmi_free(b);
    b = NULL;
  }
  if (!b) {
    if (instance) zmi_instance_release(instance);
    return NULL;
  }
  b->owner = (zmi_owner){1, free_bound};
  b->instance = instance;
  b->author = zmi_author_retain(author);
  return b;
}

zmi_bound *zmi_bound_new(const zmi_code *code, zmi_author *author) {
  if (code->nout > ZMI_MAX_OUT || code->nin > ZMI_MAX_IN) {
    zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: %d operands and %d results are more than %d and %d", code->name, code->nin, code->nout,
             ZMI_MAX_IN, ZMI_MAX_OUT);
    return NULL;
  }
  return bind(zmi_instance_of(code), author);
}

// For tapes read from text: of the kernels that are alive.
static zmi_owner *find_owner(const zmi_op *op, const void *attrs, int nin, const zmi_type *in) {
  const zmi_kernel_attrs *a = attrs;
  uint64_t key[2];
  memcpy(key, a->key, sizeof key);
  zmi_instance *instance = zmi_instance_find(key);
  if (!instance) {
    zmi_fail(ZM_ERROR_FORMAT, "no kernel with the key %lld, %lld is known to this process: define it before the tape is read",
             (long long)a->key[0], (long long)a->key[1]);
    return NULL;
  }
  const zmi_code *code = zmi_instance_code(instance);
  const zmi_kernel_attrs own = attrs_of(code, NULL);
  bool fits = own.results == a->results && own.per_row == a->per_row && own.in_per_row == a->in_per_row && nin == code->nin;
  fits = fits && zmi_kernel_op(code->form) == op;
  for (int i = 0; i < nin && fits; i++) fits = in[i].rank >= 0 && in[i].dtype == code->in[i];
  if (!fits) {
    zmi_fail(ZM_ERROR_FORMAT, "kernel %s is of another form, or its operands and results are others", code->name);
    zmi_instance_release(instance);
    return NULL;
  }
  zmi_bound *b = bind(instance, NULL);
  return b ? &b->owner : NULL;
}

static void prepare(const zmi_call *c) {
  int64_t most = 0;
  for (int i = 0; i < c->nin; i++) most = ZMI_MAX(most, zmi_type_count(&c->in[i]->type));
  for (int o = 0; o < c->nout; o++) most = ZMI_MAX(most, zmi_type_count(&c->out[o]->type));
  zmi_instance_prepare(zmi_bound_of(c->owner)->instance, most, zmi_kernel_shape_class(c));
}

// ---- on a GPU ----

static bool kernel(const zmi_call *c, zmi_op_kernel *k) {
  const zmi_kernel_attrs *a = c->attrs;
  k->code = zmi_instance_code(zmi_bound_of(c->owner)->instance);
  k->params = a->param;
  k->groups = a->groups;
  k->threads = a->threads;
  return true;
}

// Of raw sources, which have no interpreter.
zm_status zmi_kernel_require(const zmi_op *op, zmi_owner *owner) {
  if (op != &zmi_op_kernel_tiles) return ZM_OK;
  zmi_instance *x = zmi_bound_of(owner)->instance;
  return zmi_instance_code(x)->form == ZMI_FORM_RAW ? zmi_instance_require(x) : ZM_OK;
}

// ---- the rows of the op table ----

const zmi_op zmi_op_kernel_elements = {
    .name = "kernel_elements",
    .operands = "operands*",
    .fields = fields,
    .rounding = "as the kernel's source says, in float32; each result is rounded once to its dtype",
    .flags = ZMI_OP_STRIDED | ZMI_OP_SPARSE,
    .infer = elements_infer,
    .scratch = zmi_kernel_elements_scratch,
    .stages = {{zmi_kernel_elements_tiles, zmi_kernel_elements_run}},
    .kernel = kernel,
    .prepare = prepare,
    .find_owner = find_owner,
    .rules = &zmi_kernel_elements_rules,
};

const zmi_op zmi_op_kernel_rows = {
    .name = "kernel_rows",
    .operands = "operands*",
    .fields = fields,
    .rounding = "as the kernel's source says, in float32, sums in the lane order; each result is rounded once to its dtype",
    .flags = ZMI_OP_STRIDED | ZMI_OP_SPARSE,
    .infer = rows_infer,
    .scratch = zmi_kernel_rows_scratch,
    .stages = {{zmi_kernel_rows_tiles, zmi_kernel_rows_run}},
    .kernel = kernel,
    .prepare = prepare,
    .find_owner = find_owner,
    .rules = &zmi_kernel_rows_rules,
};

const zmi_op zmi_op_kernel_tiles = {
    .name = "kernel_tiles",
    .operands = "operands*",
    .fields = fields,
    .rounding = "as the kernel's source says, in float32; each stored element is rounded once to its dtype",
    .flags = ZMI_OP_SPARSE,
    .infer = tiles_infer,
    .stages = {{zmi_kernel_zero_tiles, zmi_kernel_zero_run}, {zmi_kernel_groups_tiles, zmi_kernel_groups_run}},
    .kernel = kernel,
    .prepare = prepare,
    .find_owner = find_owner,
    .rules = &zmi_kernel_tiles_rules,
};

const zmi_op *zmi_kernel_op(int form) {
  if (form == ZMI_FORM_ELEMENTS) return &zmi_op_kernel_elements;
  return form == ZMI_FORM_ROWS ? &zmi_op_kernel_rows : &zmi_op_kernel_tiles;
}

const zmi_code *zmi_node_code(const zmi_node *n) {
  const zmi_op *op = n->op;
  if (op != &zmi_op_kernel_elements && op != &zmi_op_kernel_rows && op != &zmi_op_kernel_tiles) return NULL;
  return zmi_instance_code(zmi_bound_of(n->owner)->instance);
}

const double *zmi_node_params(const zmi_node *n) {
  return ((const zmi_kernel_attrs *)(const void *)n->attrs.bytes)->param;
}

zm_status zmi_bound_apply(zmi_bound *b, int nin, zm_array *const *in, const double *params, const zmi_kernel_attrs *call, zm_array **out) {
  const zmi_code *code = zmi_instance_code(b->instance);
  zmi_kernel_attrs a = attrs_of(code, params);
  if (nin != code->nin) return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: got %d operands, takes %d", code->name, nin, code->nin);
  if (call) {
    a.ranks = call->ranks;
    a.groups = call->groups;
    a.threads = call->threads;
    zmi_share_in(&a, (int)zmi_pieces_of(call));
    memcpy(a.dims, call->dims, sizeof a.dims);
  }
  for (int i = 0; i < nin; i++) {
    if (in[i] && in[i]->type.dtype != code->in[i])
      return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: operand %d is %s, the kernel is for %s", code->name, i + 1,
                      zm_dtype_name(in[i]->type.dtype), zm_dtype_name(code->in[i]));
  }
  if (code->form == ZMI_FORM_RAW && !(zmi_on_device() && code->raw[ZMI_TARGET_CUDA])) {
    const zm_status status = zmi_instance_require(b->instance);
    if (status != ZM_OK) return status;
  }
  return zmi_apply_owned(zmi_kernel_op(code->form), &a, sizeof a, &b->owner, nin, in, out);
}

zm_status zmi_apply_code(const zmi_code *code, int nin, zm_array *const *in, const double *params, zm_array **out) {
  zmi_bound *b = zmi_bound_new(code, NULL);
  if (!b) return zm_last_status();
  zm_status status = zmi_bound_apply(b, nin, in, params, NULL, out);
  zmi_owner_release(&b->owner);
  return status;
}
