// copy: the elements of a strided operand in row-major order. Lowering puts it where an op or an output needs contiguous memory.
#include "array/kernels.h"
#include "array/ops/ops.h"

#include <string.h>

enum { BLOCK = 64 }; // a transposing copy goes in squares of BLOCK x BLOCK elements

// A copy whose innermost dimension strides while another dimension is contiguous: in squares of the two, so that each cache line that is
// read is used while it is there.
typedef struct squares {
  zmi_walk walk;
  int down;           // the dimension that is contiguous in the source; the last one is contiguous in the result
  int64_t rows, cols; // squares along `down` and along the last dimension
  int64_t others;     // combinations of the other dimensions
} squares;

static bool squares_of(const zmi_walk *w, squares *s) {
  int last = w->rank - 1;
  if (w->rank < 2 || w->stride[last] == 1 || w->stride[last] == 0 || w->size[last] < 8) return false;
  *s = (squares){.walk = *w, .down = -1, .others = 1};
  for (int i = 0; i < last; i++) {
    if (w->stride[i] == 1 && w->size[i] >= 8) s->down = i;
  }
  if (s->down < 0) return false;
  for (int i = 0; i < last; i++) s->others *= i == s->down ? 1 : w->size[i];
  s->rows = zmi_tiles_of(w->size[s->down], BLOCK);
  s->cols = zmi_tiles_of(w->size[last], BLOCK);
  return true;
}

// Through a small square of its own: each line of memory is touched in one go, however its addresses collide in the cache.
#define TURN(bits)                                                                                                                         \
  typedef uint##bits##_t __attribute__((may_alias)) word##bits;                                                                            \
  static void turn##bits(const void *src, int64_t src_step, void *dst, int64_t dst_step, int64_t rows, int64_t cols) {                     \
    const word##bits *x = src;                                                                                                             \
    word##bits *out = dst, square[BLOCK][BLOCK];                                                                                           \
    for (int64_t j = 0; j < cols; j++) {                                                                                                   \
      for (int64_t i = 0; i < rows; i++) square[i][j] = x[i + j * src_step];                                                               \
    }                                                                                                                                      \
    for (int64_t i = 0; i < rows; i++) memcpy(out + i * dst_step, square[i], (size_t)cols * sizeof *out);                                  \
  }
TURN(8)
TURN(16)
TURN(32)
TURN(64)

static void (*const turns[])(const void *src, int64_t src_step, void *dst, int64_t dst_step, int64_t rows,
                             int64_t cols) = {[1] = turn8, [2] = turn16, [4] = turn32, [8] = turn64};

static void copy_square(const zmi_call *c, const squares *s, int64_t tile) {
  const zmi_walk *w = &s->walk;
  int last = w->rank - 1;
  int64_t width = (int64_t)zm_dtype_size(c->out[0]->type.dtype), dense[ZM_MAX_RANK], step = 1;
  for (int i = last; i >= 0; i--) {
    dense[i] = step;
    step *= w->size[i];
  }
  int64_t col = tile % s->cols * BLOCK, row = tile / s->cols % s->rows * BLOCK, other = tile / s->cols / s->rows;
  int64_t from = row + col * w->stride[last], to = row * dense[s->down] + col;
  for (int i = last - 1; i >= 0; i--) {
    if (i == s->down) continue;
    int64_t at = other % w->size[i];
    other /= w->size[i];
    from += at * w->stride[i];
    to += at * dense[i];
  }
  turns[width]((const char *)c->src[0] + from * width, w->stride[last], (char *)c->dst[0] + to * width, dense[s->down],
               ZMI_MIN(BLOCK, w->size[s->down] - row), ZMI_MIN(BLOCK, w->size[last] - col));
}

static int64_t copy_tiles(const zmi_call *c) {
  squares s;
  zmi_walk w = zmi_walk_of(c->in[0]);
  int64_t count = zmi_type_count(&c->out[0]->type);
  return count > 0 && squares_of(&w, &s) ? s.others * s.rows * s.cols : zmi_tiles_of(count, ZMI_TILE);
}

static void copy_run(const zmi_call *c, int64_t begin, int64_t end) {
  squares s;
  zmi_walk w = zmi_walk_of(c->in[0]);
  if (squares_of(&w, &s)) {
    for (int64_t tile = begin; tile < end; tile++) copy_square(c, &s, tile);
    return;
  }
  size_t size = zm_dtype_size(c->out[0]->type.dtype);
  int64_t first = begin * ZMI_TILE, last = ZMI_MIN(end * ZMI_TILE, zmi_type_count(&c->out[0]->type));
  zmi_gather(&w, c->src[0], size, first, last - first, (char *)c->dst[0] + (size_t)first * size);
}

static zm_status copy_infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  (void)attrs;
  zm_status status = zmi_check_operands(nin, in, 1);
  return status == ZM_OK ? zmi_give(nout, out, in[0].dtype, in[0].rank, in[0].shape) : status;
}

static zm_status copy_vjp(const zmi_node *n, zm_array *const *given, const bool *wanted, zm_array **gradient) {
  (void)n, (void)wanted;
  gradient[0] = given[0];
  return ZM_OK;
}

static zm_status copy_jvp(const zmi_node *n, zm_array *const *tangent, zm_array **result) {
  (void)n;
  result[0] = tangent[0];
  return ZM_OK;
}

static const zmi_rules copy_rules = {.vjp = copy_vjp, .jvp = copy_jvp, .vmap = zmi_vmap_elementwise, .gradient = "x"};

const zmi_op zmi_op_copy = {.name = "copy",
                            .operands = "x",
                            .rounding = "exact",
                            .flags = ZMI_OP_STRIDED,
                            .infer = copy_infer,
                            .device = zmi_copy_device,
                            .stages = {{copy_tiles, copy_run}},
                            .rules = &copy_rules};

zm_array *zm_contiguous(zm_array *a) {
  if (!zmi_present("contiguous", 1, &a)) return NULL;
  // Only views can be anything else.
  return a->node && (a->node->op->flags & (ZMI_OP_VIEW | ZMI_OP_ALIAS)) ? zmi_apply1(&zmi_op_copy, NULL, 0, 1, &a) : a;
}
