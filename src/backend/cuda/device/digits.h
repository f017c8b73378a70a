// Activations as integers (docs/numerics.md). A warp takes a group.

ZMI_INLINE unsigned zmi_gpu_warp_most(unsigned x) {
  for (int step = 16; step > 0; step /= 2) {
    const unsigned other = zmi_shuffle(x, (zmi_thread() & 31) ^ step);
    x = other > x ? other : x;
  }
  return x;
}

ZMI_INLINE int zmi_gpu_warp_sum(int x) {
  for (int step = 16; step > 0; step /= 2) x += (int)zmi_shuffle((unsigned)x, (zmi_thread() & 31) ^ step);
  return x;
}

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

// How rows of digits lie.
typedef struct zmi_gpu_digit_form {
  int k, group, digits;
} zmi_gpu_digit_form;

// Group g of a row. x: of this lane elements lane, lane + 32, ... of the group; 0 behind its end.
ZMI_INLINE void zmi_gpu_digit_group(const zmi_gpu_digit_form *d, const float x[4], char *row, int g) {
  const int lane = zmi_thread() & 31, groups = d->k / d->group;
  signed char *out = (signed char *)row + (long long)g * d->group * d->digits;
  float to_integer = 0.0f, scale = 0.0f;
  unsigned most = 0u;
  for (int j = 0; j < 4; j++) {
    const unsigned u = zk_bits(x[j]) & 0x7fffffffu;
    most = u > most ? u : most;
  }
  most = zmi_gpu_warp_most(most);
  const bool none = most < (d->digits == 1 ? 0x0d800000u : 0x00800000u), broken = most >= 0x7f800000u;
  if (!none && !broken) zmi_gpu_digit_scale(most, d->digits, &to_integer, &scale);
  int total = 0, upper = 0, top = 0; // sums of X = 256 (256 d0 + d1) + d2, of 256 d0 + d1 and of d0
  for (int j = 0; j < 4 && lane + 32 * j < d->group; j++) {
    const float v = x[j] * to_integer, big = zkp_signed(0x1p23f, v);
    int q = none || broken ? 0 : (int)((v + big) - big);
    const int i = lane + 32 * j;
    total += q;
    if (d->digits == 1) {
      out[i] = (signed char)q;
      continue;
    }
    out[2 * d->group + i] = (signed char)(unsigned char)(q & 255);
    q = (q + 128) >> 8;
    upper += q;
    out[d->group + i] = (signed char)(unsigned char)(q & 255);
    q = (q + 128) >> 8;
    top += q;
    out[i] = (signed char)q;
  }
  total = zmi_gpu_warp_sum(total);
  upper = zmi_gpu_warp_sum(upper);
  top = zmi_gpu_warp_sum(top);
  if (lane > 0) return;
  float *scales = (float *)(row + (long long)d->k * d->digits), *sums = scales + groups;
  int *part = (int *)(sums + groups) + g * d->digits;
  scales[g] = broken ? zkp_nan() : scale;
  sums[g] = broken ? zkp_nan() : (float)total * scale;
  part[0] = d->digits == 1 ? total : top;
  if (d->digits == 1) return;
  part[1] = upper - 256 * top;
  part[2] = total - 256 * upper;
}

ZMI_DEVICE void zmi_gpu_digits_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_digits *d = &in->as.digits;
  const int pieces = (d->k + ZMI_GPU_PIECE - 1) / ZMI_GPU_PIECE, each = ZMI_GPU_PIECE / d->group, groups = d->k / d->group;
  const zmi_gpu_digit_form form = {d->k, d->group, d->digits};
  (void)shared;
  for (int tile = worker; tile < in->tiles; tile += workers) {
    const int row = tile / pieces, first = tile % pieces * each;
    for (int g = first + zmi_thread() / 32; g < first + each && g < groups; g += ZMI_GPU_THREADS / 32) {
      const long long at = row * d->stride + (long long)g * d->group;
      float x[4];
      for (int j = 0, i = zmi_thread() & 31; j < 4; j++, i += 32) x[j] = i < d->group ? zmi_gpu_load(d->x, d->dtype, at + i) : 0.0f;
      zmi_gpu_digit_group(&form, x, zmi_gpu_at<char>(d->out) + row * d->bytes, g);
    }
  }
}
