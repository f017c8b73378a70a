// Prints a tape, one line a slot or instruction, in the form that parse.c reads back:
//   zmlx tape 1
//   %0 weight bfloat16[384] "model.norm.weight"              leaves first: weight, input, state
//   %5 view bfloat16[1, 6, 64] of %4 stride [384, 64, 1] shift 0
//   %6 bfloat16[1, 384] @1024 = rms_norm(%4, %0) {eps=1e-05} "model.layers.0"        results of temporaries with their place in the arena
//   %7 bfloat16[1, 8192] @0 "logits" = linear(%6, %1) {...} scratch 1216 @2048       an output has a name
//   %3 = write_keys(%3, %5, %8, %9)                                                a state updated in place; '-' is an absent operand
//   arena 4096
#include "tape/tape.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_name(zmi_text *out, const char *s) {
  zmi_text_add(out, " \"");
  for (; *s; s++) {
    unsigned char c = (unsigned char)*s;
    if (c == '"' || c == '\\' || c < 0x20)
      zmi_text_add(out, "\\x%02x", c);
    else
      zmi_text_add_bytes(out, s, 1);
  }
  zmi_text_add(out, "\"");
}

static void put_list(zmi_text *out, const int64_t *values, int n) {
  zmi_text_add(out, "[");
  for (int i = 0; i < n; i++) zmi_text_add(out, i ? ", %lld" : "%lld", (long long)values[i]);
  zmi_text_add(out, "]");
}

static void put_type(zmi_text *out, const zmi_type *t) {
  zmi_text_add(out, "%s", zm_dtype_name(t->dtype));
  put_list(out, t->shape, t->rank);
}

// The shortest decimal that reads back as the same double.
static void put_double(zmi_text *out, double v) {
  char buffer[40];
  for (int digits = 6; digits <= 17; digits++) {
    snprintf(buffer, sizeof buffer, "%.*g", digits, v);
    if (strtod(buffer, NULL) == v) break;
  }
  // The host program's locale may write another point; a tape has a full stop.
  const char *point = localeconv()->decimal_point, *at = *point ? strstr(buffer, point) : NULL;
  if (at)
    zmi_text_add(out, "%.*s.%s", (int)(at - buffer), buffer, at + strlen(point));
  else
    zmi_text_add(out, "%s", buffer);
}

static void put_attrs(zmi_text *out, const zmi_instr *in) {
  const char *between = " {";
  for (const zmi_field *f = in->op->fields; f && f->name; f++) {
    static const unsigned char zero[8];
    if (in->op->flags & ZMI_OP_SPARSE && memcmp(in->attrs.bytes + f->offset, zero, sizeof zero) == 0) continue;
    zmi_text_add(out, "%s%s=", between, f->name);
    between = " ";
    if (f->kind == ZMI_FIELD_FLOAT) {
      double v;
      memcpy(&v, in->attrs.bytes + f->offset, sizeof v);
      put_double(out, v);
      continue;
    }
    int64_t v, words = 0;
    memcpy(&v, in->attrs.bytes + f->offset, sizeof v);
    while (f->kind == ZMI_FIELD_WORD && f->words[words]) words++;
    if (v >= 0 && v < words)
      zmi_text_add(out, "%s", f->words[v]);
    else
      zmi_text_add(out, "%lld", (long long)v);
  }
  if (between[1] != '{') zmi_text_add(out, "}");
}

static const char *const leaf_words[] = {[ZMI_SLOT_WEIGHT] = "weight", [ZMI_SLOT_INPUT] = "input", [ZMI_SLOT_STATE] = "state"};

static void put_leaf(zmi_text *out, size_t index, const zmi_slot *s) {
  zmi_text_add(out, "%%%zu %s ", index, leaf_words[s->kind]);
  put_type(out, &s->type);
  put_name(out, s->name);
  zmi_text_add(out, "\n");
}

static void put_view(zmi_text *out, size_t index, const zmi_slot *s) {
  zmi_text_add(out, "%%%zu view ", index);
  put_type(out, &s->type);
  zmi_text_add(out, " of %%%d stride ", s->base);
  put_list(out, s->stride, s->type.rank);
  zmi_text_add(out, " shift %lld\n", (long long)s->shift);
}

static void put_instr(zmi_text *out, const zmi_tape *t, const zmi_instr *in) {
  for (int o = 0; o < in->nout; o++) {
    const zmi_slot *s = &t->slots[in->out[o]];
    zmi_text_add(out, o ? ", %%%d" : "%%%d", in->out[o]);
    if (in->op->updates[o]) continue;
    zmi_text_add(out, " ");
    put_type(out, &s->type);
    if (s->apart)
      zmi_text_add(out, " apart");
    else
      zmi_text_add(out, " @%zu", s->offset);
    if (s->kind == ZMI_SLOT_OUTPUT) put_name(out, s->name);
  }
  zmi_text_add(out, " = %s(", in->op->name);
  for (int i = 0; i < in->nin; i++) {
    if (i) zmi_text_add(out, ", ");
    if (in->in[i] < 0)
      zmi_text_add(out, "-");
    else
      zmi_text_add(out, "%%%d", in->in[i]);
  }
  zmi_text_add(out, ")");
  put_attrs(out, in);
  if (in->scratch) zmi_text_add(out, " scratch %zu @%zu", in->scratch, in->scratch_offset);
  if (in->label) put_name(out, in->label);
  zmi_text_add(out, "\n");
}

// A view is printed before the first instruction that reads it.
static void put_views(zmi_text *out, const zmi_tape *t, const zmi_instr *in, unsigned char *shown) {
  for (int i = 0; i < in->nin; i++) {
    int s = in->in[i];
    if (s < 0 || t->slots[s].kind != ZMI_SLOT_VIEW || shown[s]) continue;
    shown[s] = 1;
    put_view(out, (size_t)s, &t->slots[s]);
  }
}

zm_status zmi_tape_print(const zmi_tape *t, zmi_text *out) {
  unsigned char *shown = zmi_calloc(t->slot_count + 1, 1);
  if (!shown) return ZM_ERROR_MEMORY;
  zmi_text_add(out, "zmlx tape 1\n");
  for (size_t i = 0; i < t->slot_count; i++) {
    zmi_slot_kind kind = t->slots[i].kind;
    if (kind == ZMI_SLOT_WEIGHT || kind == ZMI_SLOT_INPUT || kind == ZMI_SLOT_STATE) put_leaf(out, i, &t->slots[i]);
  }
  for (size_t i = 0; i < t->instr_count; i++) {
    put_views(out, t, &t->instrs[i], shown);
    put_instr(out, t, &t->instrs[i]);
  }
  for (size_t i = 0; i < t->slot_count; i++) {
    if (t->slots[i].kind == ZMI_SLOT_VIEW && !shown[i]) put_view(out, i, &t->slots[i]);
  }
  zmi_text_add(out, "arena %zu\n", t->arena_bytes);
  zmi_free(shown);
  return out->failed ? ZM_ERROR_MEMORY : ZM_OK;
}
