// Convolutions of 1 to 3 spatial dimensions, channels last: x [N, spatial..., C], weight [O, kernel..., C / groups] -> [N, out..., O].
// A result is the product of a patch of x with a row of the weight: k goes through the kernel's places in order, and through the channels
// at each place, in the order of matmul; places without an element of x are zeros (conv.h says more). Patches are cut out while panels are
// packed (gemm.c), never stored.
#include "array/ops/conv.h"
#include <zmlx/linear.h>
#include <zmlx/ops.h>

#include <string.h>

// Where there are many groups, or few channels and filters, no product of matrices is worth its panels: vectors run over channels then, or
// over places. The order of k is the same.
enum { CHANNELS = 256 }; // that a depthwise convolution takes together

// clang-format off
#define THREE(text, member)                                                                  \
  {text "0", ZMI_FIELD_INT, offsetof(zmi_conv_attrs, member), NULL},                         \
  {text "1", ZMI_FIELD_INT, offsetof(zmi_conv_attrs, member) + 8, NULL},                     \
  {text "2", ZMI_FIELD_INT, offsetof(zmi_conv_attrs, member) + 16, NULL}
static const zmi_field fields[] = {
    {"space", ZMI_FIELD_INT, offsetof(zmi_conv_attrs, space), NULL}, {"groups", ZMI_FIELD_INT, offsetof(zmi_conv_attrs, groups), NULL},
    {"flip", ZMI_FIELD_INT, offsetof(zmi_conv_attrs, flip), NULL},
    THREE("stride", stride), THREE("low", low), THREE("high", high), THREE("dilation", dilation),
    THREE("input_dilation", input_dilation), {0}};
// clang-format on

static int64_t three(const zmi_type *t, int64_t space, int64_t *size) {
  int64_t count = 1;
  for (int i = 0; i < ZMI_CONV_SPACE; i++) {
    size[i] = i < space ? t->shape[1 + i] : 1;
    count *= size[i];
  }
  return count;
}

static zmi_convolution conv_of(const zmi_call *c) {
  const zmi_type *x = &c->in[0]->type, *w = &c->in[1]->type;
  zmi_convolution v = {.call = c, .a = c->attrs, .kernels = c->kernels, .dtype = x->dtype, .batch = x->shape[0]};
  three(x, v.a->space, v.in);
  three(w, v.a->space, v.kernel);
  three(&c->out[0]->type, v.a->space, v.out);
  v.channels = x->shape[v.a->space + 1];
  v.filters = w->shape[0];
  v.group_channels = w->shape[v.a->space + 1];
  v.group_filters = v.filters / v.a->groups;
  v.step[2] = v.channels;
  v.step[1] = v.channels * v.in[2];
  v.step[0] = v.step[1] * v.in[1];
  return v;
}

static int64_t spread(int64_t size, int64_t apart) { // elements that a dilated axis covers
  return size == 0 ? 0 : (size - 1) * apart + 1;
}

// ---- as products: line = output place, k = (kernel place, channel) ----

// Places of the kernel from `tap` on whose elements follow one another in x, without leaving a row of either; 1 where each is on its own.
static int64_t taps_together(const zmi_convolution *v, const int64_t *o, int64_t tap) {
  const zmi_conv_attrs *a = v->a;
  const int last = (int)a->space - 1;
  if (a->groups != 1 || a->flip || a->dilation[last] != 1 || a->input_dilation[last] != 1) return 1;
  int64_t in_row = v->kernel[last] - tap % v->kernel[last], first = zmi_conv_place(v, last, o[last], tap % v->kernel[last]);
  return first < 0 ? 1 : ZMI_MIN(in_row, v->in[last] - first);
}

static void load_patch(const zmi_kernels *kn, const zmi_side *s, int64_t line, int64_t k, int64_t n, float *out) {
  const zmi_convolution *v = s->user;
  int64_t o[ZMI_CONV_SPACE], image = zmi_conv_output(v, line, o), tap = k / v->group_channels, channel = k % v->group_channels;
  while (n > 0) {
    const int64_t at = zmi_conv_tap(v, image, o, tap), together = at < 0 ? 1 : taps_together(v, o, tap);
    const int64_t run = ZMI_MIN(together * v->group_channels - channel, n);
    if (at < 0)
      memset(out, 0, (size_t)run * sizeof *out);
    else if (s->dtype == ZM_F32)
      memcpy(out, s->data + (size_t)(at + channel) * sizeof *out, (size_t)run * sizeof *out);
    else
      kn->load(s->data + (size_t)(at + channel) * zm_dtype_size(s->dtype), s->dtype, run, out);
    out += run;
    n -= run;
    channel = 0;
    tap += together;
  }
}

