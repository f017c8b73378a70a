// Truth values in bits: eight a byte, the first in the lowest bit.
#include "catalog/ops.h"

static zmi_definition pack_bits_def = {.name = "pack_bits",
                                       .form = ZMI_FORM_ROWS,
                                       .inputs = "x",
                                       .outputs = "y",
                                       .source = "elements { s = sum((x != 0 ? 1 : 0) << i); }\ny = s;",
                                       .result = {ZM_U8},
                                       .codes = 3};
static zmi_definition unpack_bits_def = {.name = "unpack_bits",
                                         .form = ZMI_FORM_ELEMENTS,
                                         .inputs = "x place",
                                         .outputs = "y",
                                         .source = "y = int(x) >> int(place) & 1;",
                                         .result = {ZM_U8},
                                         .codes = 3};

zm_array *zm_pack_bits(zm_array *x) {
  if (!x || (x->type.dtype != ZM_BOOL && !zmi_cat_want_dtype("pack_bits", "x", x, ZM_U8))) return NULL;
  int64_t n = zm_array_size(x);
  if (n % 8 != 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "pack_bits: x: the number of elements must be a multiple of 8, found %lld", (long long)n);
    return NULL;
  }
  zm_array *eights = zm_astype(zmi_cat_reshape(x, 2, n / 8, (int64_t)8), ZM_U8);
  return zmi_definition_apply1(&pack_bits_def, &eights, 1, NULL, 0);
}

zm_array *zm_unpack_bits(zm_array *x) {
  if (!zmi_cat_want_dtype("unpack_bits", "x", x, ZM_U8)) return NULL;
  int64_t n = zm_array_size(x);
  zm_array *in[] = {zmi_cat_reshape(x, 2, n, (int64_t)1), zm_arange(0, 8, 1, ZM_U8)};
  return zmi_cat_reshape(zmi_definition_apply1(&unpack_bits_def, in, 2, NULL, 0), 1, 8 * n);
}

static zm_status pack_call(zm_array *const *in, int nin, const double *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_pack_bits(in[0]);
  return zmi_cat_status(out[0]);
}

static zm_status unpack_call(zm_array *const *in, int nin, const double *params, zm_array **out) {
  (void)nin, (void)params;
  out[0] = zm_unpack_bits(in[0]);
  return zmi_cat_status(out[0]);
}

static const zmi_entry entries[] = {
    {.name = "pack_bits",
     .formula = "byte b: the sum over i < 8 of (x[8 b + i] != 0) 2^i",
     .shapes = "x [...] -> [size / 8]",
     .dtypes = "bool, uint8 -> uint8",
     .gradient = "none: results are integers",
     .definition = &pack_bits_def,
     .sample = "x 1048576 bool",
     .call = pack_call},
    {.name = "unpack_bits",
     .formula = "y[8 b + i] = bit i of x[b]",
     .shapes = "x [...] -> [8 size]",
     .dtypes = "uint8 -> uint8",
     .gradient = "none: results are integers",
     .definition = &unpack_bits_def,
     .sample = "x 131072 uint8",
     .call = unpack_call},
};

ZMI_GROUP(bits, "Truth values in bits.");
