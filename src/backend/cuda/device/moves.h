// Entries of moves alone: what arrays need of the device code. It is compiled in a second, all of it in a minute. Device text.

ZMI_KERNEL zmi_gpu_step_take(ZMI_GIVEN const zmi_gpu_instruction in) {
  zmi_begin_next();
  zmi_wait_before();
  zmi_gpu_take_run(&in, zmi_block(), zmi_blocks(), zmi_shared());
}

ZMI_KERNEL zmi_gpu_step_copy(ZMI_GIVEN const zmi_gpu_instruction in) {
  zmi_begin_next();
  zmi_wait_before();
  zmi_gpu_copy_run(&in, zmi_block(), zmi_blocks(), zmi_shared());
}