// A kernel of one place that meets every element: x is the matrix of patches.
static bool is_plain(const zmi_convolution *v) {
  for (int d = 0; d < ZMI_CONV_SPACE; d++) {
    if (v->kernel[d] != 1 || v->a->stride[d] != 1 || v->a->low[d] != 0 || v->a->input_dilation[d] != 1 || v->out[d] != v->in[d])
      return false;
  }
  return true;
}

static zmi_gemm gemm_of(const zmi_convolution *v) {
  const int64_t k = v->kernel[0] * v->kernel[1] * v->kernel[2] * v->group_channels;
  zmi_product p = {.k = k, .batches = v->a->groups, .batch_rank = 1, .batch = {v->a->groups}};
  p.a = (zmi_side){.data = v->call->src[0], .dtype = v->dtype, .lines = v->batch * v->out[0] * v->out[1] * v->out[2], .user = v};
  p.a.by_k = 1;
  p.a.by_line = v->channels;
  p.a.batch[0] = v->a->groups == 1 ? 0 : v->group_channels;
  p.a.load = is_plain(v) ? NULL : load_patch;
  p.b = (zmi_side){.data = v->call->src[1], .dtype = v->dtype, .lines = v->group_filters, .by_k = 1, .by_line = k};
  p.b.batch[0] = v->a->groups == 1 ? 0 : v->group_filters * k;
  p.row_step = v->filters;
  p.batch_step = v->group_filters;
  return zmi_gemm_of(&p);
}

// ---- depthwise: each filter has one channel; vectors run over the filters ----

static bool is_depthwise(const zmi_convolution *v) {
  return v->group_channels == 1 && v->a->groups > 1;
}

// Depthwise and narrow convolutions have the weight as float32, a tile for each filter.
static size_t weight_scratch(const zmi_convolution *v) {
  return (size_t)(zmi_conv_taps(v) * v->group_channels * v->filters) * sizeof(float);
}

static int64_t weight_tiles(const zmi_convolution *v) {
  return v->filters;
}

// The weight as float32 [taps, O].
static void turn_weight(const zmi_convolution *v, int64_t begin, int64_t end) {
  const int64_t taps = zmi_conv_taps(v), size = (int64_t)zm_dtype_size(v->dtype);
  float *out = v->call->scratch;
  for (int64_t f = begin; f < end; f++) {
    for (int64_t t = 0; t < taps; t++) {
      v->kernels->load((const char *)v->call->src[1] + (f * taps + t) * size, v->dtype, 1, &out[t * v->filters + f]);
    }
  }
}

// Channels of filters [first, first + n) at an element of x, as float32.
static const float *channels_at(const zmi_convolution *v, int64_t at, int64_t first, int64_t n, float *buffer) {
  const int64_t each = v->group_filters, low = first / each, high = (first + n - 1) / each + 1, size = (int64_t)zm_dtype_size(v->dtype);
  const char *from = (const char *)v->call->src[0] + (at + low) * size;
  if (each == 1 && v->dtype == ZM_F32) return (const float *)(const void *)from;
  if (each == 1) {
    v->kernels->load(from, v->dtype, n, buffer);
    return buffer;
  }
  float few[CHANNELS];
  v->kernels->load(from, v->dtype, high - low, few);
  for (int64_t i = 0; i < n; i++) buffer[i] = few[(first + i) / each - low];
  return buffer;
}

// Filters [first, first + n) of one output place.
static void depthwise_place(const zmi_convolution *v, int64_t line, int64_t first, int64_t n) {
  _Alignas(64) float total[CHANNELS], partial[CHANNELS], buffer[CHANNELS];
  int64_t o[ZMI_CONV_SPACE], image = zmi_conv_output(v, line, o), taps = zmi_conv_taps(v);
  const float *w = (const float *)v->call->scratch + first;
  for (int64_t begin = 0; begin < taps; begin += ZMI_RANGE) {
    memset(partial, 0, sizeof partial);
    for (int64_t t = begin; t < ZMI_MIN(begin + ZMI_RANGE, taps); t++) {
      int64_t at = zmi_conv_tap(v, image, o, t);
      if (at >= 0) v->kernels->multiply_add(channels_at(v, at, first, n, buffer), w + t * v->filters, n, partial);
    }
    for (int64_t i = 0; i < n; i++) total[i] = begin == 0 ? partial[i] : total[i] + partial[i];
  }
  if (taps == 0) memset(total, 0, sizeof total);
  v->kernels->store(total, n, (char *)v->call->dst[0] + (size_t)(line * v->filters + first) * zm_dtype_size(v->dtype), v->dtype);
}

