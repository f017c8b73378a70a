// Products whose weights are asked for long before they are used. Each warp has a ring of slots in shared memory. A cursor goes through the
// steps of the instructions to come in the order in which this warp will take them, and copies on their way fill the slots: also across
// barriers, as weights depend on nothing but, for experts, on the router. So the memory works while blocks wait for each other.
//
// A worker takes its tiles in one piece, in rounds of a few tiles. A unit is a range of 256 k of a tile; all units of a worker's tiles go
// to its warps in turn. A step is what a slot holds: `step` k of a unit.
//
// Sums of products of codes and digits are whole numbers, so tensor cores take them: 16 rows of weights by 32 k by 8 columns, of which
// three are the digits of the row. What follows (scales, biases) is a chain of multiply-adds of floats in the written order.

// Which unit: range `which` of a tile, which is block `block` of pair `pair`.
typedef struct zmi_gpu_spot {
  int tile, which, block, pair;
} zmi_gpu_spot;

// Of a warp, in shared memory: local memory would lie behind the second-level cache, as shared memory takes what the first could have.
typedef struct zmi_gpu_ring {
  const zmi_gpu_instruction *all;
  int count, worker, workers;
  char *slot;              // of this warp
  zmi_gpu_instruction *in; // the cursor's product, in shared memory
  int slots, put, get;
  unsigned asked, taken, turn; // steps; turn: of the gate of slot `get`
  // The cursor: the product, the end of its tiles, the unit, and what is left of that.
  int at, last, left;
  zmi_gpu_spot spot;
  const char *from;
  unsigned by;       // zmi_gpu_by(workers)
  int route;         // one more than the number of the last ROUTE whose choice is known
  const int *chosen; // by it
} zmi_gpu_ring;
static_assert(sizeof(zmi_gpu_ring) <= ZMI_GPU_GATES, "a cursor fits into its place");
static_assert(ZMI_GPU_GATES + 8 * ZMI_GPU_SLOTS <= ZMI_GPU_CURSOR, "gates fit into their place");

ZMI_INLINE char *zmi_gpu_cursor() {
  return zmi_shared() + ZMI_GPU_OWN_CURSOR + zmi_thread() / 32 * ZMI_GPU_CURSOR;
}
ZMI_INLINE unsigned long long *zmi_gpu_gate(int slot) {
  return (unsigned long long *)(void *)(zmi_gpu_cursor() + ZMI_GPU_GATES) + slot;
}

ZMI_INLINE int zmi_gpu_ranges(const zmi_gpu_dot *d) {
  return (d->matrix.k + ZMI_GPU_RANGE - 1) / ZMI_GPU_RANGE;
}

ZMI_INLINE int zmi_gpu_group_bytes(const zmi_gpu_matrix *m) {
  return m->group * m->bits * ZMI_GPU_LANES / 8 + 2 * ZMI_GPU_LANES * zmi_gpu_size(m->dtype);
}

// `units` units further.
ZMI_INLINE void zmi_gpu_spot_move(zmi_gpu_spot *s, const zmi_gpu_dot *d, int units) {
  s->which += units;
  while (s->which >= d->units) {
    s->which -= d->units;
    s->tile++;
    if (++s->block < d->blocks) continue;
    s->block = 0;
    s->pair++;
  }
}

// The first unit of this warp.
ZMI_INLINE zmi_gpu_spot zmi_gpu_spot_first(const zmi_gpu_dot *d, int tile) {
  const int pair = tile < d->blocks ? 0 : tile / d->blocks; // most products have one, and a quotient takes long
  zmi_gpu_spot s = {tile, 0, tile - pair * d->blocks, pair};
  zmi_gpu_spot_move(&s, d, zmi_thread() / 32);
  return s;
}

// The words of an instruction in the registers of a warp. at: which one; less than 0: none.
typedef struct zmi_gpu_words_of {
  int at;
  unsigned word[(sizeof(zmi_gpu_instruction) / 4 + 31) / 32];
} zmi_gpu_words_of;

