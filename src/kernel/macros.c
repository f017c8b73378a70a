// What stands before the grammar: "#define" and "#undef" of names and of calls, replaced in the text of a source; "#include" lines and
// those of "using namespace", which say nothing here. Lines keep their numbers, so that messages find their place: a line with a macro is
// shown as it was read.
#include "kernel/parse.h"

#include <stdio.h>
#include <string.h>

enum { MACROS = 256, OPERANDS = 8, DEPTH = 32 };

typedef struct span {
  const char *at;
  size_t size;
} span;

typedef struct macro {
  span name, body, operand[OPERANDS];
  int operands; // -1: a name
  bool gone, busy;
} macro;

typedef struct macros {
  zmi_parser *p;
  const char *source;
  macro list[MACROS];
  int count, depth;
  zmi_text out;
} macros;

// Of the header that kernels written for ZMLX share: the sum of a threadgroup, in buf[0] afterwards.
static const char *const given = "#define KK_SIMD_REDUCE_SUM(buf, val, tid, TG) "
                                 "{ float kk_sum = simd_sum(val); "
                                 "if ((tid) % 32u == 0u) (buf)[(tid) / 32u] = kk_sum; "
                                 "threadgroup_barrier(mem_flags::mem_threadgroup); "
                                 "if ((TG) > 32u) { "
                                 "for (uint kk_s = ((TG) / 32u) / 2u; kk_s > 0u; kk_s >>= 1u) { "
                                 "if ((tid) < kk_s) (buf)[(tid)] += (buf)[(tid) + kk_s]; "
                                 "threadgroup_barrier(mem_flags::mem_threadgroup); } } }";

static bool starts_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool in_name(char c) {
  return starts_name(c) || (c >= '0' && c <= '9');
}

static bool blank(char c) {
  return c == ' ' || c == '\t' || c == '\r';
}

static bool fail(macros *m, const char *at, size_t size, const char *message) {
  if (m->p->failed) return false;
  m->p->failed = true;
  const size_t begin = (size_t)(at - m->source), whole = strlen(m->source);
  if (at < m->source || begin > whole) {
    zmi_fail(ZM_ERROR_ARGUMENT, "kernel %.64s: %s", m->p->name, message); // in the text of a macro
  } else {
    zmi_show_place(m->p->name, m->source, (uint32_t)whole, (uint32_t)begin, (uint32_t)(begin + size), message);
  }
  return false;
}

static span name_at(const char *s, const char *end) {
  const char *to = s;
  while (to < end && in_name(*to)) to++;
  return (span){s, (size_t)(to - s)};
}

static bool same(span a, span b) {
  return a.size == b.size && memcmp(a.at, b.at, a.size) == 0;
}

static bool is(span a, const char *word) {
  return same(a, (span){word, strlen(word)});
}

static macro *find(macros *m, span name) {
  for (int i = m->count; i-- > 0;)
    if (same(m->list[i].name, name)) return m->list[i].gone ? NULL : &m->list[i];
  return NULL;
}

static void put(macros *m, zmi_text *to, const char *s, size_t size) {
  zmi_text_add_bytes(to, s, size);
  if (to->size > ZMI_SOURCE_LIMIT) fail(m, m->source, 1, "macros make more than 262144 bytes of it");
}

static const char *skip_comment(const char *s, const char *end) { // s if there is none
  if (end - s >= 2 && s[0] == '/' && s[1] == '/') {
    while (s < end && *s != '\n') s++;
  } else if (end - s >= 2 && s[0] == '/' && s[1] == '*') {
    const char *close = s + 2;
    while (close + 1 < end && !(close[0] == '*' && close[1] == '/')) close++;
    s = close + 1 < end ? close + 2 : s; // one that does not end: the lexer says so
  }
  return s;
}

// ---- replacing ----
static bool expand(macros *m, const char *s, const char *end, zmi_text *to);

