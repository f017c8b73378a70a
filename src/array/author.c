// Kernels of users (include/zmlx/kernel.h): definitions in the kernel language that are applied to arrays like every other operation.
#include "array/ops/kernel.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

// A definition made concrete for operands of some dtypes.
typedef struct made {
  struct made *next;
  zm_dtype in[ZMI_KERNEL_IN];
  zmi_bound *bound; // one reference
} made;

struct zm_op {
  zmi_kernel *kernel;
  zm_dtype result[ZMI_KERNEL_OUT];
  zmi_author *author; // NULL: gradients are taken from the source
  pthread_mutex_t lock;
  made *made;
};

_Static_assert((int)ZM_MAX_OPERANDS == (int)ZMI_KERNEL_IN && (int)ZM_MAX_RESULTS == (int)ZMI_KERNEL_OUT, "limits of the public header");

static const zmi_kernel_facts *facts_of(const zm_op *op) {
  return zmi_kernel_facts_of(op->kernel);
}

void zm_op_free(zm_op *op) {
  if (!op) return;
  for (made *m = op->made, *next; m; m = next) {
    next = m->next;
    zmi_owner_release(&m->bound->owner);
    zmi_free(m);
  }
  zmi_kernel_release(op->kernel);
  zmi_author_release(op->author);
  pthread_mutex_destroy(&op->lock);
  zmi_free(op);
}

const char *zm_op_name(const zm_op *op) {
  return op ? facts_of(op)->name : "";
}

// ---- definitions ----

static bool has_results(const zm_op *op, const zmi_kernel_text *text) { // not more dtypes or shapes than there are results
  const zmi_kernel_facts *f = facts_of(op);
  for (int o = f->nout; o < ZMI_KERNEL_OUT; o++) {
    if (text->result[o] == ZM_DTYPE_DEFAULT && !text->shape[o]) continue;
    zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: %s[%d] is given, but there %s %d result%s", f->name, text->shape[o] ? "shape" : "result", o,
             f->nout == 1 ? "is" : "are", f->nout, f->nout == 1 ? "" : "s");
    return false;
  }
  return true;
}

static zm_op *define(const zmi_kernel_text *text) {
  for (int o = 0; o < ZMI_KERNEL_OUT; o++) {
    if ((unsigned)text->result[o] < ZM_DTYPE_COUNT) continue;
    zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: result %d: %d is no dtype", text->name ? text->name : "", o + 1, (int)text->result[o]);
    return NULL;
  }
  if (text->compute != ZM_DTYPE_DEFAULT && text->compute != ZM_F32 && text->compute != ZM_F16 && text->compute != ZM_BF16) {
    zmi_fail(ZM_ERROR_ARGUMENT,
             "kernel %s: compute, which T is, is float32, float16 or bfloat16, not %s: '#define T uint' makes it a type of integers",
             text->name ? text->name : "", (unsigned)text->compute < ZM_DTYPE_COUNT ? zm_dtype_name(text->compute) : "what was given");
    return NULL;
  }
  zm_op *op = zmi_calloc(1, sizeof *op);
  if (!op) return NULL;
  if (pthread_mutex_init(&op->lock, NULL) != 0) {
    zmi_fail(ZM_ERROR_MEMORY, "out of memory: no lock for a kernel could be made");
    zmi_free(op);
    return NULL;
  }
  memcpy(op->result, text->result, sizeof op->result);
  op->kernel = zmi_kernel_define(text);
  if (op->kernel && has_results(op, text)) return op;
  zmi_kernel_release(op->kernel);
  pthread_mutex_destroy(&op->lock);
  zmi_free(op);
  return NULL;
}

static zmi_author *author_of(zm_op *op) {
  if (!op->author && (op->author = zmi_calloc(1, sizeof *op->author))) {
    op->author->refs = 1;
    op->author->nin = facts_of(op)->nin;
    op->author->nout = facts_of(op)->nout;
  }
  return op->author;
}

static bool is_input(const zmi_kernel_facts *f, const char *name) {
  for (int i = 0; i < f->nin; i++) {
    if (strcmp(f->in[i], name) == 0) return true;
  }
  return false;
}

