// Attention of one query row a sequence over a cache in blocks. A tile is one sequence and one key/value head. The keys and values of a
// range of 128 positions are brought together as the caches of models have them, once for all query heads that share them; from there it is
// the attention of models: their kernel for a range, their way to join ranges (docs/numerics.md).
#include "catalog/ops.h"

#include <string.h>

enum { Q, KEYS, VALUES, TABLE, LENGTHS };

typedef struct paged_attrs {
  double scale;
} paged_attrs;

static const zmi_field fields[] = {{"scale", ZMI_FIELD_FLOAT, offsetof(paged_attrs, scale), NULL}, {0}};

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 5, 5);
  if (status == ZM_OK) status = zmi_want_rank("q", &in[Q], 3, "[B, H, D]");
  if (status == ZM_OK) status = zmi_want_float("q", &in[Q]);
  for (int i = KEYS; i <= VALUES && status == ZM_OK; i++) {
    const char *name = i == KEYS ? "k_cache" : "v_cache";
    status = zmi_want_rank(name, &in[i], 4, "[NB, BS, HKV, D]");
    if (status == ZM_OK) status = zmi_want_dtype(name, &in[i], in[Q].dtype);
    if (status == ZM_OK) status = zmi_want_dim(name, &in[i], 3, in[Q].shape[2], "D of q");
    for (int a = 0; a < 3 && i == VALUES && status == ZM_OK; a++) {
      status = zmi_want_dim(name, &in[i], a, in[KEYS].shape[a], "as k_cache");
    }
  }
  if (status == ZM_OK) status = zmi_want_rank("block_table", &in[TABLE], 2, "[B, MB]");
  if (status == ZM_OK) status = zmi_want_dtype("block_table", &in[TABLE], ZM_I32);
  if (status == ZM_OK) status = zmi_want_dim("block_table", &in[TABLE], 0, in[Q].shape[0], "B of q");
  if (status == ZM_OK) status = zmi_want_index("context_lens", &in[LENGTHS], in[Q].shape[0]);
  if (status != ZM_OK) return status;
  int64_t heads = in[Q].shape[1], kv = in[KEYS].shape[2];
  if (kv == 0 ? heads != 0 : heads % kv != 0) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "q: %lld heads are no multiple of the %lld key heads", (long long)heads, (long long)kv);
  }
  if (in[Q].shape[2] > ZMI_MAX_HEAD)
    return zmi_fail(ZM_ERROR_ARGUMENT, "q: D is %lld, at most %d", (long long)in[Q].shape[2], ZMI_MAX_HEAD);
  *nout = 1;
  out[0] = in[Q];
  return ZM_OK;
}

typedef struct paged {
  const zmi_kernels *kn;
  zm_dtype dtype;
  int64_t batch, heads, dim, kv, share, blocks, block, table;
  int64_t even; // dim, or one more where it is odd: the last pair is filled up with zeros
  float scale;
} paged;

static paged paged_of(const zmi_call *c) {
  const zmi_type *q = &c->in[Q]->type, *k = &c->in[KEYS]->type;
  paged p = {.kn = c->kernels, .dtype = q->dtype, .batch = q->shape[0], .heads = q->shape[1], .dim = q->shape[2]};
  p.kv = k->shape[2];
  p.share = p.kv ? p.heads / p.kv : 0;
  p.blocks = k->shape[0];
  p.block = k->shape[1];
  p.table = c->in[TABLE]->type.shape[1];
  p.even = p.dim + p.dim % 2;
  p.scale = (float)((const paged_attrs *)c->attrs)->scale;
  return p;
}

// Of one lane: queries [share][even], keys [8][even / 2][16][2] and values [128][even] of a range; results [share + 1].
typedef struct work {
  char *q, *keys, *values, *results;
} work;

static size_t row_bytes_of(const paged *p) {
  return (size_t)p->even * zm_dtype_size(p->dtype);
}

static size_t lane_bytes(const paged *p) {
  const size_t row = row_bytes_of(p);
  return zmi_align64((size_t)p->share * row) + 2 * zmi_align64(ZMI_KEY_RANGE * row) +
         zmi_partial_bytes(p->even) * (size_t)(p->share + ZMI_QUERIES);
}

static work work_at(const paged *p, char *memory) {
  work w = {.q = memory};
  w.keys = w.q + zmi_align64((size_t)p->share * row_bytes_of(p));
  w.values = w.keys + zmi_align64(ZMI_KEY_RANGE * row_bytes_of(p));
  w.results = w.values + zmi_align64(ZMI_KEY_RANGE * row_bytes_of(p));
  return w;
}

