// Entries of moves alone: what arrays need of the device code. It is compiled in a second, all of it in a minute. Device text.

ZMI_KERNEL zmi_gpu_step_take(const zmi_gpu_instruction *in) {
  zmi_gpu_take_run(in, zmi_block(), zmi_blocks(), zmi_shared());
}

ZMI_KERNEL zmi_gpu_step_copy(const zmi_gpu_instruction *in) {
  zmi_gpu_copy_run(in, zmi_block(), zmi_blocks(), zmi_shared());
}
