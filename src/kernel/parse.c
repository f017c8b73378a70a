// Expressions of the kernel language: precedence climbing into a tree whose depth is bounded.
#include "kernel/parse.h"

#include <string.h>

static zmi_node *at(zmi_parser *p, int32_t n) {
  return &p->k->nodes[n];
}

int32_t zmi_node_new(zmi_parser *p, zmi_node_kind kind, uint32_t begin) {
  zmi_kernel *k = p->k;
  if (p->failed) return -1;
  if (k->node_count >= ZMI_NODE_LIMIT) {
    zmi_parse_fail(p, begin, begin, "the source has more than %d parts", ZMI_NODE_LIMIT);
    return -1;
  }
  if (!ZMI_GROW(k->nodes, k->node_capacity, k->node_count + 1)) {
    p->failed = true;
    return -1;
  }
  k->nodes[k->node_count] =
      (zmi_node){.kind = (uint8_t)kind, .symbol = -1, .a = -1, .b = -1, .c = -1, .first = -1, .second = -1, .next = -1};
  k->nodes[k->node_count].begin = begin;
  k->nodes[k->node_count].end = p->last_end > begin ? p->last_end : begin + 1;
  return (int32_t)k->node_count++;
}

void zmi_node_adopt(zmi_parser *p, int32_t node, int32_t child) {
  if (node < 0 || child < 0) return;
  zmi_node *n = at(p, node), *c = at(p, child);
  if (c->depth + 1 > n->depth) n->depth = (uint16_t)(c->depth + 1);
  if (n->depth > ZMI_TREE_DEPTH) zmi_parse_fail(p, n->begin, n->begin + 1, ZMI_TOO_DEEP, ZMI_TREE_DEPTH);
  n->reduces |= c->reduces;
  n->loads |= c->loads;
  n->element |= c->element;
}

// Closes a node: where it ends, and its children's facts.
static int32_t closed(zmi_parser *p, int32_t node) {
  if (node < 0) return -1;
  zmi_node *n = at(p, node);
  if (p->last_end > n->end) n->end = p->last_end;
  zmi_node_adopt(p, node, n->a);
  zmi_node_adopt(p, node, n->b);
  zmi_node_adopt(p, node, n->c);
  return p->failed ? -1 : node;
}

int32_t zmi_binary(zmi_parser *p, int op, int32_t a, int32_t b) {
  if (a < 0 || b < 0) return -1;
  int32_t n = zmi_node_new(p, ZMI_N_BINARY, at(p, a)->begin);
  if (n < 0) return -1;
  at(p, n)->op = op;
  at(p, n)->a = a;
  at(p, n)->b = b;
  if (strchr("%&|^", op & 0x7f) || op == ('<' | '<' << 8) || op == ('>' | '>' << 8)) {
    bool logic = op == ('&' | '&' << 8) || op == ('|' | '|' << 8);
    if (!logic) zmi_mark_whole(p, a), zmi_mark_whole(p, b);
  }
  return closed(p, n);
}

void zmi_mark_whole(zmi_parser *p, int32_t node) {
  if (node < 0) return;
  const zmi_node *n = at(p, node);
  if (n->kind == ZMI_N_NAME && p->k->symbols[n->symbol].kind == ZMI_Y_PARAM) p->k->symbols[n->symbol].whole = true;
  bool through = n->kind == ZMI_N_UNARY || n->kind == ZMI_N_CHOICE ||
                 (n->kind == ZMI_N_CALL && (n->op == ZMI_K_MIN || n->op == ZMI_K_MAX)) ||
                 (n->kind == ZMI_N_BINARY && strchr("+-*/%&|^", n->op & 0xff) && n->op < 256);
  if (!through) return;
  if (n->kind != ZMI_N_CHOICE) zmi_mark_whole(p, n->a);
  zmi_mark_whole(p, n->b);
  zmi_mark_whole(p, n->c);
}

size_t zmi_scope_open(zmi_parser *p) {
  size_t before = p->scope;
  p->scope = p->k->symbol_count;
  return before;
}