// Names that a gradient sees: inputs, results, cotangents. A name that an input has already gets another: an input goes first.
static void gradient_inputs(const zmi_kernel_facts *f, zmi_text *names) {
  for (int i = 0; i < f->nin; i++) zmi_text_add(names, i ? " %s" : "%s", f->in[i]);
  for (int o = 0; o < f->nout; o++) {
    const bool taken = is_input(f, f->out[o]) || f->per_row[o]; // a number of the row is computed once more, and goes by the name
    zmi_text_add(names, taken ? " result_%s" : " %s", f->out[o]);
  }
  for (int o = 0; o < f->nout; o++) {
    if (f->nout == 1 && !is_input(f, "g"))
      zmi_text_add(names, " g");
    else
      zmi_text_add(names, " g_%s", f->out[o]);
  }
}

// `before`: NULL for elementwise ops; of rows what computes the numbers of the row that gradients see. There a gradient is an expression
// for each place, or statements that assign `gradient`.
static zm_op *define_gradient(const zmi_kernel_facts *f, int i, const char *names, zm_dtype compute, const char *before,
                              const char *gradient) {
  zmi_text name = {0}, source = {0};
  zmi_text_add(&name, "%s_gradient_%s", f->name, f->in[i]);
  if (!before)
    zmi_text_add(&source, "%s", gradient);
  else if (strchr(gradient, ';'))
    zmi_text_add(&source, "%s\n" ZMI_TEXT_PIECE "\n%s", before, gradient);
  else
    zmi_text_add(&source, "%s\nelements { gradient =\n" ZMI_TEXT_PIECE "\n%s\n; }", before, gradient);
  const zmi_kernel_text text = {.name = zmi_text_str(&name),
                                .form = before ? ZMI_FORM_ROWS : ZMI_FORM_ELEMENTS,
                                .inputs = names,
                                .outputs = before ? "gradient" : NULL,
                                .compute = compute,
                                .source = zmi_text_str(&source)};
  zm_op *op = name.failed || source.failed ? NULL : define(&text);
  zmi_text_release(&source);
  zmi_text_release(&name);
  return op;
}

static zm_status define_gradients(zm_op *op, zm_dtype compute, const char *before, const char *const *sources) {
  const zmi_kernel_facts *f = facts_of(op);
  zmi_text names = {0};
  zm_status status = ZM_OK;
  bool any = false;
  for (int i = 0; i < ZM_MAX_OPERANDS && status == ZM_OK; i++) {
    if (!sources[i]) continue;
    any = true;
    if (i >= f->nin) status = zmi_fail(ZM_ERROR_ARGUMENT, "%s: gradient %d is given, but there are %d inputs", f->name, i, f->nin);
  }
  if (!any || status != ZM_OK) return status;
  if (!author_of(op)) return ZM_ERROR_MEMORY;
  op->author->has_gradient = true;
  gradient_inputs(f, &names);
  for (int i = 0; i < f->nin && status == ZM_OK; i++) {
    if (!sources[i]) continue;
    op->author->gradient[i] = names.failed ? NULL : define_gradient(f, i, zmi_text_str(&names), compute, before, sources[i]);
    if (!op->author->gradient[i]) status = zmi_fail_within("%s: gradient of %s", f->name, f->in[i]);
  }
  zmi_text_release(&names);
  return status;
}

zm_op *zm_elementwise(const char *source, const zm_elementwise_options *options) {
  const zm_elementwise_options none = {0};
  if (!options) options = &none;
  if (!source) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_elementwise: the source is NULL");
    return NULL;
  }
  zmi_kernel_text text = {.name = options->name,
                          .form = ZMI_FORM_ELEMENTS,
                          .inputs = options->inputs,
                          .outputs = options->outputs,
                          .source = source,
                          .compute = options->compute};
  memcpy(text.result, options->result, sizeof text.result);
  zm_op *op = define(&text);
  if (!op || define_gradients(op, options->compute, NULL, options->gradient) == ZM_OK) return op;
  zm_op_free(op);
  return NULL;
}

static zm_op *define_rows(const char *name, const char *inputs, zm_dtype result, zm_dtype compute, zm_status status,
                          const zmi_text *source) {
  if (status != ZM_OK) return NULL;
  if (source->failed) return NULL;
  const zmi_kernel_text text = {.name = name,
                                .form = ZMI_FORM_ROWS,
                                .inputs = inputs,
                                .outputs = "y",
                                .source = zmi_text_str(source),
                                .result = {result},
                                .compute = compute};
  return define(&text);
}

