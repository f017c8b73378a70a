// attention: causal, grouped queries, over the key and value caches. Positions are taken in ranges of 128; a range gives a maximum, a sum
// of exponentials and un-normalized values (the kernel `attend`), and ranges are joined from left to right. That order is the result: it is
// the same whether all ranges of a head follow one another in one tile or every range is a tile of its own.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <string.h>

static const zmi_field fields[] = {{"scale", ZMI_FIELD_FLOAT, offsetof(zmi_attention_attrs, scale), NULL}, {NULL, ZMI_FIELD_INT, 0, NULL}};

enum { Q, KEYS, VALUES, POSITION, SEQUENCE };

// Every range is a tile of its own where rows are few and their partial results take at most SPLIT_BYTES; else a head's ranges follow one
// another.
enum { SHARERS = 16, SPLIT_ROWS = 8, SPLIT_BYTES = 16 * 1024 * 1024, SPLIT_TILES = 64, PASS_ROWS = 8 };

// ---- one query head ----

void zmi_partial_join(const zmi_kernels *kn, int64_t dim, zmi_partial *a, const zmi_partial *b) {
  float max = b->max > a->max || b->max != b->max ? b->max : a->max;
  float wa = max == a->max ? 1 : zmi_expf(a->max - max), wb = max == b->max ? 1 : zmi_expf(b->max - max);
  if (wa != 1) {
    for (int64_t i = 0; i < dim; i++) a->values[i] *= wa;
  }
  kn->axpy(wb, b->values, ZM_F32, dim, a->values);
  a->sum = __builtin_fmaf(wb, b->sum, wa * a->sum);
  a->max = max;
}

void zmi_partial_finish(const zmi_kernels *kn, int64_t dim, zmi_partial *a, void *dst, zm_dtype dtype) {
  for (int64_t i = 0; i < dim; i++) a->values[i] /= a->sum;
  kn->store(a->values, dim, dst, dtype);
}

static size_t partial_bytes(const zmi_heads *h) {
  return zmi_partial_bytes(h->dim);
}

static void join(const zmi_heads *h, zmi_partial *a, const zmi_partial *b) {
  zmi_partial_join(h->kernels, h->dim, a, b);
}

static void finish(const zmi_heads *h, zmi_partial *a, int64_t row, int64_t head) {
  zmi_partial_finish(h->kernels, h->dim, a, zmi_at(h->out, h->dtype, (row * h->heads + head) * h->dim), h->dtype);
}

// Positions that a row sees; 0 if its position or sequence is out of range.
static int64_t seen(const zmi_heads *h, int64_t row) {
  int64_t p = h->position[row], s = h->sequence[row];
  return p < 0 || p >= h->context || s < 0 || s >= h->sequences ? 0 : p + 1;
}

static int64_t ranges_of(int64_t positions) {
  return (positions + ZMI_KEY_RANGE - 1) / ZMI_KEY_RANGE;
}

// Query heads that see the whole of the same range of the same keys, collected, so that they share its reading.
typedef struct sharers {
  const zmi_heads *h;
  int64_t at, count; // of the range: its first position in the caches, its positions
  bool more;
  int queries;
  zmi_query query[SHARERS];
} sharers;

static void attend(sharers *s) {
  const zmi_heads *h = s->h;
  if (s->queries == 0) return;
  h->kernels->attend(s->query, s->queries, zmi_at(h->keys, h->dtype, s->at * h->dim), zmi_at(h->values, h->dtype, s->at * h->dim), h->dtype,
                     h->dim, s->count, h->scale, s->more);
  s->queries = 0;
  s->more = false; // asked for once
}

static sharers sharers_of(const zmi_heads *h, int64_t row, int64_t kv, int64_t range) {
  const int64_t first = range * ZMI_KEY_RANGE, count = seen(h, row) - first;
  return (sharers){.h = h,
                   .at = (h->sequence[row] * h->kv_heads + kv) * h->context + first,
                   .count = ZMI_MIN(count, ZMI_KEY_RANGE),
                   .more = count > ZMI_KEY_RANGE};
}

static void add_query(sharers *s, int64_t row, int64_t head, zmi_partial *to) {
  const zmi_heads *h = s->h;
  s->query[s->queries++] = (zmi_query){zmi_at(h->q, h->dtype, (row * h->heads + head) * h->dim), &to->max, &to->sum, to->values};
  if (s->queries == SHARERS) attend(s);
}

