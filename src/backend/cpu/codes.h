// Dot products of codes and digits for the vector tiers: affine weights, and numbers of 4 bits (mxfp4, nvfp4). Included once by vector.c.
//
// A strip is `side` vectors of weight rows that share each digit: the vectors of a block, with 512 bits those of two. Loads of digits are
// what limits these kernels otherwise.
#ifndef ZMI_CODES_H
#define ZMI_CODES_H

enum { SIDE = ZMI_HALVES == 1 ? 2 : ZMI_HALVES };

// What the codes are: bits of a code, or 4-bit numbers.
enum { FP4 = 0 };

// Digits of an activation: all three, or the one of one-byte activations.
enum { DIGITS = 3 };

// What a call works on: rows of x, and strides in bytes.
typedef struct code_call {
  const int8_t *d[ZMI_ROWS];
  const float *scale[ZMI_ROWS], *sum[ZMI_ROWS];
  const int32_t *part[ZMI_ROWS];
  int64_t group, groups;
  int64_t unit_step, scale_step, block_step; // from group to group of codes and of scales; from block to block
  int64_t scales_at;                         // of a block: its first scales
  int64_t code_side, scale_side;             // from vector to vector of a strip
  // What is asked for at group g: what lies so far behind its codes and its scales; [1] where group g + lead is one of the next strip.
  int64_t lead, code_ahead[2], scale_ahead[2];
  bool wide; // affine: float32 scales and biases
} code_call;

// A strip reads its blocks side by side, so what it reads some groups later in one of them lies behind all of them when that block ends.
// code_bytes: of a block.
ZMI_INLINE void look_ahead(code_call *c, int64_t code_bytes) {
  const int64_t together = SIDE / ZMI_HALVES, strip = together * c->block_step;
  c->lead = (AHEAD / together + c->unit_step - 1) / c->unit_step;
  c->code_ahead[0] = c->lead * c->unit_step;
  c->code_ahead[1] = c->code_ahead[0] + strip - code_bytes;
  c->scale_ahead[0] = c->lead * c->scale_step;
  c->scale_ahead[1] = c->scale_ahead[0] + strip - c->groups * c->scale_step;
}

// ---- codes ----

// Codes of quad t (k = 4 t .. 4 t + 3 of a unit of 32): `unit` is the address of these lanes in the unit's first word.
ZMI_SHAPED vu quad(int bits, const char *unit, int t) {
  const int planes[9][3] = {[2] = {2}, [3] = {2, 1}, [4] = {4}, [5] = {4, 1}, [6] = {4, 2}, [8] = {8}};
  vu codes = {0};
  int done = 0;
  for (int i = 0; i < 2 && planes[bits][i]; i++) {
    int p = planes[bits][i], fields = 8 / p, shift = t % fields * p - done;
    vu w = vu_load(unit + t / fields * 64);
    if (p == 8) return w;
    w = shift >= 0 ? w >> (shift >= 0 ? shift : 0) : w << (shift < 0 ? -shift : 0);
    w &= (((1u << p) - 1) << done) * 0x01010101u;
    codes = i == 0 ? w : codes | w;
    done += p;
    unit += 64 * p;
  }
  return codes;
}

#if defined(ZMI_THIRDS)
ZMI_SHAPED vu quad_of_three(const char *unit, int t) {
  const vu thirds = vu_load(unit + 128), third = (t < 4 ? thirds : thirds >> 4) & 0x0f0f0f0fu;
  const vu both = with_thirds(vu_load(unit + t / 4 * 64), third, t % 2);
  return (t % 4 < 2 ? both : both >> 4) & 0x0f0f0f0fu;
}
#endif

// 4-bit numbers are twice their value plus 16: unsigned bytes, as the dot instructions take them. What is too much, 16 times the sums of
// the digits, is taken off the integer sums.
ZMI_SHAPED vu codes_of(int bits, const char *unit, int t) {
#if defined(ZMI_THIRDS)
  if (bits == 3) return quad_of_three(unit, t);
#endif
  return bits == FP4 ? fp4_codes(quad(4, unit, t)) : quad(bits, unit, t);
}

