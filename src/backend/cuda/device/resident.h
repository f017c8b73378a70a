// One launch plays a whole tape: blocks stay, go through the instructions together, and meet at a barrier where an instruction needs what
// others have made.

// A ROUTE of every block's own: the choice stays in shared memory, worker 0 writes it, too.
ZMI_APART void zmi_gpu_route_own(int place) {
  const zmi_gpu_instruction *in = zmi_gpu_code(place);
  const zmi_gpu_site *s = zmi_gpu_here();
  const int worker = s->worker;
  char *shared = zmi_gpu_scratch(), *own = zmi_shared();
  zmi_gpu_route r = in->as.route;
  const int warps = ZMI_GPU_ROUTE_WARPS(r.experts), warp = zmi_thread() / 32, pairs = r.rows * r.k;
  float *p = (float *)(void *)shared + (long long)warp * 2 * r.experts;
  int *chosen = (int *)(void *)own;
  if (r.kept) r.logits = (zmi_gpu_address)(shared + r.kept);
  r.chosen = (zmi_gpu_address)own;
  r.weights = (zmi_gpu_address)(own + ZMI_GPU_OWN * 4);
  for (int t = warp; warp < warps && t < r.rows; t += warps) zmi_gpu_route_row(&r, t, p, p + r.experts);
  zmi_sync();
  if (r.asked) zmi_gate_arrive(&zmi_gpu_feed_here()->routed, 1);
  if (worker != 0) return;
  for (int i = zmi_thread(); i < pairs; i += ZMI_GPU_THREADS) {
    zmi_gpu_at<int>(in->as.route.chosen)[i] = chosen[i];
    zmi_gpu_store(in->as.route.weights, r.dtype, i, zmi_gpu_load(r.weights, r.dtype, i));
  }
}

ZMI_APART void zmi_gpu_dot_made(int place) {
  const zmi_gpu_site *s = zmi_gpu_here();
  zmi_gpu_dot_with(zmi_gpu_code(place), zmi_shared() + s->made, s->worker, s->workers, zmi_gpu_scratch());
}

// The kinds that nothing here does better.
ZMI_APART void zmi_gpu_play_other(int place) {
  const zmi_gpu_site *s = zmi_gpu_here();
  zmi_gpu_perform(zmi_gpu_code(place), s->worker, s->workers, zmi_gpu_scratch());
}

// Blocks of one multiprocessor are neighbours: so a product of few tiles keeps all multiprocessors busy. (They come in turn, each with its
// first block, then each with its second one; should they not, that costs time, no more.)
ZMI_INLINE int zmi_gpu_worker(int each) {
  const int processors = zmi_blocks() / each;
  return processors * each == zmi_blocks() ? zmi_block() % processors * each + zmi_block() / processors : zmi_block();
}

ZMI_INLINE void zmi_gpu_begin(int count, zmi_gpu_play *play, unsigned long long allowed) {
  zmi_gpu_site *s = zmi_gpu_here();
  s->play = play;
  s->step = 0;
  s->allowed = allowed;
  s->deadline = zmi_nanoseconds() + allowed;
  s->stop = play->mail ? &zmi_gpu_at<zmi_gpu_mail>(play->mail)->stop : 0;
  s->made = play->ready_at;
  s->ring = play->ring_at;
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
    zmi_gate_open(&feed->room[i], ZMI_GPU_THREADS);
  }
  zmi_gate_open(&feed->routed, ZMI_GPU_THREADS);
  zmi_gate_open(&feed->reached, 1);
  zmi_gate_open(&feed->ended, 1);
  zmi_bulk_opened();
  for (int i = 0; i < ZMI_GPU_WARPS; i++) feed->stages[i] = 0;
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

// The instruction of a place.
ZMI_INLINE void zmi_gpu_play_one(int place, int how) {
  if (how == ZMI_GPU_STREAMED_LATE && zmi_thread() == 0) // for it the feeding warp waits
    zmi_gate_arrive(&zmi_gpu_feed_here()->reached, 1);
  if (how == ZMI_GPU_STREAMED || how == ZMI_GPU_STREAMED_LATE)
    zmi_gpu_stream_run(place);
  else if (how == ZMI_GPU_OF_READY)
    zmi_gpu_dot_made(place);
  else if (how != ZMI_GPU_OF_BLOCK)
    zmi_gpu_play_other(place);
  else if (zmi_gpu_code(place)->kind == ZMI_GPU_READY)
    zmi_gpu_ready_run(place);
  else
    zmi_gpu_route_own(place);
}

