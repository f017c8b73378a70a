// The short convolution: a block takes 64 channels of all rows, four rows at a time. Device text.

// ---- few rows, each of a sequence of its own ----

enum { ZMI_GPU_CONV_FEW = 8, ZMI_GPU_CONV_TAPS = 4 }; // most rows and most taps of them

ZMI_INLINE int zmi_gpu_conv_sequence(const zmi_gpu_conv *v, int row) {
  return zmi_gpu_at<const int>(v->sequence)[row];
}

ZMI_INLINE long long zmi_gpu_conv_state(const zmi_gpu_conv *v, int sequence, int i, int channel) {
  return ((long long)sequence * (v->taps - 1) + i) * v->channels + channel;
}

// Whether no row is another one's past.
ZMI_INLINE bool zmi_gpu_conv_apart(const zmi_gpu_conv *v) {
  int sequence[ZMI_GPU_CONV_FEW];
  bool apart = true;
  if (v->rows == 1) return true;
#pragma unroll
  for (int r = 0; r < ZMI_GPU_CONV_FEW; r++) sequence[r] = r < v->rows ? zmi_gpu_conv_sequence(v, r) : 0;
#pragma unroll
  for (int r = 1; r < ZMI_GPU_CONV_FEW; r++) {
#pragma unroll
    for (int s = 0; s < r; s++) apart = apart && (r >= v->rows || sequence[r] != sequence[s]);
  }
  return apart;
}

// A channel of a row: everything is asked for before anything is used. A state of the only sequence does not wait for the row to say whose
// it is.
// PARTS is no condition inside: a compiler makes a * (parts ? b : 1) of parts ? a * b : a, and a product by one is not a denormal number.
template <int DTYPE, bool PARTS> ZMI_INLINE void zmi_gpu_conv_one(const zmi_gpu_conv *v, int row, int channel) {
  const int position = zmi_gpu_at<const int>(v->position)[row], sequence = zmi_gpu_conv_sequence(v, row);
  int owner = 0;
  if (v->sequences > 1) owner = (int)zmi_cache_load(zmi_gpu_at<const unsigned>(v->sequence) + row);
  const bool known = owner >= 0 && owner < v->sequences, valid = sequence >= 0 && sequence < v->sequences && position >= 0;
  const long long at = row * v->x_stride + channel, channels = PARTS ? v->channels : 0, tap = (long long)channel * v->taps;
  const float a = zmi_gpu_load(v->x, DTYPE, at + v->first * channels), b = zmi_gpu_load(v->x, DTYPE, at + v->second * channels);
  const float gate = zmi_gpu_load(v->x, DTYPE, at + v->gate * channels);
  const unsigned bias = v->bias ? zmi_gpu_word(v->bias, v->bias_dtype, channel) : 0u;
  unsigned weight[ZMI_GPU_CONV_TAPS];
  unsigned state[ZMI_GPU_CONV_TAPS];
#pragma unroll
  for (int t = 0; t < ZMI_GPU_CONV_TAPS; t++) {
    weight[t] = t < v->taps && v->y ? zmi_gpu_word(v->weight, v->weight_dtype, tap + t) : 0u;
    state[t] = t < v->taps - 1 && known ? zmi_gpu_bits(v->state, DTYPE, zmi_gpu_conv_state(v, owner, t, channel)) : 0u;
  }
  float input[ZMI_GPU_CONV_TAPS]; // of the taps; those behind the last stay unused
  const float x = PARTS ? zmi_gpu_round(a * b, DTYPE) : a;
  float y = v->bias && valid ? zmi_gpu_of_word(bias, v->bias, v->bias_dtype, channel) : 0.0f;
#pragma unroll
  for (int t = 0; t < ZMI_GPU_CONV_TAPS; t++) {
    const int lag = v->taps - 1 - t;
    input[t] = lag == 0 ? x : zmi_gpu_value(state[t], DTYPE);
    if (!valid || lag < 0 || position < lag) continue; // before the text: adds nothing
    y = zk_fma(zmi_gpu_of_word(weight[t], v->weight, v->weight_dtype, tap + t), input[t], y);
  }
  if (v->y) zmi_gpu_store(v->y, DTYPE, (long long)row * v->channels + channel, PARTS ? gate * zmi_gpu_round(y, DTYPE) : y);
#pragma unroll
  for (int i = 0; i < ZMI_GPU_CONV_TAPS - 1; i++) {
    if (valid && i < v->taps - 1)
      zmi_gpu_store(v->state, DTYPE, zmi_gpu_conv_state(v, sequence, i, channel), position < v->taps - 2 - i ? 0.0f : input[i + 1]);
  }
}