// ---- exact integer sums of one unit: 32 k, or 16 ----

#if !defined(ZMI_DOT)
// Products of unsigned and signed bytes are summed in 16 bits over a run of quads, which cannot overflow, and then in 32 bits. Codes of 8
// bits are two halves of 4 bits.
ZMI_INLINE int run_of(int bits, int quads) {
  const int run = ZMI_SUM_RUNS * (bits == 6 ? 2 : bits == 5 || bits == FP4 ? 4 : 8);
  return ZMI_MIN(run, quads);
}

ZMI_INLINE void add_product(vw codes, vw digits, bool first, vsum *sum) {
  *sum = first ? vsum_of(codes, digits) : vsum_add(*sum, codes, digits);
}

// Several rows: codes wait in the first-level cache, and one digit of all rows is summed at a time.
ZMI_SHAPED void some_rows(int bits, int rows, int side, int digits, int quads, const char *unit, int64_t stride, const int8_t *const *d,
                          int64_t group, vi D[ZMI_ROWS][DIGITS][SIDE]) {
  const int run = run_of(bits, quads), halves = bits == 8 ? 2 : 1;
  vw codes[2][8][SIDE];
  ZMI_UNROLL_FULL
  for (int t = 0; t < quads; t++) {
    ZMI_UNROLL
    for (int v = 0; v < side; v++) {
      const vu whole = codes_of(bits, unit + v * stride, t);
      codes[0][t][v] = (vw)(halves == 1 ? whole : whole & 0x0f0f0f0fu);
      if (halves == 2) codes[1][t][v] = (vw)(whole >> 4 & 0x0f0f0f0fu);
    }
  }
  for (int p = 0; p < digits; p++) {
    for (int half = 0; half < halves; half++) {
      ZMI_UNROLL_FULL
      for (int t0 = 0; t0 < quads; t0 += run) {
        vsum S[ZMI_ROWS][SIDE];
        ZMI_UNROLL_FULL
        for (int t = t0; t < t0 + run; t++) {
          ZMI_UNROLL_FULL
          for (int m = 0; m < rows; m++) {
            const vw digit = (vw)vi_broadcast4(d[m] + p * group + 4 * t);
            ZMI_UNROLL
            for (int v = 0; v < side; v++) add_product(codes[half][t][v], digit, t == t0, &S[m][v]);
          }
        }
        ZMI_UNROLL_FULL
        for (int m = 0; m < rows; m++) {
          ZMI_UNROLL
          for (int v = 0; v < side; v++) D[m][p][v] += vsum_wide(S[m][v], half ? 16 : 1);
        }
      }
    }
  }
}
#else
// Codes as vi_dot takes them. Signed ones of 8 bits are 128 too small; first_sum puts that right.
ZMI_SHAPED vw dot_codes(int bits, const char *unit, int t) {
  const vu codes = codes_of(bits, unit, t);
#if defined(ZMI_DOT_SIGNED)
  if (bits == 8) return (vw)(codes ^ 0x80808080u);
#endif
  return (vw)codes;
}

// All sums in registers: each code is there once.
ZMI_SHAPED void dot_at_once(int bits, int rows, int side, int digits, int quads, const char *unit, int64_t stride, const int8_t *const *d,
                            int64_t group, vi D[ZMI_ROWS][DIGITS][SIDE]) {
  ZMI_UNROLL_FULL
  for (int t = 0; t < quads; t++) {
    vw codes[SIDE];
    ZMI_UNROLL
    for (int v = 0; v < side; v++) codes[v] = dot_codes(bits, unit + v * stride, t);
    ZMI_UNROLL_FULL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int p = 0; p < digits; p++) {
        const vw digit = (vw)vi_broadcast4(d[m] + p * group + 4 * t);
        ZMI_UNROLL
        for (int v = 0; v < side; v++) D[m][p][v] = vi_dot(D[m][p][v], codes[v], digit);
      }
    }
  }
}

