// sort, argsort, partition, argpartition and topk along the last axis.
//
// Each value becomes a key, an unsigned integer in the order of the values (NaN last, both zeros the same); an element is a key and a
// place, so no two are equal, whatever sorts them is stable, and results do not depend on how the work is shared out. Short rows are sorted
// by one tile each. Few long rows are cut by splitters (from a sample) to buckets that are sorted on their own; a partition leaves the
// buckets alone that do not hold its element. A topk of a small k keeps the best of each block and then the best of those.
#include "array/ops/sort.h"

#include <string.h>

enum {
  SORT_INSERT = 16,   // elements of a run sorted by insertion
  SORT_MERGE = 384,   // most elements sorted by merging
  SORT_OFFER = 64,    // elements offered at once to a topk
  SORT_SAMPLE = 15,   // elements that a pivot is chosen from
  FEW_BUCKETS = 8,    // of a partition
  BLOCK = 16384,      // elements of a tile of a long row
  FEW = 32,           // rows that are cut if they are long
  BUCKET = 4096,      // elements of a bucket, about
  MAX_BUCKETS = 256,  // and no more of them
  SAMPLES = 16,       // a bucket
  SMALL = SORT_MERGE, // elements of rows that need no scratch
};

// ---- elements ----

typedef uint64_t packed; // keys of up to 32 bits: key, place * 2 + (the value is -0)
typedef struct wide {    // keys of 64 bits
  uint64_t key, low;
} wide;

#define ELEMENT packed
#define NAMED(x) packed_##x
#define BEFORE(a, b) ((a) < (b))
#define DIGIT(e, i) ((e) >> (32 + 8 * (i)) & 255)
#include "array/ops/sort_runs.h"

#define ELEMENT wide
#define NAMED(x) wide_##x
#define BEFORE(a, b) (((a).key < (b).key) | (((a).key == (b).key) & ((a).low < (b).low)))
#define DIGIT(e, i) ((e).key >> (8 * (i)) & 255)
#include "array/ops/sort_runs.h"

// ---- keys: `flip` has all bits of a key set for falling order ----

static inline uint32_t key_of_float(uint32_t u, int bits) {
  const uint32_t sign = UINT32_C(1) << (bits - 1), all = sign | (sign - 1);
  return (u & sign ? ~u & all : u | sign);
}

#define FLOAT_KEYS(name, word, bits, exponent)                                                                                             \
  static void keys_##name(const void *src, int64_t n, int64_t place, uint64_t flip, void *out) {                                           \
    const word *x = src;                                                                                                                   \
    packed *e = out;                                                                                                                       \
    const uint32_t sign = UINT32_C(1) << (bits - 1), all = sign | (sign - 1);                                                              \
    for (int64_t i = 0; i < n; i++) {                                                                                                      \
      const uint32_t u = x[i];                                                                                                             \
      uint32_t key = key_of_float(u, bits);                                                                                                \
      key = (u & ~sign & all) > (exponent) ? all : (u & ~sign & all) == 0 ? sign : key;                                                    \
      e[i] = (packed)(key ^ (uint32_t)flip) << 32 | (uint64_t)(place + i) << 1 | (u == sign);                                              \
    }                                                                                                                                      \
  }                                                                                                                                        \
  static void values_##name(const void *elements, int64_t n, uint64_t flip, void *dst) {                                                   \
    const packed *e = elements;                                                                                                            \
    word *y = dst;                                                                                                                         \
    const uint32_t sign = UINT32_C(1) << (bits - 1), all = sign | (sign - 1), nan = (exponent) | ((exponent) & ~((exponent) << 1)) >> 1;   \
    for (int64_t i = 0; i < n; i++) {                                                                                                      \
      const uint32_t key = (uint32_t)(e[i] >> 32) ^ (uint32_t)flip;                                                                        \
      uint32_t u = key & sign ? key ^ sign : ~key & all;                                                                                   \
      u = key == sign ? (e[i] & 1 ? sign : 0) : key == all ? nan : u;                                                                      \
      y[i] = (word)u;                                                                                                                      \
    }                                                                                                                                      \
  }

typedef uint32_t __attribute__((may_alias)) word32;
typedef uint16_t __attribute__((may_alias)) word16;
FLOAT_KEYS(f32, word32, 32, 0x7f800000u)
FLOAT_KEYS(f16, word16, 16, 0x7c00u)
FLOAT_KEYS(bf16, word16, 16, 0x7f80u)

