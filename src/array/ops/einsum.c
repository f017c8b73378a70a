// einsum: sums of products by letters. Parsed to lists of labels, joined two operands at a time (the pair whose product is smallest
// against what it replaces), each pair as a matrix product of [batch, kept, summed] and [batch, summed, kept], or elementwise where
// nothing is summed.
#include "array/ops/index.h"

#include <ctype.h>
#include <string.h>

enum { MAX_OPERANDS = 32, LABELS = 64, ELLIPSIS = 52 }; // labels: a-z, A-Z, then those that "..." stands for

typedef struct term {
  zm_array *array;
  int rank;
  int label[ZM_MAX_RANK];
} term;

typedef struct problem {
  const char *text;
  int count, out_rank;
  term terms[MAX_OPERANDS];
  int out[LABELS];
  int64_t size[LABELS]; // of each label; -1 unknown
  int dots;             // labels of "...": ELLIPSIS .. ELLIPSIS + dots
} problem;

static int label_of(char c) {
  return c >= 'a' && c <= 'z' ? c - 'a' : c - 'A' + 26;
}

static char name_of(int label) {
  return label >= ELLIPSIS ? '.' : (char)(label < 26 ? 'a' + label : 'A' + label - 26);
}

static int find(const int *labels, int count, int label) {
  for (int i = 0; i < count; i++) {
    if (labels[i] == label) return i;
  }
  return -1;
}

// ---- parsing ----

// One operand's letters, up to ',' or "->" or the end: list of labels with -1 for "...". Returns the place after, NULL on an error.
static const char *read_letters(const problem *p, const char *at, int *list, int *count) {
  bool dots = false;
  *count = 0;
  for (; *at && *at != ',' && !(at[0] == '-' && at[1] == '>'); at++) {
    if (*at == ' ') continue;
    const bool is_letter = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z');
    if (!is_letter && (strncmp(at, "...", 3) != 0 || dots)) {
      zmi_fail(ZM_ERROR_ARGUMENT, "einsum: '%s': unexpected '%c' at place %d: letters and one '...' are known", p->text, *at,
               (int)(at - p->text));
      return NULL;
    }
    if (*count >= LABELS) {
      zmi_fail(ZM_ERROR_ARGUMENT, "einsum: '%s': more than %d letters for one operand", p->text, LABELS);
      return NULL;
    }
    list[(*count)++] = is_letter ? label_of(*at) : -1;
    if (is_letter) continue;
    dots = true;
    at += 2;
  }
  return at;
}

static int dots_of(const int *list, int count, int rank) {
  for (int i = 0; i < count; i++) {
    if (list[i] < 0) return rank - (count - 1);
  }
  return 0;
}

// Labels of an operand of `rank` from its letters. "..." are the last of the labels from ELLIPSIS on.
static bool place_labels(problem *p, int operand, const int *list, int count) {
  term *t = &p->terms[operand];
  char text[128];
  const int rank = t->array->type.rank, dots = dots_of(list, count, rank);
  bool has = false;
  t->rank = 0;
  for (int i = 0; i < count; i++) has = has || list[i] < 0;
  if (dots < 0 || count - (has ? 1 : 0) + dots != rank) {
    zmi_fail(ZM_ERROR_ARGUMENT, "einsum: '%s': operand %d has %d letters, but it is %s", p->text, operand + 1, count - (has ? 1 : 0),
             zmi_type_text(&t->array->type, text));
    return false;
  }
  for (int i = 0; i < count; i++) {
    for (int k = 0; k < dots && list[i] < 0; k++) t->label[t->rank++] = ELLIPSIS + p->dots - dots + k;
    if (list[i] >= 0) t->label[t->rank++] = list[i];
  }
  for (int i = 0; i < rank; i++) {
    int64_t *size = &p->size[t->label[i]], here = t->array->type.shape[i];
    const int same = find(t->label, i, t->label[i]);
    if (same >= 0 && t->array->type.shape[same] != here) {
      zmi_fail(ZM_ERROR_ARGUMENT, "einsum: '%s': axis '%c' is %lld and %lld in operand %d", p->text, name_of(t->label[i]),
               (long long)t->array->type.shape[same], (long long)here, operand + 1);
      return false;
    }
    if (*size >= 0 && *size != here && *size != 1 && here != 1) {
      zmi_fail(ZM_ERROR_ARGUMENT, "einsum: '%s': axis '%c' is %lld in operand %d and %lld before", p->text, name_of(t->label[i]),
               (long long)here, operand + 1, (long long)*size);
      return false;
    }
    if (*size < 0 || *size == 1) *size = here;
  }
  return true;
}