zm_op *zm_reduce(const zm_reduce_options *options) {
  if (!options || !options->update) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_reduce: update must be given");
    return NULL;
  }
  const char *inputs = options->inputs ? options->inputs : "v";
  const zmi_pass_text pass = {options->init, options->update, options->combine, options->finalize};
  zmi_text source = {0}, before = {0};
  zm_op *op = define_rows(options->name, inputs, options->result, options->compute,
                          zmi_reduce_source(options->name ? options->name : "reduce", &pass, &source), &source);
  zmi_text_add(&before, "float y = 0.0f;\n%s", zmi_text_str(&source)); // the reduction once more
  if (op && (before.failed || define_gradients(op, options->compute, zmi_text_str(&before), options->gradient) != ZM_OK)) {
    zm_op_free(op);
    op = NULL;
  }
  zmi_text_release(&before);
  zmi_text_release(&source);
  return op;
}

static zmi_pass_text pass_of(const zm_pass *p) {
  return (zmi_pass_text){p->init, p->update, p->reduce, p->finalize};
}

zm_op *zm_map_reduce(const zm_map_reduce_options *options) {
  if (!options || !options->pass1.update || !options->write) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_map_reduce: pass1.update and write must be given");
    return NULL;
  }
  const zmi_pass_text passes[2] = {pass_of(&options->pass1), pass_of(&options->pass2)};
  const char *name = options->name ? options->name : "map_reduce";
  zmi_text source = {0}, before = {0};
  zm_status status = zmi_map_reduce_source(name, passes, options->write, &source);
  zm_op *op = define_rows(options->name, options->inputs ? options->inputs : "x", options->result, options->compute, status, &source);
  if (op && (zmi_map_reduce_source(name, passes, NULL, &before) != ZM_OK ||
             define_gradients(op, options->compute, zmi_text_str(&before), options->gradient) != ZM_OK)) {
    zm_op_free(op);
    op = NULL;
  }
  zmi_text_release(&before);
  zmi_text_release(&source);
  return op;
}

// A field that the form does not read is a mistake of the author, who would wonder why it does nothing.
static bool reads_all(const zm_kernel_options *o) {
  enum { ROWS = 1 << ZM_KERNEL_ROWS, TILES = 1 << ZM_KERNEL_TILES, RAW = 1 << ZM_KERNEL_RAW };
  static const char *const words[] = {"rows", "tiles", "raw"};
  const struct {
    const char *field;
    bool given;
    int forms;
  } fields[] = {
      {"source", o->source, ROWS | TILES},    {"source_c", o->source_c, RAW},     {"source_cuda", o->source_cuda, RAW},
      {"source_metal", o->source_metal, RAW}, {"groups", o->groups, TILES | RAW}, {"threads", o->threads, TILES | RAW},
      {"shape", o->shape[0], TILES | RAW},    {"user", o->user && !o->vjp, 0},    {"compute", o->compute != ZM_DTYPE_DEFAULT, ROWS | TILES},
  };
  for (size_t i = 0; i < ZMI_COUNT(fields); i++) {
    if (!fields[i].given || fields[i].forms >> o->form & 1) continue;
    zmi_fail(ZM_ERROR_ARGUMENT,
             fields[i].forms ? "kernel %s: the form is %s, which has no `%s`" : "kernel %s: a kernel (%s) without a vjp has no `%s`",
             o->name ? o->name : "", words[o->form], fields[i].field);
    return false;
  }
  return true;
}

zm_op *zm_kernel(const zm_kernel_options *options) {
  static const zmi_form forms[] = {[ZM_KERNEL_ROWS] = ZMI_FORM_ROWS, [ZM_KERNEL_TILES] = ZMI_FORM_TILES, [ZM_KERNEL_RAW] = ZMI_FORM_RAW};
  if (!options || (unsigned)options->form >= ZMI_COUNT(forms)) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_kernel: the form is not one of rows, tiles, raw");
    return NULL;
  }
  if (!reads_all(options)) return NULL;
  zmi_kernel_text text = {.name = options->name,
                          .form = forms[options->form],
                          .inputs = options->inputs,
                          .outputs = options->outputs,
                          .parameters = options->parameters,
                          .source = options->source,
                          .compute = options->compute,
                          .raw = {options->source_c, options->source_cuda, options->source_metal},
                          .groups = options->groups,
                          .threads = options->threads};
  memcpy(text.result, options->result, sizeof text.result);
  memcpy(text.shape, options->shape, sizeof text.shape);
  zm_op *op = define(&text);
  if (!op || !options->vjp) return op;
  if (author_of(op)) {
    op->author->vjp = options->vjp;
    op->author->user = options->user;
    return op;
  }
  zm_op_free(op);
  return NULL;
}

// ---- application ----

