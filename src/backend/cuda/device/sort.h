// Pairs of a product by their experts. One block: pairs are some thousands. Shared memory: of each expert, and of none, how many pairs
// take it, and where the next of them goes.

enum { ZMI_GPU_SORT_AHEAD = 8 }; // choices of a thread that are asked for together

// Adds 1 to the number of each pair's expert; if `order` is there, what it was is the pair's place.
ZMI_INLINE void zmi_gpu_sort_count(const zmi_gpu_sort *s, int *number, int *order) {
  const int *chosen = zmi_gpu_at<const int>(s->chosen);
  for (int p = zmi_thread(); p < s->pairs; p += ZMI_GPU_SORT_AHEAD * ZMI_GPU_THREADS) {
    int expert[ZMI_GPU_SORT_AHEAD];
    for (int i = 0; i < ZMI_GPU_SORT_AHEAD; i++) expert[i] = p + i * ZMI_GPU_THREADS < s->pairs ? chosen[p + i * ZMI_GPU_THREADS] : -1;
    for (int i = 0; i < ZMI_GPU_SORT_AHEAD && p + i * ZMI_GPU_THREADS < s->pairs; i++) {
      const int e = expert[i] >= 0 && expert[i] < s->experts ? expert[i] : s->experts;
      const unsigned was = zmi_add_atomic((unsigned *)number + e, 1);
      if (order) order[was] = p + i * ZMI_GPU_THREADS;
    }
  }
}

ZMI_INLINE void zmi_gpu_sort_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_sort *s = &in->as.sort;
  const int t = zmi_thread(), most = ZMI_GPU_PIECES(s->pairs, s->experts);
  int *count = (int *)(void *)shared, *place = count + s->experts + 1;
  zmi_gpu_piece *piece = zmi_gpu_at<zmi_gpu_piece>(s->pieces);
  const zmi_gpu_piece none = {-1, 0, 0, 0};
  (void)workers;
  if (worker != 0) return;
  for (int e = t; e <= s->experts; e += ZMI_GPU_THREADS) count[e] = 0;
  for (int i = t; i < most; i += ZMI_GPU_THREADS) piece[i] = none;
  zmi_sync();
  zmi_gpu_sort_count(s, count, 0);
  zmi_sync();
  for (int e = t; e <= s->experts; e += ZMI_GPU_THREADS) {
    const int n = count[e];
    int pairs = 0, pieces = 0; // of the experts before
    for (int i = 0; i < e; i++) {
      pairs += count[i];
      pieces += (count[i] + s->columns - 1) / s->columns;
    }
    place[e] = pairs;
    for (int i = 0; i < n; i += s->columns) {
      const zmi_gpu_piece here = {e < s->experts ? e : -1, pairs + i, n - i < s->columns ? n - i : s->columns, 0};
      piece[pieces++] = here;
    }
  }
  zmi_sync();
  zmi_gpu_sort_count(s, place, zmi_gpu_at<int>(s->order));
}
