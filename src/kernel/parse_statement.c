// Statements of the kernel language.
#include "kernel/parse.h"

#include <string.h>

static zmi_node *at(zmi_parser *p, int32_t n) {
  return &p->k->nodes[n];
}

static int32_t tail_of(zmi_parser *p, int32_t n) {
  while (n >= 0 && at(p, n)->next >= 0) n = at(p, n)->next;
  return n;
}

int32_t zmi_parse_statements(zmi_parser *p, const char *closing) {
  int32_t first = -1, last = -1;
  while (!p->failed && !(closing ? zmi_token_is(p, closing) : p->token.kind == ZMI_T_END)) {
    if (p->token.kind == ZMI_T_END) {
      zmi_parse_fail(p, p->token.begin, p->token.end, "'%s' is expected, not the end", closing);
      return -1;
    }
    int32_t s = zmi_parse_statement(p);
    if (s < 0) continue; // nothing, or failed
    if (first < 0) {
      first = s;
    } else {
      at(p, last)->next = s;
    }
    last = tail_of(p, s);
  }
  return first;
}

static void note_assigned(zmi_parser *p, int32_t symbol) {
  zmi_kernel *k = p->k;
  if (!ZMI_GROW(k->assigned, k->assigned_capacity, k->assigned_count + 1)) {
    p->failed = true;
    return;
  }
  k->assigned[k->assigned_count++] = symbol;
}

static int32_t block(zmi_parser *p) { // statements in braces, or one statement
  size_t scope = zmi_scope_open(p);
  int32_t first = -1;
  if (zmi_take(p, "{")) {
    first = zmi_parse_statements(p, "}");
    zmi_expect(p, "}", "the statements");
  } else {
    first = zmi_parse_statement(p);
  }
  zmi_scope_close(p, scope);
  return first;
}

// ---- assignments ----
static void end_statement(zmi_parser *p) {
  if (p->token.kind == ZMI_T_END && !p->failed) return; // the last one may go without
  zmi_expect(p, ";", "the statement");
}

// An expression with reductions in it waits for the end of its block, so nothing else in it may belong to a place.
static bool check_deferred(zmi_parser *p, int32_t e) {
  const zmi_node *n = at(p, e);
  if (!n->reduces || !n->element) return true;
  zmi_parse_fail(p, n->begin, n->end,
                 "this mixes a reduction, known after the block, with values at each place: give the reduction a name first");
  return false;
}

static int32_t declare(zmi_parser *p, int type, zmi_token name, int32_t value) {
  bool rows = p->k->facts.form == ZMI_FORM_ROWS;
  if (value < 0 || !check_deferred(p, value)) return -1;
  int32_t other = zmi_symbol_find(p, p->source + name.begin, name.end - name.begin);
  if (other >= 0 && p->k->symbols[other].kind == ZMI_Y_OUTPUT) {
    zmi_parse_fail(p, name.begin, name.end, "this is a result: assign it without declaring it");
    return -1;
  }
  bool reduces = at(p, value)->reduces;
  zmi_symbol s = {.name = p->source + name.begin, .size = name.end - name.begin, .kind = ZMI_Y_LOCAL, .known_after = -1, .assigned_in = -1};
  s.type = (uint8_t)type;
  s.level = rows && p->within && !reduces && !p->joining;
  if (reduces && p->within) s.known_after = p->within;
  if (type == ZMI_C_INT || type == ZMI_C_UINT || type == ZMI_C_LONG || type == ZMI_C_ULONG) zmi_mark_whole(p, value);
  int32_t n = zmi_node_new(p, ZMI_S_DECLARE, name.begin);
  if (n < 0) return -1;
  at(p, n)->a = value;
  at(p, n)->type = (uint8_t)type;
  at(p, n)->end = p->last_end;
  at(p, n)->deferred = reduces;
  at(p, n)->symbol = zmi_symbol_add(p, s);
  return at(p, n)->symbol < 0 ? -1 : n;
}