#define INTEGER_KEYS(T, U, sign)                                                                                                           \
  static void keys_##T(const void *src, int64_t n, int64_t place, uint64_t flip, void *out) {                                              \
    const T *x = src;                                                                                                                      \
    packed *e = out;                                                                                                                       \
    for (int64_t i = 0; i < n; i++) {                                                                                                      \
      const U key = (U)((U)x[i] ^ (U)(sign) ^ (U)flip);                                                                                    \
      e[i] = (packed)key << 32 | (uint64_t)(place + i) << 1;                                                                               \
    }                                                                                                                                      \
  }                                                                                                                                        \
  static void values_##T(const void *elements, int64_t n, uint64_t flip, void *dst) {                                                      \
    const packed *e = elements;                                                                                                            \
    T *y = dst;                                                                                                                            \
    for (int64_t i = 0; i < n; i++) y[i] = (T)((U)(e[i] >> 32) ^ (U)(sign) ^ (U)flip);                                                     \
  }
INTEGER_KEYS(uint8_t, uint8_t, 0)
INTEGER_KEYS(uint16_t, uint16_t, 0)
INTEGER_KEYS(uint32_t, uint32_t, 0)
INTEGER_KEYS(int8_t, uint8_t, 0x80)
INTEGER_KEYS(int16_t, uint16_t, 0x8000)
INTEGER_KEYS(int32_t, uint32_t, 0x80000000u)

#define WIDE_KEYS(T, sign)                                                                                                                 \
  static void keys_##T(const void *src, int64_t n, int64_t place, uint64_t flip, void *out) {                                              \
    const T *x = src;                                                                                                                      \
    wide *e = out;                                                                                                                         \
    for (int64_t i = 0; i < n; i++) e[i] = (wide){(uint64_t)x[i] ^ (sign) ^ flip, (uint64_t)(place + i) << 1};                             \
  }                                                                                                                                        \
  static void values_##T(const void *elements, int64_t n, uint64_t flip, void *dst) {                                                      \
    const wide *e = elements;                                                                                                              \
    T *y = dst;                                                                                                                            \
    for (int64_t i = 0; i < n; i++) y[i] = (T)(e[i].key ^ (sign) ^ flip);                                                                  \
  }
WIDE_KEYS(uint64_t, UINT64_C(0))
WIDE_KEYS(int64_t, UINT64_C(1) << 63)

static const struct keys {
  void (*keys)(const void *src, int64_t n, int64_t place, uint64_t flip, void *elements);
  void (*values)(const void *elements, int64_t n, uint64_t flip, void *dst);
  int bytes; // of a key
} keys[ZM_DTYPE_COUNT] = {
    [ZM_BOOL] = {keys_uint8_t, values_uint8_t, 1},  [ZM_U8] = {keys_uint8_t, values_uint8_t, 1},
    [ZM_U16] = {keys_uint16_t, values_uint16_t, 2}, [ZM_U32] = {keys_uint32_t, values_uint32_t, 4},
    [ZM_U64] = {keys_uint64_t, values_uint64_t, 8}, [ZM_I8] = {keys_int8_t, values_int8_t, 1},
    [ZM_I16] = {keys_int16_t, values_int16_t, 2},   [ZM_I32] = {keys_int32_t, values_int32_t, 4},
    [ZM_I64] = {keys_int64_t, values_int64_t, 8},   [ZM_F16] = {keys_f16, values_f16, 2},
    [ZM_BF16] = {keys_bf16, values_bf16, 2},        [ZM_F32] = {keys_f32, values_f32, 4},
};

// ---- the shape of the work ----

typedef enum sort_form { EACH, CUT, SELECT } sort_form;

typedef struct plan {
  const zmi_call *call;
  zm_dtype dtype;
  const struct keys *keys;
  sort_form form;
  bool is_wide;
  uint64_t flip;
  size_t element;          // bytes
  int64_t rows, n;         // of the operand
  int64_t first, last;     // places of the sorted row that are wanted in order
  int64_t given;           // results of a row
  int64_t blocks, buckets; // of a row
  int64_t room;            // SELECT: elements kept at once
  char *values, *indices;  // results; NULL if not wanted
} plan;

static int64_t lane_room(const plan *p) {
  return p->form == SELECT ? 2 * p->room : p->form == EACH && p->n > SMALL ? 2 * p->n : 0;
}

static int64_t tile_items(const plan *p) {
  return p->form == SELECT ? p->rows * p->blocks : p->rows;
}

