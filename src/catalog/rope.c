// Rotary positions: rotation of heads, and rotation together with the update of a cache. Updates give a new cache with the old contents
// everywhere but in the rows that were written.
#include "catalog/ops.h"

#include <string.h>

// ---- rope_rows: x [L, S, H, D] by tables [S, F] ----

enum { X, COSINE, SINE };

static const zmi_field fields[] = {{"traditional", ZMI_FIELD_INT, offsetof(zmi_rope_attrs, traditional), NULL}, {0}};

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 3, 3);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[X], 4, "[L, S, H, D]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[X]);
  for (int i = COSINE; i <= SINE && status == ZM_OK; i++) {
    const char *name = i == COSINE ? "cos" : "sin";
    status = zmi_want_rank(name, &in[i], 2, "float32 [S, D/2]");
    if (status == ZM_OK) status = zmi_want_dtype(name, &in[i], ZM_F32);
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 0, in[X].shape[1], "S of x");
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 1, in[COSINE].shape[1], "as cos");
  }
  if (status == ZM_OK && in[COSINE].shape[1] > in[X].shape[3] / 2) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "cos: %lld pairs are more than %lld elements hold", (long long)in[COSINE].shape[1],
                      (long long)in[X].shape[3]);
  }
  if (status == ZM_OK && in[X].shape[3] > ZMI_MAX_HEAD) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "x: heads of %lld elements, at most %d", (long long)in[X].shape[3], ZMI_MAX_HEAD);
  }
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = in[X];
  return ZM_OK;
}

enum { HEADS_OF_A_TILE = 16, AHEAD = 4096 /* bytes asked for before they are turned */ };

static int64_t tiles(const zmi_call *c) {
  const int64_t *n = c->in[X]->type.shape;
  return (n[0] * n[1] * n[2] + HEADS_OF_A_TILE - 1) / HEADS_OF_A_TILE;
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  _Alignas(64) float x[ZMI_MAX_HEAD], y[ZMI_MAX_HEAD];
  zm_dtype dtype = c->in[X]->type.dtype;
  const int64_t *n = c->in[X]->type.shape;
  const bool past = zmi_streams(c);
  int64_t dim = n[3], turned = c->in[COSINE]->type.shape[1], last = ZMI_MIN(end * HEADS_OF_A_TILE, n[0] * n[1] * n[2]);
  bool traditional = ((const zmi_rope_attrs *)c->attrs)->traditional != 0;
  const size_t bytes = (size_t)dim * zm_dtype_size(dtype);
  for (int64_t h = begin * HEADS_OF_A_TILE; h < last; h++) {
    int64_t row = h / n[2] % n[1];
    const float *cosine = (const float *)c->src[COSINE] + row * turned, *sine = (const float *)c->src[SINE] + row * turned;
    const void *from = zmi_at(c->src[X], dtype, h * dim);
    void *to = zmi_at(c->dst[0], dtype, h * dim);
    if (past) zmi_ask_ahead(from, bytes, AHEAD);
    c->kernels->load(from, dtype, dim, x);
    if (past && dtype == ZM_F32) { // nothing is rounded
      c->kernels->rope(x, 2 * turned, traditional, cosine, sine);
      zmi_copy_past(to, x, bytes);
      continue;
    }
    zmi_rope_head(c->kernels, x, dim, turned, traditional, cosine, sine, past ? y : to, dtype);
    if (past) zmi_copy_past(to, y, bytes);
  }
  if (past) zmi_copied_past();
}

ZMI_STATEMENTS(rope_pairs, "a b c s", "u v", NULL, "u = a * c - b * s; v = a * s + b * c;")

