// Second part of the prelude: float functions, own polynomials (scripts/make_polynomials.py), without branches so that compilers make
// vector code of loops over them. docs/numerics.md has the errors, measured by tests/test_math.c.
#ifndef ZK_FUNCTIONS
#define ZK_FUNCTIONS

// A number as an unevaluated sum.
typedef struct zkp_two {
  zk_float hi, lo;
} zkp_two;

ZK_FN zkp_two zkp_sum(zk_float a, zk_float b) { // exact where |a| >= |b| or a = 0
  zkp_two r;
  r.hi = a + b;
  r.lo = (a - r.hi) + b;
  return r;
}

// ---- exponentials ----

// 2^n y for n in -252..254.
ZK_FN zk_float zkp_scale(zk_float y, zk_int n) {
  zk_int first = n >> 1;
  return y * zk_of_bits((zk_uint)(first + 127) << 23) * zk_of_bits((zk_uint)(n - first + 127) << 23);
}

// e^r = 1 + r + r^2 q(r), |r| <= ln2 / 2
ZK_FN zk_float zkp_exp_tail(zk_float r) {
  zk_float q = zk_fma(0x1.6a2436p-10f, r, 0x1.1239e2p-7f);
  q = zk_fma(q, r, 0x1.5558f2p-5f);
  q = zk_fma(q, r, 0x1.555492p-3f);
  return zk_fma(q, r, 0x1.fffffcp-2f);
}

// Adding it leaves the integer nearest to a small number in the low bits.
#define ZKP_ROUND 0x1.8p23f

// y 2^n for y near 1 and the integer n that adding ZKP_ROUND left in t, where the product is a normal float: n goes to the exponent.
ZK_FN zk_float zkp_shift(zk_float y, zk_float t) {
  return zk_of_bits(zk_bits(y) + (zk_bits(t) << 23)); // the bits of ZKP_ROUND itself are shifted out
}

// x = n ln2 + r with |r| <= ln2 / 2. Zero where the result is below 2^-126, infinity above the largest float.
ZK_FN zk_float zk_exp(zk_float x) {
  zk_float t = zk_fma(x, 0x1.715476p+0f, ZKP_ROUND), n = t - ZKP_ROUND;
  zk_float r = zk_fma(n, -0x1.62e43p-1f, x);
  r = zk_fma(n, 0x1.05c61p-29f, r);
  zk_float y = zkp_shift(zk_fma(r * r, zkp_exp_tail(r), r) + 1.0f, t);
  y = x < -0x1.5d589ep+6f ? 0.0f : y;
  return x <= 0x1.62e42ep+6f ? y : x + zkp_infinity(); // the largest that stays finite; NaN stays NaN
}

// The bits of zk_exp where x <= 0 or NaN: below -126 ln2 the power of two is 0, or the product a denormal, which counts as zero.
ZK_FN zk_float zk_exp_below(zk_float x) {
  zk_float t = zk_fma(x, 0x1.715476p+0f, ZKP_ROUND + 127.0f), n = t - (ZKP_ROUND + 127.0f);
  zk_float r = zk_fma(n, -0x1.62e43p-1f, x);
  r = zk_fma(n, 0x1.05c61p-29f, r);
  zk_float power = zk_of_bits(zk_bits(t) << 23), y = zk_fma(zk_fma(r * r, zkp_exp_tail(r), r), power, power);
  return x < -88.0f ? 0.0f : y;
}

// The bits of p / s where 0 <= p <= 1 and 1 <= s < 2^32, or one is NaN, without a quotient for each p: 1 / s is the same for a whole row.
// A product with a reciprocal that is rounded once is 1.5 units of the last place from the quotient; the first correction leaves less than
// one, and from there a second gives the quotient rounded (Markstein). 2^64: remainders of small p must be no denormals.
ZK_FN zk_float zk_share(zk_float p, zk_float s) {
  zk_float y = 1.0f / s, a = p * 0x1p64f, q = a * y;
  q = zk_fma(zk_fma(-q, s, a), y, q);
  return zk_fma(zk_fma(-q, s, a), y, q) * 0x1p-64f;
}

ZK_FN zk_float zk_exp2(zk_float x) {
  zk_float t = x + ZKP_ROUND, r = x - (t - ZKP_ROUND);
  zk_float q = zk_fma(0x1.416d08p-13f, r, 0x1.5f09a6p-10f);
  q = zk_fma(q, r, 0x1.3b2de0p-7f);
  q = zk_fma(q, r, 0x1.c6af7ap-5f);
  q = zk_fma(q, r, 0x1.ebfbdcp-3f);
  q = zk_fma(q, r, 0x1.62e430p-1f);
  zk_float y = zkp_shift(zk_fma(q, r, 1.0f), t);
  y = x < -126.0f ? 0.0f : y;
  return x < 128.0f ? y : x + zkp_infinity();
}