void zmi_scope_close(zmi_parser *p, size_t scope) {
  for (size_t i = p->scope; i < p->k->symbol_count; i++) {
    zmi_symbol *s = &p->k->symbols[i];
    if (s->kind > ZMI_Y_PARAM && (s->level || s->known_after < 0)) s->hidden = true; // an input may have been found inside
  }
  p->scope = scope;
}

// ---- calls ----
enum { MOST_OPERANDS = 8 };

static int operands(zmi_parser *p, int32_t list[MOST_OPERANDS]) { // after "(": up to and with ")"
  int n = 0;
  if (zmi_take(p, ")")) return 0;
  for (;;) {
    uint32_t begin = p->token.begin;
    int32_t e = zmi_parse_expression(p);
    if (e < 0) return -1;
    if (n == MOST_OPERANDS) {
      zmi_parse_fail(p, begin, p->last_end, "no function takes so many operands");
      return -1;
    }
    list[n++] = e;
    if (zmi_take(p, ",")) continue;
    return zmi_expect(p, ")", "the operands") ? n : -1;
  }
}

static int32_t text_function(zmi_parser *p, const zmi_function *f, const int32_t *list, uint32_t begin) {
  uint32_t end = p->last_end;
  int32_t first = -1, last = -1;
  if (p->inlined > 8) {
    zmi_parse_fail(p, begin, end, "functions nest too deep");
    return -1;
  }
  zmi_parser outer = *p;
  size_t scope = zmi_scope_open(p), from = p->k->node_count;
  for (int i = 0; i < f->operands; i++) {
    zmi_symbol s = {.name = &"abc"[i], .size = 1, .kind = ZMI_Y_LOCAL, .level = at(p, list[i])->element, .known_after = -1};
    int32_t symbol = zmi_symbol_add(p, s), n = zmi_node_new(p, ZMI_S_DECLARE, begin);
    if (symbol < 0 || n < 0) return -1;
    at(p, n)->symbol = symbol;
    at(p, n)->a = list[i];
    zmi_node_adopt(p, n, list[i]);
    if (last >= 0) at(p, last)->next = n;
    if (first < 0) first = n;
    last = n;
  }
  p->source = f->text;
  p->size = (uint32_t)strlen(f->text);
  p->at = 0;
  p->token = (zmi_token){0};
  p->infer = false;
  p->inlined++;
  zmi_lex(p);
  int32_t body = zmi_parse_expression(p);
  bool failed = p->failed;
  zmi_scope_close(p, scope);
  *p = outer;
  p->failed = failed;
  for (size_t i = from; i < p->k->node_count; i++) { // messages show the call
    at(p, (int32_t)i)->begin = begin;
    at(p, (int32_t)i)->end = end;
  }
  int32_t n = body < 0 ? -1 : zmi_node_new(p, ZMI_N_INLINE, begin);
  if (n < 0) return -1;
  at(p, n)->first = first;
  at(p, n)->a = body;
  for (int32_t d = first; d >= 0; d = at(p, d)->next) zmi_node_adopt(p, n, d);
  return closed(p, n);
}

static const struct {
  const char *name;
  zmi_cop op;
} reductions[] = {
    {"sum", ZMI_K_SUM},     {"sumsq", ZMI_K_SUMSQ},   {"prod", ZMI_K_PROD},     {"max", ZMI_K_MAXIMUM},
    {"min", ZMI_K_MINIMUM}, {"argmax", ZMI_K_ARGMAX}, {"argmin", ZMI_K_ARGMIN}, {"cumsum", ZMI_K_SCAN_SUM},
};

static int reduction_of(const zmi_parser *p, zmi_token name) { // its op, or -1
  for (size_t i = 0; i < ZMI_COUNT(reductions); i++) {
    size_t n = strlen(reductions[i].name);
    if (name.end - name.begin == n && memcmp(p->source + name.begin, reductions[i].name, n) == 0) return (int)reductions[i].op;
  }
  return -1;
}