ZMI_INLINE zmi_gpu_words_of zmi_gpu_words_from(const zmi_gpu_instruction *from, int at) {
  enum { WORDS = sizeof(zmi_gpu_instruction) / 4 };
  zmi_gpu_words_of w = {at, {}};
#pragma unroll
  for (int i = 0; i < (WORDS + 31) / 32; i++) {
    const int word = zmi_thread() % 32 + 32 * i;
    w.word[i] = at >= 0 && word < WORDS ? ((const unsigned *)(const void *)from)[word] : 0u;
  }
  return w;
}
ZMI_INLINE zmi_gpu_words_of zmi_gpu_fetch(const zmi_gpu_ring *r, int at) {
  return zmi_gpu_words_from(&r->all[at], at < r->count ? at : -1);
}

// A worker's first tile, and the one behind its last.
ZMI_INLINE int zmi_gpu_stream_begin(const zmi_gpu_ring *r, const zmi_gpu_instruction *in) {
  return in->as.dot.kept ? 0 : zmi_gpu_first_tile(in->tiles, r->worker, r->workers, r->by);
}
ZMI_INLINE int zmi_gpu_stream_end(const zmi_gpu_ring *r, const zmi_gpu_instruction *in) {
  return in->as.dot.kept ? in->tiles : zmi_gpu_first_tile(in->tiles, r->worker + 1, r->workers, r->by);
}

// soon: words that were asked for before; of another instruction they are of no use.
ZMI_INLINE void zmi_gpu_ring_open(zmi_gpu_ring *r, int at, const zmi_gpu_words_of *soon) {
  enum { WORDS = sizeof(zmi_gpu_instruction) / 4 };
  r->at = at;
  if (at >= r->count) return;
  const zmi_gpu_words_of w = soon->at == at ? *soon : zmi_gpu_fetch(r, at);
  zmi_sync_warp(); // what lies there has been read
#pragma unroll
  for (int i = 0; i < (WORDS + 31) / 32; i++) {
    const int word = zmi_thread() % 32 + 32 * i;
    if (word < WORDS) ((unsigned *)(void *)zmi_near(r->in))[word] = w.word[i];
  }
  zmi_sync_warp();
  const zmi_gpu_instruction *in = zmi_near(r->in);
  r->last = zmi_gpu_stream_end(r, in);
  r->spot = zmi_gpu_spot_first(&in->as.dot, zmi_gpu_stream_begin(r, in));
  r->left = 0;
}

// The expert of a pair; the weights of another one stand for a choice that is out of range.
ZMI_INLINE int zmi_gpu_ring_expert(const zmi_gpu_ring *r, const zmi_gpu_dot *d, int pair) {
  if (!d->chosen) return 0;
  const int expert = d->route ? zmi_near(r->chosen)[pair] : zmi_gpu_at<const int>(d->chosen)[pair];
  return expert >= 0 && expert < d->matrix.experts ? expert : 0;
}

// Where the unit of the cursor lies, and how many k it has.
ZMI_INLINE void zmi_gpu_ring_find(zmi_gpu_ring *r, const zmi_gpu_dot *d, int ranges) {
  const bool second = r->spot.which >= ranges;
  const int range = r->spot.which - (second ? ranges : 0), k = d->matrix.k - range * ZMI_GPU_RANGE;
  r->from = zmi_gpu_at<const char>(second ? d->up : d->matrix.packed) +
            (unsigned long long)zmi_gpu_ring_expert(r, d, r->spot.pair) * d->matrix.matrix_bytes +
            (unsigned long long)r->spot.block * d->matrix.block_bytes + (unsigned long long)range * (unsigned)d->range_bytes;
  r->left = k < ZMI_GPU_RANGE ? k : ZMI_GPU_RANGE;
}