// Eight channels of the only row, for READY: as y is stored, which nobody does. What comes out is that of zmi_gpu_conv_one.
template <int DTYPE> ZMI_INLINE void zmi_gpu_conv_eight(const zmi_gpu_conv *v, int channel, float y[8]) {
  enum { TAPS = ZMI_GPU_READY_TAPS, TWO = DTYPE == ZMI_GPU_F16 ? ZMI_GPU_F16 : ZMI_GPU_BF16 };
  const int position = *zmi_gpu_at<const int>(v->position), sequence = zmi_gpu_conv_sequence(v, 0), owner = v->sequences > 1 ? sequence : 0;
  const bool known = owner >= 0 && owner < v->sequences, valid = sequence >= 0 && sequence < v->sequences && position >= 0;
  const bool whole = v->weight_dtype == ZMI_GPU_F32;
  const zmi_gpu_eight a = zmi_gpu_ask<DTYPE, true>(v->x, DTYPE, (long long)v->first * v->channels + channel, 8);
  const zmi_gpu_eight b = zmi_gpu_ask<DTYPE, true>(v->x, DTYPE, (long long)v->second * v->channels + channel, 8);
  const zmi_gpu_eight gate = zmi_gpu_ask<DTYPE, true>(v->x, DTYPE, (long long)v->gate * v->channels + channel, 8);
  zmi_gpu_eight state[TAPS], weight[TAPS], bias = {};
  for (int t = 0; t < TAPS - 1; t++)
    state[t] = zmi_gpu_ask<DTYPE, true>(v->state, DTYPE, zmi_gpu_conv_state(v, owner, t, channel), known ? 8 : 0);
  for (int t = 0; t < TAPS; t++) {
    const long long at = (long long)channel * TAPS + 8 * t;
    weight[t] = whole ? zmi_gpu_ask<ZMI_GPU_F32, true>(v->weight, 0, at, 8) : zmi_gpu_ask<TWO, true>(v->weight, 0, at, 8);
  }
  if (v->bias && v->bias_dtype == ZMI_GPU_F32) bias = zmi_gpu_ask<ZMI_GPU_F32, true>(v->bias, 0, channel, 8);
  if (v->bias && v->bias_dtype != ZMI_GPU_F32) bias = zmi_gpu_ask<TWO, true>(v->bias, 0, channel, 8);
  float x[TAPS][8], w[TAPS * 8], more[8], g[8]; // x: by taps
  zmi_gpu_given<DTYPE, true>(&a, DTYPE, x[TAPS - 1]);
  zmi_gpu_given<DTYPE, true>(&b, DTYPE, more);
  zmi_gpu_given<DTYPE, true>(&gate, DTYPE, g);
  for (int j = 0; j < 8; j++) x[TAPS - 1][j] = x[TAPS - 1][j] * more[j];
  zmi_gpu_rounded<DTYPE>(x[TAPS - 1]);
  for (int t = 0; t < TAPS; t++) {
    if (t < TAPS - 1) zmi_gpu_given<DTYPE, true>(&state[t], DTYPE, x[t]);
    if (whole)
      zmi_gpu_given<ZMI_GPU_F32, true>(&weight[t], 0, w + 8 * t);
    else
      zmi_gpu_given<TWO, true>(&weight[t], 0, w + 8 * t);
  }
  if (v->bias_dtype == ZMI_GPU_F32)
    zmi_gpu_given<ZMI_GPU_F32, true>(&bias, 0, y);
  else
    zmi_gpu_given<TWO, true>(&bias, 0, y);
  for (int j = 0; j < 8; j++) y[j] = v->bias && valid ? y[j] : 0.0f;
  for (int t = 0; t < TAPS; t++) {
    if (!valid || position < TAPS - 1 - t) continue; // before the text: adds nothing
    for (int j = 0; j < 8; j++) y[j] = zk_fma(w[j * TAPS + t], x[t][j], y[j]);
  }
  zmi_gpu_rounded<DTYPE>(y);
  for (int j = 0; j < 8; j++) y[j] = g[j] * y[j];
  zmi_gpu_rounded<DTYPE>(y);
}