// The sums of one digit at a time; codes wait in the first-level cache.
ZMI_SHAPED void dot_by_digit(int bits, int rows, int side, int digits, int quads, const char *unit, int64_t stride, const int8_t *const *d,
                             int64_t group, vi D[ZMI_ROWS][DIGITS][SIDE]) {
  vw codes[8][SIDE];
  ZMI_UNROLL_FULL
  for (int t = 0; t < quads; t++) {
    ZMI_UNROLL
    for (int v = 0; v < side; v++) codes[t][v] = dot_codes(bits, unit + v * stride, t);
  }
  for (int p = 0; p < digits; p++) {
    vi S[ZMI_ROWS][SIDE];
    ZMI_UNROLL_FULL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int v = 0; v < side; v++) S[m][v] = D[m][p][v];
    }
    ZMI_UNROLL_FULL
    for (int t = 0; t < quads; t++) {
      ZMI_UNROLL_FULL
      for (int m = 0; m < rows; m++) {
        const vw digit = (vw)vi_broadcast4(d[m] + p * group + 4 * t);
        ZMI_UNROLL
        for (int v = 0; v < side; v++) S[m][v] = vi_dot(S[m][v], codes[t][v], digit);
      }
    }
    ZMI_UNROLL_FULL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int v = 0; v < side; v++) D[m][p][v] = S[m][v];
    }
  }
}
#endif

// d[m]: row m's d0 of this unit; d1 and d2 stand one and two groups further. All sizes are constants at every call.
ZMI_SHAPED void unit_sums(int bits, int rows, int side, int digits, int quads, const char *unit, int64_t stride, const int8_t *const *d,
                          int64_t group, vi D[ZMI_ROWS][DIGITS][SIDE]) {
#if defined(ZMI_DOT)
  if (rows * digits * side <= ZMI_REGISTERS * 3 / 4)
    dot_at_once(bits, rows, side, digits, quads, unit, stride, d, group, D);
  else
    dot_by_digit(bits, rows, side, digits, quads, unit, stride, d, group, D);
#else
  some_rows(bits, rows, side, digits, quads, unit, stride, d, group, D);
#endif
}

// ---- one group ----

// Sums of one strip over one range; of one digit all is in hi.
typedef struct strip_sums {
  vf hi[ZMI_ROWS][SIDE], lo[ZMI_ROWS][SIDE];
} strip_sums;

// The float operations of a group of affine codes, and of 4-bit numbers, for row m and vector v.
ZMI_SHAPED void affine_floats(const code_call *c, int digits, const char *scales, int64_t g, int rows, int v, vi D[ZMI_ROWS][DIGITS][SIDE],
                              strip_sums *acc) {
  const vf s = c->wide ? vf_load(scales) : vf_load_bf16(scales), b = c->wide ? vf_load(scales + 64) : vf_load_bf16(scales + 32);
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    if (digits == 1) {
      acc->hi[m][v] = vf_fma(s * vf_set1(c->scale[m][g]), vf_from_int(D[m][0][v]), acc->hi[m][v]);
    } else {
      const vf f = vf_fma(vf_from_int(D[m][0][v]), vf_set1(256.0f), vf_from_int(D[m][1][v]));
      acc->hi[m][v] = vf_fma(s * vf_set1(c->scale[m][g] * 256.0f), f, acc->hi[m][v]);
      acc->lo[m][v] = vf_fma(s * vf_set1(c->scale[m][g]), vf_from_int(D[m][2][v]), acc->lo[m][v]);
    }
    acc->hi[m][v] = vf_fma(b, vf_set1(c->sum[m][g]), acc->hi[m][v]);
  }
}

