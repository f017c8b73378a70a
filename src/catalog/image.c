// Images [N, H, W, C]: bilinear resizing with half-pixel centers, and a depthwise convolution with 3 x 3 taps.
#include "catalog/ops.h"

#include <string.h>

// ---- resize_bilinear, and its adjoint: from the larger picture's gradient back to the smaller one ----

typedef struct resize_attrs {
  int64_t height, width, adjoint; // of the result
} resize_attrs;

static const zmi_field fields[] = {{"height", ZMI_FIELD_INT, offsetof(resize_attrs, height), NULL},
                                   {"width", ZMI_FIELD_INT, offsetof(resize_attrs, width), NULL},
                                   {"adjoint", ZMI_FIELD_INT, offsetof(resize_attrs, adjoint), NULL},
                                   {0}};

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const resize_attrs *a = attrs;
  zm_status status = zmi_want_operands(nin, in, 1, 1);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[0], 4, "[N, H, W, C]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[0]);
  if (status != ZM_OK) return status;
  if (a->height < 1 || a->width < 1 || in[0].shape[1] < 1 || in[0].shape[2] < 1) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "x: no side of a picture may be empty: %lld x %lld to %lld x %lld", (long long)in[0].shape[1],
                    (long long)in[0].shape[2], (long long)a->height, (long long)a->width);
  }
  *nout = 1;
  out[0] = zmi_type_of(in[0].dtype, 4, (int64_t[]){in[0].shape[0], a->height, a->width, in[0].shape[3]});
  size_t bytes;
  return zmi_type_bytes(&out[0], &bytes) ? ZM_OK : zmi_fail(ZM_ERROR_ARGUMENT, "x: the result is too large");
}

// Where result `i` of `to` lies between two of `from`.
typedef struct between {
  int64_t low, high;
  float weight; // of high
} between;

static between place(int64_t i, int64_t from, int64_t to) {
  float at = ((float)i + 0.5f) * ((float)from / (float)to) - 0.5f;
  int64_t low = (int64_t)at - (at < (float)(int64_t)at);
  between b = {low, low + 1, at - (float)low};
  b.low = ZMI_MIN(ZMI_MAX(b.low, 0), from - 1);
  b.high = ZMI_MIN(ZMI_MAX(b.high, 0), from - 1);
  return b;
}

enum { CHANNELS = 128 };

// One row of the result at a time.
static void forward_row(const zmi_call *c, int64_t image, int64_t y) {
  const zmi_type *from = &c->in[0]->type, *to = &c->out[0]->type;
  int64_t h = from->shape[1], w = from->shape[2], channels = from->shape[3], width = to->shape[2];
  zm_dtype dtype = from->dtype;
  between v = place(y, h, to->shape[1]);
  float corner[4][CHANNELS], sum[CHANNELS];
  for (int64_t x = 0; x < width; x++) {
    between u = place(x, w, width);
    int64_t at[4] = {v.low * w + u.low, v.low * w + u.high, v.high * w + u.low, v.high * w + u.high};
    float k[4] = {(1 - v.weight) * (1 - u.weight), (1 - v.weight) * u.weight, v.weight * (1 - u.weight), v.weight * u.weight};
    for (int64_t first = 0; first < channels; first += CHANNELS) {
      int64_t n = ZMI_MIN(channels - first, CHANNELS);
      for (int i = 0; i < 4; i++) {
        c->kernels->load(zmi_at(c->src[0], dtype, (image * h * w + at[i]) * channels + first), dtype, n, corner[i]);
      }
      for (int64_t i = 0; i < n; i++) sum[i] = corner[0][i] * k[0] + corner[1][i] * k[1] + corner[2][i] * k[2] + corner[3][i] * k[3];
      c->kernels->store(sum, n, zmi_at(c->dst[0], dtype, ((image * to->shape[1] + y) * width + x) * channels + first), dtype);
    }
  }
}

static int64_t forward_tiles(const zmi_call *c) {
  return ((const resize_attrs *)c->attrs)->adjoint ? 0 : c->out[0]->type.shape[0] * c->out[0]->type.shape[1];
}

static void forward_run(const zmi_call *c, int64_t begin, int64_t end) {
  int64_t height = c->out[0]->type.shape[1];
  for (int64_t t = begin; t < end; t++) forward_row(c, t / height, t % height);
}

// The adjoint: a tile is one picture and a few channels, float32 sums in the order of the gradient's places.
static int64_t channel_tiles(const zmi_call *c) {
  return (c->out[0]->type.shape[3] + CHANNELS - 1) / CHANNELS;
}

static size_t scratch(const zmi_call *c) {
  const zmi_type *t = &c->out[0]->type;
  if (!((const resize_attrs *)c->attrs)->adjoint) return 0;
  return (size_t)zmi_type_count(t) * sizeof(float);
}