enum { DEPTHWISE_PLACES = 16 }; // output places of a tile

static int64_t depthwise_tiles(const zmi_convolution *v) {
  return zmi_tiles_of(v->batch * v->out[0] * v->out[1] * v->out[2], DEPTHWISE_PLACES) * zmi_tiles_of(v->filters, CHANNELS);
}

static void depthwise_run(const zmi_convolution *v, int64_t begin, int64_t end) {
  const int64_t cuts = zmi_tiles_of(v->filters, CHANNELS), places = v->batch * v->out[0] * v->out[1] * v->out[2];
  for (int64_t t = begin; t < end; t++) {
    int64_t first = t % cuts * CHANNELS, line = t / cuts * DEPTHWISE_PLACES, last = ZMI_MIN(line + DEPTHWISE_PLACES, places);
    for (; line < last; line++) depthwise_place(v, line, first, ZMI_MIN(v->filters - first, CHANNELS));
  }
}

// ---- narrow: few channels and filters; vectors run over places of the last axis ----

enum { NARROW_FILTERS = 16, NARROW_ROW = 4096, NARROW_LEAST = 12, NARROW_DILATED = 32 };

// Elements of x that `places` places along the last axis meet.
static int64_t narrow_span(const zmi_convolution *v, int64_t places) {
  const int last = (int)v->a->space - 1;
  return places + (v->kernel[last] - 1) * v->a->dilation[last];
}

static bool is_dilated(const zmi_convolution *v) {
  return v->a->input_dilation[0] != 1 || v->a->input_dilation[1] != 1 || v->a->input_dilation[2] != 1;
}

static bool is_narrow(const zmi_convolution *v) {
  const int last = (int)v->a->space - 1;
  // Zeros between the elements of a dilated x are multiplied here: with more channels and filters it is worth leaving them out.
  if (is_dilated(v) && v->channels * v->filters >= NARROW_DILATED) return false;
  return v->a->groups == 1 && v->filters <= NARROW_FILTERS && v->a->stride[last] == 1 && v->out[last] >= NARROW_LEAST && v->channels > 0 &&
         v->channels <= NARROW_ROW / narrow_span(v, ZMI_CONV_PLACES);
}

// The weight as float32 [O, k].
static void narrow_weight(const zmi_convolution *v, int64_t begin, int64_t end) {
  const int64_t k = zmi_conv_taps(v) * v->channels;
  v->kernels->load((const char *)v->call->src[1] + (size_t)(begin * k) * zm_dtype_size(v->dtype), v->dtype, (end - begin) * k,
                   (float *)v->call->scratch + begin * k);
}

// The row of x that kernel row `tap` on meets from output place o on, as float32 [C][span], zeros where no element is; false: no row.
static bool narrow_row(const zmi_convolution *v, int64_t image, const int64_t *o, int64_t tap, int64_t span, float *row) {
  const int last = (int)v->a->space - 1;
  const int64_t apart = v->a->input_dilation[last], size = (int64_t)zm_dtype_size(v->dtype);
  const int64_t at = zmi_conv_element(v, image, o, tap / v->kernel[last], last);
  if (at < 0) return false;
  memset(row, 0, (size_t)(v->channels * span) * sizeof *row);
  // Element j of the span is the place p = o - low + j of the dilated axis.
  const int64_t begin = o[last] - v->a->low[last], all = spread(v->in[last], apart);
  int64_t j = ZMI_MAX(-begin, 0);
  j += (apart - (begin + j) % apart) % apart;
  const int64_t stop = ZMI_MIN(span, all - begin);
  if (j >= stop) return true;
  const char *from = (const char *)v->call->src[0] + (at + (begin + j) / apart * v->channels) * size;
  if (v->channels == 1 && apart == 1) {
    v->kernels->load(from, v->dtype, stop - j, row + j);
    return true;
  }
  for (; j < stop; j += apart, from += v->channels * size) {
    float here[NARROW_ROW / ZMI_CONV_PLACES];
    v->kernels->load(from, v->dtype, v->channels, here);
    for (int64_t i = 0; i < v->channels; i++) row[i * span + j] = here[i];
  }
  return true;
}

