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
    if (p->jumped) zmi_parse_fail(p, p->token.begin, p->token.end, "what stands behind a jump is never reached");
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
  static const char *const kinds[] = {"an input",   "a result",   "a parameter", "built in",
                                      "a constant", "a variable", "a buffer",    "a function"};
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

static int32_t store(zmi_parser *p, int32_t symbol, zmi_token name, bool single) { // after "["; single: there is none
  const zmi_symbol *s = &p->k->symbols[symbol];
  bool shared = s->kind == ZMI_Y_SHARED;
  if (!shared && (s->kind != ZMI_Y_OUTPUT || p->k->facts.form != ZMI_FORM_TILES)) {
    zmi_parse_fail(p, name.begin, name.end, "'%.*s' cannot be written by place", (int)ZMI_MIN(s->size, 40u), s->name);
    return -1;
  }
  int32_t place = single ? number_node(p, ZMI_C_INT, 0, name.begin) : zmi_parse_expression(p);
  zmi_mark_whole(p, place);
  if (place < 0 || (!single && !zmi_expect(p, "]", "the place"))) return -1;
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

static int32_t assignment(zmi_parser *p) {   // name = e, name += e, name++, name[place] = e
  const bool parenthesis = zmi_take(p, "("); // (name)[place] = e, as macros have it
  zmi_token name = p->token;
  zmi_lex(p);
  if (parenthesis) zmi_take(p, ")");
  int32_t symbol = zmi_symbol_find(p, p->source + name.begin, name.end - name.begin);
  if (zmi_token_is(p, "[")) {
    if (symbol < 0) {
      zmi_unknown_name(p, name.begin, name.end, false);
      return -1;
    }
    zmi_lex(p);
    return store(p, symbol, name, false);
  }
  if (symbol >= 0 && p->k->symbols[symbol].single) return store(p, symbol, name, true);
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

static int32_t counted(zmi_parser *p) { // ++name
  const uint32_t begin = p->token.begin;
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
  return assign(p, symbol, name, zmi_binary(p, sign, old, one));
}

static int32_t step_of_another(zmi_parser *p) {
  if (p->token.kind == ZMI_T_NAME) return assignment(p);
  if (zmi_token_is(p, "++") || zmi_token_is(p, "--")) return counted(p);
  zmi_parse_fail(p, p->token.begin, p->token.end, "the step of a variable is expected");
  return -1;
}

static int32_t chained(zmi_parser *p, int32_t first, int32_t then) {
  if (first >= 0 && then >= 0) at(p, tail_of(p, first))->next = then;
  return first < 0 ? then : first;
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
    last = tail_of(p, n);
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

static int32_t shared_memory(zmi_parser *p, int type) { // name[elements], or a name alone: one element
  zmi_token name = p->token;
  if (name.kind != ZMI_T_NAME) {
    zmi_parse_fail(p, name.begin, name.end, "the name of a buffer is expected");
    return -1;
  }
  zmi_lex(p);
  const bool single = zmi_token_is(p, ";") || zmi_token_is(p, ",");
  if (!single && !zmi_expect(p, "[", "the name of the buffer")) return -1;
  int32_t count = single ? one_node(p, name.begin) : zmi_parse_expression(p);
  if (count < 0 || (!single && !zmi_expect(p, "]", "the number of elements"))) return -1;
  zmi_symbol s = {.name = p->source + name.begin, .size = name.end - name.begin, .kind = ZMI_Y_SHARED, .type = (uint8_t)type};
  s.known_after = -1;
  s.single = single;
  int32_t symbol = zmi_symbol_add(p, s), n = zmi_node_new(p, ZMI_S_SHARED, name.begin);
  if (n < 0 || symbol < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->type = (uint8_t)type;
  at(p, n)->a = count;
  p->effects++;
  return n;
}

static int32_t shared(zmi_parser *p) { // float name[elements], other[elements]
  if (p->k->facts.form != ZMI_FORM_TILES || p->nested) {
    zmi_parse_fail(p, p->token.begin, p->token.end, "memory of the threadgroup is declared outside of loops and branches, in tiles");
    return -1;
  }
  int type = written_type(p);
  int32_t first = type < 0 ? -1 : shared_memory(p, type);
  while (first >= 0 && zmi_take(p, ",")) {
    int32_t more = shared_memory(p, type);
    if (more < 0) return -1;
    at(p, tail_of(p, first))->next = more;
  }
  return first;
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

// The counter of a loop may be a variable of outside, which has its last value afterwards, as in "for (; place > 0; --place)". It counts
// beside one that nobody sees.
typedef struct loop_counter {
  int type;
  zmi_token name;
  int32_t variable, symbol;     // of outside, or -1; the counter
  int32_t first, before, after; // its first value; statements in front of the loop and behind each round
} loop_counter;

static bool counts_outside(zmi_parser *p, loop_counter *c, bool assigned) {
  c->variable = -1;
  const int32_t found = zmi_symbol_find(p, p->source + c->name.begin, c->name.end - c->name.begin);
  const bool local = found >= 0 && p->k->symbols[found].kind == ZMI_Y_LOCAL;
  if (assigned && !local) return true; // a counter of its own
  if (found < 0) {
    zmi_unknown_name(p, c->name.begin, c->name.end, false);
    return false;
  }
  c->variable = found;
  c->type = p->k->symbols[found].type;
  if (local && (c->type == ZMI_C_INT || c->type == ZMI_C_UINT)) return true;
  zmi_parse_fail(p, c->name.begin, c->name.end, "a loop's counter is declared as int or uint");
  return false;
}

static int32_t counter_symbol(zmi_parser *p, const loop_counter *c) {
  zmi_symbol s = {.name = p->source + c->name.begin, .size = c->name.end - c->name.begin, .kind = ZMI_Y_LOCAL, .fixed = true};
  s.type = (uint8_t)c->type;
  s.level = p->k->facts.form == ZMI_FORM_ROWS && p->within && !p->joining;
  s.known_after = -1;
  if (c->variable >= 0) s.name = "", s.size = 0, s.hidden = true;
  return zmi_symbol_add(p, s);
}

static bool loop_counter_read(zmi_parser *p, loop_counter *c) { // after "(", up to the first ";"
  *c = (loop_counter){.type = ZMI_C_INT, .variable = -1, .symbol = -1, .first = -1, .before = -1, .after = -1};
  bool declared = zmi_take(p, "let") || zmi_take(p, "auto");
  const bool without = !declared && zmi_take(p, ";");
  const int written =
      declared || without || p->token.kind != ZMI_T_NAME ? -1 : zmi_type_find(p->source + p->token.begin, p->token.end - p->token.begin);
  if (written >= 0) {
    if (written != ZMI_C_INT && written != ZMI_C_UINT) zmi_parse_fail(p, p->token.begin, p->token.end, "a loop's counter is int or uint");
    c->type = written;
    declared = true;
    zmi_lex(p);
  }
  c->name = p->token;
  if (c->name.kind != ZMI_T_NAME) zmi_parse_fail(p, c->name.begin, c->name.end, "the name of a counter is expected");
  if (p->failed || (!declared && !counts_outside(p, c, !without))) return false;
  if (!without) {
    zmi_lex(p);
    if (!zmi_expect(p, "=", "the counter")) return false;
    c->first = zmi_parse_expression(p);
    zmi_mark_whole(p, c->first);
    if (c->first >= 0 && c->variable >= 0) c->before = assign(p, c->variable, c->name, c->first);
    if (c->first >= 0 && zmi_take(p, ",")) c->before = chained(p, c->before, declarations(p, c->type));
    if (p->failed || !zmi_expect(p, ";", "the first value")) return false;
  }
  if (c->variable >= 0) c->first = name_node(p, c->variable, c->name);
  c->symbol = counter_symbol(p, c);
  return c->symbol >= 0 && !p->failed;
}

static void count_outside(zmi_parser *p, loop_counter *c, int op, int32_t by) { // the variable, behind each round
  if (c->variable < 0) return;
  if (at(p, by)->kind != ZMI_N_NUMBER || at(p, by)->whole < 1) {
    zmi_parse_fail(p, at(p, by)->begin, p->last_end, "the step of a counter of outside is a positive number");
    return;
  }
  const int32_t old = name_node(p, c->variable, c->name);
  c->after = old < 0 ? -1 : assign(p, c->variable, c->name, zmi_binary(p, op, old, by));
}

// "break": a variable says that the loop is over, and what is left of its rounds does nothing.
static int32_t leave_loop(zmi_parser *p, uint32_t begin) {
  if (p->over < 0) {
    zmi_symbol s = {.name = "", .kind = ZMI_Y_LOCAL, .type = ZMI_C_INT, .known_after = -1, .assigned_in = -1, .hidden = true};
    s.level = p->k->facts.form == ZMI_FORM_ROWS && p->within && !p->joining;
    p->over = zmi_symbol_add(p, s);
  }
  int32_t one = one_node(p, begin), n = p->over < 0 || one < 0 ? -1 : zmi_node_new(p, ZMI_S_ASSIGN, begin);
  if (n < 0) return -1;
  at(p, n)->symbol = p->over;
  at(p, n)->a = one;
  note_assigned(p, p->over);
  return p->failed ? -1 : n;
}

static int32_t unless(zmi_parser *p, int32_t over, int32_t body, int effects, size_t from) { // a body that is left out then
  uint32_t begin = p->last_end;
  int32_t name = zmi_node_new(p, ZMI_N_NAME, begin), zero = number_node(p, ZMI_C_INT, 0, begin), n = zmi_node_new(p, ZMI_S_IF, begin);
  if (n < 0 || name < 0 || zero < 0) return -1;
  at(p, name)->symbol = over;
  at(p, name)->element = p->k->symbols[over].level;
  int32_t still = zmi_binary(p, '=' | '=' << 8, name, zero);
  zmi_node *f = at(p, n);
  f->a = still;
  f->first = body;
  f->simple = effects == p->effects;
  f->assigned_from = (int32_t)from, f->assigned_to = (int32_t)p->k->assigned_count;
  return n;
}

static int32_t flag_before(zmi_parser *p, int32_t over, int32_t loop) {
  int32_t zero = number_node(p, ZMI_C_INT, 0, at(p, loop)->begin), n = zmi_node_new(p, ZMI_S_DECLARE, at(p, loop)->begin);
  if (n < 0 || zero < 0) return -1;
  at(p, n)->symbol = over;
  at(p, n)->type = ZMI_C_INT;
  at(p, n)->a = zero;
  at(p, n)->next = loop;
  return n;
}

// The bound and the step are computed once, before the loop: what they are made of may not change in it.
static void check_fixed(zmi_parser *p, int32_t e, size_t from) {
  if (e < 0 || p->failed) return;
  const zmi_node n = *at(p, e);
  for (size_t i = from; i < p->k->assigned_count && n.kind == ZMI_N_NAME; i++) {
    if (p->k->assigned[i] != n.symbol) continue;
    zmi_parse_fail(
        p, n.begin, n.end,
        "the bound and the step of a loop are computed once, before it, and this changes in the loop: 'if (condition) break;' can "
        "stand in its braces");
    return;
  }
  check_fixed(p, n.a, from), check_fixed(p, n.b, from), check_fixed(p, n.c, from);
}

static int32_t loop(zmi_parser *p, uint32_t begin) { // after "for"
  size_t scope = zmi_scope_open(p);
  loop_counter counter;
  if (!zmi_expect(p, "(", "for") || !loop_counter_read(p, &counter)) return -1;
  const int32_t counts = counter.variable >= 0 ? counter.variable : counter.symbol, condition = zmi_parse_expression(p);
  if (condition < 0) return -1;
  const zmi_node *c = at(p, condition);
  bool compares = c->kind == ZMI_N_BINARY && at(p, c->a)->kind == ZMI_N_NAME && at(p, c->a)->symbol == counts &&
                  (c->op == '<' || c->op == '>' || c->op == ('<' | '=' << 8) || c->op == ('>' | '=' << 8));
  int comparison = c->op, op = 0;
  int32_t bound = c->b, by = -1;
  if (!compares) {
    zmi_parse_fail(p, c->begin, c->end, "a loop is bounded: its condition is 'counter < bound' (or <=, >, >=)");
    return -1;
  }
  zmi_mark_whole(p, bound);
  if (!zmi_expect(p, ";", "the condition") || !loop_step(p, counter.name, counts, &op, &by)) return -1;
  const size_t from = p->k->assigned_count;
  count_outside(p, &counter, op, by);
  int32_t steps = counter.after; // of the others too
  while (!p->failed && zmi_take(p, ",")) steps = chained(p, steps, step_of_another(p));
  int32_t n = !zmi_expect(p, ")", "the step") ? -1 : zmi_node_new(p, ZMI_S_FOR, begin);
  if (n < 0) return -1;
  const zmi_parser around = *p;
  p->loop_depth = zmi_token_is(p, "{") ? p->depth + 1 : 0;
  p->over = -1;
  p->once = false;
  p->nested++;
  p->effects++;
  const int effects = p->effects;
  if (counter.variable >= 0) p->k->symbols[counter.variable].fixed = true;
  int32_t body = block(p);
  if (counter.variable >= 0) p->k->symbols[counter.variable].fixed = false;
  p->nested--;
  p->loop_depth = around.loop_depth;
  p->once = around.once;
  const int32_t over = p->over;
  p->over = around.over;
  zmi_scope_close(p, scope);
  if (over >= 0 && p->barriers != around.barriers)
    zmi_parse_fail(p, begin, begin + 3, "a loop with barriers in it is not left by 'break': all threads have to come to each");
  if (over >= 0) body = unless(p, over, body, effects, from);
  if (over >= 0 && steps >= 0) steps = unless(p, over, steps, p->effects, from);
  body = chained(p, body, steps);
  check_fixed(p, bound, from), check_fixed(p, by, from);
  if (p->failed) return -1;
  zmi_node *f = at(p, n);
  f->symbol = counter.symbol;
  f->a = counter.first, f->b = bound, f->c = by;
  f->op = comparison, f->op2 = op & 0xff;
  f->first = body;
  f->type = (uint8_t)counter.type;
  f->assigned_from = (int32_t)from, f->assigned_to = (int32_t)p->k->assigned_count;
  return chained(p, counter.before, over < 0 ? n : flag_before(p, over, n));
}

// A jump at the end of a branch: what follows the branch is its other side. "return;" in tiles, where the branch stands outermost;
// "continue;" and "break;" where it stands directly in the braces of a loop or of "do { } while (0)"; each in the braces of such a branch
// too, if that ends with a jump as well. Whether there is one; it is taken.
static bool jump(zmi_parser *p, int32_t *n) {
  *n = -1;
  if (p->depth != p->jump_depth) return false;
  const uint32_t begin = p->token.begin;
  if (!p->jump_ends && zmi_take(p, "break")) {
    *n = p->once ? -1 : leave_loop(p, begin);
  } else if (!zmi_take(p, p->jump_ends ? "return" : "continue")) {
    return false;
  }
  if (zmi_expect(p, ";", "the jump")) p->jumped = true;
  return true;
}

typedef struct place_of_branch {
  bool ends, loops, inner; // outermost in tiles; directly in a loop; directly in a branch that may end with a jump
} place_of_branch;

static int32_t rest(zmi_parser *p, place_of_branch place) { // of the statements around: one level deeper now
  size_t scope = zmi_scope_open(p);
  const zmi_parser around = *p;
  if (place.inner)
    p->jump_depth = p->depth + 1;
  else if (place.ends)
    p->left++;
  else
    p->loop_depth++;
  int32_t first = zmi_parse_statements(p, place.ends && !place.inner ? NULL : "}");
  p->left = around.left, p->loop_depth = around.loop_depth, p->jump_depth = around.jump_depth;
  zmi_scope_close(p, scope);
  if (place.inner && !p->jumped)
    zmi_parse_fail(p, p->token.begin, p->token.end, "a jump in a branch inside another: the outer one ends with a jump too");
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
  const int effects = p->effects, depth = p->jump_depth;
  const bool could_end = p->jump_ends;
  place_of_branch place = {.ends = p->k->facts.form == ZMI_FORM_TILES && p->depth == 1 + p->left, .loops = p->depth == p->loop_depth};
  place.inner = !place.ends && !place.loops && p->depth == depth && p->jump_braces;
  p->jump_depth = place.ends || place.loops || place.inner ? p->depth + 1 : 0;
  p->jump_ends = place.ends || (place.inner && could_end);
  const bool braces = p->jump_braces;
  p->jump_braces = zmi_token_is(p, "{");
  p->nested++;
  int32_t yes = block(p), no = -1;
  const bool jumped = p->jumped;
  p->jumped = false;
  p->jump_depth = depth, p->jump_braces = braces;
  if (zmi_take(p, "else")) {
    p->jump_depth = 0;
    no = block(p);
    p->jump_depth = depth;
  }
  if (jumped) {
    const int32_t more = rest(p, place);
    no = chained(p, no, more);
  }
  p->jump_ends = could_end;
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
  p->barriers++;
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

static bool is_word_before_name(const zmi_parser *p, const char *word) {
  if (!zmi_token_is(p, word)) return false;
  zmi_parser ahead = *p;
  zmi_lex(&ahead);
  return ahead.token.kind == ZMI_T_NAME;
}

static int32_t once(zmi_parser *p) { // "do { } while (0)", as macros have it
  zmi_parser before = *p;
  zmi_lex(p);
  const bool braces = zmi_token_is(p, "{");
  p->loop_depth = p->depth + 1;
  p->once = true;
  int32_t n = braces ? block(p) : -1;
  p->loop_depth = before.loop_depth;
  p->once = before.once;
  if (braces && zmi_take(p, "while") && zmi_take(p, "(") && p->token.kind == ZMI_T_NUMBER && p->token.type == ZMI_C_INT &&
      !p->token.whole) {
    zmi_lex(p);
    if (zmi_expect(p, ")", "the condition")) end_statement(p);
    return p->failed ? -1 : n;
  }
  if (!p->failed) zmi_unknown_word(p, before.token.begin, before.token.end);
  return -1;
}

static int32_t inner_statement(zmi_parser *p) {
  uint32_t begin = p->token.begin;
  bool tiles = p->k->facts.form == ZMI_FORM_TILES;
  int type;
  if (zmi_take(p, ";")) return -1;
  if (zmi_token_is(p, "{")) return block(p);
  if (zmi_take(p, "for")) return loop(p, begin);
  if (zmi_take(p, "if")) return branch(p, begin);
  if (zmi_token_is(p, "do")) return once(p);
  int32_t n = -1;
  if (jump(p, &n)) return n;
  if (zmi_function_ahead(p)) {
    zmi_function_define(p);
    return -1;
  }
  if (is_word_before_name(p, "using")) { // "using namespace metal;"
    while (p->token.kind == ZMI_T_NAME) zmi_lex(p);
    end_statement(p);
    return -1;
  }
  if (tiles && (is_word_before_name(p, "thread") || is_word_before_name(p, "constant"))) zmi_lex(p); // where a variable lies
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
    n = counted(p);
  } else if (p->token.kind == ZMI_T_NAME || zmi_buffer_in_parentheses(p)) {
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