static zm_status composed(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  bool traditional = *(const bool *)user;
  int64_t dim = zmi_cat_last(in[X]), turned = zmi_cat_last(in[COSINE]), s = in[COSINE]->type.shape[0];
  zm_array *x = in[X], *part[4], *pair[2];
  zm_array *cosine = zmi_cat_reshape(in[COSINE], 3, s, (int64_t)1, turned), *sine = zmi_cat_reshape(in[SINE], 3, s, (int64_t)1, turned);
  part[0] = traditional ? zmi_cat_part_by(x, -1, 0, turned, 2) : zmi_cat_part(x, -1, 0, turned);
  part[1] = traditional ? zmi_cat_part_by(x, -1, 1, turned, 2) : zmi_cat_part(x, -1, turned, turned);
  zm_status status = zmi_definition_apply(&rope_pairs_def, (zm_array *[]){part[0], part[1], cosine, sine}, 4, NULL, 0, pair, 2);
  if (status != ZM_OK) return status;
  if (traditional) {
    pair[0] = zm_expand_dims(pair[0], -1);
    pair[1] = zm_expand_dims(pair[1], -1);
  }
  zm_array *y = zm_concatenate(pair, 2, -1);
  if (traditional) y = zmi_cat_join_last(y);
  if (2 * turned < dim) y = zm_concatenate((zm_array *[]){y, zmi_cat_part(x, -1, 2 * turned, dim - 2 * turned)}, 2, -1);
  out[0] = y;
  return zmi_cat_status(y);
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  zmi_rope_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  bool traditional = a.traditional != 0;
  if (wanted[COSINE] || wanted[SINE]) return zmi_cat_vjp_by(composed, &traditional, n, given, wanted, gradient);
  if (!wanted[X] || !given[0]) return ZM_OK;
  // A rotation's transpose turns the other way.
  gradient[X] = zmi_cat_apply1(&zmi_op_rope_rows, &a, sizeof a, 3, (zm_array *[]){given[0], n->in[COSINE], zm_negative(n->in[SINE])});
  return zmi_cat_status(gradient[X]);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = zmi_cat_vmap_rows, .gradient = "x cos sin"};

const zmi_op zmi_op_rope_rows = {
    .name = "rope_rows",
    .operands = "x cos sin",
    .fields = fields,
    .rounding = "Each pair (a, b) becomes (a cos - b sin, a sin + b cos) in float32, as rope, and is rounded once to the dtype of x.",
    .infer = infer,
    .stages = {{tiles, run}},
    .rules = &rules,
};

static zm_array *rotate(zm_array *x4, zm_array *cosine, zm_array *sine, bool traditional) {
  zmi_rope_attrs a = {traditional};
  return zmi_cat_apply1(&zmi_op_rope_rows, &a, sizeof a, 3, (zm_array *[]){x4, zm_astype(cosine, ZM_F32), zm_astype(sine, ZM_F32)});
}

// ---- write_rows: cache [N, W], values [M, W], places int32 [M] -> the cache with values[m] in row places[m] ----

enum { CACHE, VALUES, PLACES };

static zm_status write_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 3, 3);
  if (status == ZM_OK) status = zmi_want_rank("cache", &in[CACHE], 2, "[N, W]");
  if (status == ZM_OK) status = zmi_want_rank("values", &in[VALUES], 2, "[M, W]");
  if (status == ZM_OK) status = zmi_want_dtype("values", &in[VALUES], in[CACHE].dtype);
  if (status == ZM_OK) status = zmi_want_dim("values", &in[VALUES], 1, in[CACHE].shape[1], "W of cache");
  if (status == ZM_OK) status = zmi_want_index("places", &in[PLACES], in[VALUES].shape[0]);
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = in[CACHE];
  return ZM_OK;
}

enum { ROWS_OF_A_TILE = 64 };

static int64_t write_tiles(const zmi_call *c) {
  return (c->in[CACHE]->type.shape[0] + ROWS_OF_A_TILE - 1) / ROWS_OF_A_TILE;
}