static int32_t reduction(zmi_parser *p, zmi_token name, int op, int32_t operand) {
  bool scan = op == ZMI_K_SCAN_SUM;
  if (p->k->facts.form != ZMI_FORM_ROWS) {
    zmi_parse_fail(p, name.begin, p->last_end, "a reduction of one operand is for rows only");
  } else if (p->nested || p->joining) {
    zmi_parse_fail(p, name.begin, p->last_end, "a reduction stands directly in its block, not in a loop or branch");
  } else if (p->within && at(p, operand)->reduces) {
    zmi_parse_fail(p, name.begin, p->last_end, "a reduction inside another: give the inner one a block of its own before this one");
  } else if (scan && !p->within) {
    zmi_parse_fail(p, name.begin, p->last_end, "cumsum has a value at each place: it stands in a block 'elements { }'");
  }
  int32_t n = zmi_node_new(p, scan ? ZMI_N_CALL : ZMI_N_REDUCE, name.begin);
  if (n < 0) return -1;
  at(p, n)->op = op;
  at(p, n)->a = operand;
  n = closed(p, n);
  if (n < 0) return -1;
  at(p, n)->element = scan;
  if (!scan) at(p, n)->reduces = 1;
  return n;
}

static int32_t call(zmi_parser *p, zmi_token name) {
  int32_t list[MOST_OPERANDS] = {-1, -1, -1, -1, -1, -1, -1, -1};
  const int32_t own = p->source == p->k->source ? zmi_symbol_find(p, p->source + name.begin, name.end - name.begin) : -1;
  int op = reduction_of(p, name);
  bool known, reduces = op >= 0 && p->k->facts.form == ZMI_FORM_ROWS;
  p->reducing += reduces; // names of elements are seen inside; max(a, b) of rows checks its operands afterwards
  int n = operands(p, list);
  p->reducing -= reduces;
  if (n < 0) return -1;
  if (own >= 0 && p->k->symbols[own].kind == ZMI_Y_FUNCTION) return zmi_function_call(p, own, list, n, name.begin);
  if (op >= 0 && n == 1) return reduction(p, name, op, list[0]);
  for (int i = 0; i < n && reduces && !p->within && !p->reducing; i++) {
    const zmi_node *e = at(p, list[i]);
    if (e->element)
      zmi_parse_fail(p, e->begin, e->end, "this has a value at each place: it stands in a block 'elements { }' or a reduction");
  }
  const zmi_function *f = zmi_function_find(p->source + name.begin, name.end - name.begin, n, &known);
  int32_t told;
  if (!known && zmi_tiles_call(p, name, list, n, &told)) return told;
  if (!known) {
    zmi_unknown_name(p, name.begin, name.end, true);
    return -1;
  }
  if (f->operands != n) {
    zmi_parse_fail(p, name.begin, p->last_end, "%s takes %d operand%s, not %d", f->name, f->operands, f->operands == 1 ? "" : "s", n);
    return -1;
  }
  if (f->text) return text_function(p, f, list, name.begin);
  int32_t e = zmi_node_new(p, ZMI_N_CALL, name.begin);
  if (e < 0) return -1;
  at(p, e)->op = f->op;
  at(p, e)->a = list[0];
  at(p, e)->b = list[1];
  at(p, e)->c = list[2];
  return closed(p, e);
}