// The kernel for these dtypes; it belongs to the op.
static zmi_bound *bound_for(const zm_op *shared, const zm_dtype *in) {
  zm_op *op = (zm_op *)(uintptr_t)shared; // what is made is behind the lock
  const int nin = facts_of(op)->nin;
  pthread_mutex_lock(&op->lock);
  made *m = op->made;
  while (m && memcmp(m->in, in, (size_t)nin * sizeof *in) != 0) m = m->next;
  if (!m) {
    zm_dtype result[ZMI_KERNEL_OUT];
    memcpy(result, op->result, sizeof result);
    zmi_code *code = zmi_kernel_code(op->kernel, in, result);
    zmi_bound *b = code ? zmi_bound_new(code, op->author) : NULL;
    zmi_code_free(code);
    m = b ? zmi_calloc(1, sizeof *m) : NULL;
    if (m) {
      m->next = op->made;
      m->bound = b;
      memcpy(m->in, in, (size_t)nin * sizeof *in);
      op->made = m;
    } else if (b) {
      zmi_owner_release(&b->owner);
    }
  }
  pthread_mutex_unlock(&op->lock);
  return m ? m->bound : NULL;
}

static zm_status check_counts(const zm_op *op, zm_array *const *in, int nin, int count, int nout) {
  const zmi_kernel_facts *f = facts_of(op);
  if (nin != f->nin || nout != f->nout)
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: got %d operands and places for %d results, takes %d and gives %d", f->name, nin, nout, f->nin,
                    f->nout);
  if (count != f->nparams)
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: got %d parameters, takes %d; see zm_op_apply_with", f->name, count, f->nparams);
  for (int i = 0; i < nin; i++) {
    if (in[i]) continue;
    // Normally the operand is NULL because making it failed: that message is the one to keep.
    const zm_status first = zm_last_status();
    return first != ZM_OK ? first : zmi_fail(ZM_ERROR_ARGUMENT, "%s: operand %s is NULL", f->name, f->in[i]);
  }
  return ZM_OK;
}

static zm_status broadcast_operands(const zm_op *op, zm_array *const *in, int nin, zm_array **operands) {
  const zmi_kernel_facts *f = facts_of(op);
  zmi_type whole = in[0]->type;
  for (int i = 1; i < nin; i++) {
    int rank;
    int64_t shape[ZM_MAX_RANK];
    if (!zmi_broadcast_shape(f->name, &whole, &in[i]->type, &rank, shape)) return zmi_fail_within("operand %s", f->in[i]);
    whole = zmi_type_of(whole.dtype, rank, shape);
  }
  if (f->form == ZMI_FORM_ROWS && whole.rank == 0)
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: works along the last axis, and the operands have none", f->name);
  for (int i = 0; i < nin; i++) {
    operands[i] = zm_broadcast_to(in[i], whole.shape, whole.rank);
    if (!operands[i]) return zm_last_status();
  }
  return ZM_OK;
}

static zm_status tiles_attrs(const zm_op *op, zm_array *const *in, int nin, const double *params, zmi_kernel_attrs *a) {
  const zmi_kernel_facts *f = facts_of(op);
  zmi_type types[ZMI_KERNEL_IN], out[ZMI_KERNEL_OUT];
  int at = 0;
  uint64_t ranks = 0;
  memset(out, 0, sizeof out);
  for (int i = 0; i < nin; i++) types[i] = in[i]->type;
  zm_status status = zmi_kernel_shapes(op->kernel, types, params, out);
  if (status == ZM_OK) status = zmi_kernel_grid(op->kernel, types, params, &a->groups, &a->threads);
  if (status != ZM_OK) return status;
  for (int o = 0; o < f->nout; o++) {
    if (at + out[o].rank > ZMI_KERNEL_DIMS)
      return zmi_fail(ZM_ERROR_ARGUMENT, "%s: the results have more than %d dimensions in all", f->name, ZMI_KERNEL_DIMS);
    ranks |= (uint64_t)out[o].rank << (4 * o);
    for (int d = 0; d < out[o].rank; d++) a->dims[at++] = out[o].shape[d];
  }
  a->ranks = (int64_t)ranks;
  return ZM_OK;
}

// The class of a call: of elements and rows by the shape that all operands have together, else by the grid.
static int class_of(zmi_form form, const zmi_type *whole, const zmi_kernel_attrs *a) {
  if (form >= ZMI_FORM_TILES) return zmi_grid_class(form, a->groups, a->threads);
  return zmi_shape_class(form, zmi_type_count(whole), form == ZMI_FORM_ROWS ? whole->shape[whole->rank - 1] : 0);
}

