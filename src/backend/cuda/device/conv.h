// The short convolution: a block takes 64 channels of all rows, four rows at a time. Device text.
//
// Rows depend on inputs only, so all results come first and the states after them. That holds while every sequence has one run of rows:
// rows are taken in waves in which it is so.

typedef struct zmi_gpu_wave {
  const zmi_gpu_conv *v;
  int first, last; // rows
} zmi_gpu_wave;

ZMI_INLINE int zmi_gpu_conv_sequence(const zmi_gpu_conv *v, int row) {
  return zmi_gpu_at<const int>(v->sequence)[row];
}

// An input of the convolution in the step's rows.
ZMI_INLINE float zmi_gpu_conv_x(const zmi_gpu_conv *v, int row, int channel) {
  const long long at = row * v->x_stride + channel;
  if (!v->parts) return zmi_gpu_load(v->x, v->dtype, at);
  const float a = zmi_gpu_load(v->x, v->dtype, at + (long long)v->first * v->channels);
  return zmi_gpu_round(a * zmi_gpu_load(v->x, v->dtype, at + (long long)v->second * v->channels), v->dtype);
}

ZMI_INLINE long long zmi_gpu_conv_state(const zmi_gpu_conv *v, int sequence, int i, int channel) {
  return ((long long)sequence * (v->taps - 1) + i) * v->channels + channel;
}

// Rows of the row's sequence that stand right before it, `most` at most.
ZMI_INLINE int zmi_gpu_conv_before(const zmi_gpu_wave *w, int row, int most) {
  const int sequence = zmi_gpu_conv_sequence(w->v, row);
  int n = 0;
  while (n < most && row - n > w->first && zmi_gpu_conv_sequence(w->v, row - n - 1) == sequence) n++;
  return n;
}

// The input `lag` rows before `row`, which has `before` rows of its sequence before it: from the step's rows or from the state.
ZMI_INLINE float zmi_gpu_conv_input(const zmi_gpu_conv *v, int row, int before, int sequence, int lag, int channel) {
  if (lag <= before) return zmi_gpu_conv_x(v, row - lag, channel);
  return zmi_gpu_load(v->state, v->dtype, zmi_gpu_conv_state(v, sequence, v->taps - 1 - (lag - before), channel));
}

ZMI_DEVICE void zmi_gpu_conv_row(const zmi_gpu_wave *w, int row, int channel) {
  const zmi_gpu_conv *v = w->v;
  const int position = zmi_gpu_at<const int>(v->position)[row], sequence = zmi_gpu_conv_sequence(v, row);
  float y = 0.0f;
  if (sequence >= 0 && sequence < v->sequences && position >= 0) {
    const int before = zmi_gpu_conv_before(w, row, v->taps - 1);
    if (v->bias) y = zmi_gpu_load(v->bias, v->bias_dtype, channel);
#pragma unroll 4
    for (int t = 0; t < v->taps; t++) {
      const int lag = v->taps - 1 - t;
      if (position < lag) continue; // before the text: adds nothing
      const float weight = zmi_gpu_load(v->weight, v->weight_dtype, (long long)channel * v->taps + t);
      y = zk_fma(weight, zmi_gpu_conv_input(v, row, before, sequence, lag, channel), y);
    }
  }
  if (v->parts) {
    const float gate = zmi_gpu_load(v->x, v->dtype, row * v->x_stride + (long long)v->gate * v->channels + channel);
    y = gate * zmi_gpu_round(y, v->dtype);
  }
  zmi_gpu_store(v->y, v->dtype, (long long)row * v->channels + channel, y);
}

// After the last row of a sequence. Rising i reads only entries that come later: safe in place.
ZMI_DEVICE void zmi_gpu_conv_update(const zmi_gpu_wave *w, int row, int channel) {
  const zmi_gpu_conv *v = w->v;
  const int position = zmi_gpu_at<const int>(v->position)[row], sequence = zmi_gpu_conv_sequence(v, row);
  if (sequence < 0 || sequence >= v->sequences || position < 0) return;
  const int before = zmi_gpu_conv_before(w, row, v->taps - 1);
  for (int i = 0; i < v->taps - 1; i++) {
    const int lag = v->taps - 2 - i;
    const long long to = zmi_gpu_conv_state(v, sequence, i, channel);
    zmi_gpu_store(v->state, v->dtype, to, position < lag ? 0.0f : zmi_gpu_conv_input(v, row, before, sequence, lag, channel));
  }
}

// Whether `row` begins a run of a sequence that has an earlier run from `first` on.
ZMI_DEVICE bool zmi_gpu_conv_again(const zmi_gpu_conv *v, int first, int row) {
  const int sequence = zmi_gpu_conv_sequence(v, row);
  if (row == first || zmi_gpu_conv_sequence(v, row - 1) == sequence) return false;
  for (int r = first; r < row; r++) {
    if (zmi_gpu_conv_sequence(v, r) == sequence) return true;
  }
  return false;
}

// Where the wave that begins at `first` ends. For all threads of the block.
ZMI_DEVICE int zmi_gpu_conv_wave_end(const zmi_gpu_conv *v, int first, int *shared) {
  int end = v->rows;
  for (int r = first + zmi_thread(); r < end; r += ZMI_GPU_THREADS) {
    if (zmi_gpu_conv_again(v, first, r)) end = r;
  }
  for (int step = 16; step > 0; step /= 2) {
    const int other = (int)zmi_shuffle((unsigned)end, (zmi_thread() % 32) ^ step);
    end = other < end ? other : end;
  }
  if (zmi_thread() % 32 == 0) shared[zmi_thread() / 32] = end;
  zmi_sync();
  for (int w = 0; w < ZMI_GPU_THREADS / 32; w++) end = shared[w] < end ? shared[w] : end;
  return end;
}

ZMI_DEVICE void zmi_gpu_conv_tile(const zmi_gpu_conv *v, int tile, int *shared) {
  enum { TOGETHER = ZMI_GPU_THREADS / ZMI_GPU_CHANNELS };
  const int channel = tile * ZMI_GPU_CHANNELS + zmi_thread() % ZMI_GPU_CHANNELS, part = zmi_thread() / ZMI_GPU_CHANNELS;
  const bool mine = channel < v->channels;
  zmi_gpu_wave w = {v, 0, 0};
  for (; w.first < v->rows; w.first = w.last) {
    w.last = zmi_gpu_conv_wave_end(v, w.first, shared);
    for (int r = w.first + part; mine && r < w.last; r += TOGETHER) zmi_gpu_conv_row(&w, r, channel);
    zmi_sync();
    for (int r = w.first + part; mine && r < w.last; r += TOGETHER) {
      if (r + 1 == w.last || zmi_gpu_conv_sequence(v, r + 1) != zmi_gpu_conv_sequence(v, r)) zmi_gpu_conv_update(&w, r, channel);
    }
    zmi_sync();
  }
}

ZMI_DEVICE void zmi_gpu_conv_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  for (int t = worker; t < in->tiles; t += workers) zmi_gpu_conv_tile(&in->as.conv, t, (int *)(void *)shared);
}