// ---- names ----
static int32_t dimension(zmi_parser *p, int32_t symbol, uint32_t begin, zmi_token which) {
  zmi_symbol *s = &p->k->symbols[symbol];
  if (s->kind != ZMI_Y_INPUT || p->k->facts.form < ZMI_FORM_TILES) {
    zmi_parse_fail(p, begin, p->last_end, "only operands of tiles have dims");
    return -1;
  }
  if (which.kind != ZMI_T_NUMBER || which.type == ZMI_C_FLOAT || which.whole < 0 || which.whole >= ZM_MAX_RANK) {
    zmi_parse_fail(p, which.begin, which.end, "the number of a dim, 0 to %d, is expected", ZM_MAX_RANK - 1);
    return -1;
  }
  int32_t n = zmi_node_new(p, ZMI_N_DIM, begin);
  if (n < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->op = (int32_t)which.whole;
  return n;
}

static int32_t member(zmi_parser *p, int32_t symbol, uint32_t begin) { // after "."
  zmi_token which = p->token;
  zmi_lex(p);
  if (which.kind == ZMI_T_NUMBER) return dimension(p, symbol, begin, which);
  const zmi_symbol *s = &p->k->symbols[symbol];
  if (s->kind == ZMI_Y_LEAF && which.kind == ZMI_T_NAME && p->k->facts.form == ZMI_FORM_TILES)
    return zmi_grid_member(p, (zmi_cop)s->index, begin, which);
  zmi_parse_fail(p, which.begin, which.end, "nothing has a member of this name");
  return -1;
}

static void no_other_place(zmi_parser *p, uint32_t begin, uint32_t end, const char *name, uint32_t size) {
  const int shown = (int)ZMI_MIN(size, 40u);
  zmi_parse_fail(p, begin, end, "'%.*s' alone is its element at this place, and other places cannot be read: in tiles (zm_kernel) they can",
                 shown, name);
}

static int32_t indexed(zmi_parser *p, int32_t symbol, uint32_t begin) { // after "["
  const zmi_symbol *s = &p->k->symbols[symbol];
  bool buffer = s->kind == ZMI_Y_INPUT && p->k->facts.form == ZMI_FORM_TILES;
  if (s->kind == ZMI_Y_OUTPUT) {
    zmi_parse_fail(p, begin, p->last_end, "results can only be written");
  } else if (s->kind == ZMI_Y_INPUT && !buffer) {
    no_other_place(p, begin, p->last_end, s->name, s->size);
  } else if (!buffer && s->kind != ZMI_Y_SHARED) {
    zmi_parse_fail(p, begin, p->last_end, "'%.*s' has no elements to choose from", (int)ZMI_MIN(s->size, 40u), s->name);
  }
  int32_t place = zmi_parse_expression(p);
  zmi_mark_whole(p, place);
  if (place < 0 || !zmi_expect(p, "]", "the place")) return -1;
  int32_t n = zmi_node_new(p, ZMI_N_INDEX, begin);
  if (n < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->a = place;
  at(p, n)->loads = 1;
  p->effects++;
  return closed(p, n);
}

static int32_t number_node(zmi_parser *p, int type, int64_t whole, float real, uint32_t begin) {
  int32_t n = zmi_node_new(p, ZMI_N_NUMBER, begin);
  if (n < 0) return -1;
  at(p, n)->type = (uint8_t)type;
  at(p, n)->whole = whole;
  at(p, n)->real = real;
  return n;
}

static int32_t value_of_name(zmi_parser *p, int32_t symbol, zmi_token name) {
  const zmi_symbol *s = &p->k->symbols[symbol];
  int size = (int)ZMI_MIN(s->size, 40u);
  if (s->kind == ZMI_Y_SHARED && s->single) {
    int32_t n = zmi_node_new(p, ZMI_N_INDEX, name.begin), zero = number_node(p, ZMI_C_INT, 0, 0, name.begin);
    if (n < 0 || zero < 0) return -1;
    at(p, n)->symbol = symbol;
    at(p, n)->a = zero;
    at(p, n)->loads = 1;
    p->effects++;
    return n;
  }
  if (s->kind == ZMI_Y_FUNCTION) zmi_parse_fail(p, name.begin, name.end, "'%.*s' is a function: its operands are missing", size, s->name);
  bool rows = p->k->facts.form == ZMI_FORM_ROWS, element = s->level || (rows && s->kind == ZMI_Y_INPUT);
  if (s->kind == ZMI_Y_SHARED || (s->kind == ZMI_Y_INPUT && p->k->facts.form >= ZMI_FORM_TILES)) {
    zmi_parse_fail(p, name.begin, name.end, "'%.*s' is a buffer: give a place, as in %.*s[0]", size, s->name, size, s->name);
  } else if (s->kind == ZMI_Y_OUTPUT && (p->k->facts.form >= ZMI_FORM_TILES || s->assigned_in < 0)) {
    zmi_parse_fail(p, name.begin, name.end, "the result '%.*s' is read before it is assigned", size, s->name);
  } else if (s->kind == ZMI_Y_OUTPUT && rows && s->assigned_in && s->assigned_in != p->within) {
    zmi_parse_fail(p, name.begin, name.end, "elements of the result '%.*s' are not known outside of the block that assigns them", size,
                   s->name);
  } else if (s->known_after >= 0 && s->known_after == p->within) {
    zmi_parse_fail(p, name.begin, name.end, "'%.*s' is a reduction of this block: it is known only after it", size, s->name);
  } else if (rows && element && p->joining) {
    zmi_parse_fail(p, name.begin, name.end, "'%.*s' has a value at each place; a join sees variables of lanes", size, s->name);
  } else if (rows && element && !p->within && !p->reducing) {
    zmi_parse_fail(p, name.begin, name.end, "'%.*s' has a value at each place: read it in a block 'elements { }' or a reduction", size,
                   s->name);
  }
  int32_t n = zmi_node_new(p, ZMI_N_NAME, name.begin);
  if (n < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->element = element;
  return n;
}

static int32_t unknown(zmi_parser *p, zmi_token name) {
  uint32_t size = name.end - name.begin;
  const char *text = p->source + name.begin;
  if (size > 6 && memcmp(text + size - 6, "_shape", 6) == 0 && zmi_token_is(p, "[")) { // x_shape[1]
    int32_t symbol = zmi_symbol_find(p, text, size - 6);
    if (symbol >= 0) {
      zmi_lex(p);
      zmi_token which = p->token;
      zmi_lex(p);
      return zmi_expect(p, "]", "the dim") ? dimension(p, symbol, name.begin, which) : -1;
    }
  }
  if (!p->infer || zmi_token_is(p, "[") || zmi_is_no_input(text, size)) {
    zmi_unknown_name(p, name.begin, name.end, false);
    return -1;
  }
  if (p->k->facts.nin == ZMI_KERNEL_IN) {
    zmi_parse_fail(p, name.begin, name.end, "more than %d inputs", ZMI_KERNEL_IN);
    return -1;
  }
  zmi_symbol s = {.name = text, .size = size, .kind = ZMI_Y_INPUT, .index = p->k->facts.nin, .known_after = -1, .assigned_in = -1};
  int32_t symbol = zmi_symbol_add(p, s);
  if (symbol < 0) return -1;
  p->k->facts.nin++;
  return value_of_name(p, symbol, name);
}

static int32_t dim_call(zmi_parser *p, uint32_t begin) { // after "dim": (x, 0)
  zmi_lex(p);
  zmi_token name = p->token;
  zmi_lex(p);
  int32_t symbol = name.kind == ZMI_T_NAME ? zmi_symbol_find(p, p->source + name.begin, name.end - name.begin) : -1;
  if (symbol < 0) {
    zmi_parse_fail(p, name.begin, name.end, "the name of an operand is expected");
    return -1;
  }
  if (!zmi_expect(p, ",", "the operand")) return -1;
  zmi_token which = p->token;
  zmi_lex(p);
  return zmi_expect(p, ")", "the dim") ? dimension(p, symbol, begin, which) : -1;
}

static int32_t right_lane(zmi_parser *p, uint32_t begin) { // after "right.": a variable
  zmi_token name = p->token;
  zmi_lex(p);
  int32_t symbol = name.kind == ZMI_T_NAME ? zmi_symbol_find(p, p->source + name.begin, name.end - name.begin) : -1;
  if (symbol < 0 || p->k->symbols[symbol].kind != ZMI_Y_LOCAL || p->k->symbols[symbol].level) {
    zmi_parse_fail(p, name.begin, name.end, "a variable of the lanes is expected");
    return -1;
  }
  int32_t n = zmi_node_new(p, ZMI_N_RIGHT, begin);
  if (n >= 0) at(p, n)->symbol = symbol;
  return n;
}

static int32_t cast(zmi_parser *p, zmi_node_kind kind, int type, int32_t operand, uint32_t begin) {
  int32_t n = operand < 0 ? -1 : zmi_node_new(p, kind, begin);
  if (n < 0) return -1;
  at(p, n)->type = (uint8_t)type;
  at(p, n)->a = operand;
  if (type >= ZMI_C_INT && type <= ZMI_C_ULONG && kind == ZMI_N_CAST && at(p, operand)->kind == ZMI_N_NAME) zmi_mark_whole(p, operand);
  return closed(p, n);
}

static int32_t angle_cast(zmi_parser *p, zmi_token name, zmi_node_kind kind) { // static_cast<T>(x), as_type<uint>(x)
  zmi_lex(p);
  int type = p->token.kind == ZMI_T_NAME ? zmi_type_find(p->source + p->token.begin, p->token.end - p->token.begin) : -1;
  if (type < 0) {
    zmi_parse_fail(p, p->token.begin, p->token.end, "a type is expected");
    return -1;
  }
  zmi_lex(p);
  if (!zmi_expect(p, ">", "the type") || !zmi_expect(p, "(", "the type")) return -1;
  int32_t e = zmi_parse_expression(p);
  return e >= 0 && zmi_expect(p, ")", "the value") ? cast(p, kind, type, e, name.begin) : -1;
}

static int32_t name_expression(zmi_parser *p) {
  zmi_token name = p->token;
  const char *text = p->source + name.begin;
  uint32_t size = name.end - name.begin;
#define IS(word) (size == sizeof(word) - 1 && memcmp(text, word, size) == 0)
  zmi_lex(p);
  int32_t symbol = zmi_symbol_find(p, text, size);
  if (symbol < 0 && (IS("true") || IS("false"))) return number_node(p, ZMI_C_BOOL, IS("true"), 0, name.begin);
  if (symbol < 0 && IS("static_cast") && zmi_token_is(p, "<")) return angle_cast(p, name, ZMI_N_CAST);
  if (symbol < 0 && IS("as_type") && zmi_token_is(p, "<")) return angle_cast(p, name, ZMI_N_BITCAST);
  if (symbol < 0 && IS("numeric_limits") && zmi_token_is(p, "<")) return zmi_limit(p, name);
  int32_t node;
  if (symbol < 0 && zmi_tiles_name(p, name, &node)) return node;
  if (symbol < 0 && p->joining && IS("right") && zmi_take(p, ".")) return right_lane(p, name.begin);
  if (zmi_token_is(p, "(")) {
    int type = zmi_type_find(text, size);
    if (IS("dim") && p->k->facts.form >= ZMI_FORM_TILES) return dim_call(p, name.begin);
    zmi_lex(p);
    if (type < 0) return call(p, name);
    int32_t e = zmi_parse_expression(p);
    return e >= 0 && zmi_expect(p, ")", "the value") ? cast(p, ZMI_N_CAST, type, e, name.begin) : -1;
  }
#undef IS
  if (symbol < 0 && zmi_token_is(p, "[") && p->infer) {
    no_other_place(p, name.begin, p->token.end, text, size);
    return -1;
  }
  if (symbol < 0) return unknown(p, name);
  if (zmi_take(p, "[")) return indexed(p, symbol, name.begin);
  if (zmi_take(p, ".")) return member(p, symbol, name.begin);
  return value_of_name(p, symbol, name);
}

static int32_t unary(zmi_parser *p);

bool zmi_buffer_in_parentheses(const zmi_parser *p) {
  zmi_parser ahead = *p;
  if (!zmi_take(&ahead, "(") || ahead.token.kind != ZMI_T_NAME) return false;
  zmi_lex(&ahead);
  return zmi_take(&ahead, ")") && zmi_token_is(&ahead, "[");
}

static int32_t parenthesis(zmi_parser *p) { // (e), or a cast (T)e
  uint32_t begin = p->token.begin;
  const bool buffer = zmi_buffer_in_parentheses(p);
  zmi_lex(p);
  if (buffer) {
    const zmi_token name = p->token;
    const int32_t symbol = zmi_symbol_find(p, p->source + name.begin, name.end - name.begin);
    zmi_lex(p), zmi_lex(p), zmi_lex(p);
    if (symbol >= 0) return indexed(p, symbol, name.begin);
    zmi_unknown_name(p, name.begin, name.end, false);
    return -1;
  }
  if (p->token.kind == ZMI_T_NAME) {
    int type = zmi_type_find(p->source + p->token.begin, p->token.end - p->token.begin);
    zmi_parser before = *p;
    if (type >= 0) {
      zmi_lex(p);
      if (zmi_take(p, ")")) return cast(p, ZMI_N_CAST, type, unary(p), begin);
      bool failed = p->failed;
      *p = before;
      p->failed = failed;
    }
  }
  int32_t e = zmi_parse_expression(p);
  return e >= 0 && zmi_expect(p, ")", "the expression") ? e : -1;
}

static int32_t primary(zmi_parser *p) {
  zmi_token t = p->token;
  if (t.kind == ZMI_T_NUMBER) {
    zmi_lex(p);
    return number_node(p, t.type, t.whole, t.real, t.begin);
  }
  if (t.kind == ZMI_T_NAME) return name_expression(p);
  if (zmi_token_is(p, "(")) return parenthesis(p);
  if (t.kind == ZMI_T_END) {
    zmi_parse_fail(p, t.begin, t.end, "a value is expected, not the end");
  } else {
    zmi_parse_fail(p, t.begin, t.end, "a value is expected, not '%.*s'", (int)(t.end - t.begin), p->source + t.begin);
  }
  return -1;
}

static bool too_deep(zmi_parser *p) {
  if (p->depth < ZMI_TREE_DEPTH) return false;
  zmi_parse_fail(p, p->token.begin, p->token.end, ZMI_TOO_DEEP, ZMI_TREE_DEPTH);
  return true;
}

static int32_t sign_of(zmi_parser *p, int sign) { // -e, !e, ~e, +e
  uint32_t begin = p->token.begin;
  zmi_lex(p);
  int32_t e = unary(p);
  if (e < 0 || sign == '+') return e;
  int32_t n = zmi_node_new(p, ZMI_N_UNARY, begin);
  if (n < 0) return -1;
  at(p, n)->op = sign;
  at(p, n)->a = e;
  if (sign == '~') zmi_mark_whole(p, e);
  return closed(p, n);
}

static int32_t unary(zmi_parser *p) {
  int sign = p->token.kind == ZMI_T_SIGN ? p->token.sign : 0;
  if (p->failed || too_deep(p)) return -1;
  p->depth++;
  int32_t e = sign == '-' || sign == '+' || sign == '!' || sign == '~' ? sign_of(p, sign) : primary(p);
  p->depth--;
  return e;
}

static int precedence(int sign) { // 0: no binary operator
  switch (sign) {
  case '|' | '|' << 8:
    return 1;
  case '&' | '&' << 8:
    return 2;
  case '|':
    return 3;
  case '^':
    return 4;
  case '&':
    return 5;
  case '=' | '=' << 8:
  case '!' | '=' << 8:
    return 6;
  case '<':
  case '>':
  case '<' | '=' << 8:
  case '>' | '=' << 8:
    return 7;
  case '<' | '<' << 8:
  case '>' | '>' << 8:
    return 8;
  case '+':
  case '-':
    return 9;
  case '*':
  case '/':
  case '%':
    return 10;
  default:
    return 0;
  }
}

static int32_t binary(zmi_parser *p, int lowest) {
  int32_t left = unary(p);
  while (left >= 0 && p->token.kind == ZMI_T_SIGN) {
    int sign = p->token.sign, level = precedence(sign);
    if (level == 0 || level < lowest) break;
    zmi_lex(p);
    p->depth++;
    int32_t right = too_deep(p) ? -1 : binary(p, level + 1);
    p->depth--;
    left = zmi_binary(p, sign, left, right);
  }
  return left;
}

int32_t zmi_parse_expression(zmi_parser *p) {
  if (p->failed || too_deep(p)) return -1;
  p->depth++;
  int32_t condition = binary(p, 1), result = condition;
  if (condition >= 0 && zmi_take(p, "?")) {
    int32_t yes = zmi_parse_expression(p);
    int32_t no = yes >= 0 && zmi_expect(p, ":", "the value of '?'") ? zmi_parse_expression(p) : -1;
    result = no < 0 ? -1 : zmi_node_new(p, ZMI_N_CHOICE, at(p, condition)->begin);
    if (result >= 0) {
      at(p, result)->a = condition;
      at(p, result)->b = yes;
      at(p, result)->c = no;
      result = closed(p, result);
    }
  }
  p->depth--;
  return result;
}
