// Calls as kernels of the kernel language on a GPU: emitted as CUDA C, compiled once, launched over operands where they are. An operand
// that lies in no way that kernels can read is copied first.
#include "array/on_device.h"

#include <string.h>

#include "array/ops/ops.h"

enum { THREADS = 256, LEAST_THREADS = 32, BLOCKS = 16 /* of each multiprocessor: more only wait */ };
enum { MOST_THREADS = 1024, MOST_SHARED = 48 << 10, MOST_ARGUMENTS = 4096 }; // of a group, of a launch
enum { OPERANDS = ZMI_MAX_IN + ZMI_MAX_OUT };

// ---- which calls ----

// Bytes of the struct zk_call of emitted kernels (kernel/emit_gpu.c), and of all arguments.
static size_t call_bytes(const zmi_code *c) {
  const size_t operands = (size_t)ZMI_MAX(c->nin + c->nout, 1);
  return 8 * (3 + operands * (3 + ZM_MAX_RANK)) + 8 * (size_t)ZMI_MAX(c->nparams, 1);
}

static size_t type_bytes(zmi_ctype t) {
  return t == ZMI_C_BOOL ? 1 : t == ZMI_C_LONG || t == ZMI_C_ULONG ? 8 : 4;
}

// Sums of floats in memory have an order, which threads of a GPU do not keep.
static bool has_order(const zmi_code *c) {
  size_t shared = 0;
  for (size_t i = 0; i < c->count; i++) {
    const zmi_inst *x = &c->insts[i];
    if (x->op == ZMI_K_ATOMIC_ADD && c->out[x->index] != ZM_I32 && c->out[x->index] != ZM_U32) return false;
    if (x->op == ZMI_K_SHARED && x->index != 1) shared += (size_t)x->extra * type_bytes(x->type);
  }
  return shared <= MOST_SHARED;
}

bool zmi_kernel_of(const zmi_call *c, zmi_op_kernel *k) {
  *k = (zmi_op_kernel){0};
  if (!c->op->kernel || !c->op->kernel(c, k)) return false;
  const zmi_code *code = k->code;
  if ((size_t)(code->nin + code->nout) * 8 + call_bytes(code) > MOST_ARGUMENTS) return false;
  if (code->form == ZMI_FORM_RAW && !code->raw[ZMI_TARGET_CUDA]) return false;
  if (code->form >= ZMI_FORM_TILES && k->threads > MOST_THREADS) return false;
  return code->form != ZMI_FORM_TILES || has_order(code);
}

// ---- how operands lie ----

typedef struct layout {
  const void *at[OPERANDS];
  int64_t row_stride[OPERANDS], step[OPERANDS];
  zmi_gpu_address copies[OPERANDS]; // of operands that were copied; 0
  size_t bytes[OPERANDS];
  int64_t count, rows, d;
} layout;

// Dimensions [0, dims) of an operand as one that steps by `stride`; false if they are none.
static bool as_one(const zmi_slot *s, int dims, int64_t *stride) {
  int64_t expected = 0;
  bool any = false;
  *stride = 0;
  for (int i = dims - 1; i >= 0; i--) {
    if (s->type.shape[i] == 1) continue;
    if (!any)
      *stride = s->stride[i];
    else if (s->stride[i] != expected)
      return false;
    any = true;
    expected = s->stride[i] * s->type.shape[i];
  }
  return true;
}

static zm_status copy(zmi_cuda *d, const zmi_call *c, int i, layout *l) {
  zmi_slot to = *c->in[i];
  bool runs = false;
  if (!zmi_type_bytes(&to.type, &l->bytes[i])) return zmi_fail(ZM_ERROR_ARGUMENT, "an array is too large to address");
  zmi_slot_set_contiguous(&to);
  zm_status status = zmi_device_get(d, l->bytes[i], &l->copies[i]);
  if (status != ZM_OK) return status;
  l->at[i] = (const void *)(uintptr_t)l->copies[i];
  zmi_call one = {.op = &zmi_op_copy, .nin = 1, .nout = 1, .in = {c->in[i]}, .out = {&to}, .src = {c->src[i]}};
  one.dst[0] = (void *)(uintptr_t)l->copies[i];
  status = zmi_device_play_op(d, &one, &runs);
  return status == ZM_OK && !runs ? zmi_fail(ZM_ERROR_LIMIT, "device cuda: an array is too large to be copied there") : status;
}