// 2^n (e^r - 1) + (2^n - 1), computed as twice its half: 2^128 is no float.
ZK_FN zk_float zk_expm1(zk_float x) {
  zk_float z = x > 89.0f ? 89.0f : x;
  z = z < -26.0f ? -26.0f : z;
  zk_float t = zk_fma(z, 0x1.715476p+0f, ZKP_ROUND), n = t - ZKP_ROUND;
  zk_float r = zk_fma(n, -0x1.62e43p-1f, z);
  zkp_two s = zkp_sum(r, n * 0x1.05c61p-29f);
  r = s.hi;
  zk_float q = zk_fma(0x1.9e69f8p-13f, r, 0x1.6d3a36p-10f);
  q = zk_fma(q, r, 0x1.1112dcp-7f);
  q = zk_fma(q, r, 0x1.5554f8p-5f);
  q = zk_fma(q, r, 0x1.555554p-3f);
  q = zk_fma(q, r, 0x1.000000p-1f);
  zk_float low = zk_fma(r * r, q, s.lo);
  zk_float power = zk_of_bits((zk_bits(t) - zk_bits(ZKP_ROUND) + 126u) << 23); // 2^(n-1)
  zkp_two e = zkp_sum(power - 0.5f, power * r); // the larger first, but for n = 0 and -1, where both are near
  zk_float y = n == 0.0f ? r + low : 2.0f * (e.hi + zk_fma(power, low, e.lo));
  return zkp_signed(y, x);
}

// e^a / 2 for a >= 0: finite up to where sinh and cosh are.
ZK_FN zk_float zkp_half_exp(zk_float a) {
  zk_float z = a > 90.0f ? 90.0f : a;
  zk_float t = zk_fma(z, 0x1.715476p+0f, ZKP_ROUND), n = t - ZKP_ROUND;
  zk_float r = zk_fma(n, -0x1.62e43p-1f, z);
  zkp_two s = zkp_sum(r, n * 0x1.05c61p-29f);
  zk_float y = 1.0f + (s.hi + zk_fma(s.hi * s.hi, zkp_exp_tail(s.hi), s.lo));
  return zkp_scale(y, (zk_int)(zk_bits(t) - zk_bits(ZKP_ROUND)) - 1);
}

// 1 / (1 + e^-x): beyond 88 the sum is 1, below -88 so large that the quotient counts as zero.
ZK_FN zk_float zk_sigmoid(zk_float x) {
  zk_float a = 88.0f < x ? 88.0f : x;
  zk_float t = zk_fma(a, -0x1.715476p+0f, ZKP_ROUND + 127.0f), n = t - (ZKP_ROUND + 127.0f);
  zk_float r = zk_fma(n, -0x1.62e43p-1f, -a);
  r = zk_fma(n, 0x1.05c61p-29f, r);
  zk_float y = 1.0f / zk_fma(zk_fma(r * r, zkp_exp_tail(r), r) + 1.0f, zk_of_bits(zk_bits(t) << 23), 1.0f);
  return x < -88.0f ? 0.0f : y;
}

ZK_FN zk_float zk_silu(zk_float x) {
  return x * zk_sigmoid(x);
}

// e^x where that is a normal float. NaN gives anything.
ZK_FN zk_float zkp_exp_normal(zk_float x) {
  zk_float t = zk_fma(x, 0x1.715476p+0f, ZKP_ROUND), n = t - ZKP_ROUND;
  zk_float r = zk_fma(n, -0x1.62e43p-1f, x);
  r = zk_fma(n, 0x1.05c61p-29f, r);
  return zkp_shift(zk_fma(r * r, zkp_exp_tail(r), r) + 1.0f, t);
}

// |x| < 0.625: x + x^3 P(x^2); above: 1 - 2 / (e^2|x| + 1), which is 1 from 10 on; the sign of x. With |x| = n ln2 / 2 + r the exponential
// is 2^n e^2r; where n is large, the low part of ln2 and the roundings of e^2r are lost in the sum.
ZK_FN zk_float zk_tanh(zk_float x) {
  zk_float a = zk_abs_float(x), z = a * a;
  zk_float p = zk_fma(-0x1.75da26p-8f, z, 0x1.5224f6p-6f);
  p = zk_fma(p, z, -0x1.b83c1cp-5f);
  p = zk_fma(p, z, 0x1.110726p-3f);
  p = zk_fma(p, z, -0x1.555532p-2f);
  zk_float small = zk_fma(z * a, p, a), b = 10.0f < a ? 10.0f : a;
  zk_float t = zk_fma(b, 0x1.715476p+1f, ZKP_ROUND + 127.0f), r = zk_fma(t - (ZKP_ROUND + 127.0f), -0x1.62e43p-2f, b);
  zk_float q = zk_fma(0x1.6a2436p-4f, r, 0x1.1239e2p-2f); // zkp_exp_tail of 2r
  q = zk_fma(q, r, 0x1.5558f2p-1f);
  q = zk_fma(q, r, 0x1.555492p+0f);
  q = zk_fma(q, r, 0x1.fffffcp+0f);
  q = zk_fma(q, r, 2.0f);
  q = zk_fma(q, r, 1.0f);
  zk_float large = 1.0f - 2.0f / zk_fma(q, zk_of_bits(zk_bits(t) << 23), 1.0f);
  zk_float y = a >= 0.625f ? large : small; // NaN: small is NaN
  return zk_of_bits(zk_bits(y) | (zk_bits(x) & 0x80000000u));
}