// ---- rows of one sequence ----

// Whether all rows are of one sequence. For all threads of the block.
ZMI_INLINE bool zmi_gpu_conv_same(const zmi_gpu_conv *v, int *shared) {
  const int sequence = zmi_gpu_conv_sequence(v, 0);
  unsigned other = 0;
  for (int r = zmi_thread(); r < v->rows; r += ZMI_GPU_THREADS) other |= zmi_gpu_conv_sequence(v, r) != sequence;
  other = zmi_most(other);
  zmi_sync(); // what was there has been read
  if (zmi_thread() % 32 == 0) shared[zmi_thread() / 32] = (int)other;
  zmi_sync();
  for (int w = 0; w < ZMI_GPU_THREADS / 32; w++) other |= (unsigned)shared[w];
  return !other;
}

// An input of the convolution in the step's rows.
template <int DTYPE> ZMI_INLINE float zmi_gpu_conv_x(const zmi_gpu_conv *v, int row, int channel) {
  const long long at = row * v->x_stride + channel;
  if (!v->parts) return zmi_gpu_load(v->x, DTYPE, at);
  const float a = zmi_gpu_load(v->x, DTYPE, at + (long long)v->first * v->channels);
  return zmi_gpu_round(a * zmi_gpu_load(v->x, DTYPE, at + (long long)v->second * v->channels), DTYPE);
}

// Bits of what rows [row, row + 4) take; of rows from `end` on zeros.
typedef struct zmi_gpu_conv_rows {
  unsigned a[4], b[4], gate[4];
  int position[4];
} zmi_gpu_conv_rows;

template <int DTYPE, bool PARTS>
ZMI_INLINE void zmi_gpu_conv_load(const zmi_gpu_conv *v, int row, int end, int channel, zmi_gpu_conv_rows *to) {
  const long long channels = PARTS ? v->channels : 0;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const bool there = row + j < end;
    const long long at = (row + j) * v->x_stride + channel;
    to->a[j] = there ? zmi_gpu_bits(v->x, DTYPE, at + v->first * channels) : 0u;
    to->b[j] = there ? zmi_gpu_bits(v->x, DTYPE, at + v->second * channels) : 0u;
    to->gate[j] = there ? zmi_gpu_bits(v->x, DTYPE, at + v->gate * channels) : 0u;
    to->position[j] = there ? zmi_gpu_at<const int>(v->position)[row + j] : -1;
  }
}