ZMI_SHAPED void fp4_floats(const code_call *c, int digits, int quads, const char *scales, int64_t g, int rows, int v,
                           vi D[ZMI_ROWS][DIGITS][SIDE], strip_sums *acc) {
  const bool nv = quads == 4;
  const vf s = nv ? vf_load_e4m3(scales) : vf_load_e8m0(scales, 0);
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    if (digits == 1) {
      acc->hi[m][v] = vf_fma(s * vf_set1(c->scale[m][g] * (nv ? 128.0f : 0.5f)), vf_from_int(D[m][0][v]), acc->hi[m][v]);
      continue;
    }
    const vf f = vf_fma(vf_from_int(D[m][0][v]), vf_set1(256.0f), vf_from_int(D[m][1][v]));
    acc->hi[m][v] = vf_fma(s * vf_set1(c->scale[m][g] * (nv ? 32768.0f : 128.0f)), f, acc->hi[m][v]);
    acc->lo[m][v] = vf_fma(s * vf_set1(c->scale[m][g] * (nv ? 128.0f : 0.5f)), vf_from_int(D[m][2][v]), acc->lo[m][v]);
  }
}

// Where the sum of codes and digits starts that add up to `part`.
ZMI_INLINE vi first_sum(int bits, const int32_t *part) {
  if (bits == FP4) return -(vi_broadcast4(part) << 4);
#if defined(ZMI_DOT_SIGNED)
  if (bits == 8) return vi_broadcast4(part) << 7;
#endif
  return (vi){0};
}

// Group g of a strip. quads: of a unit; 4 only for nvfp4.
ZMI_SHAPED void strip_group(int bits, int rows, int side, int digits, int quads, const code_call *c, const char *codes, const char *scales,
                            int64_t g, strip_sums *acc) {
  vi D[ZMI_ROWS][DIGITS][SIDE];
  const int8_t *d[ZMI_ROWS];
  const int lines = bits == FP4 ? quads / 2 : bits, next = g + c->lead >= c->groups;
  const int64_t code_ahead = c->code_ahead[next], scale_ahead = c->scale_ahead[next];
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    ZMI_UNROLL
    for (int p = 0; p < digits; p++) {
      const vi first = first_sum(bits, c->part[m] + digits * g + p);
      ZMI_UNROLL
      for (int v = 0; v < side; v++) D[m][p][v] = first;
    }
    d[m] = c->d[m] + digits * g * c->group;
  }
  for (int64_t u = 0; u < c->group; u += 4 * quads) {
    const char *unit = codes + u / 32 * (bits == FP4 ? 4 : bits) * 64;
    ZMI_UNROLL
    for (int v = 0; v < side / ZMI_HALVES; v++) prefetch(unit + v * c->code_side + code_ahead, lines);
    unit_sums(bits, rows, side, digits, quads, unit, c->code_side, d, c->group, D);
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) d[m] += 4 * quads;
  }
  ZMI_UNROLL
  for (int v = 0; v < side; v++) {
    const char *at = scales + v * c->scale_side;
    if (v % ZMI_HALVES == 0 && (bits != FP4 || g % 4 == 0)) prefetch(at + scale_ahead, c->wide ? 2 : 1);
    if (bits == FP4)
      fp4_floats(c, digits, quads, at, g, rows, v, D, acc);
    else
      affine_floats(c, digits, at, g, rows, v, D, acc);
  }
}

// ---- strips ----

ZMI_SHAPED void strip(int bits, int rows, int side, int digits, int quads, const code_call *c, const char *block, float *y, int64_t ldy) {
  const int64_t per_range = ZMI_RANGE / c->group;
  vf total[ZMI_ROWS][SIDE];
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    ZMI_UNROLL
    for (int v = 0; v < side; v++) total[m][v] = vf_zero();
  }
  for (int64_t begin = 0; begin < c->groups; begin += per_range) {
    const int64_t end = ZMI_MIN(begin + per_range, c->groups);
    strip_sums acc;
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int v = 0; v < side; v++) acc.hi[m][v] = acc.lo[m][v] = vf_zero();
    }
    for (int64_t g = begin; g < end; g++) {
      const char *codes = block + g * c->unit_step, *scales = block + c->scales_at + g * c->scale_step;
      strip_group(bits, rows, side, digits, quads, c, codes, scales, g, &acc);
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int v = 0; v < side; v++) total[m][v] += acc.hi[m][v] + acc.lo[m][v];
    }
  }
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    ZMI_UNROLL
    for (int v = 0; v < side; v++) vf_store(y + m * ldy + v * ZMI_WIDE, total[m][v]);
  }
}