zm_status zm_op_apply_with(const zm_op *op, zm_array *const *in, int nin, const double *parameters, int count, zm_array **out, int nout) {
  if (!op) {
    const zm_status first = zm_last_status();
    return first != ZM_OK ? first : zmi_fail(ZM_ERROR_ARGUMENT, "zm_op_apply: the op is NULL");
  }
  zm_array *operands[ZMI_KERNEL_IN], *results[ZMI_MAX_OUT] = {NULL};
  zmi_kernel_attrs call = {0};
  zm_dtype dtypes[ZMI_KERNEL_IN];
  zm_status status = check_counts(op, in, nin, count, nout);
  if (status != ZM_OK) return status;
  const zmi_form form = facts_of(op)->form;
  const bool broadcasts = form == ZMI_FORM_ELEMENTS || form == ZMI_FORM_ROWS;
  for (int i = 0; i < nin; i++) dtypes[i] = in[i]->type.dtype;
  zmi_bound *b = bound_for(op, dtypes);
  if (!b) return zm_last_status();
  if (broadcasts) {
    status = broadcast_operands(op, in, nin, operands);
  } else {
    memcpy(operands, in, (size_t)nin * sizeof *in);
    status = tiles_attrs(op, in, nin, parameters, &call);
  }
  if (status == ZM_OK && (nin > 0 || !broadcasts))
    zmi_share_in(&call, zmi_instance_pieces(b->instance, class_of(form, nin > 0 ? &operands[0]->type : NULL, &call)));
  if (status == ZM_OK) status = zmi_bound_apply(b, nin, operands, parameters, &call, results);
  if (status == ZM_OK) memcpy(out, results, (size_t)nout * sizeof *out);
  return status;
}

zm_status zm_op_apply(const zm_op *op, zm_array *const *in, int nin, zm_array **out, int nout) {
  return zm_op_apply_with(op, in, nin, NULL, 0, out, nout);
}

zm_array *zm_op_apply1(const zm_op *op, zm_array *first, ...) {
  zm_array *in[ZM_MAX_OPERANDS + 1], *out = NULL;
  int nin = 0;
  va_list more;
  va_start(more, first);
  for (zm_array *a = first; a && nin <= ZM_MAX_OPERANDS; a = va_arg(more, zm_array *)) in[nin++] = a;
  va_end(more);
  // An operand that could not be made looks like the end of the list: its message is the one to keep.
  if (op && nin < facts_of(op)->nin && zm_last_status() != ZM_OK) return NULL;
  return zm_op_apply(op, in, nin, &out, 1) == ZM_OK ? out : NULL;
}

// ---- tuning ----

typedef struct tuned_call {
  zmi_work work;
  zmi_launch launch;
  const void *in[ZMI_KERNEL_IN];
  int step[ZMI_KERNEL_IN];
  int64_t row_stride[ZMI_KERNEL_IN];
  void *out[ZMI_KERNEL_OUT];
  zmi_type in_type[ZMI_KERNEL_IN], out_type[ZMI_KERNEL_OUT];
} tuned_call;

// An op with what it is tuned on.
typedef struct tuned_op {
  const zm_op *op;
  zmi_instance *instance;
  zm_array *const *in;
  int nin, nparams;
  const double *params;
  int shape; // the class
} tuned_op;

// The shape of results of elements and rows, and how each operand is walked: one element, one row for all, or an element for each.
static zm_status lay_out_whole(const zmi_code *code, zm_array *const *in, zm_array **operands, tuned_call *t) {
  const zmi_type whole = operands[0]->type;
  const bool rows = code->form == ZMI_FORM_ROWS;
  const int64_t n = zmi_type_count(&whole), d = rows ? whole.shape[whole.rank - 1] : 1;
  t->work.n = n;
  t->work.d = d;
  t->work.rows = d > 0 ? n / d : 0;
  for (int i = 0; i < code->nin; i++) {
    const zmi_type *own = &in[i]->type;
    const int64_t count = zmi_type_count(own);
    const bool one = count == 1, row = rows && count == d && own->rank > 0 && own->shape[own->rank - 1] == d;
    t->in_type[i] = *own;
    t->step[i] = !one && !(rows && d <= 1);
    t->row_stride[i] = one || row ? 0 : d;
    operands[i] = zm_contiguous(one || row ? in[i] : operands[i]);
    if (!operands[i]) return zm_last_status();
  }
  for (int o = 0; o < code->nout; o++) t->out_type[o] = zmi_type_of(code->out[o], whole.rank - (rows && code->per_row[o]), whole.shape);
  return ZM_OK;
}