static zm_status lay_out_elements(zmi_cuda *d, const zmi_call *c, layout *l) {
  zm_status status = ZM_OK;
  l->count = zmi_type_count(&c->out[0]->type);
  for (int i = 0; i < c->nin && status == ZM_OK; i++) {
    int64_t stride;
    const bool one = as_one(c->in[i], c->in[i]->type.rank, &stride);
    l->at[i] = c->src[i];
    l->step[i] = one ? stride : 1;
    if (!one) status = copy(d, c, i, l);
  }
  return status;
}

static zm_status lay_out_rows(zmi_cuda *d, const zmi_call *c, const zmi_code *code, layout *l) {
  const zmi_type *whole = NULL;
  zm_status status = ZM_OK;
  for (int i = 0; i < c->nin && !whole; i++) {
    if (!code->in_per_row[i]) whole = &c->in[i]->type;
  }
  if (!whole || whole->rank < 1) return zmi_fail(ZM_ERROR_ARGUMENT, "a kernel of rows needs an operand with a last axis");
  l->d = whole->shape[whole->rank - 1];
  l->rows = 1;
  for (int i = 0; i + 1 < whole->rank; i++) l->rows *= whole->shape[i];
  for (int i = 0; i < c->nin && status == ZM_OK; i++) {
    const zmi_slot *s = c->in[i];
    const bool per_row = code->in_per_row[i];
    l->step[i] = per_row || l->d <= 1 ? 0 : s->stride[s->type.rank - 1];
    l->at[i] = c->src[i];
    if (as_one(s, whole->rank - 1, &l->row_stride[i])) continue;
    l->step[i] = !per_row;
    l->row_stride[i] = per_row ? 1 : l->d;
    status = copy(d, c, i, l);
  }
  return status;
}

// Buffers are flat. What nobody writes is zero.
static zm_status lay_out_groups(zmi_cuda *d, const zmi_call *c, layout *l) {
  zm_status status = ZM_OK;
  for (int i = 0; i < c->nin && status == ZM_OK; i++) {
    l->at[i] = c->src[i];
    if (!zmi_slot_is_contiguous(c->in[i])) status = copy(d, c, i, l);
  }
  for (int o = 0; o < c->nout && status == ZM_OK; o++) status = zmi_device_zero(d, zmi_gpu_at(c->dst[o]), c->out[o]->bytes);
  return status;
}

// ---- launching ----

// The struct zk_call, 8 bytes a number.
static void pack(const zmi_call *c, const zmi_op_kernel *k, const layout *l, int64_t *to) {
  const zmi_code *code = k->code;
  const int nin = code->nin, operands = ZMI_MAX(nin + code->nout, 1);
  *to++ = l->count;
  *to++ = l->rows;
  *to++ = l->d;
  for (int i = 0; i < operands; i++) {
    const zmi_slot *s = i < nin ? c->in[i] : c->out[i - nin];
    to[i] = zmi_type_count(&s->type);
    for (int a = 0; a < ZM_MAX_RANK; a++) to[operands + i * ZM_MAX_RANK + a] = a < s->type.rank ? s->type.shape[a] : 1;
    to[operands * (1 + ZM_MAX_RANK) + i] = i < nin ? l->row_stride[i] : 0;
    to[operands * (2 + ZM_MAX_RANK) + i] = i < nin ? l->step[i] : 0;
  }
  to += operands * (3 + ZM_MAX_RANK);
  for (int i = 0; i < code->nparams; i++) {
    const double value = k->params ? k->params[i] : k->values[i];
    struct {
      float f;
      int32_t i;
    } both = {(float)value, value > INT32_MIN && value < INT32_MAX ? (int32_t)value : value > 0 ? INT32_MAX : INT32_MIN};
    memcpy(&to[i], &both, sizeof both);
  }
}

static void find_grid(zmi_cuda *d, const zmi_op_kernel *k, const layout *l, int64_t *groups, int64_t *threads) {
  const int64_t most = (int64_t)zmi_device_processors(d) * BLOCKS;
  *groups = k->groups;
  *threads = k->threads;
  if (k->code->form == ZMI_FORM_ELEMENTS) {
    *threads = THREADS;
    *groups = ZMI_MIN((l->count + THREADS - 1) / THREADS, most);
  } else if (k->code->form == ZMI_FORM_ROWS) {
    for (*threads = LEAST_THREADS; *threads < THREADS && *threads < l->d;) *threads *= 2;
    *groups = ZMI_MIN(l->rows, most);
  }
}

