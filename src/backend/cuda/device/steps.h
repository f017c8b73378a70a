// Entries: every kind of instruction as a kernel of its own, and one function that does any of them.

// What a worker does of a kind is zmi_gpu_<name>_run. A launch may begin while the one before it goes on (machine.h): every thread waits
// for that one, whatever it has to do, as the launch behind it relies on that, and before touches nothing but its instruction and weights.
#define ZMI_GPU_ENTRY_AS(KERNEL, name)                                                                                                     \
  KERNEL zmi_gpu_step_##name(ZMI_GIVEN const zmi_gpu_instruction in) {                                                                     \
    zmi_begin_next();                                                                                                                      \
    zmi_gpu_ahead(&in, zmi_block(), zmi_blocks());                                                                                         \
    zmi_wait_before();                                                                                                                     \
    zmi_gpu_##name##_run(&in, zmi_block(), zmi_blocks(), zmi_shared());                                                                    \
  }

// Weights of a product that will be read depend on nothing (but for experts): they come to the cache while the launch before goes on.
ZMI_INLINE void zmi_gpu_ahead(const zmi_gpu_instruction *in, int worker, int workers) {
  enum { LINE = 128, MOST = 4 }; // bytes; tiles
  const zmi_gpu_dot *d = &in->as.dot;
  if (in->kind != ZMI_GPU_DOT || d->chosen) return;
  for (int t = worker, n = 0; t < in->tiles && t < d->blocks && n < MOST; t += workers, n++) {
    const char *block = zmi_gpu_block_of(&d->matrix, 0, t);
    for (unsigned i = (unsigned)zmi_thread() * LINE; i < d->matrix.block_bytes; i += ZMI_GPU_THREADS * LINE) zmi_cache_ahead(block + i);
  }
}

#define ZMI_GPU_ENTRY(name, kind) ZMI_GPU_ENTRY_AS(ZMI_KERNEL, name)
ZMI_GPU_STEPS(ZMI_GPU_ENTRY)
#define ZMI_GPU_ENTRY_ALONE(name, kind) ZMI_GPU_ENTRY_AS(ZMI_KERNEL_ALONE, name)
ZMI_GPU_LAUNCHED(ZMI_GPU_ENTRY_ALONE)

// Functions of their own: in an entry alone the compiler sees that the instruction is an argument, which needs no way to memory.
#define ZMI_GPU_APART(name, kind)                                                                                                          \
  ZMI_APART void zmi_gpu_##name##_call(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {                             \
    zmi_gpu_##name##_run(in, worker, workers, shared);                                                                                     \
  }
ZMI_GPU_STEPS(ZMI_GPU_APART)

#define ZMI_GPU_CASE(name, kind)                                                                                                           \
  case kind:                                                                                                                               \
    zmi_gpu_##name##_call(in, worker, workers, shared);                                                                                    \
    break;

// What worker `worker` of `workers` has to do of an instruction. All threads of a block call it together.
ZMI_DEVICE void zmi_gpu_perform(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  switch (in->kind) {
    ZMI_GPU_STEPS(ZMI_GPU_CASE)
  default:
    break;
  }
  (void)worker, (void)workers, (void)shared;
}