// A thread takes a quarter of the rows of a channel: what a row takes of those before it stays in registers. The threads that have the last
// row write the state when all have read it.
template <int DTYPE, bool PARTS> ZMI_INLINE void zmi_gpu_conv_quarter(const zmi_gpu_conv *v, int channel, int part, bool mine) {
  enum { TAPS = ZMI_GPU_CONV_TAPS, QUARTERS = ZMI_GPU_THREADS / ZMI_GPU_CHANNELS };
  const int sequence = zmi_gpu_conv_sequence(v, 0), end = mine ? (int)((long long)v->rows * (part + 1) / QUARTERS) : 0;
  const int begin = mine ? (int)((long long)v->rows * part / QUARTERS) : 0;
  const bool known = sequence >= 0 && sequence < v->sequences;
  float past[TAPS], weight[TAPS]; // by how many rows before the row at hand
  const float bias = mine && v->bias ? zmi_gpu_load(v->bias, v->bias_dtype, channel) : 0.0f;
#pragma unroll
  for (int lag = 0; lag < TAPS; lag++) {
    const int row = begin - lag;
    past[lag] = weight[lag] = 0.0f;
    if (!mine || lag >= v->taps) continue;
    weight[lag] = zmi_gpu_load(v->weight, v->weight_dtype, (long long)channel * v->taps + v->taps - 1 - lag);
    if (lag == 0) continue;
    if (row >= 0)
      past[lag] = zmi_gpu_conv_x<DTYPE>(v, row, channel);
    else if (known)
      past[lag] = zmi_gpu_load(v->state, DTYPE, zmi_gpu_conv_state(v, sequence, v->taps - 1 + row, channel));
  }
  int position = -1; // of the last row
  for (int r = begin; r < end; r += 4) {
    zmi_gpu_conv_rows now;
    zmi_gpu_conv_load<DTYPE, PARTS>(v, r, end, channel, &now);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (r + j >= end) break;
      const float a = zmi_gpu_value(now.a[j], DTYPE), gate = zmi_gpu_value(now.gate[j], DTYPE);
      position = now.position[j];
      past[0] = PARTS ? zmi_gpu_round(a * zmi_gpu_value(now.b[j], DTYPE), DTYPE) : a;
      float y = known && position >= 0 ? bias : 0.0f;
#pragma unroll
      for (int lag = TAPS - 1; lag >= 0; lag--) {
        if (known && lag < v->taps && position >= lag) y = zk_fma(weight[lag], past[lag], y);
      }
      zmi_gpu_store(v->y, DTYPE, (long long)(r + j) * v->channels + channel, PARTS ? gate * zmi_gpu_round(y, DTYPE) : y);
#pragma unroll
      for (int lag = TAPS - 1; lag > 0; lag--) past[lag] = past[lag - 1];
    }
  }
  zmi_sync();
  if (!mine || end < v->rows || !known || position < 0) return;
#pragma unroll
  for (int lag = 1; lag < TAPS; lag++) { // the row at hand would be the next one: the last one is one before it
    if (lag < v->taps)
      zmi_gpu_store(v->state, DTYPE, zmi_gpu_conv_state(v, sequence, v->taps - 1 - lag, channel), position < lag - 1 ? 0.0f : past[lag]);
  }
}

// ---- rows of any sequences ----

// Rows depend on inputs only, so all results come first and the states after them. That holds while every sequence has one run of rows:
// rows are taken in waves in which it is so.

typedef struct zmi_gpu_wave {
  const zmi_gpu_conv *v;
  int first, last; // rows
} zmi_gpu_wave;

// Rows of the row's sequence that stand right before it, `most` at most.
ZMI_INLINE int zmi_gpu_conv_before(const zmi_gpu_wave *w, int row, int most) {
  const int sequence = zmi_gpu_conv_sequence(w->v, row);
  int n = 0;
  while (n < most && row - n > w->first && zmi_gpu_conv_sequence(w->v, row - n - 1) == sequence) n++;
  return n;
}

// The input `lag` rows before `row`, which has `before` rows of its sequence before it: from the step's rows or from the state.
template <int DTYPE> ZMI_INLINE float zmi_gpu_conv_input(const zmi_gpu_conv *v, int row, int before, int sequence, int lag, int channel) {
  if (lag <= before) return zmi_gpu_conv_x<DTYPE>(v, row - lag, channel);
  return zmi_gpu_load(v->state, DTYPE, zmi_gpu_conv_state(v, sequence, v->taps - 1 - (lag - before), channel));
}

template <int DTYPE> ZMI_INLINE void zmi_gpu_conv_row(const zmi_gpu_wave *w, int row, int channel) {
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
      const long long tap = (long long)channel * v->taps + t;
      const unsigned weight = zmi_gpu_word(v->weight, v->weight_dtype, tap);
      y = zk_fma(zmi_gpu_of_word(weight, v->weight, v->weight_dtype, tap),
                 zmi_gpu_conv_input<DTYPE>(v, row, before, sequence, lag, channel), y);
    }
  }
  if (v->parts) {
    const float gate = zmi_gpu_load(v->x, DTYPE, row * v->x_stride + (long long)v->gate * v->channels + channel);
    y = gate * zmi_gpu_round(y, DTYPE);
  }
  zmi_gpu_store(v->y, DTYPE, (long long)row * v->channels + channel, y);
}