static void write_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_type *t = &c->in[CACHE]->type;
  size_t bytes = (size_t)t->shape[1] * zm_dtype_size(t->dtype);
  int64_t first = begin * ROWS_OF_A_TILE, last = ZMI_MIN(end * ROWS_OF_A_TILE, t->shape[0]);
  const int32_t *places = c->src[PLACES];
  if (bytes == 0) return;
  memcpy((char *)c->dst[0] + (size_t)first * bytes, (const char *)c->src[CACHE] + (size_t)first * bytes, (size_t)(last - first) * bytes);
  for (int64_t m = 0; m < c->in[VALUES]->type.shape[0]; m++) {
    if (places[m] < first || places[m] >= last) continue;
    memcpy((char *)c->dst[0] + (size_t)places[m] * bytes, (const char *)c->src[VALUES] + (size_t)m * bytes, bytes);
  }
}

static zm_status write_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (!given[0]) return ZM_OK;
  const zmi_type *v = &n->in[VALUES]->type;
  if (wanted[CACHE]) {
    zm_array *zeros = zm_full(0, v->dtype, v->shape, v->rank);
    gradient[CACHE] = zmi_cat_apply1(&zmi_op_write_rows, NULL, 0, 3, (zm_array *[]){given[0], zeros, n->in[PLACES]});
    if (!gradient[CACHE]) return zm_last_status();
  }
  if (wanted[VALUES]) gradient[VALUES] = zm_take(given[0], n->in[PLACES]);
  return wanted[VALUES] ? zmi_cat_status(gradient[VALUES]) : ZM_OK;
}

static const zmi_rules write_rules = {.vjp = write_vjp, .gradient = "cache values"};

const zmi_op zmi_op_write_rows = {
    .name = "write_rows",
    .operands = "cache values places",
    .rounding = "exact; the last of several values for one row; values with a place out of range are not written",
    .infer = write_infer,
    .stages = {{write_tiles, write_run}},
    .rules = &write_rules,
};

// ---- functions ----

static zm_array *turned(const char *name, zm_array *x, zm_array *cosine, zm_array *sine, bool traditional) {
  if (!zmi_cat_want_float(name, "x", x) || !zmi_cat_want_rank(name, "x", x, 2)) return NULL;
  if (!zmi_cat_want_float(name, "cos", cosine) || !zmi_cat_want_float(name, "sin", sine)) return NULL;
  int64_t s = x->type.shape[x->type.rank - 2], d = zmi_cat_last(x);
  if (!zmi_cat_want(name, "cos", cosine, 2, s, d / 2) || !zmi_cat_want(name, "sin", sine, 2, s, d / 2)) return NULL;
  zm_array *y = rotate(zmi_cat_reshape(x, 4, zmi_cat_leading(x, 2), s, (int64_t)1, d), cosine, sine, traditional);
  return zmi_cat_like(y, x, 0, 0);
}

zm_array *zm_apply_rope(zm_array *x, zm_array *cosine, zm_array *sine) {
  return turned("apply_rope", x, cosine, sine, false);
}

zm_array *zm_apply_rope_interleaved(zm_array *x, zm_array *cosine, zm_array *sine) {
  return turned("apply_rope_interleaved", x, cosine, sine, true);
}

zm_array *zm_apply_gqa_rope(zm_array *x, zm_array *cosine, zm_array *sine, int64_t n_kv_heads) {
  const char *name = "apply_gqa_rope";
  if (!zmi_cat_want_float(name, "x", x) || !zmi_cat_want(name, "x", x, 4, (int64_t)-1, (int64_t)-1, (int64_t)-1, (int64_t)-1)) return NULL;
  int64_t s = x->type.shape[1], heads = x->type.shape[2], d = x->type.shape[3];
  if (!zmi_cat_want(name, "cos", cosine, 2, s, d / 2) || !zmi_cat_want(name, "sin", sine, 2, s, d / 2)) return NULL;
  if (n_kv_heads < 1 || heads % n_kv_heads != 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: %lld heads are no multiple of the %lld key heads", name, (long long)heads, (long long)n_kv_heads);
    return NULL;
  }
  return rotate(x, cosine, sine, false);
}

