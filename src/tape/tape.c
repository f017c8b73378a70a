// Types and the tape container: adding slots and instructions, owning their strings.
#include "tape/tape.h"

#include <stdio.h>
#include <string.h>

int64_t zmi_type_count(const zmi_type *t) {
  uint64_t n = 1; // large dims before one of 0 may pass 64 bits: the product is 0 all the same
  for (int i = 0; i < t->rank; i++) n *= (uint64_t)t->shape[i];
  return (int64_t)n;
}

bool zmi_type_bytes(const zmi_type *t, size_t *bytes) {
  size_t size = zm_dtype_size(t->dtype);
  if (size == 0 || t->rank < 0 || t->rank > ZM_MAX_RANK) return false;
  for (int i = 0; i < t->rank; i++) {
    if (t->shape[i] < 0 || zmi_mul_overflow(size, (size_t)t->shape[i], &size)) return false;
  }
  // Addresses are computed with signed arithmetic.
  if (size > (size_t)INT64_MAX / 2) return false;
  *bytes = size;
  return true;
}

bool zmi_type_equal(const zmi_type *a, const zmi_type *b) {
  if (a->dtype != b->dtype || a->rank != b->rank) return false;
  for (int i = 0; i < a->rank; i++) {
    if (a->shape[i] != b->shape[i]) return false;
  }
  return true;
}

zmi_type zmi_type_of(zm_dtype dtype, int rank, const int64_t *shape) {
  zmi_type t = {.dtype = dtype, .rank = rank};
  for (int i = 0; i < rank && i < ZM_MAX_RANK; i++) t.shape[i] = shape[i];
  return t;
}

const char *zmi_type_text(const zmi_type *t, char buffer[128]) {
  int used = snprintf(buffer, 128, "%s[", zm_dtype_name(t->dtype));
  for (int i = 0; i < t->rank && used > 0 && used < 120; i++) {
    used += snprintf(buffer + used, (size_t)(128 - used), i ? ", %lld" : "%lld", (long long)t->shape[i]);
  }
  if (used > 0 && used < 127) memcpy(buffer + used, "]", 2);
  return buffer;
}

bool zmi_slot_is_contiguous(const zmi_slot *s) {
  int64_t step = 1;
  if (zmi_type_count(&s->type) == 0) return true;
  for (int i = s->type.rank - 1; i >= 0; i--) {
    if (s->type.shape[i] != 1 && s->stride[i] != step) return false;
    step *= s->type.shape[i];
  }
  return true;
}

void zmi_slot_set_contiguous(zmi_slot *s) {
  int64_t step = 1;
  for (int i = s->type.rank - 1; i >= 0; i--) {
    s->stride[i] = step;
    // Dims may be too large for a product if another is 0: nothing is ever read with such strides.
    if (s->type.shape[i] > 0 && __builtin_mul_overflow(step, s->type.shape[i], &step)) step = 1;
  }
}

zmi_owner *zmi_owner_retain(zmi_owner *owner) {
  if (owner) owner->refs++;
  return owner;
}

void zmi_owner_release(zmi_owner *owner) {
  if (owner && --owner->refs == 0) owner->free(owner);
}

zmi_tape *zmi_tape_new(void) {
  return zmi_calloc(1, sizeof(zmi_tape));
}

void zmi_tape_free(zmi_tape *t) {
  if (!t) return;
  for (size_t i = 0; i < t->string_count; i++) zmi_free(t->strings[i]);
  zmi_free(t->strings);
  for (size_t i = 0; i < t->instr_count; i++) zmi_owner_release(t->instrs[i].owner);
  zmi_free(t->slots);
  zmi_free(t->instrs);
  zmi_free(t);
}

// Equal strings that follow one another (labels of neighbouring instructions) share one copy.
const char *zmi_tape_string(zmi_tape *t, const char *s) {
  if (t->string_count > 0 && strcmp(t->strings[t->string_count - 1], s) == 0) return t->strings[t->string_count - 1];
  if (!ZMI_GROW(t->strings, t->string_capacity, t->string_count + 1)) return NULL;
  char *copy = zmi_strdup(s);
  if (!copy) return NULL;
  t->strings[t->string_count++] = copy;
  return copy;
}

int zmi_tape_add_slot(zmi_tape *t, const zmi_slot *slot) {
  if (t->slot_count >= INT32_MAX || !ZMI_GROW(t->slots, t->slot_capacity, t->slot_count + 1)) return -1;
  zmi_slot s = *slot;
  if (s.name && !(s.name = zmi_tape_string(t, s.name))) return -1;
  t->slots[t->slot_count] = s;
  return (int)t->slot_count++;
}

int zmi_tape_add_instr(zmi_tape *t, const zmi_instr *instr) {
  if (t->instr_count >= INT32_MAX || !ZMI_GROW(t->instrs, t->instr_capacity, t->instr_count + 1)) return -1;
  zmi_instr i = *instr;
  if (i.label && !(i.label = zmi_tape_string(t, i.label))) return -1;
  zmi_owner_retain(i.owner);
  t->instrs[t->instr_count] = i;
  return (int)t->instr_count++;
}
