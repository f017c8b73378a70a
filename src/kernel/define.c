// Definitions of kernels: lists of names, the source, shapes and grids; and their code for given dtypes.
#include "kernel/lower.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

static const char *const list_words[] = {"inputs", "outputs", "parameters"};

static bool add_name(zmi_parser *p, int list, zmi_token name, int type) {
  zmi_kernel *k = p->k;
  int *count[] = {&k->facts.nin, &k->facts.nout, &k->facts.nparams};
  static const int most[] = {ZMI_KERNEL_IN, ZMI_KERNEL_OUT, ZMI_KERNEL_PARAMS};
  static const zmi_symbol_kind kinds[] = {ZMI_Y_INPUT, ZMI_Y_OUTPUT, ZMI_Y_PARAM};
  const char *text = p->source + name.begin;
  uint32_t size = name.end - name.begin;
  int32_t other = zmi_symbol_find(p, text, size);
  if (zmi_is_reserved(text, size)) {
    zmi_parse_fail(p, name.begin, name.end, "this word is part of the language");
  } else if (other >= 0 && k->symbols[other].kind <= ZMI_Y_PARAM) {
    zmi_parse_fail(p, name.begin, name.end, "this name was used before");
  } else if (*count[list] == most[list]) {
    zmi_parse_fail(p, name.begin, name.end, "more than %d %s", most[list], list_words[list]);
  } else if (size > 63) {
    zmi_parse_fail(p, name.begin, name.end, "a name of more than 63 letters");
  }
  if (p->failed) return false;
  zmi_symbol s = {.name = text, .size = size, .kind = (uint8_t)kinds[list], .index = *count[list], .known_after = -1, .assigned_in = -1};
  if (list == 2) k->param_type[*count[list]] = type;
  ++*count[list];
  return zmi_symbol_add(p, s) >= 0;
}

// Names with blanks or commas between them; parameters may have a type before the name.
static bool read_list(zmi_parser *p, int list, const char *text) {
  if (!text) return true;
  if (strlen(text) > ZMI_SOURCE_LIMIT) {
    zmi_fail(ZM_ERROR_LIMIT, "kernel %s: %s: more than %d bytes", p->name, list_words[list], ZMI_SOURCE_LIMIT);
    p->failed = true;
    return false;
  }
  p->k->lists[list] = zmi_strdup(text);
  if (!p->k->lists[list]) return false;
  p->source = p->k->lists[list];
  p->size = (uint32_t)strlen(text);
  p->at = 0;
  p->token = (zmi_token){0};
  zmi_lex(p);
  while (p->token.kind != ZMI_T_END && !p->failed) {
    zmi_token name = p->token;
    int type = list == 2 && name.kind == ZMI_T_NAME ? zmi_type_find(p->source + name.begin, name.end - name.begin) : -1;
    if (type > 0) {
      if (type != ZMI_C_INT && type != ZMI_C_FLOAT) zmi_parse_fail(p, name.begin, name.end, "a parameter is int or float");
      zmi_lex(p);
      name = p->token;
    }
    if (name.kind != ZMI_T_NAME) zmi_parse_fail(p, name.begin, name.end, "a name is expected");
    if (!add_name(p, list, name, type > 0 ? type : 0)) return false;
    zmi_lex(p);
    zmi_take(p, ",");
  }
  return !p->failed;
}

static void start(zmi_parser *p, const char *source) {
  p->source = source;
  p->size = (uint32_t)strlen(source);
  p->at = 0;
  p->token = (zmi_token){0};
  p->last_end = 0;
  zmi_lex(p);
}

// ---- the source ----
// Whether what comes is a statement and not yet the expression at the end.
static bool at_statement(const zmi_parser *p) {
  static const char *const words[] = {"let", "auto", "const", "constexpr", "for",      "if",     "{",
                                      ";",   "++",   "--",    "do",        "template", "inline", "static"};
  for (size_t i = 0; i < ZMI_COUNT(words); i++) {
    if (zmi_token_is(p, words[i])) return true;
  }
  if (p->token.kind != ZMI_T_NAME) return false;
  const char *text = p->source + p->token.begin;
  const uint32_t size = p->token.end - p->token.begin;
  if (zmi_is_other_word(text, size)) return true;
  zmi_parser ahead = *p;
  zmi_lex(&ahead);
  if (ahead.token.kind == ZMI_T_NAME) return zmi_type_find(text, size) >= 0 || zmi_symbol_find(p, text, size) < 0;
  if (zmi_type_find(text, size) >= 0) return false;
  static const char *const signs[] = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "++", "--"};
  for (size_t i = 0; i < ZMI_COUNT(signs); i++) {
    if (zmi_token_is(&ahead, signs[i])) return true;
  }
  return false;
}