// One filter and one row of its kernel, of which the first number is the k-th: n places more in its range's sums, and in those before it.
static void narrow_filter(const zmi_convolution *v, const float *w, int64_t k, const float *row, bool there, int64_t span, int64_t n,
                          float *partial, float *total) {
  const int last = (int)v->a->space - 1;
  for (int64_t t = 0; t < v->kernel[last]; t++) {
    const float *from = row + (v->a->flip ? v->kernel[last] - 1 - t : t) * v->a->dilation[last];
    for (int64_t i = 0; i < v->channels; i++, k++) {
      if (k % ZMI_RANGE == 0) {
        for (int64_t p = 0; k > 0 && p < n; p++) total[p] = k == ZMI_RANGE ? partial[p] : total[p] + partial[p];
        memset(partial, 0, (size_t)n * sizeof *partial);
      }
      if (there) v->kernels->axpy(w[k], from + i * span, ZM_F32, n, partial);
    }
  }
}

// Places [o, o + n) of an output row, all filters.
static void narrow_places(const zmi_convolution *v, int64_t image, const int64_t *o, int64_t line, int64_t n) {
  _Alignas(64) float partial[NARROW_FILTERS][ZMI_CONV_PLACES], total[NARROW_FILTERS][ZMI_CONV_PLACES], row[NARROW_ROW];
  float out[ZMI_CONV_PLACES * NARROW_FILTERS];
  const int last = (int)v->a->space - 1;
  const int64_t taps = zmi_conv_taps(v), k = taps * v->channels, span = narrow_span(v, n);
  for (int64_t tap = 0; tap < taps; tap += v->kernel[last]) {
    const bool there = narrow_row(v, image, o, tap, span, row);
    for (int64_t f = 0; f < v->filters; f++)
      narrow_filter(v, (const float *)v->call->scratch + f * k, tap * v->channels, row, there, span, n, partial[f], total[f]);
  }
  for (int64_t p = 0; p < n; p++) {
    for (int64_t f = 0; f < v->filters; f++) out[p * v->filters + f] = k <= ZMI_RANGE ? partial[f][p] : total[f][p] + partial[f][p];
  }
  v->kernels->store(out, n * v->filters, (char *)v->call->dst[0] + (size_t)(line * v->filters) * zm_dtype_size(v->dtype), v->dtype);
}

static void narrow_run(const zmi_convolution *v, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; t++) {
    int64_t o[ZMI_CONV_SPACE], image, line, n = zmi_conv_row_tile(v, t, &image, o, &line);
    narrow_places(v, image, o, line, n);
  }
}

// ---- products of matrices ----

static size_t product_scratch(const zmi_convolution *v) {
  zmi_gemm g = gemm_of(v);
  return g.bytes_a + g.bytes_b;
}

static int64_t product_ready_tiles(const zmi_convolution *v) {
  zmi_gemm g = gemm_of(v);
  return zmi_gemm_pack_tiles(&g);
}

static void product_ready(const zmi_convolution *v, int64_t begin, int64_t end) {
  zmi_gemm g = gemm_of(v);
  zmi_gemm_pack(v->kernels, &g, v->call->scratch, begin, end);
}

static int64_t product_tiles(const zmi_convolution *v) {
  zmi_gemm g = gemm_of(v);
  return zmi_gemm_tiles(&g);
}

static void product_run(const zmi_convolution *v, int64_t begin, int64_t end) {
  zmi_gemm g = gemm_of(v);
  zmi_gemm_out out = {.kernels = v->kernels, .dst = v->call->dst[0], .dtype = v->dtype};
  zmi_gemm_run(&g, v->call->scratch, &out, begin, end);
}

// ---- products of a dilated x ----

static size_t no_scratch(const zmi_convolution *v) {
  (void)v;
  return 0;
}

static int64_t nothing_ready(const zmi_convolution *v) {
  (void)v;
  return 0;
}

// ---- stages ----

static bool always(const zmi_convolution *v) {
  (void)v;
  return true;
}

