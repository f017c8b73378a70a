// Launches of several instructions (zmi_gpu_bundle), for steps of few rows: what a launch costs is the way in and out, not its work.
//
// products: rows of READY, made by every block for itself, then the products that take them, each by blocks of its own; gate and up can be
// one. States of convolutions go along. heads: turning and writing of heads.

enum { ZMI_GPU_BUNDLE_SCRATCH = (sizeof(zmi_gpu_instruction) + 127) / 128 * 128 }; // in front of it READY's instruction

// The parts of units: unit i is part first + i % now of tile `tile` + i / now; of two matrices the second one's parts follow the first's.
ZMI_INLINE void zmi_gpu_product_parts(const zmi_gpu_dot *d, const char *made, int tile, int units, int now, int first, float *parts) {
  const int lane = zmi_thread() % ZMI_GPU_LANES, ranges = (d->matrix.k + ZMI_GPU_RANGE - 1) / ZMI_GPU_RANGE;
  for (int i = zmi_thread() / ZMI_GPU_LANES; i < units; i += ZMI_GPU_THREADS / ZMI_GPU_LANES) {
    const int down = i / now, t = tile + down, which = first + i - down * now, pair = t / d->blocks;
    const int expert = zmi_gpu_chosen(d, pair);
    const bool second = which >= ranges;
    if (expert < 0) continue; // its parts are not read
    zmi_gpu_unit u;
    u.m = &d->matrix;
    u.block = zmi_gpu_at<const char>(second ? d->up : d->matrix.packed) + (unsigned long long)expert * d->matrix.matrix_bytes +
              (unsigned long long)(t - pair * d->blocks) * d->matrix.block_bytes;
    u.x = made + pair / d->share * d->x_bytes;
    u.lane = lane;
    u.begin = (which - (second ? ranges : 0)) * ZMI_GPU_RANGE;
    u.end = u.begin + ZMI_GPU_RANGE < d->matrix.k ? u.begin + ZMI_GPU_RANGE : d->matrix.k;
    u.x_dtype = d->x_dtype;
    parts[i * ZMI_GPU_LANES + lane] = zmi_gpu_range_of(&u);
  }
}

// A product with rows at `made`: a worker takes its tiles in one piece.
ZMI_INLINE void zmi_gpu_product_run(const zmi_gpu_instruction *in, const char *made, int worker, int workers, unsigned by, char *shared) {
  const zmi_gpu_dot *d = &in->as.dot;
  const int ranges = (d->matrix.k + ZMI_GPU_RANGE - 1) / ZMI_GPU_RANGE, units = d->up ? 2 * ranges : ranges;
  const int t = zmi_thread(), lane = t % ZMI_GPU_LANES, end = zmi_gpu_first_tile(in->tiles, worker + 1, workers, by);
  const int together = units > ZMI_GPU_UNITS / 2 ? 1 : ZMI_GPU_UNITS / (units > 4 ? units : 4); // at most 16: a thread stores one result
  float *parts = (float *)(void *)shared;
  for (int tile = zmi_gpu_first_tile(in->tiles, worker, workers, by); tile < end; tile += together) {
    const int tiles = end - tile < together ? end - tile : together;
    float y = 0.0f, up = 0.0f;
    for (int first = 0; first < units; first += ZMI_GPU_UNITS) { // more than one turn: of one tile of one matrix
      const int now = units - first < ZMI_GPU_UNITS ? units - first : ZMI_GPU_UNITS;
      zmi_gpu_product_parts(d, made, tile, tiles * now, now, first, parts);
      zmi_sync();
      const float *mine = parts + t / ZMI_GPU_LANES * now * ZMI_GPU_LANES + lane;
      if (t < tiles * ZMI_GPU_LANES) {
        const int own = d->up ? ranges : now;
        for (int i = 0; i < own; i++) y = y + mine[i * ZMI_GPU_LANES];
        for (int i = own; i < now; i++) up = up + mine[i * ZMI_GPU_LANES];
      }
      zmi_sync();
    }
    if (d->up) y = zmi_gpu_element_of(ZMI_GPU_GATED, d->dtype, zmi_gpu_round(y, d->dtype), zmi_gpu_round(up, d->dtype));
    if (t < tiles * ZMI_GPU_LANES) zmi_gpu_dot_store(d, tile + t / ZMI_GPU_LANES, lane, y);
  }
}