static zm_status lay_out_grid(const zm_op *op, zm_array *const *in, int nin, const double *params, zm_array **operands, tuned_call *t) {
  for (int i = 0; i < nin; i++) {
    t->in_type[i] = in[i]->type;
    operands[i] = zm_contiguous(in[i]);
    if (!operands[i]) return zm_last_status();
  }
  zm_status status = zmi_kernel_shapes(op->kernel, t->in_type, params, t->out_type);
  if (status == ZM_OK) status = zmi_kernel_grid(op->kernel, t->in_type, params, &t->launch.groups, &t->launch.threads);
  t->launch.in = t->in;
  t->launch.out = t->out;
  t->launch.in_type = t->in_type;
  t->launch.out_type = t->out_type;
  t->launch.params = params;
  t->work.launch = &t->launch;
  return status;
}

static zm_status make_results(const zmi_code *code, tuned_call *t) {
  for (int o = 0; o < code->nout; o++) {
    size_t bytes;
    t->out_type[o].dtype = code->out[o];
    if (!zmi_type_bytes(&t->out_type[o], &bytes) || bytes > SIZE_MAX - 64)
      return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: result %d is too large to address", code->name, o + 1);
    if (!(t->out[o] = zmi_calloc(bytes + 64, 1))) return zm_last_status();
  }
  return ZM_OK;
}

static uint64_t tuned_bytes(const tuned_call *t, int nin, int nout) {
  uint64_t bytes = 0;
  for (int k = 0; k < nin + nout; k++) {
    const zmi_type *type = k < nin ? &t->in_type[k] : &t->out_type[k - nin];
    bytes += (uint64_t)zmi_type_count(type) * zm_dtype_size(type->dtype);
  }
  return bytes;
}

// ---- how a call is shared among threads ----

// Operations of one call, each with its own number of pieces, as programs that play like any other.
typedef struct sharing {
  int count, pieces[ZM_AUTOTUNE_SHARES];
  zmi_program *programs[ZM_AUTOTUNE_SHARES];
  double seconds[ZM_AUTOTUNE_SHARES][ZMI_TUNE_ROUNDS];
} sharing;

static zm_status play_shared(zmi_program *p, zmi_pool *pool, int calls, double *seconds) {
  zm_status status = zmi_program_begin(p);
  if (status != ZM_OK) return status;
  const double start = zmi_now();
  for (int i = 0; i < calls; i++) zmi_program_play(p, pool);
  *seconds = ZMI_MAX((zmi_now() - start) / calls, 1e-12);
  zmi_program_end(p);
  return ZM_OK;
}

// The usual way, then 1, 2, 4, ... threads up to all of them. Each is bound while it is what the instance says.
static zm_status make_programs(const tuned_op *t, int workers, const zmi_kernels *kernels, sharing *s) {
  static const char *const names[ZM_MAX_RESULTS] = {"0", "1", "2", "3", "4", "5", "6", "7"};
  for (int pieces = 0; s->count < ZM_AUTOTUNE_SHARES; pieces = pieces ? 2 * pieces : 1) {
    if (pieces > workers && pieces / 2 >= workers) break;
    zm_array *out[ZM_MAX_RESULTS] = {NULL};
    const int nout = facts_of(t->op)->nout;
    zmi_instance_share(t->instance, t->shape, ZMI_MIN(pieces, workers));
    zm_status status = zm_op_apply_with(t->op, t->in, t->nin, t->params, t->nparams, out, nout);
    if (status != ZM_OK) return status;
    s->pieces[s->count] = ZMI_MIN(pieces, workers);
    s->programs[s->count] = zmi_compile(out, names, (size_t)nout, &(zmi_compile_options){.kernels = kernels, .apart = true});
    if (!s->programs[s->count]) return zm_last_status();
    s->count++;
  }
  return ZM_OK;
}