// When a block began an instruction (which: 0), or was done with it (1).
ZMI_INLINE void zmi_gpu_stamp(int number, int which) {
  if (zmi_thread() == 0) zmi_gpu_here()->stamps[2 * number + which] = zmi_clock();
}

// Asks for an instruction: it comes to shared memory while the one before it is played, as what is in memory would have to be had anew
// after each barrier.
ZMI_INLINE void zmi_gpu_bring(const zmi_gpu_instruction *all, int i, int place) {
  const int at = 16 * zmi_thread();
  if (at < (int)sizeof *all) zmi_copy_async((char *)(void *)zmi_gpu_code(place) + at, (const char *)(const void *)&all[i] + at);
  zmi_copy_commit();
}
static_assert(sizeof(zmi_gpu_instruction) % 16 == 0 && ZMI_GPU_OWN_CODE % 16 == 0, "instructions come in pieces of 16 bytes");

// The beginning of an instruction, read at once.
typedef struct alignas(16) zmi_gpu_opening {
  int kind, number, barrier, how;
} zmi_gpu_opening;

// Plays the instruction of a place, behind which the other place has the next one. How the step goes on: nothing has to be kept
// meanwhile, as what a register cannot hold comes from local memory, and that from far behind a barrier. A block that is done with an
// instruction in front of a barrier says so before it goes on to wait.
typedef enum zmi_gpu_going { ZMI_GPU_ON, ZMI_GPU_DONE, ZMI_GPU_GIVEN_UP } zmi_gpu_going;
ZMI_INLINE zmi_gpu_going zmi_gpu_play_place(const zmi_gpu_instruction *all, int count, int stamped, int place) {
  const zmi_gpu_opening head = *(const zmi_gpu_opening *)(const void *)zmi_gpu_code(place);
  if (head.number + 1 < count) zmi_gpu_bring(all, head.number + 1, 1 - place);
  if (head.number > 0 && head.barrier && !zmi_gpu_meet_others()) return ZMI_GPU_GIVEN_UP;
  if (stamped) zmi_gpu_stamp(head.number, 0);
  zmi_gpu_play_one(place, head.how);
  const int done = zmi_gpu_code(place)->number; // behind the next line others ask for an instruction that comes to this place
  zmi_copy_wait(0);
  zmi_sync();
  const bool more = done + 1 < count;
  if (more && zmi_gpu_code(1 - place)->barrier) zmi_gpu_arrive();
  if (stamped) zmi_gpu_stamp(done, 1);
  return more ? ZMI_GPU_ON : ZMI_GPU_DONE;
}

// False if the play was given up. Two at a time: so each place is a constant.
ZMI_INLINE bool zmi_gpu_play_step(const zmi_gpu_instruction *all, int count, int stamped) {
  zmi_gpu_going how = ZMI_GPU_DONE;
  if (count == 0) return true;
  zmi_gpu_bring(all, 0, 0);
  zmi_copy_wait(0);
  zmi_sync();
  do {
    how = zmi_gpu_play_place(all, count, stamped, 0);
    if (how == ZMI_GPU_ON) how = zmi_gpu_play_place(all, count, stamped, 1);
  } while (how == ZMI_GPU_ON);
  return how == ZMI_GPU_DONE;
}

// stamped: whether the play has stamps.
ZMI_KERNEL_FED zmi_gpu_resident(const zmi_gpu_instruction *all, int count, int first, zmi_gpu_play *play, unsigned long long allowed,
                                int stamped) {
  const int t = zmi_thread();
  if (t == 0) zmi_gpu_begin(count, play, allowed);
  if (t == ZMI_GPU_THREADS) zmi_gpu_begin_ring();
  zmi_sync_all();
  if (t >= ZMI_GPU_THREADS) return zmi_gpu_begin_feeding(all, count, first, play);
  while (zmi_gpu_play_step(all, count, stamped) && zmi_gpu_choose()) {
  }
  if (t == 0) zmi_gate_arrive(&zmi_gpu_feed_here()->ended, 1);
}