static bool may_assign(zmi_parser *p, int32_t symbol, zmi_token name, bool reduces) {
  static const char *const kinds[] = {"an input", "a result", "a parameter", "built in", "a constant", "a variable", "a buffer"};
  zmi_symbol *s = &p->k->symbols[symbol];
  int size = (int)ZMI_MIN(s->size, 40u);
  if (s->kind == ZMI_Y_LOCAL && !s->fixed) {
    if (p->joining && s->level) zmi_parse_fail(p, name.begin, name.end, "a join assigns variables of lanes only");
    return !p->failed;
  }
  if (s->kind != ZMI_Y_OUTPUT || p->k->facts.form >= ZMI_FORM_TILES) {
    zmi_parse_fail(p, name.begin, name.end, "'%.*s' is %s: it cannot be assigned%s", size, s->name,
                   s->fixed ? "a loop's counter" : kinds[s->kind],
                   s->kind == ZMI_Y_INPUT && p->k->facts.form < ZMI_FORM_TILES ? "; 'let' declares a name of your own" : "");
    return false;
  }
  int32_t where = reduces ? 0 : p->within;
  if (p->k->facts.form != ZMI_FORM_ROWS) where = 0;
  if (p->joining) {
    zmi_parse_fail(p, name.begin, name.end, "a join assigns variables of lanes only");
  } else if (s->assigned_in >= 0 && s->assigned_in != where) {
    zmi_parse_fail(p, name.begin, name.end, "the result '%.*s' was assigned in another block", size, s->name);
  }
  s->assigned_in = where;
  s->level = where != 0;
  if (reduces && p->within) s->known_after = p->within;
  return !p->failed;
}

