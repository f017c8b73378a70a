// Checks a tape before it is planned or played: indices, types, views, attributes, shape rules, and that nothing is read before it is
// written.
#include "tape/tape.h"

#include <string.h>

static const int slot_is_named[] = {
    [ZMI_SLOT_WEIGHT] = 1, [ZMI_SLOT_INPUT] = 1, [ZMI_SLOT_STATE] = 1, [ZMI_SLOT_OUTPUT] = 1, [ZMI_SLOT_VIEW] = 0};

// The furthest element that a view can touch, counted from the first element of its base; false on overflow.
static bool view_extent(const zmi_slot *s, int64_t *low, int64_t *high) {
  *low = *high = s->shift;
  for (int i = 0; i < s->type.rank; i++) {
    if (s->type.shape[i] <= 0) return s->type.shape[i] == 0;
    int64_t span;
    if (__builtin_mul_overflow(s->stride[i], s->type.shape[i] - 1, &span)) return false;
    int64_t *end = span < 0 ? low : high;
    if (__builtin_add_overflow(*end, span, end)) return false;
  }
  return true;
}

static zm_status verify_view(const zmi_tape *t, size_t index) {
  const zmi_slot *s = &t->slots[index];
  if (s->base < 0 || (size_t)s->base >= index || t->slots[s->base].kind == ZMI_SLOT_VIEW) {
    return zmi_fail(ZM_ERROR_FORMAT, "tape: view %%%zu looks into slot %d, which is not an earlier slot with memory of its own", index,
                    s->base);
  }
  const zmi_slot *base = &t->slots[s->base];
  if (base->type.dtype != s->type.dtype) {
    return zmi_fail(ZM_ERROR_FORMAT, "tape: view %%%zu is %s but its base %%%d is %s", index, zm_dtype_name(s->type.dtype), s->base,
                    zm_dtype_name(base->type.dtype));
  }
  int64_t low, high;
  if (!view_extent(s, &low, &high)) return zmi_fail(ZM_ERROR_FORMAT, "tape: strides of view %%%zu overflow", index);
  if (zmi_type_count(&s->type) > 0 && (low < 0 || high >= zmi_type_count(&base->type))) {
    return zmi_fail(ZM_ERROR_FORMAT, "tape: view %%%zu reaches elements %lld to %lld of %%%d, which has %lld", index, (long long)low,
                    (long long)high, s->base, (long long)zmi_type_count(&base->type));
  }
  return ZM_OK;
}

static zm_status verify_slot(const zmi_tape *t, size_t index) {
  const zmi_slot *s = &t->slots[index];
  size_t bytes;
  if (!zmi_type_bytes(&s->type, &bytes)) return zmi_fail(ZM_ERROR_FORMAT, "tape: slot %%%zu has an impossible type", index);
  if ((unsigned)s->kind > ZMI_SLOT_VIEW) return zmi_fail(ZM_ERROR_FORMAT, "tape: slot %%%zu has unknown kind %d", index, (int)s->kind);
  if (slot_is_named[s->kind] != (s->name != NULL)) {
    return zmi_fail(ZM_ERROR_FORMAT, "tape: slot %%%zu: weights, inputs, states and outputs have names, others have none", index);
  }
  if (s->apart && s->kind != ZMI_SLOT_OUTPUT) return zmi_fail(ZM_ERROR_FORMAT, "tape: slot %%%zu is apart but no output", index);
  if (s->kind == ZMI_SLOT_VIEW) return verify_view(t, index);
  if (s->bytes != bytes) return zmi_fail(ZM_ERROR_FORMAT, "tape: slot %%%zu holds %zu bytes, its type needs %zu", index, s->bytes, bytes);
  return ZM_OK;
}

static int root_of(const zmi_tape *t, int slot) {
  return t->slots[slot].kind == ZMI_SLOT_VIEW ? t->slots[slot].base : slot;
}

