// Names of tiles that stand for more than one instruction: dims of grids, and what the threads of a simdgroup, 32 neighbours of a
// threadgroup, tell each other.
#include "kernel/parse.h"

#include <string.h>

static zmi_node *at(const zmi_parser *p, int32_t n) {
  return &p->k->nodes[n];
}

static int32_t leaf(zmi_parser *p, const char *name, uint32_t begin) { // the built-in one, whatever hides it
  int32_t n = zmi_node_new(p, ZMI_N_NAME, begin);
  if (n < 0) return -1;
  at(p, n)->symbol = -1;
  for (size_t s = 0; s < p->k->symbol_count; s++) {
    const zmi_symbol *y = &p->k->symbols[s];
    if (y->kind == ZMI_Y_LEAF && y->size == strlen(name) && memcmp(y->name, name, y->size) == 0) at(p, n)->symbol = (int32_t)s;
  }
  return n;
}

static int32_t number(zmi_parser *p, int64_t value, uint32_t begin) {
  int32_t n = zmi_node_new(p, ZMI_N_NUMBER, begin);
  if (n < 0) return -1;
  at(p, n)->type = ZMI_C_INT;
  at(p, n)->whole = value;
  return n;
}

static int32_t grid(zmi_parser *p, zmi_cop op, int axis, uint32_t begin) {
  int32_t n = zmi_node_new(p, ZMI_N_GRID, begin);
  if (n < 0) return -1;
  at(p, n)->op = (int32_t)op;
  at(p, n)->op2 = axis;
  return n;
}

int32_t zmi_grid_member(zmi_parser *p, zmi_cop op, uint32_t begin, zmi_token which) {
  const char letter = which.end - which.begin == 1 ? p->source[which.begin] : 0;
  if (letter < 'x' || letter > 'z') {
    zmi_parse_fail(p, begin, which.end, "grids have up to %d dims: .x, .y and .z", ZMI_GRID_RANK);
    return -1;
  }
  return grid(p, op, letter - 'x', begin);
}

// thread_position_in_grid: group * threads + thread, of one dim or of all.
static int32_t place_in_grid(zmi_parser *p, uint32_t begin) {
  static const char *const parts[] = {"group", "threads", "thread"};
  static const zmi_cop ops[] = {ZMI_K_GROUP, ZMI_K_THREADS, ZMI_K_THREAD};
  const bool member = zmi_take(p, ".");
  zmi_token which = p->token;
  int32_t n[3];
  if (member) zmi_lex(p);
  for (int i = 0; i < 3; i++) {
    n[i] = member ? zmi_grid_member(p, ops[i], begin, which) : leaf(p, parts[i], begin);
    if (n[i] < 0) return -1;
  }
  return zmi_binary(p, '+', zmi_binary(p, '*', n[0], n[1]), n[2]);
}

static int32_t threads_in_grid(zmi_parser *p, uint32_t begin) { // groups * threads, likewise
  const bool member = zmi_take(p, ".");
  zmi_token which = p->token;
  if (member) zmi_lex(p);
  const int32_t groups = member ? zmi_grid_member(p, ZMI_K_GROUPS, begin, which) : leaf(p, "groups", begin);
  const int32_t threads = member ? zmi_grid_member(p, ZMI_K_THREADS, begin, which) : leaf(p, "threads", begin);
  return zmi_binary(p, '*', groups, threads);
}

static int32_t first_of_simdgroup(zmi_parser *p, uint32_t begin) { // after the name: ()
  if (!zmi_expect(p, "(", "simd_is_first") || !zmi_expect(p, ")", "'('")) return -1;
  const int32_t lane = zmi_binary(p, '&', leaf(p, "thread", begin), number(p, 31, begin));
  return zmi_binary(p, '=' | '=' << 8, lane, number(p, 0, begin));
}

typedef struct simd_leaf {
  const char *name, *of;
  int sign, number, more; // of sign number, more added to `of` first
} simd_leaf;

static const simd_leaf leaves[] = {
    {"simd_lane", "thread", '&', 31, 0},
    {"thread_index_in_simdgroup", "thread", '&', 31, 0},
    {"simd_group", "thread", '/', 32, 0},
    {"simdgroup_index_in_threadgroup", "thread", '/', 32, 0},
    {"simd_groups", "threads", '/', 32, 31},
    {"simdgroups_per_threadgroup", "threads", '/', 32, 31},
    {"simd_width", NULL, 0, 32, 0},
    {"thread_execution_width", NULL, 0, 32, 0},
    {"threads_per_simdgroup", NULL, 0, 32, 0},
};

static bool is(const zmi_parser *p, zmi_token name, const char *word) {
  return strlen(word) == name.end - name.begin && memcmp(p->source + name.begin, word, strlen(word)) == 0;
}

bool zmi_tiles_name(zmi_parser *p, zmi_token name, int32_t *node) {
  if (p->k->facts.form != ZMI_FORM_TILES) return false;
  static const struct {
    const char *name;
    int32_t (*read)(zmi_parser *p, uint32_t begin);
  } readers[] = {{"thread_position_in_grid", place_in_grid}, {"threads_per_grid", threads_in_grid}, {"simd_is_first", first_of_simdgroup}};
  for (size_t i = 0; i < ZMI_COUNT(readers); i++) {
    if (!is(p, name, readers[i].name)) continue;
    *node = readers[i].read(p, name.begin);
    return true;
  }
  for (size_t i = 0; i < ZMI_COUNT(leaves); i++) {
    const simd_leaf *l = &leaves[i];
    if (!is(p, name, l->name)) continue;
    int32_t whole = number(p, l->number, name.begin), of = l->of ? leaf(p, l->of, name.begin) : -1;
    if (l->more) of = zmi_binary(p, '+', of, number(p, l->more, name.begin));
    *node = l->of ? zmi_binary(p, l->sign, of, whole) : whole;
    return true;
  }
  return false;
}