// One new position a sequence: x [B, H, D] by the rows of the tables at `offset`.
static zm_array *at_offsets(zm_array *x, zm_array *cosine, zm_array *sine, zm_array *offset) {
  zm_array *y = rotate(zmi_cat_reshape(x, 4, (int64_t)1, x->type.shape[0], x->type.shape[1], x->type.shape[2]), zm_take(cosine, offset),
                       zm_take(sine, offset), false);
  return zmi_cat_like(y, x, 0, 0);
}

// The row of the position in the table of rows of a sequence's blocks; -1 where there is none.
static zmi_definition place_def = {.name = "cache_place",
                                   .form = ZMI_FORM_ELEMENTS,
                                   .inputs = "offset row size limit",
                                   .outputs = "y",
                                   .source = "y = offset < 0 || offset >= limit ? -1 : row + offset / size;",
                                   .result = {ZM_I32}};
static zmi_definition paged_place_def = {.name = "cache_paged_place",
                                         .form = ZMI_FORM_ELEMENTS,
                                         .inputs = "offset block size blocks",
                                         .outputs = "y",
                                         .source = "y = offset < 0 || block < 0 || block >= blocks ? -1 : block * size + offset % size;",
                                         .result = {ZM_I32}};

static zm_array *number(int64_t value) {
  return zm_full((double)value, ZM_I32, NULL, 0);
}

static zm_array *written(zm_array *cache, zm_array *values, zm_array *places) {
  int64_t width = cache->type.shape[2] * cache->type.shape[3];
  zm_array *rows = zmi_cat_reshape(cache, 2, cache->type.shape[0] * cache->type.shape[1], width);
  zm_array *new = zmi_cat_reshape(values, 2, values->type.shape[0], width);
  return zmi_cat_like(zmi_cat_apply1(&zmi_op_write_rows, NULL, 0, 3, (zm_array *[]){rows, new, places}), cache, 0, 0);
}

static bool cache_fits(const char *name, const char *operand, zm_array *cache, zm_array *k, int64_t batch) {
  return zmi_cat_want(name, operand, cache, 4, batch, (int64_t)-1, k->type.shape[1], k->type.shape[2]) &&
         zmi_cat_want_dtype(name, operand, cache, k->type.dtype);
}

static bool decode_fits(const char *name, const zm_rope_cache *a, int64_t batch) {
  if (!zmi_cat_want_float(name, "q", a->q) || !zmi_cat_want(name, "q", a->q, 3, (int64_t)-1, (int64_t)-1, (int64_t)-1)) return false;
  int64_t b = a->q->type.shape[0], d = a->q->type.shape[2];
  return zmi_cat_want(name, "k", a->k, 3, b, (int64_t)-1, d) && zmi_cat_want_float(name, "k", a->k) &&
         zmi_cat_want(name, "v", a->v, 3, b, a->k->type.shape[1], (int64_t)-1) && zmi_cat_want_float(name, "v", a->v) &&
         zmi_cat_want(name, "cos", a->cosine, 2, (int64_t)-1, d / 2) && zmi_cat_want(name, "sin", a->sine, 2, (int64_t)-1, d / 2) &&
         cache_fits(name, "k_cache", a->k_cache, a->k, batch < 0 ? -1 : b) &&
         cache_fits(name, "v_cache", a->v_cache, a->v, batch < 0 ? -1 : b) && zmi_cat_want(name, "offset", a->offset, 1, b);
}

static zm_status update(const zm_rope_cache *a, zm_array *offset, zm_array *places, zm_array **q, zm_array **k_cache, zm_array **v_cache) {
  zm_array *made[3] = {at_offsets(a->q, a->cosine, a->sine, offset)};
  made[1] = written(a->k_cache, at_offsets(a->k, a->cosine, a->sine, offset), places);
  made[2] = written(a->v_cache, a->v, places);
  if (!made[0] || !made[1] || !made[2]) return zm_last_status();
  *q = made[0], *k_cache = made[1], *v_cache = made[2];
  return ZM_OK;
}