ZMI_SHAPED void all_strips(int bits, int rows, int digits, int quads, const code_call *c, const char *block, int64_t blocks, float *y,
                           int64_t ldy) {
  const int64_t together = SIDE / ZMI_HALVES; // blocks of a strip
  int64_t b = 0;
  for (; b + together <= blocks; b += together)
    strip(bits, rows, SIDE, digits, quads, c, block + b * c->block_step, y + b * ZMI_LANES, ldy);
  for (; b < blocks; b++) strip(bits, rows, ZMI_HALVES, digits, quads, c, block + b * c->block_step, y + b * ZMI_LANES, ldy);
}

#if !defined(ZMI_DOT)
// ---- one row or two ----
// What limits a row alone is the number of instructions, so all that does not depend on the weights is made once a call, in portions of
// groups, and codes go through registers once, for all digits. The sums of d0 and d1 are one integer, 256 D0 + D1: it fits 32 bits, and
// becomes the float that fma(D0, 256, D1) is, as both are rounded once.

enum {
  ALONE_GROUPS = 1024, // of a portion; whole ranges
  ALONE_ROWS = 2,      // at a time
};

typedef struct alone {
  int32_t high, low;     // 4-bit numbers: what is too much in the integer sums
  float by_high, by_low; // what scales are multiplied by
} alone;

ZMI_INLINE void alone_ready(int bits, int digits, int quads, const code_call *c, int m, int64_t first, int64_t n, alone *out) {
  const float high = bits == FP4 ? (quads == 4 ? 32768.0f : 128.0f) : 256.0f, low = bits == FP4 ? (quads == 4 ? 128.0f : 0.5f) : 1.0f;
  for (int64_t i = 0; i < n; i++) {
    const int64_t g = first + i;
    const int32_t *part = c->part[m] + digits * g;
    if (digits == 1)
      out[i] = (alone){.high = part[0] * 16, .by_high = c->scale[m][g] * low};
    else
      out[i] = (alone){(part[0] * 256 + part[1]) * 16, part[2] * 16, c->scale[m][g] * high, c->scale[m][g] * low};
  }
}

// Adds the sums of a unit to each row's high and low: 256 D0 + D1 and D2, or of one digit D0. d: of each row. Codes go through registers
// once for all rows; more than two rows' sums would not fit them.
ZMI_SHAPED void alone_unit(int bits, int rows, int side, int digits, int quads, const char *unit, int64_t stride, const int8_t *const *d,
                           int64_t group, vi high[][SIDE], vi low[][SIDE]) {
  const int run = run_of(bits, quads), halves = bits == 8 ? 2 : 1;
  ZMI_UNROLL_FULL
  for (int t0 = 0; t0 < quads; t0 += run) {
    vsum S[ALONE_ROWS][DIGITS][SIDE][2];
    ZMI_UNROLL_FULL
    for (int t = t0; t < t0 + run; t++) {
      ZMI_UNROLL
      for (int half = 0; half < halves; half++) {
        vw codes[SIDE];
        ZMI_UNROLL
        for (int v = 0; v < side; v++) {
          const vu whole = codes_of(bits, unit + v * stride, t);
          codes[v] = (vw)(halves == 1 ? whole : (half ? whole >> 4 : whole) & 0x0f0f0f0fu);
        }
        ZMI_UNROLL
        for (int m = 0; m < rows; m++) {
          ZMI_UNROLL
          for (int p = 0; p < digits; p++) {
            const vw digit = (vw)vi_broadcast4(d[m] + p * group + 4 * t);
            ZMI_UNROLL
            for (int v = 0; v < side; v++) add_product(codes[v], digit, t == t0, &S[m][p][v][half]);
          }
        }
      }
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int v = 0; v < side; v++) {
        ZMI_UNROLL
        for (int half = 0; half < halves; half++) {
          const short times = half ? 16 : 1;
          if (digits == 3) {
            high[m][v] += vsum_wide(S[m][0][v][half], 256 * times) + vsum_wide(S[m][1][v][half], times);
            low[m][v] += vsum_wide(S[m][2][v][half], times);
          } else {
            high[m][v] += vsum_wide(S[m][0][v][half], times);
          }
        }
      }
    }
  }
}

