// Runs kernels of the kernel language over the operands of a call: strided and broadcast operands are walked without copies where their
// innermost steps are 0 or 1, and gathered in pieces that stay in the first-level cache elsewhere.
#include "array/ops/kernel.h"

#include <string.h>

// ---- all operands walked together ----

// Dimensions of the result after those that step together in every operand are merged.
typedef struct joint {
  int rank, nin;
  int64_t size[ZM_MAX_RANK];
  int64_t stride[ZMI_MAX_IN][ZM_MAX_RANK];
} joint;

static joint join(const zmi_call *c, const zmi_type *whole, int dims) {
  joint j = {.nin = c->nin};
  for (int d = 0; d < dims; d++) {
    const int64_t size = whole->shape[d];
    if (size == 1) continue;
    bool merges = j.rank > 0;
    for (int k = 0; k < c->nin && merges; k++) merges = j.stride[k][j.rank - 1] == c->in[k]->stride[d] * size;
    if (merges) {
      j.size[j.rank - 1] *= size;
    } else {
      j.size[j.rank++] = size;
    }
    for (int k = 0; k < c->nin; k++) j.stride[k][j.rank - 1] = c->in[k]->stride[d];
  }
  return j;
}

// Where operands stand at a place of the walk.
typedef struct cursor {
  int64_t at[ZM_MAX_RANK];
  int64_t offset[ZMI_MAX_IN]; // in elements, without the innermost dimension's part
} cursor;

static void seek(const joint *j, int64_t place, cursor *c) {
  memset(c, 0, sizeof *c);
  for (int d = j->rank - 1; d >= 0; d--) {
    c->at[d] = place % j->size[d];
    place /= j->size[d];
    if (d == j->rank - 1) continue;
    for (int k = 0; k < j->nin; k++) c->offset[k] += c->at[d] * j->stride[k][d];
  }
}

// To the beginning of the next innermost run.
static void next_run(const joint *j, cursor *c) {
  c->at[j->rank - 1] = 0;
  for (int d = j->rank - 2; d >= 0; d--) {
    for (int k = 0; k < j->nin; k++) c->offset[k] += j->stride[k][d];
    if (++c->at[d] < j->size[d]) return;
    for (int k = 0; k < j->nin; k++) c->offset[k] -= j->size[d] * j->stride[k][d];
    c->at[d] = 0;
  }
}

static const void *element(const zmi_call *c, int k, int64_t index) {
  return (const char *)c->src[k] + index * (int64_t)zm_dtype_size(c->in[k]->type.dtype);
}

// What computes n elements, and where it finds what it needs.
typedef struct worker {
  zmi_elements_fn run;
  const void *user;
} worker;

static zmi_instance *instance_of(const zmi_call *c) {
  return zmi_bound_of(c->owner)->instance;
}

static const double *params_of(const zmi_call *c) {
  return ((const zmi_kernel_attrs *)c->attrs)->param;
}

static int stream_of(const zmi_call *c) {
  return zmi_streams(c) ? ZMI_SHAPE_STREAM : 0;
}

// Runs may be short: stores past the caches are ordered once, behind all of them.
static void end_stream(int stream) {
  if (stream) zmi_copied_past();
}

static int shape_class(const zmi_call *c) {
  return zmi_shape_class(ZMI_FORM_ELEMENTS, zmi_type_count(&c->out[0]->type), 0);
}

// ---- elements ----

enum { SHORT_RUN = 64 }; // innermost runs shorter than this are gathered: a call costs more than a copy

// Code that asks for its place sees it from the start of the array: one call does all.
static bool asks_for_place(const zmi_code *code) {
  for (size_t i = 0; i < code->count; i++) {
    if (code->insts[i].op == ZMI_K_PLACE) return true;
  }
  return false;
}

// Calls that are tuned are shared in few pieces, each of as many tiles as come to it.
static int64_t pieces_of(const zmi_call *c, int64_t tiles) {
  const int64_t pieces = zmi_pieces_of(c->attrs);
  return pieces > 0 ? ZMI_MIN(pieces, tiles) : tiles;
}

static int64_t first_tile(const zmi_call *c, int64_t tiles, int64_t piece) {
  const int64_t pieces = pieces_of(c, tiles);
  return pieces == tiles ? piece : tiles / pieces * piece + tiles % pieces * piece / pieces;
}

int64_t zmi_kernel_elements_tiles(const zmi_call *c) {
  const int64_t tiles = pieces_of(c, zmi_element_tiles(c));
  return tiles > 1 && asks_for_place(zmi_instance_code(instance_of(c))) ? 1 : tiles;
}

