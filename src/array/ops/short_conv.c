// short_conv: depthwise causal convolution over a few taps; the last inputs of each sequence are its state.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <string.h>

enum { X, WEIGHT, STATE, POSITION, SEQUENCE, BIAS };

// Consecutive rows of one sequence.
typedef struct stretch {
  int64_t first, last, sequence;
} stretch;

static stretch stretch_at(const zmi_conv *v, int64_t row) {
  stretch s = {row, row + 1, v->sequence[row]};
  while (s.last < v->rows && v->sequence[s.last] == s.sequence) s.last++;
  return s;
}

static char *state_row(const zmi_conv *v, int64_t sequence, int64_t i, int64_t channel) {
  return zmi_at(v->state, v->dtype, (sequence * (v->taps - 1) + i) * v->channels + channel);
}

// Where the input `lag` rows before `row` of a stretch lies: in the step's rows, in the state, or (NULL) before the beginning of the text.
static const void *input_at(const zmi_conv *v, const stretch *s, int64_t row, int64_t lag, int64_t channel) {
  if (v->position[row] < lag) return NULL;
  int64_t before = lag - (row - s->first); // 1: the last input that the state holds
  if (before <= 0) return zmi_at(v->x, v->dtype, (row - lag) * v->channels + channel);
  return state_row(v, s->sequence, v->taps - 1 - before, channel);
}

static void update_state(const zmi_conv *v, const stretch *s, int64_t channel, int64_t n) {
  size_t bytes = (size_t)n * zm_dtype_size(v->dtype);
  // Rising i reads only entries that come later: safe in place.
  for (int64_t i = 0; i < v->taps - 1; i++) {
    const void *from = input_at(v, s, s->last - 1, v->taps - 2 - i, channel);
    char *to = state_row(v, s->sequence, i, channel);
    if (from) {
      memmove(to, from, bytes);
    } else {
      memset(to, 0, bytes);
    }
  }
}

void zmi_conv_channels(const zmi_conv *v, int64_t first, int64_t n) {
  _Alignas(64) float weight[ZMI_CONV_TAPS][ZMI_CONV_CHANNELS], bias[ZMI_CONV_CHANNELS] = {0}, x[ZMI_CONV_CHANNELS], y[ZMI_CONV_CHANNELS];
  const zmi_kernels *kn = v->kernels;
  for (int64_t i = 0; i < n; i++) {
    float taps[ZMI_CONV_TAPS];
    kn->load(zmi_at(v->weight, v->weight_dtype, (first + i) * v->taps), v->weight_dtype, v->taps, taps);
    for (int64_t t = 0; t < v->taps; t++) weight[t][i] = taps[t];
  }
  if (v->bias) kn->load(zmi_at(v->bias, v->bias_dtype, first), v->bias_dtype, n, bias);
  for (int64_t row = 0; row < v->rows;) {
    stretch s = stretch_at(v, row);
    bool known = s.sequence >= 0 && s.sequence < v->sequences;
    for (; row < s.last; row++) {
      void *to = zmi_at(v->y, v->dtype, row * v->channels + first);
      if (!known || v->position[row] < 0) {
        memset(to, 0, (size_t)n * zm_dtype_size(v->dtype));
        continue;
      }
      memcpy(y, bias, sizeof y);
      for (int64_t t = 0; t < v->taps; t++) {
        const void *from = input_at(v, &s, row, v->taps - 1 - t, first);
        if (!from) continue; // zero: adds nothing
        kn->load(from, v->dtype, n, x);
        kn->multiply_add(weight[t], x, n, y);
      }
      kn->store(y, n, to, v->dtype);
    }
    if (known && v->position[s.last - 1] >= 0) update_state(v, &s, first, n);
  }
}