// ---- all ranges at once: every range of every head has a partial result, which the second stage joins ----

static int64_t all_ranges(const zmi_heads *h) {
  return ranges_of(h->context);
}

static bool splits(const zmi_heads *h) {
  size_t bytes = partial_bytes(h);
  if (h->rows > SPLIT_ROWS) return false;
  return !zmi_mul_overflow(bytes, (size_t)(h->rows * h->heads), &bytes) && !zmi_mul_overflow(bytes, (size_t)all_ranges(h), &bytes) &&
         bytes <= SPLIT_BYTES;
}

static zmi_partial *split_partial(const zmi_heads *h, void *scratch, int64_t row, int64_t head, int64_t range) {
  return (zmi_partial *)(void *)((char *)scratch + (size_t)((row * h->heads + head) * all_ranges(h) + range) * partial_bytes(h));
}

// One range of a key/value head. Those from a head's first one on that follow one another here are joined at once, while they are in the
// caches: in the place of the first, each by way of the place of the second. joined: how many those are, this range included; 0 for any
// other.
static void split_range(const zmi_heads *h, void *scratch, int64_t row, int64_t kv, int64_t range, int64_t joined) {
  const int64_t group = h->heads / h->kv_heads, place = joined > 1 ? 1 : range;
  sharers s = sharers_of(h, row, kv, range);
  for (int64_t q = kv * group; q < (kv + 1) * group; q++) add_query(&s, row, q, split_partial(h, scratch, row, q, place));
  attend(&s);
  for (int64_t q = kv * group; joined > 0 && q < (kv + 1) * group; q++) {
    zmi_partial *first = split_partial(h, scratch, row, q, 0);
    if (joined > 1) join(h, first, split_partial(h, scratch, row, q, 1));
    first->ranges = joined;
  }
}

// Items (row, key/value head, range) that have positions, shared out evenly: their number is known only now.
static void split_run(const zmi_heads *h, void *scratch, int64_t begin, int64_t end) {
  int64_t total = 0, joined = 0;
  for (int64_t r = 0; r < h->rows; r++) total += h->kv_heads * ranges_of(seen(h, r));
  int64_t next = total * begin / SPLIT_TILES, stop = total * end / SPLIT_TILES, base = 0;
  for (int64_t r = 0; r < h->rows && base < stop; r++) {
    int64_t ranges = ranges_of(seen(h, r)), items = h->kv_heads * ranges;
    for (; next < ZMI_MIN(stop, base + items); next++) {
      const int64_t range = (next - base) % ranges;
      joined = range == 0 ? 1 : joined > 0 ? joined + 1 : 0;
      split_range(h, scratch, r, (next - base) / ranges, range, joined);
    }
    base += items;
  }
}

static void zero_row(const zmi_heads *h, int64_t row, int64_t head) {
  memset(zmi_at(h->out, h->dtype, (row * h->heads + head) * h->dim), 0, (size_t)h->dim * zm_dtype_size(h->dtype));
}

static void split_finish(const zmi_heads *h, void *scratch, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; t++) {
    int64_t row = t / h->heads, head = t % h->heads, ranges = ranges_of(seen(h, row));
    if (ranges == 0) {
      zero_row(h, row, head);
      continue;
    }
    zmi_partial *first = split_partial(h, scratch, row, head, 0);
    for (int64_t range = first->ranges; range < ranges; range++) join(h, first, split_partial(h, scratch, row, head, range));
    finish(h, first, row, head);
  }
}

// ---- one after another: a tile is a few rows and one key/value head, and passes once over the keys ----

// Running results of a tile's rows and heads, and those for the range at hand.
static size_t pass_bytes(const zmi_heads *h) {
  return partial_bytes(h) * (size_t)(2 * PASS_ROWS * (h->heads / h->kv_heads));
}

static int64_t pass_tiles(const zmi_heads *h) {
  return (h->rows + PASS_ROWS - 1) / PASS_ROWS * h->kv_heads;
}

// Later rows of a prompt see more positions: tiles take first and last row groups in turn, so that neighbouring tiles together cost the
// same everywhere.
static int64_t fold(int64_t i, int64_t n) {
  return i % 2 == 0 ? i / 2 : n - 1 - i / 2;
}