// Asks for steps until the ring is full or what comes next is not known. now: the product at hand, behind which nothing is asked for
// then: to turn to the next one takes a while, which a block has when it waits for the others (now < 0).
ZMI_INLINE void zmi_gpu_ring_ask(zmi_gpu_ring *r, int now, const zmi_gpu_words_of *soon) {
  if (now >= 0 && r->at > now) return;
  while (r->at < r->count && r->asked - r->taken < (unsigned)r->slots) {
    const zmi_gpu_dot *d = &zmi_near(r->in)->as.dot;
    if (r->left <= 0) {
      if (d->chosen && r->at != now && (!d->route || d->route != r->route)) return;
      if (r->spot.tile >= r->last) {
        if (r->at == now) return;
        zmi_gpu_ring_open(r, zmi_near(r->in)->next, soon);
        continue;
      }
      zmi_gpu_ring_find(r, d, d->up ? d->units / 2 : d->units);
    }
    const int k = r->left < d->step ? r->left : d->step;
    const int groups = k >> zmi_gpu_group_shift(d->matrix.group);
    const int bytes = k == d->step ? d->step_bytes : groups * zmi_gpu_group_bytes(&d->matrix);
    zmi_bulk_copy(zmi_near(r->slot) + r->put * ZMI_GPU_SLOT, r->from, bytes, zmi_gpu_gate(r->put));
    r->from += bytes;
    r->left -= k;
    if (r->left <= 0) zmi_gpu_spot_move(&r->spot, d, ZMI_GPU_WARPS);
    r->put = r->put + 1 < r->slots ? r->put + 1 : 0;
    r->asked++;
  }
}

// Where the next step lies, once it has come. zmi_gpu_ring_done gives its slot back.
ZMI_INLINE const char *zmi_gpu_ring_take(zmi_gpu_ring *r) {
  zmi_bulk_wait(zmi_gpu_gate(r->get), r->turn);
  return zmi_near(r->slot + r->get * ZMI_GPU_SLOT);
}
ZMI_INLINE void zmi_gpu_ring_next(zmi_gpu_ring *r) {
  zmi_sync_warp();
  r->taken++;
  if (++r->get < r->slots) return;
  r->get = 0;
  r->turn ^= 1u;
}
ZMI_INLINE void zmi_gpu_ring_done(zmi_gpu_ring *r, int now) {
  const zmi_gpu_words_of none = {-1, {}};
  zmi_gpu_ring_next(r);
  zmi_gpu_ring_ask(r, now, &none);
}

// ---- a step ----

// A lane has rows lane / 4 and lane / 4 + 8 of the block. Of its column it makes what the products need (zmi_tile_us), of the results it
// has columns 2 c and 2 c + 1, c = lane % 4: c = 0 has the two upper digits and adds to `hi`, c = 1 the lowest and adds to `lo`.
typedef struct zmi_gpu_column {
  const char *digits;       // of the row that READY made: this lane's
  const float *scale, *sum; // of groups
  float acc[2];
} zmi_gpu_column;

// Of a lane's row the codes of k 8 c .. 8 c + 7 of a unit of 32: code q of a plane of P bits (matrix.h).
template <int P> ZMI_INLINE void zmi_gpu_plane_pair(const unsigned *w, int c, int done, unsigned code[2]) {
  enum { EACH = 8 / P };
  const unsigned mask = ((1u << P) - 1u) * 0x01010101u;
  if (P == 8) {
    code[0] |= w[2 * c * ZMI_GPU_LANES];
    code[1] |= w[(2 * c + 1) * ZMI_GPU_LANES];
    return;
  }
  const unsigned word = w[2 * c / EACH * ZMI_GPU_LANES] >> 2 * c % EACH * P;
  code[0] |= (word & mask) << done;
  code[1] |= (word >> P & mask) << done;
}
template <int BITS> ZMI_INLINE void zmi_gpu_pair_codes(const unsigned *w, int c, unsigned code[2]) {
  code[0] = code[1] = 0;
  if (BITS >= 8)
    zmi_gpu_plane_pair<8>(w, c, 0, code);
  else if (BITS >= 4)
    zmi_gpu_plane_pair<4>(w, c, 0, code);
  else
    zmi_gpu_plane_pair<2>(w, c, 0, code);
  if (BITS == 6) zmi_gpu_plane_pair<2>(w + 4 * ZMI_GPU_LANES, c, 4, code);
  if (BITS == 5) zmi_gpu_plane_pair<1>(w + 4 * ZMI_GPU_LANES, c, 4, code);
  if (BITS == 3) zmi_gpu_plane_pair<1>(w + 2 * ZMI_GPU_LANES, c, 2, code);
}

