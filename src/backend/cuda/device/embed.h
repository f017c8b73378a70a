// Rows of a packed table.

ZMI_DEVICE void zmi_gpu_embed_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_embed *e = &in->as.embed;
  const int k = e->table.k;
  (void)shared;
  for (int row = worker; row < e->rows; row += workers) {
    const int token = zmi_gpu_at<const int>(e->token)[row];
    const bool there = token >= 0 && token < e->table.n;
    const char *block = zmi_gpu_block_of(&e->table, 0, there ? token / ZMI_GPU_LANES : 0);
    for (int i = zmi_thread(); i < k; i += ZMI_GPU_THREADS) {
      const float x = there ? zmi_gpu_weight(&e->table, block, token % ZMI_GPU_LANES, i) : 0.0f;
      zmi_gpu_store(e->out, e->dtype, (long long)row * k + i, x);
    }
  }
}
