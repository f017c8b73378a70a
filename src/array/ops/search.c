// searchsorted: for each value the number of elements of a sorted row that are smaller (or, from the right, not larger).
// The row of a value: `sorted` is [n], or [batch, n] with values [batch, ...]. NaN is the largest.
#include "array/ops/ops.h"
#include <zmlx/ops.h>

#include <string.h>

typedef struct search_attrs {
  int64_t right;
} search_attrs;

static const zmi_field fields[] = {{"right", ZMI_FIELD_INT, offsetof(search_attrs, right), NULL}, {0}};

// Halving without branches: `size` elements are left from `at` on.
#define SEARCH(T, BEFORE)                                                                                                                  \
  static void search_##T(const void *sorted, int64_t n, const void *values, int64_t count, bool right, uint32_t *out) {                    \
    const T *x = sorted, *v = values;                                                                                                      \
    for (int64_t i = 0; i < count; i++) {                                                                                                  \
      int64_t at = 0, size = n;                                                                                                            \
      const T value = v[i];                                                                                                                \
      while (size > 0) {                                                                                                                   \
        const int64_t half = size / 2;                                                                                                     \
        const T other = x[at + half];                                                                                                      \
        const bool on = right ? !BEFORE(value, other) : BEFORE(other, value);                                                              \
        at = on ? at + half + 1 : at;                                                                                                      \
        size = on ? size - half - 1 : half;                                                                                                \
      }                                                                                                                                    \
      out[i] = (uint32_t)at;                                                                                                               \
    }                                                                                                                                      \
  }
#define LESS(a, b) ((a) < (b))
#define FLOAT_LESS(a, b) ((a) < (b) || ((b) != (b) && (a) == (a)))
SEARCH(uint8_t, LESS)
SEARCH(uint16_t, LESS)
SEARCH(uint32_t, LESS)
SEARCH(uint64_t, LESS)
SEARCH(int8_t, LESS)
SEARCH(int16_t, LESS)
SEARCH(int32_t, LESS)
SEARCH(int64_t, LESS)
SEARCH(float, FLOAT_LESS)

static void (*const searches[ZM_DTYPE_COUNT])(const void *sorted, int64_t n, const void *values, int64_t count, bool right,
                                              uint32_t *out) = {
    [ZM_BOOL] = search_uint8_t, [ZM_U8] = search_uint8_t, [ZM_U16] = search_uint16_t, [ZM_U32] = search_uint32_t,
    [ZM_U64] = search_uint64_t, [ZM_I8] = search_int8_t,  [ZM_I16] = search_int16_t,  [ZM_I32] = search_int32_t,
    [ZM_I64] = search_int64_t,  [ZM_F32] = search_float,
};

static void run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_type *x = &c->in[0]->type, *v = &c->in[1]->type;
  const size_t size = zm_dtype_size(x->dtype);
  const int64_t n = x->shape[x->rank - 1], all = zmi_type_count(v), rows = x->rank > 1 ? x->shape[0] : 1, row = all / rows;
  const int64_t last = ZMI_MIN(end * ZMI_TILE, all);
  for (int64_t i = begin * ZMI_TILE; i < last;) {
    const int64_t r = i / row, count = ZMI_MIN(last, (r + 1) * row) - i;
    searches[x->dtype]((const char *)c->src[0] + (size_t)(r * n) * size, n, (const char *)c->src[1] + (size_t)i * size, count,
                       ((const search_attrs *)c->attrs)->right, (uint32_t *)c->dst[0] + i);
    i += count;
  }
}

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  char one[128], other[128];
  (void)attrs;
  zm_status status = zmi_check_operands(nin, in, 2);
  if (status != ZM_OK) return status;
  if (in[0].rank != 1 && !(in[0].rank == 2 && in[1].rank > 0 && in[1].shape[0] == in[0].shape[0]))
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected a sorted row, found %s for values %s", zmi_type_text(&in[0], one),
                    zmi_type_text(&in[1], other));
  if (in[0].dtype != in[1].dtype || !searches[in[0].dtype])
    return zmi_fail(ZM_ERROR_ARGUMENT, "expected one dtype (floats as float32), found %s and %s", zm_dtype_name(in[0].dtype),
                    zm_dtype_name(in[1].dtype));
  if (in[0].shape[in[0].rank - 1] > UINT32_MAX) return zmi_fail(ZM_ERROR_ARGUMENT, "rows of more than 2^32 elements");
  return zmi_give(nout, out, ZM_U32, in[1].rank, in[1].shape);
}

// No vmap of its own: a batch goes slice by slice.
static const zmi_rules rules = {.gradient = "none: results are integers"};

const zmi_op zmi_op_searchsorted = {.name = "searchsorted",
                                    .operands = "sorted values",
                                    .fields = fields,
                                    .rounding = "exact; NaN is the largest",
                                    .infer = infer,
                                    .stages = {{zmi_element_tiles, run}},
                                    .rules = &rules};

zm_array *zm_searchsorted(zm_array *sorted, zm_array *values, bool right) {
  zm_array *in[2] = {sorted, values};
  if (!zmi_present("searchsorted", 2, in)) return NULL;
  zm_dtype dtype = zm_dtype_promote(sorted->type.dtype, values->type.dtype);
  if (zmi_dtype_is_float(dtype)) dtype = ZM_F32; // exact
  for (int i = 0; i < 2; i++) in[i] = zm_astype(in[i], dtype);
  return zmi_apply1(&zmi_op_searchsorted, &(search_attrs){right}, sizeof(search_attrs), 2, in);
}
