// Functions that a source defines, as the headers of kernels do: "template <typename T> inline T cube(T x) { return x * x * x; }". A
// definition is only kept in mind; each call parses the body again, with declarations of the operands before it (ZMI_N_INLINE).
#include "kernel/parse.h"

#include <string.h>

static zmi_node *at(zmi_parser *p, int32_t n) {
  return &p->k->nodes[n];
}

static bool is_qualifier(const zmi_parser *p) {
  static const char *const words[] = {"inline", "static", "METAL_FUNC", "const", "constexpr"};
  for (size_t i = 0; i < ZMI_COUNT(words); i++)
    if (zmi_token_is(p, words[i])) return true;
  return false;
}

// ---- definitions ----
bool zmi_function_ahead(const zmi_parser *p) {
  if (p->depth != 1 || p->token.kind != ZMI_T_NAME) return false;
  zmi_parser ahead = *p;
  const bool template = zmi_take(&ahead, "template");
  if (template) return zmi_token_is(&ahead, "<");
  while (is_qualifier(&ahead)) zmi_lex(&ahead);
  if (ahead.token.kind != ZMI_T_NAME) return false;
  const bool nothing = zmi_token_is(&ahead, "void");
  if (!nothing && zmi_type_find(p->source + ahead.token.begin, ahead.token.end - ahead.token.begin) < 0) return false;
  zmi_lex(&ahead);
  if (ahead.token.kind != ZMI_T_NAME) return false;
  zmi_lex(&ahead);
  return zmi_token_is(&ahead, "(");
}

static bool skip_to(zmi_parser *p, const char *open, const char *close) { // behind the one that closes; the opening one was taken
  for (int depth = 1; depth > 0 && !p->failed;) {
    if (p->token.kind == ZMI_T_END) zmi_parse_fail(p, p->token.begin, p->token.end, "'%s' is expected, not the end", close);
    depth += zmi_token_is(p, open);
    depth -= zmi_token_is(p, close);
    zmi_lex(p);
  }
  return !p->failed;
}

void zmi_function_define(zmi_parser *p) {
  zmi_symbol s = {.kind = ZMI_Y_FUNCTION, .known_after = -1, .assigned_in = -1, .index = -1};
  if (zmi_take(p, "template")) {
    if (!zmi_expect(p, "<", "template")) return;
    if (!zmi_take(p, "typename") && !zmi_expect(p, "class", "'template <'")) return;
    s.index = (int32_t)p->token.begin; // the name of the operands' type
    zmi_lex(p);
    if (!zmi_expect(p, ">", "the one type")) return;
  }
  while (is_qualifier(p)) zmi_lex(p);
  const char *type = p->source + p->token.begin;
  const uint32_t size = p->token.end - p->token.begin;
  const int found = zmi_type_find(type, size);
  const bool own = s.index >= 0 && memcmp(p->source + s.index, type, size) == 0;
  if (!own && found < 0) {
    zmi_parse_fail(p, p->token.begin, p->token.end, "a function gives a value: the types are " ZMI_TYPE_WORDS);
    return;
  }
  s.type = own ? 0 : (uint8_t)found;
  zmi_lex(p);
  s.name = p->source + p->token.begin;
  s.size = p->token.end - p->token.begin;
  zmi_lex(p);
  if (!zmi_expect(p, "(", "the name of the function")) return;
  s.number = p->token.begin;
  if (!skip_to(p, "(", ")") || !zmi_expect(p, "{", "the operands") || !skip_to(p, "{", "}")) return;
  zmi_take(p, ";");
  zmi_symbol_add(p, s);
}

// ---- calls ----
typedef struct chain {
  int32_t first, last;
} chain;

static void append(zmi_parser *p, chain *c, int32_t n) {
  if (n < 0) return;
  if (c->first < 0)
    c->first = n;
  else
    at(p, c->last)->next = n;
  for (c->last = n; at(p, c->last)->next >= 0; c->last = at(p, c->last)->next) continue;
}