static size_t scratch(const zmi_call *c) {
  paged p = paged_of(c);
  return lane_bytes(&p) * (size_t)zmi_lane_count(p.batch * p.kv);
}

static int64_t tiles(const zmi_call *c) {
  paged p = paged_of(c);
  return p.heads && p.dim ? zmi_lane_count(p.batch * p.kv) : 0;
}

// The row of position t, -1 if it has no block.
static int64_t place(const paged *p, const int32_t *table, int64_t t) {
  int64_t b = table[t / p->block];
  return b < 0 || b >= p->blocks ? -1 : b * p->block + t % p->block;
}

// The pairs of a key to its place of a block; of bfloat16 and float16, or of float32.
#define PUT_PAIRS(T)                                                                                                                       \
  for (int64_t j = 0; j < pairs; j++) {                                                                                                    \
    T pair;                                                                                                                                \
    memcpy(&pair, key + (size_t)j * sizeof pair, sizeof pair);                                                                             \
    memcpy(to + (size_t)(j * ZMI_KEY_BLOCK) * sizeof pair, &pair, sizeof pair);                                                            \
  }

static void put_key(const paged *p, const char *key, char *keys, int64_t t) {
  const size_t size = zm_dtype_size(p->dtype);
  const int64_t pairs = p->dim / 2;
  char *to = keys + (size_t)(t / ZMI_KEY_BLOCK * ZMI_KEY_BLOCK * p->even + 2 * (t % ZMI_KEY_BLOCK)) * size;
  if (size == 2) {
    PUT_PAIRS(uint32_t)
  } else {
    PUT_PAIRS(uint64_t)
  }
  if (p->dim == p->even) return;
  to += (size_t)(2 * pairs * ZMI_KEY_BLOCK) * size;
  memcpy(to, key + (size_t)(p->dim - 1) * size, size);
  memset(to + size, 0, size);
}

static void put_row(const paged *p, const char *from, char *to) {
  const size_t size = zm_dtype_size(p->dtype), bytes = (size_t)p->dim * size;
  memcpy(to, from, bytes);
  if (p->dim != p->even) memset(to + bytes, 0, size);
}

// Positions [first, last) of a sequence that have a block, side by side as in the caches of models; their number.
static int64_t bring_together(const paged *p, const zmi_call *c, const work *w, const int32_t *table, int64_t head, int64_t first,
                              int64_t last) {
  const size_t row_bytes = row_bytes_of(p);
  int64_t count = 0;
  for (int64_t t = first; t < last; t++) {
    int64_t row = place(p, table, t), from = (row * p->kv + head) * p->dim;
    if (row < 0) continue;
    if (count % ZMI_KEY_BLOCK == 0) memset(w->keys + (size_t)count * row_bytes, 0, ZMI_KEY_BLOCK * row_bytes);
    put_key(p, zmi_at(c->src[KEYS], p->dtype, from), w->keys, count);
    put_row(p, zmi_at(c->src[VALUES], p->dtype, from), w->values + (size_t)count * row_bytes);
    count++;
  }
  return count;
}

static zmi_partial *result_of(const paged *p, const work *w, int64_t i) {
  return (zmi_partial *)(void *)(w->results + (size_t)i * zmi_partial_bytes(p->even));
}

// The positions brought together, for all queries that share them, joined with what there is if `any`.
static void attend_range(const paged *p, const work *w, int64_t count, bool any) {
  const size_t row_bytes = row_bytes_of(p);
  for (int64_t s = 0; s < p->share; s += ZMI_QUERIES) {
    const int queries = (int)ZMI_MIN(p->share - s, ZMI_QUERIES);
    zmi_query query[ZMI_QUERIES];
    for (int i = 0; i < queries; i++) {
      zmi_partial *to = result_of(p, w, any ? p->share + i : s + i);
      query[i] = (zmi_query){w->q + (size_t)(s + i) * row_bytes, &to->max, &to->sum, to->values};
    }
    p->kn->attend(query, queries, w->keys, w->values, p->dtype, p->even, count, p->scale, false);
    for (int i = 0; i < queries && any; i++) zmi_partial_join(p->kn, p->even, result_of(p, w, s + i), result_of(p, w, p->share + i));
  }
}