template <int BITS> ZMI_INLINE void zmi_gpu_unit_products(const unsigned *w, const char *d, int c, int D[4]) {
  unsigned low[2], high[2];
  zmi_gpu_pair_codes<BITS>(w, c, low);
  zmi_gpu_pair_codes<BITS>(w + 8, c, high);
  const unsigned a[4] = {low[0], high[0], low[1], high[1]};
  const zmi_gpu_two x = *(const zmi_gpu_two *)(const void *)d;
  zmi_tile_us(D, a, x.a);
}

// Adds what a group gives, whose sums of products are D: as zmi_gpu_add_group. s, b: scale and bias of the weights. A lane of `lo` has
// `upper` = 0, takes 256 for 1 and the second digit for 0: what a multiply-add makes of those is exact.
template <int DIGITS>
ZMI_INLINE void zmi_gpu_column_add(zmi_gpu_column *u, const int D[4], float e, float sum, int upper, const float s[2], const float b[2]) {
  const float times = DIGITS == 1 || !upper ? 1.0f : 256.0f, scale = DIGITS == 1 ? e : e * times;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float v = (float)D[2 * h];
    if (DIGITS > 1) v = zk_fma(v, times, (float)(D[2 * h + 1] & upper));
    u->acc[h] = zk_fma(s[h] * scale, v, u->acc[h]);
    if (upper) u->acc[h] = zk_fma(b[h], sum, u->acc[h]);
  }
}

// Adds `groups` groups of a step, the first of which is group `first` of the row.
template <int BITS, int DIGITS, int GROUP, bool FLOAT>
ZMI_INLINE void zmi_gpu_stream_groups(const char *slot, int group, int first, int groups, zmi_gpu_column *u) {
  enum { WORDS = BITS * ZMI_GPU_LANES, SIZE = FLOAT ? 4 : 2, DTYPE = FLOAT ? ZMI_GPU_F32 : ZMI_GPU_BF16 };
  const int row = zmi_thread() % 32 / 4, c = zmi_thread() % 4, upper = zmi_thread() & 1 ? 0 : -1;
  const char *d = u->digits + DIGITS * group * first;
  if (GROUP) group = GROUP;
  const int code_bytes = group / 32 * WORDS * 4;
#pragma unroll(GROUP ? 4 : 1)
  for (int g = 0; g < groups; g++) {
    const unsigned *w = (const unsigned *)(const void *)slot + row;
    int D[4] = {0, 0, 0, 0};
#pragma unroll(GROUP ? 4 : 1)
    for (int h = 0; h < group; h += 32) zmi_gpu_unit_products<BITS>(w + h / 32 * WORDS, d + h, c, D);
    const char *scales = slot + code_bytes, *biases = scales + ZMI_GPU_LANES * SIZE;
    const float s[2] = {zmi_gpu_scale(scales, DTYPE, row), zmi_gpu_scale(scales, DTYPE, row + 8)};
    const float b[2] = {zmi_gpu_scale(biases, DTYPE, row), zmi_gpu_scale(biases, DTYPE, row + 8)};
    zmi_gpu_column_add<DIGITS>(u, D, u->scale[first + g], u->sum[first + g], upper, s, b);
    slot += code_bytes + 2 * ZMI_GPU_LANES * SIZE;
    d += DIGITS * group;
  }
}