// Selecting pays if what the blocks keep is a small part of them.
static bool selects(int64_t n, int64_t k) {
  return n > SMALL && k <= ZMI_MIN(n, BLOCK) / 8;
}

static plan plan_of(const zmi_call *c) {
  const zmi_sort_attrs *a = c->attrs;
  const zmi_type *t = &c->in[0]->type;
  plan p = {.call = c, .dtype = t->dtype, .keys = &keys[t->dtype], .n = t->shape[t->rank - 1], .rows = 1};
  for (int i = 0; i < t->rank - 1; i++) p.rows *= t->shape[i];
  p.is_wide = p.keys->bytes == 8;
  p.element = p.is_wide ? sizeof(wide) : sizeof(packed);
  p.given = p.n;
  p.last = p.n;
  if (a->kind == ZMI_SORT_TOP) {
    p.given = p.last = a->k;
    p.flip = UINT64_MAX;
  } else if (a->kind == ZMI_SORT_PART) {
    p.first = a->k;
    p.last = a->k + 1;
  }
  p.blocks = zmi_tiles_of(p.n, BLOCK);
  p.buckets = FEW_BUCKETS;
  while (a->kind != ZMI_SORT_PART && p.buckets < MAX_BUCKETS && p.buckets * BUCKET < p.n) p.buckets *= 2;
  p.form = a->kind == ZMI_SORT_TOP && selects(p.n, a->k) ? SELECT : p.n > BLOCK && p.rows < FEW ? CUT : EACH;
  p.room = ZMI_MAX(2 * a->k, 1024) + 2 * SORT_OFFER;
  if (a->gives == ZMI_SORT_INDICES)
    p.indices = c->dst[0];
  else
    p.values = c->dst[0];
  if (a->gives == ZMI_SORT_BOTH) p.indices = c->dst[1];
  return p;
}

// Scratch: lanes for EACH and SELECT, then what blocks kept; arrays of the whole operand for CUT.
typedef struct memory {
  char *a, *b;        // elements [rows][n]
  uint8_t *bucket;    // [rows][n]
  uint32_t *count;    // [rows][blocks][buckets]: elements; then places
  uint32_t *start;    // [rows][buckets + 1]
  char *splitter;     // [rows][buckets]
  char *lanes, *kept; // kept: [rows][blocks][k]
  size_t bytes;
} memory;

static memory memory_of(const plan *p) {
  memory m = {0};
  char *base = p->call->scratch;
  const size_t rows = (size_t)p->rows, n = (size_t)p->n, blocks = (size_t)p->blocks, buckets = (size_t)p->buckets;
  size_t at = 0;
#define PART(member, size)                                                                                                                 \
  m.member = base ? (void *)(base + at) : NULL;                                                                                            \
  at += zmi_align64(size)
  if (p->form == CUT) {
    PART(a, rows * n * p->element);
    PART(b, rows * n * p->element);
    PART(bucket, rows * n);
    PART(count, rows * blocks * buckets * sizeof(uint32_t));
    PART(start, rows * (buckets + 1) * sizeof(uint32_t));
    PART(splitter, rows * buckets * p->element);
  } else {
    PART(lanes, (size_t)(zmi_lane_count(tile_items(p)) * lane_room(p)) * p->element);
    PART(kept, p->form == SELECT && p->blocks > 1 ? rows * blocks * (size_t)p->given * p->element : 0);
  }
#undef PART
  m.bytes = at;
  return m;
}

static size_t scratch(const zmi_call *c) {
  plan p = plan_of(c);
  return memory_of(&p).bytes;
}

static void read_row(const plan *p, int64_t row, int64_t first, int64_t n, void *elements) {
  const size_t size = zm_dtype_size(p->dtype);
  p->keys->keys((const char *)p->call->src[0] + (size_t)(row * p->n + first) * size, n, first, p->flip, elements);
}

static void sort_elements(const plan *p, void *x, void *work, int64_t n) {
  if (p->is_wide)
    wide_sort(x, work, n, p->keys->bytes, true);
  else
    packed_sort(x, work, n, p->keys->bytes, true);
}

// Elements that stand at `first` of their row as it will be: sorted, or for a partition with the one that is asked for in its place.
static void arrange(const plan *p, void *x, void *work, int64_t n, int64_t first) {
  const bool whole = p->first == 0 && p->last >= p->given;
  if (whole)
    sort_elements(p, x, work, n);
  else if (p->first < first || p->first >= first + n)
    return;
  else if (p->is_wide)
    wide_select(x, work, n, p->first - first);
  else
    packed_select(x, work, n, p->first - first);
}

