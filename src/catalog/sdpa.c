// Scaled dot-product attention of whole sequences: products, a masked softmax, products again, for a few query rows at a time, so that
// memory grows with the lengths and not with their product. The pieces are checkpoints: their gradients compute the scores again.
#include "catalog/catalog.h"

#include <string.h>

// One softmax for each combination of what takes part. A score that is masked out counts as the lowest number, so that a row that sees
// nothing takes the mean of all values, as in MLX. The shift by the largest score adds nothing to the derivative.
#define SOFTMAX(value, most, total)                                                                                                        \
  "elements { let v = " value "; m = max(" most "); }\n"                                                                                   \
  "let n = detach(m);\n"                                                                                                                   \
  "elements { let v = " value "; s = sum(exp(v - n)); }\n"                                                                                 \
  "elements { let v = " value "; y = exp(v - n) / " total "; }"
#define ROW(names, value, most, total)                                                                                                     \
  { .name = "attention_softmax", .form = ZMI_FORM_ROWS, .inputs = names, .outputs = "y", .source = SOFTMAX(value, most, total) }
#define BOTH(names, value) ROW(names, value, "v", "s"), ROW(names " sink", value, "max(v, sink)", "(s + exp(sink - n))")

enum { SINKS = 1, CAUSAL = 2, HIDES = 4, ADDS = 8, KINDS = 12 };
static zmi_definition softmaxes[KINDS] = {
    BOTH("x", "x"),
    BOTH("x upto", "(i <= upto ? x : -FLT_MAX)"),
    BOTH("x mask", "(mask ? x : -FLT_MAX)"),
    BOTH("x mask upto", "(mask && i <= upto ? x : -FLT_MAX)"),
    BOTH("x bias", "(x + bias)"),
    BOTH("x bias upto", "(i <= upto ? x + bias : -FLT_MAX)"),
};

// in: q [B, G, R, L, D], scaled, R query heads for one of keys; k [B, G, S, D]; v [B, G, S, E]; what the softmax takes beside the scores
// [B, G, R, L, S], and by it is chosen, as `user`. All float32. Gives [B, G, R L, E].
static zm_status piece(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const int64_t *q = in[0]->type.shape, length = in[1]->type.shape[2];
  zm_array *taken[4] = {zmi_cat_matmul_t(zmi_cat_reshape(in[0], 4, q[0], q[1], q[2] * q[3], q[4]), in[1])};
  (void)nout;
  taken[0] = zmi_cat_reshape(taken[0], 5, q[0], q[1], q[2], q[3], length);
  for (int i = 3; i < nin; i++) taken[i - 2] = in[i];
  zm_array *p = zmi_definition_apply1(user, taken, nin - 2, NULL, 0);
  out[0] = zm_matmul(zmi_cat_reshape(p, 4, q[0], q[1], q[2] * q[3], length), in[2]);
  return out[0] ? ZM_OK : zm_last_status();
}

// ---- operands ----

typedef struct whole {
  int64_t batch, heads, groups, share, rows, length, dim, value_dim;
  double scale;
  bool causal;
  int kind;
  zm_array *q, *k, *v, *mask, *sinks; // q [B, G, R, L, D], mask 5 axes, sinks [G, R, 1, 1]
} whole;

static const char name[] = "scaled_dot_product_attention";

static bool of_sequences(const char *operand, zm_array *a) {
  char found[128];
  if (!zmi_cat_want_float(name, operand, a)) return false;
  if (a->type.rank == 4) return true;
  zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected [batch, heads, length, dim], found %s", name, operand, zmi_type_text(&a->type, found));
  return false;
}

static bool take_sequences(whole *w, zm_array *q, zm_array *k, zm_array *v) {
  if (!of_sequences("q", q) || !of_sequences("k", k) || !of_sequences("v", v)) return false;
  const int64_t *s = q->type.shape;
  w->batch = s[0], w->heads = s[1], w->rows = s[2], w->dim = s[3];
  w->groups = k->type.shape[1], w->length = k->type.shape[2], w->value_dim = v->type.shape[3];
  if (!zmi_cat_want(name, "k", k, 4, w->batch, (int64_t)-1, (int64_t)-1, w->dim)) return false;
  if (!zmi_cat_want(name, "v", v, 4, w->batch, w->groups, w->length, (int64_t)-1)) return false;
  if (w->groups == 0 ? w->heads != 0 : w->heads % w->groups != 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: q: %lld heads are no multiple of the %lld of k", name, (long long)w->heads, (long long)w->groups);
    return false;
  }
  w->share = w->groups ? w->heads / w->groups : 1;
  const double usual = 1 / zmi_pow((double)ZMI_MAX(w->dim, 1), 0.5);
  zm_array *scaled = zm_multiply(zm_astype(q, ZM_F32), zmi_cat_scalar(w->scale != 0 ? w->scale : usual));
  w->q = zmi_cat_reshape(scaled, 5, w->batch, w->groups, w->share, w->rows, w->dim);
  w->k = zm_astype(k, ZM_F32);
  w->v = zm_astype(v, ZM_F32);
  return w->q && w->k && w->v;
}