// A group of a strip, the g-th. ready: of the first row, `apart` further for the next one.
ZMI_SHAPED void alone_group(int bits, int rows, int side, int digits, int quads, const code_call *c, const alone *ready, int64_t apart,
                            int m0, const char *codes, const char *scales, int64_t g, bool line, vf hi[][SIDE], vf lo[][SIDE]) {
  const int64_t group = bits == FP4 ? 4 * quads : c->group;
  const int64_t code_side = ZMI_HALVES == 1 ? c->block_step : 4 * ZMI_WIDE;
  const int64_t scale_side = ZMI_HALVES == 1 ? c->block_step : bits == FP4 ? ZMI_WIDE : (c->wide ? 4 : 2) * ZMI_WIDE;
  const int next = g + c->lead >= c->groups;
  vi high[ALONE_ROWS][SIDE], low[ALONE_ROWS][SIDE];
  vf s[SIDE];
  const int8_t *d[ALONE_ROWS];
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    d[m] = c->d[m0 + m] + digits * g * group;
    ZMI_UNROLL
    for (int v = 0; v < side; v++) high[m][v] = low[m][v] = (vi){0};
  }
  for (int64_t u = 0; u < group; u += 4 * quads) {
    ZMI_UNROLL
    for (int v = 0; v < side / ZMI_HALVES; v++) prefetch(codes + v * c->block_step + c->code_ahead[next], bits == FP4 ? quads / 2 : bits);
    alone_unit(bits, rows, side, digits, quads, codes, code_side, d, group, high, low);
    codes += bits * 64;
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) d[m] += 4 * quads;
  }
  ZMI_UNROLL
  for (int v = 0; v < side / ZMI_HALVES; v++) {
    if (line) prefetch(scales + v * c->block_step + c->scale_ahead[next], c->wide ? 2 : 1);
  }
  ZMI_UNROLL
  for (int v = 0; v < side; v++) {
    if (bits != FP4) continue;
    if (quads == 8) s[v] = vf_load_e8m0(scales + v * scale_side, 0);
    if (quads == 4 && v % ZMI_HALVES == 0) vf_load_e4m3_block(scales + v * scale_side, &s[v]);
  }
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    const alone *r = ready + m * apart;
    ZMI_UNROLL
    for (int v = 0; v < side; v++) {
      const char *at = scales + v * scale_side;
      if (bits == FP4) high[m][v] -= vi_broadcast4(&r->high);
      if (bits == FP4 && digits == 3) low[m][v] -= vi_broadcast4(&r->low);
      if (bits != FP4) s[v] = c->wide ? vf_load(at) : vf_load_bf16(at);
      hi[m][v] = vf_fma(s[v] * vf_set1(r->by_high), vf_from_int(high[m][v]), hi[m][v]);
      if (digits == 3) lo[m][v] = vf_fma(s[v] * vf_set1(r->by_low), vf_from_int(low[m][v]), lo[m][v]);
      if (bits != FP4) hi[m][v] = vf_fma(c->wide ? vf_load(at + 64) : vf_load_bf16(at + 32), vf_set1(c->sum[m0 + m][g]), hi[m][v]);
    }
  }
}

