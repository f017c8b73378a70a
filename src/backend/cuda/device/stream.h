// Products whose weights are asked for long before they are used. Each half-warp has a ring of slots in shared memory. A cursor goes
// through the steps of the instructions to come in the order in which this half-warp will take them, and copies on their way fill the
// slots: also across barriers, as weights depend on nothing but, for experts, on the router. So the memory works while blocks wait for
// each other.
//
// A worker takes its tiles in one piece, in rounds of a few tiles. A unit is a range of 256 k of a tile; those of a round go to the
// half-warps in turn. A step is `step` k of a unit: what a slot holds.

typedef struct zmi_gpu_ring {
  const zmi_gpu_instruction *all;
  int count, worker, workers;
  char *slot; // of this half-warp
  int slots, put, get;
  unsigned asked, taken; // steps
  // The cursor: the product, the first tile of its round and the end of its tiles, the unit of the round, and what is left of that.
  int at, tile, last, unit, left;
  const char *from;
  int route;         // one more than the number of the last ROUTE whose choice is known
  const int *chosen; // by it
} zmi_gpu_ring;

ZMI_INLINE int zmi_gpu_half() {
  return zmi_thread() / ZMI_GPU_LANES;
}

ZMI_INLINE int zmi_gpu_ranges(const zmi_gpu_dot *d) {
  return (d->matrix.k + ZMI_GPU_RANGE - 1) / ZMI_GPU_RANGE;
}

ZMI_INLINE int zmi_gpu_group_bytes(const zmi_gpu_matrix *m) {
  return m->group * m->bits * ZMI_GPU_LANES / 8 + 2 * ZMI_GPU_LANES * zmi_gpu_size(m->dtype);
}

// Units of a tile, and tiles of a round.
ZMI_INLINE int zmi_gpu_tile_units(const zmi_gpu_dot *d) {
  return zmi_gpu_ranges(d) * (d->up ? 2 : 1);
}
ZMI_INLINE int zmi_gpu_round_tiles(int units) {
  return ZMI_GPU_UNITS / (units > 4 ? units : 4); // at most 16: a thread stores one result
}

ZMI_INLINE void zmi_gpu_ring_open(zmi_gpu_ring *r, int at) {
  r->at = at;
  if (at >= r->count) return;
  const int tiles = r->all[at].tiles;
  r->tile = zmi_gpu_first_tile(tiles, r->worker, r->workers);
  r->last = zmi_gpu_first_tile(tiles, r->worker + 1, r->workers);
  r->unit = zmi_gpu_half();
  r->left = 0;
}

// The expert of a pair; the weights of another one stand for a choice that is out of range.
ZMI_INLINE int zmi_gpu_ring_expert(const zmi_gpu_ring *r, const zmi_gpu_dot *d, int pair) {
  if (!d->chosen) return 0;
  const int expert = d->route ? r->chosen[pair] : zmi_gpu_at<const int>(d->chosen)[pair];
  return expert >= 0 && expert < d->matrix.experts ? expert : 0;
}

// The k of a unit's range.
ZMI_INLINE int zmi_gpu_unit_begin(int unit, int ranges) {
  return unit % ranges * ZMI_GPU_RANGE;
}
ZMI_INLINE int zmi_gpu_unit_end(const zmi_gpu_dot *d, int begin) {
  return begin + ZMI_GPU_RANGE < d->matrix.k ? begin + ZMI_GPU_RANGE : d->matrix.k;
}

// Finds where the unit of the cursor lies. False if the round has no such unit.
ZMI_INLINE bool zmi_gpu_ring_find(zmi_gpu_ring *r, const zmi_gpu_dot *d) {
  const int units = zmi_gpu_tile_units(d), together = zmi_gpu_round_tiles(units), ranges = zmi_gpu_ranges(d);
  const int tiles = r->last - r->tile < together ? r->last - r->tile : together;
  if (r->unit >= tiles * units) return false;
  const int tile = r->tile + r->unit / units, which = r->unit % units, begin = zmi_gpu_unit_begin(which, ranges);
  const int pair = tile / d->blocks, expert = zmi_gpu_ring_expert(r, d, pair);
  const zmi_gpu_matrix *m = &d->matrix;
  r->from = zmi_gpu_at<const char>(which >= ranges ? d->up : m->packed) + (unsigned long long)expert * m->matrix_bytes +
            (unsigned long long)(tile % d->blocks) * m->block_bytes + begin / m->group * zmi_gpu_group_bytes(m);
  r->left = zmi_gpu_unit_end(d, begin) - begin;
  return true;
}