// A variable without a name, or an operand.
static int32_t variable(zmi_parser *p, chain *c, zmi_symbol s, int32_t value) {
  s.kind = ZMI_Y_LOCAL;
  s.known_after = s.assigned_in = -1;
  s.level = value >= 0 && at(p, value)->element;
  const int32_t n = value < 0 ? -1 : zmi_node_new(p, ZMI_S_DECLARE, at(p, value)->begin), symbol = n < 0 ? -1 : zmi_symbol_add(p, s);
  if (symbol < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->a = value;
  at(p, n)->type = s.type;
  zmi_node_adopt(p, n, value);
  append(p, c, n);
  return symbol;
}

static int32_t read(zmi_parser *p, int32_t symbol, uint32_t begin) {
  const int32_t n = symbol < 0 ? -1 : zmi_node_new(p, ZMI_N_NAME, begin);
  if (n < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->element = p->k->symbols[symbol].level;
  return n;
}

static bool operand(zmi_parser *p, chain *c, const zmi_symbol *f, int32_t value) { // "const T x"
  while (is_qualifier(p) || zmi_token_is(p, "thread")) zmi_lex(p);
  const zmi_token type = p->token;
  const uint32_t size = type.end - type.begin;
  const bool own = f->index >= 0 && memcmp(p->source + f->index, p->source + type.begin, size) == 0;
  const int found = own ? 0 : zmi_type_find(p->source + type.begin, size);
  zmi_lex(p);
  const zmi_token name = p->token;
  if (found < 0 || name.kind != ZMI_T_NAME) {
    zmi_parse_fail(p, type.begin, type.end, "operands of functions are values, as in 'float x': the types are " ZMI_TYPE_WORDS);
    return false;
  }
  zmi_lex(p);
  return variable(p, c, (zmi_symbol){.name = p->source + name.begin, .size = name.end - name.begin, .type = (uint8_t)found}, value) >= 0;
}

static bool leaves_ahead(const zmi_parser *p) { // "if (...) return"
  zmi_parser ahead = *p;
  if (!zmi_take(&ahead, "if") || !zmi_take(&ahead, "(")) return false;
  for (int depth = 1; depth > 0; zmi_lex(&ahead)) {
    if (ahead.token.kind == ZMI_T_END) return false;
    depth += zmi_token_is(&ahead, "(");
    depth -= zmi_token_is(&ahead, ")");
  }
  zmi_take(&ahead, "{");
  return zmi_token_is(&ahead, "return");
}

static int32_t returned(zmi_parser *p) { // "return e;"
  if (!zmi_expect(p, "return", "the statements of a function")) return -1;
  const int32_t e = zmi_parse_expression(p);
  return e >= 0 && zmi_expect(p, ";", "the value") ? e : -1;
}

static int32_t value_of_body(zmi_parser *p, chain *c) { // up to "}"
  while (!p->failed && !zmi_token_is(p, "return")) {
    if (zmi_token_is(p, "}")) {
      zmi_parse_fail(p, p->token.begin, p->token.end, "a function ends with 'return' and its value");
    } else if (!leaves_ahead(p)) {
      append(p, c, zmi_parse_statement(p));
    } else { // what the one gives is computed, and what the others give, and one is chosen
      const uint32_t begin = p->token.begin;
      zmi_take(p, "if");
      zmi_take(p, "(");
      const int32_t condition = variable(p, c, (zmi_symbol){.hidden = true}, zmi_parse_expression(p));
      if (condition < 0 || !zmi_expect(p, ")", "the condition")) return -1;
      const bool brace = zmi_take(p, "{");
      const int32_t one = variable(p, c, (zmi_symbol){.hidden = true}, returned(p));
      if (one < 0 || (brace && !zmi_expect(p, "}", "the value"))) return -1;
      zmi_take(p, "else");
      const bool inner = zmi_take(p, "{"); // of "else { return e; }"
      const int32_t rest = value_of_body(p, c), n = rest < 0 ? -1 : zmi_node_new(p, ZMI_N_CHOICE, begin);
      if (n < 0 || (inner && !zmi_expect(p, "}", "the value"))) return -1;
      at(p, n)->a = read(p, condition, begin);
      at(p, n)->b = read(p, one, begin);
      at(p, n)->c = rest;
      if (p->failed) return -1;
      for (int i = 0; i < 3; i++) zmi_node_adopt(p, n, (&at(p, n)->a)[i]);
      return n;
    }
  }
  return p->failed ? -1 : returned(p);
}

int32_t zmi_function_call(zmi_parser *p, int32_t symbol, const int32_t *list, int n, uint32_t begin) {
  const zmi_symbol f = p->k->symbols[symbol];
  const uint32_t end = p->last_end;
  if (p->inlined > 8) {
    zmi_parse_fail(p, begin, end, "functions nest too deep: none calls itself");
    return -1;
  }
  zmi_parser outer = *p;
  const size_t scope = zmi_scope_open(p);
  chain c = {-1, -1};
  p->at = (uint32_t)f.number;
  p->token = (zmi_token){0};
  p->infer = false;
  p->inlined++;
  p->nested++; // neither reductions nor memory
  p->loop_depth = p->jump_depth = 0;
  zmi_lex(p);
  int count = 0;
  bool ok = true;
  for (; ok && !zmi_token_is(p, ")"); count++) {
    if (count == n) break;
    ok = operand(p, &c, &f, list[count]) && (zmi_token_is(p, ")") || zmi_expect(p, ",", "the operand"));
  }
  int32_t value = -1;
  if (ok && (count != n || !zmi_take(p, ")"))) {
    zmi_parse_fail(p, begin, end, "%.*s does not take %d operand%s", (int)ZMI_MIN(f.size, 40u), f.name, n, n == 1 ? "" : "s");
  } else if (ok && zmi_expect(p, "{", "the operands")) {
    value = value_of_body(p, &c);
    zmi_expect(p, "}", "the value");
  }
  zmi_scope_close(p, scope);
  const int32_t effects = p->effects;
  const bool failed = p->failed;
  *p = outer;
  p->failed = failed;
  p->effects = effects;
  const int32_t whole = value < 0 || failed ? -1 : zmi_node_new(p, ZMI_N_INLINE, begin);
  if (whole < 0) return -1;
  at(p, whole)->first = c.first;
  at(p, whole)->a = value;
  at(p, whole)->op2 = 1;
  for (int32_t d = c.first; d >= 0; d = at(p, d)->next) zmi_node_adopt(p, whole, d);
  zmi_node_adopt(p, whole, value);
  if (f.type == 0) return p->failed ? -1 : whole;
  const int32_t cast = zmi_node_new(p, ZMI_N_CAST, begin);
  if (cast < 0) return -1;
  at(p, cast)->type = f.type;
  at(p, cast)->a = whole;
  zmi_node_adopt(p, cast, whole);
  return p->failed ? -1 : cast;
}