static const struct {
  const char *name;
  zmi_simd op;
  int operands;
} functions[] = {
    {"simd_sum", ZMI_SIMD_SUM, 1},
    {"simd_product", ZMI_SIMD_PRODUCT, 1},
    {"simd_max", ZMI_SIMD_MAX, 1},
    {"simd_min", ZMI_SIMD_MIN, 1},
    {"simd_and", ZMI_SIMD_AND, 1},
    {"simd_or", ZMI_SIMD_OR, 1},
    {"simd_xor", ZMI_SIMD_XOR, 1},
    {"simd_all", ZMI_SIMD_ALL, 1},
    {"simd_any", ZMI_SIMD_ANY, 1},
    {"simd_prefix_inclusive_sum", ZMI_SIMD_INCLUSIVE, 1},
    {"simd_prefix_exclusive_sum", ZMI_SIMD_EXCLUSIVE, 1},
    {"simd_broadcast_first", ZMI_SIMD_FIRST, 1},
    {"simd_broadcast", ZMI_SIMD_SHUFFLE, 2},
    {"simd_shuffle", ZMI_SIMD_SHUFFLE, 2},
    {"simd_shuffle_xor", ZMI_SIMD_SHUFFLE_XOR, 2},
    {"simd_shuffle_up", ZMI_SIMD_SHUFFLE_UP, 2},
    {"simd_shuffle_down", ZMI_SIMD_SHUFFLE_DOWN, 2},
};

bool zmi_tiles_call(zmi_parser *p, zmi_token name, const int32_t *list, int n, int32_t *node) {
  size_t f = 0;
  while (f < ZMI_COUNT(functions) && !is(p, name, functions[f].name)) f++;
  if (f == ZMI_COUNT(functions)) return false;
  *node = -1;
  if (p->k->facts.form != ZMI_FORM_TILES) {
    zmi_parse_fail(p, name.begin, name.end, "%s is for threads: only tiles have them", functions[f].name);
  } else if (n != functions[f].operands) {
    zmi_parse_fail(p, name.begin, p->last_end, "%s takes %d operand%s, not %d", functions[f].name, functions[f].operands,
                   functions[f].operands == 1 ? "" : "s", n);
  } else if ((*node = zmi_node_new(p, ZMI_N_SIMD, name.begin)) >= 0) {
    at(p, *node)->op = (int32_t)functions[f].op;
    at(p, *node)->a = list[0];
    at(p, *node)->b = n > 1 ? list[1] : -1;
    zmi_mark_whole(p, at(p, *node)->b);
    zmi_node_adopt(p, *node, list[0]);
    zmi_node_adopt(p, *node, at(p, *node)->b);
    p->k->simd = true;
    p->barriers++; // that is what they are made of
  }
  return true;
}

// Stores of what an array starts with, behind "= {"; *last is its declaration. How many there are, or -1.
static int first_values(zmi_parser *p, int32_t symbol, int32_t last) {
  const zmi_token first = p->token;
  int count = 0;
  for (; !zmi_token_is(p, "}"); count++) {
    const uint32_t begin = p->token.begin;
    const int32_t place = number(p, count, begin), value = zmi_parse_expression(p);
    const int32_t n = value < 0 || place < 0 ? -1 : zmi_node_new(p, ZMI_S_STORE, begin);
    if (n < 0) return -1;
    at(p, n)->symbol = symbol;
    at(p, n)->a = place;
    at(p, n)->b = value;
    const bool zero = first.kind == ZMI_T_NUMBER && first.whole == 0 && first.real == 0 && count == 0 && zmi_token_is(p, "}");
    if (!zero) at(p, last)->next = n, last = n; // "{0}": all of them are
    if (!zmi_token_is(p, "}") && !zmi_expect(p, ",", "the value")) return -1;
  }
  zmi_lex(p);
  return count;
}

int32_t zmi_thread_array(zmi_parser *p, int type, zmi_token name) { // after "["
  if (p->k->facts.form != ZMI_FORM_TILES) {
    zmi_parse_fail(p, name.begin, p->token.end, "arrays of a thread are for tiles only");
    return -1;
  }
  zmi_lex(p);
  const bool counted = zmi_token_is(p, "]"); // "name[] = {...}": as many as there are values
  int32_t count = counted ? number(p, 0, name.begin) : zmi_parse_expression(p);
  if (count < 0 || !zmi_expect(p, "]", "the number of elements")) return -1;
  zmi_symbol s = {
      .name = p->source + name.begin, .size = name.end - name.begin, .kind = ZMI_Y_SHARED, .type = (uint8_t)type, .known_after = -1};
  int32_t symbol = zmi_symbol_add(p, s), n = zmi_node_new(p, ZMI_S_SHARED, name.begin);
  if (n < 0 || symbol < 0) return -1;
  at(p, n)->symbol = symbol;
  at(p, n)->type = (uint8_t)type;
  at(p, n)->op2 = 1;
  at(p, n)->a = count;
  at(p, n)->c = p->nested ? 1 : -1; // in a loop or branch
  p->effects++;
  if (zmi_take(p, "=") && zmi_expect(p, "{", "'=', as in '= {0}'")) {
    const int values = first_values(p, symbol, n);
    if (counted && values >= 0) at(p, count)->whole = values;
    const zmi_node *size = at(p, count);
    if (!counted && size->kind == ZMI_N_NUMBER && values > size->whole)
      zmi_parse_fail(p, name.begin, p->last_end, "more values than elements");
  }
  return p->failed ? -1 : n;
}