static int64_t adjoint_tiles(const zmi_call *c) {
  return ((const resize_attrs *)c->attrs)->adjoint ? c->out[0]->type.shape[0] * channel_tiles(c) : 0;
}

static void adjoint_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_type *from = &c->in[0]->type, *to = &c->out[0]->type;
  int64_t h = to->shape[1], w = to->shape[2], channels = to->shape[3], height = from->shape[1], width = from->shape[2];
  zm_dtype dtype = to->dtype;
  float g[CHANNELS];
  for (int64_t t = begin; t < end; t++) {
    int64_t image = t / channel_tiles(c), first = t % channel_tiles(c) * CHANNELS, n = ZMI_MIN(channels - first, CHANNELS);
    float *sum = (float *)c->scratch + image * h * w * channels;
    for (int64_t p = 0; p < h * w; p++) memset(sum + p * channels + first, 0, (size_t)n * sizeof *sum);
    for (int64_t y = 0; y < height; y++) {
      between v = place(y, h, height);
      for (int64_t x = 0; x < width; x++) {
        between u = place(x, w, width);
        int64_t at[4] = {v.low * w + u.low, v.low * w + u.high, v.high * w + u.low, v.high * w + u.high};
        float k[4] = {(1 - v.weight) * (1 - u.weight), (1 - v.weight) * u.weight, v.weight * (1 - u.weight), v.weight * u.weight};
        c->kernels->load(zmi_at(c->src[0], dtype, ((image * height + y) * width + x) * channels + first), dtype, n, g);
        for (int i = 0; i < 4; i++) {
          float *dst = sum + at[i] * channels + first;
          for (int64_t j = 0; j < n; j++) dst[j] += g[j] * k[i];
        }
      }
    }
    for (int64_t p = 0; p < h * w; p++) {
      c->kernels->store(sum + p * channels + first, n, zmi_at(c->dst[0], dtype, (image * h * w + p) * channels + first), dtype);
    }
  }
}

static zm_status vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  resize_attrs a;
  memcpy(&a, n->attrs.bytes, sizeof a);
  if (!given[0] || !wanted[0]) return ZM_OK;
  a = (resize_attrs){n->in[0]->type.shape[1], n->in[0]->type.shape[2], !a.adjoint};
  gradient[0] = zmi_cat_apply1(&zmi_op_resize_bilinear, &a, sizeof a, 1, given);
  return zmi_cat_status(gradient[0]);
}

static const zmi_rules rules = {.vjp = vjp, .vmap = zmi_cat_vmap_rows, .gradient = "x"};

const zmi_op zmi_op_resize_bilinear = {
    .name = "resize_bilinear",
    .operands = "x",
    .fields = fields,
    .rounding =
        "Places, weights and the sum of four products, from left to right, in float32; rounded once. The adjoint adds up in float32 in the "
        "order of the places.",
    .infer = infer,
    .scratch = scratch,
    .stages = {{forward_tiles, forward_run}, {adjoint_tiles, adjoint_run}},
    .rules = &rules,
};

zm_array *zm_resize_bilinear(zm_array *x, int64_t height, int64_t width) {
  resize_attrs a = {height, width, 0};
  if (!zmi_cat_want_float("resize_bilinear", "x", x)) return NULL;
  return zmi_cat_apply1(&zmi_op_resize_bilinear, &a, sizeof a, 1, &x);
}

// ---- depthwise_conv_3x3: x [N, H, W, C], w [3, 3, C] ----

static zm_status conv_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_want_operands(nin, in, 2, 2);
  if (status == ZM_OK) status = zmi_want_rank("x", &in[0], 4, "[N, H, W, C]");
  if (status == ZM_OK) status = zmi_want_float("x", &in[0]);
  if (status == ZM_OK) status = zmi_want_rank("w", &in[1], 3, "[3, 3, C]");
  if (status == ZM_OK) status = zmi_want_float("w", &in[1]);
  if (status == ZM_OK) status = zmi_want_dim("w", &in[1], 0, 3, "taps");
  if (status == ZM_OK) status = zmi_want_dim("w", &in[1], 1, 3, "taps");
  if (status == ZM_OK) status = zmi_want_dim("w", &in[1], 2, in[0].shape[3], "channels of x");
  if (status != ZM_OK) return status;
  *nout = 1;
  out[0] = in[0];
  return ZM_OK;
}

static int64_t conv_tiles(const zmi_call *c) {
  return c->out[0]->type.shape[0] * c->out[0]->type.shape[1];
}