// Groups first to first + n - 1 of a strip for rows m0 on; what came before is in y.
ZMI_SHAPED void alone_strip(int bits, int rows, int side, int digits, int quads, const code_call *c, int m0, const alone *ready,
                            int64_t apart, const char *block, int64_t first, int64_t n, float *y, int64_t ldy) {
  const int64_t group = bits == FP4 ? 4 * quads : c->group, per_range = ZMI_RANGE / group;
  const int64_t unit_step = bits == FP4 ? group * 8 : c->unit_step, scale_step = bits == FP4 ? ZMI_LANES : c->scale_step;
  const char *codes = block + first * unit_step, *scales = block + c->scales_at + first * scale_step;
  vf total[ALONE_ROWS][SIDE];
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    ZMI_UNROLL
    for (int v = 0; v < side; v++) total[m][v] = first == 0 ? vf_zero() : vf_load(y + m * ldy + v * ZMI_WIDE);
  }
  for (int64_t begin = 0; begin < n; begin += per_range) {
    const int64_t end = ZMI_MIN(begin + per_range, n);
    vf hi[ALONE_ROWS][SIDE], lo[ALONE_ROWS][SIDE];
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int v = 0; v < side; v++) hi[m][v] = lo[m][v] = vf_zero();
    }
    for (int64_t g = begin; g < end; g++) {
      alone_group(bits, rows, side, digits, quads, c, ready + g, apart, m0, codes, scales, first + g, bits != FP4 || g % 4 == 0, hi, lo);
      codes += unit_step;
      scales += scale_step;
    }
    ZMI_UNROLL
    for (int m = 0; m < rows; m++) {
      ZMI_UNROLL
      for (int v = 0; v < side; v++) total[m][v] += hi[m][v] + lo[m][v];
    }
  }
  ZMI_UNROLL
  for (int m = 0; m < rows; m++) {
    ZMI_UNROLL
    for (int v = 0; v < side; v++) vf_store(y + m * ldy + v * ZMI_WIDE, total[m][v]);
  }
}

// One row, or several that take turns at a strip, which is in the first- or second-level cache then: two at a time, but one where its
// sums alone fill the registers.
ZMI_SHAPED void alone_strips(int bits, int rows, int digits, int quads, const code_call *c, const char *block, int64_t blocks, float *y,
                             int64_t ldy) {
  const int64_t together = SIDE / ZMI_HALVES, most = ALONE_GROUPS / rows;
  const int two = rows == 1 || bits == 8 ? 1 : ALONE_ROWS;
  alone ready[ALONE_GROUPS];
  for (int64_t first = 0; first == 0 || first < c->groups; first += most) { // without groups: zeros
    const int64_t n = ZMI_MIN(c->groups - first, most);
    for (int m = 0; m < rows; m++) alone_ready(bits, digits, quads, c, m, first, n, ready + m * most);
    int64_t b = 0;
    for (; b + together <= blocks; b += together) {
      for (int m = 0; m < rows; m += two) {
        float *to = y + m * ldy + b * ZMI_LANES;
        alone_strip(bits, two, SIDE, digits, quads, c, m, ready + m * most, most, block + b * c->block_step, first, n, to, ldy);
      }
    }
    for (; b < blocks; b++) {
      for (int m = 0; m < rows; m += two) {
        float *to = y + m * ldy + b * ZMI_LANES;
        alone_strip(bits, two, ZMI_HALVES, digits, quads, c, m, ready + m * most, most, block + b * c->block_step, first, n, to, ldy);
      }
    }
  }
}
#endif

typedef void (*strips_fn)(const code_call *c, const char *block, int64_t blocks, float *y, int64_t ldy);

#if defined(ZMI_DOT)
#define ALL_STRIPS(bits, rows, digits, quads) all_strips(bits, rows, digits, quads, c, block, blocks, y, ldy)
#else
#define ALL_STRIPS(bits, rows, digits, quads)                                                                                              \
  if (rows == 1 || (digits == DIGITS && (bits == FP4 || bits == 4 || bits == 8)))                                                          \
    alone_strips(bits, rows, digits, quads, c, block, blocks, y, ldy);                                                                     \
  else                                                                                                                                     \
    all_strips(bits, rows == 1 ? 2 : rows, digits, quads, c, block, blocks, y, ldy)
#endif
#define STRIPS(name, bits, quads, digits, rows)                                                                                            \
  static void strips_##name##_##digits##_##rows(const code_call *c, const char *block, int64_t blocks, float *y, int64_t ldy) {            \
    ALL_STRIPS(bits, rows, digits, quads);                                                                                                 \
  }
#define ALL_ROWS(name, bits, quads, digits)                                                                                                \
  STRIPS(name, bits, quads, digits, 1) STRIPS(name, bits, quads, digits, 2) STRIPS(name, bits, quads, digits, 4)