static bool read_source(zmi_parser *p, const zmi_kernel_text *text) {
  zmi_kernel *k = p->k;
  start(p, k->source);
  bool expression = k->facts.form == ZMI_FORM_ELEMENTS && !text->outputs;
  if (!expression) {
    k->body = zmi_parse_statements(p, NULL);
  } else {
    k->facts.nout = 1;
    int32_t last = -1;
    while (!p->failed && !zmi_token_is(p, "return") && at_statement(p)) {
      int32_t s = zmi_parse_statement(p);
      if (s < 0) continue;
      if (last < 0) {
        k->body = s;
      } else {
        k->nodes[last].next = s;
      }
      for (last = s; k->nodes[last].next >= 0; last = k->nodes[last].next) continue;
    }
    if (k->body >= 0 && p->token.kind == ZMI_T_END)
      zmi_parse_fail(p, p->token.begin, p->token.end,
                     "a value is expected, not the end: without names for the results (outputs) the source ends with the expression");
    zmi_take(p, "return"); // the last statement may say it
    k->value = zmi_parse_expression(p);
    zmi_take(p, ";");
    if (!p->failed && p->token.kind != ZMI_T_END) {
      zmi_parse_fail(p, p->token.begin, p->token.end, "the expression ends before this");
    }
  }
  if (p->failed) return false;
  for (size_t s = 0; s < k->symbol_count && k->facts.form < ZMI_FORM_TILES; s++) {
    const zmi_symbol *y = &k->symbols[s];
    if (y->kind != ZMI_Y_OUTPUT) continue;
    if (y->assigned_in < 0) zmi_parse_fail(p, p->size, p->size, "the result '%.*s' is never assigned", (int)y->size, y->name);
    k->facts.per_row[y->index] = k->facts.form == ZMI_FORM_ROWS && y->assigned_in == 0;
  }
  if (k->facts.nin == 0 && k->facts.form < ZMI_FORM_TILES)
    zmi_parse_fail(p, 0, 0, "the source reads no inputs: names that it assigns are variables of its own");
  return !p->failed;
}

// ---- shapes and grids ----
static bool check_size(zmi_parser *p, int32_t n) { // integers, dims and parameters only
  if (n < 0) return true;
  const zmi_node *x = &p->k->nodes[n];
  bool ok = (x->kind == ZMI_N_NUMBER && x->type != ZMI_C_FLOAT) || x->kind == ZMI_N_DIM ||
            (x->kind == ZMI_N_NAME && p->k->symbols[x->symbol].kind == ZMI_Y_PARAM) ||
            (x->kind == ZMI_N_BINARY && x->op < 256 && strchr("+-*/%", x->op)) || (x->kind == ZMI_N_UNARY && x->op == '-') ||
            (x->kind == ZMI_N_CALL && (x->op == ZMI_K_MIN || x->op == ZMI_K_MAX));
  if (!ok) zmi_parse_fail(p, x->begin, x->end, "sizes are made of integers, dims, parameters, + - * / %%, min and max");
  return ok && check_size(p, x->a) && check_size(p, x->b);
}

static int32_t size_expression(zmi_parser *p) {
  int32_t n = zmi_parse_expression(p);
  zmi_mark_whole(p, n);
  return n >= 0 && check_size(p, n) ? n : -1;
}

