// Products with experts' matrices: (row, slot) pairs are put in order of expert, so that each expert's weights are read once for all rows
// that chose it.
#include "array/kernels.h"

#include <string.h>

static int64_t most_entries(int64_t experts, int64_t pairs) {
  return ZMI_MIN(experts + 1, pairs); // one more: the pairs whose expert is out of range
}

size_t zmi_expert_plan_bytes(int64_t experts, int64_t pairs) {
  size_t most = (size_t)most_entries(experts, pairs);
  return zmi_align64(sizeof(int32_t) * (1 + most + 2 * (most + 1) + (size_t)pairs + (size_t)experts + 1));
}

zmi_expert_plan zmi_expert_plan_at(void *memory, int64_t experts, int64_t pairs) {
  zmi_expert_plan p = {.most = most_entries(experts, pairs), .pairs = pairs, .experts = experts};
  if (!memory) return p; // only sizes are asked for
  p.count = memory;
  p.expert = p.count + 1;
  p.start = p.expert + p.most;
  p.groups = p.start + p.most + 1;
  p.pair = p.groups + p.most + 1;
  p.first = p.pair + pairs;
  return p;
}

void zmi_expert_plan_make(const zmi_expert_plan *p, const int32_t *chosen) {
  int32_t *first = p->first; // [0]: out of range, [e + 1]: expert e; first counts, then places
  memset(first, 0, (size_t)(p->experts + 1) * sizeof *first);
  for (int64_t i = 0; i < p->pairs; i++) first[chosen[i] < 0 || chosen[i] >= p->experts ? 0 : chosen[i] + 1]++;
  int32_t entries = 0, start = 0, groups = 0;
  for (int64_t e = 0; e <= p->experts; e++) {
    int32_t count = first[e];
    first[e] = start;
    if (count == 0) continue;
    p->expert[entries] = (int32_t)e - 1;
    p->start[entries] = start;
    p->groups[entries] = groups;
    entries++;
    start += count;
    groups += (count + ZMI_ROWS - 1) / ZMI_ROWS;
  }
  p->start[entries] = start;
  p->groups[entries] = groups;
  *p->count = entries;
  for (int64_t i = 0; i < p->pairs; i++) p->pair[first[chosen[i] < 0 || chosen[i] >= p->experts ? 0 : chosen[i] + 1]++] = (int32_t)i;
}

// Work is counted in blocks times groups of rows; a tile owns the items (entry, block) whose first unit is in its share.
zmi_expert_walk zmi_expert_walk_of(const zmi_expert_plan *p, int64_t blocks, int64_t begin, int64_t end) {
  int64_t tiles = zmi_expert_tiles(p, blocks), total = p->groups[*p->count] * blocks;
  return (zmi_expert_walk){.plan = p, .blocks = blocks, .entry = -1, .next = total * begin / tiles, .end = total * end / tiles};
}

bool zmi_expert_walk_next(zmi_expert_walk *w) {
  const zmi_expert_plan *p = w->plan;
  if (w->entry < 0) {
    w->entry = 0;
    while (w->entry < *p->count && p->groups[w->entry + 1] * w->blocks <= w->next) w->entry++;
  } else {
    w->entry++;
  }
  if (w->entry >= *p->count) return false;
  int64_t base = p->groups[w->entry] * w->blocks, width = p->groups[w->entry + 1] - p->groups[w->entry];
  // The first item that starts at or after `next`, and the first that starts at or after `end`.
  w->first = w->next > base ? (w->next - base + width - 1) / width : 0;
  w->last = w->end > base ? ZMI_MIN((w->end - base + width - 1) / width, w->blocks) : 0;
  return base < w->end;
}

static void zero_blocks(const zmi_expert_walk *at, const zmi_weights *w, void *out, zm_dtype dtype) {
  const zmi_expert_plan *p = at->plan;
  int64_t first = at->first * ZMI_LANES, n = ZMI_MIN(at->last * ZMI_LANES, w->n) - first;
  if (n <= 0) return;
  for (int32_t i = p->start[at->entry]; i < p->start[at->entry + 1]; i++) {
    memset(zmi_at(out, dtype, p->pair[i] * w->n + first), 0, (size_t)n * zm_dtype_size(dtype));
  }
}

void zmi_expert_run(const zmi_kernels *kn, const zmi_weights *w, const zmi_expert_plan *p, const zmi_rows *rows, int64_t share, void *out,
                    zm_dtype dtype, int64_t begin, int64_t end) {
  zmi_expert_walk at = zmi_expert_walk_of(p, w->blocks, begin, end);
  while (zmi_expert_walk_next(&at)) {
    int32_t expert = p->expert[at.entry];
    if (expert < 0) {
      zero_blocks(&at, w, out, dtype);
      continue;
    }
    int32_t stop = p->start[at.entry + 1];
    int64_t most = zmi_run_blocks(w, stop - p->start[at.entry], 1);
    for (int64_t first = at.first, blocks; first < at.last; first += blocks) {
      blocks = ZMI_MIN(most, at.last - first);
      for (int32_t i = p->start[at.entry]; i < stop; i += ZMI_ROWS) {
        const void *x[ZMI_ROWS];
        void *y[ZMI_ROWS];
        int count = ZMI_MIN(stop - i, ZMI_ROWS);
        for (int m = 0; m < count; m++) {
          int64_t pair = p->pair[i + m];
          x[m] = (const char *)rows->ready + (size_t)(pair / share) * rows->stride;
          y[m] = zmi_at(out, dtype, pair * w->n);
        }
        zmi_dot_blocks(kn, w, expert, first, blocks, rows->form, count, x, y, dtype);
      }
    }
  }
}