ZK_FN zk_float zk_sinh(zk_float x) {
  zk_float a = zk_abs_float(x), z = a * a;
  zk_float p = zk_fma(0x1.756c1ep-19f, z, 0x1.a022bcp-13f);
  p = zk_fma(p, z, 0x1.1110e0p-7f);
  p = zk_fma(p, z, 0x1.555556p-3f);
  zk_float small = zk_fma(z * a, p, a), e = zkp_half_exp(a);
  return zkp_signed(a < 1.0f ? small : e - 0.25f / e, x);
}

ZK_FN zk_float zk_cosh(zk_float x) {
  zk_float e = zkp_half_exp(zk_abs_float(x));
  return e + 0.25f / e;
}

// ---- logarithms ----

// u = 2^k m with m in [sqrt(1/2), sqrt(2)), f = m - 1 and ln m = f - f^2 / 2 + cubic.
typedef struct zkp_parts {
  zk_float k, f, cubic;
} zkp_parts;

ZK_FN zkp_parts zkp_log_parts(zk_float x) {
  zkp_parts s;
  zk_uint u = zk_bits(x);
  zk_int k = (zk_int)(u - 0x3f3504f3u) >> 23;
  zk_float f = zk_of_bits(u - ((zk_uint)k << 23)) - 1.0f;
  zk_float p = zk_fma(-0x1.38b57cp-4f, f, 0x1.055b68p-3f);
  p = zk_fma(p, f, -0x1.0d8542p-3f);
  p = zk_fma(p, f, 0x1.22da1ep-3f);
  p = zk_fma(p, f, -0x1.547244p-3f);
  p = zk_fma(p, f, 0x1.99a008p-3f);
  p = zk_fma(p, f, -0x1.000226p-2f);
  p = zk_fma(p, f, 0x1.555554p-2f);
  s.k = (zk_float)k;
  s.f = f;
  s.cubic = f * f * f * p;
  return s;
}

// y, or what a logarithm is outside of the positive numbers: zero gives -infinity, negative numbers NaN.
ZK_FN zk_float zkp_log_special(zk_float x, zk_float y) {
  zk_uint u = zk_bits(x), a = u & 0x7fffffffu;
  y = u >> 31 != 0u ? zkp_nan() : y;
  y = a < 0x00800000u ? zk_of_bits(0xff800000u) : y;
  return a > 0x7f800000u || u == 0x7f800000u ? x : y;
}

ZK_FN zk_float zk_log(zk_float x) {
  zkp_parts s = zkp_log_parts(x);
  zk_float y = zk_fma(s.k, 0x1.7f7d1cp-20f, s.cubic);
  y = s.f + zk_fma(-0.5f * s.f, s.f, y);
  return zkp_log_special(x, zk_fma(s.k, 0x1.62e4p-1f, y));
}

// ln m as a sum of two.
ZK_FN zkp_two zkp_log_two(zkp_parts s) {
  zk_float square = 0.5f * s.f * s.f;
  zkp_two r = zkp_sum(s.f, -square);
  r.lo = r.lo + (s.cubic - zk_fma(0.5f * s.f, s.f, -square));
  return r;
}

ZK_FN zk_float zk_log2(zk_float x) {
  zkp_parts s = zkp_log_parts(x);
  zkp_two m = zkp_log_two(s);
  zk_float high = m.hi * 0x1.715476p+0f, low = zk_fma(m.hi, 0x1.715476p+0f, -high);
  low = low + zk_fma(m.hi, 0x1.4ae0cp-26f, m.lo * 0x1.715476p+0f);
  zkp_two r = zkp_sum(s.k, high);
  return zkp_log_special(x, r.hi + (r.lo + low));
}

ZK_FN zk_float zk_log10(zk_float x) {
  zkp_parts s = zkp_log_parts(x);
  zkp_two m = zkp_log_two(s);
  zk_float high = m.hi * 0x1.bcb7b2p-2f, low = zk_fma(m.hi, 0x1.bcb7b2p-2f, -high);
  low = low + zk_fma(m.hi, -0x1.5b235ep-27f, m.lo * 0x1.bcb7b2p-2f);
  low = zk_fma(s.k, 0x1.3509f8p-18f, low);
  zkp_two r = zkp_sum(s.k * 0x1.344p-2f, high);
  return zkp_log_special(x, r.hi + (r.lo + low));
}

// ln(u + d) for positive u and a d below half a last place of u.
ZK_FN zk_float zkp_log_sum(zk_float u, zk_float d, zk_float k) {
  zkp_parts s = zkp_log_parts(u);
  k = k + s.k;
  zkp_two r = zkp_sum(k * 0x1.62e4p-1f, s.f);
  zk_float y = zk_fma(k, 0x1.7f7d1cp-20f, s.cubic) + d / u;
  return r.hi + (zk_fma(-0.5f * s.f, s.f, y) + r.lo);
}