static bool read_sizes(zmi_parser *p, const zmi_kernel_text *text) {
  zmi_kernel *k = p->k;
  char name[160];
  p->name = name;
  for (int o = 0; o < k->facts.nout; o++) {
    snprintf(name, sizeof name, "%.60s: shape of result %d", k->facts.name, o);
    if (!text->shape[o]) {
      zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: no shape is given for result %d", k->facts.name, o);
      p->failed = true;
      return false;
    }
    start(p, text->shape[o]);
    while (p->token.kind != ZMI_T_END && !p->failed) {
      if (k->rank[o] == ZM_MAX_RANK) zmi_parse_fail(p, p->token.begin, p->token.end, "more than %d dims", ZM_MAX_RANK);
      int32_t n = size_expression(p);
      if (n < 0) return false;
      k->shape[o][k->rank[o]++] = n;
      zmi_take(p, ",");
    }
  }
  const char *const grid[] = {text->groups, text->threads};
  static const char *const words[] = {"groups", "threads"};
  for (int i = 0; i < 2; i++) {
    snprintf(name, sizeof name, "%.60s: %s", k->facts.name, words[i]);
    if (!grid[i]) {
      zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: the number of %s is not given", k->facts.name, words[i]);
      p->failed = true;
      return false;
    }
    start(p, grid[i]);
    do {
      int32_t n = size_expression(p);
      if (n >= 0 && k->grid_rank[i] == ZMI_GRID_RANK)
        zmi_parse_fail(p, k->nodes[n].begin, k->nodes[n].end, "a grid has up to %d dims", ZMI_GRID_RANK);
      if (p->failed) return false;
      k->grid[i][k->grid_rank[i]++] = n;
    } while (zmi_take(p, ","));
    if (p->token.kind != ZMI_T_END) zmi_parse_fail(p, p->token.begin, p->token.end, "the expression ends before this");
    if (p->failed) return false;
  }
  p->name = k->facts.name;
  return !p->failed;
}

static bool eval_size(const zmi_kernel *k, int32_t node, const zmi_type *in, const double *params, int64_t *y) {
  const zmi_node *n = &k->nodes[node];
  int64_t a = 0, b = 0;
  if (n->kind == ZMI_N_NUMBER) {
    *y = n->whole;
    return true;
  }
  if (n->kind == ZMI_N_DIM) {
    const zmi_symbol *s = &k->symbols[n->symbol];
    const zmi_type *t = &in[s->index];
    if (n->op >= t->rank) {
      zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: %s has no dim %d: its rank is %d", k->facts.name, k->facts.in[s->index], (int)n->op, t->rank);
      return false;
    }
    *y = t->shape[n->op];
    return true;
  }
  if (n->kind == ZMI_N_NAME) {
    int i = k->symbols[n->symbol].index;
    if (!(params[i] >= -0x1p53 && params[i] <= 0x1p53) || params[i] != (double)(int64_t)params[i]) {
      zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: parameter %s is used as a size: it must be an integer, not %g", k->facts.name,
               k->facts.param[i], params[i]);
      return false;
    }
    *y = (int64_t)params[i];
    return true;
  }
  if (!eval_size(k, n->a, in, params, &a) || (n->b >= 0 && !eval_size(k, n->b, in, params, &b))) return false;
  int op = n->kind == ZMI_N_UNARY ? '-' : n->kind == ZMI_N_CALL ? (n->op == ZMI_K_MIN ? 'm' : 'M') : n->op;
  if (n->kind == ZMI_N_UNARY) b = a, a = 0;
  bool overflow = false;
  switch (op) {
  case '+':
    overflow = __builtin_add_overflow(a, b, y);
    break;
  case '-':
    overflow = __builtin_sub_overflow(a, b, y);
    break;
  case '*':
    overflow = __builtin_mul_overflow(a, b, y);
    break;
  case 'm':
    *y = a < b ? a : b;
    break;
  case 'M':
    *y = a > b ? a : b;
    break;
  default:
    if (b == 0 || (b == -1 && a == INT64_MIN)) {
      zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: a size is divided by %lld", k->facts.name, (long long)b);
      return false;
    }
    *y = op == '/' ? a / b : a % b;
  }
  if (overflow) zmi_fail(ZM_ERROR_LIMIT, "kernel %s: a size is above 2^63", k->facts.name);
  return !overflow;
}

static zm_dtype first_float(const zm_dtype *in, int nin) {
  for (int i = 0; i < nin; i++) {
    if (zmi_ctype_of(in[i]) == ZMI_C_FLOAT) return in[i];
  }
  return ZM_F32;
}

