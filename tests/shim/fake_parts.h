// Parts of a resident play, each of which the imitated driver plays by itself: an instruction with those whose results it takes from the
// blocks' own memory.
#ifndef ZMLX_TEST_FAKE_PARTS_H
#define ZMLX_TEST_FAKE_PARTS_H

#include "backend/cuda/flow.h"
#include "fake_cuda.h"

enum { MOST_TOGETHER = 8 };

// Instructions that are played together: a launch of one, or a play of the resident kernel.
typedef struct part {
  _Alignas(16) zmi_gpu_instruction all[MOST_TOGETHER]; // a play copies them by 16 bytes
  int count, first; // first: the first product whose weights come through the ring, or the count
  const struct work *launch;
  const zmi_gpu_play *play; // as it was before
} part;

// What a READY makes its rows of, for fake_cuda_facts.
static unsigned source_of(const zmi_gpu_ready *r) {
  unsigned of = r->norm ? FAKE_READY_NORM : FAKE_READY_PLAIN;
  if (r->conv.rows) of = FAKE_READY_CONV;
  if (r->add) of |= FAKE_READY_ADDED;
  if (r->slots) of |= FAKE_READY_EXPERTS;
  if (r->sum) of |= FAKE_READY_SUM;
  if (r->blocks) of |= FAKE_READY_OWN_ROWS;
  if (r->rows > 1) of |= FAKE_READY_ROWS;
  return of;
}

// Whether instruction j takes from the blocks' own memory what instruction i puts there, which stands before it. ready: the last READY
// before j.
static bool takes(const zmi_gpu_instruction *all, int j, int i, int ready) {
  const zmi_gpu_instruction *in = &all[j];
  if (in->kind == ZMI_GPU_ROUTE) return in->as.route.kept && i == j - 1;
  if (in->kind != ZMI_GPU_DOT) return false;
  return (!in->as.dot.x && i == ready) || i + 1 == in->as.dot.route;
}

static int ready_before(const zmi_gpu_instruction *all, int j) {
  while (--j >= 0 && all[j].kind != ZMI_GPU_READY) {
  }
  return j;
}

// Instruction i with those before it whose results it takes from the blocks' own memory, which are played once more. False if they are too
// many.
static bool part_of(const zmi_gpu_instruction *all, int i, part *p) {
  int of[MOST_TOGETHER] = {i}, count = 1;
  for (int done = 0; done < count; done++) {
    const int j = of[done], ready = ready_before(all, j);
    for (int b = 0; b < j; b++) {
      bool there = !takes(all, j, b, ready);
      for (int k = 0; k < count; k++) there |= of[k] == b;
      if (there) continue;
      if (count == MOST_TOGETHER) return false;
      of[count++] = b;
    }
  }
  for (int b = 0; b <= i; b++) {
    for (int k = 0; k < count; k++) {
      if (of[k] == b) p->all[p->count++] = all[b];
    }
  }
  return true;
}

// A READY, whose rows nobody sees, with the first product that takes them, which for once writes its results to memory and is told by
// memory which experts it takes: so nothing else is read that the READY might.
static bool ready_with_product(const zmi_gpu_instruction *all, int count, int i, part *p, unsigned *sources) {
  int j = i + 1;
  while (j < count && (all[j].kind != ZMI_GPU_DOT || all[j].as.dot.x)) j++;
  if (j == count || ready_before(all, j) != i) return false;
  p->all[0] = all[i];
  p->all[1] = all[j];
  p->all[1].as.dot.route = p->all[1].as.dot.kept = p->all[1].own = 0;
  p->count = 2;
  *sources |= source_of(&all[i].as.ready);
  return true;
}

// Numbers of instructions are those of the part, and there is nothing to wait for but the instruction before.
static void number_part(part *p) {
  int route = 0;
  p->first = p->count;
  for (int k = 0; k < p->count; k++) {
    zmi_gpu_instruction *in = &p->all[k];
    in->barrier = k > 0;
    if (in->kind == ZMI_GPU_ROUTE) route = k + 1;
    if (in->kind == ZMI_GPU_DOT && in->as.dot.route) in->as.dot.route = route;
  }
  for (int k = p->count; k-- > 0;) {
    p->all[k].next = p->first;
    if (p->all[k].kind == ZMI_GPU_DOT && p->all[k].as.dot.stage) p->first = k;
  }
  zmi_gpu_count(p->all, (size_t)p->count);
}

#endif