// Sorted elements to places [first, first + n) of a row's results.
static void give(const plan *p, int64_t row, int64_t first, int64_t n, const void *elements) {
  const int64_t at = row * p->given + first;
  if (p->values) p->keys->values(elements, n, p->flip, p->values + (size_t)at * zm_dtype_size(p->dtype));
  if (!p->indices) return;
  uint32_t *index = (uint32_t *)(void *)p->indices + at;
  if (p->is_wide) {
    for (int64_t i = 0; i < n; i++) index[i] = (uint32_t)(((const wide *)elements)[i].low >> 1);
  } else {
    for (int64_t i = 0; i < n; i++) index[i] = (uint32_t)((const packed *)elements)[i] >> 1;
  }
}

// ---- EACH ----

static void sort_rows(const plan *p, const memory *m, int64_t begin, int64_t end) {
  _Alignas(64) wide small[2 * SMALL];
  for (int64_t lane = begin; lane < end; lane++) {
    char *x = p->n > SMALL ? m->lanes + (size_t)(lane * lane_room(p)) * p->element : (char *)small;
    for (int64_t row = zmi_lane_begin(p->rows, lane); row < zmi_lane_begin(p->rows, lane + 1); row++) {
      read_row(p, row, 0, p->n, x);
      arrange(p, x, x + (size_t)p->n * p->element, p->n, 0);
      give(p, row, 0, p->given, x);
    }
  }
}

// ---- SELECT ----

typedef struct chosen {
  int64_t have;
  bool full;
  wide worst; // or a packed, first in memory
} chosen;

static void offer(const plan *p, const void *elements, int64_t n, char *kept, chosen *c) {
  char *work = kept + (size_t)p->room * p->element;
  if (p->is_wide)
    c->have = wide_offer(elements, n, (wide *)(void *)kept, (wide *)(void *)work, c->have, p->given, p->room, &c->worst, &c->full);
  else
    c->have =
        packed_offer(elements, n, (packed *)(void *)kept, (packed *)(void *)work, c->have, p->given, p->room, &c->worst.key, &c->full);
}

static void finish(const plan *p, char *kept, const chosen *c) {
  char *work = kept + (size_t)p->room * p->element;
  if (p->is_wide)
    wide_first((wide *)(void *)kept, (wide *)(void *)work, c->have, p->given);
  else
    packed_first((packed *)(void *)kept, (packed *)(void *)work, c->have, p->given);
}

static void select_blocks(const plan *p, const memory *m, int64_t begin, int64_t end) {
  _Alignas(64) wide part[512];
  const int64_t items = tile_items(p), step = 512;
  for (int64_t lane = begin; lane < end; lane++) {
    char *kept = m->lanes + (size_t)(lane * lane_room(p)) * p->element;
    for (int64_t item = zmi_lane_begin(items, lane); item < zmi_lane_begin(items, lane + 1); item++) {
      // Blocks of equal length but for one element: each has at least k.
      const int64_t row = item / p->blocks, block = item % p->blocks;
      const int64_t first = p->n * block / p->blocks, last = p->n * (block + 1) / p->blocks;
      chosen c = {0};
      for (int64_t at = first; at < last; at += step) {
        const int64_t n = ZMI_MIN(step, last - at);
        read_row(p, row, at, n, part);
        offer(p, part, n, kept, &c);
      }
      finish(p, kept, &c);
      if (p->blocks == 1)
        give(p, row, 0, p->given, kept);
      else
        memcpy(m->kept + (size_t)(item * p->given) * p->element, kept, (size_t)p->given * p->element);
    }
  }
}

static void select_rows(const plan *p, const memory *m, int64_t begin, int64_t end) {
  const int64_t tiles = zmi_lane_count(p->rows);
  for (int64_t lane = begin; lane < end && lane < tiles; lane++) {
    char *kept = m->lanes + (size_t)(lane * lane_room(p)) * p->element;
    for (int64_t row = zmi_lane_begin(p->rows, lane); row < zmi_lane_begin(p->rows, lane + 1); row++) {
      chosen c = {0};
      offer(p, m->kept + (size_t)(row * p->blocks * p->given) * p->element, p->blocks * p->given, kept, &c);
      finish(p, kept, &c);
      give(p, row, 0, p->given, kept);
    }
  }
}

