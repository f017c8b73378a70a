// One launch plays a whole tape: blocks stay, go through the instructions together, and meet at a barrier where an instruction needs what
// others have made. A deadline ends it if a block is missing: nothing waits for ever.

// A block that waits asks for weights. False if the play was given up. barrier: how many there were before; told: in shared memory.
ZMI_APART bool zmi_gpu_meet(zmi_gpu_play *play, unsigned barrier, unsigned long long deadline, zmi_gpu_ring *ring, volatile int *told) {
  const unsigned all = (barrier + 1) * (unsigned)zmi_blocks();
  zmi_sync();
  if (zmi_thread() == 0) zmi_arrive(&play->arrived);
  zmi_gpu_ring_ask(ring, -1);
  if (zmi_thread() == 0) {
    bool all_there = zmi_look(&play->arrived) >= all;
    for (int looks = 1; !all_there; looks++) {
      all_there = zmi_look(&play->arrived) >= all;
      if (all_there || looks % 64 != 0) continue;
      if (zmi_nanoseconds() > deadline) zmi_add_atomic(&play->given_up, 1);
      if (zmi_look(&play->given_up)) break;
      zmi_pause();
    }
    *told = !all_there;
  }
  zmi_sync();
  return !*told;
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

// in: instruction `now`.
ZMI_DEVICE void zmi_gpu_play_one(zmi_gpu_ring *ring, const zmi_gpu_instruction *in, int now, const zmi_gpu_play *play, char *shared) {
  char *made = shared + play->ready_at;
  if (in->kind == ZMI_GPU_READY) {
    zmi_gpu_ready_run(in, ring->worker, ring->workers, shared, made);
  } else if (in->kind == ZMI_GPU_ROUTE && in->own) {
    zmi_gpu_route_own(in, ring->worker, shared, shared + play->own_at);
    ring->route = now + 1;
  } else if (in->kind == ZMI_GPU_DOT && in->as.dot.step) {
    zmi_gpu_stream_run(ring, in, now, shared, made);
  } else if (in->kind == ZMI_GPU_DOT && !in->as.dot.x) {
    zmi_gpu_dot_made(in, made, ring->worker, ring->workers, shared);
  } else {
    zmi_gpu_play_other(in, ring->worker, ring->workers, shared);
  }
}

// Blocks of one multiprocessor are neighbours: so a product of few tiles keeps all multiprocessors busy. (They come in turn, each with its
// first block, then each with its second one; should they not, that costs time, no more.)
ZMI_INLINE int zmi_gpu_worker(int each) {
  const int processors = zmi_blocks() / each;
  return processors * each == zmi_blocks() ? zmi_block() % processors * each + zmi_block() / processors : zmi_block();
}

// A copy of the head of a play, which all of it asks for.
ZMI_INLINE void zmi_gpu_ring_begin(zmi_gpu_ring *ring, const zmi_gpu_instruction *all, int count, int first, const zmi_gpu_play *play,
                                   char *shared) {
  const int warp = zmi_thread() / 32;
  ring->all = all;
  ring->count = count;
  ring->worker = zmi_gpu_worker(play->each);
  ring->workers = zmi_blocks();
  ring->slots = play->slots;
  ring->slot = shared + play->ring_at + warp * ring->slots * ZMI_GPU_SLOT;
  ring->in = (zmi_gpu_instruction *)(void *)(shared + play->own_at + ZMI_GPU_OWN_RING) + warp;
  ring->chosen = (const int *)(const void *)(shared + play->own_at);
  zmi_gpu_ring_open(ring, first);
}

// first: the first DOT whose weights come through the ring. An instruction is copied to shared memory while the one before it is played:
// what is in memory has to be asked for anew after each barrier.
ZMI_KERNEL zmi_gpu_resident(const zmi_gpu_instruction *all, int count, int first, zmi_gpu_play *global, unsigned long long allowed) {
  enum { WORDS = sizeof(zmi_gpu_instruction) / 4 };
  const unsigned long long deadline = zmi_nanoseconds() + allowed;
  const zmi_gpu_play play = *global;
  char *shared = zmi_shared(), *own = shared + play.own_at;
  zmi_gpu_ring ring = {};
  volatile int *told = (volatile int *)(volatile void *)(own + ZMI_GPU_OWN_TOLD);
  zmi_gpu_instruction *code = (zmi_gpu_instruction *)(void *)(own + ZMI_GPU_OWN_CODE);
  const int t = zmi_thread();
  unsigned barrier = 0;
  zmi_gpu_ring_begin(&ring, all, count, first, &play, shared);
  if (t < WORDS) ((unsigned *)(void *)code)[t] = ((const unsigned *)(const void *)all)[t];
  zmi_sync();
  for (int i = 0; i < count; i++) {
    const zmi_gpu_instruction *in = &code[i & 1];
    const unsigned word = i + 1 < count && t < WORDS ? ((const unsigned *)(const void *)&all[i + 1])[t] : 0u;
    if (i > 0 && in->barrier && !zmi_gpu_meet(global, barrier++, deadline, &ring, told)) return;
    unsigned long long *stamp = zmi_gpu_at<unsigned long long>(play.stamps);
    if (stamp) stamp += ((long long)ring.worker * count + i) * 2;
    if (stamp && t == 0) stamp[0] = zmi_clock();
    zmi_gpu_play_one(&ring, in, i, &play, shared);
    if (t < WORDS) ((unsigned *)(void *)&code[(i + 1) & 1])[t] = word;
    zmi_sync();
    if (stamp && t == 0) stamp[1] = zmi_clock();
  }
}