static zm_status time_programs(sharing *s, zmi_pool *pool, double end, bool *enough) {
  double once = 0;
  int done = 0;
  *enough = false;
  for (int i = 0; i < s->count; i++) { // warm
    zm_status status = play_shared(s->programs[i], pool, 1, &once);
    if (status == ZM_OK) status = play_shared(s->programs[i], pool, 1, &s->seconds[i][0]);
    if (status != ZM_OK) return status;
  }
  const int calls = (int)ZMI_MIN(ZMI_MAX(1e-3 / s->seconds[0][0], 1), 200);
  for (; done < ZMI_TUNE_ROUNDS && zmi_now() < end; done++)
    for (int i = 0; i < s->count; i++) { // each round begins with another one
      const int now = (i + done) % s->count;
      const zm_status status = play_shared(s->programs[now], pool, calls, &s->seconds[now][done]);
      if (status != ZM_OK) return status;
    }
  *enough = done == ZMI_TUNE_ROUNDS;
  return ZM_OK;
}

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// Whole calls, by all workers of the device, in turns. What wins beyond doubt is kept beside the way that runs the class.
static zm_status tune_sharing(const tuned_op *t, zm_autotune_report *report) {
  zmi_pool *pool;
  const zmi_kernels *kernels;
  sharing *s = NULL;
  bool enough = false;
  zm_status status = zmi_device(&pool, &kernels);
  report->share_count = 1;
  if (status != ZM_OK || zmi_pool_workers(pool) < 2) return status;
  if (!(s = zmi_calloc(1, sizeof *s))) return ZM_ERROR_MEMORY;
  status = make_programs(t, zmi_pool_workers(pool), kernels, s);
  zmi_instance_share(t->instance, t->shape, 0);
  if (status == ZM_OK) status = time_programs(s, pool, zmi_now() + zmi_env_number("ZMLX_TUNE_SECONDS") / 4, &enough);
  if (status == ZM_OK && enough) {
    report->share_chosen = zmi_tune_best((const double(*)[ZMI_TUNE_ROUNDS])s->seconds, s->count);
    report->share_count = s->count;
    zmi_instance_share(t->instance, t->shape, s->pieces[report->share_chosen]);
    zmi_instance_keep_sharing(t->instance, t->shape);
  }
  for (int i = 0; i < s->count; i++) {
    qsort(s->seconds[i], ZMI_TUNE_ROUNDS, sizeof(double), by_size);
    report->shares[i] = (zm_autotune_share){s->pieces[i], s->seconds[i][ZMI_TUNE_ROUNDS / 2]};
    zmi_program_free(s->programs[i]);
  }
  zmi_free(s);
  return status;
}

static void tell(const zmi_tune_report *found, zm_autotune_report *report) {
  *report = (zm_autotune_report){.count = found->count, .chosen = found->chosen, .remembered = found->remembered, .empty = found->empty};
  for (int i = 0; i < found->count; i++)
    report->candidates[i] = (zm_autotune_candidate){found->tuning[i].chunk, zmi_tuning_flags(&found->tuning[i]), found->seconds[i]};
}

static zm_status tune(tuned_op *tuned, bool again, zmi_tune_report *found) {
  const zm_op *op = tuned->op;
  zmi_instance *x = tuned->instance;
  zm_array *const *in = tuned->in;
  const double *params = tuned->params;
  const zmi_code *code = zmi_instance_code(x);
  zm_array *operands[ZMI_KERNEL_IN] = {NULL};
  tuned_call *t = zmi_calloc(1, sizeof *t);
  if (!t) return ZM_ERROR_MEMORY;
  zm_status status;
  if (code->form == ZMI_FORM_ELEMENTS || code->form == ZMI_FORM_ROWS) {
    status = broadcast_operands(op, in, code->nin, operands);
    if (status == ZM_OK) status = lay_out_whole(code, in, operands, t);
  } else {
    status = lay_out_grid(op, in, code->nin, params, operands, t);
  }
  if (status == ZM_OK) status = zm_eval(operands, (size_t)code->nin);
  for (int i = 0; i < code->nin && status == ZM_OK; i++) t->in[i] = zm_array_data(operands[i]);
  if (status == ZM_OK) status = make_results(code, t);
  if (status == ZM_OK) {
    t->work.in = t->in;
    t->work.step = t->step;
    t->work.row_stride = t->row_stride;
    t->work.params = params;
    t->work.out = t->out;
    t->work.stream = tuned_bytes(t, code->nin, code->nout) > zmi_cache_bytes();
    status = zmi_instance_tune(x, &t->work, again, found);
    tuned->shape = code->form >= ZMI_FORM_TILES ? zmi_grid_class((zmi_form)code->form, t->launch.groups, t->launch.threads)
                                                : zmi_shape_class((zmi_form)code->form, t->work.n, t->work.d);
  }
  for (int o = 0; o < code->nout; o++) zmi_free(t->out[o]);
  zmi_free(t);
  return status;
}

