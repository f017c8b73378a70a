// Products whose weights are asked for long before they are used. A block has a ring of slots in shared memory. A ninth warp goes through
// the products to come, in the order in which they will be made, and copies on their way fill the slots: also across barriers, as weights
// depend on nothing but, for experts, on the router. So the memory works while blocks wait for each other, and nobody who makes products
// has to find out where weights lie.
//
// A worker takes its tiles in one piece, in rounds of a few tiles. A unit is a range of 256 k of a tile; all units of a worker's tiles go
// to its eight warps in turn. A stage is what a slot holds: `stage` units, 4 or 8, one after another, which are mostly so in memory, too.
//
// Sums of products of codes and digits are whole numbers, so tensor cores take them: 16 rows of weights by 32 k by 8 columns, of which
// three are the digits of the row. What follows (scales, biases) is a chain of multiply-adds of floats in the written order.

// What the warps of a block tell each other of the ring, in shared memory.
typedef struct zmi_gpu_feed {
  unsigned long long gate[ZMI_GPU_SLOTS]; // of the slots: what a stage needs has come
  unsigned long long room[ZMI_GPU_SLOTS]; // all units of it have been used
  unsigned long long routed, reached;     // a choice is here that weights wait for; a product is at hand, whose weights wait for that
  unsigned long long ended;               // no more stages are taken
  unsigned stages[ZMI_GPU_WARPS];         // of all products before the one at hand; each warp counts them
} zmi_gpu_feed;
static_assert(sizeof(zmi_gpu_feed) <= ZMI_GPU_FEED, "it fits into its place");

ZMI_INLINE zmi_gpu_feed *zmi_gpu_feed_here() {
  return zmi_near((zmi_gpu_feed *)(void *)(zmi_shared() + ZMI_GPU_OWN_FEED));
}

// The experts that the last ROUTE of every block's own has chosen.
ZMI_INLINE const int *zmi_gpu_chosen_here() {
  return zmi_near((const int *)(const void *)zmi_shared());
}

// The turn of a stage's gates.
ZMI_INLINE unsigned zmi_gpu_stage_turn(unsigned stage, unsigned count) {
  return stage & count ? 1u : 0u;
}

// Waits until a stage has come.
ZMI_INLINE void zmi_gpu_stage_wait(zmi_gpu_feed *feed, unsigned stage, unsigned count) {
  zmi_bulk_wait(&feed->gate[stage & (count - 1)], zmi_gpu_stage_turn(stage, count));
}

// Of a stage of so many units. Not fewer than four: a warp's stages must not be further from each other than there are slots, or the turn
// of a gate could be one that was long ago.
ZMI_INLINE int zmi_gpu_stage_shift(int each) {
  return each == 8 ? 3 : 2;
}

// The pair of a tile, `blocks` tiles a pair; by: the quotient by `blocks` as a product, or 0.
ZMI_INLINE int zmi_gpu_pair_of(int tile, int blocks, unsigned by) {
  if (tile < blocks) return 0; // most products have one pair, and a quotient takes long
  return by ? (int)((unsigned long long)(unsigned)tile * by >> 36) : tile / blocks;
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
  const unsigned word = w[2 * c / EACH * ZMI_GPU_LANES] >> 2 * c % EACH * P;
  code[0] |= (word & mask) << done;
  code[1] |= (word >> P & mask) << done;
}
template <int BITS> ZMI_INLINE void zmi_gpu_pair_codes(const unsigned *w, int c, unsigned code[2]) {
  code[0] = code[1] = 0;
  if (BITS >= 4)
    zmi_gpu_plane_pair<4>(w, c, 0, code);
  else
    zmi_gpu_plane_pair<2>(w, c, 0, code);
  if (BITS == 6) zmi_gpu_plane_pair<2>(w + 4 * ZMI_GPU_LANES, c, 4, code);
  if (BITS == 5) zmi_gpu_plane_pair<1>(w + 4 * ZMI_GPU_LANES, c, 4, code);
  if (BITS == 3) zmi_gpu_plane_pair<1>(w + 2 * ZMI_GPU_LANES, c, 2, code);
}