// The first way that suits a call is taken.
static const struct way {
  bool (*suits)(const zmi_convolution *v);
  size_t (*scratch)(const zmi_convolution *v);
  int64_t (*ready_tiles)(const zmi_convolution *v);
  void (*ready)(const zmi_convolution *v, int64_t begin, int64_t end);
  int64_t (*tiles)(const zmi_convolution *v);
  void (*run)(const zmi_convolution *v, int64_t begin, int64_t end);
} ways[] = {{is_depthwise, weight_scratch, weight_tiles, turn_weight, depthwise_tiles, depthwise_run},
            {is_narrow, weight_scratch, weight_tiles, narrow_weight, zmi_conv_row_tiles, narrow_run},
            {is_dilated, no_scratch, nothing_ready, NULL, zmi_conv_phase_tiles, zmi_conv_phase_run},
            {always, product_scratch, product_ready_tiles, product_ready, product_tiles, product_run}};

static const struct way *way_of(const zmi_convolution *v) {
  const struct way *w = ways;
  while (!w->suits(v)) w++;
  return w;
}

static size_t scratch(const zmi_call *c) {
  const zmi_convolution v = conv_of(c);
  return way_of(&v)->scratch(&v);
}

static int64_t ready_tiles(const zmi_call *c) {
  const zmi_convolution v = conv_of(c);
  return zmi_type_count(&c->out[0]->type) == 0 ? 0 : way_of(&v)->ready_tiles(&v);
}

static void ready_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_convolution v = conv_of(c);
  way_of(&v)->ready(&v, begin, end);
}

static int64_t tiles(const zmi_call *c) {
  const zmi_convolution v = conv_of(c);
  return zmi_type_count(&c->out[0]->type) == 0 ? 0 : way_of(&v)->tiles(&v);
}

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_convolution v = conv_of(c);
  way_of(&v)->run(&v, begin, end);
}

static zmi_convolution mended(const zmi_call *c) {
  zmi_convolution v = conv_of(c);
  v.between = way_of(&v)->suits == is_narrow;
  return v;
}

static int64_t mend_tiles(const zmi_call *c) {
  const zmi_convolution v = mended(c);
  return zmi_type_count(&c->out[0]->type) == 0 || is_depthwise(&v) ? 0 : zmi_conv_mend_tiles(&v);
}

static void mend_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_convolution v = mended(c);
  zmi_conv_mend(&v, begin, end);
}

// ---- shapes ----

// Sizes and factors stay far from where their products and sums overflow.
static bool sane(int64_t v, int64_t least) {
  return v >= least && v <= (INT64_C(1) << 30);
}

static zm_status check_attrs(const zmi_conv_attrs *a) {
  if (a->space < 1 || a->space > ZMI_CONV_SPACE)
    return zmi_fail(ZM_ERROR_ARGUMENT, "%lld spatial dimensions, expected 1 to 3", (long long)a->space);
  if (a->groups < 1) return zmi_fail(ZM_ERROR_ARGUMENT, "%lld groups, expected at least 1", (long long)a->groups);
  for (int d = 0; d < ZMI_CONV_SPACE; d++) {
    if (!sane(a->stride[d], 1) || !sane(a->dilation[d], 1) || !sane(a->input_dilation[d], 1)) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %d: stride %lld, dilation %lld and input dilation %lld must be at least 1", d,
                      (long long)a->stride[d], (long long)a->dilation[d], (long long)a->input_dilation[d]);
    }
    if (!sane(a->low[d], -(1 << 30)) || !sane(a->high[d], -(1 << 30))) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %d: padding %lld and %lld is out of bounds", d, (long long)a->low[d], (long long)a->high[d]);
    }
  }
  return ZM_OK;
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zmi_conv_attrs *a = attrs;
  char tx[128], tw[128];
  int64_t shape[ZM_MAX_RANK];
  zm_status status = zmi_check_operands(nin, in, 2);
  if (status == ZM_OK) status = check_attrs(a);
  if (status != ZM_OK) return status;
  const zmi_type *x = &in[0], *w = &in[1];
  const int rank = (int)a->space + 2;
  if (x->rank != rank || w->rank != rank || !zmi_dtype_is_float(x->dtype) || w->dtype != x->dtype) {
    return zmi_fail(ZM_ERROR_ARGUMENT,
                    "expected float arrays of rank %d and one dtype, x [N, ..., C] and weight [O, ..., C], found %s and %s", rank,
                    zmi_type_text(x, tx), zmi_type_text(w, tw));
  }
  const int64_t c = x->shape[rank - 1], o = w->shape[0];
  if (c % a->groups != 0 || o % a->groups != 0 || w->shape[rank - 1] != c / a->groups) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "%lld groups of %s need a weight of %lld channels and a multiple of %lld filters, found %s",
                    (long long)a->groups, zmi_type_text(x, tx), (long long)(c / a->groups), (long long)a->groups, zmi_type_text(w, tw));
  }
  shape[0] = x->shape[0];
  shape[rank - 1] = o;
  for (int d = 0; d < a->space; d++) {
    int64_t size = x->shape[d + 1], kernel = w->shape[d + 1];
    if (!sane(size, 0) || !sane(kernel, 1)) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %d of %s and %s: expected at least one place of the kernel", d, zmi_type_text(x, tx),
                      zmi_type_text(w, tw));
    }
    int64_t all = spread(size, a->input_dilation[d]) + a->low[d] + a->high[d], needed = spread(kernel, a->dilation[d]);
    if (all < needed) {
      return zmi_fail(ZM_ERROR_ARGUMENT, "axis %d: the kernel spans %lld places, the padded input has %lld", d, (long long)needed,
                      (long long)all);
    }
    shape[d + 1] = (all - needed) / a->stride[d] + 1;
  }
  return zmi_give(nout, out, x->dtype, rank, shape);
}