// The mask with an axis for each of those of the scores: of any length, or 1.
static bool take_mask(whole *w, zm_array *mask) {
  const int64_t full[4] = {w->batch, w->heads, w->rows, w->length};
  int64_t shape[4] = {1, 1, 1, 1};
  char found[128];
  if (!mask) return true;
  if (mask->type.dtype != ZM_BOOL && !zmi_cat_want_float(name, "mask", mask)) return false;
  bool fits = mask->type.rank <= 4;
  for (int i = 0; fits && i < mask->type.rank; i++) {
    const int at = 4 - mask->type.rank + i;
    shape[at] = mask->type.shape[i];
    fits = shape[at] == 1 || shape[at] == full[at];
  }
  if (!fits) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: mask: %s does not fit the scores, [%lld, %lld, %lld, %lld]", name, zmi_type_text(&mask->type, found),
             (long long)full[0], (long long)full[1], (long long)full[2], (long long)full[3]);
    return false;
  }
  const bool heads = shape[1] != 1;
  w->kind |= mask->type.dtype == ZM_BOOL ? HIDES : ADDS;
  w->mask = zmi_cat_reshape(mask->type.dtype == ZM_BOOL ? mask : zm_astype(mask, ZM_F32), 5, shape[0], heads ? w->groups : (int64_t)1,
                            heads ? w->share : (int64_t)1, shape[2], shape[3]);
  return w->mask != NULL;
}

static bool take_sinks(whole *w, zm_array *sinks) {
  if (!sinks) return true;
  if (!zmi_cat_want_float(name, "sinks", sinks) || !zmi_cat_want(name, "sinks", sinks, 1, w->heads)) return false;
  w->kind |= SINKS;
  w->sinks = zmi_cat_reshape(zm_astype(sinks, ZM_F32), 4, w->groups, w->share, (int64_t)1, (int64_t)1);
  return w->sinks != NULL;
}

// ---- pieces ----

// Rows [first, last) of the queries. With `causal` the keys that none of them sees stay out, unless a row sees none at all.
static zm_array *rows_of(const whole *w, int64_t first, int64_t last, bool alone) {
  zm_array *in[6] = {zmi_cat_part(w->q, 3, first, last - first), w->k, w->v}, *y = NULL;
  const int64_t offset = w->length - w->rows; // the last query sees the last key
  int64_t length = w->length;
  int nin = 3;
  if (w->causal && first + offset >= 0) length = ZMI_MIN(last + offset, length);
  if (length < w->length) {
    in[1] = zmi_cat_part(w->k, 2, 0, length);
    in[2] = zmi_cat_part(w->v, 2, 0, length);
  }
  if (w->mask) {
    zm_array *m = w->mask;
    if (m->type.shape[3] != 1) m = zmi_cat_part(m, 3, first, last - first);
    if (m && m->type.shape[4] == w->length && length < w->length) m = zmi_cat_part(m, 4, 0, length);
    in[nin++] = m;
  }
  if (w->causal)
    in[nin++] = zmi_cat_reshape(zm_arange((double)(first + offset), (double)(last + offset), 1, ZM_I32), 2, last - first, (int64_t)1);
  if (w->sinks) in[nin++] = w->sinks;
  for (int i = 0; i < nin; i++)
    if (!in[i]) return NULL;
  zmi_definition *d = &softmaxes[w->kind];
  const zm_status status = alone ? piece(d, in, nin, &y, 1) : zm_checkpoint(piece, d, in, nin, &y, 1);
  return status == ZM_OK ? zmi_cat_reshape(y, 5, w->batch, w->groups, w->share, last - first, w->value_dim) : NULL;
}

enum { MOST_PIECES = 256, LEAST_ROWS = 16 };

zm_array *zmi_attention_in_pieces(zm_array *q, zm_array *k, zm_array *v, const zm_attention_options *options, int64_t scores) {
  const zm_attention_options none = {0}, *o = options ? options : &none;
  whole w = {.scale = o->scale, .causal = o->causal, .kind = o->causal ? CAUSAL : 0};
  zm_array *pieces[MOST_PIECES];
  if (!take_sequences(&w, q, k, v) || !take_mask(&w, o->mask) || !take_sinks(&w, o->sinks)) return NULL;
  const double of_row = (double)w.batch * (double)w.heads * (double)w.length;
  int64_t step = of_row * (double)w.rows <= (double)scores ? w.rows : (int64_t)((double)scores / of_row);
  step = ZMI_MAX(step, LEAST_ROWS);
  step = ZMI_MAX(step, (w.rows + MOST_PIECES - 1) / MOST_PIECES);
  size_t count = 0;
  for (int64_t first = 0; count == 0 || first < w.rows; first += step) {
    const int64_t last = ZMI_MIN(first + step, w.rows);
    if (!(pieces[count++] = rows_of(&w, first, last, last - first == w.rows))) return NULL;
  }
  zm_array *y = count == 1 ? pieces[0] : zm_concatenate(pieces, count, 3);
  return zm_astype(zmi_cat_reshape(y, 4, w.batch, w.heads, w.rows, w.value_dim), q->type.dtype);
}

zm_array *zm_scaled_dot_product_attention(zm_array *q, zm_array *k, zm_array *v, const zm_attention_options *options) {
  return zmi_attention_in_pieces(q, k, v, options, (int64_t)1 << 22);
}