// After the last row of a sequence. Rising i reads only entries that come later: safe in place.
template <int DTYPE> ZMI_INLINE void zmi_gpu_conv_update(const zmi_gpu_wave *w, int row, int channel) {
  const zmi_gpu_conv *v = w->v;
  const int position = zmi_gpu_at<const int>(v->position)[row], sequence = zmi_gpu_conv_sequence(v, row);
  if (sequence < 0 || sequence >= v->sequences || position < 0) return;
  const int before = zmi_gpu_conv_before(w, row, v->taps - 1);
  for (int i = 0; i < v->taps - 1; i++) {
    const int lag = v->taps - 2 - i;
    const long long to = zmi_gpu_conv_state(v, sequence, i, channel);
    zmi_gpu_store(v->state, DTYPE, to, position < lag ? 0.0f : zmi_gpu_conv_input<DTYPE>(v, row, before, sequence, lag, channel));
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

template <int DTYPE, bool PARTS> ZMI_INLINE void zmi_gpu_conv_tile(const zmi_gpu_conv *v, int tile, int *shared) {
  enum { TOGETHER = ZMI_GPU_THREADS / ZMI_GPU_CHANNELS };
  const int channel = tile * ZMI_GPU_CHANNELS + zmi_thread() % ZMI_GPU_CHANNELS, part = zmi_thread() / ZMI_GPU_CHANNELS;
  const bool mine = channel < v->channels;
  zmi_gpu_wave w = {v, 0, 0};
  if (v->rows <= ZMI_GPU_CONV_FEW && v->taps <= ZMI_GPU_CONV_TAPS && zmi_gpu_conv_apart(v)) {
    for (int r = part; mine && r < v->rows; r += TOGETHER) zmi_gpu_conv_one<DTYPE, PARTS>(v, r, channel);
    return;
  }
  if (v->taps <= ZMI_GPU_CONV_TAPS && zmi_gpu_conv_same(v, shared)) {
    zmi_gpu_conv_quarter<DTYPE, PARTS>(v, channel, part, mine);
    return;
  }
  for (; w.first < v->rows; w.first = w.last) {
    w.last = zmi_gpu_conv_wave_end(v, w.first, shared);
    for (int r = w.first + part; mine && r < w.last; r += TOGETHER) zmi_gpu_conv_row<DTYPE>(&w, r, channel);
    zmi_sync();
    for (int r = w.first + part; mine && r < w.last; r += TOGETHER) {
      if (r + 1 == w.last || zmi_gpu_conv_sequence(v, r + 1) != zmi_gpu_conv_sequence(v, r)) zmi_gpu_conv_update<DTYPE>(&w, r, channel);
    }
    zmi_sync();
  }
}

template <int DTYPE> ZMI_INLINE void zmi_gpu_conv_tiles(const zmi_gpu_conv *v, int tiles, int worker, int workers, int *shared) {
  const int first = workers - 1 - worker; // from the other end than other kinds, beside which the state alone may be written
  if (v->parts) {
    for (int t = first; t < tiles; t += workers) zmi_gpu_conv_tile<DTYPE, true>(v, t, shared);
  } else {
    for (int t = first; t < tiles; t += workers) zmi_gpu_conv_tile<DTYPE, false>(v, t, shared);
  }
}

ZMI_INLINE void zmi_gpu_conv_run(const zmi_gpu_instruction *in, int worker, int workers, char *shared) {
  const zmi_gpu_conv v = in->as.conv;
  ZMI_GPU_BY_DTYPE(v.dtype, zmi_gpu_conv_tiles<DTYPE>(&v, in->tiles, worker, workers, (int *)(void *)shared));
}
