// Plans the arena: every temporary slot and every instruction's scratch gets a place for its lifetime; lifetimes that do not meet share
// memory. One walk over the tape with a list of holes, smallest hole that fits first: near linear in the length of the tape.
#include "tape/tape.h"

#include <stdlib.h>
#include <string.h>

typedef struct block {
  size_t bytes;
  int64_t first, last; // instructions during which it is alive; first < 0: never used
  size_t *place;       // where the offset goes
} block;

typedef struct hole {
  size_t offset, bytes;
} hole;

typedef struct planner {
  block *blocks; // sorted by first use, large ones first
  block **dying; // the same blocks sorted by last use
  size_t count;
  hole *holes; // by offset; never touching one another
  size_t hole_count, hole_capacity;
  size_t end;
} planner;

enum { ALIGN = 64 };

static int by_first(const void *a, const void *b) {
  const block *x = a, *y = b;
  if (x->first != y->first) return x->first < y->first ? -1 : 1;
  return (x->bytes < y->bytes) - (x->bytes > y->bytes);
}

static int by_last(const void *a, const void *b) {
  const block *x = *(block *const *)a, *y = *(block *const *)b;
  return (x->last > y->last) - (x->last < y->last);
}

static void touch(const zmi_tape *t, block *blocks, int slot, int64_t when) {
  if (slot < 0) return;
  if (t->slots[slot].kind == ZMI_SLOT_VIEW) slot = t->slots[slot].base;
  block *b = &blocks[slot];
  if (b->first < 0) b->first = when;
  b->last = when;
}

// Fills p->blocks with what needs a place. The first slot_count entries serve as the table of lifetimes before they are overwritten.
static void collect(planner *p, zmi_tape *t) {
  block *blocks = p->blocks;
  for (size_t s = 0; s < t->slot_count; s++) blocks[s] = (block){.first = -1, .last = -1};
  for (size_t i = 0; i < t->instr_count; i++) {
    for (int k = 0; k < t->instrs[i].nin; k++) touch(t, blocks, t->instrs[i].in[k], (int64_t)i);
    for (int k = 0; k < t->instrs[i].nout; k++) touch(t, blocks, t->instrs[i].out[k], (int64_t)i);
  }
  for (size_t s = 0; s < t->slot_count; s++) {
    zmi_slot *slot = &t->slots[s];
    block b = blocks[s];
    if ((slot->kind != ZMI_SLOT_TEMP && slot->kind != ZMI_SLOT_OUTPUT) || slot->apart || b.first < 0) continue;
    if (slot->kind == ZMI_SLOT_OUTPUT) b.last = (int64_t)t->instr_count;
    b.bytes = slot->bytes;
    b.place = &slot->offset;
    blocks[p->count++] = b; // count <= s: the entries ahead are still to be read
  }
  for (size_t i = 0; i < t->instr_count; i++) {
    zmi_instr *in = &t->instrs[i];
    if (in->scratch)
      blocks[p->count++] = (block){.bytes = in->scratch, .first = (int64_t)i, .last = (int64_t)i, .place = &in->scratch_offset};
  }
}

static zm_status round_sizes(planner *p) {
  size_t total = 0;
  for (size_t i = 0; i < p->count; i++) {
    size_t rounded;
    if (zmi_add_overflow(p->blocks[i].bytes, ALIGN - 1, &rounded) || zmi_add_overflow(total, rounded, &total)) {
      return zmi_fail(ZM_ERROR_MEMORY, "tape: temporaries need more memory than can be addressed");
    }
    p->blocks[i].bytes = rounded / ALIGN * ALIGN;
  }
  return ZM_OK;
}

static void take_place(planner *p, block *b) {
  size_t best = SIZE_MAX;
  for (size_t h = 0; h < p->hole_count; h++) {
    if (p->holes[h].bytes >= b->bytes && (best == SIZE_MAX || p->holes[h].bytes < p->holes[best].bytes)) best = h;
  }
  if (best == SIZE_MAX) {
    // Grow the arena, from its last hole if that reaches the end.
    bool touching = p->hole_count > 0 && p->holes[p->hole_count - 1].offset + p->holes[p->hole_count - 1].bytes == p->end;
    *b->place = touching ? p->holes[--p->hole_count].offset : p->end;
    p->end = *b->place + b->bytes;
    return;
  }
  *b->place = p->holes[best].offset;
  p->holes[best].offset += b->bytes;
  p->holes[best].bytes -= b->bytes;
  if (p->holes[best].bytes == 0) {
    memmove(&p->holes[best], &p->holes[best + 1], (p->hole_count - best - 1) * sizeof *p->holes);
    p->hole_count--;
  }
}

static zm_status give_place(planner *p, size_t offset, size_t bytes) {
  if (bytes == 0) return ZM_OK;
  if (!ZMI_GROW(p->holes, p->hole_capacity, p->hole_count + 1)) return ZM_ERROR_MEMORY;
  size_t at = 0;
  while (at < p->hole_count && p->holes[at].offset < offset) at++;
  bool joins_before = at > 0 && p->holes[at - 1].offset + p->holes[at - 1].bytes == offset;
  bool joins_after = at < p->hole_count && offset + bytes == p->holes[at].offset;
  if (joins_before) {
    p->holes[at - 1].bytes += bytes;
    if (!joins_after) return ZM_OK;
    p->holes[at - 1].bytes += p->holes[at].bytes;
    memmove(&p->holes[at], &p->holes[at + 1], (p->hole_count - at - 1) * sizeof *p->holes);
    p->hole_count--;
  } else if (joins_after) {
    p->holes[at].offset = offset;
    p->holes[at].bytes += bytes;
  } else {
    memmove(&p->holes[at + 1], &p->holes[at], (p->hole_count - at) * sizeof *p->holes);
    p->holes[at] = (hole){offset, bytes};
    p->hole_count++;
  }
  return ZM_OK;
}

static zm_status walk(planner *p) {
  qsort(p->blocks, p->count, sizeof *p->blocks, by_first);
  for (size_t i = 0; i < p->count; i++) p->dying[i] = &p->blocks[i];
  qsort(p->dying, p->count, sizeof *p->dying, by_last);
  size_t dead = 0;
  for (size_t i = 0; i < p->count; i++) {
    while (p->dying[dead]->last < p->blocks[i].first) {
      zm_status status = give_place(p, *p->dying[dead]->place, p->dying[dead]->bytes);
      if (status != ZM_OK) return status;
      dead++;
    }
    take_place(p, &p->blocks[i]);
  }
  return ZM_OK;
}

zm_status zmi_tape_plan(zmi_tape *t) {
  size_t limit = t->slot_count + t->instr_count + 1;
  planner p = {.blocks = zmi_calloc(limit, sizeof *p.blocks), .dying = zmi_calloc(limit, sizeof *p.dying)};
  zm_status status = p.blocks && p.dying ? ZM_OK : ZM_ERROR_MEMORY;
  if (status == ZM_OK) {
    collect(&p, t);
    status = round_sizes(&p);
  }
  if (status == ZM_OK) status = walk(&p);
  if (status == ZM_OK) t->arena_bytes = p.end;
  zmi_free(p.holes);
  zmi_free(p.dying);
  zmi_free(p.blocks);
  return status;
}
