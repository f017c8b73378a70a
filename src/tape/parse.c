// Reads the text form of a tape (described in print.c). The text may be hostile: every number is checked, slots must be declared once and
// before their use, and the finished tape goes through zmi_tape_verify.
#include "tape/tape.h"

#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reader {
  const char *at, *end; // of the whole text
  int line;
  zmi_tape *tape;
  zmi_op_find_fn find;
} reader;

enum { MAX_SLOTS = 1 << 16, MAX_NAME = 4096 };

static zm_status bad(const reader *r, const char *expected) {
  size_t left = (size_t)(r->end - r->at), shown = 0;
  while (shown < left && shown < 24 && r->at[shown] >= 0x20) shown++;
  return zmi_fail(ZM_ERROR_FORMAT, "tape text, line %d: expected %s, found '%.*s'", r->line, expected, (int)shown, r->at);
}

static void blanks(reader *r) {
  while (r->at < r->end && *r->at == ' ') r->at++;
}

static bool take(reader *r, const char *word) {
  blanks(r);
  size_t n = strlen(word);
  if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return false;
  r->at += n;
  return true;
}

static bool end_of_line(reader *r) {
  blanks(r);
  if (r->at == r->end) return true;
  if (*r->at != '\n') return false;
  r->at++;
  r->line++;
  return true;
}

static bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool word(reader *r, char *out, size_t capacity) {
  blanks(r);
  size_t n = 0;
  while (r->at + n < r->end && is_word(r->at[n])) n++;
  if (n == 0 || n >= capacity) return false;
  memcpy(out, r->at, n);
  out[n] = 0;
  r->at += n;
  return true;
}

// A number token of at most 40 characters, copied so that strto* cannot run past the text.
static bool number_token(reader *r, char out[41]) {
  blanks(r);
  size_t n = 0;
  while (r->at + n < r->end && n < 40 && (is_word(r->at[n]) || r->at[n] == '+' || r->at[n] == '-' || r->at[n] == '.')) n++;
  if (n == 0) return false;
  memcpy(out, r->at, n);
  out[n] = 0;
  r->at += n;
  return true;
}

static bool integer(reader *r, int64_t *v) {
  char token[41], *rest;
  const char *start = r->at;
  if (!number_token(r, token)) return false;
  errno = 0;
  *v = strtoll(token, &rest, 10);
  if (errno == 0 && *rest == 0) return true;
  r->at = start;
  return false;
}

// strtod wants the point of the host program's locale where a tape has a full stop.
static bool float_number(reader *r, double *v) {
  char token[41], local[64], *rest;
  if (!number_token(r, token)) return false;
  const char *point = localeconv()->decimal_point, *at = strchr(token, '.');
  if (strlen(point) > sizeof local - sizeof token) return false;
  if (at)
    snprintf(local, sizeof local, "%.*s%s%s", (int)(at - token), token, point, at + 1);
  else
    memcpy(local, token, sizeof token);
  *v = strtod(local, &rest);
  return *rest == 0;
}

static bool size_number(reader *r, size_t *v) {
  int64_t n;
  if (!integer(r, &n) || n < 0) return false;
  *v = (size_t)n;
  return true;
}

static bool list(reader *r, int64_t *values, int *n) {
  *n = 0;
  if (!take(r, "[")) return false;
  if (take(r, "]")) return true;
  do {
    if (*n == ZM_MAX_RANK || !integer(r, &values[*n])) return false;
    ++*n;
  } while (take(r, ","));
  return take(r, "]");
}

