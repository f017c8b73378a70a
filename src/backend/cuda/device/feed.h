// The ninth warp of a block of the resident kernel: asks for the weights of products (stream.h) as soon as there is room in the rings. Each
// of its first eight lanes goes through the units of one of the other warps.

// What it has to know of a product, read long before it is needed.
typedef struct zmi_gpu_wanted {
  zmi_gpu_address packed, up, chosen;
  unsigned long long matrix_bytes;
  unsigned block_bytes;
  int k, experts, group, group_bytes;
  int tiles, blocks, units, step, step_bytes, range_bytes, route, kept, next;
} zmi_gpu_wanted;

ZMI_INLINE zmi_gpu_wanted zmi_gpu_wanted_of(const zmi_gpu_instruction *in) {
  const zmi_gpu_dot *d = &in->as.dot;
  const zmi_gpu_matrix *m = &d->matrix;
  return {m->packed, d->up, d->chosen, m->matrix_bytes, m->block_bytes, m->k, m->experts, m->group, zmi_gpu_group_bytes(m),
          in->tiles, d->blocks, d->units, d->step, d->step_bytes, d->range_bytes, d->route, d->kept, in->next};
}

// A lane's: the unit, what is left of it and where that lies; the slot of its next step, and how many it has asked for.
typedef struct zmi_gpu_feeder {
  zmi_gpu_feed *feed;
  char *slots;
  int count, slot, worker, workers;
  unsigned by, asked;
  zmi_gpu_spot spot;
  int left;
  const char *from;
} zmi_gpu_feeder;

// False if no more weights are needed.
ZMI_INLINE bool zmi_gpu_feeder_waits(const zmi_gpu_feeder *f, const unsigned *word, unsigned mark) {
  while (zmi_told(word) < mark) {
    if (zmi_told(&f->feed->ended)) return false;
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

// Where the lane's unit lies, and how many k it has.
ZMI_INLINE void zmi_gpu_feeder_find(zmi_gpu_feeder *f, const zmi_gpu_wanted *w) {
  const int ranges = w->up ? w->units / 2 : w->units;
  const bool second = f->spot.which >= ranges;
  const int range = f->spot.which - (second ? ranges : 0), k = w->k - range * ZMI_GPU_RANGE;
  f->from = zmi_gpu_at<const char>(second ? w->up : w->packed) +
            (unsigned long long)zmi_gpu_feeder_expert(w, f->spot.pair) * w->matrix_bytes +
            (unsigned long long)f->spot.block * w->block_bytes + (unsigned long long)range * (unsigned)w->range_bytes;
  f->left = k < ZMI_GPU_RANGE ? k : ZMI_GPU_RANGE;
}

// All steps of a product. False if no more weights are needed.
ZMI_INLINE bool zmi_gpu_feeder_product(zmi_gpu_feeder *f, const zmi_gpu_wanted *w) {
  const int lane = zmi_thread() % 32, begin = zmi_gpu_stream_begin(w->kept, w->tiles, f->worker, f->workers, f->by);
  const int last = lane < ZMI_GPU_WARPS ? zmi_gpu_stream_end(w->kept, w->tiles, f->worker, f->workers, f->by) : begin;
  f->spot = zmi_gpu_spot_first(begin, lane, w->units, w->blocks);
  f->left = 0;
  while (zmi_most(f->left > 0 || f->spot.tile < last)) {
    const bool more = f->left > 0 || f->spot.tile < last;
    const bool goes = more && f->asked - zmi_told(&f->feed->taken[lane % ZMI_GPU_WARPS]) < (unsigned)f->count;
    if (goes && f->left <= 0) zmi_gpu_feeder_find(f, w);
    const int k = f->left < w->step ? f->left : w->step;
    const int bytes = k == w->step ? w->step_bytes : (k >> zmi_gpu_group_shift(w->group)) * w->group_bytes;
    zmi_bulk_copy(goes, f->slots + f->slot * ZMI_GPU_SLOT, f->from, bytes, &f->feed->gate[lane % ZMI_GPU_WARPS][f->slot]);
    if (goes) {
      f->from += bytes;
      f->left -= k;
      if (f->left <= 0) zmi_gpu_spot_move(&f->spot, ZMI_GPU_WARPS, w->units, w->blocks);
      f->slot = f->slot + 1 < f->count ? f->slot + 1 : 0;
      f->asked++;
    }
    if (zmi_most(goes)) continue;
    if (zmi_told(&f->feed->ended)) return false;
    zmi_pause();
  }
  return true;
}

// What is on its way to shared memory has to come before the block ends.
ZMI_INLINE void zmi_gpu_feeder_drain(const zmi_gpu_feeder *f) {
  const int lane = zmi_thread() % 32;
  for (unsigned back = 1; lane < ZMI_GPU_WARPS && back <= (unsigned)f->count && back <= f->asked; back++) {
    const unsigned use = f->asked - back, count = (unsigned)f->count;
    zmi_bulk_wait(&f->feed->gate[lane][use % count], use / count & 1u);
  }
}

// The products of `steps` steps, one after another, from instruction `first` on.
ZMI_APART void zmi_gpu_feed_all(const zmi_gpu_instruction *all, int count, int first, int steps, const zmi_gpu_feeder *start) {
  zmi_gpu_feeder feeder = *start, *f = &feeder;
  bool on = first < count;
  zmi_gpu_wanted soon = {};
  if (on) soon = zmi_gpu_wanted_of(&all[first]);
  for (int step = 0; step < steps && on; step++) {
    for (int at = first; at < count && on;) {
      const zmi_gpu_wanted w = soon;
      soon = zmi_gpu_wanted_of(&all[w.next < count ? w.next : first]);
      if (w.chosen && w.route) on = zmi_gpu_feeder_waits(f, &f->feed->routed, zmi_gpu_mark(step, w.route));
      if (w.chosen && !w.route) on = zmi_gpu_feeder_waits(f, &f->feed->reached, zmi_gpu_mark(step, at + 1));
      on = on && zmi_gpu_feeder_product(f, &w);
      at = w.next;
    }
  }
  zmi_gpu_feeder_drain(f);
}