static void conv_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_type *t = &c->in[0]->type;
  int64_t h = t->shape[1], w = t->shape[2], channels = t->shape[3];
  float tap[9][CHANNELS], value[CHANNELS], sum[CHANNELS];
  for (int64_t first = 0; first < channels; first += CHANNELS) {
    int64_t n = ZMI_MIN(channels - first, CHANNELS);
    for (int i = 0; i < 9; i++) {
      c->kernels->load(zmi_at(c->src[1], c->in[1]->type.dtype, i * channels + first), c->in[1]->type.dtype, n, tap[i]);
    }
    for (int64_t row = begin; row < end; row++) {
      int64_t image = row / h, y = row % h;
      for (int64_t x = 0; x < w; x++) {
        memset(sum, 0, (size_t)n * sizeof *sum);
        for (int i = 0; i < 9; i++) {
          int64_t iy = y + i / 3 - 1, ix = x + i % 3 - 1;
          if (iy < 0 || iy >= h || ix < 0 || ix >= w) continue;
          c->kernels->load(zmi_at(c->src[0], t->dtype, ((image * h + iy) * w + ix) * channels + first), t->dtype, n, value);
          c->kernels->multiply_add(tap[i], value, n, sum);
        }
        c->kernels->store(sum, n, zmi_at(c->dst[0], t->dtype, (row * w + x) * channels + first), t->dtype);
      }
    }
  }
}

// Nine shifted pictures times their taps.
static zm_status conv_composed(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  const int64_t *n = in[0]->type.shape;
  zm_array *x = zm_astype(in[0], ZM_F32), *w = zm_astype(in[1], ZM_F32), *sum = NULL;
  zm_array *row = zm_full(0, ZM_F32, (int64_t[]){n[0], 1, n[2], n[3]}, 4),
           *column = zm_full(0, ZM_F32, (int64_t[]){n[0], n[1] + 2, 1, n[3]}, 4);
  x = zm_concatenate((zm_array *[]){row, x, row}, 3, 1);
  x = zm_concatenate((zm_array *[]){column, x, column}, 3, 2);
  for (int i = 0; i < 9 && x; i++) {
    zm_array *part = zmi_cat_part(zmi_cat_part(x, 1, i / 3, n[1]), 2, i % 3, n[2]);
    zm_array *product = zm_multiply(part, zmi_cat_reshape(zmi_cat_part(zmi_cat_part(w, 0, i / 3, 1), 1, i % 3, 1), 1, n[3]));
    sum = sum ? zm_add(sum, product) : product;
  }
  out[0] = sum ? zm_astype(sum, in[0]->type.dtype) : NULL;
  return zmi_cat_status(out[0]);
}

static zm_status conv_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  return zmi_cat_vjp_by(conv_composed, NULL, n, given, wanted, gradient);
}

static const zmi_rules conv_rules = {.vjp = conv_vjp, .vmap = zmi_cat_vmap_rows, .gradient = "x w"};

const zmi_op zmi_op_depthwise_conv_3x3 = {
    .name = "depthwise_conv_3x3",
    .operands = "x w",
    .rounding = "fma in float32 over the taps inside the picture, row after row from +0; rounded once",
    .infer = conv_infer,
    .stages = {{conv_tiles, conv_run}},
    .rules = &conv_rules,
};

zm_array *zm_depthwise_conv_3x3(zm_array *x, zm_array *w) {
  if (!zmi_cat_want_float("depthwise_conv_3x3", "x", x) || !zmi_cat_want_float("depthwise_conv_3x3", "w", w)) return NULL;
  return zmi_cat_apply1(&zmi_op_depthwise_conv_3x3, NULL, 0, 2, (zm_array *[]){x, w});
}

static zm_status resize_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin;
  out[0] = zm_resize_bilinear(in[0], params[0].whole, params[1].whole);
  return zmi_cat_status(out[0]);
}

static zm_status conv_call(zm_array *const *in, int nin, const zmi_given *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_depthwise_conv_3x3(in[0], in[1]);
  return zmi_cat_status(out[0]);
}

static const zmi_entry entries[] = {
    {.name = "resize_bilinear",
     .formula = "the four neighbours of ((y + 1/2) H / height - 1/2, (x + 1/2) W / width - 1/2), clamped to the picture, by their weights",
     .shapes = "x [N, H, W, C] -> [N, height, width, C]",
     .gradient = "x",
     .parameters = "height=64 integer 1.., width=64 integer 1..",
     .sample = "x 1 128 128 32",
     .call = resize_call},
    {.name = "depthwise_conv_3x3",
     .formula = "sum over 3 x 3 taps of x[y + dy, x + dx] w[1 + dy, 1 + dx], zeros around the picture",
     .shapes = "x [N, H, W, C], w [3, 3, C] -> [N, H, W, C]",
     .gradient = "x w",
     .sample = "x 1 64 64 64; w 3 3 64",
     .call = conv_call},
};

ZMI_GROUP(image, "Images [N, H, W, C].");