// Whether calls can read the operands where they are.
static bool is_direct(const zmi_call *c, const joint *j) {
  if (j->rank > 1 && j->size[j->rank - 1] < SHORT_RUN) return false;
  for (int k = 0; k < c->nin && j->rank > 0; k++) {
    const int64_t step = j->stride[k][j->rank - 1];
    if (step != 0 && step != 1) return false;
  }
  return true;
}

// Code that asks for its place and cannot read its operands where they are: they are copied as a whole.
size_t zmi_kernel_elements_scratch(const zmi_call *c) {
  const zmi_type *whole = &c->out[0]->type;
  const int64_t count = zmi_type_count(whole);
  size_t bytes = 0;
  if (count == 0 || !asks_for_place(zmi_instance_code(instance_of(c)))) return 0;
  const joint j = join(c, whole, whole->rank);
  if (j.rank <= 1 && is_direct(c, &j)) return 0;
  for (int k = 0; k < c->nin; k++) bytes += zmi_align64((size_t)count * zm_dtype_size(c->in[k]->type.dtype));
  return bytes;
}

static void run_copied(const zmi_call *c, int shape) {
  const int64_t count = zmi_type_count(&c->out[0]->type);
  const void *in[ZMI_MAX_IN];
  int step[ZMI_MAX_IN];
  char *place = c->scratch;
  for (int k = 0; k < c->nin; k++) {
    const zmi_walk w = zmi_walk_of(c->in[k]);
    const size_t size = zm_dtype_size(c->in[k]->type.dtype);
    zmi_gather(&w, c->src[k], size, 0, count, place);
    in[k] = place;
    step[k] = 1;
    place += zmi_align64((size_t)count * size);
  }
  zmi_instance_elements(instance_of(c), c->kernels, shape, count, in, step, params_of(c), c->dst);
}

static void outputs_at(const zmi_call *c, int64_t at, void **out) {
  for (int o = 0; o < c->nout; o++) out[o] = (char *)c->dst[o] + at * (int64_t)zm_dtype_size(c->out[o]->type.dtype);
}

// Elements [first, last) by whole innermost runs.
static void run_direct(const zmi_call *c, const joint *j, const worker *w, int64_t first, int64_t last) {
  const void *in[ZMI_MAX_IN];
  void *out[ZMI_MAX_OUT];
  int step[ZMI_MAX_IN];
  const int inner = j->rank - 1;
  cursor at;
  seek(j, first, &at);
  for (int k = 0; k < c->nin; k++) step[k] = (int)(j->rank ? j->stride[k][inner] : 0);
  while (first < last) {
    const int64_t done = j->rank ? at.at[inner] : 0, n = j->rank ? ZMI_MIN(j->size[inner] - done, last - first) : 1;
    for (int k = 0; k < c->nin; k++) in[k] = element(c, k, at.offset[k] + done * step[k]);
    outputs_at(c, first, out);
    w->run(w->user, c, n, in, step, out);
    first += n;
    if (first < last) next_run(j, &at);
  }
}

// Pieces of ZMI_CHUNK elements; operands that are not dense or one element are gathered.
static void run_gathered(const zmi_call *c, const worker *w, int64_t first, int64_t last) {
  enum { MOST = 32 }; // gathered operands with a buffer on the stack
  uint64_t raw[MOST][ZMI_CHUNK / 2];
  zmi_reader r[ZMI_MAX_IN];
  const void *in[ZMI_MAX_IN];
  void *out[ZMI_MAX_OUT];
  int step[ZMI_MAX_IN], gathered = 0, buffer[ZMI_MAX_IN];
  for (int k = 0; k < c->nin; k++) {
    r[k] = zmi_reader_of(c, k);
    const bool single = !r[k].direct && r[k].walk.rank == 1 && r[k].walk.stride[0] == 0;
    step[k] = !single;
    buffer[k] = single || r[k].direct ? -1 : gathered++;
  }
  // More than there are buffers for share them by smaller pieces.
  const int64_t each = gathered <= MOST ? ZMI_CHUNK / 2 : ZMI_CHUNK / 4;
  for (int64_t n; first < last; first += n) {
    n = ZMI_MIN(each, last - first);
    for (int k = 0; k < c->nin; k++) {
      if (!step[k])
        in[k] = r[k].src;
      else
        in[k] = zmi_read(&r[k], first, n, buffer[k] < 0 ? NULL : (void *)(&raw[0][0] + buffer[k] * each));
    }
    outputs_at(c, first, out);
    w->run(w->user, c, n, in, step, out);
  }
}

