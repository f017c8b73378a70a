// Activations as integers (docs/numerics.md): a lane makes eight elements of a row, group / 8 lanes that stand side by side make a group.

// Groups are powers of two; a quotient takes longer.
ZMI_INLINE int zmi_gpu_group_shift(int group) {
  return group == 64 ? 6 : group == 32 ? 5 : group == 128 ? 7 : 4;
}

// How rows of digits lie.
typedef struct zmi_gpu_digit_form {
  int k, group, digits;
} zmi_gpu_digit_form;

// What scales a group's elements to integers, and its scale.
ZMI_INLINE void zmi_gpu_digit_scale(unsigned most, int digits, float *to_integer, float *scale) {
  if (digits == 1) {
    *to_integer = 127.0f / zk_of_bits(most);
    *scale = zk_of_bits(most) / 127.0f;
    return;
  }
  const unsigned biased = (most + 0x10101u) >> 23, exponent = biased > 23u ? biased - 22u : 1u;
  *to_integer = zk_of_bits((254u - exponent) << 23);
  *scale = zk_of_bits(exponent << 23);
}

// The digits of four integers X, a byte each: one that is 127 at most in magnitude, or the upper, the middle and the lowest of three. All
// three of X + 0x808080 are bytes without a sign, each too large by 128.
ZMI_INLINE unsigned zmi_gpu_digit_one(const int x[4]) {
  return zmi_bytes(zmi_bytes((unsigned)x[0], (unsigned)x[1], 0x0040u), zmi_bytes((unsigned)x[2], (unsigned)x[3], 0x0040u), 0x5410u);
}
ZMI_INLINE void zmi_gpu_digit_three(const int x[4], unsigned plane[3]) {
  unsigned u[4];
  for (int j = 0; j < 4; j++) u[j] = (unsigned)x[j] + 0x808080u;
  const unsigned low = zmi_bytes(u[0], u[1], 0x5140u), more_low = zmi_bytes(u[2], u[3], 0x5140u);
  plane[0] = zmi_bytes(zmi_bytes(u[0], u[1], 0x0062u), zmi_bytes(u[2], u[3], 0x0062u), 0x5410u) ^ 0x80808080u;
  plane[1] = zmi_bytes(low, more_low, 0x7632u) ^ 0x80808080u;
  plane[2] = zmi_bytes(low, more_low, 0x5410u) ^ 0x80808080u;
}

ZMI_INLINE int zmi_gpu_lanes_sum(int x, int lanes) {
  for (int step = 1; step < lanes; step *= 2) x += (int)zmi_shuffle((unsigned)x, (zmi_thread() & 31) ^ step);
  return x;
}

// Elements i .. i + 7 of a row. All lanes of a warp take part, also those behind the row's end (i >= k): theirs are zeros. PARTS: the sums
// of the digits, too, which products without tensor cores do not need.
template <bool PARTS> ZMI_INLINE void zmi_gpu_digit_eight(const zmi_gpu_digit_form *d, const float x[8], char *row, int i) {
  const int shift = zmi_gpu_group_shift(d->group);
  const int lanes = d->group / 8, g = i >> shift, at = i & (d->group - 1);
  float half[4];
  for (int j = 0; j < 4; j++) half[j] = zmi_larger(x[j], x[j + 4]);
  unsigned most = zk_bits(zmi_larger(zmi_larger(half[0], half[1]), zmi_larger(half[2], half[3])));
  for (int step = 1; step < lanes; step *= 2) {
    const unsigned other = zmi_shuffle(most, (zmi_thread() & 31) ^ step);
    most = other > most ? other : most;
  }
  // Without a scale all digits are 0: finite elements by 0, and others are NaN by 0.
  const bool none = most < (d->digits == 1 ? 0x0d800000u : 0x00800000u), broken = most >= 0x7f800000u;
  float to_integer = 0.0f, scale = 0.0f;
  if (!none && !broken) zmi_gpu_digit_scale(most, d->digits, &to_integer, &scale);
  int q[8], total = 0;
  for (int j = 0; j < 8; j++) {
    q[j] = zmi_nearest(x[j] * to_integer);
    total += q[j];
  }
  zmi_gpu_two plane[3] = {};
  if (d->digits == 1) {
    for (int h = 0; h < 2; h++) plane[0].a[h] = zmi_gpu_digit_one(q + 4 * h);
  } else {
    for (int h = 0; h < 2; h++) {
      unsigned word[3];
      zmi_gpu_digit_three(q + 4 * h, word);
      for (int p = 0; p < 3; p++) plane[p].a[h] = word[p];
    }
  }
  total = zmi_gpu_lanes_sum(total, lanes);
  int part[3];
  for (int p = 0; p < 3 && PARTS; p++) {
    part[p] = zmi_dot_ss((int)plane[p].a[0], 0x01010101, zmi_dot_ss((int)plane[p].a[1], 0x01010101, 0));
    part[p] = zmi_gpu_lanes_sum(part[p], lanes);
  }
  if (i >= d->k) return;
  zmi_gpu_two *out = (zmi_gpu_two *)(void *)(row + g * d->group * d->digits + at);
  for (int p = 0; p < 3; p++) {
    if (p < d->digits) out[p * (d->group / 8)] = plane[p];
  }
  if (at > 0) return;
  const int groups = d->k >> shift;
  float *scales = (float *)(void *)(row + d->k * d->digits);
  scales[g] = broken ? zkp_nan() : scale;
  scales[groups + g] = broken ? zkp_nan() : (float)total * scale;
  for (int p = 0; p < 3 && PARTS; p++) {
    if (p < d->digits) ((int *)(void *)(scales + 2 * groups))[g * d->digits + p] = part[p];
  }
}

// A block takes as many tiles together as it has threads for.
template <int DTYPE, bool WIDE> ZMI_INLINE void zmi_gpu_digits_tiles(const zmi_gpu_digits *d, int tiles, int worker, int workers) {
  enum { EACH = ZMI_GPU_PIECE / 8, TOGETHER = ZMI_GPU_THREADS / EACH };
  const int pieces = (d->k + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE;
  const zmi_gpu_digit_form form = {d->k, d->group, d->digits};
  for (int first = worker * TOGETHER; first < tiles; first += workers * TOGETHER) {
    const int tile = first + zmi_thread() / EACH, row = tile / pieces;
    const int i = tile < tiles ? tile % pieces * ZMI_GPU_PIECE + zmi_thread() % EACH * 8 : d->k;
    const zmi_gpu_eight e = zmi_gpu_ask<DTYPE, WIDE>(d->x, d->dtype, row * d->stride + i, d->k - i);
    float x[8];
    zmi_gpu_given<DTYPE, WIDE>(&e, d->dtype, x);
    zmi_gpu_digit_eight<true>(&form, x, zmi_gpu_at<char>(d->out) + row * d->bytes, i);
  }
}

ZMI_INLINE void zmi_gpu_digits_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_digits d = in->as.digits;
  (void)shared;
  if (!zmi_gpu_is_wide(d.x, d.stride)) return zmi_gpu_digits_tiles<0, false>(&d, in->tiles, worker, workers);
  ZMI_GPU_BY_DTYPE(d.dtype, (zmi_gpu_digits_tiles<DTYPE, true>(&d, in->tiles, worker, workers)));
}
