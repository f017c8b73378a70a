// Results of convolutions without what zeros made of weights that are not finite: where a tap met no element, a result that is NaN may owe
// it to that tap alone, and is computed again then.
#include "array/ops/conv.h"

#include <math.h>
#include <string.h>

enum { CHANNELS = 256 }; // numbers that are looked at together

// Places [first, last) of axis d where no tap is multiplied with a zero for an element.
static void whole_places(const zmi_convolution *v, int d, int64_t *first, int64_t *last) {
  const zmi_conv_attrs *a = v->a;
  const int64_t apart = a->input_dilation[d];
  // The least and the most of a place times the stride: between them all taps that are not between elements meet one.
  const int64_t least = a->low[d] - (apart - 1), most = v->in[d] * apart - 1 + a->low[d] - (v->kernel[d] - 1) * a->dilation[d];
  *first = least <= 0 ? 0 : zmi_tiles_of(least, a->stride[d]);
  *last = most < 0 || (v->between && apart != 1) ? 0 : ZMI_MIN(most / a->stride[d] + 1, v->out[d]);
}

static bool is_whole(const zmi_convolution *v) {
  for (int d = 0; d < ZMI_CONV_SPACE; d++) {
    int64_t first, last;
    whole_places(v, d, &first, &last);
    if (first > 0 || last < v->out[d]) return false;
  }
  return true;
}

// Lines of the result that are looked at together, filters of one group at a time, by products of matrices: of where taps meet elements
// with which weights are NaN, or infinite; and of patches with the weights that are finite.
typedef enum weights { NANS, INFINITIES, FINITE } weights;
typedef struct lines {
  const zmi_convolution *v;
  int64_t line[ZMI_BLOCK_ROWS], count, group;
  weights weights;
} lines;

static void load_patch(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *out) {
  const lines *l = s->user;
  const zmi_convolution *v = l->v;
  int64_t o[ZMI_CONV_SPACE], image = zmi_conv_output(v, l->line[line], o), c = v->group_channels, tap = k / c, channel = k % c;
  for (int64_t run; n > 0; n -= run, out += run, channel = 0, tap++) {
    const int64_t at = zmi_conv_tap(v, image, o, tap);
    run = ZMI_MIN(c - channel, n);
    if (at >= 0 && l->weights == FINITE)
      kn->load(s->data + (size_t)(at + l->group * c + channel) * zm_dtype_size(s->dtype), s->dtype, run, out);
    else
      for (int64_t i = 0; i < run; i++) out[i] = at >= 0 ? 1.0f : 0.0f;
  }
}

static void load_weight(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *out) {
  const lines *l = s->user;
  const zmi_convolution *v = l->v;
  const int64_t from = (l->group * v->group_filters + line) * zmi_conv_taps(v) * v->group_channels + k;
  kn->load(s->data + (size_t)from * zm_dtype_size(s->dtype), s->dtype, n, out);
  for (int64_t i = 0; i < n; i++) {
    const bool nan = isnan(out[i]), infinite = isinf(out[i]);
    out[i] = l->weights == FINITE ? nan || infinite ? 0 : out[i] : (l->weights == NANS ? nan : infinite) ? 1.0f : 0.0f;
  }
}

// The product of all lines and filters [first, first + n) of the group, to w->y.
static void multiply(lines *l, weights which, int64_t first, int64_t n, zmi_gemm_work *w) {
  const zmi_convolution *v = l->v;
  const zmi_side a = {.data = v->call->src[0], .dtype = v->dtype, .lines = l->count, .load = load_patch, .user = l};
  const zmi_side b = {.data = v->call->src[1], .dtype = v->dtype, .lines = v->group_filters, .load = load_weight, .user = l};
  l->weights = which;
  zmi_gemm_block(v->kernels, &a, 0, l->count, &b, first, n, zmi_conv_taps(v) * v->group_channels, w);
}

// A result without the taps that meet nothing, in the written order.
static float met_alone(const zmi_convolution *v, int64_t image, const int64_t *o, int64_t filter) {
  const int64_t taps = zmi_conv_taps(v), c = v->group_channels, size = (int64_t)zm_dtype_size(v->dtype);
  float x[ZMI_RANGE], w[ZMI_RANGE], partial = 0, total = -0.0f; // to which the first partial is added as it is
  int64_t range = 0;
  for (int64_t tap = 0; tap < taps && !isnan(partial); tap++) {
    const int64_t at = zmi_conv_tap(v, image, o, tap);
    for (int64_t i = 0, n; at >= 0 && i < c; i += n) {
      const int64_t k = tap * c + i;
      n = ZMI_MIN(c - i, ZMI_RANGE - k % ZMI_RANGE);
      if (k / ZMI_RANGE != range) {
        total += partial;
        partial = 0;
        range = k / ZMI_RANGE;
      }
      v->kernels->load((const char *)v->call->src[0] + (at + filter / v->group_filters * c + i) * size, v->dtype, n, x);
      v->kernels->load((const char *)v->call->src[1] + (filter * taps * c + k) * size, v->dtype, n, w);
      for (int64_t j = 0; j < n; j++) partial = __builtin_fmaf(x[j], w[j], partial);
    }
  }
  return total + partial;
}

static char *result_at(const zmi_convolution *v, int64_t line, int64_t filter) {
  return (char *)v->call->dst[0] + (size_t)(line * v->filters + filter) * zm_dtype_size(v->dtype);
}

