// Entries: every kind of instruction as a kernel of its own, and one function that does any of them.

// What a worker does of a kind is zmi_gpu_<name>_run.
#define ZMI_GPU_ENTRY(name, kind)                                                                                                          \
  ZMI_KERNEL zmi_gpu_step_##name(const zmi_gpu_instruction *in) {                                                                          \
    zmi_gpu_##name##_run(in, zmi_block(), zmi_blocks(), zmi_shared());                                                                     \
  }
ZMI_GPU_STEPS(ZMI_GPU_ENTRY)

#define ZMI_GPU_ENTRY_ALONE(name, kind)                                                                                                    \
  ZMI_KERNEL_ALONE zmi_gpu_step_##name(const zmi_gpu_instruction *in) {                                                                    \
    zmi_gpu_##name##_run(in, zmi_block(), zmi_blocks(), zmi_shared());                                                                     \
  }
ZMI_GPU_LAUNCHED(ZMI_GPU_ENTRY_ALONE)

#define ZMI_GPU_CASE(name, kind)                                                                                                           \
  case kind:                                                                                                                               \
    zmi_gpu_##name##_run(in, worker, workers, shared);                                                                                     \
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