static bool type(reader *r, zmi_type *t) {
  char name[16];
  memset(t, 0, sizeof *t);
  size_t bytes;
  if (!word(r, name, sizeof name)) return false;
  t->dtype = zm_dtype_from_name(name);
  return t->dtype != ZM_DTYPE_DEFAULT && list(r, t->shape, &t->rank) && zmi_type_bytes(t, &bytes);
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

static bool quoted(reader *r, char out[MAX_NAME]) {
  if (!take(r, "\"")) return false;
  size_t n = 0;
  while (r->at < r->end && *r->at != '"' && *r->at != '\n' && n < MAX_NAME - 1) {
    char c = *r->at++;
    if (c == '\\') {
      if (r->end - r->at < 3 || r->at[0] != 'x' || hex_digit(r->at[1]) < 0 || hex_digit(r->at[2]) < 0) return false;
      c = (char)(hex_digit(r->at[1]) * 16 + hex_digit(r->at[2]));
      if (c == 0) return false;
      r->at += 3;
    }
    out[n++] = c;
  }
  out[n] = 0;
  return take(r, "\"");
}

// Slots are declared in any order; numbers not seen yet are holes with kind -1 until their line comes.
static zm_status declare(reader *r, int64_t index, const zmi_slot *slot) {
  zmi_tape *t = r->tape;
  if (index < 0 || index >= MAX_SLOTS)
    return zmi_fail(ZM_ERROR_FORMAT, "tape text, line %d: slot number %" PRId64 " is out of range", r->line, index);
  while (t->slot_count <= (size_t)index) {
    zmi_slot hole = {.kind = (zmi_slot_kind)-1, .base = -1};
    if (zmi_tape_add_slot(t, &hole) < 0) return ZM_ERROR_MEMORY;
  }
  if ((int)t->slots[index].kind != -1)
    return zmi_fail(ZM_ERROR_FORMAT, "tape text, line %d: slot %%%" PRId64 " is declared twice", r->line, index);
  zmi_slot s = *slot;
  if (s.name && !(s.name = zmi_tape_string(t, s.name))) return ZM_ERROR_MEMORY;
  if (s.kind != ZMI_SLOT_VIEW) {
    s.base = -1;
    zmi_type_bytes(&s.type, &s.bytes); // checked when the type was read
    zmi_slot_set_contiguous(&s);
  }
  t->slots[index] = s;
  return ZM_OK;
}

static bool known(const reader *r, int64_t index) {
  return index >= 0 && (size_t)index < r->tape->slot_count && (int)r->tape->slots[index].kind != -1;
}

static zm_status view_line(reader *r, int64_t index) {
  zmi_slot s = {.kind = ZMI_SLOT_VIEW};
  int64_t base, stride[ZM_MAX_RANK];
  int n;
  if (!type(r, &s.type)) return bad(r, "a type");
  if (!take(r, "of") || !take(r, "%") || !integer(r, &base)) return bad(r, "'of %N'");
  if (!known(r, base)) return zmi_fail(ZM_ERROR_FORMAT, "tape text, line %d: view of undeclared slot %%%" PRId64, r->line, base);
  if (!take(r, "stride") || !list(r, stride, &n) || n != s.type.rank) return bad(r, "'stride [..]' with one entry a dimension");
  if (!take(r, "shift") || !integer(r, &s.shift)) return bad(r, "'shift N'");
  memcpy(s.stride, stride, sizeof(int64_t) * (size_t)n);
  s.base = (int)base;
  return declare(r, index, &s);
}

static zm_status leaf_line(reader *r, int64_t index, zmi_slot_kind kind) {
  zmi_slot s = {.kind = kind};
  char name[MAX_NAME];
  if (!type(r, &s.type)) return bad(r, "a type");
  if (!quoted(r, name)) return bad(r, "a name in quotes");
  s.name = name;
  return declare(r, index, &s);
}

static zm_status attribute(reader *r, zmi_instr *in) {
  char name[64], value[64];
  if (!word(r, name, sizeof name) || !take(r, "=")) return bad(r, "an attribute 'name=value'");
  const zmi_field *f = in->op->fields;
  while (f && f->name && strcmp(f->name, name) != 0) f++;
  if (!f || !f->name) return zmi_fail(ZM_ERROR_FORMAT, "tape text, line %d: op %s has no attribute %s", r->line, in->op->name, name);
  if (f->kind == ZMI_FIELD_FLOAT) {
    double v;
    if (!float_number(r, &v)) return bad(r, "a number");
    memcpy(in->attrs.bytes + f->offset, &v, sizeof v);
    return ZM_OK;
  }
  int64_t v = 0;
  const char *start = r->at;
  if (!integer(r, &v)) {
    r->at = start;
    if (f->kind != ZMI_FIELD_WORD || !word(r, value, sizeof value)) return bad(r, "an integer");
    v = 0; // integer() leaves what it read of a word that begins with digits
    while (f->words[v] && strcmp(f->words[v], value) != 0) v++;
    if (!f->words[v]) return zmi_fail(ZM_ERROR_FORMAT, "tape text, line %d: %s=%s: unknown word", r->line, name, value);
  }
  memcpy(in->attrs.bytes + f->offset, &v, sizeof v);
  return ZM_OK;
}

static zm_status operands(reader *r, zmi_instr *in) {
  if (!take(r, "(")) return bad(r, "'('");
  if (take(r, ")")) return ZM_OK;
  do {
    int64_t slot = -1;
    if (in->nin == ZMI_MAX_IN) return bad(r, "fewer operands");
    if (!take(r, "-")) {
      if (!take(r, "%") || !integer(r, &slot)) return bad(r, "'%N' or '-'");
      if (!known(r, slot)) return zmi_fail(ZM_ERROR_FORMAT, "tape text, line %d: slot %%%" PRId64 " is not declared", r->line, slot);
    }
    in->in[in->nin++] = (int)slot;
  } while (take(r, ","));
  return take(r, ")") ? ZM_OK : bad(r, "')'");
}

// One result: '%N' for a state updated in place, '%N TYPE @OFFSET ["name"]' for a new slot.
static zm_status result(reader *r, int64_t index, zmi_instr *in) {
  if (in->nout == ZMI_MAX_OUT) return bad(r, "fewer results");
  blanks(r);
  if (r->at < r->end && *r->at != '=' && *r->at != ',') {
    zmi_slot s = {.kind = ZMI_SLOT_TEMP};
    char name[MAX_NAME];
    if (!type(r, &s.type)) return bad(r, "a type");
    s.apart = take(r, "apart");
    if (!s.apart && (!take(r, "@") || !size_number(r, &s.offset))) return bad(r, "'@OFFSET' or 'apart'");
    blanks(r);
    if (r->at < r->end && *r->at == '"') {
      if (!quoted(r, name)) return bad(r, "a name in quotes");
      s.kind = ZMI_SLOT_OUTPUT;
      s.name = name;
    }
    if (s.apart && s.kind != ZMI_SLOT_OUTPUT) return bad(r, "a name in quotes, as only outputs are apart");
    zm_status status = declare(r, index, &s);
    if (status != ZM_OK) return status;
  } else if (!known(r, index)) {
    return zmi_fail(ZM_ERROR_FORMAT, "tape text, line %d: slot %%%" PRId64 " is not declared", r->line, index);
  }
  in->out[in->nout++] = (int)index;
  return ZM_OK;
}

static zm_status find_owner(const reader *r, zmi_instr *in) {
  zmi_type types[ZMI_MAX_IN];
  for (int i = 0; i < in->nin; i++) types[i] = in->in[i] < 0 ? (zmi_type){.rank = -1} : r->tape->slots[in->in[i]].type;
  in->owner = in->op->find_owner(in->op, in->attrs.bytes, in->nin, types);
  return in->owner ? ZM_OK : zmi_fail_within("tape text, line %d (%s)", r->line, in->op->name);
}

static zm_status instr_line(reader *r, int64_t first) {
  zmi_instr in = {0};
  char name[64], label[MAX_NAME];
  zm_status status = result(r, first, &in);
  while (status == ZM_OK && take(r, ",")) {
    int64_t index;
    if (!take(r, "%") || !integer(r, &index)) return bad(r, "'%N'");
    status = result(r, index, &in);
  }
  if (status != ZM_OK) return status;
  if (!take(r, "=") || !word(r, name, sizeof name)) return bad(r, "'= op'");
  in.op = r->find(name);
  if (!in.op) return zmi_fail(ZM_ERROR_FORMAT, "tape text, line %d: unknown op %s", r->line, name);
  status = operands(r, &in);
  if (status == ZM_OK && take(r, "{")) {
    while (status == ZM_OK && !take(r, "}")) status = attribute(r, &in);
  }
  if (status != ZM_OK) return status;
  if (take(r, "scratch") && (!size_number(r, &in.scratch) || !take(r, "@") || !size_number(r, &in.scratch_offset)))
    return bad(r, "'scratch N @OFFSET'");
  blanks(r);
  if (r->at < r->end && *r->at == '"') {
    if (!quoted(r, label)) return bad(r, "a label in quotes");
    in.label = label;
  }
  if (in.op->find_owner && (status = find_owner(r, &in)) != ZM_OK) return status;
  status = zmi_tape_add_instr(r->tape, &in) < 0 ? ZM_ERROR_MEMORY : ZM_OK;
  zmi_owner_release(in.owner); // the tape has one of its own
  return status;
}

static zm_status line(reader *r) {
  int64_t index;
  if (take(r, "arena")) return size_number(r, &r->tape->arena_bytes) ? ZM_OK : bad(r, "'arena BYTES'");
  if (!take(r, "%") || !integer(r, &index)) return bad(r, "'%N' or 'arena'");
  if (take(r, "weight")) return leaf_line(r, index, ZMI_SLOT_WEIGHT);
  if (take(r, "input")) return leaf_line(r, index, ZMI_SLOT_INPUT);
  if (take(r, "state")) return leaf_line(r, index, ZMI_SLOT_STATE);
  if (take(r, "view")) return view_line(r, index);
  return instr_line(r, index);
}

// Places from the text must lie inside the arena: a player would trust them.
static zm_status check_places(const zmi_tape *t) {
  for (size_t i = 0; i < t->slot_count; i++) {
    const zmi_slot *s = &t->slots[i];
    if ((int)s->kind == -1) return zmi_fail(ZM_ERROR_FORMAT, "tape text: slot %%%zu is not declared", i);
    if ((s->kind != ZMI_SLOT_TEMP && s->kind != ZMI_SLOT_OUTPUT) || s->apart) continue;
    if (s->offset > t->arena_bytes || s->bytes > t->arena_bytes - s->offset || s->offset % 64) {
      return zmi_fail(ZM_ERROR_FORMAT, "tape text: slot %%%zu at %zu with %zu bytes does not fit the arena of %zu", i, s->offset, s->bytes,
                      t->arena_bytes);
    }
  }
  for (size_t i = 0; i < t->instr_count; i++) {
    const zmi_instr *in = &t->instrs[i];
    if (in->scratch &&
        (in->scratch_offset > t->arena_bytes || in->scratch > t->arena_bytes - in->scratch_offset || in->scratch_offset % 64)) {
      return zmi_fail(ZM_ERROR_FORMAT, "tape text: scratch of instruction %zu does not fit the arena of %zu", i, t->arena_bytes);
    }
  }
  return ZM_OK;
}

zmi_tape *zmi_tape_parse(const char *text, size_t size, zmi_op_find_fn find) {
  reader r = {.at = text, .end = text + size, .line = 1, .find = find, .tape = zmi_tape_new()};
  if (!r.tape) return NULL;
  zm_status status = take(&r, "zmlx tape 1") && end_of_line(&r) ? ZM_OK : bad(&r, "'zmlx tape 1'");
  while (status == ZM_OK && r.at < r.end) {
    if (end_of_line(&r)) continue;
    status = line(&r);
    if (status == ZM_OK && !end_of_line(&r)) status = bad(&r, "the end of the line");
  }
  if (status == ZM_OK) status = check_places(r.tape);
  if (status == ZM_OK) status = zmi_tape_verify(r.tape);
  if (status == ZM_OK) return r.tape;
  zmi_tape_free(r.tape);
  return NULL;
}