// ln(1 + z + zl), z > -1 finite.
ZK_FN zk_float zkp_log1p_sum(zk_float z, zk_float zl) {
  zk_float u = 1.0f + z;
  zk_float d = zk_abs_float(z) > 1.0f ? 1.0f - (u - z) : z - (u - 1.0f);
  zk_float y = zkp_log_sum(u, d + zl, 0.0f);
  return zk_abs_float(z) < 0x1p-14f ? z + zk_fma(-0.5f * z, z, zl) : y;
}

ZK_FN zk_float zk_log1p(zk_float x) {
  zk_float y = zkp_signed(zkp_log1p_sum(x, 0.0f), x);
  y = x == -1.0f ? zk_of_bits(0xff800000u) : y;
  y = x < -1.0f ? zkp_nan() : y;
  y = x == zkp_infinity() ? x : y;
  return x != x ? x : y; // one choice after another: joined conditions keep compilers from vectors
}

// max(x, 0) + ln(1 + z), z = e^-|x|: ln(1 + z) = z + z^2 P(z). At -88.02 its exponent is that of a
// denormal, which counts as zero.
ZK_FN zk_float zk_softplus(zk_float x) {
  zk_float a = zk_of_bits(zk_bits(x) | 0x80000000u), z = zkp_exp_normal(-88.02f > a ? -88.02f : a);
  zk_float p = zk_fma(-0x1.af5e20p-9f, z, 0x1.49211cp-6f);
  p = zk_fma(p, z, -0x1.d6b75ep-5f);
  p = zk_fma(p, z, 0x1.b4b094p-4f);
  p = zk_fma(p, z, -0x1.3a43e0p-3f);
  p = zk_fma(p, z, 0x1.934b6ep-3f);
  p = zk_fma(p, z, -0x1.ff23e8p-3f);
  p = zk_fma(p, z, 0x1.554dd0p-2f);
  p = zk_fma(p, z, -0x1.ffffd2p-2f);
  return (0.0f > x ? 0.0f : x) + zk_fma(z * z, p, z); // NaN: the left side is NaN
}

// ln(a + sqrt(a^2 + 1)), the argument as a sum of two; from 2^14 on ln(2a).
ZK_FN zk_float zk_asinh(zk_float x) {
  zk_float a = zk_abs_float(x), b = a > 0x1p14f ? 1.0f : a;
  zk_float z = b * b, zl = zk_fma(b, b, -z), w = z + 1.0f;
  zk_float wl = (z > 1.0f ? (z - w) + 1.0f : (1.0f - w) + z) + zl, s = zk_sqrt(w);
  zk_float sl = (zk_fma(-s, s, w) + wl) / (s + s);
  // b + s - 1 = b + (w - 1 + ...) / (s + 1): no digits are lost for small b.
  zk_float c = s + 1.0f, cl = (s > 1.0f ? (s - c) + 1.0f : (1.0f - c) + s) + sl;
  zk_float q = z / c, ql = (zk_fma(-q, c, z) + zk_fma(-q, cl, zl)) / c;
  zkp_two v = zkp_sum(b, q);
  zk_float near = zkp_log1p_sum(v.hi, v.lo + ql);
  zk_float far = zkp_log_sum(a, 0.0f, 1.0f);
  zk_float y = a > 0x1p14f ? far : near;
  return zkp_signed(a >= zkp_infinity() ? a : y, x);
}

// ln(1 + t + sqrt(t (t + 2))), t = x - 1
ZK_FN zk_float zk_acosh(zk_float x) {
  zk_float b = x > 0x1p14f ? 2.0f : x, t = b - 1.0f;
  zk_float p = zk_fma(t, t, 2.0f * t), square = t * t, e = zk_fma(t, t, -square);
  zk_float two = 2.0f * t, pl = (two > square ? (two - p) + square : (square - p) + two) + e, s = zk_sqrt(p);
  zk_float sl = (zk_fma(-s, s, p) + pl) / (s + s + 0x1p-100f);
  zkp_two v = zkp_sum(s, t); // s > t
  zk_float near = zkp_log1p_sum(v.hi, v.lo + sl);
  zk_float y = x > 0x1p14f ? zkp_log_sum(x, 0.0f, 1.0f) : near;
  y = x >= zkp_infinity() ? x : y;
  return x >= 1.0f ? y : zkp_nan();
}

// ln((1 + a) / (1 - a)) / 2
ZK_FN zk_float zk_atanh(zk_float x) {
  zk_float a = zk_abs_float(x), d = 1.0f - a, dl = (1.0f - d) - a;
  zk_float n = 2.0f * a, q = n / d, ql = zk_fma(-q, dl, zk_fma(-q, d, n)) / d;
  zk_float y = 0.5f * zkp_log1p_sum(q, ql);
  y = a == 1.0f ? zkp_infinity() : y;
  return zkp_signed(a <= 1.0f ? y : zkp_nan(), x);
}

// ---- circular functions ----

// An angle a >= 0 as quadrant pi/2 + hi + lo, |hi| <= pi/4 or hardly above.
typedef struct zkp_angle {
  zk_float hi, lo;
  zk_uint quadrant;
} zkp_angle;