// The same of both rows of a lane. Words of lanes with other c lie in the same banks of shared memory, unless they ask for different ones
// of theirs at the same time: so each begins with another one, and puts them in order afterwards.
template <int BITS> ZMI_INLINE void zmi_gpu_rows_codes(const unsigned *w, int c, unsigned low[2], unsigned high[2]) {
  if (BITS == 4) {
    const int turn = c & 2 ? 8 : 0;
    const unsigned one = w[c * ZMI_GPU_LANES + turn], two = w[c * ZMI_GPU_LANES + 8 - turn], a = turn ? two : one, b = turn ? one : two;
    low[0] = a & 0x0f0f0f0fu, low[1] = a >> 4 & 0x0f0f0f0fu;
    high[0] = b & 0x0f0f0f0fu, high[1] = b >> 4 & 0x0f0f0f0fu;
  } else if (BITS == 8) {
    unsigned v[4], once[4], twice[4];
    for (int i = 0; i < 4; i++) {
      const int which = (i + c) & 3; // the first or second word, of the first or second row
      v[i] = w[(2 * c + (which & 1)) * ZMI_GPU_LANES + (which >> 1) * 8];
    }
    for (int i = 0; i < 4; i++) once[i] = c & 1 ? v[(i + 3) & 3] : v[i];
    for (int i = 0; i < 4; i++) twice[i] = c & 2 ? once[(i + 2) & 3] : once[i];
    low[0] = twice[0], low[1] = twice[1], high[0] = twice[2], high[1] = twice[3];
  } else {
    zmi_gpu_pair_codes<BITS>(w, c, low);
    zmi_gpu_pair_codes<BITS>(w + 8, c, high);
  }
}

template <int BITS> ZMI_INLINE void zmi_gpu_unit_products(const unsigned *w, const char *d, int c, int D[4]) {
  unsigned low[2], high[2];
  zmi_gpu_rows_codes<BITS>(w, c, low, high);
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
  zmi_gpu_words e = {}, sum = {}; // of four groups, at once
  if (GROUPS == 4) {
    e = *(const zmi_gpu_words *)(const void *)(u->scale + first);
    sum = *(const zmi_gpu_words *)(const void *)(u->sum + first);
  }
#pragma unroll(GROUPS ? GROUPS : 1)
  for (int g = 0; g < groups; g++) {
    const unsigned *w = (const unsigned *)(const void *)slot + row;
    int D[4] = {0, 0, 0, 0};
#pragma unroll(GROUP ? 4 : 1)
    for (int h = 0; h < group; h += 32) zmi_gpu_unit_products<BITS>(w + h / 32 * WORDS, d + h, c, D);
    const char *scales = slot + code_bytes, *biases = scales + ZMI_GPU_LANES * SIZE;
    const float s[2] = {zmi_gpu_scale(scales, DTYPE, row), zmi_gpu_scale(scales, DTYPE, row + 8)};
    const float b[2] = {zmi_gpu_scale(biases, DTYPE, row), zmi_gpu_scale(biases, DTYPE, row + 8)};
    const float scale = GROUPS == 4 ? zk_of_bits(e.w[g & 3]) : u->scale[first + g],
                total = GROUPS == 4 ? zk_of_bits(sum.w[g & 3]) : u->sum[first + g];
    zmi_gpu_column_add<DIGITS>(u, D, scale, total, upper, s, b);
    slot += code_bytes + 2 * ZMI_GPU_LANES * SIZE;
    d += DIGITS * group;
  }
}

#define ZMI_GPU_BITS(BITS, FLOAT)                                                                                                          \
  case BITS:                                                                                                                               \
    return zmi_gpu_stream_groups<BITS, DIGITS, 0, FLOAT, 0>(slot, group, first, groups, u);

// All formats. (Those that most models have come here only where the last range of a row is not a whole one.)
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

