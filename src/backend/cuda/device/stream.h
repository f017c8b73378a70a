// Products whose weights are asked for long before they are used. A block has a ring of slots in shared memory. A ninth warp goes through
// the products to come, in the order in which they will be made, and copies on their way fill the slots: also across barriers, as weights
// depend on nothing but, for experts, on the router. So the memory works while blocks wait for each other, and nobody who makes products
// has to find out where weights lie.
//
// A worker takes its tiles in one piece, in rounds of a few tiles. A unit is a range of 256 k of a tile; all units of a worker's tiles go
// to its eight warps in turn. A stage is what a slot holds: `stage` units, one after another, which are mostly so in memory, too.
//
// Sums of products of codes and digits are whole numbers, so tensor cores take them: 16 rows of weights by 32 k by 8 columns, of which
// three are the digits of the row. What follows (scales, biases) is a chain of multiply-adds of floats in the written order.

// Which unit: range `which` of a tile, which is block `block` of pair `pair`.
typedef struct zmi_gpu_spot {
  int tile, which, block, pair;
} zmi_gpu_spot;

// What the warps of a block tell each other of the ring, in shared memory.
typedef struct zmi_gpu_feed {
  unsigned long long gate[ZMI_GPU_SLOTS]; // of the slots: what a stage needs has come
  unsigned long long room[ZMI_GPU_SLOTS]; // all warps are done with it
  unsigned stages[ZMI_GPU_WARPS];         // of all products before the one at hand; each warp counts them
  unsigned routed, reached;               // marks: of a ROUTE whose choice is here, of a product that is at hand
  unsigned ended;                         // no more stages are taken
} zmi_gpu_feed;
static_assert(sizeof(zmi_gpu_feed) <= ZMI_GPU_FEED, "it fits into its place");

ZMI_INLINE zmi_gpu_feed *zmi_gpu_feed_here() {
  return zmi_near((zmi_gpu_feed *)(void *)(zmi_shared() + ZMI_GPU_OWN_FEED));
}

// The experts that the last ROUTE of every block's own has chosen.
ZMI_INLINE const int *zmi_gpu_chosen_here() {
  return zmi_near((const int *)(const void *)zmi_shared());
}

// Marks of instructions, which rise in the order in which they are played. number: of the instruction, from 1 on.
ZMI_INLINE unsigned zmi_gpu_mark(int step, int number) {
  return (unsigned)step << 24 | (unsigned)number;
}

// `many` units further of a product whose tiles have so many units, and blocks a pair.
ZMI_INLINE void zmi_gpu_spot_move(zmi_gpu_spot *s, int many, int units, int blocks) {
  s->which += many;
  while (s->which >= units) {
    s->which -= units;
    s->tile++;
    if (++s->block < blocks) continue;
    s->block = 0;
    s->pair++;
  }
}

// The unit that stands `many` behind the first one of the worker that takes the tiles from `tile` on.
ZMI_INLINE zmi_gpu_spot zmi_gpu_spot_first(int tile, int many, int units, int blocks) {
  const int pair = tile < blocks ? 0 : tile / blocks; // most products have one, and a quotient takes long
  zmi_gpu_spot s = {tile, 0, tile - pair * blocks, pair};
  zmi_gpu_spot_move(&s, many, units, blocks);
  return s;
}

// The ring as a warp that makes products has it in registers: the stage of its next unit, counted from the first of all, and which unit of
// it that is.
typedef struct zmi_gpu_ring {
  const char *slots;
  zmi_gpu_feed *feed;
  unsigned stage, done, end, count; // done: how many it has left; end: behind the product's last stage; count: of slots, a power of two
  int at, each;                     // each: units of a stage
} zmi_gpu_ring;

ZMI_INLINE void zmi_gpu_ring_move(zmi_gpu_ring *r, int many) {
  for (r->at += many; r->at >= r->each; r->at -= r->each) r->stage++;
}

// The turn of a stage's gates.
ZMI_INLINE unsigned zmi_gpu_stage_turn(unsigned stage, unsigned count) {
  return stage & count ? 1u : 0u;
}

// Waits until a stage has come.
ZMI_INLINE void zmi_gpu_stage_wait(zmi_gpu_feed *feed, unsigned stage, unsigned count) {
  zmi_bulk_wait(&feed->gate[stage & (count - 1)], zmi_gpu_stage_turn(stage, count));
}