// Asks for steps until the ring is full or what comes next is not known. now: the instruction at hand.
ZMI_INLINE void zmi_gpu_ring_ask(zmi_gpu_ring *r, int now) {
  const int lane = zmi_thread() % ZMI_GPU_LANES;
  while (r->at < r->count && r->asked - r->taken < (unsigned)r->slots) {
    const zmi_gpu_dot *d = &r->all[r->at].as.dot;
    if (r->left <= 0) {
      if (d->chosen && r->at != now && (!d->route || d->route != r->route)) return;
      if (r->tile >= r->last) {
        zmi_gpu_ring_open(r, r->all[r->at].next);
        continue;
      }
      if (!zmi_gpu_ring_find(r, d)) {
        r->tile += zmi_gpu_round_tiles(zmi_gpu_tile_units(d));
        r->unit = zmi_gpu_half();
        continue;
      }
    }
    const int k = r->left < d->step ? r->left : d->step, bytes = k / d->matrix.group * zmi_gpu_group_bytes(&d->matrix);
    char *to = r->slot + r->put * ZMI_GPU_SLOT;
    for (int i = lane * 16; i < bytes; i += 16 * ZMI_GPU_LANES) zmi_copy_async(to + i, r->from + i);
    zmi_copy_commit();
    r->from += bytes;
    r->left -= k;
    if (r->left <= 0) r->unit += ZMI_GPU_HALVES;
    r->put = r->put + 1 < r->slots ? r->put + 1 : 0;
    r->asked++;
  }
}

// Where the next step lies, once it has come. zmi_gpu_ring_done gives its slot back.
ZMI_INLINE const char *zmi_gpu_ring_take(zmi_gpu_ring *r) {
  zmi_copy_wait(r->asked - r->taken - 1);
  zmi_sync_half();
  return r->slot + r->get * ZMI_GPU_SLOT;
}
ZMI_INLINE void zmi_gpu_ring_done(zmi_gpu_ring *r, int now) {
  zmi_sync_half();
  r->get = r->get + 1 < r->slots ? r->get + 1 : 0;
  r->taken++;
  zmi_gpu_ring_ask(r, now);
}

// ---- a step ----

// Adds a step of n k, which begins at k, to the sums of a lane's row. x: a row of digits in shared memory.
template <int BITS, int DIGITS>
ZMI_INLINE void zmi_gpu_stream_step(const zmi_gpu_matrix *m, const char *slot, const char *x, int k, int n, float *hi, float *lo) {
  enum { WORDS = BITS * ZMI_GPU_LANES };
  const int group = m->group, lane = zmi_thread() % ZMI_GPU_LANES, code_bytes = group / 32 * WORDS * 4;
  const int scale_bytes = ZMI_GPU_LANES * zmi_gpu_size(m->dtype);
  const float *scale = (const float *)(const void *)(x + (long long)DIGITS * m->k), *sum = scale + m->k / group;
  for (int done = 0; done < n; done += group, slot += code_bytes + 2 * scale_bytes) {
    const int g = (k + done) / group;
    const signed char *d = (const signed char *)x + (long long)DIGITS * (g * group);
    const unsigned *w = (const unsigned *)(const void *)slot + lane;
    int D[3] = {0, 0, 0};
    for (int h = 0; h < group; h += 32, w += WORDS) {
      unsigned word[BITS], code[8];
      for (int j = 0; j < BITS; j++) word[j] = w[j * ZMI_GPU_LANES];
      zmi_gpu_codes<BITS>(word, code);
      zmi_gpu_products<DIGITS, false>(code, d + h, group, D);
    }
    const float s = zmi_gpu_scale(slot + code_bytes, m->dtype, lane), b = zmi_gpu_scale(slot + code_bytes + scale_bytes, m->dtype, lane);
    zmi_gpu_add_group<DIGITS>(D, scale[g], sum[g], s, b, hi, lo);
  }
}

template <int DIGITS>
ZMI_INLINE void zmi_gpu_stream_bits(const zmi_gpu_matrix *m, const char *slot, const char *x, int k, int n, float *hi, float *lo) {
  switch (m->bits) {
  case 2:
    return zmi_gpu_stream_step<2, DIGITS>(m, slot, x, k, n, hi, lo);
  case 3:
    return zmi_gpu_stream_step<3, DIGITS>(m, slot, x, k, n, hi, lo);
  case 4:
    return zmi_gpu_stream_step<4, DIGITS>(m, slot, x, k, n, hi, lo);
  case 5:
    return zmi_gpu_stream_step<5, DIGITS>(m, slot, x, k, n, hi, lo);
  case 6:
    return zmi_gpu_stream_step<6, DIGITS>(m, slot, x, k, n, hi, lo);
  default:
    return zmi_gpu_stream_step<8, DIGITS>(m, slot, x, k, n, hi, lo);
  }
}

