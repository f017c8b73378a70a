// One launch plays a whole tape: blocks stay, go through the instructions together, and meet at a barrier where an instruction needs what
// others have made. A deadline ends it if a block is missing: nothing waits for ever.

// What a block has to know of the play, in shared memory: registers are few where all kinds of instructions are one kernel.
typedef struct zmi_gpu_site {
  zmi_gpu_play *play;
  unsigned long long deadline, *stamps;
  char *made;                // rows of READY
  int worker, workers, gone; // gone: the play was given up
  unsigned met, by;          // barriers so far; zmi_gpu_by(workers)
} zmi_gpu_site;
static_assert(sizeof(zmi_gpu_site) <= 64, "it fits into its place");

ZMI_INLINE zmi_gpu_site *zmi_gpu_here() {
  return (zmi_gpu_site *)(void *)(zmi_shared() + ZMI_GPU_OWN_SITE);
}
ZMI_INLINE zmi_gpu_instruction *zmi_gpu_code(int i) {
  return (zmi_gpu_instruction *)(void *)(zmi_shared() + ZMI_GPU_OWN_CODE) + (i & 1);
}
ZMI_INLINE char *zmi_gpu_scratch() {
  return zmi_shared() + ZMI_GPU_OWN_SHARED;
}

// Thread 0 waits until all blocks are there; else the play is given up.
ZMI_INLINE void zmi_gpu_wait(zmi_gpu_site *s) {
  zmi_gpu_play *play = s->play;
  const unsigned all = ++s->met * (unsigned)s->workers;
  bool all_there = zmi_look(&play->arrived) >= all;
  for (int looks = 1; !all_there; looks++) {
    all_there = zmi_look(&play->arrived) >= all;
    if (all_there || looks % 64 != 0) continue;
    if (zmi_nanoseconds() > s->deadline) zmi_add_atomic(&play->given_up, 1);
    if (zmi_look(&play->given_up)) break;
    zmi_pause();
  }
  s->gone = !all_there;
}

// A block that waits asks for weights. False if the play was given up.
ZMI_APART bool zmi_gpu_meet() {
  zmi_gpu_site *s = zmi_gpu_here();
  zmi_gpu_ring ring = *zmi_gpu_ring_here();
  const zmi_gpu_words_of soon = zmi_gpu_fetch(&ring, ring.at < ring.count ? zmi_near(ring.in)->next : ring.count);
  zmi_sync();
  if (zmi_thread() == 0) zmi_arrive(&s->play->arrived);
  zmi_gpu_ring_ask(&ring, -1, &soon);
  zmi_gpu_ring_keep(&ring);
  if (zmi_thread() == 0) zmi_gpu_wait(s);
  zmi_sync();
  return !s->gone;
}

// A ROUTE of every block's own: the choice stays in shared memory, worker 0 writes it, too.
ZMI_APART void zmi_gpu_route_own(const zmi_gpu_instruction *in, int worker, char *shared, char *own) {
  zmi_gpu_route r = in->as.route;
  const int warps = ZMI_GPU_ROUTE_WARPS(r.experts), warp = zmi_thread() / 32, pairs = r.rows * r.k;
  float *p = (float *)(void *)shared + (long long)warp * 2 * r.experts;
  int *chosen = (int *)(void *)own;
  r.chosen = (zmi_gpu_address)own;
  r.weights = (zmi_gpu_address)(own + ZMI_GPU_OWN * 4);
  for (int t = warp; warp < warps && t < r.rows; t += warps) zmi_gpu_route_row(&r, t, p, p + r.experts);
  zmi_sync();
  if (worker != 0) return;
  for (int i = zmi_thread(); i < pairs; i += ZMI_GPU_THREADS) {
    zmi_gpu_at<int>(in->as.route.chosen)[i] = chosen[i];
    zmi_gpu_store(in->as.route.weights, r.dtype, i, zmi_gpu_load(r.weights, r.dtype, i));
  }
}

ZMI_APART void zmi_gpu_dot_made(const zmi_gpu_instruction *in, const char *made, int worker, int workers, char *shared) {
  zmi_gpu_dot_with(in, made, worker, workers, shared);
}

// The kinds that nothing here does better.
ZMI_APART void zmi_gpu_play_other(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  zmi_gpu_perform(in, worker, workers, shared);
}

// Blocks of one multiprocessor are neighbours: so a product of few tiles keeps all multiprocessors busy. (They come in turn, each with its
// first block, then each with its second one; should they not, that costs time, no more.)
ZMI_INLINE int zmi_gpu_worker(int each) {
  const int processors = zmi_blocks() / each;
  return processors * each == zmi_blocks() ? zmi_block() % processors * each + zmi_block() / processors : zmi_block();
}

