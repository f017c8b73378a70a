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

// Taps from `tap` on, in one row of the kernel, that all meet elements of a row of x (`there`), or all meet none.
static int64_t taps_alike(const zmi_convolution *v, const int64_t *o, int64_t tap, bool row, bool *there) {
  const int last = (int)v->a->space - 1;
  const int64_t width = v->kernel[last], first = tap % width;
  if (!row) return *there = false, width - first;
  *there = zmi_conv_place(v, last, o[last], first) >= 0;
  int64_t n = 1;
  while (first + n < width && (zmi_conv_place(v, last, o[last], first + n) >= 0) == *there) n++;
  return n;
}

// n weights from the at-th on, as float32.
static void load_weights(const zmi_convolution *v, int64_t at, int64_t n, float *out) {
  v->kernels->load((const char *)v->call->src[1] + (size_t)at * zm_dtype_size(v->dtype), v->dtype, n, out);
}

static void find_strange(const zmi_convolution *v, int64_t at, int64_t n, bool *nan, bool *infinite) {
  float w[CHANNELS];
  for (int64_t i = 0; i < n && !*nan; i += CHANNELS) {
    const int64_t some = ZMI_MIN(n - i, CHANNELS);
    int nans = 0, strange = 0;
    load_weights(v, at + i, some, w);
    for (int64_t j = 0; j < some; j++) {
      nans |= isnan(w[j]);
      strange |= !isfinite(w[j]);
    }
    *nan = *nan || nans;
    *infinite = *infinite || (strange && !nans);
  }
}

// Whether a result that is NaN may be another without the taps that meet nothing: one of those has a weight that is not finite, and no
// other tap has one that is NaN.
static bool is_doubtful(const zmi_convolution *v, int64_t image, const int64_t *o, int64_t filter) {
  const int last = (int)v->a->space - 1;
  const int64_t taps = zmi_conv_taps(v), c = v->group_channels;
  bool doubtful = false;
  for (int64_t tap = 0, n, at = 0; tap < taps; tap += n) {
    bool there, nan = false, infinite = false;
    if (tap % v->kernel[last] == 0) at = zmi_conv_element(v, image, o, tap / v->kernel[last], last);
    n = taps_alike(v, o, tap, at >= 0, &there);
    if (!there && doubtful) continue;
    find_strange(v, (filter * taps + tap) * c, n * c, &nan, &infinite);
    if (there && nan) return false;
    doubtful = doubtful || (!there && (nan || infinite));
  }
  return doubtful;
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
      load_weights(v, filter * taps * c + k, n, w);
      for (int64_t j = 0; j < n; j++) partial = __builtin_fmaf(x[j], w[j], partial);
    }
  }
  return total + partial;
}

// n places of a row, at each of which some tap meets nothing.
static void mend_places(const zmi_convolution *v, int64_t image, const int64_t *o, int64_t line, int64_t n) {
  const size_t size = zm_dtype_size(v->dtype);
  char *y = (char *)v->call->dst[0] + (size_t)(line * v->filters) * size;
  float here[CHANNELS];
  int64_t at[ZMI_CONV_SPACE];
  memcpy(at, o, sizeof at);
  for (int64_t i = 0; i < n * v->filters; i += CHANNELS) {
    const int64_t some = ZMI_MIN(n * v->filters - i, CHANNELS);
    int any = 0;
    v->kernels->load(y + (size_t)i * size, v->dtype, some, here);
    for (int64_t j = 0; j < some; j++) any |= isnan(here[j]);
    for (int64_t j = 0; any && j < some; j++) {
      const int64_t filter = (i + j) % v->filters;
      if (!isnan(here[j])) continue;
      at[v->a->space - 1] = o[v->a->space - 1] + (i + j) / v->filters;
      if (!is_doubtful(v, image, at, filter)) continue;
      const float other = met_alone(v, image, at, filter);
      if (!isnan(other)) v->kernels->store(&other, 1, y + (size_t)(i + j) * size, v->dtype);
    }
  }
}

// Tile t, of places of which [first, last) need no looking at along each axis.
static void mend_tile(const zmi_convolution *v, int64_t t, const int64_t *first, const int64_t *last) {
  int64_t o[ZMI_CONV_SPACE], image, line, n = zmi_conv_row_tile(v, t, &image, o, &line);
  const int axis = (int)v->a->space - 1;
  bool whole = true; // along the other axes
  for (int d = 0; d < axis; d++) whole = whole && first[d] <= o[d] && o[d] < last[d];
  for (int64_t some; n > 0; n -= some, line += some, o[axis] += some) {
    const bool met = whole && first[axis] <= o[axis] && o[axis] < last[axis];
    some = met ? ZMI_MIN(n, last[axis] - o[axis]) : whole && o[axis] < first[axis] ? ZMI_MIN(n, first[axis] - o[axis]) : n;
    if (!met) mend_places(v, image, o, line, some);
  }
}

int64_t zmi_conv_mend_tiles(const zmi_convolution *v) {
  return is_whole(v) ? 0 : zmi_conv_row_tiles(v);
}

void zmi_conv_mend(const zmi_convolution *v, int64_t begin, int64_t end) {
  int64_t first[ZMI_CONV_SPACE], last[ZMI_CONV_SPACE];
  for (int d = 0; d < ZMI_CONV_SPACE; d++) whole_places(v, d, &first[d], &last[d]);
  for (int64_t t = begin; t < end; t++) mend_tile(v, t, first, last);
}
