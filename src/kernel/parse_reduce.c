// Reductions given as init, update, combine and finalize become text of the ROWS form. The author's pieces stand on lines of their own, so
// that a message shows them as they were written.
#include "kernel/parse.h"

#include <stdio.h>
#include <string.h>

// Where an update joins its accumulator with something that does not depend on it, the reduction runs in the lane order.
typedef struct joining {
  const char *reduction, *neutral; // neutral NULL: the first value, which does no harm twice
  const char *sign;                // between the first value and the reduction
  const char *join;                // what joins two lanes, as a person would write it
} joining;

static const joining serial = {0};

static int count_name(const zmi_kernel *k, int32_t node, int32_t symbol) {
  if (node < 0) return 0;
  const zmi_node *n = &k->nodes[node];
  int count = n->kind == ZMI_N_NAME && n->symbol == symbol;
  for (int32_t d = n->kind == ZMI_N_INLINE ? n->first : -1; d >= 0; d = k->nodes[d].next) count += count_name(k, k->nodes[d].a, symbol);
  return count + count_name(k, n->a, symbol) + count_name(k, n->b, symbol) + count_name(k, n->c, symbol);
}

static joining form_of(const zmi_kernel *k, const char *const *names) {
  static const joining sum = {"sum", "0", "+", "a + b"}, product = {"prod", "1", "*", "a * b"}, most = {"max", NULL, NULL, "max(a, b)"},
                       least = {"min", NULL, NULL, "min(a, b)"};
  int32_t acc = -1;
  for (size_t s = 0; s < k->symbol_count; s++) {
    const zmi_symbol *y = &k->symbols[s];
    for (int i = 0; i < 2 && y->kind == ZMI_Y_INPUT; i++) {
      if (strlen(names[i]) == y->size && memcmp(names[i], y->name, y->size) == 0) acc = (int32_t)s;
    }
  }
  const zmi_node *root = &k->nodes[k->value];
  if (acc < 0 || count_name(k, k->value, acc) != 1 || root->a < 0 || root->b < 0) return serial;
  const zmi_node *a = &k->nodes[root->a], *b = &k->nodes[root->b];
  bool left = a->kind == ZMI_N_NAME && a->symbol == acc, right = b->kind == ZMI_N_NAME && b->symbol == acc;
  if (!left && !right) return serial;
  if (root->kind == ZMI_N_BINARY) return root->op == '+' ? sum : root->op == '*' ? product : serial;
  if (root->kind != ZMI_N_CALL) return serial;
  return root->op == ZMI_K_MAX ? most : root->op == ZMI_K_MIN ? least : serial;
}

// Reads one piece by itself: a message about its syntax shows it alone. inputs NULL: whatever it reads. form: may be NULL; how it joins
// one of the names `acc` with something else.
static zm_status read_piece(const char *name, const char *what, const char *text, const char *inputs, const char *const *acc,
                            joining *form) {
  char title[96];
  snprintf(title, sizeof title, "%.40s: %s", name, what);
  zmi_kernel_text t = {.name = title, .form = ZMI_FORM_ELEMENTS, .inputs = inputs, .source = text};
  if (strchr(text, ';')) {
    const char *at = strchr(text, ';');
    zmi_show_place(title, text, (uint32_t)strlen(text), (uint32_t)(at - text), (uint32_t)(at - text) + 1, "one expression is expected");
    return zm_last_status();
  }
  zmi_kernel *k = zmi_kernel_define(&t);
  if (!k) return zm_last_status();
  if (form) *form = form_of(k, acc);
  zmi_kernel_release(k);
  return ZM_OK;
}

// What joins two lanes is read in any case. The lane order of a sum, a product, a largest or smallest has its own way, which must be meant.
static zm_status check_combine(const char *name, const char *what, const char *text, int number, const joining *form) {
  static const char *const lanes[2][2] = {{"a", "a"}, {"b", "b"}};
  bool same = true;
  for (int i = 0; i < 2; i++) { // a and b, each once and by itself
    joining found = serial;
    if (read_piece(name, what, text, number == 2 ? "a b D s1" : "a b D", lanes[i], &found) != ZM_OK) return zm_last_status();
    same = same && found.reduction && form->reduction && strcmp(found.reduction, form->reduction) == 0;
  }
  if (same || !form->reduction) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: %s is \"%.80s\", but an update of this form is joined by \"%s\": give that, or nothing",
                  name, what, text, form->join);
}