static void one_sequence(const paged *p, const zmi_call *c, const work *w, int64_t b, int64_t head) {
  const int32_t *table = (const int32_t *)c->src[TABLE] + b * p->table;
  const size_t row_bytes = row_bytes_of(p);
  const int64_t length = ZMI_MIN((int64_t)((const int32_t *)c->src[LENGTHS])[b], p->table * p->block);
  const int64_t at = (b * p->heads + head * p->share) * p->dim;
  bool any = false;
  for (int64_t s = 0; s < p->share; s++) put_row(p, zmi_at(c->src[Q], p->dtype, at + s * p->dim), w->q + (size_t)s * row_bytes);
  for (int64_t t = 0; t < length; t += ZMI_KEY_RANGE) {
    const int64_t count = bring_together(p, c, w, table, head, t, ZMI_MIN(t + ZMI_KEY_RANGE, length));
    if (count == 0) continue;
    attend_range(p, w, count, any);
    any = true;
  }
  for (int64_t s = 0; s < p->share; s++) {
    void *to = zmi_at(c->dst[0], p->dtype, at + s * p->dim);
    if (any)
      zmi_partial_finish(p->kn, p->dim, result_of(p, w, s), to, p->dtype);
    else
      memset(to, 0, (size_t)p->dim * zm_dtype_size(p->dtype)); // no position is seen
  }
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  paged p = paged_of(c);
  int64_t all = p.batch * p.kv;
  for (int64_t lane = begin; lane < end; lane++) {
    work w = work_at(&p, (char *)c->scratch + lane_bytes(&p) * (size_t)lane);
    for (int64_t i = zmi_lane_begin(all, lane); i < zmi_lane_begin(all, lane + 1); i++) one_sequence(&p, c, &w, i / p.kv, i % p.kv);
  }
}

// The same as a composition: the blocks of each sequence in a row, then masked softmax between two products.
static zm_status composed(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)nin, (void)nout;
  const zmi_type *q = &in[Q]->type, *k = &in[KEYS]->type;
  int64_t batch = q->shape[0], heads = q->shape[1], dim = q->shape[2], kv = k->shape[2], block = k->shape[1];
  int64_t table = in[TABLE]->type.shape[1], length = table * block, share = kv ? heads / kv : 0;
  zm_array *f[2];
  for (int i = 0; i < 2; i++) {
    zm_array *rows = zm_take(zm_astype(in[KEYS + i], ZM_F32), in[TABLE]); // [B, MB, BS, HKV, D]
    f[i] = zm_transpose(zmi_cat_reshape(rows, 4, batch, length, kv, dim), (int[]){0, 2, 1, 3});
  }
  zm_array *queries = zmi_cat_reshape(zm_astype(in[Q], ZM_F32), 4, batch, kv, share, dim);
  zm_array *scores = zmi_cat_matmul_t(queries, f[0]);
  zm_array *there = zm_multiply(zm_greater_equal(in[TABLE], zm_full(0, ZM_I32, NULL, 0)),
                                zm_less(in[TABLE], zm_full((double)k->shape[0], ZM_I32, NULL, 0)));
  there = zmi_cat_reshape(zm_broadcast_to(zm_expand_dims(there, -1), (int64_t[]){batch, table, block}, 3), 2, batch, length);
  zm_array *seen = zm_less(zm_arange(0, (double)length, 1, ZM_I32), zm_expand_dims(in[LENGTHS], -1));
  zm_array *mask = zmi_cat_reshape(zm_multiply(there, seen), 4, batch, (int64_t)1, (int64_t)1, length);
  zm_array *p = zm_scale_mask_softmax(scores, mask, ((const paged_attrs *)user)->scale);
  out[0] = zm_astype(zmi_cat_reshape(zm_matmul(p, f[1]), 3, batch, heads, dim), q->dtype);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  paged_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  return zmi_cat_vjp_by(composed, &a, n, given, wanted, gradient);
}

static const zmi_rules rules = {.vjp = vjp, .gradient = "q k_cache v_cache"};

const zmi_op zmi_op_paged_attention = {
    .name = "paged_attention",
    .operands = "q k_cache v_cache block_table context_lens",
    .fields = fields,
    .rounding = "Scores, softmax and weighted values in float32 by ranges of 128 positions joined from left to right; divided by the sum, "
                "then rounded once.",
    .infer = infer,
    .scratch = scratch,
    .stages = {{tiles, run}},
    .rules = &rules,
};

zm_array *zm_paged_attention(zm_array *q, zm_array *k_cache, zm_array *v_cache, zm_array *block_table, zm_array *context_lens,
                             double scale) {
  const char *name = "paged_attention";
  if (!zmi_cat_want_float(name, "q", q)) return NULL;
  paged_attrs a = {scale};
  if (scale == 0) a.scale = 1 / zmi_pow((double)ZMI_MAX(zmi_cat_last(q), 1), 0.5);
  zm_array *in[] = {q, k_cache, v_cache, zmi_cat_indices(name, "block_table", block_table),
                    zmi_cat_indices(name, "context_lens", context_lens)};
  return zmi_cat_apply1(&zmi_op_paged_attention, &a, sizeof a, 5, in);
}
