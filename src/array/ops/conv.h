// What the ways of a convolution share. Private to the ops of the array room.
#ifndef ZMI_CONV_H
#define ZMI_CONV_H

#include "array/ops/product.h"

enum { ZMI_CONV_SPACE = 3, ZMI_CONV_PLACES = 128 }; // most spatial dimensions; places of the last axis that go together

typedef struct zmi_conv_attrs {
  int64_t space, groups, flip;
  int64_t stride[ZMI_CONV_SPACE], low[ZMI_CONV_SPACE], high[ZMI_CONV_SPACE], dilation[ZMI_CONV_SPACE], input_dilation[ZMI_CONV_SPACE];
} zmi_conv_attrs;

// The call in numbers; dimensions of space that are not there are 1.
typedef struct zmi_convolution {
  const zmi_call *call;
  const zmi_conv_attrs *a;
  const zmi_kernels *kernels;
  zm_dtype dtype;
  int64_t batch, in[ZMI_CONV_SPACE], kernel[ZMI_CONV_SPACE], out[ZMI_CONV_SPACE];
  int64_t channels, filters, group_channels, group_filters; // C, O, C / groups, O / groups
  int64_t step[ZMI_CONV_SPACE];                             // of x, in elements
  bool between; // zeros between the elements of x are multiplied, too, not outside of it alone (for conv_mend.c)
} zmi_convolution;

// Where along axis d of x place `k` of the kernel lies for output `o`; -1: outside, or between the elements of a dilated x.
static inline int64_t zmi_conv_place(const zmi_convolution *v, int d, int64_t o, int64_t k) {
  const zmi_conv_attrs *a = v->a;
  int64_t p = o * a->stride[d] + (a->flip ? v->kernel[d] - 1 - k : k) * a->dilation[d] - a->low[d], apart = a->input_dilation[d];
  if (p < 0 || (apart != 1 && p % apart != 0)) return -1;
  if (apart != 1) p /= apart;
  return p < v->in[d] ? p : -1;
}

// The element of x at which place `tap` of the kernel's first `axes` axes lies, at the first one of the others; -1: outside.
static inline int64_t zmi_conv_element(const zmi_convolution *v, int64_t image, const int64_t *o, int64_t tap, int axes) {
  int64_t at = image * v->in[0] * v->step[0];
  for (int d = axes - 1; d >= 0; d--) {
    int64_t p = zmi_conv_place(v, d, o[d], tap % v->kernel[d]);
    tap /= v->kernel[d];
    if (p < 0) return -1;
    at += p * v->step[d];
  }
  return at;
}

// Where the channels of kernel place `tap` begin, or -1.
static inline int64_t zmi_conv_tap(const zmi_convolution *v, int64_t image, const int64_t *o, int64_t tap) {
  return zmi_conv_element(v, image, o, tap, ZMI_CONV_SPACE);
}

// The image of a line of the result, and its place there.
static inline int64_t zmi_conv_output(const zmi_convolution *v, int64_t line, int64_t *o) {
  for (int d = ZMI_CONV_SPACE - 1; d >= 0; d--) {
    o[d] = line % v->out[d];
    line /= v->out[d];
  }
  return line;
}

static inline int64_t zmi_conv_taps(const zmi_convolution *v) {
  return v->kernel[0] * v->kernel[1] * v->kernel[2];
}

// Rows of places along the last axis, cut.
static inline int64_t zmi_conv_row_tiles(const zmi_convolution *v) {
  const int64_t row = v->out[v->a->space - 1];
  return v->batch * v->out[0] * v->out[1] * v->out[2] / row * zmi_tiles_of(row, ZMI_CONV_PLACES);
}

// Where tile t begins, and how many places of the last axis it has.
static inline int64_t zmi_conv_row_tile(const zmi_convolution *v, int64_t t, int64_t *image, int64_t *o, int64_t *line) {
  const int64_t row = v->out[v->a->space - 1], cuts = zmi_tiles_of(row, ZMI_CONV_PLACES), first = t % cuts * ZMI_CONV_PLACES;
  *line = t / cuts * row + first;
  *image = zmi_conv_output(v, *line, o);
  return ZMI_MIN(row - first, ZMI_CONV_PLACES);
}

// ---- a dilated x as products (conv_phases.c) ----
int64_t zmi_conv_phase_tiles(const zmi_convolution *v);
void zmi_conv_phase_run(const zmi_convolution *v, int64_t begin, int64_t end);

// ---- taps that meet no element (conv_mend.c) ----
// They add nothing, whatever their weights. Products of zeros are the same with any finite weight, and NaN with others: results that are
// NaN where some tap meets nothing are looked at again after all others, so that finite weights pay nothing for this.
int64_t zmi_conv_mend_tiles(const zmi_convolution *v);
void zmi_conv_mend(const zmi_convolution *v, int64_t begin, int64_t end);

#endif