#define ALL(name, bits, quads) ALL_ROWS(name, bits, quads, 3) ALL_ROWS(name, bits, quads, 1)
ALL(2, 2, 8)
ALL(3, 3, 8)
ALL(4, 4, 8)
ALL(5, 5, 8)
ALL(6, 6, 8)
ALL(8, 8, 8)
ALL(mx, FP4, 8)
ALL(nv, FP4, 4)
#undef ALL
#undef ALL_ROWS
#undef STRIPS
#undef ALL_STRIPS

// By the number of rows, of three digits and of one.
typedef struct strips {
  strips_fn exact[ZMI_ROWS + 1], shorter[ZMI_ROWS + 1];
} strips;

#define ALL(name)                                                                                                                          \
  {                                                                                                                                        \
    {[1] = strips_##name##_3_1, [2] = strips_##name##_3_2, [4] = strips_##name##_3_4},                                                     \
        {[1] = strips_##name##_1_1, [2] = strips_##name##_1_2, [4] = strips_##name##_1_4},                                                 \
  }
static const strips affine_table[9] = {[2] = ALL(2), [3] = ALL(3), [4] = ALL(4), [5] = ALL(5), [6] = ALL(6), [8] = ALL(8)};
static const strips fp4_table[2] = {ALL(mx), ALL(nv)};
#undef ALL

static void run_strips(const zmi_format *f, const strips *table, code_call *c, const void *block, int64_t blocks, int64_t k, int rows,
                       const void *const *x, float *y, int64_t ldy) {
  const int digits = zmi_format_digits(f);
  const strips_fn *run = digits == 1 ? table->shorter : table->exact;
  for (int m = 0; m < rows;) { // three rows are two and one: the blocks are still near
    const int n = rows - m >= 4 ? 4 : rows - m >= 2 ? 2 : 1;
    for (int i = 0; i < n; i++) {
      c->d[i] = x[m + i];
      c->scale[i] = zmi_digits_scale(x[m + i], k, digits);
      c->sum[i] = zmi_digits_sum(x[m + i], k, c->group, digits);
      c->part[i] = zmi_digits_parts(x[m + i], k, c->group, digits);
    }
    run[n](c, block, blocks, y + m * ldy, ldy);
    m += n;
  }
}

static void vector_dot_affine(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *digits,
                              zm_dtype x_dtype, float *y, int64_t ldy) {
  code_call c = {.group = f->group, .groups = k / f->group, .wide = f->dtype == ZM_F32};
  (void)x_dtype;
  c.scales_at = f->group / 32 * f->bits * 64;
  c.unit_step = c.scale_step = c.scales_at + (c.wide ? 128 : 64);
  c.block_step = c.groups * c.unit_step;
  c.code_side = ZMI_HALVES == 1 ? c.block_step : 4 * ZMI_WIDE;
  c.scale_side = ZMI_HALVES == 1 ? c.block_step : (c.wide ? 4 : 2) * ZMI_WIDE;
  look_ahead(&c, c.block_step);
  run_strips(f, &affine_table[f->bits], &c, block, blocks, k, rows, digits, y, ldy);
}

static void vector_dot_fp4(const zmi_format *f, const void *block, int64_t blocks, int64_t k, int rows, const void *const *digits,
                           zm_dtype x_dtype, float *y, int64_t ldy) {
  code_call c = {.group = f->group, .groups = k / f->group, .unit_step = f->group * 8, .scale_step = ZMI_LANES, .scales_at = k * 8};
  (void)x_dtype;
  c.block_step = c.scales_at + (c.groups * ZMI_LANES + 63) / 64 * 64;
  c.code_side = ZMI_HALVES == 1 ? c.block_step : 4 * ZMI_WIDE;
  c.scale_side = ZMI_HALVES == 1 ? c.block_step : ZMI_WIDE;
  look_ahead(&c, c.scales_at);
  run_strips(f, &fp4_table[f->mode == ZMI_QUANT_NVFP4], &c, block, blocks, k, rows, digits, y, ldy);
}

#endif
