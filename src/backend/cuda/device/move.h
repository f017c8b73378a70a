// Moves: rows by index, and elements of any strides. Device text.

// ---- TAKE ----

template <typename T> ZMI_INLINE void zmi_gpu_move(zmi_gpu_address from, zmi_gpu_address to, bool there, long long bytes) {
  const T zero = {};
  for (long long i = zmi_thread(); i < bytes / (long long)sizeof(T); i += ZMI_GPU_THREADS)
    zmi_gpu_at<T>(to)[i] = there ? zmi_gpu_at<const T>(from)[i] : zero;
}

ZMI_INLINE void zmi_gpu_take_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_take *k = &in->as.take;
  (void)shared;
  for (int t = worker; t < in->tiles; t += workers) {
    const int index = zmi_gpu_at<const int>(k->index)[t];
    const bool there = index >= 0 && index < k->there;
    const zmi_gpu_address from = k->x + (there ? (zmi_gpu_address)index * (zmi_gpu_address)k->bytes : 0);
    const zmi_gpu_address to = k->out + (zmi_gpu_address)t * (zmi_gpu_address)k->bytes;
    const zmi_gpu_address odd = from | to | (zmi_gpu_address)k->bytes;
    if (odd % 16 == 0)
      zmi_gpu_move<zmi_gpu_words>(from, to, there, k->bytes);
    else if (odd % 4 == 0)
      zmi_gpu_move<unsigned>(from, to, there, k->bytes);
    else
      zmi_gpu_move<unsigned short>(from, to, there, k->bytes);
  }
}

// ---- COPY ----

// Where element i in row-major order lies, in elements.
ZMI_DEVICE long long zmi_gpu_copy_place(const zmi_gpu_copy *c, long long i) {
  long long at = 0;
  for (int a = c->rank - 1; a >= 0; a--) {
    long long down;
    if (c->count <= 0x7fffffffll)
      down = (unsigned)i / (unsigned)c->size[a];
    else
      down = i / c->size[a];
    at += (i - down * c->size[a]) * c->stride[a];
    i = down;
  }
  return at;
}

template <typename T> ZMI_INLINE void zmi_gpu_copy_piece(const zmi_gpu_copy *c, long long first) {
  for (long long i = first + zmi_thread(); i < first + ZMI_GPU_PIECE && i < c->count; i += ZMI_GPU_THREADS)
    zmi_gpu_at<T>(c->out)[i] = zmi_gpu_at<const T>(c->x)[zmi_gpu_copy_place(c, i)];
}

ZMI_INLINE void zmi_gpu_copy_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_copy *c = &in->as.copy;
  (void)shared;
  for (int t = worker; t < in->tiles; t += workers) {
    const long long first = (long long)t * ZMI_GPU_PIECE;
    if (c->bytes == 1) zmi_gpu_copy_piece<unsigned char>(c, first);
    if (c->bytes == 2) zmi_gpu_copy_piece<unsigned short>(c, first);
    if (c->bytes == 4) zmi_gpu_copy_piece<unsigned>(c, first);
    if (c->bytes == 8) zmi_gpu_copy_piece<unsigned long long>(c, first);
  }
}
