// One launch plays a whole tape: blocks stay, go through the instructions together, and meet at a barrier where an instruction needs what
// others have made.

// A ROUTE of every block's own: the choice stays in shared memory, worker 0 writes it, too.
ZMI_APART void zmi_gpu_route_own(const zmi_gpu_instruction *in, int worker, char *shared, char *own, unsigned mark) {
  zmi_gpu_route r = in->as.route;
  const int warps = ZMI_GPU_ROUTE_WARPS(r.experts), warp = zmi_thread() / 32, pairs = r.rows * r.k;
  float *p = (float *)(void *)shared + (long long)warp * 2 * r.experts;
  int *chosen = (int *)(void *)own;
  if (r.kept) r.logits = (zmi_gpu_address)(shared + r.kept);
  r.chosen = (zmi_gpu_address)own;
  r.weights = (zmi_gpu_address)(own + ZMI_GPU_OWN * 4);
  for (int t = warp; warp < warps && t < r.rows; t += warps) zmi_gpu_route_row(&r, t, p, p + r.experts);
  zmi_sync();
  if (zmi_thread() == 0) zmi_tell(&zmi_gpu_feed_here()->routed, mark);
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

ZMI_INLINE void zmi_gpu_begin(const zmi_gpu_instruction *all, int count, zmi_gpu_play *play, unsigned long long allowed) {
  zmi_gpu_site *s = zmi_gpu_here();
  s->play = play;
  s->all = all;
  s->count = count;
  s->step = 0;
  s->allowed = allowed;
  s->deadline = zmi_nanoseconds() + allowed;
  s->stop = play->mail ? &zmi_gpu_at<zmi_gpu_mail>(play->mail)->stop : 0;
  s->made = zmi_shared() + play->ready_at;
  s->ring = zmi_shared() + play->ring_at;
  s->slots = play->slots;
  s->worker = zmi_gpu_worker(play->each);
  s->workers = zmi_blocks();
  s->by = zmi_gpu_by(zmi_blocks());
  s->gone = 0;
  s->met = 0;
  s->stamps = play->stamps ? zmi_gpu_at<unsigned long long>(play->stamps) + (long long)s->worker * count * 2 : 0;
}

// The ring, by a thread of the warp that will fill it.
ZMI_INLINE void zmi_gpu_begin_ring() {
  zmi_gpu_feed *feed = zmi_gpu_feed_here();
  for (int i = 0; i < ZMI_GPU_SLOTS; i++) {
    zmi_bulk_open(&feed->gate[i]);
    zmi_gate_open(&feed->room[i], ZMI_GPU_WARPS);
  }
  zmi_bulk_opened();
  for (int i = 0; i < ZMI_GPU_WARPS; i++) feed->stages[i] = 0;
  feed->routed = feed->reached = feed->ended = 0;
}

// The ninth warp.
ZMI_INLINE void zmi_gpu_begin_feeding(const zmi_gpu_instruction *all, int count, int first, const zmi_gpu_play *play) {
  zmi_gpu_feeder f = {};
  f.feed = zmi_gpu_feed_here();
  f.count = (unsigned)play->slots;
  f.slots = zmi_shared() + play->ring_at;
  f.worker = zmi_gpu_worker(play->each);
  f.workers = zmi_blocks();
  f.by = zmi_gpu_by(zmi_blocks());
  zmi_gpu_feed_all(all, count, first, play->most > 1 ? play->most : 1, &f);
}

// in: instruction `now`.
ZMI_INLINE void zmi_gpu_play_one(const zmi_gpu_instruction *in, int now) {
  const zmi_gpu_site *s = zmi_gpu_here();
  char *scratch = zmi_gpu_scratch(), *made = zmi_near(s->made);
  if (in->kind == ZMI_GPU_READY) {
    zmi_gpu_ready_run(in, s->worker, s->workers, s->by, scratch, made);
  } else if (in->kind == ZMI_GPU_ROUTE && in->own) {
    zmi_gpu_route_own(in, s->worker, scratch, zmi_shared(), zmi_gpu_mark(s->step, now + 1));
  } else if (in->kind == ZMI_GPU_DOT && in->as.dot.stage) {
    const bool waited = in->as.dot.chosen && !in->as.dot.route; // for it the feeding warp waits
    if (waited && zmi_thread() == 0) zmi_tell(&zmi_gpu_feed_here()->reached, zmi_gpu_mark(s->step, now + 1));
    zmi_gpu_stream_run(in, s->worker, s->workers, s->by, scratch, made, zmi_near(s->ring), s->slots);
  } else if (in->kind == ZMI_GPU_DOT && !in->as.dot.x) {
    zmi_gpu_dot_made(in, made, s->worker, s->workers, scratch);
  } else {
    zmi_gpu_play_other(in, s->worker, s->workers, scratch);
  }
}

// When a block began an instruction, or was done with it. stamps: of thread 0, or absent.
ZMI_INLINE void zmi_gpu_stamp(unsigned long long *stamps, int i) {
  if (stamps) stamps[i] = zmi_clock();
}

// Asks for an instruction: it comes to shared memory while the one before it is played, as what is in memory would have to be had anew
// after each barrier.
ZMI_INLINE void zmi_gpu_bring(const zmi_gpu_instruction *all, int i) {
  const int at = 16 * zmi_thread();
  if (at < (int)sizeof *all) zmi_copy_async((char *)(void *)zmi_gpu_code(i) + at, (const char *)(const void *)&all[i] + at);
  zmi_copy_commit();
}
static_assert(sizeof(zmi_gpu_instruction) % 16 == 0 && ZMI_GPU_OWN_CODE % 16 == 0, "instructions come in pieces of 16 bytes");

// What every thread needs here are constants and two numbers: each look at shared memory is on the way of each instruction. A block that is
// done with an instruction in front of a barrier says so before it goes on to wait. False if the play was given up.
ZMI_INLINE bool zmi_gpu_play_step(const zmi_gpu_instruction *all, int count) {
  unsigned long long *const stamps = zmi_thread() == 0 ? zmi_gpu_here()->stamps : 0;
  zmi_gpu_bring(all, 0);
  zmi_copy_wait(0);
  zmi_sync();
  for (int i = 0; i < count;) {
    if (i + 1 < count) zmi_gpu_bring(all, i + 1);
    if (i > 0 && zmi_gpu_code(i)->barrier && !zmi_gpu_meet_others()) return false;
    zmi_gpu_stamp(stamps, 2 * i);
    zmi_gpu_play_one(zmi_gpu_code(i), i);
    zmi_copy_wait(0);
    zmi_sync();
    i++;
    if (i < count && zmi_gpu_code(i)->barrier) zmi_gpu_arrive();
    zmi_gpu_stamp(stamps, 2 * i - 1);
  }
  return true;
}

ZMI_KERNEL_FED zmi_gpu_resident(const zmi_gpu_instruction *all, int count, int first, zmi_gpu_play *play, unsigned long long allowed) {
  const int t = zmi_thread();
  if (t == 0) zmi_gpu_begin(all, count, play, allowed);
  if (t == ZMI_GPU_THREADS) zmi_gpu_begin_ring();
  zmi_sync_all();
  if (t >= ZMI_GPU_THREADS) return zmi_gpu_begin_feeding(all, count, first, play);
  while (zmi_gpu_play_step(all, count) && zmi_gpu_choose()) {
  }
  if (t == 0) zmi_tell(&zmi_gpu_feed_here()->ended, 1);
}