static bool are_finite(const zmi_convolution *v, int64_t filter, int64_t n) {
  const int64_t k = zmi_conv_taps(v) * v->group_channels;
  const char *from = (const char *)v->call->src[1] + (size_t)(filter * k) * zm_dtype_size(v->dtype);
  float w[CHANNELS];
  int finite = 1;
  for (int64_t i = 0; i < n * k && finite; i += CHANNELS) {
    const int64_t some = ZMI_MIN(n * k - i, CHANNELS);
    v->kernels->load(from + (size_t)i * zm_dtype_size(v->dtype), v->dtype, some, w);
    for (int64_t j = 0; j < some; j++) finite &= isfinite(w[j]) != 0;
  }
  return finite;
}

// Results of NaN that no tap's NaN made: finite weights alone, or in the written order where there are infinities.
static void mend_filters(lines *l, int64_t first, int64_t n) {
  const zmi_convolution *v = l->v;
  zmi_gemm_work w;
  bool open[ZMI_BLOCK_ROWS][ZMI_BLOCK_COLS], infinite[ZMI_BLOCK_ROWS][ZMI_BLOCK_COLS], any = false;
  const int64_t filter = l->group * v->group_filters + first;
  if (are_finite(v, filter, n)) return;
  multiply(l, NANS, first, n, &w);
  for (int64_t i = 0; i < l->count; i++) {
    float y[ZMI_BLOCK_COLS];
    v->kernels->load(result_at(v, l->line[i], filter), v->dtype, n, y);
    for (int64_t f = 0; f < n; f++) any |= open[i][f] = isnan(y[f]) && w.y[i * ZMI_BLOCK_COLS + f] == 0;
  }
  if (!any) return;
  multiply(l, INFINITIES, first, n, &w);
  for (int64_t i = 0; i < l->count; i++) {
    for (int64_t f = 0; f < n; f++) infinite[i][f] = w.y[i * ZMI_BLOCK_COLS + f] != 0;
  }
  multiply(l, FINITE, first, n, &w);
  for (int64_t i = 0; i < l->count; i++) {
    for (int64_t f = 0; f < n; f++) {
      int64_t o[ZMI_CONV_SPACE];
      if (!open[i][f]) continue;
      const float y = infinite[i][f] ? met_alone(v, zmi_conv_output(v, l->line[i], o), o, filter + f) : w.y[i * ZMI_BLOCK_COLS + f];
      if (!isnan(y)) v->kernels->store(&y, 1, result_at(v, l->line[i], filter + f), v->dtype);
    }
  }
}

static void mend_lines(lines *l) {
  const zmi_convolution *v = l->v;
  for (l->group = 0; l->count > 0 && l->group < v->a->groups; l->group++) {
    for (int64_t f = 0; f < v->group_filters; f += ZMI_BLOCK_COLS) mend_filters(l, f, ZMI_MIN(v->group_filters - f, ZMI_BLOCK_COLS));
  }
  l->count = 0;
}

// Those of n lines that have a result of NaN; at each some tap meets nothing.
static void look_at(lines *l, int64_t line, int64_t n) {
  const zmi_convolution *v = l->v;
  float y[CHANNELS];
  for (int64_t i = 0; i < n * v->filters; i += CHANNELS) {
    const int64_t some = ZMI_MIN(n * v->filters - i, CHANNELS);
    int any = 0;
    v->kernels->load(result_at(v, line, i), v->dtype, some, y);
    for (int64_t j = 0; j < some; j++) any |= isnan(y[j]);
    for (int64_t j = 0; any && j < some; j++) {
      const int64_t here = line + (i + j) / v->filters;
      if (!isnan(y[j]) || (l->count > 0 && l->line[l->count - 1] == here)) continue;
      if (l->count == ZMI_BLOCK_ROWS) mend_lines(l);
      l->line[l->count++] = here;
    }
  }
}

// Tile t, of places of which [first, last) need no looking at along each axis.
static void look_at_tile(lines *l, int64_t t, const int64_t *first, const int64_t *last) {
  const zmi_convolution *v = l->v;
  int64_t o[ZMI_CONV_SPACE], image, line, n = zmi_conv_row_tile(v, t, &image, o, &line);
  const int axis = (int)v->a->space - 1;
  bool whole = true; // along the other axes
  for (int d = 0; d < axis; d++) whole = whole && first[d] <= o[d] && o[d] < last[d];
  for (int64_t some; n > 0; n -= some, line += some, o[axis] += some) {
    const bool met = whole && first[axis] <= o[axis] && o[axis] < last[axis];
    some = met ? ZMI_MIN(n, last[axis] - o[axis]) : whole && o[axis] < first[axis] ? ZMI_MIN(n, first[axis] - o[axis]) : n;
    if (!met) look_at(l, line, some);
  }
}

int64_t zmi_conv_mend_tiles(const zmi_convolution *v) {
  return is_whole(v) ? 0 : zmi_conv_row_tiles(v);
}

void zmi_conv_mend(const zmi_convolution *v, int64_t begin, int64_t end) {
  int64_t first[ZMI_CONV_SPACE], last[ZMI_CONV_SPACE];
  for (int d = 0; d < ZMI_CONV_SPACE; d++) whole_places(v, d, &first[d], &last[d]);
  lines l = {.v = v};
  for (int64_t t = begin; t < end; t++) look_at_tile(&l, t, first, last);
  mend_lines(&l);
}
