// Convolutions of a dilated x (gradients by x of strided ones are such) as products: places of the result that lie alike to the elements of
// x, a phase, meet them with the same taps, and the others are left out. What is left of a range of k is summed together, so that results
// have the bits that products with zeros between the elements would have.
#include "array/ops/conv.h"

#include <string.h>

enum { LEAST_LINES = 24, ENOUGH_TILES = 16, FEW_FILTERS = 2 * ZMI_GEMM_ROWS };

// Along one axis: places first, first + apart, ... of the result, taps tap, tap + by, ... of the kernel. The first of each meet element
// `met` of x (which may be outside), later ones further on by as much for every place and every tap.
typedef struct axis {
  int64_t first, apart, places, tap, by, taps;
  int64_t met, met_by_place, met_by_tap;
} axis;

typedef struct phase {
  const zmi_convolution *v;
  axis axis[ZMI_CONV_SPACE];
  int64_t lines, k, group;
} phase;

static int64_t common(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// How far apart places of the result are that lie alike.
static int64_t period(const zmi_convolution *v, int d) {
  return v->a->input_dilation[d] / common(v->a->input_dilation[d], v->a->stride[d]);
}

static int64_t phases_along(const zmi_convolution *v, int d) {
  return ZMI_MIN(period(v, d), v->out[d]);
}

static axis axis_of(const zmi_convolution *v, int d, int64_t first) {
  const zmi_conv_attrs *a = v->a;
  const int64_t dilated = a->input_dilation[d];
  axis x = {.first = first, .apart = period(v, d), .by = dilated / common(dilated, a->dilation[d])};
  x.places = (v->out[d] - first + x.apart - 1) / x.apart;
  for (; x.tap < ZMI_MIN(x.by, v->kernel[d]); x.tap++) {
    const int64_t turned = a->flip ? v->kernel[d] - 1 - x.tap : x.tap;
    x.met = first * a->stride[d] + turned * a->dilation[d] - a->low[d];
    if (x.met % dilated != 0) continue;
    x.met /= dilated;
    x.taps = (v->kernel[d] - x.tap + x.by - 1) / x.by;
    break;
  }
  x.met_by_place = x.apart * a->stride[d] / dilated;
  x.met_by_tap = (a->flip ? -x.by : x.by) * a->dilation[d] / dilated;
  return x;
}

static phase phase_of(const zmi_convolution *v, int64_t index) {
  phase p = {.v = v, .lines = v->batch, .k = v->group_channels};
  for (int d = ZMI_CONV_SPACE - 1; d >= 0; d--) {
    p.axis[d] = axis_of(v, d, index % phases_along(v, d));
    index /= phases_along(v, d);
    p.lines *= p.axis[d].places;
    p.k *= p.axis[d].taps;
  }
  return p;
}

// A tap of the phase, counted along the axes.
typedef struct tap {
  int64_t at[ZMI_CONV_SPACE];
} tap;

static tap tap_of(const phase *p, int64_t index) {
  tap t;
  for (int d = ZMI_CONV_SPACE - 1; d >= 0; d--) {
    t.at[d] = index % p->axis[d].taps;
    index /= p->axis[d].taps;
  }
  return t;
}

static inline void next_tap(const phase *p, tap *t) {
  for (int d = ZMI_CONV_SPACE - 1; d >= 0 && ++t->at[d] == p->axis[d].taps; d--) t->at[d] = 0;
}

// Its place among all taps of the kernel.
static inline int64_t place_of_tap(const phase *p, const tap *t) {
  int64_t place = 0;
  for (int d = 0; d < ZMI_CONV_SPACE; d++) place = place * p->v->kernel[d] + p->axis[d].tap + t->at[d] * p->axis[d].by;
  return place;
}

// Where line `line` of the phase is in the result; the image.
static int64_t place_of(const phase *p, int64_t line, int64_t *o) {
  for (int d = ZMI_CONV_SPACE - 1; d >= 0; d--) {
    const axis *x = &p->axis[d];
    o[d] = x->first + line % x->places * x->apart;
    line /= x->places;
  }
  return line;
}

static inline void load(const zmi_kernels *kn, const zmi_side *s, int64_t at, int64_t n, float *out) {
  const char *from = s->data + at * (int64_t)zm_dtype_size(s->dtype);
  if (s->dtype == ZM_F32)
    memcpy(out, from, (size_t)n * sizeof *out);
  else
    kn->load(from, s->dtype, n, out);
}

static void load_patch(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *out) {
  const phase *p = s->user;
  const zmi_convolution *v = p->v;
  const int64_t c = v->group_channels;
  tap t = tap_of(p, k / c);
  int64_t first[ZMI_CONV_SPACE], channel = k % c; // what the first tap meets along each axis
  for (int d = ZMI_CONV_SPACE - 1; d >= 0; d--) {
    first[d] = p->axis[d].met + line % p->axis[d].places * p->axis[d].met_by_place;
    line /= p->axis[d].places;
  }
  for (int64_t run; n > 0; n -= run, out += run, channel = 0, next_tap(p, &t)) {
    int64_t at = line * v->in[0] * v->step[0] + p->group * c + channel;
    bool there = true;
    for (int d = 0; d < ZMI_CONV_SPACE; d++) {
      const int64_t met = first[d] + t.at[d] * p->axis[d].met_by_tap;
      there = there && met >= 0 && met < v->in[d];
      at += met * v->step[d];
    }
    run = ZMI_MIN(c - channel, n);
    if (there)
      load(kn, s, at, run, out);
    else
      memset(out, 0, (size_t)run * sizeof *out);
  }
}

static void load_weight(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *out) {
  const phase *p = s->user;
  const zmi_convolution *v = p->v;
  const int64_t c = v->group_channels, first = (p->group * v->group_filters + line) * zmi_conv_taps(v);
  tap t = tap_of(p, k / c);
  int64_t channel = k % c;
  for (int64_t run; n > 0; n -= run, out += run, channel = 0, next_tap(p, &t)) {
    run = ZMI_MIN(c - channel, n);
    load(kn, s, (first + place_of_tap(p, &t)) * c + channel, run, out);
  }
}

// What is left of the range of k, counted over all taps, that holds the phase's k.
static int64_t range_of(const zmi_side *s, int64_t k) {
  const phase *p = s->user;
  const int64_t c = p->v->group_channels, taps = p->k / c;
  tap t = tap_of(p, k / c);
  const int64_t end = ((place_of_tap(p, &t) * c + k % c) / ZMI_RANGE + 1) * ZMI_RANGE;
  int64_t n = 0;
  for (int64_t i = k / c, channel = k % c; i < taps; i++, channel = 0, next_tap(p, &t)) {
    const int64_t at = place_of_tap(p, &t) * c + channel;
    if (at >= end) break;
    n += ZMI_MIN(c - channel, end - at);
  }
  return n;
}

// Every phase is cut alike, as the largest one: lines of the result at a time, filters at a time.
typedef struct cuts {
  int64_t phases, lines, filters, down, across;
  bool swapped; // few filters are better rows than columns
} cuts;

static cuts cuts_of(const zmi_convolution *v) {
  cuts c = {.phases = 1, .swapped = v->group_filters < FEW_FILTERS};
  int64_t most = v->batch;
  for (int d = 0; d < ZMI_CONV_SPACE; d++) {
    c.phases *= phases_along(v, d);
    most *= zmi_tiles_of(v->out[d], period(v, d));
  }
  c.lines = c.swapped ? ZMI_BLOCK_COLS : ZMI_BLOCK_ROWS;
  c.filters = c.swapped ? ZMI_BLOCK_ROWS : ZMI_BLOCK_COLS;
  c.across = zmi_tiles_of(v->group_filters, c.filters);
  while (c.lines > LEAST_LINES && v->a->groups * c.phases * zmi_tiles_of(most, c.lines) * c.across < ENOUGH_TILES) c.lines /= 2;
  c.down = zmi_tiles_of(most, c.lines);
  return c;
}

int64_t zmi_conv_phase_tiles(const zmi_convolution *v) {
  const cuts c = cuts_of(v);
  return v->a->groups * c.phases * c.down * c.across;
}

// Results of lines [line, line + lines) and filters [filter, filter + filters) to their places.
static void store(const phase *p, bool swapped, int64_t line, int64_t lines, int64_t filter, int64_t filters, const float *y) {
  const zmi_convolution *v = p->v;
  float turned[FEW_FILTERS];
  for (int64_t i = 0; i < lines; i++) {
    int64_t o[ZMI_CONV_SPACE], image = place_of(p, line + i, o);
    const int64_t at = ((image * v->out[0] + o[0]) * v->out[1] + o[1]) * v->out[2] + o[2];
    char *to = (char *)v->call->dst[0] + (size_t)(at * v->filters + p->group * v->group_filters + filter) * zm_dtype_size(v->dtype);
    for (int64_t f = 0; swapped && f < filters; f++) turned[f] = y[f * ZMI_BLOCK_COLS + i];
    v->kernels->store(swapped ? turned : y + i * ZMI_BLOCK_COLS, filters, to, v->dtype);
  }
}

void zmi_conv_phase_run(const zmi_convolution *v, int64_t begin, int64_t end) {
  const cuts c = cuts_of(v);
  zmi_gemm_work w;
  for (int64_t t = begin; t < end; t++) {
    const int64_t filter = t % c.across * c.filters, line = t / c.across % c.down * c.lines, rest = t / c.across / c.down;
    phase p = phase_of(v, rest % c.phases);
    p.group = rest / c.phases;
    const int64_t lines = ZMI_MIN(p.lines - line, c.lines), filters = ZMI_MIN(v->group_filters - filter, c.filters);
    if (lines <= 0) continue;
    zmi_side patches = {.data = v->call->src[0], .dtype = v->dtype, .lines = p.lines, .load = load_patch, .range = range_of, .user = &p};
    zmi_side weights = {.data = v->call->src[1], .dtype = v->dtype, .lines = v->group_filters, .load = load_weight, .user = &p};
    weights.range = range_of;
    if (c.swapped)
      zmi_gemm_block(v->kernels, &weights, filter, filters, &patches, line, lines, p.k, &w);
    else
      zmi_gemm_block(v->kernels, &patches, line, lines, &weights, filter, filters, p.k, &w);
    store(&p, c.swapped, line, lines, filter, filters, w.y);
  }
}