static zmi_partial *pass_partial(const zmi_heads *h, char *memory, int64_t row, int64_t head) {
  return (zmi_partial *)(void *)(memory + (size_t)(row * (h->heads / h->kv_heads) + head) * partial_bytes(h));
}

// One range for the rows of a tile that see it: rows that see all of it in the same sequence share its reading, others stand alone.
static void pass_range(const zmi_heads *h, char *memory, int64_t first, int64_t last, int64_t kv, int64_t range) {
  const int64_t group = h->heads / h->kv_heads, before = range > 0 ? PASS_ROWS : 0;
  sharers s = {0};
  for (int64_t r = first; r < last; r++) {
    if (range >= ranges_of(seen(h, r))) continue;
    const sharers mine = sharers_of(h, r, kv, range);
    if (s.h && (s.at != mine.at || s.count != mine.count)) attend(&s);
    if (!s.h || s.at != mine.at || s.count != mine.count) s = mine;
    for (int64_t q = 0; q < group; q++) add_query(&s, r, kv * group + q, pass_partial(h, memory, before + r - first, q));
  }
  if (s.h) attend(&s);
  for (int64_t r = first; r < last && range > 0; r++) {
    if (range >= ranges_of(seen(h, r))) continue;
    for (int64_t q = 0; q < group; q++) join(h, pass_partial(h, memory, r - first, q), pass_partial(h, memory, PASS_ROWS + r - first, q));
  }
}

static void pass_tile(const zmi_heads *h, char *memory, int64_t tile) {
  int64_t group = h->heads / h->kv_heads, parts = pass_tiles(h) / h->kv_heads, first = fold(tile % parts, parts) * PASS_ROWS;
  int64_t last = ZMI_MIN(first + PASS_ROWS, h->rows), ranges = 0, head = tile / parts * group;
  for (int64_t r = first; r < last; r++) ranges = ZMI_MAX(ranges, ranges_of(seen(h, r)));
  for (int64_t range = 0; range < ranges; range++) pass_range(h, memory, first, last, tile / parts, range);
  for (int64_t r = first; r < last; r++) {
    for (int64_t q = 0; q < group; q++) {
      if (seen(h, r) == 0) {
        zero_row(h, r, head + q);
      } else {
        finish(h, pass_partial(h, memory, r - first, q), r, head + q);
      }
    }
  }
}

// ---- either way ----

static int64_t pass_lanes(const zmi_heads *h) {
  return zmi_lane_count(pass_tiles(h));
}

size_t zmi_attention_scratch(const zmi_heads *h) {
  if (h->rows == 0) return 0;
  if (splits(h)) return partial_bytes(h) * (size_t)(h->rows * h->heads * all_ranges(h));
  return pass_bytes(h) * (size_t)pass_lanes(h);
}

int64_t zmi_attention_tiles(const zmi_heads *h) {
  return h->rows == 0 ? 0 : splits(h) ? SPLIT_TILES : pass_lanes(h);
}

void zmi_attention_run(const zmi_heads *h, void *scratch, int64_t begin, int64_t end) {
  if (splits(h)) {
    split_run(h, scratch, begin, end);
    return;
  }
  int64_t tiles = pass_tiles(h);
  for (int64_t lane = begin; lane < end; lane++) {
    for (int64_t t = zmi_lane_begin(tiles, lane); t < zmi_lane_begin(tiles, lane + 1); t++)
      pass_tile(h, (char *)scratch + (size_t)lane * pass_bytes(h), t);
  }
}

int64_t zmi_attention_finish_tiles(const zmi_heads *h) {
  return splits(h) ? h->rows * h->heads : 0;
}

void zmi_attention_finish(const zmi_heads *h, void *scratch, int64_t begin, int64_t end) {
  split_finish(h, scratch, begin, end);
}

// ---- the op ----