// Operands of a call, each expanded; s stands behind "(", and then behind ")". Commas in parentheses do not part them.
static bool read_operands(macros *m, const macro *x, const char **s, const char *end, zmi_text *operand, size_t *lines) {
  const char *begin = *s, *at = *s;
  int depth = 0, count = 0;
  for (; at < end; at++) {
    for (const char *over = skip_comment(at, end); at < over; at++) *lines += *at == '\n';
    if (at >= end) break;
    *lines += *at == '\n';
    depth += *at == '(' || *at == '[' || *at == '{';
    const bool closes = *at == ')' && depth == 0;
    if (closes || (*at == ',' && depth == 0)) {
      if (count == OPERANDS) return fail(m, x->name.at, x->name.size, "a macro of more than 8 operands");
      if (!expand(m, begin, at, &operand[count])) return false;
      for (size_t c = 0; c < operand[count].size; c++)
        if (operand[count].data[c] == '\n') operand[count].data[c] = ' ';
      begin = at + 1;
      count++;
    }
    if (closes) break;
    depth -= *at == ')' || *at == ']' || *at == '}';
  }
  if (at >= end) return fail(m, *s - 1, 1, "the operands of this macro have no ')'");
  const bool none = count == 1 && x->operands == 0;
  if (!none && count != x->operands) {
    char message[96];
    snprintf(message, sizeof message, "the macro %.*s takes %d operands, not %d", (int)ZMI_MIN(x->name.size, 40u), x->name.at, x->operands,
             count);
    return fail(m, *s - 1, 1, message);
  }
  *s = at + 1;
  return true;
}

static bool replace(macros *m, macro *x, const zmi_text *operand, zmi_text *to) {
  zmi_text body = {0};
  const char *s = x->body.at, *end = s + x->body.size;
  while (s < end) {
    const char *over = skip_comment(s, end);
    if (over > s || *s == '\\' || *s == '\n') { // a body is one line
      put(m, &body, " ", 1);
      s = over > s ? over : s + 1;
      continue;
    }
    span name = in_name(*s) ? name_at(s, end) : (span){s, 1};
    int o = 0;
    while (o < x->operands && !same(x->operand[o], name)) o++;
    if (x->operands > 0 && o < x->operands && starts_name(*s)) {
      put(m, &body, zmi_text_str(&operand[o]), operand[o].size);
    } else {
      put(m, &body, name.at, name.size);
    }
    s += name.size;
  }
  x->busy = true;
  const char *text = zmi_text_str(&body);
  const bool ok = !body.failed && !m->p->failed && expand(m, text, text + body.size, to);
  x->busy = false;
  zmi_text_release(&body);
  return ok;
}

static bool expand_call(macros *m, macro *x, const char **s, const char *end, zmi_text *to) { // s behind the name
  const char *open = *s;
  size_t lines = 0;
  for (; x->operands >= 0 && open < end && (blank(*open) || *open == '\n'); open++) lines += *open == '\n';
  zmi_text operand[OPERANDS] = {{0}};
  bool ok = true;
  if (x->operands >= 0 && (open >= end || *open != '(')) { // the name alone is none
    put(m, to, x->name.at, x->name.size);
    return true;
  }
  if (x->operands >= 0) {
    *s = open + 1;
    ok = read_operands(m, x, s, end, operand, &lines);
  }
  ok = ok && replace(m, x, operand, to);
  for (; ok && lines > 0; lines--) put(m, to, "\n", 1);
  for (int o = 0; o < OPERANDS; o++) zmi_text_release(&operand[o]);
  return ok;
}

static bool expand(macros *m, const char *s, const char *end, zmi_text *to) {
  if (++m->depth > DEPTH) return fail(m, m->source, 1, "macros in macros are nested deeper than 32");
  while (s < end && !m->p->failed) {
    const char *over = skip_comment(s, end);
    if (over > s) put(m, to, " ", 1);
    for (; s < over; s++)
      if (*s == '\n') put(m, to, "\n", 1);
    if (s >= end) break;
    const span piece = in_name(*s) ? name_at(s, end) : (span){s, 1};
    macro *x = starts_name(*s) ? find(m, piece) : NULL;
    s += piece.size;
    if (!x || x->busy) {
      put(m, to, piece.at, piece.size);
    } else if (!expand_call(m, x, &s, end, to)) {
      break;
    }
  }
  m->depth--;
  return !m->p->failed && !to->failed;
}