// ---- rules ----

static zm_array *apply(const zmi_conv_attrs *a, zm_array *x, zm_array *w);

// [A, ..., groups * B] -> [B, ..., groups * A]: channels and images change places within groups.
static zm_array *exchange(zm_array *x, int64_t groups) {
  int64_t shape[ZM_MAX_RANK];
  int axes[ZM_MAX_RANK];
  if (!x) return NULL;
  const int rank = x->type.rank;
  const int64_t a = x->type.shape[0], b = x->type.shape[rank - 1] / groups;
  memcpy(shape, x->type.shape, sizeof shape);
  shape[rank - 1] = groups;
  shape[rank] = b;
  axes[0] = rank;
  for (int i = 1; i < rank; i++) axes[i] = i;
  axes[rank] = 0;
  x = zm_reshape(x, shape, rank + 1);
  x = x ? zm_transpose(x, axes) : NULL;
  shape[0] = b;
  shape[rank - 1] = groups * a;
  return x ? zm_reshape(x, shape, rank) : NULL;
}

// [groups * A, ..., B] -> [groups * B, ..., A]
static zm_array *exchange_filters(zm_array *w, int64_t groups) {
  int64_t shape[ZM_MAX_RANK + 1];
  int axes[ZM_MAX_RANK];
  const int rank = w->type.rank;
  const int64_t a = w->type.shape[0] / groups, b = w->type.shape[rank - 1];
  shape[0] = groups;
  shape[1] = a;
  for (int i = 1; i < rank; i++) shape[i + 1] = w->type.shape[i];
  axes[0] = 0;
  axes[1] = rank;
  for (int i = 2; i < rank; i++) axes[i] = i;
  axes[rank] = 1;
  w = zm_reshape(w, shape, rank + 1);
  w = w ? zm_transpose(w, axes) : NULL;
  shape[0] = groups * b;
  for (int i = 2; i < rank; i++) shape[i - 1] = shape[i];
  shape[rank - 1] = a;
  return w ? zm_reshape(w, shape, rank) : NULL;
}

// dx[i] = the sum of g[o] w[k] over o stride + k dilation = i input_dilation + low: a convolution of g, dilated by the stride.
static zm_array *input_gradient(const zmi_node *n, zm_array *g) {
  const zmi_conv_attrs *a = (const zmi_conv_attrs *)(const void *)n->attrs.bytes;
  const zmi_type *x = &n->in[0]->type, *w = &n->in[1]->type;
  zmi_conv_attrs b = *a;
  b.flip = !a->flip;
  for (int d = 0; d < a->space; d++) {
    int64_t kernel = spread(w->shape[d + 1], a->dilation[d]);
    b.stride[d] = a->input_dilation[d];
    b.input_dilation[d] = a->stride[d];
    b.low[d] = kernel - 1 - a->low[d];
    b.high[d] = spread(x->shape[d + 1], a->input_dilation[d]) - 1 + kernel - spread(g->type.shape[d + 1], a->stride[d]) - b.low[d];
  }
  return apply(&b, g, exchange_filters(n->in[1], a->groups));
}