// The warp leaves the product's stages before number `stage`.
ZMI_INLINE void zmi_gpu_ring_leave(zmi_gpu_ring *r, unsigned stage) {
  for (; r->done != stage && r->done != r->end; r->done++) {
    if (zmi_thread() % 32 != 0) continue;
    // Of a stage without a unit of the warp, too: before it has come, others may still be in the one that the slot had.
    zmi_gpu_stage_wait(r->feed, r->done, r->count);
    zmi_gate_arrive(&r->feed->room[r->done & (r->count - 1)]);
  }
}

// For a product of so many units.
ZMI_INLINE zmi_gpu_ring zmi_gpu_ring_open(const char *slots, int count, int each, int units) {
  zmi_gpu_feed *feed = zmi_gpu_feed_here();
  const int warp = zmi_thread() / 32;
  const unsigned first = feed->stages[warp], stages = (unsigned)(units + each - 1) / (unsigned)each;
  zmi_gpu_ring r = {slots, feed, first, first, first + stages, (unsigned)count, 0, each};
  zmi_gpu_ring_move(&r, warp);
  zmi_gpu_ring_leave(&r, r.stage); // a warp without units holds nobody up
  return r;
}

// Where the warp's unit lies, once it has come; and that it has been used.
ZMI_INLINE const char *zmi_gpu_ring_take(const zmi_gpu_ring *r, int unit_bytes) {
  zmi_gpu_stage_wait(r->feed, r->stage, r->count);
  return zmi_near(r->slots + (r->stage & (r->count - 1)) * ZMI_GPU_SLOT + r->at * unit_bytes);
}
ZMI_INLINE void zmi_gpu_ring_next(zmi_gpu_ring *r) {
  zmi_gpu_ring_move(r, ZMI_GPU_WARPS);
  zmi_sync_warp();
  zmi_gpu_ring_leave(r, r->stage);
}
ZMI_INLINE void zmi_gpu_ring_close(zmi_gpu_ring *r) {
  zmi_gpu_ring_leave(r, r->end);
  if (zmi_thread() % 32 == 0) r->feed->stages[zmi_thread() / 32] = r->end;
}

// ---- a unit ----

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