// ---- a product ----

// The part of a unit: of `row` of what READY made.
ZMI_INLINE float zmi_gpu_stream_unit(zmi_gpu_ring *r, const zmi_gpu_dot *d, int now, int begin, const char *row) {
  const int end = zmi_gpu_unit_end(d, begin);
  float hi = 0.0f, lo = 0.0f;
  for (int k = begin; k < end; k += d->step) {
    const int n = end - k < d->step ? end - k : d->step;
    const char *slot = zmi_gpu_ring_take(r);
    if (d->matrix.digits == 1)
      zmi_gpu_stream_bits<1>(&d->matrix, slot, row, k, n, &hi, &lo);
    else
      zmi_gpu_stream_bits<3>(&d->matrix, slot, row, k, n, &hi, &lo);
    zmi_gpu_ring_done(r, now);
  }
  return d->matrix.digits == 1 ? hi : hi + lo;
}

ZMI_INLINE float zmi_gpu_stream_sum(const float *parts, int ranges) {
  float y = 0.0f;
  for (int i = 0; i < ranges; i++) y = y + parts[i * ZMI_GPU_LANES];
  return y;
}

// Thread t stores row t % 16 of tile t / 16 of a round.
ZMI_INLINE void zmi_gpu_stream_store(const zmi_gpu_ring *r, const zmi_gpu_dot *d, int tile, const float *parts) {
  const int lane = zmi_thread() % ZMI_GPU_LANES, ranges = zmi_gpu_ranges(d), row = tile % d->blocks * ZMI_GPU_LANES + lane;
  const int pair = tile / d->blocks;
  if (row >= d->matrix.n) return;
  int expert = 0;
  if (d->chosen) expert = d->route ? r->chosen[pair] : zmi_gpu_at<const int>(d->chosen)[pair];
  float y = zmi_gpu_stream_sum(parts + lane, ranges);
  if (expert < 0 || expert >= d->matrix.experts) {
    y = 0.0f;
  } else if (d->up) {
    const float up = zmi_gpu_round(zmi_gpu_stream_sum(parts + ranges * ZMI_GPU_LANES + lane, ranges), d->dtype);
    y = zmi_gpu_element_of(ZMI_GPU_GATED, d->dtype, zmi_gpu_round(y, d->dtype), up);
  } else if (d->matrix.bias) {
    y = y + zmi_gpu_load(d->matrix.bias, d->matrix.bias_dtype, (long long)expert * d->matrix.n + row);
  }
  zmi_gpu_store(d->out, d->dtype, pair * d->out_stride + row, y);
}

// made: rows that READY made. shared: ZMI_GPU_DOT_SHARED bytes.
ZMI_APART void zmi_gpu_stream_run(zmi_gpu_ring *ring, int now, char *shared, const char *made) {
  zmi_gpu_ring here = *ring, *r = &here; // in registers
  const zmi_gpu_dot *d = &r->all[now].as.dot;
  const int units = zmi_gpu_tile_units(d), ranges = zmi_gpu_ranges(d), together = zmi_gpu_round_tiles(units);
  const int last = zmi_gpu_first_tile(r->all[now].tiles, r->worker + 1, r->workers), t = zmi_thread();
  float *parts = (float *)(void *)shared;
  zmi_gpu_ring_ask(r, now);
  for (int tile = zmi_gpu_first_tile(r->all[now].tiles, r->worker, r->workers); tile < last; tile += together) {
    const int tiles = last - tile < together ? last - tile : together;
    for (int i = zmi_gpu_half(); i < tiles * units; i += ZMI_GPU_HALVES) {
      const char *row = made + (tile + i / units) / d->blocks / d->share * d->x_bytes;
      parts[i * ZMI_GPU_LANES + t % ZMI_GPU_LANES] = zmi_gpu_stream_unit(r, d, now, zmi_gpu_unit_begin(i % units, ranges), row);
    }
    zmi_sync();
    if (t < tiles * ZMI_GPU_LANES) zmi_gpu_stream_store(r, d, tile + t / ZMI_GPU_LANES, parts + t / ZMI_GPU_LANES * units * ZMI_GPU_LANES);
    zmi_sync();
  }
  *ring = here;
}
