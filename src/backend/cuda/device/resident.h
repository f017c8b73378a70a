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

ZMI_DEVICE void zmi_gpu_play_one(zmi_gpu_ring *ring, int now, const zmi_gpu_play *play, char *shared) {
  const zmi_gpu_instruction *in = &ring->all[now];
  char *made = shared + play->ready_at;
  if (in->kind == ZMI_GPU_READY) {
    zmi_gpu_ready_run(in, ring->worker, ring->workers, shared, made);
  } else if (in->kind == ZMI_GPU_ROUTE && in->own) {
    zmi_gpu_route_own(in, ring->worker, shared, shared + play->own_at);
    ring->route = now + 1;
  } else if (in->kind == ZMI_GPU_DOT && in->as.dot.step) {
    zmi_gpu_stream_run(ring, now, shared, made);
  } else if (in->kind == ZMI_GPU_DOT && !in->as.dot.x) {
    zmi_gpu_dot_made(in, made, ring->worker, ring->workers, shared);
  } else {
    zmi_gpu_play_other(in, ring->worker, ring->workers, shared);
  }
}

// first: the first DOT whose weights come through the ring.
ZMI_KERNEL zmi_gpu_resident(const zmi_gpu_instruction *all, int count, int first, zmi_gpu_play *play, unsigned long long allowed) {
  const unsigned long long deadline = zmi_nanoseconds() + allowed;
  char *shared = zmi_shared();
  zmi_gpu_ring ring = {};
  volatile int *told = (volatile int *)(volatile void *)(shared + play->own_at + ZMI_GPU_OWN * 8);
  unsigned barrier = 0;
  ring.all = all;
  ring.count = count;
  ring.worker = zmi_block();
  ring.workers = zmi_blocks();
  ring.slots = play->slots;
  ring.slot = shared + play->ring_at + zmi_gpu_half() * ZMI_GPU_RING_STRIDE(ring.slots);
  ring.chosen = (const int *)(const void *)(shared + play->own_at);
  zmi_gpu_ring_open(&ring, first);
  for (int i = 0; i < count; i++) {
    if (i > 0 && all[i].barrier && !zmi_gpu_meet(play, barrier++, deadline, &ring, told)) return;
    unsigned long long *stamp = zmi_gpu_at<unsigned long long>(play->stamps);
    if (stamp) stamp += ((long long)ring.worker * count + i) * 2;
    if (stamp && zmi_thread() == 0) stamp[0] = zmi_clock();
    zmi_gpu_play_one(&ring, i, play, shared);
    zmi_sync();
    if (stamp && zmi_thread() == 0) stamp[1] = zmi_clock();
  }
}