// dw[k] = the sum over o of g[o] x[o stride + k dilation - low]: a convolution of x with g, whose steps are the dilation of the first.
static zm_array *weight_gradient(const zmi_node *n, zm_array *g) {
  const zmi_conv_attrs *a = (const zmi_conv_attrs *)(const void *)n->attrs.bytes;
  const zmi_type *x = &n->in[0]->type, *w = &n->in[1]->type;
  int axes[ZM_MAX_RANK];
  int64_t start[ZM_MAX_RANK], step[ZM_MAX_RANK];
  zmi_conv_attrs b = *a;
  b.flip = 0;
  for (int d = 0; d < a->space; d++) {
    b.stride[d] = a->dilation[d];
    b.dilation[d] = a->stride[d];
    b.high[d] = spread(w->shape[d + 1], a->dilation[d]) - 1 + spread(g->type.shape[d + 1], a->stride[d]) -
                spread(x->shape[d + 1], a->input_dilation[d]) - a->low[d];
  }
  const int rank = x->rank;
  axes[0] = rank - 1;
  for (int i = 1; i < rank; i++) axes[i] = i;
  axes[rank - 1] = 0;
  zm_array *y = apply(&b, exchange(n->in[0], a->groups), zm_transpose(g, axes)); // [C / groups, kernel..., O]
  y = y ? zm_transpose(y, axes) : NULL;
  if (!y || !a->flip) return y;
  for (int i = 0; i < rank; i++) {
    bool turned = i > 0 && i < rank - 1;
    start[i] = turned ? w->shape[i] - 1 : 0;
    step[i] = turned ? -1 : 1;
  }
  return zmi_slice_exactly(y, start, step, w->shape);
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  if (!given[0]) return ZM_OK;
  bool empty = zmi_type_count(&given[0]->type) == 0 || zmi_type_count(&n->in[0]->type) == 0; // zero
  if (empty) return ZM_OK;
  if (wanted[0] && !(gradient[0] = input_gradient(n, given[0]))) return zm_last_status();
  if (wanted[1] && !(gradient[1] = weight_gradient(n, given[0]))) return zm_last_status();
  return ZM_OK;
}

static zm_status jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  const zmi_conv_attrs *a = (const zmi_conv_attrs *)(const void *)n->attrs.bytes;
  zm_array *x = tangent[0] ? apply(a, tangent[0], n->in[1]) : NULL, *w = tangent[1] ? apply(a, n->in[0], tangent[1]) : NULL;
  if ((tangent[0] && !x) || (tangent[1] && !w)) return zm_last_status();
  result[0] = x && w ? zm_add(x, w) : x ? x : w;
  return result[0] || !(x || w) ? ZM_OK : zm_last_status();
}

// Images of a batch are more images; weights of a batch are taken one after another.
static zm_status vmap(const zmi_node *n, int64_t size, zm_array *const *in, const bool *batched, zm_array **out) {
  return zmi_vmap_rows(n, size, in, batched, 1, out);
}

static const zmi_rules rules = {.vjp = vjp, .jvp = jvp, .vmap = vmap, .gradient = "all operands"};

const zmi_op zmi_op_conv = {.name = "conv",
                            .operands = "x weight",
                            .fields = fields,
                            .rounding = "as matmul of patches with weights, k through places of the kernel and channels; taps without an "
                                        "element add nothing; rounded once to the dtype",
                            .infer = infer,
                            .scratch = scratch,
                            .stages = {{ready_tiles, ready_run}, {tiles, run}, {mend_tiles, mend_run}},
                            .rules = &rules};

// ---- builders ----

static zm_array *apply(const zmi_conv_attrs *a, zm_array *x, zm_array *w) {
  zm_array *in[2] = {x, w};
  return zmi_present("conv", 2, in) ? zmi_apply1(&zmi_op_conv, a, sizeof *a, 2, in) : NULL;
}