// Weights of a worker's first tiles come to the cache: those of experts while rows are made, others, which depend on nothing, while the launch
// before goes on.
ZMI_INLINE void zmi_gpu_product_ahead(const zmi_gpu_instruction *in, int worker, int workers, unsigned by) {
  enum { LINE = 128, MOST = 4 }; // bytes; tiles
  const zmi_gpu_dot *d = &in->as.dot;
  const int begin = zmi_gpu_first_tile(in->tiles, worker, workers, by), end = zmi_gpu_first_tile(in->tiles, worker + 1, workers, by);
  for (int t = begin; t < end && t < begin + MOST; t++) {
    const int pair = t / d->blocks, expert = zmi_gpu_chosen(d, pair);
    const unsigned long long first = (unsigned long long)(expert < 0 ? 0 : expert) * d->matrix.matrix_bytes +
                                     (unsigned long long)(t - pair * d->blocks) * d->matrix.block_bytes;
    for (unsigned i = (unsigned)zmi_thread() * LINE; i < d->matrix.block_bytes; i += ZMI_GPU_THREADS * LINE) {
      zmi_cache_ahead(zmi_gpu_at<const char>(d->matrix.packed) + first + i);
      if (d->up) zmi_cache_ahead(zmi_gpu_at<const char>(d->up) + first + i);
    }
  }
}

ZMI_KERNEL zmi_gpu_bundle_products(ZMI_GIVEN const zmi_gpu_bundle b) {
  zmi_begin_next();
  const zmi_gpu_instruction *ready = &b.all[0];
  const bool has = ready->kind == ZMI_GPU_READY;
  int which = has, worker = zmi_block();
  for (; worker >= b.all[which].workers; which++) worker -= b.all[which].workers;
  const zmi_gpu_instruction *in = &b.all[which];
  const int workers = in->workers;
  char *scratch = zmi_shared() + ZMI_GPU_BUNDLE_SCRATCH, *made = zmi_near(zmi_shared() + b.made_at);
  const unsigned by = zmi_gpu_by(workers);
  for (int i = zmi_thread(); has && i < (int)(sizeof *ready / 4); i += ZMI_GPU_THREADS)
    ((unsigned *)(void *)zmi_shared())[i] = ((const unsigned *)(const void *)ready)[i];
  const bool dot = in->kind == ZMI_GPU_DOT;
  if (dot && !in->as.dot.chosen) zmi_gpu_product_ahead(in, worker, workers, by);
  zmi_wait_before();
  if (dot && in->as.dot.chosen) zmi_gpu_product_ahead(in, worker, workers, by);
  zmi_sync();
  if (!dot) return zmi_gpu_conv_apart(in, worker, workers, scratch);
  if (has) {
    const bool own = ready->as.ready.blocks != 0; // rows of this product's tiles only
    const zmi_gpu_instruction *copy = (const zmi_gpu_instruction *)(void *)zmi_shared();
    zmi_gpu_ready_here(copy, own ? worker : zmi_block(), ready->workers, zmi_gpu_by(ready->workers), scratch, made);
    zmi_sync();
  }
  zmi_gpu_product_run(in, made, worker, workers, by, scratch);
}

ZMI_KERNEL zmi_gpu_bundle_heads(ZMI_GIVEN const zmi_gpu_bundle b) {
  zmi_begin_next();
  zmi_wait_before();
  for (int i = 0; i < b.count; i++) {
    if (b.all[i].kind == ZMI_GPU_ROTATE)
      zmi_gpu_rotate_run(&b.all[i], zmi_block(), zmi_blocks(), zmi_shared());
    else
      zmi_gpu_write_run(&b.all[i], zmi_block(), zmi_blocks(), zmi_shared());
    zmi_sync(); // what a warp has turned it may write itself, by other threads
  }
}
