// One launch plays a whole tape: blocks stay, go through the instructions together, and meet at a barrier where an instruction needs what
// others have made. A deadline ends it if a block is missing: nothing waits for ever.

ZMI_INLINE unsigned zmi_gpu_volatile(const unsigned *p) {
  return *(const volatile unsigned *)p;
}

// False if the play was given up. count: arrivals of all blocks so far, of this barrier and those before.
ZMI_DEVICE bool zmi_gpu_meet(zmi_gpu_play *play, unsigned barrier, unsigned long long deadline) {
  const unsigned all = (barrier + 1) * (unsigned)zmi_blocks();
  zmi_sync();
  if (zmi_thread() == 0) {
    zmi_fence();
    zmi_add_atomic(&play->arrived, 1);
    while (zmi_gpu_volatile(&play->arrived) < all && !zmi_gpu_volatile(&play->given_up)) {
      if (zmi_nanoseconds() > deadline) zmi_add_atomic(&play->given_up, 1);
      zmi_pause();
    }
    zmi_fence();
  }
  zmi_sync();
  return !zmi_gpu_volatile(&play->given_up);
}

// play: zeroed before.
ZMI_KERNEL zmi_gpu_resident(const zmi_gpu_instruction *all, int count, zmi_gpu_play *play, unsigned long long allowed) {
  const unsigned long long deadline = zmi_nanoseconds() + allowed;
  unsigned barrier = 0;
  for (int i = 0; i < count; i++) {
    if (i > 0 && all[i].barrier && !zmi_gpu_meet(play, barrier++, deadline)) return;
    zmi_gpu_perform(&all[i], zmi_block(), zmi_blocks(), zmi_shared());
    zmi_sync();
  }
}