// ---- CUT ----

static void cut_sample(const plan *p, const memory *m, int64_t begin, int64_t end) {
  _Alignas(64) wide sample[MAX_BUCKETS * SAMPLES], work[MAX_BUCKETS * SAMPLES];
  const int64_t count = p->buckets * SAMPLES;
  for (int64_t row = begin; row < end; row++) {
    for (int64_t i = 0; i < count; i++)
      read_row(p, row, p->n / count * i + p->n % count * i / count, 1, (char *)sample + (size_t)i * p->element);
    sort_elements(p, sample, work, count);
    for (int64_t i = 1; i < p->buckets; i++) {
      memcpy(m->splitter + (size_t)(row * p->buckets + i - 1) * p->element, (char *)sample + (size_t)(i * SAMPLES) * p->element,
             p->element);
    }
  }
}

static void cut_classify(const plan *p, const memory *m, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; item++) {
    const int64_t row = item / p->blocks, first = item % p->blocks * BLOCK, n = ZMI_MIN(BLOCK, p->n - first);
    uint32_t *count = m->count + item * p->buckets;
    char *x = m->a + (size_t)(row * p->n + first) * p->element, *splitter = m->splitter + (size_t)(row * p->buckets) * p->element;
    memset(count, 0, (size_t)p->buckets * sizeof *count);
    read_row(p, row, first, n, x);
    if (p->is_wide)
      wide_classify((wide *)(void *)x, n, (wide *)(void *)splitter, (int)p->buckets - 1, m->bucket + row * p->n + first, count);
    else
      packed_classify((packed *)(void *)x, n, (packed *)(void *)splitter, (int)p->buckets - 1, m->bucket + row * p->n + first, count);
  }
}

static void cut_places(const plan *p, const memory *m, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    uint32_t *count = m->count + row * p->blocks * p->buckets, *start = m->start + row * (p->buckets + 1), place = 0;
    for (int64_t bucket = 0; bucket < p->buckets; bucket++) {
      start[bucket] = place;
      for (int64_t block = 0; block < p->blocks; block++) {
        const uint32_t here = count[block * p->buckets + bucket];
        count[block * p->buckets + bucket] = place;
        place += here;
      }
    }
    start[p->buckets] = place;
  }
}

static void cut_scatter(const plan *p, const memory *m, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; item++) {
    const int64_t row = item / p->blocks, first = item % p->blocks * BLOCK, n = ZMI_MIN(BLOCK, p->n - first);
    uint32_t *place = m->count + item * p->buckets;
    const uint8_t *bucket = m->bucket + row * p->n + first;
    if (p->is_wide) {
      const wide *x = (const wide *)(void *)m->a + row * p->n + first;
      wide *y = (wide *)(void *)m->b + row * p->n;
      for (int64_t i = 0; i < n; i++) y[place[bucket[i]]++] = x[i];
    } else {
      const packed *x = (const packed *)(void *)m->a + row * p->n + first;
      packed *y = (packed *)(void *)m->b + row * p->n;
      for (int64_t i = 0; i < n; i++) y[place[bucket[i]]++] = x[i];
    }
  }
}

static void cut_finish(const plan *p, const memory *m, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; item++) {
    const int64_t row = item / p->buckets, bucket = item % p->buckets;
    const uint32_t *start = m->start + row * (p->buckets + 1);
    const int64_t first = start[bucket], last = start[bucket + 1];
    if (first == last || first >= p->given) continue;
    char *x = m->b + (size_t)(row * p->n + first) * p->element;
    arrange(p, x, m->a + (size_t)(row * p->n + first) * p->element, last - first, first);
    give(p, row, first, ZMI_MIN(last, p->given) - first, x);
  }
}

// ---- stages ----

#define STAGE(name, condition, count)                                                                                                      \
  static int64_t name##_tiles(const zmi_call *c) {                                                                                         \
    plan p = plan_of(c);                                                                                                                   \
    return p.rows > 0 && p.given > 0 && (condition) ? (count) : 0;                                                                         \
  }                                                                                                                                        \
  static void name##_run(const zmi_call *c, int64_t begin, int64_t end) {                                                                  \
    plan p = plan_of(c);                                                                                                                   \
    memory m = memory_of(&p);                                                                                                              \
    name(&p, &m, begin, end);                                                                                                              \
  }