zm_status zmi_kernel_shapes(const zmi_kernel *k, const zmi_type *in, const double *params, zmi_type *out) {
  zm_dtype dtypes[ZMI_KERNEL_IN];
  if (k->facts.form < ZMI_FORM_TILES)
    return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: its results have the shape of its operands", k->facts.name);
  for (int i = 0; i < k->facts.nin; i++) dtypes[i] = in[i].dtype;
  for (int o = 0; o < k->facts.nout; o++) {
    int64_t shape[ZM_MAX_RANK] = {0};
    for (int d = 0; d < k->rank[o]; d++) {
      if (!eval_size(k, k->shape[o][d], in, params, &shape[d])) return zm_last_status();
      if (shape[d] < 0)
        return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: dim %d of %s is %lld", k->facts.name, d, k->facts.out[o], (long long)shape[d]);
    }
    out[o] = zmi_type_of(k->result[o] != ZM_DTYPE_DEFAULT ? k->result[o] : first_float(dtypes, k->facts.nin), k->rank[o], shape);
  }
  return ZM_OK;
}

zm_status zmi_kernel_grid(const zmi_kernel *k, const zmi_type *in, const double *params, int64_t *groups, int64_t *threads) {
  if (k->facts.form < ZMI_FORM_TILES) return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: it has no grid", k->facts.name);
  int64_t whole[2] = {1, 1};
  for (int i = 0; i < 2; i++) {
    for (int d = 0; d < k->grid_rank[i]; d++) {
      int64_t size;
      if (!eval_size(k, k->grid[i][d], in, params, &size)) return zm_last_status();
      if (size < 0 || __builtin_mul_overflow(whole[i], size, &whole[i])) whole[i] = size < 0 ? size : INT64_MAX; // out of range
      if (size < 0) break;
    }
  }
  const int64_t g = whole[0], t = whole[1];
  if (g < 0 || g > INT_MAX || t < 1 || t > 1024) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: a grid of %lld groups of %lld threads: groups are 0 to 2^31 - 1, threads 1 to 1024",
                    k->facts.name, (long long)g, (long long)t);
  }
  *groups = g;
  *threads = t;
  return ZM_OK;
}

const char *zmi_kernel_raw(const zmi_kernel *k, int target) {
  return target >= 0 && target < 3 ? k->raw[target] : NULL;
}

// ---- definitions ----
static bool name_facts(zmi_kernel *k, const char *name) {
  size_t size = strlen(name) + 1;
  for (size_t s = 0; s < k->symbol_count; s++) size += k->symbols[s].size + 1;
  k->names = zmi_malloc(size + 2);
  if (!k->names) return false;
  char *to = k->names;
  memcpy(to, name, strlen(name) + 1);
  k->facts.name = to;
  to += strlen(name) + 1;
  if (k->value >= 0) k->facts.out[0] = strcpy(to, "y"), to += 2;
  for (size_t s = 0; s < k->symbol_count; s++) {
    const zmi_symbol *y = &k->symbols[s];
    if (y->kind > ZMI_Y_PARAM) continue;
    const char **slot = y->kind == ZMI_Y_INPUT    ? &k->facts.in[y->index]
                        : y->kind == ZMI_Y_OUTPUT ? &k->facts.out[y->index]
                                                  : &k->facts.param[y->index];
    memcpy(to, y->name, y->size);
    to[y->size] = 0;
    *slot = to;
    to += y->size + 1;
  }
  return true;
}

static void hash_text(uint64_t key[2], const char *s) {
  for (int i = 0; i < 2; i++) {
    uint64_t h = key[i];
    for (const char *c = s ? s : ""; *c; c++) h = (h ^ (unsigned char)*c) * (i ? 0x9fb21c651e98df25u : 0x100000001b3u);
    h = (h ^ h >> 31 ^ (uint64_t)(s ? 0 : 1)) * 0xff51afd7ed558ccdu;
    key[i] = h ^ h >> 29;
  }
}