// a < 2^16: pi/2 in three parts. The first step is exact.
ZK_FN zkp_angle zkp_reduce_near(zk_float a) {
  zkp_angle r;
  zk_float t = zk_fma(a, 0x1.45f306p-1f, ZKP_ROUND), n = t - ZKP_ROUND;
  zk_float first = zk_fma(n, -0x1.921fb6p+0f, a), part = n * 0x1.777a5cp-25f, second = first + part, d = second - first;
  zk_float low = zk_fma(n, 0x1.777a5cp-25f, -part) + ((first - (second - d)) + (part - d)); // what both roundings lost
  low = zk_fma(n, 0x1.ee59dap-50f, low);
  r.hi = second + low;
  r.lo = (second - r.hi) + low;
  r.quadrant = zk_bits(t) & 3u;
  return r;
}

ZK_FN zk_uint zkp_pick(zk_uint k, zk_uint w0, zk_uint w1, zk_uint w2, zk_uint w3, zk_uint w4) {
  zk_uint w = k == 1u ? w1 : w0;
  w = k == 2u ? w2 : w;
  w = k == 3u ? w3 : w;
  return k >= 4u ? w4 : w;
}

// a >= 2^16: the integer mantissa times the 96 bits of 2/pi that matter, modulo 2^96: two bits of quadrant and 94 of fraction.
ZK_FN zkp_angle zkp_reduce_far(zk_float a) {
  zkp_angle r;
  zk_uint u = zk_bits(a), m = (u & 0x7fffffu) | 0x800000u, at = (u >> 23) - 120u; // from the 31 zeros in front of 2/pi's bits on
  zk_uint k = at >> 5, shift = at & 31u, back = 31u - shift;
  zk_uint w0 = zkp_pick(k, 0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u);
  zk_uint w1 = zkp_pick(k, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u);
  zk_uint w2 = zkp_pick(k, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u);
  zk_uint w3 = zkp_pick(k, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u, 0xfe5163abu);
  w0 = w0 << shift | w1 >> 1 >> back;
  w1 = w1 << shift | w2 >> 1 >> back;
  w2 = w2 << shift | w3 >> 1 >> back;
  zk_ulong p0 = (zk_ulong)m * w2, p1 = (zk_ulong)m * w1 + (p0 >> 32);
  zk_uint top = m * w0 + (zk_uint)(p1 >> 32), middle = (zk_uint)p1, low = (zk_uint)p0;
  r.quadrant = (top + 0x20000000u) >> 30;
  top = top - (r.quadrant << 30); // the fraction, signed, in units of 2^-30
  zk_bool negative = top >> 31 != 0u;
  top = negative ? ~top : top; // the complement: less by one unit of 2^-94
  middle = negative ? ~middle : middle;
  low = negative ? ~low : low;
  // 24 bits at a time, each exact as a float.
  zk_float f0 = (zk_float)(zk_int)(top >> 6) * 0x1p-24f;
  zk_float f1 = (zk_float)(zk_int)((top & 63u) << 18 | middle >> 14) * 0x1p-48f;
  zk_float f2 = (zk_float)(zk_int)((middle & 0x3fffu) << 10 | low >> 22) * 0x1p-72f;
  zkp_two f = zkp_sum(f0, f1);
  f = zkp_sum(f.hi, f.lo + f2);
  zk_float hi = f.hi * 0x1.921fb6p+0f, lo = zk_fma(f.hi, 0x1.921fb6p+0f, -hi);
  lo = lo + zk_fma(f.hi, -0x1.777a5cp-25f, f.lo * 0x1.921fb6p+0f);
  r.hi = negative ? zk_neg_float(hi) : hi;
  r.lo = negative ? zk_neg_float(lo) : lo;
  r.quadrant = r.quadrant & 3u;
  return r;
}

ZK_FN zkp_angle zkp_reduce(zk_float a) {
  zkp_angle near = zkp_reduce_near(a), far = zkp_reduce_far(a), r;
  r.hi = a < 0x1p16f ? near.hi : far.hi;
  r.lo = a < 0x1p16f ? near.lo : far.lo;
  r.quadrant = a < 0x1p16f ? near.quadrant : far.quadrant;
  return r;
}

ZK_FN zk_float zkp_sin_of(zkp_angle r) {
  zk_float z = r.hi * r.hi;
  zk_float p = zk_fma(0x1.7c2842p-19f, z, -0x1.a0594cp-13f);
  p = zk_fma(p, z, 0x1.111174p-7f);
  p = zk_fma(p, z, -0x1.555556p-3f);
  return r.hi + zk_fma(r.hi * z, p, r.lo * zk_fma(-0.5f, z, 1.0f));
}

ZK_FN zk_float zkp_cos_of(zkp_angle r) {
  zk_float z = r.hi * r.hi, w = 0.5f * z, t = 1.0f - w;
  zk_float p = zk_fma(-0x1.35851ep-22f, z, 0x1.a06f9p-16f);
  p = zk_fma(p, z, -0x1.6c175cp-10f);
  p = zk_fma(p, z, 0x1.555556p-5f);
  return t + (((1.0f - t) - w) + zk_fma(z * z, p, -r.hi * r.lo));
}