zm_status zm_rope_and_cache_update(const zm_rope_cache *a, zm_array **q, zm_array **k_cache, zm_array **v_cache) {
  const char *name = "rope_and_cache_update";
  zm_array *places;
  if (!decode_fits(name, a, 0)) return zm_last_status();
  int64_t batch = a->q->type.shape[0], most = a->k_cache->type.shape[1];
  zm_array *offset = zmi_cat_indices(name, "offset", a->offset);
  zm_array *in[] = {offset, zm_multiply(zm_arange(0, (double)batch, 1, ZM_I32), number(most)), number(1), number(most)};
  zm_status status = zmi_definition_apply(&place_def, in, 4, NULL, 0, &places, 1);
  return status == ZM_OK ? update(a, offset, places, q, k_cache, v_cache) : status;
}

zm_status zm_paged_rope_and_cache_update(const zm_rope_cache *a, zm_array **q, zm_array **k_cache, zm_array **v_cache) {
  const char *name = "paged_rope_and_cache_update";
  zm_array *entry, *places;
  if (!decode_fits(name, a, -1)) return zm_last_status();
  int64_t batch = a->q->type.shape[0], size = a->k_cache->type.shape[1];
  if (!zmi_cat_want(name, "block_table", a->block_table, 2, batch, (int64_t)-1)) return zm_last_status();
  int64_t table = a->block_table->type.shape[1];
  zm_array *offset = zmi_cat_indices(name, "offset", a->offset), *blocks = zmi_cat_indices(name, "block_table", a->block_table);
  zm_array *in[] = {offset, zm_multiply(zm_arange(0, (double)batch, 1, ZM_I32), number(table)), number(size), number(table * size)};
  zm_status status = zmi_definition_apply(&place_def, in, 4, NULL, 0, &entry, 1);
  if (status != ZM_OK) return status;
  // Places without an entry are -1: take gives 0 there, and the offset is made invalid.
  zm_array *block = zm_take(zmi_cat_reshape(blocks, 1, batch * table), entry);
  zm_array *valid = zm_where(zm_less(entry, number(0)), number(-1), offset);
  zm_array *in2[] = {valid, block, number(size), number(a->k_cache->type.shape[0])};
  status = zmi_definition_apply(&paged_place_def, in2, 4, NULL, 0, &places, 1);
  return status == ZM_OK ? update(a, offset, places, q, k_cache, v_cache) : status;
}

// ---- multi-head latent attention, one new position: rotated parts behind those that are not ----

static zm_status concat(const char *name, zm_array *const *in, zm_array *cosine, zm_array *sine, zm_array **q, zm_array **k) {
  static const char *const names[] = {"q_nope", "q_rope", "kv_nope", "k_rope"};
  zm_array *made[2];
  for (int i = 0; i < 4; i++) {
    if (!zmi_cat_want_float(name, names[i], in[i])) return zm_last_status();
    int64_t heads = i < 2 ? (i ? in[0]->type.shape[1] : -1) : 1;
    int64_t width = i == 2 ? zmi_cat_last(in[0]) : i == 3 ? zmi_cat_last(in[1]) : -1;
    if (!zmi_cat_want(name, names[i], in[i], 4, i ? in[0]->type.shape[0] : (int64_t)-1, heads, (int64_t)1, width)) return zm_last_status();
  }
  int64_t pairs = zmi_cat_last(in[1]) / 2;
  if (!zmi_cat_want(name, "cos", cosine, 2, (int64_t)1, pairs) || !zmi_cat_want(name, "sin", sine, 2, (int64_t)1, pairs))
    return zm_last_status();
  for (int i = 0; i < 2; i++) {
    zm_array *x = in[2 * i + 1];
    zm_array *y = rotate(zmi_cat_reshape(x, 4, zmi_cat_leading(x, 1), (int64_t)1, (int64_t)1, 2 * pairs), cosine, sine, true);
    made[i] = zm_concatenate((zm_array *[]){in[2 * i], zmi_cat_like(y, x, 0, 0)}, 2, -1);
    if (!made[i]) return zm_last_status();
  }
  *q = made[0], *k = made[1];
  return ZM_OK;
}