static void set_key(zmi_kernel *k, const zmi_kernel_text *text) {
  k->facts.key[0] = 0xcbf29ce484222325u + (uint64_t)text->form;
  k->facts.key[1] = 0x2545f4914f6cdd1du + (uint64_t)text->form;
  const char *const parts[] = {text->inputs, text->outputs, text->parameters, text->source, text->raw[0],
                               text->raw[1], text->raw[2],  text->groups,     text->threads};
  for (size_t i = 0; i < ZMI_COUNT(parts); i++) hash_text(k->facts.key, parts[i]);
  for (int o = 0; o < ZMI_KERNEL_OUT; o++) {
    hash_text(k->facts.key, text->shape[o]);
    hash_text(k->facts.key, zm_dtype_name(text->result[o]));
  }
  if (text->compute != ZM_DTYPE_DEFAULT) hash_text(k->facts.key, zm_dtype_name(text->compute));
}

static bool define(zmi_kernel *k, const zmi_kernel_text *text, const char *name) {
  zmi_parser p = {.k = k, .name = name, .over = -1};
  bool raw = text->form == ZMI_FORM_RAW;
  const char *source = raw ? "" : text->source;
  if (!source) return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: there is no source", name), false;
  if (strlen(source) > ZMI_SOURCE_LIMIT)
    return zmi_fail(ZM_ERROR_LIMIT, "kernel %s: a source of more than %d bytes", name, ZMI_SOURCE_LIMIT), false;
  if (text->form != ZMI_FORM_ELEMENTS && (!text->inputs || !text->outputs)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: the names of its inputs and outputs are not given", name), false;
  }
  k->source = zmi_macros(&p, source);
  if (!k->source || !zmi_symbols_builtin(&p)) return false;
  const char *const lists[] = {text->inputs, text->outputs, text->parameters};
  for (int i = 0; i < 3; i++) {
    if (!read_list(&p, i, lists[i])) return false;
  }
  if (text->outputs && k->facts.nout == 0) return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: it has no outputs", name), false;
  p.infer = text->form == ZMI_FORM_ELEMENTS && !text->inputs;
  bool any = false;
  for (int i = 0; i < 3 && raw; i++) {
    any = any || text->raw[i];
    if (text->raw[i] && !(k->raw[i] = zmi_strdup(text->raw[i]))) return false;
  }
  if (raw && !any) return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: there is no source for any backend", name), false;
  if (!raw && !read_source(&p, text)) return false;
  k->facts.name = name;
  if (text->form >= ZMI_FORM_TILES && !read_sizes(&p, text)) return false;
  return name_facts(k, name);
}

zmi_kernel *zmi_kernel_define(const zmi_kernel_text *text) {
  zmi_kernel *k = zmi_calloc(1, sizeof *k);
  if (!k) return NULL;
  k->references = 1;
  k->body = k->value = -1;
  k->facts.form = text->form;
  memcpy(k->result, text->result, sizeof k->result);
  k->compute = text->compute;
  set_key(k, text);
  char made[32];
  snprintf(made, sizeof made, "kernel_%016llx", (unsigned long long)k->facts.key[0]);
  char name[64] = "";
  snprintf(name, sizeof name, "%.63s", text->name && text->name[0] ? text->name : made);
  for (char *c = name; *c; c++) {
    if ((unsigned char)*c < 32 || (unsigned char)*c > 126) *c = '?';
  }
  if (define(k, text, name)) return k;
  zmi_kernel_release(k);
  return NULL;
}

zmi_kernel *zmi_kernel_retain(zmi_kernel *k) {
  if (k) __atomic_add_fetch(&k->references, 1, __ATOMIC_RELAXED);
  return k;
}

void zmi_kernel_release(zmi_kernel *k) {
  if (!k || __atomic_sub_fetch(&k->references, 1, __ATOMIC_ACQ_REL) > 0) return;
  for (int i = 0; i < 3; i++) zmi_free(k->lists[i]), zmi_free(k->raw[i]);
  zmi_free(k->source), zmi_free(k->names), zmi_free(k->nodes), zmi_free(k->symbols), zmi_free(k->assigned);
  zmi_free(k);
}

const zmi_kernel_facts *zmi_kernel_facts_of(const zmi_kernel *k) {
  return &k->facts;
}