// Adds `groups` groups of a unit, the first of which is group `first` of the row. GROUP, GROUPS: of how many, if that is known beforehand:
// then nothing waits for the group before it but the sums.
template <int BITS, int DIGITS, int GROUP, bool FLOAT, int GROUPS>
ZMI_INLINE void zmi_gpu_stream_groups(const char *slot, int group, int first, int groups, zmi_gpu_column *u) {
  enum { WORDS = BITS * ZMI_GPU_LANES, SIZE = FLOAT ? 4 : 2, DTYPE = FLOAT ? ZMI_GPU_F32 : ZMI_GPU_BF16 };
  const int row = zmi_thread() % 32 / 4, c = zmi_thread() % 4, upper = zmi_thread() & 1 ? 0 : -1;
  const char *d = u->digits + DIGITS * group * first;
  if (GROUP) group = GROUP;
  if (GROUPS) groups = GROUPS;
  const int code_bytes = group / 32 * WORDS * 4;
#pragma unroll(GROUPS ? GROUPS : 1)
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
    return zmi_gpu_stream_groups<BITS, DIGITS, 0, FLOAT, 0>(slot, group, first, groups, u);

// All formats; those that most models have are made for themselves.
template <int DIGITS> ZMI_INLINE void zmi_gpu_stream_by_format(const zmi_gpu_matrix *m, const char *slot, int k, int n, zmi_gpu_column *u) {
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
  if (m->bits == 4 && group == 64 && groups == 4) return zmi_gpu_stream_groups<4, DIGITS, 64, false, 4>(slot, group, first, groups, u);
  if (m->bits == 8 && group == 64 && groups == 4) return zmi_gpu_stream_groups<8, DIGITS, 64, false, 4>(slot, group, first, groups, u);
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
ZMI_INLINE void zmi_gpu_stream_unit(const char *slot, const zmi_gpu_dot *d, int begin, const char *row, float *part) {
  const zmi_gpu_matrix *m = &d->matrix;
  const int lane = zmi_thread() % 32, plane = lane / 4 % 4 < m->digits ? lane / 4 % 4 : 0;
  const int n = m->k - begin < ZMI_GPU_RANGE ? m->k - begin : ZMI_GPU_RANGE;
  zmi_gpu_column u = {row + plane * m->group + lane % 4 * 8, (const float *)(const void *)(row + m->digits * m->k), 0, {0, 0}};
  u.sum = u.scale + (m->k >> zmi_gpu_group_shift(m->group));
  if (m->digits == 1)
    zmi_gpu_stream_by_format<1>(m, slot, begin, n, &u);
  else
    zmi_gpu_stream_by_format<3>(m, slot, begin, n, &u);
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
ZMI_INLINE void zmi_gpu_stream_store(const zmi_gpu_dot *d, int block, int pair, const float *parts, zmi_gpu_address out) {
  const int lane = zmi_thread() % ZMI_GPU_LANES, ranges = d->up ? d->units / 2 : d->units;
  for (block += zmi_thread() / ZMI_GPU_LANES; block >= d->blocks; block -= d->blocks) pair++;
  const int row = block * ZMI_GPU_LANES + lane;
  if (row >= d->matrix.n) return;
  int expert = 0;
  if (d->chosen) expert = d->route ? zmi_gpu_chosen_here()[pair] : zmi_gpu_at<const int>(d->chosen)[pair];
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

// A worker's first tile, and the one behind its last.
ZMI_INLINE int zmi_gpu_stream_begin(bool own, int tiles, int worker, int workers, unsigned by) {
  return own ? 0 : zmi_gpu_first_tile(tiles, worker, workers, by);
}
ZMI_INLINE int zmi_gpu_stream_end(bool own, int tiles, int worker, int workers, unsigned by) {
  return own ? tiles : zmi_gpu_first_tile(tiles, worker + 1, workers, by);
}

// made: rows that READY made. shared: ZMI_GPU_DOT_SHARED bytes, and what is kept behind them. slots: the ring, of so many.
ZMI_APART void zmi_gpu_stream_run(const zmi_gpu_instruction *in, int worker, int workers, unsigned by, char *shared, const char *made,
                                  const char *slots, int count) {
  in = zmi_near(in);
  shared = zmi_near(shared);
  made = zmi_near(made);
  const zmi_gpu_dot *d = &in->as.dot;
  const int t = zmi_thread(), units = d->units, ranges = d->up ? units / 2 : units, blocks = d->blocks, together = d->together;
  const int last = zmi_gpu_stream_end(d->kept, in->tiles, worker, workers, by);
  int tile = zmi_gpu_stream_begin(d->kept, in->tiles, worker, workers, by);
  if (tile >= last) return;
  zmi_gpu_ring ring = zmi_gpu_ring_open(slots, count, d->stage, (last - tile) * units);
  float *parts = (float *)(void *)shared;
  const zmi_gpu_address out = d->kept ? (zmi_gpu_address)(shared + d->kept) : d->out;
  int pair = tile < blocks ? 0 : tile / blocks, block = tile - pair * blocks;
  zmi_gpu_spot s = zmi_gpu_spot_first(tile, t / 32, units, blocks);
  for (; tile < last; tile += together) {
    const int tiles = last - tile < together ? last - tile : together;
    for (; s.tile < tile + tiles; zmi_gpu_spot_move(&s, ZMI_GPU_WARPS, units, blocks)) {
      float *part = parts + ((s.tile - tile) * units + s.which) * ZMI_GPU_LANES;
      const int range = s.which < ranges ? s.which : s.which - ranges;
      const int row = s.pair < d->share ? 0 : s.pair / d->share; // one row alone needs no quotient
      zmi_gpu_stream_unit(zmi_gpu_ring_take(&ring, d->range_bytes), d, range * ZMI_GPU_RANGE, made + row * (int)d->x_bytes, part);
      zmi_gpu_ring_next(&ring);
    }
    zmi_sync();
    if (t < tiles * ZMI_GPU_LANES) zmi_gpu_stream_store(d, block, pair, parts + t / ZMI_GPU_LANES * units * ZMI_GPU_LANES, out);
    for (block += tiles; block >= blocks; block -= blocks) pair++;
    if (tile + tiles < last) zmi_sync(); // before the next round overwrites the parts
  }
  zmi_gpu_ring_close(&ring);
}