// ---- lines that begin with # ----
static const char *skip_blanks(const char *s, const char *end) { // of a line, and of those that it goes on in
  while (s < end && (blank(*s) || *s == '\\' || *s == '\n')) s++;
  return s;
}

static bool define(macros *m, const char *s, const char *end) { // behind "#define"
  macro x = {.operands = -1};
  s = skip_blanks(s, end);
  x.name = name_at(s, end);
  if (x.name.size == 0 || !starts_name(*s)) return fail(m, s, 1, "the name of a macro is expected");
  s += x.name.size;
  if (s < end && *s == '(') {
    x.operands = 0;
    for (s = skip_blanks(s + 1, end); s < end && *s != ')'; s = skip_blanks(s, end)) {
      span o = name_at(s, end);
      if (o.size == 0 || x.operands == OPERANDS) return fail(m, s, 1, "the names of up to 8 operands, and ')', are expected");
      x.operand[x.operands++] = o;
      s = skip_blanks(s + o.size, end);
      if (s < end && *s == ',') s++;
    }
    if (s >= end) return fail(m, x.name.at, x.name.size, "the operands of this macro have no ')'");
    s++;
  }
  x.body = (span){s, (size_t)(end - s)};
  for (const char *c = s; c < end; c++) {
    const char *over = skip_comment(c, end);
    if (over > c)
      c = over - 1;
    else if (*c == '#')
      return fail(m, c, 1, "'#' and '##' in macros are not part of the language");
  }
  if (m->count == MACROS) return fail(m, x.name.at, x.name.size, "more than 256 macros");
  m->list[m->count++] = x;
  return true;
}

// One line that begins with '#', with those it goes on in behind a backslash. Nothing of it stays but the ends of lines.
static bool directive(macros *m, const char **s, const char *end) {
  const char *begin = *s, *to = begin;
  while (to < end && *to != '\n') {
    const char *over = to[0] == '/' && to + 1 < end && to[1] == '*' ? skip_comment(to, end) : to;
    to = over > to ? over : *to == '\\' && to + 1 < end ? to + 2 : to + 1;
  }
  const char *word = skip_blanks(begin + 1, to);
  const span what = name_at(word, to);
  bool ok = true;
  if (is(what, "define")) {
    ok = define(m, word + what.size, to);
  } else if (is(what, "undef")) {
    const char *at = skip_blanks(word + what.size, to);
    macro *x = find(m, name_at(at, to));
    if (x) x->gone = true;
  } else if (!is(what, "include") && !is(what, "pragma")) {
    return fail(m, begin, (size_t)(word - begin) + what.size, "of the lines with '#' there are #define, #undef, #include and #pragma");
  }
  for (const char *c = begin; c < to; c++)
    if (*c == '\n') put(m, &m->out, "\n", 1);
  *s = to;
  return ok;
}

static bool read_lines(macros *m, const char *s, const char *end) {
  bool fresh = true; // nothing but blanks in this line so far
  while (s < end && !m->p->failed) {
    if (fresh && *s == '#') {
      if (!directive(m, &s, end)) return false;
      continue;
    }
    const char *to = s; // up to the end of the line that is followed by one with '#', so that calls may span lines
    bool before = fresh;
    while (to < end && !(before && *to == '#')) {
      const char *over = skip_comment(to, end);
      if (over > to) {
        to = over;
        continue;
      }
      before = *to == '\n' || (before && blank(*to));
      to++;
    }
    if (!expand(m, s, to, &m->out)) return false;
    s = to;
    fresh = true;
  }
  return !m->p->failed;
}

char *zmi_macros(zmi_parser *p, const char *source) {
  const bool shared = strstr(source, "KK_SIMD_");
  if (!strchr(source, '#') && !shared) return zmi_strdup(source);
  macros *m = zmi_calloc(1, sizeof *m);
  if (!m) return NULL;
  *m = (macros){.p = p, .source = source};
  char *result = NULL;
  if ((!shared || define(m, given + strlen("#define"), given + strlen(given))) && read_lines(m, source, source + strlen(source)))
    result = zmi_strdup(zmi_text_str(&m->out));
  zmi_text_release(&m->out);
  zmi_free(m);
  return result;
}