zm_status zmi_want_conv(const zmi_type *x, const zmi_type *weight, const zmi_type *bias, const zmi_type *state) {
  zm_status status = zmi_want_rank("x", x, 2, "[rows, channels]");
  if (status == ZM_OK) status = zmi_want_float("x", x);
  if (status == ZM_OK) status = zmi_want_rank("weight", weight, 2, "[channels, taps]");
  if (status == ZM_OK) status = zmi_want_float("weight", weight);
  if (status == ZM_OK) status = zmi_want_dim("weight", weight, 0, x->shape[1], "channels of x");
  if (status == ZM_OK && (weight->shape[1] < 1 || weight->shape[1] > ZMI_CONV_TAPS)) {
    status = zmi_fail(ZM_ERROR_UNSUPPORTED, "weight: %lld taps; 1 to %d are supported", (long long)weight->shape[1], ZMI_CONV_TAPS);
  }
  if (status == ZM_OK) status = zmi_want_rank("state", state, 3, "[sequences, taps - 1, channels]");
  if (status == ZM_OK) status = zmi_want_dtype("state", state, x->dtype);
  if (status == ZM_OK) status = zmi_want_dim("state", state, 1, weight->shape[1] - 1, "taps - 1");
  if (status == ZM_OK) status = zmi_want_dim("state", state, 2, x->shape[1], "channels of x");
  if (status != ZM_OK || !bias) return status;
  status = zmi_want_rank("bias", bias, 1, "[channels]");
  if (status == ZM_OK) status = zmi_want_float("bias", bias);
  return status == ZM_OK ? zmi_want_dim("bias", bias, 0, x->shape[1], "channels of x") : status;
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 5, 6);
  if (status == ZM_OK) status = zmi_want_conv(&in[X], &in[WEIGHT], zmi_absent(in, nin, BIAS) ? NULL : &in[BIAS], &in[STATE]);
  if (status == ZM_OK) status = zmi_want_index("position", &in[POSITION], in[X].shape[0]);
  if (status == ZM_OK) status = zmi_want_index("sequence", &in[SEQUENCE], in[X].shape[0]);
  if (status != ZM_OK) return status;
  *nout = 2;
  out[0] = in[X];
  out[1] = in[STATE];
  return ZM_OK;
}

static int64_t tiles(const zmi_call *c) {
  const zmi_type *x = &c->in[X]->type;
  return x->shape[0] ? (x->shape[1] + ZMI_CONV_CHANNELS - 1) / ZMI_CONV_CHANNELS : 0;
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_type *x = &c->in[X]->type;
  zmi_conv v = {
      .kernels = c->kernels,
      .dtype = x->dtype,
      .weight_dtype = c->in[WEIGHT]->type.dtype,
      .rows = x->shape[0],
      .channels = x->shape[1],
      .taps = c->in[WEIGHT]->type.shape[1],
      .sequences = c->in[STATE]->type.shape[0],
      .x = c->src[X],
      .weight = c->src[WEIGHT],
      .state = c->dst[1],
      .position = c->src[POSITION],
      .sequence = c->src[SEQUENCE],
      .y = c->dst[0],
  };
  if (c->nin > BIAS && c->in[BIAS]) {
    v.bias = c->src[BIAS];
    v.bias_dtype = c->in[BIAS]->type.dtype;
  }
  for (int64_t t = begin; t < end; t++) {
    int64_t first = t * ZMI_CONV_CHANNELS;
    zmi_conv_channels(&v, first, ZMI_MIN(v.channels - first, ZMI_CONV_CHANNELS));
  }
}

const zmi_op zmi_op_short_conv = {
    .name = "short_conv",
    .operands = "x weight state position sequence bias?",
    .rounding = "fma in float32 over the taps from the oldest to the newest, starting from the bias or 0; rounded once to the dtype of x.",
    .updates = {0, STATE + 1},
    .infer = infer,
    .stages = {{tiles, run}},
};

zm_status zmi_short_conv(zm_array *x, zm_array *weight, zm_array *bias, zm_array *state, zm_array *position, zm_array *sequence,
                         zm_array **y, zm_array **new_state) {
  zm_array *out[ZMI_MAX_OUT] = {NULL}, *in[] = {x, weight, state, position, sequence, bias};
  zm_status status = zmi_apply(&zmi_op_short_conv, NULL, 0, bias ? 6 : 5, in, out);
  if (status != ZM_OK) return status;
  *y = out[0];
  *new_state = out[1];
  return ZM_OK;
}
