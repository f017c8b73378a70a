// The ninth warp of a block of the resident kernel: asks for the weights of products (stream.h) as soon as there is room in the ring.

// Which unit: range `which` of the tile that is block `block` of pair `pair`.
typedef struct zmi_gpu_spot {
  int which, block, pair;
} zmi_gpu_spot;

// `many` units further of a product whose tiles have so many units, and blocks a pair.
ZMI_INLINE void zmi_gpu_spot_move(zmi_gpu_spot *s, int many, int units, int blocks) {
  s->which += many;
  while (s->which >= units) {
    s->which -= units;
    if (++s->block < blocks) continue;
    s->block = 0;
    s->pair++;
  }
}

// What it has to know of a product, read long before it is needed.
typedef struct zmi_gpu_wanted {
  zmi_gpu_address packed, up, chosen;
  unsigned long long matrix_bytes;
  unsigned block_bytes;
  int k, experts, tiles, blocks, units, stage, range_bytes, route, kept, next;
} zmi_gpu_wanted;

ZMI_INLINE zmi_gpu_wanted zmi_gpu_wanted_of(const zmi_gpu_instruction *in) {
  const zmi_gpu_dot *d = &in->as.dot;
  const zmi_gpu_matrix *m = &d->matrix;
  return {m->packed, d->up,    d->chosen, m->matrix_bytes, m->block_bytes, m->k,    m->experts, in->tiles,
          d->blocks, d->units, d->stage,  d->range_bytes,  d->route,       d->kept, in->next};
}

typedef struct zmi_gpu_feeder {
  zmi_gpu_feed *feed;
  char *slots;
  unsigned count, stage; // count: of slots; stage: the next one, counted from the first of all
  int worker, workers;
  unsigned by;
} zmi_gpu_feeder;

ZMI_INLINE bool zmi_gpu_feed_ended(const zmi_gpu_feed *feed) {
  return zmi_gate_passed(&feed->ended, 0);
}

// Waits for the next time through a gate; times: how often it has been passed. False if no more weights are needed.
ZMI_INLINE bool zmi_gpu_feeder_waits(const zmi_gpu_feeder *f, const unsigned long long *gate, unsigned *times) {
  while (!zmi_gate_passed(gate, *times & 1u)) {
    if (zmi_gpu_feed_ended(f->feed)) return false;
    zmi_pause();
  }
  ++*times;
  return true;
}

// Waits until all warps are done with what the slot of the next stage holds.
ZMI_INLINE bool zmi_gpu_feeder_has_room(const zmi_gpu_feeder *f) {
  const unsigned before = f->stage - f->count;
  if (f->stage < f->count) return true; // (numbers do not come round: a play has 32 steps)
  while (!zmi_gate_passed(&f->feed->room[before & (f->count - 1)], zmi_gpu_stage_turn(before, f->count))) {
    if (zmi_gpu_feed_ended(f->feed)) return false;
    zmi_pause();
  }
  return true;
}

// The expert of a pair; the weights of another one stand for a choice that is out of range.
ZMI_INLINE int zmi_gpu_feeder_expert(const zmi_gpu_wanted *w, int pair) {
  if (!w->chosen) return 0;
  const int expert = w->route ? zmi_gpu_chosen_here()[pair] : (int)zmi_cache_load(zmi_gpu_at<const unsigned>(w->chosen) + pair);
  return expert >= 0 && expert < w->experts ? expert : 0;
}

// Asks for units from `s` on, up to `most`, that lie one after another in memory: of a tile's matrix and of tiles behind it. How many.
ZMI_INLINE int zmi_gpu_feeder_ask(const zmi_gpu_wanted *w, const zmi_gpu_spot *s, int most, char *to, unsigned long long *gate) {
  const int ranges = w->up ? w->units / 2 : w->units, rest = w->k % ZMI_GPU_RANGE;
  const bool second = s->which >= ranges;
  const int range = s->which - (second ? ranges : 0), near = (w->up || rest ? 1 : w->blocks - s->block) * ranges - range;
  const int units = near < most ? near : most;
  const char *from = zmi_gpu_at<const char>(second ? w->up : w->packed) +
                     (unsigned long long)zmi_gpu_feeder_expert(w, s->pair) * w->matrix_bytes +
                     (unsigned long long)s->block * w->block_bytes + (unsigned long long)range * (unsigned)w->range_bytes;
  int bytes = units * w->range_bytes;
  if (rest && range + units == ranges) bytes = (int)w->block_bytes - range * w->range_bytes;
  zmi_bulk_copy(to, from, bytes, gate);
  return units;
}

// All stages of a product. False if no more weights are needed.
ZMI_INLINE bool zmi_gpu_feeder_product(zmi_gpu_feeder *f, const zmi_gpu_wanted *w) {
  const int begin = zmi_gpu_stream_begin(w->kept, w->tiles, f->worker, f->workers, f->by);
  const int last = zmi_gpu_stream_end(w->kept, w->tiles, f->worker, f->workers, f->by);
  const int pair = zmi_gpu_pair_of(begin, w->blocks, 0);
  zmi_gpu_spot s = {0, begin - pair * w->blocks, pair};
  for (int left = (last - begin) * w->units; left > 0; f->stage++) {
    const unsigned slot = f->stage & (f->count - 1);
    char *to = f->slots + slot * ZMI_GPU_SLOT;
    if (!zmi_gpu_feeder_has_room(f)) return false;
    for (int room = left < w->stage ? left : w->stage; room > 0;) {
      const int units = zmi_gpu_feeder_ask(w, &s, room, to, &f->feed->gate[slot]);
      zmi_gpu_spot_move(&s, units, w->units, w->blocks);
      to += units * w->range_bytes;
      room -= units;
      left -= units;
    }
    zmi_bulk_asked(&f->feed->gate[slot]);
  }
  return true;
}

// The products of `steps` steps, one after another, from instruction `first` on.
ZMI_APART void zmi_gpu_feed_all(const zmi_gpu_instruction *all, int count, int first, int steps, const zmi_gpu_feeder *start) {
  zmi_gpu_feeder feeder = *start, *f = &feeder;
  bool on = first < count;
  zmi_gpu_wanted soon = {};
  if (on) soon = zmi_gpu_wanted_of(&all[first]);
  unsigned routed = 0, reached = 0;
  for (int step = 0; step < steps && on; step++) {
    int route = 0; // whose choice is here
    for (int at = first; at < count && on;) {
      const zmi_gpu_wanted w = soon;
      soon = zmi_gpu_wanted_of(&all[w.next < count ? w.next : first]);
      if (w.chosen && w.route && w.route != route) on = zmi_gpu_feeder_waits(f, &f->feed->routed, &routed);
      if (w.chosen && w.route) route = w.route;
      if (w.chosen && !w.route) on = zmi_gpu_feeder_waits(f, &f->feed->reached, &reached);
      on = on && zmi_gpu_feeder_product(f, &w);
      at = w.next;
    }
  }
  // What is on its way to shared memory has to come before the block ends.
  for (unsigned back = 1; back <= f->count && back <= f->stage; back++) zmi_gpu_stage_wait(f->feed, f->stage - back, f->count);
}