static void first_stage(const plan *p, const memory *m, int64_t begin, int64_t end) {
  if (p->form == EACH)
    sort_rows(p, m, begin, end);
  else if (p->form == SELECT)
    select_blocks(p, m, begin, end);
  else
    cut_sample(p, m, begin, end);
}

static void second_stage(const plan *p, const memory *m, int64_t begin, int64_t end) {
  if (p->form == SELECT)
    select_rows(p, m, begin, end);
  else
    cut_classify(p, m, begin, end);
}

STAGE(first_stage, true, p.form == CUT ? p.rows : zmi_lane_count(tile_items(&p)))
STAGE(second_stage, p.form == CUT || (p.form == SELECT && p.blocks > 1), p.form == CUT ? p.rows * p.blocks : zmi_lane_count(p.rows))
STAGE(cut_places, p.form == CUT, p.rows)
STAGE(cut_scatter, p.form == CUT, p.rows *p.blocks)
STAGE(cut_finish, p.form == CUT, p.rows *p.buckets)

#define STAGES                                                                                                                             \
  {                                                                                                                                        \
    {first_stage_tiles, first_stage_run}, {second_stage_tiles, second_stage_run}, {cut_places_tiles, cut_places_run},                      \
        {cut_scatter_tiles, cut_scatter_run}, {                                                                                            \
      cut_finish_tiles, cut_finish_run                                                                                                     \
    }                                                                                                                                      \
  }

// ---- shape rules ----

static zm_status infer(const void *attrs, int nin, const zmi_type *in, int *nout, zmi_type *out) {
  const zmi_sort_attrs *a = attrs;
  char text[128];
  zm_status status = zmi_check_operands(nin, in, 1);
  if (status != ZM_OK) return status;
  if (in[0].rank < 1) return zmi_fail(ZM_ERROR_ARGUMENT, "an array of rank 0 has no axis to sort");
  const int64_t n = in[0].shape[in[0].rank - 1];
  if (n > INT32_MAX) return zmi_fail(ZM_ERROR_ARGUMENT, "rows of %lld elements; the most are 2^31 - 1", (long long)n);
  const bool part = a->kind == ZMI_SORT_PART, top = a->kind == ZMI_SORT_TOP;
  if ((part && (a->k < 0 || a->k >= n)) || (top && (a->k < 0 || a->k > n))) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "%s is %lld, but the axis of %s has %lld elements", part ? "kth" : "k", (long long)a->k,
                    zmi_type_text(&in[0], text), (long long)n);
  }
  int64_t shape[ZM_MAX_RANK];
  memcpy(shape, in[0].shape, sizeof shape);
  if (top) shape[in[0].rank - 1] = a->k;
  status = zmi_give(nout, out, a->gives == ZMI_SORT_INDICES ? ZM_U32 : in[0].dtype, in[0].rank, shape);
  if (status != ZM_OK || a->gives != ZMI_SORT_BOTH) return status;
  *nout = 2;
  out[1] = zmi_type_of(ZM_U32, in[0].rank, shape);
  return ZM_OK;
}

static const char *const kind_words[] = {"whole", "part", "top", NULL};
static const char *const gives_words[] = {"values", "indices", "both", NULL};
static const zmi_field fields[] = {{"kind", ZMI_FIELD_WORD, offsetof(zmi_sort_attrs, kind), kind_words},
                                   {"gives", ZMI_FIELD_WORD, offsetof(zmi_sort_attrs, gives), gives_words},
                                   {"k", ZMI_FIELD_INT, offsetof(zmi_sort_attrs, k), NULL},
                                   {0}};

#define ROW(word, text)                                                                                                                    \
  const zmi_op zmi_op_##word = {.name = #word,                                                                                             \
                                .operands = "x",                                                                                           \
                                .fields = fields,                                                                                          \
                                .rounding = text,                                                                                          \
                                .infer = infer,                                                                                            \
                                .scratch = scratch,                                                                                        \
                                .stages = STAGES,                                                                                          \
                                .rules = &zmi_rules_##word};
// clang-format off
ROW(sort, "exact; NaN last; equal numbers (both zeros are) keep their order")
ROW(argsort, "exact; NaN last; the lowest index first among equals")
ROW(partition, "exact; the sorted element at kth, none larger before it, none smaller after it")
ROW(argpartition, "exact; the index of the sorted element at kth, none of a larger one before it, none of a smaller one after it")
ROW(topk, "exact; the largest first, NaN counts as largest; the lowest index first among equals")
// clang-format on