#define ZMI_GPU_BITS(BITS, FLOAT)                                                                                                          \
  case BITS:                                                                                                                               \
    return zmi_gpu_stream_groups<BITS, DIGITS, 0, FLOAT>(slot, group, first, groups, u);

// All formats; those that most models have are made for themselves.
template <int DIGITS> ZMI_INLINE void zmi_gpu_stream_step(const zmi_gpu_matrix *m, const char *slot, int k, int n, zmi_gpu_column *u) {
  const int group = m->group, shift = zmi_gpu_group_shift(group), first = k >> shift, groups = n >> shift;
  if (m->dtype == ZMI_GPU_F32) {
    switch (m->bits) {
      ZMI_GPU_BITS(2, true)
      ZMI_GPU_BITS(3, true)
      ZMI_GPU_BITS(4, true)
      ZMI_GPU_BITS(5, true)
      ZMI_GPU_BITS(6, true)
      ZMI_GPU_BITS(8, true)
    default:
      return;
    }
  }
  if (m->bits == 4 && group == 64) return zmi_gpu_stream_groups<4, DIGITS, 64, false>(slot, group, first, groups, u);
  if (m->bits == 8 && group == 64) return zmi_gpu_stream_groups<8, DIGITS, 64, false>(slot, group, first, groups, u);
  switch (m->bits) {
    ZMI_GPU_BITS(2, false)
    ZMI_GPU_BITS(3, false)
    ZMI_GPU_BITS(4, false)
    ZMI_GPU_BITS(5, false)
    ZMI_GPU_BITS(6, false)
    ZMI_GPU_BITS(8, false)
  default:
    return;
  }
}

// ---- a product ----

// The part of a unit: of `row` of what READY made.
ZMI_INLINE void zmi_gpu_stream_unit(zmi_gpu_ring *r, const zmi_gpu_dot *d, int now, int begin, const char *row, float *part) {
  const zmi_gpu_matrix *m = &d->matrix;
  const int lane = zmi_thread() % 32, plane = lane / 4 % 4 < m->digits ? lane / 4 % 4 : 0;
  const int end = begin + ZMI_GPU_RANGE < m->k ? begin + ZMI_GPU_RANGE : m->k;
  zmi_gpu_column u = {row + plane * m->group + lane % 4 * 8, (const float *)(const void *)(row + m->digits * m->k), 0, {0, 0}};
  u.sum = u.scale + (m->k >> zmi_gpu_group_shift(m->group));
  for (int k = begin; k < end; k += d->step) {
    const int n = end - k < d->step ? end - k : d->step;
    const char *slot = zmi_gpu_ring_take(r);
    if (m->digits == 1)
      zmi_gpu_stream_step<1>(m, slot, k, n, &u);
    else
      zmi_gpu_stream_step<3>(m, slot, k, n, &u);
    zmi_gpu_ring_done(r, now);
  }
  for (int h = 0; h < 2; h++) {
    const float lower = zmi_shuffle_float(u.acc[h], lane | 1);
    if (lane % 4 == 0) part[lane / 4 + 8 * h] = m->digits == 1 ? u.acc[h] : u.acc[h] + lower;
  }
}

ZMI_INLINE float zmi_gpu_stream_sum(const float *parts, int ranges) {
  float y = 0.0f;
#pragma unroll 8
  for (int i = 0; i < ranges; i++) y = y + parts[i * ZMI_GPU_LANES];
  return y;
}