static bool read_result(problem *p, const char *at, const int *seen) {
  int list[LABELS], count;
  p->out_rank = 0;
  if (!*at) { // without "->": what occurs once
    for (int k = 0; k < p->dots; k++) p->out[p->out_rank++] = ELLIPSIS + k;
    static const char order[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for (const char *c = order; *c; c++) {
      if (seen[label_of(*c)] == 1) p->out[p->out_rank++] = label_of(*c);
    }
    return true;
  }
  const char *end = read_letters(p, at + 2, list, &count);
  if (!end) return false;
  if (*end) {
    zmi_fail(ZM_ERROR_ARGUMENT, "einsum: '%s': unexpected '%c' in the result", p->text, *end);
    return false;
  }
  for (int i = 0; i < count; i++) {
    for (int k = 0; k < p->dots && list[i] < 0; k++) p->out[p->out_rank++] = ELLIPSIS + k;
    if (list[i] < 0) continue;
    for (int k = 0; k < i; k++) {
      if (list[k] != list[i]) continue;
      zmi_fail(ZM_ERROR_ARGUMENT, "einsum: '%s': '%c' is in the result twice", p->text, name_of(list[i]));
      return false;
    }
    if (p->size[list[i]] < 0) {
      zmi_fail(ZM_ERROR_ARGUMENT, "einsum: '%s': '%c' is in the result, but in no operand", p->text, name_of(list[i]));
      return false;
    }
    p->out[p->out_rank++] = list[i];
  }
  return true;
}

static bool parse(problem *p, zm_array *const *arrays) {
  const char *at = p->text;
  int list[MAX_OPERANDS][LABELS], count[MAX_OPERANDS], seen[LABELS] = {0}, n = 0;
  for (int i = 0; i < LABELS; i++) p->size[i] = -1;
  for (;;) {
    if (n >= p->count) {
      zmi_fail(ZM_ERROR_ARGUMENT, "einsum: '%s' names more operands than the %d that are given", p->text, p->count);
      return false;
    }
    if (!(at = read_letters(p, at, list[n], &count[n]))) return false;
    p->terms[n].array = arrays[n];
    p->dots = ZMI_MAX(p->dots, dots_of(list[n], count[n], arrays[n]->type.rank));
    for (int i = 0; i < count[n]; i++) {
      if (list[n][i] >= 0) seen[list[n][i]]++;
    }
    n++;
    if (*at != ',') break;
    at++;
  }
  if (n != p->count) {
    zmi_fail(ZM_ERROR_ARGUMENT, "einsum: '%s' names %d operands, %d are given", p->text, n, p->count);
    return false;
  }
  for (int i = 0; i < n; i++) {
    if (!place_labels(p, i, list[i], count[i])) return false;
  }
  if (!read_result(p, at, seen)) return false;
  if (p->out_rank <= ZM_MAX_RANK) return true;
  zmi_fail(ZM_ERROR_LIMIT, "einsum: '%s': the result would have rank %d, the most is %d", p->text, p->out_rank, ZM_MAX_RANK);
  return false;
}

// ---- one term ----

// A letter that a term has twice is its diagonal.
static bool take_diagonals(term *t) {
  for (int i = 0; i < t->rank; i++) {
    const int same = find(t->label, i, t->label[i]);
    if (same < 0) continue;
    const int label = t->label[i];
    if (!(t->array = zm_diagonal(t->array, 0, same, i))) return false;
    int n = 0;
    for (int k = 0; k < t->rank; k++) {
      if (k != same && k != i) t->label[n++] = t->label[k];
    }
    t->label[n++] = label;
    t->rank = n;
    i = -1;
  }
  return true;
}

// The axes of a term in the order of `labels`; all of them must be there.
static zm_array *ordered(const term *t, const int *labels) {
  int axes[ZM_MAX_RANK];
  bool moves = false;
  for (int i = 0; i < t->rank; i++) {
    axes[i] = find(t->label, t->rank, labels[i]);
    moves = moves || axes[i] != i;
  }
  return moves ? zm_transpose(t->array, axes) : t->array;
}

static void drop_axis(term *t, int axis) {
  for (int i = axis; i + 1 < t->rank; i++) t->label[i] = t->label[i + 1];
  t->rank--;
}

// Axes of size 1 whose label is longer elsewhere need not be there.
static bool drop_narrow(const problem *p, term *t) {
  for (int i = t->rank - 1; i >= 0; i--) {
    if (t->array->type.shape[i] != 1 || p->size[t->label[i]] == 1) continue;
    if (!(t->array = zm_squeeze(t->array, i))) return false;
    drop_axis(t, i);
  }
  return true;
}

// Sums over labels that are not needed elsewhere.
static bool reduce_term(term *t, const bool *needed, const term *other) {
  int axes[ZM_MAX_RANK], n = 0;
  for (int i = t->rank - 1; i >= 0; i--) {
    if (!needed[t->label[i]] && (!other || find(other->label, other->rank, t->label[i]) < 0)) axes[n++] = i;
  }
  if (n == 0) return true;
  for (int k = 0; k < n; k++) drop_axis(t, axes[k]);
  t->array = zm_sum_axes(t->array, axes, n, false);
  return t->array != NULL;
}

// ---- a pair ----

typedef struct group {
  int label[LABELS], count;
  int64_t size;
} group;

static void add_label(group *g, const problem *p, int label) {
  g->label[g->count++] = label;
  g->size *= p->size[label];
}

static void append(int *labels, int *n, const group *g) {
  for (int i = 0; i < g->count; i++) labels[(*n)++] = g->label[i];
}

// Elementwise: both with all labels of the result, 1 where one has none.
static zm_array *aligned(const term *t, const int *labels, int count) {
  int64_t shape[ZM_MAX_RANK];
  int own[ZM_MAX_RANK], n = 0;
  for (int i = 0; i < count; i++) {
    const int axis = find(t->label, t->rank, labels[i]);
    shape[i] = axis < 0 ? 1 : t->array->type.shape[axis];
    if (axis >= 0) own[n++] = labels[i];
  }
  zm_array *a = ordered(t, own);
  return a ? zm_reshape(a, shape, count) : NULL;
}

// Both have the same labels, so matrices of one row and one column would meet: products in float32 that are added up, in a's order of axes.
static zm_array *contracted(const term *a, const term *b, const group *sum, zm_dtype dtype) {
  int axes[ZM_MAX_RANK];
  for (int i = 0; i < sum->count; i++) axes[i] = find(a->label, a->rank, sum->label[i]);
  zm_array *other = aligned(b, a->label, a->rank);
  zm_array *y = other ? zm_multiply(zm_astype(a->array, ZM_F32), zm_astype(other, ZM_F32)) : NULL;
  return y ? zm_astype(zm_sum_axes(y, axes, sum->count, false), dtype) : NULL;
}

static bool join(const problem *p, term *a, const term *b, const bool *needed) {
  group batch = {.size = 1}, sum = {.size = 1}, left = {.size = 1}, right = {.size = 1};
  int labels[LABELS], n = 0, all = 0, every[LABELS];
  for (int i = 0; i < a->rank; i++) {
    const bool shared = find(b->label, b->rank, a->label[i]) >= 0;
    add_label(!shared ? &left : needed[a->label[i]] ? &batch : &sum, p, a->label[i]);
  }
  for (int i = 0; i < b->rank; i++) {
    if (find(a->label, a->rank, b->label[i]) < 0) add_label(&right, p, b->label[i]);
  }
  append(labels, &n, &batch);
  append(labels, &n, &left);
  append(labels, &n, &right);
  const zm_dtype dtype = zm_dtype_promote(a->array->type.dtype, b->array->type.dtype);
  if (n > ZM_MAX_RANK) {
    zmi_fail(ZM_ERROR_LIMIT, "einsum: '%s': a product in between has %d axes, the most are %d", p->text, n, ZM_MAX_RANK);
    return false;
  }
  zm_array *y;
  if (sum.count > 0 && left.count == 0 && right.count == 0 && zmi_dtype_is_float(dtype)) {
    y = contracted(a, b, &sum, dtype);
  } else if (sum.count == 0 || !zmi_dtype_is_float(dtype)) {
    memcpy(every, labels, (size_t)n * sizeof *every);
    all = n;
    append(every, &all, &sum);
    if (all > ZM_MAX_RANK) {
      zmi_fail(ZM_ERROR_LIMIT, "einsum: '%s': a product in between has %d axes, the most are %d", p->text, all, ZM_MAX_RANK);
      return false;
    }
    int axes[ZM_MAX_RANK];
    for (int i = 0; i < sum.count; i++) axes[i] = n + i;
    y = zm_multiply(aligned(a, every, all), aligned(b, every, all));
    if (y && sum.count) y = zm_sum_axes(y, axes, sum.count, false);
  } else {
    int order[LABELS], k = 0;
    int64_t shape[ZM_MAX_RANK];
    append(order, &k, &batch), append(order, &k, &left), append(order, &k, &sum);
    zm_array *x = ordered(a, order);
    x = x ? zm_reshape(x, (int64_t[]){batch.size, left.size, sum.size}, 3) : NULL;
    k = 0;
    append(order, &k, &batch), append(order, &k, &sum), append(order, &k, &right);
    zm_array *w = ordered(b, order);
    w = w ? zm_reshape(w, (int64_t[]){batch.size, sum.size, right.size}, 3) : NULL;
    if (batch.count == 0) {
      x = x ? zm_squeeze(x, 0) : NULL;
      w = w ? zm_squeeze(w, 0) : NULL;
    }
    y = zm_matmul(x, w);
    for (int i = 0; i < n; i++) shape[i] = p->size[labels[i]];
    y = y ? zm_reshape(y, shape, n) : NULL;
  }
  a->array = y;
  a->rank = n;
  memcpy(a->label, labels, (size_t)n * sizeof *a->label);
  return y != NULL;
}

// ---- the order of pairs ----

// Labels that the result or a term other than i and k has.
static void find_needed(const problem *p, int i, int k, bool *needed) {
  memset(needed, 0, LABELS * sizeof *needed);
  for (int o = 0; o < p->out_rank; o++) needed[p->out[o]] = true;
  for (int t = 0; t < p->count; t++) {
    for (int l = 0; l < p->terms[t].rank && t != i && t != k; l++) needed[p->terms[t].label[l]] = true;
  }
}

static double size_of(const problem *p, const term *t) {
  double size = 1;
  for (int i = 0; i < t->rank; i++) size *= (double)p->size[t->label[i]];
  return size;
}

// What joining i and k makes larger: the product less what it replaces.
static double cost(const problem *p, int i, int k) {
  bool needed[LABELS];
  const term *a = &p->terms[i], *b = &p->terms[k];
  double size = 1;
  find_needed(p, i, k, needed);
  for (int l = 0; l < a->rank; l++) size *= needed[a->label[l]] ? (double)p->size[a->label[l]] : 1;
  for (int l = 0; l < b->rank; l++)
    size *= needed[b->label[l]] && find(a->label, a->rank, b->label[l]) < 0 ? (double)p->size[b->label[l]] : 1;
  return size - size_of(p, a) - size_of(p, b);
}

static bool join_smallest(problem *p) {
  int first = 0, second = 1;
  bool needed[LABELS];
  double best = cost(p, 0, 1);
  for (int i = 0; i < p->count; i++) {
    for (int k = i + 1; k < p->count; k++) {
      const double c = cost(p, i, k);
      if (c < best) best = c, first = i, second = k;
    }
  }
  find_needed(p, first, second, needed);
  term *a = &p->terms[first], *b = &p->terms[second];
  if (!reduce_term(a, needed, b) || !reduce_term(b, needed, a) || !join(p, a, b, needed)) return false;
  for (int i = second; i + 1 < p->count; i++) p->terms[i] = p->terms[i + 1];
  p->count--;
  return true;
}

static zm_array *finish(problem *p) {
  term *t = &p->terms[0];
  bool needed[LABELS];
  int64_t shape[ZM_MAX_RANK];
  find_needed(p, 0, 0, needed);
  if (!reduce_term(t, needed, NULL)) return NULL;
  zm_array *y = aligned(t, p->out, p->out_rank);
  for (int i = 0; i < p->out_rank; i++) shape[i] = p->size[p->out[i]];
  return y ? zm_broadcast_to(y, shape, p->out_rank) : NULL;
}

zm_array *zm_einsum(const char *subscripts, zm_array *const *arrays, int count) {
  problem p = {.text = subscripts, .count = count};
  if (!subscripts || count < 1 || count > MAX_OPERANDS || !arrays) {
    zmi_fail(ZM_ERROR_ARGUMENT, "einsum: takes subscripts and 1 to %d operands, got %d", MAX_OPERANDS, count);
    return NULL;
  }
  if (!zmi_present("einsum", count, arrays) || !parse(&p, arrays)) return NULL;
  for (int i = 0; i < count; i++) {
    if (!take_diagonals(&p.terms[i]) || !drop_narrow(&p, &p.terms[i])) return NULL;
  }
  while (p.count > 1) {
    if (!join_smallest(&p)) return NULL;
  }
  return finish(&p);
}