static zm_status verify_operands(const zmi_tape *t, size_t index, const unsigned char *written, zmi_type *types) {
  const zmi_instr *in = &t->instrs[index];
  for (int i = 0; i < in->nin; i++) {
    types[i] = (zmi_type){.rank = -1};
    if (in->in[i] == -1) continue;
    if (in->in[i] < 0 || (size_t)in->in[i] >= t->slot_count) {
      return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) reads slot %d of %zu", index, in->op->name, in->in[i], t->slot_count);
    }
    if (!written[root_of(t, in->in[i])]) {
      return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) reads slot %%%d before anything has written it", index, in->op->name,
                      in->in[i]);
    }
    if (!(in->op->flags & ZMI_OP_STRIDED) && !zmi_slot_is_contiguous(&t->slots[in->in[i]])) {
      return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) needs contiguous operands, slot %%%d has strides", index, in->op->name,
                      in->in[i]);
    }
    types[i] = t->slots[in->in[i]].type;
  }
  return ZM_OK;
}

static zm_status verify_result(const zmi_tape *t, size_t index, int o, const zmi_type *expected, unsigned char *written) {
  const zmi_instr *in = &t->instrs[index];
  char a[128], b[128];
  int slot = in->out[o];
  if (slot < 0 || (size_t)slot >= t->slot_count) {
    return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) writes slot %d of %zu", index, in->op->name, slot, t->slot_count);
  }
  const zmi_slot *s = &t->slots[slot];
  if (!zmi_type_equal(&s->type, expected)) {
    return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) gives %s, slot %%%d is %s", index, in->op->name,
                    zmi_type_text(expected, a), slot, zmi_type_text(&s->type, b));
  }
  int update = in->op->updates[o];
  if (update > 0) {
    if (update > in->nin || in->in[update - 1] != slot) {
      return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) must update its operand %d in place", index, in->op->name, update);
    }
  } else if (s->kind != ZMI_SLOT_TEMP && s->kind != ZMI_SLOT_OUTPUT) {
    return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) writes slot %%%d, which is neither temporary nor an output", index,
                    in->op->name, slot);
  } else if (written[slot]) {
    return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) writes slot %%%d a second time", index, in->op->name, slot);
  }
  written[slot] = 1;
  return ZM_OK;
}

static zm_status verify_instr(const zmi_tape *t, size_t index, unsigned char *written) {
  const zmi_instr *in = &t->instrs[index];
  if (!in->op || in->nin < 0 || in->nin > ZMI_MAX_IN || in->nout < 0 || in->nout > ZMI_MAX_OUT) {
    return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu has %d operands and %d results", index, in->nin, in->nout);
  }
  if (in->op->flags & ZMI_OP_VIEW)
    return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) is a view, which is a slot", index, in->op->name);
  if (in->op->find_owner && !in->owner) return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) has no owner", index, in->op->name);
  zmi_type types[ZMI_MAX_IN], results[ZMI_MAX_OUT];
  zm_status status = verify_operands(t, index, written, types);
  if (status != ZM_OK) return status;
  int nout = 0;
  memset(results, 0, sizeof results);
  status = in->op->infer(in->attrs.bytes, in->nin, types, &nout, results);
  if (status != ZM_OK) return zmi_fail_within("tape: instruction %zu (%s)", index, in->op->name);
  if (nout != in->nout)
    return zmi_fail(ZM_ERROR_FORMAT, "tape: instruction %zu (%s) has %d results, its rule gives %d", index, in->op->name, in->nout, nout);
  for (int o = 0; o < nout; o++) {
    status = verify_result(t, index, o, &results[o], written);
    if (status != ZM_OK) return status;
  }
  return ZM_OK;
}

zm_status zmi_tape_verify(const zmi_tape *t) {
  unsigned char *written = zmi_calloc(t->slot_count + 1, 1);
  if (!written) return ZM_ERROR_MEMORY;
  zm_status status = ZM_OK;
  for (size_t i = 0; i < t->slot_count && status == ZM_OK; i++) {
    status = verify_slot(t, i);
    zmi_slot_kind kind = t->slots[i].kind;
    written[i] = kind == ZMI_SLOT_WEIGHT || kind == ZMI_SLOT_INPUT || kind == ZMI_SLOT_STATE;
  }
  for (size_t i = 0; i < t->instr_count && status == ZM_OK; i++) status = verify_instr(t, i, written);
  for (size_t i = 0; i < t->slot_count && status == ZM_OK; i++) {
    if (t->slots[i].kind == ZMI_SLOT_OUTPUT && !written[i]) {
      status = zmi_fail(ZM_ERROR_FORMAT, "tape: output %s is never written", t->slots[i].name);
    }
  }
  zmi_free(written);
  return status;
}
