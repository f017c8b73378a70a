// Heads of attention before it: norm and rotary embedding, and the way into the caches. A warp takes a head of a row. Device text.

// The first warp of every block before the second: few heads spread over many multiprocessors.
ZMI_INLINE int zmi_gpu_first_of_warps(int worker, int workers) {
  return worker + zmi_thread() / 32 * workers;
}

// Lane 0 .. 15 have lanes of a sum: the whole of it, for all lanes of the warp.
ZMI_INLINE float zmi_gpu_fold(float sum) {
  const int lane = zmi_thread() % 32;
  for (int half = 8; half > 0; half /= 2) sum = sum + zmi_shuffle_float(sum, (lane + half) & 15);
  return zmi_shuffle_float(sum, 0);
}

// ---- ROTATE ----

typedef struct zmi_gpu_head {
  const zmi_gpu_rotate *r;
  long long from, to; // elements of x and of out
  float inverse;      // of the root mean square
} zmi_gpu_head;

ZMI_INLINE float zmi_gpu_head_load(const zmi_gpu_head *h, int i) {
  const zmi_gpu_rotate *r = h->r;
  const float x = zmi_gpu_load(r->x, r->dtype, h->from + i);
  return r->norm ? zmi_gpu_round(x * h->inverse * zmi_gpu_load(r->norm, r->norm_dtype, i), r->dtype) : x;
}

ZMI_DEVICE float zmi_gpu_head_inverse(const zmi_gpu_rotate *r, long long from) {
  float sum = 0.0f;
#pragma unroll 8
  for (int i = zmi_thread() % 16; i < r->dim; i += 16) {
    const float x = zmi_gpu_load(r->x, r->dtype, from + i);
    sum = zk_fma(x, x, sum);
  }
  return 1.0f / zk_sqrt(zmi_gpu_fold(sum) / (float)r->dim + r->eps);
}

ZMI_DEVICE void zmi_gpu_rotate_head(const zmi_gpu_rotate *r, int tile) {
  const long long row = tile / r->heads, head = tile % r->heads;
  const int lane = zmi_thread() % 32, pairs = r->cosine ? r->pairs : 0;
  zmi_gpu_head h = {r, row * r->x_stride + head * r->dim, (long long)tile * r->dim, 0.0f};
  if (r->norm) h.inverse = zmi_gpu_head_inverse(r, h.from); // its shuffles come before the first store: in place is allowed
  for (int i = lane; i < pairs; i += 32) {
    const int first = r->traditional ? 2 * i : i, second = r->traditional ? 2 * i + 1 : i + pairs;
    const float c = zmi_gpu_at<const float>(r->cosine)[row * pairs + i], s = zmi_gpu_at<const float>(r->sine)[row * pairs + i];
    const float a = zmi_gpu_head_load(&h, first), b = zmi_gpu_head_load(&h, second);
    zmi_gpu_store(r->out, r->dtype, h.to + first, zk_fma(a, c, zk_neg_float(b * s)));
    zmi_gpu_store(r->out, r->dtype, h.to + second, zk_fma(a, s, b * c));
  }
  for (int i = 2 * pairs + lane; i < r->dim; i += 32) zmi_gpu_store(r->out, r->dtype, h.to + i, zmi_gpu_head_load(&h, i));
}

ZMI_DEVICE void zmi_gpu_rotate_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  (void)shared;
  for (int t = zmi_gpu_first_of_warps(worker, workers); t < in->tiles; t += workers * (ZMI_GPU_THREADS / 32))
    zmi_gpu_rotate_head(&in->as.rotate, t);
}

// ---- WRITE ----

// Should rows have one place, the last of them stays.
ZMI_DEVICE bool zmi_gpu_is_overwritten(const zmi_gpu_write *w, int row, int position, int sequence) {
  const int *positions = zmi_gpu_at<const int>(w->position), *sequences = zmi_gpu_at<const int>(w->sequence);
  unsigned later = 0;
  for (int r = row + 1 + zmi_thread() % 32; r < w->rows; r += 32) later |= positions[r] == position && sequences[r] == sequence;
  for (int step = 16; step > 0; step /= 2) later |= zmi_shuffle(later, (zmi_thread() % 32) ^ step);
  return later != 0;
}

ZMI_DEVICE void zmi_gpu_write_head(const zmi_gpu_write *w, int tile) {
  const int row = tile / w->kv_heads, head = tile % w->kv_heads, lane = zmi_thread() % 32;
  const int p = zmi_gpu_at<const int>(w->position)[row], s = zmi_gpu_at<const int>(w->sequence)[row];
  if (p < 0 || p >= w->context || s < 0 || s >= w->sequences || zmi_gpu_is_overwritten(w, row, p, s)) return;
  const long long at = ((long long)s * w->kv_heads + head) * w->context + p;
  // A pair of elements is one word of bfloat16, two of float32.
  const int words = zmi_gpu_size(w->dtype) / 2, pairs = w->dim / 2;
  const unsigned *from = zmi_gpu_at<const unsigned>(w->from) + (long long)tile * pairs * words;
  unsigned *to = zmi_gpu_at<unsigned>(w->cache);
  to += w->keys ? (at - p % ZMI_GPU_BLOCK) * pairs * words + p % ZMI_GPU_BLOCK * words : at * pairs * words;
  for (int i = lane; i < pairs * words; i += 32) to[w->keys ? i / words * ZMI_GPU_BLOCK * words + i % words : i] = from[i];
}

ZMI_DEVICE void zmi_gpu_write_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  (void)shared;
  for (int t = zmi_gpu_first_of_warps(worker, workers); t < in->tiles; t += workers * (ZMI_GPU_THREADS / 32))
    zmi_gpu_write_head(&in->as.write, t);
}