// ---- code ----
// A raw source with a first line that names what it works on, for emitters: "//! x y ; out ; #k eps", where k is int.
static char *named_raw(const zmi_kernel *k, const char *source) {
  const struct {
    const char *const *names;
    int count;
  } lists[] = {{k->facts.in, k->facts.nin}, {k->facts.out, k->facts.nout}, {k->facts.param, k->facts.nparams}};
  zmi_text t = {0};
  zmi_text_add(&t, "//!");
  for (size_t l = 0; l < ZMI_COUNT(lists); l++) {
    for (int i = 0; i < lists[l].count; i++)
      zmi_text_add(&t, " %s%s", l == 2 && k->param_type[i] == ZMI_C_INT ? "#" : "", lists[l].names[i]);
    zmi_text_add(&t, l + 1 < ZMI_COUNT(lists) ? " ;" : "\n%s", source);
  }
  if (!t.failed) return t.data;
  zmi_text_release(&t);
  return NULL;
}

static bool fill(const zmi_kernel *k, zmi_code *c, const zm_dtype *in, const zm_dtype *result) {
  c->nin = k->facts.nin, c->nout = k->facts.nout, c->nparams = k->facts.nparams;
  for (int i = 0; i < c->nin; i++) {
    c->in[i] = in[i];
    if (zmi_ctype_of(in[i]) == ZMI_C_NONE)
      return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: operand %d has no dtype", k->facts.name, i), false;
  }
  for (int o = 0; o < c->nout; o++) {
    c->out[o] = result && result[o] != ZM_DTYPE_DEFAULT ? result[o] : k->result[o];
    if (c->out[o] == ZM_DTYPE_DEFAULT && c->form >= ZMI_FORM_TILES) c->out[o] = first_float(in, c->nin);
    c->per_row[o] = k->facts.per_row[o];
  }
  for (int i = 0; i < 3; i++) {
    if (k->raw[i] && !(c->raw[i] = named_raw(k, k->raw[i]))) return false;
  }
  return true;
}

enum { PASSES = 8 }; // each one with the types that the one before has found

static zmi_code *lower(const zmi_kernel *k, const zm_dtype *in, const zm_dtype *result) {
  zmi_lower l = {.k = k, .t = k->compute != ZM_DTYPE_DEFAULT ? k->compute : first_float(in, k->facts.nin)};
  size_t symbols = k->symbol_count ? k->symbol_count : 1;
  l.slots = zmi_calloc(symbols, sizeof *l.slots);
  l.wide = zmi_calloc(symbols, sizeof *l.wide);
  l.reduced = zmi_malloc((k->node_count ? k->node_count : 1) * sizeof *l.reduced);
  bool ok = l.slots && l.wide && l.reduced;
  for (int pass = 0; ok && (pass == 0 || l.again); pass++) {
    zmi_code_free(l.c);
    l.c = zmi_code_new((int)k->facts.form, k->facts.name);
    if (k->node_count) memset(l.reduced, -1, k->node_count * sizeof *l.reduced);
    ok = l.c && fill(k, l.c, in, result) && zmi_lower_program(&l) == ZM_OK && !l.failed;
    if (ok && l.again && pass == PASSES)
      ok = zmi_fail(ZM_ERROR_LIMIT, "kernel %s: write the types of its variables", k->facts.name) == ZM_OK;
  }
  ok = ok && zmi_code_finish(l.c) == ZM_OK;
  zmi_free(l.slots);
  zmi_free(l.wide);
  zmi_free(l.reduced);
  if (ok) return l.c;
  zmi_code_free(l.c);
  return NULL;
}

static zmi_code *raw_code(const zmi_kernel *k, const zm_dtype *in, const zm_dtype *result) {
  zmi_code *c = zmi_code_new((int)k->facts.form, k->facts.name);
  if (c && fill(k, c, in, result) && zmi_code_finish(c) == ZM_OK) return c;
  zmi_code_free(c);
  return NULL;
}

zmi_code *zmi_kernel_code(const zmi_kernel *k, const zm_dtype *in, zm_dtype *result) {
  zmi_code *c = k->facts.form == ZMI_FORM_RAW ? raw_code(k, in, result) : lower(k, in, result);
  for (int o = 0; c && result && o < c->nout; o++) result[o] = c->out[o];
  return c;
}