// sin(angle + turn pi/2) with the sign of x for an odd function.
ZK_FN zk_float zkp_circular(zkp_angle r, zk_uint turn, zk_float x) {
  zk_uint q = r.quadrant + turn;
  zk_float y = (q & 1u) != 0u ? zkp_cos_of(r) : zkp_sin_of(r);
  y = (q & 2u) != 0u ? zk_neg_float(y) : y;
  return turn == 0u ? zkp_flip(y, x) : y;
}

ZK_FN zk_float zk_sin(zk_float x) {
  zk_float a = zk_abs_float(x), y = zkp_circular(zkp_reduce(a), 0u, x);
  return a < zkp_infinity() ? y : zkp_nan();
}

ZK_FN zk_float zk_cos(zk_float x) {
  zk_float a = zk_abs_float(x), y = zkp_circular(zkp_reduce(a), 1u, x);
  return a < zkp_infinity() ? y : zkp_nan();
}

ZK_FN zk_float zkp_tan_of(zkp_angle r, zk_float x) {
  zk_float z = r.hi * r.hi;
  zk_float p = zk_fma(0x1.1fd114p-8f, z, 0x1.061914p-14f);
  p = zk_fma(p, z, 0x1.63a16ep-7f);
  p = zk_fma(p, z, 0x1.5c9ce0p-6f);
  p = zk_fma(p, z, 0x1.badc8cp-5f);
  p = zk_fma(p, z, 0x1.110d94p-3f);
  p = zk_fma(p, z, 0x1.555560p-2f);
  zkp_two t = zkp_sum(r.hi, zk_fma(r.hi * z, p, zk_fma(r.lo, z, r.lo)));
  zk_float c = -1.0f / t.hi; // odd quadrants: -1 / (hi + lo)
  c = c + c * zk_fma(c, t.lo, zk_fma(c, t.hi, 1.0f));
  return zkp_flip((r.quadrant & 1u) != 0u ? c : t.hi, x);
}

ZK_FN zk_float zk_tan(zk_float x) {
  zk_float a = zk_abs_float(x), y = zkp_tan_of(zkp_reduce(a), x);
  return a < zkp_infinity() ? y : zkp_nan();
}

// The same for |x| < 2^16, where loops can tell.
ZK_FN zk_float zkp_near_sin(zk_float x) {
  return zkp_circular(zkp_reduce_near(zk_abs_float(x)), 0u, x);
}

ZK_FN zk_float zkp_near_cos(zk_float x) {
  return zkp_circular(zkp_reduce_near(zk_abs_float(x)), 1u, x);
}

ZK_FN zk_float zkp_near_tan(zk_float x) {
  return zkp_tan_of(zkp_reduce_near(zk_abs_float(x)), x);
}

// asin(s) = s + z s P(z) for s <= 1/2; above through s = sqrt((1 - a) / 2). lo: what is added to s.
ZK_FN zkp_two zkp_arc_parts(zk_float a) {
  zkp_two r;
  zk_bool large = a > 0.5f;
  zk_float z = large ? (1.0f - a) * 0.5f : a * a, root = zk_sqrt(z), s = large ? root : a;
  zk_float p = zk_fma(0x1.34cafap-5f, z, 0x1.d519e8p-7f);
  p = zk_fma(p, z, 0x1.04d32ap-5f);
  p = zk_fma(p, z, 0x1.6ca752p-5f);
  p = zk_fma(p, z, 0x1.3338acp-4f);
  p = zk_fma(p, z, 0x1.55554cp-3f);
  zk_float correction = zk_fma(-root, root, z) / (root + root + 0x1p-100f);
  r.hi = s;
  r.lo = zk_fma(s * z, p, large ? correction : 0.0f);
  return r;
}

ZK_FN zk_float zk_asin(zk_float x) {
  zk_float a = zk_abs_float(x);
  zkp_two s = zkp_arc_parts(a), t = zkp_sum(0x1.921fb6p+0f, -2.0f * s.hi);
  zk_float large = t.hi + (t.lo + zk_fma(-2.0f, s.lo, -0x1.777a5cp-25f));
  return zkp_signed(a > 0.5f ? large : s.hi + s.lo, x);
}

ZK_FN zk_float zk_acos(zk_float x) {
  zk_float a = zk_abs_float(x);
  zkp_two s = zkp_arc_parts(a), t = zkp_sum(0x1.921fb6p+1f, -2.0f * s.hi), m = zkp_sum(0x1.921fb6p+0f, zkp_flip(-s.hi, x));
  zk_float small = m.hi + (m.lo + (zkp_flip(-s.lo, x) - 0x1.777a5cp-25f));
  zk_float above = 2.0f * (s.hi + s.lo), below = t.hi + (t.lo + zk_fma(-2.0f, s.lo, -0x1.777a5cp-24f));
  zk_float y = x > 0.0f ? above : below;
  return a > 0.5f ? y : small;
}