void zmi_run_elements(const zmi_call *c, int64_t first, int64_t last, zmi_elements_fn run, const void *user) {
  const zmi_type *whole = &c->out[0]->type;
  const joint j = join(c, whole, whole->rank);
  const worker w = {run, user};
  if (is_direct(c, &j))
    run_direct(c, &j, &w, first, last);
  else
    run_gathered(c, &w, first, last);
}

static void run_instance(const void *user, const zmi_call *c, int64_t n, const void *const *in, const int *step, void *const *out) {
  zmi_instance_elements(instance_of(c), c->kernels, *(const int *)user, n, in, step, params_of(c), out);
}

void zmi_kernel_elements_run(const zmi_call *c, int64_t begin, int64_t end) {
  const int64_t count = zmi_type_count(&c->out[0]->type);
  const bool one_call = zmi_kernel_elements_tiles(c) == 1;
  const int64_t tiles = zmi_element_tiles(c), first = first_tile(c, tiles, begin), last = first_tile(c, tiles, end);
  const int stream = stream_of(c), shape = shape_class(c) + stream;
  if (c->scratch)
    run_copied(c, shape);
  else
    zmi_run_elements(c, first * ZMI_TILE, one_call ? count : ZMI_MIN(last * ZMI_TILE, count), run_instance, &shape);
  end_stream(stream);
}

// ---- rows ----

enum { ROW_TILE = 16384 }; // elements of the rows of one tile

typedef struct rows_shape {
  const zmi_type *whole;
  int64_t rows, d;
  uint64_t per_row;    // operands
  size_t gather_bytes; // of the operands whose last axis strides, for one row
  bool gather[ZMI_MAX_IN];
} rows_shape;

static rows_shape shape_of(const zmi_call *c) {
  rows_shape s = {.per_row = (uint64_t)((const zmi_kernel_attrs *)c->attrs)->in_per_row};
  for (int k = c->nin - 1; k >= 0; k--) {
    if (!(s.per_row >> k & 1)) s.whole = &c->in[k]->type;
  }
  s.d = s.whole->shape[s.whole->rank - 1];
  s.rows = 1;
  for (int i = 0; i < s.whole->rank - 1; i++) s.rows *= s.whole->shape[i];
  for (int k = 0; k < c->nin; k++) {
    if (s.per_row >> k & 1 || s.d <= 1) continue;
    const int64_t step = c->in[k]->stride[c->in[k]->type.rank - 1];
    s.gather[k] = step != 0 && step != 1;
    if (s.gather[k]) s.gather_bytes += zmi_align64((size_t)s.d * zm_dtype_size(c->in[k]->type.dtype));
  }
  return s;
}

size_t zmi_kernel_rows_scratch(const zmi_call *c) {
  const rows_shape s = shape_of(c);
  return s.gather_bytes * (size_t)zmi_lane_count(s.rows);
}

static int64_t rows_of_tile(const rows_shape *s) {
  return ZMI_MAX(1, ROW_TILE / ZMI_MAX(1, s->d));
}

int64_t zmi_kernel_rows_tiles(const zmi_call *c) {
  const rows_shape s = shape_of(c);
  return s.gather_bytes ? zmi_lane_count(s.rows) : pieces_of(c, zmi_tiles_of(s.rows, rows_of_tile(&s)));
}

// Rows [first, last); `buffer` holds gathered rows.
static void run_rows(const zmi_call *c, const rows_shape *s, int64_t first, int64_t last, char *buffer) {
  const zmi_instance *x = instance_of(c);
  const joint j = join(c, s->whole, s->whole->rank - 1);
  const int inner = j.rank - 1, shape = zmi_shape_class(ZMI_FORM_ROWS, s->rows * s->d, s->d) + stream_of(c);
  const void *in[ZMI_MAX_IN];
  void *out[ZMI_MAX_OUT];
  int step[ZMI_MAX_IN];
  int64_t row_stride[ZMI_MAX_IN];
  const uint64_t per_row = (uint64_t)((const zmi_kernel_attrs *)c->attrs)->per_row;
  for (int k = 0; k < c->nin; k++) {
    row_stride[k] = j.rank ? j.stride[k][inner] : 0;
    step[k] = s->per_row >> k & 1 || s->d <= 1 ? 0 : c->in[k]->stride[c->in[k]->type.rank - 1] != 0;
  }
  cursor at;
  seek(&j, first, &at);
  while (first < last) {
    const int64_t done = j.rank ? at.at[inner] : 0;
    int64_t n = j.rank ? ZMI_MIN(j.size[inner] - done, last - first) : 1;
    if (s->gather_bytes) n = 1;
    char *place = buffer;
    for (int k = 0; k < c->nin; k++) {
      in[k] = element(c, k, at.offset[k] + done * row_stride[k]);
      if (!s->gather[k]) continue;
      const zmi_walk line = {.rank = 1, .size = {s->d}, .stride = {c->in[k]->stride[c->in[k]->type.rank - 1]}};
      const size_t size = zm_dtype_size(c->in[k]->type.dtype);
      zmi_gather(&line, in[k], size, 0, s->d, place);
      in[k] = place;
      place += zmi_align64((size_t)s->d * size);
    }
    for (int o = 0; o < c->nout; o++) {
      const int64_t index = first * (per_row >> o & 1 ? 1 : s->d);
      out[o] = (char *)c->dst[o] + index * (int64_t)zm_dtype_size(c->out[o]->type.dtype);
    }
    zmi_instance_rows(x, c->kernels, shape, n, s->d, in, row_stride, step, params_of(c), out);
    first += n;
    if (first == last) break;
    if (j.rank && done + n < j.size[inner])
      at.at[inner] += n;
    else
      next_run(&j, &at);
  }
}