// The author's text on lines of its own: its name, then the text.
#define PIECE "\n" ZMI_TEXT_PIECE "%s\n%s\n" ZMI_TEXT_PIECE "\n"

static zm_status add_pass(const char *name, const zmi_pass_text *pass, int number, zmi_text *out) {
  char other[8], parts[3][24];
  snprintf(other, sizeof other, "acc%d", number);
  const char *const acc[2] = {"acc", other};
  const char *const words[] = {"init", "update", number ? "reduce" : "combine"};
  for (int i = 0; i < 3; i++) {
    if (number) snprintf(parts[i], sizeof parts[i], "pass%d.%s", number, words[i]);
    if (!number) snprintf(parts[i], sizeof parts[i], "%s", words[i]);
  }
  if (!pass->update) return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: %s is not given", name, parts[1]);
  joining form = serial;
  if (read_piece(name, parts[1], pass->update, NULL, acc, &form) != ZM_OK) return zm_last_status();
  if (pass->combine && check_combine(name, parts[2], pass->combine, number, &form) != ZM_OK) return zm_last_status();
  if (!pass->init && form.reduction && strcmp(form.reduction, "sum") != 0)
    return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: %s is not given: 0 is not where \"%s\" begins", name, parts[0], form.join);
  const char *init = pass->init ? pass->init : "0";
  if (form.reduction && form.sign) {
    zmi_text_add(out, "elements {\nlet acc = %s; let %s = acc;\nreduced_%d = %s(" PIECE ");\n}\n", form.neutral, other, number,
                 form.reduction, parts[1], pass->update);
    zmi_text_add(out, "let acc = (" PIECE ") %s reduced_%d;\n", parts[0], init, form.sign, number);
  } else if (form.reduction) {
    zmi_text_add(out, "let first_%d = (" PIECE ");\nelements {\nlet acc = first_%d; let %s = acc;\n", number, parts[0], init, number,
                 other);
    zmi_text_add(out, "reduced_%d = %s(" PIECE ");\n}\n", number, form.reduction, parts[1], pass->update);
    zmi_text_add(out, "let acc = %s(first_%d, reduced_%d);\n", form.reduction, number, number);
  } else {
    zmi_text_add(out, "let acc =" PIECE ";\nelements {\nlet %s = acc; acc =" PIECE ";\n}\n", parts[0], init, other, parts[1], pass->update);
    if (pass->combine) zmi_text_add(out, "join {\nlet a = acc; let b = right.acc; acc =" PIECE ";\n}\n", parts[2], pass->combine);
  }
  zmi_text_add(out, "let %s = acc;\n", other);
  return ZM_OK;
}

static zm_status finished(const char *name, const zmi_text *out) {
  return out->failed ? zmi_fail(ZM_ERROR_MEMORY, "kernel %s: out of memory", name) : ZM_OK;
}

zm_status zmi_reduce_source(const char *name, const zmi_pass_text *pass, zmi_text *source) {
  if (!name) name = "reduce";
  if (add_pass(name, pass, 0, source) != ZM_OK) return zm_last_status();
  zmi_text_add(source, "y =" PIECE ";\n", "finalize", pass->finalize ? pass->finalize : "acc");
  return finished(name, source);
}

zm_status zmi_map_reduce_source(const char *name, const zmi_pass_text pass[2], const char *write, zmi_text *source) {
  if (!name) name = "map_reduce";
  const zmi_pass_text *second = &pass[1];
  if (!second->update && (second->init || second->combine || second->finalize)) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "kernel %s: pass2.%s is given, but pass2.update is not", name,
                    second->init      ? "init"
                    : second->combine ? "reduce"
                                      : "finalize");
  }
  for (int i = 0; i < 2; i++) {
    if (i == 1 && !second->update) break;
    if (add_pass(name, &pass[i], i + 1, source) != ZM_OK) return zm_last_status();
    zmi_text_add(source, "let s%d =" PIECE ";\n", i + 1, i ? "pass2.finalize" : "pass1.finalize",
                 pass[i].finalize ? pass[i].finalize : "acc");
  }
  if (write) zmi_text_add(source, "elements {\ny =" PIECE ";\n}\n", "write", write);
  return finished(name, source);
}