static zm_status launch(zmi_cuda *d, const zmi_call *c, const zmi_op_kernel *k, const layout *l, const zmi_device_kernel *compiled) {
  int64_t call[MOST_ARGUMENTS / 8] = {0}, groups = 0, threads = 0;
  zmi_gpu_address at[OPERANDS];
  void *arguments[OPERANDS + 1];
  const int nin = k->code->nin, operands = nin + k->code->nout;
  for (int i = 0; i < operands; i++) {
    at[i] = zmi_gpu_at(i < nin ? l->at[i] : c->dst[i - nin]);
    arguments[i] = &at[i];
  }
  pack(c, k, l, call);
  arguments[operands] = call;
  find_grid(d, k, l, &groups, &threads);
  return zmi_device_launch(d, compiled, groups, threads, arguments);
}

// The compiler has to know how many threads a group has, as they share its registers.
static int64_t bound_of(const zmi_op_kernel *k) {
  int64_t bound = THREADS;
  if (k->code->form < ZMI_FORM_TILES) return bound;
  while (bound < k->threads) bound *= 2;
  return bound;
}

static bool add_bound(const zmi_text *text, int64_t bound, zmi_text *out) {
  static const char head[] = "__global__ void ";
  const char *all = zmi_text_str(text), *at = strstr(all, head);
  const size_t before = at ? (size_t)(at - all) + sizeof head - 1 : 0;
  zmi_text_add_bytes(out, all, before);
  zmi_text_add(out, "__launch_bounds__(%d) ", (int)bound);
  zmi_text_add_bytes(out, all + before, text->size - before);
  if (!at || out->failed) zmi_fail(at ? ZM_ERROR_MEMORY : ZM_ERROR_FORMAT, "device cuda: the source of a kernel could not be made");
  return at && !out->failed;
}

static const zmi_device_kernel *compiled_for(zmi_cuda *d, const zmi_op_kernel *kernel, bool *runs) {
  static const char *const entries[] = {
      [ZMI_FORM_ELEMENTS] = "zk_elements", [ZMI_FORM_ROWS] = "zk_rows", [ZMI_FORM_TILES] = "zk_groups", [ZMI_FORM_RAW] = "zk_groups"};
  const zmi_code *code = kernel->code;
  const uint64_t key[2] = {code->key[0], code->key[1] + (uint64_t)bound_of(kernel)};
  zmi_text text = {0}, bounded = {0};
  const zmi_device_kernel *k = zmi_device_kernel_find(d, key);
  *runs = true;
  if (k) return k;
  const zm_status status = zmi_emit(code, ZMI_TARGET_CUDA, false, &text);
  if (status != ZM_OK)
    *runs = status != ZM_ERROR_UNSUPPORTED;
  else if (add_bound(&text, bound_of(kernel), &bounded))
    k = zmi_device_kernel_make(d, key, code->name, zmi_text_str(&bounded), entries[code->form]);
  zmi_text_release(&text);
  zmi_text_release(&bounded);
  if (!*runs) zmi_error_clear();
  return k;
}

// The only operand with the axis of its rows as the last one.
static zmi_slot turned(const zmi_slot *s, int axis) {
  zmi_slot t = *s;
  for (int i = axis; i + 1 < s->type.rank; i++) {
    t.type.shape[i] = s->type.shape[i + 1];
    t.stride[i] = s->stride[i + 1];
  }
  t.type.shape[s->type.rank - 1] = s->type.shape[axis];
  t.stride[s->type.rank - 1] = s->stride[axis];
  return t;
}

zm_status zmi_kernel_there(zmi_cuda *d, const zmi_call *given, const zmi_op_kernel *k, bool *runs) {
  const zmi_code *code = k->code;
  zmi_call call = *given;
  const zmi_call *c = &call;
  zmi_slot rows;
  layout l;
  memset(&l, 0, sizeof l);
  if (k->along) {
    rows = turned(call.in[0], k->axis);
    call.in[0] = &rows;
  }
  const zmi_device_kernel *compiled = compiled_for(d, k, runs);
  if (!compiled) return *runs ? zm_last_status() : ZM_OK;
  zm_status status = ZM_OK;
  if (code->form == ZMI_FORM_ELEMENTS)
    status = lay_out_elements(d, c, &l);
  else if (code->form == ZMI_FORM_ROWS)
    status = lay_out_rows(d, c, code, &l);
  else
    status = lay_out_groups(d, c, &l);
  if (status == ZM_OK) status = launch(d, c, k, &l, compiled);
  for (int i = 0; i < c->nin; i++) {
    if (l.copies[i]) zmi_device_give_back(d, l.copies[i], l.bytes[i]);
  }
  return status;
}
