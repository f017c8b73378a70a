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

// ---- rules: y = bias + the sum over lags of the weight's tap times the input so many rows before ----

// Where the input `lag` rows before each row is: indices [rows] into the rows of x and into those of the flat state; -1 where not there.
typedef struct places {
  zm_array *row, *kept;
} places;

static zm_array *number(int64_t v) {
  return zm_full((double)v, ZM_I64, NULL, 0);
}

static zm_array *chosen(zm_array *condition, zm_array *index) {
  return zm_where(condition, index, number(-1));
}

// Rows that have a result: of a known sequence and position.
static zm_array *known_rows(const zmi_node *n) {
  zm_array *s = n->in[SEQUENCE], *p = n->in[POSITION], *zero = zmi_scalar_like(s, 0);
  zm_array *last = zm_full((double)n->in[STATE]->type.shape[0], ZM_I64, NULL, 0);
  return zm_multiply(zm_multiply(zm_greater_equal(s, zero), zm_less(s, last)), zm_greater_equal(p, zero));
}

// at[lag] for all lags.
static void find_places(const zmi_node *n, places *at) {
  const int64_t rows = n->in[X]->type.shape[0], taps = n->in[WEIGHT]->type.shape[1];
  zm_array *known = known_rows(n), *sequence = n->in[SEQUENCE], *row = zm_arange(0, (double)rows, 1, ZM_I64);
  zm_array *first = zm_greater(row, number(0));                                                              // has a row before it
  zm_array *joined = zm_multiply(first, zm_equal(sequence, zm_take(sequence, zm_subtract(row, number(1))))); // of its sequence
  zm_array *within = known, *run = zm_multiply(row, number(0)); // still in one sequence this far back; the rows for which that is so
  for (int64_t lag = 0; lag < taps; lag++) {
    zm_array *there = zm_multiply(known, zm_greater_equal(n->in[POSITION], zm_full((double)lag, ZM_I32, NULL, 0)));
    if (lag > 0) {
      zm_array *link = zm_take(zm_astype(joined, ZM_I64), zm_subtract(row, number(lag - 1)));
      within = zm_multiply(within, zm_greater(link, number(0)));
      run = zm_add(run, zm_astype(within, ZM_I64));
    }
    zm_array *away = zm_add(number(taps - 1 - lag), run); // the state's last row is the row before the first
    zm_array *base = zm_multiply(zm_astype(sequence, ZM_I64), number(taps - 1));
    at[lag].row = chosen(zm_multiply(there, within), zm_subtract(row, number(lag)));
    at[lag].kept = chosen(zm_multiply(there, zm_equal(within, zm_full(0, ZM_BOOL, NULL, 0))), zm_add(base, away));
  }
}

// The inputs at a lag, [rows, channels] float32: those of x, and of the state as it was if it is given.
static zm_array *inputs_at(const zmi_node *n, const places *at, zm_array *x, zm_array *state) {
  const int64_t *shape = n->in[STATE]->type.shape;
  zm_array *rows = zm_take(zm_astype(x, ZM_F32), at->row);
  if (!state || shape[1] == 0) return rows;
  state = zm_astype(zm_reshape(state, (int64_t[]){shape[0] * shape[1], shape[2]}, 2), ZM_F32);
  return zm_add(rows, zm_take(state, at->kept));
}

// The weights of the tap at a lag, [channels] float32.
static zm_array *tap_at(const zmi_node *n, zm_array *weight, int64_t lag) {
  const int64_t *shape = n->in[WEIGHT]->type.shape;
  zm_array *tap = zmi_slice_exactly(weight, (int64_t[]){0, shape[1] - 1 - lag}, (int64_t[]){1, 1}, (int64_t[]){shape[0], 1});
  return tap ? zm_astype(zm_squeeze(tap, 1), ZM_F32) : NULL;
}

static void add_to(zm_array **sum, zm_array *part) {
  *sum = *sum ? zm_add(*sum, part) : part;
}

static zm_status no_state(void) {
  return zmi_fail(ZM_ERROR_UNSUPPORTED, "gradients and tangents do not go through states: they are updated in place");
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  const zmi_type *x = &n->in[X]->type;
  const int64_t taps = n->in[WEIGHT]->type.shape[1];
  places at[ZMI_CONV_TAPS];
  zm_array *columns[ZMI_CONV_TAPS], *gx = NULL;
  if (given[1] || wanted[STATE]) return no_state();
  if (!given[0]) return ZM_OK;
  find_places(n, at);
  zm_array *g = zm_where(zm_expand_dims(known_rows(n), 1), zm_astype(given[0], ZM_F32), zm_full(0, ZM_F32, NULL, 0));
  for (int64_t lag = 0; lag < taps; lag++) {
    zm_array *through = zm_multiply(g, tap_at(n, n->in[WEIGHT], lag));
    if (wanted[X]) add_to(&gx, zmi_take_add(through, at[lag].row, x->shape[0]));
    if (!wanted[WEIGHT]) continue;
    zm_array *column = zm_sum(zm_multiply(g, inputs_at(n, &at[lag], n->in[X], n->in[STATE])), 0, false);
    columns[taps - 1 - lag] = column ? zm_expand_dims(column, 1) : NULL;
  }
  if (wanted[X]) gradient[X] = zm_astype(gx, x->dtype);
  if (wanted[WEIGHT]) gradient[WEIGHT] = zm_astype(zm_concatenate(columns, (size_t)taps, 1), n->in[WEIGHT]->type.dtype);
  if (n->nin > BIAS && wanted[BIAS]) gradient[BIAS] = zm_astype(zm_sum(g, 0, false), n->in[BIAS]->type.dtype);
  return ZM_OK;
}

// The new state carries no tangent on.
static zm_status jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  places at[ZMI_CONV_TAPS];
  zm_array *sum = n->nin > BIAS && tangent[BIAS] ? zm_astype(tangent[BIAS], ZM_F32) : NULL;
  if (tangent[STATE]) return no_state();
  find_places(n, at);
  for (int64_t lag = 0; lag < n->in[WEIGHT]->type.shape[1]; lag++) {
    if (tangent[X]) add_to(&sum, zm_multiply(inputs_at(n, &at[lag], tangent[X], NULL), tap_at(n, n->in[WEIGHT], lag)));
    if (tangent[WEIGHT]) add_to(&sum, zm_multiply(inputs_at(n, &at[lag], n->in[X], n->in[STATE]), tap_at(n, tangent[WEIGHT], lag)));
  }
  if (sum) result[0] = zm_astype(zm_where(zm_expand_dims(known_rows(n), 1), sum, zm_full(0, ZM_F32, NULL, 0)), n->in[X]->type.dtype);
  return ZM_OK;
}

static const zmi_rules rules = {.vjp = vjp, .jvp = jvp, .vmap = zmi_vmap_refused, .gradient = "x, weight, bias; not the state"};

const zmi_op zmi_op_short_conv = {
    .name = "short_conv",
    .operands = "x weight state position sequence bias?",
    .rounding = "fma in float32 over the taps from the oldest to the newest, starting from the bias or 0; rounded once to the dtype of x.",
    .updates = {0, STATE + 1},
    .infer = infer,
    .device = zmi_short_conv_device,
    .stages = {{tiles, run}},
    .rules = &rules,
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