zm_array *zm_conv_general(zm_array *x, zm_array *weight, const zm_conv_options *options) {
  const zm_conv_options none = {0}, *o = options ? options : &none;
  zm_array *in[2] = {x, weight};
  char text[128];
  if (!zmi_present("conv", 2, in)) return NULL;
  zmi_conv_attrs a = {.space = x->type.rank - 2, .groups = o->groups ? o->groups : 1, .flip = o->flip};
  if (a.space < 1 || a.space > ZMI_CONV_SPACE) {
    zmi_fail(ZM_ERROR_ARGUMENT, "conv: x must be [N, spatial..., C] with 1 to 3 spatial dimensions, found %s",
             zmi_type_text(&x->type, text));
    return NULL;
  }
  for (int d = 0; d < ZMI_CONV_SPACE; d++) {
    bool there = d < a.space;
    a.stride[d] = there && o->stride[d] ? o->stride[d] : 1;
    a.dilation[d] = there && o->dilation[d] ? o->dilation[d] : 1;
    a.input_dilation[d] = there && o->input_dilation[d] ? o->input_dilation[d] : 1;
    a.low[d] = there ? o->padding_low[d] : 0;
    a.high[d] = there ? o->padding_high[d] : 0;
  }
  zm_dtype dtype = zm_dtype_promote(x->type.dtype, weight->type.dtype);
  return apply(&a, zm_astype(x, dtype), zm_astype(weight, dtype));
}

static zm_array *plain(const char *name, int space, zm_array *x, zm_array *weight, const int64_t *stride, const int64_t *padding,
                       const int64_t *dilation, int64_t groups) {
  zm_conv_options o = {.groups = groups};
  char text[128];
  if (!zmi_present(name, 1, &x)) return NULL;
  if (x->type.rank != space + 2) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: x must have rank %d, found %s", name, space + 2, zmi_type_text(&x->type, text));
    return NULL;
  }
  for (int d = 0; d < space; d++) {
    o.stride[d] = stride ? stride[d] : 1;
    o.padding_low[d] = o.padding_high[d] = padding ? padding[d] : 0;
    o.dilation[d] = dilation ? dilation[d] : 1;
  }
  return zm_conv_general(x, weight, &o);
}

zm_array *zm_conv1d(zm_array *x, zm_array *weight, int64_t stride, int64_t padding, int64_t dilation, int64_t groups) {
  return plain("conv1d", 1, x, weight, &stride, &padding, &dilation, groups);
}

zm_array *zm_conv2d(zm_array *x, zm_array *weight, const int64_t *stride, const int64_t *padding, const int64_t *dilation, int64_t groups) {
  return plain("conv2d", 2, x, weight, stride, padding, dilation, groups);
}

zm_array *zm_conv3d(zm_array *x, zm_array *weight, const int64_t *stride, const int64_t *padding, const int64_t *dilation, int64_t groups) {
  return plain("conv3d", 3, x, weight, stride, padding, dilation, groups);
}

zm_array *zm_convolve(zm_array *a, zm_array *v, zm_convolve_mode mode) {
  zm_array *in[2] = {a, v};
  char text[128];
  if (!zmi_present("convolve", 2, in)) return NULL;
  for (int i = 0; i < 2; i++) {
    if (in[i]->type.rank == 1 && in[i]->type.shape[0] > 0) continue;
    zmi_fail(ZM_ERROR_ARGUMENT, "convolve: expected vectors of one element or more, found %s", zmi_type_text(&in[i]->type, text));
    return NULL;
  }
  if ((unsigned)mode > ZM_CONVOLVE_VALID) {
    zmi_fail(ZM_ERROR_ARGUMENT, "convolve: mode %d is none of full, same and valid", (int)mode);
    return NULL;
  }
  const zm_dtype dtype = zmi_at_least_float(zm_dtype_promote(a->type.dtype, v->type.dtype));
  zm_array *x = a->type.shape[0] < v->type.shape[0] ? v : a, *w = x == a ? v : a;
  const int64_t n = w->type.shape[0];
  zm_conv_options o = {.flip = true};
  o.padding_low[0] = mode == ZM_CONVOLVE_FULL ? n - 1 : mode == ZM_CONVOLVE_SAME ? n / 2 : 0;
  o.padding_high[0] = mode == ZM_CONVOLVE_FULL ? n - 1 : mode == ZM_CONVOLVE_SAME ? (n - 1) / 2 : 0;
  x = zm_expand_dims_axes(zm_astype(x, dtype), (int[]){0, 2}, 2);
  w = zm_expand_dims_axes(zm_astype(w, dtype), (int[]){0, 2}, 2);
  zm_array *y = x && w ? zm_conv_general(x, w, &o) : NULL;
  return y ? zm_squeeze_axes(y, (int[]){0, 2}, 2) : NULL;
}
