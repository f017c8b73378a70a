// Running sums of a row, ZMI_WIDE stretches side by side in a vector; included by vector.c.
#ifndef ZMI_SCAN_H
#define ZMI_SCAN_H

#include "backend/cpu/simd.h"

#include <string.h>

enum { SCAN_SUB = ZMI_RUNNING_SUB, SCAN_SIDE = ZMI_RUNNING_SIDE, SCAN_CHAINS = SCAN_SIDE / ZMI_WIDE, SCAN_PLACES = SCAN_SIDE * SCAN_SUB };

// Places i to i + 3 of each stretch by itself; a lane has a stretch, a vector a place of ZMI_WIDE of them. A stretch starts from its first
// element as it is. `first` is a constant: of a choice between a sum and its term a compiler may make a sum with -0, in which a denormal
// becomes 0.
ZMI_INLINE void scan_places(const float *x, float *y, int i, bool first, vf sum[SCAN_CHAINS]) {
  vf v[SCAN_CHAINS][4];
  for (int c = 0; c < SCAN_CHAINS; c++) {
    for (int j = 0; j < 4; j++) v[c][j] = vf_load_parts(x + (c * ZMI_WIDE + j) * SCAN_SUB + i, 4 * SCAN_SUB);
    vf_turn_parts(v[c]);
    if (!first) v[c][0] = sum[c] + v[c][0];
  }
  for (int j = 1; j < 4; j++) {
    for (int c = 0; c < SCAN_CHAINS; c++) v[c][j] = v[c][j - 1] + v[c][j];
  }
  for (int c = 0; c < SCAN_CHAINS; c++) {
    sum[c] = v[c][3];
    vf_turn_parts(v[c]);
    for (int j = 0; j < 4; j++) vf_store_parts(y + (c * ZMI_WIDE + j) * SCAN_SUB + i, 4 * SCAN_SUB, v[c][j]);
  }
}

// y[s][i] = x[s][0] + ... + x[s][i].
ZMI_INLINE void scan_stretches(const float *x, float *y) {
  vf sum[SCAN_CHAINS];
  scan_places(x, y, 0, true, sum);
  for (int i = 4; i < SCAN_SUB; i += 4) scan_places(x, y, i, false, sum);
}

// A stretch behind what came before it. terms: how many of first and then are there.
ZMI_INLINE void scan_give(const float *p, int terms, float first, float then, float *y, bool past) {
  for (int i = 0; i < SCAN_SUB; i += ZMI_WIDE) {
    vf v = vf_load(p + i);
    if (terms > 0) v = vf_set1(first) + v;
    if (terms > 1) v = vf_set1(then) + v;
    if (past)
      vf_stream(y + i, v);
    else
      vf_store(y + i, v);
  }
}

// Whole stretches; what is left is too little for vectors.
static void vector_running_sums(const float *x, int64_t n, zmi_running *r, float *y, bool past) {
  _Alignas(64) float own[SCAN_PLACES], p[SCAN_PLACES];
  const int64_t stretches = n / SCAN_SUB, rest = stretches * SCAN_SUB;
  past = past && (uintptr_t)y % 64 == 0;
  for (int64_t s = 0; s < stretches; s += SCAN_SIDE) {
    const int64_t count = ZMI_MIN(stretches - s, SCAN_SIDE), at = s * SCAN_SUB;
    if (count < SCAN_SIDE) {
      memset(own, 0, sizeof own);
      memcpy(own, x + at, (size_t)(count * SCAN_SUB) * sizeof *own);
    }
    scan_stretches(count < SCAN_SIDE ? own : x + at, p);
    for (int64_t j = 0; j < count; j++) {
      const float *stretch = p + j * SCAN_SUB, last = stretch[SCAN_SUB - 1];
      float *to = y + at + j * SCAN_SUB;
      if (r->begun && r->carried)
        scan_give(stretch, 2, r->chain, r->carry, to, past);
      else if (r->begun || r->carried)
        scan_give(stretch, 1, r->begun ? r->chain : r->carry, 0, to, past);
      else
        scan_give(stretch, 0, 0, 0, to, past);
      r->chain = r->begun ? r->chain + last : last;
      r->begun = true;
    }
  }
  zmi_kernels_scalar.running_sums(x + rest, n - rest, r, y + rest, false);
}

#endif