// The angle of (x, y), both >= 0 here, from t = min / max or, above tan(pi/8), (min - max) / (min + max); then by symmetry. The base is a
// multiple of pi/4.
ZK_FN zk_float zkp_arc(zk_float y, zk_float x, zk_bool behind) {
  zk_bool steep = y > x;
  zk_float most = steep ? y : x, least = steep ? x : y;
  zk_bool endless = most >= zkp_infinity();
  least = endless ? (least >= zkp_infinity() ? 1.0f : 0.0f) : least;
  most = endless || most == 0.0f ? 1.0f : most;
  zk_float scale = most > 0x1p100f ? 0x1p-30f : most < 0x1p-60f ? 0x1p60f : 1.0f;
  least = least * scale;
  most = most * scale;
  zk_bool third = least > 0x1.a8279ap-2f * most;
  zk_float n = third ? least - most : least, d = third ? least + most : most;
  zk_float nl = third ? (-most - n) + least : 0.0f, dl = third ? (most - d) + least : 0.0f;
  zk_float t = n / d, tl = (zk_fma(-t, d, n) + zk_fma(-t, dl, nl)) / d, z = t * t;
  zk_float p = zk_fma(-0x1.f2c614p-5f, z, 0x1.b21f36p-4f);
  p = zk_fma(p, z, -0x1.23b960p-3f);
  p = zk_fma(p, z, 0x1.9991e0p-3f);
  p = zk_fma(p, z, -0x1.55554ap-2f);
  zk_float low = zk_fma(t * z, p, zk_fma(-tl, z, tl)), quarters = third ? 1.0f : 0.0f;
  zk_bool back = false;
  quarters = steep ? 2.0f - quarters : quarters;
  back = steep ? !back : back;
  quarters = behind ? 4.0f - quarters : quarters;
  back = behind ? !back : back;
  t = back ? zk_neg_float(t) : t;
  low = back ? zk_neg_float(low) : low;
  zk_float base = quarters * 0x1.921fb6p-1f, base_low = zk_fma(quarters, 0x1.921fb6p-1f, -base);
  base_low = zk_fma(quarters, -0x1.777a5cp-26f, base_low);
  zkp_two s = zkp_sum(base, t);
  return s.hi + (s.lo + (base_low + low));
}

ZK_FN zk_float zk_atan(zk_float x) {
  zk_float y = zkp_arc(zk_abs_float(x), 1.0f, false);
  return x != x ? x : zkp_signed(y, x);
}

ZK_FN zk_float zk_atan2(zk_float y, zk_float x) {
  zk_float angle = zkp_arc(zk_flush(zk_abs_float(y)), zk_flush(zk_abs_float(x)), zk_bits(x) >> 31 != 0u);
  return x != x || y != y ? zkp_nan() : zkp_signed(angle, y);
}

// ---- error function ----

ZK_FN zk_float zk_erf(zk_float x) {
  zk_float a = zk_abs_float(x), z = a * a;
  zk_float p = zk_fma(0x1.4f3ac8p-14f, z, -0x1.a601d0p-11f);
  p = zk_fma(p, z, 0x1.5449a0p-8f);
  p = zk_fma(p, z, -0x1.b80116p-6f);
  p = zk_fma(p, z, 0x1.ce2d64p-4f);
  p = zk_fma(p, z, -0x1.812740p-2f);
  p = zk_fma(p, z, 0x1.06eba8p-3f);
  zk_float small = zk_fma(p, a, a), b = a > 4.0f ? 4.0f : a;
  zk_float q = zk_fma(0x1.4b5c9cp-18f, b, -0x1.7e4f2ep-15f);
  q = zk_fma(q, b, -0x1.a037bep-15f);
  q = zk_fma(q, b, 0x1.80124ap-9f);
  q = zk_fma(q, b, -0x1.737eaap-6f);
  q = zk_fma(q, b, 0x1.af2806p-4f);
  q = zk_fma(q, b, 0x1.4570acp-1f);
  q = zk_fma(q, b, 0x1.074624p-3f);
  zk_float large = 1.0f - zk_exp(-zk_fma(q, b, b));
  return zkp_signed(a < 0.92f ? small : large, x);
}

// x P(t), t = -ln(1 - x^2)
ZK_FN zk_float zk_erfinv(zk_float x) {
  zk_float a = zk_abs_float(x), t = zk_neg_float(zk_log(zk_fma(-a, a, 1.0f))), u = t - 2.5f;
  zk_float p = zk_fma(-0x1.2e9638p-27f, u, 0x1.8eb564p-26f);
  p = zk_fma(p, u, 0x1.f4eca6p-22f);
  p = zk_fma(p, u, -0x1.d0b3d0p-19f);
  p = zk_fma(p, u, -0x1.4d4170p-18f);
  p = zk_fma(p, u, 0x1.c9e5bcp-13f);
  p = zk_fma(p, u, -0x1.48659cp-10f);
  p = zk_fma(p, u, -0x1.11c4e0p-8f);
  p = zk_fma(p, u, 0x1.f91e8ap-3f);
  p = zk_fma(p, u, -0x1.be0ebap-25f);
  zk_float v = zk_sqrt(t > 0.0f ? t : 0.0f) - 3.0f;
  zk_float q = zk_fma(0x1.11b45cp-13f, v, -0x1.4f6cacp-12f);
  q = zk_fma(q, v, -0x1.4b5054p-14f);
  q = zk_fma(q, v, 0x1.887672p-10f);
  q = zk_fma(q, v, -0x1.d5f542p-9f);
  q = zk_fma(q, v, 0x1.746c9ap-8f);
  q = zk_fma(q, v, -0x1.f4af3ep-8f);
  q = zk_fma(q, v, 0x1.358484p-7f);
  q = zk_fma(q, v, 0x1.006dc8p+0f);
  q = zk_fma(q, v, -0x1.8c1dbap-26f);
  zk_float y = t < 5.0f ? zk_fma(a, 0x1.805c5ep+0f, a * p) : zk_fma(a, 0x1.6a9efcp+1f, a * q);
  y = a < 0x1p-60f ? a * 0x1.c5bf8ap-1f : y; // near the smallest numbers the products above would be flushed
  y = a == 1.0f ? zkp_infinity() : y;
  return zkp_signed(a <= 1.0f ? y : zkp_nan(), x);
}