zm_status zmi_want_attention(const zmi_type *q, const zmi_type *keys, const zmi_type *values) {
  zm_status status = zmi_want_rank("q", q, 3, "[rows, heads, dim]");
  if (status == ZM_OK) status = zmi_want_head_dtype("q", q);
  if (status == ZM_OK) status = zmi_want_cache("keys", keys, true);
  if (status == ZM_OK) status = zmi_want_cache("values", values, false);
  if (status == ZM_OK) status = zmi_want_dtype("keys", keys, q->dtype);
  if (status == ZM_OK) status = zmi_want_dtype("values", values, q->dtype);
  if (status == ZM_OK) status = zmi_want_dim("q", q, 2, 2 * keys->shape[3], "elements of a head of keys");
  if (status == ZM_OK) status = zmi_want_dim("values", values, 0, keys->shape[0], "sequences of keys");
  if (status == ZM_OK) status = zmi_want_dim("values", values, 1, keys->shape[1], "heads of keys");
  if (status == ZM_OK) status = zmi_want_dim("values", values, 2, keys->shape[2] * ZMI_KEY_BLOCK, "positions of keys");
  if (status == ZM_OK) status = zmi_want_dim("values", values, 3, q->shape[2], "elements of a head");
  if (status == ZM_OK && (keys->shape[1] < 1 || q->shape[1] < 1 || q->shape[1] % keys->shape[1] != 0)) {
    status = zmi_fail(ZM_ERROR_ARGUMENT, "q: %lld heads are not a multiple of the %lld heads of the keys", (long long)q->shape[1],
                      (long long)keys->shape[1]);
  }
  return status;
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 5, 5);
  if (status == ZM_OK) status = zmi_want_attention(&in[Q], &in[KEYS], &in[VALUES]);
  if (status == ZM_OK) status = zmi_want_index("position", &in[POSITION], in[Q].shape[0]);
  if (status == ZM_OK) status = zmi_want_index("sequence", &in[SEQUENCE], in[Q].shape[0]);
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = in[Q];
  return ZM_OK;
}

static zmi_heads heads_of(const zmi_call *c) {
  const zmi_attention_attrs *a = c->attrs;
  const zmi_type *q = &c->in[Q]->type, *values = &c->in[VALUES]->type;
  return (zmi_heads){
      .kernels = c->kernels,
      .dtype = q->dtype,
      .rows = q->shape[0],
      .heads = q->shape[1],
      .dim = q->shape[2],
      .kv_heads = values->shape[1],
      .context = values->shape[2],
      .sequences = values->shape[0],
      .position = c->src[POSITION],
      .sequence = c->src[SEQUENCE],
      .q = c->src[Q],
      .out = c->dst[0],
      .scale = (float)a->scale,
      .keys = (void *)(uintptr_t)c->src[KEYS],
      .values = (void *)(uintptr_t)c->src[VALUES], // only read here
  };
}

static size_t scratch(const zmi_call *c) {
  zmi_heads h = heads_of(c);
  return zmi_attention_scratch(&h);
}

static int64_t tiles(const zmi_call *c) {
  zmi_heads h = heads_of(c);
  return zmi_attention_tiles(&h);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_heads h = heads_of(c);
  zmi_attention_run(&h, c->scratch, begin, end);
}

static int64_t finish_tiles(const zmi_call *c) {
  zmi_heads h = heads_of(c);
  return zmi_attention_finish_tiles(&h);
}

static void finish_run(const zmi_call *c, int64_t begin, int64_t end) {
  zmi_heads h = heads_of(c);
  zmi_attention_finish(&h, c->scratch, begin, end);
}

// ---- rules: the same mathematics without ranges, in float32, each row with the keys and values of its sequence ----

typedef struct dense {
  zm_array *q, *k, *v; // [rows, kv heads, group, dim], [rows, kv heads, context, dim] twice
  zm_array *p, *seen;  // probabilities [rows, kv heads, group, context], zero at positions that are not seen
  int64_t rows, kv, group, dim, context, sequences;
} dense;

static zm_array *flip_last(zm_array *a) {
  return a ? zmi_move_axis(a, a->type.rank - 1, a->type.rank - 2) : NULL;
}

// Keys between their blocks [.., blocks, dim/2, 16, 2] and [.., context, dim].
static zm_array *turn_blocks(zm_array *a) {
  return a ? zm_transpose(a, (int[]){0, 1, 2, 4, 3, 5}) : NULL;
}

static zm_array *within(zm_array *index, int64_t limit) {
  return zm_multiply(zm_greater_equal(index, zmi_scalar_like(index, 0)), zm_less(index, zmi_scalar_like(index, (double)limit)));
}