// How a warp goes through its units of a product. Unit u of a worker is unit u % each of its stage u / each, and warp u % 8 takes it: so a
// warp has the same place in each of its stages. The next copy comes to a slot when as many arrivals are there as a block has threads. A
// unit counts for its share of them; the first one of a stage that is not full counts for those that are missing, too, so that no warp has
// to look after stages in which it has nothing to do.
typedef struct zmi_gpu_units {
  const zmi_gpu_dot *d;
  zmi_gpu_feed *feed;
  const char *slots, *made, *row; // the warp's place in slot 0; rows that READY made, the unit's
  unsigned stage, count, hop;     // of the unit, counted from the first of all; slots, a power of two; stages to the next unit
  int unit, which, rest;          // the unit's number and which of its tile; units from the beginning of its stage on
  int pair, block;                // of its tile; known if there are several rows
} zmi_gpu_units;

ZMI_INLINE void zmi_gpu_units_row(zmi_gpu_units *u) {
  const zmi_gpu_dot *d = u->d;
  u->row = u->made + (d->share == 1 ? u->pair : u->pair / d->share) * (int)d->x_bytes;
}

// To the tile of unit `which` of the tile at hand.
ZMI_INLINE void zmi_gpu_units_tile(zmi_gpu_units *u) {
  const int units = u->d->units, blocks = u->d->blocks, pair = u->pair;
  for (; u->which >= units; u->which -= units) {
    if (++u->block < blocks) continue;
    u->block = 0;
    u->pair++;
  }
  if (u->pair != pair) zmi_gpu_units_row(u);
}

// units: of the worker; pair, block: of its first tile.
ZMI_INLINE zmi_gpu_units zmi_gpu_units_open(const zmi_gpu_dot *d, const char *slots, int count, const char *made, int units, int pair,
                                            int block) {
  const int warp = zmi_thread() / 32, each = d->stage, at = warp & (each - 1), shift = zmi_gpu_stage_shift(each);
  zmi_gpu_units u = {d, zmi_gpu_feed_here(), slots + at * d->range_bytes, made, made, 0, (unsigned)count, 0, warp, warp, 0, pair, block};
  u.stage = u.feed->stages[warp] + (unsigned)(warp >> shift);
  u.hop = (unsigned)(ZMI_GPU_WARPS >> shift);
  u.rest = units - (warp - at);
  zmi_gpu_units_row(&u);
  zmi_gpu_units_tile(&u);
  return u;
}

