// What a block keeps of a resident play, and where all blocks meet. A deadline ends the play if a block is missing: nothing waits for ever.

// What a block has to know of the play, in shared memory: registers are few where all kinds of instructions are one kernel.
typedef struct zmi_gpu_site {
  zmi_gpu_play *play;
  unsigned long long deadline, allowed, *stamps; // allowed: nanoseconds of a step
  const unsigned *stop;                          // of the host; or 0
  int made, ring;                                // where rows of READY lie in shared memory; the ring of weights
  int worker, workers, gone, slots;              // gone: the play was given up; slots: of the ring
  unsigned met, by;                              // barriers so far; zmi_gpu_by(workers)
  int step;                                      // steps played
} zmi_gpu_site;
static_assert(sizeof(zmi_gpu_site) <= 128, "it fits into its place");

ZMI_INLINE zmi_gpu_site *zmi_gpu_here() {
  return (zmi_gpu_site *)(void *)(zmi_shared() + ZMI_GPU_OWN_SITE);
}
// Instructions come to two places in turn: number i is in place i % 2.
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
    // One block alone looks at the host: the way there is so long that blocks which all go it wait longer at the next barrier, too.
    const bool stops = s->worker == 0 && s->stop && zmi_look_host(s->stop);
    if (stops || zmi_nanoseconds() > s->deadline) zmi_add_atomic(&play->given_up, 1);
    if (zmi_look(&play->given_up)) break;
    zmi_pause();
  }
  s->gone = !all_there;
}

// All blocks meet: behind a zmi_sync the block says that it is there, and waits for the others. False if the play was given up.
ZMI_INLINE void zmi_gpu_arrive() {
  if (zmi_thread() == 0) zmi_arrive(&zmi_gpu_here()->play->arrived);
}
ZMI_APART bool zmi_gpu_meet_others() {
  zmi_gpu_site *s = zmi_gpu_here();
  if (zmi_thread() == 0) zmi_gpu_wait(s);
  zmi_sync();
  return !s->gone;
}
ZMI_INLINE bool zmi_gpu_meet() {
  zmi_sync();
  zmi_gpu_arrive();
  return zmi_gpu_meet_others();
}