// ---- powers ----

// ln of a positive normal number as a sum of two, to about 2^-36: 2 atanh(f / (2 + f)), f = m - 1.
ZK_FN zkp_two zkp_log_exactly(zk_float x) {
  zk_uint u = zk_bits(x);
  zk_int n = (zk_int)(u - 0x3f3504f3u) >> 23;
  zk_float k = (zk_float)n, f = zk_of_bits(u - ((zk_uint)n << 23)) - 1.0f;
  zk_float d = 2.0f + f, dl = (2.0f - d) + f;
  zk_float s = f / d, sl = zk_fma(-s, dl, zk_fma(-s, d, f)) / d;
  zk_float z = s * s, zl = zk_fma(s, s, -z) + 2.0f * s * sl;
  zk_float w = s * z, wl = zk_fma(s, z, -w) + zk_fma(s, zl, sl * z);
  zk_float h = w * 0x1.555556p-2f, hl = zk_fma(w, 0x1.555556p-2f, -h) + zk_fma(w, -0x1.555556p-27f, wl * 0x1.555556p-2f);
  zk_float q = zk_fma(0x1.f13964p-4f, z, 0x1.23d3e8p-3f);
  q = zk_fma(q, z, 0x1.999c26p-3f);
  zkp_two m = zkp_sum(s, h);
  m.lo = m.lo + (zk_fma(w * z, q, hl) + sl);
  zkp_two r = zkp_sum(k * 0x1.62e4p-1f, 2.0f * m.hi);
  r.lo = r.lo + zk_fma(k, 0x1.7f7d1cp-20f, 2.0f * m.lo);
  return zkp_sum(r.hi, r.lo);
}

// With the special cases of C.
ZK_FN zk_float zk_pow(zk_float x, zk_float y) {
  zk_float a = zk_flush(zk_abs_float(x)), b = zk_abs_float(y);
  zkp_two l = zkp_log_exactly(a);
  zk_float p = y * l.hi, pl = zk_fma(y, l.hi, -p) + y * l.lo;
  zk_bool outside = zk_abs_float(p) > 110.0f;
  p = outside ? zkp_signed(110.0f, p) : p;
  pl = outside ? 0.0f : pl;
  // e^(p + pl)
  zk_float t = zk_fma(p, 0x1.715476p+0f, ZKP_ROUND), n = t - ZKP_ROUND;
  zkp_two s = zkp_sum(zk_fma(n, -0x1.62e43p-1f, p), zk_fma(n, 0x1.05c61p-29f, pl));
  zk_float e = 1.0f + (s.hi + zk_fma(s.hi * s.hi, zkp_exp_tail(s.hi), s.lo));
  e = zkp_scale(e, (zk_int)(zk_bits(t) - zk_bits(ZKP_ROUND)));
  // The rest are special cases, one choice after another: conditions that are joined keep compilers from vectors.
  zk_bool falls = y < 0.0f;
  zk_float rises = falls ? 0.0f : zkp_infinity(), sinks = falls ? zkp_infinity() : 0.0f, whole = zk_trunc(y);
  e = a == 0.0f ? sinks : e;
  e = a >= zkp_infinity() ? rises : e;
  rises = a > 1.0f ? rises : sinks;
  e = b >= zkp_infinity() ? rises : e;
  zk_uint sign = zk_trunc(0.5f * y) != 0.5f * y ? zk_bits(x) & 0x80000000u : 0u;
  sign = b < 0x1p24f ? sign : 0u;
  sign = whole == y ? sign : 0u;
  e = zk_of_bits(zk_bits(e) ^ sign);
  zk_float below = whole == y ? e : zkp_nan();
  below = a == 0.0f ? e : below;
  below = a >= zkp_infinity() ? e : below;
  e = zk_bits(x) >> 31 != 0u ? below : e;
  zk_float one = b >= zkp_infinity() ? 1.0f : e;
  e = a == 1.0f ? one : e;
  e = x != x ? zkp_nan() : e;
  e = y != y ? zkp_nan() : e;
  e = x == 1.0f ? 1.0f : e;
  return y == 0.0f ? 1.0f : e;
}

ZK_FN zk_float zk_rsqrt(zk_float x) {
  return 1.0f / zk_sqrt(x);
}

#endif