zm_status zm_rope_concat_qk_decode(zm_array *q_nope, zm_array *q_rope, zm_array *kv_nope, zm_array *k_rope, zm_array *cosine,
                                   zm_array *sine, int64_t offset, zm_array **q, zm_array **k) {
  const char *name = "rope_concat_qk_decode";
  if (!zmi_cat_want(name, "cos", cosine, 2, (int64_t)-1, (int64_t)-1) || !zmi_cat_want(name, "sin", sine, 2, (int64_t)-1, (int64_t)-1))
    return zm_last_status();
  int64_t row = offset < 0 ? -offset : offset;
  if (row >= cosine->type.shape[0] || row >= sine->type.shape[0]) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s: offset: the tables have %lld rows, found %lld", name, (long long)cosine->type.shape[0],
                    (long long)offset);
  }
  zm_array *c = zmi_cat_part(cosine, 0, row, 1), *s = zmi_cat_part(sine, 0, row, 1);
  if (offset < 0) s = zm_negative(s);
  return concat(name, (zm_array *[]){q_nope, q_rope, kv_nope, k_rope}, c, s, q, k);
}

zm_status zm_rope_concat_qk_decode_pos(zm_array *q_nope, zm_array *q_rope, zm_array *kv_nope, zm_array *k_rope, zm_array *cosine,
                                       zm_array *sine, zm_array **q, zm_array **k) {
  const char *name = "rope_concat_qk_decode_pos";
  if (!zmi_cat_want(name, "cos", cosine, 1, (int64_t)-1) || !zmi_cat_want(name, "sin", sine, 1, (int64_t)-1)) return zm_last_status();
  return concat(name, (zm_array *[]){q_nope, q_rope, kv_nope, k_rope}, zm_expand_dims(cosine, 0), zm_expand_dims(sine, 0), q, k);
}

// ---- rows ----

#define CALL(word, ...)                                                                                                                    \
  static zm_status word##_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {                                    \
    (void)nin, (void)params;                                                                                                               \
    out[0] = zm_##word(__VA_ARGS__);                                                                                                       \
    return zmi_cat_status(out[0]);                                                                                                         \
  }
CALL(apply_rope, in[0], in[1], in[2])
CALL(apply_rope_interleaved, in[0], in[1], in[2])
CALL(apply_gqa_rope, in[0], in[1], in[2], params[0].whole)

static zm_status update_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)params;
  zm_rope_cache a = {in[0], in[1], in[2], in[3], in[4], in[5], in[6], in[7], nin > 8 ? in[8] : NULL};
  return nin > 8 ? zm_paged_rope_and_cache_update(&a, &out[0], &out[1], &out[2]) : zm_rope_and_cache_update(&a, &out[0], &out[1], &out[2]);
}

static zm_status concat_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  return zm_rope_concat_qk_decode(in[0], in[1], in[2], in[3], in[4], in[5], params[0].whole, &out[0], &out[1]);
}

static zm_status concat_pos_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  return zm_rope_concat_qk_decode_pos(in[0], in[1], in[2], in[3], in[4], in[5], &out[0], &out[1]);
}

#define NEW "q [B, H, D], k [B, HKV, D], v [B, HKV, DV], cos [N, D/2], sin [N, D/2], "
#define NEW_SAMPLE "q 8 32 128; k 8 8 128; v 8 8 128; cos 512 64 float32; sin 512 64 float32; "
#define MLA "q_nope [B, H, 1, DN], q_rope [B, H, 1, DR], kv_nope [B, 1, 1, DN], k_rope [B, 1, 1, DR], "
#define MLA_SAMPLE "q_nope 1 20 1 512; q_rope 1 20 1 64; kv_nope 1 1 1 512; k_rope 1 1 1 64; "
#define DTYPES "float16, bfloat16, float32; tables any float; integers"

