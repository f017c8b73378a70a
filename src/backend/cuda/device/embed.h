// Rows of a packed table.

enum { ZMI_GPU_EMBEDDED = 4 }; // elements of a thread that are asked for together

// Elements i, i + 256, ... of a lane of an affine block (matrix.h): the words of their codes, scales and biases before any of them is used.
ZMI_INLINE void zmi_gpu_embed_affine(const zmi_gpu_embed *e, const char *block, int lane, int i, long long out) {
  const zmi_gpu_matrix *m = &e->table;
  // Planes of 8, 4 or 2 bits, and of what is left of 3, 5 or 6.
  const int bits = m->bits, high = bits >= 8 ? 8 : bits >= 4 ? 4 : 2, low = bits - high, code_bytes = m->group * bits * ZMI_GPU_LANES / 8;
  const int scale_bytes = ZMI_GPU_LANES * zmi_gpu_size(m->dtype), group_bytes = code_bytes + 2 * scale_bytes;
  unsigned word[ZMI_GPU_EMBEDDED], rest[ZMI_GPU_EMBEDDED], scale[ZMI_GPU_EMBEDDED], bias[ZMI_GPU_EMBEDDED];
#pragma unroll
  for (int j = 0; j < ZMI_GPU_EMBEDDED; j++) {
    const int k = i + j * ZMI_GPU_THREADS, g = k / m->group, in = k - g * m->group;
    const bool there = k < m->k;
    const char *group = block + (long long)g * group_bytes;
    const unsigned *unit = (const unsigned *)(const void *)group + in / 32 * bits * ZMI_GPU_LANES + lane;
    word[j] = there ? unit[in % 32 * high / 32 * ZMI_GPU_LANES] : 0u;
    rest[j] = there && low ? unit[(high + in % 32 * low / 32) * ZMI_GPU_LANES] : 0u;
    scale[j] = there ? zmi_gpu_word((zmi_gpu_address)(group + code_bytes), m->dtype, lane) : 0u;
    bias[j] = there ? zmi_gpu_word((zmi_gpu_address)(group + code_bytes + scale_bytes), m->dtype, lane) : 0u;
  }
#pragma unroll
  for (int j = 0; j < ZMI_GPU_EMBEDDED; j++) {
    const int k = i + j * ZMI_GPU_THREADS, g = k / m->group, in = (k - g * m->group) % 32;
    const zmi_gpu_address at = (zmi_gpu_address)(block + (long long)g * group_bytes + code_bytes);
    unsigned code = word[j] >> (in % 4 * 8 + in % (32 / high) / 4 * high) & ((1u << high) - 1u);
    if (low) code |= (rest[j] >> (in % 4 * 8 + in % (32 / low) / 4 * low) & ((1u << low) - 1u)) << high;
    const float s = zmi_gpu_of_word(scale[j], at, m->dtype, lane),
                b = zmi_gpu_of_word(bias[j], at + (zmi_gpu_address)scale_bytes, m->dtype, lane);
    if (k < m->k) zmi_gpu_store(e->out, e->dtype, out + k, zk_fma((float)(int)code, s, b));
  }
}

ZMI_INLINE void zmi_gpu_embed_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_embed copy = in->as.embed, *e = &copy;
  const int k = e->table.k;
  (void)shared;
  for (int row = worker; row < e->rows; row += workers) {
    const int token = zmi_gpu_at<const int>(e->token)[row], lane = token % ZMI_GPU_LANES;
    const bool there = token >= 0 && token < e->table.n, affine = there && e->table.mode == ZMI_GPU_AFFINE;
    const char *block = zmi_gpu_block_of(&e->table, 0, there ? token / ZMI_GPU_LANES : 0);
    const long long out = (long long)row * k;
    for (int i = zmi_thread(); affine && i < k; i += ZMI_GPU_THREADS * ZMI_GPU_EMBEDDED) zmi_gpu_embed_affine(e, block, lane, i, out);
    for (int i = zmi_thread(); !affine && i < k; i += ZMI_GPU_THREADS)
      zmi_gpu_store(e->out, e->dtype, out + i, there ? zmi_gpu_weight(&e->table, block, lane, i) : 0.0f);
  }
}
