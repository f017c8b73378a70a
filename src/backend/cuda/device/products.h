// Launches of several instructions (zmi_gpu_bundle), for steps of few rows: what a launch costs is the way in and out, not its work.
//
// products: rows of READY, made by every block for itself, then the products that take them, each by blocks of its own; gate and up can be
// one. States of convolutions go along. heads: turning and writing of heads.

enum { ZMI_GPU_BUNDLE_SCRATCH = (sizeof(zmi_gpu_instruction) + 127) / 128 * 128 }; // in front of it READY's instruction

// The weights of a worker's first tiles, `count` of them from `first` on, lie at `at` in shared memory, if there is room for some.
typedef struct zmi_gpu_stage {
  char *at;
  int first, count;
} zmi_gpu_stage;

// Where the weights of a tile lie in memory: of the first matrix, or of the second.
ZMI_INLINE const char *zmi_gpu_product_block(const zmi_gpu_dot *d, int tile, int expert, bool second) {
  const int block = tile < d->blocks ? tile : tile % d->blocks;
  return zmi_gpu_at<const char>(second ? d->up : d->matrix.packed) + (unsigned long long)expert * d->matrix.matrix_bytes +
         (unsigned long long)block * d->matrix.block_bytes;
}

// Asks for the weights of a worker's first tiles: those of experts come while rows are made, others, which depend on nothing, while the
// launch before goes on.
ZMI_INLINE zmi_gpu_stage zmi_gpu_product_stage(const zmi_gpu_instruction *in, int worker, int workers, unsigned by, char *at, int room) {
  const zmi_gpu_dot *d = &in->as.dot;
  const int begin = zmi_gpu_first_tile(in->tiles, worker, workers, by), end = zmi_gpu_first_tile(in->tiles, worker + 1, workers, by);
  const int bytes = (int)d->matrix.block_bytes, each = d->up ? 2 : 1;
  zmi_gpu_stage s = {at, begin, room / (bytes * each)};
  if (s.count > end - begin) s.count = end - begin;
  if (((d->matrix.packed | d->up | (unsigned)bytes) & 15u) != 0) s.count = 0;
  const char *from = 0;
  for (int k = 16 * zmi_thread(), i = 0, of = -1;; k += 16 * ZMI_GPU_THREADS) { // byte k of block i
    for (; k >= bytes && i < s.count * each; i++) k -= bytes;
    if (i >= s.count * each) break;
    if (of != i) {
      const int tile = begin + i / each, expert = zmi_gpu_chosen(d, tile < d->blocks ? 0 : tile / d->blocks);
      from = zmi_gpu_product_block(d, tile, expert < 0 ? 0 : expert, i % each != 0);
      of = i;
    }
    zmi_copy_async(at + i * bytes + k, from + k);
  }
  zmi_copy_commit();
  return s;
}

// The parts of units: unit i is part first + i % now of tile `tile` + i / now; of two matrices the second one's parts follow the first's.
ZMI_INLINE void zmi_gpu_product_parts(const zmi_gpu_dot *d, const zmi_gpu_stage *s, const char *made, int tile, int units, int now,
                                      int first, float *parts) {
  const int lane = zmi_thread() % ZMI_GPU_LANES, ranges = (d->matrix.k + ZMI_GPU_RANGE - 1) / ZMI_GPU_RANGE;
  for (int i = zmi_thread() / ZMI_GPU_LANES; i < units; i += ZMI_GPU_THREADS / ZMI_GPU_LANES) {
    const int down = i / now, t = tile + down, which = first + i - down * now, pair = t < d->blocks ? 0 : t / d->blocks;
    const int expert = zmi_gpu_chosen(d, pair), here = t - s->first;
    const bool second = which >= ranges;
    if (expert < 0) continue; // its parts are not read
    zmi_gpu_unit u;
    u.m = &d->matrix;
    if (here < s->count)
      u.block = s->at + (long long)(d->up ? 2 * here + second : here) * d->matrix.block_bytes;
    else
      u.block = zmi_gpu_product_block(d, t, expert, second);
    u.x = made + pair / d->share * d->x_bytes;
    u.lane = lane;
    u.begin = (which - (second ? ranges : 0)) * ZMI_GPU_RANGE;
    u.end = u.begin + ZMI_GPU_RANGE < d->matrix.k ? u.begin + ZMI_GPU_RANGE : d->matrix.k;
    u.x_dtype = d->x_dtype;
    parts[i * ZMI_GPU_LANES + lane] = zmi_gpu_range_of<4>(&u); // mostly from shared memory
  }
}

// A product with rows at `made`: a worker takes its tiles in one piece.
ZMI_INLINE void zmi_gpu_product_run(const zmi_gpu_instruction *in, const zmi_gpu_stage *s, const char *made, int worker, int workers,
                                    unsigned by, char *shared) {
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
      zmi_gpu_product_parts(d, s, made, tile, tiles * now, now, first, parts);
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
  const bool dot = in->kind == ZMI_GPU_DOT, later = dot && in->as.dot.chosen != 0;
  char *stage = zmi_shared() + b.stage_at;
  zmi_gpu_stage s = {stage, 0, 0};
  if (dot && !later) s = zmi_gpu_product_stage(in, worker, workers, by, stage, b.stage);
  zmi_wait_before();
  if (later) s = zmi_gpu_product_stage(in, worker, workers, by, stage, b.stage);
  zmi_sync();
  if (!dot) return zmi_gpu_conv_call(in, worker, workers, scratch);
  if (has) {
    const bool own = ready->as.ready.blocks != 0; // rows of this product's tiles only
    const zmi_gpu_instruction *copy = (const zmi_gpu_instruction *)(void *)zmi_shared();
    zmi_gpu_ready_here(copy, own ? worker : zmi_block(), ready->workers, zmi_gpu_by(ready->workers), scratch, made);
  }
  zmi_copy_wait(0);
  zmi_sync();
  zmi_gpu_product_run(in, &s, made, worker, workers, by, scratch);
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