static dense dense_of(const zmi_node *n) {
  const zmi_attention_attrs *a = (const zmi_attention_attrs *)(const void *)n->attrs.bytes;
  const zmi_type *q = &n->in[Q]->type, *v = &n->in[VALUES]->type;
  dense d = {.rows = q->shape[0], .kv = v->shape[1], .dim = q->shape[2], .context = v->shape[2], .sequences = v->shape[0]};
  d.group = q->shape[1] / d.kv;
  zm_array *position = n->in[POSITION], *sequence = n->in[SEQUENCE], *keys = turn_blocks(zm_astype(n->in[KEYS], ZM_F32));
  if (!keys) return d;
  keys = zm_reshape(keys, (int64_t[]){d.sequences, d.kv, d.context, d.dim}, 4);
  d.q = zm_reshape(zm_astype(n->in[Q], ZM_F32), (int64_t[]){d.rows, d.kv, d.group, d.dim}, 4);
  d.k = zm_take(keys, sequence);
  d.v = zm_take(zm_astype(n->in[VALUES], ZM_F32), sequence);
  zm_array *known = zm_multiply(within(position, d.context), within(sequence, d.sequences));
  zm_array *seen = zm_greater_equal(zm_expand_dims(position, 1), zm_arange(0, (double)d.context, 1, ZM_I32));
  seen = zm_multiply(seen, zm_expand_dims(known, 1));
  d.seen = seen ? zm_reshape(seen, (int64_t[]){d.rows, 1, 1, d.context}, 4) : NULL;
  zm_array *scores = zm_multiply(zm_matmul(d.q, flip_last(d.k)), zm_full(a->scale, ZM_F32, NULL, 0));
  d.p = zm_softmax(zm_where(d.seen, scores, zm_full(-3e38, ZM_F32, NULL, 0)));
  d.p = zm_where(d.seen, d.p, zm_full(0, ZM_F32, NULL, 0));
  return d;
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const zmi_attention_attrs *a = (const zmi_attention_attrs *)(const void *)n->attrs.bytes;
  const zm_dtype dtype = n->in[Q]->type.dtype;
  dense d = dense_of(n);
  zm_array *g = zm_reshape(zm_astype(given[0], ZM_F32), (int64_t[]){d.rows, d.kv, d.group, d.dim}, 4), *sequence = n->in[SEQUENCE];
  if (wanted[VALUES]) gradient[VALUES] = zm_astype(zmi_take_add(zm_matmul(flip_last(d.p), g), sequence, d.sequences), dtype);
  if (!wanted[Q] && !wanted[KEYS]) return ZM_OK;
  zm_array *gp = zm_matmul(g, flip_last(d.v));
  zm_array *gs = zm_multiply(d.p, zm_subtract(gp, zm_sum(zm_multiply(gp, d.p), -1, true)));
  gs = zm_multiply(gs, zm_full(a->scale, ZM_F32, NULL, 0));
  if (wanted[Q]) {
    zm_array *gq = zm_matmul(gs, d.k);
    gradient[Q] = gq ? zm_astype(zm_reshape(gq, n->in[Q]->type.shape, 3), dtype) : NULL;
  }
  if (wanted[KEYS]) {
    const int64_t blocks[] = {d.sequences, d.kv, d.context / ZMI_KEY_BLOCK, ZMI_KEY_BLOCK, d.dim / 2, 2};
    zm_array *gk = zmi_take_add(zm_matmul(flip_last(gs), d.q), sequence, d.sequences);
    gradient[KEYS] = gk ? zm_astype(turn_blocks(zm_reshape(gk, blocks, 6)), dtype) : NULL;
  }
  return ZM_OK;
}

static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 1u << Q | 1u << POSITION | 1u << SEQUENCE, out);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = vmap, .gradient = "q, keys, values"};

const zmi_op zmi_op_attention = {
    .name = "attention",
    .operands = "q keys values position sequence",
    .fields = fields,
    .rounding = "Scores, softmax and weighted values in float32 by ranges of 128 positions joined from left to right; divided by the sum, "
                "then rounded once.",
    .infer = infer,
    .scratch = scratch,
    .device = zmi_attention_device,
    .stages = {{tiles, run}, {finish_tiles, finish_run}},
    .rules = &rules,
};

zm_array *zmi_attention(zm_array *q, zm_array *keys, zm_array *values, zm_array *position, zm_array *sequence, double scale) {
  zmi_attention_attrs a = {scale};
  return zmi_apply1(&zmi_op_attention, &a, sizeof a, 5, (zm_array *[]){q, keys, values, position, sequence});
}