static const zmi_entry entries[] = {
    {.name = "apply_rope",
     .formula = "pairs (x[i], x[i + D/2]) = (a cos - b sin, a sin + b cos)",
     .shapes = "x [..., S, D], cos [S, D/2], sin [S, D/2] -> [..., S, D]",
     .gradient = "x cos sin",
     .sample = "x 32 512 128 grows; cos 512 64 float32; sin 512 64 float32",
     .call = apply_rope_call},
    {.name = "apply_rope_interleaved",
     .formula = "pairs (x[2i], x[2i + 1]) = (a cos - b sin, a sin + b cos)",
     .shapes = "x [..., S, D], cos [S, D/2], sin [S, D/2] -> [..., S, D]",
     .gradient = "x cos sin",
     .sample = "x 32 512 128 grows; cos 512 64 float32; sin 512 64 float32",
     .call = apply_rope_interleaved_call},
    {.name = "apply_gqa_rope",
     .formula = "apply_rope of each head; H is a multiple of n_kv_heads",
     .shapes = "x [B, S, H, D], cos [S, D/2], sin [S, D/2] -> [B, S, H, D]",
     .gradient = "x cos sin",
     .parameters = "n_kv_heads=1 integer 1..",
     .sample = "x 1 512 32 128 grows; cos 512 64 float32; sin 512 64 float32",
     .call = apply_gqa_rope_call},
    {.name = "rope_and_cache_update",
     .formula = "q and k turned by row offset[b] of the tables; the caches with k and v in row offset[b], the other rows as they were; an "
                "offset out of range writes nothing",
     .shapes = NEW "k_cache [B, M, HKV, D], v_cache [B, M, HKV, DV], offset [B] -> q, k_cache, v_cache",
     .dtypes = DTYPES,
     .gradient = "q k v cos sin k_cache v_cache",
     .outputs = 3,
     .sample = NEW_SAMPLE "k_cache 8 512 8 128; v_cache 8 512 8 128; offset 8 int32 < 512",
     .call = update_call},
    {.name = "paged_rope_and_cache_update",
     .formula = "the same with position t of sequence b in row t % BS of block block_table[b][t / BS]",
     .shapes = NEW "k_cache [NB, BS, HKV, D], v_cache [NB, BS, HKV, DV], offset [B], block_table [B, MB] -> q, k_cache, v_cache",
     .dtypes = DTYPES,
     .gradient = "q k v cos sin k_cache v_cache",
     .outputs = 3,
     .sample = NEW_SAMPLE "k_cache 256 16 8 128; v_cache 256 16 8 128; offset 8 int32 < 512; block_table 8 32 int32 < 256",
     .call = update_call},
    {.name = "rope_concat_qk_decode",
     .formula =
         "q = [q_nope, rope(q_rope)], k = [kv_nope, rope(k_rope)], pairs (2i, 2i + 1), by row |offset| of the tables, backwards if it "
         "is negative",
     .shapes = MLA "cos [N, DR/2], sin [N, DR/2] -> q [B, H, 1, DN + DR], k [B, 1, 1, DN + DR]",
     .gradient = "q_nope q_rope kv_nope k_rope cos sin",
     .parameters = "offset=3 integer -2147483647..",
     .outputs = 2,
     .sample = MLA_SAMPLE "cos 64 32 float32; sin 64 32 float32",
     .call = concat_call},
    {.name = "rope_concat_qk_decode_pos",
     .formula = "the same with the row of the tables given",
     .shapes = MLA "cos [DR/2], sin [DR/2] -> q [B, H, 1, DN + DR], k [B, 1, 1, DN + DR]",
     .gradient = "q_nope q_rope kv_nope k_rope cos sin",
     .outputs = 2,
     .sample = MLA_SAMPLE "cos 32 float32; sin 32 float32",
     .call = concat_pos_call},
};

ZMI_GROUP(rope, "Rotary positions.");