zm_status zm_autotune(const zm_op *op, zm_array *const *in, int nin, const double *parameters, int count, bool again,
                      zm_autotune_report *report) {
  static const double no_parameters[ZMI_KERNEL_PARAMS];
  zmi_tune_report found = {0};
  zm_dtype dtypes[ZMI_KERNEL_IN];
  if (report) *report = (zm_autotune_report){0};
  if (!op) return zmi_fail(ZM_ERROR_ARGUMENT, "zm_autotune: the op is NULL");
  zm_status status = check_counts(op, in, nin, count, facts_of(op)->nout);
  if (status != ZM_OK) return status;
  for (int i = 0; i < nin; i++) dtypes[i] = in[i]->type.dtype;
  zmi_bound *b = bound_for(op, dtypes);
  zm_scope *scope = b ? zm_scope_open() : NULL;
  if (!scope) return zm_last_status();
  tuned_op o = {.op = op, .instance = b->instance, .in = in, .nin = nin, .nparams = count};
  o.params = parameters ? parameters : no_parameters;
  zm_autotune_report all;
  status = tune(&o, again, &found);
  if (status == ZM_OK) {
    tell(&found, &all);
    all.shares[0].pieces = zmi_instance_pieces(o.instance, o.shape);
    if (found.empty || found.remembered)
      all.share_count = 1;
    else
      status = tune_sharing(&o, &all);
  }
  zm_scope_close(scope);
  if (status == ZM_OK && report) *report = all;
  return status;
}

// ---- the kernels of the process ----

size_t zm_kernel_count(void) {
  return zmi_instance_list(NULL, 0);
}

size_t zm_kernel_list(zm_kernel_facts *facts, size_t room) {
  static const char *const forms[] = {"elements", "rows", "tiles", "raw"};
  zmi_instance_facts *found = room && facts ? zmi_calloc(room, sizeof *found) : NULL;
  if (!found) return 0;
  const size_t alive = zmi_instance_list(found, room), n = ZMI_MIN(alive, room);
  for (size_t i = 0; i < n; i++) {
    const zmi_instance_facts *f = &found[i];
    facts[i] = (zm_kernel_facts){
        .form = forms[f->form], .key = {f->key[0], f->key[1]}, .runs = f->runs, .compiled = f->compiled, .held = f->refs > 0};
    memcpy(facts[i].name, f->name, sizeof facts[i].name);
    memcpy(facts[i].note, f->note, sizeof facts[i].note);
  }
  zmi_free(found);
  return n;
}

// ---- sources ----

zmi_code *zmi_op_code(const zm_op *op, const zm_dtype *dtypes) {
  zm_dtype result[ZMI_KERNEL_OUT];
  memcpy(result, op->result, sizeof result);
  return zmi_kernel_code(op->kernel, dtypes, result);
}

char *zmi_op_source(const zm_op *op, const zm_dtype *dtypes, int nin, const char *target, bool full) {
  if (!op || !dtypes || !target || nin != facts_of(op)->nin) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_op_source: an op, a dtype for each of its operands and a target must be given");
    return NULL;
  }
  int which = 0;
  const bool ir = strcmp(target, "ir") == 0;
  while (which < ZMI_TARGET_COUNT && strcmp(zmi_target_names[which], target) != 0) which++;
  if (!ir && which == ZMI_TARGET_COUNT) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_op_source: no target is called \"%s\": give c, cuda, metal or ir", target);
    return NULL;
  }
  if (!ir && facts_of(op)->form == ZMI_FORM_RAW) {
    const char *raw = zmi_kernel_raw(op->kernel, which);
    if (!raw) zmi_fail(ZM_ERROR_ARGUMENT, "%s: has no source for %s", facts_of(op)->name, target);
    return raw ? zmi_strdup(raw) : NULL;
  }
  zmi_code *code = zmi_op_code(op, dtypes);
  if (!code) return NULL;
  zmi_text text = {0};
  zm_status status = ir ? zmi_code_print(code, &text) : zmi_emit(code, (zmi_target)which, !full, &text);
  zmi_code_free(code);
  if (status == ZM_OK && !text.failed && text.data) return text.data;
  zmi_text_release(&text);
  return NULL;
}

char *zm_op_source(const zm_op *op, const zm_dtype *dtypes, int nin, const char *target) {
  return zmi_op_source(op, dtypes, nin, target, true);
}

void zm_free_text(char *text) {
  zmi_free(text);
}