// Thread t stores row t % 16 of tile t / 16 of a round, whose first tile is block `block` of pair `pair`.
ZMI_INLINE void zmi_gpu_stream_store(const zmi_gpu_ring *r, const zmi_gpu_dot *d, int block, int pair, const float *parts,
                                     zmi_gpu_address out) {
  const int lane = zmi_thread() % ZMI_GPU_LANES, ranges = d->up ? d->units / 2 : d->units;
  for (block += zmi_thread() / ZMI_GPU_LANES; block >= d->blocks; block -= d->blocks) pair++;
  const int row = block * ZMI_GPU_LANES + lane;
  if (row >= d->matrix.n) return;
  int expert = 0;
  if (d->chosen) expert = d->route ? zmi_near(r->chosen)[pair] : zmi_gpu_at<const int>(d->chosen)[pair];
  float y = zmi_gpu_stream_sum(parts + lane, ranges);
  if (expert < 0 || expert >= d->matrix.experts) {
    y = 0.0f;
  } else if (d->up) {
    const float up = zmi_gpu_round(zmi_gpu_stream_sum(parts + ranges * ZMI_GPU_LANES + lane, ranges), d->dtype);
    y = zmi_gpu_element_of(ZMI_GPU_GATED, d->dtype, zmi_gpu_round(y, d->dtype), up);
  } else if (d->matrix.bias) {
    y = y + zmi_gpu_load(d->matrix.bias, d->matrix.bias_dtype, (long long)expert * d->matrix.n + row);
  }
  zmi_gpu_store(out, d->dtype, pair * d->out_stride + row, y);
}

ZMI_INLINE zmi_gpu_ring *zmi_gpu_ring_here() {
  return (zmi_gpu_ring *)(void *)zmi_gpu_cursor();
}
// Back from registers.
ZMI_INLINE void zmi_gpu_ring_keep(const zmi_gpu_ring *ring) {
  zmi_sync_warp();
  if (zmi_thread() % 32 == 0) *zmi_gpu_ring_here() = *ring;
  zmi_sync_warp();
}

// in: instruction `now`. made: rows that READY made. shared: ZMI_GPU_DOT_SHARED bytes, and what is kept behind them.
ZMI_APART void zmi_gpu_stream_run(const zmi_gpu_instruction *in, int now, char *shared, const char *made) {
  zmi_gpu_ring here = *zmi_gpu_ring_here(), *r = &here;
  in = zmi_near(in);
  shared = zmi_near(shared);
  made = zmi_near(made);
  const zmi_gpu_dot *d = &in->as.dot;
  const int last = zmi_gpu_stream_end(r, in), t = zmi_thread(), ranges = d->up ? d->units / 2 : d->units;
  int tile = zmi_gpu_stream_begin(r, in), pair = tile < d->blocks ? 0 : tile / d->blocks;
  int block = tile - pair * d->blocks;
  float *parts = (float *)(void *)shared;
  const zmi_gpu_address out = d->kept ? (zmi_gpu_address)(shared + d->kept) : d->out;
  const zmi_gpu_words_of soon = zmi_gpu_words_from(in, now); // nearer than those in memory, if no barrier came before
  zmi_gpu_ring_ask(r, now, &soon);
  zmi_gpu_spot s = zmi_gpu_spot_first(d, tile);
  for (; tile < last; tile += d->together) {
    const int tiles = last - tile < d->together ? last - tile : d->together;
    for (; s.tile < tile + tiles; zmi_gpu_spot_move(&s, d, ZMI_GPU_WARPS)) {
      float *part = parts + ((s.tile - tile) * d->units + s.which) * ZMI_GPU_LANES;
      const int range = s.which < ranges ? s.which : s.which - ranges;
      const int row = s.pair < d->share ? 0 : s.pair / d->share; // one row alone needs no quotient
      zmi_gpu_stream_unit(r, d, now, range * ZMI_GPU_RANGE, made + row * (int)d->x_bytes, part);
    }
    zmi_sync();
    if (t < tiles * ZMI_GPU_LANES) zmi_gpu_stream_store(r, d, block, pair, parts + t / ZMI_GPU_LANES * d->units * ZMI_GPU_LANES, out);
    for (block += tiles; block >= d->blocks; block -= d->blocks) pair++;
    if (tile + tiles < last) zmi_sync(); // before the next round overwrites the parts
  }
  zmi_gpu_ring_keep(&here);
}