ZMI_INLINE void zmi_gpu_begin(const zmi_gpu_instruction *all, int count, int first, zmi_gpu_play *play, unsigned long long allowed) {
  const int warp = zmi_thread() / 32;
  zmi_gpu_site *s = zmi_gpu_here();
  if (zmi_thread() == 0) {
    s->play = play;
    s->deadline = zmi_nanoseconds() + allowed;
    s->made = zmi_shared() + play->ready_at;
    s->worker = zmi_gpu_worker(play->each);
    s->workers = zmi_blocks();
    s->by = zmi_gpu_by(zmi_blocks());
    s->gone = 0;
    s->met = 0;
    s->stamps = play->stamps ? zmi_gpu_at<unsigned long long>(play->stamps) + (long long)s->worker * count * 2 : 0;
  }
  zmi_gpu_ring ring = {};
  ring.all = all;
  ring.count = count;
  ring.worker = zmi_gpu_worker(play->each);
  ring.workers = zmi_blocks();
  ring.by = zmi_gpu_by(zmi_blocks());
  ring.slots = play->slots;
  ring.slot = zmi_shared() + play->ring_at + warp * ring.slots * ZMI_GPU_SLOT;
  ring.in = (zmi_gpu_instruction *)(void *)(zmi_shared() + ZMI_GPU_OWN_RING) + warp;
  ring.chosen = (const int *)(const void *)zmi_shared();
  if (zmi_thread() % 32 == 0) {
    for (int i = 0; i < ring.slots; i++) zmi_bulk_open(zmi_gpu_gate(i));
    zmi_bulk_opened();
  }
  const zmi_gpu_words_of none = {-1, {}};
  zmi_gpu_ring_open(&ring, first, &none);
  zmi_gpu_ring_keep(&ring);
}

// A play that was given up: what is on its way to shared memory has to come before the block ends.
ZMI_INLINE void zmi_gpu_drain() {
  zmi_gpu_ring ring = *zmi_gpu_ring_here();
  while (ring.asked != ring.taken) {
    zmi_gpu_ring_take(&ring);
    zmi_gpu_ring_next(&ring);
  }
}

// in: instruction `now`.
ZMI_INLINE void zmi_gpu_play_one(const zmi_gpu_instruction *in, int now) {
  const zmi_gpu_site *s = zmi_gpu_here();
  char *scratch = zmi_gpu_scratch(), *made = zmi_near(s->made);
  if (in->kind == ZMI_GPU_READY) {
    zmi_gpu_ready_run(in, s->worker, s->workers, s->by, scratch, made);
  } else if (in->kind == ZMI_GPU_ROUTE && in->own) {
    zmi_gpu_route_own(in, s->worker, scratch, zmi_shared());
    if (zmi_thread() % 32 == 0) zmi_gpu_ring_here()->route = now + 1;
  } else if (in->kind == ZMI_GPU_DOT && in->as.dot.step) {
    zmi_gpu_stream_run(in, now, scratch, made);
  } else if (in->kind == ZMI_GPU_DOT && !in->as.dot.x) {
    zmi_gpu_dot_made(in, made, s->worker, s->workers, scratch);
  } else {
    zmi_gpu_play_other(in, s->worker, s->workers, scratch);
  }
}

// When a block began an instruction, or was done with it.
ZMI_INLINE void zmi_gpu_stamp(int i) {
  unsigned long long *at = zmi_gpu_here()->stamps;
  if (at && zmi_thread() == 0) at[i] = zmi_clock();
}

// first: the first DOT whose weights come through the ring. An instruction is copied to shared memory while the one before it is played:
// what is in memory has to be asked for anew after each barrier.
ZMI_KERNEL zmi_gpu_resident(const zmi_gpu_instruction *all, int count, int first, zmi_gpu_play *play, unsigned long long allowed) {
  enum { WORDS = sizeof(zmi_gpu_instruction) / 4 };
  const int t = zmi_thread();
  zmi_gpu_begin(all, count, first, play, allowed);
  if (t < WORDS) ((unsigned *)(void *)zmi_gpu_code(0))[t] = ((const unsigned *)(const void *)all)[t];
  zmi_sync();
  for (int i = 0; i < count; i++) {
    const unsigned word = i + 1 < count && t < WORDS ? ((const unsigned *)(const void *)&all[i + 1])[t] : 0u;
    if (i > 0 && zmi_gpu_code(i)->barrier && !zmi_gpu_meet()) return zmi_gpu_drain();
    zmi_gpu_stamp(2 * i);
    zmi_gpu_play_one(zmi_gpu_code(i), i);
    if (t < WORDS) ((unsigned *)(void *)zmi_gpu_code(i + 1))[t] = word;
    zmi_sync();
    zmi_gpu_stamp(2 * i + 1);
  }
}