void zmi_kernel_rows_run(const zmi_call *c, int64_t begin, int64_t end) {
  const rows_shape s = shape_of(c);
  if (!s.gather_bytes) {
    const int64_t each = rows_of_tile(&s), tiles = zmi_tiles_of(s.rows, each);
    run_rows(c, &s, first_tile(c, tiles, begin) * each, ZMI_MIN(first_tile(c, tiles, end) * each, s.rows), NULL);
    end_stream(stream_of(c));
    return;
  }
  for (int64_t lane = begin; lane < end; lane++) {
    run_rows(c, &s, zmi_lane_begin(s.rows, lane), zmi_lane_begin(s.rows, lane + 1), (char *)c->scratch + s.gather_bytes * (size_t)lane);
  }
  end_stream(stream_of(c));
}

// ---- threadgroups ----

// Results that threads add to begin at zero.
static bool adds_to_memory(const zmi_code *code) {
  if (code->form == ZMI_FORM_RAW) return true;
  for (size_t i = 0; i < code->count; i++) {
    if (code->insts[i].op == ZMI_K_ATOMIC_ADD) return true;
  }
  return false;
}

int64_t zmi_kernel_zero_tiles(const zmi_call *c) {
  return adds_to_memory(zmi_instance_code(instance_of(c))) ? c->nout : 0;
}

void zmi_kernel_zero_run(const zmi_call *c, int64_t begin, int64_t end) {
  for (int64_t o = begin; o < end; o++) {
    if (c->out[o]->bytes) memset(c->dst[o], 0, c->out[o]->bytes);
  }
}

// Sums in memory have an order: one worker takes all groups as they come.
int64_t zmi_kernel_groups_tiles(const zmi_call *c) {
  const zmi_code *code = zmi_instance_code(instance_of(c));
  const int64_t groups = ((const zmi_kernel_attrs *)c->attrs)->groups;
  return groups > 1 && code->form == ZMI_FORM_TILES && adds_to_memory(code) ? 1 : pieces_of(c, groups);
}

void zmi_kernel_groups_run(const zmi_call *c, int64_t begin, int64_t end) {
  const zmi_kernel_attrs *a = c->attrs;
  zmi_type in[ZMI_MAX_IN], out[ZMI_MAX_OUT];
  for (int k = 0; k < c->nin; k++) in[k] = c->in[k]->type;
  for (int o = 0; o < c->nout; o++) out[o] = c->out[o]->type;
  const zmi_launch l = {
      .groups = a->groups, .threads = a->threads, .in = c->src, .out = c->dst, .in_type = in, .out_type = out, .params = a->param};
  const bool one_call = zmi_kernel_groups_tiles(c) == 1;
  zmi_instance_groups(instance_of(c), c->kernels, &l, first_tile(c, a->groups, begin),
                      one_call ? a->groups : first_tile(c, a->groups, end));
}

int zmi_kernel_shape_class(const zmi_call *c) {
  const zmi_form form = (zmi_form)zmi_instance_code(instance_of(c))->form;
  const zmi_kernel_attrs *a = c->attrs;
  if (form == ZMI_FORM_ELEMENTS) return shape_class(c);
  if (form != ZMI_FORM_ROWS) return zmi_grid_class(form, a->groups, a->threads);
  const rows_shape s = shape_of(c);
  return zmi_shape_class(form, s.rows * s.d, s.d);
}
