// Definitions of the catalog and their ops: made at the first use, under one lock, and kept.
#include "catalog/catalog.h"

#include <pthread.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // of the field `op` of all definitions

static zm_op *make(const zmi_definition *d) {
  if (d->form == ZMI_FORM_ELEMENTS) {
    char inputs[256];
    zm_elementwise_options o = {.name = d->name, .inputs = d->inputs, .outputs = d->outputs};
    if (d->parameters) {
      if (strlen(d->inputs) + strlen(d->parameters) + 2 > sizeof inputs) {
        zmi_fail(ZM_ERROR_ARGUMENT, "%s: too many operands", d->name);
        return NULL;
      }
      strcpy(inputs, d->inputs);
      strcat(inputs, " ");
      strcat(inputs, d->parameters);
      o.inputs = inputs;
    }
    memcpy(o.result, d->result, sizeof o.result);
    return zm_elementwise(d->source, &o);
  }
  zm_kernel_options o = {.name = d->name,
                         .form = d->form == ZMI_FORM_ROWS ? ZM_KERNEL_ROWS : ZM_KERNEL_TILES,
                         .inputs = d->inputs,
                         .outputs = d->outputs,
                         .parameters = d->parameters,
                         .source = d->source,
                         .shape = {d->shape},
                         .groups = d->groups,
                         .threads = d->threads,
                         .vjp = d->vjp};
  memcpy(o.result, d->result, sizeof o.result);
  return zm_kernel(&o);
}

const zm_op *zmi_definition_op(zmi_definition *d) {
  pthread_mutex_lock(&lock);
  if (!d->op) d->op = make(d);
  const zm_op *op = d->op;
  pthread_mutex_unlock(&lock);
  if (!op) zmi_fail_within("%s", d->name);
  return op;
}

zm_status zmi_definition_apply(zmi_definition *d, zm_array *const *in, int nin, const double *params, int count, zm_array **out, int nout) {
  zm_array *all[ZMI_CATALOG_IN];
  const zm_op *op = zmi_definition_op(d);
  if (!op) return zm_last_status();
  if (nin > ZMI_CATALOG_IN || (d->form == ZMI_FORM_ELEMENTS && nin + count > ZMI_CATALOG_IN)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: %d operands are too many", d->name, nin + count);
  }
  for (int i = 0; i < nin; i++) {
    if (!in[i]) return zm_last_status() != ZM_OK ? zm_last_status() : zmi_fail(ZM_ERROR_ARGUMENT, "%s: operand %d is NULL", d->name, i);
    all[i] = in[i];
  }
  if (d->form != ZMI_FORM_ELEMENTS) {
    return count ? zm_op_apply_with(op, all, nin, params, count, out, nout) : zm_op_apply(op, all, nin, out, nout);
  }
  for (int i = 0; i < count; i++) {
    if (!(all[nin + i] = zmi_cat_scalar(params[i]))) return zm_last_status();
  }
  return zm_op_apply(op, all, nin + count, out, nout);
}

zm_array *zmi_definition_apply1(zmi_definition *d, zm_array *const *in, int nin, const double *params, int count) {
  zm_array *y = NULL;
  return zmi_definition_apply(d, in, nin, params, count, &y, 1) == ZM_OK ? y : NULL;
}

// Dtypes of the operands by their names: what is not a float where the function is applied says so here.
static const struct {
  const char *name;
  zm_dtype dtype;
} operand_dtypes[] = {
    {"mask", ZM_BOOL}, {"there", ZM_BOOL}, {"last", ZM_BOOL}, {"start", ZM_U32}, {"seed", ZM_U32}, {"target", ZM_I32}, {"ignored", ZM_I32},
};

// The op of the row's definition and the dtypes of its operands, `dtype` for floats; NULL with a message.
static const zm_op *operands_of(const zmi_entry *e, zm_dtype dtype, zm_dtype dtypes[ZMI_CATALOG_IN], int *count) {
  const zmi_definition *d = e->definition;
  int n = 0;
  if (!d) {
    zmi_fail(ZM_ERROR_UNSUPPORTED, "%s has no source to show: it is made of operations in C, and computes %s", e->name, e->formula);
    return NULL;
  }
  const char *list[2] = {d->inputs, d->form == ZMI_FORM_ELEMENTS ? d->parameters : NULL};
  for (int l = 0; l < 2; l++) {
    for (const char *s = list[l]; s && *s && n < ZMI_CATALOG_IN;) {
      size_t size = strcspn(s, " ");
      dtypes[n] = l ? ZM_F32 : dtype;
      for (size_t i = 0; i < ZMI_COUNT(operand_dtypes); i++) {
        if (strlen(operand_dtypes[i].name) == size && memcmp(operand_dtypes[i].name, s, size) == 0) dtypes[n] = operand_dtypes[i].dtype;
      }
      if (d->codes && (d->codes >> n & 1)) dtypes[n] = ZM_U8;
      n++;
      s += size + (s[size] == ' ');
    }
  }
  *count = n;
  return zmi_definition_op(e->definition);
}

char *zmi_entry_source(const zmi_entry *e, zm_dtype dtype, const char *target, bool full) {
  zm_dtype dtypes[ZMI_CATALOG_IN];
  int n = 0;
  const zm_op *op = operands_of(e, dtype, dtypes, &n);
  return op ? zmi_op_source(op, dtypes, n, target, full) : NULL;
}

zmi_code *zmi_entry_code(const zmi_entry *e, zm_dtype dtype) {
  zm_dtype dtypes[ZMI_CATALOG_IN];
  int n = 0;
  const zm_op *op = operands_of(e, dtype, dtypes, &n);
  return op ? zmi_op_code(op, dtypes) : NULL;
}

static int word_count(const char *s) {
  int n = 0;
  for (; *s; s++) n += *s != ' ' && (s[1] == ' ' || !s[1]);
  return n;
}

zmi_code *zmi_entry_code_vjp(const zmi_entry *e, zm_dtype dtype) {
  zm_dtype dtypes[ZMI_CATALOG_IN];
  bool given[ZMI_KERNEL_OUT], wanted[ZMI_CATALOG_IN] = {false};
  int n = 0;
  const zm_op *op = operands_of(e, dtype, dtypes, &n);
  if (op && (e->definition->vjp || e->definition->form == ZMI_FORM_TILES)) {
    zmi_fail(ZM_ERROR_UNSUPPORTED, "%s: its gradients are made of operations in C", e->name);
    return NULL;
  }
  zmi_code *code = op ? zmi_op_code(op, dtypes) : NULL;
  if (!code) return NULL;
  for (int i = 0; i < ZMI_KERNEL_OUT; i++) given[i] = true;
  for (int i = 0; i < ZMI_MIN(n, word_count(e->definition->inputs)); i++)
    wanted[i] = dtypes[i] == ZM_F32 || dtypes[i] == ZM_F16 || dtypes[i] == ZM_BF16;
  zmi_code *gradients = zmi_code_vjp(code, given, wanted);
  zmi_code_free(code);
  return gradients;
}