static int32_t assign(zmi_parser *p, int32_t symbol, zmi_token name, int32_t value) {
  if (value < 0 || !check_deferred(p, value)) return -1;
  bool reduces = at(p, value)->reduces;
  if (!may_assign(p, symbol, name, reduces)) return -1;
  zmi_symbol *s = &p->k->symbols[symbol];
  if (s->kind == ZMI_Y_LOCAL && reduces && s->level) {
    zmi_parse_fail(p, name.begin, name.end, "a variable of a place cannot be a reduction, which is known after the block");
    return -1;
  }
  if (s->type >= ZMI_C_INT && s->type <= ZMI_C_ULONG) zmi_mark_whole(p, value);
  int32_t n = zmi_node_new(p, ZMI_S_ASSIGN, name.begin);
  if (n < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->a = value;
  at(p, n)->end = p->last_end;
  at(p, n)->deferred = reduces;
  if (reduces && p->within) {
    s->known_after = p->within;
  } else {
    note_assigned(p, symbol);
  }
  return p->failed ? -1 : n;
}

// The binary operation of "+=" and the like, 0 if the token is none.
static int compound(const zmi_parser *p) {
  static const char *const signs[] = {"+=", "-=", "*=", "/=", "%=", "&=", "|=", "^="};
  for (size_t i = 0; i < ZMI_COUNT(signs); i++) {
    if (zmi_token_is(p, signs[i])) return signs[i][0];
  }
  return zmi_token_is(p, "<<=") ? '<' | '<' << 8 : zmi_token_is(p, ">>=") ? '>' | '>' << 8 : 0;
}

static int32_t name_node(zmi_parser *p, int32_t symbol, zmi_token name) {
  zmi_symbol *s = &p->k->symbols[symbol];
  if (s->known_after >= 0 && s->known_after == p->within) {
    zmi_parse_fail(p, name.begin, name.end, "a reduction of this block is known only after it");
  } else if (s->kind == ZMI_Y_OUTPUT && (s->assigned_in < 0 || p->k->facts.form >= ZMI_FORM_TILES)) {
    zmi_parse_fail(p, name.begin, name.end, "a result is read before it is assigned");
  }
  int32_t n = zmi_node_new(p, ZMI_N_NAME, name.begin);
  if (n < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->element = s->level;
  return n;
}

static int32_t number_node(zmi_parser *p, zmi_ctype type, int whole, uint32_t begin) {
  int32_t n = zmi_node_new(p, ZMI_N_NUMBER, begin);
  if (n < 0) return -1;
  at(p, n)->type = (uint8_t)type;
  at(p, n)->whole = whole;
  return n;
}

static int32_t one_node(zmi_parser *p, uint32_t begin) {
  return number_node(p, ZMI_C_INT, 1, begin);
}

static int32_t store(zmi_parser *p, int32_t symbol, zmi_token name) { // after "["
  const zmi_symbol *s = &p->k->symbols[symbol];
  bool shared = s->kind == ZMI_Y_SHARED;
  if (!shared && (s->kind != ZMI_Y_OUTPUT || p->k->facts.form != ZMI_FORM_TILES)) {
    zmi_parse_fail(p, name.begin, name.end, "'%.*s' cannot be written by place", (int)ZMI_MIN(s->size, 40u), s->name);
    return -1;
  }
  int32_t place = zmi_parse_expression(p);
  zmi_mark_whole(p, place);
  if (place < 0 || !zmi_expect(p, "]", "the place")) return -1;
  int op = compound(p);
  if (op && !shared) {
    zmi_parse_fail(p, p->token.begin, p->token.end, "results can only be written: use atomic_add(y, place, value) to add to one");
    return -1;
  }
  if (op) {
    zmi_lex(p);
  } else if (!zmi_expect(p, "=", "the place")) {
    return -1;
  }
  int32_t value = zmi_parse_expression(p);
  if (value >= 0 && op) {
    int32_t old = zmi_node_new(p, ZMI_N_INDEX, name.begin);
    if (old < 0) return -1;
    at(p, old)->symbol = symbol;
    at(p, old)->a = place;
    at(p, old)->loads = 1;
    zmi_node_adopt(p, old, place);
    value = zmi_binary(p, op, old, value);
  }
  int32_t n = value < 0 ? -1 : zmi_node_new(p, ZMI_S_STORE, name.begin);
  if (n < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->a = place;
  at(p, n)->b = value;
  p->effects++;
  return n;
}

static int32_t assignment(zmi_parser *p) { // name = e, name += e, name++, name[place] = e
  zmi_token name = p->token;
  zmi_lex(p);
  int32_t symbol = zmi_symbol_find(p, p->source + name.begin, name.end - name.begin);
  if (zmi_token_is(p, "[")) {
    if (symbol < 0) {
      zmi_unknown_name(p, name.begin, name.end, false);
      return -1;
    }
    zmi_lex(p);
    return store(p, symbol, name);
  }
  if (zmi_take(p, "=")) {
    int32_t value = zmi_parse_expression(p);
    return symbol < 0 ? declare(p, 0, name, value) : assign(p, symbol, name, value);
  }
  int op = compound(p), step = zmi_token_is(p, "++") ? '+' : zmi_token_is(p, "--") ? '-' : 0;
  if (!op && !step) {
    if (symbol < 0 && zmi_token_is(p, "(")) {
      zmi_unknown_name(p, name.begin, name.end, true);
    } else if (symbol < 0 && p->token.kind == ZMI_T_NAME) {
      zmi_parse_fail(p, name.begin, name.end, "unknown type '%.*s', or an operator is missing behind it: the types are " ZMI_TYPE_WORDS,
                     (int)ZMI_MIN(name.end - name.begin, 60u), p->source + name.begin);
    } else {
      zmi_parse_fail(p, p->token.begin, p->token.end, "'=' is expected after the name of what is assigned");
    }
    return -1;
  }
  if (symbol < 0) {
    zmi_unknown_name(p, name.begin, name.end, false);
    return -1;
  }
  zmi_lex(p);
  int32_t old = name_node(p, symbol, name), by = step ? one_node(p, name.begin) : zmi_parse_expression(p);
  return assign(p, symbol, name, zmi_binary(p, step ? step : op, old, by));
}

// ---- declarations ----
static int32_t declarations(zmi_parser *p, int type) { // name = e, name = e
  int32_t first = -1, last = -1;
  do {
    zmi_token name = p->token;
    if (name.kind != ZMI_T_NAME) {
      zmi_parse_fail(p, name.begin, name.end, "the name of a variable is expected");
      return -1;
    }
    zmi_lex(p);
    const bool unset = type > 0 && (zmi_token_is(p, ";") || zmi_token_is(p, ",")); // zero
    if (zmi_token_is(p, "[")) {
      if (type <= 0) zmi_parse_fail(p, name.begin, p->token.end, "an array has a written type, as in 'float name[8];'");
    } else if (!unset && !zmi_expect(p, "=", "the name of a new variable")) {
      return -1;
    }
    if (p->failed) return -1;
    int32_t n = zmi_token_is(p, "[") ? zmi_thread_array(p, type, name)
                : unset              ? declare(p, type, name, number_node(p, zmi_written_type(type), 0, name.begin))
                                     : declare(p, type, name, zmi_parse_expression(p));
    if (n < 0) return -1;
    if (first < 0) {
      first = n;
    } else {
      at(p, last)->next = n;
    }
    last = n;
  } while (zmi_take(p, ","));
  return first;
}

static int written_type(zmi_parser *p) { // takes a type; -1 with a message if there is none
  int type = p->token.kind == ZMI_T_NAME ? zmi_type_find(p->source + p->token.begin, p->token.end - p->token.begin) : -1;
  if (type < 0) {
    zmi_parse_fail(p, p->token.begin, p->token.end, "a type is expected: " ZMI_TYPE_WORDS);
    return -1;
  }
  zmi_lex(p);
  return type;
}

static int32_t shared(zmi_parser *p) { // float name[elements]
  if (p->k->facts.form != ZMI_FORM_TILES || p->nested) {
    zmi_parse_fail(p, p->token.begin, p->token.end, "memory of the threadgroup is declared outside of loops and branches, in tiles");
    return -1;
  }
  int type = written_type(p);
  zmi_token name = p->token;
  if (type < 0) return -1;
  if (name.kind != ZMI_T_NAME) {
    zmi_parse_fail(p, name.begin, name.end, "the name of a buffer is expected");
    return -1;
  }
  zmi_lex(p);
  if (!zmi_expect(p, "[", "the name of the buffer")) return -1;
  int32_t count = zmi_parse_expression(p);
  if (count < 0 || !zmi_expect(p, "]", "the number of elements")) return -1;
  zmi_symbol s = {
      .name = p->source + name.begin, .size = name.end - name.begin, .kind = ZMI_Y_SHARED, .type = (uint8_t)type, .known_after = -1};
  int32_t symbol = zmi_symbol_add(p, s), n = zmi_node_new(p, ZMI_S_SHARED, name.begin);
  if (n < 0 || symbol < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->type = (uint8_t)type;
  at(p, n)->a = count;
  p->effects++;
  return n;
}

// ---- loops and branches ----
// The step of a loop: name += e, ++name, name = name + e, name >>= 1, ...
static bool loop_step(zmi_parser *p, zmi_token name, int32_t symbol, int *op, int32_t *by) {
  bool before = zmi_token_is(p, "++") || zmi_token_is(p, "--");
  int sign = before ? p->token.sign & 0xff : 0;
  if (before) zmi_lex(p);
  zmi_token again = p->token;
  bool same = again.kind == ZMI_T_NAME && again.end - again.begin == name.end - name.begin &&
              memcmp(p->source + again.begin, p->source + name.begin, name.end - name.begin) == 0;
  if (!same) {
    zmi_parse_fail(p, again.begin, again.end, "a loop's last part changes its counter, as in 'i += 1'");
    return false;
  }
  zmi_lex(p);
  if (before || zmi_token_is(p, "++") || zmi_token_is(p, "--")) {
    *op = before ? sign : p->token.sign & 0xff;
    if (!before) zmi_lex(p);
    *by = one_node(p, again.begin);
    return *by >= 0;
  }
  *op = compound(p);
  if (*op) {
    zmi_lex(p);
    *by = zmi_parse_expression(p);
  } else if (zmi_expect(p, "=", "the counter")) {
    int32_t e = zmi_parse_expression(p); // name + e
    const zmi_node *n = e >= 0 ? at(p, e) : NULL;
    if (n && n->kind == ZMI_N_BINARY && at(p, n->a)->kind == ZMI_N_NAME && at(p, n->a)->symbol == symbol) {
      *op = n->op;
      *by = n->b;
    }
  }
  bool known = *op && *by >= 0 && (strchr("+-*/", *op & 0xff) || *op == ('<' | '<' << 8) || *op == ('>' | '>' << 8));
  if (!known) zmi_parse_fail(p, again.begin, p->last_end, "a loop's counter changes by + - * / << or >>");
  zmi_mark_whole(p, *by);
  return known && !p->failed;
}

static int32_t loop(zmi_parser *p, uint32_t begin) { // after "for"
  size_t scope = zmi_scope_open(p);
  if (!zmi_expect(p, "(", "for")) return -1;
  int type = ZMI_C_INT;
  if (!zmi_take(p, "let") && !zmi_take(p, "auto") && p->token.kind == ZMI_T_NAME) {
    int written = zmi_type_find(p->source + p->token.begin, p->token.end - p->token.begin);
    if (written >= 0) {
      if (written != ZMI_C_INT && written != ZMI_C_UINT) {
        zmi_parse_fail(p, p->token.begin, p->token.end, "a loop's counter is int or uint");
      }
      type = written;
      zmi_lex(p);
    }
  }
  zmi_token name = p->token;
  if (name.kind != ZMI_T_NAME) zmi_parse_fail(p, name.begin, name.end, "the name of a counter is expected");
  zmi_lex(p);
  if (!zmi_expect(p, "=", "the counter")) return -1;
  int32_t first = zmi_parse_expression(p);
  zmi_mark_whole(p, first);
  if (first < 0 || !zmi_expect(p, ";", "the first value")) return -1;
  bool element = p->k->facts.form == ZMI_FORM_ROWS && p->within && !p->joining;
  zmi_symbol s = {.name = p->source + name.begin, .size = name.end - name.begin, .kind = ZMI_Y_LOCAL, .type = (uint8_t)type, .fixed = true};
  s.level = element;
  s.known_after = -1;
  int32_t symbol = zmi_symbol_add(p, s), condition = symbol < 0 ? -1 : zmi_parse_expression(p);
  if (condition < 0) return -1;
  const zmi_node *c = at(p, condition);
  bool compares = c->kind == ZMI_N_BINARY && at(p, c->a)->kind == ZMI_N_NAME && at(p, c->a)->symbol == symbol &&
                  (c->op == '<' || c->op == '>' || c->op == ('<' | '=' << 8) || c->op == ('>' | '=' << 8));
  int comparison = c->op, op = 0;
  int32_t bound = c->b, by = -1;
  if (!compares) {
    zmi_parse_fail(p, c->begin, c->end, "a loop is bounded: its condition is 'counter < bound' (or <=, >, >=)");
    return -1;
  }
  zmi_mark_whole(p, bound);
  if (!zmi_expect(p, ";", "the condition") || !loop_step(p, name, symbol, &op, &by) || !zmi_expect(p, ")", "the step")) return -1;
  int32_t n = zmi_node_new(p, ZMI_S_FOR, begin);
  if (n < 0) return -1;
  size_t from = p->k->assigned_count;
  const int around = p->loop_depth;
  p->loop_depth = zmi_token_is(p, "{") ? p->depth + 1 : 0;
  p->nested++;
  p->effects++;
  int32_t body = block(p);
  p->nested--;
  p->loop_depth = around;
  zmi_scope_close(p, scope);
  zmi_node *f = at(p, n);
  f->symbol = symbol;
  f->a = first, f->b = bound, f->c = by;
  f->op = comparison, f->op2 = op & 0xff;
  f->first = body;
  f->type = (uint8_t)type;
  f->assigned_from = (int32_t)from, f->assigned_to = (int32_t)p->k->assigned_count;
  return n;
}

// A jump behind a condition that guards all that follows: the rest is the other branch. "return;" outermost in tiles, "continue;" directly
// in the braces of a loop. Takes it; NULL, or how the statements end that are left out.
static const char *leaves_here(zmi_parser *p) {
  const bool ends = p->k->facts.form == ZMI_FORM_TILES && p->depth == 1 + p->left;
  if (!ends && p->depth != p->loop_depth) return NULL;
  zmi_parser ahead = *p;
  const bool brace = zmi_take(&ahead, "{");
  if (!zmi_take(&ahead, ends ? "return" : "continue") || !zmi_take(&ahead, ";") || (brace && !zmi_take(&ahead, "}")) ||
      zmi_token_is(&ahead, "else"))
    return NULL;
  ahead.failed = p->failed;
  *p = ahead;
  return ends ? "" : "}";
}

static int32_t rest(zmi_parser *p, const char *end) {
  size_t scope = zmi_scope_open(p);
  int *depth = *end ? &p->loop_depth : &p->left; // the statements of the rest are inside one more
  (*depth)++;
  int32_t first = zmi_parse_statements(p, *end ? end : NULL);
  (*depth)--;
  zmi_scope_close(p, scope);
  return first;
}

static int32_t branch(zmi_parser *p, uint32_t begin) { // after "if"
  if (!zmi_expect(p, "(", "if")) return -1;
  int32_t condition = zmi_parse_expression(p);
  if (condition < 0 || !zmi_expect(p, ")", "the condition")) return -1;
  int32_t n = zmi_node_new(p, ZMI_S_IF, begin);
  if (n < 0) return -1;
  if (at(p, condition)->reduces) {
    zmi_parse_fail(p, at(p, condition)->begin, at(p, condition)->end, "give the reduction a name before the branch");
  }
  size_t from = p->k->assigned_count;
  int effects = p->effects;
  const char *leaves = leaves_here(p);
  p->nested++;
  int32_t yes = leaves ? -1 : block(p), no = -1;
  if (leaves)
    no = rest(p, leaves);
  else if (zmi_take(p, "else"))
    no = block(p);
  p->nested--;
  zmi_node *f = at(p, n);
  f->a = condition;
  f->first = yes, f->second = no;
  f->simple = effects == p->effects;
  f->assigned_from = (int32_t)from, f->assigned_to = (int32_t)p->k->assigned_count;
  return n;
}

static int32_t elements(zmi_parser *p, uint32_t begin) { // after "elements"
  bool falling = zmi_take(p, "reverse");
  if (p->k->facts.form != ZMI_FORM_ROWS || p->within || p->nested || p->joining) {
    zmi_parse_fail(p, begin, p->last_end, "a block of elements stands at the outermost level of rows");
    return -1;
  }
  if (!zmi_expect(p, "{", "elements")) return -1;
  int32_t n = zmi_node_new(p, ZMI_S_ELEMENTS, begin);
  if (n < 0) return -1;
  size_t scope = zmi_scope_open(p), from = p->k->assigned_count;
  p->within = n + 1;
  int32_t body = zmi_parse_statements(p, "}");
  zmi_expect(p, "}", "the block");
  p->within = 0;
  zmi_scope_close(p, scope);
  int32_t join = -1;
  bool joined = zmi_take(p, "join");
  if (joined) {
    scope = zmi_scope_open(p);
    p->joining = true;
    if (zmi_expect(p, "{", "join")) join = zmi_parse_statements(p, "}");
    zmi_expect(p, "}", "the join");
    p->joining = false;
    zmi_scope_close(p, scope);
    if (falling) zmi_parse_fail(p, begin, p->last_end, "lanes are joined where places rise");
  }
  zmi_node *f = at(p, n);
  f->first = body, f->second = join;
  f->op = falling;
  f->c = joined ? 1 : -1;
  f->assigned_from = (int32_t)from, f->assigned_to = (int32_t)p->k->assigned_count;
  return n;
}

// ---- tiles ----
static int32_t barrier(zmi_parser *p, uint32_t begin) { // after its name
  if (!zmi_expect(p, "(", "the barrier")) return -1;
  while (p->token.kind == ZMI_T_NAME || zmi_token_is(p, "|")) zmi_lex(p); // which memory: all of it here
  if (!zmi_expect(p, ")", "the barrier")) return -1;
  p->effects++;
  return zmi_node_new(p, ZMI_S_BARRIER, begin);
}

static int32_t atomic(zmi_parser *p,
                      uint32_t begin) { // after atomic_add or atomic_fetch_add_explicit: (y, place, e) or (&y[place], e, order)
  if (!zmi_expect(p, "(", "the operation")) return -1;
  zmi_take(p, "&");
  zmi_token name = p->token;
  int32_t symbol = name.kind == ZMI_T_NAME ? zmi_symbol_find(p, p->source + name.begin, name.end - name.begin) : -1;
  if (symbol < 0 || p->k->symbols[symbol].kind != ZMI_Y_OUTPUT) {
    zmi_parse_fail(p, name.begin, name.end, "the name of a result is expected");
    return -1;
  }
  zmi_lex(p);
  bool brackets = zmi_take(p, "[");
  if (!brackets && !zmi_expect(p, ",", "the result")) return -1;
  int32_t place = zmi_parse_expression(p);
  zmi_mark_whole(p, place);
  if (place < 0 || (brackets && !zmi_expect(p, "]", "the place")) || !zmi_expect(p, ",", "the place")) return -1;
  int32_t value = zmi_parse_expression(p);
  if (value >= 0 && zmi_take(p, ",")) zmi_lex(p); // memory_order_relaxed
  if (value < 0 || !zmi_expect(p, ")", "the value")) return -1;
  int32_t n = zmi_node_new(p, ZMI_S_ATOMIC, begin);
  if (n < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->a = place;
  at(p, n)->b = value;
  p->effects++;
  return n;
}

static bool declares(zmi_parser *p, int *type) { // takes the words before a declaration's name
  bool word = false;
  while (zmi_token_is(p, "const") || zmi_token_is(p, "constexpr") || zmi_token_is(p, "let") || zmi_token_is(p, "auto")) {
    word = true;
    zmi_lex(p);
  }
  *type = 0;
  int written = p->token.kind == ZMI_T_NAME ? zmi_type_find(p->source + p->token.begin, p->token.end - p->token.begin) : -1;
  if (written < 0) return word;
  *type = written;
  zmi_lex(p);
  return true;
}

static int32_t inner_statement(zmi_parser *p) {
  uint32_t begin = p->token.begin;
  bool tiles = p->k->facts.form == ZMI_FORM_TILES;
  int type;
  if (zmi_take(p, ";")) return -1;
  if (zmi_token_is(p, "{")) return block(p);
  if (zmi_take(p, "for")) return loop(p, begin);
  if (zmi_take(p, "if")) return branch(p, begin);
  int32_t n = -1;
  if (tiles && zmi_token_is(p, "thread")) { // where a variable lies: "thread float v[4];"
    zmi_parser ahead = *p;
    zmi_lex(&ahead);
    if (ahead.token.kind == ZMI_T_NAME) *p = ahead;
  }
  if (p->token.kind == ZMI_T_NAME && zmi_is_other_word(p->source + p->token.begin, p->token.end - p->token.begin)) {
    zmi_unknown_word(p, p->token.begin, p->token.end);
    return -1;
  }
  bool named = p->token.kind == ZMI_T_NAME && zmi_symbol_find(p, p->source + p->token.begin, p->token.end - p->token.begin) >= 0;
  if (!named && zmi_take(p, "elements")) return elements(p, begin);
  if (tiles && !named && (zmi_take(p, "barrier") || zmi_take(p, "threadgroup_barrier") || zmi_take(p, "simdgroup_barrier"))) {
    n = barrier(p, begin);
  } else if (tiles && !named && (zmi_take(p, "atomic_add") || zmi_take(p, "atomic_fetch_add_explicit"))) {
    n = atomic(p, begin);
  } else if (!named && (zmi_take(p, "shared") || zmi_take(p, "threadgroup"))) {
    n = shared(p);
  } else if (!named && declares(p, &type)) {
    n = declarations(p, type);
  } else if (zmi_token_is(p, "++") || zmi_token_is(p, "--")) {
    int sign = p->token.sign & 0xff;
    zmi_lex(p);
    zmi_token name = p->token;
    int32_t symbol = name.kind == ZMI_T_NAME ? zmi_symbol_find(p, p->source + name.begin, name.end - name.begin) : -1;
    if (symbol < 0) {
      zmi_parse_fail(p, name.begin, name.end, "the name of a variable is expected");
      return -1;
    }
    zmi_lex(p);
    int32_t old = name_node(p, symbol, name), one = one_node(p, begin);
    n = assign(p, symbol, name, zmi_binary(p, sign, old, one));
  } else if (p->token.kind == ZMI_T_NAME) {
    n = assignment(p);
  } else {
    zmi_parse_fail(p, p->token.begin, p->token.end, "a statement is expected");
  }
  if (n >= 0) end_statement(p);
  return n;
}

int32_t zmi_parse_statement(zmi_parser *p) {
  if (p->depth >= ZMI_TREE_DEPTH) zmi_parse_fail(p, p->token.begin, p->token.end, ZMI_TOO_DEEP, ZMI_TREE_DEPTH);
  if (p->failed) return -1;
  p->depth++;
  int32_t n = inner_statement(p);
  p->depth--;
  return p->failed ? -1 : n;
}