// A warp's units before number `end`, the parts of which begin at `parts`: those of unit `begin` first. FORMAT: 4 or 8 bits in groups of 64
// with scales of two bytes, and whole ranges; or 0, any.
template <int FORMAT, int DIGITS> ZMI_INLINE void zmi_gpu_units_make(zmi_gpu_units *u, int begin, int end, float *parts) {
  const zmi_gpu_dot *d = u->d;
  const zmi_gpu_matrix *m = &d->matrix;
  const int lane = zmi_thread() % 32, group = FORMAT ? 64 : m->group, plane = DIGITS == 1 || lane / 4 % 4 == 3 ? 0 : lane / 4 % 4;
  const int units = d->units, ranges = d->up ? units / 2 : units, k = m->k, each = d->stage;
  const int scales = DIGITS * k, sums = scales + (k >> zmi_gpu_group_shift(group)) * 4, mine = plane * group + lane % 4 * 8;
  const bool first = (zmi_thread() / 32 & (each - 1)) == 0, several = d->pairs > d->share;
  while (u->unit < end) {
    const unsigned slot = u->stage & (u->count - 1);
    const int range = u->which < ranges ? u->which : u->which - ranges, at = range * ZMI_GPU_RANGE;
    zmi_gpu_column c = {
        u->row + mine, (const float *)(const void *)(u->row + scales), (const float *)(const void *)(u->row + sums), {0, 0}};
    zmi_gpu_stage_wait(u->feed, u->stage, u->count);
    const char *from = zmi_near(u->slots + slot * ZMI_GPU_SLOT);
    if (FORMAT)
      zmi_gpu_stream_groups<FORMAT ? FORMAT : 4, DIGITS, 64, false, 4>(from, 64, at / 64, 4, &c);
    else
      zmi_gpu_stream_by_format<DIGITS>(m, from, at, k - at < ZMI_GPU_RANGE ? k - at : ZMI_GPU_RANGE, &c);
    zmi_gate_arrive(&u->feed->room[slot], u->hop * (unsigned)(first && u->rest < each ? 1 + each - u->rest : 1)); // each lane for itself
    float *part = parts + (u->unit - begin) * ZMI_GPU_LANES;
    for (int h = 0; h < 2; h++) {
      const float lower = zmi_shuffle_float(c.acc[h], lane | 1);
      if (lane % 4 == 0) part[lane / 4 + 8 * h] = DIGITS == 1 ? c.acc[h] : c.acc[h] + lower;
    }
    u->unit += ZMI_GPU_WARPS;
    u->rest -= ZMI_GPU_WARPS;
    u->stage += u->hop;
    u->which += ZMI_GPU_WARPS;
    if (several)
      zmi_gpu_units_tile(u);
    else
      while (u->which >= units) u->which -= units;
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

// The instruction of a place. The scratch has ZMI_GPU_DOT_SHARED bytes, and what is kept behind them.
ZMI_APART void zmi_gpu_stream_run(int place) {
  const zmi_gpu_site *s = zmi_gpu_here();
  const zmi_gpu_instruction *in = zmi_gpu_code(place);
  const int worker = s->worker, workers = s->workers;
  const unsigned by = s->by;
  char *shared = zmi_gpu_scratch();
  const zmi_gpu_dot *d = &in->as.dot;
  const zmi_gpu_matrix *m = &d->matrix;
  const int t = zmi_thread(), units = d->units, blocks = d->blocks, together = d->together;
  const int last = zmi_gpu_stream_end(d->kept, in->tiles, worker, workers, by);
  const int first = zmi_gpu_stream_begin(d->kept, in->tiles, worker, workers, by);
  if (first >= last) return;
  const bool usual = m->group == 64 && m->dtype != ZMI_GPU_F32 && m->k % ZMI_GPU_RANGE == 0;
  const int format = (m->bits == 4 || m->bits == 8) && usual ? m->bits : 0;
  float *parts = (float *)(void *)shared;
  const zmi_gpu_address out = d->kept ? (zmi_gpu_address)(shared + d->kept) : d->out;
  int pair = zmi_gpu_pair_of(first, blocks, d->by), block = first - pair * blocks;
  zmi_gpu_units u = zmi_gpu_units_open(d, zmi_shared() + s->ring, s->slots, zmi_shared() + s->made, (last - first) * units, pair, block);
  for (int tile = first; tile < last; tile += together) {
    const int tiles = last - tile < together ? last - tile : together, begin = (tile - first) * units, end = begin + tiles * units;
    if (format == 4 && m->digits == 3)
      zmi_gpu_units_make<4, 3>(&u, begin, end, parts);
    else if (format == 8 && m->digits == 3)
      zmi_gpu_units_make<8, 3>(&u, begin, end, parts);
    else if (m->digits == 3)
      zmi_gpu_units_make<0, 3>(&u, begin, end, parts);
    else
      zmi_gpu_units_make<0, 1>(&u, begin, end, parts);
    zmi_sync();
    if (t < tiles * ZMI_GPU_LANES) zmi_gpu_stream_store(d, block, pair, parts + t / ZMI_GPU_LANES * units * ZMI_GPU_LANES, out);
    for (block += tiles; block >= blocks; block -= blocks) pair++;
    if (tile + tiles < last) zmi_sync(); // before the next round overwrites the parts
  }
  if (t % 32 == 0) u.feed->stages[t / 32] += (unsigned)((last - first) * units + d->stage - 1) >> zmi_gpu_stage_shift(d->stage);
}
